// Cursors of lists: what they say is signed, and bound to the list and to whoever reads it.
import type { Context } from 'koa'
import { hmac } from '../crypto/keys.ts'
import { equalInConstantTime } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import type { Pages } from './route.ts'

const MOST_CURSOR_CHARACTERS = 500

/** @param scope the list and its reader: a cursor of another one is refused */
export function createPages(key: Buffer, ctx: Context, scope: string): Pages {
  const write = (position: string) =>
    `${Buffer.from(position).toString('base64url')}.${hmac(key, 'cursor', scope, position)}`
  return {
    after(cursor) {
      if (cursor === undefined) return undefined
      const [encoded = ''] = cursor.length > MOST_CURSOR_CHARACTERS ? [] : cursor.split('.')
      const position = Buffer.from(encoded, 'base64url').toString('utf8')
      // Compared as a whole: what decodes to the same text is not the cursor that was given out.
      if (position !== '' && equalInConstantTime(write(position), cursor)) return position
      throw new AppError('invalid_request', {
        detail: 'This cursor is not one that this list gave out: follow the Link header, or begin without a cursor.',
      })
    },
    cut(items, limit, positionOf) {
      if (limit === undefined || items.length <= limit) return [...items]
      const page = items.slice(0, limit)
      const last = page.at(-1)
      if (last === undefined) return page
      const position = positionOf(last)
      const next = new URL(ctx.URL)
      next.searchParams.set('cursor', write(position))
      ctx.set('Link', `<${next.pathname}${next.search}>; rel="next"`)
      return page
    },
  }
}

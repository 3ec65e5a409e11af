// Request bodies, read with a limit.
import type { Context } from 'koa'
import { AppError } from '../errors.ts'

/** Room for long bodies, which are kept for as long as their calls take. */
export interface BodyRoom {
  /** @throws {AppError} `too_many_requests` where the caller has as much as one may, `unavailable` where all do */
  take(caller: string, bytes: number): void
  give(caller: string, bytes: number): void
}

const MOST_OF_ALL_BYTES = 256 * 1024 * 1024
const MOST_OF_ONE_BYTES = 64 * 1024 * 1024

export function createBodyRoom(): BodyRoom {
  const taken = new Map<string, number>()
  let all = 0
  return {
    take(caller, bytes) {
      const own = (taken.get(caller) ?? 0) + bytes
      if (own > MOST_OF_ONE_BYTES) throw new AppError('too_many_requests', { detail: TOO_LONG, retryAfterSeconds: 1 })
      if (all + bytes > MOST_OF_ALL_BYTES) throw new AppError('unavailable')
      taken.set(caller, own)
      all += bytes
    },
    give(caller, bytes) {
      const left = (taken.get(caller) ?? 0) - bytes
      if (left > 0) taken.set(caller, left)
      else taken.delete(caller)
      all -= bytes
    },
  }
}

const TOO_LONG =
  'The bodies of your calls that are under way are too long together. Try again when one of them has ended.'

/**
 * The whole body. The connection stays usable when it is too long.
 *
 * @param take hears of each part before it is kept, and may refuse it
 * @throws {AppError} `payload_too_large`
 */
export async function readBody(ctx: Context, mostBytes: number, take?: (bytes: number) => void): Promise<Buffer> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  for await (const chunk of ctx.req.iterator({ destroyOnReturn: false })) {
    sizeBytes += chunk.length
    if (sizeBytes > mostBytes) throw new AppError('payload_too_large')
    take?.(chunk.length)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** The files pages link to: read once, named after their content, so that a browser may keep them for good. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { extname, join } from 'node:path'

export interface Asset {
  body: Buffer
  type: string
}

export interface Assets {
  /** The address to link to, as `/assets/latchkey.0123456789.css`. Throws for a file that is not there: a typing error. */
  href(name: string): string
  /** The file behind an address made by `href`; undefined for any other path, also for one of another version. */
  find(path: string): Asset | undefined
}

const TYPES = new Map([
  ['.css', 'text/css; charset=utf-8'],
  ['.js', 'text/javascript; charset=utf-8'],
  ['.svg', 'image/svg+xml'],
])

/** Reads every file of `dir`, which is flat. Nothing is read again: a request can only reach what was there at the start. */
export function createAssets(dir: string): Assets {
  const hrefs = new Map<string, string>()
  const files = new Map<string, Asset>()
  for (const name of readdirSync(dir)) {
    const extension = extname(name)
    const type = TYPES.get(extension)
    if (type === undefined) throw new Error(`No content type is known for the asset ${name}`)
    const body = readFileSync(join(dir, name))
    const version = createHash('sha256').update(body).digest('hex').slice(0, 10)
    const href = `/assets/${name.slice(0, -extension.length)}.${version}${extension}`
    hrefs.set(name, href)
    files.set(href, { body, type })
  }
  return {
    href(name) {
      const href = hrefs.get(name)
      if (href === undefined) throw new Error(`There is no asset ${name}`)
      return href
    },
    find: (path) => files.get(path),
  }
}

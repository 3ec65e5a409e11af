// A pg client that prepares what it runs: PostgreSQL plans a statement once a connection instead of at every call, and its
// text crosses the wire once.
import { createHash } from 'node:crypto'
import pg from 'pg'

const MOST_NAMES = 500
const names = new Map<string, string>()

/**
 * A statement's name, from its text. None for statements that name no columns: when a migration adds a column while
 * the server runs, PostgreSQL refuses to run their old plan. None either once there are too many: texts are few unless
 * something builds them from data.
 */
function nameOf(text: string): string | undefined {
  const known = names.get(text)
  if (known !== undefined) return known
  if (!/^\s*(with|select|insert|update|delete)\b/i.test(text) || text.includes('*') || names.size >= MOST_NAMES)
    return undefined
  const name = createHash('sha256').update(text).digest('base64url').slice(0, 32)
  names.set(text, name)
  return name
}

export class PreparedClient extends pg.Client {
  // Kysely calls it with text and values alone; every other form goes through as it is. The base class declares
  // overloads that no single signature can repeat.
  override query = ((...call: unknown[]) => {
    const [text, values] = call
    const name = call.length === 2 && typeof text === 'string' && Array.isArray(values) ? nameOf(text) : undefined
    const forwarded = name === undefined ? call : [{ name, text, values }]
    return Reflect.apply(pg.Client.prototype.query, this, forwarded)
  }) as pg.Client['query']
}

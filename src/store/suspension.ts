// SQL of what an admin suspends and restores: connections and token lines, which keep everything they have meanwhile.
import { sql } from 'kysely'
import type { ConnectionId, KeyId } from '../ids.ts'
import type { Trx } from './database.ts'

interface Suspended {
  connections: ConnectionId
  token_lines: KeyId
}

/** Suspends a row, or lifts it. False when it was so before. Primary key. */
export async function setSuspended<T extends keyof Suspended>(
  trx: Trx,
  table: T,
  id: Suspended[T],
  suspension: { reason: string } | null,
): Promise<boolean> {
  const [at, was] = suspension === null ? [sql`null`, sql`is not null`] : [sql`clock_timestamp()`, sql`is null`]
  const { rows } =
    await sql`update ${sql.table(table)} set suspended_at = ${at}, suspend_reason = ${suspension?.reason ?? null}
    where id = ${id} and suspended_at ${was} returning id`.execute(trx)
  return rows.length === 1
}

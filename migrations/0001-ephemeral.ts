// Sessions, interactions, payloads of codes and pushed requests, and rate counters, where there is no Redis to hold them.
import { type Kysely, sql } from 'kysely'

// Unlogged: PostgreSQL empties these tables after a crash, on a standby that is promoted and in a restored base backup,
// as a Redis without persistence would; it means that people sign in again. An entry goes together with the mark that it
// was used, so nothing becomes usable twice. In return a write costs no write-ahead log, sessions are in no archive, and
// no such restore brings an ended session back. A clean restart keeps them.
const STATEMENTS = [
  `create unlogged table ephemeral_entries (
    kind text not null,
    id text not null,
    value text not null,
    consumed_at timestamptz,
    expires_at timestamptz not null,
    primary key (kind, id)
  )`,
  'create index ephemeral_entries_by_expiry on ephemeral_entries (expires_at)', // the sweep
  `create unlogged table ephemeral_counters (
    kind text not null,
    id text not null,
    window_ends_at timestamptz not null,
    count integer not null,
    primary key (kind, id)
  )`,
  'create index ephemeral_counters_by_end on ephemeral_counters (window_ends_at)', // the sweep
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

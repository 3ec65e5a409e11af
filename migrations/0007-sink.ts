// The list's entries go to a sink outside of the database, so that one restored from a backup is noticed: which of them
// have gone, how far the list has come in the transaction that wrote it, and which list this is through all restores.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `alter table revocation_entries
    add column sent_seq bigint, -- the seq that the sink has; below seq, or null: to be sent
    add column sending_until timestamptz, -- a process is about to send it
    add column role text -- of a membership: what is left of it`,
  `create index revocation_entries_unsent on revocation_entries (seq) where sent_seq is null or sent_seq < seq`,
  // A sequence runs ahead of what was committed, and comes back from a backup further than it was: this does not.
  `alter table revocation_list
    add column head bigint not null default 0,
    add column lineage text, -- which list this is, through all restores
    add column sent_head bigint, -- the highest seq that the sink has; null: it has not been begun
    add column left_out text[] not null default '{}' -- other lists in the sink that an operator has looked at`,
  // From what a backup of an earlier version has as well: it is known again after its own migration.
  'update revocation_list set lineage = epoch, head = coalesce((select max(seq) from revocation_entries), 0)',
  'alter table revocation_list alter column lineage set not null, alter column lineage set default gen_random_uuid()::text',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

// A floor that rises at a time belongs on the list when it is set, and an invitation remembers which version sent it.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  'alter table revocation_entries add column next_floor int, add column next_floor_at timestamptz',
  'alter table invitations add column created_version int',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

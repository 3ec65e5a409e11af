// A place in a chain is a number that JSON holds exactly: a row that says another one is refused, and stops no sealing.
// Rows that are there are left to verification, which names them.
import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`alter table audit_chain add constraint audit_chain_seq_exact check (seq < 9007199254740991) not valid`.execute(
    db,
  )
}

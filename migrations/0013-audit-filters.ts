// The audit log by client and by version: what was done through one client, and with which versions.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `create index audit_events_by_client on audit_events (organization_id, client_id, recorded_at desc, id desc)
    where client_id is not null`,
  `create index audit_events_by_version on audit_events (organization_id, token_version, recorded_at desc, id desc)
    where token_version is not null`,
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

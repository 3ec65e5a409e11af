// What people look for first in the audit log, and which parts of it were archived into files.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  'drop index audit_events_by_trace',
  'create index audit_events_by_trace on audit_events (trace_id, recorded_at desc, id desc)',
  // What waits in a chain, in its order: also where a sealer was away and much has come together.
  `create index audit_pending_by_chain on audit_pending ((coalesce(organization_id, 'system')), recorded_at, event_id)`,
  `create index audit_events_by_failure on audit_events (organization_id, recorded_at desc, id desc) where status = 'fail'`,
  `create index audit_events_by_stale on audit_events (organization_id, recorded_at desc, id desc) where status = 'fail' and
    (event = 'token.reuse_detected' or detail ->> 'reason' in ('stale_version', 'retired', 'revoked', 'ended'))`,
  `create table audit_archives (
    chain text not null,
    from_seq bigint not null check (from_seq > 0),
    to_seq bigint not null check (to_seq >= from_seq),
    file_name text not null,
    jws text not null, -- says the same, and the last hash: whoever owns the database cannot make one
    made_at timestamptz not null default clock_timestamp(),
    primary key (chain, from_seq)
  )`,
  `create trigger audit_archives_no_change before update or delete on audit_archives
    for each row execute function audit_chain_refuse()`,
  `create trigger audit_archives_no_truncate before truncate on audit_archives
    for each statement execute function audit_chain_refuse()`,
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

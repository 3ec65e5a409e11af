// The chain that seals the audit log: one gapless sequence an organization, each entry over the one before. Beside it the
// checkpoints that were signed, which are in the sink as well.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `create table audit_chain (
    chain text not null, -- the organization, or 'system'
    seq bigint not null check (seq > 0),
    event_id text not null unique,
    recorded_at timestamptz not null, -- where the event's partition is
    previous text not null,
    hash text not null,
    primary key (chain, seq)
  )`,
  `create table audit_checkpoints (
    chain text not null,
    seq bigint not null,
    jws text not null,
    made_at timestamptz not null default clock_timestamp(),
    primary key (chain, seq)
  )`,
  `create function audit_chain_refuse() returns trigger language plpgsql as $$
    begin
      raise exception '% is append-only', tg_table_name using errcode = 'insufficient_privilege';
    end $$`,
  ...['audit_chain', 'audit_checkpoints'].flatMap((table) => [
    `create trigger ${table}_no_change before update or delete on ${table} for each row execute function audit_chain_refuse()`,
    `create trigger ${table}_no_truncate before truncate on ${table} for each statement execute function audit_chain_refuse()`,
  ]),
  'create index audit_pending_by_time on audit_pending (recorded_at)',
  // What people filter by, within their organization and newest first.
  'create index audit_events_by_workspace on audit_events (workspace_id, recorded_at desc, id desc)',
  'create index audit_events_by_user on audit_events (user_id, recorded_at desc, id desc)',
  'create index audit_events_by_credential on audit_events (credential_id, recorded_at desc, id desc)',
  'create index audit_events_by_event on audit_events (organization_id, event, recorded_at desc, id desc)',
  'create index audit_events_by_profile on audit_events (profile_id, recorded_at desc, id desc) where profile_id is not null',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

// Workspace tokens and organization keys, who used them, their policy; the revocation list's leases; idempotency keys.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  // --- Tokens: a line keeps its id through rotations, each version has a secret of its own ------------------------
  `create table token_lines (
    id text primary key,
    organization_id text not null references organizations (id),
    workspace_id text references workspaces (id), -- null: an organization key
    label text not null,
    environment text not null check (environment in ('production', 'staging', 'development')),
    permissions text[] not null,
    resources text[], -- null: every API that knows the permissions
    ip_allow_list text[], -- null: any address
    granted_role text not null check (granted_role in ('owner', 'admin')), -- permissions are cut to it where they are used
    version int not null default 1,
    floor int not null default 1,
    cutover text not null default 'manual' check (cutover in ('manual', 'on_first_use', 'at')),
    cutover_after_seconds int,
    cutover_at timestamptz,
    created_by text not null,
    user_id text, -- the person behind it; no foreign key: the id outlives the person's row
    created_at timestamptz not null default now(),
    closed_at timestamptz,
    close_reason text,
    check (floor between 1 and version)
  )`,
  `create unique index token_lines_one_label_a_workspace on token_lines (workspace_id, environment, label)
    where closed_at is null and workspace_id is not null`,
  `create unique index token_lines_one_label_an_organization on token_lines (organization_id, label)
    where closed_at is null and workspace_id is null`,
  'create index token_lines_by_workspace on token_lines (workspace_id, id)',
  'create index token_lines_by_organization on token_lines (organization_id, id) where workspace_id is null',
  'create index token_lines_by_cutover on token_lines (cutover_at) where cutover_at is not null',
  `create table token_versions (
    token_id text not null references token_lines (id),
    version int not null,
    digest text not null unique,
    key_prefix text not null,
    created_by text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    retired_at timestamptz, -- by a cutover to a later version
    dead_at timestamptz, -- revoked by itself
    first_used_at timestamptz,
    last_used_at timestamptz,
    last_used_address text,
    last_used_agent text,
    refused_at timestamptz,
    refused_address text,
    refused_agent text,
    refused_count int not null default 0,
    primary key (token_id, version)
  )`,
  // One row an hour, version and caller: what a person decides on.
  `create table token_uses (
    token_id text not null,
    version int not null,
    hour timestamptz not null,
    refused boolean not null,
    address text not null,
    agent text not null,
    uses int not null,
    last_at timestamptz not null,
    primary key (token_id, hour, version, refused, address, agent)
  )`,
  'create index token_uses_by_hour on token_uses (hour)',
  `create table token_policies (
    workspace_id text primary key references workspaces (id),
    tokens_forbidden boolean not null default false,
    expiry_required boolean not null default false,
    max_age_days int,
    environments text[], -- null: all
    changed_at timestamptz not null default now()
  )`,

  // --- The revocation list: more to say about a subject, and who has heard of it ----------------------------------
  `alter table revocation_entries
    add column dead int[] not null default '{}',
    add column suspended boolean not null default false,
    add column not_before timestamptz`,
  `create table revocation_list (
    only_row boolean primary key default true check (only_row),
    epoch text not null default gen_random_uuid()::text
  )`,
  'insert into revocation_list default values',
  `create table leases (
    process_id text primary key,
    seq bigint not null, -- what the process has applied
    renewals bigint not null default 0,
    started_at timestamptz not null default now(),
    renewed_at timestamptz not null default now()
  )`,

  // --- Creating calls that are sent twice --------------------------------------------------------------------------
  `create table idempotency_keys (
    scope text not null, -- whose key it is
    key_digest text not null,
    fingerprint text not null, -- of what was asked
    response jsonb, -- what was answered, without the secret
    created_at timestamptz not null default now(),
    primary key (scope, key_digest)
  )`,
  'create index idempotency_keys_by_time on idempotency_keys (created_at)',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

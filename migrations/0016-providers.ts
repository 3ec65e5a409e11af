// Connections to providers, and the keys that their credentials are encrypted with.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `create table data_keys (
    id text primary key,
    organization_id text not null references organizations (id),
    sealed_key text not null, -- under the master key
    created_at timestamptz not null default clock_timestamp(),
    retired_at timestamptz -- opens what it sealed, and seals nothing more
  )`,
  'create unique index data_keys_one_active on data_keys (organization_id) where retired_at is null',
  'create index data_keys_by_organization on data_keys (organization_id)',
  `create table provider_connections (
    id text primary key,
    organization_id text not null references organizations (id),
    workspace_id text not null references workspaces (id),
    provider_type text not null,
    credentials_type text not null,
    sealed_credentials text not null,
    data_key_id text not null references data_keys (id),
    base_url text, -- null: the provider's own
    status text not null default 'pending_verification' check (status in ('pending_verification', 'verified', 'failed')),
    status_reason text,
    checked_at timestamptz,
    version int not null default 1, -- of the credentials: what was learned of older ones says nothing of these
    created_by text not null,
    created_at timestamptz not null default clock_timestamp(),
    changed_at timestamptz not null default clock_timestamp(),
    unique (workspace_id, provider_type)
  )`,
  'create index provider_connections_by_data_key on provider_connections (data_key_id)',
  'create index provider_connections_unchecked on provider_connections (changed_at) where checked_at is null',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

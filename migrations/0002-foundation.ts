// People, workspaces, clients, connections and their tokens, keys, the revocation list and the audit log.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  // --- People and where they work -------------------------------------------------------------------------------
  `create table users (
    id text primary key,
    email text not null,
    email_key text not null unique, -- what an address is compared by
    name text not null,
    password_digest text, -- argon2id, PHC string
    sessions_not_before timestamptz,
    suspended_at timestamptz,
    created_at timestamptz not null default now()
  )`,
  `create table organizations (
    id text primary key,
    name text not null,
    created_at timestamptz not null default now()
  )`,
  `create table organization_members (
    organization_id text not null references organizations (id),
    user_id text not null references users (id) on delete cascade,
    role text not null check (role in ('owner', 'admin', 'member')),
    created_at timestamptz not null default now(),
    primary key (organization_id, user_id)
  )`,
  'create index organization_members_by_user on organization_members (user_id)',
  `create table workspaces (
    id text primary key,
    organization_id text not null references organizations (id),
    name text not null,
    owner_id text not null, -- no foreign key: the id outlives the person's row
    billing_email text,
    cost_centre text,
    archived_at timestamptz,
    created_at timestamptz not null default now()
  )`,
  'create index workspaces_by_organization on workspaces (organization_id)',
  `create table workspace_members (
    workspace_id text not null references workspaces (id),
    user_id text not null references users (id) on delete cascade,
    role text not null check (role in ('owner', 'admin', 'member', 'viewer')),
    created_at timestamptz not null default now(),
    primary key (workspace_id, user_id)
  )`,
  'create index workspace_members_by_user on workspace_members (user_id)',

  // --- Clients and the APIs they call ---------------------------------------------------------------------------
  `create table clients (
    id text primary key,
    kind text not null check (kind in ('registered', 'resource_server')),
    name text not null,
    environment text not null check (environment in ('production', 'staging', 'development')),
    secret_digest text,
    metadata jsonb not null, -- RFC 7591 names
    pkce_required boolean not null default true,
    default_resource text,
    created_at timestamptz not null default now(),
    deleted_at timestamptz
  )`,
  `create table resource_servers (
    identifier text primary key,
    client_id text not null references clients (id),
    environments text[] not null,
    created_at timestamptz not null default now()
  )`,
  `create unique index resource_servers_by_client on resource_servers (client_id)`,
  `create table resource_scopes (
    identifier text not null references resource_servers (identifier) on delete cascade,
    name text not null,
    sentence text not null,
    least_role text not null check (least_role in ('owner', 'admin', 'member')),
    place int not null,
    primary key (identifier, name)
  )`,

  // --- Connections, families, refresh tokens --------------------------------------------------------------------
  `create table connections (
    id text primary key,
    user_id text, -- null: a client granted to the workspace, for client credentials
    client_id text not null references clients (id),
    workspace_id text not null references workspaces (id),
    organization_id text not null references organizations (id),
    environment text not null,
    version int not null default 1,
    floor int not null default 1,
    approved jsonb not null, -- what oidc-provider calls a Grant: {openid: {scope, claims}, resources: {…}}
    created_by text not null,
    created_at timestamptz not null default now(),
    closed_at timestamptz,
    close_reason text,
    check (floor between 1 and version)
  )`,
  `create unique index connections_one_open_a_person on connections (user_id, client_id, workspace_id)
    where closed_at is null and user_id is not null`,
  `create unique index connections_one_open_a_client on connections (client_id, workspace_id)
    where closed_at is null and user_id is null`,
  'create index connections_by_workspace on connections (workspace_id)',
  `create table families (
    id text primary key,
    connection_id text not null references connections (id),
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    end_reason text
  )`,
  'create index families_by_connection on families (connection_id)',
  `create table refresh_tokens (
    digest text primary key,
    family_id text not null references families (id),
    key_id text not null, -- the server key that derives the successor's value
    payload jsonb not null,
    successor_digest text,
    consumed_at timestamptz,
    expires_at timestamptz not null,
    created_at timestamptz not null default now()
  )`,
  'create index refresh_tokens_by_family on refresh_tokens (family_id)',
  'create index refresh_tokens_by_expiry on refresh_tokens (expires_at)',
  `create table consumed_codes (
    digest text primary key,
    client_id text not null,
    connection_id text not null,
    family_id text not null,
    consumed_at timestamptz not null default now()
  )`,
  'create index consumed_codes_by_time on consumed_codes (consumed_at)',
  `create table replay_ids (
    id text primary key,
    expires_at timestamptz not null
  )`,
  'create index replay_ids_by_expiry on replay_ids (expires_at)',

  // --- Keys ----------------------------------------------------------------------------------------------------
  `create table signing_keys (
    kid text primary key,
    alg text not null check (alg in ('ES256', 'RS256')),
    state text not null check (state in ('published', 'active', 'retired')),
    sealed_jwk text not null,
    created_at timestamptz not null default now()
  )`,
  `create unique index signing_keys_one_active on signing_keys (alg) where state = 'active'`,
  `create table server_keys (
    id text primary key,
    purpose text not null,
    sealed_key text not null,
    created_at timestamptz not null default now()
  )`,

  // --- The revocation list: one row a subject, its seq renewed with each change -----------------------------------
  'create sequence revocation_seq',
  `create table revocation_entries (
    subject text primary key,
    seq bigint not null,
    floor int,
    closed boolean not null default false,
    denied boolean not null default false,
    changed_at timestamptz not null default now(),
    expires_at timestamptz not null
  )`,
  'create unique index revocation_entries_by_seq on revocation_entries (seq)',

  // --- The audit log --------------------------------------------------------------------------------------------
  `create table audit_events (
    id text not null,
    recorded_at timestamptz not null default clock_timestamp(),
    organization_id text,
    workspace_id text,
    event text not null,
    status text not null check (status in ('pass', 'fail')),
    trace_id text not null,
    profile_id text,
    actor_kind text not null,
    actor_id text,
    user_id text,
    client_id text,
    credential_id text,
    token_version text,
    address text,
    detail jsonb not null default '{}',
    primary key (id, recorded_at)
  ) partition by range (recorded_at)`,
  'create table audit_events_default partition of audit_events default',
  'create index audit_events_by_organization on audit_events (organization_id, recorded_at desc)',
  'create index audit_events_by_trace on audit_events (trace_id)',
  `create table audit_pending (
    event_id text primary key,
    organization_id text,
    recorded_at timestamptz not null
  )`,
  `create function audit_events_queue() returns trigger language plpgsql as $$
    begin
      insert into audit_pending (event_id, organization_id, recorded_at) values (new.id, new.organization_id, new.recorded_at);
      return null;
    end $$`,
  `create trigger audit_events_queued after insert on audit_events for each row execute function audit_events_queue()`,
  `create function audit_events_refuse() returns trigger language plpgsql as $$
    begin
      raise exception 'audit_events is append-only' using errcode = 'insufficient_privilege';
    end $$`,
  `create trigger audit_events_no_change before update or delete on audit_events
    for each row execute function audit_events_refuse()`,
  `create trigger audit_events_no_truncate before truncate on audit_events
    for each statement execute function audit_events_refuse()`,
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

// Invitations: somebody is asked into a workspace or an organization by a link.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `create table invitations (
    id text primary key,
    organization_id text not null references organizations (id),
    workspace_id text references workspaces (id), -- null: into the organization
    email text not null,
    email_key text not null,
    role text not null check (role in ('owner', 'admin', 'member', 'viewer')),
    digest text not null unique, -- of the link's secret
    created_by text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    ended_at timestamptz,
    end_reason text check (end_reason in ('accepted', 'cancelled', 'replaced'))
  )`,
  `create unique index invitations_one_open on invitations (organization_id, coalesce(workspace_id, ''), email_key)
    where ended_at is null`,
  'create index invitations_by_workspace on invitations (workspace_id) where ended_at is null',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

// Row types of every table, as the migrations make them.
import type { ColumnType, Generated, JSONColumnType } from 'kysely'
import type { ConnectionId, FamilyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { EphemeralTables } from './ephemeral-postgres.ts'

/** Written by the database. */
type CreatedAt = ColumnType<Date, never, never>
type Json = Record<string, unknown>

export type Environment = 'production' | 'staging' | 'development'
export type OrganizationRole = 'owner' | 'admin' | 'member'
export type WorkspaceRole = 'owner' | 'admin' | 'member' | 'viewer'

interface UsersTable {
  id: UserId
  email: string
  email_key: string
  name: string
  password_digest: string | null
  sessions_not_before: Date | null
  suspended_at: Date | null
  created_at: CreatedAt
}

interface OrganizationsTable {
  id: OrganizationId
  name: string
  created_at: CreatedAt
}

interface OrganizationMembersTable {
  organization_id: OrganizationId
  user_id: UserId
  role: OrganizationRole
  created_at: CreatedAt
}

interface WorkspacesTable {
  id: WorkspaceId
  organization_id: OrganizationId
  name: string
  owner_id: UserId
  billing_email: string | null
  cost_centre: string | null
  archived_at: Date | null
  created_at: CreatedAt
}

interface WorkspaceMembersTable {
  workspace_id: WorkspaceId
  user_id: UserId
  role: WorkspaceRole
  created_at: CreatedAt
}

interface ClientsTable {
  id: string
  kind: 'registered' | 'resource_server'
  name: string
  environment: Environment
  secret_digest: string | null
  metadata: JSONColumnType<Json>
  pkce_required: boolean
  default_resource: string | null
  created_at: CreatedAt
  deleted_at: Date | null
}

interface ResourceServersTable {
  identifier: string
  client_id: string
  environments: Environment[]
  created_at: CreatedAt
}

interface ResourceScopesTable {
  identifier: string
  name: string
  sentence: string
  least_role: OrganizationRole
  place: number
}

/** What a connection's person approved, in the library's own shape (its Grant's `openid` and `resources`). */
export interface Approved {
  openid?: { scope?: string; claims?: string[] }
  resources?: Record<string, string>
}

interface ConnectionsTable {
  id: ConnectionId
  user_id: UserId | null
  client_id: string
  workspace_id: WorkspaceId
  organization_id: OrganizationId
  environment: Environment
  version: Generated<number>
  floor: Generated<number>
  approved: ColumnType<Approved, string, string>
  created_by: string
  created_at: CreatedAt
  closed_at: Date | null
  close_reason: string | null
}

interface FamiliesTable {
  id: FamilyId
  connection_id: ConnectionId
  created_at: CreatedAt
  ended_at: Date | null
  end_reason: string | null
}

interface RefreshTokensTable {
  digest: string
  family_id: FamilyId
  key_id: string
  payload: JSONColumnType<Json>
  successor_digest: string | null
  consumed_at: Date | null
  expires_at: Date
  created_at: CreatedAt
}

interface ConsumedCodesTable {
  digest: string
  client_id: string
  connection_id: ConnectionId
  family_id: FamilyId
  consumed_at: CreatedAt
}

interface ReplayIdsTable {
  id: string
  expires_at: Date
}

interface SigningKeysTable {
  kid: string
  alg: 'ES256' | 'RS256'
  state: 'published' | 'active' | 'retired'
  sealed_jwk: string
  created_at: CreatedAt
}

interface ServerKeysTable {
  id: string
  purpose: string
  sealed_key: string
  created_at: CreatedAt
}

interface RevocationEntriesTable {
  subject: string
  seq: ColumnType<string, never, never>
  floor: number | null
  closed: Generated<boolean>
  denied: Generated<boolean>
  changed_at: CreatedAt
  expires_at: Date
}

interface AuditEventsTable {
  id: string
  recorded_at: CreatedAt
  organization_id: string | null
  workspace_id: string | null
  event: string
  status: 'pass' | 'fail'
  trace_id: string
  profile_id: string | null
  actor_kind: string
  actor_id: string | null
  user_id: string | null
  client_id: string | null
  credential_id: string | null
  token_version: string | null
  address: string | null
  detail: JSONColumnType<Json>
}

interface AuditPendingTable {
  event_id: string
  organization_id: string | null
  recorded_at: Date
}

export interface Database extends EphemeralTables {
  users: UsersTable
  organizations: OrganizationsTable
  organization_members: OrganizationMembersTable
  workspaces: WorkspacesTable
  workspace_members: WorkspaceMembersTable
  clients: ClientsTable
  resource_servers: ResourceServersTable
  resource_scopes: ResourceScopesTable
  connections: ConnectionsTable
  families: FamiliesTable
  refresh_tokens: RefreshTokensTable
  consumed_codes: ConsumedCodesTable
  replay_ids: ReplayIdsTable
  signing_keys: SigningKeysTable
  server_keys: ServerKeysTable
  revocation_entries: RevocationEntriesTable
  audit_events: AuditEventsTable
  audit_pending: AuditPendingTable
}

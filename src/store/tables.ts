// Row types of every table, as the migrations make them.
import type { ColumnType, Generated, JSONColumnType } from 'kysely'
import type {
  ConnectionId,
  DataKeyId,
  FamilyId,
  InvitationId,
  KeyId,
  NoticeId,
  OrganizationId,
  ProviderConnectionId,
  ReviewId,
  ReviewItemId,
  UserId,
  WorkspaceId,
} from '../ids.ts'
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
  /** ISO 4217. */
  currency: Generated<string>
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
  suspended_at: Date | null
  suspend_reason: string | null
}

interface ConnectionVersionsTable {
  connection_id: ConnectionId
  version: number
  first_used_at: Date
  last_used_at: Date
  last_used_address: string
  last_used_agent: string
}

interface ConnectionUsesTable {
  connection_id: ConnectionId
  version: number
  hour: Date
  address: string
  agent: string
  uses: number
  last_at: Date
}

interface ConnectionFirstUsesTable {
  connection_id: ConnectionId
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

export interface DataKeysTable {
  id: DataKeyId
  organization_id: OrganizationId
  sealed_key: string
  created_at: CreatedAt
  retired_at: Date | null
}

export type ProviderStatus = 'pending_verification' | 'verified' | 'failed'

export interface ProviderConnectionsTable {
  id: ProviderConnectionId
  organization_id: OrganizationId
  workspace_id: WorkspaceId
  provider_type: string
  credentials_type: string
  sealed_credentials: string
  data_key_id: DataKeyId
  base_url: string | null
  status: Generated<ProviderStatus>
  status_reason: string | null
  checked_at: Date | null
  version: Generated<number>
  created_by: string
  created_at: CreatedAt
  changed_at: ColumnType<Date, never, Date>
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
  dead: Generated<number[]>
  suspended: Generated<boolean>
  not_before: Date | null
  next_floor: number | null
  next_floor_at: Date | null
  sent_seq: string | null
  sending_until: Date | null
  role: string | null
  changed_at: CreatedAt
  expires_at: Date
}

interface RevocationListTable {
  only_row: boolean
  epoch: string
  head: ColumnType<string, never, string>
  lineage: string
  sent_head: ColumnType<string | null, never, string | null>
  left_out: string[]
}

interface LeasesTable {
  process_id: string
  seq: string
  renewals: string
  started_at: CreatedAt
  renewed_at: CreatedAt
}

export type CutoverMode = 'manual' | 'on_first_use' | 'at'

export interface TokenLinesTable {
  id: KeyId
  organization_id: OrganizationId
  workspace_id: WorkspaceId | null
  label: string
  environment: Environment
  permissions: string[]
  resources: string[] | null
  ip_allow_list: string[] | null
  granted_role: 'owner' | 'admin'
  version: Generated<number>
  floor: Generated<number>
  cutover: Generated<CutoverMode>
  cutover_after_seconds: number | null
  cutover_at: Date | null
  created_by: string
  user_id: UserId | null
  created_at: CreatedAt
  closed_at: Date | null
  close_reason: string | null
  suspended_at: Date | null
  suspend_reason: string | null
  rotation_required_by: Date | null
  rotation_required_below: number | null
  rotation_required_reason: string | null
}

export interface TokenVersionsTable {
  token_id: KeyId
  version: number
  digest: string
  key_prefix: string
  created_by: string
  created_at: CreatedAt
  expires_at: Date | null
  retired_at: Date | null
  dead_at: Date | null
  first_used_at: Date | null
  last_used_at: Date | null
  last_used_address: string | null
  last_used_agent: string | null
  refused_at: Date | null
  refused_address: string | null
  refused_agent: string | null
  refused_count: Generated<number>
}

interface TokenUsesTable {
  token_id: KeyId
  version: number
  hour: Date
  refused: boolean
  address: string
  agent: string
  uses: number
  last_at: Date
}

interface TokenPoliciesTable {
  workspace_id: WorkspaceId
  tokens_forbidden: boolean
  expiry_required: boolean
  max_age_days: number | null
  environments: Environment[] | null
  changed_at: CreatedAt
}

export interface InvitationsTable {
  id: InvitationId
  organization_id: OrganizationId
  workspace_id: WorkspaceId | null
  email: string
  email_key: string
  role: WorkspaceRole
  digest: string
  created_by: string
  created_version: number | null
  created_at: CreatedAt
  expires_at: Date
  ended_at: Date | null
  end_reason: 'accepted' | 'cancelled' | 'replaced' | null
}

export type ReviewReason = 'quarterly' | 'incident' | 'team_change' | 'asked'

export interface AccessReviewsTable {
  id: ReviewId
  organization_id: OrganizationId
  workspace_id: WorkspaceId
  reasons: ReviewReason[]
  opened_by: string
  opened_at: CreatedAt
  due_at: Date
  closed_at: Date | null
  closed_by: string | null
  report: string | null
}

export type ReviewItemKind = 'connection' | 'token' | 'token_policy'
export type ReviewDecision = 'keep' | 'revoke' | 'changed'
export type ReviewOutcome = 'kept' | 'revoked' | 'changed' | 'suspended' | 'ended' | 'not_attested'

export interface AccessReviewItemsTable {
  id: ReviewItemId
  review_id: ReviewId
  kind: ReviewItemKind
  subject_id: string
  snapshot: JSONColumnType<Json>
  decision: ReviewDecision | null
  note: string | null
  decided_by: string | null
  decided_at: Date | null
  /** What it was then. */
  attested: JSONColumnType<Json> | null
  outcome: ReviewOutcome | null
}

export interface TeamChangesTable {
  workspace_id: WorkspaceId
  organization_id: OrganizationId
  actor: JSONColumnType<Json>
  request: JSONColumnType<Json>
  changed_at: CreatedAt
}

export type NoticeKind = 'token_expiring' | 'rotation_required' | 'token_unused' | 'review_due'

export interface NoticesTable {
  id: NoticeId
  organization_id: OrganizationId
  workspace_id: WorkspaceId
  kind: NoticeKind
  subject_id: string
  stage: string
  due_at: Date | null
  created_at: CreatedAt
  mailed_at: Date | null
  resolved_at: Date | null
}

interface NoticeMailsTable {
  notice_id: NoticeId
  user_id: UserId
  outcome: 'sent' | 'refused' | 'not_concerned' | null
  settled_at: Date | null
}

export type BudgetMode = 'soft' | 'hard'
export type ReservationState = 'held' | 'settled' | 'released' | 'expired'
export type ViolationKind = 'refused' | 'overrun' | 'soft_cap'

interface IdempotencyKeysTable {
  scope: string
  key_digest: string
  fingerprint: string
  response: ColumnType<Json | null, string | null, string | null>
  created_at: CreatedAt
}

interface ClientSessionsTable {
  client_id: string
  sid: string
  user_id: UserId
  session_digest: string
  expires_at: Date
}

interface LogoutNoticesTable {
  id: Generated<string>
  client_id: string
  user_id: UserId
  sid: string | null
  reason: string
  trace_id: string
  tries: Generated<number>
  next_try_at: Generated<Date>
  created_at: CreatedAt
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
  connection_versions: ConnectionVersionsTable
  connection_uses: ConnectionUsesTable
  connection_first_uses: ConnectionFirstUsesTable
  families: FamiliesTable
  refresh_tokens: RefreshTokensTable
  consumed_codes: ConsumedCodesTable
  replay_ids: ReplayIdsTable
  signing_keys: SigningKeysTable
  server_keys: ServerKeysTable
  data_keys: DataKeysTable
  provider_connections: ProviderConnectionsTable
  revocation_entries: RevocationEntriesTable
  revocation_list: RevocationListTable
  leases: LeasesTable
  token_lines: TokenLinesTable
  token_versions: TokenVersionsTable
  token_uses: TokenUsesTable
  token_policies: TokenPoliciesTable
  invitations: InvitationsTable
  idempotency_keys: IdempotencyKeysTable
  access_reviews: AccessReviewsTable
  access_review_items: AccessReviewItemsTable
  team_changes: TeamChangesTable
  notices: NoticesTable
  notice_mails: NoticeMailsTable
  client_sessions: ClientSessionsTable
  logout_notices: LogoutNoticesTable
  audit_events: AuditEventsTable
  audit_pending: AuditPendingTable
}

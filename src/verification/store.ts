// SQL of what decides about a presented token: one row a value.
import { sql } from 'kysely'
import type { SecretDigest } from '../crypto/secret.ts'
import type { KeyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Executor } from '../store/database.ts'
import type { CutoverMode, Environment } from '../store/tables.ts'

/** One version of a line, with all that decides whether it is good. */
export interface TokenRecord {
  id: KeyId
  organizationId: OrganizationId
  workspaceId: WorkspaceId | null
  workspaceArchived: boolean
  label: string
  environment: Environment
  permissions: string[]
  resources: string[] | null
  ipAllowList: string[] | null
  grantedRole: 'owner' | 'admin'
  userId: UserId | null
  /** Of the line: its newest. */
  newest: number
  floor: number
  cutover: CutoverMode
  cutoverAt: Date | null
  closedAt: Date | null
  suspendedAt: Date | null
  /** When a version of the line was last retired by a cutover. */
  retiredAt: Date | null
  /** The presented one. */
  version: number
  createdAt: Date
  expiresAt: Date | null
  deadAt: Date | null
  /** The database's time of this reading. */
  readAt: Date
}

const RECORD = sql`l.id, l.organization_id as "organizationId", l.workspace_id as "workspaceId",
      w.archived_at is not null as "workspaceArchived", l.label, l.environment, l.permissions, l.resources,
      l.ip_allow_list as "ipAllowList", l.granted_role as "grantedRole", l.user_id as "userId", l.version as newest,
      l.floor, l.cutover, l.cutover_at as "cutoverAt", l.closed_at as "closedAt",
      l.suspended_at as "suspendedAt",
      (select max(o.retired_at) from token_versions o where o.token_id = l.id) as "retiredAt", v.version,
      v.created_at as "createdAt", v.expires_at as "expiresAt", v.dead_at as "deadAt", clock_timestamp() as "readAt"
    from token_versions v
    join token_lines l on l.id = v.token_id
    left join workspaces w on w.id = l.workspace_id`

/** By token_versions_digest_key, then primary keys. */
export async function findTokens(
  executor: Executor,
  digests: readonly SecretDigest[],
): Promise<Map<SecretDigest, TokenRecord>> {
  const { rows } = await sql<TokenRecord & { digest: SecretDigest }>`
    select v.digest, ${RECORD} where v.digest = any(${digests}::text[])`.execute(executor)
  return new Map(rows.map(({ digest, ...record }) => [digest, record]))
}

/** The version that a JWT came from. Primary keys. */
export async function findTokenVersion(
  executor: Executor,
  id: string,
  version: number,
): Promise<TokenRecord | undefined> {
  const { rows } = await sql<TokenRecord>`
    select ${RECORD} where v.token_id = ${id} and v.version = ${version}`.execute(executor)
  return rows[0]
}

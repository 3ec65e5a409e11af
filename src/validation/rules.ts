// Whether a credential is what a job expects of it. Pure.
import type { ConnectionId, KeyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Environment } from '../store/tables.ts'

/** A credential of ours as it was presented, whatever became of it. */
export interface Presented {
  authority:
    | { kind: 'key'; id: KeyId; version: number }
    | { kind: 'connection'; id: ConnectionId; version: number; userId: UserId | null }
  organizationId: OrganizationId
  /** Null for an organization key. */
  workspaceId: WorkspaceId | null
  /** The person behind it: for a token or key, who made it. */
  userId: UserId | null
  clientId: string | null
  environment: Environment
  scopes: readonly string[]
  expiresAt: Date | null
}

/** What a job says that it expects; what it leaves out fits. */
export interface Expected {
  workspace?: { id: string; organizationId: OrganizationId | undefined } | undefined
  environment?: Environment | undefined
  /** As `v3`. */
  tokenVersion?: string | undefined
}

export type Mismatch =
  | { reason: 'workspace_mismatch'; expected: string }
  | { reason: 'environment_mismatch'; expected: string }
  | { reason: 'stale_version'; expected: string }

/** The first thing that is not as expected, the widest first: which version is meant depends on where. */
export function mismatchOf(presented: Presented, expected: Expected): Mismatch | undefined {
  const { workspace, environment, tokenVersion } = expected
  if (workspace !== undefined && !isIn(presented, workspace))
    return { reason: 'workspace_mismatch', expected: workspace.id }
  if (environment !== undefined && environment !== presented.environment)
    return { reason: 'environment_mismatch', expected: environment }
  if (tokenVersion !== undefined && tokenVersion !== `v${presented.authority.version}`)
    return { reason: 'stale_version', expected: tokenVersion }
  return undefined
}

/** An organization key works in every workspace of its organization. */
function isIn(presented: Presented, workspace: NonNullable<Expected['workspace']>): boolean {
  if (presented.workspaceId !== null) return presented.workspaceId === workspace.id
  return presented.organizationId === workspace.organizationId
}

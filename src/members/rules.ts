// What a change of somebody's roles comes to: which of what stands on them ends, narrows, or must be rotated. One decision for
// the page that says so before and for the change itself. Pure.
import { type WithRole, withRole } from '../connections/rules.ts'
import type { OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import { mayInvite } from '../invitations/rules.ts'
import { effectiveRole, isAtLeast } from '../organizations/rules.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { Approved, OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { type LineState, needsRotation, type RotationState, type VersionState } from '../workspace-tokens/rules.ts'

/** Somebody's roles before and after; null: none. */
export interface RoleChange {
  organization: { before: OrganizationRole | null; after: OrganizationRole | null }
  /** In each workspace that the change reaches: what stands in the membership itself. */
  workspaces: ReadonlyMap<WorkspaceId, { before: WorkspaceRole | null; after: WorkspaceRole | null }>
}

interface Connection {
  workspaceId: WorkspaceId
  approved: Approved
}

interface Token extends LineState, RotationState {
  workspaceId: WorkspaceId | null
  userId: UserId | null
  versions: readonly VersionState[]
}

interface Invitation {
  workspace_id: WorkspaceId | null
  role: WorkspaceRole
}

/** What stands on somebody's roles where the change reaches. */
export interface Standing<C, T, I> {
  connections: readonly C[]
  tokens: readonly T[]
  invitations: readonly I[]
}

export interface Consequences<C, T, I> {
  connections: Array<{ connection: C; outcome: WithRole }>
  /** Tokens that they made, and may know. */
  rotates: T[]
  /** Invitations that they sent, and nobody could accept any more. */
  cancels: I[]
}

export function consequencesOf<C extends Connection, T extends Token, I extends Invitation>(
  change: RoleChange,
  standing: Standing<C, T, I>,
  { servers, now }: { servers: readonly ResourceServer[]; now: Date },
): Consequences<C, T, I> {
  const roles = (workspaceId: WorkspaceId | null) => rolesIn(change, workspaceId)
  return {
    connections: standing.connections.map((connection) => ({
      connection,
      outcome: withRole(connection.approved, servers, roles(connection.workspaceId).after),
    })),
    rotates: standing.tokens.filter((token) => {
      const { before, after } = roles(token.workspaceId)
      if (isAdmin(after)) return false
      return needsRotation(token, token.versions, { now, wasAdmin: isAdmin(before) })
    }),
    cancels: standing.invitations.filter((invitation) => {
      const organizationRole = change.organization.after ?? undefined
      return !mayInvite(invitation.role, { role: roles(invitation.workspace_id).after, organizationRole })
    }),
  }
}

/** Workspaces where the person may do less from now on. */
export function fallenIn(change: RoleChange): WorkspaceId[] {
  return [...change.workspaces.keys()].filter((workspaceId) => {
    const { before, after } = rolesIn(change, workspaceId)
    return before !== undefined && (after === undefined || !isAtLeast(after, before))
  })
}

/** A role in the organization counts in each of its workspaces; whoever leaves it leaves them. */
export function inOrganization(
  workspaces: ReadonlyArray<{ id: WorkspaceId; role: WorkspaceRole | null }>,
  organization: { before: OrganizationRole; after: OrganizationRole | null },
): RoleChange {
  const after = (role: WorkspaceRole | null) => (organization.after === null ? null : role)
  return {
    organization,
    workspaces: new Map(workspaces.map(({ id, role }) => [id, { before: role, after: after(role) }])),
  }
}

/** Where a change reaches: keys and invitations of the organization itself only when the role there changes. */
export function withinOf(organizationId: OrganizationId, { organization, workspaces }: RoleChange) {
  const isOfOrganization = organization.before !== organization.after
  return { workspaceIds: [...workspaces.keys()], organizationId: isOfOrganization ? organizationId : null }
}

export function isWithin(
  within: ReturnType<typeof withinOf>,
  { organization_id, workspace_id }: { organization_id: OrganizationId; workspace_id: WorkspaceId | null },
): boolean {
  return workspace_id === null ? organization_id === within.organizationId : within.workspaceIds.includes(workspace_id)
}

/** The roles that count: in a workspace, or in the organization itself. */
function rolesIn({ organization, workspaces }: RoleChange, workspaceId: WorkspaceId | null) {
  if (workspaceId === null) return { before: organization.before ?? undefined, after: organization.after ?? undefined }
  const { before, after } = workspaces.get(workspaceId) ?? { before: null, after: null }
  return { before: effectiveRole(before, organization.before), after: effectiveRole(after, organization.after) }
}

function isAdmin(role: WorkspaceRole | undefined): boolean {
  return role !== undefined && isAtLeast(role, 'admin')
}

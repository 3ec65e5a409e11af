// Roles: who may do what in a workspace. Pure.
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'

const RANK: Record<WorkspaceRole, number> = { viewer: 0, member: 1, admin: 2, owner: 3 }

export function isAtLeast(role: WorkspaceRole, least: WorkspaceRole): boolean {
  return RANK[role] >= RANK[least]
}

/** An organization's owner or admin acts as admin in each of its workspaces; a workspace role above that stays. */
export function effectiveRole(
  workspaceRole: WorkspaceRole | null,
  organizationRole: OrganizationRole | null,
): WorkspaceRole | undefined {
  const inherited = organizationRole === 'owner' || organizationRole === 'admin' ? 'admin' : undefined
  if (inherited === undefined) return workspaceRole ?? undefined
  return workspaceRole !== null && isAtLeast(workspaceRole, inherited) ? workspaceRole : inherited
}

/** A command acts for the operator; owners are made and unmade by owners, of the workspace or of its organization. */
export function mayChangeOwners(role: WorkspaceRole, organizationRole: OrganizationRole | undefined): boolean {
  return role === 'owner' || organizationRole === 'owner'
}

/** Approving a connection needs the role member or above. */
export function mayConnect(role: WorkspaceRole | undefined): role is WorkspaceRole {
  return role !== undefined && isAtLeast(role, 'member')
}

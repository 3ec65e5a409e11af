// Who may ask whom in. Pure.
import { isAtLeast, mayChangeOwners } from '../organizations/rules.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'

/** What somebody is in the place that they invite to, and in its organization. */
export interface Held {
  role: WorkspaceRole | undefined
  organizationRole: OrganizationRole | undefined
}

export function mayInvite(invitedAs: WorkspaceRole, held: Held): boolean {
  if (held.role === undefined || !isAtLeast(held.role, 'admin')) return false
  return invitedAs !== 'owner' || mayChangeOwners(held.role, held.organizationRole)
}

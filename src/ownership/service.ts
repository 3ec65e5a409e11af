// There is always an owner: what a change of somebody's roles would leave without one.
import { AppError } from '../errors.ts'
import type { OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import { inOrganization, type RoleChange } from '../members/rules.ts'
import * as store from '../organizations/store.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { OrganizationRole } from '../store/tables.ts'

export interface OwnedPlace {
  kind: 'organization' | 'workspace'
  id: OrganizationId | WorkspaceId
  name: string
}

/** Places that a change would leave without an owner. */
export async function lastOwned(
  executor: Executor,
  organizationId: OrganizationId,
  userId: UserId,
  { organization, workspaces }: RoleChange,
): Promise<OwnedPlace[]> {
  const places: OwnedPlace[] = []
  const stops = ({ before, after }: { before: string | null; after: string | null }) =>
    before === 'owner' && after !== 'owner'
  if (stops(organization) && (await store.countOtherOrganizationOwners(executor, organizationId, userId)) === 0) {
    const found = await store.findOrganization(executor, organizationId)
    places.push({ kind: 'organization', id: organizationId, name: found?.name ?? '' })
  }
  for (const [id, roles] of workspaces) {
    if (!stops(roles) || (await store.countOtherOwners(executor, id, userId)) > 0) continue
    places.push({ kind: 'workspace', id, name: (await store.findWorkspace(executor, id))?.name ?? '' })
  }
  return places
}

/** Of all that somebody would leave with an organization, which is locked by now: places that would be without an owner. */
export async function lockLastOwned(
  trx: Trx,
  input: { organizationId: OrganizationId; userId: UserId; role: OrganizationRole },
): Promise<OwnedPlace[]> {
  const { organizationId, userId, role } = input
  const workspaces = await store.lockWorkspacesWithMember(trx, organizationId, userId)
  return lastOwned(trx, organizationId, userId, inOrganization(workspaces, { before: role, after: null }))
}

/** What a person is the last owner of, said to whoever would have them leave it. */
export function lastOwnerDetail(places: readonly OwnedPlace[], who = 'This person is'): string {
  const names = places.map(({ kind, name }) => `the ${kind} ${name}`).join(', ')
  return `${who} the only owner of ${names}. Make somebody else an owner first.`
}

/**
 * Before such a change is made.
 *
 * @throws {AppError} `last_owner`
 */
export async function requireOwnersLeft(
  trx: Trx,
  organizationId: OrganizationId,
  userId: UserId,
  change: RoleChange,
): Promise<void> {
  const places = await lastOwned(trx, organizationId, userId, change)
  if (places.length > 0) throw new AppError('last_owner', { detail: lastOwnerDetail(places) })
}

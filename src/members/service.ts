// Who is in a workspace and in an organization. A role that falls takes with it what stood on it: connections end or sign
// new tokens in the transaction that changes the role. There is always an owner.
import { findUser } from '../accounts/store.ts'
import { type Actor, record } from '../audit/service.ts'
import { endWithRole } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { isUserId, type OrganizationId, type UserId, type WorkspaceId } from '../ids.ts'
import { effectiveRole, mayChangeOwners, mayConnect } from '../organizations/rules.ts'
import type { Asked } from '../organizations/service.ts'
import * as store from '../organizations/store.ts'
import { actorOf, lockAuthority, lockOrganizationAuthority } from '../principals/service.ts'
import { membership } from '../revocation/rules.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import { type Db, reading, type Trx, transact } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'

export interface Member<R> {
  user_id: UserId
  name: string
  email: string
  role: R
  created_at: Date
}

export function listWorkspaceMembers(db: Db, workspaceId: WorkspaceId): Promise<Array<Member<WorkspaceRole>>> {
  return reading(store.listWorkspaceMembers(db, workspaceId))
}

export function listOrganizationMembers(
  db: Db,
  organizationId: OrganizationId,
): Promise<Array<Member<OrganizationRole>>> {
  return reading(store.listOrganizationMembers(db, organizationId))
}

/** @param userId from an address; undefined for nobody who is in there */
export async function findWorkspaceMember(
  db: Db,
  workspaceId: WorkspaceId,
  userId: string,
): Promise<Member<WorkspaceRole> | undefined> {
  return isUserId(userId) ? (await reading(store.listWorkspaceMembers(db, workspaceId, userId)))[0] : undefined
}

/** @param userId from an address; undefined for nobody who is in there */
export async function findOrganizationMember(
  db: Db,
  organizationId: OrganizationId,
  userId: string,
): Promise<Member<OrganizationRole> | undefined> {
  return isUserId(userId) ? (await reading(store.listOrganizationMembers(db, organizationId, userId)))[0] : undefined
}

/** What people of an organization are called, by id; who is no longer in it is not there. */
export async function namesOf(
  db: Db,
  organizationId: OrganizationId,
  ids: ReadonlyArray<string | null>,
): Promise<Map<string, string>> {
  const people = [...new Set(ids)].filter((id) => id !== null).filter(isUserId)
  if (people.length === 0) return new Map()
  const rows = await reading(store.listNames(db, organizationId, people))
  return new Map(rows.map((row) => [row.user_id, row.name]))
}

/**
 * Adds a person of the organization to one of its workspaces.
 *
 * @throws {AppError} `not_found` for somebody who is not in the organization, `conflict` for a member, `role_too_low`
 */
export function addToWorkspace(
  db: Db,
  input: { workspaceId: string; userId: string; role: WorkspaceRole } & Asked,
): Promise<Member<WorkspaceRole>> {
  return transact(db, async (trx) => {
    const place = await changing(trx, input)
    if (input.role === 'owner') requireOwner(place)
    const user = isUserId(input.userId) ? await findUser(trx, input.userId) : undefined
    const isInOrganization =
      user !== undefined && (await store.lockOrganizationMember(trx, place.organizationId, user.id)) !== undefined
    if (user === undefined || !isInOrganization) {
      throw new AppError('not_found', { detail: 'Nobody in this organization has that id.' })
    }
    if ((await store.lockWorkspaceMember(trx, place.workspaceId, user.id)) !== undefined) {
      throw new AppError('conflict', { detail: 'This person is already a member of the workspace.' })
    }
    await store.putWorkspaceMember(trx, { workspace_id: place.workspaceId, user_id: user.id, role: input.role })
    await recordChange(trx, input, place, { event: 'member.added', userId: user.id, detail: { role: input.role } })
    return memberOf(trx, place.workspaceId, user.id)
  })
}

/**
 * Gives a member another role. Their connections sign new tokens from now on; what the new role cannot hold ends.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `last_owner`, `role_too_low`
 */
export function changeRole(
  revocations: RevocationList,
  input: { workspaceId: string; userId: string; role: WorkspaceRole } & Asked,
): Promise<Member<WorkspaceRole>> {
  return revocations.change(async (trx, revoke) => {
    const place = await changing(trx, input)
    const { userId, role } = await requireMember(trx, place.workspaceId, input.userId)
    if (role === input.role) return memberOf(trx, place.workspaceId, userId)
    if (role === 'owner' || input.role === 'owner') requireOwner(place)
    if (role === 'owner') await requireAnotherOwner(trx, place.workspaceId, userId)
    await store.putWorkspaceMember(trx, { workspace_id: place.workspaceId, user_id: userId, role: input.role })
    if (role === 'owner') await store.renameOwner(trx, [place.workspaceId], userId)
    await recordChange(trx, input, place, {
      event: 'member.role_changed',
      userId,
      detail: { from: role, to: input.role },
    })
    await endWhatStoodOn(trx, revoke, input, place, userId, input.role)
    return memberOf(trx, place.workspaceId, userId)
  })
}

/**
 * Removes a member. Their connections to the workspace end with it; tokens that they made are the workspace's and stay.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `last_owner`, `role_too_low`
 */
export function removeFromWorkspace(
  revocations: RevocationList,
  input: { workspaceId: string; userId: string } & Asked,
): Promise<void> {
  return revocations.change(async (trx, revoke) => {
    const place = await changing(trx, input, { gives: false })
    const { userId, role } = await requireMember(trx, place.workspaceId, input.userId)
    if (role === 'owner') {
      requireOwner(place)
      await requireAnotherOwner(trx, place.workspaceId, userId)
    }
    await store.deleteWorkspaceMember(trx, place.workspaceId, userId)
    if (role === 'owner') await store.renameOwner(trx, [place.workspaceId], userId)
    await recordChange(trx, input, place, { event: 'member.removed', userId, detail: { role } })
    await endWhatStoodOn(trx, revoke, input, place, userId, null)
  })
}

/**
 * Hands a workspace over: the new owner is a member already, the old one stays as an admin.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `role_too_low`
 */
export function transferOwnership(
  revocations: RevocationList,
  input: { workspaceId: string; userId: string } & Asked,
): Promise<void> {
  return revocations.change(async (trx, revoke) => {
    const place = await changing(trx, input)
    requireOwner(place)
    const { userId } = await requireMember(trx, place.workspaceId, input.userId)
    const before = await store.findWorkspace(trx, place.workspaceId)
    await store.putWorkspaceMember(trx, { workspace_id: place.workspaceId, user_id: userId, role: 'owner' })
    await store.updateWorkspace(trx, place.workspaceId, { owner_id: userId })
    await recordChange(trx, input, place, {
      event: 'workspace.transferred',
      userId,
      detail: { from: before?.owner_id ?? null, to: userId },
    })
    const old = before?.owner_id
    if (old === undefined || old === userId) return
    const left = await store.lockWorkspaceMember(trx, place.workspaceId, old)
    if (left?.role !== 'owner') return // has left before, or was given another role: handing over raises nobody
    await store.putWorkspaceMember(trx, { workspace_id: place.workspaceId, user_id: old, role: 'admin' })
    await endWhatStoodOn(trx, revoke, input, place, old, 'admin')
  })
}

/**
 * Gives a member of an organization another role there.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `last_owner`, `role_too_low`
 */
export function changeOrganizationRole(
  revocations: RevocationList,
  input: { organizationId: string; userId: string; role: OrganizationRole } & Asked,
): Promise<Member<OrganizationRole>> {
  return revocations.change(async (trx, revoke) => {
    const place = await changingOrganization(trx, input)
    const { userId, role } = await requireOrganizationMember(trx, place.organizationId, input.userId)
    if (role !== input.role) {
      if (role === 'owner' || input.role === 'owner') requireOwner(place)
      if (role === 'owner') await requireAnotherOrganizationOwner(trx, place.organizationId, userId)
      await store.putOrganizationMember(trx, {
        organization_id: place.organizationId,
        user_id: userId,
        role: input.role,
      })
      await recordChange(trx, input, place, {
        event: 'member.role_changed',
        userId,
        detail: { from: role, to: input.role },
      })
      await endEverywhere(trx, revoke, input, place.organizationId, userId, input.role)
    }
    const [member] = await store.listOrganizationMembers(trx, place.organizationId, userId)
    if (member === undefined) throw new AppError('not_found')
    return member
  })
}

/**
 * Removes somebody from an organization and all its workspaces.
 *
 * @throws {AppError} `not_found`, `last_owner` also where they are the last owner of a workspace, `role_too_low`
 */
export function removeFromOrganization(
  revocations: RevocationList,
  input: { organizationId: string; userId: string } & Asked,
): Promise<void> {
  return revocations.change(async (trx, revoke) => {
    const place = await changingOrganization(trx, input, { gives: false })
    const { userId, role } = await requireOrganizationMember(trx, place.organizationId, input.userId)
    if (role === 'owner') {
      requireOwner(place)
      await requireAnotherOrganizationOwner(trx, place.organizationId, userId)
    }
    const workspaces = await store.lockWorkspacesWithMember(trx, place.organizationId, userId)
    for (const workspace of workspaces) {
      if (workspace.role === 'owner' && (await store.countOtherOwners(trx, workspace.id, userId)) === 0) {
        throw new AppError('last_owner', {
          detail: `This person is the only owner of the workspace ${workspace.name}. Make somebody else its owner first.`,
        })
      }
    }
    for (const workspace of workspaces) await store.deleteWorkspaceMember(trx, workspace.id, userId)
    await store.renameOwner(
      trx,
      workspaces.map(({ id }) => id),
      userId,
    )
    await store.deleteOrganizationMember(trx, place.organizationId, userId)
    for (const placeId of [place.organizationId, ...workspaces.map(({ id }) => id)])
      revoke({ subject: membership(placeId, userId), role: 'none' })
    await recordChange(trx, input, place, { event: 'member.removed', userId, detail: { role } })
    await endWithRole(trx, revoke, {
      userId,
      workspaceIds: workspaces.map(({ id }) => id),
      mayStay: () => false,
      reason: 'member_removed',
      actor: actorOf(input.authority),
      request: input.request,
    })
  })
}

// --- What they share -----------------------------------------------------------------------------------------------------

type WorkspacePlace = Awaited<ReturnType<typeof lockAuthority>>
type OrganizationPlace = Awaited<ReturnType<typeof lockOrganizationAuthority>>

/**
 * Whoever changes members has the workspace for themselves: two owners cannot leave at once. What gives somebody more
 * takes a recent sign-in; ending access is never held up.
 */
async function changing(
  trx: Trx,
  input: { workspaceId: string } & Asked,
  { gives = true } = {},
): Promise<WorkspacePlace> {
  await store.lockWorkspaceForUpdate(trx, input.workspaceId)
  return lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin', recentSignIn: gives })
}

async function changingOrganization(
  trx: Trx,
  input: { organizationId: string } & Asked,
  { gives = true } = {},
): Promise<OrganizationPlace> {
  await store.lockOrganizationForUpdate(trx, input.organizationId)
  return lockOrganizationAuthority(trx, input.authority, input.organizationId, { role: 'admin', recentSignIn: gives })
}

function requireOwner(place: { role: WorkspaceRole; organizationRole: OrganizationRole | undefined }): void {
  if (mayChangeOwners(place.role, place.organizationRole)) return
  throw new AppError('role_too_low', { detail: 'Only an owner makes or unmakes an owner.' })
}

async function requireMember(trx: Trx, workspaceId: WorkspaceId, userId: string) {
  const member = isUserId(userId) ? await store.lockWorkspaceMember(trx, workspaceId, userId) : undefined
  if (member === undefined) throw new AppError('not_found', { detail: 'Nobody in this workspace has that id.' })
  return { userId: userId as UserId, role: member.role } // looked at above
}

async function requireOrganizationMember(trx: Trx, organizationId: OrganizationId, userId: string) {
  const member = isUserId(userId) ? await store.lockOrganizationMember(trx, organizationId, userId) : undefined
  if (member === undefined) throw new AppError('not_found', { detail: 'Nobody in this organization has that id.' })
  return { userId: userId as UserId, role: member.role } // looked at above
}

async function requireAnotherOwner(trx: Trx, workspaceId: WorkspaceId, userId: UserId): Promise<void> {
  if ((await store.countOtherOwners(trx, workspaceId, userId)) === 0) throw new AppError('last_owner')
}

async function requireAnotherOrganizationOwner(
  trx: Trx,
  organizationId: OrganizationId,
  userId: UserId,
): Promise<void> {
  if ((await store.countOtherOrganizationOwners(trx, organizationId, userId)) === 0) throw new AppError('last_owner')
}

async function endWhatStoodOn(
  trx: Trx,
  revoke: Revoke,
  by: Asked,
  place: { workspaceId: WorkspaceId; organizationId: OrganizationId },
  userId: UserId,
  newRole: WorkspaceRole | null,
): Promise<void> {
  const organizationMember = await store.lockOrganizationMember(trx, place.organizationId, userId)
  revoke({ subject: membership(place.workspaceId, userId), role: newRole ?? 'none' })
  const role = effectiveRole(newRole, organizationMember?.role ?? null)
  await endWithRole(trx, revoke, {
    userId,
    workspaceIds: [place.workspaceId],
    mayStay: () => mayConnect(role),
    reason: newRole === null ? 'member_removed' : 'role_changed',
    actor: actorOf(by.authority),
    request: by.request,
  })
}

/** A role in the organization counts in each of its workspaces. */
async function endEverywhere(
  trx: Trx,
  revoke: Revoke,
  by: Asked,
  organizationId: OrganizationId,
  userId: UserId,
  newRole: OrganizationRole,
): Promise<void> {
  const workspaces = await store.lockWorkspacesWithMember(trx, organizationId, userId)
  revoke({ subject: membership(organizationId, userId), role: newRole })
  const roles = new Map(workspaces.map(({ id, role }) => [id, effectiveRole(role, newRole)]))
  await endWithRole(trx, revoke, {
    userId,
    workspaceIds: [...roles.keys()],
    mayStay: (workspaceId) => mayConnect(roles.get(workspaceId)),
    reason: 'role_changed',
    actor: actorOf(by.authority),
    request: by.request,
  })
}

async function memberOf(trx: Trx, workspaceId: WorkspaceId, userId: UserId): Promise<Member<WorkspaceRole>> {
  const [member] = await store.listWorkspaceMembers(trx, workspaceId, userId)
  if (member === undefined) throw new AppError('not_found')
  return member
}

function recordChange(
  trx: Trx,
  by: Asked,
  place: { organizationId: OrganizationId; workspaceId?: WorkspaceId },
  what: { event: string; userId: UserId; detail: Record<string, unknown> },
): Promise<void> {
  const actor: Actor = actorOf(by.authority)
  return record(trx, {
    ...what,
    status: 'pass',
    actor,
    request: by.request,
    organizationId: place.organizationId,
    workspaceId: place.workspaceId ?? null,
  })
}

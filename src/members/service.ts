// Who is in a workspace and in an organization. A role that falls takes with it what stood on it, in the transaction that
// changes the role: connections end, narrow or sign new tokens, and tokens that the person made must be rotated. There is
// always an owner.
import { findUser } from '../accounts/store.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { applyRole, lockConnectionsIn } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { isUserId, type OrganizationId, type UserId, type WorkspaceId } from '../ids.ts'
import { cancelSent, listSent } from '../invitations/service.ts'
import { mayChangeOwners } from '../organizations/rules.ts'
import type { Asked } from '../organizations/service.ts'
import * as store from '../organizations/store.ts'
import { requireOwnersLeft } from '../ownership/service.ts'
import { actorOf, lockAuthority, lockOrganizationAuthority, lockPeople } from '../principals/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { askForReviews } from '../reviews/service.ts'
import { membership } from '../revocation/rules.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import { type Db, reading, readTime, type Trx, transact } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import type { RotationReason } from '../workspace-tokens/rules.ts'
import { lockTokensOfPerson, requireRotations } from '../workspace-tokens/service.ts'
import { consequencesOf, fallenIn, inOrganization, isWithin, type RoleChange, withinOf } from './rules.ts'

export interface MembersDeps {
  db: Db
  revocations: RevocationList
  resourceServers: Pick<ResourceServers, 'list'>
}

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
 * Gives a member another role. Their connections sign new tokens from now on, with what the new role holds of them; where
 * that is nothing, they end. Below admin, tokens that they made must be rotated.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `last_owner`, `role_too_low`
 */
export async function changeRole(
  { revocations, resourceServers }: MembersDeps,
  input: { workspaceId: string; userId: string; role: WorkspaceRole } & Asked,
): Promise<Member<WorkspaceRole>> {
  const servers = await resourceServers.list()
  return revocations.change(async (trx, revoke) => {
    const place = await changing(trx, input)
    const { userId, role } = await requireMember(trx, place.workspaceId, input.userId)
    if (role === input.role) return memberOf(trx, place.workspaceId, userId)
    if (role === 'owner' || input.role === 'owner') requireOwner(place)
    const change = await inWorkspace(trx, place, userId, { before: role, after: input.role })
    await requireOwnersLeft(trx, place.organizationId, userId, change)
    await store.putWorkspaceMember(trx, { workspace_id: place.workspaceId, user_id: userId, role: input.role })
    if (role === 'owner') await store.renameOwner(trx, [place.workspaceId], userId)
    await recordChange(trx, input, place, {
      event: 'member.role_changed',
      userId,
      detail: { from: role, to: input.role },
    })
    revoke({ subject: membership(place.workspaceId, userId), role: input.role })
    const by = { ...byOf(input), reason: 'role_changed' } as const
    await applyChange(trx, revoke, { organizationId: place.organizationId, userId, change, servers, by })
    return memberOf(trx, place.workspaceId, userId)
  })
}

/**
 * Removes a member. Their connections to the workspace end with it; tokens that they made are the workspace's and stay, and
 * must be rotated.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `last_owner`, `role_too_low`
 */
export async function removeFromWorkspace(
  { revocations, resourceServers }: MembersDeps,
  input: { workspaceId: string; userId: string } & Asked,
): Promise<void> {
  const servers = await resourceServers.list()
  return revocations.change(async (trx, revoke) => {
    const place = await changing(trx, input, { gives: false })
    const { userId, role } = await requireMember(trx, place.workspaceId, input.userId)
    if (role === 'owner') requireOwner(place)
    const change = await inWorkspace(trx, place, userId, { before: role, after: null })
    await requireOwnersLeft(trx, place.organizationId, userId, change)
    await store.deleteWorkspaceMember(trx, place.workspaceId, userId)
    if (role === 'owner') await store.renameOwner(trx, [place.workspaceId], userId)
    await recordChange(trx, input, place, { event: 'member.removed', userId, detail: { role } })
    revoke({ subject: membership(place.workspaceId, userId), role: 'none' })
    const by = { ...byOf(input), reason: 'member_removed' } as const
    await applyChange(trx, revoke, { organizationId: place.organizationId, userId, change, servers, by })
  })
}

/**
 * Hands a workspace over: the new owner is a member already, the old one stays as an admin.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `role_too_low`
 */
export async function transferOwnership(
  { revocations, resourceServers }: MembersDeps,
  input: { workspaceId: string; userId: string } & Asked,
): Promise<void> {
  const servers = await resourceServers.list()
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
    revoke({ subject: membership(place.workspaceId, old), role: 'admin' })
    const change = await inWorkspace(trx, place, old, { before: 'owner', after: 'admin' })
    const by = { ...byOf(input), reason: 'role_changed' } as const
    await applyChange(trx, revoke, { organizationId: place.organizationId, userId: old, change, servers, by })
  })
}

/**
 * Gives a member of an organization another role there, with the same consequences in each of its workspaces.
 *
 * @throws {AppError} `not_found` for somebody who is no member, `last_owner`, `role_too_low`
 */
export async function changeOrganizationRole(
  { revocations, resourceServers }: MembersDeps,
  input: { organizationId: string; userId: string; role: OrganizationRole } & Asked,
): Promise<Member<OrganizationRole>> {
  const servers = await resourceServers.list()
  return revocations.change(async (trx, revoke) => {
    const place = await changingOrganization(trx, input)
    const { organizationId } = place
    const { userId, role } = await requireOrganizationMember(trx, organizationId, input.userId)
    if (role !== input.role) {
      if (role === 'owner' || input.role === 'owner') requireOwner(place)
      const workspaces = await store.lockWorkspacesWithMember(trx, organizationId, userId)
      const change = inOrganization(workspaces, { before: role, after: input.role })
      await requireOwnersLeft(trx, organizationId, userId, change)
      await store.putOrganizationMember(trx, { organization_id: organizationId, user_id: userId, role: input.role })
      await recordChange(trx, input, place, {
        event: 'member.role_changed',
        userId,
        detail: { from: role, to: input.role },
      })
      revoke({ subject: membership(organizationId, userId), role: input.role })
      const by = { ...byOf(input), reason: 'role_changed' } as const
      await applyChange(trx, revoke, { organizationId, userId, change, servers, by })
    }
    const [member] = await store.listOrganizationMembers(trx, organizationId, userId)
    if (member === undefined) throw new AppError('not_found')
    return member
  })
}

/**
 * Removes somebody from an organization and all its workspaces.
 *
 * @throws {AppError} `not_found`, `last_owner` also where they are the last owner of a workspace, `role_too_low`
 */
export async function removeFromOrganization(
  { revocations, resourceServers }: MembersDeps,
  input: { organizationId: string; userId: string } & Asked,
): Promise<void> {
  const servers = await resourceServers.list()
  return revocations.change(async (trx, revoke) => {
    const place = await changingOrganization(trx, input, { gives: false })
    const { userId, role } = await requireOrganizationMember(trx, place.organizationId, input.userId)
    if (role === 'owner') requireOwner(place)
    const by = { ...byOf(input), reason: 'member_removed' } as const
    await leaveOrganization(trx, revoke, { organizationId: place.organizationId, userId, role, servers, by })
  })
}

/**
 * Somebody is in an organization and its workspaces no more: the part of a removal that an erased account shares. The
 * organization is locked by now.
 *
 * @throws {AppError} `last_owner`
 */
export async function leaveOrganization(
  trx: Trx,
  revoke: Revoke,
  input: {
    organizationId: OrganizationId
    userId: UserId
    role: OrganizationRole
    servers: readonly ResourceServer[]
    by: ChangedBy
  },
): Promise<void> {
  const { organizationId, userId, role, servers, by } = input
  const workspaces = await store.lockWorkspacesWithMember(trx, organizationId, userId)
  const change = inOrganization(workspaces, { before: role, after: null })
  await requireOwnersLeft(trx, organizationId, userId, change)
  for (const workspace of workspaces) await store.deleteWorkspaceMember(trx, workspace.id, userId)
  await store.renameOwner(
    trx,
    workspaces.map(({ id }) => id),
    userId,
  )
  await store.deleteOrganizationMember(trx, organizationId, userId)
  for (const placeId of [organizationId, ...workspaces.map(({ id }) => id)])
    revoke({ subject: membership(placeId, userId), role: 'none' })
  const { actor, request } = by
  const place = { organizationId, workspaceId: null }
  await record(trx, { event: 'member.removed', status: 'pass', actor, request, ...place, userId, detail: { role } })
  await applyChange(trx, revoke, { organizationId, userId, change, servers, by })
}

// --- Consequences ----------------------------------------------------------------------------------------------------------

type ChangedBy = { reason: RotationReason; actor: Actor; request: RequestInfo }

/** The places are locked by now; connections and tokens are locked in the order in which every transaction does. */
async function applyChange(
  trx: Trx,
  revoke: Revoke,
  input: {
    organizationId: OrganizationId
    userId: UserId
    change: RoleChange
    servers: readonly ResourceServer[]
    by: ChangedBy
  },
): Promise<void> {
  const { organizationId, userId, change, servers, by } = input
  const within = withinOf(organizationId, change)
  const sent = await listSent(trx, userId)
  const connections = await lockConnectionsIn(trx, userId, within.workspaceIds)
  const standing = {
    connections: connections.map((row) => ({ row, workspaceId: row.workspace_id, approved: row.approved })),
    tokens: await lockTokensOfPerson(trx, userId, within),
    invitations: sent.filter((invitation) => isWithin(within, invitation)),
  }
  const found = consequencesOf(change, standing, { servers, now: await readTime(trx) })
  await cancelSent(trx, found.cancels, by)
  for (const { connection, outcome } of found.connections)
    await applyRole(trx, revoke, { ...by, connection: connection.row, outcome })
  await requireRotations(trx, found.rotates, by)
  await askForReviews(trx, { workspaceIds: fallenIn(change), actor: by.actor, request: by.request })
}

/** The membership is locked by now; the one above it is locked here. */
async function inWorkspace(
  trx: Trx,
  place: { workspaceId: WorkspaceId; organizationId: OrganizationId },
  userId: UserId,
  roles: { before: WorkspaceRole; after: WorkspaceRole | null },
): Promise<RoleChange> {
  const member = await store.lockOrganizationMember(trx, place.organizationId, userId)
  const held = member?.role ?? null
  return { organization: { before: held, after: held }, workspaces: new Map([[place.workspaceId, roles]]) }
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
  input: { workspaceId: string; userId: string } & Asked,
  { gives = true } = {},
): Promise<WorkspacePlace> {
  await lockPeople(trx, input.authority, input.userId)
  await store.lockWorkspaceForUpdate(trx, input.workspaceId)
  return lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin', recentSignIn: gives })
}

async function changingOrganization(
  trx: Trx,
  input: { organizationId: string; userId: string } & Asked,
  { gives = true } = {},
): Promise<OrganizationPlace> {
  await lockPeople(trx, input.authority, input.userId)
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

async function memberOf(trx: Trx, workspaceId: WorkspaceId, userId: UserId): Promise<Member<WorkspaceRole>> {
  const [member] = await store.listWorkspaceMembers(trx, workspaceId, userId)
  if (member === undefined) throw new AppError('not_found')
  return member
}

const byOf = ({ authority, request }: Asked) => ({ actor: actorOf(authority), request })

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

// Who is in a workspace and in an organization. A role that falls takes with it what stood on it, in the transaction that
// changes the role: connections end, narrow or sign new tokens, and tokens that the person made must be rotated. There is
// always an owner.
import { findUser } from '../accounts/store.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { applyRole, type ConnectionView, listOwnConnections, lockConnectionsIn } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { isUserId, type OrganizationId, type UserId, type WorkspaceId } from '../ids.ts'
import { cancelSent, listSent } from '../invitations/service.ts'
import type { InvitationRow } from '../invitations/store.ts'
import { mayChangeOwners } from '../organizations/rules.ts'
import type { Asked } from '../organizations/service.ts'
import * as store from '../organizations/store.ts'
import { actorOf, lockAuthority, lockOrganizationAuthority, lockPeople } from '../principals/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { askForReviews } from '../reviews/service.ts'
import { membership } from '../revocation/rules.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import { type Db, type Executor, reading, readTime, type Trx, transact } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { ROTATE_WITHIN_DAYS, type RotationReason, rotationRequired } from '../workspace-tokens/rules.ts'
import { listTokensOfPerson, lockTokensOfPerson, requireRotations } from '../workspace-tokens/service.ts'
import type { TokenLine } from '../workspace-tokens/store.ts'
import { type Consequences, consequencesOf, fallenIn, type RoleChange } from './rules.ts'

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

/** What a change of somebody's roles would come to, before anybody decides. */
export interface Preview extends Consequences<ConnectionView, TokenLine, InvitationRow> {
  userId: UserId
  /** Where they are the last owner: such a change is refused. */
  lastOwnerOf: OwnedPlace[]
  /** By when what must be rotated is to be: of each token. */
  rotateBy: (token: TokenLine) => Date
  /** Where an access review opens, if anything is left there to attest. */
  reviewedIn: WorkspaceId[]
}

/**
 * What each of these roles in a workspace would come to for a member.
 *
 * @param input.roles null: removal
 * @throws {AppError} `not_found` for somebody who is no member
 */
export async function previewInWorkspace(
  deps: MembersDeps,
  input: {
    workspace: { id: WorkspaceId; organization_id: OrganizationId }
    userId: string
    roles: ReadonlyArray<WorkspaceRole | null>
  },
): Promise<Preview[]> {
  const { id, organization_id: organizationId } = input.workspace
  const member = await findWorkspaceMember(deps.db, id, input.userId)
  if (member === undefined) throw new AppError('not_found', { detail: 'Nobody in this workspace has that id.' })
  const organization = await reading(store.findOrganizationMember(deps.db, organizationId, member.user_id))
  const held = organization?.role ?? null
  const changes = input.roles.map((after) => ({
    organization: { before: held, after: held },
    workspaces: new Map([[id, { before: member.role, after }]]),
  }))
  return previews(deps, { organizationId, userId: member.user_id, changes })
}

/** The same, of roles in an organization. */
export async function previewInOrganization(
  deps: MembersDeps,
  input: { organizationId: OrganizationId; userId: string; roles: ReadonlyArray<OrganizationRole | null> },
): Promise<Preview[]> {
  const { organizationId } = input
  const member = await findOrganizationMember(deps.db, organizationId, input.userId)
  if (member === undefined) throw new AppError('not_found', { detail: 'Nobody in this organization has that id.' })
  const workspaces = await reading(store.listWorkspacesWithMember(deps.db, organizationId, member.user_id))
  const changes = input.roles.map((after) => inOrganization(workspaces, { before: member.role, after }))
  return previews(deps, { organizationId, userId: member.user_id, changes })
}

interface Previewing {
  organizationId: OrganizationId
  userId: UserId
  changes: readonly RoleChange[]
}

/** What stands on somebody's roles is read once, for all that it is asked about. */
async function previews(
  { db, resourceServers }: MembersDeps,
  { organizationId, userId, changes }: Previewing,
): Promise<Preview[]> {
  const everywhere = { workspaceIds: changes.flatMap(({ workspaces }) => [...workspaces.keys()]), organizationId }
  const [servers, now, connections, tokens, sent] = await Promise.all([
    resourceServers.list(),
    reading(readTime(db)),
    listOwnConnections(db, userId),
    reading(listTokensOfPerson(db, userId, everywhere)),
    reading(listSent(db, userId)),
  ])
  const all = connections.map((view) => ({ view, workspaceId: view.workspace.id, approved: view.approved }))
  const rotateBy = (token: TokenLine) =>
    rotationRequired(token, token.versions, now)?.by ?? new Date(now.getTime() + ROTATE_WITHIN_DAYS * DAY_MS)
  return Promise.all(
    changes.map(async (change) => {
      const within = withinOf(organizationId, change)
      const standing = {
        connections: all.filter(({ workspaceId }) => within.workspaceIds.includes(workspaceId)),
        tokens: tokens.filter(({ workspaceId }) => workspaceId !== null || within.organizationId !== null),
        invitations: sent.filter((invitation) => isWithin(within, invitation)),
      }
      const found = isUnchanged(change) ? NOTHING : consequencesOf(change, standing, { servers, now })
      return {
        ...found,
        connections: found.connections.map(({ connection, outcome }) => ({ connection: connection.view, outcome })),
        userId,
        lastOwnerOf: await reading(lastOwned(db, organizationId, userId, change)),
        rotateBy,
        reviewedIn: fallenIn(change),
      }
    }),
  )
}

const NOTHING = { connections: [], rotates: [], cancels: [] }
const DAY_MS = 86_400_000

/** The role that they have already: nothing is changed then. */
function isUnchanged({ organization, workspaces }: RoleChange): boolean {
  return [organization, ...workspaces.values()].every(({ before, after }) => before === after)
}

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

/** Where a change reaches: keys and invitations of the organization itself only when the role there changes. */
function withinOf(organizationId: OrganizationId, { organization, workspaces }: RoleChange) {
  const isOfOrganization = organization.before !== organization.after
  return { workspaceIds: [...workspaces.keys()], organizationId: isOfOrganization ? organizationId : null }
}

function isWithin(
  within: ReturnType<typeof withinOf>,
  { organization_id, workspace_id }: Pick<InvitationRow, 'organization_id' | 'workspace_id'>,
): boolean {
  return workspace_id === null ? organization_id === within.organizationId : within.workspaceIds.includes(workspace_id)
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

/** A role in the organization counts in each of its workspaces; whoever leaves it leaves them. */
function inOrganization(
  workspaces: ReadonlyArray<{ id: WorkspaceId; role: WorkspaceRole | null }>,
  organization: { before: OrganizationRole; after: OrganizationRole | null },
): RoleChange {
  const after = (role: WorkspaceRole | null) => (organization.after === null ? null : role)
  return {
    organization,
    workspaces: new Map(workspaces.map(({ id, role }) => [id, { before: role, after: after(role) }])),
  }
}

// --- Owners ----------------------------------------------------------------------------------------------------------------

export interface OwnedPlace {
  kind: 'organization' | 'workspace'
  id: OrganizationId | WorkspaceId
  name: string
}

/** Places that a change would leave without an owner. */
async function lastOwned(
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

async function requireOwnersLeft(
  trx: Trx,
  organizationId: OrganizationId,
  userId: UserId,
  change: RoleChange,
): Promise<void> {
  const places = await lastOwned(trx, organizationId, userId, change)
  if (places.length > 0) throw new AppError('last_owner', { detail: lastOwnerDetail(places) })
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

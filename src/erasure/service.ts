// The end of an account: what acts for the person ends, what they made is the workspaces' and must be rotated, and the row
// that names them goes. The random id stays in the log, and the chain with it.
import { randomUUID } from 'node:crypto'
import { emailKey, isSessionGood } from '../accounts/rules.ts'
import { findUser } from '../accounts/store.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { closeAllOf, listOwnConnections } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import type { UserId } from '../ids.ts'
import { cancelSent, listSent } from '../invitations/service.ts'
import { endEverySession } from '../logout/service.ts'
import { leaveOrganization, type MembersDeps } from '../members/service.ts'
import { lockOrganizationForUpdate } from '../organizations/store.ts'
import { lastOwnerDetail, lockLastOwned, type OwnedPlace } from '../ownership/service.ts'
import { RECENT_SIGN_IN_SECONDS } from '../principals/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { Revoke } from '../revocation/service.ts'
import { previewInOrganization } from '../role-previews/service.ts'
import { reading, readTime, type Trx } from '../store/database.ts'
import * as store from './store.ts'

/** What an erasure would come to, before anybody decides. */
export interface ErasurePreview {
  id: UserId
  organizations: Array<{ id: string; name: string }>
  connections: Array<{ id: string; client_name: string; workspace_name: string; since: Date }>
  /** Tokens that they made, and that must be rotated. */
  tokens: Array<{ id: string; label: string }>
  invitations: number
  /** Where they are the last owner: they cannot go before there is another one. */
  lastOwnerOf: OwnedPlace[]
}

/** @throws {AppError} `not_found` for an unknown person */
export async function previewErasure(deps: MembersDeps, user: string): Promise<ErasurePreview> {
  const found = await reading(findUser(deps.db, user))
  if (found === undefined) throw unknown(user)
  const { id } = found
  const memberships = await reading(store.listMemberships(deps.db, id))
  const leaving = await Promise.all(
    memberships.map(async ({ organization_id: organizationId }) => {
      const [preview] = await previewInOrganization(deps, { organizationId, userId: id, roles: [null] })
      return preview === undefined ? [] : [preview]
    }),
  )
  const previews = leaving.flat()
  const connections = await listOwnConnections(deps.db, id)
  return {
    id,
    organizations: memberships.map(({ organization_id, name }) => ({ id: organization_id, name })),
    connections: connections.map((view) => ({
      id: view.id,
      client_name: view.client.name,
      workspace_name: view.workspace.name,
      since: view.createdAt,
    })),
    tokens: previews.flatMap(({ rotates }) => rotates.map(({ id, label }) => ({ id, label }))),
    invitations: (await reading(listSent(deps.db, id))).length,
    lastOwnerOf: previews.flatMap(({ lastOwnerOf }) => lastOwnerOf),
  }
}

/**
 * Erases an account: once this resolves the person is signed out everywhere, nothing acts for them any more, and no row
 * holds their name or address. An account that is opened with the same address later is another one.
 *
 * @param input.signedInAt of the session that asks, in seconds since the epoch; without one an operator does
 * @throws {AppError} `not_found` for an unknown person, `last_owner` where there must be another one first, `unauthorized`
 * and `recent_sign_in_required` for the session
 */
export async function eraseAccount(
  { revocations, resourceServers, db }: MembersDeps,
  input: { user: string; signedInAt?: number; actor: Actor; request: RequestInfo },
): Promise<{ id: UserId }> {
  const servers = await resourceServers.list()
  const found = await reading(findUser(db, input.user))
  if (found === undefined) throw unknown(input.user)
  return revocations.change(async (trx, revoke) => {
    const user = await store.lockForErasure(trx, found.id)
    if (user === undefined) throw unknown(input.user)
    if (input.signedInAt !== undefined) await requireRecent(trx, user, input.signedInAt)
    const memberships = await lockMemberships(trx, user.id)
    const places = await lockOwned(trx, user.id, memberships)
    if (places.length > 0) throw new AppError('last_owner', { detail: lastOwnerDetail(places) })
    await erase(trx, revoke, { user, memberships, servers, actor: input.actor, request: input.request })
    return { id: user.id }
  })
}

/**
 * Erases once more whom a backup has brought back. Who is the last owner of a place again (whom they made one is lost)
 * keeps a row that names nobody, and is suspended: the place has to get another owner before it can go.
 *
 * @returns undefined for somebody who is not there
 */
export async function eraseAgain(
  trx: Trx,
  revoke: Revoke,
  input: { userId: UserId; servers: readonly ResourceServer[]; actor: Actor; request: RequestInfo },
): Promise<'erased' | 'last_owner' | undefined> {
  const user = await store.lockForErasure(trx, input.userId)
  if (user === undefined) return undefined
  const memberships = await lockMemberships(trx, user.id)
  if ((await lockOwned(trx, user.id, memberships)).length === 0) {
    await erase(trx, revoke, { ...input, user, memberships })
    return 'erased'
  }
  const { actor, request } = input
  await endAllOf(trx, revoke, user, { reason: 'account_erased', actor, request })
  await store.forgetName(trx, user.id, `${randomUUID()}@erased.invalid`) // that nobody can have taken before
  const detail = { reason: 'account_erased' }
  await record(trx, { event: 'user.suspended', status: 'pass', actor, request, userId: user.id, detail })
  return 'last_owner'
}

interface Person {
  id: UserId
  email: string
}

/** The memberships are locked by now, and no place is left without an owner. */
async function erase(
  trx: Trx,
  revoke: Revoke,
  input: {
    user: Person
    memberships: readonly store.Membership[]
    servers: readonly ResourceServer[]
    actor: Actor
    request: RequestInfo
  },
): Promise<void> {
  const { user, memberships, servers, actor, request } = input
  const by = { reason: 'account_erased', actor, request } as const
  const { id: userId } = user
  await endEverySession(trx, { userId, reason: 'erased', request }) // while their connections are known
  for (const { organization_id: organizationId, role } of memberships)
    await leaveOrganization(trx, revoke, { organizationId, userId, role, servers, by })
  await endAllOf(trx, revoke, user, by)
  await store.deleteUser(trx, userId)
  const chains = memberships.length === 0 ? [null] : memberships.map(({ organization_id }) => organization_id)
  for (const organizationId of chains)
    await record(trx, { event: 'user.erased', status: 'pass', actor, request, organizationId, userId })
  revoke({ subject: userId, closed: true, suspended: true, notBeforeNow: true }) // for good: a restore erases them again
}

/** What acts for them, and what holds their address, but for their own row. */
async function endAllOf(
  trx: Trx,
  revoke: Revoke,
  { id: userId, email }: Person,
  by: { reason: 'account_erased'; actor: Actor; request: RequestInfo },
): Promise<void> {
  await cancelSent(trx, await listSent(trx, userId), by)
  await closeAllOf(trx, revoke, { ...by, userId })
  await store.forgetDevices(trx, userId)
  await forgetAddress(trx, emailKey(email), by)
}

async function lockMemberships(trx: Trx, userId: UserId): Promise<store.Membership[]> {
  const memberships = await store.listMemberships(trx, userId)
  for (const { organization_id } of memberships) await lockOrganizationForUpdate(trx, organization_id)
  return memberships
}

async function requireRecent(
  trx: Trx,
  user: { suspended_at: Date | null; sessions_not_before: Date | null },
  signedInAt: number,
): Promise<void> {
  const state = { suspendedAt: user.suspended_at, sessionsNotBefore: user.sessions_not_before }
  if (!isSessionGood(state, signedInAt)) throw new AppError('unauthorized')
  const age = (await readTime(trx)).getTime() / 1000 - signedInAt
  if (age > RECENT_SIGN_IN_SECONDS) throw new AppError('recent_sign_in_required')
}

/** Places that they are the last owner of: all of them at once, so that a person knows what is still to be done. */
async function lockOwned(trx: Trx, userId: UserId, memberships: readonly store.Membership[]): Promise<OwnedPlace[]> {
  const places: OwnedPlace[] = []
  for (const { organization_id: organizationId, role } of memberships)
    places.push(...(await lockLastOwned(trx, { organizationId, userId, role })))
  return places
}

/** Invitations of theirs, open or long accepted, and bills that went to them. */
async function forgetAddress(
  trx: Trx,
  key: string,
  { reason, actor, request }: { reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  for (const invitation of await store.deleteInvitationsTo(trx, key))
    await record(trx, {
      event: 'invitation.cancelled',
      status: 'pass',
      actor,
      request,
      organizationId: invitation.organization_id,
      workspaceId: invitation.workspace_id,
      detail: { invitation: invitation.id, role: invitation.role, reason },
    })
  for (const { id: workspaceId, organization_id: organizationId } of await store.clearBillingAddress(trx, key))
    await record(trx, {
      event: 'workspace.changed',
      status: 'pass',
      actor,
      request,
      organizationId,
      workspaceId,
      detail: { changed: ['billing_email'], reason },
    })
}

function unknown(user: string): AppError {
  return new AppError('not_found', { detail: `There is no person ${user}.` })
}

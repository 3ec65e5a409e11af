// Connections: approved, widened, granted to a client, and the families of tokens below them.

import { isSessionGood } from '../accounts/rules.ts'
import { lockUser } from '../accounts/store.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { lockClient } from '../clients/store.ts'
import type { SecretDigest } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import * as families from '../families/store.ts'
import {
  type ConnectionId,
  type FamilyId,
  isConnectionId,
  isWorkspaceId,
  newId,
  type OrganizationId,
  type ReviewId,
  type UserId,
  type WorkspaceId,
} from '../ids.ts'
import { isAtLeast, mayConnect } from '../organizations/rules.ts'
import { lockRole } from '../organizations/service.ts'
import { lockWorkspace } from '../organizations/store.ts'
import type { Authority } from '../principals/rules.ts'
import { actorOf, lockAuthority, requireAttester } from '../principals/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import * as reviews from '../reviews/store.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import { batched } from '../store/batch.ts'
import { type Db, reading, type Trx, transact } from '../store/database.ts'
import { setSuspended } from '../store/suspension.ts'
import type { Approved, Environment } from '../store/tables.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import { beyond, cutToRole, isNothing, type Requested, type WithRole, widen } from './rules.ts'
import * as store from './store.ts'

/** What requests read of connections; reads that meet go to the database together. Each rejects with `unavailable`. */
export interface ConnectionReads {
  connection(id: string): Promise<store.ConnectionFacts | undefined>
  refreshToken(digest: SecretDigest): Promise<families.RefreshTokenRow | undefined>
  /** Where an admin granted a client itself. */
  ofClient(clientId: string): Promise<store.ConnectionFacts[] | undefined>
}

export function createConnectionReads(db: Db): ConnectionReads {
  return {
    connection: batched((ids: string[]) => reading(store.findConnections(db, ids))),
    refreshToken: batched((digests: SecretDigest[]) => reading(families.findRefreshTokens(db, digests))),
    ofClient: batched((clientIds: string[]) => reading(store.listOpenOfClients(db, clientIds))),
  }
}

export type ApprovalOutcome =
  | { ok: true; connectionId: ConnectionId; granted: Requested }
  | { ok: false; reason: 'signed_out' | 'client_gone' | 'no_role' | 'nothing_granted' | 'suspended' }

/**
 * A person approves a client for a workspace: a new connection, or more scopes for the open one. What authorises it is
 * locked and checked in the same transaction.
 */
export function approve(
  db: Db,
  input: {
    userId: UserId
    /** Seconds since the epoch. */
    signedInAt: number
    clientId: string
    workspaceId: string
    requested: Requested
    servers: readonly ResourceServer[]
    request: RequestInfo
  },
): Promise<ApprovalOutcome> {
  return transact(db, async (trx): Promise<ApprovalOutcome> => {
    if (!(await lockSignedIn(trx, input.userId, input.signedInAt))) return { ok: false, reason: 'signed_out' }
    const place = isWorkspaceId(input.workspaceId) && (await lockRole(trx, input.workspaceId, input.userId))
    if (!place || !mayConnect(place.role)) return { ok: false, reason: 'no_role' }
    const client = await lockClient(trx, input.clientId)
    if (client === undefined) return { ok: false, reason: 'client_gone' }
    const granted = cutToRole(input.requested, input.servers, place.role)
    if (isNothing(granted)) return { ok: false, reason: 'nothing_granted' }
    const connectionId = await openOrWiden(trx, {
      userId: input.userId,
      client,
      place,
      granted,
      by: { actor: { kind: 'user', id: input.userId }, request: input.request },
    })
    return connectionId === undefined ? { ok: false, reason: 'suspended' } : { ok: true, connectionId, granted }
  })
}

/**
 * An admin grants a confidential client to a workspace, for client credentials: a connection without a person.
 *
 * @throws {AppError} `not_found` for an unknown client or workspace, `suspended` where the one that stands is
 */
export function grantToClient(
  db: Db,
  input: {
    clientId: string
    workspaceId: string
    resources: Requested['resources']
    actor: Actor
    request: RequestInfo
  },
): Promise<{ id: ConnectionId; client_id: string; workspace_id: WorkspaceId; resources: Requested['resources'] }> {
  return transact(db, async (trx) => {
    const workspace = await lockWorkspace(trx, input.workspaceId)
    if (workspace === undefined)
      throw new AppError('not_found', { detail: `There is no workspace ${input.workspaceId}.` })
    const client = await lockClient(trx, input.clientId)
    if (client === undefined) throw new AppError('not_found', { detail: `There is no client ${input.clientId}.` })
    const id = await openOrWiden(trx, {
      userId: null,
      client,
      place: { workspaceId: workspace.id, organizationId: workspace.organization_id },
      granted: { openidScopes: [], claims: [], resources: input.resources },
      by: input,
    })
    if (id === undefined) throw new AppError('suspended')
    return { id, client_id: client.id, workspace_id: workspace.id, resources: input.resources }
  })
}

interface Opening {
  userId: UserId | null
  client: NonNullable<Awaited<ReturnType<typeof lockClient>>>
  place: { workspaceId: WorkspaceId; organizationId: store.ConnectionFacts['organizationId'] }
  granted: Requested
  by: { actor: Actor; request: RequestInfo }
}

/** @returns undefined where one stands that is suspended: an approval must not walk around that */
async function openOrWiden(trx: Trx, opening: Opening): Promise<ConnectionId | undefined> {
  const { userId, client, place, granted } = opening
  const id = newId('con')
  const inserted = await store.insertConnection(trx, {
    id,
    user_id: userId,
    client_id: client.id,
    workspace_id: place.workspaceId,
    organization_id: place.organizationId,
    environment: client.environment,
    approved: widen({}, granted),
    created_by: opening.by.actor.id ?? opening.by.actor.kind,
  })
  if (inserted !== undefined) {
    const review = await comeIntoReview(trx, id)
    await recordOpening(trx, opening, { event: 'connection.approved', id, version: inserted.version, review })
    return id
  }
  const open = await store.lockOpen(trx, userId, client.id, place.workspaceId)
  if (open === undefined) throw new AppError('unavailable') // closed between the two statements: the next try opens a new one
  if (open.suspended_at !== null) return undefined
  if (!isNothing(beyond(granted, open.approved)))
    await store.updateApproved(trx, open.id, widen(open.approved, granted))
  await recordOpening(trx, opening, { event: 'connection.approved_again', id: open.id, version: open.version })
  return open.id
}

/**
 * A person who ends a connection and approves the same app again does not get around an open review: it looks at it again,
 * with the word that it had if that covers it. @returns which review
 */
async function comeIntoReview(trx: Trx, id: ConnectionId): Promise<ReviewId | undefined> {
  const review = await reviews.lockOpenReviewOfSuccessor(trx, id)
  const row = review && (await store.findOpen(trx, id))
  if (review === undefined || row === undefined) return undefined
  await reviews.insertItems(trx, review, [
    { id: newId('rvi'), kind: 'connection', subject_id: id, snapshot: snapshotOf(toView(row)) },
  ])
  await reviews.takeOverAttestation(trx, review, id)
  return review
}

function recordOpening(
  trx: Trx,
  opening: Opening,
  what: { event: string; id: ConnectionId; version: number; review?: ReviewId | undefined },
): Promise<void> {
  return record(trx, {
    event: what.event,
    status: 'pass',
    ...opening.by,
    organizationId: opening.place.organizationId,
    workspaceId: opening.place.workspaceId,
    userId: opening.userId,
    clientId: opening.client.id,
    credentialId: what.id,
    tokenVersion: what.version,
    detail: {
      openid: opening.granted.openidScopes,
      resources: opening.granted.resources,
      ...(what.review === undefined ? {} : { review: what.review }),
    },
  })
}

/** An open connection as it stood at `now`, the database's time. */
export interface ConnectionView {
  id: ConnectionId
  client: { id: string; name: string }
  /** Who approved it; null: an admin granted the client itself. */
  userId: UserId | null
  workspace: { id: WorkspaceId; name: string }
  organization: { id: OrganizationId; name: string }
  environment: Environment
  version: number
  /** By API, its scopes. */
  resources: Record<string, string>
  approved: Approved
  createdAt: Date
  /** Until an admin restores it. */
  suspendedAt: Date | null
  /** Of any of its versions. An address or an agent that nobody told is empty. */
  lastUse: { at: Date; address: string; agent: string } | undefined
  now: Date
}

function toView(row: Awaited<ReturnType<typeof store.listOpenInWorkspace>>[number]): ConnectionView {
  return {
    id: row.id,
    client: { id: row.client_id, name: row.client_name },
    userId: row.user_id,
    workspace: { id: row.workspace_id, name: row.workspace_name },
    organization: { id: row.organization_id, name: row.organization_name },
    environment: row.environment,
    version: row.version,
    resources: row.approved.resources ?? {},
    approved: row.approved,
    createdAt: row.created_at,
    suspendedAt: row.suspended_at,
    lastUse:
      row.last_used_at === null
        ? undefined
        : { at: row.last_used_at, address: row.last_used_address ?? '', agent: row.last_used_agent ?? '' },
    now: row.now,
  }
}

/** What a review keeps of one. */
export function snapshotOf(view: ConnectionView) {
  return {
    client_id: view.client.id,
    client_name: view.client.name,
    user_id: view.userId,
    resources: view.resources,
    environment: view.environment,
    token_version: `v${view.version}`,
    suspended: view.suspendedAt !== null,
    created_at: rfc3339(view.createdAt),
    last_used_at: rfc3339OrNull(view.lastUse?.at ?? null),
  }
}

/** Of a workspace, oldest first. The caller has been let in by now. */
export async function listConnections(db: Db, workspaceId: WorkspaceId): Promise<ConnectionView[]> {
  return (await reading(store.listOpenInWorkspace(db, workspaceId))).map(toView)
}

/** What a person approved themselves, in every workspace and organization, oldest first. */
export async function listOwnConnections(db: Db, userId: UserId): Promise<ConnectionView[]> {
  return (await reading(store.listOpenOfPersonAnywhere(db, userId))).map(toView)
}

/** Whose connection is looked for: a workspace's, or what a person approved wherever. */
export type Within = { workspaceId: WorkspaceId } | { userId: UserId }

/** An open connection; undefined for one that has ended, is another's, or never was. */
export async function findOpenConnection(db: Db, within: Within, id: string): Promise<ConnectionView | undefined> {
  const row = isConnectionId(id) ? await reading(store.findOpen(db, id)) : undefined
  if (row === undefined) return undefined
  const isWithin = 'userId' in within ? row.user_id === within.userId : row.workspace_id === within.workspaceId
  return isWithin ? toView(row) : undefined
}

export type UsedVersion = Awaited<ReturnType<typeof store.listUsedVersions>>[number]

/** The versions of a connection that were used, newest first. The caller has been let in by now. */
export function listUsedVersions(db: Db, id: ConnectionId): Promise<UsedVersion[]> {
  return reading(store.listUsedVersions(db, id))
}

/**
 * Closes a connection for good: its refresh tokens are gone, and no token of it is active at introspection. A later
 * approval is a new connection.
 *
 * @throws {AppError} `not_found` for one that is unknown, or closed already
 */
export function closeConnection(
  revocations: RevocationList,
  input: { id: string; reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  return revocations.change(async (trx, revoke) => {
    const connection = await store.lockConnection(trx, input.id)
    if (connection === undefined || connection.closed_at !== null) {
      throw new AppError('not_found', { detail: `There is no open connection ${input.id}.` })
    }
    await store.closeConnection(trx, connection.id, input.reason)
    await record(trx, {
      event: 'connection.closed',
      status: 'pass',
      actor: input.actor,
      request: input.request,
      organizationId: connection.organization_id,
      workspaceId: connection.workspace_id,
      userId: connection.user_id,
      clientId: connection.client_id,
      credentialId: connection.id,
      tokenVersion: connection.version,
      detail: { reason: input.reason },
    })
    revoke({ subject: connection.id, closed: true })
  })
}

/**
 * Ends a connection as a part of the caller's transaction, who has been let in by now. Doing it twice changes nothing.
 *
 * @throws {AppError} `not_found` for one that never was
 */
export async function endConnection(
  trx: Trx,
  revoke: Revoke,
  input: { id: ConnectionId; reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  const connection = await store.lockConnection(trx, input.id)
  if (connection === undefined) throw new AppError('not_found')
  revoke({ subject: connection.id, closed: true })
  if (connection.closed_at !== null) return
  await store.closeConnection(trx, connection.id, input.reason)
  await recordEnd(trx, connection, { ...input, event: 'connection.closed', version: connection.version })
}

/** A change of one connection that somebody asks for over the API or a page. */
export interface Asked {
  workspaceId: string
  id: string
  authority: Authority
  request: RequestInfo
}

/** The same, by the person who approved it, wherever that was and whatever they are there now. */
export interface AskedByOwner {
  id: string
  authority: Extract<Authority, { kind: 'person' }>
  request: RequestInfo
}

/**
 * Ends a connection: everything that came of it is refused everywhere once this resolves. Whoever approved it may, and an
 * admin; one that is suspended an admin alone, or its person would end it and approve another one. Doing it twice changes
 * nothing.
 *
 * @throws {AppError} `not_found`, `role_too_low`, `suspended`, and what `lockAuthority` throws
 */
export function disconnect(revocations: RevocationList, input: Asked | AskedByOwner): Promise<void> {
  return revocations.change(async (trx, revoke) => {
    const connection = await lockToChange(trx, input)
    revoke({ subject: connection.id, closed: true })
    if (connection.closed_at !== null) return
    if (connection.suspended_at !== null && !connection.isAdmin) throw new AppError('suspended')
    await store.closeConnection(trx, connection.id, 'revoked')
    await recordEnd(trx, connection, { ...by(input), event: 'connection.closed', version: connection.version })
  })
}

/**
 * "Make it sign a new token": what was issued is dead, and the next refresh brings tokens of a new version.
 *
 * @throws {AppError} as `disconnect`; `conflict` for one that has ended
 */
export function makeItSignAnew(
  revocations: RevocationList,
  input: Asked | AskedByOwner,
): Promise<{ token_version: string }> {
  return revocations.change(async (trx, revoke) => {
    const connection = await lockToChange(trx, input)
    if (connection.closed_at !== null) throw new AppError('conflict', { detail: 'This connection has ended.' })
    const floor = await store.raiseFloor(trx, connection.id)
    await recordEnd(trx, connection, { ...by(input), event: 'connection.version_raised', version: floor })
    revoke({ subject: connection.id, floor })
    return { token_version: `v${floor}` }
  })
}

/**
 * Suspends a connection, or lifts it. While it is suspended its JWTs are refused, and its refresh tokens without being
 * consumed: they work again once it is lifted, and bring tokens of a new version. What was issued before stays refused. Part
 * of the caller's transaction; doing it twice changes nothing, and one that has ended stays ended.
 *
 * @param input.reason a fixed word such as `not_attested`, never a person's text
 * @throws {AppError} `not_found` for one that never was
 */
export async function setConnectionSuspended(
  trx: Trx,
  revoke: Revoke,
  input: { id: ConnectionId; suspended: boolean; reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  const { suspended } = input
  const connection = await store.lockConnection(trx, input.id)
  if (connection === undefined) throw new AppError('not_found')
  if (connection.closed_at !== null) return revoke({ subject: connection.id, closed: true })
  if (!(await setSuspended(trx, 'connections', connection.id, suspended ? { reason: input.reason } : null)))
    return revoke({ subject: connection.id, suspended })
  const floor = suspended ? await store.raiseFloor(trx, connection.id) : connection.version
  const event = suspended ? 'connection.suspended' : 'connection.restored'
  await recordEnd(trx, connection, { ...input, event, version: floor })
  revoke({ subject: connection.id, suspended, ...(suspended ? { floor } : {}) })
}

/**
 * The same, for an admin who asks for it. Giving back what was taken takes a recent sign-in, and whoever could attest it.
 *
 * @throws {AppError} `not_found`, `conflict` for one that has ended, `wrong_credential`, and what `lockAuthority` throws
 */
export function suspendConnection(
  revocations: RevocationList,
  input: Asked & { suspended: boolean },
): Promise<ConnectionView> {
  const { suspended } = input
  return revocations.change(async (trx, revoke) => {
    const needs = { role: 'admin', recentSignIn: !suspended } as const
    const place = await lockAuthority(trx, input.authority, input.workspaceId, needs)
    if (!suspended) await requireAttester(trx, input.authority)
    const connection = await store.lockConnection(trx, input.id)
    if (connection?.workspace_id !== place.workspaceId) throw new AppError('not_found')
    if (connection.closed_at !== null) throw new AppError('conflict', { detail: 'This connection has ended.' })
    await setConnectionSuspended(trx, revoke, { ...by(input), id: connection.id, suspended })
    const row = await store.findOpen(trx, connection.id)
    if (row === undefined) throw new AppError('not_found') // its client was deleted
    return toView(row)
  })
}

const by = ({ authority, request }: Asked | AskedByOwner) => ({
  actor: actorOf(authority),
  request,
  reason: 'asked_for',
})

async function lockToChange(trx: Trx, input: Asked | AskedByOwner) {
  if (!('workspaceId' in input)) return lockOwn(trx, input)
  const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'member', recentSignIn: false })
  const connection = await store.lockConnection(trx, input.id)
  if (connection?.workspace_id !== place.workspaceId) throw new AppError('not_found')
  const isOwn = input.authority.kind === 'person' && connection.user_id === input.authority.userId
  const isAdmin = isAtLeast(place.role, 'admin')
  if (!isOwn && !isAdmin) {
    throw new AppError('role_too_low', { detail: 'Only an admin ends what somebody else approved.' })
  }
  return { ...connection, isAdmin }
}

/** No role counts: whoever has left a workspace still ends what they approved there. */
async function lockOwn(trx: Trx, { id, authority }: AskedByOwner) {
  const { userId, signedInAt } = authority
  if (!(await lockSignedIn(trx, userId, signedInAt))) throw new AppError('unauthorized')
  const connection = await store.lockConnection(trx, id)
  if (connection?.user_id !== userId) throw new AppError('not_found')
  return { ...connection, isAdmin: false }
}

/** False for a session from before "sign out everywhere", and for a person who is suspended or gone. */
async function lockSignedIn(trx: Trx, userId: UserId, signedInAt: number): Promise<boolean> {
  const user = await lockUser(trx, userId)
  if (user === undefined) return false
  return isSessionGood({ suspendedAt: user.suspended_at, sessionsNotBefore: user.sessions_not_before }, signedInAt)
}

export type FamilyEnd = 'code_replayed' | 'refresh_token_reused' | 'refresh_token_revoked'

/**
 * Ends a family: its refresh tokens go, and the connection's floor rises, so that its JWTs are dead too. Other
 * families of the connection refresh on. Doing it twice changes nothing.
 */
export function endFamily(
  revocations: RevocationList,
  input: { connectionId: ConnectionId; familyId: FamilyId; reason: FamilyEnd; actor: Actor; request: RequestInfo },
): Promise<void> {
  return revocations.change(async (trx, revoke) => {
    const connection = await store.lockConnection(trx, input.connectionId) // before the family: the lock order
    if (connection === undefined || !(await families.endFamily(trx, input.familyId, input.reason))) return
    const floor = await store.raiseFloor(trx, connection.id)
    await record(trx, {
      event: EVENT_OF[input.reason],
      status: input.reason === 'refresh_token_revoked' ? 'pass' : 'fail',
      actor: input.actor,
      request: input.request,
      organizationId: connection.organization_id,
      workspaceId: connection.workspace_id,
      userId: connection.user_id,
      clientId: connection.client_id,
      credentialId: connection.id,
      tokenVersion: floor,
      detail: { family: input.familyId },
    })
    revoke({ subject: connection.id, floor })
  })
}

const EVENT_OF: Record<FamilyEnd, string> = {
  code_replayed: 'code.reuse_detected',
  refresh_token_reused: 'refresh_token.reuse_detected',
  refresh_token_revoked: 'family.ended',
}

/**
 * All connections of a person sign new tokens from now on: what was issued before is dead. Those that refresh recover by
 * themselves. Part of the transaction of what happened to the person. @returns how many there are
 */
export async function signNewTokens(
  trx: Trx,
  revoke: Revoke,
  input: { userId: UserId; reason: string; actor: Actor; request: RequestInfo },
): Promise<number> {
  const connections = await store.lockOpenOfPersonAnywhere(trx, input.userId)
  for (const connection of connections) {
    const floor = await store.raiseFloor(trx, connection.id)
    await recordEnd(trx, connection, { ...input, event: 'connection.version_raised', version: floor })
    revoke({ subject: connection.id, floor })
  }
  return connections.length
}

/**
 * All connections of a person are over, and what was issued to them. Part of the transaction of what happened to the person.
 */
export async function closeAllOf(
  trx: Trx,
  revoke: Revoke,
  input: { userId: UserId; reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  for (const connection of await store.lockOpenOfPersonAnywhere(trx, input.userId)) {
    await store.closeConnection(trx, connection.id, input.reason)
    await recordEnd(trx, connection, { ...input, event: 'connection.closed', version: connection.version })
    revoke({ subject: connection.id, closed: true })
  }
}

/** A person's open connections in these workspaces, locked to change them. */
export const lockConnectionsIn = store.lockOpenOfPersonIn
export type LockedConnection = Awaited<ReturnType<typeof lockConnectionsIn>>[number]

/**
 * A person's role has changed: what it no longer holds of a connection is gone, and what was issued is dead. Part of the
 * transaction that changes the role.
 */
export async function applyRole(
  trx: Trx,
  revoke: Revoke,
  input: {
    connection: LockedConnection
    outcome: WithRole
    reason: string
    actor: Actor
    request: RequestInfo
  },
): Promise<void> {
  const { connection, outcome, ...by } = input
  if (outcome.kind === 'ends') {
    await store.closeConnection(trx, connection.id, by.reason)
    await recordEnd(trx, connection, { ...by, event: 'connection.closed', version: connection.version })
    return revoke({ subject: connection.id, closed: true })
  }
  if (outcome.kind === 'narrows') await store.updateApproved(trx, connection.id, outcome.approved)
  const floor = await store.raiseFloor(trx, connection.id)
  const narrowed = outcome.kind === 'narrows' ? { resources: outcome.approved.resources ?? {} } : {}
  await recordEnd(trx, connection, { ...by, event: 'connection.version_raised', version: floor, detail: narrowed })
  revoke({ subject: connection.id, floor })
}

function recordEnd(
  trx: Trx,
  connection: Awaited<ReturnType<typeof store.lockOpenOfPersonAnywhere>>[number],
  what: {
    event: string
    version: number
    reason: string
    detail?: Record<string, unknown>
    actor: Actor
    request: RequestInfo
  },
): Promise<void> {
  return record(trx, {
    event: what.event,
    status: 'pass',
    actor: what.actor,
    request: what.request,
    organizationId: connection.organization_id,
    workspaceId: connection.workspace_id,
    userId: connection.user_id,
    clientId: connection.client_id,
    credentialId: connection.id,
    tokenVersion: what.version,
    detail: { reason: what.reason, ...what.detail },
  })
}

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
  type UserId,
  type WorkspaceId,
} from '../ids.ts'
import { isAtLeast, mayConnect } from '../organizations/rules.ts'
import { lockRole } from '../organizations/service.ts'
import { lockWorkspace } from '../organizations/store.ts'
import type { Authority } from '../principals/rules.ts'
import { actorOf, lockAuthority } from '../principals/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import { batched } from '../store/batch.ts'
import { type Db, reading, type Trx, transact } from '../store/database.ts'
import type { Environment } from '../store/tables.ts'
import { beyond, cutToRole, isNothing, type Requested, widen } from './rules.ts'
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
  | { ok: false; reason: 'signed_out' | 'client_gone' | 'no_role' | 'nothing_granted' }

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
    return { ok: true, connectionId, granted }
  })
}

/**
 * An admin grants a confidential client to a workspace, for client credentials: a connection without a person.
 *
 * @throws {AppError} `not_found` for an unknown client or workspace
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

async function openOrWiden(trx: Trx, opening: Opening): Promise<ConnectionId> {
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
    await recordOpening(trx, opening, { event: 'connection.approved', id, version: inserted.version })
    return id
  }
  const open = await store.lockOpen(trx, userId, client.id, place.workspaceId)
  if (open === undefined) throw new AppError('unavailable') // closed between the two statements: the next try opens a new one
  if (!isNothing(beyond(granted, open.approved)))
    await store.updateApproved(trx, open.id, widen(open.approved, granted))
  await recordOpening(trx, opening, { event: 'connection.approved_again', id: open.id, version: open.version })
  return open.id
}

function recordOpening(
  trx: Trx,
  opening: Opening,
  what: { event: string; id: ConnectionId; version: number },
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
    detail: { openid: opening.granted.openidScopes, resources: opening.granted.resources },
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
  createdAt: Date
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
    createdAt: row.created_at,
    lastUse:
      row.last_used_at === null
        ? undefined
        : { at: row.last_used_at, address: row.last_used_address ?? '', agent: row.last_used_agent ?? '' },
    now: row.now,
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
 * admin. Doing it twice changes nothing.
 *
 * @throws {AppError} `not_found`, `role_too_low`, and what `lockAuthority` throws
 */
export function disconnect(revocations: RevocationList, input: Asked | AskedByOwner): Promise<void> {
  return revocations.change(async (trx, revoke) => {
    const connection = await lockToChange(trx, input)
    revoke({ subject: connection.id, closed: true })
    if (connection.closed_at !== null) return
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
  if (!isOwn && !isAtLeast(place.role, 'admin')) {
    throw new AppError('role_too_low', { detail: 'Only an admin ends what somebody else approved.' })
  }
  return connection
}

/** No role counts: whoever has left a workspace still ends what they approved there. */
async function lockOwn(trx: Trx, { id, authority }: AskedByOwner) {
  const { userId, signedInAt } = authority
  if (!(await lockSignedIn(trx, userId, signedInAt))) throw new AppError('unauthorized')
  const connection = await store.lockConnection(trx, id)
  if (connection?.user_id !== userId) throw new AppError('not_found')
  return connection
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

/**
 * A person's role in some workspaces has fallen, or is gone: connections that they can no longer hold are closed, the
 * others sign new tokens from now on, which say what the new role allows. Part of the transaction that changes the role.
 *
 * @param mayStay whether the new role still lets them hold one in that workspace
 */
export async function endWithRole(
  trx: Trx,
  revoke: Revoke,
  input: {
    userId: UserId
    workspaceIds: readonly WorkspaceId[]
    mayStay: (workspaceId: WorkspaceId) => boolean
    reason: string
    actor: Actor
    request: RequestInfo
  },
): Promise<void> {
  for (const connection of await store.lockOpenOfPersonIn(trx, input.userId, input.workspaceIds)) {
    const stays = input.mayStay(connection.workspace_id)
    const floor = stays ? await store.raiseFloor(trx, connection.id) : undefined
    if (!stays) await store.closeConnection(trx, connection.id, input.reason)
    const event = stays ? 'connection.version_raised' : 'connection.closed'
    await recordEnd(trx, connection, { ...input, event, version: floor ?? connection.version })
    revoke(floor === undefined ? { subject: connection.id, closed: true } : { subject: connection.id, floor })
  }
}

function recordEnd(
  trx: Trx,
  connection: Awaited<ReturnType<typeof store.lockOpenOfPersonAnywhere>>[number],
  what: { event: string; version: number; reason: string; actor: Actor; request: RequestInfo },
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
    detail: { reason: what.reason },
  })
}

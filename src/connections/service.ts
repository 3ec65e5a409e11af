// Connections: approved, widened, granted to a client, and the families of tokens below them.

import { isSessionGood } from '../accounts/rules.ts'
import { lockUser } from '../accounts/store.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { lockClient } from '../clients/store.ts'
import type { SecretDigest } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import * as families from '../families/store.ts'
import { type ConnectionId, type FamilyId, isWorkspaceId, newId, type UserId, type WorkspaceId } from '../ids.ts'
import { mayConnect } from '../organizations/rules.ts'
import { lockRole } from '../organizations/service.ts'
import { findWorkspace, lockWorkspace } from '../organizations/store.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import { append } from '../revocation/store.ts'
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
    /** Seconds since the epoch: a session from before "sign out everywhere" approves nothing. */
    signedInAt: number
    clientId: string
    workspaceId: string
    requested: Requested
    servers: readonly ResourceServer[]
    request: RequestInfo
  },
): Promise<ApprovalOutcome> {
  return transact(db, async (trx): Promise<ApprovalOutcome> => {
    const user = await lockUser(trx, input.userId)
    const good =
      user &&
      isSessionGood({ suspendedAt: user.suspended_at, sessionsNotBefore: user.sessions_not_before }, input.signedInAt)
    if (!good) return { ok: false, reason: 'signed_out' }
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

/** An open connection, as the API and the command line show it. */
export interface Connection {
  id: ConnectionId
  client_id: string
  client_name: string
  user_id: UserId | null
  environment: Environment
  token_version: string
  resources: Record<string, string>
  created_at: string
}

/** @throws {AppError} `not_found` for an unknown workspace */
export async function listConnections(db: Db, workspaceId: string): Promise<Connection[]> {
  const workspace = await findWorkspace(db, workspaceId)
  if (workspace === undefined) throw new AppError('not_found', { detail: `There is no workspace ${workspaceId}.` })
  const rows = await store.listOpenInWorkspace(db, workspace.id)
  return rows.map(({ version, approved, created_at, ...row }) => ({
    ...row,
    token_version: `v${version}`,
    resources: approved.resources ?? {},
    created_at: created_at.toISOString(),
  }))
}

/**
 * Closes a connection for good: its refresh tokens are gone, and no token of it is active at introspection. A later
 * approval is a new connection.
 *
 * @throws {AppError} `not_found` for one that is unknown, or closed already
 */
export function closeConnection(
  db: Db,
  input: { id: string; reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  return transact(db, async (trx) => {
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
    await append(trx, { subject: connection.id, closed: true })
  })
}

export type FamilyEnd = 'code_replayed' | 'refresh_token_reused' | 'refresh_token_revoked'

/**
 * Ends a family: its refresh tokens go, and the connection's floor rises, so that its JWTs are dead too. Other
 * families of the connection refresh on. Doing it twice changes nothing.
 */
export function endFamily(
  db: Db,
  input: { connectionId: ConnectionId; familyId: FamilyId; reason: FamilyEnd; actor: Actor; request: RequestInfo },
): Promise<void> {
  return transact(db, async (trx) => {
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
    await append(trx, { subject: connection.id, floor })
  })
}

const EVENT_OF: Record<FamilyEnd, string> = {
  code_replayed: 'code.reuse_detected',
  refresh_token_reused: 'refresh_token.reuse_detected',
  refresh_token_revoked: 'family.ended',
}

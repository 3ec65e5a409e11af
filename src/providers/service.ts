// Connections of a workspace to providers: one a type, its key encrypted, checked against the provider, and told to nobody.
import type { Readable } from 'node:stream'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import type { DataKeys } from '../crypto/data-keys.ts'
import type { Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { isProviderConnectionId, newId, type OrganizationId, type WorkspaceId } from '../ids.ts'
import type { Authority } from '../principals/rules.ts'
import { actorOf, lockAuthority } from '../principals/service.ts'
import { findProviderType } from '../provider-types/registry.ts'
import type { ProviderType } from '../provider-types/rules.ts'
import { type Db, type Executor, isUniqueViolation, reading, type Trx, transact } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import { baseUrlOf, type CallFailure, type Check, EVENT_OF_CHECK, judge, placeOfSecret, statusAfter } from './rules.ts'
import type { ProviderConnection } from './store.ts'
import * as store from './store.ts'

export type { ProviderConnection } from './store.ts'

export interface ProvidersDeps {
  db: Db
  ephemeral: EphemeralStore
  dataKeys: DataKeys
  outbound: ProviderCalls
  onError: (error: Error) => void
  /** What this process checks by itself at the moment: one check at a time of a key. */
  checking: Set<string>
}

/** Calls to addresses that an admin chose. */
export interface ProviderCalls {
  /** What is wrong with an address, in words that follow it; undefined when nothing is. */
  problem(url: string): string | undefined
  /** A short call whose answer is read whole. Never rejects, and follows no redirect. */
  send(request: {
    url: string
    method: 'GET'
    headers: Readonly<Record<string, string>>
    reads: 'body'
  }): Promise<{ ok: true; status: number; body: Buffer } | { ok: false; failure: CallFailure }>
  /** A call whose answer is read as it comes. Never rejects, and follows no redirect. */
  open(request: {
    url: string
    method: 'GET' | 'POST'
    headers: Readonly<Record<string, string>>
    body: Buffer | undefined
    signal: AbortSignal
  }): Promise<OpenedAnswer>
}

export type OpenedAnswer =
  | { ok: true; status: number; headers: Readonly<Record<string, string | string[] | undefined>>; body: Readable }
  | { ok: false; failure: Exclude<CallFailure, 'too_large'> | 'unanswered' }

interface By {
  authority: Authority
  request: RequestInfo
}

/** @throws {Error} for a type that was taken out while connections of it are there */
export function typeOf({ providerType }: Pick<ProviderConnection, 'providerType'>): ProviderType {
  const type = findProviderType(providerType)
  if (type === undefined) throw new Error(`there is no provider ${providerType}`)
  return type
}

export function addressOf(connection: ProviderConnection, path: string): string {
  return `${connection.baseUrl ?? typeOf(connection).baseUrl}${path}`
}

// --- What there is -------------------------------------------------------------------------------------------------------------

export function listProviders(db: Db, workspaceId: WorkspaceId): Promise<ProviderConnection[]> {
  return reading(store.listConnections(db, workspaceId))
}

/** @throws {AppError} `not_found` */
export async function getProvider(db: Db, workspaceId: WorkspaceId, id: string): Promise<ProviderConnection> {
  const found = isProviderConnectionId(id) ? await reading(store.findConnection(db, workspaceId, { id })) : undefined
  if (found === undefined) throw new AppError('not_found')
  return found
}

export function findProviderOfType(
  db: Db,
  workspaceId: WorkspaceId,
  providerType: string,
): Promise<ProviderConnection | undefined> {
  return reading(store.findConnection(db, workspaceId, { providerType }))
}

/**
 * The key of a connection, to be shown to its provider and to nobody else.
 *
 * @throws {AppError} `credentials_unreadable` when what is stored was changed or moved, or its key is gone
 */
export async function openCredentials(
  { dataKeys, onError }: Pick<ProvidersDeps, 'dataKeys' | 'onError'>,
  executor: Executor,
  connection: ProviderConnection,
): Promise<Secret> {
  const { credentials, organizationId } = connection
  const place = placeOfSecret(connection)
  let secret = await dataKeys.open(executor, organizationId, credentials, place)
  if (secret === undefined) {
    // A rotation may have sealed it again, and deleted the older key, since it was read: for the same address, or for none.
    const current = await store.findConnection(executor, connection.workspaceId, { id: connection.id })
    if (current !== undefined) secret = await dataKeys.open(executor, organizationId, current.credentials, place)
  }
  if (secret !== undefined) return secret
  onError(
    new Error(
      `the credentials of ${connection.id} cannot be decrypted under the data key ${credentials.dataKeyId}: they were changed or moved, or LATCHKEY_MASTER_KEY lacks the key of that data key`,
    ),
  )
  throw new AppError('credentials_unreadable')
}

// --- Changes -------------------------------------------------------------------------------------------------------------------

const FIRST_VERSION = 1

export interface NewCredentials {
  apiToken: Secret
  /** Undefined: the provider's own. */
  baseUrl: string | undefined
}

/**
 * Connects a workspace to a provider. It is checked afterwards (`checkProvider`).
 *
 * @throws {AppError} `conflict` for a second one of a type, `invalid_request` for an address that is not called,
 * `too_many_requests`, as `lockAuthority`
 */
export async function createProvider(
  deps: ProvidersDeps,
  input: By & { workspaceId: WorkspaceId; type: ProviderType; credentials: NewCredentials },
): Promise<ProviderConnection> {
  const baseUrl = checkedBaseUrl(deps, input.credentials)
  await requireFewerChecks(deps, input.workspaceId)
  const create = async (trx: Trx) => {
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin', recentSignIn: true })
    const id = newId('prv')
    const providerType = input.type.type
    const version = FIRST_VERSION
    const where = placeOfSecret({ id, providerType, baseUrl, version, ...place })
    const made = await store.insertConnection(trx, {
      id,
      organizationId: place.organizationId,
      workspaceId: place.workspaceId,
      providerType,
      credentialsType: 'api_token',
      baseUrl,
      version,
      credentials: await deps.dataKeys.seal(trx, place.organizationId, input.credentials.apiToken, where),
      createdBy: actorOf(input.authority).id ?? 'operator',
    })
    await recordChange(trx, 'provider.created', made, { ...input, userId: place.userId })
    return made
  }
  try {
    return await transact(deps.db, create)
  } catch (error) {
    if (!isUniqueViolation(error)) throw error
    throw new AppError('conflict', {
      field: 'provider_type',
      detail: `This workspace has a connection to ${input.type.name} already. Replace its key, or delete it first.`,
    })
  }
}

/**
 * Replaces key and address together: a key is never sent to an address that it was not given for.
 *
 * @throws {AppError} `not_found`, `invalid_request` for an address that is not called, `too_many_requests`, as
 * `lockAuthority`
 */
export async function replaceProviderCredentials(
  deps: ProvidersDeps,
  input: By & { workspaceId: WorkspaceId; id: string; credentials: NewCredentials },
): Promise<ProviderConnection> {
  const baseUrl = checkedBaseUrl(deps, input.credentials)
  await requireFewerChecks(deps, input.workspaceId)
  return transact(deps.db, async (trx) => {
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin', recentSignIn: true })
    const before = await lockIn(trx, place.workspaceId, input.id)
    const version = before.version + 1
    const where = placeOfSecret({ ...before, baseUrl, version })
    const credentials = await deps.dataKeys.seal(trx, place.organizationId, input.credentials.apiToken, where)
    const replaced = await store.replaceCredentials(trx, before.id, { credentials, baseUrl, version })
    await recordChange(trx, 'provider.credentials_replaced', replaced, { ...input, userId: place.userId })
    return replaced
  })
}

/** @throws {AppError} `not_found`, as `lockAuthority` */
export async function deleteProvider(
  deps: Pick<ProvidersDeps, 'db'>,
  input: By & { workspaceId: WorkspaceId; id: string },
): Promise<void> {
  await transact(deps.db, async (trx) => {
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin' })
    const { id } = input
    const deleted = isProviderConnectionId(id) && (await store.deleteConnection(trx, place.workspaceId, id))
    if (!deleted) throw new AppError('not_found')
    await recordChange(trx, 'provider.deleted', deleted, { ...input, userId: place.userId })
  })
}

/** What is left of a workspace that is archived: no key of it stays, and none is sent anywhere any more. */
export async function deleteProvidersIn(
  trx: Trx,
  workspaceId: WorkspaceId,
  by: { actor: Actor; request: RequestInfo; userId: string | null },
): Promise<void> {
  for (const deleted of await store.deleteConnectionsIn(trx, workspaceId))
    await recordChange(trx, 'provider.deleted', deleted, { ...by, detail: { reason: 'workspace_archived' } })
}

async function lockIn(trx: Trx, workspaceId: WorkspaceId, id: string): Promise<ProviderConnection> {
  const found = isProviderConnectionId(id) ? await store.lockConnection(trx, workspaceId, id) : undefined
  if (found === undefined) throw new AppError('not_found')
  return found
}

function checkedBaseUrl(
  { outbound }: Pick<ProvidersDeps, 'outbound'>,
  { baseUrl }: NewCredentials,
): string | undefined {
  if (baseUrl === undefined) return undefined
  const plain = baseUrlOf(baseUrl)
  const problem =
    plain === undefined ? 'must be an address without user name, query and fragment' : outbound.problem(plain)
  if (problem !== undefined)
    throw new AppError('invalid_request', { field: 'base_url', detail: `The address ${problem}.` })
  return plain
}

function recordChange(
  trx: Trx,
  event: string,
  connection: ProviderConnection,
  by: { request: RequestInfo; userId: string | null; authority?: Authority; actor?: Actor; detail?: object },
): Promise<void> {
  return record(trx, {
    event,
    status: event === EVENT_OF_CHECK.failed ? 'fail' : 'pass',
    actor: by.actor ?? (by.authority === undefined ? { kind: 'schedule' } : actorOf(by.authority)),
    request: by.request,
    organizationId: connection.organizationId,
    workspaceId: connection.workspaceId,
    userId: by.userId,
    detail: {
      provider_id: connection.id,
      provider_type: connection.providerType,
      own_address: connection.baseUrl !== undefined,
      ...by.detail,
    },
  })
}

// --- Checks --------------------------------------------------------------------------------------------------------------------

const WINDOW_SECONDS = 60
const MOST_CHECKS = 20

/**
 * Before somebody has a connection of a workspace checked, also by a new key: each is a call to an address of their choice.
 *
 * @throws {AppError} `too_many_requests`
 */
export async function requireFewerChecks(
  { ephemeral }: Pick<ProvidersDeps, 'ephemeral'>,
  workspaceId: WorkspaceId,
): Promise<void> {
  const { count, resetsInSeconds } = await ephemeral.increment('provider-checks', workspaceId, WINDOW_SECONDS)
  if (count > MOST_CHECKS) throw new AppError('too_many_requests', { retryAfterSeconds: resetsInSeconds })
}

/**
 * Asks the provider whether it takes the key. What it says besides is neither kept nor shown.
 *
 * @returns the connection as it is known now
 * @throws {AppError} `not_found` where its credentials were replaced, or it was deleted, meanwhile
 */
export async function checkProvider(
  deps: ProvidersDeps,
  connection: ProviderConnection,
  by: { actor: Actor; request: RequestInfo; userId: string | null },
): Promise<ProviderConnection> {
  const check = await ask(deps, connection)
  const noted = await noteCheck(deps.db, connection, check, { ...by, isAskedFor: by.actor.kind !== 'schedule' })
  if (noted === undefined) throw new AppError('not_found')
  return noted
}

async function ask(deps: ProvidersDeps, connection: ProviderConnection): Promise<Check> {
  const { headers, verification } = typeOf(connection)
  const secret = await openCredentials(deps, deps.db, connection).catch(unlessUnreadable)
  if (secret === undefined) return { outcome: 'failed', reason: 'unreadable' }
  const answer = await deps.outbound.send({
    url: addressOf(connection, verification.path),
    method: 'GET',
    headers: { accept: 'application/json', ...headers(secret.reveal()) },
    reads: 'body',
  })
  return judge(
    answer.ok ? { ok: true, status: answer.status, isGood: verification.isGood(parsed(answer.body)) } : answer,
  )
}

function parsed(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString('utf8'))
  } catch {
    return undefined
  }
}

/**
 * Undefined where it says nothing any more: the credentials are others. What nobody asked for is recorded where it says
 * something new.
 */
function noteCheck(
  db: Db,
  connection: ProviderConnection,
  check: Check,
  { isAskedFor, ...by }: { actor: Actor; request: RequestInfo; userId: string | null; isAskedFor: boolean },
): Promise<ProviderConnection | undefined> {
  return transact(db, async (trx) => {
    const before = await store.lockConnection(trx, connection.workspaceId, connection.id) // as another check left it
    if (before?.version !== connection.version) return undefined
    const noted = await store.setStatus(trx, before.id, statusAfter(before.status, check))
    const isNew = noted.status !== before.status || noted.statusReason !== before.statusReason
    const detail = check.outcome === 'verified' ? {} : { reason: check.reason }
    if (isAskedFor || isNew) await recordChange(trx, EVENT_OF_CHECK[check.outcome], noted, { ...by, detail })
    return noted
  })
}

/** A call through the proxy that works says as much as a check. */
export async function noteWorkingCall(
  db: Db,
  connection: ProviderConnection,
  by: { actor: Actor; request: RequestInfo; userId: string | null },
): Promise<void> {
  await noteCheck(db, connection, { outcome: 'verified' }, { ...by, isAskedFor: false })
}

const UNCHECKED_SECONDS = 30
const A_ROUND = 50

/** Checks what nobody has checked, such as after a process was killed between a creation and its check. */
export async function checkUnchecked(deps: ProvidersDeps): Promise<void> {
  const found = await reading(store.listUnchecked(deps.db, UNCHECKED_SECONDS, A_ROUND))
  for (const connection of found) await checkInBackground(deps, connection)
}

/**
 * Does nothing while the same key is checked. Never rejects: a first check that could not be noted is made again by
 * `checkUnchecked`. One that told nothing is not: the first call that works verifies the connection.
 */
export async function checkInBackground(deps: ProvidersDeps, connection: ProviderConnection): Promise<void> {
  const traceId = `check-${connection.id}-v${connection.version}`
  if (deps.checking.has(traceId)) return
  deps.checking.add(traceId)
  const by = { actor: { kind: 'schedule' } as const, request: { traceId }, userId: null }
  try {
    await checkProvider(deps, connection, by)
  } catch (error) {
    if (error instanceof AppError && error.code === 'not_found') return
    deps.onError(error instanceof Error ? error : new Error(String(error)))
  } finally {
    deps.checking.delete(traceId)
  }
}

// --- Rotation ------------------------------------------------------------------------------------------------------------------

const RESEALED_AT_ONCE = 50

export interface Resealed {
  resealed: number
  /** Connections that cannot be read: they stay as they are, and so does their key. */
  unreadable: ProviderConnection['id'][]
}

/**
 * A new data key for an organization, and everything sealed again under it, fifty a transaction. Cut short it goes on where
 * it was (`resealUnderNewest`); what is read meanwhile is opened under the key that it names.
 */
export async function rotateDataKey(
  deps: Pick<ProvidersDeps, 'db' | 'dataKeys' | 'onError'>,
  organizationId: OrganizationId,
  request: RequestInfo,
): Promise<Resealed> {
  await transact(deps.db, async (trx) => {
    const id = await deps.dataKeys.rotate(trx, organizationId)
    const actor = { kind: 'operator' } as const
    await record(trx, {
      event: 'data_key.rotated',
      status: 'pass',
      actor,
      request,
      organizationId,
      detail: { data_key_id: id },
    })
  })
  return resealUnderNewest(deps, organizationId)
}

/** Goes on with what a rotation left. */
export async function resealUnderNewest(
  deps: Pick<ProvidersDeps, 'db' | 'dataKeys' | 'onError'>,
  organizationId: OrganizationId,
): Promise<Resealed> {
  const done: Resealed = { resealed: 0, unreadable: [] }
  let after: ProviderConnection['id'] | undefined
  do {
    const batch = await transact(deps.db, (trx) => resealBatch(deps, trx, organizationId, after))
    done.resealed += batch.filter(({ isResealed }) => isResealed).length
    done.unreadable.push(...batch.filter(({ isResealed }) => !isResealed).map(({ id }) => id))
    after = batch.at(-1)?.id
  } while (after !== undefined)
  await transact(deps.db, (trx) => store.deleteUnusedKeys(trx, organizationId))
  return done
}

async function resealBatch(
  deps: Pick<ProvidersDeps, 'dataKeys' | 'onError'>,
  trx: Trx,
  organizationId: OrganizationId,
  after: ProviderConnection['id'] | undefined,
): Promise<Array<{ id: ProviderConnection['id']; isResealed: boolean }>> {
  const batch = await store.lockUnderRetiredKeys(trx, organizationId, { after, limit: RESEALED_AT_ONCE })
  const done = []
  for (const connection of batch) {
    const secret = await openCredentials(deps, trx, connection).catch(unlessUnreadable)
    done.push({ id: connection.id, isResealed: secret !== undefined })
    if (secret === undefined) continue
    const sealed = await deps.dataKeys.seal(trx, organizationId, secret, placeOfSecret(connection))
    await store.setSealed(trx, connection.id, sealed)
  }
  return done
}

function unlessUnreadable(error: unknown): undefined {
  if (error instanceof AppError && error.code === 'credentials_unreadable') return undefined
  throw error
}

export function listUnfinishedRotations(db: Db): Promise<OrganizationId[]> {
  return reading(store.listWithRetiredKeys(db))
}

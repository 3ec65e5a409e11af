// oidc-provider's storage (its Adapter contract) over connections, the ephemeral store and the unit of work.
// Bearer values are stored under their digest, and never inside a payload.
import { type Adapter, type AdapterPayload, errors } from 'oidc-provider'
import { isSessionGood } from '../accounts/rules.ts'
import { findAccount } from '../accounts/service.ts'
import type { ClientRow, Clients } from '../clients/service.ts'
import { isVersionGood, judgeRefresh, whyUnusable } from '../connections/rules.ts'
import type { ConnectionReads } from '../connections/service.ts'
import type { ConnectionFacts } from '../connections/store.ts'
import type { ServerKey } from '../crypto/keys.ts'
import { digestOf, type SecretDigest } from '../crypto/secret.ts'
import { findConsumedCode } from '../families/store.ts'
import type { UserId } from '../ids.ts'
import { isClientSessionOpen } from '../logout/service.ts'
import { type Db, reading } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import { TOKEN_EXCHANGE } from './token-exchange.ts'
import { isOpaqueAccessToken, isRefreshToken } from './token-values.ts'
import { currentUnit, type UnitOfWork } from './unit-of-work.ts'

export interface AdapterDeps {
  db: Db
  ephemeral: EphemeralStore
  clients: Clients
  reads: ConnectionReads
  refreshGraceSeconds: number
  refreshTokenMaxSeconds: number
  successorKeys: readonly ServerKey[]
  /** The client of the library's request, once it is known. */
  clientId: () => string | undefined
}

/** One adapter a model, as the library wants it. Models that are not named here are of features that are off. */
export function createAdapterFactory(deps: AdapterDeps): (model: string) => Adapter {
  const adapters: Record<string, Adapter> = {
    Client: clientAdapter(deps),
    Grant: grantAdapter(deps),
    RefreshToken: refreshTokenAdapter(deps),
    AuthorizationCode: authorizationCodeAdapter(deps),
    AccessToken: accessTokenAdapter(deps),
    Session: sessionAdapter(deps),
    Interaction: ephemeralAdapter(deps, 'Interaction'),
    PushedAuthorizationRequest: pushedRequestAdapter(deps),
    // A client's own tokens always have an audience, so they are JWTs and are never stored.
    ClientCredentials: { ...unsupported('ClientCredentials'), find: async () => undefined },
  }
  return (model) => adapters[model] ?? unsupported(model)
}

// --- Durable -----------------------------------------------------------------------------------------------------

function clientAdapter(deps: AdapterDeps): Adapter {
  return {
    ...unsupported('Client'),
    async find(id) {
      const row = await deps.clients.find(id)
      return row && clientMetadata(row)
    },
  }
}

/** A client as the library reads it: RFC 7591 names, and ours for what it does not know. */
function clientMetadata(row: ClientRow): AdapterPayload {
  const { grant_types: grants } = row.metadata
  return {
    ...row.metadata,
    // Ours, and unknown to the library, which would refuse the whole client for it.
    grant_types: Array.isArray(grants) ? grants.filter((grant) => grant !== TOKEN_EXCHANGE) : [],
    client_id: row.id,
    client_name: row.name,
    ...(row.secret_digest === null ? {} : { client_secret: row.secret_digest }), // compared by compareClientSecret
    environment: row.environment,
    pkce_required: row.pkce_required,
    ...(row.default_resource === null ? {} : { default_resource: row.default_resource }),
    resource_server: row.kind === 'resource_server',
  }
}

const GRANT_SECONDS = 10 * 365 * 86_400 // the library wants an end; a connection has none

/** A Grant is a connection, under the same id. Approvals write connections themselves, so the library saves none. */
function grantAdapter(deps: AdapterDeps): Adapter {
  return {
    ...unsupported('Grant'),
    async find(id) {
      const facts = await connectionFacts(deps.reads, id)
      if (facts === undefined || whyUnusable(facts) !== undefined || facts.userId === null) return undefined
      const now = Math.floor(Date.now() / 1000)
      return {
        jti: facts.id,
        kind: 'Grant',
        iat: now,
        exp: now + GRANT_SECONDS,
        accountId: facts.userId,
        clientId: facts.clientId,
        ...structuredClone(facts.approved),
      }
    },
  }
}

/** The connection of this request, read once. */
export async function connectionFacts(reads: ConnectionReads, id: string): Promise<ConnectionFacts | undefined> {
  const unit = currentUnit()
  if (unit.facts?.connection.id === id) return unit.facts.connection
  const askedAt = performance.now()
  const connection = await reads.connection(id)
  if (connection !== undefined) unit.facts = { connection, askedAt }
  return connection
}

function refreshTokenAdapter(deps: AdapterDeps): Adapter {
  return {
    ...unsupported('RefreshToken'),
    async find(value) {
      if (!isRefreshToken(value)) return undefined
      const unit = currentUnit()
      const askedAt = performance.now()
      const row = await deps.reads.refreshToken(digestOf(value))
      if (row === undefined) return undefined
      unit.facts = { connection: row.connection, askedAt }
      const judgement = pastItsCap(row.payload, row.connection.readAt, deps.refreshTokenMaxSeconds)
        ? 'dead'
        : judgeRefresh(row, row.connection.readAt, deps.refreshGraceSeconds)
      if (judgement === 'reused') {
        unit.ending = { connectionId: row.connection.id, familyId: row.familyId, reason: 'refresh_token_reused' }
        throw new errors.InvalidGrant('refresh token already used')
      }
      if (judgement === 'superseded')
        throw new errors.InvalidGrant('refresh token already used, and so is its successor')
      if (judgement === 'dead' || whyUnusable(row.connection) !== undefined) return undefined
      if (!deps.successorKeys.some((key) => key.id === row.keyId))
        throw new Error(`the server key ${row.keyId} is missing`)
      unit.presented = { row, value, isRetry: judgement === 'retry' }
      return { ...row.payload, jti: value, kind: 'RefreshToken' }
    },
    async consume() {
      currentUnit().consumed = true
    },
    async upsert(value, payload, ttlSeconds = 0) {
      currentUnit().issued = {
        digest: digestOf(value),
        keyId: deps.successorKeys[0]?.id ?? '',
        payload: withoutId(payload),
        ttlSeconds,
      }
    },
  }
}

/** However often it was refreshed, a family does not outlive its cap. */
function pastItsCap(payload: Record<string, unknown>, now: Date, mostSeconds: number): boolean {
  return typeof payload.iiat === 'number' && payload.iiat + mostSeconds <= now.getTime() / 1000
}

// --- Short-lived -------------------------------------------------------------------------------------------------

function ephemeralAdapter(deps: AdapterDeps, kind: string): Adapter {
  return {
    ...unsupported(kind),
    async find(value) {
      const found = await findEphemeral(deps, kind, digestOf(value))
      return found && { ...found.payload, jti: value, ...(found.consumed ? { consumed: true } : {}) }
    },
    async upsert(value, payload, ttlSeconds = 0) {
      putEphemeral(currentUnit(), kind, digestOf(value), withoutId(payload), ttlSeconds)
    },
    async destroy(value) {
      deleteEphemeral(currentUnit(), kind, digestOf(value))
    },
  }
}

function authorizationCodeAdapter(deps: AdapterDeps): Adapter {
  const entries = ephemeralAdapter(deps, 'AuthorizationCode')
  return {
    ...entries,
    async upsert(value, payload, ttlSeconds) {
      noteClientSession(payload)
      return entries.upsert(value, payload, ttlSeconds)
    },
    async find(value) {
      const unit = currentUnit()
      const digest = digestOf(value)
      const found = await findEphemeral(deps, 'AuthorizationCode', digest)
      if (found === undefined || !(await isTold(deps.db, found.payload))) {
        await noteReplay(deps.db, digest, deps.clientId())
        return undefined
      }
      unit.code = digest
      return { ...found.payload, jti: value }
    },
    async consume() {
      currentUnit().consumed = true
    },
  }
}

/** False when the browser was signed out after the code was made: a client that is told of logouts has heard of it, or soon will. */
async function isTold(db: Db, { clientId, sid }: AdapterPayload): Promise<boolean> {
  return sid === undefined || isClientSessionOpen(db, clientId ?? '', sid)
}

/**
 * A code that can be used no more: its payload is gone, or its session. That it was redeemed is remembered longer, and a
 * replay still ends what came of it.
 */
export async function noteReplay(db: Db, digest: SecretDigest, clientId: string | undefined): Promise<void> {
  const consumed = await reading(findConsumedCode(db, digest))
  if (consumed === undefined || consumed.client_id !== clientId) return
  const { connection_id: connectionId, family_id: familyId } = consumed
  currentUnit().ending = { connectionId, familyId, reason: 'code_replayed' }
}

/** A client that is told of logouts learns with the code which session it is. */
function noteClientSession(payload: AdapterPayload): void {
  const { clientId, sid, accountId, sessionUid, authTime } = payload
  if (clientId === undefined || sid === undefined || accountId === undefined || sessionUid === undefined) return
  const userId = accountId as UserId // a code is no one else's
  currentUnit().clientSession = {
    clientId,
    sid,
    userId,
    sessionDigest: digestOf(sessionUid),
    signedInAt: authTime ?? 0,
  }
}

/** Opaque ones only: good at the userinfo endpoint. They die with their connection's version, as JWTs do. */
function accessTokenAdapter(deps: AdapterDeps): Adapter {
  const entries = ephemeralAdapter(deps, 'AccessToken')
  return {
    ...entries,
    async find(value) {
      if (!isOpaqueAccessToken(value)) return undefined
      const payload = await entries.find(value)
      if (!payload || typeof payload.grantId !== 'string') return undefined
      const facts = await connectionFacts(deps.reads, payload.grantId)
      const version = versionOf(payload)
      if (facts === undefined || version === undefined || !isVersionGood(facts, version)) return undefined
      return whyUnusable(facts) === undefined ? payload : undefined
    },
  }
}

function versionOf(payload: AdapterPayload): number | undefined {
  const text: unknown = payload.extra?.token_version
  return typeof text === 'string' && /^v\d+$/.test(text) ? Number(text.slice(1)) : undefined
}

/** Single use is decided by the store, before the code is issued. */
function pushedRequestAdapter(deps: AdapterDeps): Adapter {
  const kind = 'PushedAuthorizationRequest'
  return {
    ...ephemeralAdapter(deps, kind),
    async consume(value) {
      if (await deps.ephemeral.consume(kind, digestOf(value))) return
      throw new errors.InvalidRequestUri('request_uri is invalid, expired, or was already used')
    },
  }
}

function sessionAdapter(deps: AdapterDeps): Adapter {
  const entries = ephemeralAdapter(deps, 'Session')
  return {
    ...entries,
    async find(value) {
      const payload = await entries.find(value)
      return payload && (await isSignedInStill(deps.db, payload)) ? payload : undefined
    },
    /** For reading only: the session's id is not known here, and is not stored. */
    async findByUid(uid) {
      const pointer = await findEphemeral(deps, 'SessionUid', digestOf(uid))
      const digest = pointer?.payload.digest
      const found = typeof digest === 'string' ? await findEphemeral(deps, 'Session', digest) : undefined
      return found && (await isSignedInStill(deps.db, found.payload)) ? found.payload : undefined
    },
    async upsert(value, payload, ttlSeconds = 0) {
      const unit = currentUnit()
      putEphemeral(unit, 'Session', digestOf(value), withoutId(payload), ttlSeconds)
      if (payload.uid !== undefined)
        putEphemeral(unit, 'SessionUid', digestOf(payload.uid), { digest: digestOf(value) }, ttlSeconds)
    },
  }
}

async function isSignedInStill(db: Db, payload: AdapterPayload): Promise<boolean> {
  if (payload.accountId === undefined) return true // nobody's: a browser on its way to sign in
  const account = await accountOf(db, payload.accountId)
  return account !== undefined && isSessionGood(account, payload.loginTs ?? 0)
}

/** A person's row, read once a request. */
export function accountOf(db: Db, id: string) {
  const { accounts } = currentUnit()
  const account = accounts.get(id) ?? findAccount(db, id)
  accounts.set(id, account)
  return account
}

// --- The ephemeral store, seen through the request's own writes ----------------------------------------------------

interface Entry {
  payload: AdapterPayload
  consumed: boolean
}

async function findEphemeral(deps: AdapterDeps, kind: string, id: string): Promise<Entry | undefined> {
  const own = currentUnit().ephemeral.get(`${kind}:${id}`)
  if (own !== undefined) return own.op === 'put' ? { payload: JSON.parse(own.value), consumed: false } : undefined
  const found = await deps.ephemeral.find(kind, id)
  return found && { payload: JSON.parse(found.value), consumed: found.consumed }
}

function putEphemeral(unit: UnitOfWork, kind: string, id: string, payload: object, ttlSeconds: number): void {
  const value = JSON.stringify(payload)
  unit.ephemeral.set(`${kind}:${id}`, { op: 'put', kind, id, value, ttlSeconds: Math.max(1, Math.ceil(ttlSeconds)) })
}

function deleteEphemeral(unit: UnitOfWork, kind: string, id: string): void {
  unit.ephemeral.set(`${kind}:${id}`, { op: 'delete', kind, id })
}

function withoutId(payload: AdapterPayload): Record<string, unknown> {
  const { jti: _id, ...rest } = payload
  if (rest.session === undefined) return rest
  const { cookie: _cookie, ...session } = rest.session // an interaction repeats the session's id here, and never reads it
  return { ...rest, session }
}

/** Every operation of a model that the library must not use; revocation by grant is ours (see connections). */
function unsupported(model: string): Adapter {
  const refuse = async (): Promise<never> => {
    throw new Error(`${model} is not kept through the library`)
  }
  return {
    find: refuse,
    findByUid: refuse,
    findByUserCode: refuse,
    upsert: refuse,
    consume: refuse,
    destroy: refuse,
    // The library calls this for every family of a grant, also at sign-out: what is meant to end is ended by us.
    revokeByGrantId: async () => {},
  }
}

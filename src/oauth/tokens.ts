// Introspection (RFC 7662) and revocation (RFC 7009) of every kind of token that we issue: JWTs, opaque ones, refresh
// tokens. What is asked about is found by its form; anything else is simply not active.
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import type { ClientRow } from '../clients/service.ts'
import { isVersionGood, whyUnusable } from '../connections/rules.ts'
import { type ConnectionReads, endFamily } from '../connections/service.ts'
import type { ConnectionFacts } from '../connections/store.ts'
import { digestOf } from '../crypto/secret.ts'
import { isTokenValue } from '../crypto/token-value.ts'
import type { RefreshTokenRow } from '../families/store.ts'
import type { ConnectionId, KeyId } from '../ids.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import { findEntries } from '../revocation/store.ts'
import type { Db } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import type { Uses } from '../uses/service.ts'
import type { Verification } from '../verification/service.ts'
import type { TokenRecord } from '../verification/store.ts'
import { scopesAt } from '../workspace-tokens/rules.ts'
import { revokeLeaked } from '../workspace-tokens/service.ts'
import { type AccessTokenClaims, type AccessTokens, parseVersion } from './access-tokens.ts'
import { isOpaqueAccessToken, isRefreshToken } from './token-values.ts'

export interface TokensDeps {
  db: Db
  ephemeral: EphemeralStore
  reads: ConnectionReads
  resourceServers: ResourceServers
  revocations: RevocationList
  accessTokens: AccessTokens
  verification: Verification
  uses: Uses
  issuer: string
}

export interface Tokens {
  /** @returns the members of an introspection response (RFC 7662 §2.2); `{ active: false }` whatever the reason */
  introspect(token: string, caller: ClientRow, asked: Asked): Promise<Record<string, unknown>>
  /** Another client's token stays as it is, and an unknown one is no error (RFC 7009 §2.2). */
  revoke(token: string, caller: ClientRow, request: RequestInfo): Promise<void>
  /** Whether this is a kind of token that no client was given: it is revoked elsewhere (RFC 7009 §2.2.1). */
  isOfNoClient(token: string): boolean
  /** Ends whatever this value is, on the word of anyone who holds it. An unknown one is no error. */
  revokeLeaked(value: string, request: RequestInfo): Promise<void>
}

/** What an API says of the request that it asks about. */
export interface Asked {
  /** Where the token came from. A token that is limited to addresses is not active without it. */
  clientIp: string | undefined
  /** Who presented it, in its own words. The API's name stands where nobody says. */
  userAgent?: string | undefined
  request: RequestInfo
}

const INACTIVE = { active: false }

export function createTokens(deps: TokensDeps): Tokens {
  return {
    async introspect(token, caller, asked) {
      if (isTokenValue(token)) return introspectToken(deps, token, caller, asked)
      if (isRefreshToken(token)) return introspectRefreshToken(deps, token, caller)
      if (isOpaqueAccessToken(token)) return introspectOpaque(deps, token, caller)
      const claims = await deps.accessTokens.check(token)
      return claims === undefined ? INACTIVE : introspectJwt(deps, claims, caller, asked)
    },
    async revoke(token, caller, request) {
      if (isRefreshToken(token)) return revokeRefreshToken(deps, token, caller, request)
      if (isOpaqueAccessToken(token)) return revokeOpaque(deps, token, caller)
      const claims = await deps.accessTokens.check(token)
      const actor = { kind: 'client', id: caller.id } as const
      if (claims?.client_id === caller.id) await denyJwt(deps, claims, { actor, request })
    },
    isOfNoClient: isTokenValue,
    async revokeLeaked(value, request) {
      if (isTokenValue(value)) return revokeLeaked(deps, value, request)
      const actor = { kind: 'nobody' } as const
      if (isRefreshToken(value)) {
        const row = await deps.reads.refreshToken(digestOf(value))
        return row && endFamilyOf(deps, row, { actor, request })
      }
      if (isOpaqueAccessToken(value)) return deleteOpaque(deps, value)
      const claims = await deps.accessTokens.check(value)
      return claims && denyJwt(deps, claims, { actor, request })
    },
  }
}

interface By {
  actor: Actor
  request: RequestInfo
}

async function introspectJwt(deps: TokensDeps, claims: AccessTokenClaims, caller: ClientRow, asked: Asked) {
  if (!(await mayAsk(deps, caller, claims.client_id, claims.aud))) return INACTIVE
  if (!(await deps.accessTokens.stands(claims))) return INACTIVE
  if (caller.kind === 'resource_server') noteUse(deps, claims, caller, asked)
  return { active: true, token_type: tokenType(claims.cnf), ...claims }
}

/** An API asks about what was presented to it; a client that asks about its own token does not use it. */
function noteUse(deps: TokensDeps, claims: AccessTokenClaims, caller: ClientRow, asked: Asked): void {
  const version = parseVersion(claims.token_version)
  if (version === undefined) return
  const credentialId = claims.credential_id as KeyId | ConnectionId // signed by us: one of them
  deps.uses.seen({ credentialId, version, address: asked.clientIp, agent: agentOf(caller, asked) })
}

const agentOf = (caller: ClientRow, { userAgent }: Asked) => (userAgent ? userAgent : caller.name)

/**
 * A pasted token, asked about by an API: active where the API serves its environment, knows one of its permissions, and
 * the token is not limited to other APIs or other addresses.
 */
async function introspectToken(deps: TokensDeps, token: string, caller: ClientRow, asked: Asked) {
  const server = await deps.resourceServers.findByClient(caller.id)
  if (server === undefined) return INACTIVE
  const isMeant = (record: TokenRecord) => record.workspaceId !== null && scopesAt(server, record).length > 0
  const from = { address: asked.clientIp, agent: agentOf(caller, asked), request: asked.request }
  const decision = await deps.verification.use(token, from, isMeant)
  if (!decision.ok) return INACTIVE
  const { token: record } = decision
  return {
    active: true,
    token_type: 'Bearer',
    iss: deps.issuer,
    sub: record.id,
    aud: server.identifier,
    iat: Math.floor(record.createdAt.getTime() / 1000),
    ...(record.expiresAt === null ? {} : { exp: Math.floor(record.expiresAt.getTime() / 1000) }),
    scope: scopesAt(server, record).join(' '),
    workspace_id: record.workspaceId,
    organization_id: record.organizationId,
    environment: record.environment,
    token_version: `v${record.version}`,
    credential_id: record.id,
  }
}

/** A token may be asked about by the client that holds it, if it can authenticate, and by the API that it is for. */
async function mayAsk(deps: TokensDeps, caller: ClientRow, clientId: string, audience: unknown): Promise<boolean> {
  if (caller.kind === 'registered')
    return (
      (caller.id === clientId && caller.secret_digest !== null) ||
      (caller.id === clientId && caller.metadata.jwks !== undefined)
    )
  const server = await deps.resourceServers.findByClient(caller.id)
  return server !== undefined && server.identifier === audience
}

function isGood(facts: ConnectionFacts, tokenVersion: unknown): boolean {
  const version = parseVersion(tokenVersion)
  return version !== undefined && isVersionGood(facts, version) && whyUnusable(facts) === undefined
}

async function introspectOpaque(deps: TokensDeps, token: string, caller: ClientRow) {
  const payload = await findOpaque(deps, token)
  if (payload === undefined || !(await mayAsk(deps, caller, String(payload.clientId), undefined))) return INACTIVE
  const facts = await deps.reads.connection(String(payload.grantId))
  const extra = typeof payload.extra === 'object' && payload.extra !== null ? payload.extra : {}
  if (facts === undefined || !isGood(facts, Reflect.get(extra, 'token_version'))) return INACTIVE
  return {
    active: true,
    token_type: tokenType(payload.jkt),
    ...extra,
    iss: deps.issuer,
    sub: payload.accountId,
    client_id: payload.clientId,
    scope: payload.scope,
    iat: payload.iat,
    exp: payload.exp,
  }
}

async function findOpaque(deps: TokensDeps, token: string): Promise<Record<string, unknown> | undefined> {
  const found = await deps.ephemeral.find('AccessToken', digestOf(token))
  return found && JSON.parse(found.value)
}

async function introspectRefreshToken(deps: TokensDeps, token: string, caller: ClientRow) {
  const row = await deps.reads.refreshToken(digestOf(token))
  if (row === undefined || !(await mayAsk(deps, caller, row.connection.clientId, undefined))) return INACTIVE
  const { connection, payload } = row
  const isOver = row.familyEnded || row.consumedAt !== null || row.expiresAt <= connection.readAt
  if (isOver || whyUnusable(connection) !== undefined) return INACTIVE
  return {
    active: true,
    iss: deps.issuer,
    sub: connection.userId,
    client_id: connection.clientId,
    scope: payload.scope,
    iat: payload.iat,
    exp: payload.exp,
    workspace_id: connection.workspaceId,
    organization_id: connection.organizationId,
    environment: connection.environment,
    credential_id: connection.id,
  }
}

async function revokeRefreshToken(
  deps: TokensDeps,
  token: string,
  caller: ClientRow,
  request: RequestInfo,
): Promise<void> {
  const row = await deps.reads.refreshToken(digestOf(token))
  if (row?.connection.clientId !== caller.id) return
  await endFamilyOf(deps, row, { actor: { kind: 'client', id: caller.id }, request })
}

function endFamilyOf(deps: TokensDeps, row: RefreshTokenRow, by: By): Promise<void> {
  return endFamily(deps.revocations, {
    connectionId: row.connection.id,
    familyId: row.familyId,
    reason: 'refresh_token_revoked',
    ...by,
  })
}

async function revokeOpaque(deps: TokensDeps, token: string, caller: ClientRow): Promise<void> {
  const payload = await findOpaque(deps, token)
  if (payload?.clientId === caller.id) await deleteOpaque(deps, token)
}

async function deleteOpaque(deps: TokensDeps, token: string): Promise<void> {
  await deps.ephemeral.write([{ op: 'delete', kind: 'AccessToken', id: digestOf(token) }])
}

/** That one JWT is on the list from this commit on. */
async function denyJwt(deps: TokensDeps, claims: AccessTokenClaims, by: By): Promise<void> {
  await deps.revocations.change(async (trx, revoke) => {
    const subject = `jti:${claims.jti}`
    revoke({ subject, denied: true })
    if ((await findEntries(trx, [subject])).get(subject)?.denied) return
    await record(trx, {
      event: 'access_token.revoked',
      status: 'pass',
      ...by,
      organizationId: String(claims.organization_id),
      workspaceId: String(claims.workspace_id),
      clientId: claims.client_id,
      credentialId: claims.credential_id,
      detail: { jti: claims.jti },
    })
  })
}

function tokenType(binding: unknown): 'Bearer' | 'DPoP' {
  return binding === undefined ? 'Bearer' : 'DPoP'
}

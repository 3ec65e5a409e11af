// Introspection (RFC 7662) and revocation (RFC 7009) of every kind of token that we issue: JWTs, opaque ones, refresh
// tokens. What is asked about is found by its form; anything else is simply not active.
import { createLocalJWKSet, type JWTPayload, jwtVerify } from 'jose'
import { type RequestInfo, record } from '../audit/service.ts'
import type { ClientRow } from '../clients/service.ts'
import { isVersionGood, whyUnusable } from '../connections/rules.ts'
import { type ConnectionReads, endFamily } from '../connections/service.ts'
import type { ConnectionFacts } from '../connections/store.ts'
import type { Keys } from '../crypto/keys.ts'
import { digestOf } from '../crypto/secret.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { append, findDenied } from '../revocation/store.ts'
import { batched } from '../store/batch.ts'
import { type Db, reading, transact } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import { isOpaqueAccessToken, isRefreshToken } from './token-values.ts'

export interface TokensDeps {
  db: Db
  ephemeral: EphemeralStore
  reads: ConnectionReads
  resourceServers: ResourceServers
  keys: Keys
  issuer: string
}

export interface Tokens {
  /** @returns the members of an introspection response (RFC 7662 §2.2); `{ active: false }` whatever the reason */
  introspect(token: string, caller: ClientRow): Promise<Record<string, unknown>>
  /** Another client's token stays as it is, and an unknown one is no error (RFC 7009 §2.2). */
  revoke(token: string, caller: ClientRow, request: RequestInfo): Promise<void>
}

const INACTIVE = { active: false }

/** Reads that meet go to the database together. */
interface Denials {
  isDenied(jti: string): Promise<true | undefined>
}

export function createTokens(given: TokensDeps): Tokens {
  const isDenied = batched((jtis: string[]) => reading(findDenied(given.db, jtis)))
  const deps = { ...given, isDenied }
  const verify = createJwtCheck(deps)
  return {
    async introspect(token, caller) {
      if (isRefreshToken(token)) return introspectRefreshToken(deps, token, caller)
      if (isOpaqueAccessToken(token)) return introspectOpaque(deps, token, caller)
      const claims = await verify(token)
      return claims === undefined ? INACTIVE : introspectJwt(deps, claims, caller)
    },
    async revoke(token, caller, request) {
      if (isRefreshToken(token)) return revokeRefreshToken(deps, token, caller, request)
      if (isOpaqueAccessToken(token)) return revokeOpaque(deps, token, caller)
      const claims = await verify(token)
      if (claims?.client_id === caller.id) await denyJwt(deps, claims, request)
    },
  }
}

interface AccessTokenClaims extends JWTPayload {
  jti: string
  client_id: string
  credential_id: string
  token_version: string
}

/** Signature, type, issuer and time (RFC 9068 §4); what the connection says is asked elsewhere. */
function createJwtCheck(deps: TokensDeps): (token: string) => Promise<AccessTokenClaims | undefined> {
  const publicKeys = deps.keys.signing
    .filter((key) => key.alg === 'ES256')
    .map(({ jwk: { d: _private, ...jwk } }) => ({ ...jwk, kty: String(jwk.kty) }))
  const keys = createLocalJWKSet({ keys: publicKeys })
  return async (token) => {
    if (token.length > 8_192 || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) return undefined
    try {
      const { payload } = await jwtVerify(token, keys, {
        issuer: deps.issuer,
        typ: 'at+jwt',
        algorithms: ['ES256'],
        requiredClaims: ['jti', 'client_id', 'credential_id', 'token_version', 'exp', 'aud'],
      })
      return payload as AccessTokenClaims // signed by us, with these members
    } catch {
      return undefined
    }
  }
}

async function introspectJwt(deps: TokensDeps & Denials, claims: AccessTokenClaims, caller: ClientRow) {
  if (!(await mayAsk(deps, caller, claims.client_id, claims.aud))) return INACTIVE
  const [facts, isDenied] = await Promise.all([deps.reads.connection(claims.credential_id), deps.isDenied(claims.jti)])
  if (facts === undefined || !isGood(facts, claims.token_version) || isDenied) return INACTIVE
  return { active: true, token_type: tokenType(claims.cnf), ...claims }
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
  const version =
    typeof tokenVersion === 'string' && /^v[1-9]\d*$/.test(tokenVersion) ? Number(tokenVersion.slice(1)) : undefined
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
  await endFamily(deps.db, {
    connectionId: row.connection.id,
    familyId: row.familyId,
    reason: 'refresh_token_revoked',
    actor: { kind: 'client', id: caller.id },
    request,
  })
}

async function revokeOpaque(deps: TokensDeps, token: string, caller: ClientRow): Promise<void> {
  const payload = await findOpaque(deps, token)
  if (payload?.clientId !== caller.id) return
  await deps.ephemeral.write([{ op: 'delete', kind: 'AccessToken', id: digestOf(token) }])
}

/** That one JWT is on the list from this commit on. */
async function denyJwt(deps: TokensDeps, claims: AccessTokenClaims, request: RequestInfo): Promise<void> {
  await transact(deps.db, async (trx) => {
    if ((await findDenied(trx, [claims.jti])).has(claims.jti)) return
    await record(trx, {
      event: 'access_token.revoked',
      status: 'pass',
      actor: { kind: 'client', id: claims.client_id },
      request,
      organizationId: String(claims.organization_id),
      workspaceId: String(claims.workspace_id),
      clientId: claims.client_id,
      credentialId: claims.credential_id,
      detail: { jti: claims.jti },
    })
    await append(trx, { subject: `jti:${claims.jti}`, denied: true })
  })
}

function tokenType(binding: unknown): 'Bearer' | 'DPoP' {
  return binding === undefined ? 'Bearer' : 'DPoP'
}

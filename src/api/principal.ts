// Who calls the JSON API: a key or token, a JWT for our own API, or a signed-in browser. One answer for all that is not good.
import type { Context } from 'koa'
import { AppError } from '../errors.ts'
import { requestInfo } from '../http/trace.ts'
import { type ConnectionId, isClientId, isKeyId, isUserId, type OrganizationId, type WorkspaceId } from '../ids.ts'
import { type AccessTokenClaims, type AccessTokens, parseVersion } from '../oauth/access-tokens.ts'
import type { BrowserSessions } from '../oauth/browser-sessions.ts'
import type { Principal } from '../principals/rules.ts'
import { ownResourceServer } from '../resource-servers/rules.ts'
import type { Environment } from '../store/tables.ts'
import type { Uses } from '../uses/service.ts'
import type { Refused } from '../verification/rules.ts'
import type { UsedFrom, Verification } from '../verification/service.ts'
import type { TokenRecord } from '../verification/store.ts'
import { scopesAt } from '../workspace-tokens/rules.ts'

export interface PrincipalDeps {
  issuer: string
  verification: Verification
  accessTokens: AccessTokens
  uses: Uses
  sessions: BrowserSessions
}

/** The API's own audience and the scopes in it (RFC 8707). */
export const ownAudience = (issuer: string): string => `${issuer}/api`

/** What is said with a refusal (RFC 6750 §3), and where to learn how to get in (RFC 9728 §5.1). */
export function bearerChallenge(issuer: string, parameters: readonly string[]): string {
  return `Bearer ${[
    `realm="${ownAudience(issuer)}"`,
    ...parameters,
    `resource_metadata="${issuer}/.well-known/oauth-protected-resource/api"`,
  ].join(', ')}`
}

/** Of a value that is not good. */
export const INVALID_TOKEN = 'error="invalid_token"'

/**
 * @param keyHeader where a value may stand that is not in the Authorization header
 * @param admit whether they may, and to what; throws where they may not
 * @throws {AppError} `unauthorized`, the same for every reason; `invalid_request` for a credential in the address or in
 * two places (RFC 6750 §2); `forbidden_origin` for a browser's change without its token
 */
export async function identify<R>(
  deps: PrincipalDeps,
  ctx: Context,
  keyHeader: string | undefined,
  admit: (principal: Principal) => Promise<R>,
): Promise<{ principal: Principal; admitted: R }> {
  const value = bearerValue(ctx) ?? keyIn(ctx, keyHeader)
  if (value === undefined) {
    const principal = await fromSession(deps, ctx)
    return { principal, admitted: await admit(principal) }
  }
  const request = requestInfo(ctx)
  const from = { address: request.address, agent: ctx.get('user-agent'), request }
  let found: { principal: Principal; admitted: R } | undefined
  // A request that is refused is no use of the token: the first use of a rotated value ends the older one.
  await deps.verification.use(value, from, async (token) => {
    const principal = ofToken(token, scopesAt(ownResourceServer(deps.issuer), token))
    found = { principal, admitted: await admit(principal) }
    return true
  })
  if (found !== undefined) return found
  const principal = await fromJwt(deps, value, from)
  if (principal === undefined) throw new AppError('unauthorized')
  const admitted = await admit(principal)
  const { credentialId, tokenVersion: version } = principal
  if (credentialId !== undefined && version !== undefined)
    deps.uses.seen({ credentialId, version, address: from.address, agent: from.agent })
  return { principal, admitted }
}

/**
 * What stands in the Authorization header; undefined where there is none.
 *
 * @throws {AppError} `invalid_request` for one in the address or in two headers, `unauthorized` for what is no bearer value
 */
function bearerValue(ctx: Context): string | undefined {
  if (ctx.URL.searchParams.has('access_token')) {
    throw new AppError('invalid_request', {
      detail: 'A credential must not be in the address: send it as "Authorization: Bearer …".',
    })
  }
  const authorization = ctx.get('authorization')
  // The first of two would count here, and perhaps the other one at a proxy.
  if ((ctx.req.headersDistinct.authorization?.length ?? 0) > 1)
    throw new AppError('invalid_request', { detail: 'There must be one Authorization header.' })
  if (authorization === '') return undefined
  const [, value] = /^bearer +([\x21-\x7e]+)$/i.exec(authorization) ?? []
  if (value === undefined) throw new AppError('unauthorized')
  return value
}

function keyIn(ctx: Context, keyHeader: string | undefined): string | undefined {
  const value = keyHeader === undefined ? '' : ctx.get(keyHeader)
  if (value === '') return undefined
  if (!/^[\x21-\x7e]+$/.test(value)) throw new AppError('unauthorized')
  return value
}

/**
 * The value that is presented, for what asks about it and does not use it.
 *
 * @throws {AppError} `wrong_credential` for a signed-in browser, which has none to ask about; `unauthorized` for nobody
 */
export async function presentedValue(deps: PrincipalDeps, ctx: Context): Promise<string> {
  const value = bearerValue(ctx)
  if (value !== undefined) return value
  await fromSession(deps, ctx)
  throw new AppError('wrong_credential')
}

/** One of ours that does not stand any more is the refusal of a known credential, and its workspace is told. */
async function fromJwt(deps: PrincipalDeps, value: string, from: UsedFrom): Promise<Principal | undefined> {
  const claims = await deps.accessTokens.recognise(value)
  if (claims === undefined || claims.aud !== ownAudience(deps.issuer) || claims.cnf !== undefined) return undefined
  const reason = await deps.accessTokens.refusal(claims)
  if (reason === undefined) return ofClaims(claims)
  // That its time is over is how every client learns that it is time to refresh.
  if (reason !== 'expired') noteRefusal(deps, claims, reason, from)
  return undefined
}

function noteRefusal(deps: PrincipalDeps, claims: AccessTokenClaims, reason: Refused, from: UsedFrom): void {
  const principal = ofClaims(claims)
  const { credentialId, tokenVersion: version, organizationId, workspaceId } = principal ?? {}
  if (credentialId === undefined || version === undefined || organizationId === undefined) return
  deps.uses.refused({
    credentialId,
    version,
    organizationId,
    workspaceId: workspaceId ?? null,
    userId: principal?.userId ?? null,
    clientId: principal?.clientId ?? null,
    event: 'access.refused',
    reason,
    ...from,
  })
}

function ofToken(token: TokenRecord, permissions: readonly string[]): Principal {
  return {
    kind: token.workspaceId === null ? 'organization_key' : 'workspace_token',
    authority: { kind: 'key', id: token.id, version: token.version },
    organizationId: token.organizationId,
    workspaceId: token.workspaceId ?? undefined,
    permissions,
    environment: token.environment,
    userId: token.userId,
    clientId: null,
    credentialId: token.id,
    tokenVersion: token.version,
  }
}

/** Claims are ours: signed by us, with these forms. */
function ofClaims(claims: AccessTokenClaims): Principal | undefined {
  const version = parseVersion(claims.token_version)
  if (version === undefined) return undefined
  const id = claims.credential_id
  const userId = isUserId(claims.sub) ? claims.sub : null
  return {
    kind: 'access_token',
    authority: isKeyId(id)
      ? { kind: 'key', id, version }
      : { kind: 'connection', id: id as ConnectionId, version, userId },
    organizationId: claims.organization_id as OrganizationId,
    workspaceId: claims.workspace_id as WorkspaceId,
    permissions: claims.scope?.split(' ') ?? [],
    environment: claims.environment as Environment,
    userId,
    clientId: isClientId(claims.client_id) ? claims.client_id : null,
    credentialId: isKeyId(id) ? id : (id as ConnectionId),
    tokenVersion: version,
  }
}

const SAFE_METHODS = new Set(['GET', 'HEAD', 'OPTIONS'])

/** A browser's change must come from our own page, with the token that the page was given. */
async function fromSession(deps: PrincipalDeps, ctx: Context): Promise<Principal> {
  const session = await deps.sessions.find(ctx)
  if (session === undefined) throw new AppError('unauthorized')
  if (!SAFE_METHODS.has(ctx.method)) deps.sessions.requireOwnPage(ctx, session, ctx.get('x-csrf-token'))
  return {
    kind: 'session',
    authority: { kind: 'person', userId: session.userId, signedInAt: session.signedInAt },
    organizationId: undefined,
    workspaceId: undefined,
    permissions: undefined,
    environment: undefined,
    userId: session.userId,
    clientId: null,
    credentialId: undefined,
    tokenVersion: undefined,
  }
}

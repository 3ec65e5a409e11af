// oidc-provider, configured: what is on, for how long things live, and how its callbacks reach our services.
// A pure factory: keys can be rotated by making another one and swapping the reference.
import Provider, {
  type Configuration,
  errors,
  type JWK,
  type KoaContextWithOIDC,
  type Account as OidcAccount,
} from 'oidc-provider'
import { isSessionGood } from '../accounts/rules.ts'
import type { Account } from '../accounts/service.ts'
import type { Clients } from '../clients/service.ts'
import type { Lifetimes } from '../config.ts'
import { whyUnusable } from '../connections/rules.ts'
import type { ConnectionReads } from '../connections/service.ts'
import { type ConnectionFacts, listOpenOfPerson } from '../connections/store.ts'
import type { Keys } from '../crypto/keys.ts'
import { isBehind } from '../crypto/secret.ts'
import type { UserId } from '../ids.ts'
import { grantableScopes } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { type Db, reading } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import { accountOf, connectionFacts, createAdapterFactory, noteReplay } from './adapter.ts'
import { ASSERTION_ALGORITHMS, isShortLived } from './client-authentication.ts'
import { claimReplayId } from './replay.ts'
import { checkRequest, createInteractionPolicy } from './requests.ts'
import { newOpaqueAccessToken, newRefreshToken, successorOf } from './token-values.ts'
import { currentUnit, noteClientSignOut, noteSignOut } from './unit-of-work.ts'

export interface ProviderDeps {
  issuer: string
  secureCookies: boolean
  db: Db
  ephemeral: EphemeralStore
  clients: Clients
  reads: ConnectionReads
  resourceServers: ResourceServers
  keys: Keys
  lifetimes: Lifetimes
  pages: LibraryPages
}

/** The pages that the library asks for by itself. */
export interface LibraryPages {
  error(ctx: KoaContextWithOIDC, error: string, error_: Error): Promise<void>
  signOut(ctx: KoaContextWithOIDC, xsrf: string): Promise<void>
  signedOut(ctx: KoaContextWithOIDC): Promise<void>
}

export const PATHS = {
  authorization: '/authorize',
  token: '/token',
  pushed_authorization_request: '/par',
  userinfo: '/userinfo',
  jwks: '/jwks',
  end_session: '/logout',
} as const

/** Names the interaction that a request waits for. */
export const RESUME_COOKIE = 'latchkey_resume'

/** The session's; the pages of our own that open and end it write the same cookie. */
export const SESSION_COOKIE_OPTIONS = { signed: true, httpOnly: true, sameSite: 'lax', path: '/' } as const

/** A mark of having signed in before; of no use for anything else. */
export const DEVICE_COOKIE = 'latchkey_device'
export const DEVICE_COOKIE_OPTIONS = {
  signed: true,
  httpOnly: true,
  sameSite: 'lax',
  path: '/',
  maxAge: 365 * 86_400_000,
} as const

export const OWN_PATHS = {
  introspection: '/introspect',
  revocation: '/revoke',
  /** For registered APIs: what has ended, as it ends; and what they served from memory. */
  feed: '/revocations',
  uses: '/introspect/uses',
} as const

const AUTHENTICATING = ['client_secret_basic', 'client_secret_post', 'private_key_jwt'] as const

export function createProvider(deps: ProviderDeps): Provider {
  const provider = new Provider(deps.issuer, configuration(deps))
  overrideModels(provider, deps)
  provider.on('server_error', (_ctx, error) => {
    currentUnit().failure = error
  })
  provider.on('end_session.success', ({ oidc }) => {
    if (Reflect.get(oidc.session ?? {}, 'destroyed') === true)
      noteSignOut(oidc.session, 'signed_out', oidc.client?.clientId)
  })
  return provider
}

/** Newest first. The application around the library writes its cookies, and must use the same. */
export function cookieKeys(keys: Keys): string[] {
  return keys.server.cookies.map(({ key }) => key.toString('base64url'))
}

function configuration(deps: ProviderDeps): Configuration {
  const { lifetimes } = deps
  return {
    adapter: createAdapterFactory({
      ...deps,
      refreshGraceSeconds: lifetimes.refreshGraceSeconds,
      refreshTokenMaxSeconds: lifetimes.refreshTokenMaxSeconds,
      successorKeys: deps.keys.server.refresh_successor,
      clientId: () => Provider.ctx?.oidc.client?.clientId,
    }),
    // Each key was made by us as a JWK of its alg.
    jwks: { keys: deps.keys.signing.map(({ jwk }) => jwk as JWK) },
    routes: PATHS,
    cookies: {
      names: {
        session: deps.secureCookies ? '__Host-latchkey' : 'latchkey_session',
        interaction: 'latchkey_interaction',
        resume: RESUME_COOKIE,
      },
      keys: cookieKeys(deps.keys),
      long: SESSION_COOKIE_OPTIONS,
      short: { signed: true, httpOnly: true, sameSite: 'lax' },
    },
    scopes: ['openid', 'profile', 'email', 'offline_access'],
    claims: { openid: ['sub'], profile: ['name', 'preferred_username'], email: ['email', 'email_verified'] },
    responseTypes: ['code'],
    clientAuthMethods: ['none', ...AUTHENTICATING],
    clientDefaults: { id_token_signed_response_alg: 'RS256' },
    enabledJWA: {
      idTokenSigningAlgValues: ['RS256', 'ES256'],
      clientAuthSigningAlgValues: [...ASSERTION_ALGORITHMS],
    },
    async assertJwtClientAuthClaimsAndHeader(_ctx, claims) {
      if (!isShortLived(claims.exp)) throw new errors.InvalidClientAuth('the assertion is good for too long')
    },
    allowOmittingSingleRegisteredRedirectUri: false, // OpenID Connect Core §3.1.2.1, RFC 6749 §4.1.3
    clientBasedCORS: isOriginOf,
    extraClientMetadata: { properties: ['environment', 'pkce_required', 'default_resource', 'resource_server'] },
    extraParams: { workspace: (ctx, value) => checkRequest(ctx, value) },
    pkce: { required: (_ctx, client) => client.pkce_required !== false },
    interactions: {
      url: (_ctx, interaction) => `/interaction/${interaction.uid}`,
      policy: createInteractionPolicy({ resourceServers: deps.resourceServers, standing: standingConnection }),
    },
    findAccount: (ctx, sub) => findAccountFor(deps, ctx, sub),
    loadExistingGrant: (ctx) => loadExistingGrant(deps.db, ctx),
    expiresWithSession: () => false, // signing out ends the browser's session, never a connection
    revokeGrantPolicy: () => false, // families and connections are ended by us
    rotateRefreshToken: () => true,
    issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'), // the consent page said so
    extraTokenClaims: (ctx, token) => connectionClaims(deps, ctx, token),
    formats: { customizers: { jwt: (_ctx, _token, jwt) => useDatabaseTime(jwt.payload) } },
    discovery: ownEndpoints(deps.issuer),
    renderError: (ctx, out, error) => deps.pages.error(ctx, out.error, error),
    ttl: {
      AccessToken: lifetimes.accessTokenSeconds,
      ClientCredentials: lifetimes.accessTokenSeconds,
      AuthorizationCode: lifetimes.authorizationCodeSeconds,
      IdToken: lifetimes.idTokenSeconds,
      Interaction: lifetimes.interactionSeconds,
      Grant: lifetimes.refreshTokenMaxSeconds,
      RefreshToken: (_ctx, token) => refreshTokenSeconds(lifetimes, token),
      Session: (_ctx, session) => sessionSeconds(lifetimes, session),
    },
    features: {
      backchannelLogout: { enabled: true }, // its metadata; notices are written and delivered by us
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: (ctx) => deps.pages.signOut(ctx, String(ctx.oidc.session?.state?.secret)),
        postLogoutSuccessSource: (ctx) => deps.pages.signedOut(ctx),
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: (_ctx, client, oneOf) => oneOf ?? (client.default_resource as string | undefined) ?? [],
        useGrantedResource: () => true, // who asked for an API gets a token for it, also when it is not named again
        getResourceServerInfo: (ctx, identifier, client) => resourceServerInfo(deps, ctx, identifier, client),
      },
    },
  }
}

/** Endpoints that the library does not know: ours stand beside it (RFC 8414 §2). */
function ownEndpoints(issuer: string): Record<string, unknown> {
  return {
    introspection_endpoint: `${issuer}${OWN_PATHS.introspection}`,
    introspection_endpoint_auth_methods_supported: AUTHENTICATING,
    introspection_endpoint_auth_signing_alg_values_supported: ASSERTION_ALGORITHMS,
    revocation_endpoint: `${issuer}${OWN_PATHS.revocation}`,
    revocation_endpoint_auth_methods_supported: ['none', ...AUTHENTICATING],
    revocation_endpoint_auth_signing_alg_values_supported: ASSERTION_ALGORITHMS,
  }
}

/** Public clients call from their pages: only from an origin that they redirect to. */
function isOriginOf(ctx: KoaContextWithOIDC, origin: string, client: ClientOf): boolean {
  if (origin === 'null' || (ctx.oidc.route !== 'userinfo' && client.clientAuthMethod !== 'none')) return false
  return client.redirectUris?.some((uri) => URL.parse(uri)?.origin === origin) ?? false
}

/**
 * Client secrets are kept as digests; ids and successors have forms of our own; replay ids are claimed by one insert; a
 * logout is noted, and told to clients after it.
 */
function overrideModels(provider: Provider, deps: ProviderDeps): void {
  Object.assign(provider.Client.prototype, {
    compareClientSecret(this: { clientSecret: string }, presented: string) {
      return isBehind(this.clientSecret, presented)
    },
    /** Whoever is told of logouts can tell by their id_token of which session. */
    includeSid(this: { backchannelLogoutUri?: string }) {
      return this.backchannelLogoutUri !== undefined
    },
    async backchannelLogout(this: { clientId: string }, userId: UserId, sid: string | undefined) {
      if (sid !== undefined) noteClientSignOut(userId, { clientId: this.clientId, sid })
    },
  })
  // The types leave it out; every token model has it, and this one chooses the format in it.
  const accessTokenId: () => string = Reflect.get(provider.AccessToken.prototype, 'generateTokenId')
  Object.assign(provider.AccessToken.prototype, {
    generateTokenId(this: InstanceType<typeof provider.AccessToken> & { format?: string }) {
      const id = accessTokenId.call(this) // sets the format
      return this.format === 'opaque' ? newOpaqueAccessToken() : id
    },
  })
  Object.assign(provider.RefreshToken.prototype, {
    generateTokenId() {
      const { presented } = currentUnit()
      const key = presented && deps.keys.server.refresh_successor.find(({ id }) => id === presented.row.keyId)
      return presented === undefined || key === undefined ? newRefreshToken() : successorOf(presented.value, key)
    },
  })
  Object.assign(provider.ReplayDetection, {
    unique: (issuer: string, jti: string, expiresAt: number) => claimReplayId(deps.db, issuer, jti, expiresAt),
  })
}

// --- Who ----------------------------------------------------------------------------------------------------------

async function findAccountFor(
  deps: ProviderDeps,
  ctx: KoaContextWithOIDC,
  sub: string,
): Promise<OidcAccount | undefined> {
  const connection = currentUnit().facts?.connection
  if (ctx.oidc.route === 'token' && connection?.userId === sub && connection.user !== undefined) {
    if (whyUnusable(connection) !== undefined || (await isOfEndedSession(deps.db, ctx, connection.user)))
      return undefined
    return toOidcAccount({ id: connection.userId, ...connection.user })
  }
  const account = await accountOf(deps.db, sub)
  // A session that is being opened on an old sign-in (a password that was replaced since) is nobody's.
  const signedInAt = ctx.oidc.session?.accountId === sub ? (ctx.oidc.session.loginTs ?? 0) : Number.POSITIVE_INFINITY
  return account === undefined || !isSessionGood(account, signedInAt) ? undefined : toOidcAccount(account)
}

/** A code is its session's: it ends with that. What came of it before stands on its own. */
async function isOfEndedSession(
  db: Db,
  ctx: KoaContextWithOIDC,
  user: NonNullable<ConnectionFacts['user']>,
): Promise<boolean> {
  const { code } = currentUnit()
  const authTime = ctx.oidc.entities.AuthorizationCode?.authTime
  if (code === undefined || authTime === undefined || isSessionGood(user, authTime)) return false
  await noteReplay(db, code, ctx.oidc.client?.clientId)
  return true
}

function toOidcAccount(account: Pick<Account, 'id' | 'email' | 'name'>): OidcAccount {
  const { id, email, name } = account
  // Nobody has proved yet that the address is theirs.
  return {
    accountId: id,
    claims: async () => ({ sub: id, email, email_verified: false, name, preferred_username: email }),
  }
}

// --- For which connection --------------------------------------------------------------------------------------------

/** The connection that an authorization request can go on with: the one just approved, or the standing one. */
async function loadExistingGrant(db: Db, ctx: KoaContextWithOIDC) {
  const approved = ctx.oidc.result?.consent?.grantId
  const { account, client } = ctx.oidc
  if (approved !== undefined) {
    const grant = await ctx.oidc.provider.Grant.find(approved)
    return grant?.accountId === account?.accountId && grant?.clientId === client?.clientId ? grant : undefined
  }
  if (account === undefined || client === undefined) return undefined
  const askedAt = performance.now()
  const open = await reading(listOpenOfPerson(db, account.accountId as UserId, client.clientId)) // our ids
  const usable = open.filter((facts) => whyUnusable(facts) === undefined)
  const workspace = ctx.oidc.params?.workspace
  const connection = workspace === undefined ? onlyOne(usable) : usable.find((facts) => facts.workspaceId === workspace)
  if (connection === undefined) return undefined
  currentUnit().facts = { connection, askedAt }
  return ctx.oidc.provider.Grant.find(connection.id)
}

function standingConnection(ctx: KoaContextWithOIDC): ConnectionFacts | undefined {
  const connection = currentUnit().facts?.connection
  return connection !== undefined && connection.id === ctx.oidc.entities.Grant?.jti ? connection : undefined
}

/** Where an admin granted the client: the workspace that the request names, or the only one. */
async function connectionOfClient(
  reads: ConnectionReads,
  ctx: KoaContextWithOIDC,
  clientId: string,
): Promise<ConnectionFacts> {
  const unit = currentUnit()
  if (unit.facts !== undefined) return unit.facts.connection
  const askedAt = performance.now()
  const usable = ((await reads.ofClient(clientId)) ?? []).filter((facts) => whyUnusable(facts) === undefined)
  const workspace: unknown = ctx.oidc.body?.workspace
  const connection = workspace === undefined ? onlyOne(usable) : usable.find((facts) => facts.workspaceId === workspace)
  if (connection === undefined) {
    throw new errors.InvalidTarget(
      usable.length > 1 && workspace === undefined
        ? 'this client is granted to several workspaces: name one with the workspace parameter'
        : 'this client is not granted to the workspace',
    )
  }
  unit.facts = { connection, askedAt }
  return connection
}

function onlyOne<T>(items: readonly T[]): T | undefined {
  return items.length === 1 ? items[0] : undefined
}

// --- With what --------------------------------------------------------------------------------------------------------

type ClientOf = NonNullable<KoaContextWithOIDC['oidc']['client']>

async function resourceServerInfo(deps: ProviderDeps, ctx: KoaContextWithOIDC, identifier: string, client: ClientOf) {
  const server = await deps.resourceServers.find(identifier)
  if (server === undefined) throw new errors.InvalidTarget('the resource is not known here')
  if (!server.environments.some((environment) => environment === client.environment)) {
    throw new errors.InvalidTarget(
      `the resource does not serve the environment of this client (${String(client.environment)})`,
    )
  }
  return {
    scope: (
      await usableScopes(deps, ctx, identifier, grantableScopes(server, currentUnit().facts?.connection.role))
    ).join(' '),
    audience: identifier,
    accessTokenFormat: 'jwt' as const,
    accessTokenTTL: deps.lifetimes.accessTokenSeconds,
    jwt: { sign: { alg: 'ES256' as const } },
  }
}

/** A client's own connection bounds what it gets; and who names no scope asks for all there are. */
async function usableScopes(
  deps: ProviderDeps,
  ctx: KoaContextWithOIDC,
  identifier: string,
  scopes: string[],
): Promise<string[]> {
  const { params, route } = ctx.oidc
  if (params?.grant_type === 'client_credentials') {
    const connection = await connectionOfClient(deps.reads, ctx, ctx.oidc.client?.clientId ?? '')
    const approved = new Set(connection.approved.resources?.[identifier]?.split(' '))
    const usable = scopes.filter((scope) => approved.has(scope))
    if (usable.length === 0) throw new errors.InvalidTarget('this client is not granted this resource in the workspace')
    params.scope ??= usable.join(' ')
    return usable
  }
  if (params !== undefined && route !== 'token') params.scope ??= scopes.join(' ')
  return scopes
}

type IssuedToken = Parameters<NonNullable<Configuration['extraTokenClaims']>>[1]

/** What every access token says of the connection behind it. */
async function connectionClaims(deps: ProviderDeps, ctx: KoaContextWithOIDC, token: IssuedToken) {
  if (token.kind === 'ClientCredentials' && token.resourceServer === undefined) {
    throw new errors.InvalidTarget('name the API that the token is for with the resource parameter')
  }
  if (token.resourceServer !== undefined && !token.scope) {
    throw new errors.InvalidScope('none of the scopes asked for is granted', ctx.oidc.params?.scope as string)
  }
  const grantId = token.kind === 'AccessToken' ? token.grantId : undefined
  const connection =
    grantId === undefined ? currentUnit().facts?.connection : await connectionFacts(deps.reads, grantId)
  if (connection === undefined) throw new errors.InvalidGrant('the connection is gone')
  return {
    workspace_id: connection.workspaceId,
    organization_id: connection.organizationId,
    environment: connection.environment,
    token_version: `v${connection.version}`,
    credential_id: connection.id,
  }
}

/** `iat` and `exp` come from the database's time at which the version was read (consistency §4). */
function useDatabaseTime(payload: Record<string, unknown>): void {
  const readAt = currentUnit().facts?.connection.readAt
  if (readAt === undefined || typeof payload.iat !== 'number' || typeof payload.exp !== 'number') return
  const issuedAt = Math.floor(readAt.getTime() / 1000)
  payload.exp = issuedAt + (payload.exp - payload.iat)
  payload.iat = issuedAt
}

// --- For how long -------------------------------------------------------------------------------------------------------

/** Each use extends it, up to the cap that runs from the first of its family. */
function refreshTokenSeconds(lifetimes: Lifetimes, token: { iiat?: number | undefined }): number {
  const now = Math.floor(Date.now() / 1000)
  const left = (token.iiat ?? now) + lifetimes.refreshTokenMaxSeconds - now
  return Math.max(1, Math.min(lifetimes.refreshTokenIdleSeconds, left))
}

export function sessionSeconds(lifetimes: Lifetimes, session: { loginTs?: number | undefined }): number {
  const now = Math.floor(Date.now() / 1000)
  const left = (session.loginTs ?? now) + lifetimes.sessionMaxSeconds - now
  return Math.max(1, Math.min(lifetimes.sessionIdleSeconds, left))
}

// The authorization server's addresses: which methods each takes, what stands in front of the library, and how a
// request's unit of work is settled before its answer goes out.
import type { Context, Middleware } from 'koa'
import compose from 'koa-compose'
import type Provider from 'oidc-provider'
import { present } from '../clients/service.ts'
import { AppError } from '../errors.ts'
import { readBody } from '../http/body.ts'
import type { PostedForm } from '../http/front.ts'
import { jsonReply, type Reply, sendReply } from '../http/reply.ts'
import { formTarget, setContentPolicy } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import { type AuthenticationDeps, authenticateClient, type Form } from './client-authentication.ts'
import { OWN_PATHS, PATHS, RESUME_COOKIE } from './provider.ts'
import { createResourceServerEndpoints, type ResourceServerEndpointsDeps } from './resource-server-endpoints.ts'
import { type SettleDeps, settle } from './settle.ts'
import { type ExchangeDeps, exchangeToken, TOKEN_EXCHANGE } from './token-exchange.ts'
import type { Tokens } from './tokens.ts'
import { inUnitOfWork, newUnitOfWork, type UnitOfWork } from './unit-of-work.ts'

/** Swapped when keys change: nobody keeps the provider itself. */
export interface ProviderHolder {
  current: Provider
}

interface Endpoint {
  methods: readonly string[]
  /** Machines get OAuth errors in JSON, whatever they say they accept (RFC 6749 §5.2); people get pages. */
  form: 'oauth' | 'page'
}

const machine = (...methods: string[]): Endpoint => ({ methods, form: 'oauth' })
const page = (...methods: string[]): Endpoint => ({ methods, form: 'page' })

const ENDPOINTS = new Map<string, Endpoint>([
  [PATHS.authorization, page('GET', 'POST')],
  [PATHS.token, machine('POST', 'OPTIONS')],
  [PATHS.pushed_authorization_request, machine('POST', 'OPTIONS')],
  [PATHS.userinfo, machine('GET', 'POST', 'OPTIONS')],
  [PATHS.jwks, machine('GET', 'HEAD', 'OPTIONS')],
  [OWN_PATHS.introspection, machine('POST')],
  [OWN_PATHS.revocation, machine('POST', 'OPTIONS')],
  [OWN_PATHS.feed, machine('GET')],
  [OWN_PATHS.uses, machine('POST')],
  [PATHS.end_session, page('GET', 'POST')],
  [`${PATHS.end_session}/confirm`, page('POST')],
  [`${PATHS.end_session}/success`, page('GET')],
  ['/.well-known/openid-configuration', machine('GET', 'HEAD', 'OPTIONS')],
  ['/.well-known/oauth-authorization-server', machine('GET', 'HEAD', 'OPTIONS')],
])

const RESUME_TEMPLATE = `${PATHS.authorization}/:uid`
const RESUME = new RegExp(`^${PATHS.authorization}/([A-Za-z0-9_-]{1,64})$`)

/** The endpoint at a path; undefined when the path is not the authorization server's. */
export function endpointAt(path: string): Endpoint | undefined {
  return ENDPOINTS.get(path) ?? (RESUME.test(path) ? page('GET') : undefined)
}

export interface IntrospectionDeps extends AuthenticationDeps {
  tokens: Tokens
}

export interface EndpointsDeps extends SettleDeps, IntrospectionDeps, ExchangeDeps, ResourceServerEndpointsDeps {
  provider: ProviderHolder
}

export function createEndpoints(deps: EndpointsDeps): Middleware {
  const answerApi = createResourceServerEndpoints(deps)
  return async (ctx, next) => {
    const endpoint = endpointAt(ctx.path)
    if (endpoint === undefined) return next()
    ctx.state.route = ENDPOINTS.has(ctx.path) ? ctx.path : RESUME_TEMPLATE
    if (!endpoint.methods.includes(ctx.method)) throw new AppError('method_not_allowed', { allow: endpoint.methods })
    if (ctx.path === OWN_PATHS.introspection) return sendReply(ctx, await introspect(deps, await readPost(ctx)))
    if (ctx.path === OWN_PATHS.revocation) return revoke(deps, ctx)
    if (ctx.path === OWN_PATHS.feed || ctx.path === OWN_PATHS.uses) return answerApi(ctx)
    if (ctx.method === 'POST' && (ctx.path === PATHS.authorization || ctx.path === PATHS.end_session))
      return repeatAsGet(ctx)
    if (RESUME.test(ctx.path)) requireResumeCookie(ctx)
    if (ctx.path === PATHS.token && ctx.method === 'POST' && ctx.is(FORM) === FORM) {
      const body = await readBody(ctx, MOST_BODY_BYTES)
      const form = parseForm(body.toString('utf8'))
      if (form?.get('grant_type') === TOKEN_EXCHANGE) return exchange(deps, ctx, form)
      replay(ctx.req, body)
    }
    ctx.req.headers.accept = endpoint.form === 'oauth' ? 'application/json' : 'text/html' // how the library speaks
    const unit = await settled(deps, ctx, async () => {
      await compose(deps.provider.current.middleware)(ctx, async () => {})
      if (ctx.path === PATHS.end_session) leaveIfSignedOut(ctx)
      if (ctx.path === PATHS.token) nameRefusedGrant(ctx)
      if (ctx.path.startsWith('/.well-known/')) nameOwnGrant(ctx)
    })
    if (ctx.status === 200) noteUse(deps, ctx, unit)
  }
}

/**
 * Runs a part of the library in a unit of work, and settles it before the answer goes out.
 *
 * @returns the unit, settled
 * @throws whatever kept the library from answering, and `unavailable` when a store could not be written
 */
export async function settled(deps: SettleDeps, ctx: Context, work: () => Promise<void>): Promise<UnitOfWork> {
  const unit = newUnitOfWork(requestInfo(ctx))
  return inUnitOfWork(unit, async () => {
    setContentPolicy(ctx)
    await work()
    if (unit.failure !== undefined) throw unit.failure
    noteConnection(ctx, unit)
    if ((await settle(deps, unit, ctx.status >= 400)) === 'invalid_grant') refuseGrant(ctx)
    widenContentPolicy(ctx)
    return unit
  })
}

/** A client that comes for new tokens, or for what userinfo says, uses its connection. A code is what it begins with. */
function noteUse({ uses }: EndpointsDeps, ctx: Context, { code, facts, request }: UnitOfWork): void {
  if (facts === undefined || code !== undefined || (ctx.path !== PATHS.token && ctx.path !== PATHS.userinfo)) return
  const { id: credentialId, version } = facts.connection
  uses.seen({ credentialId, version, address: request.address, agent: ctx.get('user-agent') })
}

/** For the log: in which workspace a request worked. */
function noteConnection(ctx: Context, unit: UnitOfWork): void {
  ctx.state.workspaceId = unit.facts?.connection.workspaceId
}

/** The same bytes as the library's own refusal: who lost a race learns nothing of it. */
function refuseGrant(ctx: Context): void {
  ctx.status = 400
  ctx.body = { error: 'invalid_grant', error_description: 'grant request is invalid' }
}

/** A grant that a client is not registered for has a word of its own (RFC 6749 §5.2); the library says invalid_request. */
function nameRefusedGrant(ctx: Context): void {
  const grantType: unknown = ctx.oidc?.params?.grant_type
  if (ctx.status !== 400 || typeof grantType !== 'string' || ctx.oidc?.client?.grantTypeAllowed(grantType) !== false)
    return
  const body: unknown = ctx.body
  if (typeof body === 'object' && body !== null && Reflect.get(body, 'error') === 'invalid_request')
    ctx.body = { ...body, error: 'unauthorized_client' }
}

/** The metadata names what the library knows; token exchange is ours. */
function nameOwnGrant(ctx: Context): void {
  const body: unknown = ctx.body
  const known: unknown = typeof body === 'object' && body !== null && Reflect.get(body, 'grant_types_supported')
  if (Array.isArray(known)) ctx.body = { ...(body as object), grant_types_supported: [...known, TOKEN_EXCHANGE] } // an object, as looked at
}

/**
 * Where nobody is signed in there is nothing to ask. The library answers with a form that a script sends on, which our
 * policy does not let lead to the client; it checked the address by now, so the browser goes there at once.
 */
function leaveIfSignedOut(ctx: Context): void {
  if (ctx.status !== 200 || ctx.oidc?.session === undefined || ctx.oidc.session.accountId !== undefined) return
  const { post_logout_redirect_uri: target, state } = ctx.oidc.params ?? {}
  const url = new URL(typeof target === 'string' ? target : `${PATHS.end_session}/success`, ctx.oidc.issuer)
  if (typeof target === 'string' && typeof state === 'string') url.searchParams.set('state', state)
  ctx.body = null
  ctx.status = 303
  ctx.redirect(url.href)
}

/** `response_mode=form_post` answers with a form that leads to the client. */
function widenContentPolicy(ctx: Context): void {
  const redirectUri: unknown = ctx.oidc?.redirectUriCheckPerformed === true ? ctx.oidc.params?.redirect_uri : undefined
  const target = typeof redirectUri === 'string' ? formTarget(redirectUri) : undefined
  if (target === undefined || !ctx.response.is('html')) return
  const policy = ctx.response.get('Content-Security-Policy')
  ctx.set(
    'Content-Security-Policy',
    policy.replace(/form-action [^;]*/, (directive) => `${directive} ${target}`),
  )
}

/**
 * OpenID Connect Core §3.1.2.1 lets clients post the request; from their own site the browser would send no cookie
 * with it. So it is asked again as a GET, with every parameter of both kinds: one that stands in both is refused there.
 */
async function repeatAsGet(ctx: Context): Promise<void> {
  const parameters = new URLSearchParams(ctx.querystring)
  for (const [name, value] of new URLSearchParams(await readForm(ctx))) parameters.append(name, value)
  const target = `${ctx.path}?${parameters}`
  if (target.length > MOST_TARGET_CHARACTERS) {
    throw new AppError('payload_too_large', { detail: 'The request is longer than an address may be.' })
  }
  ctx.status = 303
  ctx.redirect(target)
}

/** What browsers, and the proxies on their way, carry in an address; Node reads 16 KiB with all headers. */
const MOST_TARGET_CHARACTERS = 8_000

/** Without the cookie of this very request the library would fail, not refuse. */
function requireResumeCookie(ctx: Context): void {
  const [, uid] = RESUME.exec(ctx.path) ?? []
  if (ctx.cookies.get(RESUME_COOKIE, { signed: true }) !== uid) throw new AppError('expired_interaction')
}

// --- Introspection and revocation ---------------------------------------------------------------------------------

/** Introspection, whoever reads the request. @throws {AppError} `unavailable` */
export async function introspect(deps: IntrospectionDeps, post: PostedForm): Promise<Reply> {
  const request = await readTokenRequest(deps, post, OWN_PATHS.introspection)
  if (!request.ok) return request.refusal
  if (request.client.metadata.token_endpoint_auth_method === 'none') {
    return refusal('invalid_client', 'a client that does not authenticate cannot introspect')
  }
  const asked = {
    clientIp: request.form.get('client_ip'),
    userAgent: request.form.get('user_agent'),
    request: post.about,
  }
  return jsonReply(200, NO_STORE, await deps.tokens.introspect(request.token, request.client, asked))
}

async function revoke(deps: EndpointsDeps, ctx: Context): Promise<void> {
  if (allowOrigin(ctx)) return
  const request = await readTokenRequest(deps, await readPost(ctx), OWN_PATHS.revocation)
  if (!request.ok) return sendReply(ctx, request.refusal)
  if (deps.tokens.isOfNoClient(request.token)) {
    const where = 'a workspace token is revoked by its workspace, by itself, or at /api/v1/credentials/revoke'
    return sendReply(ctx, refusal('unsupported_token_type', where))
  }
  await deps.tokens.revoke(request.token, request.client, requestInfo(ctx))
  ctx.body = {} // RFC 7009 §2.2 asks for no body; clients that parse one find JSON
}

/** A revocation needs no cookie and shows nothing, so pages of any origin may ask for one. True for a preflight. */
function allowOrigin(ctx: Context): boolean {
  ctx.set('Access-Control-Allow-Origin', '*')
  if (ctx.method !== 'OPTIONS') return false
  ctx.set({
    'Access-Control-Allow-Methods': 'POST',
    'Access-Control-Allow-Headers': 'authorization, content-type',
    'Access-Control-Max-Age': '3600',
  })
  ctx.status = 204
  return true
}

// --- Token exchange -------------------------------------------------------------------------------------------------

async function exchange(deps: EndpointsDeps, ctx: Context, form: Form): Promise<void> {
  ctx.set(NO_STORE)
  const { authorization } = ctx.headers
  const isClient =
    authorization !== undefined || ['client_id', 'client_secret', 'client_assertion'].some((name) => form.has(name))
  const authentication = isClient ? await authenticate(deps, { authorization, form }, PATHS.token) : undefined
  if (authentication?.ok === false) return sendReply(ctx, authentication.refusal)
  const client = authentication?.client
  if (client !== undefined && !present(client).grant_types.includes(TOKEN_EXCHANGE)) {
    return sendReply(ctx, refusal('unauthorized_client', 'this client is not registered for token exchange'))
  }
  const request = requestInfo(ctx)
  const from = { address: request.address, agent: ctx.get('user-agent'), request }
  const outcome = await exchangeToken(deps, form, client, from)
  if (!outcome.ok) return sendReply(ctx, refusal(outcome.error, outcome.description))
  ctx.state.workspaceId = outcome.workspaceId
  ctx.body = outcome.body
}

/** Lets the library read a body that has been read: it asks the request for these two. */
function replay(request: Context['req'], body: Buffer): void {
  Object.defineProperties(request, {
    readable: { value: true },
    iterator: {
      value: async function* () {
        yield body
      },
    },
  })
}

type Credentials = { authorization: string | undefined; form: Form }

/** Who asks, or the answer to whoever could not say so. */
async function authenticate(deps: AuthenticationDeps, { authorization, form }: Credentials, path: string) {
  const given = authorization === '' ? undefined : authorization
  const authentication = await authenticateClient(deps, {
    authorization: given,
    form,
    endpoint: `${deps.issuer}${path}`,
  })
  if (authentication.ok) return authentication
  const { ok, error, description } = authentication
  const isTold = error === 'invalid_client' && given !== undefined
  const headers = isTold ? { 'WWW-Authenticate': `Basic realm="${deps.issuer}"` } : {}
  return { ok, refusal: refusal(error, description, headers) }
}

/** The token that a client asks about, or the answer to a request without one. */
async function readTokenRequest(deps: AuthenticationDeps, { headers, body }: PostedForm, path: string) {
  const form = parseForm(body)
  if (form === undefined) return refused('invalid_request', 'a parameter must not be given twice')
  const authentication = await authenticate(deps, { authorization: headers.authorization, form }, path)
  if (!authentication.ok) return authentication
  const token = form.get('token')
  if (token === undefined || token === '') return refused('invalid_request', "missing required parameter 'token'")
  return { ok: true, client: authentication.client, token, form } as const
}

const NO_STORE = { 'Cache-Control': 'no-store' }

type OAuthError =
  | 'invalid_request'
  | 'invalid_client'
  | 'unauthorized_client'
  | 'unsupported_token_type'
  | 'invalid_scope'
  | 'invalid_target'

function refusal(error: OAuthError, description: string, headers: Record<string, string> = {}): Reply {
  const status = error === 'invalid_client' ? 401 : 400
  return jsonReply(status, { ...NO_STORE, ...headers }, { error, error_description: description })
}

function refused(error: OAuthError, description: string): { ok: false; refusal: Reply } {
  return { ok: false, refusal: refusal(error, description) }
}

function parseForm(text: string): Form | undefined {
  const form = new Map<string, string>()
  for (const [name, value] of new URLSearchParams(text)) {
    if (form.has(name)) return undefined
    form.set(name, value)
  }
  return form
}

const MOST_BODY_BYTES = 56 * 1024 // what the library takes at its own endpoints

const FORM = 'application/x-www-form-urlencoded'

async function readPost(ctx: Context): Promise<PostedForm> {
  return { headers: ctx.headers, body: await readForm(ctx), about: requestInfo(ctx) }
}

/** @throws {AppError} `unsupported_media_type`, `payload_too_large` */
async function readForm(ctx: Context): Promise<string> {
  if (ctx.is(FORM) === false)
    throw new AppError('unsupported_media_type', { detail: 'The body must be application/x-www-form-urlencoded.' })
  return (await readBody(ctx, MOST_BODY_BYTES)).toString('utf8')
}

// The tour at /try: a demo app that connects for real, over HTTP, like any other client, and shows each step; and the
// demo API that it calls. Only in the embedded default.
import { createHash, randomBytes } from 'node:crypto'
import Router from '@koa/router'
import { createRemoteJWKSet, decodeJwt, decodeProtectedHeader, jwtVerify } from 'jose'
import type { Context } from 'koa'
import type { RequestInfo } from '../audit/service.ts'
import type { Clients } from '../clients/service.ts'
import type { Pages, TourClaim, TourLogEntry, TourPage } from '../console/pages.ts'
import { type FormTokens, formBody } from '../http/forms.ts'
import { sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import type { Tokens } from '../oauth/tokens.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { MEANINGS } from './meanings.ts'
import { TOUR_CLIENT_NAME, TOUR_EMAIL, type Tour } from './service.ts'

export interface TourRoutesDeps {
  issuer: string
  tour: Tour
  tokens: Pick<Tokens, 'introspect'>
  clients: Pick<Clients, 'find'>
  resourceServers: Pick<ResourceServers, 'find'>
  pages: Pages
  formTokens: FormTokens
}

/** What the app remembers of one browser. In memory: the tour runs in one process. */
interface Walk {
  id: string
  state?: string
  verifier?: string
  accessToken?: string
  /** When the token that it holds was renewed, and which one it took the place of. */
  renewal?: { time: string; previousTokenId: string }
  refreshToken?: string
  ended: boolean
  error?: string
  /** Something to know that is no failure. */
  notice?: string
  lastCall?: { status: number; body: string }
  log: TourLogEntry[]
}

const COOKIE = 'latchkey_try'
const MOST_WALKS = 100
const SCOPE = 'openid profile traces:read traces:write'

export function createTour(deps: TourRoutesDeps): Router {
  const walks = new Map<string, Walk>()
  const router = new Router({ prefix: '/try' })
  const keys = createRemoteJWKSet(new URL(`${deps.issuer}/jwks`))

  const walkOf = (ctx: Context): Walk => {
    const known = walks.get(ctx.cookies.get(COOKIE, { signed: true }) ?? '')
    if (known !== undefined) return known
    const walk: Walk = { id: randomBytes(16).toString('base64url'), ended: false, log: [] }
    walks.set(walk.id, walk)
    const oldest = walks.size > MOST_WALKS ? walks.keys().next().value : undefined
    if (oldest !== undefined) walks.delete(oldest)
    ctx.cookies.set(COOKIE, walk.id, { signed: true, httpOnly: true, sameSite: 'lax', path: '/try' })
    return walk
  }
  const post = (path: string, step: (walk: Walk) => Promise<string>) =>
    router.post(path, formBody, async (ctx) => {
      const walk = walkOf(ctx)
      deps.formTokens.check(ctx, `tour ${walk.id}`)
      delete walk.error
      delete walk.notice
      ctx.status = 303
      ctx.redirect(await step(walk))
    })

  router.get('/', async (ctx) => {
    const walk = walkOf(ctx)
    sendPage(ctx, deps.pages.tour(describe(deps, walk)))
  })
  post('/connect', async (walk) => startConnecting(deps, walk))
  router.get('/callback', async (ctx) => {
    await finishConnecting(deps, walkOf(ctx), ctx.URL.searchParams)
    ctx.status = 303
    ctx.redirect('/try')
  })
  post('/call', async (walk) => callApi(deps, walk))
  post('/refresh', async (walk) => refresh(deps, walk))
  post('/forget', async (walk) => {
    walks.delete(walk.id)
    return '/try'
  })
  router.get('/api/traces', async (ctx) => answerApi(deps, ctx, keys))
  return router
}

// --- The app --------------------------------------------------------------------------------------------------------

async function startConnecting(deps: TourRoutesDeps, walk: Walk): Promise<string> {
  walk.verifier = randomBytes(32).toString('base64url')
  walk.state = randomBytes(16).toString('base64url')
  walk.log = []
  delete walk.lastCall
  delete walk.renewal
  const query = new URLSearchParams({
    client_id: deps.tour.clientId,
    response_type: 'code',
    redirect_uri: redirectUri(deps),
    scope: SCOPE,
    resource: deps.tour.resource,
    state: walk.state,
    login_hint: TOUR_EMAIL,
    code_challenge: createHash('sha256').update(walk.verifier).digest('base64url'),
    code_challenge_method: 'S256',
  })
  note(walk, {
    title: 'The app sends you to sign in',
    request: `GET /authorize?client_id=${deps.tour.clientId}&response_type=code&scope=…&resource=…&code_challenge=…&state=…`,
    answer: '303 See Other → a page of this server',
    good: true,
    meaning: 'It never sees your password. The code_challenge ties the answer to this very request (PKCE, RFC 7636).',
  })
  return `/authorize?${query}`
}

async function finishConnecting(deps: TourRoutesDeps, walk: Walk, answer: URLSearchParams): Promise<void> {
  const { state, verifier } = walk
  delete walk.state
  delete walk.verifier
  if (
    state === undefined ||
    verifier === undefined ||
    answer.get('state') !== state ||
    answer.get('iss') !== deps.issuer
  ) {
    walk.error = 'This answer belongs to no request of this browser. Choose Connect again.'
    return
  }
  const code = answer.get('code')
  if (code === null) {
    if (answer.get('error') === 'access_denied') walk.notice = 'You did not connect, and nothing was given out.'
    else walk.error = `The server answered ${answer.get('error')}.`
    note(walk, {
      title: 'You came back without a code',
      request: `GET /try/callback?error=${answer.get('error')}&iss=…&state=…`,
      answer: 'Nothing was given out.',
      good: false,
      meaning: 'Saying no is an answer like any other (RFC 6749 §4.1.2.1).',
    })
    return
  }
  note(walk, {
    title: 'You came back with a code',
    request: `GET /try/callback?code=${short(code)}&iss=…&state=…`,
    answer: 'The app checks state and iss: this is the answer to what it asked, from the server it asked.',
    good: true,
    meaning: 'The code works once, within a minute, and only with the verifier that the app kept to itself.',
  })
  await askForTokens(
    deps,
    walk,
    'The app exchanges the code',
    {
      grant_type: 'authorization_code',
      code,
      redirect_uri: redirectUri(deps),
      code_verifier: verifier,
    },
    'It gets a short-lived JWT for the API, made out for the workspace you chose, and a refresh token for later.',
  )
}

async function refresh(deps: TourRoutesDeps, walk: Walk): Promise<string> {
  if (walk.refreshToken === undefined || walk.accessToken === undefined) return '/try'
  const previousTokenId = String(decodeJwt(walk.accessToken).jti)
  await askForTokens(
    deps,
    walk,
    'The app renews its token',
    { grant_type: 'refresh_token', refresh_token: walk.refreshToken },
    'The old refresh token is used up, and has exactly one successor. Your role was checked again.',
  )
  if (walk.ended) return '/try'
  walk.renewal = { time: new Date().toISOString(), previousTokenId }
  return '/try#renew'
}

async function askForTokens(
  deps: TourRoutesDeps,
  walk: Walk,
  title: string,
  parameters: Record<string, string>,
  meaning: string,
): Promise<void> {
  const sent = { ...parameters, client_id: deps.tour.clientId }
  const shown = Object.entries(sent).map(([name, value]) => `${name}=${SHORTENED.has(name) ? short(value) : value}`)
  const response = await fetch(`${deps.issuer}/token`, {
    method: 'POST',
    body: new URLSearchParams(sent),
  })
  const body: unknown = await response.json()
  const tokens = typeof body === 'object' && body !== null ? body : {}
  note(walk, {
    title,
    request: `POST /token\n${shown.join('&')}`,
    answer: `${statusLine(response)}\n${JSON.stringify(shorten(tokens), undefined, 2)}`,
    good: response.ok,
    meaning: response.ok ? meaning : 'What the app held is no longer good. Connecting again gives it new tokens.',
  })
  walk.ended = !response.ok
  const [accessToken, refreshToken] = [Reflect.get(tokens, 'access_token'), Reflect.get(tokens, 'refresh_token')]
  if (typeof accessToken === 'string') walk.accessToken = accessToken
  if (typeof refreshToken === 'string') walk.refreshToken = refreshToken
}

async function callApi(deps: TourRoutesDeps, walk: Walk): Promise<string> {
  if (walk.accessToken === undefined) return '/try'
  const response = await fetch(`${deps.tour.resource}/traces`, {
    headers: { authorization: `Bearer ${walk.accessToken}` },
  })
  const body = JSON.stringify(await response.json(), undefined, 2)
  walk.lastCall = { status: response.status, body }
  note(walk, {
    title: 'The app calls the API',
    request: `GET /try/api/traces\nAuthorization: Bearer ${short(walk.accessToken)}`,
    answer: `${statusLine(response)}\n${body}`,
    good: response.ok,
    meaning: response.ok
      ? 'The API checked signature, audience, time and scope with the published keys, and that the connection stands.'
      : 'The API refused the token: it has expired, or the connection behind it has ended.',
  })
  return '/try#call'
}

// --- The API ----------------------------------------------------------------------------------------------------------

async function answerApi(
  deps: TourRoutesDeps,
  ctx: Context,
  keys: ReturnType<typeof createRemoteJWKSet>,
): Promise<void> {
  const [, token] = /^bearer ([\w-]+\.[\w-]+\.[\w-]+)$/i.exec(ctx.get('authorization')) ?? []
  const payload = token === undefined ? undefined : await verifyToken(deps, token, keys)
  if (token === undefined || payload === undefined || !(await stands(deps, token, requestInfo(ctx)))) {
    ctx.status = 401
    ctx.set('WWW-Authenticate', `Bearer realm="${deps.tour.resource}", error="invalid_token"`)
    ctx.body = { error: 'invalid_token' }
    return
  }
  if (!String(payload.scope).split(' ').includes('traces:read')) {
    ctx.status = 403
    ctx.set('WWW-Authenticate', `Bearer realm="${deps.tour.resource}", error="insufficient_scope", scope="traces:read"`)
    ctx.body = { error: 'insufficient_scope' }
    return
  }
  ctx.body = {
    workspace_id: payload.workspace_id,
    traces: [
      { name: 'first light', spans: 12 },
      { name: 'second thoughts', spans: 7 },
    ],
  }
}

async function verifyToken(deps: TourRoutesDeps, token: string, keys: ReturnType<typeof createRemoteJWKSet>) {
  try {
    const { payload } = await jwtVerify(token, keys, {
      issuer: deps.issuer,
      audience: deps.tour.resource,
      typ: 'at+jwt',
      algorithms: ['ES256'],
    })
    return payload
  } catch {
    return undefined
  }
}

/** Whether the connection behind it does: what no signature can say (RFC 7662). Asked as the API's own client. */
async function stands(deps: TourRoutesDeps, token: string, request: RequestInfo): Promise<boolean> {
  const asked = { clientIp: request.address, request }
  const api = await deps.resourceServers.find(deps.tour.resource)
  const caller = api?.clientId === undefined ? undefined : await deps.clients.find(api.clientId)
  return caller !== undefined && (await deps.tokens.introspect(token, caller, asked)).active === true
}

// --- What is shown ----------------------------------------------------------------------------------------------------

function describe(deps: TourRoutesDeps, walk: Walk): TourPage {
  const { accessToken } = walk
  return {
    host: new URL(deps.issuer).host,
    keylineSeed: deps.tour.clientId,
    clientName: TOUR_CLIENT_NAME,
    csrf: deps.formTokens.issue(`tour ${walk.id}`),
    state: accessToken === undefined ? 'start' : walk.ended ? 'ended' : 'connected',
    error: walk.error,
    notice: walk.notice,
    ...(accessToken === undefined
      ? { signInHint: { email: TOUR_EMAIL } }
      : { claims: explain(decodeJwt(accessToken)), header: explain(decodeProtectedHeader(accessToken)) }),
    log: walk.log,
    lastCall: walk.lastCall,
    renewal: walk.renewal,
    connectAction: '/try/connect',
    callAction: '/try/call',
    refreshAction: '/try/refresh',
    disconnectAction: '/try/forget',
    docsHint: `Your own app makes the same calls. Register it with “latchkey client create”, and give its OAuth library the issuer ${deps.issuer}.`,
  }
}

function explain(members: object): TourClaim[] {
  return Object.entries(members)
    .toSorted(([one], [other]) => place(one) - place(other))
    .map(([name, value]) => ({
      name,
      value: TIMES.has(name) && typeof value === 'number' ? clock(value) : String(value),
      meaning: MEANINGS[name] ?? '',
    }))
}

/** In the order in which they are explained; what is not explained comes last. */
function place(name: string): number {
  const found = Object.keys(MEANINGS).indexOf(name)
  return found === -1 ? Number.MAX_SAFE_INTEGER : found
}

function clock(seconds: number): string {
  return new Date(seconds * 1000).toISOString().replace('T', ' ').replace('.000Z', ' UTC')
}

function statusLine(response: Response): string {
  return `${response.status} ${response.statusText}`
}

const TIMES = new Set(['iat', 'exp'])
const SHORTENED = new Set(['code', 'code_verifier', 'refresh_token', 'access_token', 'id_token'])
const MOST_NOTES = 50

function note(walk: Walk, entry: Omit<TourLogEntry, 'time'>): void {
  walk.log = [...walk.log, { time: new Date().toISOString(), ...entry }].slice(-MOST_NOTES)
}

function shorten(members: object): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(members).map(([name, value]) => [
      name,
      SHORTENED.has(name) && typeof value === 'string' ? short(value) : value,
    ]),
  )
}

function short(secret: string): string {
  return `${secret.slice(0, 6)}…`
}

function redirectUri(deps: TourRoutesDeps): string {
  return `${deps.issuer}/try/callback`
}

// The floor: the same requests, answers and records as the others, by hand on node:http, ioredis and jose, and nothing
// else. Not conformant and not to be imitated: it checks what a request needs to be answered, and no more.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Redis } from 'ioredis'
import { exportJWK, generateKeyPair, jwtVerify, SignJWT } from 'jose'
import {
  ACCESS_TOKEN_SECONDS,
  ACCOUNT_HEADER,
  announce,
  CLIENT,
  MACHINE,
  MAKE_KEY_PATH,
  REDIRECT_URI,
  REFRESH_TOKEN_SECONDS,
  RESOURCE,
  readSettings,
  SCOPE,
} from './settings.ts'

const { port, redisUrl } = readSettings()
if (!redisUrl) throw new Error('the bare server needs Redis')
const redis = new Redis(redisUrl)
const issuer = `http://127.0.0.1:${port}`
const { privateKey, publicKey } = await generateKeyPair('ES256')

const digest = (value: string): string => createHash('sha256').update(value).digest('base64url')
const random = (): string => randomBytes(32).toString('base64url')
const now = (): number => Math.floor(Date.now() / 1000)

/** A client as Redis holds it: read at each request, so that a change to one is seen by the next, as with the others. */
interface ClientRecord {
  readonly secretDigest: string
  readonly redirectUris: readonly string[]
}

for (const { clientId, clientSecret } of [CLIENT, MACHINE]) {
  const stored: ClientRecord = { secretDigest: digest(clientSecret), redirectUris: [REDIRECT_URI] }
  await redis.set(`client:${clientId}`, JSON.stringify(stored))
}

async function findClient(clientId: string): Promise<ClientRecord | undefined> {
  const text = await redis.get(`client:${clientId}`)
  return text === null ? undefined : (JSON.parse(text) as ClientRecord) // stored above
}

/** The revocation list: what a JWT is checked against besides its signature. */
const deniedIds = new Set<string>()

const discovery = Buffer.from(
  JSON.stringify({
    issuer,
    authorization_endpoint: `${issuer}/authorize`,
    token_endpoint: `${issuer}/token`,
    introspection_endpoint: `${issuer}/introspect`,
    revocation_endpoint: `${issuer}/revoke`,
    jwks_uri: `${issuer}/jwks`,
    response_types_supported: ['code'],
    response_modes_supported: ['query'],
    grant_types_supported: ['authorization_code', 'refresh_token', 'client_credentials'],
    code_challenge_methods_supported: ['S256'],
    token_endpoint_auth_methods_supported: ['client_secret_basic'],
    introspection_endpoint_auth_methods_supported: ['client_secret_basic'],
    revocation_endpoint_auth_methods_supported: ['client_secret_basic'],
    subject_types_supported: ['public'],
    id_token_signing_alg_values_supported: ['ES256'],
    scopes_supported: ['openid', 'offline_access', SCOPE],
    authorization_response_iss_parameter_supported: true,
  }),
)
const jwks = Buffer.from(
  JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: 'bench', alg: 'ES256', use: 'sig' }] }),
)

/** What a code, a refresh token or an opaque access token stands for, as Redis holds it under the token's digest. */
interface TokenRecord {
  readonly clientId: string
  readonly subject: string
  readonly scope: string
  readonly resource?: string | undefined
  readonly challenge?: string
  readonly redirectUri?: string
  readonly family?: string
  readonly issuedAt: number
}

const record = (text: string): TokenRecord => JSON.parse(text) as TokenRecord // stored by this server

class OAuthError extends Error {
  readonly status: number
  readonly code: string
  constructor(code: string, status = 400) {
    super(code)
    this.code = code
    this.status = status
  }
}

function readBody(request: IncomingMessage): Promise<URLSearchParams> {
  return new Promise((resolve, reject) => {
    let body = ''
    request.setEncoding('utf8')
    request.on('data', (chunk: string) => {
      body += chunk
    })
    request.on('end', () => resolve(new URLSearchParams(body)))
    request.on('error', reject)
  })
}

async function authenticate(request: IncomingMessage): Promise<string> {
  const pair = Buffer.from(request.headers.authorization?.slice('Basic '.length) ?? '', 'base64').toString()
  const colon = pair.indexOf(':')
  const clientId = decodeURIComponent(pair.slice(0, colon))
  const client = await findClient(clientId)
  const given = Buffer.from(digest(decodeURIComponent(pair.slice(colon + 1))))
  if (!client || !timingSafeEqual(Buffer.from(client.secretDigest), given)) throw new OAuthError('invalid_client', 401)
  return clientId
}

function sendJson(response: ServerResponse, status: number, value: unknown): void {
  const body = JSON.stringify(value)
  response.writeHead(status, {
    'content-type': 'application/json',
    'cache-control': 'no-store',
    'content-length': Buffer.byteLength(body),
  })
  response.end(body)
}

interface JwtClaims {
  readonly subject: string
  readonly clientId: string
  readonly audience: string
  readonly scope?: string
  readonly type: 'at+jwt' | 'JWT'
}

function sign({ subject, clientId, audience, scope, type }: JwtClaims): Promise<string> {
  const issuedAt = now()
  const own = type === 'at+jwt' ? { client_id: clientId, scope, jti: random() } : { auth_time: issuedAt }
  return new SignJWT({
    iss: issuer,
    sub: subject,
    aud: audience,
    iat: issuedAt,
    exp: issuedAt + ACCESS_TOKEN_SECONDS,
    ...own,
  })
    .setProtectedHeader({ alg: 'ES256', typ: type, kid: 'bench' })
    .sign(privateKey)
}

/** An access token for what the record stands for: a JWT for the API, else an opaque one kept in Redis. */
async function makeAccessToken({ clientId, subject, scope, resource }: TokenRecord): Promise<string> {
  if (resource) return sign({ subject, clientId, audience: resource, scope, type: 'at+jwt' })
  const token = random()
  await redis.set(
    `at:${digest(token)}`,
    JSON.stringify({ clientId, subject, scope, issuedAt: now() }),
    'EX',
    ACCESS_TOKEN_SECONDS,
  )
  return token
}

async function saveRefreshToken(kept: TokenRecord): Promise<string> {
  const token = random()
  await redis.set(`rt:${digest(token)}`, JSON.stringify({ ...kept, issuedAt: now() }), 'EX', REFRESH_TOKEN_SECONDS)
  return token
}

function tokenAnswer(access: string, scope: string, more: Record<string, string> = {}) {
  return { access_token: access, token_type: 'Bearer', expires_in: ACCESS_TOKEN_SECONDS, scope, ...more }
}

async function issueForClient(clientId: string, body: URLSearchParams): Promise<unknown> {
  const resource = readResource(body)
  const made = { clientId, subject: clientId, scope: SCOPE, resource, issuedAt: now() }
  return tokenAnswer(await makeAccessToken(made), SCOPE)
}

async function redeemCode(clientId: string, body: URLSearchParams): Promise<unknown> {
  // GETDEL: the first redeemer gets it, and no second one.
  const text = await redis.getdel(`code:${digest(body.get('code') ?? '')}`)
  if (text === null) throw new OAuthError('invalid_grant')
  const { challenge, redirectUri, ...kept } = record(text)
  const proven = digest(body.get('code_verifier') ?? '') === challenge
  if (!proven || kept.clientId !== clientId || redirectUri !== body.get('redirect_uri')) {
    throw new OAuthError('invalid_grant')
  }
  const { subject, scope } = kept
  const [access, refresh, id] = await Promise.all([
    makeAccessToken(kept),
    saveRefreshToken({ ...kept, family: random() }),
    scope.includes('openid') ? sign({ subject, clientId, audience: clientId, type: 'JWT' }) : undefined,
  ])
  return tokenAnswer(access, scope, { refresh_token: refresh, ...(id ? { id_token: id } : {}) })
}

async function rotate(clientId: string, body: URLSearchParams): Promise<unknown> {
  const key = `rt:${digest(body.get('refresh_token') ?? '')}`
  const text = await redis.getdel(key)
  if (text === null) throw new OAuthError('invalid_grant')
  const kept = record(text)
  if (kept.clientId !== clientId) throw new OAuthError('invalid_grant')
  const [access, refresh] = await Promise.all([
    makeAccessToken(kept),
    saveRefreshToken(kept),
    // The used token is remembered, so that a second use of it could be told from a guess.
    redis.set(`used:${key}`, kept.family ?? '', 'EX', REFRESH_TOKEN_SECONDS),
  ])
  return tokenAnswer(access, kept.scope, { refresh_token: refresh })
}

function readResource(parameters: URLSearchParams): string | undefined {
  const resource = parameters.get('resource') ?? undefined
  if (resource !== undefined && resource !== RESOURCE) throw new OAuthError('invalid_target')
  return resource
}

async function token(request: IncomingMessage): Promise<unknown> {
  const body = await readBody(request)
  const clientId = await authenticate(request)
  switch (body.get('grant_type')) {
    case 'client_credentials':
      return issueForClient(clientId, body)
    case 'authorization_code':
      return redeemCode(clientId, body)
    case 'refresh_token':
      return rotate(clientId, body)
    default:
      throw new OAuthError('unsupported_grant_type')
  }
}

async function introspect(request: IncomingMessage): Promise<unknown> {
  const body = await readBody(request)
  await authenticate(request)
  const presented = body.get('token') ?? ''
  if (presented.startsWith('eyJ')) {
    try {
      const { payload } = await jwtVerify(presented, publicKey, { issuer, typ: 'at+jwt' })
      return deniedIds.has(payload.jti ?? '') ? { active: false } : { active: true, token_type: 'Bearer', ...payload }
    } catch {
      return { active: false }
    }
  }
  if (presented.startsWith(KEY_PREFIX)) {
    const text = await redis.get(`key:${digest(presented)}`)
    return text === null ? { active: false } : { active: true, token_type: 'Bearer', iss: issuer, ...JSON.parse(text) }
  }
  const text = await redis.get(`at:${digest(presented)}`)
  if (text === null) return { active: false }
  const { clientId, subject, scope, issuedAt } = record(text)
  const times = { iat: issuedAt, exp: issuedAt + ACCESS_TOKEN_SECONDS }
  return { active: true, token_type: 'Bearer', iss: issuer, sub: subject, client_id: clientId, scope, ...times }
}

const KEY_PREFIX = 'key_'

/** The rig's own: a static token, with what is answered about it. */
async function makeKey(response: ServerResponse): Promise<void> {
  const key = `${KEY_PREFIX}${random()}`
  const kept = { sub: random(), aud: RESOURCE, scope: SCOPE, workspace_id: random(), iat: now() }
  await redis.set(`key:${digest(key)}`, JSON.stringify(kept))
  sendJson(response, 200, { key })
}

async function revoke(request: IncomingMessage): Promise<unknown> {
  const body = await readBody(request)
  await authenticate(request)
  await redis.del(`at:${digest(body.get('token') ?? '')}`)
  return {}
}

function readSession(request: IncomingMessage): string {
  return /(?:^|;\s*)session=([^;]+)/.exec(request.headers.cookie ?? '')?.[1] ?? ''
}

async function authorize(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { searchParams: query } = new URL(request.url ?? '', issuer)
  const clientId = query.get('client_id') ?? ''
  const redirectUri = query.get('redirect_uri')
  const challenge = query.get('code_challenge')
  const client = await findClient(clientId)
  if (redirectUri === null || !client?.redirectUris.includes(redirectUri) || !challenge) {
    throw new OAuthError('invalid_request')
  }
  const resource = readResource(query)
  const subject = await redis.get(`session:${digest(readSession(request))}`)
  if (subject === null) throw new OAuthError('login_required')
  if ((await redis.get(`consent:${subject}:${clientId}`)) === null) throw new OAuthError('consent_required')
  const code = random()
  const scope = query.get('scope') ?? ''
  const kept = { clientId, subject, scope, resource, challenge, redirectUri, issuedAt: now() } satisfies TokenRecord
  await redis.set(`code:${digest(code)}`, JSON.stringify(kept), 'EX', 60)
  const location = `${redirectUri}?${new URLSearchParams({ code, state: query.get('state') ?? '', iss: issuer })}`
  response.writeHead(303, { location, 'cache-control': 'no-store', 'content-length': 0 }).end()
}

/** The rig's sign-in: whoever the header names has a session, and has approved. */
async function signIn(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const session = random()
  const subject = String(request.headers[ACCOUNT_HEADER])
  await redis.set(`session:${digest(session)}`, subject, 'EX', REFRESH_TOKEN_SECONDS)
  await redis.set(`consent:${subject}:${CLIENT.clientId}`, SCOPE, 'EX', REFRESH_TOKEN_SECONDS)
  response.writeHead(204, { 'set-cookie': `session=${session}; HttpOnly; Path=/` }).end()
}

function sendDocument(response: ServerResponse, body: Buffer): void {
  response.writeHead(200, {
    'content-type': 'application/json',
    'cache-control': 'public, max-age=60',
    'content-length': body.length,
  })
  response.end(body)
}

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = request.url ?? ''
  const query = url.indexOf('?')
  switch (query < 0 ? url : url.slice(0, query)) {
    case '/token':
      return sendJson(response, 200, await token(request))
    case '/introspect':
      return sendJson(response, 200, await introspect(request))
    case '/revoke':
      return sendJson(response, 200, await revoke(request))
    case '/authorize':
      return authorize(request, response)
    case '/jwks':
      return sendDocument(response, jwks)
    case '/.well-known/openid-configuration':
      return sendDocument(response, discovery)
    case '/sign-in':
      return signIn(request, response)
    case MAKE_KEY_PATH:
      return makeKey(response)
    default:
      throw new OAuthError('not_found', 404)
  }
}

createServer((request, response) => {
  handle(request, response).catch((error: unknown) => {
    const known = error instanceof OAuthError
    sendJson(response, known ? error.status : 500, { error: known ? error.code : String(error) })
  })
}).listen(port, '127.0.0.1', () => announce({ client: CLIENT, machine: MACHINE }))

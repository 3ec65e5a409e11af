// Whatever is sent to whatever address: an answer in that address's own form, never a 5xx, never a stack.
import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { endpointAt } from '../../src/oauth/endpoints.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { authorizationUrl, connect, makeClient, makePkce, makeWorld, type World } from '../support/world.ts'

const RUNS = Number(process.env.FUZZ_RUNS ?? 1_200)
const MOST_MS = 2_000

let server: TestServer
let world: World
/** Values that get past the first checks, so that what lies behind is reached too. */
let real: Record<string, string>

beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_TOUR: 'on', LATCHKEY_LOG_LEVEL: 'warn' } })
  world = await makeWorld(server)
  const { agent, ...tokens } = await connect(server, world)
  const publicClient = await makeClient(server, { auth: 'none', redirect_uris: ['http://127.0.0.1/callback'] })
  const pkce = makePkce()
  const page = await agent.open(authorizationUrl(world.client, pkce, { prompt: 'consent' }))
  const csrf = /name="csrf" value="([^"]+)"/.exec(page.html)?.[1] ?? ''
  real = {
    clientId: world.client.id,
    publicClientId: publicClient.id,
    basic: `Basic ${Buffer.from(`${world.client.id}:${world.client.secret}`).toString('base64')}`,
    redirectUri: world.client.redirectUri,
    challenge: pkce.challenge,
    workspace: world.workspaceId,
    accessToken: String(tokens.access_token),
    refreshToken: String(tokens.refresh_token),
    idToken: String(tokens.id_token),
    interaction: page.url.pathname,
    csrf,
    cookies: agent
      .cookies()
      .map(({ name, value }) => `${name}=${value}`)
      .join('; '),
  }
})
afterAll(() => server?.close())

const known = (name: string) => fc.constant({ known: name })
const plain = (text: fc.Arbitrary<string>) => text.map((value) => ({ text: value }))
type Value = { known: string } | { text: string }
const textOf = (value: Value): string => ('known' in value ? (real[value.known] ?? '') : value.text)

const GARBAGE = [
  '',
  ' ',
  '\u0000',
  'a\u0000b',
  '😀',
  'ﷺ',
  '\u202e',
  '%',
  '%zz',
  '\r\nSet-Cookie: a=b',
  '__proto__',
  'constructor',
  '[object Object]',
  '{"__proto__":{"polluted":true}}',
  '{}',
  '[]',
  'null',
  '-1',
  '1e309',
  '99999999999999999999',
  "' OR 1=1--",
  '../../../etc/passwd',
  '<script>alert(1)</script>',
  'lk_rt_',
  'lk_at_',
  `lk_rt_${'A'.repeat(43)}`,
  `lk_at_${'A'.repeat(43)}`,
  'lk_rt_\u0000',
  'eyJhbGciOiJub25lIn0.e30.',
  'eyJhbGciOiJub25lIn0.e30.AA',
  'eyJhbGciOiJIUzI1NiJ9.bm90IGpzb24.AA',
  '..',
  'a.b.c',
  'a.b.c.d.e',
  'urn:ietf:params:oauth:request_uri:',
  'urn:ietf:params:oauth:request_uri:abc',
  'https://',
  'https://[::1',
  'javascript:alert(1)',
  'x'.repeat(3_000),
  '😀'.repeat(500),
  ' a'.repeat(1_000),
]
const MEANINGFUL = [
  'code',
  'query',
  'fragment',
  'form_post',
  'web_message',
  'S256',
  'plain',
  'none',
  'login',
  'consent',
  'none login',
  'openid',
  'openid profile email offline_access traces:read',
  'traces:read',
  'https://api.example.com',
  'authorization_code',
  'refresh_token',
  'client_credentials',
  'urn:ietf:params:oauth:grant-type:device_code',
  'urn:ietf:params:oauth:grant-type:token-exchange',
  'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
  'approve',
  'yes',
  '0',
  '{"id_token":{"email":null}}',
  '{"userinfo":{"__proto__":null}}',
]
const value: fc.Arbitrary<Value> = fc.oneof(
  plain(fc.constantFrom(...GARBAGE)),
  plain(fc.constantFrom('\u0000', 'a@b\u0000', 'https://api.example.com/\u0000', 'ws_\u0000', 'lk_rt_\u0000')),
  plain(fc.constantFrom(...MEANINGFUL)),
  plain(fc.string({ unit: 'binary', maxLength: 40 })),
  fc.oneof(...['clientId', 'redirectUri', 'workspace', 'accessToken', 'refreshToken', 'idToken', 'csrf'].map(known)),
)

const NAMES = `client_id client_secret redirect_uri response_type response_mode scope state nonce resource audience
  workspace prompt max_age login_hint id_token_hint ui_locales claims acr_values display request request_uri
  registration code_challenge code_challenge_method code_verifier dpop_jkt authorization_details grant_type code
  refresh_token token token_type_hint client_assertion client_assertion_type subject_token device_code user_code
  csrf email password shown answer logout xsrf post_logout_redirect_uri access_token _method __proto__ constructor
  hasOwnProperty toString __proto__[polluted] constructor[prototype][polluted] a[b][c] a[] [] . client_id[]`.split(
  /\s+/,
)
/** What is looked up in a store. */
const LOOKED_UP = ['client_id', 'resource', 'workspace', 'email', 'token', 'code', 'refresh_token', 'request_uri']
const name = fc.oneof(
  { weight: 9, arbitrary: fc.constantFrom(...NAMES) },
  { weight: 4, arbitrary: fc.constantFrom(...LOOKED_UP) },
  fc.string({ unit: 'binary', maxLength: 12 }),
)

/** A valid request of each kind, to be spoiled by what is put beside it. */
const BASES: Array<Array<[string, Value]>> = [
  [],
  [
    ['client_id', { known: 'clientId' }],
    ['redirect_uri', { known: 'redirectUri' }],
    ['response_type', { text: 'code' }],
    ['scope', { text: 'openid traces:read' }],
    ['resource', { text: 'https://api.example.com' }],
    ['code_challenge', { known: 'challenge' }],
    ['code_challenge_method', { text: 'S256' }],
  ],
  [
    ['client_id', { known: 'publicClientId' }],
    ['redirect_uri', { text: 'http://127.0.0.1:1/callback' }],
    ['response_type', { text: 'code' }],
  ],
  [
    ['grant_type', { text: 'authorization_code' }],
    ['code', { text: 'A'.repeat(43) }],
  ],
  [
    ['grant_type', { text: 'refresh_token' }],
    ['client_id', { known: 'publicClientId' }],
  ],
  [['token', { known: 'accessToken' }]],
  [['csrf', { known: 'csrf' }]],
]

const PERCENT = ['%', '%zz', '%ED%A0%80', '%00', '%F0%9F%98%80', '%C0%AF', '&&&', '=', '=&=', '+', '%5B%5D=1', '&a&a&a']
const parameters = fc
  .record({
    base: fc.constantFrom(...BASES),
    more: fc.array(fc.tuple(name, value), { maxLength: 5 }),
    raw: fc.option(fc.constantFrom(...PERCENT), { freq: 4 }),
  })
  .map(({ base, more, raw }) => ({ pairs: [...base, ...more], raw: raw ?? '' }))
type Parameters = { pairs: Array<[string, Value]>; raw: string }

function encode({ pairs, raw }: Parameters): string {
  const text = new URLSearchParams(pairs.map(([key, given]) => [key, textOf(given)]))
  return `${text}${raw}`
}

const PATHS = `/ /authorize /authorize/abc /authorize/%00 /authorize/a/b /token /token/ /par /userinfo /jwks /introspect
  /revoke /logout /logout/confirm /logout/success /logout/x /.well-known/openid-configuration
  /.well-known/oauth-authorization-server /.well-known/oauth-protected-resource/api /interaction/abc /interaction/
  /interaction/abc/sign-in /interaction/abc/consent /interaction/abc/switch /interaction/%00/sign-in
  /interaction/%zz /interaction/a/b/c /try /try/connect /try/callback /try/call /try/refresh /try/forget
  /try/api/traces /healthz /readyz /assets/latchkey.css /assets/%2e%2e/package.json /device /device_authorization
  /register /api /api/v1/workspaces /__proto__ /constructor // /%zz /%ED%A0%80 /%00 /..%2f /a\\b /TOKEN /./token
  /token%00 /token;a=b /favicon.ico`.split(/\s+/)
const path = fc.oneof(
  { weight: 9, arbitrary: fc.constantFrom(...PATHS) },
  {
    weight: 3,
    arbitrary: fc.constantFrom('', '/', '/sign-in', '/consent', '/switch', '/x').map((end) => `{uid}${end}`),
  },
  fc.string({ unit: 'binary', maxLength: 12 }).map((text) => `/${encodeURIComponent(text.toWellFormed())}`),
)

const METHODS = ['GET', 'POST', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'PROPFIND', 'TRACE', 'QUERY']
const FORM = 'application/x-www-form-urlencoded'
const TYPES = [
  FORM,
  `${FORM}; charset=utf-8`,
  `${FORM}; charset=utf-16`,
  `${FORM}; charset=%00`,
  'application/json',
  'application/json; charset=nonsense',
  'application/problem+json',
  'multipart/form-data',
  'multipart/form-data; boundary=x',
  'text/plain',
  'text/html',
  'application/xml',
  ';',
  'a/b/c',
]
const BODIES = [
  '{',
  '[]',
  'null',
  '"a"',
  '{"__proto__":{"polluted":true}}',
  '{"constructor":{"prototype":{"polluted":true}}}',
  `${'['.repeat(5_000)}${']'.repeat(5_000)}`,
  '--x\r\ncontent-disposition: form-data; name="token"\r\n\r\nabc\r\n--x--',
  '\u0000\u0001\u0002',
  '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
  'a='.repeat(5_000),
  'a&'.repeat(20_000),
  `token=${'x'.repeat(60_000)}`,
  `token=${'x'.repeat(70_000)}`,
]
const HEADERS: Record<string, string[]> = {
  accept: ['text/html', 'application/json', '*/*', 'text/html;q=nonsense', ';;;', 'image/png'],
  authorization: [
    'Basic',
    'Basic ',
    'Basic %%%',
    'Basic Og==',
    'Basic JTAwOng=',
    'Basic JTAwOiUwMA==',
    'Basic JTp4',
    'Bearer',
    'Bearer ',
    'Bearer lk_at_x',
    'Bearer lk_rt_x',
    'Bearer eyJhbGciOiJub25lIn0.e30.',
    'Bearer a b',
    'DPoP x',
    'Negotiate',
    'x'.repeat(4_000),
  ],
  cookie: [
    'latchkey_session=',
    'latchkey_session=x; latchkey_session.sig=y',
    'latchkey_interaction=abc; latchkey_interaction.sig=%00',
    'latchkey_resume=abc',
    '=; ;;; a',
    '__proto__=1; constructor=2',
    'latchkey_try=%zz; latchkey_device="',
  ],
  dpop: ['x', 'a.b.c', 'eyJhbGciOiJub25lIn0.e30.AA', ''],
  origin: ['null', 'https://evil.example', 'https://app.example.com', 'nonsense'],
  'sec-fetch-site': ['cross-site', 'same-origin', 'none', ''],
  'content-encoding': ['gzip', 'identity', 'br, gzip', 'x'],
  'x-trace-id': ['', 'abc', 'a b', '<script>', 'x'.repeat(200)],
  traceparent: ['00-00000000000000000000000000000000-0000000000000000-00', 'x'],
  'x-profile-id': ['p1', '<b>'],
  'if-none-match': ['*', '"x"'],
  range: ['bytes=0-1', 'bytes=9-1'],
  expect: ['200-ok'],
  'access-control-request-method': ['POST', 'x'],
  'x-http-method-override': ['DELETE'],
  'x-forwarded-for': ['127.0.0.1', 'x, y', '::1'],
}
const headers = fc
  .uniqueArray(fc.constantFrom(...Object.keys(HEADERS)), { maxLength: 4 })
  .chain((names) =>
    fc.record(Object.fromEntries(names.map((header) => [header, fc.constantFrom(...(HEADERS[header] ?? []))]))),
  )

const garbage = fc.record({
  path,
  method: fc.oneof({ weight: 6, arbitrary: fc.constantFrom('GET', 'POST') }, fc.constantFrom(...METHODS)),
  query: fc.option(parameters, { nil: undefined }),
  body: fc.oneof({ weight: 3, arbitrary: parameters }, fc.constantFrom(...BODIES)),
  type: fc.oneof(
    { weight: 3, arbitrary: fc.constant<string | undefined>(FORM) },
    fc.constantFrom(...TYPES),
    fc.constant(undefined),
  ),
  headers,
  signedIn: fc.boolean(),
  authenticated: fc.boolean(),
})

interface Answer {
  status: number
  headers: IncomingHttpHeaders
  text: string
  elapsedMs: number
}

const agent = new Agent({ keepAlive: true })
afterAll(() => agent.destroy())

function send(path_: string, method: string, headers_: Record<string, string>, body: string | undefined) {
  const { hostname, port } = new URL(server.origin)
  const startedAt = performance.now()
  return new Promise<Answer>((resolve, reject) => {
    const sent = request({ agent, hostname, port, path: path_, method, headers: headers_ }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text: Buffer.concat(chunks).toString('utf8'),
          elapsedMs: performance.now() - startedAt,
        }),
      )
      response.on('error', reject)
    })
    sent.on('error', reject)
    sent.end(body)
  })
}

const PAGES = /^\/(interaction\/.*|)$/

it('answers any malformed request in the form of its address, at once, without a 5xx and without a stack', async () => {
  const prototype = Object.getOwnPropertyNames(Object.prototype)
  const statuses = new Map<number, number>()
  await fc.assert(
    fc.asyncProperty(garbage, async (given) => {
      const hasBody = !['GET', 'HEAD', 'TRACE'].includes(given.method)
      const at = given.path.replace('{uid}', real.interaction ?? '')
      const target = at + (given.query === undefined ? '' : `?${encode(given.query)}`)
      const all: Record<string, string> = {
        ...(given.signedIn ? { cookie: real.cookies ?? '', 'sec-fetch-site': 'same-origin' } : {}),
        ...(given.authenticated ? { authorization: real.basic ?? '' } : {}),
        ...given.headers,
        ...(hasBody && given.type !== undefined ? { 'content-type': given.type } : {}),
      }
      const body = hasBody ? (typeof given.body === 'string' ? given.body : encode(given.body)) : undefined
      if (body !== undefined) all['content-length'] = String(Buffer.byteLength(body))
      const answer = await send(target, given.method, all, body)
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
      const what = `${given.method} ${target.slice(0, 300)} -> ${answer.status} ${answer.text.slice(0, 300)}`
      expect(answer.status, what).toBeLessThan(500)
      expect(answer.elapsedMs, what).toBeLessThan(MOST_MS)
      expect(answer.headers['x-trace-id'], what).toMatch(/^[A-Za-z0-9._:-]{1,128}$/)
      expect(answer.text, what).not.toMatch(/node_modules|node:internal|\.ts:\d|\.js:\d|file:\/\/\//)
      expectForm(at, given.method, all.accept, answer, what)
      expect(Object.getOwnPropertyNames(Object.prototype)).toEqual(prototype)
    }),
    { numRuns: RUNS, ...(process.env.FUZZ_SEED === undefined ? {} : { seed: Number(process.env.FUZZ_SEED) }) },
  )
  // The garbage reached more than the door.
  for (const status of [200, 303, 400, 401, 403, 404, 405, 413, 415]) expect(statuses.keys()).toContain(status)
  expect(server.logLines.filter((line) => line.includes('"server error"'))).toEqual([])
})

function expectForm(path_: string, method: string, accept: string | undefined, answer: Answer, what: string) {
  const type = answer.headers['content-type'] ?? ''
  if (type.startsWith('text/html')) {
    expect(answer.headers['content-security-policy'], what).toMatch(/frame-ancestors 'none'/)
    expect(answer.headers['x-frame-options'], what).toBe('DENY')
  }
  if (answer.status < 400) return
  if (answer.status === 431) return expect(type, what).toBe('application/problem+json') // nothing was read of it
  const form = endpointAt(path_)?.form ?? (PAGES.test(path_) && path_ !== '/' ? 'page' : undefined)
  if (form === 'oauth') {
    expect(type, what).toMatch(/^application\/json/)
    if (method !== 'HEAD')
      expect(JSON.parse(answer.text), what).toMatchObject({ error: expect.stringMatching(/^\w+$/) })
  } else if (form === 'page') {
    expect(type, what).toBe('text/html; charset=utf-8')
  } else if (path_ === '/try/api/traces' && answer.status === 401) {
    expect(type, what).toMatch(/^application\/json/)
  } else {
    expect(type, what).toMatch(/^(application\/problem\+json|text\/html)/)
    if (accept === 'application/json') expect(type, what).toMatch(/^application\/problem\+json/)
  }
}

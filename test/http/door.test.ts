// The door: hosts, forwarded headers, smuggling and sizes, as bytes on the wire (threats I-08 to I-10, I-13, J-01, J-02).
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { makeWorld, type World } from '../support/world.ts'
import { requestHead, sendRaw } from './raw.ts'

const PUBLIC = 'https://id.example.com'

let server: TestServer
/** Behind a proxy, as in production: its issuer is https, its peer is trusted. */
let behindProxy: TestServer & { local: string }
let world: World
let host: string

beforeAll(async () => {
  server = await startServer()
  const started = await startServer({
    environment: { LATCHKEY_ISSUER: PUBLIC, LATCHKEY_TRUSTED_PROXIES: '127.0.0.1' },
  })
  const address = started.app.server.address()
  if (address === null || typeof address === 'string') throw new Error('not listening')
  behindProxy = { ...started, local: `http://127.0.0.1:${address.port}` }
  world = await makeWorld(server)
  await makeWorld(behindProxy)
  host = new URL(server.origin).host
  for (const path of DETERMINISTIC) await fetch(server.origin + path) // the first answer of some is made, then kept
})
afterAll(async () => {
  await server?.close()
  await behindProxy?.close()
})

const get = (path: string, headers: Record<string, string | string[]>) =>
  sendRaw(server.origin, requestHead('GET', path, headers))
/** All but the date. */
const bytesOf = (text: string) => text.replace(/^Date: .*\r\n/im, '')

const DETERMINISTIC = [
  '/.well-known/openid-configuration',
  '/.well-known/oauth-authorization-server',
  '/.well-known/oauth-protected-resource/api',
  '/jwks',
  '/',
  '/nothing',
  '/token',
  '/userinfo',
  '/healthz',
  '/interaction/abc',
]

describe('who is not a trusted proxy', () => {
  it.each<[string, Record<string, string>]>([
    ['X-Forwarded-Host', { 'X-Forwarded-Host': 'evil.example' }],
    ['X-Forwarded-Host with a port', { 'X-Forwarded-Host': 'evil.example:8443', 'X-Forwarded-Port': '8443' }],
    ['X-Forwarded-Proto', { 'X-Forwarded-Proto': 'https' }],
    ['X-Forwarded-For', { 'X-Forwarded-For': '203.0.113.9, 10.0.0.1' }],
    ['X-Forwarded-Prefix', { 'X-Forwarded-Prefix': '/evil', 'X-Original-URL': '/evil', 'X-Rewrite-URL': '/evil' }],
    ['Forwarded', { Forwarded: 'for=203.0.113.9;host=evil.example;proto=https' }],
    ['X-Host and others', { 'X-Host': 'evil.example', 'X-Real-IP': '203.0.113.9', 'X-HTTP-Method-Override': 'POST' }],
  ])('changes no byte of any answer with %s', async (_name, headers) => {
    for (const path of DETERMINISTIC) {
      const common = { Host: host, 'X-Trace-Id': 'same' }
      const plain = await get(path, common)
      const dressed = await get(path, { ...common, ...headers })
      const withoutTime = (text: string) => bytesOf(text).replace(/<time.*?<\/time>/, '')
      expect([path, withoutTime(dressed.text)]).toEqual([path, withoutTime(plain.text)])
      expect(plain.status).toBeGreaterThanOrEqual(200)
    }
  })

  it('is sent to addresses of the issuer only', async () => {
    const query = new URLSearchParams({ client_id: world.client.id, response_type: 'code' })
    const headers = { Host: host, 'X-Forwarded-Host': 'evil.example', 'X-Forwarded-Proto': 'https' }
    const { text } = await get(`/authorize?${query}`, headers)
    expect(text).not.toContain('evil.example')
    expect(text).not.toMatch(/; secure/i) // the issuer is http: a claimed https changes no cookie
  })

  it('is recorded under its own address', async () => {
    const address = await recordedAddress(server, host, server.origin, '203.0.113.77')
    expect(address).toBe('127.0.0.1')
  })
})

describe('a trusted proxy', () => {
  const through = (path: string, headers: Record<string, string | string[]>) =>
    sendRaw(behindProxy.local, requestHead('GET', path, headers))

  it('may say which host was asked for, and only ours is answered', async () => {
    const discovery = '/.well-known/openid-configuration'
    const own = await through(discovery, { Host: '10.0.0.5:8080', 'X-Forwarded-Host': 'id.example.com' })
    expect(JSON.parse(own.body)).toMatchObject({ issuer: PUBLIC, token_endpoint: `${PUBLIC}/token` })
    const evil = await through(discovery, { Host: 'id.example.com', 'X-Forwarded-Host': 'evil.example' })
    expect(evil.status).toBe(421)
    expect((await through(discovery, { Host: 'id.example.com' })).status).toBe(200)
  })

  it('cannot turn the issuer into http, nor its cookies into ones for http', async () => {
    const answer = await through('/.well-known/openid-configuration', {
      Host: 'id.example.com',
      'X-Forwarded-Proto': 'http',
    })
    expect(JSON.parse(answer.body)).toMatchObject({ issuer: PUBLIC, jwks_uri: `${PUBLIC}/jwks` })
    expect(answer.head.join('\n')).toMatch(/strict-transport-security: max-age=\d{8}/i)
  })

  it.each([
    ['198.51.100.1, 203.0.113.77', '203.0.113.77'],
    ['198.51.100.1, 203.0.113.77:4711', '203.0.113.77'],
    ['198.51.100.1, 2001:db8::5', '2001:db8::5'],
    ['198.51.100.1, [2001:db8::5]', '2001:db8::5'],
    ['198.51.100.1, [2001:db8::5]:4711, 127.0.0.1', '2001:db8::5'],
    ['198.51.100.1, unknown', 'unknown'],
    ['198.51.100.1, _hidden', 'unknown'],
    ['198.51.100.1, 203.0.113.77:x', 'unknown'],
    ['198.51.100.1,', 'unknown'],
  ])('may say who asked: of “%s” it is %s, and what stands left of that counts for nothing', async (said, counts) => {
    expect(await recordedAddress(behindProxy, 'id.example.com', behindProxy.local, said)).toBe(counts)
  })
})

/** A wrong password, and the address that the audit log has for it. */
async function recordedAddress(of: TestServer, hostName: string, origin: string, forwardedFor: string) {
  const person = await makeWorld(of)
  const headers = { Host: hostName, 'X-Forwarded-For': forwardedFor }
  const query = new URLSearchParams({
    client_id: person.client.id,
    response_type: 'code',
    redirect_uri: person.client.redirectUri,
    scope: 'openid',
    code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM',
    code_challenge_method: 'S256',
  })
  const start = await sendRaw(origin, requestHead('GET', `/authorize?${query}`, headers))
  const path = /^location: (?:https?:\/\/[^/]+)?(\S+)/im.exec(start.text)?.[1] ?? ''
  const cookies = [...start.text.matchAll(/^set-cookie: ([^;]+)/gim)].map(([, pair]) => pair).join('; ')
  const page = await sendRaw(origin, requestHead('GET', path, { ...headers, Cookie: cookies }))
  const csrf = /name="csrf" value="([^"]+)"/.exec(page.body)?.[1] ?? ''
  const form = String(new URLSearchParams({ csrf, email: person.email, password: 'a wrong password' }))
  const type = { 'Content-Type': 'application/x-www-form-urlencoded', 'Content-Length': String(form.length) }
  const head = requestHead('POST', `${path}/sign-in`, { ...headers, ...type, Cookie: cookies })
  expect((await sendRaw(origin, head + form)).status).toBe(200)
  const events = of.db.selectFrom('audit_events').select('address').where('user_id', '=', person.userId)
  return (await events.where('event', '=', 'session.sign_in').executeTakeFirstOrThrow()).address
}

describe('the Host header', () => {
  it.each<[string, Record<string, string | string[]>, number]>([
    ['another host', { Host: 'evil.example' }, 421],
    ['another port', { Host: 'localhost:1' }, 421],
    ['ours with more behind it', { Host: 'HOST.evil.example' }, 421],
    ['ours before an @', { Host: 'HOST@evil.example' }, 421],
    ['ours behind an @', { Host: 'evil.example@HOST' }, 421],
    ['an address', { Host: '127.0.0.1' }, 421],
    ['empty', { Host: '' }, 421],
    ['twice, ours first', { Host: ['HOST', 'evil.example'] }, 400],
    ['twice, ours last', { Host: ['evil.example', 'HOST'] }, 400],
    ['twice, both ours', { Host: ['HOST', 'HOST'] }, 400],
    ['none', {}, 400],
    ['a list', { Host: 'HOST, evil.example' }, 421],
  ])('%s is refused', async (_name, headers, status) => {
    const named = JSON.parse(JSON.stringify(headers).replaceAll('HOST', host))
    const answer = await get('/.well-known/openid-configuration', named)
    expect(answer.status).toBe(status)
    expect(answer.body).not.toContain('token_endpoint')
    expect(answer.answers).toBe(1)
  })

  it('in other letters is ours', async () => {
    expect((await get('/jwks', { Host: host.toUpperCase() })).status).toBe(200)
  })

  it.each(['http://HOST/jwks', 'http://evil.example/jwks', 'HOST', '*', '//evil.example/jwks'])(
    'a request line with %s leads nowhere',
    async (target) => {
      const answer = await get(target.replace('HOST', host), { Host: host })
      expect([400, 404]).toContain(answer.status)
      expect(answer.body).not.toContain('"keys"')
    },
  )

  it('an assertion or proof for another host is not ours, whatever Host says', async () => {
    const body = 'grant_type=client_credentials&client_assertion=x'
    const type = { 'Content-Type': 'application/x-www-form-urlencoded', 'Content-Length': String(body.length) }
    const answer = await sendRaw(server.origin, requestHead('POST', '/token', { Host: 'evil.example', ...type }) + body)
    expect(answer.status).toBe(421)
  })
})

describe('what may be read in two ways is refused, and nothing behind it is answered', () => {
  const BEHIND = () => `GET /jwks HTTP/1.1\r\nHost: ${host}\r\n\r\n`
  it.each<[string, () => string]>([
    ['a length and chunks', () => post('Content-Length: 4\r\nTransfer-Encoding: chunked', `0\r\n\r\n${BEHIND()}`)],
    ['chunks and a length', () => post('Transfer-Encoding: chunked\r\nContent-Length: 4', `0\r\n\r\n${BEHIND()}`)],
    ['two lengths', () => post('Content-Length: 0\r\nContent-Length: 50', BEHIND())],
    ['a length that is a list', () => post('Content-Length: 0, 50', BEHIND())],
    ['a negative length', () => post('Content-Length: -1', BEHIND())],
    ['a length in hex', () => post('Content-Length: 0x10', BEHIND())],
    ['a length with a plus', () => post('Content-Length: +5', BEHIND())],
    ['an encoding that is no encoding', () => post('Transfer-Encoding: xchunked', `0\r\n\r\n${BEHIND()}`)],
    ['chunked twice', () => post('Transfer-Encoding: chunked, identity', `0\r\n\r\n${BEHIND()}`)],
    ['a chunk size that is none', () => post('Transfer-Encoding: chunked', `zz\r\nabc\r\n0\r\n\r\n${BEHIND()}`)],
    ['a space before a colon', () => post('Content-Length : 0', BEHIND())],
    ['a folded line', () => post('X-A: b\r\n c: d\r\nContent-Length: 0', BEHIND())],
    ['a bare LF between headers', () => `GET /jwks HTTP/1.1\nHost: ${host}\n\n`],
    ['a bare CR in a header', () => `GET /jwks HTTP/1.1\r\nHost: ${host}\r\nX-A: b\rc\r\n\r\n`],
    ['a NUL in a header', () => `GET /jwks HTTP/1.1\r\nHost: ${host}\r\nX-A: b\u0000c\r\n\r\n`],
    ['a NUL in the path', () => `GET /jw\u0000ks HTTP/1.1\r\nHost: ${host}\r\n\r\n`],
    ['a space in the path', () => `GET /jwks x HTTP/1.1\r\nHost: ${host}\r\n\r\n`],
    ['an old protocol', () => 'GET /jwks HTTP/0.9\r\n\r\n'],
    ['TLS', () => '\u0016\u0003\u0001\u0002\u0000\u0001\u0000\u0001\u00fc\u0003\u0003'],
    ['headers without an end', () => `GET /jwks HTTP/1.1\r\nHost: ${host}\r\nX-A: ${'a'.repeat(20_000)}\r\n\r\n`],
  ])('%s', async (_name, bytes) => {
    const answer = await sendRaw(server.origin, Buffer.from(bytes(), 'latin1'))
    expect(answer.status).toBeGreaterThanOrEqual(400)
    expect(answer.status).toBeLessThan(500)
    expect(answer.answers).toBe(1)
    expect(answer.text).not.toContain('"keys"')
    expect(answer.head.join('\n')).toMatch(/^connection: close$/im)
    expect(answer.head.join('\n')).toMatch(/^x-trace-id: \w+$/im)
  })

  const post = (headers: string, body: string) => `POST /token HTTP/1.1\r\nHost: ${host}\r\n${headers}\r\n\r\n${body}`
})

describe('line breaks and other characters that end headers', () => {
  it.each([
    '%0d%0aSet-Cookie:%20evil=1',
    '%0aSet-Cookie:%20evil=1',
    '%E5%98%8A%E5%98%8DSet-Cookie:%20evil=1',
    '%00',
    '%e2%80%a8',
  ])('%s in state, path and hint stay where they were put', async (text) => {
    const query = `client_id=${world.client.id}&response_type=code&redirect_uri=${encodeURIComponent(world.client.redirectUri)}`
    const targets = [
      `/authorize?${query}&state=${text}`,
      `/authorize?${query}&prompt=${text}`,
      `/${text}`,
      `/logout?state=${text}`,
    ]
    for (const target of targets) {
      const { head, status } = await get(target, { Host: host, Accept: 'text/html' })
      expect([target, status < 500]).toEqual([target, true])
      expect(head.filter((line) => /^(set-cookie: evil|evil)/i.test(line))).toEqual([])
    }
  })

  it('a trace id is given back only when it is one', async () => {
    const traceOf = async (given: string) =>
      /x-trace-id: (.*)/i.exec((await get('/jwks', { Host: host, 'X-Trace-Id': given })).text)?.[1]?.trim()
    expect(await traceOf('job-42.a:b_c')).toBe('job-42.a:b_c')
    for (const bad of ['<script>', 'a b', 'x'.repeat(129), '"', '\u00e4'])
      expect(await traceOf(bad)).toMatch(/^[0-9a-f]{32}$/)
  })
})

describe('sizes', () => {
  const FORM = { 'Content-Type': 'application/x-www-form-urlencoded' }
  const ROUTES = ['/token', '/par', '/introspect', '/revoke', '/userinfo', '/authorize', '/logout', '/nothing', '/']

  it.each(ROUTES)('a body of 100 MB is refused at %s before it is sent', async (path) => {
    const head = requestHead('POST', path, { Host: host, ...FORM, 'Content-Length': '104857600' })
    const startedAt = performance.now()
    const answer = await sendRaw(server.origin, head)
    expect(answer.status).toBe(413)
    expect(answer.head.join('\n')).toMatch(/^connection: close$/im)
    expect(performance.now() - startedAt).toBeLessThan(1_000)
  })

  it.each(['/token', '/par', '/introspect', '/revoke', '/userinfo', '/authorize', '/logout'])(
    'a body of 56 KiB and one byte is refused at %s',
    async (path) => {
      const body = `a=${'x'.repeat(56 * 1024 - 1)}`
      const response = await fetch(server.origin + path, { method: 'POST', headers: FORM, body, redirect: 'manual' })
      expect([400, 413]).toContain(response.status) // the library says 400 at its own
    },
  )

  it.each(['/token', '/introspect', '/revoke', '/authorize'])(
    'a body without an end is cut off at %s',
    async (path) => {
      const before = process.memoryUsage().rss
      const head = requestHead('POST', path, { Host: host, ...FORM, 'Transfer-Encoding': 'chunked' })
      const chunk = `10000\r\n${'a'.repeat(0x10000)}\r\n`
      const answer = await sendRaw(server.origin, head + chunk.repeat(160)) // ten megabytes
      expect([0, 400, 413]).toContain(answer.status) // 0: cut off before the answer could be read
      expect(process.memoryUsage().rss - before).toBeLessThan(120 * 1024 * 1024) // most of it this test's own
    },
  )

  it.each(['[', '{"a":'])('JSON of %s a hundred thousand deep is refused at once', async (opening) => {
    const body = opening.repeat(10_000)
    for (const path of ['/token', '/par', '/introspect', '/revoke', '/authorize']) {
      const startedAt = performance.now()
      const headers = { 'content-type': 'application/json' }
      const response = await fetch(server.origin + path, { method: 'POST', headers, body })
      expect([path, response.status]).toEqual([
        path,
        expect.toSatisfy((status) => [400, 401, 413, 415].includes(status)),
      ])
      expect(performance.now() - startedAt).toBeLessThan(500)
    }
  })

  it.each(['/authorize', '/logout'])(
    'a post to %s that no address could carry is refused, not sent on',
    async (path) => {
      const body = new URLSearchParams({ state: 'x'.repeat(20_000) })
      const response = await fetch(server.origin + path, { method: 'POST', body, redirect: 'manual' })
      expect([response.status, response.headers.get('location')]).toEqual([413, null])
    },
  )

  it('an address or a header that is too long is 431, in words', async () => {
    for (const head of [`GET /${'x'.repeat(17_000)} HTTP/1.1`, `GET / HTTP/1.1\r\nCookie: ${'x'.repeat(17_000)}`]) {
      const answer = await sendRaw(server.origin, `${head}\r\nHost: ${host}\r\n\r\n`)
      expect(answer.status).toBe(431)
      expect(JSON.parse(answer.body)).toMatchObject({ code: 'headers_too_large', status: 431 })
    }
  })

  it('a compressed body is refused', async () => {
    for (const encoding of ['gzip', 'br', 'deflate', 'identity, gzip']) {
      const headers = { ...FORM, 'content-encoding': encoding }
      const response = await fetch(`${server.origin}/token`, { method: 'POST', headers, body: 'a=b' })
      expect([encoding, response.status]).toEqual([encoding, 415])
    }
  })

  it('ten thousand parameters are refused or read, in no time, and pollute nothing', async () => {
    const names = ['__proto__', 'constructor', '__proto__[polluted]', 'constructor[prototype][polluted]', 'a', 'b']
    const body = Array.from({ length: 4_000 }, (_, index) => `${names[index % names.length]}=1`).join('&')
    for (const path of ['/token', '/introspect', '/revoke', '/authorize']) {
      const response = await fetch(server.origin + path, { method: 'POST', headers: FORM, body, redirect: 'manual' })
      expect([path, response.status < 500]).toEqual([path, true])
    }
    expect(Reflect.get({}, 'polluted')).toBeUndefined()
    expect(Object.keys(Object.prototype)).toEqual([])
  })

  it('an answer that leaves a body unread says that the connection ends with it', async () => {
    const head = `POST /nothing HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 5\r\n\r\n`
    const answer = await sendRaw(server.origin, head) // and the body is still to come
    expect(answer.status).toBe(404)
    expect(answer.head.join('\n')).toMatch(/^connection: close$/im)
  })

  it('an expectation that nobody knows gets an answer like any other', async () => {
    const answer = await get('/jwks', { Host: host, Expect: '200-ok' })
    expect(answer.status).toBe(200)
    expect(answer.head.join('\n')).toMatch(/^x-trace-id: /im)
  })
})

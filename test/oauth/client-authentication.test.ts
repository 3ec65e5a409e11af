// Who a client is: threats C, at each endpoint that asks (RFC 6749 §2.3, 7523 §3).
import { randomUUID } from 'node:crypto'
import { exportJWK, type GenerateKeyPairResult, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { connect, makeClient, makeWorld, post, refresh, type TestClient, type World } from '../support/world.ts'
import { ask, parametersOf } from './asking.ts'

const ASSERTION = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'

let server: TestServer
let world: World
let browser: UserAgent
let other: TestClient
let posting: TestClient
let publicClient: TestClient
let signing: TestClient
let keys: GenerateKeyPairResult
let refreshToken: string

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  other = await makeClient(server)
  posting = await makeClient(server, { auth: 'client_secret_post' })
  publicClient = await makeClient(server, { auth: 'none', redirect_uris: ['http://127.0.0.1/callback'] })
  keys = await generateKeyPair('ES256', { extractable: true })
  signing = await makeClient(server, { auth: 'private_key_jwt', jwks: { keys: [await publicJwk(keys)] } })
  refreshToken = String((await connect(server, world, { agent: browser })).refresh_token)
})
afterAll(() => server?.close())

const publicJwk = async (pair: GenerateKeyPairResult) => ({
  ...(await exportJWK(pair.publicKey)),
  alg: 'ES256',
  kid: 'k',
})
const basicOf = (id: string, secret: string | undefined) =>
  `Basic ${Buffer.from(`${encodeURIComponent(id)}:${encodeURIComponent(secret ?? '')}`).toString('base64')}`

/** What each endpoint needs besides, so that only who asks can be wrong. */
const ENDPOINTS = ['/token', '/par', '/introspect', '/revoke'] as const
type Endpoint = (typeof ENDPOINTS)[number]

async function call(endpoint: Endpoint, given: { authorization?: string; body?: Record<string, string> }) {
  const needed: Record<Endpoint, Record<string, string>> = {
    '/token': { grant_type: 'refresh_token', refresh_token: 'lk_rt_none' },
    '/par': Object.fromEntries(parametersOf(world.client, { client_id: undefined })),
    '/introspect': { token: 'lk_rt_none' },
    '/revoke': { token: 'lk_rt_none' },
  }
  const response = await fetch(server.origin + endpoint, {
    method: 'POST',
    headers: given.authorization === undefined ? {} : { authorization: given.authorization },
    body: new URLSearchParams({ ...needed[endpoint], ...given.body }),
  })
  const body = (await response.json()) as { error?: string } // RFC 6749 §5.2
  return { status: response.status, error: body.error, headers: response.headers }
}

describe.each(ENDPOINTS)('%s', (endpoint) => {
  it('takes a client that proves itself', async () => {
    const { error } = await call(endpoint, {
      authorization: basicOf(world.client.id, world.client.secret),
      body: { client_id: world.client.id },
    })
    expect(error).toBe(endpoint === '/token' ? 'invalid_grant' : undefined)
  })

  it('says how to authenticate, to who did it wrong with a header', async () => {
    const answer = await call(endpoint, {
      authorization: basicOf(world.client.id, 'wrong'),
      body: { client_id: world.client.id },
    })
    expect(answer).toMatchObject({ status: 401, error: 'invalid_client' })
    expect(answer.headers.get('www-authenticate')).toMatch(/^Basic realm="/)
  })

  const both = (): Array<[string, { authorization?: string; body?: Record<string, string> }]> => {
    const { id, secret = '' } = world.client
    return [
      [
        'header and body together',
        { authorization: basicOf(id, secret), body: { client_id: id, client_secret: secret } },
      ],
      [
        'a header for one client and the id of another',
        { authorization: basicOf(id, secret), body: { client_id: other.id } },
      ],
      ['no credentials at all', { body: {} }],
      ['its id alone', { body: { client_id: id } }],
      ['an empty secret', { authorization: basicOf(id, ''), body: { client_id: id } }],
      ['the secret of another', { authorization: basicOf(id, other.secret), body: { client_id: id } }],
      ['an unknown client', { authorization: basicOf('nobody', secret), body: { client_id: 'nobody' } }],
      ['a client id with a NUL', { authorization: basicOf('\u0000', secret), body: { client_id: '\u0000' } }],
      ['__proto__', { authorization: basicOf('__proto__', secret), body: { client_id: '__proto__' } }],
      ['a broken header', { authorization: 'Basic %%%', body: { client_id: id } }],
      ['an empty header', { authorization: 'Basic ', body: { client_id: id } }],
      ['another scheme', { authorization: `Bearer ${secret}`, body: { client_id: id } }],
      ['percent signs that encode nothing', { authorization: `Basic ${btoa(`${id}:%zz`)}`, body: { client_id: id } }],
      ['a public client with a secret', { body: { client_id: publicClient.id, client_secret: secret } }],
      ['a certificate in a header', { body: { client_id: id } }],
      ['the digest that is stored', { authorization: basicOf(id, digestInStore), body: { client_id: id } }],
    ]
  }

  it('refuses everything else as invalid_client or invalid_request', async () => {
    for (const [name, given] of both()) {
      const { status, error } = await call(endpoint, given)
      expect([name, status === 400 || status === 401]).toEqual([name, true])
      expect([name, error]).toEqual([name, expect.stringMatching(/^invalid_(client|request)$/)])
    }
  })
})

let digestInStore: string
beforeAll(async () => {
  const row = await server.app.clients.find(world.client.id)
  digestInStore = String(row?.secret_digest)
  expect(digestInStore).not.toBe(world.client.secret)
  expect(digestInStore.length).toBeGreaterThan(20)
})

it.each(ENDPOINTS)(
  'a secret comes in the header or in the body, for libraries that know only one; never instead of a key, at %s',
  async (endpoint) => {
    const accepted = endpoint === '/token' ? 'invalid_grant' : undefined
    const inBody = await call(endpoint, { body: { client_id: other.id, client_secret: String(other.secret) } })
    expect(inBody.error).toBe(accepted)
    const inHeader = { authorization: basicOf(posting.id, posting.secret), body: { client_id: posting.id } }
    expect((await call(endpoint, inHeader)).error).toBe(accepted)
    for (const secret of ['', 'x', 'null', 'undefined']) {
      const instead = await call(endpoint, { body: { client_id: signing.id, client_secret: secret } })
      expect(instead).toMatchObject({ status: 401, error: 'invalid_client' })
    }
    expect(await call(endpoint, { body: { client_id: signing.id } })).toMatchObject({ status: 401 })
  },
)

it('a client certificate that a header claims is not looked at', async () => {
  const response = await fetch(`${server.origin}/token`, {
    method: 'POST',
    headers: { 'x-ssl-client-cert': 'MIIB', 'x-forwarded-client-cert': 'Hash=1', 'ssl-client-verify': 'SUCCESS' },
    body: new URLSearchParams({ client_id: world.client.id, grant_type: 'refresh_token', refresh_token: refreshToken }),
  })
  expect(response.status).toBe(401)
})

it('a public client is not taken for a confidential one, nor gets its refresh token used', async () => {
  const asConfidential = await call('/token', { body: { client_id: world.client.id, refresh_token: refreshToken } })
  expect(asConfidential).toMatchObject({ status: 401, error: 'invalid_client' })
  const stolen = await refresh(server.origin, publicClient, refreshToken)
  expect(stolen).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
  const byOther = await refresh(server.origin, other, refreshToken)
  expect(byOther).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
  const own = await refresh(server.origin, world.client, refreshToken)
  expect(own.status).toBe(200)
})

it('a public client cannot introspect', async () => {
  const answer = await call('/introspect', { body: { client_id: publicClient.id } })
  expect(answer).toMatchObject({ status: 401, error: 'invalid_client' })
})

it.each([
  ['client_credentials', 'unauthorized_client'],
  ['urn:ietf:params:oauth:grant-type:token-exchange', 'unauthorized_client'],
])('a grant that is not the client’s is refused: %s', async (grant_type, error) => {
  const answer = await post(server.origin, '/token', world.client, { grant_type })
  expect(answer).toMatchObject({ status: 400, body: { error } })
})

it('a client without a workspace gets no token of its own, and names one when it has several', async () => {
  const machine = await makeClient(server, { redirect_uris: [], grant_types: ['client_credentials'] })
  const resource = 'https://api.example.com'
  const take = (more: Record<string, string> = {}) =>
    post(server.origin, '/token', machine, { grant_type: 'client_credentials', resource, ...more })
  const grant = (workspace: string, scopes: string[]) =>
    server.run('client grant', { client: machine.id, workspace, resource, scopes })
  expect(await take()).toMatchObject({ status: 400, body: { error: 'invalid_target' } })
  await grant(world.workspaceId, ['traces:read'])
  expect(await take()).toMatchObject({ status: 200, body: { scope: 'traces:read' } })
  expect(await take({ scope: 'traces:admin' })).toMatchObject({ status: 400, body: { error: 'invalid_scope' } })
  expect(await take({ resource: `${server.origin}/api` })).toMatchObject({ body: { error: 'invalid_target' } })
  expect(await take({ workspace: world.otherWorkspaceId })).toMatchObject({ body: { error: 'invalid_target' } })
  expect(await take({ workspace: '\u0000' })).toMatchObject({ status: 400, body: { error: 'invalid_target' } })
  await grant(world.otherWorkspaceId, ['traces:read'])
  expect(await take()).toMatchObject({ status: 400, body: { error: 'invalid_target' } })
  const named = await take({ workspace: world.otherWorkspaceId })
  expect(named.status).toBe(200)
  expect(named.body).not.toHaveProperty('refresh_token')
})

it('a deleted client is refused at once, everywhere, and its refresh tokens are dead', async () => {
  const client = await makeClient(server)
  const { refresh_token, access_token } = await connect(server, world, { agent: browser, client })
  await server.run('client delete', { client: client.id })
  expect((await refresh(server.origin, client, refresh_token)).status).toBe(401)
  for (const endpoint of ENDPOINTS) {
    const answer = await call(endpoint, {
      authorization: basicOf(client.id, client.secret),
      body: { client_id: client.id, token: String(access_token) },
    })
    expect([endpoint, answer.status, answer.error]).toEqual([endpoint, 401, 'invalid_client'])
  }
  expect((await ask(browser, client)).status).toBe(400)
})

describe.each(ENDPOINTS)('private_key_jwt at %s', (endpoint) => {
  const now = () => Math.floor(Date.now() / 1000)
  const claims = () => ({
    iss: signing.id,
    sub: signing.id,
    aud: server.origin,
    jti: randomUUID(),
    iat: now(),
    exp: now() + 60,
  })
  const sign = (changes: Record<string, unknown> = {}, header: Record<string, unknown> = {}, by = keys) => {
    const all: Record<string, unknown> = { ...claims(), ...changes }
    const present = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
    return new SignJWT(present).setProtectedHeader({ alg: 'ES256', kid: 'k', ...header }).sign(by.privateKey)
  }
  const use = (client_assertion: string, more: Record<string, string> = {}) =>
    call(endpoint, {
      body: { client_id: signing.id, client_assertion, client_assertion_type: ASSERTION, ...more },
    })
  const ACCEPTED = endpoint === '/token' ? 'invalid_grant' : undefined

  it('takes an assertion for the issuer, once', async () => {
    const assertion = await sign()
    expect((await use(assertion)).error).toBe(ACCEPTED)
    expect(await use(assertion)).toMatchObject({ status: 401, error: 'invalid_client' })
  })

  it('takes one of a clock a few seconds ahead', async () => {
    expect((await use(await sign({ iat: now() + 8, nbf: now() + 8 }))).error).toBe(ACCEPTED)
  })

  it.each<[string, Record<string, unknown>, Record<string, unknown>]>([
    ['for another server', { aud: 'https://evil.example' }, {}],
    ['for our name at another host', { aud: 'https://evil.example/token' }, {}],
    ['without an audience', { aud: undefined }, {}],
    ['of another issuer', { iss: 'https://evil.example' }, {}],
    ['without an issuer', { iss: undefined }, {}],
    ['for another subject', { sub: 'cl_other' }, {}],
    ['without a subject', { sub: undefined }, {}],
    ['without an id', { jti: undefined }, {}],
    ['without an end', { exp: undefined }, {}],
    ['that has ended', { exp: now() - 300 }, {}],
    ['good for a year', { exp: now() + 366 * 86_400 }, {}],
    ['good for ever', { exp: 1e300 }, {}],
    ['not good yet', { nbf: now() + 120 }, {}],
    ['with a key id that is not registered', {}, { kid: 'nobody' }],
    ['with an unknown crit', {}, { crit: ['x'], x: 1 }],
  ])('refuses one %s', async (_name, changes, header) => {
    const assertion = await sign(changes, header).catch(() => forged(header, { ...claims(), ...changes }))
    const answer = await use(assertion)
    expect([answer.status, answer.error]).toEqual([
      answer.status === 400 ? 400 : 401,
      expect.stringMatching(/^invalid_(client|request)$/),
    ])
  })

  const forged = (header: object, payload: object) =>
    `${[{ alg: 'ES256', ...header }, payload].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')}.${'A'.repeat(86)}`

  it('refuses one that is unsigned, signed by another, or signed with the public key as a secret', async () => {
    const publicKey = JSON.stringify(await publicJwk(keys))
    const bad = [
      new UnsecuredJWT(claims()).encode(),
      await sign({}, {}, await generateKeyPair('ES256')),
      await new SignJWT(claims()).setProtectedHeader({ alg: 'HS256' }).sign(Buffer.from(publicKey)),
      forged({}, claims()),
      'x',
      'a.b.c',
      '',
    ]
    for (const assertion of bad) expect((await use(assertion)).error).toMatch(/^invalid_(client|request)$/)
  })

  it('refuses one beside a secret, of another type, and for another client', async () => {
    expect((await use(await sign(), { client_secret: 'x' })).error).toBe('invalid_request')
    expect((await use(await sign(), { client_assertion_type: 'x' })).error).toMatch(/^invalid_(client|request)$/)
    expect((await use(await sign(), { client_id: world.client.id })).error).toMatch(/^invalid_(client|request)$/)
  })
})

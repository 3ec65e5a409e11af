// What real clients and a fuzzer found in the library as it comes: each fault, cured.
import { decodeProtectedHeader } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import {
  API,
  approve,
  connect,
  makeClient,
  makeWorld,
  obtainCode,
  post,
  redeem,
  refresh,
  signIn,
  type TestClient,
  type World,
} from '../support/world.ts'
import { answerOf, ask, PKCE, parametersOf } from './asking.ts'

let server: TestServer
let world: World
let browser: UserAgent
let loopback: TestClient
let api: TestClient

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  loopback = await makeClient(server, { auth: 'none', redirect_uris: ['http://127.0.0.1/callback'] })
  const resource = await server.run('resource create', {
    identifier: 'https://other.example.com',
    environments: ['production'],
    scopes: [{ name: 'read', sentence: 'Read', least_role: 'member' }],
  })
  api = { id: String(resource.client_id), secret: resource.client_secret, redirectUri: '' }
  await connect(server, world, { agent: browser })
})
afterAll(() => server?.close())

const basic = (client: TestClient) => ({
  authorization: `Basic ${Buffer.from(`${client.id}:${client.secret}`).toString('base64')}`,
})

describe('addresses below the authorization endpoint', () => {
  it.each([
    '/authorize/abc',
    '/authorize/abc?client_id=CLIENT',
    '/authorize/abc?client_id=CLIENT&redirect_uri=https://app.example.com/callback',
    '/authorize/%00',
    '/authorize/a/b',
    '/device/abc',
    '/device',
    '/device_authorization',
    '/register',
  ])('%s is refused to who has no cookie of that request, and no failure of ours', async (path) => {
    const response = await fetch(server.origin + path.replace('CLIENT', world.client.id), { redirect: 'manual' })
    expect([400, 404]).toContain(response.status)
    expect(response.headers.get('location')).toBeNull()
  })
})

describe('revocation', () => {
  it.each(['access_token', 'refresh_token', 'garbage'])(
    'answers with JSON that a client can parse: %s',
    async (kind) => {
      const tokens = await connect(server, world, { agent: browser })
      const token = String({ ...tokens, garbage: 'no such token' }[kind])
      const answer = await post(server.origin, '/revoke', world.client, { token, token_type_hint: kind })
      expect(answer).toMatchObject({ status: 200, body: {} })
      expect(answer.headers.get('content-type')).toMatch(/^application\/json/)
    },
  )

  it('takes a JWT access token, and ends that one only', async () => {
    const { access_token: token = '', refresh_token } = await connect(server, world, { agent: browser })
    const before = await post(server.origin, '/introspect', world.client, { token })
    expect(before).toMatchObject({ status: 200, body: { active: true } })
    expect(await post(server.origin, '/revoke', world.client, { token })).toMatchObject({ status: 200 })
    const after = await post(server.origin, '/introspect', world.client, { token })
    expect(after.body).toEqual({ active: false })
    expect((await refresh(server.origin, world.client, refresh_token)).status).toBe(200)
  })
})

it('introspection of a client’s own token names the client as its subject', async () => {
  const machine = await makeClient(server, { redirect_uris: [], grant_types: ['client_credentials'] })
  const resource = 'https://other.example.com'
  await server.run('client grant', { client: machine.id, workspace: world.workspaceId, resource, scopes: [] })
  const issued = await post(server.origin, '/token', machine, { grant_type: 'client_credentials', resource })
  expect(issued.status).toBe(200)
  const answer = await post(server.origin, '/introspect', api, { token: String(issued.body.access_token) })
  expect(answer.body).toMatchObject({ active: true, sub: machine.id, client_id: machine.id })
})

describe('errors of machine endpoints are JSON for who says Accept: text/html', () => {
  it.each([
    { path: '/token', error: 'unsupported_grant_type', body: { grant_type: 'password' } },
    { path: '/token', error: 'invalid_client', body: { grant_type: 'authorization_code', client_id: 'nobody' } },
    { path: '/introspect', error: 'invalid_client', body: {} },
    { path: '/introspect', error: 'invalid_client', body: { client_id: 'nobody', client_secret: 'x', token: 'x' } },
    { path: '/revoke', error: 'invalid_client', body: { client_id: 'nobody', token: 'x' } },
    { path: '/par', error: 'invalid_client', body: { client_id: 'nobody' } },
    { path: '/userinfo', error: 'invalid_token', body: { access_token: 'x' } },
  ])('$path $error', async ({ path, error, body }) => {
    const headers = { accept: 'text/html', ...(error === 'unsupported_grant_type' ? basic(world.client) : {}) }
    const response = await fetch(server.origin + path, { method: 'POST', headers, body: new URLSearchParams(body) })
    expect(response.headers.get('content-type')).toMatch(/^application\/json/)
    expect(await response.json()).toMatchObject({ error })
    expect([400, 401]).toContain(response.status)
  })
})

it.each([undefined, 'openid traces:read offline_access'])(
  'who approved has a refresh token, also without prompt=consent (scope %s)',
  async (scope) => {
    const client = await makeClient(server)
    const { code } = answerOf(await consented(client, scope === undefined ? {} : { scope }))
    const { body } = await redeem(server.origin, client, String(code), PKCE)
    expect(body.refresh_token).toMatch(/^lk_rt_/)
  },
)

async function consented(client: TestClient, changes: Record<string, string>) {
  return approve(browser, await ask(browser, client, changes), world.workspaceId)
}

describe('prompt=none', () => {
  it('gives a code to an exact https redirect with a standing approval', async () => {
    const answer = answerOf(await ask(browser, world.client, { prompt: 'none' }))
    expect(answer).toEqual({ code: expect.stringMatching(/^[\w-]{43}$/), state: 'st4te', iss: server.origin })
  })

  it('is consent_required for a loopback redirect, whatever was approved before', async () => {
    const redirect_uri = 'http://127.0.0.1:4567/callback'
    expect(answerOf(await consented(loopback, { redirect_uri }))).toHaveProperty('code')
    const answer = answerOf(await ask(browser, loopback, { redirect_uri, prompt: 'none' }))
    expect(answer).toMatchObject({ error: 'consent_required', iss: server.origin, state: 'st4te' })
    expect(answer).not.toHaveProperty('code')
  })

  it('is consent_required without an approval, and login_required without a session', async () => {
    const client = await makeClient(server)
    expect(answerOf(await ask(browser, client, { prompt: 'none' }))).toMatchObject({ error: 'consent_required' })
    const nobody = server.userAgent()
    expect(answerOf(await ask(nobody, client, { prompt: 'none' }))).toMatchObject({ error: 'login_required' })
  })
})

describe('methods', () => {
  it.each([
    { path: '/authorize', allow: 'GET, POST', wrong: ['PUT', 'DELETE', 'PATCH', 'OPTIONS'] },
    { path: '/token', allow: 'POST, OPTIONS', wrong: ['GET', 'HEAD', 'PUT', 'DELETE'] },
    { path: '/par', allow: 'POST, OPTIONS', wrong: ['GET', 'PUT'] },
    { path: '/introspect', allow: 'POST', wrong: ['GET', 'OPTIONS'] },
    { path: '/revoke', allow: 'POST, OPTIONS', wrong: ['GET', 'DELETE'] },
    { path: '/userinfo', allow: 'GET, POST, OPTIONS', wrong: ['PUT'] },
    { path: '/jwks', allow: 'GET, HEAD, OPTIONS', wrong: ['POST'] },
    { path: '/logout', allow: 'GET, POST', wrong: ['PUT'] },
    { path: '/logout/confirm', allow: 'POST', wrong: ['GET'] },
    { path: '/.well-known/openid-configuration', allow: 'GET, HEAD, OPTIONS', wrong: ['POST'] },
    { path: '/.well-known/oauth-authorization-server', allow: 'GET, HEAD, OPTIONS', wrong: ['DELETE'] },
    { path: '/.well-known/oauth-protected-resource/api', allow: 'GET, HEAD', wrong: ['POST'] },
    { path: '/', allow: 'GET, HEAD', wrong: ['PUT'] },
  ])('that $path does not take are 405, with the ones it takes', async ({ path, allow, wrong }) => {
    for (const method of wrong) {
      const response = await fetch(server.origin + path, { method })
      expect({ method, status: response.status }).toEqual({ method, status: 405 })
      expect(response.headers.get('allow')).toBe(allow)
    }
  })

  it('an unknown address is 404: problem+json for a machine, a page for a browser', async () => {
    const machine = await fetch(`${server.origin}/nothing`)
    expect(machine.status).toBe(404)
    expect(machine.headers.get('content-type')).toMatch(/^application\/problem\+json/)
    expect(await machine.json()).toMatchObject({ code: 'not_found', trace_id: machine.headers.get('x-trace-id') })
    const person = await fetch(`${server.origin}/nothing`, { headers: { accept: 'text/html' } })
    expect(person.status).toBe(404)
    expect(await person.text()).toContain('There is nothing here')
  })

  it('the authorization endpoint takes a POST, and answers as to a GET', async () => {
    const { url } = await browser.open('/authorize', { method: 'POST', body: parametersOf(world.client) })
    expect(Object.fromEntries(url.searchParams)).toMatchObject({ code: expect.any(String), state: 'st4te' })
  })

  it('a POST from the client’s own site is taken too, and asks for a sign-in first', async () => {
    const headers = { origin: 'https://app.example.com', 'sec-fetch-site': 'cross-site' }
    const agent = server.userAgent()
    const page = await agent.open('/authorize', { method: 'POST', body: parametersOf(world.client), headers })
    expect((await signIn(agent, page, world.email)).url.searchParams.get('code')).toMatch(/^[\w-]{43}$/)
  })
})

it('id_tokens are RS256, and access tokens for an API ES256 with typ at+jwt', async () => {
  const { code, pkce } = await obtainCode(server, world, { agent: browser })
  const { body } = await redeem(server.origin, world.client, code, pkce, { resource: API })
  expect(decodeProtectedHeader(String(body.id_token))).toMatchObject({ alg: 'RS256' })
  expect(decodeProtectedHeader(String(body.access_token))).toMatchObject({ alg: 'ES256', typ: 'at+jwt' })
})

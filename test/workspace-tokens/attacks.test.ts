// What an attacker found once: each must stay refused.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ApiWorld, bearer, call, exchange, makeApiWorld, makeToken, NOBODY, newLabel } from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld

beforeAll(async () => {
  server = await startServer()
  world = await makeApiWorld(server)
})
afterAll(() => server.close())

const keys = () => `/workspaces/${world.workspaceId}/api-keys`
const asKey = () => bearer(world.key)
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))
const statusWith = async (value: string) => (await call(server, bearer(value), 'GET', '/workspaces')).status

describe('a JWT', () => {
  it('ends with the scheduled cutover of its version, also where nobody has written the floor down', async () => {
    const token = await makeToken(server, world)
    const jwt = String((await exchange(server, token.key)).body.access_token)
    expect(await statusWith(jwt)).toBe(200)
    const at = new Date(Date.now() + 2_000)
    const rotated = await call(server, asKey(), 'POST', `${keys()}/${token.id}/rotate`, {
      body: { cutover: 'at', at: at.toISOString() },
    })
    expect(rotated.status).toBe(201)
    expect(await statusWith(jwt)).toBe(200)
    // As if the schedule were stuck: the list has known of the time since the rotation.
    await server.db
      .updateTable('token_lines')
      .set({ cutover_at: new Date(at.getTime() + 3_600_000) })
      .where('id', '=', token.id as never)
      .execute()
    await pause(at.getTime() - Date.now() + 50)
    expect(await statusWith(jwt)).toBe(401)
  })

  it('lives on when the version that was to take over is revoked first', async () => {
    const token = await makeToken(server, world)
    const jwt = String((await exchange(server, token.key)).body.access_token)
    const at = new Date(Date.now() + 1_500).toISOString()
    await call(server, asKey(), 'POST', `${keys()}/${token.id}/rotate`, { body: { cutover: 'at', at } })
    expect((await call(server, asKey(), 'DELETE', `${keys()}/${token.id}/versions/v2`)).status).toBe(204)
    await pause(1_700)
    expect([await statusWith(token.key), await statusWith(jwt)]).toEqual([200, 200])
  })
})

describe('a token that rotates itself', () => {
  const rotateSelf = (value: string, body: object = {}) =>
    call(server, bearer(value), 'POST', `${keys()}/self`, { body })

  it.each([{ expires_in: 315_360_000 }, { expires_at: null }])('gets no longer life: %o', async (body) => {
    const { key } = await makeToken(server, world, { permissions: ['read'], expires_in: 3_600 })
    expect(await rotateSelf(key, body)).toMatchObject({ status: 403, body: { code: 'policy_forbids' } })
  })

  it('ends when it would have ended anyway', async () => {
    const made = await makeToken(server, world, { permissions: ['read'], expires_in: 3_600 })
    const shown = await call(server, asKey(), 'GET', `${keys()}/${made.id}`)
    await pause(1_100)
    const rotated = await rotateSelf(made.key)
    expect(rotated.status).toBe(201)
    expect(rotated.body.expires_at).toBe(shown.body.expires_at)
    expect((await rotateSelf(String((await makeToken(server, world)).key), { expires_in: 60 })).status).toBe(201)
  })
})

it('a request that is refused is no use: it commits no cutover', async () => {
  const token = await makeToken(server, world, { permissions: ['read'] })
  const rotated = await call(server, asKey(), 'POST', `${keys()}/${token.id}/rotate`, {
    body: { cutover: 'on_first_use' },
  })
  const next = String(rotated.body.key)
  expect((await call(server, bearer(next), 'DELETE', `${keys()}/${token.id}`)).status).toBe(403)
  expect((await call(server, bearer(next), 'GET', '/workspaces/ws_00000000000000000000000000')).status).toBe(404)
  expect(await statusWith(token.key)).toBe(200)
  expect(await statusWith(next)).toBe(200)
  expect(await statusWith(token.key)).toBe(401)
})

it.each([
  ['revoked', async (id: string) => call(server, asKey(), 'DELETE', `${keys()}/${id}/versions/v1`)],
  [
    'reported as leaked',
    async (_id: string, key: string) =>
      call(server, NOBODY, 'POST', '/credentials/revoke', { body: { credentials: [key] } }),
  ],
])('an invitation is worth nothing once the token that sent it was %s', async (_how, end) => {
  const token = await makeToken(server, world, { permissions: ['read', 'manage'] })
  const invited = await call(server, bearer(token.key), 'POST', `/workspaces/${world.workspaceId}/invitations`, {
    body: { email: `${newLabel().replaceAll(/\W/g, '')}@example.com`, role: 'admin' },
  })
  expect(invited.status).toBe(201)
  expect((await end(token.id, token.key)).status).toBeLessThan(300)
  const agent = server.userAgent()
  const page = await agent.open(invited.body.link)
  const joined = await agent.submit(page, '/join', { name: 'Mole', password: 'correct horse battery staple' })
  expect(joined.status).toBe(404)
})

it('a token is of no client: /revoke says so instead of doing nothing', async () => {
  const token = await makeToken(server, world)
  const client = await server.run('client create', {
    name: 'Job',
    redirect_uris: [],
    grant_types: ['client_credentials'],
    auth: 'client_secret_basic',
    environment: 'production',
    pkce: true,
  })
  const response = await fetch(`${server.origin}/revoke`, {
    method: 'POST',
    headers: {
      authorization: `Basic ${Buffer.from(`${client.client_id}:${client.client_secret}`).toString('base64')}`,
    },
    body: new URLSearchParams({ token: token.key }),
  })
  expect([response.status, (await response.json()).error]).toEqual([400, 'unsupported_token_type'])
  expect(await statusWith(token.key)).toBe(200)
})

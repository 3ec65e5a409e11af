// A connection that is suspended: nothing of it is accepted, its refresh tokens wait, and its person cannot walk around it.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { setConnectionSuspended } from '../../src/connections/service.ts'
import { isConnectionId } from '../../src/ids.ts'
import { type ApiWorld, ageSession, bearer, type Credential, call, postForm } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { OPAQUE } from '../support/races.ts'
import type { Backend, TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { startVerifying, type Verifying } from '../support/verifying.ts'
import {
  authorizationUrl,
  connect,
  makeClient,
  makePkce,
  obtainCode,
  redeem,
  refresh,
  type TestClient,
} from '../support/world.ts'

const API = 'https://notes.example.com'
const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(BACKENDS)('a suspended connection (%s)', (backend) => {
  let server: TestServer
  let world: ApiWorld
  let api: TestClient
  let isVerified: Verifying['isVerified']
  let close: Verifying['close'] | undefined
  beforeAll(async () => {
    ;({ server, world, api, isVerified, close } = await startVerifying(backend, API, 'notes:read'))
  })
  afterAll(() => close?.())

  const ASKING = { resource: API, scope: 'openid notes:read' }
  const placeOf = (client: TestClient) => ({ ...world, ...world.people.member, client })
  /** Signs in once. */
  let agent: UserAgent | undefined
  /** A member's connection of a client of its own. */
  async function open(more: Record<string, string> = ASKING) {
    const client = await makeClient(server)
    agent ??= server.userAgent()
    const tokens = await connect(server, placeOf(client), { client, more, agent })
    const row = await server.db
      .selectFrom('connections')
      .select('id')
      .where('client_id', '=', client.id)
      .executeTakeFirstOrThrow()
    return { ...tokens, client, id: row.id }
  }
  const pathOf = (id: string, what = '') => `/workspaces/${world.workspaceId}/connections/${id}${what}`
  const change = (id: string, what: 'suspend' | 'restore', by: Credential = bearer(world.key)) =>
    call(server, by, 'POST', pathOf(id, `/${what}`), { body: {} })
  const isActive = async (value: string | undefined, client = api) =>
    (await postForm(server, '/introspect', { token: value ?? '' }, client)).body.active
  const recordsOf = (id: string) =>
    server.db
      .selectFrom('audit_events')
      .select(['event', 'status', 'detail', 'actor_id', 'token_version'])
      .where('credential_id', '=', id)
      .where('event', 'in', ['connection.suspended', 'connection.restored'])
      .orderBy('recorded_at')
      .orderBy('id')
      .execute()

  it('has no JWT and no refresh token that is accepted, and goes on by itself once it is restored', async () => {
    const made = await open()
    expect([await isActive(made.access_token), await isVerified(made.access_token)]).toEqual([true, true])
    const suspended = await change(made.id, 'suspend')
    expect(suspended.status, suspended.text).toBe(200)
    expect(suspended.body.suspended_at).toMatch(/Z$/)
    expect(await isActive(made.access_token)).toBe(false)
    expect(await isActive(made.refresh_token, made.client)).toBe(false)
    await expect.poll(() => isVerified(made.access_token), { timeout: 5_000 }).toBe(false)
    for (const _ of [1, 2])
      expect(await refresh(server.origin, made.client, made.refresh_token)).toMatchObject({
        status: 400,
        body: { error: 'invalid_grant' },
      })
    expect((await change(made.id, 'restore')).body).toMatchObject({ suspended_at: null, token_version: 'v2' })
    expect([await isActive(made.access_token), await isVerified(made.access_token)]).toEqual([false, false])
    const refreshed = await refresh(server.origin, made.client, made.refresh_token)
    expect(refreshed.status).toBe(200)
    expect(await isActive(refreshed.body.access_token)).toBe(true)
    await expect.poll(() => isVerified(refreshed.body.access_token), { timeout: 5_000 }).toBe(true)
    expect(await isActive(made.access_token)).toBe(false)
  })

  it('has no opaque token that comes back either', async () => {
    const made = await open(OPAQUE)
    const userinfo = async () =>
      (await fetch(`${server.origin}/userinfo`, { headers: { authorization: `Bearer ${made.access_token}` } })).status
    expect(await userinfo()).toBe(200)
    await change(made.id, 'suspend')
    expect(await userinfo()).toBe(401)
    await change(made.id, 'restore')
    expect(await userinfo()).toBe(401)
  })

  it('gives no tokens for a code that was made before; once it is restored the code is good', async () => {
    const made = await open()
    const again = { agent: made.agent, client: made.client, more: ASKING }
    const { code, pkce } = await obtainCode(server, placeOf(made.client), again)
    await change(made.id, 'suspend')
    expect((await redeem(server.origin, made.client, code, pkce)).status).toBe(400)
    await change(made.id, 'restore')
    expect((await redeem(server.origin, made.client, code, pkce)).status).toBe(200)
  })

  it('gives no tokens for client credentials', async () => {
    const client = await makeClient(server, { grant_types: ['client_credentials'], redirect_uris: [] })
    const grant = () =>
      server.run('client grant', {
        client: client.id,
        workspace: world.workspaceId,
        resource: API,
        scopes: ['notes:read'],
      })
    await grant()
    const ask = () => postForm(server, '/token', { grant_type: 'client_credentials', resource: API }, client)
    expect((await ask()).status).toBe(200)
    const { id } = await server.db
      .selectFrom('connections')
      .select('id')
      .where('client_id', '=', client.id)
      .executeTakeFirstOrThrow()
    await change(id, 'suspend')
    expect((await ask()).status).toBe(400)
    await expect(grant()).rejects.toMatchObject({ code: 'suspended' })
    await change(id, 'restore')
    expect((await ask()).status).toBe(200)
  })

  it('is not renewed by approving again: the page says who restores it, and no other connection is made', async () => {
    const made = await open()
    await change(made.id, 'suspend')
    const { agent } = made
    const page = await agent.open(authorizationUrl(made.client, makePkce(), ASKING))
    expect(page.html).toContain('Your connection of this app here is suspended.')
    const sent = await agent.submit(page, '/consent', { workspace: world.workspaceId, answer: 'approve' })
    expect(sent.url.searchParams.get('code')).toBe(null)
    expect(sent.html).toContain('suspended')
    const silent = await agent.open(authorizationUrl(made.client, makePkce(), { ...ASKING, prompt: 'none' }))
    expect(silent.url.searchParams.get('error')).toBe('consent_required')
    const denied = await agent.submit(sent, '/consent', { answer: 'deny' })
    expect(denied.url.searchParams.get('error')).toBe('access_denied')
    const rows = await server.db
      .selectFrom('connections')
      .select(['id', 'suspended_at', 'closed_at'])
      .where('client_id', '=', made.client.id)
      .execute()
    expect(rows).toMatchObject([{ id: made.id, closed_at: null, suspended_at: expect.any(Date) }])
  })

  it('is ended by an admin alone: its person would approve another one', async () => {
    const made = await open()
    await change(made.id, 'suspend')
    const own = await call(server, world.people.member, 'DELETE', pathOf(made.id))
    expect([own.status, own.body.code]).toEqual([409, 'suspended'])
    const headers = { cookie: world.people.member.cookie, origin: server.origin, 'sec-fetch-site': 'same-origin' }
    const account = await fetch(`${server.origin}/account/connections/${made.id}`, {
      method: 'POST',
      redirect: 'manual',
      headers,
      body: new URLSearchParams({ csrf: world.people.member.csrf, what: 'revoke', understood: 'yes' }),
    })
    expect(account.status).toBe(409)
    const { closed_at } = await server.db
      .selectFrom('connections')
      .select('closed_at')
      .where('id', '=', made.id)
      .executeTakeFirstOrThrow()
    expect(closed_at).toBe(null)
    expect((await call(server, world.people.admin, 'DELETE', pathOf(made.id))).status).toBe(204)
    expect((await change(made.id, 'restore')).status).toBe(409)
  })

  it('is recorded once each time, however often it is asked for', async () => {
    const made = await open()
    for (const what of ['suspend', 'suspend', 'restore', 'restore'] as const)
      expect((await change(made.id, what, world.people.admin)).status).toBe(200)
    const shared = { status: 'pass', actor_id: world.people.admin.userId, detail: { reason: 'asked_for' } }
    expect(await recordsOf(made.id)).toMatchObject([
      { event: 'connection.suspended', token_version: 'v2', ...shared },
      { event: 'connection.restored', token_version: 'v2', ...shared },
    ])
  })

  it('takes an admin, and to restore it one who has just signed in', async () => {
    const made = await open()
    const { viewer, member, admin } = world.people
    for (const what of ['suspend', 'restore'] as const) {
      expect((await change(made.id, what, viewer)).status).toBe(403)
      expect((await change(made.id, what, member)).status).toBe(403)
      expect((await change(made.id, what, world.neighbour.owner)).status).toBe(404)
      expect((await change('con_01jjjjjjjjjjjjjjjjjjjjjjjj', what)).status).toBe(404)
    }
    await ageSession(server, admin, 3_600)
    expect((await change(made.id, 'suspend', admin)).status).toBe(200)
    expect((await change(made.id, 'restore', admin)).body.code).toBe('recent_sign_in_required')
    await ageSession(server, admin, -3_600)
    expect((await change(made.id, 'restore', admin)).status).toBe(200)
  })

  it('leaves nothing behind where the change that it is a part of is rolled back', async () => {
    const made = await open()
    if (!isConnectionId(made.id)) throw new Error('no id')
    const input = { id: made.id, suspended: true, reason: 'not_attested', actor: { kind: 'schedule' } as const }
    const change = server.app.revocations.change(async (trx, revoke) => {
      await setConnectionSuspended(trx, revoke, { ...input, request: { traceId: 'test' } })
      throw new Error('something else')
    })
    await expect(change).rejects.toThrow('something else')
    expect(await isActive(made.access_token)).toBe(true)
    expect(await recordsOf(made.id)).toEqual([])
  })

  it('says so on its page and on the Access page, where an admin restores it', async () => {
    const made = await open()
    await change(made.id, 'suspend')
    const read = async (path: string, who = world.people.admin) =>
      (await fetch(server.origin + path, { headers: { cookie: who.cookie } })).text()
    const page = `/workspaces/${world.workspaceId}/connections/${made.id}`
    expect(await read(`/workspaces/${world.workspaceId}/access`)).toContain('Suspended')
    expect(await read(page)).toContain('value="restore"')
    const own = await read(page, world.people.member)
    expect(own).toContain('Ask an admin')
    expect(own).not.toContain('value="restore"')
    const send = (who: typeof world.people.admin) =>
      fetch(server.origin + page, {
        method: 'POST',
        redirect: 'manual',
        headers: { cookie: who.cookie, origin: server.origin, 'sec-fetch-site': 'same-origin' },
        body: new URLSearchParams({ csrf: who.csrf, what: 'restore' }),
      })
    expect((await send(world.people.member)).status).toBe(403)
    expect((await send(world.people.admin)).status).toBe(303)
    expect((await refresh(server.origin, made.client, made.refresh_token)).status).toBe(200)
  })
})

// What counts as a use of a connection, in each way that its tokens are presented; and what does not.
import { decodeJwt } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { ConnectionId, KeyId } from '../../src/ids.ts'
import { createVerifier } from '../../src/verifier/index.ts'
import { type ApiWorld, bearer, call, connectPerson, exchanged, makeApiWorld, makeToken } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { connect, makeClient, post, refresh, type TestClient } from '../support/world.ts'

describe.each(hasStores() ? (['embedded', 'stores'] as const) : (['embedded'] as const))('on %s', (backend) => {
  const TRACES = 'https://traces.example.com'
  let server: TestServer
  let world: ApiWorld
  let api: TestClient
  let otherApi: TestClient
  let browser: UserAgent

  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeApiWorld(server)
    browser = server.userAgent()
    ;[api, otherApi] = [await makeResource(TRACES), await makeResource('https://other.example.com')]
  })
  afterAll(() => server?.close())

  async function makeResource(identifier: string): Promise<TestClient> {
    const created = await server.run('resource create', {
      identifier,
      environments: ['production'],
      scopes: [{ name: 'traces:read', sentence: 'See traces', least_role: 'member' }],
    })
    return { id: String(created.client_id), secret: created.client_secret, redirectUri: '' }
  }

  /** A connection of its own, to an API of ours. */
  async function connectTo(more: Record<string, string> = { resource: TRACES }) {
    const client = await makeClient(server)
    const { people, workspaceId } = world
    const asked = { ...people.member, workspaceId, organizationId: '', otherWorkspaceId: '', client }
    const tokens = await connect(server, asked, { agent: browser, client, more })
    return { ...tokens, client, jwt: String(tokens.access_token) }
  }

  const idOf = (jwt: string) => String(decodeJwt(jwt).credential_id) as ConnectionId

  async function callersOf(id: ConnectionId) {
    await server.app.uses.flush()
    const rows = await server.db.selectFrom('connection_uses').selectAll().where('connection_id', '=', id).execute()
    return rows.map(({ version, address, agent, uses }) => ({ version, address, agent, uses }))
  }

  const introspect = (jwt: string, caller: TestClient, more: Record<string, string> = {}) =>
    post(server.origin, '/introspect', caller, { token: jwt, ...more })

  const report = async (caller: TestClient, uses: unknown[]) => {
    const response = await fetch(`${server.origin}/introspect/uses`, {
      method: 'POST',
      headers: {
        authorization: `Basic ${Buffer.from(`${caller.id}:${caller.secret}`).toString('base64')}`,
        'content-type': 'application/json',
      },
      body: JSON.stringify({ uses }),
    })
    return response.status
  }

  describe('a use is', () => {
    it('a JWT that our own API lets in, with its address and agent; one that it refuses is none', async () => {
      const { access_token, client } = await connectPerson(server, world, world.people.member, 'read')
      const jwt = String(access_token)
      const path = `/workspaces/${world.workspaceId}`
      const refused = await call(server, bearer(jwt), 'DELETE', `${path}/connections/${idOf(jwt)}`)
      expect(refused.status).toBe(403)
      expect(await callersOf(idOf(jwt))).toEqual([])
      const headers = { 'user-agent': 'nightly/1.0' }
      for (let turn = 0; turn < 3; turn++)
        expect((await call(server, bearer(jwt), 'GET', path, { headers })).status).toBe(200)
      expect(await callersOf(idOf(jwt))).toEqual([{ version: 1, address: '127.0.0.1', agent: 'nightly/1.0', uses: 3 }])
      expect(client.id).not.toBe('')
    })

    it('a JWT that an API asks about, from where it says; without a word of it under the API’s name', async () => {
      const { jwt } = await connectTo()
      await introspect(jwt, api, { client_ip: '192.0.2.7', user_agent: 'tracepad/2' })
      await introspect(jwt, api)
      expect(await callersOf(idOf(jwt))).toEqual(
        expect.arrayContaining([
          { version: 1, address: '192.0.2.7', agent: 'tracepad/2', uses: 1 },
          { version: 1, address: '', agent: TRACES, uses: 1 },
        ]),
      )
    })

    it('what a verifier decided by itself, told within its next reports', async () => {
      const { jwt } = await connectTo()
      const verify = createVerifier({
        issuer: server.origin,
        audience: TRACES,
        environment: 'production',
        clientId: api.id,
        clientSecret: String(api.secret),
      })
      await verify.ready()
      await expect.poll(() => verify.isLive()).toBe(true)
      for (let turn = 0; turn < 7; turn++)
        await verify(`Bearer ${jwt}`, { clientIp: '192.0.2.9', userAgent: 'runner/1.0' })
      await verify.close()
      const callers = await callersOf(idOf(jwt))
      expect(callers).toEqual([{ version: 1, address: '192.0.2.9', agent: 'runner/1.0', uses: 7 }])
    })

    it('a refresh, by the client itself; redeeming the code is none, and a refused refresh is none', async () => {
      const connected = await connectTo()
      expect(await callersOf(idOf(connected.jwt))).toEqual([])
      expect((await refresh(server.origin, connected.client, 'lk_rt_unknown')).status).toBe(400)
      const refreshed = await refresh(server.origin, connected.client, connected.refresh_token)
      expect(refreshed.status).toBe(200)
      const [caller, ...others] = await callersOf(idOf(connected.jwt))
      expect(caller).toMatchObject({ version: 1, address: '127.0.0.1', uses: 1 })
      expect(others).toEqual([])
    })

    it('a client that comes for tokens of its own', async () => {
      const machine = await makeClient(server, { redirect_uris: [], grant_types: ['client_credentials'] })
      const granted = await server.run('client grant', {
        client: machine.id,
        workspace: world.workspaceId,
        resource: TRACES,
        scopes: ['traces:read'],
      })
      const issued = await post(server.origin, '/token', machine, {
        grant_type: 'client_credentials',
        resource: TRACES,
      })
      expect(issued.status).toBe(200)
      expect(await callersOf(String(granted.id) as ConnectionId)).toMatchObject([{ version: 1, uses: 1 }])
    })

    it('what userinfo is asked', async () => {
      const { jwt: opaque, client } = await connectTo({ scope: 'openid', resource: '' })
      const userinfo = await fetch(`${server.origin}/userinfo`, { headers: { authorization: `Bearer ${opaque}` } })
      expect(userinfo.status).toBe(200)
      const connection = await server.db
        .selectFrom('connections')
        .select('id')
        .where('client_id', '=', client.id)
        .executeTakeFirstOrThrow()
      expect(await callersOf(connection.id)).toMatchObject([{ version: 1, uses: 1 }])
    })
  })

  describe('no use is', () => {
    it('a client’s question about its own token, or one by another API', async () => {
      const { jwt, client } = await connectTo()
      expect((await introspect(jwt, client)).body).toMatchObject({ active: true })
      expect((await introspect(jwt, otherApi)).body).toEqual({ active: false })
      expect(await callersOf(idOf(jwt))).toEqual([])
    })

    it('a JWT that has ended', async () => {
      const { jwt } = await connectTo()
      await server.run('connection close', { connection: idOf(jwt) })
      expect((await introspect(jwt, api)).body).toEqual({ active: false })
      expect(await callersOf(idOf(jwt))).toEqual([])
    })

    it('what an API tells of a connection that is not good there, or of a version that is not yet', async () => {
      const { jwt } = await connectTo()
      const use = { credential_id: idOf(jwt), token_version: 'v1', uses: 1, address: '192.0.2.1' }
      expect(await report(otherApi, [use])).toBe(204)
      expect(await report(api, [{ ...use, token_version: 'v2' }])).toBe(204)
      expect(await report(api, [{ ...use, credential_id: 'con_00000000000000000000000000' }])).toBe(204)
      expect(await callersOf(idOf(jwt))).toEqual([])
      expect(await report(api, [use, { ...use, credential_id: 'x' }])).toBe(204)
      expect(await callersOf(idOf(jwt))).toEqual([{ version: 1, address: '192.0.2.1', agent: TRACES, uses: 1 }])
    })
  })

  it('a JWT that came from a token counts for that token', async () => {
    const token = await makeToken(server, world)
    const jwt = await exchanged(server, token.key)
    const headers = { 'user-agent': 'exchanger/1.0' }
    await call(server, bearer(jwt), 'GET', `/workspaces/${world.workspaceId}`, { headers })
    await server.app.uses.flush()
    const version = await server.db
      .selectFrom('token_versions')
      .selectAll()
      .where('token_id', '=', token.id as KeyId)
      .executeTakeFirstOrThrow()
    expect(version).toMatchObject({ last_used_agent: 'exchanger/1.0', last_used_address: '127.0.0.1' })
  })

  it('each version has its own last use, its first one is on record once, and the API tells both', async () => {
    const { access_token, refresh_token, client } = await connectPerson(server, world, world.people.member, 'read')
    const id = idOf(String(access_token))
    const path = `/workspaces/${world.workspaceId}/connections`
    const { admin } = world.people
    const listed = async () =>
      (await call(server, admin, 'GET', path)).body.find((one: { id: string }) => one.id === id)
    expect(await listed()).toMatchObject({ last_used_at: null })
    expect((await call(server, admin, 'GET', `${path}/${id}`)).body).toMatchObject({ last_used_at: null, versions: [] })
    const use = (jwt: unknown, agent: string) =>
      call(server, bearer(String(jwt)), 'GET', path, { headers: { 'user-agent': agent } })
    await use(access_token, 'first/1.0')
    expect((await call(server, admin, 'POST', `${path}/${id}/new-version`, { body: {} })).status).toBe(200)
    const refreshed = await refresh(server.origin, client, refresh_token)
    await use(refreshed.body.access_token, 'second/1.0')
    await server.app.uses.flush()
    expect((await listed()).last_used_at).toMatch(/^\d{4}-\d\d-\d\dT[\d:]+Z$/)
    const { body } = await call(server, admin, 'GET', `${path}/${id}`)
    expect(body).toMatchObject({
      id,
      client_id: client.id,
      token_version: 'v2',
      versions: [
        { token_version: 'v2', last_used_address: '127.0.0.1', last_used_agent: 'second/1.0' },
        { token_version: 'v1', last_used_address: '127.0.0.1', last_used_agent: 'first/1.0' },
      ],
    })
    const records = await server.db
      .selectFrom('audit_events')
      .selectAll()
      .where('event', '=', 'connection.first_used')
      .where('credential_id', '=', id)
      .execute()
    expect(records).toMatchObject([
      {
        organization_id: world.organizationId,
        workspace_id: world.workspaceId,
        user_id: world.people.member.userId,
        client_id: client.id,
        token_version: 'v1',
      },
    ])
    expect((await call(server, admin, 'DELETE', `${path}/${id}`)).status).toBe(204)
    expect((await call(server, admin, 'GET', `${path}/${id}`)).status).toBe(404)
  })

  it('a use is seen at most five seconds later, without anybody asking for it', async () => {
    const { jwt } = await connectTo()
    await introspect(jwt, api, { client_ip: '192.0.2.55' })
    const isSeen = async () =>
      (await server.db.selectFrom('connection_versions').selectAll().where('connection_id', '=', idOf(jwt)).execute())
        .length
    // Twice the promise: the machine that runs this has other work too.
    await expect.poll(isSeen, { timeout: 10_000 }).toBe(1)
  })
})

// What ends JWTs besides their credential: the person, the client, the workspace, and everything at once (consistency §4).
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createVerifier, type Verifier } from '../../src/verifier/index.ts'
import { hasStores } from '../support/databases.ts'
import { OPAQUE } from '../support/races.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { connect, makeClient, makeWorld, PASSWORD, refresh, type TestClient, type World } from '../support/world.ts'

const READS = 'https://reads.example.com'

describe.each(hasStores() ? (['embedded', 'stores'] as const) : (['embedded'] as const))('on %s', (backend) => {
  let server: TestServer
  let api: TestClient
  let verify: Verifier
  let world: World

  beforeAll(async () => {
    server = await startServer({ backend })
    const created = await server.run('resource create', {
      identifier: READS,
      environments: ['production'],
      scopes: [{ name: 'read', sentence: 'See', least_role: 'member' }],
    })
    api = { id: String(created.client_id), secret: String(created.client_secret), redirectUri: '' }
    verify = createVerifier({
      issuer: server.origin,
      audience: READS,
      environment: 'production',
      clientId: api.id,
      clientSecret: api.secret ?? '',
    })
    await verify.ready()
  })
  beforeEach(async () => {
    world = await makeWorld(server)
  })
  afterAll(async () => {
    await verify.close()
    await server.close()
  })

  const open = (options: { client?: TestClient } = {}) =>
    connect(server, world, { ...options, more: { scope: 'openid read', resource: READS } })

  async function isActive(token: string | undefined): Promise<boolean> {
    const response = await fetch(`${server.origin}/introspect`, {
      method: 'POST',
      headers: { authorization: `Basic ${Buffer.from(`${api.id}:${api.secret}`).toString('base64')}` },
      body: new URLSearchParams({ token: token ?? '' }),
    })
    return (await response.json()).active
  }

  const isVerified = (token: string | undefined) =>
    verify(`Bearer ${token}`).then(
      () => true,
      () => false,
    )

  const userinfoWith = (token: string | undefined) =>
    fetch(`${server.origin}/userinfo`, { headers: { authorization: `Bearer ${token}` } })

  async function endsEverywhere(token: string | undefined): Promise<void> {
    expect(await isActive(token)).toBe(false)
    await expect.poll(() => isVerified(token), { timeout: 5_000 }).toBe(false)
  }

  it('what a suspended person had is dead at once, and stays so when the suspension is lifted', async () => {
    const before = await open()
    const opaque = await connect(server, world, { more: OPAQUE })
    expect((await userinfoWith(opaque.access_token)).status).toBe(200)
    expect([await isActive(before.access_token), await isVerified(before.access_token)]).toEqual([true, true])
    await server.run('user suspend', { user: world.email })
    await endsEverywhere(before.access_token)
    expect((await refresh(server.origin, world.client, before.refresh_token)).status).toBe(400)
    expect((await before.agent.open('/')).url.pathname).toBe('/') // signed out: the home page, not an organization
    await server.run('user restore', { user: world.userId })
    expect(await isActive(before.access_token)).toBe(false)
    expect(await isVerified(before.access_token)).toBe(false)
    expect((await refresh(server.origin, world.client, before.refresh_token)).status).toBe(400)
    expect((await userinfoWith(opaque.access_token)).status).toBe(401)
    await new Promise((resolve) => setTimeout(resolve, 1_100)) // `not_before` speaks in whole seconds
    const after = await open()
    expect([await isActive(after.access_token), await isVerified(after.access_token)]).toEqual([true, true])
  })

  it('a new password kills the JWTs of every connection; those that refresh recover by themselves', async () => {
    const before = await open()
    await server.run('user set-password', { user: world.email, password: `${PASSWORD} again` })
    await endsEverywhere(before.access_token)
    const refreshed = await refresh(server.origin, world.client, before.refresh_token)
    expect(refreshed.status).toBe(200)
    expect(await isActive(refreshed.body.access_token)).toBe(true)
    const events = await server.db
      .selectFrom('audit_events')
      .select('event')
      .where('user_id', '=', world.userId)
      .execute()
    expect(events.map(({ event }) => event)).toContain('connection.version_raised')
  })

  it('a withdrawn client’s JWTs are dead at once', async () => {
    const client = await makeClient(server)
    const tokens = await open({ client })
    expect(await isVerified(tokens.access_token)).toBe(true)
    await server.run('client delete', { client: client.id })
    await endsEverywhere(tokens.access_token)
  })

  it('“everything” refuses each JWT issued so far, and none that is issued later', async () => {
    const tokens = await open()
    await server.run('revocation everything', {})
    await endsEverywhere(tokens.access_token)
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    const refreshed = await refresh(server.origin, world.client, tokens.refresh_token)
    expect(refreshed.status).toBe(200)
    expect(await isActive(refreshed.body.access_token)).toBe(true)
    await expect.poll(() => isVerified(refreshed.body.access_token), { timeout: 5_000 }).toBe(true)
  })

  it.each(['user suspend', 'user restore'])('%s of somebody unknown is said to be that', async (command) => {
    await expect(server.run(command, { user: 'nobody@example.com' })).rejects.toMatchObject({ code: 'not_found' })
  })
})

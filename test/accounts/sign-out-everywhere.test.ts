// Signing out everywhere, by the person and by an operator: what ends, what stays, and what it takes.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { signOutEverywhere } from '../../src/accounts/service.ts'
import { hasStores } from '../support/databases.ts'
import { introspectAt, startCluster } from '../support/processes.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { formOf, type Page, type UserAgent } from '../support/user-agent.ts'
import {
  authorizationUrl,
  connect,
  makeClient,
  makePkce,
  makeWorld,
  PASSWORD,
  post,
  refresh,
  type World,
} from '../support/world.ts'

const AT = '/account/sign-out-everywhere'
let server: TestServer

async function signIn(on: TestServer, { email }: World, agent = on.userAgent()): Promise<UserAgent> {
  const page = await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
  expect(page.status).toBe(200)
  return agent
}

/** Whether a browser is signed in: the console shows it. */
async function isSignedIn(agent: UserAgent): Promise<boolean> {
  return (await agent.open('/account')).url.pathname === '/account'
}

const headingOf = (page: Page) => /<h1>(.*?)<\/h1>/s.exec(page.html)?.[1]

const eventsOf = (on: TestServer, userId: string, event: string) =>
  on.db
    .selectFrom('audit_events')
    .selectAll()
    .where('event', '=', event)
    .where('user_id', '=', userId as `usr_${string}`)
    .execute()

const isActive = async (on: TestServer, world: World, token: string | undefined) =>
  (await post(on.origin, '/introspect', world.client, { token: token ?? '' })).body

const backends: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(backends)('signing out everywhere (%s)', (backend) => {
  beforeAll(async () => {
    server = await startServer({ backend })
  })
  afterAll(() => server?.close())

  it('says first what ends and what stays, by name', async () => {
    const world = await makeWorld(server)
    const { agent } = await connect(server, world)
    const told = await makeClient(server, {
      name: 'Notebook & Co',
      backchannel_logout_uri: 'https://rp.example.com/out',
    })
    await connect(server, world, { agent, client: told })
    const page = await agent.open(AT)
    expect(page.status).toBe(200)
    expect(headingOf(page)).toBe('Sign out everywhere?')
    expect(page.html).toContain(
      'Every browser session of yours, this one too; and the short-lived tokens of your 2 connections.',
    )
    expect(page.html).toContain('<bdi>Tracepad</bdi>')
    expect(page.html).toMatch(/<bdi>Notebook &amp; Co<\/bdi>(?=[^<]*, to sign you out on their side too)/)
    expect(page.headers.get('cache-control')).toBe('no-store')
    expect(await isSignedIn(agent)).toBe(true) // looking changes nothing
  })

  it('ends every session, in every browser, kills JWTs at once, and leaves refresh tokens to go on', async () => {
    const world = await makeWorld(server)
    const tokens = await connect(server, world)
    const elsewhere = await signIn(server, world)
    const other = await makeWorld(server)
    const stranger = await connect(server, other)
    expect(await isActive(server, world, tokens.access_token)).toMatchObject({ active: true })
    const answer = await tokens.agent.submit(await tokens.agent.open(AT), AT, {})
    expect([answer.status, headingOf(answer)]).toEqual([200, 'You are signed out everywhere'])
    expect(answer.html).toContain('Your connection stayed')
    expect(answer.headers.get('cache-control')).toBe('no-store')
    expect(tokens.agent.cookies().map(({ name }) => name)).not.toContain('latchkey_session')
    expect([await isSignedIn(tokens.agent), await isSignedIn(elsewhere)]).toEqual([false, false])
    expect(await isActive(server, world, tokens.access_token)).toEqual({ active: false })
    const renewed = await refresh(server.origin, world.client, tokens.refresh_token)
    expect(renewed.status).toBe(200)
    expect(await isActive(server, world, renewed.body.access_token)).toMatchObject({
      active: true,
      token_version: 'v2',
    })
    // Nobody else's.
    expect(await isSignedIn(stranger.agent)).toBe(true)
    expect(await isActive(server, other, stranger.access_token)).toMatchObject({ active: true })
  })

  it('is one record of its own, beside those of the connections, by whoever did it', async () => {
    const world = await makeWorld(server)
    const { agent } = await connect(server, world)
    await agent.submit(await agent.open(AT), AT, {})
    const [record, ...more] = await eventsOf(server, world.userId, 'user.signed_out_everywhere')
    expect(more).toEqual([])
    expect(record).toMatchObject({ status: 'pass', actor_kind: 'user', actor_id: world.userId })
    const [raised] = await eventsOf(server, world.userId, 'connection.version_raised')
    expect(raised).toMatchObject({ trace_id: record?.trace_id, detail: { reason: 'signed_out_everywhere' } })
    expect(await eventsOf(server, world.userId, 'session.sign_out')).toEqual([]) // not once more for this browser
  })

  it('an operator does it by id or address', async () => {
    const world = await makeWorld(server)
    const { agent } = await connect(server, world)
    expect(await server.run('user sign-out', { user: world.email })).toEqual({
      id: world.userId,
      connections: 1,
      told: 0,
    })
    expect(await isSignedIn(agent)).toBe(false)
    const [record] = await eventsOf(server, world.userId, 'user.signed_out_everywhere')
    expect(record).toMatchObject({ actor_kind: 'operator' })
    await expect(server.run('user sign-out', { user: 'nobody@example.com' })).rejects.toMatchObject({
      code: 'not_found',
    })
  })

  it('a session that is used just then does not come back, and one that begins later is good', async () => {
    const world = await makeWorld(server)
    const agent = await signIn(server, world)
    // Each of them writes the session back when it is done.
    const uses = Array.from({ length: 10 }, () => agent.request(authorizationUrl(world.client, makePkce())))
    await Promise.all([server.run('user sign-out', { user: world.userId }), ...uses])
    expect(await isSignedIn(agent)).toBe(false)
    await new Promise((resolve) => setTimeout(resolve, 1_100)) // sessions begin at whole seconds
    expect(await isSignedIn(await signIn(server, world, agent))).toBe(true)
  })

  it('takes the form of this session: no other site’s, no other session’s, none without a token, and no GET', async () => {
    const world = await makeWorld(server)
    const agent = await signIn(server, world)
    const stranger = await signIn(server, await makeWorld(server))
    const { hidden } = formOf(await agent.open(AT), AT)
    const strangers = formOf(await stranger.open(AT), AT).hidden
    const send = (body: Record<string, string>, headers: Record<string, string>) =>
      agent.request(AT, { method: 'POST', body: new URLSearchParams(body), headers })
    const own = { origin: server.origin, 'sec-fetch-site': 'same-origin' }
    const answers = await Promise.all([
      send(hidden, { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }),
      send(hidden, { origin: 'https://evil.example' }),
      send({}, own),
      send({ csrf: 'x' }, own),
      send(strangers, own),
      agent.request(`${AT}?csrf=${hidden.csrf}`, { method: 'PUT' }),
    ])
    expect(answers.map(({ status }) => status)).toEqual([403, 403, 403, 403, 403, 405])
    const json = await agent.request(AT, {
      method: 'POST',
      body: JSON.stringify(hidden),
      headers: { ...own, 'content-type': 'text/plain' },
    })
    expect(json.status).toBeGreaterThanOrEqual(400)
    expect(await isSignedIn(agent)).toBe(true)
    expect(await eventsOf(server, world.userId, 'user.signed_out_everywhere')).toEqual([])
  })

  it('whoever is not signed in is led to the sign-in page and back', async () => {
    const agent = server.userAgent()
    expect((await agent.open(AT)).url.href).toContain(`/sign-in?return_to=${encodeURIComponent(AT)}`)
    const answer = await agent.request(AT, { method: 'POST', body: new URLSearchParams({ csrf: 'x' }) })
    expect([answer.status, answer.headers.get('location')]).toEqual([
      303,
      `/sign-in?return_to=${encodeURIComponent(AT)}`,
    ])
  })

  it('a session that has ended by then signs nobody out, and leaves nothing behind', async () => {
    const world = await makeWorld(server)
    const signedInAt = Math.floor(Date.now() / 1000) - 60
    const by = { actor: { kind: 'user' as const, id: world.userId }, request: { traceId: 'late' } }
    await signOutEverywhere(server.app, { user: world.userId, signedInAt: signedInAt + 120, ...by })
    await expect(signOutEverywhere(server.app, { user: world.userId, signedInAt, ...by })).rejects.toMatchObject({
      code: 'unauthorized',
    })
    expect(await eventsOf(server, world.userId, 'user.signed_out_everywhere')).toHaveLength(1)
  })

  it('a JWT that asks for it is none of ours to take: only a browser’s session does this', async () => {
    const world = await makeWorld(server)
    const { access_token } = await connect(server, world)
    const answer = await fetch(`${server.origin}${AT}`, {
      method: 'POST',
      redirect: 'manual',
      headers: { authorization: `Bearer ${access_token}`, 'content-type': 'application/x-www-form-urlencoded' },
      body: 'csrf=x',
    })
    expect(answer.status).toBe(303)
    expect(await eventsOf(server, world.userId, 'user.signed_out_everywhere')).toEqual([])
  })
})

describe.skipIf(!hasStores())('on every process', () => {
  it('from its answer on, no process takes the session or a JWT', async () => {
    const cluster = await startCluster()
    const world = await makeWorld(cluster.server)
    for (let round = 0; round < 3; round++) {
      const tokens = await connect(cluster.server, world)
      await cluster.server.run('user sign-out', { user: world.userId })
      const active = await Promise.all(
        cluster.processes.map((process) => introspectAt(process, world.client, tokens.access_token)),
      )
      expect(active).toEqual(cluster.processes.map(() => ({ active: false })))
      expect(await isSignedIn(tokens.agent)).toBe(false)
      await new Promise((resolve) => setTimeout(resolve, 1_100)) // sessions begin at whole seconds
    }
    await cluster.close()
  })

  it('a sign-in that was let through before it never counts as later: the time is read under the lock', async () => {
    const on = await startServer({ backend: 'stores' })
    const world = await makeWorld(on)
    const signedInAt = await on.db.transaction().execute(async (trx) => {
      await trx
        .selectFrom('users')
        .select('id')
        .where('id', '=', world.userId as `usr_${string}`)
        .forShare()
        .execute()
      const signingOut = on.run('user sign-out', { user: world.userId })
      await new Promise((resolve) => setTimeout(resolve, 300)) // it waits by now
      const { rows } = await sql<{ now: Date }>`select clock_timestamp() as now`.execute(trx)
      return { time: rows[0]?.now ?? new Date(0), signingOut }
    })
    await signedInAt.signingOut
    const { sessions_not_before } = await on.db
      .selectFrom('users')
      .select('sessions_not_before')
      .where('id', '=', world.userId as `usr_${string}`)
      .executeTakeFirstOrThrow()
    expect(sessions_not_before?.getTime()).toBeGreaterThan(signedInAt.time.getTime())
    await on.close()
  })
})

// OpenID Connect Back-Channel Logout 1.0: who is told of which logout, by what, how often, and where not.
import { createServer as createTcpServer } from 'node:net'
import { decodeJwt } from 'jose'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { UserId } from '../../src/ids.ts'
import { MOST_TRIES } from '../../src/logout/rules.ts'
import { startClientSession } from '../../src/logout/service.ts'
import { hasStores } from '../support/databases.ts'
import {
  bringForward,
  checkLogoutToken,
  outcomesFor,
  type Receiver,
  startReceiver,
  waitingFor,
} from '../support/logout-receiver.ts'
import { type Cluster, startCluster } from '../support/processes.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import {
  authorizationUrl,
  connect,
  makeClient,
  makePkce,
  makeWorld,
  obtainCode,
  PASSWORD,
  redeem,
  refresh,
  type TestClient,
  type World,
  walk,
} from '../support/world.ts'

const SIGNED_OUT = 'https://app.example.com/signed-out'
let server: TestServer
const receivers: Receiver[] = []

beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server?.close())
afterEach(async () => {
  for (const receiver of receivers.splice(0)) await receiver.stop()
})

interface Party {
  client: TestClient
  receiver: Receiver
}

/** A client that wants to be told, and where it is. */
async function makeParty(input: Record<string, unknown> = {}, on = server): Promise<Party> {
  const receiver = await startReceiver()
  receivers.push(receiver)
  const client = await makeClient(on, {
    backchannel_logout_uri: receiver.url,
    post_logout_redirect_uris: [SIGNED_OUT],
    ...input,
  })
  return { client, receiver }
}

/** Somebody signed in to a client, in a browser of their own unless one is given. */
async function signInTo(client: TestClient, world: World, agent = server.userAgent()) {
  const tokens = await connect(server, world, { agent, client })
  const { sid, sub } = decodeJwt<{ sid?: string }>(String(tokens.id_token))
  return { ...tokens, agent, sid, sub, hint: String(tokens.id_token) }
}

async function logOut(agent: UserAgent, hint: string, answer: Record<string, string> = { logout: 'yes' }) {
  const query = new URLSearchParams({ id_token_hint: hint, post_logout_redirect_uri: SIGNED_OUT })
  const page = await agent.open(`/logout?${query}`)
  return agent.submit(page, '/logout/confirm', answer)
}

/** Signs out on our own pages. */
async function signOut(agent: UserAgent): Promise<void> {
  const page = await agent.open('/account/sign-out-everywhere')
  expect((await agent.submit(page, '/sign-out', {})).status).toBe(200)
}

const arrival = async ({ receiver }: Party, count = 1) => {
  await expect.poll(() => receiver.arrived.length, { timeout: 15_000 }).toBeGreaterThanOrEqual(count)
  return receiver.arrived.map(({ token }) => token)
}

/** Exactly these, and none later: the records are written after the answers. */
async function delivered(party: Party, count: number) {
  await expect.poll(() => outcomesFor(server.db, party.client.id), { timeout: 15_000 }).toHaveLength(count)
  expect(await waitingFor(server.db, party.client.id)).toEqual([])
  expect(party.receiver.arrived).toHaveLength(count)
  return Promise.all(party.receiver.arrived.map(({ token }) => checkLogoutToken(server.origin, party.client.id, token)))
}

describe('what is told', () => {
  it('the metadata says that sessions are told by name', async () => {
    const metadata = await (await fetch(`${server.origin}/.well-known/openid-configuration`)).json()
    expect(metadata).toMatchObject({ backchannel_logout_supported: true, backchannel_logout_session_supported: true })
  })

  it.each([
    [false, 'left out'],
    [true, 'asked for'],
  ])(
    'a logout at the client’s wish names the session as the id_token did, also where sid is %s (%s)',
    async (required) => {
      const world = await makeWorld(server)
      const party = await makeParty({ backchannel_logout_session_required: required })
      const session = await signInTo(party.client, world)
      expect(session.sid).toMatch(/^[\w-]{20,}$/)
      const renewed = await refresh(server.origin, party.client, session.refresh_token)
      expect(decodeJwt(String(renewed.body.id_token)).sid).toBe(session.sid)
      expect((await logOut(session.agent, session.hint)).url.href).toBe(SIGNED_OUT)
      const [token] = await delivered(party, 1)
      expect(token).toMatchObject({ sub: session.sub, sid: session.sid })
      expect(party.receiver.arrived[0]?.contentType).toBe('application/x-www-form-urlencoded')
      const [record] = await outcomesFor(server.db, party.client.id)
      expect(record).toMatchObject({ event: 'logout_notice.delivered', status: 'pass', user_id: world.userId })
      expect(record?.detail).toEqual({ reason: 'signed_out', every_session: false, tries: 1, status: 200 })
      // As OpenID Connect has it: tokens outlive the logout; their connection is ended elsewhere.
      expect((await refresh(server.origin, party.client, renewed.body.refresh_token)).status).toBe(200)
    },
  )

  it('each client of a session hears its own name of it, once, and another browser’s session is not told of', async () => {
    const world = await makeWorld(server)
    const [one, two] = [await makeParty(), await makeParty()]
    const silent = await makeClient(server)
    const here = await signInTo(one.client, world)
    const alsoHere = await signInTo(two.client, world, here.agent)
    expect((await signInTo(silent, world, here.agent)).sid).toBeUndefined() // it is told nothing, and needs no name
    const elsewhere = await signInTo(one.client, world)
    expect(new Set([here.sid, alsoHere.sid, elsewhere.sid]).size).toBe(3)
    await logOut(here.agent, here.hint)
    expect(await delivered(one, 1)).toMatchObject([{ sid: here.sid }])
    expect(await delivered(two, 1)).toMatchObject([{ sid: alsoHere.sid }])
    expect(await outcomesFor(server.db, silent.id)).toEqual([])
    await logOut(elsewhere.agent, elsewhere.hint)
    expect((await delivered(one, 2)).map(({ sid }) => sid).sort()).toEqual([here.sid, elsewhere.sid].sort())
  })

  it('signing out on our own pages tells as well, and is recorded once', async () => {
    const world = await makeWorld(server)
    const party = await makeParty()
    const session = await signInTo(party.client, world)
    await signOut(session.agent)
    expect(await delivered(party, 1)).toMatchObject([{ sub: session.sub, sid: session.sid }])
    const records = await eventsOf(world, 'session.sign_out')
    expect(records.map(({ status, detail }) => [status, detail])).toEqual([['pass', { reason: 'signed_out', told: 1 }]])
  })

  it('whoever leaves one app and stays signed in here is signed out of that one alone', async () => {
    const world = await makeWorld(server)
    const [left, kept] = [await makeParty(), await makeParty()]
    const session = await signInTo(left.client, world)
    await signInTo(kept.client, world, session.agent)
    await logOut(session.agent, session.hint, {})
    expect(await delivered(left, 1)).toMatchObject([{ sid: session.sid }])
    expect(kept.receiver.arrived).toEqual([])
    const again = await signInTo(left.client, world, session.agent)
    expect(again.sid).not.toBe(session.sid)
  })

  it('when somebody else signs in with the same browser, the first one’s session has ended', async () => {
    const [ada, eve] = [await makeWorld(server), await makeWorld(server)]
    const party = await makeParty()
    const session = await signInTo(party.client, ada)
    const page = await session.agent.open('/sign-in?again=yes')
    await session.agent.submit(page, 'again=yes', { email: eve.email, password: PASSWORD })
    expect(await delivered(party, 1)).toMatchObject([{ sub: ada.userId, sid: session.sid }])
  })

  it('a token is signed as the client’s id_tokens are', async () => {
    const world = await makeWorld(server)
    const party = await makeParty()
    const { metadata } = await server.db
      .selectFrom('clients')
      .select('metadata')
      .where('id', '=', party.client.id)
      .executeTakeFirstOrThrow()
    await server.db
      .updateTable('clients')
      .set({ metadata: JSON.stringify({ ...metadata, id_token_signed_response_alg: 'ES256' }) })
      .where('id', '=', party.client.id)
      .execute()
    const session = await signInTo({ ...party.client }, world)
    await logOut(session.agent, session.hint)
    const [token = ''] = await arrival(party)
    expect(await checkLogoutToken(server.origin, party.client.id, token, 'ES256')).toMatchObject({ sid: session.sid })
  })
})

describe('a logout everywhere', () => {
  const ENDS: Array<[string, (world: World) => Promise<unknown>]> = [
    ['signing out everywhere', ({ userId }) => server.run('user sign-out', { user: userId })],
    ['a new password', ({ userId }) => server.run('user set-password', { user: userId, password: `${PASSWORD}!` })],
    ['a suspension', ({ userId }) => server.run('user suspend', { user: userId })],
  ]
  const REASONS = ['signed_out_everywhere', 'password_set', 'suspended']

  it.each(ENDS.map(([what, end], index) => [what, REASONS[index], end] as const))(
    '%s names the person, and with that all sessions; or each of them, to a client that insists',
    async (_what, reason, end) => {
      const world = await makeWorld(server)
      const [any, each, none] = [
        await makeParty(),
        await makeParty({ backchannel_logout_session_required: true }),
        await makeParty(),
      ]
      const first = await signInTo(any.client, world)
      await signInTo(any.client, world) // a second browser, of which the same notice tells
      const here = await signInTo(each.client, world, first.agent)
      const there = await signInTo(each.client, world)
      const other = await makeWorld(server)
      await signInTo(none.client, other)
      await end(world)
      const [all] = await delivered(any, 1)
      expect([all?.sub, all?.sid]).toEqual([world.userId, undefined])
      const sids = (await delivered(each, 2)).map(({ sub, sid }) => [sub, sid])
      expect(sids.sort()).toEqual([here.sid, there.sid].map((sid) => [world.userId, sid]).sort())
      expect(none.receiver.arrived).toEqual([]) // of somebody else
      const [record] = await outcomesFor(server.db, any.client.id)
      expect(record?.detail).toMatchObject({ reason, every_session: true })
    },
  )

  it('tells a connected client also when no session of ours is left', async () => {
    const world = await makeWorld(server)
    const party = await makeParty({ backchannel_logout_session_required: true })
    const session = await signInTo(party.client, world)
    await logOut(session.agent, session.hint)
    await delivered(party, 1)
    await server.run('user sign-out', { user: world.email })
    const [, second] = await delivered(party, 2)
    expect([second?.sub, second?.sid]).toEqual([world.userId, undefined])
  })

  it('suspending twice tells once, and lifting it tells nothing', async () => {
    const world = await makeWorld(server)
    const party = await makeParty()
    await signInTo(party.client, world)
    for (const command of ['user suspend', 'user suspend', 'user restore'])
      await server.run(command, { user: world.userId })
    await delivered(party, 1)
  })

  it('a client that was withdrawn is not told', async () => {
    const world = await makeWorld(server)
    const party = await makeParty()
    await signInTo(party.client, world)
    await server.run('client delete', { client: party.client.id })
    await server.run('user sign-out', { user: world.userId })
    expect(await waitingFor(server.db, party.client.id)).toEqual([])
    expect(party.receiver.arrived).toEqual([])
  })
})

describe('a receiver', () => {
  it('that was down is told when it is back, each time by a new token', async () => {
    const world = await makeWorld(server)
    const party = await makeParty()
    const session = await signInTo(party.client, world)
    party.receiver.answer = (response) => response.writeHead(503).end('later')
    await logOut(session.agent, session.hint)
    await arrival(party)
    await party.receiver.stop()
    await tried(party, 1)
    await bringForward(server.db, party.client.id)
    await tried(party, 2) // nobody listened
    await party.receiver.resume()
    party.receiver.answer = (response) => response.writeHead(204).end()
    await bringForward(server.db, party.client.id)
    const [first, last] = await arrival(party, 2)
    const tokens = [decodeJwt(first ?? ''), await checkLogoutToken(server.origin, party.client.id, last ?? '')]
    expect(tokens[0]?.jti).not.toBe(tokens[1]?.jti)
    expect(tokens.map(({ sid }) => sid)).toEqual([session.sid, session.sid])
    await expect.poll(() => outcomesFor(server.db, party.client.id)).toHaveLength(1)
    const [record] = await outcomesFor(server.db, party.client.id)
    expect(record).toMatchObject({ event: 'logout_notice.delivered', detail: { tries: 3, status: 204 } })
  })

  it.each<[string, number | 'never', string]>([
    ['refuses', 400, 'status_400'],
    ['fails', 500, 'status_500'],
    ['accepts without doing', 202, 'status_202'],
    ['is somewhere else', 307, 'status_307'],
    ['never answers', 'never', 'timeout'],
  ])(
    'that %s is told eight times in all, and then no more: one record says so',
    async (_what, status, failure) => {
      const world = await makeWorld(server)
      const canary = await startCanary()
      const party = await makeParty()
      party.receiver.answer = (response) => {
        if (status === 'never') return
        response.writeHead(status, { location: `http://127.0.0.1:${canary.port}/` }).end('secret words')
      }
      const session = await signInTo(party.client, world)
      await logOut(session.agent, session.hint)
      await tried(party, 1)
      // Seven tries have passed by, for those whose every one takes five seconds.
      const before = status === 'never' ? MOST_TRIES - 1 : 1
      await server.db
        .updateTable('logout_notices')
        .set({ tries: before })
        .where('client_id', '=', party.client.id)
        .execute()
      for (let tries = before + 1; tries <= MOST_TRIES; tries++) {
        await bringForward(server.db, party.client.id)
        if (tries < MOST_TRIES) await tried(party, tries)
      }
      await expect.poll(() => outcomesFor(server.db, party.client.id), { timeout: 15_000 }).toHaveLength(1)
      const [record] = await outcomesFor(server.db, party.client.id)
      expect(record).toMatchObject({ event: 'logout_notice.given_up', status: 'fail', user_id: world.userId })
      expect(record?.detail).toEqual({ reason: 'signed_out', every_session: false, tries: MOST_TRIES, failure })
      expect(await waitingFor(server.db, party.client.id)).toEqual([])
      expect(canary.connections()).toBe(0)
      expect(server.logLines.join('')).not.toContain('secret words')
      await canary.close()
    },
    60_000,
  )

  it('that hangs holds up neither the person nor anybody else’s notices', async () => {
    const world = await makeWorld(server)
    const [hanging, well] = [await makeParty(), await makeParty()]
    hanging.receiver.answer = () => {}
    const sessions = []
    for (let count = 0; count < 3; count++) {
      const session = await signInTo(hanging.client, world)
      await signInTo(well.client, world, session.agent)
      sessions.push(session)
    }
    for (const { agent, hint } of sessions) {
      const answered = await logOut(agent, hint)
      expect(answered.url.href).toBe(SIGNED_OUT)
    }
    await delivered(well, 3)
    expect(hanging.receiver.arrived.length).toBeLessThan(3) // one after the other, five seconds each
    expect(await outcomesFor(server.db, hanging.client.id)).toEqual([])
  })
})

describe('where a notice may not lead', () => {
  it.each([
    ['http elsewhere', 'http://rp.example.com/out'],
    ['an inner address', 'https://10.0.0.1/out'],
    ['the cloud’s metadata', 'https://169.254.169.254/latest'],
    ['an inner address, mapped', 'https://[::ffff:10.0.0.1]/out'],
    ['a fragment', 'https://rp.example.com/out#here'],
    ['an empty fragment', 'https://rp.example.com/out#'],
    ['a user name', 'https://user@rp.example.com/out'],
    ['another scheme', 'com.example.app:/out'],
    ['no address', '/out'],
    ['a line break', 'https://rp.example.com/\nout'],
    ['far too long', `https://rp.example.com/${'x'.repeat(3_000)}`],
  ])('%s is refused at registration', async (_what, uri) => {
    await expect(makeClient(server, { backchannel_logout_uri: uri })).rejects.toMatchObject({ code: 'invalid_request' })
  })

  it('is of no use to a client that no person signs in to, nor is sid without it', async () => {
    const machine = {
      grant_types: ['client_credentials'],
      redirect_uris: [],
      backchannel_logout_uri: 'https://rp.example.com/',
    }
    await expect(makeClient(server, machine)).rejects.toMatchObject({ code: 'invalid_request' })
    const without = { backchannel_logout_session_required: true }
    await expect(makeClient(server, without)).rejects.toMatchObject({ code: 'invalid_request' })
  })

  it('what was registered is shown', async () => {
    const uri = 'https://rp.example.com/out?of=latchkey'
    const client = await makeClient(server, { backchannel_logout_uri: uri })
    const shown = { backchannel_logout_uri: uri, backchannel_logout_session_required: false }
    expect(await server.run('client show', { client: client.id })).toMatchObject(shown)
    const other = await makeClient(server)
    expect(await server.run('client show', { client: other.id })).toMatchObject({ backchannel_logout_uri: null })
  })

  it('an address that is an inner one by now is not connected to: a canary sees nobody', async () => {
    const strict = await startServer({ environment: { LATCHKEY_OUTBOUND_PRIVATE: 'refuse' } })
    const canary = await startCanary()
    const world = await makeWorld(strict)
    await expect(makeClient(strict, { backchannel_logout_uri: `http://127.0.0.1:${canary.port}/` })).rejects.toThrow()
    const client = await makeClient(strict, { backchannel_logout_uri: `https://localhost:${canary.port}/` })
    await connect(strict, world, { client })
    await strict.run('user sign-out', { user: world.userId })
    await expect.poll(async () => (await waitingFor(strict.db, client.id))[0]?.tries, { timeout: 15_000 }).toBe(1)
    await strict.db
      .updateTable('logout_notices')
      .set({ tries: MOST_TRIES - 1 })
      .execute()
    await bringForward(strict.db)
    await expect.poll(() => outcomesFor(strict.db, client.id), { timeout: 15_000 }).toHaveLength(1)
    const [record] = await outcomesFor(strict.db, client.id)
    expect(record?.detail).toMatchObject({ failure: 'refused' })
    expect(canary.connections()).toBe(0)
    await canary.close()
    await strict.close()
  })
})

describe('between a code and its use', () => {
  it('a logout makes the code useless to a client that is told: it would know the session after its end', async () => {
    const world = await makeWorld(server)
    const { client } = await makeParty()
    const { code, pkce, agent } = await obtainCode(server, world, { client })
    await signOut(agent)
    const answer = await redeem(server.origin, client, code, pkce)
    expect([answer.status, answer.body.error]).toEqual([400, 'invalid_grant'])
  })

  it('signing out everywhere makes every code of the person’s sessions useless', async () => {
    const world = await makeWorld(server)
    const { code, pkce } = await obtainCode(server, world)
    await server.run('user sign-out', { user: world.userId })
    const answer = await redeem(server.origin, world.client, code, pkce)
    expect([answer.status, answer.body.error]).toEqual([400, 'invalid_grant'])
  })

  it.each([
    ['the logout', (_world: World, agent: UserAgent) => signOut(agent), true],
    ['signing out everywhere', ({ userId }: World) => server.run('user sign-out', { user: userId }), false],
  ])(
    'a code that was used before %s, and is replayed after it, still ends what came of it',
    async (_what, end, isParty) => {
      const world = await makeWorld(server)
      const client = isParty ? (await makeParty()).client : world.client
      const { agent, code, pkce, refresh_token } = await connect(server, world, { client })
      await end(world, agent)
      const replayed = await redeem(server.origin, client, code, pkce)
      expect([replayed.status, replayed.body.error]).toEqual([400, 'invalid_grant'])
      expect((await refresh(server.origin, client, refresh_token)).status).toBe(400)
      expect(await eventsOf(world, 'code.reuse_detected')).toHaveLength(1)
    },
  )

  it('a session that was ended meanwhile is told to no client', async () => {
    const world = await makeWorld(server)
    const { client } = await makeParty()
    const session = {
      clientId: client.id,
      sid: 'a-session',
      userId: world.userId as UserId,
      sessionDigest: 'its-digest',
      signedInAt: Math.floor(Date.now() / 1000) - 10,
      ttlSeconds: 60,
    }
    expect(await startClientSession(server.db, session)).toBe(true)
    await server.run('user sign-out', { user: world.userId })
    expect(await startClientSession(server.db, { ...session, sid: 'another' })).toBe(false)
    await server.run('user suspend', { user: world.userId })
    const later = { ...session, sid: 'later', signedInAt: Math.floor(Date.now() / 1000) + 10 }
    expect(await startClientSession(server.db, later)).toBe(false)
  })

  it('requests that race with signing out everywhere leave no client signed in unheard', async () => {
    const party = await makeParty()
    for (let round = 0; round < 5; round++) {
      const world = await makeWorld(server)
      const agent = server.userAgent()
      await signInTo(party.client, world, agent)
      const pkce = makePkce()
      const [page] = await Promise.all([
        walk(agent, world, authorizationUrl(party.client, pkce)),
        server.run('user sign-out', { user: world.userId }),
      ])
      const code = page.url.searchParams.get('code')
      const answer = code === null ? undefined : await redeem(server.origin, party.client, code, pkce)
      const known = await server.db
        .selectFrom('client_sessions')
        .selectAll()
        .where('user_id', '=', world.userId as UserId)
        .execute()
      // Either the request came after it, with a sign-in of its own; or it got nothing that can be used.
      if (answer?.status !== 200) expect(known).toEqual([])
      else expect(known.map(({ sid }) => sid)).toEqual([decodeJwt(String(answer.body.id_token)).sid])
    }
  })
})

describe.skipIf(!hasStores())('several processes', () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster({ environment: { LATCHKEY_OUTBOUND_PRIVATE: 'loopback' } })
  })
  afterAll(() => cluster?.close())

  it('deliver each notice once between them', async () => {
    const { db } = cluster.server.app
    const parties = await Promise.all([makeLocalParty(cluster), makeLocalParty(cluster), makeLocalParty(cluster)])
    const sids = Array.from({ length: 20 }, (_, index) => `session-${index}`)
    for (const { client } of parties) await insertNotices(cluster, client, sids)
    for (const { client, receiver } of parties) {
      await expect.poll(() => outcomesFor(db, client.id), { timeout: 60_000 }).toHaveLength(sids.length)
      const told = receiver.arrived.map(({ token }) => decodeJwt(token).sid)
      expect(told.sort()).toEqual([...sids].sort())
      expect(await waitingFor(db, client.id)).toEqual([])
    }
  }, 90_000)

  it('a try that took longer than its claim records nothing: whoever took the notice over does', async () => {
    const { db } = cluster.server.app
    const { client, receiver } = await makeLocalParty(cluster)
    const slow = Promise.withResolvers<() => void>()
    receiver.answer = (response) => slow.resolve(() => void response.end())
    await insertNotices(cluster, client, ['the-one'])
    const answerFirst = await slow.promise
    receiver.answer = (response) => void response.end()
    await bringForward(db, client.id)
    await expect.poll(() => outcomesFor(db, client.id), { timeout: 30_000 }).toHaveLength(1)
    answerFirst()
    await new Promise((resolve) => setTimeout(resolve, 500))
    expect((await outcomesFor(db, client.id)).map(({ detail }) => detail)).toMatchObject([{ tries: 2 }])
    expect(receiver.arrived).toHaveLength(2)
  }, 60_000)

  it('that is killed while it delivers loses nothing: another one delivers it, and it is recorded once', async () => {
    const { db } = cluster.server.app
    const { client, receiver } = await makeLocalParty(cluster)
    let reached = () => {}
    const hanging = new Promise<void>((resolve) => {
      reached = resolve
    })
    receiver.answer = () => reached() // and says nothing
    await insertNotices(cluster, client, ['the-one'])
    await hanging
    await Promise.all(cluster.processes.map((process) => process.kill()))
    await cluster.start()
    receiver.answer = (response) => void response.end()
    await bringForward(db, client.id) // its claim has run out
    await expect.poll(() => outcomesFor(db, client.id), { timeout: 30_000 }).toHaveLength(1)
    const told = receiver.arrived.map(({ token }) => decodeJwt(token))
    expect(told.map(({ sid }) => sid)).toEqual(['the-one', 'the-one'])
    expect(told[0]?.jti).not.toBe(told[1]?.jti)
    const [record] = await outcomesFor(db, client.id)
    expect(record).toMatchObject({ event: 'logout_notice.delivered', detail: { tries: 2 } })
  }, 90_000)
})

/** As an operator on the cluster's stores registers one; that process may call nothing of this machine itself. */
async function makeLocalParty({ server: operator }: Cluster): Promise<Party> {
  const party = await makeParty({ backchannel_logout_uri: 'https://rp.example.com/' }, operator)
  const { db } = operator.app
  const { metadata } = await db
    .selectFrom('clients')
    .select('metadata')
    .where('id', '=', party.client.id)
    .executeTakeFirstOrThrow()
  await db
    .updateTable('clients')
    .set({ metadata: JSON.stringify({ ...metadata, backchannel_logout_uri: party.receiver.url }) })
    .where('id', '=', party.client.id)
    .execute()
  return party
}

async function insertNotices(
  { server: operator }: Cluster,
  client: TestClient,
  sids: readonly string[],
): Promise<void> {
  const notice = { client_id: client.id, user_id: 'usr_ada' as UserId, reason: 'signed_out', trace_id: 'test' }
  await operator.db
    .insertInto('logout_notices')
    .values(sids.map((sid) => ({ ...notice, sid })))
    .execute()
}

/** Until a notice was tried so often, and waits for the next time. */
async function tried({ client }: Party, tries: number): Promise<void> {
  await expect
    .poll(
      async () => {
        const [notice] = await waitingFor(server.db, client.id)
        const waitsSeconds = ((notice?.next_try_at.getTime() ?? 0) - Date.now()) / 1000
        return notice?.tries === tries && waitsSeconds > 12 // longer than a claim is good for
      },
      { timeout: 15_000 },
    )
    .toBe(true)
}

function eventsOf(world: World, event: string) {
  return server.db
    .selectFrom('audit_events')
    .selectAll()
    .where('event', '=', event)
    .where('user_id', '=', world.userId)
    .execute()
}

async function startCanary() {
  let connections = 0
  const canary = createTcpServer((socket) => {
    connections++
    socket.destroy()
  })
  await new Promise<void>((resolve) => canary.listen(0, '127.0.0.1', resolve))
  const address = canary.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return {
    port: address.port,
    connections: () => connections,
    close: () => new Promise((resolve) => canary.close(resolve)),
  }
}

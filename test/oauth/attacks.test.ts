// Attacks that worked once, each with the guarantee that ends it.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { digestOf, Secret } from '../../src/crypto/secret.ts'
import { findRefreshToken, rotateRefreshToken } from '../../src/families/store.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { formOf } from '../support/user-agent.ts'
import {
  approve,
  authorizationUrl,
  connect,
  makeClient,
  makePkce,
  makeWorld,
  PASSWORD,
  post,
  signIn,
  type World,
} from '../support/world.ts'

describe('attacks that worked once', () => {
  let server: TestServer
  let world: World
  beforeAll(async () => {
    server = await startServer()
    world = await makeWorld(server)
  })
  afterAll(() => server?.close())

  const eventsOf = (event: string) =>
    server.db.selectFrom('audit_events').selectAll().where('event', '=', event).execute()

  it('a sign-in with a password that is replaced before the browser goes on opens no session', async () => {
    const email = 'late@example.com'
    await server.run('user create', { email, name: 'Late', password: PASSWORD })
    const agent = server.userAgent()
    const page = await agent.open(authorizationUrl(world.client, makePkce()))
    const form = formOf(page, '/sign-in')
    const answer = await agent.request(new URL(form.action, page.url), {
      method: 'POST',
      body: new URLSearchParams({ ...form.hidden, email, password: PASSWORD }),
      headers: { origin: server.origin },
    })
    expect(answer.status).toBe(303)

    await server.run('user set-password', { user: email, password: 'a new and better password' })
    const resumed = await agent.open(answer.headers.get('location') ?? '')
    expect(resumed).toMatchObject({ status: 400, html: expect.stringContaining('choose Connect again') })
    expect(resumed.url.searchParams.get('code')).toBeNull()
    const again = await agent.open(authorizationUrl(world.client, makePkce()))
    expect(again.html).toContain('/sign-in"')
  })

  it('“Not you?” after an approval that was not followed leads to a sign-in, and nothing of the first person’s goes out', async () => {
    await server.run('user create', { email: 'bob@example.com', name: 'Bob', password: PASSWORD })
    await server.run('member add', { workspace: world.workspaceId, user: 'bob@example.com', role: 'member' })
    const agent = server.userAgent()
    let page = await signIn(agent, await agent.open(authorizationUrl(world.client, makePkce())), world.email)
    const consent = formOf(page, '/consent')
    const approved = await agent.request(new URL(consent.action, page.url), {
      method: 'POST',
      body: new URLSearchParams({ ...consent.hidden, workspace: world.workspaceId, answer: 'approve' }),
      headers: { origin: server.origin },
    })
    expect(approved.status).toBe(303)

    page = await agent.submit(page, '/switch', {})
    expect(page.html).toContain('/sign-in"')
    page = await signIn(agent, page, 'bob@example.com')
    expect(page.html).toContain('bob@example.com')
    page = await approve(agent, page, world.workspaceId)
    expect(page.url.searchParams.get('code')).not.toBeNull()
  })

  it('a client that is deleted while a refresh runs gets nothing from it', async () => {
    const client = await makeClient(server)
    const { refresh_token: refreshToken } = await connect(server, world, { client })
    const presented = digestOf(refreshToken ?? '')
    const row = await findRefreshToken(server.db, presented)
    if (row === undefined) throw new Error('the refresh token is not there')
    await server.run('client delete', { client: client.id })
    const outcome = await rotateRefreshToken(server.db, {
      facts: row.connection,
      familyId: row.familyId,
      presented,
      successor: { digest: digestOf('next'), keyId: row.keyId, payload: {}, ttlSeconds: 60 },
      audit: { event: 'token.refreshed', status: 'pass', actor: { kind: 'nobody' }, request: { traceId: 't' } },
    })
    expect(outcome).toEqual({ authorised: false, open: false, won: false })
  })

  it('a try with an address that nobody has is recorded like any other, so that the time it takes tells nothing', async () => {
    const agent = server.userAgent()
    await signIn(
      agent,
      await agent.open(authorizationUrl(world.client, makePkce())),
      'nobody@example.com',
      'a wrong password',
    )
    const records = (await eventsOf('session.sign_in')).filter((record) => record.user_id === null)
    expect(records).toMatchObject([{ status: 'fail', actor_kind: 'nobody' }])
  })

  it('guessing passwords leaves few records, whether somebody has the address or not; and of IPv6 a network is one caller', async () => {
    const { signIn: attempt } = await import('../../src/accounts/service.ts')
    const guess = (email: string, turn: number, address: string) =>
      attempt(server.app.accounts, {
        email,
        password: new Secret('a wrong password'),
        request: { traceId: `guess ${email} ${turn}`, address },
      })
    const of = async (email: string) =>
      (await eventsOf('session.sign_in')).filter(({ trace_id }) => trace_id.startsWith(`guess ${email} `)).length
    const counts: number[] = []
    await server.run('user create', { email: 'guessed@example.com', name: 'Guessed', password: PASSWORD })
    for (const email of ['guessed@example.com', 'nobody-at-all@example.com']) {
      for (let turn = 0; turn < 20; turn++) await guess(email, turn, `192.0.2.${100 + turn}`)
      counts.push(await of(email))
    }
    expect(counts).toEqual([7, 7]) // the first five, the eighth and the sixteenth
    const outcomes = []
    for (let turn = 0; turn < 12; turn++) outcomes.push(await guess('six@example.com', turn, `2001:db8:1:2::${turn}`))
    expect(outcomes.at(9)).toEqual({ ok: false, reason: 'wrong' })
    expect(outcomes.at(10)).toMatchObject({ reason: 'too_many' })
  })

  it('guessing passwords is recorded as well where the person signs in again and again meanwhile', async () => {
    const { signIn: attempt } = await import('../../src/accounts/service.ts')
    const email = 'busy@example.com'
    const { id } = await server.run('user create', { email, name: 'Busy', password: PASSWORD })
    const attempts = async (password: string, count: number, network: string) => {
      for (let turn = 0; turn < count; turn++)
        await attempt(server.app.accounts, {
          email,
          password: new Secret(password),
          request: { traceId: `busy ${turn}`, address: `${network}.${turn}` },
        })
    }
    await attempts(PASSWORD, 33, '198.51.100')
    await attempts('a wrong password', 29, '203.0.113')
    const records = (await eventsOf('session.sign_in')).filter((record) => record.user_id === id)
    const failures = records.filter(({ status }) => status === 'fail')
    expect(records).toHaveLength(33 + failures.length)
    expect(failures.map(({ detail }) => detail)).toEqual([1, 2, 3, 4, 5, 8, 16].map((tries) => ({ tries })))
  })

  it('revoking one JWT again and again leaves one record', async () => {
    const { access_token: token } = await connect(server, world)
    for (let count = 0; count < 3; count++) {
      expect((await post(server.origin, '/revoke', world.client, { token: token ?? '' })).status).toBe(200)
    }
    expect(await eventsOf('access_token.revoked')).toHaveLength(1)
  })

  it.each([
    [
      'a private key',
      {
        kty: 'EC',
        crv: 'P-256',
        x: 'f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU',
        y: 'x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0',
        d: 'jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI',
      },
    ],
    ['no key at all', { kty: 'EC', crv: 'P-256', x: '!!', y: '!!' }],
    ['a shared secret', { kty: 'oct', k: 'c2VjcmV0' }],
  ])('%s cannot be registered as a public key', async (_what, key) => {
    await expect(makeClient(server, { auth: 'private_key_jwt', jwks: { keys: [key] } })).rejects.toMatchObject({
      code: 'invalid_request',
    })
  })

  it.each(['%00', 'cl_%00', "'%20or%201=1--", 'a'.repeat(4_000)])(
    'a client id of %s is unknown, and no more',
    async (clientId) => {
      const answers = await Promise.all([
        fetch(`${server.origin}/authorize?client_id=${clientId}&response_type=code`),
        fetch(`${server.origin}/token`, {
          method: 'POST',
          body: new URLSearchParams(`client_id=${clientId}&grant_type=refresh_token&refresh_token=x`),
        }),
        fetch(`${server.origin}/introspect`, {
          method: 'POST',
          body: new URLSearchParams(`client_id=${clientId}&token=x`),
        }),
        fetch(`${server.origin}/logout?client_id=${clientId}`),
      ])
      expect(answers.map((answer) => Math.floor(answer.status / 100))).toEqual([4, 4, 4, 4])
    },
  )
})

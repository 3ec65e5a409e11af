// Two requests, one held between its reading and its writing while the other takes away what it relies on.
import { decodeJwt } from 'jose'
import { sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts'
import { waitUntilBlocked } from '../support/locks.ts'
import {
  type Cluster,
  introspectAt,
  patiently,
  postTo,
  redeemAt,
  refreshAt,
  startCluster,
  type Target,
  type TimedTokenAnswer,
} from '../support/processes.ts'
import { at, connectAt, endGrace, familyOf, raceReuse, raceRevocation } from '../support/races.ts'
import { takeTime } from '../support/times.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { makeClient, makeWorld, obtainCode, PASSWORD, type TestClient, type World } from '../support/world.ts'

takeTime()

const ROTATION = 'update refresh_tokens set consumed_at'
const REDEMPTION = 'insert into consumed_codes'
const REPEAT = 'for update) select exists'
const REFUSED = { status: 400, body: { error: 'invalid_grant' } }

describe.skipIf(!hasStores())('a request held before its write', () => {
  let cluster: Cluster
  let proxy: FaultProxy
  let direct: Target
  let proxied: Target
  let owned: World
  let world: World
  let agent: UserAgent
  let client: TestClient
  beforeAll(async () => {
    cluster = await startCluster({ count: 1 })
    proxy = await startFaultProxy(cluster.databaseUrl, 'postgres')
    direct = at(cluster.processes, 0)
    proxied = await cluster.start({ databaseUrl: proxy.through(cluster.databaseUrl) })
    owned = await makeWorld(cluster.server)
  })
  afterAll(async () => {
    await cluster?.close()
    await proxy?.close()
  })
  beforeEach(async () => {
    const email = `bob-${crypto.randomUUID().slice(0, 8)}@example.com`
    const user = await cluster.server.run('user create', { email, name: 'Bob', password: PASSWORD })
    const workspace = await cluster.server.run('workspace create', {
      organization: owned.organizationId,
      name: 'held',
      owner: owned.email,
    })
    world = { ...owned, email, userId: String(user.id), workspaceId: String(workspace.id) }
    await cluster.server.run('member add', { workspace: workspace.id, user: email, role: 'admin' })
    client = await makeClient(cluster.server)
    agent = cluster.server.userAgent()
  })

  const connected = (more: Record<string, string> = {}) => connectAt(cluster, world, { agent, client, more })
  const refresh = (token: string | undefined) => patiently(() => refreshAt(direct, client, token))

  /** Asks, lets the other thing happen once the statement is there, and only then lets it go on. */
  async function whileHeld(
    on: string,
    ask: (target: Target) => Promise<TimedTokenAnswer>,
    happen: () => Promise<unknown>,
  ): Promise<TimedTokenAnswer> {
    let isHeld = false
    const held = proxy.once({
      on,
      at: 'asked',
      async act() {
        isHeld = true
        await happen()
        return 'pass' as const
      },
    })
    const answer = await patiently(
      () => ask(proxied),
      () => isHeld,
    )
    await held
    return answer
  }

  /** A family of the same connection, whose used token is presented again: the connection's version rises. */
  async function makeReuse(): Promise<() => Promise<void>> {
    const { refresh_token: first } = await connected()
    expect((await refresh(first)).status).toBe(200)
    await endGrace(cluster.server, first)
    return async () => expect(await refresh(first)).toMatchObject(REFUSED)
  }

  it('a code that another request redeems meanwhile ends with it, whatever else ended in between', async () => {
    const reuse = await makeReuse()
    const code = await obtainCode(cluster.server, world, { agent, client })
    let won: TimedTokenAnswer | undefined
    const lost = await whileHeld(
      REDEMPTION,
      (target) => redeemAt(target, client, code),
      async () => {
        won = await patiently(() => redeemAt(direct, client, code))
        await reuse()
      },
    )
    expect(lost).toMatchObject(REFUSED)
    expect(won?.status).toBe(200)
    expect(await refresh(won?.body.refresh_token)).toMatchObject(REFUSED)
    expect(await introspectAt(direct, client, won?.body.access_token)).toEqual({ active: false })
  })

  it('a code nobody else has is not lost when another family ends meanwhile', async () => {
    const reuse = await makeReuse()
    const code = await obtainCode(cluster.server, world, { agent, client })
    const answer = await whileHeld(REDEMPTION, (target) => redeemAt(target, client, code), reuse)
    expect(answer.status).toBe(503)
    expect(answer.headers.get('retry-after')).toBe('1')
    expect(await patiently(() => redeemAt(proxied, client, code))).toMatchObject({ status: 200 })
  })

  it('a refresh is not lost when another family ends meanwhile', async () => {
    const reuse = await makeReuse()
    const { refresh_token } = await connected()
    const answer = await whileHeld(ROTATION, (target) => refreshAt(target, client, refresh_token), reuse)
    expect(answer.status).toBe(503)
    expect(answer.headers.get('retry-after')).toBe('1')
    expect(await patiently(() => refreshAt(proxied, client, refresh_token))).toMatchObject({ status: 200 })
  })

  /** What takes the authority away, as one statement. */
  const LOST: Array<[string, () => [sql: string, id: string]]> = [
    ['the person is suspended', () => ['update users set suspended_at = now() where id = $1', world.userId]],
    ['the person is removed', () => ['delete from workspace_members where user_id = $1', world.userId]],
    [
      'the role is lowered to viewer',
      () => [`update workspace_members set role = 'viewer' where user_id = $1`, world.userId],
    ],
    ['the workspace is archived', () => ['update workspaces set archived_at = now() where id = $1', world.workspaceId]],
    ['the connection is closed', () => ['update connections set closed_at = now() where client_id = $1', client.id]],
  ]

  async function change([text, id]: [sql: string, id: string], meanwhile: () => Promise<unknown> = async () => {}) {
    const session = new pg.Client({ connectionString: cluster.databaseUrl })
    await session.connect()
    try {
      await session.query('begin')
      expect((await session.query(text, [id])).rowCount).toBe(1)
      await meanwhile()
      await session.query('commit')
    } finally {
      await session.end()
    }
  }

  /** Changes, and commits only once the request waits for the change. */
  async function whileChanging(
    to: [sql: string, id: string],
    ask: () => Promise<TimedTokenAnswer>,
  ): Promise<TimedTokenAnswer> {
    let asked: Promise<TimedTokenAnswer> | undefined
    await change(to, async () => {
      asked = ask()
      await waitUntilBlocked(cluster.databaseUrl, 1)
    })
    if (asked === undefined) throw new Error('nothing was asked')
    return asked
  }

  it.each(LOST)('a refresh gives nothing when %s meanwhile', async (_, lose) => {
    const { refresh_token } = await connected()
    const answer = await whileHeld(
      ROTATION,
      (target) => refreshAt(target, client, refresh_token),
      () => change(lose()),
    )
    expect(answer).toMatchObject(REFUSED)
    expect(answer.body).not.toHaveProperty('access_token')
  })

  it.each(LOST)('a repeat of a refresh gives nothing when %s meanwhile', async (_, lose) => {
    const { refresh_token } = await connected()
    expect((await refresh(refresh_token)).status).toBe(200)
    expect(
      await whileHeld(
        REPEAT,
        (target) => refreshAt(target, client, refresh_token),
        () => change(lose()),
      ),
    ).toMatchObject(REFUSED)
  })

  it.each(LOST)('a code gives nothing when %s meanwhile', async (_, lose) => {
    const code = await obtainCode(cluster.server, world, { agent, client })
    expect(
      await whileHeld(
        REDEMPTION,
        (target) => redeemAt(target, client, code),
        () => change(lose()),
      ),
    ).toMatchObject(REFUSED)
  })

  it.each(LOST)('a refresh waits for the change under way by which %s, and gives nothing', async (_, lose) => {
    const { refresh_token } = await connected()
    expect(await whileChanging(lose(), () => refresh(refresh_token))).toMatchObject(REFUSED)
  })

  it.each(LOST)('a code waits for the change under way by which %s, and gives nothing', async (_, lose) => {
    const code = await obtainCode(cluster.server, world, { agent, client })
    const redeem = () => patiently(() => redeemAt(direct, client, code))
    expect(await whileChanging(lose(), redeem)).toMatchObject(REFUSED)
  })

  it('a refresh signs nothing that the new role may not: it is asked again, and narrowed', async () => {
    const { refresh_token } = await connected({ scope: 'openid traces:read traces:admin' })
    const lower = () =>
      sql`update workspace_members set role = 'member' where user_id = ${world.userId}`.execute(cluster.server.db)
    const answer = await whileHeld(ROTATION, (target) => refreshAt(target, client, refresh_token), lower)
    expect(answer.status).toBe(503)
    const repeated = await patiently(() => refreshAt(proxied, client, refresh_token))
    expect(repeated.status).toBe(200)
    expect(decodeJwt(repeated.body.access_token ?? '').scope).toBe('traces:read')
  })

  it.each([
    ['a refresh', ROTATION],
    ['a repeat', REPEAT],
  ])('%s of a family that is revoked meanwhile brings nothing back', async (_, on) => {
    const { refresh_token } = await connected()
    const family = await familyOf(cluster.server, refresh_token)
    if (on === REPEAT) expect((await refresh(refresh_token)).status).toBe(200)
    const answer = await whileHeld(
      on,
      (target) => refreshAt(target, client, refresh_token),
      async () => {
        const revoke = () => postTo(direct, '/revoke', client, { token: refresh_token ?? '' })
        expect((await patiently(revoke)).status).toBe(200)
      },
    )
    expect([400, 503]).toContain(answer.status)
    expect(answer.body).not.toHaveProperty('refresh_token')
    const left = await cluster.server.db
      .selectFrom('refresh_tokens')
      .select('digest')
      .where('family_id', '=', family)
      .execute()
    expect(left).toEqual([])
    expect(await patiently(() => refreshAt(proxied, client, refresh_token))).toMatchObject(REFUSED)
  })

  it('a repeat is refused when its successor is used meanwhile, and nothing ends', async () => {
    const { refresh_token } = await connected()
    const second = await refresh(refresh_token)
    let third: TimedTokenAnswer | undefined
    const use = async () => {
      third = await refresh(second.body.refresh_token)
    }
    const answer = await whileHeld(REPEAT, (target) => refreshAt(target, client, refresh_token), use)
    expect(answer).toMatchObject(REFUSED)
    expect(third?.status).toBe(200)
    expect(await refresh(third?.body.refresh_token)).toMatchObject({ status: 200 })
  })

  it('a repeat held until the window is over gives nothing', async () => {
    const { refresh_token } = await connected()
    expect((await refresh(refresh_token)).status).toBe(200)
    const wait = () => endGrace(cluster.server, refresh_token)
    expect(await whileHeld(REPEAT, (target) => refreshAt(target, client, refresh_token), wait)).toMatchObject(REFUSED)
  })

  it('a first use held while another request makes it is answered with that one successor', async () => {
    const { refresh_token } = await connected()
    let first: TimedTokenAnswer | undefined
    const use = async () => {
      first = await refresh(refresh_token)
    }
    const answer = await whileHeld(ROTATION, (target) => refreshAt(target, client, refresh_token), use)
    expect(answer.status).toBe(200)
    expect(answer.body.refresh_token).toMatch(/^lk_rt_/)
    expect(answer.body.refresh_token).toBe(first?.body.refresh_token)
  })

  it('reuse in the midst of refreshes ends the family: no successor slips in behind', () => raceReuse(cluster, 4))

  it('after a revocation was answered nothing of the family lives, also not what was on its way', () =>
    raceRevocation(cluster, 20))
})

// PostgreSQL killed, cut off, busy or refusing: 503 with Retry-After, never half a change, and never a change twice.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import { crashUnderLoad } from '../support/crash.ts'
import { hasStores } from '../support/databases.ts'
import { type FaultProxy, type Moment, startFaultProxy } from '../support/fault-proxy.ts'
import { inSession, waitUntil, waitUntilBlocked } from '../support/locks.ts'
import {
  type Answer,
  type Cluster,
  failuresOf,
  patiently,
  redeemAt,
  refreshAt,
  send,
  startCluster,
  type Target,
} from '../support/processes.ts'
import { at, connectAt, familyOf } from '../support/races.ts'
import { canThrowAwayPostgres, startThrowawayPostgres, type ThrowawayStore } from '../support/throwaway-stores.ts'
import { most, takeTime } from '../support/times.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { authorizationUrl, makePkce, makeWorld, obtainCode, type World } from '../support/world.ts'

takeTime()

const ROTATION = 'update refresh_tokens set consumed_at'
const REDEMPTION = 'insert into consumed_codes'
const REFUSED = { status: 400, body: { error: 'invalid_grant' } }
const PROMPT_MS = most(2_500)
const RECOVERY_MS = most(5_000)
/** What a statement may take, and a second for the driver to give it up. */
const HANG_MS = most(6_000)

function expectUnavailable(answer: Pick<Answer, 'status' | 'headers' | 'elapsedMs'>, mostMs = PROMPT_MS): void {
  expect(answer.status).toBe(503)
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
  expect(answer.elapsedMs).toBeLessThan(mostMs)
}

describe.skipIf(!hasStores() || !canThrowAwayPostgres())('with a PostgreSQL that is killed', () => {
  let database: ThrowawayStore
  let cluster: Cluster
  let world: World
  beforeAll(async () => {
    database = await startThrowawayPostgres()
    cluster = await startCluster({ databaseUrl: database.url })
    world = await makeWorld(cluster.server)
  })
  afterAll(async () => {
    await cluster?.close()
    await database?.close()
  })

  it('every endpoint that needs it answers 503 with Retry-After at once, and works again within 5 s', async () => {
    const tokens = await connectAt(cluster, world)
    const code = await obtainCode(cluster.server, world, { agent: tokens.agent })
    await database.kill()
    const basic = Buffer.from(`${world.client.id}:${world.client.secret}`).toString('base64')
    for (const process of cluster.processes) {
      for (let count = 0; count < 2; count++) {
        // first on connections that just broke, then without any
        expectUnavailable(await refreshAt(process, world.client, tokens.refresh_token))
        expectUnavailable(await redeemAt(process, world.client, code))
        expectUnavailable(
          await send(process, {
            path: '/introspect',
            method: 'POST',
            headers: { authorization: `Basic ${basic}`, 'content-type': 'application/x-www-form-urlencoded' },
            body: `token=${tokens.refresh_token}`,
          }),
        )
      }
      expectUnavailable(await send(process, { path: '/readyz' }))
      const page = await send(process, {
        path: authorizationUrl(world.client, makePkce(), { client_id: `cl_${'0'.repeat(26)}` }),
      })
      expectUnavailable(page)
      expect(page.headers.get('content-type')).toMatch(/^text\/html/)
      expect((await send(process, { path: '/healthz' })).status).toBe(200)
    }
    await database.start()
    const startedAt = performance.now()
    for (const process of cluster.processes) {
      while ((await send(process, { path: '/readyz' })).status !== 200)
        expect(performance.now() - startedAt).toBeLessThan(RECOVERY_MS)
      expect(await patiently(() => refreshAt(process, world.client, tokens.refresh_token))).toMatchObject({
        status: 200,
      })
    }
    expect(await patiently(() => redeemAt(at(cluster.processes, 1), world.client, code))).toMatchObject({ status: 200 })
  })

  it('killed under load: whatever was acknowledged is there after it starts again, and every client goes on', async () => {
    const { rotations, redemptions } = await crashUnderLoad(
      { cluster, database, world, agent: cluster.server.userAgent() },
      { loadMs: 1_000, rotations: 20, redemptions: 1 },
    )
    expect(rotations).toBeGreaterThan(20)
    expect(redemptions).toBeGreaterThan(1)
  })

  it('no fault of the database was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

describe.skipIf(!hasStores())('with a PostgreSQL that fails a statement', () => {
  let cluster: Cluster
  let proxy: FaultProxy
  let world: World
  let agent: UserAgent
  let direct: Target
  let proxied: Target
  beforeAll(async () => {
    cluster = await startCluster({ count: 1 })
    proxy = await startFaultProxy(cluster.databaseUrl, 'postgres')
    direct = at(cluster.processes, 0)
    proxied = await cluster.start({ databaseUrl: proxy.through(cluster.databaseUrl) })
    world = await makeWorld(cluster.server)
    agent = cluster.server.userAgent()
  })
  afterAll(async () => {
    await cluster?.close()
    await proxy?.close()
  })

  const connected = async () => (await connectAt(cluster, world, { agent })).refresh_token
  const recordsOf = (event: string) =>
    cluster.server.db.selectFrom('audit_events').select('id').where('event', '=', event).execute()
  const unusedOf = async (token: string | undefined) =>
    cluster.server.db
      .selectFrom('refresh_tokens')
      .select('digest')
      .where('family_id', '=', await familyOf(cluster.server, token))
      .where('consumed_at', 'is', null)
      .execute()

  /** Cuts the connection at this statement; a server that is busy before it is asked again. */
  async function whenCut<T extends { status: number }>(on: string, at: Moment, ask: () => Promise<T>): Promise<T> {
    let isCut = false
    const cut = proxy.once({
      on,
      at,
      act() {
        isCut = true
        return 'cut'
      },
    })
    const answer = await patiently(ask, () => isCut)
    await cut
    return answer
  }

  it('cut after a rotation was committed: 503, and the repeat finds it: one successor, one record', async () => {
    const presented = await connected()
    const before = await recordsOf('token.refreshed')
    expectUnavailable(await whenCut(ROTATION, 'done', () => refreshAt(proxied, world.client, presented)))
    const [successor] = await unusedOf(presented)
    const repeated = await patiently(() => refreshAt(direct, world.client, presented))
    expect(repeated.status).toBe(200)
    expect(digestOf(repeated.body.refresh_token ?? '')).toBe(successor?.digest)
    expect(await recordsOf('token.refreshed')).toHaveLength(before.length + 1)
  })

  it('cut before a rotation arrives: 503, and the token is as good as before', async () => {
    const presented = await connected()
    expectUnavailable(await whenCut(ROTATION, 'asked', () => refreshAt(proxied, world.client, presented)))
    expect(await unusedOf(presented)).toEqual([{ digest: digestOf(presented ?? '') }])
    expect(await patiently(() => refreshAt(proxied, world.client, presented))).toMatchObject({ status: 200 })
  })

  it('cut after a code was redeemed: 503; the code is used up and leaves nothing alive; one redirect helps', async () => {
    const code = await obtainCode(cluster.server, world, { agent })
    expectUnavailable(await whenCut(REDEMPTION, 'done', () => redeemAt(proxied, world.client, code)))
    expect(await patiently(() => redeemAt(direct, world.client, code))).toMatchObject(REFUSED)
    const consumed = await cluster.server.db
      .selectFrom('consumed_codes')
      .innerJoin('families', 'families.id', 'consumed_codes.family_id')
      .select('families.end_reason')
      .where('consumed_codes.digest', '=', digestOf(code.code))
      .executeTakeFirst()
    expect(consumed).toEqual({ end_reason: 'code_replayed' })
    expect(await connected()).toMatch(/^lk_rt_/)
  })

  it.each(['40001', '40P01'])('a rotation refused twice with %s is tried again, and made once', async (refuse) => {
    const presented = await connected()
    const before = await recordsOf('token.refreshed')
    let refusals = 0
    const rule = proxy.rule({
      on: ROTATION,
      at: 'asked',
      act: () => (++refusals <= 2 ? { refuse } : 'pass'),
    })
    const answer = await patiently(() => refreshAt(proxied, world.client, presented))
    rule.remove()
    expect(answer.status).toBe(200)
    expect(refusals).toBe(3)
    expect(await unusedOf(presented)).toEqual([{ digest: digestOf(answer.body.refresh_token ?? '') }])
    expect(await recordsOf('token.refreshed')).toHaveLength(before.length + 1)
  })

  it('refused each time: 503 after three tries, and nothing was done', async () => {
    const presented = await connected()
    let refusals = 0
    const rule = proxy.rule({
      on: ROTATION,
      at: 'asked',
      act() {
        refusals++
        return { refuse: '40001' }
      },
    })
    expectUnavailable(await refreshAt(proxied, world.client, presented))
    rule.remove()
    expect(refusals).toBe(3)
    expect(await unusedOf(presented)).toEqual([{ digest: digestOf(presented ?? '') }])
  })

  it('a transaction refused in its middle is made whole, once: the family ends, with one record', async () => {
    const code = await obtainCode(cluster.server, world, { agent })
    const first = await patiently(() => redeemAt(direct, world.client, code))
    expect(first.status).toBe(200)
    const before = await recordsOf('code.reuse_detected')
    const refused = proxy.once({
      on: 'insert into revocation_entries',
      at: 'asked',
      act: () => ({ refuse: '40P01' }),
    })
    expect(await patiently(() => redeemAt(proxied, world.client, code))).toMatchObject(REFUSED)
    await refused
    expect(await patiently(() => refreshAt(direct, world.client, first.body.refresh_token))).toMatchObject(REFUSED)
    expect(await recordsOf('code.reuse_detected')).toHaveLength(before.length + 1)
  })

  it('a real deadlock costs a moment, and no token', async () => {
    const presented = await connected()
    await inSession(cluster.databaseUrl, async (session) => {
      await session.query('begin')
      await session.query(`select from refresh_tokens where digest = $1 for update`, [digestOf(presented ?? '')])
      const asked = patiently(() => refreshAt(direct, world.client, presented))
      await waitUntilBlocked(cluster.databaseUrl, 1)
      // The rotation holds the connection's row and waits for the token's: asking for the first closes the circle.
      await session.query(
        `select from connections where id = (select f.connection_id from refresh_tokens t join families f on f.id = t.family_id
         where t.digest = $1) for update`,
        [digestOf(presented ?? '')],
      )
      await session.query('rollback')
      expect(await asked).toMatchObject({ status: 200 })
    })
    await waitUntil(
      cluster.databaseUrl,
      `select deadlocks > 0 as so from pg_stat_database where datname = current_database()`,
    )
  })

  it('a locked table: who needs it hears 503 with Retry-After, all others are served, and it ends with the lock', async () => {
    const presented = await connected()
    await inSession(cluster.databaseUrl, async (session) => {
      await session.query('begin')
      await session.query('lock table refresh_tokens in access exclusive mode')
      const blocked = Array.from({ length: 8 }, () => refreshAt(direct, world.client, presented))
      await waitUntilBlocked(cluster.databaseUrl, 1) // reads that meet wait in one statement
      for (let count = 0; count < 5; count++) {
        const other = await send(direct, { path: authorizationUrl(world.client, makePkce()) })
        expect(other.status).toBe(303)
        expect(other.elapsedMs).toBeLessThan(most(1_000))
      }
      for (const answer of await Promise.all(blocked)) expectUnavailable(answer, HANG_MS)

      const crowd = Array.from({ length: 40 }, () => refreshAt(direct, world.client, presented)) // four times the pool
      const others = Array.from({ length: 10 }, () => send(direct, { path: '/jwks' }))
      for (const answer of await Promise.all(others)) expect(answer.status).toBe(200)
      for (const answer of await Promise.all(crowd)) expectUnavailable(answer, HANG_MS)
      await session.query('rollback')
    })
    const answers = await Promise.all(
      Array.from({ length: 10 }, () => patiently(() => refreshAt(direct, world.client, presented))),
    )
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    expect(Math.max(...answers.map(({ elapsedMs }) => elapsedMs))).toBeLessThan(PROMPT_MS)
  })
})

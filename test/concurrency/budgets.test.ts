// A hard cap on two processes: however many ask at once, what is admitted never passes it; whether Redis is there, was
// flushed, or is away; and what was answered is in the sums, once, also when a process is killed.
import { Redis } from 'ioredis'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openPostgres } from '../../src/store/database.ts'
import { expireDueHolds } from '../../src/usage/service.ts'
import { AT_ONCE } from '../../src/usage/turns.ts'
import { hasStores } from '../support/databases.ts'
import { inSession, waitUntilBlocked } from '../support/locks.ts'
import { type Answer, type Cluster, failuresOf, patiently, startCluster } from '../support/processes.ts'
import { at } from '../support/races.ts'
import { canThrowAwayRedis, startThrowawayRedis, type ThrowawayRedis } from '../support/throwaway-stores.ts'
import { takeTime } from '../support/times.ts'
import { call, makeTokenWorld, makeWorkspace, type TokenWorld } from '../support/token-races.ts'

takeTime()

const ASKING = 500
const CAP = 100

describe.skipIf(!hasStores() || !canThrowAwayRedis())('a hard cap on two processes', () => {
  let redis: ThrowawayRedis
  let cluster: Cluster
  let world: TokenWorld
  beforeAll(async () => {
    redis = await startThrowawayRedis()
    cluster = await startCluster({ redisUrl: redis.url })
    world = await makeTokenWorld(cluster.server, at(cluster.processes, 0))
  })
  afterAll(async () => {
    await cluster?.close()
    await redis?.close()
  })

  interface Place {
    workspaceId: string
    token: string
  }

  async function makePlace(): Promise<Place> {
    const workspaceId = await makeWorkspace(world)
    const { value } = await world.create({ permissions: ['ingest', 'read', 'manage'] }, { workspaceId })
    const cap = { cap: `${CAP}.00`, mode: 'hard' }
    const set = await call(world.target, 'PUT', `/api/v1/workspaces/${workspaceId}/budget`, value, cap)
    expect(set.status, set.text).toBe(200)
    return { workspaceId, token: value }
  }

  let asked = 0
  /** Tried again under its key where it was not answered, or not for sure. */
  function ask(place: Place, path: string, body: unknown): Promise<Answer> {
    const headers = { 'idempotency-key': `ask-${++asked}`, 'x-trace-id': `ask-${asked}` }
    const target = at(cluster.processes, asked % cluster.processes.length)
    return patiently(() => call(target, 'POST', `/api/v1${path}`, place.token, body, headers))
  }

  async function raceForTheCap(place: Place): Promise<void> {
    const answers = await Promise.all(
      Array.from({ length: ASKING }, () => ask(place, '/reservations', { amount: '1.00' })),
    )
    const counts = Map.groupBy(answers, ({ status }) => status)
    expect(counts.get(201)?.length).toBe(CAP)
    expect(counts.get(402)?.length).toBe(ASKING - CAP)
    const { rows } = await sql<{ held: string; refused: string }>`
      select held_micros::text as held,
        (select sum(count) from violations where workspace_id = ${place.workspaceId} and kind = 'refused')::text as refused
      from spend where workspace_id = ${place.workspaceId}`.execute(cluster.server.db)
    expect(rows).toMatchObject([{ held: `${CAP}000000` }])
    expect(Number(rows[0]?.refused)).toBeGreaterThanOrEqual(ASKING - CAP) // more where a refusal was asked for again
  }

  it('of 500 reservations of 1 at once exactly 100 are admitted', async () => raceForTheCap(await makePlace()))

  it('also while Redis is flushed again and again', async () => {
    const place = await makePlace()
    const flusher = new Redis(redis.url)
    let flushing = true
    const flushed = (async () => {
      while (flushing) await flusher.flushall()
    })()
    try {
      await raceForTheCap(place)
    } finally {
      flushing = false
      await flushed
      flusher.disconnect()
    }
  })

  it('settled and released at once with it, the sums are exact and the cap holds', async () => {
    const place = await makePlace()
    const results = await Promise.all(
      Array.from({ length: 150 }, async (_, index) => {
        const held = await ask(place, '/reservations', { amount: '2.00' })
        if (held.status === 402) return 0
        const { id } = JSON.parse(held.text) as { id: string }
        if (index % 3 === 0) {
          expect((await ask(place, `/reservations/${id}/release`, {})).status).toBe(200)
          return 0
        }
        const settled = await ask(place, `/reservations/${id}/settle`, { cost: '1.25' })
        expect(settled.status, settled.text).toBe(200)
        return 1
      }),
    )
    const settled = results.reduce<number>((sum, one) => sum + one, 0)
    const { rows } = await sql<{ spent: string; held: string }>`
      select settled_micros::text as spent, held_micros::text as held from spend where workspace_id = ${place.workspaceId}`.execute(
      cluster.server.db,
    )
    expect(rows).toEqual([{ spent: String(settled * 1_250_000), held: '0' }])
    expect(settled * 1.25).toBeLessThanOrEqual(CAP)
  })

  it('one event sent by twenty at once is counted once, and in its own workspace', async () => {
    const [place, other] = [await makePlace(), await makePlace()]
    const body = {
      events: [
        { id: 'once', cost: '3.00' },
        { id: 'twice', cost: '0.50' },
      ],
    }
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(place, '/events', body)))
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    const recorded = answers.map(({ text }) => (JSON.parse(text) as { recorded: number }).recorded)
    expect(recorded.reduce((sum, one) => sum + one, 0)).toBe(2)
    expect(JSON.parse((await ask(other, '/events', body)).text)).toMatchObject({ recorded: 2, repeated: 0 })
    const { rows } = await sql<{ spent: string }>`
      select settled_micros::text as spent from spend
      where workspace_id in (${place.workspaceId}, ${other.workspaceId})`.execute(cluster.server.db)
    expect(rows).toEqual([{ spent: '3500000' }, { spent: '3500000' }])
  })

  it('a process that is killed loses and doubles nothing that was answered', async () => {
    const place = await makePlace()
    const answered: string[] = []
    const victim = await cluster.start()
    const targets = [victim, at(cluster.processes, 0)]
    const writing = Array.from({ length: 60 }, async (_, index) => {
      const body = { events: [{ id: `event-${index}`, cost: '0.01' }] }
      const headers = { 'x-trace-id': `event-${index}` }
      for (let tries = 0; tries < 100; tries++) {
        const target = at(targets, (index + tries) % 2)
        const answer = await call(target, 'POST', '/api/v1/events', place.token, body, headers).catch(() => undefined)
        if (answer?.status === 200) return void answered.push(`event-${index}`)
        await new Promise((resolve) => setTimeout(resolve, 20))
      }
    })
    await Promise.race(writing)
    await victim.kill()
    await Promise.all(writing)
    const { rows } = await sql<{ spent: string; count: string; events: string }>`
      select settled_micros::text as spent, event_count::text as count,
        (select count(*) from usage_events where workspace_id = ${place.workspaceId})::text as events
      from spend where workspace_id = ${place.workspaceId}`.execute(cluster.server.db)
    expect(answered).toHaveLength(60)
    expect(rows).toEqual([{ spent: '600000', count: '60', events: '60' }])
  })

  /** Holds the sums of the current month of a workspace, whether they are there yet or not, until the work has gone as far as it can. */
  function whileHeld(workspaceId: string, work: () => Promise<void>): Promise<void> {
    return inSession(cluster.databaseUrl, async (session) => {
      const month = `date_trunc('month', now() at time zone 'utc')::date`
      await session.query('begin')
      await session.query(
        `insert into spend (organization_id, workspace_id, month)
          select organization_id, id, ${month} from workspaces where id = $1 on conflict do nothing`,
        [workspaceId],
      )
      await session.query(`select from spend where workspace_id = $1 and month = ${month} for update`, [workspaceId])
      await work()
      await session.query('rollback')
    })
  }

  describe.each(['with sums already', 'without any sums'])('a cap that is set %s', (sums) => {
    async function makeUncapped(): Promise<Place> {
      const place = await makePlace()
      const removed = await call(world.target, 'DELETE', `/api/v1/workspaces/${place.workspaceId}/budget`, place.token)
      expect(removed.status).toBe(204)
      if (sums === 'with sums already') {
        const spent = await ask(place, '/events', { events: [{ id: 'first', cost: '1.00' }] })
        expect(spent.status, spent.text).toBe(200)
      }
      return place
    }
    const setCap = ({ workspaceId, token }: Place) =>
      patiently(() =>
        call(world.target, 'PUT', `/api/v1/workspaces/${workspaceId}/budget`, token, { cap: '10.00', mode: 'hard' }),
      )

    it('is not answered before the admissions that were asked for without it', async () => {
      const place = await makeUncapped()
      const answered: string[] = []
      const asked: Array<Promise<unknown>> = []
      await whileHeld(place.workspaceId, async () => {
        asked.push(
          ask(place, '/reservations', { amount: '100.00' }).then(({ status }) => answered.push(`held ${status}`)),
        )
        await waitUntilBlocked(cluster.databaseUrl, 1)
        asked.push(setCap(place).then(({ status }) => answered.push(`set ${status}`)))
        await Promise.race([waitUntilBlocked(cluster.databaseUrl, 2), asked[1]])
        expect(answered).toEqual([])
      })
      await Promise.all(asked)
      // Whoever came first: what was admitted without the cap is not said to be left of it.
      const { rows } = await sql<{ held: string }>`
        select held_micros::text as held from spend where workspace_id = ${place.workspaceId}`.execute(
        cluster.server.db,
      )
      if (answered.includes('held 201')) expect(rows).toEqual([{ held: '100000000' }])
      else expect(answered).toEqual(['set 200', 'held 402'])
    })

    it('is what decides about those that wait while it is set', async () => {
      const place = await makeUncapped()
      const asked: Array<Promise<Answer>> = []
      await whileHeld(place.workspaceId, async () => {
        asked.push(setCap(place))
        await waitUntilBlocked(cluster.databaseUrl, 1)
        asked.push(ask(place, '/reservations', { amount: '100.00' }))
        await waitUntilBlocked(cluster.databaseUrl, 2)
      })
      const [set, held] = await Promise.all(asked)
      expect(set?.status, set?.text).toBe(200)
      const left = (JSON.parse(set?.text ?? '') as { left: string }).left
      // Where nothing queues for a row that is not there yet, either may be first: never both without knowing of the other.
      if (sums === 'with sums already') expect([held?.status, left]).toEqual([402, '9.00'])
      else expect([`402 10.00`, `201 -90.00`]).toContain(`${held?.status} ${left}`)
    })
  })

  it('holds of a workspace that is too busy keep no other ones from ending', async () => {
    const [busy, other] = [await makePlace(), await makePlace()]
    for (const place of [busy, other]) expect((await ask(place, '/reservations', { amount: '1.00' })).status).toBe(201)
    await sql`update reservations set expires_at = clock_timestamp() - interval '1 second'
      where workspace_id in (${busy.workspaceId}, ${other.workspaceId})`.execute(cluster.server.db)
    // The first of them by the order in which they are looked for.
    await sql`update reservations set expires_at = expires_at - interval '1 hour'
      where workspace_id = ${busy.workspaceId}`.execute(cluster.server.db)
    const impatient = new URL(cluster.databaseUrl)
    impatient.searchParams.delete('options') // tests' own, in the place of the limits that a server has
    const opened = openPostgres(impatient.href, 1, () => {})
    await whileHeld(busy.workspaceId, async () => {
      await expect(expireDueHolds(opened.db)).rejects.toMatchObject({ code: 'unavailable' })
      expect([await statesIn(busy), await statesIn(other)]).toEqual([['held'], ['expired']])
    }).finally(() => opened.close())
    await expireDueHolds(cluster.server.db)
    expect(await statesIn(busy)).toEqual(['expired'])
  })

  async function statesIn({ workspaceId }: Place): Promise<string[]> {
    const { rows } = await sql<{ state: string }>`
      select state from reservations where workspace_id = ${workspaceId}`.execute(cluster.server.db)
    return rows.map(({ state }) => state)
  }

  it('a burst in one workspace keeps no other one from being admitted', async () => {
    const [busy, other] = [await makePlace(), await makePlace()]
    const target = at(cluster.processes, 0)
    const reserve = (place: Place) =>
      call(target, 'POST', '/api/v1/reservations', place.token, { amount: '0.10' }, { 'x-trace-id': 'burst' })
    const burst: Array<Promise<Answer>> = []
    let isHeld = true
    await whileHeld(busy.workspaceId, async () => {
      for (let count = 0; count < 150; count++) burst.push(reserve(busy))
      await waitUntilBlocked(cluster.databaseUrl, 1)
      for (let count = 0; count < 5; count++) {
        const { status, text } = await reserve(other)
        expect([isHeld, status], text).toEqual([true, 201])
      }
      expect(await countBlocked()).toBeLessThanOrEqual(AT_ONCE)
      isHeld = false
    })
    const statuses = new Set((await Promise.all(burst)).map(({ status }) => status))
    expect([...statuses].filter((status) => ![201, 503].includes(status))).toEqual([])
    expect(statuses).toContain(201)
  })

  async function countBlocked(): Promise<number> {
    const { rows } = await sql<{ count: number }>`
      select count(*)::int as count from pg_stat_activity
      where datname = current_database() and wait_event_type = 'Lock'`.execute(cluster.server.db)
    return rows[0]?.count ?? 0
  }

  it('and while Redis is away', async () => {
    const place = await makePlace()
    await redis.kill()
    await raceForTheCap(place)
  })

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect((await failuresOf(cluster)).filter((line) => !line.includes('redis'))).toEqual([])
  })
})

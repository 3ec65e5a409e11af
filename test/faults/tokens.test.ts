// Tokens where a process is stopped, killed, or cut off from a store: who cannot know says no or 503, and never yes.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts'
import { type KillScene, startKillScene } from '../support/kills.ts'
import { attempt, type Cluster, failuresOf, patiently, type ServerProcess, startCluster } from '../support/processes.ts'
import { at } from '../support/races.ts'
import { most, takeTime } from '../support/times.ts'
import {
  CHANGES,
  call,
  expectDeadSince,
  hammer,
  makeTokenWorld,
  outcomes,
  pause,
  pidOf,
  prepareFor,
  repeatChange,
  revokeBy,
  rotateAt,
  startDeafProxy,
  type TokenWorld,
  toMade,
  untilReady,
  waysOf,
} from '../support/token-races.ts'

takeTime()

const LONGEST_MS = most(1_200)
/** The same with what the requests and the looks in between take. */
const WAITED_MS = most(1_700)
/** Nobody was waited for. */
const PROMPT_MS = most(600)

describe.skipIf(!hasStores())('tokens, while one of two processes', () => {
  let cluster: Cluster
  let world: TokenWorld
  let postgres: FaultProxy
  let redis: FaultProxy
  let whole: ServerProcess
  let harmed: ServerProcess
  let both: ServerProcess[]
  beforeAll(async () => {
    cluster = await startCluster({ count: 1 })
    whole = at(cluster.processes, 0)
    postgres = await startFaultProxy(cluster.databaseUrl, 'postgres')
    redis = await startFaultProxy(cluster.redisUrl, 'plain')
    harmed = await cluster.start({
      databaseUrl: postgres.through(cluster.databaseUrl),
      redisUrl: redis.through(cluster.redisUrl),
    })
    both = [whole, harmed]
    cluster.processes.push(harmed)
    world = await makeTokenWorld(cluster.server, whole)
  })
  afterAll(async () => {
    await cluster?.close()
    await postgres?.close()
    await redis?.close()
  })

  const warmed = async () => {
    const prepared = await prepareFor('line', world, whole)
    expect(await outcomes(both, prepared.ways)).toEqual(['accepted'])
    return prepared
  }
  /** How many processes a revocation waits for. */
  const leases = async () => (await cluster.server.db.selectFrom('leases').select('process_id').execute()).length
  /** All that passes through a proxy. */
  const everything = (proxy: FaultProxy, act: () => 'cut' | Promise<'cut'>) => {
    const rule = proxy.rule({ on: '', at: 'asked', act })
    return {
      remove() {
        rule.remove()
        proxy.cutAll()
      },
    }
  }

  it('is cut off from Redis: revocations are as quick, and hold on it', async () => {
    const { token, ways } = await warmed()
    const fault = everything(redis, () => 'cut')
    redis.cutAll()
    const hammering = hammer(both, ways)
    await hammering.oneMore()
    const answer = await revokeBy('line', world, whole, token)
    const since = performance.now()
    expect(answer.status).toBe(204)
    await hammering.oneMore()
    await hammering.stop()
    fault.remove()
    expectDeadSince(hammering.records, since)
    await untilReady(harmed)
  })

  it('hangs on Redis: the same', async () => {
    const { token, ways } = await warmed()
    const released = Promise.withResolvers<'cut'>()
    const fault = everything(redis, () => released.promise)
    const answer = await revokeBy('line', world, whole, token)
    expect(answer.status).toBe(204)
    expect(answer.elapsedMs).toBeLessThan(LONGEST_MS)
    expect(await outcomes(both, ways)).toEqual(['refused'])
    released.resolve('cut')
    fault.remove()
    await untilReady(harmed)
  })

  it.each([
    ['is cut off from PostgreSQL', false],
    ['hangs on PostgreSQL', true],
  ])('%s: it answers 503 once it cannot know, and never yes', async (_name, hangs) => {
    const { token, ways } = await warmed()
    const before = await leases()
    const released = Promise.withResolvers<'cut'>()
    const hammering = hammer([harmed], ways)
    const fault = everything(postgres, () => (hangs ? released.promise : 'cut'))
    if (!hangs) postgres.cutAll()
    const answer = await revokeBy('line', world, whole, token)
    const since = performance.now()
    expect(answer.status).toBe(204)
    expect(answer.elapsedMs).toBeLessThan(WAITED_MS)
    const revokeAnother = async () => revokeBy('line', world, whole, await world.create({}, { target: whole }))
    // A renewal may have been under way when it lost its connection: then the next revocation drops its lease.
    if ((await leases()) !== before - 1) await revokeAnother()
    expect(await leases()).toBe(before - 1)
    const next = await revokeAnother()
    expect(next.elapsedMs).toBeLessThan(PROMPT_MS)
    if (!hangs) await hammering.oneMore()
    released.resolve('cut')
    fault.remove()
    await untilReady(harmed)
    await hammering.oneMore()
    await hammering.stop()
    expectDeadSince(hammering.records, since, true)
    expect(await outcomes(both, ways)).toEqual(['refused'])
  })

  it('cannot say how far it is because the database hangs: the revocation is answered after 1.2 s all the same', async () => {
    const { token } = await warmed()
    const released = Promise.withResolvers<'cut'>()
    const rule = postgres.rule({ on: 'from "leases"', at: 'asked', act: () => released.promise })
    const answer = await revokeBy('line', world, harmed, token)
    rule.remove()
    released.resolve('cut')
    expect(answer.status).toBe(204)
    expect(answer.elapsedMs).toBeLessThan(WAITED_MS)
    await untilReady(harmed)
  })

  it('cut after COMMIT was sent: 503, and the repeat finds what was made', async () => {
    for (const change of Object.values(CHANGES)) {
      const token = await change.prepare(world)
      const key = randomBytes(8).toString('hex')
      let isCut = false
      const cut = postgres.once({
        on: 'commit',
        within: change.statement,
        at: 'done',
        act() {
          isCut = true
          return 'cut'
        },
      })
      const answer = await patiently(
        () => change.ask(world, harmed, token, key),
        () => isCut,
      )
      await cut
      expect(answer.status).toBe(503)
      expect(answer.headers.has('retry-after')).toBe(true)
      await repeatChange(cluster, world, change, { token, key, answer })
    }
    await untilReady(harmed)
  })

  describe('hears of nothing', () => {
    let deaf: ServerProcess
    let proxy: Awaited<ReturnType<typeof startDeafProxy>>
    beforeAll(async () => {
      proxy = await startDeafProxy(cluster.databaseUrl)
      deaf = await cluster.start({ databaseUrl: proxy.url })
      await untilReady(deaf)
    })
    afterAll(async () => {
      await deaf?.stop()
      await proxy?.close()
    })

    it('looking every 300 ms is enough', async () => {
      for (let round = 0; round < 5; round++) {
        const { token, ways } = await prepareFor('line', world, deaf)
        expect(await outcomes([deaf], ways)).toEqual(['accepted'])
        const hammering = hammer([deaf], ways)
        await hammering.oneMore()
        const answer = await revokeBy('line', world, whole, token)
        const since = performance.now()
        expect(answer.status).toBe(204)
        expect(answer.elapsedMs).toBeLessThan(LONGEST_MS)
        await hammering.oneMore()
        await hammering.stop()
        expectDeadSince(hammering.records, since)
      }
    })

    it('a first use is answered once the older value is dead there too, to whoever comes first or second', async () => {
      for (let round = 0; round < 3; round++) {
        const token = await world.create()
        const { value } = toMade(await rotateAt(whole, world, token.id, { cutover: 'on_first_use' }))
        const older = hammer([deaf], waysOf(world, { value: token.value }))
        await older.oneMore()
        let since = Number.POSITIVE_INFINITY
        const used = await Promise.all(
          Object.values(waysOf(world, { value })).flatMap((way) =>
            [whole, harmed, whole].map(async (target, place) => {
              await pause(place * 5)
              const outcome = await way(target)
              since = Math.min(since, performance.now())
              return outcome
            }),
          ),
        )
        await older.oneMore()
        await older.stop()
        expect([...new Set(used)]).toEqual(['accepted'])
        expectDeadSince(older.records, since)
      }
    })

    it('and is stopped in its tracks: the answer comes after 1.2 s at most; when it goes on it says no at once', async () => {
      const pid = pidOf(deaf)
      for (const stoppedMs of [20, 200]) {
        const { token, ways } = await prepareFor('line', world, whole)
        expect(await outcomes([deaf], ways)).toEqual(['accepted'])
        process.kill(pid, 'SIGSTOP')
        try {
          const answer = await revokeBy('line', world, whole, token)
          expect(answer.status).toBe(204)
          expect(answer.elapsedMs).toBeGreaterThan(1_000) // or it was not waited for
          expect(answer.elapsedMs).toBeLessThan(WAITED_MS)
          const asked = outcomes([deaf], ways) // they wait for it when it goes on
          await pause(stoppedMs)
          process.kill(pid, 'SIGCONT')
          expect(await asked).toEqual(['refused'])
        } finally {
          process.kill(pid, 'SIGCONT')
        }
        expect(await outcomes([...both, deaf], ways)).toEqual(['refused'])
        await untilReady(deaf)
      }
    })
  })

  it('is killed: the first revocation waits 1.2 s at most, the next does not; one that starts meanwhile misses none', async () => {
    const dying = await cluster.start()
    await untilReady(dying)
    const tokens = await Promise.all(Array.from({ length: 12 }, () => prepareFor('line', world, whole)))
    await dying.kill()
    await pause(100) // what it asked the database last is done by then
    const [first, ...others] = tokens
    if (first === undefined) throw new Error('there are twelve')
    const waited = await revokeBy('line', world, whole, first.token)
    expect(waited.elapsedMs).toBeLessThan(WAITED_MS)
    const starting = cluster.start()
    let started: ServerProcess | undefined
    void starting.then((process) => {
      started = process
    })
    const ended: typeof others = []
    for (const prepared of others) {
      const answer = await revokeBy('line', world, whole, prepared.token)
      expect(answer.status).toBe(204)
      expect(answer.elapsedMs).toBeLessThan(PROMPT_MS)
      ended.push(prepared)
      if (started !== undefined)
        for (const { ways } of ended) expect(await outcomes([started], ways)).toEqual(['refused'])
      await pause(started === undefined ? 100 : 0)
    }
    const young = await starting
    for (const { ways } of tokens) expect(await outcomes([young], ways)).toEqual(['refused'])
    await young.stop()
  })

  it('no fault was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

describe.skipIf(!hasStores())('a process killed in the midst of a change of a token', () => {
  let scene: KillScene
  let world: TokenWorld
  beforeAll(async () => {
    scene = await startKillScene()
    world = await makeTokenWorld(scene.cluster.server, scene.survivor)
  })
  afterAll(() => scene?.close())

  it.each(
    Object.values(CHANGES).flatMap((change) =>
      (['before', 'after'] as const).map((moment) => [change.name, moment, change] as const),
    ),
  )('%s, %s its commit: the repeat makes it, or finds it, once', async (_name, moment, change) => {
    const token = await change.prepare(world)
    const key = randomBytes(8).toString('hex')
    const victim = await scene.nextVictim()
    let isStruck = false
    const struck = victim.proxies.postgres.once({
      on: 'commit',
      within: change.statement,
      at: moment === 'before' ? 'asked' : 'done',
      async act(): Promise<'cut'> {
        isStruck = true
        await victim.kill()
        return 'cut'
      },
    })
    const answer = await patiently(
      () => attempt(change.ask(world, victim.target, token, key)),
      () => isStruck,
    )
    await struck
    expect(answer).toBeUndefined()
    await repeatChange(scene.cluster, world, change, { token, key, answer })
  })

  it('once it was answered: what was acknowledged holds', async () => {
    for (const change of Object.values(CHANGES)) {
      const token = await change.prepare(world)
      const key = randomBytes(8).toString('hex')
      const victim = await scene.nextVictim()
      const answer = await patiently(() => change.ask(world, victim.target, token, key))
      await victim.kill()
      expect(answer.status).toBeLessThan(300)
      await repeatChange(scene.cluster, world, change, { token, key, answer })
      if (token !== undefined)
        expect((await call(scene.survivor, 'GET', `${world.keysPath()}/${token.id}`, world.key.value)).status).toBe(200)
    }
  })
})

// Redis flushed, killed, stopped or full: people sign in again, and nothing more. No integration is disconnected, no code
// is used twice, and nobody waits long.
import { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import {
  type Answer,
  type Cluster,
  failuresOf,
  introspectAt,
  patiently,
  redeemAt,
  refreshAt,
  send,
  startCluster,
  userinfoStatus,
} from '../support/processes.ts'
import { at, connectAt, endGrace, OPAQUE } from '../support/races.ts'
import { canThrowAwayRedis, startThrowawayRedis, type ThrowawayRedis } from '../support/throwaway-stores.ts'
import { most, takeTime } from '../support/times.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { authorizationUrl, makePkce, makeWorld, obtainCode, type World } from '../support/world.ts'

takeTime()

const REFUSED = { status: 400, body: { error: 'invalid_grant' } }
const PROMPT_MS = most(2_500)
const RECOVERY_MS = most(5_000)

describe.skipIf(!hasStores() || !canThrowAwayRedis())('without its Redis', () => {
  let redis: ThrowawayRedis
  let cluster: Cluster
  let world: World
  let agent: UserAgent
  beforeAll(async () => {
    redis = await startThrowawayRedis()
    cluster = await startCluster({ redisUrl: redis.url })
    world = await makeWorld(cluster.server)
  })
  afterAll(async () => {
    await cluster?.close()
    await redis?.close()
  })
  beforeEach(() => {
    agent = cluster.server.userAgent()
  })

  const connected = (more?: Record<string, string>) =>
    connectAt(cluster, world, { agent, ...(more === undefined ? {} : { more }) })
  const everyProcess = <T>(ask: (process: Cluster['processes'][number]) => Promise<T>) =>
    Promise.all(cluster.processes.map(ask))
  const authorizePath = () => authorizationUrl(world.client, makePkce())

  function expectUnavailable(answer: Pick<Answer, 'status' | 'headers' | 'elapsedMs'>): void {
    expect(answer.status).toBe(503)
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(answer.elapsedMs).toBeLessThan(PROMPT_MS)
  }

  async function recovers(): Promise<void> {
    const startedAt = performance.now()
    for (const process of cluster.processes) {
      while ((await send(process, { path: '/readyz' })).status !== 200)
        expect(performance.now() - startedAt).toBeLessThan(RECOVERY_MS)
      expect((await send(process, { path: authorizePath() })).status).toBe(303)
    }
  }

  /** What must hold whatever became of Redis: each is used at each process in turn. */
  async function refreshesOn(first: string | undefined): Promise<string> {
    let current = first
    for (const process of cluster.processes) {
      const answer = await patiently(() => refreshAt(process, world.client, current))
      expect(answer.status).toBe(200)
      expect(answer.elapsedMs).toBeLessThan(PROMPT_MS)
      expect(await introspectAt(process, world.client, answer.body.access_token)).toMatchObject({ active: true })
      current = answer.body.refresh_token
    }
    return current ?? ''
  }

  it('flushed: refresh tokens work on, no code can be used, used ones stay used, and people sign in again', async () => {
    const tokens = await connected()
    const usedCode = tokens
    const unusedCode = await obtainCode(cluster.server, world, { agent })
    await redis.flush()
    const current = await refreshesOn(tokens.refresh_token)
    for (const process of cluster.processes)
      expect(await patiently(() => redeemAt(process, world.client, unusedCode))).toMatchObject(REFUSED)
    const page = await agent.open(authorizePath())
    expect(page.html).toContain('/sign-in"')
    const again = await connected()
    expect(again.refresh_token).toMatch(/^lk_rt_/)
    expect(await patiently(() => redeemAt(at(cluster.processes, 1), world.client, usedCode))).toMatchObject(REFUSED)
    expect(await patiently(() => refreshAt(at(cluster.processes, 0), world.client, current))).toMatchObject(REFUSED) // a replay ends it
    expect(await patiently(() => refreshAt(at(cluster.processes, 0), world.client, again.refresh_token))).toMatchObject(
      { status: 200 },
    )
  })

  it('flushed, and every process started anew: reuse of a refresh token is still detected', async () => {
    const tokens = await connected()
    const second = await patiently(() => refreshAt(at(cluster.processes, 0), world.client, tokens.refresh_token))
    await redis.flush()
    await endGrace(cluster.server, tokens.refresh_token)
    const anew = await cluster.start()
    expect(await patiently(() => refreshAt(anew, world.client, tokens.refresh_token))).toMatchObject(REFUSED)
    await anew.kill()
    expect(
      await patiently(() => refreshAt(at(cluster.processes, 0), world.client, second.body.refresh_token)),
    ).toMatchObject(REFUSED)
  })

  it('killed: refreshes go on; what needs it answers 503 with Retry-After at once; it recovers within 5 s', async () => {
    const tokens = await connected()
    const opaque = await connected(OPAQUE)
    const code = await obtainCode(cluster.server, world, { agent })
    await redis.kill()

    const current = await refreshesOn(tokens.refresh_token)
    await everyProcess(async (process) => {
      expectUnavailable(await redeemAt(process, world.client, code))
      expectUnavailable(await refreshAt(process, world.client, opaque.refresh_token))
      expectUnavailable(await send(process, { path: authorizePath() }))
      expectUnavailable(await send(process, { path: '/readyz' }))
      expect(await userinfoStatus(process, opaque.access_token)).toBe(503)
      expect((await send(process, { path: '/healthz' })).status).toBe(200)
      expect((await send(process, { path: '/jwks' })).status).toBe(200)
    })
    const late = await cluster.start()
    expect((await send(late, { path: '/readyz' })).status).toBe(503)
    expect(await patiently(() => refreshAt(late, world.client, current))).toMatchObject({ status: 200 })
    await late.kill()

    await redis.start()
    await recovers()
    await everyProcess(async (process) =>
      expect(await patiently(() => redeemAt(process, world.client, code))).toMatchObject(REFUSED),
    )
    const refreshed = await patiently(() => refreshAt(at(cluster.processes, 0), world.client, opaque.refresh_token))
    expect(refreshed.status).toBe(200) // the rotation had been committed: this is its repeat
    expect(await userinfoStatus(at(cluster.processes, 1), refreshed.body.access_token)).toBe(200)
    expect((await connected()).refresh_token).toMatch(/^lk_rt_/)
  })

  it('killed under load: no refresh fails', async () => {
    const starts = [await connected(), await connected(), await connected(), await connected()]
    const answers: Array<{ status: number; elapsedMs: number }> = []
    let running = true
    const clients = starts.map(async ({ refresh_token }, index) => {
      let current = refresh_token
      while (running) {
        const answer = await refreshAt(at(cluster.processes, index % 2), world.client, current)
        answers.push(answer)
        current = answer.body.refresh_token ?? current
      }
    })
    const more = async (ms: number) => {
      const before = answers.length
      await pause(ms)
      await expect.poll(() => answers.length, { timeout: 20_000 }).toBeGreaterThan(before + 13)
    }
    await more(300)
    await redis.kill()
    await more(600)
    await redis.start()
    await more(300)
    running = false
    await Promise.all(clients)
    expect(answers.filter(({ status }) => status !== 200)).toEqual([])
    expect(Math.max(...answers.map(({ elapsedMs }) => elapsedMs))).toBeLessThan(PROMPT_MS)
    await recovers()
  })

  it('stopped in its tracks: nobody waits for it longer than 2 s', async () => {
    const tokens = await connected()
    redis.freeze()
    try {
      await refreshesOn(tokens.refresh_token)
      await everyProcess(async (process) => {
        expectUnavailable(await send(process, { path: authorizePath() }))
        expectUnavailable(await send(process, { path: authorizePath() }))
      })
    } finally {
      redis.thaw()
    }
    await recovers()
  })

  it('full: an error is no "not found"; what was there is still there afterwards', async () => {
    const code = await obtainCode(cluster.server, world, { agent })
    const opaque = await connected(OPAQUE)
    const administrator = new Redis(redis.url)
    try {
      await administrator.config('SET', 'maxmemory', '1')
      await everyProcess(async (process) => {
        expectUnavailable(await send(process, { path: authorizePath() }))
        expectUnavailable(await refreshAt(process, world.client, opaque.refresh_token))
      })
      await administrator.config('SET', 'maxmemory', '0')
    } finally {
      administrator.disconnect()
    }
    expect(await patiently(() => redeemAt(at(cluster.processes, 1), world.client, code))).toMatchObject({ status: 200 })
    expect(
      await patiently(() => refreshAt(at(cluster.processes, 1), world.client, opaque.refresh_token)),
    ).toMatchObject({ status: 200 })
  })

  it('no fault of Redis was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

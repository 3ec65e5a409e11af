// What may become of Redis and of our processes, with thousands of revoked credentials about: the long form and the short.
import { randomBytes } from 'node:crypto'
import { Redis } from 'ioredis'
import { expect } from 'vitest'
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts'
import { type Cluster, patiently, redeemAt, refreshAt, startCluster } from './processes.ts'
import { at, connectAt } from './races.ts'
import { createMaker, expectJudged, type Judges, judge, type Kind, makePopulation, type Population } from './revoked.ts'
import { openVerifiers, type Verifiers } from './sample-apis.ts'
import { startThrowawayRedis, type ThrowawayRedis } from './throwaway-stores.ts'
import { makeTokenWorld, pause, untilReady } from './token-races.ts'
import type { UserAgent } from './user-agent.ts'
import { authorizationUrl, makeClient, makePkce, obtainCode } from './world.ts'

export type Counts = Readonly<Record<Kind, number>>

export interface DisasterScene extends Judges {
  cluster: Cluster
  redis: ThrowawayRedis
  /** Between our processes and Redis. */
  gate: FaultProxy
  population: Population
  maker: Awaited<ReturnType<typeof createMaker>>
  verifiers: Verifiers
  /** Of a person who is signed in. */
  agent: UserAgent
  /** How long it took to make them. */
  madeInMs: number
  /** What processes printed that are gone. */
  printed: string[]
  close(): Promise<void>
}

/** What a verifier takes for fresh: later than this after an end it refuses, or asks. */
const FRESH_MS = 1_000

export async function startDisasterScene(counts: Counts, standing: number): Promise<DisasterScene> {
  const redis = await startThrowawayRedis()
  const gate = await startFaultProxy(redis.url, 'plain')
  const cluster = await startCluster({ redisUrl: redis.url, redisUrlOf: (_place, url) => gate.through(url) })
  const { server, processes } = cluster
  const world = await makeTokenWorld(server, at(processes, 0))
  const verifiers = await openVerifiers(world, processes)
  const maker = await createMaker(cluster, world)
  const startedAt = performance.now()
  const population = await makePopulation(maker, counts, standing)
  const madeInMs = performance.now() - startedAt
  await pause(FRESH_MS)
  const agent = server.userAgent()
  await obtainCode(server, world.world, { agent })
  return {
    cluster,
    processes,
    world,
    redis,
    gate,
    population,
    maker,
    verifiers,
    agent,
    madeInMs,
    printed: [],
    async close() {
      await verifiers.close()
      await cluster.close()
      await gate.close()
      await redis.close()
    },
  }
}

/** What processes logged as a failure of their own; that a value was not written by them is what poison is for. */
export function failuresIn({ cluster, printed }: DisasterScene): string[] {
  const text = [...printed, ...cluster.processes.map((process) => process.output())].join('\n')
  expect(text).toContain('is ready at') // or there was no log to read
  const lines = text.split('\n').filter((line) => /"level":"(error|fatal)"|unhandled|^\s+at /i.test(line))
  return lines.filter((line) => !line.includes('was not written by us'))
}

async function allReady({ processes }: DisasterScene): Promise<void> {
  for (const process of processes) await untilReady(process)
}

/** Nobody is taken for the person who was signed in. */
async function expectSignedOut({ agent, world }: DisasterScene): Promise<void> {
  const page = await agent.open(authorizationUrl(world.world.client, makePkce()))
  if (page.status !== 503) expect(page.html).toContain('/sign-in"')
}

export async function flushRedis(scene: DisasterScene): Promise<void> {
  await scene.redis.flush()
  await expectJudged(scene, scene.population)
}

/** What is revoked stays so while it is away, too. */
export async function restartRedis(scene: DisasterScene): Promise<void> {
  await scene.redis.kill()
  const some = (await judge(scene, scene.population.revoked.slice(0, 100))).accepted
  expect(some).toEqual([])
  await scene.redis.start()
  await allReady(scene)
  await expectJudged(scene, scene.population)
}

/** Every value there is becomes garbage, another one's value, what one of ours could look like, or another type. */
export async function poisonRedis(scene: DisasterScene): Promise<void> {
  await obtainCode(scene.cluster.server, scene.world.world, { agent: scene.agent }) // a session and what belongs to it
  const redis = new Redis(scene.redis.url)
  try {
    const keys = await redis.keys('*')
    expect(keys.length).toBeGreaterThan(3)
    for (const [index, key] of keys.entries())
      await POISONS[index % POISONS.length]?.(redis, key, at(keys, index + 1 - keys.length))
  } finally {
    redis.disconnect()
  }
  await expectJudged(scene, scene.population)
  await expectSignedOut(scene)
  await scene.redis.flush()
}

type Poison = (redis: Redis, key: string, other: string) => Promise<unknown>

const POISONS: readonly Poison[] = [
  (redis, key) => redis.set(key, randomBytes(300), 'KEEPTTL'),
  async (redis, key, other) => redis.set(key, (await redis.getBuffer(other)) ?? '0', 'KEEPTTL'),
  (redis, key) =>
    redis.set(key, `0${JSON.stringify({ accountId: 'usr_1', active: true, exp: 4_000_000_000 })}`, 'KEEPTTL'),
  async (redis, key) => redis.set(key, (await redis.getBuffer(key))?.subarray(0, 20) ?? '0', 'KEEPTTL'),
  async (redis, key) => {
    await redis.del(key)
    await redis.rpush(key, 'a', 'b')
    await redis.expire(key, 600)
  },
]

/**
 * A replica loses its primary, more is revoked and used up, and then the replica takes over, without any of it: nothing is
 * accepted again, nothing can be used again, and nobody is disconnected.
 */
export async function failOver(scene: DisasterScene, more: Counts): Promise<void> {
  const { cluster, gate, maker, population, processes, redis, world } = scene
  const link = await startFaultProxy(redis.url, 'plain')
  const replica = await startThrowawayRedis()
  try {
    await onRedis(redis.url, (primary) => primary.config('SET', 'repl-diskless-sync-delay', '0'))
    await onRedis(replica.url, (second) => second.replicaof('127.0.0.1', link.port))
    const agent = cluster.server.userAgent()
    const client = await makeClient(cluster.server)
    const other = await makeClient(cluster.server)
    const code = await obtainCode(cluster.server, world.world, { agent, client })
    const connected = await connectAt(cluster, world.world, { agent, client: other })
    await untilInStep(redis.url, replica.url)
    link.rule({ on: '', at: 'asked', act: () => 'cut' })
    link.cutAll()
    const redeemed = await redeemAt(at(processes, 0), client, code)
    expect(redeemed.status).toBe(200)
    const later = await makePopulation(maker, more, 1)
    population.revoked.push(...later.revoked)
    population.control.push(...later.control)
    await pause(FRESH_MS)
    await onRedis(replica.url, (second) => second.replicaof('NO', 'ONE'))
    gate.leadTo(replica.url)
    await redis.kill()
    gate.cutAll()
    await allReady(scene)
    await expectJudged(scene, population)
    expect(await patiently(() => refreshAt(at(processes, 1), other, connected.refresh_token))).toMatchObject({
      status: 200,
    })
    const again = await patiently(() => redeemAt(at(processes, 1), client, code))
    expect(again).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    expect(await refreshAt(at(processes, 0), client, redeemed.body.refresh_token)).toMatchObject({ status: 400 })
  } finally {
    await redis.start()
    gate.leadTo(redis.url)
    gate.cutAll()
    await replica.close()
    await link.close()
  }
  await allReady(scene)
}

async function onRedis(url: string, work: (redis: Redis) => Promise<unknown>): Promise<void> {
  const redis = new Redis(url)
  try {
    await work(redis)
  } finally {
    redis.disconnect()
  }
}

async function untilInStep(primaryUrl: string, replicaUrl: string): Promise<void> {
  const [primary, replica] = [new Redis(primaryUrl), new Redis(replicaUrl)]
  try {
    const offsetOf = async (redis: Redis) => {
      const info = await redis.info('replication')
      return /master_repl_offset:(\d+)/.exec(info)?.[1]
    }
    await expect
      .poll(async () => await replica.info('replication'), { timeout: 20_000 })
      .toContain('master_link_status:up')
    await expect
      .poll(async () => (await offsetOf(primary)) === (await offsetOf(replica)), { timeout: 20_000 })
      .toBe(true)
    expect(await replica.dbsize()).toBe(await primary.dbsize())
  } finally {
    primary.disconnect()
    replica.disconnect()
  }
}

/** Every process of ours, and every API, begins anew. */
export async function restartProcesses(scene: DisasterScene): Promise<void> {
  const { cluster, population, processes, world } = scene
  for (const [place, process] of cluster.processes.entries()) {
    await process.kill()
    scene.printed.push(process.output())
    cluster.processes[place] = await cluster.start({
      port: process.port,
      redisUrl: scene.gate.through(scene.redis.url),
    })
  }
  await allReady(scene)
  await expectJudged(scene, population)
  const young = await openVerifiers(world, processes)
  try {
    await expectJudged({ ...scene, verifiers: young }, population)
  } finally {
    await young.close()
  }
}

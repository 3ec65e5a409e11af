// A server that is killed between two steps of a request, and what its client finds when it tries again elsewhere.
import { expect } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import { type FaultProxy, type Moment, startFaultProxy } from './fault-proxy.ts'
import {
  attempt,
  type Cluster,
  patiently,
  redeemAt,
  refreshAt,
  type ServerProcess,
  startCluster,
  type Target,
} from './processes.ts'
import { at, connectAt, familyOf, OPAQUE } from './races.ts'
import { freePort } from './server.ts'
import type { UserAgent } from './user-agent.ts'
import { makeWorld, obtainCode, type TokenAnswer, type World } from './world.ts'

/** Where a request is killed: a statement to PostgreSQL, a command to Redis, or the answer to the client. */
export interface KillPoint {
  between: 'postgres' | 'redis' | 'client'
  on: string
  /** What is in the same transaction. */
  within?: string
  at: Moment
}

/** A process with a proxy on each of its three sides. */
interface Victim {
  target: Target
  proxies: Record<KillPoint['between'], FaultProxy>
  kill(): Promise<void>
  /** Starts it again; resolves when it is ready. */
  revive(): Promise<void>
  close(): Promise<void>
}

export interface KillScene {
  cluster: Cluster
  world: World
  agent: UserAgent
  /** The process that goes on. */
  survivor: ServerProcess
  /** A running one; while it is tried, the one that was killed before starts again. */
  nextVictim(): Promise<Victim>
  close(): Promise<void>
}

export async function startKillScene(): Promise<KillScene> {
  const cluster = await startCluster({ count: 1 })
  const world = await makeWorld(cluster.server)
  const victims = await Promise.all([startVictim(cluster), startVictim(cluster)])
  const ready = victims.map(() => Promise.resolve())
  let turn = 0
  return {
    cluster,
    world,
    agent: cluster.server.userAgent(),
    survivor: at(cluster.processes, 0),
    async nextVictim() {
      const last = turn % victims.length
      ready[last] = at(victims, last).revive()
      turn++
      await ready[turn % victims.length]
      return at(victims, turn % victims.length)
    },
    async close() {
      await Promise.allSettled(ready)
      await cluster.close()
      await Promise.all(victims.map((victim) => victim.close()))
    },
  }
}

async function startVictim(cluster: Cluster): Promise<Victim> {
  const port = await freePort()
  const [postgres, redis, client] = await Promise.all([
    startFaultProxy(cluster.databaseUrl, 'postgres'),
    startFaultProxy(cluster.redisUrl, 'plain'),
    startFaultProxy(port, 'plain'),
  ])
  const start = () =>
    cluster.start({
      port,
      databaseUrl: postgres.through(cluster.databaseUrl),
      redisUrl: redis.through(cluster.redisUrl),
    })
  let process: ServerProcess | undefined = await start()
  return {
    target: { port: client.port, issuer: process.issuer },
    proxies: { postgres, redis, client },
    async kill() {
      await process?.kill()
      process = undefined
    },
    async revive() {
      process ??= await start()
    },
    async close() {
      for (const proxy of [postgres, redis, client]) await proxy.close()
    },
  }
}

/**
 * Kills the server at this point of the request; resolves once it is dead. What a store answered may wake it before the
 * kill reaches it: then the client has its answer, and it must be the one that counts.
 *
 * @returns that answer; otherwise the client got none
 */
async function killDuring(
  scene: KillScene,
  point: KillPoint,
  ask: (target: Target) => Promise<TokenAnswer>,
): Promise<TokenAnswer | undefined> {
  const victim = await scene.nextVictim()
  let isStruck = false
  const struck = victim.proxies[point.between].once({
    on: point.on,
    within: point.within,
    at: point.at,
    async act(): Promise<'cut'> {
      isStruck = true
      await victim.kill()
      return 'cut'
    },
  })
  const answer = await patiently(
    () => attempt(ask(victim.target)),
    () => isStruck,
  )
  const mayBeAnswered = isStruck && point.at === 'answered'
  if (answer !== undefined && !mayBeAnswered)
    throw new Error(
      `"${point.on}" ${isStruck ? 'came' : 'did not come'}; answered: ${answer.status} ${JSON.stringify(answer.body)}`,
    )
  await struck
  return answer
}

/** Kills the server so long after the request was sent, wherever it is then. The client may have its answer by then. */
async function killAfter<T>(scene: KillScene, delayMs: number, ask: (target: Target) => Promise<T>) {
  const victim = await scene.nextVictim()
  const asked = attempt(ask(victim.target))
  await new Promise((resolve) => setTimeout(resolve, delayMs))
  await victim.kill()
  return asked
}

/** Cut, answered, or told to come back. */
const isAnswered = (answer: { status: number } | undefined) =>
  answer === undefined || [200, 503].includes(answer.status)

// --- Refresh --------------------------------------------------------------------------------------------------------

/** The client that lost an answer repeats its request: it gets the one successor, and is not locked out. */
export async function refreshThroughKills(
  scene: KillScene,
  points: readonly KillPoint[],
  first?: string | undefined,
): Promise<void> {
  let current = first ?? (await connectAt(scene.cluster, scene.world, { agent: scene.agent })).refresh_token
  for (const point of points) {
    const presented = current
    const answer = await killDuring(scene, point, (target) => refreshAt(target, scene.world.client, presented))
    expect(isAnswered(answer)).toBe(true)
    current = await repeatRefresh(scene, presented)
    if (answer?.status === 200) expect(answer.body.refresh_token).toBe(current)
  }
}

export async function refreshThroughRandomKills(scene: KillScene, kills: number, mostDelayMs: number): Promise<void> {
  const { refresh_token } = await connectAt(scene.cluster, scene.world, { agent: scene.agent })
  let current = refresh_token
  for (let count = 0; count < kills; count++) {
    const presented = current
    const answer = await killAfter(scene, Math.random() * mostDelayMs, (target) =>
      refreshAt(target, scene.world.client, presented),
    )
    expect(isAnswered(answer)).toBe(true)
    current = await repeatRefresh(scene, presented)
    if (answer?.status === 200) expect(answer.body.refresh_token).toBe(current)
  }
}

/** Repeats at the survivor, and checks that there is one live successor. */
async function repeatRefresh(scene: KillScene, presented: string | undefined): Promise<string> {
  const { cluster, survivor, world } = scene
  const family = await familyOf(cluster.server, presented)
  const repeated = await patiently(() => refreshAt(survivor, world.client, presented))
  expect(repeated.status).toBe(200)
  const again = await patiently(() => refreshAt(survivor, world.client, presented))
  expect(again).toMatchObject({ status: 200, body: { refresh_token: repeated.body.refresh_token } })
  const successor = repeated.body.refresh_token ?? ''
  const unused = await cluster.server.db
    .selectFrom('refresh_tokens')
    .select('digest')
    .where('family_id', '=', family)
    .where('consumed_at', 'is', null)
    .execute()
  expect(unused).toEqual([{ digest: digestOf(successor) }])
  return successor
}

// --- Reuse ------------------------------------------------------------------------------------------------------------

/** Detected, and killed before it could say so: the next try ends the family, or finds it ended. */
export async function endThroughKill(
  scene: KillScene,
  point: KillPoint,
  endGrace: (refreshToken: string | undefined) => Promise<void>,
): Promise<void> {
  const { cluster, survivor, world, agent } = scene
  const { refresh_token: first } = await connectAt(cluster, world, { agent })
  const family = await familyOf(cluster.server, first)
  const second = await patiently(() => refreshAt(survivor, world.client, first))
  expect(second.status).toBe(200)
  await endGrace(first)
  await killDuring(scene, point, (target) => refreshAt(target, world.client, first))
  const refused = { status: 400, body: { error: 'invalid_grant' } }
  for (const token of [first, second.body.refresh_token])
    expect(await patiently(() => refreshAt(survivor, world.client, token))).toMatchObject(refused)
  expect(await isOpen(scene, family)).toBe(false)
}

// --- Codes --------------------------------------------------------------------------------------------------------------

/** The client that lost an answer tries its code again: tokens, or a refusal that leaves nothing alive; then a redirect. */
export async function redeemThroughKill(scene: KillScene, point: KillPoint, opaque = false): Promise<void> {
  const code = await obtainCode(scene.cluster.server, scene.world, {
    agent: scene.agent,
    ...(opaque ? { more: OPAQUE } : {}),
  })
  await killDuring(scene, point, (target) => redeemAt(target, scene.world.client, code))
  await repeatRedemption(scene, code)
}

export async function redeemThroughRandomKills(scene: KillScene, kills: number, mostDelayMs: number): Promise<void> {
  for (let count = 0; count < kills; count++) {
    const code = await obtainCode(scene.cluster.server, scene.world, { agent: scene.agent })
    const answer = await killAfter(scene, Math.random() * mostDelayMs, (target) =>
      redeemAt(target, scene.world.client, code),
    )
    expect(isAnswered(answer)).toBe(true)
    await repeatRedemption(scene, code)
  }
}

async function repeatRedemption(scene: KillScene, code: Parameters<typeof redeemAt>[2]): Promise<void> {
  const { cluster, survivor, world, agent } = scene
  const repeated = await patiently(() => redeemAt(survivor, world.client, code))
  const consumed = await cluster.server.db
    .selectFrom('consumed_codes')
    .select('family_id')
    .where('digest', '=', digestOf(code.code))
    .executeTakeFirstOrThrow()
  if (repeated.status === 200) {
    expect(await familyOf(cluster.server, repeated.body.refresh_token)).toBe(consumed.family_id)
    const refreshed = await patiently(() => refreshAt(survivor, world.client, repeated.body.refresh_token))
    expect(refreshed).toMatchObject({ status: 200 })
  } else {
    expect(repeated).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    expect(await isOpen(scene, consumed.family_id)).toBe(false)
  }
  const anew = await obtainCode(cluster.server, world, { agent })
  expect(await patiently(() => redeemAt(survivor, world.client, anew))).toMatchObject({ status: 200 })
}

async function isOpen(scene: KillScene, family: Awaited<ReturnType<typeof familyOf>>): Promise<boolean> {
  const { db } = scene.cluster.server
  const row = await db.selectFrom('families').select('ended_at').where('id', '=', family).executeTakeFirstOrThrow()
  const tokens = await db.selectFrom('refresh_tokens').select('digest').where('family_id', '=', family).execute()
  if (row.ended_at !== null) expect(tokens).toEqual([])
  return row.ended_at === null
}

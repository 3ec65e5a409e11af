// One of two processes loses one of its stores, and something is revoked: on it, or on the other. An answer is true when it
// is given, whoever gives it; who cannot know says 503, and is well again afterwards.
import { expect } from 'vitest'
import { type ConnectionWorld, connect, disconnectAt, makeConnectionWorld, waysOfJwt } from './connection-races.ts'
import { createScratchDatabase } from './databases.ts'
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts'
import { type Answer, type Cluster, patiently, type ServerProcess, startCluster } from './processes.ts'
import { at } from './races.ts'
import {
  exchangeBoth,
  expectDeadSince,
  hammer,
  type Outcome,
  outcomesNow,
  pause,
  revokeBy,
  untilReady,
  type Way,
  waysOf,
} from './token-races.ts'
import { makeClient } from './world.ts'

export interface CutOff {
  store: 'postgres' | 'redis'
  how: 'cut' | 'hang'
  /** What the process that loses its store does: it is asked to revoke, or only decides. */
  who: 'revoker' | 'decider'
  /** Which of the two processes it is. */
  place: 0 | 1
}

/** Every combination. */
export const CUT_OFFS: readonly CutOff[] = (['postgres', 'redis'] as const).flatMap((store) =>
  (['cut', 'hang'] as const).flatMap((how) =>
    (['revoker', 'decider'] as const).flatMap((who) => ([0, 1] as const).map((place) => ({ store, how, who, place }))),
  ),
)

export interface CutOffScene {
  cluster: Cluster
  world: ConnectionWorld
  /** By place, and by store. */
  proxies: ReadonlyArray<Record<CutOff['store'], FaultProxy>>
  close(): Promise<void>
}

export async function startCutOffScene(redisUrl: string): Promise<CutOffScene> {
  const scratch = await createScratchDatabase()
  const proxies = await Promise.all(
    [0, 1].map(async () => ({
      postgres: await startFaultProxy(scratch.url, 'postgres'),
      redis: await startFaultProxy(redisUrl, 'plain'),
    })),
  )
  const cluster = await startCluster({
    databaseUrl: scratch.url,
    databaseUrlOf: (place, url) => at(proxies, place).postgres.through(url),
    redisUrlOf: (place, url) => at(proxies, place).redis.through(url),
  })
  const world = await makeConnectionWorld(cluster)
  return {
    cluster,
    world,
    proxies,
    async close() {
      await world.verifiers.close()
      await cluster.close()
      for (const { postgres, redis } of proxies) await Promise.all([postgres.close(), redis.close()])
      await scratch.drop()
    },
  }
}

/** All that comes from a connection of a client of its own and from a token, ready to be ended. */
async function prepare({ cluster, world }: CutOffScene, target: ServerProcess) {
  const client = await makeClient(cluster.server)
  const { connectionId, jwt: api } = await connect(world, 'api', target, client)
  const { jwt: own } = await connect(world, 'own', target, client)
  const token = await world.tokens.create({}, { target })
  const exchanged = await exchangeBoth(target, world.tokens, token.value)
  const ways: Record<string, Way> = {
    ...named('connection', { ...waysOfJwt(world, 'api', api), ...waysOf(world.tokens, { own }) }),
    ...named('token', waysOf(world.tokens, { value: token.value, ...exchanged })),
  }
  await expectSettled(cluster.processes, ways, 'accepted')
  return { connectionId, token, ways }
}

const named = (of: string, ways: Record<string, Way>) =>
  Object.fromEntries(Object.entries(ways).map(([name, way]) => [`${of}: ${name}`, way]))

/** What everybody says once nobody says 503. A verifier is not part of a revocation's answer: it hears of it a moment later. */
async function expectSettled(
  processes: readonly ServerProcess[],
  ways: Record<string, Way>,
  outcome: Outcome,
): Promise<void> {
  const [ofVerifiers, ofServer] = [true, false].map((isVerifier) =>
    Object.fromEntries(Object.entries(ways).filter(([name]) => name.endsWith('verifier') === isVerifier)),
  )
  let said: Outcome[] = []
  const ask = async () => {
    said = await outcomesNow(processes, ofServer ?? {})
    return said
  }
  await expect.poll(ask, { timeout: LONG_MS }).not.toContain('unavailable')
  expect(said).toEqual([outcome])
  await expect.poll(() => outcomesNow(processes, ofVerifiers ?? {}), { timeout: LONG_MS }).toEqual([outcome])
}

const LONG_MS = 30_000

/** Revokes a connection and a token, while a process has lost a store. */
export async function revokeWhileCutOff(scene: CutOffScene, { store, how, who, place }: CutOff): Promise<void> {
  const { cluster, world } = scene
  const { processes } = cluster
  const [harmed, whole] = [at(processes, place), at(processes, 1 - place)]
  const ended = await prepare(scene, whole)
  const lasting = await prepare(scene, whole)
  const hammering = hammer(processes, ended.ways)
  await hammering.oneMore()
  const fault = begin(at(scene.proxies, place)[store], how)
  let since = 0
  try {
    const answers = await revokeBoth(world, who === 'revoker' ? harmed : whole, ended)
    since = performance.now()
    if (who === 'revoker' && store === 'postgres') {
      for (const answer of answers) expectUnavailable(answer)
      for (const { status } of await revokeBoth(world, whole, ended)) expect(status).toBe(204)
      since = performance.now()
    } else for (const { status } of answers) expect(status).toBe(204)
    if (store === 'postgres')
      await expect.poll(() => outcomesNow([harmed], lasting.ways), { timeout: LONG_MS }).toEqual(['unavailable'])
    else await expectSettled(processes, lasting.ways, 'accepted')
    await expectSettled([whole], ended.ways, 'refused')
  } finally {
    fault.end()
    for (const process of processes) await untilReady(process)
    await pause(Math.max(0, since + FRESH_MS - performance.now()))
    await hammering.oneMore()
    await hammering.stop()
  }
  // A verifier is not part of the answer: it has its own moment, and no longer.
  const ofServer = hammering.records.filter(({ way }) => !way.endsWith('verifier'))
  const ofApis = hammering.records.filter(({ way }) => way.endsWith('verifier'))
  expectDeadSince(ofServer, since, true)
  expectDeadSince(ofApis, since + FRESH_MS, true)
  await expectSettled(processes, ended.ways, 'refused')
  await expectSettled(processes, lasting.ways, 'accepted')
}

/** What a verifier takes for fresh. */
const FRESH_MS = 1_000

function revokeBoth(
  world: ConnectionWorld,
  target: ServerProcess,
  { connectionId, token }: { connectionId: string; token: Awaited<ReturnType<typeof prepare>>['token'] },
): Promise<Answer[]> {
  return Promise.all([disconnectAt(target, world, connectionId), revokeBy('line', world.tokens, target, token)])
}

function expectUnavailable(answer: Answer): void {
  expect(answer.status).toBe(503)
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
}

function begin(proxy: FaultProxy, how: CutOff['how']): { end(): void } {
  if (how === 'hang') {
    proxy.freeze()
    return {
      end() {
        proxy.thaw()
      },
    }
  }
  const rule = proxy.rule({ on: '', at: 'asked', act: () => 'cut' as const })
  proxy.cutAll()
  return { end: () => rule.remove() }
}

/**
 * The process that revokes loses PostgreSQL in the midst of it: it answers 503, and nobody was promised anything; whether it
 * is done or not, the client's repeat is answered, and true.
 */
export async function revokeThroughCut(scene: CutOffScene, moment: 'asked' | 'done'): Promise<void> {
  const { cluster, proxies, world } = scene
  const { processes } = cluster
  const [harmed, whole] = [at(processes, 0), at(processes, 1)]
  const { connectionId, ways } = await prepare(scene, whole)
  const ofConnection = Object.fromEntries(Object.entries(ways).filter(([name]) => name.startsWith('connection')))
  const { postgres } = at(proxies, 0)
  let isCut = false
  const cut = postgres.once({
    on: 'commit',
    within: 'update "connections" set "closed_at"',
    at: moment,
    act() {
      isCut = true
      return 'cut'
    },
  })
  const answer = await patiently(
    () => disconnectAt(harmed, world, connectionId),
    () => isCut,
  )
  await cut
  expectUnavailable(answer)
  const repeated = await patiently(() => disconnectAt(harmed, world, connectionId))
  expect(repeated.status).toBe(204)
  await expectSettled(processes, ofConnection, 'refused')
}

// The database killed under load again and again, and stopped in its tracks.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { crashUnderLoad } from '../support/crash.ts'
import { hasStores } from '../support/databases.ts'
import { type Cluster, refreshAt, send, startCluster } from '../support/processes.ts'
import { at, connectAt } from '../support/races.ts'
import { canThrowAwayPostgres, startThrowawayPostgres, type ThrowawayStore } from '../support/throwaway-stores.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { makeWorld, type World } from '../support/world.ts'

const CRASHES = 20
/** What a statement may take, and a second for the driver to give it up. */
const HANG_MS = 7_000

describe.skipIf(!hasStores() || !canThrowAwayPostgres())('a PostgreSQL of its own', () => {
  let database: ThrowawayStore
  let cluster: Cluster
  let world: World
  let agent: UserAgent
  beforeAll(async () => {
    database = await startThrowawayPostgres()
    cluster = await startCluster({ databaseUrl: database.url })
    world = await makeWorld(cluster.server)
    agent = cluster.server.userAgent()
  })
  afterAll(async () => {
    await cluster?.close()
    await database?.close()
  })

  it(`killed under load ${CRASHES} times: whatever was acknowledged is there after each`, async () => {
    let rotations = 0
    for (let crash = 0; crash < CRASHES; crash++)
      rotations += (await crashUnderLoad({ cluster, database, world, agent }, { loadMs: 500 + Math.random() * 1_500 }))
        .rotations
    expect(rotations).toBeGreaterThan(CRASHES * 20)
  })

  it('stopped in its tracks: every request is answered 503, none hangs for good, and all is well afterwards', async () => {
    const tokens = await connectAt(cluster, world, { agent })
    database.freeze()
    try {
      const answers = await Promise.all(
        Array.from({ length: 30 }, (_, index) =>
          refreshAt(at(cluster.processes, index % 2), world.client, tokens.refresh_token),
        ),
      )
      for (const answer of answers) {
        expect(answer.status).toBe(503)
        expect(answer.headers.has('retry-after')).toBe(true)
        expect(answer.elapsedMs).toBeLessThan(HANG_MS)
      }
      expect((await send(at(cluster.processes, 0), { path: '/healthz' })).status).toBe(200)
    } finally {
      database.thaw()
    }
    const startedAt = performance.now()
    while ((await refreshAt(at(cluster.processes, 0), world.client, tokens.refresh_token)).status !== 200)
      expect(performance.now() - startedAt).toBeLessThan(5_000)
  })
})

// Revocations and rotations of tokens, hundreds and thousands of rounds; and a list as long as it may become.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type Cluster, failuresOf, startCluster } from '../support/processes.ts'
import { at } from '../support/races.ts'
import {
  makeTokenWorld,
  memoryOf,
  outcomes,
  percentiles,
  pidOf,
  prepareFor,
  raceFirstUses,
  raceIssuing,
  raceRevocations,
  raceRotations,
  raceTwoRotations,
  revokeBy,
  type TokenWorld,
  untilReady,
} from '../support/token-races.ts'

const ENTRIES = 100_000

describe.skipIf(!hasStores())('tokens on two processes, round after round', () => {
  let cluster: Cluster
  let world: TokenWorld
  beforeAll(async () => {
    cluster = await startCluster()
    world = await makeTokenWorld(cluster.server, at(cluster.processes, 0))
  })
  afterAll(() => cluster?.close())

  it('1,000 revocations: nothing that started after the answer was accepted', async ({ annotate }) => {
    await annotate(`a revocation: ${percentiles(await raceRevocations(world, cluster.processes, 1_000))}`)
  })

  it('200 rotations under load: the new value never fails, the older one ends with the cutover', () =>
    raceRotations(world, cluster.processes, 200))

  it('200 times ten rotations at once: one is made', () => raceTwoRotations(world, cluster.processes, 200))

  it('100 times twenty first uses at once: one cutover', () => raceFirstUses(cluster, world, cluster.processes, 100))

  it('600 times something is made while it is revoked: dead', () => raceIssuing(cluster, world, cluster.processes, 600))

  it('with 100,000 entries on the list: a process starts, decides and revokes as before', async ({ annotate }) => {
    const started = async () => {
      const startedAt = performance.now()
      const process = await cluster.start()
      await untilReady(process)
      return { process, tookMs: performance.now() - startedAt, megabytes: memoryOf(pidOf(process)) }
    }
    const before = await started()
    await before.process.stop()
    const dead = await prepareFor('line', world, world.target)
    await revokeBy('line', world, world.target, dead.token)
    await sql`insert into revocation_entries (subject, seq, closed, expires_at)
      select 'key_' || n, nextval('revocation_seq'), true, now() + interval '1 hour'
      from generate_series(1, ${ENTRIES}::int) n`.execute(cluster.server.db)
    const live = await prepareFor('line', world, world.target)
    const after = await started()
    await annotate(
      `start: ${before.tookMs.toFixed(0)} ms and ${before.megabytes.toFixed(0)} MB; with ${ENTRIES} entries ${after.tookMs.toFixed(0)} ms and ${after.megabytes.toFixed(0)} MB`,
    )
    const all = [...cluster.processes, after.process]
    expect(await outcomes(all, live.ways)).toEqual(['accepted'])
    expect(await outcomes(all, dead.ways)).toEqual(['refused'])
    await annotate(`a revocation then: ${percentiles(await raceRevocations(world, all, 20))}`)
    await after.process.stop()
  })

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

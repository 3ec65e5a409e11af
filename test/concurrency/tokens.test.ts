// Tokens on two processes: what is revoked on one is dead on both with the answer; a rotation fails nobody.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type Cluster, failuresOf, startCluster } from '../support/processes.ts'
import { at } from '../support/races.ts'
import { takeTime } from '../support/times.ts'
import {
  makeTokenWorld,
  percentiles,
  raceFirstUses,
  raceIssuing,
  raceRevocations,
  raceRotations,
  raceTwoRotations,
  type TokenWorld,
} from '../support/token-races.ts'

takeTime()

describe.skipIf(!hasStores())('tokens on two processes', () => {
  let cluster: Cluster
  let world: TokenWorld
  beforeAll(async () => {
    cluster = await startCluster()
    world = await makeTokenWorld(cluster.server, at(cluster.processes, 0))
  })
  afterAll(() => cluster?.close())

  it('from the answer of a revocation on, no process accepts the value or a JWT that came from it', async ({
    annotate,
  }) => {
    await annotate(`a revocation: ${percentiles(await raceRevocations(world, cluster.processes, 50))}`)
  })

  it('a rotation under load: the new value never fails, the older one ends with the cutover, everywhere', () =>
    raceRotations(world, cluster.processes, 6))

  it('of ten rotations at once one is made', () => raceTwoRotations(world, cluster.processes, 5))

  it('of twenty first uses at once one cuts over, and nobody is answered before the older value is dead', () =>
    raceFirstUses(cluster, world, cluster.processes, 4))

  it('what is made while it is revoked is dead too: JWTs, tokens, versions', () =>
    raceIssuing(cluster, world, cluster.processes, 50))

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

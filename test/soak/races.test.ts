// The races of test/concurrency, two hundred rounds and more of each.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type Cluster, failuresOf, startCluster } from '../support/processes.ts'
import { raceCodes, raceRefreshes, raceReuse, raceRevocation } from '../support/races.ts'

describe.skipIf(!hasStores())('two processes, round after round', () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster()
  })
  afterAll(() => cluster?.close())

  it('200 codes, each redeemed by fifty at once: one set of tokens each, dead once all are answered', () =>
    raceCodes(cluster, 200))

  it('200 refresh tokens, each used by fifty at once: one successor each', () => raceRefreshes(cluster, 200))

  it('200 families, each with a reuse in the midst of fifty refreshes: nothing of them lives', () =>
    raceReuse(cluster, 200))

  it('500 revocations in the midst of a refresh: nothing of the family lives', () => raceRevocation(cluster, 500))

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

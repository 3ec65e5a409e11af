// Two processes on one PostgreSQL and one Redis: what is for one use is used once.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type Cluster, failuresOf, startCluster } from '../support/processes.ts'
import { raceCodes, raceRefreshes } from '../support/races.ts'
import { takeTime } from '../support/times.ts'

takeTime()

describe.skipIf(!hasStores())('two processes', () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster()
  })
  afterAll(() => cluster?.close())

  it('a code redeemed by fifty at once gives one set of tokens, and then those are dead too', () =>
    raceCodes(cluster, 6))

  it('a refresh token used by fifty at once has one successor, and every answer carries it', () =>
    raceRefreshes(cluster, 6))

  it('no race is a failure of ours: nothing was logged', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

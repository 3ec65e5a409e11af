// Connections that end: how long an API elsewhere takes to hear of it, and hundreds of rounds of issuing against ending.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type ConnectionWorld,
  cutApiOff,
  makeConnectionWorld,
  RACES,
  raceApiCalls,
  raceIssuance,
} from '../support/connection-races.ts'
import { hasStores } from '../support/databases.ts'
import { type FaultProxy, startFaultProxy } from '../support/fault-proxy.ts'
import { type Cluster, failuresOf, startCluster } from '../support/processes.ts'
import { type SampleApi, startSampleApi } from '../support/sample-apis.ts'
import { freePort } from '../support/server.ts'
import { percentiles } from '../support/token-races.ts'

const ENDINGS = 200
const ROUNDS = 500
const P99_MS = 250
const MOST_MS = 1_000

describe.skipIf(!hasStores())('connections on two processes, round after round', () => {
  let gate: FaultProxy
  let cluster: Cluster
  let world: ConnectionWorld
  let api: SampleApi
  beforeAll(async () => {
    const port = await freePort()
    gate = await startFaultProxy(port, 'plain')
    cluster = await startCluster({ port, issuer: `http://localhost:${gate.port}` })
    world = await makeConnectionWorld(cluster)
    api = await startSampleApi(world.tokens, world.tokens.target.issuer)
    await api.untilLive()
  })
  afterAll(async () => {
    await api?.stop()
    await world?.verifiers.close()
    await cluster?.close()
    await gate?.close()
  })

  it(`${ENDINGS} connections end while an API is called: it refuses within ${P99_MS} ms (p99), ${MOST_MS} ms at most`, async ({
    annotate,
  }) => {
    const endings = await raceApiCalls(world, api, ENDINGS)
    const lags = endings.map(({ lagMs }) => lagMs).toSorted((a, b) => a - b)
    await annotate(`from the answer to the first refusal: ${percentiles(lags)}`)
    await annotate(`the revocation: ${percentiles(endings.map(({ tookMs }) => tookMs))}`)
    expect(lags[Math.floor(lags.length * 0.99)]).toBeLessThan(P99_MS)
    expect(lags.at(-1)).toBeLessThan(MOST_MS)
  })

  it.for(['cut', 'hang'] as const)(
    'an API whose way to the server is %s, ten times: accepts nothing a second later, and finds back',
    async (how, { annotate }) => {
      const saidAfterMs: number[] = []
      for (let round = 0; round < 10; round++) saidAfterMs.push(await cutApiOff(world, api, gate, how))
      await annotate(`from the fault to the first 503: ${percentiles(saidAfterMs)}`)
    },
  )

  it.for(Object.keys(RACES) as Array<keyof typeof RACES>)(
    `${ROUNDS} times %s against an end: nothing that was issued is accepted anywhere`,
    async (name, { annotate }) => {
      const counts = await raceIssuance(world, name, ROUNDS)
      await annotate(`what met the end was answered: ${JSON.stringify(counts)}`)
      expect(Object.keys(counts).length).toBeGreaterThan(1) // or nothing met it
    },
  )

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

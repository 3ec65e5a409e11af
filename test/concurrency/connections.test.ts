// Connections that end while two processes and an API elsewhere decide about their JWTs: with the answer nothing of them is
// accepted by us, and a moment later nowhere; and nothing that is issued meanwhile outlives them.
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
import { takeTime } from '../support/times.ts'

takeTime()

const ROUNDS: Record<keyof typeof RACES, number> = { refresh: 9, exchange: 8, code: 6, approve: 8 }

describe.skipIf(!hasStores())('connections on two processes', () => {
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

  it('an API that is called without a pause refuses once a connection has ended, and never accepts it again', async () =>
    void (await raceApiCalls(world, api, 6)))

  it.each(['cut', 'hang'] as const)(
    'an API whose way to the server is %s accepts nothing a second later, and finds back',
    async (how) => void (await cutApiOff(world, api, gate, how)),
  )

  it.each(Object.keys(RACES) as Array<keyof typeof RACES>)(
    '%s against an end: nothing that was issued is accepted anywhere',
    async (name) => void (await raceIssuance(world, name, ROUNDS[name])),
  )

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(cluster)).toEqual([])
  })
})

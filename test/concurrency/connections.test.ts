// Connections that end while two processes and an API elsewhere decide about their JWTs: with the answer nothing of them is
// accepted by us, and a moment later nowhere; and nothing that is issued meanwhile outlives them.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type ConnectionScene,
  cutApiOff,
  RACES,
  raceApiCalls,
  raceIssuance,
  startConnectionScene,
} from '../support/connection-races.ts'
import { hasStores } from '../support/databases.ts'
import { failuresOf } from '../support/processes.ts'
import { takeTime } from '../support/times.ts'

takeTime()

const ROUNDS: Record<keyof typeof RACES, number> = { refresh: 9, exchange: 8, code: 6, approve: 8 }

describe.skipIf(!hasStores())('connections on two processes', () => {
  let scene: ConnectionScene
  beforeAll(async () => {
    scene = await startConnectionScene()
  })
  afterAll(() => scene?.close())

  it('an API that is called without a pause refuses once a connection has ended, and never accepts it again', async () =>
    void (await raceApiCalls(scene.world, scene.api, 6)))

  it.each(['cut', 'hang'] as const)(
    'an API whose way to the server is %s accepts nothing a second later, and finds back',
    async (how) => void (await cutApiOff(scene.world, scene.api, scene.gate, how)),
  )

  it.each(Object.keys(RACES) as Array<keyof typeof RACES>)(
    '%s against an end: nothing that was issued is accepted anywhere',
    async (name) => void (await raceIssuance(scene.world, name, ROUNDS[name])),
  )

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(scene.world.cluster)).toEqual([])
  })
})

// Connections that end: how long an API elsewhere takes to hear of it, and hundreds of rounds of issuing against ending.
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
import { percentiles } from '../support/token-races.ts'

const ENDINGS = 200
const ROUNDS = 500
const P99_MS = 250
const MOST_MS = 1_000

describe.skipIf(!hasStores())('connections on two processes, round after round', () => {
  let scene: ConnectionScene
  beforeAll(async () => {
    scene = await startConnectionScene()
  })
  afterAll(() => scene?.close())

  it(`${ENDINGS} connections end while an API is called: it refuses within ${P99_MS} ms (p99), ${MOST_MS} ms at most`, async ({
    annotate,
  }) => {
    const endings = await raceApiCalls(scene.world, scene.api, ENDINGS)
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
      for (let round = 0; round < 10; round++)
        saidAfterMs.push(await cutApiOff(scene.world, scene.api, scene.gate, how))
      await annotate(`from the fault to the first 503: ${percentiles(saidAfterMs)}`)
    },
  )

  it.for(Object.keys(RACES) as Array<keyof typeof RACES>)(
    `${ROUNDS} times %s against an end: nothing that was issued is accepted anywhere`,
    async (name, { annotate }) => {
      const counts = await raceIssuance(scene.world, name, ROUNDS)
      await annotate(`what met the end was answered: ${JSON.stringify(counts)}`)
      expect(Object.keys(counts).length).toBeGreaterThan(1) // or nothing met it
    },
  )

  it('no race was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(scene.world.cluster)).toEqual([])
  })
})

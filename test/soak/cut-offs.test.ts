// Every combination of a process that loses a store, the store, how, and what the process is asked: three times over.
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import {
  CUT_OFFS,
  type CutOffScene,
  revokeThroughCut,
  revokeWhileCutOff,
  startCutOffScene,
} from '../support/cut-offs.ts'
import { hasStores } from '../support/databases.ts'
import { failuresOf } from '../support/processes.ts'

const ROUNDS = 3

describe.skipIf(!hasStores())('a process without one of its stores', () => {
  let scene: CutOffScene
  beforeAll(async () => {
    scene = await startCutOffScene(inject('redisUrl') ?? '')
  })
  afterAll(() => scene?.close())

  it.for(CUT_OFFS)('$store: $how, on the $who, process $place', async (cutOff) => {
    for (let round = 0; round < ROUNDS; round++) await revokeWhileCutOff(scene, cutOff)
  })

  it.for(['asked', 'done'] as const)(
    'PostgreSQL cut in the midst of a revocation, 50 times: COMMIT %s',
    async (moment) => {
      for (let round = 0; round < 50; round++) await revokeThroughCut(scene, moment)
    },
  )

  it('no fault was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(scene.cluster)).toEqual([])
  })
})

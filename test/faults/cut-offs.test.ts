// One of two processes cannot reach PostgreSQL, or Redis, while a connection and a token are revoked, on it or on the other.
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
import { takeTime } from '../support/times.ts'

takeTime()

/** Each combination on one process; on either, it is in the soak. */
const HERE = CUT_OFFS.filter(({ place, who }) => (place === 0) === (who === 'revoker'))

describe.skipIf(!hasStores())('a process without one of its stores', () => {
  let scene: CutOffScene
  beforeAll(async () => {
    scene = await startCutOffScene(inject('redisUrl') ?? '')
  })
  afterAll(() => scene?.close())

  it.each(HERE)('$store: $how, on the $who: an answered revocation is true, and it recovers', (cutOff) =>
    revokeWhileCutOff(scene, cutOff),
  )

  it.each(['asked', 'done'] as const)(
    'PostgreSQL cut in the midst of a revocation (COMMIT %s): 503, and the repeat is true',
    (moment) => revokeThroughCut(scene, moment),
  )

  it('no fault was a failure of ours: nothing was logged as one', async () => {
    expect(await failuresOf(scene.cluster)).toEqual([])
  })
})

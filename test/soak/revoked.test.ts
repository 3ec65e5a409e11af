// Ten thousand revoked credentials of every kind, through everything that may become of Redis and of our processes.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import {
  type DisasterScene,
  failOver,
  failuresIn,
  flushRedis,
  poisonRedis,
  restartProcesses,
  restartRedis,
  startDisasterScene,
} from '../support/disasters.ts'
import { expectJudged } from '../support/revoked.ts'
import { canThrowAwayRedis } from '../support/throwaway-stores.ts'

const COUNTS = { line: 2_500, version: 1_500, connection: 2_000, person: 750, workspace: 750, client: 500, jti: 2_000 }
const MORE = { line: 50, version: 50, connection: 50, person: 20, workspace: 20, client: 10, jti: 50 }
const STANDING = 50
const MAKING_MS = 10 * 60_000

describe.skipIf(!hasStores() || !canThrowAwayRedis())('of ten thousand revoked credentials none is accepted', () => {
  let scene: DisasterScene
  beforeAll(async () => {
    scene = await startDisasterScene(COUNTS, STANDING)
  }, MAKING_MS)
  afterAll(() => scene?.close())

  it('to begin with', async ({ annotate }) => {
    expect(scene.population.revoked).toHaveLength(10_000)
    await annotate(`made and revoked in ${(scene.madeInMs / 1_000).toFixed(0)} s`)
    await expectJudged(scene, scene.population)
  })

  it('when Redis is flushed', () => flushRedis(scene))

  it('when Redis is away, and when it comes back empty', () => restartRedis(scene))

  it('when every value in Redis was overwritten', () => poisonRedis(scene))

  it('when a replica takes over that knows nothing of it', () => failOver(scene, MORE))

  it('when every process and every API begins anew', () => restartProcesses(scene))

  it('and no process took any of this for a failure of its own', () => {
    expect(failuresIn(scene)).toEqual([])
  })
})

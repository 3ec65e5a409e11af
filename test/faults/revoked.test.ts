// Hundreds of credentials of every kind, revoked: whatever becomes of Redis or of our processes, none is accepted by our API,
// at introspection or by a verifier; and what was not revoked works.
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
import { takeTime } from '../support/times.ts'

takeTime()

const COUNTS = { line: 50, version: 50, connection: 60, person: 30, workspace: 40, client: 20, jti: 50 }
const MORE = { line: 5, version: 5, connection: 5, person: 3, workspace: 3, client: 2, jti: 5 }
const STANDING = 3

describe.skipIf(!hasStores() || !canThrowAwayRedis())('what was revoked stays so', () => {
  let scene: DisasterScene
  beforeAll(async () => {
    scene = await startDisasterScene(COUNTS, STANDING)
  })
  afterAll(() => scene?.close())

  it('to begin with', () => expectJudged(scene, scene.population))

  it('when Redis is flushed', () => flushRedis(scene))

  it('when Redis is away, and when it comes back empty', () => restartRedis(scene))

  it('when every value in Redis was overwritten', () => poisonRedis(scene))

  it('when a replica takes over that knows nothing of it', () => failOver(scene, MORE))

  it('when every process and every API begins anew', () => restartProcesses(scene))

  it('and no process took any of this for a failure of its own', () => {
    expect(failuresIn(scene)).toEqual([])
  })
})

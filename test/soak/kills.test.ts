// Servers killed at random moments, two hundred times: no client is locked out, and none has two live successors.
import { afterAll, beforeAll, describe, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import {
  type KillScene,
  redeemThroughRandomKills,
  refreshThroughRandomKills,
  startKillScene,
} from '../support/kills.ts'

const MOST_DELAY_MS = 40

describe.skipIf(!hasStores())('a process killed at any moment', () => {
  let scene: KillScene
  beforeAll(async () => {
    scene = await startKillScene()
  })
  afterAll(() => scene?.close())

  it('of a refresh, 200 times: each repeat gets the one successor', () =>
    refreshThroughRandomKills(scene, 200, MOST_DELAY_MS))

  it('of a code exchange, 200 times: each client is connected after at most one redirect', () =>
    redeemThroughRandomKills(scene, 200, MOST_DELAY_MS))
})

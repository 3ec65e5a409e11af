// Many writers in two processes, and processes that are killed while they write. The long forms: npm run soak.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  expectOneRecordEach,
  makeWritersScene,
  sealedTraces,
  verifySealed,
  type WritersScene,
  writeThroughKills,
  writeTogether,
} from '../support/audit-writers.ts'
import { hasStores } from '../support/databases.ts'
import { startCluster } from '../support/processes.ts'
import { takeTime } from '../support/times.ts'

takeTime()

describe.skipIf(!hasStores())('the audit log under two processes', () => {
  let scene: WritersScene
  beforeAll(async () => {
    scene = await makeWritersScene(await startCluster())
  })
  afterAll(() => scene?.cluster.close())

  it('takes what many write at once into one chain, without a gap, each once', async () => {
    const written = await writeTogether(scene, { writers: 20, each: 10 })
    expect(written.acknowledged).toBe(200)
    const traces = await sealedTraces(scene)
    expect(traces).toHaveLength(200)
    expect(new Set(traces).size).toBe(200)
    const report = await verifySealed(scene)
    expect(report.chains.map(({ fault }) => fault)).toEqual(report.chains.map(() => null))
  })

  it('has a record of each acknowledged change, and none without one, when processes are killed as they write', async () => {
    const acknowledged = await writeThroughKills(scene, 20)
    await expectOneRecordEach(scene, acknowledged)
    const report = await verifySealed(scene)
    expect(report.chains.map(({ fault }) => fault)).toEqual(report.chains.map(() => null))
  })
})

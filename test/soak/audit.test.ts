// The audit log in the large: many writers, many kills, and a million records that are sealed, read, exported and verified.
import { statSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { verifyFile } from '../../src/audit/file-verification.ts'
import { createSealer } from '../../src/audit/sealer.ts'
import { verifyDatabase } from '../../src/audit/verification.ts'
import { exportTo, listRecords } from '../../src/evidence/service.ts'
import { createSink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { FILLED, fillAuditLog } from '../support/audit-filling.ts'
import {
  expectOneRecordEach,
  makeWritersScene,
  sealedTraces,
  verifySealed,
  type WritersScene,
  writeThroughKills,
  writeTogether,
} from '../support/audit-writers.ts'
import { createScratchDatabase, hasStores, newSink, type ScratchDatabase } from '../support/databases.ts'
import { startCluster } from '../support/processes.ts'

describe.skipIf(!hasStores())('many at once', () => {
  let scene: WritersScene
  beforeAll(async () => {
    scene = await makeWritersScene(await startCluster())
  })
  afterAll(() => scene?.cluster.close())

  it('50 writers in two processes, 200 records each: one chain, sealed within two seconds of the last', async ({
    annotate,
  }) => {
    const written = await writeTogether(scene, { writers: 50, each: 200 })
    const { rate, sealedAfterMs } = written
    await annotate(`${rate.toFixed(0)} records a second; all sealed ${sealedAfterMs.toFixed(0)} ms after the last`)
    expect(written.acknowledged).toBe(10_000)
    expect(sealedAfterMs).toBeLessThan(2_000)
    const traces = await sealedTraces(scene)
    expect([traces.length, new Set(traces).size]).toEqual([10_000, 10_000])
    expect((await verifySealed(scene)).ok).toBe(true)
  })

  it('200 kills', async () => {
    const acknowledged = await writeThroughKills(scene, 200)
    await expectOneRecordEach(scene, acknowledged)
    expect((await verifySealed(scene)).ok).toBe(true)
  })
})

const RECORDS = 1_000_000
/** Of them all there are several times as many. */
const MOST_HEAP_MB = 256

describe.skipIf(!hasStores())('a million records', () => {
  const signer = createSinkSigner([Buffer.alloc(32, 7)])
  const sink = createSink({ kind: 'files', path: newSink() })
  let scratch: ScratchDatabase
  let opened: OpenedDatabase
  beforeAll(async () => {
    scratch = await createScratchDatabase()
    opened = openPostgres(scratch.url, 4, () => {}, { statementTimeoutMs: 0 })
    await fillAuditLog(opened.db, RECORDS)
  }, 20 * 60_000)
  afterAll(async () => {
    await opened?.close()
    await scratch?.drop()
  })

  /** Runs it, and tells how fast it was and what it held at most. */
  async function measured(records: number, work: (onProgress: () => void) => Promise<unknown>): Promise<string> {
    const startedAt = performance.now()
    let most = 0
    const look = () => {
      most = Math.max(most, process.memoryUsage().heapUsed)
    }
    const looking = setInterval(look, 20)
    await work(look)
    clearInterval(looking)
    expect(most / 2 ** 20).toBeLessThan(MOST_HEAP_MB)
    const rate = (records / (performance.now() - startedAt)) * 1_000
    return `${Math.round(rate)} records a second, ${(most / 2 ** 20).toFixed(0)} MB of heap at most`
  }

  it('are sealed', async ({ annotate }) => {
    const sealer = createSealer({
      db: opened.db,
      sink,
      signer,
      onError: (error) => {
        throw error
      },
    })
    await annotate(`sealed: ${await measured(RECORDS, () => sealer.seal())}`)
    await sealer.checkpoint()
  })

  it('are verified in the database', async ({ annotate }) => {
    let report: Awaited<ReturnType<typeof verifyDatabase>> | undefined
    const said = await measured(RECORDS, async (onProgress) => {
      report = await verifyDatabase({ db: opened.db, sink, signer }, onProgress)
    })
    expect(report).toMatchObject({ ok: true, records: RECORDS })
    await annotate(`verified: ${said}`)
  })

  it('have a first page at once', async ({ annotate }) => {
    const startedAt = performance.now()
    const scope = { chain: FILLED, workspaceId: undefined }
    const page = await listRecords(opened.db, scope, { filter: { stale: true }, before: undefined, most: 51 })
    expect(page).toHaveLength(51)
    await annotate(`first page of what is stale: ${(performance.now() - startedAt).toFixed(0)} ms`)
  })

  it('are exported, and verified as a file', async ({ annotate }) => {
    const file = newSink()
    const scope = { chain: FILLED, workspaceId: undefined }
    const exported = await measured(RECORDS, () => exportTo({ db: opened.db, signer }, scope, {}, file))
    let report: Awaited<ReturnType<typeof verifyFile>> | undefined
    const verified = await measured(RECORDS, async (onProgress) => {
      report = await verifyFile(file, { keys: signer.publicKeys(), onProgress })
    })
    expect(report).toMatchObject({ ok: true, records: RECORDS, signature: 'good' })
    await annotate(`exported: ${exported} (${(statSync(file).size / 2 ** 20).toFixed(0)} MB); verified: ${verified}`)
  })
})

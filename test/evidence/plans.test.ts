// The first page of the audit log is read from an index, whatever is asked for: seen in PostgreSQL's own plans.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createSealer } from '../../src/audit/sealer.ts'
import type { Filter } from '../../src/evidence/rules.ts'
import { type KnownFilter, newestFirst } from '../../src/evidence/store.ts'
import { createSink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { fillAuditLog } from '../support/audit-filling.ts'
import { createScratchDatabase, hasStores, newSink, type ScratchDatabase } from '../support/databases.ts'

const RECORDS = 40_000

describe.skipIf(!hasStores())('the first page of many records', () => {
  let scratch: ScratchDatabase
  let opened: OpenedDatabase
  beforeAll(async () => {
    scratch = await createScratchDatabase()
    opened = openPostgres(scratch.url, 2, () => {}, { statementTimeoutMs: 0 })
    await fillAuditLog(opened.db, RECORDS)
    const sink = createSink({ kind: 'files', path: newSink() })
    const signer = createSinkSigner([Buffer.alloc(32, 7)])
    await createSealer({ db: opened.db, sink, signer, onError: () => {} }).seal()
    await sql`analyze audit_chain, audit_pending`.execute(opened.db)
  })
  afterAll(async () => {
    await opened?.close()
    await scratch?.drop()
  })

  async function planOf(filter: KnownFilter): Promise<{ text: string; rowsRead: number }> {
    const query = newestFirst({ chain: 'org_filled', workspaceId: undefined }, filter, undefined, 51)
    const { rows } = await sql<{ 'QUERY PLAN': string }>`explain (analyze, timing off) ${query}`.execute(opened.db)
    const text = rows.map((row) => row['QUERY PLAN']).join('\n')
    const read = [...text.matchAll(/actual rows=(\d+) loops=(\d+)/g)].map(
      ([, count, loops]) => Number(count) * Number(loops),
    )
    const thrownAway = [...text.matchAll(/Rows Removed by Filter: (\d+)/g)].map(([, count]) => Number(count))
    return { text, rowsRead: Math.max(...read, ...thrownAway) }
  }

  const filters: Array<[string, KnownFilter & Partial<Filter>]> = [
    ['nothing', {}],
    ['a workspace', { workspace_id: 'ws_1' }],
    ['a person', { user_id: 'usr_3' }],
    ['a credential', { credential_id: 'key_5' }],
    ['a client', { client_id: 'cl_rare' }],
    ['a version', { token_version: 'v9' }],
    ['a trace', { trace_id: 'trace-700' }],
    ['a profile', { profile_id: 'profile-9' }],
    ['an event', { events: ['rare.event'] }],
    ['failures', { status: 'fail' }],
    ['stale credentials', { stale: true }],
    ['a time', { since: '2020-01-01T00:00:00Z', until: '2099-01-01T00:00:00Z' }],
    ['a workspace and a status', { workspace_id: 'ws_2', status: 'fail' }],
  ]

  it.each(filters)('filtered by %s comes from an index, and reads little more than it shows', async (_name, filter) => {
    const { text, rowsRead } = await planOf(filter)
    expect(text).toMatch(/Index Scan|Bitmap Index Scan/)
    expect(text).not.toMatch(/Seq Scan on audit_.*(actual rows=[1-9]|\n.*\n\s*Rows Removed)/)
    expect(rowsRead, text).toBeLessThan(RECORDS / 10)
  })
})

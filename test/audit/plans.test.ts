// What waits to be sealed is found by indexes, however much of it there is, and whatever else waits beside it.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { pendingOf } from '../../src/audit/store.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { createScratchDatabase, hasStores, type ScratchDatabase } from '../support/databases.ts'

const WAITING = 20_000
const BATCH = 500

describe.skipIf(!hasStores())('a batch of many records that wait', () => {
  let scratch: ScratchDatabase
  let opened: OpenedDatabase
  beforeAll(async () => {
    scratch = await createScratchDatabase()
    opened = openPostgres(scratch.url, 2, () => {}, { statementTimeoutMs: 0 })
    await sql`insert into audit_events (id, organization_id, event, status, trace_id, actor_kind)
      select 'aud_' || n, 'org_a', 'x', 'pass', 't', 'user' from generate_series(1, ${WAITING}::int) n`.execute(
      opened.db,
    )
    await sql`insert into audit_chain (chain, seq, event_id, recorded_at, previous, hash)
      select 'org_b', n, 'aud_b' || n, clock_timestamp(), 'x', 'x' from generate_series(1, ${WAITING}::int) n`.execute(
      opened.db,
    )
    await sql`insert into audit_pending (event_id, organization_id, recorded_at)
      select 'aud_none' || n, 'org_a', '2001-01-01' from generate_series(1, ${BATCH}::int) n`.execute(opened.db)
    await sql`analyze audit_events, audit_chain, audit_pending`.execute(opened.db)
  })
  afterAll(async () => {
    await opened?.close()
    await scratch?.drop()
  })

  it('comes from indexes, and reads little more than it takes', async () => {
    const { rows } = await sql<{ 'QUERY PLAN': string }>`
      explain (analyze, timing off) ${pendingOf('org_a', BATCH)}`.execute(opened.db)
    const text = rows.map((row) => row['QUERY PLAN']).join('\n')
    expect(text).toContain('audit_pending_by_chain')
    expect(text).not.toMatch(/Hash|Seq Scan on audit_(pending|chain|events_\d.*actual)/)
    const read = [...text.matchAll(/actual rows=([\d.]+) loops=(\d+)/g)].map(
      ([, count, loops]) => Number(count) * Number(loops),
    )
    expect(Math.max(...read), text).toBeLessThan(4 * BATCH)
  })
})

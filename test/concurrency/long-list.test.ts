// A list as long as it may become: what is asked of it all the time reads its news, and not the whole of it.
import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { claimUnsent, findEntries, findSeq, markSent, readStanding, renewal } from '../../src/revocation/store.ts'
import type { Db } from '../../src/store/database.ts'
import type { Database } from '../../src/store/tables.ts'
import { createScratchDatabase, hasStores, type ScratchDatabase } from '../support/databases.ts'
import { takeTime } from '../support/times.ts'

takeTime()

const ENTRIES = 50_000

describe.skipIf(!hasStores())(`with ${ENTRIES} entries on the list`, () => {
  let scratch: ScratchDatabase
  let pool: pg.Pool
  let db: Db
  let asked: Array<{ sql: string; parameters: readonly unknown[] }> = []
  let lineage: string
  beforeAll(async () => {
    scratch = await createScratchDatabase()
    pool = new pg.Pool({ connectionString: scratch.url, max: 1 })
    db = new Kysely<Database>({
      dialect: new PostgresDialect({ pool }),
      log: ({ query }) => void asked.push(query),
    })
    await sql`insert into revocation_entries (subject, seq, closed, sent_seq, expires_at)
      select 'key_' || n, n, true, n, now() + interval '1 hour' from generate_series(1, ${ENTRIES}::int) n`.execute(db)
    await sql`analyze revocation_entries`.execute(db)
    lineage = (await readStanding(db, true))?.lineage ?? ''
  })
  afterAll(async () => {
    await db?.destroy()
    await scratch?.drop()
  })

  it.each<[string, () => Promise<unknown>]>([
    ['a renewal of a lease', () => renewal('nobody', ENTRIES).execute(db)],
    ['a reading by one process alone', () => renewal(undefined, ENTRIES).execute(db)],
    ['looking for what nobody sends to the sink', () => claimUnsent(db, 100)],
    ['noting what the sink has', () => markSent(db, lineage, [{ subject: 'key_5', seq: 5 }])],
    ['what one subject’s seq is', () => findSeq(db, 'key_5')],
    ['what a blind process asks', () => findEntries(db, ['key_5', 'ws_5', 'everything'])],
  ])('%s does not read all of it', async (_what, ask) => {
    asked = []
    await ask()
    expect(asked).toHaveLength(1)
    for (const query of asked) {
      const plan = await planOf(query)
      expect(plan).toContain('revocation_entries') // or it is no plan of this
      expect(rowsPassedOver(plan), plan).toBeLessThan(ENTRIES / 100)
    }
  })

  /** As it was carried out, and undone. */
  async function planOf({ sql: text, parameters }: { sql: string; parameters: readonly unknown[] }): Promise<string> {
    await pool.query('begin') // the pool has one connection
    const { rows } = await pool.query(`explain analyze ${text}`, [...parameters])
    await pool.query('rollback')
    return rows.map((row) => String(row['QUERY PLAN'])).join('\n')
  }
})

function rowsPassedOver(plan: string): number {
  const counts = plan.matchAll(/Rows Removed by Filter: (\d+)|actual time=\S+ rows=(\d+)/g)
  return Math.max(...[...counts].map(([, removed, read]) => Number(removed ?? read)))
}

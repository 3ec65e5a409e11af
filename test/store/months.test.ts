// Months ahead: each log that is kept by the month has a partition for it, or somebody is told in time.
import { sql } from 'kysely'
import { describe, expect, it } from 'vitest'
import { monthsAhead } from '../../src/store/migrate.ts'
import { openEmbedded } from '../support/databases.ts'

describe('the months ahead', () => {
  it.each(['audit_events', 'usage_events'])('are as few as those of %s', async (log) => {
    const { db, close } = await openEmbedded()
    try {
      expect(await monthsAhead(db)).toBeGreaterThanOrEqual(12)
      const { rows } = await sql<{ name: string }>`
        select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = ${log}::regclass and c.relname ~ '_[0-9]{4}_[0-9]{2}$' order by 1`.execute(db)
      for (const { name } of rows.slice(2)) await sql`drop table ${sql.table(name)}`.execute(db)
      expect(await monthsAhead(db)).toBe(2)
      for (const { name } of rows.slice(0, 2)) await sql`drop table ${sql.table(name)}`.execute(db)
      expect(await monthsAhead(db)).toBe(0)
    } finally {
      await close()
    }
  })
})

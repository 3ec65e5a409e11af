// What PostgreSQL itself refuses to the role that the server runs as: changing, deleting or emptying the audit log.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { MIGRATIONS } from '../../src/app.ts'
import { record } from '../../src/audit/service.ts'
import { type Db, type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrate.ts'
import { createScratchDatabase, hasStores, type ScratchDatabase } from '../support/databases.ts'

const ROLE = `latchkey_role_${randomBytes(5).toString('hex')}`
const REFUSED = '42501' // insufficient_privilege

describe.skipIf(!hasStores())('as the role of the server', () => {
  let scratch: ScratchDatabase
  let owner: OpenedDatabase
  let server: OpenedDatabase
  beforeAll(async () => {
    scratch = await createScratchDatabase()
    owner = openPostgres(scratch.url, 2, () => {})
    await sql`create role ${sql.id(ROLE)} login`.execute(owner.db)
    await migrate(owner.db, MIGRATIONS, ROLE)
    const url = new URL(scratch.url)
    url.username = ROLE
    server = openPostgres(url.href, 2, () => {})
    await write(server.db)
  })
  afterAll(async () => {
    await server?.close()
    await owner?.close()
    await scratch?.drop()
    if (inject('postgresUrl') === undefined) return
    const admin = openPostgres(inject('postgresUrl') ?? '', 1, () => {})
    await sql`drop role if exists ${sql.id(ROLE)}`.execute(admin.db)
    await admin.close()
  })

  const write = (db: Db) =>
    record(db, { event: 'role.tried', status: 'pass', actor: { kind: 'operator' }, request: { traceId: 'role' } })

  const codeOf = (work: Promise<unknown>): Promise<unknown> =>
    work.then(
      () => 'done',
      (error: unknown) =>
        Reflect.get(Object(error), 'code') ?? Reflect.get(Object(Reflect.get(Object(error), 'cause')), 'code'),
    )

  async function partitions(): Promise<string[]> {
    const { rows } = await sql<{ name: string }>`
      select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
      where i.inhparent = 'audit_events'::regclass`.execute(owner.db)
    return rows.map(({ name }) => name)
  }

  it('records are added', async () => {
    const before = await server.db.selectFrom('audit_events').select('id').execute()
    await write(server.db)
    expect(await server.db.selectFrom('audit_events').select('id').execute()).toHaveLength(before.length + 1)
  })

  it('nothing of the log is updated, deleted, emptied, altered or dropped, in any of its tables and months', async () => {
    const months = await partitions()
    expect(months.length).toBeGreaterThan(12)
    const column: Record<string, string> = {
      audit_archives: 'file_name',
      audit_chain: 'hash',
      audit_checkpoints: 'jws',
    }
    for (const table of ['audit_events', 'audit_chain', 'audit_checkpoints', 'audit_archives', ...months]) {
      const name = sql.table(table)
      const statements = [
        sql`update ${name} set ${sql.id(column[table] ?? 'trace_id')} = 'x'`,
        sql`delete from ${name}`,
        sql`truncate ${name}`,
        sql`alter table ${name} disable trigger all`,
        sql`alter table ${name} add column more text`,
        sql`drop table ${name}`,
      ]
      for (const [place, statement] of statements.entries())
        expect(await codeOf(statement.execute(server.db)), `${table}, statement ${place}`).toBe(REFUSED)
    }
  })

  it('a month takes no record past the log itself, an archive is noted by the owner alone, and replication tricks are refused', async () => {
    const [month = ''] = await partitions()
    const refused = [
      sql`insert into ${sql.table(month)} (id, event, status, trace_id, actor_kind) values ('x', 'x', 'pass', 'x', 'x')`,
      sql`insert into audit_archives (chain, from_seq, to_seq, file_name, jws) values ('system', 1, 1, 'x', 'x')`,
      sql`set session_replication_role = replica`,
      sql`set role ${sql.id('postgres')}`,
      sql`alter table audit_events detach partition ${sql.table(month)}`,
    ]
    for (const [place, statement] of refused.entries())
      expect(await codeOf(statement.execute(server.db)), `statement ${place}`).toBe(REFUSED)
  })

  it('even the owner, who has every right, is stopped by the tables themselves', async () => {
    for (const table of ['audit_events', 'audit_chain', 'audit_checkpoints', 'audit_archives']) {
      expect(await codeOf(sql`truncate ${sql.table(table)}`.execute(owner.db)), table).toBe(REFUSED)
    }
    expect(await codeOf(sql`update audit_events set trace_id = 'x'`.execute(owner.db))).toBe(REFUSED)
    expect(await codeOf(sql`delete from audit_events`.execute(owner.db))).toBe(REFUSED)
  })
})

// Retention: months go into files that are verified without the database, and what stays is verified as before.
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MIGRATIONS } from '../../src/app.ts'
import { archiveBefore } from '../../src/archives/service.ts'
import { verifyFile } from '../../src/audit/file-verification.ts'
import { createSealer, type Sealer } from '../../src/audit/sealer.ts'
import { verifyDatabase } from '../../src/audit/verification.ts'
import { exportTo, listRecords } from '../../src/evidence/service.ts'
import { newId } from '../../src/ids.ts'
import { createSink, type Sink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrate.ts'
import { createScratchDatabase, hasStores, newSink, openEmbedded } from '../support/databases.ts'

const signer = createSinkSigner([Buffer.alloc(32, 7)])
const keys = signer.publicKeys()
const by = { actor: { kind: 'operator' }, request: { traceId: 'archive' } } as const

/** As an owner's role would have made them, when these months were ahead. */
const MONTHS = [
  ['2025_11', '2025-11-01', '2025-12-01'],
  ['2025_12', '2025-12-01', '2026-01-01'],
  ['2026_01', '2026-01-01', '2026-02-01'],
] as const

describe.each(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('archives', () => {
    let opened: OpenedDatabase
    let drop = async () => {}
    let sink: Sink
    let sealer: Sealer
    let directory: string
    beforeEach(async () => {
      const scratch = backend === 'stores' ? await createScratchDatabase() : undefined
      if (scratch !== undefined) drop = scratch.drop
      opened = scratch === undefined ? await openEmbedded() : openPostgres(scratch.url, 4, () => {})
      for (const [name, from, to] of MONTHS)
        await sql`create table ${sql.table(`audit_events_${name}`)} partition of audit_events
          for values from (${sql.lit(from)}) to (${sql.lit(to)})`.execute(opened.db)
      sink = createSink({ kind: 'files', path: newSink() })
      directory = mkdtempSync(join(tmpdir(), 'latchkey-archives-'))
      const onError = (error: Error) => {
        throw error
      }
      sealer = createSealer({ db: opened.db, sink, signer, onError })
    })
    afterEach(async () => {
      await opened.close()
      await drop()
    })

    /** A record of another time: its place in the chain is still where it is sealed. */
    async function write(at: string, chain = 'org_a'): Promise<void> {
      await sql`insert into audit_events (id, recorded_at, organization_id, event, status, trace_id, actor_kind)
        values (${newId('aud')}, ${at}::timestamptz, ${chain}, 'token.created', 'pass', ${`trace-${at}`}, 'operator')`.execute(
        opened.db,
      )
      await sealer.seal()
    }

    const archive = (before: string) =>
      archiveBefore({ db: opened.db, signer }, { before: new Date(before), directory, ...by })
    const verify = () => verifyDatabase({ db: opened.db, sink, signer }, () => {})
    const verifyArchive = (file: string) => verifyFile(file, { keys, onProgress: () => {} })
    const months = async () =>
      (
        await sql<{ name: string }>`select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
          where inhparent = 'audit_events'::regclass and c.relname < 'audit_events_2026_02' order by 1`.execute(
          opened.db,
        )
      ).rows.map(({ name }) => name)

    it('hold a month of every chain; then the month leaves the database, and all of it still verifies', async () => {
      for (const day of ['2025-11-05', '2025-11-20', '2025-12-03', '2026-01-07']) await write(day)
      for (const day of ['2025-11-06', '2026-01-08']) await write(day, 'org_b')
      await sealer.checkpoint()
      const outcome = await archive('2025-12-01')
      expect(outcome.archives.map(({ chain, from, to }) => [chain, from, to])).toEqual([
        ['org_a', 1, 2],
        ['org_b', 1, 1],
      ])
      expect(outcome.dropped).toEqual(['audit_events_2025_11'])
      expect(await months()).toEqual(['audit_events_2025_12', 'audit_events_2026_01'])
      for (const { file } of outcome.archives)
        expect(await verifyArchive(file)).toMatchObject({ ok: true, complete: true, signature: 'good' })
      await sealer.seal()
      const report = await verify()
      expect(report.chains.map(({ fault }) => fault)).toEqual(report.chains.map(() => null))
      expect(report.notes.join(' ')).toContain('in archives')
      const records = await listRecords(
        opened.db,
        { chain: 'org_a', workspaceId: undefined },
        { filter: { event: 'audit.archived' }, before: undefined, most: 10 },
      )
      expect(records.map(({ detail }) => [detail.from, detail.to])).toEqual([[1, 2]])
    })

    it('follow each other, and what is exported afterwards begins where they end', async () => {
      for (const day of ['2025-11-05', '2025-12-03', '2026-01-07']) await write(day)
      const [first] = (await archive('2025-12-01')).archives
      const [second] = (await archive('2026-01-01')).archives
      expect([first?.to, second?.from, second?.to]).toEqual([1, 2, 2])
      const headOf = (file = '') => JSON.parse(readFileSync(file, 'utf8').split('\n')[0] ?? '')
      const one = await verifyArchive(first?.file ?? '')
      expect(headOf(second?.file).from).toEqual({ seq: 2, previous: one.head?.hash })
      const rest = newSink()
      await exportTo({ db: opened.db, signer }, { chain: 'org_a', workspaceId: undefined }, {}, rest)
      expect(headOf(rest).from.seq).toBe(3)
      expect(await verifyArchive(rest)).toMatchObject({ ok: true, complete: true })
    })

    it('are not made twice: a second run finds nothing to do', async () => {
      await write('2025-11-05')
      expect((await archive('2025-12-01')).archives).toHaveLength(1)
      expect(await archive('2025-12-01')).toEqual({ archives: [], dropped: [], notes: [] })
      expect(readdirSync(directory)).toHaveLength(1)
    })

    it('hold what was sealed late with what was sealed meanwhile: a range of the chain, not of the calendar', async () => {
      await write('2025-11-05')
      await write('2026-01-07')
      await archive('2025-12-01')
      await write('2025-12-31')
      const outcome = await archive('2026-01-01')
      expect(outcome.archives.map(({ from, to }) => [from, to])).toEqual([[2, 3]])
      expect(outcome.dropped).toEqual(['audit_events_2025_12'])
      await sealer.seal()
      expect((await verify()).ok).toBe(true)
    })

    it('need no month that nobody made in time: its records are in the default partition, and migrating goes on', async () => {
      const { rows } = await sql<{ name: string }>`select c.relname as name from pg_inherits i
        join pg_class c on c.oid = i.inhrelid where inhparent = 'audit_events'::regclass
        and c.relname <> 'audit_events_default' order by 1 desc limit 1`.execute(opened.db)
      const last = rows[0]?.name ?? ''
      await sql`drop table ${sql.table(last)}`.execute(opened.db)
      await write(`${last.slice(-7).replace('_', '-')}-15`)
      await migrate(opened.db, MIGRATIONS)
      expect((await verify()).ok).toBe(true)
    })

    it('are not made of a chain that was tampered with, and nothing is dropped then', async () => {
      for (const day of ['2025-11-05', '2025-11-06']) await write(day)
      await sql`alter table audit_events_2025_11 disable trigger user`.execute(opened.db)
      await sql`update audit_events_2025_11 set user_id = 'usr_innocent' where recorded_at < '2025-11-06'`.execute(
        opened.db,
      )
      await expect(archive('2025-12-01')).rejects.toMatchObject({ code: 'conflict' })
      expect(await months()).toContain('audit_events_2025_11')
      expect(readdirSync(directory)).toEqual([])
    })

    it('excuse no record that is missing but those they hold, and only where the server signed them', async () => {
      for (const day of ['2025-11-05', '2025-12-03', '2025-12-04', '2026-01-07']) await write(day)
      await archive('2025-12-01')
      await sealer.seal()
      expect((await verify()).ok).toBe(true)
      await sql`alter table audit_events_2025_12 disable trigger user`.execute(opened.db)
      await sql`delete from audit_events_2025_12 where recorded_at < '2025-12-04'`.execute(opened.db)
      const missing = { kind: 'record_missing', chain: 'org_a', seq: 2 }
      expect((await verify()).chains.find(({ chain }) => chain === 'org_a')?.fault).toMatchObject(missing)
      const stranger = createSinkSigner([Buffer.alloc(32, 8)])
      const archived = { chain: 'org_a', from_seq: 2, to_seq: 2, hash: '', sha256: '' }
      const jws = await stranger.signDocument('latchkey-archive', { archive: archived })
      await sql`insert into audit_archives (chain, from_seq, to_seq, file_name, jws)
        values ('org_a', 2, 2, 'x', ${jws})`.execute(opened.db)
      expect((await verify()).chains.find(({ chain }) => chain === 'org_a')?.fault).toMatchObject(missing)
    })

    it('wait for records that are not sealed yet, and for a directory that can be written to', async () => {
      await sql`insert into audit_events (id, recorded_at, organization_id, event, status, trace_id, actor_kind)
        values (${newId('aud')}, '2025-11-05', 'org_a', 'token.created', 'pass', 't', 'operator')`.execute(opened.db)
      await expect(archive('2025-12-01')).rejects.toMatchObject({ code: 'conflict' })
      await sealer.seal()
      const blocked = join(directory, 'file')
      writeFileSync(blocked, '')
      const inFile = { before: new Date('2025-12-01'), directory: blocked, ...by }
      await expect(archiveBefore({ db: opened.db, signer }, inFile)).rejects.toMatchObject({ code: 'invalid_request' })
      expect((await archive('2025-12-01')).archives).toHaveLength(1)
    })
  })
})

// Retention: months go into files that are verified without the database, and what stays is verified as before.
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { sql } from 'kysely'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { MIGRATIONS } from '../../src/app.ts'
import { archiveBefore } from '../../src/archives/service.ts'
import { hashOf } from '../../src/audit/chain.ts'
import { verifyFile } from '../../src/audit/file-verification.ts'
import { createSealer, type Sealer } from '../../src/audit/sealer.ts'
import { record } from '../../src/audit/service.ts'
import { listSealed } from '../../src/audit/store.ts'
import { verifyDatabase, verifyRecent } from '../../src/audit/verification.ts'
import { sentenceOf } from '../../src/console/audit-sentences.ts'
import { exportTo, getChainState, listRecords } from '../../src/evidence/service.ts'
import { newId } from '../../src/ids.ts'
import { createSink, type Sink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { type OpenedDatabase, openPostgres, type Trx, transact } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrate.ts'
import { createScratchDatabase, hasStores, newSink, openEmbedded } from '../support/databases.ts'
import { waitUntil } from '../support/locks.ts'

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
    /** The embedded database has one connection, and one clock. */
    const itWithMany = (name: string, test: () => Promise<void>) => {
      if (backend === 'stores') it(name, test)
    }
    let opened: OpenedDatabase
    let url: string
    let drop = async () => {}
    let sink: Sink
    let sealer: Sealer
    let directory: string
    beforeEach(async () => {
      const scratch = backend === 'stores' ? await createScratchDatabase() : undefined
      url = scratch?.url ?? ''
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

    const insert = (at: string, chain = 'org_a') =>
      sql`insert into audit_events (id, recorded_at, organization_id, event, status, trace_id, actor_kind)
        values (${newId('aud')}, ${at}::timestamptz, ${chain}, 'token.created', 'pass', ${`trace-${at}`}, 'operator')`

    /** A record of another time: its place in the chain is still where it is sealed. */
    async function write(at: string, chain = 'org_a'): Promise<void> {
      await insert(at, chain).execute(opened.db)
      await sealer.seal()
    }

    const archive = (before: string, to = sink) =>
      archiveBefore({ db: opened.db, sink: to, signer }, { before: new Date(before), directory, ...by })
    const verify = (openDocument = signer.openDocument) =>
      verifyDatabase({ db: opened.db, sink, signer: { ...signer, openDocument } }, () => {})
    const faultOf = async (chain: string) => (await verify()).chains.find((report) => report.chain === chain)?.fault

    /** As whoever owns the database could: other records, hashes that fit, and no checkpoint beside them. */
    async function rewrite(partition: string): Promise<void> {
      for (const table of [partition, 'audit_chain', 'audit_checkpoints'])
        await sql`alter table ${sql.table(table)} disable trigger user`.execute(opened.db)
      await sql`update ${sql.table(partition)} set user_id = 'usr_innocent'`.execute(opened.db)
      await sql`delete from audit_checkpoints`.execute(opened.db)
      let previous = '0'.repeat(64)
      for (const { seq, record: sealed } of await listSealed(opened.db, 'org_a', 0, 100)) {
        if (sealed === null) throw new Error('its record is gone')
        const hash = hashOf({ chain: 'org_a', seq, previous }, sealed)
        await sql`update audit_chain set previous = ${previous}, hash = ${hash}
          where chain = 'org_a' and seq = ${seq}`.execute(opened.db)
        previous = hash
      }
    }

    /** A transaction that stays open until the work is done. */
    async function during(begun: (trx: Trx) => Promise<unknown>, work: () => Promise<void>): Promise<void> {
      await transact(opened.db, async (trx) => {
        await sql`set local idle_in_transaction_session_timeout = 0`.execute(trx)
        await begun(trx)
        await work()
      })
    }

    /** Until archiving waits for who uses the log. */
    const untilItWaits = () =>
      waitUntil(
        url,
        `select exists (select from pg_locks where not granted and relation::regclass::text like 'audit_events%'
          and database = (select oid from pg_database where datname = current_database())) as so`,
      )
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
      expect(await archive('2025-12-01')).toEqual({ ok: true, archives: [], dropped: [], notes: [] })
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

    it('are made of every other chain, also where what waits in one can never be sealed', async () => {
      for (const chain of ['org_a', 'org_changed', 'org_poisoned']) await write('2025-11-05', chain)
      await write('2025-12-05')
      await sql`alter table audit_events_2025_11 disable trigger user`.execute(opened.db)
      await sql`update audit_events_2025_11 set user_id = 'usr_innocent' where organization_id = 'org_changed'`.execute(
        opened.db,
      )
      await sql`alter table audit_events_2025_11 enable trigger user`.execute(opened.db)
      await sql`insert into audit_events (id, recorded_at, organization_id, event, status, trace_id, actor_kind, detail)
        values ('aud_poison', '2025-11-06', 'org_poisoned', 'x', 'pass', 't', 'operator', '{"a":1e400}')`.execute(
        opened.db,
      )
      await sealer.seal()
      const outcome = await archive('2025-12-01')
      expect(outcome).toMatchObject({ ok: false, archives: [{ chain: 'org_a', from: 1, to: 1 }], dropped: [] })
      expect(outcome.notes).toEqual([
        expect.stringContaining('org_changed is not whole, and was not archived: '),
        expect.stringContaining('org_poisoned is not whole, and was not archived: '),
        expect.stringContaining('in no archive'),
      ])
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

    /** As whoever owns the database could, in what is noted of archives. */
    async function forge(change: string): Promise<void> {
      await sql`alter table audit_archives disable trigger user`.execute(opened.db)
      await sql`update audit_archives set ${sql.raw(change)} where chain = 'org_a'`.execute(opened.db)
      await sql`alter table audit_archives enable trigger user`.execute(opened.db)
    }

    it.each(['to_seq = 100000', 'from_seq = 2, to_seq = 4', `file_name = 'other.ndjson'`, `jws = 'x'`])(
      'are named where %s was written, and no month leaves that is in no archive',
      async (change) => {
        for (const day of ['2025-11-05', '2025-12-03', '2025-12-04', '2026-01-07']) await write(day)
        await archive('2025-12-01')
        await sealer.seal()
        const deps = { db: opened.db, signer }
        expect((await getChainState(deps, 'org_a')).archived_to).toBe(1)
        await forge(change)
        // Nothing is excused by it: the record that has left is missing.
        expect(await faultOf('org_a')).toMatchObject({ kind: 'record_missing', seq: 1 })
        await expect(archive('2026-01-01')).rejects.toMatchObject({ code: 'conflict' })
        expect(await months()).toEqual(['audit_events_2025_12', 'audit_events_2026_01'])
        expect((await getChainState(deps, 'org_a')).archived_to).toBeNull()
      },
    )

    it('are named where one was noted that nobody made, which begins where no other ends', async () => {
      await write('2025-11-05')
      await sql`insert into audit_archives (chain, from_seq, to_seq, file_name, jws)
        values ('org_a', 1, 100000, 'org_a-1-100000.ndjson', 'x')`.execute(opened.db)
      const forged = { kind: 'archive_forged', chain: 'org_a', seq: 1 }
      expect(await faultOf('org_a')).toMatchObject(forged)
      const { fault } = await verifyRecent({ db: opened.db, signer }, 'org_a', 10)
      expect(fault).toMatchObject(forged)
      const path = newSink()
      await exportTo({ db: opened.db, signer }, { chain: 'org_a', workspaceId: undefined }, {}, path)
      expect(await verifyArchive(path)).toMatchObject({ ok: true, records: 1 })
    })

    it('decide by what was signed which month leaves, also where a row was changed once the log had been verified', async () => {
      for (const day of ['2025-11-05', '2025-12-03', '2025-12-04', '2026-01-07']) await write(day)
      await archive('2025-12-01')
      await sealer.seal()
      let changed = false
      const openDocument: typeof signer.openDocument = async (type, jws) => {
        const payload = await signer.openDocument(type, jws)
        if (!changed) await forge('to_seq = 100000')
        changed = true
        return payload
      }
      const asked = { before: new Date('2026-01-01'), directory, ...by }
      const archiving = archiveBefore({ db: opened.db, sink, signer: { ...signer, openDocument } }, asked)
      await expect(archiving).rejects.toMatchObject({ code: 'server_error' })
      expect(await months()).toEqual(['audit_events_2025_12', 'audit_events_2026_01'])
    })

    it('wait for records that are not sealed yet, and for a directory that can be written to', async () => {
      await sql`insert into audit_events (id, recorded_at, organization_id, event, status, trace_id, actor_kind)
        values (${newId('aud')}, '2025-11-05', 'org_a', 'token.created', 'pass', 't', 'operator')`.execute(opened.db)
      await expect(archive('2025-12-01')).rejects.toMatchObject({ code: 'conflict' })
      await sealer.seal()
      const blocked = join(directory, 'file')
      writeFileSync(blocked, '')
      const inFile = { before: new Date('2025-12-01'), directory: blocked, ...by }
      const archiving = archiveBefore({ db: opened.db, sink, signer }, inFile)
      await expect(archiving).rejects.toMatchObject({ code: 'invalid_request' })
      expect((await archive('2025-12-01')).archives).toHaveLength(1)
    })

    itWithMany('are of months that have begun by the time of the database alone', async () => {
      const ahead = new Date(Date.now() + 70 * 24 * 60 * 60 * 1_000)
      vi.useFakeTimers({ toFake: ['Date'], now: ahead }) // the operator's clock
      try {
        const archiving = archive(`${ahead.toISOString().slice(0, 7)}-01`)
        await expect(archiving).rejects.toMatchObject({ code: 'invalid_request' })
      } finally {
        vi.useRealTimers()
      }
    })

    itWithMany('lose no record whose transaction was open over the end of its month', async () => {
      await write('2025-11-05')
      let archiving: ReturnType<typeof archive> | undefined
      await during(
        (trx) => insert('2025-11-30T23:59:59.9Z').execute(trx),
        async () => {
          archiving = archive('2025-12-01')
          await untilItWaits()
        },
      )
      expect(await archiving).toMatchObject({ dropped: [], notes: [expect.stringContaining('in no archive')] })
      expect(await months()).toContain('audit_events_2025_11')
      await sealer.seal()
      expect((await verify()).ok).toBe(true)
      const again = await archive('2025-12-01')
      expect(again).toMatchObject({ archives: [{ chain: 'org_a', from: 2 }], dropped: ['audit_events_2025_11'] })
    })

    itWithMany('hold up nobody for long who writes while a month is to be dropped', async () => {
      await write('2025-11-05')
      let archiving: ReturnType<typeof archive> | undefined
      await during(
        (trx) => sql`select count(*) from audit_events`.execute(trx),
        async () => {
          archiving = archive('2025-12-01')
          for (let written = 0; written < 2; written++) {
            await untilItWaits()
            await transact(opened.db, (trx) => record(trx, { ...by, event: 'token.created', status: 'pass' }))
          }
        },
      )
      expect(await archiving).toMatchObject({ dropped: ['audit_events_2025_11'] })
    })

    it('leave a record of each month that left, in the words of the pages', async () => {
      await write('2025-11-05')
      await archive('2025-12-01')
      const [dropped, ...more] = await listRecords(
        opened.db,
        { chain: 'system', workspaceId: undefined },
        { filter: { event: 'audit.month_dropped' }, before: undefined, most: 10 },
      )
      if (dropped === undefined) throw new Error('nothing was recorded')
      expect(more).toEqual([])
      expect(dropped).toMatchObject({ status: 'pass', actor_kind: 'operator', detail: { month: '2025-11' } })
      const { sentence } = sentenceOf(dropped, { people: new Map(), subjects: new Map() })
      expect(sentence.join('')).toContain('took 2025-11 out of the database')
    })

    it('are not made of a chain that was written anew: the sink says what it was', async () => {
      for (const day of ['2025-11-05', '2025-11-06']) await write(day)
      await sealer.checkpoint()
      await write('2025-11-07')
      await rewrite('audit_events_2025_11')
      await expect(archive('2025-12-01')).rejects.toMatchObject({ code: 'conflict' })
      expect(await months()).toContain('audit_events_2025_11')
      expect(readdirSync(directory)).toEqual([])
    })

    it('take nothing back of what the sink says of the same entry', async () => {
      for (const day of ['2025-11-05', '2025-11-06']) await write(day)
      await sealer.checkpoint()
      await rewrite('audit_events_2025_11')
      const emptied = createSink({ kind: 'files', path: newSink() })
      expect((await archive('2025-12-01', emptied)).archives).toMatchObject([{ to: 2 }])
      expect(await faultOf('org_a')).toMatchObject({ kind: 'rewritten', seq: 2 })
    })

    it('replace no file, and leave nothing behind where one is in the way', async () => {
      await write('2025-11-05')
      const taken = join(directory, 'org_a-1-1.ndjson')
      writeFileSync(taken, 'another installation')
      await expect(archive('2025-12-01')).rejects.toMatchObject({ code: 'conflict' })
      expect(readFileSync(taken, 'utf8')).toBe('another installation')
      expect(readdirSync(directory)).toEqual(['org_a-1-1.ndjson'])
      expect(await months()).toContain('audit_events_2025_11')
    })

    it('are made once where two set about it', async () => {
      for (const day of ['2025-11-05', '2025-11-06']) await write(day)
      const outcomes = await Promise.allSettled([archive('2025-12-01'), archive('2025-12-01')])
      const done = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
      for (const outcome of outcomes)
        if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'conflict' })
      expect(done.flatMap(({ archives }) => archives)).toHaveLength(1)
      expect(done.flatMap(({ dropped }) => dropped)).toEqual(['audit_events_2025_11'])
      expect(readdirSync(directory)).toEqual(['org_a-1-2.ndjson'])
      await sealer.seal()
      expect((await verify()).ok).toBe(true)
    })

    it('raise no alarm in a verification that runs meanwhile', async () => {
      for (const day of ['2025-11-05', '2025-12-05']) await write(day)
      await archive('2025-12-01')
      await sealer.seal()
      let archived = 0
      const report = await verify(async (type, jws) => {
        if (archived === 0) archived = (await archive('2026-01-01')).dropped.length
        return signer.openDocument(type, jws)
      })
      expect(archived).toBe(1)
      expect(report.chains.map(({ fault }) => fault)).toEqual(report.chains.map(() => null))
    })
  })
})

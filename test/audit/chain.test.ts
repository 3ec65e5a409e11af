// The chain that seals the audit log: whatever is done to the tables behind its back is named.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ROOT } from '../../src/app.ts'
import { hashOf } from '../../src/audit/chain.ts'
import { acceptSetBack, writeCheckpoints } from '../../src/audit/checkpoints.ts'
import { GENESIS, isExact } from '../../src/audit/rules.ts'
import { createSealer, type Sealer, sealNow } from '../../src/audit/sealer.ts'
import { record } from '../../src/audit/service.ts'
import { listSealed } from '../../src/audit/store.ts'
import { type AuditReport, createChainFollower, verifyDatabase, verifyRecent } from '../../src/audit/verification.ts'
import { newId } from '../../src/ids.ts'
import { createSink, type Sink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { createScratchDatabase, hasStores, newSink, openEmbedded } from '../support/databases.ts'

const signer = createSinkSigner([Buffer.alloc(32, 7)])
const COLUMNS = [
  'id',
  'organization_id',
  'workspace_id',
  'event',
  'trace_id',
  'profile_id',
  'actor_kind',
  'actor_id',
  'user_id',
  'client_id',
  'credential_id',
  'token_version',
  'address',
] as const
const CHAIN_COLUMNS = ['event_id', 'previous', 'hash'] as const

it('is described so that another program finds the same hash', () => {
  const page = readFileSync(join(ROOT, 'docs/audit.md'), 'utf8')
  const [, example = '', hash] = /```json\n(.*)\n```[\s\S]*?```\n([0-9a-f]{64})\n```/.exec(page) ?? []
  expect(hashOf({ chain: 'org_1', seq: 1, previous: GENESIS }, JSON.parse(example))).toBe(hash)
})

describe('the chain', () => {
  let opened: OpenedDatabase
  let path: string
  let sink: Sink
  let sealer: Sealer
  beforeAll(async () => {
    opened = await openEmbedded()
    await sql`alter table audit_events disable trigger user`.execute(opened.db)
    await sql`alter table audit_events enable trigger audit_events_queued`.execute(opened.db)
    for (const table of ['audit_chain', 'audit_checkpoints'])
      await sql`alter table ${sql.table(table)} disable trigger user`.execute(opened.db)
  })
  afterAll(() => opened?.close())
  beforeEach(async () => {
    for (const table of ['audit_events', 'audit_chain', 'audit_pending', 'audit_checkpoints'])
      await sql`truncate ${sql.table(table)}`.execute(opened.db)
    path = newSink()
    sink = createSink({ kind: 'files', path })
    sealer = createSealer({
      db: opened.db,
      sink,
      signer,
      onError: (error) => {
        throw error
      },
    })
  })
  afterEach(() => sealer.close())

  const organizations = ['org_a', 'org_b'] as never[]
  async function write(count: number, organizationId: never | null = organizations[0] ?? null): Promise<void> {
    for (let place = 0; place < count; place++) {
      await record(opened.db, {
        event: 'token.revoked',
        status: 'pass',
        actor: { kind: 'user', id: 'usr_x' },
        request: { traceId: `trace-${place}`, profileId: 'profile', address: '192.0.2.1' },
        organizationId,
        workspaceId: 'ws_x',
        userId: 'usr_x',
        clientId: 'cl_x',
        credentialId: 'key_x',
        tokenVersion: 3,
        detail: { place, 'ä"\u2028': ['\u{1F511}', null, { b: 1, a: true }] },
      })
    }
  }
  const verify = (): Promise<AuditReport> => verifyDatabase({ db: opened.db, sink, signer }, () => {})
  const faultOf = async () => (await verify()).chains.find(({ fault }) => fault !== null)?.fault
  const run = (text: string) => sql.raw(text).execute(opened.db)

  it('seals what was recorded, each organization by itself, and what belongs to none', async () => {
    await write(3)
    await write(2, organizations[1])
    await write(1, null)
    expect(await verify()).toMatchObject({
      ok: true,
      records: 0,
      chains: [{ waiting: 3 }, { waiting: 2 }, { waiting: 1 }],
    })
    expect(await sealer.seal()).toBe(6)
    const report = await verify()
    expect(report).toMatchObject({ ok: true, records: 6 })
    expect(report.chains.map(({ chain, records }) => [chain, records])).toEqual([
      ['org_a', 3],
      ['org_b', 2],
      ['system', 1],
    ])
    expect(await sealer.seal()).toBe(0)
  })

  it('goes on from its head, in batches, without a gap', async () => {
    await write(3)
    await sealer.seal()
    await write(1_003)
    expect(await sealer.seal()).toBe(1_003)
    expect(await verify()).toMatchObject({ ok: true, records: 1_006 })
  })

  it('names the first record of which any column was changed', async () => {
    await write(12)
    await sealer.seal()
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...COLUMNS), fc.integer({ min: 1, max: 12 }), async (column, seq) => {
        const { rows } = await sql<{ id: string; was: string | null }>`
          select e.id, e.${sql.ref(column)} as was from audit_events e join audit_chain c on c.event_id = e.id where c.seq = ${seq}`.execute(
          opened.db,
        )
        const [row] = rows
        const changed = row?.was === null ? 'something' : `${row?.was}x`
        await sql`update audit_events set ${sql.ref(column)} = ${changed} where id = ${row?.id}`.execute(opened.db)
        expect(await faultOf()).toMatchObject({ kind: column === 'id' ? 'record_missing' : 'record_changed', seq })
        await sql`update audit_events set ${sql.ref(column)} = ${row?.was} where ${sql.ref(column === 'id' ? 'id' : 'id')} = ${column === 'id' ? changed : row?.id}`.execute(
          opened.db,
        )
        expect(await faultOf()).toBeUndefined()
      }),
      { numRuns: 30 },
    )
  })

  it.each([
    ['the status', `status = 'fail'`],
    ['the time, by a microsecond', `recorded_at = recorded_at + interval '1 microsecond'`],
    ['a number in the detail', `detail = jsonb_set(detail, '{place}', '99')`],
    ['a number beyond what JSON holds', `detail = jsonb_set(detail, '{place}', '2.00000000000000000001')`],
    ['one more member of the detail', `detail = detail || '{"more": 1}'`],
  ])('notices a change of %s', async (_what, change) => {
    await write(5)
    await sealer.seal()
    await run(`update audit_events set ${change} where id = (select event_id from audit_chain where seq = 3)`)
    expect(await faultOf()).toMatchObject({ seq: 3 })
    expect((await verify()).chains[0]?.records).toBe(2)
  })

  it('names a record that was moved, with its entry, to a time whose text would be the same or none', async () => {
    await write(5)
    await sealer.seal()
    const { rows } = await sql<{ seq: number; id: string; at: string }>`
      select seq::int as seq, event_id as id, recorded_at::text as at from audit_chain order by seq`.execute(opened.db)
    async function move(id: string, at: string): Promise<void> {
      await sql`update audit_events set recorded_at = ${at}::timestamptz where id = ${id}`.execute(opened.db)
      await sql`update audit_chain set recorded_at = ${at}::timestamptz where event_id = ${id}`.execute(opened.db)
      await run('truncate audit_pending')
    }
    const eras = ['BC', 'infinity', '-infinity', 'later']
    const inEra = (at: string, era: string) =>
      era === 'BC' ? `${at} BC` : era === 'later' ? at.replace(/^\d{4}/, '12026') : era
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...eras), fc.constantFrom(...rows), async (era, { seq, id, at }) => {
        await move(id, inEra(at, era))
        expect(await faultOf()).toMatchObject({ kind: 'record_changed', seq })
        await move(id, at)
        expect(await faultOf()).toBeUndefined()
      }),
      { numRuns: 12 },
    )
  })

  it.each(CHAIN_COLUMNS)('notices a change of %s in the chain itself', async (column) => {
    await write(5)
    await sealer.seal()
    await run(`update audit_chain set ${column} = 'x' || ${column} where seq = 3`)
    expect(await faultOf()).toMatchObject({ seq: 3 })
  })

  it.each([
    [
      'a record deleted',
      `delete from audit_events where id = (select event_id from audit_chain where seq = 3)`,
      { kind: 'record_missing', seq: 3 },
    ],
    ['an entry deleted', 'delete from audit_chain where seq = 3', { kind: 'entry_missing', seq: 4 }],
    [
      'both deleted',
      'with gone as (delete from audit_chain where seq = 3 returning event_id) delete from audit_events using gone where id = event_id',
      { kind: 'entry_missing', seq: 4 },
    ],
    [
      'two swapped',
      `update audit_chain set event_id = case seq when 2 then (select event_id from audit_chain where seq = 4) else (select event_id from audit_chain where seq = 2) end,
       recorded_at = case seq when 2 then (select recorded_at from audit_chain where seq = 4) else (select recorded_at from audit_chain where seq = 2) end where seq in (2, 4)`,
      { kind: 'record_changed', seq: 2 },
    ],
    [
      'one put in',
      `insert into audit_events (id, event, status, trace_id, actor_kind, organization_id) values ('aud_forged', 'x', 'pass', 't', 'user', 'org_a');`,
      { kind: 'record_not_sealed', record_id: 'aud_forged' },
    ],
    [
      'one doubled',
      `insert into audit_chain (chain, seq, event_id, recorded_at, previous, hash) select chain, 6, event_id || '', recorded_at, hash, hash from audit_chain where seq = 5`,
      { seq: 6 },
    ],
  ])('notices %s', async (_what, statement, fault) => {
    await run('alter table audit_chain drop constraint if exists audit_chain_event_id_key')
    await write(5)
    await sealer.seal()
    await run(statement)
    await run(`delete from audit_pending where event_id = 'aud_forged'`)
    expect(await faultOf()).toMatchObject(fault)
  })

  it('notices a cut at the end, up to the last checkpoint', async () => {
    await write(5)
    await sealer.seal()
    await sealer.checkpoint()
    await write(2)
    await sealer.seal()
    await run('delete from audit_events where id in (select event_id from audit_chain where seq > 5)')
    await run('delete from audit_chain where seq > 5')
    expect(await faultOf()).toBeUndefined() // no checkpoint had named these
    await run('delete from audit_events where id in (select event_id from audit_chain where seq > 4)')
    await run('delete from audit_chain where seq > 4')
    expect(await faultOf()).toMatchObject({ kind: 'cut_off', seq: 5 })
    await run('truncate audit_chain')
    await run('truncate audit_events')
    expect(await faultOf()).toMatchObject({ kind: 'cut_off', seq: 1 })
  })

  it('is verified after years of checkpoints', () => {
    const signed = new Map(Array.from({ length: 300_000 }, (_, place) => [place + 1, 'hash']))
    expect(createChainFollower('org_a', signed).report(0)).toMatchObject({ fault: { kind: 'cut_off', seq: 1 } })
  })

  it('goes on where one chain cannot be sealed and the sink hangs; the end seals what is left', async () => {
    const errors: Error[] = []
    const hanging = { ...sink, append: () => new Promise<void>(() => {}) }
    const other = createSealer({ db: opened.db, sink: hanging, signer, onError: (error) => void errors.push(error) })
    await write(2)
    await other.seal()
    void other.checkpoint()
    await run(`create function refuse_org_a() returns trigger language plpgsql as $$
      begin if new.chain = 'org_a' then raise 'not this one'; end if; return new; end $$`)
    await run('create trigger refuse before insert on audit_chain for each row execute function refuse_org_a()')
    await write(1)
    await write(3, organizations[1])
    await other.close()
    await run('drop function refuse_org_a cascade')
    expect(errors).toMatchObject([{ message: expect.stringContaining('not this one') }])
    expect((await verify()).chains).toMatchObject([{ records: 2, waiting: 1 }, { records: 3 }])
  })

  it('goes on from where a restore has set it back, once somebody has accepted that', async () => {
    await write(5)
    await write(2, organizations[1])
    await sealer.seal()
    await sealer.checkpoint()
    const isLost = `(chain = 'org_b' or seq > 3)`
    await run(`delete from audit_events where id in (select event_id from audit_chain where ${isLost})`)
    await run(`delete from audit_chain where ${isLost}`)
    expect((await verify()).chains.map(({ fault }) => fault?.kind)).toEqual(['cut_off', 'cut_off'])
    expect(await acceptSetBack({ db: opened.db, sink, signer })).toBe(2)
    const report = await verify()
    expect(report).toMatchObject({ ok: true, records: 3 })
    expect(report.notes.toSorted().join()).toMatch(/org_a was set back to entry 3 .*org_b was set back to entry 0/)
    expect(await acceptSetBack({ db: opened.db, sink, signer })).toBe(0)
    await write(4)
    await sealer.seal()
    await run('truncate audit_checkpoints') // as in the backup
    await sealer.checkpoint()
    expect(await verify()).toMatchObject({ ok: true, records: 7 })
    await run('delete from audit_events where id in (select event_id from audit_chain where seq > 6)')
    await run('delete from audit_chain where seq > 6')
    expect(await faultOf()).toMatchObject({ kind: 'cut_off', seq: 7 })
  })

  it('notices a chain that was written anew with hashes that fit', async () => {
    await write(5)
    await sealer.seal()
    await sealer.checkpoint()
    await run(
      `update audit_events set user_id = 'usr_other' where id = (select event_id from audit_chain where seq = 2)`,
    )
    await run(
      'insert into audit_pending (event_id, organization_id, recorded_at) select id, organization_id, recorded_at from audit_events',
    )
    await run('truncate audit_chain')
    await sealer.seal()
    expect(await faultOf()).toMatchObject({ kind: 'rewritten', seq: 5 })
    await sealer.checkpoint() // signed over the new one: the old one still speaks
    expect(await faultOf()).toMatchObject({ kind: 'rewritten', seq: 5 })
    await run('truncate audit_checkpoints')
    await sealer.checkpoint() // signed once more, for the same entry
    expect(await faultOf()).toMatchObject({ kind: 'rewritten', seq: 5 })
  })

  it('names a record that was to be sealed and is gone', async () => {
    await write(2)
    await sealer.seal()
    await write(1, organizations[1])
    const { rows } = await sql<{ id: string }>`
      delete from audit_events where id = (select event_id from audit_pending) returning id`.execute(opened.db)
    const lost = { kind: 'record_missing', chain: 'org_b', record_id: rows[0]?.id }
    expect(rows).toHaveLength(1)
    expect(await faultOf()).toMatchObject(lost)
    await sealer.seal()
    expect(await faultOf()).toMatchObject(lost)
  })

  /** As the server's role may. */
  const wait = (id: string, at: string, chain = 'org_a') =>
    sql`insert into audit_pending (event_id, recorded_at, organization_id) values (${id}, ${at}::timestamptz, ${chain})`.execute(
      opened.db,
    )
  const insertEvent = (id: string, at: string) =>
    sql`insert into audit_events (id, recorded_at, event, status, trace_id, actor_kind, organization_id)
      values (${id}, ${at}::timestamptz, 'x', 'pass', 't', 'user', 'org_a')`.execute(opened.db)
  const waitingIds = async () =>
    (await sql<{ event_id: string }>`select event_id from audit_pending order by 1`.execute(opened.db)).rows.map(
      ({ event_id }) => event_id,
    )

  it('goes on where what is sealed already waits once more, more of it than are sealed at once', async () => {
    await write(1_200)
    await sealer.seal()
    await run(`insert into audit_pending (event_id, organization_id, recorded_at)
      select event_id, chain, recorded_at from audit_chain`)
    await write(2)
    expect(await sealer.seal()).toBe(2)
    expect(await waitingIds()).toEqual([])
    expect(await verify()).toMatchObject({ ok: true, records: 1_202 })
  })

  it('goes on past what waits and can never be sealed, whose name it says', async () => {
    await run(`insert into audit_pending (event_id, organization_id, recorded_at)
      select 'aud_none' || place, 'org_a', '2001-01-01'::timestamptz + place * interval '1 second' from generate_series(1, 1100) as place`)
    await wait('aud_later', '2999-01-01')
    await insertEvent('aud_before', '2026-01-01 BC')
    await insertEvent('aud_ever', '-infinity')
    await insertEvent('aud_never', 'infinity')
    await write(3)
    await sealNow(opened.db, 'org_a')
    expect(await waitingIds()).toHaveLength(1_104)
    expect((await verify()).chains).toMatchObject([
      { chain: 'org_a', records: 3, waiting: 1_104, fault: { kind: 'record_missing', record_id: 'aud_ever' } },
    ])
  })

  const nested = (levels: number) => `${'{"a":'.repeat(levels - 1)}1${'}'.repeat(levels - 1)}`
  const insertDetail = (id: string, detail: string, chain = 'org_a') =>
    sql`insert into audit_events (id, event, status, trace_id, actor_kind, organization_id, detail)
      values (${id}, 'x', 'pass', 't', 'operator', ${chain}, ${sql.lit(detail)}::jsonb)`.execute(opened.db)

  it.each([
    ['1e400', '{"a":1e400}'],
    ['a fraction', '{"a":[{"b":0.5}]}'],
    ['no object', 'null'],
    ['a number that JSON does not hold exactly', '{"a":9007199254740992}'],
    ['one level too many', nested(101)],
    ['thousands of levels', nested(4_000)],
    ['lists in lists', `{"a":${'['.repeat(4_000)}${']'.repeat(4_000)}}`],
  ])(
    'goes on past a record with %s, more of them than are sealed at once, and names the first',
    async (_what, detail) => {
      await insertDetail('aud_poison', detail)
      await insertDetail('aud_poison_b', detail, 'org_b')
      if (detail.length < 1_000)
        for (let place = 0; place < 510; place++) await insertDetail(`aud_poison${place}`, detail)
      await write(3)
      expect(await sealer.seal()).toBe(3)
      await sealNow(opened.db, 'org_a')
      const poisoned = (chain: string, record_id: string) => ({
        fault: { kind: 'record_not_sealed', chain, record_id },
      })
      expect((await verify()).chains).toMatchObject([
        { ...poisoned('org_a', 'aud_poison'), records: 3 },
        poisoned('org_b', 'aud_poison_b'),
      ])
      await run(`update audit_events set user_id = 'usr_innocent' where trace_id = 'trace-1'`)
      expect(await faultOf()).toMatchObject({ kind: 'record_changed', seq: 2 })
    },
  )

  it('names a record that was sealed and then nested deeper than can be followed', async () => {
    await write(2)
    await sealer.seal()
    await run(`update audit_events set detail = '${nested(4_000)}'
      where id = (select event_id from audit_chain where seq = 2)`)
    expect(await faultOf()).toMatchObject({ kind: 'record_changed', seq: 2 })
  })

  it('seals what is nested as deep as can be, and takes nothing that is deeper', async () => {
    await insertDetail('aud_deep', nested(100))
    expect(await sealer.seal()).toBe(1)
    expect(await verify()).toMatchObject({ ok: true, records: 1 })
    const writing = (levels: number) =>
      record(opened.db, {
        event: 'x',
        status: 'pass',
        actor: { kind: 'operator' },
        request: { traceId: 't' },
        detail: JSON.parse(nested(levels)),
      })
    await writing(100)
    await expect(writing(101)).rejects.toThrow(TypeError)
  })

  it('seals whatever the database takes for exact, with a hash that verifies', async () => {
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), fc.jsonValue()), async (detail) => {
        const text = JSON.stringify(detail)
        if (/\\u(0000|d[89a-f])/i.test(text)) return // no database takes it
        await insertDetail(newId('aud'), text)
        await sealer.seal()
        const [waiting] = await waitingIds()
        expect(waiting === undefined).toBe(isExact(JSON.parse(text)))
        if (waiting === undefined) expect(await verify()).toMatchObject({ ok: true })
        await run('truncate audit_events')
        await run('truncate audit_pending')
        await run('truncate audit_chain')
      }),
      { numRuns: 60 },
    )
  })

  it.each([
    ['aud_before', '2026-01-01 BC'],
    ['aud_ever', '-infinity'],
    ['aud_never', 'infinity'],
  ])('names %s, which waits and has a time that no record has', async (id, at) => {
    await insertEvent(id, at)
    await write(1)
    expect(await sealer.seal()).toBe(1)
    expect(await faultOf()).toMatchObject({ kind: 'record_missing', record_id: id })
  })

  it('goes on past a record that waits in the name of another organization, and names it', async () => {
    await write(2)
    await run(
      `update audit_pending set organization_id = 'org_b' where recorded_at = (select min(recorded_at) from audit_pending)`,
    )
    await write(2, organizations[1])
    expect(await sealer.seal()).toBe(3)
    expect(await faultOf()).toMatchObject({ kind: 'record_missing', chain: 'org_b' })
  })

  it('goes on past a second record of an id that is sealed, and names it', async () => {
    await write(1)
    await sealer.seal()
    const [entry] = await listSealed(opened.db, 'org_a', 0, 1)
    await insertEvent(entry?.event_id ?? '', '2026-01-01')
    await write(1)
    expect(await sealer.seal()).toBe(1)
    expect(await waitingIds()).toEqual([])
    expect(await faultOf()).toMatchObject({ kind: 'record_not_sealed', record_id: entry?.event_id })
  })

  it('names a record that was put in beside it, in every chain', async () => {
    await run(`insert into audit_events (id, event, status, trace_id, actor_kind, organization_id)
      select 'aud_a' || place, 'x', 'pass', 't', 'user', 'org_a' from generate_series(1, 1100) as place`)
    await run(`insert into audit_events (id, event, status, trace_id, actor_kind, organization_id)
      values ('aud_b', 'x', 'pass', 't', 'user', 'org_b')`)
    await run('truncate audit_pending')
    expect((await verify()).chains.map(({ chain, fault }) => [chain, fault?.kind])).toEqual([
      ['org_a', 'record_not_sealed'],
      ['org_b', 'record_not_sealed'],
    ])
  })

  it('names a record whose detail was nested deeper than can be hashed', async () => {
    await write(1)
    await sealer.seal()
    const [entry] = await listSealed(opened.db, 'org_a', 0, 1)
    if (entry?.record == null) throw new Error('nothing was sealed')
    let detail = {}
    for (let depth = 0; depth < 100_000; depth++) detail = { a: detail }
    const nested = { ...entry, record: { ...entry.record, detail } }
    const fault = createChainFollower('org_a', new Map()).follow(nested)
    expect([fault?.kind, fault?.seq]).toEqual(['record_changed', 1])
  })

  it('says what it cannot vouch for: a checkpoint that nobody signed, records that wait for long', async () => {
    await write(1)
    await run(`update audit_pending set recorded_at = recorded_at - interval '1 minute'`)
    await sealer.checkpoint()
    writeFileSync(path, '{"checkpoint":"org_a","jws":"x.y.z"}\n{"checkpoint":"org_a","jw')
    const { notes } = await verify()
    expect(notes.join()).toMatch(/wait to be sealed/)
    expect(notes.join()).toMatch(/2 checkpoints/)
  })

  const noteCheckpoint = (chain: string, seq: string, jws: string) =>
    sql`insert into audit_checkpoints (chain, seq, jws) values (${chain}, ${seq}::bigint, ${jws})`.execute(opened.db)
  const jwsOf = (by = signer, checkpoint: object = { chain: 'org_a', seq: 2, hash: 'x', made_at: 'now' }) =>
    by.sign({ checkpoint })
  const sunk = () => readFileSync(path, 'utf8').split('\n').filter(Boolean)

  it('signs a head whatever else is noted as its checkpoint: a later cut does not go unseen', async () => {
    await write(2)
    await sealer.seal()
    await sealer.checkpoint()
    const own = JSON.parse(sunk()[0] ?? '').jws
    for (const [seq, jws] of [
      ['9000000000000', 'x'],
      ['9223372036854775807', own],
      ['5', await jwsOf(createSinkSigner([Buffer.alloc(32, 8)]), { chain: 'org_a', seq: 5 })],
    ] as const)
      await noteCheckpoint('org_a', seq, jws)
    await write(3)
    await sealer.seal()
    await sealer.checkpoint()
    expect(sunk()).toHaveLength(2)
    await run('delete from audit_events where id in (select event_id from audit_chain where seq > 2)')
    await run('delete from audit_chain where seq > 2')
    expect(await faultOf()).toMatchObject({ kind: 'cut_off', seq: 3 })
  })

  it.each([
    ['is none', '9000000000000', async () => 'x'],
    ['names another entry', '9223372036854775807', () => jwsOf()],
    ['names another chain', '2', () => jwsOf(signer, { chain: 'org_b', seq: 2, hash: 'x' })],
    ['is signed by somebody else', '2', () => jwsOf(createSinkSigner([Buffer.alloc(32, 8)]))],
    ['says where a restore went on', '2', () => jwsOf(signer, { chain: 'org_a', seq: 2, hash: 'x', restored: true })],
  ])('names what is noted as a checkpoint and %s', async (_what, seq, make) => {
    await write(3)
    await sealer.seal()
    await noteCheckpoint('org_a', seq, await make())
    const forged = { kind: 'checkpoint_forged', chain: 'org_a', says: expect.stringContaining(`entry ${seq} of org_a`) }
    expect(await faultOf()).toMatchObject(forged)
    const { fault } = await verifyRecent({ db: opened.db, signer }, 'org_a', 10)
    expect(fault).toMatchObject(forged)
  })

  it('refuses a place that JSON does not hold exactly, and the next of which neither', async () => {
    for (const seq of ['9223372036854775807', '9007199254740992', '9007199254740991'])
      await expect(
        run(`insert into audit_chain (chain, seq, event_id, recorded_at, previous, hash)
          values ('org_a', ${seq}, 'junk', now(), 'a', 'b')`),
      ).rejects.toThrow('audit_chain_seq_exact')
  })

  it('signs each head once, and notes those of the others, where a row says a place that is none', async () => {
    await write(1)
    await write(1, organizations[1])
    await sealer.seal()
    await run('alter table audit_chain drop constraint audit_chain_seq_exact') // it may be there from before
    await run(`insert into audit_chain (chain, seq, event_id, recorded_at, previous, hash)
      values ('org_b', 9223372036854775807, 'junk', now(), 'a', 'b')`)
    await write(1, 'org_c' as never)
    await write(1, 'org_0' as never)
    await sealer.seal()
    const known = new Map()
    const writing = () => writeCheckpoints({ db: opened.db, sink, signer }, known)
    await expect(writing()).rejects.toThrow()
    expect(sunk()).toHaveLength(4)
    const { rows } = await sql<{ chain: string }>`select chain from audit_checkpoints order by 1`.execute(opened.db)
    expect(rows.map(({ chain }) => chain)).toEqual(['org_0', 'org_a', 'org_c'])
    await expect(writing()).rejects.toThrow()
    expect(sunk()).toHaveLength(4)
  })

  it('notes a head that was signed once it can, and signs it no second time', async () => {
    await write(1)
    await sealer.seal()
    const known = new Map()
    const writing = () => writeCheckpoints({ db: opened.db, sink, signer }, known)
    await run('alter table audit_checkpoints add constraint trouble check (seq < 0)')
    await expect(writing()).rejects.toThrow()
    await run('alter table audit_checkpoints drop constraint trouble')
    await writing()
    const { rows } = await sql`select chain from audit_checkpoints`.execute(opened.db)
    expect([rows, sunk().length]).toEqual([[{ chain: 'org_a' }], 1])
  })

  it('takes checkpoints that were signed before the master key was changed', async () => {
    await write(2)
    await sealer.seal()
    await sealer.checkpoint()
    const changed = createSinkSigner([Buffer.alloc(32, 8), Buffer.alloc(32, 7)])
    await createSealer({ db: opened.db, sink, signer: changed, onError: () => {} }).checkpoint()
    expect(sunk()).toHaveLength(1)
    const report = await verifyDatabase({ db: opened.db, sink, signer: changed }, () => {})
    expect(report).toMatchObject({ ok: true, chains: [{ checkpoints: 1 }], notes: [] })
  })

  it('says that the sink lacks what was written to it', async () => {
    await write(2)
    await write(1, organizations[1])
    await sealer.seal()
    await sealer.checkpoint()
    expect((await verify()).notes).toEqual([])
    writeFileSync(path, '')
    expect((await verify()).notes).toEqual([expect.stringContaining('lacks the last checkpoint of org_a, org_b')])
  })

  it('says nothing of a sink that is written to while it is read', async () => {
    await write(2)
    await sealer.seal()
    await sealer.checkpoint()
    const busy: Sink = {
      ...sink,
      async *read(after) {
        yield* sink.read(after)
        await write(1)
        await sealer.seal()
        await sealer.checkpoint()
      },
    }
    const report = await verifyDatabase({ db: opened.db, sink: busy, signer }, () => {})
    expect(report).toMatchObject({ ok: true, records: 3, notes: [] })
  })

  it('writes one checkpoint a chain that has grown, and no other', async () => {
    await write(2)
    await write(2, organizations[1])
    await sealer.seal()
    await sealer.checkpoint()
    await sealer.checkpoint()
    await write(1)
    await sealer.seal()
    await sealer.checkpoint()
    expect(readFileSync(path, 'utf8').split('\n').filter(Boolean)).toHaveLength(3)
    expect((await verify()).chains.map(({ checkpoints }) => checkpoints)).toEqual([2, 1])
  })
})

describe.skipIf(!hasStores())('many writers and two sealers', () => {
  it('make one chain an organization: gapless, linear, complete', async () => {
    const scratch = await createScratchDatabase()
    const processes = [openPostgres(scratch.url, 8, () => {}), openPostgres(scratch.url, 8, () => {})]
    const sink = createSink({ kind: 'files', path: newSink() })
    const errors: Error[] = []
    const sealers = processes.map(({ db }) =>
      createSealer({ db, sink, signer, onError: (error) => void errors.push(error) }),
    )
    const [first] = processes
    if (first === undefined) throw new Error('no database')
    let written = false
    const sealing = Promise.all(
      sealers.map(async (sealer) => {
        while (!written) await sealer.seal()
      }),
    )
    await Promise.all(
      Array.from({ length: 20 }, async (_, writer) => {
        for (let count = 0; count < 20; count++)
          await processes[writer % 2]?.db.transaction().execute(async (trx) => {
            await record(trx, {
              event: 'x',
              status: 'pass',
              actor: { kind: 'operator' },
              request: { traceId: newId('aud') },
              organizationId: writer === 0 ? 'org_other' : 'org_one',
              detail: { writer, count },
            })
            if (count % 5 === 4) await sql`select pg_sleep(0.02)`.execute(trx)
          })
      }),
    )
    written = true
    await sealing
    await Promise.all(sealers.map((sealer) => sealer.seal()))
    while ((await sealers[0]?.seal()) !== 0);
    const report = await verifyDatabase({ db: first.db, sink, signer }, () => {})
    expect(errors).toEqual([])
    expect(report).toMatchObject({ ok: true, records: 400 })
    expect(report.chains.map(({ chain, records, waiting }) => [chain, records, waiting])).toEqual([
      ['org_one', 380, 0],
      ['org_other', 20, 0],
    ])
    for (const opened of processes) await opened.close()
    await scratch.drop()
  })
})

describe.skipIf(!hasStores())('on PostgreSQL', () => {
  it('a record that is nested as deep as it can be written holds up neither, and is named', async () => {
    const scratch = await createScratchDatabase()
    const opened = openPostgres(scratch.url, 2, () => {})
    const deps = { db: opened.db, sink: createSink({ kind: 'files', path: newSink() }), signer }
    const sealer = createSealer({ ...deps, onError: (error) => expect.unreachable(error.message) })
    const insert = async (levels: number) => {
      const detail = `${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`
      await sql`insert into audit_events (id, event, status, trace_id, actor_kind, organization_id, detail)
        values (${`aud_${levels}`}, 'x', 'pass', 't', 'user', 'org_a', ${detail}::jsonb)`.execute(opened.db)
    }
    let [most, refused] = [100, 100_000]
    while (refused - most > 1) {
      const levels = Math.floor((most + refused) / 2)
      const isTaken = await insert(levels).then(
        () => true,
        () => false,
      )
      if (isTaken) most = levels
      else refused = levels
    }
    expect(most).toBeGreaterThan(1_000)
    await insert(98)
    expect(await sealer.seal()).toBe(1)
    const report = await verifyDatabase(deps, () => {})
    expect(report.chains).toMatchObject([{ chain: 'org_a', records: 1, fault: { kind: 'record_not_sealed' } }])
    await opened.close()
    await scratch.drop()
  })

  it('records at times without an end hold up neither sealing nor verification, which names them', async () => {
    const scratch = await createScratchDatabase()
    const opened = openPostgres(scratch.url, 2, () => {})
    const deps = { db: opened.db, sink: createSink({ kind: 'files', path: newSink() }), signer }
    const errors: Error[] = []
    const sealer = createSealer({ ...deps, onError: (error) => void errors.push(error) })
    for (const [chain, at] of [
      ['org_a', '-infinity'],
      ['org_b', 'infinity'],
      ['org_c', '2026-01-01 BC'],
    ])
      await sql`insert into audit_events (id, recorded_at, event, status, trace_id, actor_kind, organization_id)
        values (${`aud_1${chain}`}, ${at}::timestamptz, 'x', 'pass', 't', 'user', ${chain}),
          (${`aud_2${chain}`}, clock_timestamp(), 'x', 'pass', 't', 'user', ${chain})`.execute(opened.db)
    expect(await sealer.seal()).toBe(3)
    const report = await verifyDatabase(deps, () => {})
    expect(errors).toEqual([])
    expect(report.chains.map(({ records, fault }) => [records, fault?.record_id])).toEqual(
      ['org_a', 'org_b', 'org_c'].map((chain) => [1, `aud_1${chain}`]),
    )
    await opened.close()
    await scratch.drop()
  })
})

// Files of the audit log: whatever is done to one is named, with nothing but the file and the public keys.
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hashOf } from '../../src/audit/chain.ts'
import { verifyFile } from '../../src/audit/file-verification.ts'
import { createSealer } from '../../src/audit/sealer.ts'
import { record } from '../../src/audit/service.ts'
import { csvCell } from '../../src/evidence/rules.ts'
import { exportTo } from '../../src/evidence/service.ts'
import { createSink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import type { OpenedDatabase } from '../../src/store/database.ts'
import { newSink, openEmbedded } from '../support/databases.ts'

const signer = createSinkSigner([Buffer.alloc(32, 7)])
const stranger = createSinkSigner([Buffer.alloc(32, 8)])
const keys = signer.publicKeys()
const RECORDS = 12

const verify = (path: string, with_ = keys) => verifyFile(path, { keys: with_, onProgress: () => {} })

function saved(text: string | Buffer): string {
  const path = newSink()
  writeFileSync(path, text)
  return path
}

describe('a file of the audit log', () => {
  let opened: OpenedDatabase
  let whole: string[]
  let filtered: string[]
  beforeAll(async () => {
    opened = await openEmbedded()
    const sealer = createSealer({
      db: opened.db,
      sink: createSink({ kind: 'files', path: newSink() }),
      signer,
      onError: (error) => {
        throw error
      },
    })
    for (let place = 0; place < RECORDS; place++) {
      await record(opened.db, {
        event: place % 2 === 0 ? 'token.created' : 'token.revoked',
        status: 'pass',
        actor: { kind: 'user', id: 'usr_x' },
        request: { traceId: `trace-${place}` },
        organizationId: 'org_a',
        workspaceId: 'ws_a',
        detail: { place, word: 'é\u2028\ufffd', 10: 'ten', a: { 2: [] } },
      })
      if (place === 7) {
        await sealer.seal()
        await sealer.checkpoint()
      }
    }
    await sealer.close()
    const deps = { db: opened.db, signer }
    const scope = { chain: 'org_a', workspaceId: undefined }
    const linesOf = async (filter: object) => {
      const path = newSink()
      await exportTo(deps, scope, filter, path)
      return readFileSync(path, 'utf8').trimEnd().split('\n')
    }
    whole = await linesOf({})
    filtered = await linesOf({ event: 'token.revoked' })
  })
  afterAll(() => opened?.close())

  const joined = (lines: readonly string[]) => `${lines.join('\n')}\n`

  it('verifies as it was written, with the checkpoints that it agrees with', async () => {
    expect(await verify(saved(joined(whole)))).toMatchObject({
      ok: true,
      complete: true,
      records: RECORDS,
      checkpoints: 1,
      signature: 'good',
      head: { seq: RECORDS },
    })
    expect(await verify(saved(joined(filtered)))).toMatchObject({
      ok: true,
      complete: false,
      records: RECORDS / 2,
      signature: 'good',
      head: null,
      filter: { event: 'token.revoked' },
    })
  })

  it('is not written over what is there', async () => {
    const path = saved('mine')
    const exporting = exportTo({ db: opened.db, signer }, { chain: 'org_a', workspaceId: undefined }, {}, path)
    await expect(exporting).rejects.toMatchObject({ code: 'invalid_request' })
    expect(readFileSync(path, 'utf8')).toBe('mine')
  })

  it('is not left half written: what could not be exported can be exported again to the same place', async () => {
    const other = await openEmbedded()
    try {
      const deps = { db: other.db, sink: createSink({ kind: 'files', path: newSink() }), signer }
      const scope = { chain: 'org_a', workspaceId: undefined }
      await sql`insert into audit_events (id, organization_id, event, status, trace_id, actor_kind)
        select 'aud_' || lpad(place::text, 4, '0'), 'org_a', 'token.created', 'pass', 't', 'operator'
        from generate_series(1, 1200) as place`.execute(other.db)
      await createSealer({ ...deps, onError: () => {} }).seal()
      await sql`alter table audit_events disable trigger user`.execute(other.db)
      const { rows } = await sql`
        delete from audit_events where id = (select event_id from audit_chain where seq = 900) returning id`.execute(
        other.db,
      )
      expect(rows).toHaveLength(1)
      const path = newSink()
      for (let tries = 0; tries < 2; tries++) {
        await expect(exportTo(deps, scope, {}, path)).rejects.toMatchObject({ code: 'server_error' })
        expect(existsSync(path)).toBe(false)
      }
    } finally {
      await other.close()
    }
  })

  it('does not verify with other bytes that are read as the same text', async () => {
    const bytes = Buffer.from(joined(whole))
    for (const keysOf of [keys, []]) {
      const at = bytes.indexOf(Buffer.from('\ufffd'))
      expect(at).toBeGreaterThan(0)
      const other = Buffer.concat([bytes.subarray(0, at), Buffer.from([0xff]), bytes.subarray(at + 3)])
      const line = bytes.subarray(0, at).toString('utf8').split('\n').length
      expect((await verify(saved(other), keysOf)).fault).toMatchObject({ kind: 'not_readable', line })
    }
  })

  it('does not verify with a byte order mark', async () => {
    const bytes = Buffer.from(joined(whole))
    const end = bytes.indexOf('\n') + 1
    for (const at of [0, end]) {
      const marked = Buffer.concat([bytes.subarray(0, at), Buffer.from('\ufeff'), bytes.subarray(at)])
      expect((await verify(saved(marked))).fault).toMatchObject({ kind: 'not_readable', line: at === 0 ? 1 : 2 })
    }
  })

  it('has no other member in any line, signed or not', async () => {
    const remark = { remark: 'all approved by the auditor' }
    for (const lines of [whole, filtered]) {
      for (const at of lines.keys()) {
        const line = JSON.stringify({ ...JSON.parse(lines[at] ?? ''), ...remark })
        for (const keysOf of [keys, []]) {
          const report = await verify(saved(joined(lines.with(at, line))), keysOf)
          expect(report).toMatchObject({ ok: false, fault: { kind: 'not_readable', line: at + 1 } })
        }
      }
      const end = JSON.parse(lines.at(-1) ?? '')
      const within = JSON.stringify({ ...end, end: { ...end.end, ...remark } })
      expect((await verify(saved(joined(lines.with(-1, within))), [])).fault?.kind).toBe('not_readable')
    }
  })

  it('holds none of what is noted as a checkpoint and is not signed', async () => {
    const note = (seq: number, jws: string) =>
      sql`insert into audit_checkpoints (chain, seq, jws) values ('org_a', ${seq}, ${jws})`.execute(opened.db)
    await note(3, 'all approved by the auditor')
    await note(4, JSON.parse(whole[1] ?? '').checkpoint)
    const path = newSink()
    await exportTo({ db: opened.db, signer }, { chain: 'org_a', workspaceId: undefined }, {}, path)
    const lines = readFileSync(path, 'utf8').split('\n')
    expect(lines.filter((line) => line.startsWith('{"checkpoint"'))).toEqual([whole[1]])
    expect(await verify(path)).toMatchObject({ ok: true, checkpoints: 1, notes: [] })
  })

  it('says that its signature was not checked where no keys are given, and refuses those of somebody else', async () => {
    const path = saved(joined(whole))
    expect(await verify(path, [])).toMatchObject({ ok: true, signature: 'unchecked' })
    expect(await verify(path, stranger.publicKeys())).toMatchObject({
      ok: false,
      signature: 'wrong',
      fault: { kind: 'signature_wrong' },
    })
  })

  it('does not verify with any one byte changed, added or taken away', async () => {
    for (const lines of [whole, filtered]) {
      const bytes = Buffer.from(joined(lines))
      await fc.assert(
        fc.asyncProperty(
          fc.nat(bytes.length - 2), // but the last line's end, which says nothing
          fc.integer({ min: 1, max: 255 }),
          fc.constantFrom('change', 'add', 'take'),
          async (at, by, how) => {
            const changed = Buffer.from(bytes)
            changed[at] = (Number(changed[at]) + by) % 256
            const other = {
              change: changed,
              add: Buffer.concat([bytes.subarray(0, at), changed.subarray(at, at + 1), bytes.subarray(at)]),
              take: Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1)]),
            }[how]
            if (other.equals(bytes)) return
            expect((await verify(saved(other))).ok).toBe(false)
          },
        ),
        { numRuns: 150 },
      )
    }
  }, 120_000)

  it('names the first line that is wrong, also to whoever has no keys', async () => {
    const entries = whole.findIndex((line) => line.startsWith('{"seq":1,'))
    const changed = [...whole]
    const at = entries + 4
    changed[at] = whole[at]?.replace('usr_x', 'usr_y') ?? ''
    expect((await verify(saved(joined(changed)), [])).fault).toMatchObject({
      kind: 'record_changed',
      line: at + 1,
      seq: 5,
    })
    const without = whole.toSpliced(at, 1)
    expect((await verify(saved(joined(without)), [])).fault).toMatchObject({ kind: 'entry_missing', line: at + 1 })
    const swapped = whole.toSpliced(at, 2, whole[at + 1] ?? '', whole[at] ?? '')
    expect((await verify(saved(joined(swapped)), [])).fault).toMatchObject({ kind: 'entry_missing', line: at + 1 })
    const twice = whole.toSpliced(at, 0, whole[at] ?? '')
    expect((await verify(saved(joined(twice)), [])).fault).toMatchObject({ kind: 'entry_missing', line: at + 2 })
    const cut = whole.slice(0, -3)
    expect((await verify(saved(joined(cut)), [])).fault).toMatchObject({ kind: 'cut_off' })
    const more = [...whole, whole[at] ?? '']
    expect((await verify(saved(joined(more)), [])).fault).toMatchObject({
      kind: 'not_readable',
      line: whole.length + 1,
    })
  })

  /** As somebody without the server's keys would: fitting hashes and a fitting end, under the old signature. */
  function rewritten(lines: readonly string[], change: (record: Record<string, unknown>) => void): string {
    const values = lines.map((line) => JSON.parse(line))
    const [head] = values
    let previous: string | undefined
    for (const entry of values.filter(({ seq }) => seq !== undefined)) {
      change(entry.record)
      if (previous !== undefined) entry.previous = previous
      entry.hash = hashOf({ chain: head.chain, seq: entry.seq, previous: entry.previous }, entry.record)
      previous = entry.hash
    }
    const last = values.pop()
    const body = joined(values.map((value) => JSON.stringify(value)))
    last.end.sha256 = createHash('sha256').update(body).digest('hex')
    last.end.to.hash = previous
    return `${body}${JSON.stringify(last)}\n`
  }

  it('is told from one that was written anew with fitting hashes', async () => {
    const forged = rewritten(whole, (found) => {
      found.user_id = 'usr_innocent'
    })
    expect((await verify(saved(forged))).fault).toMatchObject({ kind: 'rewritten', seq: 8 })
    const withoutCheckpoint = rewritten(
      whole.filter((line) => !line.startsWith('{"checkpoint"')),
      () => {},
    )
    expect((await verify(saved(withoutCheckpoint))).fault).toMatchObject({ kind: 'signature_wrong' })
  })

  it('is refused with a sentence where it is no such file', async () => {
    for (const text of [
      '',
      'x',
      '{}\n',
      '[1]\n',
      'null\n',
      '{"latchkey":"audit","v":2}\n',
      `${'x'.repeat(3_000_000)}`,
    ]) {
      const report = await verify(saved(text))
      expect(report.ok).toBe(false)
      expect(report.fault?.says).toMatch(/\w+ \w+/)
    }
    await expect(verify('/nowhere/at/all')).rejects.toMatchObject({ code: 'invalid_request' })
  })
})

it('a cell of a table is no formula, and one cell', () => {
  expect(['=1', '+1', '-1', '@x', '\t=1', 'plain', 'a,b', 'a"b', 'a\nb'].map(csvCell)).toEqual([
    "'=1",
    "'+1",
    "'-1",
    "'@x",
    "'\t'=1",
    'plain',
    '"a,b"',
    '"a""b"',
    '"a\nb"',
  ])
  expect(
    ['a;=1', 'a;b;+1', 'a; "=1"', 'a;"-1', 'a\t-1', 'a\r\n@x', '\tx', '; =1', 'a; b', 'a-b;c=d', 'a=1'].map(csvCell),
  ).toEqual([
    "a;'=1",
    "a;b;'+1",
    `"a;' ""=1"""`,
    `"a;'""-1"`,
    "a\t'-1",
    `"a\r\n'@x"`,
    "'\tx",
    ";' =1",
    'a; b',
    'a-b;c=d',
    'a=1',
  ])
})

// The list and its sink, side by side: what tells a database from the one that it was, and what may not heal by itself.
import { randomBytes } from 'node:crypto'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { sql } from 'kysely'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createOutside, type Outside } from '../../src/revocation/outside.ts'
import { createRevocationList, type RevocationList } from '../../src/revocation/service.ts'
import { markSent } from '../../src/revocation/store.ts'
import { createSink, type Sink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import type { OpenedDatabase } from '../../src/store/database.ts'
import { newSink, openEmbedded } from '../support/databases.ts'

const signer = createSinkSigner([randomBytes(32)])

/** A database with its list, on a sink. */
interface Side {
  opened: OpenedDatabase
  outside: Outside
  list: RevocationList
}

describe('a list and its sink', () => {
  let path: string
  let sides: Side[]
  beforeEach(() => {
    path = newSink()
    sides = []
  })
  afterEach(async () => {
    for (const { list, opened } of sides) {
      await list.close()
      await opened.close()
    }
    rmSync(path, { force: true })
  })

  /** A database of its own: those that tests open are copies of one. */
  async function open(sink: Sink = createSink({ kind: 'files', path })): Promise<Side> {
    const opened = await openEmbedded()
    await sql`update revocation_list set lineage = gen_random_uuid()::text`.execute(opened.db)
    return follow(opened, sink)
  }

  function follow(opened: OpenedDatabase, sink: Sink = createSink({ kind: 'files', path })): Side {
    const outside = createOutside({ db: opened.db, sink, signer, onError: () => {} })
    const side = { opened, outside, list: createRevocationList(opened, { outside, onError: () => {} }) }
    sides.push(side)
    return side
  }

  /** The same database under a process that starts anew. */
  async function restart(side: Side): Promise<Side> {
    await side.list.close()
    sides = sides.filter((other) => other !== side)
    return follow(side.opened)
  }

  const revoke = ({ list }: Side, subject = 'key_A') => list.change(async (_trx, put) => put({ subject, closed: true }))
  const lines = () => readFileSync(path, 'utf8').split('\n').filter(Boolean)

  it('of another database is refused for as long as nobody has accepted it', async () => {
    const first = await open()
    await first.list.start()
    await revoke(first)
    const other = await open()
    for (let look = 0; look < 12; look++) await expect(other.outside.missing()).rejects.toThrow('another database')
    await other.list.start()
    expect(other.list.trouble()).toBe('sink')
  })

  it('that is lost before the first revocation is noticed', async () => {
    const side = await open()
    await side.list.start()
    expect(side.list.trouble()).toBeUndefined()
    writeFileSync(path, '')
    await expect(side.outside.missing()).rejects.toThrow('lacks what this database has written')
  })

  it('that was lost is not made whole by what was still to be sent', async () => {
    const before = await open()
    await before.list.start()
    await revoke(before)
    await sql`update revocation_entries set sent_seq = null, sending_until = null`.execute(before.opened.db)
    writeFileSync(path, '')
    const after = await restart(before)
    await after.list.start()
    await expect(Promise.resolve(after.list.requireSound())).rejects.toThrow()
    await after.outside.close()
    expect(lines()).toEqual([])
    expect(after.list.trouble()).toBe('sink')
  })

  it('takes no change while the database is not the one that it was, but from whoever mends it', async () => {
    const first = await open()
    await first.list.start()
    await revoke(first)
    const other = await open()
    await other.list.start()
    const written = () => other.opened.db.selectFrom('revocation_entries').select('subject').execute()
    await expect(revoke(other)).rejects.toThrow('unavailable')
    expect(await written()).toEqual([])
    await other.list.change(async (_trx, put) => put({ subject: 'key_B', closed: true }), { despiteTrouble: true })
    expect(await written()).toEqual([{ subject: 'key_B' }])
  })

  it('of which another list was begun meanwhile has not what was sent as the old one', async () => {
    const side = await open()
    await side.list.start()
    await revoke(side)
    await sql`update revocation_entries set sent_seq = null`.execute(side.opened.db)
    await sql`update revocation_list set sent_head = null`.execute(side.opened.db)
    await markSent(side.opened.db, 'the old one', [{ subject: 'key_A', seq: 1 }])
    const { rows } =
      await sql`select sent_seq, (select sent_head from revocation_list) as sent_head from revocation_entries`.execute(
        side.opened.db,
      )
    expect(rows).toEqual([{ sent_seq: null, sent_head: null }])
  })

  it('that hangs holds up neither a revocation nor the end for longer than a second each', async () => {
    const sink = createSink({ kind: 'files', path })
    let hangs = false
    const side = await open({ ...sink, append: (some) => (hangs ? new Promise(() => {}) : sink.append(some)) })
    await side.list.start()
    hangs = true
    await revoke(side)
    await side.list.close() // or this test does not end
  })
})

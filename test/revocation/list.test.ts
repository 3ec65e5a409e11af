// The list and its leases, step by step: each step of a renewal can be held, and the clocks set (consistency §5).
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { createRevocationList, type RevocationList } from '../../src/revocation/service.ts'
import { ENTRIES_A_READING } from '../../src/revocation/store.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { createScratchDatabase, hasStores, openEmbedded } from '../support/databases.ts'

type Step = 'renewal' | 'registration'
type Intercept = (step: Step, run: () => Promise<unknown[]>) => Promise<unknown[]>

/** A process that follows the list, on a connection whose every statement the test may hold. */
interface Follower {
  list: RevocationList
  steps: Step[]
  errors: Error[]
  notify(): void
  intercept: Intercept
}

let opened: OpenedDatabase
let followers: Follower[]
let releases: Array<() => void>

beforeAll(async () => {
  opened = await openEmbedded()
})
afterAll(() => opened?.close())
beforeEach(async () => {
  followers = []
  releases = []
  await sql`truncate leases, revocation_entries`.execute(opened.db)
  await sql`alter sequence revocation_seq restart`.execute(opened.db)
  await sql`update revocation_list set head = 0`.execute(opened.db)
})
afterEach(async () => {
  vi.useRealTimers()
  for (const release of releases) release()
  for (const follower of followers) {
    follower.intercept = (_step, run) => run()
    await follower.list.close()
  }
})

function createFollower(): Follower {
  const follower: Follower = {
    steps: [],
    errors: [],
    notify: () => {},
    intercept: (_step, run) => run(),
    list: createRevocationList(
      {
        ...opened,
        async dedicate({ onNotification }) {
          follower.notify = onNotification
          return {
            async run(query) {
              const step = query.compile(opened.db).sql.includes('insert into leases') ? 'registration' : 'renewal'
              follower.steps.push(step)
              // Rows of the query, wherever they come from.
              return (await follower.intercept(step, async () => (await query.execute(opened.db)).rows)) as never
            },
            close() {},
          }
        },
      },
      { onError: (error) => void follower.errors.push(error) },
    ),
  }
  followers.push(follower)
  return follower
}

async function startFollower(): Promise<Follower> {
  const follower = createFollower()
  await follower.list.start()
  return follower
}

const close = (list: RevocationList, subject = 'key_A') =>
  list.change(async (_trx, revoke) => revoke({ subject, closed: true }))
const NOTHING = { seq: '0', renewals: '0', started_at: new Date(), renewed_at: new Date() }
const leases = () => opened.db.selectFrom('leases').selectAll().execute()
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

async function timed(work: Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work
  return performance.now() - startedAt
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5_000
  while (!condition()) {
    if (performance.now() > deadline) throw new Error('not so within 5 s')
    await pause(5)
  }
}

/** Holds the next such step of a follower. */
function hold(follower: Follower, step: Step, moment: 'before' | 'after' = 'before') {
  const reached = Promise.withResolvers<void>()
  const released = Promise.withResolvers<void>()
  follower.intercept = async (current, run) => {
    if (current !== step) return run()
    follower.intercept = (_step, go) => go()
    const rows = moment === 'after' ? await run() : undefined
    reached.resolve()
    await released.promise
    return rows ?? run()
  }
  releases.push(released.resolve)
  return { reached: reached.promise, release: () => released.resolve() }
}

describe('a lease', () => {
  it('is registered, then renewed with what is on the list, and only then good', async () => {
    const revoker = createFollower() // as a command: it changes the list and follows nothing
    await close(revoker.list, 'key_before')
    const follower = createFollower()
    const held = hold(follower, 'registration', 'after')
    const started = follower.list.start()
    await held.reached
    expect(await leases()).toHaveLength(1)
    expect(follower.list.isLive()).toBe(false)
    held.release()
    await started
    expect(follower.list.isLive()).toBe(true)
    expect(follower.list.entry('key_before')).toMatchObject({ closed: true })
    expect(Math.abs(follower.list.now() - Date.now())).toBeLessThan(2_000)
    const row = (await leases())[0]
    expect(Number(row?.seq)).toBe(follower.list.seq())
  })

  it('that is being made holds a revocation up until it knows it', async () => {
    const revoker = createFollower()
    const follower = createFollower()
    const held = hold(follower, 'registration', 'after')
    const started = follower.list.start()
    await held.reached
    let answered = false
    const revoking = close(revoker.list).then(() => {
      answered = true
    })
    await pause(100)
    expect(answered).toBe(false)
    held.release()
    await started
    expect(follower.list.entry('key_A')).toMatchObject({ closed: true })
    await revoking
  })

  it('counts from before its renewal was asked for: an answer that took a second is worth nothing', async () => {
    const follower = await startFollower()
    const held = hold(follower, 'renewal', 'after')
    await held.reached
    const reachedAt = performance.now()
    await until(() => !follower.list.isLive())
    expect(performance.now() - reachedAt).toBeLessThan(1_050)
    await pause(1_001 - (performance.now() - reachedAt))
    held.release()
    await pause(0) // the late answer is applied now
    expect(follower.list.isLive()).toBe(false)
    await until(() => follower.list.isLive())
  })

  it('a renewal that was read before a revocation does not say that the revocation is known', async () => {
    const revoker = createFollower()
    const follower = await startFollower()
    const held = hold(follower, 'renewal', 'after')
    await held.reached
    let answered = false
    const revoking = close(revoker.list).then(() => {
      answered = true
    })
    await pause(100)
    expect(answered).toBe(false)
    held.release()
    await revoking
    expect(follower.list.entry('key_A')).toMatchObject({ closed: true })
  })

  it('runs out by the wall clock too: a machine that was paused knows nothing when it wakes', async () => {
    const follower = await startFollower()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 1_001 })
    expect(follower.list.isLive()).toBe(false)
    await until(() => follower.list.isLive())
    vi.setSystemTime(Date.now() + 3_600_000)
    expect(follower.list.isLive()).toBe(false)
    await until(() => follower.list.isLive())
  })

  it('runs out by the monotonic clock when the wall clock is set back', async () => {
    const follower = await startFollower()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 3_600_000 })
    follower.intercept = () => new Promise(() => {})
    await pause(1_050)
    expect(follower.list.isLive()).toBe(false)
    follower.intercept = (_step, run) => run()
    vi.useRealTimers()
    followers = followers.filter((other) => other !== follower) // its renewal never ends
  })

  it('of a process that hangs is waited for 1.2 s, once; when it comes back it registers before it is live', async () => {
    const revoker = createFollower()
    const follower = await startFollower()
    const held = hold(follower, 'renewal')
    await held.reached
    const first = await timed(close(revoker.list, 'key_A'))
    expect(first).toBeGreaterThan(1_150)
    expect(first).toBeLessThan(1_500)
    expect(follower.list.isLive()).toBe(false)
    expect(await leases()).toEqual([])
    expect(await timed(close(revoker.list, 'key_B'))).toBeLessThan(150)
    follower.steps.length = 0
    const registering = hold(follower, 'registration')
    held.release()
    await registering.reached
    expect(follower.list.isLive()).toBe(false)
    registering.release()
    await until(() => follower.list.isLive())
    expect(follower.steps.slice(0, 2)).toEqual(['registration', 'renewal'])
    expect(follower.list.entry('key_A')).toMatchObject({ closed: true })
    expect(follower.list.entry('key_B')).toMatchObject({ closed: true })
  })

  it('that is not there any more makes its process blind at once, however fresh it was', async () => {
    const follower = await startFollower()
    await opened.db.deleteFrom('leases').execute()
    const held = hold(follower, 'registration')
    follower.notify()
    await held.reached
    expect(follower.list.isLive()).toBe(false)
    held.release()
    await until(() => follower.list.isLive())
  })

  it('of a process that renews meanwhile is not dropped, although it is behind', async () => {
    const revoker = createFollower()
    await opened.db
      .insertInto('leases')
      .values({ process_id: 'slow', ...NOTHING })
      .execute()
    const renewing = setInterval(() => {
      sql`update leases set renewals = renewals + 1 where process_id = 'slow'`.execute(opened.db).catch(() => {})
    }, 200)
    await close(revoker.list)
    clearInterval(renewing)
    expect(await leases()).toMatchObject([{ process_id: 'slow' }])
  })

  it('that was seen for less than its length is not dropped: it may still be good', async () => {
    const revoker = createFollower()
    await opened.db
      .insertInto('leases')
      .values({ process_id: 'dead', ...NOTHING })
      .execute()
    const revoking = close(revoker.list, 'key_A')
    await pause(700)
    await opened.db
      .insertInto('leases')
      .values({ process_id: 'young', ...NOTHING })
      .execute()
    await revoking
    expect(await leases()).toMatchObject([{ process_id: 'young' }])
    expect(await timed(close(revoker.list, 'key_B'))).toBeGreaterThan(1_000) // and is waited for by the next
    expect(await leases()).toEqual([])
  })

  it('that was registered again is not mistaken for the one before', async () => {
    const follower = await startFollower()
    const before = (await leases())[0]
    await opened.db.deleteFrom('leases').execute()
    follower.notify()
    await until(() => follower.steps.filter((step) => step === 'registration').length === 2)
    await until(() => follower.list.isLive())
    await pause(50)
    expect(Number((await leases())[0]?.renewals)).toBeGreaterThan(Number(before?.renewals) + 1_000)
  })

  it('that was given up is good for nothing', async () => {
    const follower = await startFollower()
    await follower.list.close()
    expect(follower.list.isLive()).toBe(false)
    expect(await leases()).toEqual([])
  })

  it('is renewed every 300 ms without any wake-up, and at once with one', async () => {
    const revoker = createFollower()
    const follower = await startFollower()
    expect(await timed(close(revoker.list, 'key_A'))).toBeLessThan(800)
    expect(follower.list.entry('key_A')).toMatchObject({ closed: true })
    const revoking = timed(close(revoker.list, 'key_B'))
    await pause(20)
    follower.notify()
    expect(await revoking).toBeLessThan(250)
    expect(follower.errors).toEqual([])
  })

  it('waits for what a first use by somebody else has put on the list', async () => {
    const revoker = createFollower()
    const follower = await startFollower()
    const held = hold(follower, 'renewal')
    await held.reached
    const first = close(revoker.list)
    let answered = false
    const second = pause(30).then(() =>
      revoker.list.everyoneKnows('key_A').then(() => {
        answered = true
      }),
    )
    await pause(150)
    expect(answered).toBe(false)
    held.release()
    await Promise.all([first, second])
    expect(follower.list.entry('key_A')).toMatchObject({ closed: true })
    expect(await timed(revoker.list.everyoneKnows('key_nobody_knows'))).toBeLessThan(100)
  })
})

describe('a reading', () => {
  const fill = (count: number, prefix = 'key_many') =>
    sql`insert into revocation_entries (subject, seq, closed, expires_at)
        select ${prefix} || n, nextval('revocation_seq'), true, now() + interval '1 hour'
        from generate_series(1, ${count}) n`.execute(opened.db)

  it('of more than a page makes nobody live before the last page', async () => {
    await fill(2 * ENTRIES_A_READING + 1)
    const follower = createFollower()
    const seen: Array<[seq: number, live: boolean]> = []
    follower.intercept = async (_step, run) => {
      seen.push([follower.list.seq(), follower.list.isLive()])
      return run()
    }
    await follower.list.start()
    expect(seen.filter(([seq]) => seq < 2 * ENTRIES_A_READING).every(([, live]) => !live)).toBe(true)
    expect(follower.list.isLive()).toBe(true)
    expect(follower.list.entry(`key_many${2 * ENTRIES_A_READING + 1}`)).toMatchObject({ closed: true })
    expect(follower.list.entry('key_many1')).toMatchObject({ closed: true })
  })

  it('on an embedded database takes in the whole list too', async () => {
    await fill(ENTRIES_A_READING + 1)
    const alone = createRevocationList(opened, { onError: () => {} })
    await alone.start()
    expect(alone.isLive()).toBe(true)
    expect(alone.entry(`key_many${ENTRIES_A_READING + 1}`)).toMatchObject({ closed: true })
    await close(alone, 'key_mine')
    expect(alone.entry('key_mine')).toMatchObject({ closed: true })
    await alone.close()
  })

  it('merges what is said about one subject', async () => {
    const follower = await startFollower()
    const { change } = follower.list
    await change(async (_trx, revoke) => revoke({ subject: 'key_A', floor: 3 }))
    await change(async (_trx, revoke) => revoke({ subject: 'key_A', floor: 2, dead: [4] }))
    await change(async (_trx, revoke) => revoke({ subject: 'key_A', dead: [4, 5] }))
    await change(async (_trx, revoke) => revoke({ subject: 'key_A' }))
    const entry = follower.list.entry('key_A')
    expect(entry).toMatchObject({ floor: 3, closed: false })
    expect(entry?.dead.toSorted()).toEqual([4, 5])
  })

  it('in another epoch starts over: blind, then the whole list again, and nothing of the old one', async () => {
    const follower = await startFollower()
    await close(follower.list, 'key_old')
    const before = follower.list.generation()
    await sql`delete from revocation_entries`.execute(opened.db)
    await sql`alter sequence revocation_seq restart`.execute(opened.db)
    await fill(1, 'key_new')
    await sql`update revocation_list set epoch = 'another'`.execute(opened.db)
    const live: boolean[] = []
    follower.intercept = async (_step, run) => {
      const rows = await run()
      live.push(follower.list.isLive())
      return rows
    }
    follower.notify()
    await until(() => follower.list.generation() !== before)
    await until(() => follower.list.isLive())
    expect(live).toContain(false)
    expect(follower.list.entry('key_old')).toBeUndefined()
    expect(follower.list.entry('key_new1')).toMatchObject({ closed: true })
    expect(follower.list.seq()).toBe(1)
  })

  it('of an older state of the same list starts over', async () => {
    const follower = await startFollower()
    for (const subject of ['key_1', 'key_2', 'key_3']) await close(follower.list, subject)
    const before = follower.list.generation()
    await sql`delete from revocation_entries where seq > 1`.execute(opened.db)
    await sql`update revocation_list set head = 1`.execute(opened.db)
    follower.notify()
    await until(() => follower.list.generation() !== before)
    await until(() => follower.list.isLive())
    expect(follower.list.seq()).toBe(1)
    expect(follower.list.entry('key_1')).toMatchObject({ closed: true })
    expect(follower.list.entry('key_3')).toBeUndefined()
  })

  it('that fails leaves the lease to run out, and is tried again', async () => {
    const follower = await startFollower()
    follower.intercept = () => Promise.reject(new Error('away'))
    follower.notify()
    await until(() => !follower.list.isLive())
    expect(follower.errors.length).toBeGreaterThan(1)
    follower.intercept = (_step, run) => run()
    await until(() => follower.list.isLive())
  })
})

describe.skipIf(!hasStores())('the epoch', () => {
  it('names the system and the timeline besides: a stale replica that was promoted is another list', async () => {
    const database = await createScratchDatabase()
    const real = openPostgres(database.url, 2, () => {})
    try {
      const epochs: string[] = []
      const list = createRevocationList(
        {
          ...real,
          async dedicate(options) {
            const connection = await real.dedicate?.(options)
            if (connection === undefined) throw new Error('there is none')
            return {
              ...connection,
              async run(query) {
                const rows = await connection.run(query)
                epochs.push(...rows.map((row) => String(Reflect.get(Object(row), 'epoch'))))
                return rows
              },
            }
          },
        },
        { onError: () => {} },
      )
      await list.start()
      await list.close()
      const { rows } = await sql<{ system: string; timeline: string; epoch: string }>`
        select system_identifier::text as system, left(pg_walfile_name(pg_current_wal_lsn()), 8) as timeline,
          (select epoch from revocation_list) as epoch from pg_control_system()`.execute(real.db)
      const [expected] = rows
      expect(epochs).toContain(`${expected?.epoch}/${expected?.system}/${expected?.timeline}`)
    } finally {
      await real.close()
      await database.drop()
    }
  })
})

// The ephemeral store on PostgreSQL, for installations without Redis, and on PGlite. Each call is one statement; what has
// expired is invisible by the database's clock at once, and deleted by `sweep` later.
import { type Kysely, sql } from 'kysely'
import {
  assertChanges,
  assertCounter,
  type EphemeralChange,
  type EphemeralCount,
  type EphemeralStore,
  EphemeralUnavailable,
  isEntryName,
} from './ephemeral.ts'

export interface EphemeralTables {
  ephemeral_entries: EphemeralEntriesTable
  ephemeral_counters: EphemeralCountersTable
}

interface EphemeralEntriesTable {
  kind: string
  id: string
  value: string
  consumed_at: Date | null
  expires_at: Date
}

interface EphemeralCountersTable {
  kind: string
  id: string
  window_ends_at: Date
  count: number
}

export interface PostgresEphemeralStore extends EphemeralStore {
  /**
   * Deletes at most `limit` expired entries and as many ended counters, and says how many rows went. Rows that a call is
   * working on are skipped, so several processes may sweep at once. Fewer than `limit`: nothing is left for now.
   */
  sweep(limit: number): Promise<number>
}

/**
 * Never call it inside a transaction of the same database unless `db` is that transaction: PGlite has one connection, and
 * the call would wait for it for ever. How long a call may take is for the pool to say (`statement_timeout`, time to
 * connect); closing `db` is for who opened it.
 */
export function createPostgresEphemeralStore({ db }: { db: Kysely<EphemeralTables> }): PostgresEphemeralStore {
  return {
    async find(kind, id) {
      if (!isEntryName(kind, id)) return undefined
      return call(() =>
        db
          .selectFrom('ephemeral_entries') // primary key
          .select((eb) => ['value', eb('consumed_at', 'is not', null).$castTo<boolean>().as('consumed')])
          .where('kind', '=', kind)
          .where('id', '=', id)
          .where('expires_at', '>', sql<Date>`now()`)
          .executeTakeFirst(),
      )
    },

    async write(changes) {
      assertChanges(changes)
      if (changes.length > 0) await call(() => upsert(db, changes))
    },

    async consume(kind, id) {
      if (!isEntryName(kind, id)) return false
      const result = await call(() =>
        db
          .updateTable('ephemeral_entries') // primary key
          .set({ consumed_at: sql<Date>`now()` })
          .where('kind', '=', kind)
          .where('id', '=', id)
          .where('consumed_at', 'is', null)
          .where('expires_at', '>', sql<Date>`now()`)
          .executeTakeFirst(),
      )
      return result.numUpdatedRows === 1n
    },

    async increment(kind, id, windowSeconds) {
      assertCounter(kind, id, windowSeconds)
      return call(() => countOne(db, { kind, id, windowSeconds }))
    },

    // Also fails on a standby, which has no unlogged tables.
    async ping() {
      await call(() => db.selectFrom('ephemeral_entries').select('kind').limit(1).execute())
    },

    async sweep(limit) {
      return call(() => deleteExpired(db, limit))
    },

    async close() {},
  }
}

async function call<T>(statement: () => Promise<T>): Promise<T> {
  try {
    return await statement()
  } catch (error) {
    throw new EphemeralUnavailable(error)
  }
}

/**
 * One insert for all changes, also for the deletions: these leave an empty row that expired in the distant past, for
 * `sweep` to collect. As every writer then locks its rows one by one in the same order, none can deadlock with another.
 */
async function upsert(db: Kysely<EphemeralTables>, changes: readonly EphemeralChange[]): Promise<void> {
  await db
    .insertInto('ephemeral_entries')
    .values(lastChangeOfEach(changes).map(toRow))
    .onConflict((conflict) =>
      conflict.columns(['kind', 'id']).doUpdateSet((eb) => ({
        value: eb.ref('excluded.value'),
        consumed_at: null,
        expires_at: eb.ref('excluded.expires_at'),
      })),
    )
    .execute()
}

/** A statement may touch a row once, and the last change to a name says all there is to say about it. */
function lastChangeOfEach(changes: readonly EphemeralChange[]): EphemeralChange[] {
  const last = new Map(changes.map((change) => [`${change.kind}:${change.id}`, change])) // a kind holds no ':'
  return [...last].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, change]) => change)
}

function toRow(change: EphemeralChange) {
  const { kind, id } = change
  if (change.op === 'delete' || change.ttlSeconds <= 0) {
    return { kind, id, value: '', expires_at: sql<Date>`'-infinity'::timestamptz` }
  }
  return { kind, id, value: change.value, expires_at: fromNow(change.ttlSeconds) }
}

function fromNow(seconds: number) {
  return sql<Date>`now() + make_interval(secs => ${seconds})`
}

interface Counter {
  kind: string
  id: string
  windowSeconds: number
}

async function countOne(db: Kysely<EphemeralTables>, counter: Counter): Promise<EphemeralCount> {
  const windowIsOpen = sql<boolean>`ephemeral_counters.window_ends_at > now()`
  return db
    .insertInto('ephemeral_counters')
    .values({ kind: counter.kind, id: counter.id, count: 1, window_ends_at: fromNow(counter.windowSeconds) })
    .onConflict((conflict) =>
      conflict.columns(['kind', 'id']).doUpdateSet({
        count: sql<number>`case when ${windowIsOpen} then ephemeral_counters.count + 1 else 1 end`,
        window_ends_at: sql<Date>`case when ${windowIsOpen} then ephemeral_counters.window_ends_at
          else excluded.window_ends_at end`,
      }),
    )
    .returning([
      'count',
      // Not now(): a statement that waited for the row began before the window did, and would see more than all of it.
      sql<number>`greatest(1, ceil(extract(epoch from window_ends_at - clock_timestamp())))::int`.as('resetsInSeconds'),
    ])
    .executeTakeFirstOrThrow()
}

/**
 * The rows are chosen in a materialized step: as a subquery, the planner may run it again for each row, and delete more
 * than `limit`. Indexes: ephemeral_entries_by_expiry, ephemeral_counters_by_end, then the primary keys.
 */
async function deleteExpired(db: Kysely<EphemeralTables>, limit: number): Promise<number> {
  const { rows } = await sql<{ swept: number }>`
    with
      expired as materialized (
        select kind, id from ephemeral_entries where expires_at <= now()
        order by expires_at limit ${limit} for update skip locked
      ),
      ended as materialized (
        select kind, id from ephemeral_counters where window_ends_at <= now()
        order by window_ends_at limit ${limit} for update skip locked
      ),
      swept_entries as (
        delete from ephemeral_entries e using expired x where e.kind = x.kind and e.id = x.id returning 1
      ),
      swept_counters as (
        delete from ephemeral_counters c using ended x where c.kind = x.kind and c.id = x.id returning 1
      )
    select ((select count(*) from swept_entries) + (select count(*) from swept_counters))::int as swept`.execute(db)
  return rows[0]?.swept ?? 0
}

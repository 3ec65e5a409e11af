// SQL of the revocation list and of the leases on it. An entry is the whole state of its subject; each change gives it a new seq.
import { type RawBuilder, sql } from 'kysely'
import type { Executor, Trx } from '../store/database.ts'
import type { Entry, WrittenEntry } from './rules.ts'

/** Longer than any JWT lives: one hour, clock tolerance, and a minute for what is on its way. */
const ENTRY_SECONDS = 3_600 + 15 + 60

/** Serializes the writers of the list, so that the order of seq is the order of commit. Any constant; ours alone. */
const LIST_LOCK = 4_180_311

/** Whoever listens is woken at once. Only a wake-up: the list itself is read. */
export const CHANNEL = 'latchkey_revocations'

/** A change to one subject. Without any of the flags it says: what you remember of this subject is old. */
export interface RevocationChange {
  /** `con_…`, `key_…`, `usr_…`, `ws_…`, `cl_…`, `jti:…`, `membership:…`, or `everything` */
  subject: string
  floor?: number
  dead?: readonly number[]
  closed?: boolean
  denied?: boolean
  /** Until it is lifted. */
  suspended?: boolean
  /** What was issued up to now is refused, also later on. */
  notBeforeNow?: boolean
  /** A floor that will rise at a time; null: none any more. What is left out stays as it was. */
  nextFloor?: { floor: number; at: Date } | null
  /** Of a membership: the role that is left, or `none`. Decisions read the membership; restores read this. */
  role?: string
}

const WRITTEN = sql`subject, seq::float8 as seq, floor, dead, closed, denied, suspended,
  extract(epoch from not_before)::float8 as "notBefore", next_floor as "nextFloor",
  extract(epoch from next_floor_at)::float8 as "nextFloorAt", role, extract(epoch from changed_at)::float8 as "changedAt"`

/** Of all locks the last one, for whoever writes to the list or its row. */
export async function lockList(trx: Trx): Promise<void> {
  await sql`select pg_advisory_xact_lock(${sql.lit(LIST_LOCK)})`.execute(trx)
}

/**
 * Writes entries. The list's lock is the last that a transaction takes (consistency §1), so this is the last thing to
 * do in it. @returns what was written, in the order of seq: every process must know the last of it before the change is answered
 */
export async function append(trx: Trx, changes: readonly RevocationChange[]): Promise<WrittenEntry[]> {
  await lockList(trx)
  const written: WrittenEntry[] = []
  for (const change of changes) {
    const { rows } = await sql<WrittenEntry>`
      insert into revocation_entries (subject, seq, floor, dead, closed, denied, suspended, not_before,
        next_floor, next_floor_at, role, sending_until, expires_at)
      values (${change.subject}, nextval('revocation_seq'), ${change.floor ?? null}, ${[...(change.dead ?? [])]}::int[],
              ${change.closed ?? false}, ${change.denied ?? false}, ${change.suspended ?? false},
              case when ${change.notBeforeNow ?? false}::boolean then clock_timestamp() end,
              ${change.nextFloor?.floor ?? null}, ${change.nextFloor?.at ?? null}, ${change.role ?? null},
              clock_timestamp() + make_interval(secs => ${sql.lit(SEND_OWN_SECONDS)}),
              now() + make_interval(secs => ${sql.lit(ENTRY_SECONDS)}))
      on conflict (subject) do update set
        seq = excluded.seq,
        floor = greatest(revocation_entries.floor, excluded.floor),
        dead = (select coalesce(array_agg(distinct version), '{}')
                from unnest(revocation_entries.dead || excluded.dead) as version),
        closed = revocation_entries.closed or excluded.closed,
        denied = revocation_entries.denied or excluded.denied,
        suspended = coalesce(${change.suspended ?? null}::boolean, revocation_entries.suspended),
        not_before = greatest(revocation_entries.not_before, excluded.not_before),
        next_floor = case when ${change.nextFloor === undefined}::boolean
          then revocation_entries.next_floor else excluded.next_floor end,
        next_floor_at = case when ${change.nextFloor === undefined}::boolean
          then revocation_entries.next_floor_at else excluded.next_floor_at end,
        role = coalesce(excluded.role, revocation_entries.role),
        sending_until = excluded.sending_until,
        changed_at = now(),
        expires_at = excluded.expires_at
      returning ${WRITTEN}`.execute(trx)
    written.push(...rows)
  }
  await sql`with head as (update revocation_list set head = greatest(head, ${written.at(-1)?.seq ?? 0}::bigint))
    select pg_notify(${CHANNEL}, '')`.execute(trx)
  return written
}

// --- What the sink has -----------------------------------------------------------------------------------------------

/** The process that wrote an entry sends it; when it has not after so long, another one does. */
const SEND_OWN_SECONDS = 0.5
const SEND_AGAIN_SECONDS = 5

/** Claims a batch of entries that nobody is sending, the oldest first. By revocation_entries_unsent. */
export async function claimUnsent(executor: Executor, batch: number): Promise<WrittenEntry[]> {
  const { rows } = await sql<WrittenEntry>`
    update revocation_entries set sending_until = clock_timestamp() + make_interval(secs => ${sql.lit(SEND_AGAIN_SECONDS)})
    where subject in (
      select subject from revocation_entries
      where (sent_seq is null or sent_seq < seq) and (sending_until is null or sending_until < clock_timestamp())
      order by seq limit ${batch} for update skip locked)
    returning ${WRITTEN}`.execute(executor)
  return rows
}

/**
 * The sink has these states, as those of this list; an entry that has changed meanwhile has another one. Nothing when another
 * list was begun meanwhile: its sink does not have them. Primary key.
 */
export async function markSent(
  executor: Executor,
  lineage: string,
  entries: readonly Pick<Entry, 'subject' | 'seq'>[],
): Promise<void> {
  const given = JSON.stringify(entries.map(({ subject, seq }) => ({ subject, seq })))
  const highest = entries.reduce((most, { seq }) => Math.max(most, seq), 0)
  await sql`
    with sent as materialized (
      select e.subject from revocation_entries e
      join jsonb_to_recordset(${given}::jsonb) as given (subject text, seq bigint)
        on e.subject = given.subject and e.seq = given.seq
      where exists (select from revocation_list where lineage = ${lineage})
      for update of e skip locked),
    head as (update revocation_list set sent_head = greatest(sent_head, ${highest}::bigint) where lineage = ${lineage})
    update revocation_entries e set sent_seq = e.seq from sent where e.subject = sent.subject`.execute(executor)
}

export interface Standing {
  /** Which list this is, through all restores. */
  lineage: string
  epoch: string
  /** The highest seq that was committed. */
  head: number
  /** The highest seq that the sink has; null before it was begun. */
  sentHead: number | null
  /** Other lists in the sink that an operator has looked at. */
  leftOut: string[]
}

/** @param shared whether processes share the list */
export async function readStanding(executor: Executor, shared: boolean): Promise<Standing | undefined> {
  const { rows } = await sql<Standing>`select list.lineage, ${epochOf(shared)} as epoch, ${HEAD}::float8 as head,
      list.sent_head::float8 as "sentHead", list.left_out as "leftOut"
    from revocation_list list`.execute(executor)
  return rows[0]
}

/** The sink has its first line of this list. */
export async function beginSink(executor: Executor, head: number): Promise<void> {
  await sql`update revocation_list set sent_head = ${head}::bigint where sent_head is null`.execute(executor)
}

/**
 * From now on this is another list, whose sink is begun anew. What the old sink holds is told apart from it, should that
 * come back. Takes the list's lock: the last thing to do.
 */
export async function beginNewLineage(trx: Trx, leftOut: readonly string[]): Promise<void> {
  await lockList(trx)
  await sql`update revocation_list set lineage = gen_random_uuid()::text, epoch = gen_random_uuid()::text, sent_head = null,
    left_out = left_out || ${[...leftOut]}::text[]`.execute(trx)
}

/** The seq of a subject's entry, which may be another request's. Primary key. */
export async function findSeq(executor: Executor, subject: string): Promise<number> {
  const row = await executor
    .selectFrom('revocation_entries')
    .select('seq')
    .where('subject', '=', subject)
    .executeTakeFirst()
  return Number(row?.seq ?? 0)
}

/** Entries of these subjects, for a process that cannot trust its memory. Primary key. */
export async function findEntries(executor: Executor, subjects: readonly string[]): Promise<Map<string, Entry>> {
  const { rows } = await sql<Entry>`
    select subject, seq::float8 as seq, floor, dead, closed, denied, suspended,
      extract(epoch from not_before)::float8 as "notBefore", next_floor as "nextFloor",
      extract(epoch from next_floor_at)::float8 as "nextFloorAt"
    from revocation_entries where subject = any(${[...subjects]}::text[])`.execute(executor)
  return new Map(rows.map((entry) => [entry.subject, entry]))
}

/** Deletes a batch of entries that outlived every JWT they could name, and that the sink has. @returns how many */
export async function deleteExpiredEntries(executor: Executor, batch: number): Promise<number> {
  const result = await sql`delete from revocation_entries where subject in (
    select subject from revocation_entries where expires_at < now() and sent_seq = seq limit ${batch})`.execute(
    executor,
  )
  return Number(result.numAffectedRows ?? 0n)
}

// --- Reading and leases ----------------------------------------------------------------------------------------------

export interface ListReading {
  /** False when the lease's row was not there: the reading counts for nothing until it is. */
  held: boolean
  /** Where processes share a list: with the server's system and timeline, which a promoted replica changes. */
  epoch: string
  /** The highest seq that was committed. Below what one remembers: this is another, older database. */
  head: number
  /** There are entries that nobody is sending to the sink. */
  unsent: boolean
  /** The database's time, milliseconds since the epoch. */
  now_ms: number
  /** The same from before it looked. */
  asked_ms: number
  /** In the order of seq; at most `ENTRIES_A_READING`. */
  entries: Array<Entry & { expiresAt: number }>
}

export const ENTRIES_A_READING = 5_000

/** The server's system and timeline tell a promoted replica, or a restore to a point in time, from what was there before. */
function epochOf(shared: boolean): RawBuilder<unknown> {
  if (!shared) return sql`list.epoch`
  return sql`concat_ws('/', list.epoch, (select system_identifier from pg_control_system()),
    left(pg_walfile_name(pg_current_wal_lsn()), 8))`
}

/** The list's row counts what was committed; a process of an older version writes entries only. By revocation_entries_by_seq. */
const HEAD = sql`greatest(list.head, (select max(seq) from revocation_entries))`

/**
 * By revocation_entries_unsent, which is nearly always empty. The planner guesses that a third of the list is in it: without
 * the order it would read all of the list to find one.
 */
const OLDEST_UNSENT = sql`select sending_until from revocation_entries where sent_seq is null or sent_seq < seq
  order by seq limit ${sql.lit(ENTRIES_A_READING)}`

/**
 * Renews a lease, which says what the process has applied, and reads what is new since: one statement, one snapshot.
 * By revocation_entries_by_seq. Without a process (one alone) only reads.
 */
export function renewal(processId: string | undefined, applied: number): RawBuilder<ListReading> {
  const lease =
    processId === undefined
      ? sql`select 1`
      : sql`update leases set seq = ${applied}, renewals = renewals + 1, renewed_at = clock_timestamp()
            where process_id = ${processId} returning 1`
  return sql<ListReading>`
    with lease as (${lease}),
    news as (
      select json_build_object('subject', subject, 'seq', seq, 'floor', floor, 'dead', dead, 'closed', closed,
        'denied', denied, 'suspended', suspended, 'notBefore', extract(epoch from not_before),
        'nextFloor', next_floor, 'nextFloorAt', extract(epoch from next_floor_at),
        'expiresAt', extract(epoch from expires_at) * 1000) as entry
      from revocation_entries where seq > ${applied} order by seq limit ${sql.lit(ENTRIES_A_READING)})
    select exists (select from lease) as held, ${epochOf(processId !== undefined)} as epoch, ${HEAD}::float8 as head,
      exists (select from (${OLDEST_UNSENT}) as oldest where sending_until is null or sending_until < clock_timestamp()) as unsent,
      (extract(epoch from clock_timestamp()) * 1000)::float8 as now_ms,
      (extract(epoch from statement_timestamp()) * 1000)::float8 as asked_ms,
      coalesce((select json_agg(entry) from news), '[]'::json) as entries
    from revocation_list list`
}

/**
 * Makes a lease's row; from this commit on, revocations wait for the process. Its renewals are counted from where no
 * earlier row of the process can have been: who saw that one must not take this one for it.
 */
export function registration(processId: string, applied: number): RawBuilder<unknown> {
  return sql`insert into leases (process_id, seq, renewals)
    values (${processId}, ${applied}, (extract(epoch from clock_timestamp()) * 1000000)::bigint)
    on conflict (process_id) do nothing`
}

export interface LeaseBehind {
  process_id: string
  renewals: string
}

/** Processes that have not reported this seq yet. The table holds a row a process. */
export function listBehind(executor: Executor, seq: number): Promise<LeaseBehind[]> {
  return executor.selectFrom('leases').select(['process_id', 'renewals']).where('seq', '<', String(seq)).execute()
}

/**
 * Takes the lease of a process that has not renewed it since it was looked at: nobody waits for it any more, and it has
 * to register again before it may answer from memory.
 */
export async function dropLease(executor: Executor, lease: LeaseBehind): Promise<void> {
  await executor
    .deleteFrom('leases')
    .where('process_id', '=', lease.process_id) // primary key
    .where('renewals', '=', lease.renewals)
    .execute()
}

export async function giveUpLease(executor: Executor, processId: string): Promise<void> {
  await executor.deleteFrom('leases').where('process_id', '=', processId).execute() // primary key
}

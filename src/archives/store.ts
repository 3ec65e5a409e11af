// SQL of retention: how far a chain may be archived, what was, and the months that are no longer needed in the database.
import { sql } from 'kysely'
import type { Archive } from '../audit/rules.ts'
import type { Db, Executor, Trx } from '../store/database.ts'

export async function insertArchive(trx: Trx, archive: Archive): Promise<void> {
  await sql`insert into audit_archives (chain, from_seq, to_seq, file_name, jws)
    values (${archive.chain}, ${archive.from_seq}, ${archive.to_seq}, ${archive.file_name}, ${archive.jws})`.execute(
    trx,
  )
}

/** The last entry of each chain that is older than a time. Reads all there is: for an operator's command. */
export async function listLastBefore(executor: Executor, before: Date): Promise<Array<{ chain: string; seq: number }>> {
  const { rows } = await sql<{ chain: string; seq: number }>`
    select chain, max(seq)::float8 as seq from audit_chain where recorded_at < ${before} group by chain order by chain`.execute(
    executor,
  )
  return rows
}

/** Months of the log that end by a time, oldest first. */
export async function listMonthsBefore(executor: Executor, before: Date): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'audit_events'::regclass and c.relname ~ '^audit_events_[0-9]{4}_[0-9]{2}$' order by 1`.execute(
    executor,
  )
  return rows.map(({ name }) => name).filter((name) => endOf(name) <= before)
}

/** `audit_events_2026_05` → the first moment of June. */
function endOf(partition: string): Date {
  const [year = 0, month = 0] = partition.split('_').slice(-2).map(Number)
  return new Date(Date.UTC(year, month, 1)) // months count from 0 there
}

/** Whether a month holds a record that is in no archive. @param archived the last archived entry of each chain */
export async function holdsUnarchived(
  executor: Executor,
  partition: string,
  archived: ReadonlyArray<{ chain: string; to: number }>,
): Promise<boolean> {
  const { rows } = await sql<{ holds: boolean }>`
    select exists (select from ${sql.table(partition)} e
      left join audit_chain c on c.event_id = e.id
      left join jsonb_to_recordset(${JSON.stringify(archived)}::jsonb) as a (chain text, "to" bigint)
        on a.chain = c.chain and c.seq <= a."to"
      where a.chain is null) as holds`.execute(executor)
  return rows[0]?.holds !== false
}

/** Waits for who writes to a month, and keeps others from it; nobody else is held up. Who waits here waits for a moment only. */
export async function closeMonth(trx: Trx, partition: string): Promise<void> {
  await sql`set local lock_timeout = '300ms'`.execute(trx)
  await sql`lock table ${sql.table(partition)} in share mode`.execute(trx)
}

/** Takes a month that was closed out of the log. All who write to the log wait behind it. */
export async function dropMonth(trx: Trx, partition: string): Promise<void> {
  await sql`alter table audit_events detach partition ${sql.table(partition)}`.execute(trx)
  await sql`drop table ${sql.table(partition)}`.execute(trx)
}

/** One archiving at a time. Any constant, ours alone. */
const ARCHIVE_LOCK = 4_180_316

/** Held by the session. */
export async function tryLock(session: Db): Promise<boolean> {
  const { rows } = await sql<{ locked: boolean }>`
    select pg_try_advisory_lock(${sql.lit(ARCHIVE_LOCK)}) as locked`.execute(session)
  return rows[0]?.locked === true
}

export async function unlock(session: Db): Promise<void> {
  await sql`select pg_advisory_unlock(${sql.lit(ARCHIVE_LOCK)})`.execute(session)
}

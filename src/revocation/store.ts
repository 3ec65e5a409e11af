// The revocation list's rows. An entry is the whole state of its subject; each change gives it a new seq.
import { sql } from 'kysely'
import type { Executor, Trx } from '../store/database.ts'

/** Longer than any JWT lives: one hour, clock tolerance, and a minute for what is on its way. */
const ENTRY_SECONDS = 3_600 + 15 + 60

/** Serializes the writers of the list, so that the order of seq is the order of commit. Any constant; ours alone. */
const LIST_LOCK = 4_180_311

export interface RevocationChange {
  /** `con_…`, `key_…`, or `jti:…` */
  subject: string
  floor?: number
  closed?: boolean
  denied?: boolean
}

/**
 * Writes an entry. The list's lock is the last that a transaction takes (consistency §1), so this is the last thing to
 * do in it.
 */
export async function append(trx: Trx, change: RevocationChange): Promise<void> {
  await sql`select pg_advisory_xact_lock(${sql.lit(LIST_LOCK)})`.execute(trx)
  await sql`
    insert into revocation_entries (subject, seq, floor, closed, denied, expires_at)
    values (${change.subject}, nextval('revocation_seq'), ${change.floor ?? null}, ${change.closed ?? false},
            ${change.denied ?? false}, now() + make_interval(secs => ${sql.lit(ENTRY_SECONDS)}))
    on conflict (subject) do update set
      seq = excluded.seq,
      floor = greatest(revocation_entries.floor, excluded.floor),
      closed = revocation_entries.closed or excluded.closed,
      denied = revocation_entries.denied or excluded.denied,
      changed_at = now(),
      expires_at = excluded.expires_at`.execute(trx)
}

/** Which of these JWTs are denied. Primary key. */
export async function findDenied(executor: Executor, jtis: readonly string[]): Promise<Map<string, true>> {
  const { rows } = await sql<{ subject: string }>`
    select subject from revocation_entries
    where subject = any(${jtis.map((jti) => `jti:${jti}`)}::text[]) and denied`.execute(executor)
  return new Map(rows.map(({ subject }) => [subject.slice('jti:'.length), true]))
}

/** Deletes a batch of entries that outlived every JWT they could name. @returns how many */
export async function deleteExpiredEntries(executor: Executor, batch: number): Promise<number> {
  const result = await sql`delete from revocation_entries where subject in (
    select subject from revocation_entries where expires_at < now() limit ${batch})`.execute(executor)
  return Number(result.numAffectedRows ?? 0n)
}

// SQL of back-channel logout: sessions that clients were told of, and notices of their ends until they are delivered.
import { sql } from 'kysely'
import type { UserId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'

export interface ClientSession {
  clientId: string
  sid: string
  userId: UserId
  sessionDigest: string
  /** When its person signed in, in seconds since the epoch. */
  signedInAt: number
  ttlSeconds: number
}

/**
 * Remembers that a client is told of a session. The person is locked and looked at: false when the session has ended by
 * "sign out everywhere" or the like, which then does not know of this client. Primary keys.
 */
export async function insertClientSession(executor: Executor, session: ClientSession): Promise<boolean> {
  const result = await sql`
    insert into client_sessions (client_id, sid, user_id, session_digest, expires_at)
    select ${session.clientId}::text, ${session.sid}::text, u.id, ${session.sessionDigest}::text,
      now() + make_interval(secs => ${session.ttlSeconds}::int)
    from users u
    where u.id = ${session.userId} and u.suspended_at is null
      and (u.sessions_not_before is null or u.sessions_not_before <= to_timestamp(${session.signedInAt}::bigint))
    for share of u
    on conflict (client_id, sid) do update set expires_at = excluded.expires_at`.execute(executor)
  return result.numAffectedRows === 1n
}

/** Whether a client may still be told of a session. Primary key. */
export async function isClientSessionOpen(executor: Executor, clientId: string, sid: string): Promise<boolean> {
  const row = await executor
    .selectFrom('client_sessions')
    .select('sid')
    .where('client_id', '=', clientId)
    .where('sid', '=', sid)
    .executeTakeFirst()
  return row !== undefined
}

export interface Cause {
  reason: string
  traceId: string
}

/** A browser's session, with every client that was told of it; or what one client was told. */
export type EndedSession = { sessionDigest: string } | { clientId: string; sid: string }

/**
 * Turns what clients were told of a session into notices of its end: whoever deletes the row writes the notice, so each
 * is written once. By client_sessions_by_session, or the primary key. @returns how many there are to deliver
 */
export async function endClientSessions(trx: Trx, ended: EndedSession, cause: Cause): Promise<number> {
  const which =
    'sid' in ended
      ? sql`client_id = ${ended.clientId} and sid = ${ended.sid}`
      : sql`session_digest = ${ended.sessionDigest}`
  const result = await sql`
    with gone as (delete from client_sessions where ${which} returning client_id, user_id, sid)
    insert into logout_notices (client_id, user_id, sid, reason, trace_id)
    select g.client_id, g.user_id, g.sid, ${cause.reason}::text, ${cause.traceId}::text
    from gone g join clients c on c.id = g.client_id and c.deleted_at is null`.execute(trx)
  return Number(result.numAffectedRows ?? 0n)
}

/** Clients that want to know of logouts, and may hold a session of a person. By the indexes of `endEveryClientSession`. */
export async function listKnowingClients(executor: Executor, userId: UserId): Promise<Array<{ name: string }>> {
  const { rows } = await sql<{ name: string }>`
    select c.name from clients c
    where c.deleted_at is null and c.metadata ->> 'backchannel_logout_uri' is not null
      and c.id in (
        select client_id from client_sessions where user_id = ${userId}
        union select client_id from connections where user_id = ${userId} and closed_at is null)
    order by c.name, c.id`.execute(executor)
  return rows
}

/**
 * Notices for all that a person's clients may know of: those with an open connection, and those that were told of a
 * session. One without `sid` names every session; a client that insists on one gets a notice for each that is known. By
 * client_sessions_by_user and connections_one_open_a_person.
 */
export async function endEveryClientSession(trx: Trx, userId: UserId, cause: Cause): Promise<number> {
  const result = await sql`
    with gone as (delete from client_sessions where user_id = ${userId} returning client_id, sid),
    knowing as (
      select client_id from gone
      union select client_id from connections where user_id = ${userId} and closed_at is null),
    told as (
      select c.id, coalesce((c.metadata ->> 'backchannel_logout_session_required')::boolean, false) as needs_sid
      from knowing k join clients c on c.id = k.client_id
      where c.deleted_at is null and c.metadata ->> 'backchannel_logout_uri' is not null)
    insert into logout_notices (client_id, user_id, sid, reason, trace_id)
    select t.id, ${userId}::text, g.sid, ${cause.reason}::text, ${cause.traceId}::text
    from told t left join gone g on g.client_id = t.id and t.needs_sid`.execute(trx)
  return Number(result.numAffectedRows ?? 0n)
}

/** Deletes a batch of those that are over. By client_sessions_by_expiry. @returns how many there were */
export async function deleteExpiredClientSessions(executor: Executor, batch: number): Promise<number> {
  const result = await sql`delete from client_sessions where (client_id, sid) in (
    select client_id, sid from client_sessions where expires_at < now() limit ${batch})`.execute(executor)
  return Number(result.numAffectedRows ?? 0n)
}

// --- Delivery --------------------------------------------------------------------------------------------------------

/** A notice that this process is to deliver, with what its client says now. */
export interface ClaimedNotice {
  id: string
  client_id: string
  user_id: UserId
  sid: string | null
  reason: string
  trace_id: string
  /** This one included: with the id it names the claim. */
  tries: number
  metadata: Record<string, unknown>
  client_deleted: boolean
  now: Date
}

/**
 * Takes notices that are due: for each client the one that has waited longest, but none of a client that is being told
 * of one already. A claim is a time until which nobody else looks: one that was lost with its process is taken again.
 * By logout_notices_due and the primary key.
 */
export async function claimNotices(
  executor: Executor,
  asked: { most: number; besides: readonly string[]; claimSeconds: number },
): Promise<ClaimedNotice[]> {
  const { rows } = await sql<ClaimedNotice>`
    with firsts as (
      select distinct on (client_id) id, next_try_at from logout_notices
      where next_try_at <= clock_timestamp() and client_id <> all(${[...asked.besides]}::text[])
      order by client_id, next_try_at),
    taken as materialized (
      select id from logout_notices
      where id in (select id from firsts order by next_try_at limit ${asked.most}) and next_try_at <= clock_timestamp()
      for update skip locked)
    update logout_notices n
    set tries = n.tries + 1, next_try_at = clock_timestamp() + make_interval(secs => ${asked.claimSeconds}::int)
    from taken t, clients c
    where n.id = t.id and c.id = n.client_id
    returning n.id::text as id, n.client_id, n.user_id, n.sid, n.reason, n.trace_id, n.tries, c.metadata,
      c.deleted_at is not null as client_deleted, clock_timestamp() as now`.execute(executor)
  return rows
}

/** A notice that is done with, one way or the other. False when the claim was lost meanwhile. Primary key. */
export async function deleteNotice(trx: Trx, claim: Pick<ClaimedNotice, 'id' | 'tries'>): Promise<boolean> {
  const result = await trx
    .deleteFrom('logout_notices')
    .where('id', '=', claim.id)
    .where('tries', '=', claim.tries)
    .executeTakeFirst()
  return result.numDeletedRows === 1n
}

/** Primary key. */
export async function postponeNotice(
  executor: Executor,
  claim: Pick<ClaimedNotice, 'id' | 'tries'>,
  seconds: number,
): Promise<void> {
  await executor
    .updateTable('logout_notices')
    .set({ next_try_at: sql<Date>`clock_timestamp() + make_interval(secs => ${seconds}::int)` })
    .where('id', '=', claim.id)
    .where('tries', '=', claim.tries)
    .execute()
}

// SQL of people's accounts.
import { sql } from 'kysely'
import type { UserId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import { emailKey } from './rules.ts'

/** By id (primary key) or by address (users_email_key_key). */
export function findUser(executor: Executor, idOrEmail: string) {
  return named(executor, idOrEmail).executeTakeFirst()
}

/**
 * The same, locked to change it: the time that is written then is after that of every sign-in that was let through
 * before. In one statement the time would be read first, and the lock waited for afterwards.
 */
export function lockUserToChange(trx: Trx, idOrEmail: string) {
  return named(trx, idOrEmail).forNoKeyUpdate().executeTakeFirst()
}

function named(executor: Executor, idOrEmail: string) {
  const query = executor.selectFrom('users').selectAll()
  return idOrEmail.includes('@')
    ? query.where('email_key', '=', emailKey(idOrEmail))
    : query.where('id', '=', idOrEmail as UserId) // an unknown text finds nothing
}

/** Undefined when the address is another account's already. */
export async function insertUser(
  trx: Trx,
  row: { id: UserId; email: string; email_key: string; name: string; password_digest: string },
): Promise<Date | undefined> {
  const inserted = await trx
    .insertInto('users')
    .values(row)
    .onConflict((conflict) => conflict.column('email_key').doNothing())
    .returning('created_at')
    .executeTakeFirst()
  return inserted?.created_at
}

/** Locks a person's row against suspension and "sign out everywhere". Primary key. */
export function lockUser(trx: Trx, id: UserId) {
  return trx.selectFrom('users').selectAll().where('id', '=', id).forShare().executeTakeFirst()
}

/** A new password ends every session that began before it. Primary key. */
export async function updatePassword(trx: Trx, id: UserId, passwordDigest: string): Promise<void> {
  await trx
    .updateTable('users')
    .set({ password_digest: passwordDigest, sessions_not_before: sql<Date>`clock_timestamp()` }) // the row is locked by now
    .where('id', '=', id)
    .execute()
}

/** Ends every session that began before now. Primary key. */
export async function endSessions(trx: Trx, id: UserId): Promise<void> {
  await trx
    .updateTable('users')
    .set({ sessions_not_before: sql<Date>`clock_timestamp()` }) // the row is locked by now
    .where('id', '=', id)
    .execute()
}

/** Suspends a person, and ends their sessions; or lifts it. False when it was so before. Primary key. */
export async function setSuspended(trx: Trx, id: UserId, suspended: boolean): Promise<boolean> {
  const query = trx.updateTable('users').where('id', '=', id)
  const result = suspended
    ? await query
        .set({ suspended_at: sql<Date>`clock_timestamp()`, sessions_not_before: sql<Date>`clock_timestamp()` })
        .where('suspended_at', 'is', null)
        .executeTakeFirst()
    : await query.set({ suspended_at: null }).where('suspended_at', 'is not', null).executeTakeFirst()
  return result.numUpdatedRows === 1n
}

// SQL of people's accounts.
import { sql } from 'kysely'
import type { UserId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import { emailKey } from './rules.ts'

/** By id (primary key) or by address (users_email_key_key). */
export function findUser(executor: Executor, idOrEmail: string) {
  const query = executor.selectFrom('users').selectAll()
  return (
    idOrEmail.includes('@')
      ? query.where('email_key', '=', emailKey(idOrEmail))
      : query.where('id', '=', idOrEmail as UserId)
  ) // an unknown text finds nothing
    .executeTakeFirst()
}

export async function insertUser(
  trx: Trx,
  row: { id: UserId; email: string; email_key: string; name: string; password_digest: string },
): Promise<Date> {
  return (await trx.insertInto('users').values(row).returning('created_at').executeTakeFirstOrThrow()).created_at
}

/** Locks a person's row against suspension and "sign out everywhere". Primary key. */
export function lockUser(trx: Trx, id: UserId) {
  return trx.selectFrom('users').selectAll().where('id', '=', id).forShare().executeTakeFirst()
}

/** The database's time, in whole seconds since the epoch. */
export async function readTime(trx: Trx): Promise<number> {
  const { rows } = await sql<{
    seconds: number
  }>`select floor(extract(epoch from clock_timestamp()))::int as seconds`.execute(trx)
  return rows[0]?.seconds ?? 0
}

/** A new password ends every session that began before it. Primary key. */
export async function updatePassword(trx: Trx, id: UserId, passwordDigest: string): Promise<void> {
  await trx
    .updateTable('users')
    .set({ password_digest: passwordDigest, sessions_not_before: sql<Date>`clock_timestamp()` }) // the row is locked by now
    .where('id', '=', id)
    .execute()
}

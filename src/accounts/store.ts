// SQL of people's accounts.
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

/** A new password ends every session that began before it. Primary key. */
export async function updatePassword(trx: Trx, id: UserId, passwordDigest: string): Promise<void> {
  await trx
    .updateTable('users')
    .set((value) => ({ password_digest: passwordDigest, sessions_not_before: value.fn<Date>('now') }))
    .where('id', '=', id)
    .execute()
}

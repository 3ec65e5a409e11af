// A creating call that is sent twice makes one thing: the first answer is kept, without its secret, in the transaction
// that made the thing, and the second call is given it again.
import { createHash } from 'node:crypto'
import { sql } from 'kysely'
import { digestOf } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import type { Executor, Trx } from '../store/database.ts'

/** A day: longer than any client retries. */
const KEPT_SECONDS = 86_400

/** A call that may be repeated. */
export interface Repeatable {
  /** Whose key it is: nobody finds another caller's answer. */
  scope: string
  key: string
  /** The method, the path and the body. */
  request: string
}

/**
 * Does the work once for a key. A second caller waits for the first one's commit, and gets its answer.
 *
 * @param work its result is kept as JSON: no secret may be in it
 * @throws {AppError} `idempotency_key_reused` when the key came with another request
 */
export async function once<T extends object>(
  trx: Trx,
  call: Repeatable | undefined,
  work: () => Promise<T>,
): Promise<{ result: T; isRepeat: boolean }> {
  if (call === undefined) return { result: await work(), isRepeat: false }
  const key_digest = digestOf(call.key)
  const fingerprint = createHash('sha256').update(call.request).digest('base64url')
  const claimed = await trx
    .insertInto('idempotency_keys')
    .values({ scope: call.scope, key_digest, fingerprint, response: null })
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirst()
  const own = (column: typeof trx) =>
    column.updateTable('idempotency_keys').where('scope', '=', call.scope).where('key_digest', '=', key_digest)
  if (claimed.numInsertedOrUpdatedRows === 1n) {
    const result = await work()
    await own(trx)
      .set({ response: JSON.stringify(result) })
      .execute()
    return { result, isRepeat: false }
  }
  const kept = await trx
    .selectFrom('idempotency_keys')
    .selectAll()
    .where('scope', '=', call.scope)
    .where('key_digest', '=', key_digest)
    .executeTakeFirst()
  if (kept === undefined || kept.fingerprint !== fingerprint) throw new AppError('idempotency_key_reused')
  return { result: kept.response as T, isRepeat: true } // what the same call stored
}

/** By idempotency_keys_by_time. @returns how many */
export async function deleteOldKeys(executor: Executor, batch: number): Promise<number> {
  const result = await sql`delete from idempotency_keys where (scope, key_digest) in (
    select scope, key_digest from idempotency_keys
    where created_at < now() - make_interval(secs => ${sql.lit(KEPT_SECONDS)}) limit ${batch})`.execute(executor)
  return Number(result.numAffectedRows ?? 0n)
}

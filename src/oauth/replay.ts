// Ids that may be used once: of client assertions (RFC 7523 §3) and DPoP proofs (RFC 9449 §11.1), for all processes.
import { createHash } from 'node:crypto'
import { type Db, reading } from '../store/database.ts'

/** True for the first caller, also after a restart: one insert decides. @param expiresAt seconds since the epoch */
export async function claimReplayId(db: Db, issuer: string, jti: string, expiresAt: number): Promise<boolean> {
  const id = createHash('sha256')
    .update(JSON.stringify([issuer, jti]))
    .digest('base64url')
  const insert = db
    .insertInto('replay_ids')
    .values({ id, expires_at: new Date(expiresAt * 1000) })
    .onConflict((conflict) => conflict.doNothing())
  const { numInsertedOrUpdatedRows } = await reading(insert.executeTakeFirstOrThrow())
  return numInsertedOrUpdatedRows === 1n
}

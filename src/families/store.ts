// SQL of families: all that descends from one code. Single use is decided here, and what must hold together is one statement.
import { type RawBuilder, sql } from 'kysely'
import { type AuditEvent, insertRecord } from '../audit/service.ts'
import { type ConnectionFacts, FACTS, FACTS_JOINS, type FactsRow, toFacts } from '../connections/store.ts'
import type { SecretDigest } from '../crypto/secret.ts'
import type { FamilyId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'

export interface RefreshTokenRow {
  digest: SecretDigest
  familyId: FamilyId
  familyEnded: boolean
  keyId: string
  payload: Record<string, unknown>
  consumedAt: Date | null
  expiresAt: Date
  successor: { consumed: boolean } | undefined
  connection: ConnectionFacts
}

interface RefreshTokenFactsRow extends FactsRow {
  digest: SecretDigest
  family_id: FamilyId
  ended_at: Date | null
  key_id: string
  payload: Record<string, unknown>
  consumed_at: Date | null
  expires_at: Date
  successor_digest: string | null
  successor_consumed_at: Date | null
}

/** Refresh tokens with their successors, families and connections, by digest. By primary keys, in one statement. */
export async function findRefreshTokens(
  executor: Executor,
  digests: readonly SecretDigest[],
): Promise<Map<SecretDigest, RefreshTokenRow>> {
  const { rows } = await sql<RefreshTokenFactsRow>`
    select ${FACTS}, t.digest, t.family_id, f.ended_at, t.key_id, t.payload, t.consumed_at, t.expires_at,
      s.digest as successor_digest, s.consumed_at as successor_consumed_at
    from refresh_tokens t
    join families f on f.id = t.family_id
    join connections c on c.id = f.connection_id
    ${FACTS_JOINS}
    left join refresh_tokens s on s.digest = t.successor_digest
    where t.digest = any(${digests}::text[])`.execute(executor)
  return new Map(rows.map((row) => [row.digest, toRefreshTokenRow(row)]))
}

export async function findRefreshToken(executor: Executor, digest: SecretDigest): Promise<RefreshTokenRow | undefined> {
  return (await findRefreshTokens(executor, [digest])).get(digest)
}

function toRefreshTokenRow(row: RefreshTokenFactsRow): RefreshTokenRow {
  return {
    digest: row.digest,
    familyId: row.family_id,
    familyEnded: row.ended_at !== null,
    keyId: row.key_id,
    payload: row.payload,
    consumedAt: row.consumed_at,
    expiresAt: row.expires_at,
    successor: row.successor_digest === null ? undefined : { consumed: row.successor_consumed_at !== null },
    connection: toFacts(row),
  }
}

/** Which client redeemed a code, and the family that came of it. Primary key. */
export function findConsumedCode(executor: Executor, digest: SecretDigest) {
  return executor.selectFrom('consumed_codes').selectAll().where('digest', '=', digest).executeTakeFirst()
}

/** Ends a family and deletes its refresh tokens. False when it had ended before: the first caller wins. */
export async function endFamily(trx: Trx, id: FamilyId, reason: string): Promise<boolean> {
  const result = await trx
    .updateTable('families')
    .set((value) => ({ ended_at: value.fn<Date>('now'), end_reason: reason }))
    .where('id', '=', id) // primary key
    .where('ended_at', 'is', null)
    .executeTakeFirst()
  if (result.numUpdatedRows === 0n) return false
  await trx.deleteFrom('refresh_tokens').where('family_id', '=', id).execute() // refresh_tokens_by_family
  return true
}

export interface NewRefreshToken {
  digest: SecretDigest
  keyId: string
  payload: Record<string, unknown>
  ttlSeconds: number
}

/**
 * Locks, in the order of consistency §1, all that authorises issuing for a connection, and compares it with what was
 * read before the tokens were signed. `authority` has a row when it still stands.
 */
function authority(facts: ConnectionFacts): RawBuilder<unknown> {
  const { userId } = facts
  const person =
    userId === null
      ? sql``
      : sql`
    person as materialized (
      select 1 from users where id = ${userId} and suspended_at is null for share),`
  return sql`${person}
    place as materialized (
      select 1 from workspaces where id = ${facts.workspaceId} and archived_at is null
        ${userId === null ? sql`` : sql`and exists (select from person)`} for share),
    workspace_role as materialized (
      select role from workspace_members
      where workspace_id = ${facts.workspaceId} and user_id = ${userId}::text and exists (select from place) for share),
    organization_role as materialized (
      select role from organization_members
      where organization_id = ${facts.organizationId} and user_id = ${userId}::text and exists (select from place) for share),
    client as materialized (
      select 1 from clients where id = ${facts.clientId} and deleted_at is null and exists (select from place) for share),
    authority as materialized (
      select 1 from connections
      where id = ${facts.id} and closed_at is null and suspended_at is null and version = ${facts.version}::int and exists (select from client)
        and (select role from workspace_role) is not distinct from ${facts.workspaceRole}::text
        and (select role from organization_role) is not distinct from ${facts.organizationRole}::text
      for share)`
}

export interface RefreshWrite {
  facts: ConnectionFacts
  familyId: FamilyId
  presented: SecretDigest
  successor: NewRefreshToken
  audit: AuditEvent
}

/**
 * Consumes a refresh token and saves its successor, with the audit record: one statement, one transaction.
 * `won` is false when another request consumed it first, `open` when the family has ended.
 */
export async function rotateRefreshToken(
  executor: Executor,
  write: RefreshWrite,
): Promise<{ authorised: boolean; open: boolean; won: boolean }> {
  const won = sql`select from presented`
  const { rows } = await sql<{ authorised: boolean; open: boolean; won: boolean }>`
    with ${authority(write.facts)},
    family as materialized (
      select 1 from families where id = ${write.familyId} and ended_at is null and exists (select from authority) for share),
    presented as (
      update refresh_tokens set consumed_at = now(), successor_digest = ${write.successor.digest}
      where digest = ${write.presented} and consumed_at is null and exists (select from family) returning 1),
    successor as (${insertRefreshToken(write.familyId, write.successor, won)}),
    recorded as (${insertRecord(write.audit, won)})
    select exists (select from authority) as authorised, exists (select from family) as open, exists (${won}) as won`.execute(
    executor,
  )
  return rows[0] ?? { authorised: false, open: false, won: false }
}

export interface CodeWrite {
  facts: ConnectionFacts
  familyId: FamilyId
  code: SecretDigest
  refreshToken: NewRefreshToken | undefined
  audit: AuditEvent
}

/**
 * Consumes a code, opens its family and saves the first refresh token, with the audit record: one statement.
 * `won` is false when the code was redeemed before.
 */
export async function redeemCode(executor: Executor, write: CodeWrite): Promise<{ authorised: boolean; won: boolean }> {
  const won = sql`select from consumed`
  const { rows } = await sql<{ authorised: boolean; won: boolean }>`
    with ${authority(write.facts)},
    consumed as (
      insert into consumed_codes (digest, client_id, connection_id, family_id)
      select ${write.code}, ${write.facts.clientId}, ${write.facts.id}, ${write.familyId} where exists (select from authority)
      on conflict (digest) do nothing returning 1),
    family as (
      insert into families (id, connection_id) select ${write.familyId}, ${write.facts.id} where exists (${won})),
    ${write.refreshToken === undefined ? sql`` : sql`first_token as (${insertRefreshToken(write.familyId, write.refreshToken, won)}),`}
    recorded as (${insertRecord(write.audit, won)})
    select exists (select from authority) as authorised, exists (${won}) as won`.execute(executor)
  return rows[0] ?? { authorised: false, won: false }
}

function insertRefreshToken(
  familyId: FamilyId,
  token: NewRefreshToken,
  when: RawBuilder<unknown>,
): RawBuilder<unknown> {
  return sql`insert into refresh_tokens (digest, family_id, key_id, payload, expires_at)
    select ${token.digest}, ${familyId}, ${token.keyId}, ${JSON.stringify(token.payload)}::jsonb,
      now() + make_interval(secs => ${token.ttlSeconds}::int)
    where exists (${when})`
}

/**
 * For a retry, or after a lost race: takes the family's lock for itself, and only then reads the token and its
 * successor, so that no concurrent use is missed. Undefined when the authority is gone or the family has ended.
 */
export async function lockForRetry(
  trx: Trx,
  facts: ConnectionFacts,
  familyId: FamilyId,
): Promise<{ authorised: boolean; open: boolean }> {
  const { rows } = await sql<{ authorised: boolean; open: boolean }>`
    with ${authority(facts)},
    family as materialized (
      select 1 from families where id = ${familyId} and ended_at is null and exists (select from authority) for update)
    select exists (select from authority) as authorised, exists (select from family) as open`.execute(trx)
  return rows[0] ?? { authorised: false, open: false }
}

/**
 * Deletes a batch of what can no longer be used. By refresh_tokens_by_expiry, consumed_codes_by_time,
 * replay_ids_by_expiry. @returns the most rows that one table lost: as many as asked for means that there are more
 */
export async function deleteExpired(executor: Executor, batch: number): Promise<number> {
  const results = [
    await sql`delete from refresh_tokens where digest in (
      select digest from refresh_tokens where expires_at < now() - interval '1 day' limit ${batch})`.execute(executor),
    await sql`delete from consumed_codes where digest in (
      select digest from consumed_codes where consumed_at < now() - interval '1 day' limit ${batch})`.execute(executor),
    await sql`delete from replay_ids where id in (
      select id from replay_ids where expires_at < now() - interval '1 minute' limit ${batch})`.execute(executor),
  ]
  return Math.max(...results.map((result) => Number(result.numAffectedRows ?? 0n)))
}

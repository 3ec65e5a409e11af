// Writes what a unit of work kept: PostgreSQL first, then the ephemeral store, then the body may go out (consistency §1).
import type { AuditEvent } from '../audit/service.ts'
import { judgeRefresh, whyUnusable } from '../connections/rules.ts'
import { endFamily } from '../connections/service.ts'
import { findConnection } from '../connections/store.ts'
import { AppError } from '../errors.ts'
import {
  findConsumedCode,
  findRefreshToken,
  lockForRetry,
  type RefreshTokenRow,
  redeemCode,
  rotateRefreshToken,
} from '../families/store.ts'
import { newId } from '../ids.ts'
import { endSession, startClientSession } from '../logout/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import { type Db, reading, retried, transact } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import type { UnitOfWork } from './unit-of-work.ts'

export interface SettleDeps {
  db: Db
  revocations: RevocationList
  ephemeral: EphemeralStore
  refreshGraceSeconds: number
  lifetimes: { sessionMaxSeconds: number }
}

export type Settled = 'as_answered' | 'invalid_grant'

/** What was read may be no older than this when the answer goes out: a paused process must not send it (consistency §4). */
const MOST_AGE_MS = 30_000

/**
 * @param refused the library answered with an error: what it consumed and saved is dropped, what it ended stays
 * @returns `invalid_grant` when another request used the code or refresh token first: the body must say so
 * @throws {AppError} `unavailable` when a store cannot be written; nothing was given out then
 */
export async function settle(deps: SettleDeps, unit: UnitOfWork, refused: boolean): Promise<Settled> {
  if (unit.ending !== undefined) await end(deps, unit)
  if (unit.consumed && !refused) {
    if (unit.facts !== undefined && performance.now() - unit.facts.askedAt > MOST_AGE_MS)
      throw new AppError('unavailable')
    const outcome = unit.presented === undefined ? await settleCode(deps, unit) : await settleRefresh(deps, unit)
    if (outcome === 'invalid_grant') return outcome
  }
  if (!refused) await settleSession(deps, unit)
  const dropped = refused && (unit.presented !== undefined || unit.code !== undefined)
  if (!dropped && unit.ephemeral.size > 0) await deps.ephemeral.write([...unit.ephemeral.values()])
  return 'as_answered'
}

/**
 * What clients know of the browser's session. A session that was ended elsewhere meanwhile is told to no client.
 *
 * @throws {AppError} `expired_interaction`
 */
async function settleSession(deps: SettleDeps, unit: UnitOfWork): Promise<void> {
  if (unit.signOut !== undefined) await endSession(deps.db, unit.signOut, unit.request)
  if (unit.clientSession === undefined) return
  const told = { ...unit.clientSession, ttlSeconds: deps.lifetimes.sessionMaxSeconds }
  if (!(await startClientSession(deps.db, told))) throw new AppError('expired_interaction')
}

async function end(deps: SettleDeps, unit: UnitOfWork): Promise<void> {
  if (unit.ending === undefined) return
  await endFamily(deps.revocations, { ...unit.ending, actor: actorOf(unit), request: unit.request })
}

async function settleCode(deps: SettleDeps, unit: UnitOfWork): Promise<Settled> {
  const { code, facts } = unit
  if (code === undefined || facts === undefined) throw new Error('a code was consumed that was not found')
  const { connection } = facts
  const write = {
    facts: connection,
    familyId: newId('fam'),
    code,
    refreshToken: unit.issued,
    audit: issuing(unit, 'token.issued'),
  }
  const { authorised, won } = await retried(() => redeemCode(deps.db, write))
  if (won) return 'as_answered'
  // In a second step, so that it sees what the winner wrote; also where something else was in the way, or a replay
  // that came just then would end nothing.
  const consumed = await reading(findConsumedCode(deps.db, code))
  if (consumed === undefined && !authorised) return authorityLost(deps, unit)
  if (consumed !== undefined) {
    unit.ending = { connectionId: consumed.connection_id, familyId: consumed.family_id, reason: 'code_replayed' }
    await end(deps, unit)
  }
  return 'invalid_grant'
}

async function settleRefresh(deps: SettleDeps, unit: UnitOfWork): Promise<Settled> {
  const { presented, facts, issued } = unit
  if (presented === undefined || facts === undefined || issued === undefined)
    throw new Error('a refresh saved no successor')
  if (presented.isRetry) return settleRetry(deps, unit, presented.row)
  const { connection } = facts
  const { familyId, digest } = presented.row
  const write = {
    facts: connection,
    familyId,
    presented: digest,
    successor: issued,
    audit: issuing(unit, 'token.refreshed'),
  }
  const { authorised, open, won } = await retried(() => rotateRefreshToken(deps.db, write))
  if (won) return 'as_answered'
  if (!authorised) return authorityLost(deps, unit)
  return open ? settleRetry(deps, unit, presented.row) : 'invalid_grant'
}

/**
 * The token was used before, or just now by another request. The value that this answer carries is the one successor
 * there is: it may be given again while it is unused. Nothing is inserted.
 */
async function settleRetry(deps: SettleDeps, unit: UnitOfWork, row: RefreshTokenRow): Promise<Settled> {
  const facts = unit.facts?.connection
  if (facts === undefined) throw new Error('a refresh without its connection')
  const outcome = await transact(deps.db, async (trx) => {
    const { authorised, open } = await lockForRetry(trx, facts, row.familyId)
    if (!authorised) return 'authority_lost' as const
    const now = open ? await findRefreshToken(trx, row.digest) : undefined
    const judgement = now === undefined ? 'dead' : judgeRefresh(now, now.connection.readAt, deps.refreshGraceSeconds)
    return judgement === 'retry' ? ('as_answered' as const) : ('invalid_grant' as const)
  })
  return outcome === 'authority_lost' ? authorityLost(deps, unit) : outcome
}

/**
 * What authorised the request changed while it ran. Where access has ended the answer is a refusal; where it was only
 * narrowed, nothing was consumed, and the client's next try gets what now holds.
 */
async function authorityLost(deps: SettleDeps, unit: UnitOfWork): Promise<Settled> {
  const before = unit.facts?.connection
  const now = before && (await reading(findConnection(deps.db, before.id)))
  if (before === undefined || now === undefined || whyUnusable(now) !== undefined) return 'invalid_grant'
  throw new AppError('unavailable')
}

function issuing(unit: UnitOfWork, event: string): AuditEvent {
  const connection = unit.facts?.connection
  return {
    event,
    status: 'pass',
    actor: actorOf(unit),
    request: unit.request,
    organizationId: connection?.organizationId ?? null,
    workspaceId: connection?.workspaceId ?? null,
    userId: connection?.userId ?? null,
    clientId: connection?.clientId ?? null,
    credentialId: connection?.id ?? null,
    tokenVersion: connection?.version ?? null,
  }
}

function actorOf(unit: UnitOfWork): AuditEvent['actor'] {
  const clientId = unit.facts?.connection.clientId ?? unit.clientId
  return clientId === undefined ? { kind: 'nobody' } : { kind: 'client', id: clientId }
}

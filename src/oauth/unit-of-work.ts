// One request, one transaction (consistency §1). The library reads through the adapter as it goes; what it writes is
// kept here, and written once its answer is there and before the body is sent.
import { AsyncLocalStorage } from 'node:async_hooks'
import type { Account } from '../accounts/service.ts'
import type { RequestInfo } from '../audit/service.ts'
import type { FamilyEnd } from '../connections/service.ts'
import type { ConnectionFacts } from '../connections/store.ts'
import { digestOf, type SecretDigest } from '../crypto/secret.ts'
import type { NewRefreshToken, RefreshTokenRow } from '../families/store.ts'
import type { ConnectionId, FamilyId, UserId } from '../ids.ts'
import type { SessionEnd } from '../logout/service.ts'
import type { ClientSession } from '../logout/store.ts'
import type { EphemeralChange } from '../store/ephemeral.ts'

export interface UnitOfWork {
  readonly request: RequestInfo
  /** What tokens of this request are issued for, as it was read; its age is measured from before it was asked for. */
  facts?: { connection: ConnectionFacts; askedAt: number }
  /** The refresh token that a refresh presents, when it may be used. */
  presented?: { row: RefreshTokenRow; value: string; isRetry: boolean }
  /** The client of the request, once the library has authenticated it. */
  clientId?: string
  /** The code that a redemption presents. */
  code?: SecretDigest
  /** The library consumed what was presented. */
  consumed: boolean
  /** The refresh token to save: the first of a family, or a successor. */
  issued?: NewRefreshToken
  /** A family to end, whatever becomes of the request. */
  ending?: { connectionId: ConnectionId; familyId: FamilyId; reason: FamilyEnd }
  /** A client learns of the browser's session with this request. */
  clientSession?: Omit<ClientSession, 'ttlSeconds'>
  /** The browser's session ends with this request, or what one client knows of it. */
  signOut?: SessionEnd
  /** Writes to the ephemeral store, by key: the last one counts. */
  readonly ephemeral: Map<string, EphemeralChange>
  readonly accounts: Map<string, Promise<Account | undefined>>
  /** What went wrong inside the library that is not the caller's fault. */
  failure?: unknown
}

const storage = new AsyncLocalStorage<UnitOfWork>()

export function newUnitOfWork(request: RequestInfo): UnitOfWork {
  return { request, consumed: false, ephemeral: new Map(), accounts: new Map() }
}

/** Runs `work` with the unit of work that the adapter and the library's callbacks find by `currentUnit`. */
export function inUnitOfWork<T>(unit: UnitOfWork, work: () => Promise<T>): Promise<T> {
  return storage.run(unit, work)
}

/** @throws {Error} outside of a request: a bug */
export function currentUnit(): UnitOfWork {
  const unit = storage.getStore()
  if (unit === undefined) throw new Error('the adapter was used outside of a unit of work')
  return unit
}

/** Nobody's session says nothing when it ends. */
export function noteSignOut(
  session: { uid: string; accountId?: string | undefined } | undefined,
  reason: 'signed_out' | 'person_changed',
  clientId?: string,
): void {
  if (session?.accountId === undefined) return
  const userId = session.accountId as UserId // a session holds nothing else
  currentUnit().signOut = { userId, ended: { sessionDigest: digestOf(session.uid) }, reason, clientId }
}

/** The library says so of each client of a session that ends; of one alone when the session goes on without it. */
export function noteClientSignOut(userId: UserId, ended: { clientId: string; sid: string }): void {
  currentUnit().signOut ??= { userId, ended, reason: 'left_client', clientId: ended.clientId }
}

// Whether a presented token is good. Pure.
import { type Entry, endsVersion } from '../revocation/rules.ts'
import { type VersionFault, versionFault } from '../workspace-tokens/rules.ts'
import type { TokenRecord } from './store.ts'

/** - `archived`: its workspace is. - `address`: it may not be used from there. - `unknown`: there is none like it. */
export type TokenFault = VersionFault | 'archived' | 'address' | 'unknown'

export function tokenFault(record: TokenRecord, now: Date): VersionFault | 'archived' | undefined {
  if (record.workspaceArchived) return 'archived'
  return versionFault({ ...record, version: record.newest }, record, now)
}

/** A good value of a rotation that ends with its first use, which this is. */
export function isFirstUseOfRotation(record: TokenRecord): boolean {
  return record.cutover === 'on_first_use' && record.version === record.newest && record.floor < record.newest
}

/** What ended is presented again: somebody still has it. */
export function isReuse(fault: TokenFault): boolean {
  return fault === 'retired' || fault === 'revoked' || fault === 'archived'
}

/** Longer than a transaction and the wait for every process can take. */
const CUTOVER_SETTLES_MS = 10_000

/** Its line was cut over so lately that some process may not know it yet. */
export function isJustCutOver(record: TokenRecord): boolean {
  return record.retiredAt !== null && record.readAt.getTime() - record.retiredAt.getTime() < CUTOVER_SETTLES_MS
}

/**
 * Why a credential of ours is refused, in the words of the audit log. `retired`, `revoked` and `ended` are what a filter for
 * stale credentials looks for there: what was replaced, taken back, or ended with its connection or its workspace.
 * `address`: it may not be used from there. `bound`: it was presented without the key that it is bound to.
 */
export type Refused = 'retired' | 'revoked' | 'ended' | 'expired' | 'suspended' | 'ahead' | 'address' | 'bound'

export function refusedToken(fault: Exclude<TokenFault, 'unknown'>): Refused {
  return fault === 'archived' ? 'ended' : fault
}

/** Why its credential's entry of the list ends a version. @param at.nowMs the database's time */
export function refusedForVersion(
  entry: Entry | undefined,
  kind: 'key' | 'connection',
  at: { version: number; nowMs: number },
): Refused | undefined {
  if (entry === undefined || !endsVersion(entry, at.version, at.nowMs)) return undefined
  const isOver = entry.closed || entry.denied || entry.dead.includes(at.version)
  // A connection's floor rises with its suspension; a token's older versions were retired before it.
  if (kind === 'connection') return !isOver && entry.suspended ? 'suspended' : 'ended'
  if (isOver) return 'revoked'
  return endsVersion({ ...entry, suspended: false }, at.version, at.nowMs) ? 'retired' : 'suspended'
}

/** Why the entry of a place, a person, a client or of everything ends what was issued before. */
export function refusedForPlace(entry: Entry | undefined): Refused {
  return entry?.suspended === true && !entry.closed ? 'suspended' : 'ended'
}

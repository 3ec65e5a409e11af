// Whether a presented token is good. Pure.
import { type VersionFault, versionFault } from '../workspace-tokens/rules.ts'
import type { TokenRecord } from './store.ts'

/** - `archived`: its workspace is. - `address`: it may not be used from there. - `unknown`: there is none like it. */
export type TokenFault = VersionFault | 'archived' | 'address' | 'unknown'

export function tokenFault(record: TokenRecord, now: Date): TokenFault | undefined {
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

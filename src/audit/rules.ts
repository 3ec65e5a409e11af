// What a record and its place in a chain are. Pure.

/** A record as it is hashed, shown and exported: every member is there, null where it says nothing. */
export interface AuditRecord {
  id: string
  /** RFC 3339, UTC, with six digits of a second: the database's own. */
  timestamp: string
  organization_id: string | null
  workspace_id: string | null
  event: string
  status: 'pass' | 'fail'
  trace_id: string
  profile_id: string | null
  actor_kind: string
  actor_id: string | null
  user_id: string | null
  client_id: string | null
  credential_id: string | null
  token_version: string | null
  address: string | null
  detail: Record<string, unknown>
}

/** A place in a chain. */
export interface ChainEntry {
  /** The organization, or `system` for what belongs to none. */
  chain: string
  /** From 1, without gaps. */
  seq: number
  /** The hash of the entry before, `GENESIS` for the first one. */
  previous: string
  hash: string
}

/** A part of a chain that is in a file of its own. */
export interface Archive {
  chain: string
  from_seq: number
  to_seq: number
  file_name: string
  /** Says the same, and the last hash. */
  jws: string
}

/** A row that says to be a checkpoint: what its signature says decides. */
export interface NotedCheckpoint {
  chain: string
  /** Exact, also where it is too large to be one. */
  seq: string
  jws: string
}

export const SYSTEM_CHAIN = 'system'
export const GENESIS = '0'.repeat(64)

export const chainOf = (record: Pick<AuditRecord, 'organization_id'>): string => record.organization_id ?? SYSTEM_CHAIN

/** A detail that goes down further than so many levels, itself the first of them, has no hash. */
export const MOST_LEVELS = 100

/**
 * Whether a detail comes back from the database as it went in: only whole numbers that are exact everywhere, no text that
 * is no Unicode (RFC 7493), and nothing that is nested too deep to be followed.
 */
export function isExact(value: unknown, levels = MOST_LEVELS): boolean {
  if (levels === 0) return false
  if (typeof value === 'number') return Number.isSafeInteger(value) && !Object.is(value, -0)
  if (typeof value === 'string') return value.isWellFormed() && !value.includes('\u0000')
  if (Array.isArray(value)) return value.every((member) => isExact(member, levels - 1))
  if (typeof value === 'object' && value !== null)
    return Object.entries(value).every(([name, member]) => isExact(name) && isExact(member, levels - 1))
  return typeof value === 'boolean' || value === null
}

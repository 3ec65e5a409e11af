// What an entry of the revocation list says about a credential. Pure.

/** The whole state of one subject: each change gives it a new seq. */
export interface Entry {
  /** `con_…`, `key_…`, `usr_…`, `ws_…`, `cl_…`, `jti:…`, or `everything` */
  subject: string
  seq: number
  /** The lowest version that is still good; null when none was raised. */
  floor: number | null
  /** Single versions that were revoked. */
  dead: readonly number[]
  closed: boolean
  denied: boolean
  suspended: boolean
  /** Seconds since the epoch: what was issued at or before it is refused. */
  notBefore: number | null
  /** A floor that is set already and rises at a time, in seconds since the epoch. */
  nextFloor: number | null
  nextFloorAt: number | null
}

/** An entry as it goes to the sink. */
export interface WrittenEntry extends Entry {
  /** Of a membership: the role that is left, or `none`. */
  role: string | null
  /** Seconds since the epoch. */
  changedAt: number
}

/** What two states of one subject say together: an entry that outlived every JWT is deleted, and begins anew. */
export function merged(earlier: WrittenEntry | undefined, later: WrittenEntry): WrittenEntry {
  if (earlier === undefined) return later
  if (earlier.seq > later.seq) return merged(later, earlier)
  return {
    ...later,
    floor: highest(earlier.floor, later.floor),
    dead: [...new Set([...earlier.dead, ...later.dead])],
    closed: earlier.closed || later.closed,
    denied: earlier.denied || later.denied,
    notBefore: highest(earlier.notBefore, later.notBefore),
    role: later.role ?? earlier.role,
  }
}

function highest(one: number | null, other: number | null): number | null {
  return one === null || other === null ? (one ?? other) : Math.max(one, other)
}

/** Whose role somewhere has changed. Decisions read the membership itself; a restore reads this. */
export function membership(placeId: string, userId: string): string {
  return `membership:${placeId}:${userId}`
}

/** Whether a credential's own entry ends this version of it. @param nowMs the database's time */
export function endsVersion(entry: Entry | undefined, version: number, nowMs: number): boolean {
  if (entry === undefined) return false
  const hasRisen = entry.nextFloorAt !== null && entry.nextFloorAt * 1000 <= nowMs
  const floor = Math.max(entry.floor ?? 1, hasRisen ? (entry.nextFloor ?? 1) : 1)
  return entry.closed || entry.denied || entry.suspended || version < floor || entry.dead.includes(version)
}

/** Whether the entry of a credential, a place, a person, a client or of everything ends what was issued at `issuedAt` (seconds). */
export function endsIssuedAt(entry: Entry | undefined, issuedAt: number): boolean {
  if (entry === undefined) return false
  return entry.closed || entry.suspended || entry.denied || (entry.notBefore !== null && issuedAt <= entry.notBefore)
}

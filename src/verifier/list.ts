// The revocation list in memory, as the feed has told it: what has ended, and up to when nothing is missing.
import type { IssuerClock } from './clock.ts'
import { type FeedEntry, type FeedMessage, hashSubject } from './wire.ts'

/** What has ended of one subject. Every member is always there, so that looking at it costs the same. */
export interface Ending {
  seq: number
  /** Closed, denied or suspended: nothing of it is good. */
  isWhole: boolean
  /** Seconds since the epoch: what was issued at or before it is refused. */
  notBefore: number
  floor: number
  nextFloor: number
  nextFloorAtMs: number
  dead: readonly number[]
  expiresAtMs: number
}

/** What an entry may name to end a JWT, besides the JWT itself and everything. */
export interface Bearer {
  credentialId: string
  workspaceId: string
  subject: string
  clientId: string | undefined
}

export interface About {
  workspaceId: string
  subject: string
  clientId: string | undefined
  /** The credential's own, which knows versions. */
  own: Ending | undefined
  /** All that there are. */
  all: readonly Ending[]
}

interface Told {
  epoch: string
  key: string
  cursor: string
  endings: Map<string, Ending>
  /** Of them, those of single JWTs: often there is none, and nobody has to look. */
  denied: Set<string>
  seq: number
  /** When it got so far, by the monotonic clock; the older ones are dropped. */
  marks: Array<{ seq: number; atMs: number }>
  completeAsOf: number
}

export interface List {
  /** @throws {Error} when what is told must not be believed: connect again */
  apply(message: FeedMessage): void
  find(subject: string): Ending | undefined
  /** What has ended of a credential, and of where, by whom and through which client it is used. */
  about(bearer: Bearer): About
  /** Whether this one JWT was denied. */
  isDenied(jti: string): boolean
  /** The issuer's time in milliseconds up to which nothing is missing; -Infinity before the first time. */
  completeAsOf(): number
  /** The list up to which every process of the issuer has come by now: what it says later may not be known to all of them. */
  settledSeq(): number
  /** Changes when the list was told anew: no seq from before says anything any more. */
  generation(): number
  /** Where to go on from; undefined to begin. */
  cursor(): string | undefined
}

/** Longer than a live process of the issuer can be behind another one. */
const SETTLED_AFTER_MS = 2_000
/** For so long a list that is older than the one that is known is taken for a process that is behind. */
const OLDER_FOR_MS = 10_000
const FORGET_EVERY_MS = 60_000
const MOST_KEPT = 10_000
const MOST_PAST_EPOCHS = 16

const NOTHING: About = { workspaceId: '', subject: '', clientId: undefined, own: undefined, all: [] }

export function createList(clock: IssuerClock): List {
  let current: Told | undefined
  /** A list that is told from its beginning. It counts once it is whole; until then the one before does. */
  let loading: Told | undefined
  let generation = 0
  let pastEpochs: string[] = []
  let olderSince: number | undefined
  let forgottenAt = performance.now()
  /** How the list names subjects that come again and again. */
  let hashes = createRecent<string>(MOST_KEPT)
  /** What it says now of credentials that do. */
  let abouts = createRecent<About>(MOST_KEPT)

  function apply(message: FeedMessage): void {
    if (message.snapshot === true) loading = begin(message)
    const told = loading ?? current
    if (told === undefined || told.epoch !== message.epoch) {
      forgetPosition()
      throw new Error('the revocation feed went on with another list')
    }
    for (const entry of message.entries) {
      told.endings.set(entry.subject, readEnding(entry))
      if (entry.denied === true) told.denied.add(entry.subject)
    }
    if (message.entries.length > 0) abouts = createRecent(MOST_KEPT)
    told.cursor = message.cursor
    advance(told, message.seq)
    if (message.more === true || message.complete_as_of === undefined) return
    if (told === loading) replaceBy(told)
    told.completeAsOf = Math.min(message.complete_as_of, message.now)
    olderSince = undefined
    forgetExpired(told)
  }

  /** What comes next begins anew. What is known stays, and grows old. */
  function forgetPosition(): void {
    loading = undefined
    if (current !== undefined) current.cursor = ''
  }

  function replaceBy(told: Told): void {
    loading = undefined
    if (isOlder(told)) {
      olderSince ??= performance.now()
      if (performance.now() - olderSince < OLDER_FOR_MS) throw new Error('the revocation feed told an older list')
    }
    if (current !== undefined && current.epoch !== told.epoch)
      pastEpochs = [...pastEpochs, current.epoch].slice(-MOST_PAST_EPOCHS)
    current = told
    generation++
    hashes = createRecent(MOST_KEPT)
    abouts = createRecent(MOST_KEPT)
  }

  /** One that was replaced before, or that ends before the one that is known: from a process that is behind, or worse. */
  function isOlder({ epoch, seq }: Told): boolean {
    if (current === undefined) return false
    return epoch === current.epoch ? seq < current.seq : pastEpochs.includes(epoch)
  }

  function forgetExpired({ endings, denied }: Told): void {
    if (performance.now() - forgottenAt < FORGET_EVERY_MS) return
    forgottenAt = performance.now()
    const now = clock.earliest()
    for (const [subject, { expiresAtMs }] of endings) {
      if (expiresAtMs >= now) continue
      endings.delete(subject)
      denied.delete(subject)
    }
    abouts = createRecent(MOST_KEPT)
  }

  function hashOf(key: string, subject: string): string {
    const known = hashes.get(subject)
    if (known !== undefined) return known
    const made = hashSubject(key, subject)
    hashes.set(subject, made)
    return made
  }

  function find(subject: string): Ending | undefined {
    if (current === undefined || current.endings.size === 0) return undefined
    return current.endings.get(hashOf(current.key, subject))
  }

  function lookUp({ credentialId, workspaceId, subject, clientId }: Bearer): About {
    const own = find(credentialId)
    const others = [workspaceId, subject, clientId ?? '', 'everything'].map(find)
    return { workspaceId, subject, clientId, own, all: [own, ...others].filter((ending) => ending !== undefined) }
  }

  return {
    apply,
    find,
    about(bearer) {
      if (current === undefined || current.endings.size === 0) return NOTHING
      const known = abouts.get(bearer.credentialId)
      // One credential is nearly always one person's, in one place, by one client.
      const isSame =
        known?.workspaceId === bearer.workspaceId &&
        known.subject === bearer.subject &&
        known.clientId === bearer.clientId
      if (isSame) return known
      const found = lookUp(bearer)
      abouts.set(bearer.credentialId, found)
      return found
    },
    isDenied(jti) {
      if (current === undefined || current.denied.size === 0) return false
      return current.denied.has(hashSubject(current.key, `jti:${jti}`))
    },
    completeAsOf: () => current?.completeAsOf ?? Number.NEGATIVE_INFINITY,
    settledSeq: () => (current === undefined ? 0 : settledSeqOf(current)),
    generation: () => generation,
    cursor: () => (loading ?? current)?.cursor || undefined,
  }
}

interface Recent<T> {
  get(name: string): T | undefined
  set(name: string, value: T): void
}

/** Keeps what was used lately: at least the last `most`, at most twice as many. */
function createRecent<T>(most: number): Recent<T> {
  let newer = new Map<string, T>()
  let older = new Map<string, T>()
  const set = (name: string, value: T) => {
    if (newer.size >= most) {
      older = newer
      newer = new Map()
    }
    newer.set(name, value)
  }
  return {
    get(name) {
      const known = newer.get(name)
      if (known !== undefined || older.size === 0) return known
      const kept = older.get(name)
      if (kept !== undefined) set(name, kept)
      return kept
    },
    set,
  }
}

function begin({ epoch, key = '', cursor }: FeedMessage): Told {
  const completeAsOf = Number.NEGATIVE_INFINITY
  return { epoch, key, cursor, endings: new Map(), denied: new Set(), seq: 0, marks: [], completeAsOf }
}

function advance(told: Told, seq: number): void {
  if (seq === told.seq) return
  told.seq = seq
  settledSeqOf(told)
  told.marks.push({ seq, atMs: performance.now() })
}

function settledSeqOf({ marks }: Told): number {
  const before = performance.now() - SETTLED_AFTER_MS
  while ((marks[1]?.atMs ?? Number.POSITIVE_INFINITY) <= before) marks.shift()
  const [first] = marks
  return first !== undefined && first.atMs <= before ? first.seq : 0
}

function readEnding(entry: FeedEntry): Ending {
  return {
    seq: entry.seq,
    isWhole: entry.closed === true || entry.denied === true || entry.suspended === true,
    notBefore: entry.not_before ?? Number.NEGATIVE_INFINITY,
    floor: entry.floor ?? 1,
    nextFloor: entry.next_floor ?? 1,
    nextFloorAtMs: (entry.next_floor_at ?? Number.POSITIVE_INFINITY) * 1000,
    dead: entry.dead ?? [],
    expiresAtMs: entry.expires_at * 1000,
  }
}

/** Whether a subject's entry ends what was issued at `issuedAt` (seconds). */
export function endsIssuedAt(ending: Ending, issuedAt: number): boolean {
  return ending.isWhole || issuedAt <= ending.notBefore
}

/** Whether a credential's own entry ends this version of it. @param nowMs the issuer's time */
export function endsVersion(ending: Ending | undefined, version: number, nowMs: number): boolean {
  if (ending === undefined) return false
  return (
    ending.isWhole ||
    version < ending.floor ||
    (ending.nextFloorAtMs <= nowMs && version < ending.nextFloor) ||
    ending.dead.includes(version)
  )
}

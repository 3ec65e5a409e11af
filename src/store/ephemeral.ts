// What may vanish: sessions, interactions, payloads of codes and pushed requests, opaque tokens, rate counters. Losing
// all of it means that people sign in again, and nothing more.

export type EphemeralChange =
  | { op: 'put'; kind: string; id: string; value: string; ttlSeconds: number }
  | { op: 'delete'; kind: string; id: string }

/**
 * A kind is a constant of ours: 1 to 64 letters, digits, `_` and `-`. An id has 1 to 512 UTF-16 units, is well-formed
 * Unicode and holds no NUL; any other id names nothing, so that one taken from a request needs no check first. A bearer
 * value is never an id: callers store it under its digest.
 *
 * Every method rejects with `EphemeralUnavailable` when the backend fails or is too slow; whether it still did what it
 * was asked is then unknown. None of them takes a failure for "absent".
 */
export interface EphemeralStore {
  /** The entry, or undefined when it is absent or has expired. One round trip. */
  find(kind: string, id: string): Promise<EphemeralEntry | undefined>

  /**
   * Makes all changes, in their order, or none; no reader and no other writer comes in between. One round trip.
   * `put` replaces what was there: a fresh entry, not consumed, with a new time to live (zero or less: none at all).
   *
   * @throws {TypeError} when a name cannot exist, a value is not well-formed text, or a time to live is not finite
   */
  write(changes: readonly EphemeralChange[]): Promise<void>

  /**
   * Marks the entry as used: true for exactly one caller. It stays findable, with `consumed: true`, until it expires.
   * False when it is absent, has expired, or was consumed before.
   */
  consume(kind: string, id: string): Promise<boolean>

  /**
   * Counts one event in a window that begins with the first, and says how many there are with this one. Counters and
   * entries have nothing in common, also under the same names.
   *
   * @throws {TypeError} when a name cannot exist or the window is not a positive number
   */
  increment(kind: string, id: string, windowSeconds: number): Promise<EphemeralCount>

  /** Resolves when the backend answers and takes writes. */
  ping(): Promise<void>

  close(): Promise<void>
}

export interface EphemeralEntry {
  value: string
  consumed: boolean
}

export interface EphemeralCount {
  count: number
  /** Whole seconds, at least 1. */
  resetsInSeconds: number
}

/** The backend is down, refuses, or was too slow. */
export class EphemeralUnavailable extends Error {
  readonly code = 'ephemeral_unavailable'

  constructor(cause: unknown) {
    super('The ephemeral store is unavailable', { cause: withoutArguments(cause) })
    this.name = 'EphemeralUnavailable'
  }
}

/** The error's name, message and code alone: drivers attach the command and its arguments, and a log would print them. */
export function withoutArguments(error: unknown): Error {
  if (!(error instanceof Error)) return new Error(String(error))
  // Node's connector reports one error for each address that it tried, and leaves the message of the whole empty.
  const message = error instanceof AggregateError ? error.errors.map(String).join('; ') : error.message
  const copy: Error & { code?: unknown } = new Error(message)
  copy.name = error.name
  if ('code' in error) copy.code = error.code
  return copy
}

const KIND = /^[A-Za-z0-9_-]{1,64}$/
const MAX_ID_LENGTH = 512

/** Whether anything can be stored under this name. */
export function isEntryName(kind: string, id: string): boolean {
  return KIND.test(kind) && id.length > 0 && id.length <= MAX_ID_LENGTH && isStorableText(id)
}

/** What both backends keep unchanged: PostgreSQL takes no NUL, and UTF-8 has no lone surrogates. */
function isStorableText(text: string): boolean {
  return text.isWellFormed() && !text.includes('\0')
}

/** Checked before the first is made, so that a wrong one leaves none behind. */
export function assertChanges(changes: readonly EphemeralChange[]): void {
  for (const change of changes) {
    assertName(change.kind, change.id)
    if (change.op === 'delete') continue
    if (!isStorableText(change.value)) throw new TypeError(`The value of a ${change.kind} is not well-formed text`)
    if (!Number.isFinite(change.ttlSeconds)) throw new TypeError(`The time to live of a ${change.kind} is not finite`)
  }
}

export function assertCounter(kind: string, id: string, windowSeconds: number): void {
  assertName(kind, id)
  if (!(Number.isFinite(windowSeconds) && windowSeconds > 0)) {
    throw new TypeError(`The window of ${kind} is not a positive number of seconds`)
  }
}

function assertName(kind: string, id: string): void {
  if (!KIND.test(kind)) throw new TypeError('The kind of an ephemeral entry is malformed')
  if (!isEntryName(kind, id)) throw new TypeError(`The id of a ${kind} is empty, too long or malformed`)
}

/** Authenticated encryption of text, bound to `aad`. */
export interface Sealer {
  seal(plaintext: string, aad: string): string
  /** The plaintext, or undefined when the text was not sealed by us under this `aad`. */
  open(sealed: string, aad: string): string | undefined
}

/**
 * The store with its values encrypted and bound to kind and id. An entry that was changed, made up, or moved from
 * another kind or id is absent, and `onTampered` hears of it. Who can write to the backend can still delete an entry,
 * put its own older value back, or clear its `consumed` mark: what must hold against that belongs in the database.
 */
export function sealEphemeral(
  store: EphemeralStore,
  sealer: Sealer,
  onTampered: (kind: string) => void,
): EphemeralStore {
  async function find(kind: string, id: string): Promise<EphemeralEntry | undefined> {
    const entry = await store.find(kind, id)
    if (entry === undefined) return undefined
    const value = sealer.open(entry.value, associatedData(kind, id))
    if (value !== undefined) return { value, consumed: entry.consumed }
    onTampered(kind)
    return undefined
  }

  return {
    find,
    async write(changes) {
      assertChanges(changes)
      await store.write(changes.map((change) => sealChange(sealer, change)))
    },
    // Opened first: a forged entry must not be worth a yes.
    consume: async (kind, id) => (await find(kind, id)) !== undefined && (await store.consume(kind, id)),
    increment: (kind, id, windowSeconds) => store.increment(kind, id, windowSeconds),
    ping: () => store.ping(),
    close: () => store.close(),
  }
}

function sealChange(sealer: Sealer, change: EphemeralChange): EphemeralChange {
  if (change.op === 'delete') return change
  return { ...change, value: sealer.seal(change.value, associatedData(change.kind, change.id)) }
}

/** JSON, because no two pairs are written alike. */
function associatedData(kind: string, id: string): string {
  return JSON.stringify(['ephemeral', kind, id])
}

// The revocation feed as it goes over the wire: the server makes messages by these types, the verifier checks them.
import { hash } from 'node:crypto'

/** The whole state of one subject; members that say nothing are left out. */
export interface FeedEntry {
  /** The keyed hash of the subject: SHA-256 of key and subject, base64url, 22 characters. */
  subject: string
  seq: number
  floor?: number
  dead?: readonly number[]
  closed?: true
  denied?: true
  suspended?: true
  /** Seconds since the epoch. */
  not_before?: number
  /** The floor from `next_floor_at` (seconds since the epoch) on. */
  next_floor?: number
  next_floor_at?: number
  /** Seconds since the epoch: the entry may be forgotten then. */
  expires_at: number
}

/** One message of the feed. */
export interface FeedMessage {
  /** Which list this is: another one begins with a snapshot. */
  epoch: string
  /** Prefixes every subject before it is hashed. Not a secret from this API: it tells it apart from another one. */
  key?: string
  cursor: string
  /** Up to where in the list this message brings its reader. */
  seq: number
  /** The issuer's database time, milliseconds. */
  now: number
  /** The list is known to be whole up to this time. Absent while the issuer itself cannot say. */
  complete_as_of?: number
  entries: FeedEntry[]
  /** True on the first message of a list that is told from its beginning: what was known before is forgotten. */
  snapshot?: boolean
  /** The next message belongs to the same reading. */
  more?: boolean
}

/** How an entry names its subject: keyed, so that two APIs cannot compare what they were told. */
export function hashSubject(key: string, subject: string): string {
  return hash('sha256', `${key}${subject}`, 'base64url').slice(0, 22)
}

/** @throws {TypeError} for anything that is no message: half of one must not be believed */
export function parseMessage(text: string): FeedMessage {
  const message: unknown = JSON.parse(text)
  if (!isMessage(message)) throw new TypeError('the revocation feed sent what is no message')
  return message
}

function isMessage(value: unknown): value is FeedMessage {
  return (
    isObject(value) &&
    [value.epoch, value.cursor].every((member) => typeof member === 'string') &&
    [value.seq, value.now].every(Number.isFinite) &&
    isAbsentOr(value.complete_as_of, Number.isFinite) &&
    (value.snapshot === true ? typeof value.key === 'string' : true) &&
    Array.isArray(value.entries) &&
    value.entries.every(isEntry)
  )
}

function isEntry(value: unknown): value is FeedEntry {
  return (
    isObject(value) &&
    typeof value.subject === 'string' &&
    Number.isFinite(value.seq) &&
    Number.isFinite(value.expires_at) &&
    [value.floor, value.not_before, value.next_floor, value.next_floor_at].every((member) =>
      isAbsentOr(member, Number.isFinite),
    ) &&
    isAbsentOr(value.dead, (dead) => Array.isArray(dead) && dead.every(Number.isInteger))
  )
}

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null

const isAbsentOr = (value: unknown, is: (value: unknown) => boolean) => value === undefined || is(value)

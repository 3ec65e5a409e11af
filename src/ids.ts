// Public identifiers: a prefix that says what it names, then 128 bits in Crockford's base 32 (26 characters).
import { randomBytes, randomUUID } from 'node:crypto'

export type OrganizationId = `org_${string}`
export type WorkspaceId = `ws_${string}`
export type UserId = `usr_${string}`
export type ConnectionId = `con_${string}`
export type FamilyId = `fam_${string}`
export type InvitationId = `inv_${string}`
/** A line of workspace tokens, or of organization keys. */
export type KeyId = `key_${string}`
export type AuditEventId = `aud_${string}`
export type ReviewId = `rev_${string}`
export type ReviewItemId = `rvi_${string}`
export type NoticeId = `ntc_${string}`
export type ReservationId = `res_${string}`
/** An event of usage, as it is kept. */
export type UsageId = `use_${string}`
export type ViolationId = `vio_${string}`
export type AlertId = `alt_${string}`
export type DataKeyId = `dk_${string}`
export type ProviderConnectionId = `prv_${string}`
export type ClientId = string

/** Whether a text can be a client's id: any other one, whatever is in it, is asked of no store. */
export function isClientId(text: unknown): text is ClientId {
  return typeof text === 'string' && /^cl_[0-9a-z]{26}$/.test(text)
}

export function isWorkspaceId(text: string): text is WorkspaceId {
  return /^ws_[0-9a-z]{26}$/.test(text)
}

export function isOrganizationId(text: string): text is OrganizationId {
  return /^org_[0-9a-z]{26}$/.test(text)
}

export function isKeyId(text: string): text is KeyId {
  return /^key_[0-9a-z]{26}$/.test(text)
}

export function isConnectionId(text: string): text is ConnectionId {
  return /^con_[0-9a-z]{26}$/.test(text)
}

export function isReservationId(text: string): text is ReservationId {
  return /^res_[0-9a-z]{26}$/.test(text)
}

export function isProviderConnectionId(text: string): text is ProviderConnectionId {
  return /^prv_[0-9a-z]{26}$/.test(text)
}

export function isUserId(text: string): text is UserId {
  return /^usr_[0-9a-z]{26}$/.test(text)
}

const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz'

function encode(bytes: Buffer): string {
  let value = BigInt(`0x${bytes.toString('hex')}`)
  let text = ''
  for (let digit = 0; digit < 26; digit++) {
    text = ALPHABET[Number(value & 31n)] + text
    value >>= 5n
  }
  return text
}

const COUNTER_VALUES = 0x1000
let last = { ms: 0, counter: 0 }

/**
 * UUIDv7 (RFC 9562 §5.7): time first, so that new rows stand together in an index. Those of one millisecond are counted
 * (§6.2, method 1), and when the clock is set back it waits for itself: a process makes them in order.
 */
function timeOrdered(): Buffer {
  const ms = Date.now()
  if (ms > last.ms) last = { ms, counter: 0 }
  else if (++last.counter === COUNTER_VALUES) last = { ms: last.ms + 1, counter: 0 }
  const bytes = randomBytes(16)
  bytes.writeUIntBE(last.ms, 0, 6)
  bytes.writeUInt16BE(0x7000 | last.counter, 6)
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80
  return bytes
}

type TimeOrderedPrefix =
  | 'org'
  | 'ws'
  | 'con'
  | 'fam'
  | 'key'
  | 'inv'
  | 'aud'
  | 'cl'
  | 'rev'
  | 'rvi'
  | 'ntc'
  | 'res'
  | 'use'
  | 'vio'
  | 'alt'
  | 'dk'
  | 'prv'

/** A new id that sorts by the time it was made. */
export function newId<P extends TimeOrderedPrefix>(prefix: P): `${P}_${string}` {
  return `${prefix}_${encode(timeOrdered())}`
}

/** A person's id: random throughout, so that it says nothing, not even when the account was opened. */
export function newUserId(): UserId {
  return `usr_${encode(Buffer.from(randomUUID().replaceAll('-', ''), 'hex'))}`
}

// The issuer's public keys, by their id. A key that is not known may be new, so it is looked for; but whoever makes ids up
// must not be able to make us ask more often than once a second.
import { type CryptoKey, importJWK, type JWK } from 'jose'

export interface Keys {
  /**
   * The key of this id; at once, where it is known.
   *
   * @throws {UnknownKey} also after looking for it
   * @throws {KeysUnavailable} when nobody could say
   */
  find(kid: unknown): CryptoKey | Promise<CryptoKey>
}

/** There is no such key at the issuer. */
export class UnknownKey extends Error {}

export class KeysUnavailable extends Error {
  constructor(cause: unknown) {
    super('the keys could not be fetched', { cause })
  }
}

export interface KeysOptions {
  issuer: string
  fetch: typeof globalThis.fetch
  onError: (error: unknown) => void
}

/** As long as the issuer says that its answer may be kept: a key is there for longer before it signs. */
const FRESH_MS = 300_000
/** Keys that cannot be fetched anew are used for as long as a JWT lives that they have signed, and its tolerance. */
const LONGEST_USE_MS = 3_700_000
const ASK_AGAIN_MS = 1_000
const RETRY_FRESH_MS = 10_000
const TIMEOUT_MS = 2_000
const MOST_WAITING = 100
const MOST_KEYS = 100

export function createKeys({ issuer, fetch, onError }: KeysOptions): Keys {
  let keys = new Map<string, CryptoKey>()
  let readAt = Number.NEGATIVE_INFINITY
  let askedAt = Number.NEGATIVE_INFINITY
  let asking: Promise<void> | undefined
  let waiting = 0

  const age = () => performance.now() - readAt
  const isFresh = () => age() < FRESH_MS

  /** Everyone who needs it waits for the same reading, which begins a second after the one before at the earliest. */
  function readAnew(): Promise<void> {
    asking ??= read()
      .catch((error: unknown) => {
        throw new KeysUnavailable(error)
      })
      .finally(() => {
        asking = undefined
      })
    return asking
  }

  async function read(): Promise<void> {
    const pause = askedAt + ASK_AGAIN_MS - performance.now()
    if (pause > 0) await new Promise((resolve) => setTimeout(resolve, pause))
    askedAt = performance.now()
    const asked = askedAt
    const response = await fetch(`${issuer}/jwks`, {
      headers: { accept: 'application/jwk-set+json, application/json', 'cache-control': 'no-cache' },
      signal: AbortSignal.timeout(TIMEOUT_MS),
      redirect: 'error',
    })
    if (!response.ok) throw new Error(`the keys were answered ${response.status}`)
    keys = await importKeys(await response.json())
    readAt = asked
  }

  /** What has become old is read anew; while that fails, what is known goes on. */
  async function refresh(): Promise<void> {
    if (age() < LONGEST_USE_MS && performance.now() - askedAt < RETRY_FRESH_MS && asking === undefined) return
    try {
      await readAnew()
    } catch (error) {
      if (age() >= LONGEST_USE_MS) throw error
      onError(error instanceof KeysUnavailable ? error.cause : error)
    }
  }

  async function look(kid: string): Promise<CryptoKey> {
    const readBefore = readAt
    if (!isFresh()) await refresh()
    if (!keys.has(kid) && readAt === readBefore) await readForUnknown()
    const key = keys.get(kid)
    if (key === undefined) throw new UnknownKey('there is no such key')
    return key
  }

  async function readForUnknown(): Promise<void> {
    if (waiting >= MOST_WAITING) throw new UnknownKey('too many unknown keys at once')
    waiting++
    try {
      await readAnew()
    } finally {
      waiting--
    }
  }

  return {
    find(kid) {
      if (typeof kid !== 'string') throw new UnknownKey('it names no key')
      const known = isFresh() ? keys.get(kid) : undefined
      return known ?? look(kid)
    },
  }
}

/** Those that verify ES256, the one algorithm that is taken; what is no key is passed over. */
async function importKeys(set: unknown): Promise<Map<string, CryptoKey>> {
  const members = typeof set === 'object' && set !== null && 'keys' in set ? set.keys : undefined
  if (!Array.isArray(members)) throw new Error('the keys were answered with no key set')
  const keys = new Map<string, CryptoKey>()
  for (const member of members.slice(0, MOST_KEYS)) {
    const jwk = readJwk(member)
    if (jwk === undefined) continue
    const key = await importJWK(jwk, 'ES256').catch(() => undefined)
    if (key !== undefined) keys.set(jwk.kid, key)
  }
  return keys
}

/** The public part of a key that we can use; undefined for any other. */
function readJwk(member: unknown): (JWK & { kty: 'EC'; kid: string }) | undefined {
  if (typeof member !== 'object' || member === null) return undefined
  const { kty, crv, x, y, kid, use = 'sig', alg = 'ES256' } = member as Record<string, unknown> // any object has them, or not
  if (kty !== 'EC' || crv !== 'P-256' || use !== 'sig' || alg !== 'ES256') return undefined
  if (typeof x !== 'string' || typeof y !== 'string' || typeof kid !== 'string') return undefined
  return { kty, crv, x, y, kid }
}

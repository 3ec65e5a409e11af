// The server's own keys, made once and kept in the database, encrypted under the master key: what signs tokens (JWKS),
// and what derives or protects short-lived values (cookies, refresh successors, the ephemeral store, form tokens).
import { createHmac, generateKeyPair, type JsonWebKey, randomBytes } from 'node:crypto'
import { promisify } from 'node:util'
import { sql } from 'kysely'
import { type Db, type Trx, transact } from '../store/database.ts'
import type { Envelope } from './envelope.ts'

const PURPOSES = ['cookies', 'ephemeral', 'forms', 'refresh_successor'] as const
export type KeyPurpose = (typeof PURPOSES)[number]

export interface ServerKey {
  id: string
  key: Buffer
}

export interface SigningKey {
  kid: string
  alg: 'ES256' | 'RS256'
  state: 'published' | 'active' | 'retired'
  /** Private members included. */
  jwk: JsonWebKey
}

export interface Keys {
  /** Newest first; never empty. */
  server: Record<KeyPurpose, readonly ServerKey[]>
  /** Those that sign stand first: the library takes the first that fits. */
  signing: readonly SigningKey[]
}

/** Every process that starts on an empty database waits for the one that makes the keys. Any constant; ours alone. */
const KEYS_LOCK = 4_180_312

/**
 * Reads the keys, and makes those that are missing: exactly one process does.
 *
 * @throws {Error} when the master key does not open what is stored
 */
export async function loadKeys(db: Db, envelope: Envelope): Promise<Keys> {
  return (await readKeys(db, envelope)) ?? makeKeys(db, envelope)
}

async function makeKeys(db: Db, envelope: Envelope): Promise<Keys> {
  // RSA takes a second: generated before the lock, thrown away if another process was first.
  const candidates = await Promise.all([generateSigningKey('ES256'), generateSigningKey('RS256')])
  await transact(db, async (trx) => {
    await sql`select pg_advisory_xact_lock(${sql.lit(KEYS_LOCK)})`.execute(trx)
    const present = await readRows(trx)
    const missing = candidates.filter(
      (key) => !present.signing.some((row) => row.alg === key.alg && row.state === 'active'),
    )
    for (const { kid, alg, jwk } of missing) {
      const sealed_jwk = envelope.seal(JSON.stringify(jwk), placeOfSigningKey(kid))
      await trx.insertInto('signing_keys').values({ kid, alg, state: 'active', sealed_jwk }).execute()
    }
    for (const purpose of PURPOSES.filter((needed) => !present.server.some((row) => row.purpose === needed))) {
      const id = randomBytes(6).toString('base64url')
      const sealed_key = envelope.seal(randomBytes(32).toString('base64'), placeOfServerKey(id, purpose))
      await trx.insertInto('server_keys').values({ id, purpose, sealed_key }).execute()
    }
  })
  const made = await readKeys(db, envelope)
  if (made === undefined) throw new Error('the keys were made and are not there')
  return made
}

function readRows(executor: Db | Trx) {
  const server = executor.selectFrom('server_keys').selectAll().orderBy('created_at', 'desc').execute()
  const signing = executor
    .selectFrom('signing_keys')
    .selectAll()
    .where('state', '!=', 'retired')
    .orderBy('created_at')
    .execute()
  return Promise.all([server, signing]).then(([serverRows, signingRows]) => ({
    server: serverRows,
    signing: signingRows,
  }))
}

/** Undefined when a key is missing. */
async function readKeys(db: Db, envelope: Envelope): Promise<Keys | undefined> {
  const rows = await readRows(db)
  const ofPurpose = (purpose: KeyPurpose) =>
    rows.server
      .filter((row) => row.purpose === purpose)
      .map(({ id, sealed_key }) => ({
        id,
        key: Buffer.from(open(envelope, sealed_key, placeOfServerKey(id, purpose)), 'base64'),
      }))
  const server = {
    cookies: ofPurpose('cookies'),
    ephemeral: ofPurpose('ephemeral'),
    forms: ofPurpose('forms'),
    refresh_successor: ofPurpose('refresh_successor'),
  }
  const signing = rows.signing.map(({ kid, alg, state, sealed_jwk }): SigningKey => {
    return { kid, alg, state, jwk: JSON.parse(open(envelope, sealed_jwk, placeOfSigningKey(kid))) }
  })
  const active = signing.filter((key) => key.state === 'active')
  if (active.length < 2 || Object.values(server).some((keys) => keys.length === 0)) return undefined
  return { server, signing: [...active, ...signing.filter((key) => key.state !== 'active')] }
}

function open(envelope: Envelope, sealed: string, place: string): string {
  const text = envelope.open(sealed, place)
  if (text !== undefined) return text
  throw new Error(
    'LATCHKEY_MASTER_KEY does not open the keys in the database: set it to the key they were stored under (during a rotation, both keys, newest first)',
  )
}

/** Where a key stands: what it is bound to under the master key. */
export const placeOfSigningKey = (kid: string) => `signing_keys.sealed_jwk:${kid}`
export const placeOfServerKey = (id: string, purpose: string) => `server_keys.sealed_key:${purpose}:${id}`

const generate = promisify(generateKeyPair)

async function generateSigningKey(alg: 'ES256' | 'RS256'): Promise<SigningKey> {
  const { privateKey } =
    alg === 'ES256' ? await generate('ec', { namedCurve: 'P-256' }) : await generate('rsa', { modulusLength: 2048 })
  const kid = randomBytes(12).toString('base64url')
  return { kid, alg, state: 'active', jwk: { ...privateKey.export({ format: 'jwk' }), kid, alg, use: 'sig' } }
}

/** A keyed digest, base64url. */
export function hmac(key: Buffer, ...parts: string[]): string {
  return createHmac('sha256', key).update(parts.join('\u0000')).digest('base64url')
}

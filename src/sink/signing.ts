// What leaves the database to be believed without it is signed under a key that comes of the master key alone: lines of the
// sink, `{"seq": …, "jws": "…"}`, and documents that people take away (RFC 7515, compact, EdDSA; RFC 8037).
import { createHash, createPrivateKey, createPublicKey, hkdfSync, type KeyObject } from 'node:crypto'
import { CompactSign, compactVerify, type JWK } from 'jose'

const SINK = 'latchkey-sink'

/** What a signed document is: one is never taken for another, nor for a line of the sink. */
export type DocumentType = 'latchkey-audit-export' | 'latchkey-archive' | 'latchkey-access-review'

/** PKCS #8 around an Ed25519 seed (RFC 8410 §7). */
const SEED_HEADER = Buffer.from('302e020100300506032b657004220420', 'hex')

export interface SinkSigner {
  /** Signs with the newest key. @returns a compact JWS */
  sign(payload: unknown): Promise<string>
  /** The payload, where one of the keys signed it. */
  open(jws: string): Promise<unknown>
  /** The same for what people take away. */
  signDocument(type: DocumentType, payload: unknown): Promise<string>
  openDocument(type: DocumentType, jws: string): Promise<unknown>
  /** What a document is verified with elsewhere, newest first (RFC 8037). */
  publicKeys(): JWK[]
}

interface SinkKey {
  kid: string
  privateKey: KeyObject
  publicKey: KeyObject
}

/** @param masterKeys newest first; never empty */
export function createSinkSigner(masterKeys: readonly Buffer[]): SinkSigner {
  const keys = masterKeys.map(deriveKey)
  const [newest] = keys
  if (newest === undefined) throw new TypeError('the sink needs at least one master key')
  const publicKeys = keys.map((key) => key.publicKey)
  const sign = (type: string, payload: unknown) =>
    new CompactSign(Buffer.from(JSON.stringify(payload)))
      .setProtectedHeader({ alg: 'EdDSA', typ: type, kid: newest.kid })
      .sign(newest.privateKey)
  return {
    sign: (payload) => sign(SINK, payload),
    open: (jws) => openSigned(publicKeys, SINK, jws),
    signDocument: sign,
    openDocument: (type, jws) => openSigned(publicKeys, type, jws),
    publicKeys: () =>
      keys.map(({ kid, publicKey }) => ({ ...publicKey.export({ format: 'jwk' }), kid, alg: 'EdDSA', use: 'sig' })),
  }
}

/** The payload of what one of the keys signed as this type; undefined for anything else. */
export async function openSigned(keys: ReadonlyArray<KeyObject | JWK>, type: string, jws: string): Promise<unknown> {
  if (!isCanonical(jws)) return undefined
  for (const key of keys) {
    try {
      const { payload, protectedHeader } = await compactVerify(jws, key, { algorithms: ['EdDSA'] })
      return protectedHeader.typ === type ? JSON.parse(Buffer.from(payload).toString('utf8')) : undefined
    } catch {
      // not signed with this one
    }
  }
  return undefined
}

/** The last character of a part holds bits that say nothing: with others it would be another text, and as good. */
function isCanonical(jws: string): boolean {
  return jws.split('.').every((part) => Buffer.from(part, 'base64url').toString('base64url') === part)
}

function deriveKey(masterKey: Buffer): SinkKey {
  const seed = Buffer.from(hkdfSync('sha256', masterKey, '', 'latchkey sink signing key', 32))
  const privateKey = createPrivateKey({ key: Buffer.concat([SEED_HEADER, seed]), format: 'der', type: 'pkcs8' })
  const publicKey = createPublicKey(privateKey)
  const kid = createHash('sha256')
    .update(publicKey.export({ format: 'der', type: 'spki' }))
    .digest('base64url')
  return { kid, privateKey, publicKey }
}

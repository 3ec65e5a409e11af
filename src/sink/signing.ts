// What stands in the sink is signed under a key that comes of the master key alone: it outlives the database, so that what
// was written before a restore is believed after it. Each line is `{"seq": …, "jws": "…"}` (RFC 7515, compact, EdDSA).
import { createHash, createPrivateKey, createPublicKey, hkdfSync, type KeyObject } from 'node:crypto'
import { CompactSign, compactVerify } from 'jose'

const TYPE = 'latchkey-sink'
/** PKCS #8 around an Ed25519 seed (RFC 8410 §7). */
const SEED_HEADER = Buffer.from('302e020100300506032b657004220420', 'hex')

export interface SinkSigner {
  /** Signs with the newest key. @returns a compact JWS */
  sign(payload: unknown): Promise<string>
  /** The payload, where one of the keys signed it. */
  open(jws: string): Promise<unknown>
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
  return {
    sign: (payload) =>
      new CompactSign(Buffer.from(JSON.stringify(payload)))
        .setProtectedHeader({ alg: 'EdDSA', typ: TYPE, kid: newest.kid })
        .sign(newest.privateKey),
    async open(jws) {
      for (const { publicKey } of keys) {
        try {
          const { payload, protectedHeader } = await compactVerify(jws, publicKey, { algorithms: ['EdDSA'] })
          return protectedHeader.typ === TYPE ? JSON.parse(Buffer.from(payload).toString('utf8')) : undefined
        } catch {
          // not signed with this one
        }
      }
      return undefined
    },
  }
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

// Authenticated encryption of what is stored: AES-256-GCM under the newest key of a ring, older keys open what they sealed.
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'

/** A ring of 32-byte keys, newest first. */
export interface Envelope {
  /** Encrypts text; `boundTo` (table, column and id) must be given again to open it. */
  seal(plaintext: string, boundTo: string): string
  /** The text, or undefined when it was changed, moved to another place, or sealed under a key that is not in the ring. */
  open(sealed: string, boundTo: string): string | undefined
}

const IV_BYTES = 12
const TAG_BYTES = 16

/** The first eight characters of a key's SHA-256: names a key without telling anything of it. */
export function keyId(key: Buffer): string {
  return createHash('sha256').update('latchkey key id').update(key).digest('base64url').slice(0, 8)
}

/** Sealed form: `1.<key id>.<base64url of iv, tag and ciphertext>`. */
export function createEnvelope(keys: readonly Buffer[]): Envelope {
  const ring = new Map(keys.map((key) => [keyId(key), key]))
  const [newest] = keys
  if (newest === undefined) throw new TypeError('an envelope needs at least one key')
  const newestId = keyId(newest)

  return {
    seal(plaintext, boundTo) {
      const iv = randomBytes(IV_BYTES)
      const cipher = createCipheriv('aes-256-gcm', newest, iv).setAAD(Buffer.from(boundTo))
      const ciphertext = Buffer.concat([cipher.update(plaintext, 'utf8'), cipher.final()])
      return `1.${newestId}.${Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString('base64url')}`
    },
    open(sealed, boundTo) {
      const [version, id, body, ...rest] = sealed.split('.')
      const key = version === '1' && rest.length === 0 ? ring.get(id ?? '') : undefined
      const bytes = Buffer.from(body ?? '', 'base64url')
      if (key === undefined || bytes.length < IV_BYTES + TAG_BYTES) return undefined
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, IV_BYTES))
        .setAAD(Buffer.from(boundTo))
        .setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES))
      try {
        return decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES), undefined, 'utf8') + decipher.final('utf8')
      } catch {
        return undefined // the tag does not fit: changed, or bound to another place
      }
    },
  }
}

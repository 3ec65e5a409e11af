// Values that must never be printed. A secret in clear and what is stored of it are different types (style: secrets as types).
import { createHash, hash, randomBytes, timingSafeEqual } from 'node:crypto'
import { inspect } from 'node:util'
import type { DataKeyId } from '../ids.ts'

const HIDDEN = '[secret]'

/** A secret in clear. It prints as `[secret]` everywhere; `reveal` is the one way to the value. */
export class Secret {
  readonly #value: string

  constructor(value: string) {
    this.#value = value
  }

  reveal(): string {
    return this.#value
  }

  toString(): string {
    return HIDDEN
  }

  toJSON(): string {
    return HIDDEN
  }

  [inspect.custom](): string {
    return HIDDEN
  }
}

/** What is stored of a secret that must be had again: encrypted, with the id of the data key that opens it. */
export interface Sealed {
  dataKeyId: DataKeyId
  sealed: string
}

/** SHA-256 of a high-entropy value, base64url: what is stored of codes, tokens, session ids and client secrets. */
export type SecretDigest = string & { readonly __brand: 'SecretDigest' }

/** The stored form of a bearer value. Fast on purpose: only for values with at least 128 random bits. */
export function digestOf(value: string): SecretDigest {
  // The brand is made here and nowhere else.
  return hash('sha256', value, 'base64url') as SecretDigest
}

/** Whether this is the value behind a digest, without telling by time where they differ. */
export function isBehind(digest: string, value: string): boolean {
  const [kept, given] = [Buffer.from(digest), Buffer.from(digestOf(value))]
  return kept.length === given.length && timingSafeEqual(kept, given)
}

/** Compares two strings of any length without telling by time where they differ. */
export function equalInConstantTime(a: string, b: string): boolean {
  return timingSafeEqual(createHash('sha256').update(a).digest(), createHash('sha256').update(b).digest())
}

/** 256 random bits, base64url (43 characters). */
export function randomSecret(): Secret {
  return new Secret(randomBytes(32).toString('base64url'))
}

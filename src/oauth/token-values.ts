// The form of the bearer values that we make: a prefix says what a value is, so that none is looked for among others,
// and secret scanners know it.
import { randomBytes } from 'node:crypto'
import { hmac, type ServerKey } from '../crypto/keys.ts'

const REFRESH_TOKEN = 'lk_rt_'
const ACCESS_TOKEN = 'lk_at_'

const value = (prefix: string) => `${prefix}${randomBytes(32).toString('base64url')}`

export const newRefreshToken = (): string => value(REFRESH_TOKEN)
export const newOpaqueAccessToken = (): string => value(ACCESS_TOKEN)

export const isRefreshToken = (text: string): boolean => text.startsWith(REFRESH_TOKEN)
export const isOpaqueAccessToken = (text: string): boolean => text.startsWith(ACCESS_TOKEN)

/** A refresh token's one successor: every process that holds the key derives the same value, and nothing secret is stored. */
export function successorOf(presented: string, key: ServerKey): string {
  return `${REFRESH_TOKEN}${hmac(key.key, 'refresh successor', presented)}`
}

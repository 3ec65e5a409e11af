// The form of a workspace token: a prefix, 40 characters, and their checksum (docs/verifier.md). What does not fit is
// mistyped or made up, and nobody needs to be asked about it.
import { crc32 } from 'node:zlib'

export const TOKEN_PREFIX = 'tid_ws_'

const FORM = /^tid_ws_[0-9A-Za-z]{46}$/
export const BASE62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
export const CHECKSUM_CHARACTERS = 6

export function isTokenForm(text: string): boolean {
  return FORM.test(text) && checksumOf(text.slice(0, -CHECKSUM_CHARACTERS)) === text.slice(-CHECKSUM_CHARACTERS)
}

/** CRC-32 in base 62, the highest digit first. */
export function checksumOf(body: string): string {
  let rest = crc32(body)
  let text = ''
  for (let digit = 0; digit < CHECKSUM_CHARACTERS; digit++) {
    text = BASE62.charAt(rest % 62) + text
    rest = Math.floor(rest / 62)
  }
  return text
}

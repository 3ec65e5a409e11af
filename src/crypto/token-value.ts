// The form of a pasted token: a prefix and seven characters that stay visible, a secret part, a checksum. The checksum
// lets a secret scanner and our own front door turn a mistyped value away without asking anybody.
import { randomBytes } from 'node:crypto'
import { BASE62, CHECKSUM_CHARACTERS, checksumOf } from '../verifier/token-form.ts'
import { Secret } from './secret.ts'

/** A workspace's, or an organization's. */
export const TOKEN_PREFIXES = { workspace: 'tid_ws_', organization: 'td_live_' } as const
export type TokenKind = keyof typeof TOKEN_PREFIXES

const VISIBLE_CHARACTERS = 7
const SECRET_CHARACTERS = 33 // 196 bits

const FORM = new RegExp(
  `^(?:${Object.values(TOKEN_PREFIXES).join('|')})[0-9A-Za-z]{${VISIBLE_CHARACTERS + SECRET_CHARACTERS + CHECKSUM_CHARACTERS}}$`,
)

export interface NewToken {
  value: Secret
  /** What stays visible: the prefix and seven characters. */
  keyPrefix: string
}

export function newToken(kind: TokenKind): NewToken {
  const body = TOKEN_PREFIXES[kind] + randomBase62(VISIBLE_CHARACTERS + SECRET_CHARACTERS)
  const keyPrefix = body.slice(0, TOKEN_PREFIXES[kind].length + VISIBLE_CHARACTERS)
  return { value: new Secret(body + checksumOf(body)), keyPrefix }
}

/** Whether a text can be a token at all: its form and its checksum. Asks no store. */
export function isTokenValue(text: string): boolean {
  if (!FORM.test(text)) return false
  const body = text.slice(0, -CHECKSUM_CHARACTERS)
  return checksumOf(body) === text.slice(-CHECKSUM_CHARACTERS)
}

/** Every character equally likely: bytes that do not divide evenly are drawn again. */
function randomBase62(length: number): string {
  let text = ''
  while (text.length < length) {
    for (const byte of randomBytes(length)) {
      if (byte < 248 && text.length < length) text += BASE62.charAt(byte % 62)
    }
  }
  return text
}

/** The form of anything that we hand out as a bearer value, whole or in part, wherever it stands. */
const ANY_BEARER_VALUE = /\b(?:tid_ws_|td_live_|lk_rt_|lk_at_|eyJ)[\w.-]+/g

/** A caller's text without the credentials that it may hold: what is kept of it is shown to people. */
export function withoutBearerValues(text: string): string {
  return text.replace(ANY_BEARER_VALUE, '[secret]')
}

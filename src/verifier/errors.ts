// What a refused request is told (RFC 6750 §3): a status, an error code, and the header that names the way in.

export type VerifierErrorCode =
  | 'missing_token'
  | 'invalid_request'
  | 'invalid_token'
  | 'insufficient_scope'
  | 'unavailable'

const STATUS: Record<VerifierErrorCode, number> = {
  missing_token: 401,
  invalid_request: 400,
  invalid_token: 401,
  insufficient_scope: 403,
  unavailable: 503,
}

/**
 * Why a request was refused.
 *
 * - `missing_token`: there is none; the challenge says what would be let in, and no error (RFC 6750 §3.1).
 * - `invalid_request`: there is more than one Authorization header.
 * - `invalid_token`: not ours, expired, ended, for another API or environment. Which it was is in `reason`, for a log.
 * - `insufficient_scope`: good, and not enough; `WWW-Authenticate` names the scopes that are needed.
 * - `unavailable`: nobody could say whether the token has ended. Try again in a moment.
 */
export class VerifierError extends Error {
  readonly code: VerifierErrorCode
  readonly status: number
  /** For logs; it must not reach the caller. */
  readonly reason: string
  /** Ready to be set on the answer. */
  readonly headers: Readonly<Record<string, string>>

  constructor(code: VerifierErrorCode, reason: string, options: { realm: string; scopes?: readonly string[] }) {
    super(`${code}: ${reason}`)
    this.name = 'VerifierError'
    this.code = code
    this.status = STATUS[code]
    this.reason = reason
    this.headers =
      code === 'unavailable'
        ? { 'Retry-After': '1' }
        : { 'WWW-Authenticate': challenge(code, options.realm, options.scopes) }
  }

  /** The body that adapters send: the code, and nothing that helps to guess. */
  toJSON(): { error: string } {
    return { error: this.code === 'missing_token' ? 'invalid_token' : this.code }
  }
}

function challenge(code: VerifierErrorCode, realm: string, scopes: readonly string[] = []): string {
  const parameters = [
    `realm="${realm.replaceAll(/["\\]/g, '\\$&')}"`,
    ...(code === 'missing_token' ? [] : [`error="${code}"`]),
    ...(scopes.length === 0 ? [] : [`scope="${scopes.join(' ')}"`]),
  ]
  return `Bearer ${parameters.join(', ')}`
}

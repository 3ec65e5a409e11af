// What a caller may see of a failure: one catalogue of codes, each with its status and one sentence. Anything else is a bug (500).

interface CatalogueEntry {
  status: number
  /** One sentence for the caller: what is wrong and what to do. */
  sentence: string
  /** The OAuth error (RFC 6749 §5.2, §4.1.2.1) that an OAuth endpoint answers instead. */
  oauth?: string
}

const CATALOGUE = {
  invalid_request: { status: 400, sentence: 'The request is malformed.', oauth: 'invalid_request' },
  expired_interaction: {
    status: 400,
    sentence: 'This page has expired, or it was opened in another browser. Go back to the app and start again.',
    oauth: 'invalid_request',
  },
  unauthorized: {
    status: 401,
    sentence:
      'This call needs a valid credential: a token or key as "Authorization: Bearer …", or a signed-in browser.',
    oauth: 'invalid_token',
  },
  insufficient_scope: { status: 403, sentence: 'This credential does not have the permission that this call needs.' },
  role_too_low: { status: 403, sentence: 'Your role does not allow this.' },
  wrong_credential: { status: 403, sentence: 'This call is not for this kind of credential.' },
  workspace_mismatch: { status: 403, sentence: 'This credential belongs to another workspace.' },
  environment_mismatch: {
    status: 403,
    sentence: 'This credential is for another environment. Use the one that was made for the environment of this job.',
  },
  stale_version: {
    status: 403,
    sentence:
      'This credential is of another version than the job expects. Give the job the value and the version of the same rotation.',
  },
  recent_sign_in_required: {
    status: 403,
    sentence: 'This needs a sign-in from the last ten minutes. Sign in again, then repeat it.',
  },
  wrong_person: {
    status: 403,
    sentence: 'This invitation is for another address than the one you are signed in with.',
  },
  policy_forbids: { status: 403, sentence: 'The token policy of this workspace forbids it.' },
  forbidden_origin: { status: 403, sentence: 'This request came from another site and was refused.' },
  not_found: { status: 404, sentence: 'There is nothing at this address.', oauth: 'invalid_request' },
  method_not_allowed: {
    status: 405,
    sentence: 'This address does not take that method; the Allow header names those that it takes.',
    oauth: 'invalid_request',
  },
  payload_too_large: { status: 413, sentence: 'The request body is too large.', oauth: 'invalid_request' },
  unsupported_media_type: { status: 415, sentence: 'The request body has the wrong type.', oauth: 'invalid_request' },
  wrong_host: { status: 421, sentence: 'This server does not answer for that host.', oauth: 'invalid_request' },
  headers_too_large: { status: 431, sentence: 'The address and the headers are too long together.' },
  too_many_requests: {
    status: 429,
    sentence: 'Too many tries. Wait a little, then try again.',
    oauth: 'temporarily_unavailable',
  },
  budget_exceeded: {
    status: 402,
    sentence:
      'The hard cap of this workspace leaves no room for it this month. An admin of the workspace sets the cap.',
  },
  conflict: { status: 409, sentence: 'Something with this name is already there.' },
  label_in_use: {
    status: 409,
    sentence: 'A token with this label is already there. Rotate it, or choose another label.',
  },
  cutover_pending: {
    status: 409,
    sentence: 'Two versions work already. Cut over to the newer one, or revoke one of them, before you rotate again.',
  },
  event_differs: {
    status: 409,
    sentence: 'An event with this id was recorded before, and says something else. Nothing of this call was recorded.',
  },
  already_settled: {
    status: 409,
    sentence: 'This reservation was settled before, with something else. What was recorded then stands.',
  },
  provider_failed: {
    status: 502,
    sentence:
      'The provider refuses the key of this connection. An admin of the workspace replaces it, or has it verified again.',
  },
  provider_forbids: {
    status: 403,
    sentence: 'The provider does not allow this call with the key of this connection.',
  },
  provider_unreachable: { status: 502, sentence: 'The provider could not be reached. Try again in a moment.' },
  credentials_unreadable: {
    status: 409,
    sentence: 'The stored key of this connection cannot be read any more. Replace it.',
  },
  currency_in_use: {
    status: 409,
    sentence: 'There are amounts in this currency already: it cannot be changed any more.',
  },
  token_ended: { status: 409, sentence: 'This token has been revoked. Create a new one.' },
  suspended: {
    status: 409,
    sentence: 'This is suspended, and nothing of it works. An admin of the workspace restores it, or ends it.',
  },
  last_owner: { status: 409, sentence: 'There must be an owner left. Make somebody else an owner first.' },
  idempotency_key_reused: {
    status: 422,
    sentence: 'This Idempotency-Key was used for another request. Use a new one for each request.',
  },
  server_error: {
    status: 500,
    sentence: 'Something failed on our side. Try again; if it stays, ask for help with the trace id.',
    oauth: 'server_error',
  },
  unavailable: {
    status: 503,
    sentence: 'The service is busy or a part of it is being restored. Try again in a moment.',
    oauth: 'temporarily_unavailable',
  },
} as const satisfies Record<string, CatalogueEntry>

export type ErrorCode = keyof typeof CATALOGUE

/** The catalogue's entry for a code. */
export function describeError(code: ErrorCode): CatalogueEntry {
  return CATALOGUE[code]
}

interface AppErrorOptions {
  /** Says it more precisely than the catalogue; must not hold anything that the caller did not send or may not know. */
  detail?: string
  /** What of the request it is about, where a form shows it there. */
  field?: string
  /** Seconds, for Retry-After. */
  retryAfterSeconds?: number
  allow?: readonly string[]
  cause?: unknown
}

/** A failure that the caller may know about. */
export class AppError extends Error {
  readonly code: ErrorCode
  readonly detail: string
  readonly field: string | undefined
  readonly retryAfterSeconds: number | undefined
  readonly allow: readonly string[] | undefined

  constructor(code: ErrorCode, options: AppErrorOptions = {}) {
    super(code, { cause: options.cause })
    this.name = 'AppError'
    this.code = code
    this.detail = options.detail ?? CATALOGUE[code].sentence
    this.field = options.field
    this.retryAfterSeconds = options.retryAfterSeconds ?? (code === 'unavailable' ? 1 : undefined)
    this.allow = options.allow
  }

  get status(): number {
    return CATALOGUE[this.code].status
  }
}

// What a provider's answer to a check says of a connection. Pure.
import type { ProviderStatus } from '../store/tables.ts'

export type CheckReason =
  /** The provider does not take the key. */
  | 'refused'
  /** It answered with a redirect: the key is not sent after it. */
  | 'redirected'
  /** Something answered, and it is not this provider. */
  | 'unexpected_answer'
  | 'no_list'
  /** The address is one that this server does not call. */
  | 'address_refused'
  /** What is stored cannot be decrypted. */
  | 'unreadable'
  /** The key may not make the call that a check makes, as one that is for a few calls only. */
  | 'forbidden'
  /** The answer is longer than what is read of one. */
  | 'too_large'
  | 'timeout'
  | 'unreachable'
  | 'busy'

/** `inconclusive`: says nothing about the key; what was known of it stands. */
export type Check = { outcome: 'verified' } | { outcome: 'failed' | 'inconclusive'; reason: CheckReason }

/** - `refused`: no address that may be called. - `unreachable`: no connection, no trust in it, or no HTTP over it. */
export type CallFailure = 'refused' | 'timeout' | 'too_large' | 'unreachable'

export type Answered = { ok: true; status: number; isGood: boolean } | { ok: false; failure: CallFailure }

const OF_FAILURE: Record<CallFailure, Check> = {
  refused: { outcome: 'failed', reason: 'address_refused' },
  too_large: { outcome: 'inconclusive', reason: 'too_large' },
  timeout: { outcome: 'inconclusive', reason: 'timeout' },
  unreachable: { outcome: 'inconclusive', reason: 'unreachable' },
}

export function judge(answer: Answered): Check {
  if (!answer.ok) return OF_FAILURE[answer.failure]
  const { status, isGood } = answer
  if (status === 401) return { outcome: 'failed', reason: 'refused' }
  if (status === 403) return { outcome: 'inconclusive', reason: 'forbidden' }
  if (status === 404 || status === 405) return { outcome: 'inconclusive', reason: 'no_list' }
  if (status === 429 || status >= 500) return { outcome: 'inconclusive', reason: 'busy' }
  if (status >= 300 && status < 400) return { outcome: 'failed', reason: 'redirected' }
  return status === 200 && isGood ? { outcome: 'verified' } : { outcome: 'failed', reason: 'unexpected_answer' }
}

export function statusAfter(before: ProviderStatus, check: Check): { status: ProviderStatus; reason: string | null } {
  if (check.outcome === 'verified') return { status: 'verified', reason: null }
  return { status: check.outcome === 'failed' ? 'failed' : before, reason: check.reason }
}

export const EVENT_OF_CHECK: Record<Check['outcome'], string> = {
  verified: 'provider.verified',
  failed: 'provider.verification_failed',
  inconclusive: 'provider.verification_inconclusive',
}

/** An address without what would be lost or doubled where a path is put behind it; undefined for what has no such form. */
export function baseUrlOf(text: string): string | undefined {
  const url = URL.parse(text)
  if (url === null || url.search !== '' || url.hash !== '' || url.username !== '' || url.password !== '')
    return undefined
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '')
}

/**
 * Where the secret of a connection stands, whom it is shown to, and which one it is: opened anywhere else, for another
 * address, or after it was replaced it is nothing.
 */
export function placeOfSecret(connection: {
  id: string
  organizationId: string
  workspaceId: string
  providerType: string
  baseUrl: string | undefined
  version: number
}): string {
  const { organizationId, workspaceId, providerType, id, version, baseUrl = '' } = connection
  const column = 'provider_connections.sealed_credentials'
  return [column, organizationId, workspaceId, providerType, id, 'api_token', version, baseUrl].join(' ')
}

// Asking the issuer about a token (RFC 7662). Bounded in number and time, so that a flood of tokens that nobody knows is no
// flood of requests that nobody answers.
import { MOST_AGENT_CHARACTERS, type UsedBy } from './uses.ts'

/** `isOutage`: nobody could say. Otherwise the issuer refuses to answer us, and will tomorrow. */
export type Answer = { ok: true; members: Record<string, unknown> } | { ok: false; isOutage: boolean; reason: string }

export interface IntrospectionOptions {
  issuer: string
  /** The Authorization header of this API. */
  authorization: string
  fetch: typeof globalThis.fetch
  onError: (error: unknown) => void
}

const TIMEOUT_MS = 2_000
const MOST_AT_ONCE = 200

export function createIntrospection({ issuer, authorization, fetch, onError }: IntrospectionOptions) {
  let underWay = 0

  async function ask(token: string, by: UsedBy): Promise<Answer> {
    const body = new URLSearchParams({ token })
    if (by.clientIp !== undefined) body.set('client_ip', by.clientIp)
    if (by.userAgent !== undefined) body.set('user_agent', by.userAgent.slice(0, MOST_AGENT_CHARACTERS))
    const response = await fetch(`${issuer}/introspect`, {
      method: 'POST',
      body,
      headers: { authorization },
      signal: AbortSignal.timeout(TIMEOUT_MS),
      redirect: 'error',
    })
    if (response.ok) return { ok: true, members: membersOf(await response.json()) }
    await response.body?.cancel()
    const isOutage = response.status >= 500 || response.status === 429
    return { ok: false, isOutage, reason: `introspection answered ${response.status}` }
  }

  return async function introspect(token: string, by: UsedBy): Promise<Answer> {
    if (underWay >= MOST_AT_ONCE) return { ok: false, isOutage: true, reason: 'too much is asked at once' }
    underWay++
    try {
      const answer = await ask(token, by)
      if (!answer.ok) onError(new Error(answer.reason))
      return answer
    } catch (error) {
      onError(error)
      return { ok: false, isOutage: true, reason: 'introspection failed' }
    } finally {
      underWay--
    }
  }
}

/** RFC 7662 §2.2: an object. */
function membersOf(body: unknown): Record<string, unknown> {
  if (typeof body === 'object' && body !== null) return { ...body }
  throw new Error('introspection answered with no object')
}

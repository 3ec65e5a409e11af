// What passes between a caller and a provider, and what of it does not. Pure.
import type { Secret } from '../crypto/secret.ts'
import type { Seen, TokenUsage } from '../provider-types/rules.ts'

/** Of a provider's answer; limits and ids of its own, whose names differ. */
const PASSED = /^(?:retry-after|(?:x-)?request-id|anthropic-ratelimit-[a-z-]+|x-ratelimit-[a-z-]+)$/

/** Headers of an answer that the caller sees. One that holds the key is not among them. */
export function passedHeaders(
  headers: Readonly<Record<string, string | readonly string[] | undefined>>,
  secret: Secret,
): Record<string, string> {
  const passed: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) {
    if (typeof value !== 'string' || !PASSED.test(name) || value.includes(secret.reveal())) continue
    passed[name.endsWith('request-id') ? 'X-Upstream-Request-Id' : name] = value
  }
  return passed
}

/** Whether it is a whole answer of HTTP, and what was written: it was asked for without an encoding. */
export function isReadable({
  status,
  headers,
}: {
  status: number
  headers: Readonly<Record<string, string | readonly string[] | undefined>>
}): boolean {
  const encoding = String(headers['content-encoding'] ?? '').toLowerCase()
  return status >= 200 && status < 600 && (encoding === '' || encoding === 'identity')
}

const SHOWN_AS_IT_IS = /^(?:application\/json|text\/event-stream)\b/i

/** What a browser would run is no more than bytes here. */
export function typeOfAnswer(given: string | readonly string[] | undefined): string {
  return typeof given === 'string' && SHOWN_AS_IT_IS.test(given) ? given : 'application/octet-stream'
}

export function isEventStream(type: string): boolean {
  return /^text\/event-stream\b/i.test(type)
}

const BYTES_A_TOKEN = 4

/**
 * What a call used. Where the provider did not tell to the end, because it was cut short, it is no less than what was told and
 * seen of it by then; where something was held for it, as much as that: it may have thought of what nobody saw, and makes no
 * more of it than it was allowed, whatever our guess of its text.
 */
export function usageOf(
  { told, isLast, textBytes }: Seen,
  { requestBytes, most }: { requestBytes: number; most: TokenUsage | undefined },
): TokenUsage {
  if (told !== undefined && isLast) return told
  const seen = Math.ceil(textBytes / BYTES_A_TOKEN)
  const input = told ?? most ?? { ...NOTHING, inputTokens: Math.ceil(requestBytes / BYTES_A_TOKEN) }
  return { ...input, outputTokens: Math.max(told?.outputTokens ?? 0, most?.outputTokens ?? seen) }
}

const NOTHING = { inputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0, longCacheWriteTokens: 0 }

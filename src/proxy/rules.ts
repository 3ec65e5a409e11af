// What passes between a caller and a provider, and what of it does not. Pure.
import type { TokenUsage } from '../provider-types/rules.ts'

/** Of a provider's answer; limits and ids of its own, whose names differ. */
const PASSED = /^(?:retry-after|(?:x-)?request-id|anthropic-ratelimit-[a-z-]+|x-ratelimit-[a-z-]+)$/

/** Headers of an answer that the caller sees. One that holds the key is not among them. */
export function passedHeaders(
  headers: Readonly<Record<string, string | readonly string[] | undefined>>,
  secret: string,
): Record<string, string> {
  const passed: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) {
    if (typeof value !== 'string' || !PASSED.test(name) || value.includes(secret)) continue
    passed[name.endsWith('request-id') ? 'X-Upstream-Request-Id' : name] = value
  }
  return passed
}

const SHOWN_AS_IT_IS = /^(?:application\/json|text\/event-stream)\b/i

/** What a browser would run is no more than bytes here. */
export function typeOfAnswer(given: string | readonly string[] | undefined): string {
  return typeof given === 'string' && SHOWN_AS_IT_IS.test(given) ? given : 'application/octet-stream'
}

const BYTES_A_TOKEN = 4

/** Where a provider told nothing, because it was cut short: as many tokens as such a text has. */
export function estimated(seen: {
  requestBytes: number
  answerBytes: number
  mostOutputTokens: number | undefined
}): TokenUsage {
  const output = Math.ceil(seen.answerBytes / BYTES_A_TOKEN)
  return {
    inputTokens: Math.ceil(seen.requestBytes / BYTES_A_TOKEN),
    outputTokens: Math.min(output, seen.mostOutputTokens ?? output),
    cacheReadTokens: 0,
    cacheWriteTokens: 0,
  }
}

// What a provider is to us: one file each, listed in `registry.ts`. Nothing else knows a provider by its name. Pure.

export interface ProviderType {
  /** Its word in the API, in addresses and in events. */
  type: string
  /** Its name for people. */
  name: string
  /** Without a path, and without a slash at its end. */
  baseUrl: string
  /** What a key looks like, as an example. */
  example: string
  /** How a request shows the key, and what else each one carries. */
  headers(apiToken: string): Record<string, string>
  /** A call that costs nothing and needs the key. */
  verification: { path: string; isGood(answer: unknown): boolean }
  endpoints: readonly Endpoint[]
  /** Of a caller's headers, those that are passed on. */
  passedHeaders: readonly string[]
  /** Where its client libraries put a key, if not after `Bearer`: a token of ours may stand there. */
  keyHeader?: string
  prices: readonly Price[]
}

export interface Endpoint {
  method: 'GET' | 'POST'
  path: string
  /** Parameters that are passed on; none of them changes what a call costs. */
  query: readonly string[]
  summary: string
  /** Undefined: it costs nothing. */
  metered?: Metered
}

export type Json = Readonly<Record<string, unknown>>

export interface Metered {
  /** What a request will use, before it is made. */
  plan(request: Json): Plan
  /** What of a request no count of bytes and limits tells: asked where the most that it can cost must be known. */
  bound(request: Json, headers: Readonly<Record<string, string>>): Bound
  /** Reads messages of the answer: the events of a stream, or the one body. */
  createReader(): UsageReader
}

export type Plan =
  | {
      ok: true
      model: string
      /** Of one choice. Undefined: as many as the model gives. */
      mostOutputTokens: number | undefined
      /** How many answers are asked for at once. */
      choices: number
      /** What is sent: the request, and that its usage be told. */
      request: Json
    }
  /** `problem`: a sentence for the caller. */
  | { ok: false; problem: string }

export type Bound =
  | {
      ok: true
      /** Input besides the bytes of the request; `context`: as much as the model takes. */
      besides: number | 'context'
    }
  /** `problem`: a sentence for the caller. */
  | { ok: false; problem: string }

/** @param what as the subject of a sentence */
export function unbounded(what: string): Bound {
  return {
    ok: false,
    problem: `This workspace has a hard cap, and what ${what} can cost is not known before: leave that out.`,
  }
}

export interface UsageReader {
  read(message: unknown): void
  /** There were so many bytes that told nothing, or could not be read. */
  skip(bytes: number): void
  seen(): Seen
}

/** What an answer told by now. */
export interface Seen {
  /** Undefined where nothing was told. */
  told: TokenUsage | undefined
  /** What was told is the last word on it. */
  isLast: boolean
  /** Of what was generated. */
  textBytes: number
}

export interface TokenUsage {
  /** At the full price, apart from those that were cached. */
  inputTokens: number
  outputTokens: number
  cacheReadTokens: number
  cacheWriteTokens: number
  /** Into the cache that is kept for an hour. */
  longCacheWriteTokens: number
}

/** In thousandths of a millionth of a US dollar a token: 3,000 is three dollars a million tokens. */
export interface Price {
  model: string
  input: number
  output: number
  cacheRead?: number
  cacheWrite?: number
  longCacheWrite?: number
  /** The most that the model gives at once. */
  mostOutputTokens: number
  /** The most that the model takes at once. */
  contextTokens: number
}

/** Raised with every change of a price: events say which one they were worked out with. */
export const PRICES_VERSION = '2026-11-23'
export const PRICES_CURRENCY = 'USD'

/** A model is also meant by its name with a date (`-20250929`, `-2025-08-07`), or with `-latest`: unless that one has a row. */
export function priceOf({ prices }: ProviderType, model: string): Price | undefined {
  const plain = model.replace(/-(?:\d{8}|\d{4}-\d{2}-\d{2}|latest)$/, '')
  return prices.find((price) => price.model === model) ?? prices.find((price) => price.model === plain)
}

const NANOS = 1_000n

/** In millionths, rounded up. */
export function costOf(price: Price, usage: TokenUsage): bigint {
  const nanos =
    BigInt(usage.inputTokens) * BigInt(price.input) +
    BigInt(usage.outputTokens) * BigInt(price.output) +
    BigInt(usage.cacheReadTokens) * BigInt(price.cacheRead ?? price.input) +
    BigInt(usage.cacheWriteTokens) * BigInt(price.cacheWrite ?? price.input) +
    BigInt(usage.longCacheWriteTokens) * BigInt(price.longCacheWrite ?? price.input)
  return (nanos + NANOS - 1n) / NANOS
}

/** The most that a request can use, each token at its dearest: none is shorter than a byte. */
export function mostUsageOf(
  price: Price,
  plan: { requestBytes: number; mostOutputTokens: number | undefined; choices: number },
  besides: number | 'context',
): TokenUsage {
  const tokens = besides === 'context' ? Math.max(plan.requestBytes, price.contextTokens) : plan.requestBytes + besides
  const isCached = price.longCacheWrite !== undefined
  return {
    inputTokens: isCached ? 0 : tokens,
    outputTokens: Math.min((plan.mostOutputTokens ?? price.mostOutputTokens) * plan.choices, MOST_COUNT),
    cacheReadTokens: 0,
    cacheWriteTokens: 0,
    longCacheWriteTokens: isCached ? tokens : 0,
  }
}

// --- Reading what others wrote -----------------------------------------------------------------------------------------------

export function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** A member, however deep; undefined where there is none. */
export function memberOf(value: unknown, ...path: readonly string[]): unknown {
  let found: unknown = value
  for (const name of path) found = isJson(found) && Object.hasOwn(found, name) ? found[name] : undefined
  return found
}

/** More than any answer has. */
const MOST_COUNT = 1_000_000_000

/** A count of tokens; 0 for what is none. */
export function countAt(value: unknown, ...path: readonly string[]): number {
  return isCountAt(value, ...path) ? Math.min(Number(memberOf(value, ...path)), MOST_COUNT) : 0
}

/** Whether there is a count of tokens, which may be 0. */
export function isCountAt(value: unknown, ...path: readonly string[]): boolean {
  const found = memberOf(value, ...path)
  return typeof found === 'number' && Number.isInteger(found) && found >= 0
}

/** A whole number above nothing; undefined for what is none. */
export function limitAt(value: unknown, ...path: readonly string[]): number | undefined {
  return countAt(value, ...path) || undefined
}

/** What is wrong with members that are numbers, in a sentence; undefined when nothing is. */
export function problemOfNumbers(request: Json, leasts: Readonly<Record<string, number>>): string | undefined {
  for (const [name, least] of Object.entries(leasts)) {
    const given = memberOf(request, name) ?? least
    if (!Number.isInteger(given) || Number(given) < least) return `“${name}” must be a whole number, ${least} or more.`
  }
  return undefined
}

/** Whether any object of it, however deep, is such a one. */
export function hasObject(value: unknown, isSuch: (object: Json) => boolean): boolean {
  const open = [value]
  while (open.length > 0) {
    const next = open.pop()
    if (isJson(next) && isSuch(next)) return true
    const parts = Array.isArray(next) ? next : isJson(next) ? Object.values(next) : []
    for (const part of parts) if (typeof part === 'object' && part !== null) open.push(part)
  }
  return false
}

/** In UTF-8, of the strings at these names. */
export function textBytesAt(value: unknown, ...names: readonly string[]): number {
  let bytes = 0
  for (const name of names) {
    const text = memberOf(value, name)
    if (typeof text === 'string') bytes += Buffer.byteLength(text)
  }
  return bytes
}

/** The parts of a list; none where it is no list. */
export function listAt(value: unknown, ...path: readonly string[]): readonly unknown[] {
  const found = memberOf(value, ...path)
  return Array.isArray(found) ? found : []
}

export function modelOf(request: Json): string | undefined {
  const { model } = request
  return typeof model === 'string' && /^[\w.:/@-]{1,128}$/.test(model) ? model : undefined
}

export const NO_MODEL: Plan = { ok: false, problem: 'Name the model.' }

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
  /** Of a caller's headers, those that are passed on besides the content type. */
  passedHeaders: readonly string[]
  prices: readonly Price[]
}

export interface Endpoint {
  method: 'GET' | 'POST'
  path: string
  summary: string
  /** Undefined: it costs nothing. */
  metered?: Metered
}

export type Json = Readonly<Record<string, unknown>>

export interface Metered {
  /** What a request will use, before it is made. */
  plan(request: Json): Plan
  /** Reads messages of the answer: the events of a stream, or the one body. */
  createReader(): UsageReader
}

export type Plan =
  | {
      ok: true
      model: string
      /** Undefined: as many as the model gives. */
      mostOutputTokens: number | undefined
      /** What is sent: the request, and that its usage be told. */
      request: Json
    }
  /** `problem`: a sentence for the caller. */
  | { ok: false; problem: string }

export interface UsageReader {
  read(message: unknown): void
  /** Undefined where nothing was told. */
  usage(): TokenUsage | undefined
}

export interface TokenUsage {
  /** At the full price, apart from those that were cached. */
  inputTokens: number
  outputTokens: number
  cacheReadTokens: number
  cacheWriteTokens: number
}

/** In thousandths of a millionth of a US dollar a token: 3,000 is three dollars a million tokens. */
export interface Price {
  model: string
  input: number
  output: number
  cacheRead?: number
  cacheWrite?: number
  /** The most that the model gives at once. */
  mostOutputTokens: number
}

/** Raised with every change of a price: events say which one they were worked out with. */
export const PRICES_VERSION = '2026-11-01'
export const PRICES_CURRENCY = 'USD'

/** A model is also meant by its name with a date (`-20250929`, `-2025-08-07`), or with `-latest`. */
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
    BigInt(usage.cacheWriteTokens) * BigInt(price.cacheWrite ?? price.input)
  return (nanos + NANOS - 1n) / NANOS
}

/**
 * The most that a request can cost: no token is shorter than a byte. What the provider fetches itself (a linked image, an
 * earlier answer) is not in it.
 */
export function mostCostOf(price: Price, plan: { requestBytes: number; mostOutputTokens: number | undefined }): bigint {
  const input = Math.max(price.input, price.cacheWrite ?? 0)
  return costOf(
    { ...price, input },
    {
      inputTokens: plan.requestBytes,
      outputTokens: plan.mostOutputTokens ?? price.mostOutputTokens,
      cacheReadTokens: 0,
      cacheWriteTokens: 0,
    },
  )
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

const MOST_COUNT = 1_000_000_000

/** A count of tokens; 0 for what is none. */
export function countAt(value: unknown, ...path: readonly string[]): number {
  const found = memberOf(value, ...path)
  return typeof found === 'number' && Number.isInteger(found) && found >= 0 ? Math.min(found, MOST_COUNT) : 0
}

/** A whole number above nothing; undefined for what is none. */
export function limitAt(value: unknown, ...path: readonly string[]): number | undefined {
  return countAt(value, ...path) || undefined
}

export function modelOf(request: Json): string | undefined {
  const { model } = request
  return typeof model === 'string' && /^[\w.:/@-]{1,128}$/.test(model) ? model : undefined
}

export const NO_MODEL: Plan = { ok: false, problem: 'Name the model.' }

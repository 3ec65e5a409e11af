// An issuer that does what no good one does: falls silent, goes back in time, tells an older list, loses its keys. It has
// a clock of its own, so that a test may set the verifier's.
import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose'
import { afterEach, beforeEach, expect, vi } from 'vitest'
import { newToken } from '../../src/crypto/token-value.ts'
import { createVerifier, type Verifier, VerifierError, type VerifierOptions } from '../../src/verifier/index.ts'
import { type FeedEntry, type FeedMessage, hashSubject } from '../../src/verifier/wire.ts'

export const AUDIENCE = 'https://api.example.com'
const FEED_KEY = 'told to this API alone'
const BEAT_MS = 100

export interface ScriptedIssuer {
  readonly origin: string
  /** What it was asked, in order. */
  readonly asked: Array<{ path: string; accept: string; cursor: string | null; atMs: number }>
  count(path: string): number
  /** Uses that it was told. */
  readonly reports: Array<{ credential_id: string; uses: number; age_ms: number }>
  /** How many introspections were under way at once, at most. */
  readonly mostAtOnce: number

  /** Its list. An entry given to `end` is told at once. */
  epoch: string
  end(subject: string, what: Partial<FeedEntry>): void
  /** Another list, or an older state of this one. */
  replaceList(epoch: string, entries?: FeedEntry[]): void
  entries(): FeedEntry[]

  /** Answers instead of it, where set. */
  onFeed: ((request: IncomingMessage, response: ServerResponse) => void) | undefined
  onKeys: ((response: ServerResponse) => void) | undefined
  onIntrospect: ((form: URLSearchParams, response: ServerResponse) => void) | undefined
  /** Streams stay open, and nothing comes. */
  isSilent: boolean
  /** It cannot say that its list is whole. */
  isBlind: boolean
  entriesAPage: number
  /** Milliseconds that its clock is ahead. */
  shiftMs: number
  now(): number
  message(more?: Partial<FeedMessage>): FeedMessage
  cutStreams(): void

  /** Signs with another key from now on; the others stay unless `alone`. */
  rotate(options?: { alone?: boolean }): Promise<void>
  jwt(claims?: Record<string, unknown>, header?: Record<string, unknown>): Promise<string>
  /** Signs whatever these bytes are. */
  signed(header: string, payload: string | Buffer): Promise<string>
  readonly kid: string
  /** A pasted token that introspection knows. */
  token(members?: Record<string, unknown>): string
  close(): Promise<void>
}

const CLAIMS = {
  sub: 'usr_1',
  aud: AUDIENCE,
  client_id: 'cl_1',
  scope: 'read',
  workspace_id: 'ws_1',
  organization_id: 'org_1',
  environment: 'production',
  token_version: 'v3',
  credential_id: 'con_1',
}

export async function startIssuer(): Promise<ScriptedIssuer> {
  const startedAt = { wall: Date.now(), monotonic: process.hrtime.bigint() }
  const streams = new Set<ServerResponse>()
  const asked: ScriptedIssuer['asked'] = []
  const reports: ScriptedIssuer['reports'] = []
  const tokens = new Map<string, Record<string, unknown>>()
  let entries = new Map<string, FeedEntry>()
  let seq = 0
  let keys: Array<{ kid: string; privateKey: CryptoKey; publicJwk: JWK }> = []
  let underWay = 0
  let mostAtOnce = 0

  const server = createServer(async (request, response) => {
    const url = new URL(request.url ?? '', 'http://issuer')
    const accept = request.headers.accept ?? ''
    asked.push({ path: url.pathname, accept, cursor: url.searchParams.get('cursor'), atMs: performance.now() })
    if (url.pathname === '/jwks') {
      if (issuer.onKeys !== undefined) return issuer.onKeys(response)
      return json(response, { keys: keys.map(({ publicJwk }) => publicJwk) })
    }
    if (url.pathname === '/revocations') {
      if (issuer.onFeed !== undefined) return issuer.onFeed(request, response)
      return feed(url.searchParams.get('cursor'), accept, response)
    }
    const body = await textOf(request)
    if (url.pathname === '/introspect/uses') reports.push(...JSON.parse(body).uses)
    const form = new URLSearchParams(body)
    if (url.pathname !== '/introspect') return void response.writeHead(204).end()
    mostAtOnce = Math.max(mostAtOnce, ++underWay)
    response.once('close', () => underWay--)
    if (issuer.onIntrospect !== undefined) return issuer.onIntrospect(form, response)
    json(response, tokens.get(form.get('token') ?? '') ?? { active: false })
  })

  function feed(cursor: string | null, accept: string, response: ServerResponse) {
    const [epoch, known] = cursor?.split('.') ?? []
    const isKnown = epoch === issuer.epoch && Number(known) <= seq
    const pages = pagesSince(isKnown ? Number(known) : undefined)
    if (!accept.includes('text/event-stream')) return json(response, pages[0])
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    streams.add(response)
    response.once('close', () => streams.delete(response))
    if (!issuer.isSilent) for (const page of pages) send(response, page)
  }

  function pagesSince(known: number | undefined): FeedMessage[] {
    const news = [...entries.values()].filter((entry) => entry.seq > (known ?? 0)).sort((a, b) => a.seq - b.seq)
    const pages: FeedMessage[] = []
    for (let from = 0; from === 0 || from < news.length; from += issuer.entriesAPage) {
      const page = news.slice(from, from + issuer.entriesAPage)
      const isLast = from + issuer.entriesAPage >= news.length
      const { complete_as_of: _whole, ...rest } = issuer.message({ entries: page })
      const upTo = isLast ? seq : (page.at(-1)?.seq ?? 0)
      pages.push({
        ...(isLast ? issuer.message({ entries: page }) : { ...rest, more: true }),
        seq: upTo,
        cursor: `${issuer.epoch}.${upTo}`,
        ...(known === undefined && from === 0 ? { snapshot: true, key: FEED_KEY } : {}),
      })
    }
    return pages
  }

  const tell = (entries: FeedEntry[] = []) => {
    if (issuer.isSilent) return
    for (const stream of streams) send(stream, issuer.message({ entries }))
  }
  const beat = setInterval(tell, BEAT_MS)

  const issuer: ScriptedIssuer = {
    origin: '',
    asked,
    reports,
    count: (path) => asked.filter((one) => one.path === path).length,
    get mostAtOnce() {
      return mostAtOnce
    },
    epoch: 'first',
    end(subject, what) {
      const hashed = hashSubject(FEED_KEY, subject)
      const entry = { subject: hashed, seq: ++seq, expires_at: Math.floor(issuer.now() / 1000) + 3_675, ...what }
      entries.set(hashed, entry)
      tell([entry])
    },
    replaceList(epoch, list = []) {
      issuer.epoch = epoch
      entries = new Map(list.map((entry) => [entry.subject, entry]))
      seq = Math.max(0, ...list.map((entry) => entry.seq))
    },
    entries: () => [...entries.values()],
    onFeed: undefined,
    onKeys: undefined,
    onIntrospect: undefined,
    isSilent: false,
    isBlind: false,
    entriesAPage: 2_000,
    shiftMs: 0,
    now: () =>
      startedAt.wall + Number((process.hrtime.bigint() - startedAt.monotonic) / 1_000n) / 1_000 + issuer.shiftMs,
    message: (more) => ({
      epoch: issuer.epoch,
      cursor: `${issuer.epoch}.${seq}`,
      seq,
      now: Math.floor(issuer.now()),
      ...(issuer.isBlind ? {} : { complete_as_of: Math.floor(issuer.now()) - 5 }),
      entries: [],
      ...more,
    }),
    cutStreams() {
      for (const stream of streams) stream.destroy()
    },
    async rotate({ alone = false } = {}) {
      const kid = randomBytes(6).toString('base64url')
      const { privateKey, publicKey } = await generateKeyPair('ES256')
      const made = { kid, privateKey, publicJwk: { ...(await exportJWK(publicKey)), kid, alg: 'ES256', use: 'sig' } }
      keys = alone ? [made] : [made, ...keys]
    },
    async jwt(claims = {}, header = {}) {
      const [key] = keys
      if (key === undefined) throw new Error('there is no key')
      const iat = Math.floor(issuer.now() / 1000)
      const jti = randomBytes(12).toString('base64url')
      return new SignJWT({ iss: issuer.origin, ...CLAIMS, iat, exp: iat + 600, jti, ...claims })
        .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: key.kid, ...header })
        .sign(key.privateKey)
    },
    async signed(header, payload) {
      const [key] = keys
      if (key === undefined) throw new Error('there is no key')
      const input = [header, payload].map((part) => Buffer.from(part).toString('base64url')).join('.')
      const algorithm = { name: 'ECDSA', hash: 'SHA-256' }
      const signature = await crypto.subtle.sign(algorithm, key.privateKey, Buffer.from(input))
      return `${input}.${Buffer.from(signature).toString('base64url')}`
    },
    get kid() {
      return keys[0]?.kid ?? ''
    },
    token(members = {}) {
      const value = newToken('workspace').value.reveal()
      const { client_id: _client, ...claims } = CLAIMS
      tokens.set(value, { active: true, ...claims, sub: 'key_1', credential_id: 'key_1', ...members })
      return value
    },
    close() {
      clearInterval(beat)
      server.closeAllConnections()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
  await issuer.rotate()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return Object.defineProperty(issuer, 'origin', { value: `http://127.0.0.1:${address.port}` })
}

export function openVerifier(issuer: ScriptedIssuer, more: Partial<VerifierOptions> = {}): Verifier {
  return createVerifier({
    issuer: issuer.origin,
    audience: AUDIENCE,
    environment: 'production',
    clientId: 'cl_api',
    clientSecret: 'secret',
    ...more,
  })
}

/** For a test file: an issuer of its own for each test, and verifiers that are closed after it. */
export function useIssuer() {
  let issuer: ScriptedIssuer
  const verifiers: Verifier[] = []
  beforeEach(async () => {
    issuer = await startIssuer()
  })
  afterEach(async () => {
    vi.useRealTimers()
    vi.restoreAllMocks()
    await Promise.all(verifiers.splice(0).map((verify) => verify.close()))
    await issuer.close()
  })
  const begin = (more: Partial<VerifierOptions> = {}) => {
    const verify = openVerifier(issuer, more)
    verifiers.push(verify)
    return verify
  }
  return {
    get issuer() {
      return issuer
    },
    /** One that may not be ready yet. */
    begin,
    async open(more: Partial<VerifierOptions> = {}): Promise<Verifier> {
      const verify = begin(more)
      await verify.ready()
      return verify
    },
    /** The issuer's clock and both of ours go on. */
    async waitLong(verify: Verifier, ms: number): Promise<void> {
      const [wall, monotonic] = [Date.now, performance.now.bind(performance)]
      vi.restoreAllMocks()
      vi.spyOn(Date, 'now').mockImplementation(() => wall.call(Date) + ms)
      vi.spyOn(performance, 'now').mockImplementation(() => monotonic() + ms)
      issuer.shiftMs += ms
      await becomesLive(verify)
    },
  }
}

/** 200, or the status and reason of the refusal. */
export async function outcome(verify: Verifier, value: string, options = {}): Promise<string> {
  try {
    await verify(`Bearer ${value}`, options)
    return '200'
  } catch (error) {
    if (error instanceof VerifierError) return `${error.status} ${error.reason}`
    throw error
  }
}

/** The same, from memory alone: introspection is away, and a verifier that is blind for a moment is asked again. */
export async function decision(issuer: ScriptedIssuer, verify: Verifier, value: string): Promise<string> {
  issuer.onIntrospect = (_form, response) => void response.writeHead(503).end()
  for (const startedAt = performance.now(); ; await new Promise((resolve) => setTimeout(resolve, 10))) {
    const answer = await outcome(verify, value)
    if (!answer.startsWith('503 introspection') || performance.now() - startedAt > 10_000) return answer
  }
}

export function becomesLive(verify: Verifier, isLive = true): Promise<void> {
  return expect.poll(() => verify.isLive(), { timeout: 10_000, interval: 20 }).toBe(isLive)
}

export function send(response: ServerResponse, message: unknown): void {
  response.write(`data: ${JSON.stringify(message)}\n\n`)
}

export function json(response: ServerResponse, body: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}

async function textOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk)
  return Buffer.concat(chunks).toString('utf8')
}

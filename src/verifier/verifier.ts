// One function for both kinds of credential: JWTs are verified here, with the revocation feed in memory; workspace tokens
// are asked about, and remembered only while the feed would tell of their end. Imports nothing but jose and what Node brings.
import { type JWTPayload, jwtVerify } from 'jose'
import { type Access, type Environment, readAccess } from './access.ts'
import { VerifierError, type VerifierErrorCode } from './errors.ts'
import { type Feed, openFeed } from './feed.ts'
import { createIntrospection } from './introspection.ts'
import { createKeys, KeysUnavailable } from './keys.ts'
import { endsIssuedAt, endsVersion } from './list.ts'
import { createTokenMemory, memoryKey } from './memory.ts'
import { isTokenForm, TOKEN_PREFIX } from './token-form.ts'
import { createUses } from './uses.ts'

export interface VerifierOptions {
  /** The address of the Latchkey server, as in its metadata. */
  issuer: string
  /** This API's identifier, as it was registered. */
  audience: string
  /** The environment that this instance serves, or several. */
  environment: Environment | readonly Environment[]
  /** The id and secret that `latchkey resource create` printed. */
  clientId: string
  clientSecret: string
  /**
   * What to do when neither the feed nor introspection can say whether a JWT has ended: refuse, or take it until it expires.
   * Workspace tokens are refused either way.
   */
  whenBlind?: 'refuse' | 'until-expiry'
  /** Seconds that a JWT may be over by the issuer's time. Default 15, at most 60. */
  clockToleranceSeconds?: number
  /** For tests, proxies and agents of your own. */
  fetch?: typeof globalThis.fetch
  /** Hears of the feed's lost connections and of failed introspection. */
  onError?: (error: unknown) => void
}

export interface VerifyOptions {
  /** All of these must be there. */
  scopes?: readonly string[]
  /** The caller's address, for the record of uses; a workspace token that is limited to addresses needs it. */
  clientIp?: string | undefined
  /** The caller's User-Agent, for the record of uses. */
  userAgent?: string | undefined
}

export interface Verifier {
  /** @throws {VerifierError} with the status and headers of the answer */
  (authorization: string | null | undefined, options?: VerifyOptions): Promise<Access>
  /** Resolves when the feed has been read: verifying works before, by asking. */
  ready(): Promise<void>
  /** Whether decisions are made from memory right now. */
  isLive(): boolean
  /** Ends the feed, and tells the last uses. */
  close(): Promise<void>
}

/** Older than this the feed does not count. */
const FRESH_MS = 1_000
const MOST_TOKEN_CHARACTERS = 8_192
const DEFAULT_TOLERANCE_SECONDS = 15
/** An entry of the list outlives the longest JWT by 75 seconds. */
const MOST_TOLERANCE_SECONDS = 60
/** RFC 6750 §2.1 */
const BEARER = /^bearer(?: +|$)/i
/** 64 bytes in base64url: the library would pass over blanks and padding among them. */
const SIGNATURE_CHARACTERS = 86
const ENVIRONMENTS: readonly unknown[] = ['production', 'staging', 'development']

/** @throws {TypeError} for options that cannot work */
export function createVerifier(given: VerifierOptions): Verifier {
  const options = checked(given)
  const { issuer, audience, clockToleranceSeconds: tolerance = DEFAULT_TOLERANCE_SECONDS } = options
  const { fetch = globalThis.fetch } = options
  const onError = harmless(options.onError)
  const checks = { issuer, audience, typ: 'at+jwt', algorithms: ['ES256'], clockTolerance: tolerance }
  const environments = new Set<string>([options.environment].flat())
  const authorization = basicAuthorization(options.clientId, options.clientSecret)
  const atIssuer = { issuer, authorization, fetch, onError }
  const feed: Feed = openFeed(atIssuer)
  const keys = createKeys(atIssuer)
  const introspect = createIntrospection(atIssuer)
  const uses = createUses(atIssuer)
  /** @param nowMs the issuer's time */
  const isLiveAt = (nowMs: number) => nowMs - feed.completeAsOf() < FRESH_MS
  const isLive = () => isLiveAt(feed.now())
  const memory = createTokenMemory(feed, isLive)
  const asking = new Map<string, Promise<unknown>>()

  const fail = (code: VerifierErrorCode, reason: string, scopes: readonly string[] = []) =>
    new VerifierError(code, reason, { realm: audience, scopes })
  const refuse = (reason: string) => fail('invalid_token', reason)

  async function verify(header: string | null | undefined, wanted: VerifyOptions = {}): Promise<Access> {
    const token = readHeader(header, wanted.scopes)
    const isToken = token.startsWith(TOKEN_PREFIX)
    const access = isToken ? await verifyWorkspaceToken(token, wanted) : await verifyJwt(token, wanted)
    const missing = wanted.scopes?.find((scope) => !access.scopes.has(scope))
    if (missing !== undefined) throw fail('insufficient_scope', `lacks ${missing}`, wanted.scopes)
    return access
  }

  function readHeader(header: string | null | undefined, scopes: readonly string[] | undefined): string {
    if (header === undefined || header === null || header === '')
      throw fail('missing_token', 'there is no Authorization header', scopes)
    const [scheme] = BEARER.exec(header) ?? []
    if (scheme === undefined) throw fail('missing_token', 'the Authorization header is of another scheme', scopes)
    const token = header.slice(scheme.length)
    if (token.includes(', ')) throw fail('invalid_request', 'there is more than one Authorization header')
    if (token === '' || token.length > MOST_TOKEN_CHARACTERS) throw refuse('the token is empty, or too long')
    return token
  }

  // --- JWTs ---------------------------------------------------------------------------------------------------------

  async function verifyJwt(token: string, wanted: VerifyOptions): Promise<Access> {
    if (token.length - token.lastIndexOf('.') - 1 !== SIGNATURE_CHARACTERS) throw refuse('the token is malformed')
    let payload: JWTPayload
    try {
      payload = (await jwtVerify(token, findKey, { ...checks, currentDate: currentDate() })).payload
    } catch (error) {
      throw whyNotVerified(error)
    }
    const access = readJwt(payload)
    const now = feed.now()
    if (!isLiveAt(now)) await askAboutJwt(token, { payload, access, wanted })
    else if (hasEnded(payload, access, now)) throw refuse('ended')
    else uses.count(access, wanted)
    return access
  }

  const findKey = ({ kid }: { kid?: string }) => keys.find(kid)

  /** Who is asked instead of a feed that is not live knows the time better. */
  function currentDate(): Date {
    const now = feed.now()
    return new Date(isLiveAt(now) ? now : feed.earliest())
  }

  function whyNotVerified(error: unknown): VerifierError {
    if (!(error instanceof KeysUnavailable))
      return refuse(error instanceof Error && 'code' in error ? String(error.code) : String(error))
    onError(error.cause)
    return fail('unavailable', 'the keys could not be fetched')
  }

  /** What the library does not look at. */
  function readJwt(payload: JWTPayload): Access {
    const { exp, iat, jti, aud, cnf } = payload
    const access = exp && iat && jti && typeof jti === 'string' ? readAccess(payload, 'jwt') : undefined
    if (access === undefined) throw refuse('a claim is missing or malformed')
    if (aud !== audience) throw refuse('for another API')
    if (cnf !== undefined) throw refuse('bound to a key, and presented without proof of it')
    if (!environments.has(access.environment)) throw refuse('for another environment')
    return access
  }

  interface CheckedJwt {
    payload: JWTPayload
    access: Access
    wanted: VerifyOptions
  }

  async function askAboutJwt(token: string, { payload, access, wanted }: CheckedJwt): Promise<void> {
    const answer = await introspect(token, wanted)
    if (answer.ok && answer.members.active === true) return
    if (answer.ok) throw refuse('not active')
    if (!answer.isOutage || options.whenBlind !== 'until-expiry') throw fail('unavailable', answer.reason)
    // What is known to have ended has, however old that knowledge is.
    const now = feed.now()
    if (hasEnded(payload, access, now) || isOver(payload, now)) throw refuse('ended')
    uses.count(access, wanted)
  }

  const isOver = ({ exp = 0 }: JWTPayload, nowMs: number) => (exp + tolerance) * 1000 <= nowMs

  function hasEnded({ iat = 0, jti = '' }: JWTPayload, access: Access, nowMs: number): boolean {
    const { own, all } = feed.about(access)
    return (
      endsVersion(own, versionOf(access), nowMs) ||
      all.some((ending) => endsIssuedAt(ending, iat)) ||
      feed.isDenied(jti)
    )
  }

  // --- Workspace tokens ---------------------------------------------------------------------------------------------

  async function verifyWorkspaceToken(token: string, wanted: VerifyOptions): Promise<Access> {
    if (!isTokenForm(token)) throw refuse('the token is mistyped')
    const key = memoryKey(token, wanted.clientIp)
    // What somebody is told about it right now may do for us, too.
    const underWay = isLive() ? asking.get(key) : undefined
    if (underWay !== undefined) await underWay
    const known = memory.find(key)
    if (known === undefined) return askOnce(token, key, wanted)
    uses.count(known, wanted)
    return known
  }

  function askOnce(token: string, key: string, wanted: VerifyOptions): Promise<Access> {
    const asked = askAboutToken(token, key, wanted)
    const done = () => {
      if (asking.get(key) === settled) asking.delete(key)
    }
    const settled = asked.then(done, done)
    asking.set(key, settled)
    return asked
  }

  async function askAboutToken(token: string, key: string, wanted: VerifyOptions): Promise<Access> {
    const mark = memory.mark()
    const answer = await introspect(token, wanted)
    if (!answer.ok) throw fail('unavailable', answer.reason)
    const access = answer.members.active === true ? readAccess(answer.members, 'workspace_token') : undefined
    if (access === undefined) throw refuse('not active')
    if (answer.members.aud !== audience) throw refuse('for another API')
    if (!environments.has(access.environment)) throw refuse('for another environment')
    memory.remember(key, access, mark)
    return access
  }

  return Object.assign(verify, {
    ready: () => feed.ready(),
    isLive,
    async close() {
      feed.close()
      await uses.close()
    },
  })
}

const versionOf = ({ tokenVersion }: Access) => Number(tokenVersion.slice(1))

/** A listener that fails must not end what it listens to. */
function harmless(listener: (error: unknown) => void = () => {}): (error: unknown) => void {
  return (error) => {
    try {
      listener(error)
    } catch {}
  }
}

/** RFC 6749 §2.3.1 */
function basicAuthorization(id: string, secret: string): string {
  const text = [id, secret].map((part) => new URLSearchParams([['', part]]).toString().slice(1)).join(':')
  return `Basic ${Buffer.from(text).toString('base64')}`
}

function checked(options: VerifierOptions): VerifierOptions {
  const issuer = options.issuer.replace(/\/$/, '')
  if (!isOrigin(issuer)) throw new TypeError('issuer must be an origin such as https://id.example.com')
  for (const name of ['audience', 'clientId', 'clientSecret'] as const)
    if (!options[name]) throw new TypeError(`${name} is missing`)
  const environments = [options.environment].flat()
  if (environments.length === 0 || !environments.every((name) => ENVIRONMENTS.includes(name)))
    throw new TypeError('environment must be production, staging or development, or several of them')
  const { clockToleranceSeconds: tolerance = DEFAULT_TOLERANCE_SECONDS, whenBlind = 'refuse' } = options
  if (!(tolerance >= 0 && tolerance <= MOST_TOLERANCE_SECONDS))
    throw new TypeError(`clockToleranceSeconds must be between 0 and ${MOST_TOLERANCE_SECONDS}`)
  if (whenBlind !== 'refuse' && whenBlind !== 'until-expiry')
    throw new TypeError('whenBlind must be refuse or until-expiry')
  return { ...options, issuer }
}

function isOrigin(text: string): boolean {
  try {
    return new URL(text).origin === text
  } catch {
    return false
  }
}

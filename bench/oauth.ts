// The client's half of OAuth as the generator speaks it: requests built, and every answer checked (RFC 6749, 7009, 7636, 7662).
import { createHash, randomBytes } from 'node:crypto'
import type { HttpConnection, HttpResponse } from './http-client.ts'
import type { Credentials, Session, Site } from './site.ts'

/** The answer was not what the scenario is about: the repetition is void, with this reason. */
export class WrongAnswer extends Error {
  constructor(what: string, response: HttpResponse) {
    const location = response.headers.get('location')
    const detail = `${location ? `location ${location} ` : ''}${response.body}`.replaceAll(/\s+/g, ' ').slice(0, 300)
    super(`${what}: ${response.status} ${detail}`.trim())
    this.name = 'WrongAnswer'
  }
}

export type JsonObject = Readonly<Record<string, unknown>>

export function parseJson(what: string, response: HttpResponse): JsonObject {
  if (response.status !== 200) throw new WrongAnswer(what, response)
  try {
    const value: unknown = JSON.parse(response.body)
    if (isJsonObject(value)) return value
  } catch {
    // Not JSON: said below, with the body.
  }
  throw new WrongAnswer(`${what} is not a JSON object`, response)
}

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

export function basic({ clientId, clientSecret }: Credentials): string {
  const pair = `${encodeURIComponent(clientId)}:${encodeURIComponent(clientSecret)}`
  return `Basic ${Buffer.from(pair).toString('base64')}`
}

const FORM = 'application/x-www-form-urlencoded'

/**
 * Posts a form, as a client or as nobody: the headers and the fields that do not change are rendered once, outside the
 * loop.
 */
export function formPoster(
  path: string,
  credentials: Credentials | undefined,
  fixed: Readonly<Record<string, string>>,
) {
  const fixedHeaders = { 'content-type': FORM, accept: 'application/json' }
  const headers = credentials === undefined ? fixedHeaders : { authorization: basic(credentials), ...fixedHeaders }
  const start = new URLSearchParams(fixed).toString()
  return (http: HttpConnection, fields: Readonly<Record<string, string>> = {}): Promise<HttpResponse> => {
    let body = start
    for (const name in fields) body += `${body ? '&' : ''}${name}=${encodeURIComponent(fields[name] ?? '')}`
    return http.send({ method: 'POST', path, headers, body })
  }
}

export const isJwt = (token: string): boolean => token.startsWith('eyJ') && token.split('.').length === 3

/** `ES256`, `opaque`, `none`: what a token is, for the record of what was compared with what. */
export function describeToken(token: unknown): string {
  if (typeof token !== 'string') return 'none'
  if (!isJwt(token)) return 'opaque'
  const header: unknown = JSON.parse(Buffer.from(token.split('.')[0] ?? '', 'base64url').toString())
  return `JWT ${isJsonObject(header) ? header.alg : '?'}`
}

export interface Tokens {
  readonly accessToken: string
  readonly refreshToken: string | undefined
  readonly idToken: string | undefined
}

export interface Expected {
  readonly access: 'jwt' | 'opaque' | 'any'
  readonly refresh: boolean
  readonly id: boolean
}

/** A token answer, checked: of the expected kind and complete. */
export function readTokens(what: string, response: HttpResponse, expected: Expected): Tokens {
  const answer = parseJson(what, response)
  const optional = (name: string) => (typeof answer[name] === 'string' ? answer[name] : undefined)
  const accessToken = optional('access_token')
  const refreshToken = optional('refresh_token')
  const idToken = optional('id_token')
  if (!accessToken || typeof answer.token_type !== 'string') throw new WrongAnswer(`${what} has no token`, response)
  if (expected.access !== 'any' && isJwt(accessToken) !== (expected.access === 'jwt')) {
    throw new WrongAnswer(`${what}: the access token is not ${expected.access}`, response)
  }
  if (expected.refresh && !refreshToken) throw new WrongAnswer(`${what} has no refresh token`, response)
  if (expected.id && !(idToken && isJwt(idToken))) throw new WrongAnswer(`${what} has no id_token`, response)
  return { accessToken, refreshToken, idToken }
}

export interface CodeRequest {
  readonly scope: string
  /** Without one the access token is for the server itself, and opaque. */
  readonly resource?: string
}

/** The code flow of one client, both requests, for a person who has signed in and approved before (RFC 7636, S256). */
export function codeFlow(site: Site, request: CodeRequest) {
  const resource: Record<string, string> = request.resource ? { resource: request.resource } : {}
  const target = authorizationTarget(site, { scope: request.scope, ...resource })
  const post = formPoster(site.paths.token, site.client, {
    grant_type: 'authorization_code',
    redirect_uri: site.redirectUri,
    ...resource,
  })
  return async (http: HttpConnection, session: Session): Promise<HttpResponse> => {
    const verifier = randomBytes(32).toString('base64url')
    const state = randomBytes(12).toString('base64url')
    const challenge = createHash('sha256').update(verifier).digest('base64url')
    const own = new URLSearchParams({ state, code_challenge: challenge, ...session.parameters })
    const authorized = await http.send({
      method: 'GET',
      path: `${target}&${own}`,
      headers: { cookie: session.cookie, accept: 'text/html' },
    })
    return post(http, { code: readCode(site, authorized, state), code_verifier: verifier })
  }
}

/** The authorization request but for what is new each time: `state` and `code_challenge`. */
export function authorizationTarget(site: Omit<Site, 'signIn'>, parameters: Readonly<Record<string, string>>): string {
  const query = new URLSearchParams({
    response_type: 'code',
    client_id: site.client.clientId,
    redirect_uri: site.redirectUri,
    code_challenge_method: 'S256',
    ...parameters,
  })
  return `${site.paths.authorize}?${query}`
}

/** The code out of the redirect to the client, of which nothing may be missing. */
export function readCode(site: Site, response: HttpResponse, state: string): string {
  const location = response.headers.get('location') ?? ''
  const redirected = response.status === 302 || response.status === 303
  if (!redirected || !location.startsWith(site.redirectUri)) throw new WrongAnswer('authorization', response)
  const { searchParams } = new URL(location)
  const code = searchParams.get('code')
  if (!code || searchParams.get('state') !== state) throw new WrongAnswer('authorization has no code', response)
  return code
}

/** The cookies of one browser, as far as a sign-in needs: names and values; no paths, no expiry but removal. */
export class CookieJar {
  readonly #cookies = new Map<string, string>()

  take(response: HttpResponse): void {
    for (const line of response.setCookies) {
      const pair = line.split(';', 1)[0] ?? ''
      const equals = pair.indexOf('=')
      const name = pair.slice(0, equals).trim()
      const value = pair.slice(equals + 1).trim()
      if (value === '' || /;\s*max-age=0/i.test(line)) this.#cookies.delete(name)
      else this.#cookies.set(name, value)
    }
  }

  get header(): string {
    return [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ')
  }
}

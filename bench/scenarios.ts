// The table of scenarios. A new one is a name in constants.ts and an entry here; the README says more.
import { ACCOUNTS, type ScenarioName } from './constants.ts'
import type { HttpConnection, HttpResponse } from './http-client.ts'
import { codeFlow, describeToken, formPoster, parseJson, readTokens, WrongAnswer } from './oauth.ts'
import type { Credentials, Session, Site } from './site.ts'

/** One of the parallel connections, and what it may use. */
export interface Lane {
  readonly site: Site
  readonly http: HttpConnection
  readonly index: number
  /** Somebody signed in and the client approved; lanes share the accounts. */
  session(): Promise<Session>
  /** Says, once a lane, what the answers were made of; it is written beside the figures. */
  note(name: string, value: string): void
}

/** One operation: as many requests as the scenario says, each answer checked. */
export type Operation = () => Promise<void>

export interface Scenario {
  readonly name: ScenarioName
  readonly title: string
  readonly requests: number
  /** Makes what the lane needs before the clock runs, and returns what is then repeated. */
  prepare(lane: Lane): Promise<Operation>
}

/** Tokens a lane introspects in turn: 32 lanes ask about 128 opaque or pasted tokens, or 512 JWTs. */
const OPAQUE_TOKENS = 4
const PASTED_TOKENS = 4
const JWTS = 16

export const SCENARIOS: readonly Scenario[] = [
  {
    name: 'client_credentials',
    title: 'client_credentials, JWT',
    requests: 1,
    async prepare({ site, http, note }) {
      const issue = jwtIssuer(site)
      note('access_token', describeToken(await issue(http)))
      return async () => {
        await issue(http)
      }
    },
  },
  {
    name: 'token_exchange',
    title: 'token exchange, JWT',
    requests: 1,
    async prepare(lane) {
      const { site, http, note } = lane
      const tokens = await makePasted(lane, PASTED_TOKENS)
      // The token itself says who asks: no client authenticates besides.
      const post = formPoster(site.paths.token, undefined, {
        grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
        subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
        scope: site.scope,
        resource: site.resource,
      })
      const expected = { access: 'jwt', refresh: false, id: false } as const
      let turn = 0
      const exchange = async () => {
        turn = (turn + 1) % tokens.length
        return readTokens('exchange', await post(http, { subject_token: tokens[turn] ?? '' }), expected).accessToken
      }
      note('access_token', describeToken(await exchange()))
      return async () => {
        await exchange()
      }
    },
  },
  {
    name: 'refresh',
    title: 'refresh with rotation',
    requests: 1,
    async prepare({ site, http, session, note }) {
      const { resource } = site
      const flow = codeFlow(site, { scope: `offline_access ${site.scope}`, resource })
      const expected = { access: 'jwt', refresh: true, id: false } as const
      const first = readTokens('code', await flow(http, await session()), expected)
      const refresh = formPoster(site.paths.token, site.client, { grant_type: 'refresh_token', resource })
      let current = first.refreshToken ?? ''
      const rotate = async () => {
        const response = await refresh(http, { refresh_token: current })
        const tokens = readTokens('refresh', response, expected)
        if (tokens.refreshToken === undefined || tokens.refreshToken === current) {
          throw new WrongAnswer('refresh did not rotate', response)
        }
        current = tokens.refreshToken
        return tokens
      }
      const tokens = await rotate()
      note('access_token', describeToken(tokens.accessToken))
      note('id_token', describeToken(tokens.idToken))
      return async () => {
        await rotate()
      }
    },
  },
  {
    name: 'code_pkce',
    title: 'code + PKCE, signed in and consented',
    requests: 2,
    async prepare({ site, http, session, note }) {
      const flow = codeFlow(site, { scope: `openid offline_access ${site.scope}`, resource: site.resource })
      const person = await session()
      const run = async () => readTokens('code', await flow(http, person), { access: 'jwt', refresh: true, id: true })
      const tokens = await run()
      note('access_token', describeToken(tokens.accessToken))
      note('id_token', describeToken(tokens.idToken))
      return async () => {
        await run()
      }
    },
  },
  {
    name: 'introspect_opaque',
    title: 'introspect, opaque',
    requests: 1,
    async prepare({ site, http, session }) {
      const flow = codeFlow(site, { scope: 'openid offline_access' })
      const person = await session()
      const tokens = await repeat(OPAQUE_TOKENS, async () => {
        const answer = await flow(http, person)
        return readTokens('code', answer, { access: 'opaque', refresh: false, id: false }).accessToken
      })
      return introspection({ http, path: site.paths.introspect, asker: site.introspectors.opaque, tokens })
    },
  },
  {
    name: 'introspect_jwt',
    title: 'introspect, JWT',
    requests: 1,
    async prepare({ site, http, note }) {
      const issue = jwtIssuer(site)
      const tokens = await repeat(JWTS, () => issue(http))
      note('access_token', describeToken(tokens[0]))
      return introspection({ http, path: site.paths.introspect, asker: site.introspectors.jwt, tokens })
    },
  },
  {
    name: 'verify_token',
    title: 'verify a workspace token (introspection)',
    requests: 1,
    async prepare(lane) {
      return verification(lane.site, lane.http, await makePasted(lane, PASTED_TOKENS))
    },
  },
  {
    name: 'issue_revoke',
    title: 'issue + revoke',
    requests: 2,
    async prepare({ site, http, note }) {
      const issue = formPoster(site.paths.token, site.machine, {
        grant_type: 'client_credentials',
        ...site.issueParameters,
      })
      const revoke = formPoster(site.paths.revoke, site.machine, { token_type_hint: 'access_token' })
      const inspect = formPoster(site.paths.introspect, site.introspectors.issued, {})
      const issueOne = async () =>
        readTokens('issue', await issue(http), { access: 'any', refresh: false, id: false }).accessToken
      const revokeOne = async (token: string) => {
        const revoked = await revoke(http, { token })
        if (revoked.status !== 200) throw new WrongAnswer('revoke', revoked)
      }
      const isActive = async (token: string) => {
        const answer = await inspect(http, { token })
        return parseJson('introspection', answer).active
      }
      // Not in the loop: alive before and dead after shows that the work is done.
      const token = await issueOne()
      note('access_token', describeToken(token))
      if ((await isActive(token)) !== true) throw new Error('the token is dead before it is revoked')
      await revokeOne(token)
      if ((await isActive(token)) !== false) throw new Error('the token is alive after it was revoked')
      return async () => revokeOne(await issueOne())
    },
  },
  {
    name: 'discovery',
    title: 'discovery',
    requests: 1,
    async prepare({ site, http }) {
      return document(http, site.paths.discovery, '"token_endpoint"')
    },
  },
  {
    name: 'jwks',
    title: 'JWKS',
    requests: 1,
    async prepare({ site, http }) {
      return document(http, site.paths.jwks, '"keys"')
    },
  },
]

/** Which account a lane acts as. */
export const accountOf = (index: number): number => index % ACCOUNTS

function jwtIssuer(site: Site): (http: HttpConnection) => Promise<string> {
  const post = formPoster(site.paths.token, site.machine, {
    grant_type: 'client_credentials',
    scope: site.scope,
    resource: site.resource,
  })
  const expected = { access: 'jwt', refresh: false, id: false } as const
  return async (http) => readTokens('client_credentials', await post(http), expected).accessToken
}

let labels = 0

async function makePasted({ site, http }: Lane, count: number): Promise<string[]> {
  const { pasted } = site
  if (pasted === undefined) throw new Error('this server has no tokens to paste')
  return repeat(count, () => {
    labels += 1
    return pasted.make(http, `Integration ${labels}`)
  })
}

/** Asks about pasted tokens in turn. */
export function verification(site: Site, http: HttpConnection, tokens: readonly string[]): Operation {
  if (site.pasted === undefined) throw new Error('this server has no tokens to paste')
  return introspection({ http, ...site.pasted.verify, tokens })
}

interface Introspection {
  readonly http: HttpConnection
  readonly path: string
  readonly asker: Credentials | undefined
  readonly tokens: readonly string[]
}

function introspection({ http, path, asker, tokens }: Introspection): Operation {
  const ask = formPoster(path, asker, { token_type_hint: 'access_token' })
  let turn = 0
  return async () => {
    turn = (turn + 1) % tokens.length
    const response = await ask(http, { token: tokens[turn] ?? '' })
    if (parseJson('introspection', response).active !== true) throw new WrongAnswer('introspection', response)
  }
}

/** A public document, the same each time: read and understood once, then compared by status and size. */
async function document(http: HttpConnection, path: string, member: string): Promise<Operation> {
  const read = (): Promise<HttpResponse> => http.send({ method: 'GET', path, headers: { accept: 'application/json' } })
  const first = await read()
  parseJson(path, first)
  const { length } = first.body
  return async () => {
    const response = await read()
    if (response.status !== 200 || response.body.length !== length || !response.body.includes(member)) {
      throw new WrongAnswer(path, response)
    }
  }
}

async function repeat<T>(times: number, make: () => Promise<T>): Promise<T[]> {
  const made: T[] = []
  for (let count = 0; count < times; count += 1) made.push(await make())
  return made
}

// The peers: oidc-provider twice, better-auth, and the bare minimum.
import { randomBytes } from 'node:crypto'
import type { HttpConnection } from '../http-client.ts'
import { authorizationTarget, CookieJar, parseJson, WrongAnswer } from '../oauth.ts'
import { ACCOUNT_HEADER, ACCOUNT_PASSWORD, emailOf, VERIFY_KEY_PATH } from '../servers/settings.ts'
import type { Session, Site } from '../site.ts'
import {
  type Contender,
  discover,
  FULL_SCOPE,
  peerSite,
  type RunningServer,
  type Stage,
  startPeer,
  type VerifyAs,
} from './contender.ts'

const OPENID_CONFIGURATION = '/.well-known/openid-configuration'

type SignIn = (site: Omit<Site, 'signIn'>, http: HttpConnection, account: number) => Promise<Session>

interface PeerParts {
  readonly file: string
  readonly stores: { readonly redisUrl?: string; readonly databaseUrl?: string }
  readonly discovery: string
  readonly signIn: SignIn
  readonly verify?: VerifyAs
}

async function startPeerSite(stage: Stage, parts: PeerParts): Promise<RunningServer> {
  const { file, stores, discovery, signIn, verify } = parts
  const peer = await startPeer(file, stage, stores)
  try {
    const site = peerSite(stage, peer, await discover(discovery, { port: stage.port, headers: {} }), verify)
    return {
      site: { ...site, signIn: (http, account) => signIn(site, http, account) },
      usage: peer.server.usage,
      async stop() {
        await peer.server.stop()
        await stage.redis?.flush()
      },
    }
  } catch (error) {
    await peer.server.stop()
    throw error
  }
}

/** An authorization request that asks for everything; its state and challenge are never used. */
function fullRequest(site: Omit<Site, 'signIn'>): string {
  const query = { scope: FULL_SCOPE, resource: site.resource, state: 'first', code_challenge: challenge() }
  return authorizationTarget(site, query)
}

const challenge = (): string => randomBytes(32).toString('base64url')

const MAXIMUM_REDIRECTS = 12

/** Follows redirects, as a browser would, until they lead to the client. The rig's pages ask only who it is. */
const signInByRedirects: SignIn = async (site, http, account) => {
  const jar = new CookieJar()
  let path = fullRequest(site)
  for (let redirects = 0; redirects < MAXIMUM_REDIRECTS; redirects += 1) {
    const headers = { cookie: jar.header, accept: 'text/html', [ACCOUNT_HEADER]: `person-${account}` }
    const response = await http.send({ method: 'GET', path, headers })
    jar.take(response)
    const location = response.headers.get('location')
    if (!location) throw new WrongAnswer(`sign-in at ${path}`, response)
    if (location.startsWith(site.redirectUri)) return { cookie: jar.header, parameters: {} }
    const next = new URL(location, `http://127.0.0.1:${site.port}`)
    path = `${next.pathname}${next.search}`
  }
  throw new Error('sign-in did not end')
}

const noJwt = 'refused by the library: unsupported_token_type'
const noPasted = 'it has no tokens to paste'
const noExchange = 'it has no token exchange'

function oidcProvider(store: 'memory' | 'redis'): Contender {
  return {
    name: `oidc-provider-${store}`,
    needs: store === 'redis' ? ['redis'] : [],
    refuses: { introspect_jwt: noJwt, verify_token: noPasted, token_exchange: noExchange },
    start(stage) {
      const redisUrl = store === 'redis' ? stage.redis?.url : undefined
      return startPeerSite(stage, {
        file: 'oidc-provider.ts',
        stores: redisUrl === undefined ? {} : { redisUrl },
        discovery: OPENID_CONFIGURATION,
        signIn: signInByRedirects,
      })
    },
  }
}

const BETTER_AUTH_BASE = '/api/auth'

/** Signs in with the password, then answers the consent page if one is shown. */
const signInToBetterAuth: SignIn = async (site, http, account) => {
  const jar = new CookieJar()
  const origin = `http://127.0.0.1:${site.port}`
  const post = (path: string, body: unknown) =>
    http.send({
      method: 'POST',
      path: `${BETTER_AUTH_BASE}${path}`,
      headers: { 'content-type': 'application/json', accept: 'application/json', origin, cookie: jar.header },
      body: JSON.stringify(body),
    })
  const signedIn = await post('/sign-in/email', { email: emailOf(account), password: ACCOUNT_PASSWORD })
  if (signedIn.status !== 200) throw new WrongAnswer('sign-in', signedIn)
  jar.take(signedIn)
  const headers = { cookie: jar.header, accept: 'text/html' }
  const authorized = await http.send({ method: 'GET', path: fullRequest(site), headers })
  const location = authorized.headers.get('location') ?? ''
  if (!location.startsWith(site.redirectUri)) {
    const { search } = new URL(location, origin)
    const answer = parseJson('consent', await post('/oauth2/consent', { accept: true, oauth_query: search.slice(1) }))
    const target = answer.redirect_uri ?? answer.url
    if (typeof target !== 'string' || !target.includes('code=')) {
      throw new Error(`consent did not lead to the client: ${JSON.stringify(answer)}`)
    }
  }
  return { cookie: jar.header, parameters: {} }
}

const betterAuth: Contender = {
  name: 'better-auth',
  needs: ['postgres'],
  refuses: { token_exchange: noExchange },
  async start(stage) {
    if (!stage.postgres) throw new Error('better-auth needs PostgreSQL')
    const database = await stage.postgres.createDatabase()
    const running = await startPeerSite(stage, {
      file: 'better-auth.ts',
      stores: { databaseUrl: database.ownerUrl },
      discovery: `${BETTER_AUTH_BASE}${OPENID_CONFIGURATION}`,
      signIn: signInToBetterAuth,
      verify: () => ({ path: VERIFY_KEY_PATH, asker: undefined }),
    })
    return {
      ...running,
      async stop() {
        await running.stop()
        await stage.postgres?.dropDatabase(database.name)
      },
    }
  },
}

const bare: Contender = {
  name: 'bare',
  needs: ['redis'],
  refuses: { token_exchange: noExchange },
  start(stage) {
    const redisUrl = stage.redis?.url
    if (redisUrl === undefined) throw new Error('the bare server needs Redis')
    return startPeerSite(stage, {
      file: 'bare.ts',
      stores: { redisUrl },
      discovery: OPENID_CONFIGURATION,
      async signIn(_site, http, account) {
        const jar = new CookieJar()
        const headers = { [ACCOUNT_HEADER]: `person-${account}` }
        jar.take(await http.send({ method: 'POST', path: '/sign-in', headers }))
        return { cookie: jar.header, parameters: {} }
      },
      verify: (paths, { machine }) => ({ path: paths.introspect, asker: machine }),
    })
  },
}

export const PEERS: readonly Contender[] = [oidcProvider('memory'), oidcProvider('redis'), betterAuth, bare]

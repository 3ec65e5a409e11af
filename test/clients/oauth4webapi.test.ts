// oauth4webapi 3, unmodified: every answer passes the library's own strict reading; it is the API too.
import { exportJWK, generateKeyPair } from 'jose'
import * as oauth from 'oauth4webapi'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { makeClient, makeWorld, type World, walk } from '../support/world.ts'

const insecure = { [oauth.allowInsecureRequests]: true } // the test's issuer is http
const TRACES = 'https://traces.example.com'

let server: TestServer
let world: World
let browser: UserAgent
let as: oauth.AuthorizationServer
let api: { client: oauth.Client; authentication: oauth.ClientAuth }

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  const issuer = new URL(server.origin)
  as = await oauth.processDiscoveryResponse(issuer, await oauth.discoveryRequest(issuer, insecure))
  const resource = await server.run('resource create', {
    identifier: TRACES,
    environments: ['production'],
    scopes: [{ name: 'traces:read', sentence: 'See traces', least_role: 'member' }],
  })
  api = {
    client: { client_id: String(resource.client_id) },
    authentication: oauth.ClientSecretBasic(String(resource.client_secret)),
  }
})
afterAll(() => server?.close())

interface Party {
  client: oauth.Client
  authentication: oauth.ClientAuth
  redirectUri: string
}

async function connect(
  { client, authentication, redirectUri }: Party,
  options: { pushed?: boolean; DPoP?: oauth.DPoPHandle; parameters?: Record<string, string> } = {},
) {
  const verifier = oauth.generateRandomCodeVerifier()
  const [state, nonce] = [oauth.generateRandomState(), oauth.generateRandomNonce()]
  const request = new URLSearchParams({
    client_id: client.client_id,
    response_type: 'code',
    redirect_uri: redirectUri,
    scope: 'openid traces:read',
    resource: TRACES,
    state,
    nonce,
    code_challenge: await oauth.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    ...options.parameters,
  })
  const dpop = options.DPoP === undefined ? {} : { DPoP: options.DPoP }
  const url = new URL(String(as.authorization_endpoint))
  if (options.pushed) {
    const response = await oauth.pushedAuthorizationRequest(as, client, authentication, request, {
      ...insecure,
      ...dpop,
    })
    const pushed = await oauth.processPushedAuthorizationResponse(as, client, response)
    url.search = String(new URLSearchParams({ client_id: client.client_id, request_uri: pushed.request_uri }))
  } else {
    url.search = String(request)
  }
  const { url: callback } = await walk(browser, world, url)
  const parameters = oauth.validateAuthResponse(as, client, callback, state)
  const response = await oauth.authorizationCodeGrantRequest(
    as,
    client,
    authentication,
    parameters,
    redirectUri,
    verifier,
    {
      ...insecure,
      ...dpop,
    },
  )
  const expected = { expectedNonce: nonce, requireIdToken: true }
  const tokens = await oauth.processAuthorizationCodeResponse(as, client, response, expected)
  await oauth.validateApplicationLevelSignature(as, response, insecure)
  return tokens
}

/** The API's side: RFC 9068 and, where the token is bound to a key, RFC 9449. */
function atApi(request: Request) {
  return oauth.validateJwtAccessToken(as, request, TRACES, insecure)
}

const bearer = (token: string) => new Request(`${TRACES}/traces`, { headers: { authorization: `Bearer ${token}` } })

async function introspect(token: string) {
  const response = await oauth.introspectionRequest(as, api.client, api.authentication, token, insecure)
  return oauth.processIntrospectionResponse(as, api.client, response)
}

async function makeParty(kind: 'secret' | 'key' | 'public'): Promise<Party> {
  if (kind === 'secret') {
    const client = await makeClient(server)
    const authentication = oauth.ClientSecretBasic(String(client.secret))
    return { client: { client_id: client.id }, authentication, redirectUri: client.redirectUri }
  }
  if (kind === 'key') {
    const keys = await generateKeyPair('RS256')
    const jwk = { ...(await exportJWK(keys.publicKey)), alg: 'RS256', kid: 'one' }
    const client = await makeClient(server, { auth: 'private_key_jwt', jwks: { keys: [jwk] } })
    const authentication = oauth.PrivateKeyJwt({ key: keys.privateKey, kid: 'one' })
    return { client: { client_id: client.id }, authentication, redirectUri: client.redirectUri }
  }
  const client = await makeClient(server, { auth: 'none', redirect_uris: ['http://127.0.0.1/callback'] })
  return {
    client: { client_id: client.id },
    authentication: oauth.None(),
    redirectUri: 'http://127.0.0.1:9876/callback',
  }
}

describe.each(['secret', 'key', 'public'] as const)('oauth4webapi as a client with %s', (kind) => {
  it('connects with PAR, refreshes, and the API takes the token until it is revoked', async () => {
    const party = await makeParty(kind)
    const { client, authentication } = party
    const tokens = await connect(party, { pushed: true })
    expect(oauth.getValidatedIdTokenClaims(tokens)).toMatchObject({ sub: world.userId, aud: client.client_id })
    expect(await atApi(bearer(tokens.access_token))).toMatchObject({ sub: world.userId, scope: 'traces:read' })

    const renewal = await oauth.refreshTokenGrantRequest(
      as,
      client,
      authentication,
      String(tokens.refresh_token),
      insecure,
    )
    const refreshed = await oauth.processRefreshTokenResponse(as, client, renewal)
    expect(await introspect(refreshed.access_token)).toMatchObject({ active: true, client_id: client.client_id })

    const revocation = await oauth.revocationRequest(as, client, authentication, refreshed.access_token, insecure)
    await expect(oauth.processRevocationResponse(revocation)).resolves.toBeUndefined()
    expect(await introspect(refreshed.access_token)).toEqual({ active: false })
    expect(await introspect(tokens.access_token)).toMatchObject({ active: true }) // only the one that was named
  })
})

describe('oauth4webapi', () => {
  it('binds a token to its key: the API refuses it with another (DPoP)', async () => {
    const party = await makeParty('public')
    const keyPair = await oauth.generateKeyPair('ES256')
    const tokens = await connect(party, { DPoP: oauth.DPoP(party.client, keyPair) })
    expect(tokens.token_type).toBe('dpop')
    const called: Request[] = []
    const keep = async (url: string, { method, headers }: { method: string; headers: Record<string, string> }) => {
      called.push(new Request(url, { method, headers }))
      return new Response()
    }
    const url = new URL(`${TRACES}/traces`)
    const call = (pair: CryptoKeyPair) =>
      oauth.protectedResourceRequest(tokens.access_token, 'GET', url, undefined, null, {
        DPoP: oauth.DPoP(party.client, pair),
        [oauth.customFetch]: keep,
      })
    await call(keyPair)
    await call(await oauth.generateKeyPair('ES256'))
    const [honest, stolen] = called
    if (honest === undefined || stolen === undefined) throw new Error('the API was not called')
    expect(await atApi(honest)).toMatchObject({ sub: world.userId, cnf: { jkt: expect.any(String) } })
    await expect(atApi(stolen)).rejects.toThrow(oauth.OperationProcessingError)
    await expect(atApi(bearer(tokens.access_token))).rejects.toThrow(oauth.OperationProcessingError)
  })

  it('asks userinfo with the scopes of a person, and gets those claims', async () => {
    const party = await makeParty('secret')
    const tokens = await connect(party, { parameters: { scope: 'openid email', resource: '' } })
    const response = await oauth.userInfoRequest(as, party.client, tokens.access_token, insecure)
    const claims = await oauth.processUserInfoResponse(as, party.client, world.userId, response)
    expect(claims).toEqual({ sub: world.userId, email: world.email, email_verified: false })
  })

  it('takes a token by client credentials, and the API sees the client as its subject', async () => {
    const registered = await makeClient(server, { redirect_uris: [], grant_types: ['client_credentials'] })
    await server.run('client grant', {
      client: registered.id,
      workspace: world.workspaceId,
      resource: TRACES,
      scopes: [],
    })
    const client = { client_id: registered.id }
    const authentication = oauth.ClientSecretBasic(String(registered.secret))
    const parameters = { resource: TRACES, scope: 'traces:read' }
    const response = await oauth.clientCredentialsGrantRequest(as, client, authentication, parameters, insecure)
    const tokens = await oauth.processClientCredentialsResponse(as, client, response)
    expect(await atApi(bearer(tokens.access_token))).toMatchObject({ sub: registered.id, scope: 'traces:read' })
  })

  it('finds the authorization server of our own API by its metadata (RFC 9728)', async () => {
    const resource = new URL(`${server.origin}/api`)
    const response = await oauth.resourceDiscoveryRequest(resource, insecure)
    const metadata = await oauth.processResourceDiscoveryResponse(resource, response)
    expect(metadata).toMatchObject({ resource: `${server.origin}/api`, authorization_servers: [server.origin] })
  })
})

// openid-client 6, unmodified, as a plugin or integration uses it; jose as the API behind it.
import { createRemoteJWKSet, exportJWK, generateKeyPair, jwtVerify } from 'jose'
import * as openid from 'openid-client'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { API, makeClient, makeWorld, type TestClient, type World, walk } from '../support/world.ts'

const SIGNED_OUT = 'https://app.example.com/signed-out'
const TRACES = 'https://traces.example.com'

let server: TestServer
let world: World
let api: openid.Configuration
/** One browser, signed in once. */
let browser: UserAgent

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  const resource = await server.run('resource create', {
    identifier: TRACES,
    environments: ['production'],
    scopes: [{ name: 'traces:read', sentence: 'See traces', least_role: 'member' }],
  })
  api = await discover(String(resource.client_id), openid.ClientSecretBasic(resource.client_secret))
})
afterAll(() => server?.close())

function discover(id: string, authentication: openid.ClientAuth): Promise<openid.Configuration> {
  const execute = [openid.allowInsecureRequests] // the test's issuer is http
  return openid.discovery(new URL(server.origin), id, undefined, authentication, { execute })
}

/** Code and PKCE, with state, nonce and iss checked by the library. */
async function connect(
  config: openid.Configuration,
  redirectUri: string,
  options: { pushed?: boolean; dpop?: openid.DPoPHandle; agent?: UserAgent } = {},
) {
  const pkceCodeVerifier = openid.randomPKCECodeVerifier()
  const [expectedState, expectedNonce] = [openid.randomState(), openid.randomNonce()]
  const parameters = {
    redirect_uri: redirectUri,
    scope: 'openid email traces:read',
    resource: TRACES,
    state: expectedState,
    nonce: expectedNonce,
    code_challenge: await openid.calculatePKCECodeChallenge(pkceCodeVerifier),
    code_challenge_method: 'S256',
  }
  const dpop = options.dpop === undefined ? undefined : { DPoP: options.dpop }
  const url = options.pushed
    ? await openid.buildAuthorizationUrlWithPAR(config, parameters, dpop)
    : openid.buildAuthorizationUrl(config, parameters)
  const { url: callback } = await walk(options.agent ?? browser, world, url)
  const checks = { pkceCodeVerifier, expectedState, expectedNonce, idTokenExpected: true }
  return openid.authorizationCodeGrant(config, callback, checks, undefined, dpop)
}

/** The API: verifies with the published keys, and nothing else of ours. */
async function atApi(accessToken: string) {
  const keys = createRemoteJWKSet(new URL(`${server.origin}/jwks`))
  const { payload } = await jwtVerify(accessToken, keys, { issuer: server.origin, audience: TRACES, typ: 'at+jwt' })
  return payload
}

interface Kind {
  name: string
  redirectUri: string
  auth: (client: TestClient) => openid.ClientAuth
  registration: Record<string, unknown>
}

const keys = await generateKeyPair('ES256')

const KINDS: Kind[] = [
  {
    name: 'a confidential client with client_secret_basic and an https redirect',
    redirectUri: 'https://app.example.com/callback',
    auth: (client) => openid.ClientSecretBasic(client.secret),
    registration: {},
  },
  {
    name: 'a confidential client with client_secret_post',
    redirectUri: 'https://app.example.com/callback',
    auth: (client) => openid.ClientSecretPost(client.secret),
    registration: { auth: 'client_secret_post' },
  },
  {
    name: 'a confidential client with private_key_jwt',
    redirectUri: 'https://app.example.com/callback',
    auth: () => openid.PrivateKeyJwt(keys.privateKey),
    registration: { auth: 'private_key_jwt', jwks: { keys: [{ ...(await exportJWK(keys.publicKey)), alg: 'ES256' }] } },
  },
  {
    name: 'a public client on a loopback port of its own',
    redirectUri: 'http://127.0.0.1:53682/callback',
    auth: () => openid.None(),
    registration: { auth: 'none', redirect_uris: ['http://127.0.0.1/callback'] },
  },
  {
    name: 'a public client on localhost',
    redirectUri: 'http://localhost:41999/callback',
    auth: () => openid.None(),
    registration: { auth: 'none', redirect_uris: ['http://localhost/callback'] },
  },
  {
    name: 'a public client with a scheme of its own',
    redirectUri: 'com.example.app:/callback',
    auth: () => openid.None(),
    registration: { auth: 'none', redirect_uris: ['com.example.app:/callback'] },
  },
]

describe.each(KINDS)('openid-client as $name', ({ redirectUri, auth, registration }) => {
  let config: openid.Configuration
  beforeAll(async () => {
    const client = await makeClient(server, { redirect_uris: [redirectUri], ...registration })
    config = await discover(client.id, auth(client))
  })

  it('connects, refreshes, calls the API, and what it revokes is dead', async () => {
    const tokens = await connect(config, redirectUri)
    expect(tokens.claims()).toMatchObject({ sub: world.userId, email: world.email })
    expect(await atApi(tokens.access_token)).toMatchObject({
      sub: world.userId,
      scope: 'traces:read',
      workspace_id: world.workspaceId,
    })
    const refreshed = await openid.refreshTokenGrant(config, String(tokens.refresh_token))
    expect(await atApi(refreshed.access_token)).toMatchObject({ scope: 'traces:read', token_version: 'v1' })

    expect(await openid.tokenIntrospection(api, refreshed.access_token)).toMatchObject({ active: true, aud: TRACES })
    await openid.tokenRevocation(config, String(refreshed.refresh_token))
    expect(await openid.tokenIntrospection(api, refreshed.access_token)).toEqual({ active: false })
    const again = openid.refreshTokenGrant(config, String(refreshed.refresh_token))
    await expect(again).rejects.toMatchObject({ error: 'invalid_grant', status: 400 })
  })

  it('pushes its request (PAR)', async () => {
    const tokens = await connect(config, redirectUri, { pushed: true })
    expect(await atApi(tokens.access_token)).toMatchObject({ workspace_id: world.workspaceId })
  })
})

describe('openid-client', () => {
  let client: TestClient
  let config: openid.Configuration
  beforeAll(async () => {
    client = await makeClient(server, { post_logout_redirect_uris: [SIGNED_OUT] })
    config = await discover(client.id, openid.ClientSecretBasic(client.secret))
  })

  it('reads what a person shares at the userinfo endpoint, without an API', async () => {
    const more = { scope: 'openid profile email' }
    const url = openid.buildAuthorizationUrl(config, {
      redirect_uri: client.redirectUri,
      ...more,
      code_challenge: await openid.calculatePKCECodeChallenge('v'.repeat(43)),
      code_challenge_method: 'S256',
    })
    const { url: callback } = await walk(browser, world, url)
    const tokens = await openid.authorizationCodeGrant(config, callback, { pkceCodeVerifier: 'v'.repeat(43) })
    expect(tokens.access_token).toMatch(/^lk_at_/)
    expect(await openid.fetchUserInfo(config, tokens.access_token, world.userId)).toEqual({
      sub: world.userId,
      name: 'Ada',
      preferred_username: world.email,
      email: world.email,
      email_verified: false,
    })
  })

  it('binds its tokens to a key (DPoP), at PAR, at the token endpoint, at refresh and at the API', async () => {
    const dpop = openid.getDPoPHandle(config, await openid.randomDPoPKeyPair('ES256'))
    const tokens = await connect(config, client.redirectUri, { pushed: true, dpop })
    expect(tokens.token_type).toBe('dpop')
    const { cnf } = await atApi(tokens.access_token)
    expect(cnf).toEqual({ jkt: expect.stringMatching(/^[\w-]{43}$/) })

    const refreshed = await openid.refreshTokenGrant(config, String(tokens.refresh_token), undefined, { DPoP: dpop })
    expect((await atApi(refreshed.access_token)).cnf).toEqual(cnf)
    expect(await openid.tokenIntrospection(api, refreshed.access_token)).toMatchObject({ token_type: 'DPoP', cnf })
  })

  it('keeps a public client’s refresh token of no use to who has not the key', async () => {
    const redirectUri = 'http://127.0.0.1/callback'
    const native = await makeClient(server, { auth: 'none', redirect_uris: [redirectUri] })
    const nativeConfig = await discover(native.id, openid.None())
    const DPoP = openid.getDPoPHandle(nativeConfig, await openid.randomDPoPKeyPair('ES256'))
    const tokens = await connect(nativeConfig, redirectUri, { dpop: DPoP })
    const stranger = openid.getDPoPHandle(nativeConfig, await openid.randomDPoPKeyPair('ES256'))
    const token = String(tokens.refresh_token)
    await expect(openid.refreshTokenGrant(nativeConfig, token)).rejects.toMatchObject({ status: 400 })
    const stolen = openid.refreshTokenGrant(nativeConfig, token, undefined, { DPoP: stranger })
    await expect(stolen).rejects.toMatchObject({ status: 400 })
    const honest = await openid.refreshTokenGrant(nativeConfig, token, undefined, { DPoP })
    expect(honest.refresh_token).toMatch(/^lk_rt_/)
  })

  it('takes a token for a workspace that an admin granted it (client credentials)', async () => {
    const machine = await makeClient(server, { redirect_uris: [], grant_types: ['client_credentials'] })
    await server.run('client grant', {
      client: machine.id,
      workspace: world.workspaceId,
      resource: TRACES,
      scopes: ['traces:read'],
    })
    const machineConfig = await discover(machine.id, openid.ClientSecretBasic(machine.secret))
    const { access_token } = await openid.clientCredentialsGrant(machineConfig, { resource: TRACES })
    expect(await atApi(access_token)).toMatchObject({ sub: machine.id, workspace_id: world.workspaceId })
    const answer = await openid.tokenIntrospection(api, access_token)
    expect(answer).toMatchObject({ active: true, sub: machine.id, client_id: machine.id })
    await openid.tokenRevocation(machineConfig, access_token)
    expect(await openid.tokenIntrospection(api, access_token)).toEqual({ active: false })
  })

  it('signs a person out, and takes them to the address it registered', async () => {
    const agent = server.userAgent()
    const tokens = await connect(config, client.redirectUri, { agent })
    const url = openid.buildEndSessionUrl(config, {
      id_token_hint: String(tokens.id_token),
      post_logout_redirect_uri: SIGNED_OUT,
      state: 'done',
    })
    const page = await agent.open(url)
    expect(page.html).toContain('Sign out?')
    const { url: end } = await agent.submit(page, '/logout/confirm', { logout: 'yes' })
    expect(end.href).toBe(`${SIGNED_OUT}?state=done`)
    const next = await agent.open(openid.buildAuthorizationUrl(config, { prompt: 'none', ...(await authorization()) }))
    expect(next.url.searchParams.get('error')).toBe('login_required')
    expect(await openid.refreshTokenGrant(config, String(tokens.refresh_token))).toMatchObject({
      scope: expect.any(String),
    })
  })

  async function authorization() {
    return {
      redirect_uri: client.redirectUri,
      scope: 'openid',
      resource: API,
      code_challenge: await openid.calculatePKCECodeChallenge('v'.repeat(43)),
      code_challenge_method: 'S256',
    }
  }
})

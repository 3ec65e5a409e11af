// simple-oauth2 5, unmodified: an older library that knows no discovery, no PKCE and no resource indicators.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { AuthorizationCode, ClientCredentials } from 'simple-oauth2'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { API, makeClient, makePkce, makeWorld, type TestClient, type World, walk } from '../support/world.ts'

let server: TestServer
let world: World
let browser: UserAgent

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
})
afterAll(() => server?.close())

function configure(client: TestClient, authorizationMethod: 'header' | 'body' = 'header') {
  return {
    client: { id: client.id, secret: String(client.secret) },
    auth: { tokenHost: server.origin, tokenPath: '/token', revokePath: '/revoke' },
    options: { authorizationMethod },
  }
}

function flow(client: TestClient, authorizationMethod?: 'header' | 'body'): AuthorizationCode {
  const { auth, ...rest } = configure(client, authorizationMethod)
  return new AuthorizationCode({ ...rest, auth: { ...auth, authorizePath: '/authorize' } })
}

async function atApi(accessToken: string) {
  const keys = createRemoteJWKSet(new URL(`${server.origin}/jwks`))
  return (await jwtVerify(accessToken, keys, { issuer: server.origin, audience: API, typ: 'at+jwt' })).payload
}

async function codeFor(oauth: AuthorizationCode, client: TestClient, more: Record<string, string> = {}) {
  const url = oauth.authorizeURL({ redirect_uri: client.redirectUri, scope: 'traces:read', state: 'abc', ...more })
  const { url: callback } = await walk(browser, world, url)
  expect(callback.href.split('?')[0]).toBe(client.redirectUri)
  return String(callback.searchParams.get('code'))
}

describe('simple-oauth2', () => {
  it.each([
    { auth: 'client_secret_basic', method: 'header' },
    { auth: 'client_secret_post', method: 'body' },
  ] as const)('connects without PKCE as a client excused from it ($auth): token, refresh, revokeAll', async (kind) => {
    const client = await makeClient(server, { pkce: false, resource: API, auth: kind.auth })
    const oauth = flow(client, kind.method)
    const code = await codeFor(oauth, client)
    const first = await oauth.getToken({ code, redirect_uri: client.redirectUri })
    expect(first.expired()).toBe(false)
    expect(await atApi(first.token.access_token)).toMatchObject({ sub: world.userId, scope: 'traces:read' })

    const second = await first.refresh()
    expect(second.token.refresh_token).toMatch(/^lk_rt_/)
    expect(await atApi(second.token.access_token)).toMatchObject({ workspace_id: world.workspaceId })

    await second.revokeAll()
    await expect(second.refresh()).rejects.toMatchObject({ output: { statusCode: 400 } })
  })

  it('connects with PKCE that its caller brings along, from a loopback redirect', async () => {
    const redirectUri = 'http://127.0.0.1:8400/done'
    const client = await makeClient(server, { resource: API, redirect_uris: [redirectUri] })
    const oauth = flow(client)
    const { verifier, challenge } = makePkce()
    const code = await codeFor(oauth, client, { code_challenge: challenge, code_challenge_method: 'S256' })
    const { token } = await oauth.getToken({ code, redirect_uri: redirectUri, code_verifier: verifier })
    expect(await atApi(token.access_token)).toMatchObject({ client_id: client.id })
  })

  it('gets no code without PKCE when nobody excused it', async () => {
    const client = await makeClient(server, { resource: API })
    const url = flow(client).authorizeURL({ redirect_uri: client.redirectUri, scope: 'traces:read', state: 'abc' })
    const { url: callback } = await walk(browser, world, url)
    expect(callback.searchParams.get('error')).toBe('invalid_request')
    expect(callback.searchParams.get('code')).toBeNull()
  })

  it('takes a token by client credentials, and revokes it', async () => {
    const client = await makeClient(server, { redirect_uris: [], grant_types: ['client_credentials'], resource: API })
    await server.run('client grant', { client: client.id, workspace: world.workspaceId, resource: API, scopes: [] })
    const oauth = new ClientCredentials(configure(client))
    const issued = await oauth.getToken({ scope: 'traces:read' })
    expect(await atApi(issued.token.access_token)).toMatchObject({ sub: client.id, scope: 'traces:read' })
    await expect(issued.revoke('access_token')).resolves.toEqual({})
  })
})

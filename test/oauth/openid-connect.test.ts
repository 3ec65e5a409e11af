// OpenID Connect, after the modules of the Foundation's conformance suite that fit (oidcc-*), and RP-initiated logout.
import { createLocalJWKSet, decodeJwt, type JSONWebKeySet, jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { Page, UserAgent } from '../support/user-agent.ts'
import {
  approve,
  connect,
  makeClient,
  makeWorld,
  post,
  redeem,
  refresh,
  signIn,
  type TestClient,
  type World,
} from '../support/world.ts'
import { answerOf, ask, type Changes, headingOf, PKCE, parametersOf } from './asking.ts'

const SIGNED_OUT = 'https://app.example.com/signed-out'
/** As plain as the suite asks: no API. */
const PLAIN: Changes = { resource: undefined, scope: 'openid' }

let server: TestServer
let world: World
let browser: UserAgent
let client: TestClient

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  client = await makeClient(server, { post_logout_redirect_uris: [SIGNED_OUT, 'https://app.example.com/other'] })
  const page = await signIn(
    browser,
    await ask(browser, client, { ...PLAIN, scope: 'openid profile email' }),
    world.email,
  )
  expect(answerOf(await approve(browser, page, world.workspaceId))).toHaveProperty('code')
})
afterAll(() => server?.close())

interface Tokens {
  access_token: string
  refresh_token: string
  id_token: string
}

/** Goes on from a page that may still ask, to the tokens. */
async function tokensOf(page: Page, of = client): Promise<Tokens> {
  const { status, body } = await redeem(server.origin, of, String(answerOf(page).code), PKCE)
  expect(status).toBe(200)
  return body as Tokens // a grant with openid and refresh_token answers with all three
}
const tokensFor = async (changes: Changes) => tokensOf(await ask(browser, client, { ...PLAIN, ...changes }))

async function userinfo(token: string): Promise<unknown> {
  const response = await fetch(`${server.origin}/userinfo`, { headers: { authorization: `Bearer ${token}` } })
  expect(response.status).toBe(200)
  return response.json()
}

describe('the id_token', () => {
  it('is RS256, verifies with the published keys, and has the members of OpenID Connect Core §2', async () => {
    const { id_token } = await tokensFor({ nonce: 'n-0S6_WzA2Mj' })
    const keys = createLocalJWKSet((await (await fetch(`${server.origin}/jwks`)).json()) as JSONWebKeySet) // RFC 7517
    const options = { issuer: server.origin, audience: client.id, algorithms: ['RS256'] }
    const { payload } = await jwtVerify(id_token, keys, options)
    const now = Date.now() / 1000
    expect(payload).toMatchObject({ sub: world.userId, nonce: 'n-0S6_WzA2Mj' })
    expect(Number(payload.exp)).toBeGreaterThan(now)
    expect(Math.abs(Number(payload.iat) - now)).toBeLessThan(20)
  })

  it('has no nonce when none was sent, and keeps a long one', async () => {
    expect(decodeJwt((await tokensFor({})).id_token)).not.toHaveProperty('nonce')
    const nonce = 'n'.repeat(256)
    expect(decodeJwt((await tokensFor({ nonce })).id_token)).toMatchObject({ nonce })
  })

  it('comes again at a refresh, for the same person', async () => {
    const { refresh_token } = await tokensFor({})
    const { status, body } = await refresh(server.origin, client, refresh_token)
    expect(status).toBe(200)
    expect(decodeJwt(String(body.id_token))).toMatchObject({ sub: world.userId, aud: client.id, iss: server.origin })
  })
})

describe('userinfo', () => {
  it.each([
    ['openid', {}],
    ['openid profile', { name: 'Ada', preferred_username: 'EMAIL' }],
    ['openid email', { email: 'EMAIL', email_verified: false }],
    ['openid profile email', { name: 'Ada', preferred_username: 'EMAIL', email: 'EMAIL', email_verified: false }],
    [
      'openid profile email address phone',
      { name: 'Ada', preferred_username: 'EMAIL', email: 'EMAIL', email_verified: false },
    ],
  ])('shows what the scope %s names, and no more', async (scope, more) => {
    const { access_token } = await tokensFor({ scope })
    const expected = JSON.parse(JSON.stringify({ sub: world.userId, ...more }).replaceAll('EMAIL', world.email))
    expect(await userinfo(access_token)).toEqual(expected)
  })

  it('answers a GET and both kinds of POST alike', async () => {
    const { access_token } = await tokensFor({})
    const authorization = `Bearer ${access_token}`
    const url = `${server.origin}/userinfo`
    const answers = await Promise.all([
      fetch(url, { headers: { authorization } }),
      fetch(url, { method: 'POST', headers: { authorization } }),
      fetch(url, { method: 'POST', body: new URLSearchParams({ access_token }) }),
    ])
    const bodies = await Promise.all(answers.map((answer) => answer.json()))
    expect(bodies).toEqual(Array(3).fill({ sub: world.userId }))
  })
})

describe('an authorization request', () => {
  it.each<[string, Changes]>([
    ['an unknown parameter', { extra: 'foobar', 'a[b]': '1' }],
    ['display=page', { display: 'page' }],
    ['display=popup', { display: 'popup' }],
    ['ui_locales', { ui_locales: 'se de' }],
    ['claims_locales', { claims_locales: 'se' }],
    ['acr_values', { acr_values: '1 2' }],
    ['login_hint', { login_hint: 'someone@example.com' }],
    ['no state', { state: undefined }],
    ['a state of 2,000 characters', { state: 's'.repeat(2_000) }],
    ['scopes in another order', { scope: 'email openid' }],
    ['a scope twice', { scope: 'openid openid' }],
    ['response_mode=query', { response_mode: 'query' }],
    ['max_age=10000', { max_age: '10000' }],
  ])('with %s succeeds', async (_name, changes) => {
    const answer = answerOf(await ask(browser, client, { ...PLAIN, ...changes }))
    expect(answer).toMatchObject({ code: expect.stringMatching(/^[\w-]{43}$/), iss: server.origin })
    const state = 'state' in changes ? changes.state : 'st4te'
    expect(answer.state).toBe(state)
  })

  it('with response_mode=form_post is answered by a form that may lead to the client, and to nobody else', async () => {
    const page = await ask(browser, client, { ...PLAIN, response_mode: 'form_post' })
    expect(page.status).toBe(200)
    expect(page.html).toMatch(/<form[^>]+action="https:\/\/app\.example\.com\/callback"/)
    expect(page.html).toMatch(/name="code"/)
    expect(page.headers.get('content-security-policy')).toContain("form-action 'self' https://app.example.com;")
    expect(page.headers.get('cache-control')).toContain('no-store')
  })

  it('with response_mode=fragment answers in the fragment', async () => {
    const { url } = await ask(browser, client, { ...PLAIN, response_mode: 'fragment' })
    const answer = Object.fromEntries(new URLSearchParams(url.hash.slice(1)))
    expect(answer).toMatchObject({ code: expect.any(String), iss: server.origin, state: 'st4te' })
    expect(url.search).toBe('')
  })

  it('with a login_hint finds the address filled in, as text', async () => {
    const login_hint = '"><script>alert(1)</script>@example.com'
    const page = await ask(server.userAgent(), client, { ...PLAIN, login_hint })
    expect(page.html).toContain('value="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;@example.com"')
    expect(page.html).not.toContain('<script>')
  })

  it('with prompt=login asks for the password again, and the new time of sign-in is told', async () => {
    const before = decodeJwt((await tokensFor({ max_age: '10000' })).id_token)
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    const page = await ask(browser, client, { ...PLAIN, prompt: 'login', max_age: '10000' })
    expect(headingOf(page)).toBe('Sign in')
    const after = decodeJwt((await tokensOf(await signIn(browser, page, world.email))).id_token)
    expect(after.sub).toBe(before.sub)
    expect(Number(after.auth_time)).toBeGreaterThan(Number(before.auth_time))
  })

  it('with max_age=1 asks again once a second is over, and with a longer one keeps the time of sign-in', async () => {
    const [first, second] = [await tokensFor({ max_age: '15000' }), await tokensFor({ max_age: '10000' })]
    expect(decodeJwt(second.id_token).auth_time).toBe(decodeJwt(first.id_token).auth_time)
    await new Promise((resolve) => setTimeout(resolve, 2_100))
    const page = await ask(browser, client, { ...PLAIN, max_age: '1' })
    expect(headingOf(page)).toBe('Sign in')
    const silent = answerOf(await ask(browser, client, { ...PLAIN, max_age: '1', prompt: 'none' }))
    expect(silent).toMatchObject({ error: 'login_required' })
  })

  it('with an id_token_hint and prompt=none succeeds for that person', async () => {
    const { id_token } = await tokensFor({})
    const page = await ask(browser, client, { ...PLAIN, id_token_hint: id_token, prompt: 'none' })
    expect(decodeJwt((await tokensOf(page)).id_token).sub).toBe(world.userId)
  })

  it('with prompt=none and nobody signed in is login_required', async () => {
    const answer = answerOf(await ask(server.userAgent(), client, { ...PLAIN, prompt: 'none' }))
    expect(answer).toMatchObject({ error: 'login_required', state: 'st4te', iss: server.origin })
  })

  it('with prompt=consent shows the page although all is approved', async () => {
    expect(headingOf(await ask(browser, client, { ...PLAIN, prompt: 'consent' }))).toBe('Connect Tracepad?')
  })

  it('whose code is used twice gets nothing the second time, and what the first got is dead', async () => {
    const own = await makeClient(server)
    const page = await approve(browser, await ask(browser, own, PLAIN), world.workspaceId)
    const { access_token } = await tokensOf(page, own)
    const second = await redeem(server.origin, own, String(answerOf(page).code), PKCE)
    expect(second).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    const response = await fetch(`${server.origin}/userinfo`, { headers: { authorization: `Bearer ${access_token}` } })
    expect(response.status).toBe(401)
  })

  it('of a person who says no is access_denied', async () => {
    const page = await ask(browser, client, { ...PLAIN, prompt: 'consent' })
    const answer = answerOf(await browser.submit(page, '/consent', { answer: 'deny' }))
    expect(answer).toMatchObject({ error: 'access_denied', state: 'st4te', iss: server.origin })
    expect(answer).not.toHaveProperty('code')
  })
})

it('client_secret_post is taken at the token endpoint', async () => {
  const posting = await makeClient(server, { auth: 'client_secret_post' })
  const page = await approve(browser, await ask(browser, posting, PLAIN), world.workspaceId)
  const response = await fetch(`${server.origin}/token`, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'authorization_code',
      code: String(answerOf(page).code),
      redirect_uri: posting.redirectUri,
      code_verifier: PKCE.verifier,
      client_id: posting.id,
      client_secret: String(posting.secret),
    }),
  })
  expect(response.status).toBe(200)
  expect(response.headers.get('cache-control')).toContain('no-store')
})

describe('RP-initiated logout', () => {
  const signedIn = async (): Promise<{ agent: UserAgent; hint: string }> => {
    const agent = server.userAgent()
    const own = await makeWorld(server) // a person of their own: sign-ins are counted
    const { id_token } = await connect(server, own, { agent, client })
    return { agent, hint: String(id_token) }
  }
  const logout = (agent: UserAgent, parameters: Record<string, string>) =>
    agent.open(`/logout?${new URLSearchParams(parameters)}`)
  const isSignedIn = async (agent: UserAgent) =>
    !headingOf(await ask(agent, client, { prompt: 'login consent', ...PLAIN })).includes('Sign in') ||
    !('error' in answerOf(await ask(agent, client, { ...PLAIN, prompt: 'none', max_age: '10000' })))

  it('asks, ends the session, and goes to the registered address with the state', async () => {
    const { agent, hint } = await signedIn()
    const page = await logout(agent, { id_token_hint: hint, post_logout_redirect_uri: SIGNED_OUT, state: 'x y&z' })
    expect(headingOf(page)).toBe('Sign out?')
    const end = await agent.submit(page, '/logout/confirm', { logout: 'yes' })
    expect(end.url.href).toBe(`${SIGNED_OUT}?state=x+y%26z`)
    expect(answerOf(await ask(agent, client, { ...PLAIN, prompt: 'none' }))).toMatchObject({ error: 'login_required' })
  })

  it('without a state adds none; without an address stays here', async () => {
    const first = await signedIn()
    const page = await logout(first.agent, { id_token_hint: first.hint, post_logout_redirect_uri: SIGNED_OUT })
    expect((await first.agent.submit(page, '/logout/confirm', { logout: 'yes' })).url.href).toBe(SIGNED_OUT)
    const second = await signedIn()
    const stay = await logout(second.agent, { id_token_hint: second.hint })
    const end = await second.agent.submit(stay, '/logout/confirm', { logout: 'yes' })
    expect([end.url.origin, headingOf(end)]).toEqual([server.origin, 'You are signed out'])
  })

  it.each<[string, Record<string, string>]>([
    ['no parameters', {}],
    ['only a state', { state: 'x' }],
    ['an address without a hint or client', { post_logout_redirect_uri: 'https://evil.example/' }],
  ])('with %s asks, and leads nowhere else', async (_name, parameters) => {
    const { agent } = await signedIn()
    const page = await logout(agent, parameters)
    expect(headingOf(page)).toBe('Sign out?')
    const end = await agent.submit(page, '/logout/confirm', { logout: 'yes' })
    expect(end.url.origin).toBe(server.origin)
  })

  it.each<[string, (hint: string) => Record<string, string>]>([
    ['an unregistered address', (hint) => ({ id_token_hint: hint, post_logout_redirect_uri: 'https://evil.example/' })],
    ['a query added', (hint) => ({ id_token_hint: hint, post_logout_redirect_uri: `${SIGNED_OUT}?x=1` })],
    ['a fragment added', (hint) => ({ id_token_hint: hint, post_logout_redirect_uri: `${SIGNED_OUT}#x` })],
    [
      'a modified hint',
      (hint) => ({ id_token_hint: `${hint.slice(0, -6)}AAAAAA`, post_logout_redirect_uri: SIGNED_OUT }),
    ],
    ['a hint that is unsigned', (hint) => ({ id_token_hint: `eyJhbGciOiJub25lIn0.${hint.split('.')[1]}.` })],
    ['a hint that is garbage', () => ({ id_token_hint: 'x', post_logout_redirect_uri: SIGNED_OUT })],
    ['the hint of one client and the id of another', (hint) => ({ id_token_hint: hint, client_id: world.client.id })],
    ['an unknown client', () => ({ client_id: 'nobody', post_logout_redirect_uri: SIGNED_OUT })],
  ])('with %s is an error page, and ends nothing', async (_name, parametersFor) => {
    const { id_token } = await tokensFor({})
    const page = await logout(browser, parametersFor(id_token))
    expect([400, 401]).toContain(page.status)
    expect(page.url.origin).toBe(server.origin)
    expect(page.headers.get('content-security-policy')).toContain("frame-ancestors 'none'")
    expect(answerOf(await ask(browser, client, { ...PLAIN, prompt: 'none' }))).toHaveProperty('code')
  })

  it('is not confirmed by another site, nor without the form’s token, nor twice', async () => {
    const { agent, hint } = await signedIn()
    const page = await logout(agent, { id_token_hint: hint, post_logout_redirect_uri: SIGNED_OUT })
    const xsrf = /name="xsrf" value="([^"]+)"/.exec(page.html)?.[1] ?? ''
    const confirm = (body: Record<string, string>, headers: Record<string, string>) =>
      agent.request('/logout/confirm', { method: 'POST', body: new URLSearchParams(body), headers })
    const foreign = await confirm(
      { xsrf, logout: 'yes' },
      { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' },
    )
    const without = await confirm({ logout: 'yes' }, {})
    const wrong = await confirm({ xsrf: 'x', logout: 'yes' }, {})
    expect([foreign, without, wrong].map(({ status }) => status)).toEqual([403, 400, 400])
    expect(await isSignedIn(agent)).toBe(true)
    expect((await confirm({ xsrf, logout: 'yes' }, { origin: server.origin })).status).toBe(303)
    expect((await confirm({ xsrf, logout: 'yes' }, { origin: server.origin })).status).toBe(400)
  })

  it('declined keeps the session', async () => {
    const { agent, hint } = await signedIn()
    const page = await logout(agent, { id_token_hint: hint })
    await agent.submit(page, '/logout/confirm', {})
    expect(answerOf(await ask(agent, client, { ...PLAIN, prompt: 'none' }))).not.toMatchObject({
      error: 'login_required',
    })
  })

  it('ends no connection: refresh tokens go on', async () => {
    const agent = server.userAgent()
    const tokens = await connect(server, world, { agent, client })
    const page = await logout(agent, { id_token_hint: String(tokens.id_token) })
    await agent.submit(page, '/logout/confirm', { logout: 'yes' })
    expect((await refresh(server.origin, client, tokens.refresh_token)).status).toBe(200)
    const token = String(tokens.access_token)
    expect((await post(server.origin, '/introspect', client, { token })).body).toMatchObject({ active: true })
  })

  it('may be posted by the client', async () => {
    const { id_token } = await tokensFor({})
    const page = await browser.open('/logout', {
      method: 'POST',
      body: new URLSearchParams({ id_token_hint: id_token }),
    })
    expect(headingOf(page)).toBe('Sign out?')
  })
})

describe('metadata', () => {
  it.each(['token', 'introspection', 'revocation'])(
    'names the algorithms of private_key_jwt at the %s endpoint, as it must (RFC 8414 §2)',
    async (endpoint) => {
      const { body } = await read('/.well-known/openid-configuration')
      expect(body[`${endpoint}_endpoint_auth_methods_supported`]).toContain('private_key_jwt')
      expect(body[`${endpoint}_endpoint_auth_signing_alg_values_supported`]).toContain('ES256')
    },
  )

  const read = async (path: string) => {
    const response = await fetch(server.origin + path)
    expect(response.status).toBe(200)
    return { body: (await response.json()) as Record<string, unknown>, headers: response.headers } // checked below
  }

  it('is what this version does, and nothing else (RFC 8414)', async () => {
    const { body, headers } = await read('/.well-known/openid-configuration')
    const endpoints = Object.entries(body).filter(([name]) => /_(endpoint|uri)$/.test(name))
    for (const [name, value] of endpoints)
      expect([name, String(value).startsWith(`${server.origin}/`)]).toEqual([name, true])
    expect(
      Object.fromEntries(endpoints.map(([name, value]) => [name, String(value).slice(server.origin.length)])),
    ).toEqual({
      authorization_endpoint: '/authorize',
      token_endpoint: '/token',
      userinfo_endpoint: '/userinfo',
      jwks_uri: '/jwks',
      introspection_endpoint: '/introspect',
      revocation_endpoint: '/revoke',
      pushed_authorization_request_endpoint: '/par',
      end_session_endpoint: '/logout',
    })
    const rest = Object.fromEntries(Object.entries(body).filter(([name]) => !/_(endpoint|uri)$/.test(name)))
    expect({ ...rest, issuer: rest.issuer === server.origin }).toMatchSnapshot()
    expect(headers.get('cache-control')).toBe('public, max-age=300')
    expect(headers.get('access-control-allow-origin')).toBe('*')
  })

  it('is the same at both addresses', async () => {
    const openid = await read('/.well-known/openid-configuration')
    expect((await read('/.well-known/oauth-authorization-server')).body).toEqual(openid.body)
  })

  it('publishes keys without their private members', async () => {
    const { body, headers } = await read('/jwks')
    const keys = body.keys as Array<Record<string, unknown>> // RFC 7517 §5
    expect(keys.map((key) => [key.kty, key.alg, key.use])).toEqual(
      expect.arrayContaining([
        ['EC', 'ES256', 'sig'],
        ['RSA', 'RS256', 'sig'],
      ]),
    )
    for (const key of keys) {
      for (const member of ['d', 'p', 'q', 'dp', 'dq', 'qi', 'k', 'oth']) expect(key).not.toHaveProperty(member)
      expect(key.kid).toEqual(expect.any(String))
    }
    expect(headers.get('content-type')).toMatch(/^application\/jwk-set\+json/)
  })

  it('of our own API names the API and this server (RFC 9728)', async () => {
    const { body } = await read('/.well-known/oauth-protected-resource/api')
    expect(body).toMatchObject({
      resource: `${server.origin}/api`,
      authorization_servers: [server.origin],
      scopes_supported: ['read', 'ingest', 'manage'],
      bearer_methods_supported: ['header'],
    })
  })

  it('takes no PKCE method but S256, and names the issuer in answers', async () => {
    const { body } = await read('/.well-known/openid-configuration')
    expect(body).toMatchObject({
      code_challenge_methods_supported: ['S256'],
      authorization_response_iss_parameter_supported: true,
      request_uri_parameter_supported: false,
      claims_parameter_supported: false,
    })
  })
})

it('parameters of a request are kept through sign-in and approval as they were', async () => {
  const agent = server.userAgent()
  const own = await makeClient(server)
  const state = 'ünïcödé & <b> "quotes" %25 +'
  const page = await signIn(
    agent,
    await agent.open(`/authorize?${parametersOf(own, { state, nonce: 'ü&' })}`),
    world.email,
  )
  const end = await approve(agent, page, world.workspaceId)
  expect(answerOf(end).state).toBe(state)
  expect(decodeJwt((await tokensOf(end, own)).id_token).nonce).toBe('ü&')
})

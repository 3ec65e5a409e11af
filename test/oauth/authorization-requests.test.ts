// Authorization requests that must not get a code: threats A, and what a client may ask for (RFC 6749 §3, 8707, 9126).
import { SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import {
  API,
  approve,
  connect,
  makeClient,
  makeWorld,
  PASSWORD,
  post,
  redeem,
  refresh,
  signIn,
  type TestClient,
  type World,
  walk,
} from '../support/world.ts'
import { answerOf, ask, type Changes, headingOf, PKCE, parametersOf } from './asking.ts'

const STAGING = 'https://staging.example.com'

let server: TestServer
let world: World
let browser: UserAgent
let native: TestClient

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  native = await makeClient(server, { auth: 'none', redirect_uris: ['http://127.0.0.1/cb', 'http://localhost/cb'] })
  await server.run('resource create', {
    identifier: STAGING,
    environments: ['staging'],
    scopes: [{ name: 'deploy', sentence: 'Deploy', least_role: 'member' }],
  })
  await connect(server, world, { agent: browser })
})
afterAll(() => server?.close())

/** A page of ours, with status 400 and no code anywhere; the browser goes nowhere. */
async function expectErrorPage(client: TestClient, changes: Changes): Promise<void> {
  const response = await browser.request(`/authorize?${parametersOf(client, changes)}`)
  expect(response.status).toBe(400)
  expect(response.headers.get('location')).toBeNull()
  expect(response.headers.get('content-security-policy')).toContain("frame-ancestors 'none'")
  expect(await response.text()).toMatch(/nothing was connected/i)
}

/** An error at the redirect URI, with iss and state, and no code. */
async function expectRefusal(client: TestClient, changes: Changes, error: string): Promise<void> {
  const page = await ask(browser, client, changes)
  expect(page.url.href.split(/[?#]/)[0]).toBe(client.redirectUri)
  // What was meant for the implicit flow is refused where that flow looks.
  const answer = Object.fromEntries(new URLSearchParams(page.url.search || page.url.hash.slice(1)))
  expect(answer).toMatchObject({ error, iss: server.origin, state: 'st4te' })
  expect(answer).not.toHaveProperty('code')
}

describe('a redirect URI that differs in anything gets an error page and no code', () => {
  it.each([
    'https://app.example.com/callback/../evil',
    'https://app.example.com/callback%2f..%2fevil',
    'https://app.example.com/callback/',
    'https://app.example.com/CALLBACK',
    'https://APP.example.com/callback',
    'https://app.example.com/callback?x=1',
    'https://app.example.com/callback?',
    'https://app.example.com/callback#f',
    'https://app.example.com:443/callback',
    'https://app.example.com:8443/callback',
    'https://app.example.com./callback',
    'https://app.example.com//callback',
    'https://аpp.example.com/callback',
    'https://xn--pp-6kc.example.com/callback',
    'https://app.example.com@evil.example/callback',
    'https://app.example.com%40evil.example/callback',
    'https://evil.example\\@app.example.com/callback',
    'https://app.example.com.evil.example/callback',
    'https://appXexample.com/callback',
    'https://sub.app.example.com/callback',
    'http://app.example.com/callback',
    ' https://app.example.com/callback',
    'https://app.example.com/callback\u0000',
    'https://app.example.com/callback\r\nX-Evil: 1',
    'HTTPS://app.example.com/callback',
    'javascript:alert(1)//https://app.example.com/callback',
    'app.example.com/callback',
    '/callback',
  ])('%j', async (redirect_uri) => {
    await expectErrorPage(world.client, { redirect_uri })
  })

  it('none at all, where the client has two', async () => {
    await expectErrorPage(native, { redirect_uri: undefined })
  })
})

describe('a loopback redirect', () => {
  it.each(['http://127.0.0.1:49152/cb', 'http://127.0.0.1/cb', 'http://localhost:3118/cb', 'http://localhost/cb'])(
    '%s is answered, at whatever port',
    async (redirect_uri) => {
      const page = await walk(browser, world, `/authorize?${parametersOf(native, { redirect_uri })}`)
      expect(page.url.href.split('?')[0]).toBe(redirect_uri)
      expect(answerOf(page)).toHaveProperty('code')
    },
  )

  it.each([
    'http://127.0.0.1.evil.example/cb',
    'http://127.0.0.1@evil.example/cb',
    'http://127.0.0.2:80/cb',
    'http://[::1]:80/cb',
    'https://127.0.0.1/cb',
    'http://localhost.evil.example/cb',
    'http://127.0.0.1:1/other',
    'http://127.0.0.1:1/cb?x=1',
    'http://2130706433/cb',
    'http://0x7f.1/cb',
  ])('%s is not', (redirect_uri) => expectErrorPage(native, { redirect_uri }))
})

describe('registration refuses a redirect URI', () => {
  it.each([
    ['plain http', 'http://app.example.com/cb'],
    ['with a wildcard', 'https://*.example.com/cb'],
    ['with a fragment', 'https://app.example.com/cb#x'],
    ['with a user', 'https://user@app.example.com/cb'],
    ['that a browser runs', 'javascript:alert(1)'],
    ['that is data', 'data:text/html,x'],
    ['with a scheme anyone may claim', 'myapp:/cb'],
    ['with a line break', 'https://app.example.com/cb\r\nx'],
    ['that is no URI', 'callback'],
  ])('%s', async (_name, uri) => {
    await expect(makeClient(server, { redirect_uris: [uri] })).rejects.toMatchObject({ code: 'invalid_request' })
  })

  it('and keeps what looks like a pattern as the text it is', async () => {
    const redirectUri = 'https://app.example.com/c.b[a]?x=(1)+'
    const client = await makeClient(server, { redirect_uris: [redirectUri] })
    await expectErrorPage(client, { redirect_uri: 'https://app.example.com/cxb[a]?x=(1)+' })
    const page = await walk(browser, world, `/authorize?${parametersOf(client)}`)
    expect(page.url.href.split('?')[0]).toBe('https://app.example.com/c.b[a]')
    expect(answerOf(page)).toMatchObject({ x: '(1) ', code: expect.any(String) })
  })
})

describe('a parameter given twice', () => {
  it.each(['client_id', 'redirect_uri', 'response_type', 'scope', 'state', 'code_challenge', 'workspace', 'nonce'])(
    '%s is refused, in the query and in the body',
    async (name) => {
      const first = parametersOf(world.client, { nonce: 'a', workspace: world.workspaceId }).get(name) ?? ''
      const twice = parametersOf(world.client, { [name]: [first, first] })
      const inQuery = await browser.open(`/authorize?${twice}`)
      expect(inQuery.html + inQuery.url.search).toContain('invalid_request')
      const once = parametersOf(world.client, { [name]: first })
      const split = await browser.open(`/authorize?${new URLSearchParams({ [name]: first })}`, {
        method: 'POST',
        body: once,
      })
      expect(split.html + split.url.search).toContain('invalid_request')
      expect([inQuery, split].map((page) => page.url.searchParams.get('code'))).toEqual([null, null])
    },
  )
})

describe('what is off in this version is refused, not ignored', () => {
  it.each<[string, Changes, string]>([
    ['response_type=token', { response_type: 'token' }, 'unsupported_response_type'],
    ['response_type=id_token', { response_type: 'id_token', nonce: 'n' }, 'unsupported_response_type'],
    ['response_type=code token', { response_type: 'code token' }, 'unsupported_response_type'],
    ['response_type=none', { response_type: 'none' }, 'unsupported_response_type'],
    ['no response_type', { response_type: undefined }, 'invalid_request'],
    ['response_mode=web_message', { response_mode: 'web_message' }, 'unsupported_response_mode'],
    ['response_mode=query.jwt', { response_mode: 'query.jwt' }, 'unsupported_response_mode'],
    ['request (JAR)', { request: 'eyJhbGciOiJub25lIn0.e30.' }, 'request_not_supported'],
    ['request_uri by reference', { request_uri: 'https://app.example.com/request' }, 'request_uri_not_supported'],
    ['registration', { registration: '{}' }, 'registration_not_supported'],
    ['no PKCE', { code_challenge: undefined, code_challenge_method: undefined }, 'invalid_request'],
    ['PKCE plain', { code_challenge_method: 'plain' }, 'invalid_request'],
    ['PKCE without its method', { code_challenge_method: undefined }, 'invalid_request'],
    ['a challenge that is none', { code_challenge: 'short' }, 'invalid_request'],
    ['prompt=none login', { prompt: 'none login' }, 'invalid_request'],
    ['an unknown prompt', { prompt: 'nonsense' }, 'invalid_request'],
    ['max_age=-1', { max_age: '-1' }, 'invalid_request'],
    ['a workspace that is no id', { workspace: 'platform-ai' }, 'invalid_request'],
    ['a workspace that is SQL', { workspace: "' or 1=1--" }, 'invalid_request'],
    ['a scope with a control character', { scope: 'openid\u0001' }, 'invalid_scope'],
  ])('%s', (_name, changes, error) => expectRefusal(world.client, changes, error))

  it.each([
    'urn:ietf:params:oauth:grant-type:device_code',
    'password',
    'implicit',
    'urn:openid:params:grant-type:ciba',
  ])('the grant %s', async (grant_type) => {
    const answer = await post(server.origin, '/token', world.client, { grant_type, device_code: 'x' })
    expect(answer).toMatchObject({ status: 400, body: { error: 'unsupported_grant_type' } })
  })
})

describe('an unknown client', () => {
  it.each([
    'nobody',
    '',
    '__proto__',
    'https://app.example.com/client.json',
    "' or 1=1--",
    '\u0000',
    'x'.repeat(3_000),
  ])('%j is sent nowhere', async (client_id) => {
    const response = await browser.request(`/authorize?${parametersOf(world.client, { client_id })}`)
    expect([400, 401]).toContain(response.status)
    expect(response.headers.get('location')).toBeNull()
  })
})

describe('an error answer', () => {
  it('keeps a state as it was, whatever is in it', async () => {
    const state = '"><script>alert(1)</script>\r\n&code=x 😀'
    const response = await browser.request(`/authorize?${parametersOf(world.client, { state, prompt: 'nonsense' })}`)
    const location = response.headers.get('location') ?? ''
    expect(location).toMatch(/^https:\/\/app\.example\.com\/callback\?[\x21-\x7e]+$/)
    const answer = new URL(location).searchParams
    expect(answer.getAll('code')).toEqual([])
    expect(answer.get('state')).toBe(state.toWellFormed())
  })
})

describe('every redirect after a form is 303, so that no password is sent on', () => {
  it('at sign-in, at consent, and back to the client', async () => {
    const agent = server.userAgent()
    const client = await makeClient(server)
    const start = await agent.request(`/authorize?${parametersOf(client)}`)
    const signInPage = await agent.open(start.headers.get('location') ?? '')
    const csrf = (html: string) => /name="csrf" value="([^"]+)"/.exec(html)?.[1] ?? ''
    const signedIn = await agent.request(`${signInPage.url.pathname}/sign-in`, {
      method: 'POST',
      body: new URLSearchParams({ email: world.email, password: PASSWORD, csrf: csrf(signInPage.html) }),
    })
    const consentPage = await agent.open(signedIn.headers.get('location') ?? '')
    const approved = await agent.request(`${consentPage.url.pathname}/consent`, {
      method: 'POST',
      body: new URLSearchParams({
        csrf: csrf(consentPage.html),
        shown: /name="shown" value="([^"]+)"/.exec(consentPage.html)?.[1] ?? '',
        workspace: world.workspaceId,
        answer: 'approve',
      }),
    })
    const back = await agent.request(approved.headers.get('location') ?? '')
    expect([start, signedIn, approved, back].map((response) => response.status)).toEqual([303, 303, 303, 303])
    expect(back.headers.get('location')).toMatch(/^https:\/\/app\.example\.com\/callback\?code=/)
  })
})

describe('a hint that is not this person’s', () => {
  it.each(['expired', 'unsigned', 'ours, but an access token', 'garbage'])('%s is no sign-in', async (kind) => {
    const { access_token, id_token = '' } = await connect(server, world, { agent: browser })
    const [, payload] = id_token.split('.')
    const hint = {
      expired: await new SignJWT({}).setProtectedHeader({ alg: 'HS256' }).setExpirationTime(1).sign(Buffer.alloc(32)),
      unsigned: `${Buffer.from('{"alg":"none"}').toString('base64url')}.${payload}.`,
      'ours, but an access token': String(access_token),
      garbage: 'x',
    }[kind]
    const changes = { id_token_hint: hint, prompt: 'none' }
    const answers = [
      answerOf(await ask(server.userAgent(), world.client, changes)),
      answerOf(await ask(browser, world.client, changes)),
    ]
    for (const answer of answers) {
      expect(answer.error).toMatch(/^(invalid_request|login_required)$/)
      expect(answer).not.toHaveProperty('code')
    }
  })

  it('of another person is login_required, and never a silent sign-in as them', async () => {
    const other = await makeWorld(server)
    const theirs = await connect(server, other, { client: world.client })
    const answer = answerOf(
      await ask(browser, world.client, { id_token_hint: String(theirs.id_token), prompt: 'none' }),
    )
    expect(answer).toMatchObject({ error: 'login_required' })
    const mine = await connect(server, world, { agent: browser })
    const same = answerOf(await ask(browser, world.client, { id_token_hint: String(mine.id_token), prompt: 'none' }))
    expect(same).toHaveProperty('code')
  })
})

describe('a pushed request', () => {
  const push = async (client: TestClient, changes: Changes = {}) => {
    return post(server.origin, '/par', client, Object.fromEntries(parametersOf(client, changes)))
  }
  const uriOf = async (client: TestClient, changes: Changes = {}): Promise<string> => {
    const { status, body } = await push(client, changes)
    expect(status).toBe(201)
    return String(Reflect.get(body, 'request_uri'))
  }
  const use = (agent: UserAgent, client: TestClient, request_uri: string) =>
    agent.open(`/authorize?${new URLSearchParams({ client_id: client.id, request_uri })}`)

  it('may be opened twice before it is finished, and is of no use after', async () => {
    const agent = server.userAgent()
    const uri = await uriOf(world.client)
    await use(agent, world.client, uri) // a browser that loads the link ahead
    const page = await use(agent, world.client, uri)
    expect(answerOf(await signIn(agent, page, world.email))).toHaveProperty('code')
    const again = await use(agent, world.client, uri)
    expect(again.html + again.url.search).toContain('invalid_request_uri')
    expect(answerOf(again)).not.toHaveProperty('code')
  })

  it('is of no use to another client', async () => {
    const other = await makeClient(server)
    const page = await use(browser, other, await uriOf(world.client))
    expect(page.html + page.url.search).toMatch(/invalid_request/)
    expect(answerOf(page)).not.toHaveProperty('code')
  })

  it.each(['urn:ietf:params:oauth:request_uri:guessed', 'urn:ietf:params:oauth:request_uri:', 'guessed'])(
    'that nobody pushed is refused: %s',
    async (uri) => {
      const page = await use(browser, world.client, uri)
      expect(page.html + page.url.search).toMatch(/invalid_request_uri|request_uri_not_supported/)
    },
  )

  it('that has expired is refused', async () => {
    const uri = await uriOf(world.client)
    await server.db
      .updateTable('ephemeral_entries')
      .set({ expires_at: new Date(0) })
      .where('kind', '=', 'PushedAuthorizationRequest')
      .execute()
    const page = await use(browser, world.client, uri)
    expect(page.html + page.url.search).toContain('invalid_request_uri')
  })

  it.each<[string, Changes, string]>([
    ['with a request_uri inside', { request_uri: 'urn:ietf:params:oauth:request_uri:x' }, 'request_uri_not_supported'],
    ['with a request object', { request: 'eyJhbGciOiJub25lIn0.e30.' }, 'request_not_supported'],
    ['without PKCE', { code_challenge: undefined, code_challenge_method: undefined }, 'invalid_request'],
    ['with PKCE plain', { code_challenge_method: 'plain' }, 'invalid_request'],
    ['to an address that is not registered', { redirect_uri: 'https://evil.example/cb' }, 'invalid_request'],
    ['for an unknown resource', { resource: 'https://unknown.example' }, 'invalid_target'],
    ['for nothing', { scope: undefined, resource: undefined }, 'invalid_scope'],
    ['with a workspace that is no id', { workspace: 'x' }, 'invalid_request'],
  ])('%s is refused where it is pushed', async (_name, changes, error) => {
    expect(await push(world.client, changes)).toMatchObject({ status: 400, body: { error } })
  })

  it('is refused to who does not authenticate', async () => {
    const answer = await push({ ...world.client, secret: 'wrong' })
    expect(answer).toMatchObject({ status: 401, body: { error: 'invalid_client' } })
  })
})

describe('resources and scopes', () => {
  it.each<[string, Changes, string]>([
    ['an unknown resource', { resource: 'https://unknown.example' }, 'invalid_target'],
    ['a resource with a fragment', { resource: `${API}#x` }, 'invalid_target'],
    ['a resource that is no URI', { resource: 'api' }, 'invalid_target'],
    ['a resource spelt otherwise', { resource: `${API}/` }, 'invalid_target'],
    ['a resource of another environment', { resource: STAGING, scope: 'deploy' }, 'invalid_target'],
    ['nothing', { scope: undefined, resource: undefined }, 'invalid_scope'],
    ['scopes that no one knows', { scope: 'nonsense' }, 'invalid_scope'],
    ['a scope of an API that it does not name', { scope: 'traces:read', resource: undefined }, 'invalid_scope'],
    ['offline_access alone', { scope: 'offline_access', resource: undefined }, 'invalid_scope'],
  ])('%s is refused', (_name, changes, error) => expectRefusal(world.client, changes, error))

  it('who names no scope asks for all that the resource has', async () => {
    const client = await makeClient(server)
    const page = await ask(browser, client, { scope: undefined })
    expect(page.html).toContain('See traces')
    expect(page.html).toContain('Delete traces')
  })

  it('ten thousand scopes are refused or cut, at once', async () => {
    const scope = Array.from({ length: 700 }, (_, index) => `s${index}`).join(' ')
    const startedAt = performance.now()
    await expectRefusal(world.client, { scope }, 'invalid_scope')
    expect(performance.now() - startedAt).toBeLessThan(2_000)
  })

  it('a token for another resource than the approved one is invalid_target, at code and at refresh', async () => {
    const { refresh_token } = await connect(server, world, { agent: browser })
    const own = `${server.origin}/api`
    const refused = await refresh(server.origin, world.client, refresh_token, { resource: own })
    expect(refused).toMatchObject({ status: 400, body: { error: 'invalid_target' } })
    const wider = await refresh(server.origin, world.client, refresh_token, { scope: 'traces:read traces:admin' })
    expect(wider).toMatchObject({ status: 400, body: { error: 'invalid_scope' } })
    const kept = await refresh(server.origin, world.client, refresh_token)
    expect(kept).toMatchObject({ status: 200, body: { scope: 'traces:read' } })
  })
})

describe('for which workspace', () => {
  /** A person with a role in the first workspace of the organization, and no other. */
  async function person(role: 'viewer' | 'member'): Promise<UserAgent & { email: string }> {
    const email = `${role}-${crypto.randomUUID()}@example.com`
    await server.run('user create', { email, name: role, password: PASSWORD })
    await server.run('member add', { user: email, workspace: world.workspaceId, role })
    return Object.assign(server.userAgent(), { email })
  }
  const connectionOf = async (client: TestClient, code: string | undefined) => {
    const { status, body } = await redeem(server.origin, client, String(code), PKCE)
    expect(status).toBe(200)
    const claims: unknown = JSON.parse(
      Buffer.from(String(body.access_token).split('.')[1] ?? '', 'base64url').toString(),
    )
    return claims as Record<string, string> // our own token
  }

  it('a workspace that the person is not in is not offered, and not taken from a form either', async () => {
    const stranger = await makeWorld(server)
    const client = await makeClient(server)
    const page = await ask(browser, client, { workspace: stranger.workspaceId })
    expect(page.html).not.toContain(stranger.workspaceId)
    const refused = await approve(browser, page, stranger.workspaceId)
    expect(answerOf(refused)).not.toHaveProperty('code')
    expect(refused.html).toContain('You cannot connect an app to that workspace')
    expect(answerOf(await approve(browser, refused, world.workspaceId))).toHaveProperty('code')
  })

  it('a preselected workspace is chosen on the page, and a standing approval for another does not answer for it', async () => {
    const page = await ask(browser, world.client, { workspace: world.otherWorkspaceId })
    expect(page.html).toMatch(new RegExp(`value="${world.otherWorkspaceId}" checked`))
  })

  it('a viewer cannot connect', async () => {
    const viewer = await person('viewer')
    const page = await signIn(viewer, await ask(viewer, world.client), viewer.email)
    expect(page.html).toContain('You have no workspace to connect it to')
    const forced = await viewer.submit(page, '/consent', { workspace: world.workspaceId, answer: 'approve' })
    expect(forced.html).toContain('You cannot connect an app to that workspace')
    expect(answerOf(forced)).not.toHaveProperty('code')
  })

  it('scopes are cut to the role, and what is withheld is said', async () => {
    const member = await person('member')
    const client = await makeClient(server)
    const page = await signIn(member, await ask(member, client, { scope: 'traces:read traces:admin' }), member.email)
    expect(page.html).toContain('Without “Delete traces”')
    const { code } = answerOf(await approve(member, page, world.workspaceId))
    expect(await connectionOf(client, code)).toMatchObject({ scope: 'traces:read' })
  })

  it('a role that allows nothing of what is asked connects nothing', async () => {
    const member = await person('member')
    const client = await makeClient(server)
    const page = await signIn(member, await ask(member, client, { scope: 'traces:admin' }), member.email)
    const forced = await member.submit(page, '/consent', { workspace: world.workspaceId, answer: 'approve' })
    expect(answerOf(forced)).not.toHaveProperty('code')
    expect(forced.html).toContain('allows none of what this app asks for')
  })

  it('the same approval is the same connection; a second workspace is a second one', async () => {
    const client = await makeClient(server)
    const approveFor = async (workspace: string) => {
      const page = await ask(browser, client, { prompt: 'consent' })
      return connectionOf(client, answerOf(await approve(browser, page, workspace)).code)
    }
    const first = await approveFor(world.workspaceId)
    const again = await approveFor(world.workspaceId)
    const other = await approveFor(world.otherWorkspaceId)
    expect(again.credential_id).toBe(first.credential_id)
    expect(other.credential_id).not.toBe(first.credential_id)
    expect([first, other].map((claims) => claims.workspace_id)).toEqual([world.workspaceId, world.otherWorkspaceId])

    const undecided = await ask(browser, client)
    expect(headingOf(undecided)).toContain('Connect Tracepad?') // two stand: nobody guesses which
    const named = answerOf(await ask(browser, client, { workspace: world.otherWorkspaceId }))
    expect(await connectionOf(client, named.code)).toMatchObject({ credential_id: other.credential_id })
  })

  it('asking for more scopes asks again, and shows what is new; the connection is widened, not doubled', async () => {
    const client = await makeClient(server)
    const { code } = answerOf(await approve(browser, await ask(browser, client), world.workspaceId))
    const before = await connectionOf(client, code)
    const page = await ask(browser, client, { scope: 'openid traces:read traces:admin' })
    expect(page.html).toMatch(/Delete traces<\/bdi> <span class="tag new">New/)
    expect(page.html).not.toMatch(/See traces<\/bdi> <span class="tag new">/)
    const wider = await connectionOf(client, answerOf(await approve(browser, page, world.workspaceId)).code)
    expect(wider).toMatchObject({ credential_id: before.credential_id, scope: 'traces:read traces:admin' })
    const narrow = answerOf(await ask(browser, client))
    expect(await connectionOf(client, narrow.code)).toMatchObject({ scope: 'traces:read' })
  })

  it('another redirect URI of the same client does not ask again when it is exact https, and asks when it is not', async () => {
    const redirects = ['https://app.example.com/a', 'https://app.example.com/b', 'http://127.0.0.1/c']
    const client = await makeClient(server, { redirect_uris: redirects })
    expect(answerOf(await approve(browser, await ask(browser, client), world.workspaceId))).toHaveProperty('code')
    expect(answerOf(await ask(browser, client, { redirect_uri: redirects[1] }))).toHaveProperty('code')
    const page = await ask(browser, client, { redirect_uri: redirects[2] })
    expect(page.html).toContain('Go on only if you started this yourself')
  })
})

// What is taken for a token, and by whom it may be asked about or ended: threats D, P-05, P-06 (RFC 7662, 7009, 8725).
import { createHmac, createPrivateKey, createPublicKey, randomUUID, sign as signBytes } from 'node:crypto'
import { decodeJwt } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { API, connect, makeClient, makeWorld, refresh, type TestClient, type World } from '../support/world.ts'
import { answerOf, ask } from './asking.ts'

const TRACES = 'https://traces.example.com'

let server: TestServer
let world: World
let browser: UserAgent
let api: TestClient
let otherApi: TestClient
let other: TestClient
let token: string
let claims: Record<string, unknown>

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  ;[api, otherApi] = [await makeResource(TRACES), await makeResource(`${TRACES}.evil.example`)]
  other = await makeClient(server)
  token = String((await connectTo(TRACES)).access_token)
  claims = decodeJwt(token)
})
afterAll(() => server?.close())

async function makeResource(identifier: string): Promise<TestClient> {
  const created = await server.run('resource create', {
    identifier,
    environments: ['production'],
    scopes: [{ name: 'traces:read', sentence: 'See traces', least_role: 'member' }],
  })
  return { id: String(created.client_id), secret: created.client_secret, redirectUri: '' }
}

/** A connection of its own: ending one leaves the others. */
async function connectTo(resource: string) {
  const client = await makeClient(server)
  return { ...(await connect(server, world, { agent: browser, client, more: { resource } })), client }
}

async function ask_(path: '/introspect' | '/revoke', caller: TestClient, parameters: Record<string, string>) {
  const response = await fetch(server.origin + path, {
    method: 'POST',
    headers: { authorization: `Basic ${Buffer.from(`${caller.id}:${caller.secret}`).toString('base64')}` },
    body: new URLSearchParams(parameters),
  })
  return { status: response.status, text: await response.text(), headers: response.headers }
}
const introspect = async (value: string, caller = api) => (await ask_('/introspect', caller, { token: value })).text
const INACTIVE = '{"active":false}'

// --- Tokens that our own key signed, and that are not ours all the same ---------------------------------------------

const encode = (part: unknown): string => Buffer.from(JSON.stringify(part)).toString('base64url')

function signingKey(alg: 'ES256' | 'RS256' = 'ES256') {
  const found = server.app.keys.signing.find((key) => key.alg === alg)
  if (found === undefined) throw new Error(`no ${alg} key`)
  return { ...found, key: createPrivateKey({ key: found.jwk, format: 'jwk' }) }
}

/** A token like the real one but for these changes, signed by the server's own key; undefined removes a member. */
function forge(changes: Record<string, unknown> = {}, header: Record<string, unknown> = {}): string {
  const { key, kid } = signingKey()
  return signed(encode({ alg: 'ES256', typ: 'at+jwt', kid, ...header }), encode({ ...claims, ...changes }), key)
}

function signed(header: string, payload: string, key = signingKey().key): string {
  const signature = signBytes('sha256', Buffer.from(`${header}.${payload}`), { key, dsaEncoding: 'ieee-p1363' })
  return `${header}.${payload}.${signature.toString('base64url')}`
}

function parts(jwt: string): [string, string, string] {
  const [header = '', payload = '', signature = ''] = jwt.split('.')
  return [header, payload, signature]
}

it('a token that our key signed with the right members is active: so the next ones fail for what they change', async () => {
  expect(JSON.parse(await introspect(forge()))).toMatchObject({ active: true, aud: TRACES })
  expect(JSON.parse(await introspect(token))).toMatchObject({
    active: true,
    token_type: 'Bearer',
    iss: server.origin,
    sub: world.userId,
    scope: 'traces:read',
    workspace_id: world.workspaceId,
    token_version: 'v1',
  })
})

const PUBLIC_PEM = () => createPublicKey(signingKey().key).export({ type: 'spki', format: 'pem' }).toString()
const hs256 = (secret: string | Buffer) => {
  const input = `${encode({ alg: 'HS256', typ: 'at+jwt', kid: signingKey().kid })}.${encode(claims)}`
  return `${input}.${createHmac('sha256', secret).update(input).digest('base64url')}`
}
const none = (alg: string) => `${encode({ alg, typ: 'at+jwt' })}.${encode(claims)}.`
const withParts = (change: (header: string, payload: string, signature: string) => string) => change(...parts(token))

const NOT_OURS: Record<string, () => string> = {
  'alg none': () => none('none'),
  'alg None': () => none('None'),
  'alg nOnE': () => none('nOnE'),
  'alg none with the old signature': () => none('none') + parts(token)[2],
  'no signature': () => withParts((header, payload) => `${header}.${payload}.`),
  'two parts': () => withParts((header, payload) => `${header}.${payload}`),
  'four parts': () => `${token}.x`,
  'HS256 with our public key as PEM': () => hs256(PUBLIC_PEM()),
  'HS256 with our public key as DER': () =>
    hs256(createPublicKey(signingKey().key).export({ type: 'spki', format: 'der' })),
  'HS256 with our public key as JWK': () =>
    hs256(JSON.stringify(createPublicKey(signingKey().key).export({ format: 'jwk' }))),
  'HS256 with nothing': () => hs256(''),
  'RS256, signed by our key for id_tokens': () => {
    const { key, kid } = signingKey('RS256')
    const input = `${encode({ alg: 'RS256', typ: 'at+jwt', kid })}.${encode(claims)}`
    return `${input}.${signBytes('sha256', Buffer.from(input), key).toString('base64url')}`
  },
  'a signature of zeros': () => withParts((header, payload) => `${header}.${payload}.${'A'.repeat(86)}`),
  'a signature in DER': () => {
    const [header, payload] = parts(token)
    const der = signBytes('sha256', Buffer.from(`${header}.${payload}`), signingKey().key)
    return `${header}.${payload}.${der.toString('base64url')}`
  },
  'an unknown kid': () => forge({}, { kid: 'nobody' }),
  'a kid that is a path': () => forge({}, { kid: '../../../dev/null' }),
  'a kid that is SQL': () => forge({}, { kid: "' OR 1=1--" }),
  'a kid __proto__': () => forge({}, { kid: '__proto__' }),
  'a kid of many letters': () => forge({}, { kid: 'x'.repeat(7_000) }),
  'an empty kid': () => forge({}, { kid: '' }),
  'a kid that is null': () => forge({}, { kid: null }),
  'a kid that is a list': () => forge({}, { kid: [signingKey().kid] }),
  'a key of its own in the header': () =>
    forge({}, { kid: undefined, jwk: createPublicKey(signingKey().key).export({ format: 'jwk' }), alg: 'ES384' }),
  'an unknown crit': () => forge({}, { crit: ['x'], x: 1 }),
  'crit b64': () => forge({}, { crit: ['b64'], b64: false }),
  'an empty crit': () => forge({}, { crit: [] }),
  'typ JWT': () => forge({}, { typ: 'JWT' }),
  'no typ': () => forge({}, { typ: undefined }),
  'typ id_token': () => forge({}, { typ: 'id_token' }),
  'typ dpop+jwt': () => forge({}, { typ: 'dpop+jwt' }),
  'another audience': () => forge({ aud: 'https://elsewhere.example' }),
  'an audience that begins like ours': () => forge({ aud: `${TRACES}.evil.example` }),
  'several audiences': () => forge({ aud: [TRACES, API] }),
  'an audience that is a number': () => forge({ aud: 1 }),
  'an audience that is an object': () => forge({ aud: { [TRACES]: true } }),
  'no audience': () => forge({ aud: undefined }),
  'another issuer': () => forge({ iss: 'https://evil.example' }),
  'our issuer with a slash': () => forge({ iss: `${server.origin}/` }),
  'our issuer in capitals': () => forge({ iss: server.origin.toUpperCase() }),
  'no issuer': () => forge({ iss: undefined }),
  'an end in the past': () => forge({ exp: Math.floor(Date.now() / 1000) - 1 }),
  'an end that is text': () => forge({ exp: '9999999999' }),
  'no end': () => forge({ exp: undefined }),
  'not before tomorrow': () => forge({ nbf: Math.floor(Date.now() / 1000) + 86_400 }),
  'no id': () => forge({ jti: undefined }),
  'no connection': () => forge({ credential_id: undefined }),
  'an unknown connection': () => forge({ credential_id: 'con_00000000000000000000000000' }),
  'a connection that is a list': () => forge({ credential_id: [claims.credential_id] }),
  'no version': () => forge({ token_version: undefined }),
  'a version below the floor': () => forge({ token_version: 'v0' }),
  'a version above the newest': () => forge({ token_version: 'v2' }),
  'a version that is a number': () => forge({ token_version: 1 }),
  'a version with a fraction': () => forge({ token_version: 'v1.0' }),
  'a version that is NaN': () => forge({ token_version: 'vNaN' }),
  'a version with a space': () => forge({ token_version: 'v1 ' }),
  'a version with a zero before': () => forge({ token_version: 'v01' }),
  'a huge version': () => forge({ token_version: `v${'9'.repeat(400)}` }),
  'a payload that is a list': () => signed(parts(forge())[0], encode([claims])),
  'a payload that is no JSON': () => signed(parts(forge())[0], Buffer.from('not json').toString('base64url')),
  'a payload that is not UTF-8': () => signed(parts(forge())[0], Buffer.from([0x7b, 0xff, 0xfe]).toString('base64url')),
  'a payload with more behind it': () =>
    signed(parts(forge())[0], Buffer.from(`${JSON.stringify(claims)}{}`).toString('base64url')),
  'base64 with padding': () => withParts((header, payload, signature) => `${header}.${payload}=.${signature}`),
  'a line break in base64': () => withParts((header, payload, signature) => `${header}.${payload}\n.${signature}`),
  'a line break behind': () => `${token}\n`,
  'a space before': () => ` ${token}`,
  'a NUL behind': () => `${token}\u0000`,
  'Bearer before': () => `Bearer ${token}`,
  'one character less': () => token.slice(0, -1),
  'half of it': () => token.slice(0, token.length / 2),
  'another payload under the signature': () =>
    withParts(
      (header, _payload, signature) =>
        `${header}.${encode({ ...claims, scope: 'traces:read traces:admin' })}.${signature}`,
    ),
  nothing: () => '.',
  dots: () => '..',
  'a prefix of a refresh token': () => 'lk_rt_',
  'a prefix of an opaque token': () => 'lk_at_',
  'an opaque token that nobody issued': () => `lk_at_${'A'.repeat(43)}`,
  'a refresh token that nobody issued': () => `lk_rt_${'A'.repeat(43)}`,
  'a NUL': () => '\u0000',
  'many letters': () => 'x'.repeat(50_000),
}

it.each(Object.keys(NOT_OURS))('is not active: %s', async (name) => {
  expect(await introspect(NOT_OURS[name]?.() ?? '')).toBe(INACTIVE)
})

it('a copy of a revoked token with the other signature that ECDSA allows is revoked too', async () => {
  const { access_token, client } = await connectTo(TRACES)
  const [header, payload, signature] = parts(String(access_token))
  const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n
  const bytes = Buffer.from(signature, 'base64url')
  const s = BigInt(`0x${bytes.subarray(32).toString('hex')}`)
  const mirrored = Buffer.from((order - s).toString(16).padStart(64, '0'), 'hex')
  const copy = `${header}.${payload}.${Buffer.concat([bytes.subarray(0, 32), mirrored]).toString('base64url')}`
  expect(JSON.parse(await introspect(copy))).toMatchObject({ active: true })
  await ask_('/revoke', client, { token: String(access_token) })
  expect(await introspect(copy)).toBe(INACTIVE)
})

describe('introspection', () => {
  it('tells a resource server nothing of tokens that are not for it, and a client nothing of others’', async () => {
    const { access_token = '', refresh_token = '', id_token = '', client } = await connectTo(TRACES)
    expect(JSON.parse(await introspect(access_token))).toMatchObject({ active: true })
    expect(JSON.parse(await introspect(access_token, client))).toMatchObject({ active: true })
    expect(JSON.parse(await introspect(refresh_token, client))).toMatchObject({ active: true })
    const nothing = [
      await introspect(access_token, otherApi),
      await introspect(access_token, other),
      await introspect(refresh_token, api),
      await introspect(refresh_token, other),
      await introspect(id_token, client),
      await introspect(id_token, api),
    ]
    expect(nothing).toEqual(Array(nothing.length).fill(INACTIVE))
  })

  it('does not use a refresh token up, whatever the hint says', async () => {
    const { refresh_token = '', client } = await connectTo(TRACES)
    for (const token_type_hint of ['access_token', 'refresh_token', 'nonsense', '\u0000']) {
      const { text } = await ask_('/introspect', client, { token: refresh_token, token_type_hint })
      expect(JSON.parse(text)).toMatchObject({ active: true, client_id: client.id })
    }
    expect((await refresh(server.origin, client, refresh_token)).status).toBe(200)
  })

  it('is not kept by caches, and says the same bytes and headers whatever the reason', async () => {
    const answers = await Promise.all(
      [forge({ token_version: 'v9' }), 'x', `lk_rt_${'A'.repeat(43)}`].map((value) =>
        ask_('/introspect', api, { token: value }),
      ),
    )
    const described = answers.map(({ status, text, headers }) => {
      const same = [...headers].filter(([name]) => name !== 'date' && name !== 'x-trace-id')
      return JSON.stringify([status, text, same])
    })
    expect(new Set(described).size).toBe(1)
    expect(answers[0]?.headers.get('cache-control')).toBe('no-store')
  })

  it.each([{}, { token: '' }, { token_type_hint: 'access_token' }])(
    'without a token is invalid_request: %j',
    async (given) => {
      const answer = await ask_('/introspect', api, given as Record<string, string>) // a member may be absent
      expect([answer.status, JSON.parse(answer.text).error]).toEqual([400, 'invalid_request'])
    },
  )
})

describe('revocation', () => {
  it('leaves another client’s tokens as they are, and says 200', async () => {
    const { access_token = '', refresh_token = '', client } = await connectTo(TRACES)
    for (const value of [access_token, refresh_token]) {
      for (const caller of [other, api]) {
        expect(await ask_('/revoke', caller, { token: value })).toMatchObject({ status: 200, text: '{}' })
      }
    }
    expect(JSON.parse(await introspect(access_token))).toMatchObject({ active: true })
    expect((await refresh(server.origin, client, refresh_token)).status).toBe(200)
  })

  it.each(['x', 'lk_rt_none', '\u0000', '..', 'x'.repeat(50_000)])('of what is no token is 200: %#', async (value) => {
    expect(await ask_('/revoke', other, { token: value })).toMatchObject({ status: 200, text: '{}' })
  })

  it.each(['access_token', 'refresh_token', 'nonsense'])(
    'of a refresh token ends its family, JWTs and all, also with the hint %s',
    async (token_type_hint) => {
      const { access_token = '', refresh_token = '', client } = await connectTo(TRACES)
      await ask_('/revoke', client, { token: refresh_token, token_type_hint })
      expect(await introspect(access_token)).toBe(INACTIVE)
      expect(await introspect(refresh_token, client)).toBe(INACTIVE)
      const again = await refresh(server.origin, client, refresh_token)
      expect(again).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    },
  )

  it('is recorded, with who asked', async () => {
    const { access_token = '', client } = await connectTo(TRACES)
    await ask_('/revoke', client, { token: access_token })
    const jti = decodeJwt(access_token).jti
    const records = await server.db.selectFrom('audit_events').selectAll().where('client_id', '=', client.id).execute()
    const found = records.filter((row) => JSON.stringify(row).includes(String(jti)))
    expect(found).toMatchObject([{ event: 'access_token.revoked', status: 'pass' }])
  })
})

describe('userinfo', () => {
  let opaque: string
  beforeAll(async () => {
    const tokens = await connect(server, world, { agent: browser, more: { resource: '', scope: 'openid email' } })
    opaque = String(tokens.access_token)
    expect(opaque).toMatch(/^lk_at_/)
  })
  const userinfo = async (headers: Record<string, string>, init: RequestInit = {}, query = '') => {
    const response = await fetch(`${server.origin}/userinfo${query}`, { ...init, headers })
    const body: unknown = await response.json()
    return { status: response.status, body, headers: response.headers }
  }

  it.each(['Bearer', 'bearer', 'BEARER'])('takes a token as %s', async (scheme) => {
    const answer = await userinfo({ authorization: `${scheme} ${opaque}` })
    expect(answer).toMatchObject({ status: 200, body: { sub: world.userId, email: world.email } })
  })

  it('takes one in a posted form, and in no address', async () => {
    const form = { method: 'POST', body: new URLSearchParams({ access_token: opaque }) }
    expect(await userinfo({}, form)).toMatchObject({ status: 200, body: { sub: world.userId } })
    expect((await userinfo({}, {}, `?access_token=${opaque}`)).status).toBe(400)
  })

  it('refuses one in two places', async () => {
    const form = { method: 'POST', body: new URLSearchParams({ access_token: opaque }) }
    const answer = await userinfo({ authorization: `Bearer ${opaque}` }, form)
    expect(answer).toMatchObject({ status: 400, body: { error: 'invalid_request' } })
  })

  it('refuses an API’s token, an id_token, a refresh token and whatever else, with a challenge', async () => {
    const { id_token, refresh_token } = await connectTo(TRACES)
    for (const value of [token, id_token, refresh_token, opaque.slice(0, -1), `${opaque}A`, 'x', '..']) {
      const answer = await userinfo({ authorization: `Bearer ${value}` })
      expect([400, 401]).toContain(answer.status)
      expect(answer.body).toMatchObject({ error: expect.stringMatching(/^invalid_(token|request)$/) })
      expect(answer.headers.get('www-authenticate')).toMatch(/^Bearer realm=/)
    }
    expect((await userinfo({})).status).toBe(401)
  })

  it('refuses a token of a connection whose version was raised', async () => {
    const client = await makeClient(server)
    const more = { resource: '', scope: 'openid' }
    const { access_token, refresh_token = '' } = await connect(server, world, { agent: browser, client, more })
    const authorization = `Bearer ${access_token}`
    expect((await userinfo({ authorization })).status).toBe(200)
    await ask_('/revoke', client, { token: refresh_token })
    expect(await userinfo({ authorization })).toMatchObject({ status: 401, body: { error: 'invalid_token' } })
  })
})

it('an access token is no hint and no client assertion', async () => {
  const logout = await browser.open(`/logout?id_token_hint=${token}`)
  expect(logout.status).toBe(400)
  expect(answerOf(await ask(browser, world.client, { prompt: 'none', id_token_hint: token }))).not.toHaveProperty(
    'code',
  )
  const response = await fetch(`${server.origin}/token`, {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'client_credentials',
      client_id: String(claims.client_id),
      client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
      client_assertion: token,
      jti: randomUUID(),
    }),
  })
  expect([400, 401]).toContain(response.status)
})

// Where a pasted token counts, and for how much: addresses, APIs, environments, roles; what an exchange may give; what a
// report of a leak ends (product §3, threats F-13 to F-18).
import { decodeJwt } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type ApiWorld,
  bearer,
  type CallOptions,
  call,
  connectPerson,
  exchange,
  exchanged,
  makeApiWorld,
  makeResourceServer,
  makeToken,
  NOBODY,
  newLabel,
  postForm,
} from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { makeClient, refresh, type TestClient } from '../support/world.ts'

const API = 'https://traces.example.com'
const STAGING = 'https://staging.example.com'
const OTHER = 'https://other.example.com'

let server: TestServer
let world: ApiWorld
let api: TestClient
let staging: TestClient
let other: TestClient
beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_TRUSTED_PROXIES: '127.0.0.1/32' } })
  world = await makeApiWorld(server)
  api = await makeResourceServer(server, API, {
    scopes: [
      { name: 'traces:read', least_role: 'member' },
      { name: 'traces:admin', least_role: 'admin' },
      { name: 'traces:own', least_role: 'owner' },
    ],
  })
  staging = await makeResourceServer(server, STAGING, { environments: ['staging'] })
  other = await makeResourceServer(server, OTHER, { scopes: [{ name: 'read', least_role: 'member' }] })
})
afterAll(() => server?.close())

const path = () => `/workspaces/${world.workspaceId}/api-keys`
const asKey = (method: string, suffix: string, options?: CallOptions) =>
  call(server, bearer(world.key), method, path() + suffix, options)
const make = (input: Record<string, unknown> = {}) =>
  makeToken(server, world, { permissions: ['read', 'traces:read'], ...input })
const introspect = async (value: string, client = api, more: Record<string, string> = {}) =>
  (await postForm(server, '/introspect', { token: value, ...more }, client)).body
const from = (value: string, address: string) =>
  call(server, bearer(value), 'GET', '/workspaces', { headers: { 'x-forwarded-for': address } })
const INACTIVE = { active: false }

// --- Addresses -------------------------------------------------------------------------------------------------------

describe('an allow list of addresses', () => {
  it.each<[string, string[], string[], string[]]>([
    [
      'an IPv4 address',
      ['192.0.2.7'],
      ['192.0.2.7', '::ffff:192.0.2.7', '::ffff:c000:207'],
      ['192.0.2.8', '::c000:207'],
    ],
    ['an IPv4 network', ['192.0.2.0/24'], ['192.0.2.255', '::ffff:192.0.2.1'], ['192.0.3.0', '2001:db8::1']],
    ['a network with host bits', ['192.0.2.9/24'], ['192.0.2.1'], ['192.0.1.9']],
    ['an IPv6 network', ['2001:db8::/32'], ['2001:db8:ffff::1'], ['2001:db9::1', '192.0.2.1']],
    ['an IPv6 address', ['2001:db8::1'], ['2001:0db8:0:0::1'], ['2001:db8::2']],
    ['an IPv4 address in IPv6 form', ['::ffff:192.0.2.7'], ['192.0.2.7', '::ffff:192.0.2.7'], ['192.0.2.8']],
    ['an IPv4 network in IPv6 form', ['::ffff:192.0.2.0/120'], ['192.0.2.7'], ['192.0.3.7', '2001:db8::1']],
    ['several', ['192.0.2.7', '2001:db8::/32'], ['192.0.2.7', '2001:db8::9'], ['192.0.2.8']],
    ['every IPv4 address', ['0.0.0.0/0'], ['203.0.113.9'], ['2001:db8::1']],
  ])('of %s lets in those, here and at introspection, and nobody else', async (_, list, allowed, refused) => {
    const { key } = await make({ ip_allow_list: list })
    for (const address of allowed) {
      expect([address, (await from(key, address)).status]).toEqual([address, 200])
      expect(await introspect(key, api, { client_ip: address })).toMatchObject({ active: true })
    }
    for (const address of refused) {
      expect([address, (await from(key, address)).status]).toEqual([address, 401])
      expect(await introspect(key, api, { client_ip: address })).toEqual(INACTIVE)
    }
    expect(await introspect(key)).toEqual(INACTIVE) // the API does not say where it came from
    for (const nonsense of [
      '',
      'localhost',
      '192.0.2.7, 1.2.3.4',
      '192.0.2.7\n',
      '192.0.2',
      '1e9',
      '192.0.2.07',
      '3221225991',
      '0xc0.0.2.7',
    ])
      expect([nonsense, await introspect(key, api, { client_ip: nonsense })]).toEqual([nonsense, INACTIVE])
  })

  it('what is no address or network in its usual form is refused when the token is made', async () => {
    for (const entry of [
      '',
      'localhost',
      '192.0.2.0/33',
      '2001:db8::/129',
      '192.0.2.0/-1',
      '192.0.2.0/',
      '1',
      '0x7f.1',
      '127.1',
      '010.0.0.1',
      '192.0.2.0/8/8',
      'fe80::1%eth0',
      '192.0.2.0/24 ',
      '10.0.0.0/08',
      5,
      null,
    ]) {
      const answer = await asKey('POST', '', {
        body: { label: newLabel(), permissions: ['read'], ip_allow_list: [entry] },
      })
      expect([entry, answer.status]).toEqual([entry, 400])
    }
  })

  it('a token with one cannot be exchanged: the JWT would be good from anywhere', async () => {
    const { key } = await make({ ip_allow_list: ['127.0.0.1'] })
    expect((await exchange(server, key)).body).toMatchObject({ error: 'invalid_request' })
  })

  it('a refusal for the address is recorded, and is no use', async () => {
    const { id, key } = await make({ ip_allow_list: ['192.0.2.7'] })
    await from(key, '192.0.2.8')
    await server.app.uses.flush()
    const { rows } = await sql<{ detail: { reason: string } }>`
      select detail from audit_events where credential_id = ${id} and event = 'token.refused'`.execute(server.db)
    expect(rows).toEqual([{ detail: { reason: 'address', count: 1 } }])
    expect((await asKey('GET', `/${id}`)).body.last_used_at).toBeNull()
  })
})

// --- APIs and environments -------------------------------------------------------------------------------------------

describe('introspection', () => {
  it('tells an API exactly what the token is there', async () => {
    const token = await make({ permissions: ['read', 'traces:read', 'traces:admin'], expires_in: 3_600 })
    const answer = await introspect(token.key)
    expect(answer).toEqual({
      active: true,
      token_type: 'Bearer',
      iss: server.origin,
      sub: token.id,
      aud: API,
      iat: expect.any(Number),
      exp: expect.any(Number),
      scope: 'traces:read traces:admin',
      workspace_id: world.workspaceId,
      organization_id: world.organizationId,
      environment: 'production',
      token_version: 'v1',
      credential_id: token.id,
    })
    expect(answer.exp - answer.iat).toBe(3_600)
  })

  it('is inactive alike for an API of another environment, one that knows none of its permissions, another client, and for organization keys', async () => {
    const client = await makeClient(server)
    const { key } = await make({ permissions: ['traces:read'] })
    expect(await introspect(key)).toMatchObject({ active: true })
    for (const caller of [staging, other, client]) expect(await introspect(key, caller)).toEqual(INACTIVE)
    expect(await introspect(world.key)).toEqual(INACTIVE)
    expect(await introspect(world.key, other)).toEqual(INACTIVE)
    const inStaging = await make({ permissions: ['traces:read'], environment: 'staging' })
    expect(await introspect(inStaging.key)).toEqual(INACTIVE)
    expect(await introspect(inStaging.key, staging)).toMatchObject({
      active: true,
      environment: 'staging',
      aud: STAGING,
    })
  })

  it('a token that is limited to APIs counts at those alone, also at our own', async () => {
    const { key } = await make({ permissions: ['traces:read'], resources: [API] })
    expect(await introspect(key)).toMatchObject({ active: true, scope: 'traces:read' })
    expect(await introspect(key, other)).toEqual(INACTIVE)
    const own = await call(server, bearer(key), 'GET', '/workspaces')
    expect([own.status, own.body.code]).toEqual([403, 'insufficient_scope'])
    expect(own.headers.get('www-authenticate')).toContain('error="insufficient_scope"')
    expect((await exchange(server, key)).body.error).toBe('invalid_target')
    expect((await exchange(server, key, { resource: API })).body.scope).toBe('traces:read')
  })

  it('asks for a client that authenticates', async () => {
    const { key } = await make()
    expect((await postForm(server, '/introspect', { token: key })).status).toBe(401)
    const wrong = await postForm(server, '/introspect', { token: key }, { ...api, secret: 'wrong' })
    expect([wrong.status, wrong.body.error]).toEqual([401, 'invalid_client'])
  })
})

describe('permissions', () => {
  it.each([
    ['unknown everywhere', { permissions: ['no:such'] }],
    ['unknown in that environment', { permissions: ['traces:admin'], environment: 'staging' }],
    ['unknown to the APIs that it is limited to', { permissions: ['traces:read'], resources: [OTHER] }],
    ['at an API that is unknown', { permissions: ['read'], resources: ['https://nothing.example'] }],
    ['above the role of whoever makes it', { permissions: ['traces:own'] }],
    ['of OpenID', { permissions: ['openid'] }],
    ['none', { permissions: [] }],
    ['with a space', { permissions: ['read manage'] }],
  ])('that are %s make no token', async (_, input) => {
    const answer = await asKey('POST', '', { body: { label: newLabel(), ...input } })
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid_request'])
  })

  it('above admin are for owners to give, and stay with the token', async () => {
    const body = { label: newLabel(), permissions: ['traces:own', 'traces:read'] }
    for (const credential of [world.people.admin, bearer(world.key)])
      expect((await call(server, credential, 'POST', path(), { body })).status).toBe(400)
    const made = await call(server, world.owner, 'POST', path(), { body })
    expect(made.status).toBe(201)
    expect(await introspect(made.body.key)).toMatchObject({ scope: 'traces:read traces:own' })
  })

  it('said twice count once', async () => {
    expect((await make({ permissions: ['read', 'read'] })).permissions).toEqual(['read'])
    const answer = await call(server, bearer(world.key), 'POST', `/organizations/${world.organizationId}/api-keys`, {
      body: { label: newLabel(), permissions: ['read', 'read'] },
    })
    expect(answer.body.permissions).toEqual(['read'])
  })

  it('a value pasted in place of one is not repeated to whoever reads the error', async () => {
    const { key } = await make()
    const answer = await asKey('POST', '', { body: { label: newLabel(), permissions: [key] } })
    expect(answer.status).toBe(400)
    expect(answer.text).not.toContain(key.slice(14, -6))
  })
})

// --- Exchange --------------------------------------------------------------------------------------------------------

describe('token exchange', () => {
  it('gives a JWT that says no more than the token, and dies with it', async () => {
    const token = await make({ permissions: ['read', 'traces:read'] })
    const answer = await exchange(server, token.key, { resource: API })
    expect(answer.status).toBe(200)
    expect(answer.headers.get('cache-control')).toBe('no-store')
    expect(answer.body).toEqual({
      access_token: expect.any(String),
      issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      token_type: 'Bearer',
      expires_in: 600,
      scope: 'traces:read',
    })
    const claims = decodeJwt(answer.body.access_token)
    expect(claims).toMatchObject({
      iss: server.origin,
      sub: token.id,
      aud: API,
      client_id: token.id,
      scope: 'traces:read',
      workspace_id: world.workspaceId,
      organization_id: world.organizationId,
      environment: 'production',
      token_version: 'v1',
      credential_id: token.id,
    })
    expect(await introspect(answer.body.access_token)).toMatchObject({ active: true })
    await asKey('DELETE', `/${token.id}`)
    expect(await introspect(answer.body.access_token)).toEqual(INACTIVE)
  })

  it('never lives longer than the token, or than the cutover that is to retire it', async () => {
    const short = await make({ expires_in: 120 })
    const soon = await exchange(server, short.key)
    expect(soon.body.expires_in).toBeLessThanOrEqual(120)
    const rotating = await make()
    const at = new Date(Date.now() + 90_000).toISOString()
    await asKey('POST', `/${rotating.id}/rotate`, { body: { cutover: 'at', at } })
    const cut = await exchange(server, rotating.key)
    expect(cut.body.expires_in).toBeLessThanOrEqual(91)
    expect(cut.body.expires_in).toBeGreaterThan(60)
  })

  it.each<[string, Record<string, string | undefined>, string]>([
    ['a scope above the token', { scope: 'read manage' }, 'invalid_scope'],
    ['a scope of another API', { scope: 'traces:read' }, 'invalid_scope'],
    ['an unknown API', { resource: 'https://nothing.example' }, 'invalid_target'],
    ['an API of another environment', { resource: STAGING }, 'invalid_target'],
    ['an audience that is unknown', { audience: 'https://nothing.example' }, 'invalid_target'],
    ['two APIs', { resource: API, audience: OTHER }, 'invalid_request'],
    [
      'an actor',
      { actor_token: 'x', actor_token_type: 'urn:ietf:params:oauth:token-type:access_token' },
      'invalid_request',
    ],
    ['an actor’s type alone', { actor_token_type: 'urn:ietf:params:oauth:token-type:jwt' }, 'invalid_request'],
    ['no subject', { subject_token: undefined }, 'invalid_request'],
    ['an empty subject', { subject_token: '' }, 'invalid_request'],
    ['no subject type', { subject_token_type: undefined }, 'invalid_request'],
    ['the type jwt', { subject_token_type: 'urn:ietf:params:oauth:token-type:jwt' }, 'invalid_request'],
    ['the type id_token', { subject_token_type: 'urn:ietf:params:oauth:token-type:id_token' }, 'invalid_request'],
    [
      'the type refresh_token',
      { subject_token_type: 'urn:ietf:params:oauth:token-type:refresh_token' },
      'invalid_request',
    ],
    [
      'a refresh token in return',
      { requested_token_type: 'urn:ietf:params:oauth:token-type:refresh_token' },
      'invalid_request',
    ],
  ])('with %s is %s', async (_, changes, error) => {
    const { key } = await make({ permissions: ['read'] })
    const parameters = {
      grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
      subject_token: key,
      subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
      ...changes,
    }
    const given = Object.fromEntries(
      Object.entries(parameters).filter((pair): pair is [string, string] => pair[1] !== undefined),
    )
    const answer = await postForm(server, '/token', given)
    expect([answer.status, answer.body.error]).toEqual([400, error])
    expect(answer.text).not.toContain(key)
  })

  it('takes nothing but a pasted token: not what came from one, nor any other value, all refused alike', async () => {
    const { key } = await make()
    const person = await connectPerson(server, world, world.people.admin, 'read offline_access')
    const ended = await make()
    await asKey('DELETE', `/${ended.id}`)
    const texts = new Set<string>()
    const values = [
      await exchanged(server, key),
      person.access_token,
      person.id_token,
      person.refresh_token,
      world.key,
      ended.key,
      `${key}x`,
      key.slice(0, -1),
      'x',
      `Bearer ${key}`,
    ]
    for (const value of values) {
      if (value === undefined) continue
      const answer = await exchange(server, value)
      expect([answer.status, answer.body.error]).toEqual([400, 'invalid_request'])
      texts.add(answer.text)
    }
    expect(texts.size).toBe(1)
  })

  it('a parameter given twice is refused', async () => {
    const { key } = await make()
    const body = `grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=${key}&subject_token_type=urn:ietf:params:oauth:token-type:access_token&resource=${API}&resource=${OTHER}`
    const response = await fetch(`${server.origin}/token`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body,
    })
    expect(response.status).toBe(400)
    expect(await response.text()).not.toContain('access_token"')
  })

  it('a client besides the token must be good, registered for it, and of the token’s environment', async () => {
    const { key } = await make()
    const grant_types = ['authorization_code', 'urn:ietf:params:oauth:grant-type:token-exchange']
    const good = await makeClient(server, { grant_types })
    const answer = await exchange(server, key, {}, good)
    expect(answer.status, answer.text).toBe(200)
    expect(decodeJwt(answer.body.access_token)).toMatchObject({
      client_id: good.id,
      sub: expect.stringMatching(/^key_/),
    })
    const unregistered = await exchange(server, key, {}, await makeClient(server))
    expect([unregistered.status, unregistered.body.error]).toEqual([400, 'unauthorized_client'])
    const wrong = await exchange(server, key, {}, { ...good, secret: 'wrong' })
    expect([wrong.status, wrong.body.error]).toEqual([401, 'invalid_client'])
    const elsewhere = await exchange(server, key, {}, await makeClient(server, { grant_types, environment: 'staging' }))
    expect([elsewhere.status, elsewhere.body.error]).toEqual([400, 'invalid_target'])
  })

  it('a revocation at the same time leaves no JWT that works', async () => {
    for (let round = 0; round < 15; round++) {
      const token = await make()
      const [answers] = await Promise.all([
        Promise.all(Array.from({ length: 4 }, () => exchange(server, token.key))),
        asKey('DELETE', `/${token.id}`),
      ])
      for (const { body } of answers)
        if (body.access_token !== undefined)
          expect((await call(server, bearer(body.access_token), 'GET', '/workspaces')).status).toBe(401)
    }
  })
})

// --- Leaks -----------------------------------------------------------------------------------------------------------

describe('a report of values that leaked', () => {
  let address = 0
  const report = (credentials: unknown, from = `198.51.100.${++address}`) =>
    call(server, NOBODY, 'POST', '/credentials/revoke', { body: { credentials }, headers: { 'x-forwarded-for': from } })

  it('ends tokens, keys, refresh tokens and JWTs, says 202 to whoever asks, and nothing of what it found', async () => {
    const token = await make()
    const place = `/organizations/${world.organizationId}/api-keys`
    const key = await call(server, bearer(world.key), 'POST', place, { body: { label: newLabel() } })
    const jwt = await exchanged(server, (await make()).key)
    const person = await connectPerson(server, world, world.people.admin, 'read offline_access')
    const bob = await connectPerson(server, world, world.people.member, 'read')
    const found = await report([
      ` ${token.key}\n`,
      key.body.key,
      jwt,
      String(person.refresh_token),
      String(bob.access_token),
    ])
    const nothing = await report(['x', `${token.key}x`, 'tid_ws_', 'lk_rt_nothing', 'a.b.c'])
    expect([found.status, found.text]).toEqual([202, nothing.text])
    expect(nothing.status).toBe(202)
    for (const value of [token.key, key.body.key, jwt, String(bob.access_token), String(person.access_token)])
      expect((await call(server, bearer(value), 'GET', '/workspaces')).status).toBe(401)
    expect((await refresh(server.origin, person.client, person.refresh_token)).body.error).toBe('invalid_grant')
    expect((await report([token.key])).status).toBe(202) // again
    const { rows } = await sql<{ event: string; actor_kind: string }>`
      select event, actor_kind from audit_events where credential_id = ${token.id} and event like '%leak%'`.execute(
      server.db,
    )
    expect(rows).toEqual([{ event: 'token.leak_reported', actor_kind: 'nobody' }])
  })

  it('ends the version that leaked, and leaves the other', async () => {
    const token = await make()
    const next = await asKey('POST', `/${token.id}/rotate`)
    await report([token.key])
    expect((await call(server, bearer(token.key), 'GET', '/workspaces')).status).toBe(401)
    expect((await call(server, bearer(next.body.key), 'GET', '/workspaces')).status).toBe(200)
  })

  it('is limited for one address, and for nobody else', async () => {
    const statuses: number[] = []
    for (let count = 0; count < 32; count++) statuses.push((await report(['x'], '203.0.113.1')).status)
    expect(statuses).toEqual([...Array(30).fill(202), 429, 429])
    const refused = await report(['x'], '203.0.113.1')
    expect(refused.body.code).toBe('too_many_requests')
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await report(['x'], '203.0.113.2')).status).toBe(202)
  })

  it('of another form is 400', async () => {
    for (const wrong of [undefined, [], 'x', [''], [1], [null], Array(101).fill('x'), ['x'.repeat(8_193)]])
      expect((await report(wrong)).status).toBe(400)
  })
})

// Access validation: what it answers stands in the log, word for word, and nothing else has changed.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newToken } from '../../src/crypto/token-value.ts'
import { createAccessTokens } from '../../src/oauth/access-tokens.ts'
import {
  type ApiWorld,
  bearer,
  call,
  connectPerson,
  exchange,
  exchanged,
  type MadeToken,
  makeApiWorld,
  makePerson,
  makeResourceServer,
  makeToken,
  memberNames,
  NOBODY,
  newLabel,
  postForm,
  signInBrowser,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { makeClient } from '../support/world.ts'

const OTHER_API = 'https://other.example.com'
const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(BACKENDS)('access validation (%s)', (backend) => {
  let server: TestServer
  let world: ApiWorld
  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeApiWorld(server)
    await makeResourceServer(server, OTHER_API, { scopes: [{ name: 'read', least_role: 'member' }] })
  })
  afterAll(() => server?.close())

  let traces = 0
  async function validate(value: string, query: Record<string, string> = {}, headers: Record<string, string> = {}) {
    const trace = `validate-${++traces}`
    const path = `/access/validate?${new URLSearchParams(query)}`
    const answer = await call(server, bearer(value), 'GET', path, { headers: { 'x-trace-id': trace, ...headers } })
    return { answer, rows: await recordsOf(trace) }
  }

  /** In the words of the log, with its own form of time. */
  async function recordsOf(trace: string) {
    return server.db
      .selectFrom('audit_events')
      .selectAll()
      .select(sql<string>`to_char(recorded_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`.as('timestamp'))
      .where('trace_id', '=', trace)
      .execute()
  }

  async function countOfValidations(): Promise<number> {
    const rows = await server.db
      .selectFrom('audit_events')
      .select('id')
      .where('event', '=', 'access_validation')
      .execute()
    return rows.length
  }

  const claimsOf = (jwt: string) => JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString())
  const personalJwt = async (person: { userId: string; email: string }) =>
    String((await connectPerson(server, world, person, 'read manage')).access_token)
  /** Of somebody new each time: nobody signs in more than so often. */
  async function someJwt(): Promise<string> {
    const person = await makePerson(server)
    await server.run('member add', { workspace: world.workspaceId, user: person.email, role: 'admin' })
    return personalJwt(person)
  }
  const signed = (claims: object) => createAccessTokens({ ...server.app, issuer: server.origin }).sign(claims as never)
  const asKey = (method: string, path: string, body?: unknown) =>
    call(server, bearer(world.key), method, path, body === undefined ? {} : { body })
  const tokenPath = ({ id }: MadeToken) => `/workspaces/${world.workspaceId}/api-keys/${id}`

  async function clientJwt(): Promise<string> {
    const client = await makeClient(server, { grant_types: ['client_credentials'], redirect_uris: [] })
    const resource = `${server.origin}/api`
    await server.run('client grant', { client: client.id, workspace: world.workspaceId, resource, scopes: ['read'] })
    const answer = await postForm(server, '/token', { grant_type: 'client_credentials', resource }, client)
    expect(answer.status, answer.text).toBe(200)
    return answer.body.access_token
  }

  it('what is answered is the record that was written, field by field, for every kind of credential', async () => {
    const token = await makeToken(server, world, { expires_in: 3_600, permissions: ['read', 'ingest'] })
    const jwt = await exchanged(server, token.key)
    const ofPerson = await personalJwt(world.people.admin)
    const ofClient = await clientJwt()
    const forOther = (await exchange(server, token.key, { resource: OTHER_API })).body.access_token
    const [key] = (await asKey('GET', `/organizations/${world.organizationId}/api-keys`)).body
    const { user_id: ofLine } = await server.db
      .selectFrom('token_lines')
      .select('user_id')
      .where('id', '=', token.id as never)
      .executeTakeFirstOrThrow()
    const own = { workspace_id: world.workspaceId, environment: 'production', token_version: 'v1' }
    const expires = (value: string) => new Date(claimsOf(value).exp * 1000).toISOString().replace('.000Z', 'Z')
    const shared = { ...own, credential_id: token.id, user_id: ofLine }
    const cases: Array<[string, string, object]> = [
      ['token', token.key, { ...shared, scopes: ['read', 'ingest'], expires_at: token.expires_at }],
      ['JWT of a token', jwt, { ...shared, scopes: ['read', 'ingest'], expires_at: expires(jwt) }],
      ['JWT for another API', forOther, { ...shared, scopes: ['read'], expires_at: expires(forOther) }],
      [
        'JWT of a person',
        ofPerson,
        {
          ...own,
          user_id: world.people.admin.userId,
          scopes: expect.arrayContaining(['read', 'manage']),
          expires_at: expires(ofPerson),
          credential_id: claimsOf(ofPerson).credential_id,
        },
      ],
      [
        'JWT of a client',
        ofClient,
        {
          ...own,
          user_id: null,
          scopes: ['read'],
          expires_at: expires(ofClient),
          credential_id: claimsOf(ofClient).credential_id,
        },
      ],
      [
        'organization key',
        world.key,
        {
          ...own,
          workspace_id: null,
          user_id: null,
          scopes: ['read', 'manage'],
          expires_at: null,
          credential_id: key.id,
        },
      ],
    ]
    for (const [name, value, expected] of cases) {
      const { answer, rows } = await validate(value, {}, { 'x-profile-id': 'customer:12' })
      expect([name, answer.status, rows.length], answer.text).toEqual([name, 200, 1])
      const [row] = rows
      const { timestamp, ...body } = answer.body
      expect(body, name).toEqual({ ...expected, event: 'access_validation', status: 'pass', trace_id: row?.trace_id })
      expect(timestamp).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)
      const { environment, scopes, expires_at, ...columns } = body
      expect(row, name).toMatchObject({
        ...columns,
        timestamp,
        detail: { environment, scopes, expires_at },
        organization_id: world.organizationId,
        profile_id: 'customer:12',
        actor_kind: String(body.credential_id).startsWith('key_') ? 'key' : 'connection',
        actor_id: body.credential_id,
        address: expect.stringMatching(/127\.0\.0\.1/),
      })
    }
  })

  it('what the job expects and finds is a pass; the profile may be a parameter', async () => {
    const { key } = await makeToken(server, world)
    const expected = {
      workspace_id: world.workspaceId,
      environment: 'production',
      token_version: 'v1',
      profile_id: 'p-1',
    }
    const { answer, rows } = await validate(key, expected)
    expect(answer.status, answer.text).toBe(200)
    expect(rows).toMatchObject([{ status: 'pass', profile_id: 'p-1' }])
    expect(memberNames(answer.body)).toEqual(
      [
        ...['trace_id', 'workspace_id', 'user_id', 'token_version', 'event', 'status', 'timestamp'],
        ...['environment', 'scopes', 'expires_at', 'credential_id'],
      ].sort(),
    )
  })

  it('each mismatch has its code, and is recorded as failed in the workspace of the credential', async () => {
    const token = await makeToken(server, world, { environment: 'staging' })
    const jwt = await someJwt()
    const { neighbour, otherWorkspaceId } = world
    const unknown = 'ws_00000000000000000000000000'
    const cases: Array<[string, Record<string, string>, string, string]> = [
      [token.key, { workspace_id: otherWorkspaceId }, 'workspace_mismatch', otherWorkspaceId],
      [token.key, { workspace_id: neighbour.workspaceId }, 'workspace_mismatch', neighbour.workspaceId],
      [token.key, { workspace_id: unknown }, 'workspace_mismatch', unknown],
      [token.key, { environment: 'production' }, 'environment_mismatch', 'production'],
      [token.key, { token_version: 'v2' }, 'stale_version', 'v2'],
      [
        token.key,
        { workspace_id: unknown, environment: 'production', token_version: 'v9' },
        'workspace_mismatch',
        unknown,
      ],
      [jwt, { workspace_id: otherWorkspaceId }, 'workspace_mismatch', otherWorkspaceId],
      [jwt, { environment: 'staging' }, 'environment_mismatch', 'staging'],
      [jwt, { token_version: 'v12' }, 'stale_version', 'v12'],
      [world.key, { workspace_id: neighbour.workspaceId }, 'workspace_mismatch', neighbour.workspaceId],
      [world.key, { environment: 'development' }, 'environment_mismatch', 'development'],
      [world.key, { token_version: 'v2' }, 'stale_version', 'v2'],
    ]
    for (const [value, query, code, expected] of cases) {
      const { answer, rows } = await validate(value, query)
      expect([query, answer.status, answer.body.code]).toEqual([query, 403, code])
      const workspace_id = value === world.key ? null : world.workspaceId
      const where = { organization_id: world.organizationId, workspace_id }
      expect(rows).toMatchObject([{ ...where, event: 'access_validation', status: 'fail', token_version: 'v1' }])
      expect(rows[0]?.detail).toEqual({ reason: code, expected })
    }
  })

  it('an organization key is of every workspace of its organization, and of no other one', async () => {
    for (const workspace_id of [world.workspaceId, world.otherWorkspaceId]) {
      const { answer, rows } = await validate(world.key, { workspace_id })
      expect([answer.status, rows[0]?.status, rows[0]?.workspace_id]).toEqual([200, 'pass', null])
    }
    const { answer } = await validate(world.neighbour.key, { workspace_id: world.workspaceId })
    expect(answer.body.code).toBe('workspace_mismatch')
    const text = answer.text.replaceAll(/validate-\d+/g, '')
    const never = await validate(world.neighbour.key, { workspace_id: 'ws_00000000000000000000000000' })
    expect(never.answer.text.replaceAll(/validate-\d+/g, '')).toBe(text)
  })

  it('an expectation of the wrong form is 400, and says nothing of the credential', async () => {
    const { key } = await makeToken(server, world)
    for (const query of [
      { workspace_id: 'platform-ai' },
      { environment: 'prod' },
      { token_version: '3' },
      { token_version: 'v0' },
      { profile_id: 'a b' },
      { profile_id: key },
      { user_id: 'x' },
    ] as Array<Record<string, string>>) {
      const { answer, rows } = await validate(key, query)
      expect([query, answer.status, rows]).toEqual([query, 400, []])
      expect(answer.text).not.toContain(key)
    }
  })

  // --- What has ended ----------------------------------------------------------------------------------------------------

  const DEAD: Record<string, () => Promise<{ value: string; reason: string; workspaceId?: string | null }>> = {
    'a retired version': async () => {
      const token = await makeToken(server, world)
      await asKey('POST', `${tokenPath(token)}/rotate`, {})
      await asKey('POST', `${tokenPath(token)}/cutover`, {})
      return { value: token.key, reason: 'retired' }
    },
    'a revoked token': async () => {
      const token = await makeToken(server, world)
      await asKey('DELETE', tokenPath(token))
      return { value: token.key, reason: 'revoked' }
    },
    'a revoked version': async () => {
      const token = await makeToken(server, world)
      await asKey('POST', `${tokenPath(token)}/rotate`, {})
      await asKey('DELETE', `${tokenPath(token)}/versions/v1`)
      return { value: token.key, reason: 'revoked' }
    },
    'an expired token': async () => {
      const token = await makeToken(server, world, { expires_in: 60 })
      await sql`update token_versions set expires_at = now() - interval '1 second' where token_id = ${token.id}`.execute(
        server.db,
      )
      return { value: token.key, reason: 'expired' }
    },
    'a suspended token': async () => {
      const token = await makeToken(server, world)
      await asKey('POST', `${tokenPath(token)}/suspend`, {})
      return { value: token.key, reason: 'suspended' }
    },
    'a token from an address that it is not for': async () => {
      const { key } = await makeToken(server, world, { ip_allow_list: ['192.0.2.0/24'] })
      return { value: key, reason: 'address' }
    },
    'a token of an archived workspace': async () => {
      const { body } = await asKey('POST', '/workspaces', { name: newLabel() })
      const { key } = await makeToken(server, { workspaceId: body.id, key: world.key })
      await asKey('POST', `/workspaces/${body.id}/archive`, {})
      return { value: key, reason: 'ended', workspaceId: body.id }
    },
    'a revoked organization key': async () => {
      const path = `/organizations/${world.organizationId}/api-keys`
      const { body } = await asKey('POST', path, { label: newLabel() })
      await asKey('DELETE', `${path}/${body.id}`)
      return { value: body.key, reason: 'revoked', workspaceId: null }
    },
    'a JWT of a revoked token': async () => {
      const token = await makeToken(server, world)
      const value = await exchanged(server, token.key)
      await asKey('DELETE', tokenPath(token))
      return { value, reason: 'revoked' }
    },
    'a JWT of a retired version': async () => {
      const token = await makeToken(server, world)
      const value = await exchanged(server, token.key)
      await asKey('POST', `${tokenPath(token)}/rotate`, {})
      await asKey('POST', `${tokenPath(token)}/cutover`, {})
      return { value, reason: 'retired' }
    },
    'an expired JWT': async () => {
      const claims = claimsOf(await someJwt())
      return { value: await signed({ ...claims, exp: Math.floor(Date.now() / 1000) - 1 }), reason: 'expired' }
    },
    'a JWT that is over, of a token that was revoked besides': async () => {
      const token = await makeToken(server, world)
      const claims = claimsOf(await exchanged(server, token.key))
      await asKey('DELETE', tokenPath(token))
      return { value: await signed({ ...claims, exp: Math.floor(Date.now() / 1000) - 1 }), reason: 'revoked' }
    },
    'a JWT that is over, of a connection that ended besides': async () => {
      const claims = claimsOf(await someJwt())
      await asKey('DELETE', `/workspaces/${world.workspaceId}/connections/${claims.credential_id}`)
      return { value: await signed({ ...claims, exp: Math.floor(Date.now() / 1000) - 1 }), reason: 'ended' }
    },
    'a JWT that was revoked itself': async () => {
      const value = await exchanged(server, (await makeToken(server, world)).key)
      await call(server, NOBODY, 'POST', '/credentials/revoke', { body: { credentials: [value] } })
      return { value, reason: 'revoked' }
    },
    'a JWT of a connection that ended': async () => {
      const value = await someJwt()
      await asKey('DELETE', `/workspaces/${world.workspaceId}/connections/${claimsOf(value).credential_id}`)
      return { value, reason: 'ended' }
    },
    'a JWT below the floor of its connection': async () => {
      const value = await someJwt()
      const path = `/workspaces/${world.workspaceId}/connections/${claimsOf(value).credential_id}/new-version`
      await asKey('POST', path, {})
      return { value, reason: 'ended' }
    },
    'a JWT of a connection that is gone': async () => {
      const claims = claimsOf(await someJwt())
      return { value: await signed({ ...claims, credential_id: 'con_00000000000000000000000000' }), reason: 'ended' }
    },
    'a JWT of a person who was suspended': async () => {
      const person = await makePerson(server)
      await server.run('member add', { workspace: world.workspaceId, user: person.email, role: 'member' })
      const value = String((await connectPerson(server, world, person, 'read')).access_token)
      await server.run('user suspend', { user: person.userId })
      return { value, reason: 'ended' } // their connections are
    },
    'a JWT of a client that was deleted': async () => {
      const value = await clientJwt()
      await server.run('client delete', { client: claimsOf(value).client_id })
      return { value, reason: 'ended' }
    },
    'a JWT that is bound to a key, without it': async () => {
      const claims = claimsOf(await someJwt())
      return { value: await signed({ ...claims, cnf: { jkt: 'x'.repeat(43) } }), reason: 'bound' }
    },
  }

  it.each(Object.entries(DEAD))('%s is 401, and recorded where it belonged', async (_, make) => {
    const { value, reason, workspaceId = world.workspaceId } = await make()
    const { answer, rows } = await validate(value, { profile_id: 'p-2', token_version: 'v7' })
    expect(answer.status, answer.text).toBe(401)
    expect(rows).toHaveLength(1)
    expect(rows[0]).toMatchObject({
      event: 'access_validation',
      status: 'fail',
      organization_id: world.organizationId,
      workspace_id: workspaceId,
      token_version: 'v1',
      credential_id: expect.stringMatching(/^(key|con)_/),
      profile_id: 'p-2',
    })
    expect(rows[0]?.detail).toEqual({ reason })
    const never = await validate(newToken('workspace').value.reveal())
    const same = (text: string) => text.replaceAll(/validate-\d+/g, '')
    expect(same(answer.text)).toBe(same(never.answer.text))
    expect(answer.headers.get('www-authenticate')).toBe(never.answer.headers.get('www-authenticate'))
  })

  it('what is refused for a reason of staleness is found by that alone', async () => {
    const { rows } = await sql<{ reason: string }>`select distinct detail ->> 'reason' as reason from audit_events
      where event = 'access_validation' and detail ->> 'reason' in ('stale_version', 'retired', 'revoked', 'ended')`.execute(
      server.db,
    )
    expect(rows.map(({ reason }) => reason).sort()).toEqual(['ended', 'retired', 'revoked', 'stale_version'])
  })

  it('a value that never was is 401 and on no record, a browser is told that it is none', async () => {
    const before = await countOfValidations()
    const { key } = await makeToken(server, world)
    const jwt = await exchanged(server, key)
    const [head, body] = jwt.split('.')
    const person = await connectPerson(server, world, world.people.member, 'read')
    for (const value of [
      newToken('workspace').value.reveal(),
      newToken('organization').value.reveal(),
      `${key}x`,
      'x',
      `${head}.${body}.${'A'.repeat(86)}`,
      String(person.id_token),
      String(person.refresh_token),
    ]) {
      const { answer, rows } = await validate(value)
      expect([value.slice(0, 10), answer.status, answer.body.code, rows]).toEqual([
        value.slice(0, 10),
        401,
        'unauthorized',
        [],
      ])
    }
    const nobody = await call(server, NOBODY, 'GET', '/access/validate')
    expect([nobody.status, nobody.headers.get('www-authenticate')?.includes('error=')]).toEqual([401, false])
    const browser = await call(server, await signInBrowser(server, world.owner), 'GET', '/access/validate')
    expect([browser.status, browser.body.code]).toEqual([403, 'wrong_credential'])
    const inAddress = await call(server, NOBODY, 'GET', `/access/validate?access_token=${key}`)
    expect(inAddress.status).toBe(400)
    expect(await countOfValidations()).toBe(before)
  })

  // --- Nothing but the log -----------------------------------------------------------------------------------------------

  it('is no use: nothing is counted, nothing was used last, and no cutover is committed by it', async () => {
    const token = await makeToken(server, world)
    const rotated = await asKey('POST', `${tokenPath(token)}/rotate`, { cutover: 'on_first_use' })
    const connection = await connectPerson(server, world, world.people.member, 'read')
    await server.app.uses.flush()
    const state = async () => {
      const path = `/workspaces/${world.workspaceId}/connections/${claimsOf(String(connection.access_token)).credential_id}`
      const { rows: uses } = await sql`select * from token_uses where token_id = ${token.id}`.execute(server.db)
      return [(await asKey('GET', tokenPath(token))).body, (await asKey('GET', path)).body, uses]
    }
    const before = await state()
    for (const value of [token.key, rotated.body.key, String(connection.access_token)])
      for (let turn = 0; turn < 3; turn++) expect((await validate(value)).answer.status).toBe(200)
    await server.app.uses.flush()
    expect(await state()).toEqual(before)
    expect(before[2]).toEqual([])
    expect((await call(server, bearer(rotated.body.key), 'GET', '/workspaces')).status).toBe(200) // its first use
    expect((await validate(token.key)).rows[0]?.detail).toEqual({ reason: 'retired' })
  })

  it('the log never shows a pass after the end: what ends meanwhile is waited for', async () => {
    if (backend !== 'stores') return // one connection: nothing happens meanwhile
    const token = await makeToken(server, world)
    expect((await validate(token.key)).answer.status).toBe(200) // remembered
    let asked: ReturnType<typeof validate> | undefined
    await server.db.transaction().execute(async (trx) => {
      await sql`update token_lines set closed_at = now(), close_reason = 'test' where id = ${token.id}`.execute(trx)
      asked = validate(token.key)
      const waiting = sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      await expect.poll(async () => (await waiting.execute(server.db)).rows.length, { timeout: 20_000 }).toBe(1)
    })
    const outcome = await asked
    expect(outcome?.answer.status).toBe(401)
    expect(outcome?.rows).toMatchObject([{ status: 'fail' }])
  })

  it.each([
    ['the JWT itself', ({ jti }: { jti: string }) => ({ subject: `jti:${jti}`, denied: true })],
    ['its client', ({ client_id }: { client_id: string }) => ({ subject: client_id, suspended: true })],
    ['its person', ({ sub }: { sub: string }) => ({ subject: sub, notBeforeNow: true })],
  ])('nor after an end that is on the list alone: %s', async (_, endOf) => {
    if (backend !== 'stores') return // one connection: nothing happens meanwhile
    const value = await someJwt()
    let asked: ReturnType<typeof validate> | undefined
    await server.db.transaction().execute(async (trx) => {
      await sql`select 1 from workspaces where id = ${world.workspaceId} for update`.execute(trx)
      asked = validate(value)
      const waiting = sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
      await expect.poll(async () => (await waiting.execute(server.db)).rows.length, { timeout: 20_000 }).toBe(1)
      await server.app.revocations.change(async (_trx, revoke) => revoke(endOf(claimsOf(value))))
    })
    const outcome = await asked
    expect(outcome?.answer.status).toBe(401)
    expect(outcome?.rows).toMatchObject([{ status: 'fail' }])
  })

  // --- Limits --------------------------------------------------------------------------------------------------------------

  it('600 validations a minute of one credential, then 429 with the time to wait; others go on', async () => {
    const [token, other] = [await makeToken(server, world), await makeToken(server, world)]
    for (let count = 0; count < 599; count++) await server.app.ephemeral.increment('validation', token.id, 60)
    expect((await validate(token.key)).answer.status).toBe(200)
    const { answer, rows } = await validate(token.key)
    expect([answer.status, answer.body.code, rows]).toEqual([429, 'too_many_requests', []])
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await validate(other.key)).answer.status).toBe(200)
  })

  it('of one that has ended thirty a minute are recorded one by one, the rest together, and none counts as presented', async () => {
    const token = await makeToken(server, world)
    await asKey('DELETE', tokenPath(token))
    for (let count = 0; count < 34; count++) expect((await validate(token.key)).answer.status).toBe(401)
    await server.app.uses.flush()
    const rows = await server.db
      .selectFrom('audit_events')
      .selectAll()
      .where('credential_id', '=', token.id)
      .where('event', '=', 'access_validation')
      .execute()
    const together = rows.filter(({ detail }) => 'count' in detail)
    expect(rows.length - together.length).toBe(30)
    expect(together.reduce((sum, { detail }) => sum + Number(detail.count), 0)).toBe(4)
    expect(together[0]).toMatchObject({
      status: 'fail',
      workspace_id: world.workspaceId,
      detail: { reason: 'revoked' },
    })
    const version = await server.db
      .selectFrom('token_versions')
      .selectAll()
      .where('token_id', '=', token.id as never)
      .executeTakeFirstOrThrow()
    expect([version.refused_count, version.refused_at]).toEqual([0, null])
  })

  // --- JWTs at the API itself ----------------------------------------------------------------------------------------------

  it('a JWT that does not stand any more is a refusal on record where it belonged; others are none', async () => {
    const person = await connectPerson(server, world, world.people.admin, 'read')
    const value = String(person.access_token)
    const { credential_id, client_id } = claimsOf(value)
    await asKey('DELETE', `/workspaces/${world.workspaceId}/connections/${credential_id}`)
    const token = await makeToken(server, world)
    const ofToken = await exchanged(server, token.key)
    await asKey('DELETE', tokenPath(token))
    for (let count = 0; count < 5; count++) {
      expect((await call(server, bearer(value), 'GET', '/workspaces')).status).toBe(401)
      expect((await call(server, bearer(ofToken), 'GET', '/workspaces')).status).toBe(401)
    }
    // No refusal to tell of: it is how a client learns to refresh.
    const expired = await signed({ ...claimsOf(await someJwt()), exp: Math.floor(Date.now() / 1000) - 5 })
    expect((await call(server, bearer(expired), 'GET', '/workspaces')).status).toBe(401)
    const forOther = (await exchange(server, (await makeToken(server, world)).key, { resource: OTHER_API })).body
      .access_token
    const forged = `${value.slice(0, -10)}AAAAAAAAAA`
    for (const other of [forOther, forged, `x${value}`])
      expect((await call(server, bearer(other), 'GET', '/workspaces')).status).toBe(401)
    await server.app.uses.flush()
    const rows = await server.db.selectFrom('audit_events').selectAll().where('event', '=', 'access.refused').execute()
    const counted = new Map<string, number>()
    for (const { credential_id: id, detail } of rows) {
      const name = `${id} ${detail.reason}`
      counted.set(name, (counted.get(name) ?? 0) + Number(detail.count))
    }
    expect(counted).toEqual(
      new Map([
        [`${credential_id} ended`, 5],
        [`${token.id} revoked`, 5],
      ]),
    )
    for (const row of rows)
      expect(row).toMatchObject({ status: 'fail', workspace_id: world.workspaceId, token_version: 'v1' })
    const ofConnection = rows.find((row) => row.credential_id === credential_id)
    expect(ofConnection).toMatchObject({ actor_kind: 'connection', client_id, user_id: world.people.admin.userId })
    const { refused_count } = await server.db
      .selectFrom('token_versions')
      .selectAll()
      .where('token_id', '=', token.id as never)
      .executeTakeFirstOrThrow()
    expect(refused_count).toBe(0) // nobody presented the value itself
  })

  it('nobody else hears of a validation: the neighbour has no record of it', async () => {
    const { organizationId } = world.neighbour
    const ofNeighbour = () =>
      server.db
        .selectFrom('audit_events')
        .select('id')
        .where('organization_id', '=', organizationId)
        .where('event', 'in', ['access_validation', 'access.refused'])
        .execute()
    const before = await ofNeighbour()
    const { key } = await makeToken(server, world)
    await validate(key, { workspace_id: world.neighbour.workspaceId })
    await validate(world.key, { workspace_id: world.neighbour.workspaceId })
    expect(await ofNeighbour()).toEqual(before)
  })
})

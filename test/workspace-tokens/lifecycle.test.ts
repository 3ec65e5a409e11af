// The life of a pasted token: rotated, cut over, revoked, expired; and what is dead stays dead (product §3, threats F-06,
// F-08, F-21).
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import {
  type ApiWorld,
  bearer,
  type CallOptions,
  call,
  exchange,
  exchanged,
  type MadeToken,
  makeApiWorld,
  makeResourceServer,
  makeToken,
  newLabel,
  postForm,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import type { TestClient } from '../support/world.ts'

const API = 'https://traces.example.com'
const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(BACKENDS)('a pasted token (%s)', (backend) => {
  let server: TestServer
  let world: ApiWorld
  let api: TestClient
  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeApiWorld(server)
    api = await makeResourceServer(server, API)
  })
  afterAll(() => server?.close())

  const path = () => `/workspaces/${world.workspaceId}/api-keys`
  const asKey = (method: string, suffix: string, options?: CallOptions) =>
    call(server, bearer(world.key), method, path() + suffix, options)
  const rotate = (id: string, body: object = {}) => asKey('POST', `/${id}/rotate`, { body })
  const cutOver = (id: string) => asKey('POST', `/${id}/cutover`)
  const detail = async (id: string) => (await asKey('GET', `/${id}`)).body
  const make = (input: Record<string, unknown> = {}) =>
    makeToken(server, world, { permissions: ['read', 'traces:read'], ...input })
  const statusOf = async (value: string) =>
    (await call(server, bearer(value), 'GET', `/workspaces/${world.workspaceId}`)).status
  const introspect = async (value: string, more: Record<string, string> = {}) =>
    (await postForm(server, '/introspect', { token: value, ...more }, api)).body
  const works = async (value: string) => {
    const [status, asked] = [await statusOf(value), await introspect(value)]
    expect(asked.active).toBe(status === 200) // both doors say the same
    expect([200, 401]).toContain(status)
    return status === 200
  }
  const rotated = async (token: MadeToken, body: object = {}): Promise<string> => {
    const answer = await rotate(token.id, body)
    expect(answer.status, answer.text).toBe(201)
    return answer.body.key
  }
  const audited = async (id: string, event: string) =>
    (
      await sql<{ detail: Record<string, unknown>; token_version: string; actor_id: string; status: string }>`
        select * from audit_events where credential_id = ${id} and event = ${event} order by recorded_at`.execute(
        server.db,
      )
    ).rows

  // --- Rotation ------------------------------------------------------------------------------------------------------

  it('manual: both versions work until the cutover, which retires the older one with its JWTs at once', async () => {
    const token = await make()
    const oldJwt = await exchanged(server, token.key)
    const answer = await rotate(token.id)
    expect(answer.status).toBe(201)
    expect(answer.body).toMatchObject({ id: token.id, label: token.label, token_version: 'v2', is_active: true })
    expect(answer.body.key_prefix).not.toBe(token.key_prefix)
    const next = answer.body.key
    expect([await works(token.key), await works(next), await statusOf(oldJwt)]).toEqual([true, true, 200])
    expect((await detail(token.id)).versions.map(({ state }: { state: string }) => state)).toEqual([
      'active',
      'overlap',
    ])
    expect((await detail(token.id)).cutover).toEqual({ mode: 'manual', at: null, after_seconds: null })
    expect((await cutOver(token.id)).status).toBe(200)
    expect([await works(token.key), await works(next), await statusOf(oldJwt)]).toEqual([false, true, 401])
    expect((await introspect(oldJwt)).active).toBe(false)
    expect((await detail(token.id)).cutover).toBeNull()
    expect((await cutOver(token.id)).status).toBe(200) // once more changes nothing
    expect(await works(next)).toBe(true)
    expect(await audited(token.id, 'token.cut_over')).toHaveLength(1)
  })

  it('two versions at most: a third is 409 cutover_pending until one of them is gone', async () => {
    const token = await make()
    const second = await rotated(token)
    const refused = await rotate(token.id)
    expect([refused.status, refused.body.code]).toEqual([409, 'cutover_pending'])
    await cutOver(token.id)
    const third = await rotated(token)
    expect([await works(token.key), await works(second), await works(third)]).toEqual([false, true, true])
    expect((await asKey('DELETE', `/${token.id}/versions/v3`)).status).toBe(204)
    const fourth = await rotated(token)
    expect((await detail(token.id)).token_version).toBe('v4')
    expect([await works(second), await works(third), await works(fourth)]).toEqual([true, false, true])
  })

  it('two rotations at once: one wins, the other is 409', async () => {
    for (let round = 0; round < 3; round++) {
      const token = await make()
      const answers = await Promise.all([rotate(token.id), rotate(token.id), rotate(token.id)])
      expect(answers.map(({ status }) => status).sort()).toEqual([201, 409, 409])
      expect((await detail(token.id)).versions).toHaveLength(2)
    }
  })

  it('on_first_use: the first successful use of the new value ends the old one before it is answered', async () => {
    const token = await make()
    const oldJwt = await exchanged(server, token.key)
    const next = await rotated(token, { cutover: 'on_first_use' })
    expect([await works(token.key), await statusOf(oldJwt)]).toEqual([true, 200])
    expect(await statusOf(next)).toBe(200)
    expect([await works(token.key), await statusOf(oldJwt), await works(next)]).toEqual([false, 401, true])
    expect(await audited(token.id, 'token.cut_over')).toHaveLength(1)
  })

  it('on_first_use: introspection and exchange are uses too, an API for which the token is not is none', async () => {
    const stranger = await makeResourceServer(server, `https://${newLabel().replace(' ', '-')}.example.com`, {
      scopes: [{ name: 'else:read', least_role: 'member' }],
    })
    for (const use of [introspect, (value: string) => exchanged(server, value)]) {
      const token = await make()
      const next = await rotated(token, { cutover: 'on_first_use' })
      expect((await postForm(server, '/introspect', { token: next }, stranger)).body).toEqual({ active: false })
      expect((await exchange(server, next, { resource: 'https://nothing.example' })).status).toBe(400)
      expect((await exchange(server, next, { scope: 'manage' })).status).toBe(400)
      expect(await works(token.key)).toBe(true)
      await use(next)
      expect(await works(token.key)).toBe(false)
    }
  })

  it('on_first_use at many doors at once commits one cutover, and no answer comes before it', async () => {
    const token = await make()
    const next = await rotated(token, { cutover: 'on_first_use' })
    const order = await Promise.all(
      Array.from({ length: 10 }, async () => [await statusOf(next), await statusOf(token.key)]),
    )
    expect(order).toEqual(Array(10).fill([200, 401]))
    expect(await audited(token.id, 'token.cut_over')).toHaveLength(1)
  })

  it('on_first_use with after_seconds: the old value works that much longer, by the database, and no longer', async () => {
    const token = await make()
    const next = await rotated(token, { cutover: 'on_first_use', after_seconds: 1 })
    expect(await statusOf(next)).toBe(200)
    expect(await statusOf(token.key)).toBe(200)
    expect((await detail(token.id)).cutover).toMatchObject({ mode: 'at', at: expect.any(String) })
    const jwt = await exchange(server, token.key)
    expect(jwt.status === 400 || jwt.body.expires_in <= 1).toBe(true) // never longer than the cutover
    await new Promise((resolve) => setTimeout(resolve, 1_050))
    expect([await statusOf(token.key), await statusOf(next)]).toEqual([401, 200])
  })

  it('at: the old value works until that time; a time that is past is refused', async () => {
    const token = await make()
    const past = await rotate(token.id, { cutover: 'at', at: '2020-01-01T00:00:00Z' })
    expect([past.status, past.body.code]).toEqual([400, 'invalid_request'])
    const at = new Date(Date.now() + 1_200).toISOString()
    const next = await rotated(token, { cutover: 'at', at })
    expect([await works(token.key), await works(next)]).toEqual([true, true])
    await new Promise((resolve) => setTimeout(resolve, 1_300))
    expect([await works(token.key), await works(next)]).toEqual([false, true])
  })

  it.each([
    ['at without a time', { cutover: 'at' }],
    ['a time without at', { at: '2099-01-01T00:00:00Z' }],
    ['seconds without on_first_use', { after_seconds: 5 }],
    ['seconds with at', { cutover: 'at', at: '2099-01-01T00:00:00Z', after_seconds: 5 }],
    ['negative seconds', { cutover: 'on_first_use', after_seconds: -1 }],
    ['too many seconds', { cutover: 'on_first_use', after_seconds: 86_401 }],
    ['an unknown mode', { cutover: 'now' }],
    ['both expiries', { expires_in: 3_600, expires_at: '2099-01-01T00:00:00Z' }],
  ])('a rotation with %s is 400 and makes nothing', async (_, body) => {
    const token = await make()
    expect((await rotate(token.id, body)).status).toBe(400)
    expect((await detail(token.id)).versions).toHaveLength(1)
  })

  // --- What is dead stays dead ---------------------------------------------------------------------------------------

  const CUTOVER_IS_DUE = (id: string) =>
    sql`update token_lines set cutover = 'at', cutover_at = now() - interval '1 second' where id = ${id}`.execute(
      server.db,
    )

  it('a version that a timed cutover has retired is not revived by a rotation just after', async () => {
    for (let round = 0; round < 3; round++) {
      const token = await make()
      const second = await rotated(token, { cutover: 'at', at: new Date(Date.now() + 3_600_000).toISOString() })
      await CUTOVER_IS_DUE(token.id) // and nobody has written it down yet
      const third = await rotated(token)
      expect([await works(token.key), await works(second), await works(third)]).toEqual([false, true, true])
    }
  })

  it('a version that a timed cutover has retired is not revived by revoking the newest', async () => {
    for (let round = 0; round < 3; round++) {
      const token = await make()
      const second = await rotated(token, { cutover: 'at', at: new Date(Date.now() + 3_600_000).toISOString() })
      await CUTOVER_IS_DUE(token.id)
      await asKey('DELETE', `/${token.id}/versions/v2`)
      expect([await works(token.key), await works(second)]).toEqual([false, false])
    }
  })

  it('a version that a timed cutover has retired is not revived by a report that the newest leaked', async () => {
    const token = await make()
    const second = await rotated(token, { cutover: 'at', at: new Date(Date.now() + 3_600_000).toISOString() })
    await CUTOVER_IS_DUE(token.id)
    await call(server, { headers: {} }, 'POST', '/credentials/revoke', { body: { credentials: [second] } })
    expect([await works(token.key), await works(second)]).toEqual([false, false])
  })

  it('revoking the newest version calls its cutover off: the older one goes on', async () => {
    const token = await make()
    const second = await rotated(token, { cutover: 'on_first_use' })
    expect((await asKey('DELETE', `/${token.id}/versions/v2`)).status).toBe(204)
    expect([await works(second), await works(token.key)]).toEqual([false, true])
    expect((await detail(token.id)).cutover).toBeNull()
  })

  it('revoking a version ends it and its JWTs, and nothing else', async () => {
    const token = await make()
    const second = await rotated(token)
    const [firstJwt, secondJwt] = [await exchanged(server, token.key), await exchanged(server, second)]
    expect((await asKey('DELETE', `/${token.id}/versions/v1`)).status).toBe(204)
    expect([await works(token.key), await works(second)]).toEqual([false, true])
    expect([await statusOf(firstJwt), await statusOf(secondJwt)]).toEqual([401, 200])
    expect((await asKey('DELETE', `/${token.id}/versions/v1`)).status).toBe(204)
    for (const version of ['v0', 'v3', '1', 'v01', 'v1x', 'v99999999999', 'V1'])
      expect((await asKey('DELETE', `/${token.id}/versions/${version}`)).status).toBe(404)
  })

  it('revoking a line ends every version and JWT; nothing makes it live again', async () => {
    const token = await make()
    const second = await rotated(token)
    const jwt = await exchanged(server, second)
    expect((await asKey('DELETE', `/${token.id}`)).status).toBe(204)
    expect([await works(token.key), await works(second), await statusOf(jwt)]).toEqual([false, false, 401])
    expect((await exchange(server, second)).body.error).toBe('invalid_request')
    for (const [method, suffix] of [
      ['POST', '/rotate'],
      ['POST', '/cutover'],
    ] as const) {
      const answer = await asKey(method, `/${token.id}${suffix}`, { body: {} })
      expect([answer.status, answer.body.code]).toEqual([409, 'token_ended'])
    }
    expect((await asKey('PATCH', `/${token.id}`, { body: { expires_at: null, is_active: true } })).status).toBe(405)
    expect((await asKey('DELETE', `/${token.id}`)).status).toBe(204)
    expect(await detail(token.id)).toMatchObject({ is_active: false, revoked_at: expect.any(String) })
    expect((await asKey('GET', '')).text).not.toContain(token.id)
    expect((await asKey('GET', '?filter=all')).text).toContain(token.id)
    expect(await audited(token.id, 'token.revoked')).toHaveLength(1)
  })

  it('an expired version is refused everywhere, and a rotation makes another, never it again', async () => {
    const token = await make({ expires_in: 3_600 })
    const jwt = await exchange(server, token.key)
    expect(jwt.body.expires_in).toBe(600)
    await sql`update token_versions set expires_at = now() + interval '1 second' where token_id = ${token.id}`.execute(
      server.db,
    )
    await sql`update token_lines set created_at = created_at where id = ${token.id}`.execute(server.db)
    await new Promise((resolve) => setTimeout(resolve, 1_100))
    await rotated(await make()) // any change: what was remembered is read again
    const fresh = await rotated(token)
    expect([await works(token.key), await works(fresh)]).toEqual([false, true])
    expect((await detail(token.id)).versions[1]).toMatchObject({ state: 'expired', token_version: 'v1' })
    const expiry = new Date((await detail(token.id)).expires_at).getTime()
    expect(Math.abs(expiry - Date.now())).toBeLessThan(10_000) // as long a life as the one before was given
  })

  it('an expiry that is past, or nonsense, makes nothing', async () => {
    for (const expiry of [
      { expires_at: '2020-01-01T00:00:00Z' },
      { expires_at: 'tomorrow' },
      { expires_at: '2099-02-30T00:00:00Z' },
      { expires_at: '2099-01-01' },
      { expires_at: 4_102_444_800 },
      { expires_in: 0 },
      { expires_in: 59 },
      { expires_in: 1.5 },
      { expires_in: '3600' },
      { expires_in: Number.MAX_SAFE_INTEGER },
      { expires_in: 3_600, expires_at: '2099-01-01T00:00:00Z' },
    ]) {
      const answer = await asKey('POST', '', { body: { label: newLabel(), permissions: ['read'], ...expiry } })
      expect([expiry, answer.status]).toEqual([expiry, 400])
    }
    const offset = await make({ expires_at: '2099-01-01T02:00:00+02:00' })
    expect(offset.expires_at).toBe('2099-01-01T00:00:00Z')
  })

  // --- What it says of itself ----------------------------------------------------------------------------------------

  it('a retired value that is presented again is refused, recorded once with the count, and shown with its version', async () => {
    const token = await make()
    await rotated(token)
    await cutOver(token.id)
    await server.app.uses.flush()
    for (let round = 0; round < 5; round++) {
      const answer = await call(server, bearer(token.key), 'GET', '/workspaces', {
        headers: { 'user-agent': 'old-job/1', 'x-trace-id': `reuse-${round}` },
      })
      expect(answer.status).toBe(401)
    }
    expect((await introspect(token.key)).active).toBe(false)
    expect((await exchange(server, token.key)).status).toBe(400)
    await server.app.uses.flush()
    const records = await audited(token.id, 'token.reuse_detected')
    const counts = records.map(({ detail: { count } }) => Number(count))
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(7)
    expect(records.length).toBeLessThanOrEqual(3) // one a batch, whoever the callers were
    expect(records[0]).toMatchObject({ status: 'fail', token_version: 'v1', trace_id: 'reuse-0' })
    const [, retired] = (await detail(token.id)).versions
    expect(retired).toMatchObject({ state: 'retired', refused_count: 7, refused_at: expect.any(String) })
  })

  it('shows the last use of each version at most five seconds late, with address and agent, and records the first', async () => {
    const token = await make()
    expect((await detail(token.id)).versions[0]).toMatchObject({ last_used_at: null, last_used_address: null })
    for (let round = 0; round < 3; round++)
      await call(server, bearer(token.key), 'GET', '/workspaces', { headers: { 'user-agent': 'job/2 (\u00e9)' } })
    const until = Date.now() + 5_000
    let shown: Record<string, unknown> = {}
    while (Date.now() < until) {
      shown = (await detail(token.id)).versions[0]
      if (shown.last_used_at !== null) break
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    expect(shown).toMatchObject({ last_used_address: '127.0.0.1', last_used_agent: expect.stringContaining('job/2') })
    expect(Math.abs(new Date(String(shown.last_used_at)).getTime() - Date.now())).toBeLessThan(7_000)
    expect((await detail(token.id)).last_used_at).toBe(shown.last_used_at)
    await call(server, bearer(token.key), 'GET', '/workspaces')
    await server.app.uses.flush()
    expect(await audited(token.id, 'token.first_used')).toHaveLength(1)
    await introspect(token.key) // the API does not say where it was used
    await server.app.uses.flush()
    const last = (await detail(token.id)).versions[0]
    expect(last.last_used_address).toBeNull()
  })

  it('lists what is unused for 90 days, and what expires within seven', async () => {
    const [old, young] = [await make(), await make()]
    const soon = await make({ expires_in: 6 * 86_400 })
    const later = await make({ expires_in: 8 * 86_400 })
    await sql`update token_versions set created_at = now() - interval '91 days' where token_id = ${old.id}`.execute(
      server.db,
    )
    const ids = async (filter: string) => (await asKey('GET', `?filter=${filter}`)).body.map(({ id }: MadeToken) => id)
    const unused = await ids('unused')
    expect([unused.includes(old.id), unused.includes(young.id)]).toEqual([true, false])
    const expiring = await ids('expiring')
    expect([expiring.includes(soon.id), expiring.includes(later.id), expiring.includes(young.id)]).toEqual([
      true,
      false,
      false,
    ])
    await statusOf(old.key)
    await server.app.uses.flush()
    expect(await ids('unused')).not.toContain(old.id)
    expect((await asKey('GET', '?filter=unused&limit=1')).status).toBe(200)
    expect((await asKey('GET', '?environment=staging')).body).toEqual([])
  })

  it('finds what a filter asks for in few queries, however small the pages are', async () => {
    const place = world.neighbour
    const made: MadeToken[] = []
    for (let count = 0; count < 30; count++) made.push(await makeToken(server, place, { permissions: ['read'] }))
    const old = [made[9], made[25]].map((token) => String(token?.id))
    await sql`update token_versions set created_at = now() - interval '91 days' where token_id = any(${old}::text[])`.execute(
      server.db,
    )
    const queries = vi.spyOn(server.db.getExecutor(), 'executeQuery')
    try {
      const found: string[] = []
      let next: string | undefined = `/workspaces/${place.workspaceId}/api-keys?filter=unused&limit=1`
      while (next !== undefined) {
        queries.mockClear()
        const page = await call(server, bearer(place.key), 'GET', next)
        expect([page.status, page.body.length]).toEqual([200, 1])
        const lists = queries.mock.calls.filter(([query]) => /from "token_lines".*limit/.test(query.sql))
        expect(lists).toHaveLength(1)
        found.push(page.body[0].id)
        next = /<\/api\/v1([^>]+)>; rel="next"/.exec(page.headers.get('link') ?? '')?.[1]
      }
      expect(found).toEqual(old)
    } finally {
      queries.mockRestore()
    }
  })

  it('a token describes, rotates and revokes itself, whatever its permissions are', async () => {
    const token = await makeToken(server, world, { permissions: ['traces:read'] })
    const self = `${path()}/self`
    const described = await call(server, bearer(token.key), 'GET', self)
    expect([described.status, described.body.id]).toEqual([200, token.id])
    expect(described.body).not.toHaveProperty('key')
    const rotation = await call(server, bearer(token.key), 'POST', self, { body: { cutover: 'on_first_use' } })
    expect([rotation.status, rotation.body.token_version]).toEqual([201, 'v2'])
    const next = rotation.body.key
    expect((await call(server, bearer(next), 'GET', self)).status).toBe(200)
    expect((await call(server, bearer(token.key), 'GET', self)).status).toBe(401)
    expect((await call(server, bearer(next), 'DELETE', self)).status).toBe(204)
    expect((await call(server, bearer(next), 'GET', self)).status).toBe(401)
    expect(await detail(token.id)).toMatchObject({ is_active: false })
  })

  it('a token that revokes itself and rotates itself at once leaves nothing that works', async () => {
    for (let round = 0; round < 5; round++) {
      const token = await make()
      const self = `${path()}/self`
      const [rotation, revocation] = await Promise.all([
        call(server, bearer(token.key), 'POST', self, { body: {} }),
        call(server, bearer(token.key), 'DELETE', self),
      ])
      expect([201, 401, 409]).toContain(rotation.status)
      expect([204, 401]).toContain(revocation.status)
      expect(revocation.status).toBe(204)
      expect(await works(token.key)).toBe(false)
      if (rotation.status === 201) expect(await works(rotation.body.key)).toBe(false)
    }
  })

  // --- Policy --------------------------------------------------------------------------------------------------------

  describe('the token policy', () => {
    const open = { tokens_forbidden: false, expiry_required: false, max_age_days: null, environments: null }
    const set = async (policy: object) => {
      const answer = await call(
        server,
        bearer(world.key),
        'PUT',
        `/workspaces/${world.otherWorkspaceId}/token-policy`,
        {
          body: { ...open, ...policy },
        },
      )
      expect([answer.status, answer.body]).toEqual([200, { ...open, ...policy }])
      const read = await call(server, bearer(world.key), 'GET', `/workspaces/${world.otherWorkspaceId}/token-policy`)
      expect(read.body).toEqual(answer.body)
    }
    const tokens = () => `/workspaces/${world.otherWorkspaceId}/api-keys`
    const tryMaking = async (input: object = {}) => {
      const body = { label: newLabel(), permissions: ['read'], ...input }
      return call(server, bearer(world.key), 'POST', tokens(), { body })
    }
    const tryRotating = (id: string, body: object = {}) =>
      call(server, bearer(world.key), 'POST', `${tokens()}/${id}/rotate`, { body })

    it.each([
      ['forbids tokens', { tokens_forbidden: true }, {}, undefined],
      ['requires an expiry', { expiry_required: true }, {}, { expires_in: 3_600 }],
      ['has a maximum age', { max_age_days: 2 }, { expires_in: 3 * 86_400 }, { expires_in: 86_400 }],
      ['has a maximum age, and no end is longer', { max_age_days: 2 }, { expires_at: null }, { expires_in: 86_400 }],
      ['allows some environments', { environments: ['staging'] }, {}, { environment: 'staging' }],
      ['allows no environment', { environments: [] }, { environment: 'staging' }, undefined],
    ])('that %s is kept when tokens are made and rotated', async (_, policy, bad, good) => {
      await set({})
      const before = await tryMaking(bad)
      expect(before.status).toBe(201)
      await set(policy)
      for (const answer of [await tryMaking(bad), await tryRotating(before.body.id)])
        expect([answer.status, answer.body.code]).toEqual([403, 'policy_forbids'])
      if (good !== undefined) expect((await tryMaking(good)).status).toBe(201)
      expect((await call(server, bearer(before.body.key), 'GET', '/workspaces')).status).toBe(200) // what was there stays
      await set({})
    })

    it('a value outside of its shape is 400', async () => {
      for (const wrong of [
        { max_age_days: 0 },
        { max_age_days: 1.5 },
        { max_age_days: -1 },
        { environments: ['prod'] },
        { environments: 'staging' },
        { tokens_forbidden: 'yes' },
        { unknown: true },
      ]) {
        const answer = await call(
          server,
          bearer(world.key),
          'PUT',
          `/workspaces/${world.otherWorkspaceId}/token-policy`,
          {
            body: { ...open, ...wrong },
          },
        )
        expect([wrong, answer.status]).toEqual([wrong, 400])
      }
    })
  })
})

// Connections to providers: one a type, verified, replaced, deleted; the key is in no answer, record, line or row.
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { OrganizationId, WorkspaceId } from '../../src/ids.ts'
import {
  checkInBackground,
  checkProvider,
  checkUnchecked,
  getProvider,
  noteWorkingCall,
  openCredentials,
  resealUnderNewest,
  rotateDataKey,
} from '../../src/providers/service.ts'
import { type Answer, type ApiWorld, bearer, call, listen, makeApiWorld, newLabel } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { json, MODELS, startUpstream, type Upstream } from '../support/upstream.ts'

const KEY = 'sk-ant-canary-0123456789abcdefghijklmnopqrstuvwxyz'

let server: TestServer
let world: ApiWorld
let upstream: Upstream
let workspaceId: WorkspaceId
const answers: string[] = []
let unlisten: () => void
beforeAll(async () => {
  upstream = await startUpstream()
  server = await startServer({
    backend: hasStores() ? 'stores' : 'embedded',
    environment: { LATCHKEY_OUTBOUND_PRIVATE: 'loopback' },
  })
  world = await makeApiWorld(server)
  unlisten = listen(({ text, headers }) => answers.push(text, JSON.stringify([...headers])))
})
afterAll(async () => {
  unlisten?.()
  await server?.close()
  await upstream?.close()
})
beforeEach(async () => {
  upstream.answer(json(200, MODELS))
  upstream.asked.length = 0
  const made = await call(server, world.people.owner, 'POST', '/workspaces', {
    body: { name: newLabel(), organization_id: world.organizationId },
  })
  workspaceId = made.body.id
})

const manager = () => bearer(world.key)
const path = (rest = '') => `/workspaces/${workspaceId}/providers${rest}`
const body = (more: object = {}, key = KEY) => ({
  credentials_type: 'api_token',
  credentials: { api_token: key },
  base_url: upstream.url,
  ...more,
})
const create = (more: object = {}, key = KEY) =>
  call(server, manager(), 'POST', path(), { body: { provider_type: 'anthropic', ...body(more, key) } })
const made = async (more: object = {}): Promise<string> => {
  const answer = await create(more)
  expect(answer.status, answer.text).toBe(201)
  return answer.body.id
}
const shown = async (id: string) => (await call(server, manager(), 'GET', path(`/${id}`))).body
const verify = (id: string) => call(server, manager(), 'POST', path(`/${id}/verify`), { body: {} })
async function checked(id: string) {
  for (let tries = 0; tries < 200; tries++) {
    const connection = await shown(id)
    if (connection.checked_at !== null) return connection
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  throw new Error('nobody checked it')
}
function refused(answer: Answer, status: number, code: string): void {
  expect([answer.status, answer.body.code], answer.text).toEqual([status, code])
}
const records = (event: string) =>
  server.db
    .selectFrom('audit_events')
    .selectAll()
    .where('workspace_id', '=', workspaceId)
    .where('event', '=', event)
    .execute()

describe('a provider connection', () => {
  it('waits to be verified, and is once the provider has taken its key', async () => {
    const answer = await create()
    expect(answer.body).toEqual({
      id: expect.stringMatching(/^prv_/),
      workspace_id: workspaceId,
      provider_type: 'anthropic',
      credentials_type: 'api_token',
      base_url: upstream.url,
      status: 'pending_verification',
      status_reason: null,
      checked_at: null,
      created_at: expect.any(String),
      changed_at: expect.any(String),
    })
    expect(await checked(answer.body.id)).toMatchObject({ status: 'verified', status_reason: null })
    expect(upstream.asked).toMatchObject([
      { method: 'GET', path: '/v1/models?limit=1', headers: { 'x-api-key': KEY, 'anthropic-version': '2023-06-01' } },
    ])
    expect(await records('provider.created')).toHaveLength(1)
    expect(await records('provider.verified')).toMatchObject([{ actor_kind: 'schedule' }])
  })

  it('is one a provider and workspace', async () => {
    await made()
    refused(await create(), 409, 'conflict')
    expect(
      (await call(server, manager(), 'POST', path(), { body: { provider_type: 'openai', ...body() } })).status,
    ).toBe(201)
    const both = await Promise.all(
      [1, 2, 3, 4].map(() =>
        call(server, manager(), 'POST', `/workspaces/${world.workspaceId}/providers`, {
          body: { provider_type: 'openai', ...body() },
        }),
      ),
    )
    expect(both.map(({ status }) => status).sort()).toEqual([201, 409, 409, 409])
    const listed = await call(server, manager(), 'GET', path())
    expect(listed.body.map((one: { provider_type: string }) => one.provider_type)).toEqual(['anthropic', 'openai'])
  })

  it.each([
    ['refuses the key', json(401, { error: KEY }), 'failed', 'refused'],
    ['does not let it list models', json(403, {}), 'pending_verification', 'forbidden'],
    ['has no list of models', json(404, {}), 'pending_verification', 'no_list'],
    ['says yes to everything', json(200, { fine: true }), 'failed', 'unexpected_answer'],
    [
      'is no JSON',
      (_: unknown, response: import('node:http').ServerResponse) => void response.end('<html>'),
      'failed',
      'unexpected_answer',
    ],
    ['is busy', json(429, {}), 'pending_verification', 'busy'],
    ['is broken', json(500, {}), 'pending_verification', 'busy'],
    [
      'hangs up',
      (_: unknown, response: import('node:http').ServerResponse) => void response.destroy(),
      'pending_verification',
      'unreachable',
    ],
    [
      'sends more than an answer is long',
      json(200, { data: ['x'.repeat(100_000)] }),
      'pending_verification',
      'too_large',
    ],
  ])('says what came of a check when the provider %s', async (_name, answering, status, reason) => {
    upstream.answer(answering)
    expect(await checked(await made())).toMatchObject({ status, status_reason: reason })
  })

  it('follows no redirect: the key goes nowhere else', async () => {
    const elsewhere = await startUpstream()
    try {
      upstream.answer(
        (_asked, response) => void response.writeHead(302, { location: `${elsewhere.url}/v1/models` }).end(),
      )
      expect(await checked(await made())).toMatchObject({ status: 'failed', status_reason: 'redirected' })
      expect(elsewhere.asked).toEqual([])
    } finally {
      await elsewhere.close()
    }
  })

  it('that was verified stays so while its provider is away, and fails when its key is refused', async () => {
    const id = await made()
    await checked(id)
    upstream.answer(json(503, {}))
    expect((await verify(id)).body).toMatchObject({ status: 'verified', status_reason: 'busy' })
    upstream.answer(json(401, {}))
    expect((await verify(id)).body).toMatchObject({ status: 'failed', status_reason: 'refused' })
    expect(await records('provider.verification_failed')).toMatchObject([{ status: 'fail', actor_kind: 'key' }])
    upstream.answer(json(200, MODELS))
    expect((await verify(id)).body).toMatchObject({ status: 'verified', status_reason: null })
  })

  /** From now on the provider waits with each answer for its turn: they are given in the order that the caller wants. */
  function holdAnswers(): Array<(status: number, body?: unknown) => void> {
    const held: Array<(status: number, body?: unknown) => void> = []
    upstream.answer((asked, response) => {
      held.push((status, sent = {}) => void json(status, sent)(asked, response))
    })
    return held
  }

  it('that is refused stays failed when an earlier check ends later and tells nothing', async () => {
    const id = await made()
    await checked(id)
    const held = holdAnswers()
    const early = verify(id)
    await expect.poll(() => held.length).toBe(1)
    const late = verify(id)
    await expect.poll(() => held.length).toBe(2)
    held[1]?.(401)
    expect((await late).body).toMatchObject({ status: 'failed', status_reason: 'refused' })
    held[0]?.(500)
    expect((await early).body).toMatchObject({ status: 'failed', status_reason: 'busy' })
  })

  it('is not verified by what is learned late of a key that it has no more', async () => {
    const held = holdAnswers()
    const id = await made()
    await expect.poll(() => held.length).toBe(1)
    const older = await getProvider(server.db, workspaceId, id)
    await call(server, manager(), 'PUT', path(`/${id}`), { body: body({}, `${KEY}-next`) })
    await expect.poll(() => held.length).toBe(2)
    held[1]?.(401)
    await expect.poll(async () => (await shown(id)).status).toBe('failed')
    held[0]?.(200, MODELS)
    const by = { actor: { kind: 'schedule' } as const, request: { traceId: 'late' }, userId: null }
    await noteWorkingCall(server.db, older, by)
    await expect.poll(() => server.app.providers.checking.size).toBe(0)
    expect(await shown(id)).toMatchObject({ status: 'failed', status_reason: 'refused' })
    expect(await records('provider.verified')).toEqual([])
  })

  it('is asked about once at a time by itself, and a record tells of what is new', async () => {
    const id = await made()
    await checked(id)
    await expect.poll(() => server.app.providers.checking.size).toBe(0)
    const connection = await getProvider(server.db, workspaceId, id)
    const check = () => checkInBackground(server.app.providers, connection)
    const held = holdAnswers()
    const first = check()
    await expect.poll(() => held.length).toBe(1)
    await Promise.all([check(), check(), check()])
    expect(held).toHaveLength(1)
    held[0]?.(503)
    await first
    upstream.answer(json(503, {}))
    for (let turn = 0; turn < 3; turn++) await check()
    expect(await records('provider.verification_inconclusive')).toHaveLength(1)
    await verify(id) // somebody asked
    expect(await records('provider.verification_inconclusive')).toHaveLength(2)
    upstream.answer(json(200, MODELS))
    for (let turn = 0; turn < 3; turn++) await check()
    expect(await records('provider.verified')).toHaveLength(2) // after it was made, and now
  })

  it('is asked about twenty times a minute and workspace, and no more, whatever is done with it', async () => {
    const id = await made()
    const put = () => call(server, manager(), 'PUT', path(`/${id}`), { body: body() })
    refused(await create({ base_url: 'https://10.0.0.1' }), 400, 'invalid_request') // asks nobody
    for (let turn = 0; turn < 9; turn++) expect([(await put()).status, (await verify(id)).status]).toEqual([200, 200])
    expect((await put()).status).toBe(200)
    const asked = () => upstream.asked.length
    await expect.poll(() => server.app.providers.checking.size).toBe(0)
    const before = asked()
    expect(before).toBeLessThanOrEqual(20)
    const late = [await put(), await verify(id)]
    for (const answer of late) {
      refused(answer, 429, 'too_many_requests')
      expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    }
    expect((await call(server, manager(), 'DELETE', path(`/${id}`))).status).toBe(204)
    refused(await create(), 429, 'too_many_requests')
    expect(asked()).toBe(before)
  })

  it('is recorded as verified once by many calls that work at once', async () => {
    upstream.answer(json(503, {}))
    const id = await made()
    await checked(id)
    const connection = await getProvider(server.db, workspaceId, id)
    const by = { actor: { kind: 'schedule' } as const, request: { traceId: 'many' }, userId: null }
    await Promise.all(Array.from({ length: 20 }, () => noteWorkingCall(server.db, connection, by)))
    expect(await records('provider.verified')).toHaveLength(1)
  })

  it('is checked later where the process that made it did not get to it', async () => {
    const id = await made()
    await checked(id)
    await sql`update provider_connections set checked_at = null, status = 'pending_verification',
      changed_at = clock_timestamp() - interval '1 hour' where id = ${id}`.execute(server.db)
    await checkUnchecked(server.app.providers)
    expect(await shown(id)).toMatchObject({ status: 'verified' })
  })

  it('takes a new address only with a key, and is verified anew', async () => {
    const id = await made()
    await checked(id)
    const put = (sent: unknown) => call(server, manager(), 'PUT', path(`/${id}`), { body: sent })
    const alone = await put({ base_url: 'https://gateway.example.com' })
    refused(alone, 400, 'invalid_request')
    expect(alone.body.detail).toContain('credentials: is missing: the key is sent together with its address')
    const next = 'sk-ant-canary-replaced-0123456789'
    upstream.asked.length = 0
    const replaced = await put(body({ base_url: `${upstream.url}/gateway/` }, next))
    expect(replaced.body).toMatchObject({ base_url: `${upstream.url}/gateway`, status: 'pending_verification' })
    expect(await checked(id)).toMatchObject({ status: 'verified' })
    expect(upstream.asked).toMatchObject([{ path: '/gateway/v1/models?limit=1', headers: { 'x-api-key': next } }])
    expect(await records('provider.credentials_replaced')).toHaveLength(1)
  })

  it('is gone when it is deleted, and its key with it', async () => {
    const id = await made()
    expect((await call(server, manager(), 'DELETE', path(`/${id}`))).status).toBe(204)
    refused(await call(server, manager(), 'GET', path(`/${id}`)), 404, 'not_found')
    refused(await call(server, manager(), 'DELETE', path(`/${id}`)), 404, 'not_found')
    const { rows } = await sql`select from provider_connections where workspace_id = ${workspaceId}`.execute(server.db)
    expect(rows).toEqual([])
  })

  it('is gone with its key when its workspace is archived, and asks its provider nothing any more', async () => {
    const id = await made()
    await checked(id)
    await sql`update provider_connections set checked_at = null, changed_at = clock_timestamp() - interval '1 hour'
      where id = ${id}`.execute(server.db)
    const archived = await call(server, world.people.owner, 'POST', `/workspaces/${workspaceId}/archive`, { body: {} })
    expect(archived.status, archived.text).toBe(200)
    const { rows } = await sql`select from provider_connections where workspace_id = ${workspaceId}`.execute(server.db)
    expect(rows).toEqual([])
    expect(await records('provider.deleted')).toMatchObject([
      { actor_id: world.people.owner.userId, detail: { provider_id: id, reason: 'workspace_archived' } },
    ])
    upstream.asked.length = 0
    await checkUnchecked(server.app.providers)
    expect(upstream.asked).toEqual([])
  })

  it.each([
    'http://10.0.0.1',
    'https://10.0.0.1',
    'https://169.254.169.254/latest',
    'https://[fd00::1]',
    'https://[::ffff:10.0.0.1]',
    'https://2130706433.example@10.0.0.1',
    'http://gateway.example.com',
    'https://user:pass@gateway.example.com',
    'https://gateway.example.com/?key=1',
    'https://gateway.example.com/#x',
    'ftp://gateway.example.com',
    'file:///etc/passwd',
    'gateway.example.com',
    '',
  ])('has no address like %j', async (base_url) => {
    refused(await create({ base_url }), 400, 'invalid_request')
  })

  it.each([
    ['no key', { credentials: {} }],
    ['an empty key', { credentials: { api_token: '' } }],
    ['a key with a line break', { credentials: { api_token: 'sk-ant-1234\r\nX-Evil: 1' } }],
    ['a key with a space', { credentials: { api_token: 'sk-ant 12345678' } }],
    ['a key beyond measure', { credentials: { api_token: 'x'.repeat(1_025) } }],
    ['another type of credentials', { credentials_type: 'oauth' }],
    ['an unknown provider', { provider_type: 'nobody' }],
    ['the name of what every object has', { provider_type: 'constructor' }],
    ['something besides', { nonsense: true }],
  ])('is not made of %s', async (_name, more) => {
    refused(await create(more), 400, 'invalid_request')
  })

  it('is not made of a key that was shortened, and says what a key is made of', async () => {
    const answer = await create({ credentials: { api_token: 'sk-ant-0123456789…' } })
    refused(answer, 400, 'invalid_request')
    expect(answer.body.detail).toBe(
      'credentials.api_token: must be the whole key, without “…”: 8 to 1024 letters, digits and signs of ASCII, without spaces.',
    )
  })

  it('does not take a credential of ours for a key', async () => {
    refused(await create({}, world.key), 400, 'invalid_request')
  })

  it.each([
    ['GET', '', () => ({})],
    ['PUT', '', () => ({ body: body() })],
    ['DELETE', '', () => ({})],
    ['POST', '/verify', () => ({ body: {} })],
  ])('of another workspace is none: %s%s', async (method, rest, options) => {
    const id = await made()
    const at = (workspace: string) => `/workspaces/${workspace}/providers/${id}${rest}`
    for (const [key, workspace] of [
      [world.neighbour.key, world.neighbour.workspaceId],
      [world.neighbour.key, workspaceId],
      [world.key, world.otherWorkspaceId],
    ] as const)
      refused(await call(server, bearer(key), method, at(workspace), options()), 404, 'not_found')
    expect((await shown(id)).id).toBe(id)
  })
})

describe('what is stored', () => {
  const rowOf = async (id: string) => {
    const { rows } = await sql<{ sealed_credentials: string; data_key_id: string }>`
      select sealed_credentials, data_key_id from provider_connections where id = ${id}`.execute(server.db)
    return rows[0] as { sealed_credentials: string; data_key_id: string } // it was made just now
  }
  const write = (id: string, sealed: string, dataKeyId?: string) =>
    sql`update provider_connections set sealed_credentials = ${sealed}, data_key_id = coalesce(${dataKeyId ?? null}, data_key_id)
      where id = ${id}`.execute(server.db)
  const opened = async (id: string) => {
    const connection = await getProvider(server.db, workspaceId, id)
    const secret = await openCredentials({ ...server.app.providers, onError: () => {} }, server.db, connection)
    return secret.reveal()
  }
  const unreadable = async (id: string) => expect(opened(id)).rejects.toMatchObject({ code: 'credentials_unreadable' })

  it('opens for its own place, and with any bit of it flipped for none', async () => {
    const id = await made()
    await checked(id)
    expect(await opened(id)).toBe(KEY)
    const { sealed_credentials: sealed } = await rowOf(id)
    const [version, key, text = ''] = sealed.split('.')
    const bytes = Buffer.from(text, 'base64url')
    for (let bit = 0; bit < bytes.byteLength * 8; bit += 7) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      await write(id, [version, key, flipped.toString('base64url')].join('.'))
      await unreadable(id)
    }
    for (const broken of ['', '1', '1..', `2.${key}.${text}`, `1.${key}.${text.slice(0, -8)}`, `1.${key}.${text}.x`]) {
      await write(id, broken)
      await unreadable(id)
    }
    await write(id, sealed)
    expect(await opened(id)).toBe(KEY)
  })

  it('moved to another workspace, provider or organization opens for none', async () => {
    const id = await made()
    const other = (
      await call(server, manager(), 'POST', path(), { body: { provider_type: 'openai', ...body({}, `${KEY}2`) } })
    ).body.id
    const [mine, others] = [await rowOf(id), await rowOf(other)]
    await write(id, others.sealed_credentials)
    await unreadable(id)
    await write(id, mine.sealed_credentials)
    await sql`update provider_connections set workspace_id = ${world.otherWorkspaceId} where id = ${id}`.execute(
      server.db,
    )
    const moved = await getProvider(server.db, world.otherWorkspaceId as WorkspaceId, id)
    await expect(
      openCredentials({ ...server.app.providers, onError: () => {} }, server.db, moved),
    ).rejects.toMatchObject({ code: 'credentials_unreadable' })
    await sql`update provider_connections set workspace_id = ${workspaceId} where id = ${id}`.execute(server.db)
    expect(await opened(id)).toBe(KEY)
  })

  it('is sent to no address that was written beside it', async () => {
    const id = await made()
    await checked(id)
    const thief = await startUpstream()
    try {
      const readdress = (url: string | null) =>
        sql`update provider_connections set base_url = ${url} where id = ${id}`.execute(server.db)
      for (const url of [thief.url, `${upstream.url}/other`, null]) {
        await readdress(url)
        await unreadable(id)
      }
      await readdress(thief.url)
      const tampered = await getProvider(server.db, workspaceId, id)
      const quiet = { ...server.app.providers, onError: () => {} }
      const by = { actor: { kind: 'schedule' } as const, request: { traceId: 'readdressed' }, userId: null }
      expect(await checkProvider(quiet, tampered, by)).toMatchObject({ status: 'failed', statusReason: 'unreadable' })
      await readdress(upstream.url) // the address as it was does not open it for who read the other one
      await expect(openCredentials(quiet, server.db, tampered)).rejects.toMatchObject({
        code: 'credentials_unreadable',
      })
      expect(thief.asked).toEqual([])
      expect(await opened(id)).toBe(KEY)
    } finally {
      await thief.close()
    }
  })

  it('before it was replaced opens for none afterwards, at the same address', async () => {
    const id = await made()
    await checked(id)
    const older = await rowOf(id)
    const next = `${KEY}-next`
    expect((await call(server, manager(), 'PUT', path(`/${id}`), { body: body({}, next) })).status).toBe(200)
    const newer = await rowOf(id)
    expect(await opened(id)).toBe(next)
    await write(id, older.sealed_credentials, older.data_key_id)
    await unreadable(id)
    await write(id, newer.sealed_credentials, newer.data_key_id)
    const organizationId = world.organizationId as OrganizationId
    await rotateDataKey(server.app.providers, organizationId, { traceId: 'replaced' })
    expect(await opened(id)).toBe(next)
  })

  it('is readable whichever of two replacements at once comes last', async () => {
    const id = await made()
    const keys = [1, 2, 3, 4].map((turn) => `${KEY}-${turn}`)
    const put = (key: string) => call(server, manager(), 'PUT', path(`/${id}`), { body: body({}, key) })
    expect((await Promise.all(keys.map(put))).map(({ status }) => status)).toEqual([200, 200, 200, 200])
    expect(keys).toContain(await opened(id))
    expect(await getProvider(server.db, workspaceId, id)).toMatchObject({ version: 5 })
  })

  it('that cannot be read says so: of the connection, to the operator, and to nobody the key', async () => {
    const id = await made()
    await checked(id)
    const { sealed_credentials: sealed } = await rowOf(id)
    await write(id, `${sealed.slice(0, -4)}AAAA`)
    server.logLines.length = 0
    expect((await verify(id)).body).toMatchObject({ status: 'failed', status_reason: 'unreadable' })
    expect(server.logLines.join('\n')).toContain(`the credentials of ${id} cannot be decrypted`)
    const organizationId = world.organizationId as OrganizationId
    const rotated = await rotateDataKey(server.app.providers, organizationId, { traceId: 'unreadable' })
    expect(rotated).toEqual({ resealed: expect.any(Number), unreadable: [id] })
    expect(await shown(id)).toMatchObject({ status: 'failed' })
    expect((await call(server, manager(), 'DELETE', path(`/${id}`))).status).toBe(204)
  })

  it('is sealed again under a new data key, while it is read, and the older key goes', async () => {
    const organizationId = world.organizationId as OrganizationId
    const id = await made()
    const before = await rowOf(id)
    let reading = true
    const readers = Array.from({ length: 4 }, async () => {
      while (reading) expect(await opened(id)).toBe(KEY)
    })
    for (let turn = 0; turn < 5; turn++)
      expect(
        (await rotateDataKey(server.app.providers, organizationId, { traceId: 'rotate' })).resealed,
      ).toBeGreaterThan(0)
    reading = false
    await Promise.all(readers)
    const after = await rowOf(id)
    expect(after.data_key_id).not.toBe(before.data_key_id)
    expect(after.sealed_credentials).not.toBe(before.sealed_credentials)
    const { rows } = await sql<{ count: number }>`
      select count(*)::int as count from data_keys where organization_id = ${organizationId}`.execute(server.db)
    expect(rows).toEqual([{ count: 1 }])
  })

  it('goes on with a rotation that was cut short', async () => {
    const organizationId = world.organizationId as OrganizationId
    const id = await made()
    const before = await rowOf(id)
    await server.db.transaction().execute((trx) => server.app.providers.dataKeys.rotate(trx, organizationId))
    expect(await opened(id)).toBe(KEY)
    expect((await rowOf(id)).data_key_id).toBe(before.data_key_id)
    expect((await resealUnderNewest(server.app.providers, organizationId)).resealed).toBeGreaterThan(0)
    expect((await rowOf(id)).data_key_id).not.toBe(before.data_key_id)
    expect(await opened(id)).toBe(KEY)
  })

  it('is in no answer, record, log line or row, in clear', async () => {
    const id = await made()
    await checked(id)
    await verify(id)
    const everything = [...answers, ...server.logLines]
    for (const table of ['audit_events', 'provider_connections', 'data_keys', 'idempotency_keys']) {
      const { rows } = await sql<{ text: string }>`select to_jsonb(t)::text as text from ${sql.table(table)} t`.execute(
        server.db,
      )
      everything.push(...rows.map(({ text }) => text))
    }
    expect(everything.length).toBeGreaterThan(100)
    expect(everything.filter((text) => text.includes('canary'))).toEqual([])
  })
})

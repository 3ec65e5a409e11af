// The calls that the specification gives, sent and answered to the letter (product §3, §5).
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type ApiWorld,
  bearer,
  call,
  connectPerson,
  makeApiWorld,
  makeToken,
  memberNames,
  newLabel,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'

const TOKEN_MEMBERS = [
  'created_at',
  'environment',
  'expires_at',
  'id',
  'is_active',
  'key',
  'key_prefix',
  'label',
  'last_used_at',
  'permissions',
  'token_version',
  'workspace_id',
]
const WORKSPACE_MEMBERS = ['billing_email', 'created_at', 'id', 'name', 'organization_id', 'owner_id']
const RFC3339_SECONDS = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/

const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(BACKENDS)('the literal calls (%s)', (backend) => {
  let server: TestServer
  let world: ApiWorld
  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeApiWorld(server)
  })
  afterAll(() => server?.close())

  const tokensOf = () => `/workspaces/${world.workspaceId}/api-keys`
  const asKey = () => bearer(world.key)

  describe('POST /api/v1/workspaces/{workspace_id}/api-keys', () => {
    it.each([
      ['JSON', { 'content-type': 'application/json' }],
      ['JSON with a charset', { 'content-type': 'application/json; charset=utf-8' }],
      ['curl -d without a type', { 'content-type': 'application/x-www-form-urlencoded' }],
    ])('answers 201 with exactly the members that are promised, to a body sent as %s', async (_, headers) => {
      const label = `platform-ai prod ${newLabel()}`
      const raw = JSON.stringify({ label, permissions: ['ingest', 'read'] })
      const answer = await call(server, asKey(), 'POST', tokensOf(), { raw, headers })
      expect(answer.status, answer.text).toBe(201)
      expect(memberNames(answer.body)).toEqual(TOKEN_MEMBERS)
      expect(answer.body).toMatchObject({
        workspace_id: world.workspaceId,
        label,
        permissions: ['ingest', 'read'],
        environment: 'production',
        token_version: 'v1',
        is_active: true,
        expires_at: null,
        last_used_at: null,
      })
      expect(answer.body.id).toMatch(/^key_[0-9a-z]{26}$/)
      expect(answer.body.key).toMatch(/^tid_ws_[0-9A-Za-z]{46}$/)
      expect(answer.body.key_prefix).toMatch(/^tid_ws_[0-9A-Za-z]{7}$/)
      expect(answer.body.key.startsWith(answer.body.key_prefix)).toBe(true)
      expect(answer.body.created_at).toMatch(RFC3339_SECONDS)
      expect(answer.headers.get('cache-control')).toBe('no-store')
      expect(answer.headers.get('content-type')).toMatch(/^application\/json/)
      expect(answer.headers.get('x-trace-id')).toMatch(/^\S+$/)
    })

    it('takes the address with a slash behind it too, and answers alike', async () => {
      const made = await call(server, asKey(), 'POST', `${tokensOf()}/`, {
        body: { label: newLabel(), permissions: ['read'] },
      })
      expect(made.status).toBe(201)
      for (const path of [tokensOf(), `${tokensOf()}/${made.body.id}`, `/workspaces/${world.workspaceId}`]) {
        const plain = await call(server, asKey(), 'GET', path)
        const slashed = await call(server, asKey(), 'GET', `${path}/`)
        expect([slashed.status, slashed.text]).toEqual([200, plain.text])
      }
    })

    it('refuses text/plain, and a form, with the way to send JSON', async () => {
      for (const headers of [{ 'content-type': 'text/plain' }, { 'content-type': 'multipart/form-data; boundary=x' }]) {
        const answer = await call(server, asKey(), 'POST', tokensOf(), { raw: '{"label":"x"}', headers })
        expect([answer.status, answer.body.code]).toEqual([415, 'unsupported_media_type'])
      }
      const form = await call(server, asKey(), 'POST', tokensOf(), {
        raw: 'label=x',
        headers: { 'content-type': 'application/x-www-form-urlencoded' },
      })
      expect([form.status, form.body.code]).toEqual([415, 'unsupported_media_type'])
    })

    it('a label in use in the same environment is 409 label_in_use with the way to rotate, in another it is free', async () => {
      const label = newLabel()
      const first = await makeToken(server, world, { label, permissions: ['read'] })
      const again = await call(server, asKey(), 'POST', tokensOf(), { body: { label, permissions: ['read'] } })
      expect([again.status, again.body.code]).toEqual([409, 'label_in_use'])
      expect(again.body.detail).toContain(`${first.id}/rotate`)
      expect(again.headers.get('content-type')).toMatch(/^application\/problem\+json/)
      await makeToken(server, world, { label, permissions: ['read'], environment: 'staging' })
      const spaced = await call(server, asKey(), 'POST', tokensOf(), {
        body: { label: ` ${label} `, permissions: ['read'] },
      })
      expect(spaced.status).toBe(409)
      await call(server, asKey(), 'DELETE', `${tokensOf()}/${first.id}`)
      await makeToken(server, world, { label, permissions: ['read'] }) // free again
    })

    it('concurrent creates with one label make one token', async () => {
      const label = newLabel()
      const body = { label, permissions: ['read'] }
      const answers = await Promise.all(
        Array.from({ length: 8 }, () => call(server, asKey(), 'POST', tokensOf(), { body })),
      )
      expect(answers.map(({ status }) => status).sort()).toEqual([201, ...Array(7).fill(409)])
    })
  })

  describe('Idempotency-Key', () => {
    const create = (key: string, body: unknown, credential = asKey()) =>
      call(server, credential, 'POST', tokensOf(), { body, headers: { 'idempotency-key': key } })

    it('a retried create answers 200 with "key": null and "key_already_shown": true', async () => {
      const body = { label: newLabel(), permissions: ['read'] }
      const first = await create('retry-1', body)
      const second = await create('retry-1', body)
      expect([first.status, second.status]).toEqual([201, 200])
      const { key: _shown, ...rest } = first.body
      expect(second.body).toEqual({ ...rest, key: null, key_already_shown: true })
    })

    it('concurrent creates with one key make one token, and show its value once', async () => {
      const body = { label: newLabel(), permissions: ['read'] }
      const answers = await Promise.all(Array.from({ length: 8 }, () => create('storm-1', body)))
      expect(answers.map(({ status }) => status).sort()).toEqual([...Array(7).fill(200), 201])
      expect(new Set(answers.map(({ body: made }) => made.id)).size).toBe(1)
      expect(answers.filter(({ body: made }) => made.key !== null)).toHaveLength(1)
    })

    it('a retried rotation makes no second version', async () => {
      const made = await makeToken(server, world)
      const rotate = () =>
        call(server, asKey(), 'POST', `${tokensOf()}/${made.id}/rotate`, {
          body: {},
          headers: { 'idempotency-key': 'rotate-1' },
        })
      const [first, second] = [await rotate(), await rotate()]
      expect([first.status, first.body.token_version]).toEqual([201, 'v2'])
      expect([second.status, second.body.token_version, second.body.key]).toEqual([200, 'v2', null])
    })

    it('the same key with another body, or at another address, is 422', async () => {
      const body = { label: newLabel(), permissions: ['read'] }
      expect((await create('reuse-1', body)).status).toBe(201)
      const other = await create('reuse-1', { ...body, label: newLabel() })
      expect([other.status, other.body.code]).toEqual([422, 'idempotency_key_reused'])
      const elsewhere = await call(server, asKey(), 'POST', `/workspaces/${world.otherWorkspaceId}/api-keys`, {
        body,
        headers: { 'idempotency-key': 'reuse-1' },
      })
      expect(elsewhere.status).toBe(422)
    })

    it('another caller’s same key is another key', async () => {
      const neighbour = await call(
        server,
        bearer(world.neighbour.key),
        'POST',
        `/workspaces/${world.neighbour.workspaceId}/api-keys`,
        { body: { label: 'same', permissions: ['read'] }, headers: { 'idempotency-key': 'shared-1' } },
      )
      const ours = await create('shared-1', { label: 'same', permissions: ['read'] })
      const person = await create('shared-1', { label: 'same too', permissions: ['read'] }, world.people.admin)
      expect([neighbour.status, ours.status, person.status]).toEqual([201, 201, 201])
    })

    it('a create that failed leaves its key free', async () => {
      const body = { label: newLabel(), permissions: ['no-such-permission'] }
      expect((await create('failed-1', body)).status).toBe(400)
      expect((await create('failed-1', { ...body, permissions: ['read'] })).status).toBe(201)
    })

    it.each(['x'.repeat(256), 'ü'])('a key that is not 1 to 255 printable characters is refused (%#)', async (key) => {
      const answer = await create(Buffer.from(key).toString('latin1'), { label: newLabel(), permissions: ['read'] })
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid_request'])
    })
  })

  describe('POST and GET /api/v1/workspaces/', () => {
    it.each(['/workspaces/', '/workspaces'])(
      '%s makes a workspace that answers exactly its six members',
      async (path) => {
        const answer = await call(server, asKey(), 'POST', path, {
          raw: '{"name": "platform-ai", "billing_email": "finance@acme.com"}',
          headers: { 'content-type': 'application/x-www-form-urlencoded' },
        })
        expect(answer.status, answer.text).toBe(201)
        expect(memberNames(answer.body)).toEqual(WORKSPACE_MEMBERS)
        expect(answer.body).toMatchObject({
          organization_id: world.organizationId,
          owner_id: world.owner.userId, // an operator made the key: the organization's owner stands for it
          name: 'platform-ai',
          billing_email: 'finance@acme.com',
        })
        expect(answer.body.id).toMatch(/^ws_[0-9a-z]{26}$/)
        expect(answer.body.created_at).toMatch(RFC3339_SECONDS)
        for (const listPath of ['/workspaces/', '/workspaces']) {
          const listed = await call(server, asKey(), 'GET', listPath)
          expect(listed.status).toBe(200)
          expect(Array.isArray(listed.body)).toBe(true)
          expect(listed.body).toContainEqual(answer.body)
        }
      },
    )

    it('billing_email and cost_centre are optional', async () => {
      const answer = await call(server, asKey(), 'POST', '/workspaces/', { body: { name: 'bare' } })
      expect([answer.status, answer.body.billing_email]).toEqual([201, null])
    })

    it('a retried create makes one workspace', async () => {
      const body = { name: 'once only' }
      const make = () => call(server, asKey(), 'POST', '/workspaces/', { body, headers: { 'idempotency-key': 'ws-1' } })
      const answers = await Promise.all([make(), make(), make()])
      expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 201])
      const listed = await call(server, asKey(), 'GET', '/workspaces/')
      expect(listed.body.filter(({ name }: { name: string }) => name === 'once only')).toHaveLength(1)
    })

    it('behind a key, the owner is who made it; the organization’s owner once that person left', async () => {
      const maker = world.outsider
      const path = `/organizations/${world.organizationId}/members/${maker.userId}`
      expect((await call(server, world.owner, 'PATCH', path, { body: { role: 'admin' } })).status).toBe(200)
      const key = await call(server, maker, 'POST', `/organizations/${world.organizationId}/api-keys`, {
        body: { label: newLabel() },
      })
      expect(key.status).toBe(201)
      const first = await call(server, bearer(key.body.key), 'POST', '/workspaces/', { body: { name: 'of the maker' } })
      expect(first.body.owner_id).toBe(maker.userId)
      await call(server, world.owner, 'POST', `/workspaces/${first.body.id}/archive`, { body: {} })
      expect((await call(server, world.owner, 'DELETE', path)).status).toBe(204)
      const second = await call(server, bearer(key.body.key), 'POST', '/workspaces/', {
        body: { name: 'of the owner' },
      })
      expect([second.status, second.body.owner_id]).toEqual([201, world.owner.userId])
    })

    it('an archived workspace is not listed, and every credential in it has ended', async () => {
      const made = await call(server, asKey(), 'POST', '/workspaces/', { body: { name: 'to archive' } })
      const place = { workspaceId: made.body.id as string, key: world.key }
      const token = await makeToken(server, place)
      const connection = await connectPerson(server, place, world.owner, 'read')
      const jwt = String(connection.access_token)
      for (const value of [token.key, jwt])
        expect((await call(server, bearer(value), 'GET', '/workspaces')).status).toBe(200)
      const archived = await call(server, asKey(), 'POST', `/workspaces/${made.body.id}/archive`)
      expect(archived.status).toBe(200)
      expect(archived.body.archived_at).toMatch(RFC3339_SECONDS)
      for (const value of [token.key, jwt])
        expect((await call(server, bearer(value), 'GET', '/workspaces')).status).toBe(401)
      const listed = await call(server, asKey(), 'GET', '/workspaces')
      expect(listed.text).not.toContain(made.body.id)
      expect((await call(server, asKey(), 'GET', `/workspaces/${made.body.id}`)).status).toBe(404)
      expect((await call(server, asKey(), 'POST', `/workspaces/${made.body.id}/archive`)).status).toBe(404)
    })
  })

  it('the cursor of a list leads through all of it, once', async () => {
    const all = (await call(server, asKey(), 'GET', '/workspaces')).body.map(({ id }: { id: string }) => id)
    const seen: string[] = []
    let next: string | undefined = '/workspaces?limit=2'
    while (next !== undefined) {
      const page = await call(server, asKey(), 'GET', next)
      expect(page.status).toBe(200)
      expect(page.body.length).toBeLessThanOrEqual(2)
      seen.push(...page.body.map(({ id }: { id: string }) => id))
      next = /<\/api\/v1([^>]+)>; rel="next"/.exec(page.headers.get('link') ?? '')?.[1]
    }
    expect(seen).toEqual(all)
  })

  it('every answer carries the caller’s trace id', async () => {
    for (const path of ['/workspaces', '/workspaces/nothing', '/nowhere']) {
      const answer = await call(server, asKey(), 'GET', path, { headers: { 'x-trace-id': 'job-2026:1' } })
      expect(answer.headers.get('x-trace-id')).toBe('job-2026:1')
      if (answer.status >= 400) expect(answer.body.trace_id).toBe('job-2026:1')
    }
  })
})

// A token that is suspended: refused everywhere with the answer, by whoever may say so, and good again once it is restored.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { isKeyId } from '../../src/ids.ts'
import { setTokenSuspended } from '../../src/workspace-tokens/service.ts'
import {
  type ApiWorld,
  ageSession,
  bearer,
  type Credential,
  call,
  exchange,
  exchanged,
  makeToken,
  postForm,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import type { Backend, TestServer } from '../support/server.ts'
import { startVerifying, type Verifying } from '../support/verifying.ts'
import type { TestClient } from '../support/world.ts'

const API = 'https://traces.example.com'
const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']
/** `not_before` speaks in whole seconds. */
const nextSecond = () => new Promise((resolve) => setTimeout(resolve, 1_100))

describe.each(BACKENDS)('a suspended token (%s)', (backend) => {
  let server: TestServer
  let world: ApiWorld
  let api: TestClient
  let isVerified: Verifying['isVerified']
  let close: Verifying['close'] | undefined
  beforeAll(async () => {
    ;({ server, world, api, isVerified, close } = await startVerifying(backend, API, 'traces:write'))
  })
  afterAll(() => close?.())

  const pathOf = (id: string, what: string) => `/workspaces/${world.workspaceId}/api-keys/${id}/${what}`
  const change = (id: string, what: 'suspend' | 'restore', by: Credential = bearer(world.key)) =>
    call(server, by, 'POST', pathOf(id, what), { body: {} })
  const statusOf = async (value: string) =>
    (await call(server, bearer(value), 'GET', `/workspaces/${world.workspaceId}`)).status
  const isActive = async (value: string) => (await postForm(server, '/introspect', { token: value }, api)).body.active
  const recordsOf = async (id: string) =>
    (
      await server.db
        .selectFrom('audit_events')
        .select(['event', 'status', 'detail', 'actor_kind', 'actor_id', 'token_version'])
        .where('credential_id', '=', id)
        .where('event', 'like', '%ed')
        .orderBy('recorded_at')
        .orderBy('id')
        .execute()
    ).filter(({ event }) => /suspended$|restored$/.test(event))
  const make = () => makeToken(server, world, { permissions: ['read', 'traces:write'] })

  it('is refused at the API, at introspection, at token exchange and by the verifier, and so is every JWT of it', async () => {
    const token = await make()
    const [own, theirs] = [
      await exchanged(server, token.key),
      String((await exchange(server, token.key, { resource: API })).body.access_token),
    ]
    expect([await statusOf(token.key), await statusOf(own)]).toEqual([200, 200])
    expect([await isActive(token.key), await isActive(theirs)]).toEqual([true, true])
    expect([await isVerified(token.key), await isVerified(theirs)]).toEqual([true, true])

    const suspended = await change(token.id, 'suspend')
    expect(suspended.status, suspended.text).toBe(200)
    expect(suspended.body).toMatchObject({ is_active: false, versions: [{ state: 'suspended' }] })
    expect(suspended.body.suspended_at).toMatch(/Z$/)
    expect([await statusOf(token.key), await statusOf(own)]).toEqual([401, 401])
    expect([await isActive(token.key), await isActive(theirs)]).toEqual([false, false])
    expect((await exchange(server, token.key)).status).toBe(400)
    await expect.poll(() => isVerified(theirs), { timeout: 5_000 }).toBe(false)
    await expect.poll(() => isVerified(token.key), { timeout: 5_000 }).toBe(false)
    await server.app.uses.flush()
    const refused = await server.db
      .selectFrom('audit_events')
      .select('detail')
      .where('credential_id', '=', token.id)
      .where('event', '=', 'token.refused')
      .execute()
    expect(refused.map(({ detail }) => detail)).toContainEqual(expect.objectContaining({ reason: 'suspended' }))
    expect(refused.length).toBeGreaterThan(0)
  })

  it('works again once it is restored; JWTs from before stay refused, and new ones are good', async () => {
    const token = await make()
    const [own, theirs] = [
      await exchanged(server, token.key),
      String((await exchange(server, token.key, { resource: API })).body.access_token),
    ]
    await change(token.id, 'suspend')
    const restored = await change(token.id, 'restore')
    expect(restored.body).toMatchObject({ is_active: true, suspended_at: null, versions: [{ state: 'active' }] })
    expect([await statusOf(token.key), await isActive(token.key)]).toEqual([200, true])
    expect([await statusOf(own), await isActive(theirs), await isVerified(theirs)]).toEqual([401, false, false])
    await expect.poll(() => isVerified(token.key), { timeout: 5_000 }).toBe(true)
    await nextSecond()
    expect(await statusOf(await exchanged(server, token.key))).toBe(200)
    const later = String((await exchange(server, token.key, { resource: API })).body.access_token)
    expect([await isActive(later), await isVerified(later), await isVerified(theirs)]).toEqual([true, true, false])
  })

  it('is recorded once each time, however often it is asked for, with who did it', async () => {
    const token = await make()
    for (const what of ['suspend', 'suspend', 'restore', 'restore'] as const)
      expect((await change(token.id, what, world.people.admin)).status).toBe(200)
    const actor = { actor_kind: 'user', actor_id: world.people.admin.userId }
    const detail = { reason: 'asked_for' }
    expect(await recordsOf(token.id)).toMatchObject([
      { event: 'token.suspended', status: 'pass', token_version: 'v1', detail, ...actor },
      { event: 'token.restored', status: 'pass', token_version: 'v1', detail, ...actor },
    ])
  })

  it('is neither rotated nor restored by itself, and can be revoked', async () => {
    const token = await make()
    await change(token.id, 'suspend')
    const rotated = await call(server, bearer(world.key), 'POST', pathOf(token.id, 'rotate'), { body: {} })
    expect([rotated.status, rotated.body.code]).toEqual([409, 'suspended'])
    expect((await change(token.id, 'restore', bearer(token.key))).status).toBe(401)
    const path = `/workspaces/${world.workspaceId}/api-keys/${token.id}`
    expect((await call(server, bearer(world.key), 'DELETE', path)).status).toBe(204)
    expect((await change(token.id, 'restore')).status).toBe(409)
    expect(await statusOf(token.key)).toBe(401)
  })

  it('keeps a cutover that was to come with the first use: what is refused commits nothing', async () => {
    const token = await make()
    const path = pathOf(token.id, 'rotate')
    const next = await call(server, bearer(world.key), 'POST', path, { body: { cutover: 'on_first_use' } })
    await change(token.id, 'suspend')
    expect(await statusOf(next.body.key)).toBe(401)
    await change(token.id, 'restore')
    expect(await statusOf(token.key)).toBe(200)
    expect(await statusOf(next.body.key)).toBe(200)
    expect(await statusOf(token.key)).toBe(401)
  })

  it('takes an admin, and to restore it one who has just signed in', async () => {
    const token = await make()
    const { viewer, member, admin } = world.people
    for (const what of ['suspend', 'restore'] as const) {
      expect((await change(token.id, what, viewer)).status).toBe(403)
      expect((await change(token.id, what, member)).status).toBe(403)
      expect((await change(token.id, what, world.neighbour.owner)).status).toBe(404)
      expect((await change(token.id, what, bearer(world.neighbour.key))).status).toBe(404)
      expect((await change('key_01jjjjjjjjjjjjjjjjjjjjjjjj', what)).status).toBe(404)
    }
    await ageSession(server, admin, 3_600)
    expect((await change(token.id, 'suspend', admin)).status).toBe(200)
    expect((await change(token.id, 'restore', admin)).body.code).toBe('recent_sign_in_required')
    await ageSession(server, admin, -3_600)
    expect((await change(token.id, 'restore', admin)).status).toBe(200)
  })

  it('leaves nothing behind where the change that it is a part of is rolled back', async () => {
    const token = await make()
    if (!isKeyId(token.id)) throw new Error('no id')
    const input = { id: token.id, suspended: true, reason: 'not_attested', actor: { kind: 'schedule' } as const }
    const change = server.app.revocations.change(async (trx, revoke) => {
      await setTokenSuspended(trx, revoke, { ...input, request: { traceId: 'test' } })
      throw new Error('something else')
    })
    await expect(change).rejects.toThrow('something else')
    expect(await statusOf(token.key)).toBe(200)
    expect(await recordsOf(token.id)).toEqual([])
  })

  it('says so on its page and on the Access page, where an admin restores it', async () => {
    const token = await make()
    await change(token.id, 'suspend')
    const read = async (path: string) =>
      (await fetch(server.origin + path, { headers: { cookie: world.people.admin.cookie } })).text()
    const page = `/workspaces/${world.workspaceId}/tokens/${token.id}`
    const paths = [page, `/workspaces/${world.workspaceId}/access`]
    for (const path of paths) expect(await read(path)).toContain('Suspended')
    const html = await read(page)
    expect(html).toContain(`${page}/restore`)
    const response = await fetch(`${server.origin}${page}/restore`, {
      method: 'POST',
      redirect: 'manual',
      headers: { cookie: world.people.admin.cookie, origin: server.origin, 'sec-fetch-site': 'same-origin' },
      body: new URLSearchParams({ csrf: world.people.admin.csrf }),
    })
    expect(response.status).toBe(303)
    expect(await statusOf(token.key)).toBe(200)
    expect(await read(page)).not.toContain('Suspended')
  })
})

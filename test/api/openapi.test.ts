// The OpenAPI document: whole, true to the routes, and true to what they answer.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { documentPath } from '../../src/api/openapi.ts'
import {
  type ApiWorld,
  bearer,
  type Credential,
  call,
  makeApiWorld,
  makeToken,
  NOBODY,
  newLabel,
} from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'

type Json = Record<string, unknown>
interface Operation {
  operationId: string
  summary: string
  parameters?: Array<{ name: string; in: string; required?: boolean; schema: Json }>
  requestBody?: { content: Record<string, { schema: Json }> }
  responses: Record<string, { description: string; content?: Record<string, { schema: Json }> }>
  security?: Json[]
}

let server: TestServer
let world: ApiWorld
let document: Json & { paths: Record<string, Record<string, Operation>>; components: { schemas: Record<string, Json> } }
beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_LOG_LEVEL: 'warn' } })
  world = await makeApiWorld(server)
  const answer = await call(server, NOBODY, 'GET', '/openapi.json')
  expect(answer.status).toBe(200)
  document = answer.body
})
afterAll(() => server?.close())

const operations = () =>
  Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({ path, method, operation })),
  )

describe('the document', () => {
  it('is OpenAPI 3.1, names this issuer, and has every route and nothing else', () => {
    expect(document.openapi).toMatch(/^3\.1\.\d$/)
    expect(document.info).toMatchObject({ title: expect.any(String), version: expect.any(String) })
    expect(document.servers).toEqual([{ url: server.origin }])
    const routes = server.app.apiRoutes.map((route) => `${route.method.toLowerCase()} ${documentPath(route)}`)
    expect(
      operations()
        .map(({ method, path }) => `${method} ${path}`)
        .sort(),
    ).toEqual(routes.sort())
  })

  it('declares each parameter of each path, an id for each operation, and what every answer is', () => {
    const ids = operations().map(({ operation }) => operation.operationId)
    expect(new Set(ids).size).toBe(ids.length)
    for (const { path, operation } of operations()) {
      const named = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name).sort()
      const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path')
      expect(declared.map(({ name }) => name).sort()).toEqual(named)
      expect(declared.every(({ required }) => required === true)).toBe(true)
      expect(operation.summary).toMatch(/^[A-Z].{3,}/)
      const statuses = Object.keys(operation.responses)
      expect(statuses.some((status) => status.startsWith('2'))).toBe(true)
      expect(statuses).toContain('400')
      for (const response of Object.values(operation.responses)) expect(response.description).not.toBe('')
    }
  })

  it('refers to nothing that is not there, and every schema can be read', () => {
    const text = JSON.stringify(document)
    const references = [...text.matchAll(/"\$ref":"([^"]+)"/g)].map(([, reference]) => String(reference))
    expect(references.length).toBeGreaterThan(10)
    for (const reference of references) {
      expect(reference).toMatch(/^#\/components\/schemas\//)
      expect(document.components.schemas).toHaveProperty(String(reference.split('/').at(-1)))
    }
    for (const name of Object.keys(document.components.schemas))
      expect(() => readerOf({ $ref: `#/components/schemas/${name}` })).not.toThrow()
    expect(text).not.toMatch(/tid_ws_[0-9A-Za-z]{46}|td_live_[0-9A-Za-z]{46}/)
  })
})

/** A reader for a schema of the document: what it says of an answer, without our own shapes in between. */
function readerOf(schema: Json) {
  return z.fromJSONSchema(inlined(schema) as Parameters<typeof z.fromJSONSchema>[0])
}

function inlined(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(inlined)
  if (typeof value !== 'object' || value === null) return value
  const { $ref, ...rest } = value as Json
  const target = typeof $ref === 'string' ? document.components.schemas[String($ref.split('/').at(-1))] : {}
  // An answer has the members that are named, and no others.
  const closed = 'properties' in rest ? { additionalProperties: false } : {}
  return { ...(inlinedMembers(target ?? {}) as Json), ...(inlinedMembers(rest) as Json), ...closed }
}

function inlinedMembers(value: Json): Json {
  const closed = 'properties' in value ? { additionalProperties: false } : {}
  return { ...Object.fromEntries(Object.entries(value).map(([name, member]) => [name, inlined(member)])), ...closed }
}

it('answers of real calls are what the document says of them', async () => {
  const asKey = bearer(world.key)
  const { owner } = world.people
  const ids: Record<string, string> = {
    workspace_id: world.workspaceId,
    organization_id: world.organizationId,
    user_id: world.people.member.userId,
    version: 'v1',
  }
  const made = await call(server, asKey, 'POST', '/workspaces', { body: { name: 'to archive' } })
  const token = await makeToken(server, world, { ip_allow_list: ['0.0.0.0/0'], resources: [`${server.origin}/api`] })
  const itself = await makeToken(server, world)
  const seen = new Set<string>()

  async function check(
    operationId: string,
    credential: Credential,
    changes: Record<string, string> = {},
    body?: unknown,
    headers = {},
  ) {
    const found = operations().find(({ operation }) => operation.operationId === operationId)
    if (found === undefined) throw new Error(`no operation ${operationId}`)
    const { path, method, operation } = found
    const address = path
      .replace('/api/v1', '')
      .replace(/\{(\w+)\}/g, (_, name: string) => ({ ...ids, ...changes })[name] ?? 'none')
    const answer = await call(server, credential, method.toUpperCase(), address, {
      ...(body === undefined ? {} : { body }),
      headers,
    })
    const described = operation.responses[String(answer.status)]
    expect([operationId, answer.status, described !== undefined], answer.text).toEqual([
      operationId,
      answer.status,
      true,
    ])
    const type = answer.headers.get('content-type')?.split(';')[0] ?? ''
    const schema = described?.content?.[type]?.schema
    if (schema !== undefined) {
      const read = readerOf(schema).safeParse(answer.body)
      expect([operationId, read.error?.issues]).toEqual([operationId, undefined])
      seen.add(`${operationId} ${answer.status}`)
    } else if (answer.status !== 202) {
      expect([operationId, answer.text]).toEqual([operationId, ''])
    }
    return answer
  }

  const rights = { label: newLabel(), permissions: ['read'] }
  const again = { 'idempotency-key': 'document-1' }
  await check('createWorkspace', owner, {}, { name: 'n', billing_email: 'a@example.com', cost_centre: 'c' })
  await check('listWorkspaces', asKey)
  await check('getWorkspace', asKey)
  await check('changeWorkspace', asKey, {}, { cost_centre: 'x' })
  await check('archiveWorkspace', asKey, { workspace_id: String(made.body.id) }, {})
  await check('transferWorkspace', owner, {}, { user_id: owner.userId })
  await check('listMembers', asKey)
  await check('addMember', owner, {}, { user_id: world.outsider.userId, role: 'viewer' })
  await check('changeMember', owner, {}, { role: 'admin' })
  await check('removeMember', owner, { user_id: world.outsider.userId })
  await check('listOrganizations', owner)
  await check('listOrganizationMembers', asKey)
  await check('changeOrganizationMember', owner, {}, { role: 'admin' })
  await check('createApiKey', asKey, {}, rights, again)
  await check('createApiKey', asKey, {}, rights, again)
  await check('createApiKey', asKey, {}, rights)
  await check('listApiKeys', asKey)
  await check('getApiKey', asKey, { key_id: token.id })
  await check('rotateApiKey', asKey, { key_id: token.id }, { cutover: 'on_first_use', after_seconds: 5 })
  await check('getApiKey', asKey, { key_id: token.id })
  await check('cutOverApiKey', asKey, { key_id: token.id }, {})
  await check('revokeApiKeyVersion', asKey, { key_id: token.id })
  await check('revokeApiKey', asKey, { key_id: token.id })
  await check('getApiKey', asKey, { key_id: token.id })
  await check('getSelf', bearer(itself.key))
  await check('rotateSelf', bearer(itself.key), {}, {})
  await check('revokeSelf', bearer(itself.key))
  const key = await check('createOrganizationKey', owner, {}, { label: newLabel() })
  const keyId = { key_id: String(key.body.id) }
  await check('listOrganizationApiKeys', owner)
  await check('getOrganizationApiKey', owner, keyId)
  await check('rotateOrganizationApiKey', owner, keyId, {})
  await check('cutOverOrganizationApiKey', owner, keyId, {})
  await check('revokeOrganizationApiKeyVersion', owner, keyId)
  await check('revokeOrganizationApiKey', owner, keyId)
  await check('getTokenPolicy', asKey)
  await check(
    'setTokenPolicy',
    asKey,
    {},
    { tokens_forbidden: false, expiry_required: false, max_age_days: 5, environments: ['staging'] },
  )
  await check('createApiKey', asKey, {}, { ...rights, label: newLabel() }) // the policy forbids it
  await check('reportLeak', NOBODY, {}, { credentials: ['x'] })
  const shortLived = { environment: 'staging', expires_in: 3_600 } // as the policy wants it
  await check('validateAccess', asKey)
  await check('validateAccess', bearer((await makeToken(server, world, shortLived)).key))
  await check('validateAccess', bearer(itself.key)) // it was revoked above
  const job = bearer((await makeToken(server, world, shortLived)).key)
  const said = {
    event: 'import.finished',
    status: 'fail',
    occurred_at: '2026-04-05T18:30:00.5+02:00',
    detail: { n: 1 },
  }
  await check('appendAuditEvent', job, {}, said, { 'x-trace-id': 'document', ...again })
  await check('appendAuditEvent', job, {}, said, { 'x-trace-id': 'document', ...again })
  await check('appendAuditEvent', job, {}, said)
  // Problems
  await check('listWorkspaces', NOBODY)
  await check('getWorkspace', asKey, { workspace_id: 'ws_none' })
  await check('createWorkspace', asKey, {}, { nonsense: true })
  await check('transferWorkspace', asKey, {}, {})
  await check('createApiKey', asKey, {}, { ...rights, label: newLabel() }, again) // the key was used for another request
  expect(seen.size).toBeGreaterThan(30)
  await check('removeOrganizationMember', owner, { user_id: world.outsider.userId })
})

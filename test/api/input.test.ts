// Whatever is sent to any route: what does not have its shape is 400, in the form of the API, never a 5xx, never a secret
// repeated; and nothing is set that a caller may not set (threats F-12, G-06, G-14, I-08, I-12, I-13, J-01, J-02).
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import type { Route } from '../../src/api/route.ts'
import { requestHead, sendRaw } from '../http/raw.ts'
import {
  type Answer,
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

let server: TestServer
let world: ApiWorld
let token: { id: string; key: string }
let ids: Record<string, string>
let secret: string
beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_LOG_LEVEL: 'warn' } })
  world = await makeApiWorld(server)
  token = await makeToken(server, world)
  secret = (await makeToken(server, world.neighbour)).key
  ids = {
    organization_id: world.organizationId,
    workspace_id: world.workspaceId,
    key_id: token.id,
    user_id: world.people.viewer.userId,
    invitation_id: 'inv_00000000000000000000000000',
    version: 'v9',
  }
})
afterAll(() => server?.close())

const nameOf = ({ method, path }: Pick<Route, 'method' | 'path'>) => `${method} ${path}`
const addressOf = (route: Route, changes: Record<string, string> = {}) =>
  route.path.replace(/:(\w+)/g, (_, name: string) => ({ ...ids, ...changes })[name] ?? 'none')
function callerOf({ rule, traced }: Route): Credential {
  if (rule.who === 'anyone') return NOBODY
  const isOfPeople = 'credentials' in rule && rule.credentials.includes('session')
  if (isOfPeople) return world.people.owner
  return { headers: { ...bearer(token.key).headers, ...(traced === true ? { 'x-trace-id': 'input' } : {}) } }
}
const routes = () => server.app.apiRoutes
/** What a provider takes is the provider's to judge: test/proxy. */
const withBody = () => routes().filter(({ body, path }) => body !== undefined && !path.startsWith('/proxy/'))

interface Field {
  name: string
  schema: Record<string, unknown>
}
function fieldsOf(route: Route): Field[] {
  if (route.body === undefined) return []
  const schema = z.toJSONSchema(route.body, { io: 'input', unrepresentable: 'any' })
  const named = schema.$defs?.[schema.$ref?.split('/').at(-1) ?? ''] ?? schema
  return Object.entries(named.properties ?? {}).map(([name, value]) => ({
    name,
    schema: value as Record<string, unknown>,
  }))
}

function expectProblem(answer: Answer, statuses: readonly number[] = [400]): void {
  expect(statuses, answer.text).toContain(answer.status)
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/)
  expect(answer.body).toMatchObject({ status: answer.status, code: expect.any(String), trace_id: expect.any(String) })
  expect(answer.text).not.toContain(secret.slice(14, 47))
  expect(answer.text).not.toMatch(/\bat .*\.ts:\d|node_modules|select |insert |token_lines/)
}

/** What no field of any shape takes, whatever its type. */
const NEVER_RIGHT: Record<string, unknown> = {
  'a nested object': { a: { b: 1 } },
  'a deep list': JSON.parse(`${'['.repeat(500)}${']'.repeat(500)}`),
  'a large number': 1e308,
  'a fraction': 0.5,
  'a text of 50,000 letters': 'x'.repeat(50_000),
  'a NUL': 'a\u0000b',
  'a line break': 'a\r\nSet-Cookie: x=y',
  'a half of a surrogate pair': '\ud800',
  'a direction override': 'a\u202eb',
  'a line separator': 'a\u2028b',
  'a list of 10,000': Array(10_000).fill('x'),
  'an empty text': '',
  'a foreign secret in a list': () => [secret, { secret }],
}

it('there are routes with bodies, parameters and fields: or what follows tests nothing', () => {
  expect(withBody().length).toBeGreaterThan(12)
  expect(withBody().flatMap(fieldsOf).length).toBeGreaterThan(25)
})

describe('bodies', () => {
  it('a field of the wrong kind is 400 at every route', async () => {
    for (const route of withBody()) {
      for (const field of fieldsOf(route)) {
        for (const [kind, wrong] of Object.entries(NEVER_RIGHT)) {
          if (field.name === 'detail' && kind === 'a nested object') continue // that is what it is for
          const value = typeof wrong === 'function' ? wrong() : wrong
          // What a reader looks up in a list of users is looked up as it is, and not found.
          const isId = ['user_id', 'organization_id'].includes(field.name) && typeof value === 'string'
          const isLeak = field.name === 'credentials' && Array.isArray(value) && kind === 'a list of 10,000'
          const answer = await call(server, callerOf(route), route.method, addressOf(route), {
            body: { ...validBody(route), [field.name]: value },
          })
          const label = `${nameOf(route)} ${field.name}: ${kind}`
          if (answer.status < 400) throw new Error(`${label} was taken: ${answer.status}`)
          expectProblem(answer, isId ? [400, 404] : isLeak ? [400, 413] : [400, 413])
        }
      }
    }
  })

  it.each([
    'role',
    'owner_id',
    'organization_id',
    'workspace_id',
    'user_id',
    'token_version',
    'key',
    'id',
    'created_by',
    'created_at',
    'is_active',
    'granted_role',
    'floor',
    'email_verified',
    'constructor',
    'prototype',
    'toString',
    '__proto__',
    'LABEL',
    'label ',
  ])('a field %j that a shape does not have is 400, and nothing is made', async (name) => {
    const before = await counted()
    for (const route of withBody()) {
      if (fieldsOf(route).some((field) => field.name === name)) continue
      const raw = JSON.stringify(validBody(route)).replace(
        /^\{/,
        `{${JSON.stringify(name)}:"owner"${Object.keys(validBody(route)).length > 0 ? ',' : ''}`,
      )
      const answer = await call(server, callerOf(route), route.method, addressOf(route), {
        raw,
        headers: { 'content-type': 'application/json' },
      })
      expect([nameOf(route), name, answer.status]).toEqual([nameOf(route), name, 400])
      expectProblem(answer)
    }
    expect(await counted()).toEqual(before)
    expect(({} as Record<string, unknown>).owner).toBeUndefined()
  })

  it('a body that is no object, or no JSON, is 400 at every route', async () => {
    const bodies = [
      'null',
      '[]',
      '[{}]',
      '"x"',
      '5',
      'true',
      '{',
      '{"a":}',
      "{'a':1}",
      '{}{}',
      '{"a":1,}',
      'NaN',
      '\ufeff{}',
      '// x',
      '{"__proto__":{"polluted":true}}',
      `${'['.repeat(20_000)}`,
      `${'{"a":'.repeat(9_000)}1${'}'.repeat(9_000)}`,
    ]
    for (const route of withBody()) {
      for (const raw of bodies) {
        const startedAt = performance.now()
        const answer = await call(server, callerOf(route), route.method, addressOf(route), {
          raw,
          headers: { 'content-type': 'application/json' },
        })
        expect(performance.now() - startedAt).toBeLessThan(1_000)
        expect([nameOf(route), raw.slice(0, 30), answer.status]).toEqual([nameOf(route), raw.slice(0, 30), 400])
        expectProblem(answer)
      }
    }
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })

  it('bytes that are not UTF-8 are refused, not repaired', async () => {
    const raw = Buffer.concat([
      Buffer.from('{"label":"a'),
      Buffer.from([0xff, 0xc3, 0x28]),
      Buffer.from('","permissions":["read"]}'),
    ])
    const answer = await call(server, bearer(world.key), 'POST', `/workspaces/${world.workspaceId}/api-keys`, {
      raw,
      headers: { 'content-type': 'application/json' },
    })
    expectProblem(answer)
  })

  it('56 KiB and a byte, or the longest it says, is 413 at every route; compressed is 415, also where nothing is read', async () => {
    for (const route of routes().filter(({ body }) => body !== undefined)) {
      const raw = `{"label":"${'x'.repeat(route.mostBodyBytes ?? 56 * 1024)}"}`
      const long = await call(server, callerOf(route), route.method, addressOf(route), {
        raw,
        headers: { 'content-type': 'application/json' },
      })
      expectProblem(long, [413])
      const packed = await call(server, callerOf(route), route.method, addressOf(route), {
        raw: 'x',
        headers: { 'content-type': 'application/json', 'content-encoding': 'gzip' },
      })
      expectProblem(packed, [415])
    }
  })

  it('an endless body is cut off', async () => {
    const head = requestHead('POST', '/api/v1/workspaces', {
      Host: new URL(server.origin).host,
      Authorization: `Bearer ${world.key}`,
      'Content-Type': 'application/json',
      'Transfer-Encoding': 'chunked',
    })
    const chunk = `10000\r\n${'x'.repeat(65_536)}\r\n`
    const answer = await sendRaw(server.origin, head + chunk.repeat(4))
    expect(answer.status).toBe(413)
  })
})

describe('the address', () => {
  const WRONG = [
    'null',
    '-1',
    '%00',
    '%0a',
    '..%2f..',
    '%ff',
    '%zz',
    "'%20or%20'1'='1",
    '__proto__',
    'x'.repeat(2_000),
    '%F0%9F%98%80',
    'WS_00000000000000000000000000',
  ]

  it('an id of any form but its own is 404, and no 5xx', async () => {
    for (const route of routes()) {
      for (const name of [...route.path.matchAll(/:(\w+)/g)].map(([, found]) => String(found))) {
        for (const wrong of WRONG) {
          const path = addressOf(route, { [name]: wrong })
          const options = route.body === undefined ? {} : { body: validBody(route) }
          const answer = await call(server, callerOf(route), route.method, path, options)
          const label = `${nameOf(route)} ${name}=${wrong.slice(0, 30)}`
          expect([label, [400, 404].includes(answer.status)]).toEqual([label, true])
        }
      }
    }
  })

  it('a parameter that a route does not know, or given twice, is 400', async () => {
    for (const route of routes()) {
      for (const query of [
        'unknown=1',
        '__proto__=1',
        'constructor=1',
        'sort=password_digest',
        'workspace_id=ws_x',
        'limit=1&limit=2',
        'a=1&a=1',
        'limit=1&unknown=2',
      ]) {
        if (query === 'workspace_id=ws_x' && route.query?.shape.workspace_id !== undefined) continue // it knows that one
        const options = route.body === undefined ? {} : { body: validBody(route) }
        const answer = await call(server, callerOf(route), route.method, `${addressOf(route)}?${query}`, options)
        expect([nameOf(route), query, answer.status]).toEqual([nameOf(route), query, 400])
        expectProblem(answer)
      }
    }
  })

  it('a limit, filter or environment outside of its shape is 400', async () => {
    // What is a provider's own to judge is passed on.
    const lists = routes().filter(({ path, query }) => query !== undefined && !path.startsWith('/proxy/'))
    expect(lists.length).toBeGreaterThan(2)
    for (const route of lists) {
      for (const query of [
        'limit=0',
        'limit=-1',
        'limit=1001',
        'limit=1.5',
        'limit=x',
        'limit=',
        'limit=1;drop',
        'limit=NaN',
        'limit=Infinity',
        'filter=none',
        'environment=prod',
        'filter=',
        'cursor=',
      ]) {
        const answer = await call(server, callerOf(route), 'GET', `${addressOf(route)}?${query}`)
        expect([nameOf(route), query, answer.status]).toEqual([nameOf(route), query, 400])
      }
    }
  })
})

describe('cursors', () => {
  const tokens = () => `/workspaces/${world.workspaceId}/api-keys`
  const cursorOf = async (path: string, credential: Credential): Promise<string> => {
    const answer = await call(server, credential, 'GET', `${path}?limit=1`)
    return (
      new URL(/<([^>]+)>; rel="next"/.exec(answer.headers.get('link') ?? '')?.[1] ?? '/', 'http://x').searchParams.get(
        'cursor',
      ) ?? ''
    )
  }

  it('forged, edited or foreign ones are 400', async () => {
    await makeToken(server, world)
    const asKey = bearer(world.key)
    const good = await cursorOf(tokens(), asKey)
    expect(good).not.toBe('')
    expect((await call(server, asKey, 'GET', `${tokens()}?cursor=${good}`)).status).toBe(200)
    const [position = '', signature = ''] = good.split('.')
    const encoded = (text: string) => Buffer.from(text).toString('base64url')
    await makeToken(server, { ...world, workspaceId: world.otherWorkspaceId })
    await makeToken(server, { ...world, workspaceId: world.otherWorkspaceId })
    await makeToken(server, world.neighbour)
    const elsewhere = `/workspaces/${world.otherWorkspaceId}/api-keys`
    const bad = [
      await cursorOf(elsewhere, asKey),
      await cursorOf('/workspaces', asKey),
      await cursorOf(tokens(), world.people.owner),
      await cursorOf(`/workspaces/${world.neighbour.workspaceId}/api-keys`, bearer(world.neighbour.key)),
      position,
      `${position}.`,
      `.${signature}`,
      '.',
      '..',
      `${encoded("' or 1=1--")}.${signature}`,
      `${encoded(token.id)}.${encoded('x')}`,
      `${good}x`,
      good.slice(0, -1),
      `${good}.x`,
      `${position}=.${signature}`,
      `${position} .${signature}`,
      `${position}!.${signature}`,
      `${position}\n.${signature}`,
      `${signature}.${position}`,
      'x'.repeat(10_000),
      '\u0000',
      '__proto__',
      encoded(JSON.stringify({ after: 1 })),
    ]
    for (const cursor of bad) {
      expect(cursor).not.toBe(good)
      const answer = await call(server, asKey, 'GET', `${tokens()}?cursor=${encodeURIComponent(cursor)}`)
      expect([cursor.slice(0, 60), answer.status]).toEqual([cursor.slice(0, 60), 400])
      expectProblem(answer)
    }
  })
})

describe('texts that people give', () => {
  it.each([
    '<script>alert(1)</script>',
    "Robert'); drop table users;--",
    '$1 \\ %s {{7*7}} #{x}',
    '=cmd()',
    'naïve 😀 名前',
    'x'.repeat(120),
  ])('%j is kept as it was given', async (text) => {
    const made = await makeToken(server, world, { label: text })
    expect(made.label).toBe(text)
    await call(server, bearer(world.key), 'DELETE', `/workspaces/${world.workspaceId}/api-keys/${made.id}`)
    const workspace = await call(server, bearer(world.key), 'POST', '/workspaces', { body: { name: text } })
    expect([workspace.status, workspace.body.name]).toEqual([201, text])
    const { rows } = await sql`select 1 from users limit 1`.execute(server.db)
    expect(rows).toHaveLength(1)
  })
})

async function counted(): Promise<unknown> {
  const { rows } =
    await sql`select (select count(*) from token_lines) as lines, (select count(*) from token_versions) as versions,
    (select count(*) from workspaces) as workspaces, (select count(*) from workspace_members) as members,
    (select count(*) from audit_events where event <> 'token.first_used') as events`.execute(server.db)
  return rows
}

/** A body that would be taken, but for what a test changes. */
function validBody(route: Route): Record<string, unknown> {
  switch (`${route.method} ${route.path.split('/').at(-1)}`) {
    case 'POST workspaces':
      return { name: 'valid' }
    case 'POST api-keys':
      return { label: newLabel(), permissions: ['read'] }
    case 'POST members':
      return { user_id: world.outsider.userId, role: 'viewer' }
    case 'PATCH :user_id':
      return { role: 'member' }
    case 'POST transfer':
      return { user_id: 'usr_00000000000000000000000000' }
    case 'PUT token-policy':
      return { tokens_forbidden: false, expiry_required: false, max_age_days: null, environments: null }
    case 'POST revoke':
      return { credentials: ['x'] }
    case 'POST events':
      return { event: 'import.finished', status: 'pass' }
    case 'POST invitations':
      return { email: 'somebody@example.com', role: 'member' }
    default:
      return {}
  }
}

it('no name, label or address keeps a token that was pasted there by mistake', async () => {
  const base = `/workspaces/${world.workspaceId}`
  const given: Array<[string, string, object]> = [
    ['POST', '/workspaces/', { name: secret, organization_id: world.organizationId }],
    ['PATCH', base, { name: `ours ${secret}` }],
    ['PATCH', base, { cost_centre: secret }],
    ['POST', `${base}/api-keys`, { label: `for ${secret}`, permissions: ['read'] }],
    ['POST', `/organizations/${world.organizationId}/api-keys`, { label: secret, permissions: ['read'] }],
    ['POST', `${base}/invitations`, { email: `${secret}@example.com` }],
  ]
  for (const [method, path, body] of given)
    expectProblem(await call(server, world.people.owner, method, path, { body }))
})

// Who may call what: every route of the API with every kind of caller, each answer against a small table of its own.
// A route without a row fails, and so does a row without a route (threats F-10, G-01, G-02, G-04, H-01, H-21).
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId, newUserId } from '../../src/ids.ts'
import { PROVIDER_TYPES } from '../../src/provider-types/registry.ts'
import {
  type Answer,
  type ApiWorld,
  ageSession,
  bearer,
  type Credential,
  call,
  connectPerson,
  exchange,
  exchanged,
  makeApiWorld,
  makePerson,
  makeResourceServer,
  makeToken,
  NOBODY,
  newLabel,
  type Session,
  signInBrowser,
} from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld
let callers: Record<Caller, Credential>
/** What there is at the neighbour's. */
let objects: Record<'ofWorkspace' | 'ofOrganization', Record<string, string>>
/** In the organization; their roles are what a row needs. */
let spare: { userId: string }
let newcomer: { userId: string }

const CALLERS = [
  'nobody',
  'viewer',
  'member',
  'admin',
  'owner',
  'outsider',
  'neighbour owner',
  'neighbour key',
  'token',
  'token (read)',
  'token of another workspace',
  'organization key',
  'organization key (read)',
  'JWT of the token',
  'JWT of the token (read)',
  'JWT of a person (read)',
  'JWT of a person (manage)',
  'JWT of a member who asked for manage',
  'id_token',
  'JWT for another API',
  'expired token',
  'revoked token',
  'expired JWT',
  'malformed',
] as const
type Caller = (typeof CALLERS)[number]

// --- The table -------------------------------------------------------------------------------------------------------

type Expected = Record<Caller, number | 'in'>

const NEVER: Partial<Expected> = Object.fromEntries(
  (
    ['nobody', 'id_token', 'JWT for another API', 'expired token', 'revoked token', 'expired JWT', 'malformed'] as const
  ).map((caller) => [caller, 401]),
)
const OF_ONE_WORKSPACE = [
  'token',
  'token (read)',
  'token of another workspace',
  'JWT of the token',
  'JWT of the token (read)',
  'JWT of a person (read)',
  'JWT of a person (manage)',
  'JWT of a member who asked for manage',
] as const
const each = (names: readonly Caller[], what: number | 'in') => Object.fromEntries(names.map((name) => [name, what]))

const WORKSPACE_READ = {
  ...NEVER,
  ...each(OF_ONE_WORKSPACE, 'in'),
  ...each(['viewer', 'member', 'admin', 'owner', 'organization key', 'organization key (read)'], 'in'),
  ...each(['outsider', 'neighbour owner', 'neighbour key'], 404),
  'token of another workspace': 403,
} as Expected
const WORKSPACE_READ_AS_MEMBER: Expected = { ...WORKSPACE_READ, viewer: 403 }
const WORKSPACE_READ_AS_ADMIN: Expected = {
  ...WORKSPACE_READ_AS_MEMBER,
  ...each(['member', 'JWT of a member who asked for manage'], 403),
}
const WORKSPACE_MANAGE: Expected = {
  ...WORKSPACE_READ_AS_MEMBER,
  member: 403,
  ...each(
    [
      'token (read)',
      'organization key (read)',
      'JWT of the token (read)',
      'JWT of a person (read)',
      'JWT of a member who asked for manage',
    ],
    403,
  ),
}
/** What is looked at in a review closes none, and lifts no suspension. */
const WORKSPACE_ATTEST: Expected = { ...WORKSPACE_MANAGE, ...each(['token', 'JWT of the token'], 403) }
const WORKSPACE_MANAGE_FROM_ABOVE: Expected = { ...WORKSPACE_MANAGE, ...each(OF_ONE_WORKSPACE, 403) }
const BY_ITS_OWNER: Expected = {
  ...WORKSPACE_MANAGE_FROM_ABOVE,
  ...each(['admin', 'organization key', 'organization key (read)', 'neighbour key'], 403),
}
const ORGANIZATION_READ = {
  ...NEVER,
  ...each(OF_ONE_WORKSPACE, 403),
  ...each(['viewer', 'member', 'admin', 'owner', 'outsider', 'organization key', 'organization key (read)'], 'in'),
  ...each(['neighbour owner', 'neighbour key'], 404),
} as Expected
const ORGANIZATION_READ_AS_ADMIN: Expected = {
  ...ORGANIZATION_READ,
  ...each(['viewer', 'member', 'admin', 'outsider'], 403),
}
const ORGANIZATION_MANAGE: Expected = { ...ORGANIZATION_READ_AS_ADMIN, 'organization key (read)': 403 }
const WHATEVER_IT_REACHES = {
  ...WORKSPACE_READ,
  ...each(['outsider', 'neighbour owner', 'neighbour key', 'token of another workspace'], 'in'),
} as Expected
const ONLY_A_PERSON: Expected = {
  ...WHATEVER_IT_REACHES,
  ...each(OF_ONE_WORKSPACE, 403),
  ...each(['organization key', 'organization key (read)', 'neighbour key'], 403),
}
const ITSELF: Expected = {
  ...(Object.fromEntries(CALLERS.map((caller) => [caller, 403])) as Expected),
  ...NEVER,
  token: 'in',
  'token (read)': 'in',
}
/** A session is none. The JWT for another API is good there, and this server signed it. */
const ANY_CREDENTIAL = {
  ...(Object.fromEntries(CALLERS.map((caller) => [caller, 'in'])) as Expected),
  ...NEVER,
  ...each(['viewer', 'member', 'admin', 'owner', 'outsider', 'neighbour owner'], 403),
  'JWT for another API': 'in',
} as Expected
/** Nobody's but a workspace's, and only with the permission `ingest`. */
const JOBS = {
  ...(Object.fromEntries(CALLERS.map((caller) => [caller, 403])) as Expected),
  ...NEVER,
  ...each(['token', 'token of another workspace', 'JWT of the token'], 'in'),
} as Expected
const ITS_WORKSPACES: Expected = { ...JOBS, 'token of another workspace': 404 }
/** Each sees the log of what it administers; a person who administers no organization names the workspace. */
const AUDIT = {
  ...WORKSPACE_READ_AS_ADMIN,
  ...each(['neighbour owner', 'neighbour key', 'token of another workspace'], 'in'),
  ...each(['viewer', 'member', 'admin', 'outsider'], 400),
} as Expected
const AUDIT_OF_A_WORKSPACE: Expected = {
  ...AUDIT,
  ...each(['neighbour owner', 'neighbour key', 'token of another workspace'], 404),
}
const ANYONE = Object.fromEntries(CALLERS.map((caller) => [caller, 'in'])) as Expected

interface Row {
  expected: Expected
  /** What a caller who is let in is answered. */
  status: number
  /** A session needs a sign-in from the last ten minutes. */
  recent?: true
  body?: () => unknown
  headers?: Record<string, string>
  /** Makes what the call is about; its ids replace those of the place. */
  prepare?: () => Promise<Record<string, string>>
}

/** A field that no shape has: whoever is let in is told so, and nothing changes. */
const NONSENSE = () => ({ nonsense: true })
const aToken = async () => ({ key_id: (await makeToken(server, world)).id })
const aRotatedToken = async () => {
  const { key_id } = await aToken()
  await call(server, bearer(world.key), 'POST', `/workspaces/${world.workspaceId}/api-keys/${key_id}/rotate`)
  return { key_id, version: 'v1' }
}
const anOrganizationKey = async () => {
  const path = `/organizations/${world.organizationId}/api-keys`
  const made = await call(server, bearer(world.key), 'POST', path, { body: { label: newLabel() } })
  expect(made.status).toBe(201)
  return { key_id: String(made.body.id), version: 'v1' }
}
async function roles(person: { userId: string }, inOrganization: string, inWorkspace: string | null) {
  const { organizationId, workspaceId } = world
  await sql`insert into organization_members values (${organizationId}, ${person.userId}, ${inOrganization})
    on conflict (organization_id, user_id) do update set role = excluded.role`.execute(server.db)
  await sql`delete from workspace_members where user_id = ${person.userId}`.execute(server.db)
  if (inWorkspace !== null)
    await sql`insert into workspace_members values (${workspaceId}, ${person.userId}, ${inWorkspace})`.execute(
      server.db,
    )
  return { user_id: person.userId }
}
let invited = 0
const anAddress = () => ({ email: `invited-${++invited}@example.com`, role: 'member' })
async function anInvitation(place: string, key = world.key) {
  const made = await call(server, bearer(key), 'POST', `${place}/invitations`, { body: anAddress() })
  expect(made.status).toBe(201)
  return { invitation_id: String(made.body.id) }
}
const aMember = () => roles(spare, 'member', 'member')
/** Of somebody else than any caller. */
async function aConnection() {
  const id = newId('con')
  const client = await sql<{ id: string }>`select id from clients where kind = 'registered' limit 1`.execute(server.db)
  await sql`insert into connections (id, user_id, client_id, workspace_id, organization_id, environment, approved, created_by)
    values (${id}, ${newUserId()}, ${client.rows[0]?.id}, ${world.workspaceId}, ${world.organizationId}, 'production',
      '{}'::jsonb, 'test')`.execute(server.db)
  return { connection_id: id }
}
async function aRecord() {
  const { body } = await call(server, bearer(world.key), 'GET', `/audit?workspace_id=${world.workspaceId}`)
  return { record_id: String(body[0].id), trace_id: String(body[0].trace_id) }
}
async function aReview() {
  const path = `/workspaces/${world.workspaceId}/reviews`
  const { body } = await call(server, bearer(world.key), 'POST', path, { body: {} })
  return { review_id: String(body.id), item_id: String(body.items[0].id) }
}
async function aClosedReview() {
  const id = newId('rev')
  await sql`insert into access_reviews (id, organization_id, workspace_id, reasons, opened_by, due_at, closed_at, closed_by, report)
    values (${id}, ${world.organizationId}, ${world.workspaceId}, '{asked}', 'test', now(), now(), 'test', 'e30.e30.e30')`.execute(
    server.db,
  )
  return { review_id: id }
}

/** One a provider and workspace: the one before goes, and is not counted among those of this minute. */
async function noProvider() {
  await sql`delete from provider_connections`.execute(server.db)
  await sql`delete from ephemeral_counters where kind = 'provider-checks'`.execute(server.db)
  return {}
}
async function aProvider() {
  await noProvider()
  const path = `/workspaces/${world.workspaceId}/providers`
  const { body } = await call(server, bearer(world.key), 'POST', path, { body: A_PROVIDER })
  return { provider_id: String(body.id) }
}
const A_PROVIDER = {
  provider_type: 'anthropic',
  credentials_type: 'api_token',
  credentials: { api_token: 'sk-ant-of-the-matrix' },
  base_url: 'https://gateway.invalid',
}
async function aReservation() {
  const asked = { body: { amount: '0.01' }, headers: { 'x-trace-id': 'matrix' } }
  const { body } = await call(server, callers.token, 'POST', '/reservations', asked)
  return { reservation_id: String(body.id) }
}

const W = '/workspaces/:workspace_id'
const O = '/organizations/:organization_id'
const RIGHTS = () => ({ label: newLabel(), permissions: ['read'] })
const TABLE: Record<string, Row> = {
  'POST /workspaces': {
    expected: {
      ...ORGANIZATION_MANAGE,
      ...each(['neighbour owner', 'neighbour key'], 404),
    },
    status: 201,
    body: () => ({ name: 'made by the matrix', organization_id: world.organizationId }),
  },
  'GET /workspaces': { expected: WHATEVER_IT_REACHES, status: 200 },
  [`GET ${W}`]: { expected: WORKSPACE_READ, status: 200 },
  [`PATCH ${W}`]: { expected: WORKSPACE_MANAGE, status: 200, body: () => ({ cost_centre: 'R&D' }) },
  [`POST ${W}/archive`]: { expected: WORKSPACE_MANAGE_FROM_ABOVE, status: 400, body: NONSENSE, recent: true },
  [`POST ${W}/transfer`]: { expected: { ...BY_ITS_OWNER, admin: 'in' }, status: 400, body: NONSENSE, recent: true },
  [`GET ${W}/members`]: { expected: WORKSPACE_READ, status: 200 },
  [`POST ${W}/members`]: {
    expected: WORKSPACE_MANAGE,
    status: 201,
    recent: true,
    body: () => ({ user_id: newcomer.userId, role: 'viewer' }),
    prepare: () => roles(newcomer, 'member', null),
  },
  [`PATCH ${W}/members/:user_id`]: {
    expected: WORKSPACE_MANAGE,
    status: 200,
    recent: true,
    body: () => ({ role: 'viewer' }),
    prepare: aMember,
  },
  [`DELETE ${W}/members/:user_id`]: { expected: WORKSPACE_MANAGE, status: 204, prepare: aMember },
  [`GET ${W}/members/:user_id/consequences`]: { expected: WORKSPACE_READ_AS_ADMIN, status: 200, prepare: aMember },
  'GET /audit': { expected: AUDIT, status: 200 },
  'GET /audit/chain': { expected: AUDIT, status: 200 },
  'GET /audit/keys': { expected: ANYONE, status: 200 },
  'GET /audit/export': { expected: AUDIT, status: 200 },
  'GET /audit/evidence/:trace_id': { expected: AUDIT_OF_A_WORKSPACE, status: 200, prepare: aRecord },
  'GET /audit/:record_id': { expected: AUDIT_OF_A_WORKSPACE, status: 200, prepare: aRecord },
  'GET /organizations': { expected: ONLY_A_PERSON, status: 200 },
  [`GET ${O}/members`]: { expected: ORGANIZATION_READ, status: 200 },
  [`PATCH ${O}/members/:user_id`]: {
    expected: ORGANIZATION_MANAGE,
    status: 200,
    recent: true,
    body: () => ({ role: 'admin' }),
    prepare: aMember,
  },
  [`DELETE ${O}/members/:user_id`]: { expected: ORGANIZATION_MANAGE, status: 204, prepare: aMember },
  [`GET ${O}/members/:user_id/consequences`]: { expected: ORGANIZATION_READ_AS_ADMIN, status: 200, prepare: aMember },
  [`GET ${W}/api-keys/self`]: { expected: ITSELF, status: 200 },
  [`POST ${W}/api-keys/self`]: { expected: ITSELF, status: 400, body: NONSENSE },
  [`DELETE ${W}/api-keys/self`]: { expected: ITSELF, status: 400 },
  [`GET ${W}/api-keys`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`POST ${W}/api-keys`]: { expected: WORKSPACE_MANAGE, status: 201, recent: true, body: RIGHTS },
  [`GET ${W}/api-keys/:key_id`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200, prepare: aToken },
  [`POST ${W}/api-keys/:key_id/rotate`]: { expected: WORKSPACE_MANAGE, status: 201, recent: true, prepare: aToken },
  [`POST ${W}/api-keys/:key_id/cutover`]: {
    expected: WORKSPACE_MANAGE,
    status: 200,
    prepare: aRotatedToken,
  },
  [`POST ${W}/api-keys/:key_id/suspend`]: { expected: WORKSPACE_MANAGE, status: 200, prepare: aToken },
  [`POST ${W}/api-keys/:key_id/restore`]: { expected: WORKSPACE_ATTEST, status: 200, recent: true, prepare: aToken },
  [`DELETE ${W}/api-keys/:key_id`]: { expected: WORKSPACE_MANAGE, status: 204, prepare: aToken },
  [`DELETE ${W}/api-keys/:key_id/versions/:version`]: {
    expected: WORKSPACE_MANAGE,
    status: 204,
    prepare: aRotatedToken,
  },
  [`GET ${O}/api-keys`]: { expected: ORGANIZATION_READ_AS_ADMIN, status: 200 },
  [`POST ${O}/api-keys`]: {
    expected: ORGANIZATION_MANAGE,
    status: 201,
    recent: true,
    body: () => ({ label: newLabel() }),
  },
  [`GET ${O}/api-keys/:key_id`]: { expected: ORGANIZATION_READ_AS_ADMIN, status: 200, prepare: anOrganizationKey },
  [`POST ${O}/api-keys/:key_id/rotate`]: {
    expected: ORGANIZATION_MANAGE,
    status: 201,
    recent: true,
    prepare: anOrganizationKey,
  },
  [`POST ${O}/api-keys/:key_id/cutover`]: {
    expected: ORGANIZATION_MANAGE,
    status: 200,
    prepare: anOrganizationKey,
  },
  [`POST ${O}/api-keys/:key_id/suspend`]: { expected: ORGANIZATION_MANAGE, status: 200, prepare: anOrganizationKey },
  [`POST ${O}/api-keys/:key_id/restore`]: {
    expected: ORGANIZATION_MANAGE,
    status: 200,
    recent: true,
    prepare: anOrganizationKey,
  },
  [`DELETE ${O}/api-keys/:key_id`]: {
    expected: ORGANIZATION_MANAGE,
    status: 204,
    prepare: anOrganizationKey,
  },
  [`DELETE ${O}/api-keys/:key_id/versions/:version`]: {
    expected: ORGANIZATION_MANAGE,
    status: 204,
    prepare: anOrganizationKey,
  },
  [`GET ${W}/token-policy`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`PUT ${W}/token-policy`]: {
    expected: WORKSPACE_MANAGE,
    status: 200,
    recent: true,
    body: () => ({ tokens_forbidden: false, expiry_required: false, max_age_days: null, environments: null }),
  },
  [`POST ${W}/invitations`]: { expected: WORKSPACE_MANAGE, status: 201, recent: true, body: anAddress },
  [`GET ${W}/invitations`]: { expected: WORKSPACE_MANAGE, status: 200 },
  [`DELETE ${W}/invitations/:invitation_id`]: {
    expected: WORKSPACE_MANAGE,
    status: 204,
    prepare: () => anInvitation(`/workspaces/${world.workspaceId}`),
  },
  [`POST ${O}/invitations`]: { expected: ORGANIZATION_MANAGE, status: 201, recent: true, body: anAddress },
  [`GET ${O}/invitations`]: { expected: ORGANIZATION_MANAGE, status: 200 },
  [`DELETE ${O}/invitations/:invitation_id`]: {
    expected: ORGANIZATION_MANAGE,
    status: 204,
    prepare: () => anInvitation(`/organizations/${world.organizationId}`),
  },
  [`GET ${W}/connections`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`GET ${W}/connections/:connection_id`]: {
    expected: WORKSPACE_READ_AS_MEMBER,
    status: 200,
    prepare: aConnection,
  },
  [`DELETE ${W}/connections/:connection_id`]: { expected: WORKSPACE_MANAGE, status: 204, prepare: aConnection },
  [`POST ${W}/connections/:connection_id/new-version`]: {
    expected: WORKSPACE_MANAGE,
    status: 200,
    prepare: aConnection,
  },
  [`POST ${W}/connections/:connection_id/suspend`]: {
    expected: WORKSPACE_MANAGE,
    status: 200,
    prepare: aConnection,
  },
  [`POST ${W}/connections/:connection_id/restore`]: {
    expected: WORKSPACE_ATTEST,
    status: 200,
    recent: true,
    prepare: aConnection,
  },
  [`GET ${W}/reviews`]: { expected: WORKSPACE_READ_AS_ADMIN, status: 200 },
  [`POST ${W}/reviews`]: { expected: WORKSPACE_MANAGE, status: 400, body: NONSENSE },
  [`GET ${W}/reviews/:review_id`]: { expected: WORKSPACE_READ_AS_ADMIN, status: 200, prepare: aReview },
  [`GET ${W}/reviews/:review_id/report`]: { expected: WORKSPACE_READ_AS_ADMIN, status: 200, prepare: aClosedReview },
  [`POST ${W}/reviews/:review_id/items/:item_id`]: {
    expected: WORKSPACE_MANAGE,
    status: 400,
    body: NONSENSE,
    prepare: aReview,
  },
  [`POST ${W}/reviews/:review_id/close`]: { expected: WORKSPACE_ATTEST, status: 409, prepare: aReview },
  [`GET ${W}/notices`]: { expected: WORKSPACE_READ_AS_ADMIN, status: 200 },
  'POST /credentials/revoke': { expected: ANYONE, status: 400, body: NONSENSE },
  'GET /access/validate': { expected: ANY_CREDENTIAL, status: 200 },
  'POST /audit/events': {
    expected: JOBS,
    status: 201,
    body: () => ({ event: 'import.finished', status: 'pass' }),
    headers: { 'x-trace-id': 'matrix' },
  },
  'POST /events': {
    expected: JOBS,
    status: 400,
    body: NONSENSE,
    headers: { 'x-trace-id': 'matrix' },
  },
  'POST /reservations': {
    expected: JOBS,
    status: 201,
    body: () => ({ amount: '0.01' }),
    headers: { 'x-trace-id': 'matrix' },
  },
  'GET /reservations/:reservation_id': { expected: ITS_WORKSPACES, status: 200, prepare: aReservation },
  'POST /reservations/:reservation_id/settle': {
    expected: JOBS,
    status: 400,
    body: NONSENSE,
    headers: { 'x-trace-id': 'matrix' },
    prepare: aReservation,
  },
  'POST /reservations/:reservation_id/release': { expected: ITS_WORKSPACES, status: 200, prepare: aReservation },
  [`GET ${W}/budget`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`PUT ${W}/budget`]: { expected: WORKSPACE_MANAGE, status: 400, body: NONSENSE },
  [`DELETE ${W}/budget`]: { expected: WORKSPACE_MANAGE, status: 204 },
  [`GET ${W}/usage`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`GET ${W}/usage/events`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`GET ${W}/violations`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`GET ${O}/spend`]: { expected: ORGANIZATION_READ_AS_ADMIN, status: 200 },
  [`GET ${O}/spend/export`]: { expected: ORGANIZATION_READ_AS_ADMIN, status: 200 },
  [`GET ${O}/violations`]: { expected: ORGANIZATION_READ_AS_ADMIN, status: 200 },
  [`GET ${W}/providers`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200 },
  [`POST ${W}/providers`]: {
    expected: WORKSPACE_MANAGE,
    status: 201,
    body: () => A_PROVIDER,
    recent: true,
    prepare: noProvider,
  },
  [`GET ${W}/providers/:provider_id`]: { expected: WORKSPACE_READ_AS_MEMBER, status: 200, prepare: aProvider },
  [`PUT ${W}/providers/:provider_id`]: {
    expected: WORKSPACE_MANAGE,
    status: 200,
    body: () => ({ ...A_PROVIDER, provider_type: undefined }),
    recent: true,
    prepare: aProvider,
  },
  [`POST ${W}/providers/:provider_id/verify`]: { expected: WORKSPACE_MANAGE, status: 200, prepare: aProvider },
  [`DELETE ${W}/providers/:provider_id`]: { expected: WORKSPACE_MANAGE, status: 204, prepare: aProvider },
  // What is let in finds no connection to a provider.
  ...Object.fromEntries(
    PROVIDER_TYPES.flatMap(({ type, endpoints }) =>
      endpoints.map(({ method, path }): [string, Row] => [
        `${method} /proxy/${type}${path}`,
        {
          expected: JOBS,
          status: 404,
          prepare: noProvider,
          ...(method === 'GET' ? {} : { body: () => ({ model: 'm' }) }),
        },
      ]),
    ),
  ),
  [`PUT ${O}/currency`]: { expected: ORGANIZATION_MANAGE, status: 400, body: NONSENSE },
}

// --- The callers -----------------------------------------------------------------------------------------------------

beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_LOG_LEVEL: 'warn' } })
  world = await makeApiWorld(server)
  ;[spare, newcomer] = [await makePerson(server, 'Spare'), await makePerson(server, 'Newcomer')]
  await roles(spare, 'member', 'member')
  await roles(newcomer, 'member', null)
  const value = async (input: object) => (await makeToken(server, world, { ...input })).key
  const token = await value({})
  const readKey = await call(server, bearer(world.key), 'POST', `/organizations/${world.organizationId}/api-keys`, {
    body: { label: newLabel(), permissions: ['read'] },
  })
  const revoked = await makeToken(server, world)
  await call(server, bearer(world.key), 'DELETE', `/workspaces/${world.workspaceId}/api-keys/${revoked.id}`)
  const expired = await makeToken(server, world, { expires_in: 60 })
  await sql`update token_versions set expires_at = now() - interval '1 second' where token_id = ${expired.id}`.execute(
    server.db,
  )
  await makeResourceServer(server, 'https://other.example.com', { scopes: [{ name: 'read', least_role: 'member' }] })
  const forOther = await exchange(server, token, { resource: 'https://other.example.com' })
  const manager = await connectPerson(server, world, world.people.admin, 'read manage')
  callers = {
    nobody: NOBODY,
    ...world.people,
    outsider: world.outsider,
    'neighbour owner': world.neighbour.owner,
    'neighbour key': bearer(world.neighbour.key),
    token: bearer(token),
    'token (read)': bearer(await value({ permissions: ['read'] })),
    'token of another workspace': bearer(
      (await makeToken(server, { ...world, workspaceId: world.otherWorkspaceId })).key,
    ),
    'organization key': bearer(world.key),
    'organization key (read)': bearer(readKey.body.key),
    'JWT of the token': bearer(await exchanged(server, token)),
    'JWT of the token (read)': bearer((await exchange(server, token, { scope: 'read' })).body.access_token),
    'JWT of a person (read)': bearer(
      String((await connectPerson(server, world, world.people.admin, 'read')).access_token),
    ),
    'JWT of a person (manage)': bearer(String(manager.access_token)),
    'JWT of a member who asked for manage': bearer(
      String((await connectPerson(server, world, world.people.member, 'read manage')).access_token),
    ),
    id_token: bearer(String(manager.id_token)),
    'JWT for another API': bearer(String(forOther.body.access_token)),
    'expired token': bearer(expired.key),
    'revoked token': bearer(revoked.key),
    'expired JWT': bearer(await expiredJwt(token)),
    malformed: bearer(`${token}x`),
  }
})
beforeAll(async () => {
  const { neighbour } = world
  const place = `/organizations/${neighbour.organizationId}`
  const keys = await call(server, bearer(neighbour.key), 'GET', `${place}/api-keys`)
  objects = {
    ofWorkspace: {
      key_id: (await makeToken(server, neighbour)).id,
      ...(await anInvitation(`/workspaces/${neighbour.workspaceId}`, neighbour.key)),
    },
    ofOrganization: { key_id: String(keys.body[0].id), ...(await anInvitation(place, neighbour.key)) },
  }
})
afterAll(() => server?.close())

async function expiredJwt(token: string): Promise<string> {
  const claims = JSON.parse(Buffer.from((await exchanged(server, token)).split('.')[1] ?? '', 'base64url').toString())
  const { createAccessTokens } = await import('../../src/oauth/access-tokens.ts')
  const tokens = createAccessTokens({ ...server.app, issuer: server.origin })
  return tokens.sign({ ...claims, exp: Math.floor(Date.now() / 1000) - 1 })
}

function addressOf(name: string, ids: Record<string, string>): { method: string; path: string } {
  const [method = '', template = ''] = name.split(' ')
  return { method, path: template.replace(/:(\w+)/g, (_, id: string) => ids[id] ?? id) }
}
const idsOf = (place: { organizationId: string; workspaceId: string }) => ({
  organization_id: place.organizationId,
  workspace_id: place.workspaceId,
})

async function ask(name: string, row: Row, credential: Credential, more: { headers?: Record<string, string> } = {}) {
  const ids = { ...idsOf(world), ...(await row.prepare?.()) }
  const { method, path } = addressOf(name, ids)
  // Nothing in a body tells a DELETE that it is meant to fail: a parameter does.
  const query = row.status === 400 && row.body === undefined ? '?nonsense=1' : ''
  const body = row.body === undefined ? {} : { body: row.body() }
  return call(server, credential, method, path + query, {
    ...body,
    ...more,
    headers: { ...row.headers, ...more.headers },
  })
}

// --- The tests -------------------------------------------------------------------------------------------------------

it('each route has a row, and each row a route', () => {
  const routes = server.app.apiRoutes.map(({ method, path }) => `${method} ${path}`)
  expect(routes.toSorted()).toEqual(Object.keys(TABLE).toSorted())
})

describe.each(Object.entries(TABLE))('%s', (name, row) => {
  it('lets in exactly those who may call it', async () => {
    const answered: Partial<Record<Caller, number>> = {}
    for (const caller of CALLERS) {
      const answer = await ask(name, row, callers[caller])
      answered[caller] = answer.status
      expectProper(answer)
    }
    const expected = Object.fromEntries(
      CALLERS.map((caller) => [caller, row.expected[caller] === 'in' ? row.status : row.expected[caller]]),
    )
    expect(answered).toEqual(expected)
  })

  it('tells all whose credential is not good the same', async () => {
    if (row.expected === ANYONE) return
    const trace = { headers: { 'x-trace-id': 'same' } }
    const texts = new Set<string>()
    for (const caller of CALLERS) {
      if (row.expected[caller] !== 401) continue
      const answer = await ask(name, row, callers[caller], trace)
      texts.add(answer.text)
      const challenge = answer.headers.get('www-authenticate') ?? ''
      expect(challenge).toMatch(/^Bearer realm=/)
      expect(challenge.includes('error="invalid_token"')).toBe(caller !== 'nobody')
    }
    expect(texts.size).toBe(1)
  })

  it('takes a change of a session only from its own page', async () => {
    const [method] = name.split(' ')
    if (method === 'GET' || row.expected === ANYONE) return
    const { owner, admin } = world.people
    const { 'x-csrf-token': _token, ...without } = owner.headers
    const attempts: Array<Record<string, string>> = [
      without,
      { ...owner.headers, 'x-csrf-token': '' },
      { ...owner.headers, 'x-csrf-token': admin.csrf },
      { ...owner.headers, 'sec-fetch-site': 'cross-site' },
      { ...owner.headers, 'sec-fetch-site': 'same-site' },
      { cookie: owner.cookie, 'x-csrf-token': owner.csrf, origin: 'https://evil.example' },
      { cookie: owner.cookie, 'x-csrf-token': owner.csrf, origin: 'null' },
    ]
    for (const headers of attempts) {
      const answer = await ask(name, row, { headers })
      expect([answer.status, answer.body.code]).toEqual([403, 'forbidden_origin'])
    }
  })

  it('an object of a neighbour is the same answer, to the byte, as one that never was', async () => {
    for (const caller of ['owner', 'organization key', 'token', 'JWT of a person (manage)'] as const) {
      for (const [neighbours, unknown] of foreignIds(name)) {
        const answers = [] as Answer[]
        for (const ids of [neighbours, unknown]) {
          const { method, path } = addressOf(name, ids)
          const body = row.body === undefined ? {} : { body: row.body() }
          answers.push(
            await call(server, callers[caller], method, path, { ...body, headers: { 'x-trace-id': 'identical' } }),
          )
        }
        const [theirs, nobodys] = answers.map(({ status, text, headers }) => [status, text, withoutDate(headers)])
        expect(theirs).toEqual(nobodys)
        expect(theirs?.[0]).toBeGreaterThanOrEqual(400)
        if (callerMayReach(name, caller) && row.status !== 400) expect(theirs?.[0]).toBe(404)
      }
    }
  })
})

it('a session without a recent sign-in cannot make, change or end a credential or a membership; all else it can', async () => {
  const stale: Session = await signInBrowser(server, world.owner)
  await ageSession(server, stale, 601)
  for (const [name, row] of Object.entries(TABLE)) {
    if (row.expected.owner !== 'in' || row.expected === ANYONE) continue
    const isProbe = row.status === 400
    const real = name.endsWith('/archive') ? { ...row, body: () => ({}) } : row
    const asked = name.endsWith('/transfer') ? { ...row, body: () => ({ user_id: spare.userId }) } : real
    const answer = await ask(name, asked, stale)
    if (row.recent === true) expect([name, answer.body.code]).toEqual([name, 'recent_sign_in_required'])
    else if (!isProbe) expect([name, answer.status]).toEqual([name, row.status])
  }
  const fresh = await signInBrowser(server, world.owner)
  await ageSession(server, fresh, 500)
  const made = await call(server, fresh, 'POST', `/workspaces/${world.workspaceId}/api-keys`, { body: RIGHTS() })
  expect(made.status).toBe(201)
})

it('only an owner hands a workspace over, or makes and unmakes an owner', async () => {
  const path = `/workspaces/${world.workspaceId}`
  await roles(spare, 'member', 'member')
  const owner = world.people.owner.userId
  const attempts: Array<[string, string, unknown]> = [
    ['PATCH', `${path}/members/${spare.userId}`, { role: 'owner' }],
    ['PATCH', `${path}/members/${world.people.admin.userId}`, { role: 'owner' }],
    ['PATCH', `${path}/members/${owner}`, { role: 'member' }],
    ['DELETE', `${path}/members/${owner}`, undefined],
    ['POST', `${path}/members`, { user_id: newcomer.userId, role: 'owner' }],
    ['POST', `${path}/invitations`, { email: 'owner-to-be@example.com', role: 'owner' }],
  ]
  await roles(newcomer, 'member', null)
  for (const caller of [
    'admin',
    'organization key',
    'token',
    'JWT of the token',
    'JWT of a person (manage)',
  ] as const) {
    for (const [method, address, body] of attempts) {
      const answer = await call(server, callers[caller], method, address, body === undefined ? {} : { body })
      expect([caller, method, answer.body.code]).toEqual([caller, method, 'role_too_low'])
    }
  }
  const transfer = await call(server, world.people.admin, 'POST', `${path}/transfer`, {
    body: { user_id: spare.userId },
  })
  expect(transfer.body.code).toBe('role_too_low')
})

it('a method that an address does not take is 405 with those that it takes, an unknown address 404', async () => {
  for (const method of ['PUT', 'DELETE', 'PATCH']) {
    const answer = await call(server, bearer(world.key), method, '/workspaces', { body: {} })
    expect([answer.status, answer.body.code]).toEqual([405, 'method_not_allowed'])
    expect(answer.headers.get('allow')).toMatch(/GET.*POST|POST.*GET/)
  }
  for (const path of ['/nothing', '/workspaces//', `/organizations/${world.organizationId}/api-keys/self/x`])
    expect((await call(server, bearer(world.key), 'GET', path)).status).toBe(404)
})

// --- Helpers ---------------------------------------------------------------------------------------------------------

/** Pairs of ids: what is there at the neighbour's, and what is nowhere; also below our own workspace. */
function foreignIds(name: string): Array<[Record<string, string>, Record<string, string>]> {
  if (!name.includes(':')) return []
  const { neighbour } = world
  const isOfOrganization = name.includes(':organization_id')
  const theirs: Record<string, string> = {
    ...(isOfOrganization ? objects.ofOrganization : objects.ofWorkspace),
    user_id: neighbour.owner.userId,
    version: 'v1',
  }
  const nobodys: Record<string, string> = {
    key_id: 'key_00000000000000000000000000',
    invitation_id: String(theirs.invitation_id).replace(/_.*/, '_00000000000000000000000000'),
    user_id: 'usr_00000000000000000000000000',
    version: 'v1',
    organization_id: 'org_00000000000000000000000000',
    workspace_id: 'ws_00000000000000000000000000',
  }
  const ofNeighbour = { ...theirs, ...idsOf(neighbour) }
  const isNested = /:(key_id|user_id|invitation_id)/.test(name)
  return [
    [ofNeighbour, nobodys],
    ...(isNested
      ? [
          [
            { ...theirs, ...idsOf(world) },
            { ...nobodys, ...idsOf(world) },
          ] as [typeof ofNeighbour, typeof nobodys],
        ]
      : []),
  ]
}

function callerMayReach(name: string, caller: Caller): boolean {
  return TABLE[name]?.expected[caller] === 'in'
}

function withoutDate(headers: Headers): Array<[string, string]> {
  return [...headers].filter(([name]) => name !== 'date' && name !== 'keep-alive')
}

function expectProper(answer: Answer): void {
  expect(answer.status).toBeLessThan(500)
  expect(answer.headers.get('cache-control')).toBe('no-store')
  if (answer.status < 400) return
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/)
  expect(answer.body).toMatchObject({ status: answer.status, code: expect.any(String), trace_id: expect.any(String) })
}

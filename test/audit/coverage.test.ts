// Each mutating route and command, called once, leaves exactly one record of its change: by whom, about what, and found by
// its trace id. A route or command without an entry in these tables fails by its name.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { COMMANDS } from '../../src/cli/commands.ts'
import { newId, newUserId } from '../../src/ids.ts'
import { PROVIDER_TYPES } from '../../src/provider-types/registry.ts'
import {
  type Answer,
  type ApiWorld,
  bearer,
  type Credential,
  call,
  makeApiWorld,
  makePerson,
  makeToken,
  NOBODY,
  newLabel,
} from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { makeClient } from '../support/world.ts'

let server: TestServer
let world: ApiWorld
beforeAll(async () => {
  server = await startServer()
  world = await makeApiWorld(server)
})
afterAll(() => server?.close())

type Ids = Record<string, string>
/** Columns of the record. */
type Columns = Record<string, string | null>

interface Told {
  event: string
  /** What it is about, besides the place of the path. */
  on?: (ids: Ids, answer: Answer['body']) => Columns
  /** The event of the credentials that end with it: each of the two that there are has a record of its own. */
  also?: string
}

interface RouteChange extends Told {
  /** Makes what the call is about; its ids replace those of the place. */
  prepare?: () => Promise<Ids>
  body?: (ids: Ids) => unknown
  headers?: Record<string, string>
  /** The owner's browser where nothing is said. */
  as?: (ids: Ids) => { credential: Credential; actor: Columns }
}

interface CommandChange extends Told {
  prepare?: () => Promise<Ids>
  input: (ids: Ids) => unknown
}

// --- What there is to change ---------------------------------------------------------------------------------------------

const owner = () => world.people.owner
async function asOwner(method: string, path: string, body?: unknown): Promise<Answer['body']> {
  const answer = await call(server, owner(), method, path, body === undefined ? {} : { body })
  expect(answer.status, answer.text).toBeLessThan(300)
  return answer.body
}

const anOrganization = async () => {
  const made = await server.run('organization create', { name: newLabel(), owner: owner().email })
  return { organization_id: String(made.id) }
}
const aWorkspace = async () => {
  const made = await asOwner('POST', '/workspaces', { name: newLabel(), organization_id: world.organizationId })
  return { workspace_id: String(made.id) }
}
const A_PROVIDER = {
  provider_type: 'anthropic',
  credentials_type: 'api_token',
  credentials: { api_token: 'sk-ant-of-the-coverage' },
  base_url: 'https://gateway.invalid', // nobody answers there
}
const aProvider = async () => {
  const { workspace_id } = await aWorkspace()
  const made = await asOwner('POST', `/workspaces/${workspace_id}/providers`, A_PROVIDER)
  return { workspace_id, provider_id: String(made.id) }
}
const aToken = async () => {
  const { id, key } = await makeToken(server, world)
  return { key_id: id, key }
}
const aRotatedToken = async () => {
  const made = await aToken()
  await asOwner('POST', `/workspaces/${world.workspaceId}/api-keys/${made.key_id}/rotate`, {})
  return { ...made, version: 'v1' }
}
const keysOfOrganization = () => `/organizations/${world.organizationId}/api-keys`
const anOrganizationKey = async () => {
  const made = await asOwner('POST', keysOfOrganization(), { label: newLabel() })
  return { key_id: String(made.id), key: String(made.key) }
}
const aRotatedOrganizationKey = async () => {
  const made = await anOrganizationKey()
  await asOwner('POST', `${keysOfOrganization()}/${made.key_id}/rotate`, {})
  return { ...made, version: 'v1' }
}
const aPerson = async () => {
  const { userId, email } = await makePerson(server)
  return { user_id: userId, email }
}
const aColleague = async () => {
  const person = await aPerson()
  await server.run('member add', { organization: world.organizationId, user: person.email, role: 'member' })
  return person
}
const aMember = async () => {
  const person = await aColleague()
  await server.run('member add', { workspace: world.workspaceId, user: person.email, role: 'member' })
  return person
}
const anInvitation = (base: () => string) => async () => {
  const made = await asOwner('POST', `${base()}/invitations`, { email: `${newUserId()}@example.com`, role: 'member' })
  return { invitation_id: String(made.id) }
}
const aConnection = async (userId = owner().userId) => {
  const connection_id = newId('con')
  const client = await makeClient(server)
  await sql`insert into connections (id, user_id, client_id, workspace_id, organization_id, environment, approved, created_by)
    values (${connection_id}, ${userId}, ${client.id}, ${world.workspaceId}, ${world.organizationId}, 'production',
      '{}'::jsonb, 'test')`.execute(server.db)
  return { connection_id }
}
/** With two credentials that end with them. */
const aConnectedMember = async () => {
  const person = await aMember()
  for (let count = 0; count < 2; count++) await aConnection(person.user_id)
  return person
}
const aReview = async () => {
  const place = await aWorkspace()
  await makeToken(server, { workspaceId: place.workspace_id, key: world.key })
  const review = await asOwner('POST', `/workspaces/${place.workspace_id}/reviews`, {})
  return { ...place, review_id: String(review.id), item_id: String(review.items[0].id) }
}
const aDecidedReview = async () => {
  const place = await aWorkspace()
  const path = `/workspaces/${place.workspace_id}/reviews`
  const review = await asOwner('POST', path, {})
  for (const { id } of review.items) await asOwner('POST', `${path}/${review.id}/items/${id}`, { decision: 'keep' })
  return { ...place, review_id: String(review.id) }
}

const aboutKey = ({ key_id = '' }: Ids): Columns => ({ credential_id: key_id })
const aboutConnection = ({ connection_id = '' }: Ids): Columns => ({ credential_id: connection_id })
const aboutPerson = ({ user_id = '' }: Ids): Columns => ({ user_id })
const aboutMade = (_: Ids, answer: Answer['body']): Columns => ({ credential_id: String(answer.id) })
const itself = ({ key = '', key_id = '' }: Ids) => ({
  credential: bearer(key),
  actor: { actor_kind: 'key', actor_id: key_id },
})

// --- The tables: whoever adds a route or a command adds a row --------------------------------------------------------------

const W = '/workspaces/:workspace_id'
const O = '/organizations/:organization_id'
const workspace = () => `/workspaces/${world.workspaceId}`
const organization = () => `/organizations/${world.organizationId}`

const ROUTES: Record<string, RouteChange> = {
  'POST /workspaces': {
    event: 'workspace.created',
    body: () => ({ name: newLabel(), organization_id: world.organizationId }),
    on: (_, answer) => ({ workspace_id: String(answer.id), organization_id: world.organizationId }),
  },
  [`PATCH ${W}`]: { event: 'workspace.changed', body: () => ({ cost_centre: newLabel() }) },
  [`POST ${W}/archive`]: { event: 'workspace.archived', prepare: aWorkspace, body: () => ({}) },
  [`POST ${W}/transfer`]: {
    event: 'workspace.transferred',
    async prepare() {
      const [place, person] = [await aWorkspace(), await aColleague()]
      await server.run('member add', { workspace: place.workspace_id, user: person.email, role: 'admin' })
      return { ...place, ...person }
    },
    body: ({ user_id }) => ({ user_id }),
    on: aboutPerson,
  },
  [`POST ${W}/members`]: {
    event: 'member.added',
    prepare: aColleague,
    body: ({ user_id }) => ({ user_id, role: 'viewer' }),
    on: aboutPerson,
  },
  [`PATCH ${W}/members/:user_id`]: {
    event: 'member.role_changed',
    prepare: aMember,
    body: () => ({ role: 'viewer' }),
    on: aboutPerson,
  },
  [`DELETE ${W}/members/:user_id`]: {
    event: 'member.removed',
    prepare: aConnectedMember,
    on: aboutPerson,
    also: 'connection.closed',
  },
  [`PATCH ${O}/members/:user_id`]: {
    event: 'member.role_changed',
    prepare: aColleague,
    body: () => ({ role: 'admin' }),
    on: aboutPerson,
  },
  [`DELETE ${O}/members/:user_id`]: { event: 'member.removed', prepare: aColleague, on: aboutPerson },
  [`POST ${W}/invitations`]: {
    event: 'invitation.created',
    body: () => ({ email: `${newUserId()}@example.com`, role: 'member' }),
  },
  [`DELETE ${W}/invitations/:invitation_id`]: { event: 'invitation.cancelled', prepare: anInvitation(workspace) },
  [`POST ${O}/invitations`]: {
    event: 'invitation.created',
    body: () => ({ email: `${newUserId()}@example.com`, role: 'member' }),
  },
  [`DELETE ${O}/invitations/:invitation_id`]: { event: 'invitation.cancelled', prepare: anInvitation(organization) },
  [`POST ${W}/api-keys`]: {
    event: 'token.created',
    body: () => ({ label: newLabel(), permissions: ['read'] }),
    on: aboutMade,
  },
  [`POST ${W}/api-keys/self`]: { event: 'token.rotated', prepare: aToken, as: itself, body: () => ({}), on: aboutKey },
  [`DELETE ${W}/api-keys/self`]: { event: 'token.revoked', prepare: aToken, as: itself, on: aboutKey },
  [`POST ${W}/api-keys/:key_id/rotate`]: {
    event: 'token.rotated',
    prepare: aToken,
    body: () => ({}),
    on: aboutKey,
  },
  [`POST ${W}/api-keys/:key_id/cutover`]: {
    event: 'token.cut_over',
    prepare: aRotatedToken,
    body: () => ({}),
    on: aboutKey,
  },
  [`POST ${W}/api-keys/:key_id/suspend`]: { event: 'token.suspended', prepare: aToken, body: () => ({}), on: aboutKey },
  [`POST ${W}/api-keys/:key_id/restore`]: {
    event: 'token.restored',
    async prepare() {
      const made = await aToken()
      await asOwner('POST', `${workspace()}/api-keys/${made.key_id}/suspend`, {})
      return made
    },
    body: () => ({}),
    on: aboutKey,
  },
  [`DELETE ${W}/api-keys/:key_id`]: { event: 'token.revoked', prepare: aToken, on: aboutKey },
  [`DELETE ${W}/api-keys/:key_id/versions/:version`]: {
    event: 'token.version_revoked',
    prepare: aRotatedToken,
    on: aboutKey,
  },
  [`POST ${O}/api-keys`]: { event: 'organization_key.created', body: () => ({ label: newLabel() }), on: aboutMade },
  [`POST ${O}/api-keys/:key_id/rotate`]: {
    event: 'token.rotated',
    prepare: anOrganizationKey,
    body: () => ({}),
    on: aboutKey,
  },
  [`POST ${O}/api-keys/:key_id/cutover`]: {
    event: 'token.cut_over',
    prepare: aRotatedOrganizationKey,
    body: () => ({}),
    on: aboutKey,
  },
  [`POST ${O}/api-keys/:key_id/suspend`]: {
    event: 'token.suspended',
    prepare: anOrganizationKey,
    body: () => ({}),
    on: aboutKey,
  },
  [`POST ${O}/api-keys/:key_id/restore`]: {
    event: 'token.restored',
    async prepare() {
      const made = await anOrganizationKey()
      await asOwner('POST', `${keysOfOrganization()}/${made.key_id}/suspend`, {})
      return made
    },
    body: () => ({}),
    on: aboutKey,
  },
  [`DELETE ${O}/api-keys/:key_id`]: { event: 'organization_key.revoked', prepare: anOrganizationKey, on: aboutKey },
  [`DELETE ${O}/api-keys/:key_id/versions/:version`]: {
    event: 'token.version_revoked',
    prepare: aRotatedOrganizationKey,
    on: aboutKey,
  },
  [`PUT ${W}/token-policy`]: {
    event: 'token_policy.changed',
    prepare: aWorkspace,
    body: () => ({ tokens_forbidden: false, expiry_required: false, max_age_days: 90, environments: null }),
  },
  [`DELETE ${W}/connections/:connection_id`]: {
    event: 'connection.closed',
    prepare: () => aConnection(),
    on: aboutConnection,
  },
  [`POST ${W}/connections/:connection_id/new-version`]: {
    event: 'connection.version_raised',
    prepare: () => aConnection(),
    body: () => ({}),
    on: aboutConnection,
  },
  [`POST ${W}/connections/:connection_id/suspend`]: {
    event: 'connection.suspended',
    prepare: () => aConnection(),
    body: () => ({}),
    on: aboutConnection,
  },
  [`POST ${W}/connections/:connection_id/restore`]: {
    event: 'connection.restored',
    async prepare() {
      const made = await aConnection()
      await asOwner('POST', `${workspace()}/connections/${made.connection_id}/suspend`, {})
      return made
    },
    body: () => ({}),
    on: aboutConnection,
  },
  'POST /credentials/revoke': {
    event: 'token.leak_reported',
    prepare: aToken,
    body: ({ key }) => ({ credentials: [key] }),
    as: () => ({ credential: NOBODY, actor: { actor_kind: 'nobody', actor_id: null } }),
    on: (ids) => ({ ...aboutKey(ids), workspace_id: world.workspaceId }),
  },
  'POST /audit/events': {
    event: 'job.import.finished',
    prepare: aToken,
    body: () => ({ event: 'import.finished', status: 'pass' }),
    as: itself,
    on: (ids) => ({ ...aboutKey(ids), workspace_id: world.workspaceId }),
  },
  // It changes nothing, and is recorded all the same.
  'GET /access/validate': {
    event: 'access_validation',
    prepare: aToken,
    as: itself,
    on: (ids) => ({ ...aboutKey(ids), workspace_id: world.workspaceId }),
  },
  [`POST ${W}/providers`]: {
    event: 'provider.created',
    prepare: aWorkspace,
    body: () => A_PROVIDER,
  },
  [`PUT ${W}/providers/:provider_id`]: {
    event: 'provider.credentials_replaced',
    prepare: aProvider,
    body: () => ({ ...A_PROVIDER, provider_type: undefined }),
  },
  [`POST ${W}/providers/:provider_id/verify`]: {
    event: 'provider.verification_inconclusive',
    prepare: aProvider,
    body: () => ({}),
  },
  [`DELETE ${W}/providers/:provider_id`]: { event: 'provider.deleted', prepare: aProvider },
  [`PUT ${W}/budget`]: { event: 'budget.changed', body: () => ({ cap: '5.00', mode: 'soft' }) },
  [`DELETE ${W}/budget`]: { event: 'budget.removed' },
  [`PUT ${O}/currency`]: {
    event: 'organization.currency_changed',
    // Nothing is counted there yet.
    prepare: anOrganization,
    body: () => ({ currency: 'EUR' }),
    on: ({ organization_id = '' }) => ({ organization_id }),
  },
  [`POST ${W}/reviews`]: { event: 'review.opened', prepare: aWorkspace, body: () => ({}) },
  [`POST ${W}/reviews/:review_id/items/:item_id`]: {
    event: 'review.attested',
    prepare: aReview,
    body: () => ({ decision: 'keep' }),
  },
  [`POST ${W}/reviews/:review_id/close`]: { event: 'review.closed', prepare: aDecidedReview, body: () => ({}) },
}

const PASSWORD = 'correct horse battery staple'

const COMMAND_CHANGES: Record<string, CommandChange> = {
  'user create': {
    event: 'user.created',
    input: () => ({ email: `${newUserId()}@example.com`, name: 'Eve', password: PASSWORD }),
    on: (_, answer) => ({ user_id: String(answer.id), organization_id: null }),
  },
  'user set-password': {
    event: 'user.password_set',
    also: 'connection.version_raised',
    prepare: aConnectedMember,
    input: ({ user_id }) => ({ user: user_id, password: PASSWORD }),
    on: aboutPerson,
  },
  'user sign-out': {
    event: 'user.signed_out_everywhere',
    also: 'connection.version_raised',
    prepare: aConnectedMember,
    input: ({ user_id }) => ({ user: user_id }),
    on: aboutPerson,
  },
  'user suspend': {
    event: 'user.suspended',
    also: 'connection.closed',
    prepare: aConnectedMember,
    input: ({ user_id }) => ({ user: user_id }),
    on: aboutPerson,
  },
  'user restore': {
    event: 'user.restored',
    async prepare() {
      const person = await aPerson()
      await server.run('user suspend', { user: person.user_id })
      return person
    },
    input: ({ user_id }) => ({ user: user_id }),
    on: aboutPerson,
  },
  'user erase': {
    event: 'user.erased',
    prepare: aPerson,
    input: ({ user_id }) => ({ user: user_id, dry_run: false, yes: true }),
    on: aboutPerson,
  },
  'restore-check': { event: 'sink.accepted', input: () => ({ dry_run: false, accept_sink: true }) },
  'keys rewrap': { event: 'master_key.rewrapped', input: () => ({}) },
  'keys rotate-data': {
    event: 'data_key.rotated',
    input: () => ({ organization: world.organizationId, unfinished_only: false }),
    on: () => ({ organization_id: world.organizationId }),
  },
  'revocation everything': { event: 'access_tokens.all_refused', input: () => ({}) },
  'organization create': {
    event: 'organization.created',
    input: () => ({ name: newLabel(), owner: owner().email }),
    on: (_, answer) => ({ organization_id: String(answer.id) }),
  },
  'workspace create': {
    event: 'workspace.created',
    input: () => ({ organization: world.organizationId, name: newLabel(), owner: owner().email }),
    on: (_, answer) => ({ organization_id: world.organizationId, workspace_id: String(answer.id) }),
  },
  'member add': {
    event: 'member.added',
    prepare: aColleague,
    input: ({ email }) => ({ workspace: world.workspaceId, user: email, role: 'viewer' }),
    on: (ids) => ({ ...aboutPerson(ids), workspace_id: world.workspaceId }),
  },
  'client create': {
    event: 'client.created',
    input: () => CLIENT,
    on: (_, answer) => ({ client_id: String(answer.client_id) }),
  },
  'client delete': {
    event: 'client.deleted',
    prepare: async () => ({ client: (await makeClient(server)).id }),
    input: ({ client }) => ({ client }),
    on: ({ client = '' }) => ({ client_id: client }),
  },
  'client grant': {
    event: 'connection.approved',
    prepare: async () => ({ client: (await makeClient(server, CLIENT)).id }),
    input: ({ client }) => ({
      client,
      workspace: world.workspaceId,
      resource: `${server.origin}/api`,
      scopes: ['read'],
    }),
    on: ({ client = '' }, answer) => ({ ...aboutMade({}, answer), client_id: client, workspace_id: world.workspaceId }),
  },
  'connection close': {
    event: 'connection.closed',
    prepare: () => aConnection(),
    input: ({ connection_id }) => ({ connection: connection_id }),
    on: (ids) => ({ ...aboutConnection(ids), workspace_id: world.workspaceId }),
  },
  'organization-key create': {
    event: 'organization_key.created',
    input: () => ({ organization: world.organizationId, label: newLabel(), permissions: ['read'] }),
    on: (ids, answer) => ({ ...aboutMade(ids, answer), organization_id: world.organizationId }),
  },
  'organization-key revoke': {
    event: 'organization_key.revoked',
    prepare: anOrganizationKey,
    input: ({ key_id }) => ({ organization: world.organizationId, key: key_id }),
    on: (ids) => ({ ...aboutKey(ids), organization_id: world.organizationId }),
  },
  'resource create': {
    event: 'client.created',
    input: () => ({
      identifier: `https://${newUserId().replace('_', '-')}.example.com`,
      environments: ['production'],
      scopes: [{ name: 'x', sentence: 'Do something', least_role: 'member' }],
    }),
    on: (_, answer) => ({ client_id: String(answer.client_id) }),
  },
  'review open': {
    event: 'review.opened',
    prepare: aWorkspace,
    input: ({ workspace_id }) => ({ workspace: workspace_id, reason: 'incident' }),
    on: ({ workspace_id = '' }) => ({ workspace_id }),
  },
  'review close': {
    event: 'review.closed',
    prepare: aDecidedReview,
    input: ({ review_id }) => ({ review: review_id }),
    on: ({ workspace_id = '' }) => ({ workspace_id }),
  },
}

const CLIENT = {
  name: 'Backend',
  redirect_uris: [],
  grant_types: ['client_credentials'],
  auth: 'client_secret_basic',
  environment: 'production',
  pkce: true,
}

/** Commands that look, and no more. */
/** What is used is told by events of its own, which are append-only as well: test/usage. */
const LEDGER = new Set([
  ...PROVIDER_TYPES.flatMap(({ type, endpoints }) =>
    endpoints.filter(({ method }) => method === 'POST').map(({ path }) => `POST /proxy/${type}${path}`),
  ),
  'POST /events',
  'POST /reservations',
  'POST /reservations/:reservation_id/settle',
  'POST /reservations/:reservation_id/release',
])

const LOOKS = new Set([
  'ping',
  'audit verify',
  'audit export',
  'audit keys',
  'keys status',
  'organization list',
  'workspace list',
  'client list',
  'client show',
  'connection list',
  'organization-key list',
  'review list',
])

/** What needs a past, or does what its parts record: where that is tested. */
const TESTED_ELSEWHERE: Record<string, string> = {
  'audit archive': 'test/archives: it takes records of an earlier month',
  'jobs run': 'each job records what it changes, in the tests of its room',
}

// --- The tests -------------------------------------------------------------------------------------------------------------

const names = () => server.app.apiRoutes.map(({ method, path }) => `${method} ${path}`)

it('each mutating route and each command has an entry, and each entry is one', () => {
  const changes = names().filter((name) => !name.startsWith('GET ') && !LEDGER.has(name))
  expect(changes.filter((name) => ROUTES[name] === undefined)).toEqual([])
  expect([...LEDGER].filter((name) => !names().includes(name))).toEqual([])
  expect(Object.keys(ROUTES).filter((name) => !names().includes(name))).toEqual([])
  const known = [...Object.keys(COMMAND_CHANGES), ...LOOKS, ...Object.keys(TESTED_ELSEWHERE)]
  expect(Object.keys(COMMANDS).sort()).toEqual(known.sort())
})

const all = () => server.db.selectFrom('audit_events').selectAll()

function expectOne(rows: Awaited<ReturnType<ReturnType<typeof all>['execute']>>, told: Told, columns: Columns): void {
  expect(rows.map(({ event }) => event).filter((event) => event !== told.also)).toEqual([told.event])
  const ended = rows.filter(({ event }) => event === told.also).map(({ credential_id }) => credential_id)
  expect(new Set(ended).size).toBe(told.also === undefined ? 0 : 2)
  expect(ended).toHaveLength(told.also === undefined ? 0 : 2)
  const row = rows.find(({ event }) => event === told.event)
  expect(row).toMatchObject({ status: 'pass', ...columns })
}

describe.each(Object.entries(ROUTES))('%s', (name, change) => {
  it('leaves one record of its change', async () => {
    const ids: Ids = {
      workspace_id: world.workspaceId,
      organization_id: world.organizationId,
      ...(await change.prepare?.()),
    }
    const [method = '', template = ''] = name.split(' ')
    const path = template.replace(/:(\w+)/g, (_, id: string) => ids[id] ?? id)
    const { credential, actor } = change.as?.(ids) ?? {
      credential: owner(),
      actor: { actor_kind: 'user', actor_id: owner().userId },
    }
    const trace = `coverage ${name}`.replaceAll(/[^\w.:-]/g, '.')
    const answer = await call(server, credential, method, path, {
      ...(change.body === undefined ? {} : { body: change.body(ids) }),
      headers: { 'x-trace-id': trace, ...change.headers },
    })
    expect(answer.status, answer.text).toBeLessThan(300)
    const rows = await all().where('trace_id', '=', trace).execute()
    const place: Columns = template.startsWith(W)
      ? { workspace_id: ids.workspace_id ?? '', organization_id: world.organizationId }
      : template.startsWith(O)
        ? { workspace_id: null, organization_id: world.organizationId }
        : {}
    expectOne(rows, change, { ...place, ...actor, ...change.on?.(ids, answer.body) })
  })
})

describe.each(Object.entries(COMMAND_CHANGES))('latchkey %s', (name, change) => {
  it('leaves one record of its change', async () => {
    const ids = (await change.prepare?.()) ?? {}
    const before = new Set((await all().execute()).map(({ id }) => id))
    const answer = await server.run(name, change.input(ids))
    const rows = (await all().execute()).filter(({ id, trace_id }) => !before.has(id) && trace_id.startsWith('cli-'))
    expect(new Set(rows.map(({ trace_id }) => trace_id)).size).toBe(1)
    expectOne(rows, change, { actor_kind: 'operator', ...change.on?.(ids, answer) })
  })
})

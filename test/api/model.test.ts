// Random sequences of changes by several people, against a small model of who may do what: they agree on every answer, and
// there is always an owner (threats G-08, G-20).
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { bearer, call, connectPerson, makePerson, newLabel, type Session, signInBrowser } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'

const RANK = { none: -1, viewer: 0, member: 1, admin: 2, owner: 3 } as const
type Role = Exclude<keyof typeof RANK, 'none'>
const ROLES = ['viewer', 'member', 'admin', 'owner'] as const
const PEOPLE = 5

interface World {
  organizationId: string
  workspaceId: string
}

let server: TestServer
let people: Session[]
beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_LOG_LEVEL: 'warn' } })
  people = []
  for (let count = 0; count < PEOPLE; count++) people.push(await signInBrowser(server, await makePerson(server)))
})
afterAll(() => server?.close())

const person = (index: number, all = people): Session => {
  const found = all[index]
  if (found === undefined) throw new Error('nobody')
  return found
}

/** A place of its own, where the first person owns everything and all are in the organization. */
async function makePlace(target: TestServer, all: readonly Session[]): Promise<World> {
  const owner = person(0, [...all])
  const organization = await target.run('organization create', { name: 'Model', owner: owner.email })
  for (const other of all.slice(1))
    await target.run('member add', { organization: organization.id, user: other.email, role: 'member' })
  const workspace = await target.run('workspace create', {
    organization: organization.id,
    name: 'model',
    owner: owner.email,
  })
  return { organizationId: String(organization.id), workspaceId: String(workspace.id) }
}

// --- The model -------------------------------------------------------------------------------------------------------

interface Model {
  /** In the workspace. */
  roles: Array<Role | undefined>
  /** In the organization. */
  organization: Array<'owner' | 'admin' | 'member' | undefined>
  /** Who is named as the workspace's owner. */
  owner: number
  /** Members of the workspace, the longest-standing first. */
  standing: number[]
  tokens: Array<{ id: string; values: string[]; good: number[]; closed: boolean }>
}

function roleOf(model: Model, who: number): keyof typeof RANK {
  const own = model.roles[who] ?? 'none'
  const above = model.organization[who]
  const inherited = above === 'owner' || above === 'admin' ? 'admin' : 'none'
  return RANK[own] >= RANK[inherited] ? own : inherited
}
const owners = (model: Model) => model.roles.filter((role) => role === 'owner').length
const organizationOwners = (model: Model) => model.organization.filter((role) => role === 'owner').length
const changesOwners = (model: Model, who: number) => model.roles[who] === 'owner' || model.organization[who] === 'owner'

/** Whoever is named as owner and is one no more passes the name to the longest-standing owner. */
function passTheName(model: Model, who: number): void {
  if (model.owner !== who || model.roles[who] === 'owner') return
  model.owner = model.standing.find((member) => model.roles[member] === 'owner') ?? model.owner
}

function leave(model: Model, who: number): void {
  const wasOwner = model.roles[who] === 'owner'
  model.roles[who] = undefined
  model.standing = model.standing.filter((member) => member !== who)
  if (wasOwner) passTheName(model, who)
}

/** What everyone who is not at least an admin is answered; undefined for an admin. */
function refusedBelowAdmin(model: Model, who: number): number | undefined {
  const role = roleOf(model, who)
  if (role === 'none') return 404
  return RANK[role] < RANK.admin ? 403 : undefined
}

type Step =
  | { kind: 'add' | 'change'; who: number; whom: number; role: Role }
  | { kind: 'remove'; who: number; whom: number }
  | { kind: 'transfer'; who: number; whom: number }
  | { kind: 'expel'; who: number; whom: number }
  | { kind: 'promote'; who: number; whom: number; role: 'owner' | 'admin' | 'member' }
  | { kind: 'create'; who: number }
  | { kind: 'rotate' | 'cutover' | 'revoke'; who: number; which: number }

/** What the answer must be; the model is changed as the server should be. */
function predict(model: Model, step: Step): number {
  const { who } = step
  if (step.kind === 'promote' || step.kind === 'expel') return predictOrganization(model, step)
  const refused = refusedBelowAdmin(model, who)
  if (refused !== undefined) return refused
  switch (step.kind) {
    case 'add':
      if (step.role === 'owner' && !changesOwners(model, who)) return 403
      if (model.organization[step.whom] === undefined) return 404
      if (model.roles[step.whom] !== undefined) return 409
      model.roles[step.whom] = step.role
      model.standing.push(step.whom)
      return 201
    case 'change': {
      const before = model.roles[step.whom]
      if (before === undefined) return 404
      if (before === step.role) return 200
      if ((before === 'owner' || step.role === 'owner') && !changesOwners(model, who)) return 403
      if (before === 'owner' && owners(model) === 1) return 409
      model.roles[step.whom] = step.role
      if (before === 'owner') passTheName(model, step.whom)
      return 200
    }
    case 'remove': {
      const before = model.roles[step.whom]
      if (before === undefined) return 404
      if (before === 'owner' && !changesOwners(model, who)) return 403
      if (before === 'owner' && owners(model) === 1) return 409
      leave(model, step.whom)
      return 204
    }
    case 'transfer': {
      if (!changesOwners(model, who)) return 403
      if (model.roles[step.whom] === undefined) return 404
      model.roles[step.whom] = 'owner'
      // Who handed it over stays as an admin, and nobody is raised by handing over.
      if (model.owner !== step.whom && model.roles[model.owner] === 'owner') model.roles[model.owner] = 'admin'
      model.owner = step.whom
      return 200
    }
    case 'create':
      return 201
    default:
      return predictToken(model, step)
  }
}

function predictOrganization(model: Model, step: Extract<Step, { kind: 'promote' } | { kind: 'expel' }>): number {
  const above = model.organization[step.who]
  if (above === undefined) return 404
  if (above === 'member') return 403
  const before = model.organization[step.whom]
  if (before === undefined) return 404
  const isSame = step.kind === 'promote' && before === step.role
  if (isSame) return 200
  const touchesOwner = before === 'owner' || (step.kind === 'promote' && step.role === 'owner')
  if (touchesOwner && above !== 'owner') return 403
  if (before === 'owner' && organizationOwners(model) === 1) return 409
  if (step.kind === 'promote') {
    model.organization[step.whom] = step.role
    return 200
  }
  if (model.roles[step.whom] === 'owner' && owners(model) === 1) return 409
  leave(model, step.whom)
  model.organization[step.whom] = undefined
  return 204
}

function predictToken(model: Model, step: Extract<Step, { kind: 'rotate' | 'cutover' | 'revoke' }>): number {
  const token = model.tokens[step.which % Math.max(1, model.tokens.length)]
  if (token === undefined) return 404
  if (step.kind === 'revoke') {
    token.closed = true
    token.good = []
    return 204
  }
  if (token.closed) return 409
  if (step.kind === 'rotate') return token.good.length >= 2 ? 409 : 201
  token.good = token.good.slice(-1)
  return 200
}

// --- The server ------------------------------------------------------------------------------------------------------

async function perform(world: World, model: Model, step: Step) {
  const workspace = `/workspaces/${world.workspaceId}`
  const credential = person(step.who)
  const whom = 'whom' in step ? person(step.whom).userId : ''
  const token = 'which' in step ? model.tokens[step.which % Math.max(1, model.tokens.length)] : undefined
  const key = `${workspace}/api-keys/${token?.id ?? 'key_00000000000000000000000000'}`
  switch (step.kind) {
    case 'add':
      return call(server, credential, 'POST', `${workspace}/members`, { body: { user_id: whom, role: step.role } })
    case 'change':
      return call(server, credential, 'PATCH', `${workspace}/members/${whom}`, { body: { role: step.role } })
    case 'remove':
      return call(server, credential, 'DELETE', `${workspace}/members/${whom}`)
    case 'transfer':
      return call(server, credential, 'POST', `${workspace}/transfer`, { body: { user_id: whom } })
    case 'promote':
      return call(server, credential, 'PATCH', `/organizations/${world.organizationId}/members/${whom}`, {
        body: { role: step.role },
      })
    case 'expel':
      return call(server, credential, 'DELETE', `/organizations/${world.organizationId}/members/${whom}`)
    case 'create':
      return call(server, credential, 'POST', `${workspace}/api-keys`, {
        body: { label: newLabel(), permissions: ['read'] },
      })
    case 'rotate':
      return call(server, credential, 'POST', `${key}/rotate`, { body: {} })
    case 'cutover':
      return call(server, credential, 'POST', `${key}/cutover`)
    case 'revoke':
      return call(server, credential, 'DELETE', key)
  }
}

async function rolesOf(target: TestServer, world: World, all: readonly Session[]) {
  const { rows } = await sql<{ user_id: string; role: Role }>`
    select user_id, role from workspace_members where workspace_id = ${world.workspaceId}`.execute(target.db)
  const { rows: above } = await sql<{ user_id: string; role: string }>`
    select user_id, role from organization_members where organization_id = ${world.organizationId}`.execute(target.db)
  const of = (found: typeof rows | typeof above) =>
    all.map(({ userId }) => found.find(({ user_id }) => user_id === userId)?.role)
  return { roles: of(rows), organization: of(above) }
}

const who = fc.nat({ max: PEOPLE - 1 })
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ kind: fc.constant('add' as const), who, whom: who, role: fc.constantFrom(...ROLES) }),
  fc.record({ kind: fc.constant('change' as const), who, whom: who, role: fc.constantFrom(...ROLES) }),
  fc.record({ kind: fc.constant('remove' as const), who, whom: who }),
  fc.record({ kind: fc.constant('transfer' as const), who, whom: who }),
  fc.record({ kind: fc.constant('expel' as const), who, whom: who }),
  fc.record({
    kind: fc.constant('promote' as const),
    who,
    whom: who,
    role: fc.constantFrom('owner', 'admin', 'member'),
  }),
  fc.record({ kind: fc.constant('create' as const), who }),
  fc.record({
    kind: fc.constantFrom('rotate' as const, 'cutover' as const, 'revoke' as const),
    who,
    which: fc.nat({ max: 5 }),
  }),
)

it('the model and the server agree on every answer of a random sequence, and there is always an owner', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 50, maxLength: 50, size: 'max' }), async (steps) => {
      const world = await makePlace(server, people)
      const model: Model = {
        roles: ['owner', undefined, undefined, undefined, undefined],
        organization: ['owner', 'member', 'member', 'member', 'member'],
        owner: 0,
        standing: [0],
        tokens: [],
      }
      const done: string[] = []
      for (const next of steps) {
        const token = 'which' in next ? model.tokens[next.which % Math.max(1, model.tokens.length)] : undefined
        const expected = predict(model, next)
        const answer = await perform(world, model, next)
        done.push(`${JSON.stringify(next)} ${answer.status} ${answer.body.code ?? ''}`)
        expect(answer.status, done.slice(-8).join('\n')).toBe(expected)
        if (next.kind === 'create' && answer.status === 201)
          model.tokens.push({ id: answer.body.id, values: [answer.body.key], good: [0], closed: false })
        if (next.kind === 'rotate' && answer.status === 201 && token !== undefined) {
          token.values.push(answer.body.key)
          token.good.push(token.values.length - 1)
        }
      }
      expect(await rolesOf(server, world, people)).toEqual({ roles: model.roles, organization: model.organization })
      expect(owners(model)).toBeGreaterThan(0)
      for (const token of model.tokens) {
        for (const [index, value] of token.values.entries()) {
          const answer = await call(server, bearer(value), 'GET', `/workspaces/${world.workspaceId}`)
          expect(answer.status).toBe(token.good.includes(index) ? 200 : 401)
        }
      }
    }),
    { numRuns: 6, endOnFailure: true },
  )
})

it('a workspace that is handed over raises nobody: who had been made a viewer stays one', async () => {
  const world = await makePlace(server, people)
  const path = `/workspaces/${world.workspaceId}`
  await call(server, person(0), 'POST', `${path}/members`, { body: { user_id: person(1).userId, role: 'owner' } })
  await call(server, person(0), 'POST', `${path}/members`, { body: { user_id: person(2).userId, role: 'member' } })
  const demoted = await call(server, person(1), 'PATCH', `${path}/members/${person(0).userId}`, {
    body: { role: 'viewer' },
  })
  expect(demoted.status).toBe(200)
  const handed = await call(server, person(1), 'POST', `${path}/transfer`, { body: { user_id: person(2).userId } })
  expect([handed.status, handed.body.owner_id]).toEqual([200, person(2).userId])
  expect((await rolesOf(server, world, people)).roles.slice(0, 3)).toEqual(['viewer', 'admin', 'owner'])
})

it('a role that falls takes with it what stood on it', async () => {
  const world = await makePlace(server, people)
  const path = `/workspaces/${world.workspaceId}/members`
  await call(server, person(0), 'POST', path, { body: { user_id: person(1).userId, role: 'admin' } })
  const first = await connectPerson(server, world, person(1), 'read manage')
  const jwt = String(first.access_token)
  expect((await call(server, bearer(jwt), 'GET', '/workspaces')).status).toBe(200)
  await call(server, person(0), 'PATCH', `${path}/${person(1).userId}`, { body: { role: 'member' } })
  expect((await call(server, bearer(jwt), 'GET', '/workspaces')).status).toBe(401)
  const second = await connectPerson(server, world, person(1), 'read manage')
  const narrower = bearer(String(second.access_token))
  expect((await call(server, narrower, 'GET', '/workspaces')).status).toBe(200)
  expect((await call(server, narrower, 'PATCH', `/workspaces/${world.workspaceId}`, { body: {} })).status).toBe(403)
  await call(server, person(0), 'DELETE', `${path}/${person(1).userId}`)
  expect((await call(server, narrower, 'GET', '/workspaces')).status).toBe(401)
})

const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(BACKENDS)('in parallel (%s)', (backend) => {
  let own: TestServer
  let pair: Session[]
  beforeAll(async () => {
    own = backend === 'embedded' ? server : await startServer({ backend, environment: { LATCHKEY_LOG_LEVEL: 'warn' } })
    pair = backend === 'embedded' ? people.slice(0, 2) : []
    if (backend === 'stores')
      for (let count = 0; count < 2; count++) pair.push(await signInBrowser(own, await makePerson(own)))
  })
  afterAll(() => (backend === 'embedded' ? undefined : own?.close()))

  it.each(['demote each other', 'leave', 'remove each other'])(
    'two owners who %s at once: one owner is left, of both',
    async (what) => {
      for (let round = 0; round < 4; round++) {
        const world = await makePlace(own, pair)
        const [a, b] = [person(0, pair), person(1, pair)]
        const organization = `/organizations/${world.organizationId}/members`
        const workspace = `/workspaces/${world.workspaceId}/members`
        await call(own, a, 'PATCH', `${organization}/${b.userId}`, { body: { role: 'owner' } })
        await call(own, a, 'POST', workspace, { body: { user_id: b.userId, role: 'owner' } })
        const members = round % 2 === 0 ? workspace : organization
        const act = (actor: Session, target: Session) =>
          what === 'demote each other'
            ? call(own, actor, 'PATCH', `${members}/${target.userId}`, { body: { role: 'member' } })
            : call(own, actor, 'DELETE', `${members}/${what === 'leave' ? actor.userId : target.userId}`)
        const answers = await Promise.all([act(a, b), act(b, a)])
        const statuses = answers.map(({ status }) => status)
        expect(
          statuses.filter((status) => status < 300),
          JSON.stringify(answers.map(({ body }) => body.code)),
        ).toHaveLength(1)
        expect(statuses.some((status) => status >= 500)).toBe(false)
        const { roles, organization: above } = await rolesOf(own, world, pair)
        expect([roles.includes('owner'), above.includes('owner')]).toEqual([true, true])
      }
    },
  )
})

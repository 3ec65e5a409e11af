// An account is erased while its person, or somebody else, changes what they are in: everybody locks people before places, so
// that nobody waits in a circle.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { eraseAccount } from '../../src/erasure/service.ts'
import type { UserId } from '../../src/ids.ts'
import { changeRole } from '../../src/members/service.ts'
import type { Db } from '../../src/store/database.ts'
import {
  type ApiWorld,
  bearer,
  call,
  makeApiWorld,
  makePerson,
  newLabel,
  type Session,
  signInBrowser,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { takeTime } from '../support/times.ts'

takeTime()

const ROUNDS = 6
const request = { traceId: 'race' }

describe.skipIf(!hasStores())('an erasure', () => {
  let server: TestServer
  let world: ApiWorld
  beforeAll(async () => {
    server = await startServer({ backend: 'stores', poolSize: 20 })
    world = await makeApiWorld(server)
  })
  afterAll(() => server?.close())

  async function join(place: { organization: string } | { workspace: string }, role: string) {
    const person = await makePerson(server)
    await server.run('member add', { ...place, user: person.email, role })
    return person
  }

  const asKey = (method: string, path: string, body?: unknown) =>
    call(server, bearer(world.key), method, path, body === undefined ? {} : { body })
  const erase = (user: string) => eraseAccount(server.app, { user, actor: { kind: 'operator' }, request })

  async function waitUntilWaiting(): Promise<void> {
    const waiting = sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
    await expect
      .poll(async () => (await waiting.execute(server.db)).rows.length, { timeout: 20_000 })
      .toBeGreaterThan(0)
  }

  /** @returns what came of the work, which waited for the rows that `hold` locks: `meanwhile` is done while it does */
  async function whileHeld<T>(
    hold: (db: Db) => Promise<unknown>,
    work: () => Promise<T>,
    meanwhile: (db: Db) => Promise<unknown>,
  ): Promise<T> {
    const under = await server.db.transaction().execute(async (trx) => {
      await hold(trx)
      const working = work()
      await waitUntilWaiting()
      await meanwhile(trx)
      return { working }
    })
    return under.working
  }

  const lockPerson = (userId: string) => (db: Db) =>
    sql`select 1 from users where id = ${userId} for update`.execute(db)
  /** Fails at once where somebody has one of them. */
  const takeEveryPlace = () =>
    server.db.transaction().execute(async (trx) => {
      await sql`select 1 from organizations where id = ${world.organizationId} for update nowait`.execute(trx)
      await sql`select 1 from workspaces where organization_id = ${world.organizationId} for update nowait`.execute(trx)
    })

  interface Ask {
    method: string
    path: string
    body?: unknown
  }
  type Make = (made: { workspace: string; member: string; outsider: string }) => Ask
  const POLICY = { tokens_forbidden: false, expiry_required: false, max_age_days: null, environments: null }
  const organization = () => `/organizations/${world.organizationId}`
  const invited = () => ({ email: `${newLabel().replace(' ', '-')}@example.com`, role: 'member' })

  const CHANGES: Record<string, Make> = {
    'changes a workspace': ({ workspace }) => ({ method: 'PATCH', path: workspace, body: { name: newLabel() } }),
    'adds a member': ({ workspace, outsider }) => ({
      method: 'POST',
      path: `${workspace}/members`,
      body: { user_id: outsider, role: 'viewer' },
    }),
    'changes a role': ({ workspace, member }) => ({
      method: 'PATCH',
      path: `${workspace}/members/${member}`,
      body: { role: 'viewer' },
    }),
    'removes a member': ({ workspace, member }) => ({ method: 'DELETE', path: `${workspace}/members/${member}` }),
    'hands a workspace over': ({ workspace, member }) => ({
      method: 'POST',
      path: `${workspace}/transfer`,
      body: { user_id: member },
    }),
    'changes a role in the organization': ({ member }) => ({
      method: 'PATCH',
      path: `${organization()}/members/${member}`,
      body: { role: 'admin' },
    }),
    'removes a member of the organization': ({ member }) => ({
      method: 'DELETE',
      path: `${organization()}/members/${member}`,
    }),
    'invites to a workspace': ({ workspace }) => ({
      method: 'POST',
      path: `${workspace}/invitations`,
      body: invited(),
    }),
    'invites to the organization': () => ({ method: 'POST', path: `${organization()}/invitations`, body: invited() }),
    'opens a review': ({ workspace }) => ({ method: 'POST', path: `${workspace}/reviews`, body: {} }),
    'sets the token policy': ({ workspace }) => ({ method: 'PUT', path: `${workspace}/token-policy`, body: POLICY }),
    'makes a workspace': () => ({
      method: 'POST',
      path: '/workspaces',
      body: { name: newLabel(), organization_id: world.organizationId },
    }),
    'archives a workspace': ({ workspace }) => ({ method: 'POST', path: `${workspace}/archive`, body: {} }),
  }

  async function makeScene() {
    const { body } = await asKey('POST', '/workspaces', { name: newLabel() })
    const { userId: member } = await join({ workspace: body.id }, 'member')
    const { userId: outsider } = await join({ organization: world.organizationId }, 'member')
    return { workspace: `/workspaces/${body.id}`, member, outsider }
  }

  async function makeOwner(): Promise<Session> {
    return signInBrowser(server, await join({ organization: world.organizationId }, 'owner'))
  }

  it.each(Object.entries(CHANGES))('of whoever %s is waited for with no place in hand', async (_, make) => {
    const owner = await makeOwner()
    const { method, path, body } = make(await makeScene())
    const change = () => call(server, owner, method, path, body === undefined ? {} : { body })
    const answer = await whileHeld(lockPerson(owner.userId), change, takeEveryPlace)
    expect(answer.status, answer.text).toBeLessThan(300)
  })

  it.each(['adds a member', 'changes a role', 'removes a member', 'hands a workspace over'])(
    'of whom it concerns is waited for with no place in hand by whoever %s',
    async (what) => {
      const owner = await makeOwner()
      const scene = await makeScene()
      const { method, path, body } = (CHANGES[what] as Make)(scene) // one of them
      const concerned = what === 'adds a member' ? scene.outsider : scene.member
      const change = () => call(server, owner, method, path, body === undefined ? {} : { body })
      const answer = await whileHeld(lockPerson(concerned), change, takeEveryPlace)
      expect(answer.status, answer.text).toBeLessThan(300)
    },
  )

  it('that waits for one workspace holds up nobody in another one', async () => {
    const leaver = await join({ organization: world.organizationId }, 'member')
    const scene = await makeScene()
    const first = sql`select id from workspaces where organization_id = ${world.organizationId} and archived_at is null
      order by id limit 1 for update`
    const label = newLabel()
    const erased = await whileHeld(
      (db) => first.execute(db),
      () => erase(leaver.userId),
      async () => {
        const token = await asKey('POST', `${scene.workspace}/api-keys`, { label, permissions: ['read'] })
        const invitation = await asKey('POST', `${scene.workspace}/invitations`, invited())
        const lowered = await asKey('PATCH', `${scene.workspace}/members/${scene.member}`, { role: 'viewer' })
        expect([token.status, invitation.status, lowered.status]).toEqual([201, 201, 200])
      },
    )
    expect(erased).toEqual({ id: leaver.userId })
  })

  it('that is under way lets nobody in: who is added just then is not found', async () => {
    for (const place of [{ organization: world.organizationId }, { workspace: world.workspaceId }]) {
      const { userId } = await makePerson(server)
      const add = () =>
        server.run('member add', { ...place, user: userId, role: 'member' }).catch((refused: unknown) => refused)
      const outcome = await whileHeld(lockPerson(userId), add, (trx) =>
        sql`delete from users where id = ${userId}`.execute(trx),
      )
      expect(outcome).toMatchObject({ code: 'not_found' })
    }
  })

  const outcomeOf = (work: Promise<unknown>) =>
    work.then(
      () => 'done',
      (error: { code?: unknown }) => String(error.code),
    )
  const soon = (turn: number) => new Promise((resolve) => setTimeout(resolve, turn * 3))

  it.each([
    ['of whoever changes roles', 'unauthorized'],
    ['of whose role is changed', 'not_found'],
  ])('%s: each change is made before it, or refused', async (whose, refusal) => {
    for (let round = 0; round < ROUNDS; round++) {
      const admin = await join({ organization: world.organizationId }, 'admin')
      const member = await join({ workspace: world.workspaceId }, 'member')
      const authority = {
        kind: 'person',
        userId: admin.userId as UserId,
        signedInAt: Math.floor(Date.now() / 1000),
      } as const
      const { workspaceId } = world
      const changes = Array.from({ length: 6 }, (_, turn) => {
        const role = turn % 2 === 0 ? 'viewer' : 'admin'
        return outcomeOf(changeRole(server.app, { workspaceId, userId: member.userId, role, authority, request }))
      })
      const { userId } = refusal === 'unauthorized' ? admin : member
      const erased = soon(round).then(() => erase(userId))
      expect(await outcomeOf(erased), whose).toBe('done')
      for (const outcome of await Promise.all(changes)) expect(['done', refusal]).toContain(outcome)
    }
  })

  it('was no failure of ours: nothing was logged as one', () => {
    const levels = server.logLines.map((line) => JSON.parse(line).level)
    expect(levels.filter((level) => level === 'error' || level === 'warn')).toEqual([])
  })
})

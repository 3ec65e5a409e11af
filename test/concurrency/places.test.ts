// Workspaces and organizations that somebody has for themselves, to change them: what authorises a credential waits, what
// only refers to them does not, and people who leave in every way at once come to an end.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { OrganizationId, UserId } from '../../src/ids.ts'
import {
  lockOrganizationForUpdate,
  lockWorkspaceForUpdate,
  lockWorkspacesWithMember,
} from '../../src/organizations/store.ts'
import { makeNotices, type RemindersDeps } from '../../src/reminders/service.ts'
import type { Trx } from '../../src/store/database.ts'
import { type ApiWorld, bearer, call, makeApiWorld, makePerson, makeToken, newLabel } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { takeTime } from '../support/times.ts'

takeTime()

const ROUNDS = 4

describe.skipIf(!hasStores())('a place', () => {
  let server: TestServer
  let world: ApiWorld
  beforeAll(async () => {
    server = await startServer({ backend: 'stores', poolSize: 20 })
    world = await makeApiWorld(server)
  })
  afterAll(() => server?.close())

  const asKey = (method: string, path: string, body?: unknown) =>
    call(server, bearer(world.key), method, path, body === undefined ? {} : { body })

  async function makeWorkspace(): Promise<string> {
    const made = await server.run('workspace create', {
      organization: world.organizationId,
      name: newLabel(),
      owner: world.owner.email,
    })
    return String(made.id)
  }

  /** A token that is to be told of. */
  async function makeForgotten(workspaceId: string): Promise<string> {
    const { id } = await makeToken(server, { workspaceId, key: world.key }, { label: newLabel() })
    await sql`update token_versions set created_at = clock_timestamp() - interval '91 days' where token_id = ${id}`.execute(
      server.db,
    )
    return id
  }

  function tellOfAll(): Promise<void> {
    const deps: RemindersDeps = {
      db: server.db,
      issuer: server.origin,
      mailer: undefined,
      jobs: server.app.jobs,
      onUnmailed: () => {},
    }
    return makeNotices(deps)
  }

  const LOCKS: Array<[string, (trx: Trx, workspaceId: string) => Promise<unknown>]> = [
    ['a workspace', lockWorkspaceForUpdate],
    [
      'all workspaces of a person',
      (trx) => lockWorkspacesWithMember(trx, world.organizationId as OrganizationId, world.owner.userId as UserId),
    ],
    ['an organization', (trx) => lockOrganizationForUpdate(trx, world.organizationId)],
  ]

  it.each(LOCKS)('is told of while somebody changes %s, and changed by nobody else', async (what, lock) => {
    const workspaceId = await makeWorkspace()
    const id = await makeForgotten(workspaceId)
    await server.db.transaction().execute(async (trx) => {
      await lock(trx, workspaceId)
      await tellOfAll()
      const table = sql.table(what === 'an organization' ? 'organizations' : 'workspaces')
      const locked = what === 'an organization' ? world.organizationId : workspaceId
      for (const mode of [sql`share`, sql`no key update`])
        await expect(
          sql`select 1 from ${table} where id = ${locked} for ${mode} nowait`.execute(server.db),
        ).rejects.toMatchObject({ code: '55P03' })
    })
    const told = await asKey('GET', `/workspaces/${workspaceId}/notices`)
    expect(told.body).toMatchObject([{ kind: 'token_unused', subject_id: id }])
  })

  it('is told of while the account of one of its admins is erased: to the others', async () => {
    const workspaceId = await makeWorkspace()
    const leaver = await makePerson(server)
    await server.run('member add', { workspace: workspaceId, user: leaver.email, role: 'admin' })
    const id = await makeForgotten(workspaceId)
    const { telling } = await server.db.transaction().execute(async (trx) => {
      await sql`delete from users where id = ${leaver.userId}`.execute(trx)
      const telling = tellOfAll()
      await expect.poll(countWaiting, { timeout: 20_000 }).toBeGreaterThan(0)
      return { telling }
    })
    await telling
    const { rows } = await sql`
      select m.user_id from notice_mails m join notices n on n.id = m.notice_id where n.subject_id = ${id}`.execute(
      server.db,
    )
    expect(rows).toEqual([{ user_id: world.owner.userId }])
  })

  it('that somebody leaves in every way at once is left, and all else in it is done', async () => {
    const linesBefore = server.logLines.length
    const deadlocksBefore = await deadlocks()
    for (let round = 0; round < ROUNDS; round++) {
      const workspaceId = await makeWorkspace()
      const person = await makePerson(server)
      await server.run('member add', { workspace: workspaceId, user: person.email, role: 'admin' })
      await sql`update token_lines set user_id = ${person.userId} where id = ${await makeForgotten(workspaceId)}`.execute(
        server.db,
      )
      const workspace = `/workspaces/${workspaceId}`
      const gone = (path: string) => asKey('DELETE', `${path}/members/${person.userId}`)
      const token = { label: newLabel(), permissions: ['read'] }
      const outcomes = await Promise.all([
        outcomeOf(server.run('user erase', { user: person.userId, dry_run: false, yes: true })),
        outcomeOf(server.run('user suspend', { user: person.userId })),
        outcomeOf(server.run('user sign-out', { user: person.userId })),
        outcomeOf(gone(workspace)),
        outcomeOf(gone(`/organizations/${world.organizationId}`)),
        outcomeOf(asKey('POST', `${workspace}/reviews`, {})),
        outcomeOf(asKey('POST', `${workspace}/api-keys`, token)),
        outcomeOf(tellOfAll()),
      ])
      const [erased, suspended, signedOut, removed, left, ...others] = outcomes
      expect(erased).toBe('done')
      for (const outcome of [suspended, signedOut]) expect(['done', 'not_found']).toContain(outcome)
      for (const outcome of [removed, left]) expect(['204', '404']).toContain(outcome)
      expect(others).toEqual(['201', '201', 'done'])
      const { rows } = await sql`select 1 from users where id = ${person.userId}`.execute(server.db)
      expect(rows).toEqual([])
    }
    const levels = server.logLines.slice(linesBefore).map((line) => JSON.parse(line).level)
    expect(levels.filter((level) => level === 'error' || level === 'warn')).toEqual([])
    expect(await deadlocks()).toBe(deadlocksBefore)
  })

  /** A status, the code of a refusal, or `done`. */
  function outcomeOf(work: Promise<unknown>): Promise<string> {
    return work.then(
      (answer) => String((answer as { status?: number } | undefined)?.status ?? 'done'), // of a command: none
      (error: { code?: unknown }) => String(error.code),
    )
  }

  async function countWaiting(): Promise<number> {
    const waiting = sql`select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`
    return (await waiting.execute(server.db)).rows.length
  }

  async function deadlocks(): Promise<number> {
    await sql`select pg_stat_clear_snapshot()`.execute(server.db)
    const { rows } = await sql<{ deadlocks: number }>`
      select deadlocks::int as deadlocks from pg_stat_database where datname = current_database()`.execute(server.db)
    return rows[0]?.deadlocks ?? 0
  }
})

// Notices: what the people who administer a workspace are told, each once, while it is so.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ApiWorld, bearer, call, makeApiWorld, makeToken, newLabel } from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld

beforeAll(async () => {
  server = await startServer()
  world = await makeApiWorld(server)
})
afterAll(() => server?.close())

async function makeWorkspace(): Promise<{ workspaceId: string; key: string }> {
  const made = await server.run('workspace create', {
    organization: world.organizationId,
    name: `team ${randomBytes(3).toString('hex')}`,
    owner: world.owner.email,
  })
  return { workspaceId: String(made.id), key: world.key }
}

const notices = () => server.run('jobs run', { job: 'notices' })

interface Told {
  kind: string
  subject_id: string
  stage: string
  due_at: string | null
  mailed_at: string | null
}

async function listed(place: { workspaceId: string }): Promise<Told[]> {
  const answer = await call(server, bearer(world.key), 'GET', `/workspaces/${place.workspaceId}/notices`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

/** As if a version had been made so long ago, and ended so soon. */
async function setLife(id: string, life: { madeDaysAgo: number; endsInDays?: number; usedDaysAgo?: number }) {
  const days = (count: number) => sql`clock_timestamp() + make_interval(secs => ${Math.round(count * 86_400)}::int)`
  await sql`update token_versions set created_at = ${days(-life.madeDaysAgo)},
    expires_at = ${life.endsInDays === undefined ? null : days(life.endsInDays)},
    last_used_at = ${life.usedDaysAgo === undefined ? null : days(-life.usedDaysAgo)}
    where token_id = ${id}`.execute(server.db)
}

describe('a token that expires within seven days', () => {
  it('is told of once, and no more once it was rotated', async () => {
    const place = await makeWorkspace()
    const soon = await makeToken(server, place)
    const far = await makeToken(server, place)
    const brief = await makeToken(server, place)
    const gone = await makeToken(server, place)
    await setLife(soon.id, { madeDaysAgo: 30, endsInDays: 6.9, usedDaysAgo: 1 })
    await setLife(far.id, { madeDaysAgo: 30, endsInDays: 7.1, usedDaysAgo: 1 })
    await setLife(brief.id, { madeDaysAgo: 0, endsInDays: 2, usedDaysAgo: 0 })
    await setLife(gone.id, { madeDaysAgo: 30, endsInDays: -1, usedDaysAgo: 2 })
    await notices()
    await notices()
    const told = await listed(place)
    expect(told).toEqual([
      expect.objectContaining({ kind: 'token_expiring', subject_id: soon.id, stage: 'v1', mailed_at: null }),
    ])
    expect(Date.parse(told[0]?.due_at ?? '')).toBeGreaterThan(Date.now() + 6 * 86_400_000)
    const path = `/workspaces/${place.workspaceId}/api-keys/${soon.id}/rotate`
    const rotated = await call(server, bearer(world.key), 'POST', path, { body: { expires_in: 90 * 86_400 } })
    expect(rotated.status, rotated.text).toBeLessThan(300)
    await notices()
    expect(await listed(place)).toEqual([])
    const { rows } = await sql<{
      n: number
    }>`select count(*)::int as n from notices where subject_id = ${soon.id}`.execute(server.db)
    expect(rows[0]?.n).toBe(1)
  })
})

describe('a token that must be rotated', () => {
  it('is told of before the deadline and after it, until its floor has risen', async () => {
    const place = await makeWorkspace()
    const { id } = await makeToken(server, place)
    const require = (when: string, below: number) =>
      sql`update token_lines set rotation_required_by = clock_timestamp() + ${when}::interval,
        rotation_required_below = ${below}, rotation_required_reason = 'member_removed' where id = ${id}`.execute(
        server.db,
      )
    await require('3 days', 2)
    await notices()
    expect(await listed(place)).toMatchObject([{ kind: 'rotation_required', subject_id: id, stage: 'v2' }])
    await require('-1 minute', 2)
    await notices()
    await notices()
    expect(await listed(place)).toMatchObject([{ kind: 'rotation_required', subject_id: id, stage: 'v2 overdue' }])
    await sql`update token_lines set version = 2, floor = 2 where id = ${id}`.execute(server.db)
    await notices()
    expect((await listed(place)).filter(({ kind }) => kind === 'rotation_required')).toEqual([])
  })
})

describe('a token that nobody uses', () => {
  it('is told of after ninety days, and again after it was used and forgotten once more', async () => {
    const place = await makeWorkspace()
    const never = await makeToken(server, place)
    const used = await makeToken(server, place)
    await setLife(never.id, { madeDaysAgo: 90.1 })
    await setLife(used.id, { madeDaysAgo: 400, usedDaysAgo: 89.9 })
    await notices()
    expect(await listed(place)).toMatchObject([{ kind: 'token_unused', subject_id: never.id, due_at: null }])
    await setLife(never.id, { madeDaysAgo: 400, usedDaysAgo: 1 })
    await notices()
    expect(await listed(place)).toEqual([])
    await setLife(never.id, { madeDaysAgo: 400, usedDaysAgo: 95 })
    await notices()
    expect(await listed(place)).toMatchObject([{ kind: 'token_unused', subject_id: never.id }])
    await call(server, bearer(world.key), 'DELETE', `/workspaces/${place.workspaceId}/api-keys/${never.id}`)
    await notices()
    expect(await listed(place)).toEqual([])
  })
})

describe('an access review', () => {
  it('is told of seven days before its date, the day before, and again where its date comes nearer', async () => {
    const place = await makeWorkspace()
    const path = `/workspaces/${place.workspaceId}/reviews`
    const { body: review } = await call(server, bearer(world.key), 'POST', path, { body: { due_in_days: 8 } })
    await notices()
    expect(await listed(place)).toEqual([])
    const told = async (stage: string, interval: string) => {
      const { rows } = await sql<{ due_at: Date }>`
        update access_reviews set due_at = clock_timestamp() + ${interval}::interval where id = ${review.id}
        returning due_at`.execute(server.db)
      await notices()
      await notices()
      const due = rows[0]?.due_at.toISOString() ?? ''
      expect(await listed(place)).toEqual([
        expect.objectContaining({
          kind: 'review_due',
          subject_id: review.id,
          stage: `${stage} ${due.slice(0, 16).replace('T', ' ')}`,
        }),
      ])
      expect((await listed(place))[0]?.due_at?.slice(0, 19)).toBe(due.slice(0, 19))
    }
    await told('first', '6 days 23 hours')
    await told('first', '3 days')
    await told('last', '23 hours')
    await server.run('review close', { review: review.id })
    await notices()
    expect((await listed(place)).filter(({ kind }) => kind === 'review_due')).toEqual([])
  })
})

describe('an access review whose decisions an incident took back', () => {
  it('is told of again, with its later date, also on the same day', async () => {
    const place = await makeWorkspace()
    const path = `/workspaces/${place.workspaceId}/reviews`
    const { body: review } = await call(server, bearer(world.key), 'POST', path, { body: { due_in_days: 1 } })
    await sql`update access_reviews set due_at = clock_timestamp() + interval '23 hours 55 minutes'
      where id = ${review.id}`.execute(server.db)
    const item = `${path}/${review.id}/items/${review.items[0].id}`
    expect((await call(server, bearer(world.key), 'POST', item, { body: { decision: 'keep' } })).status).toBe(200)
    await notices()
    const [before] = await listed(place)
    const incident = await call(server, bearer(world.key), 'POST', path, { body: { reason: 'incident' } })
    expect(Date.parse(incident.body.due_at)).toBeGreaterThan(Date.parse(before?.due_at ?? ''))
    await notices()
    const told = await listed(place)
    expect(told).toMatchObject([{ kind: 'review_due', subject_id: review.id, due_at: incident.body.due_at }])
    expect(told[0]?.stage).not.toBe(before?.stage)
  })
})

describe('a notice that cannot be made', () => {
  it('keeps no other from being made, and is a failure', async () => {
    const place = await makeWorkspace()
    const before = await makeToken(server, place)
    const after = await makeToken(server, place)
    for (const { id } of [before, after]) await setLife(id, { madeDaysAgo: 100 })
    const [broken = '', whole = ''] = [before.id, after.id].sort()
    await sql`create function refuse_notice() returns trigger language plpgsql as
      'begin raise exception ''not this one''; end'`.execute(server.db)
    await sql`create trigger refuse_notice before insert on notices for each row
      when (new.subject_id = ${sql.lit(broken)}) execute function refuse_notice()`.execute(server.db)
    try {
      await expect(notices()).rejects.toThrow()
      expect(await listed(place)).toMatchObject([{ subject_id: whole }])
    } finally {
      await sql`drop function refuse_notice cascade`.execute(server.db)
    }
    await notices()
    expect((await listed(place)).map(({ subject_id }) => subject_id).sort()).toEqual([broken, whole])
  })
})

describe('the list', () => {
  it('is for admins of the workspace, in pages', async () => {
    const place = { workspaceId: world.workspaceId, key: world.key }
    for (let made = 0; made < 3; made++) {
      const { id } = await makeToken(server, place, { label: newLabel() })
      await setLife(id, { madeDaysAgo: 100 })
    }
    await notices()
    const path = `/workspaces/${place.workspaceId}/notices`
    expect((await call(server, world.people.member, 'GET', path)).status).toBe(403)
    expect((await call(server, world.neighbour.owner, 'GET', path)).status).toBe(404)
    const first = await call(server, world.people.admin, 'GET', `${path}?limit=2`)
    expect(first.body).toHaveLength(2)
    const next = /<([^>]+)>; rel="next"/.exec(first.headers.get('link') ?? '')?.[1] ?? ''
    const second = await call(server, world.people.admin, 'GET', next.replace('/api/v1', ''))
    expect(second.body).toHaveLength(1)
    expect(new Set([...first.body, ...second.body].map(({ id }) => id)).size).toBe(3)
  })

  it('is what remains of what nobody is mailed, with a line in the log that names the workspace and nobody', async () => {
    const place = await makeWorkspace()
    const { id } = await makeToken(server, place)
    await setLife(id, { madeDaysAgo: 100 })
    const before = server.logLines.length
    await notices()
    await notices()
    const lines = server.logLines.slice(before).filter((line) => line.includes('a notice is not mailed'))
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      {
        level: 'info',
        time: expect.any(String),
        workspace_id: place.workspaceId,
        kind: 'token_unused',
        msg: expect.any(String),
      },
    ])
    expect(lines.join()).not.toContain('@')
  })
})

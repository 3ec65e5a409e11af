// What was spent: by workspace and month, by model, as a file; and that reading it takes the same however many events there are.
import { Kysely, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { insertStatements, listUnsettled } from '../../src/billing/store.ts'
import { newId, type OrganizationId, type WorkspaceId } from '../../src/ids.ts'
import * as store from '../../src/spending/store.ts'
import type { Db } from '../../src/store/database.ts'
import type { Database } from '../../src/store/tables.ts'
import { type Month, monthBefore } from '../../src/usage/rules.ts'
import { readMonth } from '../../src/usage/service.ts'
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
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld
let organizationId: OrganizationId
let months: Month[]
const workspaces: Record<string, WorkspaceId> = {}
beforeAll(async () => {
  server = await startServer({ backend: hasStores() ? 'stores' : 'embedded' })
  world = await makeApiWorld(server)
  organizationId = world.organizationId as OrganizationId
  const now = await readMonth(server.db)
  months = [2, 1, 0].map((count) => monthBefore(now, count))
  for (const name of ['alpha', '=cmd()', 'a;=b()', 'gone']) {
    const made = await call(server, world.people.owner, 'POST', '/workspaces', {
      body: { name, organization_id: organizationId, cost_centre: `cc ${name}` },
    })
    workspaces[name] = made.body.id
  }
  await put('alpha', [1_500_000, 2_000_000, 4_000_000], 250_000)
  await put('=cmd()', [0, 0, 9_000_000])
  await put('gone', [700_000, 0, 0])
  await call(server, world.people.owner, 'POST', `/workspaces/${workspaces.gone}/archive`, { body: {} })
  await violate('alpha', 1, 'refused', 3)
  await violate('alpha', 2, 'refused', 2)
  await violate('alpha', 2, 'refused', 4)
  await violate('alpha', 2, 'overrun', 1)
  await violate('gone', 0, 'soft_cap', 1)
  const cap = { cap: '5.00', mode: 'hard' }
  await call(server, bearer(world.key), 'PUT', `/workspaces/${workspaces.alpha}/budget`, { body: cap })
})
afterAll(() => server?.close())

async function put(name: string, settled: readonly number[], held = 0): Promise<void> {
  for (const [place, micros] of settled.entries()) {
    if (micros === 0) continue
    await sql`insert into spend (organization_id, workspace_id, month, settled_micros, held_micros, event_count)
      values (${organizationId}, ${workspaces[name]}, ${months[place]}::date, ${micros}, ${place === 2 ? held : 0},
        ${place + 7})`.execute(server.db)
  }
}

async function violate(name: string, place: number, kind: string, count: number): Promise<void> {
  await sql`insert into violations (id, organization_id, workspace_id, month, kind, credential_id, hour, cap_micros,
      asked_micros, left_micros, count, trace_id)
    values (${newId('vio')}, ${organizationId}, ${workspaces[name]}, ${months[place]}::date, ${kind}, ${newId('key')},
      now(), 1, 1, 0, ${count}, 't')`.execute(server.db)
}

const spend = (query = '') => call(server, bearer(world.key), 'GET', `/organizations/${organizationId}/spend${query}`)
const range = () => `?from=${months[0]?.slice(0, 7)}`

describe('the spend of an organization', () => {
  it('is by workspace and month, archived ones where they spent something', async () => {
    const { body } = await spend(range())
    expect(body).toMatchObject({
      organization_id: organizationId,
      currency: 'USD',
      months: months.map((month) => month.slice(0, 7)),
      totals: ['2.20', '2.00', '13.00'],
    })
    const of = (name: string) =>
      body.workspaces.find((row: { workspace_id: string }) => row.workspace_id === workspaces[name])
    expect(of('alpha')).toEqual({
      workspace_id: workspaces.alpha,
      name: 'alpha',
      cost_centre: 'cc alpha',
      archived_at: null,
      cap: '5.00',
      mode: 'hard',
      spent: ['1.50', '2.00', '4.00'],
      held: '0.25',
      events: [7, 8, 9],
      violations: { refused: [0, 3, 6], overrun: [0, 0, 1], soft_cap: [0, 0, 0] },
    })
    expect(of('gone')).toMatchObject({
      spent: ['0.70', '0.00', '0.00'],
      events: [7, 0, 0],
      violations: { refused: [0, 0, 0], overrun: [0, 0, 0], soft_cap: [1, 0, 0] },
      archived_at: expect.any(String),
    })
    expect((await spend()).body.months).toHaveLength(6)
    const last = months[2]?.slice(0, 7)
    const now = await spend(`?from=${last}&to=${last}`)
    expect(now.body.workspaces.map((row: { name: string }) => row.name)).not.toContain('gone')
  })

  it('comes in pages that leave nothing out', async () => {
    const seen: string[] = []
    let query: string | undefined = `${range()}&limit=2`
    while (query !== undefined) {
      const answer = await spend(query)
      expect(answer.body.totals).toEqual(['2.20', '2.00', '13.00'])
      seen.push(...answer.body.workspaces.map((row: { workspace_id: string }) => row.workspace_id))
      const next = /<([^>]+)>; rel="next"/.exec(answer.headers.get('link') ?? '')?.[1]
      query = next && new URL(next, server.origin).search
    }
    const all = (await spend(range())).body.workspaces.map((row: { workspace_id: string }) => row.workspace_id)
    expect(seen).toEqual(all)
    expect(new Set(seen).size).toBe(seen.length)
  })

  it('is a file, a line a workspace and month, in which no name is a formula', async () => {
    const answer = await call(
      server,
      bearer(world.key),
      'GET',
      `/organizations/${organizationId}/spend/export${range()}`,
    )
    expect(answer.headers.get('content-type')).toMatch(/^text\/csv/)
    expect(answer.headers.get('content-disposition')).toMatch(/^attachment; filename="spend-org_/)
    const lines = answer.text.split('\r\n')
    expect(lines[0]).toBe(
      'workspace_id,workspace,cost_centre,month,currency,spent,held,cap,mode,events,refused,overrun,soft_cap',
    )
    const [, february] = months
    expect(lines).toContain(
      `${workspaces.alpha},alpha,cc alpha,${february?.slice(0, 7)},USD,2.00,0.00,5.00,hard,8,3,0,0`,
    )
    expect(answer.text).toContain("'=cmd()")
    expect(answer.text).toContain("a;'=b()")
    expect(answer.text).not.toMatch(/(^|[,;])=/m)
    const rows = (await spend(range())).body.workspaces.length
    expect(lines).toHaveLength(1 + rows * 3 + 1)
  })

  it.each([
    '?from=2026-13',
    '?from=2026-05&to=2026-04',
    '?from=2020-01&to=2026-01',
    '?to=x',
    '?month=2026-05',
    '?limit=0',
    '?from=2020-01',
  ])('asked for with %s is refused, and so is its file', async (query) => {
    expect((await spend(query)).status).toBe(400)
    const file = await call(server, bearer(world.key), 'GET', `/organizations/${organizationId}/spend/export${query}`)
    expect([file.status, file.headers.get('content-type')]).toEqual([400, expect.stringMatching(/problem\+json/)])
  })

  it('of thirty-six months is answered', async () => {
    const now = await readMonth(server.db)
    expect((await spend(`?from=${monthBefore(now, 35).slice(0, 7)}`)).body.months).toHaveLength(36)
    expect((await spend(`?from=${monthBefore(now, 36).slice(0, 7)}`)).status).toBe(400)
  })

  it.each([
    ['nobody', () => NOBODY, 401],
    ['a neighbour', () => bearer(world.neighbour.key), 404],
    ['a member of the organization', () => world.outsider, 403],
    ['an admin of one of its workspaces', () => world.people.admin, 403],
  ])('is given to %s neither as a list nor as a file', async (_, who, status) => {
    for (const path of ['spend', 'spend/export', 'violations'])
      expect([path, (await call(server, who(), 'GET', `/organizations/${organizationId}/${path}`)).status]).toEqual([
        path,
        status,
      ])
  })
})

describe('the usage of a workspace', () => {
  it('is by model, the dearest first', async () => {
    const { key } = await makeToken(server, world, { permissions: ['ingest', 'read'] })
    const events = [
      { id: 'a', cost: '1.00', provider: 'anthropic', model: 'large', input_tokens: 5, output_tokens: 1 },
      { id: 'b', cost: '2.00', provider: 'anthropic', model: 'large', input_tokens: 5 },
      { id: 'c', cost: '9.00', provider: 'openai', model: 'huge' },
      { id: 'd', cost: '0.50' },
    ]
    await call(server, bearer(key), 'POST', '/events', { body: { events }, headers: { 'x-trace-id': 'models' } })
    const { body } = await call(server, bearer(key), 'GET', `/workspaces/${world.workspaceId}/usage`)
    expect(body).toMatchObject({ spent: '12.50', events: 4, input_tokens: 10, output_tokens: 1, unpriced_events: 0 })
    expect(body.models).toEqual([
      { provider: 'openai', model: 'huge', spent: '9.00', events: 1, input_tokens: 0, output_tokens: 0 },
      { provider: 'anthropic', model: 'large', spent: '3.00', events: 2, input_tokens: 10, output_tokens: 1 },
      { provider: null, model: null, spent: '0.50', events: 1, input_tokens: 0, output_tokens: 0 },
    ])
  })

  it('names who used it to themselves and to an admin, and to no other', async () => {
    const { admin, member, owner } = world.people
    const path = `/workspaces/${world.workspaceId}`
    const make = async (permissions: string[]) => {
      const made = await call(server, admin, 'POST', `${path}/api-keys`, { body: { label: newLabel(), permissions } })
      expect(made.status, made.text).toBe(201)
      return bearer(made.body.key)
    }
    const theirs = await make(['ingest', 'read'])
    const body = { events: [{ id: 'whose', cost: '0.01' }] }
    expect((await call(server, theirs, 'POST', '/events', { body, headers: { 'x-trace-id': 'whose' } })).status).toBe(
      200,
    )
    const told = async (who: Credential) => {
      const answer = await call(server, who, 'GET', `${path}/usage/events?trace_id=whose`)
      expect(answer.status, answer.text).toBe(200)
      return answer.body[0].user_id
    }
    for (const who of [theirs, admin, owner, bearer(world.key)]) expect(await told(who)).toBe(admin.userId)
    const reading = await makeToken(server, world, { permissions: ['read'] })
    for (const who of [member, bearer(reading.key)]) expect(await told(who)).toBeNull()
    expect(await told(bearer((await makeToken(server, world)).key))).toBe(admin.userId)
  })

  it('lists its events in pages, newest first', async () => {
    const { key } = await makeToken(server, world, { permissions: ['ingest', 'read'] })
    const events = Array.from({ length: 7 }, (_, place) => ({ id: `page-${place}`, cost: '0.01' }))
    await call(server, bearer(key), 'POST', '/events', { body: { events }, headers: { 'x-trace-id': 'pages' } })
    const seen: string[] = []
    let path: string | undefined = `/workspaces/${world.workspaceId}/usage/events?trace_id=pages&limit=3`
    while (path !== undefined) {
      const answer = await call(server, bearer(key), 'GET', path)
      seen.push(...answer.body.map(({ id }: { id: string }) => id))
      const next = /<([^>]+)>; rel="next"/.exec(answer.headers.get('link') ?? '')?.[1]
      path = next && new URL(next, server.origin).href.split('/api/v1')[1]
    }
    expect(seen).toEqual(events.map(({ id }) => id).toReversed())
  })
})

describe.skipIf(!hasStores())('what pages read', () => {
  it('is one row a workspace and month, whatever the number of events', async () => {
    const made = await call(server, world.people.owner, 'POST', '/workspaces', {
      body: { name: newLabel(), organization_id: organizationId },
    })
    await sql`insert into usage_events (id, organization_id, workspace_id, month, event_id, cost_micros, trace_id, credential_id)
      select 'use_' || lpad(n::text, 26, '0'), ${organizationId}, ${made.body.id}, ${months[2]}::date, 'e' || n, 1, 't', 'key_x'
      from generate_series(1, 20000) n`.execute(server.db)
    await sql`analyze`.execute(server.db)
    const plans = await plansOf(async (db) => {
      await store.listSpending(db, organizationId, months, { order: 'spent', limit: 50 })
      await store.sumSpend(db, organizationId, months)
      await store.findSums(db, made.body.id, months[2] as Month)
      await store.listModels(db, made.body.id, months[2] as Month, 100)
      await store.listViolations(db, { organizationId }, months[2] as Month, { limit: 50 })
    })
    expect(plans).toHaveLength(5)
    for (const plan of plans) expect(plan).not.toContain('usage_events')
    const [events = ''] = await plansOf(async (db) => {
      await store.listEvents(db, made.body.id, { month: months[2], traceId: undefined }, { limit: 50 })
    })
    expect(events).toContain('Index Scan')
    expect(events).not.toContain('Seq Scan on usage_events_2')
  })
})

describe.skipIf(!hasStores())('what is mailed', () => {
  it('is found by an index in its order, also where everything is in one', async () => {
    const [statements, unsettled] = await plansOf(
      async (db) => {
        await insertStatements(db, { months: 3, limit: 500 })
        await listUnsettled(db, 'alert', { withinDays: 30, after: undefined, limit: 500 })
      },
      ['enable_seqscan', 'enable_bitmapscan'],
    )
    expect(statements).toContain('Index Scan using spend_by_month on spend')
    expect(unsettled).toContain('Index Scan using billing_mails_unsettled on billing_mails')
    expect(unsettled).not.toContain('Sort')
  })
})

/**
 * How the database would go about each statement that is asked of it.
 *
 * @param without what it would rather do where tables are small
 */
async function plansOf(ask: (db: Db) => Promise<void>, without: readonly string[] = []): Promise<string[]> {
  const plans: string[] = []
  const { rows: here } = await sql<{ name: string }>`select current_database() as name`.execute(server.db)
  const url = new URL(inject('postgresUrl') ?? '')
  url.pathname = `/${here[0]?.name}`
  const client = new pg.Client({ connectionString: url.href })
  await client.connect()
  for (const setting of without) await client.query(`set ${setting} = off`)
  const watched = {
    async query(text: string, parameters: unknown[]) {
      const { rows } = await client.query(`explain ${text}`, parameters)
      plans.push(rows.map((row: Record<string, string>) => row['QUERY PLAN']).join('\n'))
      return client.query(text, parameters)
    },
    release() {},
  }
  const pool = { options: {}, connect: async () => watched as unknown as pg.PoolClient, end: () => client.end() } // all that Kysely uses
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) })
  await ask(db).finally(() => db.destroy())
  return plans
}

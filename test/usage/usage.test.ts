// Usage over the API: events counted once, amounts held and settled, caps, and what is refused.
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { KeyId, WorkspaceId } from '../../src/ids.ts'
import type { Principal } from '../../src/principals/rules.ts'
import * as usage from '../../src/usage/service.ts'
import {
  type Answer,
  type ApiWorld,
  bearer,
  type Credential,
  call,
  exchanged,
  makeApiWorld,
  makeToken,
  newLabel,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld
let workspaceId: string
let job: Credential
let key: { id: string; key: string }
beforeAll(async () => {
  server = await startServer({ backend: hasStores() ? 'stores' : 'embedded' })
  world = await makeApiWorld(server)
})
afterAll(() => server?.close())
beforeEach(async () => {
  const made = await call(server, world.people.owner, 'POST', '/workspaces', {
    body: { name: newLabel(), organization_id: world.organizationId },
  })
  workspaceId = made.body.id
  key = await makeToken(server, { workspaceId, key: world.key }, { permissions: ['ingest', 'read'] })
  job = bearer(key.key)
})

let traces = 0
const post = (path: string, body: unknown, { as = job, headers = {} }: { as?: Credential; headers?: object } = {}) =>
  call(server, as, 'POST', path, { body, headers: { 'x-trace-id': `usage-${++traces}`, ...headers } })
const record = (...events: unknown[]) => post('/events', { events })
const setCap = async (cap: string, mode: 'soft' | 'hard' = 'hard') => {
  const answer = await call(server, bearer(world.key), 'PUT', `/workspaces/${workspaceId}/budget`, {
    body: { cap, mode },
  })
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}
const budget = async () => (await call(server, bearer(world.key), 'GET', `/workspaces/${workspaceId}/budget`)).body
const reserve = async (amount: string, more: object = {}) => post('/reservations', { amount, ...more })
const held = async (amount: string, more: object = {}): Promise<string> => {
  const answer = await reserve(amount, more)
  expect(answer.status, answer.text).toBe(201)
  return answer.body.id
}
const settle = (id: string, cost: string, more: object = {}) => post(`/reservations/${id}/settle`, { cost, ...more })
const release = (id: string) => post(`/reservations/${id}/release`, {})
const expire = (id: string) =>
  sql`update reservations set expires_at = clock_timestamp() - interval '1 second' where id = ${id}`.execute(server.db)
const violations = async () =>
  (await call(server, bearer(world.key), 'GET', `/workspaces/${workspaceId}/violations`)).body
const audited = async (event: string) =>
  server.db
    .selectFrom('audit_events')
    .selectAll()
    .where('workspace_id', '=', workspaceId)
    .where('event', '=', event)
    .orderBy('id')
    .execute()
const alerts = async () => {
  const { rows } = await sql<{ percent: number }>`
    select percent from budget_alerts where workspace_id = ${workspaceId} order by percent`.execute(server.db)
  return rows.map(({ percent }) => percent)
}
const NO_FACTS = {
  provider: null,
  model: null,
  inputTokens: null,
  outputTokens: null,
  costMicros: null,
  occurredAt: null,
  profileId: null,
}
const principalOf = (workspace: string, id: string): Principal => ({
  kind: 'workspace_token',
  authority: { kind: 'key', id: id as KeyId, version: 1 },
  organizationId: undefined,
  workspaceId: workspace as WorkspaceId,
  permissions: ['ingest'],
  environment: 'production',
  userId: null,
  clientId: null,
  credentialId: id as KeyId,
  tokenVersion: 1,
})
function refused(answer: Answer, status: number, code: string): void {
  expect([answer.status, answer.body.code]).toEqual([status, code])
}

describe('events', () => {
  it('are recorded with who used what, in the workspace of the credential', async () => {
    const event = {
      id: 'call-1',
      cost: '0.0123',
      provider: 'anthropic',
      model: 'claude-sonnet-4-5',
      input_tokens: 1200,
      output_tokens: 340,
      occurred_at: '2026-05-21T10:00:00+02:00',
      profile_id: 'customer:12',
    }
    const answer = await post('/events', { events: [event], currency: 'USD' }, { headers: { 'x-trace-id': 'run-7' } })
    expect([answer.status, answer.body]).toEqual([200, { recorded: 1, repeated: 0, trace_id: 'run-7' }])
    const listed = await call(server, job, 'GET', `/workspaces/${workspaceId}/usage/events?trace_id=run-7`)
    expect(listed.body).toMatchObject([
      {
        ...event,
        occurred_at: '2026-05-21T08:00:00Z',
        currency: 'USD',
        reservation_id: null,
        is_estimated: false,
        trace_id: 'run-7',
        credential_id: key.id,
        token_version: 'v1',
        user_id: null, // an organization key made it
      },
    ])
  })

  it('come with a trace id, or not at all', async () => {
    refused(
      await call(server, job, 'POST', '/events', { body: { events: [{ id: 'a', cost: '1' }] } }),
      400,
      'invalid_request',
    )
    expect((await budget()).spent).toBe('0.00')
  })

  it('are counted once, however often they are sent, also within one call', async () => {
    const event = { id: 'once', cost: '2.00' }
    expect((await record(event, event)).body).toMatchObject({ recorded: 1, repeated: 1 })
    expect((await record(event, { id: 'other', cost: '1' })).body).toMatchObject({ recorded: 1, repeated: 1 })
    expect((await budget()).spent).toBe('3.00')
  })

  it('with the id of another one are refused with all of their call', async () => {
    await record({ id: 'taken', cost: '1.00' })
    refused(await record({ id: 'new', cost: '5.00' }, { id: 'taken', cost: '1.01' }), 409, 'event_differs')
    refused(await record({ id: 'same', cost: '1' }, { id: 'same', cost: '2' }), 409, 'event_differs')
    expect((await budget()).spent).toBe('1.00')
    expect((await record({ id: 'new', cost: '5.00' })).body.recorded).toBe(1)
  })

  it('of unknown cost are counted, and not in the sum', async () => {
    await record({ id: 'a', cost: null, model: 'unheard-of', input_tokens: 7 }, { id: 'b', cost: '1' })
    const usage = await call(server, job, 'GET', `/workspaces/${workspaceId}/usage`)
    expect(usage.body).toMatchObject({ spent: '1.00', events: 2, unpriced_events: 1, input_tokens: 7 })
  })

  it.each([
    ['no events', { events: [] }],
    ['1,001 events', { events: Array.from({ length: 1_001 }, (_, place) => ({ id: `e${place}`, cost: '0' })) }],
    ['a workspace', { events: [{ id: 'a', cost: '1', workspace_id: 'ws_other' }] }],
    ['a negative amount', { events: [{ id: 'a', cost: '-1' }] }],
    ['a number for an amount', { events: [{ id: 'a', cost: 1 }] }],
    ['seven decimals', { events: [{ id: 'a', cost: '0.0000001' }] }],
    ['the id of a reservation', { events: [{ id: 'res_01kw8m5hp0s2t4v6w8x0y2z4ab', cost: '1' }] }],
    ['an id with a control character', { events: [{ id: 'a\n', cost: '1' }] }],
    ['an empty id', { events: [{ id: '', cost: '1' }] }],
    ['half a token', { events: [{ id: 'a', cost: '1', input_tokens: 0.5 }] }],
    ['another currency', { currency: 'EUR', events: [{ id: 'a', cost: '1' }] }],
    ['a time in the year 0', { events: [{ id: 'a', cost: '1', occurred_at: '0000-01-01T00:00:00Z' }] }],
    ['a time nearly a day from UTC', { events: [{ id: 'a', cost: '1', occurred_at: '2026-05-01T00:00:00+23:00' }] }],
    ['a time in the year 10000', { events: [{ id: 'a', cost: '1', occurred_at: '9999-12-31T23:59:59-14:00' }] }],
    ['a token as a model', { events: [{ id: 'a', cost: '1', model: `tid_ws_${'a'.repeat(60)}` }] }],
  ])('%s are refused', async (name, body) => {
    if (name !== 'a token as a model') refused(await post('/events', body), 400, 'invalid_request')
    else refused(await post('/events', { events: [{ id: 'a', cost: '1', model: key.key }] }), 400, 'invalid_request')
    expect((await budget()).spent).toBe('0.00')
  })

  it('a thousand at once are recorded, a body beyond its limit is not', async () => {
    const events = Array.from({ length: 1_000 }, (_, place) => ({
      id: `many-${place}`,
      cost: '0.001',
      model: 'm'.repeat(100),
    }))
    expect((await post('/events', { events })).body).toMatchObject({ recorded: 1_000 })
    expect((await budget()).spent).toBe('1.00')
    const large = await call(server, job, 'POST', '/events', {
      raw: `{"events":[],"x":"${'a'.repeat(1_100_000)}"}`,
      headers: { 'x-trace-id': 'large', 'content-type': 'application/json' },
    })
    expect(large.status).toBe(413)
  })

  it('add up beyond every amount that is sent', async () => {
    await setCap('1.00')
    const most = { cost: '999999999.999999', input_tokens: 1_000_000_000 }
    const path = `/workspaces/${workspaceId}/usage`
    await sql`insert into spend (organization_id, workspace_id, month, settled_micros, input_tokens)
      values (${world.organizationId}, ${workspaceId}, date_trunc('month', now() at time zone 'utc'),
        9223372036854775807, 9223372036854775807)`.execute(server.db)
    const events = Array.from({ length: 1_000 }, (_, place) => ({ id: `most-${place}`, model: 'm', ...most }))
    expect((await post('/events', { events })).status).toBe(200)
    expect((await call(server, job, 'GET', path)).body.spent).toBe('10223372036854.774807')
    expect(await violations()).toMatchObject([{ kind: 'overrun', left: '-9223372036853.775807' }])
    refused(await reserve('0.01'), 402, 'budget_exceeded')
  })

  it('of more tokens than any call has are refused', async () => {
    refused(await record({ id: 'many', cost: '1.00', output_tokens: 1_000_000_001 }), 400, 'invalid_request')
  })

  it('are taken from a JWT of the token as well, and from nothing that was revoked', async () => {
    const jwt = bearer(await exchanged(server, key.key))
    expect((await post('/events', { events: [{ id: 'j', cost: '1' }] }, { as: jwt })).status).toBe(200)
    await call(server, bearer(world.key), 'DELETE', `/workspaces/${workspaceId}/api-keys/${key.id}`)
    expect((await record({ id: 'late', cost: '1' })).status).toBe(401)
    expect((await post('/events', { events: [{ id: 'late', cost: '1' }] }, { as: jwt })).status).toBe(401)
    expect((await budget()).spent).toBe('1.00')
  })

  it('of another workspace with the same id are others', async () => {
    await record({ id: 'shared', cost: '1.00' })
    const other = await makeToken(server, world, { permissions: ['ingest'] })
    const answer = await post('/events', { events: [{ id: 'shared', cost: '9.00' }] }, { as: bearer(other.key) })
    expect(answer.body).toMatchObject({ recorded: 1 })
    expect((await budget()).spent).toBe('1.00')
  })
})

describe('reservations', () => {
  it('hold up to the hard cap, and are refused beyond it with what is left', async () => {
    await setCap('10.00')
    const id = await held('4.00')
    await record({ id: 'spent', cost: '3.50' })
    const answer = await reserve('2.51')
    refused(answer, 402, 'budget_exceeded')
    expect(answer.body.detail).toContain('leaves 2.50')
    await held('2.50')
    expect(await budget()).toMatchObject({ spent: '3.50', held: '6.50', left: '0.00' })
    expect(await violations()).toMatchObject([
      { kind: 'refused', asked: '2.51', left: '2.50', cap: '10.00', count: 1, credential_id: key.id },
    ])
    await release(id)
    await held('4.00')
  })

  it('settled at a time that cannot be kept are refused, and stay held', async () => {
    const id = await held('1.00')
    refused(await settle(id, '1.00', { occurred_at: '2026-05-01T00:00:00+23:00' }), 400, 'invalid_request')
    expect((await budget()).held).toBe('1.00')
  })

  it('refused again and again are one violation an hour with a count, and one record', async () => {
    await setCap('1.00')
    for (let turn = 0; turn < 4; turn++) refused(await reserve('2'), 402, 'budget_exceeded')
    expect(await violations()).toMatchObject([{ kind: 'refused', count: 4 }])
    expect(await audited('budget.admission_refused')).toMatchObject([
      { status: 'fail', credential_id: key.id, detail: { asked: '2.00', left: '1.00', cap: '1.00' } },
    ])
  })

  it('settled give back what was not spent', async () => {
    await setCap('10.00')
    const id = await held('10.00')
    const settled = await settle(id, '4.25', { provider: 'openai', model: 'gpt-x', output_tokens: 5 })
    expect(settled.body).toMatchObject({ id, state: 'settled', amount: '10.00', cost: '4.25' })
    expect(await budget()).toMatchObject({ spent: '4.25', held: '0.00', left: '5.75' })
    expect((await settle(id, '4.25', { provider: 'openai', model: 'gpt-x', output_tokens: 5 })).status).toBe(200)
    refused(await settle(id, '4.26'), 409, 'already_settled')
    refused(await release(id), 409, 'already_settled')
    expect((await budget()).spent).toBe('4.25')
  })

  it('settled above what was held are recorded in full, as an overrun, and leave less', async () => {
    await setCap('10.00')
    const id = await held('2.00')
    expect((await settle(id, '12.00')).body.cost).toBe('12.00')
    expect(await budget()).toMatchObject({ spent: '12.00', left: '-2.00' })
    expect(await violations()).toMatchObject([{ kind: 'overrun', asked: '12.00', count: 1 }])
    refused(await reserve('0.000001'), 402, 'budget_exceeded')
  })

  it('hold more together than any amount that is asked for', async () => {
    await sql`insert into spend (organization_id, workspace_id, month, held_micros)
      values (${world.organizationId}, ${workspaceId}, date_trunc('month', now() at time zone 'utc'),
        9223372036854775807)`.execute(server.db)
    const id = await held('999999999.999999')
    expect((await budget()).held).toBe('9224372036854.775806')
    expect((await settle(id, '999999999.999999')).status).toBe(200)
    expect(await budget()).toMatchObject({ spent: '999999999.999999', held: '9223372036854.775807' })
  })

  it.each(['expired', 'expired and noticed', 'released'])(
    '%s and then settled are recorded, as an overrun',
    async (how) => {
      await setCap('10.00')
      const id = await held('3.00')
      if (how === 'released') await release(id)
      else await expire(id)
      if (how === 'expired and noticed') await held('8.00')
      expect((await settle(id, '3.00')).body).toMatchObject({ state: 'settled', cost: '3.00' })
      expect((await budget()).spent).toBe('3.00')
      expect(await violations()).toMatchObject([{ kind: 'overrun', asked: '3.00' }])
    },
  )

  it('whose time has come hold nothing any more', async () => {
    await setCap('5.00')
    const id = await held('5.00', { hold_seconds: 1 })
    await expire(id)
    expect((await call(server, job, 'GET', `/reservations/${id}`)).body.state).toBe('expired')
    await held('5.00')
  })

  it('made twice under one Idempotency-Key are one; a refusal is none', async () => {
    await setCap('5.00')
    const headers = { 'idempotency-key': 'k1' }
    const first = await post('/reservations', { amount: '5.00' }, { headers })
    const again = await post('/reservations', { amount: '5.00' }, { headers })
    expect([first.status, again.status, again.body.id]).toEqual([201, 200, first.body.id])
    const refusing = { 'idempotency-key': 'k2' }
    refused(await post('/reservations', { amount: '1.00' }, { headers: refusing }), 402, 'budget_exceeded')
    await release(first.body.id)
    expect((await post('/reservations', { amount: '1.00' }, { headers: refusing })).status).toBe(201)
  })

  it('count in the month in which they were taken, also when they are settled in a later one', async () => {
    await setCap('10.00')
    const id = await held('6.00')
    await sql`update reservations set month = '2026-01-01' where id = ${id}`.execute(server.db)
    await sql`update spend set month = '2026-01-01' where workspace_id = ${workspaceId}`.execute(server.db)
    expect(await budget()).toMatchObject({ held: '0.00', left: '10.00' })
    await settle(id, '6.00')
    expect(await budget()).toMatchObject({ spent: '0.00', left: '10.00' })
    const january = await call(server, job, 'GET', `/workspaces/${workspaceId}/usage?month=2026-01`)
    expect(january.body).toMatchObject({ month: '2026-01', spent: '6.00', held: '0.00' })
  })

  it.each(['expired', 'expired and noticed', 'released'])(
    'of an earlier month that are %s when they are settled count in this one, under its cap',
    async (how) => {
      await setCap('1.00')
      const id = await held('0.25')
      await sql`update reservations set month = '2026-01-01' where id = ${id}`.execute(server.db)
      await sql`update spend set month = '2026-01-01' where workspace_id = ${workspaceId}`.execute(server.db)
      if (how === 'released') await release(id)
      else await expire(id)
      if (how === 'expired and noticed') await usage.expireDueHolds(server.db)
      const settled = await settle(id, '500.00')
      const { month } = await budget()
      expect(settled.body).toMatchObject({ state: 'settled', month })
      expect((await settle(id, '500.00')).body).toEqual(settled.body)
      expect(await budget()).toMatchObject({ spent: '500.00', held: '0.00', left: '-499.00' })
      expect(await violations()).toMatchObject([{ kind: 'overrun', asked: '500.00' }])
      refused(await reserve('0.01'), 402, 'budget_exceeded')
      const january = await call(server, job, 'GET', `/workspaces/${workspaceId}/usage?month=2026-01`)
      expect(january.body).toMatchObject({ spent: '0.00', held: '0.00' })
    },
  )

  it('of nothing are none', async () => {
    refused(await reserve('0'), 400, 'invalid_request')
    refused(await reserve('0.000000'), 400, 'invalid_request')
  })

  it('are for credentials of a workspace: another kind is told which', async () => {
    const answer = await post('/reservations', { amount: '1.00' }, { as: bearer(world.key) })
    refused(answer, 403, 'wrong_credential')
    expect(answer.body.detail).toBe('This call takes a workspace token or an access token.')
  })

  it('of another workspace are none', async () => {
    const id = await held('1.00')
    const other = bearer((await makeToken(server, world, { permissions: ['ingest'] })).key)
    refused(await call(server, other, 'GET', `/reservations/${id}`), 404, 'not_found')
    refused(await post(`/reservations/${id}/settle`, { cost: '1.00' }, { as: other }), 404, 'not_found')
    refused(await post(`/reservations/${id}/release`, {}, { as: other }), 404, 'not_found')
    refused(await settle('res_nonsense', '1.00'), 404, 'not_found')
    expect((await budget()).held).toBe('1.00')
  })
})

describe('a budget', () => {
  it('is set, changed and removed by an admin, and each is recorded with what was before', async () => {
    await setCap('5.00', 'soft')
    await setCap('7.00')
    const removed = await call(server, bearer(world.key), 'DELETE', `/workspaces/${workspaceId}/budget`)
    expect(removed.status).toBe(204)
    expect(await budget()).toMatchObject({ cap: null, mode: null, left: null })
    const details = (await audited('budget.changed')).map(({ detail }) => detail)
    expect(details).toEqual([
      { before: null, after: { cap: '5.00', mode: 'soft' } },
      { before: { cap: '5.00', mode: 'soft' }, after: { cap: '7.00', mode: 'hard' } },
    ])
    expect((await audited('budget.removed')).map(({ detail }) => detail)).toEqual([
      { before: { cap: '7.00', mode: 'hard' }, after: null },
    ])
  })

  it('that is soft refuses nothing, and its passing is a violation once a month, with alerts', async () => {
    await setCap('10.00', 'soft')
    await record({ id: '1', cost: '7.99' })
    await record({ id: '2', cost: '0.01' })
    await record({ id: '3', cost: '5.00' })
    await record({ id: '4', cost: '5.00' })
    await held('100.00')
    expect(await violations()).toMatchObject([
      { kind: 'soft_cap', count: 1, credential_id: null, asked: '5.00', left: '2.00' },
    ])
    const { rows } = await sql`
      select percent, mode from budget_alerts where workspace_id = ${workspaceId} order by percent`.execute(server.db)
    expect(rows).toEqual([
      { percent: 80, mode: 'soft' },
      { percent: 100, mode: 'soft' },
    ])
    const mails = await sql<{ outcome: null }>`
      select outcome from billing_mails where workspace_id = ${workspaceId} and kind = 'alert'`.execute(server.db)
    expect(mails.rows).toEqual([{ outcome: null }, { outcome: null }])
  })

  it.each(['soft', 'hard'] as const)('that is %s and below what is spent tells of it when it is set', async (mode) => {
    await record({ id: '1', cost: '10.00' })
    await setCap('5.00', mode)
    expect(await alerts()).toEqual([80, 100])
    expect(await violations()).toEqual([])
    await record({ id: '2', cost: '10.00' })
    await record({ id: '3', cost: '10.00' })
    expect(await violations()).toMatchObject(
      mode === 'soft'
        ? [{ kind: 'soft_cap', count: 1, asked: '10.00', left: '-5.00' }]
        : [{ kind: 'overrun', count: 2, asked: '10.00', left: '-15.00' }],
    )
    expect(await alerts()).toEqual([80, 100])
  })

  it('of nothing tells of the first that is spent', async () => {
    await setCap('0', 'soft')
    expect(await alerts()).toEqual([])
    await record({ id: '1', cost: '0.01' })
    expect(await alerts()).toEqual([100])
  })

  it('set again and again mails to an address six times a day, and what was not told is told later', async () => {
    await setCap('3.00', 'soft')
    await record({ id: 'first', cost: '2.70' })
    for (const cap of ['2.00', '1.90', '1.80', '1.70', '1.60']) await setCap(cap, 'soft')
    await record({ id: 'second', cost: '1.00' })
    const mails = async () => {
      const { rows } = await sql<{ count: number }>`
        select count(*)::int as count from billing_mails where workspace_id = ${workspaceId}`.execute(server.db)
      return rows[0]?.count
    }
    expect([await mails(), await alerts()]).toEqual([6, [80, 80, 80, 100, 100, 100]])
    await sql`update budget_alerts set created_at = created_at - interval '1 day'
      where workspace_id = ${workspaceId}`.execute(server.db)
    await record({ id: 'third', cost: '0.01' })
    const told = await sql<{ cap: string }>`
      select cap_micros::text as cap from budget_alerts where workspace_id = ${workspaceId}
      order by created_at desc limit 2`.execute(server.db)
    expect([await mails(), told.rows]).toEqual([8, [{ cap: '1600000' }, { cap: '1600000' }]])
  })

  it('that was set and removed leaves no trace in the sums', async () => {
    await setCap('5.00')
    const { rows } = await sql`select from spend where workspace_id = ${workspaceId}`.execute(server.db)
    expect(rows).toEqual([])
  })

  it('that is hard does not refuse what was spent already', async () => {
    await setCap('1.00')
    expect((await record({ id: 'dear', cost: '9.00' })).status).toBe(200)
    expect(await budget()).toMatchObject({ spent: '9.00', left: '-8.00' })
    expect(await violations()).toMatchObject([{ kind: 'overrun' }])
  })

  it('of one workspace is nothing to another', async () => {
    await setCap('0')
    refused(await reserve('0.000001'), 402, 'budget_exceeded')
    const other = bearer((await makeToken(server, world, { permissions: ['ingest'] })).key)
    expect((await post('/reservations', { amount: '1000' }, { as: other })).status).toBe(201)
  })
})

describe('the currency of an organization', () => {
  const setCurrency = (of: { organizationId: string; key: string }, currency: string) =>
    call(server, bearer(of.key), 'PUT', `/organizations/${of.organizationId}/currency`, { body: { currency } })

  it('changed while a call runs takes nothing for an amount of its own', async () => {
    const { neighbour } = await makeApiWorld(server)
    const token = await makeToken(server, neighbour, { permissions: ['ingest', 'read'] })
    const by = { principal: principalOf(neighbour.workspaceId, token.id), request: { traceId: 'currency' } }
    const admitted = await usage.admitCall(server.db, { ...by, most: () => 6_000n, holdSeconds: 60 })
    expect(admitted.currency).toBe('USD')
    expect((await setCurrency(neighbour, 'JPY')).status).toBe(204)
    const used = {
      event: { ...NO_FACTS, model: 'm', outputTokens: 7, costMicros: 6_000n },
      prices: 'v1',
      isEstimated: false,
    }
    await usage.recordCall(server.db, admitted, used)
    const path = `/workspaces/${neighbour.workspaceId}/usage`
    const read = (rest: string) => call(server, bearer(token.key), 'GET', `${path}${rest}`)
    expect((await read('/events')).body).toMatchObject([{ cost: null, currency: 'JPY', output_tokens: 7 }])
    expect((await read('')).body).toMatchObject({ spent: '0.00', currency: 'JPY', unpriced_events: 1 })
    refused(await setCurrency(neighbour, 'USD'), 409, 'currency_in_use')
  })

  it('without prices is named to whoever calls under a hard cap, and what was asked is not said to be nothing', async () => {
    await setCap('1.00')
    const by = { principal: principalOf(workspaceId, key.id), request: { traceId: 'unpriced' } }
    const asked = usage.admitCall(server.db, { ...by, most: () => undefined, holdSeconds: 60 })
    await expect(asked).rejects.toMatchObject({ code: 'budget_exceeded', detail: expect.stringContaining('in USD') })
    expect(await violations()).toMatchObject([{ kind: 'refused', asked: null, left: '1.00' }])
    expect(await audited('budget.admission_refused')).toMatchObject([{ detail: { asked: null, left: '1.00' } }])
    await record({ id: 'dear', cost: '2.00' })
    refused(await reserve('0.000001'), 402, 'budget_exceeded')
    expect((await violations()).find(({ kind }: { kind: string }) => kind === 'refused')).toMatchObject({
      asked: '0.000001',
    })
  })

  it('is USD until it is set, and stays what it is once amounts are kept in it', async () => {
    const made = await server.run('organization create', { name: newLabel(), owner: world.people.owner.email })
    const set = (currency: string) =>
      call(server, world.people.owner, 'PUT', `/organizations/${made.id}/currency`, { body: { currency } })
    expect((await set('EUR')).status).toBe(204)
    const workspace = await call(server, world.people.owner, 'POST', '/workspaces', {
      body: { name: newLabel(), organization_id: made.id },
    })
    const path = `/workspaces/${workspace.body.id}/budget`
    const body = { cap: '5', mode: 'soft' }
    refused(
      await call(server, world.people.owner, 'PUT', path, { body: { ...body, currency: 'USD' } }),
      400,
      'invalid_request',
    )
    expect((await call(server, world.people.owner, 'PUT', path, { body })).body.currency).toBe('EUR')
    refused(await set('USD'), 409, 'currency_in_use')
    expect((await set('EUR')).status).toBe(204)
    refused(await set('eur'), 400, 'invalid_request')
  })
})

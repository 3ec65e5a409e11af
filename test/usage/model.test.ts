// Whatever the order of reserving, settling, releasing, expiring, ingesting and retrying: the sums are those of a simple
// model, nothing is admitted beyond a hard cap, and no event is lost or counted twice.
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { AppError } from '../../src/errors.ts'
import type { WorkspaceId } from '../../src/ids.ts'
import type { Principal } from '../../src/principals/rules.ts'
import type { Micros, UsageEvent } from '../../src/usage/rules.ts'
import * as usage from '../../src/usage/service.ts'
import { type ApiWorld, makeApiWorld, makeToken } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { takeTime } from '../support/times.ts'

takeTime()

interface Hold {
  id: string
  amount: Micros
  state: 'held' | 'settled' | 'released' | 'expired'
  cost: Micros
}

interface Model {
  cap: { capMicros: Micros; mode: 'soft' | 'hard' } | undefined
  settled: Micros
  holds: Hold[]
  events: Map<string, Micros>
}

type Step =
  | { do: 'cap'; micros: number; mode: 'soft' | 'hard' | 'none' }
  | { do: 'reserve'; amount: number }
  | { do: 'settle'; place: number; cost: number; again: boolean }
  | { do: 'release'; place: number }
  | { do: 'expire'; place: number; noticed: boolean }
  | { do: 'ingest'; ids: number[]; cost: number }

const place = fc.nat(20)
const steps = fc.array(
  fc.oneof(
    {
      weight: 1,
      arbitrary: fc.record({
        do: fc.constant('cap' as const),
        micros: fc.nat(60),
        mode: fc.constantFrom('soft', 'hard', 'hard', 'none'),
      }),
    },
    {
      weight: 5,
      arbitrary: fc.record({ do: fc.constant('reserve' as const), amount: fc.integer({ min: 1, max: 15 }) }),
    },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant('settle' as const), place, cost: fc.nat(25), again: fc.boolean() }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('release' as const), place }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('expire' as const), place, noticed: fc.boolean() }) },
    {
      weight: 2,
      arbitrary: fc.record({
        do: fc.constant('ingest' as const),
        ids: fc.array(fc.nat(9), { minLength: 1, maxLength: 4 }),
        cost: fc.nat(5),
      }),
    },
  ),
  { minLength: 8, maxLength: 25 },
) as fc.Arbitrary<Step[]>

const backends: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(backends)('sums and caps on %s', (backend) => {
  let server: TestServer
  let world: ApiWorld
  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeApiWorld(server)
  })
  afterAll(() => server?.close())

  it('are those of the model', async () => {
    let admitted = 0
    let refused = 0
    await fc.assert(
      fc.asyncProperty(steps, async (taken) => {
        const run = await begin()
        await take(run, { do: 'cap', micros: 20, mode: 'hard' })
        for (const step of taken) await take(run, step)
        await check(run)
        admitted += run.model.holds.length
        refused += run.refused
      }),
      { numRuns: backend === 'embedded' ? 15 : 25, endOnFailure: true },
    )
    expect(admitted).toBeGreaterThan(0)
    expect(refused).toBeGreaterThan(0)
  })

  it.each(['hard', 'soft'] as const)(
    'a call under a %s cap is recorded once, however often that is tried',
    async (mode) => {
      const run = await begin()
      await take(run, { do: 'cap', micros: 20, mode })
      const call = await usage.admitCall(server.db, { ...by(run), most: () => 15n, holdSeconds: 60 })
      const used = { event: event(7n), prices: '2026-01-01', isEstimated: false }
      await Promise.all([1, 2, 3].map(() => usage.recordCall(server.db, call, used)))
      await usage.recordCall(server.db, call, used)
      run.model.settled = 7n
      run.model.events.set(call.reservationId ?? call.id, 7n)
      await check(run)
    },
  )

  interface Run {
    principal: Principal
    workspaceId: WorkspaceId
    model: Model
    refused: number
  }

  let runs = 0
  /** A workspace of its own: the month of another run would stand in the way. */
  async function begin(): Promise<Run> {
    const made = await server.run('workspace create', {
      organization: world.organizationId,
      name: `model ${++runs}`,
      owner: world.people.owner.email,
    })
    const workspaceId = made.id as WorkspaceId
    const { id } = await makeToken(server, { workspaceId, key: world.key }, { permissions: ['ingest'] })
    const principal: Principal = {
      kind: 'workspace_token',
      authority: { kind: 'key', id: id as `key_${string}`, version: 1 },
      organizationId: undefined,
      workspaceId,
      permissions: ['ingest'],
      environment: 'production',
      userId: null,
      clientId: null,
      credentialId: id as `key_${string}`,
      tokenVersion: 1,
    }
    return { principal, workspaceId, refused: 0, model: { cap: undefined, settled: 0n, holds: [], events: new Map() } }
  }

  const by = ({ principal }: Run) => ({ principal, request: { traceId: 'model' } })
  const operator = { authority: { kind: 'operator' } as const, request: { traceId: 'model' } }
  const event = (costMicros: Micros): Omit<UsageEvent, 'eventId'> => ({
    provider: null,
    model: null,
    inputTokens: null,
    outputTokens: null,
    costMicros,
    occurredAt: null,
    profileId: null,
  })
  const heldIn = (model: Model) =>
    model.holds.filter(({ state }) => state === 'held').reduce((sum, { amount }) => sum + amount, 0n)

  async function take(run: Run, step: Step): Promise<void> {
    const { model } = run
    if (step.do === 'cap') {
      model.cap = step.mode === 'none' ? undefined : { capMicros: BigInt(step.micros), mode: step.mode }
      await usage.setBudget(server.db, {
        workspaceId: run.workspaceId,
        budget: model.cap,
        currency: undefined,
        ...operator,
      })
    } else if (step.do === 'reserve') await reserve(run, BigInt(step.amount))
    else if (step.do === 'ingest') await ingest(run, step)
    else {
      const hold = model.holds.at(step.place % Math.max(model.holds.length, 1))
      if (hold === undefined) return
      if (step.do === 'settle') await settle(run, hold, step)
      if (step.do === 'release') await release(run, hold)
      if (step.do === 'expire') await expire(hold, step.noticed)
    }
  }

  async function reserve(run: Run, amount: Micros): Promise<void> {
    const { model } = run
    const fits = model.cap?.mode !== 'hard' || model.settled + heldIn(model) + amount <= model.cap.capMicros
    const asked = { ...by(run), amountMicros: amount, currency: undefined, holdSeconds: 900, repeatable: undefined }
    const answer = await usage.reserve(server.db, asked).catch(codeOf)
    if (!fits) {
      expect(answer).toBe('budget_exceeded')
      run.refused += 1
      return
    }
    if (typeof answer === 'string') throw new Error(`an amount that fits was not held: ${answer}`)
    model.holds.push({ id: answer.reservation.id, amount, state: 'held', cost: 0n })
  }

  async function settle(run: Run, hold: Hold, step: Extract<Step, { do: 'settle' }>): Promise<void> {
    const cost = BigInt(step.cost)
    const send = () => usage.settle(server.db, { ...by(run), id: hold.id, event: event(cost), currency: undefined })
    const answer = await send().catch(codeOf)
    if (hold.state === 'settled') {
      if (cost === hold.cost) expect(answer).toMatchObject({ reservation: { state: 'settled', costMicros: cost } })
      else expect(answer).toBe('already_settled')
      return
    }
    expect(answer).toMatchObject({ reservation: { state: 'settled', costMicros: cost } })
    run.model.settled += cost
    run.model.events.set(hold.id, cost)
    Object.assign(hold, { state: 'settled', cost })
    if (step.again) expect(await send()).toMatchObject({ reservation: { state: 'settled', costMicros: cost } })
  }

  async function release(run: Run, hold: Hold): Promise<void> {
    const answer = await usage.release(server.db, { ...by(run), id: hold.id }).catch(codeOf)
    if (hold.state === 'settled') expect(answer).toBe('already_settled')
    else {
      if (hold.state === 'held') hold.state = 'released'
      // Whether anybody noticed that it expired does not matter: nothing is held either way.
      expect(answer).toMatchObject({ reservation: { state: expect.stringMatching(/released|expired/) } })
    }
  }

  async function expire(hold: Hold, noticed: boolean): Promise<void> {
    if (hold.state !== 'held') return
    await sql`update reservations set expires_at = clock_timestamp() where id = ${hold.id}`.execute(server.db)
    hold.state = 'expired'
    if (noticed) await usage.expireDueHolds(server.db)
  }

  async function ingest(run: Run, step: Extract<Step, { do: 'ingest' }>): Promise<void> {
    const { model } = run
    const sent = step.ids.map((id) => ({ ...event(BigInt(step.cost)), eventId: `event-${id}` }))
    const differs = sent.some(({ eventId }) => (model.events.get(eventId) ?? BigInt(step.cost)) !== BigInt(step.cost))
    const answer = await usage.ingest(server.db, { ...by(run), events: sent, currency: undefined }).catch(codeOf)
    if (differs) return void expect(answer).toBe('event_differs')
    const fresh = new Set(sent.map(({ eventId }) => eventId).filter((id) => !model.events.has(id)))
    expect(answer).toEqual({ recorded: fresh.size, repeated: sent.length - fresh.size })
    for (const id of fresh) {
      model.events.set(id, BigInt(step.cost))
      model.settled += BigInt(step.cost)
    }
  }

  async function check({ model, workspaceId }: Run): Promise<void> {
    await usage.expireDueHolds(server.db)
    const { rows } = await sql<{ settled: string; held: string; events: string }>`
      select coalesce(sum(settled_micros), 0)::text as settled, coalesce(sum(held_micros), 0)::text as held,
        coalesce(sum(event_count), 0)::text as events from spend where workspace_id = ${workspaceId}`.execute(server.db)
    expect(rows).toEqual([
      { settled: String(model.settled), held: String(heldIn(model)), events: String(model.events.size) },
    ])
    const kept = await sql<{ event_id: string; cost: string }>`
      select event_id, cost_micros::text as cost from usage_events where workspace_id = ${workspaceId}`.execute(
      server.db,
    )
    const events = kept.rows.map(({ event_id, cost }): [string, Micros] => [event_id, BigInt(cost)])
    expect(new Map(events)).toEqual(model.events)
    expect(events).toHaveLength(model.events.size)
  }
})

function codeOf(error: unknown): string {
  if (error instanceof AppError) return error.code
  throw error
}

// Usage over the JSON API: events, reservations, budgets, and what an organization counts in.
import {
  ABOVE_WORKSPACES,
  ANY_CREDENTIAL,
  INGEST,
  type Reach,
  type Route,
  type Rule,
  route,
  workspaceOf,
} from '../api/route.ts'
import { AppError } from '../errors.ts'
import type { WorkspaceId } from '../ids.ts'
import { organizationParams, workspaceParams } from '../organizations/schemas.ts'
import { findReached } from '../organizations/service.ts'
import type { Principal } from '../principals/rules.ts'
import { type Counter, createCounter } from '../store/counter.ts'
import type { Db } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import * as shapes from './schemas.ts'
import * as service from './service.ts'

interface UsageRoutesDeps {
  db: Db
  counter: Counter
}

const TAG = 'Usage'
/** What is used is used by a credential of one workspace: that is whose spend it is. */

export function usageRoutes({ db, ephemeral }: { db: Db; ephemeral: EphemeralStore }): Route[] {
  const deps = { db, counter: createCounter(ephemeral) }
  return [ingestEvents(deps), ...reservationRoutes(deps), ...budgetRoutes(deps), changeCurrency(deps)]
}

const MOST_INGEST_BYTES = 1024 * 1024

function ingestEvents(deps: UsageRoutesDeps): Route {
  return route({
    method: 'POST',
    path: '/events',
    operationId: 'recordUsage',
    summary: 'Record what was used, and what it cost',
    description:
      'Up to 1,000 events; all of them are recorded, or none. The workspace is the credential’s. No event is refused for a cap. 6,000 calls a minute and credential.',
    tag: TAG,
    rule: INGEST,
    body: shapes.newEvents,
    mostBodyBytes: MOST_INGEST_BYTES,
    traced: true,
    answers: { 200: { description: 'How many are new', schema: shapes.ingestedShape } },
    async handle({ body, principal, request }) {
      await requireFewer(deps, principal)
      const events = body.events.map((event) => ({ eventId: event.id, ...shapes.toFacts(event, event.cost) }))
      const counts = await service.ingest(deps.db, { principal, request, events, currency: body.currency })
      return { status: 200, body: { ...counts, trace_id: request.traceId } }
    },
  })
}

function reservationRoutes(deps: UsageRoutesDeps): Route[] {
  const { db } = deps
  const params = shapes.reservationParams
  const found = { 200: { description: 'The reservation', schema: shapes.reservationShape } }
  return [
    route({
      method: 'POST',
      path: '/reservations',
      operationId: 'createReservation',
      summary: 'Hold an amount before it is spent',
      description:
        'Under a hard cap it is held only while what is settled, held and asked for stays within the cap; 402 otherwise. The hold counts in this month, and ends by itself.',
      tag: TAG,
      rule: INGEST,
      body: shapes.newReservation,
      repeatable: true,
      traced: true,
      answers: {
        201: { description: 'Held', schema: shapes.reservationShape },
        200: { description: 'The reservation that the same Idempotency-Key made', schema: shapes.reservationShape },
      },
      async handle({ body, principal, request, repeatable }) {
        await requireFewer(deps, principal)
        const { reservation, currency, isRepeat } = await service.reserve(db, {
          principal,
          request,
          amountMicros: body.amount,
          currency: body.currency,
          holdSeconds: body.hold_seconds,
          repeatable,
        })
        return { status: isRepeat ? 200 : 201, body: shapes.presentReservation(reservation, currency) }
      },
    }),
    route({
      method: 'GET',
      path: '/reservations/:reservation_id',
      operationId: 'getReservation',
      summary: 'Show a reservation',
      tag: TAG,
      rule: INGEST,
      params,
      answers: found,
      async handle({ params: { reservation_id }, principal }) {
        const workspaceId = await reachedWorkspace(db, principal)
        const { reservation, currency } = await service.getReservation(db, workspaceId, reservation_id)
        return { status: 200, body: shapes.presentReservation(reservation, currency) }
      },
    }),
    route({
      method: 'POST',
      path: '/reservations/:reservation_id/settle',
      operationId: 'settleReservation',
      summary: 'End a hold with what was really spent',
      description:
        'It is recorded in full, in the month of the hold, also when it is more than was held; in this month when the hold has ended. Sent again it is the same.',
      tag: TAG,
      rule: INGEST,
      params,
      body: shapes.settlement,
      traced: true,
      answers: found,
      async handle({ params: { reservation_id: id }, body, principal, request }) {
        const event = shapes.toFacts(body, body.cost)
        const settled = await service.settle(db, { principal, request, id, event, currency: body.currency })
        return { status: 200, body: shapes.presentReservation(settled.reservation, settled.currency) }
      },
    }),
    route({
      method: 'POST',
      path: '/reservations/:reservation_id/release',
      operationId: 'releaseReservation',
      summary: 'End a hold without spending',
      description: 'Sent again it is the same.',
      tag: TAG,
      rule: INGEST,
      params,
      answers: found,
      async handle({ params: { reservation_id: id }, principal, request }) {
        const { reservation, currency } = await service.release(db, { principal, request, id })
        return { status: 200, body: shapes.presentReservation(reservation, currency) }
      },
    }),
  ]
}

function budgetRoutes({ db }: UsageRoutesDeps): Route[] {
  const see: Rule = { who: 'workspace', permission: 'read', role: 'member', credentials: ANY_CREDENTIAL }
  const change: Rule = { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL }
  const path = '/workspaces/:workspace_id/budget'
  const params = workspaceParams
  const answers = { 200: { description: 'The budget, and what of this month is left', schema: shapes.budgetShape } }
  return [
    route({
      method: 'GET',
      path,
      operationId: 'getBudget',
      summary: 'Show the monthly cap of a workspace, and what is left of it',
      tag: TAG,
      rule: see,
      params,
      answers,
      handle: async ({ reach }) => ({
        status: 200,
        body: shapes.presentBudget(await service.getBudget(db, placeOf(reach))),
      }),
    }),
    route({
      method: 'PUT',
      path,
      operationId: 'setBudget',
      summary: 'Set the monthly cap of a workspace',
      description: 'It counts from the next admission on. What is held stays held, and what was spent stays spent.',
      tag: TAG,
      rule: change,
      params,
      body: shapes.newBudget,
      answers,
      async handle({ reach, body, by }) {
        const place = placeOf(reach)
        const budget = { capMicros: body.cap, mode: body.mode }
        await service.setBudget(db, { workspaceId: place.workspaceId, budget, currency: body.currency, ...by })
        return { status: 200, body: shapes.presentBudget(await service.getBudget(db, place)) }
      },
    }),
    route({
      method: 'DELETE',
      path,
      operationId: 'removeBudget',
      summary: 'Remove the monthly cap of a workspace',
      tag: TAG,
      rule: change,
      params,
      answers: { 204: { description: 'There is none now' } },
      async handle({ reach, by }) {
        const { workspaceId } = placeOf(reach)
        await service.setBudget(db, { workspaceId, budget: undefined, currency: undefined, ...by })
        return { status: 204 }
      },
    }),
  ]
}

function changeCurrency({ db }: UsageRoutesDeps): Route {
  return route({
    method: 'PUT',
    path: '/organizations/:organization_id/currency',
    operationId: 'setCurrency',
    summary: 'Set what an organization counts in',
    description: 'USD until it is set. It cannot be changed once there is a budget, or anything was spent.',
    tag: TAG,
    rule: { who: 'organization', permission: 'manage', role: 'admin', credentials: ABOVE_WORKSPACES },
    params: organizationParams,
    body: shapes.newCurrency,
    answers: { 204: { description: 'Set' } },
    async handle({ reach, body, by }) {
      await service.setCurrency(db, { organizationId: reach.organizationId, currency: body.currency, ...by })
      return { status: 204 }
    },
  })
}

function placeOf(reach: Reach) {
  const { id, organization_id } = workspaceOf(reach)
  return { workspaceId: id, organizationId: organization_id }
}

/** An archived workspace, or one that the person behind the credential has left, is none any more. */
async function reachedWorkspace(db: Db, { workspaceId, authority }: Principal): Promise<WorkspaceId> {
  const person = authority.kind === 'connection' ? authority.userId : null
  const found = workspaceId && (await findReached(db, workspaceId, person))
  if (!found || (person !== null && found.role === undefined)) throw new AppError('not_found')
  return found.workspace.id
}

const WINDOW_SECONDS = 60
/** Of one credential. */
const MOST_CALLS = 6_000

async function requireFewer({ counter }: UsageRoutesDeps, { credentialId }: Principal): Promise<void> {
  const { count, resetsInSeconds } = await counter.increment('usage', credentialId ?? '', WINDOW_SECONDS)
  if (count > MOST_CALLS) throw new AppError('too_many_requests', { retryAfterSeconds: resetsInSeconds })
}

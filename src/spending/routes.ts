// What was spent, over the JSON API.
import { z } from 'zod'
import {
  ABOVE_WORKSPACES,
  ANY_CREDENTIAL,
  type Reach,
  type Route,
  type Rule,
  route,
  workspaceOf,
} from '../api/route.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { organizationParams, workspaceParams } from '../organizations/schemas.ts'
import { hasPermission, type Principal } from '../principals/rules.ts'
import type { Db } from '../store/database.ts'
import { findCurrency } from '../usage/service.ts'
import { spendFile } from './download.ts'
import * as shapes from './schemas.ts'
import * as service from './service.ts'

const TAG = 'Usage'
const A_PAGE = 100

export function spendingRoutes({ db }: { db: Db }): Route[] {
  return [...ofWorkspaces(db), ...ofOrganizations(db)]
}

function ofWorkspaces(db: Db): Route[] {
  const rule: Rule = { who: 'workspace', permission: 'read', role: 'member', credentials: ANY_CREDENTIAL }
  const params = workspaceParams
  return [
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/usage',
      operationId: 'getUsage',
      summary: 'What a workspace used and spent in a month, by model',
      tag: TAG,
      rule,
      params,
      query: shapes.monthQuery,
      answers: { 200: { description: 'The month', schema: shapes.usageShape } },
      async handle({ reach, query }) {
        return { status: 200, body: shapes.presentUsage(await service.getUsage(db, placeOf(reach), query.month)) }
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/usage/events',
      operationId: 'listUsageEvents',
      summary: 'List the events of a month, newest first',
      description: 'Of a trace where one is given, whatever the month.',
      tag: TAG,
      rule,
      params,
      query: shapes.eventsQuery,
      answers: { 200: { description: 'Events', schema: z.array(shapes.usageEventShape) } },
      async handle({ reach, query, pages, principal }) {
        const place = placeOf(reach)
        const limit = query.limit ?? A_PAGE
        const page = { before: pages.after(query.cursor), limit: limit + 1 }
        const filter = { month: query.month, traceId: query.trace_id }
        const currency = await findCurrency(db, place.organizationId)
        const found = await service.listEvents(db, place.workspaceId, filter, page)
        const shown = { currency, mayName: (userId: string) => mayName(principal, reach, userId) }
        const body = pages.cut(found, limit, ({ id }) => id).map((row) => shapes.presentUsageEvent(row, shown))
        return { status: 200, body }
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/violations',
      operationId: 'listViolations',
      summary: 'List what a cap refused in a month, and what went beyond it, newest first',
      tag: TAG,
      rule,
      params,
      query: shapes.violationsQuery,
      answers: { 200: { description: 'Violations', schema: z.array(shapes.violationShape) } },
      async handle({ reach, query, pages }) {
        const place = placeOf(reach)
        return violations(db, place.organizationId, { workspaceId: place.workspaceId }, { query, pages })
      },
    }),
  ]
}

/** Who is behind a credential is said to themselves, and to whoever administers. */
function mayName(principal: Principal, { role }: Reach, userId: string): boolean {
  return principal.userId === userId || (isAtLeast(role, 'admin') && hasPermission(principal, 'manage'))
}

function ofOrganizations(db: Db): Route[] {
  const rule: Rule = { who: 'organization', permission: 'read', role: 'admin', credentials: ABOVE_WORKSPACES }
  const params = organizationParams
  return [
    route({
      method: 'GET',
      path: '/organizations/:organization_id/spend',
      operationId: 'getOrganizationSpend',
      summary: 'What an organization spent, by workspace and month',
      description:
        'Six months up to this one unless others are asked for; 36 at most. A page of workspaces, a hundred unless a limit is given; totals are of all of them.',
      tag: TAG,
      rule,
      params,
      query: shapes.spendQuery,
      answers: { 200: { description: 'Spend', schema: shapes.spendShape } },
      async handle({ reach, query, pages }) {
        const limit = query.limit ?? A_PAGE
        const page = { order: 'id' as const, after: pages.after(query.cursor), limit: limit + 1 }
        const spending = await service.getSpending(db, reach.organizationId, query, page)
        const workspaces = pages.cut(spending.workspaces, limit, ({ id }) => id)
        return { status: 200, body: shapes.presentSpending({ ...spending, workspaces }) }
      },
    }),
    route({
      method: 'GET',
      path: '/organizations/:organization_id/spend/export',
      operationId: 'exportOrganizationSpend',
      summary: 'Take what an organization spent away as a file, a line a workspace and month',
      tag: TAG,
      rule,
      params,
      query: shapes.spendFileQuery,
      answers: { 200: { description: 'The file', types: ['text/csv'] } },
      async handle({ reach, query }) {
        return spendFile(db, reach.organizationId, query)
      },
    }),
    route({
      method: 'GET',
      path: '/organizations/:organization_id/violations',
      operationId: 'listOrganizationViolations',
      summary: 'List what the caps of an organization’s workspaces refused in a month, newest first',
      tag: TAG,
      rule,
      params,
      query: shapes.violationsQuery,
      answers: { 200: { description: 'Violations', schema: z.array(shapes.violationShape) } },
      handle: ({ reach, query, pages }) =>
        violations(db, reach.organizationId, { organizationId: reach.organizationId }, { query, pages }),
    }),
  ]
}

async function violations(
  db: Db,
  organizationId: Reach['organizationId'],
  place: Parameters<typeof service.listViolations>[1],
  { query, pages }: { query: z.output<typeof shapes.violationsQuery>; pages: Parameters<Route['handle']>[0]['pages'] },
) {
  const limit = query.limit ?? A_PAGE
  const page = { before: pages.after(query.cursor), limit: limit + 1 }
  const [currency, found] = await Promise.all([
    findCurrency(db, organizationId),
    service.listViolations(db, place, query.month, page),
  ])
  const body = pages.cut(found, limit, ({ id }) => id).map((row) => shapes.presentViolation(row, currency))
  return { status: 200, body }
}

function placeOf(reach: Reach) {
  const { id, organization_id } = workspaceOf(reach)
  return { workspaceId: id, organizationId: organization_id }
}

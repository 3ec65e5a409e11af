// What an organization spent, on a page for those who administer it: by workspace and month, as drawings, as a table and as a
// file; which caps were passed, and what was refused for one.
import Router from '@koa/router'
import type { Context } from 'koa'
import { AppError } from '../errors.ts'
import { spendFile } from '../spending/download.ts'
import {
  countTrouble,
  getCurrentMonth,
  getSpending,
  listViolations,
  type Spending,
  type Trouble,
  type WorkspaceSpending,
} from '../spending/service.ts'
import type { Db } from '../store/database.ts'
import { formatMonth, type Micros, type Month, VIOLATION_KINDS } from '../usage/rules.ts'
import { hrefOf } from './audit-filter.ts'
import { type Frame, leadToSignIn, type OrganizationVisit, placeOfOrganization } from './frame.ts'
import { monthChoices, monthName, monthWord, roundedText, shortMonth, usedOf, writerFor } from './money.ts'
import { counted } from './token-times.ts'
import { chartOf, type Series, scaleOf } from './usage-chart.ts'
import { monthAsked } from './usage-pages.ts'
import { countText, type Figure, type Telling, violationView } from './usage-views.ts'

export interface SpendingPagesDeps {
  db: Db
  frame: Frame
}

const MOST_WORKSPACES = 50
const MOST_VIOLATIONS = 20

export function createSpendingPages(deps: SpendingPagesDeps): Router {
  const router = new Router()
  const at = '/organizations/:organization_id/usage'
  router.use(leadToSignIn)
  router.get(at, async (ctx) => showSpending(deps, ctx, await enter(deps, ctx)))
  router.get(`${at}/export`, async (ctx) => sendExport(deps, ctx, await enter(deps, ctx)))
  return router
}

const baseOf = ({ organization }: OrganizationVisit) => `/organizations/${organization.id}/usage`

async function enter({ frame }: SpendingPagesDeps, ctx: Context): Promise<OrganizationVisit> {
  return frame.organization(ctx, await frame.session(ctx), 'admin')
}

async function showSpending(deps: SpendingPagesDeps, ctx: Context, visit: OrganizationVisit): Promise<void> {
  const { db } = deps
  const { id } = visit.organization
  const { month: until, problem } = monthAsked(ctx, 'until')
  const page = { order: 'spent' as const, limit: MOST_WORKSPACES }
  const [spending, now] = await Promise.all([getSpending(db, id, { to: until }, page), getCurrentMonth(db)])
  const last = spending.months.at(-1) ?? now
  const [trouble, violations] = await Promise.all([
    countTrouble(db, id, spending.months),
    listViolations(db, { organizationId: id }, last, { limit: MOST_VIOLATIONS + 1 }),
  ])
  const base = baseOf(visit)
  const shown = violations.slice(0, MOST_VIOLATIONS)
  const telling = tellingOf(visit, spending)
  deps.frame.send(ctx, visit.session, 'spending', placeOfOrganization(visit, 'usage'), {
    error: problem,
    action: base,
    exportHref: hrefOf(`${base}/export`, { until: formatMonth(last) }),
    month: { name: monthName(last), word: monthWord(last), isNow: last === now },
    months: monthChoices(now, last),
    currency: spending.currency,
    figures: figuresOf(spending, trouble),
    isEmpty: spending.totals.every((micros) => micros === 0n) && spending.heldMicros === 0n && trouble.violations === 0,
    workspaces: trouble.workspaces,
    cut:
      trouble.workspaces > MOST_WORKSPACES ? { shown: MOST_WORKSPACES, of: countText(trouble.workspaces) } : undefined,
    charts: chartsOf(spending),
    table: tableOf(spending, trouble),
    violations: shown.map((row) => violationView(row, telling)),
    moreViolations: violations.length > MOST_VIOLATIONS,
  })
  if (problem !== undefined) ctx.status = 400
}

// --- Tiles ------------------------------------------------------------------------------------------------------------------

function figuresOf({ months, totals, heldMicros, currency }: Spending, trouble: Trouble): Figure[] {
  const [before, last] = [months.at(-2), months.at(-1)]
  const word = last === undefined ? '' : monthWord(last)
  const spent = totals.at(-1) ?? 0n
  return [
    { term: `Spent in ${word}`, value: roundedText(spent), sub: differenceOf(spent, totals.at(-2), before, currency) },
    { term: 'Held by reservations', value: roundedText(heldMicros), sub: currency },
    { term: 'Over a cap', value: countText(trouble.over), sub: whereOf(trouble.over, trouble.overName) },
    {
      term: `Refused in ${word}`,
      value: countText(trouble.refused),
      sub: whereOf(trouble.refusedIn, trouble.refusedName, 'All in '),
    },
  ]
}

function differenceOf(spent: Micros, was: Micros | undefined, before: Month | undefined, currency: string): string {
  if (was === undefined || before === undefined) return currency
  const more = spent - was
  if (more === 0n) return `${currency}, as much as in ${monthWord(before)}`
  return `${currency}, ${roundedText(more > 0n ? more : -more)} ${more > 0n ? 'more' : 'less'} than ${monthWord(before)}`
}

/** The one workspace, or how many. */
function whereOf(count: number, name: string | null, before = ''): string {
  if (count === 0) return 'No workspace'
  return count === 1 && name !== null
    ? `${before}\u2068${name}\u2069`
    : `${before === '' ? '' : 'In '}${counted(count, 'workspace')}`
}

// --- Drawings and their table ---------------------------------------------------------------------------------------------

/** Workspaces that are drawn large; where there are more, each is a row. */
const FEW = 12

function chartsOf(spending: Spending) {
  const all = spending.workspaces.map((workspace) => ({ workspace, series: seriesOf(workspace, spending.months) }))
  const drawn = all.filter(({ series }) => series.heldMicros > 0n || series.spent.some((micros) => micros > 0n))
  const scale = scaleOf(drawn.map(({ series }) => series))
  const isMany = drawn.length > FEW
  const options = { plot: isMany ? 32 : 88, currency: spending.currency }
  const last = spending.months.at(-1)
  const said = { currency: spending.currency, write: writerOf(spending).write }
  return {
    isMany,
    all: drawn.map(({ workspace, series }) => ({
      name: workspace.name,
      said: saidOf(workspace, last, said),
      chart: chartOf(series, scale, options),
    })),
    isCapLeftOut: drawn.some(({ series }) => series.capMicros !== undefined && series.capMicros > scale),
    undrawn: all.length - drawn.length,
  }
}

const seriesOf = (workspace: WorkspaceSpending, months: readonly Month[]): Series => ({
  name: workspace.name,
  months,
  spent: workspace.spent,
  heldMicros: workspace.held.at(-1) ?? 0n,
  capMicros: workspace.budget?.capMicros,
})

function saidOf(
  { spent, budget }: WorkspaceSpending,
  last: Month | undefined,
  { currency, write }: { currency: string; write: (micros: Micros) => string },
): string {
  const when = last === undefined ? '' : ` in ${monthWord(last)}`
  const cap = budget === undefined ? 'no cap' : `cap ${write(budget.capMicros)}`
  return `${write(spent.at(-1) ?? 0n)} ${currency}${when}, ${cap}`
}

/** How all of the amounts on the page that stand side by side are written. */
function writerOf({ totals, workspaces }: Spending) {
  return writerFor([...totals, ...workspaces.flatMap(({ budget }) => (budget === undefined ? [] : [budget.capMicros]))])
}

function tableOf(spending: Spending, trouble: Trouble) {
  const { months, totals, workspaces } = spending
  const { isWhole, write } = writerOf(spending)
  const [last] = months.slice(-1)
  const asked = last === undefined ? {} : { month: formatMonth(last) }
  return {
    isWhole,
    months: months.map(shortMonth),
    rows: workspaces.map(({ id, name, archivedAt, spent, budget, costCentre, events, violations }) => ({
      name,
      // Nobody enters an archived one any more.
      href: archivedAt === null ? hrefOf(`/workspaces/${id}/usage`, asked) : undefined,
      costCentre,
      spent: spent.map(write),
      cap: budget && { amount: write(budget.capMicros), mode: budget.mode },
      used: budget && usedOf(budget, spent.at(-1) ?? 0n),
      events: countText(events.at(-1) ?? 0),
      violations: countText(VIOLATION_KINDS.reduce((sum, kind) => sum + (violations[kind].at(-1) ?? 0), 0)),
    })),
    totals: totals.map(write),
    events: countText(spending.events),
    violations: countText(trouble.violations),
  }
}

// --- Violations -------------------------------------------------------------------------------------------------------------

function tellingOf({ organization }: OrganizationVisit, { currency }: Spending): Telling {
  return {
    currency,
    who: ({ workspaceId, workspaceName, isArchived, month }) => ({
      name: workspaceName,
      href: isArchived ? undefined : hrefOf(`/workspaces/${workspaceId}/usage`, { month: formatMonth(month) }),
    }),
    traceHref: ({ traceId }) => hrefOf(`/organizations/${organization.id}/audit`, { trace_id: traceId }),
  }
}

// --- The file ---------------------------------------------------------------------------------------------------------------

async function sendExport({ db }: SpendingPagesDeps, ctx: Context, visit: OrganizationVisit): Promise<void> {
  const { month, problem } = monthAsked(ctx, 'until')
  if (problem !== undefined) throw new AppError('invalid_request', { detail: problem })
  const { body, headers } = await spendFile(db, visit.organization.id, { to: month })
  ctx.body = body
  ctx.set({ ...headers, 'Cache-Control': 'no-store' }) // after the body, which would set a type of its own
}

// What a workspace used, on pages: a month against its cap, by model and by month, where the cap was in the way, event by
// event; and the cap itself.
import Router from '@koa/router'
import type { Context } from 'koa'
import { namesOfSubjects } from '../evidence/service.ts'
import { field, formBody } from '../http/forms.ts'
import { isTraceId } from '../http/trace.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { getMonths, getUsage, listEvents, listViolations, type WorkspaceUsage } from '../spending/service.ts'
import type { Db } from '../store/database.ts'
import type { BudgetMode } from '../store/tables.ts'
import { type Budget, formatMoney, formatMonth, type Month, parseMoney, parseMonth } from '../usage/rules.ts'
import { getBudget, setBudget } from '../usage/service.ts'
import { hrefOf } from './audit-filter.ts'
import { type Frame, leadToSignIn, placeOfWorkspace, type WorkspaceVisit } from './frame.ts'
import { exactText, monthChoices, monthName, monthWord, writerFor } from './money.ts'
import { attempt, done, noticeOf, oneOf } from './people.ts'
import type { FieldErrors } from './token-forms.ts'
import { chartOf, type Series, scaleOf } from './usage-chart.ts'
import * as views from './usage-views.ts'

export interface UsagePagesDeps {
  db: Db
  frame: Frame
}

export function createUsagePages(deps: UsagePagesDeps): Router {
  const router = new Router()
  const at = '/workspaces/:workspace_id/usage'
  router.use(leadToSignIn)
  router.get(at, (ctx) => showUsage(deps, ctx))
  router.get(`${at}/events`, (ctx) => showEvents(deps, ctx))
  router.get(`${at}/cap`, (ctx) => showCap(deps, ctx))
  router.post(`${at}/cap`, formBody, (ctx) => postCap(deps, ctx))
  // Where a person comes back to after signing in again.
  router.get(`${at}/cap/remove`, async (ctx) => done(ctx, `${baseOf(await enter(deps, ctx, 'admin'))}/cap`))
  router.post(`${at}/cap/remove`, formBody, (ctx) => postRemoval(deps, ctx))
  return router
}

const baseOf = ({ workspace }: WorkspaceVisit) => `/workspaces/${workspace.id}/usage`
const placeOf = (visit: WorkspaceVisit) => placeOfWorkspace(visit, 'usage')
const idsOf = ({ workspace, organization }: WorkspaceVisit) => ({
  workspaceId: workspace.id,
  organizationId: organization.id,
})

async function enter({ frame }: UsagePagesDeps, ctx: Context, least: 'member' | 'admin'): Promise<WorkspaceVisit> {
  return frame.workspace(ctx, await frame.session(ctx), least)
}

export const WRONG_MONTH = 'Choose a month, such as 2026-05.'

/** The month of an address. Undefined where none is asked for. */
export function monthAsked(ctx: Context, name: string): { month: Month | undefined; problem: string | undefined } {
  const text = ctx.URL.searchParams.get(name) ?? ''
  const month = parseMonth(text)
  return { month, problem: text !== '' && month === undefined ? WRONG_MONTH : undefined }
}

// --- A month ----------------------------------------------------------------------------------------------------------------

const NOTICES = {
  cap: 'The cap is set. It counts from the next call on.',
  removed: 'The cap is removed. Nothing is refused for what it costs any more.',
}

const MOST_VIOLATIONS = 20
const LATEST_EVENTS = 10

async function showUsage(deps: UsagePagesDeps, ctx: Context): Promise<void> {
  const { db } = deps
  const visit = await enter(deps, ctx, 'member')
  const { month: asked, problem } = monthAsked(ctx, 'month')
  const place = idsOf(visit)
  const [usage, months] = await Promise.all([getUsage(db, place, asked), getMonths(db, place.workspaceId)])
  const { month } = usage
  const now = months.at(-1)?.month ?? month
  const page = { limit: LATEST_EVENTS + 1 }
  const [violations, events] = await Promise.all([
    listViolations(db, { workspaceId: place.workspaceId }, month, { limit: MOST_VIOLATIONS + 1 }),
    listEvents(db, place.workspaceId, { month, traceId: undefined }, page),
  ])
  const names = await namesOfSubjects(db, place.organizationId, [...violations, ...events].map(credentialOf))
  const base = baseOf(visit)
  deps.frame.send(ctx, visit.session, 'usage', placeOf(visit), {
    workspace: visit.workspace.name,
    notice: noticeOf(ctx, NOTICES),
    error: problem,
    isAdmin: isAtLeast(visit.role, 'admin'),
    action: base,
    capHref: `${base}/cap`,
    month: { name: monthName(month), word: monthWord(month), isNow: month === now },
    months: monthChoices(now, month),
    currency: usage.currency,
    figures: views.figuresOf(usage),
    cap: views.capView(usage),
    unpriced: views.unpricedText(usage.sums.unpriced, month),
    models: views.modelsView(usage),
    mostModels: usage.models.length,
    history: historyOf(visit, usage, months),
    violations: violations
      .slice(0, MOST_VIOLATIONS)
      .map((row) => views.violationView(row, tellingOf(visit, usage, names))),
    moreViolations: violations.length > MOST_VIOLATIONS,
    events: events.slice(0, LATEST_EVENTS).map((row) => views.eventView(row, names, base)),
    eventsHref: hrefOf(`${base}/events`, { month: formatMonth(month) }),
  })
  if (problem !== undefined) ctx.status = 400
}

const credentialOf = ({ credentialId }: { credentialId: string | null }) => credentialId

/** The months up to the current one, as a drawing and as a table; undefined where nothing was spent in any of them. */
function historyOf(
  visit: WorkspaceVisit,
  { currency, budget, month: shown, balance }: WorkspaceUsage,
  months: Awaited<ReturnType<typeof getMonths>>,
) {
  const spent = months.map(({ spentMicros }) => spentMicros)
  if (spent.every((micros) => micros === 0n)) return undefined
  const series: Series = {
    name: visit.workspace.name,
    months: months.map(({ month }) => month),
    spent,
    heldMicros: shown === months.at(-1)?.month ? balance.heldMicros : 0n,
    capMicros: budget?.capMicros,
  }
  const { isWhole, write } = writerFor(spent)
  return {
    chart: chartOf(series, scaleOf([series]), { plot: 88, currency }),
    isWhole,
    rows: months.toReversed().map(({ month, spentMicros }) => ({
      name: monthName(month),
      href: hrefOf(baseOf(visit), { month: formatMonth(month) }),
      isShown: month === shown,
      spent: write(spentMicros),
    })),
  }
}

/** In a workspace each of its credentials is told apart. The audit log is for those who administer. */
function tellingOf(
  visit: WorkspaceVisit,
  { currency }: WorkspaceUsage,
  names: ReadonlyMap<string, string>,
): views.Telling {
  const isAdmin = isAtLeast(visit.role, 'admin')
  return {
    currency,
    who: ({ credentialId }) =>
      credentialId === null ? { name: visit.workspace.name } : { name: names.get(credentialId) ?? credentialId },
    traceHref: ({ traceId }) =>
      isAdmin ? hrefOf(`/workspaces/${visit.workspace.id}/audit`, { trace_id: traceId }) : undefined,
  }
}

// --- Events -----------------------------------------------------------------------------------------------------------------

const PAGE = 50
const POSITION = /^use_[0-9a-z]{1,40}$/

interface EventsAsked {
  month: Month | undefined
  traceId: string
  before: string | undefined
  problems: FieldErrors
}

function readEventsQuery(ctx: Context): EventsAsked {
  const query = ctx.URL.searchParams
  const { month, problem } = monthAsked(ctx, 'month')
  const traceId = (query.get('trace_id') ?? '').toWellFormed().trim()
  const before = query.get('before') ?? undefined
  return {
    month,
    traceId,
    before,
    problems: {
      ...(problem === undefined ? {} : { month: problem }),
      ...(traceId === '' || isTraceId(traceId)
        ? {}
        : { trace_id: 'A trace id is one word, of at most 128 letters, digits and . _ : -' }),
      ...(before === undefined || POSITION.test(before)
        ? {}
        : { before: 'This link is cut off. Begin with the newest events.' }),
    },
  }
}

async function showEvents(deps: UsagePagesDeps, ctx: Context): Promise<void> {
  const { db } = deps
  const visit = await enter(deps, ctx, 'member')
  const place = idsOf(visit)
  const { month, traceId, before, problems } = readEventsQuery(ctx)
  const isWrong = Object.keys(problems).length > 0
  const filter = { month, traceId: traceId === '' ? undefined : traceId }
  const [found, budget] = await Promise.all([
    isWrong ? [] : listEvents(db, place.workspaceId, filter, { before, limit: PAGE + 1 }),
    getBudget(db, place),
  ])
  const shown = found.slice(0, PAGE)
  const names = await namesOfSubjects(db, place.organizationId, shown.map(credentialOf))
  const base = baseOf(visit)
  const asked = {
    ...(month === undefined ? {} : { month: formatMonth(month) }),
    ...(traceId === '' ? {} : { trace_id: traceId }),
  }
  const href = (more: Record<string, string> = {}) => hrefOf(`${base}/events`, { ...asked, ...more })
  const last = found.length > PAGE ? shown.at(-1) : undefined
  const isOfAnyMonth = traceId !== '' && month === undefined
  deps.frame.send(ctx, visit.session, 'usage-events', placeOf(visit), {
    action: `${base}/events`,
    back: base,
    what: isOfAnyMonth ? 'under one trace, in any month' : `in ${monthName(month ?? budget.month)}`,
    months: monthChoices(budget.month, month ?? (isOfAnyMonth ? undefined : budget.month)),
    traceId,
    problems,
    isWrong,
    currency: budget.currency,
    events: shown.map((row) => views.eventView(row, names, base)),
    newest: before === undefined ? undefined : href(),
    older: last === undefined ? undefined : href({ before: last.id }),
    auditHref:
      !isWrong && traceId !== '' && isAtLeast(visit.role, 'admin')
        ? hrefOf(`/workspaces/${place.workspaceId}/audit`, { trace_id: traceId })
        : undefined,
  })
  if (isWrong) ctx.status = 400
}

// --- The cap ----------------------------------------------------------------------------------------------------------------

const MODES = ['hard', 'soft'] as const

interface CapForm {
  cap: string
  mode: BudgetMode | ''
  errors: FieldErrors
}

async function showCap(deps: UsagePagesDeps, ctx: Context): Promise<void> {
  await sendCap(deps, ctx, await enter(deps, ctx, 'admin'))
}

async function sendCap(deps: UsagePagesDeps, ctx: Context, visit: WorkspaceVisit, form?: CapForm): Promise<void> {
  const { budget, balance, month, currency } = await getBudget(deps.db, idsOf(visit))
  const base = baseOf(visit)
  deps.frame.send(ctx, visit.session, 'usage-cap', placeOf(visit), {
    workspace: visit.workspace.name,
    currency,
    month: monthWord(month),
    spent: exactText(balance.settledMicros),
    held: balance.heldMicros > 0n ? exactText(balance.heldMicros) : undefined,
    hasCap: budget !== undefined,
    form: form ?? formOf(budget),
    action: `${base}/cap`,
    back: base,
  })
}

function formOf(budget: Budget | undefined): CapForm {
  if (budget === undefined) return { cap: '', mode: 'hard', errors: {} }
  return { cap: formatMoney(budget.capMicros), mode: budget.mode, errors: {} }
}

async function postCap(deps: UsagePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  const cap = field(ctx, 'cap').trim()
  const mode: CapForm['mode'] = MODES.find((known) => known === field(ctx, 'mode')) ?? ''
  const capMicros = parseMoney(cap)
  const form = { cap, mode }
  if (capMicros === undefined) {
    ctx.status = 400
    return sendCap(deps, ctx, visit, { ...form, errors: { cap: WRONG_AMOUNT } })
  }
  const refused = await attempt(ctx, () =>
    setBudget(deps.db, {
      workspaceId: visit.workspace.id,
      budget: { capMicros, mode: oneOf(MODES, mode, 'Choose what the cap does.') },
      currency: field(ctx, 'currency') || undefined, // what the person was shown
      ...deps.frame.by(ctx, session),
    }),
  )
  if (refused !== undefined) return sendCap(deps, ctx, visit, { ...form, errors: { all: refused.detail } })
  done(ctx, baseOf(visit), 'cap')
}

const WRONG_AMOUNT =
  'Give an amount such as 2500 or 2500.50: digits and a point, nothing between thousands, below a thousand million.'

async function postRemoval(deps: UsagePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  const by = deps.frame.by(ctx, session)
  const none = { workspaceId: visit.workspace.id, budget: undefined, currency: undefined }
  const refused = await attempt(ctx, () => setBudget(deps.db, { ...none, ...by }))
  if (refused !== undefined)
    return sendCap(deps, ctx, visit, { cap: '', mode: 'hard', errors: { all: refused.detail } })
  done(ctx, baseOf(visit), 'removed')
}

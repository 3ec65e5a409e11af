// What was spent: of a workspace, and of an organization by workspace and month. The caller has been let in by now.
import { AppError } from '../errors.ts'
import type { OrganizationId, WorkspaceId } from '../ids.ts'
import { type Db, reading } from '../store/database.ts'
import type { Budget, Micros, Month } from '../usage/rules.ts'
import { findBudget, findCurrency, readMonth } from '../usage/service.ts'
import { CSV_HEADER, csvLines, monthsOf, monthsProblem } from './rules.ts'
import * as store from './store.ts'

export type { ModelSums, MonthSpending, Trouble, UsageRow, ViolationRow, WorkspaceSpending } from './store.ts'

export interface MonthsAsked {
  from?: Month | undefined
  to?: Month | undefined
}

export interface Spending {
  organizationId: OrganizationId
  currency: string
  /** Oldest first. */
  months: Month[]
  /** Of the whole organization, one for each month. */
  totals: Micros[]
  /** In the last month, as is what is held. */
  events: number
  heldMicros: Micros
  workspaces: store.WorkspaceSpending[]
}

/** @throws {AppError} `invalid_request` for months in the wrong order, or too many */
export async function resolveMonths(db: Db, asked: MonthsAsked): Promise<Month[]> {
  const months = monthsOf(await reading(readMonth(db)), asked)
  const problem = monthsProblem(months)
  if (problem !== undefined) throw new AppError('invalid_request', { detail: problem })
  return months
}

/** @throws {AppError} as `resolveMonths` */
export async function getSpending(
  db: Db,
  organizationId: OrganizationId,
  asked: MonthsAsked,
  page: store.SpendingPage,
): Promise<Spending> {
  const months = await resolveMonths(db, asked)
  const [currency, totals, workspaces] = await reading(
    Promise.all([
      findCurrency(db, organizationId),
      store.sumSpend(db, organizationId, months),
      store.listSpending(db, organizationId, months, page),
    ]),
  )
  return {
    organizationId,
    currency,
    months,
    totals: totals.map(({ settledMicros }) => settledMicros),
    events: totals.at(-1)?.events ?? 0,
    heldMicros: totals.at(-1)?.heldMicros ?? 0n,
    workspaces,
  }
}

/** By the database's clock. */
export const getCurrentMonth = (db: Db): Promise<Month> => reading(readMonth(db))

/** Of the whole organization, whatever page of its workspaces is looked at. */
export function countTrouble(db: Db, organizationId: OrganizationId, months: readonly Month[]): Promise<store.Trouble> {
  return reading(store.countTrouble(db, organizationId, months))
}

/** What workspaces have spent in the current month, and their caps. */
export async function getThisMonth(
  db: Db,
  organizationId: OrganizationId,
  ids: readonly WorkspaceId[],
): Promise<{ month: Month; currency: string; of: ReadonlyMap<WorkspaceId, store.MonthSpending> }> {
  const [month, currency, rows] = await reading(
    Promise.all([readMonth(db), findCurrency(db, organizationId), store.listThisMonth(db, ids)]),
  )
  return { month, currency, of: new Map(rows.map((row) => [row.workspaceId, row])) }
}

const WORKSPACES_A_READ = 500

/** Every workspace and month, a line each; read as it is sent. */
export async function* exportSpending(
  db: Db,
  organizationId: OrganizationId,
  months: readonly Month[],
): AsyncGenerator<string> {
  const currency = await reading(findCurrency(db, organizationId))
  yield CSV_HEADER
  let after: string | undefined
  do {
    const page = { order: 'id' as const, after, limit: WORKSPACES_A_READ }
    const found = await reading(store.listSpending(db, organizationId, months, page))
    yield found.map((workspace) => csvLines(workspace, months, currency)).join('')
    after = found.length < WORKSPACES_A_READ ? undefined : found.at(-1)?.id
  } while (after !== undefined)
}

export interface WorkspaceUsage {
  month: Month
  currency: string
  budget: Budget | undefined
  balance: { settledMicros: Micros; heldMicros: Micros }
  sums: store.Sums & { heldMicros: Micros; unpriced: number }
  /** The dearest first. */
  models: store.ModelSums[]
}

const MOST_MODELS = 100

export async function getUsage(
  db: Db,
  place: { organizationId: OrganizationId; workspaceId: WorkspaceId },
  asked: Month | undefined,
): Promise<WorkspaceUsage> {
  const month = asked ?? (await reading(readMonth(db)))
  const [currency, budget, sums, models] = await reading(
    Promise.all([
      findCurrency(db, place.organizationId),
      findBudget(db, place.workspaceId),
      store.findSums(db, place.workspaceId, month),
      store.listModels(db, place.workspaceId, month, MOST_MODELS),
    ]),
  )
  const balance = { settledMicros: sums.spentMicros, heldMicros: sums.heldMicros }
  return { month, currency, budget, balance, sums, models }
}

/** What a workspace spent in the months up to the current one, oldest first. */
export async function getMonths(
  db: Db,
  workspaceId: WorkspaceId,
): Promise<Array<{ month: Month; spentMicros: Micros }>> {
  const months = monthsOf(await reading(readMonth(db)), {})
  const spent = await reading(store.listMonths(db, workspaceId, months))
  return months.map((month, place) => ({ month, spentMicros: spent[place] ?? 0n }))
}

/** Newest first. Of the current month where neither a month nor a trace is asked for. */
export async function listEvents(
  db: Db,
  workspaceId: WorkspaceId,
  filter: { month: Month | undefined; traceId: string | undefined },
  page: { before?: string | undefined; limit: number },
): Promise<store.UsageRow[]> {
  const { traceId } = filter
  const month = filter.month ?? (traceId === undefined ? await reading(readMonth(db)) : undefined)
  return reading(store.listEvents(db, workspaceId, { month, traceId }, page))
}

/** Newest first. Of the current month unless another is asked for. */
export async function listViolations(
  db: Db,
  place: { workspaceId: WorkspaceId } | { organizationId: OrganizationId },
  month: Month | undefined,
  page: { before?: string | undefined; limit: number },
): Promise<store.ViolationRow[]> {
  return reading(store.listViolations(db, place, month ?? (await reading(readMonth(db))), page))
}

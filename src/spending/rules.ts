// Which months a view of spend covers, and its file. Pure.
import { csvCell } from '../evidence/rules.ts'
import { formatMoney, formatMonth, type Month, monthBefore, monthsBetween, VIOLATION_KINDS } from '../usage/rules.ts'
import type { WorkspaceSpending } from './store.ts'

export const MOST_MONTHS = 36
const MONTHS = 6

/** The months of a view, oldest first: six up to the current one, unless it is said otherwise. */
export function monthsOf(now: Month, asked: { from?: Month | undefined; to?: Month | undefined }): Month[] {
  const to = asked.to ?? (asked.from === undefined ? now : later(now, asked.from))
  return monthsBetween(asked.from ?? monthBefore(to, MONTHS - 1), to)
}

/** What is wrong with the months asked for, as a sentence; undefined where nothing is. */
export function monthsProblem(months: readonly Month[]): string | undefined {
  if (months.length === 0) return 'from must not be after to.'
  return months.length > MOST_MONTHS ? `Ask for ${MOST_MONTHS} months at most.` : undefined
}

const later = (a: Month, b: Month) => (a > b ? a : b)

const COLUMNS = [
  'workspace_id',
  'workspace',
  'cost_centre',
  'month',
  'currency',
  'spent',
  'held',
  'cap',
  'mode',
  'events',
  ...VIOLATION_KINDS,
] as const

export const CSV_HEADER = `${COLUMNS.join(',')}\r\n`

/** A line a month. The cap is the one of today. */
export function csvLines(workspace: WorkspaceSpending, months: readonly Month[], currency: string): string {
  const { id, name, costCentre, budget, spent, held, events, violations } = workspace
  const lines = months.map((month, place) =>
    [
      id,
      name,
      costCentre ?? '',
      formatMonth(month),
      currency,
      formatMoney(spent[place] ?? 0n),
      formatMoney(held[place] ?? 0n),
      budget === undefined ? '' : formatMoney(budget.capMicros),
      budget?.mode ?? '',
      String(events[place] ?? 0),
      ...VIOLATION_KINDS.map((kind) => String(violations[kind][place] ?? 0)),
    ]
      .map(csvCell)
      .join(','),
  )
  return lines.map((line) => `${line}\r\n`).join('')
}

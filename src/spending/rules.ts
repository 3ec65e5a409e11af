// Which months a view of spend covers, and its file. Pure.
import { csvCell } from '../evidence/rules.ts'
import { formatMoney, formatMonth, type Month, monthBefore, monthsBetween } from '../usage/rules.ts'
import type { WorkspaceSpending } from './store.ts'

export const MOST_MONTHS = 36
const MONTHS = 6

/** The months of a view, oldest first: six up to the current one, unless it is said otherwise; 36 at most. */
export function monthsOf(now: Month, asked: { from?: Month | undefined; to?: Month | undefined }): Month[] {
  const to = asked.to ?? (asked.from === undefined ? now : later(now, asked.from))
  const from = asked.from ?? monthBefore(to, MONTHS - 1)
  return monthsBetween(later(from, monthBefore(to, MOST_MONTHS - 1)), to)
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
] as const

export const CSV_HEADER = `${COLUMNS.join(',')}\r\n`

/** A line a month. The cap is the one of today. */
export function csvLines(workspace: WorkspaceSpending, months: readonly Month[], currency: string): string {
  const { id, name, costCentre, budget, spent, held } = workspace
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
    ]
      .map(csvCell)
      .join(','),
  )
  return lines.map((line) => `${line}\r\n`).join('')
}

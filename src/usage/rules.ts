// Money, months, and what a cap says to an amount. Pure.
import type { BudgetMode, ReservationState, ViolationKind } from '../store/tables.ts'

/** Millionths of a currency's unit. */
export type Micros = bigint

const MONEY = /^(\d{1,9})(?:\.(\d{1,6}))?$/
const MICROS_DIGITS = 6

/** Undefined for what is no amount: a sign, an exponent, more than six decimals, a thousand million or more. */
export function parseMoney(text: string): Micros | undefined {
  const match = MONEY.exec(text)
  if (match === null) return undefined
  return BigInt(`${match[1]}${(match[2] ?? '').padEnd(MICROS_DIGITS, '0')}`)
}

/** Two decimals, and more where they are not zero. */
export function formatMoney(micros: Micros): string {
  const sign = micros < 0n ? '-' : ''
  const digits = (micros < 0n ? -micros : micros).toString().padStart(MICROS_DIGITS + 1, '0')
  const decimals = digits.slice(-MICROS_DIGITS).replace(/0{1,4}$/, '')
  return `${sign}${digits.slice(0, -MICROS_DIGITS)}.${decimals}`
}

// --- Months ------------------------------------------------------------------------------------------------------------

/** The first day of a month, YYYY-MM-DD: as the database keeps it. */
export type Month = string & { readonly __brand: 'Month' }

/** @param text YYYY-MM */
export function parseMonth(text: string): Month | undefined {
  return /^20\d\d-(?:0[1-9]|1[0-2])$/.test(text) ? (`${text}-01` as Month) : undefined // the brand is made here
}

/** YYYY-MM. */
export function formatMonth(month: Month): string {
  return month.slice(0, 7)
}

export function monthBefore(month: Month, count: number): Month {
  const [year = 0, number = 1] = month.split('-').map(Number)
  return new Date(Date.UTC(year, number - 1 - count, 1)).toISOString().slice(0, 10) as Month // its first day
}

/** Both ends included, oldest first. */
export function monthsBetween(from: Month, to: Month): Month[] {
  const months: Month[] = []
  for (let month = from; month <= to; month = monthBefore(month, -1)) months.push(month)
  return months
}

// --- Caps --------------------------------------------------------------------------------------------------------------

export interface Budget {
  capMicros: Micros
  mode: BudgetMode
}

/** What a workspace has spent in a month, and what its reservations hold. */
export interface Balance {
  settledMicros: Micros
  heldMicros: Micros
}

/** Below nothing once more was spent than the cap. */
export function leftOf(budget: Budget, { settledMicros, heldMicros }: Balance): Micros {
  return budget.capMicros - settledMicros - heldMicros
}

/** Whether an amount may be held: only a hard cap refuses. */
export function isAdmitted(budget: Budget | undefined, balance: Balance, asked: Micros): boolean {
  return budget?.mode !== 'hard' || asked <= leftOf(budget, balance)
}

export const VIOLATION_KINDS = ['refused', 'overrun', 'soft_cap'] as const satisfies readonly ViolationKind[]

/** What spending broke: a soft cap that is passed; a hard one that is, or a hold that was not enough. */
export function violationOf(
  budget: Budget,
  { after, isOverrun }: { after: Balance; isOverrun: boolean },
): Exclude<ViolationKind, 'refused'> | undefined {
  if (budget.mode === 'hard') return isOverrun || leftOf(budget, after) < 0n ? 'overrun' : undefined
  return after.settledMicros > budget.capMicros ? 'soft_cap' : undefined
}

export const ALERT_PERCENTS = [80, 100] as const
export type AlertPercent = (typeof ALERT_PERCENTS)[number]

/** Of one workspace: whose address they go to may not have asked for them. */
export const MOST_ALERTS_A_DAY = 6

/** Which alerts stand at this spend: none before anything was spent. A cap of nothing has none but the last. */
export function alertsAt({ capMicros }: Budget, settledMicros: Micros): AlertPercent[] {
  if (settledMicros === 0n) return []
  return ALERT_PERCENTS.filter((percent) =>
    percent === 100
      ? settledMicros >= capMicros
      : capMicros > 0n && settledMicros * 100n >= capMicros * BigInt(percent),
  )
}

// --- Events ------------------------------------------------------------------------------------------------------------

/** What was used, as it is sent. */
export interface UsageEvent {
  eventId: string
  provider: string | null
  model: string | null
  inputTokens: number | null
  outputTokens: number | null
  /** Null: unknown. */
  costMicros: Micros | null
  occurredAt: string | null
  profileId: string | null
}

export function sumOf(events: ReadonlyArray<Pick<UsageEvent, 'costMicros'>>): Micros {
  return events.reduce((sum, { costMicros }) => sum + (costMicros ?? 0n), 0n)
}

// --- Reservations --------------------------------------------------------------------------------------------------------

/** What a reservation is now: its time may have come without anybody noticing. */
export function stateOf({ state, isPast }: { state: ReservationState; isPast: boolean }): ReservationState {
  return state === 'held' && isPast ? 'expired' : state
}

/** In which month a settlement counts: that of the hold while it lasts. What comes later is governed by the cap of its own. */
export function monthOfSettlement(
  hold: { month: Month; state: ReservationState; isPast: boolean },
  current: Month,
): Month {
  return stateOf(hold) === 'held' || hold.month > current ? hold.month : current
}

export const LONGEST_HOLD_SECONDS = 86_400
export const HOLD_SECONDS = 900

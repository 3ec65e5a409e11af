// Amounts, months and shares of a cap, as pages say them. Pure.
import { type Budget, formatMoney, formatMonth, type Micros, type Month, monthBefore } from '../usage/rules.ts'

/** All of it: `4,120.31`, `0.000125`. */
export function exactText(micros: Micros): string {
  const [whole = '', decimals = ''] = formatMoney(micros).split('.')
  const sign = whole.startsWith('-') ? '-' : ''
  return `${sign}${BigInt(whole.replace('-', '')).toLocaleString('en')}.${decimals}`
}

const CENT = 10_000n
const UNIT = 1_000_000n

/** To the cent, for reading: `4,120.31`. What is too little for one says so. */
export function roundedText(micros: Micros): string {
  if (micros < 0n) return `-${roundedText(-micros)}`
  if (micros > 0n && micros < CENT / 2n) return 'under 0.01'
  return exactText(rounded(micros, CENT))
}

const rounded = (micros: Micros, to: Micros) => ((micros + to / 2n) / to) * to

const MILLION = 1_000_000n * UNIT

/** How amounts that stand side by side are written: in whole units where one of them is a million or more. */
export function writerFor(amounts: readonly Micros[]): { isWhole: boolean; write: (micros: Micros) => string } {
  const isWhole = amounts.some((micros) => micros >= MILLION)
  const whole = (micros: Micros) =>
    micros > 0n && micros < UNIT / 2n ? 'under 1' : (rounded(micros, UNIT) / UNIT).toLocaleString('en')
  return { isWhole, write: isWhole ? whole : roundedText }
}

// --- Months ---------------------------------------------------------------------------------------------------------------

const NAME = new Intl.DateTimeFormat('en-GB', { month: 'long', year: 'numeric', timeZone: 'UTC' })
const WORD = new Intl.DateTimeFormat('en-GB', { month: 'long', timeZone: 'UTC' })
const SHORT = new Intl.DateTimeFormat('en-GB', { month: 'short', timeZone: 'UTC' })

const dateOf = (month: Month) => new Date(`${month}T00:00:00Z`)
/** `May 2026`. */
export const monthName = (month: Month): string => NAME.format(dateOf(month))
/** `May`. */
export const monthWord = (month: Month): string => WORD.format(dateOf(month))
/** `Sep`, of a column. */
export const shortMonth = (month: Month): string => SHORT.format(dateOf(month)).slice(0, 3)

const MONTHS_TO_CHOOSE = 24

/** Two years up to the current month, the newest first; and the chosen one, wherever it lies. */
export function monthChoices(now: Month, chosen: Month | undefined) {
  const months = Array.from({ length: MONTHS_TO_CHOOSE }, (_, count) => monthBefore(now, count))
  if (chosen !== undefined && !months.includes(chosen)) months.push(chosen)
  return months
    .toSorted()
    .toReversed()
    .map((month) => ({ value: formatMonth(month), text: monthName(month), isChosen: month === chosen }))
}

// --- Caps -----------------------------------------------------------------------------------------------------------------

const MOST_PERCENT = 999n

/** How much of a cap is spent, for a meter and in words. */
export interface Used {
  value: number
  /** `82%`, `103%, over`. */
  text: string
  isOver: boolean
}

export function usedOf({ capMicros }: Budget, spent: Micros): Used {
  const isOver = spent > capMicros
  if (capMicros === 0n) return { value: isOver ? 100 : 0, text: isOver ? 'over' : '0%', isOver }
  const percent = (spent * 100n) / capMicros
  const text = percent > MOST_PERCENT ? `over ${MOST_PERCENT}%` : `${percent}%${isOver ? ', over' : ''}`
  return { value: isOver ? 100 : Number((spent * 1_000n) / capMicros) / 10, text, isOver }
}

/** Of the whole, in percent, for people. */
export function shareOf(part: Micros, whole: Micros): string {
  if (whole === 0n || part === 0n) return '0%'
  const percent = (part * 100n) / whole
  return percent === 0n ? 'under 1%' : `${percent}%`
}

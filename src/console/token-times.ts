// Times as pages say them: relative where a person judges by it, with the exact one behind it. Always UTC.

const MINUTE_MS = 60_000
const HOUR_MS = 3_600_000
export const DAY_MS = 86_400_000

/** For a `time` element: the machine's form, the full one, and what is read first. */
export interface Moment {
  exact: string
  title: string
  text: string
}

const DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'long', year: 'numeric', timeZone: 'UTC' })
const SHORT_DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' })

/** `21 May 2026`. */
export const dayOf = (time: Date): string => DAY.format(time)
/** `21 May`. */
export const shortDayOf = (time: Date): string => SHORT_DAY.format(time)
/** `21 May 2026, 08:04 UTC`. */
export const instantOf = (time: Date): string => `${dayOf(time)}, ${time.toISOString().slice(11, 16)} UTC`

const moment = (time: Date, text: string): Moment => ({ exact: time.toISOString(), title: instantOf(time), text })

export const atDay = (time: Date): Moment => moment(time, dayOf(time))
export const atInstant = (time: Date): Moment => moment(time, instantOf(time))

/** `4 minutes ago`, `yesterday`, `94 days ago`. What lies ahead by a clock that differs is `just now`. */
export function ago(time: Date, now: Date): Moment {
  const past = now.getTime() - time.getTime()
  const days = Math.floor(past / DAY_MS)
  if (past < MINUTE_MS) return moment(time, 'just now')
  return moment(time, days === 1 ? 'yesterday' : `${span(past)} ago`)
}

/** `in 5 days`. */
export function ahead(time: Date, now: Date): Moment {
  return moment(time, `in ${span(Math.max(time.getTime() - now.getTime(), MINUTE_MS))}`)
}

/** How long something has been there, in days. */
export function ageOf(since: Date, now: Date): string {
  const days = Math.floor((now.getTime() - since.getTime()) / DAY_MS)
  return days < 1 ? 'Today' : counted(days, 'day')
}

/** The largest unit alone, rounded down: `3 hours`. */
export function span(ms: number): string {
  if (ms < HOUR_MS) return counted(Math.floor(ms / MINUTE_MS), 'minute')
  if (ms < DAY_MS) return counted(Math.floor(ms / HOUR_MS), 'hour')
  return counted(Math.floor(ms / DAY_MS), 'day')
}

/** The largest unit that says all of it: `90 minutes`. */
export function exactSpan(seconds: number): string {
  if (seconds % 86_400 === 0) return counted(seconds / 86_400, 'day')
  if (seconds % 3_600 === 0) return counted(seconds / 3_600, 'hour')
  return seconds % 60 === 0 ? counted(seconds / 60, 'minute') : counted(seconds, 'second')
}

/** `1 day`, `1,284 days`. */
export function counted(count: number, noun: string): string {
  return `${count.toLocaleString('en')} ${noun}${count === 1 ? '' : 's'}`
}

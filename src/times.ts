// Times on the wire: RFC 3339, UTC, whole seconds; what they say is the database's.

export function rfc3339(time: Date): string {
  return time.toISOString().replace(/\.\d{3}Z$/, 'Z')
}

/**
 * Whether an RFC 3339 date-time lies where everybody can follow: the database knows no year 0 and no offset of a day, and from the
 * year 10000 on a time is written otherwise.
 */
export function isKeepableTime(text: string): boolean {
  const time = Date.parse(text)
  const [, hours = '0'] = /[+-](\d\d):\d\d$/.exec(text) ?? []
  return time >= EARLIEST && time < LATEST && Number(hours) <= MOST_OFFSET_HOURS
}

const EARLIEST = Date.UTC(1970, 0, 1)
const LATEST = Date.UTC(9999, 0, 1)
/** No place on Earth is further from UTC than that. */
const MOST_OFFSET_HOURS = 14

export const NOT_KEEPABLE = 'must lie in the years 1970 to 9998, less than 15 hours from UTC'

export function rfc3339OrNull(time: Date | null): string | null {
  return time === null ? null : rfc3339(time)
}

// When a client is told again of a logout that it did not take, and when no more. Pure.

/** Over some six hours: a receiver that was down for an evening's maintenance still hears of it. */
export const MOST_TRIES = 8
const FIRST_DELAY_SECONDS = 20
const LONGEST_DELAY_SECONDS = 2 * 3_600

/** The receiver took it (OpenID Connect Back-Channel Logout 1.0 §2.8). */
export function isTaken(status: number): boolean {
  return status === 200 || status === 204
}

/**
 * Seconds until the next try: four times as long after each, a quarter more or less, so that what failed together does
 * not come back together.
 *
 * @param tries how often it was tried by now
 * @param chance from 0 to 1
 */
export function delaySeconds(tries: number, chance: number): number {
  const delay = Math.min(FIRST_DELAY_SECONDS * 4 ** (tries - 1), LONGEST_DELAY_SECONDS)
  return Math.round(delay * (0.75 + chance / 2))
}

// Accounts: how an address is compared and what a password must be. Pure.

/** Longest accepted, in bytes: argon2 would take more, an attacker's megabyte must not get that far (ASVS 6.2.9). */
export const PASSWORD_MOST_BYTES = 256
export const PASSWORD_LEAST_CHARACTERS = 12
const EMAIL_MOST_CHARACTERS = 254

/** The form that two spellings of one address share: NFKC, lower case, no outer spaces. */
export function emailKey(email: string): string {
  return email.normalize('NFKC').trim().toLowerCase()
}

/** One @, something on both sides, no spaces or control characters; whether it exists only mail can tell. */
export function isEmail(text: string): boolean {
  return (
    text.length <= EMAIL_MOST_CHARACTERS &&
    /^[^\s@<>"',;:\p{C}]+@[^\s@<>"',;:\p{C}]+\.?[^\s@<>"',;:\p{C}]*$/u.test(text)
  )
}

export type PasswordProblem = 'too_short' | 'too_long'

/** Length only (ASVS 6.2): no rules of composition. */
export function passwordProblem(password: string): PasswordProblem | undefined {
  if (Buffer.byteLength(password) > PASSWORD_MOST_BYTES) return 'too_long'
  return [...password].length < PASSWORD_LEAST_CHARACTERS ? 'too_short' : undefined
}

/** A session counts when its person may sign in and it began after the last "sign out everywhere". */
export function isSessionGood(
  user: { suspendedAt: Date | null; sessionsNotBefore: Date | null },
  signedInAtSeconds: number,
): boolean {
  if (user.suspendedAt !== null) return false
  return user.sessionsNotBefore === null || signedInAtSeconds * 1000 >= user.sessionsNotBefore.getTime()
}

const TOLD_ONE_BY_ONE = 5

/** Of many failures in a row the log has the first ones, and then each time that they have doubled. */
export function isFailureTold(failures: number): boolean {
  return failures <= TOLD_ONE_BY_ONE || Number.isInteger(Math.log2(failures))
}

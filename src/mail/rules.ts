// What a mail is, and what its headers may hold. Pure.

export interface Mail {
  to: string
  subject: string
  text: string
  /** The same for the same mail, however often it is sent: many receivers show it once (RFC 5322 §3.6.4). */
  id: string
}

const LONGEST_HEADER = 200

/** One line without control characters: a header ends at a line's end, and what follows would be another one. */
export function headerText(text: string): string {
  return text
    .replaceAll(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, ' ')
    .trim()
    .slice(0, LONGEST_HEADER)
}

/** What a mail server answered to a command of ours. */
export interface Refusal {
  code: string
  command: string
  responseCode: number | undefined
  /** As `5.1.1` (RFC 3463); '' where the server gives none. */
  enhancedCode: string
}

const NO_SUCH_MAILBOX: readonly number[] = [550, 551, 553]
/** A policy, or our own address (RFC 3463 §3.2, §3.8; 5.1.0 is Postfix's): what is said of a sender when a recipient is named. */
const ABOUT_US = /^5\.(?:7\.\d+|1\.[078])$/

/** True where it is the recipient that is no good (RFC 5321 §4.2.1). All else is for operators to mend: the mail waits. */
export function isPermanentRefusal({ code, command, responseCode = 0, enhancedCode }: Refusal): boolean {
  if (code !== 'EENVELOPE' || command !== 'RCPT TO' || responseCode < 500) return false
  if (ABOUT_US.test(enhancedCode)) return false
  return enhancedCode.startsWith('5.1.') || NO_SUCH_MAILBOX.includes(responseCode)
}

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

/** 5xx to the recipient itself (RFC 5321 §4.2.1). To a sign-in or a whole session it is for operators to mend. */
export function isPermanentRefusal(code: string, responseCode: number | undefined): boolean {
  return code === 'EENVELOPE' && responseCode !== undefined && responseCode >= 550 && responseCode <= 559
}

// What a job may write into the audit log: whose words these are, how large, and that they can be hashed. Pure.

const PREFIX = 'job.'

/** What a job names is stored apart from our own events, which nobody else can write. */
export function storedEvent(given: string): string {
  return given.startsWith(PREFIX) ? given : `${PREFIX}${given}`
}

export const MOST_DETAIL_BYTES = 4_096
export const MOST_DETAIL_DEPTH = 5

/** What is wrong with a job's detail, as a sentence without its first words; undefined where nothing is. */
export function detailProblem(detail: Record<string, unknown>): string | undefined {
  // Looked at first: what is nested beyond all measure would not be measured otherwise.
  if (isDeeper(detail, MOST_DETAIL_DEPTH)) return `must not be nested deeper than ${MOST_DETAIL_DEPTH}`
  if (Buffer.byteLength(JSON.stringify(detail)) > MOST_DETAIL_BYTES) return `must be ${MOST_DETAIL_BYTES} bytes at most`
  return holdsRefusedName(detail) ? HOLDS_REFUSED_NAME : inexactness(detail)
}

function isDeeper(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return depth === 0 || Object.values(value).some((member) => isDeeper(member, depth - 1))
}

/** What an object would inherit from: readers of JSON drop a member of that name, or worse. */
const REFUSED_NAME = '__proto__'
export const HOLDS_REFUSED_NAME = `must not have a member ${REFUSED_NAME}`

/** Whether it is a member of the value itself. */
export function hasRefusedName(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, REFUSED_NAME)
}

function holdsRefusedName(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false
  return hasRefusedName(value) || Object.values(value).some(holdsRefusedName)
}

/** What would come back from the log as something else could not be verified. */
function inexactness(value: unknown): string | undefined {
  if (typeof value === 'number' && (!Number.isSafeInteger(value) || Object.is(value, -0)))
    return 'holds a number that is no exact whole number: send it as text'
  if (typeof value === 'string' && (!value.isWellFormed() || value.includes('\u0000')))
    return 'holds text that cannot be stored: NUL, or half a character'
  if (typeof value !== 'object' || value === null) return undefined
  const parts = Array.isArray(value) ? value : Object.entries(value).flat()
  return parts.map(inexactness).find((problem) => problem !== undefined)
}

/** Every text in a value, names of members included. */
export function textsIn(value: unknown): string[] {
  if (typeof value === 'string') return [value]
  if (typeof value !== 'object' || value === null) return []
  return (Array.isArray(value) ? value : Object.entries(value).flat()).flatMap(textsIn)
}

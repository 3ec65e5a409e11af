// What a person looks for in the audit log: read from the address, so that it works without a script and can be kept as a
// link. What makes no sense is said beside its field, and nothing is looked for then. Pure.
import { type Filter, type Position, readPosition } from '../evidence/rules.ts'

/** As typed. */
export interface Given {
  trace_id: string
  user_id: string
  /** Of somebody who is not among those to choose from. */
  other_id: string
  event: string
  token_version: string
  status: string
  workspace_id: string
  credential_id: string
  profile_id: string
  from: string
  to: string
  stale: boolean
}

export type FieldName = keyof Given | 'before'
export type Problems = Partial<Record<FieldName, string>>

export interface AuditQuery {
  given: Given
  problems: Problems
  /** Undefined where something is wrong. */
  filter: Filter | undefined
  /** Where a page goes on: older than this. */
  before: Position | undefined
}

const TEXTS = [
  'trace_id',
  'user_id',
  'other_id',
  'event',
  'token_version',
  'status',
  'workspace_id',
  'credential_id',
  'profile_id',
  'from',
  'to',
] as const satisfies ReadonlyArray<keyof Given>

const WORD = /^[\x21-\x7e]{1,128}$/
const EVENT = /^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*(\.\*)?$/
const LONGEST_EVENT = 100
const VERSION = /^v?([1-9]\d{0,8})$/
/** The database's time, to the microsecond, and the record of that time. */
const POSITION = /^((?:19|20|21)\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (aud_[0-9a-z]{1,60})$/

const ONE_WORD = 'An id is one word, of at most 128 letters, digits and signs.'
const WRONG_DAY = 'Give a day such as 2026-05-21.'

export function readAuditQuery(query: URLSearchParams): AuditQuery {
  const given = readGiven(query)
  const position = query.get('before')
  const before = position === null ? undefined : parsePosition(position)
  const problems: Problems = {
    ...problemsOf(given),
    ...(position !== null && before === undefined
      ? { before: 'This link is cut off. Begin with the newest records.' }
      : {}),
  }
  return { given, problems, filter: Object.keys(problems).length > 0 ? undefined : filterOf(given), before }
}

function readGiven(query: URLSearchParams): Given {
  const texts = TEXTS.map((name) => [name, (query.get(name) ?? '').toWellFormed().trim()])
  return {
    ...(Object.fromEntries(texts) as Record<(typeof TEXTS)[number], string>),
    stale: query.get('stale') === 'yes',
  } // each of them is there
}

function problemsOf(given: Given): Problems {
  const problems: Problems = {}
  for (const name of ['trace_id', 'user_id', 'other_id', 'workspace_id', 'credential_id', 'profile_id'] as const)
    if (given[name] !== '' && !WORD.test(given[name])) problems[name] = ONE_WORD
  if (given.other_id !== '' && given.user_id !== '') problems.other_id = 'Choose somebody, or give an id: not both.'
  if (given.event !== '' && (given.event.length > LONGEST_EVENT || !EVENT.test(given.event)))
    problems.event = 'An event is named such as token.revoked.'
  if (given.token_version !== '' && !VERSION.test(given.token_version))
    problems.token_version = 'A version is v and a number, such as v3.'
  if (!['', 'pass', 'fail'].includes(given.status)) problems.status = 'Choose Pass, Fail or Either.'
  for (const name of ['from', 'to'] as const)
    if (given[name] !== '' && parseDay(given[name]) === undefined) problems[name] = WRONG_DAY
  const [from, to] = [parseDay(given.from), parseDay(given.to)]
  if (from !== undefined && to !== undefined && from > to) problems.to = 'The last day is before the first.'
  return problems
}

/** All of it makes sense by now. */
function filterOf(given: Given): Filter {
  const set = (text: string) => (text === '' ? undefined : text)
  const [from, to] = [parseDay(given.from), parseDay(given.to)]
  const version = VERSION.exec(given.token_version)?.[1]
  return {
    trace_id: set(given.trace_id),
    user_id: set(given.user_id) ?? set(given.other_id),
    event: set(given.event),
    token_version: version === undefined ? undefined : `v${version}`,
    status: given.status === 'pass' || given.status === 'fail' ? given.status : undefined,
    workspace_id: set(given.workspace_id),
    credential_id: set(given.credential_id),
    profile_id: set(given.profile_id),
    since: from?.toISOString(),
    until: to === undefined ? undefined : dayAfter(to).toISOString(), // the last day is included
    stale: given.stale ? true : undefined,
  }
}

/** A day of the calendar, in UTC. */
function parseDay(text: string): Date | undefined {
  if (!/^(19|20|21)\d\d-\d\d-\d\d$/.test(text)) return undefined
  const day = new Date(`${text}T00:00:00Z`)
  return !Number.isNaN(day.getTime()) && day.toISOString().startsWith(text) ? day : undefined
}

const dayAfter = (day: Date) => new Date(day.getTime() + 86_400_000)

function parsePosition(text: string): Position | undefined {
  const [, timestamp] = POSITION.exec(text) ?? []
  if (timestamp === undefined) return undefined
  const time = new Date(timestamp)
  const isTime = !Number.isNaN(time.getTime()) && time.toISOString().slice(0, 23) === timestamp.slice(0, 23)
  return isTime ? readPosition(text) : undefined
}

export const isFiltering = (given: Given): boolean => given.stale || TEXTS.some((name) => given[name] !== '')

/** As it stands in an address. */
export function queryOf(given: Partial<Given>): Record<string, string> {
  const texts = TEXTS.flatMap((name) => (given[name] ? [[name, given[name]]] : []))
  return { ...Object.fromEntries(texts), ...(given.stale === true ? { stale: 'yes' } : {}) }
}

/** `/…/audit?trace_id=…` */
export function hrefOf(base: string, query: Record<string, string>): string {
  const search = new URLSearchParams(query).toString()
  return search === '' ? base : `${base}?${search}`
}

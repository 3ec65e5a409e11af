// Structured logs. A line is built from named, harmless fields; nothing of a request is logged as it came. What may not stand
// in a runtime log is kept out here, whoever writes the line: fields that nobody listed, and in texts the ids and addresses
// of people, versions of tokens, and whatever is presented to get in.
import { type Logger, type LoggerOptions, pino } from 'pino'
import type { RequestInfo } from '../audit/service.ts'

/** Without children: what they are bound to would pass by. */
export type Log = Pick<Logger, 'trace' | 'debug' | 'info' | 'warn' | 'error'>

/** All that a line may hold besides its level, time and message. What is to be logged under another name is added here. */
const FIELDS = new Set([
  'trace_id',
  'profile_id',
  'workspace_id',
  'method',
  'route',
  'status',
  'duration_ms',
  'err',
  // of the server itself
  'signal',
  'kind',
  'head',
  'known',
  'months',
])

/** @param destination standard output by default */
export function createLog(level: string, destination?: { write(line: string): void }): Log {
  const options: LoggerOptions = {
    level,
    base: null,
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label) => ({ level: label }), log: allowed },
    hooks: {
      logMethod(given, method) {
        const [first, second] = given as unknown as [unknown, unknown] // whoever calls with more loses that
        const fields = first instanceof Error ? { err: first } : typeof first === 'object' ? first : {}
        const message = typeof first === 'string' ? first : second
        method.apply(this, [fields, typeof message === 'string' ? withoutIdentifiers(message) : ''])
      },
    },
    serializers: { err: describeFailure },
  }
  return destination === undefined ? pino(options) : pino(options, destination)
}

/** Errors are described, and cleaned, when they are written. */
function allowed(fields: Record<string, unknown>): Record<string, unknown> {
  const kept: Record<string, unknown> = {}
  for (const name in fields) {
    if (!FIELDS.has(name)) continue
    const value = fields[name]
    if (typeof value === 'string') kept[name] = withoutIdentifiers(value)
    else if (name === 'err' || typeof value === 'number' || typeof value === 'boolean') kept[name] = value
  }
  return kept
}

/** Wherever they stand: behind an escape or another word, and cut short. */
const BEARER_VALUE = /(?:tid_ws_|td_live_|lk_rt_|lk_at_)[\w-]*|eyJ[\w-]{6,}(?:\.[\w-]*){0,4}/g
const USER_ID = /usr_[0-9a-z]+/g
/** Bounded, here and below, or a long text without one would be looked through again from each of its characters. */
const TOKEN_VERSION = /(token_?version["'\\]{0,8}\s{0,8}[:=]?\s{0,8}["'\\]{0,8})v?\d+/gi
const ADDRESS =
  /[\p{L}\p{N}.!#$&*+=?^_`{|}~'-]{1,64}(?:@|%40)[\p{L}\p{N}-]{1,63}(?:\.[\p{L}\p{N}-]{1,63}){0,8}\.\p{L}{2,63}/gu

/** What each of them has: nearly every text of a line has none, and is not looked through four times. */
const SUSPECT = /@|%40|usr_|tid_ws_|td_live_|lk_|eyJ|version/i
const MOST_CHARACTERS = 16_384

/** A text without what tells of a person, of a token's version, or lets anybody in. */
export function withoutIdentifiers(text: string): string {
  if (!SUSPECT.test(text)) return text
  return text
    .slice(0, MOST_CHARACTERS)
    .replace(BEARER_VALUE, '[secret]')
    .replace(USER_ID, '[user]')
    .replace(TOKEN_VERSION, '$1[version]')
    .replace(ADDRESS, '[address]')
}

export interface RequestLine {
  workspaceId?: unknown
  method: string
  /** Its template, never its path or query. */
  route: string
  status: number
  startedAt: number
}

/** One line a request; the workspace where one is known. */
export function logRequest(log: Log, about: RequestInfo, line: RequestLine): void {
  log.info(
    {
      trace_id: about.traceId,
      profile_id: about.profileId,
      workspace_id: line.workspaceId,
      method: line.method,
      route: line.route,
      status: line.status,
      duration_ms: Math.round((performance.now() - line.startedAt) * 10) / 10,
    },
    'request',
  )
}

/** A cause may be its own. */
const MOST_CAUSES = 5

/** Name, message, code and stack, and the same of its cause. Drivers put values into other fields: those stay out. */
export function describeFailure(error: unknown): Record<string, unknown> {
  return describeWithCauses(error, MOST_CAUSES)
}

function describeWithCauses(error: unknown, most: number): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: typeof error }
  const code: unknown = Reflect.get(error, 'code')
  return {
    name: withoutIdentifiers(error.name),
    message: withoutIdentifiers(error.message),
    ...(typeof code === 'string' ? { code: withoutIdentifiers(code) } : {}),
    stack: withoutIdentifiers(error.stack ?? ''),
    ...(error.cause === undefined || most === 0 ? {} : { cause: describeWithCauses(error.cause, most - 1) }),
  }
}

// Structured logs. A line is built from named, harmless fields; nothing of a request is logged as it came.
import { type Logger, pino } from 'pino'
import type { RequestInfo } from '../audit/service.ts'

export type Log = Logger

/** @param destination standard output by default */
export function createLog(level: string, destination?: { write(line: string): void }): Log {
  const options = {
    level,
    base: null,
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label: string) => ({ level: label }) },
    serializers: { err: describeFailure },
  }
  return destination === undefined ? pino(options) : pino(options, destination)
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

/** Name, message, code and stack, and the same of its cause. Drivers put values into other fields: those stay out. */
export function describeFailure(error: unknown): Record<string, unknown> {
  if (!(error instanceof Error)) return { message: typeof error }
  const code: unknown = Reflect.get(error, 'code')
  return {
    name: error.name,
    message: error.message,
    ...(typeof code === 'string' ? { code } : {}),
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: describeFailure(error.cause) }),
  }
}

// The trace id: taken from the caller where it is well formed, else made; on every answer, line and audit record.
import { randomUUID } from 'node:crypto'
import type { Context } from 'koa'
import type { RequestInfo } from '../audit/service.ts'
import { withoutBearerValues } from '../crypto/token-value.ts'

const TRACE_ID = /^[A-Za-z0-9._:-]{1,128}$/
/** W3C Trace Context §3.2: version, trace id, parent id, flags. */
const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/

/** A credential that was put there by mistake would be logged, answered and recorded. */
export function isTraceId(text: string): boolean {
  return TRACE_ID.test(text) && withoutBearerValues(text) === text
}

export function traceIdOf(header: (name: string) => string): string {
  return givenTraceId(header) ?? newTraceId()
}

/** The caller's own; undefined where none came, or none that is well formed. */
export function givenTraceId(header: (name: string) => string): string | undefined {
  const given = header('x-trace-id')
  if (isTraceId(given)) return given
  const [, parent] = TRACEPARENT.exec(header('traceparent')) ?? []
  return parent !== undefined && !/^0+$/.test(parent) ? parent : undefined
}

/** Random bytes drawn one request at a time cost more than the rest of this file; a UUID's are drawn many at a time. */
function newTraceId(): string {
  return randomUUID().replaceAll('-', '')
}

/** What logs, errors and the audit log say about a request. Made once, before anything else. */
export function describeRequest(header: (name: string) => string, address: string): RequestInfo {
  const profileId = header('x-profile-id')
  return {
    traceId: traceIdOf(header),
    address,
    ...(isTraceId(profileId) ? { profileId } : {}),
  }
}

export function requestInfo(ctx: Context): RequestInfo {
  return ctx.state.request as RequestInfo // set by the first middleware
}

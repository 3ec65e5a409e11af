// The trace id: taken from the caller where it is well formed, else made; on every answer, line and audit record.
import { randomBytes } from 'node:crypto'
import type { Context } from 'koa'
import type { RequestInfo } from '../audit/service.ts'

const TRACE_ID = /^[A-Za-z0-9._:-]{1,128}$/
/** W3C Trace Context §3.2: version, trace id, parent id, flags. */
const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}/

export function traceIdOf(header: (name: string) => string): string {
  const given = header('x-trace-id')
  if (TRACE_ID.test(given)) return given
  const [, parent] = TRACEPARENT.exec(header('traceparent')) ?? []
  return parent !== undefined && !/^0+$/.test(parent) ? parent : randomBytes(16).toString('hex')
}

/** What logs, errors and the audit log say about a request. Made once, by the first middleware. */
export function describeRequest(ctx: Context): RequestInfo {
  const profileId = ctx.get('x-profile-id')
  return {
    traceId: traceIdOf((name) => ctx.get(name)),
    address: ctx.ip,
    ...(TRACE_ID.test(profileId) ? { profileId } : {}),
  }
}

export function requestInfo(ctx: Context): RequestInfo {
  return ctx.state.request as RequestInfo // set by the first middleware
}

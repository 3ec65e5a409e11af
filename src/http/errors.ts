// The one place where a failure becomes an answer: an OAuth error, problem+json, or a page, as the address speaks.
import type { Context, Middleware } from 'koa'
import type { RequestInfo } from '../audit/service.ts'
import { AppError, describeError } from '../errors.ts'
import { isUnavailable, isUnstorableText } from '../store/database.ts'
import { EphemeralUnavailable } from '../store/ephemeral.ts'
import type { Log } from './log.ts'
import { requestInfo } from './trace.ts'

export type AnswerForm = 'oauth' | 'problem' | 'page'

export interface ErrorPages {
  /** Sends a page for this failure; the status is set already. */
  failure(ctx: Context, error: AppError): void
}

/** Failures of stores and of parsers become their code; what nobody expected becomes `server_error`. */
export function toAppError(error: unknown): AppError {
  if (error instanceof AppError) return error
  if (error instanceof EphemeralUnavailable || isUnavailable(error))
    return new AppError('unavailable', { cause: error })
  if (isUnstorableText(error)) return new AppError('invalid_request', { cause: error })
  return new AppError('server_error', { cause: error })
}

export function catchErrors(deps: { log: Log; pages: ErrorPages; formOf: (ctx: Context) => AnswerForm }): Middleware {
  return async (ctx, next) => {
    try {
      await next()
      refuseUnanswered(ctx)
    } catch (caught) {
      const error = toAppError(caught)
      logFailure(deps.log, requestInfo(ctx), error)
      clearAnswer(ctx)
      answer(ctx, error, deps.formOf(ctx), deps.pages)
    }
  }
}

/** A router that finds no route says so by a status alone. */
function refuseUnanswered(ctx: Context): void {
  if (ctx.body !== undefined && ctx.body !== null) return
  if (ctx.status === 404) throw new AppError('not_found')
  if (ctx.status === 405 || ctx.status === 501)
    throw new AppError('method_not_allowed', { allow: ctx.response.get('Allow').split(', ') })
}

export function logFailure(log: Log, { traceId }: RequestInfo, error: AppError): void {
  if (error.status < 500) return
  const fields = { trace_id: traceId, err: error.cause ?? error }
  if (error.code === 'unavailable') log.warn(fields, 'unavailable')
  else log.error(fields, 'server error')
}

/** Nothing of a half-made answer may go out with the error: no cookie, no location. */
function clearAnswer(ctx: Context): void {
  for (const name of ['Set-Cookie', 'Location', 'Content-Type', 'Content-Length', 'ETag', 'Last-Modified'])
    ctx.remove(name)
}

function answer(ctx: Context, error: AppError, form: AnswerForm, pages: ErrorPages): void {
  ctx.status = error.status
  ctx.set(failureHeaders(error))
  if (form === 'page') {
    pages.failure(ctx, error)
  } else if (form === 'oauth') {
    ctx.body = oauthError(error)
  } else {
    ctx.body = JSON.stringify(problem(error, requestInfo(ctx).traceId))
    ctx.type = 'application/problem+json'
  }
}

export function failureHeaders({ retryAfterSeconds, allow }: AppError): Record<string, string> {
  return {
    'Cache-Control': 'no-store',
    ...(retryAfterSeconds === undefined ? {} : { 'Retry-After': String(retryAfterSeconds) }),
    ...(allow === undefined ? {} : { Allow: allow.join(', ') }),
  }
}

/** RFC 6749 §5.2. */
export function oauthError(error: AppError): { error: string; error_description: string } {
  return { error: describeError(error.code).oauth ?? 'invalid_request', error_description: error.detail }
}

/** RFC 9457. */
export function problem(error: AppError, traceId: string): Record<string, unknown> {
  return {
    type: 'about:blank',
    title: describeError(error.code).sentence,
    status: error.status,
    code: error.code,
    detail: error.detail,
    trace_id: traceId,
  }
}

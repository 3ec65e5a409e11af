// Forms: read with a limit, and taken from our own pages only.
import { bodyParser } from '@koa/bodyparser'
import type { Context, Middleware } from 'koa'
import { hmac } from '../crypto/keys.ts'
import { equalInConstantTime } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'

/** Parses `application/x-www-form-urlencoded` bodies up to 56 KiB into `ctx.request.body`. */
export const formBody: Middleware = bodyParser({
  enableTypes: ['form'],
  formLimit: '56kb',
  onError: (error) => {
    const status: unknown = Reflect.get(error, 'status')
    throw new AppError(
      status === 413 ? 'payload_too_large' : status === 415 ? 'unsupported_media_type' : 'invalid_request',
    )
  },
})

/** A field's text; '' where it is absent. A field given twice is refused. */
export function field(ctx: Context, name: string): string {
  const body: unknown = ctx.request.body
  const value: unknown =
    typeof body === 'object' && body !== null && Object.hasOwn(body, name) ? Reflect.get(body, name) : ''
  if (typeof value !== 'string')
    throw new AppError('invalid_request', { detail: `The field ${name} must be given once.` })
  return value
}

/** All values of a field, in the order of the form: as many as there are checked boxes of that name. */
export function fields(ctx: Context, name: string): string[] {
  return new URLSearchParams(ctx.request.rawBody).getAll(name)
}

/**
 * Refuses a POST from another site: by Sec-Fetch-Site where the browser sends it, else by Origin. A request with
 * neither is no browser's, or an old one's: the form's own token decides.
 */
export function sameOrigin(issuer: string): Middleware {
  return async (ctx, next) => {
    if (ctx.method === 'POST' && isForeign(ctx, issuer)) throw new AppError('forbidden_origin')
    await next()
  }
}

export function isForeign(ctx: Context, issuer: string): boolean {
  const site = ctx.get('sec-fetch-site')
  const origin = ctx.get('origin')
  return site !== '' ? site !== 'same-origin' : origin !== '' && origin !== issuer
}

/** Tokens that a form carries back: bound to what the form is for. */
export interface FormTokens {
  issue(purpose: string): string
  /** Whether what came back is what was issued, in constant time. */
  isIssued(issued: string, given: string): boolean
  /** @throws {AppError} `forbidden_origin` */
  check(ctx: Context, purpose: string): void
}

export function createFormTokens(key: Buffer): FormTokens {
  const issue = (purpose: string) => hmac(key, 'form', purpose)
  return {
    issue,
    isIssued: equalInConstantTime,
    check(ctx, purpose) {
      if (!equalInConstantTime(issue(purpose), field(ctx, 'csrf'))) throw new AppError('forbidden_origin')
    },
  }
}

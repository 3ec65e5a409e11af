// The root page: what this server is, for a person who opened its address.
import type { Middleware } from 'koa'
import { AppError } from '../errors.ts'
import { sendPage } from '../http/security-headers.ts'
import type { Pages } from './pages.ts'

export function createHome(deps: { issuer: string; pages: Pages; tourHref: string | undefined }): Middleware {
  return async (ctx, next) => {
    if (ctx.path !== '/') return next()
    if (ctx.method !== 'GET' && ctx.method !== 'HEAD')
      throw new AppError('method_not_allowed', { allow: ['GET', 'HEAD'] })
    ctx.state.route = '/'
    sendPage(ctx, deps.pages.home({ host: new URL(deps.issuer).host, issuer: deps.issuer, tourHref: deps.tourHref }))
  }
}

// Mounts a @koa/router with its 405s among plain middleware.
import type Router from '@koa/router'
import type { Middleware } from 'koa'
import compose from 'koa-compose'

export function mounted(router: Router): Middleware {
  // The router itself adds what its own context type asks for.
  return compose([router.routes(), router.allowedMethods()] as unknown as Middleware[])
}

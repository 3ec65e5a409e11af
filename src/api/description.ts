// The OpenAPI document, served as it was made at the start.
import type { Middleware } from 'koa'
import { AppError } from '../errors.ts'
import { API_PREFIX } from './router.ts'

const PATH = `${API_PREFIX}/openapi.json`

export function createApiDescription(document: object): Middleware {
  const body = Buffer.from(JSON.stringify(document))
  return async (ctx, next) => {
    if (ctx.path !== PATH) return next()
    if (ctx.method !== 'GET' && ctx.method !== 'HEAD')
      throw new AppError('method_not_allowed', { allow: ['GET', 'HEAD'] })
    ctx.state.route = PATH
    ctx.set({ 'Access-Control-Allow-Origin': '*', 'Cache-Control': 'public, max-age=300' })
    ctx.type = 'application/json'
    ctx.body = body
  }
}

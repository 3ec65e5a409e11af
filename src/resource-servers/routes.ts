// Metadata of our own API as a protected resource (RFC 9728): where its clients get tokens, and which scopes there are.
import type { Middleware } from 'koa'
import { AppError } from '../errors.ts'
import { ownResourceServer } from './rules.ts'

const PATH = '/.well-known/oauth-protected-resource/api'

export function createOwnResourceMetadata(issuer: string): Middleware {
  const own = ownResourceServer(issuer)
  const body = JSON.stringify({
    resource: own.identifier,
    authorization_servers: [issuer],
    scopes_supported: own.scopes.map((scope) => scope.name),
    bearer_methods_supported: ['header'],
    resource_name: 'Latchkey',
  })
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

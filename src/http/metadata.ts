// Discovery and JWKS: the library's own answers, kept and given again from memory. Keys that change come with an application made anew.
import type { Middleware } from 'koa'

const KEPT = new Set(['/jwks', '/.well-known/openid-configuration', '/.well-known/oauth-authorization-server'])
const MAX_AGE_SECONDS = 300

/** They hold no secret and are the same for everyone, so that any origin may read them, and caches may keep them. */
export function createKeptMetadata(): Middleware {
  const bodies = new Map<string, Buffer>()
  return async (ctx, next) => {
    if (!KEPT.has(ctx.path) || (ctx.method !== 'GET' && ctx.method !== 'HEAD')) return next()
    const kept = bodies.get(ctx.path)
    if (kept === undefined) {
      await next()
      if (ctx.status !== 200) return
      bodies.set(ctx.path, Buffer.from(JSON.stringify(ctx.body)))
    } else {
      ctx.body = kept
    }
    ctx.state.route = ctx.path
    ctx.type = ctx.path === '/jwks' ? 'application/jwk-set+json' : 'application/json'
    ctx.remove('Vary')
    ctx.set('Access-Control-Allow-Origin', '*')
    ctx.set('Cache-Control', `public, max-age=${MAX_AGE_SECONDS}`)
  }
}

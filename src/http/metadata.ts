// Discovery and JWKS: the library's own answers, kept and given again from memory. Keys that change come with an application made anew.
import type { Middleware } from 'koa'
import { type Reply, sendReply } from './reply.ts'

const KEPT = new Set(['/jwks', '/.well-known/openid-configuration', '/.well-known/oauth-authorization-server'])
const MAX_AGE_SECONDS = 300

export interface KeptMetadata {
  /** Undefined until it was asked for once. */
  find(path: string): Reply | undefined
  middleware: Middleware
}

/** They hold no secret and are the same for everyone, so that any origin may read them, and caches may keep them. */
export function createKeptMetadata(): KeptMetadata {
  const kept = new Map<string, Reply>()
  return {
    find: (path) => kept.get(path),
    async middleware(ctx, next) {
      if (!KEPT.has(ctx.path) || (ctx.method !== 'GET' && ctx.method !== 'HEAD')) return next()
      let reply = kept.get(ctx.path)
      if (reply === undefined) {
        await next()
        if (ctx.status !== 200) return
        reply = publicDocument(ctx.path, JSON.stringify(ctx.body))
        kept.set(ctx.path, reply)
      }
      ctx.state.route = ctx.path
      ctx.remove('Vary')
      sendReply(ctx, reply)
    },
  }
}

function publicDocument(path: string, body: string): Reply {
  const headers = {
    'Content-Type': path === '/jwks' ? 'application/jwk-set+json' : 'application/json; charset=utf-8',
    'Access-Control-Allow-Origin': '*',
    'Cache-Control': `public, max-age=${MAX_AGE_SECONDS}`,
  }
  return { status: 200, headers, body }
}

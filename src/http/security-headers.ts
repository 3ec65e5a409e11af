// Headers that every answer carries, and the content security policy of pages (OWASP ASVS 3.4).

import type { Context, Middleware } from 'koa'
import helmet from 'koa-helmet'

/** What helmet knows, which is the same for every answer, so that it is asked once. */
export function securityHeaders(secure: boolean): Middleware {
  const headers = fixedSecurityHeaders(secure)
  return (ctx, next) => {
    ctx.set(headers)
    return next()
  }
}

/** The policy for content is ours, because a page says where its forms may lead. */
export function fixedSecurityHeaders(secure: boolean): Readonly<Record<string, string>> {
  const headers: Record<string, string> = {}
  const response = {
    setHeader(name: string, value: string) {
      headers[name] = value
    },
    removeHeader() {},
  }
  const ask = helmet({
    contentSecurityPolicy: false,
    crossOriginEmbedderPolicy: false,
    // no-referrer would turn the Origin header of our own forms into "null"
    referrerPolicy: { policy: 'same-origin' },
    strictTransportSecurity: secure ? { maxAge: 63_072_000, includeSubDomains: false } : false,
    xFrameOptions: { action: 'deny' },
    xPoweredBy: false,
  })
  // It looks at nothing of the request, and has set all of them when it returns.
  void ask({ req: {}, res: response } as unknown as Context, async () => {})
  return headers
}

/**
 * Sets the policy of a page. Browsers hold the redirects that follow a form to `form-action` as well, so a page that
 * leads back to a client names its origin.
 */
export function setContentPolicy(ctx: Context, formTargets: readonly string[] = []): void {
  ctx.set(
    'Content-Security-Policy',
    [
      "default-src 'none'",
      "style-src 'self'",
      "img-src 'self'",
      "script-src 'self'",
      `form-action ${["'self'", ...formTargets].join(' ')}`,
      "frame-ancestors 'none'",
      "base-uri 'none'",
    ].join('; '),
  )
}

/** Html that brings no policy of its own, such as the few words beside a redirect: nobody frames that either. */
export const policyOnAllHtml: Middleware = async (ctx, next) => {
  await next()
  if (ctx.response.is('html') && !ctx.response.get('Content-Security-Policy')) setContentPolicy(ctx)
}

/** A redirect URI as a source of `form-action`: its origin, or its scheme. */
export function formTarget(redirectUri: string): string | undefined {
  const url = URL.parse(redirectUri)
  if (url === null) return undefined
  return url.origin === 'null' ? url.protocol : url.origin
}

/** For pages with anything of a person in them: kept nowhere. */
export function sendPage(ctx: Context, html: string, formTargets: readonly string[] = []): void {
  setContentPolicy(ctx, formTargets)
  ctx.set('Cache-Control', 'no-store')
  ctx.type = 'text/html; charset=utf-8'
  ctx.body = html
}

// The HTTP server around the application: limits, the pinned origin, request log, health, assets, errors.
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from 'node:http'
import Koa, { type Context, type Middleware } from 'koa'
import { AppError } from '../errors.ts'
import type { Assets } from './assets.ts'
import { type AnswerForm, catchErrors, type ErrorPages, logFailure, problem, toAppError } from './errors.ts'
import { sameOrigin } from './forms.ts'
import { type Log, logRequest } from './log.ts'
import type { OriginPin } from './origin.ts'
import { policyOnAllHtml, securityHeaders } from './security-headers.ts'
import { describeRequest, requestInfo, traceIdOf } from './trace.ts'

const MOST_BODY_BYTES = 64 * 1024
const HEADERS_TIMEOUT_MS = 10_000
const REQUEST_TIMEOUT_MS = 20_000

export interface ApplicationDeps {
  log: Log
  issuer: string
  cookieKeys: readonly string[]
  assets: Assets
  pages: ErrorPages
  /** How each address speaks of failures. */
  formOf: (ctx: Context) => AnswerForm
  health: Health
  /** Addresses that limit what they read themselves: what comes there may be long. */
  takesLongBodies: (path: string) => boolean
  /** Rejects while nothing that the database says can be trusted. */
  requireSound: () => Promise<void> | undefined
  /** What answers, in order. */
  routes: readonly Middleware[]
}

export interface Health {
  /** Names of what is not ready; empty when this process can serve. */
  notReady(): Promise<string[]>
}

export function createApplication(deps: ApplicationDeps): Koa {
  const app = new Koa({ proxy: true, keys: [...deps.cookieKeys] }) // the origin pin wrote every forwarded header itself
  app.on('error', reportBrokenAnswer(deps.log))
  app.use(closeAfterUnread)
  app.use(logRequests(deps.log))
  app.use(policyOnAllHtml)
  app.use(catchErrors(deps))
  app.use(securityHeaders(deps.issuer.startsWith('https:')))
  app.use(refuseBadBodies(deps.takesLongBodies))
  app.use(answerHealth(deps.health))
  app.use(serveAssets(deps.assets))
  app.use(sameOriginPages(deps.issuer))
  app.use(refuseUnlessSound(deps.requireSound))
  for (const route of deps.routes) app.use(route)
  return app
}

/**
 * Listens for requests, pins the origin of each, and hands it on.
 *
 * @param challenge what a refused bearer value is told (WWW-Authenticate), also where it is no HTTP
 */
export function createHttpServer(
  pin: OriginPin,
  handler: (request: IncomingMessage, response: ServerResponse) => void,
  challenge: string,
): Server {
  const take = (request: IncomingMessage, response: ServerResponse) => {
    try {
      pin(request)
    } catch (error) {
      return refuseAtTheDoor(request, response, toAppError(error))
    }
    handler(request, response)
  }
  const server = createServer({ headersTimeout: HEADERS_TIMEOUT_MS, requestTimeout: REQUEST_TIMEOUT_MS }, take)
  server.on('checkExpectation', take) // an expectation that nobody knows is no reason to answer without our headers
  server.on('clientError', (error: NodeJS.ErrnoException & { rawPacket?: Buffer }, socket) => {
    if (!socket.writable) return
    const refusal = new AppError(
      presentsBearer(error.rawPacket)
        ? 'unauthorized'
        : error.code === 'HPE_HEADER_OVERFLOW'
          ? 'headers_too_large'
          : 'invalid_request',
    )
    socket.end(inWords(refusal, challenge))
    // Whoever is still sending would otherwise lose the answer to a reset: the rest is read and thrown away for a moment.
    socket.resume()
    setTimeout(() => socket.destroy(), UNREAD_REST_MS).unref()
  })
  return server
}

function refuseAtTheDoor(request: IncomingMessage, response: ServerResponse, error: AppError): void {
  const traceId = traceIdOf((name) => String(request.headers[name] ?? ''))
  response.writeHead(error.status, {
    'Content-Type': 'application/problem+json',
    'Cache-Control': 'no-store',
    'X-Trace-Id': traceId,
    Connection: 'close',
    'X-Content-Type-Options': 'nosniff',
  })
  response.end(JSON.stringify(problem(error, traceId)))
}

/** What an answer left unread of a body is not worth reading: the connection goes with it, and the client is told so. */
const closeAfterUnread: Middleware = async (ctx, next) => {
  await next()
  if (!ctx.req.complete) ctx.set('Connection', 'close')
}

const UNREAD_REST_MS = 1_000

/** What no header can hold, too long, folded or with a control character, is no credential, and is told what every wrong one is. */
const IMPOSSIBLE_BEARER =
  /\nauthorization:[ \t]*bearer(?:[^\r\n]{8000}|[^\r\n]*(?:\n|\r(?!\n)|\r\n[ \t]|(?![\r\n\t])\p{Cc}))/iu

function presentsBearer(packet: Buffer | undefined): boolean {
  return packet !== undefined && IMPOSSIBLE_BEARER.test(packet.toString('latin1'))
}

/** What is no HTTP, or too long to be read, has no request to answer: the words go straight into the socket. */
function inWords(error: AppError, challenge: string): string {
  const traceId = traceIdOf(() => '')
  const body = JSON.stringify(problem(error, traceId))
  return [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}`,
    'Connection: close',
    'Cache-Control: no-store',
    'Content-Type: application/problem+json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...(error.code === 'unauthorized' ? [`WWW-Authenticate: ${challenge}`] : []),
    `X-Trace-Id: ${traceId}`,
    '',
    body,
  ].join('\r\n')
}

function logRequests(log: Log): Middleware {
  return async (ctx, next) => {
    const request = describeRequest((name) => ctx.get(name), ctx.ip)
    ctx.state.request = request
    ctx.set('X-Trace-Id', request.traceId)
    const startedAt = performance.now()
    await next()
    const { method, status } = ctx
    const { workspaceId } = ctx.state
    logRequest(log, request, { workspaceId, method, route: routeTemplate(ctx), status, startedAt })
  }
}

/** A body that fails on its way has been answered with a status already: all that is left is to say so in the log. */
function reportBrokenAnswer(log: Log): (error: unknown, ctx?: Context) => void {
  const reported = new WeakSet<Context>()
  return (error, ctx) => {
    if (ctx === undefined || reported.has(ctx) || isHungUp(error)) return
    reported.add(ctx) // the stream tells of it, and so does the answer that it breaks
    logFailure(log, requestInfo(ctx), toAppError(error))
  }
}

/** Whoever asked has gone away, or sent no HTTP to the end: no failure of ours. */
function isHungUp(error: unknown): boolean {
  const code: unknown = error instanceof Error ? Reflect.get(error, 'code') : undefined
  return typeof code === 'string' && (HUNG_UP.has(code) || code.startsWith('HPE_'))
}

const HUNG_UP = new Set(['ERR_STREAM_PREMATURE_CLOSE', 'ECONNRESET', 'EPIPE', 'ERR_STREAM_DESTROYED'])

function routeTemplate(ctx: Context): string {
  const matched: unknown = ctx._matchedRoute ?? ctx.state.route
  return typeof matched === 'string' ? matched : 'none'
}

function refuseBadBodies(takesLongBodies: (path: string) => boolean): Middleware {
  return async (ctx, next) => {
    const isTooLong = (ctx.request.length ?? 0) > MOST_BODY_BYTES && !takesLongBodies(ctx.path)
    if (isTooLong) throw new AppError('payload_too_large')
    const encoding = ctx.get('content-encoding')
    if (encoding !== '' && encoding !== 'identity') {
      throw new AppError('unsupported_media_type', { detail: 'The request body must not be compressed.' })
    }
    await next()
  }
}

function answerHealth(health: Health): Middleware {
  return async (ctx, next) => {
    if (ctx.path !== '/healthz' && ctx.path !== '/readyz') return next()
    if (ctx.method !== 'GET' && ctx.method !== 'HEAD')
      throw new AppError('method_not_allowed', { allow: ['GET', 'HEAD'] })
    ctx.state.route = ctx.path
    ctx.set('Cache-Control', 'no-store')
    const notReady = ctx.path === '/readyz' ? await health.notReady() : []
    ctx.status = notReady.length === 0 ? 200 : 503
    if (notReady.length > 0) ctx.set('Retry-After', '1')
    ctx.body = notReady.length === 0 ? { status: 'ok' } : { status: 'not_ready', waiting_for: notReady }
  }
}

function serveAssets(assets: Assets): Middleware {
  return async (ctx, next) => {
    const asset = assets.find(ctx.path)
    if (asset === undefined) return next()
    if (ctx.method !== 'GET' && ctx.method !== 'HEAD')
      throw new AppError('method_not_allowed', { allow: ['GET', 'HEAD'] })
    ctx.state.route = '/assets/:name'
    ctx.set('Cache-Control', 'public, max-age=31536000, immutable') // the name holds the content's hash
    ctx.type = asset.type
    ctx.body = asset.body
  }
}

function refuseUnlessSound(requireSound: () => Promise<void> | undefined): Middleware {
  return async (_ctx, next) => {
    await requireSound()
    await next()
  }
}

/** Machines post with credentials of their own; every other POST is a form of ours. */
const MACHINE_POSTS = new Set([
  '/token',
  '/par',
  '/introspect',
  '/introspect/uses',
  '/revoke',
  '/userinfo',
  '/authorize',
  '/logout',
])

function sameOriginPages(issuer: string): Middleware {
  const guard = sameOrigin(issuer)
  // The JSON API asks a browser for more than that, and nobody else for anything.
  return (ctx, next) => (MACHINE_POSTS.has(ctx.path) || ctx.path.startsWith('/api/') ? next() : guard(ctx, next))
}

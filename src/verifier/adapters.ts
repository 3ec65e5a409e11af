// The verifier in front of a server: koa, express, and whatever takes a fetch-style Request. Typed by shape, so that none
// of them is a dependency.
import type { Access } from './access.ts'
import { VerifierError } from './errors.ts'
import type { Verifier, VerifyOptions } from './verifier.ts'

/** Of Node: every header as often as it was sent. Elsewhere the first of two would count, and at a proxy perhaps the other. */
interface Sent {
  headersDistinct?: Record<string, string[] | undefined>
}

const allOf = (request: Sent | undefined, header: string | undefined) =>
  request?.headersDistinct?.authorization?.join(', ') ?? header

interface KoaContext {
  req?: Sent
  get(name: string): string
  ip: string
  state: Record<string, unknown>
  status: number
  body: unknown
  set(headers: Record<string, string>): void
}

/** Puts who is calling into `ctx.state.access`, or answers the refusal. */
export function koaVerifier(verify: Verifier, options: Pick<VerifyOptions, 'scopes'> = {}) {
  return async (ctx: KoaContext, next: () => Promise<unknown>): Promise<void> => {
    try {
      ctx.state.access = await verify(allOf(ctx.req, ctx.get('authorization')), {
        ...options,
        clientIp: ctx.ip,
        userAgent: ctx.get('user-agent'),
      })
    } catch (error) {
      if (!(error instanceof VerifierError)) throw error
      ctx.status = error.status
      ctx.set({ ...error.headers })
      ctx.body = error.toJSON()
      return
    }
    await next()
  }
}

interface ExpressRequest extends Sent {
  headers: Record<string, string | string[] | undefined>
  ip?: string | undefined
  access?: Access
}

interface ExpressResponse {
  status(code: number): ExpressResponse
  set(headers: Record<string, string>): ExpressResponse
  json(body: unknown): unknown
}

/** Puts who is calling into `request.access`, or answers the refusal. */
export function expressVerifier(verify: Verifier, options: Pick<VerifyOptions, 'scopes'> = {}) {
  return (request: ExpressRequest, response: ExpressResponse, next: (error?: unknown) => void): void => {
    const { authorization, 'user-agent': agent } = request.headers
    const header = Array.isArray(authorization) ? undefined : authorization
    verify(allOf(request, header), {
      ...options,
      clientIp: request.ip,
      userAgent: Array.isArray(agent) ? undefined : agent,
    }).then(
      (access) => {
        request.access = access
        next()
      },
      (error: unknown) => {
        if (!(error instanceof VerifierError)) return next(error)
        response
          .status(error.status)
          .set({ ...error.headers })
          .json(error.toJSON())
      },
    )
  }
}

/**
 * Wraps a fetch-style handler.
 *
 * @param clientIpOf the caller's address, which a Request does not say
 */
export function fetchVerifier<R extends Request>(
  verify: Verifier,
  handler: (request: R, access: Access) => Response | Promise<Response>,
  options: Pick<VerifyOptions, 'scopes'> & { clientIpOf?: (request: R) => string | undefined } = {},
) {
  return async (request: R): Promise<Response> => {
    const { clientIpOf, ...wanted } = options
    try {
      const access = await verify(request.headers.get('authorization'), {
        ...wanted,
        clientIp: clientIpOf?.(request),
        userAgent: request.headers.get('user-agent') ?? undefined,
      })
      return await handler(request, access)
    } catch (error) {
      if (!(error instanceof VerifierError)) throw error
      return Response.json(error.toJSON(), { status: error.status, headers: { ...error.headers } })
    }
  }
}

// The JSON API's frame: for each route, who is calling, whether they may, whether what they sent has the right shape.
import { isUtf8 } from 'node:buffer'
import Router from '@koa/router'
import type { Context, Middleware } from 'koa'
import { z } from 'zod'
import type { RequestInfo } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import { type BodyRoom, createBodyRoom, readBody } from '../http/body.ts'
import { givenTraceId, isTraceId, requestInfo } from '../http/trace.ts'
import type { Repeatable } from '../idempotency/service.ts'
import { excessOf } from '../json/rules.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { findOrganizationReached, findReached } from '../organizations/service.ts'
import { type CredentialKind, hasPermission, KEY_ROLE, type Principal } from '../principals/rules.ts'
import type { Db } from '../store/database.ts'
import type { Standing, Validation } from '../validation/service.ts'
import { createPages } from './pages.ts'
import { bearerChallenge, INVALID_TOKEN, identify, type PrincipalDeps, presentedValue } from './principal.ts'
import type { Call, Reach, Route, Rule } from './route.ts'

export const API_PREFIX = '/api/v1'

export interface ApiDeps extends PrincipalDeps {
  db: Db
  validation: Validation
  /** Signs cursors. */
  cursorKey: Buffer
}

/** @throws {Error} at start for a route whose rule is missing, or does not fit its address */
export function createApiRouter(deps: ApiDeps, routes: readonly Route[]): Router {
  const router = new Router({ prefix: API_PREFIX, sensitive: true })
  const room = createBodyRoom()
  for (const route of routes) {
    assertRule(route)
    router.register(route.path, [route.method], serve({ ...deps, room }, route))
  }
  return router
}

const OBJECT_OF_RULE: Partial<Record<Rule['who'], string>> = {
  workspace: ':workspace_id',
  itself: ':workspace_id',
  organization: ':organization_id',
}

function assertRule(route: Route): void {
  const name = `${route.method} ${route.path}`
  // Typed code always has one; what is built another way must not start either.
  if ((route.rule as Rule | undefined) === undefined) throw new Error(`${name} says not who may call it`)
  const object = OBJECT_OF_RULE[route.rule.who]
  if (object !== undefined && !route.path.includes(object))
    throw new Error(`${name} has no ${object} to let anyone into`)
}

interface Framed extends ApiDeps {
  room: BodyRoom
}

function serve(deps: Framed, route: Route): Middleware {
  return async (ctx) => {
    ctx.set('Cache-Control', 'no-store')
    const answer = await prepare(deps, route, ctx)
      .then((call) => route.handle(call))
      .catch((error: unknown) => challenge(deps, route, ctx, error))
    ctx.status = answer.status
    ctx.body = answer.body ?? null
    if (answer.headers !== undefined) ctx.set({ ...answer.headers }) // after the body, which would set a type of its own
    if (answer.body === undefined) ctx.status = answer.status // an empty body would make it 204 by itself
  }
}

async function prepare(deps: Framed, route: Route, ctx: Context): Promise<Call<never, never, never>> {
  const { rule } = route
  const standing = rule.who === 'presented' ? await present(deps, ctx) : undefined
  const identified =
    rule.who === 'anyone' || rule.who === 'presented'
      ? undefined
      : await identify(deps, ctx, route.keyHeader, (principal) => authorise(deps, rule, principal, ctx))
  const { principal, admitted: reach } = identified ?? {}
  ctx.state.workspaceId =
    reach?.workspace?.id ?? principal?.workspaceId ?? standing?.credential.workspaceId ?? undefined
  if (route.traced === true) requireTrace(ctx)
  const caller = principal?.credentialId ?? principal?.userId ?? ''
  const body = await readInput(
    route,
    ctx,
    route.mostBodyBytes === undefined ? undefined : takerOf(deps.room, ctx, caller),
  )
  const request = standing === undefined ? requestInfo(ctx) : requestWithProfile(ctx)
  const scope = JSON.stringify([route.path, ctx.params, principal?.credentialId ?? principal?.userId])
  const call = {
    params: parse(route.params, ctx.params),
    query: parse(route.query ?? z.strictObject({}), queryOf(ctx)),
    body: parse(route.body, body.value),
    get principal(): Principal {
      if (principal === undefined) throw new AppError('unauthorized')
      return principal
    },
    get reach(): Reach {
      if (reach === undefined) throw new AppError('not_found')
      return reach
    },
    get standing(): Standing {
      if (standing === undefined) throw new AppError('unauthorized')
      return standing
    },
    get by() {
      return { authority: this.principal.authority, request }
    },
    request,
    raw: route.keepsRaw === true ? body.raw : undefined,
    header: (name: string) => ctx.get(name),
    get signal() {
      return signalOf(ctx)
    },
    repeatable: route.repeatable === true ? repeatableOf(ctx, principal, body.text) : undefined,
    pages: createPages(deps.cursorKey, ctx, scope),
  }
  return call as Call<never, never, never> // each part was parsed by the route's own shape
}

/** Judged first, so that a credential that has ended is told and recorded as such, whatever else was sent. */
async function present(deps: ApiDeps, ctx: Context): Promise<Standing> {
  return deps.validation.admit(await presentedValue(deps, ctx), requestWithProfile(ctx))
}

/** The profile may also be a parameter, for who cannot set a header. */
function requestWithProfile(ctx: Context): RequestInfo {
  const profileId = ctx.URL.searchParams.get('profile_id') ?? ''
  return { ...requestInfo(ctx), ...(isTraceId(profileId) ? { profileId } : {}) }
}

/** The answer's connection closes also when it has ended: then nobody looks any more. */
function signalOf(ctx: Context): AbortSignal {
  const controller = new AbortController()
  if (ctx.res.closed) controller.abort()
  else ctx.res.once('close', () => controller.abort())
  return controller.signal
}

function requireTrace(ctx: Context): void {
  if (givenTraceId((name) => ctx.get(name)) !== undefined) return
  throw new AppError('invalid_request', {
    detail: 'Send X-Trace-Id: 1 to 128 of A-Z a-z 0-9 . _ : - (or traceparent). What is recorded is found by it.',
  })
}

// --- Who may ------------------------------------------------------------------------------------------------------------

async function authorise(
  deps: ApiDeps,
  rule: Exclude<Rule, { who: 'presented' }>,
  principal: Principal,
  ctx: Context,
): Promise<Reach | undefined> {
  if (rule.who === 'anyone') return undefined
  const { params } = ctx as { params?: Record<string, string> }
  if (rule.who === 'itself') return reachItself(deps, principal, params?.workspace_id ?? '')
  if (!rule.credentials.includes(principal.kind))
    throw new AppError('wrong_credential', { detail: `This call takes ${namesOf(rule.credentials)}.` })
  const reach =
    rule.who === 'workspace'
      ? await reachWorkspace(deps, principal, params?.workspace_id ?? '')
      : rule.who === 'organization'
        ? await reachOrganization(deps, principal, params?.organization_id ?? '')
        : undefined
  if (!hasPermission(principal, rule.permission)) {
    throw new AppError('insufficient_scope', { detail: `This call needs the permission ${rule.permission}.` })
  }
  if (reach !== undefined && rule.who !== 'caller' && !isAtLeast(reach.role, rule.role)) {
    throw new AppError('role_too_low', { detail: `This takes the role ${rule.role} or above.` })
  }
  return reach
}

const CREDENTIALS: Record<CredentialKind, string> = {
  organization_key: 'an organization key',
  workspace_token: 'a workspace token',
  access_token: 'an access token',
  session: 'a signed-in browser',
}

function namesOf(kinds: readonly CredentialKind[]): string {
  return new Intl.ListFormat('en', { type: 'disjunction' }).format(kinds.map((kind) => CREDENTIALS[kind]))
}

/** A workspace that the caller does not reach is the same 404 as one that never was. */
async function reachWorkspace(deps: ApiDeps, principal: Principal, id: string): Promise<Reach> {
  const found = await findReached(deps.db, id, principal.userId)
  if (found === undefined) throw new AppError('not_found')
  const { workspace } = found
  if (principal.organizationId !== undefined && principal.organizationId !== workspace.organization_id)
    throw new AppError('not_found')
  if (principal.workspaceId !== undefined && principal.workspaceId !== workspace.id)
    throw new AppError('workspace_mismatch')
  const role = actsForItself(principal) ? KEY_ROLE : found.role
  if (role === undefined) throw new AppError('not_found')
  return { organizationId: workspace.organization_id, workspace, role }
}

async function reachOrganization(deps: ApiDeps, principal: Principal, id: string): Promise<Reach> {
  const found = await findOrganizationReached(deps.db, id, principal.userId)
  if (found === undefined) throw new AppError('not_found')
  if (principal.organizationId !== undefined && principal.organizationId !== found.organization.id)
    throw new AppError('not_found')
  const role = actsForItself(principal) ? KEY_ROLE : found.role
  if (role === undefined) throw new AppError('not_found')
  return { organizationId: found.organization.id, workspace: undefined, role }
}

async function reachItself(deps: ApiDeps, principal: Principal, workspaceId: string): Promise<Reach> {
  if (principal.kind !== 'workspace_token') throw new AppError('wrong_credential')
  return reachWorkspace(deps, principal, workspaceId)
}

/** Keys, and a client's own connection: no person's role counts. */
function actsForItself({ authority }: Principal): boolean {
  return authority.kind === 'key' || (authority.kind === 'connection' && authority.userId === null)
}

/** Says with the refusal what would be let in. */
function challenge(deps: ApiDeps, route: Route, ctx: Context, error: unknown): never {
  const code = error instanceof AppError ? error.code : undefined
  const scope = 'permission' in route.rule ? [`scope="${route.rule.permission}"`] : []
  const parameters =
    code === 'insufficient_scope'
      ? ['error="insufficient_scope"', ...scope]
      : ctx.get('authorization') === ''
        ? []
        : [INVALID_TOKEN]
  if (code === 'unauthorized' || code === 'insufficient_scope')
    ctx.set('WWW-Authenticate', bearerChallenge(deps.issuer, parameters))
  throw error
}

// --- What they sent ------------------------------------------------------------------------------------------------------

const MOST_BODY_BYTES = 56 * 1024

interface Input {
  raw: Buffer
  text: string
  value: unknown
}

const NO_INPUT: Input = { raw: Buffer.alloc(0), text: '', value: undefined }

/** What a call takes of the room it has until its answer has ended. */
function takerOf(room: BodyRoom, ctx: Context, caller: string): (bytes: number) => void {
  let taken = 0
  ctx.res.once('close', () => room.give(caller, taken))
  return (bytes) => {
    if (ctx.res.closed) throw new AppError('unavailable') // nobody gives back what is taken now
    room.take(caller, bytes)
    taken += bytes
  }
}

async function readInput(route: Route, ctx: Context, take?: (bytes: number) => void): Promise<Input> {
  if (route.body === undefined) return NO_INPUT
  const raw = await readBody(ctx, route.mostBodyBytes ?? MOST_BODY_BYTES, take)
  const text = textOf(raw)
  if (text.trim() === '') return { raw, text, value: {} }
  const isJson = ctx.is('json', '+json') !== false
  // What `curl -d` sends unless it is told otherwise. A browser's session needs a token of its own besides.
  const isUnnamedJson = ctx.is('application/x-www-form-urlencoded') !== false && /^\s*[{[]/.test(text)
  if (!isJson && !isUnnamedJson) {
    throw new AppError('unsupported_media_type', {
      detail: 'The body must be JSON, with Content-Type: application/json.',
    })
  }
  const excess = excessOf(raw)
  if (excess === 'deep') throw new AppError('invalid_request', { detail: 'The body is nested too deep.' })
  if (excess === 'many') throw new AppError('payload_too_large', { detail: 'The body has too many members.' })
  try {
    return { raw, text, value: JSON.parse(text) }
  } catch {
    throw new AppError('invalid_request', { detail: 'The body is not JSON.' })
  }
}

/** @throws {AppError} `invalid_request` for what is not UTF-8 (RFC 8259 §8.1): repaired, it would be another text */
function textOf(body: Buffer): string {
  if (!isUtf8(body)) throw new AppError('invalid_request', { detail: 'The body is not UTF-8.' })
  return body.toString('utf8')
}

function queryOf(ctx: Context): Record<string, string> {
  const query: Record<string, string> = {}
  for (const [name, value] of ctx.URL.searchParams) {
    if (Object.hasOwn(query, name)) throw new AppError('invalid_request', { detail: 'A parameter is given twice.' })
    Object.defineProperty(query, name, { value, enumerable: true }) // also where the name is __proto__
  }
  return query
}

/** @throws {AppError} `invalid_request` naming the fields; what was sent is not repeated */
function parse(shape: z.ZodType | undefined, value: unknown): unknown {
  if (shape === undefined) return {}
  const read = shape.safeParse(value)
  if (read.success) return read.data
  const problems = read.error.issues.slice(0, 5).map((issue) => {
    const where = issue.path.map(String).join('.').slice(0, 100)
    return where === '' ? issue.message.slice(0, 200) : `${where}: ${issue.message.slice(0, 200)}`
  })
  throw new AppError('invalid_request', { detail: `${problems.join('. ')}.` })
}

function repeatableOf(ctx: Context, principal: Principal | undefined, text: string): Repeatable | undefined {
  const key = ctx.get('idempotency-key')
  if (key === '' || principal === undefined) return undefined
  if (!/^[\x20-\x7e]{1,255}$/.test(key)) {
    throw new AppError('invalid_request', { detail: 'The Idempotency-Key must be 1 to 255 printable characters.' })
  }
  const scope = principal.credentialId ?? principal.userId ?? ''
  return { scope, key, request: `${ctx.method} ${ctx.path.replace(/\/$/, '')}\n${text}` }
}

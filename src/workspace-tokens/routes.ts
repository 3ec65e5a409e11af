// Workspace tokens and organization keys over the JSON API, and the endpoint for values that leaked.
import { z } from 'zod'
import {
  ABOVE_WORKSPACES,
  ANY_CREDENTIAL,
  type Call,
  type Reach,
  type Route,
  route,
  workspaceOf,
} from '../api/route.ts'
import { AppError } from '../errors.ts'
import type { Tokens } from '../oauth/tokens.ts'
import { organizationParams, workspaceParams } from '../organizations/schemas.ts'
import type { Owner } from '../principals/service.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import type { Db } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import * as shapes from './schemas.ts'
import * as service from './service.ts'
import type { ListOptions, Place } from './store.ts'

export interface TokenRoutesDeps {
  db: Db
  ephemeral: EphemeralStore
  revocations: RevocationList
  resourceServers: ResourceServers
  tokens: Pick<Tokens, 'revokeLeaked'>
}

const NO_CONTENT = { 204: { description: 'From now on no node accepts it' } }
/** What the Link header leads beyond. */
const MOST_TOKENS_A_PAGE = 1_000
const ISSUED = 'With the value, this once'
const REPEATED = 'The same Idempotency-Key made it before: the value was shown then'

/** Where a route's tokens live: a workspace, or the organization itself. */
interface Kind {
  /** The beginning of the address. */
  base: string
  tag: string
  noun: string
  idPrefix: string
  read: Route['rule']
  manage: Route['rule']
  shape: z.ZodType
  detail: z.ZodType
  issued: z.ZodType
  ownerOf(params: Record<string, string>): Owner
}

const WORKSPACE_TOKENS: Kind = {
  base: '/workspaces/:workspace_id/api-keys',
  tag: 'Workspace tokens',
  noun: 'token',
  idPrefix: '',
  read: { who: 'workspace', permission: 'read', role: 'member', credentials: ANY_CREDENTIAL },
  manage: { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL },
  shape: shapes.tokenShape,
  detail: shapes.tokenDetailShape,
  issued: shapes.issuedTokenShape,
  ownerOf: (params) => ({ workspaceId: params.workspace_id ?? '' }),
}

const ORGANIZATION_KEYS: Kind = {
  base: '/organizations/:organization_id/api-keys',
  tag: 'Organization keys',
  noun: 'organization key',
  idPrefix: 'Organization',
  read: { who: 'organization', permission: 'read', role: 'admin', credentials: ABOVE_WORKSPACES },
  manage: { who: 'organization', permission: 'manage', role: 'admin', credentials: ABOVE_WORKSPACES },
  shape: shapes.organizationKeyShape,
  detail: shapes.organizationKeyDetailShape,
  issued: shapes.issuedOrganizationKeyShape,
  ownerOf: (params) => ({ organizationId: params.organization_id ?? '' }),
}

export function tokenRoutes(deps: TokenRoutesDeps): Route[] {
  return [
    ...itself(deps), // before `:key_id`
    createWorkspaceToken(deps),
    createOrganizationKey(deps),
    ...lifecycle(deps, WORKSPACE_TOKENS),
    ...lifecycle(deps, ORGANIZATION_KEYS),
    ...policy(deps),
    reportLeak(deps),
  ]
}

function createWorkspaceToken(deps: TokenRoutesDeps): Route {
  return route({
    method: 'POST',
    path: WORKSPACE_TOKENS.base,
    operationId: 'createApiKey',
    summary: 'Create a workspace token',
    description: 'A signed-in person needs a sign-in from the last ten minutes.',
    tag: WORKSPACE_TOKENS.tag,
    rule: WORKSPACE_TOKENS.manage,
    params: workspaceParams,
    body: shapes.newToken,
    repeatable: true,
    answers: {
      201: { description: ISSUED, schema: shapes.issuedTokenShape },
      200: { description: REPEATED, schema: shapes.issuedTokenShape },
    },
    async handle({ params, body, by, repeatable }) {
      return answerIssued(
        await service.createToken(deps, {
          owner: { workspaceId: params.workspace_id },
          label: body.label,
          environment: body.environment,
          permissions: body.permissions,
          resources: body.resources ?? null,
          ipAllowList: body.ip_allow_list ?? null,
          expiry: shapes.expiryOf(body),
          repeatable,
          ...by,
        }),
      )
    },
  })
}

function createOrganizationKey(deps: TokenRoutesDeps): Route {
  return route({
    method: 'POST',
    path: ORGANIZATION_KEYS.base,
    operationId: 'createOrganizationKey',
    summary: 'Create an organization key',
    description: 'For provisioning. The first one comes from the command `latchkey organization-key create`.',
    tag: ORGANIZATION_KEYS.tag,
    rule: ORGANIZATION_KEYS.manage,
    params: organizationParams,
    body: shapes.newOrganizationKey,
    repeatable: true,
    answers: {
      201: { description: ISSUED, schema: shapes.issuedOrganizationKeyShape },
      200: { description: REPEATED, schema: shapes.issuedOrganizationKeyShape },
    },
    async handle({ params, body, by, repeatable }) {
      return answerIssued(
        await service.createToken(deps, {
          owner: { organizationId: params.organization_id },
          label: body.label,
          environment: 'production',
          permissions: body.permissions,
          resources: null,
          ipAllowList: body.ip_allow_list ?? null,
          expiry: shapes.expiryOf(body),
          repeatable,
          ...by,
        }),
      )
    },
  })
}

function lifecycle(deps: TokenRoutesDeps, kind: Kind): Route[] {
  const { base, tag, noun } = kind
  const isOfWorkspace = kind === WORKSPACE_TOKENS
  const placeParams = isOfWorkspace ? workspaceParams : organizationParams
  const keyParams = isOfWorkspace ? shapes.tokenParams : shapes.organizationKeyParams
  const versionParams = isOfWorkspace ? shapes.tokenVersionParams : shapes.organizationKeyVersionParams
  const operation = (verb: string, what: string) => `${verb}${kind.idPrefix}${what}`
  const owner = (call: { params: object }) => kind.ownerOf(call.params as Record<string, string>) // texts of the address
  return [
    route({
      method: 'GET',
      path: base,
      operationId: operation('list', 'ApiKeys'),
      summary: `List ${noun}s`,
      description: `A flat array, oldest first, ${MOST_TOKENS_A_PAGE} at most; never a value.`,
      tag,
      rule: kind.read,
      params: placeParams,
      query: shapes.tokenListQuery,
      answers: { 200: { description: 'Without values', schema: z.array(kind.shape) } },
      async handle({ reach, query, pages }) {
        const limit = query.limit ?? MOST_TOKENS_A_PAGE
        const found = await listFiltered(deps.db, placeOf(reach), query, {
          after: pages.after(query.cursor),
          limit: limit + 1,
          withClosed: query.filter === 'all',
        })
        return { status: 200, body: pages.cut(found, limit, ({ line }) => line.id).map(shapes.presentListed) }
      },
    }),
    route({
      method: 'GET',
      path: `${base}/:key_id`,
      operationId: operation('get', 'ApiKey'),
      summary: `Show ${article(noun)} ${noun} with its versions and when each was last used`,
      tag,
      rule: kind.read,
      params: keyParams,
      answers: { 200: { description: 'Without the value', schema: kind.detail } },
      async handle({ reach, params }) {
        const view = await service.getToken(deps.db, placeOf(reach), params.key_id)
        return { status: 200, body: shapes.presentTokenDetail(view) }
      },
    }),
    route({
      method: 'POST',
      path: `${base}/:key_id/rotate`,
      operationId: operation('rotate', 'ApiKey'),
      summary: 'Make the next version; the older one works until the cutover',
      description: 'Two versions work side by side at most. Same id, label and permissions, a new value.',
      tag,
      rule: kind.manage,
      params: keyParams,
      body: shapes.rotation,
      repeatable: true,
      answers: {
        201: { description: ISSUED, schema: kind.issued },
        200: { description: REPEATED, schema: kind.issued },
      },
      async handle(call) {
        return rotate(deps, owner(call), call.params.key_id, call)
      },
    }),
    route({
      method: 'POST',
      path: `${base}/:key_id/cutover`,
      operationId: operation('cutOver', 'ApiKey'),
      summary: 'Retire all versions older than the newest, at once',
      tag,
      rule: kind.manage,
      params: keyParams,
      body: z.strictObject({}),
      answers: { 200: { description: `The ${noun}`, schema: kind.detail } },
      async handle(call) {
        const view = await service.cutOver(deps, { owner: owner(call), id: call.params.key_id, ...call.by })
        return { status: 200, body: shapes.presentTokenDetail(view) }
      },
    }),
    route({
      method: 'POST',
      path: `${base}/:key_id/suspend`,
      operationId: operation('suspend', 'ApiKey'),
      summary: `Suspend ${article(noun)} ${noun}: nothing of it is accepted until it is restored`,
      tag,
      rule: kind.manage,
      params: keyParams,
      body: z.strictObject({}),
      answers: { 200: { description: `The ${noun}`, schema: kind.detail } },
      async handle(call) {
        const asked = { owner: owner(call), id: call.params.key_id, suspended: true, ...call.by }
        return { status: 200, body: shapes.presentTokenDetail(await service.suspendToken(deps, asked)) }
      },
    }),
    route({
      method: 'POST',
      path: `${base}/:key_id/restore`,
      operationId: operation('restore', 'ApiKey'),
      summary: `Restore a suspended ${noun}; JWTs from before stay refused`,
      description:
        'A signed-in person needs a sign-in from the last ten minutes. Not with a credential of the workspace.',
      tag,
      rule: kind.manage,
      params: keyParams,
      body: z.strictObject({}),
      answers: { 200: { description: `The ${noun}`, schema: kind.detail } },
      async handle(call) {
        const asked = { owner: owner(call), id: call.params.key_id, suspended: false, ...call.by }
        return { status: 200, body: shapes.presentTokenDetail(await service.suspendToken(deps, asked)) }
      },
    }),
    route({
      method: 'DELETE',
      path: `${base}/:key_id`,
      operationId: operation('revoke', 'ApiKey'),
      summary: `Revoke ${article(noun)} ${noun}, all its versions and what came from them`,
      tag,
      rule: kind.manage,
      params: keyParams,
      answers: NO_CONTENT,
      async handle(call) {
        await service.revokeToken(deps, { owner: owner(call), id: call.params.key_id, ...call.by })
        return { status: 204 }
      },
    }),
    route({
      method: 'DELETE',
      path: `${base}/:key_id/versions/:version`,
      operationId: operation('revoke', 'ApiKeyVersion'),
      summary: 'Revoke one version; the others go on',
      tag,
      rule: kind.manage,
      params: versionParams,
      answers: NO_CONTENT,
      async handle(call) {
        const version = shapes.versionOf(call.params.version)
        if (version === undefined) throw new AppError('not_found')
        await service.revokeVersion(deps, { owner: owner(call), id: call.params.key_id, version, ...call.by })
        return { status: 204 }
      },
    }),
  ]
}

/** For the workflow that holds one: whatever its permissions are. */
function itself(deps: TokenRoutesDeps): Route[] {
  const path = `${WORKSPACE_TOKENS.base}/self`
  const shared = { path, tag: 'The token itself', rule: { who: 'itself' }, params: workspaceParams } as const
  const own = (call: Pick<Call<never, never, never>, 'principal'>) => call.principal.credentialId ?? ''
  return [
    route({
      ...shared,
      method: 'GET',
      operationId: 'getSelf',
      summary: 'Describe the token that is presented',
      answers: { 200: { description: 'Without the value', schema: shapes.tokenDetailShape } },
      async handle(call) {
        const view = await service.getToken(deps.db, placeOf(call.reach), own(call))
        return { status: 200, body: shapes.presentTokenDetail(view) }
      },
    }),
    route({
      ...shared,
      method: 'POST',
      operationId: 'rotateSelf',
      summary: 'Rotate the token that is presented',
      body: shapes.rotation,
      repeatable: true,
      answers: {
        201: { description: ISSUED, schema: shapes.issuedTokenShape },
        200: { description: REPEATED, schema: shapes.issuedTokenShape },
      },
      handle: (call) => rotate(deps, { workspaceId: call.params.workspace_id }, own(call), call),
    }),
    route({
      ...shared,
      method: 'DELETE',
      operationId: 'revokeSelf',
      summary: 'Revoke the token that is presented',
      answers: NO_CONTENT,
      async handle(call) {
        await service.revokeToken(deps, { owner: { workspaceId: call.params.workspace_id }, id: own(call), ...call.by })
        return { status: 204 }
      },
    }),
  ]
}

function policy(deps: TokenRoutesDeps): Route[] {
  const shared = {
    path: '/workspaces/:workspace_id/token-policy',
    tag: WORKSPACE_TOKENS.tag,
    params: workspaceParams,
    answers: { 200: { description: 'The policy', schema: shapes.policyShape } },
  }
  return [
    route({
      ...shared,
      method: 'GET',
      operationId: 'getTokenPolicy',
      summary: 'Show what a workspace allows of tokens',
      rule: WORKSPACE_TOKENS.read,
      async handle({ reach }) {
        return { status: 200, body: shapes.presentPolicy(await service.getPolicy(deps.db, workspaceOf(reach).id)) }
      },
    }),
    route({
      ...shared,
      method: 'PUT',
      operationId: 'setTokenPolicy',
      summary: 'Say what a workspace allows of tokens that are made from now on',
      rule: WORKSPACE_TOKENS.manage,
      body: shapes.policyShape,
      async handle({ params, body, by }) {
        const changed = await service.setPolicy(deps, {
          workspaceId: params.workspace_id,
          policy: shapes.policyOf(body),
          ...by,
        })
        return { status: 200, body: shapes.presentPolicy(changed) }
      },
    }),
  ]
}

const LEAK_WINDOW_SECONDS = 60
const MOST_REPORTS = 30

function reportLeak(deps: TokenRoutesDeps): Route {
  return route({
    method: 'POST',
    path: '/credentials/revoke',
    operationId: 'reportLeak',
    summary: 'Report values that leaked: those that exist are revoked',
    description: 'For anyone who found some, such as a secret scanner. The answer says nothing about them.',
    tag: 'Leaks',
    rule: { who: 'anyone' },
    body: shapes.leaked,
    answers: { 202: { description: 'Whatever of them existed is revoked', schema: shapes.leakReceived } },
    async handle({ body, request }) {
      const { count, resetsInSeconds } = await deps.ephemeral.increment(
        'leak-report',
        request.address ?? 'none',
        LEAK_WINDOW_SECONDS,
      )
      if (count > MOST_REPORTS) throw new AppError('too_many_requests', { retryAfterSeconds: resetsInSeconds })
      for (const value of body.credentials) await deps.tokens.revokeLeaked(value.trim(), request)
      return { status: 202, body: { received: body.credentials.length } }
    },
  })
}

// --- What they share -------------------------------------------------------------------------------------------------------

type Rotating = Pick<Call<unknown, unknown, z.output<typeof shapes.rotation>>, 'body' | 'by' | 'repeatable'>

async function rotate(deps: TokenRoutesDeps, owner: Owner, id: string, call: Rotating) {
  return answerIssued(
    await service.rotateToken(deps, {
      owner,
      id,
      cutover: shapes.cutoverOf(call.body),
      expiry: shapes.expiryOfRotation(call.body),
      repeatable: call.repeatable,
      ...call.by,
    }),
  )
}

function answerIssued(issued: service.IssuedToken) {
  return { status: issued.value === undefined ? 200 : 201, body: shapes.presentIssued(issued) }
}

function placeOf(reach: Reach): Place {
  return { organizationId: reach.organizationId, workspaceId: reach.workspace?.id ?? null }
}

/**
 * A page of what the filter shows: read on until it is full, or there is no more. What a filter leaves out is not in what
 * a query looks at, so that many are read at a time, however small the page is.
 */
async function listFiltered(
  db: Db,
  place: Place,
  query: z.output<typeof shapes.tokenListQuery>,
  options: ListOptions & { limit: number },
): Promise<service.TokenView[]> {
  const found: service.TokenView[] = []
  const isFiltering = query.filter === 'unused' || query.filter === 'expiring' || query.environment !== undefined
  const limit = isFiltering ? MOST_TOKENS_A_PAGE : options.limit
  let { after } = options
  for (;;) {
    const batch = await service.listTokens(db, place, { ...options, after, limit })
    found.push(
      ...batch.filter(
        (view) =>
          shapes.isListed(view, query.filter) &&
          (query.environment === undefined || view.line.environment === query.environment),
      ),
    )
    after = batch.at(-1)?.line.id
    if (batch.length < limit || found.length >= options.limit) return found.slice(0, options.limit)
  }
}

const article = (noun: string) => (/^[aeiou]/.test(noun) ? 'an' : 'a')

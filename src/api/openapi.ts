// The OpenAPI 3.1 document of the JSON API, made from the routes and the very shapes that validate.
import { z } from 'zod'
import { createDocument, type ZodOpenApiOperationObject, type ZodOpenApiPathsObject } from 'zod-openapi'
import type { CredentialKind } from '../principals/rules.ts'
import type { Route, Rule } from './route.ts'
import { API_PREFIX } from './router.ts'

const problemShape = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    code: z.string().meta({ description: 'Stable: what programs decide by' }),
    detail: z.string().meta({ description: 'For people' }),
    trace_id: z.string().meta({ description: 'To ask for help with' }),
  })
  .meta({ id: 'Problem' })

const PROBLEMS: Record<number, string> = {
  400: 'The request is malformed',
  401: 'No valid credential',
  403: 'The credential does not allow this',
  404: 'Nothing there that this caller reaches',
  409: 'It conflicts with what is there',
  413: 'The body is too large',
  415: 'The body is not JSON',
  422: 'The Idempotency-Key was used for another request',
  429: 'Too many tries',
  503: 'Busy; try again',
}

/** Paths as the document writes them: `{workspace_id}`. */
export function documentPath(route: Pick<Route, 'path'>): string {
  return `${API_PREFIX}${route.path.replace(/:(\w+)/g, '{$1}')}`
}

export function createOpenApi(issuer: string, routes: readonly Route[]) {
  const paths: ZodOpenApiPathsObject = {}
  for (const route of routes) {
    const path = documentPath(route)
    paths[path] = { ...paths[path], [route.method.toLowerCase()]: operationOf(route) }
  }
  return createDocument({
    openapi: '3.1.0',
    info: {
      title: 'Latchkey',
      version: '1',
      description: `Workspaces, their members and their tokens. Errors are problem+json (RFC 9457) with a trace_id; every answer has X-Trace-Id. To read: ${issuer}${API_PREFIX}/docs`,
    },
    servers: [{ url: issuer }],
    security: [{ bearer: [] }],
    paths,
    components: {
      securitySchemes: {
        bearer: {
          type: 'http',
          scheme: 'bearer',
          description:
            'An organization key (td_live_…), a workspace token (tid_ws_…), or a JWT for the API of this issuer. A signed-in browser sends its session, and X-CSRF-Token with every change.',
        },
      },
    },
  })
}

function operationOf(route: Route): ZodOpenApiOperationObject {
  const responses: ZodOpenApiOperationObject['responses'] = {}
  for (const [status, answer] of Object.entries(route.answers)) {
    responses[status as '200'] = {
      description: answer.description,
      ...(answer.schema === undefined ? {} : { content: { 'application/json': { schema: answer.schema } } }),
      ...(answer.types === undefined ? {} : { content: Object.fromEntries(answer.types.map((type) => [type, {}])) }),
    }
  }
  for (const status of problemsOf(route)) {
    responses[String(status) as '400'] = {
      description: PROBLEMS[status] ?? '',
      content: { 'application/problem+json': { schema: problemShape } },
    }
  }
  const header = z.object({
    'Idempotency-Key': z
      .string()
      .max(255)
      .optional()
      .meta({ description: 'The same key and body again make nothing new' }),
  })
  const trace = z.object({
    'X-Trace-Id': z.string().max(128).meta({ description: 'Of A-Z a-z 0-9 . _ : - (or W3C traceparent instead)' }),
  })
  const headers = [...(route.repeatable === true ? [header] : []), ...(route.traced === true ? [trace] : [])]
  return {
    operationId: route.operationId,
    summary: route.summary,
    ...(route.description === undefined ? {} : { description: route.description }),
    tags: [route.tag],
    ...(route.rule.who === 'anyone' ? { security: [] } : {}),
    'x-access': accessOf(route.rule),
    requestParams: {
      ...(route.params === undefined ? {} : { path: route.params }),
      ...(route.query === undefined ? {} : { query: route.query }),
      ...(headers.length === 0 ? {} : { header: headers.reduce((all, one) => all.extend(one.shape)) }),
    },
    ...(route.body === undefined ? {} : { requestBody: { content: { 'application/json': { schema: route.body } } } }),
    responses,
  }
}

/** Who may call an operation, for programs and in words. */
export interface Access {
  who: Rule['who']
  credentials: readonly CredentialKind[]
  permission: string | null
  role: string | null
  sentence: string
}

const CREDENTIALS: Record<CredentialKind, string> = {
  organization_key: 'an organization key',
  workspace_token: 'a workspace token',
  access_token: 'a JWT of a connection',
  session: 'a signed-in person',
}

const PRESENTED: readonly CredentialKind[] = ['organization_key', 'workspace_token', 'access_token']

const ALTERNATIVES = new Intl.ListFormat('en-GB', { type: 'disjunction' })

function accessOf(rule: Rule): Access {
  if (rule.who === 'anyone')
    return { who: rule.who, credentials: [], permission: null, role: null, sentence: 'Anyone, without a credential.' }
  if (rule.who === 'itself') {
    const sentence = 'The workspace token that is presented, whatever its permissions.'
    return { who: rule.who, credentials: ['workspace_token'], permission: null, role: null, sentence }
  }
  if (rule.who === 'presented') {
    const carried = PRESENTED.map((kind) => CREDENTIALS[kind])
    const sentence = `Whatever is presented, and whatever its permissions: ${ALTERNATIVES.format(carried)}.`
    return { who: rule.who, credentials: PRESENTED, permission: null, role: null, sentence }
  }
  const { credentials, permission } = rule
  const role = rule.who === 'caller' ? null : rule.role
  const carried = credentials.filter((kind) => kind !== 'session').map((kind) => CREDENTIALS[kind])
  const person = role === null ? CREDENTIALS.session : `${CREDENTIALS.session} with the role ${role} or above`
  const callers = [
    ...(carried.length === 0 ? [] : [`${ALTERNATIVES.format(carried)} with the permission ${permission}`]),
    ...(credentials.includes('session') ? [person] : []),
  ].join('; ')
  const sentence = `${callers.charAt(0).toUpperCase()}${callers.slice(1)}.`
  return { who: rule.who, credentials, permission: carried.length === 0 ? null : permission, role, sentence }
}

function problemsOf(route: Route): number[] {
  const ofBody = route.body === undefined ? [] : [413, 415]
  if (route.rule.who === 'anyone') return [400, ...ofBody, 429, 503]
  if (route.rule.who === 'presented') return [400, 401, 403, 429, 503]
  // A caller without an object in the address may name one in the body.
  const hasObject = route.rule.who !== 'caller' || route.body !== undefined
  const ofChange = route.method === 'GET' ? [] : [409]
  const ofRepeat = route.repeatable === true ? [422] : []
  return [400, 401, 403, ...(hasObject ? [404] : []), ...ofChange, ...ofBody, ...ofRepeat, 503]
}

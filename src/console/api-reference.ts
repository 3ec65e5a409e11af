// The reference of the JSON API, for people to read: made once from the OpenAPI document, so that it says nothing else.
import { Eta } from 'eta'
import type { Middleware } from 'koa'
import type { Access } from '../api/openapi.ts'
import { API_PREFIX } from '../api/router.ts'
import { AppError } from '../errors.ts'
import type { Assets } from '../http/assets.ts'
import { setContentPolicy } from '../http/security-headers.ts'

const PATH = `${API_PREFIX}/docs`

/** As much of JSON Schema as the document uses. */
interface Schema {
  $ref?: string
  type?: string | string[]
  format?: string
  enum?: unknown[]
  const?: unknown
  default?: unknown
  description?: string
  example?: unknown
  examples?: unknown[]
  properties?: Record<string, Schema>
  required?: string[]
  items?: Schema
  anyOf?: Schema[]
  oneOf?: Schema[]
  minimum?: number
  maximum?: number
  minLength?: number
  maxLength?: number
  minItems?: number
  maxItems?: number
}

type Content = Record<string, { schema?: Schema }>

interface Operation {
  operationId: string
  summary: string
  description?: string
  tags?: string[]
  'x-access'?: Access
  parameters?: Array<{ in: string; name: string; required?: boolean; description?: string; schema?: Schema }>
  requestBody?: { content: Content }
  responses: Record<string, { description: string; content?: Content }>
}

/** The OpenAPI document, as far as it is read here. */
export interface ApiDocument {
  info: { description?: string }
  servers?: Array<{ url: string }>
  paths: Record<string, Record<string, Operation>>
  components?: { schemas?: Record<string, Schema>; securitySchemes?: Record<string, { description?: string }> }
}

export interface ApiReferenceDeps {
  /** What `createOpenApi` made. */
  document: object
  viewsDir: string
  assets: Pick<Assets, 'href'>
}

export function createApiReference(deps: ApiReferenceDeps): Middleware {
  const document = deps.document as ApiDocument // of our own making: the parts above are in it
  const eta = new Eta({ views: deps.viewsDir, cache: true })
  const shared = { styles: deps.assets.href('latchkey.css'), icon: deps.assets.href('favicon.svg') }
  const html = eta.render('api-reference', { ...shared, ...referenceView(document) })
  return async (ctx, next) => {
    if (ctx.path !== PATH && ctx.path !== `${PATH}/`) return next()
    if (ctx.method !== 'GET' && ctx.method !== 'HEAD')
      throw new AppError('method_not_allowed', { allow: ['GET', 'HEAD'] })
    ctx.state.route = PATH
    setContentPolicy(ctx)
    ctx.set('Cache-Control', 'public, max-age=300')
    ctx.type = 'text/html; charset=utf-8'
    ctx.body = html
  }
}

/** What the page shows, group by group. */
export function referenceView(document: ApiDocument) {
  const issuer = document.servers?.[0]?.url ?? ''
  const schemas = document.components?.schemas ?? {}
  const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      tag: operation.tags?.[0] ?? 'Other',
      ...operationView({ issuer, path, method: method.toUpperCase(), operation, schemas }),
    })),
  )
  const groups = [...Map.groupBy(operations, ({ tag }) => tag)].map(([tag, members]) => ({
    tag,
    id: `tag-${tag.toLowerCase().replace(/\W+/g, '-')}`,
    operations: members,
  }))
  return {
    issuer,
    host: issuer === '' ? '' : new URL(issuer).host,
    prefix: API_PREFIX,
    credentials: document.components?.securitySchemes?.bearer?.description ?? '',
    groups,
    problems: problemMeanings(document),
    shapes: Object.entries(schemas)
      .filter(([name]) => answered(document, schemas).has(name))
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, schema]) => ({ name, id: shapeId(name), fields: fieldsOf(schema, schemas) })),
  }
}

const shapeId = (name: string) => `shape-${name}`
const nameOf = (ref: string) => ref.split('/').at(-1) ?? ref
const CALL_FIRST = ['201', '200', '202', '204']

interface Named {
  issuer: string
  path: string
  method: string
  operation: Operation
  schemas: Record<string, Schema>
}

function operationView({ issuer, path, method, operation, schemas }: Named) {
  const body = operation.requestBody?.content['application/json']?.schema
  const answers = Object.entries(operation.responses)
  const isGood = ([status]: [string, unknown]) => status.startsWith('2')
  return {
    id: operation.operationId,
    method,
    path,
    parts: path.split(/(?<=\/)/),
    summary: operation.summary,
    description: operation.description,
    access: operation['x-access']?.sentence,
    parameters: (operation.parameters ?? []).map((parameter) => ({
      name: parameter.name,
      where: parameter.in,
      required: parameter.required === true,
      type: typeText(parameter.schema ?? {}),
      meaning: meaningOf({ ...parameter.schema, ...describedBy(parameter.description) }),
    })),
    fields: body === undefined ? [] : fieldsOf(resolve(body, schemas), schemas),
    answers: answers
      .filter(isGood)
      .toSorted(([a], [b]) => CALL_FIRST.indexOf(a) - CALL_FIRST.indexOf(b))
      .map(([status, answer]) => ({ status, text: answer.description, shape: shapeOf(answer.content) })),
    problems: answers.filter((entry) => !isGood(entry)).map(([status]) => status),
    curl: curlOf({ issuer, path, method, operation, schemas }),
  }
}

const describedBy = (description: string | undefined) => (description === undefined ? {} : { description })

function resolve(schema: Schema, schemas: Record<string, Schema>): Schema {
  return schema.$ref === undefined ? schema : (schemas[nameOf(schema.$ref)] ?? {})
}

/** Where the shape of an answer is described, and whether there is a list of it. */
function shapeOf(content: Content | undefined): { name: string; id: string; isList: boolean } | undefined {
  const schema = content?.['application/json']?.schema
  const ref = schema?.$ref ?? schema?.items?.$ref
  if (ref === undefined) return undefined
  return { name: nameOf(ref), id: shapeId(nameOf(ref)), isList: schema?.items !== undefined }
}

/** What each status of a failure means, wherever it is answered. */
function problemMeanings(document: ApiDocument): Array<{ status: string; text: string }> {
  const answers = Object.values(document.paths)
    .flatMap((methods) => Object.values(methods))
    .flatMap(({ responses }) => Object.entries(responses))
    .filter(([status]) => !status.startsWith('2'))
  return [...new Map(answers.map(([status, { description }]) => [status, description]))]
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([status, text]) => ({ status, text }))
}

/** Names of the shapes that answers are made of, and of those inside them. */
function answered(document: ApiDocument, schemas: Record<string, Schema>): Set<string> {
  const found = new Set<string>()
  const visit = (name: string) => {
    if (found.has(name)) return
    found.add(name)
    for (const [, ref] of JSON.stringify(schemas[name] ?? {}).matchAll(/"\$ref":"([^"]+)"/g)) visit(nameOf(ref ?? ''))
  }
  for (const operation of Object.values(document.paths).flatMap((methods) => Object.values(methods))) {
    for (const { content } of Object.values(operation.responses)) {
      for (const { schema } of Object.values(content ?? {})) {
        const ref = schema?.$ref ?? schema?.items?.$ref
        if (ref !== undefined) visit(nameOf(ref))
      }
    }
  }
  return found
}

interface Field {
  name: string
  required: boolean
  type: string
  /** The shape that it is, or that it is a list of. */
  shape: { name: string; id: string } | undefined
  meaning: string
}

/** The members of an object; those of an object inside it under `its.name`. */
function fieldsOf(schema: Schema, schemas: Record<string, Schema>, prefix = ''): Field[] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, member]) => {
    const ref = member.$ref ?? member.items?.$ref
    const inner = [member, ...(member.anyOf ?? [])].find(({ properties }) => properties !== undefined)
    return [
      {
        name: `${prefix}${name}`,
        required: schema.required?.includes(name) === true,
        type: typeText(member),
        shape: ref === undefined ? undefined : { name: nameOf(ref), id: shapeId(nameOf(ref)) },
        meaning: meaningOf(member),
      },
      ...(inner === undefined ? [] : fieldsOf(inner, schemas, `${prefix}${name}.`)),
    ]
  })
}

/** `string`, `list of string`, `integer or null`, `"owner" or "admin"`. */
export function typeText(schema: Schema): string {
  if (schema.$ref !== undefined) return nameOf(schema.$ref)
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join(' or ')
  const either = schema.anyOf ?? schema.oneOf
  if (either !== undefined) return [...new Set(either.map(typeText))].join(' or ')
  if (Array.isArray(schema.type)) return schema.type.map((type) => typeText({ ...schema, type })).join(' or ')
  if (schema.type === 'array') return `list of ${typeText(schema.items ?? {})}`
  if (schema.format === 'date-time') return 'time'
  return schema.type ?? 'anything'
}

/** What a field means, and its limits. */
function meaningOf(schema: Schema): string {
  const inside = schema.anyOf?.find(({ type }) => type !== 'null') ?? schema
  const said = schema.description ?? ''
  const limits = limitsOf(inside)
  const otherwise = schema.default === undefined ? [] : [`default ${JSON.stringify(schema.default)}`]
  const rest = [...limits, ...otherwise].join(', ')
  if (said === '') return rest === '' ? '' : `${rest.charAt(0).toUpperCase()}${rest.slice(1)}.`
  return `${said}${rest === '' ? '' : ` (${rest})`}.`
}

function limitsOf({ minimum, maximum, maxLength, maxItems, items }: Schema): string[] {
  const least = minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER ? minimum : undefined
  const most = maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER ? maximum : undefined
  const number = (value: number) => value.toLocaleString('en')
  return [
    ...(least !== undefined && most !== undefined ? [`${number(least)} to ${number(most)}`] : []),
    ...(least !== undefined && most === undefined ? [`${number(least)} at least`] : []),
    ...(maxLength === undefined ? [] : [`${number(maxLength)} characters at most`]),
    ...(items === undefined || maxItems === undefined ? [] : [`${number(maxItems)} at most`]),
  ]
}

// --- Examples ------------------------------------------------------------------------------------------------------------

const SAMPLE_IDS: Record<string, string> = {
  workspace_id: 'ws_01kw8m5hc0e9v8p2v6kq1jz3fa',
  organization_id: 'org_01kw8m5h7yf2r8q0c4d9t6x1be',
  user_id: 'usr_01kw8m5h3a9qk2t7n4v8x0c6de',
  key_id: 'key_01kw8m5hf2c8w1r5y9b3e7g4hj',
  connection_id: 'con_01kw8m5hd4m6s0z7k2v5q9n8ab',
  invitation_id: 'inv_01kw8m5hg3x5t9w1r6c8d0e2fj',
  review_id: 'rev_01kw8m5hk7p9q1r3s5t7v9w1xz',
  item_id: 'rvi_01kw8m5hm8q0r2s4t6v8w0x2yz',
  record_id: 'aud_01kw8m5hn9r1s3t5v7w9x1y3za',
  reservation_id: 'res_01kw8m5hp0s2t4v6w8x0y2z4ab',
  provider_id: 'prv_01kw8m5hq1t3v5w7x9y1z3a5bc',
  trace_id: 'access-2026-04-05-009',
  version: 'v2',
}

function curlOf({ issuer, path, method, operation, schemas }: Named): string {
  const url = `${issuer}${path.replace(/\{(\w+)\}/g, (all, name: string) => SAMPLE_IDS[name] ?? all)}`
  const body = operation.requestBody?.content['application/json']?.schema
  const takes = (header: string) => operation.parameters?.some(({ name }) => name === header) === true
  const lines = [
    `curl ${method === 'GET' ? '' : `-X ${method} `}${url}`,
    ...credentialLines(operation['x-access'], method),
    ...(takes('Idempotency-Key') ? ['-H "Idempotency-Key: $(uuidgen)"'] : []),
    ...(takes('X-Trace-Id') ? ['-H "X-Trace-Id: $JOB_ID"'] : []),
    ...(body === undefined
      ? []
      : ['-H "Content-Type: application/json"', `-d '${JSON.stringify(exampleOf(resolve(body, schemas), ''))}'`]),
  ]
  return lines.join(' \\\n  ')
}

function credentialLines(access: Access | undefined, method: string): string[] {
  if (access === undefined || access.who === 'anyone') return []
  if (access.credentials.some((kind) => kind !== 'session')) return ['-H "Authorization: Bearer $LATCHKEY_TOKEN"']
  return ['-b "$SESSION_COOKIE"', ...(method === 'GET' ? [] : ['-H "X-CSRF-Token: $CSRF_TOKEN"'])]
}

/** A body that would be taken: what is required, and what has an example. */
function exampleOf(schema: Schema, name: string): unknown {
  const given = schema.example ?? schema.examples?.[0] ?? schema.const ?? schema.enum?.[0] ?? schema.default
  if (given !== undefined) return given
  if (schema.properties !== undefined) {
    const shown = Object.entries(schema.properties).filter(
      ([key, member]) => schema.required?.includes(key) === true || member.example !== undefined,
    )
    return Object.fromEntries(shown.map(([key, member]) => [key, exampleOf(member, key)]))
  }
  const [first] = schema.anyOf ?? schema.oneOf ?? []
  if (first !== undefined) return exampleOf(first, name)
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type
  if (type === 'array') return [exampleOf(schema.items ?? {}, name)]
  if (type === 'boolean') return true
  if (type === 'integer' || type === 'number') return Math.max(schema.minimum ?? 1, 1)
  return SAMPLE_IDS[name] ?? (name === 'credentials' ? 'tid_ws_…' : '…')
}

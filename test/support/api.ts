// The JSON API for tests: an organization with people in every role, a neighbour that must see none of it, and each kind
// of credential that may be presented.
import { randomBytes } from 'node:crypto'
import { expect } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import { createFormTokens } from '../../src/http/forms.ts'
import type { TestServer } from './server.ts'
import { connect, makeClient, PASSWORD, type TestClient } from './world.ts'

/** What a caller shows of itself. */
export interface Credential {
  headers: Record<string, string>
}

export interface Session extends Credential {
  userId: string
  email: string
  cookie: string
  csrf: string
}

export interface Answer {
  status: number
  headers: Headers
  text: string
  /** What JSON there is; tests look at members that they know. */
  body: Body
}

// biome-ignore lint/suspicious/noExplicitAny: what an answer holds is what each test is about
type Body = any

export interface CallOptions {
  body?: unknown
  /** Sent as it is, instead of `body`. */
  raw?: string | Buffer
  headers?: Record<string, string>
}

export const NOBODY: Credential = { headers: {} }
export const bearer = (value: string): Credential => ({ headers: { authorization: `Bearer ${value}` } })

/** Every answer that was read: for tests that look for a value in all of them. */
export type Listener = (answer: Answer, call: { method: string; path: string }) => void
const listeners = new Set<Listener>()
export function listen(listener: Listener): () => void {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** One call below /api/v1. */
export async function call(
  server: { origin: string },
  credential: Credential,
  method: string,
  path: string,
  options: CallOptions = {},
): Promise<Answer> {
  const body = options.raw ?? (options.body === undefined ? undefined : JSON.stringify(options.body))
  const response = await fetch(`${server.origin}/api/v1${path}`, {
    method,
    redirect: 'manual',
    headers: {
      ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
      ...credential.headers,
      ...options.headers,
    },
    ...(body === undefined ? {} : { body: body as RequestInit['body'] & string }), // fetch takes bytes too
  })
  const text = await response.text()
  const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '') && text !== ''
  const answer = { status: response.status, headers: response.headers, text, body: isJson ? JSON.parse(text) : {} }
  for (const listener of listeners) listener(answer, { method, path })
  return answer
}

let people = 0

export async function makePerson(server: TestServer, name = 'Person'): Promise<{ userId: string; email: string }> {
  const email = `person-${++people}-${randomBytes(4).toString('hex')}@example.com`
  const user = await server.run('user create', { email, name, password: PASSWORD })
  return { userId: String(user.id), email }
}

/** A signed-in browser, with the token that its pages carry. */
export async function signInBrowser(server: TestServer, person: { userId: string; email: string }): Promise<Session> {
  const agent = server.userAgent()
  const page = await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', {
    email: person.email,
    password: PASSWORD,
  })
  expect(page.status).toBe(200)
  const cookie = agent
    .cookies()
    .map(({ name, value }) => `${name}=${value}`)
    .join('; ')
  const csrf = createFormTokens(formKey(server)).issue(`session ${(await sessionOf(server, cookie)).payload.uid}`)
  return {
    ...person,
    cookie,
    csrf,
    headers: { cookie, 'x-csrf-token': csrf, origin: server.origin, 'sec-fetch-site': 'same-origin' },
  }
}

function formKey(server: TestServer): Buffer {
  const [found] = server.app.keys.server.forms
  if (found === undefined) throw new Error('there is no key for forms')
  return found.key
}

async function sessionOf(server: TestServer, cookie: string) {
  const value = /(?:^|; )(?:__Host-)?_?[\w-]*session=([^;]+)/.exec(cookie)?.[1] ?? ''
  const id = digestOf(value)
  const found = await server.app.ephemeral.find('Session', id)
  if (found === undefined) throw new Error(`no session in ${cookie.replaceAll(/=[^;]+/g, '')}`)
  return { id, payload: JSON.parse(found.value) as { uid: string; loginTs: number } }
}

/** As if the person had signed in so long ago. */
export async function ageSession(server: TestServer, session: Session, seconds: number): Promise<void> {
  const { id, payload } = await sessionOf(server, session.cookie)
  const value = JSON.stringify({ ...payload, loginTs: payload.loginTs - seconds })
  await server.app.ephemeral.write([{ op: 'put', kind: 'Session', id, value, ttlSeconds: 3_600 }])
}

export interface Place {
  organizationId: string
  workspaceId: string
  otherWorkspaceId: string
  owner: Session
  /** The value of an organization key with every permission. */
  key: string
}

export interface ApiWorld extends Place {
  people: Record<'viewer' | 'member' | 'admin' | 'owner', Session>
  /** In the organization, and in none of its workspaces. */
  outsider: Session
  /** An organization of its own, with nobody in common. */
  neighbour: Place
}

async function makePlace(server: TestServer, name: string): Promise<Place> {
  const person = await makePerson(server, `Owner of ${name}`)
  const organization = await server.run('organization create', { name, owner: person.email })
  const organizationId = String(organization.id)
  const workspace = await server.run('workspace create', {
    organization: organizationId,
    name: 'platform-ai',
    owner: person.email,
  })
  const other = await server.run('workspace create', {
    organization: organizationId,
    name: 'research',
    owner: person.email,
  })
  const key = await server.run('organization-key create', {
    organization: organizationId,
    label: 'provisioning',
    permissions: ['read', 'manage'],
  })
  return {
    organizationId,
    workspaceId: String(workspace.id),
    otherWorkspaceId: String(other.id),
    owner: await signInBrowser(server, person),
    key: String(key.key),
  }
}

export async function makeApiWorld(server: TestServer): Promise<ApiWorld> {
  const place = await makePlace(server, 'Acme')
  const roles = ['viewer', 'member', 'admin'] as const
  const joined = await Promise.all(
    roles.map(async (role) => {
      const person = await makePerson(server, role)
      await server.run('member add', { workspace: place.workspaceId, user: person.email, role })
      return signInBrowser(server, person)
    }),
  )
  const [viewer, member, admin] = joined
  if (viewer === undefined || member === undefined || admin === undefined) throw new Error('a role has nobody')
  const outside = await makePerson(server, 'outsider')
  await server.run('member add', { organization: place.organizationId, user: outside.email, role: 'member' })
  return {
    ...place,
    people: { viewer, member, admin, owner: place.owner },
    outsider: await signInBrowser(server, outside),
    neighbour: await makePlace(server, 'Neighbour'),
  }
}

let labels = 0
export const newLabel = (): string => `token ${++labels}`

export interface MadeToken {
  id: string
  key: string
  [member: string]: unknown
}

/** A workspace token, made with the organization's key. */
export async function makeToken(
  server: TestServer,
  place: Pick<Place, 'workspaceId' | 'key'>,
  input: Record<string, unknown> = {},
): Promise<MadeToken> {
  const created = await call(server, bearer(place.key), 'POST', `/workspaces/${place.workspaceId}/api-keys`, {
    body: { label: newLabel(), permissions: ['read', 'ingest', 'manage'], ...input },
  })
  expect(created.status, created.text).toBe(201)
  return created.body
}

export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
export const ACCESS_TOKEN_TYPE = 'urn:ietf:params:oauth:token-type:access_token'

/** Posts a form to a machine's endpoint; as a client where one is given. */
export async function postForm(
  server: { origin: string },
  path: string,
  parameters: Record<string, string>,
  client?: TestClient,
): Promise<Answer> {
  const response = await fetch(server.origin + path, {
    method: 'POST',
    body: new URLSearchParams(parameters),
    headers:
      client === undefined
        ? {}
        : { authorization: `Basic ${Buffer.from(`${client.id}:${client.secret}`).toString('base64')}` },
  })
  const text = await response.text()
  const answer = { status: response.status, headers: response.headers, text, body: JSON.parse(text) }
  for (const listener of listeners) listener(answer, { method: 'POST', path })
  return answer
}

export function exchange(
  server: { origin: string },
  value: string,
  more: Record<string, string> = {},
  client?: TestClient,
): Promise<Answer> {
  const parameters = {
    grant_type: TOKEN_EXCHANGE,
    subject_token: value,
    subject_token_type: ACCESS_TOKEN_TYPE,
    ...more,
  }
  return postForm(server, '/token', parameters, client)
}

/** A JWT that came from a pasted token. */
export async function exchanged(server: TestServer, value: string): Promise<string> {
  const answer = await exchange(server, value)
  expect(answer.status, answer.text).toBe(200)
  return answer.body.access_token
}

/** A person's connection to our own API, with what came of it. */
export async function connectPerson(
  server: TestServer,
  place: Pick<Place, 'workspaceId'>,
  person: { email: string; userId: string },
  scope: string,
) {
  const client = await makeClient(server)
  const world = { ...place, ...person, organizationId: '', otherWorkspaceId: '', client }
  const more = { resource: `${server.origin}/api`, scope: `openid ${scope}` }
  return { ...(await connect(server, world, { client, more })), client }
}

/** An API that an operator registered, as the client that introspects. */
export async function makeResourceServer(
  server: TestServer,
  identifier: string,
  input: {
    environments?: string[]
    scopes?: Array<{ name: string; least_role: 'owner' | 'admin' | 'member' }>
  } = {},
): Promise<TestClient> {
  const created = await server.run('resource create', {
    identifier,
    environments: input.environments ?? ['production'],
    scopes: (input.scopes ?? [{ name: 'traces:read', least_role: 'member' }]).map((scope) => ({
      ...scope,
      sentence: 'Do something',
    })),
  })
  return { id: String(created.client_id), secret: created.client_secret, redirectUri: '' }
}

export const memberNames = (value: object): string[] => Object.keys(value).sort()

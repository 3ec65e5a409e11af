// What most tests need to be there: a person, an organization with two workspaces, an API, and clients.
import { createHash, randomBytes } from 'node:crypto'
import type { TestServer } from './server.ts'
import type { Page, UserAgent } from './user-agent.ts'

export const PASSWORD = 'correct horse battery staple'
export const API = 'https://api.example.com'
export const CALLBACK = 'https://app.example.com/callback'

export interface TestClient {
  id: string
  secret: string | undefined
  redirectUri: string
}

export interface World {
  email: string
  userId: string
  organizationId: string
  workspaceId: string
  otherWorkspaceId: string
  /** Confidential, with an exact https redirect. */
  client: TestClient
}

export async function makeWorld(server: TestServer): Promise<World> {
  const email = `ada-${randomBytes(4).toString('hex')}@example.com`
  const user = await server.run('user create', { email, name: 'Ada', password: PASSWORD })
  const organization = await server.run('organization create', { name: 'Acme', owner: email })
  const workspace = await server.run('workspace create', {
    organization: organization.id,
    name: 'platform-ai',
    owner: email,
  })
  const other = await server.run('workspace create', { organization: organization.id, name: 'research', owner: email })
  await makeApi(server)
  return {
    email,
    userId: text(user.id),
    organizationId: text(organization.id),
    workspaceId: text(workspace.id),
    otherWorkspaceId: text(other.id),
    client: await makeClient(server),
  }
}

async function makeApi(server: TestServer): Promise<void> {
  if ((await server.app.resourceServers.find(API)) !== undefined) return
  await server.run('resource create', {
    identifier: API,
    environments: ['production'],
    scopes: [
      { name: 'traces:read', sentence: 'See traces', least_role: 'member' },
      { name: 'traces:admin', sentence: 'Delete traces', least_role: 'admin' },
    ],
  })
}

export async function makeClient(server: TestServer, input: Record<string, unknown> = {}): Promise<TestClient> {
  const redirectUri = input.redirect_uris === undefined ? CALLBACK : String([input.redirect_uris].flat()[0] ?? '')
  const created = await server.run('client create', {
    name: 'Tracepad',
    redirect_uris: [redirectUri],
    grant_types: ['authorization_code', 'refresh_token'],
    auth: 'client_secret_basic',
    environment: 'production',
    pkce: true,
    ...input,
  })
  return { id: text(created.client_id), secret: created.client_secret, redirectUri }
}

const MOST_TRIES = 20

export interface Pkce {
  verifier: string
  challenge: string
}

export function makePkce(): Pkce {
  const verifier = randomBytes(32).toString('base64url')
  return { verifier, challenge: createHash('sha256').update(verifier).digest('base64url') }
}

export function authorizationUrl(client: TestClient, pkce: Pkce, more: Record<string, string> = {}): string {
  const query = new URLSearchParams({
    client_id: client.id,
    response_type: 'code',
    redirect_uri: client.redirectUri,
    scope: 'openid traces:read',
    resource: API,
    state: 'st4te',
    code_challenge: pkce.challenge,
    code_challenge_method: 'S256',
    ...more,
  })
  return `/authorize?${query}`
}

export function signIn(agent: UserAgent, page: Page, email: string, password = PASSWORD): Promise<Page> {
  return agent.submit(page, '/sign-in', { email, password })
}

export function approve(agent: UserAgent, page: Page, workspaceId: string): Promise<Page> {
  return agent.submit(page, '/consent', { workspace: workspaceId, answer: 'approve' })
}

/** What a person does with an authorization request: signs in and approves where asked. Ends where that leads. */
export async function walk(
  agent: UserAgent,
  world: World,
  url: string | URL,
  workspaceId = world.workspaceId,
): Promise<Page> {
  let page = await agent.open(url)
  if (page.html.includes('/sign-in"')) page = await signIn(agent, page, world.email)
  if (page.html.includes('/consent"')) page = await approve(agent, page, workspaceId)
  return page
}

/** Signs in, approves, and comes back with a code. Where a page says that the server is busy, begins again. */
export async function obtainCode(
  server: TestServer,
  world: World,
  options: { agent?: UserAgent; client?: TestClient; workspaceId?: string; more?: Record<string, string> } = {},
): Promise<{ code: string; pkce: Pkce; agent: UserAgent; callback: URL }> {
  const agent = options.agent ?? server.userAgent()
  const pkce = makePkce()
  const url = authorizationUrl(options.client ?? world.client, pkce, options.more)
  let page = await walk(agent, world, url, options.workspaceId)
  for (let tries = 1; page.status === 503 && tries < MOST_TRIES; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 250))
    page = await walk(agent, world, url, options.workspaceId)
  }
  const code = page.url.searchParams.get('code')
  if (code === null)
    throw new Error(
      `no code: ${page.status} ${page.url.href.slice(0, 200)} ${/<h1>(.*?)<\/h1>/s.exec(page.html)?.[1] ?? ''}`,
    )
  return { code, pkce, agent, callback: page.url }
}

export interface TokenAnswer {
  status: number
  body: {
    access_token?: string
    refresh_token?: string
    id_token?: string
    error?: string
    scope?: string
    expires_in?: number
    error_description?: string
  }
  headers: Headers
}

/** Posts to a machine endpoint as this client. */
export async function post(
  origin: string,
  path: string,
  client: TestClient,
  parameters: Record<string, string>,
): Promise<TokenAnswer> {
  const headers = new Headers()
  const body = new URLSearchParams(parameters)
  if (client.secret === undefined) body.set('client_id', client.id)
  else headers.set('authorization', `Basic ${Buffer.from(`${client.id}:${client.secret}`).toString('base64')}`)
  const response = await fetch(`${origin}${path}`, { method: 'POST', body, headers })
  return { status: response.status, body: (await response.json()) as TokenAnswer['body'], headers: response.headers }
}

export function redeem(
  origin: string,
  client: TestClient,
  code: string,
  pkce: Pkce,
  more: Record<string, string> = {},
): Promise<TokenAnswer> {
  return post(origin, '/token', client, {
    grant_type: 'authorization_code',
    code,
    redirect_uri: client.redirectUri,
    code_verifier: pkce.verifier,
    ...more,
  })
}

export function refresh(
  origin: string,
  client: TestClient,
  refreshToken: string | undefined,
  more: Record<string, string> = {},
): Promise<TokenAnswer> {
  return post(origin, '/token', client, { grant_type: 'refresh_token', refresh_token: refreshToken ?? '', ...more })
}

/** The whole way to a first set of tokens. */
export async function connect(server: TestServer, world: World, options: Parameters<typeof obtainCode>[2] = {}) {
  const { code, pkce, agent } = await obtainCode(server, world, options)
  const answer = await redeem(server.origin, options.client ?? world.client, code, pkce)
  if (answer.status !== 200) throw new Error(`no tokens: ${JSON.stringify(answer.body)}`)
  return { ...answer.body, agent, code, pkce }
}

function text(value: string | undefined): string {
  if (value === undefined) throw new Error('a command answered without a value that tests need')
  return value
}

// This server: set up once a run through its own command line, copied database by database, signed in to by its own forms.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { appendFileSync, cpSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { ACCOUNTS } from '../constants.ts'
import type { HttpConnection, HttpResponse } from '../http-client.ts'
import { authorizationTarget, CookieJar, isJsonObject, type JsonObject, WrongAnswer } from '../oauth.ts'
import { startServer } from '../server-process.ts'
import { ACCOUNT_PASSWORD, emailOf, REDIRECT_URI, RESOURCE, SCOPE } from '../servers/settings.ts'
import type { Credentials, Session, Site } from '../site.ts'
import type { Database } from '../stores.ts'
import { type Contender, discover, FULL_SCOPE, type RunningServer, type Stage } from './contender.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const MAIN = join(ROOT, 'src', 'main.ts')

/** https, as production asks for: the generator plays the proxy that ends TLS. */
const ISSUER = 'https://id.example'
const PROXY_HEADERS = { host: new URL(ISSUER).host, 'x-forwarded-proto': 'https', 'x-forwarded-for': '127.0.0.1' }
const READY_SECONDS = 30

interface Person {
  readonly email: string
  readonly organizationId: string
  readonly workspaceId: string
}

/** What is in the database that every repetition starts from a copy of. */
export interface Blueprint {
  readonly template: string
  readonly masterKey: string
  readonly client: Credentials
  readonly machine: Credentials
  readonly resourceServer: Credentials
  /** Of the first person's organization: makes the workspace's tokens. */
  readonly organizationKey: string
  readonly people: readonly Person[]
}

function environmentFor(stage: Stage, database: Database, masterKey: string): Record<string, string> {
  return {
    NODE_ENV: 'production',
    HOST: '127.0.0.1',
    PORT: String(stage.port),
    LATCHKEY_ISSUER: ISSUER,
    DATABASE_URL: database.serverUrl,
    DATABASE_MIGRATION_URL: database.ownerUrl,
    LATCHKEY_MASTER_KEY: masterKey,
    LATCHKEY_TRUSTED_PROXIES: '127.0.0.1',
    LATCHKEY_LOG_LEVEL: 'warn',
    LATCHKEY_DATA_DIR: join(stage.directory, 'latchkey'),
    LATCHKEY_SINK: `${sinkOf(stage, database.name)}/`,
    ...(stage.redis === undefined ? {} : { REDIS_URL: stage.redis.url }),
  }
}

/** Each database has its own: a copy that shared one would lack what another copy revoked, and not serve. */
const sinkOf = ({ directory }: Stage, database: string) => join(directory, 'sinks', database)

/** Runs one command of the server's command line; its `--json` answer, or the reason it failed. */
function runCommand(
  environment: Readonly<Record<string, string>>,
  args: readonly string[],
  { logFile, input }: { logFile: string; input?: string },
): Promise<JsonObject> {
  return new Promise((resolve, reject) => {
    const env = { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '', ...environment }
    const name = `latchkey ${args.slice(0, 2).join(' ')}`
    const child = execFile(process.execPath, [MAIN, ...args, '--json'], { cwd: ROOT, env }, (error, stdout, stderr) => {
      appendFileSync(logFile, stderr)
      if (error) return reject(new Error(`${name} failed: ${(stderr || stdout || error.message).trim().slice(0, 600)}`))
      try {
        resolve(readAnswer(stdout))
      } catch {
        reject(new Error(`${name} --json did not print a JSON object: ${stdout.slice(0, 200)}`))
      }
    })
    child.stdin?.end(input ?? '')
  })
}

/** All of the output, or its last line, where a command says something first. */
function readAnswer(stdout: string): JsonObject {
  const text = stdout.trim()
  for (const candidate of [text, text.slice(text.lastIndexOf('\n') + 1)]) {
    try {
      const value: unknown = JSON.parse(candidate)
      if (isJsonObject(value)) return value
    } catch {
      // The next candidate, if there is one.
    }
  }
  throw new Error('no JSON object')
}

/** The first of these members that is there, also one level down (`{"client": {"id": …}}`). */
function member(answer: JsonObject, ...names: readonly string[]): string {
  const places = [answer, ...Object.values(answer).filter(isJsonObject)]
  for (const place of places) {
    for (const name of names) {
      const value = place[name]
      if (typeof value === 'string') return value
    }
  }
  throw new Error(`the command's answer has none of ${names.join(', ')}: it has ${Object.keys(answer).join(', ')}`)
}

function readCredentials(answer: JsonObject): Credentials {
  return {
    clientId: member(answer, 'client_id', 'id'),
    clientSecret: member(answer, 'client_secret', 'secret'),
  }
}

async function setUp(stage: Stage): Promise<Blueprint> {
  if (!stage.postgres) throw new Error('latchkey needs PostgreSQL')
  const database = await stage.postgres.createDatabase()
  const masterKey = randomBytes(32).toString('base64')
  const environment = environmentFor(stage, database, masterKey)
  mkdirSync(sinkOf(stage, database.name), { recursive: true })
  const run = (args: readonly string[], input?: string) =>
    runCommand(environment, args, { logFile: stage.logFile, ...(input === undefined ? {} : { input }) })

  await run(['migrate'])
  const people: Person[] = []
  for (let account = 0; account < ACCOUNTS; account += 1) people.push(await createPerson(run, account))
  const resourceServer = await run([
    ...['resource', 'create', '--identifier', RESOURCE, '--environment', 'production'],
    ...['--scope', `${SCOPE}=Read what is in the workspace`],
  ])
  const basic = ['--auth', 'client_secret_basic']
  const client = await run([
    ...['client', 'create', '--name', 'Integration', '--redirect-uri', REDIRECT_URI],
    ...['--grant', 'authorization_code', '--grant', 'refresh_token', ...basic],
  ])
  const machine = await run([...['client', 'create', '--name', 'Machine', '--grant', 'client_credentials', ...basic]])
  const { clientId } = readCredentials(machine)
  const { organizationId, workspaceId } = people[0] ?? { organizationId: '', workspaceId: '' }
  const grantArguments = ['--workspace', workspaceId, '--scope', SCOPE, '--resource', RESOURCE]
  await run(['client', 'grant', clientId, ...grantArguments])
  const key = ['organization-key', 'create', '--organization', organizationId, '--label', 'Bench']
  const organizationKey = member(await run([...key, '--permission', 'manage', '--permission', 'read']), 'key')
  return {
    template: database.name,
    masterKey,
    client: readCredentials(client),
    machine: readCredentials(machine),
    resourceServer: readCredentials(resourceServer),
    organizationKey,
    people,
  }
}

type Run = (args: readonly string[], input?: string) => Promise<JsonObject>

/** Somebody with an organization and a workspace of their own, so that no two accounts share a row. */
async function createPerson(run: Run, account: number): Promise<Person> {
  const email = emailOf(account)
  const name = ['--name', `Person ${account}`]
  const user = await run(['user', 'create', '--email', email, ...name, '--password-stdin'], `${ACCOUNT_PASSWORD}\n`)
  const owner = ['--owner', member(user, 'user_id', 'id')]
  const organization = await run(['organization', 'create', '--name', `Company ${account}`, ...owner])
  const organizationId = member(organization, 'organization_id', 'id')
  const workspace = ['workspace', 'create', '--organization', organizationId, '--name', `Workspace ${account}`]
  return { email, organizationId, workspaceId: member(await run([...workspace, ...owner]), 'workspace_id', 'id') }
}

/** Until discovery answers: the server says nothing to the runner by itself. */
async function untilReady(port: number, ended: Promise<never>): ReturnType<typeof discover> {
  for (const deadline = Date.now() + READY_SECONDS * 1000; ; ) {
    try {
      const asked = discover('/.well-known/openid-configuration', { port, headers: PROXY_HEADERS })
      return await Promise.race([asked, ended])
    } catch (error) {
      if (Date.now() > deadline) throw error
      await Promise.race([sleep(100), ended])
    }
  }
}

/** The form that asks something, as a browser would send it: hidden fields as they are, ours filled in later. */
function readForm(response: HttpResponse): { action: string | undefined; fields: Record<string, string> } {
  const forms = [...response.body.matchAll(/<form\b[^>]*method="?post"?[^>]*>[\s\S]*?<\/form>/gi)].map(([form]) => form)
  const form = forms.find((candidate) => /name="(?:password|answer)"/.test(candidate)) ?? forms[0]
  if (form === undefined) throw new WrongAnswer('a page without a form', response)
  const fields: Record<string, string> = {}
  for (const [tag] of form.matchAll(/<input\b[^>]*>/gi)) {
    const name = attribute(tag, 'name')
    const type = attribute(tag, 'type') ?? 'text'
    const chosen = !['radio', 'checkbox'].includes(type) || /\schecked\b/i.test(tag)
    if (name !== undefined && chosen && type !== 'submit') fields[name] = attribute(tag, 'value') ?? ''
  }
  return { action: attribute(/<form\b[^>]*>/i.exec(form)?.[0] ?? '', 'action'), fields }
}

function attribute(tag: string, name: string): string | undefined {
  const found = new RegExp(`\\s${name}\\s*=\\s*(?:"([^"]*)"|'([^']*)'|([^\\s>]+))`, 'i').exec(tag)
  return found ? unescapeHtml(found[1] ?? found[2] ?? found[3] ?? '') : undefined
}

function unescapeHtml(text: string): string {
  const named: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }
  return text
    .replaceAll(/&#(?:x([0-9a-f]+)|(\d+));/gi, (_, hex: string | undefined, decimal: string | undefined) =>
      String.fromCodePoint(hex === undefined ? Number(decimal) : Number.parseInt(hex, 16)),
    )
    .replaceAll(/&(amp|lt|gt|quot|apos);/g, (_, name: string) => named[name] ?? '')
}

const MAXIMUM_STEPS = 16

/** As a browser: follows redirects, signs in where asked for a password, approves where asked, until the client is reached. */
async function signIn(site: Omit<Site, 'signIn'>, http: HttpConnection, person: Person): Promise<Session> {
  const jar = new CookieJar()
  const parameters = { workspace: person.workspaceId }
  const query = { scope: FULL_SCOPE, resource: site.resource, state: 'first', ...parameters }
  const challenge = randomBytes(32).toString('base64url')
  let path = authorizationTarget(site, { ...query, code_challenge: challenge })
  let body: string | undefined
  for (let step = 0; step < MAXIMUM_STEPS; step += 1) {
    const headers = { cookie: jar.header, accept: 'text/html', origin: ISSUER }
    const response = await (body === undefined
      ? http.send({ method: 'GET', path, headers })
      : http.send({
          method: 'POST',
          path,
          headers: { ...headers, 'content-type': 'application/x-www-form-urlencoded' },
          body,
        }))
    jar.take(response)
    const location = response.headers.get('location')
    if (location?.startsWith(site.redirectUri)) {
      if (!location.includes('code=')) throw new WrongAnswer('sign-in', response)
      return { cookie: jar.header, parameters }
    }
    if (location !== undefined) {
      path = pathOf(location, path)
      body = undefined
      continue
    }
    if (response.status !== 200) throw new WrongAnswer(`sign-in at ${path}`, response)
    const { action, fields } = readForm(response)
    if (action) path = pathOf(action, path)
    body = String(new URLSearchParams(fillIn(fields, person)))
  }
  throw new Error('sign-in did not end')
}

function fillIn(fields: Readonly<Record<string, string>>, { email, workspaceId }: Person): Record<string, string> {
  return 'password' in fields
    ? { ...fields, email, password: ACCOUNT_PASSWORD }
    : { ...fields, workspace: workspaceId, answer: 'approve' }
}

function pathOf(location: string, base: string): string {
  const { pathname, search } = new URL(location, new URL(base, ISSUER))
  return `${pathname}${search}`
}

/** Over the JSON API, with the organization's key. */
async function makeToken(http: HttpConnection, { organizationKey, people }: Blueprint, label: string): Promise<string> {
  const response = await http.send({
    method: 'POST',
    path: `/api/v1/workspaces/${people[0]?.workspaceId}/api-keys`,
    headers: { authorization: `Bearer ${organizationKey}`, 'content-type': 'application/json' },
    body: JSON.stringify({ label, permissions: [SCOPE], environment: 'production' }),
  })
  const made: unknown = response.status === 201 ? JSON.parse(response.body) : undefined
  if (!isJsonObject(made) || typeof made.key !== 'string') throw new WrongAnswer('a new token', response)
  return made.key
}

export async function prepareLatchkey(stage: Stage): Promise<Blueprint> {
  const made = await setUp(stage)
  await stage.redis?.flush()
  return made
}

/** @param given a database to work on; without one, on a copy of the blueprint's that goes away */
export async function startLatchkey(stage: Stage, blueprint: Blueprint, given?: Database): Promise<RunningServer> {
  if (!stage.postgres) throw new Error('latchkey needs PostgreSQL')
  const { template, masterKey, client, machine, resourceServer, people } = blueprint
  const database = given ?? (await stage.postgres.createDatabase(template))
  // What was begun before the copy was made; not over what a database that is used again has written since.
  cpSync(sinkOf(stage, template), sinkOf(stage, database.name), { recursive: true, force: false })
  const server = startServer({
    script: [MAIN, 'serve'],
    environment: environmentFor(stage, database, masterKey),
    logFile: stage.logFile,
    directory: ROOT,
  })
  const stop = async () => {
    await server.stop()
    if (given === undefined) await stage.postgres?.dropDatabase(database.name)
    await stage.redis?.flush()
  }
  try {
    const paths = await untilReady(stage.port, server.ended)
    const site = {
      port: stage.port,
      headers: PROXY_HEADERS,
      paths,
      client,
      machine,
      introspectors: { opaque: client, jwt: resourceServer, issued: resourceServer },
      pasted: {
        verify: { path: paths.introspect, asker: resourceServer },
        make: (http: HttpConnection, label: string) => makeToken(http, blueprint, label),
      },
      redirectUri: REDIRECT_URI,
      resource: RESOURCE,
      scope: SCOPE,
      // Tokens for an API are JWTs here, and can be revoked.
      issueParameters: { scope: SCOPE, resource: RESOURCE },
    }
    const personOf = (account: number): Person => {
      const person = people[account]
      if (!person) throw new Error(`there is no account ${account}`)
      return person
    }
    return {
      site: { ...site, signIn: (http, account) => signIn(site, http, personOf(account)) },
      usage: server.usage,
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

let blueprint: Blueprint | undefined

export const LATCHKEY: Contender = {
  name: 'latchkey',
  needs: ['postgres', 'redis'],
  refuses: {},
  async prepare(stage) {
    blueprint = await prepareLatchkey(stage)
  },
  start(stage) {
    if (!blueprint) throw new Error('latchkey was not set up')
    return startLatchkey(stage, blueprint)
  },
}

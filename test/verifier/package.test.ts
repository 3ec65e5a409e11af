// The package as a developer gets it: packed, installed with npm into the sample of docs/samples/api, type-checked there,
// and run as a process of its own against a real server.
import { execFileSync, spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { ROOT } from '../../src/app.ts'
import { freePort, startServer, type TestServer } from '../support/server.ts'
import { makeWorld, type World } from '../support/world.ts'

const AUDIENCE = 'https://traces.example.com'
const directory = mkdtempSync(join(tmpdir(), 'latchkey-package-'))
const sample = join(directory, 'sample')
let tarball: string

/** What it prints, or an error that says what it printed. */
function run(command: string, args: string[], cwd: string): string {
  try {
    return execFileSync(command, args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
    throw new Error(`${command} ${args.join(' ')}\n${stdout}${stderr}`)
  }
}

const npmInstall = (...packages: string[]) =>
  run(
    'npm',
    ['install', '--prefer-offline', '--fetch-retries=0', '--ignore-scripts', '--no-audit', '--no-fund', ...packages],
    sample,
  )

beforeAll(() => {
  tarball = run(process.execPath, [join(ROOT, 'scripts/pack-verifier.mjs'), directory], ROOT).trim()
  cpSync(join(ROOT, 'docs/samples/api'), sample, { recursive: true })
  try {
    npmInstall(tarball)
  } catch {
    // No registry and nothing of it kept: the same jose from here.
    const [name = ''] = run(
      'npm',
      ['pack', '--silent', '--pack-destination', directory],
      join(ROOT, 'node_modules/jose'),
    )
      .trim()
      .split('\n')
      .slice(-1)
    npmInstall(tarball, join(directory, name))
  }
})
afterAll(() => rmSync(directory, { recursive: true, force: true }))

describe('the package', () => {
  const files = () =>
    run('tar', ['tzf', tarball], directory)
      .trim()
      .split('\n')
      .map((file) => file.replace(/^package\//, ''))
      .sort()
  const text = (file: string) => readFileSync(join(sample, 'node_modules/latchkey', file), 'utf8')

  it('holds the verifier, its types and its documentation, and nothing else of the server', () => {
    const [documents, code] = [
      files().filter((file) => !file.startsWith('verifier/')),
      files().filter((file) => file.startsWith('verifier/')),
    ]
    expect(documents.filter((file) => file !== 'LICENSE')).toEqual(['README.md', 'package.json'])
    expect(code.length).toBeGreaterThan(10)
    expect(code.every((file) => /^verifier\/[\w-]+\.(js|d\.ts)$/.test(file))).toBe(true)
    const all = code.map((file) => text(file)).join('\n')
    for (const word of ['kysely', 'oidc-provider', 'koa', 'pg', 'ioredis']) expect(all).not.toContain(`'${word}'`)
    expect(text('README.md')).not.toMatch(/\]\(\./) // links into the repository
  })

  it('needs jose, and what Node brings', () => {
    const { dependencies, exports } = JSON.parse(text('package.json'))
    expect(Object.keys(dependencies)).toEqual(['jose'])
    expect(Object.keys(exports)).toEqual(['./verifier', './package.json'])
    const specifiers = files()
      .filter((file) => file.startsWith('verifier/'))
      .flatMap((file) => [...text(file).matchAll(/(?:from|import) ['"]([^'"]+)['"]/g)].map((match) => match[1] ?? ''))
    expect(specifiers.length).toBeGreaterThan(10)
    expect(specifiers.filter((name) => !/^(\.\/[\w-]+\.js|node:\w+|jose)$/.test(name))).toEqual([])
    const installed = Object.keys(JSON.parse(readFileSync(join(sample, 'package-lock.json'), 'utf8')).packages)
    expect(installed.sort()).toEqual(['', 'node_modules/jose', 'node_modules/latchkey'])
  })

  it('has types that a strict compiler takes, and that refuse what is wrong', () => {
    const options = {
      target: 'es2022',
      module: 'nodenext',
      strict: true,
      skipLibCheck: false,
      noUncheckedIndexedAccess: true,
      exactOptionalPropertyTypes: true,
      noEmit: true,
      types: ['node'],
      typeRoots: [join(ROOT, 'node_modules/@types')],
    }
    writeFileSync(join(sample, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, include: ['*.ts'] }))
    writeFileSync(
      join(sample, 'wrong.ts'),
      `import { createVerifier, fetchVerifier } from 'latchkey/verifier'
const options = { issuer: '', audience: '', clientId: '', clientSecret: '' }
const verify = createVerifier({ ...options, environment: ['staging', 'production'] })
export const handler = fetchVerifier(verify, (_request, { scopes }) => new Response([...scopes].join()))
// @ts-expect-error there is no such environment
createVerifier({ ...options, environment: 'prod' })
// @ts-expect-error a promise
verify('').workspaceId
// @ts-expect-error read-only
verify('').then((access) => access.scopes.add('admin'))
`,
    )
    run(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '--project', '.'], sample)
  })
})

describe('the sample', () => {
  let server: TestServer
  let world: World
  let key: string
  let origin: string
  let output = ''
  let child: ReturnType<typeof spawn> | undefined

  beforeAll(async () => {
    server = await startServer()
    world = await makeWorld(server)
    const made = await server.run('organization-key create', {
      organization: world.organizationId,
      label: 'provisioning',
      permissions: ['read', 'manage'],
    })
    key = String(made.key)
    const api = await server.run('resource create', {
      identifier: AUDIENCE,
      environments: ['production', 'staging'],
      scopes: ['read', 'write'].map((verb) => ({ name: `traces:${verb}`, sentence: verb, least_role: 'member' })),
    })
    const port = await freePort()
    origin = `http://127.0.0.1:${port}`
    child = spawn(process.execPath, ['api.ts'], {
      cwd: sample,
      env: {
        PATH: process.env.PATH,
        ISSUER: server.origin,
        AUDIENCE,
        CLIENT_ID: String(api.client_id),
        CLIENT_SECRET: String(api.client_secret),
        PORT: String(port),
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const stream of [child.stdout, child.stderr]) stream?.on('data', (data) => (output += data))
    await vi.waitFor(() => expect(output).toContain(origin), { timeout: 30_000 })
  })
  afterAll(async () => {
    child?.kill('SIGKILL')
    await server?.close()
  })

  async function manage(method: string, path: string, body?: object) {
    const response = await fetch(`${server.origin}/api/v1/workspaces/${world.workspaceId}/api-keys${path}`, {
      method,
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    expect(response.ok).toBe(true)
    const text = await response.text()
    return text === '' ? {} : JSON.parse(text)
  }

  let labels = 0
  const makeToken = (more: object = {}): Promise<{ id: string; key: string }> =>
    manage('POST', '', { label: `token ${++labels}`, permissions: ['traces:read'], ...more })

  async function exchange(token: string): Promise<string> {
    const response = await fetch(`${server.origin}/token`, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
        subject_token: token,
        subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
        resource: AUDIENCE,
      }),
    })
    expect(response.status).toBe(200)
    return (await response.json()).access_token
  }

  /** A sample that is blind for a moment says when to come back. */
  async function ask(token: string | undefined, method = 'GET') {
    for (let left = 20; ; left--) {
      const headers = token === undefined ? undefined : { authorization: `Bearer ${token}` }
      const response = await fetch(origin, { method, ...(headers && { headers }) })
      const answer = {
        status: response.status,
        challenge: response.headers.get('www-authenticate'),
        body: await response.json(),
      }
      if (answer.status !== 503 || left === 0) return answer
      await new Promise((resolve) => setTimeout(resolve, 500))
    }
  }

  it('lets both kinds of credential in, and says whose workspace it is', async () => {
    const token = await makeToken()
    for (const [value, kind] of [
      [token.key, 'workspace_token'],
      [await exchange(token.key), 'jwt'],
    ] as const)
      expect(await ask(value)).toMatchObject({
        status: 200,
        body: { workspace: world.workspaceId, caller: token.id, kind, traces: 0 },
      })
  })

  it('refuses as RFC 6750 says: no token, a bad one, too little scope, another environment', async () => {
    const realm = `Bearer realm="${AUDIENCE}"`
    expect(await ask(undefined)).toMatchObject({ status: 401, challenge: `${realm}, scope="traces:read"` })
    const token = await makeToken()
    const staging = await makeToken({ environment: 'staging' })
    const invalid = { status: 401, challenge: `${realm}, error="invalid_token"`, body: { error: 'invalid_token' } }
    for (const value of ['x', `${token.key}x`, staging.key, await exchange(staging.key)])
      expect(await ask(value)).toEqual(invalid)
    for (const value of [token.key, await exchange(token.key)])
      expect(await ask(value, 'POST')).toEqual({
        status: 403,
        challenge: `${realm}, error="insufficient_scope", scope="traces:write"`,
        body: { error: 'insufficient_scope' },
      })
    const writer = await makeToken({ permissions: ['traces:read', 'traces:write'] })
    expect(await ask(writer.key, 'POST')).toMatchObject({ status: 200 })
  })

  it('refuses what was revoked within a moment, the token and the JWT that came from it', async () => {
    const token = await makeToken()
    const jwt = await exchange(token.key)
    for (const value of [token.key, jwt]) expect(await ask(value)).toMatchObject({ status: 200 })
    await manage('DELETE', `/${token.id}`)
    for (const value of [token.key, jwt])
      await expect.poll(async () => (await ask(value)).status, { timeout: 5_000 }).toBe(401)
  })

  it('ends when it is told to, and has told the last uses', async () => {
    const token = await makeToken()
    for (let use = 0; use < 3; use++) await ask(token.key)
    const ended = new Promise((resolve) => child?.once('exit', (code) => resolve(code)))
    child?.kill('SIGTERM')
    expect(await ended).toBe(0)
    await server.app.uses.flush()
    const shown = await manage('GET', `/${token.id}`)
    expect(shown.versions[0]).toMatchObject({ last_used_address: '127.0.0.1' })
  })
})

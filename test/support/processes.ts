// Real server processes, started as operators start them, on stores that they share; and requests to one of them.
import { type ChildProcess, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { request } from 'node:http'
import { join } from 'node:path'
import { expect, inject } from 'vitest'
import { createApp, ROOT } from '../../src/app.ts'
import { runCommand } from '../../src/cli/commands.ts'
import { readConfig } from '../../src/config.ts'
import { createLog } from '../../src/http/log.ts'
import { openPostgres } from '../../src/store/database.ts'
import { createScratchDatabase, newSink } from './databases.ts'
import { watchedLog, watchOutput } from './log-watch.ts'
import { freePort, type TestServer } from './server.ts'
import { createUserAgent } from './user-agent.ts'
import type { TestClient, TokenAnswer } from './world.ts'

/** Where a request goes: the port of one process, or of a proxy in front of it. */
export interface Target {
  port: number
  issuer: string
}

export interface ServerProcess extends Target {
  /** All it printed. */
  output(): string
  /** Without a warning (SIGKILL). */
  kill(): Promise<void>
  /** As a supervisor stops it (SIGTERM). */
  stop(): Promise<void>
}

export interface ProcessOptions {
  port?: number
  issuer?: string
  databaseUrl: string
  redisUrl?: string | undefined
  masterKey: string
  sink?: string
  environment?: Record<string, string>
}

/** A bound, not a promise: the machine may be busy, and others start beside it. */
const START_MS = 80_000

/** Starts `latchkey serve`; resolves once it is ready. @throws {Error} with what it printed when it ends before */
export async function startProcess(options: ProcessOptions): Promise<ServerProcess> {
  const port = options.port ?? (await freePort())
  const issuer = options.issuer ?? `http://localhost:${port}`
  const child = spawn(process.execPath, [join(ROOT, 'src/main.ts'), 'serve'], {
    env: {
      PATH: process.env.PATH ?? '',
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? '',
      PORT: String(port),
      HOST: '127.0.0.1',
      LATCHKEY_ISSUER: issuer,
      DATABASE_URL: options.databaseUrl,
      ...(options.redisUrl === undefined ? {} : { REDIS_URL: options.redisUrl }),
      LATCHKEY_MASTER_KEY: options.masterKey,
      LATCHKEY_LOG_LEVEL: 'warn',
      LATCHKEY_SINK: options.sink ?? newSink(),
      ...options.environment,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let printed = ''
  for (const stream of [child.stdout, child.stderr]) {
    const look = watchOutput()
    stream.setEncoding('utf8').on('data', (text: string) => {
      printed += text
      look(text)
    })
  }
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const target = { port, issuer }
  const deadline = performance.now() + START_MS
  while ((await statusOf(target, '/healthz')) !== 200) {
    if (hasEnded(child) || performance.now() > deadline) {
      child.kill('SIGKILL')
      throw new Error(`the server did not start: ${printed}`)
    }
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  const end = async (signal: NodeJS.Signals) => {
    if (!hasEnded(child)) child.kill(signal)
    await exited
  }
  return { ...target, output: () => printed, kill: () => end('SIGKILL'), stop: () => end('SIGTERM') }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null
}

async function statusOf(target: Target, path: string): Promise<number | undefined> {
  return (await attempt(send(target, { path })))?.status
}

/** A bound, not a promise: the machine may be busy. */
const READY_MS = 30_000

/** Until it serves: its stores are there, and it knows what is revoked. */
export function untilReady(target: Target): Promise<void> {
  return until(async () => (await statusOf(target, '/readyz')) === 200)
}

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + READY_MS
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not ready within ${READY_MS} ms`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** Two or more processes on the same stores. The first one's address is the issuer's: browsers go there. */
export interface Cluster {
  /** Runs commands, and hands out browsers; it serves nothing itself. */
  server: TestServer
  processes: ServerProcess[]
  databaseUrl: string
  redisUrl: string
  /** The file that all its processes write their revocations to. */
  sink: string
  /** One more process, or one that was killed, again. */
  start(options?: Partial<ProcessOptions>): Promise<ServerProcess>
  close(): Promise<void>
}

export interface ClusterOptions {
  count?: number
  /** The issuer's address, where it is that of a proxy in front of the first process, and that process's own port. */
  issuer?: string
  port?: number
  /** Stores of its own; without them a database is made on those that the tests were given. */
  databaseUrl?: string
  redisUrl?: string
  /** What a process is told instead, by its place: the address of a proxy. */
  databaseUrlOf?: (place: number, url: string) => string
  redisUrlOf?: (place: number, url: string) => string
  environment?: Record<string, string>
}

export async function startCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const scratch = options.databaseUrl === undefined ? await createScratchDatabase() : undefined
  const databaseUrl = options.databaseUrl ?? scratch?.url ?? ''
  const redisUrl = options.redisUrl ?? inject('redisUrl') ?? ''
  const port = options.port ?? (await freePort())
  const issuer = options.issuer ?? `http://localhost:${port}`
  const masterKey = randomBytes(32).toString('base64')
  const sink = newSink()
  const shared = { issuer, masterKey, databaseUrl, redisUrl, sink, environment: options.environment ?? {} }
  const started: ServerProcess[] = []
  const start = async (more: Partial<ProcessOptions> = {}) => {
    const process = await startProcess({ ...shared, ...more })
    started.push(process)
    return process
  }
  const places = Array.from({ length: options.count ?? 2 }, (_, place) => place)
  const processes = await Promise.all(
    places.map((place) =>
      start({
        ...(place === 0 ? { port } : {}),
        databaseUrl: options.databaseUrlOf?.(place, databaseUrl) ?? databaseUrl,
        redisUrl: options.redisUrlOf?.(place, redisUrl) ?? redisUrl,
      }),
    ),
  )
  const operator = await openOperator(shared)
  await Promise.all(processes.map(untilReady))
  await until(() => operator.app.revocations.isLive())
  return {
    server: operator,
    processes,
    databaseUrl,
    redisUrl,
    sink,
    start,
    async close() {
      await Promise.all(started.map((process) => process.kill()))
      await operator.close()
      await scratch?.drop()
    },
  }
}

/** The services without a port, as a command has them. */
async function openOperator(shared: {
  issuer: string
  masterKey: string
  databaseUrl: string
  redisUrl: string
  sink: string
}): Promise<TestServer> {
  const { lines: logLines, ...destination } = watchedLog()
  const opened = openPostgres(shared.databaseUrl, 3, () => {})
  const app = await createApp(
    readConfig({
      LATCHKEY_ISSUER: shared.issuer,
      DATABASE_URL: shared.databaseUrl,
      REDIS_URL: shared.redisUrl,
      LATCHKEY_MASTER_KEY: shared.masterKey,
      LATCHKEY_SINK: shared.sink,
    }),
    opened,
    [Buffer.from(shared.masterKey, 'base64')],
    createLog('warn', destination),
  )
  return {
    origin: shared.issuer,
    app,
    db: app.db,
    logLines,
    // Commands answer with objects of strings, as far as tests read them.
    run: async (command, input) => (await runCommand(app, { command, input })) as Record<string, string>,
    userAgent: () => createUserAgent(shared.issuer),
    async close() {
      await app.close()
      await opened.close()
    },
  }
}

/** Stops the processes, and returns what they logged as a failure of the server's own: their log is complete then. */
export async function failuresOf(cluster: Cluster): Promise<string[]> {
  await Promise.all(cluster.processes.map((process) => process.stop()))
  const lines = cluster.processes.flatMap((process) => process.output().split('\n'))
  expect(lines.join('\n')).toContain('is ready at') // or there was no log to read
  return lines.filter((line) => /"level":"(error|fatal)"|unhandled|^\s+at /i.test(line))
}

// --- Requests ----------------------------------------------------------------------------------------------------

export interface Answer {
  status: number
  headers: Headers
  text: string
  elapsedMs: number
}

const REQUEST_MS = 15_000

/** One request on a connection of its own, to this very port, in the issuer's name. */
export function send(
  target: Target,
  init: { path: string; method?: string; headers?: Record<string, string>; body?: string },
): Promise<Answer> {
  const startedAt = performance.now()
  return new Promise((resolve, reject) => {
    const outgoing = request(
      {
        host: '127.0.0.1',
        port: target.port,
        path: init.path,
        method: init.method ?? 'GET',
        agent: false,
        timeout: REQUEST_MS,
        headers: { ...init.headers, host: new URL(target.issuer).host },
      },
      (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk) => chunks.push(chunk))
        response.on('error', reject)
        response.on('aborted', () => reject(new Error('the answer was cut')))
        response.on('end', () => {
          const headers = new Headers()
          for (const [name, values] of Object.entries(response.headersDistinct))
            for (const value of values ?? []) headers.append(name, value)
          resolve({
            status: response.statusCode ?? 0,
            headers,
            text: Buffer.concat(chunks).toString('utf8'),
            elapsedMs: performance.now() - startedAt,
          })
        })
      },
    )
    outgoing.on('timeout', () =>
      outgoing.destroy(new Error(`no answer to ${init.path} at ${target.port} within ${REQUEST_MS} ms`)),
    )
    outgoing.on('error', reject)
    outgoing.end(init.body)
  })
}

/** Undefined where the connection broke or nobody listened: what a client sees of a process that was killed. */
export async function attempt<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : ''
    if (code === 'ECONNRESET' || code === 'ECONNREFUSED' || code === 'EPIPE') return undefined
    throw error
  }
}

const PATIENCE_MS = 20_000

/**
 * As a client that honours Retry-After: asks again while it hears 503. A server on a busy machine says so now and then.
 *
 * @param isStruck what was to happen to the request has happened: then its answer counts, whatever it is
 */
export async function patiently<T extends { status: number } | undefined>(
  ask: () => Promise<T>,
  isStruck: () => boolean = () => false,
): Promise<T> {
  const until = performance.now() + PATIENCE_MS
  for (;;) {
    const answer = await ask()
    if (answer?.status !== 503 || isStruck() || performance.now() > until) return answer
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
}

export interface TimedTokenAnswer extends TokenAnswer {
  elapsedMs: number
}

/** Posts to a machine endpoint of this process as this client. */
export async function postTo(
  target: Target,
  path: string,
  client: TestClient,
  parameters: Record<string, string>,
  headers: Record<string, string> = {},
): Promise<TimedTokenAnswer> {
  const body = new URLSearchParams(parameters)
  const authorization: Record<string, string> =
    client.secret === undefined
      ? {}
      : { authorization: `Basic ${Buffer.from(`${client.id}:${client.secret}`).toString('base64')}` }
  if (client.secret === undefined) body.set('client_id', client.id)
  const answer = await send(target, {
    path,
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded', ...authorization, ...headers },
    body: body.toString(),
  })
  return { ...answer, body: JSON.parse(answer.text) as TokenAnswer['body'] } // every answer there is JSON
}

export function redeemAt(
  target: Target,
  client: TestClient,
  { code, pkce }: { code: string; pkce: { verifier: string } },
): Promise<TimedTokenAnswer> {
  return postTo(target, '/token', client, {
    grant_type: 'authorization_code',
    code,
    redirect_uri: client.redirectUri,
    code_verifier: pkce.verifier,
  })
}

export function refreshAt(
  target: Target,
  client: TestClient,
  refreshToken: string | undefined,
  headers: Record<string, string> = {},
): Promise<TimedTokenAnswer> {
  return postTo(target, '/token', client, { grant_type: 'refresh_token', refresh_token: refreshToken ?? '' }, headers)
}

/** What introspection says, as this client: `active` and the rest. */
export async function introspectAt(
  target: Target,
  client: TestClient,
  token: string | undefined,
): Promise<{ active?: boolean; scope?: string; token_version?: string }> {
  const answer = await patiently(() => postTo(target, '/introspect', client, { token: token ?? '' }))
  if (answer.status !== 200) throw new Error(`introspection answered ${answer.status}`)
  return answer.body as { active?: boolean } // RFC 7662 §2.2
}

/** The status that the userinfo endpoint answers for an access token. */
export async function userinfoStatus(target: Target, accessToken: string | undefined): Promise<number> {
  const headers = { authorization: `Bearer ${accessToken ?? ''}` }
  return (await send(target, { path: '/userinfo', headers })).status
}

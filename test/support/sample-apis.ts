// APIs of somebody else's, with the verifier: as processes of their own, or here, reaching the server by one of its processes.
import { type ChildProcess, spawn } from 'node:child_process'
import { request } from 'node:http'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { ROOT } from '../../src/app.ts'
import { createVerifier, type Verifier, VerifierError, type VerifierOptions } from '../../src/verifier/index.ts'
import { send, type Target } from './processes.ts'
import { type Outcome, pause, type TokenWorld, type Way } from './token-races.ts'

/** A program that asks the verifier about every request. */
export interface SampleApi extends Target {
  pid: number
  state(): Promise<{ isLive: boolean; heapBytes: number }>
  untilLive(): Promise<void>
  stop(): Promise<void>
}

const START_MS = 20_000

/** @param issuer the server's address, or that of a proxy which has its name */
export async function startSampleApi(world: TokenWorld, issuer: string): Promise<SampleApi> {
  const child = spawn(process.execPath, ['--expose-gc', join(ROOT, 'test/support/sample-api.ts')], {
    env: {
      PATH: process.env.PATH ?? '',
      NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? '',
      ISSUER: issuer,
      AUDIENCE: world.apiIdentifier,
      CLIENT_ID: world.api.id,
      CLIENT_SECRET: world.api.secret ?? '',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const port = await readPort(child)
  const api = { port, issuer: `http://localhost:${port}` }
  const state = async () =>
    JSON.parse((await send(api, { path: '/state' })).text) as { isLive: boolean; heapBytes: number } // what it answers there
  return {
    ...api,
    pid: child.pid ?? 0,
    state,
    async untilLive() {
      const deadline = performance.now() + START_MS
      while (!(await state()).isLive) {
        if (performance.now() > deadline) throw new Error('the sample API has no list to decide from')
        await pause(20)
      }
    },
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const exited = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGKILL')
      await exited
    },
  }
}

function readPort(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    let printed = ''
    child.stdout?.on('data', (text) => {
      printed += text
      const [, port] = /listening on (\d+)/.exec(printed) ?? []
      if (port !== undefined) resolve(Number(port))
    })
    child.once('exit', () => reject(new Error(`the sample API did not start: ${printed}`)))
    child.once('error', reject)
  })
}

/** Presents a value to a sample API. */
export const atSampleApi =
  (bearer: string): Way =>
  async (api) => {
    const { status, text } = await send(api, { path: '/', headers: { authorization: `Bearer ${bearer}` } })
    if (status === 200) return 'accepted'
    if (status === 401) return 'refused'
    if (status === 503) return 'unavailable'
    throw new Error(`the sample API answered ${status} ${text}`)
  }

/** Verifiers in this process: one for each target, by which alone it hears of the list and asks. */
export interface Verifiers {
  of(target: Target): Verifier
  /** Presents a value to the verifier of the target. */
  way(bearer: string): Way
  close(): Promise<void>
}

export async function openVerifiers(
  world: TokenWorld,
  targets: readonly Target[],
  more: Partial<VerifierOptions> = {},
): Promise<Verifiers> {
  const verifiers = new Map(targets.map((target) => [target.port, verifierThrough(world, target, more)]))
  await Promise.all([...verifiers.values()].map((verify) => verify.ready()))
  const of = (target: Target) => {
    const verify = verifiers.get(target.port)
    if (verify === undefined) throw new Error('nobody reaches the server by this target')
    return verify
  }
  return {
    of,
    way: (bearer) => (target) => outcomeAtVerifier(of(target), bearer),
    close: async () => void (await Promise.all([...verifiers.values()].map((verify) => verify.close()))),
  }
}

/** The issuer's name, at the address of one process. */
function verifierThrough(world: TokenWorld, target: Target, more: Partial<VerifierOptions>): Verifier {
  const { issuer, port } = target
  return createVerifier({
    issuer,
    audience: world.apiIdentifier,
    environment: 'production',
    clientId: world.api.id,
    clientSecret: world.api.secret ?? '',
    fetch: (input, init) => fetchFrom(port, new URL(String(input)), init),
    ...more,
  })
}

/** As fetch, from this port in the address's name, which fetch would not say. */
function fetchFrom(port: number, url: URL, init: RequestInit = {}): Promise<Response> {
  return new Promise((resolve, reject) => {
    const { method = 'GET', signal, body } = init
    const headers = Object.fromEntries(new Headers(init.headers))
    if (body instanceof URLSearchParams) headers['content-type'] = 'application/x-www-form-urlencoded'
    const outgoing = request(
      {
        host: '127.0.0.1',
        port,
        path: `${url.pathname}${url.search}`,
        method,
        agent: false,
        headers: { ...headers, host: url.host },
        ...(signal ? { signal } : {}),
      },
      (incoming) => {
        incoming.on('error', () => {}) // its reader hears of it
        const status = incoming.statusCode ?? 0
        const headers = Object.entries(incoming.headers).map(([name, value]): [string, string] => [name, String(value)])
        const read = status === 204 ? null : (Readable.toWeb(incoming) as ReadableStream) // the same class
        resolve(new Response(read, { status, headers }))
      },
    )
    outgoing.on('error', reject)
    outgoing.end(body?.toString())
  })
}

export async function outcomeAtVerifier(verify: Verifier, bearer: string): Promise<Outcome> {
  try {
    await verify(`Bearer ${bearer}`)
    return 'accepted'
  } catch (error) {
    if (error instanceof VerifierError && error.status === 401) return 'refused'
    if (error instanceof VerifierError && error.status === 503) return 'unavailable'
    throw error
  }
}

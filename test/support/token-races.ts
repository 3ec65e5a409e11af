// Tokens made, rotated and revoked while two processes serve them: as functions of the number of rounds.
import { readdirSync, readFileSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { expect } from 'vitest'
import type { KeyId } from '../../src/ids.ts'
import { ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE } from './api.ts'
import { type Answer, type Cluster, patiently, postTo, type ServerProcess, send, type Target } from './processes.ts'
import { at } from './races.ts'
import type { TestServer } from './server.ts'
import { mayBeBusy } from './times.ts'
import { makeWorld, type TestClient, type World } from './world.ts'

export { untilReady } from './processes.ts'

export interface MadeToken {
  id: KeyId
  value: string
}

export interface TokenWorld {
  world: World
  /** An organization key that may do everything. */
  key: MadeToken
  /** An API that introspects, and its own scope. */
  api: TestClient
  apiIdentifier: string
  /** Any process. */
  target: Target
  /** A token of the world's workspace. */
  create(
    input?: Record<string, unknown>,
    options?: { target?: Target; workspaceId?: string; bearer?: string },
  ): Promise<MadeToken>
  keysPath(workspaceId?: string): string
}

const API = 'https://traces.example.com'
export const PERMISSIONS = ['read', 'manage', 'traces:write']
let made = 0

export async function makeTokenWorld(server: TestServer, target?: Target): Promise<TokenWorld> {
  const world = await makeWorld(server)
  const resource = await server.run('resource create', {
    identifier: `${API}/${++made}`,
    environments: ['production'],
    scopes: [{ name: 'traces:write', sentence: 'Send traces', least_role: 'member' }],
  })
  const key = await server.run('organization-key create', {
    organization: world.organizationId,
    label: `provisioning ${made}`,
    permissions: ['read', 'manage'],
  })
  if (server.app.server.listening === false && target === undefined) throw new Error('nothing listens: name a process')
  const own = target ?? { port: Number(new URL(server.origin).port), issuer: server.origin }
  const keysPath = (workspaceId = world.workspaceId) => `/api/v1/workspaces/${workspaceId}/api-keys`
  return {
    world,
    key: { id: text(key.id) as KeyId, value: text(key.key) },
    api: { id: text(resource.client_id), secret: resource.client_secret, redirectUri: '' },
    apiIdentifier: text(resource.identifier),
    target: own,
    keysPath,
    async create(input = {}, options = {}) {
      const answer = await patiently(() =>
        call(options.target ?? own, 'POST', keysPath(options.workspaceId), options.bearer ?? text(key.key), {
          label: `token ${++made}`,
          permissions: PERMISSIONS,
          ...input,
        }),
      )
      if (answer.status !== 201) throw new Error(`no token: ${answer.status} ${answer.text}`)
      return toMade(answer)
    },
  }
}

function text(value: string | undefined): string {
  if (value === undefined) throw new Error('a command answered without a value that tests need')
  return value
}

export function toMade(answer: Answer): MadeToken {
  const { id, key } = JSON.parse(answer.text) as { id: KeyId; key: string }
  return { id, value: key }
}

/** One call of the JSON API. */
export function call(
  target: Target,
  method: string,
  path: string,
  bearer: string,
  body?: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return send(target, {
    path,
    method,
    headers: {
      authorization: `Bearer ${bearer}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
}

// --- What is presented, and what came of it -------------------------------------------------------------------------

export type Outcome = 'accepted' | 'refused' | 'unavailable'
export type Way = (target: Target) => Promise<Outcome>

export async function outcomeAtApi(target: Target, workspaceId: string, bearer: string): Promise<Outcome> {
  const { status, text: body } = await call(target, 'GET', `/api/v1/workspaces/${workspaceId}`, bearer)
  if (status === 200) return 'accepted'
  if (status === 401 || status === 404) return 'refused' // 404: its workspace was archived while it was on its way
  if (status === 503) return 'unavailable'
  throw new Error(`the API answered ${status} ${body}`)
}

export async function outcomeAtIntrospection(target: Target, caller: TestClient, token: string): Promise<Outcome> {
  const { status, body } = await postTo(target, '/introspect', caller, { token })
  if (status === 503) return 'unavailable'
  if (status !== 200) throw new Error(`introspection answered ${status} ${JSON.stringify(body)}`)
  return Reflect.get(body, 'active') === true ? 'accepted' : 'refused'
}

/** A value, or a JWT, presented to our own API and to introspection. */
export function waysOf(
  world: TokenWorld,
  presented: { value?: string; own?: string; api?: string },
  workspaceId?: string,
): Record<string, Way> {
  const place = workspaceId ?? world.world.workspaceId
  const { value, own, api } = presented
  return {
    ...(value === undefined
      ? {}
      : {
          'token, API': (target: Target) => outcomeAtApi(target, place, value),
          'token, introspection': (target: Target) => outcomeAtIntrospection(target, world.api, value),
        }),
    ...(own === undefined ? {} : { 'JWT, API': (target: Target) => outcomeAtApi(target, place, own) }),
    ...(api === undefined
      ? {}
      : { 'JWT, introspection': (target: Target) => outcomeAtIntrospection(target, world.api, api) }),
  }
}

export async function exchangeAt(
  target: Target,
  value: string,
  more: Record<string, string> = {},
): Promise<{ status: number; jwt: string | undefined }> {
  const answer = await patiently(() =>
    send(target, {
      path: '/token',
      method: 'POST',
      headers: { 'content-type': 'application/x-www-form-urlencoded' },
      body: new URLSearchParams({
        grant_type: TOKEN_EXCHANGE,
        subject_token: value,
        subject_token_type: ACCESS_TOKEN_TYPE,
        ...more,
      }).toString(),
    }),
  )
  const body = JSON.parse(answer.text) as { access_token?: string }
  return { status: answer.status, jwt: body.access_token }
}

/** A JWT for our own API, and one for the other. */
export async function exchangeBoth(
  target: Target,
  world: TokenWorld,
  value: string,
): Promise<{ own: string; api: string }> {
  const [own, api] = await Promise.all([
    exchangeAt(target, value),
    exchangeAt(target, value, { resource: world.apiIdentifier }),
  ])
  if (own.jwt === undefined || api.jwt === undefined) throw new Error(`no JWT: ${own.status} ${api.status}`)
  return { own: own.jwt, api: api.jwt }
}

export interface Presentation {
  startedAt: number
  endedAt: number
  place: number
  way: string
  outcome: Outcome
}

export interface Hammer {
  records: Presentation[]
  /** Until everything was presented everywhere once more. */
  oneMore(): Promise<void>
  stop(): Promise<void>
}

/** Presents everything in every way at every target, without a pause. */
export function hammer(targets: readonly Target[], ways: Record<string, Way>): Hammer {
  const records: Presentation[] = []
  let running = true
  const loops = targets.flatMap((target, place) =>
    Object.entries(ways).map(async ([way, present]) => {
      while (running) {
        const startedAt = performance.now()
        const outcome = await present(target)
        records.push({ startedAt, endedAt: performance.now(), place, way, outcome })
      }
    }),
  )
  const failed = Promise.all(loops)
  failed.catch(() => {}) // `oneMore` and `stop` say so
  return {
    records,
    async oneMore() {
      const since = performance.now()
      const wanted = targets.length * Object.keys(ways).length
      const isDone = () =>
        new Set(records.filter(({ startedAt }) => startedAt >= since).map(({ place, way }) => `${place} ${way}`))
          .size === wanted
      while (!isDone()) await Promise.race([pause(3), failed])
    },
    async stop() {
      running = false
      await failed
    },
  }
}

/** Of what started after this moment nothing was accepted. */
export function expectDeadSince(records: readonly Presentation[], since: number, mayBeUnavailable = mayBeBusy()): void {
  const after = records.filter(({ startedAt }) => startedAt >= since)
  expect(after.length).toBeGreaterThan(0)
  expect(after.filter(({ outcome }) => outcome === 'accepted')).toEqual([])
  if (!mayBeUnavailable) expect(after.filter(({ outcome }) => outcome === 'unavailable')).toEqual([])
}

/** What was not accepted, although nothing had ended. */
function failuresAmong(records: readonly Presentation[]): Presentation[] {
  return records.filter(({ outcome }) => outcome === 'refused' || (outcome === 'unavailable' && !mayBeBusy()))
}

/** What every target says now. */
export async function outcomesNow(targets: readonly Target[], ways: Record<string, Way>): Promise<Outcome[]> {
  const all = await Promise.all(targets.flatMap((target) => Object.values(ways).map((way) => way(target))))
  return [...new Set(all)]
}

/** What every target says that is not too busy to say anything. */
export function outcomes(targets: readonly Target[], ways: Record<string, Way>): Promise<Outcome[]> {
  const insistent = Object.entries(ways).map(([name, way]): [string, Way] => [name, insistently(way)])
  return outcomesNow(targets, Object.fromEntries(insistent))
}

const MOST_TRIES = 40

/** Presents it again where the answer is to come back in a moment. */
export const insistently =
  (way: Way): Way =>
  async (target) => {
    for (let tries = 1; ; tries++) {
      const outcome = await way(target)
      if (outcome !== 'unavailable' || tries === MOST_TRIES) return outcome
      await pause(250)
    }
  }

export const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

export function percentiles(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b)
  const of = (share: number) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]?.toFixed(1)
  return `p50 ${of(0.5)} ms, p99 ${of(0.99)} ms, most ${sorted.at(-1)?.toFixed(1)} ms (${sorted.length})`
}

// --- Revocations ---------------------------------------------------------------------------------------------------------

export const REVOCATIONS = ['line', 'version', 'cutover', 'leak', 'archive'] as const
export type Revocation = (typeof REVOCATIONS)[number]

/** Ends a token in one of the five ways; resolves with the answer. */
export async function revokeBy(
  kind: Revocation,
  world: TokenWorld,
  target: Target,
  token: MadeToken,
  workspaceId?: string,
): Promise<Answer> {
  const path = `${world.keysPath(workspaceId)}/${token.id}`
  if (kind === 'line') return call(target, 'DELETE', path, world.key.value)
  if (kind === 'version') return call(target, 'DELETE', `${path}/versions/v1`, world.key.value)
  if (kind === 'cutover') return call(target, 'POST', `${path}/cutover`, world.key.value, {})
  if (kind === 'archive') return call(target, 'POST', `/api/v1/workspaces/${workspaceId}/archive`, world.key.value, {})
  const report = await call(target, 'POST', '/api/v1/credentials/revoke', 'none', { credentials: [token.value] })
  return report.status === 429 ? call(target, 'DELETE', path, world.key.value) : report
}

export async function makeWorkspace(world: TokenWorld): Promise<string> {
  const answer = await call(world.target, 'POST', '/api/v1/workspaces', world.key.value, { name: `place ${++made}` })
  if (answer.status !== 201) throw new Error(`no workspace: ${answer.status} ${answer.text}`)
  return String(JSON.parse(answer.text).id)
}

/** A token that works, and all that came from it, ready to be ended in this way. */
export async function prepareFor(kind: Revocation, world: TokenWorld, target: Target) {
  const workspaceId = kind === 'archive' ? await makeWorkspace(world) : undefined
  const token = await world.create({}, workspaceId === undefined ? {} : { workspaceId })
  const jwts = await exchangeBoth(target, world, token.value)
  if (kind === 'cutover') {
    const rotated = await call(target, 'POST', `${world.keysPath()}/${token.id}/rotate`, world.key.value, {})
    expect(rotated.status).toBe(201)
  }
  return { token, workspaceId, ways: waysOf(world, { value: token.value, ...jwts }, workspaceId) }
}

/**
 * Every process is hammered with a token and with JWTs that came from it. Once the revocation is answered, on whichever
 * process, nothing that starts is accepted on any. @returns how long each answer took
 */
export async function raceRevocations(
  world: TokenWorld,
  processes: readonly Target[],
  rounds: number,
): Promise<number[]> {
  const tookMs: number[] = []
  for (let round = 0; round < rounds; round++) {
    const kind = at(REVOCATIONS, round % REVOCATIONS.length)
    const revoker = at(processes, Math.floor(round / REVOCATIONS.length) % processes.length)
    const { token, workspaceId, ways } = await prepareFor(kind, world, at(processes, round % processes.length))
    expect(await outcomes(processes, ways)).toEqual(['accepted'])
    const hammering = hammer(processes, ways)
    await hammering.oneMore()
    await pause(Math.random() * 20)
    const answer = await patiently(() => revokeBy(kind, world, revoker, token, workspaceId))
    const since = performance.now()
    expect(answer.status).toBeLessThan(300)
    tookMs.push(answer.elapsedMs)
    await hammering.oneMore()
    await hammering.stop()
    expectDeadSince(hammering.records, since)
    expect(hammering.records.filter(({ outcome }) => outcome === 'accepted').length).toBeGreaterThanOrEqual(
      Object.keys(ways).length,
    )
  }
  return tookMs
}

// --- Rotations -------------------------------------------------------------------------------------------------------------

const MODES = ['on_first_use', 'at', 'manual'] as const

export async function rotateAt(
  target: Target,
  world: TokenWorld,
  id: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Answer> {
  return call(target, 'POST', `${world.keysPath()}/${id}/rotate`, world.key.value, body, headers)
}

/** A client takes the new value at a moment of its own: no request with it fails; the older one ends with the cutover. */
export async function raceRotations(world: TokenWorld, processes: readonly Target[], rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const mode = at(MODES, round % MODES.length)
    const token = await world.create()
    const older = hammer(processes, waysOf(world, { value: token.value }))
    await older.oneMore()
    let atMs = 0
    const rotate = (afterMs: number) => {
      atMs = Date.now() + afterMs
      return rotateAt(at(processes, round % processes.length), world, token.id, {
        cutover: mode,
        ...(mode === 'at' ? { at: new Date(atMs).toISOString() } : {}),
      })
    }
    let rotated = await patiently(() => rotate(250))
    if (rotated.status === 400) rotated = await patiently(() => rotate(5_000)) // that time was past when it arrived
    expect(rotated.status).toBe(201)
    const { value } = toMade(rotated)
    await older.oneMore()
    if (mode !== 'at') expect(failuresAmong(older.records)).toEqual([])
    await pause(Math.random() * 60)
    let firstAnswerAt: number | undefined
    const noted = Object.entries(waysOf(world, { value })).map(([name, way]): [string, Way] => [
      name,
      async (target) => {
        const outcome = await way(target)
        firstAnswerAt ??= performance.now()
        return outcome
      },
    ])
    const newer = hammer(processes, Object.fromEntries(noted))
    await newer.oneMore()
    let since = firstAnswerAt ?? Number.POSITIVE_INFINITY
    if (mode === 'manual') {
      const path = `${world.keysPath()}/${token.id}/cutover`
      const other = at(processes, (round + 1) % processes.length)
      const cut = await patiently(() => call(other, 'POST', path, world.key.value, {}))
      since = performance.now()
      expect(cut.status).toBe(200)
    } else if (mode === 'at') {
      await pause(Math.max(0, atMs - Date.now()))
      while (Date.now() <= atMs) await pause(1)
      since = performance.now()
    }
    await older.oneMore()
    await newer.oneMore()
    await Promise.all([older.stop(), newer.stop()])
    expectDeadSince(older.records, since)
    expect(failuresAmong(newer.records)).toEqual([])
  }
}

/** Ten rotations at once: one is made. */
export async function raceTwoRotations(world: TokenWorld, processes: readonly Target[], rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const token = await world.create()
    const answers = await Promise.all(
      Array.from({ length: 10 }, (_, index) =>
        patiently(() => rotateAt(at(processes, index % processes.length), world, token.id, {})),
      ),
    )
    const won = answers.filter(({ status }) => status === 201)
    expect(won).toHaveLength(1)
    for (const answer of answers)
      if (answer.status !== 201)
        expect(answer).toMatchObject({ status: 409, text: expect.stringContaining('cutover_pending') })
    expect(await outcomes(processes, waysOf(world, { value: token.value }))).toEqual(['accepted'])
    expect(await outcomes(processes, waysOf(world, { value: toMade(at(won, 0)).value }))).toEqual(['accepted'])
  }
}

/** Twenty first uses at once: one cutover; whoever is answered, the older value is dead everywhere by then. */
export async function raceFirstUses(
  cluster: Pick<Cluster, 'server'>,
  world: TokenWorld,
  processes: readonly Target[],
  rounds: number,
): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const token = await world.create()
    expect(await outcomes(processes, waysOf(world, { value: token.value }))).toEqual(['accepted'])
    const rotated = await patiently(() => rotateAt(at(processes, 0), world, token.id, { cutover: 'on_first_use' }))
    const { value } = toMade(rotated)
    const older = hammer(processes, waysOf(world, { value: token.value }))
    await older.oneMore()
    let since = Number.POSITIVE_INFINITY
    const ways = Object.values(waysOf(world, { value }))
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const way = insistently(at(ways, index % ways.length))
        const outcome = await way(at(processes, Math.floor(index / 2) % processes.length))
        since = Math.min(since, performance.now())
        return outcome
      }),
    )
    await older.oneMore()
    await older.stop()
    expect([...new Set(answers)]).toEqual(['accepted'])
    expectDeadSince(older.records, since)
    expect(await recordsOf(cluster, token.id, 'token.cut_over')).toHaveLength(1)
  }
}

export function recordsOf(cluster: Pick<Cluster, 'server'>, id: KeyId, event: string) {
  return cluster.server.db
    .selectFrom('audit_events')
    .select('id')
    .where('event', '=', event)
    .where('credential_id', '=', id)
    .execute()
}

// --- Something is made while what allows it is ended ------------------------------------------------------------------------

/** A revocation in the midst of what would outlive it: afterwards nothing that came of it is accepted anywhere. */
export async function raceIssuing(
  cluster: Pick<Cluster, 'server'>,
  world: TokenWorld,
  processes: readonly Target[],
  rounds: number,
): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const here = at(processes, round % processes.length)
    const there = at(processes, Math.floor(round / 2) % processes.length)
    await at(ISSUINGS, round % ISSUINGS.length)({ cluster, world, processes, here, there })
  }
}

interface Issuing {
  cluster: Pick<Cluster, 'server'>
  world: TokenWorld
  processes: readonly Target[]
  here: Target
  there: Target
}

export const soon = (mostMs = 12) => pause(Math.random() * mostMs)

async function revokeSoon({ world, there }: Issuing, token: MadeToken): Promise<void> {
  await soon()
  expect((await patiently(() => revokeBy('line', world, there, token))).status).toBe(204)
}

const ISSUINGS: ReadonlyArray<(scene: Issuing) => Promise<void>> = [
  async function exchange(scene) {
    const { world, processes, here } = scene
    const token = await world.create()
    const revoking = revokeSoon(scene, token)
    const issued = await Promise.all(
      Array.from({ length: 6 }, async (_, index) => {
        await soon()
        return exchangeAt(here, token.value, index % 2 === 0 ? {} : { resource: world.apiIdentifier })
      }),
    )
    await revoking
    for (const [index, { status, jwt }] of issued.entries()) {
      expect([200, 400]).toContain(status)
      if (jwt !== undefined)
        expect(await outcomes(processes, waysOf(world, index % 2 === 0 ? { own: jwt } : { api: jwt }))).toEqual([
          'refused',
        ])
    }
    expect(await exchangeAt(here, token.value)).toMatchObject({ status: 400 })
  },
  async function create({ cluster, world, here, there }) {
    const path = `/api/v1/organizations/${world.world.organizationId}/api-keys`
    const key = toMade(await call(here, 'POST', path, world.key.value, { label: `key ${++made}` }))
    const creating = (label: string) =>
      call(here, 'POST', world.keysPath(), key.value, { label, permissions: PERMISSIONS })
    const asked = Array.from({ length: 5 }, async () => {
      await soon()
      return creating(`made meanwhile ${++made}`)
    })
    await soon()
    const revoke = () => call(there, 'DELETE', `${path}/${key.id}`, world.key.value)
    expect((await patiently(revoke)).status).toBe(204)
    expect((await patiently(() => creating(`too late ${++made}`))).status).toBe(401)
    for (const { status } of await Promise.all(asked)) expect([201, 401, 503]).toContain(status)
    const { db } = cluster.server
    const { closed_at } = await db
      .selectFrom('token_lines')
      .select('closed_at')
      .where('id', '=', key.id)
      .executeTakeFirstOrThrow()
    const lines = await db.selectFrom('token_lines').select('created_at').where('created_by', '=', key.id).execute()
    for (const { created_at } of lines) expect(created_at.getTime()).toBeLessThanOrEqual(closed_at?.getTime() ?? 0)
  },
  async function rotate(scene) {
    const { world, processes, here } = scene
    const token = await world.create()
    const revoking = revokeSoon(scene, token)
    await soon()
    const rotated = await patiently(() => rotateAt(here, world, token.id, {}))
    expect([201, 409]).toContain(rotated.status)
    await revoking
    const values = [token.value, ...(rotated.status === 201 ? [toMade(rotated).value] : [])]
    for (const value of values) expect(await outcomes(processes, waysOf(world, { value }))).toEqual(['refused'])
  },
  async function firstUse(scene) {
    const { world, processes, here } = scene
    const token = await world.create()
    const { value } = toMade(await patiently(() => rotateAt(here, world, token.id, { cutover: 'on_first_use' })))
    const revoking = revokeSoon(scene, token)
    const used = await Promise.all([
      ...Object.values(waysOf(world, { value })).map(async (way) => {
        await soon()
        return way(here)
      }),
      soon().then(() => exchangeAt(here, value)),
    ])
    await revoking
    for (const presented of [token.value, value])
      expect(await outcomes(processes, waysOf(world, { value: presented }))).toEqual(['refused'])
    const exchanged = used.at(-1)
    if (typeof exchanged === 'object' && exchanged.jwt !== undefined)
      expect(await outcomes(processes, waysOf(world, { own: exchanged.jwt }))).toEqual(['refused'])
  },
]

// --- Processes ---------------------------------------------------------------------------------------------------------------

/** The process that serves there: a child of ours, told its port by its environment. */
export function pidOf(target: ServerProcess): number {
  for (const task of readdirSync('/proc/self/task')) {
    for (const child of readFileSync(`/proc/self/task/${task}/children`, 'utf8').split(' ').filter(Boolean)) {
      const environment = readFileSync(`/proc/${child}/environ`, 'utf8').split('\0')
      if (environment.includes(`PORT=${target.port}`)) return Number(child)
    }
  }
  throw new Error('there is no such process')
}

/** Resident memory in megabytes. */
export function memoryOf(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) / 1_024
}

/** A way to PostgreSQL on which no notification arrives, as behind a pooler that hands connections out by transaction. */
export async function startDeafProxy(url: string): Promise<{ url: string; close(): Promise<void> }> {
  const { hostname, port } = new URL(url)
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    const upstream = connect({ host: hostname, port: Number(port || 5432) })
    let rest: Buffer = Buffer.alloc(0)
    upstream.on('data', (data) => {
      rest = Buffer.concat([rest, data])
      while (rest.length >= 5 && rest.length >= 1 + rest.readInt32BE(1)) {
        const size = 1 + rest.readInt32BE(1)
        if (rest[0] !== NOTIFICATION) client.write(rest.subarray(0, size))
        rest = rest.subarray(size)
      }
    })
    client.on('data', (data) => void upstream.write(data))
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => other.destroy())
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  const through = new URL(url)
  through.hostname = '127.0.0.1'
  through.port = String(address.port)
  return {
    url: through.href,
    close() {
      for (const socket of sockets) socket.destroy()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}

const NOTIFICATION = 'A'.charCodeAt(0)

// --- Kills -----------------------------------------------------------------------------------------------------------------

/** A change of a token, at which a process is killed; the client sends it again with the same Idempotency-Key. */
export interface Change {
  name: string
  /** What is there before it. */
  prepare(world: TokenWorld): Promise<MadeToken | undefined>
  ask(world: TokenWorld, target: Target, token: MadeToken | undefined, idempotencyKey: string): Promise<Answer>
  event: string
  /** Its own statement, in lower case. */
  statement: string
  /** What the repeat may be answered. */
  repeated: readonly number[]
}

export const CHANGES: Record<'create' | 'rotate' | 'cutover' | 'revoke', Change> = {
  create: {
    name: 'create',
    prepare: async () => undefined,
    ask: (world, target, _token, key) =>
      call(
        target,
        'POST',
        world.keysPath(),
        world.key.value,
        { label: key, permissions: PERMISSIONS },
        { 'idempotency-key': key },
      ),
    event: 'token.created',
    statement: 'insert into "token_versions"',
    repeated: [200, 201],
  },
  rotate: {
    name: 'rotate',
    prepare: (world) => world.create(),
    ask: (world, target, token, key) => rotateAt(target, world, token?.id ?? '', {}, { 'idempotency-key': key }),
    event: 'token.rotated',
    statement: 'insert into "token_versions"',
    repeated: [200, 201],
  },
  cutover: {
    name: 'cutover',
    async prepare(world) {
      const token = await world.create()
      expect((await rotateAt(world.target, world, token.id, {})).status).toBe(201)
      return token
    },
    ask: (world, target, token) =>
      call(target, 'POST', `${world.keysPath()}/${token?.id}/cutover`, world.key.value, {}),
    event: 'token.cut_over',
    statement: 'update "token_lines" set "floor"',
    repeated: [200],
  },
  revoke: {
    name: 'revoke',
    prepare: (world) => world.create(),
    ask: (world, target, token) => call(target, 'DELETE', `${world.keysPath()}/${token?.id}`, world.key.value),
    event: 'token.revoked',
    statement: 'update "token_lines" set "closed_at"',
    repeated: [204],
  },
}

/** After whatever became of it: sent again elsewhere, it is made once, recorded once, and holds on every process. */
export async function repeatChange(
  cluster: Pick<Cluster, 'server'>,
  world: TokenWorld,
  change: Change,
  made: { token: MadeToken | undefined; key: string; answer: Answer | undefined },
): Promise<void> {
  const { db } = cluster.server
  const repeated = await patiently(() => change.ask(world, world.target, made.token, made.key))
  expect(change.repeated).toContain(repeated.status)
  const again = await patiently(() => change.ask(world, world.target, made.token, made.key))
  expect(again.status).toBe(change.repeated[0])
  const lines = await db
    .selectFrom('token_lines')
    .selectAll()
    .where(made.token === undefined ? 'label' : 'id', '=', (made.token?.id ?? made.key) as KeyId)
    .execute()
  expect(lines).toHaveLength(1)
  const line = at(lines, 0)
  expect(await recordsOf(cluster, line.id, change.event)).toHaveLength(1)
  const versions = await db.selectFrom('token_versions').select('version').where('token_id', '=', line.id).execute()
  expect(versions).toHaveLength(change === CHANGES.rotate || change === CHANGES.cutover ? 2 : 1)
  for (const answer of [made.answer, repeated]) {
    if (answer?.status !== 201) continue
    expect(await outcomes([world.target], waysOf(world, { value: toMade(answer).value }))).toEqual(['accepted'])
  }
  if (change === CHANGES.cutover || change === CHANGES.revoke)
    expect(await outcomes([world.target], waysOf(world, { value: made.token?.value ?? '' }))).toEqual(['refused'])
}

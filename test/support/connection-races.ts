// Connections ended while two processes, and the APIs of others, decide about what came of them: as functions of the number
// of rounds.
import { decodeJwt } from 'jose'
import { expect } from 'vitest'
import { type FaultProxy, startFaultProxy } from './fault-proxy.ts'
import {
  type Answer,
  type Cluster,
  patiently,
  postTo,
  redeemAt,
  refreshAt,
  startCluster,
  type Target,
} from './processes.ts'
import { at } from './races.ts'
import { atSampleApi, openVerifiers, type SampleApi, startSampleApi, type Verifiers } from './sample-apis.ts'
import { freePort } from './server.ts'
import {
  call,
  exchangeAt,
  hammer,
  insistently,
  makeTokenWorld,
  makeWorkspace,
  outcomeAtIntrospection,
  outcomes,
  type Presentation,
  pause,
  revokeBy,
  soon,
  type TokenWorld,
  type Way,
  waysOf,
} from './token-races.ts'
import type { UserAgent } from './user-agent.ts'
import { approve, authorizationUrl, makePkce, obtainCode, PASSWORD, type TestClient, type World } from './world.ts'

export interface ConnectionWorld {
  cluster: Cluster
  processes: readonly Target[]
  tokens: TokenWorld
  /** One for each process. */
  verifiers: Verifiers
  /** A member of the workspace, in a browser where they are signed in. */
  person: World
  agent: UserAgent
}

/** Two processes, the first one behind a proxy that can be cut, and an API elsewhere that has the verifier. */
export interface ConnectionScene {
  gate: FaultProxy
  world: ConnectionWorld
  api: SampleApi
  close(): Promise<void>
}

export async function startConnectionScene(): Promise<ConnectionScene> {
  const port = await freePort()
  const gate = await startFaultProxy(port, 'plain')
  const cluster = await startCluster({ port, issuer: `http://localhost:${gate.port}` })
  const world = await makeConnectionWorld(cluster)
  const api = await startSampleApi(world.tokens, world.tokens.target.issuer)
  await api.untilLive()
  return {
    gate,
    world,
    api,
    async close() {
      await api.stop()
      await world.verifiers.close()
      await cluster.close()
      await gate.close()
    },
  }
}

export async function makeConnectionWorld(cluster: Cluster): Promise<ConnectionWorld> {
  const { server, processes } = cluster
  const tokens = await makeTokenWorld(server, at(processes, 0))
  const email = `bob-${crypto.randomUUID().slice(0, 8)}@example.com`
  const user = await server.run('user create', { email, name: 'Bob', password: PASSWORD })
  await server.run('member add', { workspace: tokens.world.workspaceId, user: email, role: 'member' })
  const world = {
    cluster,
    processes,
    tokens,
    verifiers: await openVerifiers(tokens, processes),
    person: { ...tokens.world, email, userId: String(user.id) },
    agent: server.userAgent(),
  }
  await connect(world, 'api', at(processes, 0)) // signed in from here on
  return world
}

// --- What a connection gives, and who decides about it -----------------------------------------------------------------

export const AUDIENCES = ['api', 'own'] as const
/** Whose JWTs: of an API elsewhere, or of the server's own. */
export type Audience = (typeof AUDIENCES)[number]

function asking({ tokens }: ConnectionWorld, audience: Audience): Record<string, string> {
  return audience === 'api'
    ? { resource: tokens.apiIdentifier, scope: 'openid traces:write' }
    : { resource: `${tokens.target.issuer}/api`, scope: 'openid read' }
}

export interface Connected {
  client: TestClient
  connectionId: string
  jwt: string
  refreshToken: string | undefined
}

/** A person approves, and the code is redeemed at this process. Twice is the same connection, and another family. */
export async function connect(
  world: ConnectionWorld,
  audience: Audience,
  target: Target,
  client = world.person.client,
): Promise<Connected> {
  const code = await codeFor(world, audience, client)
  const { status, body } = await patiently(() => redeemAt(target, client, code))
  if (status !== 200) throw new Error(`no tokens: ${status} ${JSON.stringify(body)}`)
  const jwt = body.access_token ?? ''
  return { client, connectionId: String(decodeJwt(jwt).credential_id), jwt, refreshToken: body.refresh_token }
}

function codeFor(world: ConnectionWorld, audience: Audience, client = world.person.client) {
  const { agent, person } = world
  return obtainCode(world.cluster.server, person, { agent, client, more: asking(world, audience) })
}

/** Every way in which a process decides about a JWT, and how the API hears that relies on it. */
export function waysOfJwt(world: ConnectionWorld, audience: Audience, jwt: string): Record<string, Way> {
  const { person, tokens, verifiers } = world
  if (audience === 'api') return { ...waysOf(tokens, { api: jwt }), 'JWT, verifier': verifiers.way(jwt) }
  const introspection: Way = (target) => outcomeAtIntrospection(target, person.client, jwt)
  return { ...waysOf(tokens, { own: jwt }), 'JWT, introspection': introspection }
}

/** The server's answer is at once; an API hears of it within a moment. */
export async function expectDead(world: ConnectionWorld, audience: Audience, jwt: string): Promise<void> {
  const { 'JWT, verifier': verifier, ...now } = waysOfJwt(world, audience, jwt)
  expect(await outcomes(world.processes, now)).toEqual(['refused'])
  if (verifier === undefined) return
  for (const process of world.processes) await expect.poll(() => verifier(process), { timeout: 30_000 }).toBe('refused')
}

async function expectUseless(world: ConnectionWorld, refreshToken: string | undefined): Promise<void> {
  for (const process of world.processes)
    expect(await patiently(() => refreshAt(process, world.person.client, refreshToken))).toMatchObject({
      status: 400,
      body: { error: 'invalid_grant' },
    })
}

export function disconnectAt(target: Target, { tokens }: ConnectionWorld, connectionId: string): Promise<Answer> {
  return call(target, 'DELETE', `${placeOf(tokens)}/connections/${connectionId}`, tokens.key.value)
}

const placeOf = (tokens: TokenWorld) => `/api/v1/workspaces/${tokens.world.workspaceId}`

// --- A connection ends while an API is asked without a pause --------------------------------------------------------------

/** So many at once. */
const CALLERS = 4

export interface Ending {
  /** From the answer of the revocation to the first refusal. */
  lagMs: number
  /** How long the revocation took to be answered. */
  tookMs: number
}

/**
 * An API with the verifier is called without a pause while the connection behind the JWT is ended, on whichever process.
 * It refuses, and from its first refusal on it accepts nothing any more.
 */
export async function raceApiCalls(world: ConnectionWorld, api: SampleApi, rounds: number): Promise<Ending[]> {
  const endings: Ending[] = []
  for (let round = 0; round < rounds; round++) {
    const { connectionId, jwt } = await connect(world, 'api', at(world.processes, round % world.processes.length))
    const calls = hammerApi(api, jwt)
    await calls.oneMore()
    expect(calls.records.filter(({ outcome }) => outcome === 'refused')).toEqual([])
    await soon(20)
    const revoker = at(world.processes, (round >> 1) % world.processes.length)
    const answer = await patiently(() => disconnectAt(revoker, world, connectionId))
    const since = performance.now()
    expect(answer.status).toBe(204)
    const refusedAt = await firstRefusal(calls.records)
    await calls.oneMore()
    await pause(30)
    await calls.oneMore()
    await calls.stop()
    expect(calls.records.filter((record) => record.startedAt >= refusedAt && record.outcome === 'accepted')).toEqual([])
    endings.push({ lagMs: Math.max(0, refusedAt - since), tookMs: answer.elapsedMs })
  }
  return endings
}

function hammerApi(api: SampleApi, jwt: string) {
  const ways = Array.from({ length: CALLERS }, (_, caller): [string, Way] => [`caller ${caller}`, atSampleApi(jwt)])
  return hammer([api], Object.fromEntries(ways))
}

async function firstRefusal(records: readonly Presentation[]): Promise<number> {
  const refusals = () => records.filter(({ outcome }) => outcome === 'refused').map(({ endedAt }) => endedAt)
  await expect.poll(() => refusals().length, { timeout: 30_000, interval: 3 }).toBeGreaterThan(0)
  return Math.min(...refusals())
}

/** What the verifier takes for fresh. */
const FRESH_MS = 1_000

/**
 * An API loses its way to the server, and a connection ends meanwhile: what starts a second later is not accepted, nor
 * what has ended when it finds back.
 *
 * @param gate between the API and the server
 * @returns from the fault to the first answer that says so
 */
export async function cutApiOff(
  world: ConnectionWorld,
  api: SampleApi,
  gate: FaultProxy,
  how: 'cut' | 'hang',
): Promise<number> {
  await api.untilLive()
  const ended = await connect(world, 'api', at(world.processes, 0))
  const other = await world.tokens.create()
  const { jwt: lasting } = await exchangeAt(at(world.processes, 0), other.value, {
    resource: world.tokens.apiIdentifier,
  })
  if (lasting === undefined) throw new Error('no JWT')
  const calls = hammer([api], { ended: atSampleApi(ended.jwt), lasting: atSampleApi(lasting) })
  await calls.oneMore()
  const cutting = how === 'cut' ? gate.rule({ on: '', at: 'asked', act: () => 'cut' as const }) : undefined
  if (cutting === undefined) gate.freeze()
  else gate.cutAll()
  const since = performance.now()
  const answer = await patiently(() => disconnectAt(at(world.processes, 1), world, ended.connectionId))
  expect(answer.status).toBe(204)
  const unavailable = () => calls.records.filter(({ outcome }) => outcome === 'unavailable')
  await expect.poll(() => unavailable().length, { timeout: 60_000 }).toBeGreaterThan(3)
  expect(
    calls.records.filter((record) => record.startedAt > since + FRESH_MS && record.outcome === 'accepted'),
  ).toEqual([])
  const saysSoAt = Math.min(...unavailable().map(({ endedAt }) => endedAt))
  cutting?.remove()
  if (cutting === undefined) gate.thaw()
  await expect.poll(() => atSampleApi(lasting)(api), { timeout: 60_000 }).toBe('accepted')
  await api.untilLive()
  await calls.oneMore()
  await calls.stop()
  const endedCalls = calls.records.filter(({ way, startedAt }) => way === 'ended' && startedAt > since + FRESH_MS)
  expect(endedCalls.filter(({ outcome }) => outcome === 'accepted')).toEqual([])
  expect(await insistently(atSampleApi(ended.jwt))(api)).toBe('refused')
  expect(await insistently(atSampleApi(lasting))(api)).toBe('accepted')
  return saysSoAt - since
}

// --- Something is issued while what allows it is ended ----------------------------------------------------------------------

interface Race {
  world: ConnectionWorld
  round: number
  audience: Audience
  here: Target
  there: Target
}

/** Each says what the request was answered that met the end. */
export const RACES = {
  /** A refresh, while its connection ends, its family ends, or it is made to sign anew. */
  async refresh({ world, round, audience, here, there }: Race): Promise<number> {
    const { client } = world.person
    const { connectionId, jwt, refreshToken } = await connect(world, audience, here)
    const kind = at(['disconnect', 'family', 'renew'] as const, round % 3)
    const end = async (): Promise<{ status: number; version?: unknown }> => {
      if (kind === 'disconnect') return disconnectAt(there, world, connectionId)
      if (kind === 'family') return postTo(there, '/revoke', client, { token: refreshToken ?? '' })
      const path = `${placeOf(world.tokens)}/connections/${connectionId}/new-version`
      const { status, text } = await call(there, 'POST', path, world.tokens.key.value, {})
      return { status, version: JSON.parse(text).token_version }
    }
    const ending = soon().then(() => patiently(end))
    await soon()
    const refreshed = await refreshAt(here, client, refreshToken)
    const ended = await ending
    expect(ended.status).toBeLessThan(300)
    expect([200, 400, 503]).toContain(refreshed.status)
    await expectDead(world, audience, jwt)
    const next = refreshed.body.access_token
    if (next !== undefined && decodeJwt(next).token_version === ended.version)
      expect(await outcomes(world.processes, waysOfJwt(world, audience, next))).toEqual(['accepted'])
    else if (next !== undefined) await expectDead(world, audience, next)
    const tokens = kind === 'renew' ? [] : [refreshToken, refreshed.body.refresh_token] // after a renewal refreshes go on
    for (const token of tokens) if (token !== undefined) await expectUseless(world, token)
    return refreshed.status
  },

  /** Exchanges, while their token ends, its version, or its workspace. */
  async exchange({ world, round, here, there }: Race): Promise<number> {
    const { tokens, processes } = world
    const kind = at(['line', 'version', 'leak', 'archive'] as const, round % 4)
    const workspaceId = kind === 'archive' ? await makeWorkspace(tokens) : undefined
    const token = await tokens.create({}, workspaceId === undefined ? {} : { workspaceId })
    expect((await exchangeAt(here, token.value)).status).toBe(200) // from memory from here on
    const ending = soon().then(() => patiently(() => revokeBy(kind, tokens, there, token, workspaceId)))
    const issued = await Promise.all(
      Array.from({ length: 6 }, async (_, index) => {
        await soon()
        const audience = at(AUDIENCES, index % 2)
        const more: Record<string, string> = audience === 'api' ? { resource: tokens.apiIdentifier } : {}
        return { audience, ...(await exchangeAt(at(processes, (index >> 1) % 2), token.value, more)) }
      }),
    )
    expect((await ending).status).toBeLessThan(300)
    for (const { audience, status, jwt } of issued) {
      expect([200, 400]).toContain(status)
      if (jwt === undefined) continue
      if (audience === 'api') await expectDead(world, audience, jwt)
      else expect(await outcomes(processes, waysOf(tokens, { own: jwt }, workspaceId))).toEqual(['refused'])
    }
    for (const process of processes) expect((await exchangeAt(process, token.value)).status).toBe(400)
    return Math.max(...issued.map(({ status }) => status))
  },

  /** A code is redeemed while its person is removed from the workspace. */
  async code({ world, audience, here, there }: Race): Promise<number> {
    await addPerson(world)
    const { client } = world.person
    const code = await codeFor(world, audience)
    const removing = soon(20).then(() => removePerson(world, there))
    await soon(20)
    const redeemed = await redeemAt(here, client, code)
    await removing
    expect([200, 400, 503]).toContain(redeemed.status)
    if (redeemed.body.access_token !== undefined) await expectDead(world, audience, redeemed.body.access_token)
    if (redeemed.body.refresh_token !== undefined) await expectUseless(world, redeemed.body.refresh_token)
    const late = await patiently(() => redeemAt(here, client, code))
    expect(late).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    await expectNoConnection(world)
    return redeemed.status
  },

  /** An approval is on its way while the person is removed from the workspace. */
  async approve({ world, audience, here, there }: Race): Promise<number> {
    await addPerson(world)
    const { agent, person } = world
    const pkce = makePkce()
    const opened = () => agent.open(authorizationUrl(person.client, pkce, asking(world, audience)))
    const page = await patiently(opened)
    const removing = soon(60).then(() => removePerson(world, there))
    await soon(20)
    const left = await approve(agent, page, person.workspaceId)
    await removing
    const code = left.url.searchParams.get('code')
    if (code !== null) {
      const redeemed = await patiently(() => redeemAt(here, person.client, { code, pkce }))
      expect(redeemed).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    }
    await expectNoConnection(world)
    return code === null ? left.status : 200
  },
}

/** Nothing that is issued after an end, or by a request that met it, is accepted anywhere. @returns how often what was answered */
export async function raceIssuance(
  world: ConnectionWorld,
  name: keyof typeof RACES,
  rounds: number,
): Promise<Record<number, number>> {
  const { processes } = world
  const counts: Record<number, number> = {}
  for (let round = 0; round < rounds; round++) {
    const status = await RACES[name]({
      world,
      round,
      audience: at(AUDIENCES, (round >> 2) % AUDIENCES.length),
      here: at(processes, round % processes.length),
      there: at(processes, (round >> 1) % processes.length),
    })
    counts[status] = (counts[status] ?? 0) + 1
  }
  return counts
}

async function addPerson({ tokens, person, processes }: ConnectionWorld): Promise<void> {
  const member = { user_id: person.userId, role: 'member' }
  const added = await patiently(() =>
    call(at(processes, 0), 'POST', `${placeOf(tokens)}/members`, tokens.key.value, member),
  )
  expect([201, 409]).toContain(added.status) // 409: the first round finds them there
}

async function removePerson({ tokens, person }: ConnectionWorld, target: Target): Promise<void> {
  const path = `${placeOf(tokens)}/members/${person.userId}`
  const removed = await patiently(() => call(target, 'DELETE', path, tokens.key.value))
  expect(removed.status).toBe(204)
}

async function expectNoConnection({ cluster, person }: ConnectionWorld): Promise<void> {
  const open = await cluster.server.db
    .selectFrom('connections')
    .select('id')
    .where('user_id', '=', person.userId as `usr_${string}`) // as the command told it
    .where('closed_at', 'is', null)
    .execute()
  expect(open).toEqual([])
}

// The races that must have one winner, as functions of the number of rounds: the short form runs with every test run,
// the long one in the soak.
import { createHash } from 'node:crypto'
import { Redis } from 'ioredis'
import { sql } from 'kysely'
import { expect } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import {
  type Cluster,
  introspectAt,
  patiently,
  postTo,
  redeemAt,
  refreshAt,
  type ServerProcess,
  type TimedTokenAnswer,
  userinfoStatus,
} from './processes.ts'
import type { TestServer } from './server.ts'
import { makeWorld, obtainCode, type World } from './world.ts'

export const PARALLEL = 50

/** For a token that is good at userinfo (opaque): no API is named. */
export const OPAQUE = { scope: 'openid', resource: '' }

/** Fifty requests, spread over the processes, all on their way at once. */
export function everywhere<T>(cluster: Cluster, ask: (process: ServerProcess) => Promise<T>): Promise<T[]> {
  const { processes } = cluster
  return Promise.all(Array.from({ length: PARALLEL }, (_, index) => ask(at(processes, index % processes.length))))
}

export function at<T>(items: readonly T[], index: number): T {
  const item = items.at(index)
  if (item === undefined) throw new Error(`there is no item ${index}`)
  return item
}

function statuses(answers: readonly TimedTokenAnswer[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const { status, body } of answers) {
    const outcome = status === 200 ? '200' : `${status} ${body.error}`
    counts[outcome] = (counts[outcome] ?? 0) + 1
  }
  return counts
}

/** Each code redeemed by fifty at once: one is answered, and what it got is dead as soon as all are. */
export async function raceCodes(cluster: Cluster, rounds: number): Promise<void> {
  let wins = 0
  const world = await makeWorld(cluster.server)
  const agent = cluster.server.userAgent()
  for (let round = 0; round < rounds; round++) {
    const opaque = round % 2 === 1
    const code = await obtainCode(cluster.server, world, { agent, ...(opaque ? { more: OPAQUE } : {}) })
    const before = await countOpaqueTokens(cluster)
    let busy = 0
    const answers = await everywhere(cluster, (process) =>
      patiently(async () => {
        const answer = await redeemAt(process, world.client, code)
        if (answer.status === 503) busy++
        return answer
      }),
    )
    const won = answers.find(({ status }) => status === 200)?.body
    // Who hears 503 after its code was redeemed begins anew: the code gives nothing any more.
    if (won === undefined && busy > 0) continue
    expect(statuses(answers)).toEqual({ 200: 1, '400 invalid_grant': PARALLEL - 1 })
    if (won === undefined) throw new Error('nobody won')
    wins++
    if (busy === 0) expect(await countOpaqueTokens(cluster)).toBe(before + (opaque ? 1 : 0)) // those who lost left none behind
    for (const process of cluster.processes) {
      expect(await introspectAt(process, world.client, won.access_token)).toEqual({ active: false })
      expect(await introspectAt(process, world.client, won.refresh_token)).toEqual({ active: false })
      if (opaque) {
        expect(won.access_token).toMatch(/^lk_at_/)
        expect(await userinfoStatus(process, won.access_token)).toBe(401)
      }
      const refreshed = await patiently(() => refreshAt(process, world.client, won.refresh_token))
      expect(refreshed).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    }
  }
  expect(wins).toBeGreaterThan(0)
}

async function countOpaqueTokens(cluster: Cluster): Promise<number> {
  const redis = new Redis(cluster.redisUrl)
  try {
    const installation = createHash('sha256').update(cluster.server.origin).digest('hex').slice(0, 12)
    let count = 0
    for await (const keys of redis.scanStream({ match: `*${installation}*:AccessToken:*`, count: 1_000 }))
      count += keys.length
    return count
  } finally {
    redis.disconnect()
  }
}

/** Each token of a family refreshed by fifty at once: all get the same successor, and it is the next one's turn. */
export async function raceRefreshes(cluster: Cluster, rounds: number): Promise<void> {
  const world = await makeWorld(cluster.server)
  let { refresh_token: current } = await connectAt(cluster, world)
  const familyId = await familyOf(cluster.server, current)
  for (let round = 0; round < rounds; round++) {
    const presented = current
    const answers = await everywhere(cluster, (process) => patiently(() => refreshAt(process, world.client, presented)))
    expect(statuses(answers)).toEqual({ 200: PARALLEL })
    const successors = new Set(answers.map(({ body }) => body.refresh_token))
    expect(successors.size).toBe(1)
    current = [...successors][0]
    expect(current).toMatch(/^lk_rt_/)
    expect(current).not.toBe(presented)
    const unused = await cluster.server.db
      .selectFrom('refresh_tokens')
      .select('digest')
      .where('family_id', '=', familyId)
      .where('consumed_at', 'is', null)
      .execute()
    expect(unused).toEqual([{ digest: digestOf(current ?? '') }])
  }
  const rotations = await cluster.server.db
    .selectFrom('audit_events')
    .select('id')
    .where('event', '=', 'token.refreshed')
    .where('workspace_id', '=', world.workspaceId)
    .execute()
  expect(rotations).toHaveLength(rounds) // a retry is no second rotation
}

/** A first set of tokens, redeemed at one of the processes. */
export async function connectAt(
  cluster: Cluster,
  world: World,
  options: Parameters<typeof obtainCode>[2] & { process?: ServerProcess } = {},
) {
  const code = await obtainCode(cluster.server, world, options)
  const target = options.process ?? at(cluster.processes, 0)
  const answer = await patiently(() => redeemAt(target, options.client ?? world.client, code))
  if (answer.status !== 200) throw new Error(`no tokens: ${answer.status} ${JSON.stringify(answer.body)}`)
  return { ...answer.body, ...code }
}

export async function familyOf(server: Pick<TestServer, 'db'>, refreshToken: string | undefined) {
  const row = await server.db
    .selectFrom('refresh_tokens')
    .select('family_id')
    .where('digest', '=', digestOf(refreshToken ?? ''))
    .executeTakeFirstOrThrow()
  return row.family_id
}

/** As if a minute and a second had gone by since this token was used: the window in which it may be repeated is over. */
export async function endGrace(server: Pick<TestServer, 'db'>, refreshToken: string | undefined): Promise<void> {
  const { numUpdatedRows } = await server.db
    .updateTable('refresh_tokens')
    .set({ consumed_at: sql<Date>`consumed_at - interval '61 seconds'` })
    .where('digest', '=', digestOf(refreshToken ?? ''))
    .where('consumed_at', 'is not', null)
    .executeTakeFirstOrThrow()
  expect(numUpdatedRows).toBe(1n)
}

/** A used token comes back in the midst of refreshes with its successor: when all are answered, none of it lives. */
export async function raceReuse(cluster: Cluster, rounds: number): Promise<void> {
  const world = await makeWorld(cluster.server)
  const agent = cluster.server.userAgent()
  for (let round = 0; round < rounds; round++) {
    const { refresh_token: first } = await connectAt(cluster, world, { agent })
    const family = await familyOf(cluster.server, first)
    const second = await patiently(() => refreshAt(at(cluster.processes, 0), world.client, first))
    expect(second.status).toBe(200)
    await endGrace(cluster.server, first)
    let turn = 0
    const answers = await everywhere(cluster, (process) =>
      refreshAt(process, world.client, ++turn % 5 === 0 ? first : second.body.refresh_token),
    )
    for (const { status } of answers) expect([200, 400, 503]).toContain(status)
    await expectEnded(cluster, family)
    for (const { body } of answers.filter(({ status }) => status === 200)) {
      const refused = await patiently(() => refreshAt(at(cluster.processes, -1), world.client, body.refresh_token))
      expect(refused).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
      expect(await introspectAt(at(cluster.processes, 0), world.client, body.access_token)).toEqual({ active: false })
    }
  }
}

/** A client revokes while it refreshes, a moment apart or not at all: the revocation's answer is the end. */
export async function raceRevocation(cluster: Cluster, rounds: number): Promise<void> {
  const world = await makeWorld(cluster.server)
  const agent = cluster.server.userAgent()
  for (let round = 0; round < rounds; round++) {
    const { refresh_token } = await connectAt(cluster, world, { agent })
    const family = await familyOf(cluster.server, refresh_token)
    const refreshing = refreshAt(at(cluster.processes, round % cluster.processes.length), world.client, refresh_token)
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 15))
    const revoked = await patiently(() =>
      postTo(at(cluster.processes, 0), '/revoke', world.client, { token: refresh_token ?? '' }),
    )
    expect(revoked.status).toBe(200)
    const { status, body } = await refreshing
    expect([200, 400, 503]).toContain(status)
    await expectEnded(cluster, family)
    if (status !== 200) continue
    expect(await introspectAt(at(cluster.processes, -1), world.client, body.access_token)).toEqual({ active: false })
  }
}

async function expectEnded(cluster: Cluster, family: Awaited<ReturnType<typeof familyOf>>): Promise<void> {
  const { db } = cluster.server
  const left = await db.selectFrom('refresh_tokens').select('digest').where('family_id', '=', family).execute()
  expect(left).toEqual([])
  const row = await db.selectFrom('families').select('ended_at').where('id', '=', family).executeTakeFirstOrThrow()
  expect(row.ended_at).toBeInstanceOf(Date)
}

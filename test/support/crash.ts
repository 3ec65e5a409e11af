// PostgreSQL killed while clients work: what was acknowledged must be there afterwards.
import { expect } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import { attempt, type Cluster, redeemAt, refreshAt } from './processes.ts'
import { at, connectAt } from './races.ts'
import type { ThrowawayStore } from './throwaway-stores.ts'
import type { UserAgent } from './user-agent.ts'
import { obtainCode, type World } from './world.ts'

const CLIENTS = 6

/** When it is killed: after so long, and when so much has been done. */
export interface Load {
  loadMs: number
  rotations?: number
  redemptions?: number
}

/** Refreshes and redeems without a pause, kills the database in the middle, starts it again, and compares. */
export async function crashUnderLoad(
  scene: { cluster: Cluster; database: ThrowawayStore; world: World; agent: UserAgent },
  load: Load,
): Promise<{ rotations: number; redemptions: number }> {
  const { cluster, database, world, agent } = scene
  const chains: string[][] = []
  for (let count = 0; count < CLIENTS; count++)
    chains.push([(await connectAt(cluster, world, { agent })).refresh_token ?? ''])
  const redeemed: string[] = []
  const oddities: unknown[] = []
  let running = true
  const answered = (answer: { status: number; headers: Headers } | undefined) => {
    if (answer === undefined || answer.status === 200) return
    if (answer.status !== 503 || !answer.headers.has('retry-after')) oddities.push(answer)
  }
  const refreshing = chains.map(async (chain, index) => {
    while (running) {
      const answer = await refreshAt(at(cluster.processes, index % 2), world.client, chain.at(-1))
      answered(answer)
      if (answer.status === 200) chain.push(answer.body.refresh_token ?? '')
    }
  })
  const redeeming = (async () => {
    while (running) {
      const code = await obtainCode(cluster.server, world, { agent }).catch(() => undefined)
      const answer = code && (await attempt(redeemAt(at(cluster.processes, 1), world.client, code)))
      answered(answer)
      if (code !== undefined && answer?.status === 200) redeemed.push(code.code)
    }
  })()
  await pause(load.loadMs)
  const rotated = () => chains.reduce((sum, chain) => sum + chain.length - 1, 0)
  await expect.poll(rotated, { timeout: 20_000 }).toBeGreaterThanOrEqual((load.rotations ?? 0) + 1)
  await expect.poll(() => redeemed.length, { timeout: 20_000 }).toBeGreaterThanOrEqual((load.redemptions ?? 0) + 1)
  await database.kill()
  await pause(200)
  running = false
  await Promise.all([...refreshing, redeeming])
  await database.start()

  expect(oddities).toEqual([])
  for (const chain of chains) {
    for (const [index, value] of chain.entries()) {
      const row = await cluster.server.db
        .selectFrom('refresh_tokens')
        .select(['consumed_at', 'successor_digest'])
        .where('digest', '=', digestOf(value))
        .executeTakeFirst()
      expect(row).toBeDefined()
      const next = chain[index + 1]
      if (next === undefined) continue
      expect(row?.successor_digest).toBe(digestOf(next))
      expect(row?.consumed_at).toBeInstanceOf(Date)
    }
    // The last one may have been rotated without an answer: then this is its repeat.
    expect(await refreshAt(at(cluster.processes, 0), world.client, chain.at(-1))).toMatchObject({ status: 200 })
  }
  for (const code of redeemed) {
    const row = await cluster.server.db
      .selectFrom('consumed_codes')
      .select('family_id')
      .where('digest', '=', digestOf(code))
      .executeTakeFirst()
    expect(row?.family_id).toMatch(/^fam_/)
  }
  return { rotations: rotated(), redemptions: redeemed.length }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

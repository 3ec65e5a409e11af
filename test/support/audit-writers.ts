// Many who write to the audit log of one organization at once, through several processes that may be killed at any moment:
// as functions of how many there are.
import { randomInt } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'kysely'
import { expect } from 'vitest'
import { type AuditReport, verifyDatabase } from '../../src/audit/verification.ts'
import { type Answer, attempt, type Cluster, type ServerProcess, send, untilReady } from './processes.ts'
import { at } from './races.ts'
import { makeWorld, type World } from './world.ts'

export interface WritersScene {
  cluster: Cluster
  world: World
  /** The value of an organization key that may do everything. */
  key: string
}

export async function makeWritersScene(cluster: Cluster): Promise<WritersScene> {
  const world = await makeWorld(cluster.server)
  const permissions = ['read', 'manage']
  const input = { organization: world.organizationId, label: 'writers', permissions }
  return { cluster, world, key: String((await cluster.server.run('organization-key create', input)).key) }
}

function ask(process: ServerProcess, value: string, method: string, path: string, body?: object, trace?: string) {
  return send(process, {
    path: `/api/v1${path}`,
    method,
    headers: {
      authorization: `Bearer ${value}`,
      'content-type': 'application/json',
      ...(trace === undefined ? {} : { 'x-trace-id': trace }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
}

/** Every chain, once all that is recorded is sealed. */
export async function verifySealed({ cluster }: WritersScene): Promise<AuditReport> {
  const deadline = performance.now() + 60_000
  for (;;) {
    const report = await verifyDatabase(cluster.server.app, () => {})
    const waits = report.chains.some(({ waiting }) => waiting > 0)
    if (!waits || performance.now() > deadline) return report
    await sleep(100)
  }
}

// --- Writers -----------------------------------------------------------------------------------------------------------

export interface Written {
  acknowledged: number
  /** From the last answer until nothing waited any more. */
  sealedAfterMs: number
  /** Records a second, from the first request to the last answer. */
  rate: number
}

/** Each writer is a job with a token of its own, and takes the processes in turn. */
export async function writeTogether(
  scene: WritersScene,
  { writers, each }: { writers: number; each: number },
): Promise<Written> {
  const { cluster, world } = scene
  const tokens = await Promise.all(
    Array.from({ length: writers }, async (_, writer) => {
      const body = { label: `writer ${writer}`, permissions: ['ingest'] }
      const path = `/workspaces/${world.workspaceId}/api-keys`
      const created = await ask(at(cluster.processes, writer % 2), scene.key, 'POST', path, body)
      expect(created.status, created.text).toBe(201)
      return JSON.parse(created.text).key as string
    }),
  )
  const startedAt = performance.now()
  let acknowledged = 0
  await Promise.all(
    tokens.map(async (token, writer) => {
      for (let turn = 0; turn < each; ) {
        const process = at(cluster.processes, (writer + turn) % cluster.processes.length)
        const body = { event: 'step.done', status: 'pass', detail: { turn } }
        const answer = await ask(process, token, 'POST', '/audit/events', body, `writer-${writer}-${turn}`)
        if (answer.status === 503 || answer.status === 429) {
          await sleep(100) // busy: nothing was written
          continue
        }
        expect(answer.status, answer.text).toBe(201)
        acknowledged++
        turn++
      }
    }),
  )
  const endedAt = performance.now()
  while ((await countWaiting(scene)) > 0) await sleep(20)
  return {
    acknowledged,
    sealedAfterMs: performance.now() - endedAt,
    rate: (acknowledged / (endedAt - startedAt)) * 1_000,
  }
}

async function countWaiting({ cluster, world }: WritersScene): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from audit_pending where organization_id = ${world.organizationId}`.execute(
    cluster.server.db,
  )
  return rows[0]?.count ?? 0
}

/** The traces of what the writers recorded, in the order of the chain. */
export async function sealedTraces({ cluster, world }: WritersScene): Promise<string[]> {
  const { rows } = await sql<{ trace_id: string }>`
    select e.trace_id from audit_chain c join audit_events e on e.id = c.event_id
    where c.chain = ${world.organizationId} and e.event = 'job.step.done' order by c.seq`.execute(cluster.server.db)
  return rows.map(({ trace_id }) => trace_id)
}

// --- Kills -------------------------------------------------------------------------------------------------------------

const WORKERS = 6

/** Tokens are made and revoked while one process after the other is killed (SIGKILL) and started again. */
export async function writeThroughKills(
  scene: WritersScene,
  kills: number,
): Promise<{ created: string[]; revoked: string[] }> {
  const { cluster } = scene
  const created: string[] = []
  const revoked: string[] = []
  let stopped = false
  const work = Array.from({ length: WORKERS }, async (_, worker) => {
    for (let turn = 0; !stopped; turn++) {
      const id = await makeOne(scene, `worker ${worker} turn ${turn}`, turn)
      if (id === undefined)
        await sleep(20) // killed, or starting
      else created.push(id)
      if (id !== undefined && (await revokeOne(scene, id, turn + 1))) revoked.push(id)
    }
  })
  for (let kill = 0; kill < kills; kill++) {
    await sleep(randomInt(10, 250))
    const place = kill % cluster.processes.length
    const victim = at(cluster.processes, place)
    await victim.kill()
    cluster.processes[place] = await cluster.start({ port: victim.port })
    await untilReady(at(cluster.processes, place))
  }
  stopped = true
  await Promise.all(work)
  return { created, revoked }
}

async function makeOne(scene: WritersScene, label: string, turn: number): Promise<string | undefined> {
  const body = { label, permissions: ['read'] }
  const answer = await tryAt(scene, turn, 'POST', `/workspaces/${scene.world.workspaceId}/api-keys`, body)
  return answer?.status === 201 ? JSON.parse(answer.text).id : undefined
}

async function revokeOne(scene: WritersScene, id: string, turn: number): Promise<boolean> {
  const answer = await tryAt(scene, turn, 'DELETE', `/workspaces/${scene.world.workspaceId}/api-keys/${id}`)
  return answer?.status === 204
}

/** What a client sees of a process that was killed is no answer at all. */
async function tryAt(
  { cluster, key }: WritersScene,
  turn: number,
  method: string,
  path: string,
  body?: object,
): Promise<Answer | undefined> {
  try {
    return await attempt(ask(at(cluster.processes, turn % cluster.processes.length), key, method, path, body))
  } catch (error) {
    if (error instanceof Error && /cut|no answer/.test(error.message)) return undefined
    throw error
  }
}

/** Tokens that are there and tokens that the log tells of: the same, in both ways. */
export async function compareTokens({ cluster, world }: WritersScene) {
  const { rows } = await sql<{ id: string; closed: boolean; made: number; ended: number }>`
    select coalesce(l.id, e.credential_id) as id, coalesce(l.closed_at is not null, false) as closed,
      count(*) filter (where e.event = 'token.created')::int as made,
      count(*) filter (where e.event = 'token.revoked')::int as ended
    from (select * from token_lines where workspace_id = ${world.workspaceId}) l
    full join (select * from audit_events where workspace_id = ${world.workspaceId}
      and event in ('token.created', 'token.revoked')) e on e.credential_id = l.id
    group by 1, 2`.execute(cluster.server.db)
  const lines = await cluster.server.db.selectFrom('token_lines').select('id').execute()
  return { found: rows, lines: new Set(lines.map(({ id }) => String(id))) }
}

/** What must hold after any kill: no acknowledged change without its record, and no record without its change. */
export async function expectOneRecordEach(
  scene: WritersScene,
  acknowledged: { created: string[]; revoked: string[] },
): Promise<void> {
  const { found, lines } = await compareTokens(scene)
  const byId = new Map(found.map((row) => [row.id, row]))
  expect(acknowledged.created.length).toBeGreaterThan(10)
  expect(acknowledged.created.filter((id) => byId.get(id)?.made !== 1)).toEqual([])
  expect(acknowledged.revoked.filter((id) => byId.get(id)?.ended !== 1 || byId.get(id)?.closed !== true)).toEqual([])
  expect(found.filter(({ id }) => !lines.has(id))).toEqual([])
  expect(found.filter(({ made, ended, closed }) => made !== 1 || ended !== (closed ? 1 : 0))).toEqual([])
}

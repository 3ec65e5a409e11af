// Two processes serve while the database beneath them is replaced by a backup; a process is killed before its sink has
// what it revoked; a sink is away for a while.
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Backup, backUp, canBackUp } from '../support/backups.ts'
import { type FaultProxy, type Next, startFaultProxy } from '../support/fault-proxy.ts'
import { attempt, type Cluster, patiently, send, startCluster } from '../support/processes.ts'
import { at } from '../support/races.ts'
import { call, makeTokenWorld, type TokenWorld } from '../support/token-races.ts'

describe.skipIf(!canBackUp())('with two processes running', () => {
  let cluster: Cluster
  let world: TokenWorld
  let proxy: FaultProxy
  beforeAll(async () => {
    cluster = await startCluster()
    proxy = await startFaultProxy(cluster.databaseUrl, 'postgres')
    world = await makeTokenWorld(cluster.server, at(cluster.processes, 0))
  })
  afterAll(async () => {
    await cluster?.close()
    await proxy?.close()
  })

  const waitingFor = async (place: number) =>
    JSON.parse((await send(at(cluster.processes, place), { path: '/readyz' })).text).waiting_for
  const statusAt = async (place: number, value: string) =>
    (await attempt(call(at(cluster.processes, place), 'GET', `/api/v1/workspaces/${world.world.workspaceId}`, value)))
      ?.status
  const revoke = async (id: string) => {
    const path = `${world.keysPath()}/${id}`
    expect((await patiently(() => call(at(cluster.processes, 0), 'DELETE', path, world.key.value))).status).toBe(204)
  }
  const linesAbout = (id: string) =>
    readFileSync(cluster.sink, 'utf8')
      .split('\n')
      .filter((line) => line.includes('"jws"'))
      .map((line) => Buffer.from(JSON.parse(line).jws.split('.')[1], 'base64url').toString('utf8'))
      .filter((payload) => payload.includes(id))

  it('a backup that comes back beneath them is noticed: what was revoked is accepted at no time', async () => {
    const [kept, revoked] = [await world.create(), await world.create()]
    const backup: Backup = await backUp(cluster.databaseUrl)
    await revoke(revoked.id)
    const seen: Array<number | undefined> = []
    let watching = true
    const watch = Promise.all(
      [0, 1].map(async (place) => {
        while (watching) seen.push(await statusAt(place, revoked.value))
      }),
    )
    await backup.restore()
    for (const place of [0, 1])
      await expect.poll(() => waitingFor(place), { timeout: 20_000 }).toContain('restore-check')
    expect(await statusAt(0, kept.value)).toBe(503)
    expect(await statusAt(1, kept.value)).toBe(503)

    const check = await patientlyRun('restore-check', { dry_run: false, accept_sink: false })
    expect(check).toMatchObject({ status: 'restored', revocations: 1 })
    for (const place of [0, 1]) await expect.poll(() => waitingFor(place), { timeout: 20_000 }).toBeUndefined()
    watching = false
    await watch
    expect(seen.filter((status) => status === 200)).toEqual([])
    expect(seen.filter((status) => status === 401).length).toBeGreaterThan(0)
    for (const place of [0, 1]) {
      expect(await statusAt(place, kept.value)).toBe(200)
      expect(await statusAt(place, revoked.value)).toBe(401)
    }
    await backup.close()
  })

  /** The operator's connections were cut as well. */
  async function patientlyRun(command: string, input: unknown) {
    for (;;) {
      try {
        return await cluster.server.run(command, input)
      } catch (error) {
        if (!(error instanceof Error && error.message === 'unavailable')) throw error
        await new Promise((resolve) => setTimeout(resolve, 200))
      }
    }
  }

  it('has each revocation in the sink before it is answered', async () => {
    for (let round = 0; round < 10; round++) {
      const { id } = await world.create()
      await revoke(id)
      expect(linesAbout(id)).toHaveLength(1)
    }
  })

  it('what a killed process had committed and not written, another one writes', async () => {
    const victim = await cluster.start({ databaseUrl: proxy.through(cluster.databaseUrl) })
    const { id } = await world.create()
    let killed: Promise<void> | undefined
    const written = proxy.once({
      on: 'insert into revocation_entries',
      at: 'done',
      act(): Next {
        killed = proxy.once({
          on: 'commit',
          at: 'done',
          async act(): Promise<Next> {
            await victim.kill()
            return 'cut'
          },
        })
        return 'pass'
      },
    })
    expect(await attempt(call(victim, 'DELETE', `${world.keysPath()}/${id}`, world.key.value))).toBeUndefined()
    await written
    await killed
    await expect.poll(() => linesAbout(id).length, { timeout: 10_000 }).toBeGreaterThanOrEqual(1)
    const isSent = async () => {
      const row = await cluster.server.db
        .selectFrom('revocation_entries')
        .select(['seq', 'sent_seq'])
        .where('subject', '=', id)
        .executeTakeFirstOrThrow()
      return row.sent_seq === row.seq
    }
    await expect.poll(isSent, { timeout: 10_000 }).toBe(true)
  })
})

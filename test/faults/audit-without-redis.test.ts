// Redis is killed: what concerns the audit log goes on, and nothing of it is lost.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ApiWorld, bearer, call, type MadeToken, makeApiWorld, makeToken } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { canThrowAwayRedis, startThrowawayRedis, type ThrowawayRedis } from '../support/throwaway-stores.ts'

describe.skipIf(!hasStores() || !canThrowAwayRedis())('the audit log without its Redis', () => {
  let redis: ThrowawayRedis
  let server: TestServer
  let world: ApiWorld
  let good: MadeToken
  let dead: MadeToken
  beforeAll(async () => {
    redis = await startThrowawayRedis()
    server = await startServer({ backend: 'stores', environment: { REDIS_URL: redis.url } })
    world = await makeApiWorld(server)
    good = await makeToken(server, world, { permissions: ['read', 'ingest'] })
    dead = await makeToken(server, world)
    const path = `/workspaces/${world.workspaceId}/api-keys/${dead.id}`
    expect((await call(server, bearer(world.key), 'DELETE', path)).status).toBe(204)
    await redis.kill()
  })
  afterAll(async () => {
    await server?.close()
    await redis?.close()
  })

  const recordsOf = (trace: string) =>
    server.db.selectFrom('audit_events').selectAll().where('trace_id', '=', trace).execute()
  const validate = (value: string, trace: string) =>
    call(server, bearer(value), 'GET', '/access/validate', { headers: { 'x-trace-id': trace } })

  it('a good credential is validated, and that is on record', async () => {
    const answer = await validate(good.key, 'away-good')
    expect(answer.status, answer.text).toBe(200)
    expect(await recordsOf('away-good')).toMatchObject([{ event: 'access_validation', status: 'pass' }])
  })

  it('a job appends its record', async () => {
    const headers = { 'x-trace-id': 'away-job' }
    const body = { event: 'import.finished', status: 'pass' }
    const answer = await call(server, bearer(good.key), 'POST', '/audit/events', { body, headers })
    expect(answer.status, answer.text).toBe(201)
    expect(await recordsOf('away-job')).toMatchObject([{ event: 'job.import.finished', status: 'pass' }])
  })

  it('a credential that has ended is refused and on record: thirty times one by one, then together', async () => {
    for (let count = 0; count < 34; count++) expect((await validate(dead.key, `away-dead-${count}`)).status).toBe(401)
    expect(await recordsOf('away-dead-0')).toMatchObject([{ status: 'fail', detail: { reason: 'revoked' } }])
    await server.app.uses.flush()
    const rows = await server.db
      .selectFrom('audit_events')
      .selectAll()
      .where('credential_id', '=', dead.id)
      .where('event', '=', 'access_validation')
      .execute()
    const together = rows.filter(({ detail }) => 'count' in detail)
    expect(rows.length - together.length).toBe(30)
    expect(together.reduce((sum, { detail }) => sum + Number(detail.count), 0)).toBe(4)
  })
})

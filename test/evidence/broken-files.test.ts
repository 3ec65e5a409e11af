// A file that cannot be read to its end: it is answered as a failure where that is seen in time, and is in the log of the
// server in any case.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type ApiWorld, bearer, call, makeApiWorld } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'

const RECORDS = 3_000
const DEEP = `${'{"a":'.repeat(4_000)}1${'}'.repeat(4_000)}`
const idOf = (place: number) => `aud_${String(place).padStart(26, '0')}`

describe.each<Backend>(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('a chain that lacks a record', () => {
    let server: TestServer
    let world: ApiWorld
    beforeAll(async () => {
      server = await startServer({ backend })
      world = await makeApiWorld(server)
      await sql`insert into audit_events (id, recorded_at, organization_id, event, status, trace_id, actor_kind)
        select 'aud_' || lpad(n::text, 26, '0'), clock_timestamp(), ${world.organizationId}, 'many.records', 'pass', 'many',
          'operator' from generate_series(1, ${RECORDS}::int) n`.execute(server.db)
      expect((await download('whole')).text).toContain('"end"')
      await lose(idOf(2_000))
    })
    afterAll(() => server?.close())

    const download = (trace: string) =>
      call(server, bearer(world.key), 'GET', '/audit/export', { headers: { 'x-trace-id': trace } })
    const linesOf = (trace: string) =>
      server.logLines
        .map((line) => JSON.parse(line))
        .filter(({ level, trace_id }) => trace_id === trace && level !== 'info')

    /** As somebody who owns the database can. */
    async function lose(id: string): Promise<void> {
      const { rows } = await sql<{ partition: string }>`
        select tableoid::regclass::text as partition from audit_events where id = ${id}`.execute(server.db)
      for (const table of ['audit_events', rows[0]?.partition ?? ''])
        await sql`alter table ${sql.table(table)} disable trigger user`.execute(server.db)
      await sql`delete from audit_events where id = ${id}`.execute(server.db)
    }

    it('breaks off, which the log says once, with the trace', async () => {
      const received = await download('midway').then(
        ({ text }) => text,
        () => 'broken off',
      )
      expect(received).not.toContain('"jws"')
      await expect.poll(() => linesOf('midway')).toHaveLength(1)
      const [line] = linesOf('midway')
      expect(line).toMatchObject({ level: 'error', msg: 'server error', err: { code: 'server_error' } })
      expect(line.err.stack).toContain('evidence')
    })

    it('is no failure of ours where the reader goes away', async () => {
      const going = new AbortController()
      const answer = await fetch(`${server.origin}/api/v1/audit/export?event=many.records`, {
        headers: { ...bearer(world.key).headers, 'x-trace-id': 'gone' },
        signal: going.signal,
      })
      expect(answer.status).toBe(200)
      const reader = answer.body?.getReader()
      await reader?.read()
      going.abort()
      await reader?.closed.catch(() => {})
      expect((await call(server, bearer(world.key), 'GET', '/audit/chain')).status).toBe(200)
      expect(linesOf('gone')).toEqual([])
    })

    it('is answered as a failure where the first page cannot be read', async () => {
      await lose(idOf(1))
      const answer = await download('at-once')
      expect([answer.status, answer.body.code]).toEqual([500, 'server_error'])
      expect(answer.headers.get('content-disposition')).toBeNull()
      expect(linesOf('at-once')).toHaveLength(1)
    })
  })
})

describe.each<Backend>(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('records that can never be sealed', () => {
    let server: TestServer
    let world: ApiWorld
    beforeAll(async () => {
      server = await startServer({ backend })
      world = await makeApiWorld(server)
      for (const [id, detail] of [
        ['aud_endless', '{"a":1e400}'],
        ['aud_nested', DEEP],
      ] as const)
        await sql`insert into audit_events (id, organization_id, event, status, trace_id, actor_kind, detail)
          values (${id}, ${world.organizationId}, 'x', 'pass', 'poisoned', 'operator', ${sql.lit(detail)}::jsonb)`.execute(
          server.db,
        )
    })
    afterAll(() => server?.close())

    const get = (path: string) => call(server, bearer(world.key), 'GET', path)

    it('are shown without a place, and what is nested too deep without its detail', async () => {
      const { status, body } = await get('/audit?trace_id=poisoned')
      expect(status).toBe(200)
      expect(body).toMatchObject([
        { id: 'aud_nested', seq: null, detail: { nested_too_deep: true } },
        { id: 'aud_endless', seq: null },
      ])
      for (const { id } of body)
        expect(await get(`/audit/${id}`)).toMatchObject({ status: 200, body: { seq: null, hash: null } })
    })

    it.each(['/audit/export', '/audit/export?format=csv', '/audit/evidence/poisoned'])(
      'are in no file of %s, which holds the others',
      async (path) => {
        const { status, text } = await get(path)
        expect(status).toBe(200)
        expect(text).not.toContain('aud_nested')
        expect(text).not.toContain('aud_endless')
        expect(text.includes('"jws"')).toBe(!path.endsWith('csv'))
        expect(text.split('\n').length > 5).toBe(!path.endsWith('poisoned'))
      },
    )
  })
})

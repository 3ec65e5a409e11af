// A value is in exactly one response, ever: no other answer, no line of the log, no row, no entry of the cache holds it,
// nor its secret part (product §3; threats F-01, F-02, K-01).
import { createHash } from 'node:crypto'
import { Redis } from 'ioredis'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { type Answer, type ApiWorld, bearer, call, exchange, listen, makeApiWorld, newLabel } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'

const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(BACKENDS)('a value (%s)', (backend) => {
  let server: TestServer
  let world: ApiWorld
  const answers: Answer[] = []
  let stop: () => void
  beforeAll(async () => {
    server = await startServer({ backend, environment: { LATCHKEY_LOG_LEVEL: 'trace' } })
    world = await makeApiWorld(server)
    stop = listen((answer) => answers.push(answer))
  })
  afterAll(() => {
    stop?.()
    return server?.close()
  })

  async function dumpTables(): Promise<string> {
    const { rows: tables } = await sql<{ name: string }>`
      select table_schema || '.' || table_name as name from information_schema.tables
      where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')`.execute(server.db)
    expect(tables.length).toBeGreaterThan(20)
    const texts = await Promise.all(
      tables.map(async ({ name }) => {
        const { rows } = await sql<{ text: string }>`select t::text as text from ${sql.raw(name)} t`.execute(server.db)
        return `${name}\n${rows.map(({ text }) => text).join('\n')}`
      }),
    )
    return texts.join('\n')
  }

  async function dumpRedis(): Promise<string> {
    if (backend !== 'stores') return ''
    const redis = new Redis(String(inject('redisUrl')))
    const prefix = `latchkey:${createHash('sha256').update(server.origin).digest('hex').slice(0, 12)}`
    const parts: string[] = []
    for await (const names of redis.scanStream({ match: `${prefix}*` })) {
      for (const name of names as string[]) {
        const type = await redis.type(name)
        const value = type === 'hash' ? JSON.stringify(await redis.hgetall(name)) : await redis.get(name)
        parts.push(`${name} ${value}`)
      }
    }
    redis.disconnect()
    expect(parts.length).toBeGreaterThan(0) // or the check would pass on nothing
    return parts.join('\n')
  }

  it('is in the one answer that made it, and nowhere else', async () => {
    const path = `/workspaces/${world.workspaceId}/api-keys`
    const place = `/organizations/${world.organizationId}/api-keys`
    const owner = world.people.owner
    const body = { label: newLabel(), permissions: ['read', 'manage'] }
    const headers = { 'idempotency-key': 'secret-1' }
    const values: string[] = []
    const keep = (answer: Answer) => {
      expect(answer.status, answer.text).toBe(201)
      expect(answer.headers.get('cache-control')).toBe('no-store')
      expect(answer.headers.get('etag')).toBeNull()
      values.push(answer.body.key)
      return answer.body
    }
    const token = keep(await call(server, bearer(world.key), 'POST', path, { body, headers }))
    await call(server, bearer(world.key), 'POST', path, { body, headers }) // replayed
    await call(server, bearer(world.key), 'POST', path, { body }) // label_in_use
    keep(await call(server, owner, 'POST', path, { body: { label: newLabel(), permissions: ['read'] } }))
    const rotation = keep(
      await call(server, bearer(world.key), 'POST', `${path}/${token.id}/rotate`, {
        headers: { 'idempotency-key': 'secret-2' },
      }),
    )
    await call(server, bearer(world.key), 'POST', `${path}/${token.id}/rotate`, {
      headers: { 'idempotency-key': 'secret-2' },
    })
    await call(server, bearer(world.key), 'POST', `${path}/${token.id}/rotate`) // cutover_pending
    const key = keep(await call(server, owner, 'POST', place, { body: { label: newLabel() } }))
    keep(await call(server, owner, 'POST', `${place}/${key.id}/rotate`))
    // Used, refused, exchanged, asked about, and reported.
    await call(server, bearer(rotation.key), 'GET', '/workspaces')
    await call(server, bearer(key.key), 'GET', '/workspaces')
    await exchange(server, rotation.key)
    await exchange(server, rotation.key, { scope: 'nonsense' })
    await call(server, bearer(`${token.key}x`), 'GET', '/workspaces')
    await call(server, bearer(token.key), 'GET', `/workspaces?access_token=${token.key}`)
    await call(server, bearer(token.key), 'POST', path, { body: { label: 5, permissions: [token.key] } })
    await call(server, bearer(token.key), 'POST', path, { raw: `{"label": "${token.key}` })
    await call(server, bearer(token.key), 'PATCH', `/workspaces/${token.key}`, { body: {} })
    await call(server, bearer(token.key), 'GET', `/${token.key}`)
    await call(server, bearer(token.key), 'GET', '/workspaces', {
      headers: { 'user-agent': `${token.key}`, 'x-profile-id': 'p', 'x-trace-id': `a ${token.key}` },
    })
    await fetch(`${server.origin}/${token.key}?token=${token.key}`)
    keep(await call(server, bearer(rotation.key), 'POST', path, { body: { label: newLabel(), permissions: ['read'] } }))
    await call(server, bearer(world.key), 'POST', `${path}/${token.id}/cutover`)
    await call(server, bearer(token.key), 'GET', '/workspaces') // reuse
    await call(server, { headers: {} }, 'POST', '/credentials/revoke', {
      body: { credentials: [rotation.key, token.key] },
    })
    for (const where of [path, place])
      for (const suffix of ['', '?filter=all', `/${where === path ? token.id : key.id}`])
        await call(server, owner, 'GET', where + suffix)
    await call(server, bearer(world.key), 'DELETE', `${path}/${token.id}`)
    await server.app.uses.flush()

    expect(values).toHaveLength(6)
    const tables = await dumpTables()
    const elsewhere = { logs: server.logLines.join('\n'), tables, redis: await dumpRedis() }
    expect(tables).toContain(token.key_prefix) // it is the right dump
    for (const value of values) {
      const secretPart = value.slice(value.indexOf('_', 4) + 1 + 7, -6)
      expect(secretPart).toHaveLength(33)
      const holding = answers.filter(({ text, headers: sent }) =>
        (text + JSON.stringify([...sent])).includes(secretPart),
      )
      expect(holding).toHaveLength(1)
      for (const [where, text] of Object.entries(elsewhere)) {
        expect([where, text.includes(secretPart)]).toEqual([where, false])
      }
    }
  })
})

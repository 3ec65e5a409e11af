// The end of a process does not wait for answers that go on, and records what they told.
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { readConfig } from '../../src/config.ts'
import type { OpenedDatabase } from '../../src/store/database.ts'
import { bearer, call, makeApiWorld, makeToken } from '../support/api.ts'
import { newSink, openEmbedded } from '../support/databases.ts'
import { freePort, startOn } from '../support/server.ts'
import { startUpstream, type Upstream } from '../support/upstream.ts'

let opened: OpenedDatabase
let upstream: Upstream
beforeAll(async () => {
  opened = await openEmbedded()
  upstream = await startUpstream()
})
afterAll(async () => {
  await upstream?.close()
  await opened?.close()
})

it('a call under way ends with the process, and is recorded by then', async () => {
  const environment = { LATCHKEY_TOUR: 'off', LATCHKEY_SINK: newSink(), LATCHKEY_OUTBOUND_PRIVATE: 'loopback' }
  const server = await startOn(readConfig({ PORT: String(await freePort()), ...environment }), opened)
  const world = await makeApiWorld(server)
  const { key } = await makeToken(server, world, { permissions: ['ingest'] })
  const body = { provider_type: 'anthropic', credentials_type: 'api_token', base_url: upstream.url }
  const made = await call(server, bearer(world.key), 'POST', `/workspaces/${world.workspaceId}/providers`, {
    body: { ...body, credentials: { api_token: 'sk-ant-canary-ending' } },
  })
  expect(made.status, made.text).toBe(201)
  upstream.answer((_asked, response) => {
    const message = { usage: { input_tokens: 1_000, output_tokens: 1 } }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(`data: ${JSON.stringify({ type: 'message_start', message })}\n\n`) // and never ends
  })
  const answer = await fetch(`${server.origin}/api/v1/proxy/anthropic/v1/messages`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'claude-sonnet-4-5', max_tokens: 100, stream: true, messages: [] }),
  })
  const reader = answer.body?.getReader()
  await reader?.read()
  const cut = reader?.read().catch((error: unknown) => error)
  const { rows: before } = await sql`select 1 from usage_events`.execute(opened.db)
  expect(before).toEqual([])

  await server.close()
  const { rows } = await sql`select input_tokens::int, is_estimated from usage_events`.execute(opened.db)
  expect(rows).toEqual([{ input_tokens: 1_000, is_estimated: true }])
  expect(await cut).toBeInstanceOf(Error)
})

// A provider that breaks off in the midst of an error: the call ends all the same, for its caller, its hold and its place.
import { createServer, type Server } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { MOST_AT_ONCE } from '../../src/proxy/under-way.ts'
import { type ApiWorld, bearer, call, makeApiWorld, makeToken } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'

describe.skipIf(!hasStores())('an error that is cut under a hard cap', () => {
  let server: TestServer
  let provider: Server
  let world: ApiWorld
  let key: string

  beforeAll(async () => {
    provider = createServer((socket) => {
      socket.on('error', () => {})
      socket.once('data', () => {
        socket.write('HTTP/1.1 503 Service Unavailable\r\ncontent-length: 500\r\n\r\n{"error":')
        socket.destroySoon()
      })
    })
    await new Promise<void>((resolve) => provider.listen(0, '127.0.0.1', resolve))
    const address = provider.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    // On PostgreSQL: releasing a hold takes a moment there, in which the answer ends.
    server = await startServer({ backend: 'stores', environment: { LATCHKEY_OUTBOUND_PRIVATE: 'loopback' } })
    world = await makeApiWorld(server)
    key = (await makeToken(server, world, { permissions: ['read', 'ingest'] })).key
    const path = `/workspaces/${world.workspaceId}`
    const made = await call(server, bearer(world.key), 'POST', `${path}/providers`, {
      body: {
        provider_type: 'anthropic',
        credentials_type: 'api_token',
        credentials: { api_token: 'sk-ant-canary-cut' },
        base_url: `http://127.0.0.1:${address.port}`,
      },
    })
    expect(made.status, made.text).toBe(201)
    const capped = await call(server, bearer(world.key), 'PUT', `${path}/budget`, {
      body: { cap: '1000', mode: 'hard' },
    })
    expect(capped.status).toBe(200)
  })
  afterAll(async () => {
    await server?.close() // would not end while a call is thought to be under way
    provider?.close()
  })

  async function ask(): Promise<string> {
    const response = await fetch(`${server.origin}/api/v1/proxy/anthropic/v1/messages`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'claude-sonnet-4-5', max_tokens: 100, messages: [] }),
      signal: AbortSignal.timeout(20_000),
    }).catch((error: Error) => error)
    if (response instanceof Error) return response.name === 'TimeoutError' ? 'no answer' : 'cut'
    const end = await response.text().then(
      () => 'whole',
      (error: Error) => (error.name === 'TimeoutError' ? 'no end' : 'cut'),
    )
    return response.status === 503 ? end : String(response.status)
  }

  it('takes no place of a call for good, and holds nothing', async () => {
    const all = await Promise.all(Array.from({ length: MOST_AT_ONCE }, ask))
    expect(new Set(all)).toEqual(new Set(['cut']))
    expect(await ask()).toBe('cut')
    const usage = async () => {
      const answer = await call(server, bearer(key), 'GET', `/workspaces/${world.workspaceId}/usage`)
      return [answer.body.held, answer.body.spent, answer.body.events]
    }
    await expect.poll(usage, { timeout: 10_000 }).toEqual(['0.00', '0.00', 0])
  })
})

// However an address is written, resolved or redirected: what an admin gives as a provider's leads to no listener of ours.
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { createServer, type Server, Socket } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Secret } from '../../src/crypto/secret.ts'
import { createOutbound } from '../../src/http/outbound.ts'
import type { WorkspaceId } from '../../src/ids.ts'
import { findProviderType } from '../../src/provider-types/registry.ts'
import type { ProviderType } from '../../src/provider-types/rules.ts'
import * as providers from '../../src/providers/service.ts'
import { type ApiWorld, bearer, call, makeApiWorld, makeToken, newLabel } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { json, MODELS, startUpstream, type Upstream } from '../support/upstream.ts'

let server: TestServer
let world: ApiWorld
let workspaceId: WorkspaceId
let canaries: Array<{ server: Server; port: number }>
let connections = 0
/** Sockets that this process opened to itself, to other ports than those of its stores. */
let opened: string[] = []

function watch(message: unknown): void {
  const socket: unknown = Reflect.get(Object(message), 'socket')
  if (!(socket instanceof Socket)) return
  socket.on('connect', () => {
    const { remoteAddress = '', remotePort } = socket
    const isOwn = remotePort === Number(new URL(server.origin).port)
    if (/^(127\.|::1$|::ffff:127\.)/.test(remoteAddress) && !isOwn && !STORES.has(remotePort ?? 0))
      opened.push(`${remoteAddress} ${remotePort}`)
  })
}
const STORES = new Set([5432, 6379])

async function listenAt(host: string): Promise<{ server: Server; port: number }> {
  const canary = createServer((socket) => {
    connections += 1
    socket.destroy()
  })
  await new Promise<void>((resolve) => canary.listen(0, host, resolve))
  return { server: canary, port: Number(Reflect.get(Object(canary.address()), 'port')) }
}

beforeAll(async () => {
  server = await startServer({
    backend: hasStores() ? 'stores' : 'embedded',
    environment: { LATCHKEY_OUTBOUND_PRIVATE: 'refuse' },
  })
  world = await makeApiWorld(server)
  canaries = await Promise.all(['127.0.0.1', '::1'].map(listenAt))
  subscribe('net.client.socket', watch)
})
afterAll(async () => {
  unsubscribe('net.client.socket', watch)
  for (const canary of canaries ?? []) canary.server.close()
  await server?.close()
})
beforeEach(async () => {
  connections = 0
  opened = []
  const made = await call(server, world.people.owner, 'POST', '/workspaces', {
    body: { name: newLabel(), organization_id: world.organizationId },
  })
  workspaceId = made.body.id
})

const HOSTS = [
  '127.0.0.1',
  '127.1',
  '127.0.0.2',
  '0.0.0.0',
  '0',
  '2130706433',
  '0x7f000001',
  '0177.0.0.1',
  '0x7f.0.0.1',
  '①②⑦.0.0.1',
  '[::1]',
  '[0:0:0:0:0:0:0:1]',
  '[::]',
  '[::ffff:127.0.0.1]',
  '[::ffff:7f00:1]',
  '[64:ff9b::7f00:1]',
  'localhost',
  'localhost.',
  'LOCALHOST',
  'localhost.localdomain',
  '169.254.169.254',
  'metadata.google.internal',
  '100.64.0.1',
  '[fc00::1]',
  '[fe80::1]',
  '10.0.0.1',
  '192.168.0.1',
]
const anthropic = findProviderType('anthropic') as ProviderType // it is in the registry

describe('an address of our own', () => {
  it.each(HOSTS)('%s, plain or encrypted, is refused or leads nowhere', async (host) => {
    const ports = canaries.map(({ port }) => port)
    const addresses = ports.flatMap((port) => [`http://${host}:${port}`, `https://${host}:${port}`])
    for (const base_url of [...addresses, `https://${host}`]) {
      const body = {
        provider_type: 'anthropic',
        credentials_type: 'api_token',
        credentials: { api_token: 'sk-canary-key' },
      }
      const path = `/workspaces/${workspaceId}/providers`
      const made = await call(server, bearer(world.key), 'POST', path, { body: { ...body, base_url } })
      expect([201, 400], made.text).toContain(made.status)
      if (made.status === 400) continue
      // A name: only resolving it tells where it leads.
      const checked = await call(server, bearer(world.key), 'POST', `${path}/${made.body.id}/verify`, { body: {} })
      expect(['failed', 'pending_verification']).toContain(checked.body.status)
      const { key } = await makeToken(server, { workspaceId, key: world.key }, { permissions: ['ingest'] })
      const proxied = await call(server, bearer(key), 'GET', '/proxy/anthropic/v1/models')
      expect(proxied.status).toBe(502)
      await call(server, bearer(world.key), 'DELETE', `${path}/${made.body.id}`)
    }
    expect(connections).toBe(0)
    expect(opened).toEqual([])
  })

  it('behind a name that is public first and ours afterwards is not called', async () => {
    let asked = 0
    const outbound = createOutbound({
      reach: 'public',
      lookup: (_name, done) => done(null, asked++ === 0 ? ['93.184.215.14'] : ['127.0.0.1']),
      mostMs: 300,
    })
    const deps = { ...server.app.providers, outbound }
    const { port } = canaries[0] ?? { port: 0 }
    for (let turn = 0; turn < 3; turn++) {
      const made = await create(deps, `https://rebinding.example:${port}`)
      const by = { actor: { kind: 'schedule' } as const, request: { traceId: 'rebinding' }, userId: null }
      expect((await providers.checkProvider(deps, made, by)).status).not.toBe('verified')
      await providers.deleteProvider(deps, { ...operator, workspaceId, id: made.id })
    }
    expect(asked).toBeGreaterThan(1)
    expect(connections).toBe(0)
    expect(opened).toEqual([])
  })

  it('that a good one redirects to is not called, by a check or a call', async () => {
    const [canary] = canaries
    const good: Upstream = await startUpstream()
    try {
      good.answer((_asked, response) => {
        response.writeHead(302, { location: `http://127.0.0.1:${canary?.port}/` }).end()
      })
      const outbound = createOutbound({ reach: 'loopback' })
      const deps = { ...server.app.providers, outbound }
      const made = await create(deps, good.url)
      const by = { actor: { kind: 'schedule' } as const, request: { traceId: 'redirect' }, userId: null }
      expect((await providers.checkProvider(deps, made, by)).statusReason).toBe('redirected')
      const signal = new AbortController().signal
      const answer = await outbound.open({ url: good.url, method: 'GET', headers: {}, signal })
      expect(answer).toMatchObject({ ok: true, status: 302 })
      if (answer.ok) answer.body.destroy()
      expect(good.asked).toHaveLength(2)
      expect(connections).toBe(0)
    } finally {
      await good.close()
    }
  })

  it('the watch itself sees a connection that is made', async () => {
    const good = await startUpstream()
    try {
      good.answer(json(200, MODELS))
      const signal = new AbortController().signal
      const answer = await createOutbound({ reach: 'loopback' }).open({
        url: good.url,
        method: 'GET',
        headers: {},
        signal,
      })
      if (answer.ok) answer.body.destroy()
      expect(opened).toEqual([expect.stringContaining('127.0.0.1')])
    } finally {
      await good.close()
    }
  })
})

const operator = { authority: { kind: 'operator' } as const, request: { traceId: 'reach' } }
const create = (deps: providers.ProvidersDeps, baseUrl: string) =>
  providers.createProvider(deps, {
    ...operator,
    workspaceId,
    type: anthropic,
    credentials: { apiToken: new Secret('sk-canary-key'), baseUrl },
  })

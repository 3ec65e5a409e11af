// Providers behind this server: with the stored key, for the credential's own workspace, as it comes, recorded and capped.
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Answer, type ApiWorld, bearer, call, makeApiWorld, makeToken, newLabel } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { json, MODELS, startUpstream, type Upstream } from '../support/upstream.ts'

const KEY = 'sk-ant-canary-proxy-0123456789abcdefghijklmnop'
const REQUEST = { model: 'claude-sonnet-4-5-20250929', max_tokens: 100, messages: [{ role: 'user', content: 'Hi' }] }
const MESSAGE = {
  id: 'msg_1',
  content: [{ type: 'text', text: 'Hello' }],
  usage: { input_tokens: 1_000, output_tokens: 200 },
}
const COST = '0.006' // 1,000 × 3 + 200 × 15 millionths

let server: TestServer
let world: ApiWorld
let upstream: Upstream
let workspaceId: string
let value: string
beforeAll(async () => {
  upstream = await startUpstream()
  server = await startServer({
    backend: hasStores() ? 'stores' : 'embedded',
    environment: { LATCHKEY_OUTBOUND_PRIVATE: 'loopback' },
  })
  world = await makeApiWorld(server)
})
afterAll(async () => {
  await server?.close()
  await upstream?.close()
})
beforeEach(async () => {
  const made = await call(server, world.people.owner, 'POST', '/workspaces', {
    body: { name: newLabel(), organization_id: world.organizationId },
  })
  workspaceId = made.body.id
  value = (await makeToken(server, { workspaceId, key: world.key }, { permissions: ['ingest', 'read'] })).key
  await connect('anthropic')
  upstream.answer(json(200, MESSAGE, { 'request-id': 'req_1', 'x-secret': 'none of ours', 'set-cookie': 'a=b' }))
})

async function connect(provider_type: string): Promise<void> {
  upstream.answer(json(500, {})) // says nothing of the key
  const body = { provider_type, credentials_type: 'api_token', credentials: { api_token: KEY }, base_url: upstream.url }
  const made = await call(server, bearer(world.key), 'POST', `/workspaces/${workspaceId}/providers`, { body })
  expect(made.status, made.text).toBe(201)
  await eventually(async () => (await provider(provider_type)).checked_at !== null)
  upstream.asked.length = 0
}
async function provider(type = 'anthropic') {
  const { body } = await call(server, bearer(world.key), 'GET', `/workspaces/${workspaceId}/providers`)
  return body.find((one: { provider_type: string }) => one.provider_type === type)
}
async function eventually(isSo: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 400; tries++) {
    if (await isSo()) return
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  throw new Error('it never came to be so')
}
const post = (path: string, body: unknown, headers: Record<string, string> = {}, as = value) =>
  call(server, bearer(as), 'POST', `/proxy${path}`, { body, headers })
const ask = (body: object = REQUEST, headers: Record<string, string> = {}) =>
  post('/anthropic/v1/messages', body, headers)
const usage = async () => (await call(server, bearer(value), 'GET', `/workspaces/${workspaceId}/usage`)).body
const events = async () => (await call(server, bearer(value), 'GET', `/workspaces/${workspaceId}/usage/events`)).body
const setCap = (cap: string) =>
  call(server, bearer(world.key), 'PUT', `/workspaces/${workspaceId}/budget`, { body: { cap, mode: 'hard' } })
function refused(answer: Answer, status: number, code: string): void {
  expect([answer.status, answer.body.code], answer.text).toEqual([status, code])
}

describe('a call', () => {
  it('is made with the stored key, and answered as the provider answers', async () => {
    const raw = `{ "model":"claude-sonnet-4-5", "max_tokens": 100,\n"big": 12345678901234567890 }`
    const answer = await call(server, bearer(value), 'POST', '/proxy/anthropic/v1/messages', {
      raw,
      headers: {
        'content-type': 'application/json',
        'anthropic-beta': 'b1',
        'x-api-key': 'mine',
        cookie: 'a=b',
        'x-other': '1',
      },
    })
    expect([answer.status, answer.body]).toEqual([200, MESSAGE])
    expect(answer.headers.get('x-upstream-request-id')).toBe('req_1')
    expect(answer.headers.get('x-secret')).toBeNull()
    expect(answer.headers.get('set-cookie')).toBeNull()
    expect(upstream.asked).toHaveLength(1)
    const [asked] = upstream.asked
    expect(asked?.body).toBe(raw) // to the byte
    expect(asked?.headers).toMatchObject({
      'x-api-key': KEY,
      'anthropic-version': '2023-06-01',
      'anthropic-beta': 'b1',
      'content-type': 'application/json',
    })
    for (const name of ['authorization', 'cookie', 'x-other', 'x-forwarded-for', 'x-trace-id'])
      expect(asked?.headers).not.toHaveProperty(name)
  })

  it('is recorded with its trace, model, tokens and price, and makes the connection verified', async () => {
    await ask(REQUEST, { 'x-trace-id': 'run-9', 'x-profile-id': 'customer:3' })
    expect(await events()).toMatchObject([
      {
        provider: 'anthropic',
        model: 'claude-sonnet-4-5-20250929',
        input_tokens: 1_000,
        output_tokens: 200,
        cost: COST,
        is_estimated: false,
        trace_id: 'run-9',
        profile_id: 'customer:3',
      },
    ])
    const { rows } = await sql`select prices from usage_events where workspace_id = ${workspaceId}`.execute(server.db)
    expect(rows).toEqual([{ prices: expect.stringMatching(/^\d{4}-\d\d-\d\d$/) }])
    await eventually(async () => (await provider()).status === 'verified')
  })

  it('of a model without a price is recorded with its tokens and no cost', async () => {
    await ask({ ...REQUEST, model: 'claude-of-tomorrow' })
    expect(await events()).toMatchObject([{ model: 'claude-of-tomorrow', cost: null, input_tokens: 1_000 }])
    expect(await usage()).toMatchObject({ spent: '0.00', unpriced_events: 1 })
  })

  it('that costs nothing is not recorded', async () => {
    upstream.answer(json(200, MODELS))
    const answer = await call(server, bearer(value), 'GET', '/proxy/anthropic/v1/models')
    expect(answer.body).toEqual(MODELS)
    expect((await post('/anthropic/v1/messages/count_tokens', REQUEST)).status).toBe(200)
    expect(await events()).toEqual([])
  })

  it('that the provider refuses for what it asked is answered as it is, and costs nothing', async () => {
    await setCap('10.00')
    upstream.answer(json(400, { error: { message: 'max_tokens: too many' } }, { 'retry-after': '3' }))
    const answer = await ask()
    expect([answer.status, answer.body]).toEqual([400, { error: { message: 'max_tokens: too many' } }])
    expect(answer.headers.get('retry-after')).toBe('3')
    expect(await usage()).toMatchObject({ spent: '0.00', held: '0.00', events: 0 })
  })

  it('that the provider refuses for its key says nothing of it, and the connection fails where that is so', async () => {
    upstream.answer(json(401, { error: `Incorrect API key provided: ${KEY.slice(0, 12)}***` }))
    const answer = await ask()
    refused(answer, 502, 'provider_failed')
    expect(answer.text).not.toContain('canary')
    await eventually(async () => (await provider()).status === 'failed')
    upstream.asked.length = 0
    refused(await ask(), 502, 'provider_failed')
    expect(upstream.asked).toEqual([])
  })

  it('that the provider forbids leaves the connection as it is', async () => {
    upstream.answer(json(403, { error: KEY }))
    refused(await ask(), 403, 'provider_forbids')
    expect((await provider()).status).toBe('pending_verification')
  })

  it('follows no redirect', async () => {
    upstream.answer((_asked, response) => void response.writeHead(307, { location: 'https://example.com' }).end())
    refused(await ask(), 502, 'provider_failed')
  })

  it('to a provider that is away is told so, and holds nothing', async () => {
    await setCap('10.00')
    upstream.answer((_asked, response) => void response.destroy())
    refused(await ask(), 502, 'provider_unreachable')
    expect(await usage()).toMatchObject({ spent: '0.00', held: '0.00' })
  })

  it('hides the key should anybody send it back, wherever it is cut', async () => {
    upstream.answer(async ({ headers }, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'x-ratelimit-key': String(headers['x-api-key']) })
      const text = JSON.stringify({ ...MESSAGE, echo: headers, again: `${KEY}${KEY}`, almost: KEY.slice(0, 20) })
      for (let at = 0; at < text.length; at += 7) {
        response.write(text.slice(at, at + 7))
        await new Promise((resolve) => setImmediate(resolve))
      }
      response.end()
    })
    const answer = await ask()
    expect(answer.text).not.toContain(KEY)
    expect(answer.headers.get('x-ratelimit-key')).toBeNull()
    expect(answer.body).toMatchObject({ again: '[secret][secret]', almost: KEY.slice(0, 20), id: 'msg_1' })
    expect((await events())[0]).toMatchObject({ cost: COST })
  })

  it.each([
    ['a page', 'text/html', '<script>alert(1)</script>'],
    ['nothing named', undefined, 'x'],
  ])('answered with %s is bytes here', async (_name, type, text) => {
    upstream.answer((_asked, response) => {
      response.writeHead(200, type === undefined ? {} : { 'content-type': type })
      response.end(text)
    })
    const answer = await ask()
    expect(answer.headers.get('content-type')).toBe('application/octet-stream')
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff')
  })

  it('of another workspace, or without the permission, reaches nothing', async () => {
    const other = (await makeToken(server, world, { permissions: ['ingest'] })).key
    refused(await post('/anthropic/v1/messages', REQUEST, {}, other), 404, 'not_found')
    const reader = (await makeToken(server, { workspaceId, key: world.key }, { permissions: ['read', 'manage'] })).key
    refused(await post('/anthropic/v1/messages', REQUEST, {}, reader), 403, 'insufficient_scope')
    refused(await post('/openai/v1/chat/completions', { model: 'gpt-5' }), 404, 'not_found')
    refused(
      await call(server, { headers: {} }, 'POST', '/proxy/anthropic/v1/messages', { body: REQUEST }),
      401,
      'unauthorized',
    )
    expect(upstream.asked).toEqual([])
  })

  it.each([
    ['/anthropic/v1/organizations', REQUEST, 404],
    ['/anthropic/v1/messages/../files', REQUEST, 404],
    ['/anthropic/v1/messages%2f..%2ffiles', REQUEST, 404],
    ['/anthropic/v1/messages', { max_tokens: 5 }, 400],
    ['/anthropic/v1/messages', { model: 'a b' }, 400],
    ['/anthropic/v1/messages', [], 400],
  ])('to %s with %j is refused', async (path, body, status) => {
    expect((await post(path, body)).status).toBe(status)
    expect(upstream.asked).toEqual([])
  })
})

describe('under a hard cap', () => {
  it('the most that a call can cost is held while it runs, and what it cost is spent after it', async () => {
    await setCap('1.00')
    const during: { held?: string; spent?: string } = {}
    upstream.answer(async (asked, response) => {
      Object.assign(during, await usage())
      await json(200, MESSAGE)(asked, response)
    })
    expect((await ask()).status).toBe(200)
    const bytes = Buffer.byteLength(JSON.stringify(REQUEST))
    expect(Number(during.held)).toBeCloseTo((bytes * 6 + 100 * 15) / 1e6, 6)
    expect(during.spent).toBe('0.00')
    expect(await usage()).toMatchObject({ held: '0.00', spent: COST })
  })

  it('a call that may cost more than is left is not made', async () => {
    await setCap('0.001')
    refused(await ask(), 402, 'budget_exceeded')
    expect(upstream.asked).toEqual([])
    expect((await call(server, bearer(value), 'GET', `/workspaces/${workspaceId}/violations`)).body).toMatchObject([
      { kind: 'refused', count: 1 },
    ])
  })

  it('a model without a price is refused', async () => {
    await setCap('100.00')
    const answer = await ask({ ...REQUEST, model: 'claude-of-tomorrow' })
    refused(answer, 402, 'budget_exceeded')
    expect(answer.body.detail).toContain('price')
    expect(upstream.asked).toEqual([])
  })

  it('of many at once no more are made than fit', async () => {
    const each = (Buffer.byteLength(JSON.stringify(REQUEST)) * 6 + 100 * 15) / 1e6
    await setCap((each * 3.5).toFixed(6))
    let inFlight = 0
    let most = 0
    upstream.answer(async (asked, response) => {
      inFlight += 1
      most = Math.max(most, inFlight)
      await new Promise((resolve) => setTimeout(resolve, 200))
      inFlight -= 1
      await json(200, { ...MESSAGE, usage: { input_tokens: 0, output_tokens: 100 } })(asked, response)
    })
    const answers = await Promise.all(Array.from({ length: 12 }, () => ask()))
    expect(most).toBeLessThanOrEqual(3)
    const made = answers.filter(({ status }) => status === 200).length
    expect(made).toBeGreaterThanOrEqual(3)
    expect(Number((await usage()).spent)).toBeCloseTo((made * 1_500) / 1e6, 6)
    expect(Number((await usage()).spent)).toBeLessThanOrEqual(each * 3.5)
  })

  it('what a call cost is recorded although its token was revoked meanwhile', async () => {
    await setCap('1.00')
    upstream.answer(async (asked, response) => {
      const tokens = await call(server, bearer(world.key), 'GET', `/workspaces/${workspaceId}/api-keys`)
      await call(server, bearer(world.key), 'DELETE', `/workspaces/${workspaceId}/api-keys/${tokens.body[0].id}`)
      await json(200, MESSAGE)(asked, response)
    })
    expect((await ask()).status).toBe(200)
    const { body } = await call(server, bearer(world.key), 'GET', `/workspaces/${workspaceId}/usage`)
    expect(body).toMatchObject({ spent: COST, held: '0.00' })
  })
})

describe('a stream', () => {
  const event = (name: string, data: unknown) => `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`
  const start = event('message_start', {
    message: { usage: { input_tokens: 1_000, cache_read_input_tokens: 10_000, output_tokens: 1 } },
  })
  const delta = (text: string) => event('content_block_delta', { delta: { type: 'text_delta', text } })
  const end = event('message_delta', { usage: { output_tokens: 200 } }) + event('message_stop', {})

  interface Streaming {
    response: IncomingMessage
    next(): Promise<string>
    hangUp(): void
  }

  async function open(
    path = '/anthropic/v1/messages',
    body: object = { ...REQUEST, stream: true },
  ): Promise<Streaming> {
    const { port } = new URL(server.origin)
    const headers = {
      authorization: `Bearer ${value}`,
      'content-type': 'application/json',
      host: new URL(server.origin).host,
    }
    const outgoing = httpRequest({ port, host: '127.0.0.1', path: `/api/v1/proxy${path}`, method: 'POST', headers })
    outgoing.on('error', () => {})
    outgoing.end(JSON.stringify(body))
    const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
    response.on('error', () => {})
    const chunks = response.iterator({ destroyOnReturn: false })
    return {
      response,
      next: async () => String((await chunks.next()).value),
      hangUp: () => outgoing.destroy(),
    }
  }

  it('passes part by part, none of them held back', async () => {
    const parts = [start, delta('one'), delta('two'), end]
    let go = () => {}
    upstream.answer(async (_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
      for (const part of parts) {
        response.write(part)
        await new Promise<void>((resolve) => {
          go = resolve
        })
      }
      response.end()
    })
    const stream = await open()
    expect(stream.response.headers['content-type']).toBe('text/event-stream; charset=utf-8')
    for (const part of parts) {
      expect(await stream.next()).toBe(part) // the next one is sent only after this one was seen
      go()
    }
    expect(await stream.next()).toBe('undefined') // its end
    expect(await events()).toMatchObject([
      { input_tokens: 11_000, output_tokens: 200, cost: '0.009', is_estimated: false },
    ])
  })

  it('is recorded by the time its end is seen', async () => {
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.end(start + delta('x') + end)
    })
    for (let turn = 1; turn <= 5; turn++) {
      const stream = await open()
      await once(stream.response.resume(), 'end')
      expect(await events()).toHaveLength(turn)
    }
  })

  it('ends at the provider when the client hangs up, and what it used by then is recorded', async () => {
    await setCap('10.00')
    let closed = false
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(start + delta('one'))
      response.on('close', () => {
        closed = true
      })
    })
    const stream = await open()
    await stream.next()
    stream.hangUp()
    await eventually(async () => closed)
    await eventually(async () => (await events()).length === 1)
    expect(await events()).toMatchObject([{ input_tokens: 11_000, output_tokens: 1, is_estimated: false }])
    expect((await usage()).held).toBe('0.00')
  })

  it('ends at the provider when the client hangs up before it began', async () => {
    let [begun, closed] = [false, false]
    upstream.answer((_asked, response) => {
      begun = true
      response.on('close', () => {
        closed = true
      })
    })
    const { port, host } = new URL(server.origin)
    const headers = { authorization: `Bearer ${value}`, 'content-type': 'application/json', host }
    const path = '/api/v1/proxy/anthropic/v1/messages'
    const outgoing = httpRequest({ port, host: '127.0.0.1', path, method: 'POST', headers })
    outgoing.on('error', () => {})
    outgoing.end(JSON.stringify(REQUEST))
    await eventually(async () => begun)
    outgoing.destroy()
    await eventually(async () => closed)
    await eventually(async () => (await events()).length === 1)
    expect(await events()).toMatchObject([{ is_estimated: true, output_tokens: 0 }])
  })

  it('that the provider cuts is cut here, and what passed is recorded as a guess', async () => {
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(delta('a'.repeat(400)))
      setTimeout(() => response.destroy(), 50)
    })
    const stream = await open()
    const [error] = await Promise.all([
      once(stream.response, 'error').catch((caught: unknown) => caught),
      stream.next(),
    ])
    expect(error).toBeDefined()
    await eventually(async () => (await events()).length === 1)
    expect((await events())[0]).toMatchObject({ is_estimated: true, output_tokens: 100 })
  })

  it('that nobody reads is not read from the provider either', async () => {
    let written = 0
    const stop = new AbortController()
    upstream.answer(async (_asked, response: ServerResponse) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      const part = delta('x'.repeat(60_000))
      while (!stop.signal.aborted && written < 200_000_000) {
        written += part.length
        if (!response.write(part)) await Promise.race([once(response, 'drain'), once(stop.signal, 'abort')])
      }
    })
    const stream = await open()
    stream.response.pause()
    let before = -1
    await eventually(async () => {
      const still = written === before
      before = written
      await new Promise((resolve) => setTimeout(resolve, 300))
      return still
    })
    expect(written).toBeLessThan(50_000_000) // what the buffers of the connections take
    stop.abort()
    stream.hangUp()
  })

  it('of OpenAI is asked to tell what it uses, also where the caller did not ask', async () => {
    await connect('openai')
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(`data: {"choices":[{"delta":{"content":"Hi"}}],"usage":null}\n\n`)
      response.end(
        `data: {"choices":[],"usage":{"prompt_tokens":100,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":40}}}\n\ndata: [DONE]\n\n`,
      )
    })
    const stream = await open('/openai/v1/chat/completions', { model: 'gpt-5', stream: true, messages: [] })
    await once(stream.response.resume(), 'end')
    const [asked] = upstream.asked
    expect(asked?.headers.authorization).toBe(`Bearer ${KEY}`)
    expect(JSON.parse(asked?.body ?? '')).toMatchObject({ stream_options: { include_usage: true } })
    // 60 × 1.25 + 40 × 0.125 + 10 × 10 millionths
    expect(await events()).toMatchObject([
      { provider: 'openai', input_tokens: 100, output_tokens: 10, cost: '0.00018' },
    ])
  })
})

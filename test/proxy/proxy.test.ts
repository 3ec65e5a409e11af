// Providers behind this server: with the stored key, for the credential's own workspace, as it comes, recorded and capped.
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { gzipSync } from 'node:zlib'
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

async function connect(provider_type: string, base_url = upstream.url): Promise<void> {
  upstream.answer(json(500, {})) // says nothing of the key
  const body = { provider_type, credentials_type: 'api_token', credentials: { api_token: KEY }, base_url }
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

  it('of many embeddings is read for its use, however long the answer is', async () => {
    await connect('openai')
    const embedding = Array.from({ length: 3_072 }, (_, at) => at / 3_072)
    const data = Array.from({ length: 60 }, (_, index) => ({ object: 'embedding', index, embedding }))
    const answer = { object: 'list', data, model: 'm', usage: { prompt_tokens: 50_000, total_tokens: 50_000 } }
    expect(JSON.stringify(answer).length).toBeGreaterThan(3_000_000)
    upstream.answer(json(200, answer))
    const got = await post('/openai/v1/embeddings', { model: 'text-embedding-3-large', input: 'x' })
    expect(got.body).toEqual(answer)
    expect(await events()).toMatchObject([
      { input_tokens: 50_000, output_tokens: 0, cost: '0.0065', is_estimated: false },
    ])
  })

  it('that tells nothing of its use is a guess by its length', async () => {
    upstream.answer(json(200, { content: [{ type: 'text', text: 'x'.repeat(4_000) }] }))
    await ask()
    const [event] = await events()
    expect(event.is_estimated).toBe(true)
    expect(event.output_tokens).toBeGreaterThanOrEqual(1_000)
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
    const away = await startUpstream()
    await away.close()
    await connect('openai', away.url)
    await setCap('10.00')
    refused(await post('/openai/v1/responses', { model: 'gpt-5', input: 'Hi' }), 502, 'provider_unreachable')
    expect(await usage()).toMatchObject({ spent: '0.00', held: '0.00', events: 0 })
  })

  it.each([
    // 1 token for 4 bytes of the request, at 3 millionths
    ['soft', 0, (bytes: number) => Math.ceil(bytes / 4) * 3],
    ['hard', 100, (bytes: number) => bytes * 6 + 100 * 15],
  ])('that a provider takes and never answers is a guess; under a %s cap of %i tokens', async (mode, tokens, cost) => {
    await call(server, bearer(world.key), 'PUT', `/workspaces/${workspaceId}/budget`, { body: { cap: '1000', mode } })
    upstream.answer((_asked, response) => void response.destroy())
    refused(await ask(), 502, 'provider_unreachable')
    expect(await events()).toMatchObject([{ output_tokens: tokens, is_estimated: true }])
    const bytes = Buffer.byteLength(JSON.stringify(REQUEST))
    expect(Number((await usage()).spent)).toBeCloseTo(cost(bytes) / 1e6, 6)
    expect(await usage()).toMatchObject({ held: '0.00' })
  })

  it('that is answered in an encoding nobody asked for is not passed on, and is a guess', async () => {
    await setCap('10.00')
    const packed = gzipSync(JSON.stringify(MESSAGE))
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'application/json', 'content-encoding': 'gzip' }).end(packed)
    })
    refused(await ask(), 502, 'provider_unreachable')
    expect(upstream.asked[0]?.headers['accept-encoding']).toBe('identity')
    expect(await events()).toMatchObject([{ output_tokens: 100, is_estimated: true }])
    expect(await usage()).toMatchObject({ held: '0.00' })
  })

  it.each(['000', '600', '999'])('answered with the status %s is not answered', async (status) => {
    upstream.answer((_asked, response) => {
      response.socket?.end(`HTTP/1.1 ${status} So\r\nContent-Length: 2\r\n\r\n{}`)
    })
    refused(await ask(), 502, 'provider_unreachable')
    expect(await events()).toEqual([])
  })

  it('is JSON whatever the caller calls it', async () => {
    const type = 'application/json; charset=utf-16'
    expect((await ask(REQUEST, { 'content-type': type })).status).toBe(200)
    expect(upstream.asked[0]?.headers['content-type']).toBe('application/json')
  })

  it('passes the parameters that client libraries send, and no others', async () => {
    expect((await post('/anthropic/v1/messages?beta=true', REQUEST)).status).toBe(200)
    const list = (query: string) => call(server, bearer(value), 'GET', `/proxy/anthropic/v1/models${query}`)
    expect((await list('?limit=5&after_id=a%26b')).status).toBe(200)
    expect((await list('')).status).toBe(200)
    expect(upstream.asked.map(({ path }) => path)).toEqual([
      '/v1/messages?beta=true',
      '/v1/models?limit=5&after_id=a%26b',
      '/v1/models',
    ])
    refused(await list('?key=1'), 400, 'invalid_request')
    refused(await post('/anthropic/v1/messages?limit=5', REQUEST), 400, 'invalid_request')
  })

  it('takes a token where Anthropic’s client library puts a key, and on its own routes only', async () => {
    const made = (path: string, headers: Record<string, string>) =>
      call(server, { headers }, 'POST', path, { body: REQUEST })
    expect((await made('/proxy/anthropic/v1/messages', { 'x-api-key': value })).status).toBe(200)
    expect(upstream.asked[0]?.headers['x-api-key']).toBe(KEY)
    refused(await made('/proxy/anthropic/v1/messages', { 'x-api-key': `${value}x` }), 401, 'unauthorized')
    const both = { 'x-api-key': value, authorization: `Bearer ${value}x` }
    refused(await made('/proxy/anthropic/v1/messages', both), 401, 'unauthorized')
    refused(await made('/proxy/openai/v1/responses', { 'x-api-key': value }), 401, 'unauthorized')
    refused(await made('/events', { 'x-api-key': value }), 401, 'unauthorized')
    expect(upstream.asked).toHaveLength(1)
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
    ['/anthropic/v1/messages', { ...REQUEST, max_tokens: -1 }, 400],
    ['/anthropic/v1/messages', { ...REQUEST, max_tokens: 1.5 }, 400],
    ['/anthropic/v1/messages', { ...REQUEST, max_tokens: '5' }, 400],
    ['/anthropic/v1/messages', { model: 'a b' }, 400],
    ['/anthropic/v1/messages', [], 400],
  ])('to %s with %j is refused', async (path, body, status) => {
    expect((await post(path, body)).status).toBe(status)
    expect(upstream.asked).toEqual([])
  })
})

describe('limits', () => {
  const text = (members: string) =>
    call(server, bearer(value), 'POST', '/proxy/anthropic/v1/messages', {
      raw: `{"model": "claude-sonnet-4-5", "messages": [], ${members}}`,
      headers: { 'content-type': 'application/json' },
    })

  it.each([
    '"max_tokens": 64000, "max_tokens": 1',
    '"max_tokens": 64000, "max\\u005ftokens": 1',
    '"max_tokens": 1, "tools": [{"type": "web_search_20250305", "type": "custom"}]',
  ])('a name that stands twice is refused: %s', async (members) => {
    const answer = await text(members)
    refused(answer, 400, 'invalid_request')
    expect(answer.body.detail).toContain('twice')
    expect(upstream.asked).toEqual([])
  })

  it('the same name in two objects is none', async () => {
    expect((await text('"max_tokens": 1, "a": [{"b": "\\"b\\": "}, {"b": {"b": "c", "max_tokens": 1}}]')).status).toBe(
      200,
    )
  })

  it.each([
    ['members', Array.from({ length: 200_000 }, (_, at) => `"${at}":1`).join(), 413],
    ['levels', `"a":${'['.repeat(1_000_000)}${']'.repeat(1_000_000)}`, 400],
  ])('%s without end are refused before anybody reads them', async (_what, members, status) => {
    expect((await text(members)).status).toBe(status)
    expect(upstream.asked).toEqual([])
  })

  it('64 calls of a credential run at once; one more is told to wait, and another credential is not', async () => {
    let finish = () => {}
    const finished = new Promise<void>((resolve) => {
      finish = resolve
    })
    upstream.answer(async (asked, response) => {
      await finished
      await json(200, MESSAGE)(asked, response)
    })
    const running = Array.from({ length: 64 }, () => ask())
    await eventually(async () => upstream.asked.length === 64)
    const answer = await ask()
    refused(answer, 429, 'too_many_requests')
    expect(answer.headers.get('retry-after')).toBe('1')
    const other = (await makeToken(server, { workspaceId, key: world.key }, { permissions: ['ingest'] })).key
    const others = post('/anthropic/v1/messages', REQUEST, {}, other)
    await eventually(async () => upstream.asked.length === 65)
    finish()
    expect((await Promise.all([...running, others])).every(({ status }) => status === 200)).toBe(true)
    expect((await ask()).status).toBe(200)
  })

  it('6,000 calls a minute of a credential are let through', async () => {
    const { body } = await call(server, bearer(world.key), 'GET', `/workspaces/${workspaceId}/api-keys`)
    for (let round = 0; round < 60; round++)
      await Promise.all(Array.from({ length: 100 }, () => server.app.ephemeral.increment('proxy', body[0].id, 60)))
    const answer = await ask()
    refused(answer, 429, 'too_many_requests')
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect(upstream.asked).toEqual([])
  })

  it('a request is not kept while its answer comes', async () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void // the flag brings it
    const bodies: Array<WeakRef<Buffer>> = []
    const { outbound } = server.app.providers
    const { open } = outbound
    outbound.open = (request) => {
      if (request.body !== undefined) bodies.push(new WeakRef(request.body))
      return open(request)
    }
    let finish = () => {}
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' }).write(': it begins\n\n')
      finish = () => response.end()
    })
    try {
      const asking = ask({ ...REQUEST, stream: true, messages: [{ role: 'user', content: 'x'.repeat(1_000_000) }] })
      await eventually(async () => bodies.length === 1)
      await eventually(async () => {
        collect()
        return bodies[0]?.deref() === undefined
      })
      finish()
      expect((await asking).text).toBe(': it begins\n\n')
    } finally {
      outbound.open = open
    }
  })

  it('bodies of one credential are so long together at most, and leave room once their calls end', async () => {
    const { port, host } = new URL(server.origin)
    const headers = { authorization: `Bearer ${value}`, 'content-type': 'application/json', host }
    const path = '/api/v1/proxy/anthropic/v1/messages'
    const part = Buffer.alloc(12 * 1024 * 1024, ' ')
    const begin = () => {
      const outgoing = httpRequest({
        port,
        host: '127.0.0.1',
        path,
        method: 'POST',
        headers: { ...headers, 'content-length': part.length + 1 },
      })
      outgoing.on('error', () => {})
      const answered = once(outgoing, 'response').then(([response]) => (response as IncomingMessage).statusCode)
      answered.catch(() => {})
      outgoing.write(part) // and never the last byte
      return { outgoing, answered }
    }
    const calls = Array.from({ length: 6 }, begin)
    try {
      expect(await Promise.race(calls.map(({ answered }) => answered))).toBe(429)
    } finally {
      for (const { outgoing } of calls) outgoing.destroy()
    }
    upstream.answer(json(200, MESSAGE))
    await eventually(
      async () =>
        (await ask({ ...REQUEST, messages: [{ role: 'user', content: 'x'.repeat(10_000_000) }] })).status === 200,
    )
  })

  it('the body of a call is kept as it came by these routes alone', () => {
    const keeping = server.app.apiRoutes.filter(({ keepsRaw }) => keepsRaw === true).map(({ path }) => path)
    expect(keeping).toHaveLength(5)
    expect(keeping.every((path) => path.startsWith('/proxy/'))).toBe(true)
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
    const many = 12
    let inFlight = 0
    let answered = 0
    const all = Promise.withResolvers<void>() // each is answered, or waits for the provider
    const look = () => inFlight + answered === many && all.resolve()
    upstream.answer(async (asked, response) => {
      inFlight += 1
      look()
      await all.promise
      await json(200, { ...MESSAGE, usage: { input_tokens: 0, output_tokens: 100 } })(asked, response)
    })
    const answers = await Promise.all(
      Array.from({ length: many }, () =>
        ask().finally(() => {
          answered += 1
          look()
        }),
      ),
    )
    expect(inFlight).toBe(3)
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(3).fill(200), ...Array(9).fill(402)])
    expect(Number((await usage()).spent)).toBeCloseTo((3 * 1_500) / 1e6, 6)
  })

  const ofOpenai = (body: object, path = '/chat/completions') => post(`/openai/v1${path}`, { messages: [], ...body })

  it('many choices hold as much as all of them can cost, also where no maximum was set', async () => {
    await connect('openai')
    await setCap('160.00')
    const answer = await ofOpenai({ model: 'gpt-5', n: 128 }) // 128 × 128,000 × 10 millionths: 163.84
    refused(answer, 402, 'budget_exceeded')
    expect(answer.body.detail).toContain('163.84')
    expect(upstream.asked).toEqual([])
  })

  it('what nobody can count is refused as too much', async () => {
    await connect('openai')
    await setCap('160.00')
    refused(await ofOpenai({ model: 'gpt-5', max_completion_tokens: 1e9, n: 1e9 }), 402, 'budget_exceeded')
    const { body } = await call(server, bearer(value), 'GET', `/workspaces/${workspaceId}/violations`)
    expect(body).toMatchObject([{ kind: 'refused', count: 1 }])
    expect(upstream.asked).toEqual([])
  })

  it.each([
    ['anthropic', { ...REQUEST, tools: [{ type: 'web_search_20250305', name: 'web_search' }] }],
    ['anthropic', { ...REQUEST, service_tier: 'priority' }],
    ['openai', { model: 'gpt-5', service_tier: 'priority' }],
  ])('what has no known bound is refused: %s %j', async (type, body) => {
    if (type === 'openai') await connect(type)
    await setCap('160.00')
    const answer = type === 'openai' ? await ofOpenai(body) : await ask(body)
    refused(answer, 402, 'budget_exceeded')
    expect(answer.body.detail).toContain('leave that out')
    expect(upstream.asked).toEqual([])
    await call(server, bearer(world.key), 'DELETE', `/workspaces/${workspaceId}/budget`)
    upstream.answer(json(200, MESSAGE))
    expect((type === 'openai' ? await ofOpenai(body) : await ask(body)).status).toBe(200)
  })

  it('what the provider fetches itself counts as much as the model takes', async () => {
    await setCap('1.00') // 200,000 × 6 millionths is more
    const image = { type: 'image', source: { type: 'url', url: 'https://example.com/a.png' } }
    const messages = [{ role: 'user', content: [image] }]
    refused(await ask({ ...REQUEST, messages }), 402, 'budget_exceeded')
    await setCap('2.00')
    expect((await ask({ ...REQUEST, messages })).status).toBe(200)
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

  it('ends at the provider when the client hangs up', async () => {
    let hungUp = false
    upstream.answer((_asked, response) => {
      response.on('close', () => {
        hungUp = true
      })
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(start + delta('one')) // and never ends
    })
    const stream = await open()
    await stream.next()
    stream.hangUp()
    await eventually(async () => hungUp)
    await eventually(async () => (await events()).length === 1)
    expect(await events()).toMatchObject([{ input_tokens: 11_000, output_tokens: 1, is_estimated: true }])
    expect(await usage()).toMatchObject({ held: '0.00' })
  })

  const LONG = { ...REQUEST, max_tokens: 60_000, stream: true }

  it.each([
    // 1,000 × 3 + 10,000 × 0.3 + 50,000 × 15 millionths: what was told of the input, and a quarter of the text
    ['soft', 50_000, '0.756'],
    // and 60,000 × 15: nobody knows what it thought besides, and so much was held
    ['hard', 60_000, '0.906'],
  ])('that is cut costs no less than what was seen of it; under a %s cap %i tokens', async (mode, tokens, cost) => {
    await call(server, bearer(world.key), 'PUT', `/workspaces/${workspaceId}/budget`, { body: { cap: '1000', mode } })
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(start)
      for (let part = 0; part < 20; part++) response.write(delta('x'.repeat(10_000)))
      response.write('event: ping\n')
    })
    const stream = await open('/anthropic/v1/messages', LONG)
    for (let seen = ''; !seen.endsWith('ping\n'); ) seen = (seen + (await stream.next())).slice(-20)
    stream.hangUp()
    await eventually(async () => (await events()).length === 1)
    expect(await events()).toMatchObject([{ input_tokens: 11_000, output_tokens: tokens, cost, is_estimated: true }])
    expect(await usage()).toMatchObject({ held: '0.00', spent: cost })
  })

  it.each([
    ['a capital type', 'Text/Event-Stream; charset=utf-8', '\n'],
    ['lines that end with a carriage return', 'text/event-stream', '\r'],
    ['lines that end with both', 'text/event-stream', '\r\n'],
  ])('with %s is read for its use', async (_name, type, lineEnd) => {
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': type })
      response.end((start + delta('one') + end).replaceAll('\n', lineEnd))
    })
    const stream = await open()
    await once(stream.response.resume(), 'end')
    expect(await events()).toMatchObject([{ input_tokens: 11_000, output_tokens: 200, is_estimated: false }])
  })

  it('that ends without the last word on its use is a guess too', async () => {
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.end(start + delta('x'.repeat(4_000)) + event('error', { error: { type: 'overloaded_error' } }))
    })
    const stream = await open()
    await once(stream.response.resume(), 'end')
    expect(await events()).toMatchObject([{ input_tokens: 11_000, output_tokens: 1_000, is_estimated: true }])
  })

  it('whose last word counts more input than its first costs what the last word says', async () => {
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(event('message_start', { message: { usage: { input_tokens: 2_679, output_tokens: 3 } } }))
      response.end(event('message_delta', { usage: { input_tokens: 10_682, output_tokens: 510 } }))
    })
    const stream = await open()
    await once(stream.response.resume(), 'end')
    expect(await events()).toMatchObject([{ input_tokens: 10_682, output_tokens: 510, is_estimated: false }])
  })

  it('is not waited for when the client hangs up before it began, and costs what was held: it may have to be paid', async () => {
    await setCap('10.00')
    let begun = false
    let hungUp = false
    upstream.answer((_asked, response) => {
      begun = true
      response.on('close', () => {
        hungUp = true
      })
    })
    const { held } = await leave(() => begun)
    await eventually(async () => hungUp)
    await eventually(async () => (await events()).length === 1)
    expect(await events()).toMatchObject([{ is_estimated: true, cost: held }])
    expect(await usage()).toMatchObject({ held: '0.00', spent: held })
  })

  async function leave(hasBegun: () => boolean) {
    const { port, host } = new URL(server.origin)
    const headers = { authorization: `Bearer ${value}`, 'content-type': 'application/json', host }
    const path = '/api/v1/proxy/anthropic/v1/messages'
    const outgoing = httpRequest({ port, host: '127.0.0.1', path, method: 'POST', headers })
    outgoing.on('error', () => {})
    outgoing.end(JSON.stringify(REQUEST))
    await eventually(async () => hasBegun())
    const { held } = await usage()
    outgoing.destroy()
    return { held }
  }

  it('is not asked for where the caller has left before it could be', async () => {
    await setCap('10.00')
    const route = server.app.apiRoutes.find(({ path }) => path === '/proxy/anthropic/v1/messages')
    const { body } = await call(server, bearer(world.key), 'GET', `/workspaces/${workspaceId}/api-keys`)
    const [{ id }] = body
    const made = {
      principal: { authority: { kind: 'key', id, version: 1 }, credentialId: id, tokenVersion: 1, workspaceId },
      request: { traceId: 'left' },
      raw: Buffer.from(JSON.stringify(REQUEST)),
      body: REQUEST,
      header: () => '',
      signal: AbortSignal.abort(),
    }
    await expect(route?.handle(made as never)).rejects.toMatchObject({ code: 'provider_unreachable' })
    expect(upstream.asked).toEqual([])
    expect(await usage()).toMatchObject({ held: '0.00', spent: '0.00', events: 0 })
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

  it('of OpenAI that is cut is guessed by its text, not by what frames it', async () => {
    await connect('openai')
    const chunk = (text: string) =>
      `data: ${JSON.stringify({ id: 'chatcmpl-0123456789', object: 'chat.completion.chunk', system_fingerprint: 'fp_0123456789', choices: [{ index: 0, delta: { content: text }, logprobs: null, finish_reason: null }], usage: null })}\n\n`
    upstream.answer((_asked, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      for (let part = 0; part < 100; part++) response.write(chunk('four'))
      setTimeout(() => response.destroy(), 50)
    })
    const stream = await open('/openai/v1/chat/completions', { model: 'gpt-4o', stream: true, messages: [] })
    stream.response.resume()
    await eventually(async () => (await events()).length === 1)
    expect(await events()).toMatchObject([{ is_estimated: true, output_tokens: 100 }])
  })

  it('with a line of its own for all of a long response is read for its use', async () => {
    await connect('openai')
    const text = 'He said: "so\\n" '.repeat(40_000)
    const output = [{ type: 'message', content: [{ type: 'output_text', text, annotations: [{ usage: {} }] }] }]
    const tools = [{ type: 'function', parameters: { properties: { usage: { type: 'object' } } } }]
    const response = { instructions: text, output, tools, usage: { input_tokens: 50, output_tokens: 60_000 } }
    upstream.answer((_asked, answer) => {
      answer.writeHead(200, { 'content-type': 'text/event-stream' })
      answer.end(event('response.completed', { type: 'response.completed', response }))
    })
    const stream = await open('/openai/v1/responses', { model: 'gpt-5', stream: true, input: 'Hi' })
    await once(stream.response.resume(), 'end')
    expect(await events()).toMatchObject([{ input_tokens: 50, output_tokens: 60_000, is_estimated: false }])
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

// The verifier in front of koa, express and a fetch-style handler: what a caller is told, over HTTP.
import { createServer, type Server } from 'node:http'
import type { Request as ExpressRequest, RequestHandler } from 'express'
import express from 'express'
import Koa from 'koa'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type Access,
  createVerifier,
  expressVerifier,
  fetchVerifier,
  koaVerifier,
  type Verifier,
} from '../../src/verifier/index.ts'
import { requestHead, sendRaw } from '../http/raw.ts'
import { AUDIENCE, openVerifier, type ScriptedIssuer, startIssuer } from './issuer.ts'

let issuer: ScriptedIssuer
let verify: Verifier
const servers: Server[] = []
const origins: Record<string, string> = {}

beforeAll(async () => {
  issuer = await startIssuer()
  verify = openVerifier(issuer)
  await verify.ready()
  const options = { scopes: ['read'] }
  const koa = new Koa()
  koa.use(koaVerifier(verify, options))
  koa.use((ctx) => {
    ctx.body = seen(ctx.state.access as Access)
  })
  const app = express()
  app.use(expressVerifier(verify, options) satisfies RequestHandler)
  app.use((request: ExpressRequest & { access?: Access }, response) => {
    response.json(request.access && seen(request.access))
  })
  const handler = fetchVerifier(verify, (_request, access) => Response.json(seen(access)), {
    ...options,
    clientIpOf: () => '192.0.2.1',
  })
  origins.koa = await listen(createServer(koa.callback()))
  origins.express = await listen(createServer(app))
  origins.fetch = await listen(
    createServer(async (request, response) => {
      const headers = new Headers()
      for (let place = 0; place < request.rawHeaders.length; place += 2)
        headers.append(request.rawHeaders[place] ?? '', request.rawHeaders[place + 1] ?? '')
      const answer = await handler(new Request(AUDIENCE, { headers }))
      response.writeHead(answer.status, Object.fromEntries(answer.headers)).end(await answer.text())
    }),
  )
})
afterAll(async () => {
  for (const server of servers) server.close().closeAllConnections()
  await verify?.close()
  await issuer?.close()
})

const seen = ({ workspaceId, scopes }: Access) => ({ workspaceId, scopes: [...scopes] })

async function listen(server: Server): Promise<string> {
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  return `http://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`
}

async function ask(kind: string, authorization?: string) {
  const response = await fetch(origins[kind] ?? '', { headers: authorization === undefined ? {} : { authorization } })
  const challenge = response.headers.get('www-authenticate')
  return { status: response.status, challenge, body: await response.json() }
}

describe.each(['koa', 'express', 'fetch'])('%s', (kind) => {
  it('lets both kinds of credential in, and says who calls', async () => {
    for (const value of [await issuer.jwt({ scope: 'read write' }), issuer.token({ scope: 'read write' })])
      for (const scheme of ['Bearer', 'bearer', 'BEARER', 'Bearer '])
        expect(await ask(kind, `${scheme} ${value}`)).toEqual({
          status: 200,
          challenge: null,
          body: { workspaceId: 'ws_1', scopes: ['read', 'write'] },
        })
  })

  it('answers the refusals of RFC 6750', async () => {
    const realm = `Bearer realm="${AUDIENCE}"`
    const invalid = { status: 401, challenge: `${realm}, error="invalid_token"`, body: { error: 'invalid_token' } }
    const missing = { ...invalid, challenge: `${realm}, scope="read"` }
    expect(await ask(kind)).toEqual(missing)
    expect(await ask(kind, 'Basic dTpw')).toEqual(missing)
    const jwt = await issuer.jwt()
    for (const value of ['', 'x', `${jwt} `.repeat(2), `${jwt}=`, 'a.b.c', 'x'.repeat(9_000)])
      expect(await ask(kind, `Bearer ${value}`)).toEqual(invalid)
    expect(await ask(kind, `Bearer ${await issuer.jwt({ environment: 'staging' })}`)).toEqual(invalid)
    expect(await ask(kind, `Bearer ${await issuer.jwt({ scope: 'write' })}`)).toEqual({
      status: 403,
      challenge: `${realm}, error="insufficient_scope", scope="read"`,
      body: { error: 'insufficient_scope' },
    })
  })

  it('does not choose between two credentials', async () => {
    const lines = [await issuer.jwt(), issuer.token()].map((value) => `Authorization: Bearer ${value}\r\n`)
    const head = requestHead('GET', '/', { Host: new URL(origins[kind] ?? '').host, Connection: 'close' }).toString()
    const answer = await sendRaw(origins[kind] ?? '', Buffer.from(head.replace(/\r\n/, `\r\n${lines.join('')}`)))
    expect(answer.status).toBe(400)
    expect(answer.head.join('\n').toLowerCase()).toContain('error="invalid_request"')
  })

  it('says that nobody can say, and when to come back, where that is so', async () => {
    issuer.onIntrospect = (_form, response) => void response.writeHead(500).end()
    const response = await fetch(origins[kind] ?? '', { headers: { authorization: `Bearer ${issuer.token()}` } })
    issuer.onIntrospect = undefined
    expect([response.status, response.headers.get('retry-after')]).toEqual([503, '1'])
    expect(await response.json()).toEqual({ error: 'unavailable' })
  })
})

it('tells the issuer from where a token came, so that it can be limited to addresses', async () => {
  const asked: Array<string | null> = []
  issuer.onIntrospect = (form, response) => {
    asked.push(form.get('client_ip'))
    response.end('{"active":false}')
  }
  for (const kind of ['koa', 'express', 'fetch']) await ask(kind, `Bearer ${issuer.token()}`)
  issuer.onIntrospect = undefined
  expect(asked.map((address) => address?.replace('::ffff:', ''))).toEqual(['127.0.0.1', '127.0.0.1', '192.0.2.1'])
})

it('a name that holds a quotation mark breaks no header', async () => {
  const other = createVerifier({
    issuer: issuer.origin,
    audience: 'an "API"',
    environment: ['production', 'staging'],
    clientId: 'a',
    clientSecret: 'b',
  })
  await expect(other(undefined)).rejects.toMatchObject({
    headers: { 'WWW-Authenticate': 'Bearer realm="an \\"API\\""' },
  })
  await other.close()
})

it('refuses to be made with options that cannot work', () => {
  const good = {
    issuer: issuer.origin,
    audience: 'a',
    environment: 'production',
    clientId: 'b',
    clientSecret: 'c',
  } as const
  for (const bad of [
    { issuer: 'id.example.com' },
    { issuer: 'https://id.example.com/path' },
    { audience: '' },
    { environment: [] },
    { environment: 'prod' },
    { environment: undefined },
    { clientId: '' },
    { clientSecret: '' },
    { whenBlind: 'never' },
  ])
    expect(() => createVerifier({ ...good, ...(bad as object) })).toThrow(TypeError)
})

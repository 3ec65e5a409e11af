// The verifier as an API uses it: against a server, over the network, with nothing of the server's own code in between.
import { createServer } from 'node:http'
import { SignJWT } from 'jose'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import {
  createVerifier,
  fetchVerifier,
  type Verifier,
  VerifierError,
  type VerifierOptions,
} from '../../src/verifier/index.ts'
import { hasStores } from '../support/databases.ts'
import { freePort, startServer, type TestServer } from '../support/server.ts'
import { API, connect, makeWorld, type World } from '../support/world.ts'

const OTHER_API = 'https://other.example.com'

describe.each(hasStores() ? (['embedded', 'stores'] as const) : (['embedded'] as const))('on %s', (backend) => {
  let server: TestServer
  let world: World
  let organizationKey: string
  let api: { id: string; secret: string }
  const verifiers: Verifier[] = []

  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeWorld(server)
    const key = await server.run('organization-key create', {
      organization: world.organizationId,
      label: 'provisioning',
      permissions: ['read', 'manage'],
    })
    organizationKey = String(key.key)
    const created = await server.run('resource create', {
      identifier: OTHER_API,
      environments: ['production'],
      scopes: [{ name: 'read', sentence: 'See', least_role: 'member' }],
    })
    api = { id: String(created.client_id), secret: String(created.client_secret) }
  })
  afterEach(async () => {
    await Promise.all(verifiers.splice(0).map((verify) => verify.close()))
  })
  afterAll(() => server.close())

  async function open(options: Partial<VerifierOptions> = {}): Promise<Verifier> {
    const verify = createVerifier({
      issuer: server.origin,
      audience: OTHER_API,
      environment: 'production',
      clientId: api.id,
      clientSecret: api.secret,
      ...options,
    })
    verifiers.push(verify)
    if (options.issuer === undefined && options.clientSecret === undefined) await verify.ready()
    return verify
  }

  async function call(method: string, path: string, body?: object) {
    const response = await fetch(`${server.origin}/api/v1${path}`, {
      method,
      headers: { authorization: `Bearer ${organizationKey}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, body: text === '' ? {} : JSON.parse(text) }
  }

  let labels = 0
  async function makeToken(more: object = {}): Promise<{ id: string; key: string }> {
    const made = await call('POST', `/workspaces/${world.workspaceId}/api-keys`, {
      label: `token ${++labels}`,
      permissions: ['read'],
      ...more,
    })
    expect(made.status).toBe(201)
    return made.body
  }

  async function exchange(token: string): Promise<string> {
    const response = await fetch(`${server.origin}/token`, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'urn:ietf:params:oauth:grant-type:token-exchange',
        subject_token: token,
        subject_token_type: 'urn:ietf:params:oauth:token-type:access_token',
        resource: OTHER_API,
      }),
    })
    const body = await response.json()
    expect(response.status).toBe(200)
    return body.access_token
  }

  const revoke = async (id: string) =>
    expect((await call('DELETE', `/workspaces/${world.workspaceId}/api-keys/${id}`)).status).toBe(204)

  async function refusal(verify: Verifier, header: string | undefined, options = {}): Promise<VerifierError> {
    try {
      await verify(header, options)
    } catch (error) {
      if (error instanceof VerifierError) return error
      throw error
    }
    throw new Error('it was accepted')
  }

  /** The feed brings it within a moment; outcomes, not times. */
  async function refusedSoon(verify: Verifier, header: string): Promise<void> {
    await expect
      .poll(
        () =>
          verify(header).then(
            () => 'accepted',
            () => 'refused',
          ),
        { timeout: 5_000 },
      )
      .toBe('refused')
    expect(await refusal(verify, header)).toMatchObject({ status: 401, code: 'invalid_token' })
  }

  it('says who calls, the same for both kinds', async () => {
    const verify = await open()
    const token = await makeToken()
    const jwt = await exchange(token.key)
    for (const [value, kind] of [
      [token.key, 'workspace_token'],
      [jwt, 'jwt'],
    ] as const) {
      const access = await verify(`Bearer ${value}`, { scopes: ['read'] })
      expect(access).toMatchObject({
        kind,
        subject: token.id,
        credentialId: token.id,
        workspaceId: world.workspaceId,
        organizationId: world.organizationId,
        environment: 'production',
        tokenVersion: 'v1',
      })
      expect([...access.scopes]).toEqual(['read'])
    }
  })

  it('asks nobody about a JWT, and about a token once', async () => {
    const asked: string[] = []
    const verify = await open({
      fetch: (input, init) => {
        asked.push(new URL(String(input)).pathname)
        return fetch(input, init)
      },
    })
    const token = await makeToken()
    const jwt = await exchange(token.key)
    await verify(`Bearer ${jwt}`)
    expect(verify.isLive()).toBe(true)
    for (let round = 0; round < 20; round++) {
      await verify(`Bearer ${jwt}`)
      await verify(`Bearer ${token.key}`)
    }
    expect(asked.filter((path) => path === '/introspect')).toHaveLength(1)
    expect(asked.filter((path) => path === '/revocations')).toHaveLength(1)
  })

  it('a revoked token is refused within a moment, and so is the JWT that came from it', async () => {
    const verify = await open()
    const token = await makeToken()
    const jwt = await exchange(token.key)
    await verify(`Bearer ${token.key}`)
    await verify(`Bearer ${jwt}`)
    await revoke(token.id)
    await refusedSoon(verify, `Bearer ${jwt}`)
    await refusedSoon(verify, `Bearer ${token.key}`)
  })

  it('a version that was cut over is refused, the newer one is not', async () => {
    const verify = await open()
    const token = await makeToken()
    const old = await exchange(token.key)
    await verify(`Bearer ${old}`)
    const rotated = await call('POST', `/workspaces/${world.workspaceId}/api-keys/${token.id}/rotate`, {})
    await call('POST', `/workspaces/${world.workspaceId}/api-keys/${token.id}/cutover`)
    await refusedSoon(verify, `Bearer ${old}`)
    await refusedSoon(verify, `Bearer ${token.key}`)
    expect(await verify(`Bearer ${rotated.body.key}`)).toMatchObject({ tokenVersion: 'v2' })
    expect(await verify(`Bearer ${await exchange(rotated.body.key)}`)).toMatchObject({ tokenVersion: 'v2' })
  })

  it('a closed connection’s JWT is refused, another connection’s is not', async () => {
    const owner = await server.run('resource create', {
      identifier: `${OTHER_API}/2`,
      environments: ['production'],
      scopes: [{ name: 'read', sentence: 'See', least_role: 'member' }],
    })
    const verify = await open({
      audience: `${OTHER_API}/2`,
      clientId: String(owner.client_id),
      clientSecret: String(owner.client_secret),
    })
    await verify.ready()
    const more = { scope: 'openid read', resource: `${OTHER_API}/2` }
    const [one, two] = [
      await connect(server, world, { more }),
      await connect(server, world, {
        more: { ...more, workspace: world.otherWorkspaceId },
        workspaceId: world.otherWorkspaceId,
      }),
    ]
    const first = await verify(`Bearer ${one.access_token}`)
    await verify(`Bearer ${two.access_token}`)
    await server.run('connection close', { connection: first.credentialId })
    await refusedSoon(verify, `Bearer ${one.access_token}`)
    expect(await verify(`Bearer ${two.access_token}`)).toMatchObject({ workspaceId: world.otherWorkspaceId })
  })

  it('refuses what is for another API, of another environment, or not ours', async () => {
    const verify = await open()
    const token = await makeToken()
    const jwt = await exchange(token.key)
    expect(await refusal(await open({ environment: 'staging' }), `Bearer ${jwt}`)).toMatchObject({ status: 401 })
    expect(await refusal(await open({ audience: API }), `Bearer ${jwt}`)).toMatchObject({ status: 401 })
    const [header, payload, signature = ''] = jwt.split('.')
    const changed = `${header}.${payload}.${signature.slice(0, -4)}${signature.endsWith('AAAA') ? 'BBBB' : 'AAAA'}`
    const forged = await new SignJWT({ scope: 'read' })
      .setProtectedHeader({ alg: 'HS256', typ: 'at+jwt' })
      .sign(Buffer.alloc(32))
    const none = `${Buffer.from('{"alg":"none","typ":"at+jwt"}').toString('base64url')}.${payload}.`
    for (const value of [
      changed,
      forged,
      none,
      `${jwt}x`,
      jwt.slice(0, -1),
      `${token.key}x`,
      token.key.slice(0, -1),
      'x',
    ])
      expect(await refusal(verify, `Bearer ${value}`)).toMatchObject({ status: 401, code: 'invalid_token' })
  })

  it('tells a caller what is missing, as RFC 6750 has it', async () => {
    const verify = await open()
    const token = await makeToken()
    expect(await refusal(verify, undefined)).toMatchObject({
      status: 401,
      headers: { 'WWW-Authenticate': `Bearer realm="${OTHER_API}"` },
    })
    expect(await refusal(verify, `Basic ${token.key}`)).toMatchObject({ status: 401, code: 'missing_token' })
    expect(await refusal(verify, `Bearer ${'x'.repeat(20_000)}`)).toMatchObject({ status: 401, code: 'invalid_token' })
    expect(await refusal(verify, `Bearer ${token.key}`, { scopes: ['read', 'write'] })).toMatchObject({
      status: 403,
      headers: { 'WWW-Authenticate': `Bearer realm="${OTHER_API}", error="insufficient_scope", scope="read write"` },
    })
    const handler = fetchVerifier(verify, (_request, access) => Response.json({ workspace: access.workspaceId }))
    const good = await handler(new Request(OTHER_API, { headers: { authorization: `Bearer ${token.key}` } }))
    expect(await good.json()).toEqual({ workspace: world.workspaceId })
    const bad = await handler(new Request(OTHER_API))
    expect([bad.status, bad.headers.get('www-authenticate')]).toEqual([401, `Bearer realm="${OTHER_API}"`])
  })

  it('a token that is limited to addresses is good from those alone', async () => {
    const verify = await open()
    const token = await makeToken({ ip_allow_list: ['192.0.2.0/24'] })
    expect(await verify(`Bearer ${token.key}`, { clientIp: '192.0.2.7' })).toMatchObject({ credentialId: token.id })
    expect(await refusal(verify, `Bearer ${token.key}`, { clientIp: '198.51.100.7' })).toMatchObject({ status: 401 })
    expect(await refusal(verify, `Bearer ${token.key}`)).toMatchObject({ status: 401 })
  })

  it('uses that it served from memory are seen beside the token', async () => {
    const verify = await open()
    const token = await makeToken()
    for (let use = 0; use < 5; use++)
      await verify(`Bearer ${token.key}`, { clientIp: '192.0.2.9', userAgent: 'nightly/1.0' })
    await verify.close()
    await server.app.uses.flush()
    const shown = await call('GET', `/workspaces/${world.workspaceId}/api-keys/${token.id}`)
    expect(shown.body.versions[0]).toMatchObject({ last_used_address: '192.0.2.9', last_used_agent: 'nightly/1.0' })
    const rows = await server.db
      .selectFrom('token_uses')
      .selectAll()
      .where('token_id', '=', token.id as `key_${string}`)
      .execute()
    expect(rows.reduce((sum, row) => sum + row.uses, 0)).toBe(5)
  })

  describe('cut off from the issuer', () => {
    it('refuses, or takes a JWT until it expires where its owner says so; a token never', async () => {
      const { target, cut } = await openGate(server.origin)
      const token = await makeToken()
      const jwt = await exchange(token.key)
      const through = (input: string | URL | Request, init?: RequestInit) =>
        fetch(String(input).replace(server.origin, target), init)
      const strict = await open({ fetch: through })
      const lenient = await open({ fetch: through, whenBlind: 'until-expiry' })
      for (const verify of [strict, lenient]) {
        await verify(`Bearer ${jwt}`)
        await verify(`Bearer ${token.key}`)
      }
      await cut()
      await expect.poll(() => strict.isLive() || lenient.isLive(), { timeout: 5_000 }).toBe(false)
      expect(await refusal(strict, `Bearer ${jwt}`)).toMatchObject({ status: 503, headers: { 'Retry-After': '1' } })
      expect(await lenient(`Bearer ${jwt}`)).toMatchObject({ credentialId: token.id })
      for (const verify of [strict, lenient])
        expect(await refusal(verify, `Bearer ${token.key}`)).toMatchObject({ status: 503 })
    })
  })

  describe('the feed', () => {
    const basic = () => `Basic ${Buffer.from(`${api.id}:${api.secret}`).toString('base64')}`
    const read = async (query = '', headers: Record<string, string> = { authorization: basic() }) => {
      const response = await fetch(`${server.origin}/revocations${query}`, { headers })
      return { status: response.status, body: await response.json() }
    }

    it('is for registered APIs only', async () => {
      for (const headers of [{}, { authorization: `Bearer ${organizationKey}` }, { authorization: 'Basic eDp5' }])
        expect((await read('', headers as Record<string, string>)).status).toBe(401)
      const plugin = `Basic ${Buffer.from(`${world.client.id}:${world.client.secret}`).toString('base64')}`
      expect((await read('', { authorization: plugin })).status).toBe(401)
    })

    it('begins with a snapshot, goes on from its cursor, and begins anew with any other', async () => {
      const token = await makeToken()
      await revoke(token.id)
      const snapshot = await read()
      expect(snapshot.body).toMatchObject({ snapshot: true })
      expect(snapshot.body.entries.length).toBeGreaterThan(0)
      expect(Math.abs(snapshot.body.complete_as_of - Date.now())).toBeLessThan(5_000)
      const next = await read(`?cursor=${snapshot.body.cursor}`)
      expect(next.body.entries).toEqual([])
      expect(next.body.snapshot).toBeUndefined()
      const waiting = read(`?cursor=${snapshot.body.cursor}&wait=20`)
      await revoke((await makeToken()).id)
      expect((await waiting).body.entries).toMatchObject([{ closed: true }])
      for (const cursor of ['x', 'abcdefghij.5', `${snapshot.body.cursor.split('.')[0]}.999999`])
        expect((await read(`?cursor=${cursor}`)).body).toMatchObject({ snapshot: true })
    })

    it('names no subject, and not the same way to two APIs', async () => {
      const token = await makeToken()
      await revoke(token.id)
      const mine = await read()
      expect(JSON.stringify(mine.body)).not.toContain(token.id)
      const other = await server.run('resource create', {
        identifier: `https://third-${labels}.example.com`,
        environments: ['production'],
        scopes: [{ name: 'read', sentence: 'See', least_role: 'member' }],
      })
      const theirs = await read('', {
        authorization: `Basic ${Buffer.from(`${other.client_id}:${other.client_secret}`).toString('base64')}`,
      })
      const subjects = (body: { entries: Array<{ subject: string }> }) => body.entries.map(({ subject }) => subject)
      expect(subjects(theirs.body)).toHaveLength(subjects(mine.body).length)
      expect(subjects(theirs.body).some((subject) => subjects(mine.body).includes(subject))).toBe(false)
    })
  })
})

/** A way to the server that can be closed for good. */
async function openGate(origin: string): Promise<{ target: string; cut: () => Promise<void> }> {
  const port = await freePort()
  const host = new URL(origin).host
  const gate = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk) => chunks.push(chunk))
    request.on('end', async () => {
      const abort = new AbortController()
      response.on('close', () => abort.abort())
      const headers = Object.fromEntries(
        Object.entries(request.headers).filter(([name]) => !['host', 'connection', 'content-length'].includes(name)),
      ) as Record<string, string>
      const answer = await fetch(`${origin}${request.url}`, {
        method: request.method ?? 'GET',
        headers: { ...headers, host },
        signal: abort.signal,
        ...(chunks.length === 0 ? {} : { body: Buffer.concat(chunks) }),
      }).catch(() => undefined)
      if (answer === undefined) return response.destroy()
      response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type') ?? '' })
      try {
        for await (const chunk of answer.body ?? []) response.write(chunk)
        response.end()
      } catch {
        response.destroy()
      }
    })
  })
  await new Promise<void>((resolve) => gate.listen(port, '127.0.0.1', resolve))
  return {
    target: `http://127.0.0.1:${port}`,
    cut: () =>
      new Promise((resolve) => {
        gate.close(() => resolve())
        gate.closeAllConnections()
      }),
  }
}

// Where identifiers may appear in runtime logs: enforced by the logger itself, and watched for the whole test suite.
import { pino } from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newToken } from '../../src/crypto/token-value.ts'
import { createLog, withoutIdentifiers } from '../../src/http/log.ts'
import { newId, newUserId } from '../../src/ids.ts'
import { newOpaqueAccessToken, newRefreshToken } from '../../src/oauth/token-values.ts'
import { type ApiWorld, bearer, call, exchanged, makeApiWorld, makeToken } from '../support/api.ts'
import { breachesIn, takeBreaches, watchedLog } from '../support/log-watch.ts'
import { startServer, type TestServer } from '../support/server.ts'

const JWT = 'eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl'
const token = () => newToken('workspace').value.reveal()

function logged(write: (log: ReturnType<typeof createLog>) => void): string {
  const { lines, ...destination } = watchedLog()
  write(createLog('trace', destination))
  return lines.join('')
}

/** Each with what it would be to somebody who reads the logs. */
const SECRETS: Array<[string, () => string]> = [
  ['the id of a person', newUserId],
  ['the address of a person', () => 'ada.lovelace+x@mail.example.com'],
  ['an escaped address', () => 'ada%40example.com'],
  ['an address with letters of its own', () => 'zoë@münchen.example'],
  ['a workspace token', token],
  ['an organization key', () => newToken('organization').value.reveal()],
  ['half a token', () => token().slice(0, 20)],
  ['a refresh token', newRefreshToken],
  ['an opaque access token', newOpaqueAccessToken],
  ['a JWT', () => JWT],
  ['half a JWT', () => JWT.slice(0, 60)],
  ['the version of a token', () => 'token_version: v7342'],
]

describe('the logger', () => {
  it.each(SECRETS)('writes no line with %s, wherever it was put', (_, make) => {
    const secret = make()
    const cause = Object.assign(new TypeError(`caused by ${secret}`), { code: secret, parameters: [secret] })
    const error = Object.assign(new Error(`it was "${secret}"`, { cause }), { email: secret })
    error.name = `Error of ${secret}`
    const fields = { trace_id: secret, profile_id: secret, workspace_id: secret, route: `/x/${secret}`, kind: secret }
    const text = logged((log) => {
      log.error({ err: error, ...fields, note: secret }, `message about ${secret}`)
      log.error(error)
      log.error(error, `another about${secret}`)
      log.warn(`text%20${secret}\n${secret}`)
      log.info({ user_id: secret, token_version: 'v3', headers: { authorization: secret } }, 'said %s', secret)
      log.debug({ err: secret }, secret)
    })
    expect(text.split('\n')).toHaveLength(7)
    const value = /v7342/.exec(secret)?.[0] ?? secret
    for (const part of [value, JSON.stringify(value).slice(1, -1)]) expect(text).not.toContain(part)
    expect(takeBreaches()).toEqual([])
  })

  it('keeps what a line is for: trace, workspace, profile, template, and where an error came from', () => {
    const workspace_id = newId('ws')
    const fields = { trace_id: 'job-2026-04-05.009', workspace_id, profile_id: 'customer:12', status: 500 }
    const line = JSON.parse(logged((log) => log.error({ ...fields, err: new RangeError('too far') }, 'server error')))
    expect(line).toMatchObject({ ...fields, level: 'error', msg: 'server error' })
    expect(line.err).toMatchObject({ name: 'RangeError', message: 'too far' })
    expect(line.err.stack).toMatch(/log\.test\.ts:\d+/)
  })

  it('writes an error that is its own cause, and a long line of causes, without losing where it came from', () => {
    const own = new Error('own')
    own.cause = new TypeError('between', { cause: own })
    let long = new Error('cause 0')
    for (let count = 1; count <= 10_000; count++) long = new Error(`cause ${count}`, { cause: long })
    const lines = [own, long].map((err) => JSON.parse(logged((log) => log.error({ err }, 'failed'))))
    expect(lines[0].err).toMatchObject({ message: 'own', cause: { message: 'between', cause: { message: 'own' } } })
    expect(lines[1].err).toMatchObject({ message: 'cause 10000', cause: { message: 'cause 9999' } })
  })

  it('drops every field that is not listed', () => {
    const line = JSON.parse(logged((log) => log.info({ user_id: 1, token_version: 2, body: {}, status: 200 }, 'x')))
    expect(Object.keys(line).sort()).toEqual(['level', 'msg', 'status', 'time'])
  })

  it('leaves paths of packages and versions of programs as they are, and takes no time for a long text', () => {
    const stack = 'at Router (/app/node_modules/@koa/router/lib/router.js:12:3) koa@3.0.1 "POST /api/v1/workspaces/:id"'
    expect(withoutIdentifiers(stack)).toBe(stack)
    const began = performance.now()
    const unended = [' ', '\n', '"', `'\\"`, ' : ', '= '].map((text) => `token_version${text.repeat(20_000)}`)
    for (const text of [
      ...[`${'a'.repeat(5e6)}@`, `${'a.'.repeat(2e6)}@${'b.'.repeat(2e6)}`, 'eyJ'.repeat(1e6)],
      ...[...unended, ...unended],
      ...['a@'.repeat(50_000), `x@${'a-'.repeat(31)}a.`.repeat(1_500), 'token_version '.repeat(5_000)],
    ])
      withoutIdentifiers(text)
    expect(performance.now() - began).toBeLessThan(5_000)
  })
})

describe('the lines of a server', () => {
  let server: TestServer
  let world: ApiWorld
  beforeAll(async () => {
    server = await startServer()
    world = await makeApiWorld(server)
  })
  afterAll(() => server?.close())

  it('name the template, never the path, also where there is none', async () => {
    const made = await makeToken(server, world)
    const jwt = await exchanged(server, made.key)
    const { workspaceId } = world
    const before = server.logLines.length
    const asked = [
      `/workspaces/${workspaceId}/members/${world.people.member.userId}`,
      `/workspaces/${workspaceId}/nothing/${world.people.member.userId}`,
      `/nothing/${made.key}`,
      `/access/validate?token_version=v1&workspace_id=${workspaceId}`,
    ]
    for (const credential of [bearer(made.key), bearer(jwt)])
      for (const path of asked)
        for (const method of ['GET', 'DELETE', 'PUT']) await call(server, credential, method, path)
    await fetch(`${server.origin}/sign-in/${made.key}?email=${world.people.member.email}`)
    await fetch(`${server.origin}/.well-known/${world.people.member.userId}`)
    const lines = server.logLines.slice(before).map((line) => JSON.parse(line))
    const routes = new Set(lines.filter(({ msg }) => msg === 'request').map(({ route }) => route))
    expect([...routes].sort()).toEqual([
      '/api/v1/access/validate',
      '/api/v1/workspaces/:workspace_id/members/:user_id',
      'none',
    ])
    expect(lines.some(({ workspace_id }) => workspace_id === workspaceId)).toBe(true)
    expect(takeBreaches()).toEqual([])
  })
})

describe('the watch over the test suite', () => {
  it.each([
    ...SECRETS.filter(([what]) => !/escaped|own|half a JWT/.test(what)).map(([what, make]) => [what, { msg: make() }]),
    ['a version in a field', { token_version: 'v3' }],
    ['a field that nobody listed', { note: 'harmless' }],
    ['what a driver attaches to an error', { err: { message: 'x', parameters: [1] } }],
    ['a raw path', { route: `/workspaces/${newId('ws')}` }],
    ['a query', { route: '/sign-in?a=b' }],
  ] as Array<[string, object]>)('finds %s in a line that was written past the logger', (_, fields) => {
    const destination = watchedLog()
    pino({ base: null }, destination).info(fields)
    expect(destination.lines).toHaveLength(1)
    expect(takeBreaches()).not.toEqual([]) // left there, it would fail this test
    expect(takeBreaches()).toEqual([])
  })

  it('finds them in what a process prints besides, and nothing in a harmless line', () => {
    expect(breachesIn(`Error: no token ${token()}`)).toHaveLength(1)
    expect(breachesIn('Latchkey is ready at http://localhost:8080')).toEqual([])
    const harmless = { level: 'info', time: 'x', trace_id: 'a', workspace_id: newId('ws'), msg: 'request' }
    expect(breachesIn(JSON.stringify({ ...harmless, method: 'GET', route: '/x/:id', status: 200 }))).toEqual([])
  })
})

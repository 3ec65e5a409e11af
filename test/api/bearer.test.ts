// Whatever stands behind "Bearer": one refusal, at once, and no store asked about what cannot be a token (threats D-16,
// D-18, D-20, F-05).
import { PGlite } from '@electric-sql/pglite'
import fc from 'fast-check'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { requestHead, sendRaw } from '../http/raw.ts'
import { type ApiWorld, bearer, call, exchanged, makeApiWorld, makeToken } from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld
let token: string
let jwt: string
let lookups = 0
beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_LOG_LEVEL: 'warn' } })
  world = await makeApiWorld(server)
  token = (await makeToken(server, world)).key
  jwt = await exchanged(server, token)
  const query = PGlite.prototype.query
  vi.spyOn(PGlite.prototype, 'query').mockImplementation(function counting(this: PGlite, text, ...rest) {
    if (/v\.digest = any/.test(text)) lookups++
    return query.call(this, text, ...rest) as never // the same call, counted
  })
})
afterAll(async () => {
  vi.restoreAllMocks()
  await server?.close()
})

const send = (authorization: string | Buffer | string[], path = '/api/v1/workspaces') => {
  const lines = [authorization]
    .flat()
    .map((value) => Buffer.concat([Buffer.from('Authorization: '), Buffer.from(value), Buffer.from('\r\n')]))
  const [start = '', rest = ''] = requestHead('GET', path, {
    Host: new URL(server.origin).host,
    'X-Trace-Id': 'constant',
  }).split(/(?<=\r\n)([\s\S]*)/)
  return sendRaw(server.origin, Buffer.concat([Buffer.from(start), ...lines, Buffer.from(rest)]))
}
const withoutTrace = (body: string) => body.replace(/"trace_id":"[^"]*"/, '"trace_id":""')
let refusal: string

async function expectRefused(authorization: string | Buffer, most = 1_000): Promise<void> {
  const startedAt = performance.now()
  const answer = await send(authorization)
  const name = authorization.toString('latin1' as never).slice(0, 80)
  expect([name, answer.status]).toEqual([name, 401])
  expect(performance.now() - startedAt).toBeLessThan(most)
  refusal ??= withoutTrace(answer.body)
  expect(withoutTrace(answer.body)).toBe(refusal)
  expect(JSON.parse(answer.body)).toMatchObject({ status: 401, code: 'unauthorized', trace_id: expect.any(String) })
  const head = answer.head.join('\n').toLowerCase()
  expect(head).toContain('www-authenticate: bearer ')
  expect(head).toContain('application/problem+json')
  expect(head).toContain('cache-control: no-store')
}

it('a token that is good is let in, and looked for: so the next ones fail for what they are', async () => {
  expect((await send(`Bearer ${token}`)).status).toBe(200)
  expect((await send(`Bearer ${jwt}`)).status).toBe(200)
  expect((await send(`bEARER   ${token}`)).status).toBe(200)
  const { key } = await makeToken(server, world)
  const before = lookups
  expect((await send(`Bearer ${key}`)).status).toBe(200)
  expect(lookups).toBe(before + 1)
})

const last = () => token.at(-1) ?? ''
const VARIANTS: Record<string, () => string> = {
  nothing: () => '',
  'an empty value': () => ' ',
  'the checksum off by one': () => token.slice(0, -1) + (last() === 'a' ? 'b' : 'a'),
  'two characters swapped': () =>
    token.slice(0, 20) + token[21] + (token[20] === token[21] ? 'x' : token[20]) + token.slice(22),
  'the first half': () => token.slice(0, token.length / 2),
  'the second half': () => token.slice(token.length / 2),
  'twice the token': () => token + token,
  'another case': () => token.toLowerCase(),
  'the prefix of a key': () => token.replace('tid_ws_', 'td_live_'),
  'the visible part': () => token.slice(0, 14),
  'a space behind, and more': () => `${token} x`,
  'a comma and a second one': () => `${token}, Bearer ${token}`,
  'a tab inside': () => `${token.slice(0, 20)}\t${token.slice(20)}`,
  'a NUL behind': () => `${token}\u0000`,
  'a NUL inside': () => `${token.slice(0, 20)}\u0000${token.slice(20)}`,
  'a DEL behind': () => `${token}\u007f`,
  'a bell before': () => `\u0007${token}`,
  'a folded line': () => `${token}\r\n more`,
  'a bare line feed behind': () => `${token}\nX-Other: y`,
  SQL: () => "' OR '1'='1",
  'more SQL': () => "x'; drop table token_versions;--",
  'a parameter of SQL': () => '$1',
  'a percent encoding': () => encodeURIComponent(`${token}\n`),
  emoji: () => '😀'.repeat(8),
  'a look-alike': () => token.replace('tid', 'tіd'),
  'full-width letters': () => 'ｔｉｄ_ws_',
  '15 KB': () => 'x'.repeat(15_000),
  '15 KB that begin well': () => token + 'x'.repeat(15_000),
  '17 KB': () => 'x'.repeat(17_000),
  '1 MB': () => 'x'.repeat(1_000_000),
  '1 MB that begins well': () => token + 'A'.repeat(1_000_000),
  'a JWT cut short': () => jwt.slice(0, -1),
  'a JWT without its signature': () => jwt.replace(/[^.]+$/, ''),
  'a JWT and a NUL': () => `${jwt}\u0000`,
  'a JWT of alg none': () =>
    `${Buffer.from('{"alg":"none","typ":"at+jwt"}').toString('base64url')}.${jwt.split('.')[1]}.`,
}

describe('refused, with the one refusal, and no store asked', () => {
  it.each(Object.keys(VARIANTS))('%s', async (name) => {
    const before = lookups
    await expectRefused(`Bearer ${VARIANTS[name]?.() ?? ''}`)
    expect(lookups).toBe(before)
  })

  it('a token cut by any number of characters, from either end', async () => {
    const before = lookups
    for (let cut = 1; cut < token.length; cut += 3) {
      await expectRefused(`Bearer ${token.slice(0, -cut)}`)
      await expectRefused(`Bearer ${token.slice(cut)}`)
    }
    expect(lookups).toBe(before)
  })

  it('any bytes, and any edit of a token', async () => {
    const bytes = fc
      .uint8Array({ minLength: 1, maxLength: 60 })
      .map((array) => Buffer.from(array.filter((byte) => byte !== 10 && byte !== 13)))
    const edited = fc
      .tuple(fc.nat({ max: 52 }), fc.string({ minLength: 1, maxLength: 3, unit: 'grapheme' }))
      .map(([at, text]) => Buffer.from(token.slice(0, at) + text.replaceAll(/[\r\n]/g, '') + token.slice(at + 1)))
      .filter((value) => !value.equals(Buffer.from(token)) && !/^\s|\s$/.test(value.toString()))
    const before = lookups
    await fc.assert(
      fc.asyncProperty(fc.oneof(bytes, edited), async (value) => {
        // Spaces around a value are no part of it.
        const shown = value.toString('latin1').trim()
        fc.pre(shown !== token)
        await expectRefused(Buffer.concat([Buffer.from('Bearer '), value]))
      }),
      { numRuns: 120 },
    )
    expect(lookups).toBe(before)
  })

  it('a value that has the form of a token and is none: asked once, refused the same', async () => {
    const { newToken } = await import('../../src/crypto/token-value.ts')
    for (const kind of ['workspace', 'organization'] as const)
      await expectRefused(`Bearer ${newToken(kind).value.reveal()}`)
  })
})

describe('another place for a credential', () => {
  it.each(['Basic', 'Token', 'DPoP', 'bearer:', ''])('the scheme %j is refused', async (scheme) => {
    await expectRefused(`${scheme} ${token}`)
  })

  it('the address is refused, alone or besides the header', async () => {
    for (const credential of [bearer(token), { headers: {} }]) {
      const answer = await call(server, credential, 'GET', `/workspaces?access_token=${token}`)
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid_request'])
      expect(answer.text).not.toContain(token)
    }
  })

  it('two headers are refused: nobody knows which one a proxy looked at', async () => {
    for (const pair of [
      [`Bearer ${token}`, `Bearer ${token}`],
      [`Bearer ${token}`, 'Bearer x'],
      ['Bearer x', `Bearer ${token}`],
    ]) {
      const answer = await send(pair)
      expect(answer.status).toBe(400)
      expect(answer.text).not.toContain(token)
    }
  })

  it('other headers and cookies are none', async () => {
    for (const headers of [
      { 'x-api-key': token },
      { cookie: `access_token=${token}` },
      { 'proxy-authorization': `Bearer ${token}` },
    ])
      expect((await call(server, { headers }, 'GET', '/workspaces')).status).toBe(401)
  })
})

it('tokens that share all but their end are told apart, also when one is remembered', async () => {
  const other = (await makeToken(server, world)).key
  const mixed = token.slice(0, 14) + other.slice(14)
  expect((await send(`Bearer ${token}`)).status).toBe(200)
  expect((await send(`Bearer ${mixed}`)).status).toBe(401)
})

it('a credential that ended between the door and the change is told what any other is', async () => {
  const made = await makeToken(server, world)
  expect((await call(server, bearer(made.key), 'GET', '/workspaces')).status).toBe(200) // remembered
  await sql`update token_lines set closed_at = now() where id = ${made.id}`.execute(server.db) // unknown to this process
  const answer = await call(server, bearer(made.key), 'POST', `/workspaces/${world.workspaceId}/api-keys`, {
    body: { label: 'too late', permissions: ['read'] },
  })
  expect([answer.status, answer.body.code]).toEqual([401, 'unauthorized'])
  expect(answer.headers.get('www-authenticate')).toContain('error="invalid_token"')
})

// Records of jobs: in their own workspace, under names of their own, exact, and without a credential in them.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { verifyDatabase } from '../../src/audit/verification.ts'
import { newToken } from '../../src/crypto/token-value.ts'
import { newRefreshToken } from '../../src/oauth/token-values.ts'
import {
  type ApiWorld,
  bearer,
  type Credential,
  call,
  connectPerson,
  exchanged,
  makeApiWorld,
  makeToken,
  memberNames,
  NOBODY,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld
let job: Credential
let token: { id: string; key: string }
beforeAll(async () => {
  server = await startServer({ backend: hasStores() ? 'stores' : 'embedded' })
  world = await makeApiWorld(server)
  token = await makeToken(server, world, { permissions: ['ingest'] })
  job = bearer(token.key)
})
afterAll(() => server?.close())

let traces = 0
async function append(
  body: unknown,
  options: { as?: Credential; headers?: Record<string, string>; raw?: string } = {},
) {
  const trace = `job-${++traces}`
  const sent = options.raw === undefined ? { body } : { raw: options.raw }
  const headers = { 'content-type': 'application/json', 'x-trace-id': trace, ...options.headers }
  const answer = await call(server, options.as ?? job, 'POST', '/audit/events', { ...sent, headers })
  const rows = await server.db.selectFrom('audit_events').selectAll().where('trace_id', '=', trace).execute()
  return { answer, rows, trace }
}
const PLAIN = { event: 'import.finished', status: 'pass' }

describe('a record of a job', () => {
  it('is answered as it is written, in the workspace of the credential, with the person behind it', async () => {
    const detail = { rows: 12, source: 'crm', parts: [1, { ok: true, none: null }] }
    const occurred_at = '2026-04-05T18:30:00.25+02:00'
    const body = { ...PLAIN, status: 'fail', occurred_at, profile_id: 'customer:12', detail }
    const { answer, rows, trace } = await append(body)
    expect(answer.status, answer.text).toBe(201)
    expect(rows).toHaveLength(1)
    const [row] = rows
    expect(answer.body).toMatchObject({
      id: row?.id,
      trace_id: trace,
      workspace_id: world.workspaceId,
      user_id: row?.user_id,
      profile_id: 'customer:12',
      token_version: 'v1',
      event: 'job.import.finished',
      status: 'fail',
      occurred_at,
    })
    expect(memberNames(answer.body)).toEqual(
      [
        ...['id', 'trace_id', 'workspace_id', 'user_id', 'profile_id', 'token_version', 'event', 'status'],
        ...['timestamp', 'occurred_at'],
      ].sort(),
    )
    expect(new Date(answer.body.timestamp).getTime()).toBe(row?.recorded_at.getTime())
    expect(row).toMatchObject({
      organization_id: world.organizationId,
      actor_kind: 'key',
      actor_id: token.id,
      credential_id: token.id,
      event: 'job.import.finished',
    })
    expect(row?.detail).toEqual({ occurred_at, data: detail })
  })

  it('needs no more than a name and an outcome, and takes the profile from the header', async () => {
    const { answer, rows } = await append(
      { event: 'job.started', status: 'pass' },
      { headers: { 'x-profile-id': 'p-1' } },
    )
    expect(answer.body).toMatchObject({ event: 'job.started', occurred_at: null, profile_id: 'p-1' })
    expect(rows[0]?.detail).toEqual({})
  })

  it('is taken of a JWT of a token and of a connection, which names its person', async () => {
    const jwt = await exchanged(server, token.key)
    expect((await append(PLAIN, { as: bearer(jwt) })).rows).toMatchObject([
      { credential_id: token.id, actor_kind: 'key' },
    ])
    const { access_token } = await connectPerson(server, world, world.people.admin, 'ingest')
    const { answer, rows } = await append(PLAIN, { as: bearer(String(access_token)) })
    expect([answer.status, answer.body.user_id]).toEqual([201, world.people.admin.userId])
    expect(rows).toMatchObject([{ actor_kind: 'connection', user_id: world.people.admin.userId }])
  })

  it('names the client of the connection that appended it, and is found by that', async () => {
    const { access_token } = await connectPerson(server, world, world.people.admin, 'ingest')
    const { client_id } = JSON.parse(Buffer.from(String(access_token).split('.')[1] ?? '', 'base64url').toString())
    const { rows, trace } = await append(PLAIN, { as: bearer(String(access_token)) })
    expect(rows).toMatchObject([{ client_id }])
    const found = await call(server, bearer(world.key), 'GET', `/audit?client_id=${client_id}&event=job.*`)
    expect(found.body).toMatchObject([{ trace_id: trace, client_id }])
    expect((await append(PLAIN)).rows).toMatchObject([{ client_id: null }])
  })

  it('cannot pass for one of ours, nor for stale', async () => {
    for (const event of ['token.created', 'token.reuse_detected', 'access_validation']) {
      const { answer, rows } = await append({ event, status: 'fail', detail: { reason: 'stale_version' } })
      expect([answer.status, rows[0]?.event, rows[0]?.detail.reason]).toEqual([201, `job.${event}`, undefined])
    }
  })

  it('is sealed like every other record', async () => {
    await append({ ...PLAIN, detail: { text: 'zoë \u{1f511} \u2028', nested: [[[{ a: -5 }]]] } })
    const whole = async () => (await verifyDatabase(server.app, () => {})) as { ok: boolean }
    await expect.poll(async () => (await whole()).ok).toBe(true)
  })
})

describe('what is not taken', () => {
  it('a call without a trace id of its own is 400 that says so; traceparent is one', async () => {
    for (const headers of [{}, { 'x-trace-id': '' }, { 'x-trace-id': 'a b' }, { traceparent: 'x' }] as Array<
      Record<string, string>
    >) {
      const answer = await call(server, job, 'POST', '/audit/events', { body: PLAIN, headers })
      expect([answer.status, answer.body.detail]).toEqual([400, expect.stringContaining('X-Trace-Id')])
    }
    const traceparent = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`
    const answer = await call(server, job, 'POST', '/audit/events', { body: PLAIN, headers: { traceparent } })
    expect([answer.status, answer.body.trace_id]).toEqual([201, 'ab'.repeat(16)])
  })

  it('other credentials, and those without the permission', async () => {
    const read = await makeToken(server, world, { permissions: ['read'] })
    const cases: Array<[Credential, number, string]> = [
      [NOBODY, 401, 'unauthorized'],
      [bearer(newToken('workspace').value.reveal()), 401, 'unauthorized'],
      [bearer(world.key), 403, 'wrong_credential'],
      [world.people.owner, 403, 'wrong_credential'],
      [bearer(read.key), 403, 'insufficient_scope'],
    ]
    for (const [as, status, code] of cases) {
      const { answer, rows } = await append(PLAIN, { as })
      expect([answer.status, answer.body.code, rows.filter(({ event }) => event.startsWith('job.'))]).toEqual([
        status,
        code,
        [],
      ])
    }
  })

  it.each([
    ['an event in capitals', { event: 'Import' }],
    ['an event with a space', { event: 'a b' }],
    ['an empty event', { event: '' }],
    ['an empty part', { event: 'a..b' }],
    ['an event of 81 characters', { event: 'a'.repeat(81) }],
    ['another outcome', { status: 'maybe' }],
    ['a time of no place', { occurred_at: '2026-04-05T18:30:00' }],
    ['no time', { occurred_at: 'yesterday' }],
    ['a time in the year 0', { occurred_at: '0000-01-01T00:00:00Z' }],
    ['a time nearly a day from UTC', { occurred_at: '2026-05-01T00:00:00+23:00' }],
    ['a time without end', { occurred_at: `2026-04-05T18:30:00.${'1'.repeat(60)}Z` }],
    ['a profile that is none', { profile_id: 'a b' }],
    ['a workspace', { workspace_id: 'ws_00000000000000000000000000' }],
    ['a list for detail', { detail: [] }],
    ['a text for detail', { detail: 'x' }],
    ['six levels', { detail: { a: { b: { c: { d: { e: {} } } } } } }],
    ['4,097 bytes', { detail: { a: 'x'.repeat(4_096 - 7) } }],
    ['4,097 bytes in fewer characters', { detail: { a: 'ü'.repeat(2_045) } }],
    ['half a character', { detail: { a: '\ud800' } }],
    ['a NUL in a name', { detail: { 'a\u0000': 1 } }],
  ])('%s is 400', async (_, wrong) => {
    const { answer, rows } = await append({ ...PLAIN, ...wrong })
    expect([answer.status, rows], answer.text).toEqual([400, []])
  })

  it.each(['0.5', '1e400', '-0', '9007199254740993', '1e-7', '[1,{"a":2.5}]'])(
    'the number %s is 400 that says how to send it',
    async (number) => {
      const { answer, rows } = await append(undefined, {
        raw: `{"event":"a","status":"pass","detail":{"n":${number}}}`,
      })
      expect([answer.status, rows]).toEqual([400, []])
      expect(answer.body.detail).toContain('send it as text')
    },
  )

  it.each([
    '{"__proto__":{"x":1},"a":1}',
    '{"__proto__":null}',
    '{"a":{"__proto__":{"y":1}}}',
    '{"a":[[{"\\u005f_proto__":1}]]}',
  ])('the detail %s is 400: what would not come back as it was sent is not taken', async (detail) => {
    const { answer, rows } = await append(undefined, { raw: `{"event":"a","status":"pass","detail":${detail}}` })
    expect([answer.status, answer.body.code, rows]).toEqual([400, 'invalid_request', []])
    expect(answer.body.detail).toContain('__proto__')
  })

  it('the same name beside the detail is 400', async () => {
    const { answer, rows } = await append(undefined, { raw: '{"event":"a","status":"pass","__proto__":{"x":1}}' })
    expect([answer.status, rows]).toEqual([400, []])
  })

  it('what fits exactly is taken', async () => {
    const detail = { a: { b: { c: { d: {} } } } }
    for (const fits of [
      { detail },
      { detail: { a: 'x'.repeat(4_096 - 8) } },
      { event: 'a'.repeat(80) },
      { detail: { n: Number.MAX_SAFE_INTEGER } },
    ])
      expect((await append({ ...PLAIN, ...fits })).answer.status).toBe(201)
  })

  it('a credential, whole or in part, wherever it stands, is 400, and is not repeated', async () => {
    const value = newToken('workspace').value.reveal()
    const jwt = await exchanged(server, token.key)
    const values = [value, value.slice(0, 25), world.key, newRefreshToken(), jwt, jwt.slice(0, 80), token.key]
    const bodies = (secret: string): object[] => [
      { detail: { a: secret } },
      { detail: { [secret]: 1 } },
      { detail: { a: { b: [['x', `Bearer ${secret}`]] } } },
      { detail: { a: `https://x.example/?t=%20${secret}&a` } },
      { detail: { a: `x${secret}` } },
      { profile_id: secret.slice(0, 128) },
      { event: secret },
      { event: `a.${secret.toLowerCase().slice(0, 40)}` },
    ]
    for (const secret of values) {
      for (const wrong of bodies(secret)) {
        const { answer, rows } = await append({ ...PLAIN, ...wrong })
        const isName = 'event' in wrong && secret.startsWith('eyJ') // a JWT in small letters is none any more
        if (isName && answer.status === 201) continue
        expect([JSON.stringify(wrong).slice(0, 60), answer.status, rows]).toEqual([
          JSON.stringify(wrong).slice(0, 60),
          400,
          [],
        ])
        expect(answer.text).not.toContain(secret.slice(8, 25))
      }
    }
  })
})

describe('again and again', () => {
  it('the same Idempotency-Key makes one record, and answers with it; another body is 422', async () => {
    const headers = { 'idempotency-key': 'run-1' }
    const first = await append({ ...PLAIN, detail: { n: 1 } }, { headers })
    const second = await append({ ...PLAIN, detail: { n: 1 } }, { headers })
    expect([first.answer.status, second.answer.status]).toEqual([201, 200])
    expect(second.answer.body).toEqual(first.answer.body)
    expect([first.rows.length, second.rows.length]).toEqual([1, 0])
    expect((await append(PLAIN, { headers })).answer.status).toBe(422)
  })

  it('6,000 records a minute of one credential, then 429 with the time to wait; others go on', async () => {
    const [own, other] = [await makeToken(server, world), await makeToken(server, world)]
    for (let count = 0; count < 5_999; count++) await server.app.ephemeral.increment('job-records', own.id, 600)
    expect((await append(PLAIN, { as: bearer(own.key) })).answer.status).toBe(201)
    const { answer, rows } = await append(PLAIN, { as: bearer(own.key) })
    expect([answer.status, rows]).toEqual([429, []])
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await append(PLAIN, { as: bearer(other.key) })).answer.status).toBe(201)
  })

  it('what was revoked meanwhile appends nothing', async () => {
    const own = await makeToken(server, world)
    expect((await append(PLAIN, { as: bearer(own.key) })).answer.status).toBe(201)
    // Behind the back of the process, which still remembers it as good.
    await sql`update token_lines set closed_at = now(), close_reason = 'test' where id = ${own.id}`.execute(server.db)
    const { answer, rows } = await append(PLAIN, { as: bearer(own.key) })
    expect([answer.status, rows.filter(({ event }) => event.startsWith('job.'))]).toEqual([401, []])
  })
})

// The audit log as pages: who sees which records, what they say, what is looked for, files, and a check of the chain.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ROOT } from '../../src/app.ts'
import { verifyFile } from '../../src/audit/file-verification.ts'
import { sealNow } from '../../src/audit/sealer.ts'
import { record } from '../../src/audit/service.ts'
import { readAuditQuery } from '../../src/console/audit-filter.ts'
import { KNOWN_EVENTS, sentenceOf } from '../../src/console/audit-sentences.ts'
import { chainView } from '../../src/console/audit-views.ts'
import type { OrganizationId } from '../../src/ids.ts'
import { newSink } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { connect, makeWorld, PASSWORD, type World } from '../support/world.ts'

const HOSTILE = '<img src=x onerror=alert(1)>"\'&'

let server: TestServer
let world: World
let other: World
let owner: UserAgent
let admin: UserAgent
let log: string
let whole: string

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  other = await makeWorld(server)
  owner = await signedIn(world.email)
  admin = (await person('admin')).agent
  log = `/workspaces/${world.workspaceId}/audit`
  whole = `/organizations/${world.organizationId}/audit`
})
afterAll(() => server?.close())

async function person(role: string): Promise<{ id: string; email: string; agent: UserAgent }> {
  const email = `${role}-${Math.random().toString(36).slice(2)}@example.com`
  const { id = '' } = await server.run('user create', { email, name: `The ${role}`, password: PASSWORD })
  await server.run('member add', { user: email, workspace: world.workspaceId, role })
  return { id, email, agent: await signedIn(email) }
}

async function signedIn(email: string): Promise<UserAgent> {
  const agent = server.userAgent()
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
  return agent
}

function write(trace: string, more: Partial<Parameters<typeof record>[1]> = {}): Promise<void> {
  return record(server.db, {
    event: 'test.thing_done',
    status: 'pass',
    actor: { kind: 'user', id: world.userId },
    request: { traceId: trace },
    organizationId: world.organizationId,
    workspaceId: world.workspaceId,
    ...more,
  })
}

const query = (parameters: Record<string, string>) => `?${new URLSearchParams(parameters)}`
const rowsIn = (html: string) => html.match(/<div class="event">/g)?.length ?? 0

it('nobody is led to sign in, a viewer and a member are refused, a neighbour finds nothing', async () => {
  const stranger = await signedIn(other.email)
  const roles = [(await person('viewer')).agent, (await person('member')).agent]
  await write('entry')
  const { id } = await server.db
    .selectFrom('audit_events')
    .select('id')
    .where('trace_id', '=', 'entry')
    .executeTakeFirstOrThrow()
  for (const path of [log, whole]) {
    const pages = [path, `${path}/${id}`, `${path}/export`, `${path}/evidence/entry`]
    for (const page of pages) {
      expect((await server.userAgent().request(page)).headers.get('location'), page).toMatch(/^\/sign-in/)
      expect((await stranger.open(page)).status, page).toBe(404)
      for (const agent of roles) expect((await agent.open(page)).status, page).toBe(403)
      expect((await owner.open(page)).status, page).toBe(200)
    }
  }
  expect((await admin.open(log)).status).toBe(200)
  expect((await admin.open(whole)).status).toBe(403) // in the organization they are a member
})

it('the tab is there for whoever may look', async () => {
  expect((await admin.open(`/workspaces/${world.workspaceId}/access`)).html).toContain(`href="${log}"`)
  const member = await person('member')
  expect((await member.agent.open(`/workspaces/${world.workspaceId}/access`)).html).not.toContain(`href="${log}"`)
  expect((await owner.open(`/organizations/${world.organizationId}`)).html).toContain(`href="${whole}"`)
})

it('a workspace shows its own records, the organization all of them', async () => {
  await write('mine', { detail: { where: 'here' } })
  await write('theirs', { workspaceId: world.otherWorkspaceId })
  await write('above', { workspaceId: null })
  const page = (await admin.open(log)).html
  expect(page).toContain('<bdi>mine</bdi>')
  expect(page).not.toContain('<bdi>theirs</bdi>')
  expect(page).not.toContain('<bdi>above</bdi>')
  const all = (await owner.open(whole)).html
  for (const trace of ['mine', 'theirs', 'above']) expect(all).toContain(`<bdi>${trace}</bdi>`)
  expect((await admin.open(log + query({ workspace_id: world.otherWorkspaceId }))).html).not.toContain(
    '<bdi>theirs</bdi>',
  )
  const foreign = await server.db
    .selectFrom('audit_events')
    .select('id')
    .where('trace_id', '=', 'theirs')
    .executeTakeFirstOrThrow()
  expect((await admin.open(`${log}/${foreign.id}`)).status).toBe(404)
  expect((await admin.open(`${log}/evidence/theirs`)).status).toBe(404)
})

it('says what happened as a sentence, with the names that people know', async () => {
  const { access_token } = await connect(server, world)
  const claims = JSON.parse(Buffer.from(access_token?.split('.')[1] ?? '', 'base64url').toString())
  const page = await owner.open(log + query({ credential_id: claims.credential_id, event: 'connection.approved' }))
  expect(page.html).toContain(
    '<strong><bdi>Ada</bdi></strong> connected <bdi>Tracepad</bdi>, with <code><bdi>traces:read</bdi></code>.',
  )
  expect(page.html).toContain('<li class="good"><div class="event">')
  await write('jobs', { event: 'job.import.finished', actor: { kind: 'key', id: 'key_x' }, credentialId: 'key_x' })
  expect((await owner.open(log + query({ trace_id: 'jobs' }))).html).toContain(
    'A job with <code><bdi>key_x</bdi></code> recorded <code><bdi>import.finished</bdi></code>.',
  )
  await write('unknown', { status: 'fail' })
  const unknown = (await owner.open(log + query({ trace_id: 'unknown' }))).html
  expect(unknown).toContain('<strong><bdi>Ada</bdi></strong>: <code><bdi>test.thing_done</bdi></code>.')
  expect(unknown).toContain('<li class="bad">')
})

/** Of every room: quoted beside the word. A job's own events are not ours. */
function eventsWritten(): string[] {
  const files = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
  const rooms = files.filter(
    (file) => file.endsWith('service.ts') || file.endsWith('settle.ts') || file.endsWith('tokens.ts'),
  )
  const lines = rooms.flatMap((file) => readFileSync(join(ROOT, 'src', file), 'utf8').split('\n'))
  const named = lines
    .filter((line) => /\bevent\b/.test(line))
    .flatMap((line) => line.match(/'[a-z_]+(\.[a-z_]+)+'/g) ?? [])
  return [...new Set(named)].map((quoted) => quoted.slice(1, -1))
}

it('knows every event that is written', () => {
  const written = eventsWritten()
  expect(written.length).toBeGreaterThan(50)
  expect(written.filter((event) => !KNOWN_EVENTS.includes(event))).toEqual([])
})

it('has a sentence for every event, whatever its members say or leave out', () => {
  const bare = {
    id: 'aud_x',
    timestamp: '2026-05-21T08:00:00.000000Z',
    organization_id: 'org_x',
    workspace_id: null,
    trace_id: 't',
    profile_id: null,
    actor_kind: 'nobody',
    actor_id: null,
    user_id: null,
    client_id: null,
    credential_id: null,
    token_version: null,
    address: null,
  }
  const full = { workspace_id: 'ws_x', actor_kind: 'user', actor_id: 'usr_x', user_id: 'usr_y', credential_id: 'key_x' }
  const known = { people: new Map([['usr_x', 'Ada']]), subjects: new Map([['key_x', 'ci']]) }
  for (const event of KNOWN_EVENTS)
    for (const status of ['pass', 'fail'] as const)
      for (const more of [{}, full])
        for (const detail of [
          {},
          { by: 'x', due_at: 7, count: 'x', reason: 'toString', permissions: 'x', resources: [null] },
        ]) {
          const { sentence } = sentenceOf({ ...bare, ...more, event, status, detail }, known)
          const text = sentence.map((part) => (typeof part === 'string' ? part : Object.values(part)[0])).join('')
          expect(text, event).toMatch(/\S.*\.$/s)
          expect(text, event).not.toMatch(/undefined|null|NaN|\[object|function| {2}/)
        }
})

it.each([
  ['trace_id', { request: { traceId: 'sought-trace' } }, 'sought-trace'],
  ['other_id', { userId: 'usr_sought' }, 'usr_sought'],
  ['event', { event: 'test.sought' }, 'test.sought'],
  ['event', { event: 'sought.kind' }, 'sought.*'],
  ['token_version', { tokenVersion: 78 }, 'v78'],
  ['credential_id', { credentialId: 'key_sought' }, 'key_sought'],
  ['profile_id', { request: { traceId: 't', profileId: 'sought-profile' } }, 'sought-profile'],
])('finds by %s, and nothing else', async (name, more, value) => {
  await write('sought', more)
  await write('not-sought')
  const page = await admin.open(log + query({ [name]: value }))
  expect(page.status).toBe(200)
  expect(rowsIn(page.html)).toBe(1)
  const none = await admin.open(
    log + query({ [name]: name === 'token_version' ? 'v787' : `${value.replace('.*', '')}x` }),
  )
  expect(rowsIn(none.html)).toBe(0)
  expect(none.html).toContain('No record is like that')
  expect(none.html).toContain(`<a href="${log}">Clear</a>`)
})

it('finds by status, by what was stale, and by days of which the last is included', async () => {
  await write('kinds', { status: 'fail', detail: { reason: 'stale_version' } })
  await write('kinds', { status: 'fail' })
  await write('kinds')
  const count = async (more: Record<string, string>) =>
    rowsIn((await admin.open(log + query({ trace_id: 'kinds', ...more }))).html)
  expect(await count({})).toBe(3)
  expect(await count({ status: 'fail' })).toBe(2)
  expect(await count({ status: 'pass' })).toBe(1)
  expect(await count({ stale: 'yes' })).toBe(1)
  const { rows } = await sql<{ day: string }>`select to_char(recorded_at at time zone 'utc', 'YYYY-MM-DD') as day
    from audit_events where trace_id = 'kinds' order by recorded_at`.execute(server.db)
  const [first = '', last = ''] = [rows[0]?.day, rows.at(-1)?.day]
  expect(await count({ from: first, to: last })).toBe(3)
  expect(await count({ to: '2020-01-01' })).toBe(0)
  expect(await count({ from: '2199-12-31' })).toBe(0)
})

it.each([
  ['trace_id', 'two words'],
  ['trace_id', '\0'],
  ['trace_id', 'x'.repeat(129)],
  ['token_version', 'three'],
  ['token_version', 'v99999999999'],
  ['event', 'Not an event'],
  ['status', 'perhaps'],
  ['user_id', 'ä'],
  ['workspace_id', 'ä'],
  ['from', '2026-02-30'],
  ['to', '9999-12-31'],
  ['to', 'tomorrow'],
  ['credential_id', '\u{1F511}'],
  ['before', 'x'],
  ['before', '2026-13-01T00:00:00.000000Z aud_1'],
  ['before', '0000-01-01T00:00:00.000000Z aud_1'],
  ['before', "2026-05-21T08:00:00.000000Z aud_1' or 1=1"],
  ['before', '294277-05-21T08:00:00.000000Z aud_1'],
])('says that %s cannot be “%s”, and looks for nothing', async (name, value) => {
  const page = await admin.open(log + query({ [name]: value }))
  expect(page.status).toBe(400)
  expect(rowsIn(page.html)).toBe(0)
  expect(page.html).toContain('role="alert"')
  if (name !== 'before') {
    expect(page.html).toContain(`id="${name}-error"`)
    expect(page.html).toMatch(new RegExp(`name="${name}"[^>]* aria-invalid="true" aria-describedby="${name}-error"`))
  }
  const file = await admin.open(`${log}/export${query({ [name]: value })}`)
  expect(file.status).toBe(400)
})

it('refuses a range that ends before it begins, and a person named twice', () => {
  const problemsOf = (given: Record<string, string>) => Object.keys(readAuditQuery(new URLSearchParams(given)).problems)
  expect(problemsOf({ from: '2026-05-21', to: '2026-05-20' })).toEqual(['to'])
  expect(problemsOf({ from: '2026-05-21', to: '2026-05-21' })).toEqual([])
  expect(problemsOf({ user_id: 'usr_a', other_id: 'usr_b' })).toEqual(['other_id'])
})

it('goes through older pages to the end: each record once, newest first', async () => {
  for (let place = 0; place < 103; place++) await write('paged', { detail: { place } })
  const seen: string[] = []
  let next: string | undefined = log + query({ trace_id: 'paged' })
  let pages = 0
  while (next !== undefined) {
    const { html, status } = await admin.open(next)
    expect(status).toBe(200)
    seen.push(
      ...[...html.matchAll(/<dt><bdi>detail\.place<\/bdi><\/dt><dd><code><bdi>(\d+)</g)].map(
        ([, place]) => place ?? '',
      ),
    )
    next = /href="([^"]*)">Older records/.exec(html)?.[1]?.replaceAll('&amp;', '&')
    pages++
  }
  expect(pages).toBe(3)
  expect(seen).toEqual(Array.from({ length: 103 }, (_, place) => String(102 - place)))
})

it('shows hostile labels, traces and details as text, and nothing of them as a page', async () => {
  const { id } = await server.db
    .insertInto('token_lines')
    .values({
      id: 'key_00000000000000000000000666',
      organization_id: world.organizationId as OrganizationId, // made by a command
      workspace_id: world.workspaceId as never,
      label: HOSTILE,
      environment: 'production',
      permissions: [],
      resources: null,
      ip_allow_list: null,
      granted_role: 'admin',
      created_by: 'operator',
    } as never)
    .returning('id')
    .executeTakeFirstOrThrow()
  await write('hostile', {
    event: 'token.revoked',
    credentialId: id,
    detail: { [HOSTILE]: HOSTILE, reason: HOSTILE },
    request: { traceId: HOSTILE.replaceAll(' ', '_'), profileId: HOSTILE },
  })
  const page = await admin.open(log + query({ credential_id: id }))
  expect(rowsIn(page.html)).toBe(1)
  const [, recordId] = /\/(aud_\w+)">The whole record/.exec(page.html) ?? []
  const one = await admin.open(`${log}/${recordId}`)
  expect(one.status).toBe(200)
  for (const { html } of [page, one, await admin.open(log + query({ trace_id: HOSTILE.replaceAll(' ', '_') }))]) {
    expect(html).toContain('&lt;img')
    expect(html).not.toContain('<img')
  }
})

it('shows one record in full with its place in the chain, and what belongs to its trace', async () => {
  await write('in-full', { detail: { nested: { list: [1, 'two'] }, no: false }, tokenVersion: 4 })
  await sealNow(server.db, world.organizationId)
  const found = await server.db
    .selectFrom('audit_events')
    .select('id')
    .where('trace_id', '=', 'in-full')
    .executeTakeFirstOrThrow()
  const { rows } = await sql<{ seq: number; hash: string; previous: string }>`
    select seq::int as seq, hash, previous from audit_chain where event_id = ${found.id}`.execute(server.db)
  const [entry] = rows
  const page = await admin.open(`${log}/${found.id}`)
  expect(page.html).toContain(`<h1>Record ${entry?.seq.toLocaleString('en')}</h1>`)
  for (const text of [entry?.hash, entry?.previous, found.id, '1, two', 'detail.nested.list', 'v4', 'false'])
    expect(page.html).toContain(text)
  expect(page.html).toContain(`href="${log}?trace_id=in-full"`)
  expect(page.html).toContain(`href="${log}/evidence/in-full"`)
  expect((await admin.open(`${log}/aud_none`)).status).toBe(404)
  expect((await admin.open(`${log}/%00`)).status).toBe(404)
})

it('an export holds what is filtered, of that workspace alone, and says what it is', async () => {
  await write('exported', { detail: { formula: '=1+1' } })
  await write('exported', { workspaceId: world.otherWorkspaceId, event: 'test.elsewhere' })
  const csv = await admin.request(`${log}/export${query({ format: 'csv', trace_id: 'exported' })}`)
  expect(csv.headers.get('content-type')).toBe('text/csv; charset=utf-8; header=present')
  expect(csv.headers.get('content-disposition')).toMatch(
    new RegExp(`^attachment; filename="audit-${world.workspaceId}-\\d{4}-\\d\\d-\\d\\d\\.csv"$`),
  )
  expect(csv.headers.get('cache-control')).toBe('no-store')
  const lines = (await csv.text()).trim().split('\r\n')
  expect(lines).toHaveLength(2)
  expect(lines[1]).toContain('test.thing_done')
  const ndjson = await admin.request(`${log}/export${query({ format: 'ndjson' })}`)
  expect(ndjson.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8')
  const all = (await ndjson.text())
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const workspaces = all.flatMap(({ record: one }) => (one === undefined ? [] : [one.workspace_id]))
  expect(workspaces.length).toBeGreaterThan(5)
  expect(new Set(workspaces)).toEqual(new Set([world.workspaceId]))
  expect((await admin.open(`${log}/export?format=xml`)).status).toBe(400)
})

it('an evidence pack is a signed file of one trace that is verified elsewhere', async () => {
  await write('evidence-1')
  await write('evidence-1', { event: 'test.second' })
  const file = await admin.request(`${log}/evidence/evidence-1`)
  expect(file.headers.get('content-disposition')).toContain('filename="evidence-')
  const path = newSink()
  writeFileSync(path, await file.text())
  const report = await verifyFile(path, { keys: server.app.signer.publicKeys(), onProgress: () => {} })
  expect(report).toMatchObject({ ok: true, records: 2 })
  expect((await admin.open(`${log}/evidence/never-was`)).status).toBe(404)
})

it('says how far the chain is sealed and signed, and claims nothing of it unasked', async () => {
  await sealNow(server.db, world.organizationId)
  const { html } = await admin.open(log)
  expect(html).toMatch(/[\d,]+ records of <bdi>Acme<\/bdi> are sealed in one chain/)
  expect(html).toContain('latchkey audit verify --file')
  expect(html.includes('without a gap') || html.includes('is whole')).toBe(false)
})

it('a check says that the newest records follow one another; no other site and no passer-by asks for one', async () => {
  const done = await admin.submit(await admin.open(log), `${log}/check`, {})
  expect(done.status).toBe(200)
  expect(done.html).toMatch(/The last [\d,]+ records follow one another without a gap or an edit\./)
  expect((await admin.open(`${log}/check`)).url.pathname).toBe(log)
  for (const agent of [admin, server.userAgent()]) {
    const answer = await agent.request(`${log}/check`, { method: 'POST', headers: { 'sec-fetch-site': 'cross-site' } })
    expect(answer.status).toBe(403)
  }
})

it('tells what is signed, what waits and what is archived apart', () => {
  const state = {
    seq: 48_211,
    hash: 'x',
    waiting: 1,
    checkpoint_seq: 48_190,
    checkpoint_at: '2026-05-21T08:00:00Z',
    archived_to: 10_000,
  }
  expect(chainView(state)).toMatchObject({
    sealed: '48,211 records',
    waiting: '1 record waits to be sealed.',
    signed: {
      when: { text: '21 May 2026, 08:00 UTC' },
      reach: expect.stringMatching(/^covers the first 48,190; the newest 21 /),
    },
    archived: '10,000',
  })
  expect(chainView({ ...state, checkpoint_seq: 48_211 }).signed?.reach).toBe('covers all of them')
  const bare = { ...state, seq: 0, waiting: 0, checkpoint_seq: null, checkpoint_at: null, archived_to: null }
  expect(chainView(bare)).toMatchObject({ count: 0, waiting: undefined, signed: undefined, archived: undefined })
})

// The last one: nothing is whole after it.
it('a check names the entry of a record that was changed behind its back', async () => {
  await write('tampered')
  await sealNow(server.db, world.organizationId)
  await sql`alter table audit_events disable trigger user`.execute(server.db)
  await sql`update audit_events set status = 'fail' where trace_id = 'tampered'`.execute(server.db)
  await sql`alter table audit_events enable trigger user`.execute(server.db)
  const { rows } = await sql<{
    seq: number
  }>`select c.seq::int as seq from audit_chain c join audit_events e on e.id = c.event_id
    where e.trace_id = 'tampered'`.execute(server.db)
  const seq = rows[0]?.seq ?? 0
  expect(seq).toBeGreaterThan(0)
  const page = await admin.submit(await admin.open(log), `${log}/check`, {})
  expect(page.html).toContain('The record is not whole')
  expect(page.html).toContain(`Entry ${seq} is not what was sealed`)
  expect(page.html).toContain('<code>latchkey audit verify</code>')
  expect(page.html).not.toContain('without a gap')
})

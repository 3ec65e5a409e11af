// Reading the audit log over the JSON API: who sees which records, each filter, pages, and files.
import { writeFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { verifyFile } from '../../src/audit/file-verification.ts'
import { record } from '../../src/audit/service.ts'
import {
  type ApiWorld,
  bearer,
  type Credential,
  call,
  connectPerson,
  makeApiWorld,
  makeToken,
  NOBODY,
} from '../support/api.ts'
import { hasStores, newSink } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'

const MEMBERS = [
  'id',
  'timestamp',
  'organization_id',
  'workspace_id',
  'event',
  'status',
  'trace_id',
  'profile_id',
  'actor_kind',
  'actor_id',
  'user_id',
  'client_id',
  'credential_id',
  'token_version',
  'address',
  'detail',
  'seq',
].sort()

describe.each<Backend>(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('the audit log over the API', () => {
    let server: TestServer
    let world: ApiWorld
    beforeAll(async () => {
      server = await startServer({ backend })
      world = await makeApiWorld(server)
    })
    afterAll(() => server?.close())

    const key = () => bearer(world.key)
    const list = (credential: Credential, query: Record<string, string> = {}) =>
      call(server, credential, 'GET', `/audit?${new URLSearchParams(query)}`)
    const idsOf = (answer: { body: Array<{ id: string }> }) => answer.body.map(({ id }) => id)

    /** Records that a test looks for, unlike any other. */
    async function write(trace: string, more: Partial<Parameters<typeof record>[1]> = {}): Promise<void> {
      await record(server.db, {
        event: 'token.used_in_test',
        status: 'pass',
        actor: { kind: 'user', id: 'usr_x' },
        request: { traceId: trace, profileId: 'profile-1', address: '192.0.2.1' },
        organizationId: world.organizationId,
        workspaceId: world.workspaceId,
        userId: 'usr_x',
        credentialId: 'key_x',
        clientId: 'cl_x',
        tokenVersion: 3,
        ...more,
      })
    }

    it('shows a record with every member, as it stands in the database', async () => {
      await write('whole-1', { detail: { reason: 'x', list: [1, 'é', null] } })
      const answer = await list(key(), { trace_id: 'whole-1' })
      expect(answer.status, answer.text).toBe(200)
      expect(answer.body).toHaveLength(1)
      const [found] = answer.body
      expect(Object.keys(found).sort()).toEqual(MEMBERS)
      expect(found).toMatchObject({
        event: 'token.used_in_test',
        status: 'pass',
        trace_id: 'whole-1',
        profile_id: 'profile-1',
        user_id: 'usr_x',
        token_version: 'v3',
        workspace_id: world.workspaceId,
        detail: { reason: 'x', list: [1, 'é', null] },
      })
      expect(found.timestamp).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)
    })

    it.each([
      ['trace_id', { request: { traceId: 'by-trace' } }, 'by-trace'],
      ['user_id', { userId: 'usr_filtered' }, 'usr_filtered'],
      ['profile_id', { request: { traceId: 't', profileId: 'profile-filtered' } }, 'profile-filtered'],
      ['credential_id', { credentialId: 'key_filtered' }, 'key_filtered'],
      ['client_id', { clientId: 'cl_filtered' }, 'cl_filtered'],
      ['token_version', { tokenVersion: 77 }, 'v77'],
      ['event', { event: 'filtered.event' }, 'filtered.event'],
    ])('filters by %s', async (name, more, value) => {
      await write('filter', more)
      const answer = await list(key(), { [name]: value })
      expect(answer.body).toHaveLength(1)
      expect(answer.body[0][name]).toBe(value)
      expect((await list(key(), { [name]: `${value}${name === 'token_version' ? '0' : 'x'}` })).body).toEqual([])
    })

    it('filters by workspace, kind of event, status, time and staleness', async () => {
      await write('mixed', { workspaceId: world.otherWorkspaceId, event: 'mixed.one' })
      await write('mixed', { event: 'mixed.two', status: 'fail' })
      await write('mixed', { event: 'mixed.three', status: 'fail', detail: { reason: 'stale_version' } })
      await write('mixed', { event: 'token.reuse_detected', status: 'fail' })
      await write('mixed', { event: 'mixed', status: 'pass', detail: { reason: 'retired' } })
      const found = async (more: Record<string, string>) =>
        (await list(key(), { trace_id: 'mixed', ...more })).body.map(({ event }: { event: string }) => event).sort()
      expect(await found({ workspace_id: world.otherWorkspaceId })).toEqual(['mixed.one'])
      expect(await found({ event: 'mixed.*' })).toEqual(['mixed.one', 'mixed.three', 'mixed.two'])
      expect(await found({ status: 'fail' })).toEqual(['mixed.three', 'mixed.two', 'token.reuse_detected'])
      expect(await found({ stale: 'true' })).toEqual(['mixed.three', 'token.reuse_detected'])
      const all: Array<{ id: string; timestamp: string }> = (await list(key(), { trace_id: 'mixed' })).body
      const time = all[2]?.timestamp ?? ''
      const idsWhere = (fits: (timestamp: string) => boolean) =>
        all.filter(({ timestamp }) => fits(timestamp)).map(({ id }) => id)
      const since = idsOf(await list(key(), { trace_id: 'mixed', since: time }))
      expect(since).toEqual(idsWhere((timestamp) => timestamp >= time))
      const until = idsOf(await list(key(), { trace_id: 'mixed', until: time }))
      expect(until).toEqual(idsWhere((timestamp) => timestamp < time))
      expect(since.length + until.length).toBe(5)
    })

    it('has pages that hold every record once, newest first, whatever is written meanwhile', async () => {
      for (let place = 0; place < 7; place++) await write('pages')
      const seen: string[] = []
      let path: string | undefined = '/audit?trace_id=pages&limit=3'
      for (let page = 0; path !== undefined; page++) {
        const answer = await call(server, key(), 'GET', path)
        expect(answer.status, answer.text).toBe(200)
        if (page === 0) await write('pages')
        seen.push(...idsOf(answer))
        path = /<([^>]+)>; rel="next"/.exec(answer.headers.get('link') ?? '')?.[1]?.replace('/api/v1', '')
      }
      expect(seen).toHaveLength(7)
      expect([...seen].sort().reverse()).toEqual(seen)
    })

    it('shows nothing of another organization, and a credential of a workspace only that workspace', async () => {
      await write('mine')
      await write('mine', { workspaceId: world.otherWorkspaceId })
      await write('mine', { workspaceId: null })
      expect((await list(key(), { trace_id: 'mine' })).body).toHaveLength(3)
      const { neighbour } = world
      expect((await list(bearer(neighbour.key), { trace_id: 'mine' })).body).toEqual([])
      expect((await list(bearer(neighbour.key), { workspace_id: world.workspaceId })).status).toBe(404)
      expect((await list(bearer(neighbour.key), { organization_id: world.organizationId })).status).toBe(404)
      const token = await makeToken(server, world, { permissions: ['read'] })
      const own = await list(bearer(token.key), { trace_id: 'mine' })
      expect(own.body.map((found: { workspace_id: string }) => found.workspace_id)).toEqual([world.workspaceId])
      const other = await list(bearer(token.key), { workspace_id: world.otherWorkspaceId })
      expect([other.status, other.body.code]).toEqual([403, 'workspace_mismatch'])
      const [foreign] = (await list(key(), { trace_id: 'mine', workspace_id: world.otherWorkspaceId })).body
      expect((await call(server, bearer(token.key), 'GET', `/audit/${foreign.id}`)).status).toBe(404)
      expect((await call(server, bearer(neighbour.key), 'GET', `/audit/${foreign.id}`)).status).toBe(404)
      expect((await call(server, key(), 'GET', `/audit/${foreign.id}`)).status).toBe(200)
    })

    it('takes an admin: of the organization for all of it, of a workspace for that one', async () => {
      const { viewer, member, admin, owner } = world.people
      for (const person of [viewer, member]) {
        const answer = await list(person, { workspace_id: world.workspaceId })
        expect([answer.status, answer.body.code]).toEqual([403, 'role_too_low'])
      }
      expect((await list(admin, { workspace_id: world.workspaceId })).status).toBe(200)
      expect((await list(admin, { organization_id: world.organizationId })).body.code).toBe('role_too_low')
      expect((await list(admin, { organization_id: world.neighbour.organizationId })).status).toBe(404)
      expect((await list(admin, { workspace_id: world.otherWorkspaceId })).status).toBe(404)
      expect((await list(world.outsider, { organization_id: world.organizationId })).status).toBe(403)
      expect((await list(owner)).status).toBe(200)
      expect((await list(NOBODY)).status).toBe(401)
      const nothing = await makeToken(server, world, { permissions: ['ingest'] })
      expect((await list(bearer(nothing.key))).body.code).toBe('insufficient_scope')
    })

    it('shows a connection what its person may see', async () => {
      const member = await connectPerson(server, world, world.people.member, 'read')
      expect((await list(bearer(String(member.access_token)))).body.code).toBe('role_too_low')
      const admin = await connectPerson(server, world, world.people.admin, 'read')
      expect((await list(bearer(String(admin.access_token)))).status).toBe(200)
    })

    it.each([
      [{ trace_id: 'a b' }],
      [{ since: 'yesterday' }],
      [{ token_version: '3' }],
      [{ status: 'maybe' }],
      [{ limit: '0' }],
      [{ limit: '201' }],
      [{ event: "x' or 1=1" }],
      [{ cursor: 'made-up' }],
      [{ unknown: 'x' }],
      [{ user_id: '\u0000' }],
    ])('refuses %j with a sentence', async (query: Record<string, string>) => {
      const answer = await list(key(), query)
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid_request'])
    })

    it.each([
      [{ since: '0000-01-01T00:00:00Z' }],
      [{ since: '0001-01-01T00:00:00+10:00' }],
      [{ until: '9999-12-31T23:59:59-10:00' }],
    ])('refuses %j, which no database knows, for a page and for a file', async (query: Record<string, string>) => {
      for (const path of ['/audit', '/audit/export', '/audit/export?format=csv']) {
        const joined = `${path}${path.includes('?') ? '&' : '?'}${new URLSearchParams(query)}`
        const answer = await call(server, key(), 'GET', joined)
        expect([path, answer.status, answer.body.code]).toEqual([path, 400, 'invalid_request'])
      }
    })

    it('takes a time of any offset, of any length', async () => {
      await write('offsets')
      const [{ timestamp }] = (await list(key(), { trace_id: 'offsets' })).body
      const shifted = (hours: number) =>
        `${new Date(Date.parse(timestamp) + hours * 3_600_000).toISOString().slice(0, 19)}${timestamp.slice(19, -1)}`
      for (const since of [`${shifted(23)}+23:00`, `${shifted(-18)}-18:00`, `${shifted(0)}000000000000000000Z`]) {
        expect((await list(key(), { trace_id: 'offsets', since })).body, since).toHaveLength(1)
        expect((await list(key(), { trace_id: 'offsets', until: since })).body, since).toEqual([])
        const file = await call(server, key(), 'GET', `/audit/export?${new URLSearchParams({ since })}`)
        expect([since, file.status]).toEqual([since, 200])
      }
      expect((await list(key(), { trace_id: 'offsets', until: '9999-12-31T23:59:59.9999999Z' })).body).toHaveLength(1)
    })

    it('gives a record with its place in the chain', async () => {
      await write('placed')
      await call(server, key(), 'GET', '/audit/export')
      const [found] = (await list(key(), { trace_id: 'placed' })).body
      const answer = await call(server, key(), 'GET', `/audit/${found.id}`)
      const { seq, ...shown } = found
      expect(answer.body).toMatchObject({ chain: world.organizationId, seq, record: shown })
      expect(answer.body.hash).toMatch(/^[0-9a-f]{64}$/)
      expect((await call(server, key(), 'GET', '/audit/aud_none')).status).toBe(404)
    })

    async function saved(path: string): Promise<string> {
      const answer = await call(server, key(), 'GET', path)
      expect(answer.status, answer.text).toBe(200)
      expect(answer.headers.get('content-disposition')).toMatch(/^attachment; filename="(audit|evidence)-/)
      const file = newSink()
      writeFileSync(file, answer.text)
      return file
    }
    const keys = async () => (await call(server, NOBODY, 'GET', '/audit/keys')).body.keys
    const verified = async (file: string) => verifyFile(file, { keys: await keys(), onProgress: () => {} })

    it('exports the whole chain as a file that verifies without the database', async () => {
      await write('exported')
      const report = await verified(await saved('/audit/export'))
      expect(report).toMatchObject({
        ok: true,
        complete: true,
        signature: 'good',
        chain: world.organizationId,
        fault: null,
      })
      const { seq } = (await call(server, key(), 'GET', '/audit/chain')).body
      expect(report.records).toBeGreaterThan(5)
      expect(report.head?.seq).toBeLessThanOrEqual(seq)
    })

    it('exports what fits, and everything of a trace, each as a signed file', async () => {
      for (let place = 0; place < 5; place++) await write('evidence-1')
      const filtered = await verified(await saved('/audit/export?event=token.used_in_test&trace_id=evidence-1'))
      expect(filtered).toMatchObject({ ok: true, complete: false, signature: 'good', records: 5 })
      expect(filtered.filter).toEqual({ event: 'token.used_in_test', trace_id: 'evidence-1' })
      const pack = await verified(await saved('/audit/evidence/evidence-1'))
      expect(pack).toMatchObject({ ok: true, records: 5, filter: { trace_id: 'evidence-1' } })
      expect((await call(server, key(), 'GET', '/audit/evidence/never-heard-of')).status).toBe(404)
      const neighbour = bearer(world.neighbour.key)
      expect((await call(server, neighbour, 'GET', '/audit/evidence/evidence-1')).status).toBe(404)
    })

    it('exports a table for spreadsheets in which nothing is a formula', async () => {
      await write('csv-1', { detail: { note: 'a "quoted", word' } })
      await write('-2+3')
      const answer = await call(server, key(), 'GET', '/audit/export?format=csv&event=token.used_in_test')
      expect(answer.headers.get('content-type')).toContain('text/csv')
      const lines = answer.text.split('\r\n')
      expect(lines[0]).toMatch(/^timestamp,seq,event,status,workspace_id/)
      expect(lines.find((line) => line.includes('csv-1'))).toContain('"{""note"":""a \\""quoted\\"", word""}"')
      expect(lines.find((line) => line.includes('-2+3'))).toContain(",'-2+3,")
    })

    it('exports a table in which nothing is a formula either where semicolons separate', async () => {
      const note = "x;=cmd|'/C calc'!A0;y"
      await write('csv-2', { detail: { note, [`;@${note}`]: [note] } })
      const answer = await call(server, key(), 'GET', '/audit/export?format=csv&trace_id=csv-2')
      const [, line = ''] = answer.text.split('\r\n')
      expect(line).toContain('calc')
      for (const cell of line.split(/[;\t]/)) expect(cell).not.toMatch(/^["']?[=+\-@]/)
      const detail = /"(\{.*\})"/.exec(line)?.[1]?.replaceAll('""', '"') ?? ''
      expect(JSON.parse(detail)).toEqual({ note, [`;@${note}`]: [note] })
    })

    it('gives what a credential of a workspace may see as a file with that filter, and no more', async () => {
      await write('other', { workspaceId: world.otherWorkspaceId })
      const token = await makeToken(server, world, { permissions: ['read'] })
      const answer = await call(server, bearer(token.key), 'GET', '/audit/export')
      const [head, ...rest] = answer.text
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
      expect(head).toMatchObject({ complete: false, filter: { workspace_id: world.workspaceId } })
      const places = new Set(rest.slice(0, -1).map(({ record: { workspace_id } }) => workspace_id))
      expect([...places]).toEqual([world.workspaceId])
    })
  })
})

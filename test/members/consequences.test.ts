// What a change of somebody's roles comes to: said before, and done so; tokens that they made must be rotated.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Approved } from '../../src/store/tables.ts'
import {
  type Answer,
  type ApiWorld,
  bearer,
  type Credential,
  call,
  makeApiWorld,
  makePerson,
  makeResourceServer,
  newLabel,
  postForm,
  type Session,
  signInBrowser,
} from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { connect, makeClient, refresh, type TestClient } from '../support/world.ts'

const API = 'https://notes.example.com'
const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']

describe.each(BACKENDS)('a change of roles (%s)', (backend) => {
  let server: TestServer
  let world: ApiWorld
  let api: TestClient
  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeApiWorld(server)
    api = await makeResourceServer(server, API, {
      scopes: [
        { name: 'notes:read', least_role: 'member' },
        { name: 'notes:admin', least_role: 'admin' },
      ],
    })
  })
  afterAll(() => server?.close())

  const inWorkspace = (path = '') => `/workspaces/${world.workspaceId}${path}`
  const inOrganization = (path = '') => `/organizations/${world.organizationId}${path}`
  const asKey = (method: string, path: string, body?: object): Promise<Answer> =>
    call(server, bearer(world.key), method, path, body === undefined ? {} : { body })
  const memberPath = (userId: string) => inWorkspace(`/members/${userId}`)

  async function newAdmin(): Promise<Session> {
    const person = await makePerson(server, 'Leaver')
    await server.run('member add', { workspace: world.workspaceId, user: person.email, role: 'admin' })
    return signInBrowser(server, person)
  }

  async function connectTo(person: Session, scope: string) {
    const client = await makeClient(server)
    const place = { ...world, ...person, client }
    const tokens = await connect(server, place, { client, more: { resource: API, scope } })
    const { id } = await server.db
      .selectFrom('connections')
      .select('id')
      .where('client_id', '=', client.id)
      .executeTakeFirstOrThrow()
    return { ...tokens, client, id: String(id) }
  }

  const makeTokenAs = async (person: Credential, path = inWorkspace('/api-keys')) => {
    const made = await call(server, person, 'POST', path, { body: { label: newLabel(), permissions: ['read'] } })
    expect(made.status, made.text).toBe(201)
    return made.body as { id: string; key: string; label: string }
  }

  /** Somebody with all that may stand on a role. */
  async function makeLeaver() {
    const person = await newAdmin()
    const wide = await connectTo(person, 'openid notes:read notes:admin')
    const onlyAdmin = await connectTo(person, 'notes:admin')
    const narrow = await connectTo(person, 'openid notes:read')
    const token = await makeTokenAs(person)
    const invited = await call(server, person, 'POST', inWorkspace('/invitations'), {
      body: { email: `${newLabel().replace(' ', '-')}@example.com`, role: 'member' },
    })
    expect(invited.status).toBe(201)
    return { person, wide, onlyAdmin, narrow, token, invitationId: String(invited.body.id) }
  }

  const rowOf = (id: string) =>
    server.db
      .selectFrom('connections')
      .selectAll()
      .where('id', '=', id as `con_${string}`) // as the row said it
      .executeTakeFirstOrThrow()
  const recordsOf = (credentialId: string) =>
    server.db
      .selectFrom('audit_events')
      .select(['event', 'detail', 'user_id', 'workspace_id', 'status'])
      .where('credential_id', '=', credentialId)
      .orderBy('recorded_at')
      .orderBy('id')
      .execute()
  const requiredOf = async (id: string) => (await asKey('GET', inWorkspace(`/api-keys/${id}`))).body.rotation_required
  const isActive = async (token: string | undefined) =>
    (await postForm(server, '/introspect', { token: token ?? '' }, api)).body.active

  /** What has become of what stood on the roles: as a preview says it. */
  async function outcome(leaver: Awaited<ReturnType<typeof makeLeaver>>, before: Map<string, Approved>) {
    const rows = await Promise.all([leaver.wide, leaver.onlyAdmin, leaver.narrow].map(({ id }) => rowOf(id)))
    const isSame = (id: string, after: Approved) => JSON.stringify(before.get(id)) === JSON.stringify(after)
    const open = rows.filter(({ closed_at }) => closed_at === null)
    expect(open.every(({ version, floor }) => version === 2 && floor === 2)).toBe(true)
    const invitation = await server.db
      .selectFrom('invitations')
      .select('ended_at')
      .where('id', '=', leaver.invitationId as `inv_${string}`)
      .executeTakeFirstOrThrow()
    return {
      ends: rows.filter(({ closed_at }) => closed_at !== null).map(({ id }) => id),
      narrows: open.filter((row) => !isSame(row.id, row.approved)).map(({ id, approved }) => [id, approved.resources]),
      renews: open.filter((row) => isSame(row.id, row.approved)).map(({ id }) => id),
      rotates: (await requiredOf(leaver.token.id)) === null ? [] : [leaver.token.id],
      cancels: invitation.ended_at === null ? [] : [leaver.invitationId],
    }
  }

  const ids = (items: Array<{ id: string }>) => items.map(({ id }) => id)
  const summaryOf = ({ body }: Answer) => ({
    ends: ids(body.ends),
    narrows: body.narrows.map((entry: { id: string; after: object }) => [entry.id, entry.after]),
    renews: ids(body.renews),
    rotates: ids(body.rotates),
    cancels: ids(body.cancels),
  })

  describe.each([
    ['to member', '?role=member', (path: string) => asKey('PATCH', path, { role: 'member' })],
    ['to viewer', '?role=viewer', (path: string) => asKey('PATCH', path, { role: 'viewer' })],
    [
      'to owner',
      '?role=owner',
      (path: string) => call(server, world.people.owner, 'PATCH', path, { body: { role: 'owner' } }),
    ],
    ['by removal', '', (path: string) => asKey('DELETE', path)],
  ] as const)('%s', (_name, query, change) => {
    it('comes to exactly what was said before', async () => {
      const leaver = await makeLeaver()
      const path = memberPath(leaver.person.userId)
      const preview = await asKey('GET', `${path}/consequences${query}`)
      expect(preview.status, preview.text).toBe(200)
      expect(preview.body).toMatchObject({ user_id: leaver.person.userId, possible: true, problem: null })
      const before = new Map<string, Approved>()
      for (const { id } of [leaver.wide, leaver.onlyAdmin, leaver.narrow]) before.set(id, (await rowOf(id)).approved)
      const again = await asKey('GET', `${path}/consequences${query}`)
      expect(withoutTimes(again.text)).toBe(withoutTimes(preview.text)) // nothing was changed
      const done = await change(path)
      expect([200, 204]).toContain(done.status)
      expect(summaryOf(preview)).toEqual(await outcome(leaver, before))
    })
  })

  it('to member: what the new role cannot hold is gone for good, and the connection goes on with the rest', async () => {
    const leaver = await makeLeaver()
    const path = memberPath(leaver.person.userId)
    const preview = await asKey('GET', `${path}/consequences?role=member`)
    expect(preview.body.narrows).toMatchObject([
      {
        id: leaver.wide.id,
        client_name: 'Tracepad',
        before: { [API]: 'notes:read notes:admin' },
        after: { [API]: 'notes:read' },
      },
    ])
    expect(ids(preview.body.ends)).toEqual([leaver.onlyAdmin.id])
    expect(preview.body.rotates).toMatchObject([{ id: leaver.token.id, label: leaver.token.label }])
    expect(await isActive(leaver.wide.access_token)).toBe(true)
    await asKey('PATCH', path, { role: 'member' })
    expect(await isActive(leaver.wide.access_token)).toBe(false)
    expect(await isActive(leaver.onlyAdmin.access_token)).toBe(false)
    const { client } = leaver.onlyAdmin
    expect((await refresh(server.origin, client, leaver.onlyAdmin.refresh_token)).status).toBe(400)
    const refreshed = await refresh(server.origin, leaver.wide.client, leaver.wide.refresh_token)
    expect([refreshed.status, refreshed.body.scope]).toEqual([200, 'notes:read'])
    await asKey('PATCH', path, { role: 'admin' })
    const later = await refresh(server.origin, leaver.wide.client, refreshed.body.refresh_token)
    expect(later.body.scope).toBe('notes:read') // more takes a new approval
    expect(await recordsOf(leaver.wide.id)).toContainEqual(
      expect.objectContaining({
        event: 'connection.version_raised',
        detail: { reason: 'role_changed', resources: { [API]: 'notes:read' } },
      }),
    )
  })

  it('a token whose maker left must be rotated within seven days, recorded once, and works until then', async () => {
    const { person, token } = await makeLeaver()
    await asKey('DELETE', memberPath(person.userId))
    const required = await requiredOf(token.id)
    expect(required).toEqual({ by: expect.stringMatching(/Z$/), reason: 'member_removed' })
    const days = (Date.parse(required.by) - Date.now()) / 86_400_000
    expect(days).toBeGreaterThan(6.9)
    expect(days).toBeLessThan(7.1)
    const records = (await recordsOf(token.id)).filter(({ event }) => event === 'token.rotation_required')
    expect(records).toMatchObject([
      {
        status: 'pass',
        user_id: person.userId,
        workspace_id: world.workspaceId,
        detail: { by: expect.stringMatching(/Z$/), reason: 'member_removed' },
      },
    ])
    expect((await call(server, bearer(token.key), 'GET', inWorkspace())).status).toBe(200)
    const listed = (await asKey('GET', inWorkspace('/api-keys'))).body as Array<{ id: string }>
    expect(listed.find(({ id }) => id === token.id)).toMatchObject({ rotation_required: required })
  })

  it('is met by a rotation and its cutover, and by nothing less', async () => {
    const { person, token } = await makeLeaver()
    await asKey('DELETE', memberPath(person.userId))
    const rotated = await asKey('POST', inWorkspace(`/api-keys/${token.id}/rotate`), {})
    expect(rotated.status).toBe(201)
    expect(await requiredOf(token.id)).not.toBe(null) // the older value works still
    await asKey('POST', inWorkspace(`/api-keys/${token.id}/cutover`), {})
    expect(await requiredOf(token.id)).toBe(null)
  })

  it('is met by revoking each version that the person may know', async () => {
    const { person, token } = await makeLeaver()
    await asKey('DELETE', memberPath(person.userId))
    await asKey('POST', inWorkspace(`/api-keys/${token.id}/rotate`), {})
    await asKey('DELETE', inWorkspace(`/api-keys/${token.id}/versions/v1`))
    expect(await requiredOf(token.id)).toBe(null)
    const row = await server.db
      .selectFrom('token_lines')
      .select('rotation_required_by')
      .where('id', '=', token.id as `key_${string}`)
      .executeTakeFirstOrThrow()
    expect(row.rotation_required_by).toBe(null)
  })

  it('keeps its date when the person is first made less and then removed; once met it is not asked for again', async () => {
    const { person, token } = await makeLeaver()
    await asKey('PATCH', memberPath(person.userId), { role: 'member' })
    const first = await requiredOf(token.id)
    expect(first.reason).toBe('role_changed')
    await sql`update token_lines set rotation_required_by = rotation_required_by - interval '2 days' where id = ${token.id}`.execute(
      server.db,
    )
    const sooner = await requiredOf(token.id)
    await asKey('PATCH', memberPath(person.userId), { role: 'viewer' })
    expect(await requiredOf(token.id)).toEqual(sooner)
    await asKey('DELETE', memberPath(person.userId))
    expect(await requiredOf(token.id)).toEqual({ by: sooner.by, reason: 'member_removed' })

    const other = await makeLeaver()
    await asKey('PATCH', memberPath(other.person.userId), { role: 'member' })
    await asKey('POST', inWorkspace(`/api-keys/${other.token.id}/rotate`), {})
    await asKey('POST', inWorkspace(`/api-keys/${other.token.id}/cutover`), {})
    await asKey('DELETE', memberPath(other.person.userId))
    expect(await requiredOf(other.token.id)).toBe(null) // a member never saw the new value
  })

  it('pages say by when, why, and when it is overdue', async () => {
    const { person, token } = await makeLeaver()
    await asKey('DELETE', memberPath(person.userId))
    const read = async (path: string) =>
      (await fetch(server.origin + path, { headers: { cookie: world.people.admin.cookie } })).text()
    const paths = [
      `/workspaces/${world.workspaceId}/access?q=${encodeURIComponent(token.label)}`,
      `/workspaces/${world.workspaceId}/tokens/${token.id}`,
    ]
    for (const path of paths) {
      const text = (await read(path)).replaceAll(/<[^>]+>/g, '')
      expect(text, path).toMatch(/Rotate by \d+ \w+ \d{4}: the person who made it left\./)
      expect(text, path).not.toContain('Overdue')
    }
    await sql`update token_lines set rotation_required_by = now() - interval '1 minute' where id = ${token.id}`.execute(
      server.db,
    )
    for (const path of paths)
      expect((await read(path)).replaceAll(/<[^>]+>/g, ''), path).toMatch(
        /Overdue since \d+ \w+ \d{4}: the person who made it left\./,
      )
  })

  it('in the organization: every workspace, the organization’s keys and its invitations', async () => {
    const person = await newAdmin()
    const users = { user_id: person.userId }
    await call(server, world.owner, 'PATCH', inOrganization(`/members/${person.userId}`), { body: { role: 'admin' } })
    const elsewhere = await makeTokenAs(person, `/workspaces/${world.otherWorkspaceId}/api-keys`)
    const key = await makeTokenAs(person, inOrganization('/api-keys'))
    const connection = await connectTo(person, 'openid notes:read')
    const path = inOrganization(`/members/${person.userId}`)
    const less = await asKey('GET', `${path}/consequences?role=member`)
    expect(less.body).toMatchObject({ ...users, role: 'member', possible: true, ends: [] })
    expect(ids(less.body.renews)).toEqual([connection.id]) // an admin of the workspace itself
    expect(ids(less.body.rotates).toSorted()).toEqual([elsewhere.id, key.id].toSorted())
    const none = await asKey('GET', `${path}/consequences`)
    expect(ids(none.body.ends)).toEqual([connection.id])
    expect((await asKey('DELETE', path)).status).toBe(204)
    expect((await rowOf(connection.id)).closed_at).not.toBe(null)
    const rows = await server.db
      .selectFrom('token_lines')
      .select(['id', 'rotation_required_reason'])
      .where('user_id', '=', person.userId as `usr_${string}`)
      .execute()
    expect(rows.toSorted((a, b) => a.id.localeCompare(b.id))).toEqual(
      [elsewhere.id, key.id].toSorted().map((id) => ({ id, rotation_required_reason: 'member_removed' })),
    )
    expect((await asKey('GET', `${path}/consequences`)).status).toBe(404)
  })

  it('the last owner: it says so, and where; and the change is refused', async () => {
    const { owner, key, workspaceId, organizationId } = world.neighbour
    const ask = (path: string) => call(server, bearer(key), 'GET', path)
    for (const query of ['', '?role=admin']) {
      const preview = await ask(`/workspaces/${workspaceId}/members/${owner.userId}/consequences${query}`)
      expect(preview.body).toMatchObject({ possible: false })
      expect(preview.body.problem).toContain('the workspace platform-ai')
    }
    const path = `/organizations/${organizationId}/members/${owner.userId}`
    const above = await ask(`${path}/consequences`)
    expect(above.body.problem).toContain(
      'the organization Neighbour, the workspace platform-ai, the workspace research',
    )
    const refused = await call(server, owner, 'DELETE', path)
    expect([refused.status, refused.body.code]).toEqual([409, 'last_owner'])
    expect(refused.body.detail).toBe(above.body.problem)
  })

  it('is shown to an admin alone, of this place', async () => {
    const { viewer, member, admin } = world.people
    const path = `${memberPath(member.userId)}/consequences`
    expect((await call(server, admin, 'GET', path)).status).toBe(200)
    for (const low of [viewer, member, world.outsider])
      expect([403, 404]).toContain((await call(server, low, 'GET', path)).status)
    expect((await call(server, world.neighbour.owner, 'GET', path)).status).toBe(404)
    expect((await asKey('GET', `${path}?role=king`)).status).toBe(400)
    expect((await asKey('GET', `${memberPath(world.neighbour.owner.userId)}/consequences`)).status).toBe(404)
  })

  it('that fails on its way leaves everything as it was', async () => {
    const leaver = await makeLeaver()
    await sql`create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$`.execute(
      server.db,
    )
    await sql`create trigger refuse before update on token_lines for each row execute function refuse()`.execute(
      server.db,
    )
    try {
      expect((await asKey('DELETE', memberPath(leaver.person.userId))).status).toBe(500)
    } finally {
      await sql`drop trigger refuse on token_lines`.execute(server.db)
      await sql`drop function refuse`.execute(server.db)
    }
    expect((await rowOf(leaver.wide.id)).closed_at).toBe(null)
    expect(await isActive(leaver.wide.access_token)).toBe(true)
    expect((await asKey('GET', `${memberPath(leaver.person.userId)}/consequences`)).status).toBe(200)
    const records = await recordsOf(leaver.wide.id)
    expect(records.filter(({ event }) => event === 'connection.closed')).toEqual([])
  })
})

/** A date that is counted from now is another one a second later. */
function withoutTimes(text: string): string {
  return text.replaceAll(/"by":"[^"]*"/g, '"by"')
}

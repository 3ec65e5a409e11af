// Erasing an account: nothing acts for the person any more, nothing names them any more, and the log stays whole.
import { createHash } from 'node:crypto'
import { Redis } from 'ioredis'
import { decodeJwt } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { SYSTEM_CHAIN } from '../../src/audit/rules.ts'
import { verifyDatabase } from '../../src/audit/verification.ts'
import { ageSession, bearer, call, connectPerson, makePerson, type Session, signInBrowser } from '../support/api.ts'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { connect, makeClient, makeWorld, PASSWORD, post, refresh, type World } from '../support/world.ts'

const BACKENDS: Backend[] = hasStores() ? ['embedded', 'stores'] : ['embedded']
let people = 0

describe.each(BACKENDS)('an erased account (%s)', (backend) => {
  let server: TestServer
  let world: World
  let key: string
  beforeAll(async () => {
    server = await startServer({ backend })
    world = await makeWorld(server)
    key = String(
      (
        await server.run('organization-key create', {
          organization: world.organizationId,
          label: 'provisioning',
          permissions: ['read', 'manage'],
        })
      ).key,
    )
  })
  afterAll(() => server?.close())

  const asKey = (method: string, path: string, body?: object) =>
    call(server, bearer(key), method, path, body === undefined ? {} : { body })

  /** Somebody with all that may name a person, or act for them. */
  async function makeLeaver() {
    const email = `Grace.Unmistakable-${++people}@Example.com`
    const name = `Grace Hopper-Unmistakable ${people}.`
    const user = await server.run('user create', { email, name, password: PASSWORD })
    const userId = String(user.id)
    const asked = await asKey('POST', `/workspaces/${world.workspaceId}/invitations`, { email, role: 'admin' })
    expect(asked.status).toBe(201) // open until the end
    await server.run('member add', { workspace: world.workspaceId, user: email, role: 'admin' })
    const session = await signInBrowser(server, { userId, email })
    const client = await makeClient(server)
    const tokens = await connect(server, { ...world, email, userId, client }, { client })
    const made = await call(server, session, 'POST', `/workspaces/${world.workspaceId}/api-keys`, {
      body: { label: `token ${people}`, permissions: ['read'] },
    })
    expect(made.status).toBe(201)
    const sent = await call(server, session, 'POST', `/workspaces/${world.workspaceId}/invitations`, {
      body: { email: `somebody-${people}@example.com`, role: 'member' },
    })
    expect(sent.status).toBe(201)
    const billed = await call(server, bearer(key), 'POST', '/workspaces', {
      body: { name: 'billed', billing_email: email },
      headers: { 'idempotency-key': `billed-${people}` },
    })
    expect(billed.status).toBe(201)
    return {
      email,
      name,
      userId,
      session,
      client,
      tokens,
      token: made.body,
      sentId: sent.body.id,
      billedId: billed.body.id,
    }
  }

  const erase = (user: string) => server.run('user erase', { user, dry_run: false, yes: true })

  /** Every row of every table, as text, but for what a library keeps for itself. */
  async function dump(): Promise<string> {
    const { rows } = await sql<{ schema: string; name: string }>`
      select n.nspname as schema, c.relname as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
      where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema')`.execute(server.db)
    expect(rows.length).toBeGreaterThan(20)
    const texts = await Promise.all(
      rows.map(async ({ schema, name }) => {
        const table = sql.table(`${schema}.${name}`)
        const { rows: found } = await sql<{ row: string }>`select t::text as row from ${table} t`.execute(server.db)
        return found.map(({ row }) => `${name}: ${row}`)
      }),
    )
    return texts.flat().join('\n')
  }

  /** Every entry of the ephemeral store, opened, with the names of all that is in it. */
  async function ephemeralDump(): Promise<string> {
    const names = backend === 'stores' ? await redisNames() : await tableNames()
    expect(names.length).toBeGreaterThan(0)
    const entries = await Promise.all(
      names.map(async ({ kind, id }) => (await server.app.ephemeral.find(kind, id))?.value ?? ''),
    )
    return [...names.map(({ kind, id }) => `${kind} ${id}`), ...entries].join('\n')
  }
  const tableNames = () => server.db.selectFrom('ephemeral_entries').select(['kind', 'id']).execute()
  async function redisNames() {
    const redis = new Redis(inject('redisUrl') ?? '')
    try {
      const installation = createHash('sha256').update(server.origin).digest('hex').slice(0, 12)
      const keys: string[] = []
      for await (const page of redis.scanStream({ match: `*${installation}*`, count: 1_000 })) keys.push(...page)
      return keys.flatMap((key) => {
        const [, kind, id] = /entry:([^:]+):(.+)$/.exec(key) ?? []
        return kind === undefined || id === undefined ? [] : [{ kind, id }]
      })
    } finally {
      redis.disconnect()
    }
  }

  const eventsOf = async (userId: string) =>
    (
      await server.db
        .selectFrom('audit_events')
        .select(['event', 'organization_id', 'status', 'detail', 'actor_kind'])
        .where('user_id', '=', userId)
        .execute()
    ).filter(({ event }) => event === 'user.erased')

  it('leaves nothing that acts: sessions, connections, JWTs; and what they made must be rotated', async () => {
    const leaver = await makeLeaver()
    const introspect = () =>
      post(server.origin, '/introspect', leaver.client, { token: leaver.tokens.access_token ?? '' })
    expect((await introspect()).body).toMatchObject({ active: true })
    expect((await call(server, leaver.session, 'GET', '/organizations')).status).toBe(200)
    expect(await erase(leaver.email)).toMatchObject({ id: leaver.userId, erased: true })
    expect((await introspect()).body).toEqual({ active: false })
    expect((await refresh(server.origin, leaver.client, leaver.tokens.refresh_token)).status).toBe(400)
    expect((await call(server, leaver.session, 'GET', '/organizations')).status).toBe(401)
    const members = await asKey('GET', `/workspaces/${world.workspaceId}/members`)
    expect(members.text).not.toContain(leaver.userId)
    const token = await asKey('GET', `/workspaces/${world.workspaceId}/api-keys/${leaver.token.id}`)
    expect(token.body).toMatchObject({ is_active: true, rotation_required: { reason: 'account_erased' } })
    const open = (await asKey('GET', `/workspaces/${world.workspaceId}/invitations`)).text
    expect(open).not.toContain(leaver.sentId)
    const connections = await server.db
      .selectFrom('connections')
      .select(['closed_at', 'close_reason'])
      .where('user_id', '=', leaver.userId as `usr_${string}`)
      .execute()
    expect(connections).toMatchObject([{ closed_at: expect.any(Date), close_reason: 'account_erased' }])
  })

  it('leaves no row that holds the name or the address, and a log that verifies', async () => {
    const leaver = await makeLeaver()
    const { access_token: token } = await connectPerson(server, world, leaver, 'read')
    const useConnection = (value = token) =>
      fetch(`${server.origin}/api/v1/workspaces/${world.workspaceId}`, {
        headers: { 'user-agent': `Notebook of ${leaver.name}`, authorization: `Bearer ${value}` },
      })
    expect((await useConnection()).status).toBe(200)
    await server.app.uses.flush()
    const names = (text: string) =>
      text
        .split('\n')
        .filter((line) => line.includes(leaver.name) || line.toLowerCase().includes(leaver.email.toLowerCase()))
    const before = names(await dump()) // or nothing would be left to find
    for (const table of ['users', 'workspaces', 'invitations', 'connection_uses', 'connection_versions'])
      expect(before.filter((line) => line.startsWith(`${table}: `)).length, table).toBeGreaterThan(0)
    expect((await useConnection()).status).toBe(200) // kept in memory, and written after the erasure
    const { access_token: ofEnded } = await connectPerson(server, world, leaver, 'read')
    expect((await useConnection(ofEnded)).status).toBe(200) // and of one that they end before
    const ended = decodeJwt(String(ofEnded)).credential_id
    const path = `/workspaces/${world.workspaceId}/connections/${ended}`
    expect((await call(server, leaver.session, 'DELETE', path)).status).toBe(204)
    await erase(leaver.userId)
    await server.app.uses.flush()
    const after = await dump()
    expect(names(after)).toEqual([])
    expect(after).toContain(leaver.userId) // the random id stays
    expect(names(await ephemeralDump())).toEqual([])
    expect(await verifyDatabase(server.app, () => {})).toMatchObject({ ok: true })
    const [record, ...more] = await eventsOf(leaver.userId)
    expect(more).toEqual([])
    expect(record).toMatchObject({ organization_id: world.organizationId, status: 'pass', actor_kind: 'operator' })
  })

  it.each(['İbo', 'ΣΑΣ', 'ÉRIC', 'STRAẞE', 'Ⅷ'])('is sent no bill any more as %s', async (local) => {
    const email = `${local}@example.com`
    await server.run('user create', { email, name: 'Billed', password: PASSWORD })
    const billed = await call(server, bearer(key), 'POST', '/workspaces', {
      body: { name: 'billed', billing_email: email },
      headers: { 'idempotency-key': `billed-${local.codePointAt(0)}` },
    })
    expect(billed.body.billing_email).toBe(email)
    await erase(email)
    expect((await asKey('GET', `/workspaces/${billed.body.id}`)).body.billing_email).toBeNull()
  })

  it('is another one when the address opens an account again', async () => {
    const leaver = await makeLeaver()
    await erase(leaver.email)
    const again = await server.run('user create', { email: leaver.email, name: 'Another', password: PASSWORD })
    expect(again.id).not.toBe(leaver.userId)
    const session = await signInBrowser(server, { userId: String(again.id), email: leaver.email })
    expect((await call(server, session, 'GET', '/organizations')).body).toEqual([])
    expect((await call(server, leaver.session, 'GET', '/organizations')).status).toBe(401)
  })

  it('of somebody in no organization is recorded in the log of the system', async () => {
    const person = await makePerson(server)
    await erase(person.email)
    const rows = await eventsOf(person.userId)
    expect(rows).toMatchObject([{ organization_id: null }])
    expect(SYSTEM_CHAIN).toBe('system')
    await expect(erase(person.email)).rejects.toMatchObject({ code: 'not_found' })
  })

  it('is refused to the last owner, who is told of every place, and nothing has changed', async () => {
    const error = await erase(world.email).catch((refused: unknown) => refused)
    expect(error).toMatchObject({ code: 'last_owner' })
    const { detail } = error as { detail: string }
    for (const place of ['the organization Acme', 'the workspace platform-ai', 'the workspace research'])
      expect(detail).toContain(place)
    expect(await server.run('user sign-out', { user: world.email })).toMatchObject({ id: world.userId })
    expect(await eventsOf(world.userId)).toEqual([])
  })

  it('moves what they own to another owner', async () => {
    const leaver = await makeLeaver()
    const { id } = await server.run('workspace create', {
      organization: world.organizationId,
      name: 'owned',
      owner: leaver.email,
    })
    await expect(erase(leaver.email)).rejects.toMatchObject({ code: 'last_owner' })
    await server.run('member add', { workspace: id, user: world.email, role: 'owner' })
    await erase(leaver.email)
    const row = await server.db
      .selectFrom('workspaces')
      .select('owner_id')
      .where('id', '=', id as `ws_${string}`)
      .executeTakeFirstOrThrow()
    expect(row.owner_id).toBe(world.userId)
  })

  it('is seen before it is done, and is done by nobody’s accident', async () => {
    const leaver = await makeLeaver()
    const asked = { user: leaver.email, dry_run: true, yes: true }
    expect(await server.run('user erase', asked)).toMatchObject({
      id: leaver.userId,
      possible: true,
      leaves: [world.organizationId],
      rotates: [leaver.token.id],
      cancels: 1,
    })
    await expect(server.run('user erase', { user: leaver.email, dry_run: false, yes: false })).rejects.toMatchObject({
      code: 'invalid_request',
    })
    expect((await call(server, leaver.session, 'GET', '/organizations')).status).toBe(200)
  })

  it('that fails on its way leaves everything as it was', async () => {
    const leaver = await makeLeaver()
    await sql`create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$`.execute(
      server.db,
    )
    await sql`create trigger refuse before delete on users for each row execute function refuse()`.execute(server.db)
    try {
      await expect(erase(leaver.email)).rejects.toThrow('no')
    } finally {
      await sql`drop trigger refuse on users`.execute(server.db)
      await sql`drop function refuse`.execute(server.db)
    }
    expect((await call(server, leaver.session, 'GET', '/organizations')).status).toBe(200)
    expect((await refresh(server.origin, leaver.client, leaver.tokens.refresh_token)).status).toBe(200)
    expect(await eventsOf(leaver.userId)).toEqual([])
  })

  describe('on the account’s own page', () => {
    const open = async (session: Session) => {
      const response = await fetch(`${server.origin}/account/delete`, {
        redirect: 'manual',
        headers: { cookie: session.cookie, accept: 'text/html' },
      })
      return { status: response.status, html: await response.text(), location: response.headers.get('location') ?? '' }
    }
    const send = async (session: Session, email: string, csrf = session.csrf) => {
      const response = await fetch(`${server.origin}/account/delete`, {
        method: 'POST',
        redirect: 'manual',
        headers: {
          cookie: session.cookie,
          origin: server.origin,
          'sec-fetch-site': 'same-origin',
          accept: 'text/html',
        },
        body: new URLSearchParams({ csrf, email }),
      })
      return { status: response.status, html: await response.text() }
    }

    it('says what ends, wants the address typed, and deletes it', async () => {
      const leaver = await makeLeaver()
      const page = await open(leaver.session)
      expect(page.status).toBe(200)
      expect(page.html).toContain('Tracepad')
      expect(page.html).toContain('1 token')
      const wrong = await send(leaver.session, 'somebody@example.com')
      expect([wrong.status, wrong.html.includes('Type the address of this account.')]).toEqual([400, true])
      expect((await send(leaver.session, leaver.email, 'forged')).status).toBe(403)
      expect((await open(leaver.session)).status).toBe(200)
      const done = await send(leaver.session, ` ${leaver.email.toUpperCase()} `)
      expect([done.status, done.html.includes('Your account is deleted')]).toEqual([200, true])
      expect((await call(server, leaver.session, 'GET', '/organizations')).status).toBe(401)
      const [record] = await eventsOf(leaver.userId)
      expect(record).toMatchObject({ actor_kind: 'user', status: 'pass' })
    })

    it('wants a sign-in from just now', async () => {
      const leaver = await makeLeaver()
      await ageSession(server, leaver.session, 3_600)
      const page = await open(leaver.session)
      expect([page.status, page.location]).toEqual([303, expect.stringContaining('/sign-in?')])
      const sent = await send(leaver.session, leaver.email)
      expect(sent.status).toBe(303)
      await ageSession(server, leaver.session, -3_600)
      expect((await call(server, leaver.session, 'GET', '/organizations')).status).toBe(200)
    })

    it('says to the last owner what is to be done first', async () => {
      const owner = await makeWorld(server)
      const session = await signInBrowser(server, owner)
      const page = await open(session)
      expect(page.html).toContain('You are the only owner of the organization Acme')
      expect(page.html).not.toContain('Delete my account')
      expect((await send(session, owner.email)).status).toBe(409)
    })
  })
})

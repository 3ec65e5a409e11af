// Pages about oneself: what one approved, everywhere, and nothing of anybody else.

import { decodeJwt } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { connect, makeClient, makeWorld, PASSWORD, post, refresh, type World } from '../support/world.ts'

const LIST = '/account/connections'

let server: TestServer
let world: World
/** Of another organization, with nobody in common but whom a test puts there. */
let neighbour: World
let ada: UserAgent

beforeAll(async () => {
  server = await startServer()
  ;[world, neighbour] = [await makeWorld(server), await makeWorld(server)]
  ada = await signedIn(world.email)
})
afterAll(() => server?.close())

async function signedIn(email: string): Promise<UserAgent> {
  const agent = server.userAgent()
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
  return agent
}

let people = 0
async function personWith(roles: ReadonlyArray<{ world: World; role: string; workspaceId?: string }>) {
  const email = `person-${++people}@example.com`
  await server.run('user create', { email, name: `Person ${people}`, password: PASSWORD })
  for (const { world: of, role, workspaceId } of roles)
    await server.run('member add', { user: email, workspace: workspaceId ?? of.workspaceId, role })
  return { email, agent: await signedIn(email) }
}

async function connected(agent: UserAgent, of: World, options: { workspaceId?: string; name?: string } = {}) {
  const client = await makeClient(server, { name: options.name ?? 'Tracepad' })
  const workspaceId = options.workspaceId ?? of.workspaceId
  const tokens = await connect(server, of, { agent, client, workspaceId })
  const id = String(decodeJwt(String(tokens.access_token)).credential_id)
  return { id, client, tokens, path: `${LIST}/${id}` }
}

const isActive = async ({ client, tokens }: Awaited<ReturnType<typeof connected>>) =>
  Reflect.get((await post(server.origin, '/introspect', client, { token: tokens.access_token ?? '' })).body, 'active')

describe('the account page', () => {
  it('names the person and leads to their connections; every page leads to it', async () => {
    const { email, agent } = await personWith([{ world, role: 'member' }])
    const page = await agent.open('/account')
    expect(page.status).toBe(200)
    expect(page.headers.get('cache-control')).toBe('no-store')
    expect(page.html).toContain(`<bdi>${email}</bdi>`)
    expect(page.html).toContain('You have approved no app')
    expect(page.html).toContain(`href="${LIST}"`)
    expect(page.html).toContain('href="/account/sign-out-everywhere"')
    await connected(agent, { ...world, email })
    expect((await agent.open('/account')).html).toContain('1 connection that you approved')
    expect((await agent.open('/')).html).toContain('href="/account"')
  })

  it('is reached by who is in no organization yet', async () => {
    const { agent } = await personWith([])
    expect((await agent.open('/')).html).toContain('href="/account"')
    expect((await agent.open(LIST)).html).toContain('No app acts for you')
  })

  it.each(['/account', LIST, `${LIST}/con_00000000000000000000000000`])(
    'nobody is led from %s to signing in, and back',
    async (path) => {
      const agent = server.userAgent()
      const page = await agent.open(path)
      expect([page.url.pathname, page.url.searchParams.get('return_to')]).toEqual(['/sign-in', path])
      const back = await agent.submit(page, '', { email: world.email, password: PASSWORD })
      expect(back.url.pathname).toBe(path)
    },
  )
})

describe('one’s own connections', () => {
  it('are listed over all workspaces and organizations, with when and from where they were used', async () => {
    const both = await personWith([
      { world, role: 'member' },
      { world, role: 'admin', workspaceId: world.otherWorkspaceId },
      { world: neighbour, role: 'member' },
    ])
    const own = { ...world, email: both.email }
    const one = await connected(both.agent, own, { name: 'App one' })
    await connected(both.agent, own, { name: 'App two', workspaceId: world.otherWorkspaceId })
    await connected(both.agent, { ...neighbour, email: both.email }, { name: 'App <three>' })
    await sql`insert into connection_versions values
      (${one.id}, 1, now(), now() - interval '4 minutes', '192.0.2.31', 'a')`.execute(server.db)
    const { html } = await both.agent.open(LIST)
    const rows = html.match(/<tr role="row">\s*<th role="rowheader"[\s\S]*?<\/tr>/g) ?? []
    expect(rows).toHaveLength(3)
    expect(rows[0]).toMatch(
      /App one[\s\S]*platform-ai[\s\S]*Acme[\s\S]*traces:read[\s\S]*Production[\s\S]*v1[\s\S]*4 minutes ago[\s\S]*192\.0\.2\.31/,
    )
    expect(rows[1]).toMatch(/App two[\s\S]*research[\s\S]*Not used yet/)
    expect(rows[2]).toContain('App &lt;three&gt;')
  })

  it('and nothing of anybody else’s: not of an admin’s workspace, nor of a neighbour', async () => {
    const mine = await connected(ada, world, { name: 'Of Ada' })
    const member = await personWith([{ world, role: 'member' }])
    const theirs = await connected(member.agent, { ...world, email: member.email }, { name: 'Of a member' })
    const bob = await signedIn(neighbour.email)
    const viewer = await personWith([{ world, role: 'viewer' }])
    const admin = await personWith([{ world, role: 'admin' }])
    expect((await ada.open(LIST)).html).not.toContain('Of a member')
    for (const agent of [member.agent, bob, viewer.agent, admin.agent]) {
      const { html } = await agent.open(LIST)
      expect(html).not.toContain('Of Ada')
      const page = await agent.open(mine.path)
      expect(page.status).toBe(404)
      expect(page.html).toContain('<h1>This connection has ended</h1>')
      expect(page.html).not.toContain('Of Ada')
      const csrf = /name="csrf" value="([^"]+)"/.exec(html)?.[1] ?? ''
      for (const what of ['revoke', 'sign_anew']) {
        const answer = await agent.request(mine.path, {
          method: 'POST',
          body: new URLSearchParams({ csrf, what, understood: 'yes' }),
          headers: { origin: server.origin },
        })
        expect(answer.status).toBe(404)
      }
    }
    expect(await isActive(mine)).toBe(true)
    expect(await isActive(theirs)).toBe(true)
  })

  it('end at once, on a page that says who used them; afterwards the address says that it has ended', async () => {
    const own = await connected(ada, world)
    await sql`insert into connection_uses values
      (${own.id}, 1, date_trunc('hour', now()), '192.0.2.31', 'nightly/1.0', 7, now())`.execute(server.db)
    const page = await ada.open(own.path)
    expect(page.html).toContain('1 caller used this in the last hour')
    expect(page.html).toContain('nightly/1.0')
    const refused = await ada.submit(page, own.path, { what: 'revoke' })
    expect([refused.status, await isActive(own)]).toEqual([400, true])
    const done = await ada.submit(refused, own.path, { what: 'revoke', understood: 'yes' })
    expect([done.url.pathname, await isActive(own)]).toEqual([LIST, false])
    expect(done.html).toContain('The connection has ended')
    expect(done.html).not.toContain(own.id)
    const again = await ada.open(own.path)
    expect([again.status, again.html.includes('<h1>This connection has ended</h1>')]).toEqual([404, true])
    const second = await ada.submit(page, own.path, { what: 'revoke', understood: 'yes' })
    expect([second.status, second.html.includes('<h1>This connection has ended</h1>')]).toEqual([404, true])
    const records = await server.db
      .selectFrom('audit_events')
      .select(['event', 'actor_kind', 'actor_id', 'user_id'])
      .where('credential_id', '=', own.id)
      .where('event', '=', 'connection.closed')
      .execute()
    expect(records).toEqual([
      { event: 'connection.closed', actor_kind: 'user', actor_id: world.userId, user_id: world.userId },
    ])
  })

  it('sign a new token: what was issued is dead, and the next refresh goes on', async () => {
    const own = await connected(ada, world)
    const done = await ada.submit(await ada.open(own.path), own.path, { what: 'sign_anew' })
    expect(done.html).toContain('It signs a new token at its next refresh')
    expect(await isActive(own)).toBe(false)
    const refreshed = await refresh(server.origin, own.client, own.tokens.refresh_token)
    expect(refreshed.status).toBe(200)
    expect(decodeJwt(String(refreshed.body.access_token)).token_version).toBe('v2')
    expect((await ada.open(LIST)).html).toContain(own.id)
  })

  it('who has left sees none; what is open all the same they see, and end', async () => {
    const left = await personWith([{ world, role: 'member' }])
    const own = await connected(left.agent, { ...world, email: left.email })
    const page = await left.agent.open(own.path)
    // Nothing in the product leaves one open; a database that somebody has mended by hand may.
    await sql`delete from workspace_members where user_id = (select user_id from connections where id = ${own.id})`.execute(
      server.db,
    )
    await sql`delete from organization_members where user_id = (select user_id from connections where id = ${own.id})`.execute(
      server.db,
    )
    expect((await left.agent.open(LIST)).html).toContain(own.id)
    expect((await left.agent.submit(page, own.path, { what: 'revoke' })).url.pathname).toBe(LIST)
    expect((await left.agent.open(LIST)).html).not.toContain(own.id)
    const removed = await personWith([{ world, role: 'member' }])
    const ended = await connected(removed.agent, { ...world, email: removed.email })
    const { user_id } = await server.db
      .selectFrom('connections')
      .select('user_id')
      .where('id', '=', ended.id as `con_${string}`)
      .executeTakeFirstOrThrow()
    const remove = `/workspaces/${world.workspaceId}/members/${user_id}/remove`
    await ada.submit(await ada.open(remove), remove, {})
    expect((await removed.agent.open(LIST)).html).toContain('No app acts for you')
    expect((await removed.agent.open(ended.path)).status).toBe(404)
  })

  it('of an archived workspace, or with a client that was deleted, are none any more', async () => {
    const person = await personWith([{ world: neighbour, role: 'member' }])
    const own = { ...neighbour, email: person.email }
    const [one, two] = [await connected(person.agent, own), await connected(person.agent, own)]
    await server.run('client delete', { client: one.client.id })
    const listed = (await person.agent.open(LIST)).html
    expect([listed.includes(one.id), listed.includes(two.id)]).toEqual([false, true])
    await sql`update workspaces set archived_at = now() where id = ${neighbour.workspaceId}`.execute(server.db)
    expect((await person.agent.open(LIST)).html).not.toContain(two.id)
    expect((await person.agent.open(two.path)).status).toBe(404)
  })

  it('are changed only by a form of one’s own session', async () => {
    const own = await connected(ada, world)
    for (const [body, headers] of [
      [{ what: 'revoke' }, { origin: server.origin }],
      [{ what: 'revoke', csrf: 'x' }, { origin: server.origin }],
      [{ what: 'revoke' }, { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }],
    ] as const) {
      const answer = await ada.request(own.path, { method: 'POST', body: new URLSearchParams(body), headers })
      expect(answer.status).toBe(403)
    }
    const nonsense = await ada.submit(await ada.open(own.path), own.path, { what: 'else' })
    expect(nonsense.status).toBe(400)
    expect(await isActive(own)).toBe(true)
  })

  it('a session from before “sign out everywhere” ends none', async () => {
    const person = await personWith([{ world, role: 'member' }])
    const own = await connected(person.agent, { ...world, email: person.email })
    const page = await person.agent.open(own.path)
    await sql`update users set sessions_not_before = now() + interval '1 second' where email = ${person.email}`.execute(
      server.db,
    )
    const after = await person.agent.submit(page, own.path, { what: 'revoke' })
    expect(after.url.pathname).toBe('/sign-in')
    expect(await isActive(own)).toBe(true)
  })
})

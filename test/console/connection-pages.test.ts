// Ending a connection on the Access page: whoever approved it, and admins; nobody else.
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { ConnectionId } from '../../src/ids.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { connect, makeWorld, PASSWORD, post, refresh, type World } from '../support/world.ts'

let server: TestServer
let world: World

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
})
afterAll(() => server.close())

async function person(role: string): Promise<{ email: string; agent: UserAgent }> {
  const email = `${role}-${Math.random().toString(36).slice(2)}@example.com`
  await server.run('user create', { email, name: role, password: PASSWORD })
  await server.run('member add', { user: email, workspace: world.workspaceId, role })
  return { email, agent: await signedIn(email) }
}

async function signedIn(email: string): Promise<UserAgent> {
  const agent = server.userAgent()
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
  return agent
}

async function connected(email = world.email, agent = server.userAgent()) {
  const tokens = await connect(server, { ...world, email }, { agent })
  const claims = JSON.parse(Buffer.from(tokens.access_token?.split('.')[1] ?? '', 'base64url').toString())
  const path = `/workspaces/${world.workspaceId}/connections/${claims.credential_id}`
  return { tokens, path, version: claims.token_version }
}

const isActive = async (token: string | undefined) =>
  Reflect.get((await post(server.origin, '/introspect', world.client, { token: token ?? '' })).body, 'active')

it('an admin ends a connection: its tokens are dead, and the list says so', async () => {
  const { tokens, path } = await connected()
  const { agent } = await person('admin')
  const listed = await agent.open(`/workspaces/${world.workspaceId}/access`)
  expect(listed.html).toContain(`href="${path}"`)
  const after = await agent.submit(await agent.open(path), path, { what: 'revoke' })
  expect(after.html).toContain('The connection has ended')
  expect(await isActive(tokens.access_token)).toBe(false)
  expect((await refresh(server.origin, world.client, tokens.refresh_token)).status).toBe(400)
  expect((await agent.open(path)).status).toBe(404)
  const events = await server.db.selectFrom('audit_events').select(['event', 'actor_kind', 'credential_id']).execute()
  expect(events).toContainEqual({
    event: 'connection.closed',
    actor_kind: 'user',
    credential_id: path.split('/').at(-1),
  })
})

it('made to sign a new token it goes on at its next refresh, with a higher version', async () => {
  const { tokens, path } = await connected()
  const agent = await signedIn(world.email)
  await agent.submit(await agent.open(path), path, { what: 'sign_anew' })
  expect(await isActive(tokens.access_token)).toBe(false)
  const refreshed = await refresh(server.origin, world.client, tokens.refresh_token)
  expect(refreshed.status).toBe(200)
  expect(await isActive(refreshed.body.access_token)).toBe(true)
})

it('a member ends what they approved themselves, and not what somebody else did', async () => {
  const member = await person('member')
  const own = await connected(member.email)
  const foreign = await connected()
  const list = await member.agent.open(`/workspaces/${world.workspaceId}/access`)
  expect(list.html).toContain(`href="${own.path}"`)
  expect(list.html).not.toContain(`href="${foreign.path}"`)
  expect((await member.agent.open(foreign.path)).status).toBe(403)
  const page = await member.agent.open(own.path)
  const body = new URLSearchParams({ csrf: /name="csrf" value="([^"]+)"/.exec(page.html)?.[1] ?? '', what: 'revoke' })
  const headers = { origin: server.origin, 'content-type': 'application/x-www-form-urlencoded' }
  expect((await member.agent.request(foreign.path, { method: 'POST', body, headers })).status).toBe(403)
  expect(await isActive(foreign.tokens.access_token)).toBe(true)
  await member.agent.submit(page, own.path, { what: 'revoke' })
  expect(await isActive(own.tokens.access_token)).toBe(false)
})

it('nobody, a viewer, a stranger, another site: nothing ends', async () => {
  const { tokens, path } = await connected()
  expect((await server.userAgent().request(path)).headers.get('location')).toMatch(/^\/sign-in/)
  expect((await (await person('viewer')).agent.open(path)).status).toBe(403)
  await server.run('user create', { email: 'stranger@example.com', name: 'Stranger', password: PASSWORD })
  expect((await (await signedIn('stranger@example.com')).open(path)).status).toBe(404)
  const owner = await signedIn(world.email)
  for (const [body, headers] of [
    [{ what: 'revoke' }, { origin: server.origin }],
    [{ what: 'revoke', csrf: 'x' }, { origin: server.origin }],
    [{ what: 'revoke' }, { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }],
  ] as const) {
    const answer = await owner.request(path, { method: 'POST', body: new URLSearchParams(body), headers })
    expect(answer.status).toBe(403)
  }
  expect(await isActive(tokens.access_token)).toBe(true)
})

/** As the process writes it. */
const used = (path: string, agent: string, minutesAgo: number) =>
  server.db
    .insertInto('connection_uses')
    .values({
      connection_id: path.split('/').at(-1) as ConnectionId, // read from a token
      version: 1,
      hour: new Date(Math.floor((Date.now() - minutesAgo * 60_000) / 3_600_000) * 3_600_000),
      address: '192.0.2.31',
      agent,
      uses: 3,
      last_at: new Date(Date.now() - minutesAgo * 60_000),
    })
    .execute()

it('says who used it in the last hour, and asks to know that they will stop', async () => {
  const { email, agent } = await person('member')
  const { tokens, path } = await connected(email, agent)
  const quiet = await agent.open(path)
  expect(quiet.html).toContain('Nobody used it in the last hour')
  expect(quiet.html).toContain('It has not been used yet')
  expect(quiet.html).not.toContain('name="understood"')
  await used(path, 'deploy-job/2.3<b>', 1)
  await used(path, 'nightly/1.0', 2)
  await used(path, 'yesterday/1.0', 1_500)
  const page = await agent.open(path)
  expect(page.html).toContain('2 callers used this in the last hour')
  expect(page.html).toContain('deploy-job/2.3&lt;b&gt;')
  expect(page.html).toContain('192.0.2.31')
  expect(page.html).not.toContain('yesterday/1.0')
  const refused = await agent.submit(page, path, { what: 'revoke' })
  expect(refused.status).toBe(400)
  expect(refused.html).toContain('Check this first: it is in use.')
  expect(await isActive(tokens.access_token)).toBe(true)
  const done = await agent.submit(refused, path, { what: 'revoke', understood: 'yes' })
  expect(done.html).toContain('The connection has ended')
  expect(await isActive(tokens.access_token)).toBe(false)
})

it('one that has ended, one of another workspace and one that never was are the same page', async () => {
  const { email, agent } = await person('member')
  const { path } = await connected(email, agent)
  await agent.submit(await agent.open(path), path, { what: 'revoke' })
  await server.run('member add', { user: email, workspace: world.otherWorkspaceId, role: 'member' })
  const open = await connected(email, agent)
  const said = await Promise.all(
    [
      path,
      open.path.replace(world.workspaceId, world.otherWorkspaceId),
      path.replace(/con_.*/, 'con_00000000000000000000000000'),
      path.replace(/con_.*/, 'x'),
    ].map(async (address) => {
      const page = await agent.open(address)
      return `${page.status} ${/<main[\s\S]*<\/main>/.exec(page.html)?.[0].replaceAll(/ws_\w+/g, '')}`
    }),
  )
  expect(said[0]).toMatch(/^404[\s\S]*<h1>This connection has ended<\/h1>/)
  expect(new Set(said).size).toBe(1)
})

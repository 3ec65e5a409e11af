// Invitations (threats G-09, G-10, G-12): one person, once, for a week, from somebody who can.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { InvitationId, KeyId, UserId } from '../../src/ids.ts'
import { accept } from '../../src/invitations/service.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { Page, UserAgent } from '../support/user-agent.ts'
import { makeWorld, PASSWORD, type World } from '../support/world.ts'

let server: TestServer
let world: World
let key: string

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  key = await makeKey('provisioning')
})
afterAll(() => server.close())

async function makeKey(label: string): Promise<string> {
  const made = await server.run('organization-key create', {
    organization: world.organizationId,
    label,
    permissions: ['read', 'manage'],
  })
  return String(made.key)
}

async function call(method: string, path: string, body?: object, credential = key, origin = server.origin) {
  const response = await fetch(`${origin}/api/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, text, body: text === '' ? {} : JSON.parse(text) }
}

/** Where a member arrives. */
const accessPage = () => new URL(`/workspaces/${world.workspaceId}/access`, server.origin)

let people = 0
const newAddress = () => `guest-${++people}@example.com`

async function inviteGuest(input: { email?: string; role?: string } = {}) {
  const email = input.email ?? newAddress()
  const made = await call('POST', `/workspaces/${world.workspaceId}/invitations`, {
    email,
    role: input.role ?? 'member',
  })
  expect(made.status).toBe(201)
  return { email, id: String(made.body.id), link: new URL(made.body.link) }
}

/** Opens the link and an account with it. */
async function join(link: URL, agent: UserAgent = server.userAgent()) {
  const page = await agent.open(link)
  return agent.submit(page, '/join', { name: 'Guest', password: PASSWORD })
}

const members = async (): Promise<Array<{ email: string; role: string }>> =>
  (await call('GET', `/workspaces/${world.workspaceId}/members`)).body

describe('an invitation', () => {
  it('lets a person without an account open one and be in, signed in, with the role that was offered', async () => {
    const { email, link } = await inviteGuest({ role: 'viewer' })
    const agent = server.userAgent()
    const arrived = await join(link, agent)
    expect([arrived.status, arrived.url.pathname]).toEqual([200, `/workspaces/${world.workspaceId}/members`])
    expect(await members()).toContainEqual(expect.objectContaining({ email, role: 'viewer' }))
    const events = await server.db.selectFrom('audit_events').select(['event', 'detail']).execute()
    expect(events.map(({ event }) => event)).toEqual(
      expect.arrayContaining(['invitation.created', 'user.created', 'member.added']),
    )
    expect(JSON.stringify(events)).not.toContain(email)
  })

  it('says beside each field what is wrong with it, keeps what was typed, and can be used then', async () => {
    const { link } = await inviteGuest()
    const agent = server.userAgent()
    const problemOf = (page: Page, id: string) => new RegExp(`id="${id}-error"[^>]*><bdi>([^<]+)<`).exec(page.html)?.[1]
    const long = 'x'.repeat(121)
    const nameless = await agent.submit(await agent.open(link), '/join', { name: long, password: PASSWORD })
    expect([nameless.status, problemOf(nameless, 'name'), problemOf(nameless, 'password')]).toEqual([
      400,
      'Tell us your name, in up to 120 characters.',
      undefined,
    ])
    expect(nameless.html).toContain(`value="${long}"`)
    const short = await agent.submit(nameless, '/join', { name: 'Guest', password: 'short' })
    expect([short.status, problemOf(short, 'name')]).toEqual([400, undefined])
    expect(problemOf(short, 'password')).toMatch(/character/)
    expect(short.html).toContain('value="Guest"')
    expect(short.html).not.toContain('value="short"')
    expect((await agent.submit(short, '/join', { name: 'Guest', password: PASSWORD })).url).toEqual(accessPage())
  })

  it('says so to somebody who has an account by now', async () => {
    const { email, link } = await inviteGuest()
    const agent = server.userAgent()
    const page = await agent.open(link)
    await server.run('user create', { email, name: 'Guest', password: PASSWORD })
    const refused = await agent.submit(page, '/join', { name: 'Guest', password: PASSWORD })
    expect([refused.status, refused.html]).toEqual([409, expect.stringContaining('Sign in with it to join')])
  })

  it('lets a person with an account in once they are signed in, and nobody else', async () => {
    const email = newAddress()
    await server.run('user create', { email, name: 'Guest', password: PASSWORD })
    await server.run('user create', { email: 'mallory@example.com', name: 'Mallory', password: PASSWORD })
    const { link } = await inviteGuest({ email: email.toUpperCase() })
    const mallory = server.userAgent()
    await signIn(mallory, 'mallory@example.com')
    const refused = await mallory.open(link)
    expect(refused.html).toContain('You are signed in as somebody else')
    const forged = await mallory.open(`${link.pathname}/accept`, {
      method: 'POST',
      headers: { origin: server.origin, 'content-type': 'application/x-www-form-urlencoded' },
      body: new URLSearchParams({ csrf: /name="csrf" value="([^"]+)"/.exec(refused.html)?.[1] ?? '' }),
    })
    expect(forged.status).toBe(403)
    const guest = server.userAgent()
    const asked = await guest.open(link)
    expect(asked.html).toContain('Sign in with it to join')
    await signIn(guest, email)
    await guest.submit(await guest.open(link), '/accept', {})
    const emails = (await members()).map((member) => member.email)
    expect(emails).toContain(email)
    expect(emails).not.toContain('mallory@example.com')
  })

  it('is good once, also for two at the same time', async () => {
    const { link, email } = await inviteGuest()
    const agents = [server.userAgent(), server.userAgent(), server.userAgent()]
    const pages = await Promise.all(agents.map((agent) => agent.open(link)))
    const answers = await Promise.all(
      agents.map(async (agent, place) => {
        const page = pages[place]
        if (page === undefined) throw new Error('no page')
        return agent.submit(page, '/join', { name: 'Guest', password: PASSWORD })
      }),
    )
    expect(answers.filter((answer) => answer.url.pathname.startsWith('/workspaces/'))).toHaveLength(1)
    expect((await members()).filter((member) => member.email === email)).toHaveLength(1)
    expect((await server.userAgent().open(link)).status).toBe(404)
  })

  it('leads nowhere once it is cancelled, replaced or over', async () => {
    const first = await inviteGuest()
    expect((await call('DELETE', `/workspaces/${world.workspaceId}/invitations/${first.id}`)).status).toBe(204)
    expect((await server.userAgent().open(first.link)).status).toBe(404)
    expect((await call('DELETE', `/workspaces/${world.workspaceId}/invitations/${first.id}`)).status).toBe(404)

    const second = await inviteGuest()
    await inviteGuest({ email: second.email })
    expect((await server.userAgent().open(second.link)).status).toBe(404)

    const third = await inviteGuest()
    const agent = server.userAgent()
    const page = await agent.open(third.link)
    await server.db
      .updateTable('invitations')
      .set({ expires_at: new Date(Date.now() - 1000) })
      .where('id', '=', third.id as InvitationId)
      .execute()
    expect((await agent.submit(page, '/join', { name: 'Guest', password: PASSWORD })).status).toBe(404)
    expect((await members()).some((member) => member.email === third.email)).toBe(false)
  })

  it('is worth nothing once whoever sent it can invite nobody any more', async () => {
    const other = await makeKey('short-lived')
    const email = newAddress()
    const made = await call('POST', `/workspaces/${world.workspaceId}/invitations`, { email }, other)
    const keys = (await call('GET', `/organizations/${world.organizationId}/api-keys`)).body
    const id = keys.find((candidate: { label: string }) => candidate.label === 'short-lived')?.id
    expect((await call('DELETE', `/organizations/${world.organizationId}/api-keys/${id}`)).status).toBe(204)
    expect((await join(new URL(made.body.link))).status).toBe(404)
    expect((await members()).some((member) => member.email === email)).toBe(false)
  })

  it('is worth nothing while the person who sent it is suspended', async () => {
    const sender = await makeAdmin()
    const [first, second] = [await inviteAs(sender.agent), await inviteAs(sender.agent)]
    await server.run('user suspend', { user: sender.email })
    expect((await join(first.link)).status).toBe(404)
    expect((await members()).some((member) => member.email === first.email)).toBe(false)
    await server.run('user restore', { user: sender.email })
    expect(await join(second.link)).toMatchObject({ status: 200, url: accessPage() })
  })

  it('lets nobody in who is suspended', async () => {
    const email = newAddress()
    const guest = await server.run('user create', { email, name: 'Guest', password: PASSWORD })
    const { link } = await inviteGuest({ email })
    const secret = link.pathname.split('/').at(-1) ?? ''
    const accepting = () => accept(server.db, { secret, userId: guest.id as UserId, request: { traceId: 'test' } })
    await server.run('user suspend', { user: email })
    await expect(accepting()).rejects.toMatchObject({ code: 'not_found' })
    expect((await members()).some((member) => member.email === email)).toBe(false)
    await server.run('user restore', { user: email })
    await accepting()
    expect((await members()).some((member) => member.email === email)).toBe(true)
  })

  it('outlives the rotation of the key that sent it, and not the end of that key', async () => {
    const sender = await makeKey('rotated')
    const path = `/organizations/${world.organizationId}/api-keys`
    const keys = (await call('GET', path)).body
    const id = keys.find((candidate: { label: string }) => candidate.label === 'rotated')?.id as KeyId
    const invited = async () => {
      const made = await call('POST', `/workspaces/${world.workspaceId}/invitations`, { email: newAddress() }, sender)
      expect(made.status).toBe(201)
      return new URL(made.body.link)
    }
    const [first, second] = [await invited(), await invited()]
    expect((await call('POST', `${path}/${id}/rotate`, {})).status).toBe(201)
    expect((await call('POST', `${path}/${id}/cutover`, {})).status).toBe(200)
    expect(await join(first)).toMatchObject({ status: 200, url: accessPage() })
    await server.db
      .updateTable('token_versions')
      .set({ expires_at: new Date(Date.now() - 1_000) })
      .where('token_id', '=', id)
      .execute()
    expect((await join(second)).status).toBe(404)
  })

  it('records that somebody was added only where somebody was', async () => {
    const { email, link } = await inviteGuest({ role: 'viewer' })
    await join(link)
    const again = await inviteGuest({ email, role: 'admin' })
    const guest = server.userAgent()
    await signIn(guest, email)
    await guest.submit(await guest.open(again.link), '/accept', {})
    expect(await members()).toContainEqual(expect.objectContaining({ email, role: 'viewer' }))
    expect(await eventsOf(again.id)).toEqual(['invitation.created', 'invitation.accepted'])
  })

  it('shows its link once: no list, row or log line holds it', async () => {
    const { link, id } = await inviteGuest()
    const secret = link.pathname.split('/').at(-1) ?? 'none'
    expect(secret).toHaveLength(43)
    await server.userAgent().open(link)
    const listed = await call('GET', `/workspaces/${world.workspaceId}/invitations`)
    expect(listed.body.map((invitation: { id: string }) => invitation.id)).toContain(id)
    const rows = await server.db.selectFrom('invitations').selectAll().execute()
    for (const text of [listed.text, JSON.stringify(rows), server.logLines.join('\n')])
      expect(text).not.toContain(secret)
    expect(server.logLines.some((line) => line.includes('"/invitations/:secret'))).toBe(true)
  })

  it.each([
    { email: 'guest@example.com', role: 'emperor' },
    { email: 'no address' },
    { email: 'a＠example.com' },
    { email: 'guest@example.com', organization_id: 'org_1' },
    { email: ['guest@example.com'] },
  ])('is refused as %o', async (body) => {
    const answer = await call('POST', `/workspaces/${world.workspaceId}/invitations`, body)
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_request' } })
  })

  it('makes no owner on an admin’s word', async () => {
    const answer = await call('POST', `/workspaces/${world.workspaceId}/invitations`, {
      email: newAddress(),
      role: 'owner',
    })
    expect(answer).toMatchObject({ status: 403, body: { code: 'role_too_low' } })
  })
})

describe.runIf(hasStores())('invitations on PostgreSQL', () => {
  it.each([
    ['a workspace', (own: World) => `/workspaces/${own.workspaceId}/invitations`],
    ['an organization', (own: World) => `/organizations/${own.organizationId}/invitations`],
  ])('of one address to %s, eight at once: each is made, and one is open', async (_, pathIn) => {
    const stores = await startServer({ backend: 'stores' })
    try {
      const own = await makeWorld(stores)
      const made = await stores.run('organization-key create', {
        organization: own.organizationId,
        label: 'provisioning',
        permissions: ['read', 'manage'],
      })
      const inviting = () => call('POST', pathIn(own), { email: 'guest@example.com' }, String(made.key), stores.origin)
      const answers = await Promise.all(Array.from({ length: 8 }, inviting))
      expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 8 }, () => 201))
      expect((await call('GET', pathIn(own), undefined, String(made.key), stores.origin)).body).toHaveLength(1)
    } finally {
      await stores.close()
    }
  })
})

/** Somebody who is an admin of the workspace, signed in. */
async function makeAdmin(): Promise<{ email: string; agent: UserAgent }> {
  const email = newAddress()
  await server.run('user create', { email, name: 'Sender', password: PASSWORD })
  await server.run('member add', { user: email, workspace: world.workspaceId, role: 'admin' })
  const agent = server.userAgent()
  await signIn(agent, email)
  return { email, agent }
}

/** From the page, as a person does. */
async function inviteAs(agent: UserAgent): Promise<{ email: string; link: URL }> {
  const email = newAddress()
  const page = await agent.open(`/workspaces/${world.workspaceId}/members/invite`)
  const shown = await agent.submit(page, '/invite', { email, role: 'member' })
  const link = /\/invitations\/[\w-]{43}/.exec(shown.html)?.[0]
  if (link === undefined) throw new Error(`no link: ${shown.status}`)
  return { email, link: new URL(link, server.origin) }
}

/** What the log says of one invitation, oldest first. */
async function eventsOf(id: string): Promise<string[]> {
  const rows = await server.db.selectFrom('audit_events').select(['event', 'detail']).orderBy('id').execute()
  return rows.filter(({ detail }) => JSON.stringify(detail).includes(id)).map(({ event }) => event)
}

async function signIn(agent: UserAgent, email: string): Promise<void> {
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
}

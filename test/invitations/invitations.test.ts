// Invitations (threats G-09, G-10, G-12): one person, once, for a week, from somebody who can.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
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

async function call(method: string, path: string, body?: object, credential = key) {
  const response = await fetch(`${server.origin}/api/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${credential}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  const text = await response.text()
  return { status: response.status, text, body: text === '' ? {} : JSON.parse(text) }
}

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
    expect(arrived.url.pathname).toBe(`/workspaces/${world.workspaceId}/access`)
    expect(await members()).toContainEqual(expect.objectContaining({ email, role: 'viewer' }))
    const events = await server.db.selectFrom('audit_events').select(['event', 'detail']).execute()
    expect(events.map(({ event }) => event)).toEqual(
      expect.arrayContaining(['invitation.created', 'user.created', 'member.added']),
    )
    expect(JSON.stringify(events)).not.toContain(email)
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
      .where('id', '=', third.id as `inv_${string}`)
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

async function signIn(agent: UserAgent, email: string): Promise<void> {
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
}

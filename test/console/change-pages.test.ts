// The pages that end somebody's access, or lessen it, say all that comes of it: also invitations, and the review that opens.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  type ApiWorld,
  bearer,
  call,
  makeApiWorld,
  makePerson,
  makeToken,
  type Session,
  signInBrowser,
} from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld

beforeAll(async () => {
  server = await startServer()
  world = await makeApiWorld(server)
})
afterAll(() => server?.close())

async function pageFor(session: Session, path: string): Promise<string> {
  const response = await fetch(server.origin + path, { headers: { ...session.headers, accept: 'text/html' } })
  expect(response.status, path).toBe(200)
  return response.text()
}

const ownerPage = (path: string) => pageFor(world.people.owner, path)
const workspacePath = () => `/workspaces/${world.workspaceId}`
const REVIEW = 'an access review opens'

/** What a choice of a role says. */
const choiceIn = (html: string, role: string) =>
  html.split('<label class="choice">').find((part) => part.includes(`value="${role}"`)) ?? ''

describe('another role', () => {
  it('that only ends invitations says so, and which access review opens', async () => {
    const person = await makePerson(server, 'Inviter')
    await server.run('member add', { workspace: world.workspaceId, user: person.email, role: 'admin' })
    const session = await signInBrowser(server, person)
    const body = { email: `${randomBytes(4).toString('hex')}@example.com`, role: 'member' }
    expect((await call(server, session, 'POST', `${workspacePath()}/invitations`, { body })).status).toBe(201)
    const path = `${workspacePath()}/members/${person.userId}`
    const preview = await call(server, bearer(world.key), 'GET', `${path}/consequences?role=member`)
    expect(preview.body.cancels).toHaveLength(1)
    const html = await ownerPage(`${path}/role`)
    expect(choiceIn(html, 'member')).toContain('<strong>Ends 1 invitation that they sent.')
    expect(choiceIn(html, 'member')).toContain(REVIEW)
    expect(html).toContain('One invitation that they sent and nobody has accepted yet ends.')
    expect(choiceIn(html, 'owner')).not.toContain('invitation that they sent')
    expect(choiceIn(html, 'owner')).not.toContain(REVIEW)
    expect(await ownerPage(`${path}/remove`)).toContain('One invitation that they sent')
  })

  it('in the organization says the same', async () => {
    const person = await makePerson(server, 'Organizer')
    await server.run('member add', { organization: world.organizationId, user: person.email, role: 'admin' })
    const path = `/organizations/${world.organizationId}/people/${person.userId}`
    const html = await ownerPage(`${path}/role`)
    expect(choiceIn(html, 'member')).toContain(REVIEW)
    expect(choiceIn(html, 'owner')).not.toContain(REVIEW)
    expect(await ownerPage(`${path}/remove`)).toContain(REVIEW)
  })
})

describe('a removal', () => {
  it('says that an access review opens, and it does', async () => {
    const person = await makePerson(server, 'Leaver')
    await server.run('member add', { workspace: world.workspaceId, user: person.email, role: 'member' })
    await makeToken(server, { workspaceId: world.workspaceId, key: world.key })
    const path = `${workspacePath()}/members/${person.userId}`
    expect(await ownerPage(`${path}/remove`)).toContain(REVIEW)
    expect((await call(server, bearer(world.key), 'DELETE', path)).status).toBe(204)
    await server.run('jobs run', { job: 'reviews-team' })
    const reviews = await call(server, bearer(world.key), 'GET', `${workspacePath()}/reviews`)
    expect(reviews.body).toMatchObject([{ reasons: ['team_change'] }])
  })
})

describe('a token that a key made', () => {
  it('is by the name of that key, on the list and on its own page', async () => {
    const { id } = await makeToken(server, { workspaceId: world.workspaceId, key: world.key }, { label: 'by a key' })
    const list = await ownerPage(`${workspacePath()}/access`)
    const row = list.split('<tr role="row">').find((part) => part.includes(id)) ?? ''
    expect(row).toContain('<bdi>provisioning</bdi>')
    expect(await ownerPage(`${workspacePath()}/tokens/${id}`)).toContain('by <bdi>provisioning</bdi>')
  })
})

describe('the page of what needs attention', () => {
  it('says that a token is overdue once it is', async () => {
    const { id } = await makeToken(server, { workspaceId: world.otherWorkspaceId, key: world.key }, { label: 'late' })
    const lineAfter = async (interval: string) => {
      await sql`update token_lines set rotation_required_by = clock_timestamp() + ${interval}::interval,
        rotation_required_below = 2, rotation_required_reason = 'member_removed' where id = ${id}`.execute(server.db)
      await server.run('jobs run', { job: 'notices' })
      const html = await ownerPage(`/workspaces/${world.otherWorkspaceId}/notices`)
      return html.split('<li class="entry">').find((part) => part.includes(id)) ?? ''
    }
    expect(await lineAfter('2 days')).toContain('must be rotated by')
    const overdue = await lineAfter('-1 day')
    expect(overdue).toContain('was to be rotated by')
    expect(overdue).toContain('overdue')
  })
})

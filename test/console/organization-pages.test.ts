// The pages of organizations and workspaces, as each kind of visitor meets them.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { OrganizationId, UserId, WorkspaceId } from '../../src/ids.ts'
import { createToken } from '../../src/workspace-tokens/service.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { formOf, type Page, type UserAgent } from '../support/user-agent.ts'
import { connect, makeWorld, PASSWORD, post, type World } from '../support/world.ts'

let server: TestServer
let world: World

const HTML = { headers: { accept: 'text/html' } }
const HOSTILE = '<img src=x onerror=alert(1)>"\'&'

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
})
afterAll(() => server?.close())

interface Person {
  id: UserId
  email: string
  agent: UserAgent
}

async function makePerson(name = 'Person'): Promise<Person> {
  const email = `p-${randomBytes(6).toString('hex')}@example.com`
  const user = await server.run('user create', { email, name, password: PASSWORD })
  return { id: user.id as UserId, email, agent: server.userAgent() }
}

async function signedIn(person: Person): Promise<Person> {
  await signInHere(person.agent, await person.agent.open('/sign-in'), person.email)
  return person
}

/** On the console's own sign-in page, whose form says where to go on. */
function signInHere(agent: UserAgent, page: Page, email: string): Promise<Page> {
  const action = /action="(\/sign-in[^"]*)"/.exec(page.html)?.[1]?.replaceAll('&amp;', '&')
  return agent.submit(page, action ?? '/sign-in', { email, password: PASSWORD })
}

/** Somebody with a role in the workspace, in the organization, or in neither, who is signed in. */
async function visitor(as: { workspace?: string; organization?: string; name?: string } = {}): Promise<Person> {
  const person = await makePerson(as.name)
  if (as.organization !== undefined)
    await server.run('member add', {
      user: person.email,
      organization: world.organizationId,
      role: as.organization,
    })
  if (as.workspace !== undefined)
    await server.run('member add', { user: person.email, workspace: world.workspaceId, role: as.workspace })
  return signedIn(person)
}

async function owner(): Promise<Person> {
  return signedIn({ id: world.userId as UserId, email: world.email, agent: server.userAgent() })
}

/** A world of its own, where everything may be ended. */
async function ownWorld() {
  const ownWorld = await makeWorld(server)
  const person = await signedIn({ id: ownWorld.userId as UserId, email: ownWorld.email, agent: server.userAgent() })
  return {
    ...ownWorld,
    ...person,
    organizationId: ownWorld.organizationId as OrganizationId,
    workspaceId: ownWorld.workspaceId as WorkspaceId,
  }
}

const open = (person: Person, path: string): Promise<Page> => person.agent.open(path, HTML)
/** Addresses of links within an element of a page. */
const linksIn = (page: Page, element: string) =>
  [
    ...(new RegExp(`<${element}[ >].*</${element}>`, 's').exec(page.html)?.[0] ?? '').matchAll(
      /<a [^>]*href="(\/[^"]*)"/g,
    ),
  ].map(([, href]) => href ?? '')
const tabsOf = (page: Page) =>
  [...(/<nav class="tabs".*?<\/nav>/s.exec(page.html)?.[0] ?? '').matchAll(/>([^<]+)<\/a>/g)].map(([, text]) => text)
const title = (page: Page) => /<h1>(.*?)<\/h1>/s.exec(page.html)?.[1]?.replace(/<[^>]*>/g, '') ?? ''
const alertOf = (page: Page) => /role="alert"[^>]*>(.*?)<\/div>/s.exec(page.html)?.[1]?.replace(/<[^>]*>/g, ' ') ?? ''

/** Sends the form of this address, with its own token, as the page would. */
async function send(person: Person, path: string, fields: Record<string, string> = {}): Promise<Page> {
  return person.agent.submit(await open(person, path), path, fields)
}

const org = () => `/organizations/${world.organizationId}`
const ws = () => `/workspaces/${world.workspaceId}`

const statusOf = async (person: Person, path: string) => (await person.agent.request(path, HTML)).status

describe('who sees which page', () => {
  const people: Record<string, () => Promise<Person>> = {
    neighbour: async () => {
      const person = await makePerson()
      await server.run('organization create', { name: 'Globex', owner: person.email })
      return signedIn(person)
    },
    stranger: () => visitor(),
    'organization member': () => visitor({ organization: 'member' }),
    viewer: () => visitor({ workspace: 'viewer' }),
    member: () => visitor({ workspace: 'member' }),
    'workspace admin': () => visitor({ workspace: 'admin' }),
    'organization admin': () => visitor({ organization: 'admin' }),
    owner,
  }
  const N = 404
  // [organization: overview, people, new workspace, change a person], [workspace: root, members, add, change, settings, policy, archive]
  const expected: Record<string, [number[], number[]]> = {
    neighbour: [
      [N, N, N, N],
      [N, N, N, N, N, N, N],
    ],
    stranger: [
      [N, N, N, N],
      [N, N, N, N, N, N, N],
    ],
    'organization member': [
      [200, 200, 403, 403],
      [N, N, N, N, N, N, N],
    ],
    viewer: [
      [200, 200, 403, 403],
      [303, 200, 403, 403, 200, 403, 403],
    ],
    member: [
      [200, 200, 403, 403],
      [303, 200, 403, 403, 200, 403, 403],
    ],
    'workspace admin': [
      [200, 200, 403, 403],
      [303, 200, 200, 200, 200, 200, 200],
    ],
    'organization admin': [
      [200, 200, 200, 200],
      [303, 200, 200, 200, 200, 200, 200],
    ],
    owner: [
      [200, 200, 200, 200],
      [303, 200, 200, 200, 200, 200, 200],
    ],
  }
  const organizationPaths = (id: string) =>
    ['', '/people', '/workspaces/new', `/people/${id}/role`].map((end) => `${org()}${end}`)
  const workspacePaths = (id: string) =>
    ['', '/members', '/members/new', `/members/${id}/role`, '/settings', '/settings/policy', '/settings/archive'].map(
      (end) => `${ws()}${end}`,
    )

  it('nobody is led to the sign-in page, and back', async () => {
    const agent = server.userAgent()
    for (const path of [...organizationPaths(world.userId), ...workspacePaths(world.userId)]) {
      const response = await agent.request(path, HTML)
      expect(response.status, path).toBe(303)
      expect(response.headers.get('location')).toBe(`/sign-in?return_to=${encodeURIComponent(path)}`)
    }
    const page = await agent.open(`${ws()}/members`)
    expect((await signInHere(agent, page, world.email)).url.pathname).toBe(`${ws()}/members`)
  })

  it.each(Object.keys(expected))('%s', async (name) => {
    const person = await people[name]?.()
    if (person === undefined) throw new Error('no such person')
    const member = await visitor({ workspace: 'member' })
    const statuses = async (paths: string[]) => Promise.all(paths.map((path) => statusOf(person, path)))
    expect(await statuses(organizationPaths(member.id))).toEqual(expected[name]?.[0])
    expect(await statuses(workspacePaths(member.id))).toEqual(expected[name]?.[1])
  })

  it('an unknown id and a neighbour’s are the same page', async () => {
    const stranger = await visitor()
    const unknown = `/workspaces/ws_${'0'.repeat(26)}/members`
    const [one, other] = await Promise.all([open(stranger, unknown), open(stranger, `${ws()}/members`)])
    expect(one.status).toBe(404)
    expect(title(one)).toBe('There is nothing here')
    expect(title(other)).toBe(title(one))
  })

  it('a role that is too low is told so on a page, with what to do', async () => {
    const viewer = await visitor({ workspace: 'viewer' })
    const page = await open(viewer, `${ws()}/settings/archive`)
    expect(page.status).toBe(403)
    expect(title(page)).toBe('Your role does not allow this')
  })

  it.each([
    ['viewer', ['Members', 'Settings']],
    ['member', ['Access', 'Members', 'Providers', 'Usage', 'Settings']],
  ])('a %s gets to every page that is a link on the way in', async (role, tabs) => {
    const person = await visitor({ workspace: role })
    const overview = await open(person, org())
    expect(linksIn(overview, 'main')).toContain(ws())
    const page = await open(person, ws())
    expect([page.status, tabsOf(page)]).toEqual([200, tabs])
    for (const href of [...linksIn(page, 'main'), ...linksIn(page, 'header')])
      expect([href, (await open(person, href)).status]).toEqual([href, 200])
  })
})

describe('where somebody lands', () => {
  it('one organization: there; several: a list; none: what to do; nobody: the home page with a way in', async () => {
    expect((await open(await owner(), '/')).url.pathname).toBe(org())
    const grace = await visitor({ organization: 'member' })
    await server.run('organization create', { name: HOSTILE, owner: grace.email })
    const list = await open(grace, '/')
    expect(title(list)).toBe('Your organizations')
    expect(list.html).toContain('&lt;img src=x')
    expect(list.html).not.toContain('<img')
    const none = await open(await visitor(), '/')
    expect(title(none)).toBe('You are in no organization yet')
    const home = await server.userAgent().open('/', HTML)
    expect(home.html).toContain('href="/sign-in"')
    expect(home.html).toContain('href="/api/v1/docs"')
  })
})

describe('an organization’s overview', () => {
  it('lists to a member what they reach, and to an admin everything', async () => {
    const viewer = await visitor({ workspace: 'viewer' })
    const seen = (await open(viewer, org())).html
    expect(seen).toContain('platform-ai')
    expect(seen).not.toContain('>research<')
    expect(seen).not.toContain('Create workspace')
    const outsider = (await open(await visitor({ organization: 'member' }), org())).html
    expect(outsider).not.toContain('platform-ai')
    expect(outsider).toContain('No workspaces for you yet')
    const all = (await open(await visitor({ organization: 'admin' }), org())).html
    expect(all).toContain('platform-ai')
    expect(all).toContain('>research<')
    expect(all).toContain('Create workspace')
  })

  it('counts members, connections and tokens, and names owners', async () => {
    const own = await ownWorld()
    await connect(server, own)
    const html = (await open(own, `/organizations/${own.organizationId}`)).html
    const row = html.slice(html.indexOf(`/workspaces/${own.workspaceId}`)).split('</tr>')[0] ?? ''
    expect(row).toContain('Owner: <bdi>Ada</bdi>')
    const counts = [...row.matchAll(/class="num"><div>(\d+)</g)].map((match) => match[1])
    expect(counts).toEqual(['1', '1', '0'])
  })
})

describe('creating a workspace', () => {
  it('makes one, once for a form that is sent twice', async () => {
    const own = await ownWorld()
    const path = `/organizations/${own.organizationId}/workspaces/new`
    const page = await open(own, path)
    const fields = { name: 'evaluation', billing_email: 'finance@example.com', cost_centre: '' }
    const [first, second] = await Promise.all([
      own.agent.submit(page, path, fields),
      own.agent.submit(page, path, fields),
    ])
    expect(first.url.pathname).toMatch(/^\/workspaces\/ws_\w+\/access$/)
    expect(second.url.pathname).toBe(first.url.pathname)
    const third = await own.agent.submit(page, path, { ...fields, name: 'another' })
    expect(third.status).toBe(422)
    expect(alertOf(third)).toContain('has made a workspace already')
    const made = await server.db
      .selectFrom('workspaces')
      .selectAll()
      .where('organization_id', '=', own.organizationId)
      .where('name', 'in', ['evaluation', 'another'])
      .execute()
    expect(made.map(({ name, billing_email, cost_centre }) => [name, billing_email, cost_centre])).toEqual([
      ['evaluation', 'finance@example.com', null],
    ])
    expect((await own.agent.submit(third, path, { ...fields, name: 'another' })).url.pathname).toMatch(/access$/)
  })

  it('says on the form what is wrong, and keeps what was given', async () => {
    const own = await ownWorld()
    const path = `/organizations/${own.organizationId}/workspaces/new`
    const page = await send(own, path, { name: ' ', billing_email: `nobody ${HOSTILE}`, cost_centre: 'CC 1' })
    expect(page.status).toBe(400)
    expect(page.html).toContain('Give it a name of 1 to 120 characters')
    expect(page.html).toContain('This is not an email address.')
    expect(page.html).toContain('value="CC 1"')
    expect(page.html).not.toContain('<img')
  })
})

describe('every form', () => {
  it('is taken with the token of its own session alone', async () => {
    const own = await ownWorld()
    const other = await visitor({ workspace: 'admin' })
    const stolen = formOf(await open(other, `${ws()}/members/new`), '/members/new').hidden.csrf ?? ''
    const person = await makePerson()
    await server.run('member add', { user: person.email, workspace: own.workspaceId, role: 'member' })
    const at = `/workspaces/${own.workspaceId}`
    const inOrganization = `/organizations/${own.organizationId}`
    const forms = [
      `${inOrganization}/workspaces/new`,
      `${inOrganization}/people/${person.id}/role`,
      `${inOrganization}/people/${person.id}/remove`,
      `${at}/members/new`,
      `${at}/members/${person.id}/role`,
      `${at}/members/${person.id}/remove`,
      `${at}/members/${person.id}/transfer`,
      `${at}/settings`,
      `${at}/settings/policy`,
      `${at}/settings/archive`,
    ]
    const before = await server.db
      .selectFrom('audit_events')
      .select('id')
      .where('organization_id', '=', own.organizationId)
      .execute()
    for (const path of forms) {
      for (const csrf of ['', 'x', stolen]) {
        const body = new URLSearchParams({ csrf, name: 'platform-ai', role: 'viewer', user_id: person.id })
        const response = await own.agent.request(path, { method: 'POST', body, ...HTML })
        expect(response.status, `${path} ${csrf}`).toBe(403)
      }
      const page = await open(own, path)
      const { hidden } = formOf(page, '/sign-out') // the same token is on every page of a session
      const foreign = await own.agent.request(path, {
        method: 'POST',
        body: new URLSearchParams({ ...hidden, name: 'platform-ai', role: 'viewer', user_id: person.id }),
        headers: { accept: 'text/html', 'sec-fetch-site': 'cross-site' },
      })
      expect(foreign.status, path).toBe(403)
      const nobody = await server
        .userAgent()
        .request(path, { method: 'POST', body: new URLSearchParams(hidden), ...HTML })
      expect(nobody.status, path).toBe(303)
      expect(nobody.headers.get('location')).toBe(`/sign-in?return_to=${encodeURIComponent(path)}`)
    }
    const after = await server.db
      .selectFrom('audit_events')
      .select('id')
      .where('organization_id', '=', own.organizationId)
      .execute()
    expect(after.length).toBe(before.length)
  })

  it('that changes who may come in asks for a recent sign-in before it is filled in', async () => {
    const own = await ownWorld()
    const person = await makePerson()
    await server.run('member add', { user: person.email, workspace: own.workspaceId, role: 'member' })
    const endings = [
      `/organizations/${own.organizationId}/people/${person.id}/remove`,
      `/workspaces/${own.workspaceId}/members/${person.id}/remove`,
    ]
    const paths = [
      `/workspaces/${own.workspaceId}/members/${person.id}/role`,
      `/workspaces/${own.workspaceId}/members/new`,
      `/workspaces/${own.workspaceId}/settings/policy`,
      `/workspaces/${own.workspaceId}/settings/archive`,
    ]
    for (const path of paths) expect(await statusOf(own, path)).toBe(200)
    const realNow = Date.now
    Date.now = () => realNow() + 400_000
    try {
      for (const path of paths) {
        const response = await own.agent.request(path, HTML)
        expect(response.status, path).toBe(303)
        expect(response.headers.get('location')).toBe(`/sign-in?return_to=${encodeURIComponent(path)}&again=yes`)
      }
      for (const path of endings) expect(await statusOf(own, path), path).toBe(200) // never held up
      expect(await statusOf(own, `/workspaces/${own.workspaceId}/members`)).toBe(200)
    } finally {
      Date.now = realNow
    }
  })
})

describe('names that somebody chose', () => {
  it('stand on every page as text', async () => {
    const email = `m-${randomBytes(4).toString('hex')}@example.com`
    const mallory = await server.run('user create', { email, name: HOSTILE, password: PASSWORD })
    const organization = await server.run('organization create', { name: HOSTILE, owner: email })
    const workspace = await server.run('workspace create', {
      organization: organization.id,
      name: HOSTILE,
      owner: email,
    })
    const person = await signedIn({ id: mallory.id as UserId, email, agent: server.userAgent() })
    const o = `/organizations/${organization.id}`
    const w = `/workspaces/${workspace.id}`
    const other = await makePerson(HOSTILE)
    await server.run('member add', { user: other.email, workspace: workspace.id, role: 'admin' })
    const third = await makePerson(HOSTILE)
    await server.run('member add', { user: third.email, organization: organization.id, role: 'member' })
    const paths = [
      o,
      `${o}/people`,
      `${o}/workspaces/new`,
      `${o}/people/${other.id}/role`,
      `${o}/people/${other.id}/remove`,
      `${w}/members`,
      `${w}/members/new`,
      `${w}/members/${other.id}/role`,
      `${w}/members/${other.id}/remove`,
      `${w}/members/${other.id}/transfer`,
      `${w}/settings`,
      `${w}/settings/policy`,
      `${w}/settings/archive`,
    ]
    for (const path of paths) {
      const page = await open(person, path)
      expect(page.status, path).toBe(200)
      expect(page.html, path).toContain('&lt;img src=x')
      expect(page.html, path).not.toContain('<img')
      expect(page.headers.get('content-security-policy')).toContain("default-src 'none'")
      expect(page.headers.get('cache-control')).toBe('no-store')
    }
    const posted = await send(person, `${w}/settings/archive`, { name: '<script>alert(1)</script>' })
    expect(posted.status).toBe(400)
    expect(posted.html).not.toContain('<script>')
    const told = await open(person, `${o}/people?done=<script>alert(1)</script>`)
    expect(told.html).not.toContain('<script>')
    expect((await open(person, `${o}/people?done=constructor`)).html).not.toContain('role="status"')
  })
})

describe('people of an organization', () => {
  it('a role is changed on a page that says what it ends', async () => {
    const own = await ownWorld()
    const admin = await makePerson('Ben')
    await server.run('member add', { user: admin.email, organization: own.organizationId, role: 'admin' })
    await connect(server, { ...own, email: admin.email }, { agent: server.userAgent() })
    const path = `/organizations/${own.organizationId}/people/${admin.id}/role`
    const page = await open(own, path)
    expect(page.html).toContain('Ends their connection at once.')
    const done = await send(own, path, { role: 'member' })
    expect(done.url.pathname).toBe(`/organizations/${own.organizationId}/people`)
    expect(done.html).toContain('The role is changed.')
    const left = await server.db
      .selectFrom('connections')
      .select('id')
      .where('user_id', '=', admin.id)
      .where('closed_at', 'is', null)
      .execute()
    expect(left).toEqual([])
    expect((await send(own, path, { role: 'emperor' })).status).toBe(400)
  })

  it('the last owner can be neither removed nor made less: the form says so, and nothing changes', async () => {
    const own = await ownWorld()
    const base = `/organizations/${own.organizationId}/people/${own.id}`
    for (const [path, fields] of [
      [`${base}/role`, { role: 'member' }],
      [`${base}/remove`, {}],
    ] as const) {
      const page = await send(own, path, fields)
      expect(page.status).toBe(409)
      expect(alertOf(page)).toContain('is the only owner of')
    }
    expect((await open(own, `/organizations/${own.organizationId}/people`)).html).toContain('>Owner<')
  })

  it('an admin makes and unmakes no owner', async () => {
    const own = await ownWorld()
    const admin = await makePerson('Ben')
    await server.run('member add', { user: admin.email, organization: own.organizationId, role: 'admin' })
    await signedIn(admin)
    const people = await open(admin, `/organizations/${own.organizationId}/people`)
    expect(people.html).not.toContain(`/people/${own.id}/remove`)
    expect(people.html).toContain(`/people/${admin.id}/remove`)
    const page = await send(admin, `/organizations/${own.organizationId}/people/${own.id}/remove`)
    expect(page.status).toBe(403)
    expect(alertOf(page)).toContain('Only an owner makes or unmakes an owner.')
  })

  it('removing somebody says where they leave and what ends, and ends exactly that', async () => {
    const own = await ownWorld()
    const ben = await makePerson('Ben')
    for (const workspace of [own.workspaceId, own.otherWorkspaceId])
      await server.run('member add', { user: ben.email, workspace, role: 'admin' })
    const theirs = await connect(server, { ...own, email: ben.email }, { agent: server.userAgent() })
    const ours = await connect(server, own, { agent: server.userAgent() })
    const path = `/organizations/${own.organizationId}/people/${ben.id}/remove`
    const page = await open(own, path)
    expect(page.html).toContain('these 2 workspaces: <bdi>platform-ai</bdi> and <bdi>research</bdi>')
    expect(page.html).toContain('1 connection, with every token that came from it.')
    expect(page.html).toContain('Tracepad')
    const done = await own.agent.submit(page, path, {})
    expect(done.html).toContain('They are no longer in the organization.')
    const isActive = async (token: string | undefined) => {
      const answer = await post(server.origin, '/introspect', own.client, { token: token ?? '' })
      return (answer.body as { active?: boolean }).active
    }
    expect(await isActive(theirs.access_token)).toBe(false)
    expect(await isActive(ours.access_token)).toBe(true)
    expect((await open(await signedIn(ben), `/organizations/${own.organizationId}`)).status).toBe(404)
    expect((await open(own, path)).status).toBe(404)
  })

  it('removing somebody counts the tokens that they made and that still work', async () => {
    const own = await ownWorld()
    const left = await makePerson()
    await server.run('member add', { user: left.email, organization: own.organizationId, role: 'member' })
    for (const workspaceId of [own.workspaceId, own.otherWorkspaceId])
      await createToken(server.app, {
        owner: { workspaceId },
        label: 'runner',
        environment: 'production',
        permissions: ['read'],
        resources: null,
        ipAllowList: null,
        expiry: null,
        authority: { kind: 'operator' },
        request: { traceId: 'test' },
      })
    await server.db
      .updateTable('token_lines')
      .set({ user_id: left.id })
      .where('organization_id', '=', own.organizationId)
      .execute()
    const path = `/organizations/${own.organizationId}/people/${left.id}/remove`
    expect((await open(own, path)).html).toContain('2 tokens that they made')
    await send(own, `/workspaces/${own.otherWorkspaceId}/settings/archive`, { name: 'research' })
    expect((await open(own, path)).html).toContain('1 token that they made')
  })
})

describe('members of a workspace', () => {
  it('somebody of the organization is added, once; somebody else cannot be', async () => {
    const own = await ownWorld()
    const ben = await makePerson('Ben')
    await server.run('member add', { user: ben.email, organization: own.organizationId, role: 'member' })
    const path = `/workspaces/${own.workspaceId}/members/new`
    const page = await open(own, path)
    expect(page.html).toContain(`value="${ben.id}"`)
    expect((await own.agent.submit(page, path, { user_id: '', role: 'member' })).status).toBe(400)
    const added = await own.agent.submit(page, path, { user_id: ben.id, role: 'viewer' })
    expect(added.url.pathname).toBe(`/workspaces/${own.workspaceId}/members`)
    expect(added.html).toContain('>Viewer<')
    const again = await own.agent.submit(page, path, { user_id: ben.id, role: 'viewer' })
    expect(again.status).toBe(409)
    expect(alertOf(again)).toContain('already a member')
    const stranger = await makePerson()
    expect((await own.agent.submit(page, path, { user_id: stranger.id, role: 'viewer' })).status).toBe(404)
  })

  it('a lower role ends connections at once, a removal too; tokens stay', async () => {
    const own = await ownWorld()
    const ben = await makePerson('Ben')
    await server.run('member add', { user: ben.email, workspace: own.workspaceId, role: 'member' })
    const openOnes = () =>
      server.db
        .selectFrom('connections')
        .select('id')
        .where('user_id', '=', ben.id)
        .where('closed_at', 'is', null)
        .execute()
    const base = `/workspaces/${own.workspaceId}/members/${ben.id}`
    await connect(server, { ...own, email: ben.email }, { agent: server.userAgent() })
    const page = await open(own, `${base}/role`)
    expect(page.html).toContain('Ends their connection at once.')
    expect(page.html).toContain('Keeps their connection, with tokens that say the new role.')
    await own.agent.submit(page, `${base}/role`, { role: 'viewer' })
    expect(await openOnes()).toEqual([])
    await send(own, `${base}/role`, { role: 'member' })
    await connect(server, { ...own, email: ben.email }, { agent: server.userAgent() })
    expect(await openOnes()).toHaveLength(1)
    const removed = await send(own, `${base}/remove`)
    expect(removed.html).toContain('They are no longer a member.')
    expect(await openOnes()).toEqual([])
  })

  it('the last owner stays one', async () => {
    const own = await ownWorld()
    const base = `/workspaces/${own.workspaceId}/members/${own.id}`
    const lowered = await send(own, `${base}/role`, { role: 'viewer' })
    expect(lowered.status).toBe(409)
    expect(alertOf(lowered)).toContain('is the only owner of')
    expect((await send(own, `${base}/remove`)).status).toBe(409)
  })

  it('an owner who is suspended is none: the last one who can sign in stays', async () => {
    const own = await ownWorld()
    const ben = await makePerson('Ben')
    await server.run('member add', { user: ben.email, workspace: own.workspaceId, role: 'owner' })
    await server.run('user suspend', { user: ben.email })
    const path = `/workspaces/${own.workspaceId}/members/${own.id}/remove`
    expect((await send(own, path)).status).toBe(409)
    await server.run('user restore', { user: ben.email })
    expect((await send(own, path)).status).toBe(200)
  })

  it('a workspace is handed over by an owner, who stays as an admin', async () => {
    const own = await ownWorld()
    const [ben, kay] = [await makePerson('Ben'), await makePerson('Kay')]
    await server.run('member add', { user: ben.email, workspace: own.workspaceId, role: 'admin' })
    await server.run('member add', { user: kay.email, workspace: own.workspaceId, role: 'viewer' })
    const path = `/workspaces/${own.workspaceId}/members/${kay.id}/transfer`
    expect((await open(await signedIn(ben), path)).status).toBe(403)
    const page = await open(own, path)
    expect(page.html).toContain('You: you stay as an admin.')
    const done = await own.agent.submit(page, path, {})
    expect(done.html).toContain('The workspace has a new owner.')
    const roles = await server.db
      .selectFrom('workspace_members')
      .select(['user_id', 'role'])
      .where('workspace_id', '=', own.workspaceId)
      .execute()
    expect(Object.fromEntries(roles.map(({ user_id, role }) => [user_id, role]))).toEqual({
      [own.id]: 'admin',
      [ben.id]: 'admin',
      [kay.id]: 'owner',
    })
  })
})

describe('settings of a workspace', () => {
  it('name and bills are changed, and what is wrong is said beside it', async () => {
    const own = await ownWorld()
    const path = `/workspaces/${own.workspaceId}/settings`
    const bad = await send(own, path, { name: '', billing_email: 'x', cost_centre: '' })
    expect(bad.status).toBe(400)
    expect(bad.html).toContain('id="name-error"')
    expect(bad.html).toContain('id="billing-error"')
    const saved = await send(own, path, { name: 'platform', billing_email: 'bills@example.com', cost_centre: '42' })
    expect(saved.html).toContain('Saved.')
    expect(saved.html).toContain('value="bills@example.com"')
    const cleared = await send(own, path, { name: 'platform', billing_email: '', cost_centre: '' })
    expect(cleared.html).not.toContain('bills@example.com')
    const changes = await server.db
      .selectFrom('audit_events')
      .select('detail')
      .where('workspace_id', '=', own.workspaceId)
      .where('event', '=', 'workspace.changed')
      .orderBy('id')
      .execute()
    expect(changes.map(({ detail }) => detail.changed)).toEqual([
      ['name', 'billing_email', 'cost_centre'],
      ['billing_email', 'cost_centre'],
    ])
  })

  it('a viewer reads them, and finds no form', async () => {
    const viewer = await visitor({ workspace: 'viewer' })
    const page = await open(viewer, `${ws()}/settings`)
    expect(page.html).toContain('Token policy')
    expect(() => formOf(page, '/settings')).toThrow()
    const csrf = formOf(page, '/sign-out').hidden.csrf ?? ''
    const response = await viewer.agent.request(`${ws()}/settings`, {
      method: 'POST',
      body: new URLSearchParams({ csrf, name: 'mine' }),
      ...HTML,
    })
    expect(response.status).toBe(403)
  })

  it('the token policy holds as it is set, and comes back in the form', async () => {
    const own = await ownWorld()
    const path = `/workspaces/${own.workspaceId}/settings/policy`
    const bad = await send(own, path, { max_age_days: '0', environment_production: 'yes' })
    expect(bad.status).toBe(400)
    expect(bad.html).toContain('id="age-error"')
    const none = await send(own, path, { max_age_days: '' })
    expect(none.html).toContain('id="environments-error"')
    const set = await send(own, path, { expiry_required: 'yes', max_age_days: '90', environment_staging: 'yes' })
    expect(set.html).toContain('The token policy is changed.')
    expect(set.html).toContain('<dd>90 days</dd>')
    expect(set.html).toContain('<dd>Staging</dd>')
    const stored = await server.db
      .selectFrom('token_policies')
      .selectAll()
      .where('workspace_id', '=', own.workspaceId)
      .executeTakeFirstOrThrow()
    expect(stored).toMatchObject({
      tokens_forbidden: false,
      expiry_required: true,
      max_age_days: 90,
      environments: ['staging'],
    })
    const form = (await open(own, path)).html
    expect(form).toContain('value="90"')
    expect(form).toMatch(/name="environment_staging" value="yes" checked/)
    expect(form).not.toMatch(/name="environment_production" value="yes" checked/)
    const all = { environment_production: 'yes', environment_staging: 'yes', environment_development: 'yes' }
    expect((await send(own, path, { ...all, tokens_forbidden: 'yes' })).html).toContain('Forbidden')
  })

  it('archiving asks for the name, ends every credential, and leaves nothing to see', async () => {
    const own = await ownWorld()
    const theirs = await connect(server, own, { agent: server.userAgent() })
    const path = `/workspaces/${own.workspaceId}/settings/archive`
    const page = await open(own, path)
    expect(page.html).toContain('1 connection and 0 tokens')
    const wrong = await own.agent.submit(page, path, { name: 'platform' })
    expect(wrong.status).toBe(400)
    expect(wrong.html).toContain('This is not the workspace’s name.')
    const done = await own.agent.submit(page, path, { name: 'platform-ai' })
    expect(done.url.pathname).toBe(`/organizations/${own.organizationId}`)
    expect(done.html).toContain('The workspace is archived.')
    expect(done.html).not.toContain('>platform-ai<')
    const answer = await post(server.origin, '/introspect', own.client, { token: theirs.access_token ?? '' })
    expect(answer.body).toEqual({ active: false })
    expect((await open(own, `/workspaces/${own.workspaceId}/members`)).status).toBe(404)
  })
})

describe('the API reference', () => {
  it('names every operation of the document, with who may call it, and loads nothing from elsewhere', async () => {
    const agent = server.userAgent()
    const page = await agent.open('/api/v1/docs', HTML)
    expect(page.status).toBe(200)
    const document = (await (await agent.request('/api/v1/openapi.json')).json()) as {
      info: { description: string }
      paths: Record<string, Record<string, { operationId: string; 'x-access': { sentence: string } }>>
    }
    expect(document.info.description).toContain(`${server.origin}/api/v1/docs`)
    const operations = Object.values(document.paths).flatMap((methods) => Object.values(methods))
    expect(operations.length).toBeGreaterThan(25)
    const text = page.html.replaceAll('&#39;', "'")
    for (const operation of operations) {
      expect(page.html).toContain(`<h3 id="${operation.operationId}">`)
      expect(text).toContain(operation['x-access'].sentence)
    }
    for (const [, target] of page.html.matchAll(/(?:src|href)="([^"]+)"/g)) expect(target).toMatch(/^[/#](?!\/)/)
    const ids = [...page.html.matchAll(/\bid="([^"]+)"/g)].map((match) => match[1])
    expect(new Set(ids).size).toBe(ids.length)
    for (const [, target] of page.html.matchAll(/href="#([^"]+)"/g)) expect(ids).toContain(target)
    expect(page.html).not.toMatch(/undefined|\[object/)
    expect(page.html).not.toMatch(/curl [^<]*\{\w+\}/) // every id in an address has an example
    expect((await agent.request('/api/v1/docs', { method: 'POST' })).status).toBe(405)
  })
})

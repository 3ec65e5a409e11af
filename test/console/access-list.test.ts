// Every way into a workspace on one page: connections and tokens side by side, and what is looked for among them.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { isFiltering, queryOf, readFilter, seeker } from '../../src/console/access-filter.ts'
import { createToken } from '../../src/workspace-tokens/service.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { connect, makeClient, makeWorld, PASSWORD, type World } from '../support/world.ts'

describe('what is looked for', () => {
  const filter = (query: string) => readFilter(new URLSearchParams(query))
  const way = {
    texts: ['Deploy job', 'Ada Example', 'con_1'],
    environment: 'production',
    isUnused: () => false,
  } as const

  it.each([
    ['', true],
    ['text=deploy', true],
    ['text=DEPLOY+ada', true],
    ['text=%20job%20', true],
    ['text=deploy+ben', false],
    ['text=jobada', false],
    ['text=%EF%BC%A4eploy', true], // written wide
    ['environment=production', true],
    ['environment=staging', false],
    ['environment=nonsense', true],
    ['unused=yes', false],
    ['unused=no', true],
    ['text=ada&environment=production', true],
    ['text=ada&environment=staging', false],
  ])('%j finds it: %j', (query, isFound) => {
    expect(seeker(filter(query))(way)).toBe(isFound)
  })

  it('comes back as it stood in the address, without what made no sense', () => {
    const query = { text: 'deploy job', kind: 'tokens', environment: 'staging', unused: 'yes' }
    expect(queryOf(filter(String(new URLSearchParams(query))))).toEqual(query)
    for (const nothing of ['', 'kind=x&environment=&unused=1&text=%20', 'after=key_1&connections=2']) {
      expect(isFiltering(filter(nothing))).toBe(false)
      expect(queryOf(filter(nothing))).toEqual({})
    }
    expect(filter(`text=${'x'.repeat(5_000)}`).text).toHaveLength(120)
    expect(filter('text=%00%ED%A0%80').text.isWellFormed()).toBe(true)
  })
})

describe('the Access page', () => {
  let server: TestServer
  let world: World
  let ada: UserAgent
  const BY = { authority: { kind: 'operator' }, request: { traceId: 'test' } } as const

  beforeAll(async () => {
    server = await startServer()
    world = await makeWorld(server)
    ada = await signedIn(world.email)
    const exporter = await makeClient(server, { name: 'Nightly Exporter', environment: 'production' })
    await connect(server, world)
    await connect(server, world, { client: exporter })
    await sql`update connections set created_at = now() - interval '100 days' where client_id = ${exporter.id}`.execute(
      server.db,
    )
    await makeToken('deploy job', 'production')
    const old = await makeToken('spreadsheet import', 'development')
    await sql`update token_versions set created_at = now() - interval '95 days' where token_id = ${old}`.execute(
      server.db,
    )
  })
  afterAll(() => server?.close())

  async function signedIn(email: string): Promise<UserAgent> {
    const agent = server.userAgent()
    await agent.submit(await agent.open('/sign-in'), '', { email, password: PASSWORD })
    return agent
  }

  async function makeToken(label: string, environment: 'production' | 'development', workspaceId = world.workspaceId) {
    const made = await createToken(server.app, {
      owner: { workspaceId },
      label,
      environment,
      permissions: ['read'],
      resources: null,
      ipAllowList: null,
      expiry: null,
      ...BY,
    })
    return made.line.id
  }

  const open = (query = '', agent = ada, workspaceId = world.workspaceId) =>
    agent.open(`/workspaces/${workspaceId}/access${query}`)
  const ALL = ['Tracepad', 'Nightly Exporter', 'deploy job', 'spreadsheet import']
  const rowsOf = (html: string) => html.match(/<tr role="row">\s*<th role="rowheader"[\s\S]*?<\/tr>/g) ?? []
  const shown = async (query = '') => {
    const rows = rowsOf((await open(query)).html)
    return ALL.filter((name) => rows.some((row) => row.includes(`<bdi>${name}</bdi>`)))
  }

  it.each([
    ['', ALL],
    ['?kind=connections', ['Tracepad', 'Nightly Exporter']],
    ['?kind=tokens', ['deploy job', 'spreadsheet import']],
    ['?environment=development', ['spreadsheet import']],
    ['?unused=yes', ['Nightly Exporter', 'spreadsheet import']],
    ['?unused=yes&kind=connections', ['Nightly Exporter']],
    ['?text=NIGHTLY', ['Nightly Exporter']],
    ['?text=ada', ['Tracepad', 'Nightly Exporter']],
    ['?text=operator', ['deploy job', 'spreadsheet import']],
    ['?text=job&environment=production', ['deploy job']],
    ['?text=nothing+like+it', []],
    ['?text=%25', []],
    ['?environment=&kind=&text=', ALL],
  ])('%s shows %j', async (query, names) => {
    expect(await shown(query)).toEqual(names)
  })

  it('finds by a client’s id and by a connection’s', async () => {
    const [row = ''] = rowsOf((await open('?text=tracepad')).html)
    const id = /con_[0-9a-z]{26}/.exec(row)?.[0] ?? ''
    expect(await shown(`?text=${id}`)).toEqual(['Tracepad'])
    expect(await shown(`?text=${world.client.id}`)).toEqual(['Tracepad'])
  })

  it('keeps what was looked for in its form, as text, and leads back to everything', async () => {
    const text = '"><script>alert(1)</script>'
    const { html } = await open(
      `?${new URLSearchParams({ text, kind: 'tokens', environment: 'staging', unused: 'yes' })}`,
    )
    expect(html).toContain('value="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"')
    expect(html).not.toContain('<script>alert')
    expect(html).toContain('<option value="tokens" selected>')
    expect(html).toContain('<option value="staging" selected>')
    expect(html).toMatch(/name="unused" value="yes" checked/)
    expect(html).toContain(`<a href="/workspaces/${world.workspaceId}/access">Clear</a>`)
    expect(html).toContain('No token is like that')
    expect(html).not.toContain('No connection is like that')
  })

  it('says when and from where a connection was used last, in whichever version, and that one was not for 90 days', async () => {
    const [exporter = '', tracepad = ''] = rowsOf((await open('?kind=connections')).html) // oldest first
    expect(tracepad).toContain('Not used yet')
    expect(tracepad).toContain('badge active')
    expect(exporter).toMatch(/badge due">Unused[\s\S]*for 90 days/)
    const id = /con_[0-9a-z]{26}/.exec(tracepad)?.[0] ?? ''
    await sql`insert into connection_versions values
      (${id}, 1, now() - interval '9 days', now() - interval '4 minutes', '192.0.2.31', 'a'),
      (${id}, 2, now() - interval '8 days', now() - interval '7 days', '192.0.2.99', 'b')`.execute(server.db)
    const [used = ''] = rowsOf((await open('?text=tracepad')).html)
    expect(used).toContain('4 minutes ago')
    expect(used).toContain('192.0.2.31')
    expect(used).not.toContain('192.0.2.99')
    const { html } = await open()
    expect(html).toMatch(/2 things wait[\s\S]*Nightly Exporter<\/bdi><\/a> was not used for 90 days/)
  })

  it('offers one button that ends each of them', async () => {
    for (const row of rowsOf((await open()).html)) expect(row.match(/button small ends/g)).toHaveLength(1)
  })

  it('goes on over pages, with what was looked for', async () => {
    const workspaceId = world.otherWorkspaceId
    for (let count = 0; count < 52; count++)
      await makeToken(`many ${String(count).padStart(2, '0')}`, 'production', workspaceId)
    const first = await open('?text=many', ada, workspaceId)
    expect(rowsOf(first.html)).toHaveLength(50)
    expect(first.html).toContain('Page 1 of 2')
    const next = /href="([^"]*tokens=2)"/.exec(first.html)?.[1]?.replaceAll('&amp;', '&') ?? ''
    expect(next).toContain('text=many')
    const second = await ada.open(next)
    expect(rowsOf(second.html)).toHaveLength(2)
    expect(second.html).toContain('many 51')
    expect(rowsOf((await open('?text=many&tokens=99', ada, workspaceId)).html)).toHaveLength(50)
  })

  it('of somebody else’s workspace shows nothing, whatever is looked for', async () => {
    const neighbour = await makeWorld(server)
    const bob = await signedIn(neighbour.email)
    const found = await open('?text=tracepad', bob)
    expect(found.status).toBe(404)
    expect((await open('?text=tracepad', bob, neighbour.workspaceId)).html).not.toContain('<bdi>Tracepad</bdi>')
    await server.run('user create', { email: 'viewer@example.com', name: 'Viewer', password: PASSWORD })
    await server.run('member add', { user: 'viewer@example.com', workspace: world.workspaceId, role: 'viewer' })
    expect((await open('', await signedIn('viewer@example.com'))).status).toBe(403)
    const nobody = await server.userAgent().request(`/workspaces/${world.workspaceId}/access?text=tracepad`)
    expect(nobody.headers.get('location')).toMatch(/^\/sign-in/)
  })

  it('a member finds the same, and no button but for what they approved', async () => {
    await server.run('user create', { email: 'member@example.com', name: 'Mo', password: PASSWORD })
    await server.run('member add', { user: 'member@example.com', workspace: world.workspaceId, role: 'member' })
    const mo = await signedIn('member@example.com')
    const client = await makeClient(server, { name: 'Of Mo' })
    await connect(server, { ...world, email: 'member@example.com' }, { client })
    const rows = rowsOf((await open('', mo)).html)
    expect(rows).toHaveLength(5)
    expect(rows.filter((row) => row.includes('button small ends'))).toHaveLength(1)
    expect(rows.find((row) => row.includes('button small ends'))).toContain('Of Mo')
    expect(rowsOf((await open('?text=mo', mo)).html)[0]).toContain('<bdi>Of Mo</bdi>')
  })
})

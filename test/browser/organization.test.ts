// The pages of organizations and workspaces in a real browser: by keyboard alone, without scripts, light and dark, wide and
// narrow, and with names as long as names get.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  hasBrowser,
  inspect,
  keepVisitors,
  launchBrowser,
  signInOn,
  type TestBrowser,
  tabTo,
  type Visitor,
} from '../support/browser.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { connect, makeWorld, PASSWORD, type World } from '../support/world.ts'

const LONG = 'W'.repeat(120)
const RIGHT_TO_LEFT = 'قمر'

describe.skipIf(!hasBrowser())('pages of organizations and workspaces', () => {
  let server: TestServer
  let browser: TestBrowser
  let world: World
  let people: Record<'ben' | 'kay' | 'vic' | 'new', { id: string; email: string }>
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer(), launchBrowser()])
    world = await makeWorld(server)
    const make = async (name: string, email: string) => {
      const user = await server.run('user create', { email, name, password: PASSWORD })
      return { id: String(user.id), email }
    }
    people = {
      ben: await make('Ben Example', 'ben@example.com'),
      kay: await make(`Kay ${RIGHT_TO_LEFT}`, 'kay@example.com'),
      vic: await make('Vic', 'vic@example.com'),
      new: await make('New', 'new@example.com'),
    }
    const { workspaceId: workspace, otherWorkspaceId, organizationId: organization } = world
    await server.run('member add', { user: people.ben.email, workspace, role: 'admin' })
    await server.run('member add', { user: people.ben.email, workspace: otherWorkspaceId, role: 'member' })
    await server.run('member add', { user: people.kay.email, organization, role: 'admin' })
    await server.run('member add', { user: people.vic.email, workspace, role: 'viewer' })
    await connect(server, { ...world, email: people.ben.email })
    await connect(server, { ...world, email: people.ben.email }, { workspaceId: otherWorkspaceId })
    await connect(server, world)
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  async function visit(email: string, options: { scripts?: boolean } = {}): Promise<Visitor['page']> {
    const { page } = await begin(options)
    await page.goto(`${server.origin}/sign-in`)
    await signInOn(page, email)
    return page
  }

  async function look(page: Visitor['page'], pages: Record<string, string>): Promise<string[]> {
    const found: string[] = []
    for (const [name, path] of Object.entries(pages)) {
      const answer = await page.goto(server.origin + path)
      expect(answer?.status(), path).toBe(200)
      found.push(...(await inspect(page, name)))
    }
    return found
  }

  it('of an owner', async () => {
    const page = await visit(world.email)
    const o = `/organizations/${world.organizationId}`
    const w = `/workspaces/${world.workspaceId}`
    const found = await look(page, {
      'organization-overview': o,
      'organization-new-workspace': `${o}/workspaces/new`,
      'organization-people': `${o}/people?done=role`,
      'organization-role': `${o}/people/${people.ben.id}/role`,
      'organization-remove': `${o}/people/${people.ben.id}/remove`,
      'workspace-members': `${w}/members?done=added`,
      'workspace-member-new': `${w}/members/new`,
      'workspace-role': `${w}/members/${people.ben.id}/role`,
      'workspace-remove': `${w}/members/${people.ben.id}/remove`,
      'workspace-transfer': `${w}/members/${people.ben.id}/transfer`,
      'workspace-settings': `${w}/settings`,
      'workspace-policy': `${w}/settings/policy`,
      'workspace-archive': `${w}/settings/archive`,
    })
    expect(found).toEqual([])
  }, 180_000)

  it('that say what is wrong', async () => {
    const page = await visit(world.email)
    const o = `/organizations/${world.organizationId}`
    await page.goto(`${server.origin}${o}/workspaces/new`)
    await page.$eval('main form', (form) => form.setAttribute('novalidate', ''))
    await page.getByLabel('Billing email').fill('nobody at all')
    await page.getByRole('button', { name: 'Create workspace' }).click()
    await page.getByText('Give it a name').waitFor()
    const found = await inspect(page, 'organization-new-workspace-wrong')
    await page.goto(`${server.origin}${o}/people/${world.userId}/remove`)
    await page.getByRole('button', { name: 'Remove Ada' }).click()
    await page.getByRole('alert').waitFor()
    found.push(...(await inspect(page, 'organization-last-owner')))
    await page.goto(`${server.origin}/workspaces/${world.workspaceId}/settings/policy`)
    for (const name of ['Production', 'Staging', 'Development']) await page.getByLabel(name).uncheck()
    await page.getByLabel('Longest life').fill('99999')
    await page.getByRole('button', { name: 'Change token policy' }).click()
    await page.getByText('Choose at least one').waitFor()
    found.push(...(await inspect(page, 'workspace-policy-wrong')))
    await page.goto(`${server.origin}/workspaces/${world.workspaceId}/settings/archive`)
    await page.getByLabel('Type the workspace').fill('another')
    await page.getByRole('button', { name: 'Archive workspace' }).click()
    await page.getByText('This is not the workspace’s name.').waitFor()
    found.push(...(await inspect(page, 'workspace-archive-wrong')))
    expect(found).toEqual([])
  }, 120_000)

  it('of a viewer, of somebody with two organizations, with none, and of the longest names', async () => {
    const viewer = await visit(people.vic.email)
    const found = await look(viewer, {
      'viewer-overview': `/organizations/${world.organizationId}`,
      'viewer-people': `/organizations/${world.organizationId}/people`,
      'viewer-members': `/workspaces/${world.workspaceId}/members`,
      'viewer-settings': `/workspaces/${world.workspaceId}/settings`,
    })
    await viewer.goto(`${server.origin}/workspaces/${world.workspaceId}/settings/archive`)
    found.push(...(await inspect(viewer, 'viewer-refused')))
    const nobody = await visit(people.new.email)
    found.push(...(await inspect(nobody, 'organizations-none')))
    const long = await server.run('user create', {
      email: `${'l'.repeat(60)}@example.com`,
      name: LONG,
      password: PASSWORD,
    })
    const organization = await server.run('organization create', { name: LONG, owner: String(long.email) })
    const empty = await visit(String(long.email))
    found.push(...(await inspect(empty, 'long-empty')))
    const workspace = await server.run('workspace create', {
      organization: organization.id,
      name: LONG,
      owner: long.email,
    })
    await server.run('organization create', { name: RIGHT_TO_LEFT, owner: String(long.email) })
    found.push(
      ...(await look(empty, {
        'organizations-list': '/',
        'long-overview': `/organizations/${organization.id}`,
        'long-people': `/organizations/${organization.id}/people`,
        'long-remove': `/organizations/${organization.id}/people/${long.id}/remove`,
        'long-members': `/workspaces/${workspace.id}/members`,
        'long-archive': `/workspaces/${workspace.id}/settings/archive`,
      })),
    )
    expect(found).toEqual([])
  }, 180_000)

  it('the home page and the API reference', async () => {
    const { page } = await begin()
    expect(await look(page, { home: '/', 'api-reference': '/api/v1/docs' })).toEqual([])
    await page.goto(`${server.origin}/api/v1/docs`)
    await page.getByRole('link', { name: 'Create a workspace token' }).click()
    expect(new URL(page.url()).hash).toBe('#createApiKey')
  }, 120_000)

  it('are done by keyboard alone: a workspace is made, a role changed', async () => {
    const page = await visit(world.email, { scripts: false })
    const enter = () => Promise.all([page.waitForEvent('load'), page.keyboard.press('Enter')])
    const skip = async () => {
      await tabTo(page, { tag: 'a', name: 'Skip to content' })
      await page.keyboard.press('Enter')
    }
    await page.goto(`${server.origin}/organizations/${world.organizationId}`)
    await skip()
    await tabTo(page, { tag: 'a', name: 'Create workspace' })
    await enter()
    await skip()
    await tabTo(page, { tag: 'input', name: 'name' })
    await page.keyboard.type('by keyboard')
    await tabTo(page, { tag: 'button', name: 'Create workspace' })
    await enter()
    await page.goto(`${server.origin}/workspaces/${world.workspaceId}/members`)
    await skip()
    await tabTo(page, { tag: 'a', name: 'Change role Vic' })
    await enter()
    await skip()
    await tabTo(page, { tag: 'input', name: 'role' })
    await page.keyboard.press('ArrowUp')
    await tabTo(page, { tag: 'button', name: 'Change role' })
    await enter()
    await page.getByText('The role is changed.').waitFor()
    expect(await page.getByRole('row', { name: 'Vic' }).textContent()).toContain('Member')
    await page.goto(`${server.origin}/organizations/${world.organizationId}`)
    await page.getByRole('link', { name: 'by keyboard' }).waitFor()
  }, 60_000)
})

// The pages of tokens in a real browser: light and dark, wide and narrow, by keyboard, with scripts and without.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createToken, cutOver, revokeToken, rotateToken } from '../../src/workspace-tokens/service.ts'
import {
  focused,
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
import { makeWorld, obtainCode, PASSWORD, type World } from '../support/world.ts'

const HOSTILE = '<img src=x onerror=alert(1)>'
const LONG = `Quarterly-reconciliation-and-evidence-export_for_the_finance_platform,_running_on_${'shared'.repeat(6)}`
const BY = { authority: { kind: 'operator' }, request: { traceId: 'test' } } as const

describe.skipIf(!hasBrowser())('the pages of tokens', () => {
  let server: TestServer
  let browser: TestBrowser
  let world: World
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer(), launchBrowser()])
    world = await makeWorld(server)
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  const access = (of = world) => `${server.origin}/workspaces/${of.workspaceId}/access`
  const tokens = (rest: string) => `${server.origin}/workspaces/${world.workspaceId}/tokens${rest}`
  const keys = (rest = '') => `${server.origin}/organizations/${world.organizationId}/keys${rest}`

  /** Signed in, at an address. */
  async function visit(address: string, options?: { scripts?: boolean; email?: string }): Promise<Visitor> {
    const visitor = await begin(options?.scripts === undefined ? {} : { scripts: options.scripts })
    await visitor.page.goto(address)
    await signInOn(visitor.page, options?.email ?? world.email)
    await visitor.page.waitForURL(address)
    return visitor
  }

  async function make(label: string, more: object = {}): Promise<string> {
    const made = await createToken(server.app, {
      owner: { workspaceId: world.workspaceId },
      label,
      environment: 'production',
      permissions: ['ingest', 'read'],
      resources: null,
      ipAllowList: null,
      expiry: null,
      ...BY,
      ...more,
    })
    return made.line.id
  }

  const rotate = (id: string, cutover: Parameters<typeof rotateToken>[1]['cutover'] = { mode: 'manual' }) =>
    rotateToken(server.app, { owner: { workspaceId: world.workspaceId }, id, cutover, expiry: undefined, ...BY })

  /** As the process writes it: so many hours ago, every so many hours. */
  const used = (id: string, input: { version: number; from: number; to: number; every: number; refused?: boolean }) =>
    sql`insert into token_uses (token_id, version, hour, refused, address, agent, uses, last_at)
      select ${id}, ${input.version}, date_trunc('hour', now() - make_interval(hours => ago)), ${input.refused ?? false},
        '192.0.2.31', 'deploy-job/2.3', 7, now() - make_interval(hours => ago, secs => 240)
      from generate_series(${input.to}::int, ${input.from}::int, ${input.every}::int) as ago
      on conflict do nothing`.execute(server.db)

  const lastUsed = (id: string, version: number, first: string, last: string) =>
    sql`update token_versions set created_at = now() - ${first}::interval - interval '1 hour',
        first_used_at = now() - ${first}::interval, last_used_at = now() - ${last}::interval,
        last_used_address = '192.0.2.31', last_used_agent = 'deploy-job/2.3'
      where token_id = ${id} and version = ${version}`.execute(server.db)

  it('the list: empty, full of every state and of hostile and long names, and as a member sees it', async () => {
    const { page } = await visit(access())
    const found = await inspect(page, 'tokens-list-empty')
    await obtainCode(server, world)
    const overlap = await make('platform-ai prod')
    await rotate(overlap)
    await lastUsed(overlap, 1, '14 days', '3 days')
    await lastUsed(overlap, 2, '2 days', '4 minutes')
    const unused = await make('spreadsheet import', { environment: 'development', permissions: ['ingest'] })
    await lastUsed(unused, 1, '200 days', '94 days')
    await make(LONG, { permissions: ['ingest', 'read', 'manage', 'traces:read', 'traces:admin'] })
    await make(HOSTILE, { environment: 'staging', permissions: ['read'], expiry: { inSeconds: 5 * 86_400 } })
    const old = await make('old-runner')
    await revokeToken(server.app, { owner: { workspaceId: world.workspaceId }, id: old, ...BY })
    await sql`update token_versions set refused_at = now(), refused_address = '2001:db8:85a3:8d3:1319:8a2e:370:7348'
      where token_id = ${old}`.execute(server.db)
    await page.reload()
    expect(await page.locator('img').count()).toBe(0)
    found.push(...(await inspect(page, 'tokens-list')))
    const email = 'member@example.com'
    await server.run('user create', { email, name: 'Mo', password: PASSWORD })
    await server.run('member add', { user: email, workspace: world.workspaceId, role: 'member' })
    const member = await visit(access(), { email })
    found.push(...(await inspect(member.page, 'tokens-list-member')))
    await page.goto(keys())
    found.push(...(await inspect(page, 'keys-list-empty')))
    expect(found).toEqual([])
  })

  it('creating: the form, what is wrong with it, the value, and that it was shown', async () => {
    const { page, context } = await visit(tokens('/new'))
    await context.grantPermissions(['clipboard-read', 'clipboard-write'])
    const found = await inspect(page, 'tokens-new')
    await page.$eval('form.panel', (form) => form.setAttribute('novalidate', ''))
    await page.getByLabel('Only from these addresses').fill('nowhere')
    await page.getByLabel('Prefix for .env lines').fill('lower')
    await page.getByRole('button', { name: 'Create token' }).click()
    await page.getByRole('alert').waitFor()
    expect(await focused(page)).toMatchObject({ tag: 'input', name: 'label' })
    found.push(...(await inspect(page, 'tokens-new-wrong')))
    await page.getByLabel('Label').fill('evaluation runner')
    await page.getByRole('checkbox', { name: 'read See the workspace' }).check()
    await page.getByLabel('Only from these addresses').fill('')
    await page.getByLabel('Prefix for .env lines').fill('ACME')
    await page.getByRole('button', { name: 'Create token' }).click()
    await page.getByRole('heading', { name: 'Copy your new token now' }).waitFor()
    found.push(...(await inspect(page, 'tokens-value')))
    const value = (await page.locator('#value').textContent()) ?? ''
    expect(value).toMatch(/^tid_ws_[0-9A-Za-z]{46}$/)
    const clipboard = () => page.evaluate(() => navigator.clipboard.readText())
    await page.getByRole('button', { name: 'Copy value' }).click()
    await page.getByRole('button', { name: 'Copied' }).waitFor()
    expect(await clipboard()).toBe(value)
    await page.getByRole('button', { name: 'Copy lines' }).click()
    await expect.poll(clipboard).toContain(`ACME_TOKEN=${value}\nACME_TOKEN_VERSION=v1\n`)
    await page.reload()
    await page.getByRole('heading', { name: 'This value was shown already' }).waitFor()
    found.push(...(await inspect(page, 'tokens-shown')))
    await page.getByRole('link', { name: 'I have stored it' }).click()
    await page.getByRole('heading', { name: 'evaluation runner', level: 1 }).waitFor()
    found.push(...(await inspect(page, 'tokens-detail-unused')))
    expect(await page.content()).not.toContain(value)
    expect(found).toEqual([])
  })

  it('a token’s own page: two versions with evidence, then one with a retired value still in use, then revoked', async () => {
    const owner = { workspaceId: world.workspaceId }
    const id = await make('deploy job', { ipAllowList: ['192.0.2.0/24', '2001:db8::/32'] })
    await rotate(id)
    await cutOver(server.app, { owner, id, ...BY })
    await rotate(id)
    await lastUsed(id, 1, '40 days', '12 days')
    await lastUsed(id, 2, '12 days', '3 days')
    await lastUsed(id, 3, '2 days', '4 minutes')
    await used(id, { version: 1, from: 330, to: 290, every: 3 })
    await used(id, { version: 1, from: 200, to: 200, every: 1, refused: true })
    await used(id, { version: 2, from: 290, to: 72, every: 5 })
    await used(id, { version: 3, from: 48, to: 0, every: 2 })
    await sql`update token_versions set refused_at = now() - interval '200 hours', refused_address = '198.51.100.61',
      refused_agent = ${`curl/8.5 ${HOSTILE}`}, retired_at = now() - interval '12 days'
      where token_id = ${id} and version = 1`.execute(server.db)
    const { page } = await visit(tokens(`/${id}`))
    await page.locator('summary').click()
    const found = await inspect(page, 'tokens-detail-overlap')
    await page.getByText('It looks safe to cut over.').waitFor()
    await page.goto(tokens(`/${id}/rotate`))
    found.push(...(await inspect(page, 'tokens-rotate-pending')))
    await page.goto(tokens(`/${id}/versions/v2/revoke`))
    found.push(...(await inspect(page, 'tokens-revoke-version')))
    await page.getByRole('link', { name: 'Keep it' }).click()
    await page.getByRole('button', { name: 'Cut over to v3 now' }).click()
    await page.getByText('v3 works').waitFor()
    found.push(...(await inspect(page, 'tokens-detail')))
    await page.getByRole('link', { name: 'Rotate' }).click()
    await page.getByRole('heading', { name: 'Rotate deploy job' }).waitFor()
    found.push(...(await inspect(page, 'tokens-rotate')))
    await page.goto(tokens(`/${id}/revoke`))
    found.push(...(await inspect(page, 'tokens-revoke')))
    await page.getByRole('checkbox').check()
    await page.getByRole('button', { name: 'Revoke deploy job' }).click()
    await page.getByText('is revoked').waitFor()
    found.push(...(await inspect(page, 'tokens-list-revoked')))
    await page.goto(tokens(`/${id}`))
    found.push(...(await inspect(page, 'tokens-detail-revoked')))
    expect(found).toEqual([])
  })

  it('an organization’s keys', async () => {
    const { page } = await visit(keys('/new'))
    const found = await inspect(page, 'keys-new')
    await page.getByLabel('Label').fill('provisioning')
    await page.getByRole('checkbox', { name: /^manage/ }).check()
    await page.getByRole('button', { name: 'Create key' }).click()
    await page.getByRole('heading', { name: 'Copy your new key now' }).waitFor()
    found.push(...(await inspect(page, 'keys-value')))
    await page.getByRole('link', { name: 'I have stored it' }).click()
    await page.goto(keys())
    found.push(...(await inspect(page, 'keys-list')))
    expect(found).toEqual([])
  })

  it.each([
    ['with scripts', true],
    ['without scripts', false],
  ])('%s: the keyboard alone makes a token, rotates it and revokes it', async (_, scripts) => {
    const { page } = await visit(tokens('/new'), { scripts })
    const label = `by keyboard ${scripts}`
    if (scripts) {
      await page.keyboard.press('Tab') // “Skip to content”
      await page.keyboard.press('Enter')
      await tabTo(page, { tag: 'input', name: 'label' })
    } else await page.getByLabel('Label').focus()
    await page.keyboard.type(label)
    await page.getByRole('checkbox', { name: /^read/ }).focus()
    await page.keyboard.press('Space')
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: 'Copy your new token now' }).waitFor()
    expect(await page.getByRole('button', { name: 'Copy value' }).isVisible()).toBe(scripts)
    await page.getByRole('link', { name: 'I have stored it' }).press('Enter')
    await page.getByRole('link', { name: 'Rotate' }).press('Enter')
    await page.getByRole('button', { name: 'Make v2' }).press('Enter')
    await page.getByRole('heading', { name: 'Copy your new token now' }).waitFor()
    await page.getByRole('link', { name: 'I have stored it' }).press('Enter')
    await page.getByRole('button', { name: 'Cut over to v2 now' }).press('Enter')
    await page.getByRole('link', { name: 'Revoke', exact: true }).press('Enter')
    await page.getByRole('button', { name: `Revoke ${label}` }).press('Enter')
    await page.getByText('is revoked').waitFor()
    expect(await page.getByRole('row', { name: label }).count()).toBe(0)
  })
})

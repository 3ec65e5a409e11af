// The pages of connections in a real browser: what is looked for, who would be cut off, and what somebody approved themselves.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createToken, rotateToken } from '../../src/workspace-tokens/service.ts'
import {
  hasBrowser,
  inspect,
  keepVisitors,
  launchBrowser,
  signInOn,
  type TestBrowser,
  type Visitor,
} from '../support/browser.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { connect, makeClient, makeWorld, type World } from '../support/world.ts'

const HOSTILE = '<img src=x onerror=alert(1)>'
const LONG = `Quarterly-reconciliation-and-evidence-export_for_the_finance_platform,_running_on_${'shared'.repeat(6)}`
const BY = { authority: { kind: 'operator' }, request: { traceId: 'test' } } as const

describe.skipIf(!hasBrowser())('the pages of connections', () => {
  let server: TestServer
  let browser: TestBrowser
  let world: World
  let ids: Record<string, string>
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer(), launchBrowser()])
    world = await makeWorld(server)
    ids = {}
    const agent = server.userAgent()
    for (const name of ['Tracepad Desktop', 'Nightly Exporter', LONG, HOSTILE]) {
      const client = await makeClient(server, { name })
      const workspaceId = name === LONG ? world.otherWorkspaceId : world.workspaceId
      await connect(server, world, { agent, client, workspaceId })
      const row = await server.db
        .selectFrom('connections')
        .select('id')
        .where('client_id', '=', client.id)
        .executeTakeFirstOrThrow()
      ids[name] = row.id
    }
    await lastUsed('Tracepad Desktop', '4 minutes', '192.0.2.17')
    await lastUsed('Nightly Exporter', '94 days', '203.0.113.40')
    await lastUsed(HOSTILE, '6 hours', '2001:db8:85a3:8d3:1319:8a2e:370:7348')
    await sql`update connections set created_at = now() - interval '214 days' where id = ${ids['Nightly Exporter']}`.execute(
      server.db,
    )
    await sql`insert into connection_uses
      select ${ids['Tracepad Desktop']}, 1, date_trunc('hour', now()), address, agent, uses, now() - past from (values
        ('192.0.2.17', 'tracepad-desktop/2.3', 118, interval '4 minutes'),
        ('192.0.2.77', ${HOSTILE}, 12, interval '21 minutes'),
        ('', ${LONG}, 1, interval '48 minutes')) as caller (address, agent, uses, past)`.execute(server.db)
    const made = await makeToken('platform-ai prod')
    await rotateToken(server.app, {
      owner: { workspaceId: world.workspaceId },
      id: made,
      cutover: { mode: 'manual' },
      expiry: undefined,
      ...BY,
    })
    await makeToken('spreadsheet import')
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  const lastUsed = (name: string, ago: string, address: string) =>
    sql`insert into connection_versions values
      (${ids[name]}, 1, now() - interval '100 days', now() - ${ago}::interval, ${address}, 'agent/1')`.execute(
      server.db,
    )

  async function makeToken(label: string): Promise<string> {
    const made = await createToken(server.app, {
      owner: { workspaceId: world.workspaceId },
      label,
      environment: 'production',
      permissions: ['ingest', 'read'],
      resources: null,
      ipAllowList: null,
      expiry: null,
      ...BY,
    })
    return made.line.id
  }

  const access = () => `${server.origin}/workspaces/${world.workspaceId}/access`
  const account = (rest = '') => `${server.origin}/account${rest}`

  /** Signed in, at an address. */
  async function visit(address: string, options: { scripts?: boolean } = {}): Promise<Visitor> {
    const visitor = await begin(options)
    await visitor.page.goto(address)
    await signInOn(visitor.page, world.email)
    await visitor.page.waitForURL(address)
    return visitor
  }

  it('every way in, side by side; what is looked for; nothing like it', async () => {
    const { page } = await visit(access())
    const found = await inspect(page, 'access')
    expect(await page.locator('img').count()).toBe(0)
    await page.goto(`${access()}?kind=connections&unused=yes`)
    found.push(...(await inspect(page, 'access-unused')))
    expect(await page.getByRole('row', { name: 'Nightly Exporter' }).count()).toBe(1)
    await page.goto(`${access()}?text=nothing+like+it`)
    found.push(...(await inspect(page, 'access-nothing')))
    expect(found).toEqual([])
  })

  it.each([
    ['with scripts', true],
    ['without scripts', false],
  ])('%s: the keyboard alone looks for a connection, and goes on to its end', async (_, scripts) => {
    const { page } = await visit(access(), { scripts })
    await page.getByRole('searchbox', { name: 'Find' }).focus()
    await page.keyboard.type('tracepad')
    await page.keyboard.press('Enter')
    await page.waitForURL(/text=tracepad/)
    expect(await page.getByRole('searchbox', { name: 'Find' }).inputValue()).toBe('tracepad')
    await page.getByText('No token is like that').waitFor()
    expect(await page.getByRole('row', { name: 'Tracepad Desktop' }).count()).toBe(1)
    await page.getByRole('link', { name: 'Revoke Tracepad Desktop' }).press('Enter')
    await page.getByRole('heading', { name: '3 callers used this in the last hour' }).waitFor()
    await page.getByRole('link', { name: 'Keep it' }).press('Enter')
    await page.waitForURL(access())
    await page.goto(`${access()}?unused=yes`)
    await page.getByRole('link', { name: 'Clear' }).press('Enter')
    await page.waitForURL(access())
  })

  it('an ending says who would be cut off, or that nobody would, and what has ended', async () => {
    const { page } = await visit(
      `${server.origin}/workspaces/${world.workspaceId}/connections/${ids['Tracepad Desktop']}`,
    )
    const found = await inspect(page, 'connection-in-use')
    expect(await page.locator('img').count()).toBe(0)
    await page.$eval('form:has(.danger)', (form) => form.setAttribute('novalidate', ''))
    await page.getByRole('button', { name: 'Revoke Tracepad Desktop' }).click()
    await page.getByRole('alert').waitFor()
    found.push(...(await inspect(page, 'connection-not-understood')))
    await page.goto(`${server.origin}/workspaces/${world.workspaceId}/connections/${ids['Nightly Exporter']}`)
    await page.getByText('Nobody used it in the last hour.').waitFor()
    found.push(...(await inspect(page, 'connection-quiet')))
    await page.getByRole('button', { name: 'Make it sign a new token' }).click()
    await page.getByText('It signs a new token at its next refresh').waitFor()
    await page.goto(`${server.origin}/workspaces/${world.workspaceId}/connections/con_00000000000000000000000000`)
    await page.getByRole('heading', { name: 'This connection has ended' }).waitFor()
    found.push(...(await inspect(page, 'connection-ended')))
    expect(found).toEqual([])
  })

  it('one’s own: the account, the list over all workspaces, the end of one, the empty list', async () => {
    const { page } = await visit(access())
    await page.getByRole('link', { name: 'Your account: Ada' }).click()
    await page.waitForURL(account())
    const found = await inspect(page, 'account')
    await page.getByRole('link', { name: 'See connections' }).press('Enter')
    await page.waitForURL(account('/connections'))
    found.push(...(await inspect(page, 'account-connections')))
    expect(await page.locator('img').count()).toBe(0)
    await page.getByRole('link', { name: `Disconnect ${LONG}` }).click()
    await page.getByRole('heading', { name: 'Disconnect', level: 1 }).waitFor()
    found.push(...(await inspect(page, 'account-disconnect')))
    for (const name of [LONG, HOSTILE, 'Nightly Exporter', 'Tracepad Desktop']) {
      await page.goto(account(`/connections/${ids[name]}`))
      const understood = page.getByRole('checkbox')
      if ((await understood.count()) > 0) await understood.check()
      await page.getByRole('button', { name: `Disconnect ${name}` }).click()
      await page.getByText('The connection has ended').waitFor()
    }
    await page.getByText('No app acts for you').waitFor()
    found.push(...(await inspect(page, 'account-connections-empty')))
    expect(found).toEqual([])
  })
})

// The tour at /try, walked by a person in a real browser: every step does what its page says.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { endFamily } from '../../src/connections/service.ts'
import {
  hasBrowser,
  keepVisitors,
  launchBrowser,
  signInOn,
  type TestBrowser,
  type Visitor,
} from '../support/browser.ts'
import { startServer, type TestServer } from '../support/server.ts'

describe.skipIf(!hasBrowser())('the tour', () => {
  let server: TestServer
  let browser: TestBrowser
  let password: string
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer({ environment: { LATCHKEY_TOUR: 'on' } }), launchBrowser()])
    password = server.app.tour?.password?.reveal() ?? ''
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  async function visit(scripts = true): Promise<Visitor['page']> {
    return (await begin({ scripts })).page
  }

  const press = (page: Visitor['page'], name: string) => page.getByRole('button', { name, exact: true }).click()

  async function connect(page: Visitor['page'], workspace = 'platform-ai'): Promise<void> {
    await press(page, 'Connect Tracepad')
    await signInOn(page, 'ada@example.com', password)
    await page.getByRole('radio', { name: workspace }).check()
    await press(page, 'Connect to the chosen workspace')
    await page.getByRole('rowheader', { name: 'workspace_id' }).waitFor()
  }

  const claim = async (page: Visitor['page'], name: string) =>
    (
      await page
        .getByRole('row')
        .filter({ has: page.getByRole('rowheader', { name, exact: true }) })
        .getByRole('cell')
        .allTextContents()
    )[0]

  it.each([true, false])(
    'goes from the first page to an API that answers, and on to a new token (scripts: %s)',
    async (scripts) => {
      const page = await visit(scripts)
      await page.goto(server.origin)
      await page.getByRole('link', { name: 'Take the tour' }).click()
      await connect(page)
      const research = await server.db
        .selectFrom('workspaces')
        .select('id')
        .where('name', '=', 'platform-ai')
        .executeTakeFirstOrThrow()
      expect(await claim(page, 'workspace_id')).toBe(research.id)
      expect(await claim(page, 'token_version')).toBe('v1')
      const meanings = await page.locator('.claims td:last-child').allTextContents()
      expect(meanings.length).toBeGreaterThan(12)
      expect(meanings).not.toContain('')

      await press(page, 'Call it with the token')
      expect(await page.locator('pre').textContent()).toContain(research.id)
      expect(await page.locator('main').textContent()).toContain('200 Answered')

      const before = await claim(page, 'jti')
      await press(page, 'Renew the token')
      await page.getByText('The app renews its token').waitFor()
      expect(await claim(page, 'jti')).not.toBe(before)
      expect(new URL(page.url()).hash).toBe('#renew')
      expect(await page.locator('.walk > li').nth(3).textContent()).toContain('gave way to')
      await press(page, 'Call it again')
      expect(await page.locator('.timeline > li').count()).toBe(6)
      expect(await page.locator('.timeline > li.bad').count()).toBe(0)

      await press(page, 'Start the tour over')
      await page.getByRole('button', { name: 'Connect Tracepad' }).waitFor()
      expect(await page.getByRole('row').count()).toBe(0)
      expect(await page.locator('.timeline').count()).toBe(0)
    },
  )

  it('shows no token, code or refresh token in full', async () => {
    const page = await visit()
    await page.goto(`${server.origin}/try`)
    await connect(page)
    await press(page, 'Call it with the token')
    await press(page, 'Renew the token')
    await page.getByText('The app renews its token').waitFor()
    const html = await page.content()
    expect(html).not.toMatch(/eyJ[\w-]{10,}/)
    expect(html).not.toMatch(/lk_rt_\w{4}/)
    expect(html).not.toMatch(/code=[\w-]{10,}/)
  })

  it('who says no comes back to a page that is content with it', async () => {
    const page = await visit()
    await page.goto(`${server.origin}/try`)
    await press(page, 'Connect Tracepad')
    await signInOn(page, 'ada@example.com', password)
    await press(page, 'Do not connect')
    await page.getByText('You did not connect').waitFor()
    expect(new URL(page.url()).pathname).toBe('/try')
    expect(await page.getByRole('alert').count()).toBe(0) // nothing failed
    await page.getByRole('button', { name: 'Connect Tracepad' }).waitFor()
  })

  it('an answer that belongs to no request of this browser is refused', async () => {
    const page = await visit()
    await page.goto(`${server.origin}/try/callback?code=stolen&state=other&iss=${server.origin}`)
    expect(await page.getByRole('alert').textContent()).toContain('belongs to no request of this browser')
    expect(await page.getByRole('row').count()).toBe(0)
  })

  it('a connection that has ended is shown as ended, and connecting again brings it back', async () => {
    const page = await visit()
    await page.goto(`${server.origin}/try`)
    await connect(page, 'research-notebooks')
    const connectionId = await claim(page, 'credential_id')
    const families = await server.db.selectFrom('families').selectAll().execute()
    for (const family of families.filter((row) => row.connection_id === connectionId)) {
      await endFamily(server.app.revocations, {
        connectionId: family.connection_id,
        familyId: family.id,
        reason: 'refresh_token_revoked',
        actor: { kind: 'operator' },
        request: { traceId: 'test' },
      })
    }
    await press(page, 'Renew the token')
    await page.getByText('This connection has ended.').waitFor()
    await press(page, 'Try the old token')
    await page.getByText('401 Refused').waitFor() // it has not expired yet
    await press(page, 'Connect again')
    await page.getByRole('radio', { name: 'research-notebooks' }).check()
    await press(page, 'Connect to the chosen workspace')
    await page.getByRole('button', { name: 'Call it with the token' }).waitFor()
    expect(await claim(page, 'token_version')).toBe('v2')
  })
})

// Signing out everywhere in a real browser: by keyboard alone, without scripts, light and dark, wide and narrow, and with
// names as long as names get.
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
import { connect, makeClient, makeWorld, type World } from '../support/world.ts'

const AT = '/account/sign-out-everywhere'

describe.skipIf(!hasBrowser())('signing out everywhere', () => {
  let server: TestServer
  let browser: TestBrowser
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer(), launchBrowser()])
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

  /** Connected to an app that wants to know of logouts, with a name as given, and to one that does not. */
  async function makeConnected(name: string): Promise<World> {
    const world = await makeWorld(server)
    const { agent } = await connect(server, world)
    const told = await makeClient(server, { name, backchannel_logout_uri: 'https://rp.example.com/out' })
    await connect(server, world, { agent, client: told, workspaceId: world.otherWorkspaceId })
    return world
  }

  it('looks well before and after, and is found from the account', async () => {
    const world = await makeConnected('Notebook')
    const page = await visit(world.email)
    await page.goto(`${server.origin}/account`)
    await page.getByRole('link', { name: 'Sign out everywhere' }).click()
    await page.waitForURL(server.origin + AT)
    const found = await inspect(page, 'sign-out-everywhere')
    await page.getByRole('button', { name: 'Sign out everywhere' }).click()
    await page.getByRole('heading', { name: 'You are signed out everywhere' }).waitFor()
    found.push(...(await inspect(page, 'signed-out-everywhere')))
    expect(found).toEqual([])
  })

  it('has room for long names, and says so where nothing is connected', async () => {
    const world = await makeConnected('N'.repeat(120))
    const page = await visit(world.email)
    await page.goto(server.origin + AT)
    const found = await inspect(page, 'sign-out-everywhere-long')
    const alone = await makeWorld(server)
    const other = await visit(alone.email)
    await other.goto(server.origin + AT)
    found.push(...(await inspect(other, 'sign-out-everywhere-alone')))
    expect(found).toEqual([])
  })

  it('is done by keyboard alone, without scripts, and ends the session of another browser too', async () => {
    const world = await makeConnected('Notebook')
    const page = await visit(world.email, { scripts: false })
    const elsewhere = await visit(world.email)
    await page.goto(server.origin + AT)
    await tabTo(page, { tag: 'a', name: 'Skip to content' })
    await page.keyboard.press('Enter')
    await tabTo(page, { tag: 'button', name: 'Sign out everywhere' })
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: 'You are signed out everywhere' }).waitFor()
    for (const gone of [page, elsewhere]) {
      await gone.goto(`${server.origin}/account`)
      expect(new URL(gone.url()).pathname).toBe('/sign-in')
    }
  })
})

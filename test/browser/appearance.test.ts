// Every page in a real browser, light and dark, wide and narrow: axe has nothing to say, nothing runs over the edge, and no
// name that somebody chose does anything but stand there.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { invite } from '../../src/invitations/service.ts'
import {
  focused,
  hasBrowser,
  inspect,
  keepVisitors,
  launchBrowser,
  signInOn,
  type TestBrowser,
  type Visitor,
} from '../support/browser.ts'
import { startServer, type TestServer } from '../support/server.ts'
import {
  API,
  authorizationUrl,
  CALLBACK,
  connect,
  makeClient,
  makePkce,
  makeWorld,
  PASSWORD,
  type TestClient,
  type World,
} from '../support/world.ts'

const HOSTILE = '<img src=x onerror=alert(1)>'
const TURNING = '\u202Eelpmaxe'
const LONG = 'W'.repeat(120)

describe.skipIf(!hasBrowser())('every page', () => {
  let server: TestServer
  let browser: TestBrowser
  let world: World
  let local: TestClient
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer({ environment: { LATCHKEY_TOUR: 'on' } }), launchBrowser()])
    world = await makeWorld(server)
    local = await makeClient(server, {
      name: 'Tracepad Desktop',
      redirect_uris: ['http://127.0.0.1:49152/callback'],
      auth: 'none',
    })
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  async function visit(): Promise<Visitor['page']> {
    return (await begin({ elsewhere: [new URL(CALLBACK).origin] })).page
  }

  const start = (client: TestClient, more?: Record<string, string>) =>
    server.origin + authorizationUrl(client, makePkce(), more)
  const press = (page: Visitor['page'], name: string) => page.getByRole('button', { name, exact: true }).click()

  it('of an invitation', async () => {
    const { invitation, secret } = await invite(server.db, {
      target: { workspaceId: world.workspaceId, role: 'viewer' },
      email: 'guest@example.com',
      authority: { kind: 'operator' },
      request: { traceId: 'test' },
    })
    const page = await visit()
    await page.goto(`${server.origin}/invitations/${secret.reveal()}`)
    const found = await inspect(page, 'invitation')
    const fill = async (name: string, password: string) => {
      await page.$eval('form', (form) => form.setAttribute('novalidate', ''))
      await page.getByLabel('Your name').fill(name)
      await page.getByLabel('Choose a password').fill(password)
      await press(page, 'Open an account and join')
    }
    await fill('', PASSWORD)
    await page.getByText('Tell us your name').waitFor()
    expect((await focused(page)).name).toBe('name')
    found.push(...(await inspect(page, 'invitation-no-name')))
    await fill('Guest', 'short')
    await page.getByRole('alert').waitFor()
    expect((await focused(page)).name).toBe('password')
    expect(await page.getByLabel('Your name').inputValue()).toBe('Guest')
    found.push(...(await inspect(page, 'invitation-short-password')))
    await fill('Guest', PASSWORD)
    await page.waitForURL(`${server.origin}/workspaces/${invitation.workspace_id}/members`)
    expect(found).toEqual([])
  }, 120_000)

  it('of signing in', async () => {
    const page = await visit()
    await page.goto(start(local, { login_hint: world.email }))
    const found = await inspect(page, 'sign-in')
    await signInOn(page, world.email, 'not the password at all')
    found.push(...(await inspect(page, 'sign-in-wrong')))
    for (let tries = 0; tries < 9; tries++) {
      await page.request.post(page.url(), {
        form: {
          email: world.email,
          password: 'not the password at all',
          csrf: (await page.locator('input[name=csrf]').getAttribute('value')) ?? '',
        },
        headers: { origin: server.origin },
      })
    }
    await signInOn(page, world.email, 'not the password at all')
    await page.getByRole('heading', { name: 'Wait a little' }).waitFor()
    found.push(...(await inspect(page, 'sign-in-locked')))
    expect(found).toEqual([])
  })

  it('of approving, for people with two workspaces, two organizations, a viewer’s role, and none', async () => {
    const many = await server.run('user create', {
      email: 'grace@example.com',
      name: 'Grace Hopper',
      password: PASSWORD,
    })
    await server.run('member add', { user: many.email, workspace: world.workspaceId, role: 'admin' })
    await server.run('member add', { user: many.email, workspace: world.otherWorkspaceId, role: 'viewer' })
    const globex = await server.run('organization create', { name: 'Globex', owner: many.email })
    await server.run('workspace create', { organization: globex.id, name: 'Field research, north', owner: many.email })
    const member = await server.run('user create', { email: 'kay@example.com', name: 'Kay', password: PASSWORD })
    await server.run('member add', { user: member.email, workspace: world.workspaceId, role: 'member' })
    await server.run('member add', { user: member.email, workspace: world.otherWorkspaceId, role: 'member' })
    const viewer = await server.run('user create', { email: 'vic@example.com', name: 'Vic', password: PASSWORD })
    await server.run('member add', { user: viewer.email, workspace: world.workspaceId, role: 'viewer' })
    const nobody = await server.run('user create', { email: 'new@example.com', name: 'New', password: PASSWORD })
    const everything = { scope: 'openid profile email traces:read traces:admin', resource: API }

    const page = await visit()
    await page.goto(start(world.client, everything))
    await signInOn(page, String(many.email))
    const found = await inspect(page, 'consent-two-organizations')
    await page.getByRole('radio', { name: 'Field research' }).check()
    await page.getByRole('radio', { name: 'Field research' }).focus()
    found.push(...(await inspect(page, 'consent-chosen')))
    await page.$eval('form.stack', (form) => form.setAttribute('novalidate', ''))
    await page.$$eval('input[type=radio]', (inputs) => {
      for (const input of inputs) if (input instanceof HTMLInputElement) input.checked = false
    })
    await press(page, 'Connect to the chosen workspace')
    await page.getByRole('alert').waitFor()
    found.push(...(await inspect(page, 'consent-no-choice')))
    await press(page, 'Not you?')
    await signInOn(page, String(viewer.email))
    found.push(...(await inspect(page, 'consent-viewer')))
    await press(page, 'Not you?')
    await signInOn(page, String(nobody.email))
    found.push(...(await inspect(page, 'consent-no-workspace')))
    await page.goto(start(local, everything))
    await press(page, 'Not you?')
    await signInOn(page, String(member.email))
    found.push(...(await inspect(page, 'consent-loopback')))
    expect(found).toEqual([])
  })

  it('of approving more than before', async () => {
    const other = await makeWorld(server)
    await connect(server, other)
    const page = await visit()
    await page.goto(start(other.client, { scope: 'openid email traces:read traces:admin' }))
    await signInOn(page, other.email)
    expect(await page.locator('.tag.new').count()).toBe(2)
    expect(await inspect(page, 'consent-more')).toEqual([])
  })

  it('of signing out', async () => {
    const page = await visit()
    const more = await makeWorld(server)
    const { id_token: hint = '' } = await connect(server, more)
    await page.goto(start(world.client))
    await signInOn(page, more.email)
    await page.getByText(more.email).waitFor()
    await page.goto(`${server.origin}/logout?${new URLSearchParams({ id_token_hint: hint })}`)
    const found = await inspect(page, 'sign-out')
    await press(page, 'Stay signed in')
    await page.getByRole('heading', { name: 'You are still signed in' }).waitFor()
    found.push(...(await inspect(page, 'still-signed-in')))
    await page.goto(`${server.origin}/logout`)
    found.push(...(await inspect(page, 'sign-out-without-app')))
    await press(page, 'Sign out')
    await page.getByRole('heading', { name: 'You are signed out' }).waitFor()
    found.push(...(await inspect(page, 'signed-out')))
    expect(found).toEqual([])
  })

  it('of what goes wrong', async () => {
    const page = await visit()
    const found: string[] = []
    const addresses: Array<[string, string, number]> = [
      ['error-unknown-app', start({ ...local, id: 'nobody' }), 400],
      ['error-redirect', start({ ...local, redirectUri: 'https://evil.example/callback' }), 400],
      ['error-request', `${server.origin}/authorize?response_type=code`, 400],
      ['error-expired', `${server.origin}/interaction/abcdefghijklmnopqrstuvwxyz`, 400],
      ['error-resume', `${server.origin}/authorize/abcdefghijklmnopqrstuvwxyz`, 400],
      ['error-not-found', `${server.origin}/nothing-here`, 404],
    ]
    for (const [name, address, status] of addresses) {
      const response = await page.goto(address)
      expect(response?.status(), name).toBe(status)
      found.push(...(await inspect(page, name)))
    }
    expect(found).toEqual([])
  })

  it('of the start, and of the tour until somebody says no', async () => {
    const page = await visit()
    await page.goto(server.origin)
    const found = await inspect(page, 'home')
    await page.getByRole('link', { name: 'Take the tour' }).click()
    found.push(...(await inspect(page, 'tour-start')))
    await press(page, 'Connect Tracepad')
    await signInOn(page, 'ada@example.com', server.app.tour?.password?.reveal())
    found.push(...(await inspect(page, 'tour-consent')))
    await press(page, 'Do not connect')
    found.push(...(await inspect(page, 'tour-declined')))
    expect(found).toEqual([])
  })

  it('of the tour from the token to the end of the connection', async () => {
    const page = await visit()
    await page.goto(`${server.origin}/try`)
    await press(page, 'Connect Tracepad')
    await signInOn(page, 'ada@example.com', server.app.tour?.password?.reveal())
    await page.getByRole('radio', { name: 'platform-ai' }).check()
    await press(page, 'Connect to the chosen workspace')
    await page.locator('summary').click()
    const found = await inspect(page, 'tour-connected')
    await press(page, 'Call it with the token')
    await press(page, 'Renew the token')
    found.push(...(await inspect(page, 'tour-renewed')))
    await server.db.updateTable('families').set({ ended_at: new Date(), end_reason: 'test' }).execute()
    await press(page, 'Renew it again')
    await page.getByText('This connection has ended.').waitFor()
    found.push(...(await inspect(page, 'tour-ended')))
    expect(found).toEqual([])
  })

  it('shows hostile names as text: nothing runs, nothing is loaded, nothing turns around', async () => {
    const email = 'mallory@example.com'
    await server.run('user create', { email, name: HOSTILE, password: PASSWORD })
    for (const name of [HOSTILE, TURNING]) {
      const organization = await server.run('organization create', {
        name: name === TURNING ? LONG : `Org ${HOSTILE}`,
        owner: email,
      })
      await server.run('workspace create', {
        organization: organization.id,
        name: name === TURNING ? LONG : HOSTILE,
        owner: email,
      })
    }
    const AFTER = 'https://app.example.com/bye'
    const client = await makeClient(server, { name: HOSTILE, post_logout_redirect_uris: [AFTER] })
    const page = await visit()
    await page.goto(
      start(client, { login_hint: `"><script>alert(1)</script>${HOSTILE}`, state: `"><script>alert(2)</script>` }),
    )
    const found = await inspect(page, 'hostile-sign-in')
    await page.$eval('form', (form) => form.setAttribute('novalidate', ''))
    await signInOn(page, `"><b>${HOSTILE}`)
    await page.getByRole('alert').waitFor()
    expect(await page.getByLabel('Work email').inputValue()).toBe(`"><b>${HOSTILE}`)
    await signInOn(page, email)
    await page.getByRole('heading', { name: `Connect ${HOSTILE}?` }).waitFor()
    expect(await page.locator('img').count()).toBe(0)
    expect(await page.locator('main').textContent()).toContain(`Org ${HOSTILE}`)
    found.push(...(await inspect(page, 'hostile-consent')))
    await page.goto(`${server.origin}/logout?${new URLSearchParams({ client_id: client.id })}`)
    expect(await page.locator('main').textContent()).toContain(HOSTILE)
    found.push(...(await inspect(page, 'hostile-sign-out')))
    await page.goto(`${server.origin}/authorize?client_id=${encodeURIComponent(HOSTILE)}&error_description=<script>`)
    found.push(...(await inspect(page, 'hostile-error')))
    await page.goto(start(client, { workspace: HOSTILE, redirect_uri: `javascript:alert(1)//${HOSTILE}` }))
    expect(await page.locator('img, script').count()).toBe(0)
    expect(found).toEqual([])
  })
})

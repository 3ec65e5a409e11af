// A person in a real browser: signs in, chooses, approves or refuses, and ends up where the client waits.
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import {
  focused,
  hasBrowser,
  keepVisitors,
  type LocalApp,
  launchBrowser,
  signInOn,
  startLocalApp,
  type TestBrowser,
  tabTo,
  type VisitOptions,
  type Visitor,
} from '../support/browser.ts'
import { startServer, type TestServer } from '../support/server.ts'
import {
  API,
  authorizationUrl,
  CALLBACK,
  makeClient,
  makePkce,
  makeWorld,
  PASSWORD,
  redeem,
  type TestClient,
  type World,
} from '../support/world.ts'

const CONNECT = 'Connect to the chosen workspace'
const REFUSE = 'Do not connect'
const BOTH: Array<[string, boolean]> = [
  ['with scripts', true],
  ['without scripts', false],
]

describe.skipIf(!hasBrowser())('in a browser', () => {
  let server: TestServer
  let browser: TestBrowser
  let app: LocalApp
  /** Of the loopback kind: always asked about. */
  let local: TestClient
  let world: World
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser, app] = await Promise.all([startServer(), launchBrowser(), startLocalApp()])
    world = await makeWorld(server)
    local = await makeClient(server, {
      name: 'Tracepad Desktop',
      redirect_uris: [`${app.origin}/callback`],
      auth: 'none',
    })
  })
  afterAll(async () => {
    await browser?.close()
    await Promise.all([app?.close(), server?.close()])
  })
  afterEach(() => {
    app.arrivals.splice(0)
  })

  const visit = (options?: VisitOptions) => begin({ elsewhere: [new URL(CALLBACK).origin], ...options })

  /** Each test has its own person: tries to sign in are counted. */
  async function makePerson(name: string): Promise<{ email: string; id: string }> {
    const email = `${name.toLowerCase()}-${Math.random().toString(36).slice(2, 8)}@example.com`
    const user = await server.run('user create', { email, name, password: PASSWORD })
    return { email, id: user.id ?? '' }
  }

  async function makeMember(name: string, role = 'member'): Promise<{ email: string; id: string }> {
    const person = await makePerson(name)
    await server.run('member add', { user: person.email, workspace: world.workspaceId, role })
    return person
  }

  const start = (client: TestClient, more?: Record<string, string>) =>
    server.origin + authorizationUrl(client, makePkce(), more)

  const heading = ({ page }: Pick<Visitor, 'page'>) => page.getByRole('heading', { level: 1 }).textContent()

  /** The query of the one answer that the client got. */
  function answered(arrivals: Visitor['arrivals']): URLSearchParams {
    const answers = arrivals.filter(({ url }) => url.pathname === '/callback')
    expect(answers).toHaveLength(1)
    return answers[0]?.url.searchParams ?? new URLSearchParams()
  }

  it.each(BOTH)(
    '%s: a person signs in, chooses a workspace and approves, and the app gets a code that works',
    async (_, scripts) => {
      const ada = await makeMember('Ada')
      const visitor = await visit({ scripts })
      const pkce = makePkce()
      await visitor.page.goto(server.origin + authorizationUrl(world.client, pkce))
      await signInOn(visitor.page, ada.email)
      await visitor.page.getByRole('radio', { name: 'platform-ai' }).check()
      await visitor.page.getByRole('button', { name: CONNECT }).click()
      await visitor.page.waitForURL(`${CALLBACK}?**`)
      const query = answered(visitor.arrivals)
      expect([...query.keys()].sort()).toEqual(['code', 'iss', 'state'])
      expect(query.get('iss')).toBe(server.origin)
      expect(query.get('state')).toBe('st4te')
      const tokens = await redeem(server.origin, world.client, query.get('code') ?? '', pkce)
      expect(tokens.status).toBe(200)
    },
  )

  it('a person refuses: the app gets access_denied, and no code', async () => {
    const ada = await makeMember('Ada')
    const visitor = await visit()
    await visitor.page.goto(start(local))
    await signInOn(visitor.page, ada.email)
    await visitor.page.getByRole('button', { name: REFUSE }).click()
    await visitor.page.waitForURL(`${app.origin}/callback?**`)
    const query = answered(app.arrivals)
    expect(query.get('error')).toBe('access_denied')
    expect(query.get('iss')).toBe(server.origin)
    expect(query.get('state')).toBe('st4te')
    expect(query.get('code')).toBeNull()
  })

  it('the keyboard alone is enough to approve, and what has the focus is always visible', async () => {
    const ada = await makePerson('Ada')
    for (const workspace of [world.workspaceId, world.otherWorkspaceId])
      await server.run('member add', { user: ada.email, workspace, role: 'member' })
    const visitor = await visit({ scripts: false })
    const { page } = visitor
    const { keyboard } = page
    await page.goto(start(local))
    await tabTo(page, { tag: 'input', name: 'email' })
    await keyboard.type(ada.email)
    await tabTo(page, { tag: 'input', name: 'password' })
    await keyboard.type(PASSWORD)
    await keyboard.press('Enter')
    await page.waitForSelector('fieldset')
    await tabTo(page, { tag: 'input', name: 'workspace' })
    await keyboard.press('Space')
    await tabTo(page, { tag: 'button', name: 'answer' })
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe(CONNECT)
    await keyboard.press('Enter')
    await page.waitForURL(`${app.origin}/callback?**`)
    expect(answered(app.arrivals).get('code')).toMatch(/./)
  })

  it.each(BOTH)('%s: the keyboard alone is enough to refuse', async (_, scripts) => {
    const ada = await makeMember('Ada')
    const visitor = await visit({ scripts })
    const { page } = visitor
    await page.goto(start(local))
    await signInOn(visitor.page, ada.email)
    await page.waitForSelector('fieldset')
    await tabTo(page, { tag: 'button', name: 'answer' })
    await tabTo(page, { tag: 'button', name: 'answer' })
    expect(await page.evaluate(() => document.activeElement?.textContent)).toBe(REFUSE)
    await page.keyboard.press('Space')
    await page.waitForURL(`${app.origin}/callback?**`)
    expect(answered(app.arrivals).get('error')).toBe('access_denied')
  })

  it.each(BOTH)('%s: response_mode=form_post brings the code in the body of a POST', async (_, scripts) => {
    const ada = await makeMember('Ada')
    const visitor = await visit({ scripts })
    await visitor.page.goto(start(world.client, { response_mode: 'form_post' }))
    await signInOn(visitor.page, ada.email)
    await visitor.page.getByRole('button', { name: CONNECT }).click()
    if (!scripts) await visitor.page.getByRole('button', { name: 'Continue' }).click()
    await visitor.page.waitForURL(CALLBACK)
    expect(visitor.arrivals).toHaveLength(1)
    expect(visitor.arrivals[0]?.method).toBe('POST')
    expect(visitor.arrivals[0]?.form.get('code')).toMatch(/./)
    expect(visitor.arrivals[0]?.form.get('iss')).toBe(server.origin)
  })

  it('response_mode=form_post brings a refusal as well', async () => {
    const ada = await makeMember('Ada')
    const visitor = await visit()
    await visitor.page.goto(start(local, { response_mode: 'form_post' }))
    await signInOn(visitor.page, ada.email)
    await visitor.page.getByRole('button', { name: REFUSE }).click()
    await visitor.page.waitForURL(`${app.origin}/callback`)
    expect(app.arrivals.find(({ method }) => method === 'POST')?.form.get('error')).toBe('access_denied')
  })

  it.each(BOTH)(
    '%s: "Not you?" asks who it is within the same request, and the other person approves in their own name',
    async (_, scripts) => {
      const [ada, bo] = await Promise.all([makeMember('Ada'), makeMember('Bo')])
      const visitor = await visit({ scripts })
      const { page } = visitor
      const pkce = makePkce()
      await page.goto(server.origin + authorizationUrl(world.client, pkce, { state: 'of-the-first-request' }))
      await signInOn(visitor.page, ada.email)
      await page.getByText(ada.email).waitFor()
      await page.getByRole('button', { name: 'Not you?' }).click()
      expect(await heading(visitor)).toBe('Sign in')
      expect(await page.getByLabel('Work email').inputValue()).toBe('')
      await signInOn(visitor.page, bo.email)
      await page.getByText(bo.email).waitFor()
      expect(await page.getByText(ada.email).count()).toBe(0)
      await page.getByRole('button', { name: CONNECT }).click()
      await page.waitForURL(`${CALLBACK}?**`)
      const query = answered(visitor.arrivals)
      expect(query.get('state')).toBe('of-the-first-request')
      const tokens = await redeem(server.origin, world.client, query.get('code') ?? '', pkce)
      expect(subjectOf(tokens.body.id_token)).toBe(bo.id)
      expect(subjectOf(tokens.body.access_token)).toBe(bo.id)
    },
  )

  it.each(BOTH)(
    '%s: with prompt=login another person may sign in, also one whose standing approval answers at once',
    async (_, scripts) => {
      const [ada, bo] = await Promise.all([makeMember('Ada'), makeMember('Bo')])
      const earlier = await visit({ scripts })
      await earlier.page.goto(start(world.client))
      await signInOn(earlier.page, bo.email)
      await earlier.page.getByRole('button', { name: CONNECT }).click()
      await earlier.page.waitForURL(`${CALLBACK}?**`)

      const visitor = await visit({ scripts })
      const pkce = makePkce()
      await visitor.page.goto(start(local))
      await signInOn(visitor.page, ada.email)
      await visitor.page.getByText(ada.email).waitFor()
      await visitor.page.goto(server.origin + authorizationUrl(world.client, pkce, { prompt: 'login' }))
      await signInOn(visitor.page, bo.email)
      await visitor.page.waitForURL(`${CALLBACK}?**`)
      const tokens = await redeem(server.origin, world.client, answered(visitor.arrivals).get('code') ?? '', pkce)
      expect(subjectOf(tokens.body.access_token)).toBe(bo.id)
    },
  )

  it('a wrong password is said where the focus is, the address stays, and the right one then works', async () => {
    const ada = await makeMember('Ada')
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(local))
    await signInOn(visitor.page, ada.email, 'not the password at all')
    const alert = page.getByRole('alert')
    expect(await alert.textContent()).toBe('The email address or the password is not right. Try again.')
    expect(await page.title()).toBe('Not signed in yet · Latchkey')
    expect(await page.getByLabel('Work email').inputValue()).toBe(ada.email)
    expect(await page.getByLabel('Password').inputValue()).toBe('')
    expect((await focused(page)).name).toBe('password')
    const described = await page.getByLabel('Password').getAttribute('aria-describedby')
    expect(await alert.getAttribute('id')).toBe(described)
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press('Enter')
    await page.getByText(ada.email).waitFor()
  })

  it('the address of a form that was refused, opened again, leads to its page', async () => {
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(local))
    await signInOn(visitor.page, 'nobody@example.com', 'not the password at all')
    await page.getByRole('alert').waitFor()
    await page.goto(page.url())
    expect(await heading(visitor)).toBe('Sign in')
    expect(await page.getByRole('alert').count()).toBe(0)
  })

  it('after too many tries the page says how long to wait', async () => {
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(local))
    const elsewhere = server.userAgent()
    const form = await elsewhere.open(start(local))
    const wrong = { email: 'nobody@example.com', password: 'not the password at all' }
    await Promise.all(Array.from({ length: 10 }, () => elsewhere.submit(form, '/sign-in', wrong)))
    await signInOn(visitor.page, wrong.email, wrong.password)
    expect(await page.getByRole('alert').textContent()).toMatch(/Wait 15 minutes, then try again\./)
    expect(await page.getByLabel('Work email').inputValue()).toBe('nobody@example.com')
  })

  it('nobody leaves the consent page by accident: approving without a choice stays, refusing needs none', async () => {
    const ada = await makePerson('Ada')
    for (const workspace of [world.workspaceId, world.otherWorkspaceId])
      await server.run('member add', { user: ada.email, workspace, role: 'member' })
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(local))
    await signInOn(visitor.page, ada.email)
    expect(await page.getByRole('radio', { checked: true }).count()).toBe(0)
    await page.getByRole('button', { name: CONNECT }).click()
    expect(await heading(visitor)).toBe('Connect Tracepad Desktop?')
    expect(app.arrivals).toEqual([])
    // As an old browser would send it, that does not know `required`.
    await page.$eval('form.stack', (form) => form.setAttribute('novalidate', ''))
    await page.getByRole('button', { name: CONNECT }).click()
    expect(await page.getByRole('alert').textContent()).toBe('Choose a workspace, or do not connect.')
    expect((await focused(page)).name).toBe('workspace')
    await page.getByRole('button', { name: REFUSE }).click()
    await page.waitForURL(`${app.origin}/callback?**`)
  })

  it('prompt=login asks for the password again, and then goes on as the same person', async () => {
    const ada = await makeMember('Ada')
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(world.client))
    await signInOn(visitor.page, ada.email)
    await page.getByRole('button', { name: CONNECT }).click()
    await page.waitForURL(`${CALLBACK}?**`)
    await page.goto(start(world.client)) // the approval stands
    expect(new URL(page.url()).origin).toBe(new URL(CALLBACK).origin)
    await page.goto(start(world.client, { prompt: 'login' }))
    expect(await heading(visitor)).toBe('Sign in')
    await signInOn(visitor.page, ada.email)
    await page.waitForURL(`${CALLBACK}?**`)
    expect(visitor.arrivals).toHaveLength(3)
  })

  it('going back after an approval leads to a page that says it is over, and to no second code', async () => {
    const ada = await makeMember('Ada')
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(local))
    await signInOn(visitor.page, ada.email)
    await page.getByRole('button', { name: CONNECT }).click()
    await page.waitForURL(`${app.origin}/callback?**`)
    await page.goBack()
    expect(await heading(visitor)).toBe('This page is no longer open')
    answered(app.arrivals)
  })

  it('an interaction opens in the browser that began it, and in no other', async () => {
    const ada = await makeMember('Ada')
    const [visitor, stranger] = await Promise.all([visit(), visit()])
    await visitor.page.goto(start(local))
    await signInOn(visitor.page, ada.email)
    await visitor.page.getByText(ada.email).waitFor()
    const response = await stranger.page.goto(visitor.page.url())
    expect(response?.status()).toBe(400)
    expect(await heading(stranger)).toBe('This page is no longer open')
    expect(await stranger.page.getByText(ada.email).count()).toBe(0)
    // Also not in one that has an interaction of its own.
    await stranger.page.goto(start(local))
    await stranger.page.goto(visitor.page.url())
    expect(await heading(stranger)).toBe('This page is no longer open')
  })

  it('two tabs of one browser go through two requests, in whatever order', async () => {
    const ada = await makeMember('Ada')
    const visitor = await visit()
    const first = visitor.page
    const second = await visitor.tab()
    await first.goto(start(local, { state: 'first' }))
    await second.goto(start(local, { state: 'second' }))
    await signInOn(second, ada.email)
    await second.getByText(ada.email).waitFor()
    await signInOn(first, ada.email)
    await first.getByText(ada.email).waitFor()
    await first.getByRole('button', { name: CONNECT }).click()
    await first.waitForURL(`${app.origin}/callback?**`)
    await second.getByRole('button', { name: CONNECT }).click()
    await second.waitForURL(`${app.origin}/callback?**`)
    const states = app.arrivals.filter(({ url }) => url.searchParams.has('code'))
    expect(states.map(({ url }) => url.searchParams.get('state'))).toEqual(['first', 'second'])
  })

  it('a person who switched in one tab approves nothing as the other in the second tab', async () => {
    const [ada, bo] = await Promise.all([makeMember('Ada'), makeMember('Bo')])
    const visitor = await visit()
    await visitor.page.goto(start(local))
    await signInOn(visitor.page, ada.email)
    await visitor.page.getByText(ada.email).waitFor()
    const second = await visitor.tab()
    await second.goto(start(local))
    await second.getByRole('button', { name: 'Not you?' }).click()
    await signInOn(second, bo.email)
    await second.getByText(bo.email).waitFor()
    await visitor.page.getByRole('button', { name: CONNECT }).click()
    expect(await heading(visitor)).toBe('This page is no longer open')
    expect(app.arrivals).toEqual([])
  })

  it('a viewer sees the workspace, why it cannot be chosen, and one way out', async () => {
    const vic = await makeMember('Vic', 'viewer')
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(local))
    await signInOn(visitor.page, vic.email)
    expect(await page.getByRole('radio', { name: 'platform-ai' }).isDisabled()).toBe(true)
    expect(await page.locator('.choice').textContent()).toContain('Viewers cannot connect apps.')
    expect(await page.getByRole('button', { name: CONNECT }).count()).toBe(0)
    await page.getByRole('button', { name: REFUSE }).click()
    await page.waitForURL(`${app.origin}/callback?**`)
    expect(answered(app.arrivals).get('error')).toBe('access_denied')
  })

  it('a person without any workspace is told whom to ask', async () => {
    const newcomer = await makePerson('New')
    const visitor = await visit()
    await visitor.page.goto(start(local))
    await signInOn(visitor.page, newcomer.email)
    await visitor.page.getByRole('heading', { name: 'You have no workspace to connect it to' }).waitFor()
    expect(await visitor.page.locator('main').textContent()).toContain('Ask an admin of yours for an invitation')
    expect(await visitor.page.getByRole('button', { name: CONNECT }).count()).toBe(0)
  })

  it('names the organization of each workspace to a person who belongs to two', async () => {
    const ada = await makeMember('Ada')
    const globex = await server.run('organization create', { name: 'Globex', owner: ada.email })
    await server.run('workspace create', { organization: globex.id, name: 'platform-ai', owner: ada.email })
    const visitor = await visit()
    await visitor.page.goto(start(local))
    await signInOn(visitor.page, ada.email)
    const choices = await visitor.page.locator('.choice').allInnerTexts()
    expect(choices.filter((text) => text.includes('Globex') || text.includes('Acme'))).toHaveLength(2)
    await visitor.page.getByRole('radio', { name: 'Globex' }).check()
    await visitor.page.getByRole('button', { name: CONNECT }).click()
    await visitor.page.waitForURL(`${app.origin}/callback?**`)
  })

  it('what the client asks for is there in the words of the API', async () => {
    const ada = await makeMember('Ada', 'admin')
    const visitor = await visit()
    await visitor.page.goto(
      start(local, {
        scope: 'openid profile email traces:read traces:admin',
        resource: API,
        workspace: world.workspaceId,
      }),
    )
    await signInOn(visitor.page, ada.email)
    const abilities = await visitor.page.locator('.can li').allInnerTexts()
    expect(abilities.map((text) => text.split('\n')[0])).toEqual([
      'See traces',
      'Delete traces',
      'Know that it is you',
      'See your name',
      'See your email address',
      'Stay connected while you are away',
    ])
    expect(await visitor.page.getByRole('radio', { name: 'platform-ai' }).isChecked()).toBe(true)
  })

  it('promises nothing that the role of the person does not allow', async () => {
    const scope = { scope: 'openid traces:read traces:admin' }
    const ada = await makeMember('Ada')
    const visitor = await visit()
    const { page } = visitor
    await page.goto(start(local, scope))
    await signInOn(visitor.page, ada.email)
    const line = 'You are a member here. Without “Delete traces”, which takes an admin to allow.'
    expect(await page.locator('.choice small').textContent()).toBe(line)
    expect(await page.locator('.can').textContent()).not.toContain('Delete traces')
    await server.run('member add', { user: ada.email, workspace: world.otherWorkspaceId, role: 'admin' })
    await page.goto(start(local, scope))
    expect(await page.locator('.can').textContent()).toMatch(/Delete traces\s*Only where you are an admin\./)
  })

  describe('signing out', () => {
    const AFTER = 'https://app.example.com/bye'
    let client: TestClient

    beforeAll(async () => {
      client = await makeClient(server, { redirect_uris: [CALLBACK], post_logout_redirect_uris: [AFTER] })
    })

    /** Connected, and so signed in. */
    async function connected(options?: VisitOptions): Promise<Visitor & { idToken: string; email: string }> {
      const ada = await makeMember('Ada')
      const visitor = await visit(options)
      const pkce = makePkce()
      await visitor.page.goto(server.origin + authorizationUrl(client, pkce))
      await signInOn(visitor.page, ada.email)
      await visitor.page.getByRole('button', { name: CONNECT }).click()
      await visitor.page.waitForURL(`${CALLBACK}?**`)
      const tokens = await redeem(server.origin, client, answered(visitor.arrivals).get('code') ?? '', pkce)
      visitor.arrivals.splice(0)
      return { ...visitor, idToken: tokens.body.id_token ?? '', email: ada.email }
    }

    const logout = (query: Record<string, string>) => `${server.origin}/logout?${new URLSearchParams(query)}`
    const isAskedToSignIn = async (visitor: Visitor) => {
      await visitor.page.goto(start(client))
      return new URL(visitor.page.url()).origin === server.origin && (await heading(visitor)) === 'Sign in'
    }

    it('at the app’s wish, and goes back to it', async () => {
      const visitor = await connected({ scripts: false })
      const { idToken } = visitor
      await visitor.page.goto(logout({ id_token_hint: idToken, post_logout_redirect_uri: AFTER, state: 'bye' }))
      expect(await heading(visitor)).toBe('Sign out?')
      expect(await visitor.page.locator('main').textContent()).toContain('Tracepad asks to sign you out')
      await visitor.page.getByRole('button', { name: 'Sign out' }).click()
      await visitor.page.waitForURL(`${AFTER}?state=bye`)
      expect(await isAskedToSignIn(visitor)).toBe(true)
    })

    it('staying signed in goes back to the app as well, and the session stays', async () => {
      const visitor = await connected()
      await visitor.page.goto(logout({ id_token_hint: visitor.idToken, post_logout_redirect_uri: AFTER }))
      await visitor.page.getByRole('button', { name: 'Stay signed in' }).click()
      await visitor.page.waitForURL(AFTER)
      expect(await isAskedToSignIn(visitor)).toBe(false)
    })

    it('staying signed in where there is no way back says so, and not that the session has ended', async () => {
      const visitor = await connected()
      await visitor.page.goto(logout({}))
      await visitor.page.getByRole('button', { name: 'Stay signed in' }).click()
      expect(await heading(visitor)).toBe('You are still signed in')
      await visitor.page.goto(logout({ id_token_hint: visitor.idToken }))
      await visitor.page.getByRole('button', { name: 'Stay signed in' }).click()
      expect(await heading(visitor)).toBe('You are still signed in')
      expect(await isAskedToSignIn(visitor)).toBe(false)
    })

    it('without a hint it asks as well, says that it is over, and leads nowhere', async () => {
      const visitor = await connected()
      await visitor.page.goto(logout({ post_logout_redirect_uri: AFTER }))
      await visitor.page.getByRole('button', { name: 'Sign out' }).click()
      expect(await heading(visitor)).toBe('You are signed out')
      expect(visitor.arrivals).toEqual([])
      expect(await isAskedToSignIn(visitor)).toBe(true)
    })

    it('who is signed out already goes back to the app at once', async () => {
      const { idToken } = await connected()
      const visitor = await visit({ scripts: false })
      await visitor.page.goto(logout({ id_token_hint: idToken, post_logout_redirect_uri: AFTER, state: 'bye' }))
      await visitor.page.waitForURL(`${AFTER}?state=bye`)
    })

    it('an address that is not registered is refused on a page, before anything ends', async () => {
      const visitor = await connected()
      const response = await visitor.page.goto(
        logout({ id_token_hint: visitor.idToken, post_logout_redirect_uri: `${AFTER}?more=1` }),
      )
      expect(response?.status()).toBe(400)
      expect(await isAskedToSignIn(visitor)).toBe(false)
    })

    it('going back afterwards shows nothing of the person', async () => {
      const visitor = await connected()
      const { page } = visitor
      await page.goto(start(local))
      await page.getByText(visitor.email).waitFor()
      await page.goto(logout({}))
      await page.getByRole('button', { name: 'Sign out' }).click()
      await page.getByRole('heading', { name: 'You are signed out' }).waitFor()
      await page.goBack()
      await page.goBack()
      expect(await page.getByText(visitor.email).count()).toBe(0)
    })
  })
})

/** Read, not verified: who made it is tested elsewhere. */
function subjectOf(jwt: string | undefined): unknown {
  const [, payload = ''] = jwt?.split('.') ?? []
  return JSON.parse(Buffer.from(payload, 'base64url').toString('utf8')).sub
}

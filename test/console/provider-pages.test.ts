// Provider connections on pages: who sees and changes them, what is said of each state, and that a key is on no page.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { newToken } from '../../src/crypto/token-value.ts'
import type { WorkspaceId } from '../../src/ids.ts'
import { listProviders } from '../../src/providers/service.ts'
import { ageSession } from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { json, MODELS, startUpstream, type Upstream } from '../support/upstream.ts'
import type { Page, UserAgent } from '../support/user-agent.ts'
import { makeWorld, PASSWORD, type World } from '../support/world.ts'

const HTML = { headers: { accept: 'text/html' } }
const KEY = 'sk-ant-canary-0123456789abcdefghijklmnopqrstuvwxyz'

let server: TestServer
let upstream: Upstream
let world: World
let owner: UserAgent
beforeAll(async () => {
  upstream = await startUpstream()
  server = await startServer({ environment: { LATCHKEY_OUTBOUND_PRIVATE: 'loopback' } })
})
afterAll(async () => {
  await server?.close()
  await upstream?.close()
})
beforeEach(async () => {
  upstream.answer(json(200, MODELS))
  upstream.asked.length = 0
  world = await makeWorld(server)
  owner = await signedIn(world.email)
})

async function signedIn(email: string): Promise<UserAgent> {
  const agent = server.userAgent()
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
  return agent
}

async function person(role: string | undefined): Promise<UserAgent> {
  const email = `p-${randomBytes(6).toString('hex')}@example.com`
  await server.run('user create', { email, name: 'Person', password: PASSWORD })
  if (role !== undefined) await server.run('member add', { user: email, workspace: world.workspaceId, role })
  return signedIn(email)
}

const at = (rest = '') => `/workspaces/${world.workspaceId}/providers${rest}`
const open = (agent: UserAgent, path: string): Promise<Page> => agent.open(path, HTML)
/** What is read, without what is around it. */
const textOf = ({ html }: Page) =>
  (/<main.*<\/main>/s.exec(html)?.[0] ?? '').replaceAll(/<[^>]*>/g, ' ').replaceAll(/\s+/g, ' ')
const problemAt = (page: Page, id: string) => new RegExp(`id="${id}-error">(.*?)</p>`, 's').exec(page.html)?.[1]
const found = () => listProviders(server.db, world.workspaceId as WorkspaceId)
const form = (more: object = {}) => ({ provider_type: 'anthropic', api_token: KEY, base_url: upstream.url, ...more })

async function connect(more: object = {}, agent = owner): Promise<Page> {
  return agent.submit(await open(agent, at('/new')), '/providers/new', form(more))
}

async function connected(more: object = {}) {
  const page = await connect(more)
  expect([page.status, page.url.pathname], textOf(page)).toEqual([200, at()])
  return checked()
}

/** The connection, once the check that follows its making has ended. */
async function checked() {
  for (let tries = 0; tries < 400; tries++) {
    const [made] = await found()
    if (made !== undefined && made.checkedAt !== null) return made
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  throw new Error('nobody checked it')
}

const check = async (id: string) => owner.submit(await open(owner, at()), `/${id}/check`, {})

/** Sends fields to an address with the token of the sender's own pages, whatever forms they are shown. */
async function post(agent: UserAgent, path: string, fields: Record<string, string>): Promise<Page> {
  const page = await open(agent, '/account')
  const csrf = /name="csrf" value="([^"]+)"/.exec(page.html)?.[1] ?? ''
  return agent.open(path, {
    method: 'POST',
    body: new URLSearchParams({ csrf, ...fields }),
    headers: { accept: 'text/html', origin: server.origin, 'sec-fetch-site': 'same-origin' },
  })
}

describe('who sees and changes provider connections', () => {
  it.each([
    ['a neighbour', 404, 404],
    ['viewer', 403, 403],
    ['member', 200, 403],
    ['admin', 200, 200],
  ])('%s: reads %i, changes %i', async (role, reads, changes) => {
    const { id } = await connected()
    const agent = role === 'a neighbour' ? await signedIn((await makeWorld(server)).email) : await person(role)
    expect((await open(agent, at())).status).toBe(reads)
    for (const path of [at('/new'), at(`/${id}/replace`), at(`/${id}/delete`)])
      expect([path, (await open(agent, path)).status]).toEqual([path, changes])
    if (changes === 200) return
    for (const path of [at('/new'), at(`/${id}/replace`), at(`/${id}/check`), at(`/${id}/delete`)])
      expect([path, (await post(agent, path, form({ provider_type: 'openai' }))).status]).toEqual([path, changes])
    expect(await found()).toMatchObject([{ id, version: 1, providerType: 'anthropic' }])
  })

  it('nobody is led to sign in', async () => {
    for (const path of [at(), at('/new')])
      expect((await server.userAgent().request(path)).headers.get('location'), path).toMatch(/^\/sign-in\?/)
  })

  it('a member is shown how it stands, and no form', async () => {
    await connected()
    const page = await open(await person('member'), at())
    expect(textOf(page)).toContain('Verified')
    expect(page.html).not.toMatch(/\/check"|\/replace"|\/delete"|providers\/new"/)
    expect(textOf(page)).toContain('Admins of the workspace connect providers')
  })

  it('a form from elsewhere changes nothing', async () => {
    const { id } = await connected()
    for (const path of [at('/new'), at(`/${id}/replace`), at(`/${id}/check`), at(`/${id}/delete`)]) {
      const forged = await owner.open(path, {
        method: 'POST',
        body: new URLSearchParams({ ...form({ provider_type: 'openai' }), csrf: 'x'.repeat(43) }),
        headers: { ...HTML.headers, origin: server.origin, 'sec-fetch-site': 'same-origin' },
      })
      expect([path, forged.status]).toEqual([path, 403])
      const foreign = await owner.open(path, {
        method: 'POST',
        body: new URLSearchParams(form()),
        headers: { ...HTML.headers, origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' },
      })
      expect([path, foreign.status]).toEqual([path, 403])
    }
    expect(await found()).toMatchObject([{ id, version: 1 }])
  })

  it('a connection of another workspace is none here', async () => {
    const { id } = await connected()
    const other = `/workspaces/${world.otherWorkspaceId}/providers/${id}`
    for (const path of [`${other}/replace`, `${other}/delete`]) expect((await open(owner, path)).status).toBe(404)
    for (const path of [`${other}/replace`, `${other}/delete`, `${other}/check`])
      expect((await post(owner, path, form())).status).toBe(404)
    expect((await open(owner, at('/prv_%00/replace'))).status).toBe(404)
    expect(await found()).toHaveLength(1)
  })

  it('a sign-in from a while ago is asked for again before a key is typed, and by the form; a deletion is never held up', async () => {
    const { id } = await connected()
    const page = await open(owner, at('/new'))
    const cookie = owner
      .cookies()
      .map(({ name, value }) => `${name}=${value}`)
      .join('; ')
    await ageSession(server, { userId: '', email: '', csrf: '', headers: {}, cookie }, 700)
    for (const path of [at('/new'), at(`/${id}/replace`)]) {
      const led = await open(owner, path)
      expect([led.url.pathname, led.url.searchParams.get('return_to')]).toEqual(['/sign-in', path])
    }
    const sent = await owner.submit(page, '/providers/new', form({ provider_type: 'openai' }))
    expect([sent.url.pathname, sent.url.searchParams.get('again')]).toEqual(['/sign-in', 'yes'])
    expect(sent.html).not.toContain('canary')
    expect(await found()).toHaveLength(1)
    expect((await open(owner, at(`/${id}/delete`))).status).toBe(200)
  })
})

describe('connecting a provider', () => {
  it('waits, then says when it was verified; the address is shown where it is not the provider’s own', async () => {
    const held = Promise.withResolvers<void>()
    upstream.answer(async (asked, response) => {
      await held.promise
      await json(200, MODELS)(asked, response)
    })
    const page = await connect()
    expect(textOf(page)).toContain('Waiting to be verified.')
    expect(textOf(page)).toContain('Last check Not yet')
    held.resolve()
    await checked()
    const later = await open(owner, at())
    expect(textOf(later)).toMatch(/Verified \d+ \w+ 20\d\d, \d\d:\d\d UTC/)
    expect(later.html).toContain(`<code><bdi>${upstream.url}</bdi></code>`)
    expect(later.html).toContain(`${server.origin}/api/v1/proxy/anthropic`)
  })

  it('the field of the key is hidden, is nothing that a browser keeps, and comes back empty', async () => {
    const page = await connect({ base_url: 'https://u:p@gateway.example.com' })
    expect(page.status).toBe(400)
    const [input = ''] = /<input[^>]*name="api_token"[^>]*>/.exec(page.html) ?? []
    expect(input).toContain('type="password"')
    expect(input).toContain('autocomplete="one-time-code"')
    expect(input).not.toContain('value=')
    expect(page.headers.get('cache-control')).toBe('no-store')
    expect(page.html).not.toContain('canary')
  })

  it.each([
    ['a key with a space', { api_token: 'sk ant canary' }, 'api_token-error', 'without spaces in it'],
    ['no key', { api_token: '' }, 'api_token-error', '8 to 1,024 characters'],
    ['a key too long', { api_token: 'k'.repeat(1_025) }, 'api_token-error', '8 to 1,024 characters'],
    ['an address inside', { base_url: 'https://10.1.2.3/canary' }, 'base_url-error', 'The address '],
    ['an address that is none', { base_url: 'canary' }, 'base_url-error', 'The address must be an address'],
    ['an address with a password', { base_url: 'https://a:canary@b.example' }, 'base_url-error', 'without user name'],
    ['an address too long', { base_url: `https://a.example/${'a'.repeat(500)}` }, 'base_url-error', '500 characters'],
    ['a provider that is none', { provider_type: 'other' }, 'type-error', 'Choose a provider.'],
  ])('%s is said at its field, and nothing is stored', async (_, more, id, sentence) => {
    const page = await connect(more)
    expect(page.status).toBe(400)
    expect(new RegExp(`<p class="error" id="${id}">(.*?)</p>`, 's').exec(page.html)?.[1]).toContain(sentence)
    expect(page.html).not.toContain(KEY)
    expect(page.html).toContain('<title>Not connected yet: ')
    expect(await found()).toEqual([])
  })

  it('a credential of this server is not taken for a key', async () => {
    const token = newToken('workspace').value.reveal()
    const page = await connect({ api_token: token })
    expect(page.status).toBe(400)
    expect(problemAt(page, 'api_token')).toBe('This is a credential of this server. Paste the provider’s own key.')
    expect(page.html).not.toContain(token)
    expect(await found()).toEqual([])
  })

  it('a second one of a type is refused at the choice, and is not offered', async () => {
    await connected()
    const page = await open(owner, at('/new'))
    expect(page.html).toMatch(/value="anthropic" required disabled/)
    const again = await owner.submit(page, '/providers/new', form())
    expect(again.status).toBe(409)
    expect(/id="type-error">(.*?)<\/p>/s.exec(again.html)?.[1]).toContain('has a connection to Anthropic already')
    expect(again.html).not.toContain('canary')
    await connect({ provider_type: 'openai' })
    expect(textOf(await open(owner, at('/new')))).toContain('Every provider there is has a connection')
    expect((await open(owner, at())).html).not.toContain('providers/new"')
  })

  it('spaces around a pasted key are not part of it', async () => {
    await connected({ api_token: `  ${KEY}\n` })
    expect(upstream.asked.at(-1)?.headers['x-api-key']).toBe(KEY)
  })
})

describe('how a connection stands', () => {
  it.each([
    ['refuses the key', 401, {}, 'Failed', 'does not take this key. Calls through it are refused. Replace it'],
    ['sends elsewhere', 302, {}, 'Failed', 'a key is not sent after a redirect'],
    ['is something else', 200, { fine: 'canary' }, 'Failed', 'not as this provider does'],
    [
      'is busy',
      503,
      {},
      'Verified before',
      'was busy. The key was good before, and calls go on. It is not checked again',
    ],
    ['lists no models for it', 403, {}, 'Verified before', 'does not let this key make the call that tells'],
    ['answers at length', 200, { data: 'x'.repeat(70_000) }, 'Verified before', 'a longer answer than a check reads'],
  ])('where its address %s', async (_, status, body, state, sentence) => {
    const { id } = await connected()
    upstream.answer(json(status, body, status === 302 ? { location: 'https://canary.example' } : {}))
    const page = await check(id)
    expect([page.status, page.url.searchParams.get('done')]).toEqual([200, 'checked'])
    expect(textOf(page)).toContain(state)
    expect(textOf(page)).toContain(sentence)
    expect(page.html).not.toContain('canary')
    const seen = textOf(await open(await person('member'), at()))
    expect(seen).toContain('An admin of the workspace can put it right.')
  })

  it('that had failed before a check that told nothing, it still refuses calls, and says so', async () => {
    const { id } = await connected()
    upstream.answer(json(401, {}))
    await check(id)
    upstream.answer(json(503, {}))
    const page = await check(id)
    expect(textOf(page)).toContain('Failed before. The last check told nothing,')
    expect(textOf(page)).toContain(
      'was busy. A check before it failed, and calls through it are refused. Replace its key',
    )
    expect((await found())[0]).toMatchObject({ status: 'failed', statusReason: 'busy' })
  })

  it('before it was ever verified, a check that tells nothing leaves it waiting', async () => {
    upstream.answer(json(429, {}))
    const { id } = await connected()
    const page = await check(id)
    expect(textOf(page)).toContain('Waiting to be verified. The last check told nothing,')
    expect(textOf(page)).toContain('was busy. It is not checked again by itself: check it in a few minutes, or call')
  })

  it('more than twenty checks in a minute are not made, new keys among them, and that is said', async () => {
    const { id } = await connected()
    const page = await open(owner, at())
    const replacement = await open(owner, at(`/${id}/replace`))
    for (let count = 1; count < 20; count++) expect((await owner.submit(page, `/${id}/check`, {})).status).toBe(200)
    const asked = upstream.asked.length
    const refused = await owner.submit(page, `/${id}/check`, {})
    expect(refused.status).toBe(429)
    expect(textOf(refused)).toContain('checked twenty times within a minute')
    const key = `${KEY}-next`
    const unreplaced = await owner.submit(replacement, '/replace', { api_token: key, base_url: upstream.url })
    expect(unreplaced.status).toBe(429)
    expect(unreplaced.html).toContain('Wait a little')
    expect(unreplaced.html).not.toContain('canary')
    expect(await found()).toMatchObject([{ version: 1 }])
    expect(upstream.asked).toHaveLength(asked)
  })

  it('stands on the Access page beside the other ways, with the way to Providers', async () => {
    const access = `/workspaces/${world.workspaceId}/access`
    expect(textOf(await open(owner, access))).toContain('No provider is connected.')
    await connected()
    const page = await open(await person('member'), access)
    expect(page.html).toContain(`href="${at()}#anthropic"`)
    expect(textOf(page)).toContain('Verified')
    expect((await open(owner, `${access}?text=tracepad`)).html).not.toContain('id="providers"')
    expect((await open(owner, `/organizations/${world.organizationId}/keys`)).html).not.toContain('id="providers"')
  })
})

describe('replacing and deleting', () => {
  it('a key is replaced with its address, and is verified anew', async () => {
    const { id } = await connected()
    const page = await open(owner, at(`/${id}/replace`))
    expect(page.html).toContain(`value="${upstream.url}"`)
    expect(page.html).not.toContain('canary')
    const next = `${KEY}-next`
    const bad = await owner.submit(page, '/replace', { api_token: next, base_url: 'https://169.254.169.254' })
    expect(bad.status).toBe(400)
    expect(bad.html).toContain('value="https://169.254.169.254"')
    expect(bad.html).not.toContain(next)
    expect(await found()).toMatchObject([{ version: 1 }])
    const done = await owner.submit(page, '/replace', { api_token: next, base_url: upstream.url })
    expect([done.url.pathname, done.url.searchParams.get('done')]).toEqual([at(), 'replaced'])
    expect(await found()).toMatchObject([{ id, version: 2 }])
    await checked()
    expect(upstream.asked.at(-1)?.headers['x-api-key']).toBe(next)
  })

  it('a deletion says what ends, what is erased and what stays, and then does it', async () => {
    const { id } = await connected()
    const page = await open(owner, at(`/${id}/delete`))
    const text = textOf(page)
    for (const sentence of [
      '/api/v1/proxy/anthropic',
      'It still works at Anthropic until it is revoked there',
      'Stays',
    ])
      expect(text).toContain(sentence)
    const done = await owner.submit(page, '/delete', {})
    expect([done.url.pathname, done.url.searchParams.get('done')]).toEqual([at(), 'deleted'])
    expect(await found()).toEqual([])
    expect((await open(owner, at(`/${id}/delete`))).status).toBe(404)
    expect((await owner.submit(page, '/delete', {})).status).toBe(404)
  })

  it('none of it writes the key to a page, a record or a line', async () => {
    const { id } = await connected()
    upstream.answer(json(401, { error: KEY }))
    const pages = [await check(id), await open(owner, at(`/${id}/replace`)), await open(owner, at(`/${id}/delete`))]
    for (const page of pages) expect(page.html).not.toContain('canary')
    const records = await server.db.selectFrom('audit_events').selectAll().execute()
    expect(JSON.stringify(records)).not.toContain('canary')
    expect(server.logLines.join('\n')).not.toContain('canary')
  })
})

// The pages of tokens, over HTTP as a browser without scripts uses them.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import type { WorkspaceId } from '../../src/ids.ts'
import { transact } from '../../src/store/database.ts'
import { putPolicy } from '../../src/workspace-tokens/store.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { formOf, type Page, type UserAgent } from '../support/user-agent.ts'
import { connect, makeWorld, PASSWORD, type World } from '../support/world.ts'

let server: TestServer
let world: World
/** Ada, owner of everything in `world`. */
let ada: UserAgent

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  ada = await signedIn(world.email)
})
afterAll(() => server?.close())

async function signedIn(email: string): Promise<UserAgent> {
  const agent = server.userAgent()
  const page = await agent.submit(await agent.open('/sign-in'), '', { email, password: PASSWORD })
  expect(page.url.pathname).not.toBe('/sign-in')
  return agent
}

async function memberWith(role: string): Promise<UserAgent> {
  const email = `p-${randomBytes(6).toString('hex')}@example.com`
  await server.run('user create', { email, name: 'Person', password: PASSWORD })
  await server.run('member add', { user: email, workspace: world.workspaceId, role })
  return signedIn(email)
}

const access = () => `/workspaces/${world.workspaceId}/access`
const tokens = (rest = '') => `/workspaces/${world.workspaceId}/tokens${rest}`
const keys = (rest = '') => `/organizations/${world.organizationId}/keys${rest}`

const headingOf = (page: Page) => (/<h1>([\s\S]*?)<\/h1>/.exec(page.html)?.[1] ?? '').replace(/<[^>]*>/g, '')
const VALUE = /t(?:id_ws|d_live)_[0-9A-Za-z]{46}/
const shownIn = (page: Page) => VALUE.exec(page.html)?.[0] ?? ''
const idOf = (page: Page) => /key_[0-9a-z]{26}/.exec(page.html)?.[0] ?? ''
let labels = 0
const newLabel = () => `runner ${++labels}`

const GOOD = { environment: 'production', permissions: 'read', expiry: '90d', addresses: '', prefix: 'LATCHKEY' }

/** As the form, with as many permissions as are given. */
function post(agent: UserAgent, page: Page, action: string, more: Record<string, string | string[]>): Promise<Page> {
  const form = formOf(page, action)
  const body = new URLSearchParams(form.hidden)
  for (const [name, value] of Object.entries(more)) for (const one of [value].flat()) body.append(name, one)
  return agent.open(new URL(form.action, page.url), {
    method: 'POST',
    body,
    headers: { origin: server.origin, 'sec-fetch-site': 'same-origin', accept: 'text/html' },
  })
}

async function create(more: Record<string, string | string[]> = {}, agent = ada): Promise<Page & { id: string }> {
  const page = await post(agent, await agent.open(tokens('/new')), '/new', { ...GOOD, label: newLabel(), ...more })
  return { ...page, id: idOf(page) }
}

const use = (value: string) =>
  fetch(`${server.origin}/api/v1/workspaces/${world.workspaceId}`, { headers: { authorization: `Bearer ${value}` } })

/** Uses are written in batches; the test does not wait for the next one. */
const used = (id: string, version: number, agent: string, minutesAgo = 1) =>
  server.db
    .insertInto('token_uses')
    .values({
      token_id: id as `key_${string}`, // read from a page
      version,
      hour: new Date(Math.floor((Date.now() - minutesAgo * 60_000) / 3_600_000) * 3_600_000),
      refused: false,
      address: '192.0.2.31',
      agent,
      uses: 3,
      last_at: new Date(Date.now() - minutesAgo * 60_000),
    })
    .execute()

const countTokens = async (label: string) =>
  (await server.db.selectFrom('token_lines').select('id').where('label', '=', label).execute()).length

describe('creating a token', () => {
  it('shows the value once: with its .env lines, kept nowhere, and on no later page', async () => {
    const label = newLabel()
    const page = await create({ label, permissions: ['ingest', 'read'], prefix: 'ACME_AI' })
    expect(page.status).toBe(200)
    const value = shownIn(page)
    expect(value).not.toBe('')
    expect(page.headers.get('cache-control')).toBe('no-store')
    expect(page.html).toContain(
      [
        `ACME_AI_BASE_URL=${server.origin}/api/v1`,
        `ACME_AI_WORKSPACE_ID=${world.workspaceId}`,
        `ACME_AI_TOKEN=${value}`,
        'ACME_AI_TOKEN_VERSION=v1',
        'ACME_AI_REQUEST_TIMEOUT_SEC=45',
      ].join('\n'),
    )
    expect(page.html.match(/<form /g)).toHaveLength(1) // signing out
    expect((await use(value)).status).toBe(200)
    const secretPart = value.slice(14)
    for (const path of [access(), tokens(`/${page.id}`), tokens(`/${page.id}/rotate`), tokens(`/${page.id}/revoke`)]) {
      const later = await ada.open(path)
      expect([path, later.status]).toEqual([path, 200])
      expect(later.html).toContain(label)
      expect(later.html).not.toContain(secretPart)
    }
    expect(server.logLines.join('')).not.toContain(secretPart)
  })

  it('makes one token of a form that is sent twice, and says so without the value', async () => {
    const label = newLabel()
    const form = await ada.open(tokens('/new'))
    const first = await post(ada, form, '/new', { ...GOOD, label })
    const second = await post(ada, form, '/new', { ...GOOD, label })
    expect(shownIn(first)).not.toBe('')
    expect(headingOf(second)).toBe('This value was shown already')
    expect(shownIn(second)).toBe('')
    expect(second.html).toContain(tokens(`/${idOf(first)}/rotate`))
    expect(await countTokens(label)).toBe(1)
    const other = await post(ada, form, '/new', { ...GOOD, label: newLabel() })
    expect(other.status).toBe(422)
    expect(other.html).toContain('This form was sent before')
  })

  it('makes one token when both sendings come at once', async () => {
    const label = newLabel()
    const form = await ada.open(tokens('/new'))
    const pages = await Promise.all([1, 2, 3].map(() => post(ada, form, '/new', { ...GOOD, label })))
    expect(pages.map(({ status }) => status)).toEqual([200, 200, 200])
    expect(pages.filter((page) => shownIn(page) !== '')).toHaveLength(1)
    expect(await countTokens(label)).toBe(1)
  })

  it('keeps what was typed beside what is wrong with it', async () => {
    const page = await create({
      label: '  ',
      permissions: [],
      addresses: '192.0.2.0/24 nowhere',
      prefix: 'lower-case',
      expiry: 'forever',
    })
    expect(page.status).toBe(400)
    for (const name of ['label', 'permissions', 'addresses', 'prefix', 'expiry']) {
      expect(page.html, name).toContain(`id="${name}-error"`)
      expect(page.html, name).toMatch(new RegExp(`aria-describedby="${name}-error`))
    }
    expect(page.html).toContain('“nowhere” is not an address')
    expect(page.html).toContain('value="192.0.2.0/24 nowhere"')
    expect(page.html).toContain('value="lower-case"')
    expect(shownIn(page)).toBe('')
  })

  it('says where a label is in use, and leads to that token', async () => {
    const { id, html } = await create({ label: 'taken' })
    expect(html).toContain('taken')
    const again = await create({ label: 'taken' })
    expect(again.status).toBe(409)
    expect(again.html).toContain('Another token has this label already')
    expect(again.html).toContain(`href="${tokens(`/${id}`)}"`)
    expect((await create({ label: 'taken', environment: 'staging' })).status).toBe(200)
  })

  it('offers each API’s scopes in its own words, and refuses one where the API does not serve the environment', async () => {
    const page = await ada.open(tokens('/new'))
    expect(page.html).toContain('Manage the workspace, its tokens and its members')
    expect(page.html).toMatch(/Delete traces[\s\S]{0,120}https:\/\/api\.example\.com[\s\S]{0,40}production only/)
    const refused = await create({ environment: 'staging', permissions: ['traces:read'] })
    expect(refused.status).toBe(400)
    expect(refused.html).toContain('id="permissions-error"')
    expect(refused.html).toMatch(/value="traces:read" checked/)
  })

  it('takes an address list', async () => {
    const page = await create({ addresses: '127.0.0.1, 192.0.2.0/24' })
    expect((await use(shownIn(page))).status).toBe(200)
    expect((await ada.open(tokens(`/${page.id}`))).html).toContain('127.0.0.1/32')
    expect((await use(shownIn(await create({ addresses: '192.0.2.0/24' })))).status).toBe(401)
  })

  it('obeys the workspace’s policy in what it offers and in what it takes', async () => {
    const other = `/workspaces/${world.otherWorkspaceId}/tokens/new`
    const put = (policy: { tokensForbidden?: boolean }) =>
      transact(server.db, (trx) =>
        putPolicy(trx, world.otherWorkspaceId as WorkspaceId, {
          tokensForbidden: false,
          expiryRequired: true,
          maxAgeDays: 30,
          environments: ['staging'],
          ...policy,
        }),
      )
    await put({})
    const page = await ada.open(other)
    const offered = [...page.html.matchAll(/name="expiry" value="([^"]*)"/g)].map(([, value]) => value)
    expect(offered).toEqual(['1h', '1d', '7d', '30d'])
    expect(page.html).not.toContain('value="production"')
    expect(page.html).not.toContain('traces:read') // of an API that serves production alone
    const refused = await post(ada, page, '/new', { ...GOOD, label: 'x', expiry: '7d' })
    expect(refused.status).toBe(403)
    expect(refused.html).toContain('This workspace allows no tokens for production')
    await put({ tokensForbidden: true })
    const forbidden = await ada.open(other)
    expect(forbidden.html).toContain('This workspace allows no tokens')
    expect(forbidden.html).not.toContain('name="label"')
  })

  it('takes a label as text, whatever is in it', async () => {
    const label = `<img src=x onerror=alert(1)>"'\`${randomBytes(3).toString('hex')}`
    const made = await create({ label })
    expect(made.status).toBe(200)
    for (const path of [access(), tokens(`/${made.id}`), tokens(`/${made.id}/rotate`), tokens(`/${made.id}/revoke`)]) {
      const page = await ada.open(path)
      expect(page.html).toContain('&lt;img src=x onerror=alert(1)&gt;')
      expect(page.html).not.toContain('<img')
    }
    const turned = await create({ label: 'turn\u202Earound' })
    expect([turned.status, turned.html]).toEqual([
      400,
      expect.stringContaining('It must not hold control or invisible characters.'),
    ])
  })
})

describe('who may', () => {
  it('a member sees the list and a token, and no button that makes or ends one', async () => {
    const { id } = await create()
    const member = await memberWith('member')
    for (const path of [access(), tokens(`/${id}`)]) {
      const page = await member.open(path)
      expect([path, page.status]).toEqual([path, 200])
      expect(page.html).toContain(id)
      expect(page.html).not.toMatch(/\/revoke"|\/rotate"|tokens\/new"/)
    }
    for (const path of ['/new', `/${id}/rotate`, `/${id}/revoke`, `/${id}/versions/v1/revoke`])
      expect([path, (await member.open(tokens(path))).status]).toEqual([path, 403])
  })

  it('a viewer sees neither', async () => {
    const viewer = await memberWith('viewer')
    expect((await viewer.open(access())).status).toBe(403)
  })

  it('an organization’s keys are for its admins', async () => {
    expect((await (await memberWith('admin')).open(keys())).status).toBe(403)
    expect((await ada.open(keys())).status).toBe(200)
  })

  it('a person of another organization finds nothing, whatever they ask', async () => {
    const { id } = await create()
    const neighbour = await signedIn((await makeWorld(server)).email)
    const own = await neighbour.open('/sign-in')
    expect(own.status).toBe(200)
    const paths = ['/new', `/${id}`, `/${id}/rotate`, `/${id}/revoke`, `/${id}/versions/v1/revoke`, `/${id}/cutover`]
    for (const path of [access(), ...paths.map((rest) => tokens(rest)), ...paths.map((rest) => keys(rest))])
      expect([path, (await neighbour.open(path)).status]).toEqual([path, 404])
  })

  it('a token is found below its own workspace only', async () => {
    const { id } = await create()
    for (const path of [`/workspaces/${world.otherWorkspaceId}/tokens/${id}`, keys(`/${id}`), keys(`/${id}/revoke`)])
      expect([path, (await ada.open(path)).status]).toEqual([path, 404])
    expect((await ada.open(tokens('/key_nothing'))).status).toBe(404)
    expect((await ada.open(tokens(`/${id}/versions/v9/revoke`))).status).toBe(404)
    expect((await ada.open(tokens(`/${id}/versions/x/revoke`))).status).toBe(404)
  })

  it('who is not signed in is led to signing in and back', async () => {
    const agent = server.userAgent()
    const page = await agent.open(access())
    expect(page.url.pathname).toBe('/sign-in')
    const back = await agent.submit(page, '', { email: world.email, password: PASSWORD })
    expect(back.url.pathname).toBe(access())
  })

  it('a sign-in from a while ago is asked for again before the form, and by the form', async () => {
    const { id } = await create()
    const agent = await signedIn(world.email)
    const form = await agent.open(tokens('/new'))
    const label = newLabel()
    await inThePast(agent, 400)
    expect((await agent.open(tokens(`/${id}/revoke`))).status).toBe(200) // ending access is never held up
    for (const path of [tokens('/new'), tokens(`/${id}/rotate`)]) {
      const page = await agent.open(path)
      expect([path, page.url.pathname]).toEqual([path, '/sign-in'])
      expect(page.url.searchParams.get('return_to')).toBe(path)
    }
    expect((await agent.open(tokens(`/${id}`))).status).toBe(200)
    await inThePast(agent, 700)
    const sent = await post(agent, form, '/new', { ...GOOD, label })
    expect(sent.url.pathname).toBe('/sign-in')
    expect(sent.url.searchParams.get('again')).toBe('yes')
    expect(await countTokens(label)).toBe(0)
    const back = await agent.submit(sent, '', { email: world.email, password: PASSWORD })
    expect(back.url.pathname).toBe(tokens('/new'))
  })

  /** As if the person had signed in so long ago. */
  async function inThePast(agent: UserAgent, seconds: number): Promise<void> {
    const cookie = agent.cookies().find(({ name }) => name.endsWith('session'))
    const id = digestOf(cookie?.value ?? '')
    const { loginTs, ...payload } = JSON.parse((await server.app.ephemeral.find('Session', id))?.value ?? '')
    const value = JSON.stringify({ ...payload, loginTs: Number(loginTs) - seconds })
    await server.app.ephemeral.write([{ op: 'put', kind: 'Session', id, value, ttlSeconds: 3_600 }])
  }

  it('a form that is not of this session changes nothing', async () => {
    const label = newLabel()
    const form = await ada.open(tokens('/new'))
    const { action, hidden } = formOf(form, '/new')
    const send = (fields: Record<string, string>, headers: Record<string, string>) =>
      ada.request(action, {
        method: 'POST',
        body: new URLSearchParams({ ...hidden, ...GOOD, label, ...fields }),
        headers,
      })
    const own = { origin: server.origin, 'sec-fetch-site': 'same-origin' }
    expect((await send({ csrf: '' }, own)).status).toBe(403)
    expect((await send({ csrf: 'x'.repeat(43) }, own)).status).toBe(403)
    expect((await send({}, { origin: 'https://evil.example' })).status).toBe(403)
    expect((await send({}, { 'sec-fetch-site': 'cross-site' })).status).toBe(403)
    expect((await send({ form: 'short' }, own)).status).toBe(400)
    expect(await countTokens(label)).toBe(0)
  })
})

describe('the list', () => {
  it('says of each token who made it, when and from where it was used last, and how it stands', async () => {
    const { id, html } = await create({ label: 'evidence' })
    const value = VALUE.exec(html)?.[0] ?? ''
    const rowOf = async () =>
      (await ada.open(access())).html.match(/<tr role="row">[\s\S]*?<\/tr>/g)?.find((row) => row.includes(id)) ?? ''
    expect(await rowOf()).toMatch(
      /<bdi>Ada<\/bdi>[\s\S]*Production[\s\S]*v1[\s\S]*Not used yet[\s\S]*Today[\s\S]*Active/,
    )
    await use(value)
    await expect.poll(rowOf, { timeout: 8_000 }).toMatch(/<time datetime="[^"]+Z"[^>]*>just now<\/time>/)
    await server.db
      .updateTable('token_versions')
      .set({ expires_at: new Date(Date.now() + 3 * 86_400_000) })
      .where('token_id', '=', id as `key_${string}`)
      .execute()
    expect(await rowOf()).toMatch(/badge due">Expiring<[\s\S]*>in 2 days</)
    await sql`update token_versions set expires_at = null, created_at = now() - interval '200 days',
      last_used_at = now() - interval '94 days' where token_id = ${id}`.execute(server.db)
    expect(await rowOf()).toMatch(/94 days ago[\s\S]*badge due">Unused</)
  })

  it('names who made a token while they are there, and gives their id after that', async () => {
    const email = `gone-${randomBytes(4).toString('hex')}@example.com`
    const { id: userId } = await server.run('user create', { email, name: 'Grace Hopper', password: PASSWORD })
    await server.run('member add', { user: email, workspace: world.workspaceId, role: 'admin' })
    const { id } = await create({}, await signedIn(email))
    expect((await ada.open(tokens(`/${id}`))).html).toContain('by <bdi>Grace Hopper</bdi>')
    await sql`delete from workspace_members where user_id = ${userId}`.execute(server.db)
    await sql`delete from organization_members where user_id = ${userId}`.execute(server.db)
    expect((await ada.open(tokens(`/${id}`))).html).toContain(`by <code><bdi>${userId}</bdi></code>`)
    expect((await ada.open(access())).html).not.toContain('Grace')
  })

  it('tells a value that is refused for its address from one that has ended', async () => {
    const made = await create({ addresses: '192.0.2.0/24' })
    expect((await use(shownIn(made))).status).toBe(401)
    const own = async () => (await ada.open(tokens(`/${made.id}`))).html
    await expect.poll(own, { timeout: 8_000 }).toMatch(/v1 tried by [\d.:a-f]+, refused/)
    expect(await own()).not.toContain('still used')
  })

  it('shows the connections beside them', async () => {
    const other = await makeWorld(server)
    const agent = await signedIn(other.email)
    const path = `/workspaces/${other.workspaceId}/access`
    const empty = await agent.open(path)
    expect(empty.html).toContain('No app is connected yet')
    expect(empty.html).toContain('No tokens, and perhaps none needed')
    await connect(server, other)
    const page = await agent.open(path)
    expect(page.html).toContain('<bdi>Tracepad</bdi>')
    expect(page.html).toContain('<bdi>traces:read</bdi>')
    expect(page.html).toMatch(/con_[0-9a-z]{26}/)
  })

  it('goes on over pages', async () => {
    const other = await makeWorld(server)
    const agent = await signedIn(other.email)
    await server.db
      .insertInto('token_lines')
      .values(
        Array.from({ length: 51 }, (_, place) => ({
          id: `key_${String(place).padStart(26, '0')}` as const,
          organization_id: other.organizationId as `org_${string}`,
          workspace_id: other.workspaceId as `ws_${string}`,
          label: `many ${place}`,
          environment: 'staging' as const,
          permissions: ['read'],
          granted_role: 'admin' as const,
          created_by: 'operator',
        })),
      )
      .execute()
    const first = await agent.open(`/workspaces/${other.workspaceId}/access`)
    expect(first.html).toContain('many 49<')
    expect(first.html).not.toContain('many 50<')
    const next = /href="([^"]*\?after=[^"]*)"/.exec(first.html)?.[1] ?? ''
    const second = await agent.open(next)
    expect(second.html).toContain('many 50<')
    expect(second.html).not.toContain('many 49<')
  })
})

describe('rotating', () => {
  it('shows the next value once; both work until the cutover, which its page offers with the evidence', async () => {
    const made = await create()
    const [first, page] = [shownIn(made), await ada.open(tokens(`/${made.id}/rotate`))]
    const rotated = await post(ada, page, '/rotate', { cutover: 'manual', expiry: 'same', prefix: 'LATCHKEY' })
    const second = shownIn(rotated)
    expect(second).not.toBe('')
    expect(second).not.toBe(first)
    expect(rotated.html).toContain('LATCHKEY_TOKEN_VERSION=v2')
    const again = await post(ada, page, '/rotate', { cutover: 'manual', expiry: 'same', prefix: 'LATCHKEY' })
    expect(headingOf(again)).toBe('This value was shown already')
    expect(again.html).toContain('/versions/v2/revoke')
    const third = await ada.open(tokens(`/${made.id}/rotate`))
    expect(third.html).toContain('Two versions work already')
    expect((await Promise.all([use(first), use(second)])).map(({ status }) => status)).toEqual([200, 200])
    const own = await ada.open(tokens(`/${made.id}`))
    expect(own.html).toContain('Cut over to v2 now')
    const cut = await post(ada, own, '/cutover', {})
    expect(cut.url.pathname).toBe(tokens(`/${made.id}`))
    expect((await Promise.all([use(first), use(second)])).map(({ status }) => status)).toEqual([401, 200])
    expect(cut.html).not.toContain('Cut over to')
    expect(cut.html).toContain('Retired')
  })

  it('says “not used yet” until the first use, then since when it is connected, and by whom a retired value is tried', async () => {
    const made = await create()
    const own = async () => (await ada.open(tokens(`/${made.id}`))).html
    expect(await own()).toContain('Not used yet')
    await use(shownIn(made))
    await expect.poll(own, { timeout: 8_000 }).toMatch(/Connected at <time[^>]*>\d+ \w+ \d{4}, \d\d:\d\d UTC</)
    const page = await ada.open(tokens(`/${made.id}/rotate`))
    await post(ada, page, '/rotate', { cutover: 'manual', expiry: 'same', prefix: 'LATCHKEY' })
    await post(ada, await ada.open(tokens(`/${made.id}`)), '/cutover', {})
    expect((await use(shownIn(made))).status).toBe(401)
    await expect.poll(own, { timeout: 8_000 }).toMatch(/Refused <time/)
    expect((await ada.open(access())).html).toMatch(/v1 still used by [\d.:]+, refused/)
    expect(await own()).toContain('use refused')
  })

  it('cuts over on first use, or at a time that is still to come', async () => {
    const made = await create()
    const page = await ada.open(tokens(`/${made.id}/rotate`))
    const past = await post(ada, page, '/rotate', {
      cutover: 'at',
      at: '2020-01-01T06:00',
      expiry: 'same',
      prefix: 'LATCHKEY',
    })
    expect(past.status).toBe(400)
    expect(past.html).toContain('That time is past')
    const rotated = await post(ada, past, '/rotate', { cutover: 'on_first_use', expiry: '7d', prefix: 'LATCHKEY' })
    expect((await use(shownIn(rotated))).status).toBe(200)
    expect((await use(shownIn(made))).status).toBe(401)
    const next = await ada.open(tokens(`/${made.id}/rotate`))
    const at = `${new Date(Date.now() + 86_400_000).toISOString().slice(0, 11)}06:00`
    await post(ada, next, '/rotate', { cutover: 'at', at, expiry: 'same', prefix: 'LATCHKEY' })
    expect((await ada.open(tokens(`/${made.id}`))).html).toContain('v2 stops by itself on')
  })

  it('chooses first what the policy allows: as before, or the longest life there is', async () => {
    const own = await makeWorld(server)
    const agent = await signedIn(own.email)
    const base = `/workspaces/${own.workspaceId}/tokens`
    const make = async (expiry: string) =>
      idOf(await post(agent, await agent.open(`${base}/new`), '/new', { ...GOOD, label: newLabel(), expiry }))
    const rotate = async (id: string) => {
      const page = await agent.open(`${base}/${id}/rotate`)
      const choices = [...page.html.matchAll(/<input[^>]*name="expiry" value="([^"]*)"[^>]*>/g)]
      const expiry = choices.find(([input]) => / checked/.test(input))?.[1] ?? 'none is chosen'
      const answer = await post(agent, page, '/rotate', { cutover: 'manual', expiry, prefix: 'LATCHKEY' })
      return { offered: choices.map(([, value]) => value), expiry, status: answer.status }
    }
    const long = await make('90d')
    await transact(server.db, (trx) =>
      putPolicy(trx, own.workspaceId as WorkspaceId, {
        tokensForbidden: false,
        expiryRequired: false,
        maxAgeDays: 30,
        environments: null,
      }),
    )
    const longest = ['1h', '1d', '7d', '30d']
    expect(await rotate(long)).toEqual({ offered: longest, expiry: '30d', status: 200 })
    expect(await rotate(await make('30d'))).toEqual({ offered: ['same', ...longest], expiry: 'same', status: 200 })
  })

  it('says when the older version stops by itself, also some time after the first use', async () => {
    const operator = await server.run('organization-key create', {
      organization: world.organizationId,
      label: newLabel(),
      permissions: ['read', 'manage'],
    })
    const planAfter = async (after_seconds: number) => {
      const { id } = await create()
      const answer = await fetch(`${server.origin}/api/v1/workspaces/${world.workspaceId}/api-keys/${id}/rotate`, {
        method: 'POST',
        headers: { authorization: `Bearer ${operator.key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ cutover: 'on_first_use', after_seconds }),
      })
      expect(answer.status).toBe(201)
      return /v1 stops by itself[^.]*\./.exec((await ada.open(tokens(`/${id}`))).html)?.[0]
    }
    expect(await planAfter(0)).toBe('v1 stops by itself when v2 is first used.')
    expect(await planAfter(5_400)).toBe('v1 stops by itself 90 minutes after v2 is first used.')
    expect(await planAfter(86_400)).toBe('v1 stops by itself 1 day after v2 is first used.')
    expect(await planAfter(1)).toBe('v1 stops by itself 1 second after v2 is first used.')
  })

  it('does not cut over to another version than the button named', async () => {
    const made = await create()
    const page = await ada.open(tokens(`/${made.id}/rotate`))
    const rotated = await post(ada, page, '/rotate', { cutover: 'manual', expiry: 'same', prefix: 'LATCHKEY' })
    const own = await ada.open(tokens(`/${made.id}`))
    const revoke = await ada.open(tokens(`/${made.id}/versions/v2/revoke`))
    await post(ada, revoke, '/v2/revoke', {})
    const late = await post(ada, own, '/cutover', {})
    expect(late.status).toBe(409)
    expect((await use(shownIn(made))).status).toBe(200)
    expect((await use(shownIn(rotated))).status).toBe(401)
  })
})

describe('revoking', () => {
  it('ends the token at once, keeps the reason, and leads back to the list', async () => {
    const made = await create({ label: 'to be ended' })
    const page = await ada.open(tokens(`/${made.id}/revoke`))
    expect(page.html).toContain('Nothing used it in the last hour')
    const done = await post(ada, page, '/revoke', { reason: 'the laptop was lost' })
    expect(done.url.pathname).toBe(access())
    expect(done.html).toContain('<bdi>to be ended</bdi></strong> is revoked')
    expect((await use(shownIn(made))).status).toBe(401)
    const own = await ada.open(tokens(`/${made.id}`))
    expect(own.html).toContain('the laptop was lost')
    expect(own.html).not.toMatch(/\/revoke"|\/rotate"/)
    for (const rest of ['revoke', 'rotate', 'cutover'])
      expect((await ada.open(tokens(`/${made.id}/${rest}`))).url.pathname).toBe(tokens(`/${made.id}`))
    const record = await server.db
      .selectFrom('audit_events')
      .select(['event', 'user_id'])
      .where('credential_id', '=', made.id)
      .where('event', '=', 'token.revoked')
      .execute()
    expect(record).toHaveLength(1)
  })

  it('shows who used it in the last hour, and asks to know that they will stop', async () => {
    const made = await create()
    await used(made.id, 1, 'deploy-job/2.3<b>')
    await used(made.id, 1, 'yesterday/1.0', 1_500)
    const page = await ada.open(tokens(`/${made.id}/revoke`))
    expect(page.html).toContain('1 caller used this in the last hour')
    expect(page.html).toContain('deploy-job/2.3&lt;b&gt;')
    expect(page.html).not.toContain('yesterday/1.0')
    const refused = await post(ada, page, '/revoke', { reason: 'kept' })
    expect(refused.status).toBe(400)
    expect(refused.html).toContain('aria-describedby="understood-error"')
    expect(refused.html).toContain('value="kept"')
    expect((await use(shownIn(made))).status).toBe(200)
    await post(ada, refused, '/revoke', { understood: 'yes' })
    expect((await use(shownIn(made))).status).toBe(401)
  })

  it('ends one version alone', async () => {
    const made = await create()
    const page = await ada.open(tokens(`/${made.id}/rotate`))
    const rotated = await post(ada, page, '/rotate', { cutover: 'manual', expiry: 'same', prefix: 'LATCHKEY' })
    const revoke = await ada.open(tokens(`/${made.id}/versions/v1/revoke`))
    expect(revoke.html).toContain('v2 goes on working')
    const done = await post(ada, revoke, '/v1/revoke', {})
    expect(done.url.pathname).toBe(tokens(`/${made.id}`))
    expect((await Promise.all([made, rotated].map((one) => use(shownIn(one))))).map(({ status }) => status)).toEqual([
      401, 200,
    ])
  })
})

describe('an organization’s keys', () => {
  it('are made, shown once, rotated and revoked by the same pages', async () => {
    const form = await ada.open(keys('/new'))
    expect(form.html).not.toContain('name="environment"')
    expect([...form.html.matchAll(/name="permissions" value="([^"]*)"/g)].map(([, name]) => name)).toEqual([
      'read',
      'manage',
    ])
    const fields = { label: 'provisioning', permissions: ['read', 'manage'], expiry: 'none', prefix: 'ORG' }
    const made = await post(ada, form, '/new', fields)
    const value = shownIn(made)
    expect(value).toMatch(/^td_live_/)
    expect(made.html).toContain(`ORG_ORGANIZATION_ID=${world.organizationId}`)
    expect((await use(value)).status).toBe(200)
    const id = idOf(made)
    expect((await ada.open(keys())).html).toContain('provisioning')
    const rotated = await post(ada, await ada.open(keys(`/${id}/rotate`)), '/rotate', {
      cutover: 'manual',
      expiry: 'same',
      prefix: 'ORG',
    })
    expect(shownIn(rotated)).toMatch(/^td_live_/)
    const done = await post(ada, await ada.open(keys(`/${id}/revoke`)), '/revoke', { understood: 'yes' })
    expect(done.url.pathname).toBe(keys())
    expect((await use(value)).status).toBe(401)
  })
})

// Usage and spend on pages: who sees what, what is said of a month and its cap, forms, files, and names and amounts of any kind.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { exactText, monthChoices, roundedText, shareOf, usedOf, writerFor } from '../../src/console/money.ts'
import { chartOf, type Series, scaleOf } from '../../src/console/usage-chart.ts'
import { newId } from '../../src/ids.ts'
import type { Month } from '../../src/usage/rules.ts'
import { startServer, type TestServer } from '../support/server.ts'
import {
  addWorkspace,
  capAt,
  monthsBack,
  recordEvent,
  spendBy,
  useModel,
  violate,
} from '../support/spending-filling.ts'
import type { Page, UserAgent } from '../support/user-agent.ts'
import { makeWorld, PASSWORD, type World } from '../support/world.ts'

const HTML = { headers: { accept: 'text/html' } }
const HOSTILE = '<img src=x onerror=alert(1)>"\'&'
const ESCAPED = '&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;'
const RTL = 'قمر\u202e evil'
const HUGE = '123456789012.34'

let server: TestServer
let world: World
let owner: UserAgent
let months: string[]
beforeAll(async () => {
  server = await startServer()
  months = await monthsBack(server.db, 5)
})
afterAll(() => server?.close())
beforeEach(async () => {
  world = await makeWorld(server)
  owner = await signedIn(world.email)
})

async function signedIn(email: string): Promise<UserAgent> {
  const agent = server.userAgent()
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
  return agent
}

async function person(as: { workspace?: string; organization?: string }): Promise<UserAgent> {
  const email = `p-${randomBytes(6).toString('hex')}@example.com`
  await server.run('user create', { email, name: 'Person', password: PASSWORD })
  if (as.organization !== undefined)
    await server.run('member add', { user: email, organization: world.organizationId, role: as.organization })
  if (as.workspace !== undefined)
    await server.run('member add', { user: email, workspace: world.workspaceId, role: as.workspace })
  return signedIn(email)
}

const ws = (rest = '') => `/workspaces/${world.workspaceId}/usage${rest}`
const org = (rest = '') => `/organizations/${world.organizationId}/usage${rest}`
const open = (agent: UserAgent, path: string): Promise<Page> => agent.open(path, HTML)
const textOf = ({ html }: Page) =>
  (/<main.*<\/main>/s.exec(html)?.[0] ?? '')
    .replaceAll(/<title.*?<\/title>/gs, ' ')
    .replaceAll(/<[^>]*>/g, ' ')
    .replaceAll(/\s+/g, ' ')
const problemAt = (page: Page, id: string) => new RegExp(`id="${id}-error">(.*?)</p>`, 's').exec(page.html)?.[1]
const tiles = (page: Page) =>
  [...page.html.matchAll(/<dd class="value[^"]*">([^<]*)<\/dd><dd class="sub">([^<]*)</g)].map(([, value, sub]) => [
    value,
    sub,
  ])
const rowsOf = (page: Page, caption: string) => {
  const table =
    page.html
      .split('<table')
      .slice(1)
      .find((part) => part.includes(caption)) ?? ''
  return [...table.matchAll(/<tr role="row">(.*?)<\/tr>/gs)].map(([, row = '']) =>
    row
      .replaceAll(/<[^>]*>/g, ' ')
      .replaceAll(/\s+/g, ' ')
      .trim(),
  )
}
const budgets = async () => {
  const { rows } = await sql<{ cap: string; mode: string }>`
    select cap_micros::text as cap, mode from budgets where workspace_id = ${world.workspaceId}`.execute(server.db)
  return rows
}

async function post(agent: UserAgent, path: string, fields: Record<string, string>, csrf?: string): Promise<Page> {
  const own = /name="csrf" value="([^"]+)"/.exec((await open(agent, '/account')).html)?.[1] ?? ''
  return agent.open(path, {
    method: 'POST',
    body: new URLSearchParams({ csrf: csrf ?? own, ...fields }),
    headers: { accept: 'text/html', origin: server.origin, 'sec-fetch-site': 'same-origin' },
  })
}

describe('who sees what is used', () => {
  it.each([
    ['a neighbour', {}, 404, 404, 404],
    ['a viewer', { workspace: 'viewer' }, 403, 403, 403],
    ['a member', { workspace: 'member' }, 200, 403, 403],
    ['an admin of the workspace', { workspace: 'admin' }, 200, 200, 403],
    ['an admin of the organization', { organization: 'admin' }, 200, 200, 200],
  ])('%s', async (who, as, reads, changes, whole) => {
    const agent = who === 'a neighbour' ? await signedIn((await makeWorld(server)).email) : await person(as)
    for (const path of [ws(), ws('/events')]) expect([path, (await open(agent, path)).status]).toEqual([path, reads])
    expect((await open(agent, ws('/cap'))).status).toBe(changes)
    for (const path of [org(), org('/export')]) expect([path, (await open(agent, path)).status]).toEqual([path, whole])
    const sent = await post(agent, ws('/cap'), { cap: '5', mode: 'hard' })
    expect(sent.status).toBe(changes)
    expect(await budgets()).toHaveLength(changes === 200 ? 1 : 0)
    if (changes === 200) return
    await capAt(server.db, world, 7, 'soft')
    expect((await post(agent, ws('/cap/remove'), {})).status).toBe(changes)
    expect(await budgets()).toHaveLength(1)
  })

  it('nobody is led to sign in, and a form from elsewhere changes nothing', async () => {
    for (const path of [ws(), ws('/events'), ws('/cap'), org(), org('/export')])
      expect((await server.userAgent().request(path)).headers.get('location'), path).toMatch(/^\/sign-in\?/)
    await capAt(server.db, world, 7, 'soft')
    for (const path of [ws('/cap'), ws('/cap/remove')])
      expect((await post(owner, path, { cap: '5', mode: 'hard' }, 'x'.repeat(43))).status).toBe(403)
    expect(await budgets()).toMatchObject([{ mode: 'soft' }])
  })

  it('the tab is there for whoever may look', async () => {
    const admin = await open(owner, `/organizations/${world.organizationId}`)
    expect(admin.html).toContain(`href="${org()}"`)
    const member = await person({ workspace: 'member' })
    expect((await open(member, `/organizations/${world.organizationId}`)).html).not.toContain(`href="${org()}"`)
    expect((await open(member, `/workspaces/${world.workspaceId}/members`)).html).toContain(`href="${ws()}"`)
    const viewer = await person({ workspace: 'viewer' })
    expect((await open(viewer, `/workspaces/${world.workspaceId}/members`)).html).not.toContain(`href="${ws()}"`)
  })
})

describe('the usage of a workspace', () => {
  it('is empty in words, and without a drawing of nothing', async () => {
    const page = await open(owner, ws())
    const text = textOf(page)
    for (const sentence of ['There is no cap.', 'Nothing was used in', 'Nothing was refused', 'No event was recorded'])
      expect(text).toContain(sentence)
    expect(page.html).not.toContain('<svg class="chart"')
    expect(tiles(page).map(([value]) => value)).toEqual(['0.00', '0.00', 'No cap', '0'])
  })

  it('is a month against its cap, by model and by month', async () => {
    await spendBy(server.db, world, [10, 20, 30, 40, 50, 82.5], 7.5)
    await capAt(server.db, world, 100, 'hard')
    await useModel(server.db, world, { provider: 'anthropic', model: 'large', cost: 80 })
    await useModel(server.db, world, { provider: '', model: '', cost: 2.5 })
    const page = await open(owner, ws())
    expect(tiles(page).map(([value]) => value)).toEqual(['82.50', '7.50', '10.00', '12'])
    expect(page.html).toContain('<meter min="0" max="100" high="99.9" optimum="0" value="82.5"')
    expect(textOf(page)).toContain('82%. 82.50 USD spent and 7.50 USD held of 100.00 USD. 10.00 USD left.')
    expect(rowsOf(page, 'Use by model')).toEqual([
      expect.stringMatching(/^Model Events/),
      'large anthropic 7 1,200 300 80.00 96%',
      'Not named 7 1,200 300 2.50 3%',
      'All models 12 48,000 9,000 82.50',
    ])
    const [title] = /<title id="chart-months">.*?<\/title>/s.exec(page.html) ?? ['']
    for (const amount of [
      '10.00',
      '20.00',
      '30.00',
      '40.00',
      '50.00',
      '82.50',
      'held 7.50 USD',
      'monthly cap 100.00 USD',
    ])
      expect(title).toContain(amount)
  })

  it('is over: the meter is full, and the words say by how much', async () => {
    await spendBy(server.db, world, [120])
    await capAt(server.db, world, 100, 'soft')
    const page = await open(owner, ws())
    expect(textOf(page)).toContain(
      '120%, over. 120.00 USD spent of 100.00 USD. 20.00 USD over. Soft: nothing is refused.',
    )
    expect(page.html).toContain('value="100" aria-label="Used of the monthly cap"')
    expect(page.html).toContain('class="bar now over"')
  })

  it('is of another month where one is chosen', async () => {
    await spendBy(server.db, world, [10, 20, 30])
    const month = months[4] ?? ''
    const page = await open(owner, ws(`?month=${month}`))
    expect(tiles(page)[0]?.[0]).toBe('20.00')
    expect(page.html).toContain(`<option value="${month}" selected>`)
    expect((await open(owner, ws('?month=2021-02'))).html).toContain('<option value="2021-02" selected>February 2021')
  })

  it.each(['2026-13', 'x', HOSTILE, '2026-05-01'])(
    'asked for the month %s, says so and shows this one',
    async (month) => {
      const page = await open(owner, ws(`?${new URLSearchParams({ month })}`))
      expect(page.status).toBe(400)
      expect(page.html).toContain('<p id="month-error">Choose a month, such as 2026-05.')
      expect(page.html).not.toContain('<img')
    },
  )

  it('violations are sentences; the trace leads an admin to the audit log, and nobody else', async () => {
    await violate(server.db, world, {
      kind: 'refused',
      cap: 100,
      asked: 48,
      left: 12.6,
      count: 14,
      credential: 'key_x',
      trace: 't1',
    })
    await violate(server.db, world, { kind: 'overrun', cap: 100, asked: 3, left: -2, credential: 'key_y', trace: 't2' })
    await violate(server.db, world, { kind: 'soft_cap', cap: 100, asked: 3, left: 2, trace: 't3' })
    await violate(server.db, world, {
      kind: 'refused',
      cap: 100,
      asked: null,
      left: 9,
      credential: 'key_z',
      trace: 't4',
    })
    await violate(server.db, world, { kind: 'refused', cap: 100, asked: 0, left: -1, credential: 'key_w', trace: 't5' })
    const page = await open(owner, ws())
    const text = textOf(page)
    for (const sentence of [
      'key_x asked for 48.00 USD with 12.60 left. It was refused. 14 times between',
      'A hard cap of 100.00 USD at the time.',
      'key_y spent 3.00 USD with nothing left',
      'platform-ai passed its soft cap of 100.00 USD. Once,',
      'key_z asked for a call whose cost in USD is not known beforehand. It was refused.',
      'key_w asked for 0.00 USD with nothing left. It was refused.',
    ])
      expect(text).toContain(sentence)
    const audit = `/workspaces/${world.workspaceId}/audit?trace_id=t1`
    expect(page.html).toContain(`href="${audit}"`)
    expect((await open(owner, audit)).status).toBe(200)
    const member = await open(await person({ workspace: 'member' }), ws())
    expect(member.html).toContain('<code><bdi>t1</bdi></code>')
    expect(member.html).not.toContain('/audit?')
  })

  it('a credential is called by its label, in violations and in events', async () => {
    const id = newId('key')
    await sql`insert into token_lines (id, organization_id, workspace_id, label, environment, permissions, granted_role,
        created_by)
      values (${id}, ${world.organizationId}, ${world.workspaceId}, ${HOSTILE}, 'production', ${['ingest']}, 'admin',
        'operator')`.execute(server.db)
    await violate(server.db, world, { kind: 'refused', cap: 9, asked: 8, left: 7, credential: id })
    await recordEvent(server.db, world, { credential: id })
    const page = await open(owner, ws())
    expect(page.html).toContain(`<strong><bdi>${ESCAPED}</bdi></strong> asked for 8.00 USD with 7.00 left.`)
    expect(page.html).toContain(`<bdi>${ESCAPED}</bdi> v3`)
  })

  it('names of models, traces and workspaces are text, however they are written and however long', async () => {
    await useModel(server.db, world, { provider: RTL, model: HOSTILE, cost: 1 })
    await useModel(server.db, world, { provider: 'p', model: 'm'.repeat(200), cost: 1 })
    await spendBy(server.db, world, [2])
    await recordEvent(server.db, world, { model: HOSTILE, trace: 'a:b' })
    const page = await open(owner, ws())
    expect(page.html).toContain(`<code><bdi>${ESCAPED}</bdi></code>`)
    expect(page.html).toContain(`<bdi>${RTL}</bdi>`)
    expect(page.html).toContain(`<bdi>${'m'.repeat(200)}</bdi>`)
    expect(page.html).not.toContain('<img')
    expect(page.html).toContain('trace_id=a%3Ab')
  })

  it('the dearest hundred models, amounts of twelve digits in whole units, and what has no price apart', async () => {
    await spendBy(server.db, world, [HUGE])
    await sql`update spend set unpriced_count = 3 where workspace_id = ${world.workspaceId}`.execute(server.db)
    for (let count = 0; count < 101; count++)
      await useModel(server.db, world, { provider: 'p', model: `m${count}`, cost: count === 0 ? HUGE : count })
    const page = await open(owner, ws())
    const rows = rowsOf(page, 'Use by model')
    expect(rows).toHaveLength(1 + 100 + 1)
    expect(rows[1]).toBe('m0 p 7 1,200 300 123,456,789,012 100%')
    expect(textOf(page)).toContain('The dearest hundred, in whole USD')
    expect(tiles(page)[0]).toEqual(['123,456,789,012.34', 'USD'])
    expect(textOf(page)).toMatch(/3 events of \w+ 20\d\d have no known cost, and are not in these sums\./)
  })

  it('no style stands in a page, and no script: the drawing is geometry', async () => {
    await spendBy(server.db, world, [1, 2, 3])
    for (const path of [ws(), org()]) {
      const { html } = await open(owner, path)
      expect(html).toContain('<svg class="chart"')
      expect(html).not.toMatch(/ style=|<style|<script(?![^>]* src=)| on\w+=/)
    }
  })
})

describe('events', () => {
  it('come in pages that leave nothing out, and by trace whatever the month', async () => {
    const ids: string[] = []
    for (let count = 0; count < 53; count++)
      ids.push(await recordEvent(server.db, world, { trace: `t-${count}`, cost: String(count) }))
    await recordEvent(server.db, { ...world, workspaceId: world.otherWorkspaceId }, { trace: 'theirs' })
    const seen: string[] = []
    let page = await open(owner, ws('/events'))
    for (;;) {
      seen.push(...[...page.html.matchAll(/trace_id=(t-\d+)"/g)].map(([, trace = '']) => trace))
      const [, next] = /href="([^"]*before=[^"]*)"/.exec(page.html) ?? []
      if (next === undefined) break
      page = await open(owner, next.replaceAll('&amp;', '&'))
    }
    expect(seen).toEqual(ids.map((_, index) => `t-${index}`).toReversed())
    const one = await open(owner, ws('/events?trace_id=t-7'))
    expect(rowsOf(one, 'Events, the newest')).toHaveLength(2)
    expect(one.html).toContain(`href="/workspaces/${world.workspaceId}/audit?trace_id=t-7"`)
    expect(textOf(one)).toContain('under one trace, in any month')
    expect(textOf(await open(owner, ws('/events?trace_id=theirs')))).toContain('No event is like that')
    const member = await open(await person({ workspace: 'member' }), ws('/events?trace_id=t-7'))
    expect(member.html).not.toContain('/audit?')
    expect(textOf(await open(owner, ws(`/events?month=${months[0]}`)))).toContain('Nothing was recorded')
  })

  it('without a price, and estimated, say so', async () => {
    await recordEvent(server.db, world, { cost: null, model: null })
    await recordEvent(server.db, world, { cost: '1', estimated: true })
    const [, estimated, unknown] = rowsOf(await open(owner, ws('/events')), 'Events, the newest')
    expect(estimated).toContain('0.000001 Estimated')
    expect(unknown).toMatch(/Not named anthropic 1,200 340 Not known/)
  })

  it.each([
    ['month=x', 'month', 'Choose a month'],
    ['trace_id=two+words', 'trace_id', 'one word'],
    [`trace_id=${'t'.repeat(200)}`, 'trace_id', 'one word'],
    ['trace_id=%00', 'trace_id', 'one word'],
    [`trace_id=${encodeURIComponent(HOSTILE)}`, 'trace_id', 'one word'],
  ])('asked for with %s are not looked for, and it is said where', async (query, field, sentence) => {
    const page = await open(owner, ws(`/events?${query}`))
    expect(page.status).toBe(400)
    expect(problemAt(page, field)).toContain(sentence)
    expect(page.html).not.toContain('<img')
  })

  it('a cut-off link says so', async () => {
    const page = await open(owner, ws('/events?before=use_%27'))
    expect([page.status, textOf(page).includes('This link is cut off.')]).toEqual([400, true])
  })
})

describe('the cap of a workspace', () => {
  it('is set, changed and removed by an admin; what was typed comes back where it is no amount', async () => {
    const form = await open(owner, ws('/cap'))
    const page = await owner.submit(form, '/usage/cap', { cap: ' 2500.5 ', mode: 'hard' })
    expect([page.url.pathname, page.url.searchParams.get('done')]).toEqual([ws(), 'cap'])
    expect(await budgets()).toEqual([{ cap: '2500500000', mode: 'hard' }])
    expect(textOf(page)).toContain('0.00 USD spent of 2,500.50 USD. 2,500.50 USD left.')
    const again = await open(owner, ws('/cap'))
    expect(again.html).toContain('name="cap" inputmode="decimal" maxlength="20" value="2500.50"')
    for (const cap of ['2,500', '-1', '1e3', '', '1000000000', '0.0000001', HOSTILE]) {
      const wrong = await owner.submit(again, '/usage/cap', { cap, mode: 'soft' })
      expect([cap, wrong.status, problemAt(wrong, 'amount')]).toEqual([
        cap,
        400,
        expect.stringContaining('Give an amount'),
      ])
      expect(wrong.html).not.toContain('<img')
    }
    expect((await owner.submit(again, '/usage/cap', { cap: '1', mode: 'other' })).status).toBe(400)
    expect(await budgets()).toMatchObject([{ mode: 'hard' }])
    expect((await owner.submit(again, '/usage/cap', { cap: '0', mode: 'soft' })).status).toBe(200)
    expect(await budgets()).toMatchObject([{ mode: 'soft' }])
    const removed = await owner.submit(await open(owner, ws('/cap')), '/cap/remove', {})
    expect(removed.url.searchParams.get('done')).toBe('removed')
    expect(await budgets()).toEqual([])
  })

  it('in another currency than was shown is refused', async () => {
    const form = await open(owner, ws('/cap'))
    await server.db
      .updateTable('organizations')
      .set({ currency: 'EUR' })
      .where('id', '=', world.organizationId as never)
      .execute()
    const page = await owner.submit(form, '/usage/cap', { cap: '5', mode: 'hard' })
    expect(page.status).toBe(400)
    expect(textOf(page)).toContain('This organization counts in EUR')
    expect(await budgets()).toEqual([])
  })
})

describe('the spend of an organization', () => {
  it('without workspaces that spent anything says so', async () => {
    const page = await open(owner, org())
    expect(textOf(page)).toContain('Nothing was spent in these months')
    expect(page.html).not.toContain('<svg class="chart"')
    expect(tiles(page).map(([value]) => value)).toEqual(['0.00', '0.00', '0', '0'])
    const { id } = await server.run('organization create', { name: 'Bare', owner: world.email })
    expect(textOf(await open(owner, `/organizations/${id}/usage`))).toContain('No workspaces yet')
  })

  it('is four tiles, drawings to one scale and a table that says the same', async () => {
    const research = { ...world, workspaceId: world.otherWorkspaceId }
    await spendBy(server.db, world, [0, 0, 0, 0, 100, 200], 18)
    await capAt(server.db, world, 400, 'hard')
    await spendBy(server.db, research, [0, 0, 0, 0, 0, 50])
    await capAt(server.db, research, 40, 'soft')
    await violate(server.db, world, { kind: 'refused', cap: 400, asked: 300, left: 182, count: 14 })
    const page = await open(owner, org())
    expect(tiles(page)).toEqual([
      ['250.00', expect.stringMatching(/^USD, 150\.00 more than \w+$/)],
      ['18.00', 'USD'],
      ['1', '\u2068research\u2069'],
      ['14', 'All in \u2068platform-ai\u2069'],
    ])
    const rows = rowsOf(page, 'by workspace and month')
    expect(rows[1]).toBe('platform-ai 0.00 0.00 0.00 0.00 100.00 200.00 400.00 hard 50% 50% 12 14')
    expect(rows[2]).toBe('research 0.00 0.00 0.00 0.00 0.00 50.00 40.00 soft 125%, over 125%, over 12 0')
    expect(rows[3]).toBe('All workspaces 0.00 0.00 0.00 0.00 100.00 250.00 24 14')
    const titles = [...page.html.matchAll(/<title id="chart-\d">(.*?)<\/title>/gs)].map(([, title]) => title)
    expect(titles).toEqual([
      expect.stringMatching(/^platform-ai: .* 100\.00, .* 200\.00 USD; held 18\.00 USD; monthly cap 400\.00 USD$/),
      expect.stringMatching(/^research: .* 50\.00 USD; monthly cap 40\.00 USD$/),
    ])
    const now = [...page.html.matchAll(/<rect class="bar now[^"]*" x="[^>]*height="([\d.]+)"/g)].map(([, height]) =>
      Number(height),
    )
    expect(now).toEqual([44, 11])
    expect(textOf(page)).toContain('platform-ai asked for 300.00 USD with 182.00 left. It was refused.')
    expect(page.html).toContain(`href="/organizations/${world.organizationId}/audit?trace_id=batch-0518-eval"`)
  })

  it('is of the six months to another one, and so is its file', async () => {
    await spendBy(server.db, world, [11, 0, 0, 0, 0, 66])
    const until = months[0] ?? ''
    const page = await open(owner, org(`?until=${until}`))
    expect(tiles(page)[0]?.[0]).toBe('11.00')
    const [, href = ''] = /href="([^"]*export[^"]*)"/.exec(page.html) ?? []
    const file = await owner.request(href)
    expect(file.headers.get('content-type')).toMatch(/^text\/csv/)
    expect(file.headers.get('content-disposition')).toMatch(/^attachment; filename="spend-org_/)
    expect(file.headers.get('cache-control')).toBe('no-store')
    const text = await file.text()
    expect(text).toContain(`platform-ai,,${until},USD,11.00,0.00,,`)
    expect(text).not.toContain('66.00')
    expect((await open(owner, org('?until=x'))).status).toBe(400)
    expect((await open(owner, org('/export?until=x'))).status).toBe(400)
  })

  it('of three hundred workspaces the fifty dearest are shown, and it says so; tiles and totals are of all', async () => {
    const names = [HOSTILE, RTL, 'W'.repeat(200)]
    for (let count = 0; count < 298; count++) {
      const place = { ...world, workspaceId: await addWorkspace(server.db, world, names[count] ?? `team ${count}`) }
      await spendBy(server.db, place, [1000 - count])
      if (count === 297) {
        await capAt(server.db, place, 1, 'hard')
        await violate(server.db, place, { kind: 'refused', cap: 1, asked: 9, left: 0 })
      }
    }
    const page = await open(owner, org())
    expect(textOf(page)).toMatch(/The 50 that spent most in \w+, of 300\./)
    expect(rowsOf(page, 'by workspace and month')).toHaveLength(1 + 50 + 1)
    expect(page.html.match(/<svg class="chart"/g)).toHaveLength(50)
    expect(tiles(page)).toEqual([
      ['253,747.00', expect.any(String)],
      ['0.00', 'USD'],
      ['1', '\u2068team 297\u2069'],
      ['1', 'All in \u2068team 297\u2069'],
    ])
    expect(page.html).toContain(`<bdi>${ESCAPED}</bdi>`)
    expect(page.html).toContain(`aria-labelledby="chart-1"><title id="chart-1">${ESCAPED}: `)
    expect(page.html).toContain(`<bdi>${RTL}</bdi>`)
    expect(page.html).not.toContain('<img')
    const file = await (await owner.request(org('/export'))).text()
    expect(file.trim().split('\r\n')).toHaveLength(1 + 300 * 6)
  }, 60_000)

  it('an archived workspace is listed with what it spent, and leads nowhere', async () => {
    await spendBy(server.db, { ...world, workspaceId: world.otherWorkspaceId }, [5])
    await violate(
      server.db,
      { ...world, workspaceId: world.otherWorkspaceId },
      { kind: 'refused', cap: 1, asked: 9, left: 0 },
    )
    await server.db
      .updateTable('workspaces')
      .set({ archived_at: new Date() })
      .where('id', '=', world.otherWorkspaceId as never)
      .execute()
    const page = await open(owner, org())
    expect(rowsOf(page, 'by workspace and month')[1]).toMatch(/^research Archived/)
    expect(page.html).not.toContain(`/workspaces/${world.otherWorkspaceId}/`)
    expect(textOf(page)).toContain('research asked for')
  })
})

describe('the overview', () => {
  it('says what each workspace spent this month and how much of its cap, to its members', async () => {
    await spendBy(server.db, world, [7, 82.5])
    await capAt(server.db, world, 100, 'hard')
    const all = rowsOf(await open(owner, `/organizations/${world.organizationId}`), 'Workspaces')
    expect(all.find((row) => row.startsWith('platform-ai'))).toMatch(/82\.50 of 100\.00 USD 82% 82%$/)
    expect(all.find((row) => row.startsWith('research'))).toMatch(/0\.00 USD, no cap No cap$/)
    const viewer = await open(await person({ workspace: 'viewer' }), `/organizations/${world.organizationId}`)
    const [, only] = rowsOf(viewer, 'Workspaces')
    expect(only).toMatch(/For members For members$/)
    expect(viewer.html).not.toContain('82.50')
  })
})

describe('amounts and drawings', () => {
  it.each([
    [0n, '0.00', '0.00'],
    [1n, '0.000001', 'under 0.01'],
    [5_000n, '0.005', '0.01'],
    [4_120_314_999n, '4,120.314999', '4,120.31'],
    [4_120_315_000n, '4,120.315', '4,120.32'],
    [-1_500_000n, '-1.50', '-1.50'],
    [999_999_999_999_995_000n, '999,999,999,999.995', '1,000,000,000,000.00'],
  ])('%s millionths are %s, to the cent %s', (micros, exact, rounded) => {
    expect([exactText(micros), roundedText(micros)]).toEqual([exact, rounded])
  })

  it('amounts side by side drop their cents together, from a million on', () => {
    expect(writerFor([999_999_990_000n]).write(1_500_000n)).toBe('1.50')
    const { isWhole, write } = writerFor([1n, 1_000_000_000_000n])
    expect([isWhole, write(1_500_000n), write(1n), write(0n)]).toEqual([true, '2', 'under 1', '0'])
  })

  it.each([
    [0n, 0n, 0, '0%'],
    [1n, 0n, 100, 'over'],
    [999n, 1000n, 99.9, '99%'],
    [1000n, 1000n, 100, '100%'],
    [1001n, 1000n, 100, '100%, over'],
    [10n ** 18n, 1n, 100, 'over 999%'],
  ])('%s of a cap of %s', (spent, capMicros, value, text) => {
    expect(usedOf({ capMicros, mode: 'hard' }, spent)).toEqual({ value, text, isOver: spent > capMicros })
  })

  it('shares add up to no more than there is', () => {
    expect([shareOf(1n, 3n), shareOf(1n, 1000n), shareOf(0n, 5n), shareOf(5n, 0n)]).toEqual([
      '33%',
      'under 1%',
      '0%',
      '0%',
    ])
  })

  const month = (text: string) => `${text}-01` as Month
  const series = (spent: bigint[], capMicros?: bigint, heldMicros = 0n): Series => ({
    name: 'a',
    months: spent.map((_, index) => month(`2026-0${index + 1}`)),
    spent,
    heldMicros,
    capMicros,
  })

  it('drawings share a scale; a cap far above all of it is left out, and still in the words', () => {
    const [large, small] = [series([10n, 100n], 120n), series([5n, 50n], 10_000n)]
    const scale = scaleOf([large, small])
    expect(scale).toBe(120n)
    const options = { plot: 120, currency: 'USD' }
    expect(chartOf(large, scale, options).bars.map(({ height }) => height)).toEqual([10, 100])
    expect(chartOf(small, scale, options).bars.map(({ height }) => height)).toEqual([5, 50])
    expect(chartOf(large, scale, options).capY).toBe(8.5)
    expect(chartOf(small, scale, options).capY).toBeUndefined()
    expect(chartOf(small, scale, options).title).toContain('monthly cap')
  })

  it('what is held stands on the bar, and within the drawing; too little to see is still seen', () => {
    const held = series([1n, 100n], undefined, 100n)
    const chart = chartOf(held, scaleOf([held]), { plot: 100, currency: 'USD' })
    expect(chart.bars.map(({ height }) => height)).toEqual([1, 50])
    expect(chart.held).toMatchObject({ height: 50, y: 7 })
    expect(chartOf(series([0n, 0n]), 1n, { plot: 100, currency: 'USD' }).bars.map(({ height }) => height)).toEqual([
      0, 0,
    ])
  })

  it('months to choose are two years, and the chosen one wherever it lies', () => {
    const choices = monthChoices(month('2026-05'), month('2021-02'))
    expect(choices).toHaveLength(25)
    expect([choices[0], choices.at(-1)]).toEqual([
      { value: '2026-05', text: 'May 2026', isChosen: false },
      { value: '2021-02', text: 'February 2021', isChosen: true },
    ])
    expect(monthChoices(month('2026-05'), month('2027-01'))[0]).toMatchObject({ value: '2027-01', isChosen: true })
  })
})

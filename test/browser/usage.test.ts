// The pages of providers, usage and spend in a real browser: light and dark, wide and narrow, without scripts, by keyboard alone,
// empty, as they usually are, and as full as they get.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  hasBrowser,
  inspect,
  keepVisitors,
  launchBrowser,
  signInOn,
  type TestBrowser,
  tabTo,
} from '../support/browser.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { addWorkspace, capAt, recordEvent, spendBy, useModel, violate } from '../support/spending-filling.ts'
import { json, MODELS, startUpstream, type Upstream } from '../support/upstream.ts'
import { makeWorld, type World } from '../support/world.ts'

const KEY = 'sk-ant-canary-0123456789abcdefghijklmnopqrstuvwxyz'
const HUGE = '123456789012.34'

describe.skipIf(!hasBrowser())('the pages of what is used', () => {
  let server: TestServer
  let browser: TestBrowser
  let upstream: Upstream
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    upstream = await startUpstream()
    ;[server, browser] = await Promise.all([
      startServer({ environment: { LATCHKEY_OUTBOUND_PRIVATE: 'loopback' } }),
      launchBrowser(),
    ])
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
    await upstream?.close()
  })

  async function enter(options: { scripts?: boolean } = {}) {
    const world = await makeWorld(server)
    const { page } = await begin(options)
    await page.goto(`${server.origin}/sign-in`)
    await signInOn(page, world.email)
    const found: string[] = []
    return {
      world,
      page,
      found,
      ws: `/workspaces/${world.workspaceId}`,
      org: `/organizations/${world.organizationId}`,
      async look(name: string, path: string, status = 200) {
        const answer = await page.goto(server.origin + path)
        expect(answer?.status(), path).toBe(status)
        found.push(...(await inspect(page, name)))
      },
    }
  }

  async function fill(world: World): Promise<void> {
    const ai = world
    const research = { ...world, workspaceId: world.otherWorkspaceId }
    await spendBy(server.db, ai, [2210.4, 2640.12, 2890, 3105.77, 3642.05, 4120.31], 180)
    await capAt(server.db, ai, 5000, 'hard')
    await spendBy(server.db, research, [1820, 1604.2, 2210.9, 2420, 2035.5, 2480.64])
    await capAt(server.db, research, 2400, 'soft')
    for (const [name, amounts, cap] of [
      ['support-bots', [610, 702.3, 690.18, 845.6, 1012, 1260.07], 2500],
      ['evaluation', [88.2, 102, 96.4, 130, 210.75, 242.4], undefined],
    ] as const) {
      const place = { ...world, workspaceId: await addWorkspace(server.db, world, name) }
      await spendBy(server.db, place, amounts)
      if (cap !== undefined) await capAt(server.db, place, cap, 'hard')
    }
    await violate(server.db, ai, { kind: 'refused', cap: 5000, asked: 48, left: 12.6, count: 14 })
    await violate(server.db, research, { kind: 'soft_cap', cap: 2400, asked: 92, left: 11.36 })
    await violate(server.db, ai, { kind: 'overrun', cap: 5000, asked: 3.2, left: 0 })
    await useModel(server.db, ai, { provider: 'anthropic', model: 'claude-sonnet-4-5', cost: 3120.11 })
    await useModel(server.db, ai, { provider: 'openai', model: 'gpt-5-mini', cost: 1000.2 })
    for (let count = 0; count < 12; count++) await recordEvent(server.db, ai, { estimated: count === 3 })
    await recordEvent(server.db, ai, { model: null, cost: null, trace: 'job-with-no-price' })
  }

  it('as they usually are, with nothing that axe finds and nothing wider than the window', async () => {
    const { world, look, found, ws, org } = await enter()
    await fill(world)
    await look('usage', `${ws}/usage`)
    await look('usage-events', `${ws}/usage/events`)
    await look('usage-events-wrong', `${ws}/usage/events?trace_id=two+words`, 400)
    await look('usage-cap', `${ws}/usage/cap`)
    await look('spending', `${org}/usage`)
    await look('overview', org)
    expect(found).toEqual([])
  }, 240_000)

  it('where there is nothing yet', async () => {
    const { look, found, ws, org } = await enter()
    await look('usage-empty', `${ws}/usage`)
    await look('usage-events-empty', `${ws}/usage/events`)
    await look('spending-empty', `${org}/usage`)
    await look('providers-empty', `${ws}/providers`)
    await look('cap-empty', `${ws}/usage/cap`)
    expect(found).toEqual([])
  }, 240_000)

  it('as full as they get: hundreds of workspaces, a hundred models, names and amounts without end', async () => {
    const { world, look, found, ws, org } = await enter()
    await spendBy(server.db, world, [HUGE, HUGE, HUGE, HUGE, HUGE, HUGE], HUGE)
    await capAt(server.db, world, '999999999.99', 'hard')
    const names = [`<b>${'W'.repeat(197)}`, 'مساحة عمل‮ evil', 'two words '.repeat(20).trim()]
    for (let count = 0; count < 300; count++) {
      const place = {
        ...world,
        workspaceId: await addWorkspace(server.db, world, names[count] ?? `team-${String(count).padStart(3, '0')}`),
      }
      if (count < 60)
        await spendBy(server.db, place, [0, 900 + count, 1_000_000 * count, 3_333_333.33, 12, 9e9 / (count + 1)])
      if (count % 3 === 0) await capAt(server.db, place, 2_000_000_00, count % 2 === 0 ? 'soft' : 'hard')
    }
    for (let count = 0; count < 100; count++)
      await useModel(server.db, world, {
        provider: count === 1 ? 'p'.repeat(64) : 'anthropic',
        model: count === 1 ? `<i>${'m'.repeat(125)}` : `model-${count}`,
        cost: count === 0 ? HUGE : 1000 - count,
        tokens: '123456789012345',
      })
    await recordEvent(server.db, world, {
      model: `<i>${'m'.repeat(125)}`,
      cost: '999999999999999',
      trace: 'T'.repeat(128),
    })
    for (let count = 0; count < 25; count++)
      await violate(server.db, world, {
        kind: 'refused',
        cap: HUGE,
        asked: HUGE,
        left: HUGE,
        trace: 'T'.repeat(128),
        count: 99_999,
      })
    await look('spending-full', `${org}/usage`)
    await look('overview-full', org)
    await look('usage-full', `${ws}/usage`)
    await look('usage-events-full', `${ws}/usage/events`)
    expect(found).toEqual([])
  }, 300_000)

  it('a provider is connected, checked, replaced and deleted by keyboard, without a script; its key is on no page', async () => {
    const { page, ws } = await enter({ scripts: false })
    const seen: string[] = []
    const keep = async () => void seen.push(await page.content())
    await page.goto(`${server.origin}${ws}/providers`)
    await page.getByRole('link', { name: 'Connect a provider' }).click()
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter') // to the content
    await tabTo(page, { tag: 'input', name: 'api_token' })
    await page.keyboard.type(KEY)
    await page.keyboard.press('Tab')
    await page.keyboard.type('https://user@gateway.example.com')
    await page.keyboard.press('Enter')
    await page.getByText('The address must be').waitFor()
    await keep()
    expect(await page.getByLabel('Key', { exact: true }).inputValue()).toBe('')
    await page.getByLabel('Key', { exact: true }).fill(KEY)
    await page.getByLabel('Address').fill(upstream.url)
    upstream.answer(json(401, {}))
    await page.getByRole('button', { name: 'Connect' }).click()
    await page.getByRole('status').waitFor()
    await keep()
    await page.getByRole('button', { name: 'Check now' }).click()
    await page.getByText('does not take this key').waitFor()
    await keep()
    upstream.answer(json(200, MODELS))
    await page.getByRole('link', { name: 'Replace key' }).click()
    expect(await page.getByLabel('Address').inputValue()).toBe(upstream.url)
    await page.getByLabel('New key').fill(KEY)
    await page.getByRole('button', { name: 'Replace key' }).click()
    await page.getByRole('button', { name: 'Check now' }).click()
    await page.getByText('took the key').waitFor()
    await keep()
    await page.getByRole('link', { name: 'Delete Anthropic' }).click()
    await page.getByRole('heading', { name: 'Delete the connection to Anthropic?' }).waitFor()
    await keep()
    await page.getByRole('button', { name: 'Delete connection' }).click()
    await page.getByRole('heading', { name: 'No provider is connected' }).waitFor()
    await keep()
    for (const html of seen) expect(html).not.toContain('canary')
  }, 120_000)

  it('providers in every state, and their forms', async () => {
    const { world, page, look, found, ws } = await enter()
    await look('provider-new', `${ws}/providers/new`)
    await page.getByLabel('Key', { exact: true }).fill('x x')
    await page.getByLabel('Address').fill('http://10.0.0.1')
    await page.getByRole('button', { name: 'Connect' }).click()
    await page.getByText('Paste it again').waitFor()
    found.push(...(await inspect(page, 'provider-new-wrong')))
    upstream.answer(json(200, MODELS))
    for (const type of ['Anthropic', 'OpenAI']) {
      await page.goto(`${server.origin}${ws}/providers/new`)
      await page.getByRole('radio', { name: type }).check()
      await page.getByLabel('Key', { exact: true }).fill(KEY)
      await page.getByLabel('Address').fill(upstream.url)
      await page.getByRole('button', { name: 'Connect' }).click()
      await page.getByRole('status').waitFor()
    }
    found.push(...(await inspect(page, 'providers-new')))
    await page.getByRole('button', { name: 'Check now Anthropic' }).click()
    upstream.answer(json(401, {}))
    await page.getByRole('button', { name: 'Check now OpenAI' }).click()
    await page.getByText('does not take this key').waitFor()
    found.push(...(await inspect(page, 'providers')))
    await look('access-providers', `${ws}/access`)
    const { id } = await server.db
      .selectFrom('provider_connections')
      .select('id')
      .where('workspace_id', '=', world.workspaceId as never)
      .executeTakeFirstOrThrow()
    await look('provider-replace', `${ws}/providers/${id}/replace`)
    await look('provider-delete', `${ws}/providers/${id}/delete`)
    await look('provider-full', `${ws}/providers/new`)
    expect(found).toEqual([])
  }, 240_000)
})

// The pages of the audit log and of access reviews in a real browser: light and dark, wide and narrow, without scripts, by keyboard alone, and with ids and
// details as long as they get.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { sealNow } from '../../src/audit/sealer.ts'
import { record } from '../../src/audit/service.ts'
import { type KeyId, newId } from '../../src/ids.ts'
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
import { connect, makeWorld, PASSWORD, type World } from '../support/world.ts'

const LONG = 'T'.repeat(128)

describe.skipIf(!hasBrowser())('the audit pages', () => {
  let server: TestServer
  let browser: TestBrowser
  let world: World
  let log: string
  const begin = keepVisitors(() => browser)

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer(), launchBrowser()])
    world = await makeWorld(server)
    log = `/workspaces/${world.workspaceId}/audit`
    const ben = await server.run('user create', { email: 'ben@example.com', name: 'Ben Example', password: PASSWORD })
    await server.run('member add', { user: ben.email, workspace: world.workspaceId, role: 'admin' })
    const { access_token } = await connect(server, world)
    const { credential_id: connection } = JSON.parse(
      Buffer.from(access_token?.split('.')[1] ?? '', 'base64url').toString(),
    )
    await write('token.refused', { status: 'fail', detail: { reason: 'expired', count: 14 }, credentialId: connection })
    await write('token.reuse_detected', {
      status: 'fail',
      actor: { kind: 'key', id: 'key_01kw8m5hj0k1m2n3p4q5r6s7t8' },
      credentialId: 'key_01kw8m5hj0k1m2n3p4q5r6s7t8',
      tokenVersion: 5,
      detail: { reason: 'retired', count: 3 },
    })
    await write('member.removed', { userId: 'usr_01kw8m5h2m3n4p5q6r7s8t9v0w', detail: { role: 'member' } })
    await write('token_policy.changed', { detail: { expiry_required: true, max_age_days: 90 } })
    await write(`job.${'x'.repeat(76)}`, {
      request: { traceId: LONG, profileId: LONG },
      detail: { data: { [LONG]: LONG, rows: [1, 2, 3], قمر: 'قمر' } },
      credentialId: connection,
    })
    await sealNow(server.db, world.organizationId)
  })
  afterAll(async () => {
    await browser?.close()
    await server?.close()
  })

  const write = (event: string, more: Partial<Parameters<typeof record>[1]> = {}) =>
    record(server.db, {
      event,
      status: 'pass',
      actor: { kind: 'user', id: world.userId },
      request: { traceId: 'job-2026-05-21-0441', address: '198.51.100.61' },
      organizationId: world.organizationId,
      workspaceId: world.workspaceId,
      ...more,
    })

  async function visit(options: { scripts?: boolean } = {}): Promise<Visitor['page']> {
    const { page } = await begin(options)
    await page.goto(`${server.origin}/sign-in`)
    await signInOn(page, world.email)
    return page
  }

  it('in every appearance, with nothing that axe finds and nothing wider than the window', async () => {
    const page = await visit()
    const found: string[] = []
    const look = async (name: string, path: string, status = 200) => {
      const answer = await page.goto(server.origin + path)
      expect(answer?.status(), path).toBe(status)
      found.push(...(await inspect(page, name)))
    }
    await look('audit', log)
    await page.goto(server.origin + log)
    await page.$$eval('details', (all) => {
      for (const one of all) one.open = true
    })
    found.push(...(await inspect(page, 'audit-open')))
    await look('audit-of-organization', `/organizations/${world.organizationId}/audit?status=fail`)
    await look('audit-nothing', `${log}?trace_id=never-was`)
    await look('audit-wrong', `${log}?trace_id=two+words&token_version=x&from=2026-02-30&credential_id=a+b`, 400)
    const { id } = await server.db
      .selectFrom('audit_events')
      .select('id')
      .where('trace_id', '=', LONG)
      .executeTakeFirstOrThrow()
    await look('audit-record', `${log}/${id}`)
    expect(found).toEqual([])
  }, 180_000)

  it('a record is found by keyboard alone, without a script, and opened', async () => {
    const page = await visit({ scripts: false })
    await page.goto(server.origin + log)
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await page.getByLabel('Trace id').focus()
    await page.keyboard.type('job-2026-05-21-0441')
    await tabTo(page, { tag: 'select', name: 'event' })
    await page.keyboard.type('member.removed')
    await tabTo(page, { tag: 'button', name: 'Show records' })
    await page.keyboard.press('Enter')
    await page.waitForURL(/event=member\.removed/)
    expect(await page.locator('.event').count()).toBe(1)
    await page.locator('.event summary').focus()
    await page.keyboard.press('Enter')
    await page.getByRole('link', { name: 'The whole record' }).click()
    await page.getByRole('heading', { name: /^Record/ }).waitFor()
  }, 60_000)

  it('a check says what it found: that all is well, and then that it is not', async () => {
    const page = await visit()
    await page.goto(server.origin + log)
    await page.getByRole('button', { name: 'Check it now' }).click()
    await page.getByRole('status').waitFor()
    const found = await inspect(page, 'audit-checked')
    await sql`alter table audit_events disable trigger user`.execute(server.db)
    await sql`update audit_events set status = 'pass' where event = 'token.reuse_detected'`.execute(server.db)
    await page.getByRole('button', { name: 'Check it now' }).click()
    await page.getByRole('alert').waitFor()
    found.push(...(await inspect(page, 'audit-not-whole')))
    expect(found).toEqual([])
  }, 120_000)

  it('of access reviews, open and closed, with names as long as they get', async () => {
    const apiKey = newId('key')
    const page = await visit()
    const place = `/workspaces/${world.workspaceId}`
    await addToken(apiKey, 'L'.repeat(120))
    const found: string[] = []
    const look = async (name: string, path: string) => {
      expect((await page.goto(server.origin + path))?.status(), path).toBe(200)
      found.push(...(await inspect(page, name)))
    }
    await look('reviews-none', `${place}/reviews`)
    await page.getByRole('button', { name: 'Open a review' }).click()
    await page.getByRole('heading', { name: 'Access review', exact: true }).waitFor()
    const review = new URL(page.url()).pathname
    found.push(...(await inspect(page, 'review-open')))
    await look('reviews', `${place}/reviews`)
    await server.db
      .insertInto('notices')
      .values({
        id: newId('ntc'),
        organization_id: world.organizationId as never,
        workspace_id: world.workspaceId as never,
        kind: 'token_unused',
        subject_id: apiKey,
        stage: 'v1',
        due_at: null,
      })
      .execute()
    await look('access-attention', `${place}/access?kind=connections`)
    await look('notices', `${place}/notices`)
    await page.goto(server.origin + review)
    await page.getByRole('link', { name: 'Revoke LLL' }).click()
    await page.getByRole('heading', { name: /^Revoke/ }).waitFor()
    found.push(...(await inspect(page, 'review-revoke')))
    await page.getByLabel('Why').fill('Nobody knows what it is for')
    await page.getByRole('button', { name: /^Revoke/ }).click()
    await page.getByRole('button', { name: 'Keep Tracepad' }).click()
    await page.getByRole('button', { name: 'Keep the policy' }).click()
    await page.getByRole('button', { name: 'Close the review' }).waitFor()
    found.push(...(await inspect(page, 'review-decided')))
    await page.getByRole('button', { name: 'Close the review' }).click()
    await page.getByRole('link', { name: 'Download signed report' }).waitFor()
    found.push(...(await inspect(page, 'review-closed')))
    expect(found).toEqual([])
  }, 180_000)

  const addToken = (id: KeyId, label: string) =>
    server.db
      .insertInto('token_lines')
      .values({
        id,
        organization_id: world.organizationId as never,
        workspace_id: world.workspaceId as never,
        label,
        environment: 'production',
        permissions: ['read', 'ingest'],
        resources: null,
        ip_allow_list: null,
        granted_role: 'admin',
        created_by: 'operator',
      } as never)
      .execute()
})

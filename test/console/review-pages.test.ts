// Access reviews as pages: who may look and decide, what a decision does, the report that remains, and what the Access page
// says of open reviews and of notices.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { newId } from '../../src/ids.ts'
import { type ApiWorld, bearer, call, connectPerson, makeApiWorld, makeToken } from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { PASSWORD } from '../support/world.ts'

const HOSTILE = '<img src=x onerror=alert(1)>'

let server: TestServer
let world: ApiWorld
let admin: UserAgent

beforeAll(async () => {
  server = await startServer()
  world = await makeApiWorld(server)
  admin = await signedIn(world.people.admin.email)
})
afterAll(() => server?.close())

async function signedIn(email: string): Promise<UserAgent> {
  const agent = server.userAgent()
  await agent.submit(await agent.open('/sign-in'), '/sign-in?return_to=%2F', { email, password: PASSWORD })
  return agent
}

interface Place {
  workspaceId: string
  key: string
  base: string
}

/** A workspace of its own for each test. */
async function makePlace(): Promise<Place> {
  const name = `team ${randomBytes(3).toString('hex')}`
  const made = await server.run('workspace create', {
    organization: world.organizationId,
    name,
    owner: world.people.owner.email,
  })
  const workspaceId = String(made.id)
  for (const role of ['admin', 'member', 'viewer'] as const)
    await server.run('member add', { workspace: workspaceId, user: world.people[role].email, role })
  return { workspaceId, key: world.key, base: `/workspaces/${workspaceId}` }
}

async function opened(place: Place, reason = 'asked') {
  const list = await admin.open(`${place.base}/reviews`)
  const review = await admin.submit(list, `${place.base}/reviews`, { reason })
  expect(review.url.pathname).toMatch(/\/reviews\/rev_\w+$/)
  return review
}

const rowOf = (html: string, label: string) =>
  html.split('<tr role="row">').find((row) => row.includes(`<bdi>${label}</bdi>`)) ?? ''
const itemIn = (html: string, label: string) => /items\/(rvi_\w+)/.exec(rowOf(html, label))?.[1] ?? ''
const works = async (value: string, place: Place) =>
  (await call(server, bearer(value), 'GET', place.base)).status === 200

it('nobody is led to sign in, a viewer and a member are refused, a stranger and another workspace find nothing', async () => {
  const place = await makePlace()
  const token = await makeToken(server, place, { label: 'guarded' })
  const review = await opened(place)
  const item = itemIn(review.html, 'guarded')
  const path = review.url.pathname
  await server.run('user create', { email: 'stranger@example.com', name: 'Stranger', password: PASSWORD })
  const stranger = await signedIn('stranger@example.com')
  const refused = [await signedIn(world.people.member.email), await signedIn(world.people.viewer.email)]
  for (const page of [`${place.base}/reviews`, path, `${path}/items/${item}/revoke`, `${place.base}/notices`]) {
    expect((await server.userAgent().request(page)).headers.get('location'), page).toMatch(/^\/sign-in/)
    for (const agent of refused) expect((await agent.open(page)).status, page).toBe(403)
    expect((await stranger.open(page)).status, page).toBe(404)
    expect((await admin.open(page)).status, page).toBe(200)
  }
  const elsewhere = await makePlace()
  const id = path.split('/').at(-1) ?? ''
  expect((await admin.open(`${elsewhere.base}/reviews/${id}`)).status).toBe(404)
  expect((await admin.open(`${elsewhere.base}/reviews/${id}/items/${item}/revoke`)).status).toBe(404)
  const foreign = await admin.open(`${elsewhere.base}/reviews`)
  const csrf = /name="csrf" value="([^"]+)"/.exec(foreign.html)?.[1] ?? ''
  for (const [agent, body, status] of [
    [admin, { csrf: 'x' }, 403],
    [server.userAgent(), { csrf }, 303],
    [refused[0], { csrf }, 403],
  ] as const) {
    const answer = await agent?.request(`${path}/items/${item}/revoke`, {
      method: 'POST',
      body: new URLSearchParams(body),
      headers: { origin: server.origin },
    })
    expect(answer?.status).toBe(status)
  }
  expect(await works(token.key, place)).toBe(true)
})

it('an admin keeps one, revokes another, attests the policy and closes: the report is signed, and says so', async () => {
  const place = await makePlace()
  const kept = await makeToken(server, place, { label: 'kept one', permissions: ['read'] })
  const ended = await makeToken(server, place, { label: 'ended one' })
  const review = await opened(place)
  const path = review.url.pathname
  expect(review.html).toContain('3 things are undecided')
  expect(review.html).toMatch(/is suspended: it stops working until an admin restores it/)
  expect(rowOf(review.html, 'kept one')).toContain('<bdi>read</bdi>')
  const after = await admin.submit(review, `${path}/items/${itemIn(review.html, 'kept one')}`, { decision: 'keep' })
  expect(rowOf(after.html, 'kept one')).toContain('<span class="badge active">Kept</span>')
  const item = itemIn(review.html, 'ended one')
  const confirm = await admin.open(`${path}/items/${item}/revoke`)
  expect(confirm.html).toContain('Nobody used it in the last hour')
  const done = await admin.submit(confirm, `${item}/revoke`, { note: `of ${HOSTILE}` })
  expect(done.url.pathname).toBe(path)
  expect(rowOf(done.html, 'ended one')).toContain('<span class="badge revoked">Revoked</span>')
  expect(done.html).toContain('of &lt;img')
  expect(done.html).not.toContain('<img')
  expect(await works(ended.key, place)).toBe(false)
  expect(await works(kept.key, place)).toBe(true)
  const [, policy = ''] =
    /items\/(rvi_\w+)"><input type="hidden" name="csrf" value="[^"]+"><input type="hidden" name="granted_digest" value="[^"]+"><button class="button" name="decision"/.exec(
      done.html,
    ) ?? []
  const all = await admin.submit(done, `${path}/items/${policy}`, { decision: 'keep' })
  expect(all.html).toContain('All 3 are decided')
  const closed = await admin.submit(all, `${path}/close`, {})
  expect(closed.html).toContain('Download signed report')
  expect(closed.html).not.toContain('name="decision"')
  const report = await admin.request(`${path}/report`)
  expect(report.headers.get('content-type')).toBe('application/json; charset=utf-8')
  expect(report.headers.get('content-disposition')).toMatch(/^attachment; filename="access-review-rev_\w+\.json"$/)
  expect(report.headers.get('cache-control')).toBe('no-store')
  expect(await report.json()).toMatchObject({ report: { counts: { kept: 2, revoked: 1 } }, jws: expect.any(String) })
  const events = await server.db
    .selectFrom('audit_events')
    .select('event')
    .where('workspace_id', '=', place.workspaceId as never)
    .execute()
  expect(events.map(({ event }) => event)).toEqual(
    expect.arrayContaining(['review.opened', 'review.attested', 'review.revoked', 'token.revoked', 'review.closed']),
  )
})

it('asks to know who will be cut off, takes no token for a note, and refuses what is decided too late', async () => {
  const place = await makePlace()
  const token = await makeToken(server, place, { label: 'busy' })
  expect(await works(token.key, place)).toBe(true)
  await server.app.uses.flush()
  const review = await opened(place, 'incident')
  const item = itemIn(review.html, 'busy')
  const path = review.url.pathname
  const confirm = await admin.open(`${path}/items/${item}/revoke`)
  expect(confirm.html).toContain('1 caller used this in the last hour')
  const unread = await admin.submit(confirm, `${item}/revoke`, {})
  expect(unread.status).toBe(400)
  expect(unread.html).toContain('Check this first: it is in use.')
  const leaky = await admin.submit(confirm, `${item}/revoke`, { understood: 'yes', note: token.key })
  expect(leaky.status).toBe(400)
  expect(await works(token.key, place)).toBe(true)
  await sql`update access_reviews set due_at = clock_timestamp() - interval '1 millisecond'
    where id = ${path.split('/').at(-1)}`.execute(server.db)
  const late = await admin.submit(confirm, `${item}/revoke`, { understood: 'yes' })
  expect(late.status).toBe(409)
  expect(late.html).toContain('The date has passed')
  expect(late.html).not.toContain('name="decision"')
  expect((await admin.open(`${path}/items/${item}/revoke`)).url.pathname).toBe(path)
  expect(await works(token.key, place)).toBe(true)
})

it('the last decision counts until the date: a policy that was kept was changed after all', async () => {
  const place = await makePlace()
  const review = await opened(place)
  const [, policy = ''] = /items\/(rvi_\w+)/.exec(review.html) ?? []
  const path = `${review.url.pathname}/items/${policy}`
  const kept = await admin.submit(review, path, { decision: 'keep' })
  expect(kept.html).toContain('<span class="badge active">Kept</span>')
  expect(kept.html).not.toContain('Keep the policy')
  expect(kept.html).not.toContain('I have changed it')
  const body = { tokens_forbidden: true, expiry_required: false, max_age_days: null, environments: null }
  const put = await call(server, bearer(place.key), 'PUT', `${place.base}/token-policy`, { body })
  expect(put.status, put.text).toBe(200)
  const undecided = await admin.open(review.url.pathname)
  expect(undecided.html).toContain('One thing is undecided')
  expect(undecided.html).toContain('<dd>Allowed<span class="sub">Now: Forbidden')
  const noted = await admin.submit(undecided, path, { decision: 'changed' })
  expect(noted.html).toContain('<span class="badge active">Changed</span>')
  expect((await admin.open(`${path}/revoke`)).status).toBe(404)
})

it('what lets in more than when it came into the review says so, before and after it is kept', async () => {
  const place = await makePlace()
  await connectPerson(server, place, world.people.member, 'read')
  const review = await opened(place)
  const path = review.url.pathname
  expect(review.html).not.toContain('Now:')
  const widen = (scopes: string) =>
    sql`update connections set approved = jsonb_set(approved, '{resources}', (
      select jsonb_object_agg(key, ${scopes}::text) from jsonb_each(approved -> 'resources')))
      where workspace_id = ${place.workspaceId}`.execute(server.db)
  await widen('read ingest')
  const wider = await admin.open(path)
  expect(wider.html).toMatch(/Now:<\/span>.*<bdi>ingest<\/bdi>/)
  const [, item = ''] = /items\/(rvi_\w+)\/revoke/.exec(wider.html) ?? []
  const kept = await admin.submit(wider, `${path}/items/${item}`, { decision: 'keep' })
  expect(kept.html).toContain('<span class="badge active">Kept</span>')
  await widen('read ingest manage')
  const again = await admin.open(path)
  expect(again.html).not.toContain('<span class="badge active">Kept</span>')
  expect(again.html).toContain('Lets in more than what was kept')
  const confirm = await admin.open(`${path}/items/${item}/revoke`)
  expect(confirm.html).toContain('<bdi>manage</bdi>')
})

it('what is no longer what was shown is not kept: the page says so, and shows it as it is', async () => {
  const place = await makePlace()
  await connectPerson(server, place, world.people.member, 'read')
  const token = await makeToken(server, place, { label: 'short-lived', expires_in: 86_400 })
  const review = await opened(place)
  const path = review.url.pathname
  await sql`update connections set approved = jsonb_set(approved, '{resources}', (
      select jsonb_object_agg(key, 'read ingest manage') from jsonb_each(approved -> 'resources')))
    where workspace_id = ${place.workspaceId}`.execute(server.db)
  const rotate = `${place.base}/api-keys/${token.id}/rotate`
  expect((await call(server, bearer(place.key), 'POST', rotate, { body: { expires_at: null } })).status).toBe(201)
  const suspend = `${place.base}/api-keys/${token.id}/suspend`
  expect((await call(server, bearer(place.key), 'POST', suspend, { body: {} })).status).toBe(200)
  const items = [...review.html.matchAll(/items\/(rvi_\w+)\/revoke/g)].map(([, item]) => `${path}/items/${item}`)
  expect(items).toHaveLength(2)
  for (const item of items) {
    const refused = await admin.submit(review, item, { decision: 'keep' })
    expect(refused.status).toBe(409)
    expect(refused.html).toContain('not what was shown')
    expect(refused.html).toContain('3 things are undecided')
    expect(refused.html).toMatch(/Now:<\/span>.*<bdi>manage<\/bdi>/)
    const row = rowOf(refused.html, 'short-lived')
    expect([row.includes('Now without an end'), row.includes('Suspended meanwhile'), row.includes('Now:')]).toEqual([
      true,
      true,
      false,
    ])
  }
  let page = await admin.open(path)
  for (const item of items) page = await admin.submit(page, item, { decision: 'keep' })
  expect(page.html).toContain('One thing is undecided')
})

it('a review of much is shown in pages, and a decision leads back to its page', async () => {
  const place = await makePlace()
  await sql`insert into token_lines (id, organization_id, workspace_id, label, environment, permissions, granted_role, created_by)
    select 'key_' || right(${place.workspaceId}, 16) || lpad(n::text, 10, '0'), ${world.organizationId}, ${place.workspaceId},
      'token ' || n, 'production', '{read}', 'admin', 'test' from generate_series(1, 130) n`.execute(server.db)
  const first = await opened(place)
  expect(first.html).toContain('131 things are undecided')
  expect(first.html).toContain('Workspace tokens <span class="count">130</span>')
  expect(first.html).toContain('<bdi>token 99</bdi>')
  expect(first.html).not.toContain('<bdi>token 100</bdi>')
  const [, next = ''] = /<a class="button small" href="([^"]+)">Next page</.exec(first.html) ?? []
  const second = await admin.open(next)
  expect(second.html).toContain('<bdi>token 130</bdi>')
  expect(second.html).not.toContain('<bdi>token 99</bdi>')
  expect(second.html).not.toContain('Next page')
  const page = next.slice(next.indexOf('?'))
  const item = itemIn(second.html, 'token 120')
  const kept = await admin.submit(second, `${item}${page}`, { decision: 'keep' })
  expect(kept.html).toContain('Kept. Until the date')
  expect(rowOf(kept.html, 'token 120')).toContain('<span class="badge active">Kept</span>')
  const confirm = await admin.open(/href="([^"]+\/revoke[^"]*)"/.exec(rowOf(kept.html, 'token 121'))?.[1] ?? '')
  const ended = await admin.submit(confirm, `/revoke${page}`, {})
  expect(rowOf(ended.html, 'token 121')).toContain('<span class="badge revoked">Revoked</span>')
})

it('a decision that is none, an item that is none and a report of an open review are refused', async () => {
  const place = await makePlace()
  await makeToken(server, place, { label: 'plain' })
  const review = await opened(place)
  const path = review.url.pathname
  const wrong = await admin.submit(review, `${path}/items/${itemIn(review.html, 'plain')}`, { decision: 'burn' })
  expect(wrong.status).toBe(400)
  expect(wrong.html).toContain('Choose what is to happen.')
  expect((await admin.open(`${path}/items/rvi_none/revoke`)).status).toBe(404)
  expect((await admin.open(`${path}/items/%00/revoke`)).status).toBe(404)
  expect((await admin.open(`${path}/report`)).status).toBe(404)
  expect((await admin.open(`${place.base}/reviews/%27`)).status).toBe(404)
  expect((await admin.open(`${place.base}/reviews?after=%00`)).status).toBe(200)
})

it('the Access page leads admins to the open review, and says what else needs attention', async () => {
  const place = await makePlace()
  const token = await makeToken(server, place, { label: HOSTILE })
  const quiet = await admin.open(`${place.base}/access`)
  expect(quiet.html).toContain(`href="${place.base}/reviews"`)
  expect(quiet.html).not.toContain('Needs attention')
  const review = await opened(place)
  const busy = await admin.open(`${place.base}/access`)
  expect(busy.html).toContain(`<a href="${review.url.pathname}">The access review</a> is open, with 0 of 2 decided.`)
  await server.db
    .insertInto('notices')
    .values({
      id: newId('ntc'),
      organization_id: world.organizationId as never,
      workspace_id: place.workspaceId as never,
      kind: 'token_unused',
      subject_id: token.id,
      stage: 'v1',
      due_at: null,
    } as never)
    .execute()
  const list = await admin.open(`${place.base}/notices`)
  expect(list.html).toContain(`<a href="${place.base}/tokens/${token.id}"><bdi>&lt;img`)
  expect(list.html).not.toContain('<img')
  expect(list.html).toContain('was not used for 90 days')
  // The token stands on the page already: what is to be done about it is said there.
  expect((await admin.open(`${place.base}/access`)).html).not.toContain('was not used for 90 days')
  expect((await admin.open(`${place.base}/access?kind=connections`)).html).toContain('was not used for 90 days')
  const member = await signedIn(world.people.member.email)
  const page = await member.open(`${place.base}/access`)
  expect(page.status).toBe(200)
  expect(page.html).not.toContain('The access review')
  expect(page.html).not.toContain('/reviews')
})

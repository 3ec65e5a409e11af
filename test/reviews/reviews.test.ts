// Access reviews: what is looked at, who decides, what happens to what nobody attested, and the report that remains.
import { randomBytes } from 'node:crypto'
import { compactVerify, importJWK, type JWK } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openReviewAfterTeamChange } from '../../src/reviews/service.ts'
import {
  type ApiWorld,
  bearer,
  type Credential,
  call,
  connectPerson,
  makeApiWorld,
  makePerson,
  makeToken,
  newLabel,
} from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'

let server: TestServer
let world: ApiWorld

beforeAll(async () => {
  server = await startServer()
  world = await makeApiWorld(server)
})
afterAll(() => server?.close())

interface Place {
  workspaceId: string
  key: string
}

/** A workspace of its own for each test, with the world's admin in it. */
async function makeWorkspace(): Promise<Place> {
  const made = await server.run('workspace create', {
    organization: world.organizationId,
    name: `team ${randomBytes(3).toString('hex')}`,
    owner: world.people.owner.email,
  })
  const workspaceId = String(made.id)
  for (const role of ['admin', 'member', 'viewer'] as const)
    await server.run('member add', { workspace: workspaceId, user: world.people[role].email, role })
  return { workspaceId, key: world.key }
}

const admin = (): Credential => world.people.admin
const reviews = (place: Place) => `/workspaces/${place.workspaceId}/reviews`

async function open(place: Place, body: object = {}, status = 201) {
  const answer = await call(server, bearer(place.key), 'POST', reviews(place), { body })
  expect(answer.status, answer.text).toBe(status)
  return answer.body
}

async function show(place: Place, id: string) {
  const answer = await call(server, bearer(place.key), 'GET', `${reviews(place)}/${id}`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

interface Item {
  id: string
  kind: string
  subject_id: string
  snapshot: Record<string, unknown>
  decision: string | null
  outcome: string | null
}

function itemOf(review: { items: Item[] }, subject: string): Item {
  const found = review.items.find((item) => item.subject_id === subject)
  if (found === undefined) throw new Error(`${subject} is not in the review`)
  return found
}

function decide(
  place: Place,
  review: { id: string; items: Item[] },
  subject: string,
  body: object,
  credential: Credential = admin(),
) {
  const path = `${reviews(place)}/${review.id}/items/${itemOf(review, subject).id}`
  return call(server, credential, 'POST', path, { body })
}

/** As if its date had come. */
const comeDue = (id: string) =>
  sql`update access_reviews set due_at = clock_timestamp() - interval '1 millisecond' where id = ${id}`.execute(
    server.db,
  )

const runClosing = () => server.run('jobs run', { job: 'reviews-close' })

const works = async (value: string, workspaceId: string): Promise<boolean> =>
  (await call(server, bearer(value), 'GET', `/workspaces/${workspaceId}`)).status === 200

async function eventsOf(review: string) {
  const rows = await server.db
    .selectFrom('audit_events')
    .select(['event', 'actor_kind', 'actor_id', 'credential_id', 'detail'])
    .where(sql<boolean>`detail ->> 'review' = ${review}`)
    .orderBy('id')
    .execute()
  return rows
}

const countOf = (events: Array<{ event: string }>, name: string) => events.filter(({ event }) => event === name).length

describe('opening a review', () => {
  it('takes in every open connection and token with what it is, the token policy, and nothing that is made later', async () => {
    const place = await makeWorkspace()
    const label = newLabel()
    const token = await makeToken(server, place, { label, permissions: ['read'] })
    const gone = await makeToken(server, place)
    await call(server, bearer(place.key), 'DELETE', `/workspaces/${place.workspaceId}/api-keys/${gone.id}`)
    await connectPerson(server, place, world.people.member, 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const review = await open(place)
    const later = await makeToken(server, place)
    const shown = await show(place, review.id)
    expect(shown.items.map((item: Item) => item.subject_id).sort()).toEqual(
      [connection.id, token.id, place.workspaceId].sort(),
    )
    expect(JSON.stringify(shown)).not.toContain(later.id)
    expect(itemOf(shown, token.id)).toMatchObject({
      kind: 'token',
      snapshot: { label, permissions: ['read'], environment: 'production', token_version: 'v1', last_used_at: null },
    })
    expect(itemOf(shown, connection.id)).toMatchObject({
      kind: 'connection',
      snapshot: { client_id: connection.client_id, user_id: world.people.member.userId, token_version: 'v1' },
    })
    expect(itemOf(shown, place.workspaceId)).toMatchObject({
      kind: 'token_policy',
      snapshot: { tokens_forbidden: false, expiry_required: false, max_age_days: null, environments: null },
    })
    expect(JSON.stringify(shown)).not.toContain(token.key)
    expect(shown).toMatchObject({ reasons: ['asked'], counts: { items: 3, decided: 0, undecided: 3 }, closed_at: null })
    const dueInDays = (Date.parse(shown.due_at) - Date.parse(shown.opened_at)) / 86_400_000
    expect(dueInDays).toBeCloseTo(14, 2)
    expect(await eventsOf(review.id)).toEqual([
      expect.objectContaining({
        event: 'review.opened',
        actor_kind: 'key',
        detail: expect.objectContaining({ items: 3 }),
      }),
    ])
  })

  it('leaves the one that is open, with one more reason; an incident brings its date nearer', async () => {
    const place = await makeWorkspace()
    const first = await open(place, { reason: 'asked', due_in_days: 30 })
    const again = await open(place, { reason: 'asked', due_in_days: 2 }, 200)
    expect([again.id, again.due_at, again.reasons]).toEqual([first.id, first.due_at, ['asked']])
    const incident = await open(place, { reason: 'incident' }, 200)
    expect([incident.id, incident.reasons]).toEqual([first.id, ['asked', 'incident']])
    expect((Date.parse(incident.due_at) - Date.now()) / 86_400_000).toBeCloseTo(3, 1)
    const events = await eventsOf(first.id)
    expect(events.map(({ event }) => event)).toEqual(['review.opened', 'review.reason_added'])
    expect((await call(server, admin(), 'GET', reviews(place))).body).toHaveLength(1)
  })

  it('happens with a member who is removed or may do less, and not where nothing stands', async () => {
    const place = await makeWorkspace()
    const { organizationId } = world
    const path = `/workspaces/${place.workspaceId}/members`
    const add = async (role: string) => {
      const person = await makePerson(server)
      await server.run('member add', { workspace: place.workspaceId, user: person.email, role })
      return person.userId
    }
    const remove = async (userId: string) => {
      const answer = await call(server, admin(), 'DELETE', `${path}/${userId}`)
      expect(answer.status, answer.text).toBe(204)
    }
    const list = async () => (await call(server, admin(), 'GET', reviews(place))).body
    await remove(await add('member'))
    expect(await list()).toEqual([])
    const token = await makeToken(server, { ...place, key: world.key })
    const member = await add('member')
    expect(await list()).toEqual([]) // somebody new is no change that takes anything away
    const change = { body: { role: 'viewer' } }
    expect((await call(server, admin(), 'PATCH', `${path}/${member}`, change)).status).toBe(200)
    const [opened] = await list()
    expect(opened).toMatchObject({ reasons: ['team_change'] })
    const shown = (await call(server, admin(), 'GET', `${reviews(place)}/${opened.id}`)).body
    expect(shown.items.map(({ subject_id }: { subject_id: string }) => subject_id)).toContain(token.id)
    await remove(member)
    expect(await list()).toHaveLength(1) // the same one, which is still open
    const undone = server.db.transaction().execute(async (trx) => {
      await openReviewAfterTeamChange(trx, {
        organizationId: organizationId as `org_${string}`,
        workspaceIds: [world.otherWorkspaceId as `ws_${string}`],
        actor: { kind: 'operator' },
        request: { traceId: 'team' },
      })
      throw new Error('undone')
    })
    await expect(undone).rejects.toThrow('undone')
  })

  it('is a command for a workspace, or for each one of an organization', async () => {
    const place = await makeWorkspace()
    const opened = await server.run('review open', { workspace: place.workspaceId, reason: 'incident', due_in_days: 5 })
    expect(opened).toMatchObject([{ workspace_id: place.workspaceId, reasons: ['incident'], opened_by: 'operator' }])
    const neighbours = { organization: world.neighbour.organizationId, reason: 'asked' }
    const all = (await server.run('review open', neighbours)) as unknown as Array<{ workspace_id: string }>
    expect(all.map(({ workspace_id }) => workspace_id).sort()).toEqual(
      [world.neighbour.workspaceId, world.neighbour.otherWorkspaceId].sort(),
    )
    await expect(server.run('review open', { organization: 'org_nobody', reason: 'asked' })).rejects.toMatchObject({
      code: 'not_found',
    })
  })
})

describe('deciding', () => {
  it('is for admins of this workspace: others are refused, a neighbour finds nothing', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const reading = await makeToken(server, place, { permissions: ['read'] })
    const review = await open(place)
    const as = (credential: Credential) => decide(place, review, token.id, { decision: 'revoke' }, credential)
    expect((await as(world.people.viewer)).status).toBe(403)
    expect((await as(world.people.member)).status).toBe(403)
    expect((await as(bearer(reading.key))).status).toBe(403)
    expect((await as(world.neighbour.owner)).status).toBe(404)
    expect((await as(bearer(world.neighbour.key))).status).toBe(404)
    expect((await call(server, world.neighbour.owner, 'GET', `${reviews(place)}/${review.id}`)).status).toBe(404)
    expect(await works(token.key, place.workspaceId)).toBe(true)
    // Another workspace of the same organization does not hold it either.
    const other = await makeWorkspace()
    expect((await call(server, admin(), 'GET', `${reviews(other)}/${review.id}`)).status).toBe(404)
    const item = itemOf(review, token.id).id
    const path = `${reviews(other)}/${review.id}/items/${item}`
    expect((await call(server, admin(), 'POST', path, { body: { decision: 'revoke' } })).status).toBe(404)
    expect((await show(place, review.id)).counts).toEqual({ items: 3, decided: 0, undecided: 3 })
  })

  it('keeps: once in the log, however often it is said, with who said it', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    const kept = await decide(place, review, token.id, { decision: 'keep', note: 'the nightly export' })
    expect([kept.status, kept.body]).toEqual([
      200,
      expect.objectContaining({
        decision: 'keep',
        note: 'the nightly export',
        decided_by: world.people.admin.userId,
        outcome: null,
      }),
    ])
    expect((await decide(place, review, token.id, { decision: 'keep' })).body.note).toBe('the nightly export')
    const events = await eventsOf(review.id)
    expect(countOf(events, 'review.attested')).toBe(1)
    expect(JSON.stringify(events)).not.toContain('nightly')
    expect((await show(place, review.id)).counts).toMatchObject({ decided: 1, undecided: 1 })
  })

  it('revokes, with a key too, so that the next request is refused; and what is revoked stays so', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const connected = await connectPerson(server, place, world.people.member, 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const review = await open(place)
    expect(await works(String(connected.access_token), place.workspaceId)).toBe(true)
    const byKey = bearer(place.key)
    const revoked = await decide(place, review, token.id, { decision: 'revoke' }, byKey)
    expect([revoked.status, revoked.body.outcome]).toEqual([200, 'revoked'])
    expect(await works(token.key, place.workspaceId)).toBe(false)
    // The last word counts until something is gone.
    expect((await decide(place, review, connection.id, { decision: 'keep' })).status).toBe(200)
    expect((await decide(place, review, connection.id, { decision: 'revoke' })).status).toBe(200)
    expect(await works(String(connected.access_token), place.workspaceId)).toBe(false)
    expect((await decide(place, review, connection.id, { decision: 'keep' })).status).toBe(409)
    expect((await decide(place, review, token.id, { decision: 'revoke' }, byKey)).status).toBe(200)
    const events = await eventsOf(review.id)
    expect([countOf(events, 'review.revoked'), countOf(events, 'review.attested')]).toEqual([2, 1])
    const ends = await server.db
      .selectFrom('audit_events')
      .select('event')
      .where('credential_id', 'in', [token.id, connection.id])
      .where('event', 'in', ['token.revoked', 'connection.closed'])
      .execute()
    expect(ends.map(({ event }) => event).sort()).toEqual(['connection.closed', 'token.revoked'])
  })

  it('lets no credential attest itself, but end itself', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    const itself = bearer(token.key)
    expect((await decide(place, review, token.id, { decision: 'keep' }, itself)).body.code).toBe('wrong_credential')
    expect((await decide(place, review, place.workspaceId, { decision: 'keep' }, itself)).status).toBe(200)
    expect((await decide(place, review, token.id, { decision: 'revoke' }, itself)).status).toBe(200)
    expect(await works(token.key, place.workspaceId)).toBe(false)
  })

  it('takes for each kind what can be said of it, and nothing else', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    const policy = place.workspaceId
    expect((await decide(place, review, policy, { decision: 'revoke' })).status).toBe(400)
    expect((await decide(place, review, token.id, { decision: 'changed' })).status).toBe(400)
    expect((await decide(place, review, token.id, { decision: 'perhaps' })).status).toBe(400)
    expect((await decide(place, review, token.id, { decision: 'keep', note: token.key })).status).toBe(400)
    expect((await decide(place, review, policy, { decision: 'changed' })).status).toBe(200)
    expect(await works(token.key, place.workspaceId)).toBe(true)
    const nowhere = `${reviews(place)}/${review.id}/items/rvi_00000000000000000000000000`
    expect((await call(server, admin(), 'POST', nowhere, { body: { decision: 'keep' } })).status).toBe(404)
  })
})

describe('the date', () => {
  it('suspends what nobody attested, then and not before, and leaves what was', async () => {
    const place = await makeWorkspace()
    const kept = await makeToken(server, place)
    const forgotten = await makeToken(server, place)
    const connected = await connectPerson(server, place, world.people.member, 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const review = await open(place)
    const later = await makeToken(server, place)
    expect((await decide(place, review, kept.id, { decision: 'keep' })).status).toBe(200)
    await runClosing()
    expect((await show(place, review.id)).closed_at).toBeNull()
    expect(await works(forgotten.key, place.workspaceId)).toBe(true)

    await comeDue(review.id)
    const late = await decide(place, review, forgotten.id, { decision: 'keep' })
    expect([late.status, late.body.code]).toEqual([409, 'conflict'])
    await runClosing()
    const closed = await show(place, review.id)
    expect(closed.closed_at).not.toBeNull()
    expect(closed.closed_by).toBe('schedule')
    const outcomes = Object.fromEntries(closed.items.map((item: Item) => [item.subject_id, item.outcome]))
    expect(outcomes).toEqual({
      [kept.id]: 'kept',
      [forgotten.id]: 'suspended',
      [connection.id]: 'suspended',
      [place.workspaceId]: 'not_attested',
    })
    expect(await works(kept.key, place.workspaceId)).toBe(true)
    expect(await works(later.key, place.workspaceId)).toBe(true)
    expect(await works(forgotten.key, place.workspaceId)).toBe(false)
    expect(await works(String(connected.access_token), place.workspaceId)).toBe(false)
    const events = await eventsOf(review.id)
    expect(events.at(-1)).toMatchObject({
      event: 'review.closed',
      actor_kind: 'schedule',
      detail: { kept: 1, suspended: 2, not_attested: 1, revoked: 0, changed: 0, ended: 0 },
    })
  })

  it('comes at once by command', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    expect(await server.run('review close', { review: review.id })).toMatchObject({ closed_by: 'operator' })
    expect(await works(token.key, place.workspaceId)).toBe(false)
    await server.run('review close', { review: review.id })
    expect(countOf(await eventsOf(review.id), 'review.closed')).toBe(1)
    await expect(server.run('review close', { review: 'rev_nothing' })).rejects.toMatchObject({ code: 'not_found' })
  })

  it('suspends nothing that ended meanwhile, nor what an archived workspace held', async () => {
    const place = await makeWorkspace()
    const ended = await makeToken(server, place)
    const left = await makeToken(server, place)
    const review = await open(place)
    await call(server, bearer(place.key), 'DELETE', `/workspaces/${place.workspaceId}/api-keys/${ended.id}`)
    expect((await show(place, review.id)).counts).toEqual({ items: 3, decided: 1, undecided: 2 })
    const archived = await call(server, world.people.owner, 'POST', `/workspaces/${place.workspaceId}/archive`, {
      body: {},
    })
    expect(archived.status, archived.text).toBeLessThan(300)
    await comeDue(review.id)
    await runClosing()
    const items = await server.db
      .selectFrom('access_review_items')
      .select(['subject_id', 'outcome'])
      .where('review_id', '=', review.id)
      .execute()
    expect(Object.fromEntries(items.map((item) => [item.subject_id, item.outcome]))).toMatchObject({
      [ended.id]: 'ended',
      [left.id]: expect.stringMatching(/^(ended|suspended)$/),
    })
  })

  it('need not come where everything is decided: then it is closed, once', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    const close = (credential: Credential = admin()) =>
      call(server, credential, 'POST', `${reviews(place)}/${review.id}/close`, { body: {} })
    expect((await decide(place, review, token.id, { decision: 'keep' })).status).toBe(200)
    const early = await close()
    expect([early.status, early.body.code, early.body.detail]).toEqual([409, 'conflict', expect.stringContaining('1 ')])
    expect((await decide(place, review, place.workspaceId, { decision: 'keep' })).status).toBe(200)
    expect((await close(world.people.member)).status).toBe(403)
    const closed = await close()
    expect([closed.status, closed.body.closed_by]).toEqual([200, world.people.admin.userId])
    expect((await close()).body.closed_at).toBe(closed.body.closed_at)
    expect(countOf(await eventsOf(review.id), 'review.closed')).toBe(1)
    expect((await decide(place, review, token.id, { decision: 'revoke' })).status).toBe(409)
    expect(await works(token.key, place.workspaceId)).toBe(true)
    expect((await open(place)).id).not.toBe(review.id)
  })
})

describe('the report', () => {
  it('is verified with the public key alone, and not after a change of one character', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place, { reason: 'incident' })
    const path = `${reviews(place)}/${review.id}/report`
    expect((await call(server, admin(), 'GET', path)).status).toBe(404)
    await decide(place, review, token.id, { decision: 'keep', note: 'known' })
    await server.run('review close', { review: review.id })
    const { status, body } = await call(server, admin(), 'GET', path)
    expect(status).toBe(200)
    expect((await call(server, world.neighbour.owner, 'GET', path)).status).toBe(404)
    const [publicKey] = server.app.signer.publicKeys()
    const key = await importJWK(publicKey as JWK, 'EdDSA')
    const { payload, protectedHeader } = await compactVerify(body.jws, key)
    expect(protectedHeader.typ).toBe('latchkey-access-review')
    const signed = JSON.parse(Buffer.from(payload).toString('utf8'))
    expect(signed).toEqual(body.report)
    expect(signed).toMatchObject({
      review_id: review.id,
      workspace_id: place.workspaceId,
      reasons: ['incident'],
      counts: { kept: 1, not_attested: 1, suspended: 0 },
    })
    expect(signed.items.find((item: Item) => item.subject_id === token.id)).toMatchObject({
      decision: 'keep',
      note: 'known',
      decided_by: world.people.admin.userId,
      decided_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      outcome: 'kept',
    })
    for (const { email } of Object.values(world.people)) expect(JSON.stringify(signed)).not.toContain(email)
    const [header, content, signature] = body.jws.split('.')
    const at = Math.floor(content.length / 2)
    const changed = `${content.slice(0, at)}${content[at] === 'A' ? 'B' : 'A'}${content.slice(at + 1)}`
    await expect(compactVerify([header, changed, signature].join('.'), key)).rejects.toThrow()
    expect(await server.app.signer.openDocument('latchkey-audit-export', body.jws)).toBeUndefined()
  })
})

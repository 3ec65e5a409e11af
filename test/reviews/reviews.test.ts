// Access reviews: what is looked at, who decides, what happens to what nobody attested, and the report that remains.
import { randomBytes } from 'node:crypto'
import { compactVerify, importJWK, type JWK } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { UserId } from '../../src/ids.ts'
import { closeDecided, closeNow, verifyReport } from '../../src/reviews/service.ts'
import type { RevocationList } from '../../src/revocation/service.ts'
import type { SinkSigner } from '../../src/sink/signing.ts'
import {
  type ApiWorld,
  bearer,
  type Credential,
  call,
  connectPerson,
  exchanged,
  makeApiWorld,
  makePerson,
  makeToken,
  newLabel,
  type Session,
  signInBrowser,
} from '../support/api.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { connect, type TestClient } from '../support/world.ts'

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

/** Of the workspace alone: so often as in these tests nobody signs in themselves. */
async function makeMember(place: Place) {
  const person = await makePerson(server)
  await server.run('member add', { workspace: place.workspaceId, user: person.email, role: 'member' })
  return person
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
  now: Record<string, unknown> | null
  granted_digest: string
  is_decided: boolean
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

async function forbidTokens(place: Place, tokens_forbidden: boolean) {
  const body = { tokens_forbidden, expiry_required: false, max_age_days: null, environments: null }
  const path = `/workspaces/${place.workspaceId}/token-policy`
  const answer = await call(server, bearer(place.key), 'PUT', path, { body })
  expect(answer.status, answer.text).toBe(200)
}

/** As an approval of more scopes does. */
const widen = (id: string) =>
  sql`update connections set approved = jsonb_set(approved, '{resources}', (
    select jsonb_object_agg(key, 'read ingest manage') from jsonb_each(approved -> 'resources'))) where id = ${id}`.execute(
    server.db,
  )
const widened = (resources: unknown) =>
  Object.fromEntries(Object.keys(resources ?? {}).map((name) => [name, 'read ingest manage']))

/** As if its date had come. */
const comeDue = (id: string) =>
  sql`update access_reviews set due_at = clock_timestamp() - interval '1 millisecond' where id = ${id}`.execute(
    server.db,
  )

const comeNear = (id: string, interval: string) =>
  sql`update access_reviews set due_at = clock_timestamp() + ${interval}::interval where id = ${id}`.execute(server.db)

const runTeamChanges = () => server.run('jobs run', { job: 'reviews-team' })
const runClosing = () => server.run('jobs run', { job: 'reviews-close' })

const works = async (value: string, workspaceId: string): Promise<boolean> =>
  (await call(server, bearer(value), 'GET', `/workspaces/${workspaceId}`)).status === 200

const byOperator = (reviewId: string) =>
  ({ reviewId, actor: { kind: 'operator' }, request: { traceId: 'test' } }) as const

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
    const list = async () => {
      await runTeamChanges()
      return (await call(server, admin(), 'GET', reviews(place))).body
    }
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
  })

  it('outlives the process that changed the team, and is that change’s: whoever removed somebody opened it', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const path = `/workspaces/${place.workspaceId}/members/${world.people.member.userId}`
    expect((await call(server, admin(), 'DELETE', path)).status).toBe(204)
    expect((await call(server, admin(), 'GET', reviews(place))).body).toEqual([]) // nobody has waited for it
    await runTeamChanges()
    const [opened] = (await call(server, admin(), 'GET', reviews(place))).body
    expect(opened).toMatchObject({ reasons: ['team_change'], opened_by: world.people.admin.userId })
    expect(itemOf(await show(place, opened.id), token.id).decision).toBeNull()
    await runTeamChanges()
    expect(countOf(await eventsOf(opened.id), 'review.reason_added')).toBe(0)
  })

  it('after an incident and a change of the team takes in what was made since; the incident asks again for all', async () => {
    const place = await makeWorkspace()
    const old = await makeToken(server, place)
    const gone = await makeToken(server, place)
    const review = await open(place)
    for (const subject of [old.id, place.workspaceId])
      expect((await decide(place, review, subject, { decision: 'keep', note: 'known' })).status).toBe(200)
    expect((await decide(place, review, gone.id, { decision: 'revoke' })).status).toBe(200)

    const second = await makeToken(server, place)
    const path = `/workspaces/${place.workspaceId}/members/${world.people.member.userId}`
    expect((await call(server, admin(), 'DELETE', path)).status).toBe(204)
    await runTeamChanges()
    const changed = await show(place, review.id)
    expect(changed.reasons).toEqual(['asked', 'team_change'])
    expect(itemOf(changed, second.id).decision).toBeNull()
    expect(itemOf(changed, old.id).decision).toBe('keep')

    const third = await makeToken(server, place)
    const incident = await open(place, { reason: 'incident' }, 200)
    expect(incident.counts).toEqual({ items: 5, decided: 1, undecided: 4 })
    expect(itemOf(incident, third.id).decision).toBeNull()
    expect(itemOf(incident, old.id)).toMatchObject({ decision: null, note: null, decided_by: null, decided_at: null })
    expect(itemOf(incident, gone.id)).toMatchObject({ decision: 'revoke', outcome: 'revoked' })
    const reasons = (await eventsOf(review.id)).filter(({ event }) => event === 'review.reason_added')
    expect(reasons.map(({ detail }) => detail)).toEqual([
      expect.objectContaining({ reason: 'team_change', items_added: 1, decisions_taken_back: 0 }),
      expect.objectContaining({ reason: 'incident', items_added: 1, decisions_taken_back: 2 }),
    ])
  })

  it('is not joined once its date has passed: what comes in then could be looked at by nobody', async () => {
    const place = await makeWorkspace()
    const review = await open(place)
    const token = await makeToken(server, place)
    await comeDue(review.id)
    expect((await open(place, { reason: 'incident' }, 409)).code).toBe('conflict')
    const path = `/workspaces/${place.workspaceId}/members/${world.people.member.userId}`
    expect((await call(server, admin(), 'DELETE', path)).status).toBe(204)
    await runTeamChanges()
    await runClosing()
    expect((await show(place, review.id)).items).toHaveLength(1)
    expect(await works(token.key, place.workspaceId)).toBe(true)
    await runTeamChanges()
    const [next] = (await call(server, admin(), 'GET', reviews(place))).body
    expect(next).toMatchObject({ reasons: ['team_change'], counts: { items: 2, undecided: 2 } })
  })

  it('leaves a day to decide anew where an incident takes decisions back, and the date as it is where it takes none', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    const hours = (due: { due_at: string }) => (Date.parse(due.due_at) - Date.now()) / 3_600_000
    await comeNear(review.id, '3 hours')
    for (const subject of [token.id, place.workspaceId])
      expect((await decide(place, review, subject, { decision: 'keep' })).status).toBe(200)
    const incident = await open(place, { reason: 'incident' }, 200)
    expect(incident.counts).toMatchObject({ decided: 0, undecided: 2 })
    expect(hours(incident)).toBeCloseTo(24, 1)
    await comeNear(review.id, '3 hours')
    expect(hours(await open(place, { reason: 'incident' }, 200))).toBeCloseTo(3, 1)
    const later = await makeToken(server, place)
    const joined = await open(place, { reason: 'incident' }, 200)
    expect(itemOf(joined, later.id).decision).toBeNull()
    expect(hours(joined)).toBeCloseTo(24, 1)
  })

  it('after an incident is not for the credentials of the workspace: they would take back what people attested', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    expect((await decide(place, review, token.id, { decision: 'keep' })).status).toBe(200)
    for (const value of [token.key, await exchanged(server, token.key)]) {
      const asked = { body: { reason: 'incident' } }
      const refused = await call(server, bearer(value), 'POST', reviews(place), asked)
      expect([refused.status, refused.body.code]).toEqual([403, 'wrong_credential'])
    }
    expect(await show(place, review.id)).toMatchObject({ reasons: ['asked'], counts: { decided: 1 } })
    expect((await call(server, bearer(token.key), 'POST', reviews(place), { body: {} })).status).toBe(200)
  })

  it('is not joined by a change of the team in its last day: what came in then could hardly be looked at', async () => {
    const place = await makeWorkspace()
    const review = await open(place)
    const token = await makeToken(server, place)
    await comeNear(review.id, '23 hours')
    const path = `/workspaces/${place.workspaceId}/members/${world.people.member.userId}`
    expect((await call(server, admin(), 'DELETE', path)).status).toBe(204)
    await runTeamChanges()
    expect(await show(place, review.id)).toMatchObject({ reasons: ['asked'], counts: { items: 1 } })
    await comeDue(review.id)
    await runClosing()
    expect(await works(token.key, place.workspaceId)).toBe(true)
    await runTeamChanges()
    const [next] = (await call(server, admin(), 'GET', reviews(place))).body
    expect(next).toMatchObject({ reasons: ['team_change'], counts: { items: 2, undecided: 2 } })
  })

  it('says of itself only what a caller can know: the schedule and a change of the team are nobody’s to claim', async () => {
    const place = await makeWorkspace()
    for (const reason of ['quarterly', 'team_change'])
      expect((await open(place, { reason }, 400)).code).toBe('invalid_request')
    expect((await call(server, admin(), 'GET', reviews(place))).body).toEqual([])
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

  it('takes no word of a workspace’s own credentials for one another; they may end, also themselves', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const other = await makeToken(server, place)
    const review = await open(place)
    const itself = bearer(token.key)
    for (const subject of [token.id, other.id, place.workspaceId]) {
      const refused = await decide(place, review, subject, { decision: 'keep' }, itself)
      expect([refused.status, refused.body.code]).toEqual([403, 'wrong_credential'])
    }
    const closing = await call(server, itself, 'POST', `${reviews(place)}/${review.id}/close`, { body: {} })
    expect([closing.status, closing.body.code]).toEqual([403, 'wrong_credential'])
    expect((await show(place, review.id)).counts).toMatchObject({ decided: 0 })
    expect((await decide(place, review, other.id, { decision: 'revoke' }, itself)).status).toBe(200)
    expect((await decide(place, review, token.id, { decision: 'revoke' }, itself)).status).toBe(200)
    expect(await works(token.key, place.workspaceId)).toBe(false)
    const byKey = await decide(place, review, place.workspaceId, { decision: 'keep' }, bearer(place.key))
    expect(byKey.status).toBe(200)
    const end = { body: {} }
    expect((await call(server, bearer(place.key), 'POST', `${reviews(place)}/${review.id}/close`, end)).status).toBe(
      200,
    )
  })

  it('finds no item of another review, and ends nothing of it', async () => {
    const [here, there] = [await makeWorkspace(), await makeWorkspace()]
    const token = await makeToken(server, there)
    const [review, other] = [await open(here), await open(there)]
    const path = `${reviews(here)}/${review.id}/items/${itemOf(other, token.id).id}`
    const answer = await call(server, world.people.owner, 'POST', path, { body: { decision: 'revoke' } })
    expect([answer.status, await works(token.key, there.workspaceId)]).toEqual([404, true])
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
    const unchanged = await decide(place, review, policy, { decision: 'changed' })
    expect([unchanged.status, unchanged.body.code]).toEqual([409, 'conflict'])
    await forbidTokens(place, true)
    expect((await decide(place, review, policy, { decision: 'changed' })).status).toBe(200)
    const nowhere = `${reviews(place)}/${review.id}/items/rvi_00000000000000000000000000`
    expect((await call(server, admin(), 'POST', nowhere, { body: { decision: 'keep' } })).status).toBe(404)
  })
})

describe('what somebody saw', () => {
  it('is what they attest: where it is another thing by then they are asked to look again, and end it all the same', async () => {
    const place = await makeWorkspace()
    await connectPerson(server, place, await makeMember(place), 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const review = await open(place)
    const { granted_digest } = itemOf(review, connection.id)
    expect(granted_digest).toMatch(/^[\w-]{43}$/)
    await widen(connection.id)
    const refused = await decide(place, review, connection.id, { decision: 'keep', granted_digest })
    expect([refused.status, refused.body.code]).toEqual([409, 'conflict'])
    expect((await show(place, review.id)).counts).toMatchObject({ decided: 0 })
    const seen = itemOf(await show(place, review.id), connection.id)
    expect(seen.granted_digest).not.toBe(granted_digest)
    const kept = await decide(place, review, connection.id, { decision: 'keep', granted_digest: seen.granted_digest })
    expect([kept.status, kept.body.attested]).toEqual([200, expect.objectContaining(seen.now ?? {})])
    await forbidTokens(place, true)
    const policy = { decision: 'changed', granted_digest: itemOf(review, place.workspaceId).granted_digest }
    expect((await decide(place, review, place.workspaceId, policy)).status).toBe(409)
    expect((await decide(place, review, connection.id, { decision: 'revoke', granted_digest })).status).toBe(200)
  })
})

describe('what was attested', () => {
  it('is what it was at that moment: shown beside what it was before, and signed', async () => {
    const place = await makeWorkspace()
    await connectPerson(server, place, world.people.member, 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const review = await open(place)
    expect(itemOf(review, connection.id)).toMatchObject({ now: null, attested: null })
    await widen(connection.id)
    await forbidTokens(place, true)
    const shown = await show(place, review.id)
    const { resources } = itemOf(shown, connection.id).snapshot
    const wider = { resources: widened(resources) }
    expect(itemOf(shown, connection.id).now).toEqual(wider)
    expect(itemOf(shown, place.workspaceId).now).toEqual({ tokens_forbidden: true })
    const kept = await decide(place, review, connection.id, { decision: 'keep' })
    expect(kept.body).toMatchObject({ snapshot: { resources }, attested: wider, is_decided: true })
    await decide(place, review, place.workspaceId, { decision: 'changed' })
    const closed = await call(server, admin(), 'POST', `${reviews(place)}/${review.id}/close`, { body: {} })
    expect(closed.status, closed.text).toBe(200)
    const { report } = (await call(server, admin(), 'GET', `${reviews(place)}/${review.id}/report`)).body
    expect(itemOf(report, connection.id)).toMatchObject({ snapshot: { resources }, attested: wider, outcome: 'kept' })
    expect(itemOf(report, place.workspaceId)).toMatchObject({
      snapshot: { tokens_forbidden: false },
      attested: { tokens_forbidden: true },
      outcome: 'changed',
    })
  })

  it('does not cover what came after it: that is undecided again, and suspended at the date', async () => {
    const place = await makeWorkspace()
    const connected = await connectPerson(server, place, world.people.member, 'read')
    await connectPerson(server, place, world.people.admin, 'read')
    const list = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const [wider, less] = [world.people.member, world.people.admin].map(
      ({ userId }) => list.find(({ user_id }: { user_id: string }) => user_id === userId).id,
    )
    const review = await open(place)
    for (const subject of [wider, less, place.workspaceId])
      expect((await decide(place, review, subject, { decision: 'keep' })).status).toBe(200)
    await widen(wider)
    await sql`update connections set approved = jsonb_set(approved, '{resources}', '{}') where id = ${less}`.execute(
      server.db,
    )
    await forbidTokens(place, true)
    const shown = await show(place, review.id)
    expect(shown.counts).toEqual({ items: 3, decided: 1, undecided: 2 })
    expect(shown.items.map((item: Item) => [item.subject_id, item.is_decided])).toEqual(
      expect.arrayContaining([
        [wider, false],
        [less, true],
        [place.workspaceId, false],
      ]),
    )
    expect((await call(server, admin(), 'GET', reviews(place))).body[0].counts).toEqual(shown.counts)
    const early = await call(server, admin(), 'POST', `${reviews(place)}/${review.id}/close`, { body: {} })
    expect(early.status).toBe(409)
    await comeDue(review.id)
    await runClosing()
    const closed = await show(place, review.id)
    expect(Object.fromEntries(closed.items.map((item: Item) => [item.subject_id, item.outcome]))).toEqual({
      [wider]: 'suspended',
      [less]: 'kept',
      [place.workspaceId]: 'not_attested',
    })
    expect(await works(String(connected.access_token), place.workspaceId)).toBe(false)
  })

  it('is the life of a token, too: a longer one is undecided again, a shorter one is not', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place, { expires_in: 86_400 })
    const review = await open(place)
    const path = `/workspaces/${place.workspaceId}/api-keys/${token.id}`
    const rotate = async (life: object) => {
      const answer = await call(server, bearer(place.key), 'POST', `${path}/rotate`, { body: life })
      expect(answer.status, answer.text).toBe(201)
    }
    const shown = async () => itemOf(await show(place, review.id), token.id)
    const { expires_at } = itemOf(review, token.id).snapshot
    expect(itemOf(review, token.id).now).toBeNull()
    expect((await decide(place, review, token.id, { decision: 'keep' })).status).toBe(200)
    await rotate({ expires_in: 3_600 })
    expect(await shown()).toMatchObject({ is_decided: true, now: null, attested: { expires_at } }) // the older one lives on
    expect((await call(server, bearer(place.key), 'POST', `${path}/cutover`, { body: {} })).status).toBe(200)
    expect(await shown()).toMatchObject({ is_decided: true, now: { expires_at: expect.any(String) } })
    await rotate({ expires_in: 2 * 86_400 })
    expect(await shown()).toMatchObject({ is_decided: false })
    expect((await decide(place, review, token.id, { decision: 'keep' })).body.is_decided).toBe(true)
    expect((await call(server, bearer(place.key), 'POST', `${path}/cutover`, { body: {} })).status).toBe(200)
    await rotate({ expires_at: null })
    expect(await shown()).toMatchObject({ is_decided: false, now: { expires_at: null } })
    await comeDue(review.id)
    await runClosing()
    expect((await shown()).outcome).toBe('suspended')
  })

  it('is the life of the version that lives longest, as the snapshot says it: beside a shorter one, and when all have ended', async () => {
    const place = await makeWorkspace()
    const beside = await makeToken(server, place, { expires_in: 86_400 })
    const cutOver = await makeToken(server, place)
    const ended = await makeToken(server, place, { expires_in: 86_400 })
    for (const { id } of [beside, cutOver]) {
      const path = `/workspaces/${place.workspaceId}/api-keys/${id}/rotate`
      expect((await call(server, bearer(place.key), 'POST', path, { body: { expires_in: 3_600 } })).status).toBe(201)
    }
    await sql`update token_lines set cutover = 'at', cutover_at = clock_timestamp() - interval '1 second'
      where id = ${cutOver.id}`.execute(server.db)
    await sql`update token_versions set expires_at = clock_timestamp() - interval '1 second'
      where token_id = ${ended.id}`.execute(server.db)
    const review = await open(place)
    const endsIn = ({ id }: { id: string }) => {
      const { snapshot, now } = itemOf(review, id)
      return [(Date.parse(String(snapshot.expires_at)) - Date.now()) / 3_600_000, now]
    }
    expect(endsIn(beside)).toEqual([expect.closeTo(24, 1), null])
    expect(endsIn(cutOver)).toEqual([expect.closeTo(1, 1), null])
    expect(endsIn(ended)).toEqual([expect.closeTo(0, 1), null])
  })

  it('is that it was suspended, too: once somebody restores it, it is undecided again', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    await connectPerson(server, place, await makeMember(place), 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const paths = [`api-keys/${token.id}`, `connections/${connection.id}`]
    const each = async (what: 'suspend' | 'restore') => {
      for (const path of paths) {
        const answer = await call(
          server,
          bearer(place.key),
          'POST',
          `/workspaces/${place.workspaceId}/${path}/${what}`,
          {
            body: {},
          },
        )
        expect(answer.status, answer.text).toBe(200)
      }
    }
    await each('suspend')
    const review = await open(place)
    const standing = async () => {
      const shown = await show(place, review.id)
      return [token.id, connection.id].map((id) => [itemOf(shown, id).is_decided, itemOf(shown, id).now])
    }
    for (const subject of [token.id, connection.id])
      expect((await decide(place, review, subject, { decision: 'keep' })).status).toBe(200)
    await each('restore')
    expect(await standing()).toEqual([
      [false, { suspended: false }],
      [false, { suspended: false }],
    ])
    for (const subject of [token.id, connection.id])
      expect((await decide(place, review, subject, { decision: 'keep' })).status).toBe(200)
    await each('suspend')
    expect(await standing()).toEqual([
      [true, null],
      [true, null],
    ])
  })

  it('is said anew where it did not hold any more', async () => {
    const place = await makeWorkspace()
    await connectPerson(server, place, world.people.member, 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const review = await open(place)
    await decide(place, review, connection.id, { decision: 'keep' })
    await widen(connection.id)
    const again = await decide(place, review, connection.id, { decision: 'keep' })
    expect([again.status, again.body.is_decided]).toEqual([200, true])
    expect(countOf(await eventsOf(review.id), 'review.attested')).toBe(2)
  })
})

describe('a person who connects again while a review is open', () => {
  /** What is open of a client. */
  const openOf = async (place: Place, clientId: string) => {
    const list = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    return list.find(({ client_id }: { client_id: string }) => client_id === clientId)
  }
  async function connectAgain(place: Place, person: Session, client: TestClient, scope: string) {
    const connection = await openOf(place, client.id)
    const path = `/workspaces/${place.workspaceId}/connections/${connection.id}`
    expect((await call(server, person, 'DELETE', path)).status).toBe(204)
    const again = { ...place, ...person, organizationId: '', otherWorkspaceId: '', client }
    const more = { resource: `${server.origin}/api`, scope: `openid ${scope}` }
    const { access_token } = await connect(server, again, { client, more })
    return { id: (await openOf(place, client.id)).id, value: String(access_token) }
  }

  it('is in the review again, as undecided as before: that is no way around its date', async () => {
    const place = await makeWorkspace()
    const person = await signInBrowser(server, await makeMember(place))
    const { client } = await connectPerson(server, place, person, 'read')
    const review = await open(place)
    const again = await connectAgain(place, person, client, 'read')
    const shown = await show(place, review.id)
    expect(itemOf(shown, again.id)).toMatchObject({
      kind: 'connection',
      snapshot: { client_id: client.id, user_id: person.userId, suspended: false },
      is_decided: false,
    })
    expect(shown.counts).toEqual({ items: 3, decided: 1, undecided: 2 })
    const other = await connectPerson(server, place, await makeMember(place), 'read')
    expect((await show(place, review.id)).counts.items).toBe(3) // another person's, and another app, are new
    await comeDue(review.id)
    await runClosing()
    expect(itemOf(await show(place, review.id), again.id).outcome).toBe('suspended')
    expect(await works(again.value, place.workspaceId)).toBe(false)
    expect(await works(String(other.access_token), place.workspaceId)).toBe(true)
  })

  it('is kept where what was kept covers it, undecided once it is more, and can be revoked', async () => {
    const place = await makeWorkspace()
    const person = await signInBrowser(server, await makeMember(place))
    const { client } = await connectPerson(server, place, person, 'read')
    const review = await open(place)
    const before = await openOf(place, client.id)
    expect((await decide(place, review, before.id, { decision: 'keep' })).status).toBe(200)
    const second = await connectAgain(place, person, client, 'read')
    expect(itemOf(await show(place, review.id), second.id)).toMatchObject({ is_decided: true, decision: 'keep' })
    const third = await connectAgain(place, person, client, 'read')
    expect(itemOf(await show(place, review.id), third.id)).toMatchObject({ is_decided: true, decision: 'keep' })
    const wider = await connectAgain(place, person, client, 'read ingest')
    expect(itemOf(await show(place, review.id), wider.id).is_decided).toBe(false)
    const again = await connectAgain(place, person, client, 'read')
    expect(itemOf(await show(place, review.id), again.id).is_decided).toBe(false) // the last word was none
    expect((await decide(place, await show(place, review.id), again.id, { decision: 'keep' })).status).toBe(200)
    const last = await connectAgain(place, person, client, 'read')
    expect((await decide(place, await show(place, review.id), last.id, { decision: 'revoke' })).status).toBe(200)
    expect(await works(last.value, place.workspaceId)).toBe(false)
  })
})

describe('a review of much', () => {
  it('is read in pages, each item once, with counts of all of it', async () => {
    const place = await makeWorkspace()
    for (let count = 0; count < 4; count++) await makeToken(server, place)
    const review = await open(place)
    const seen: string[] = []
    let path: string | undefined = `${reviews(place)}/${review.id}?limit=2`
    while (path !== undefined) {
      const answer = await call(server, admin(), 'GET', path)
      expect(answer.status, answer.text).toBe(200)
      expect(answer.body.counts.items).toBe(5)
      expect(answer.body.items.length).toBeLessThanOrEqual(2)
      seen.push(...answer.body.items.map(({ id }: Item) => id))
      path = /<\/api\/v1([^>]+)>; rel="next"/.exec(answer.headers.get('link') ?? '')?.[1]
    }
    expect(seen).toEqual(review.items.map(({ id }: Item) => id))
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

  it('is not undone by what is looked at: a person restores what was suspended, or a key of the organization', async () => {
    const place = await makeWorkspace()
    const kept = await makeToken(server, place)
    const forgotten = await makeToken(server, place)
    await connectPerson(server, place, await makeMember(place), 'read')
    const [connection] = (await call(server, admin(), 'GET', `/workspaces/${place.workspaceId}/connections`)).body
    const review = await open(place)
    expect((await decide(place, review, kept.id, { decision: 'keep' })).status).toBe(200)
    await comeDue(review.id)
    await runClosing()
    const restore = (path: string, credential: Credential) =>
      call(server, credential, 'POST', `/workspaces/${place.workspaceId}/${path}/restore`, { body: {} })
    const suspended = [`api-keys/${forgotten.id}`, `connections/${connection.id}`]
    for (const path of suspended)
      for (const value of [kept.key, await exchanged(server, kept.key)]) {
        const refused = await restore(path, bearer(value))
        expect([refused.status, refused.body.code]).toEqual([403, 'wrong_credential'])
      }
    expect(await works(forgotten.key, place.workspaceId)).toBe(false)
    const [token = '', ofPerson = ''] = suspended
    expect((await restore(token, bearer(place.key))).body.suspended_at).toBeNull()
    expect((await restore(ofPerson, admin())).body.suspended_at).toBeNull()
    expect(await works(forgotten.key, place.workspaceId)).toBe(true)
  })

  it('leaves what was kept between the reading of the list and its turn', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    let isFirst = true
    const revocations: RevocationList = {
      ...server.app.revocations,
      async change(work, options) {
        if (isFirst) {
          isFirst = false
          expect((await decide(place, review, token.id, { decision: 'keep' })).status).toBe(200)
        }
        return server.app.revocations.change(work, options)
      },
    }
    await closeNow({ ...server.app, revocations }, byOperator(review.id))
    expect(itemOf(await show(place, review.id), token.id).outcome).toBe('kept')
    expect(await works(token.key, place.workspaceId)).toBe(true)
  })

  it('finds the report made anew where somebody decided otherwise while it was signed', async () => {
    const place = await makeWorkspace()
    const token = await makeToken(server, place)
    const review = await open(place)
    await decide(place, review, token.id, { decision: 'keep' })
    let isFirst = true
    const signer: SinkSigner = {
      ...server.app.signer,
      async signDocument(type, payload) {
        if (isFirst) {
          isFirst = false
          expect((await decide(place, review, token.id, { decision: 'revoke' })).status).toBe(200)
        }
        return server.app.signer.signDocument(type, payload)
      },
    }
    await closeNow({ ...server.app, signer }, byOperator(review.id))
    const { report } = (await call(server, admin(), 'GET', `${reviews(place)}/${review.id}/report`)).body
    expect(itemOf(report, token.id).outcome).toBe('revoked')
  })

  it('is not brought about by whoever is no admin any more when it is asked for', async () => {
    const place = await makeWorkspace()
    const review = await open(place)
    expect((await decide(place, review, place.workspaceId, { decision: 'keep' })).status).toBe(200)
    const person = (userId: string) => ({
      workspaceId: place.workspaceId,
      reviewId: review.id,
      authority: { kind: 'person' as const, userId: userId as UserId, signedInAt: Date.now() / 1_000 },
      request: { traceId: 'test' },
    })
    const refused = closeDecided(server.app, person(world.people.viewer.userId))
    await expect(refused).rejects.toMatchObject({ code: 'role_too_low' })
    expect((await show(place, review.id)).closed_at).toBeNull()
    await closeDecided(server.app, person(world.people.admin.userId))
    expect((await show(place, review.id)).closed_by).toBe(world.people.admin.userId)
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

  it('as a file says what of it is not so: the text beside the signature, the signature, or all of it', async () => {
    const place = await makeWorkspace()
    const review = await open(place)
    await server.run('review close', { review: review.id })
    const { body } = await call(server, admin(), 'GET', `${reviews(place)}/${review.id}/report`)
    const keys = server.app.signer.publicKeys()
    const verified = (file: unknown, by = keys) =>
      verifyReport(typeof file === 'string' ? file : JSON.stringify(file), by)
    expect(await verified(body)).toEqual({
      ok: true,
      review: review.id,
      closed_at: body.report.closed_at,
      signature: 'good',
      fault: null,
    })
    const other = { ...body.report, counts: { ...body.report.counts, kept: 7 } }
    expect(await verified({ ...body, report: other })).toMatchObject({ ok: false, fault: 'report_changed' })
    const [header, content, signature] = body.jws.split('.')
    const forged = Buffer.from(JSON.stringify(other)).toString('base64url')
    const rewritten = { report: other, jws: [header, forged, signature].join('.') }
    expect(await verified(rewritten)).toMatchObject({ ok: false, signature: 'wrong', fault: 'signature_wrong' })
    expect(content).not.toBe(forged)
    const archive = await server.app.signer.signDocument('latchkey-archive', body.report)
    expect(await verified({ ...body, jws: archive })).toMatchObject({ ok: false, fault: 'signature_wrong' })
    expect(await verified(body, [])).toMatchObject({ ok: true, signature: 'unchecked' })
    // Two readers of one text must read one thing.
    const text = JSON.stringify(body)
    for (const good of [text, `${text}\n`, `${JSON.stringify(body, undefined, 2)}\n`])
      expect((await verified(good)).ok, good).toBe(true)
    const ambiguous = [
      `{"report":${JSON.stringify(other)},${text.slice(1)}`,
      text.replace('"counts":', '"counts":{"kept":99},"counts":'),
      text.replace('"report_version":1', '"report_version":1.0e0'),
      `{"__proto__":{"note":"all was kept"},${text.slice(1)}`,
      text.replace('{"report":{', '{"report":{"note":"\\ud800",'),
      `${text}\n\n`,
      ` ${text}`,
    ]
    for (const file of ambiguous) {
      expect(file).not.toBe(text)
      expect(await verified(file), file).toMatchObject({ ok: false, fault: 'not_readable' })
    }
    const hidden = text.replace('{"report":{', '{"report":{"__proto__":{"note":"all was kept"},')
    expect(await verified(hidden)).toMatchObject({ ok: false, fault: 'report_changed' })
    const deep = `{"report":{"a":${'['.repeat(100_000)}${']'.repeat(100_000)}},"jws":"a.b.c"}`
    expect(await verified(deep)).toMatchObject({ ok: false, fault: 'not_readable' })
    for (const nothing of ['', '{}', 'null', '[1]', body.jws, { ...body, jws: 'a' }])
      expect((await verified(nothing)).ok, JSON.stringify(nothing)).toBe(false)
  })
})

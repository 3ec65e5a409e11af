// Access reviews where several processes come to the same one at once, or one of them is gone in the middle.
import { randomBytes } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { type RawBuilder, sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { closeDue, closeNow, openAfterTeamChanges, openScheduled } from '../../src/reviews/service.ts'
import type { RevocationList } from '../../src/revocation/service.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { bearer, call, makePerson, makeToken } from '../support/api.ts'
import { createScratchDatabase, hasStores, newSink, type ScratchDatabase } from '../support/databases.ts'
import { freePort, startOn, type TestServer } from '../support/server.ts'

describe.runIf(hasStores())('two processes', () => {
  let scratch: ScratchDatabase
  let opened: OpenedDatabase[] = []
  let servers: TestServer[] = []
  let organizationId: string
  let owner: { email: string; userId: string }
  let key: string

  beforeAll(async () => {
    scratch = await createScratchDatabase()
    const sink = newSink()
    const masterKey = randomBytes(32).toString('base64')
    const start = async () => {
      const database = openPostgres(scratch.url, 5, () => {})
      opened.push(database)
      const config = readConfig({
        PORT: String(await freePort()),
        DATABASE_URL: scratch.url,
        LATCHKEY_MASTER_KEY: masterKey,
        LATCHKEY_SINK: sink,
        LATCHKEY_REVIEW_EVERY: 'off', // these tests say when
      })
      const server = await startOn(config, database)
      await server.app.jobs.stop()
      servers.push(server)
    }
    await start()
    await start()
    owner = await makePerson(one(), 'Owner')
    organizationId = String((await one().run('organization create', { name: 'Acme', owner: owner.email })).id)
    const made = await one().run('organization-key create', {
      organization: organizationId,
      label: 'provisioning',
      permissions: ['read', 'manage'],
    })
    key = String(made.key)
  })
  afterAll(async () => {
    await Promise.all(servers.map((server) => server.close()))
    await Promise.all(opened.map((database) => database.close()))
    await scratch?.drop()
    opened = []
    servers = []
  })

  const at = (place: number): TestServer => {
    const server = servers[place]
    if (server === undefined) throw new Error('it was not started')
    return server
  }
  const one = () => at(0)
  const two = () => at(1)

  async function makeWorkspace(madeMonthsAgo = 0): Promise<{ workspaceId: string; key: string }> {
    const made = await one().run('workspace create', { organization: organizationId, name: 'team', owner: owner.email })
    const workspaceId = String(made.id)
    await sql`update workspaces set created_at = now() - make_interval(months => ${madeMonthsAgo}::int) where id = ${workspaceId}`.execute(
      one().db,
    )
    return { workspaceId, key }
  }

  async function makeReview(tokens: number) {
    const place = await makeWorkspace()
    const made = []
    for (let count = 0; count < tokens; count++) made.push(await makeToken(one(), place))
    const path = `/workspaces/${place.workspaceId}/reviews`
    const { body } = await call(one(), bearer(key), 'POST', path, { body: {} })
    return { place, tokens: made, id: String(body.id), path: `${path}/${body.id}`, review: body }
  }

  /** As many tokens as that, made at once. @returns their ids */
  async function fill(workspaceId: string, tokens: number): Promise<string[]> {
    const { rows } = await sql<{ id: string }>`
      insert into token_lines (id, organization_id, workspace_id, label, environment, permissions, granted_role, created_by)
      select 'key_' || right(${workspaceId}, 16) || lpad(n::text, 10, '0'), ${organizationId}, ${workspaceId},
        'token ' || n, 'production', '{read}', 'admin', 'test' from generate_series(1, ${tokens}::int) n
      returning id`.execute(one().db)
    await sql`insert into token_versions (token_id, version, digest, key_prefix, created_by)
      select id, 1, md5(id), 'tid_ws_test', 'test' from token_lines
      where workspace_id = ${workspaceId} and created_by = 'test'`.execute(one().db)
    return rows.map(({ id }) => id)
  }

  const reviewsOf = async (workspaceId: string) =>
    (await call(one(), bearer(key), 'GET', `/workspaces/${workspaceId}/reviews`)).body

  /** Statements in a transaction of a connection of its own. @returns how it ends */
  async function holding(
    ...statements: RawBuilder<unknown>[]
  ): Promise<(how?: 'commit' | 'rollback') => Promise<void>> {
    const client = new pg.Client({ connectionString: scratch.url })
    await client.connect()
    await client.query('begin')
    for (const statement of statements) {
      const compiled = statement.compile(one().db)
      await client.query(compiled.sql, [...compiled.parameters])
    }
    return async (how = 'rollback') => {
      await client.query(how)
      await client.end()
    }
  }

  /** For what a transaction holds. */
  async function untilSomebodyWaits(): Promise<void> {
    for (;;) {
      const { rows } = await sql`select 1 from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' limit 1`.execute(one().db)
      if (rows.length > 0) return
      await setTimeout(10)
    }
  }

  const comeDue = (id: string) =>
    sql`update access_reviews set due_at = clock_timestamp() - interval '1 millisecond' where id = ${id}`.execute(
      one().db,
    )

  async function count(event: string, detail: Record<string, string>): Promise<number> {
    const { rows } = await sql<{ n: number }>`select count(*)::int as n from audit_events
      where event = ${event} and detail @> ${JSON.stringify(detail)}::jsonb`.execute(one().db)
    return rows[0]?.n ?? 0
  }

  const suspensions = async (ids: string[]) =>
    (
      await sql`select id from audit_events where event = 'token.suspended' and credential_id = any(${ids}::text[])`.execute(
        one().db,
      )
    ).rows.length

  it('open one review a workspace whose time has come, and none elsewhere', async () => {
    const due = [await makeWorkspace(3), await makeWorkspace(14)]
    const young = await makeWorkspace(2)
    const reviewed = await makeWorkspace(14)
    await sql`insert into access_reviews (id, organization_id, workspace_id, reasons, opened_by, opened_at, due_at, closed_at, closed_by, report)
      values ('rev_past', ${organizationId}, ${reviewed.workspaceId}, '{asked}', 'test', now() - interval '2 months',
        now(), now(), 'test', 'a.b.c')`.execute(one().db)
    const open = await makeWorkspace(14)
    await one().run('review open', { workspace: open.workspaceId, reason: 'asked' })
    expect(await openScheduled(one().db, 'off', 100)).toBe(0)
    await Promise.all([one(), two(), one(), two()].map(({ db }) => openScheduled(db, 'quarterly', 100)))
    const { rows } = await sql<{ workspace_id: string; reasons: string[]; opened_by: string }>`
      select workspace_id, reasons, opened_by from access_reviews where 'quarterly' = any(reasons)`.execute(one().db)
    expect(rows.map(({ workspace_id }) => workspace_id).sort()).toEqual(
      due.map(({ workspaceId }) => workspaceId).sort(),
    )
    expect(rows.every(({ opened_by }) => opened_by === 'schedule')).toBe(true)
    expect(await count('review.opened', { reason: 'quarterly' })).toBe(2)
    expect(await openScheduled(two().db, 'quarterly', 100)).toBe(0)
    // Of another schedule the time of the young one has come, too.
    await openScheduled(two().db, 'monthly', 100)
    const { body } = await call(two(), bearer(key), 'GET', `/workspaces/${young.workspaceId}/reviews`)
    expect(body).toHaveLength(1)
  })

  it('asked at once for a review, answer with the same one', async () => {
    const { workspaceId } = await makeWorkspace()
    const path = `/workspaces/${workspaceId}/reviews`
    const answers = await Promise.all(
      [one(), two(), one(), two()].map((server) => call(server, bearer(key), 'POST', path, { body: {} })),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 200, 200, 201])
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1)
  })

  it('close a review once: each item is suspended once, and there is one report', async () => {
    const { id, tokens, path, place } = await makeReview(4)
    await comeDue(id)
    await Promise.all([one(), two(), one()].map(({ app }) => closeDue(app, 100)))
    const closed = await call(two(), bearer(key), 'GET', path)
    expect(closed.body.counts).toMatchObject({ items: 5, undecided: 0 })
    expect(await count('review.closed', { review: id })).toBe(1)
    expect(await suspensions(tokens.map((token) => token.id))).toBe(4)
    const [first, second] = [
      await call(one(), bearer(key), 'GET', `${path}/report`),
      await call(two(), bearer(key), 'GET', `${path}/report`),
    ]
    expect(first.body).toEqual(second.body)
    expect(first.body.report.counts).toMatchObject({ suspended: 4, not_attested: 1 })
    for (const server of servers)
      for (const token of tokens)
        expect((await call(server, bearer(token.key), 'GET', `/workspaces/${place.workspaceId}`)).status).toBe(401)
  })

  it('go on where one was gone: of what is suspended at once all is there or nothing', async () => {
    const { place } = await makeReview(0)
    const tokens = await fill(place.workspaceId, 70)
    const { body } = await call(one(), bearer(key), 'POST', `/workspaces/${place.workspaceId}/reviews`, {
      body: { reason: 'incident' },
    })
    const id = String(body.id)
    await comeDue(id)
    const { app } = one()
    let changes = 0
    // The second transaction is cut short, as by a kill: the work is done, and never committed.
    const dying: RevocationList = {
      ...app.revocations,
      change: (work, options) =>
        app.revocations.change(async (trx, revoke) => {
          const result = await work(trx, revoke)
          if (++changes === 2) throw new Error('killed')
          return result
        }, options),
    }
    await expect(closeNow({ ...app, revocations: dying }, by(id))).rejects.toThrow('killed')
    const { rows } = await sql<{ outcome: string | null; suspended: boolean; count: number }>`
      select i.outcome, t.suspended_at is not null as suspended, count(*)::int as count from access_review_items i
      join token_lines t on t.id = i.subject_id where i.review_id = ${id} group by 1, 2 order by 1 nulls last`.execute(
      app.db,
    )
    expect(rows).toEqual([
      { outcome: 'suspended', suspended: true, count: 50 },
      { outcome: null, suspended: false, count: 20 },
    ])
    expect(await count('review.closed', { review: id })).toBe(0)
    await closeDue(two().app, 100)
    expect(await suspensions(tokens)).toBe(70)
    expect(await count('review.closed', { review: id })).toBe(1)
  })

  it('close and open the others where one cannot be, however they are listed, and say that it failed', async () => {
    const [first, second, third] = [await makeReview(1), await makeReview(1), await makeReview(1)]
    for (const { id } of [first, second, third]) await comeDue(id)
    const stuck = second.tokens[0]?.id ?? ''
    const held = await holding(sql`select 1 from token_lines where id = ${stuck} for update`)
    const due = [await makeWorkspace(14), await makeWorkspace(14)]
    const locked = due[0]?.workspaceId ?? ''
    const heldToo = await holding(sql`select 1 from workspaces where id = ${locked} for update`)
    try {
      const [closing, opening] = await Promise.allSettled([
        closeDue(one().app, 1),
        openScheduled(two().db, 'quarterly', 1),
      ])
      expect([closing, opening]).toMatchObject([
        { status: 'rejected', reason: { name: 'AggregateError', errors: [{ code: 'unavailable' }] } },
        { status: 'rejected', reason: { name: 'AggregateError', errors: [{ code: 'unavailable' }] } },
      ])
    } finally {
      await held()
      await heldToo()
    }
    const closed = async ({ id }: { id: string }) => (await count('review.closed', { review: id })) === 1
    expect(await Promise.all([first, second, third].map(closed))).toEqual([true, false, true])
    expect(await reviewsOf(due[1]?.workspaceId ?? '')).toHaveLength(1)
    await closeDue(one().app, 1)
    await openScheduled(one().db, 'quarterly', 1)
    expect([await closed(second), await reviewsOf(locked)]).toEqual([true, [expect.anything()]])
  })

  it('take turns: a review of very much keeps no other one waiting until it is done', async () => {
    const much = await makeWorkspace()
    await fill(much.workspaceId, 620)
    const path = `/workspaces/${much.workspaceId}/reviews`
    const large = String((await call(one(), bearer(key), 'POST', path, { body: {} })).body.id)
    const small = await makeReview(1)
    await comeDue(large)
    await comeDue(small.id)
    const { app } = one()
    let leftWhenOtherClosed: number | undefined
    const signer = {
      async signDocument(...given: Parameters<typeof app.signer.signDocument>) {
        const { rows } = await sql<{ left: number }>`select count(*)::int as left from access_review_items
          where review_id = ${large} and outcome is null`.execute(app.db)
        leftWhenOtherClosed ??= rows[0]?.left
        return app.signer.signDocument(...given)
      },
    }
    await closeDue({ ...app, signer }, 100)
    expect(leftWhenOtherClosed).toBeGreaterThan(100)
    const { body } = await call(one(), bearer(key), 'GET', `${path}/${large}/report`)
    expect(body.report.counts).toMatchObject({ suspended: 620 })
    expect(await count('review.closed', { review: small.id })).toBe(1)
  })

  it('open a review of more tokens than a statement has parameters, after somebody was removed who waited for none of it', async () => {
    const place = await makeWorkspace()
    await fill(place.workspaceId, 66_000)
    const member = await makePerson(one(), 'Member')
    await one().run('member add', { organization: organizationId, user: member.email, role: 'member' })
    await one().run('member add', { workspace: place.workspaceId, user: member.email, role: 'member' })
    const removed = await call(
      two(),
      bearer(key),
      'DELETE',
      `/workspaces/${place.workspaceId}/members/${member.userId}`,
    )
    expect(removed.status, removed.text).toBe(204)
    expect(await reviewsOf(place.workspaceId)).toEqual([])
    await openAfterTeamChanges(one().db, 100)
    expect(await reviewsOf(place.workspaceId)).toEqual([
      expect.objectContaining({ reasons: ['team_change'], counts: { items: 66_001, decided: 0, undecided: 66_001 } }),
    ])
  })

  it('decide nothing of a review that the other has closed by then', async () => {
    const { id, path, review, tokens } = await makeReview(1)
    const item = review.items.find(({ subject_id }: { subject_id: string }) => subject_id === tokens[0]?.id)
    const close = await holding(sql`update access_reviews set closed_at = now(), closed_by = 'other', report = 'a.b.c'
      where id = ${id}`)
    const deciding = call(two(), bearer(key), 'POST', `${path}/items/${item.id}`, { body: { decision: 'keep' } })
    await Promise.race([deciding, untilSomebodyWaits()])
    await close('commit')
    expect((await deciding).status).toBe(409)
  })

  it('open none on schedule where the other has opened one by then', async () => {
    const { workspaceId } = await makeWorkspace(14)
    const open = await holding(
      sql`select 1 from workspaces where id = ${workspaceId} for update`,
      sql`insert into access_reviews (id, organization_id, workspace_id, reasons, opened_by, due_at)
        values (${`rev_${workspaceId}`}, ${organizationId}, ${workspaceId}, '{asked}', 'other', now() + interval '1 day')`,
    )
    const opening = openScheduled(two().db, 'quarterly', 100)
    await Promise.race([opening, untilSomebodyWaits()])
    await open('commit')
    await opening
    expect(await reviewsOf(workspaceId)).toMatchObject([{ reasons: ['asked'] }])
  })

  it('agree where one closes what the other is deciding: the report says what is so', async () => {
    for (let round = 0; round < 5; round++) {
      const { id, tokens, path, review, place } = await makeReview(2)
      const [token] = tokens
      const item = review.items.find(({ subject_id }: { subject_id: string }) => subject_id === token?.id)
      const keep = () => call(two(), bearer(key), 'POST', `${path}/items/${item.id}`, { body: { decision: 'keep' } })
      const [kept] = await Promise.all([keep(), closeNow(one().app, by(id))])
      const { body } = await call(two(), bearer(key), 'GET', `${path}/report`)
      const reported = body.report.items.find(({ id: of }: { id: string }) => of === item.id)
      const status = (await call(two(), bearer(token?.key ?? ''), 'GET', `/workspaces/${place.workspaceId}`)).status
      expect([kept.status, reported.outcome, status]).toEqual(
        kept.status === 200 ? [200, 'kept', 200] : [409, 'suspended', 401],
      )
    }
  })

  it('revoke an item once, however many ask', async () => {
    const { tokens, path, review, id } = await makeReview(1)
    const item = review.items.find(({ subject_id }: { subject_id: string }) => subject_id === tokens[0]?.id)
    const answers = await Promise.all(
      [one(), two(), one(), two(), one()].map((server) =>
        call(server, bearer(key), 'POST', `${path}/items/${item.id}`, { body: { decision: 'revoke' } }),
      ),
    )
    expect(answers.map(({ status }) => status)).toEqual(Array(5).fill(200))
    expect(await count('review.revoked', { review: id })).toBe(1)
  })

  const by = (reviewId: string) => ({ reviewId, actor: { kind: 'schedule' }, request: { traceId: 'test' } }) as const
})

// Budget alerts and statements by mail: each once to the billing address, whatever the mail server does meanwhile.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import {
  BILLING_MAIL,
  type BillingDeps,
  enqueueAlerts,
  makeStatements,
  sendBillingMail,
} from '../../src/billing/service.ts'
import { readConfig } from '../../src/config.ts'
import { Secret } from '../../src/crypto/secret.ts'
import { createJobs, type Jobs } from '../../src/jobs/service.ts'
import { createMailer, type Mailer } from '../../src/mail/service.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { QUICK } from '../jobs/pace.ts'
import { addressesOf, startMailServer, type TestMailServer } from '../mail/mail-server.ts'
import { type ApiWorld, bearer, call, makeApiWorld, makeToken, newLabel } from '../support/api.ts'
import { createScratchDatabase, hasStores, newSink, type ScratchDatabase } from '../support/databases.ts'
import { freePort, startOn, type TestServer } from '../support/server.ts'

describe.runIf(hasStores())('billing by mail', () => {
  const sink = newSink()
  let scratch: ScratchDatabase
  let opened: OpenedDatabase
  let server: TestServer
  let world: ApiWorld
  let mail: TestMailServer
  let processes: Array<{ jobs: Jobs; mailer: Mailer; opened: OpenedDatabase }> = []

  beforeAll(async () => {
    scratch = await createScratchDatabase()
    const config = readConfig({
      PORT: String(await freePort()),
      DATABASE_URL: scratch.url,
      LATCHKEY_MASTER_KEY: randomBytes(32).toString('base64'),
      LATCHKEY_SINK: sink,
    })
    opened = openPostgres(scratch.url, 5, () => {})
    server = await startOn(config, opened)
    await server.app.jobs.stop() // only what a test starts runs jobs
    world = await makeApiWorld(server)
  })
  beforeEach(async () => {
    mail = await startMailServer()
  })
  afterEach(async () => {
    await Promise.all(processes.map(({ jobs }) => jobs.stop()))
    await Promise.all(processes.map((process) => process.opened.close()))
    for (const { mailer } of processes) mailer.close()
    processes = []
    await mail.close()
    for (const table of ['billing_mails', 'budget_alerts', 'spend', 'spend_by_model'])
      await sql`delete from ${sql.table(table)}`.execute(server.db)
  })
  afterAll(async () => {
    await server?.close()
    await opened?.close()
    await scratch?.drop()
  })

  /** A process that mails, with a schedule of its own that nobody waits for. */
  function startMailing(url = mail.url): BillingDeps & { errors: Error[] } {
    const database = openPostgres(scratch.url, 2, () => {})
    const errors: Error[] = []
    const mailer = createMailer({ url: new Secret(url), from: 'latchkey@id.example.com' })
    const onError = (error: Error) => void errors.push(error)
    const jobs = createJobs({ source: database.source, isHeldBack: () => false, onError, pace: QUICK })
    const deps = { db: database.db, issuer: server.origin, mailer, jobs, errors }
    jobs.define(BILLING_MAIL, { patience: 'long', run: (data) => sendBillingMail(deps, data) })
    jobs.start()
    processes.push({ jobs, mailer, opened: database })
    return deps
  }

  /** As a process has it that has no mail server. */
  const mailless = (): BillingDeps => ({
    db: server.db,
    issuer: server.origin,
    mailer: undefined,
    jobs: { enqueue: () => Promise.reject(new Error('nothing is queued without a mail server')) },
  })

  /** Takes what is sent, and says so to nobody: what the one who sends makes of it is the test's. */
  const sending = (mailer: Pick<Mailer, 'send'>): BillingDeps => ({
    ...mailless(),
    mailer: { ...mailer, close: () => {} },
  })

  interface Workspace {
    id: string
    address: string
    spend(cost: string, model?: string): Promise<void>
  }

  async function makeWorkspace(input: { name?: string; address?: string | null } = {}): Promise<Workspace> {
    const address = `billing-${randomBytes(4).toString('hex')}@example.com`
    const made = await call(server, world.people.owner, 'POST', '/workspaces', {
      body: {
        name: input.name ?? newLabel(),
        organization_id: world.organizationId,
        billing_email: input.address === undefined ? address : input.address,
      },
    })
    expect(made.status, made.text).toBe(201)
    const place = { workspaceId: String(made.body.id), key: world.key }
    const { key } = await makeToken(server, place, { permissions: ['ingest'] })
    return {
      id: made.body.id,
      address,
      async spend(cost, model = 'claude-sonnet-4-5') {
        const events = [{ id: newLabel(), cost, provider: 'anthropic', model }]
        const headers = { 'x-trace-id': 'billing' }
        const answer = await call(server, bearer(key), 'POST', '/events', { body: { events }, headers })
        expect(answer.status, answer.text).toBe(200)
      },
    }
  }
  const setCap = async ({ id }: Workspace, cap: string, mode: 'soft' | 'hard' = 'soft') => {
    const answer = await call(server, bearer(world.key), 'PUT', `/workspaces/${id}/budget`, { body: { cap, mode } })
    expect(answer.status, answer.text).toBe(200)
  }
  /** As if it had been spent so many months ago. */
  const shiftSpend = async ({ id }: Workspace, months: number) => {
    for (const table of ['spend', 'spend_by_model'])
      await sql`update ${sql.table(table)} set month = month - make_interval(months => ${months}::int)
        where workspace_id = ${id} and month = date_trunc('month', now() at time zone 'utc')::date`.execute(server.db)
  }
  const monthsAgo = async (months: number): Promise<string> => {
    const { rows } = await sql<{ month: string }>`
      select to_char(now() at time zone 'utc' - make_interval(months => ${months}::int), 'YYYY-MM') as month`.execute(
      server.db,
    )
    return rows[0]?.month ?? ''
  }
  const outcomes = async ({ id }: Workspace) => {
    const { rows } = await sql<{ kind: string; month: string; outcome: string | null }>`
      select kind, to_char(month, 'YYYY-MM') as month, outcome from billing_mails where workspace_id = ${id}
      order by kind, month, outcome`.execute(server.db)
    return rows.map(({ kind, month, outcome }) => `${kind} ${month} ${outcome}`)
  }
  async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = performance.now() + 40_000
    while (!(await condition())) {
      if (performance.now() > deadline) throw new Error('not so in time')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  const allSettled = async () => {
    const { rows } = await sql<{ count: number }>`
      select count(*)::int as count from billing_mails where outcome is null`.execute(server.db)
    return rows[0]?.count === 0
  }
  const got = () => mail.received.flatMap(addressesOf).sort()

  it('an alert is told once, by whichever of two processes, with what was spent and where it is shown', {
    timeout: 90_000,
  }, async () => {
    const workspace = await makeWorkspace({ name: 'platform-ai' })
    await setCap(workspace, '10.00', 'hard')
    await workspace.spend('7.00')
    await workspace.spend('1.50', 'claude-opus-4-1')
    const [first, second] = [startMailing(), startMailing()]
    await Promise.all([enqueueAlerts(first), enqueueAlerts(second), enqueueAlerts(first)])
    await until(allSettled)
    await Promise.all([enqueueAlerts(first), enqueueAlerts(second)])
    await until(async () => (await openJobs()) === 0)
    expect(got()).toEqual([workspace.address])
    const [message] = mail.received
    expect(message?.subject).toBe('80 % of a monthly budget is spent (platform-ai)')
    expect(message?.text).toContain('Spent    8.50 USD (85 % of the cap)\nHeld     0.00 USD\nCap      10.00 USD, hard')
    expect(message?.text).toContain(
      'By model:\n  anthropic claude-sonnet-4-5: 7.00 USD\n  anthropic claude-opus-4-1: 1.50 USD',
    )
    expect(message?.text).toContain(`${server.origin}/workspaces/${workspace.id}/usage`)
    expect(message?.text).not.toMatch(/tid_ws_|td_live_|key_/)
    expect(await outcomes(workspace)).toEqual([`alert ${await monthsAgo(0)} sent`])
  })

  async function openJobs(): Promise<number> {
    const { rows } = await sql<{ count: number }>`
      select count(*)::int as count from pgboss.job where name = ${BILLING_MAIL} and state < 'completed'`.execute(
      server.db,
    )
    return rows[0]?.count ?? -1
  }

  it('a statement is made of each of the last three months with spend, once, however many processes make them', {
    timeout: 90_000,
  }, async () => {
    const [workspace, archived, idle] = [await makeWorkspace(), await makeWorkspace(), await makeWorkspace()]
    for (const months of [1, 2, 3, 4]) {
      await workspace.spend(`${months}.00`)
      await shiftSpend(workspace, months)
    }
    await workspace.spend('99.00') // this month is not over
    await archived.spend('5.00')
    await shiftSpend(archived, 1)
    await sql`update workspaces set archived_at = now() where id = ${archived.id}`.execute(server.db)
    await idle.spend('0')
    await shiftSpend(idle, 1)
    const [first, second] = [startMailing(), startMailing()]
    await Promise.all([makeStatements(first), makeStatements(second), makeStatements(mailless())])
    await makeStatements(second) // what one of two left to the other
    await until(allSettled)
    await makeStatements(first)
    await until(async () => (await openJobs()) === 0)
    const [one, two, three] = [await monthsAgo(1), await monthsAgo(2), await monthsAgo(3)]
    expect(await outcomes(workspace)).toEqual([
      `statement ${three} sent`,
      `statement ${two} sent`,
      `statement ${one} sent`,
    ])
    expect(await outcomes(archived)).toEqual([`statement ${one} sent`])
    expect(await outcomes(idle)).toEqual([])
    expect(got()).toEqual([...Array(3).fill(workspace.address), archived.address].sort())
    expect(mail.received.map(({ subject }) => subject?.slice(0, 20)).sort()).toEqual(
      [three, two, one, one].map((month) => `Statement of ${month}`).sort(),
    )
    const ofTwo = mail.received.find(({ subject }) => subject?.startsWith(`Statement of ${two}`))
    expect(ofTwo?.text).toContain('Spent    2.00 USD\n')
    expect(new Set(mail.received.map(({ messageId }) => messageId)).size).toBe(4)
  })

  it('one whose address is refused for now is tried again, and keeps no other one from being sent', {
    timeout: 90_000,
  }, async () => {
    const [later, lost, fine] = [await makeWorkspace(), await makeWorkspace(), await makeWorkspace()]
    for (const workspace of [later, lost, fine]) {
      await workspace.spend('1.00')
      await shiftSpend(workspace, 1)
    }
    let refusals = 0
    mail.refuse = (address) => {
      if (address === lost.address) return { code: 550, sentence: 'no such mailbox' }
      return address === later.address && ++refusals <= 2 ? { code: 451, sentence: 'try later' } : undefined
    }
    const deps = startMailing()
    await makeStatements(deps)
    await until(allSettled)
    expect([got(), refusals]).toEqual([[later.address, fine.address].sort(), 3])
    expect(await outcomes(lost)).toEqual([`statement ${await monthsAgo(1)} refused`])
    expect(deps.errors.map(({ message }) => message).join()).not.toContain('@')
  })

  it('waits for a mail server where there is none, for thirty days and no longer', { timeout: 90_000 }, async () => {
    const [workspace, forgotten] = [await makeWorkspace(), await makeWorkspace()]
    await setCap(workspace, '1.00')
    await setCap(forgotten, '1.00')
    await workspace.spend('0.90')
    await forgotten.spend('0.90')
    await workspace.spend('4.00', 'gpt-5')
    await shiftSpend(workspace, 1)
    await server.run('jobs run', { job: 'budget-alerts' }) // this server has no mail server
    await server.run('jobs run', { job: 'statements' })
    const waiting = (await outcomes(workspace)).filter((outcome) => outcome.endsWith(' null'))
    expect(waiting).toHaveLength(3) // 80 %, 100 %, and the month
    await sql`update billing_mails set created_at = clock_timestamp() - interval '31 days'
      where workspace_id = ${forgotten.id}`.execute(server.db)
    await sql`update billing_mails set created_at = clock_timestamp() - interval '29 days'
      where workspace_id = ${workspace.id}`.execute(server.db)
    const deps = startMailing()
    await enqueueAlerts(deps)
    await makeStatements(deps)
    await until(async () => (await outcomes(workspace)).every((outcome) => outcome.endsWith(' sent')))
    await until(async () => (await openJobs()) === 0)
    expect(got()).toEqual(Array(3).fill(workspace.address))
    expect(await outcomes(forgotten)).toEqual([`alert ${await monthsAgo(0)} null`])
  })

  it('goes out of a server that is told of a mail server, without anybody asking', { timeout: 90_000 }, async () => {
    const workspace = await makeWorkspace()
    await setCap(workspace, '1.00')
    await workspace.spend('0.80')
    const config = readConfig({
      PORT: String(await freePort()),
      DATABASE_URL: scratch.url,
      LATCHKEY_MASTER_KEY: randomBytes(32).toString('base64'),
      LATCHKEY_SINK: sink,
      SMTP_URL: mail.url,
      LATCHKEY_MAIL_FROM: 'latchkey@id.example.com',
    })
    const another = openPostgres(scratch.url, 5, () => {})
    const mailing = await startOn(config, another)
    try {
      await mailing.run('jobs run', { job: 'budget-alerts' })
      await until(allSettled)
    } finally {
      await mailing.close()
      await another.close()
    }
    expect(got()).toEqual([workspace.address])
  })

  it('is settled where there is no address when it is to be sent, and goes to nobody else', {
    timeout: 90_000,
  }, async () => {
    const [none, late] = [await makeWorkspace({ address: null }), await makeWorkspace({ address: null })]
    for (const workspace of [none, late]) {
      await setCap(workspace, '1.00')
      await workspace.spend('0.80')
    }
    await sql`update workspaces set billing_email = ${late.address} where id = ${late.id}`.execute(server.db)
    await enqueueAlerts(startMailing())
    await until(allSettled)
    expect(got()).toEqual([late.address])
    expect(await outcomes(none)).toEqual([`alert ${await monthsAgo(0)} no_address`])
  })

  it('has the same Message-ID when it is sent again, after a process died before it could say that it was sent', async () => {
    const workspace = await makeWorkspace()
    await workspace.spend('1.00')
    await shiftSpend(workspace, 1)
    await makeStatements(mailless())
    const { rows } = await sql`select kind, subject_id, month::text as month from billing_mails`.execute(server.db)
    const ids: string[] = []
    const died = sending({
      send: ({ id }) => {
        ids.push(id)
        return Promise.reject(new Error('killed'))
      },
    })
    await expect(sendBillingMail(died, rows[0])).rejects.toThrow('killed')
    expect(await allSettled()).toBe(false)
    const lives = sending({
      send: ({ id }) => {
        ids.push(id)
        return Promise.resolve('sent')
      },
    })
    await sendBillingMail(lives, rows[0])
    await sendBillingMail(lives, rows[0]) // its job came twice
    expect(ids).toEqual([ids[0], ids[0]])
    expect(ids[0]).toMatch(/^[0-9a-f]{40}$/)
    expect(await allSettled()).toBe(true)
  })

  it('a workspace whose name holds lines and addresses puts them into no header, and mails nobody else', {
    timeout: 90_000,
  }, async () => {
    const workspace = await makeWorkspace()
    const name = 'x\r\nBcc: evil@example.com\r\nTo: evil@example.com\r\n\r\n<b>Pay here</b>'
    await sql`update workspaces set name = ${name} where id = ${workspace.id}`.execute(server.db)
    await workspace.spend('1.00', 'm, evil@example.com')
    await shiftSpend(workspace, 1)
    const asked: string[] = []
    mail.refuse = (address) => {
      asked.push(address)
      return undefined
    }
    await makeStatements(startMailing())
    await until(allSettled)
    expect(asked).toEqual([workspace.address])
    const [message] = mail.received
    expect(message?.headers.has('bcc')).toBe(false)
    expect(message && addressesOf(message)).toEqual([workspace.address])
    expect(message?.subject).toContain('(x Bcc: evil@example.com To: evil@example.com <b>Pay here</b>)')
    expect(message?.html).toBe(false) // plain text
  })
})

// Notices by mail: each to each person who administers the workspace, whatever the mail server does meanwhile.
import { randomBytes } from 'node:crypto'
import { sql } from 'kysely'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { Secret } from '../../src/crypto/secret.ts'
import { createJobs, type Jobs } from '../../src/jobs/service.ts'
import { createMailer, type Mailer } from '../../src/mail/service.ts'
import { MAIL, makeNotices, type RemindersDeps, sendMail } from '../../src/reminders/service.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { QUICK } from '../jobs/pace.ts'
import { addressesOf, startMailServer, type TestMailServer } from '../mail/mail-server.ts'
import { makePerson, makeToken } from '../support/api.ts'
import { createScratchDatabase, hasStores, newSink, type ScratchDatabase } from '../support/databases.ts'
import { freePort, startOn, type TestServer } from '../support/server.ts'

describe.runIf(hasStores())('notices by mail', () => {
  let scratch: ScratchDatabase
  let opened: OpenedDatabase
  let server: TestServer
  let mail: TestMailServer | undefined
  let processes: Array<{ jobs: Jobs; mailer: Mailer; opened: OpenedDatabase; errors: Error[] }> = []

  beforeAll(async () => {
    scratch = await createScratchDatabase()
    const config = readConfig({
      PORT: String(await freePort()),
      DATABASE_URL: scratch.url,
      LATCHKEY_MASTER_KEY: randomBytes(32).toString('base64'),
      LATCHKEY_SINK: newSink(),
    })
    opened = openPostgres(scratch.url, 5, () => {})
    server = await startOn(config, opened)
    await server.app.jobs.stop() // it mails nothing, and would be first
  })
  afterEach(async () => {
    await Promise.all(processes.map(({ jobs }) => jobs.stop()))
    await Promise.all(processes.map((process) => process.opened.close()))
    for (const { mailer } of processes) mailer.close()
    processes = []
    await mail?.close()
    mail = undefined
  })
  afterAll(async () => {
    await server?.close()
    await opened?.close()
    await scratch?.drop()
  })

  type Unmailed = Parameters<RemindersDeps['onUnmailed']>[0]

  /** A process that mails, with a schedule of its own that nobody waits for. */
  function startMailing(url: string): RemindersDeps & { errors: Error[]; unmailed: Unmailed[]; jobs: Jobs } {
    const database = openPostgres(scratch.url, 2, () => {})
    const errors: Error[] = []
    const unmailed: Unmailed[] = []
    const mailer = createMailer({ url: new Secret(url), from: 'latchkey@id.example.com' })
    const jobs = createJobs({
      source: database.source,
      isHeldBack: () => false,
      onError: (error) => errors.push(error),
      pace: QUICK,
    })
    const onUnmailed = (notice: Unmailed) => void unmailed.push(notice)
    const deps = { db: database.db, issuer: server.origin, mailer, jobs, errors, unmailed, onUnmailed }
    jobs.define(MAIL, { patience: 'long', run: (data) => sendMail(deps, data) })
    jobs.start()
    processes.push({ jobs, mailer, opened: database, errors })
    return deps
  }

  interface Place {
    workspaceId: string
    key: string
    addresses: string[]
    tokenId: string
  }

  /** A workspace with a token that nobody uses, an owner and an admin; and people who are not concerned. */
  async function makePlace(): Promise<Place> {
    const owner = await makePerson(server, 'Owner')
    const admin = await makePerson(server, 'Admin')
    const suspended = await makePerson(server, 'Suspended')
    const member = await makePerson(server, 'Member')
    const organization = await server.run('organization create', { name: 'Acme', owner: owner.email })
    const workspace = await server.run('workspace create', {
      organization: organization.id,
      name: 'platform-ai',
      owner: owner.email,
    })
    const key = await server.run('organization-key create', {
      organization: organization.id,
      label: 'provisioning',
      permissions: ['read', 'manage'],
    })
    for (const [person, role] of [
      [admin, 'admin'],
      [suspended, 'admin'],
      [member, 'member'],
    ] as const)
      await server.run('member add', { workspace: workspace.id, user: person.email, role })
    await server.run('user suspend', { user: suspended.userId })
    const place = { workspaceId: String(workspace.id), key: String(key.key) }
    const token = await makeToken(server, place, { label: 'nightly export' })
    await sql`update token_versions set created_at = clock_timestamp() - interval '91 days' where token_id = ${token.id}`.execute(
      server.db,
    )
    return { ...place, addresses: [owner.email, admin.email].sort(), tokenId: token.id }
  }

  async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = performance.now() + 40_000
    while (!(await condition())) {
      if (performance.now() > deadline) throw new Error('not so in time')
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }

  const of = (place: Place, told: readonly Unmailed[]) =>
    told.filter(({ workspaceId }) => workspaceId === place.workspaceId)

  const suspend = (addresses: readonly string[]) =>
    sql`update users set suspended_at = now() where email = any(${[...addresses]}::text[])`.execute(server.db)

  const got = () => (mail?.received ?? []).flatMap(addressesOf).sort()

  async function isSettled({ tokenId }: Place): Promise<boolean> {
    const { rows } = await sql<{ open: number; mailed: boolean }>`
      select count(*) filter (where m.outcome is null)::int as open, bool_and(n.mailed_at is not null) as mailed
      from notices n join notice_mails m on m.notice_id = n.id where n.subject_id = ${tokenId}`.execute(server.db)
    return rows[0]?.open === 0 && rows[0].mailed
  }

  it('reach each owner and admin who can sign in, once, by whichever process', { timeout: 90_000 }, async () => {
    mail = await startMailServer()
    const place = await makePlace()
    const [first, second] = [startMailing(mail.url), startMailing(mail.url)]
    await Promise.all([makeNotices(first), makeNotices(second), makeNotices(first)])
    await until(() => isSettled(place))
    await makeNotices(second)
    await new Promise((resolve) => setTimeout(resolve, 2_000))
    expect(got()).toEqual(place.addresses)
    const [message] = mail.received
    expect(message?.subject).toBe('A token is not used (platform-ai)')
    expect(message?.text).toContain(
      'The token "nightly export" of the workspace platform-ai was not used for ninety days.',
    )
    expect(message?.text).toContain(`${server.origin}/workspaces/${place.workspaceId}/access`)
    expect(message?.text).not.toMatch(/tid_ws_|td_live_/)
    expect(new Set(mail.received.map(({ messageId }) => messageId)).size).toBe(2)
  })

  it('wait for a mail server that is away, and one that is slow is given time', { timeout: 90_000 }, async () => {
    const port = await freePort()
    const place = await makePlace()
    const deps = startMailing(`smtp://127.0.0.1:${port}`)
    await makeNotices(deps)
    await until(() => deps.errors.length >= 2)
    expect(deps.errors.map(({ message }) => message).join()).not.toContain('@')
    mail = await startMailServer(port)
    mail.delayMs = 1_500
    await until(() => isSettled(place))
    expect(got()).toEqual(place.addresses)
  })

  it('are tried again where they are refused for now, and no more where they are refused for good', {
    timeout: 90_000,
  }, async () => {
    mail = await startMailServer()
    const place = await makePlace()
    const [lost, later] = place.addresses
    let refusals = 0
    mail.refuse = (address) => {
      if (address === lost) return { code: 550, sentence: 'no such mailbox' }
      return address === later && ++refusals <= 2 ? { code: 451, sentence: 'try later' } : undefined
    }
    const deps = startMailing(mail.url)
    await makeNotices(deps)
    await until(() => isSettled(place))
    expect([got(), refusals]).toEqual([[later], 3])
    expect(of(place, deps.unmailed)).toEqual([{ workspaceId: place.workspaceId, kind: 'token_unused', why: 'refused' }])
    await makeNotices(deps)
    await new Promise((resolve) => setTimeout(resolve, 2_000))
    expect(got()).toEqual([later])
  })

  it('do not go to somebody who has left, nor of what is over', { timeout: 90_000 }, async () => {
    const port = await freePort()
    const place = await makePlace()
    const over = await makePlace()
    const deps = startMailing(`smtp://127.0.0.1:${port}`)
    await makeNotices(deps)
    await until(() => deps.errors.length >= 2)
    const [gone] = place.addresses
    await suspend([gone ?? ''])
    await server.app.revocations.change(async (trx) => {
      await sql`update token_versions set last_used_at = clock_timestamp() where token_id = ${over.tokenId}`.execute(
        trx,
      )
    })
    await makeNotices(deps)
    mail = await startMailServer(port)
    await until(() => isSettled(place))
    await new Promise((resolve) => setTimeout(resolve, 3_000))
    expect(got()).toEqual(place.addresses.filter((address) => address !== gone))
  })

  it('of what was over for a while go out once it is so again', { timeout: 90_000 }, async () => {
    const port = await freePort()
    const place = await makePlace()
    const deps = startMailing(`smtp://127.0.0.1:${port}`)
    await makeNotices(deps)
    const setSuspended = (reason: string | null) =>
      sql`update token_lines set suspend_reason = ${reason}::text,
        suspended_at = case when ${reason}::text is null then null else now() end where id = ${place.tokenId}`.execute(
        server.db,
      )
    await setSuspended('asked_for')
    await makeNotices(deps)
    mail = await startMailServer(port)
    const { rows: keys } = await sql<{ notice_id: string; user_id: string }>`
      select m.notice_id, m.user_id from notice_mails m join notices n on n.id = m.notice_id
      where n.subject_id = ${place.tokenId}`.execute(server.db)
    expect(keys).toHaveLength(2)
    for (const key of keys) await sendMail(deps, key)
    expect(got()).toEqual([])
    await setSuspended(null)
    await makeNotices(deps)
    await until(() => isSettled(place))
    expect(got()).toEqual(place.addresses)
  })

  it('go out also where a process without a mail server told of it first', { timeout: 90_000 }, async () => {
    mail = await startMailServer()
    const place = await makePlace()
    const deps = startMailing(mail.url)
    await makeNotices({ ...deps, mailer: undefined })
    const said = { workspaceId: place.workspaceId, kind: 'token_unused' }
    expect(of(place, deps.unmailed)).toEqual([{ ...said, why: 'no_mail_server' }])
    await makeNotices(deps)
    await until(() => isSettled(place))
    expect(got()).toEqual(place.addresses)
    expect(of(place, deps.unmailed)).toHaveLength(1)
  })

  it('that nobody would get are told of', { timeout: 90_000 }, async () => {
    mail = await startMailServer()
    const place = await makePlace()
    await suspend(place.addresses)
    const deps = startMailing(mail.url)
    await makeNotices(deps)
    await makeNotices(deps)
    expect(of(place, deps.unmailed)).toEqual([{ workspaceId: place.workspaceId, kind: 'token_unused', why: 'nobody' }])
  })
})

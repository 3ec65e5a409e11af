// A database that comes back from a backup: nobody is answered before what had ended since has ended again.
import { appendFileSync, copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createSealer } from '../../src/audit/sealer.ts'
import { readConfig } from '../../src/config.ts'
import type { OpenedDatabase } from '../../src/store/database.ts'
import {
  type ApiWorld,
  bearer,
  call,
  connectPerson,
  exchanged,
  makeApiWorld,
  makePerson,
  makeToken,
  NOBODY,
  postForm,
  signInBrowser,
} from '../support/api.ts'
import { type Backup, canBackUp, createRestorable, type Restorable } from '../support/backups.ts'
import { newSink } from '../support/databases.ts'
import { freePort, startOn, type TestServer } from '../support/server.ts'

const BACKENDS = canBackUp() ? (['embedded', 'stores'] as const) : (['embedded'] as const)

describe.each(BACKENDS)('a restored database on %s', (backend) => {
  let database: Restorable
  let opened: OpenedDatabase
  let config: ReturnType<typeof readConfig>
  let sink: string
  let server: TestServer
  let world: ApiWorld
  let backup: Backup | undefined

  /** Every test begins with a copy of these. */
  let first: { database: Restorable; sink: string; port: number }

  beforeAll(async () => {
    first = { database: await createRestorable(backend), sink: newSink(), port: await freePort() }
    database = first.database
    configure(first.sink)
    await start()
    world = await makeApiWorld(server)
    await stop()
  })
  afterAll(async () => {
    await first?.database.drop()
    if (first !== undefined) rmSync(first.sink, { force: true })
  })
  beforeEach(async () => {
    sink = newSink()
    copyFileSync(first.sink, sink)
    database = await first.database.copy()
    configure(sink)
    await start()
  })
  afterEach(async () => {
    await stop()
    await backup?.close()
    backup = undefined
    await database.drop()
    rmSync(sink, { force: true })
  })

  function configure(sink: string): void {
    config = readConfig({
      PORT: String(first.port),
      LATCHKEY_LOG_LEVEL: 'debug',
      LATCHKEY_TOUR: 'off',
      LATCHKEY_SINK: sink,
    })
  }
  async function start(): Promise<void> {
    opened = await database.open()
    server = await startOn(config, opened)
  }
  async function stop(): Promise<void> {
    await server.close()
    await opened.close()
  }
  /** Everything in between has never happened, as far as the database knows. */
  async function losing(work: () => Promise<void>): Promise<void> {
    backup = await database.backUp()
    await work()
    await stop()
    await backup.restore()
    await start()
  }

  const readiness = async () => {
    const response = await fetch(`${server.origin}/readyz`)
    return { status: response.status, body: await response.json() }
  }
  const restoreCheck = (more: Record<string, boolean> = {}) =>
    server.run('restore-check', { dry_run: false, accept_sink: false, ...more })
  const statusWith = async (value: string) =>
    (await call(server, bearer(value), 'GET', `/workspaces/${world.workspaceId}`)).status
  const refreshed = (refreshToken: string | undefined, client: Parameters<typeof postForm>[3]) =>
    postForm(server, '/token', { grant_type: 'refresh_token', refresh_token: refreshToken ?? '' }, client)
  const revoke = async (path: string) =>
    expect((await call(server, bearer(world.key), 'DELETE', path)).status).toBe(204)

  it('is not ready and answers nobody, until what had been revoked is revoked again', async () => {
    const [kept, revoked, single] = [
      await makeToken(server, world),
      await makeToken(server, world),
      await makeToken(server, world),
    ]
    const keys = `/workspaces/${world.workspaceId}/api-keys`
    const jwt = await exchanged(server, kept.key)
    await losing(async () => {
      await revoke(`${keys}/${revoked.id}`)
      await revoke(`${keys}/${single.id}/versions/v1`)
      const sealer = createSealer({ ...server.app, onError: (error) => expect.unreachable(error.message) })
      await sealer.seal()
      await sealer.checkpoint()
    })

    expect(await readiness()).toMatchObject({ status: 503, body: { waiting_for: ['restore-check'] } })
    for (const value of [kept.key, revoked.key, single.key, jwt]) expect(await statusWith(value)).toBe(503)
    expect((await fetch(`${server.origin}/sign-in`)).status).toBe(503)
    await expect(server.run('organization list', {})).rejects.toThrow('unavailable')

    expect(await restoreCheck({ dry_run: true })).toMatchObject({ status: 'behind', revocations: 2 })
    expect(await readiness()).toMatchObject({ status: 503 })
    expect(await restoreCheck()).toMatchObject({ status: 'restored', revocations: 2, ended: { tokens: 2 } })

    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    expect(await statusWith(revoked.key)).toBe(401)
    expect(await statusWith(single.key)).toBe(401)
    expect(await statusWith(kept.key)).toBe(200)
    expect(await statusWith(jwt)).toBe(401) // every JWT so far, whoever it came from
    expect(await restoreCheck()).toMatchObject({ status: 'in_step' })
    const record = await server.db
      .selectFrom('audit_events')
      .selectAll()
      .where('event', '=', 'chain.restored')
      .executeTakeFirst()
    expect(record).toMatchObject({ actor_kind: 'operator', detail: { revocations: 2, tokens: 2 } })

    const verified = (await server.run('audit verify', {})) as unknown as { ok: boolean; notes: string[] }
    expect(verified.ok).toBe(true)
    expect(verified.notes.join('\n')).toMatch(/^.* was set back to entry \d+ by a restore/)

    await stop()
    await start()
    expect(await readiness()).toMatchObject({ status: 200 })
  })

  it('what had been suspended is suspended again, until an admin restores it', async () => {
    const token = await makeToken(server, world)
    const connected = await connectPerson(server, world, world.people.member, 'read')
    const connections = await call(server, bearer(world.key), 'GET', `/workspaces/${world.workspaceId}/connections`)
    const paths = [`api-keys/${token.id}`, `connections/${connections.body[0].id}`]
    const change = async (path: string, what: string) =>
      call(server, bearer(world.key), 'POST', `/workspaces/${world.workspaceId}/${path}/${what}`, { body: {} })
    await losing(async () => {
      for (const path of paths) expect((await change(path, 'suspend')).status).toBe(200)
    })
    expect(await restoreCheck()).toMatchObject({ status: 'restored' })
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    expect(await statusWith(token.key)).toBe(401)
    expect((await refreshed(connected.refresh_token, connected.client)).status).toBe(400)
    for (const path of paths) {
      const restored = await change(path, 'restore')
      expect([restored.status, restored.body.suspended_at]).toEqual([200, null])
    }
    expect(await statusWith(token.key)).toBe(200)
  })

  it('ends connections, memberships, clients and workspaces again, and suspends whose account had changed', async () => {
    const { people } = world
    const standing = await connectPerson(server, world, people.owner, 'read')
    const closed = await connectPerson(server, world, people.admin, 'read')
    const renewed = await connectPerson(server, world, people.owner, 'read')
    const ofRemoved = await connectPerson(server, world, people.member, 'read')
    const withdrawn = await connectPerson(server, world, people.owner, 'read')
    const suspended = await makePerson(server)
    const withNewPassword = await makePerson(server)
    const claims = (jwt: string | undefined) =>
      JSON.parse(Buffer.from(jwt?.split('.')[1] ?? '', 'base64url').toString())
    const connectionOf = ({ access_token }: typeof closed) => String(claims(access_token).credential_id)
    const provider = await call(server, bearer(world.key), 'POST', `/workspaces/${world.otherWorkspaceId}/providers`, {
      body: {
        provider_type: 'openai',
        credentials_type: 'api_token',
        credentials: { api_token: 'sk-canary-key' },
        base_url: 'https://gateway.invalid',
      },
    })
    expect(provider.status, provider.text).toBe(201)
    await losing(async () => {
      const base = `/workspaces/${world.workspaceId}`
      await revoke(`${base}/connections/${connectionOf(closed)}`)
      const anew = await call(
        server,
        bearer(world.key),
        'POST',
        `${base}/connections/${connectionOf(renewed)}/new-version`,
      )
      expect(anew.status).toBe(200)
      const raised = await call(server, people.owner, 'PATCH', `${base}/members/${people.admin.userId}`, {
        body: { role: 'viewer' },
      })
      expect(raised.status).toBe(200)
      await revoke(`${base}/members/${people.member.userId}`)
      await server.run('client delete', { client: withdrawn.client.id })
      await server.run('user suspend', { user: suspended.email })
      await server.run('user restore', { user: suspended.email })
      await server.run('user set-password', { user: withNewPassword.email, password: 'after the old one leaked' })
      const archived = await call(server, people.owner, 'POST', `/workspaces/${world.otherWorkspaceId}/archive`)
      expect(archived.status).toBe(200)
    })

    const report = (await restoreCheck()) as unknown as { ended: object; suspended: string[] }
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    expect(report.suspended.sort()).toEqual([suspended.userId, withNewPassword.userId].sort())
    expect(report.ended).toMatchObject({ workspaces: 1, clients: 1, memberships: 2 })
    expect(await server.db.selectFrom('provider_connections').selectAll().execute()).toEqual([])
    const members = await server.db
      .selectFrom('workspace_members')
      .selectAll()
      .where('workspace_id', '=', world.workspaceId as never)
      .execute()
    expect(members.find(({ user_id }) => user_id === people.admin.userId)?.role).toBe('viewer')
    expect(members.find(({ user_id }) => user_id === people.member.userId)).toBeUndefined()
    for (const lost of [closed, renewed, ofRemoved, withdrawn])
      expect([400, 401]).toContain((await refreshed(lost.refresh_token, lost.client)).status)
    expect(await refreshed(standing.refresh_token, standing.client)).toMatchObject({ status: 200 })
    for (const { access_token } of [standing, closed, renewed, ofRemoved])
      expect(await statusWith(access_token ?? '')).toBe(401)
    expect((await call(server, people.owner, 'GET', `/workspaces/${world.workspaceId}`)).status).toBe(401) // signs in again
    await new Promise((resolve) => setTimeout(resolve, 1_100)) // sessions speak in whole seconds
    const owner = await signInBrowser(server, people.owner)
    expect((await call(server, owner, 'GET', `/workspaces/${world.workspaceId}`)).status).toBe(200)
    expect((await call(server, owner, 'GET', `/workspaces/${world.otherWorkspaceId}`)).status).toBe(404)
    const tries = await call(server, NOBODY, 'GET', `/workspaces/${world.workspaceId}`)
    expect(tries.status).toBe(401)
    await server.run('user restore', { user: suspended.email })
    await signInBrowser(server, suspended)
  })

  it('erases again whose account had been erased, and says nothing of them that a restored account could answer to', async () => {
    const person = await makePerson(server, 'Grace Unmistakable')
    const { workspaceId, organizationId } = world
    await server.run('member add', { workspace: workspaceId, user: person.email, role: 'admin' })
    const asked = await call(server, bearer(world.key), 'POST', `/workspaces/${workspaceId}/invitations`, {
      body: { email: person.email, role: 'admin' },
    })
    expect(asked.status).toBe(201)
    const connected = await connectPerson(server, world, person, 'read')
    await losing(async () => {
      await server.run('user erase', { user: person.email, dry_run: false, yes: true })
    })
    expect(await restoreCheck()).toMatchObject({
      status: 'restored',
      erased: [person.userId],
      suspended: [],
      still_owners: [],
    })
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    for (const table of ['users', 'invitations', 'workspaces', 'connection_uses'] as const) {
      const rows = await server.db.selectFrom(table).selectAll().execute()
      expect(JSON.stringify(rows).toLowerCase(), table).not.toContain(person.email.toLowerCase())
      expect(JSON.stringify(rows), table).not.toContain('Unmistakable')
    }
    expect((await refreshed(connected.refresh_token, connected.client)).status).toBe(400)
    await expect(server.run('user restore', { user: person.userId })).rejects.toMatchObject({ code: 'not_found' })
    const erased = await server.db
      .selectFrom('audit_events')
      .select(['organization_id', 'actor_kind'])
      .where('event', '=', 'user.erased')
      .where('user_id', '=', person.userId)
      .execute()
    expect(erased).toEqual([{ organization_id: organizationId, actor_kind: 'operator' }])
  })

  it('erases a person again whose only place was archived before', async () => {
    const person = await makePerson(server)
    const owned = await server.run('workspace create', {
      organization: world.organizationId,
      name: 'theirs',
      owner: person.email,
    })
    await losing(async () => {
      const session = await signInBrowser(server, person)
      expect((await call(server, session, 'POST', `/workspaces/${owned.id}/archive`)).status).toBe(200)
      await server.run('user erase', { user: person.email, dry_run: false, yes: true })
    })
    expect(await restoreCheck()).toMatchObject({ erased: [person.userId], still_owners: [] })
  })

  it('names nobody in the row of an erased person who is its last owner again, until there is another', async () => {
    const { owner } = world.people
    await losing(async () => {
      const heir = await makePerson(server)
      for (const [command, place] of [
        ['organization', world.organizationId],
        ['workspace', world.workspaceId],
        ['workspace', world.otherWorkspaceId],
      ] as const)
        await server.run('member add', { [command]: place, user: heir.email, role: 'owner' })
      await server.run('user erase', { user: owner.email, dry_run: false, yes: true })
    })
    expect(await restoreCheck()).toMatchObject({ erased: [], still_owners: [owner.userId], suspended: [] })
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    const row = await server.db
      .selectFrom('users')
      .selectAll()
      .where('id', '=', owner.userId as never)
      .executeTakeFirstOrThrow()
    expect(row).toMatchObject({ email_key: row.email, name: 'Erased', password_digest: null })
    expect(row.email).toMatch(/^[\w-]{36}@erased\.invalid$/)
    expect(row.suspended_at).not.toBeNull()
  })

  it('with a version that was made since the backup: the older one is dead, and the label is free again', async () => {
    const token = await makeToken(server, world, { label: 'nightly export' })
    const path = `/workspaces/${world.workspaceId}/api-keys/${token.id}`
    await losing(async () => {
      const rotated = await call(server, bearer(world.key), 'POST', `${path}/rotate`)
      expect(rotated.status).toBe(201)
      expect((await call(server, bearer(world.key), 'POST', `${path}/cutover`)).status).toBe(200)
    })
    await restoreCheck()
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    expect(await statusWith(token.key)).toBe(401)
    await makeToken(server, world, { label: 'nightly export' })
  })

  it('is answered from as before when nothing had been revoked since', async () => {
    const token = await makeToken(server, world)
    await losing(async () => {
      await makeToken(server, world)
    })
    expect(await readiness()).toMatchObject({ status: 200 })
    expect(await statusWith(token.key)).toBe(200)
  })

  it('is told from one that has lost its sink: it waits until somebody accepts the new one', async () => {
    const token = await makeToken(server, world)
    await revoke(`/workspaces/${world.workspaceId}/api-keys/${(await makeToken(server, world)).id}`)
    const away = readFileSync(sink, 'utf8')
    await losing(() => revoke(`/workspaces/${world.workspaceId}/api-keys/${token.id}`))
    await stop()
    rmSync(sink)
    await start()
    expect(await readiness()).toMatchObject({ status: 503, body: { waiting_for: ['sink'] } })
    expect(await statusWith(token.key)).toBe(503)
    await expect(restoreCheck()).rejects.toMatchObject({ code: 'conflict' })
    expect(await restoreCheck({ accept_sink: true })).toMatchObject({ status: 'sink_accepted' })
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    await stop()
    writeFileSync(sink, away + readFileSync(sink, 'utf8')) // the old one is back: it may know more
    await start()
    expect(await readiness()).toMatchObject({ status: 503, body: { waiting_for: ['sink'] } })
    expect(await restoreCheck({ accept_sink: true })).toMatchObject({ status: 'sink_accepted' })
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    await stop()
    await start()
    expect(await readiness()).toMatchObject({ status: 200 })
  })

  it('is not held up, nor moved, by lines that nobody signed', async () => {
    const [line = ''] = readFileSync(sink, 'utf8').split('\n').filter(Boolean)
    const [header = '', payload = ''] = JSON.parse(line).jws.split('.')
    const said = { ...JSON.parse(Buffer.from(payload, 'base64url').toString()), seq: Number.MAX_SAFE_INTEGER }
    const forged = `${header}.${Buffer.from(JSON.stringify(said)).toString('base64url')}.${'A'.repeat(86)}`
    appendFileSync(sink, `\n${JSON.stringify({ seq: said.seq, jws: forged })}\nnonsense\n{"seq":1}\n`)
    const token = await makeToken(server, world)
    await losing(() => revoke(`/workspaces/${world.workspaceId}/api-keys/${token.id}`))
    expect(await restoreCheck()).toMatchObject({ status: 'restored', unsigned_lines: 1, revocations: 1 })
    await expect.poll(readiness, { timeout: 10_000 }).toMatchObject({ status: 200 })
    const another = await makeToken(server, world)
    await revoke(`/workspaces/${world.workspaceId}/api-keys/${another.id}`)
    expect(await statusWith(another.key)).toBe(401)
    const { head } = await server.db.selectFrom('revocation_list').select('head').executeTakeFirstOrThrow()
    expect(Number(head)).toBeLessThan(100)
  })

  it('leaves a workspace its owner, where whom they had made one is lost', async () => {
    const { owner, admin } = world.people
    const base = `/workspaces/${world.workspaceId}`
    await losing(async () => {
      const handed = await call(server, owner, 'POST', `${base}/transfer`, { body: { user_id: admin.userId } })
      expect(handed.status, handed.text).toBe(200)
    })
    await restoreCheck()
    const owners = await server.db
      .selectFrom('workspace_members')
      .select('user_id')
      .where('workspace_id', '=', world.workspaceId as never)
      .where('role', '=', 'owner')
      .execute()
    expect(owners).toEqual([{ user_id: owner.userId }])
  })

  it('is not answered from while its sink cannot be read', async () => {
    await stop()
    config = Object.freeze({ ...config, sink: { kind: 'files' as const, path: '/dev/null/nowhere' } })
    await start()
    expect(await readiness()).toMatchObject({ status: 503, body: { waiting_for: ['sink'] } })
    expect(await statusWith(world.key)).toBe(503)
  })
})

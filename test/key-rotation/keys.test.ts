// Replacing keys while servers run: what seals what, sealing it again, and what is refused meanwhile.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { sql } from 'kysely'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createApp, ROOT } from '../../src/app.ts'
import { readConfig } from '../../src/config.ts'
import { createDataKeys, placeOfDataKey } from '../../src/crypto/data-keys.ts'
import { createEnvelope, keyId } from '../../src/crypto/envelope.ts'
import { Secret } from '../../src/crypto/secret.ts'
import { createLog } from '../../src/http/log.ts'
import { type DataKeyId, newId, type OrganizationId, type WorkspaceId } from '../../src/ids.ts'
import {
  type KeyRotationDeps,
  type KeysStatus,
  readKeysStatus,
  requireKeysInUse,
  rewrapAll,
  rotateData,
} from '../../src/key-rotation/service.ts'
import { getProvider, openCredentials } from '../../src/providers/service.ts'
import { createOutside } from '../../src/revocation/outside.ts'
import { createSink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { type Db, openPostgres } from '../../src/store/database.ts'
import { type ApiWorld, bearer, call, makeApiWorld } from '../support/api.ts'
import { createScratchDatabase, hasStores, newSink, type ScratchDatabase } from '../support/databases.ts'
import { startProcess, untilReady } from '../support/processes.ts'
import { MASTER_KEY, startServer, type TestServer } from '../support/server.ts'
import { json, MODELS, startUpstream, type Upstream } from '../support/upstream.ts'

const KEY = 'sk-ant-canary-0123456789abcdefghijklmnopqrstuvwxyz'
const OLD = Buffer.from(MASTER_KEY, 'base64')
const REQUEST = { traceId: 'keys' }
const QUIET = () => {}

/** What a process works with that has these master keys, newest first; its sink is elsewhere. */
function processWith(db: Db, ...keys: Buffer[]): KeyRotationDeps {
  const envelope = createEnvelope(keys)
  const providers = { db, dataKeys: createDataKeys(envelope), onError: QUIET }
  const outside = createOutside({
    db,
    sink: createSink({ kind: 'files', path: newSink() }),
    signer: createSinkSigner(keys),
    onError: QUIET,
  })
  return { db, master: { envelope, ids: keys.map(keyId) }, providers, outside }
}

const rewrapHere = (deps: KeyRotationDeps) => rewrapAll(deps, { request: REQUEST, onProgress: QUIET })
const rotateHere = (deps: KeyRotationDeps, organization?: string, unfinishedOnly = false) =>
  rotateData(deps, { organization, unfinishedOnly, request: REQUEST, onProgress: QUIET })

/** How many data keys each master key seals. */
async function sealedBy(db: Db): Promise<Record<string, number>> {
  const { rows } = await sql<{ id: string; count: number }>`
    select split_part(sealed_key, '.', 2) as id, count(*)::int as count from data_keys group by 1`.execute(db)
  return Object.fromEntries(rows.map(({ id, count }) => [id, count]))
}

/** Older data keys of an organization, which seal nothing: there may be any number of them. */
async function addRetiredKeys(db: Db, organizationId: OrganizationId, master: Buffer, count: number): Promise<void> {
  const envelope = createEnvelope([master])
  const rows = Array.from({ length: count }, () => {
    const id: DataKeyId = newId('dk')
    const sealed_key = envelope.seal(randomBytes(32).toString('base64'), placeOfDataKey(organizationId, id))
    return { id, organization_id: organizationId, sealed_key, retired_at: new Date() }
  })
  await db.insertInto('data_keys').values(rows).execute()
}

describe('keys', () => {
  let server: TestServer
  let world: ApiWorld
  let upstream: Upstream
  beforeAll(async () => {
    upstream = await startUpstream()
    upstream.answer(json(200, MODELS))
    server = await startServer({
      backend: hasStores() ? 'stores' : 'embedded',
      environment: { LATCHKEY_OUTBOUND_PRIVATE: 'loopback' },
    })
    world = await makeApiWorld(server)
  })
  afterAll(async () => {
    await server?.close()
    await upstream?.close()
  })

  async function connect(place: { workspaceId: string; key: string }): Promise<string> {
    const path = `/workspaces/${place.workspaceId}/providers`
    const body = {
      provider_type: 'anthropic',
      credentials_type: 'api_token',
      credentials: { api_token: KEY },
      base_url: upstream.url,
    }
    const made = await call(server, bearer(place.key), 'POST', path, { body })
    expect(made.status, made.text).toBe(201)
    return made.body.id
  }
  const disconnect = (place: { workspaceId: string; key: string }, id: string) =>
    call(server, bearer(place.key), 'DELETE', `/workspaces/${place.workspaceId}/providers/${id}`)
  const read = async (deps: KeyRotationDeps, workspaceId: string, id: string) => {
    const connection = await getProvider(server.db, workspaceId as WorkspaceId, id)
    return (await openCredentials(deps.providers, server.db, connection)).reveal()
  }
  const status = async () => (await server.run('keys status', {})) as unknown as KeysStatus

  it('status says what each seals, of which table, and of whom, and nothing of a key itself', async () => {
    const id = await connect(world)
    const shown = await status()
    expect(shown).toMatchObject({
      ok: true,
      master_keys: [{ key_id: keyId(OLD), is_held: true, is_newest: true, seals: { signing_keys: 2, server_keys: 4 } }],
      data_keys: [
        { organization_id: world.organizationId, data_key_id: expect.stringMatching(/^dk_/), is_newest: true },
      ],
      unfinished_rotations: [],
    })
    expect(shown.data_keys[0]?.connections).toBe(1)
    expect(JSON.stringify(shown)).not.toContain(MASTER_KEY.slice(0, 8))
    await disconnect(world, id)
  })

  it('status ends as a failure where a key is missing, and says which', async () => {
    const [other, third] = [randomBytes(32), randomBytes(32)]
    const shown = await readKeysStatus(processWith(server.db, other, third))
    expect([shown.ok, shown.master_keys]).toEqual([
      false,
      [
        { key_id: keyId(other), is_held: true, is_newest: true, seals: {} },
        { key_id: keyId(third), is_held: true, is_newest: false, seals: {} },
        { key_id: keyId(OLD), is_held: false, is_newest: false, seals: expect.objectContaining({ signing_keys: 2 }) },
      ],
    ])
  })

  it('are not rewrapped by a process that lacks one of them: nothing is changed, or recorded', async () => {
    const before = await sealedBy(server.db)
    await expect(rewrapHere(processWith(server.db, randomBytes(32)))).rejects.toMatchObject({
      code: 'unavailable',
      detail: expect.stringContaining(keyId(OLD)),
    })
    expect(await sealedBy(server.db)).toEqual(before)
    const records = server.db.selectFrom('audit_events').select('id').where('event', '=', 'master_key.rewrapped')
    expect(await records.execute()).toEqual([])
  })

  it('data keys of all organizations are replaced by one command, and what cannot be read is named', async () => {
    const places = [world, world.neighbour]
    const ids = await Promise.all(places.map(connect))
    const [fine, broken] = ids
    await sql`update provider_connections set sealed_credentials = left(sealed_credentials, -4) || 'AAAA' where id = ${broken}`.execute(
      server.db,
    )
    const before = (await status()).data_keys.map((key) => key.data_key_id)
    const done = await server.run('keys rotate-data', { unfinished_only: false })
    expect(done).toEqual({ ok: false, rotated: 2, resealed: 1, unreadable: [broken] })
    const after = await status()
    expect(after.unfinished_rotations).toEqual([world.neighbour.organizationId])
    const kept = after.data_keys.filter((key) => before.includes(key.data_key_id))
    expect(kept).toMatchObject([{ organization_id: world.neighbour.organizationId, is_newest: false, connections: 1 }])
    expect(await read(processWith(server.db, OLD), world.workspaceId, fine ?? '')).toBe(KEY)
    await Promise.all(places.map((place, index) => disconnect(place, ids[index] ?? '')))
    const none = { ok: true, rotated: 0, resealed: 0, unreadable: [] }
    expect(await server.run('keys rotate-data', { unfinished_only: true })).toEqual(none)
  })

  it('a rotation of data keys that was cut short goes on, without another new key', async () => {
    const id = await connect(world)
    const { dataKeys } = server.app.providers
    await server.db.transaction().execute((trx) => dataKeys.rotate(trx, world.organizationId as OrganizationId))
    expect((await status()).unfinished_rotations).toEqual([world.organizationId])
    const input = { organization: world.organizationId, unfinished_only: true }
    expect(await server.run('keys rotate-data', input)).toEqual({ ok: true, rotated: 0, resealed: 1, unreadable: [] })
    const shown = await status()
    expect(shown.unfinished_rotations).toEqual([])
    const own = shown.data_keys.filter((key) => key.organization_id === world.organizationId)
    expect(own).toMatchObject([{ is_newest: true, connections: 1 }])
    expect(await read(processWith(server.db, OLD), world.workspaceId, id)).toBe(KEY)
    await disconnect(world, id)
  })

  it.runIf(hasStores())(
    'a rotation beside another one of the same organization is a conflict, and nothing of it stays',
    async () => {
      const id = await connect(world)
      const { dataKeys } = server.app.providers
      const organizationId = world.organizationId as OrganizationId
      const before = (await status()).data_keys.length
      const first = await server.db.startTransaction().execute()
      await dataKeys.rotate(first, organizationId)
      const second = rotateHere(processWith(server.db, OLD), organizationId).catch((error: unknown) => error)
      await expect
        .poll(async () => {
          const { rows } = await sql<{ waiting: boolean }>`select count(*) > 0 as waiting from pg_stat_activity
          where datname = current_database() and wait_event_type = 'Lock'`.execute(server.db)
          return rows[0]?.waiting
        })
        .toBe(true)
      await first.commit().execute()
      expect(await second).toMatchObject({ code: 'conflict' })
      expect((await status()).data_keys).toHaveLength(before + 1)
      expect(await rotateHere(processWith(server.db, OLD), organizationId)).toMatchObject({ ok: true, resealed: 1 })
      await disconnect(world, id)
    },
  )

  it('a data key that is overwritten opens nothing once it is read again, and that is soon', async () => {
    const id = await connect(world)
    const connection = await getProvider(server.db, world.workspaceId as WorkspaceId, id)
    const [lasting, short] = [undefined, 50].map((keptMs) => ({
      dataKeys: createDataKeys(createEnvelope([OLD]), keptMs === undefined ? {} : { keptMs }),
      onError: QUIET,
    }))
    const opened = async (deps: typeof lasting) => deps && (await openCredentials(deps, server.db, connection)).reveal()
    expect([await opened(lasting), await opened(short)]).toEqual([KEY, KEY])
    const { rows } = await sql<{ sealed_key: string }>`
      select sealed_key from data_keys where id = ${connection.credentials.dataKeyId}`.execute(server.db)
    const write = (sealed: string | undefined) =>
      sql`update data_keys set sealed_key = ${sealed} where id = ${connection.credentials.dataKeyId}`.execute(server.db)
    await write('gone')
    expect(await opened(lasting)).toBe(KEY)
    await expect.poll(() => opened(short).catch(({ code }) => code)).toBe('credentials_unreadable')
    await write(rows[0]?.sealed_key)
    expect(await opened(short)).toBe(KEY)
    await disconnect(world, id)
  })

  it('of an organization that is not there are not replaced', async () => {
    for (const organization of [newId('org'), 'acme'])
      await expect(server.run('keys rotate-data', { organization, unfinished_only: false })).rejects.toMatchObject({
        code: 'not_found',
      })
  })

  it('the rewrapping that is cut short between two batches goes on with what is left', async () => {
    const organizationId = world.organizationId as OrganizationId
    const next = randomBytes(32)
    const deps = processWith(server.db, next, OLD)
    await addRetiredKeys(server.db, organizationId, OLD, 250)
    const total = Object.values(await sealedBy(server.db)).reduce((sum, count) => sum + count, 0)
    let stopped = 0
    const stopping = rewrapAll(deps, {
      request: REQUEST,
      onProgress: (done) => {
        stopped = done
        if (done > 100) throw new Error('cut short')
      },
    })
    await expect(stopping).rejects.toThrow('cut short')
    const half = await sealedBy(server.db)
    expect(half[keyId(next)]).toBe(100)
    expect(half[keyId(OLD)]).toBe(total - 100)
    const rest = await rewrapHere(deps)
    expect(rest).toEqual({
      ok: true,
      key_id: keyId(next),
      rewrapped: 6 + total - stopped, // two signing keys and four of the server came first
      still_in_use: [],
      sink_told: true,
    })
    expect(await sealedBy(server.db)).toEqual({ [keyId(next)]: total })
    const back = await rewrapHere(processWith(server.db, OLD, next))
    expect([back.ok, back.rewrapped]).toEqual([true, 6 + total])
    await sql`delete from data_keys where retired_at is not null`.execute(server.db)
  })

  it('one that was changed is named, and stands in the way until it is mended', async () => {
    const organizationId = world.organizationId as OrganizationId
    const next = randomBytes(32)
    await addRetiredKeys(server.db, organizationId, OLD, 1)
    const { rows } = await sql<{ id: string }>`
      update data_keys set sealed_key = left(sealed_key, -4) || 'AAAA' where retired_at is not null returning id`.execute(
      server.db,
    )
    await expect(rewrapHere(processWith(server.db, next, OLD))).rejects.toMatchObject({
      code: 'conflict',
      detail: expect.stringContaining(`data_keys ${rows[0]?.id}`),
    })
    await sql`delete from data_keys where retired_at is not null`.execute(server.db)
    expect((await rewrapHere(processWith(server.db, next, OLD))).ok).toBe(true)
    await rewrapHere(processWith(server.db, OLD, next))
  })

  it('are read and written while both are replaced, over and over, by each process that has both', {
    timeout: 120_000,
  }, async () => {
    const id = await connect(world)
    const organizationId = world.organizationId as OrganizationId
    const next = randomBytes(32)
    const [before, prepared, after] = [
      processWith(server.db, OLD),
      processWith(server.db, OLD, next),
      processWith(server.db, next, OLD),
    ]
    await addRetiredKeys(server.db, organizationId, OLD, 150)
    expect(await read(before, world.workspaceId, id)).toBe(KEY)
    let isOver = false
    let reads = 0
    const fresh = () => [processWith(server.db, OLD, next), processWith(server.db, next, OLD)]
    const readers = [prepared, after].map(async (deps) => {
      while (!isOver) {
        for (const reader of [deps, ...fresh()]) expect(await read(reader, world.workspaceId, id)).toBe(KEY)
        reads++
      }
    })
    const writers = [prepared, after].map(async ({ providers }) => {
      while (!isOver) {
        const place = `nowhere:${reads}`
        const opened = await server.db.transaction().execute(async (trx) => {
          const sealed = await providers.dataKeys.seal(trx, organizationId, new Secret('written'), place)
          return providers.dataKeys.open(trx, organizationId, sealed, place)
        })
        expect(opened?.reveal()).toBe('written')
      }
    })
    for (let turn = 0; turn < 4; turn++) {
      const [to, from] = turn % 2 === 0 ? [after, prepared] : [prepared, after]
      await Promise.all([rewrapHere(to), rotateHere(from, world.organizationId)])
      await rotateHere(to)
    }
    isOver = true
    await Promise.all([...readers, ...writers])
    expect(reads).toBeGreaterThan(4)
    await rewrapHere(prepared)
    await disconnect(world, id)
  })

  it('a process that has only the older one goes on with what it has opened, and opens nothing that is rewrapped', async () => {
    const id = await connect(world)
    const next = randomBytes(32)
    const running = processWith(server.db, OLD)
    expect(await read(running, world.workspaceId, id)).toBe(KEY)
    await rewrapHere(processWith(server.db, next, OLD))
    expect(await read(running, world.workspaceId, id)).toBe(KEY)
    await expect(read(processWith(server.db, OLD), world.workspaceId, id)).rejects.toMatchObject({
      code: 'credentials_unreadable',
    })
    expect(await read(processWith(server.db, next), world.workspaceId, id)).toBe(KEY)
    await rewrapHere(processWith(server.db, OLD, next))
    await disconnect(world, id)
  })

  it('one that seals something is not left out: the server that lacks it does not start, and says which and why', async () => {
    const id = await connect(world)
    const next = randomBytes(32)
    const config = readConfig({ PORT: '1', LATCHKEY_TOUR: 'off', LATCHKEY_SINK: newSink() })
    const opened = { db: server.db, kind: 'embedded', source: { url: new Secret('') }, close: async () => {} } as const
    const starting = createApp(config, opened, [next], createLog('fatal', { write: QUIET }))
    await expect(starting).rejects.toMatchObject({ code: 'unavailable', detail: expect.stringContaining(keyId(OLD)) })
    // Nor where only data keys are under it: everything else would work until somebody calls a provider.
    const both = processWith(server.db, next, OLD)
    await rewrapHere(both)
    await sql`update data_keys set sealed_key = ${createEnvelope([OLD]).seal('x', 'y')}
      where organization_id = ${world.organizationId}`.execute(server.db)
    await expect(requireKeysInUse(server.db, [next])).rejects.toMatchObject({
      detail: expect.stringMatching(/data_keys are sealed under: put it back.*keys rewrap/),
    })
    await requireKeysInUse(server.db, [next, OLD])
    await disconnect(world, id)
    await sql`delete from data_keys where organization_id = ${world.organizationId}`.execute(server.db)
    await requireKeysInUse(server.db, [next])
    await rewrapHere(processWith(server.db, OLD, next))
  })
})

describe.runIf(hasStores())('the command line', () => {
  let scratch: ScratchDatabase
  let db: Db
  let closeDb: () => Promise<void>
  let organizationId: OrganizationId
  const [old, next] = [randomBytes(32), randomBytes(32)]
  const ring = (...keys: Buffer[]) => keys.map((key) => key.toString('base64')).join(',')
  const sink = newSink()
  const environment = (...keys: Buffer[]) => ({
    PATH: process.env.PATH ?? '',
    NODE_COMPILE_CACHE: process.env.NODE_COMPILE_CACHE ?? '',
    DATABASE_URL: scratch.url,
    LATCHKEY_MASTER_KEY: ring(...keys),
    LATCHKEY_SINK: sink,
  })

  function latchkey(args: string[], ...keys: Buffer[]) {
    const child = spawn(process.execPath, [join(ROOT, 'src/main.ts'), ...args], { env: environment(...keys) })
    child.stdin.end()
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
    const output = Promise.all([text(child.stdout), text(child.stderr), ended])
    return { child, ended: output.then(([stdout, stderr, code]) => ({ stdout, stderr, code })) }
  }

  beforeAll(async () => {
    scratch = await createScratchDatabase()
    const opened = openPostgres(scratch.url, 3, QUIET)
    db = opened.db
    closeDb = opened.close
    organizationId = newId('org')
    await sql`insert into organizations (id, name) values (${organizationId}, 'Acme')`.execute(db)
  })
  afterAll(async () => {
    await closeDb?.()
    await scratch?.drop()
  })

  it('replaces the master key through a kill in the middle; a server without a key in use is told which', {
    timeout: 300_000,
  }, async () => {
    await addRetiredKeys(db, organizationId, old, 350)
    const first = await startProcess({ databaseUrl: scratch.url, masterKey: ring(old), sink })
    await untilReady(first)
    await first.stop()

    // Its last batch waits for us: it is in the middle when it is killed, however fast it is.
    const holder = new pg.Client({ connectionString: scratch.url })
    await holder.connect()
    await holder.query('begin')
    await holder.query('select id from data_keys order by id desc limit 1 for update')
    const { child, ended } = latchkey(['keys', 'rewrap', '--json'], next, old)
    await until(async () => (await sealedBy(db))[keyId(next)] !== undefined || child.exitCode !== null)
    child.kill('SIGKILL')
    const killed = await ended
    await holder.end()
    expect(killed.code).not.toBe(0)
    const half = await sealedBy(db)
    expect(half[keyId(next)]).toBeGreaterThan(0)
    expect(half[keyId(old)]).toBeGreaterThan(0)

    const lacking = startProcess({ databaseUrl: scratch.url, masterKey: ring(next), sink })
    await expect(lacking).rejects.toThrow(
      new RegExp(`LATCHKEY_MASTER_KEY lacks the key with the id ${keyId(old)}.*latchkey keys rewrap`),
    )
    await expect(lacking).rejects.not.toThrow(/\n {4}at /)

    const shown = await latchkey(['keys', 'status', '--json'], next, old).ended
    expect([shown.code, JSON.parse(shown.stdout).master_keys]).toMatchObject([
      0,
      [
        { key_id: keyId(next), is_held: true, is_newest: true, seals: { data_keys: half[keyId(next)] } },
        { key_id: keyId(old), is_held: true, is_newest: false, seals: { data_keys: half[keyId(old)] } },
      ],
    ])
    const finished = await latchkey(['keys', 'rewrap', '--json'], next, old).ended
    expect([finished.code, JSON.parse(finished.stdout)]).toEqual([
      0,
      { ok: true, key_id: keyId(next), rewrapped: half[keyId(old)], still_in_use: [], sink_told: true },
    ])
    const last = await startProcess({ databaseUrl: scratch.url, masterKey: ring(next), sink })
    await untilReady(last)
    await last.stop()
    for (const args of [
      ['keys', 'status'],
      ['keys', 'rewrap'],
      ['keys', 'rotate-data'],
    ])
      expect(await latchkey([...args, '--help']).ended).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(`Usage: latchkey ${args.join(' ')}`),
      })
  })

  async function until(condition: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + 60_000
    while (!(await condition())) {
      if (performance.now() > deadline) throw new Error('not so in time')
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
})

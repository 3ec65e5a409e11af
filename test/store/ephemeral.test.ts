import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { createCipheriv, createDecipheriv, randomBytes, randomUUID } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { inspect } from 'node:util'
import { PGlite } from '@electric-sql/pglite'
import * as fc from 'fast-check'
import { Redis } from 'ioredis'
import { Kysely, PGliteDialect, PostgresDialect, sql } from 'kysely'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it, vi } from 'vitest'
import { up } from '../../migrations/0001-ephemeral.ts'
import { type EphemeralStore, EphemeralUnavailable, type Sealer, sealEphemeral } from '../../src/store/ephemeral.ts'
import {
  createPostgresEphemeralStore,
  type EphemeralTables,
  type PostgresEphemeralStore,
} from '../../src/store/ephemeral-postgres.ts'
import { createRedisEphemeralStore, type RedisEphemeralOptions } from '../../src/store/ephemeral-redis.ts'
import { ephemeralContract, put, times } from './ephemeral.contract.ts'

// --- Redis ------------------------------------------------------------------------------------------------------------

const hasRedis = spawnSync('redis-server', ['--version']).status === 0
if (!hasRedis) process.stderr.write('SKIPPED: the ephemeral store on Redis; redis-server is not on the PATH\n')

describe.skipIf(!hasRedis)('the ephemeral store on Redis', () => {
  const PREFIX = 'test:'
  const COMMAND_TIMEOUT_MS = 250
  const PROMPT_MS = COMMAND_TIMEOUT_MS + 250 // the timeout, and what a busy machine may add
  let server: RedisServer
  const opened: EphemeralStore[] = []

  beforeAll(async () => {
    server = await startRedis()
  })

  afterEach(async () => {
    await Promise.all(opened.splice(0).map((store) => store.close()))
    await server.start() // where a test failed before it did
  })

  afterAll(async () => {
    await server.remove()
  })

  function open(options: Partial<RedisEphemeralOptions> = {}): EphemeralStore {
    const store = createRedisEphemeralStore({ url: server.url, prefix: PREFIX, ...options })
    opened.push(store)
    return store
  }

  // A timeout that no pause of a busy machine reaches; the faults below have the real one.
  ephemeralContract('contract', async () =>
    createRedisEphemeralStore({ url: server.url, prefix: PREFIX, commandTimeoutMs: 5_000 }),
  )

  /** Each method once, on names of their own: what it did, or how it failed, and how long it took. */
  function callAll(store: EphemeralStore) {
    const id = randomUUID()
    return Promise.all([
      outcomeOf(() => store.find('session', id)),
      outcomeOf(() => store.write([put('session', randomUUID(), 'value')])),
      outcomeOf(() => store.consume('session', id)),
      outcomeOf(() => store.increment('sign-in', id, 60)),
      outcomeOf(() => store.ping()),
    ])
  }

  async function expectUnavailable(store: EphemeralStore, withinMs = PROMPT_MS): Promise<void> {
    for (const { error, elapsedMs } of await callAll(store)) {
      expect(error).toBeInstanceOf(EphemeralUnavailable)
      expect(error).toMatchObject({ code: 'ephemeral_unavailable', cause: expect.any(Error) })
      expect(elapsedMs).toBeLessThan(withinMs)
    }
  }

  async function expectRecovery(store: EphemeralStore): Promise<void> {
    await vi.waitFor(() => store.ping(), { timeout: 5_000, interval: 50 })
    for (const { error } of await callAll(store)) expect(error).toBeUndefined()
  }

  describe('that is down', () => {
    it('is unavailable after kill -9, never empty, and recovers by itself after the restart', async () => {
      const store = open()
      await store.ping()
      await server.kill()
      await expectUnavailable(store)
      await expectUnavailable(store, 100) // without a connection nothing is waited for
      await server.start()
      await expectRecovery(store)
    })

    it('fails the calls that are under way when it is killed, and sends none of them twice', async () => {
      const id = randomUUID()
      const store = open()
      await store.ping()
      server.signal('SIGSTOP')
      const counted = outcomeOf(() => store.increment('sign-in', id, 60))
      await server.kill()
      const { error, elapsedMs } = await counted
      expect(error).toBeInstanceOf(EphemeralUnavailable)
      expect(elapsedMs).toBeLessThan(PROMPT_MS)
      await server.start()
      await expectRecovery(store)
      expect((await store.increment('sign-in', id, 60)).count).toBe(1)
    })

    it('is unavailable within the timeout while it hangs, then at once, and recovers when it goes on', async () => {
      const store = open()
      await store.ping()
      server.signal('SIGSTOP')
      try {
        await expectUnavailable(store)
        await vi.waitFor(() => expectUnavailable(store, 100), { timeout: 2_000, interval: 50 })
        await expectUnavailable(store, 100)
      } finally {
        server.signal('SIGCONT')
      }
      await expectRecovery(store)
    })

    it('closes within a second while it hangs', async () => {
      const store = open()
      await store.ping()
      server.signal('SIGSTOP')
      try {
        const { error, elapsedMs } = await outcomeOf(() => store.close())
        expect(error).toBeUndefined()
        expect(elapsedMs).toBeLessThan(1_000)
      } finally {
        server.signal('SIGCONT')
      }
    })

    it('makes calls wait for the first connection when both start together', async () => {
      await server.kill()
      const store = open({ startTimeoutMs: 10_000 })
      const pinged = store.ping()
      await server.start()
      await expect(pinged).resolves.toBeUndefined()
    })

    it('is unavailable after the time to start when it is down from the beginning, and reports why', async () => {
      const errors: Error[] = []
      await server.kill()
      const store = open({ startTimeoutMs: 300, onError: (error) => errors.push(error) })
      await expectUnavailable(store, 300 + PROMPT_MS)
      await expectUnavailable(store, 100)
      expect(errors.length).toBeGreaterThan(0)
      expect(inspect(errors)).toContain('ECONNREFUSED')
      await server.start()
      await expectRecovery(store)
    })
  })

  describe('that refuses', () => {
    const refusals = [
      {
        name: 'READONLY',
        begin: ['REPLICAOF 127.0.0.1 1'],
        end: ['REPLICAOF NO ONE'],
      },
      {
        name: 'OOM',
        begin: ['CONFIG SET maxmemory 1'],
        end: ['CONFIG SET maxmemory 0'],
      },
      {
        name: 'NOREPLICAS',
        begin: ['CONFIG SET min-replicas-to-write 1'],
        end: ['CONFIG SET min-replicas-to-write 0'],
      },
      {
        name: 'NOAUTH',
        begin: ['CONFIG SET requirepass s3', 'AUTH s3', 'CLIENT KILL TYPE normal'],
        end: ['AUTH s3', 'CONFIG SET requirepass ""'],
      },
      {
        name: 'NOPERM',
        begin: ['ACL SETUSER default -@all +acl'],
        end: ['ACL SETUSER default +@all'],
      },
    ]

    it.each(refusals)('is unavailable on $name, changes nothing, and recovers', async ({ begin, end }) => {
      const [id, never] = [randomUUID(), randomUUID()]
      const store = open()
      await store.write([put('code', id, 'payload')])
      await server.command(...begin)
      try {
        const changes = [
          () => store.write([put('code', never, 'value'), { op: 'delete', kind: 'code', id }]),
          () => store.consume('code', id),
          () => store.increment('sign-in', id, 60),
          () => store.ping(),
        ]
        for (const change of changes) await expect(change()).rejects.toBeInstanceOf(EphemeralUnavailable)
      } finally {
        await server.command(...end)
      }
      await expectRecovery(store)
      expect(await store.find('code', id)).toEqual({ value: 'payload', consumed: false })
      expect(await store.find('code', never)).toBeUndefined()
      expect((await store.increment('sign-in', id, 60)).count).toBe(1)
    })

    it('is unavailable on MISCONF, when it cannot write its own files', async () => {
      const store = open()
      await store.ping()
      rmSync(server.directory, { recursive: true })
      await server.command('CONFIG SET save "3600 1"', 'BGSAVE')
      try {
        await vi.waitFor(async () => {
          const { error } = await outcomeOf(() => store.write([put('session', randomUUID(), 'value')]))
          expect(error).toBeInstanceOf(EphemeralUnavailable)
          expect(inspect(error)).toContain('MISCONF')
        })
      } finally {
        await server.command('CONFIG SET save ""')
        mkdirSync(server.directory)
        await server.kill() // its working directory is gone for good
        await server.start()
      }
    })

    it('is unavailable while it is LOADING, and has what it had afterwards', async () => {
      const store = open()
      await store.write(times(100, (turn) => put('session', `loaded-${turn}`, 'value')))
      await server.command('SAVE')
      await server.kill()
      // 100 keys and more, 10 ms each, and an ear for clients after each of them.
      await server.start('--key-load-delay', '10000', '--loading-process-events-interval-bytes', '1024')
      const early = open({ startTimeoutMs: 10 })
      await expectUnavailable(store)
      await expectUnavailable(early)
      expect(await server.command('PING')).toContain('LOADING') // or the above proves nothing
      await expectRecovery(store)
      expect(await store.find('session', 'loaded-99')).toEqual({ value: 'value', consumed: false })
    })

    it('keeps values and ids out of its errors, which end in logs', async () => {
      const store = open()
      await store.ping()
      await server.command('CONFIG SET maxmemory 1')
      try {
        const single = await outcomeOf(() => store.write([put('session', 'the-id', 'the-value')]))
        const script = await outcomeOf(() => store.increment('sign-in', 'the-id', 60))
        for (const { error } of [single, script]) {
          const shown = inspect(error, { depth: 10, showHidden: true })
          expect(shown).toContain('OOM')
          expect(shown).not.toContain('the-id')
          expect(shown).not.toContain('the-value')
        }
      } finally {
        await server.command('CONFIG SET maxmemory 0')
      }
    })
  })

  it('follows its address to the new primary after a failover', async () => {
    const primary = await startRedis()
    const proxy = await startProxy(server.port)
    try {
      const store = open({ url: `redis://127.0.0.1:${proxy.port}` })
      await store.ping()
      await server.command('REPLICAOF 127.0.0.1 1')
      proxy.target = primary.port
      await expectRecovery(store) // the old connection is still open, to a server that stays a replica
    } finally {
      await Promise.all([proxy.close(), primary.remove()])
      await server.command('REPLICAOF NO ONE')
    }
  })

  it('sets a time to live on every key, and gives one to a counter that lost its own', async () => {
    const id = randomUUID()
    const store = open({ prefix: `${id}:` })
    await store.write([put('code', id, 'value'), put('session', id, 'value')])
    await store.consume('code', id)
    await store.increment('sign-in', id, 60)
    await store.ping()
    const raw = new Redis(server.url)
    try {
      const keys = await raw.keys(`${id}:*`)
      expect(keys).toHaveLength(4)
      for (const key of keys) expect(await raw.pttl(key)).toBeGreaterThan(0)

      const [counter = ''] = keys.filter((key) => key.includes('sign-in'))
      await raw.persist(counter)
      await store.increment('sign-in', id, 60)
      expect(await raw.pttl(counter)).toBeGreaterThan(0)
    } finally {
      raw.disconnect()
    }
  })

  it('works on after every script was forgotten', async () => {
    const id = randomUUID()
    const store = open()
    await store.write([put('code', id, 'value')])
    await store.increment('sign-in', id, 60)
    await server.command('SCRIPT FLUSH')
    expect(await store.consume('code', id)).toBe(true)
    expect((await store.increment('sign-in', id, 60)).count).toBe(2)
  })

  it('takes no answer for late that arrived while the process was busy', async () => {
    const store = open()
    await store.ping()
    const found = outcomeOf(() => store.find('session', randomUUID()))
    for (let turn = 0; turn < 10; turn++) await null // until the command is sent
    for (const end = performance.now() + COMMAND_TIMEOUT_MS + 100; performance.now() < end; );
    expect((await found).error).toBeUndefined()
  })

  it('is unavailable once it is closed', async () => {
    const store = open()
    await store.ping()
    await store.close()
    await expectUnavailable(store, 100)
  })
})

interface RedisServer {
  port: number
  url: string
  directory: string
  /** Does nothing while it runs. */
  start(...args: string[]): Promise<void>
  /** kill -9 */
  kill(): Promise<void>
  signal(name: 'SIGSTOP' | 'SIGCONT'): void
  /** Sends the lines on one connection of their own, and returns what was answered. */
  command(...lines: string[]): Promise<string>
  remove(): Promise<void>
}

/** A Redis of our own on a free port. */
async function startRedis(): Promise<RedisServer> {
  const directory = mkdtempSync(join(tmpdir(), 'latchkey-redis-'))
  const port = await findFreePort()
  let child: ChildProcess | undefined
  process.once('exit', () => child?.kill('SIGKILL'))

  const command = async (...lines: string[]): Promise<string> => {
    const socket = connect(port, '127.0.0.1')
    socket.write([...lines, 'QUIT', ''].join('\r\n'))
    return text(socket)
  }

  const server: RedisServer = {
    port,
    url: `redis://127.0.0.1:${port}`,
    directory,
    command,
    async start(...args) {
      if (child !== undefined) return
      const fixed = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', directory, '--save', '', '--appendonly', 'no']
      child = spawn('redis-server', [...fixed, ...args], { stdio: 'ignore' })
      await vi.waitFor(() => command('PING'), { timeout: 5_000, interval: 20 })
    },
    async kill() {
      const killed = child
      child = undefined
      if (killed === undefined) return
      const exited = new Promise((resolve) => killed.once('exit', resolve))
      killed.kill('SIGKILL')
      await exited
    },
    signal(name) {
      child?.kill(name)
    },
    async remove() {
      await server.kill()
      rmSync(directory, { recursive: true, force: true })
    },
  }
  await server.start()
  return server
}

interface Proxy {
  port: number
  /** Where the next connections go. */
  target: number
  close(): Promise<void>
}

async function startProxy(target: number): Promise<Proxy> {
  const sockets: Socket[] = []
  const listener = createServer((near) => {
    const far = connect(proxy.target, '127.0.0.1')
    sockets.push(near, far)
    for (const socket of [near, far]) socket.on('error', () => near.destroy())
    near.pipe(far).pipe(near)
  })
  const proxy: Proxy = {
    port: await listen(listener),
    target,
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => listener.close(resolve))
    },
  }
  return proxy
}

async function findFreePort(): Promise<number> {
  const probe = createServer()
  const port = await listen(probe)
  await new Promise((resolve) => probe.close(resolve))
  return port
}

/** Listens on a free port and says which. */
async function listen(listener: Server): Promise<number> {
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  const address = listener.address()
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return address.port
}

interface Outcome {
  error: unknown
  elapsedMs: number
}

async function outcomeOf(call: () => Promise<unknown>): Promise<Outcome> {
  const begin = performance.now()
  const error = await call().then(
    () => undefined,
    (reason: unknown) => reason,
  )
  return { error, elapsedMs: performance.now() - begin }
}

// --- PostgreSQL -------------------------------------------------------------------------------------------------------

const postgresUrl = inject('postgresUrl') ?? ''
const hasPostgres = postgresUrl !== ''

describe.skipIf(!hasPostgres)('the ephemeral store on PostgreSQL', () => {
  const database = `latchkey_ephemeral_${randomBytes(6).toString('hex')}`
  const clients: Kysely<EphemeralTables>[] = []
  let db: Kysely<EphemeralTables>

  beforeAll(async () => {
    await administer(`create database ${database}`)
    db = openPool(scratchUrl(), clients)
    await createTables(db)
  })

  afterAll(async () => {
    await administer(`drop database if exists ${database} with (force)`) // first, as it also ends what hangs
    await Promise.all(clients.map((client) => client.destroy()))
  })

  function scratchUrl(parameters: Record<string, string> = {}): string {
    const url = new URL(postgresUrl)
    url.pathname = database
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
    return url.href
  }

  ephemeralContract('contract', async () => createPostgresEphemeralStore({ db: openPool(scratchUrl(), clients) }))

  sweepSuite(() => db)

  it('sweeps around a row that a call is working on, without waiting for it', async () => {
    const store = createPostgresEphemeralStore({ db })
    await sweepAll(store)
    const ids = times(3, () => randomUUID())
    await store.write(ids.map((id) => put('session', id, 'value', 0)))
    await db.transaction().execute(async (trx) => {
      await trx.selectFrom('ephemeral_entries').select('id').where('id', '=', `${ids[0]}`).forUpdate().execute()
      expect(await store.sweep(10)).toBe(2)
    })
    expect(await store.sweep(10)).toBe(1)
  })

  it('is unavailable, not empty, when its connections are cut, and recovers by itself', async () => {
    const cut = sql`select pg_terminate_backend(pid) from pg_stat_activity
      where datname = ${database} and application_name = 'cut'`
    const slow = createPostgresEphemeralStore({ db: openPool(scratchUrl({ application_name: 'cut' }), clients, 1) })
    await slow.ping()
    const locked = db.transaction().execute(async (trx) => {
      await sql`lock table ephemeral_entries in access exclusive mode`.execute(trx)
      const found = outcomeOf(() => slow.find('session', randomUUID()))
      await new Promise((resolve) => setTimeout(resolve, 100)) // it waits for the lock now
      await cut.execute(trx)
      return found
    })
    expect((await locked).error).toBeInstanceOf(EphemeralUnavailable)
    await vi.waitFor(() => slow.ping())
    expect(await slow.find('session', randomUUID())).toBeUndefined()
  })

  it('is unavailable, not empty, when nothing listens', async () => {
    const store = createPostgresEphemeralStore({
      db: openPool(`postgres://postgres@127.0.0.1:${await findFreePort()}/none`, clients),
    })
    const calls = [
      () => store.find('session', 'id'),
      () => store.write([put('session', 'id', 'value')]),
      () => store.consume('session', 'id'),
      () => store.increment('sign-in', 'id', 60),
      () => store.ping(),
      () => store.sweep(1),
    ]
    for (const call of calls) {
      const { error } = await outcomeOf(call)
      expect(error).toBeInstanceOf(EphemeralUnavailable)
      expect(error).toMatchObject({ cause: { code: 'ECONNREFUSED' } })
    }
  })
})

function openPool(url: string, clients: Kysely<EphemeralTables>[], max = 10): Kysely<EphemeralTables> {
  const pool = new pg.Pool({ connectionString: url, max })
  // A connection that is cut: the pool listens only while it is idle, and drops it in both cases.
  pool.on('error', () => undefined)
  pool.on('connect', (client) => client.on('error', () => undefined))
  const client = new Kysely<EphemeralTables>({ dialect: new PostgresDialect({ pool }) })
  clients.push(client)
  return client
}

async function administer(statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: postgresUrl })
  await client.connect()
  await client.query(statement)
  await client.end()
}

// --- PGlite, and what needs no particular backend ---------------------------------------------------------------------

describe('the ephemeral store on PGlite', () => {
  let db: Kysely<EphemeralTables>

  beforeAll(async () => {
    db = new Kysely<EphemeralTables>({ dialect: new PGliteDialect({ pglite: await PGlite.create() }) })
    await createTables(db)
  })

  afterAll(async () => {
    await db.destroy()
  })

  ephemeralContract('contract', async () => createPostgresEphemeralStore({ db }))

  ephemeralContract('contract, sealed', async () =>
    sealEphemeral(createPostgresEphemeralStore({ db }), sealer, () => expect.unreachable()),
  )

  sweepSuite(() => db)

  describe('sealed', () => {
    let plain: EphemeralStore
    let sealed: EphemeralStore
    let tampered: string[]

    beforeEach(() => {
      tampered = []
      plain = createPostgresEphemeralStore({ db })
      sealed = sealEphemeral(plain, sealer, (kind) => tampered.push(kind))
    })

    async function storedText(kind: string, id: string): Promise<string> {
      const entry = await plain.find(kind, id)
      if (entry === undefined) throw new Error('not stored')
      return entry.value
    }

    async function expectTampered(kind: string, id: string): Promise<void> {
      tampered.length = 0
      expect(await sealed.find(kind, id)).toBeUndefined()
      expect(tampered).toEqual([kind])
      expect(await sealed.consume(kind, id)).toBe(false)
      expect(await plain.find(kind, id)).toMatchObject({ consumed: false }) // the entry is there, and was left alone
    }

    it('keeps nothing in clear, and seals the same value differently each time', async () => {
      const id = randomUUID()
      await sealed.write([put('session', id, 'the-value')])
      const first = await storedText('session', id)
      await sealed.write([put('session', id, 'the-value')])
      expect(first).not.toContain('the-value')
      expect(Buffer.from(first, 'base64').toString()).not.toContain('the-value')
      expect(await storedText('session', id)).not.toBe(first)
    })

    it('has no entry with any one byte changed, and reports it', async () => {
      const id = randomUUID()
      await sealed.write([put('session', id, 'value')])
      const original = Buffer.from(await storedText('session', id), 'base64')
      const anyByte = fc.nat({ max: original.length - 1 })
      await fc.assert(
        fc.asyncProperty(anyByte, fc.integer({ min: 1, max: 255 }), async (position, change) => {
          const changed = Buffer.from(original)
          changed.writeUInt8(changed.readUInt8(position) ^ change, position)
          await plain.write([put('session', id, changed.toString('base64'))])
          await expectTampered('session', id)
        }),
        { numRuns: 50 },
      )
    })

    it('has no entry that was moved to another id or another kind, and reports it', async () => {
      const [mine, yours] = [randomUUID(), randomUUID()]
      await sealed.write([put('session', mine, 'mine'), put('session', yours, 'yours')])
      await plain.write([
        put('session', mine, await storedText('session', yours)),
        put('code', yours, await storedText('session', yours)),
      ])
      await expectTampered('session', mine)
      await expectTampered('code', yours)
      expect(await sealed.find('session', yours)).toEqual({ value: 'yours', consumed: false })
    })

    it('has no entry that was made up or cut short, and reports it', async () => {
      const id = randomUUID()
      await sealed.write([put('session', id, 'value')])
      const original = await storedText('session', id)
      for (const forged of ['', 'value', '{}', original.slice(0, 20), original.slice(0, -4), `${original}AAAA`]) {
        await plain.write([put('session', id, forged)])
        await expectTampered('session', id)
      }
    })

    it('takes an absent entry for absent, and for nothing else', async () => {
      expect(await sealed.find('session', randomUUID())).toBeUndefined()
      expect(await sealed.consume('session', randomUUID())).toBe(false)
      expect(tampered).toEqual([])
    })
  })
})

function createTables(db: Kysely<EphemeralTables>): Promise<void> {
  return up(db as Kysely<unknown>) // a migration knows no row types
}

function sweepSuite(database: () => Kysely<EphemeralTables>): void {
  it('sweeps what has expired, at most as many as it is told, and nothing that lives', async () => {
    const store = createPostgresEphemeralStore({ db: database() })
    await sweepAll(store)
    const live = times(3, () => randomUUID())
    const expired = times(5, () => randomUUID())
    await store.write([
      ...live.map((id) => put('session', id, 'value')),
      ...expired.map((id) => put('session', id, 'value', 0)),
    ])
    expect(await store.sweep(3)).toBe(3)
    expect(await store.sweep(3)).toBe(2)
    expect(await store.sweep(3)).toBe(0)
    for (const id of live) expect(await store.find('session', id)).toBeDefined()
  })

  it('sweeps counters whose window has ended, and no other', async () => {
    const store = createPostgresEphemeralStore({ db: database() })
    await sweepAll(store)
    const id = randomUUID()
    await store.increment('sign-in', id, 60)
    await store.increment('sign-in', randomUUID(), 0.05)
    await vi.waitFor(async () => expect(await store.sweep(10)).toBe(1))
    expect(await store.sweep(10)).toBe(0)
    expect((await store.increment('sign-in', id, 60)).count).toBe(2)
  })

  it('hides what has expired before any sweep, and keeps no value of what was deleted', async () => {
    const store = createPostgresEphemeralStore({ db: database() })
    const id = randomUUID()
    await store.write([put('session', id, 'the-value')])
    await store.write([{ op: 'delete', kind: 'session', id }])
    const rows = await database().selectFrom('ephemeral_entries').select('value').where('id', '=', id).execute()
    expect(rows).toEqual([{ value: '' }])
    expect(await store.find('session', id)).toBeUndefined()
  })

  it('stands on unlogged tables', async () => {
    const { rows } = await sql`select relname from pg_class where relname like 'ephemeral\\_%' and relkind = 'r'
      and relpersistence = 'u' order by relname`.execute(database())
    expect(rows).toEqual([{ relname: 'ephemeral_counters' }, { relname: 'ephemeral_entries' }])
  })
}

/** So that what other tests left does not count. */
async function sweepAll(store: PostgresEphemeralStore): Promise<void> {
  while ((await store.sweep(1_000)) > 0);
}

const KEY = randomBytes(32)

/** AES-256-GCM: 12 bytes of nonce, the ciphertext, 16 bytes of tag, in base64. */
const sealer: Sealer = {
  seal(plaintext, aad) {
    const nonce = randomBytes(12)
    const cipher = createCipheriv('aes-256-gcm', KEY, nonce).setAAD(Buffer.from(aad))
    return Buffer.concat([nonce, cipher.update(plaintext, 'utf8'), cipher.final(), cipher.getAuthTag()]).toString(
      'base64',
    )
  },
  open(sealed, aad) {
    const bytes = Buffer.from(sealed, 'base64')
    if (bytes.length < 28) return undefined
    const decipher = createDecipheriv('aes-256-gcm', KEY, bytes.subarray(0, 12)).setAAD(Buffer.from(aad))
    decipher.setAuthTag(bytes.subarray(-16))
    try {
      return decipher.update(bytes.subarray(12, -16), undefined, 'utf8') + decipher.final('utf8')
    } catch {
      return undefined
    }
  },
}

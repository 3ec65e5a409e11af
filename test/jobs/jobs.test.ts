// Jobs: each occurrence is run once, whichever process takes it; none is lost with its process; and a database that is away
// makes them wait, not the server fall over.
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { sql } from 'kysely'
import pg from 'pg'
import { getRollbackPlans } from 'pg-boss'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { MIGRATIONS, ROOT } from '../../src/app.ts'
import { createJobs, type JobDefinition, type Jobs } from '../../src/jobs/service.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { migrate, pendingMigrations } from '../../src/store/migrate.ts'
import { createScratchDatabase, hasStores, openEmbedded, type ScratchDatabase } from '../support/databases.ts'
import { startFaultProxy } from '../support/fault-proxy.ts'
import { QUICK } from './pace.ts'

const LONG_MS = 40_000

async function until(condition: () => boolean | Promise<boolean>, withinMs = LONG_MS): Promise<void> {
  const deadline = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not so within ${withinMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

let opened: OpenedDatabase[] = []
let running: Jobs[] = []
let scratch: ScratchDatabase | undefined

function onPostgres(url = scratch?.url ?? ''): OpenedDatabase {
  const database = openPostgres(url, 2, () => {}, { statementTimeoutMs: 0 })
  opened.push(database)
  return database
}

interface Process {
  jobs: Jobs
  errors: Error[]
}

/** A process's worth of jobs. */
function makeJobs(
  database: OpenedDatabase,
  definitions: Record<string, JobDefinition>,
  isHeldBack = () => false,
): Process {
  const errors: Error[] = []
  const jobs = createJobs({ source: database.source, isHeldBack, onError: (error) => errors.push(error), pace: QUICK })
  for (const [name, definition] of Object.entries(definitions)) jobs.define(name, definition)
  running.push(jobs)
  return { jobs, errors }
}

function startJobs(...made: Parameters<typeof makeJobs>): Process {
  const process = makeJobs(...made)
  process.jobs.start()
  return process
}

const job = (run: (data: unknown) => void | Promise<void>, everyCron?: string): JobDefinition => ({
  patience: 'short',
  run: async (data) => run(data),
  ...(everyCron === undefined ? {} : { everyCron }),
})

afterEach(async () => {
  await Promise.all(running.map((jobs) => jobs.stop()))
  await Promise.all(opened.map((database) => database.close()))
  await scratch?.drop()
  opened = []
  running = []
  scratch = undefined
})

describe.runIf(hasStores())('jobs of several processes', () => {
  beforeEach(async () => {
    scratch = await createScratchDatabase()
  })

  it('run once an occurrence of their schedule, whichever process takes it', { timeout: 120_000 }, async () => {
    const runs: number[] = []
    const definitions = { tick: job(() => void runs.push(Date.now()), '* * * * *') }
    startJobs(onPostgres(), definitions)
    startJobs(onPostgres(), definitions)
    await until(() => runs.length >= 1, 100_000)
    await new Promise((resolve) => setTimeout(resolve, 5_000)) // a second run of the same minute would come by now
    const { rows } = await sql<{ minutes: number }>`
      select count(distinct date_trunc('minute', created_on))::int as minutes from pgboss.job where name = 'tick'`.execute(
      onPostgres().db,
    )
    expect(runs.length).toBe(rows[0]?.minutes)
  })

  it('are taken once each, and one with the same key waits only once', async () => {
    const taken: unknown[] = []
    const definitions = { export: job((data) => void taken.push(data)) }
    const sender = makeJobs(onPostgres(), definitions)
    const numbers = Array.from({ length: 6 }, (_, number) => number)
    for (const number of numbers) await sender.jobs.enqueue('export', [{ key: String(number), data: { number } }])
    for (const number of numbers) await sender.jobs.enqueue('export', [{ key: String(number), data: { number } }])
    startJobs(onPostgres(), definitions)
    startJobs(onPostgres(), definitions)
    await until(() => taken.length >= 6)
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    expect(taken).toHaveLength(6)
    expect(taken).toEqual(expect.arrayContaining(numbers.map((number) => ({ number }))))
    await sender.jobs.enqueue('export', [{ key: '0', data: { number: 0 } }])
    await until(() => taken.length === 7)
  })

  it('are tried again when they fail; of the reason nothing is kept in the database', async () => {
    let tries = 0
    const { errors } = startJobs(onPostgres(), {
      export: job(() => {
        if (++tries < 3) throw new Error('ada@example.com was not found')
      }),
    })
    await makeJobs(onPostgres(), { export: job(() => {}) }).jobs.enqueue('export', [{ key: 'a', data: {} }])
    await until(() => tries === 3)
    await until(async () => (await statesOf('export')).join() === 'completed')
    expect(errors.filter(({ message }) => message === 'ada@example.com was not found')).toHaveLength(2)
    const { rows } = await sql`select * from pgboss.job where name = 'export'`.execute(onPostgres().db)
    expect(JSON.stringify(rows)).not.toContain('ada@')
  })

  it('of a process that was killed are taken again', { timeout: 120_000 }, async () => {
    const child = spawn(process.execPath, [join(ROOT, 'test/jobs/taker.ts'), scratch?.url ?? ''], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let printed = ''
    child.stdout.on('data', (text) => {
      printed += text
    })
    try {
      const definitions = { export: job(() => {}) }
      await makeJobs(onPostgres(), definitions).jobs.enqueue('export', [{ key: 'a', data: { of: 'the killed one' } }])
      await until(() => printed.includes('taken'))
    } finally {
      child.kill('SIGKILL')
    }
    const taken: unknown[] = []
    startJobs(onPostgres(), { export: job((data) => void taken.push(data)) })
    await until(() => taken.length > 0, 90_000)
    expect(taken).toEqual([{ of: 'the killed one' }])
  })

  it('wait while they are held back', async () => {
    let isHeldBack = true
    const taken: unknown[] = []
    const definitions = { export: job((data) => void taken.push(data)) }
    const { errors } = startJobs(onPostgres(), definitions, () => isHeldBack)
    await makeJobs(onPostgres(), definitions).jobs.enqueue('export', [{ key: 'a', data: {} }])
    await until(async () => (await statesOf('export')).join() === 'retry')
    expect(taken).toEqual([])
    isHeldBack = false
    await until(() => taken.length === 1)
    expect(errors.map(({ message }) => message)).not.toContain('held back') // it is no failure
  })

  it('wait for a database that is away, at the start and later', { timeout: 120_000 }, async () => {
    const proxy = await startFaultProxy(scratch?.url ?? '', 'postgres')
    const nowhere = createServer((socket) => socket.destroy())
    await new Promise<void>((resolve) => nowhere.listen(0, '127.0.0.1', resolve))
    const address = nowhere.address()
    if (address === null || typeof address === 'string') throw new Error('no port')
    try {
      proxy.leadTo(address.port)
      const taken: unknown[] = []
      const definitions = { export: job((data) => void taken.push(data)) }
      const sender = makeJobs(onPostgres(), definitions)
      const { errors } = startJobs(onPostgres(proxy.through(scratch?.url ?? '')), definitions)
      await until(() => errors.length >= 2)
      proxy.leadTo(scratch?.url ?? '')
      await sender.jobs.enqueue('export', [{ key: 'a', data: {} }])
      await until(() => taken.length === 1)
      proxy.leadTo(address.port)
      proxy.cutAll()
      const before = errors.length
      await until(() => errors.length > before)
      proxy.leadTo(scratch?.url ?? '')
      await sender.jobs.enqueue('export', [{ key: 'b', data: {} }])
      await until(() => taken.length === 2)
    } finally {
      await Promise.all(running.map((jobs) => jobs.stop()))
      nowhere.close()
      await proxy.close()
    }
  })

  it('are a matter of seconds to stop, also where the database hangs', { timeout: 120_000 }, async () => {
    const proxy = await startFaultProxy(scratch?.url ?? '', 'postgres')
    const taken: unknown[] = []
    const definitions = { export: job((data) => void taken.push(data)) }
    const { jobs } = startJobs(onPostgres(proxy.through(scratch?.url ?? '')), definitions)
    await makeJobs(onPostgres(), definitions).jobs.enqueue('export', [{ key: 'a', data: {} }])
    await until(() => taken.length === 1)
    proxy.freeze()
    const began = performance.now()
    await jobs.stop()
    expect(performance.now() - began).toBeLessThan(30_000)
    await proxy.close()
  })
})

async function statesOf(name: string): Promise<string[]> {
  const { rows } = await sql<{ state: string }>`select state::text from pgboss.job where name = ${name}`.execute(
    opened[0]?.db ?? onPostgres().db,
  )
  return rows.map(({ state }) => state)
}

describe.runIf(hasStores())('the schema of the job library', () => {
  it('is installed once, and brought up to date when the library is newer', async () => {
    scratch = await createScratchDatabase()
    const { db } = onPostgres()
    expect(await pendingMigrations(db, MIGRATIONS)).toEqual([])
    await migrate(db, MIGRATIONS)
    const client = new pg.Client({ connectionString: scratch.url })
    await client.connect()
    await client.query(getRollbackPlans('pgboss'))
    await client.end()
    expect(await pendingMigrations(db, MIGRATIONS)).toEqual(['job library'])
    await Promise.all([migrate(db, MIGRATIONS), migrate(onPostgres().db, MIGRATIONS)])
    expect(await pendingMigrations(db, MIGRATIONS)).toEqual([])
    const taken: unknown[] = []
    const { jobs } = startJobs(onPostgres(), { export: job((data) => void taken.push(data)) })
    await jobs.enqueue('export', [{ key: 'a', data: {} }])
    await until(() => taken.length === 1)
  })

  it('is used, and cannot be changed, by the role of the server', async () => {
    scratch = await createScratchDatabase()
    const owner = onPostgres().db
    const role = `latchkey_jobs_${randomBytes(4).toString('hex')}`
    await sql`create role ${sql.id(role)} login password ${sql.lit(role)}`.execute(owner)
    try {
      await migrate(owner, MIGRATIONS, role)
      await migrate(owner, MIGRATIONS, role)
      const url = new URL(scratch.url)
      url.username = role
      url.password = role
      const asServer = onPostgres(url.href)
      const runs: unknown[] = []
      const { jobs, errors } = startJobs(asServer, {
        export: job((data) => void runs.push(data)),
        tick: job(() => {}, '0 0 1 1 *'),
      })
      await jobs.enqueue('export', [{ key: 'a', data: { by: 'the server' } }])
      await until(() => runs.length === 1)
      // A round of supervision and of the schedule, with everything that they write.
      const rounds = sql<{ n: number }>`select count(*)::int as n from pgboss.version where cron_on is not null`
      await until(async () => (await rounds.execute(owner)).rows[0]?.n === 1)
      await new Promise((resolve) => setTimeout(resolve, 3_000))
      expect(errors.filter((error) => Reflect.get(error, 'code') === '42501')).toEqual([])
      for (const forbidden of [
        sql`create table pgboss.mine (id int)`,
        sql`alter table pgboss.job add column mine int`,
        sql`drop function pgboss.job_now()`,
        sql`truncate pgboss.job`,
        sql`update pgboss.version set version = 1`,
        sql`delete from pgboss.version`,
        sql`drop schema pgboss cascade`,
      ])
        await expect(forbidden.execute(asServer.db)).rejects.toMatchObject({ code: '42501' })
    } finally {
      await Promise.all(running.map((jobs) => jobs.stop()))
      await sql`drop owned by ${sql.id(role)}`.execute(owner)
      await sql`drop role ${sql.id(role)}`.execute(owner)
    }
  })
})

describe('jobs on the embedded database', () => {
  it('run on its one connection, beside what else is asked of it, transactions included', async () => {
    const database = await openEmbedded()
    opened.push(database)
    const taken: unknown[] = []
    let failed = 0
    const { jobs, errors } = startJobs(database, {
      export: job((data) => {
        if (failed++ === 0) throw new Error('once')
        taken.push(data)
      }),
    })
    await jobs.enqueue('export', [{ key: 'a', data: { of: 'PGlite' } }])
    // A statement of the library that fails must not undo somebody else's transaction.
    while (taken.length === 0)
      await database.db.transaction().execute(async (trx) => {
        await sql`select set_config('latchkey.mine', 'kept', true)`.execute(trx)
        await new Promise((resolve) => setTimeout(resolve, 20))
        const { rows } = await sql<{ mine: string }>`select current_setting('latchkey.mine', true) as mine`.execute(trx)
        expect(rows[0]?.mine).toBe('kept')
      })
    expect(taken).toEqual([{ of: 'PGlite' }])
    expect(errors.map(({ message }) => message)).toContain('once')
  })
})

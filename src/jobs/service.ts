// Work that nobody waits for: on a schedule, or put into a queue, taken by whichever process comes first (pg-boss over the
// same database). A job may run twice, as when a process is killed after its work: every one must be safe to repeat.
import { setTimeout } from 'node:timers/promises'
import type { ConstructorOptions, Job, JobResult, PgBoss } from 'pg-boss'
import { AppError } from '../errors.ts'
import type { DatabaseSource } from '../store/database.ts'
import { JOB_SCHEMA } from '../store/job-schema.ts'
import { type Patience, queueOptions } from './rules.ts'

export interface JobDefinition {
  /** Five fields, in UTC: each occurrence is run once, by one process. Without it the job is put into its queue. */
  everyCron?: string
  /** How long it is tried again. */
  patience: Patience
  /** @param data what it was queued with; undefined for a scheduled one */
  run(data: unknown): Promise<void>
}

export interface JobInput {
  key: string
  data: object
}

export interface Jobs {
  define(name: string, job: JobDefinition): void
  /** Puts jobs into their queue, unless one with the same key waits there or runs. @throws when the database cannot be reached */
  enqueue(name: string, inputs: readonly JobInput[]): Promise<void>
  /** Runs a scheduled job here, now, whatever its schedule. @throws {AppError} `not_found` */
  runNow(name: string): Promise<void>
  /** Takes jobs from now on. Returns at once: a database that is away is tried until it is there. */
  start(): void
  /** Takes no more, and waits some seconds for those that run: what is left is taken again elsewhere. */
  stop(): Promise<void>
}

export interface JobsDeps {
  source: DatabaseSource
  /** While it says so no job is run: it is tried again later. */
  isHeldBack: () => boolean
  onError: (error: Error) => void
  pace?: Partial<Pace> | undefined
}

/** How often a process looks, in seconds. */
export interface Pace {
  /** Before it begins: whoever has just started has requests to answer. */
  first: number
  /** For a new job, in each queue. */
  poll: number
  /** Whether the time of a schedule has come. */
  schedule: number
  /** For jobs whose process has gone silent. */
  supervise: number
  /** A job whose process has been silent for so long is taken again. */
  heartbeat: number
  /** Before the next try to reach a database that is away. */
  again: number
  /** Before the second try of a job; by its patience where nothing is said. */
  retry?: number
}

const PACE: Pace = { first: 2, poll: 5, schedule: 30, supervise: 30, heartbeat: 30, again: 5 }
/** One connection serves everything there, and one process takes every job. */
const EMBEDDED_PACE: Pace = { ...PACE, poll: 10, supervise: 60 }

const STOP_MS = 8_000
/** Taken at once, and done one after the other; the bound on a run is one for all of them. */
const BATCH = 10

export function createJobs(deps: JobsDeps): Jobs {
  const { source, onError } = deps
  const pace = { ...('pglite' in source ? EMBEDDED_PACE : PACE), ...deps.pace }
  const jobs = new Map<string, JobDefinition>()
  const stopping = new AbortController()
  let started: PgBoss | undefined
  let beginning: Promise<void> | undefined

  async function open(role: 'takes' | 'sends'): Promise<PgBoss> {
    const library = await import('pg-boss') // a tenth of a second, for processes that have jobs alone
    const takes = role === 'takes'
    const boss = new library.PgBoss({
      ...('pglite' in source
        ? { db: library.fromPglite(source.pglite), backend: 'pglite' as const }
        : connectionOptions(source.url.reveal(), takes)),
      ...optionsOf(pace, takes),
    })
    boss.on('error', (error) => void (stopping.signal.aborted || onError(asError(error))))
    return boss
  }

  async function takeAll(boss: PgBoss): Promise<void> {
    for (const [name, job] of jobs) {
      await prepareQueue(boss, name, job)
      if (job.everyCron !== undefined) await boss.schedule(name, job.everyCron)
      const options = {
        pollingIntervalSeconds: pace.poll,
        batchSize: BATCH,
        burstWhenBatchFull: true,
        perJobResults: true,
      }
      await boss.work(name, options, (batch) => handleAll(name, job, batch))
    }
  }

  /** One after the other: what fails does not keep the others from being done. */
  async function handleAll(name: string, job: JobDefinition, batch: readonly Job<unknown>[]): Promise<JobResult[]> {
    const results: JobResult[] = []
    for (const { id, data } of batch) {
      const failure = await handle(name, job, data).catch((error: Error) => error.message)
      results.push(failure === undefined ? { id, status: 'completed' } : { id, status: 'failed', output: { failure } })
    }
    return results
  }

  async function prepareQueue(boss: PgBoss, name: string, { patience }: JobDefinition): Promise<void> {
    const options = queueOptions(patience, pace)
    await boss.createQueue(name, { ...options, policy: 'exclusive' })
    await boss.updateQueue(name, options) // made by an older version, perhaps with others
  }

  /** What went wrong stays here: the library keeps the words of an error in the database. */
  async function handle(name: string, job: JobDefinition, data: unknown): Promise<undefined> {
    if (deps.isHeldBack()) throw new Error('held back')
    try {
      await job.run(data ?? undefined)
    } catch (error) {
      onError(asError(error))
      throw new Error(`${name} failed`)
    }
  }

  /** Anew at each try: an instance whose start was cut short does not take up what it had begun. */
  async function begin(): Promise<void> {
    await pause(pace.first)
    while (!stopping.signal.aborted) {
      let boss: PgBoss | undefined
      try {
        boss = await open('takes')
        await boss.start()
        await takeAll(boss)
        started = boss
        return
      } catch (error) {
        onError(asError(error))
        if (boss !== undefined) await close(boss)
      }
      await pause(pace.again)
    }
  }

  /** No longer than until it stops. */
  const pause = (seconds: number) =>
    setTimeout(seconds * 1_000, undefined, { signal: stopping.signal }).catch(() => undefined)

  const close = (boss: PgBoss) => boss.stop({ timeout: STOP_MS }).catch((error: unknown) => onError(asError(error)))

  async function send(boss: PgBoss, name: string, inputs: readonly JobInput[]): Promise<void> {
    for (const { key, data } of inputs) await boss.send(name, data, { singletonKey: key })
  }

  return {
    define: (name, job) => void jobs.set(name, job),
    async enqueue(name, inputs) {
      if (inputs.length === 0) return
      if (started !== undefined) return send(started, name, inputs)
      const job = jobs.get(name)
      if (job === undefined) throw new Error(`there is no job ${name}`)
      const boss = await open('sends')
      try {
        await boss.start()
        await prepareQueue(boss, name, job)
        await send(boss, name, inputs)
      } finally {
        await close(boss)
      }
    },
    async runNow(name) {
      const job = jobs.get(name)
      if (job?.everyCron === undefined) {
        const names = [...jobs].filter(([, { everyCron }]) => everyCron !== undefined).map(([known]) => known)
        throw new AppError('not_found', { detail: `There is no scheduled job ${name}: there are ${names.join(', ')}.` })
      }
      await job.run(undefined)
    },
    start() {
      beginning ??= begin()
    },
    async stop() {
      stopping.abort()
      await beginning
      if (started !== undefined) await close(started)
      started = undefined
    },
  }
}

/** Never the schema: it belongs to whoever migrates. */
function optionsOf(pace: Pace, takes: boolean): ConstructorOptions {
  return {
    schema: JOB_SCHEMA,
    migrate: false,
    createSchema: false,
    schedule: takes,
    supervise: takes,
    reindex: false, // takes the owner of the tables
    monitorVacuum: false,
    registerInstance: false,
    openTelemetry: { enabled: false },
    cronWorkerIntervalSeconds: Math.max(pace.poll, 1), // the least that it takes
    cronMonitorIntervalSeconds: pace.schedule,
    superviseIntervalSeconds: pace.supervise,
    monitorIntervalSeconds: pace.supervise,
  }
}

/** The limits that other connections of a server have: a database that hangs is given up. */
function connectionOptions(url: string, takes: boolean): ConstructorOptions {
  const drivers = { query_timeout: 6_000, keepAlive: true } // passed on to it
  return {
    ...drivers,
    connectionString: url,
    max: takes ? 2 : 1,
    connectionTimeoutMillis: 2_000,
    application_name: 'latchkey jobs',
    options: '-c statement_timeout=5000 -c lock_timeout=2000 -c idle_in_transaction_session_timeout=10000',
  }
}

/** The library emits plain objects, too. */
function asError(error: unknown): Error {
  if (error instanceof Error) return error
  const message: unknown = typeof error === 'object' && error !== null ? Reflect.get(error, 'message') : error
  return new Error(String(message))
}

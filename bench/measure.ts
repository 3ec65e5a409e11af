// One scenario against one running server: warm up, run for a while, and divide the CPU used by what was done.
import { setTimeout as sleep } from 'node:timers/promises'
import { CONNECTIONS } from './constants.ts'
import { HttpConnection } from './http-client.ts'
import { accountOf, type Lane, type Operation, type Scenario } from './scenarios.ts'
import type { Session, Site } from './site.ts'

export interface Reading {
  readonly serverUserMicros: number
  readonly serverSystemMicros: number
  readonly postgresMicros: number | undefined
  readonly redisMicros: number | undefined
}

export interface Measurement {
  readonly operations: number
  readonly wallSeconds: number
  /** The figure: operations per second of CPU that the server process used. */
  readonly perCpuSecond: number
  readonly serverMicros: number
  readonly serverSystemShare: number
  /** Of the core it had: below 1 the server waited, for a store or for the generator. */
  readonly serverUtilisation: number
  /** CPU of the stores, microseconds an operation. */
  readonly postgresMicros: number | undefined
  readonly redisMicros: number | undefined
  readonly perWallSecond: number
  readonly p50Milliseconds: number
  readonly p99Milliseconds: number
  readonly notes: Readonly<Record<string, string>>
}

export interface Durations {
  readonly warmUpSeconds: number
  readonly seconds: number
  readonly connections?: number
}

/** Rejects with the first answer that was wrong. `read` is asked while no request is under way. */
export async function measure(
  site: Site,
  scenario: Pick<Scenario, 'prepare'>,
  { warmUpSeconds, seconds, connections: number = CONNECTIONS, read }: Durations & { read: () => Promise<Reading> },
): Promise<Measurement> {
  const connections = Array.from({ length: number }, () => new HttpConnection(site.port, site.headers))
  try {
    const notes = new Map<string, string>()
    const sessions = new Map<number, Promise<Session>>()
    const operations = await Promise.all(
      connections.map((http, index) => scenario.prepare(makeLane(site, { http, index, sessions, notes }))),
    )
    await runFor(operations, warmUpSeconds)
    await sleep(50) // what the server still does after its last answer belongs to the warm-up
    const before = await read()
    const run = await runFor(operations, seconds)
    const after = await read()
    return { ...summarise(run, before, after), notes: Object.fromEntries(notes) }
  } finally {
    for (const connection of connections) connection.close()
  }
}

interface LaneParts {
  readonly http: HttpConnection
  readonly index: number
  readonly sessions: Map<number, Promise<Session>>
  readonly notes: Map<string, string>
}

function makeLane(site: Site, { http, index, sessions, notes }: LaneParts): Lane {
  return {
    site,
    http,
    index,
    note: (name, value) => notes.set(name, value),
    session() {
      const account = accountOf(index)
      const known = sessions.get(account)
      if (known) return known
      const made = site.signIn(http, account)
      sessions.set(account, made)
      return made
    },
  }
}

interface Run {
  readonly wallSeconds: number
  /** One entry an operation. */
  readonly milliseconds: Float64Array
}

/** All lanes at once, each starting its next operation when its last is answered; ends with none under way. */
async function runFor(operations: readonly Operation[], seconds: number): Promise<Run> {
  const started = performance.now()
  const deadline = started + seconds * 1000
  const taken: number[] = []
  let failure: unknown
  const lane = async (operate: Operation) => {
    for (let now = performance.now(); now < deadline && failure === undefined; ) {
      try {
        await operate()
      } catch (error) {
        failure ??= error
        return
      }
      const end = performance.now()
      taken.push(end - now)
      now = end
    }
  }
  await Promise.all(operations.map(lane))
  if (failure !== undefined) throw failure
  return { wallSeconds: (performance.now() - started) / 1000, milliseconds: Float64Array.from(taken).sort() }
}

function summarise({ wallSeconds, milliseconds }: Run, before: Reading, after: Reading): Omit<Measurement, 'notes'> {
  const operations = milliseconds.length
  if (operations === 0) throw new Error('not one operation ended within the time')
  const systemMicros = after.serverSystemMicros - before.serverSystemMicros
  const cpuMicros = after.serverUserMicros - before.serverUserMicros + systemMicros
  const perOperation = (from: number | undefined, to: number | undefined) =>
    from === undefined || to === undefined ? undefined : (to - from) / operations
  const quantile = (share: number) =>
    milliseconds[Math.min(operations - 1, Math.floor(operations * share))] ?? Number.NaN
  return {
    operations,
    wallSeconds,
    perCpuSecond: (operations * 1_000_000) / cpuMicros,
    serverMicros: cpuMicros / operations,
    serverSystemShare: systemMicros / cpuMicros,
    serverUtilisation: cpuMicros / 1_000_000 / wallSeconds,
    postgresMicros: perOperation(before.postgresMicros, after.postgresMicros),
    redisMicros: perOperation(before.redisMicros, after.redisMicros),
    perWallSecond: operations / wallSeconds,
    p50Milliseconds: quantile(0.5),
    p99Milliseconds: quantile(0.99),
  }
}

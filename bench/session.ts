// One run: stores up, every contender measured as often as asked, in rotated order, the report written, all gone again.
import { appendFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { CONNECTIONS, LOAD_CORE, type ScenarioName } from './constants.ts'
import type { Contender, RunningServer, Stage } from './contenders/contender.ts'
import { LATCHKEY } from './contenders/latchkey.ts'
import { PEERS } from './contenders/peers.ts'
import { canPin, describeMachine, findFreePort, pinSelf } from './machine.ts'
import { measure, type Reading } from './measure.ts'
import type { Options } from './options.ts'
import { drawPicture } from './picture.ts'
import { renderReport } from './report.ts'
import { SCENARIOS } from './scenarios.ts'
import { type Failure, type MemoryLine, type Sample, type Side, summarise } from './statistics.ts'
import { type Postgres, type RedisStore, startPostgres, startRedis } from './stores.ts'

const CONTENDERS: readonly Contender[] = [LATCHKEY, ...PEERS]

/** A contender as it takes part: the one of the A/A pair takes part twice. */
interface Entry {
  readonly contender: Contender
  readonly side: Side
}

export const say = (line: string): boolean => process.stderr.write(`${line}\n`)

/** The exit code: 0, or 1 when something could not be measured. */
export async function runSession(options: Options, benchDirectory: string): Promise<number> {
  const entries = makeEntries(options)
  const started = new Date()
  const out = options.out ?? join(benchDirectory, 'results', started.toISOString().slice(0, 16).replace(':', ''))
  mkdirSync(out, { recursive: true })
  const writer = new ResultWriter(join(out, 'raw.jsonl'))

  const cleanUp = new AsyncDisposableStack()
  cleanUpOnSignal(cleanUp)
  try {
    if (!canPin) say('Processes cannot be pinned to cores here: figures will wander.')
    pinSelf(LOAD_CORE)
    const stores = await startStores(new Set(entries.flatMap(({ contender }) => contender.needs)), cleanUp)
    const { secondsAtMost, ...description } = describeRun(options, entries, stores)
    writer.write({ kind: 'run', started: started.toISOString(), ...description })
    say(`${entries.length} servers, ${options.repetitions} repetitions: about ${Math.ceil(secondsAtMost / 60)} minutes`)
    await measureAll({ options, entries, stores, cleanUp, writer })
    const summary = summarise(writer.lines, options)
    writer.write({ kind: 'summary', ...summary })
    const report = renderReport(summary, { ...description, started })
    writeFileSync(join(out, 'table.md'), report)
    writeFileSync(join(out, 'bars.svg'), drawPicture(summary))
    process.stdout.write(options.json ? `${JSON.stringify(summary)}\n` : report)
    say(`Written to ${out}`)
    return writer.lines.failures.length === 0 ? 0 : 1
  } finally {
    await cleanUp.disposeAsync()
  }
}

export function cleanUpOnSignal(cleanUp: AsyncDisposableStack): void {
  const interrupted = (signal: NodeJS.Signals) => {
    say(`${signal}: stopping what was started`)
    cleanUp.disposeAsync().finally(() => process.exit(130))
  }
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted)
}

/** The A/A pair is this server's, or the first's where this server takes no part; its halves are kept apart. */
function makeEntries({ contenders }: Options): readonly Entry[] {
  const chosen = CONTENDERS.filter(({ name }) => contenders.includes(name))
  const entries: Entry[] = chosen.map((contender) => ({ contender, side: 'a' }))
  const [first] = chosen
  if (first) entries.splice(Math.ceil((entries.length + 1) / 2), 0, { contender: first, side: 'b' })
  return entries
}

export interface Stores {
  readonly directory: string
  readonly postgres: Postgres | undefined
  readonly redis: RedisStore | undefined
}

export async function startStores(
  needed: ReadonlySet<Contender['needs'][number]>,
  cleanUp: AsyncDisposableStack,
): Promise<Stores> {
  const directory = mkdtempSync(join(tmpdir(), 'latchkey-bench-'))
  cleanUp.defer(() => rmSync(directory, { recursive: true, force: true }))
  const postgres = needed.has('postgres') ? await startPostgres(directory) : undefined
  if (postgres) cleanUp.defer(() => postgres.stop())
  const redis = needed.has('redis') ? await startRedis(directory) : undefined
  if (redis) cleanUp.defer(() => redis.stop())
  return { directory, postgres, redis }
}

function describeRun(options: Options, entries: readonly Entry[], { postgres, redis }: Stores) {
  const scenarioSeconds = options.seconds + options.warmUpSeconds + 1
  const secondsAtMost = options.repetitions * entries.length * (options.scenarios.length * scenarioSeconds + 4)
  return {
    machine: describeMachine(),
    postgres: postgres?.version,
    redis: redis?.version,
    connections: CONNECTIONS,
    repetitions: options.repetitions,
    seconds: options.seconds,
    warmUpSeconds: options.warmUpSeconds,
    secondsAtMost,
  }
}

interface Session {
  readonly options: Options
  readonly entries: readonly Entry[]
  readonly stores: Stores
  readonly cleanUp: AsyncDisposableStack
  readonly writer: ResultWriter
}

async function measureAll(session: Session): Promise<void> {
  const { options } = session
  const entries = await prepareAll(session)
  for (let repetition = 1; repetition <= options.repetitions; repetition += 1) {
    // Each goes first once: what a machine does in its first or last minutes is nobody's alone.
    const offset = (repetition - 1) % entries.length
    const order = [...entries.slice(offset), ...entries.slice(0, offset)]
    for (const entry of order) await measureEntry(session, entry, repetition)
  }
}

/** The entries whose contender could be set up. */
async function prepareAll({ entries, stores, writer }: Session): Promise<readonly Entry[]> {
  const failed = new Set<Contender>()
  for (const contender of new Set(entries.map((entry) => entry.contender))) {
    if (!contender.prepare) continue
    say(`${contender.name}: setting up`)
    try {
      await contender.prepare(await makeStage(stores, `${contender.name}-setup`))
    } catch (error) {
      failed.add(contender)
      const reason = error instanceof Error ? error.message : String(error)
      writer.failure({
        kind: 'failure',
        contender: contender.name,
        side: 'a',
        repetition: 0,
        scenario: undefined,
        reason,
      })
      say(`${contender.name} could not be set up: ${reason}`)
    }
  }
  return entries.filter(({ contender }) => !failed.has(contender))
}

export async function makeStage({ directory, postgres, redis }: Stores, name: string): Promise<Stage> {
  return { directory, postgres, redis, port: await findFreePort(), logFile: join(directory, `${name}.log`) }
}

/** One fresh process through all scenarios; a scenario that fails is recorded, and the next one is tried. */
async function measureEntry(session: Session, { contender, side }: Entry, repetition: number): Promise<void> {
  const { options, stores, writer } = session
  const about = { contender: contender.name, side, repetition } as const
  const label = `${repetition}/${options.repetitions} ${contender.name}${side === 'b' ? ' (again)' : ''}`
  const fail = (scenario: ScenarioName | undefined, reason: unknown) => {
    const text = reason instanceof Error ? reason.message : String(reason)
    writer.failure({ kind: 'failure', ...about, scenario, reason: text })
    say(`${label} ${scenario ?? 'process'}: FAILED: ${text}`)
  }

  const stage = await makeStage(stores, `${contender.name}-${side}-${repetition}`)
  let running: RunningServer
  try {
    running = await contender.start(stage)
  } catch (error) {
    fail(undefined, error)
    return
  }
  let stopped = false
  const stop = async () => {
    if (!stopped) await running.stop()
    stopped = true
  }
  session.cleanUp.defer(stop)
  try {
    for (const scenario of SCENARIOS) {
      if (!options.scenarios.includes(scenario.name)) continue
      if (contender.refuses[scenario.name] !== undefined) continue
      try {
        await stores.postgres?.checkpoint()
        const read = () => readAll(running, stores)
        const measurement = await measure(running.site, scenario, { ...options, read })
        writer.sample({ kind: 'sample', ...about, scenario: scenario.name, ...measurement })
        const figure = Math.round(measurement.perCpuSecond)
        const share = Math.round(measurement.serverUtilisation * 100)
        say(`${label} ${scenario.name}: ${figure}/CPU-s, server ${share} % busy`)
      } catch (error) {
        fail(scenario.name, error)
      }
    }
    const { rssBytes, peakRssBytes } = await running.usage()
    writer.memory({ kind: 'memory', ...about, rssBytes, peakRssBytes })
  } catch (error) {
    fail(undefined, error)
  } finally {
    await stop()
  }
}

export async function readAll(running: RunningServer, { postgres, redis }: Stores): Promise<Reading> {
  const { userMicros, systemMicros } = await running.usage()
  return {
    serverUserMicros: userMicros,
    serverSystemMicros: systemMicros,
    postgresMicros: postgres?.cpuMicros(),
    redisMicros: redis?.cpuMicros(),
  }
}

/** Every line is on disk as soon as it is known: a run that is broken off keeps what it had. */
class ResultWriter {
  readonly lines: { samples: Sample[]; failures: Failure[]; memory: MemoryLine[] } = {
    samples: [],
    failures: [],
    memory: [],
  }
  readonly #file: string

  constructor(file: string) {
    this.#file = file
    writeFileSync(file, '')
  }

  write(line: object): void {
    appendFileSync(this.#file, `${JSON.stringify(line)}\n`)
  }

  sample(sample: Sample): void {
    this.lines.samples.push(sample)
    this.write(sample)
  }

  failure(failure: Failure): void {
    this.lines.failures.push(failure)
    this.write(failure)
  }

  memory(line: MemoryLine): void {
    this.lines.memory.push(line)
    this.write(line)
  }
}

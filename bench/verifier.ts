// What `latchkey/verifier` costs an API: JWTs that it has not seen before, the feed live, beside jose's `jwtVerify` alone.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { LOAD_CORE } from './constants.ts'
import { canPin, describeMachine, type MachineDescription, pinSelf } from './machine.ts'
import type { Options } from './options.ts'
import { count, table } from './report.ts'
import { startServer } from './server-process.ts'
import { cleanUpOnSignal, say } from './session.ts'
import { median } from './statistics.ts'
import { type Issuer, LIST_SIZES, startIssuer } from './verifier-issuer.ts'
import type { Settings, Taken } from './verifier-process.ts'

/** What a verification may cost at most, in verifications by jose alone. */
const MOST_RATIO = 1.1
/** Of each way in a process; each opens its verifier anew, and begins with a warm-up. */
const ROUNDS = 8
const VERIFICATIONS = 4_000
const WARM_UP = 1_000

/** jose alone runs twice: how far it is from itself is the spread. */
const JOSE = ['jose', 'jose again'] as const
const nameOf = (size: number) => `verifier, ${count(size)} entries`

/** One way in one process: the median of its rounds. */
interface Sample {
  readonly kind: 'sample'
  readonly repetition: number
  readonly way: string
  readonly micros: number
  readonly rounds: readonly number[]
}

/** The exit code: 1 when it costs more than it may. */
export async function runVerifier({ repetitions, out }: Options, benchDirectory: string): Promise<number> {
  const started = new Date()
  const date = started.toISOString().slice(0, 16).replace(':', '')
  const directory = out ?? join(benchDirectory, 'results', `${date}-verifier`)
  mkdirSync(directory, { recursive: true })
  const raw = join(directory, 'raw.jsonl')
  const machine = describeMachine()
  const write = (line: object) => appendFileSync(raw, `${JSON.stringify(line)}\n`)
  writeFileSync(raw, '')
  write({ kind: 'run', started, machine, repetitions, rounds: ROUNDS, verifications: VERIFICATIONS, warmUp: WARM_UP })
  const cleanUp = new AsyncDisposableStack()
  cleanUpOnSignal(cleanUp)
  try {
    if (!canPin) say('Processes cannot be pinned to cores here: figures will wander.')
    pinSelf(LOAD_CORE)
    const issuer = await startIssuer()
    cleanUp.defer(() => issuer.close())
    const samples: Sample[] = []
    for (let repetition = 1; repetition <= repetitions; repetition++) {
      for (const sample of await measureProcess(issuer, repetition, join(directory, 'process.log'))) {
        samples.push(sample)
        write(sample)
        say(`${repetition}/${repetitions} ${sample.way}: ${sample.micros.toFixed(1)} µs`)
      }
    }
    const requests = issuer.takeRequests()
    write({ kind: 'requests', requests })
    const { text, isWithin } = summarise(samples, { machine, started, requests })
    writeFileSync(join(directory, 'table.md'), text)
    process.stdout.write(text)
    say(`Written to ${directory}`)
    return isWithin ? 0 : 1
  } finally {
    await cleanUp.disposeAsync()
  }
}

/** A fresh process, alone on its core. The ways take turns in it, in an order that is another one each round. */
async function measureProcess(issuer: Issuer, repetition: number, logFile: string): Promise<Sample[]> {
  const ways = [
    ...JOSE.map((name) => ({ name })),
    ...LIST_SIZES.map((size) => ({ name: nameOf(size), issuer: issuer.of(size) })),
  ]
  const settings: Settings = {
    jwk: issuer.jwk,
    ways,
    rounds: ROUNDS,
    verifications: VERIFICATIONS,
    warmUp: WARM_UP,
  }
  const child = startServer({
    script: ['--expose-gc', fileURLToPath(new URL('verifier-process.ts', import.meta.url))],
    environment: { BENCH_VERIFIER: JSON.stringify(settings) },
    logFile,
  })
  try {
    const { taken } = (await child.message('rounds')) as { taken: Taken[] } // verifier-process.ts sent it
    return ways.map(({ name }): Sample => {
      const rounds = taken.filter(({ way }) => way === name).map(({ micros }) => micros)
      return { kind: 'sample', repetition, way: name, micros: median(rounds), rounds }
    })
  } finally {
    await child.stop()
  }
}

interface Circumstances {
  readonly machine: MachineDescription
  readonly started: Date
  readonly requests: Readonly<Record<string, number>>
}

function summarise(samples: readonly Sample[], { machine, started, requests }: Circumstances) {
  const repetitions = [...new Set(samples.map(({ repetition }) => repetition))]
  const microsOf = (way: string, repetition: number) =>
    samples.find((sample) => sample.way === way && sample.repetition === repetition)?.micros ?? Number.NaN
  /** Both of jose's together are what is compared with. */
  const floorOf = (repetition: number) => median(JOSE.map((way) => microsOf(way, repetition)))
  const factors = repetitions.map((repetition) => {
    const [one, other] = JOSE.map((way) => microsOf(way, repetition))
    return (one ?? Number.NaN) / (other ?? Number.NaN)
  })
  const spread = Math.max(...factors.map((factor) => Math.max(factor, 1 / factor))) - 1
  const rows = [...JOSE, ...LIST_SIZES.map(nameOf)].map((way) => {
    const micros = repetitions.map((repetition) => microsOf(way, repetition))
    const ratios = repetitions.map((repetition) => microsOf(way, repetition) / floorOf(repetition))
    return { way, micros, ratios, isOurs: !JOSE.some((name) => name === way) }
  })
  const range = (values: readonly number[], digits: number) =>
    `${median(values).toFixed(digits)} (${Math.min(...values).toFixed(digits)} to ${Math.max(...values).toFixed(digits)})`
  const cells = rows.map(({ way, micros, ratios, isOurs }) => [
    way,
    range(micros, 1),
    range(ratios, 3),
    isOurs ? `≤ ${MOST_RATIO}` : '-',
    isOurs ? (median(ratios) <= MOST_RATIO ? 'met' : 'missed') : '-',
  ])
  const asked = Object.entries(requests).map(([path, times]) => `${count(times)} to ${path}`)
  const openings = repetitions.length * ROUNDS * LIST_SIZES.length
  const text = [
    `# The verifier beside jose alone, ${started.toISOString().slice(0, 16).replace('T', ' ')} UTC`,
    `Node ${machine.node.slice(1)}; ${machine.cpu}, ${machine.cores} cores, Linux ${machine.kernel}${machine.pinned ? '' : ', **processes not pinned**'}.
${repetitions.length} repetitions, a fresh process each, in it ${ROUNDS} rounds of each way in turns, ${count(VERIFICATIONS)} verifications a round after ${count(WARM_UP)} of
warm-up, ES256 JWTs that were signed before and are all different, 32 under way side by side.${repetitions.length < 5 ? ' **A trial: fewer than five repetitions are no result.**' : ''}`,
    table(['CPU a verification', 'µs: median (least to most)', '÷ jose alone', 'goal', 'verdict'], cells),
    `jose alone, run twice, was up to ${(spread * 100).toFixed(1)} % from itself. In all, ${count(openings)} verifiers were opened and verified
${count(openings * (VERIFICATIONS + WARM_UP))} JWTs; the issuer was asked ${asked.join(' and ')}.`,
  ].join('\n\n')
  return { text: `${text}\n`, isWithin: rows.every(({ ratios, isOurs }) => !isOurs || median(ratios) <= MOST_RATIO) }
}

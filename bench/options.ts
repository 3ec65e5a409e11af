// What may be asked of a run on the command line.
import { parseArgs } from 'node:util'
import {
  CONTENDER_NAMES,
  type ContenderName,
  DEFAULT_REPETITIONS,
  DEFAULT_SECONDS,
  DEFAULT_TOKENS,
  DEFAULT_WARM_UP_SECONDS,
  SCENARIO_NAMES,
  type ScenarioName,
} from './constants.ts'

export interface Options {
  readonly json: boolean
  readonly scenarios: readonly ScenarioName[]
  readonly contenders: readonly ContenderName[]
  readonly repetitions: number
  readonly seconds: number
  readonly warmUpSeconds: number
  readonly out: string | undefined
  /** Instead of the scenarios: verification against a full database and an empty one. */
  readonly growth: boolean
  /** Instead of the scenarios: the verifier beside jose alone. */
  readonly verifier: boolean
  /** Instead of the scenarios: usage recorded, amounts held, spend read. */
  readonly rates: boolean
  readonly tokens: number
}

export const HELP = `npm run bench -- [options]

Measures this server beside its peers: server CPU an operation, the server on one core, generator and stores on the other.

  --scenario NAME      only this one; may be given several times, or as a,b
                       ${SCENARIO_NAMES.join(', ')}
  --contender NAME     only this one; may be given several times, or as a,b
                       ${CONTENDER_NAMES.join(', ')}
  --repetitions N      fresh processes a contender (default ${DEFAULT_REPETITIONS}; fewer than 5 is a trial, not a result)
  --seconds N          measured time a scenario (default ${DEFAULT_SECONDS})
  --warm-up N          time before it, not measured (default ${DEFAULT_WARM_UP_SECONDS})
  --growth             instead: verifies workspace tokens against a full database and an empty one
  --verifier           instead: what latchkey/verifier costs an API, beside jose's jwtVerify alone
  --rates              instead: events recorded, amounts held and settled a second, and what the spend page costs
  --tokens N           how many are in the full one (default ${DEFAULT_TOKENS})
  --out DIRECTORY      where table, picture and raw lines go (default bench/results/<date>)
  --json               the summary as JSON on standard output, instead of the table
  --help               this text
`

/** What is wrong with the command line, in a sentence. */
export class UsageError extends Error {}

/** Undefined when only the help was asked for. */
export function parseOptions(args: readonly string[]): Options | undefined {
  const { values } = readArguments(args)
  if (values.help) return undefined
  const instead = (['growth', 'verifier', 'rates'] as const).filter((name) => values[name]).map((name) => `--${name}`)
  if (instead.length > 0 && (values.scenario || values.contender || values.json)) {
    throw new UsageError(
      `${instead[0]} has scenarios and a table of its own: leave out --scenario, --contender and --json`,
    )
  }
  if (instead.length > 1) throw new UsageError(`${instead.join(' and ')} are two runs`)
  return {
    json: values.json,
    scenarios: pick('scenario', SCENARIO_NAMES, values.scenario),
    contenders: pick('contender', CONTENDER_NAMES, values.contender),
    repetitions: wholeNumber('repetitions', values.repetitions, DEFAULT_REPETITIONS),
    seconds: positive('seconds', values.seconds, DEFAULT_SECONDS),
    warmUpSeconds: positive('warm-up', values['warm-up'], DEFAULT_WARM_UP_SECONDS),
    out: values.out,
    growth: values.growth,
    verifier: values.verifier,
    rates: values.rates,
    tokens: wholeNumber('tokens', values.tokens, DEFAULT_TOKENS),
  }
}

function readArguments(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
        scenario: { type: 'string', multiple: true },
        contender: { type: 'string', multiple: true },
        repetitions: { type: 'string' },
        seconds: { type: 'string' },
        'warm-up': { type: 'string' },
        out: { type: 'string' },
        growth: { type: 'boolean', default: false },
        verifier: { type: 'boolean', default: false },
        rates: { type: 'boolean', default: false },
        tokens: { type: 'string' },
      },
    })
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error))
  }
}

/** In the table's order, whatever order they were asked for in. */
function pick<T extends string>(
  option: string,
  known: readonly T[],
  given: readonly string[] | undefined,
): readonly T[] {
  const wanted = new Set(given?.flatMap((value) => value.split(',').map((name) => name.trim())))
  if (wanted.size === 0) return known
  for (const name of wanted) {
    if (!known.some((candidate) => candidate === name)) {
      throw new UsageError(`--${option} ${name} is not known: it is one of ${known.join(', ')}`)
    }
  }
  return known.filter((name) => wanted.has(name))
}

function wholeNumber(option: string, text: string | undefined, fallback: number): number {
  const value = positive(option, text, fallback)
  if (!Number.isInteger(value)) throw new UsageError(`--${option} must be a whole number`)
  return value
}

function positive(option: string, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text)
  if (!(value > 0 && value <= 100_000_000)) throw new UsageError(`--${option} must be a number above 0`)
  return value
}

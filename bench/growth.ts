// Growth: the same verifications against a database that has been in use for long, and against one that has not.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import pg from 'pg'
import { digestOf } from '../src/crypto/secret.ts'
import { newToken } from '../src/crypto/token-value.ts'
import { CONNECTIONS, LOAD_CORE } from './constants.ts'
import { type Blueprint, prepareLatchkey, startLatchkey } from './contenders/latchkey.ts'
import { describeMachine, pinSelf } from './machine.ts'
import { type Measurement, measure } from './measure.ts'
import type { Options } from './options.ts'
import { count, table } from './report.ts'
import { type Lane, verification } from './scenarios.ts'
import { SCOPE } from './servers/settings.ts'
import { cleanUpOnSignal, makeStage, readAll, type Stores, say, startStores } from './session.ts'
import { median } from './statistics.ts'
import type { Database } from './stores.ts'

const WORKSPACES = 10_000
const REVOCATIONS = 100_000
/** More than a process remembers: asked about in turn, each of them is cold each time. */
const KNOWN_TOKENS = 32_768
const WARM_TOKENS_A_LANE = 4

/** By how much a full database may be slower: its p99 divided by the empty one's. */
const MOST_GROWTH = 1.25

const SIZES = ['empty', 'full'] as const
type Size = (typeof SIZES)[number]
const TEMPERATURES = ['cold', 'warm'] as const
type Temperature = (typeof TEMPERATURES)[number]

interface GrowthSample extends Measurement {
  readonly size: Size
  readonly temperature: Temperature
  readonly repetition: number
  /** From the start of the process to its first answer. */
  readonly readyMilliseconds: number
}

/** The exit code: 1 when it grew by more than it may. */
export async function runGrowth(options: Options, benchDirectory: string): Promise<number> {
  const started = new Date()
  const date = started.toISOString().slice(0, 16).replace(':', '')
  const out = options.out ?? join(benchDirectory, 'results', `${date}-growth`)
  mkdirSync(out, { recursive: true })
  const cleanUp = new AsyncDisposableStack()
  cleanUpOnSignal(cleanUp)
  try {
    pinSelf(LOAD_CORE)
    const stores = await startStores(new Set(['postgres', 'redis']), cleanUp)
    const blueprint = await prepareLatchkey(await makeStage(stores, 'setup'))
    const known = Array.from({ length: KNOWN_TOKENS }, () => newToken('workspace').value.reveal())
    const databases = {
      empty: await fill(stores, blueprint, { tokens: known.length, revocations: 0, known }),
      full: await fill(stores, blueprint, { tokens: options.tokens, revocations: REVOCATIONS, known }),
    }
    const raw = join(out, 'raw.jsonl')
    writeFileSync(raw, `${JSON.stringify({ kind: 'run', started, machine: describeMachine(), options })}\n`)
    const samples: GrowthSample[] = []
    for (let repetition = 1; repetition <= options.repetitions; repetition += 1) {
      for (const size of repetition % 2 === 1 ? SIZES : SIZES.toReversed()) {
        const about = { size, repetition, database: databases[size] }
        for (const sample of await measureSize({ options, stores, blueprint, known, ...about })) {
          samples.push(sample)
          appendFileSync(raw, `${JSON.stringify(sample)}\n`)
        }
      }
    }
    const { text, isWithin } = summarise(samples, options)
    writeFileSync(join(out, 'table.md'), text)
    process.stdout.write(text)
    say(`Written to ${out}`)
    return isWithin ? 0 : 1
  } finally {
    await cleanUp.disposeAsync()
  }
}

interface Filling {
  readonly tokens: number
  readonly revocations: number
  /** Values whose tokens stand scattered among the others. */
  readonly known: readonly string[]
}

async function fill(stores: Stores, { template }: Blueprint, filling: Filling): Promise<Database> {
  if (!stores.postgres) throw new Error('growth needs PostgreSQL')
  const { tokens, revocations, known } = filling
  say(`filling a database: ${count(tokens)} tokens, ${count(revocations)} revocations`)
  const database = await stores.postgres.createDatabase(template)
  const client = new pg.Client({ connectionString: database.ownerUrl })
  await client.connect()
  try {
    const step = Math.floor(tokens / known.length)
    if (step < 1) throw new Error(`growth needs at least ${KNOWN_TOKENS} tokens`)
    await client.query('create temp table known (n int primary key, digest text not null)')
    await client.query('insert into known select * from unnest($1::int[], $2::text[])', [
      known.map((_, index) => index * step + 1),
      known.map(digestOf),
    ])
    await client.query(`
      insert into workspaces (id, organization_id, name, owner_id)
      select 'ws_' || lpad(n::text, 26, '0'), (select id from organizations order by id limit 1), 'Workspace ' || n, 'nobody'
      from generate_series(0, ${WORKSPACES - 1}) n`)
    await client.query(
      `insert into token_lines (id, organization_id, workspace_id, label, environment, permissions, granted_role, created_by)
       select 'key_' || lpad(n::text, 26, '0'), w.organization_id, w.id, 'Token ' || n, 'production', array[$2], 'owner', 'nobody'
       from generate_series(1, $1::int) n join workspaces w on w.id = 'ws_' || lpad((n % ${WORKSPACES})::text, 26, '0')`,
      [tokens, SCOPE],
    )
    // Used before: what is measured is verification, not the record of a first use.
    await client.query(
      `insert into token_versions (token_id, version, digest, key_prefix, created_by, first_used_at, last_used_at)
       select 'key_' || lpad(n::text, 26, '0'), 1, coalesce(k.digest, translate(
         rtrim(encode(sha256(convert_to('token ' || n, 'utf8')), 'base64'), '='), '+/', '-_')),
         'tid_ws_0000000', 'nobody', now(), now()
       from generate_series(1, $1::int) n left join known k using (n)`,
      [tokens],
    )
    await client.query(
      `insert into revocation_entries (subject, seq, closed, expires_at)
       select 'key_' || lpad((n + 100000000)::text, 26, '0'), nextval('revocation_seq'), true, now() + interval '1 day'
       from generate_series(1, $1::int) n`,
      [revocations],
    )
    await client.query('vacuum analyze')
  } finally {
    await client.end()
  }
  return database
}

interface Run {
  readonly options: Options
  readonly stores: Stores
  readonly blueprint: Blueprint
  readonly known: readonly string[]
  readonly size: Size
  readonly repetition: number
  readonly database: Database
}

/** A fresh process, which remembers nothing: cold first. */
async function measureSize({ options, stores, blueprint, known, ...about }: Run): Promise<GrowthSample[]> {
  const { size, repetition, database } = about
  const stage = await makeStage(stores, `${size}-${repetition}`)
  const startedAt = performance.now()
  const running = await startLatchkey(stage, blueprint, database)
  const readyMilliseconds = performance.now() - startedAt
  const read = () => readAll(running, stores)
  try {
    const samples: GrowthSample[] = []
    for (const temperature of TEMPERATURES) {
      await stores.postgres?.checkpoint()
      const prepare = async ({ site, http, index }: Lane) => {
        const own = known.filter((_, position) => position % CONNECTIONS === index)
        return verification(site, http, temperature === 'cold' ? own : own.slice(0, WARM_TOKENS_A_LANE))
      }
      const measurement = await measure(running.site, { prepare }, { ...options, read })
      samples.push({ size, temperature, repetition, readyMilliseconds, ...measurement })
      say(`${repetition}/${options.repetitions} ${size}, ${temperature}: ${count(measurement.perCpuSecond)}/CPU-s`)
    }
    return samples
  } finally {
    await running.stop()
  }
}

function summarise(samples: readonly GrowthSample[], { tokens, repetitions, seconds, warmUpSeconds }: Options) {
  const figure = (temperature: Temperature, size: Size, of: (sample: GrowthSample) => number) =>
    median(samples.filter((sample) => sample.temperature === temperature && sample.size === size).map(of))
  const rows = TEMPERATURES.flatMap((temperature) => {
    const row = (name: string, digits: number, of: (sample: GrowthSample) => number) => {
      const [empty, full] = SIZES.map((size) => figure(temperature, size, of))
      const ratio = (full ?? Number.NaN) / (empty ?? Number.NaN)
      return {
        cells: [`${temperature}, ${name}`, ...[empty, full].map((value) => (value ?? 0).toFixed(digits))],
        ratio,
      }
    }
    return [
      { ...row('p99 ms', 1, (sample) => sample.p99Milliseconds), goal: MOST_GROWTH },
      row('server CPU µs', 1, (sample) => sample.serverMicros),
      row('PostgreSQL CPU µs', 1, (sample) => sample.postgresMicros ?? 0),
    ]
  })
  const ready = SIZES.map((size) => figure('cold', size, (sample) => sample.readyMilliseconds))
  const text = [
    `# Growth: ${count(tokens)} workspace tokens and ${count(REVOCATIONS)} revocation entries, against ${count(KNOWN_TOKENS)} and none`,
    `${repetitions} repetitions of ${seconds} s after ${warmUpSeconds} s of warm-up, a fresh process each, ${CONNECTIONS} connections; medians.
Cold: each token is one that the process does not remember. Warm: one that it does. A process was ready to serve after
${ready.map((value) => `${Math.round(value)} ms`).join(' and ')}.`,
    table(
      ['verify a workspace token', 'empty', 'full', 'ratio', 'goal'],
      rows.map(({ cells, ratio, ...rest }) => [
        ...cells,
        Number.isFinite(ratio) ? ratio.toFixed(2) : '-',
        'goal' in rest ? `≤ ${rest.goal}` : '-',
      ]),
    ),
  ].join('\n\n')
  const isWithin = rows.every((row) => !('goal' in row) || row.ratio <= MOST_GROWTH)
  return { text: `${text}\n`, isWithin }
}

// How fast usage is taken: events recorded, amounts held and settled, and what an organization's spend page costs when a
// million events stand behind it.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { loadavg } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { LOAD_CORE } from './constants.ts'
import type { RunningServer } from './contenders/contender.ts'
import { type Blueprint, prepareLatchkey, startLatchkey } from './contenders/latchkey.ts'
import { HttpConnection, type HttpRequest } from './http-client.ts'
import { describeMachine, pinSelf } from './machine.ts'
import { type Measurement, measure } from './measure.ts'
import { isJsonObject, type JsonObject, WrongAnswer } from './oauth.ts'
import type { Options } from './options.ts'
import { count, table } from './report.ts'
import type { Lane, Operation } from './scenarios.ts'
import { cleanUpOnSignal, makeStage, readAll, type Stores, say, startStores } from './session.ts'
import type { Database } from './stores.ts'

const PLACES = [1, 20] as const
const EVENTS_A_CALL = [1, 100, 1_000] as const
/** Fewer than the server has to its database: nobody waits for a connection. */
const CONNECTIONS = 8
const SPEND_WORKSPACES = 200
const SPEND_EVENTS = [200, 1_000_000] as const
const SPEND_MONTHS = 6

interface Rate {
  readonly kind: 'rate'
  readonly what: string
  readonly workspaces: number
  /** Of one operation. */
  readonly events: number
  readonly measurement: Measurement
  readonly load: number
}

/** The exit code. */
export async function runRates(options: Options, benchDirectory: string): Promise<number> {
  const started = new Date()
  const date = started.toISOString().slice(0, 16).replace(':', '')
  const out = options.out ?? join(benchDirectory, 'results', `${date}-rates`)
  mkdirSync(out, { recursive: true })
  const raw = join(out, 'raw.jsonl')
  writeFileSync(raw, `${JSON.stringify({ kind: 'run', started, machine: describeMachine(), options })}\n`)
  const cleanUp = new AsyncDisposableStack()
  cleanUpOnSignal(cleanUp)
  const rates: Rate[] = []
  const write = (rate: Rate) => {
    rates.push(rate)
    appendFileSync(raw, `${JSON.stringify(rate)}\n`)
    say(`${rate.what}, workspaces: ${rate.workspaces}: ${describeRate(rate)}`)
  }
  try {
    pinSelf(LOAD_CORE)
    const stores = await startStores(new Set(['postgres', 'redis']), cleanUp)
    const blueprint = await prepareLatchkey(await makeStage(stores, 'setup'))
    await measureTaking({ options, stores, blueprint, write })
    for (const events of SPEND_EVENTS) await measureSpend({ options, stores, blueprint, write }, events)
    const text = summarise(rates, options, started)
    writeFileSync(join(out, 'table.md'), text)
    process.stdout.write(text)
    say(`Written to ${out}`)
    return 0
  } finally {
    await cleanUp.disposeAsync()
  }
}

interface Run {
  readonly options: Options
  readonly stores: Stores
  readonly blueprint: Blueprint
  readonly write: (rate: Rate) => void
}

// --- Taking usage --------------------------------------------------------------------------------------------------------

async function measureTaking({ options, stores, blueprint, write }: Run): Promise<void> {
  const running = await startLatchkey(await makeStage(stores, 'taking'), blueprint)
  try {
    const tokens = await makePlaces(running, blueprint, Math.max(...PLACES))
    for (const workspaces of PLACES) {
      // Each lane goes through all of them, from another one on.
      const nextOf = ({ index }: Lane) => {
        let turn = index
        return () => {
          const ofPlace = tokens[turn % workspaces] ?? []
          turn += 1
          return ofPlace[turn % ofPlace.length] ?? ''
        }
      }
      for (const events of EVENTS_A_CALL) {
        const prepare = async (lane: Lane) => recording(lane, nextOf(lane), events)
        const measurement = await measureOne(running, stores, { options, prepare })
        write({ kind: 'rate', what: `calls of ${events}`, workspaces, events, measurement, load: load() })
      }
      const prepare = async (lane: Lane) => holding(lane, nextOf(lane))
      const measurement = await measureOne(running, stores, { options, prepare })
      write({ kind: 'rate', what: 'reserve and settle', workspaces, events: 1, measurement, load: load() })
    }
  } finally {
    await running.stop()
  }
}

async function measureOne(
  running: RunningServer,
  stores: Stores,
  { options, ...scenario }: { options: Options; prepare: (lane: Lane) => Promise<Operation>; connections?: number },
): Promise<Measurement> {
  await stores.postgres?.checkpoint()
  const { warmUpSeconds, seconds } = options
  const read = () => readAll(running, stores)
  return measure(running.site, scenario, {
    warmUpSeconds,
    seconds,
    read,
    connections: scenario.connections ?? CONNECTIONS,
  })
}

/** No divisor of it is a number of workspaces, or a lane would use one of them alone. */
const TOKENS_A_PLACE = 19

let made = 0

function recording({ http, index }: Lane, next: () => string, size: number): Operation {
  return async () => {
    const headers = headersOf(next(), `rates-${index}`)
    const events = Array.from({ length: size }, () => ({
      id: `event-${index}-${++made}`,
      cost: '0.0123',
      provider: 'anthropic',
      model: 'claude-sonnet-4-5',
      input_tokens: 1_200,
      output_tokens: 340,
    }))
    const answer = await ask(http, {
      method: 'POST',
      path: '/api/v1/events',
      headers,
      body: JSON.stringify({ events }),
    })
    if (answer.recorded !== size) throw new Error(`${answer.recorded} of ${size} events were recorded`)
  }
}

function holding({ http, index }: Lane, next: () => string): Operation {
  return async () => {
    const headers = headersOf(next(), `rates-${index}`)
    const path = '/api/v1/reservations'
    const held = await ask(http, { method: 'POST', path, headers, body: '{"amount":"0.05"}' })
    const settle = { method: 'POST', path: `${path}/${held.id}/settle`, headers, body: '{"cost":"0.0123"}' } as const
    const settled = await ask(http, settle)
    if (settled.state !== 'settled') throw new Error(`a reservation is ${settled.state} after it was settled`)
  }
}

/** Workspaces under a hard cap that is out of reach. @returns tokens of each: one makes 6,000 calls a minute */
async function makePlaces({ site }: RunningServer, blueprint: Blueprint, number: number): Promise<string[][]> {
  const http = new HttpConnection(site.port, site.headers)
  const headers = headersOf(blueprint.organizationKey, 'rates')
  try {
    const tokens: string[][] = []
    for (let place = 0; place < number; place += 1) {
      const post = (path: string, body: object, method: 'POST' | 'PUT' = 'POST') =>
        ask(http, { method, path: `/api/v1/workspaces${path}`, headers, body: JSON.stringify(body) })
      const { id } = await post('', { name: `Rates ${place}`, organization_id: blueprint.people[0]?.organizationId })
      await post(`/${id}/budget`, { cap: '900000000', mode: 'hard' }, 'PUT')
      const ofPlace: string[] = []
      for (let count = 0; count < TOKENS_A_PLACE; count += 1) {
        const { key } = await post(`/${id}/api-keys`, { label: `Rates ${count}`, permissions: ['ingest', 'read'] })
        ofPlace.push(String(key))
      }
      tokens.push(ofPlace)
    }
    return tokens
  } finally {
    http.close()
  }
}

const headersOf = (token: string, trace: string) => ({
  authorization: `Bearer ${token}`,
  'content-type': 'application/json',
  'x-trace-id': trace,
})

async function ask(http: HttpConnection, request: HttpRequest): Promise<JsonObject> {
  const answer = await http.send(request)
  const body: unknown = answer.status === 200 || answer.status === 201 ? JSON.parse(answer.body) : undefined
  if (!isJsonObject(body)) throw new WrongAnswer(request.path, answer)
  return body
}

// --- Reading spend -------------------------------------------------------------------------------------------------------

async function measureSpend({ options, stores, blueprint, write }: Run, events: number): Promise<void> {
  if (!stores.postgres) throw new Error('rates need PostgreSQL')
  say(`filling a database: ${count(events)} events`)
  const database = await stores.postgres.createDatabase(blueprint.template)
  const organizationId = blueprint.people[0]?.organizationId ?? ''
  await fill(database, organizationId, events)
  const running = await startLatchkey(await makeStage(stores, `spend-${events}`), blueprint, database)
  try {
    const path = `/api/v1/organizations/${organizationId}/spend?limit=100`
    const headers = headersOf(blueprint.organizationKey, 'rates')
    const prepare =
      async ({ http }: Lane) =>
      async () => {
        const { workspaces } = await ask(http, { method: 'GET', path, headers })
        if (!Array.isArray(workspaces) || workspaces.length !== 100)
          throw new Error('a page has not a hundred workspaces')
      }
    const measurement = await measureOne(running, stores, { options, prepare, connections: 1 })
    const what = `a page of 100 workspaces, ${SPEND_MONTHS} months, ${count(events)} events`
    write({ kind: 'rate', what, workspaces: SPEND_WORKSPACES, events: 0, measurement, load: load() })
  } finally {
    await running.stop()
  }
}

async function fill({ ownerUrl }: Database, organizationId: string, events: number): Promise<void> {
  const client = new pg.Client({ connectionString: ownerUrl })
  await client.connect()
  const workspace = (n: string) => `'ws_' || lpad((${n} % ${SPEND_WORKSPACES})::text, 26, '0')`
  const month = `(date_trunc('month', now() at time zone 'utc') - make_interval(months => n % ${SPEND_MONTHS}))::date`
  try {
    await client.query(
      `insert into workspaces (id, organization_id, name, owner_id)
       select ${workspace('n')}, $1, 'Workspace ' || n, 'nobody' from generate_series(0, ${SPEND_WORKSPACES - 1}) n`,
      [organizationId],
    )
    await client.query(
      `insert into budgets (workspace_id, organization_id, cap_micros, mode)
       select id, organization_id, 1000000000, 'hard' from workspaces where organization_id = $1`,
      [organizationId],
    )
    // Each workspace in each month: a workspace is n, a month is what n leaves besides.
    await client.query(
      `insert into usage_events (id, organization_id, workspace_id, month, event_id, provider, model, input_tokens, output_tokens,
         cost_micros, trace_id, credential_id)
       select 'use_' || lpad(e::text, 26, '0'), $1, ${workspace('e')}, ${month}, 'event-' || e, 'anthropic', 'model-' || e % 7,
         1200, 340, 12300, 'rates', 'key_rates'
       from generate_series(0, $2::int - 1) e, lateral (select e / ${SPEND_WORKSPACES} as n) as months`,
      [organizationId, events],
    )
    await client.query(`insert into usage_event_ids select workspace_id, event_id, 'digest' from usage_events`)
    await client.query(
      `insert into spend (organization_id, workspace_id, month, settled_micros, event_count, input_tokens, output_tokens)
       select organization_id, workspace_id, month, sum(cost_micros), count(*), sum(input_tokens), sum(output_tokens)
       from usage_events group by 1, 2, 3`,
    )
    await client.query('vacuum analyze')
  } finally {
    await client.end()
  }
}

// --- The table -----------------------------------------------------------------------------------------------------------

const load = (): number => loadavg()[0] ?? Number.NaN

const ofOne = ({ perWallSecond }: Measurement, events: number) => perWallSecond * Math.max(events, 1)

function describeRate({ measurement, events }: Rate): string {
  return `${count(ofOne(measurement, events))}/s, p50 ${measurement.p50Milliseconds.toFixed(1)} ms`
}

function summarise(rates: readonly Rate[], { seconds, warmUpSeconds }: Options, started: Date): string {
  const machine = describeMachine()
  const cells = rates.map(({ what, workspaces, events, measurement, load: loadNow }) => [
    what,
    count(workspaces),
    count(ofOne(measurement, events)),
    measurement.p50Milliseconds.toFixed(1),
    measurement.p99Milliseconds.toFixed(1),
    (measurement.serverMicros / Math.max(events, 1)).toFixed(0),
    ((measurement.postgresMicros ?? Number.NaN) / Math.max(events, 1)).toFixed(0),
    loadNow.toFixed(1),
  ])
  const head = ['', 'workspaces', 'a second', 'p50 ms', 'p99 ms', 'server CPU µs', 'PostgreSQL CPU µs', 'load']
  return `${[
    `# Rates of usage, ${started.toISOString().slice(0, 16).replace('T', ' ')} UTC`,
    `Node ${machine.node.slice(1)}; ${machine.cpu}, ${machine.cores} cores, Linux ${machine.kernel}${machine.pinned ? '' : ', **processes not pinned**'}.
One server process; ${seconds} s each after ${warmUpSeconds} s of warm-up; ${CONNECTIONS} connections, one for the page. The generator, PostgreSQL (\`fsync\` and
\`synchronous_commit\` on) and Redis share a core. A second, by the clock, and CPU: of events, of pairs of reservation and settlement, of pages;
milliseconds: of a call, or a pair. Load: the machine's average of the last minute; well above ${machine.cores}, others were working on it, and these
are least figures.`,
    table(head, cells),
  ].join('\n\n')}\n`
}

// A hundred thousand live entries on the list: what they take in memory, how long a process takes to start, and whether
// anybody waits longer. Two servers whose list is empty run beside it: what they differ by is what the machine makes of it.
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { inspected } from '../support/heap.ts'
import { type Cluster, startCluster } from '../support/processes.ts'
import { at } from '../support/races.ts'
import { atSampleApi, type SampleApi, startSampleApi } from '../support/sample-apis.ts'
import {
  exchangeBoth,
  makeTokenWorld,
  memoryOf,
  pause,
  percentiles,
  pidOf,
  raceRevocations,
  type TokenWorld,
  untilReady,
  type Way,
  waysOf,
} from '../support/token-races.ts'

const ENTRIES = 100_000
const STARTS = 7
const ROUNDS = 8
const REQUESTS_A_ROUND = 250
/** A hundred bytes of what is said, and as much for where it is kept. */
const MOST_BYTES_AN_ENTRY = 1_500
const SETTLED_MS = 1_500

interface Subject {
  name: 'empty' | 'empty too' | 'long'
  cluster: Cluster
  world: TokenWorld
  api: SampleApi
  ways: Record<string, Way>
}

/** As they are in life: tokens and connections closed, versions dead, floors, JWTs denied. */
async function fill({ server }: Cluster, count: number, seconds: number): Promise<void> {
  await sql`insert into revocation_entries (subject, seq, closed, denied, floor, dead, expires_at)
    select (array['key_', 'con_', 'jti:'])[1 + n % 3] || lpad(to_hex(n), 26, '0'), nextval('revocation_seq'),
      n % 6 = 0, n % 3 = 2, case when n % 3 = 1 then 2 end, case when n % 6 = 3 then '{1}'::int[] else '{}' end,
      now() + make_interval(secs => ${seconds}::int)
    from generate_series(1, ${count}::int) n`.execute(server.db)
}

async function makeSubject(name: Subject['name']): Promise<Subject> {
  const cluster = await startCluster({ count: 1 })
  if (name === 'long') await fill(cluster, ENTRIES, 3_600)
  const world = await makeTokenWorld(cluster.server, at(cluster.processes, 0))
  const token = await world.create()
  const jwts = await exchangeBoth(world.target, world, token.value)
  const api = await startSampleApi(world, world.target.issuer)
  await api.untilLive()
  const ways = { ...waysOf(world, { value: token.value, ...jwts }), 'JWT, verifier': () => atSampleApi(jwts.api)(api) }
  return { name, cluster, world, api, ways }
}

const median = (values: readonly number[]) => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN

describe.skipIf(!hasStores())(`with ${ENTRIES} entries on the list`, () => {
  const subjects: Subject[] = []
  beforeAll(async () => {
    for (const name of ['empty', 'empty too', 'long'] as const) subjects.push(await makeSubject(name))
  })
  afterAll(async () => {
    for (const { api, cluster } of subjects) {
      await api.stop()
      await cluster.close()
    }
  })

  /** Of a fresh process of the subject. */
  async function started({ cluster }: Subject) {
    const { environment, heapBytes } = await inspected()
    const startedAt = performance.now()
    const process = await cluster.start({ environment })
    await untilReady(process)
    const tookMs = performance.now() - startedAt
    await pause(SETTLED_MS)
    const megabytes = memoryOf(pidOf(process))
    const heap = await heapBytes()
    await process.stop()
    return { tookMs, megabytes, heap }
  }

  it('a process starts, and holds so much of it', async ({ annotate }) => {
    const measured = new Map<Subject, Array<Awaited<ReturnType<typeof started>>>>(
      subjects.map((subject) => [subject, []]),
    )
    for (let round = 0; round < STARTS; round++)
      for (const subject of round % 2 === 0 ? subjects : subjects.toReversed())
        measured.get(subject)?.push(await started(subject))
    const heaps: number[] = []
    for (const [{ name }, all] of measured) {
      const [tookMs, megabytes, heap] = (['tookMs', 'megabytes', 'heap'] as const).map((what) =>
        median(all.map((one) => one[what])),
      )
      heaps.push(heap ?? Number.NaN)
      await annotate(
        `${name}: ready after ${tookMs?.toFixed(0)} ms, ${megabytes?.toFixed(0)} MB resident, ${((heap ?? 0) / 1e6).toFixed(1)} MB of heap (medians of ${STARTS})`,
      )
    }
    const bytes = (at(heaps, 2) - at(heaps, 0)) / ENTRIES
    await annotate(
      `an entry in a process: ${bytes.toFixed(0)} bytes (two empty ones: ${(at(heaps, 1) - at(heaps, 0)).toFixed(0)} bytes apart)`,
    )
    expect(bytes).toBeLessThan(MOST_BYTES_AN_ENTRY)
  })

  it('an API holds so much of it', async ({ annotate }) => {
    const [empty, other, long] = await Promise.all(subjects.map(async ({ api }) => (await api.state()).heapBytes))
    if (empty === undefined || other === undefined || long === undefined) throw new Error('there are three')
    const bytes = (long - empty) / ENTRIES
    await annotate(`an entry in an API: ${bytes.toFixed(0)} bytes (two empty ones: ${other - empty} bytes apart)`)
    expect(bytes).toBeLessThan(MOST_BYTES_AN_ENTRY)
  })

  it('nobody waits longer: what it differs by from an empty one is what two empty ones differ by', async ({
    annotate,
  }) => {
    const took = new Map<string, Record<Subject['name'], number[]>>()
    for (let round = 0; round < ROUNDS; round++) {
      for (const { cluster, name, ways } of round % 2 === 0 ? subjects : subjects.toReversed()) {
        for (const [way, present] of Object.entries(ways)) {
          const times = took.get(way) ?? { empty: [], 'empty too': [], long: [] }
          took.set(way, times)
          for (let count = 0; count < REQUESTS_A_ROUND; count++) {
            const startedAt = performance.now()
            expect(await present(at(cluster.processes, 0))).toBe('accepted')
            times[name].push(performance.now() - startedAt)
          }
        }
      }
    }
    for (const [way, times] of took) {
      for (const [name, values] of Object.entries(times)) await annotate(`${way}, ${name}: ${percentiles(values)}`)
      const [empty, other, long] = [median(times.empty), median(times['empty too']), median(times.long)]
      const spread = Math.abs(other - empty) / empty
      const difference = (long - Math.min(empty, other)) / empty
      await annotate(`${way}: the median differs by ${percent(difference)}; two empty ones by ${percent(spread)}`)
      expect(difference).toBeLessThan(Math.max(0.25, 2 * spread))
    }
  })

  it('a revocation takes as long', async ({ annotate }) => {
    const took = new Map<Subject, number[]>(subjects.map((subject) => [subject, []]))
    for (let round = 0; round < ROUNDS; round++)
      for (const subject of round % 2 === 0 ? subjects : subjects.toReversed())
        took.get(subject)?.push(...(await raceRevocations(subject.world, subject.cluster.processes, 5)))
    for (const [{ name }, values] of took) await annotate(`${name}: ${percentiles(values)}`)
  })

  it('who is served waits this long while an API reads all of it', async ({ annotate }) => {
    for (const { name, cluster, world, ways } of subjects) {
      const target = at(cluster.processes, 0)
      const present = Object.values(ways)[0]
      if (present === undefined) throw new Error('there is a way')
      const took: number[] = []
      for (let count = 0; count < 5; count++) {
        let isStarting = true
        const starting = startSampleApi(world, target.issuer).then(async (api) => {
          await api.untilLive()
          isStarting = false
          return api
        })
        while (isStarting) {
          const startedAt = performance.now()
          expect(await present(target)).toBe('accepted')
          took.push(performance.now() - startedAt)
        }
        await (await starting).stop()
      }
      await annotate(`${name}: ${percentiles(took)}`)
    }
  })

  it('what has expired is forgotten, by a process and by an API', async ({ annotate }) => {
    const { environment, heapBytes } = await inspected()
    const [subject] = subjects
    if (subject === undefined) throw new Error('there are three')
    const process = await subject.cluster.start({ environment })
    await untilReady(process)
    await fill(subject.cluster, ENTRIES, 30)
    await pause(5_000)
    const full = { process: await heapBytes(), api: (await subject.api.state()).heapBytes }
    await pause(120_000)
    await subject.api.untilLive()
    const later = { process: await heapBytes(), api: (await subject.api.state()).heapBytes }
    await annotate(
      `a process: ${megabytes(full.process)}, then ${megabytes(later.process)}; an API: ${megabytes(full.api)}, then ${megabytes(later.api)}`,
    )
    expect(full.process - later.process).toBeGreaterThan(ENTRIES * 50)
    expect(full.api - later.api).toBeGreaterThan(ENTRIES * 50)
    await process.stop()
  })
})

const percent = (share: number) => `${(100 * share).toFixed(1)} %`
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`

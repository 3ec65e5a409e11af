// The list outside of the database: each entry goes to the sink, signed, so that a database which comes back from a backup
// is noticed before it answers anybody.

import type { Sink } from '../sink/service.ts'
import type { SinkSigner } from '../sink/signing.ts'
import { type Db, reading } from '../store/database.ts'
import { merged, type WrittenEntry } from './rules.ts'
import * as store from './store.ts'

const BATCH = 1_000
/** Neither a revocation nor a shutdown waits longer for the sink. */
const MOST_WAIT_MS = 1_000

/** The sink is not the one that belongs to this database, as far as it can be told. */
export class SinkProblem extends Error {
  override name = 'SinkProblem'
}

const LACKING =
  'The sink lacks what this database has written to it: it is another one, it was emptied, or it was signed with a master key that is not given any more. Put the right one into LATCHKEY_SINK; to begin a new one, run latchkey restore-check --accept-sink.'
const FOREIGN =
  'The sink holds what another database wrote under the same master key: this one is not the one that it was, or two share a sink. To leave those lines out, run latchkey restore-check --accept-sink.'
/** Of a list whose lines we did not sign, so many are looked at. */
const MOST_TRIED_A_LIST = 5

/** The subject of a list's first line. */
const BEGINNING = 'beginning'
const NOTHING_SAID = {
  subject: BEGINNING,
  floor: null,
  dead: [],
  closed: false,
  denied: false,
  suspended: false,
  notBefore: null,
  nextFloor: null,
  nextFloorAt: null,
  role: null,
}

/** What the sink knows and the database does not. */
export interface Missing {
  /** The highest seq in the database. */
  head: number
  /** The highest seq in the sink. */
  known: number
}

export interface Outside {
  /** Sends entries. Resolves when a local sink has them, at once where it is far away, and never rejects. */
  send(entries: readonly WrittenEntry[]): Promise<void>
  /** Sends what other processes have left unsent. Never rejects. */
  sendRest(): void
  /**
   * Undefined when the database has all that the sink has.
   *
   * @throws {SinkProblem} for a sink that does not belong to it; {Error} when it cannot be read
   */
  missing(): Promise<Missing | undefined>
  /** What the sink says about each subject above a seq, and how many of its lines nobody can vouch for. */
  read(after: number): Promise<{ entries: WrittenEntry[]; known: number; unsigned: number }>
  /** The lists that the sink holds lines of, signed with a key of ours. */
  lists(): Promise<string[]>
  /** The highest seq in the database. */
  head(): Promise<number>
  /** Says under the newest key how far the list is: a sink whose lines only an older key vouches for is none without that. */
  vouch(): Promise<void>
  /** Waits for what is being sent, a second at most. */
  close(): Promise<void>
}

export interface OutsideDeps {
  db: Db
  sink: Sink
  signer: SinkSigner
  onError: (error: Error) => void
}

export function createOutside({ db, sink, signer, onError }: OutsideDeps): Outside {
  const sending = new Set<Promise<void>>()
  let lineage: string | undefined
  let isSendingRest = false

  const standing = async () => {
    const found = await reading(store.readStanding(db, false))
    if (found === undefined) throw new Error('the revocation list has no row of its own')
    return found
  }

  /** The first line of a list: from here on, a sink without it is not this one. */
  async function begin({ lineage: list, head }: store.Standing): Promise<void> {
    await sink.append([await lineOf(signer, list, beginningAt(head))])
    await store.beginSink(db, head)
  }

  const foreign = new Map<string, number>()

  /** @throws {SinkProblem} for a line of another list under our own key; others may share the sink */
  async function refuseForeign(list: string, jws: string, leftOut: readonly string[]): Promise<void> {
    const tried = foreign.get(list) ?? 0
    if (leftOut.includes(list) || tried === MOST_TRIED_A_LIST) return
    if ((await signer.open(jws)) !== undefined) throw new SinkProblem(FOREIGN)
    foreign.set(list, tried + 1)
  }

  async function write(entries: readonly WrittenEntry[]): Promise<void> {
    lineage ??= (await standing()).lineage
    const list = lineage
    await sink.append(await Promise.all(entries.map((entry) => lineOf(signer, list, entry))))
    await store.markSent(db, list, entries)
  }

  /** What fails is claimed again by whoever finds it unsent. */
  function track(work: Promise<void>): Promise<void> {
    const tracked = work
      .catch((error: unknown) => onError(error instanceof Error ? error : new Error(String(error))))
      .finally(() => sending.delete(tracked))
    sending.add(tracked)
    return tracked
  }

  async function writeRest(): Promise<void> {
    for (;;) {
      const entries = await store.claimUnsent(db, BATCH)
      if (entries.length > 0) await write(entries)
      if (entries.length < BATCH) return
    }
  }

  return {
    async send(entries) {
      if (entries.length === 0) return
      const sent = track(write(entries))
      if (!sink.isLocal) return
      await inTime(sent)
    },
    sendRest() {
      if (isSendingRest) return
      isSendingRest = true
      void track(writeRest()).then(() => {
        isSendingRest = false
      })
    },
    async missing() {
      const found = await standing()
      lineage = found.lineage
      if (found.sentHead === null) await begin(found)
      const sentHead = found.sentHead ?? found.head
      let known = -1 // a list begins with a line that has no revocation before it
      for await (const { list, seq, jws } of readLines(sink, sentHead - 1)) {
        if (list !== found.lineage) await refuseForeign(list, jws, found.leftOut)
        else if (seq >= sentHead && seq > known && (await signer.open(jws)) !== undefined) known = seq
      }
      if (known < sentHead) throw new SinkProblem(LACKING)
      if (known <= found.head) return undefined
      // What was committed while the sink was read is in it already.
      const { head } = await standing()
      return known > head ? { head, known } : undefined
    },
    async read(after) {
      const { lineage: ours } = await standing()
      const entries = new Map<string, WrittenEntry>()
      let [known, unsigned] = [after, 0]
      for await (const { list, seq, jws } of readLines(sink, after)) {
        if (list !== ours || seq <= after) continue
        const entry = entryOf(await signer.open(jws))
        if (entry === undefined) unsigned++
        else {
          known = Math.max(known, seq)
          entries.set(entry.subject, merged(entries.get(entry.subject), entry))
        }
      }
      entries.delete(BEGINNING)
      return { entries: [...entries.values()].sort((one, other) => one.seq - other.seq), known, unsigned }
    },
    async lists() {
      lineage = undefined // it is asked for to begin another one
      const lists = new Set<string>()
      for await (const { list, jws } of readLines(sink, 0))
        if (!lists.has(list) && (await signer.open(jws)) !== undefined) lists.add(list)
      return [...lists]
    },
    head: async () => (await standing()).head,
    async vouch() {
      const { lineage: list, head, sentHead } = await standing()
      if (sentHead !== null) await sink.append([await lineOf(signer, list, beginningAt(head))])
    },
    async close() {
      await inTime(Promise.all(sending))
    },
  }
}

/** What is not sent by then stays unsent in the database, and is sent by whoever finds it. */
async function inTime(sent: Promise<unknown>): Promise<void> {
  const late = Promise.withResolvers<undefined>()
  const timer = setTimeout(late.resolve, MOST_WAIT_MS)
  await Promise.race([sent, late.promise]).finally(() => clearTimeout(timer))
}

function beginningAt(seq: number): WrittenEntry {
  return { ...NOTHING_SAID, seq, changedAt: Math.floor(Date.now() / 1000) }
}

async function lineOf(signer: SinkSigner, list: string, entry: WrittenEntry): Promise<string> {
  return JSON.stringify({ seq: entry.seq, jws: await signer.sign({ list, ...entry }) })
}

interface Line {
  list: string
  seq: number
  jws: string
}

/** Lines about revocations, whoever wrote them: their signature has not been looked at. */
async function* readLines(sink: Sink, after: number): AsyncIterable<Line> {
  for await (const text of sink.read(after)) {
    try {
      const { seq, jws } = JSON.parse(text)
      const payload = JSON.parse(Buffer.from(String(jws).split('.')[1] ?? '', 'base64url').toString('utf8'))
      if (typeof payload.list === 'string' && payload.seq === seq && Number.isSafeInteger(seq))
        yield { list: payload.list, seq, jws }
    } catch {
      // half a line, or something else
    }
  }
}

/** A payload that we signed has the shape that we wrote. */
function entryOf(payload: unknown): WrittenEntry | undefined {
  if (typeof payload !== 'object' || payload === null) return undefined
  const { list: _, ...entry } = payload as WrittenEntry & { list: string }
  return entry
}

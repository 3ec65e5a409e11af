// The revocation list in memory, and the leases that make it trustworthy: a process may decide from it while its lease
// is good, and a revocation is answered once every process that could decide has it (consistency §5).
import { randomUUID } from 'node:crypto'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import type { DedicatedConnection, OpenedDatabase, Trx } from '../store/database.ts'
import { reading, transact } from '../store/database.ts'
import { type Missing, type Outside, SinkProblem } from './outside.ts'
import type { Entry } from './rules.ts'
import * as store from './store.ts'

const RENEW_EVERY_MS = 300
/** A lease is good for this long, counted from before its renewal was asked for. */
const LEASE_MS = 1_000
/** After this long on the revoker's own clock, no lease from before its commit can be good. */
const LONGEST_WAIT_MS = 1_200
const FIRST_LOOK_MS = 4
const RARELY_LOOK_MS = 100
const LAST_LOOK_MS = 100
const FORGET_EXPIRED_EVERY_MS = 60_000
/** A list that is behind its sink, or a sink that could not be read, is looked at again after so long. */
const COMPARE_AGAIN_MS = 2_000
const CONFIRMED_FOR_MS = 300
const MOST_CONFIRMING_MS = 500
const SEND_REST_ALONE_MS = 5_000
const ENTRIES_OVER = 1_000

/** Adds a change to those that the transaction will put on the list, as the last thing that it does. */
export type Revoke = (change: store.RevocationChange) => void

export interface RevocationList {
  /**
   * Runs a transaction whose revocations go on the list. Resolves when every process knows them, or cannot answer from
   * memory any more: from then on nothing that they end is accepted anywhere.
   *
   * @param options.despiteTrouble by whoever mends a database that is behind its sink: it takes no other change
   * @throws {AppError} what `requireSound` throws
   */
  change<T>(work: (trx: Trx, revoke: Revoke) => Promise<T>, options?: { despiteTrouble?: boolean }): Promise<T>
  /** Resolves when every process knows what another transaction has put on the list about a subject. */
  everyoneKnows(subject: string): Promise<void>
  /** False: this process may have missed something, and must ask the database at each decision. */
  isLive(): boolean
  /** The seq up to which this process knows the list. Ask before a read that is to be remembered. */
  seq(): number
  /** Changes when another list, or an older state of it, took its place: no seq from before says anything any more. */
  generation(): number
  /** The entry of a subject; good only while `isLive`. */
  entry(subject: string): Entry | undefined
  /** The database's time, milliseconds since the epoch, from the last renewal on; good only while `isLive`. */
  now(): number
  /** Entries after a seq, in its order, each subject once. */
  since(seq: number): ListEntry[]
  /** Which list this is: a cursor from another one says nothing here. */
  epoch(): string | undefined
  /** The database's time, in milliseconds, up to which nothing is missing here; undefined while it may be. */
  completeAsOf(): number | undefined
  /** Hears of each reading, with news or without. @returns how to stop it */
  subscribe(listener: () => void): () => void
  /**
   * Undefined where the database may be asked, which is nearly always. Before it was compared with the sink, and while its
   * connection is lost, it may be another one than before: then this rejects, or resolves once it is known not to be.
   *
   * @throws {AppError} `unavailable`
   */
  requireSound(): Promise<void> | undefined
  /** What keeps `requireSound` from being well: a database behind its sink, or a sink that cannot be read. */
  trouble(): 'restore-check' | 'sink' | undefined
  /** Begins to follow the list. Resolves once it is live, or after a first try that failed: it goes on trying. */
  start(): Promise<void>
  /** Gives the lease up. */
  close(): Promise<void>
}

interface Lease {
  askedMonotonicMs: number
  askedWallMs: number
  databaseMs: number
  /** From before the database looked: nothing is missing up to then. */
  wholeAsOfMs: number
}

/** `expiresAt`: milliseconds since the epoch. */
export type ListEntry = Entry & { expiresAt: number }

/** A lease that was behind: its renewals then, and when that was. */
interface Seen {
  renewals: string
  atMs: number
}

export interface RevocationListOptions {
  onError: (error: Error) => void
  /** Without it nothing leaves the database, and nothing is compared. */
  outside?: Outside
  onBehind?: (missing: Missing) => void
}

export function createRevocationList(opened: OpenedDatabase, options: RevocationListOptions): RevocationList {
  const { db } = opened
  const processId = randomUUID()
  const entries = new Map<string, ListEntry>()
  /** In the order of seq; an entry whose subject has a later one is passed over, and dropped when there are many. */
  let log: ListEntry[] = []
  const listeners = new Set<() => void>()
  let applied = 0
  let epoch: string | undefined
  let generation = 0
  let lease: Lease | undefined
  let connection: DedicatedConnection | undefined
  let following = false
  let closed = false
  let renewing: Promise<void> | undefined
  let wokenMeanwhile = false
  let timer: NodeJS.Timeout | undefined
  let beat: NodeJS.Timeout | undefined
  let forgottenAt = performance.now()
  let restSentAt = performance.now()
  let standing: 'sound' | 'unchecked' | 'behind' = options.outside === undefined ? 'sound' : 'unchecked'
  let comparing: Promise<void> | undefined
  let problem: string | undefined
  let comparedAt = Number.NEGATIVE_INFINITY
  /** The connection was lost, and what answers at that address has not been looked at since. */
  let isDoubtful = false
  let confirming: Promise<void> | undefined
  let confirmedAt = Number.NEGATIVE_INFINITY

  function apply(page: store.ListReading): void {
    const isOther = epoch !== undefined && (page.epoch !== epoch || page.head < applied)
    if (isOther) throw new AnotherList(page.epoch)
    epoch = page.epoch
    for (const entry of page.entries) {
      entries.set(entry.subject, entry)
      log.push(entry)
      applied = Math.max(applied, entry.seq)
    }
    if (log.length > 2 * entries.size + ENTRIES_OVER) log = log.filter(isCurrent)
  }

  const isCurrent = (entry: ListEntry) => entries.get(entry.subject) === entry

  function since(seq: number): ListEntry[] {
    let [low, high] = [0, log.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((log[middle]?.seq ?? 0) <= seq) low = middle + 1
      else high = middle
    }
    return log.slice(low).filter(isCurrent)
  }

  const tell = () => {
    for (const listener of listeners) listener()
  }

  /** Another list, or an older state of it: nothing that is remembered counts. */
  function startOver(newEpoch: string): void {
    entries.clear()
    log = []
    applied = 0
    generation++
    epoch = newEpoch
    lease = undefined
    if (options.outside === undefined) return
    standing = 'unchecked'
    comparing = undefined
    comparedAt = Number.NEGATIVE_INFINITY
  }

  /** A list that comes into sight is compared with the sink before anybody is answered from it, or from its database. */
  function compare(outside: Outside): Promise<void> {
    if (comparing !== undefined) return comparing
    const began = generation
    const work = outside
      .missing()
      .then((missing) => {
        if (began !== generation) return
        if (missing !== undefined && standing !== 'behind') options.onBehind?.(missing)
        standing = missing === undefined ? 'sound' : 'behind'
        problem = undefined
      })
      .catch((error: Error) => {
        if (error instanceof SinkProblem) problem = error.message
        options.onError(error)
      })
      .finally(() => {
        if (began !== generation) return
        comparing = undefined
        comparedAt = performance.now()
        if (standing === 'sound') wake()
      })
    comparing = work
    return work
  }

  /** Into a sink that belongs to this database, and no other: one that lacks its past would look whole afterwards. */
  const sendRest = () => {
    if (standing === 'sound') options.outside?.sendRest()
  }

  const compareInTime = () => {
    if (standing === 'sound' || options.outside === undefined) return
    if (performance.now() - comparedAt > COMPARE_AGAIN_MS) void compare(options.outside)
  }

  /** Asks, outside of the renewals, whether the database is the one that it was. */
  async function confirm(): Promise<void> {
    const late = Promise.withResolvers<undefined>()
    const timer = setTimeout(late.resolve, MOST_CONFIRMING_MS) // a database that hangs says nothing
    const asked = reading(store.readStanding(db, opened.dedicate !== undefined))
    const found = await Promise.race([asked, late.promise]).finally(() => clearTimeout(timer))
    asked.catch(() => undefined)
    if (found?.epoch !== epoch || found === undefined || found.head < applied) throw new AppError('unavailable')
    confirmedAt = performance.now()
  }

  async function refuse(): Promise<void> {
    if (standing === 'sound') return
    throw new AppError('unavailable', { detail: standing === 'behind' ? BEHIND : (problem ?? NOT_COMPARED) })
  }

  function requireSound(): Promise<void> | undefined {
    if (standing !== 'sound')
      return following || options.outside === undefined ? refuse() : compare(options.outside).then(refuse)
    if (!isDoubtful || performance.now() - confirmedAt < CONFIRMED_FOR_MS) return undefined
    confirming ??= confirm().finally(() => {
      confirming = undefined
    })
    return confirming
  }

  function forgetExpired(databaseMs: number): void {
    if (performance.now() - forgottenAt < FORGET_EXPIRED_EVERY_MS) return
    forgottenAt = performance.now()
    for (const [subject, { expiresAt }] of entries) if (expiresAt < databaseMs) entries.delete(subject)
  }

  function onLost(error: Error): void {
    if (closed) return
    isDoubtful = true
    options.onError(error)
  }

  /** @returns true when there is more to read, or to report */
  async function renewOnce(): Promise<boolean> {
    if (opened.dedicate === undefined) return false
    connection ??= await opened.dedicate({ channel: store.CHANNEL, onNotification: wake, onLost })
    const asked = { askedMonotonicMs: performance.now(), askedWallMs: Date.now() }
    const [page] = await connection.run(store.renewal(processId, applied))
    if (page === undefined) throw new Error('the revocation list has no row of its own')
    try {
      apply(page)
    } catch (error) {
      if (!(error instanceof AnotherList)) throw error
      startOver(error.epoch)
      return true
    }
    isDoubtful = false
    compareInTime()
    if (page.unsent) sendRest()
    if (!page.held) {
      lease = undefined // nobody waits for this process
      await connection.run(store.registration(processId, applied))
      return true
    }
    // A page that is full may not be the last one.
    if (page.entries.length < store.ENTRIES_A_READING && standing === 'sound')
      lease = { ...asked, databaseMs: page.now_ms, wholeAsOfMs: page.asked_ms }
    forgetExpired(page.now_ms)
    tell()
    return page.entries.length > 0
  }

  async function renew(): Promise<void> {
    clearTimeout(timer)
    try {
      do wokenMeanwhile = false
      while (((await renewOnce()) || wokenMeanwhile) && !closed)
    } catch (error) {
      connection?.close()
      connection = undefined
      isDoubtful = true
      options.onError(error instanceof Error ? error : new Error(String(error)))
    } finally {
      renewing = undefined
      if (!closed && following) timer = setTimeout(wake, RENEW_EVERY_MS)
    }
  }

  function wake(): void {
    if (closed || !following) return
    if (renewing === undefined) renewing = renew()
    else wokenMeanwhile = true
  }

  /** One process alone reads its own changes at once, before any of them is answered. */
  async function readOwn(): Promise<void> {
    if (!following) return
    for (;;) {
      const { rows } = await reading(store.renewal(undefined, applied).execute(db))
      const [page] = rows
      if (page === undefined) return
      try {
        apply(page)
      } catch (error) {
        if (!(error instanceof AnotherList)) throw error
        startOver(error.epoch)
        continue
      }
      if (standing !== 'sound' && options.outside !== undefined) await compare(options.outside)
      if (page.unsent) sendRest()
      forgetExpired(page.now_ms)
      if (page.entries.length < store.ENTRIES_A_READING) return tell()
    }
  }

  /** What a renewal does besides, where there is none. */
  function beatAlone(): void {
    compareInTime()
    if (performance.now() - restSentAt > SEND_REST_ALONE_MS) {
      restSentAt = performance.now()
      sendRest()
    }
    tell()
  }

  async function known(seq: number): Promise<void> {
    if (seq === 0) return
    if (opened.dedicate === undefined) return readOwn()
    const until = performance.now() + LONGEST_WAIT_MS
    wake()
    const firstSeen = new Map<string, Seen>()
    for (let pause = FIRST_LOOK_MS; ; pause = Math.min(pause * 2, RARELY_LOOK_MS)) {
      const ended = Promise.withResolvers<undefined>()
      // A database that hangs holds nobody up; the last look has its time, too.
      const timer = setTimeout(ended.resolve, Math.max(until - performance.now(), LAST_LOOK_MS))
      const behind = await Promise.race([store.listBehind(db, seq).catch(() => undefined), ended.promise])
      clearTimeout(timer)
      if (behind?.length === 0) return
      for (const { process_id, renewals } of behind ?? [])
        if (!firstSeen.has(process_id)) firstSeen.set(process_id, { renewals, atMs: performance.now() })
      const left = until - performance.now()
      if (left <= 0) return dropSilent(behind ?? [], firstSeen)
      await new Promise((resolve) => setTimeout(resolve, Math.min(pause, left)))
    }
  }

  /**
   * Processes that were killed, or hang: the next revocation does not wait for them. Only a lease that has not been
   * renewed for as long as it is good has certainly run out.
   */
  async function dropSilent(behind: readonly store.LeaseBehind[], firstSeen: Map<string, Seen>): Promise<void> {
    for (const row of behind) {
      const seen = firstSeen.get(row.process_id)
      const isOver = seen?.renewals === row.renewals && performance.now() - seen.atMs > LEASE_MS
      if (isOver) await store.dropLease(db, row).catch(() => undefined)
    }
  }

  const isLive = () => {
    if (opened.dedicate === undefined) return following && standing === 'sound'
    if (lease === undefined) return false
    const age = Math.max(performance.now() - lease.askedMonotonicMs, Date.now() - lease.askedWallMs)
    return age < LEASE_MS
  }

  return {
    async change(work, { despiteTrouble = false } = {}) {
      if (!despiteTrouble) await requireSound()
      const { result, written } = await transact(db, async (trx) => {
        const changes: store.RevocationChange[] = []
        const result = await work(trx, (change) => void changes.push(change))
        return { result, written: changes.length === 0 ? [] : await store.append(trx, changes) }
      })
      await Promise.all([known(written.at(-1)?.seq ?? 0), options.outside?.send(written)])
      return result
    },
    everyoneKnows: async (subject) => known(await reading(store.findSeq(db, subject))),
    isLive,
    seq: () => applied,
    generation: () => generation,
    entry: (subject) => entries.get(subject),
    now() {
      return lease === undefined ? Date.now() : lease.databaseMs + (performance.now() - lease.askedMonotonicMs)
    },
    since,
    epoch: () => epoch,
    completeAsOf() {
      if (!isLive()) return undefined
      return opened.dedicate === undefined ? Date.now() : lease?.wholeAsOfMs
    },
    subscribe(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    requireSound,
    trouble() {
      if (standing === 'sound') return undefined
      return standing === 'behind' ? 'restore-check' : 'sink'
    },
    async start() {
      following = true
      if (opened.dedicate === undefined) {
        beat = setInterval(beatAlone, RENEW_EVERY_MS).unref()
        return readOwn()
      }
      wake()
      await renewing
      await comparing
      await renewing
    },
    async close() {
      closed = true
      clearTimeout(timer)
      clearInterval(beat)
      await renewing
      connection?.close()
      lease = undefined
      await options.outside?.close()
      if (following && opened.dedicate !== undefined) await store.giveUpLease(db, processId).catch(() => undefined)
      following = false
    },
  }
}

const BEHIND =
  'The database lacks what its sink knows to be revoked: it was restored from a backup. Run latchkey restore-check.'
const NOT_COMPARED =
  'The database has not been compared with its sink yet, which may know of revocations that it lacks: see LATCHKEY_SINK.'

/** What is read is not the list that was read before. */
class AnotherList extends Error {
  readonly epoch: string

  constructor(epoch: string) {
    super('another revocation list')
    this.epoch = epoch
  }
}

/**
 * The last resort, after a key was compromised: every JWT issued up to now is refused. Refresh tokens and workspace tokens
 * stay: clients get new JWTs with them.
 */
export function refuseEverythingSoFar(
  revocations: RevocationList,
  by: { actor: Actor; request: RequestInfo },
): Promise<{ refused: string }> {
  return revocations.change(async (trx, revoke) => {
    await record(trx, { event: 'access_tokens.all_refused', status: 'pass', ...by })
    revoke({ subject: 'everything', notBeforeNow: true })
    return { refused: 'every access token issued so far' }
  })
}

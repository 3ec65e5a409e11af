// Whether an audit log is whole: each chain gapless and linked, each record as it was when it was sealed, and what was
// signed at the time still true. Reads a database, or an exported file, a page at a time.

import { type Db, reading } from '../store/database.ts'
import { hashOf } from './chain.ts'
import { type CheckpointDeps, checkpointOf, lastOf, readCheckpoints } from './checkpoints.ts'
import { type AuditRecord, type ChainEntry, chainOf, GENESIS, isExact } from './rules.ts'
import * as store from './store.ts'

const PAGE = 1_000
/** Longer than that nothing waits while a server runs. */
const LATE_SECONDS = 10

export type FaultKind =
  | 'record_missing'
  | 'record_changed'
  | 'entry_missing'
  | 'entry_changed'
  | 'record_not_sealed'
  | 'cut_off'
  | 'rewritten'

/** The first thing that is wrong with a chain. */
export interface AuditFault {
  kind: FaultKind
  chain: string
  seq?: number
  record_id?: string
  /** For people. */
  says: string
}

export interface ChainReport {
  chain: string
  records: number
  /** Of the last entry; null for an empty chain. */
  head: string | null
  checkpoints: number
  /** Recorded, and not sealed yet. */
  waiting: number
  fault: AuditFault | null
}

export interface AuditReport {
  ok: boolean
  records: number
  chains: ChainReport[]
  /** What is no tampering, and worth a look. */
  notes: string[]
}

/** A place in a chain with what stands there. */
export type Sealed = ChainEntry & { record: AuditRecord | null; event_id?: string; is_inexact?: boolean }

/** Follows one chain from a known place. */
export interface ChainFollower {
  /** @returns the fault, from which on nothing is worth looking at */
  follow(entry: Sealed): AuditFault | undefined
  report(waiting: number): ChainReport
}

/**
 * @param checkpoints hashes that were signed, by seq
 * @param from where the chain begins: a file's is a later place
 * @param archivedTo records up to this entry may be in archives, which are verified by themselves
 */
export function createChainFollower(
  chain: string,
  checkpoints: ReadonlyMap<number, string>,
  from: { seq: number; previous: string } = { seq: 1, previous: GENESIS },
  archivedTo = 0,
): ChainFollower {
  let next = from
  let records = 0
  let checked = 0
  let fault: AuditFault | undefined

  function judge(entry: Sealed): AuditFault | undefined {
    const { seq, previous, hash, record } = entry
    const id = record?.id ?? entry.event_id
    const at = (kind: FaultKind, says: string): AuditFault => {
      return { kind, chain, seq, ...(id === undefined ? {} : { record_id: id }), says }
    }
    if (seq !== next.seq) return at('entry_missing', `${chain} has no entry ${next.seq}: the next one is ${seq}.`)
    if (record === null && seq > archivedTo) return at('record_missing', `The record of entry ${seq} is gone.`)
    if (record !== null && !isItself(entry, record))
      return at('record_changed', `Entry ${seq} is not what was sealed: the record, or its entry, was changed.`)
    if (previous !== next.previous) return at('entry_changed', `Entry ${seq} does not follow the entry before it.`)
    const signed = checkpoints.get(seq)
    if (signed !== undefined && signed !== hash)
      return at('rewritten', `Entry ${seq} is not the one that a signed checkpoint names: the chain was rewritten.`)
    if (signed !== undefined) checked++
    return undefined
  }

  function isItself(entry: Sealed, record: AuditRecord): boolean {
    const { seq, previous, hash } = entry
    const isOfChain = entry.is_inexact !== true && isExact(record.detail) && chainOf(record) === chain
    return isOfChain && hashOf({ chain, seq, previous }, record) === hash
  }

  return {
    follow(entry) {
      fault ??= judge(entry)
      if (fault !== undefined) return fault
      records++
      next = { seq: entry.seq + 1, previous: entry.hash }
      return undefined
    },
    report(waiting) {
      const last = lastOf(checkpoints)
      if (fault === undefined && last >= next.seq) {
        const says = `A signed checkpoint names entry ${last}, and the chain ends with ${next.seq - 1}: it was cut off.`
        fault = { kind: 'cut_off', chain, seq: next.seq, says }
      }
      const head = records === 0 ? null : next.previous
      return { chain, records, head, checkpoints: checked, waiting, fault: fault ?? null }
    },
  }
}

/** Verifies a live database. @param onProgress hears how many records were looked at */
export async function verifyDatabase(
  deps: CheckpointDeps,
  onProgress: (records: number) => void,
): Promise<AuditReport> {
  const { db } = deps
  const { checkpoints, notes } = await readCheckpoints(deps)
  const waiting = new Map((await reading(store.listWaiting(db))).map((row) => [row.chain, row]))
  const late = [...waiting.values()].filter(({ oldest_seconds }) => oldest_seconds > LATE_SECONDS)
  for (const { chain, count, oldest_seconds } of late)
    notes.push(
      `${count} records of ${chain} wait to be sealed, the oldest for ${Math.round(oldest_seconds)} s: is a server running?`,
    )
  const archives = await readArchives(deps, notes)
  const chains: ChainReport[] = []
  let records = 0
  for (const chain of new Set([...(await reading(store.listChains(db))), ...checkpoints.keys()])) {
    const archived = archives.get(chain)
    const signed = new Map([...(checkpoints.get(chain) ?? []), ...(archived?.hashes ?? [])])
    const follower = createChainFollower(chain, signed, undefined, archived?.to)
    const before = records
    await followChain(db, chain, follower, 0, (read) => {
      records = before + read
      onProgress(records)
    })
    chains.push(follower.report(waiting.get(chain)?.count ?? 0))
  }
  for (const record of await reading(store.listUnsealed(db, PAGE))) {
    const report = reportOf(chains, chainOf(record))
    report.fault ??= {
      kind: 'record_not_sealed',
      chain: report.chain,
      record_id: record.id,
      says: `Record ${record.id} is in no chain, and does not wait for one: it was put there, or its entry was taken away.`,
    }
  }
  return { ok: chains.every(({ fault }) => fault === null), records, chains, notes }
}

/** Reads a chain, a page at a time, until its end or its first fault. @param onProgress hears how much was read */
async function followChain(
  db: Db,
  chain: string,
  follower: ChainFollower,
  after: number,
  onProgress: (read: number) => void = () => {},
): Promise<void> {
  let read = 0
  for (let last = after; ; ) {
    const page = await reading(store.listSealed(db, chain, last, PAGE))
    const fault = page.map((entry) => follower.follow(entry)).find((found) => found !== undefined)
    read += page.length
    onProgress(read)
    last = page.at(-1)?.seq ?? last
    if (fault !== undefined || page.length < PAGE) return
  }
}

/**
 * Verifies the last entries of one chain, with the signed heads that the database keeps: what can be done while somebody
 * waits. Only `verifyDatabase` compares with the sink.
 */
export async function verifyRecent(
  deps: Pick<CheckpointDeps, 'db' | 'signer'>,
  chain: string,
  most: number,
): Promise<ChainReport & { from: number }> {
  const { db, signer } = deps
  const head = await reading(store.findHead(db, chain))
  const from = Math.max(1, (head?.seq ?? 0) - most + 1)
  const [before] = from === 1 ? [] : await reading(store.listSealed(db, chain, from - 2, 1))
  const checkpoints = new Map<number, string>()
  for (const jws of await reading(store.listCheckpointsFrom(db, chain, from))) {
    const found = checkpointOf(await signer.open(jws))
    if (found?.chain === chain) checkpoints.set(found.seq, found.hash)
  }
  const archived = (await readArchives(deps, [])).get(chain)
  const begin = { seq: from, previous: before?.hash ?? GENESIS }
  const follower = createChainFollower(chain, checkpoints, begin, archived?.to)
  await followChain(db, chain, follower, from - 1)
  return { ...follower.report(0), from }
}

interface Archived {
  to: number
  /** Last hashes of archives, by seq: signed as well. */
  hashes: Map<number, string>
}

/** Archives that follow each other from the first entry on, and are signed: what they hold may be gone from here. */
async function readArchives(
  { db, signer }: Pick<CheckpointDeps, 'db' | 'signer'>,
  notes: string[],
): Promise<Map<string, Archived>> {
  const found = new Map<string, Archived>()
  for (const { chain, from_seq, jws } of await reading(store.listArchives(db))) {
    const payload = await signer.openDocument('latchkey-archive', jws)
    const said = (payload as { archive?: SignedArchive } | undefined)?.archive // ours, by its signature
    const known = found.get(chain) ?? { to: 0, hashes: new Map() }
    if (said?.chain !== chain || said.from_seq !== from_seq || from_seq !== known.to + 1) {
      notes.push(`An archive of ${chain} from entry ${from_seq} on is not signed, or follows none: it does not count.`)
      continue
    }
    found.set(chain, { to: said.to_seq, hashes: known.hashes.set(said.to_seq, said.hash) })
  }
  for (const [chain, { to }] of found)
    notes.push(`Entries of ${chain} up to ${to} are in archives: verify their files.`)
  return found
}

interface SignedArchive {
  chain: string
  from_seq: number
  to_seq: number
  hash: string
}

function reportOf(chains: ChainReport[], chain: string): ChainReport {
  const known = chains.find((report) => report.chain === chain)
  if (known !== undefined) return known
  const report: ChainReport = { chain, records: 0, head: null, checkpoints: 0, waiting: 0, fault: null }
  chains.push(report)
  return report
}

// Whether an audit log is whole: each chain gapless and linked, each record as it was when it was sealed, and what was
// signed at the time still true. Reads a database, or an exported file, a page at a time.

import { type Db, reading } from '../store/database.ts'
import { type Archived, readArchives } from './archives.ts'
import { hashOf } from './chain.ts'
import { addSigned, type CheckpointDeps, lastOf, openNoted, readCheckpoints } from './checkpoints.ts'
import {
  type Archive,
  type AuditRecord,
  type ChainEntry,
  chainOf,
  GENESIS,
  isExact,
  type NotedCheckpoint,
} from './rules.ts'
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
  | 'checkpoint_forged'
  | 'archive_forged'

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
    if (record !== null && !isUnchanged(entry, record))
      return at('record_changed', `Entry ${seq} is not what was sealed: the record, or its entry, was changed.`)
    if (previous !== next.previous) return at('entry_changed', `Entry ${seq} does not follow the entry before it.`)
    const signed = checkpoints.get(seq)
    if (signed !== undefined && signed !== hash)
      return at('rewritten', `Entry ${seq} is not the one that was signed for its place: the chain was rewritten.`)
    if (signed !== undefined) checked++
    return undefined
  }

  function isItself(entry: Sealed, record: AuditRecord): boolean {
    const { seq, previous, hash } = entry
    const isOfChain = entry.is_inexact !== true && isExact(record.detail) && chainOf(record) === chain
    return isOfChain && hashOf({ chain, seq, previous }, record) === hash
  }

  /** Nobody recorded what is nested too deep to be hashed. */
  function isUnchanged(entry: Sealed, record: AuditRecord): boolean {
    try {
      return isItself(entry, record)
    } catch (error) {
      if (error instanceof RangeError) return false
      throw error
    }
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
  const { checkpoints, notes, forged } = await readCheckpoints(deps)
  const waiting = new Map((await reading(store.listWaiting(db))).map((row) => [row.chain, row]))
  const late = [...waiting.values()].filter(({ oldest_seconds }) => oldest_seconds > LATE_SECONDS)
  for (const { chain, count, oldest_seconds } of late)
    notes.push(
      `${count} records of ${chain} wait to be sealed, the oldest for ${Math.round(oldest_seconds)} s: is a server running?`,
    )
  const archives = await readArchives(deps)
  for (const [chain, { to }] of archives.archived)
    notes.push(`Entries of ${chain} up to ${to} are in archives: verify their files.`)
  const chains: ChainReport[] = []
  let records = 0
  for (const chain of new Set([...(await reading(store.listChains(db))), ...checkpoints.keys()])) {
    const before = records
    const known = { checkpoints: checkpoints.get(chain) ?? new Map(), archived: archives.archived.get(chain) }
    const report = await verifyChain(deps, chain, known, (read) => {
      records = before + read
      onProgress(records)
    })
    chains.push({ ...report, waiting: waiting.get(chain)?.count ?? 0 })
  }
  const besides = [...(await straysOf(db)), ...forged.map(forgedCheckpoint), ...archives.forged.map(forgedArchive)]
  for (const fault of besides) reportOf(chains, fault.chain).fault ??= fault
  return { ok: chains.every(({ fault }) => fault === null), records, chains, notes }
}

/** What is wrong with records that are in no chain. */
async function straysOf(db: Db): Promise<AuditFault[]> {
  const lost = (await reading(store.listLost(db))).map(({ is_inexact, ...stray }): AuditFault => {
    const waits = `Record ${stray.record_id} waits to be sealed, and`
    return is_inexact
      ? { ...stray, kind: 'record_not_sealed', says: `${waits} never can be: its detail is none that is recorded.` }
      : { ...stray, kind: 'record_missing', says: `${waits} is not there as it was recorded.` }
  })
  const unsealed = (await reading(store.listUnsealed(db))).map((stray): AuditFault => {
    const says = `Record ${stray.record_id} is in no chain, and does not wait for one: it was put there, or its entry was taken away.`
    return { ...stray, kind: 'record_not_sealed', says }
  })
  return [...lost, ...unsealed]
}

function forgedCheckpoint({ chain, seq }: NotedCheckpoint): AuditFault {
  const says = `What the database holds as the checkpoint of entry ${seq} of ${chain} is signed for another place, or with no key that is known here.`
  return { kind: 'checkpoint_forged', chain, seq: Number(seq), says }
}

function forgedArchive({ chain, from_seq, to_seq, file_name }: Archive): AuditFault {
  const says = `What the database holds as the archive ${file_name} of entries ${from_seq} to ${to_seq} of ${chain} is signed as another, with no key that is known here, or follows none.`
  return { kind: 'archive_forged', chain, seq: from_seq, says }
}

/** What a chain is judged by. */
interface Known {
  checkpoints: ReadonlyMap<number, string>
  archived: Archived | undefined
  /** Where to begin, if not with the first entry. */
  from?: { seq: number; previous: string }
}

/** Follows a chain to its end or its first fault. @param onProgress hears how much was read */
async function verifyChain(
  deps: Pick<CheckpointDeps, 'db' | 'signer'>,
  chain: string,
  known: Known,
  onProgress: (read: number) => void = () => {},
): Promise<ChainReport> {
  const report = await followChain(deps.db, chain, known, onProgress)
  if (report.fault?.kind !== 'record_missing') return report
  // A month may have been archived and dropped since the archives were read.
  const archived = (await readArchives(deps, chain)).archived.get(chain)
  if (archived === undefined || archived.to <= (known.archived?.to ?? 0)) return report
  return followChain(deps.db, chain, { ...known, archived }, onProgress)
}

/** A page at a time. */
async function followChain(
  db: Db,
  chain: string,
  { checkpoints, archived, from }: Known,
  onProgress: (read: number) => void,
): Promise<ChainReport> {
  const follower = createChainFollower(chain, withArchives(checkpoints, archived), from, archived?.to)
  let read = 0
  for (let last = (from?.seq ?? 1) - 1; ; ) {
    const page = await reading(store.listSealed(db, chain, last, PAGE))
    const fault = page.map((entry) => follower.follow(entry)).find((found) => found !== undefined)
    read += page.length
    onProgress(read)
    last = page.at(-1)?.seq ?? last
    if (fault !== undefined || page.length < PAGE) return follower.report(0)
  }
}

function withArchives(checkpoints: ReadonlyMap<number, string>, archived: Archived | undefined): Map<number, string> {
  const signed = new Map(checkpoints)
  for (const [seq, hash] of archived?.hashes ?? []) addSigned(signed, seq, hash)
  return signed
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
  const faults: AuditFault[] = []
  for (const row of await reading(store.listCheckpointsFrom(db, chain, from))) {
    const found = await openNoted(signer, row)
    if (found === undefined) faults.push(forgedCheckpoint(row))
    else checkpoints.set(found.seq, found.hash)
  }
  const archives = await readArchives(deps, chain)
  faults.push(...archives.forged.map(forgedArchive))
  const begin = { seq: from, previous: before?.hash ?? GENESIS }
  const known = { checkpoints, archived: archives.archived.get(chain), from: begin }
  const report = await verifyChain(deps, chain, known)
  return { ...report, fault: report.fault ?? faults[0] ?? null, from }
}

function reportOf(chains: ChainReport[], chain: string): ChainReport {
  const known = chains.find((report) => report.chain === chain)
  if (known !== undefined) return known
  const report: ChainReport = { chain, records: 0, head: null, checkpoints: 0, waiting: 0, fault: null }
  chains.push(report)
  return report
}

// Whether an audit log is whole: each chain gapless and linked, each record as it was when it was sealed, and what was
// signed at the time still true. Reads a database, or an exported file, a page at a time.

import { reading } from '../store/database.ts'
import { hashOf } from './chain.ts'
import { type CheckpointDeps, lastOf, readCheckpoints } from './checkpoints.ts'
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

/** @param checkpoints hashes that were signed, by seq; @param from where the chain begins: an archive's is a later place */
export function createChainFollower(
  chain: string,
  checkpoints: ReadonlyMap<number, string>,
  from: { seq: number; previous: string } = { seq: 1, previous: GENESIS },
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
    if (record === null) return at('record_missing', `The record of entry ${seq} is gone.`)
    const isItself =
      entry.is_inexact !== true &&
      isExact(record.detail) &&
      chainOf(record) === chain &&
      hashOf({ chain, seq, previous }, record) === hash
    if (!isItself)
      return at('record_changed', `Entry ${seq} is not what was sealed: the record, or its entry, was changed.`)
    if (previous !== next.previous) return at('entry_changed', `Entry ${seq} does not follow the entry before it.`)
    const signed = checkpoints.get(seq)
    if (signed !== undefined && signed !== hash)
      return at('rewritten', `Entry ${seq} is not the one that a signed checkpoint names: the chain was rewritten.`)
    if (signed !== undefined) checked++
    return undefined
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
  const chains: ChainReport[] = []
  let records = 0
  for (const chain of new Set([...(await reading(store.listChains(db))), ...checkpoints.keys()])) {
    const follower = createChainFollower(chain, checkpoints.get(chain) ?? new Map())
    for (let after = 0; ; ) {
      const page = await reading(store.listSealed(db, chain, after, PAGE))
      const fault = page.map((entry) => follower.follow(entry)).find((found) => found !== undefined)
      records += page.length
      onProgress(records)
      after = page.at(-1)?.seq ?? after
      if (fault !== undefined || page.length < PAGE) break
    }
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

function reportOf(chains: ChainReport[], chain: string): ChainReport {
  const known = chains.find((report) => report.chain === chain)
  if (known !== undefined) return known
  const report: ChainReport = { chain, records: 0, head: null, checkpoints: 0, waiting: 0, fault: null }
  chains.push(report)
  return report
}

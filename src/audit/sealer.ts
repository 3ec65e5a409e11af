// Seals the audit log: what transactions recorded is put into its organization's chain a moment later, by whichever process
// comes first. Sealing in those transactions would make every one of an organization wait for the one before it.

import { AppError } from '../errors.ts'
import { type Db, reading, transact } from '../store/database.ts'
import { hashOf } from './chain.ts'
import { type CheckpointDeps, type SignedHead, writeCheckpoints } from './checkpoints.ts'
import { type AuditRecord, type ChainEntry, GENESIS } from './rules.ts'
import * as store from './store.ts'

const SEAL_EVERY_MS = 250
const CHECKPOINT_EVERY_MS = 60_000
const BATCH = 500

export interface Sealer {
  /** Seals what there is. @returns how many */
  seal(): Promise<number>
  /** Signs the heads that have grown since the last time. */
  checkpoint(): Promise<void>
  start(): void
  /** Waits for what is under way, and seals the rest. */
  close(): Promise<void>
}

export interface SealerDeps extends CheckpointDeps {
  /** While the database may not be the one that it was, its chains do not grow. */
  isHeldBack?: () => boolean
  onError: (error: Error) => void
}

export function createSealer({ onError, isHeldBack = () => false, ...deps }: SealerDeps): Sealer {
  const { db } = deps
  let timer: NodeJS.Timeout | undefined
  let checkedAt = performance.now()
  let running: Promise<void> | undefined
  let checking: Promise<void> | undefined
  let closed = false
  const signedHeads = new Map<string, SignedHead>()

  /** A batch of each chain in turn: one with much to seal holds up no other. */
  async function seal(): Promise<number> {
    let sealed = 0
    for (let chains = await reading(store.listPendingChains(db)); chains.length > 0; ) {
      const unfinished: string[] = []
      for (const chain of chains) {
        try {
          const batch = await sealBatch(db, chain)
          sealed += batch.sealed
          if (batch.isFull) unfinished.push(chain)
        } catch (error) {
          report(error) // the other organizations' go on
        }
      }
      chains = unfinished
    }
    return sealed
  }

  const report = (error: unknown) => onError(error instanceof Error ? error : new Error(String(error)))

  /** Sealing waits for no sink. */
  function checkpointInTime(): void {
    if (checking !== undefined || performance.now() - checkedAt < CHECKPOINT_EVERY_MS) return
    checkedAt = performance.now()
    checking = writeCheckpoints(deps, signedHeads)
      .catch(report)
      .finally(() => {
        checking = undefined
      })
  }

  async function round(): Promise<void> {
    if (isHeldBack()) return
    await seal().catch(report)
    checkpointInTime()
  }

  function next(): void {
    if (closed) return
    timer = setTimeout(() => {
      running = round().finally(next)
    }, SEAL_EVERY_MS)
    timer.unref()
  }

  return {
    seal,
    checkpoint: () => writeCheckpoints(deps),
    start: next,
    async close() {
      closed = true
      clearTimeout(timer)
      await running
      if (!isHeldBack()) await seal().catch(report)
    },
  }
}

const SEALED_WITHIN_MS = 5_000
const BETWEEN_LOOKS_MS = 50

/**
 * Waits until what a chain holds by now is sealed, by this process or another.
 *
 * @throws {AppError} `unavailable` when that takes too long
 */
export async function sealNow(db: Db, chain: string): Promise<void> {
  const newest = await reading(store.findNewestPending(db, chain))
  if (newest === undefined) return
  const until = performance.now() + SEALED_WITHIN_MS
  do {
    while ((await sealBatch(db, chain)).isFull) {} // one after the other
    if (!(await reading(store.isPending(db, newest)))) return
    await new Promise((resolve) => setTimeout(resolve, BETWEEN_LOOKS_MS))
  } while (performance.now() < until)
  throw new AppError('unavailable', { detail: 'Records wait to be sealed. Try again in a moment.' })
}

interface Batch {
  sealed: number
  /** There may be more. */
  isFull: boolean
}

/** Nothing while another process is at it. */
async function sealBatch(db: Db, chain: string): Promise<Batch> {
  return transact(db, async (trx) => {
    if (!(await store.tryLockChain(trx, chain))) return { sealed: 0, isFull: false }
    const head = await store.findHead(trx, chain)
    const pending = await store.listPending(trx, chain, BATCH)
    const sealed: Array<ChainEntry & { record: AuditRecord }> = []
    let place = { chain, seq: (head?.seq ?? 0) + 1, previous: head?.hash ?? GENESIS }
    for (const { record } of pending) {
      if (record === null) continue
      const hash = hashOf(place, record)
      sealed.push({ ...place, hash, record })
      place = { chain, seq: place.seq + 1, previous: hash }
    }
    if (sealed.length > 0) await store.seal(trx, sealed)
    const again = pending.filter(({ is_sealed }) => is_sealed).map(({ event_id }) => event_id)
    if (again.length > 0) await store.forgetPending(trx, again)
    return { sealed: sealed.length, isFull: pending.length === BATCH }
  })
}

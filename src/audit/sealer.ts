// Seals the audit log: what transactions recorded is put into its organization's chain a moment later, by whichever process
// comes first. Sealing in those transactions would make every one of an organization wait for the one before it.

import type { Sink } from '../sink/service.ts'
import type { SinkSigner } from '../sink/signing.ts'
import { type Db, reading, transact } from '../store/database.ts'
import { hashOf } from './chain.ts'
import { type ChainEntry, GENESIS } from './rules.ts'
import * as store from './store.ts'

const SEAL_EVERY_MS = 250
const CHECKPOINT_EVERY_MS = 60_000
const BATCH = 500

/** What a checkpoint says: so many records, and the last one's hash. Signed, in the sink. */
export interface Checkpoint {
  chain: string
  seq: number
  hash: string
  made_at: string
}

export interface Sealer {
  /** Seals what there is. @returns how many */
  seal(): Promise<number>
  /** Signs the heads that have grown since the last time. */
  checkpoint(): Promise<void>
  start(): void
  /** Waits for what is under way, and seals the rest. */
  close(): Promise<void>
}

export interface SealerDeps {
  db: Db
  sink: Sink
  signer: SinkSigner
  onError: (error: Error) => void
}

export function createSealer({ db, sink, signer, onError }: SealerDeps): Sealer {
  let timer: NodeJS.Timeout | undefined
  let checkedAt = performance.now()
  let running: Promise<void> | undefined
  let closed = false

  async function seal(): Promise<number> {
    let sealed = 0
    for (const chain of await reading(store.listPendingChains(db))) {
      for (;;) {
        const count = await sealBatch(db, chain)
        sealed += count
        if (count < BATCH) break
      }
    }
    return sealed
  }

  async function checkpoint(): Promise<void> {
    for (const head of await reading(store.listUncheckedHeads(db))) {
      const payload: Checkpoint = { ...head, made_at: new Date().toISOString() }
      const jws = await signer.sign({ checkpoint: payload })
      await sink.append([JSON.stringify({ checkpoint: head.chain, jws })])
      await store.insertCheckpoint(db, head, jws)
    }
  }

  async function round(): Promise<void> {
    try {
      await seal()
      if (performance.now() - checkedAt < CHECKPOINT_EVERY_MS) return
      checkedAt = performance.now()
      await checkpoint()
    } catch (error) {
      onError(error instanceof Error ? error : new Error(String(error)))
    }
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
    checkpoint,
    start: next,
    async close() {
      closed = true
      clearTimeout(timer)
      await running
    },
  }
}

/** @returns how many; none while another process is at it */
async function sealBatch(db: Db, chain: string): Promise<number> {
  return transact(db, async (trx) => {
    if (!(await store.tryLockChain(trx, chain))) return 0
    const head = await store.findHead(trx, chain)
    const sealed: Array<ChainEntry & { record: Awaited<ReturnType<typeof store.listPending>>[number] }> = []
    let place = { chain, seq: (head?.seq ?? 0) + 1, previous: head?.hash ?? GENESIS }
    for (const record of await store.listPending(trx, chain, BATCH)) {
      const hash = hashOf(place, record)
      sealed.push({ ...place, hash, record })
      place = { chain, seq: place.seq + 1, previous: hash }
    }
    if (sealed.length > 0) await store.seal(trx, sealed)
    return sealed.length
  })
}

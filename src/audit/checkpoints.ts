// Checkpoints: the head of each chain, signed and kept in the sink, outside of the database. Whoever owns the database cannot
// make one, so neither a cut at the end nor a chain that was written anew goes unseen.
import type { Sink } from '../sink/service.ts'
import type { SinkSigner } from '../sink/signing.ts'
import { type Db, reading } from '../store/database.ts'
import { GENESIS } from './rules.ts'
import * as store from './store.ts'

/** So many records, and the last one's hash. Signed, in the sink. */
export interface Checkpoint {
  chain: string
  seq: number
  hash: string
  /** RFC 3339, by the clock of the process that signed it. */
  made_at: string
  /** After a restore the chain goes on from here: what was signed before, of later entries, is known to be lost. */
  restored?: true
}

export interface CheckpointDeps {
  db: Db
  sink: Sink
  signer: SinkSigner
}

/** Signs the heads that have grown since the last time. */
export async function writeCheckpoints({ db, sink, signer }: CheckpointDeps): Promise<void> {
  const heads = await reading(store.listUncheckedHeads(db))
  const lines = await signed(signer, heads)
  if (lines.length === 0) return
  await sink.append(lines.map(({ line }) => line))
  for (const { head, jws } of lines) await store.insertCheckpoint(db, head, jws)
}

/**
 * Signs where each chain goes on that a restore has set back: to be written before anybody is answered again, by an
 * operator's command and nobody else.
 *
 * @returns how many chains were set back
 */
export async function acceptSetBack({ db, sink, signer }: CheckpointDeps): Promise<number> {
  const { checkpoints } = await readCheckpoints({ db, sink, signer })
  const setBack: store.Head[] = []
  for (const [chain, hashes] of checkpoints) {
    const head = (await reading(store.findHead(db, chain))) ?? { seq: 0, hash: GENESIS }
    if (lastOf(hashes) > head.seq) setBack.push({ chain, ...head })
  }
  const lines = await signed(signer, setBack, { restored: true })
  if (lines.length > 0) await sink.append(lines.map(({ line }) => line))
  return lines.length
}

async function signed(signer: SinkSigner, heads: readonly store.Head[], more: { restored?: true } = {}) {
  return Promise.all(
    heads.map(async (head) => {
      const checkpoint: Checkpoint = { ...head, made_at: new Date().toISOString(), ...more }
      const jws = await signer.sign({ checkpoint })
      return { head, jws, line: JSON.stringify({ checkpoint: head.chain, jws }) }
    }),
  )
}

/** What was signed and still counts: hashes by chain and seq; and what is worth saying about the rest. */
export async function readCheckpoints({ db, sink, signer }: CheckpointDeps) {
  const byChain = new Map<string, Checkpoint[]>()
  const notes: string[] = []
  let unsigned = 0
  for await (const line of sink.read(Number.MAX_SAFE_INTEGER)) {
    if (!line.startsWith('{"checkpoint":')) continue
    const found = await checkpointIn(line, signer)
    if (found === undefined) {
      unsigned++
      continue
    }
    const ofChain = byChain.get(found.chain)
    if (ofChain === undefined) byChain.set(found.chain, [found])
    else ofChain.push(found)
  }
  const isKept = ({ chain, seq }: { chain: string; seq: number }) =>
    byChain.get(chain)?.some((kept) => kept.seq === seq && !kept.restored) === true
  const gone = (await reading(store.listLastCheckpoints(db))).filter((last) => !isKept(last))
  if (gone.length > 0)
    notes.push(`The sink lacks the last checkpoint of ${gone.map(({ chain }) => chain).join(', ')}: it is not whole.`)
  if (unsigned > 0) notes.push(`${unsigned} checkpoints in the sink are signed with no key that is known here.`)
  const checkpoints = new Map<string, Map<number, string>>()
  for (const [chain, all] of byChain) {
    const restores = all.filter(({ restored }) => restored)
    const counting = all.filter(({ seq, made_at }) => !restores.some((at) => seq > at.seq && made_at <= at.made_at))
    checkpoints.set(chain, new Map(counting.filter(({ seq }) => seq > 0).map(({ seq, hash }) => [seq, hash])))
    for (const { seq, made_at } of restores)
      notes.push(`${chain} was set back to entry ${seq} by a restore, accepted at ${made_at}: later records are lost.`)
  }
  return { checkpoints, notes }
}

/** The last entry that was signed; 0 for none. */
export function lastOf(hashes: ReadonlyMap<number, string>): number {
  let last = 0
  for (const seq of hashes.keys()) last = Math.max(last, seq)
  return last
}

async function checkpointIn(line: string, signer: SinkSigner): Promise<Checkpoint | undefined> {
  try {
    return checkpointOf(await signer.open(JSON.parse(line).jws))
  } catch {
    return undefined // half a line
  }
}

/** The checkpoint in a payload that was signed by us: it has the shape that we gave it. */
export function checkpointOf(payload: unknown): Checkpoint | undefined {
  return (payload as { checkpoint?: Checkpoint } | undefined)?.checkpoint
}

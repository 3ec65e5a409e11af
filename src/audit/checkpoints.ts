// Checkpoints: the head of each chain, signed and kept in the sink, outside of the database. Whoever owns the database cannot
// make one, so neither a cut at the end nor a chain that was written anew goes unseen.
import type { Sink } from '../sink/service.ts'
import type { SinkSigner } from '../sink/signing.ts'
import { type Db, reading } from '../store/database.ts'
import { GENESIS, type NotedCheckpoint } from './rules.ts'
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

/** A head that was signed; with the signature where it is not noted. */
export interface SignedHead {
  head: store.Head
  jws?: string
}

export interface CheckpointDeps {
  db: Db
  sink: Sink
  signer: SinkSigner
}

/**
 * Signs the heads that have grown since the last time. What is noted of a head counts where it is signed: whoever may add
 * a row cannot keep one from being signed.
 *
 * @param known heads, by chain, that were found to be signed, or were signed here and are not noted yet
 */
export async function writeCheckpoints(
  { db, sink, signer }: CheckpointDeps,
  known = new Map<string, SignedHead>(),
): Promise<void> {
  const heads: store.Head[] = []
  const unnoted: Array<Required<SignedHead>> = []
  for (const { jws, ...head } of await reading(store.listHeads(db))) {
    const last = known.get(head.chain)
    const isKnown = last?.head.seq === head.seq && last.head.hash === head.hash
    if (isKnown && last.jws !== undefined) unnoted.push({ head, jws: last.jws })
    else if (isKnown || (await isSignedHead(signer, head, jws))) known.set(head.chain, { head })
    else heads.push(head)
  }
  const lines = await signed(signer, heads)
  if (lines.length > 0) await sink.append(lines.map(({ line }) => line))
  const failures: unknown[] = []
  for (const { head, jws } of [...unnoted, ...lines]) {
    try {
      await store.insertCheckpoint(db, head, jws)
      known.set(head.chain, { head }) // also where the place of its row is taken
    } catch (error) {
      known.set(head.chain, { head, jws }) // signed once, and noted at the next time; the others' are noted now
      failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
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

async function isSignedHead(signer: SinkSigner, { chain, seq }: store.Head, jws: string | null): Promise<boolean> {
  return jws !== null && (await openNoted(signer, { chain, seq: String(seq), jws })) !== undefined
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

/** What was signed and still counts: hashes by chain and seq; what is worth saying about the rest; and rows that were forged. */
export async function readCheckpoints({ db, sink, signer }: CheckpointDeps) {
  const { written, forged } = await readNoted({ db, signer }) // first: what a server writes meanwhile is not missed in the sink
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
  const isKept = ([chain, seq]: [string, number]) =>
    byChain.get(chain)?.some((kept) => kept.seq === seq && !kept.restored) === true
  const gone = [...written].filter((last) => !isKept(last)).map(([chain]) => chain)
  if (gone.length > 0) notes.push(`The sink lacks the last checkpoint of ${gone.join(', ')}: it is not whole.`)
  if (unsigned > 0) notes.push(`${unsigned} checkpoints in the sink are signed with no key that is known here.`)
  const checkpoints = new Map<string, Map<number, string>>()
  for (const [chain, all] of byChain) {
    const restores = all.filter(({ restored }) => restored)
    const counting = all.filter(({ seq, made_at }) => !restores.some((at) => seq > at.seq && made_at <= at.made_at))
    const hashes = new Map<number, string>()
    for (const { seq, hash } of counting) if (seq > 0) addSigned(hashes, seq, hash)
    checkpoints.set(chain, hashes)
    for (const { seq, made_at } of restores)
      notes.push(`${chain} was set back to entry ${seq} by a restore, accepted at ${made_at}: later records are lost.`)
  }
  return { checkpoints, notes, forged }
}

const PAGE = 1_000

/** What the database holds of checkpoints: by chain the last one that is signed, and the first one that is not. */
async function readNoted({ db, signer }: Omit<CheckpointDeps, 'sink'>) {
  const written = new Map<string, number>()
  const forged = new Map<string, NotedCheckpoint>()
  for (let after: NotedCheckpoint | undefined; ; ) {
    const page = await reading(store.listCheckpointRows(db, after, PAGE))
    for (const row of page) {
      const found = await openNoted(signer, row)
      if (found !== undefined) written.set(row.chain, found.seq)
      else if (!forged.has(row.chain)) forged.set(row.chain, row)
    }
    after = page.at(-1)
    if (page.length < PAGE) return { written, forged: [...forged.values()] }
  }
}

/** The checkpoint that a row tells of; undefined where no key that is known here has signed it for this place. */
export async function openNoted(signer: SinkSigner, row: NotedCheckpoint): Promise<Checkpoint | undefined> {
  const found = checkpointOf(await signer.open(row.jws))
  const isOfPlace = found?.chain === row.chain && String(found.seq) === row.seq
  return isOfPlace && !found.restored ? found : undefined
}

/** No entry has this hash. */
const TWO_HASHES = 'two hashes'

/** Two hashes that were signed for one place: then no entry is right there, for the chain was written anew between them. */
export function addSigned(hashes: Map<number, string>, seq: number, hash: string): void {
  const known = hashes.get(seq) ?? hash
  hashes.set(seq, known === hash ? hash : TWO_HASHES)
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

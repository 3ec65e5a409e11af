// How far chains are in archives, by what was signed of these: a row of the database alone excuses no record that is gone.
import type { SinkSigner } from '../sink/signing.ts'
import { type Executor, reading } from '../store/database.ts'
import type { Archive } from './rules.ts'
import { listArchives } from './store.ts'

export interface Archived {
  to: number
  /** Last hashes of archives, by seq: signed as well. */
  hashes: Map<number, string>
}

export interface ArchivesRead {
  /** By chain: archives that follow each other from the first entry on, and are signed as they stand there. */
  archived: Map<string, Archived>
  /** All others. */
  forged: Archive[]
}

/** @param chain undefined: all of them */
export async function readArchives(
  { db, signer }: { db: Executor; signer: SinkSigner },
  chain?: string,
): Promise<ArchivesRead> {
  const found: ArchivesRead = { archived: new Map(), forged: [] }
  for (const row of await reading(listArchives(db, chain))) {
    const known = found.archived.get(row.chain) ?? { to: 0, hashes: new Map() }
    const hash = await hashSigned(signer, row)
    if (hash === undefined || row.from_seq !== known.to + 1) found.forged.push(row)
    else found.archived.set(row.chain, { to: row.to_seq, hashes: known.hashes.set(row.to_seq, hash) })
  }
  return found
}

interface SignedArchive extends Omit<Archive, 'jws'> {
  hash: string
}

/** The last hash, where each column is as it was signed. */
async function hashSigned(signer: SinkSigner, { jws, ...row }: Archive): Promise<string | undefined> {
  const payload = await signer.openDocument('latchkey-archive', jws)
  const said = (payload as { archive?: SignedArchive } | undefined)?.archive // ours, by its signature
  if (said === undefined) return undefined
  const isSame = said.chain === row.chain && said.from_seq === row.from_seq && said.to_seq === row.to_seq
  return isSame && said.file_name === row.file_name ? said.hash : undefined
}

// A part of the audit log as a file that is verified without the database: JSON lines, a head, checkpoints, entries, and an
// end that is signed over all of it (docs/audit.md).
import { createHash, type Hash } from 'node:crypto'
import { open, rm, writeFile as writeAll } from 'node:fs/promises'
import { AppError } from '../errors.ts'
import type { SinkSigner } from '../sink/signing.ts'
import type { AuditRecord, ChainEntry } from './rules.ts'

/** What was asked for, by the names of a record's members. */
export type FileFilter = Record<string, string | boolean>

export interface FileHead {
  latchkey: 'audit'
  v: 1
  chain: string
  /** Whether it holds every entry from `from` on: else it holds what fits the filter, in the order of time. */
  complete: boolean
  filter: FileFilter | null
  /** Where it begins; null where entries are left out. */
  from: { seq: number; previous: string } | null
  /** RFC 3339, by the clock of the process that wrote it. */
  made_at: string
}

export interface FileEntry extends Pick<ChainEntry, 'seq' | 'previous' | 'hash'> {
  record: AuditRecord
}

export interface FileEnd {
  records: number
  /** The last entry of a complete file; null for an empty one, and where entries are left out. */
  to: { seq: number; hash: string } | null
  /** SHA-256, in hexadecimal, of every byte before the line of the end. */
  sha256: string
}

/** What the signature at the end says. */
export interface FileStatement {
  head: FileHead
  end: FileEnd
}

export interface FileContents {
  head: FileHead
  /** Signed heads of the chain within a complete file: compact JWS, as they are in the sink. */
  checkpoints: readonly string[]
  entries: AsyncIterable<readonly FileEntry[]>
}

/** The file, a page of entries at a time. @param onEnd hears what was written, once it is */
export async function* writeFile(
  signer: SinkSigner,
  { head, entries, checkpoints }: FileContents,
  onEnd: (end: FileEnd) => void = () => {},
): AsyncGenerator<string> {
  const hash = createHash('sha256')
  let records = 0
  let to: FileEnd['to'] = null
  yield counted(hash, [head, ...checkpoints.map((checkpoint) => ({ checkpoint }))].map(line).join(''))
  for await (const page of entries) {
    if (page.length === 0) continue
    records += page.length
    const last = page.at(-1)
    if (head.complete && last !== undefined) to = { seq: last.seq, hash: last.hash }
    yield counted(hash, page.map(({ seq, previous, hash, record }) => line({ seq, previous, hash, record })).join(''))
  }
  const end: FileEnd = { records, to, sha256: hash.digest('hex') }
  const statement: FileStatement = { head, end }
  yield line({ end, jws: await signer.signDocument('latchkey-audit-export', statement) })
  onEnd(end)
}

/**
 * Writes a file where none is, down to the disk. What was begun and failed is taken away.
 *
 * @throws {AppError} `invalid_request` where it cannot be written, or something is there already
 */
export async function saveNew(path: string, text: AsyncIterable<string>): Promise<void> {
  const file = await open(path, 'wx', 0o600).catch((error: unknown) => {
    const detail = `${path} cannot be written: it is there already, or its directory is not.`
    throw new AppError('invalid_request', { detail, cause: error })
  })
  try {
    await writeAll(file, text)
    await file.sync()
  } catch (error) {
    await rm(path, { force: true })
    throw error
  } finally {
    await file.close()
  }
}

const line = (value: object): string => `${JSON.stringify(value)}\n`

function counted(hash: Hash, text: string): string {
  hash.update(text)
  return text
}

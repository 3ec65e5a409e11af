// Whether a file of the audit log is whole and ours, with nothing but the file and the public keys. Reads a line at a time.
import { isUtf8 } from 'node:buffer'
import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import type { JWK } from 'jose'
import { AppError } from '../errors.ts'
import { openSigned } from '../sink/signing.ts'
import { addSigned, checkpointOf } from './checkpoints.ts'
import type { FileEnd, FileEntry, FileHead } from './file.ts'
import { type AuditRecord, GENESIS } from './rules.ts'
import { type AuditFault, createChainFollower, type FaultKind, type Sealed } from './verification.ts'

export type FileFaultKind = FaultKind | 'not_readable' | 'signature_wrong'

export interface FileFault extends Omit<AuditFault, 'kind'> {
  kind: FileFaultKind
  /** From 1. */
  line: number
}

export interface FileReport {
  ok: boolean
  file: string
  chain: string | null
  complete: boolean
  filter: FileHead['filter']
  records: number
  /** The last entry of a complete file. */
  head: { seq: number; hash: string } | null
  /** Signed heads that the entries agree with. */
  checkpoints: number
  /** `unchecked`: no key was given, or the end was not reached. */
  signature: 'good' | 'unchecked' | 'wrong' | 'missing'
  made_at: string | null
  fault: FileFault | null
  notes: string[]
}

interface Line {
  /** Undefined for what is no UTF-8: other bytes must not be read as what was signed. */
  text: string | undefined
  number: number
}

/** More than any line of ours has. */
const MOST_LINE_BYTES = 6_000_000

/**
 * @param keys public keys of the server that wrote it (RFC 7517); none: the signatures are left unchecked, and said so
 * @param onProgress hears how many records were looked at
 * @throws {AppError} `invalid_request` for a file that cannot be read
 */
export async function verifyFile(
  path: string,
  { keys, onProgress }: { keys: readonly JWK[]; onProgress: (records: number) => void },
): Promise<FileReport> {
  const reading = createReading(path, keys)
  try {
    for await (const line of linesOf(path)) {
      const fault = await reading.take(line)
      if (fault !== undefined) break
      onProgress(reading.report.records)
    }
  } catch (error) {
    const isMissing = error instanceof Error && 'code' in error
    throw isMissing ? new AppError('invalid_request', { detail: `${path} cannot be read.`, cause: error }) : error
  }
  onProgress(reading.report.records)
  return reading.finish()
}

/** Bytes decide where a line ends, so that none of it is hidden in another way of ending lines. */
async function* linesOf(path: string): AsyncGenerator<Line> {
  let rest: Buffer = Buffer.alloc(0)
  let number = 0
  for await (const chunk of createReadStream(path, { highWaterMark: 256 * 1024 })) {
    rest = Buffer.concat([rest, chunk])
    let begin = 0
    for (let end = rest.indexOf(LF); end >= 0; end = rest.indexOf(LF, begin)) {
      yield { text: textOf(rest.subarray(begin, end)), number: ++number }
      begin = end + 1
    }
    rest = rest.subarray(begin)
    if (rest.length > MOST_LINE_BYTES) break
  }
  if (rest.length > 0) yield { text: textOf(rest), number: ++number }
}

const LF = 0x0a

const textOf = (bytes: Buffer): string | undefined => (isUtf8(bytes) ? bytes.toString('utf8') : undefined)

interface Reading {
  report: FileReport
  take(line: Line): Promise<FileFault | undefined>
  finish(): FileReport
}

function createReading(file: string, keys: readonly JWK[]): Reading {
  const report: FileReport = {
    ok: false,
    file,
    chain: null,
    complete: false,
    filter: null,
    records: 0,
    head: null,
    checkpoints: 0,
    signature: 'unchecked',
    made_at: null,
    fault: null,
    notes: [],
  }
  const sha256 = createHash('sha256')
  let head: FileHead | undefined
  let follower: EntryFollower | undefined
  let lastLine = 0
  let ended = false
  const checkpoints = new Map<number, string>()

  function fail(kind: FileFaultKind, line: number, more: Partial<AuditFault> & { says: string }): FileFault {
    report.fault = { chain: report.chain ?? '', ...more, kind, line }
    return report.fault
  }

  function begin(text: string, number: number): FileFault | undefined {
    const parsed = parseHead(text)
    if (parsed === undefined)
      return fail('not_readable', number, { says: 'The first line is not the head of a file of the audit log.' })
    head = parsed
    Object.assign(report, { chain: head.chain, complete: head.complete, filter: head.filter, made_at: head.made_at })
    return undefined
  }

  async function takeCheckpoint(jws: string, number: number): Promise<FileFault | undefined> {
    if (follower !== undefined) return fail('not_readable', number, { says: 'A checkpoint stands after the entries.' })
    if (keys.length === 0) return undefined
    const payload = await openSigned(keys, 'latchkey-sink', jws)
    if (payload === undefined) {
      report.notes.push(`The checkpoint in line ${number} is signed with no key that was given.`)
      return undefined
    }
    const checkpoint = checkpointOf(payload)
    if (checkpoint?.chain === report.chain) addSigned(checkpoints, checkpoint.seq, checkpoint.hash)
    return undefined
  }

  /** What follows the entries, from the first one on. */
  function following(from: FileHead['from'], chain: string): EntryFollower {
    follower ??= from === null ? createFilteredFollower(chain) : createChainFollower(chain, checkpoints, from)
    return follower
  }

  function takeEntry(entry: FileEntry, number: number): FileFault | undefined {
    if (head === undefined) return undefined // the first line was one
    const fault = following(head.from, head.chain).follow({ chain: head.chain, ...entry })
    if (fault !== undefined) return fail(fault.kind, number, fault)
    report.records++
    if (head.complete) report.head = { seq: entry.seq, hash: entry.hash }
    return undefined
  }

  async function takeEnd(end: FileEnd, jws: string, number: number, digest: string): Promise<FileFault | undefined> {
    ended = true
    const isAsSaid = end.sha256 === digest && end.records === report.records && sameHead(end.to, report.head)
    if (!isAsSaid) {
      const says = `The end of the file tells of ${end.records} records, and of other contents than these: something was changed, added or taken away.`
      return fail('cut_off', number, { says })
    }
    const { fault, checkpoints: agreeing = 0 } = follower?.report?.(0) ?? {}
    if (fault != null) return fail(fault.kind, number, fault)
    report.checkpoints = agreeing
    if (keys.length === 0) {
      report.signature = 'unchecked'
      return undefined
    }
    const statement = await openSigned(keys, 'latchkey-audit-export', jws)
    if (JSON.stringify(statement) === JSON.stringify({ head, end })) {
      report.signature = 'good'
      return undefined
    }
    report.signature = 'wrong'
    return fail('signature_wrong', number, {
      says: 'The file is signed with no key that was given, or not as it stands.',
    })
  }

  return {
    report,
    async take({ text, number }) {
      lastLine = number
      if (text === undefined) return fail('not_readable', number, { says: `Line ${number} is no UTF-8.` })
      if (number === 1) {
        counted(sha256, text)
        return begin(text, number)
      }
      if (ended) return fail('not_readable', number, { says: 'There is more after the end of the file.' })
      const parsed = parseLine(text)
      if (parsed === undefined)
        return fail('not_readable', number, { says: `Line ${number} is not one that such a file has.` })
      if ('end' in parsed) return takeEnd(parsed.end, parsed.jws, number, sha256.digest('hex'))
      counted(sha256, text)
      return 'checkpoint' in parsed ? takeCheckpoint(parsed.checkpoint, number) : takeEntry(parsed, number)
    },
    finish() {
      if (report.fault === null && !ended) {
        const says = `The file ends after line ${lastLine}, before its signed end: it was cut off, or its writing was.`
        fail('cut_off', lastLine + 1, { says })
        report.signature = 'missing'
      }
      report.ok = report.fault === null
      if (report.ok && report.signature === 'unchecked')
        report.notes.push(
          'The signature was not checked: anybody can have written this. Give the public keys (--keys).',
        )
      return report
    },
  }
}

function counted(hash: Hash, text: string): void {
  hash.update(`${text}\n`)
}

interface EntryFollower {
  follow(entry: Sealed): AuditFault | undefined
  report?(waiting: number): { fault: AuditFault | null; checkpoints: number }
}

/** Entries are left out: each is looked at by itself, and beside the one before it where they are neighbours. */
function createFilteredFollower(chain: string): EntryFollower {
  let before: Sealed | undefined
  let time = ''
  return {
    follow(entry) {
      const from = { seq: entry.seq, previous: before?.seq === entry.seq - 1 ? before.hash : entry.previous }
      const fault = createChainFollower(chain, new Map(), from).follow(entry)
      if (fault !== undefined) return fault
      const place = `${entry.record?.timestamp} ${entry.record?.id}`
      const says = `Entry ${entry.seq} is out of order: in a file with a filter none is earlier than the one before.`
      if (place <= time) return { kind: 'entry_changed', chain, seq: entry.seq, says }
      before = entry
      time = place
      return undefined
    },
  }
}

const sameHead = (one: FileEnd['to'], other: FileReport['head']): boolean =>
  one === null || other === null ? one === other : one.seq === other.seq && one.hash === other.hash

// --- Untrusted text --------------------------------------------------------------------------------------------------

function parseHead(text: string): FileHead | undefined {
  const value = parseObject(text)
  if (!hasExactly(value, ['latchkey', 'v', 'chain', 'made_at', 'complete', 'filter', 'from'])) return undefined
  const { chain, made_at, complete, filter, from } = value
  const isHead = value.latchkey === 'audit' && value.v === 1 && typeof chain === 'string'
  if (!isHead || typeof made_at !== 'string' || typeof complete !== 'boolean') return undefined
  if (complete ? filter !== null : !isFilter(filter)) return undefined
  const begins = complete ? isPlace(from) : from === null
  return begins ? (value as unknown as FileHead) : undefined // each member that is used was looked at
}

/** Nothing beside these: what else stood there, a reader could take for something that was said by us. */
function hasExactly<K extends string>(value: unknown, members: readonly K[]): value is Record<K, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const found = Object.keys(value)
  return found.length === members.length && members.every((member, place) => found[place] === member)
}

function isFilter(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  return Object.values(value).every((member) => typeof member === 'string' || typeof member === 'boolean')
}

function isPlace(value: unknown): boolean {
  if (!hasExactly(value, ['seq', 'previous'])) return false
  const { seq, previous } = value
  return Number.isSafeInteger(seq) && typeof previous === 'string' && (seq !== 1 || previous === GENESIS)
}

function parseLine(text: string): FileEntry | { checkpoint: string } | { end: FileEnd; jws: string } | undefined {
  const value = parseObject(text)
  if (hasExactly(value, ['checkpoint']) && typeof value.checkpoint === 'string') return { checkpoint: value.checkpoint }
  if (hasExactly(value, ['end', 'jws']) && isEnd(value.end) && typeof value.jws === 'string')
    return { end: value.end, jws: value.jws }
  if (!hasExactly(value, ['seq', 'previous', 'hash', 'record'])) return undefined
  const { seq, previous, hash, record } = value
  const isEntry = typeof seq === 'number' && typeof previous === 'string' && typeof hash === 'string'
  if (!isEntry || typeof record !== 'object' || record === null) return undefined
  return { seq, previous, hash, record: record as AuditRecord } // its hash says whether it is one
}

/** What it says is compared with what was read, and with what was signed. */
function isEnd(value: unknown): value is FileEnd {
  return hasExactly(value, ['records', 'to', 'sha256']) && (value.to === null || hasExactly(value.to, ['seq', 'hash']))
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    // As it was written, to the letter: what is read in another way elsewhere is not hidden in it.
    const isPlain = typeof value === 'object' && value !== null && JSON.stringify(value) === text
    return isPlain ? (value as Record<string, unknown>) : undefined
  } catch {
    return undefined
  }
}

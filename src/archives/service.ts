// Retention of the audit log: what is older than a month's beginning goes into files that are verified without the database,
// and a month leaves the database once each of its records is in one. Takes the rights of the tables' owner.
import { randomUUID } from 'node:crypto'
import { link, open, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { readArchives } from '../audit/archives.ts'
import type { CheckpointDeps } from '../audit/checkpoints.ts'
import { type FileEnd, saveNew } from '../audit/file.ts'
import { verifyFile } from '../audit/file-verification.ts'
import { SYSTEM_CHAIN } from '../audit/rules.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { countWaitingBefore } from '../audit/store.ts'
import { type AuditFault, verifyDatabase } from '../audit/verification.ts'
import { AppError } from '../errors.ts'
import { chainFile } from '../evidence/service.ts'
import { type Db, reading, readTime, type Trx, transact } from '../store/database.ts'
import * as store from './store.ts'

export type ArchivesDeps = CheckpointDeps

export interface ArchiveOutcome {
  /** Whether no chain was left out for what is wrong with it. */
  ok: boolean
  archives: Array<{ chain: string; from: number; to: number; records: number; file: string }>
  /** Months that left the database. */
  dropped: string[]
  /** Chains that were left out, and months that stay for now, and why. */
  notes: string[]
}

interface By {
  actor: Actor
  request: RequestInfo
}

interface Asked extends By {
  before: Date
  directory: string
  onProgress?: (records: number) => void
}

/**
 * @param before the first moment of a month: what is older is archived
 * @param directory where the files go: it must be there
 * @param onProgress hears how many records were verified
 * @throws {AppError} `invalid_request` for a month that lies ahead; `conflict` where records wait to be sealed, no chain is
 *   whole that there is something of, a file is there already, or somebody else is at it: nothing is dropped then
 */
export async function archiveBefore(deps: ArchivesDeps, asked: Asked): Promise<ArchiveOutcome> {
  if (asked.before > (await reading(readTime(deps.db))))
    throw new AppError('invalid_request', { detail: 'Give the first day of a month that has begun.' })
  const faults = await faultsOf(deps, asked.onProgress)
  // One connection for the rest: when it is lost, so is the lock, and nothing goes on without it.
  return deps.db.connection().execute(async (db) => {
    if (!(await reading(store.tryLock(db))))
      throw new AppError('conflict', { detail: 'The log is being archived already: let that end first.' })
    try {
      return await archive({ ...deps, db }, faults, asked)
    } finally {
      await store.unlock(db).catch(() => undefined) // a session that has ended holds no lock
    }
  })
}

async function archive(
  deps: ArchivesDeps,
  faults: ReadonlyMap<string, AuditFault>,
  { before, directory, actor, request }: Asked,
): Promise<ArchiveOutcome> {
  const { db } = deps
  const by = { actor, request }
  if ((await reading(countWaitingBefore(db, before, faults.keys()))) > 0) {
    throw new AppError('conflict', {
      detail: 'Records of that time wait to be sealed: let a server run for a moment, then repeat it.',
    })
  }
  const outcome: ArchiveOutcome = { ok: faults.size === 0, archives: [], dropped: [], notes: [] }
  for (const [chain, { says }] of faults) outcome.notes.push(`${chain} is not whole, and was not archived: ${says}`)
  const { archived } = await readArchives(deps)
  for (const { chain, seq: to } of await reading(store.listLastBefore(db, before))) {
    if (faults.has(chain)) continue
    const from = (archived.get(chain)?.to ?? 0) + 1
    if (to < from) continue
    const { end, fileName } = await writeArchive(deps, directory, { chain, from, to })
    await keepArchive(deps, { chain, from, to, fileName, end, ...by })
    outcome.archives.push({ chain, from, to, records: end.records, file: join(directory, fileName) })
  }
  const done = [...(await readArchives(deps)).archived].map(([chain, { to }]) => ({ chain, to }))
  for (const month of await reading(store.listMonthsBefore(db, before))) {
    const fate = await drop(db, { month, archived: done, ...by })
    if (fate === 'dropped') outcome.dropped.push(month)
    else outcome.notes.push(`${month} stays: ${STAYS[fate]}`)
  }
  const [fault] = faults.values()
  if (fault !== undefined && outcome.archives.length === 0 && outcome.dropped.length === 0)
    throw new AppError('conflict', { detail: `The log is not whole, and was not archived: ${fault.says}` })
  return outcome
}

/** By chain. What was changed must not be signed anew: the sink says what it was. */
async function faultsOf(deps: ArchivesDeps, onProgress: Asked['onProgress']): Promise<Map<string, AuditFault>> {
  const { chains } = await verifyDatabase(deps, (records) => onProgress?.(records))
  return new Map(chains.flatMap(({ chain, fault }) => (fault === null ? [] : [[chain, fault]])))
}

type Range = { chain: string; from: number; to: number }

/** The file was read back and verified, and both it and its name are on the disk, when this resolves. */
async function writeArchive(
  deps: ArchivesDeps,
  directory: string,
  range: Range,
): Promise<{ fileName: string; end: FileEnd }> {
  const fileName = `${range.chain}-${range.from}-${range.to}.ndjson`
  const begun = join(directory, `${fileName}.${randomUUID()}.part`)
  let end: FileEnd | undefined
  const text = await chainFile(deps, range, (written) => {
    end = written
  })
  await saveNew(begun, text)
  try {
    const report = await verifyFile(begun, { keys: deps.signer.publicKeys(), onProgress: () => {} })
    if (!report.ok || end === undefined)
      throw new AppError('conflict', { detail: `The log is not whole, and was not archived: ${report.fault?.says}` })
    await giveName(begun, join(directory, fileName))
  } finally {
    await rm(begun, { force: true })
  }
  await keepNames(directory)
  return { fileName, end }
}

/** A link, unlike a renaming, replaces nothing. */
async function giveName(begun: string, path: string): Promise<void> {
  await link(begun, path).catch((error: unknown) => {
    if (Reflect.get(Object(error), 'code') !== 'EEXIST')
      throw new AppError('invalid_request', { detail: `${path} cannot be written.`, cause: error })
    const detail = `${path} is there already: move it away, or give another directory.`
    throw new AppError('conflict', { detail, cause: error })
  })
}

/** Down to the disk. Windows opens no directory, and needs none. */
async function keepNames(directory: string): Promise<void> {
  if (process.platform === 'win32') return
  const opened = await open(directory, 'r')
  try {
    await opened.sync()
  } finally {
    await opened.close()
  }
}

async function keepArchive(
  { db, signer }: ArchivesDeps,
  { chain, from, to, fileName, end, ...by }: Range & By & { fileName: string; end: FileEnd },
): Promise<void> {
  const named = { chain, from_seq: from, to_seq: to, file_name: fileName }
  const archive = { ...named, hash: end.to?.hash ?? '', sha256: end.sha256 }
  const jws = await signer.signDocument('latchkey-archive', { archive })
  await transact(db, async (trx) => {
    await store.insertArchive(trx, { ...named, jws })
    await record(trx, {
      ...by,
      event: 'audit.archived',
      status: 'pass',
      organizationId: chain === SYSTEM_CHAIN ? null : chain,
      detail: { from, to, file_name: fileName, sha256: end.sha256 },
    })
  })
}

const STAYS = {
  holds: 'it holds records that are in no archive.',
  busy: 'the log was busy. Run it again to drop it.',
}

const MOST_TRIES = 8
/** Others write meanwhile: each try may hold them up for a part of a second. */
const BETWEEN_TRIES_MS = 1_500

interface Leaving extends By {
  month: string
  /** How far each chain is in archives that are signed. */
  archived: ReadonlyArray<{ chain: string; to: number }>
}

/** @returns `busy` where others were never out of the way */
async function drop(db: Db, leaving: Leaving): Promise<'dropped' | keyof typeof STAYS> {
  for (let tries = 1; ; tries++) {
    try {
      return await transact(db, (trx) => dropArchived(trx, leaving))
    } catch (error) {
      if (!isBusy(error)) throw error
      if (tries === MOST_TRIES) return 'busy'
    }
    await new Promise((resolve) => setTimeout(resolve, BETWEEN_TRIES_MS))
  }
}

/** Looks once the month is closed: what a transaction wrote that was still under way is seen, and nothing comes after. */
async function dropArchived(trx: Trx, { month, archived, ...by }: Leaving): Promise<'dropped' | 'holds'> {
  await store.closeMonth(trx, month)
  if (await store.holdsUnarchived(trx, month, archived)) return 'holds'
  await store.dropMonth(trx, month)
  const named = month.slice(-'2026_05'.length).replace('_', '-')
  await record(trx, { ...by, event: 'audit.month_dropped', status: 'pass', detail: { month: named } })
  return 'dropped'
}

/** PostgreSQL's lock_not_available. */
function isBusy(error: unknown): boolean {
  return error instanceof Error && [error, error.cause].some((one) => Reflect.get(Object(one), 'code') === '55P03')
}

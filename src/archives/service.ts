// Retention of the audit log: what is older than a month's beginning goes into files that are verified without the database,
// and a month leaves the database once each of its records is in one. Takes the rights of the tables' owner.
import { open, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { FileEnd } from '../audit/file.ts'
import { verifyFile } from '../audit/file-verification.ts'
import { SYSTEM_CHAIN } from '../audit/rules.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { listArchives } from '../audit/store.ts'
import { AppError } from '../errors.ts'
import { chainFile } from '../evidence/service.ts'
import type { SinkSigner } from '../sink/signing.ts'
import { type Db, reading, transact } from '../store/database.ts'
import * as store from './store.ts'

export interface ArchivesDeps {
  db: Db
  signer: SinkSigner
}

export interface ArchiveOutcome {
  archives: Array<{ chain: string; from: number; to: number; records: number; file: string }>
  /** Months that left the database. */
  dropped: string[]
  /** Months that stay for now, and why. */
  notes: string[]
}

/**
 * @param before the first moment of a month: what is older is archived
 * @param directory where the files go: it must be there
 * @throws {AppError} `conflict` where records wait to be sealed, or the chain is not whole: nothing is dropped then
 */
export async function archiveBefore(
  deps: ArchivesDeps,
  { before, directory, ...by }: { before: Date; directory: string; actor: Actor; request: RequestInfo },
): Promise<ArchiveOutcome> {
  const { db } = deps
  const outcome: ArchiveOutcome = { archives: [], dropped: [], notes: [] }
  if ((await reading(store.countWaitingBefore(db, before))) > 0) {
    throw new AppError('conflict', {
      detail: 'Records of that time wait to be sealed: let a server run for a moment, then repeat it.',
    })
  }
  const archived = await archivedTo(db)
  for (const { chain, seq: to } of await reading(store.listLastBefore(db, before))) {
    const from = (archived.get(chain) ?? 0) + 1
    if (to < from) continue
    const { end, fileName } = await writeArchive(deps, directory, { chain, from, to })
    await keepArchive(deps, { chain, from, to, fileName, end, ...by })
    outcome.archives.push({ chain, from, to, records: end.records, file: join(directory, fileName) })
  }
  for (const month of await reading(store.listMonthsBefore(db, before))) {
    const holds = await reading(store.holdsUnarchived(db, month))
    if (holds) outcome.notes.push(`${month} stays: it holds records that are in no archive.`)
    else if (await dropped(db, month)) outcome.dropped.push(month)
    else outcome.notes.push(`${month} stays: the log was busy. Run it again to drop it.`)
  }
  return outcome
}

async function archivedTo(db: Db): Promise<Map<string, number>> {
  const found = new Map<string, number>()
  for (const { chain, to_seq } of await reading(listArchives(db))) found.set(chain, to_seq)
  return found
}

type Range = { chain: string; from: number; to: number }

/** The file is on the disk, and was read back and verified, when this resolves. */
async function writeArchive(
  deps: ArchivesDeps,
  directory: string,
  range: Range,
): Promise<{ fileName: string; end: FileEnd }> {
  const fileName = `${range.chain}-${range.from}-${range.to}.ndjson`
  const path = join(directory, fileName)
  const begun = `${path}.part`
  let end: FileEnd | undefined
  const text = await chainFile(deps, range, (written) => {
    end = written
  })
  const file = await open(begun, 'w', 0o600).catch((error: unknown) => {
    throw new AppError('invalid_request', { detail: `The directory ${directory} cannot be written to.`, cause: error })
  })
  try {
    for await (const part of text) await file.write(part)
    await file.sync()
  } finally {
    await file.close()
  }
  const report = await verifyFile(begun, { keys: deps.signer.publicKeys(), onProgress: () => {} })
  if (!report.ok || end === undefined) {
    await rm(begun, { force: true })
    throw new AppError('conflict', { detail: `The log is not whole, and was not archived: ${report.fault?.says}` })
  }
  await rename(begun, path)
  return { fileName, end }
}

async function keepArchive(
  { db, signer }: ArchivesDeps,
  {
    chain,
    from,
    to,
    fileName,
    end,
    ...by
  }: Range & { fileName: string; end: FileEnd; actor: Actor; request: RequestInfo },
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

const TRIES = 3

/** @returns false where writers were never out of the way */
async function dropped(db: Db, month: string): Promise<boolean> {
  for (let tries = 0; tries < TRIES; tries++) {
    try {
      await transact(db, (trx) => store.dropMonth(trx, month))
      return true
    } catch (error) {
      if (!isBusy(error)) throw error
    }
  }
  return false
}

/** PostgreSQL's lock_not_available. */
function isBusy(error: unknown): boolean {
  return error instanceof Error && [error, error.cause].some((one) => Reflect.get(Object(one), 'code') === '55P03')
}

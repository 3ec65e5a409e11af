// Reads the audit log for whoever may: pages of it, one record, the state of its chain, and files that are verified
// elsewhere. A file is written a page at a time, whatever its size.
import { readArchives } from '../audit/archives.ts'
import { type Checkpoint, openNoted } from '../audit/checkpoints.ts'
import { type FileEnd, type FileEntry, type FileHead, saveNew, writeFile } from '../audit/file.ts'
import { GENESIS } from '../audit/rules.ts'
import { sealNow } from '../audit/sealer.ts'
import { listCheckpointsFrom, listSealed } from '../audit/store.ts'
import { AppError } from '../errors.ts'
import type { SinkSigner } from '../sink/signing.ts'
import { type Db, reading } from '../store/database.ts'
import {
  CSV_HEADER,
  csvLine,
  describeFilter,
  type Filter,
  type PlacedRecord,
  type Position,
  type Scope,
} from './rules.ts'
import * as store from './store.ts'

export interface EvidenceDeps {
  db: Db
  signer: SinkSigner
}

const PAGE = 500

/** Newest first. @param page.most one more than is shown, to know whether there is a next page */
export async function listRecords(
  db: Db,
  scope: Scope,
  { filter, ...page }: { filter: Filter; before: Position | undefined; most: number },
): Promise<PlacedRecord[]> {
  return reading(store.listRecords(db, scope, { filter: await known(db, scope, filter), ...page }))
}

/** `token.*` becomes the events of that kind that there are: each is found by the index. */
async function known(db: Db, { chain }: Scope, { event, ...rest }: Filter): Promise<store.KnownFilter> {
  if (event === undefined) return rest
  if (!event.endsWith('.*')) return { ...rest, events: [event] }
  const all = await reading(store.listEvents(db, chain))
  return { ...rest, events: all.filter((one) => one.startsWith(event.slice(0, -1))) }
}

/** The events that a chain knows, in the order of their names. */
export function listEvents(db: Db, chain: string): Promise<string[]> {
  return reading(store.listEvents(db, chain))
}

/** What people know the tokens, connections, clients and workspaces of an organization's records by. */
export async function namesOfSubjects(
  db: Db,
  chain: string,
  ids: ReadonlyArray<string | null>,
): Promise<Map<string, string>> {
  const asked = [...new Set(ids)].filter((id) => id !== null)
  if (asked.length === 0) return new Map()
  const rows = await reading(store.listSubjectNames(db, chain, asked))
  return new Map(rows.map(({ id, name }) => [id, name]))
}

/** @throws {AppError} `not_found` also for a record beyond the scope */
export async function getRecord(db: Db, scope: Scope, id: string): Promise<store.FoundRecord> {
  const found = await reading(store.findRecord(db, scope, id))
  if (found === undefined) throw new AppError('not_found')
  return found
}

export interface ChainState extends store.ChainState {
  checkpoint_seq: number | null
  checkpoint_at: string | null
  /** Entries up to this one are in archives. */
  archived_to: number | null
}

/** How far the chain goes, and how far it is signed and archived: by the signatures alone. */
export async function getChainState(deps: EvidenceDeps, chain: string): Promise<ChainState> {
  const state = await reading(store.findChainState(deps.db, chain))
  const last = await lastCheckpoint(deps, chain)
  return {
    ...state,
    checkpoint_seq: last?.seq ?? null,
    checkpoint_at: last === undefined ? null : `${last.made_at.slice(0, '2026-05-21T08:00:00'.length)}Z`,
    archived_to: await archivedTo(deps, chain),
  }
}

async function lastCheckpoint({ db, signer }: EvidenceDeps, chain: string): Promise<Checkpoint | undefined> {
  for (const row of await reading(listCheckpointsFrom(db, chain, 1))) {
    const found = await openNoted(signer, row)
    if (found !== undefined) return found
  }
  return undefined
}

async function archivedTo(deps: EvidenceDeps, chain: string): Promise<number | null> {
  return (await readArchives(deps, chain)).archived.get(chain)?.to ?? null
}

/**
 * The records that fit as a signed file: the whole chain where nothing is left out. What was recorded before the call is
 * in it.
 *
 * @returns text, a page at a time: nothing is read before it is asked for
 */
export async function exportFile(
  deps: EvidenceDeps,
  scope: Scope,
  filter: Filter,
  onEnd?: (end: FileEnd) => void,
): Promise<AsyncGenerator<string>> {
  await sealNow(deps.db, scope.chain)
  const described = describeFilter(scope, filter)
  if (described !== null) {
    const head: FileHead = { ...newHead(scope.chain), complete: false, filter: described, from: null }
    return writeFile(deps.signer, { head, checkpoints: [], entries: oldestFirst(deps.db, scope, filter) }, onEnd)
  }
  const { seq } = await reading(store.findChainState(deps.db, scope.chain))
  const from = ((await archivedTo(deps, scope.chain)) ?? 0) + 1
  return chainFile(deps, { chain: scope.chain, from, to: seq }, onEnd)
}

/** A whole part of a chain as a signed file. */
export async function chainFile(
  { db, signer }: EvidenceDeps,
  { chain, from, to }: { chain: string; from: number; to: number },
  onEnd?: (end: FileEnd) => void,
): Promise<AsyncGenerator<string>> {
  const previous = from === 1 ? GENESIS : await hashAt(db, chain, from - 1)
  const head: FileHead = { ...newHead(chain), complete: true, filter: null, from: { seq: from, previous } }
  const checkpoints: string[] = []
  for (const row of await reading(store.listCheckpoints(db, chain, { from, to })))
    if ((await openNoted(signer, row)) !== undefined) checkpoints.push(row.jws)
  return writeFile(signer, { head, checkpoints, entries: wholeChain(db, chain, from, to) }, onEnd)
}

const newHead = (chain: string) => ({ latchkey: 'audit', v: 1, chain, made_at: new Date().toISOString() }) as const

/** The same for spreadsheets: without a signature. */
export async function* exportCsv(db: Db, scope: Scope, filter: Filter): AsyncGenerator<string> {
  await sealNow(db, scope.chain)
  yield CSV_HEADER
  for await (const page of oldestFirst(db, scope, filter)) yield page.map(csvLine).join('')
}

async function hashAt(db: Db, chain: string, seq: number): Promise<string> {
  const [entry] = await reading(listSealed(db, chain, seq - 1, 1))
  if (entry?.seq !== seq) throw new AppError('server_error', { detail: `Entry ${seq} is gone.` })
  return entry.hash
}

async function* oldestFirst(db: Db, scope: Scope, filter: Filter): AsyncGenerator<FileEntry[]> {
  const wanted = await known(db, scope, filter)
  for (let after: Position | undefined; ; ) {
    const page = await reading(store.listOldestFirst(db, scope, { filter: wanted, after, most: PAGE }))
    yield page.filter(isSealed)
    after = page.at(-1)?.record
    if (page.length < PAGE) return
  }
}

const isSealed = (found: store.FoundRecord): found is FileEntry => found.seq !== null

/** @param to what is sealed after the file was begun is not in it */
async function* wholeChain(db: Db, chain: string, from: number, to: number): AsyncGenerator<FileEntry[]> {
  for (let after = from - 1; after < to; ) {
    const page = await reading(listSealed(db, chain, after, Math.min(PAGE, to - after)))
    const entries: FileEntry[] = []
    for (const { record, ...entry } of page) {
      // A file that goes on as if nothing were missing would be believed.
      if (record === null) throw new AppError('server_error', { detail: `The record of entry ${entry.seq} is gone.` })
      entries.push({ ...entry, record })
    }
    if (page.length === 0) throw new AppError('server_error', { detail: `Entry ${after + 1} is gone.` })
    yield entries
    after = page.at(-1)?.seq ?? to
  }
}

/**
 * Writes the signed file to a path.
 *
 * @throws {AppError} `invalid_request` where it cannot be written, or something is there already
 */
export async function exportTo(
  deps: EvidenceDeps,
  scope: Scope,
  filter: Filter,
  path: string,
): Promise<{ file: string; records: number }> {
  let records = 0
  const text = await exportFile(deps, scope, filter, (end) => {
    records = end.records
  })
  await saveNew(path, text)
  return { file: path, records }
}

// Replacing keys while the server runs: the master key, under which everything of ours is sealed, and the data keys of
// organizations. Both are done in batches, and go on where they were when they are cut short.
import { type RequestInfo, record } from '../audit/service.ts'
import { placeOfDataKey } from '../crypto/data-keys.ts'
import { type Envelope, keyId } from '../crypto/envelope.ts'
import { placeOfServerKey, placeOfSigningKey } from '../crypto/keys.ts'
import { AppError } from '../errors.ts'
import type { OrganizationId } from '../ids.ts'
import { findOrganizationReached } from '../organizations/service.ts'
import {
  listUnfinishedRotations,
  type ProvidersDeps,
  type Resealed,
  resealUnderNewest,
  rotateDataKey,
} from '../providers/service.ts'
import type { Outside } from '../revocation/outside.ts'
import { type Db, reading, type Trx, transact } from '../store/database.ts'
import type { MasterKeyUse } from './store.ts'
import * as store from './store.ts'

export interface MasterKeys {
  envelope: Envelope
  /** Newest first. */
  ids: readonly string[]
}

export interface KeyRotationDeps {
  db: Db
  master: MasterKeys
  providers: Pick<ProvidersDeps, 'db' | 'dataKeys' | 'onError'>
  outside: Pick<Outside, 'vouch'>
}

// --- The master key ------------------------------------------------------------------------------------------------------

/**
 * A server without a key that something is sealed under would fail at the first request that needs it.
 *
 * @throws {AppError} `unavailable`, with what to do
 */
export async function requireKeysInUse(db: Db, masterKeys: readonly Buffer[]): Promise<void> {
  requireHeld(await reading(store.listMasterKeyUses(db)), masterKeys.map(keyId))
}

function requireHeld(uses: readonly MasterKeyUse[], held: readonly string[]): void {
  const missing = missingOf(uses, held)
  if (missing.length === 0) return
  const tables = [...new Set(uses.filter((use) => missing.includes(use.key_id)).map(({ table }) => table))]
  throw new AppError('unavailable', {
    detail: `LATCHKEY_MASTER_KEY lacks the key with the id ${missing.join(' and ')}, which rows of ${tables.join(', ')} are sealed under: put it back, after the newest, run "latchkey keys rewrap", and drop it once "latchkey keys status" shows that it seals nothing.`,
  })
}

function missingOf(uses: readonly MasterKeyUse[], held: readonly string[]): string[] {
  return [...new Set(uses.map((use) => use.key_id))].filter((id) => !held.includes(id))
}

export interface MasterKeyStatus {
  key_id: string
  /** LATCHKEY_MASTER_KEY has it. */
  is_held: boolean
  is_newest: boolean
  /** How many rows of which table. */
  seals: Partial<Record<MasterKeyUse['table'], number>>
}

export interface KeysStatus {
  /** Every key that is needed is there. */
  ok: boolean
  master_keys: MasterKeyStatus[]
  data_keys: store.DataKeyUse[]
  /** Organizations with something under a data key that is not their newest. */
  unfinished_rotations: OrganizationId[]
}

export async function readKeysStatus({ db, master }: KeyRotationDeps): Promise<KeysStatus> {
  const uses = await reading(store.listMasterKeyUses(db))
  const missing = missingOf(uses, master.ids)
  return {
    ok: missing.length === 0,
    master_keys: [...master.ids, ...missing].map((id) => statusOf(id, uses, master.ids)),
    data_keys: await reading(store.listDataKeyUses(db)),
    unfinished_rotations: await listUnfinishedRotations(db),
  }
}

function statusOf(id: string, uses: readonly MasterKeyUse[], held: readonly string[]): MasterKeyStatus {
  const own = uses.filter((use) => use.key_id === id).map(({ table, count }) => [table, count])
  return { key_id: id, is_held: held.includes(id), is_newest: held[0] === id, seals: Object.fromEntries(own) }
}

export interface Rewrapped {
  /** A server starts without the older keys. */
  ok: boolean
  key_id: string
  rewrapped: number
  /** Older keys that a process which does not have the newest sealed something under meanwhile. */
  still_in_use: string[]
  /** Whether the sink could be told how far its list is, under the newest key. */
  sink_told: boolean
}

/**
 * Seals everything again under the newest master key, and lets that key vouch for the sink. That it was asked for is
 * recorded first: what it does is then in batches, a hundred rows each, and goes on where it was when it is cut short.
 *
 * @throws {AppError} `unavailable` when a key that is needed is not there, `conflict` for a row that was changed
 */
export async function rewrapAll(
  { db, master, outside }: KeyRotationDeps,
  { request, onProgress }: { request: RequestInfo; onProgress: (done: number) => void },
): Promise<Rewrapped> {
  const newestId = newestOf(master)
  const before = await reading(store.listMasterKeyUses(db))
  requireHeld(before, master.ids)
  const rows = before.filter((use) => use.key_id !== newestId).reduce((sum, { count }) => sum + count, 0)
  await transact(db, (trx) =>
    record(trx, {
      event: 'master_key.rewrapped',
      status: 'pass',
      actor: { kind: 'operator' },
      request,
      detail: { key_id: newestId, rows },
    }),
  )
  const rewrapped = await rewrap(db, { master: master.envelope, newestId, onProgress })
  const still_in_use = missingOf(await reading(store.listMasterKeyUses(db)), [newestId])
  const sink_told = await outside.vouch().then(
    () => true,
    () => false,
  )
  return { ok: still_in_use.length === 0 && sink_told, key_id: newestId, rewrapped, still_in_use, sink_told }
}

const A_BATCH = 100

interface Rewrapping {
  master: Envelope
  newestId: string
}

async function rewrap(
  db: Db,
  { onProgress, ...rewrapping }: Rewrapping & { onProgress: (done: number) => void },
): Promise<number> {
  let count = 0
  for (const table of store.SEALED_TABLES) {
    for (;;) {
      const done = await transact(db, (trx) => rewrapBatch(trx, table, rewrapping))
      count += done
      onProgress(count)
      if (done === 0) break
    }
  }
  return count
}

async function rewrapBatch(trx: Trx, table: store.SealedTable, { master, newestId }: Rewrapping): Promise<number> {
  const rows = await store.lockUnderOtherMasters(trx, table, { keyId: newestId, limit: A_BATCH })
  for (const row of rows) {
    const place = PLACE_OF[table](row)
    const text = master.open(row.sealed, place)
    if (text === undefined)
      throw new AppError('conflict', {
        detail: `LATCHKEY_MASTER_KEY does not hold the key that ${table} ${row.id} was sealed under: put it back, after the newest. Where it is there, the row was changed, or moved.`,
      })
    await store.setSealed(trx, table, row.id, master.seal(text, place))
  }
  return rows.length
}

const PLACE_OF: Record<store.SealedTable, (row: store.SealedRow) => string> = {
  signing_keys: ({ id }) => placeOfSigningKey(id),
  server_keys: ({ id, more: purpose }) => placeOfServerKey(id, purpose),
  data_keys: ({ id, more: organizationId }) => placeOfDataKey(organizationId, id),
}

function newestOf({ ids }: MasterKeys): string {
  const [newest] = ids
  if (newest === undefined) throw new TypeError('there is no master key')
  return newest
}

// --- Data keys -----------------------------------------------------------------------------------------------------------

export interface DataRotation {
  /** All that is sealed could be read. */
  ok: boolean
  /** How many have a new key. */
  rotated: number
  resealed: number
  /** Connections that stay under an older key. */
  unreadable: Resealed['unreadable']
}

const ORGANIZATIONS_A_READ = 500

/**
 * A new data key for an organization, or for each that has one, and everything sealed again under it; or only what earlier
 * rotations left.
 *
 * @throws {AppError} `not_found`
 */
export async function rotateData(
  deps: KeyRotationDeps,
  input: {
    organization: string | undefined
    unfinishedOnly: boolean
    request: RequestInfo
    onProgress: (done: number) => void
  },
): Promise<DataRotation> {
  const done: DataRotation = { ok: true, rotated: 0, resealed: 0, unreadable: [] }
  const take = ({ resealed, unreadable }: Resealed) => {
    done.resealed += resealed
    done.unreadable.push(...unreadable)
    done.ok = done.unreadable.length === 0
    input.onProgress(done.resealed)
  }
  const only = input.organization === undefined ? undefined : await getOrganization(deps.db, input.organization)
  if (!input.unfinishedOnly) {
    for await (const organizationId of only === undefined ? eachWithDataKeys(deps.db) : [only]) {
      take(await rotateDataKey(deps.providers, organizationId, input.request))
      done.rotated++
    }
    return done
  }
  for (const organizationId of await listUnfinishedRotations(deps.db))
    if (only === undefined || only === organizationId) take(await resealUnderNewest(deps.providers, organizationId))
  return done
}

async function* eachWithDataKeys(db: Db): AsyncGenerator<OrganizationId> {
  let after: OrganizationId | undefined
  do {
    const found = await reading(store.listWithDataKeys(db, { after, limit: ORGANIZATIONS_A_READ }))
    yield* found
    after = found.at(-1)
  } while (after !== undefined)
}

async function getOrganization(db: Db, id: string): Promise<OrganizationId> {
  const found = await findOrganizationReached(db, id, null)
  if (found === undefined) throw new AppError('not_found', { detail: `There is no organization ${id}.` })
  return found.organization.id
}

// Last use of tokens and connections, and values that were presented after their end: kept in memory and written every two
// seconds, so that a use costs no round trip. Losing a process loses at most the last batch of it.
import { type RequestInfo, record } from '../audit/service.ts'
import { withoutBearerValues } from '../crypto/token-value.ts'
import { type ConnectionId, isKeyId, type KeyId, type OrganizationId, type UserId, type WorkspaceId } from '../ids.ts'
import { type Db, type Trx, transact } from '../store/database.ts'
import * as store from './store.ts'

const FLUSH_EVERY_MS = 2_000
/** Beyond this a batch is written at once; what a database that is away leaves behind is kept up to ten times that. */
const BATCH = 2_000
const MOST_KEPT = 10 * BATCH
/** A credential that everyone has shows as many callers as a person can read. */
const MOST_CALLERS_A_VERSION = 100
const MOST_CHARACTERS = 120
/** What stands for all callers beyond those; from no address in particular. */
export const OTHERS = 'others'

/** Of a token, of a connection, or of a JWT that came from one of them. */
export interface Use {
  credentialId: KeyId | ConnectionId
  version: number
  address: string | undefined
  agent: string | undefined
}

/**
 * A known value was refused: which one, why, and by which request first. A token's own value (`token.…`) also shows beside
 * its version as still presented; a JWT that came of it says nothing about who holds the value, and neither does a question.
 */
export interface Refusal extends Use {
  organizationId: OrganizationId
  workspaceId: WorkspaceId | null
  /** The person behind it. */
  userId?: UserId | null
  clientId?: string | null
  event: 'token.reuse_detected' | 'token.refused' | 'access.refused' | 'access_validation'
  reason: string
  request: RequestInfo
}

export interface Uses {
  /** @param several uses at once, the last of them so long ago: what an API served from its own memory */
  seen(use: Use, several?: { count: number; ageMs: number }): void
  refused(refusal: Refusal): void
  /** Writes what there is. */
  flush(): Promise<void>
  start(): void
  /** Writes the rest. */
  close(): Promise<void>
}

interface Kept {
  use: Use & { address: string; agent: string }
  count: number
  lastAtMs: number
  refusal: Refusal | undefined
}

export function createUses(db: Db, onError: (error: Error) => void): Uses {
  let kept = new Map<string, Kept>()
  let callers = new Map<string, number>()
  let timer: NodeJS.Timeout | undefined
  let flushing: Promise<void> | undefined

  function keep(use: Use, refusal: Refusal | undefined, several = { count: 1, ageMs: 0 }): void {
    const lastAtMs = performance.now() - several.ageMs
    const version = `${use.credentialId} ${use.version} ${refusal?.event ?? ''} ${refusal?.reason ?? ''}`
    let caller = { address: cleaned(use.address), agent: cleaned(use.agent) }
    const known = kept.get(`${version} ${caller.address} ${caller.agent}`)
    if (known === undefined) {
      const count = callers.get(version) ?? 0
      if (count >= MOST_CALLERS_A_VERSION) caller = { address: '', agent: OTHERS }
      else callers.set(version, count + 1)
    }
    const key = `${version} ${caller.address} ${caller.agent}`
    const entry = known ?? kept.get(key)
    if (entry !== undefined) {
      entry.count += several.count
      entry.lastAtMs = Math.max(entry.lastAtMs, lastAtMs)
      return
    }
    if (kept.size >= MOST_KEPT) return // the database has been away for long: who came first is kept
    const { credentialId, version: number } = use
    kept.set(key, {
      use: { credentialId, version: number, ...caller },
      count: several.count,
      lastAtMs,
      refusal,
    })
    if (kept.size === BATCH) void flush()
  }

  /** One transaction, and its kinds of rows always in this order: two processes never wait for each other in a circle. */
  async function write(batch: ReadonlyMap<string, Kept>): Promise<void> {
    const rows = [...batch.values()].filter(isShown).map(toRow)
    await transact(db, async (trx) => {
      await writeTokens(trx, rows.filter(isOfToken))
      await writeConnections(trx, rows.filter(isOfConnection))
      for (const { refusal, count } of collapsed(batch.values())) await recordRefusal(trx, refusal, count)
    })
  }

  async function flush(): Promise<void> {
    while (flushing !== undefined) await flushing // also one that somebody else began meanwhile
    if (kept.size === 0) return
    const batch = kept
    kept = new Map()
    callers = new Map()
    flushing = write(batch)
      .catch((error: unknown) => {
        onError(error instanceof Error ? error : new Error(String(error)))
        putBack(batch)
      })
      .finally(() => {
        flushing = undefined
      })
    await flushing
  }

  /** What could not be written waits for the next time, with what came meanwhile. */
  function putBack(batch: ReadonlyMap<string, Kept>): void {
    for (const [key, entry] of batch) {
      const newer = kept.get(key)
      if (newer !== undefined) newer.count += entry.count
      else if (kept.size < MOST_KEPT) kept.set(key, entry)
    }
  }

  return {
    seen: (use, several) => keep(use, undefined, several),
    refused: (refusal) => keep(refusal, refusal),
    flush,
    start() {
      timer = setInterval(() => void flush(), FLUSH_EVERY_MS)
      timer.unref()
    },
    async close() {
      clearInterval(timer)
      await flush()
    },
  }
}

/**
 * One line of printable text; what a caller says of itself is shown to people. Cut first: half a character goes too, and
 * with it what no database takes, or one caller would keep the whole batch from being written. A credential that stands
 * there by mistake is not kept.
 */
function cleaned(said: string | undefined): string {
  return withoutBearerValues(said ?? '')
    .slice(0, MOST_CHARACTERS)
    .replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '')
}

function isShown({ refusal }: Kept): boolean {
  return refusal === undefined || refusal.event === 'token.refused' || refusal.event === 'token.reuse_detected'
}

function toRow({ use, count, lastAtMs, refusal }: Kept): store.UseRow {
  return {
    credential_id: use.credentialId,
    version: use.version,
    refused: refusal !== undefined,
    address: use.address,
    agent: use.agent,
    uses: count,
    age_ms: performance.now() - lastAtMs,
  }
}

const isOfToken = (row: store.UseRow): row is store.UseRow<KeyId> => isKeyId(row.credential_id)
const isOfConnection = (row: store.UseRow): row is store.UseRow<ConnectionId> => !isKeyId(row.credential_id)

async function writeTokens(trx: Trx, rows: ReadonlyArray<store.UseRow<KeyId>>): Promise<void> {
  if (rows.length === 0) return
  await store.addTokenUses(trx, merged(rows))
  for (const first of await store.touchTokenVersions(trx, rows)) await recordFirstTokenUse(trx, first)
  if (rows.some((row) => row.refused)) await store.touchRefused(trx, rows)
}

async function writeConnections(trx: Trx, rows: ReadonlyArray<store.UseRow<ConnectionId>>): Promise<void> {
  if (rows.length === 0) return
  await store.addConnectionUses(trx, rows)
  await store.touchConnectionVersions(trx, rows)
  for (const first of await store.noteFirstUses(trx, rows)) await recordFirstConnectionUse(trx, first)
}

/** Refusals for different reasons are one row of uses: an insert must not meet the same row twice. */
function merged(rows: ReadonlyArray<store.UseRow<KeyId>>): Array<store.UseRow<KeyId>> {
  const byRow = new Map<string, store.UseRow<KeyId>>()
  for (const row of rows) {
    const key = JSON.stringify([row.credential_id, row.version, row.refused, row.address, row.agent])
    const other = byRow.get(key)
    byRow.set(key, other === undefined ? row : { ...other, uses: other.uses + row.uses })
  }
  return [...byRow.values()]
}

function recordFirstTokenUse(trx: Trx, first: store.FirstTokenUse): Promise<void> {
  return record(trx, {
    event: 'token.first_used',
    status: 'pass',
    actor: { kind: 'key', id: first.token_id },
    request: { traceId: `first-use-${first.token_id}-v${first.version}` },
    organizationId: first.organization_id,
    workspaceId: first.workspace_id,
    credentialId: first.token_id,
    tokenVersion: first.version,
  })
}

function recordFirstConnectionUse(trx: Trx, first: store.FirstConnectionUse): Promise<void> {
  return record(trx, {
    event: 'connection.first_used',
    status: 'pass',
    actor: { kind: 'connection', id: first.connection_id },
    request: { traceId: `first-use-${first.connection_id}` },
    organizationId: first.organization_id,
    workspaceId: first.workspace_id,
    userId: first.user_id,
    clientId: first.client_id,
    credentialId: first.connection_id,
    tokenVersion: first.version,
  })
}

/** One record a version and reason, whoever presented it: the log is no way to fill a disk. With the first one's request. */
function collapsed(batch: Iterable<Kept>): Iterable<{ refusal: Refusal; count: number }> {
  const refusals = new Map<string, { refusal: Refusal; count: number }>()
  for (const { refusal, count } of batch) {
    if (refusal === undefined) continue
    const key = JSON.stringify([refusal.credentialId, refusal.version, refusal.event, refusal.reason])
    refusals.set(key, { refusal, ...refusals.get(key), count: (refusals.get(key)?.count ?? 0) + count })
  }
  return refusals.values()
}

function recordRefusal(trx: Trx, refusal: Refusal, count: number): Promise<void> {
  return record(trx, {
    event: refusal.event,
    status: 'fail',
    actor: { kind: isKeyId(refusal.credentialId) ? 'key' : 'connection', id: refusal.credentialId },
    request: refusal.request,
    organizationId: refusal.organizationId,
    workspaceId: refusal.workspaceId,
    userId: refusal.userId ?? null,
    clientId: refusal.clientId ?? null,
    credentialId: refusal.credentialId,
    tokenVersion: refusal.version,
    detail: { reason: refusal.reason, count },
  })
}

// SQL of the audit log's chain: what waits to be sealed, the head, and what was sealed.
import { sql } from 'kysely'
import type { Executor, Trx } from '../store/database.ts'
import { type Archive, type AuditRecord, type ChainEntry, type NotedCheckpoint, SYSTEM_CHAIN } from './rules.ts'
import { IS_TOO_DEEP, RECORD } from './service.ts'

/** One sealer a chain at a time. The first of two keys; any constant, ours alone. */
const CHAIN_LOCK = 4_180_315

const SYSTEM = sql.lit(SYSTEM_CHAIN)

/** What waits belongs to this chain: as audit_pending_by_chain has it. */
const CHAIN_OF_PENDING = sql`coalesce(organization_id, ${SYSTEM})`

/** Whether the text of an event's time says which time it is: it names no era, and nothing of what has no end. */
const IS_DATED = sql`e.recorded_at >= '0001-01-01T00:00:00Z' and e.recorded_at < '10000-01-01T00:00:00Z'`

/** What waits as `p` and is in a chain already. A scalar, so that each is looked for by the index, however many there are. */
const PLACE = sql`(select c.event_id from audit_chain c where c.event_id = p.event_id)`

/**
 * Whether the detail of an event has no hash (`isExact`): looked at where it stands, for 1.00000000000000000001 is read as 1
 * elsewhere, and 1e400 as no number at all.
 */
const IS_INEXACT = sql`case when ${IS_TOO_DEEP} or jsonb_typeof(e.detail) <> 'object' then true else jsonb_path_exists(e.detail,
  '$.** ? (@.type() == "number") ? (@ != @.floor() || @.abs() > 9007199254740991)') end`

/** The event that waits as `p`, as it was recorded. By its primary key, as above. */
const RECORDED = sql`select e.* from audit_events e
  where e.id = p.event_id and e.recorded_at = p.recorded_at and ${IS_DATED}
    and coalesce(e.organization_id, ${SYSTEM}) = coalesce(p.organization_id, ${SYSTEM})`

/** The same where it can be sealed. */
const EVENT = sql`${RECORDED} and not ${IS_INEXACT} limit 1`

/** Chains with something to seal. By audit_pending_by_chain: one look for each of them. */
export async function listPendingChains(executor: Executor): Promise<string[]> {
  const { rows } = await sql<{ chain: string }>`
    with recursive chains as (
      (select ${CHAIN_OF_PENDING} as chain from audit_pending order by 1 limit 1)
      union all
      select above.chain from chains, lateral (select ${CHAIN_OF_PENDING} as chain from audit_pending
        where ${CHAIN_OF_PENDING} > chains.chain order by 1 limit 1) as above)
    select chain from chains`.execute(executor)
  return rows.map(({ chain }) => chain)
}

/** In a statement of its own, before the head is read: what the one before has sealed must be seen. */
export async function tryLockChain(trx: Trx, chain: string): Promise<boolean> {
  const { rows } = await sql<{ locked: boolean }>`
    select pg_try_advisory_xact_lock(${sql.lit(CHAIN_LOCK)}, hashtext(${chain})) as locked`.execute(trx)
  return rows[0]?.locked === true
}

/** Primary key, backwards. */
export async function findHead(
  executor: Executor,
  chain: string,
): Promise<Pick<ChainEntry, 'seq' | 'hash'> | undefined> {
  const { rows } = await sql<Pick<ChainEntry, 'seq' | 'hash'>>`
    select seq::float8 as seq, hash from audit_chain where chain = ${chain} order by seq desc limit 1`.execute(executor)
  return rows[0]
}

/** What waits: an event, or the id of one that is in a chain already. */
export type Pending = { event_id: string } & (
  | { is_sealed: true; record: null }
  | { is_sealed: false; record: AuditRecord }
)

/**
 * The oldest of a chain that wait. What has no event, or one without a hash, is passed over: it is for verification to name,
 * and holds up nothing.
 */
export async function listPending(executor: Executor, chain: string, most: number): Promise<Pending[]> {
  const { rows } = await pendingOf(chain, most).execute(executor)
  return rows
}

/** The statement itself: a test looks at its plan. By audit_pending_by_chain, then each by the primary keys. */
export function pendingOf(chain: string, most: number) {
  return sql<Pending>`
    select p.event_id, p.is_sealed, case when not p.is_sealed then ${RECORD} end as record
    from (select event_id, organization_id, recorded_at, ${PLACE} is not null as is_sealed from audit_pending p
      where ${CHAIN_OF_PENDING} = ${chain} order by recorded_at, event_id) p
    left join lateral (${EVENT}) e on true
    where p.is_sealed or e.id is not null
    order by p.recorded_at, p.event_id limit ${most}`
}

/** The youngest event of a chain that waits: those before it are sealed first. */
export async function findNewestPending(executor: Executor, chain: string): Promise<string | undefined> {
  const { rows } = await sql<{ event_id: string }>`
    select p.event_id from audit_pending p cross join lateral (${EVENT}) e
    where coalesce(p.organization_id, ${SYSTEM}) = ${chain} and ${PLACE} is null
    order by p.recorded_at desc, p.event_id desc limit 1`.execute(executor)
  return rows[0]?.event_id
}

/** How many records that are older than a time will be sealed, and are not yet, but for those of some chains. */
export async function countWaitingBefore(executor: Executor, before: Date, without: Iterable<string>): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from audit_pending p where recorded_at < ${before}
      and ${CHAIN_OF_PENDING} <> all(${[...without]}::text[]) and exists (${EVENT})`.execute(executor)
  return rows[0]?.count ?? 0
}

/** Takes from those that wait what is in a chain already. */
export async function forgetPending(trx: Trx, eventIds: readonly string[]): Promise<void> {
  await sql`delete from audit_pending where event_id = any(${[...eventIds]}::text[])`.execute(trx)
}

/** Primary key. */
export async function isPending(executor: Executor, eventId: string): Promise<boolean> {
  const { rows } = await sql`select from audit_pending where event_id = ${eventId}`.execute(executor)
  return rows.length > 0
}

/** Puts events into the chain, and takes them from those that wait: one statement. */
export async function seal(trx: Trx, sealed: ReadonlyArray<ChainEntry & { record: AuditRecord }>): Promise<void> {
  const rows = sealed.map(({ chain, seq, previous, hash, record }) => {
    return { chain, seq, previous, hash, event_id: record.id, recorded_at: record.timestamp }
  })
  await sql`
    with given as (select * from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
      as given (chain text, seq bigint, event_id text, recorded_at timestamptz, previous text, hash text)),
    taken as (delete from audit_pending p using given where p.event_id = given.event_id)
    insert into audit_chain (chain, seq, event_id, recorded_at, previous, hash)
    select chain, seq, event_id, recorded_at, previous, hash from given order by seq`.execute(trx)
}

// --- Checkpoints -------------------------------------------------------------------------------------------------------

export interface Head {
  chain: string
  seq: number
  hash: string
}

/** The head of each chain, with what is noted as its checkpoint: anything may stand there. By primary keys. */
export async function listHeads(executor: Executor): Promise<Array<Head & { jws: string | null }>> {
  const { rows } = await sql<Head & { jws: string | null }>`
    with recursive heads as (
      (select chain, seq, hash from audit_chain order by chain desc, seq desc limit 1)
      union all
      select below.chain, below.seq, below.hash from heads,
        lateral (select c.chain, c.seq, c.hash from audit_chain c where c.chain < heads.chain
          order by c.chain desc, c.seq desc limit 1) as below)
    select heads.chain, heads.seq::float8 as seq, heads.hash, k.jws
    from heads left join audit_checkpoints k on k.chain = heads.chain and k.seq = heads.seq`.execute(executor)
  return rows
}

/** What is noted of checkpoints that were written to the sink, a page in the order of the primary key. */
export async function listCheckpointRows(
  executor: Executor,
  after: Pick<NotedCheckpoint, 'chain' | 'seq'> | undefined,
  most: number,
): Promise<NotedCheckpoint[]> {
  const later = after === undefined ? sql`` : sql`where (chain, seq) > (${after.chain}, ${after.seq}::bigint)`
  const { rows } = await sql<NotedCheckpoint>`
    select chain, seq::text as seq, jws from audit_checkpoints ${later} order by chain, audit_checkpoints.seq limit ${most}`.execute(
    executor,
  )
  return rows
}

/** What is noted of a chain from an entry on, the last ones. Primary key. */
export async function listCheckpointsFrom(executor: Executor, chain: string, from: number): Promise<NotedCheckpoint[]> {
  const { rows } = await sql<NotedCheckpoint>`
    select chain, seq::text as seq, jws from audit_checkpoints where chain = ${chain} and seq >= ${from}
    order by audit_checkpoints.seq desc limit 100`.execute(executor)
  return rows
}

/** Another process may have been first. */
export async function insertCheckpoint(executor: Executor, head: Head, jws: string): Promise<void> {
  await sql`insert into audit_checkpoints (chain, seq, jws) values (${head.chain}, ${head.seq}, ${jws})
    on conflict do nothing`.execute(executor)
}

// --- Verification ------------------------------------------------------------------------------------------------------

export interface SealedRow extends ChainEntry {
  event_id: string
  /** Null where there is no such event. */
  record: AuditRecord | null
  /** What is read here is not what stands there: its detail has no hash, or its time is of another era. */
  is_inexact: boolean
}

/** A page of a chain in its order. Primary key. */
export async function listSealed(executor: Executor, chain: string, after: number, most: number): Promise<SealedRow[]> {
  const { rows } = await sql<SealedRow>`
    select c.chain, c.seq::float8 as seq, c.previous, c.hash, c.event_id, case when e.id is not null then ${RECORD} end as record,
      coalesce(${IS_INEXACT} or not (${IS_DATED}), false) as is_inexact
    from (select * from audit_chain where chain = ${chain} and seq > ${after} order by seq limit ${most}) c
    left join audit_events e on e.id = c.event_id and e.recorded_at = c.recorded_at
    order by c.seq`.execute(executor)
  return rows
}

/** Every chain there is, also of an organization that only waits. */
export async function listChains(executor: Executor): Promise<string[]> {
  const { rows } = await sql<{ chain: string }>`
    with recursive chains as (
      (select chain from audit_chain order by chain limit 1)
      union all
      select above.chain from chains, lateral
        (select c.chain from audit_chain c where c.chain > chains.chain order by c.chain limit 1) as above)
    select chain from chains
    union select distinct coalesce(organization_id, ${SYSTEM}) from audit_pending order by chain`.execute(executor)
  return rows.map(({ chain }) => chain)
}

/** One event of a chain, where something is wrong with it. */
export interface Stray {
  chain: string
  record_id: string
}

/** Of each chain the first event that is neither sealed nor waits, in the same snapshot: nobody recorded it this way. */
export async function listUnsealed(executor: Executor): Promise<Stray[]> {
  const { rows } = await sql<Stray>`
    select distinct on (1) coalesce(e.organization_id, ${SYSTEM}) as chain, e.id as record_id from audit_events e
    where not exists (select from audit_chain c where c.event_id = e.id and c.recorded_at = e.recorded_at)
      and not exists (select from audit_pending p where p.event_id = e.id and p.recorded_at = e.recorded_at)
    order by 1, e.recorded_at, e.id`.execute(executor)
  return rows
}

/** The record is there, and has no hash. */
export type Lost = Stray & { is_inexact: boolean }

/** Of each chain the first that waits and can never be sealed, in the same snapshot. By the events' primary key. */
export async function listLost(executor: Executor): Promise<Lost[]> {
  const { rows } = await sql<Lost>`
    select distinct on (1) ${CHAIN_OF_PENDING} as chain, p.event_id as record_id, exists (${RECORDED}) as is_inexact
    from audit_pending p
    where not exists (${EVENT})
    order by 1, p.recorded_at, p.event_id`.execute(executor)
  return rows
}

export interface Waiting {
  chain: string
  count: number
  oldest_seconds: number
}

/** No time without an end is reckoned with: anything may stand there. */
export async function listWaiting(executor: Executor): Promise<Waiting[]> {
  const { rows } = await sql<Waiting>`
    select coalesce(organization_id, ${SYSTEM}) as chain, count(*)::int as count,
      extract(epoch from clock_timestamp()
        - least(greatest(min(recorded_at), '0001-01-01T00:00:00Z'), clock_timestamp()))::float8 as oldest_seconds
    from audit_pending group by 1`.execute(executor)
  return rows
}

/** What is noted of archives, of one chain or of all: what their signatures say decides. By chain and place: the primary key. */
export async function listArchives(executor: Executor, chain: string | undefined): Promise<Archive[]> {
  const ofChain = chain === undefined ? sql`` : sql`where chain = ${chain}`
  const { rows } = await sql<Archive>`
    select chain, from_seq::float8 as from_seq, to_seq::float8 as to_seq, file_name, jws
    from audit_archives ${ofChain} order by chain, from_seq`.execute(executor)
  return rows
}

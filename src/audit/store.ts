// SQL of the audit log's chain: what waits to be sealed, the head, and what was sealed.
import { sql } from 'kysely'
import type { Executor, Trx } from '../store/database.ts'
import { type Archive, type AuditRecord, type ChainEntry, SYSTEM_CHAIN } from './rules.ts'
import { RECORD } from './service.ts'

/** One sealer a chain at a time. The first of two keys; any constant, ours alone. */
const CHAIN_LOCK = 4_180_315

const SYSTEM = sql.lit(SYSTEM_CHAIN)

/** What waits belongs to this chain: as audit_pending_by_chain has it. */
const CHAIN_OF_PENDING = sql`coalesce(organization_id, ${SYSTEM})`

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

/** The oldest events of a chain that wait. By audit_pending_by_chain, then each by the primary key. */
export async function listPending(executor: Executor, chain: string, most: number): Promise<AuditRecord[]> {
  const { rows } = await sql<{ record: AuditRecord }>`
    select ${RECORD} as record
    from (select event_id, recorded_at from audit_pending where ${CHAIN_OF_PENDING} = ${chain}
      order by recorded_at, event_id limit ${most}) p
    join audit_events e on e.id = p.event_id and e.recorded_at = p.recorded_at
    order by p.recorded_at, p.event_id`.execute(executor)
  return rows.map(({ record }) => record)
}

/** The youngest event of a chain that waits: those before it are sealed first. */
export async function findNewestPending(executor: Executor, chain: string): Promise<string | undefined> {
  const { rows } = await sql<{ event_id: string }>`
    select event_id from audit_pending where ${CHAIN_OF_PENDING} = ${chain}
    order by recorded_at desc, event_id desc limit 1`.execute(executor)
  return rows[0]?.event_id
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

/** Chains that have grown since their last checkpoint. */
export async function listUncheckedHeads(executor: Executor): Promise<Head[]> {
  const { rows } = await sql<Head>`
    with recursive heads as (
      (select chain, seq, hash from audit_chain order by chain desc, seq desc limit 1)
      union all
      select below.chain, below.seq, below.hash from heads,
        lateral (select c.chain, c.seq, c.hash from audit_chain c where c.chain < heads.chain
          order by c.chain desc, c.seq desc limit 1) as below)
    select chain, seq::float8 as seq, hash from heads
    where not exists (select from audit_checkpoints k where k.chain = heads.chain and k.seq >= heads.seq)`.execute(
    executor,
  )
  return rows
}

/** The last checkpoint of each chain that was written to the sink. By the primary key. */
export async function listLastCheckpoints(executor: Executor): Promise<Array<Pick<Head, 'chain' | 'seq'>>> {
  const { rows } = await sql<Pick<Head, 'chain' | 'seq'>>`
    select chain, max(seq)::float8 as seq from audit_checkpoints group by chain order by chain`.execute(executor)
  return rows
}

/** Signed heads from an entry on, the last ones. Primary key. */
export async function listCheckpointsFrom(executor: Executor, chain: string, from: number): Promise<string[]> {
  const { rows } = await sql<{ jws: string }>`
    select jws from audit_checkpoints where chain = ${chain} and seq >= ${from} order by seq desc limit 100`.execute(
    executor,
  )
  return rows.map(({ jws }) => jws)
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
  /** A number in its detail is none that JSON holds exactly: what is read here is not what stands there. */
  is_inexact: boolean
}

/** Looked at where it stands: 1.00000000000000000001 is read as 1. */
const INEXACT = sql`jsonb_path_exists(e.detail, '$.** ? (@.type() == "number") ? (@ != @.floor() || @.abs() > 9007199254740991)')`

/** A page of a chain in its order. Primary key. */
export async function listSealed(executor: Executor, chain: string, after: number, most: number): Promise<SealedRow[]> {
  const { rows } = await sql<SealedRow>`
    select c.chain, c.seq::float8 as seq, c.previous, c.hash, c.event_id, case when e.id is not null then ${RECORD} end as record,
      coalesce(${INEXACT}, false) as is_inexact
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

/** Events that are neither in a chain nor waiting for it, in the same snapshot: nobody recorded them this way. */
export async function listUnsealed(executor: Executor, most: number): Promise<AuditRecord[]> {
  const { rows } = await sql<{ record: AuditRecord }>`
    select ${RECORD} as record from audit_events e
    where not exists (select from audit_chain c where c.event_id = e.id and c.recorded_at = e.recorded_at)
      and not exists (select from audit_pending p where p.event_id = e.id and p.recorded_at = e.recorded_at)
    order by e.recorded_at limit ${most}`.execute(executor)
  return rows.map(({ record }) => record)
}

export interface Waiting {
  chain: string
  count: number
  oldest_seconds: number
}

export async function listWaiting(executor: Executor): Promise<Waiting[]> {
  const { rows } = await sql<Waiting>`
    select coalesce(organization_id, ${SYSTEM}) as chain, count(*)::int as count,
      extract(epoch from clock_timestamp() - min(recorded_at))::float8 as oldest_seconds
    from audit_pending group by 1`.execute(executor)
  return rows
}

/** By chain and place: the primary key. */
export async function listArchives(executor: Executor): Promise<Archive[]> {
  const { rows } = await sql<Archive>`
    select chain, from_seq::float8 as from_seq, to_seq::float8 as to_seq, file_name, jws
    from audit_archives order by chain, from_seq`.execute(executor)
  return rows
}

// SQL of reading the audit log. Within an organization, newest first or oldest first; each kind of filter has an index that
// ends with the time (migrations 0009, 0010 and 0013).
import { type RawBuilder, sql } from 'kysely'
import { type AuditRecord, type ChainEntry, type NotedCheckpoint, SYSTEM_CHAIN } from '../audit/rules.ts'
import { RECORD } from '../audit/service.ts'
import type { Executor } from '../store/database.ts'
import type { Filter, PlacedRecord, Position, Scope } from './rules.ts'

/** As the index has it: what is added here must stand there too. */
const STALE = sql`e.status = 'fail' and (e.event = 'token.reuse_detected'
  or e.detail ->> 'reason' in ('stale_version', 'retired', 'revoked', 'ended'))`

function within({ chain, workspaceId }: Scope): RawBuilder<unknown>[] {
  return [
    chain === SYSTEM_CHAIN ? sql`e.organization_id is null` : sql`e.organization_id = ${chain}`,
    ...(workspaceId === undefined ? [] : [sql`e.workspace_id = ${workspaceId}`]),
  ]
}

/** A filter with its kind of event written out. */
export type KnownFilter = Omit<Filter, 'event'> & { events?: readonly string[] | undefined }

function fitting(filter: KnownFilter): RawBuilder<unknown>[] {
  const { workspace_id, trace_id, user_id, profile_id, credential_id, client_id, token_version, status } = filter
  const equal = { workspace_id, trace_id, user_id, profile_id, credential_id, client_id, token_version, status }
  const conditions = Object.entries(equal)
    .filter(([, value]) => value !== undefined)
    .map(([column, value]) => sql`${sql.ref(`e.${column}`)} = ${value}`)
  if (filter.events !== undefined) conditions.push(sql`e.event = any(${filter.events}::text[])`)
  if (filter.since !== undefined) conditions.push(sql`e.recorded_at >= ${filter.since}::timestamptz`)
  if (filter.until !== undefined) conditions.push(sql`e.recorded_at < ${filter.until}::timestamptz`)
  if (filter.stale === true) conditions.push(STALE)
  return conditions
}

const all = (conditions: readonly RawBuilder<unknown>[]) => sql.join(conditions, sql` and `)

/** The events that a chain knows: some dozens, each found by audit_events_by_event without reading the rest. */
export async function listEvents(executor: Executor, chain: string): Promise<string[]> {
  const [ofChain] = within({ chain, workspaceId: undefined })
  const { rows } = await sql<{ event: string }>`
    with recursive known as (
      (select e.event from audit_events e where ${ofChain} order by e.event limit 1)
      union all
      select above.event from known, lateral (select e.event from audit_events e
        where ${ofChain} and e.event > known.event order by e.event limit 1) as above)
    select event from known`.execute(executor)
  return rows.map(({ event }) => event)
}

/** Labels of tokens, and names of clients (also of those behind connections) and workspaces, by id. Primary keys. */
export async function listSubjectNames(
  executor: Executor,
  chain: string,
  ids: readonly string[],
): Promise<Array<{ id: string; name: string }>> {
  const among = sql`any(${[...ids]}::text[])`
  const { rows } = await sql<{ id: string; name: string }>`
    select id, label as name from token_lines where id = ${among} and organization_id = ${chain}
    union all
    select c.id, cl.name from connections c join clients cl on cl.id = c.client_id
      where c.id = ${among} and c.organization_id = ${chain}
    union all select id, name from clients where id = ${among}
    union all select id, name from workspaces where id = ${among} and organization_id = ${chain}`.execute(executor)
  return rows
}

/** A page, newest first. The index of the filter, backwards; nothing is sorted. */
export async function listRecords(
  executor: Executor,
  scope: Scope,
  { filter, before, most }: { filter: KnownFilter; before: Position | undefined; most: number },
): Promise<PlacedRecord[]> {
  const { rows } = await sql<{ record: PlacedRecord }>`${newestFirst(scope, filter, before, most)}`.execute(executor)
  return rows.map(({ record }) => record)
}

/** The statement itself: a test looks at its plan. */
export function newestFirst(scope: Scope, filter: KnownFilter, before: Position | undefined, most: number) {
  const earlier =
    before === undefined ? [] : [sql`(e.recorded_at, e.id) < (${before.timestamp}::timestamptz, ${before.id})`]
  return sql<{ record: PlacedRecord }>`
    select ${RECORD} || jsonb_build_object('seq', c.seq) as record
    from (select * from audit_events e where ${all([...within(scope), ...fitting(filter), ...earlier])}
      order by e.recorded_at desc, e.id desc limit ${most}) e
    left join audit_chain c on c.event_id = e.id and c.recorded_at = e.recorded_at
    order by e.recorded_at desc, e.id desc`
}

/** A record and where it is sealed; nulls until it is. */
export type FoundRecord = { [Member in 'seq' | 'previous' | 'hash']: ChainEntry[Member] | null } & {
  record: AuditRecord
}

/** A page, oldest first: for files. */
export async function listOldestFirst(
  executor: Executor,
  scope: Scope,
  { filter, after, most }: { filter: KnownFilter; after: Position | undefined; most: number },
): Promise<FoundRecord[]> {
  const later = after === undefined ? [] : [sql`(e.recorded_at, e.id) > (${after.timestamp}::timestamptz, ${after.id})`]
  const { rows } = await sql<FoundRecord>`
    select c.seq::float8 as seq, c.previous, c.hash, ${RECORD} as record
    from (select * from audit_events e where ${all([...within(scope), ...fitting(filter), ...later])}
      order by e.recorded_at, e.id limit ${most}) e
    left join audit_chain c on c.event_id = e.id and c.recorded_at = e.recorded_at
    order by e.recorded_at, e.id`.execute(executor)
  return rows
}

/** One record with its place. By the primary key. */
export async function findRecord(executor: Executor, scope: Scope, id: string): Promise<FoundRecord | undefined> {
  const { rows } = await sql<FoundRecord>`
    select c.seq::float8 as seq, c.previous, c.hash, ${RECORD} as record
    from audit_events e left join audit_chain c on c.event_id = e.id and c.recorded_at = e.recorded_at
    where ${all([...within(scope), sql`e.id = ${id}`])} limit 1`.execute(executor)
  return rows[0]
}

export interface ChainState {
  /** The last entry; 0 for none. */
  seq: number
  hash: string | null
  waiting: number
}

/** By primary keys. */
export async function findChainState(executor: Executor, chain: string): Promise<ChainState> {
  const { rows } = await sql<ChainState>`
    select coalesce(head.seq, 0)::float8 as seq, head.hash,
      (select count(*)::int from audit_pending where coalesce(organization_id, ${sql.lit(SYSTEM_CHAIN)}) = ${chain}) as waiting
    from (select 1) as one
    left join (select seq, hash from audit_chain where chain = ${chain} order by seq desc limit 1) head on true`.execute(
    executor,
  )
  const [state] = rows
  if (state === undefined) throw new Error('a query without a condition has a row')
  return state
}

/** What is noted of checkpoints within a range, for a file that is to be verified elsewhere: the last ones. Primary key. */
export async function listCheckpoints(
  executor: Executor,
  chain: string,
  { from, to }: { from: number; to: number },
): Promise<NotedCheckpoint[]> {
  const { rows } = await sql<NotedCheckpoint>`
    select chain, seq::text as seq, jws from audit_checkpoints where chain = ${chain} and seq between ${from} and ${to}
    order by audit_checkpoints.seq desc limit 100`.execute(executor)
  return rows.reverse()
}

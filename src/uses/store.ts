// SQL of who used which token or connection, and of values that were refused. Written in batches; one statement a kind of
// fact, and the kinds always in the order in which they stand here.
import { sql } from 'kysely'
import type { ConnectionId, KeyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'

/** Nobody counts further: what an API reports must not stop the record of everybody else. */
const MOST_COUNTED = sql.lit(2_000_000_000)

/** All uses of one version by one caller since the last batch. */
export interface UseRow<Id extends KeyId | ConnectionId = KeyId | ConnectionId> {
  credential_id: Id
  version: number
  refused: boolean
  address: string
  agent: string
  uses: number
  /** Milliseconds since the last of them: the database knows what time it is. */
  age_ms: number
}

function given(rows: readonly UseRow[]) {
  return sql`(select credential_id, version, refused, address, agent, uses,
      clock_timestamp() - make_interval(secs => age_ms / 1000) as at
    from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as given
      (credential_id text, version int, refused boolean, address text, agent text, uses bigint, age_ms float8)) as given`
}

// --- Tokens ----------------------------------------------------------------------------------------------------------

/** Rows by their primary key; in its order, so that two processes never wait for each other in a circle. */
export async function addTokenUses(trx: Trx, rows: ReadonlyArray<UseRow<KeyId>>): Promise<void> {
  await sql`
    insert into token_uses (token_id, version, hour, refused, address, agent, uses, last_at)
    select credential_id, version, date_trunc('hour', at), refused, address, agent, least(uses, ${MOST_COUNTED}), at
    from ${given(rows)} order by credential_id, version, refused, address, agent
    on conflict (token_id, hour, version, refused, address, agent) do update set
      uses = least(token_uses.uses::bigint + excluded.uses, ${MOST_COUNTED}), last_at = greatest(token_uses.last_at, excluded.last_at)`.execute(
    trx,
  )
}

export interface FirstTokenUse {
  token_id: KeyId
  version: number
  organization_id: OrganizationId
  workspace_id: WorkspaceId | null
}

/**
 * Last and first use of each version. Locks the refused ones too, in one order with them: they are written next.
 *
 * @returns the versions that were used for the first time
 */
export async function touchTokenVersions(trx: Trx, rows: ReadonlyArray<UseRow<KeyId>>): Promise<FirstTokenUse[]> {
  const { rows: firsts } = await sql<FirstTokenUse>`
    with latest as (
      select distinct on (credential_id, version) credential_id as token_id, version, at, address, agent
      from ${given(rows)} where not refused order by credential_id, version, at desc),
    locked as materialized (
      select v.token_id, v.version, v.first_used_at from token_versions v
      where (v.token_id, v.version) in (select credential_id, version from ${given(rows)})
      order by v.token_id, v.version for update of v),
    touched as (
      update token_versions v set first_used_at = coalesce(v.first_used_at, latest.at),
        last_used_at = greatest(v.last_used_at, latest.at),
        last_used_address = case when v.last_used_at > latest.at then v.last_used_address else latest.address end,
        last_used_agent = case when v.last_used_at > latest.at then v.last_used_agent else latest.agent end
      from latest, locked
      where v.token_id = latest.token_id and v.version = latest.version
        and locked.token_id = v.token_id and locked.version = v.version
      returning v.token_id, v.version, locked.first_used_at)
    select t.token_id, t.version, l.organization_id, l.workspace_id
    from touched t join token_lines l on l.id = t.token_id where t.first_used_at is null`.execute(trx)
  return firsts
}

/** What was presented after its end, beside the version that it was. */
export async function touchRefused(trx: Trx, rows: ReadonlyArray<UseRow<KeyId>>): Promise<void> {
  await sql`
    with latest as (
      select credential_id as token_id, version, max(at) as at, least(sum(uses), ${MOST_COUNTED})::int as uses,
        (array_agg(address order by at desc))[1] as address, (array_agg(agent order by at desc))[1] as agent
      from ${given(rows)} where refused group by credential_id, version),
    locked as materialized (
      select v.token_id, v.version from token_versions v
      join latest using (token_id, version) order by v.token_id, v.version for update of v)
    update token_versions v set refused_at = latest.at, refused_address = latest.address, refused_agent = latest.agent,
      refused_count = least(v.refused_count::bigint + latest.uses, ${MOST_COUNTED})
    from latest, locked
    where v.token_id = latest.token_id and v.version = latest.version
      and locked.token_id = v.token_id and locked.version = v.version`.execute(trx)
}

// --- Connections -----------------------------------------------------------------------------------------------------

/** Of whom was erased since, nothing is noted any more of where they were, and with what. By the connections' primary key. */
const IS_OF_NOBODY_ERASED = sql`not exists (
  select from connections c where c.id = credential_id and (c.close_reason = 'account_erased'
    or c.user_id is not null and not exists (select from users u where u.id = c.user_id)))`

/** By primary key, in its order, as of tokens. */
export async function addConnectionUses(trx: Trx, rows: ReadonlyArray<UseRow<ConnectionId>>): Promise<void> {
  await sql`
    insert into connection_uses (connection_id, version, hour, address, agent, uses, last_at)
    select credential_id, version, date_trunc('hour', at), address, agent, least(uses, ${MOST_COUNTED}), at
    from ${given(rows)} where ${IS_OF_NOBODY_ERASED} order by credential_id, version, address, agent
    on conflict (connection_id, hour, version, address, agent) do update set
      uses = least(connection_uses.uses::bigint + excluded.uses, ${MOST_COUNTED}),
      last_at = greatest(connection_uses.last_at, excluded.last_at)`.execute(trx)
}

/** First and last use of each version. By primary key, in its order. */
export async function touchConnectionVersions(trx: Trx, rows: ReadonlyArray<UseRow<ConnectionId>>): Promise<void> {
  await sql`
    insert into connection_versions as v
      (connection_id, version, first_used_at, last_used_at, last_used_address, last_used_agent)
    select distinct on (credential_id, version) credential_id, version, at, at, address, agent
    from ${given(rows)} where ${IS_OF_NOBODY_ERASED} order by credential_id, version, at desc
    on conflict (connection_id, version) do update set last_used_at = greatest(v.last_used_at, excluded.last_used_at),
      last_used_address = case when v.last_used_at > excluded.last_used_at
        then v.last_used_address else excluded.last_used_address end,
      last_used_agent = case when v.last_used_at > excluded.last_used_at
        then v.last_used_agent else excluded.last_used_agent end`.execute(trx)
}

export interface FirstConnectionUse {
  connection_id: ConnectionId
  version: number
  organization_id: OrganizationId
  workspace_id: WorkspaceId
  user_id: UserId | null
  client_id: string
}

/** Notes which connections were used at all. By primary key, in its order. @returns those that never were before */
export async function noteFirstUses(
  trx: Trx,
  rows: ReadonlyArray<UseRow<ConnectionId>>,
): Promise<FirstConnectionUse[]> {
  const { rows: firsts } = await sql<FirstConnectionUse>`
    with used as materialized (
      select distinct on (credential_id) credential_id, version from ${given(rows)} order by credential_id, at),
    firsts as (
      insert into connection_first_uses (connection_id) select credential_id from used order by credential_id
      on conflict do nothing returning connection_id)
    select c.id as connection_id, used.version, c.organization_id, c.workspace_id, c.user_id, c.client_id
    from firsts join used on used.credential_id = firsts.connection_id
    join connections c on c.id = firsts.connection_id`.execute(trx)
  return firsts
}

// --- Read --------------------------------------------------------------------------------------------------------------

export interface Caller {
  version: number
  address: string
  agent: string
  uses: number
  lastAt: Date
}

/** Who used a token in the last hour, the latest first. By the primary key. */
export async function listTokenCallers(executor: Executor, tokenId: KeyId): Promise<Caller[]> {
  const { rows } = await sql<Caller>`
    select version, address, agent, sum(uses)::float8 as uses, max(last_at) as "lastAt"
    from token_uses
    where token_id = ${tokenId} and hour >= date_trunc('hour', now()) - interval '1 hour' and not refused
      and last_at > now() - interval '1 hour'
    group by version, address, agent order by max(last_at) desc limit 50`.execute(executor)
  return rows
}

/** Who used a connection in the last hour, the latest first. By the primary key. */
export async function listConnectionCallers(executor: Executor, connectionId: ConnectionId): Promise<Caller[]> {
  const { rows } = await sql<Caller>`
    select version, address, agent, sum(uses)::float8 as uses, max(last_at) as "lastAt"
    from connection_uses
    where connection_id = ${connectionId} and hour >= date_trunc('hour', now()) - interval '1 hour'
      and last_at > now() - interval '1 hour'
    group by version, address, agent order by max(last_at) desc limit 50`.execute(executor)
  return rows
}

export interface UsedHour {
  version: number
  hour: Date
  refused: boolean
  uses: number
}

/** The hours of the last fourteen days in which a token was used or refused. By the primary key. */
export async function listHours(executor: Executor, tokenId: KeyId): Promise<UsedHour[]> {
  const { rows } = await sql<UsedHour>`
    select version, hour, refused, sum(uses)::float8 as uses from token_uses
    where token_id = ${tokenId} and hour > now() - interval '14 days'
    group by version, hour, refused order by hour`.execute(executor)
  return rows
}

/** By token_uses_by_hour and connection_uses_by_hour. @returns the most rows that one table lost */
export async function deleteOldUses(executor: Executor, batch: number): Promise<number> {
  const results = [
    await sql`delete from token_uses where ctid in (
      select ctid from token_uses where hour < now() - interval '15 days' limit ${batch})`.execute(executor),
    await sql`delete from connection_uses where ctid in (
      select ctid from connection_uses where hour < now() - interval '15 days' limit ${batch})`.execute(executor),
  ]
  return Math.max(...results.map((result) => Number(result.numAffectedRows ?? 0n)))
}

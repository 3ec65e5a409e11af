// SQL that ends again what a restored database believes to be alive: one statement a kind, over all of them at once.
import { sql } from 'kysely'
import type { ConnectionId, KeyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Trx } from '../store/database.ts'
import type { LostConnection, LostMembership, LostToken } from './rules.ts'

/** Two operators at once: the second one finds nothing left to do. Any constant; ours alone. */
const RESTORE_LOCK = 4_180_314

export async function lockRestores(trx: Trx): Promise<void> {
  await sql`set local statement_timeout = 0`.execute(trx) // as long as it takes: nobody is served before
  await sql`select pg_advisory_xact_lock(${sql.lit(RESTORE_LOCK)})`.execute(trx)
}

/** The list goes on behind what the sink has seen, as another list: nobody goes on from what they remember of it. */
export async function beginNewEpoch(trx: Trx, known: number): Promise<void> {
  await sql`select setval('revocation_seq', greatest(${known}::bigint, (select last_value from revocation_seq)))`.execute(
    trx,
  )
  await sql`update revocation_list set epoch = gen_random_uuid()::text`.execute(trx)
}

/** Everybody signs in again: a session that had ended may be back. */
export async function endAllSessions(trx: Trx): Promise<void> {
  await sql`update users set sessions_not_before = now()`.execute(trx)
}

/** @returns those that were not suspended before */
export async function suspend(trx: Trx, ids: readonly UserId[]): Promise<UserId[]> {
  const { rows } = await sql<{ id: UserId }>`
    update users set suspended_at = now() where id = any(${[...ids]}::text[]) and suspended_at is null returning id`.execute(
    trx,
  )
  return rows.map(({ id }) => id)
}

export interface EndedWorkspace {
  id: WorkspaceId
  organization_id: OrganizationId
}

export async function archive(trx: Trx, ids: readonly WorkspaceId[]): Promise<EndedWorkspace[]> {
  const { rows } = await sql<EndedWorkspace>`
    update workspaces set archived_at = now() where id = any(${[...ids]}::text[]) and archived_at is null
    returning id, organization_id`.execute(trx)
  return rows
}

export async function deleteClients(trx: Trx, ids: readonly string[]): Promise<string[]> {
  const { rows } = await sql<{ id: string }>`
    update clients set deleted_at = now() where id = any(${[...ids]}::text[]) and deleted_at is null returning id`.execute(
    trx,
  )
  return rows.map(({ id }) => id)
}

export interface EndedMembership {
  organization_id: OrganizationId
  workspace_id: WorkspaceId | null
  user_id: UserId
}

/** Roles that the sink knows to be lower, or gone. Who would leave nobody as an owner stays one: whom they made, is lost. */
export async function lowerMemberships(trx: Trx, lost: readonly LostMembership[]): Promise<EndedMembership[]> {
  const given = sql`jsonb_to_recordset(${JSON.stringify(lost)}::jsonb) as given (place_id text, user_id text, role text)`
  const lower = sql`array_position(array['none', 'viewer', 'member', 'admin', 'owner'], given.role)
    < array_position(array['none', 'viewer', 'member', 'admin', 'owner'], m.role)`
  const hasAnother = (table: string, place: string) => sql`(m.role <> 'owner' or exists (
    select from ${sql.table(table)} o where o.${sql.ref(place)} = m.${sql.ref(place)} and o.role = 'owner' and o.user_id <> m.user_id
      and not exists (select from ${given} where given.place_id = o.${sql.ref(place)} and given.user_id = o.user_id)))`
  const inWorkspaces = sql`from ${given} where m.workspace_id = given.place_id and m.user_id = given.user_id and ${lower}
    and ${hasAnother('workspace_members', 'workspace_id')}`
  const inOrganizations = sql`from ${given} where m.organization_id = given.place_id and m.user_id = given.user_id and ${lower}
    and ${hasAnother('organization_members', 'organization_id')}`
  const { rows } = await sql<EndedMembership>`
    with lowered as (update workspace_members m set role = given.role ${inWorkspaces} and given.role <> 'none'
      returning m.workspace_id, m.user_id),
    removed as (delete from workspace_members m using ${given} where m.workspace_id = given.place_id
      and m.user_id = given.user_id and given.role = 'none' and ${hasAnother('workspace_members', 'workspace_id')}
      returning m.workspace_id, m.user_id),
    lowered_above as (update organization_members m set role = given.role ${inOrganizations} and given.role <> 'none'
      returning m.organization_id, m.user_id),
    removed_above as (delete from organization_members m using ${given} where m.organization_id = given.place_id
      and m.user_id = given.user_id and given.role = 'none' and ${hasAnother('organization_members', 'organization_id')}
      returning m.organization_id, m.user_id)
    select w.organization_id, changed.workspace_id, changed.user_id
      from (select * from lowered union all select * from removed) as changed
      join workspaces w on w.id = changed.workspace_id
    union all select organization_id, null, user_id from lowered_above
    union all select organization_id, null, user_id from removed_above`.execute(trx)
  return rows
}

export interface EndedCredential {
  id: ConnectionId | KeyId
  organization_id: OrganizationId
  workspace_id: WorkspaceId | null
  user_id: UserId | null
  version: number
  closed: boolean
}

/**
 * Closes connections, suspends them, or raises their floor; either way their refresh tokens go: which of them were used or ended since the
 * backup, nobody knows.
 */
export async function endConnections(trx: Trx, lost: readonly LostConnection[]): Promise<EndedCredential[]> {
  const { rows } = await sql<EndedCredential>`
    update connections c set
      version = greatest(c.version, given.floor), floor = greatest(c.floor, given.floor),
      closed_at = case when given.closed then now() end, close_reason = case when given.closed then 'restored' end,
      suspended_at = coalesce(c.suspended_at, case when given.suspended then now() end),
      suspend_reason = coalesce(c.suspend_reason, case when given.suspended then 'restored' end)
    from jsonb_to_recordset(${JSON.stringify(lost)}::jsonb) as given (id text, closed boolean, suspended boolean, floor int)
    where c.id = given.id and c.closed_at is null
    returning c.id, c.organization_id, c.workspace_id, c.user_id, c.version, given.closed`.execute(trx)
  const ids = rows.map(({ id }) => id)
  await sql`update families set ended_at = now(), end_reason = 'restored'
    where connection_id = any(${ids}::text[]) and ended_at is null`.execute(trx)
  await sql`delete from refresh_tokens where family_id in
    (select id from families where connection_id = any(${ids}::text[]))`.execute(trx)
  return rows
}

/**
 * Closes token lines, also those whose newest value was made after the backup: nobody has it any more. Of the others older
 * versions retire, and single ones die.
 */
export async function endTokens(trx: Trx, lost: readonly LostToken[]): Promise<EndedCredential[]> {
  const given = sql`jsonb_to_recordset(${JSON.stringify(lost)}::jsonb)
    as given (id text, closed boolean, suspended boolean, floor int, dead jsonb, next_floor int)`
  const { rows } = await sql<EndedCredential>`
    update token_lines l set
      floor = least(l.version, greatest(l.floor, given.floor, given.next_floor)),
      cutover = 'manual', cutover_after_seconds = null, cutover_at = null,
      closed_at = case when given.closed or greatest(given.floor, given.next_floor) > l.version then now() end,
      close_reason = case when given.closed or greatest(given.floor, given.next_floor) > l.version then 'restored' end,
      suspended_at = coalesce(l.suspended_at, case when given.suspended then now() end),
      suspend_reason = coalesce(l.suspend_reason, case when given.suspended then 'restored' end)
    from ${given} where l.id = given.id and l.closed_at is null
    returning l.id, l.organization_id, l.workspace_id, l.user_id, l.version, l.closed_at is not null as closed`.execute(
    trx,
  )
  await sql`update token_versions v set
      retired_at = case when v.version < l.floor then coalesce(v.retired_at, now()) else v.retired_at end,
      dead_at = case when given.dead @> to_jsonb(v.version) then coalesce(v.dead_at, now()) else v.dead_at end
    from ${given}, token_lines l where v.token_id = given.id and l.id = given.id`.execute(trx)
  return rows
}

// SQL of what pages say about workspaces and people: counts, owners and roles.
import { sql } from 'kysely'
import type { OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Executor } from '../store/database.ts'
import type { WorkspaceRole } from '../store/tables.ts'

const among = (ids: readonly WorkspaceId[]) => sql<WorkspaceId>`any(${[...ids]}::text[])`

/** Members of each workspace. By the primary key of workspace_members. */
export function countMembers(executor: Executor, ids: readonly WorkspaceId[]) {
  return executor
    .selectFrom('workspace_members')
    .select((value) => ['workspace_id', value.fn.countAll<string>().as('count')])
    .where('workspace_id', '=', among(ids))
    .groupBy('workspace_id')
    .execute()
}

/** Open tokens of each workspace. By token_lines_by_workspace. */
export function countTokens(executor: Executor, ids: readonly WorkspaceId[]) {
  return executor
    .selectFrom('token_lines')
    .select((value) => ['workspace_id', value.fn.countAll<string>().as('count')])
    .where('workspace_id', '=', among(ids))
    .where('closed_at', 'is', null)
    .groupBy('workspace_id')
    .execute()
}

/** Open connections of each workspace. By connections_by_workspace. */
export function countConnections(executor: Executor, ids: readonly WorkspaceId[]) {
  return executor
    .selectFrom('connections as c')
    .innerJoin('clients as cl', 'cl.id', 'c.client_id')
    .select((value) => ['c.workspace_id', value.fn.countAll<string>().as('count')])
    .where('c.workspace_id', '=', among(ids))
    .where('c.closed_at', 'is', null)
    .where('cl.deleted_at', 'is', null)
    .groupBy('c.workspace_id')
    .execute()
}

/** Who is an owner of each workspace, longest-standing first. By the primary key of workspace_members. */
export function listOwners(executor: Executor, ids: readonly WorkspaceId[]) {
  return executor
    .selectFrom('workspace_members as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select(['m.workspace_id', 'u.name'])
    .where('m.workspace_id', '=', among(ids))
    .where('m.role', '=', 'owner')
    .orderBy('m.created_at')
    .orderBy('m.user_id')
    .execute()
}

/** Every active workspace of an organization where a person is a member. By workspace_members_by_user. */
export function listRolesIn(
  executor: Executor,
  organizationId: OrganizationId,
  userId: UserId,
): Promise<Array<{ id: WorkspaceId; name: string; role: WorkspaceRole }>> {
  return executor
    .selectFrom('workspace_members as m')
    .innerJoin('workspaces as w', 'w.id', 'm.workspace_id')
    .select(['w.id', 'w.name', 'm.role'])
    .where('m.user_id', '=', userId)
    .where('w.organization_id', '=', organizationId)
    .where('w.archived_at', 'is', null)
    .orderBy('w.id')
    .execute()
}

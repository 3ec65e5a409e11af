// SQL of organizations, workspaces and members.
import { sql } from 'kysely'
import type { OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'

/** Primary key. */
export function findOrganization(executor: Executor, id: string) {
  return executor
    .selectFrom('organizations')
    .selectAll()
    .where('id', '=', id as OrganizationId) // an unknown text finds nothing
    .executeTakeFirst()
}

/** Primary key. */
export function findWorkspace(executor: Executor, id: string) {
  return executor
    .selectFrom('workspaces')
    .selectAll()
    .where('id', '=', id as WorkspaceId) // an unknown text finds nothing
    .executeTakeFirst()
}

export async function insertOrganization(trx: Trx, row: { id: OrganizationId; name: string }): Promise<Date> {
  return (await trx.insertInto('organizations').values(row).returning('created_at').executeTakeFirstOrThrow())
    .created_at
}

export async function insertWorkspace(
  trx: Trx,
  row: {
    id: WorkspaceId
    organization_id: OrganizationId
    name: string
    owner_id: UserId
    billing_email: string | null
    cost_centre?: string | null
  },
): Promise<Date> {
  return (await trx.insertInto('workspaces').values(row).returning('created_at').executeTakeFirstOrThrow()).created_at
}

/** Sets a role; makes the membership where there is none. */
export async function putOrganizationMember(
  trx: Trx,
  row: { organization_id: OrganizationId; user_id: UserId; role: OrganizationRole },
): Promise<void> {
  await trx
    .insertInto('organization_members')
    .values(row)
    .onConflict((conflict) => conflict.columns(['organization_id', 'user_id']).doUpdateSet({ role: row.role }))
    .execute()
}

/** Makes a person a member of the organization unless they are already something there. */
export async function ensureOrganizationMember(
  trx: Trx,
  row: { organization_id: OrganizationId; user_id: UserId },
): Promise<void> {
  await trx
    .insertInto('organization_members')
    .values({ ...row, role: 'member' })
    .onConflict((conflict) => conflict.columns(['organization_id', 'user_id']).doNothing())
    .execute()
}

/** Sets a role; makes the membership where there is none. */
export async function putWorkspaceMember(
  trx: Trx,
  row: { workspace_id: WorkspaceId; user_id: UserId; role: WorkspaceRole },
): Promise<void> {
  await trx
    .insertInto('workspace_members')
    .values(row)
    .onConflict((conflict) => conflict.columns(['workspace_id', 'user_id']).doUpdateSet({ role: row.role }))
    .execute()
}

/** Locks a membership against change and removal. Primary key. */
export function lockWorkspaceMember(trx: Trx, workspaceId: WorkspaceId, userId: UserId) {
  return trx
    .selectFrom('workspace_members')
    .select('role')
    .where('workspace_id', '=', workspaceId)
    .where('user_id', '=', userId)
    .forShare()
    .executeTakeFirst()
}

/** Locks a membership against change and removal. Primary key. */
export function lockOrganizationMember(trx: Trx, organizationId: OrganizationId, userId: UserId) {
  return trx
    .selectFrom('organization_members')
    .select('role')
    .where('organization_id', '=', organizationId)
    .where('user_id', '=', userId)
    .forShare()
    .executeTakeFirst()
}

/** Locks a workspace against being archived. Primary key. */
export function lockWorkspace(trx: Trx, id: string) {
  return trx
    .selectFrom('workspaces')
    .selectAll()
    .where('id', '=', id as WorkspaceId) // an unknown text finds nothing
    .where('archived_at', 'is', null)
    .forShare()
    .executeTakeFirst()
}

/**
 * Locks a workspace to change it: nobody makes a credential in it meanwhile, because whoever does locks it against that.
 * What only refers to it, as a notice does, is made. Primary key.
 */
export function lockWorkspaceForUpdate(trx: Trx, id: string) {
  return trx
    .selectFrom('workspaces')
    .selectAll()
    .where('id', '=', id as WorkspaceId) // an unknown text finds nothing
    .where('archived_at', 'is', null)
    .forNoKeyUpdate()
    .executeTakeFirst()
}

/** Every workspace that a person reaches, with both roles. By organization_members_by_user and workspace_members_by_user. */
export function listWorkspacesOf(executor: Executor, userId: UserId) {
  return executor
    .selectFrom('workspaces as w')
    .innerJoin('organizations as o', 'o.id', 'w.organization_id')
    .leftJoin('workspace_members as m', (join) =>
      join.onRef('m.workspace_id', '=', 'w.id').on('m.user_id', '=', userId),
    )
    .leftJoin('organization_members as om', (join) =>
      join.onRef('om.organization_id', '=', 'w.organization_id').on('om.user_id', '=', userId),
    )
    .selectAll('w')
    .select(['o.name as organization_name', 'm.role', 'om.role as organization_role'])
    .where('w.archived_at', 'is', null)
    .where((either) => either.or([either('m.user_id', 'is not', null), either('om.role', 'in', ['owner', 'admin'])]))
    .orderBy('w.created_at')
    .execute()
}

export function listOrganizations(executor: Executor) {
  return executor.selectFrom('organizations').select(['id', 'name', 'created_at']).orderBy('created_at').execute()
}

export function listWorkspaces(executor: Executor) {
  return executor
    .selectFrom('workspaces')
    .select(['id', 'organization_id', 'owner_id', 'name', 'billing_email', 'created_at'])
    .where('archived_at', 'is', null)
    .orderBy('created_at')
    .execute()
}

/** An organization's active workspaces, in the order in which they were made. By workspaces_by_organization. */
export function listWorkspacesIn(
  executor: Executor,
  organizationId: OrganizationId,
  page: { after?: string | undefined; limit?: number | undefined },
) {
  let query = executor
    .selectFrom('workspaces')
    .selectAll()
    .where('organization_id', '=', organizationId)
    .where('archived_at', 'is', null)
    .orderBy('id')
  if (page.after !== undefined) query = query.where('id', '>', page.after as WorkspaceId) // any text sorts somewhere
  if (page.limit !== undefined) query = query.limit(page.limit)
  return query.execute()
}

/** A workspace that is not archived, with a person's roles there and in its organization. By primary keys. */
export function findWithRoles(executor: Executor, id: WorkspaceId, userId: UserId | null) {
  return executor
    .selectFrom('workspaces as w')
    .leftJoin('workspace_members as m', (join) =>
      join.onRef('m.workspace_id', '=', 'w.id').on('m.user_id', '=', userId),
    )
    .leftJoin('organization_members as om', (join) =>
      join.onRef('om.organization_id', '=', 'w.organization_id').on('om.user_id', '=', userId),
    )
    .selectAll('w')
    .select(['m.role as workspace_role', 'om.role as organization_role'])
    .where('w.id', '=', id)
    .where('w.archived_at', 'is', null)
    .executeTakeFirst()
}

/** Organizations where a person is a member. By organization_members_by_user. */
export function listOrganizationsOf(executor: Executor, userId: UserId) {
  return executor
    .selectFrom('organization_members as m')
    .innerJoin('organizations as o', 'o.id', 'm.organization_id')
    .select(['o.id', 'o.name', 'o.created_at', 'm.role'])
    .where('m.user_id', '=', userId)
    .orderBy('o.created_at')
    .execute()
}

/** A person's role in an organization. Primary key. */
export function findOrganizationMember(executor: Executor, organizationId: OrganizationId, userId: UserId) {
  return executor
    .selectFrom('organization_members')
    .select('role')
    .where('organization_id', '=', organizationId)
    .where('user_id', '=', userId)
    .executeTakeFirst()
}

/** Members of a workspace with their names, or the one who is named. Primary key. */
export function listWorkspaceMembers(executor: Executor, workspaceId: WorkspaceId, userId?: UserId) {
  const members = executor
    .selectFrom('workspace_members as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select(['m.user_id', 'u.name', 'u.email', 'm.role', 'm.created_at'])
    .where('m.workspace_id', '=', workspaceId)
    .orderBy('m.created_at')
    .orderBy('m.user_id')
  return (userId === undefined ? members : members.where('m.user_id', '=', userId)).execute()
}

/** Members of an organization with their names, or the one who is named. Primary key. */
export function listOrganizationMembers(executor: Executor, organizationId: OrganizationId, userId?: UserId) {
  const members = executor
    .selectFrom('organization_members as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select(['m.user_id', 'u.name', 'u.email', 'm.role', 'm.created_at'])
    .where('m.organization_id', '=', organizationId)
    .orderBy('m.created_at')
    .orderBy('m.user_id')
  return (userId === undefined ? members : members.where('m.user_id', '=', userId)).execute()
}

/** Names of those of these people who are in an organization. Primary key. */
export function listNames(executor: Executor, organizationId: OrganizationId, userIds: readonly UserId[]) {
  return executor
    .selectFrom('organization_members as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select(['m.user_id', 'u.name'])
    .where('m.organization_id', '=', organizationId)
    .where('m.user_id', 'in', userIds) // never empty
    .execute()
}

/** The longest-standing owner. Primary key. */
export async function findOwner(executor: Executor, organizationId: OrganizationId): Promise<UserId | undefined> {
  const row = await executor
    .selectFrom('organization_members')
    .select('user_id')
    .where('organization_id', '=', organizationId)
    .where('role', '=', 'owner')
    .orderBy('created_at')
    .orderBy('user_id')
    .executeTakeFirst()
  return row?.user_id
}

export async function updateWorkspace(
  trx: Trx,
  id: WorkspaceId,
  change: { name?: string; billing_email?: string | null; cost_centre?: string | null; owner_id?: UserId },
): Promise<void> {
  await trx.updateTable('workspaces').set(change).where('id', '=', id).execute()
}

export async function archiveWorkspace(trx: Trx, id: WorkspaceId): Promise<void> {
  await trx
    .updateTable('workspaces')
    .set((value) => ({ archived_at: value.fn<Date>('clock_timestamp') }))
    .where('id', '=', id)
    .execute()
}

/** The workspace is locked by now, so that two owners cannot leave at once. Primary key. */
export async function countOtherOwners(executor: Executor, workspaceId: WorkspaceId, userId: UserId): Promise<number> {
  const { count } = await executor
    .selectFrom('workspace_members as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select((value) => value.fn.countAll<string>().as('count'))
    .where('m.workspace_id', '=', workspaceId)
    .where('m.role', '=', 'owner')
    .where('m.user_id', '!=', userId)
    .where('u.suspended_at', 'is', null) // who cannot sign in keeps nothing going
    .executeTakeFirstOrThrow()
  return Number(count)
}

/** Who is named as owner has just stopped being one: the longest-standing owner is named. Primary keys. */
export async function renameOwner(trx: Trx, workspaceIds: readonly WorkspaceId[], userId: UserId): Promise<void> {
  await sql`
    update workspaces w set owner_id = o.user_id
    from (select distinct on (workspace_id) workspace_id, user_id from workspace_members
          where workspace_id = any(${[...workspaceIds]}::text[]) and role = 'owner'
          order by workspace_id, created_at, user_id) o
    where w.id = o.workspace_id and w.owner_id = ${userId}`.execute(trx)
}

export async function deleteWorkspaceMember(trx: Trx, workspaceId: WorkspaceId, userId: UserId): Promise<void> {
  await trx
    .deleteFrom('workspace_members')
    .where('workspace_id', '=', workspaceId)
    .where('user_id', '=', userId)
    .execute()
}

/**
 * Locks an organization to change who is in it. Rows that refer to it are made meanwhile: else whoever makes one, and has a
 * workspace of it, would be waited for in a circle. Primary key.
 */
export function lockOrganizationForUpdate(trx: Trx, id: string) {
  return trx
    .selectFrom('organizations')
    .selectAll()
    .where('id', '=', id as OrganizationId) // an unknown text finds nothing
    .forNoKeyUpdate()
    .executeTakeFirst()
}

/** Locks an organization against a change of who is in it: whoever makes a workspace stays until it is made. Primary key. */
export function lockOrganization(trx: Trx, id: string) {
  return trx
    .selectFrom('organizations')
    .selectAll()
    .where('id', '=', id as OrganizationId) // an unknown text finds nothing
    .forShare()
    .executeTakeFirst()
}

/** The organization is locked by now. Primary key. */
export async function countOtherOrganizationOwners(
  executor: Executor,
  organizationId: OrganizationId,
  userId: UserId,
): Promise<number> {
  const { count } = await executor
    .selectFrom('organization_members as m')
    .innerJoin('users as u', 'u.id', 'm.user_id')
    .select((value) => value.fn.countAll<string>().as('count'))
    .where('m.organization_id', '=', organizationId)
    .where('m.role', '=', 'owner')
    .where('m.user_id', '!=', userId)
    .where('u.suspended_at', 'is', null) // who cannot sign in keeps nothing going
    .executeTakeFirstOrThrow()
  return Number(count)
}

export async function deleteOrganizationMember(
  trx: Trx,
  organizationId: OrganizationId,
  userId: UserId,
): Promise<void> {
  await trx
    .deleteFrom('organization_members')
    .where('organization_id', '=', organizationId)
    .where('user_id', '=', userId)
    .execute()
}

/** Locks all active workspaces of an organization, with a person's role in each. By workspaces_by_organization. */
export function lockWorkspacesWithMember(trx: Trx, organizationId: OrganizationId, userId: UserId) {
  return workspacesWithMember(trx, organizationId, userId).forNoKeyUpdate('w').execute()
}

/** The same, to look at. */
export function listWorkspacesWithMember(executor: Executor, organizationId: OrganizationId, userId: UserId) {
  return workspacesWithMember(executor, organizationId, userId).execute()
}

function workspacesWithMember(executor: Executor, organizationId: OrganizationId, userId: UserId) {
  return executor
    .selectFrom('workspaces as w')
    .leftJoin('workspace_members as m', (join) =>
      join.onRef('m.workspace_id', '=', 'w.id').on('m.user_id', '=', userId),
    )
    .select(['w.id', 'w.name', 'm.role'])
    .where('w.organization_id', '=', organizationId)
    .where('w.archived_at', 'is', null)
    .orderBy('w.id')
}

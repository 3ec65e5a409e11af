// SQL of organizations, workspaces and members.
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
    .select([
      'w.id',
      'w.name',
      'w.organization_id',
      'o.name as organization_name',
      'm.role',
      'om.role as organization_role',
    ])
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

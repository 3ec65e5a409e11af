// SQL that takes a person's name and address out of every row that holds them.
import { sql } from 'kysely'
import type { OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { OrganizationRole } from '../store/tables.ts'

export interface Membership {
  organization_id: OrganizationId
  name: string
  role: OrganizationRole
}

/** Organizations that a person is in, in one order. By organization_members_by_user. */
export function listMemberships(executor: Executor, userId: UserId): Promise<Membership[]> {
  return executor
    .selectFrom('organization_members as m')
    .innerJoin('organizations as o', 'o.id', 'm.organization_id')
    .select(['m.organization_id', 'o.name', 'm.role'])
    .where('m.user_id', '=', userId)
    .orderBy('m.organization_id')
    .execute()
}

/** Invitations of an address, also those that ended long ago. By invitations_by_address. @returns those that were open */
export async function deleteInvitationsTo(trx: Trx, emailKey: string) {
  const rows = await trx
    .deleteFrom('invitations')
    .where('email_key', '=', emailKey)
    .returning(['id', 'organization_id', 'workspace_id', 'role', 'ended_at'])
    .execute()
  return rows.filter(({ ended_at }) => ended_at === null)
}

export interface Billed {
  id: WorkspaceId
  organization_id: OrganizationId
}

/** Workspaces whose bills went to the person's own address. */
export async function clearBillingAddress(trx: Trx, emailKey: string): Promise<Billed[]> {
  const { rows } = await sql<Billed>`
    update workspaces set billing_email = null where lower(normalize(btrim(billing_email), NFKC)) = ${emailKey}
    returning id, organization_id`.execute(trx)
  return rows
}

/** The row that names them, and what refers to it: memberships go with it. Primary key. */
export async function deleteUser(trx: Trx, userId: UserId): Promise<void> {
  await sql`delete from notice_mails where user_id = ${userId}`.execute(trx)
  await trx.deleteFrom('client_sessions').where('user_id', '=', userId).execute()
  await trx.deleteFrom('users').where('id', '=', userId).execute()
}

/** Locks the row against everything: whoever signs in or issues meanwhile waits, and finds nobody. Primary key. */
export function lockForErasure(trx: Trx, userId: UserId) {
  return trx.selectFrom('users').selectAll().where('id', '=', userId).forUpdate().executeTakeFirst()
}

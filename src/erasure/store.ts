// SQL that takes a person's name and address out of every row that holds them.
import { sql } from 'kysely'
import { emailKey } from '../accounts/rules.ts'
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
export async function deleteInvitationsTo(trx: Trx, key: string) {
  const rows = await trx
    .deleteFrom('invitations')
    .where('email_key', '=', key)
    .returning(['id', 'organization_id', 'workspace_id', 'role', 'ended_at'])
    .execute()
  return rows.filter(({ ended_at }) => ended_at === null)
}

export interface Billed {
  id: WorkspaceId
  organization_id: OrganizationId
}

/**
 * Workspaces whose bills went to the person's own address. Compared here, for a database lowers some letters in another
 * way. Reads all addresses there are: an account is not erased often.
 */
export async function clearBillingAddress(trx: Trx, key: string): Promise<Billed[]> {
  const billed = await trx
    .selectFrom('workspaces')
    .select(['id', 'billing_email'])
    .where('billing_email', 'is not', null)
    .execute()
  const ids = billed.flatMap(({ id, billing_email }) => (emailKey(billing_email ?? '') === key ? [id] : []))
  return trx
    .updateTable('workspaces')
    .set({ billing_email: null })
    .where(sql<boolean>`id = any(${ids}::text[])`) // primary key
    .returning(['id', 'organization_id'])
    .execute()
}

/** Where from and with what a person's connections were used: what a program says of itself may name them. */
export async function forgetDevices(trx: Trx, userId: UserId): Promise<void> {
  const own = sql`connection_id in (select id from connections where user_id = ${userId})` // primary keys
  await sql`delete from connection_uses where ${own}`.execute(trx)
  await sql`update connection_versions set last_used_address = '', last_used_agent = '' where ${own}`.execute(trx)
}

/** What names a person in a row that must stay. @param email nobody's: nothing is sent there (RFC 6761) */
export async function forgetName(trx: Trx, userId: UserId, email: string): Promise<void> {
  await trx
    .updateTable('users')
    .set({ email, email_key: email, name: 'Erased', password_digest: null, suspended_at: sql<Date>`now()` })
    .where('id', '=', userId) // primary key
    .execute()
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

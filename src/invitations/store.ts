// SQL of invitations.
import { type Selectable, sql } from 'kysely'
import type { SecretDigest } from '../crypto/secret.ts'
import type { InvitationId, OrganizationId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { InvitationsTable, WorkspaceRole } from '../store/tables.ts'

export type InvitationRow = Selectable<InvitationsTable>

export interface InvitationPlace {
  organizationId: OrganizationId
  workspaceId: WorkspaceId | null
}

const LIFE_DAYS = 7

function at(executor: Executor, place: InvitationPlace) {
  const open = executor.selectFrom('invitations').selectAll().where('ended_at', 'is', null)
  return place.workspaceId === null
    ? open.where('organization_id', '=', place.organizationId).where('workspace_id', 'is', null)
    : open.where('workspace_id', '=', place.workspaceId)
}

/** By invitations_one_open or invitations_by_workspace. */
export function listOpen(executor: Executor, place: InvitationPlace): Promise<InvitationRow[]> {
  return at(executor, place).orderBy('id').execute()
}

/** What a person sent and nobody has accepted yet, wherever. By invitations_by_sender. */
export function listOpenBySender(executor: Executor, sender: string): Promise<InvitationRow[]> {
  return executor
    .selectFrom('invitations')
    .selectAll()
    .where('created_by', '=', sender)
    .where('ended_at', 'is', null)
    .where('expires_at', '>', sql<Date>`clock_timestamp()`)
    .orderBy('id')
    .execute()
}

/** Locks an open invitation of a place to end it. Primary key. */
export function lockOpen(trx: Trx, place: InvitationPlace, id: string): Promise<InvitationRow | undefined> {
  return at(trx, place)
    .where('id', '=', id as InvitationId) // an unknown text finds nothing
    .forUpdate()
    .executeTakeFirst()
}

/** By invitations_digest_key. */
export function findByDigest(executor: Executor, digest: SecretDigest): Promise<InvitationRow | undefined> {
  return executor.selectFrom('invitations').selectAll().where('digest', '=', digest).executeTakeFirst()
}

export async function insert(
  trx: Trx,
  row: {
    id: InvitationId
    place: InvitationPlace
    email: string
    emailKey: string
    role: WorkspaceRole
    digest: SecretDigest
    createdBy: string
    /** Of a key: the version that sent it. */
    createdVersion: number | null
  },
): Promise<InvitationRow> {
  return trx
    .insertInto('invitations')
    .values({
      id: row.id,
      organization_id: row.place.organizationId,
      workspace_id: row.place.workspaceId,
      email: row.email,
      email_key: row.emailKey,
      role: row.role,
      digest: row.digest,
      created_by: row.createdBy,
      created_version: row.createdVersion,
      expires_at: sql<Date>`now() + make_interval(days => ${sql.lit(LIFE_DAYS)})`,
    })
    .returningAll()
    .executeTakeFirstOrThrow()
}

/** Ends one that is open and has not expired. False when another request did, or its time is over: the first one wins. */
export async function endOpen(
  trx: Trx,
  id: InvitationId,
  reason: NonNullable<InvitationRow['end_reason']>,
): Promise<boolean> {
  let query = trx
    .updateTable('invitations')
    .set({ ended_at: sql<Date>`clock_timestamp()`, end_reason: reason })
    .where('id', '=', id)
    .where('ended_at', 'is', null)
  if (reason === 'accepted') query = query.where('expires_at', '>', sql<Date>`clock_timestamp()`)
  return (await query.executeTakeFirst()).numUpdatedRows === 1n
}

/** A new invitation takes the place of the one that the same person has to the same place. By invitations_one_open. */
export async function replaceOpen(trx: Trx, place: InvitationPlace, emailKey: string): Promise<void> {
  await trx
    .updateTable('invitations')
    .set({ ended_at: sql<Date>`clock_timestamp()`, end_reason: 'replaced' })
    .where('organization_id', '=', place.organizationId)
    .where(sql<string>`coalesce(workspace_id, '')`, '=', place.workspaceId ?? '')
    .where('email_key', '=', emailKey)
    .where('ended_at', 'is', null)
    .execute()
}

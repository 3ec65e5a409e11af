// Invitations: an admin asks somebody in by a link, which only the person with that address can use, once, for a week, and
// only as long as whoever sent it could still let them in.
import { emailKey } from '../accounts/rules.ts'
import { type AccountsDeps, createUserIn, digestNewPassword } from '../accounts/service.ts'
import { lockUser } from '../accounts/store.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { whyUnusable } from '../connections/rules.ts'
import { findConnection } from '../connections/store.ts'
import { digestOf, randomSecret, type Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { isConnectionId, isKeyId, isUserId, newId, type UserId } from '../ids.ts'
import { effectiveRole, mayChangeOwners } from '../organizations/rules.ts'
import type { Asked } from '../organizations/service.ts'
import * as organizations from '../organizations/store.ts'
import { KEY_ROLE } from '../principals/rules.ts'
import { actorOf, lockAdmin, lockPeople, type Owner } from '../principals/service.ts'
import { type Db, type Executor, reading, readTime, type Trx, transact } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { goodVersions } from '../workspace-tokens/rules.ts'
import { findAnyLine } from '../workspace-tokens/store.ts'
import { type Held, mayInvite } from './rules.ts'
import * as store from './store.ts'

export type InvitationTarget =
  | { workspaceId: string; role: WorkspaceRole }
  | { organizationId: string; role: OrganizationRole }

/** With the secret of its link, this once. */
export interface NewInvitation {
  invitation: store.InvitationRow
  secret: Secret
}

/**
 * Asks somebody in. An open invitation of the same address to the same place is replaced: its link is dead.
 *
 * @throws {AppError} `role_too_low` also for an admin who would make an owner; what `lockAdmin` throws
 */
export function invite(db: Db, input: { target: InvitationTarget; email: string } & Asked): Promise<NewInvitation> {
  const secret = randomSecret()
  const { target } = input
  return transact(db, async (trx) => {
    await lockPeople(trx, input.authority)
    // For itself: of two invitations of one address at once the later one replaces the earlier one.
    if ('workspaceId' in target) await organizations.lockWorkspaceForUpdate(trx, target.workspaceId)
    else await organizations.lockOrganizationForUpdate(trx, target.organizationId)
    const place = await lockAdmin(trx, input.authority, target, { recentSignIn: true })
    if (target.role === 'owner' && !mayChangeOwners(place.role, place.organizationRole)) {
      throw new AppError('role_too_low', { detail: 'Only an owner makes an owner.' })
    }
    const key = emailKey(input.email)
    await store.replaceOpen(trx, place, key)
    const actor = actorOf(input.authority)
    const invitation = await store.insert(trx, {
      id: newId('inv'),
      place,
      email: input.email.trim(),
      emailKey: key,
      role: target.role,
      digest: digestOf(secret.reveal()),
      createdBy: actor.id ?? actor.kind,
      createdVersion: input.authority.kind === 'key' ? input.authority.version : null,
    })
    await recordEvent(trx, invitation, { ...input, event: 'invitation.created' })
    return { invitation, secret }
  })
}

/** @throws {AppError} `not_found` for one that is not open there */
export function cancel(db: Db, input: { owner: Owner; id: string } & Asked): Promise<void> {
  return transact(db, async (trx) => {
    const place = await lockAdmin(trx, input.authority, input.owner, { recentSignIn: false }) // ending is never held up
    const invitation = await store.lockOpen(trx, place, input.id)
    if (invitation === undefined || !(await store.endOpen(trx, invitation.id, 'cancelled')))
      throw new AppError('not_found')
    await recordEvent(trx, invitation, { ...input, event: 'invitation.cancelled' })
  })
}

/** Open invitations that a person sent, in whatever place: what becomes of them is decided with the person's role. */
export function listSent(executor: Executor, userId: UserId): Promise<store.InvitationRow[]> {
  return store.listOpenBySender(executor, userId)
}

/** Ends invitations that nobody could accept any more. Part of the transaction of what happened to their sender. */
export async function cancelSent(
  trx: Trx,
  invitations: readonly store.InvitationRow[],
  by: { actor: Actor; request: RequestInfo; reason: string },
): Promise<void> {
  for (const invitation of invitations) {
    if (!(await store.endOpen(trx, invitation.id, 'cancelled'))) continue // accepted just now
    await record(trx, {
      event: 'invitation.cancelled',
      status: 'pass',
      actor: by.actor,
      request: by.request,
      organizationId: invitation.organization_id,
      workspaceId: invitation.workspace_id,
      detail: { invitation: invitation.id, role: invitation.role, reason: by.reason },
    })
  }
}

export function listOpen(db: Db, place: store.InvitationPlace): Promise<store.InvitationRow[]> {
  return reading(store.listOpen(db, place))
}

/** What a link leads to, for the page that asks. Undefined for one that is unknown, used, cancelled or expired. */
export async function findByLink(db: Db, secret: string) {
  const invitation = await reading(store.findByDigest(db, digestOf(secret)))
  if (invitation === undefined || invitation.ended_at !== null || invitation.expires_at <= new Date()) return undefined
  const organization = await reading(organizations.findOrganization(db, invitation.organization_id))
  const workspace =
    invitation.workspace_id === null
      ? undefined
      : await reading(organizations.findWorkspace(db, invitation.workspace_id))
  if (organization === undefined || (workspace !== undefined && workspace.archived_at !== null)) return undefined
  return { invitation, organizationName: organization.name, workspaceName: workspace?.name }
}

/**
 * A signed-in person accepts.
 *
 * @throws {AppError} `not_found` for a link that leads nowhere any more and for a person who is suspended, `wrong_person`
 * for another address than the invited
 */
export function accept(
  db: Db,
  input: { secret: string; userId: UserId; request: Asked['request'] },
): Promise<store.InvitationRow> {
  return transact(db, async (trx) => {
    const invitation = await store.findByDigest(trx, digestOf(input.secret))
    const user = await lockUser(trx, input.userId)
    if (invitation === undefined || user === undefined || user.suspended_at !== null) throw new AppError('not_found')
    if (user.email_key !== invitation.email_key) throw new AppError('wrong_person')
    await admit(trx, invitation, user.id, input.request)
    return invitation
  })
}

/**
 * Somebody without an account opens one with the invited address, and is in.
 *
 * @throws {AppError} `not_found`, `invalid_request` for a bad password, `conflict` where there is an account already
 */
export async function acceptAsNew(
  deps: AccountsDeps,
  input: { secret: string; name: string; password: Secret; request: Asked['request'] },
): Promise<{ invitation: store.InvitationRow; userId: UserId }> {
  const passwordDigest = await digestNewPassword(deps, input.password)
  return transact(deps.db, async (trx) => {
    const invitation = await store.findByDigest(trx, digestOf(input.secret))
    if (invitation === undefined || invitation.ended_at !== null) throw new AppError('not_found')
    const { id } = await createUserIn(trx, {
      email: invitation.email,
      name: input.name,
      passwordDigest,
      actor: { kind: 'nobody' },
      request: input.request,
    })
    await admit(trx, invitation, id, input.request)
    return { invitation, userId: id }
  })
}

/** Single use is one conditional write; whoever is in already keeps the role that they have. */
async function admit(
  trx: Trx,
  invitation: store.InvitationRow,
  userId: UserId,
  request: Asked['request'],
): Promise<void> {
  const { organization_id: organizationId, workspace_id: workspaceId } = invitation
  if (await isSuspended(trx, invitation.created_by)) throw new AppError('not_found') // first: people before workspaces
  const place =
    workspaceId === null
      ? await organizations.lockOrganizationForUpdate(trx, organizationId)
      : await organizations.lockWorkspaceForUpdate(trx, workspaceId)
  if (place === undefined) throw new AppError('not_found')
  if (!(await couldStillInvite(trx, invitation))) throw new AppError('not_found')
  if (!(await store.endOpen(trx, invitation.id, 'accepted'))) throw new AppError('not_found')
  const isNew = await makeMember(trx, invitation, userId)
  await recordEvent(trx, invitation, {
    authority: { kind: 'person', userId, signedInAt: 0 },
    request,
    event: isNew ? 'member.added' : 'invitation.accepted',
    userId,
  })
}

/** @returns false for somebody who was a member already */
async function makeMember(
  trx: Trx,
  { organization_id, workspace_id, role }: store.InvitationRow,
  user_id: UserId,
): Promise<boolean> {
  if (workspace_id === null) {
    if ((await organizations.lockOrganizationMember(trx, organization_id, user_id)) !== undefined) return false
    if (role === 'viewer') return false // a role that no organization has
    await organizations.putOrganizationMember(trx, { organization_id, user_id, role })
    return true
  }
  await organizations.ensureOrganizationMember(trx, { organization_id, user_id })
  if ((await organizations.lockWorkspaceMember(trx, workspace_id, user_id)) !== undefined) return false
  await organizations.putWorkspaceMember(trx, { workspace_id, user_id, role })
  return true
}

/** Whether a person who sent an invitation is suspended, or gone; locked against becoming so. */
async function isSuspended(trx: Trx, sender: string): Promise<boolean> {
  if (!isUserId(sender)) return false
  const user = await lockUser(trx, sender)
  return user === undefined || user.suspended_at !== null
}

/** Whoever sent it must still be able to: an admin who has left lets nobody in. A person is looked at before. */
async function couldStillInvite(trx: Trx, invitation: store.InvitationRow): Promise<boolean> {
  const { created_by: by, organization_id: organizationId, workspace_id: workspaceId, role } = invitation
  if (isKeyId(by)) return isKeyGood(trx, by, invitation.created_version)
  if (isConnectionId(by)) return mayInvite(role, await heldThrough(trx, by))
  if (!isUserId(by)) return by === 'operator'
  const organizationMember = await organizations.lockOrganizationMember(trx, organizationId, by)
  const member = workspaceId === null ? undefined : await organizations.lockWorkspaceMember(trx, workspaceId, by)
  const held =
    workspaceId === null
      ? organizationMember?.role
      : effectiveRole(member?.role ?? null, organizationMember?.role ?? null)
  return mayInvite(role, { role: held, organizationRole: organizationMember?.role })
}

/** What the person of a connection holds, as long as the connection stands. */
async function heldThrough(trx: Trx, id: string): Promise<Held> {
  const facts = await findConnection(trx, id)
  if (facts === undefined || whyUnusable(facts) !== undefined) return { role: undefined, organizationRole: undefined }
  if (facts.userId === null) return { role: KEY_ROLE, organizationRole: undefined }
  return { role: facts.role, organizationRole: facts.organizationRole ?? undefined }
}

/** The key still works, and the version that sent it was not revoked. Having been rotated since is no fault. */
async function isKeyGood(trx: Trx, id: string, sentBy: number | null): Promise<boolean> {
  const line = await findAnyLine(trx, id)
  const version = line?.versions.find((candidate) => candidate.version === sentBy)
  if (line === undefined || version === undefined || version.deadAt !== null) return false
  return goodVersions(line, line.versions, await readTime(trx)).length > 0
}

function recordEvent(
  trx: Trx,
  invitation: store.InvitationRow,
  what: Asked & { event: string; userId?: UserId },
): Promise<void> {
  return record(trx, {
    event: what.event,
    status: 'pass',
    actor: actorOf(what.authority),
    request: what.request,
    organizationId: invitation.organization_id,
    workspaceId: invitation.workspace_id,
    userId: what.userId ?? null,
    detail: { invitation: invitation.id, role: invitation.role },
  })
}

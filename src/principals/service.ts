// What authorises a change, locked and looked at again in the transaction of that change: a leaked key must not mint its
// successor while it is being revoked (consistency §1). Locks go: user, workspace, memberships, connection or key.
import { isSessionGood } from '../accounts/rules.ts'
import { lockUser } from '../accounts/store.ts'
import type { Actor } from '../audit/service.ts'
import { isVersionGood } from '../connections/rules.ts'
import * as connections from '../connections/store.ts'
import { AppError } from '../errors.ts'
import {
  isOrganizationId,
  isUserId,
  isWorkspaceId,
  type KeyId,
  type OrganizationId,
  type UserId,
  type WorkspaceId,
} from '../ids.ts'
import { effectiveRole, isAtLeast } from '../organizations/rules.ts'
import * as organizations from '../organizations/store.ts'
import { readTime, type Trx } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { versionFault } from '../workspace-tokens/rules.ts'
import { findAnyLine, lockLine } from '../workspace-tokens/store.ts'
import { type Authority, KEY_ROLE } from './rules.ts'

/** A credential is made, and a policy changed, only by somebody who has just shown that it is them. */
export const RECENT_SIGN_IN_SECONDS = 600

export interface Authorised {
  organizationId: OrganizationId
  /** In the workspace; in the organization, for a change of the organization. */
  role: WorkspaceRole
  /** Of a person: what they are in the organization itself. */
  organizationRole: OrganizationRole | undefined
  /** The person behind it. */
  userId: UserId | null
}

interface Needs<R> {
  role: R
  recentSignIn?: boolean
  /** The presenting key is itself what will be changed. */
  changes?: KeyId | undefined
}

/**
 * Credentials of a workspace are what is looked at in it: they would attest one another, and restore what nobody attested.
 * Whoever vouches for one is a person, also through an app, or stands above the workspace. The authority is locked by now.
 *
 * @throws {AppError} `wrong_credential`
 */
export async function requireAttester(trx: Trx, authority: Authority): Promise<void> {
  const isOfWorkspace =
    authority.kind === 'key'
      ? (await findAnyLine(trx, authority.id))?.workspaceId !== null
      : authority.kind === 'connection' && authority.userId === null
  if (isOfWorkspace)
    throw new AppError('wrong_credential', {
      detail: 'A credential of the workspace vouches for none of them: a person does, or a key of the organization.',
    })
}

export function actorOf(authority: Authority): Actor {
  if (authority.kind === 'operator') return authority
  if (authority.kind === 'person') return { kind: 'user', id: authority.userId }
  return { kind: authority.kind, id: authority.id }
}

/**
 * Locks the people of a change before the place that it has for itself: whoever acts, and whom it concerns. In the other
 * order it would wait in a circle with the erasure of an account, which locks the person and then their places.
 *
 * @param concerned from an address; nobody for what is no person's id
 */
export async function lockPeople(trx: Trx, authority: Authority, concerned?: string): Promise<void> {
  const acting = personOf(authority)
  if (acting !== null) await lockUser(trx, acting)
  if (concerned !== undefined && isUserId(concerned) && concerned !== acting) await lockUser(trx, concerned)
}

/**
 * Locks what authorises a change in a workspace.
 *
 * @throws {AppError} `not_found` where they do not reach the workspace, `unauthorized` where the credential is no longer
 * good, `role_too_low`, `recent_sign_in_required`
 */
export async function lockAuthority(
  trx: Trx,
  authority: Authority,
  workspaceId: string,
  needs: Needs<WorkspaceRole>,
): Promise<Authorised & { workspaceId: WorkspaceId }> {
  const person = await lockPerson(trx, authority, needs)
  const workspace = isWorkspaceId(workspaceId) ? await organizations.lockWorkspace(trx, workspaceId) : undefined
  if (workspace === undefined) throw new AppError('not_found')
  const place = { workspaceId: workspace.id, organizationId: workspace.organization_id }
  const roles = person && (await rolesIn(trx, place, person))
  const held = await lockCredential(trx, authority, place, needs)
  const role = roles === undefined ? held.role : effectiveRole(roles.workspace ?? null, roles.organization ?? null)
  if (role === undefined) throw new AppError('not_found')
  if (!isAtLeast(role, needs.role)) throw new AppError('role_too_low', { detail: needsRole(needs.role, 'workspace') })
  return { ...place, role, organizationRole: roles?.organization, userId: person ?? held.userId }
}

/** Where something is made: in a workspace, or in an organization itself. */
export type Owner = { workspaceId: string } | { organizationId: string }

/** Locks what authorises an admin's change in either. @throws {AppError} as `lockAuthority` */
export async function lockAdmin(
  trx: Trx,
  authority: Authority,
  owner: Owner,
  needs: { recentSignIn: boolean; changes?: KeyId | undefined },
) {
  const admin = { role: 'admin', ...needs } as const
  if ('workspaceId' in owner) return lockAuthority(trx, authority, owner.workspaceId, admin)
  return { ...(await lockOrganizationAuthority(trx, authority, owner.organizationId, admin)), workspaceId: null }
}

/**
 * Locks what authorises a change in an organization.
 *
 * @throws {AppError} as `lockAuthority`
 */
export async function lockOrganizationAuthority(
  trx: Trx,
  authority: Authority,
  organizationId: string,
  needs: Needs<OrganizationRole>,
): Promise<Authorised> {
  const person = await lockPerson(trx, authority, needs)
  const organization = isOrganizationId(organizationId)
    ? await organizations.findOrganization(trx, organizationId)
    : undefined
  if (organization === undefined) throw new AppError('not_found')
  const member = person && (await organizations.lockOrganizationMember(trx, organization.id, person))
  const place = { workspaceId: null, organizationId: organization.id }
  const held = await lockCredential(trx, authority, place, needs)
  const role = person === undefined ? held.role : member?.role
  if (role === undefined) throw new AppError('not_found')
  if (!isAtLeast(role, needs.role))
    throw new AppError('role_too_low', { detail: needsRole(needs.role, 'organization') })
  return { organizationId: organization.id, role, organizationRole: member?.role, userId: person ?? held.userId }
}

function personOf(authority: Authority): UserId | null {
  return authority.kind === 'person' || authority.kind === 'connection' ? authority.userId : null
}

/** @returns the person whose role counts; undefined for keys, commands, and a client's own connection */
async function lockPerson(
  trx: Trx,
  authority: Authority,
  needs: { recentSignIn?: boolean },
): Promise<UserId | undefined> {
  const userId = personOf(authority)
  if (userId === null) return undefined
  const user = await lockUser(trx, userId)
  if (user === undefined || user.suspended_at !== null) throw new AppError('unauthorized')
  if (authority.kind !== 'person') return userId
  const session = { suspendedAt: user.suspended_at, sessionsNotBefore: user.sessions_not_before }
  if (!isSessionGood(session, authority.signedInAt)) throw new AppError('unauthorized')
  if (needs.recentSignIn === true) {
    const age = (await readTime(trx)).getTime() / 1000 - authority.signedInAt
    if (age > RECENT_SIGN_IN_SECONDS) throw new AppError('recent_sign_in_required')
  }
  return userId
}

type Place = { organizationId: OrganizationId; workspaceId: WorkspaceId | null }

async function rolesIn(
  trx: Trx,
  place: { organizationId: OrganizationId; workspaceId: WorkspaceId },
  userId: UserId,
): Promise<{ workspace: WorkspaceRole | undefined; organization: OrganizationRole | undefined }> {
  const member = await organizations.lockWorkspaceMember(trx, place.workspaceId, userId)
  const organizationMember = await organizations.lockOrganizationMember(trx, place.organizationId, userId)
  return { workspace: member?.role, organization: organizationMember?.role }
}

/** The presenting key or connection. A person's session was looked at with the person. */
async function lockCredential(
  trx: Trx,
  authority: Authority,
  place: Place,
  needs: { changes?: KeyId | undefined },
): Promise<{ role: WorkspaceRole | undefined; userId: UserId | null }> {
  if (authority.kind === 'operator') return { role: 'owner', userId: null }
  if (authority.kind === 'person') return { role: undefined, userId: authority.userId }
  if (authority.kind === 'connection') {
    const connection = await connections.lockConnection(trx, authority.id)
    const state = connection && { ...connection, closedAt: connection.closed_at, suspendedAt: connection.suspended_at }
    if (state === undefined || !isVersionGood(state, authority.version)) throw new AppError('unauthorized')
    if (state.workspace_id !== place.workspaceId) throw new AppError('workspace_mismatch')
    return { role: KEY_ROLE, userId: state.user_id }
  }
  const line = await lockLine(trx, authority.id, authority.id === needs.changes ? 'update' : 'share')
  const version = line?.versions.find((candidate) => candidate.version === authority.version)
  if (line === undefined || version === undefined || versionFault(line, version, await readTime(trx)) !== undefined) {
    throw new AppError('unauthorized')
  }
  if (line.organizationId !== place.organizationId) throw new AppError('not_found')
  if (line.workspaceId !== null && line.workspaceId !== place.workspaceId) throw new AppError('workspace_mismatch')
  return { role: KEY_ROLE, userId: line.userId }
}

function needsRole(role: string, where: string): string {
  return `This takes the role ${role} or above in the ${where}.`
}

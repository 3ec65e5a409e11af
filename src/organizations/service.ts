// Organizations, workspaces and their members.

import { findUser, lockUser } from '../accounts/store.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import { once, type Repeatable } from '../idempotency/service.ts'
import { isOrganizationId, isWorkspaceId, newId, type OrganizationId, type UserId, type WorkspaceId } from '../ids.ts'
import type { Authority } from '../principals/rules.ts'
import {
  type Authorised,
  actorOf,
  lockAuthority,
  lockOrganizationAuthority,
  lockPeople,
} from '../principals/service.ts'
import { deleteProvidersIn } from '../providers/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import { type Db, reading, type Trx, transact } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { effectiveRole } from './rules.ts'
import * as store from './store.ts'

export interface Organization {
  id: OrganizationId
  name: string
  created_at: string
}

export interface Workspace {
  id: WorkspaceId
  organization_id: OrganizationId
  owner_id: UserId
  name: string
  billing_email: string | null
  created_at: string
}

/** The person who reaches a workspace, the way they do. */
export interface ReachableWorkspace {
  id: WorkspaceId
  name: string
  organizationId: OrganizationId
  organizationName: string
  role: WorkspaceRole
}

interface By {
  actor: Actor
  request: RequestInfo
}

/** A change that somebody asks for over the API or a page. */
export interface Asked {
  authority: Authority
  request: RequestInfo
}

/** @throws {AppError} `not_found` for an unknown owner */
export function createOrganization(db: Db, input: { name: string; owner: string } & By): Promise<Organization> {
  return transact(db, async (trx) => {
    const owner = await requireUser(trx, input.owner)
    const id = newId('org')
    const createdAt = await store.insertOrganization(trx, { id, name: input.name })
    await store.putOrganizationMember(trx, { organization_id: id, user_id: owner, role: 'owner' })
    await record(trx, {
      event: 'organization.created',
      status: 'pass',
      actor: input.actor,
      request: input.request,
      organizationId: id,
      userId: owner,
      detail: { name: input.name },
    })
    return { id, name: input.name, created_at: createdAt.toISOString() }
  })
}

/** @throws {AppError} `not_found` for an unknown organization or owner */
export function createWorkspace(
  db: Db,
  input: { organization: string; name: string; owner: string; billingEmail?: string | undefined } & By,
): Promise<Workspace> {
  return transact(db, async (trx) => {
    const owner = await requireUser(trx, input.owner)
    const organization = await store.lockOrganization(trx, input.organization)
    if (organization === undefined)
      throw new AppError('not_found', { detail: `There is no organization ${input.organization}.` })
    const id = newId('ws')
    const row = {
      id,
      organization_id: organization.id,
      name: input.name,
      owner_id: owner,
      billing_email: input.billingEmail ?? null,
    }
    const createdAt = await store.insertWorkspace(trx, row)
    await store.ensureOrganizationMember(trx, { organization_id: organization.id, user_id: owner })
    await store.putWorkspaceMember(trx, { workspace_id: id, user_id: owner, role: 'owner' })
    await record(trx, {
      event: 'workspace.created',
      status: 'pass',
      actor: input.actor,
      request: input.request,
      organizationId: organization.id,
      workspaceId: id,
      userId: owner,
      detail: { name: input.name },
    })
    return { ...row, created_at: createdAt.toISOString() }
  })
}

export interface WorkspaceRow {
  id: WorkspaceId
  organization_id: OrganizationId
  owner_id: UserId
  name: string
  billing_email: string | null
  cost_centre: string | null
  archived_at: Date | null
  created_at: Date
}

/**
 * Makes a workspace. Whoever asks becomes its owner; behind a key that is who made the key, or the organization's owner
 * once that person has left.
 *
 * @throws {AppError} what `lockOrganizationAuthority` throws
 */
export async function openWorkspace(
  db: Db,
  input: {
    organizationId: string
    name: string
    billingEmail: string | null
    costCentre: string | null
    repeatable?: Repeatable | undefined
  } & Asked,
): Promise<{ workspace: WorkspaceRow; isRepeat: boolean }> {
  return transact(db, async (trx) => {
    const { result, isRepeat } = await once(trx, input.repeatable, async () => {
      await lockPeople(trx, input.authority)
      await store.lockOrganization(trx, input.organizationId)
      const place = await lockOrganizationAuthority(trx, input.authority, input.organizationId, { role: 'admin' })
      const owner = await ownerFor(trx, place)
      const id = newId('ws')
      await store.insertWorkspace(trx, {
        id,
        organization_id: place.organizationId,
        name: input.name,
        owner_id: owner,
        billing_email: input.billingEmail,
        cost_centre: input.costCentre,
      })
      await store.putWorkspaceMember(trx, { workspace_id: id, user_id: owner, role: 'owner' })
      await record(trx, {
        event: 'workspace.created',
        status: 'pass',
        actor: actorOf(input.authority),
        request: input.request,
        organizationId: place.organizationId,
        workspaceId: id,
        userId: owner,
        detail: { name: input.name },
      })
      return { id }
    })
    const workspace = await store.findWorkspace(trx, result.id)
    if (workspace === undefined) throw new AppError('not_found')
    return { workspace, isRepeat }
  })
}

async function ownerFor(trx: Trx, place: Authorised): Promise<UserId> {
  const { organizationId, userId } = place
  if (userId !== null && (await store.lockOrganizationMember(trx, organizationId, userId)) !== undefined) return userId
  const owner = await store.findOwner(trx, organizationId)
  if (owner === undefined) throw new AppError('last_owner', { detail: 'This organization has no owner.' })
  return owner
}

/** @throws {AppError} what `lockAuthority` throws */
export function changeWorkspace(
  db: Db,
  input: {
    workspaceId: string
    change: { name?: string; billing_email?: string | null; cost_centre?: string | null }
  } & Asked,
): Promise<WorkspaceRow> {
  return transact(db, async (trx) => {
    await lockPeople(trx, input.authority)
    await store.lockWorkspaceForUpdate(trx, input.workspaceId)
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin' })
    if (Object.keys(input.change).length > 0) {
      await store.updateWorkspace(trx, place.workspaceId, input.change)
      await record(trx, {
        event: 'workspace.changed',
        status: 'pass',
        actor: actorOf(input.authority),
        request: input.request,
        organizationId: place.organizationId,
        workspaceId: place.workspaceId,
        // An address of a person stays out of the log: that it changed is what counts.
        detail: {
          changed: Object.keys(input.change),
          ...(input.change.name === undefined ? {} : { name: input.change.name }),
        },
      })
    }
    const workspace = await store.findWorkspace(trx, place.workspaceId)
    if (workspace === undefined) throw new AppError('not_found')
    return workspace
  })
}

/**
 * Archives a workspace: every credential in it has ended, everywhere, and every provider key is gone, once this resolves.
 *
 * @throws {AppError} what `lockAuthority` throws
 */
export function archiveWorkspace(
  revocations: RevocationList,
  input: { workspaceId: string } & Asked,
): Promise<WorkspaceRow> {
  return revocations.change(async (trx, revoke) => {
    await lockPeople(trx, input.authority)
    await store.lockWorkspaceForUpdate(trx, input.workspaceId)
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin', recentSignIn: true })
    await store.archiveWorkspace(trx, place.workspaceId)
    await record(trx, {
      event: 'workspace.archived',
      status: 'pass',
      actor: actorOf(input.authority),
      request: input.request,
      organizationId: place.organizationId,
      workspaceId: place.workspaceId,
    })
    const by = { actor: actorOf(input.authority), request: input.request, userId: place.userId }
    await deleteProvidersIn(trx, place.workspaceId, by)
    revoke({ subject: place.workspaceId, closed: true })
    const workspace = await store.findWorkspace(trx, place.workspaceId)
    if (workspace === undefined) throw new AppError('not_found')
    return workspace
  })
}

/** A workspace as somebody reaches it. */
export interface Reached {
  workspace: WorkspaceRow
  /** Of a person; undefined when they are not in it. */
  role: WorkspaceRole | undefined
  /** Theirs in the organization itself. */
  organizationRole: OrganizationRole | undefined
}

/** An active workspace, with the role of a person in it. Undefined for an unknown one. */
export async function findReached(db: Db, id: string, userId: UserId | null): Promise<Reached | undefined> {
  const row = isWorkspaceId(id) ? await reading(store.findWithRoles(db, id, userId)) : undefined
  if (row === undefined) return undefined
  const { workspace_role, organization_role, ...workspace } = row
  const role = effectiveRole(workspace_role, organization_role)
  return { workspace, role, organizationRole: organization_role ?? undefined }
}

/** An organization, with the role of a person in it. Undefined for an unknown one. */
export async function findOrganizationReached(db: Db, id: string, userId: UserId | null) {
  const organization = isOrganizationId(id) ? await reading(store.findOrganization(db, id)) : undefined
  if (organization === undefined) return undefined
  const member = userId === null ? undefined : await reading(store.findOrganizationMember(db, organization.id, userId))
  return { organization, role: member?.role }
}

/** Every active workspace of an organization, in the order in which they were made. */
export function listWorkspacesIn(
  db: Db,
  organizationId: OrganizationId,
  page: { after?: string | undefined; limit?: number | undefined } = {},
): Promise<WorkspaceRow[]> {
  return reading(store.listWorkspacesIn(db, organizationId, page))
}

/** Organizations where a person is a member, with their role there. */
export function listOrganizationsOf(db: Db, userId: UserId) {
  return reading(store.listOrganizationsOf(db, userId))
}

/**
 * Adds a person to a workspace, or to an organization.
 *
 * @throws {AppError} `not_found` for an unknown person, workspace or organization; `conflict` for a person who is
 * already a member: changing a role ends access, and has its own way
 */
export function addMember(
  db: Db,
  input: ({ workspace: string; role: WorkspaceRole } | { organization: string; role: OrganizationRole }) & {
    user: string
  } & By,
): Promise<{ user_id: UserId; role: string; organization_id: OrganizationId; workspace_id: WorkspaceId | null }> {
  return transact(db, async (trx) => {
    const user = await requireUser(trx, input.user)
    const place =
      'workspace' in input
        ? await placeOfWorkspace(trx, input.workspace)
        : await placeOfOrganization(trx, input.organization)
    const present =
      place.workspaceId === null
        ? await store.lockOrganizationMember(trx, place.organizationId, user)
        : await store.lockWorkspaceMember(trx, place.workspaceId, user)
    if (present !== undefined) {
      throw new AppError('conflict', {
        detail: `This person is already a member there, with the role ${present.role}.`,
      })
    }
    if ('workspace' in input && place.workspaceId !== null) {
      await store.ensureOrganizationMember(trx, { organization_id: place.organizationId, user_id: user })
      await store.putWorkspaceMember(trx, { workspace_id: place.workspaceId, user_id: user, role: input.role })
    } else if ('organization' in input) {
      await store.putOrganizationMember(trx, { organization_id: place.organizationId, user_id: user, role: input.role })
    }
    await record(trx, {
      event: 'member.added',
      status: 'pass',
      actor: input.actor,
      request: input.request,
      organizationId: place.organizationId,
      workspaceId: place.workspaceId,
      userId: user,
      detail: { role: input.role },
    })
    return { user_id: user, role: input.role, organization_id: place.organizationId, workspace_id: place.workspaceId }
  })
}

/** For operators: all there are. */
export async function listOrganizations(db: Db): Promise<Organization[]> {
  const rows = await store.listOrganizations(db)
  return rows.map((row) => ({ ...row, created_at: row.created_at.toISOString() }))
}

/** For operators: all that are not archived. */
export async function listWorkspaces(db: Db): Promise<Workspace[]> {
  const rows = await store.listWorkspaces(db)
  return rows.map((row) => ({ ...row, created_at: row.created_at.toISOString() }))
}

/** Every workspace that a person reaches, with the role that counts there. */
export async function listReachableWorkspaces(db: Db, userId: UserId): Promise<ReachableWorkspace[]> {
  const rows = await store.listWorkspacesOf(db, userId)
  return rows.flatMap((row) => {
    const role = effectiveRole(row.role, row.organization_role)
    return role === undefined
      ? []
      : [
          {
            id: row.id,
            name: row.name,
            organizationId: row.organization_id,
            organizationName: row.organization_name,
            role,
          },
        ]
  })
}

/** A page of what a person reaches, as rows, in the order in which they were made. */
export async function listWorkspacesOf(
  db: Db,
  userId: UserId,
  page: { after?: string | undefined; limit?: number | undefined },
): Promise<WorkspaceRow[]> {
  const { after } = page
  return (await reading(store.listWorkspacesOf(db, userId)))
    .toSorted((a, b) => (a.id < b.id ? -1 : 1))
    .filter(({ id }) => after === undefined || id > after)
    .slice(0, page.limit)
}

/**
 * A person's role in a workspace, locked with the workspace until the transaction ends: nobody takes it from under a
 * credential that is being made. Undefined when the workspace is archived or unknown, or they are not in it.
 */
export async function lockRole(
  trx: Trx,
  workspaceId: string,
  userId: UserId,
): Promise<{ role: WorkspaceRole; workspaceId: WorkspaceId; organizationId: OrganizationId } | undefined> {
  const workspace = await store.lockWorkspace(trx, workspaceId)
  if (workspace === undefined) return undefined
  const member = await store.lockWorkspaceMember(trx, workspace.id, userId)
  const organizationMember = await store.lockOrganizationMember(trx, workspace.organization_id, userId)
  const role = effectiveRole(member?.role ?? null, organizationMember?.role ?? null)
  return role && { role, workspaceId: workspace.id, organizationId: workspace.organization_id }
}

async function placeOfWorkspace(trx: Trx, id: string) {
  const workspace = await store.lockWorkspace(trx, id)
  if (workspace === undefined) throw new AppError('not_found', { detail: `There is no workspace ${id}.` })
  return { organizationId: workspace.organization_id, workspaceId: workspace.id }
}

async function placeOfOrganization(trx: Trx, id: string) {
  const organization = await store.findOrganization(trx, id)
  if (organization === undefined) throw new AppError('not_found', { detail: `There is no organization ${id}.` })
  return { organizationId: organization.id, workspaceId: null }
}

/** Locked, so that nobody erases them meanwhile: people come before places. */
async function requireUser(trx: Trx, idOrEmail: string): Promise<UserId> {
  const found = await findUser(trx, idOrEmail)
  const user = found && (await lockUser(trx, found.id))
  if (user === undefined) throw new AppError('not_found', { detail: `There is no person ${idOrEmail}.` })
  return user.id
}

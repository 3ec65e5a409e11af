// Whose records a caller of the JSON API sees: an organization's for its admins and keys, a workspace's for its admins and
// for credentials of that workspace.
import { AppError } from '../errors.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { findOrganizationReached, findReached, listOrganizationsOf, type Reached } from '../organizations/service.ts'
import { findWorkspace } from '../organizations/store.ts'
import type { Principal } from '../principals/rules.ts'
import { type Db, reading } from '../store/database.ts'
import type { Scope } from './rules.ts'

interface Place {
  organization_id?: string | undefined
  workspace_id?: string | undefined
}

/**
 * @throws {AppError} `not_found` for what the caller does not reach, `workspace_mismatch`, `role_too_low`;
 * `invalid_request` for a person of several organizations who names none
 */
export async function scopeOf(db: Db, principal: Principal, place: Place): Promise<Scope> {
  if (principal.workspaceId !== undefined) return ofCredential(db, principal, principal.workspaceId, place)
  if (principal.organizationId !== undefined) return ofOrganizationKey(db, principal.organizationId, place)
  return ofPerson(db, principal, place)
}

async function ofCredential(db: Db, principal: Principal, workspaceId: string, place: Place): Promise<Scope> {
  if (place.workspace_id !== undefined && place.workspace_id !== workspaceId) throw new AppError('workspace_mismatch')
  const { authority } = principal
  const person = authority.kind === 'connection' ? authority.userId : null
  const found = await findReached(db, workspaceId, person)
  if (found === undefined || isOther(place, found)) throw new AppError('not_found')
  // A connection of a person sees what that person may see.
  if (person !== null) requireAdmin(found)
  return { chain: found.workspace.organization_id, workspaceId }
}

async function ofOrganizationKey(db: Db, organizationId: string, place: Place): Promise<Scope> {
  if (place.organization_id !== undefined && place.organization_id !== organizationId) throw new AppError('not_found')
  await requireWorkspaceOf(db, organizationId, place.workspace_id)
  return { chain: organizationId, workspaceId: undefined }
}

async function ofPerson(db: Db, { userId }: Principal, place: Place): Promise<Scope> {
  if (place.organization_id !== undefined) {
    const found = await findOrganizationReached(db, place.organization_id, userId)
    if (found?.role === undefined) throw new AppError('not_found')
    if (!isAtLeast(found.role, 'admin')) throw tooLow()
    await requireWorkspaceOf(db, found.organization.id, place.workspace_id)
    return { chain: found.organization.id, workspaceId: undefined }
  }
  if (place.workspace_id !== undefined) {
    const found = await findReached(db, place.workspace_id, userId)
    if (found?.role === undefined) throw new AppError('not_found')
    requireAdmin(found)
    return { chain: found.workspace.organization_id, workspaceId: found.workspace.id }
  }
  const all = userId === null ? [] : await listOrganizationsOf(db, userId)
  const [only, ...others] = all.filter(({ role }) => isAtLeast(role, 'admin'))
  if (only !== undefined && others.length === 0) return { chain: only.id, workspaceId: undefined }
  throw new AppError('invalid_request', {
    detail: 'Name the organization_id, or the workspace_id, whose log you read.',
  })
}

/** Naming a workspace of somebody else is the same 404 as everywhere; one that was archived may still be looked at. */
async function requireWorkspaceOf(db: Db, organizationId: string, workspaceId: string | undefined): Promise<void> {
  if (workspaceId === undefined) return
  const found = await reading(findWorkspace(db, workspaceId))
  if (found?.organization_id !== organizationId) throw new AppError('not_found')
}

const isOther = (place: Place, { workspace }: Reached): boolean =>
  place.organization_id !== undefined && place.organization_id !== workspace.organization_id

function requireAdmin({ role }: Reached): void {
  if (role === undefined || !isAtLeast(role, 'admin')) throw tooLow()
}

const tooLow = () => new AppError('role_too_low', { detail: 'The audit log takes the role admin or above.' })

// What pages say about workspaces and people before somebody decides: counts, owners, roles. Reads only.
import type { OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { ReachableWorkspace } from '../organizations/service.ts'
import { findOrganizationMember } from '../organizations/store.ts'
import { type Db, reading } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import * as store from './store.ts'

export interface Counts {
  members: number
  tokens: number
  connections: number
}

export interface WorkspaceSummary extends ReachableWorkspace, Counts {
  /** Names, the longest-standing first. */
  owners: string[]
}

/** Workspaces that somebody reaches, with what is in them. The caller has looked at what they reach. */
export async function summarize(db: Db, workspaces: readonly ReachableWorkspace[]): Promise<WorkspaceSummary[]> {
  const ids = workspaces.map(({ id }) => id)
  const [counts, owners] = await Promise.all([countsOf(db, ids), reading(store.listOwners(db, ids))])
  return workspaces.map((workspace) => ({
    ...workspace,
    ...counts(workspace.id),
    owners: owners.filter((owner) => owner.workspace_id === workspace.id).map(({ name }) => name),
  }))
}

/** What is in one workspace. */
export async function countIn(db: Db, id: WorkspaceId): Promise<Counts> {
  return (await countsOf(db, [id]))(id)
}

async function countsOf(db: Db, ids: readonly WorkspaceId[]): Promise<(id: WorkspaceId) => Counts> {
  const [members, tokens, connections] = await Promise.all([
    reading(store.countMembers(db, ids)),
    reading(store.countTokens(db, ids)),
    reading(store.countConnections(db, ids)),
  ])
  const by = (rows: ReadonlyArray<{ workspace_id: string | null; count: string }>) =>
    new Map(rows.map((row) => [row.workspace_id, Number(row.count)]))
  const [m, t, c] = [by(members), by(tokens), by(connections)]
  return (id) => ({ members: m.get(id) ?? 0, tokens: t.get(id) ?? 0, connections: c.get(id) ?? 0 })
}

/** A person's roles in an organization. */
export interface Standing {
  organizationRole: OrganizationRole | undefined
  /** Where they are a member themselves. */
  workspaces: Array<{ id: WorkspaceId; name: string; role: WorkspaceRole }>
}

export async function standingOf(db: Db, organizationId: OrganizationId, userId: UserId): Promise<Standing> {
  const [member, workspaces] = await Promise.all([
    reading(findOrganizationMember(db, organizationId, userId)),
    reading(store.listRolesIn(db, organizationId, userId)),
  ])
  return { organizationRole: member?.role, workspaces }
}

// What pages say about workspaces and people before somebody decides: counts, owners, what a change would end. Reads only.
import type { ConnectionId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import { effectiveRole, mayConnect } from '../organizations/rules.ts'
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

/** What stands on a person's roles in an organization. */
export interface Standing {
  organizationRole: OrganizationRole | undefined
  /** Where they are a member themselves. */
  workspaces: Array<{ id: WorkspaceId; name: string; role: WorkspaceRole }>
  connections: Array<{
    id: ConnectionId
    workspace_id: WorkspaceId
    workspace_name: string
    client_name: string
    created_at: Date
  }>
  /** Tokens that they made: the workspaces' own. */
  tokens: Array<{ workspace_id: WorkspaceId }>
}

export async function standingOf(db: Db, organizationId: OrganizationId, userId: UserId): Promise<Standing> {
  const [member, workspaces, connections, tokens] = await Promise.all([
    reading(findOrganizationMember(db, organizationId, userId)),
    reading(store.listRolesIn(db, organizationId, userId)),
    reading(store.listConnectionsOf(db, organizationId, userId)),
    reading(store.listTokensMadeBy(db, organizationId, userId)),
  ])
  return { organizationRole: member?.role, workspaces, connections, tokens }
}

/** Which of their connections would end with these roles, in the organization and in one of its workspaces. */
export function endingWith(
  standing: Standing,
  change: { organizationRole?: OrganizationRole; workspace?: { id: WorkspaceId; role: WorkspaceRole | null } },
): Standing['connections'] {
  const organizationRole = change.organizationRole ?? standing.organizationRole ?? null
  return standing.connections.filter(({ workspace_id }) => {
    const role =
      change.workspace?.id === workspace_id
        ? change.workspace.role
        : (standing.workspaces.find(({ id }) => id === workspace_id)?.role ?? null)
    return !mayConnect(effectiveRole(role, organizationRole))
  })
}

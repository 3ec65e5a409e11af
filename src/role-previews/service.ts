// What a change of somebody's roles would come to, asked before it is made. The change itself decides in the same way.
import { type ConnectionView, listOwnConnections } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import type { OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import { listSent } from '../invitations/service.ts'
import type { InvitationRow } from '../invitations/store.ts'
import {
  type Consequences,
  consequencesOf,
  fallenIn,
  inOrganization,
  isWithin,
  type RoleChange,
  withinOf,
} from '../members/rules.ts'
import { findOrganizationMember, findWorkspaceMember } from '../members/service.ts'
import * as organizations from '../organizations/store.ts'
import { lastOwned, type OwnedPlace } from '../ownership/service.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { type Db, reading, readTime } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { ROTATE_WITHIN_DAYS, rotationRequired } from '../workspace-tokens/rules.ts'
import { listTokensOfPerson } from '../workspace-tokens/service.ts'
import type { TokenLine } from '../workspace-tokens/store.ts'

export interface PreviewDeps {
  db: Db
  resourceServers: Pick<ResourceServers, 'list'>
}

/** What a change of somebody's roles would come to, before anybody decides. */
export interface Preview extends Consequences<ConnectionView, TokenLine, InvitationRow> {
  userId: UserId
  /** Where they are the last owner: such a change is refused. */
  lastOwnerOf: OwnedPlace[]
  /** By when what must be rotated is to be: of each token. */
  rotateBy: (token: TokenLine) => Date
  /** Where an access review opens, if anything is left there to attest. */
  reviewedIn: WorkspaceId[]
}

/**
 * What each of these roles in a workspace would come to for a member.
 *
 * @param input.roles null: removal
 * @throws {AppError} `not_found` for somebody who is no member
 */
export async function previewInWorkspace(
  deps: PreviewDeps,
  input: {
    workspace: { id: WorkspaceId; organization_id: OrganizationId }
    userId: string
    roles: ReadonlyArray<WorkspaceRole | null>
  },
): Promise<Preview[]> {
  const { id, organization_id: organizationId } = input.workspace
  const member = await findWorkspaceMember(deps.db, id, input.userId)
  if (member === undefined) throw new AppError('not_found', { detail: 'Nobody in this workspace has that id.' })
  const organization = await reading(organizations.findOrganizationMember(deps.db, organizationId, member.user_id))
  const held = organization?.role ?? null
  const changes = input.roles.map((after) => ({
    organization: { before: held, after: held },
    workspaces: new Map([[id, { before: member.role, after }]]),
  }))
  return previews(deps, { organizationId, userId: member.user_id, changes })
}

/** The same, of roles in an organization. */
export async function previewInOrganization(
  deps: PreviewDeps,
  input: { organizationId: OrganizationId; userId: string; roles: ReadonlyArray<OrganizationRole | null> },
): Promise<Preview[]> {
  const { organizationId } = input
  const member = await findOrganizationMember(deps.db, organizationId, input.userId)
  if (member === undefined) throw new AppError('not_found', { detail: 'Nobody in this organization has that id.' })
  const workspaces = await reading(organizations.listWorkspacesWithMember(deps.db, organizationId, member.user_id))
  const changes = input.roles.map((after) => inOrganization(workspaces, { before: member.role, after }))
  return previews(deps, { organizationId, userId: member.user_id, changes })
}

interface Previewing {
  organizationId: OrganizationId
  userId: UserId
  changes: readonly RoleChange[]
}

/** What stands on somebody's roles is read once, for all that it is asked about. */
async function previews(
  { db, resourceServers }: PreviewDeps,
  { organizationId, userId, changes }: Previewing,
): Promise<Preview[]> {
  const everywhere = { workspaceIds: changes.flatMap(({ workspaces }) => [...workspaces.keys()]), organizationId }
  const [servers, now, connections, tokens, sent] = await Promise.all([
    resourceServers.list(),
    reading(readTime(db)),
    listOwnConnections(db, userId),
    reading(listTokensOfPerson(db, userId, everywhere)),
    reading(listSent(db, userId)),
  ])
  const all = connections.map((view) => ({ view, workspaceId: view.workspace.id, approved: view.approved }))
  const rotateBy = (token: TokenLine) =>
    rotationRequired(token, token.versions, now)?.by ?? new Date(now.getTime() + ROTATE_WITHIN_DAYS * DAY_MS)
  return Promise.all(
    changes.map(async (change) => {
      const within = withinOf(organizationId, change)
      const standing = {
        connections: all.filter(({ workspaceId }) => within.workspaceIds.includes(workspaceId)),
        tokens: tokens.filter(({ workspaceId }) => workspaceId !== null || within.organizationId !== null),
        invitations: sent.filter((invitation) => isWithin(within, invitation)),
      }
      const found = isUnchanged(change) ? NOTHING : consequencesOf(change, standing, { servers, now })
      return {
        ...found,
        connections: found.connections.map(({ connection, outcome }) => ({ connection: connection.view, outcome })),
        userId,
        lastOwnerOf: await reading(lastOwned(db, organizationId, userId, change)),
        rotateBy,
        reviewedIn: fallenIn(change),
      }
    }),
  )
}

const NOTHING = { connections: [], rotates: [], cancels: [] }
const DAY_MS = 86_400_000

/** The role that they have already: nothing is changed then. */
function isUnchanged({ organization, workspaces }: RoleChange): boolean {
  return [organization, ...workspaces.values()].every(({ before, after }) => before === after)
}

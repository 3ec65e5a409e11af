// Organizations, workspaces and members over the JSON API.
import { z } from 'zod'
import { ABOVE_WORKSPACES, ANY_CREDENTIAL, type Route, route, workspaceOf } from '../api/route.ts'
import { AppError } from '../errors.ts'
import {
  addToWorkspace,
  changeOrganizationRole,
  changeRole,
  listOrganizationMembers,
  listWorkspaceMembers,
  removeFromOrganization,
  removeFromWorkspace,
  transferOwnership,
} from '../members/service.ts'
import type { Principal } from '../principals/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import type { Db } from '../store/database.ts'
import { rfc3339 } from '../times.ts'
import * as shapes from './schemas.ts'
import {
  archiveWorkspace,
  changeWorkspace,
  findReached,
  listOrganizationsOf,
  listWorkspacesIn,
  listWorkspacesOf,
  openWorkspace,
  type WorkspaceRow,
} from './service.ts'

export interface OrganizationRoutesDeps {
  db: Db
  revocations: RevocationList
  resourceServers: ResourceServers
}

const memberParams = shapes.workspaceParams.extend({ user_id: z.string() })
const organizationMemberParams = shapes.organizationParams.extend({ user_id: z.string() })
const NO_CONTENT = { 204: { description: 'Done' } }

export function organizationRoutes(deps: OrganizationRoutesDeps): Route[] {
  return [...workspaceRoutes(deps), ...memberRoutes(deps), ...ofOrganizations(deps)]
}

function workspaceRoutes(deps: OrganizationRoutesDeps): Route[] {
  const { db, revocations } = deps
  const tag = 'Workspaces'
  const detail = { 200: { description: 'The workspace', schema: shapes.workspaceDetailShape } }
  return [
    route({
      method: 'POST',
      path: '/workspaces',
      operationId: 'createWorkspace',
      summary: 'Create a workspace',
      description:
        'The caller becomes its owner; behind an organization key that is who made the key. Takes an organization admin.',
      tag,
      rule: { who: 'caller', permission: 'manage', credentials: ABOVE_WORKSPACES },
      body: shapes.newWorkspace,
      repeatable: true,
      answers: {
        201: { description: 'The new workspace', schema: shapes.workspaceShape },
        200: { description: 'The workspace that the same Idempotency-Key made', schema: shapes.workspaceShape },
      },
      async handle({ body, principal, by, repeatable }) {
        const { workspace, isRepeat } = await openWorkspace(db, {
          organizationId: await organizationFor(db, principal, body.organization_id),
          name: body.name,
          billingEmail: body.billing_email ?? null,
          costCentre: body.cost_centre ?? null,
          repeatable,
          ...by,
        })
        return { status: isRepeat ? 200 : 201, body: shapes.presentWorkspace(workspace) }
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces',
      operationId: 'listWorkspaces',
      summary: 'List the workspaces that the caller reaches',
      description:
        'For an organization key: every active workspace of the organization. For a token or a connection: its own. A flat array; all of it unless a limit is given.',
      tag,
      rule: { who: 'caller', permission: 'read', credentials: ANY_CREDENTIAL },
      query: shapes.pageQuery,
      answers: { 200: { description: 'Workspaces', schema: z.array(shapes.workspaceShape) } },
      async handle({ principal, query, pages }) {
        const after = pages.after(query.cursor)
        const limit = query.limit
        const found = await listReached(db, principal, { after, limit: limit && limit + 1 })
        return { status: 200, body: pages.cut(found, limit, ({ id }) => id).map(shapes.presentWorkspace) }
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id',
      operationId: 'getWorkspace',
      summary: 'Show a workspace',
      tag,
      rule: { who: 'workspace', permission: 'read', role: 'viewer', credentials: ANY_CREDENTIAL },
      params: shapes.workspaceParams,
      answers: detail,
      handle: async ({ reach }) => ({ status: 200, body: shapes.presentWorkspaceDetail(workspaceOf(reach)) }),
    }),
    route({
      method: 'PATCH',
      path: '/workspaces/:workspace_id',
      operationId: 'changeWorkspace',
      summary: 'Rename a workspace, or change where its bills go',
      tag,
      rule: { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL },
      params: shapes.workspaceParams,
      body: shapes.workspaceChange,
      answers: detail,
      async handle({ params, body, by }) {
        const change = Object.fromEntries(Object.entries(body).filter(([, value]) => value !== undefined))
        const workspace = await changeWorkspace(db, { workspaceId: params.workspace_id, change, ...by })
        return { status: 200, body: shapes.presentWorkspaceDetail(workspace) }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/archive',
      operationId: 'archiveWorkspace',
      summary: 'Archive a workspace: every credential in it ends, everywhere, at once',
      tag,
      rule: { who: 'workspace', permission: 'manage', role: 'admin', credentials: ABOVE_WORKSPACES },
      params: shapes.workspaceParams,
      body: z.strictObject({}),
      answers: detail,
      async handle({ params, by }) {
        const workspace = await archiveWorkspace(revocations, { workspaceId: params.workspace_id, ...by })
        return { status: 200, body: shapes.presentWorkspaceDetail(workspace) }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/transfer',
      operationId: 'transferWorkspace',
      summary: 'Hand a workspace over to another member; the old owner stays as an admin',
      tag,
      rule: { who: 'workspace', permission: 'manage', role: 'admin', credentials: ['session'] },
      params: shapes.workspaceParams,
      body: shapes.transfer,
      answers: detail,
      async handle({ params, body, by }) {
        await transferOwnership(deps, { workspaceId: params.workspace_id, userId: body.user_id, ...by })
        const found = await findReached(db, params.workspace_id, null)
        if (found === undefined) throw new AppError('not_found')
        return { status: 200, body: shapes.presentWorkspaceDetail(found.workspace) }
      },
    }),
  ]
}

function memberRoutes(deps: OrganizationRoutesDeps): Route[] {
  const { db } = deps
  const tag = 'Members'
  const member = { description: 'The member', schema: shapes.memberShape }
  return [
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/members',
      operationId: 'listMembers',
      summary: 'List the members of a workspace',
      tag,
      rule: { who: 'workspace', permission: 'read', role: 'viewer', credentials: ANY_CREDENTIAL },
      params: shapes.workspaceParams,
      answers: { 200: { description: 'Members', schema: z.array(shapes.memberShape) } },
      async handle({ reach }) {
        const members = await listWorkspaceMembers(db, workspaceOf(reach).id)
        return { status: 200, body: members.map(shapes.presentMember) }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/members',
      operationId: 'addMember',
      summary: 'Add somebody of the organization to a workspace',
      tag,
      rule: { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL },
      params: shapes.workspaceParams,
      body: shapes.newMember,
      answers: { 201: member },
      async handle({ params, body, by }) {
        const added = await addToWorkspace(db, {
          workspaceId: params.workspace_id,
          userId: body.user_id,
          role: body.role,
          ...by,
        })
        return { status: 201, body: shapes.presentMember(added) }
      },
    }),
    route({
      method: 'PATCH',
      path: '/workspaces/:workspace_id/members/:user_id',
      operationId: 'changeMember',
      summary: 'Give a member another role',
      description: 'Their connections sign new tokens from now on; what the new role cannot hold ends at once.',
      tag,
      rule: { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL },
      params: memberParams,
      body: shapes.roleChange,
      answers: { 200: member },
      async handle({ params, body, by }) {
        const changed = await changeRole(deps, {
          workspaceId: params.workspace_id,
          userId: params.user_id,
          role: body.role,
          ...by,
        })
        return { status: 200, body: shapes.presentMember(changed) }
      },
    }),
    route({
      method: 'DELETE',
      path: '/workspaces/:workspace_id/members/:user_id',
      operationId: 'removeMember',
      summary: 'Remove a member; their connections to the workspace end at once',
      tag,
      rule: { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL },
      params: memberParams,
      answers: NO_CONTENT,
      async handle({ params, by }) {
        await removeFromWorkspace(deps, {
          workspaceId: params.workspace_id,
          userId: params.user_id,
          ...by,
        })
        return { status: 204 }
      },
    }),
  ]
}

function ofOrganizations(deps: OrganizationRoutesDeps): Route[] {
  const { db } = deps
  const tag = 'Organizations'
  return [
    route({
      method: 'GET',
      path: '/organizations/:organization_id/members',
      operationId: 'listOrganizationMembers',
      summary: 'List the people of an organization',
      tag,
      rule: { who: 'organization', permission: 'read', role: 'member', credentials: ABOVE_WORKSPACES },
      params: shapes.organizationParams,
      answers: { 200: { description: 'Members', schema: z.array(shapes.memberShape) } },
      async handle({ reach }) {
        const members = await listOrganizationMembers(db, reach.organizationId)
        return { status: 200, body: members.map(shapes.presentMember) }
      },
    }),
    route({
      method: 'PATCH',
      path: '/organizations/:organization_id/members/:user_id',
      operationId: 'changeOrganizationMember',
      summary: 'Give somebody another role in the organization',
      tag,
      rule: { who: 'organization', permission: 'manage', role: 'admin', credentials: ABOVE_WORKSPACES },
      params: organizationMemberParams,
      body: shapes.organizationRoleChange,
      answers: { 200: { description: 'The member', schema: shapes.memberShape } },
      async handle({ params, body, by }) {
        const member = await changeOrganizationRole(deps, {
          organizationId: params.organization_id,
          userId: params.user_id,
          role: body.role,
          ...by,
        })
        return { status: 200, body: shapes.presentMember(member) }
      },
    }),
    route({
      method: 'DELETE',
      path: '/organizations/:organization_id/members/:user_id',
      operationId: 'removeOrganizationMember',
      summary: 'Remove somebody from the organization and all its workspaces',
      tag,
      rule: { who: 'organization', permission: 'manage', role: 'admin', credentials: ABOVE_WORKSPACES },
      params: organizationMemberParams,
      answers: NO_CONTENT,
      async handle({ params, by }) {
        await removeFromOrganization(deps, {
          organizationId: params.organization_id,
          userId: params.user_id,
          ...by,
        })
        return { status: 204 }
      },
    }),
    route({
      method: 'GET',
      path: '/organizations',
      operationId: 'listOrganizations',
      summary: 'List the organizations of the person who is signed in',
      tag,
      rule: { who: 'caller', permission: 'read', credentials: ['session'] },
      answers: { 200: { description: 'Organizations', schema: z.array(shapes.organizationShape) } },
      async handle({ principal }) {
        const found = principal.userId === null ? [] : await listOrganizationsOf(db, principal.userId)
        return {
          status: 200,
          body: found.map(({ id, name, created_at }) => ({ id, name, created_at: rfc3339(created_at) })),
        }
      },
    }),
  ]
}

/** A key belongs to one organization; a person names it, or has only one. */
async function organizationFor(db: Db, principal: Principal, named: string | undefined): Promise<string> {
  if (principal.organizationId !== undefined) {
    if (named !== undefined && named !== principal.organizationId) throw new AppError('not_found')
    return principal.organizationId
  }
  if (named !== undefined) return named
  const [only, ...others] = principal.userId === null ? [] : await listOrganizationsOf(db, principal.userId)
  if (only !== undefined && others.length === 0) return only.id
  throw new AppError('invalid_request', { detail: 'Name the organization with organization_id.' })
}

async function listReached(
  db: Db,
  principal: Principal,
  page: { after: string | undefined; limit: number | undefined },
): Promise<WorkspaceRow[]> {
  if (principal.workspaceId !== undefined) {
    const found = await findReached(db, principal.workspaceId, null)
    return found === undefined ? [] : [found.workspace]
  }
  if (principal.organizationId !== undefined) return listWorkspacesIn(db, principal.organizationId, page)
  if (principal.userId === null) return []
  return listWorkspacesOf(db, principal.userId, page)
}

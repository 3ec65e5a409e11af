// What a change of somebody's roles would come to, over the JSON API: asked before it is made.
import { ABOVE_WORKSPACES, ANY_CREDENTIAL, type Route, route, workspaceOf } from '../api/route.ts'
import { AppError } from '../errors.ts'
import * as shapes from './schemas.ts'
import { type PreviewDeps, previewInOrganization, previewInWorkspace } from './service.ts'

const answers = {
  200: { description: 'What would end, narrow, or have to be rotated', schema: shapes.consequencesShape },
}
const description = 'Nothing is changed. The change itself decides in the same way.'

export function consequencesRoutes(deps: PreviewDeps): Route[] {
  return [
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/members/:user_id/consequences',
      operationId: 'previewMember',
      summary: 'Show what another role in a workspace would come to, or a removal',
      description,
      tag: 'Members',
      rule: { who: 'workspace', permission: 'read', role: 'admin', credentials: ANY_CREDENTIAL },
      params: shapes.memberParams,
      query: shapes.roleQuery,
      answers,
      async handle({ reach, params, query }) {
        const role = query.role ?? null
        const workspace = workspaceOf(reach)
        const [preview] = await previewInWorkspace(deps, { workspace, userId: params.user_id, roles: [role] })
        if (preview === undefined) throw new AppError('not_found')
        return { status: 200, body: shapes.presentConsequences(preview, role) }
      },
    }),
    route({
      method: 'GET',
      path: '/organizations/:organization_id/members/:user_id/consequences',
      operationId: 'previewOrganizationMember',
      summary: 'Show what another role in an organization would come to, or a removal from all of it',
      description,
      tag: 'Organizations',
      rule: { who: 'organization', permission: 'read', role: 'admin', credentials: ABOVE_WORKSPACES },
      params: shapes.organizationMemberParams,
      query: shapes.organizationRoleQuery,
      answers,
      async handle({ reach: { organizationId }, params, query }) {
        const role = query.role ?? null
        const [preview] = await previewInOrganization(deps, { organizationId, userId: params.user_id, roles: [role] })
        if (preview === undefined) throw new AppError('not_found')
        return { status: 200, body: shapes.presentConsequences(preview, role) }
      },
    }),
  ]
}

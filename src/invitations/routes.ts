// Invitations over the JSON API.
import { z } from 'zod'
import { ABOVE_WORKSPACES, ANY_CREDENTIAL, type Route, type Rule, route } from '../api/route.ts'
import { organizationParams, workspaceParams } from '../organizations/schemas.ts'
import type { Db } from '../store/database.ts'
import * as shapes from './schemas.ts'
import * as service from './service.ts'

export interface InvitationRoutesDeps {
  db: Db
  issuer: string
}

const TAG = 'Members'
const IN_WORKSPACE: Rule = { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL }
const IN_ORGANIZATION: Rule = {
  who: 'organization',
  permission: 'manage',
  role: 'admin',
  credentials: ABOVE_WORKSPACES,
}
const LIST = { 200: { description: 'Without links', schema: z.array(shapes.invitationShape) } }
const CREATED = { 201: { description: 'With the link, this once', schema: shapes.issuedInvitationShape } }
const GONE = { 204: { description: 'The link leads nowhere any more' } }

export function invitationRoutes({ db, issuer }: InvitationRoutesDeps): Route[] {
  const answer = ({ invitation, secret }: service.NewInvitation) => ({
    status: 201,
    body: {
      ...shapes.presentInvitation(invitation),
      link: shapes.invitationLink(issuer, secret.reveal()), // the one place where it leaves
    },
  })
  return [
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/invitations',
      operationId: 'inviteToWorkspace',
      summary: 'Invite somebody to a workspace',
      description: 'Their link is good once, for a week, for an account with that address.',
      tag: TAG,
      rule: IN_WORKSPACE,
      params: workspaceParams,
      body: shapes.newInvitation,
      answers: CREATED,
      async handle({ params, body, by }) {
        const target = { workspaceId: params.workspace_id, role: body.role }
        return answer(await service.invite(db, { target, email: body.email, ...by }))
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/invitations',
      operationId: 'listInvitations',
      summary: 'List the open invitations to a workspace',
      tag: TAG,
      rule: IN_WORKSPACE,
      params: workspaceParams,
      answers: LIST,
      async handle({ reach }) {
        const place = { organizationId: reach.organizationId, workspaceId: reach.workspace?.id ?? null }
        return { status: 200, body: (await service.listOpen(db, place)).map(shapes.presentInvitation) }
      },
    }),
    route({
      method: 'DELETE',
      path: '/workspaces/:workspace_id/invitations/:invitation_id',
      operationId: 'cancelInvitation',
      summary: 'Cancel an invitation to a workspace',
      tag: TAG,
      rule: IN_WORKSPACE,
      params: shapes.invitationParams,
      answers: GONE,
      async handle({ params, by }) {
        await service.cancel(db, { owner: { workspaceId: params.workspace_id }, id: params.invitation_id, ...by })
        return { status: 204 }
      },
    }),
    route({
      method: 'POST',
      path: '/organizations/:organization_id/invitations',
      operationId: 'inviteToOrganization',
      summary: 'Invite somebody to an organization',
      tag: TAG,
      rule: IN_ORGANIZATION,
      params: organizationParams,
      body: shapes.newOrganizationInvitation,
      answers: CREATED,
      async handle({ params, body, by }) {
        const target = { organizationId: params.organization_id, role: body.role }
        return answer(await service.invite(db, { target, email: body.email, ...by }))
      },
    }),
    route({
      method: 'GET',
      path: '/organizations/:organization_id/invitations',
      operationId: 'listOrganizationInvitations',
      summary: 'List the open invitations to an organization itself',
      tag: TAG,
      rule: IN_ORGANIZATION,
      params: organizationParams,
      answers: LIST,
      async handle({ reach }) {
        const place = { organizationId: reach.organizationId, workspaceId: null }
        return { status: 200, body: (await service.listOpen(db, place)).map(shapes.presentInvitation) }
      },
    }),
    route({
      method: 'DELETE',
      path: '/organizations/:organization_id/invitations/:invitation_id',
      operationId: 'cancelOrganizationInvitation',
      summary: 'Cancel an invitation to an organization',
      tag: TAG,
      rule: IN_ORGANIZATION,
      params: shapes.organizationInvitationParams,
      answers: GONE,
      async handle({ params, by }) {
        const owner = { organizationId: params.organization_id }
        await service.cancel(db, { owner, id: params.invitation_id, ...by })
        return { status: 204 }
      },
    }),
  ]
}

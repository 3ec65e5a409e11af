// Shapes of invitations, in and out.
import { z } from 'zod'
import {
  emailAddress,
  organizationParams,
  organizationRole,
  workspaceParams,
  workspaceRole,
} from '../organizations/schemas.ts'
import { rfc3339 } from '../times.ts'
import type { InvitationRow } from './store.ts'

export const newInvitation = z
  .strictObject({ email: emailAddress, role: workspaceRole.default('member') })
  .meta({ id: 'NewInvitation' })
export const newOrganizationInvitation = z
  .strictObject({ email: emailAddress, role: organizationRole.default('member') })
  .meta({ id: 'NewOrganizationInvitation' })

export const invitationParams = workspaceParams.extend({ invitation_id: z.string() })
export const organizationInvitationParams = organizationParams.extend({ invitation_id: z.string() })

const members = {
  id: z.string(),
  organization_id: z.string(),
  workspace_id: z.string().nullable(),
  email: z.string(),
  role: workspaceRole,
  created_at: z.iso.datetime(),
  expires_at: z.iso.datetime(),
}

export const invitationShape = z.object(members).meta({ id: 'Invitation' })
export const issuedInvitationShape = z
  .object({
    ...members,
    link: z.string().meta({ description: 'For that person alone: in this one answer, and never again' }),
  })
  .meta({ id: 'IssuedInvitation' })

export function presentInvitation(row: InvitationRow): z.input<typeof invitationShape> {
  return {
    id: row.id,
    organization_id: row.organization_id,
    workspace_id: row.workspace_id,
    email: row.email,
    role: row.role,
    created_at: rfc3339(row.created_at),
    expires_at: rfc3339(row.expires_at),
  }
}

/** Where an invited person goes. */
export function invitationLink(issuer: string, secret: string): string {
  return `${issuer}/invitations/${secret}`
}

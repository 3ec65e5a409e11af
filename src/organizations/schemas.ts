// Shapes of organizations, workspaces and their members, in and out.
import { z } from 'zod'
import { isEmail } from '../accounts/rules.ts'
import { withoutBearerValues } from '../crypto/token-value.ts'
import type { Member } from '../members/service.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import type { WorkspaceRow } from './service.ts'

/** By mistake, somebody pastes a token where its label goes: what is kept, shown and recorded would hold it for good. */
const holdsNoSecret = (text: string) => withoutBearerValues(text) === text

/** Fillers that show as nothing, among the letters. */
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}\u115f\u1160\u2800\u3164\uffa0]/u

/** A text that people give a thing: shown as it is, on one line, with nothing in it that cannot be seen. */
export const nameText = z
  .string()
  .trim()
  .min(1)
  .max(120)
  .refine((text) => text.isWellFormed() && !INVISIBLE.test(text), 'must not hold control or invisible characters')
  .refine(holdsNoSecret, 'must not hold a token')

export const emailAddress = z
  .string()
  .max(254)
  .refine((text) => isEmail(text) && holdsNoSecret(text), 'must be an e-mail address')

export const workspaceParams = z.object({
  workspace_id: z.string().meta({ description: 'The workspace', example: 'ws_01kw8m5hc0e9v8p2v6kq1jz3fa' }),
})
export const organizationParams = z.object({
  organization_id: z.string().meta({ description: 'The organization', example: 'org_01kw8m5h7yf2r8q0c4d9t6x1be' }),
})

export const pageQuery = z.strictObject({
  limit: z.coerce
    .number()
    .int()
    .min(1)
    .max(1_000)
    .optional()
    .meta({ description: 'Items a page; the next page is in the Link header' }),
  cursor: z.string().optional().meta({ description: 'Where to go on: from the Link header' }),
})

export const newWorkspace = z
  .strictObject({
    name: nameText.meta({ example: 'platform-ai' }),
    billing_email: emailAddress.nullable().optional().meta({ example: 'finance@acme.com' }),
    cost_centre: nameText.nullable().optional(),
    organization_id: z
      .string()
      .optional()
      .meta({ description: 'Only for a signed-in person: a key belongs to one organization' }),
  })
  .meta({ id: 'NewWorkspace' })

export const workspaceChange = z
  .strictObject({
    name: nameText.optional(),
    billing_email: emailAddress.nullable().optional(),
    cost_centre: nameText.nullable().optional(),
  })
  .meta({ id: 'WorkspaceChange' })

export const workspaceShape = z
  .object({
    id: z.string(),
    organization_id: z.string(),
    owner_id: z.string(),
    name: z.string(),
    billing_email: z.string().nullable(),
    created_at: z.iso.datetime(),
  })
  .meta({ id: 'Workspace' })

export const workspaceDetailShape = workspaceShape
  .extend({ cost_centre: z.string().nullable(), archived_at: z.iso.datetime().nullable() })
  .meta({ id: 'WorkspaceDetail' })

export const organizationShape = z
  .object({ id: z.string(), name: z.string(), created_at: z.iso.datetime() })
  .meta({ id: 'Organization' })

export const workspaceRole = z.enum(['owner', 'admin', 'member', 'viewer']).meta({ example: 'member' })
export const organizationRole = z.enum(['owner', 'admin', 'member']).meta({ example: 'member' })

export const newMember = z
  .strictObject({ user_id: z.string().meta({ description: 'Somebody of the organization' }), role: workspaceRole })
  .meta({ id: 'NewMember' })
export const roleChange = z.strictObject({ role: workspaceRole }).meta({ id: 'RoleChange' })
export const organizationRoleChange = z.strictObject({ role: organizationRole }).meta({ id: 'OrganizationRoleChange' })
export const transfer = z.strictObject({ user_id: z.string() }).meta({ id: 'Transfer' })

export const memberShape = z
  .object({
    user_id: z.string(),
    name: z.string(),
    email: z.string(),
    role: workspaceRole,
    created_at: z.iso.datetime(),
  })
  .meta({ id: 'Member' })

/** Six members, as the specification gives them. */
export function presentWorkspace(row: WorkspaceRow): z.input<typeof workspaceShape> {
  return {
    id: row.id,
    organization_id: row.organization_id,
    owner_id: row.owner_id,
    name: row.name,
    billing_email: row.billing_email,
    created_at: rfc3339(row.created_at),
  }
}

export function presentWorkspaceDetail(row: WorkspaceRow): z.input<typeof workspaceDetailShape> {
  return { ...presentWorkspace(row), cost_centre: row.cost_centre, archived_at: rfc3339OrNull(row.archived_at) }
}

export function presentMember(member: Member<WorkspaceRole | OrganizationRole>): z.input<typeof memberShape> {
  return { ...member, created_at: rfc3339(member.created_at) }
}

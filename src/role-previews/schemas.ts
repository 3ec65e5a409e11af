// Shapes of what a change of somebody's roles would come to, in and out.
import { z } from 'zod'
import type { ConnectionView } from '../connections/service.ts'
import { organizationParams, organizationRole, workspaceParams, workspaceRole } from '../organizations/schemas.ts'
import { lastOwnerDetail } from '../ownership/service.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import type { Preview } from './service.ts'

const userId = z.string().meta({ description: 'The member' })
export const memberParams = workspaceParams.extend({ user_id: userId })
export const organizationMemberParams = organizationParams.extend({ user_id: userId })

const WITHOUT = 'The role that they would have; without it: their removal'
export const roleQuery = z.strictObject({ role: workspaceRole.optional().meta({ description: WITHOUT }) })
export const organizationRoleQuery = z.strictObject({
  role: organizationRole.optional().meta({ description: WITHOUT }),
})

const scopesByApi = z.record(z.string(), z.string())
const connectionMembers = {
  id: z.string(),
  workspace_id: z.string(),
  client_id: z.string(),
  client_name: z.string(),
  last_used_at: z.iso.datetime().nullable(),
}

export const consequencesShape = z
  .object({
    user_id: z.string(),
    role: z.string().nullable().meta({ description: 'null: they would be removed' }),
    possible: z.boolean(),
    problem: z.string().nullable().meta({ description: 'Where it is not possible: what they are the last owner of' }),
    ends: z.array(z.object(connectionMembers)).meta({ description: 'Connections that would end' }),
    narrows: z
      .array(z.object({ ...connectionMembers, before: scopesByApi, after: scopesByApi }))
      .meta({ description: 'Connections of which the new role holds less: by API, the scopes before and after' }),
    renews: z.array(z.object(connectionMembers)).meta({ description: 'Connections that would only sign new tokens' }),
    rotates: z
      .array(
        z.object({
          id: z.string(),
          workspace_id: z.string().nullable().meta({ description: 'null: a key of the organization' }),
          label: z.string(),
          by: z.iso.datetime(),
        }),
      )
      .meta({ description: 'Tokens that they made, and that would have to be rotated' }),
    cancels: z
      .array(z.object({ id: z.string(), workspace_id: z.string().nullable(), role: z.string() }))
      .meta({ description: 'Invitations that they sent, and that would end' }),
  })
  .meta({ id: 'Consequences' })

export function presentConsequences(preview: Preview, role: string | null): z.input<typeof consequencesShape> {
  const { connections, lastOwnerOf } = preview
  const isPossible = lastOwnerOf.length === 0
  return {
    user_id: preview.userId,
    role,
    possible: isPossible,
    problem: isPossible ? null : lastOwnerDetail(lastOwnerOf),
    ends: connections.filter(({ outcome }) => outcome.kind === 'ends').map(({ connection }) => presented(connection)),
    narrows: connections.flatMap(({ connection, outcome }) =>
      outcome.kind === 'narrows'
        ? [{ ...presented(connection), before: connection.resources, after: outcome.approved.resources ?? {} }]
        : [],
    ),
    renews: connections
      .filter(({ outcome }) => outcome.kind === 'renews')
      .map(({ connection }) => presented(connection)),
    rotates: preview.rotates.map((token) => ({
      id: token.id,
      workspace_id: token.workspaceId,
      label: token.label,
      by: rfc3339(preview.rotateBy(token)),
    })),
    cancels: preview.cancels.map(({ id, workspace_id, role: as }) => ({ id, workspace_id, role: as })),
  }
}

function presented(view: ConnectionView) {
  return {
    id: view.id,
    workspace_id: view.workspace.id,
    client_id: view.client.id,
    client_name: view.client.name,
    last_used_at: rfc3339OrNull(view.lastUse?.at ?? null),
  }
}

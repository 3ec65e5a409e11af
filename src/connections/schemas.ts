// Shapes of connections, out.
import { z } from 'zod'
import { workspaceParams } from '../organizations/schemas.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import { environmentName } from '../workspace-tokens/schemas.ts'
import type { ConnectionView, UsedVersion } from './service.ts'

export const connectionParams = workspaceParams.extend({
  connection_id: z.string().meta({ description: 'The connection' }),
})

const connectionMembers = {
  id: z.string(),
  client_id: z.string(),
  client_name: z.string(),
  user_id: z.string().nullable().meta({ description: 'Who approved it; null: an admin granted the client itself' }),
  environment: environmentName,
  token_version: z.string(),
  resources: z.record(z.string(), z.string()).meta({ description: 'By API, its scopes' }),
  created_at: z.iso.datetime(),
  last_used_at: z.iso.datetime().nullable(),
  suspended_at: z.iso.datetime().nullable().meta({ description: 'While it is, nothing of it is accepted' }),
}

export const connectionShape = z.object(connectionMembers).meta({ id: 'Connection' })

const versionShape = z
  .object({
    token_version: z.string(),
    first_used_at: z.iso.datetime(),
    last_used_at: z.iso.datetime(),
    last_used_address: z.string().nullable(),
    last_used_agent: z.string().nullable(),
  })
  .meta({ id: 'ConnectionVersion' })

export const connectionDetailShape = z
  .object({
    ...connectionMembers,
    versions: z.array(versionShape).meta({ description: 'Those that were used, newest first' }),
  })
  .meta({ id: 'ConnectionDetail' })

export const newVersionShape = z.object({ token_version: z.string() }).meta({ id: 'NewVersion' })

// --- Out ------------------------------------------------------------------------------------------------------------------

export function presentConnection(view: ConnectionView): z.input<typeof connectionShape> {
  return {
    id: view.id,
    client_id: view.client.id,
    client_name: view.client.name,
    user_id: view.userId,
    environment: view.environment,
    token_version: `v${view.version}`,
    resources: view.resources,
    created_at: rfc3339(view.createdAt),
    last_used_at: rfc3339OrNull(view.lastUse?.at ?? null),
    suspended_at: rfc3339OrNull(view.suspendedAt),
  }
}

export function presentConnectionDetail(
  view: ConnectionView,
  versions: readonly UsedVersion[],
): z.input<typeof connectionDetailShape> {
  return {
    ...presentConnection(view),
    versions: versions.map((version) => ({
      token_version: `v${version.version}`,
      first_used_at: rfc3339(version.first_used_at),
      last_used_at: rfc3339(version.last_used_at),
      last_used_address: version.last_used_address || null, // an API need not say where a token was used
      last_used_agent: version.last_used_agent || null,
    })),
  }
}

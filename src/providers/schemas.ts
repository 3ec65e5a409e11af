// Shapes of provider connections, in and out. What comes in as a secret leaves in no shape.
import { z } from 'zod'
import { Secret } from '../crypto/secret.ts'
import { withoutBearerValues } from '../crypto/token-value.ts'
import { workspaceParams } from '../organizations/schemas.ts'
import { PROVIDER_TYPES } from '../provider-types/registry.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import type { ProviderConnection } from './service.ts'

export const providerParams = workspaceParams.extend({
  provider_id: z.string().meta({ description: 'The connection', example: 'prv_01kw8m5hq1t3v5w7x9y1z3a5bc' }),
})

const MOST_CHARACTERS = 1_024

const apiToken = z
  .string()
  .regex(
    /^[\x21-\x7e]{8,1024}$/,
    `must be the whole key, without “…”: 8 to ${MOST_CHARACTERS} letters, digits and signs of ASCII, without spaces`,
  )
  .refine(
    (text) => withoutBearerValues(text) === text,
    'is a credential of this server: it would be sent to the provider',
  )
  .transform((text) => new Secret(text))
  .meta({ description: 'The provider’s key. It is encrypted, and never shown again', writeOnly: true, example: '…' })

const WITH_ADDRESS = 'the key is sent together with its address'

/** What is said of a field that is not there, instead of what it is not. */
const ofMissing =
  (what: string) =>
  ({ input }: { input?: unknown }): string | undefined =>
    input === undefined ? `is missing: ${what}` : undefined

const credentials = {
  credentials_type: z.enum(['api_token'], { error: ofMissing('must be api_token') }),
  credentials: z.strictObject({ api_token: apiToken }, { error: ofMissing(WITH_ADDRESS) }),
  base_url: z
    .string()
    .max(500)
    .nullable()
    .optional()
    .meta({ description: 'Of a gateway of your own; the provider’s unless it is given', example: null }),
}

export const newProvider = z
  .strictObject({ provider_type: z.enum(PROVIDER_TYPES.map(({ type }) => type)), ...credentials })
  .meta({ id: 'NewProvider' })

export const newCredentials = z.strictObject(credentials).meta({ id: 'NewProviderCredentials' })

export const providerShape = z
  .object({
    id: z.string(),
    workspace_id: z.string(),
    provider_type: z.string(),
    credentials_type: z.string(),
    base_url: z.string().nullable(),
    status: z.enum(['pending_verification', 'verified', 'failed']),
    status_reason: z
      .enum([
        'refused',
        'redirected',
        'unexpected_answer',
        'no_list',
        'address_refused',
        'unreadable',
        'forbidden',
        'too_large',
        'timeout',
        'unreachable',
        'busy',
      ])
      .nullable()
      .meta({ description: 'What came of the last check, where it was not good' }),
    checked_at: z.iso.datetime().nullable(),
    created_at: z.iso.datetime(),
    changed_at: z.iso.datetime().meta({ description: 'When its key came' }),
  })
  .meta({ id: 'Provider' })

export function presentProvider(connection: ProviderConnection): Record<string, unknown> {
  return {
    id: connection.id,
    workspace_id: connection.workspaceId,
    provider_type: connection.providerType,
    credentials_type: connection.credentialsType,
    base_url: connection.baseUrl ?? null,
    status: connection.status,
    status_reason: connection.statusReason,
    checked_at: rfc3339OrNull(connection.checkedAt),
    created_at: rfc3339(connection.createdAt),
    changed_at: rfc3339(connection.changedAt),
  }
}

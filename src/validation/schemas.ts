// Shapes of an access validation, in and out.
import { z } from 'zod'
import type { AuditRecord } from '../audit/rules.ts'
import { isTraceId } from '../http/trace.ts'
import { isWorkspaceId } from '../ids.ts'
import { parseVersion } from '../oauth/access-tokens.ts'
import { environmentName } from '../workspace-tokens/schemas.ts'

export const expectations = z.strictObject({
  workspace_id: z
    .string()
    .refine(isWorkspaceId, 'is not the id of a workspace')
    .optional()
    .meta({ description: 'The workspace that the job is for; of an organization key, any of its organization' }),
  environment: environmentName.optional().meta({ description: 'The environment that the job is for' }),
  token_version: z
    .string()
    .refine((text) => parseVersion(text) !== undefined, 'must be a version such as v3')
    .optional()
    .meta({ description: 'The version that the job was given' }),
  profile_id: z
    .string()
    .refine(isTraceId, 'must be 1 to 128 of A-Z a-z 0-9 . _ : -, and no credential')
    .optional()
    .meta({ description: 'What the job works on; also as X-Profile-Id' }),
})

export const validationShape = z
  .object({
    trace_id: z.string(),
    workspace_id: z.string().nullable().meta({ description: 'Null for an organization key' }),
    user_id: z
      .string()
      .nullable()
      .meta({ description: 'The person behind it: for a token, who made it. Null where it is a client’s own' }),
    token_version: z.string(),
    event: z.literal('access_validation'),
    status: z.literal('pass'),
    timestamp: z.iso.datetime().meta({ description: 'When it was recorded' }),
    environment: environmentName,
    scopes: z.array(z.string()),
    expires_at: z.iso.datetime().nullable(),
    credential_id: z.string().meta({ description: 'The key_… or con_… behind it' }),
  })
  .meta({ id: 'AccessValidation' })

/** The record as it stands in the log, and nothing that does not. */
export function presentValidation(record: AuditRecord): Record<string, unknown> {
  const { environment, scopes, expires_at } = record.detail
  return {
    trace_id: record.trace_id,
    workspace_id: record.workspace_id,
    user_id: record.user_id,
    token_version: record.token_version,
    event: record.event,
    status: record.status,
    timestamp: record.timestamp,
    environment,
    scopes,
    expires_at,
    credential_id: record.credential_id,
  }
}

// Shapes of the audit log over the JSON API.
import { z } from 'zod'

/** What ids and traces are made of: anything else fits no record. */
const word = (example: string) =>
  z
    .string()
    .min(1)
    .max(128)
    .regex(/^[\x21-\x7e]+$/, 'must be printable, without spaces')
    .optional()
    .meta({ example })

/** What the database keeps of a second. */
const FRACTION = /\.\d{1,6}/

/** PostgreSQL knows fewer offsets than RFC 3339: in UTC, and from the year 1 to 9999, every time is one of its own. */
function inUtc(text: string): string {
  const time = new Date(text.replace(/\.\d+/, ''))
  if (Number.isNaN(time.getTime())) return text
  return `${time.toISOString().slice(0, -'.000Z'.length)}${FRACTION.exec(text)?.[0] ?? ''}Z`
}

/** A time to look for in the log, in the form that the database takes. */
export const recordedTime = z.iso
  .datetime({ offset: true, error: 'must be a time such as 2026-05-21T08:00:00Z (RFC 3339)', abort: true })
  .overwrite(inUtc)
  .refine((text) => /^(?!0000)\d{4}-/.test(text), 'must be in the years 1 to 9999')

const time = (description: string) => recordedTime.optional().meta({ description, example: '2026-05-21T08:00:00Z' })

const filter = {
  organization_id: word('org_01kw8m5h7yf2r8q0c4d9t6x1be').describe(
    'Whose records: for a signed-in person who belongs to several',
  ),
  workspace_id: word('ws_01kw8m5hc0e9v8p2v6kq1jz3fa'),
  trace_id: word('access-2026-04-05-009'),
  user_id: word('usr_01kw8m5h2m3n4p5q6r7s8t9v0w'),
  profile_id: word('profile-77'),
  credential_id: word('key_01kw8m5hj0k1m2n3p4q5r6s7t8'),
  client_id: word('cl_01kw8m5hq0r1s2t3v4w5x6y7z8'),
  token_version: z
    .string()
    .regex(/^v[1-9]\d{0,8}$/, 'must be a version such as v3')
    .optional()
    .meta({ example: 'v3' }),
  event: z
    .string()
    .regex(
      /^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)*(\.\*)?$/,
      'must be an event such as token.revoked, or a kind such as token.*',
    )
    .max(100)
    .optional()
    .meta({ example: 'access_validation' }),
  status: z.enum(['pass', 'fail']).optional(),
  since: time('Recorded at or after'),
  until: time('Recorded before'),
  stale: z
    .enum(['true'])
    .optional()
    .meta({ description: 'Only what was refused because its version or credential had ended' }),
}

export const recordsQuery = z.strictObject({
  ...filter,
  limit: z.coerce.number().int().min(1).max(200).default(50).meta({ description: 'Records a page' }),
  cursor: z.string().optional().meta({ description: 'Where to go on: from the Link header' }),
})
export const exportQuery = z.strictObject({
  ...filter,
  format: z.enum(['ndjson', 'csv']).default('ndjson').meta({
    description: 'ndjson: a signed file that `latchkey audit verify --file` verifies offline. csv: for spreadsheets',
  }),
})
export const placeQuery = z.strictObject({
  organization_id: filter.organization_id,
  workspace_id: filter.workspace_id,
})
export const recordParams = z.object({
  record_id: z.string().meta({ description: 'The record', example: 'aud_01kw…' }),
})
export const traceParams = z.object({
  trace_id: z.string().meta({ description: 'The trace', example: 'access-2026-04-05-009' }),
})

const recordMembers = {
  id: z.string(),
  timestamp: z
    .string()
    .meta({ description: 'The database’s time, to the microsecond', example: '2026-04-05T18:30:00.123456Z' }),
  organization_id: z.string().nullable(),
  workspace_id: z.string().nullable(),
  event: z.string().meta({ example: 'access_validation' }),
  status: z.enum(['pass', 'fail']),
  trace_id: z.string(),
  profile_id: z.string().nullable(),
  actor_kind: z.string().meta({ example: 'user' }),
  actor_id: z.string().nullable(),
  user_id: z.string().nullable(),
  client_id: z.string().nullable(),
  credential_id: z.string().nullable(),
  token_version: z.string().nullable(),
  address: z.string().nullable(),
  detail: z.record(z.string(), z.unknown()),
}
const seq = z.number().nullable().meta({ description: 'Its place in the chain; null for a moment, until it is sealed' })

export const recordShape = z.object({ ...recordMembers, seq }).meta({ id: 'AuditRecord' })
export const foundRecordShape = z
  .object({
    chain: z.string(),
    seq,
    previous: z.string().nullable().meta({ description: 'Hash of the entry before' }),
    hash: z.string().nullable(),
    record: z.object(recordMembers),
  })
  .meta({ id: 'SealedAuditRecord' })
export const chainStateShape = z
  .object({
    chain: z.string(),
    seq: z.number().meta({ description: 'Records that are sealed' }),
    hash: z.string().nullable().meta({ description: 'Of the last one' }),
    waiting: z.number().meta({ description: 'Records that wait to be sealed' }),
    checkpoint: z
      .object({ seq: z.number(), made_at: z.string() })
      .nullable()
      .meta({ description: 'The last head that was signed and kept outside of the database' }),
    archived_to: z.number().nullable().meta({ description: 'Records up to this one are in archives' }),
  })
  .meta({ id: 'AuditChain' })
export const keysShape = z.object({ keys: z.array(z.record(z.string(), z.unknown())) }).meta({ id: 'AuditKeys' })

// Shapes of a job's own record, in and out.
import { z } from 'zod'
import type { AuditRecord } from '../audit/rules.ts'
import { withoutBearerValues } from '../crypto/token-value.ts'
import { isTraceId } from '../http/trace.ts'
import { isKeepableTime, NOT_KEEPABLE } from '../times.ts'
import { detailProblem, HOLDS_REFUSED_NAME, hasRefusedName, textsIn } from './rules.ts'

const MOST_EVENT_CHARACTERS = 80
const EVENT = /^[a-z][a-z0-9_-]*(?:\.[a-z][a-z0-9_-]*)*$/

/** Whatever stands right before it: an escaped space, another name. */
const BEGINNING = /(?:tid_ws_|td_live_|lk_rt_|lk_at_)[\w-]|eyJ[\w-]+\.[\w-]/

function holdsCredential(text: string): boolean {
  return BEGINNING.test(text) || withoutBearerValues(text) !== text
}

const NO_CREDENTIAL = 'holds a credential: it does not belong in a log, and should be revoked now'

const detail = z
  .record(z.string(), z.unknown()) // looked at as a whole below, no deeper than it may be
  .superRefine((given, context) => {
    const problem = detailProblem(given)
    if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
    else if (textsIn(given).some(holdsCredential)) context.addIssue({ code: 'custom', message: NO_CREDENTIAL })
  })

/** Looked at as it was sent: the form of a record has lost such a member by then. */
const wholeDetail = z.preprocess((given, context) => {
  if (hasRefusedName(given)) context.addIssue({ code: 'custom', message: HOLDS_REFUSED_NAME })
  return given
}, detail)

export const newJobRecord = z
  .strictObject({
    event: z
      .string()
      .max(MOST_EVENT_CHARACTERS)
      .regex(EVENT, 'must be a lower-case dotted name such as import.finished')
      .refine((text) => !holdsCredential(text), NO_CREDENTIAL)
      .meta({ description: 'Stored as job.<event>', example: 'import.finished' }),
    status: z.enum(['pass', 'fail']),
    occurred_at: z.iso
      .datetime({ offset: true })
      .max(40)
      .refine(isKeepableTime, NOT_KEEPABLE)
      .optional()
      .meta({ description: 'When it happened, by the job’s own clock (RFC 3339)' }),
    profile_id: z
      .string()
      .refine(isTraceId, 'must be 1 to 128 of A-Z a-z 0-9 . _ : -, and no credential')
      .optional()
      .meta({ description: 'What the job works on; also as X-Profile-Id' }),
    detail: wholeDetail.optional().meta({
      description:
        'Facts of the job: whole numbers, texts, booleans, null, lists and objects; 4,096 bytes, five levels. It is kept for good: name people by their id',
    }),
  })
  .meta({ id: 'NewJobRecord' })

export const jobRecordShape = z
  .object({
    id: z.string(),
    trace_id: z.string(),
    workspace_id: z.string(),
    user_id: z.string().nullable().meta({ description: 'The person behind the credential' }),
    profile_id: z.string().nullable(),
    token_version: z.string(),
    event: z.string().meta({ example: 'job.import.finished' }),
    status: z.enum(['pass', 'fail']),
    timestamp: z.iso.datetime().meta({ description: 'When it was recorded: the database’s time' }),
    occurred_at: z.iso.datetime({ offset: true }).nullable(),
  })
  .meta({ id: 'JobRecord' })

export function presentJobRecord(record: AuditRecord): Record<string, unknown> {
  const { id, trace_id, workspace_id, user_id, profile_id, token_version, event, status, timestamp } = record
  const occurred_at = record.detail.occurred_at ?? null
  return { id, trace_id, workspace_id, user_id, profile_id, token_version, event, status, timestamp, occurred_at }
}

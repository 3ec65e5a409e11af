// Shapes of notices, out.
import { z } from 'zod'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import type { Notice } from './rules.ts'

export const noticeShape = z
  .object({
    id: z.string(),
    workspace_id: z.string(),
    kind: z.enum(['token_expiring', 'rotation_required', 'token_unused', 'review_due']),
    subject_id: z.string().meta({ description: 'The token, or the access review' }),
    stage: z.string().meta({ description: 'Of one subject and kind, each stage is told once' }),
    due_at: z.iso.datetime().nullable(),
    created_at: z.iso.datetime(),
    mailed_at: z.iso.datetime().nullable(),
  })
  .meta({ id: 'Notice' })

export function presentNotice(notice: Notice): z.input<typeof noticeShape> {
  return {
    id: notice.id,
    workspace_id: notice.workspaceId,
    kind: notice.kind,
    subject_id: notice.subjectId,
    stage: notice.stage,
    due_at: rfc3339OrNull(notice.dueAt),
    created_at: rfc3339(notice.createdAt),
    mailed_at: rfc3339OrNull(notice.mailedAt),
  }
}

// Shapes of access reviews, in and out.
import { z } from 'zod'
import { nameText, workspaceParams } from '../organizations/schemas.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import { changesOf, LONGEST_DUE_IN_DAYS, outcomeOf, type ReviewItem } from './rules.ts'
import { digestOfGranted, type ListedReview, type ReviewView } from './service.ts'

export const reviewParams = workspaceParams.extend({
  review_id: z.string().meta({ description: 'The access review' }),
})
export const reviewItemParams = reviewParams.extend({ item_id: z.string().meta({ description: 'The item' }) })

const reason = z.enum(['quarterly', 'incident', 'team_change', 'asked'])
export const dueInDays = z.int().min(1).max(LONGEST_DUE_IN_DAYS)

export const newReview = z
  .strictObject({
    reason: reason.extract(['asked', 'incident']).optional().meta({ description: 'Default: asked' }),
    due_in_days: dueInDays.optional().meta({ description: 'Default: 14; 3 after an incident' }),
  })
  .meta({ id: 'NewAccessReview' })

const decision = z.enum(['keep', 'revoke', 'changed'])

export const newDecision = z
  .strictObject({
    decision: decision.meta({
      description: 'A credential is kept or revoked; the token policy is kept or was changed',
    }),
    note: nameText.nullable().optional().meta({ description: 'Why, in a line; it stands in the report' }),
    granted_digest: z.string().optional().meta({
      description: 'Of what you looked at: it is kept, or called changed, only where it is still the same (409)',
    }),
  })
  .meta({ id: 'ReviewDecision' })

export const itemShape = z
  .object({
    id: z.string(),
    kind: z.enum(['connection', 'token', 'token_policy']),
    subject_id: z.string().meta({ description: 'The connection or token; for the token policy, its workspace' }),
    snapshot: z.record(z.string(), z.unknown()).meta({ description: 'What it was when it came into the review' }),
    now: z.record(z.string(), z.unknown()).nullable().meta({
      description: 'Of the members that decide about access, those that are not what they were, as they are now',
    }),
    granted_digest: z.string().meta({ description: 'Of all members that decide about access, as they are now' }),
    attested: z.record(z.string(), z.unknown()).nullable().meta({
      description:
        'What it was when it was kept or called changed. Once it lets in more than that, it is undecided again',
    }),
    is_decided: z.boolean().meta({ description: 'False: at the date of the review it is suspended' }),
    decision: decision.nullable(),
    note: z.string().nullable(),
    decided_by: z.string().nullable(),
    decided_at: z.iso.datetime().nullable(),
    outcome: z
      .enum(['kept', 'revoked', 'changed', 'suspended', 'ended', 'not_attested'])
      .nullable()
      .meta({ description: 'Once that is final. Ended: revoked meanwhile, outside of this review' }),
    has_ended: z.boolean(),
  })
  .meta({ id: 'AccessReviewItem' })

export const reviewShape = z
  .object({
    id: z.string(),
    workspace_id: z.string(),
    reasons: z.array(reason),
    opened_at: z.iso.datetime(),
    opened_by: z.string(),
    due_at: z.iso.datetime().meta({ description: 'What nobody has attested by then is suspended' }),
    closed_at: z.iso.datetime().nullable(),
    closed_by: z.string().nullable(),
    counts: z.object({ items: z.int(), decided: z.int(), undecided: z.int() }),
  })
  .meta({ id: 'AccessReview' })

export const reviewDetailShape = reviewShape
  .extend({
    items: z.array(itemShape).meta({ description: 'At most 500: the rest are on the next pages of getReview' }),
  })
  .meta({ id: 'AccessReviewDetail' })

export const reportShape = z
  .object({
    report: z.record(z.string(), z.unknown()),
    jws: z.string().meta({ description: 'The same, signed: a compact JWS (RFC 7515), EdDSA' }),
  })
  .meta({ id: 'AccessReviewReport' })

// --- Out ------------------------------------------------------------------------------------------------------------------

export function presentReview({ review, counts }: ListedReview): z.input<typeof reviewShape> {
  return {
    id: review.id,
    workspace_id: review.workspaceId,
    reasons: review.reasons,
    opened_at: rfc3339(review.openedAt),
    opened_by: review.openedBy,
    due_at: rfc3339(review.dueAt),
    closed_at: rfc3339OrNull(review.closedAt),
    closed_by: review.closedBy,
    counts,
  }
}

export function presentItem(item: ReviewItem): z.input<typeof itemShape> {
  return {
    id: item.id,
    kind: item.kind,
    subject_id: item.subjectId,
    snapshot: item.snapshot,
    now: changesOf(item) ?? null,
    granted_digest: digestOfGranted(item),
    attested: item.attested,
    is_decided: outcomeOf(item) !== undefined,
    decision: item.decision,
    note: item.note,
    decided_by: item.decidedBy,
    decided_at: rfc3339OrNull(item.decidedAt),
    outcome: item.outcome,
    has_ended: item.isEnded,
  }
}

export function presentReviewDetail(view: ReviewView): z.input<typeof reviewDetailShape> {
  return { ...presentReview(view), items: view.items.map(presentItem) }
}

// Shapes of what was spent: by workspace and month, by model, event by event, and where a cap was in the way.
import { z } from 'zod'
import { isTraceId } from '../http/trace.ts'
import { pageQuery } from '../organizations/schemas.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import { formatMoney, formatMonth, VIOLATION_KINDS } from '../usage/rules.ts'
import { budgetShape, moneyOrNull, month, presentBudget } from '../usage/schemas.ts'
import type { Spending, WorkspaceUsage } from './service.ts'
import type { UsageRow, ViolationRow } from './store.ts'

export const monthQuery = z.strictObject({ month: month.optional() })
const months = {
  from: month.optional().meta({ description: 'The first month; five before the last unless it is given' }),
  to: month.optional().meta({ description: 'The last month; this one unless it is given' }),
}
export const spendQuery = z.strictObject({ ...months, ...pageQuery.shape })
export const spendFileQuery = z.strictObject(months)
export const eventsQuery = z.strictObject({
  month: month.optional(),
  trace_id: z.string().refine(isTraceId, 'must be a trace id').optional(),
  ...pageQuery.shape,
})
export const violationsQuery = z.strictObject({ month: month.optional(), ...pageQuery.shape })

const perMonth = z.array(z.int())
const sums = {
  spent: z.string(),
  events: z.int(),
  input_tokens: z.int(),
  output_tokens: z.int(),
}

export const usageShape = budgetShape
  .extend({
    ...sums,
    unpriced_events: z.int().meta({ description: 'Whose cost is unknown: not in the sum' }),
    models: z
      .array(z.object({ provider: z.string().nullable(), model: z.string().nullable(), ...sums }))
      .meta({ description: 'The dearest hundred' }),
  })
  .meta({ id: 'Usage' })

export const spendShape = z
  .object({
    organization_id: z.string(),
    currency: z.string(),
    months: z.array(z.string()).meta({ description: 'Oldest first: one place of each list below' }),
    totals: z.array(z.string()),
    workspaces: z.array(
      z.object({
        workspace_id: z.string(),
        name: z.string(),
        cost_centre: z.string().nullable(),
        archived_at: z.iso.datetime().nullable(),
        cap: z.string().nullable(),
        mode: z.enum(['soft', 'hard']).nullable(),
        spent: z.array(z.string()),
        held: z.string().meta({ description: 'By reservations of the last of the months' }),
        events: perMonth,
        violations: z
          .object({
            refused: perMonth.meta({ description: 'Admissions refused' }),
            overrun: perMonth.meta({ description: 'Spent above what was held, or above a hard cap' }),
            soft_cap: perMonth.meta({ description: 'Soft caps passed: each counts once a month' }),
          })
          .meta({ description: 'How many, each a list of months' }),
      }),
    ),
  })
  .meta({ id: 'OrganizationSpend' })

export function presentUsage(usage: WorkspaceUsage): Record<string, unknown> {
  const { sums: of } = usage
  return {
    ...presentBudget(usage),
    ...presentSums(of),
    unpriced_events: of.unpriced,
    models: usage.models.map((model) => ({ provider: model.provider, model: model.model, ...presentSums(model) })),
  }
}

function presentSums(of: WorkspaceUsage['models'][number] | WorkspaceUsage['sums']): Record<string, unknown> {
  return {
    spent: formatMoney(of.spentMicros),
    events: of.events,
    input_tokens: of.inputTokens,
    output_tokens: of.outputTokens,
  }
}

export function presentSpending(spending: Spending): Record<string, unknown> {
  return {
    organization_id: spending.organizationId,
    currency: spending.currency,
    months: spending.months.map(formatMonth),
    totals: spending.totals.map(formatMoney),
    workspaces: spending.workspaces.map((workspace) => ({
      workspace_id: workspace.id,
      name: workspace.name,
      cost_centre: workspace.costCentre,
      archived_at: rfc3339OrNull(workspace.archivedAt),
      cap: moneyOrNull(workspace.budget?.capMicros ?? null),
      mode: workspace.budget?.mode ?? null,
      spent: workspace.spent.map(formatMoney),
      held: formatMoney(workspace.held.at(-1) ?? 0n),
      events: workspace.events,
      violations: workspace.violations,
    })),
  }
}

export const usageEventShape = z
  .object({
    id: z.string().meta({ description: 'The caller’s own, or of the reservation' }),
    month: z.string(),
    reservation_id: z.string().nullable(),
    provider: z.string().nullable(),
    model: z.string().nullable(),
    input_tokens: z.int().nullable(),
    output_tokens: z.int().nullable(),
    cost: z.string().nullable(),
    currency: z.string(),
    is_estimated: z.boolean(),
    occurred_at: z.iso.datetime().nullable(),
    recorded_at: z.iso.datetime(),
    trace_id: z.string(),
    profile_id: z.string().nullable(),
    credential_id: z.string(),
    token_version: z.string().nullable(),
    user_id: z
      .string()
      .nullable()
      .meta({ description: 'The person behind the credential: answered to themselves, and to an admin' }),
  })
  .meta({ id: 'UsageEvent' })

/** @param mayName whether this person is named to the caller */
export function presentUsageEvent(
  row: UsageRow,
  { currency: kept, mayName }: { currency: string; mayName: (userId: string) => boolean },
): Record<string, unknown> {
  return {
    id: row.eventId,
    month: formatMonth(row.month),
    reservation_id: row.reservationId,
    provider: row.provider,
    model: row.model,
    input_tokens: row.inputTokens,
    output_tokens: row.outputTokens,
    cost: moneyOrNull(row.costMicros),
    currency: kept,
    is_estimated: row.isEstimated,
    occurred_at: rfc3339OrNull(row.occurredAt),
    recorded_at: rfc3339(row.recordedAt),
    trace_id: row.traceId,
    profile_id: row.profileId,
    credential_id: row.credentialId,
    token_version: row.tokenVersion === null ? null : `v${row.tokenVersion}`,
    user_id: row.userId !== null && mayName(row.userId) ? row.userId : null,
  }
}

export const violationShape = z
  .object({
    id: z.string(),
    workspace_id: z.string(),
    month: z.string(),
    kind: z.enum(VIOLATION_KINDS),
    credential_id: z.string().nullable(),
    cap: z.string(),
    asked: z.string().nullable().meta({
      description: 'By the last one; of an overrun and a soft cap, what was spent; null: not known beforehand',
    }),
    left: z.string().meta({ description: 'Of the cap before it' }),
    currency: z.string(),
    count: z.int().meta({ description: 'Of this credential, in an hour' }),
    first_at: z.iso.datetime(),
    last_at: z.iso.datetime(),
    trace_id: z.string().meta({ description: 'Of the last one' }),
  })
  .meta({ id: 'Violation' })

export function presentViolation(row: ViolationRow, kept: string): Record<string, unknown> {
  return {
    id: row.id,
    workspace_id: row.workspaceId,
    month: formatMonth(row.month),
    kind: row.kind,
    credential_id: row.credentialId,
    cap: formatMoney(row.capMicros),
    asked: moneyOrNull(row.askedMicros),
    left: formatMoney(row.leftMicros),
    currency: kept,
    count: row.count,
    first_at: rfc3339(row.firstAt),
    last_at: rfc3339(row.lastAt),
    trace_id: row.traceId,
  }
}

// Shapes of usage, in and out.
import { z } from 'zod'
import { withoutBearerValues } from '../crypto/token-value.ts'
import { isTraceId } from '../http/trace.ts'
import { isKeepableTime, NOT_KEEPABLE, rfc3339, rfc3339OrNull } from '../times.ts'
import {
  type Balance,
  type Budget,
  formatMoney,
  formatMonth,
  HOLD_SECONDS,
  LONGEST_HOLD_SECONDS,
  leftOf,
  type Micros,
  type Month,
  parseMoney,
  parseMonth,
  stateOf,
  type UsageEvent,
} from './rules.ts'
import type { Reservation } from './service.ts'

// --- In -------------------------------------------------------------------------------------------------------------------

const money = z
  .string()
  .transform((text, context): Micros => {
    const micros = parseMoney(text)
    if (micros !== undefined) return micros
    context.addIssue({
      code: 'custom',
      message: 'must be a decimal string such as "12.50": at most six decimals, below a thousand million',
    })
    return z.NEVER
  })
  .meta({ description: 'A decimal string, at most six decimals', example: '0.0123' })

const currency = z
  .string()
  .regex(/^[A-Z]{3}$/, 'must be three capital letters (ISO 4217)')
  .meta({ description: 'Of the organization; another one is refused', example: 'USD' })

export const month = z
  .string()
  .transform((text, context): Month => {
    const parsed = parseMonth(text)
    if (parsed !== undefined) return parsed
    context.addIssue({ code: 'custom', message: 'must be a month such as 2026-05' })
    return z.NEVER
  })
  .meta({ description: 'A month, UTC', example: '2026-05' })

/** One line, nothing invisible, no credential. */
const named = (most: number) =>
  z
    .string()
    .min(1)
    .max(most)
    .refine((text) => text.isWellFormed() && !/[\p{Cc}\p{Zl}\p{Zp}]/u.test(text), 'must not hold control characters')
    .refine((text) => withoutBearerValues(text) === text, 'must not hold a token')

const MOST_TOKENS = 1_000_000_000
const tokenCount = z.int().min(0).max(MOST_TOKENS)

const facts = {
  provider: named(64).optional().meta({ example: 'anthropic' }),
  model: named(128).optional().meta({ example: 'claude-sonnet-4-5' }),
  input_tokens: tokenCount.optional(),
  output_tokens: tokenCount.optional(),
  occurred_at: z.iso
    .datetime({ offset: true })
    .max(40)
    .refine(isKeepableTime, NOT_KEEPABLE)
    .optional()
    .meta({ description: 'By the caller’s clock. The month is that of the recording, by the database’s' }),
  profile_id: z.string().refine(isTraceId, 'must be 1 to 128 of A-Z a-z 0-9 . _ : -, and no credential').optional(),
}

/** What we name ourselves: events of settled reservations, and of calls through the proxy. */
const RESERVED = /^(?:res|use)_/

const newEvent = z
  .strictObject({
    id: named(128)
      .refine(
        (id) => !RESERVED.test(id),
        'must not begin with res_ or use_: what a reservation or a call cost is recorded by itself',
      )
      .meta({ description: 'Yours: the same id again is the same event, counted once in the workspace' }),
    cost: money.nullable().meta({ description: 'What it cost; null where that is unknown' }),
    ...facts,
  })
  .meta({ id: 'NewUsageEvent' })

export const MOST_EVENTS = 1_000

export const newEvents = z
  .strictObject({ events: z.array(newEvent).min(1).max(MOST_EVENTS), currency: currency.optional() })
  .meta({ id: 'NewUsageEvents' })

type Facts = Omit<z.output<typeof newEvent>, 'id' | 'cost'>

export function toFacts(sent: Facts, costMicros: Micros | null): Omit<UsageEvent, 'eventId'> {
  return {
    provider: sent.provider ?? null,
    model: sent.model ?? null,
    inputTokens: sent.input_tokens ?? null,
    outputTokens: sent.output_tokens ?? null,
    costMicros,
    occurredAt: sent.occurred_at ?? null,
    profileId: sent.profile_id ?? null,
  }
}

export const newReservation = z
  .strictObject({
    amount: money
      .refine((micros) => micros > 0n, 'must be above zero')
      .meta({ description: 'The most that it may cost', example: '4.00' }),
    currency: currency.optional(),
    hold_seconds: z
      .int()
      .min(1)
      .max(LONGEST_HOLD_SECONDS)
      .default(HOLD_SECONDS)
      .meta({ description: 'When the hold ends by itself' }),
  })
  .meta({ id: 'NewReservation' })

export const settlement = z
  .strictObject({ cost: money.meta({ description: 'What it really cost' }), currency: currency.optional(), ...facts })
  .meta({ id: 'Settlement' })

export const reservationParams = z.object({ reservation_id: z.string() })

export const newBudget = z
  .strictObject({
    cap: money.meta({ description: 'The most in a month', example: '2500.00' }),
    mode: z.enum(['soft', 'hard']).meta({ description: 'soft: alerts only. hard: no amount is held beyond it' }),
    currency: currency.optional(),
  })
  .meta({ id: 'NewBudget' })

export const newCurrency = z.strictObject({ currency }).meta({ id: 'NewCurrency' })

// --- Out ------------------------------------------------------------------------------------------------------------------

export const ingestedShape = z
  .object({
    recorded: z.int(),
    repeated: z.int().meta({ description: 'Were recorded before: counted once' }),
    trace_id: z.string(),
  })
  .meta({ id: 'RecordedUsage' })

export const reservationShape = z
  .object({
    id: z.string(),
    workspace_id: z.string(),
    state: z.enum(['held', 'settled', 'released', 'expired']),
    amount: z.string(),
    cost: z.string().nullable(),
    currency: z.string(),
    month: z.string().meta({ description: 'In which it counts: that of the hold, or of a settlement after its end' }),
    created_at: z.iso.datetime(),
    expires_at: z.iso.datetime(),
    ended_at: z.iso.datetime().nullable(),
  })
  .meta({ id: 'Reservation' })

export function presentReservation(reservation: Reservation, kept: string): Record<string, unknown> {
  return {
    id: reservation.id,
    workspace_id: reservation.workspaceId,
    state: stateOf(reservation),
    amount: formatMoney(reservation.amountMicros),
    cost: moneyOrNull(reservation.costMicros),
    currency: kept,
    month: formatMonth(reservation.month),
    created_at: rfc3339(reservation.createdAt),
    expires_at: rfc3339(reservation.expiresAt),
    ended_at: rfc3339OrNull(reservation.endedAt),
  }
}

export const moneyOrNull = (micros: Micros | null) => (micros === null ? null : formatMoney(micros))

export const budgetShape = z
  .object({
    cap: z.string().nullable().meta({ description: 'Null: none' }),
    mode: z.enum(['soft', 'hard']).nullable(),
    currency: z.string(),
    month: z.string(),
    spent: z.string(),
    held: z.string(),
    left: z.string().nullable().meta({ description: 'Of the cap; below zero once more was spent' }),
  })
  .meta({ id: 'Budget' })

export function presentBudget(state: {
  budget: Budget | undefined
  month: Month
  balance: Balance
  currency: string
}): Record<string, unknown> {
  const { budget, balance } = state
  return {
    cap: moneyOrNull(budget?.capMicros ?? null),
    mode: budget?.mode ?? null,
    currency: state.currency,
    month: formatMonth(state.month),
    spent: formatMoney(balance.settledMicros),
    held: formatMoney(balance.heldMicros),
    left: moneyOrNull(budget === undefined ? null : leftOf(budget, balance)),
  }
}

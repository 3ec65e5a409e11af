// What pages of usage say: how a month stands to its cap, models, violations and events.
import type { ModelSums, UsageRow, ViolationRow, WorkspaceUsage } from '../spending/service.ts'
import type { BudgetMode, ViolationKind } from '../store/tables.ts'
import { type Budget, leftOf, type Micros, type Month } from '../usage/rules.ts'
import { hrefOf } from './audit-filter.ts'
import { exactText, monthName, monthWord, roundedText, shareOf, type Used, usedOf, writerFor } from './money.ts'
import { atInstant, counted, type Moment, shortDayOf } from './token-times.ts'
import type { Badge } from './token-views.ts'

export const countText = (count: number): string => count.toLocaleString('en')

const MODE_EFFECTS: Record<BudgetMode, string> = {
  hard: 'Hard: what could go beyond it is refused beforehand. The billing address is told at 80 and at 100 percent.',
  soft: 'Soft: nothing is refused. The billing address is told at 80 and at 100 percent.',
}

export interface CapView {
  used: Used
  /** `82%`, at the beginning of a sentence. */
  share: string
  /** `4,120.31 USD spent and 180.00 USD held of 5,000.00 USD.` */
  text: string
  left: string
  effect: string
}

export function capView(usage: WorkspaceUsage): CapView | undefined {
  const { budget, balance, currency } = usage
  if (budget === undefined) return undefined
  const money = (micros: Micros) => `${exactText(micros)} ${currency}`
  const held = balance.heldMicros > 0n ? ` and ${money(balance.heldMicros)} held` : ''
  const used = usedOf(budget, balance.settledMicros)
  return {
    used,
    share: used.text.charAt(0).toUpperCase() + used.text.slice(1),
    text: `${money(balance.settledMicros)} spent${held} of ${money(budget.capMicros)}.`,
    left: leftText(budget, balance, money),
    effect: MODE_EFFECTS[budget.mode],
  }
}

function leftText(budget: Budget, balance: WorkspaceUsage['balance'], money: (micros: Micros) => string): string {
  const left = leftOf(budget, balance)
  if (left > 0n) return `${money(left)} left.`
  return left === 0n ? 'Nothing is left.' : `${money(-left)} over.`
}

export interface Figure {
  term: string
  value: string
  sub: string
}

/** The tiles of a workspace's month. */
export function figuresOf(usage: WorkspaceUsage): Figure[] {
  const { sums, currency, budget, balance } = usage
  const left = budget && leftOf(budget, balance)
  const isOver = left !== undefined && left < 0n
  return [
    { term: `Spent in ${monthWord(usage.month)}`, value: roundedText(sums.spentMicros), sub: currency },
    { term: 'Held by reservations', value: roundedText(sums.heldMicros), sub: currency },
    {
      term: isOver ? 'Over the cap' : 'Left of the cap',
      value: left === undefined ? 'No cap' : roundedText(isOver ? -left : left),
      sub: left === undefined ? 'Nothing is refused' : currency,
    },
    {
      term: 'Events',
      value: countText(sums.events),
      sub: `${countText(sums.inputTokens)} tokens in, ${countText(sums.outputTokens)} out`,
    },
  ]
}

/** Rows of the table by model, and its last line. */
export function modelsView({ models, sums }: WorkspaceUsage) {
  const { isWhole, write } = writerFor([sums.spentMicros, ...models.map(({ spentMicros }) => spentMicros)])
  const row = (of: Omit<ModelSums, 'provider' | 'model'>) => ({
    events: countText(of.events),
    input: countText(of.inputTokens),
    output: countText(of.outputTokens),
    spent: write(of.spentMicros),
  })
  return {
    isWhole,
    rows: models.map((model) => ({
      ...row(model),
      model: model.model,
      provider: model.provider,
      share: shareOf(model.spentMicros, sums.spentMicros),
    })),
    all: row(sums),
  }
}

// --- Violations -----------------------------------------------------------------------------------------------------------

const VIOLATION_BADGES: Record<ViolationKind, Badge> = {
  refused: { kind: 'fail', word: 'Refused' },
  overrun: { kind: 'due', word: 'Overrun' },
  soft_cap: { kind: 'due', word: 'Passed' },
}

export interface ViolationView {
  /** Who is meant, set apart. */
  who: string
  whoHref: string | undefined
  text: string
  times: string
  first: Moment
  last: Moment | undefined
  effect: string
  trace: { id: string; href: string | undefined }
  badge: Badge
}

export interface Telling {
  currency: string
  /** Who a violation is of: a workspace, or a credential within one. */
  who(row: ViolationRow): { name: string; href?: string | undefined }
  traceHref(row: ViolationRow): string | undefined
}

export function violationView(row: ViolationRow, telling: Telling): ViolationView {
  const { name, href } = telling.who(row)
  const first = shortInstant(row.firstAt)
  const last = shortInstant(row.lastAt)
  const isSameDay = shortDayOf(row.firstAt) === shortDayOf(row.lastAt)
  return {
    who: name,
    whoHref: href,
    text: violationText(row, telling.currency),
    times: row.count === 1 ? 'Once' : `${countText(row.count)} times`,
    first,
    last:
      row.count === 1 || first.text === last.text
        ? undefined
        : { ...last, text: isSameDay ? clockOf(row.lastAt) : last.text },
    effect: effectOf(row, telling.currency),
    trace: { id: row.traceId, href: telling.traceHref(row) },
    badge: VIOLATION_BADGES[row.kind],
  }
}

function violationText({ kind, askedMicros, leftMicros, capMicros }: ViolationRow, currency: string): string {
  const money = (micros: Micros) => `${exactText(micros)} ${currency}`
  const left = leftMicros > 0n ? `${exactText(leftMicros)} left` : 'nothing left'
  if (kind === 'soft_cap') return `passed its soft cap of ${money(capMicros)}.`
  if (askedMicros === null) return `asked for a call whose cost in ${currency} is not known beforehand. It was refused.`
  if (kind === 'overrun') return `spent ${money(askedMicros)} with ${left}: more than was held for it, or than the cap.`
  return `asked for ${money(askedMicros)} with ${left}. It was refused.`
}

function effectOf({ kind, capMicros }: ViolationRow, currency: string): string {
  if (kind === 'soft_cap') return 'Nothing was stopped.'
  const cap = `hard cap of ${exactText(capMicros)} ${currency} at the time`
  return kind === 'overrun' ? `What was spent is recorded; ${cap}.` : `A ${cap}.`
}

/** `18 May, 21:04`. */
function shortInstant(time: Date): Moment {
  return { ...atInstant(time), text: `${shortDayOf(time)}, ${clockOf(time)}` }
}

const clockOf = (time: Date) => time.toISOString().slice(11, 16)

// --- Events ---------------------------------------------------------------------------------------------------------------

export interface EventView {
  recorded: Moment
  model: string | null
  provider: string | null
  input: string
  output: string
  cost: string
  note: string | undefined
  credential: { name: string | undefined; id: string; version: string }
  trace: { id: string; href: string }
}

export function eventView(row: UsageRow, names: ReadonlyMap<string, string>, base: string): EventView {
  const count = (tokens: number | null) => (tokens === null ? 'Not told' : countText(tokens))
  return {
    recorded: shortInstant(row.recordedAt),
    model: row.model,
    provider: row.provider,
    input: count(row.inputTokens),
    output: count(row.outputTokens),
    cost: row.costMicros === null ? 'Not known' : exactText(row.costMicros),
    note: row.isEstimated ? 'Estimated' : undefined,
    credential: {
      name: names.get(row.credentialId),
      id: row.credentialId,
      version: row.tokenVersion === null ? '' : `v${row.tokenVersion}`,
    },
    trace: { id: row.traceId, href: hrefOf(`${base}/events`, { trace_id: row.traceId }) },
  }
}

/** What is not in a sum, in a sentence. */
export function unpricedText(count: number, month: Month): string | undefined {
  if (count === 0) return undefined
  return `${counted(count, 'event')} of ${monthName(month)} ${count === 1 ? 'has' : 'have'} no known cost, and ${count === 1 ? 'is' : 'are'} not in these sums.`
}

// SQL of what was spent. What pages and lists read is one row a workspace and month, whatever the number of events.
import { sql } from 'kysely'
import type { OrganizationId, ViolationId, WorkspaceId } from '../ids.ts'
import { type Executor, THIS_MONTH } from '../store/database.ts'
import type { BudgetMode, ViolationKind } from '../store/tables.ts'
import type { Budget, Micros, Month } from '../usage/rules.ts'

// --- An organization --------------------------------------------------------------------------------------------------------

export interface WorkspaceSpending {
  id: WorkspaceId
  name: string
  costCentre: string | null
  archivedAt: Date | null
  budget: Budget | undefined
  /** One for each month asked for, as is all that follows. */
  spent: Micros[]
  held: Micros[]
  events: number[]
  violations: Record<ViolationKind, number[]>
}

interface SpendingRow {
  id: WorkspaceId
  name: string
  cost_centre: string | null
  archived_at: Date | null
  cap_micros: string | null
  mode: BudgetMode | null
  sums: Record<string, { settled: string; held: string; events: number }> | null
  violations: Record<string, Partial<Record<ViolationKind, number>>> | null
}

export interface SpendingPage {
  /** `id`: oldest first, in pages. `spent`: who spent most in the last month first. */
  order: 'id' | 'spent'
  after?: string | undefined
  limit: number
}

/**
 * Workspaces of an organization, archived ones where they spent something in these months. By workspaces_by_organization, the
 * primary key of spend and violations_by_workspace.
 */
export async function listSpending(
  executor: Executor,
  organizationId: OrganizationId,
  months: readonly Month[],
  page: SpendingPage,
): Promise<WorkspaceSpending[]> {
  const [from, to] = [months[0], months.at(-1)]
  const within = sql`month between ${from}::date and ${to}::date`
  const order = page.order === 'id' ? sql`w.id` : sql`coalesce(l.settled_micros, 0) desc, w.id`
  const { rows } = await sql<SpendingRow>`
    select w.id, w.name, w.cost_centre, w.archived_at, b.cap_micros::text as cap_micros, b.mode,
      (select jsonb_object_agg(s.month::text, jsonb_build_object('settled', s.settled_micros::text, 'held', s.held_micros::text,
          'events', s.event_count))
        from spend s where s.workspace_id = w.id and s.${within}) as sums,
      (select jsonb_object_agg(of_month.month::text, of_month.counts) from (
        select of_kind.month, jsonb_object_agg(of_kind.kind, of_kind.count) as counts from (
          select v.month, v.kind, sum(v.count) as count from violations v
          where v.workspace_id = w.id and v.${within} group by v.month, v.kind) as of_kind
        group by of_kind.month) as of_month) as violations
    from workspaces w
    left join budgets b on b.workspace_id = w.id
    left join spend l on l.workspace_id = w.id and l.month = ${to}::date
    where w.organization_id = ${organizationId} and w.id > ${page.after ?? ''}
      and (w.archived_at is null or exists (select from spend s where s.workspace_id = w.id and s.${within}))
    order by ${order} limit ${page.limit}`.execute(executor)
  return rows.map((row) => ({
    id: row.id,
    name: row.name,
    costCentre: row.cost_centre,
    archivedAt: row.archived_at,
    budget: toBudget(row),
    spent: months.map((month) => BigInt(row.sums?.[month]?.settled ?? 0)),
    held: months.map((month) => BigInt(row.sums?.[month]?.held ?? 0)),
    events: months.map((month) => row.sums?.[month]?.events ?? 0),
    violations: mapKinds((kind) => months.map((month) => row.violations?.[month]?.[kind] ?? 0)),
  }))
}

function mapKinds<T>(of: (kind: ViolationKind) => T): Record<ViolationKind, T> {
  return { refused: of('refused'), overrun: of('overrun'), soft_cap: of('soft_cap') }
}

function toBudget({ cap_micros, mode }: Pick<SpendingRow, 'cap_micros' | 'mode'>): Budget | undefined {
  return cap_micros === null || mode === null ? undefined : { capMicros: BigInt(cap_micros), mode }
}

export interface Trouble {
  workspaces: number
  /** Workspaces that spent more in the last month than their cap of today. */
  over: number
  /** One of them. */
  overName: string | null
  refused: number
  refusedIn: number
  refusedName: string | null
  /** Of any kind. */
  violations: number
}

/**
 * All of an organization: how many workspaces `listSpending` has, and what went wrong in them in the last month. By
 * workspaces_by_organization, the primary key of spend and violations_by_organization.
 */
export async function countTrouble(
  executor: Executor,
  organizationId: OrganizationId,
  months: readonly Month[],
): Promise<Trouble> {
  const [from, to] = [months[0], months.at(-1)]
  const isOver = sql`l.settled_micros > b.cap_micros`
  const { rows } = await sql<Trouble>`
    with violated as (
      select workspace_id, sum(count) as count, sum(count) filter (where kind = 'refused') as refused from violations
      where organization_id = ${organizationId} and month = ${to}::date group by workspace_id)
    select count(*)::float8 as workspaces, (count(*) filter (where ${isOver}))::float8 as over,
      min(w.name) filter (where ${isOver}) as "overName", coalesce(sum(v.refused), 0)::float8 as refused,
      count(v.refused)::float8 as "refusedIn", min(w.name) filter (where v.refused is not null) as "refusedName",
      coalesce(sum(v.count), 0)::float8 as violations
    from workspaces w
    left join budgets b on b.workspace_id = w.id
    left join spend l on l.workspace_id = w.id and l.month = ${to}::date
    left join violated v on v.workspace_id = w.id
    where w.organization_id = ${organizationId} and (w.archived_at is null or exists (
      select from spend s where s.workspace_id = w.id and s.month between ${from}::date and ${to}::date))`.execute(
    executor,
  )
  if (rows[0] === undefined) throw new Error('the database counted nothing')
  return rows[0]
}

export interface MonthTotal {
  month: Month
  settledMicros: Micros
  heldMicros: Micros
  events: number
}

/** All of an organization. By spend_by_organization. */
export async function sumSpend(
  executor: Executor,
  organizationId: OrganizationId,
  months: readonly Month[],
): Promise<MonthTotal[]> {
  const { rows } = await sql<{ month: Month; settled: string; held: string; events: number }>`
    select month::text as month, sum(settled_micros)::text as settled, sum(held_micros)::text as held,
      sum(event_count)::float8 as events
    from spend
    where organization_id = ${organizationId} and month between ${months[0]}::date and ${months.at(-1)}::date
    group by month`.execute(executor)
  const of = new Map(rows.map((row) => [row.month, row]))
  return months.map((month) => ({
    month,
    settledMicros: BigInt(of.get(month)?.settled ?? 0),
    heldMicros: BigInt(of.get(month)?.held ?? 0),
    events: of.get(month)?.events ?? 0,
  }))
}

// --- Some workspaces -------------------------------------------------------------------------------------------------------------

export interface MonthSpending {
  workspaceId: WorkspaceId
  settledMicros: Micros
  budget: Budget | undefined
}

/** Of each of these workspaces, in the current month. By the primary keys of spend and budgets. */
export async function listThisMonth(executor: Executor, ids: readonly WorkspaceId[]): Promise<MonthSpending[]> {
  const { rows } = await sql<{ id: WorkspaceId; settled: string } & Pick<SpendingRow, 'cap_micros' | 'mode'>>`
    select w.id, coalesce(s.settled_micros, 0)::text as settled, b.cap_micros::text as cap_micros, b.mode
    from workspaces w
    left join spend s on s.workspace_id = w.id and s.month = ${THIS_MONTH}
    left join budgets b on b.workspace_id = w.id
    where w.id = any(${[...ids]}::text[])`.execute(executor)
  return rows.map((row) => ({ workspaceId: row.id, settledMicros: BigInt(row.settled), budget: toBudget(row) }))
}

// --- A workspace --------------------------------------------------------------------------------------------------------------

export interface Sums {
  spentMicros: Micros
  events: number
  inputTokens: number
  outputTokens: number
}

interface SumsRow {
  spent: string
  events: number
  input: number
  output: number
}

function toSums(row: SumsRow | undefined): Sums {
  return {
    spentMicros: BigInt(row?.spent ?? 0),
    events: row?.events ?? 0,
    inputTokens: row?.input ?? 0,
    outputTokens: row?.output ?? 0,
  }
}

/** Primary key. */
export async function findSums(
  executor: Executor,
  workspaceId: WorkspaceId,
  month: Month,
): Promise<Sums & { heldMicros: Micros; unpriced: number }> {
  const { rows } = await sql<SumsRow & { held: string; unpriced: number }>`
    select settled_micros::text as spent, held_micros::text as held, event_count::float8 as events,
      input_tokens::float8 as input, output_tokens::float8 as output, unpriced_count::float8 as unpriced
    from spend where workspace_id = ${workspaceId} and month = ${month}::date`.execute(executor)
  const [row] = rows
  return { ...toSums(row), heldMicros: BigInt(row?.held ?? 0), unpriced: row?.unpriced ?? 0 }
}

export interface ModelSums extends Sums {
  provider: string | null
  model: string | null
}

/** The dearest first. By spend_by_model_dearest. */
export async function listModels(
  executor: Executor,
  workspaceId: WorkspaceId,
  month: Month,
  limit: number,
): Promise<ModelSums[]> {
  const { rows } = await sql<SumsRow & { provider: string; model: string }>`
    select provider, model, cost_micros::text as spent, event_count::float8 as events, input_tokens::float8 as input,
      output_tokens::float8 as output
    from spend_by_model where workspace_id = ${workspaceId} and month = ${month}::date
    order by cost_micros desc, provider, model limit ${limit}`.execute(executor)
  return rows.map((row) => ({ provider: row.provider || null, model: row.model || null, ...toSums(row) }))
}

/** What a workspace spent in each month. Primary key. */
export async function listMonths(
  executor: Executor,
  workspaceId: WorkspaceId,
  months: readonly Month[],
): Promise<Micros[]> {
  const { rows } = await sql<{ month: Month; settled: string }>`
    select month::text as month, settled_micros::text as settled from spend
    where workspace_id = ${workspaceId} and month between ${months[0]}::date and ${months.at(-1)}::date`.execute(
    executor,
  )
  const of = new Map(rows.map((row) => [row.month, row.settled]))
  return months.map((month) => BigInt(of.get(month) ?? 0))
}

export interface UsageRow {
  id: string
  eventId: string
  month: Month
  reservationId: string | null
  provider: string | null
  model: string | null
  inputTokens: number | null
  outputTokens: number | null
  costMicros: Micros | null
  isEstimated: boolean
  occurredAt: Date | null
  recordedAt: Date
  traceId: string
  profileId: string | null
  credentialId: string
  tokenVersion: number | null
  userId: string | null
}

interface EventRow {
  id: string
  event_id: string
  month: Month
  reservation_id: string | null
  provider: string | null
  model: string | null
  input: number | null
  output: number | null
  cost: string | null
  is_estimated: boolean
  occurred_at: Date | null
  recorded_at: Date
  trace_id: string
  profile_id: string | null
  credential_id: string
  token_version: number | null
  user_id: string | null
}

export interface EventFilter {
  month: Month | undefined
  traceId: string | undefined
}

/** Newest first. By usage_events_by_month, or usage_events_by_trace where a trace is given. */
export async function listEvents(
  executor: Executor,
  workspaceId: WorkspaceId,
  { month, traceId }: EventFilter,
  page: { before?: string | undefined; limit: number },
): Promise<UsageRow[]> {
  const ofMonth = month === undefined ? sql`` : sql`and month = ${month}::date`
  const ofTrace = traceId === undefined ? sql`` : sql`and trace_id = ${traceId}`
  const older = page.before === undefined ? sql`` : sql`and id < ${page.before}`
  const { rows } = await sql<EventRow>`
    select id, event_id, month::text as month, reservation_id, provider, model, input_tokens::float8 as input,
      output_tokens::float8 as output, cost_micros::text as cost, is_estimated, occurred_at, recorded_at, trace_id, profile_id,
      credential_id, token_version, user_id
    from usage_events where workspace_id = ${workspaceId} ${ofMonth} ${ofTrace} ${older}
    order by id desc limit ${page.limit}`.execute(executor)
  return rows.map((row) => ({
    id: row.id,
    eventId: row.event_id,
    month: row.month,
    reservationId: row.reservation_id,
    provider: row.provider,
    model: row.model,
    inputTokens: row.input,
    outputTokens: row.output,
    costMicros: row.cost === null ? null : BigInt(row.cost),
    isEstimated: row.is_estimated,
    occurredAt: row.occurred_at,
    recordedAt: row.recorded_at,
    traceId: row.trace_id,
    profileId: row.profile_id,
    credentialId: row.credential_id,
    tokenVersion: row.token_version,
    userId: row.user_id,
  }))
}

// --- Violations -------------------------------------------------------------------------------------------------------------------

export interface ViolationRow {
  id: ViolationId
  workspaceId: WorkspaceId
  workspaceName: string
  isArchived: boolean
  month: Month
  kind: ViolationKind
  /** Null for a soft cap: it was passed by all of them together. */
  credentialId: string | null
  capMicros: Micros
  /** Null: nobody knew what it would cost. */
  askedMicros: Micros | null
  leftMicros: Micros
  count: number
  traceId: string
  firstAt: Date
  lastAt: Date
}

/** Newest first. By violations_by_workspace or violations_by_organization, and the primary key of workspaces. */
export async function listViolations(
  executor: Executor,
  place: { workspaceId: WorkspaceId } | { organizationId: OrganizationId },
  month: Month,
  page: { before?: string | undefined; limit: number },
): Promise<ViolationRow[]> {
  const here =
    'workspaceId' in place
      ? sql`v.workspace_id = ${place.workspaceId}`
      : sql`v.organization_id = ${place.organizationId}`
  const older = page.before === undefined ? sql`` : sql`and v.id < ${page.before}`
  const { rows } = await sql<{
    id: ViolationId
    workspace_id: WorkspaceId
    workspace_name: string
    is_archived: boolean
    kind: ViolationKind
    credential_id: string
    cap: string
    asked: string | null
    left_over: string
    count: number
    trace_id: string
    first_at: Date
    last_at: Date
  }>`
    select v.id, v.workspace_id, w.name as workspace_name, w.archived_at is not null as is_archived, v.kind, v.credential_id,
      v.cap_micros::text as cap, v.asked_micros::text as asked, v.left_micros::text as left_over, v.count::float8 as count,
      v.trace_id, v.first_at, v.last_at
    from violations v join workspaces w on w.id = v.workspace_id
    where ${here} and v.month = ${month}::date ${older}
    order by v.id desc limit ${page.limit}`.execute(executor)
  return rows.map((row) => ({
    id: row.id,
    workspaceId: row.workspace_id,
    workspaceName: row.workspace_name,
    isArchived: row.is_archived,
    month,
    kind: row.kind,
    credentialId: row.credential_id || null,
    capMicros: BigInt(row.cap),
    askedMicros: row.asked === null ? null : BigInt(row.asked),
    leftMicros: BigInt(row.left_over),
    count: row.count,
    traceId: row.trace_id,
    firstAt: row.first_at,
    lastAt: row.last_at,
  }))
}

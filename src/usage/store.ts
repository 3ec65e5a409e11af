// SQL of usage: events, the sums of a month, budgets, reservations, violations. Whatever changes a month's sums locks their
// row first (`lockMonth`): admissions of a workspace are decided one after the other, and no other workspace waits.
import { sql } from 'kysely'
import type { AlertId, OrganizationId, ReservationId, UserId, ViolationId, WorkspaceId } from '../ids.ts'
import { newId } from '../ids.ts'
import { type Executor, THIS_MONTH, type Trx } from '../store/database.ts'
import type { BudgetMode, ReservationState, ViolationKind } from '../store/tables.ts'
import {
  type AlertPercent,
  type Balance,
  type Budget,
  type Micros,
  MOST_ALERTS_A_DAY,
  type Month,
  type UsageEvent,
} from './rules.ts'

/** Where something was used, and by what. */
export interface Source {
  organizationId: OrganizationId
  workspaceId: WorkspaceId
  userId: UserId | null
  credentialId: string
  tokenVersion: number | null
  traceId: string
  profileId: string | null
}

// --- Months and their sums ------------------------------------------------------------------------------------------------

/** The month of the transaction's beginning, by the database's clock. */
export async function readMonth(executor: Executor): Promise<Month> {
  const { rows } = await sql<{ month: Month }>`select ${THIS_MONTH}::text as month`.execute(executor)
  if (rows[0] === undefined) throw new Error('the database told no month')
  return rows[0].month
}

interface BalanceRow {
  settled_micros: string
  held_micros: string
}

function toBalance(row: BalanceRow): Balance {
  return { settledMicros: BigInt(row.settled_micros), heldMicros: BigInt(row.held_micros) }
}

const BALANCE = sql`settled_micros::text as settled_micros, held_micros::text as held_micros`
const NOTHING: Balance = { settledMicros: 0n, heldMicros: 0n }

type Place = Pick<Source, 'organizationId' | 'workspaceId'>

/** The sums of a month, locked: whoever is next sees what this transaction makes of them. Primary key. */
export async function lockMonth(trx: Trx, place: Place, month: Month): Promise<Balance> {
  const lock = sql<BalanceRow>`
    select ${BALANCE} from spend where workspace_id = ${place.workspaceId} and month = ${month}::date for update`
  const { rows } = await lock.execute(trx)
  if (rows[0] !== undefined) return toBalance(rows[0])
  await insertMonth(place, month).execute(trx)
  const [made] = (await lock.execute(trx)).rows
  if (made === undefined) throw new Error('a month was made and is not there')
  return toBalance(made)
}

/**
 * Waits for the admissions of a month that are being decided, and makes others wait until this transaction ends; leaves no row
 * where there was none.
 */
export async function lockAdmissions(trx: Trx, place: Place, month: Month): Promise<Balance> {
  const { numAffectedRows } = await insertMonth(place, month).execute(trx)
  const balance = await lockMonth(trx, place, month)
  if (numAffectedRows === 1n)
    await sql`delete from spend where workspace_id = ${place.workspaceId} and month = ${month}::date`.execute(trx)
  return balance
}

const insertMonth = (place: Place, month: Month) => sql`
  insert into spend (organization_id, workspace_id, month)
  values (${place.organizationId}, ${place.workspaceId}, ${month}::date) on conflict do nothing`

/** Primary key. */
export async function findBalance(executor: Executor, workspaceId: WorkspaceId, month: Month): Promise<Balance> {
  const { rows } = await sql<BalanceRow>`
    select ${BALANCE} from spend where workspace_id = ${workspaceId} and month = ${month}::date`.execute(executor)
  return rows[0] === undefined ? NOTHING : toBalance(rows[0])
}

export async function changeHeld(trx: Trx, workspaceId: WorkspaceId, month: Month, by: Micros): Promise<void> {
  await sql`update spend set held_micros = held_micros + ${by.toString()}::numeric
    where workspace_id = ${workspaceId} and month = ${month}::date`.execute(trx)
}

// --- Events ---------------------------------------------------------------------------------------------------------------

/**
 * Takes ids that nobody has used in the workspace yet. Waits for whoever takes one at the same time.
 *
 * @returns those that are new
 */
export async function claimEventIds(
  trx: Trx,
  workspaceId: WorkspaceId,
  claims: ReadonlyArray<{ eventId: string; digest: string }>,
): Promise<Set<string>> {
  const given = JSON.stringify(claims.map(({ eventId, digest }) => ({ event_id: eventId, digest })))
  // In one order: two calls with the same ids wait, and do not wait for each other.
  const { rows } = await sql<{ event_id: string }>`
    insert into usage_event_ids (workspace_id, event_id, digest)
    select ${workspaceId}, event_id, digest from jsonb_to_recordset(${given}::jsonb) as given (event_id text, digest text)
    order by event_id collate "C"
    on conflict do nothing returning event_id`.execute(trx)
  return new Set(rows.map((row) => row.event_id))
}

/** Digests of events that were recorded before. Primary key. */
export async function findDigests(
  trx: Trx,
  workspaceId: WorkspaceId,
  eventIds: readonly string[],
): Promise<Map<string, string>> {
  const { rows } = await sql<{ event_id: string; digest: string }>`
    select event_id, digest from usage_event_ids
    where workspace_id = ${workspaceId} and event_id = any(${[...eventIds]}::text[])`.execute(trx)
  return new Map(rows.map((row) => [row.event_id, row.digest]))
}

export interface Recording {
  source: Source
  month: Month
  events: readonly UsageEvent[]
  reservationId?: ReservationId
  /** The table that the cost was worked out with; undefined where the caller said it. */
  prices?: string | undefined
  /** What they used was not told, and is our guess. */
  isEstimated?: boolean | undefined
}

/** Writes events, and adds them to the sums of their month, which is locked by now. @returns the sums after it */
export async function recordEvents(trx: Trx, recording: Recording): Promise<Balance> {
  const { source, month, events } = recording
  const given = JSON.stringify(
    events.map((event) => ({
      id: newId('use'),
      event_id: event.eventId,
      provider: event.provider,
      model: event.model,
      input_tokens: event.inputTokens,
      output_tokens: event.outputTokens,
      cost_micros: event.costMicros?.toString() ?? null,
      occurred_at: event.occurredAt,
      profile_id: event.profileId ?? source.profileId,
    })),
  )
  const { rows } = await sql<BalanceRow>`
    with given as materialized (
      select * from jsonb_to_recordset(${given}::jsonb) as given (id text, event_id text, provider text, model text,
        input_tokens bigint, output_tokens bigint, cost_micros bigint, occurred_at timestamptz, profile_id text)),
    written as (
      insert into usage_events (id, organization_id, workspace_id, month, event_id, reservation_id, provider, model, input_tokens,
        output_tokens, cost_micros, prices, is_estimated, occurred_at, trace_id, profile_id, credential_id, token_version, user_id)
      select id, ${source.organizationId}, ${source.workspaceId}, ${month}::date, event_id, ${recording.reservationId ?? null},
        provider, model, input_tokens, output_tokens, cost_micros, ${recording.prices ?? null}, ${recording.isEstimated === true}, occurred_at,
        ${source.traceId}, profile_id, ${source.credentialId}, ${source.tokenVersion}::int, ${source.userId}
      from given),
    of_models as (
      insert into spend_by_model as m (workspace_id, month, provider, model, cost_micros, event_count, input_tokens, output_tokens)
      select ${source.workspaceId}, ${month}::date, coalesce(provider, ''), coalesce(model, ''), coalesce(sum(cost_micros), 0),
        count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0)
      from given group by provider, model
      on conflict (workspace_id, month, provider, model) do update set cost_micros = m.cost_micros + excluded.cost_micros,
        event_count = m.event_count + excluded.event_count, input_tokens = m.input_tokens + excluded.input_tokens,
        output_tokens = m.output_tokens + excluded.output_tokens)
    update spend s set settled_micros = s.settled_micros + sums.cost, event_count = s.event_count + sums.count,
      input_tokens = s.input_tokens + sums.input, output_tokens = s.output_tokens + sums.output,
      unpriced_count = s.unpriced_count + sums.unpriced
    from (select coalesce(sum(cost_micros), 0) as cost, count(*) as count, coalesce(sum(input_tokens), 0) as input,
      coalesce(sum(output_tokens), 0) as output, count(*) filter (where cost_micros is null) as unpriced from given) as sums
    where s.workspace_id = ${source.workspaceId} and s.month = ${month}::date
    returning s.settled_micros::text as settled_micros, s.held_micros::text as held_micros`.execute(trx)
  if (rows[0] === undefined) throw new Error('events were recorded in a month that is not there')
  return toBalance(rows[0])
}

// --- Budgets --------------------------------------------------------------------------------------------------------------

interface BudgetRow {
  cap_micros: string
  mode: BudgetMode
}

const BUDGET = sql`cap_micros::text as cap_micros, mode`

function toBudget(row: BudgetRow): Budget {
  return { capMicros: BigInt(row.cap_micros), mode: row.mode }
}

/** Primary key. */
export async function findBudget(executor: Executor, workspaceId: WorkspaceId): Promise<Budget | undefined> {
  const { rows } = await sql<BudgetRow>`select ${BUDGET} from budgets where workspace_id = ${workspaceId}`.execute(
    executor,
  )
  return rows[0] && toBudget(rows[0])
}

/** Nobody changes it until this transaction ends. Primary key. */
export async function lockBudget(
  trx: Trx,
  workspaceId: WorkspaceId,
  strength: 'share' | 'update' = 'share',
): Promise<Budget | undefined> {
  const lock = strength === 'update' ? sql`for update` : sql`for share`
  const { rows } = await sql<BudgetRow>`
    select ${BUDGET} from budgets where workspace_id = ${workspaceId} ${lock}`.execute(trx)
  return rows[0] && toBudget(rows[0])
}

export async function upsertBudget(trx: Trx, place: Place, budget: Budget): Promise<void> {
  await sql`insert into budgets (workspace_id, organization_id, cap_micros, mode)
    values (${place.workspaceId}, ${place.organizationId}, ${budget.capMicros.toString()}::bigint, ${budget.mode})
    on conflict (workspace_id) do update set cap_micros = excluded.cap_micros, mode = excluded.mode,
      changed_at = clock_timestamp()`.execute(trx)
}

export async function deleteBudget(trx: Trx, workspaceId: WorkspaceId): Promise<Budget | undefined> {
  const { rows } = await sql<BudgetRow>`
    delete from budgets where workspace_id = ${workspaceId} returning ${BUDGET}`.execute(trx)
  return rows[0] && toBudget(rows[0])
}

// --- The currency -----------------------------------------------------------------------------------------------------------

/** Nobody changes it until this transaction ends. Primary key. */
export async function lockCurrency(trx: Trx, organizationId: OrganizationId): Promise<string> {
  const { rows } = await sql<{ currency: string }>`
    select currency from organizations where id = ${organizationId} for share`.execute(trx)
  if (rows[0] === undefined) throw new Error('an organization has no currency')
  return rows[0].currency
}

/** Primary key. */
export async function findCurrency(executor: Executor, organizationId: OrganizationId): Promise<string> {
  const { rows } = await sql<{ currency: string }>`
    select currency from organizations where id = ${organizationId}`.execute(executor)
  return rows[0]?.currency ?? 'USD'
}

/** False where amounts are kept in the present one. By the indexes of spend and budgets by organization. */
export async function setCurrency(trx: Trx, organizationId: OrganizationId, currency: string): Promise<boolean> {
  await sql`select from organizations where id = ${organizationId} for no key update`.execute(trx)
  const { numAffectedRows } = await sql`
    update organizations set currency = ${currency} where id = ${organizationId} and (currency = ${currency} or
      not exists (select from spend where organization_id = ${organizationId})
      and not exists (select from budgets where organization_id = ${organizationId}))`.execute(trx)
  return numAffectedRows === 1n
}

// --- Reservations -------------------------------------------------------------------------------------------------------------

export interface Reservation {
  id: ReservationId
  organizationId: OrganizationId
  workspaceId: WorkspaceId
  month: Month
  state: ReservationState
  amountMicros: Micros
  costMicros: Micros | null
  settlement: string | null
  createdAt: Date
  expiresAt: Date
  endedAt: Date | null
  /** Its time has come, whether somebody has noticed or not. */
  isPast: boolean
}

interface ReservationRow {
  id: ReservationId
  organization_id: OrganizationId
  workspace_id: WorkspaceId
  month: Month
  state: ReservationState
  amount_micros: string
  cost_micros: string | null
  settlement: string | null
  created_at: Date
  expires_at: Date
  ended_at: Date | null
  is_past: boolean
}

const RESERVATION = sql`id, organization_id, workspace_id, month::text as month, state, amount_micros::text as amount_micros,
  cost_micros::text as cost_micros, settlement, created_at, expires_at, ended_at, expires_at <= clock_timestamp() as is_past`

function toReservation(row: ReservationRow): Reservation {
  return {
    id: row.id,
    organizationId: row.organization_id,
    workspaceId: row.workspace_id,
    month: row.month,
    state: row.state,
    amountMicros: BigInt(row.amount_micros),
    costMicros: row.cost_micros === null ? null : BigInt(row.cost_micros),
    settlement: row.settlement,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    endedAt: row.ended_at,
    isPast: row.is_past,
  }
}

export async function insertReservation(
  trx: Trx,
  reservation: { id: ReservationId; source: Source; month: Month; amountMicros: Micros; holdSeconds: number },
): Promise<Reservation> {
  const { source, month, amountMicros } = reservation
  const { rows } = await sql<ReservationRow>`
    insert into reservations (id, organization_id, workspace_id, month, amount_micros, expires_at, trace_id, credential_id)
    values (${reservation.id}, ${source.organizationId}, ${source.workspaceId}, ${month}::date, ${amountMicros.toString()}::bigint,
      clock_timestamp() + make_interval(secs => ${reservation.holdSeconds}), ${source.traceId}, ${source.credentialId})
    returning ${RESERVATION}`.execute(trx)
  if (rows[0] === undefined) throw new Error('a reservation was not made')
  return toReservation(rows[0])
}

/** Of this workspace only: anything else is as if it never was. Primary key. */
export async function findReservation(
  executor: Executor,
  workspaceId: WorkspaceId,
  id: ReservationId,
): Promise<Reservation | undefined> {
  const { rows } = await sql<ReservationRow>`
    select ${RESERVATION} from reservations where id = ${id} and workspace_id = ${workspaceId}`.execute(executor)
  return rows[0] && toReservation(rows[0])
}

/** After its month: that is the order of locks. */
export async function lockReservation(trx: Trx, id: ReservationId): Promise<Reservation> {
  const { rows } =
    await sql<ReservationRow>`select ${RESERVATION} from reservations where id = ${id} for update`.execute(trx)
  if (rows[0] === undefined) throw new Error('a reservation was there and is not')
  return toReservation(rows[0])
}

export async function endReservation(
  trx: Trx,
  id: ReservationId,
  end: { state: 'settled'; month: Month; costMicros: Micros | null; settlement: string } | { state: 'released' },
): Promise<Reservation> {
  const [cost, settlement, month] =
    end.state === 'settled' ? [end.costMicros?.toString() ?? null, end.settlement, end.month] : [null, null, null]
  const { rows } = await sql<ReservationRow>`
    update reservations set state = ${end.state}, month = coalesce(${month}::date, month), cost_micros = ${cost}::bigint,
      settlement = ${settlement}, ended_at = clock_timestamp() where id = ${id} returning ${RESERVATION}`.execute(trx)
  if (rows[0] === undefined) throw new Error('a reservation was there and is not')
  return toReservation(rows[0])
}

/** Ends holds of a month whose time has come; the month is locked by now. @returns what they held. By reservations_held */
export async function expireHolds(trx: Trx, workspaceId: WorkspaceId, month: Month): Promise<Micros> {
  const { rows } = await sql<{ freed: string }>`
    with past as (
      update reservations set state = 'expired', ended_at = clock_timestamp()
      where workspace_id = ${workspaceId} and month = ${month}::date and state = 'held' and expires_at <= clock_timestamp()
      returning amount_micros),
    freed as (select coalesce(sum(amount_micros), 0) as micros from past),
    changed as (
      update spend set held_micros = held_micros - freed.micros from freed
      where workspace_id = ${workspaceId} and month = ${month}::date and freed.micros > 0)
    select micros::text as freed from freed`.execute(trx)
  return BigInt(rows[0]?.freed ?? 0)
}

/** Months that hold what has expired, but of these workspaces. By reservations_expiring. */
export async function listMonthsWithExpired(
  executor: Executor,
  { except, limit }: { except: readonly WorkspaceId[]; limit: number },
): Promise<Array<Place & { month: Month }>> {
  const { rows } = await sql<{ organization_id: OrganizationId; workspace_id: WorkspaceId; month: Month }>`
    select distinct organization_id, workspace_id, month::text as month from (
      select organization_id, workspace_id, month from reservations
      where state = 'held' and expires_at <= clock_timestamp() and workspace_id <> all(${[...except]}::text[])
      order by expires_at limit ${limit}) as past`.execute(executor)
  return rows.map((row) => ({ organizationId: row.organization_id, workspaceId: row.workspace_id, month: row.month }))
}

// --- Violations and alerts ------------------------------------------------------------------------------------------------------

export interface NewViolation {
  kind: ViolationKind
  source: Source
  month: Month
  capMicros: Micros
  /** Null: nobody knew what it would cost. */
  askedMicros: Micros | null
  leftMicros: Micros
}

/** Many of one credential in an hour are one row; a soft cap is passed once a month. @returns the first of them, and no other */
export async function recordViolation(trx: Trx, violation: NewViolation): Promise<ViolationId | undefined> {
  const { kind, source, month } = violation
  const isOnce = kind === 'soft_cap'
  const hour = isOnce ? sql`${month}::timestamp` : sql`date_trunc('hour', clock_timestamp() at time zone 'utc')`
  const again = isOnce
    ? sql`nothing`
    : sql`update set count = v.count + 1, asked_micros = excluded.asked_micros, left_micros = excluded.left_micros,
        trace_id = excluded.trace_id, last_at = clock_timestamp()`
  const { rows } = await sql<{ id: ViolationId; count: string }>`
    insert into violations as v (id, organization_id, workspace_id, month, kind, credential_id, hour, cap_micros, asked_micros,
      left_micros, trace_id)
    values (${newId('vio')}, ${source.organizationId}, ${source.workspaceId}, ${month}::date, ${kind},
      ${isOnce ? '' : source.credentialId}, ${hour} at time zone 'utc', ${violation.capMicros.toString()}::bigint,
      ${violation.askedMicros?.toString() ?? null}::numeric, ${violation.leftMicros.toString()}::numeric, ${source.traceId})
    on conflict (workspace_id, month, kind, credential_id, hour, cap_micros) do ${again}
    returning id, count::text as count`.execute(trx)
  return rows[0]?.count === '1' ? rows[0].id : undefined
}

/**
 * Each once a month, mark and cap; with the mail that tells of it. The month is locked by now. Those beyond the most of a day
 * are not made: they are asked for again with whatever is spent then.
 */
export async function recordAlerts(
  trx: Trx,
  alerts: { place: Place; month: Month; percents: readonly AlertPercent[]; budget: Budget },
): Promise<void> {
  const { place, month, percents, budget } = alerts
  const ids: AlertId[] = percents.map(() => newId('alt'))
  const cap = sql`${budget.capMicros.toString()}::bigint`
  const ofMonth = sql`a.workspace_id = ${place.workspaceId} and a.month = ${month}::date`
  await sql`
    with untold as (
      select id, percent from unnest(${ids}::text[], ${[...percents]}::int[]) as given (id, percent)
      where not exists (
        select from budget_alerts a where ${ofMonth} and a.percent = given.percent and a.cap_micros = ${cap})
      order by percent desc
      limit greatest(0, ${MOST_ALERTS_A_DAY}::int - (
        select count(*) from budget_alerts a where ${ofMonth} and a.created_at > clock_timestamp() - interval '1 day'))),
    made as (
      insert into budget_alerts (id, organization_id, workspace_id, month, percent, cap_micros, mode)
      select id, ${place.organizationId}, ${place.workspaceId}, ${month}::date, percent, ${cap}, ${budget.mode} from untold
      returning id, month, workspace_id)
    insert into billing_mails (kind, subject_id, month, workspace_id)
    select 'alert', id, month, workspace_id from made`.execute(trx)
}

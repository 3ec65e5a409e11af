// What was used and what it cost, under caps that hold: events are counted once; an amount is held before it is spent; what
// was spent is recorded whatever the cap says. PostgreSQL alone decides: nothing here asks Redis.
import { createHash } from 'node:crypto'
import { type RequestInfo, record } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import { once, type Repeatable } from '../idempotency/service.ts'
import {
  isReservationId,
  newId,
  type OrganizationId,
  type ReservationId,
  type UsageId,
  type WorkspaceId,
} from '../ids.ts'
import type { Authority, Principal } from '../principals/rules.ts'
import { actorOf, lockAuthority, lockOrganizationAuthority } from '../principals/service.ts'
import { type Db, type Executor, reading, type Trx, transact } from '../store/database.ts'
import type { ViolationKind } from '../store/tables.ts'
import {
  alertsAt,
  type Balance,
  type Budget,
  formatMoney,
  isAdmitted,
  leftOf,
  type Micros,
  type Month,
  monthOfSettlement,
  stateOf,
  sumOf,
  type UsageEvent,
  violationOf,
} from './rules.ts'
import * as store from './store.ts'
import { inTurn } from './turns.ts'

export { findBudget, findCurrency, type Reservation, readMonth } from './store.ts'

interface By {
  principal: Principal
  request: RequestInfo
}

/** @throws {AppError} `wrong_credential` for one that is of no workspace */
function workspaceOf({ workspaceId }: Principal): WorkspaceId {
  if (workspaceId === undefined) throw new AppError('wrong_credential')
  return workspaceId
}

/** Who uses something: locked, and looked at again. Nothing is recorded on the word of what was revoked. */
async function lockSource(trx: Trx, { principal, request }: By): Promise<store.Source> {
  const { authority, credentialId, tokenVersion } = principal
  if (credentialId === undefined) throw new AppError('wrong_credential')
  const place = await lockAuthority(trx, authority, workspaceOf(principal), { role: 'viewer' })
  return {
    organizationId: place.organizationId,
    workspaceId: place.workspaceId,
    userId: place.userId,
    credentialId,
    tokenVersion: tokenVersion ?? null,
    traceId: request.traceId,
    profileId: request.profileId ?? null,
  }
}

function transactInTurn<T>(db: Db, workspaceId: WorkspaceId, work: (trx: Trx) => Promise<T>): Promise<T> {
  return inTurn(db, workspaceId, () => transact(db, work))
}

// --- Events ---------------------------------------------------------------------------------------------------------------

/** The same event sent again is known by its id, and by this that it is the same. */
export function digestOfEvent(event: Omit<UsageEvent, 'eventId'>): string {
  const { provider, model, inputTokens, outputTokens, costMicros, occurredAt, profileId } = event
  const facts = [provider, model, inputTokens, outputTokens, costMicros?.toString(), occurredAt, profileId]
  return createHash('sha256').update(JSON.stringify(facts)).digest('base64url')
}

export interface Ingested {
  recorded: number
  /** Were recorded before, or came twice. */
  repeated: number
}

/**
 * Records events in the current month, each id once in its workspace. All of them, or none.
 *
 * @param currency what the caller takes the amounts for
 * @throws {AppError} `event_differs`, `invalid_request` for another currency, `unauthorized`
 */
export async function ingest(
  db: Db,
  input: By & { events: readonly UsageEvent[]; currency: string | undefined },
): Promise<Ingested> {
  const digests = new Map<string, string>()
  for (const event of input.events) {
    const digest = digestOfEvent(event)
    if ((digests.get(event.eventId) ?? digest) !== digest) throw eventDiffers(event.eventId)
    digests.set(event.eventId, digest)
  }
  return transactInTurn(db, workspaceOf(input.principal), async (trx) => {
    const source = await lockSource(trx, input)
    requireCurrency(await store.lockCurrency(trx, source.organizationId), input.currency)
    const claims = [...digests].map(([eventId, digest]) => ({ eventId, digest }))
    const fresh = await store.claimEventIds(trx, source.workspaceId, claims)
    const seen = claims.filter(({ eventId }) => !fresh.has(eventId))
    if (seen.length > 0) await requireSame(trx, source.workspaceId, seen)
    const events = input.events.filter(({ eventId }) => fresh.delete(eventId))
    if (events.length > 0) await spend(trx, { source, month: await store.readMonth(trx), events })
    return { recorded: events.length, repeated: input.events.length - events.length }
  })
}

async function requireSame(
  trx: Trx,
  workspaceId: WorkspaceId,
  claims: ReadonlyArray<{ eventId: string; digest: string }>,
): Promise<void> {
  const kept = await store.findDigests(
    trx,
    workspaceId,
    claims.map(({ eventId }) => eventId),
  )
  const other = claims.find(({ eventId, digest }) => kept.get(eventId) !== digest)
  if (other !== undefined) throw eventDiffers(other.eventId)
}

function eventDiffers(eventId: string): AppError {
  return new AppError('event_differs', {
    detail: `The event ${eventId} was recorded before, or stands twice in this call, and says something else. Nothing of this call was recorded.`,
  })
}

function requireCurrency(kept: string, given: string | undefined): void {
  if (given === undefined || given === kept) return
  throw new AppError('invalid_request', {
    detail: `This organization counts in ${kept}: send amounts in it, or leave the currency out.`,
  })
}

/** Records events in a month, and says what that does to its cap. */
async function spend(trx: Trx, recording: store.Recording): Promise<void> {
  const { source, month } = recording
  const { budget, balance: before } = await lockBalance(trx, source, month)
  const after = await store.recordEvents(trx, recording)
  if (budget === undefined) return
  await judge(trx, { source, month, budget, before, after })
}

/** A month and its cap, neither of which changes until this transaction ends. */
async function lockBalance(
  trx: Trx,
  source: store.Source,
  month: Month,
): Promise<{ budget: Budget | undefined; balance: Balance }> {
  const locked = await store.lockBudget(trx, source.workspaceId)
  const balance = await store.lockMonth(trx, source, month)
  // Where there was none, nothing was locked: one may have been set while this waited for the month.
  return { budget: locked ?? (await store.findBudget(trx, source.workspaceId)), balance }
}

interface Judged {
  source: store.Source
  month: Month
  budget: Budget
  before: Balance
  after: Balance
}

/**
 * What spending led to: a soft cap that is passed, more spent than a hard one, alerts.
 *
 * @param isOverrun it was more than was held for it, or came after the hold: an overrun also within the cap
 */
async function judge(trx: Trx, { source, month, budget, before, after }: Judged, isOverrun = false): Promise<void> {
  const spent = after.settledMicros - before.settledMicros
  if (spent === 0n) return
  const kind = violationOf(budget, { after, isOverrun })
  const facts = { source, month, capMicros: budget.capMicros, askedMicros: spent, leftMicros: leftOf(budget, before) }
  if (kind !== undefined) await violate(trx, { ...facts, kind })
  await alert(trx, { place: source, month, budget, settledMicros: after.settledMicros })
}

/** Tells of what is spent of a cap; what was told is not told again. The month is locked by now. */
async function alert(
  trx: Trx,
  at: {
    place: { organizationId: OrganizationId; workspaceId: WorkspaceId }
    month: Month
    budget: Budget
    settledMicros: Micros
  },
): Promise<void> {
  const percents = alertsAt(at.budget, at.settledMicros)
  if (percents.length > 0) await store.recordAlerts(trx, { ...at, percents })
}

const EVENT_OF_VIOLATION: Record<ViolationKind, string> = {
  refused: 'budget.admission_refused',
  overrun: 'budget.overrun',
  soft_cap: 'budget.soft_cap_passed',
}

/** The audit log has the first of an hour; how many they were is with the violation. */
async function violate(trx: Trx, violation: store.NewViolation): Promise<void> {
  const { source, kind } = violation
  const id = await store.recordViolation(trx, violation)
  if (id === undefined) return
  await record(trx, {
    event: EVENT_OF_VIOLATION[kind],
    status: 'fail',
    actor: { kind: source.credentialId.startsWith('con_') ? 'connection' : 'key', id: source.credentialId },
    request: { traceId: source.traceId, ...(source.profileId === null ? {} : { profileId: source.profileId }) },
    organizationId: source.organizationId,
    workspaceId: source.workspaceId,
    userId: source.userId,
    credentialId: source.credentialId,
    tokenVersion: source.tokenVersion,
    detail: {
      violation_id: id,
      month: violation.month.slice(0, 7),
      cap: formatMoney(violation.capMicros),
      asked: violation.askedMicros === null ? null : formatMoney(violation.askedMicros),
      left: formatMoney(violation.leftMicros),
    },
  })
}

// --- Reservations ---------------------------------------------------------------------------------------------------------------

/** A reservation, and what its amounts are in. */
export interface Priced {
  reservation: store.Reservation
  currency: string
}

/** Rolls an admission back: what was held, and the Idempotency-Key that would bring the refusal back. */
class NotAdmitted extends Error {
  readonly violation: store.NewViolation
  readonly currency: string
  /** A sentence, where it is not the amount. */
  readonly problem: string | undefined

  constructor(violation: store.NewViolation, currency: string, problem?: string) {
    super('not admitted')
    this.violation = violation
    this.currency = currency
    this.problem = problem
  }
}

/**
 * Holds an amount in the current month. Under a hard cap only while settled, held and asked stay within it, however many ask
 * at once; the hold ends by itself.
 *
 * @throws {AppError} `budget_exceeded`, which is recorded; `invalid_request` for another currency, `unauthorized`
 */
export async function reserve(
  db: Db,
  input: By & {
    amountMicros: Micros
    currency: string | undefined
    holdSeconds: number
    repeatable: Repeatable | undefined
  },
): Promise<Priced & { isRepeat: boolean }> {
  return admitting(db, input.principal, async (trx) => {
    const source = await lockSource(trx, input)
    const currency = await store.lockCurrency(trx, source.organizationId)
    requireCurrency(currency, input.currency)
    const { result, isRepeat } = await once(trx, input.repeatable, async () => {
      return { id: (await hold(trx, source, { ...input, currency })).id }
    })
    const reservation = await store.findReservation(trx, source.workspaceId, result.id)
    if (reservation === undefined) throw new AppError('not_found')
    return { reservation, currency, isRepeat }
  })
}

/** Where an admission is refused, all of it is rolled back, and the refusal recorded. */
async function admitting<T>(db: Db, principal: Principal, admit: (trx: Trx) => Promise<T>): Promise<T> {
  return inTurn(db, workspaceOf(principal), async () => {
    try {
      return await transact(db, admit)
    } catch (error) {
      if (!(error instanceof NotAdmitted)) throw error
      await transact(db, (trx) => violate(trx, error.violation))
      throw new AppError('budget_exceeded', { detail: refusalOf(error) })
    }
  })
}

function refusalOf({ violation, currency, problem }: NotAdmitted): string {
  if (problem !== undefined) return problem
  const { askedMicros, capMicros, leftMicros } = violation
  if (askedMicros === null)
    return `No price in ${currency} is known here for this model, and this workspace has a hard cap: choose a model that has one, or let an admin of the workspace make the cap soft.`
  const left = formatMoney(leftMicros < 0n ? 0n : leftMicros)
  return `${formatMoney(askedMicros)} was asked for, and the hard cap of ${formatMoney(capMicros)} leaves ${left} this month.`
}

async function hold(
  trx: Trx,
  source: store.Source,
  { amountMicros, holdSeconds, currency }: { amountMicros: Micros; holdSeconds: number; currency: string },
): Promise<store.Reservation> {
  const month = await store.readMonth(trx)
  const { budget, balance } = await lockBalance(trx, source, month)
  const freed = await store.expireHolds(trx, source.workspaceId, month)
  const current = { ...balance, heldMicros: balance.heldMicros - freed }
  if (budget !== undefined && !isAdmitted(budget, current, amountMicros)) {
    const asked = { askedMicros: amountMicros, leftMicros: leftOf(budget, current) }
    throw new NotAdmitted({ kind: 'refused', source, month, capMicros: budget.capMicros, ...asked }, currency)
  }
  await store.changeHeld(trx, source.workspaceId, month, amountMicros)
  return store.insertReservation(trx, { id: newId('res'), source, month, amountMicros, holdSeconds })
}

/**
 * Ends a hold with what was really spent: that is recorded in the month of the hold, also when it is more than was held, and
 * in the current one when the hold was over. Sent again it is the same.
 *
 * @throws {AppError} `not_found`, `already_settled` with something else, `invalid_request` for another currency
 */
export async function settle(
  db: Db,
  input: By & { id: string; event: Omit<UsageEvent, 'eventId'>; currency: string | undefined },
): Promise<Priced> {
  return transactInTurn(db, workspaceOf(input.principal), async (trx) => {
    const source = await lockSource(trx, input)
    const currency = await store.lockCurrency(trx, source.organizationId)
    requireCurrency(currency, input.currency)
    return { reservation: await settleIn(trx, source, input), currency }
  })
}

/** @param settled.event its id is the reservation's */
async function settleIn(
  trx: Trx,
  source: store.Source,
  settled: { id: string; event: Omit<UsageEvent, 'eventId'>; prices?: string | undefined; isEstimated?: boolean },
): Promise<store.Reservation> {
  const settlement = digestOfEvent(settled.event)
  const { month: monthOfHold, id } = await getOwn(trx, source.workspaceId, settled.id)
  const ofHold = await lockBalance(trx, source, monthOfHold)
  const held = await store.lockReservation(trx, id)
  if (held.state === 'settled') {
    if (held.settlement !== settlement) throw new AppError('already_settled')
    return held
  }
  if (held.state === 'held') await store.changeHeld(trx, source.workspaceId, monthOfHold, -held.amountMicros)
  const month = monthOfSettlement(held, await store.readMonth(trx))
  const { budget, balance: before } = month === monthOfHold ? ofHold : await lockBalance(trx, source, month)
  const events = [{ ...settled.event, eventId: id }]
  const { prices, isEstimated } = settled
  const after = await store.recordEvents(trx, { source, month, events, reservationId: id, prices, isEstimated })
  if (budget !== undefined) {
    const isOverrun = stateOf(held) !== 'held' || sumOf(events) > held.amountMicros
    await judge(trx, { source, month, budget, before, after }, isOverrun)
  }
  return store.endReservation(trx, id, { state: 'settled', month, costMicros: settled.event.costMicros, settlement })
}

/**
 * Ends a hold without spending. Sent again it is the same.
 *
 * @throws {AppError} `not_found`, `already_settled`
 */
export async function release(db: Db, input: By & { id: string }): Promise<Priced> {
  return transactInTurn(db, workspaceOf(input.principal), async (trx) => {
    const source = await lockSource(trx, input)
    const currency = await store.findCurrency(trx, source.organizationId)
    return { reservation: await releaseIn(trx, source, input.id), currency }
  })
}

async function releaseIn(trx: Trx, source: store.Source, reservationId: string): Promise<store.Reservation> {
  const { month, id } = await getOwn(trx, source.workspaceId, reservationId)
  await store.lockMonth(trx, source, month)
  const held = await store.lockReservation(trx, id)
  if (held.state === 'settled') throw new AppError('already_settled')
  if (held.state !== 'held') return held
  await store.changeHeld(trx, source.workspaceId, month, -held.amountMicros)
  return store.endReservation(trx, id, { state: 'released' })
}

/** @throws {AppError} `not_found` */
export async function getReservation(db: Db, workspaceId: WorkspaceId, id: string): Promise<Priced> {
  const reservation = await reading(getOwn(db, workspaceId, id))
  return { reservation, currency: await reading(store.findCurrency(db, reservation.organizationId)) }
}

async function getOwn(executor: Executor, workspaceId: WorkspaceId, id: string): Promise<store.Reservation> {
  const found = isReservationId(id) ? await store.findReservation(executor, workspaceId, id) : undefined
  if (found === undefined) throw new AppError('not_found')
  return found
}

// --- Calls that we make for somebody ------------------------------------------------------------------------------------------

/** A call that may be made, and whose use is recorded whatever becomes of the credential meanwhile. */
export interface AdmittedCall {
  /** Of its event, where it has no reservation: recorded once, however often that is tried. */
  id: UsageId
  source: store.Source
  /** Of the organization. */
  currency: string
  /** Undefined where no hard cap is in the way. */
  reservationId: ReservationId | undefined
}

/**
 * Lets a call go ahead. Under a hard cap the most that it can cost is held; a call whose price nobody knows is not made there.
 *
 * @param input.most by the organization's currency; undefined where no price is known, `problem` where that is not enough
 * @throws {AppError} `budget_exceeded`, which is recorded; `unauthorized`
 */
export function admitCall(
  db: Db,
  input: By & { most: (currency: string) => Micros | { problem: string } | undefined; holdSeconds: number },
): Promise<AdmittedCall> {
  return admitting(db, input.principal, async (trx) => {
    const source = await lockSource(trx, input)
    const currency = await store.lockCurrency(trx, source.organizationId)
    const budget = await store.lockBudget(trx, source.workspaceId)
    const id = newId('use')
    if (budget?.mode !== 'hard') return { id, source, currency, reservationId: undefined }
    const amountMicros = input.most(currency)
    if (typeof amountMicros !== 'bigint') {
      const month = await store.readMonth(trx)
      const leftMicros = leftOf(budget, await store.findBalance(trx, source.workspaceId, month))
      const facts = { source, month, capMicros: budget.capMicros, askedMicros: null, leftMicros }
      throw new NotAdmitted({ kind: 'refused', ...facts }, currency, amountMicros?.problem)
    }
    if (amountMicros === 0n) return { id, source, currency, reservationId: undefined }
    const reservation = await hold(trx, source, { amountMicros, holdSeconds: input.holdSeconds, currency })
    return { id, source, currency, reservationId: reservation.id }
  })
}

interface UsedByCall {
  /** Its cost is in the currency of the admission. */
  event: Omit<UsageEvent, 'eventId'>
  prices: string | undefined
  isEstimated: boolean
}

/** Records what a call used. Tried again it is the same. */
export async function recordCall(
  db: Db,
  { id, source, currency, reservationId }: AdmittedCall,
  sent: UsedByCall,
): Promise<void> {
  await transactPatiently(db, source.workspaceId, async (trx) => {
    const kept = await store.lockCurrency(trx, source.organizationId)
    const used = kept === currency ? sent : withoutCost(sent)
    if (reservationId !== undefined) {
      await settleIn(trx, source, { id: reservationId, ...used })
      return
    }
    const { event, ...how } = used
    const fresh = await store.claimEventIds(trx, source.workspaceId, [{ eventId: id, digest: digestOfEvent(event) }])
    if (fresh.size === 0) return
    const events = [{ ...event, eventId: id }]
    await spend(trx, { source, month: await store.readMonth(trx), events, ...how })
  })
}

/** The currency was changed while the call ran: nobody knows what it cost in the other one. */
function withoutCost({ event, isEstimated }: UsedByCall): UsedByCall {
  return { event: { ...event, costMicros: null }, prices: undefined, isEstimated }
}

/** For a call that was not made, or cost nothing. */
export async function dropCall(db: Db, { source, reservationId }: AdmittedCall): Promise<void> {
  if (reservationId !== undefined)
    await transactPatiently(db, source.workspaceId, (trx) => releaseIn(trx, source, reservationId))
}

/** Nobody sends again what is not recorded. */
function transactPatiently(db: Db, workspaceId: WorkspaceId, work: (trx: Trx) => Promise<unknown>): Promise<unknown> {
  return inTurn(db, workspaceId, () => transact(db, work), { patient: true })
}

const MONTHS_A_ROUND = 100

/**
 * Ends holds whose time has come, also where nobody asks for anything any more. A workspace that is too busy keeps no other one
 * waiting: the rest is done before the first failure is thrown.
 */
export async function expireDueHolds(db: Db): Promise<void> {
  const failures = new Map<WorkspaceId, unknown>()
  for (;;) {
    const page = { except: [...failures.keys()], limit: MONTHS_A_ROUND }
    const months = await reading(store.listMonthsWithExpired(db, page))
    for (const { month, ...place } of months) {
      if (failures.has(place.workspaceId)) continue
      await transact(db, async (trx) => {
        await store.lockMonth(trx, place, month)
        await store.expireHolds(trx, place.workspaceId, month)
      }).catch((error: unknown) => failures.set(place.workspaceId, error))
    }
    if (months.length === 0) break
  }
  for (const error of failures.values()) throw error
}

// --- Budgets ------------------------------------------------------------------------------------------------------------------------

interface ByAuthority {
  authority: Authority
  request: RequestInfo
}

/**
 * Sets the monthly cap of a workspace, or none. It counts from the next admission on; what is held stays held.
 *
 * @throws {AppError} as `lockAuthority`, `invalid_request` for another currency
 */
export async function setBudget(
  db: Db,
  input: ByAuthority & { workspaceId: WorkspaceId; budget: Budget | undefined; currency: string | undefined },
): Promise<void> {
  const { authority, request, budget } = input
  await transactInTurn(db, input.workspaceId, async (trx) => {
    const place = await lockAuthority(trx, authority, input.workspaceId, { role: 'admin' })
    requireCurrency(await store.lockCurrency(trx, place.organizationId), input.currency)
    const before = await store.lockBudget(trx, place.workspaceId, 'update')
    if (budget !== undefined) await putBudget(trx, place, budget)
    else await store.deleteBudget(trx, place.workspaceId)
    await record(trx, {
      event: budget === undefined ? 'budget.removed' : 'budget.changed',
      status: 'pass',
      actor: actorOf(authority),
      request,
      organizationId: place.organizationId,
      workspaceId: place.workspaceId,
      userId: place.userId,
      detail: { before: presentCap(before), after: presentCap(budget) },
    })
  })
}

/** No hold that was decided without this cap is committed after it. */
async function putBudget(
  trx: Trx,
  place: { organizationId: OrganizationId; workspaceId: WorkspaceId },
  budget: Budget,
): Promise<void> {
  await store.upsertBudget(trx, place, budget)
  const month = await store.readMonth(trx)
  const { settledMicros } = await store.lockAdmissions(trx, place, month)
  await alert(trx, { place, month, budget, settledMicros })
}

function presentCap(budget: Budget | undefined): Record<string, string> | null {
  return budget === undefined ? null : { cap: formatMoney(budget.capMicros), mode: budget.mode }
}

/** The budget of a workspace, and what of the current month is spent and held. */
export async function getBudget(db: Db, place: { workspaceId: WorkspaceId; organizationId: OrganizationId }) {
  return reading(
    Promise.all([
      store.findBudget(db, place.workspaceId),
      store.readMonth(db).then(async (month) => ({
        month,
        balance: await store.findBalance(db, place.workspaceId, month),
      })),
      store.findCurrency(db, place.organizationId),
    ]).then(([budget, { month, balance }, currency]) => ({ budget, month, balance, currency })),
  )
}

/**
 * Sets what an organization counts in, as long as nothing is counted.
 *
 * @throws {AppError} `currency_in_use`, as `lockOrganizationAuthority`
 */
export async function setCurrency(
  db: Db,
  input: ByAuthority & { organizationId: OrganizationId; currency: string },
): Promise<void> {
  const { authority, request, currency } = input
  await transact(db, async (trx) => {
    const place = await lockOrganizationAuthority(trx, authority, input.organizationId, { role: 'admin' })
    if (!(await store.setCurrency(trx, place.organizationId, currency))) throw new AppError('currency_in_use')
    await record(trx, {
      event: 'organization.currency_changed',
      status: 'pass',
      actor: actorOf(authority),
      request,
      organizationId: place.organizationId,
      userId: place.userId,
      detail: { currency },
    })
  })
}

// Calls of a provider in somebody's name: admitted first, made with the stored key, passed through as they come, and what they
// used is recorded before their end is.

import type { Readable } from 'node:stream'
import type { RequestInfo } from '../audit/service.ts'
import type { Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import type { WorkspaceId } from '../ids.ts'
import { namesTwice } from '../json/rules.ts'
import type { Principal } from '../principals/rules.ts'
import { actorOf } from '../principals/service.ts'
import {
  costOf,
  type Endpoint,
  mostUsageOf,
  type Plan,
  PRICES_CURRENCY,
  PRICES_VERSION,
  type Price,
  type ProviderType,
  priceOf,
  type Seen,
  type TokenUsage,
} from '../provider-types/rules.ts'
import {
  addressOf,
  checkInBackground,
  findProviderOfType,
  noteWorkingCall,
  type OpenedAnswer,
  openCredentials,
  type ProviderConnection,
  type ProvidersDeps,
} from '../providers/service.ts'
import type { Counter } from '../store/counter.ts'
import { type AdmittedCall, admitCall, dropCall, recordCall } from '../usage/service.ts'
import { insist } from './insisting.ts'
import { isEventStream, isReadable, passedHeaders, typeOfAnswer, usageOf } from './rules.ts'
import { createMeter } from './stream.ts'
import type { OneCall, UnderWay } from './under-way.ts'

export interface ProxyDeps {
  providers: ProvidersDeps & {
    soon(work: Promise<void>): void
    /** What a call used could not be recorded, however often that was tried. */
    onUnrecorded(source: { workspaceId: WorkspaceId; traceId: string }, error: Error): void
  }
  counter: Counter
  underWay: UnderWay
}

export interface ProxiedCall {
  type: ProviderType
  endpoint: Endpoint
  principal: Principal
  request: RequestInfo
  /** Of the caller, those that are passed on. */
  headers: Readonly<Record<string, string>>
  query: Readonly<Record<string, string | undefined>>
  /** As it came, and what it says; undefined for a call without one. */
  body: { raw: Buffer; json: Readonly<Record<string, unknown>> } | undefined
  /** Aborted when the caller is gone. */
  signal: AbortSignal
}

export interface ProxiedAnswer {
  status: number
  headers: Record<string, string>
  body: Readable
}

/** Longer than a call may take (`MOST_CALL_MS`); what is held by a process that was killed is free after it. */
export const HOLD_SECONDS = 1_800
const WINDOW_SECONDS = 60
/** Of one credential. */
export const MOST_CALLS = 6_000

/**
 * @throws {AppError} `not_found` where the workspace has no such connection, `provider_failed` where its key was refused,
 * `too_many_requests`, `budget_exceeded`, `provider_unreachable`, `credentials_unreadable`, `invalid_request`
 */
export async function callProvider(deps: ProxyDeps, call: ProxiedCall): Promise<ProxiedAnswer> {
  const underWay = await begin(deps, call)
  try {
    const connection = await findUsable(deps, call)
    const secret = await openCredentials(deps.providers, deps.providers.db, connection)
    const planned = planOf(call)
    const { admitted, most } = await admit(deps, call, planned)
    const { type, endpoint, principal, request } = call
    const { providers } = deps
    const metered = planned && { ...planned.facts, most }
    const made = { providers, type, endpoint, principal, request, connection, secret, metered, admitted, underWay }
    if (call.signal.aborted) return await leftBefore(made)
    const answer = await providers.outbound.open({
      url: `${addressOf(connection, endpoint.path)}${searchOf(call)}`,
      method: endpoint.method,
      headers: { ...HEADERS, ...(call.body && OF_BODY), ...type.headers(secret.reveal()), ...call.headers },
      body: planned?.sent ?? call.body?.raw,
      signal: underWay.signal,
    })
    const passed = await (answer.ok ? answered(made, answer) : failed(made, answer.failure))
    if (call.signal.aborted) passed.body.destroy() // nobody else does
    return passed
  } catch (error) {
    underWay.end()
    throw error
  }
}

const HEADERS = { accept: 'application/json, text/event-stream' }
/** Whatever the caller called it: another reading of the same bytes is not what was held for. */
const OF_BODY = { 'content-type': 'application/json' }

function searchOf({ query }: ProxiedCall): string {
  const given = Object.entries(query).filter((pair): pair is [string, string] => pair[1] !== undefined)
  return given.length === 0 ? '' : `?${new URLSearchParams(given)}`
}

async function begin(
  { providers, counter, underWay }: ProxyDeps,
  { principal, signal }: ProxiedCall,
): Promise<OneCall> {
  const { credentialId = '' } = principal
  const { count, resetsInSeconds } = await counter.increment('proxy', credentialId, WINDOW_SECONDS)
  if (count > MOST_CALLS) throw new AppError('too_many_requests', { retryAfterSeconds: resetsInSeconds })
  const begun = underWay.begin(credentialId, signal)
  if (begun === undefined) {
    const detail = 'This credential has as many calls under way as it may. Try again when one of them has ended.'
    throw new AppError('too_many_requests', { detail, retryAfterSeconds: 1 })
  }
  providers.soon(begun.ended) // the end of the process waits for what it cost
  return begun
}

async function findUsable({ providers }: ProxyDeps, { principal, type }: ProxiedCall): Promise<ProviderConnection> {
  if (principal.workspaceId === undefined) throw new AppError('wrong_credential')
  const found = await findProviderOfType(providers.db, principal.workspaceId, type.type)
  if (found === undefined)
    throw new AppError('not_found', { detail: `This workspace has no connection to ${type.name}.` })
  if (found.status === 'failed') throw new AppError('provider_failed')
  return found
}

// --- Admission -------------------------------------------------------------------------------------------------------------------

type GoodPlan = Extract<Plan, { ok: true }>

interface PlannedCall {
  plan: GoodPlan
  sent: Buffer
  /** What is kept until its end, long after the request was sent. */
  facts: { model: string; price: Price | undefined; requestBytes: number }
}

function planOf({ type, endpoint, body }: ProxiedCall): PlannedCall | undefined {
  if (endpoint.metered === undefined || body === undefined) return undefined
  // Another parser may take the first of them, and was not what was held for.
  if (namesTwice(body.raw)) throw new AppError('invalid_request', { detail: 'An object of the body has a name twice.' })
  const plan = endpoint.metered.plan(body.json)
  if (!plan.ok) throw new AppError('invalid_request', { detail: plan.problem })
  const { model, request } = plan
  const sent = request === body.json ? body.raw : Buffer.from(JSON.stringify(request))
  return { plan, sent, facts: { model, price: priceOf(type, model), requestBytes: sent.byteLength } }
}

/** @returns `most`: what is held for it, where anything is */
async function admit(
  { providers: { db } }: ProxyDeps,
  { endpoint, principal, request, headers }: ProxiedCall,
  planned: PlannedCall | undefined,
): Promise<{ admitted: AdmittedCall; most: TokenUsage | undefined }> {
  let held: TokenUsage | undefined
  const most = (currency: string) => {
    if (endpoint.metered === undefined || planned === undefined) return 0n
    const { plan, facts } = planned
    const { price, requestBytes } = facts
    if (price === undefined || currency !== PRICES_CURRENCY) return undefined
    const bound = endpoint.metered.bound(plan.request, headers)
    if (!bound.ok) return { problem: bound.problem }
    held = mostUsageOf(price, { ...plan, requestBytes }, bound.besides)
    return costOf(price, held)
  }
  const admitted = await admitCall(db, { principal, request, most, holdSeconds: HOLD_SECONDS })
  return { admitted, most: held }
}

// --- What came of it ----------------------------------------------------------------------------------------------------------------

/** What is kept for as long as an answer takes: nothing of what was sent. */
interface MadeCall extends Pick<ProxiedCall, 'type' | 'endpoint' | 'principal' | 'request'> {
  providers: ProxyDeps['providers']
  connection: ProviderConnection
  secret: Secret
  metered: (PlannedCall['facts'] & { most: TokenUsage | undefined }) | undefined
  admitted: AdmittedCall
  underWay: OneCall
}

const NOTHING_SEEN: Seen = { told: undefined, isLast: false, textBytes: 0 }

async function failed(made: MadeCall, failure: Extract<OpenedAnswer, { ok: false }>['failure']): Promise<never> {
  // What was thought about until nobody waited any more may have to be paid for.
  if (failure === 'unanswered') await recordUse(made, NOTHING_SEEN)
  else await drop(made)
  throw new AppError('provider_unreachable', {
    detail:
      failure === 'refused'
        ? 'The address of this connection is one that this server does not call.'
        : `${made.type.name} could not be reached. Try again in a moment.`,
  })
}

/** Nobody waits for it, and nothing was sent. */
async function leftBefore(made: MadeCall): Promise<never> {
  await drop(made)
  throw new AppError('provider_unreachable')
}

async function answered(made: MadeCall, answer: Extract<OpenedAnswer, { ok: true }>): Promise<ProxiedAnswer> {
  const { status, headers, body } = answer
  const { endpoint, secret } = made
  if (status === 401 || status === 403 || (status >= 300 && status < 400)) return refused(made, answer)
  const isUsed = status >= 200 && status < 300
  if (!isReadable(answer)) return unreadable(made, { body, isUsed })
  if (isUsed) noteWorking(made)
  const dropped = isUsed ? undefined : drop(made) // not waited for: the answer may end, or be cut, meanwhile
  const type = typeOfAnswer(headers['content-type'])
  const reader = isUsed ? endpoint.metered?.createReader() : undefined
  const passed = createMeter({
    body,
    isEventStream: isEventStream(type),
    reader,
    secret,
    async onEnd() {
      await (dropped ?? recordUse(made, reader?.seen() ?? NOTHING_SEEN))
      made.underWay.end()
    },
  })
  // Also where the provider has said everything, and its caller does not read it.
  made.underWay.signal.addEventListener('abort', () => passed.destroy(new Error('the call took too long')))
  return { status, headers: { 'Content-Type': type, ...passedHeaders(headers, secret) }, body: passed }
}

/** It may have to be paid for all the same. */
async function unreadable(made: MadeCall, { body, isUsed }: { body: Readable; isUsed: boolean }): Promise<never> {
  body.destroy()
  if (isUsed) await recordUse(made, NOTHING_SEEN)
  else await drop(made)
  throw new AppError('provider_unreachable', {
    detail: `${made.type.name} answered with a status or in an encoding that nobody asked for.`,
  })
}

/** What a provider says of a key that it refuses may hold a part of it: nobody is told. */
async function refused(made: MadeCall, { status, body }: Extract<OpenedAnswer, { ok: true }>): Promise<never> {
  const { connection, providers } = made
  body.destroy()
  await drop(made)
  if (status === 403) throw new AppError('provider_forbids')
  // It may have been a moment's mistake, or the caller's: a check of our own says what becomes of the connection.
  if (status === 401) providers.soon(checkInBackground(providers, connection))
  throw new AppError('provider_failed', status < 400 ? { detail: REDIRECTED } : {})
}

const REDIRECTED =
  'The provider answered with a redirect, which is not followed: the key belongs to the address it was given for.'

/** The first call that works says as much as a check. */
function noteWorking({ providers, connection, principal, request }: MadeCall): void {
  if (connection.status === 'verified') return
  const by = { actor: actorOf(principal.authority), request, userId: principal.userId }
  providers.soon(noteWorkingCall(providers.db, connection, by).catch((error: Error) => providers.onError(error)))
}

function drop(made: MadeCall): Promise<void> {
  return insistOn(made, () => dropCall(made.providers.db, made.admitted))
}

function recordUse(made: MadeCall, seen: Seen): Promise<void> {
  const { providers, type, metered, admitted } = made
  if (metered === undefined) return drop(made)
  const { model, price, requestBytes } = metered
  const most = admitted.reservationId === undefined ? undefined : metered.most
  const usage = usageOf(seen, { requestBytes, most })
  const isPriced = price !== undefined && admitted.currency === PRICES_CURRENCY
  const event = {
    provider: type.type,
    model,
    inputTokens: usage.inputTokens + usage.cacheReadTokens + usage.cacheWriteTokens + usage.longCacheWriteTokens,
    outputTokens: usage.outputTokens,
    costMicros: isPriced ? costOf(price, usage) : null,
    occurredAt: null,
    profileId: null,
  }
  const used = { event, prices: isPriced ? PRICES_VERSION : undefined, isEstimated: !seen.isLast }
  return insistOn(made, () => recordCall(providers.db, admitted, used))
}

function insistOn({ providers, admitted }: MadeCall, work: () => Promise<void>): Promise<void> {
  const onGivenUp = (error: Error) => providers.onUnrecorded(admitted.source, error)
  return insist({ soon: providers.soon, onGivenUp }, work)
}

// Calls of a provider in somebody's name: admitted first, made with the stored key, passed through as they come, and what they
// used is recorded before their end is.

import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream'
import { setTimeout as pause } from 'node:timers/promises'
import type { RequestInfo } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import type { Principal } from '../principals/rules.ts'
import { actorOf } from '../principals/service.ts'
import {
  costOf,
  type Endpoint,
  mostCostOf,
  type Plan,
  PRICES_CURRENCY,
  PRICES_VERSION,
  type Price,
  type ProviderType,
  priceOf,
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
import { type AdmittedCall, admitCall, dropCall, recordCall } from '../usage/service.ts'
import { estimated, passedHeaders, typeOfAnswer } from './rules.ts'
import { createMeter } from './stream.ts'

export interface ProxyDeps {
  providers: ProvidersDeps & { soon(work: Promise<void>): void }
}

export interface ProxiedCall {
  type: ProviderType
  endpoint: Endpoint
  principal: Principal
  request: RequestInfo
  /** Of the caller, those that are passed on. */
  headers: Readonly<Record<string, string>>
  /** As it came, and what it says; undefined for a call without one. */
  body: { raw: Buffer; json: Readonly<Record<string, unknown>> } | undefined
  signal: AbortSignal
}

export interface ProxiedAnswer {
  status: number
  headers: Record<string, string>
  body: Readable
}

/** Longer than an answer takes; what is held by a process that was killed is free after it. */
const HOLD_SECONDS = 1_800

/**
 * @throws {AppError} `not_found` where the workspace has no such connection, `provider_failed` where its key was refused,
 * `budget_exceeded`, `provider_unreachable`, `credentials_unreadable`, `invalid_request`
 */
export async function callProvider(deps: ProxyDeps, call: ProxiedCall): Promise<ProxiedAnswer> {
  const { db } = deps.providers
  const connection = await findUsable(deps, call)
  const secret = (await openCredentials(deps.providers, db, connection)).reveal()
  const metered = planOf(call)
  const admitted = await admit(deps, call, metered)
  const made = { deps, call, connection, secret, metered, admitted }
  let answer: OpenedAnswer
  try {
    answer = await deps.providers.outbound.open({
      url: addressOf(connection, call.endpoint.path),
      method: call.endpoint.method,
      headers: { accept: 'application/json, text/event-stream', ...call.type.headers(secret), ...call.headers },
      body: metered?.sent ?? call.body?.raw,
      signal: call.signal,
    })
  } catch (error) {
    await drop(made)
    throw error
  }
  if (!answer.ok) return failed(made, answer.failure)
  return answered(made, answer)
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

interface MeteredCall {
  plan: Extract<Plan, { ok: true }>
  price: Price | undefined
  sent: Buffer
}

function planOf({ type, endpoint, body }: ProxiedCall): MeteredCall | undefined {
  if (endpoint.metered === undefined || body === undefined) return undefined
  const plan = endpoint.metered.plan(body.json)
  if (!plan.ok) throw new AppError('invalid_request', { detail: plan.problem })
  return { plan, price: priceOf(type, plan.model), sent: plan.request === body.json ? body.raw : textOf(plan.request) }
}

function textOf(request: object): Buffer {
  try {
    return Buffer.from(JSON.stringify(request))
  } catch {
    throw new AppError('invalid_request', { detail: 'The request is nested too deep.' })
  }
}

function admit(
  { providers: { db } }: ProxyDeps,
  { principal, request }: ProxiedCall,
  metered: MeteredCall | undefined,
): Promise<AdmittedCall> {
  const most = (currency: string) => {
    if (metered === undefined) return 0n
    const { price, sent, plan } = metered
    if (price === undefined || currency !== PRICES_CURRENCY) return undefined
    return mostCostOf(price, { requestBytes: sent.byteLength, mostOutputTokens: plan.mostOutputTokens })
  }
  return admitCall(db, { principal, request, most, holdSeconds: HOLD_SECONDS })
}

// --- What came of it ----------------------------------------------------------------------------------------------------------------

interface MadeCall {
  deps: ProxyDeps
  call: ProxiedCall
  connection: ProviderConnection
  secret: string
  metered: MeteredCall | undefined
  admitted: AdmittedCall
}

async function failed(made: MadeCall, failure: string): Promise<never> {
  // Who has hung up may have been charged for what was thought until then.
  if (made.call.signal.aborted && made.metered !== undefined)
    await recordUse(made, { usage: undefined, answerBytes: 0 })
  else await drop(made)
  throw new AppError('provider_unreachable', {
    detail:
      failure === 'refused'
        ? 'The address of this connection is one that this server does not call.'
        : `${made.call.type.name} could not be reached. Try again in a moment.`,
  })
}

async function answered(made: MadeCall, answer: Extract<OpenedAnswer, { ok: true }>): Promise<ProxiedAnswer> {
  const { status, headers, body } = answer
  const { call, secret } = made
  if (status === 401 || status === 403 || (status >= 300 && status < 400)) return refused(made, answer)
  const isUsed = status >= 200 && status < 300
  if (isUsed) noteWorking(made)
  else await drop(made)
  const type = typeOfAnswer(headers['content-type'])
  const reader = isUsed ? call.endpoint.metered?.createReader() : undefined
  const meter = createMeter({
    isEventStream: type.startsWith('text/event-stream'),
    reader,
    secret,
    onEnd({ bytes }) {
      const work = isUsed ? recordUse(made, { usage: reader?.usage(), answerBytes: bytes }) : Promise.resolve()
      made.deps.providers.soon(work) // also when it ends because the process does
      return work
    },
  })
  // Either end that is gone ends the other; the meter has recorded by then.
  pipeline(body, meter, () => {})
  return { status, headers: { 'Content-Type': type, ...passedHeaders(headers, secret) }, body: meter }
}

/** What a provider says of a key that it refuses may hold a part of it: nobody is told. */
async function refused(made: MadeCall, { status, body }: Extract<OpenedAnswer, { ok: true }>): Promise<never> {
  const { connection, deps } = made
  const { providers } = deps
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
function noteWorking({ deps: { providers }, call, connection }: MadeCall): void {
  if (connection.status === 'verified') return
  const { principal, request } = call
  const by = { actor: actorOf(principal.authority), request, userId: principal.userId }
  providers.soon(noteWorkingCall(providers.db, connection, by).catch((error: Error) => providers.onError(error)))
}

function drop({ deps: { providers }, admitted }: Pick<MadeCall, 'deps' | 'admitted'>): Promise<void> {
  return insist(providers, () => dropCall(providers.db, admitted))
}

function recordUse(
  { deps: { providers }, call, metered, admitted }: MadeCall,
  seen: { usage: TokenUsage | undefined; answerBytes: number },
): Promise<void> {
  if (metered === undefined) return drop({ deps: { providers }, admitted })
  const { plan, price, sent } = metered
  const usage =
    seen.usage ??
    estimated({
      requestBytes: sent.byteLength,
      answerBytes: seen.answerBytes,
      mostOutputTokens: plan.mostOutputTokens ?? price?.mostOutputTokens,
    })
  const isPriced = price !== undefined && admitted.currency === PRICES_CURRENCY
  const event = {
    provider: call.type.type,
    model: plan.model,
    inputTokens: usage.inputTokens + usage.cacheReadTokens + usage.cacheWriteTokens,
    outputTokens: usage.outputTokens,
    costMicros: isPriced ? costOf(price, usage) : null,
    occurredAt: null,
    profileId: null,
  }
  const used = { event, prices: isPriced ? PRICES_VERSION : undefined, isEstimated: seen.usage === undefined }
  return insist(providers, () => recordCall(providers.db, admitted, used))
}

const PAUSES_MS = [250, 1_000, 4_000, 15_000]

/**
 * What was spent is recorded also when the database is away for a moment. The caller waits for the first try; the others go on
 * behind it.
 */
async function insist(providers: ProxyDeps['providers'], work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch {
    providers.soon(again(providers, work))
  }
}

async function again({ onError }: ProxyDeps['providers'], work: () => Promise<void>): Promise<void> {
  for (const ms of PAUSES_MS) {
    await pause(ms)
    const failure = await work().then(
      () => undefined,
      (error: unknown) => error,
    )
    if (failure === undefined) return
    if (ms === PAUSES_MS.at(-1)) onError(failure instanceof Error ? failure : new Error(String(failure)))
  }
}

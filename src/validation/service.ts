// Access validation: what a credential is and whether it is what a job expects, recorded before it is answered. Nothing but
// the log changes: it is no use of the credential, and commits no cutover.

import type { AuditRecord } from '../audit/rules.ts'
import type { AuditEvent } from '../audit/service.ts'
import { type RequestInfo, recordAndRead } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import {
  type ConnectionId,
  isClientId,
  isKeyId,
  isUserId,
  type OrganizationId,
  type UserId,
  type WorkspaceId,
} from '../ids.ts'
import { type AccessTokenClaims, type AccessTokens, parseVersion } from '../oauth/access-tokens.ts'
import { findReached } from '../organizations/service.ts'
import { lockAuthority, lockOrganizationAuthority } from '../principals/service.ts'
import { type Counter, createCounter } from '../store/counter.ts'
import { type Db, reading, type Trx, transact } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import type { Environment } from '../store/tables.ts'
import { rfc3339OrNull } from '../times.ts'
import type { Uses } from '../uses/service.ts'
import { type Refused, refusedToken } from '../verification/rules.ts'
import type { Verification } from '../verification/service.ts'
import { findTokenVersion, type TokenRecord } from '../verification/store.ts'
import { type Mismatch, mismatchOf, type Presented } from './rules.ts'

export interface ValidationDeps {
  db: Db
  ephemeral: EphemeralStore
  verification: Pick<Verification, 'judge'>
  accessTokens: AccessTokens
  uses: Pick<Uses, 'refused'>
}

type Parts = ValidationDeps & { counter: Counter }

/** A credential that was judged good, and how to judge it again. */
export interface Standing {
  credential: Presented
  refusal(): Promise<Refused | undefined>
  /** What may have ended it besides its credential, person and place, which a transaction locks: entries of the list. */
  isEndedIn(trx: Trx): Promise<boolean>
}

export interface Validation {
  /**
   * Judges a value, and records one that is ours and does not stand, in the workspace that it belonged to.
   *
   * @throws {AppError} `unauthorized`, the same for what has ended and for what never was
   */
  admit(value: string, request: RequestInfo): Promise<Standing>
  /**
   * Compares with what the job expects, and records the outcome.
   *
   * @returns the record of a pass, as it stands in the log
   * @throws {AppError} `workspace_mismatch`, `environment_mismatch`, `stale_version`, recorded as well; `unauthorized` where it
   * ended meanwhile; `too_many_requests`
   */
  validate(standing: Standing, expected: Expectations, request: RequestInfo): Promise<AuditRecord>
}

export interface Expectations {
  workspaceId?: string | undefined
  environment?: Environment | undefined
  tokenVersion?: string | undefined
}

const WINDOW_SECONDS = 60
/** Of one credential: a job validates at its start and now and then, and the log is no way to fill a disk. */
const MOST_VALIDATIONS = 600
/** Of one that has ended: these are recorded one by one, the others together. */
const MOST_REFUSALS_EACH = 30

export function createValidation(given: ValidationDeps): Validation {
  const deps: Parts = { ...given, counter: createCounter(given.ephemeral) }
  return {
    async admit(value, request) {
      const judged = await judge(deps, value, request.address)
      if (judged === undefined) throw new AppError('unauthorized')
      const { credential, refused, claims } = judged
      if (refused !== undefined) return refuse(deps, credential, refused, request)
      return {
        credential,
        refusal: async () => (await judge(deps, value, request.address))?.refused,
        isEndedIn: async (trx) => claims !== undefined && deps.accessTokens.isEndedIn(trx, claims),
      }
    },

    async validate(standing, expected, request) {
      const { credential, refusal } = standing
      await requireFewer(deps, credential)
      const mismatch = mismatchOf(credential, { ...expected, workspace: await workspaceOf(deps, expected) })
      const written = await recordStanding(deps, standing, outcomeOf(credential, mismatch, request))
      // It ended between the two: what is recorded as a pass must have stood when it was recorded.
      if (written === undefined) return refuse(deps, credential, (await refusal()) ?? 'ended', request)
      if (mismatch !== undefined) throw new AppError(mismatch.reason)
      return written
    },
  }
}

// --- What it is ----------------------------------------------------------------------------------------------------------

interface Judged {
  credential: Presented
  refused: Refused | undefined
  /** Of a JWT. */
  claims?: AccessTokenClaims
}

/**
 * Undefined for what is none of ours. This server issued all that it signed, so it answers for JWTs of every audience: a job
 * asks whether its credential stands before it calls the API that the credential is for. It lets nobody in anywhere by that.
 */
async function judge(deps: ValidationDeps, value: string, address: string | undefined): Promise<Judged | undefined> {
  const judged = await deps.verification.judge(value, address)
  if (judged.token !== undefined)
    return { credential: ofToken(judged.token), refused: judged.ok ? undefined : refusedToken(judged.fault) }
  const claims = await deps.accessTokens.recognise(value)
  const credential = claims && (await ofClaims(deps, claims))
  if (claims === undefined || credential === undefined) return undefined
  const refused = await deps.accessTokens.refusal(claims)
  return { credential, claims, refused: refused ?? (claims.cnf === undefined ? undefined : 'bound') }
}

function ofToken(token: TokenRecord): Presented {
  return {
    authority: { kind: 'key', id: token.id, version: token.version },
    organizationId: token.organizationId,
    workspaceId: token.workspaceId,
    userId: token.userId,
    clientId: null,
    environment: token.environment,
    scopes: token.permissions,
    expiresAt: token.expiresAt,
  }
}

/** Claims are ours: signed by us, with these forms. */
async function ofClaims(deps: ValidationDeps, claims: AccessTokenClaims): Promise<Presented | undefined> {
  const version = parseVersion(claims.token_version)
  if (version === undefined) return undefined
  const { credential_id: id, sub } = claims
  const shared = {
    organizationId: claims.organization_id as OrganizationId,
    workspaceId: claims.workspace_id as WorkspaceId,
    clientId: isClientId(claims.client_id) ? claims.client_id : null,
    environment: claims.environment as Environment,
    scopes: claims.scope?.split(' ') ?? [],
    expiresAt: new Date(claims.exp * 1000),
  }
  if (!isKeyId(id)) {
    const userId: UserId | null = isUserId(sub) ? sub : null
    return { ...shared, authority: { kind: 'connection', id: id as ConnectionId, version, userId }, userId }
  }
  const token = await reading(findTokenVersion(deps.db, id, version))
  return { ...shared, authority: { kind: 'key', id, version }, userId: token?.userId ?? null }
}

async function workspaceOf(deps: ValidationDeps, { workspaceId }: Expectations) {
  if (workspaceId === undefined) return undefined
  const found = await findReached(deps.db, workspaceId, null)
  return { id: workspaceId, organizationId: found?.workspace.organization_id }
}

// --- What is recorded ------------------------------------------------------------------------------------------------------

async function requireFewer(deps: Parts, { authority }: Presented): Promise<void> {
  const { count, resetsInSeconds } = await deps.counter.increment('validation', authority.id, WINDOW_SECONDS)
  if (count > MOST_VALIDATIONS) throw new AppError('too_many_requests', { retryAfterSeconds: resetsInSeconds })
}

function eventOf(credential: Presented, request: RequestInfo): Omit<AuditEvent, 'status' | 'detail'> {
  const { authority, organizationId, workspaceId, userId, clientId } = credential
  return {
    event: 'access_validation',
    actor: { kind: authority.kind, id: authority.id },
    request,
    organizationId,
    workspaceId,
    userId,
    clientId,
    credentialId: authority.id,
    tokenVersion: authority.version,
  }
}

function outcomeOf(credential: Presented, mismatch: Mismatch | undefined, request: RequestInfo): AuditEvent {
  const event = eventOf(credential, request)
  if (mismatch !== undefined) return { ...event, status: 'fail', detail: { ...mismatch } }
  const { environment, scopes, expiresAt } = credential
  return { ...event, status: 'pass', detail: { environment, scopes, expires_at: rfc3339OrNull(expiresAt) } }
}

/** Under a lock on what it stands by, so that the log never shows a pass after an end. @returns undefined where it has ended */
async function recordStanding(
  deps: ValidationDeps,
  { credential, isEndedIn }: Standing,
  event: AuditEvent,
): Promise<AuditRecord | undefined> {
  try {
    return await transact(deps.db, async (trx) => {
      await lock(trx, credential)
      const written = await recordAndRead(trx, event)
      // Afterwards: whatever is not on the list yet is answered later than the time that the record has.
      if (await isEndedIn(trx)) throw new AppError('unauthorized')
      return written
    })
  } catch (error) {
    if (error instanceof AppError && error.status >= 400 && error.status < 500) return undefined
    throw error
  }
}

async function lock(trx: Trx, { authority, organizationId, workspaceId }: Presented): Promise<void> {
  if (workspaceId === null) await lockOrganizationAuthority(trx, authority, organizationId, { role: 'member' })
  else await lockAuthority(trx, authority, workspaceId, { role: 'viewer' })
}

async function refuse(deps: Parts, credential: Presented, reason: Refused, request: RequestInfo): Promise<never> {
  const { authority, organizationId, workspaceId, userId, clientId } = credential
  const { count } = await deps.counter.increment('validation-refused', authority.id, WINDOW_SECONDS)
  if (count > MOST_REFUSALS_EACH) {
    const { id: credentialId, version } = authority
    const known = { credentialId, version, organizationId, workspaceId, userId, clientId, reason, request }
    deps.uses.refused({ ...known, event: 'access_validation', address: request.address, agent: undefined })
  } else {
    await transact(deps.db, (trx) =>
      recordAndRead(trx, { ...eventOf(credential, request), status: 'fail', detail: { reason } }),
    )
  }
  throw new AppError('unauthorized')
}

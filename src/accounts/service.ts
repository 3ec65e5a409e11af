// People's accounts: made, found, signed in.
import ipaddr from 'ipaddr.js'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { closeAllOf, signNewTokens } from '../connections/service.ts'
import type { Passwords } from '../crypto/passwords.ts'
import { digestOf, type Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { newUserId, type UserId } from '../ids.ts'
import { endEverySession } from '../logout/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import { type Db, reading, readTime, type Trx, transact } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import {
  emailKey,
  isEmail,
  isFailureTold,
  isSessionGood,
  PASSWORD_LEAST_CHARACTERS,
  PASSWORD_MOST_BYTES,
  passwordProblem,
} from './rules.ts'
import * as store from './store.ts'

export interface AccountsDeps {
  db: Db
  ephemeral: EphemeralStore
  passwords: Passwords
}

export interface User {
  id: UserId
  email: string
  name: string
  created_at: string
}

/** A person as the rest of the server sees them. */
export interface Account {
  id: UserId
  email: string
  name: string
  suspendedAt: Date | null
  sessionsNotBefore: Date | null
}

/** @throws {AppError} `invalid_request` for a bad address, name or password, `conflict` for an address in use */
export async function createUser(
  deps: AccountsDeps,
  input: { email: string; name: string; password: Secret; actor: Actor; request: RequestInfo },
): Promise<User> {
  const passwordDigest = await digestNewPassword(deps, input.password)
  return transact(deps.db, (trx) => createUserIn(trx, { ...input, passwordDigest }))
}

/** @throws {AppError} `invalid_request` for a password that nobody may have */
export function digestNewPassword(deps: Pick<AccountsDeps, 'passwords'>, password: Secret): Promise<string> {
  checkPassword(password)
  return deps.passwords.digest(password)
}

/**
 * Opens an account as a part of a larger change.
 *
 * @throws {AppError} `invalid_request` for a bad address, `conflict` for one in use
 */
export async function createUserIn(
  trx: Trx,
  input: { email: string; name: string; passwordDigest: string; actor: Actor; request: RequestInfo },
): Promise<User> {
  if (!isEmail(input.email)) throw new AppError('invalid_request', { detail: 'The e-mail address is not valid.' })
  const row = { id: newUserId(), email: input.email.trim(), email_key: emailKey(input.email), name: input.name }
  const createdAt = await store.insertUser(trx, { ...row, password_digest: input.passwordDigest })
  if (createdAt === undefined)
    throw new AppError('conflict', { detail: 'There is already an account with this e-mail address.' })
  await record(trx, {
    event: 'user.created',
    status: 'pass',
    actor: input.actor,
    request: input.request,
    userId: row.id,
  })
  return { id: row.id, email: row.email, name: row.name, created_at: createdAt.toISOString() }
}

/**
 * Gives a person a new password, ends their sessions, and lets every connection of theirs sign new tokens. Clients that
 * want to know of logouts are told.
 *
 * @throws {AppError} `not_found` for an unknown person, `invalid_request` for a bad password
 */
export async function setPassword(
  deps: AccountsDeps & { revocations: RevocationList },
  input: { user: string; password: Secret; actor: Actor; request: RequestInfo },
): Promise<{ id: UserId; email: string }> {
  const passwordDigest = await digestNewPassword(deps, input.password)
  return deps.revocations.change(async (trx, revoke) => {
    const user = await store.lockUserToChange(trx, input.user)
    if (user === undefined) throw new AppError('not_found', { detail: `There is no person ${input.user}.` })
    await store.updatePassword(trx, user.id, passwordDigest)
    await record(trx, {
      event: 'user.password_set',
      status: 'pass',
      actor: input.actor,
      request: input.request,
      userId: user.id,
    })
    await signNewTokens(trx, revoke, { ...input, userId: user.id, reason: 'password_set' })
    await endEverySession(trx, { userId: user.id, reason: 'password_set', request: input.request })
    revoke({ subject: user.id }) // for the sink: a backup would bring the old password back
    return { id: user.id, email: user.email }
  })
}

/**
 * Signs a person out everywhere: every browser session of theirs ends, also one that is just being used, and every
 * connection signs new tokens. Those that refresh go on by themselves. Clients that want to know of logouts are told.
 *
 * @param input.signedInAt of the session that asks, in seconds since the epoch; without one an operator does
 * @returns how many connections sign new tokens, and how many notices clients get
 * @throws {AppError} `not_found` for an unknown person, `unauthorized` for a session that is no longer good
 */
export function signOutEverywhere(
  deps: { revocations: RevocationList },
  input: { user: string; signedInAt?: number; actor: Actor; request: RequestInfo },
): Promise<{ id: UserId; connections: number; told: number }> {
  return deps.revocations.change(async (trx, revoke) => {
    const user = await store.lockUserToChange(trx, input.user)
    if (user === undefined) throw new AppError('not_found', { detail: `There is no person ${input.user}.` })
    const state = { suspendedAt: user.suspended_at, sessionsNotBefore: user.sessions_not_before }
    if (input.signedInAt !== undefined && !isSessionGood(state, input.signedInAt)) throw new AppError('unauthorized')
    await store.endSessions(trx, user.id)
    await record(trx, {
      event: 'user.signed_out_everywhere',
      status: 'pass',
      actor: input.actor,
      request: input.request,
      userId: user.id,
    })
    const connections = await signNewTokens(trx, revoke, {
      ...input,
      userId: user.id,
      reason: 'signed_out_everywhere',
    })
    const told = await endEverySession(trx, {
      userId: user.id,
      reason: 'signed_out_everywhere',
      request: input.request,
    })
    revoke({ subject: user.id })
    return { id: user.id, connections, told }
  })
}

/**
 * Suspends a person: their sessions, their connections and every JWT of theirs end, everywhere, once this resolves, and stay
 * ended when it is lifted. Tokens that they made are the workspaces' and stay. Doing it twice changes nothing.
 *
 * @throws {AppError} `not_found` for an unknown person
 */
export function setSuspended(
  deps: { revocations: RevocationList },
  input: { user: string; suspended: boolean; actor: Actor; request: RequestInfo },
): Promise<{ id: UserId; suspended: boolean }> {
  const { suspended } = input
  return deps.revocations.change(async (trx, revoke) => {
    const user = await store.lockUserToChange(trx, input.user)
    if (user === undefined) throw new AppError('not_found', { detail: `There is no person ${input.user}.` })
    if (await store.setSuspended(trx, user.id, suspended)) {
      await record(trx, {
        event: suspended ? 'user.suspended' : 'user.restored',
        status: 'pass',
        actor: input.actor,
        request: input.request,
        userId: user.id,
      })
      if (suspended) {
        await closeAllOf(trx, revoke, { ...input, userId: user.id, reason: 'suspended' })
        await endEverySession(trx, { userId: user.id, reason: 'suspended', request: input.request })
      }
    }
    revoke({ subject: user.id, suspended, ...(suspended ? { notBeforeNow: true } : {}) })
    return { id: user.id, suspended }
  })
}

export async function findAccount(db: Db, id: string): Promise<Account | undefined> {
  const row = await reading(store.findUser(db, id))
  return (
    row && {
      id: row.id,
      email: row.email,
      name: row.name,
      suspendedAt: row.suspended_at,
      sessionsNotBefore: row.sessions_not_before,
    }
  )
}

export type SignInOutcome =
  /** `signedInAt`: when the password was good, by the database; seconds since the epoch. */
  | { ok: true; userId: UserId; signedInAt: number }
  | { ok: false; reason: 'wrong' }
  | { ok: false; reason: 'too_many'; retryAfterSeconds: number }

const WINDOW_SECONDS = 15 * 60
const MOST_FROM_ADDRESS = 100
const MOST_FOR_ACCOUNT_AND_ADDRESS = 10
/** A browser that has signed in here before is its owner's, most likely. */
const MOST_FOR_KNOWN_DEVICE = 50
/** An attacker spread over many addresses slows an account down; a browser that signed in before still gets through. */
const MOST_FOR_ACCOUNT = 100

/**
 * Checks an address and a password. Unknown, suspended and wrong look alike, in the answer and in the time it takes.
 *
 * @param input.device what a browser that signed in here before can show: the digest it was given then
 */
export async function signIn(
  deps: AccountsDeps,
  input: { email: string; password: Secret; device?: string | undefined; request: RequestInfo },
): Promise<SignInOutcome> {
  const key = emailKey(input.email).slice(0, 320)
  const stopped = await countTry(deps, key, input)
  if (stopped !== undefined) return stopped
  const usable = passwordProblem(input.password.reveal()) !== 'too_long'
  const user = usable && isEmail(key) ? await reading(store.findUser(deps.db, key)) : undefined
  const matches = usable && (await deps.passwords.matches(user?.password_digest, input.password))
  const mayPass = matches && user !== undefined && user.suspended_at === null
  const signedInAt = await recordSignIn(deps.db, matches ? user : undefined, {
    userId: user?.id,
    failures: mayPass ? 1 : await countFailure(deps, key), // 1: where it fails yet, something changed meanwhile
    request: input.request,
  })
  if (user === undefined || signedInAt === undefined) return { ok: false, reason: 'wrong' }
  return { ok: true, userId: user.id, signedInAt }
}

/** What a browser keeps to be known again: bound to the account, of no use for anything else. */
export function deviceMark(email: string): string {
  return digestOf(`device ${emailKey(email)}`)
}

/** @returns the refusal where there were too many of them */
async function countTry(
  deps: AccountsDeps,
  key: string,
  input: { email: string; device?: string | undefined; request: RequestInfo },
): Promise<Extract<SignInOutcome, { reason: 'too_many' }> | undefined> {
  const address = networkOf(input.request.address ?? 'none')
  const isKnownDevice = input.device === deviceMark(input.email)
  const counts: Array<[string, number]> = [
    [`address ${address}`, MOST_FROM_ADDRESS],
    [`both ${key} ${address}`, isKnownDevice ? MOST_FOR_KNOWN_DEVICE : MOST_FOR_ACCOUNT_AND_ADDRESS],
  ]
  if (!isKnownDevice) counts.push([`account ${key}`, MOST_FOR_ACCOUNT])
  for (const [subject, most] of counts) {
    const { count, resetsInSeconds } = await deps.ephemeral.increment('sign-in', digestOf(subject), WINDOW_SECONDS)
    if (count > most) return { ok: false, reason: 'too_many', retryAfterSeconds: resetsInSeconds }
  }
  return undefined
}

/** Apart from the tries: what passes must not hide what fails. @returns how many failed lately for the account, with this one */
async function countFailure({ ephemeral }: AccountsDeps, key: string): Promise<number> {
  return (await ephemeral.increment('sign-in', digestOf(`failures ${key}`), WINDOW_SECONDS)).count
}

/** What one party holds: an IPv4 address, or of IPv6 the first half (RFC 6177), where every address is theirs. */
function networkOf(address: string): string {
  if (!ipaddr.isValid(address)) return address
  const parsed = ipaddr.process(address)
  return parsed instanceof ipaddr.IPv4 ? parsed.toString() : parsed.parts.slice(0, 4).join(':')
}

/**
 * Records a try, the same way for everyone, also for an address that nobody has: the time it takes must tell nothing.
 * Failures that follow one another are collapsed: nobody fills the log by guessing.
 * Who matched is locked and looked at once more, so that a password that was replaced meanwhile opens no session.
 *
 * @returns when the session began, or undefined when there is none
 */
function recordSignIn(
  db: Db,
  matched: { id: UserId; password_digest: string | null } | undefined,
  { userId, failures, request }: { userId: UserId | undefined; failures: number; request: RequestInfo },
): Promise<number | undefined> {
  return transact(db, async (trx) => {
    const locked = userId === undefined ? undefined : await store.lockUser(trx, userId)
    const passes =
      matched !== undefined && locked?.suspended_at === null && locked.password_digest === matched.password_digest
    if (passes || isFailureTold(failures)) {
      await record(trx, {
        event: 'session.sign_in',
        status: passes ? 'pass' : 'fail',
        actor: userId === undefined ? { kind: 'nobody' } : { kind: 'user', id: userId },
        request,
        userId: userId ?? null,
        detail: passes ? {} : { tries: failures },
      })
    }
    return passes ? Math.floor((await readTime(trx)).getTime() / 1000) : undefined
  })
}

function checkPassword(password: Secret): void {
  const problem = passwordProblem(password.reveal())
  if (problem === undefined) return
  throw new AppError('invalid_request', {
    detail:
      problem === 'too_short'
        ? `The password is too short: at least ${PASSWORD_LEAST_CHARACTERS} characters.`
        : `The password is too long: at most ${PASSWORD_MOST_BYTES} bytes.`,
  })
}

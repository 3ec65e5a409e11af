// Back-channel logout (OpenID Connect Back-Channel Logout 1.0): which clients know of which sessions, the notices that are
// written in the transaction that ends them, and their delivery afterwards, by whichever process comes first.
import { randomUUID } from 'node:crypto'
import { importJWK, SignJWT } from 'jose'
import { type RequestInfo, record } from '../audit/service.ts'
import type { Keys } from '../crypto/keys.ts'
import type { UserId } from '../ids.ts'
import { type Db, reading, retried, type Trx, transact } from '../store/database.ts'
import { delaySeconds, isTaken, MOST_TRIES } from './rules.ts'
import * as store from './store.ts'

/**
 * Before a client is told of a session. False when the session has ended meanwhile: the client must not be told.
 *
 * @throws {AppError} `unavailable`
 */
export function startClientSession(db: Db, session: store.ClientSession): Promise<boolean> {
  return retried(() => store.insertClientSession(db, session))
}

/** Whether what a client is about to be told of a session still holds. @throws {AppError} `unavailable` */
export function isClientSessionOpen(db: Db, clientId: string, sid: string): Promise<boolean> {
  return reading(store.isClientSessionOpen(db, clientId, sid))
}

export interface SessionEnd {
  userId: UserId
  /** The browser's session; or only what one client knows of it. */
  ended: store.EndedSession
  /** Left by the word of an app, where the browser's session goes on; or another person signed in with the same browser. */
  reason: 'signed_out' | 'left_client' | 'person_changed'
  /** Which client asked for it. */
  clientId?: string | undefined
}

/** Records that a browser's session ends, with a notice for each client that was told of it. @throws {AppError} `unavailable` */
export function endSession(db: Db, end: SessionEnd, request: RequestInfo): Promise<void> {
  return transact(db, async (trx) => {
    const told = await store.endClientSessions(trx, end.ended, { reason: end.reason, traceId: request.traceId })
    await record(trx, {
      event: 'session.sign_out',
      status: 'pass',
      actor: { kind: 'user', id: end.userId },
      request,
      userId: end.userId,
      clientId: end.clientId ?? null,
      detail: { reason: end.reason, told },
    })
  })
}

/**
 * Notices for every client that may hold a session of a person. Part of the transaction that ends all of them.
 *
 * @returns how many there are
 */
export function endEverySession(
  trx: Trx,
  input: {
    userId: UserId
    reason: 'signed_out_everywhere' | 'password_set' | 'suspended' | 'erased'
    request: RequestInfo
  },
): Promise<number> {
  return store.endEveryClientSession(trx, input.userId, { reason: input.reason, traceId: input.request.traceId })
}

/** The names of a person's clients that would be told now. @throws {AppError} `unavailable` */
export async function listKnowingClients(db: Db, userId: UserId): Promise<string[]> {
  return (await reading(store.listKnowingClients(db, userId))).map(({ name }) => name)
}

// --- Delivery --------------------------------------------------------------------------------------------------------

const LOOK_EVERY_MS = 500
/** At a time, from one process; one a client, so that a slow receiver holds up nobody else's. */
const MOST_AT_ONCE = 16
/** Twice what a try may take. */
const CLAIM_SECONDS = 10
const TOKEN_SECONDS = 120

export interface LogoutDeliveryDeps {
  db: Db
  keys: Keys
  issuer: string
  /** Sends a form to an address that a client chose. Resolves within seconds, whatever is there; never rejects. */
  post(url: string, form: string): Promise<{ ok: true; status: number } | { ok: false; failure: string }>
  onError: (error: Error) => void
}

export interface LogoutDelivery {
  start(): void
  /** Takes no more notices, and waits for those that are under way. */
  close(): Promise<void>
}

export function createLogoutDelivery(deps: LogoutDeliveryDeps): LogoutDelivery {
  const underWay = new Map<string, Promise<void>>()
  const sign = createSigner(deps)
  let timer: NodeJS.Timeout | undefined
  let looking: Promise<void> | undefined
  let closed = false
  const fail = (error: unknown) => deps.onError(error instanceof Error ? error : new Error(String(error)))

  async function look(): Promise<void> {
    const most = MOST_AT_ONCE - underWay.size
    if (most <= 0) return
    const asked = { most, besides: [...underWay.keys()], claimSeconds: CLAIM_SECONDS }
    for (const notice of await store.claimNotices(deps.db, asked)) {
      const done = deliver(deps, notice, sign)
        .catch(fail) // the claim runs out, and the notice is taken again
        .finally(() => {
          underWay.delete(notice.client_id)
          wake()
        })
      underWay.set(notice.client_id, done)
    }
  }

  function wake(): void {
    if (closed || looking !== undefined) return
    looking = look()
      .catch(fail)
      .finally(() => {
        looking = undefined
      })
  }

  return {
    start() {
      timer = setInterval(wake, LOOK_EVERY_MS).unref()
    },
    async close() {
      closed = true
      clearInterval(timer)
      await looking
      await Promise.all(underWay.values())
    },
  }
}

type Signer = (notice: store.ClaimedNotice) => Promise<string>

/** One try. What became of it is written if the claim still holds. */
async function deliver(deps: LogoutDeliveryDeps, notice: store.ClaimedNotice, sign: Signer): Promise<void> {
  const uri = notice.client_deleted ? undefined : notice.metadata.backchannel_logout_uri
  if (typeof uri !== 'string') return finish(deps.db, notice, { failure: 'client_gone' })
  const form = new URLSearchParams({ logout_token: await sign(notice) })
  const answer = await deps.post(uri, form.toString())
  if (answer.ok && isTaken(answer.status)) return finish(deps.db, notice, { status: answer.status })
  if (notice.tries < MOST_TRIES) return store.postponeNotice(deps.db, notice, delaySeconds(notice.tries, Math.random()))
  return finish(deps.db, notice, { failure: answer.ok ? `status_${answer.status}` : answer.failure })
}

/** Delivered, or given up: the notice goes, and one record says which. */
function finish(db: Db, notice: store.ClaimedNotice, outcome: { status: number } | { failure: string }): Promise<void> {
  const taken = 'status' in outcome
  return transact(db, async (trx) => {
    if (!(await store.deleteNotice(trx, notice))) return
    await record(trx, {
      event: taken ? 'logout_notice.delivered' : 'logout_notice.given_up',
      status: taken ? 'pass' : 'fail',
      actor: { kind: 'schedule' },
      request: { traceId: notice.trace_id },
      userId: notice.user_id,
      clientId: notice.client_id,
      detail: { reason: notice.reason, every_session: notice.sid === null, tries: notice.tries, ...outcome },
    })
  })
}

const EVENT = 'http://schemas.openid.net/event/backchannel-logout'

/** A logout token (§2.4), made anew for each try: it is good for two minutes. Its key is of the kind that signs the client's id_tokens. */
function createSigner({ keys, issuer }: Pick<LogoutDeliveryDeps, 'keys' | 'issuer'>): Signer {
  const signing = keys.signing.map(({ alg, kid, jwk }) => ({
    alg,
    kid,
    key: importJWK({ ...jwk, kty: String(jwk.kty) }, alg),
  }))
  return async (notice) => {
    const alg = notice.metadata.id_token_signed_response_alg ?? 'RS256'
    const signer = signing.find((candidate) => candidate.alg === alg) ?? signing[0]
    if (signer === undefined) throw new Error('there is no key to sign with')
    const issuedAt = Math.floor(notice.now.getTime() / 1000)
    return new SignJWT({ events: { [EVENT]: {} }, ...(notice.sid === null ? {} : { sid: notice.sid }) })
      .setProtectedHeader({ alg: signer.alg, typ: 'logout+jwt', kid: signer.kid })
      .setIssuer(issuer)
      .setAudience(notice.client_id)
      .setSubject(notice.user_id)
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + TOKEN_SECONDS)
      .setJti(randomUUID())
      .sign(await signer.key)
  }
}

// Decides about presented tokens: from memory where the revocation list is live, else from the database. A warm value
// costs no round trip, a cold one a single row, a mistyped one nothing.
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import type { RequestInfo } from '../audit/service.ts'
import { digestOf, type SecretDigest } from '../crypto/secret.ts'
import { isTokenValue } from '../crypto/token-value.ts'
import { endsVersion } from '../revocation/rules.ts'
import type { RevocationList } from '../revocation/service.ts'
import { batched } from '../store/batch.ts'
import { type Db, reading } from '../store/database.ts'
import type { Uses } from '../uses/service.ts'
import { cutOverOnFirstUse } from '../workspace-tokens/service.ts'
import { isFirstUseOfRotation, isJustCutOver, isReuse, type TokenFault, tokenFault } from './rules.ts'
import { findTokens, type TokenRecord } from './store.ts'

export interface VerificationDeps {
  db: Db
  revocations: RevocationList
  uses: Uses
}

/** Where a value is used: what its allow list is compared with, and what its owners see as its last use. */
export interface UsedFrom {
  /** Undefined when it is not known: a token that is limited to addresses is refused then. */
  address: string | undefined
  agent: string | undefined
  request: RequestInfo
}

export type TokenDecision = { ok: true; token: TokenRecord; now: Date } | { ok: false; fault: TokenFault }

/** The same with what is known of a value that is ours and is not good. */
export type TokenJudgement =
  | { ok: true; token: TokenRecord; now: Date }
  | { ok: false; fault: Exclude<TokenFault, 'unknown'>; token: TokenRecord }
  | { ok: false; fault: 'unknown'; token?: never }

export interface Verification {
  /** Decides about a value presented from an address, and changes nothing: it is no use of it. @throws {AppError} as `use` */
  judge(value: string, address: string | undefined): Promise<TokenJudgement>
  /**
   * Decides about a value, and notes the use or the refusal. The first use of a rotated value commits its cutover first.
   *
   * @param isMeant what else must hold, such as the audience: where it does not, or throws, the value was not used
   * @throws {AppError} `unavailable` when neither memory nor the database can say
   */
  use(
    value: string,
    from: UsedFrom,
    isMeant?: (token: TokenRecord) => boolean | Promise<boolean>,
  ): Promise<TokenDecision>
}

/**
 * A record is read anew after this long, whatever the list says: an entry lives for an hour, and a record must not outlive
 * one that this process never saw. A paused machine stops one of the clocks.
 */
const MOST_AGE_MS = 5 * 60_000
const MOST_RECORDS = 20_000

interface Remembered {
  token: TokenRecord
  /** The list as it was known before it was read. */
  seq: number
  generation: number
  readAt: { monotonicMs: number; wallMs: number }
}

export function createVerification(deps: VerificationDeps): Verification {
  const { db, revocations, uses } = deps
  const load = batched((digests: SecretDigest[]) => reading(findTokens(db, digests)))
  const records = new Map<SecretDigest, Remembered>()

  /** Something was said about the token or its workspace since it was read. */
  function isOld({ token, seq, generation, readAt }: Remembered): boolean {
    if (generation !== revocations.generation()) return true
    const age = Math.max(performance.now() - readAt.monotonicMs, Date.now() - readAt.wallMs)
    if (age > MOST_AGE_MS) return true
    return [token.id, token.workspaceId ?? '', 'everything'].some(
      (subject) => (revocations.entry(subject)?.seq ?? 0) > seq,
    )
  }

  function warm(digest: SecretDigest): TokenRecord | undefined {
    const remembered = records.get(digest)
    if (remembered === undefined || !revocations.isLive()) return undefined
    if (!isOld(remembered)) return remembered.token
    records.delete(digest)
    return undefined
  }

  /** Only what is good is remembered: what is not must take as long as what never was. */
  function remember(digest: SecretDigest, remembered: Remembered): void {
    if (!revocations.isLive() || isOld(remembered)) return
    records.set(digest, remembered)
    const oldest = records.size > MOST_RECORDS ? records.keys().next().value : undefined
    if (oldest !== undefined) records.delete(oldest)
  }

  async function find(digest: SecretDigest): Promise<{ token: TokenRecord; now: Date } | undefined> {
    const known = warm(digest)
    if (known !== undefined) return { token: known, now: new Date(revocations.now()) }
    const readAt = { monotonicMs: performance.now(), wallMs: Date.now() }
    const before = { seq: revocations.seq(), generation: revocations.generation(), readAt }
    const token = await load(digest)
    await revocations.requireSound() // the connection may have been lost on the way, and another database answered
    if (token === undefined) return undefined
    if (tokenFault(token, token.readAt) === undefined) {
      // The list says more than the row: it was read a moment too early, or from a backup that came back beneath us.
      if (endsVersion(revocations.entry(token.id), token.version, 0)) return undefined
      // Nobody is answered for a new value before the older one is dead everywhere.
      if (isJustCutOver(token)) await revocations.everyoneKnows(token.id)
      remember(digest, { token, ...before })
    }
    return { token, now: token.readAt }
  }

  async function judge(value: string, address: string | undefined): Promise<TokenJudgement> {
    if (!isTokenValue(value)) return { ok: false, fault: 'unknown' }
    const digest = digestOf(value)
    const found = await find(digest)
    if (found === undefined) return { ok: false, fault: 'unknown' }
    const { token, now } = found
    const fault = tokenFault(token, now)
    if (fault !== undefined) {
      records.delete(digest)
      return { ok: false, fault, token }
    }
    return isAllowedFrom(token, address) ? { ok: true, token, now } : { ok: false, fault: 'address', token }
  }

  function noteRefusal(token: TokenRecord, fault: TokenFault, from: UsedFrom): void {
    const { id: credentialId, version, organizationId, workspaceId, userId } = token
    uses.refused({
      credentialId,
      version,
      address: from.address,
      agent: from.agent,
      organizationId,
      workspaceId,
      userId,
      event: isReuse(fault) ? 'token.reuse_detected' : 'token.refused',
      reason: fault,
      request: from.request,
    })
  }

  return {
    judge,
    async use(value, from, isMeant = () => true) {
      const judged = await judge(value, from.address)
      if (!judged.ok) {
        if (judged.token !== undefined) noteRefusal(judged.token, judged.fault, from)
        return { ok: false, fault: judged.fault }
      }
      const { token, now } = judged
      if (!(await isMeant(token))) return { ok: false, fault: 'unknown' }
      if (isFirstUseOfRotation(token)) {
        await cutOverOnFirstUse(deps, token, from.request)
        records.delete(digestOf(value)) // what was remembered says that the cutover is to come
      }
      uses.seen({ credentialId: token.id, version: token.version, address: from.address, agent: from.agent })
      return { ok: true, token, now }
    },
  }
}

/** Whether an address is in one of the token's networks. An IPv4 address in IPv6 form is that IPv4 address. */
function isAllowedFrom(token: TokenRecord, address: string | undefined): boolean {
  if (token.ipAllowList === null) return true
  if (address === undefined || isIP(address) === 0 || address.includes('%')) return false // the library also reads 192.0.2.07, and 1
  const parsed = ipaddr.process(address)
  return token.ipAllowList.some((range) => {
    const [network, bits] = ipaddr.parseCIDR(range)
    return network.kind() === parsed.kind() && parsed.match([network, bits])
  })
}

// JWT access tokens (RFC 9068) as we check them, wherever one is presented to us; and as we sign those that the library
// does not make.
import { createLocalJWKSet, errors, importJWK, type JWTPayload, jwtVerify, SignJWT } from 'jose'
import { isVersionGood, whyUnusable } from '../connections/rules.ts'
import type { ConnectionReads } from '../connections/service.ts'
import type { Keys } from '../crypto/keys.ts'
import { digestOf, type SecretDigest } from '../crypto/secret.ts'
import { isKeyId } from '../ids.ts'
import { type Entry, endsIssuedAt, endsVersion } from '../revocation/rules.ts'
import type { RevocationList } from '../revocation/service.ts'
import { findEntries } from '../revocation/store.ts'
import { type Db, type Executor, reading, type Trx } from '../store/database.ts'
import { type Refused, refusedForPlace, refusedForVersion, refusedToken, tokenFault } from '../verification/rules.ts'
import { findTokenVersion } from '../verification/store.ts'

export interface AccessTokensDeps {
  db: Db
  keys: Keys
  issuer: string
  reads: ConnectionReads
  revocations: RevocationList
}

/** `workspace_id`, `organization_id`, `environment` and `scope` are there too: every JWT of ours says them. */
export interface AccessTokenClaims extends JWTPayload {
  sub: string
  jti: string
  iat: number
  exp: number
  client_id: string
  credential_id: string
  token_version: string
  workspace_id: string
  organization_id: string
  environment: string
  scope?: string
}

export interface AccessTokens {
  /** Signature, type, issuer and time (RFC 9068 §4). What is behind the token is asked by `stands`. */
  check(token: string): Promise<AccessTokenClaims | undefined>
  /** The same of one whose time is over as well: that it was ours once is worth a record, and nothing else. */
  recognise(token: string): Promise<AccessTokenClaims | undefined>
  /** Whether neither the token nor what is behind it has ended, by the database's time. @throws {AppError} `unavailable` */
  stands(claims: AccessTokenClaims): Promise<boolean>
  /** Why it does not stand, for its owners; undefined where it does. @throws {AppError} `unavailable` */
  refusal(claims: AccessTokenClaims): Promise<Refused | undefined>
  /** Whether an entry of the list ends it, as a transaction finds it that has locked its credential, person and place. */
  isEndedIn(trx: Trx, claims: AccessTokenClaims): Promise<boolean>
  /** Signs claims as they are. */
  sign(claims: Omit<AccessTokenClaims, 'iss'>): Promise<string>
}

const REQUIRED = ['sub', 'jti', 'iat', 'exp', 'aud', 'client_id', 'credential_id', 'token_version', 'workspace_id']
const MOST_CHARACTERS = 8_192
const MOST_CHECKED = 5_000

export function createAccessTokens(deps: AccessTokensDeps): AccessTokens {
  const [current] = deps.keys.signing.filter((key) => key.alg === 'ES256')
  if (current === undefined) throw new Error('there is no key to sign with')
  const privateKey = importJWK({ ...current.jwk, kty: String(current.jwk.kty) }, 'ES256')
  const publicKeys = createLocalJWKSet({
    keys: deps.keys.signing
      .filter((key) => key.alg === 'ES256')
      .map(({ jwk: { d: _private, ...jwk } }) => ({ ...jwk, kty: String(jwk.kty) })),
  })

  /** By digest: an API asks about the same token at each request, and its signature is good for as long as the keys. */
  const checked = new Map<SecretDigest, AccessTokenClaims>()

  function remember(digest: SecretDigest, claims: AccessTokenClaims): void {
    checked.set(digest, claims)
    const oldest = checked.size > MOST_CHECKED ? checked.keys().next().value : undefined
    if (oldest !== undefined) checked.delete(oldest)
  }

  async function recognise(token: string): Promise<AccessTokenClaims | undefined> {
    if (token.length > MOST_CHARACTERS || !/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) return undefined
    const digest = digestOf(token)
    const known = checked.get(digest)
    if (known !== undefined) return known
    try {
      const { payload } = await jwtVerify(token, publicKeys, {
        issuer: deps.issuer,
        typ: 'at+jwt',
        algorithms: ['ES256'],
        requiredClaims: REQUIRED,
      })
      const claims = Object.freeze(payload as AccessTokenClaims) // signed by us, with these members
      remember(digest, claims)
      return claims
    } catch (error) {
      // Its time is looked at last: all else was good.
      return error instanceof errors.JWTExpired ? (error.payload as AccessTokenClaims) : undefined
    }
  }

  async function refusal(claims: AccessTokenClaims): Promise<Refused | undefined> {
    const version = parseVersion(claims.token_version)
    if (version === undefined) return 'ended'
    const { revocations } = deps
    // By this machine's clock, or by the database's. What has ended besides says more; what is over stays so without it.
    if (isOver(claims, Date.now()) || (revocations.isLive() && isOver(claims, revocations.now())))
      return (await endOfCredential(deps, claims, version).catch(() => undefined)) ?? 'expired'
    if (revocations.isLive()) {
      const ended = endOnList(claims, version, revocations.now(), revocations.entry)
      // All that ends a token is on the list. A connection's row says besides what its person may do now.
      return ended ?? (isKeyId(claims.credential_id) ? undefined : endOfCredential(deps, claims, version))
    }
    return (await reading(endOnStoredList(deps.db, claims, version))) ?? endOfCredential(deps, claims, version)
  }

  return {
    recognise,
    async check(token) {
      const claims = await recognise(token)
      return claims !== undefined && claims.exp > Math.floor(Date.now() / 1000) ? claims : undefined
    },
    refusal,
    async isEndedIn(trx, claims) {
      const version = parseVersion(claims.token_version)
      return version === undefined || (await endOnStoredList(trx, claims, version)) !== undefined
    },
    stands: async (claims) => (await refusal(claims)) === undefined,

    async sign(claims) {
      return new SignJWT({ iss: deps.issuer, ...claims })
        .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: current.kid })
        .sign(await privateKey)
    },
  }
}

/** Entries of the list outlive no more than the longest life of a JWT: one that is over must not outlive them. */
function isOver(claims: AccessTokenClaims, nowMs: number): boolean {
  return claims.exp * 1000 <= nowMs
}

/** What an entry may name to end a JWT: itself, its credential, and where, by whom and through which client it is used. */
function subjectsOf(claims: AccessTokenClaims): string[] {
  const { jti, credential_id, workspace_id, sub, client_id } = claims
  return [`jti:${jti}`, credential_id, workspace_id, sub, client_id, 'everything']
}

/** Why an entry of the list ends it. */
function endOnList(
  claims: AccessTokenClaims,
  version: number,
  nowMs: number,
  entryOf: (subject: string) => Entry | undefined,
): Refused | undefined {
  const [jti = '', credential = '', ...places] = subjectsOf(claims)
  if (endsVersion(entryOf(jti), version, nowMs)) return 'revoked'
  const ended = refusedForVersion(entryOf(credential), isKeyId(credential) ? 'key' : 'connection', { version, nowMs })
  if (ended !== undefined) return ended
  // The credential's own as well: what came from it before it was suspended stays refused once that is lifted.
  const place = [credential, ...places].find((subject) => endsIssuedAt(entryOf(subject), claims.iat))
  return place === undefined ? undefined : refusedForPlace(entryOf(place))
}

/** The same of the list as it is stored. Whether a floor has risen by now is judged by the row, on the database's time. */
async function endOnStoredList(
  executor: Executor,
  claims: AccessTokenClaims,
  version: number,
): Promise<Refused | undefined> {
  const entries = await findEntries(executor, subjectsOf(claims))
  return endOnList(claims, version, 0, (subject) => entries.get(subject))
}

/** What the rows themselves say. */
async function endOfCredential(
  deps: AccessTokensDeps,
  claims: AccessTokenClaims,
  version: number,
): Promise<Refused | undefined> {
  if (isKeyId(claims.credential_id)) {
    const record = await reading(findTokenVersion(deps.db, claims.credential_id, version))
    if (record === undefined) return 'ended'
    const fault = tokenFault(record, record.readAt)
    if (fault !== undefined) return refusedToken(fault)
    return isOver(claims, record.readAt.getTime()) ? 'expired' : undefined
  }
  const facts = await deps.reads.connection(claims.credential_id)
  if (facts === undefined) return 'ended'
  const why = whyUnusable(facts)
  if (why === 'suspended' || why === 'user_suspended') return 'suspended'
  if (why !== undefined || !isVersionGood(facts, version)) return 'ended'
  return isOver(claims, facts.readAt.getTime()) ? 'expired' : undefined
}

/** `"v3"` → 3. Undefined for any other form. */
export function parseVersion(text: unknown): number | undefined {
  return typeof text === 'string' && /^v[1-9]\d{0,8}$/.test(text) ? Number(text.slice(1)) : undefined
}

// Client authentication at our own endpoints: secrets (RFC 6749 §2.3.1) and private_key_jwt (RFC 7523 §3). At /token
// and /par the library does the same.
import { createLocalJWKSet, decodeJwt, type JSONWebKeySet, jwtVerify } from 'jose'
import type { ClientRow, Clients } from '../clients/service.ts'
import { isBehind } from '../crypto/secret.ts'
import type { Db } from '../store/database.ts'
import { claimReplayId } from './replay.ts'

const ASSERTION_TYPE = 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer'
export const ASSERTION_ALGORITHMS = ['ES256', 'RS256', 'PS256', 'EdDSA', 'Ed25519'] as const
const CLOCK_TOLERANCE_SECONDS = 15
const MOST_ASSERTION_SECONDS = 3_600

/** An assertion is for now (RFC 7523 §3): one that is good for long would be remembered for long, too. */
export function isShortLived(expiresAt: unknown): boolean {
  return typeof expiresAt === 'number' && expiresAt <= Date.now() / 1000 + MOST_ASSERTION_SECONDS
}

export interface AuthenticationDeps {
  db: Db
  clients: Clients
  issuer: string
}

export type Form = ReadonlyMap<string, string>

/** `invalid_request`: the request is malformed. `invalid_client`: it is not who it says (RFC 6749 §5.2). */
export type Authentication =
  | { ok: true; client: ClientRow }
  | { ok: false; error: 'invalid_request' | 'invalid_client'; description: string }

const NOT_AUTHENTICATED: Authentication = {
  ok: false,
  error: 'invalid_client',
  description: 'client authentication failed',
}

/** @param endpoint its full address: an audience that an assertion may name besides the issuer and the token endpoint */
export async function authenticateClient(
  deps: AuthenticationDeps,
  request: { authorization: string | undefined; form: Form; endpoint: string },
): Promise<Authentication> {
  const { authorization, form } = request
  const given = [authorization, form.get('client_secret'), form.get('client_assertion')].filter(
    (text) => text !== undefined,
  )
  if (given.length > 1) return malformed('client authentication must be provided by one mechanism only')
  if (given.length === 0 && form.get('client_id') === undefined) return NOT_AUTHENTICATED
  const presented = readCredentials(authorization, form)
  if (presented === undefined) return malformed('the client authentication is malformed or missing')
  const named = form.get('client_id')
  if (named !== undefined && named !== presented.clientId) return malformed('client_id mismatch')
  const client = await deps.clients.find(presented.clientId)
  if (client === undefined) return NOT_AUTHENTICATED
  const method = String(client.metadata.token_endpoint_auth_method)
  const proved =
    (presented.kind === 'none' && method === 'none') ||
    (presented.kind === 'secret' && method.startsWith('client_secret') && hasSecret(client, presented.secret)) ||
    (presented.kind === 'assertion' &&
      method === 'private_key_jwt' &&
      (await hasKey(deps, client, presented.assertion, request.endpoint)))
  return proved ? { ok: true, client } : NOT_AUTHENTICATED
}

type Presented =
  | { kind: 'none'; clientId: string }
  | { kind: 'secret'; clientId: string; secret: string }
  | { kind: 'assertion'; clientId: string; assertion: string }

function readCredentials(authorization: string | undefined, form: Form): Presented | undefined {
  if (authorization !== undefined) return readBasic(authorization)
  const clientId = form.get('client_id')
  const assertion = form.get('client_assertion')
  if (assertion !== undefined) {
    const subject = form.get('client_assertion_type') === ASSERTION_TYPE ? subjectOf(assertion) : undefined
    return subject === undefined ? undefined : { kind: 'assertion', clientId: subject, assertion }
  }
  if (clientId === undefined) return undefined
  const secret = form.get('client_secret')
  return secret === undefined ? { kind: 'none', clientId } : { kind: 'secret', clientId, secret }
}

/** Both parts are form-encoded before they are joined (RFC 6749 §2.3.1). */
function readBasic(authorization: string): Presented | undefined {
  const [, encoded] = /^basic ([A-Za-z0-9+/]+={0,2})$/i.exec(authorization) ?? []
  const text = Buffer.from(encoded ?? '', 'base64').toString('utf8')
  const colon = text.indexOf(':')
  if (colon === -1) return undefined
  try {
    const [clientId, secret] = [text.slice(0, colon), text.slice(colon + 1)].map((part) =>
      decodeURIComponent(part.replaceAll('+', ' ')),
    )
    return clientId && secret ? { kind: 'secret', clientId, secret } : undefined
  } catch {
    return undefined // a stray percent sign
  }
}

function subjectOf(assertion: string): string | undefined {
  try {
    const { sub } = decodeJwt<{ sub?: unknown }>(assertion)
    return typeof sub === 'string' ? sub : undefined
  } catch {
    return undefined
  }
}

function hasSecret(client: ClientRow, secret: string): boolean {
  return client.secret_digest !== null && isBehind(client.secret_digest, secret)
}

async function hasKey(
  deps: AuthenticationDeps,
  client: ClientRow,
  assertion: string,
  endpoint: string,
): Promise<boolean> {
  try {
    // Written by our own registration, which checked its form.
    const keys = createLocalJWKSet(client.metadata.jwks as JSONWebKeySet)
    const { payload } = await jwtVerify(assertion, keys, {
      issuer: client.id,
      subject: client.id,
      audience: [deps.issuer, `${deps.issuer}/token`, endpoint],
      algorithms: [...ASSERTION_ALGORITHMS],
      requiredClaims: ['exp', 'jti'],
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
    })
    const { jti, exp } = payload
    if (typeof jti !== 'string' || exp === undefined || !isShortLived(exp)) return false
    return await claimReplayId(deps.db, client.id, jti, exp + CLOCK_TOLERANCE_SECONDS)
  } catch (error) {
    if (error instanceof Error && 'code' in error && String(error.code).startsWith('ERR_J')) return false // jose: not valid
    throw error
  }
}

function malformed(description: string): Authentication {
  return { ok: false, error: 'invalid_request', description }
}

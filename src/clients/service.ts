// OAuth clients: registered by an operator, kept with the digest of a secret that we make (RFC 7591 names inside).
import { importJWK, type JWK } from 'jose'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { digestOf, randomSecret, type Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { isClientId, newId } from '../ids.ts'
import type { RevocationList } from '../revocation/service.ts'
import { createRowCache, type RowCache } from '../store/cache.ts'
import { type Db, reading, type Trx, transact } from '../store/database.ts'
import type { Environment } from '../store/tables.ts'
import { applicationType, logoutUriProblem, quote, redirectUriProblem } from './rules.ts'
import * as store from './store.ts'

export type AuthMethod = 'none' | 'client_secret_basic' | 'client_secret_post' | 'private_key_jwt'
export const GRANT_TYPES = [
  'authorization_code',
  'refresh_token',
  'client_credentials',
  'urn:ietf:params:oauth:grant-type:token-exchange',
] as const
export type GrantType = (typeof GRANT_TYPES)[number]

export type ClientRow = NonNullable<Awaited<ReturnType<typeof store.findClient>>>

/** A client as the API and the command line show it. */
export interface Client {
  client_id: string
  client_name: string
  environment: Environment
  redirect_uris: string[]
  post_logout_redirect_uris: string[]
  /** Where it is told of sessions that ended. */
  backchannel_logout_uri: string | null
  backchannel_logout_session_required: boolean
  grant_types: string[]
  token_endpoint_auth_method: string
  pkce_required: boolean
  default_resource: string | null
  created_at: string
}

export interface Clients {
  /** From memory for up to five seconds; what is decided by a row checks the row again. */
  find(id: string): Promise<ClientRow | undefined>
  list(): Promise<Client[]>
  create(input: NewClient & By): Promise<Client & { client_secret: Secret | null }>
  delete(id: string, by: By): Promise<void>
}

interface By {
  actor: Actor
  request: RequestInfo
}

export interface NewClient {
  name: string
  redirectUris: readonly string[]
  postLogoutRedirectUris?: readonly string[]
  backchannelLogoutUri?: string | undefined
  /** It takes no notice that does not name a session. */
  backchannelLogoutSessionRequired?: boolean
  grantTypes: readonly GrantType[]
  authMethod: AuthMethod
  environment: Environment
  pkceRequired: boolean
  defaultResource?: string | undefined
  jwks?: { keys: JWK[] } | undefined
}

const CACHE_MS = 5_000

/** Says what is wrong with an address that we are to call, in words that follow it. */
export interface Callable {
  problem(url: string): string | undefined
}

/** @param revocations where a client's end is told */
export function createClients(db: Db, revocations: RevocationList, callable: Callable): Clients {
  const cache: RowCache<ClientRow | undefined> = createRowCache(CACHE_MS)
  return {
    find: async (id) => (isClientId(id) ? cache.get(id, () => reading(store.findClient(db, id))) : undefined),
    async list() {
      return (await store.listClients(db)).map(present)
    },
    create: (input) => createClient(db, callable, input),
    async delete(id, by) {
      await revocations.change(async (trx, revoke) => {
        if (!(await store.deleteClient(trx, id)))
          throw new AppError('not_found', { detail: `There is no client ${id}.` })
        revoke({ subject: id, closed: true })
        await record(trx, { event: 'client.deleted', status: 'pass', ...by, clientId: id })
      })
      cache.forget(id)
    },
  }
}

/** @throws {AppError} `invalid_request` for metadata that does not fit together */
async function createClient(
  db: Db,
  callable: Callable,
  input: NewClient & By,
): Promise<Client & { client_secret: Secret | null }> {
  const problem = clientProblem(input) ?? logoutProblem(callable, input) ?? (await keySetProblem(input.jwks))
  if (problem !== undefined) throw new AppError('invalid_request', { detail: `${problem}.` })
  const secret = input.authMethod.startsWith('client_secret') ? randomSecret() : null
  const row = {
    id: newId('cl'),
    kind: 'registered' as const,
    name: input.name,
    environment: input.environment,
    secret_digest: secret && digestOf(secret.reveal()),
    metadata: JSON.stringify(metadataOf(input)),
    pkce_required: input.pkceRequired,
    default_resource: input.defaultResource ?? null,
  }
  const createdAt = await transact(db, (trx) => insertRecorded(trx, row, input))
  return {
    ...present({ ...row, metadata: metadataOf(input), created_at: createdAt, deleted_at: null }),
    client_secret: secret,
  }
}

/** Writes a client and its audit record; resource servers are clients too, and come this way. */
export async function insertRecorded(trx: Trx, row: Parameters<typeof store.insertClient>[1], by: By): Promise<Date> {
  const createdAt = await store.insertClient(trx, row)
  await record(trx, {
    event: 'client.created',
    status: 'pass',
    actor: by.actor,
    request: by.request,
    clientId: row.id,
    detail: { kind: row.kind, environment: row.environment, pkce_required: row.pkce_required },
  })
  return createdAt
}

function clientProblem(input: NewClient): string | undefined {
  const redirects = input.grantTypes.includes('authorization_code')
  if (input.name.trim() === '' || input.name.length > 120 || /\p{C}/u.test(input.name)) {
    return 'A client needs a name of 1 to 120 characters, without control characters'
  }
  if (input.grantTypes.length === 0)
    return 'A client needs at least one grant: authorization_code or client_credentials'
  if (redirects && input.redirectUris.length === 0) return 'authorization_code needs at least one redirect URI'
  if (!redirects && input.redirectUris.length > 0)
    return 'Redirect URIs are of no use without the grant authorization_code'
  if (!redirects && input.grantTypes.includes('refresh_token'))
    return 'refresh_token comes with authorization_code only'
  if (input.grantTypes.includes('client_credentials') && input.authMethod === 'none') {
    return 'client_credentials needs a client that authenticates'
  }
  if (!input.pkceRequired && input.authMethod === 'none')
    return 'Only a client that authenticates can be excused from PKCE'
  if ((input.authMethod === 'private_key_jwt') !== (input.jwks !== undefined)) {
    return 'private_key_jwt, and nothing else, needs a key set (JWKS) with the public keys'
  }
  return [...input.redirectUris, ...(input.postLogoutRedirectUris ?? [])]
    .map(redirectUriProblem)
    .find((found) => found !== undefined)
}

function logoutProblem(callable: Callable, input: NewClient): string | undefined {
  const { backchannelLogoutUri: uri, backchannelLogoutSessionRequired: needsSid } = input
  if (uri === undefined)
    return needsSid === true ? 'Only a client with a back-channel logout URI can ask for sid' : undefined
  if (!input.grantTypes.includes('authorization_code'))
    return 'A back-channel logout URI is of no use without the grant authorization_code'
  const problem = callable.problem(uri)
  return logoutUriProblem(uri) ?? (problem && `${quote(uri)} ${problem}`)
}

const ALGORITHM_OF_TYPE: Record<string, string> = { RSA: 'RS256', EC: 'ES256', OKP: 'EdDSA' }
const PRIVATE_MEMBERS = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k', 'priv']

/** Only public keys that can be used may be registered: what is stored is not secret, and is not looked at again. */
async function keySetProblem(jwks: NewClient['jwks']): Promise<string | undefined> {
  for (const key of jwks?.keys ?? []) {
    if (PRIVATE_MEMBERS.some((member) => Object.hasOwn(key, member))) {
      return 'The key set holds a private key: register the public half only'
    }
    try {
      // A key without alg is checked as what its type is used for.
      await importJWK(key, key.alg ?? ALGORITHM_OF_TYPE[String(key.kty)] ?? 'ES256')
    } catch {
      return 'A key of the key set cannot be used: it must be a public EC, RSA or OKP key as a JWK'
    }
  }
  return undefined
}

function metadataOf(input: NewClient): Record<string, unknown> {
  const redirects = input.grantTypes.includes('authorization_code')
  return {
    redirect_uris: [...input.redirectUris],
    ...(input.postLogoutRedirectUris?.length ? { post_logout_redirect_uris: [...input.postLogoutRedirectUris] } : {}),
    ...(input.backchannelLogoutUri === undefined
      ? {}
      : {
          backchannel_logout_uri: input.backchannelLogoutUri,
          backchannel_logout_session_required: input.backchannelLogoutSessionRequired ?? false,
        }),
    grant_types: [...input.grantTypes],
    response_types: redirects ? ['code'] : [],
    application_type: applicationType(input.redirectUris),
    token_endpoint_auth_method: input.authMethod,
    ...(input.jwks === undefined ? {} : { jwks: input.jwks }),
  }
}

export function present(row: ClientRow): Client {
  const list = (name: string): string[] => {
    const value: unknown = row.metadata[name]
    return Array.isArray(value) ? value.map(String) : []
  }
  return {
    client_id: row.id,
    client_name: row.name,
    environment: row.environment,
    redirect_uris: list('redirect_uris'),
    post_logout_redirect_uris: list('post_logout_redirect_uris'),
    backchannel_logout_uri:
      row.metadata.backchannel_logout_uri === undefined ? null : String(row.metadata.backchannel_logout_uri),
    backchannel_logout_session_required: row.metadata.backchannel_logout_session_required === true,
    grant_types: list('grant_types'),
    token_endpoint_auth_method: String(row.metadata.token_endpoint_auth_method),
    pkce_required: row.pkce_required,
    default_resource: row.default_resource,
    created_at: row.created_at.toISOString(),
  }
}

// APIs that take our access tokens: kept in the database, found by their identifier.
import type { Actor, RequestInfo } from '../audit/service.ts'
import { insertRecorded } from '../clients/service.ts'
import { digestOf, randomSecret, type Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { newId } from '../ids.ts'
import { createRowCache } from '../store/cache.ts'
import { type Db, isUniqueViolation, reading, transact } from '../store/database.ts'
import type { Environment, OrganizationRole } from '../store/tables.ts'
import { isResourceIdentifier, isScopeName, ownResourceServer, type ResourceServer } from './rules.ts'
import * as store from './store.ts'

export interface ResourceServers {
  /** From memory for up to five seconds. */
  find(identifier: string): Promise<ResourceServer | undefined>
  /** The one that introspects as this client. */
  findByClient(clientId: string): Promise<ResourceServer | undefined>
  /** Our own API first, then those that operators registered. */
  list(): Promise<ResourceServer[]>
  create(input: NewResourceServer): Promise<CreatedResourceServer>
}

export interface NewResourceServer {
  identifier: string
  name?: string | undefined
  environments: readonly Environment[]
  scopes: ReadonlyArray<{ name: string; sentence: string; leastRole: OrganizationRole }>
  actor: Actor
  request: RequestInfo
}

export interface CreatedResourceServer {
  identifier: string
  environments: Environment[]
  scopes: Array<{ name: string; sentence: string; least_role: OrganizationRole }>
  client_id: string
  client_secret: Secret
}

const CACHE_MS = 5_000

export function createResourceServers(db: Db, issuer: string): ResourceServers {
  const own = ownResourceServer(issuer)
  const byIdentifier = createRowCache<ResourceServer | undefined>(CACHE_MS)
  const byClient = createRowCache<ResourceServer | undefined>(CACHE_MS)
  const all = createRowCache<ResourceServer[]>(CACHE_MS)
  return {
    async find(identifier) {
      if (identifier === own.identifier) return own
      if (!isResourceIdentifier(identifier)) return undefined
      return byIdentifier.get(identifier, () => reading(store.findResourceServer(db, 'identifier', identifier)))
    },
    findByClient: (clientId) =>
      byClient.get(clientId, () => reading(store.findResourceServer(db, 'client_id', clientId))),
    list: async () => [own, ...(await all.get('all', () => reading(store.listResourceServers(db))))],
    async create(input) {
      const created = await createResourceServer(db, input, own.identifier)
      all.forget('all')
      byIdentifier.forget(input.identifier)
      return created
    },
  }
}

/** @throws {AppError} `invalid_request`, or `conflict` for an identifier in use */
async function createResourceServer(
  db: Db,
  input: NewResourceServer,
  ownIdentifier: string,
): Promise<CreatedResourceServer> {
  const problem = resourceServerProblem(input)
  if (problem !== undefined) throw new AppError('invalid_request', { detail: `${problem}.` })
  const inUse = new AppError('conflict', { detail: `There is already a resource server ${input.identifier}.` })
  if (input.identifier === ownIdentifier) throw inUse
  const secret = randomSecret()
  const clientId = newId('cl')
  const scopes = input.scopes.map(({ name, sentence, leastRole }) => ({ name, sentence, least_role: leastRole }))
  try {
    await transact(db, async (trx) => {
      const client = {
        id: clientId,
        kind: 'resource_server' as const,
        name: input.name ?? input.identifier,
        environment: input.environments[0] ?? 'production',
        secret_digest: digestOf(secret.reveal()),
        metadata: JSON.stringify({
          redirect_uris: [],
          grant_types: [],
          response_types: [],
          token_endpoint_auth_method: 'client_secret_basic',
        }),
        pkce_required: true,
        default_resource: null,
      }
      await insertRecorded(trx, client, input)
      await store.insertResourceServer(trx, {
        identifier: input.identifier,
        client_id: clientId,
        environments: [...input.environments],
      })
      await store.insertScopes(trx, input.identifier, scopes)
    })
  } catch (error) {
    throw isUniqueViolation(error) ? inUse : error
  }
  return {
    identifier: input.identifier,
    environments: [...input.environments],
    scopes,
    client_id: clientId,
    client_secret: secret,
  }
}

function resourceServerProblem(input: NewResourceServer): string | undefined {
  if (!isResourceIdentifier(input.identifier)) return 'The identifier must be an absolute URI without a fragment'
  if (input.environments.length === 0) return 'A resource server serves at least one environment'
  if (input.scopes.length === 0) return 'A resource server needs at least one scope: name="what it lets a client do"'
  const names = input.scopes.map((scope) => scope.name)
  if (new Set(names).size !== names.length) return 'A scope is named twice'
  const bad = input.scopes.find(
    (scope) => !isScopeName(scope.name) || scope.sentence.trim() === '' || scope.sentence.length > 200,
  )
  return (
    bad &&
    `The scope ${JSON.stringify(bad.name.slice(0, 64))} is not usable: its name must be new and printable, its sentence 1 to 200 characters`
  )
}

// SQL of resource servers and their catalogues.
import type { Executor, Trx } from '../store/database.ts'
import type { Environment, OrganizationRole } from '../store/tables.ts'
import type { ResourceServer } from './rules.ts'

function withScopes(executor: Executor) {
  return executor
    .selectFrom('resource_servers as r')
    .leftJoin('resource_scopes as s', 's.identifier', 'r.identifier')
    .select(['r.identifier', 'r.client_id', 'r.environments', 's.name', 's.sentence', 's.least_role'])
    .orderBy('r.identifier')
    .orderBy('s.place')
}

type ScopeRow = Awaited<ReturnType<ReturnType<typeof withScopes>['execute']>>[number]

function toResourceServers(rows: readonly ScopeRow[]): ResourceServer[] {
  return [...Map.groupBy(rows, (row) => row.identifier)].map(([identifier, own]) => ({
    identifier,
    clientId: own[0]?.client_id,
    environments: own[0]?.environments ?? [],
    scopes: own.flatMap(({ name, sentence, least_role }) =>
      name === null || sentence === null || least_role === null ? [] : [{ name, sentence, leastRole: least_role }],
    ),
  }))
}

/** One round trip. Primary key, or resource_servers_by_client; scopes by their primary key. */
export async function findResourceServer(
  executor: Executor,
  by: 'identifier' | 'client_id',
  value: string,
): Promise<ResourceServer | undefined> {
  const rows = await withScopes(executor).where(`r.${by}`, '=', value).execute()
  return toResourceServers(rows)[0]
}

/** All there are: operators register them, and they are few. */
export async function listResourceServers(executor: Executor): Promise<ResourceServer[]> {
  return toResourceServers(await withScopes(executor).execute())
}

export async function insertResourceServer(
  trx: Trx,
  row: { identifier: string; client_id: string; environments: Environment[] },
): Promise<void> {
  await trx.insertInto('resource_servers').values(row).execute()
}

export async function insertScopes(
  trx: Trx,
  identifier: string,
  scopes: ReadonlyArray<{ name: string; sentence: string; least_role: OrganizationRole }>,
): Promise<void> {
  await trx
    .insertInto('resource_scopes')
    .values(scopes.map((scope, place) => ({ identifier, ...scope, place })))
    .execute()
}

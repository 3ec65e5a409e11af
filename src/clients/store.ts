// SQL of clients.
import type { Executor, Trx } from '../store/database.ts'
import type { Environment } from '../store/tables.ts'

/** Primary key. Deleted ones are not found. */
export function findClient(executor: Executor, id: string) {
  return executor
    .selectFrom('clients')
    .selectAll()
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .executeTakeFirst()
}

/** Locks a client against deletion. Primary key. */
export function lockClient(trx: Trx, id: string) {
  return trx
    .selectFrom('clients')
    .selectAll()
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .forShare()
    .executeTakeFirst()
}

export function listClients(executor: Executor) {
  return executor
    .selectFrom('clients')
    .selectAll()
    .where('deleted_at', 'is', null)
    .where('kind', '=', 'registered')
    .orderBy('created_at')
    .execute()
}

export async function insertClient(
  trx: Trx,
  row: {
    id: string
    kind: 'registered' | 'resource_server'
    name: string
    environment: Environment
    secret_digest: string | null
    metadata: string
    pkce_required: boolean
    default_resource: string | null
  },
): Promise<Date> {
  return (await trx.insertInto('clients').values(row).returning('created_at').executeTakeFirstOrThrow()).created_at
}

/** False when it was gone already. */
export async function deleteClient(trx: Trx, id: string): Promise<boolean> {
  const result = await trx
    .updateTable('clients')
    .set((value) => ({ deleted_at: value.fn<Date>('now') }))
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .executeTakeFirst()
  return result.numUpdatedRows === 1n
}

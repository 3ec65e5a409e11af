// SQL of connections to providers.
import { type Selectable, sql } from 'kysely'
import type { Sealed } from '../crypto/secret.ts'
import type { OrganizationId, ProviderConnectionId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { ProviderConnectionsTable, ProviderStatus } from '../store/tables.ts'

export interface ProviderConnection {
  id: ProviderConnectionId
  organizationId: OrganizationId
  workspaceId: WorkspaceId
  providerType: string
  credentialsType: string
  /** Undefined: the provider's own. */
  baseUrl: string | undefined
  status: ProviderStatus
  statusReason: string | null
  checkedAt: Date | null
  createdAt: Date
  changedAt: Date
  /** Of its credentials. */
  version: number
  credentials: Sealed
}

function toConnection(row: Selectable<ProviderConnectionsTable>): ProviderConnection {
  return {
    id: row.id,
    organizationId: row.organization_id,
    workspaceId: row.workspace_id,
    providerType: row.provider_type,
    credentialsType: row.credentials_type,
    baseUrl: row.base_url ?? undefined,
    status: row.status,
    statusReason: row.status_reason,
    checkedAt: row.checked_at,
    createdAt: row.created_at,
    changedAt: row.changed_at,
    version: row.version,
    credentials: { dataKeyId: row.data_key_id, sealed: row.sealed_credentials },
  }
}

export interface NewConnection {
  id: ProviderConnectionId
  organizationId: OrganizationId
  workspaceId: WorkspaceId
  providerType: string
  credentialsType: string
  baseUrl: string | undefined
  version: number
  credentials: Sealed
  createdBy: string
}

/** @throws a unique violation where the workspace has one of this type */
export async function insertConnection(trx: Trx, connection: NewConnection): Promise<ProviderConnection> {
  const row = await trx
    .insertInto('provider_connections')
    .values({
      id: connection.id,
      organization_id: connection.organizationId,
      workspace_id: connection.workspaceId,
      provider_type: connection.providerType,
      credentials_type: connection.credentialsType,
      sealed_credentials: connection.credentials.sealed,
      data_key_id: connection.credentials.dataKeyId,
      base_url: connection.baseUrl ?? null,
      version: connection.version,
      status_reason: null,
      checked_at: null,
      created_by: connection.createdBy,
    })
    .returningAll()
    .executeTakeFirstOrThrow()
  return toConnection(row)
}

/** At most one a type. By the unique index of workspace and type. */
export async function listConnections(executor: Executor, workspaceId: WorkspaceId): Promise<ProviderConnection[]> {
  const rows = await executor
    .selectFrom('provider_connections')
    .selectAll()
    .where('workspace_id', '=', workspaceId)
    .orderBy('provider_type')
    .execute()
  return rows.map(toConnection)
}

/** Primary key, or the unique index of workspace and type. */
export async function findConnection(
  executor: Executor,
  workspaceId: WorkspaceId,
  by: { id: ProviderConnectionId } | { providerType: string },
): Promise<ProviderConnection | undefined> {
  const query = executor.selectFrom('provider_connections').selectAll().where('workspace_id', '=', workspaceId)
  const row = await ('id' in by
    ? query.where('id', '=', by.id)
    : query.where('provider_type', '=', by.providerType)
  ).executeTakeFirst()
  return row && toConnection(row)
}

/** Primary key. */
export async function replaceCredentials(
  trx: Trx,
  id: ProviderConnectionId,
  next: { credentials: Sealed; baseUrl: string | undefined; version: number },
): Promise<ProviderConnection> {
  const row = await trx
    .updateTable('provider_connections')
    .set({
      sealed_credentials: next.credentials.sealed,
      data_key_id: next.credentials.dataKeyId,
      base_url: next.baseUrl ?? null,
      status: 'pending_verification',
      status_reason: null,
      checked_at: null,
      version: next.version,
      changed_at: sql<Date>`clock_timestamp()`,
    })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirstOrThrow()
  return toConnection(row)
}

/** Primary key. */
export async function lockConnection(
  trx: Trx,
  workspaceId: WorkspaceId,
  id: ProviderConnectionId,
): Promise<ProviderConnection | undefined> {
  const row = await trx
    .selectFrom('provider_connections')
    .selectAll()
    .where('id', '=', id)
    .where('workspace_id', '=', workspaceId)
    .forUpdate()
    .executeTakeFirst()
  return row && toConnection(row)
}

/** What came of a check. Primary key. */
export async function setStatus(
  trx: Trx,
  id: ProviderConnectionId,
  status: { status: ProviderStatus; reason: string | null },
): Promise<ProviderConnection> {
  const row = await trx
    .updateTable('provider_connections')
    .set({ status: status.status, status_reason: status.reason, checked_at: sql<Date>`clock_timestamp()` })
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirstOrThrow()
  return toConnection(row)
}

/** Primary key. */
export async function deleteConnection(
  trx: Trx,
  workspaceId: WorkspaceId,
  id: ProviderConnectionId,
): Promise<ProviderConnection | undefined> {
  const row = await trx
    .deleteFrom('provider_connections')
    .where('id', '=', id)
    .where('workspace_id', '=', workspaceId)
    .returningAll()
    .executeTakeFirst()
  return row && toConnection(row)
}

/** All of a workspace. By the unique index of workspace and type. */
export async function deleteConnectionsIn(trx: Trx, workspaceId: WorkspaceId): Promise<ProviderConnection[]> {
  const rows = await trx
    .deleteFrom('provider_connections')
    .where('workspace_id', '=', workspaceId)
    .returningAll()
    .execute()
  return rows.map(toConnection)
}

/** Those that nobody has checked since their credentials came. By provider_connections_unchecked. */
export async function listUnchecked(
  executor: Executor,
  olderThanSeconds: number,
  limit: number,
): Promise<ProviderConnection[]> {
  const rows = await executor
    .selectFrom('provider_connections')
    .selectAll()
    .where('checked_at', 'is', null)
    .where('changed_at', '<', sql<Date>`clock_timestamp() - make_interval(secs => ${olderThanSeconds})`)
    .orderBy('changed_at')
    .limit(limit)
    .execute()
  return rows.map(toConnection)
}

// --- Rotation of data keys ---------------------------------------------------------------------------------------------------

/** Organizations with something that a retired key sealed. */
export async function listWithRetiredKeys(executor: Executor): Promise<OrganizationId[]> {
  const rows = await executor
    .selectFrom('provider_connections as p')
    .innerJoin('data_keys as k', 'k.id', 'p.data_key_id')
    .select('p.organization_id')
    .distinct()
    .where('k.retired_at', 'is not', null)
    .orderBy('p.organization_id')
    .execute()
  return rows.map((row) => row.organization_id)
}

/** What a retired key sealed, locked. By provider_connections_by_data_key. */
export async function lockUnderRetiredKeys(
  trx: Trx,
  organizationId: OrganizationId,
  page: { after: ProviderConnectionId | undefined; limit: number },
): Promise<ProviderConnection[]> {
  const rows = await trx
    .selectFrom('provider_connections as p')
    .innerJoin('data_keys as k', 'k.id', 'p.data_key_id')
    .selectAll('p')
    .where('p.organization_id', '=', organizationId)
    .where('k.retired_at', 'is not', null)
    .where('p.id', '>', page.after ?? ('' as ProviderConnectionId)) // any text sorts somewhere
    .orderBy('p.id')
    .limit(page.limit)
    .forUpdate('p')
    .execute()
  return rows.map(toConnection)
}

/** The same credentials under another key. */
export async function setSealed(trx: Trx, id: ProviderConnectionId, credentials: Sealed): Promise<void> {
  await trx
    .updateTable('provider_connections')
    .set({ sealed_credentials: credentials.sealed, data_key_id: credentials.dataKeyId })
    .where('id', '=', id)
    .execute()
}

/** Retired keys that seal nothing any more are no key of anything. @returns how many */
export async function deleteUnusedKeys(trx: Trx, organizationId: OrganizationId): Promise<number> {
  const result = await trx
    .deleteFrom('data_keys')
    .where('organization_id', '=', organizationId)
    .where('retired_at', 'is not', null)
    .where(({ not, exists, selectFrom }) =>
      not(exists(selectFrom('provider_connections').whereRef('data_key_id', '=', 'data_keys.id').select('id'))),
    )
    .executeTakeFirst()
  return Number(result.numDeletedRows)
}

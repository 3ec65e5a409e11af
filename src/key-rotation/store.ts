// SQL of what is sealed under the master key, of which data keys there are, and what they seal.
import { sql } from 'kysely'
import type { DataKeyId, OrganizationId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'

// --- The master key ------------------------------------------------------------------------------------------------------

/** What is sealed under the master key, by table: its primary key, its other column that the seal is bound to, and the sealed one. */
const UNDER_MASTER = {
  signing_keys: { id: 'kid', more: 'alg', column: 'sealed_jwk' },
  server_keys: { id: 'id', more: 'purpose', column: 'sealed_key' },
  data_keys: { id: 'id', more: 'organization_id', column: 'sealed_key' },
} as const

export type SealedTable = keyof typeof UNDER_MASTER
export const SEALED_TABLES = Object.keys(UNDER_MASTER) as SealedTable[] // of the object right above

export interface SealedRow {
  id: string
  /** What its place says besides the id. */
  more: string
  sealed: string
}

export interface MasterKeyUse {
  /** The first characters of its SHA-256, as what it sealed names it. */
  key_id: string
  table: SealedTable
  count: number
}

/** Which master keys something is sealed under. Reads the tables whole. */
export async function listMasterKeyUses(executor: Executor): Promise<MasterKeyUse[]> {
  const uses = SEALED_TABLES.map(async (table) => {
    const { rows } = await sql<{ key_id: string; count: number }>`
      select split_part(${sql.ref(UNDER_MASTER[table].column)}, '.', 2) as key_id, count(*)::int as count
      from ${sql.table(table)} group by 1 order by 1`.execute(executor)
    return rows.map((row) => ({ ...row, table }))
  })
  return (await Promise.all(uses)).flat()
}

/** What another master key than this one sealed, locked. In the order of the primary key. */
export async function lockUnderOtherMasters(
  trx: Trx,
  table: SealedTable,
  { keyId, limit }: { keyId: string; limit: number },
): Promise<SealedRow[]> {
  const { id, more, column } = UNDER_MASTER[table]
  const { rows } = await sql<SealedRow>`
    select ${sql.ref(id)} as id, ${sql.ref(more)} as more, ${sql.ref(column)} as sealed from ${sql.table(table)}
    where split_part(${sql.ref(column)}, '.', 2) <> ${keyId} order by 1 limit ${limit} for update`.execute(trx)
  return rows
}

/** The same under another master key. Primary key. */
export async function setSealed(trx: Trx, table: SealedTable, id: string, sealed: string): Promise<void> {
  const { id: idColumn, column } = UNDER_MASTER[table]
  await sql`update ${sql.table(table)} set ${sql.ref(column)} = ${sealed} where ${sql.ref(idColumn)} = ${id}`.execute(
    trx,
  )
}

// --- Data keys -----------------------------------------------------------------------------------------------------------

export interface DataKeyUse {
  organization_id: OrganizationId
  data_key_id: DataKeyId
  /** Seals what comes; the others open what they sealed. */
  is_newest: boolean
  connections: number
}

/** All of them. By data_keys_by_organization and provider_connections_by_data_key. */
export async function listDataKeyUses(executor: Executor): Promise<DataKeyUse[]> {
  const { rows } = await sql<DataKeyUse>`
    select k.organization_id, k.id as data_key_id, k.retired_at is null as is_newest, count(p.id)::int as connections
    from data_keys k left join provider_connections p on p.data_key_id = k.id
    group by k.id order by k.organization_id, k.id`.execute(executor)
  return rows
}

/** Organizations that have sealed something, after this one. By data_keys_one_active. */
export async function listWithDataKeys(
  executor: Executor,
  page: { after: OrganizationId | undefined; limit: number },
): Promise<OrganizationId[]> {
  const { rows } = await sql<{ organization_id: OrganizationId }>`
    select organization_id from data_keys where retired_at is null and organization_id > ${page.after ?? ''}
    order by organization_id limit ${page.limit}`.execute(executor)
  return rows.map((row) => row.organization_id)
}

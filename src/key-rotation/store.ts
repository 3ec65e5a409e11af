// SQL of which data keys there are, and what they seal.
import { sql } from 'kysely'
import type { DataKeyId, OrganizationId } from '../ids.ts'
import type { Executor } from '../store/database.ts'

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

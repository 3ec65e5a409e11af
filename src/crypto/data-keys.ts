// Envelope encryption: what is secret of an organization is sealed under a data key of that organization, and the data key
// under the master key. Either level is replaced while the server runs: what is stored names the key that sealed it.
import { randomBytes } from 'node:crypto'
import { type Selectable, sql } from 'kysely'
import { type DataKeyId, newId, type OrganizationId } from '../ids.ts'
import { type Db, type Executor, type Trx, transact } from '../store/database.ts'
import type { DataKeysTable } from '../store/tables.ts'
import { createEnvelope, type Envelope } from './envelope.ts'
import { type Sealed, Secret } from './secret.ts'

export interface DataKeys {
  /** Under the newest key of the organization, which is made when there is none. @param boundTo where it stands: needed again to open it */
  seal(trx: Trx, organizationId: OrganizationId, secret: Secret, boundTo: string): Promise<Sealed>
  /** Undefined when it was changed, moved, or its key is gone: it fails closed. */
  open(executor: Executor, organizationId: OrganizationId, sealed: Sealed, boundTo: string): Promise<Secret | undefined>
  /** Seals what comes from now on under a new key; what is there stays readable until it is sealed again. */
  rotate(trx: Trx, organizationId: OrganizationId): Promise<DataKeyId>
}

/** @param master what seals data keys */
export function createDataKeys(master: Envelope): DataKeys {
  // A data key never changes under its id; the row is read once a process.
  const opened = new Map<DataKeyId, { organizationId: OrganizationId; envelope: Envelope }>()

  function keep(row: Pick<Selectable<DataKeysTable>, 'id' | 'organization_id' | 'sealed_key'>): Envelope | undefined {
    const key = master.open(row.sealed_key, placeOf(row.organization_id, row.id))
    if (key === undefined) return undefined
    const envelope = createEnvelope([Buffer.from(key, 'base64')])
    opened.set(row.id, { organizationId: row.organization_id, envelope })
    return envelope
  }

  async function find(
    executor: Executor,
    organizationId: OrganizationId,
    id: DataKeyId,
  ): Promise<Envelope | undefined> {
    const known = opened.get(id)
    if (known !== undefined) return known.organizationId === organizationId ? known.envelope : undefined
    const row = await executor
      .selectFrom('data_keys')
      .select(['id', 'organization_id', 'sealed_key'])
      .where('id', '=', id)
      .where('organization_id', '=', organizationId)
      .executeTakeFirst()
    return row && keep(row)
  }

  async function make(trx: Trx, organizationId: OrganizationId): Promise<DataKeyId | undefined> {
    const id = newId('dk')
    const sealed_key = master.seal(randomBytes(32).toString('base64'), placeOf(organizationId, id))
    const { numInsertedOrUpdatedRows } = await trx
      .insertInto('data_keys')
      .values({ id, organization_id: organizationId, sealed_key, retired_at: null })
      .onConflict((conflict) => conflict.doNothing()) // another one was first: its is the newest
      .executeTakeFirst()
    return numInsertedOrUpdatedRows === 1n ? id : undefined
  }

  /** Nobody retires it until this transaction ends. By data_keys_one_active. */
  async function lockActive(trx: Trx, organizationId: OrganizationId) {
    return trx
      .selectFrom('data_keys')
      .select(['id', 'organization_id', 'sealed_key'])
      .where('organization_id', '=', organizationId)
      .where('retired_at', 'is', null)
      .forShare()
      .executeTakeFirst()
  }

  return {
    async seal(trx, organizationId, secret, boundTo) {
      let active = await lockActive(trx, organizationId)
      if (active === undefined) {
        await make(trx, organizationId)
        active = await lockActive(trx, organizationId)
      }
      const envelope = active && (opened.get(active.id)?.envelope ?? keep(active))
      if (active === undefined || envelope === undefined)
        throw new Error(
          'the newest data key of an organization cannot be opened: is its master key in LATCHKEY_MASTER_KEY?',
        )
      return { dataKeyId: active.id, sealed: envelope.seal(secret.reveal(), `${active.id} ${boundTo}`) }
    },
    async open(executor, organizationId, { dataKeyId, sealed }, boundTo) {
      const envelope = await find(executor, organizationId, dataKeyId)
      const text = envelope?.open(sealed, `${dataKeyId} ${boundTo}`)
      return text === undefined ? undefined : new Secret(text)
    },
    async rotate(trx, organizationId) {
      await sql`update data_keys set retired_at = clock_timestamp()
        where organization_id = ${organizationId} and retired_at is null`.execute(trx)
      const id = await make(trx, organizationId)
      if (id === undefined) throw new Error('a data key of this organization is being made elsewhere: try again')
      return id
    },
  }
}

const placeOf = (organizationId: OrganizationId, id: DataKeyId) => `data_keys.sealed_key:${organizationId}:${id}`

// --- The master key ---------------------------------------------------------------------------------------------------------

/** Where something is sealed under the master key: its table, what names a row, the sealed column, and what it is bound to. */
const UNDER_MASTER = {
  signing_keys: { id: 'kid', column: 'sealed_jwk', place: (row: Row) => `signing_keys.sealed_jwk:${row.id}` },
  server_keys: { id: 'id', column: 'sealed_key', place: (row: Row) => `server_keys.sealed_key:${row.more}:${row.id}` },
  data_keys: { id: 'id', column: 'sealed_key', place: (row: Row) => `data_keys.sealed_key:${row.more}:${row.id}` },
} as const

const MORE = { signing_keys: 'alg', server_keys: 'purpose', data_keys: 'organization_id' } as const

type SealedTable = keyof typeof UNDER_MASTER
const SEALED_TABLES = Object.keys(UNDER_MASTER) as SealedTable[] // of the object right above

interface Row {
  id: string
  more: string
  sealed: string
}

export interface MasterKeyUse {
  /** The first characters of its SHA-256, as what it sealed names it. */
  key_id: string
  table: SealedTable
  count: number
}

/** Which master keys something is sealed under. */
export async function listMasterKeyUses(db: Db): Promise<MasterKeyUse[]> {
  const uses = SEALED_TABLES.map(async (table) => {
    const { rows } = await sql<{ key_id: string; count: number }>`
      select split_part(${sql.ref(UNDER_MASTER[table].column)}, '.', 2) as key_id, count(*)::int as count
      from ${sql.table(table)} group by 1 order by 1`.execute(db)
    return rows.map((row) => ({ ...row, table }))
  })
  return (await Promise.all(uses)).flat()
}

const A_BATCH = 100

/** Something that none of the master keys opens. Its message is for operators. */
export class UnopenedError extends Error {
  override name = 'UnopenedError'
}

/**
 * Seals everything again under the newest master key, a hundred rows a transaction. Cut short, it goes on where it was.
 *
 * @param newestId of the newest master key
 * @returns how many rows it sealed again
 * @throws {UnopenedError} for a row that none of the master keys opens; what was sealed by then stays so
 */
export async function rewrap(
  db: Db,
  { master, newestId, onProgress }: { master: Envelope; newestId: string; onProgress?: (count: number) => void },
): Promise<number> {
  let count = 0
  for (const table of SEALED_TABLES) {
    for (;;) {
      const done = await transact(db, (trx) => rewrapBatch(trx, table, { master, newestId }))
      count += done
      onProgress?.(count)
      if (done === 0) break
    }
  }
  return count
}

async function rewrapBatch(
  trx: Trx,
  table: SealedTable,
  { master, newestId }: { master: Envelope; newestId: string },
): Promise<number> {
  const { id, column, place } = UNDER_MASTER[table]
  const [idColumn, sealedColumn] = [sql.ref(id), sql.ref(column)]
  const { rows } = await sql<Row>`
    select ${idColumn} as id, ${sql.ref(MORE[table])} as more, ${sealedColumn} as sealed from ${sql.table(table)}
    where split_part(${sealedColumn}, '.', 2) <> ${newestId} order by 1 limit ${A_BATCH} for update`.execute(trx)
  for (const row of rows) {
    const text = master.open(row.sealed, place(row))
    if (text === undefined)
      throw new UnopenedError(
        `LATCHKEY_MASTER_KEY does not hold the key that ${table} ${row.id} was sealed under: put it back, after the newest. Where it is there, the row was changed, or moved.`,
      )
    await sql`update ${sql.table(table)} set ${sealedColumn} = ${master.seal(text, place(row))}
      where ${idColumn} = ${row.id}`.execute(trx)
  }
  return rows.length
}

// Envelope encryption: what is secret of an organization is sealed under a data key of that organization, and the data key
// under the master key. Either level is replaced while the server runs: what is stored names the key that sealed it.
import { randomBytes } from 'node:crypto'
import { type Selectable, sql } from 'kysely'
import { AppError } from '../errors.ts'
import { type DataKeyId, newId, type OrganizationId } from '../ids.ts'
import { createRowCache } from '../store/cache.ts'
import type { Executor, Trx } from '../store/database.ts'
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

const KEPT_MS = 60_000

/**
 * @param master what seals data keys
 * @param keptMs how long one that was opened is remembered: a row that is gone, or that nothing opens any more, seals and
 * opens until then
 */
export function createDataKeys(master: Envelope, { keptMs = KEPT_MS }: { keptMs?: number } = {}): DataKeys {
  const opened = createRowCache<Envelope | undefined>(keptMs)

  function unwrap(row: Pick<Selectable<DataKeysTable>, 'id' | 'organization_id' | 'sealed_key'>): Envelope | undefined {
    const key = master.open(row.sealed_key, placeOfDataKey(row.organization_id, row.id))
    return key === undefined ? undefined : createEnvelope([Buffer.from(key, 'base64')])
  }

  /** A data key never changes under its id. What could not be opened is read again the next time. */
  async function remember(
    organizationId: OrganizationId,
    id: DataKeyId,
    load: () => Promise<Envelope | undefined>,
  ): Promise<Envelope | undefined> {
    const key = `${organizationId} ${id}`
    const envelope = await opened.get(key, load)
    if (envelope === undefined) opened.forget(key)
    return envelope
  }

  function find(executor: Executor, organizationId: OrganizationId, id: DataKeyId): Promise<Envelope | undefined> {
    return remember(organizationId, id, async () => {
      const row = await executor
        .selectFrom('data_keys')
        .select(['id', 'organization_id', 'sealed_key'])
        .where('id', '=', id)
        .where('organization_id', '=', organizationId)
        .executeTakeFirst()
      return row && unwrap(row)
    })
  }

  async function make(trx: Trx, organizationId: OrganizationId): Promise<DataKeyId | undefined> {
    const id = newId('dk')
    const sealed_key = master.seal(randomBytes(32).toString('base64'), placeOfDataKey(organizationId, id))
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
      if (active === undefined) throw beingReplaced()
      const row = active
      const envelope = await remember(organizationId, row.id, async () => unwrap(row))
      if (envelope === undefined)
        throw new AppError('unavailable', {
          cause: new Error(
            `the newest data key of ${organizationId} cannot be opened: is its master key in LATCHKEY_MASTER_KEY?`,
          ),
        })
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
      if (id === undefined) throw beingReplaced()
      return id
    },
  }
}

function beingReplaced(): AppError {
  return new AppError('conflict', { detail: 'The data key of this organization is being replaced. Try again.' })
}

/** Where a data key stands: what it is bound to under the master key. */
export const placeOfDataKey = (organizationId: string, id: string) => `data_keys.sealed_key:${organizationId}:${id}`

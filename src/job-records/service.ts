// Records that jobs append to the audit log themselves, in the workspace of their credential and under names of their own.
import type { AuditRecord } from '../audit/rules.ts'
import { type RequestInfo, recordAndRead } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import { once, type Repeatable } from '../idempotency/service.ts'
import type { Principal } from '../principals/rules.ts'
import { actorOf, lockAuthority } from '../principals/service.ts'
import type { Counter } from '../store/counter.ts'
import { type Db, transact } from '../store/database.ts'
import { storedEvent } from './rules.ts'

export interface JobRecordsDeps {
  db: Db
  counter: Counter
}

export interface NewRecord {
  principal: Principal
  event: string
  status: 'pass' | 'fail'
  occurredAt: string | undefined
  profileId: string | undefined
  detail: Record<string, unknown> | undefined
  request: RequestInfo
  repeatable: Repeatable | undefined
}

const WINDOW_SECONDS = 60
/** Of one credential. */
const MOST_RECORDS = 6_000

/**
 * Appends one record. What authorises it is looked at again in its transaction: nothing is appended by what was revoked.
 *
 * @throws {AppError} `too_many_requests`, `unauthorized`, `idempotency_key_reused`
 */
export async function appendRecord(
  deps: JobRecordsDeps,
  input: NewRecord,
): Promise<{ record: AuditRecord; isRepeat: boolean }> {
  const { authority, credentialId, tokenVersion, workspaceId, clientId } = input.principal
  if (credentialId === undefined || tokenVersion === undefined || workspaceId === undefined)
    throw new AppError('wrong_credential')
  await requireFewer(deps, credentialId)
  return transact(deps.db, async (trx) => {
    const { result, isRepeat } = await once(trx, input.repeatable, async () => {
      const place = await lockAuthority(trx, authority, workspaceId, { role: 'viewer' })
      return recordAndRead(trx, {
        event: storedEvent(input.event),
        status: input.status,
        actor: actorOf(authority),
        request: { ...input.request, ...(input.profileId === undefined ? {} : { profileId: input.profileId }) },
        organizationId: place.organizationId,
        workspaceId: place.workspaceId,
        userId: place.userId,
        clientId,
        credentialId,
        tokenVersion,
        detail: {
          ...(input.occurredAt === undefined ? {} : { occurred_at: input.occurredAt }),
          // Beside what we say ourselves, never among it: filters look for our own words.
          ...(input.detail === undefined ? {} : { data: input.detail }),
        },
      })
    })
    return { record: result, isRepeat }
  })
}

async function requireFewer(deps: JobRecordsDeps, credentialId: string): Promise<void> {
  const { count, resetsInSeconds } = await deps.counter.increment('job-records', credentialId, WINDOW_SECONDS)
  if (count > MOST_RECORDS) throw new AppError('too_many_requests', { retryAfterSeconds: resetsInSeconds })
}

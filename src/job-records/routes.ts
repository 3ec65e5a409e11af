// Jobs append to the audit log over the JSON API.
import { INGEST, type Route, route } from '../api/route.ts'
import { createCounter } from '../store/counter.ts'
import type { Db } from '../store/database.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import { jobRecordShape, newJobRecord, presentJobRecord } from './schemas.ts'
import { appendRecord } from './service.ts'

export function jobRecordRoutes({ db, ephemeral }: { db: Db; ephemeral: EphemeralStore }): Route[] {
  const deps = { db, counter: createCounter(ephemeral) }
  return [
    route({
      method: 'POST',
      path: '/audit/events',
      operationId: 'appendAuditEvent',
      summary: 'Append a record of a job’s own to the audit log',
      description:
        'The workspace is the credential’s. Stored as job.<event>, found by its trace id, which must be sent. 6,000 a minute and credential.',
      tag: 'Audit',
      rule: INGEST,
      body: newJobRecord,
      repeatable: true,
      traced: true,
      answers: {
        201: { description: 'As it is recorded', schema: jobRecordShape },
        200: { description: 'The record that the same Idempotency-Key made', schema: jobRecordShape },
      },
      async handle({ body, principal, request, repeatable }) {
        const { record, isRepeat } = await appendRecord(deps, {
          principal,
          event: body.event,
          status: body.status,
          occurredAt: body.occurred_at,
          profileId: body.profile_id,
          detail: body.detail,
          request,
          repeatable,
        })
        return { status: isRepeat ? 200 : 201, body: presentJobRecord(record) }
      },
    }),
  ]
}

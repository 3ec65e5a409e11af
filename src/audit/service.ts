// The audit log: one record for each change, written in the transaction of that change (consistency: never one without the other).
import { type RawBuilder, sql } from 'kysely'
import { newId } from '../ids.ts'
import type { Executor } from '../store/database.ts'
import { type AuditRecord, isExact, MOST_LEVELS } from './rules.ts'

/** What every record says about the request or command it stems from. */
export interface RequestInfo {
  traceId: string
  profileId?: string | undefined
  /** The caller's address; absent for a command. */
  address?: string | undefined
}

export type Actor =
  | { kind: 'user'; id: string }
  | { kind: 'client'; id: string }
  | { kind: 'key'; id: string }
  | { kind: 'connection'; id: string }
  | { kind: 'operator'; id?: never }
  /** The server itself, at a time that was set before. */
  | { kind: 'schedule'; id?: never }
  | { kind: 'nobody'; id?: never }

export interface AuditEvent {
  event: string
  status: 'pass' | 'fail'
  actor: Actor
  request: RequestInfo
  organizationId?: string | null
  workspaceId?: string | null
  userId?: string | null
  clientId?: string | null
  credentialId?: string | null
  tokenVersion?: number | null
  /** Facts of this kind of event. Never a secret, never an address or a name of a person. */
  detail?: Record<string, unknown>
}

/** Records one event. Call it with the transaction of the change that it tells of. */
export async function record(executor: Executor, event: AuditEvent): Promise<void> {
  await insertRecord(event).execute(executor)
}

/**
 * The same insert as a piece of a larger statement: with `when`, a record is written only if that query has a row, so
 * a change and its record can be one statement, and one round trip.
 */
export function insertRecord(event: AuditEvent, when?: RawBuilder<unknown>): RawBuilder<unknown> {
  const values = sql.join([
    sql`${newId('aud')}::text`,
    text(event.organizationId),
    text(event.workspaceId),
    text(event.event),
    text(event.status),
    text(event.request.traceId),
    text(event.request.profileId),
    text(event.actor.kind),
    text(event.actor.id),
    text(event.userId),
    text(event.clientId),
    text(event.credentialId),
    text(event.tokenVersion == null ? null : `v${event.tokenVersion}`),
    text(event.request.address),
    sql`${detailText(event.detail ?? {})}::jsonb`,
  ])
  return sql`insert into audit_events (id, organization_id, workspace_id, event, status, trace_id, profile_id, actor_kind,
    actor_id, user_id, client_id, credential_id, token_version, address, detail)
    select ${values} ${when === undefined ? sql`` : sql`where exists (${when})`}`
}

const MOST_AT_ONCE = 500

/** Records events of one change, in their order: so many are one statement. */
export async function recordAll(executor: Executor, events: readonly AuditEvent[]): Promise<void> {
  for (let from = 0; from < events.length; from += MOST_AT_ONCE) {
    const rows = events.slice(from, from + MOST_AT_ONCE).map((event) => ({
      id: newId('aud'),
      organization_id: event.organizationId,
      workspace_id: event.workspaceId,
      event: event.event,
      status: event.status,
      trace_id: event.request.traceId,
      profile_id: event.request.profileId,
      actor_kind: event.actor.kind,
      actor_id: event.actor.id,
      user_id: event.userId,
      client_id: event.clientId,
      credential_id: event.credentialId,
      token_version: event.tokenVersion == null ? null : `v${event.tokenVersion}`,
      address: event.request.address,
      detail: JSON.parse(detailText(event.detail ?? {})),
    }))
    await sql`insert into audit_events (id, organization_id, workspace_id, event, status, trace_id, profile_id, actor_kind,
        actor_id, user_id, client_id, credential_id, token_version, address, detail)
      select id, organization_id, workspace_id, event, status, trace_id, profile_id, actor_kind,
        actor_id, user_id, client_id, credential_id, token_version, address, detail
      from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) given (id text, organization_id text, workspace_id text,
        event text, status text, trace_id text, profile_id text, actor_kind text, actor_id text, user_id text,
        client_id text, credential_id text, token_version text, address text, detail jsonb)`.execute(executor)
  }
}

/** Records one event, and reads it as it stands there: for who answers with the record itself. */
export async function recordAndRead(executor: Executor, event: AuditEvent): Promise<AuditRecord> {
  const { rows } = await sql<{ record: AuditRecord }>`
    with e as (${insertRecord(event)} returning *) select ${RECORD} as record from e`.execute(executor)
  const [written] = rows
  if (written === undefined) throw new Error('a record was not written')
  return written.record
}

/** Whether the detail of an event `e` goes further down than any that has a hash: it is not followed further than that. */
export const IS_TOO_DEEP: RawBuilder<boolean> = sql`jsonb_path_exists(e.detail, ${sql.lit(`$.**{${MOST_LEVELS}}`)})`

/**
 * An event `e` as it is hashed, shown and exported: the counterpart of the insert. What is nested too deep to be written as
 * text is not there: nobody recorded it.
 */
export const RECORD: RawBuilder<AuditRecord> = sql`jsonb_build_object('id', e.id,
  'timestamp', to_char(e.recorded_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
  'organization_id', e.organization_id, 'workspace_id', e.workspace_id, 'event', e.event, 'status', e.status,
  'trace_id', e.trace_id, 'profile_id', e.profile_id, 'actor_kind', e.actor_kind, 'actor_id', e.actor_id,
  'user_id', e.user_id, 'client_id', e.client_id, 'credential_id', e.credential_id, 'token_version', e.token_version,
  'address', e.address,
  'detail', case when ${IS_TOO_DEEP} then '{"nested_too_deep": true}'::jsonb else e.detail end)`

/** @throws {TypeError} for what would come back from the database as something else, and break the chain: a bug */
function detailText(detail: Record<string, unknown>): string {
  const text = JSON.stringify(detail)
  if (isExact(JSON.parse(text))) return text
  throw new TypeError('a detail of an audit record holds what cannot be hashed')
}

/** A parameter with its type said: in a bare select list PostgreSQL could not tell it. */
function text(value: string | null | undefined): RawBuilder<unknown> {
  return sql`${value ?? null}::text`
}

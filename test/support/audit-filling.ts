// An audit log with as many records as a test needs, of one organization: written by the database itself.
import { sql } from 'kysely'
import type { Db } from '../../src/store/database.ts'

export const FILLED = 'org_filled'

/** They wait to be sealed, as any record does. One in a hundred is a failure, one in a thousand of a rare kind. */
export async function fillAuditLog(db: Db, count: number): Promise<void> {
  await sql`insert into audit_events (id, recorded_at, organization_id, workspace_id, event, status, trace_id, profile_id,
      actor_kind, actor_id, user_id, client_id, credential_id, token_version, address, detail)
    select 'aud_' || lpad(n::text, 12, '0'), now() - make_interval(secs => (${count} - n) * 0.1), ${FILLED}, 'ws_' || n % 20,
      case when n % 1000 = 0 then 'rare.event' else 'token.kind_' || n % 30 end, case when n % 100 = 0 then 'fail' else 'pass' end,
      'trace-' || n % 5000, case when n % 50 = 0 then 'profile-' || n % 1000 end,
      'key', 'key_' || n % 500, 'usr_' || n % 200, 'cl_' || n % 50, 'key_' || n % 500, 'v' || 1 + n % 4, '192.0.2.1',
      case when n % 500 = 0 then '{"reason": "stale_version"}'::jsonb else '{"turn": 7}'::jsonb end
    from generate_series(1, ${count}::int) n`.execute(db)
  await sql`analyze audit_events, audit_chain, audit_pending`.execute(db)
}

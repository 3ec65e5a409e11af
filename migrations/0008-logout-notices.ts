// Back-channel logout: which client was told of which browser session, and what is still to be told of their ends.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `create table client_sessions (
    client_id text not null references clients (id),
    sid text not null, -- as its id_tokens name the session
    user_id text not null references users (id),
    session_digest text not null, -- of what names the browser's session here
    expires_at timestamptz not null,
    primary key (client_id, sid)
  )`,
  'create index client_sessions_by_user on client_sessions (user_id)',
  'create index client_sessions_by_session on client_sessions (session_digest)',
  'create index client_sessions_by_expiry on client_sessions (expires_at)',
  `create table logout_notices (
    id bigint generated always as identity primary key,
    client_id text not null references clients (id),
    user_id text not null,
    sid text, -- null: every session of the person at that client
    reason text not null,
    trace_id text not null,
    tries int not null default 0,
    next_try_at timestamptz not null default clock_timestamp(), -- of one being tried: when that counts as lost
    created_at timestamptz not null default now()
  )`,
  'create index logout_notices_due on logout_notices (client_id, next_try_at)',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

// Who used a connection, as it is known of tokens: by version, and by hour and caller.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  // No foreign keys: whoever writes a use waits for nobody who changes the connection.
  `create table connection_versions (
    connection_id text not null,
    version int not null,
    first_used_at timestamptz not null,
    last_used_at timestamptz not null,
    last_used_address text not null,
    last_used_agent text not null,
    primary key (connection_id, version)
  )`,
  // One row an hour, version and caller: what a person decides on.
  `create table connection_uses (
    connection_id text not null,
    version int not null,
    hour timestamptz not null,
    address text not null,
    agent text not null,
    uses int not null,
    last_at timestamptz not null,
    primary key (connection_id, hour, version, address, agent)
  )`,
  'create index connection_uses_by_hour on connection_uses (hour)',
  // Whose first use is on record: it is recorded once, whatever the version and whichever process.
  `create table connection_first_uses (
    connection_id text primary key
  )`,
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

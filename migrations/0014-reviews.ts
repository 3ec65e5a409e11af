// What was attested of each item of an access review, and workspaces whose team has changed and whose review is to be opened.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  'alter table access_review_items add column attested jsonb', // what it was when it was kept, or called changed
  "update access_review_items set attested = snapshot where decision in ('keep', 'changed')",
  `create table team_changes (
    workspace_id text primary key references workspaces (id),
    organization_id text not null references organizations (id),
    actor jsonb not null, -- whose change it was, and with which request
    request jsonb not null,
    changed_at timestamptz not null default clock_timestamp()
  )`,
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

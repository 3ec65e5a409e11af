// Single credentials that are suspended and restored, tokens that must be rotated because the person who made them left,
// and what an account that is erased is found by.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `alter table token_lines
    add column suspended_at timestamptz,
    add column suspend_reason text,
    add column rotation_required_by timestamptz,
    add column rotation_required_below int, -- met once the floor is this or above
    add column rotation_required_reason text,
    add check ((suspended_at is null) = (suspend_reason is null)),
    add check ((rotation_required_by is null) = (rotation_required_below is null)
      and (rotation_required_by is null) = (rotation_required_reason is null))`,
  `alter table connections
    add column suspended_at timestamptz,
    add column suspend_reason text,
    add check ((suspended_at is null) = (suspend_reason is null))`,
  'create index token_lines_by_user on token_lines (user_id) where closed_at is null',
  'create index token_lines_by_rotation on token_lines (rotation_required_by) where rotation_required_by is not null',
  'create index invitations_by_sender on invitations (created_by) where ended_at is null',
  'create index invitations_by_address on invitations (email_key)',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

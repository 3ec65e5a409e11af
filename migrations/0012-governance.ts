// Access reviews, and notices for the people who administer a workspace.
import { type Kysely, sql } from 'kysely'

const STATEMENTS = [
  `create table access_reviews (
    id text primary key,
    organization_id text not null references organizations (id),
    workspace_id text not null references workspaces (id),
    reasons text[] not null check (cardinality(reasons) > 0),
    opened_by text not null, -- an id, or the kind of who has none
    opened_at timestamptz not null default clock_timestamp(),
    due_at timestamptz not null,
    closed_at timestamptz,
    closed_by text,
    report text, -- a JWS
    check ((closed_at is null) = (report is null)),
    check ((closed_at is null) = (closed_by is null))
  )`,
  'create unique index access_reviews_one_open on access_reviews (workspace_id) where closed_at is null',
  'create index access_reviews_by_workspace on access_reviews (workspace_id, opened_at)',
  'create index access_reviews_due on access_reviews (due_at) where closed_at is null',
  `create table access_review_items (
    id text primary key,
    review_id text not null references access_reviews (id),
    kind text not null check (kind in ('connection', 'token', 'token_policy')),
    subject_id text not null,
    snapshot jsonb not null, -- what it was when the review was opened
    decision text check (decision in ('keep', 'revoke', 'changed')),
    note text,
    decided_by text,
    decided_at timestamptz,
    outcome text check (outcome in ('kept', 'revoked', 'changed', 'suspended', 'ended', 'not_attested')), -- once that is final
    unique (review_id, subject_id),
    check ((decision is null) = (decided_by is null)),
    check ((decision is null) = (decided_at is null))
  )`,
  `create table notices (
    id text primary key,
    organization_id text not null references organizations (id),
    workspace_id text not null references workspaces (id),
    kind text not null check (kind in ('token_expiring', 'rotation_required', 'token_unused', 'review_due')),
    subject_id text not null,
    stage text not null, -- of one subject, each is told once
    due_at timestamptz,
    created_at timestamptz not null default clock_timestamp(),
    mailed_at timestamptz,
    resolved_at timestamptz,
    unique (kind, subject_id, stage)
  )`,
  'create index notices_by_workspace on notices (workspace_id, id) where resolved_at is null',
  `create table notice_mails (
    notice_id text not null references notices (id),
    user_id text not null references users (id) on delete cascade,
    outcome text check (outcome in ('sent', 'refused', 'not_concerned')),
    settled_at timestamptz,
    primary key (notice_id, user_id),
    check ((outcome is null) = (settled_at is null))
  )`,
  'create index notice_mails_unsettled on notice_mails (notice_id) where outcome is null',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

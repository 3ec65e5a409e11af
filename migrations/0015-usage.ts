// What was used and what it cost: events, spend by workspace and month, budgets, reservations, violations.
import { type Kysely, sql } from 'kysely'

// Money is in millionths of the organization's currency. Months are UTC and the database's: the first day of each.
const STATEMENTS = [
  `alter table organizations add column currency text not null default 'USD' check (currency ~ '^[A-Z]{3}$')`,

  // --- What was used ------------------------------------------------------------------------------------------------
  `create table usage_event_ids (
    workspace_id text not null references workspaces (id),
    event_id text not null,
    digest text not null, -- of the event as it was sent: the same id with other contents is a mistake
    primary key (workspace_id, event_id)
  )`,
  `create table usage_events (
    id text not null,
    recorded_at timestamptz not null default clock_timestamp(),
    organization_id text not null,
    workspace_id text not null,
    month date not null, -- in whose spend it is: of a reservation that was held, the month in which that was taken
    event_id text not null,
    reservation_id text,
    provider text,
    model text,
    input_tokens bigint check (input_tokens >= 0),
    output_tokens bigint check (output_tokens >= 0),
    cost_micros bigint check (cost_micros >= 0), -- null: unknown
    prices text, -- the version of the table that it was worked out with; null: the caller said it
    is_estimated boolean not null default false,
    occurred_at timestamptz,
    trace_id text not null,
    profile_id text,
    credential_id text not null,
    token_version int,
    user_id text,
    primary key (id, recorded_at)
  ) partition by range (recorded_at)`,
  'create table usage_events_default partition of usage_events default',
  'create index usage_events_by_month on usage_events (workspace_id, month, id desc)',
  'create index usage_events_by_trace on usage_events (workspace_id, trace_id, id desc)',

  // --- What it came to ----------------------------------------------------------------------------------------------
  `create table spend (
    organization_id text not null references organizations (id),
    workspace_id text not null references workspaces (id),
    month date not null check (extract(day from month) = 1),
    settled_micros numeric not null default 0, -- sums outgrow a bigint long before a caller tires
    held_micros numeric not null default 0 check (held_micros >= 0), -- the reservations of this month that are held
    event_count bigint not null default 0,
    input_tokens numeric not null default 0,
    output_tokens numeric not null default 0,
    unpriced_count bigint not null default 0, -- events whose cost is unknown
    primary key (workspace_id, month)
  )`,
  'create index spend_by_organization on spend (organization_id, month)',
  'create index spend_by_month on spend (month, workspace_id)',
  `create table spend_by_model (
    workspace_id text not null references workspaces (id),
    month date not null,
    provider text not null,
    model text not null,
    cost_micros numeric not null,
    event_count bigint not null,
    input_tokens numeric not null,
    output_tokens numeric not null,
    primary key (workspace_id, month, provider, model)
  )`,
  'create index spend_by_model_dearest on spend_by_model (workspace_id, month, cost_micros desc, provider, model)',

  // --- What it may come to ------------------------------------------------------------------------------------------
  `create table budgets (
    workspace_id text primary key references workspaces (id),
    organization_id text not null references organizations (id),
    cap_micros bigint not null check (cap_micros >= 0),
    mode text not null check (mode in ('soft', 'hard')),
    changed_at timestamptz not null default clock_timestamp()
  )`,
  'create index budgets_by_organization on budgets (organization_id)',
  `create table reservations (
    id text primary key,
    organization_id text not null,
    workspace_id text not null references workspaces (id),
    month date not null,
    state text not null default 'held' check (state in ('held', 'settled', 'released', 'expired')),
    amount_micros bigint not null check (amount_micros > 0),
    cost_micros bigint check (cost_micros >= 0),
    settlement text, -- a digest of what it was settled with
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    ended_at timestamptz,
    trace_id text not null,
    credential_id text not null,
    check ((state = 'held') = (ended_at is null)),
    check ((state = 'settled') = (settlement is not null))
  )`,
  `create index reservations_held on reservations (workspace_id, month, expires_at) where state = 'held'`,
  `create index reservations_expiring on reservations (expires_at) where state = 'held'`,
  `create table violations (
    id text primary key,
    organization_id text not null references organizations (id),
    workspace_id text not null references workspaces (id),
    month date not null,
    kind text not null check (kind in ('refused', 'overrun', 'soft_cap')),
    credential_id text not null,
    hour timestamptz not null, -- many in an hour are one row with a count; of a soft cap, one a month
    cap_micros bigint not null,
    asked_micros numeric, -- by the last one; what came on top, where nothing was asked; null: not known beforehand
    left_micros numeric not null, -- of the cap, before the last one
    count bigint not null default 1,
    trace_id text not null, -- of the last one
    first_at timestamptz not null default clock_timestamp(),
    last_at timestamptz not null default clock_timestamp(),
    unique (workspace_id, month, kind, credential_id, hour, cap_micros)
  )`,
  'create index violations_by_workspace on violations (workspace_id, month, id desc)',
  'create index violations_by_organization on violations (organization_id, month, id desc)',

  // --- What is mailed to whoever pays ---------------------------------------------------------------------------------
  `create table budget_alerts (
    id text primary key,
    organization_id text not null references organizations (id),
    workspace_id text not null references workspaces (id),
    month date not null,
    percent int not null check (percent in (80, 100)),
    cap_micros bigint not null,
    mode text not null check (mode in ('soft', 'hard')),
    created_at timestamptz not null default clock_timestamp(),
    unique (workspace_id, month, percent, cap_micros)
  )`,
  `create table billing_mails (
    kind text not null check (kind in ('alert', 'statement')),
    subject_id text not null, -- of an alert its id; of a statement the workspace
    month date not null,
    workspace_id text not null references workspaces (id),
    created_at timestamptz not null default clock_timestamp(),
    outcome text check (outcome in ('sent', 'refused', 'no_address')),
    settled_at timestamptz,
    primary key (kind, subject_id, month),
    check ((outcome is null) = (settled_at is null))
  )`,
  'create index billing_mails_unsettled on billing_mails (kind, subject_id, month) where outcome is null',
]

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db)
}

// SQL of what is mailed to billing addresses. Alerts are written with the spending that led to them (src/usage); statements here.
import { sql } from 'kysely'
import type { AlertId, OrganizationId, WorkspaceId } from '../ids.ts'
import { type Executor, THIS_MONTH, type Trx } from '../store/database.ts'
import type { BudgetMode } from '../store/tables.ts'
import type { AlertPercent, Month } from '../usage/rules.ts'
import type { BillingMail, BillingMailKind } from './rules.ts'

/**
 * One for each workspace and finished month in which something was spent, archived or not; once, whoever else is at it. By
 * spend_by_month and the primary key of the mails.
 *
 * @returns how many are new
 */
export async function insertStatements(executor: Executor, { months, limit }: { months: number; limit: number }) {
  const { numAffectedRows } = await sql`
    insert into billing_mails (kind, subject_id, month, workspace_id)
    select 'statement', s.workspace_id, s.month, s.workspace_id from spend s
    where s.month >= (${THIS_MONTH} - make_interval(months => ${months}::int))::date and s.month < ${THIS_MONTH}
      and (s.settled_micros > 0 or s.unpriced_count > 0)
      and not exists (select from billing_mails b
        where b.kind = 'statement' and b.subject_id = s.workspace_id and b.month = s.month)
    order by s.month, s.workspace_id limit ${limit}
    on conflict do nothing`.execute(executor)
  return Number(numAffectedRows ?? 0)
}

export interface BillingMailKey {
  kind: BillingMailKind
  subject_id: string
  month: Month
}

/** Mails of a kind that nobody has sent, or given up, and that are still news, after this one. By billing_mails_unsettled. */
export async function listUnsettled(
  executor: Executor,
  kind: BillingMailKind,
  page: { withinDays: number; after: BillingMailKey | undefined; limit: number },
): Promise<BillingMailKey[]> {
  const { after } = page
  const { rows } = await sql<BillingMailKey>`
    select kind, subject_id, month::text as month from billing_mails b
    where outcome is null and created_at > clock_timestamp() - make_interval(days => ${page.withinDays}::int) and kind = ${kind}
      and (subject_id, month) > (${after?.subject_id ?? ''}::text, ${after?.month ?? '0001-01-01'}::date)
    order by b.subject_id, b.month limit ${page.limit}`.execute(executor)
  return rows
}

interface MailRow {
  workspace_id: WorkspaceId
  organization_id: OrganizationId
  name: string
  billing_email: string | null
  alert_id: AlertId | null
  percent: AlertPercent | null
  cap: string | null
  mode: BudgetMode | null
}

/** A mail that is to be sent; undefined once that is settled. Primary keys. */
export async function findUnsettled(executor: Executor, key: BillingMailKey): Promise<BillingMail | undefined> {
  const { rows } = await sql<MailRow>`
    select w.id as workspace_id, w.organization_id, w.name, w.billing_email,
      a.id as alert_id, a.percent, a.cap_micros::text as cap, a.mode
    from billing_mails b
    join workspaces w on w.id = b.workspace_id
    left join budget_alerts a on b.kind = 'alert' and a.id = b.subject_id
    where b.kind = ${key.kind} and b.subject_id = ${key.subject_id} and b.month = ${key.month}::date
      and b.outcome is null`.execute(executor)
  const [row] = rows
  return row && { workspace: toWorkspace(row), month: key.month, alert: toAlert(row) }
}

function toWorkspace(row: MailRow): BillingMail['workspace'] {
  return { id: row.workspace_id, organizationId: row.organization_id, name: row.name, address: row.billing_email }
}

function toAlert({ alert_id: id, percent, cap, mode }: MailRow): BillingMail['alert'] {
  if (id === null || percent === null || cap === null || mode === null) return undefined
  return { id, percent, budget: { capMicros: BigInt(cap), mode } }
}

/** Primary key. */
export async function settleMail(
  trx: Trx,
  key: BillingMailKey,
  outcome: 'sent' | 'refused' | 'no_address',
): Promise<void> {
  await sql`update billing_mails set outcome = ${outcome}, settled_at = clock_timestamp()
    where kind = ${key.kind} and subject_id = ${key.subject_id} and month = ${key.month}::date
      and outcome is null`.execute(trx)
}

// SQL of notices: what is to be told of tokens and reviews now, what was told, and to whom it is mailed.
import { type Selectable, sql } from 'kysely'
import type { NoticeId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { NoticeKind, NoticesTable } from '../store/tables.ts'
import { EXPIRING_DAYS, UNUSED_DAYS } from '../workspace-tokens/rules.ts'
import { type Named, type Notice, OVERDUE, REVIEW_STAGES } from './rules.ts'

function toNotice(row: Selectable<NoticesTable>): Notice {
  return {
    id: row.id,
    organizationId: row.organization_id,
    workspaceId: row.workspace_id,
    kind: row.kind,
    subjectId: row.subject_id,
    stage: row.stage,
    dueAt: row.due_at,
    createdAt: row.created_at,
    mailedAt: row.mailed_at,
  }
}

const days = (count: number) => sql`make_interval(days => ${count}::int)`

/**
 * Everything that is to be told now, as `current`. Reads all open tokens of all workspaces, once an hour. A token that was
 * made for less than a week is not told of: whoever made it has just been told when it expires. Those of an organization
 * itself belong to no workspace.
 */
const CURRENT = sql`
  lines as materialized (
    select t.* from token_lines t join workspaces w on w.id = t.workspace_id
    where t.closed_at is null and t.suspended_at is null and w.archived_at is null),
  good as materialized (
    select l.id, v.version, v.created_at, v.expires_at, coalesce(v.last_used_at, v.created_at) as seen_at
    from lines l join token_versions v on v.token_id = l.id
    where v.dead_at is null and (v.expires_at is null or v.expires_at > clock_timestamp())
      and v.version >= case when l.cutover_at <= clock_timestamp() then l.version else l.floor end),
  newest as (select distinct on (id) id, version, created_at, expires_at from good order by id, version desc),
  seen as (select id, max(seen_at) as seen_at from good group by id),
  current as materialized (
    select 'token_expiring' as kind, l.organization_id, l.workspace_id, l.id as subject_id, 'v' || n.version as stage,
      n.expires_at as due_at
    from newest n join lines l on l.id = n.id
    where n.expires_at <= clock_timestamp() + ${days(EXPIRING_DAYS)} and n.expires_at > n.created_at + ${days(EXPIRING_DAYS)}
    union all
    select 'rotation_required', organization_id, workspace_id, id,
      'v' || rotation_required_below || case when rotation_required_by > clock_timestamp() then '' else ${` ${OVERDUE}`}::text end,
      rotation_required_by
    from lines where rotation_required_by is not null and floor < rotation_required_below
    union all
    select 'token_unused', l.organization_id, l.workspace_id, l.id, to_char(s.seen_at at time zone 'UTC', 'YYYY-MM-DD'), null
    from seen s join lines l on l.id = s.id where s.seen_at <= clock_timestamp() - ${days(UNUSED_DAYS)}
    union all
    select 'review_due', r.organization_id, r.workspace_id, r.id,
      case when r.due_at <= clock_timestamp() + ${days(REVIEW_STAGES.last)} then 'last' else 'first' end
        || to_char(r.due_at at time zone 'UTC', ' YYYY-MM-DD HH24:MI'), -- another date is told anew
      r.due_at
    from access_reviews r join workspaces w on w.id = r.workspace_id
    where r.closed_at is null and w.archived_at is null and r.due_at <= clock_timestamp() + ${days(REVIEW_STAGES.first)})`

const SAME = sql`n.kind = c.kind and n.subject_id = c.subject_id and n.stage = c.stage`

export interface ToTell {
  kind: NoticeKind
  organization_id: OrganizationId
  workspace_id: WorkspaceId
  subject_id: string
  stage: string
  due_at: Date | null
}

/** What was not told yet, after this one. By the unique index of notices. */
export async function listToTell(
  executor: Executor,
  { after, limit }: { after: ToTell | undefined; limit: number },
): Promise<ToTell[]> {
  const { rows } = await sql<ToTell>`
    with ${CURRENT}
    select c.kind, c.organization_id, c.workspace_id, c.subject_id, c.stage, c.due_at from current c
    where not exists (select 1 from notices n where ${SAME})
      and (c.subject_id, c.kind) > (${after?.subject_id ?? ''}::text, ${after?.kind ?? ''}::text)
    order by c.subject_id, c.kind limit ${limit}`.execute(executor)
  return rows
}

/** What is no longer so is resolved; what is so again is open again, and was told before. */
export async function settleResolved(executor: Executor): Promise<void> {
  await sql`
    with ${CURRENT}
    update notices n set resolved_at = case when n.resolved_at is null then clock_timestamp() end
    where (n.resolved_at is null) <> exists (select 1 from current c where ${SAME})`.execute(executor)
}

/** False when another process was first: each is told once. */
export async function insertNotice(trx: Trx, id: NoticeId, notice: ToTell): Promise<boolean> {
  const result = await trx
    .insertInto('notices')
    .values({ id, ...notice })
    .onConflict((conflict) => conflict.columns(['kind', 'subject_id', 'stage']).doNothing())
    .executeTakeFirst()
  return result.numInsertedOrUpdatedRows === 1n
}

/** Who administers a workspace and can sign in; as m and u. Primary keys. */
const CONCERNED = sql`m.role in ('owner', 'admin') and u.suspended_at is null`

/** Whose account is being erased is waited for, and left out. @returns to how many */
export async function insertMails(trx: Trx, id: NoticeId, workspaceId: WorkspaceId): Promise<number> {
  const { rows } = await sql`
    insert into notice_mails (notice_id, user_id)
    select ${id}::text, m.user_id from workspace_members m join users u on u.id = m.user_id
    where m.workspace_id = ${workspaceId} and ${CONCERNED} order by u.id for key share of u
    returning user_id`.execute(trx)
  return rows.length
}

export interface MailKey {
  notice_id: NoticeId
  user_id: UserId
}

/** Mails that nobody has sent, or given up, of notices that hold and are news, after this one. By notice_mails_unsettled. */
export async function listUnsettled(
  executor: Executor,
  withinDays: number,
  page: { after: MailKey | undefined; limit: number },
): Promise<MailKey[]> {
  const { rows } = await sql<MailKey>`
    select s.notice_id, s.user_id from notice_mails s join notices n on n.id = s.notice_id
    where s.outcome is null and n.resolved_at is null and n.created_at > clock_timestamp() - ${days(withinDays)}
      and (s.notice_id, s.user_id) > (${page.after?.notice_id ?? ''}::text, ${page.after?.user_id ?? ''}::text)
    order by s.notice_id, s.user_id limit ${page.limit}`.execute(executor)
  return rows
}

export interface UnsettledMail extends Named {
  email: string
  /** The person still administers the workspace. */
  isConcerned: boolean
}

/** A mail that is to be sent; undefined once that is settled, and while its notice does not hold. Primary keys. */
export async function findUnsettled(executor: Executor, key: MailKey): Promise<UnsettledMail | undefined> {
  const { rows } = await sql<
    Selectable<NoticesTable> & {
      email: string
      label: string | null
      rotation_required_reason: string | null
      workspace_name: string
      is_concerned: boolean | null
    }
  >`
    select n.*, u.email, t.label, t.rotation_required_reason, w.name as workspace_name,
      w.archived_at is null and ${CONCERNED} as is_concerned
    from notice_mails s
    join notices n on n.id = s.notice_id
    join users u on u.id = s.user_id
    join workspaces w on w.id = n.workspace_id
    left join workspace_members m on m.workspace_id = n.workspace_id and m.user_id = s.user_id
    left join token_lines t on t.id = n.subject_id
    where s.notice_id = ${key.notice_id} and s.user_id = ${key.user_id} and s.outcome is null
      and n.resolved_at is null`.execute(executor)
  const [row] = rows
  return (
    row && {
      notice: toNotice(row),
      email: row.email,
      label: row.label,
      rotationReason: row.rotation_required_reason,
      workspaceName: row.workspace_name,
      isConcerned: row.is_concerned === true,
    }
  )
}

export async function settleMail(trx: Trx, key: MailKey, outcome: 'sent' | 'refused' | 'not_concerned'): Promise<void> {
  await sql`
    with settled as (
      update notice_mails set outcome = ${outcome}, settled_at = clock_timestamp()
      where notice_id = ${key.notice_id} and user_id = ${key.user_id} and outcome is null
      returning notice_id)
    update notices set mailed_at = clock_timestamp()
    where id in (select notice_id from settled) and mailed_at is null and ${outcome}::text = 'sent'`.execute(trx)
}

/** Open ones, oldest first. By notices_by_workspace. */
export async function listOpen(
  executor: Executor,
  workspaceId: WorkspaceId,
  page: { after?: string | undefined; limit?: number | undefined },
): Promise<Notice[]> {
  let query = executor
    .selectFrom('notices')
    .selectAll()
    .where('workspace_id', '=', workspaceId)
    .where('resolved_at', 'is', null)
    .orderBy('id')
  if (page.limit !== undefined) query = query.limit(page.limit)
  if (page.after !== undefined) query = query.where('id', '>', page.after as NoticeId) // any text sorts somewhere
  return (await query.execute()).map(toNotice)
}

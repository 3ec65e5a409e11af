// SQL of access reviews and what stands in them.
import { type RawBuilder, type Selectable, sql } from 'kysely'
import type { OrganizationId, ReviewId, ReviewItemId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type {
  AccessReviewsTable,
  ReviewDecision,
  ReviewItemKind,
  ReviewOutcome,
  ReviewReason,
} from '../store/tables.ts'
import type { Counts, Review, ReviewItem } from './rules.ts'

type ReviewRow = Selectable<AccessReviewsTable> & { is_due: boolean }

const IS_DUE = sql<boolean>`due_at <= clock_timestamp()`.as('is_due')

function toReview(row: ReviewRow): Review {
  return {
    id: row.id,
    organizationId: row.organization_id,
    workspaceId: row.workspace_id,
    reasons: row.reasons,
    openedBy: row.opened_by,
    openedAt: row.opened_at,
    dueAt: row.due_at,
    isDue: row.is_due,
    closedAt: row.closed_at,
    closedBy: row.closed_by,
  }
}

const inDays = (days: number) => sql<Date>`clock_timestamp() + make_interval(days => ${days}::int)`

/** Whether anything lets anybody in there. By connections_by_workspace and the lines' own index. */
export async function hasCredentials(executor: Executor, workspaceId: WorkspaceId): Promise<boolean> {
  const { rows } = await sql<{ has: boolean }>`
    select exists (select from connections where workspace_id = ${workspaceId} and closed_at is null)
      or exists (select from token_lines where workspace_id = ${workspaceId} and closed_at is null) as has`.execute(
    executor,
  )
  return rows[0]?.has === true
}

// --- Open ---------------------------------------------------------------------------------------------------------------

/** The open review of a workspace, locked to change it. By access_reviews_one_open. */
export async function lockOpenReview(trx: Trx, workspaceId: WorkspaceId): Promise<Review | undefined> {
  const row = await trx
    .selectFrom('access_reviews')
    .selectAll()
    .select(IS_DUE)
    .where('workspace_id', '=', workspaceId)
    .where('closed_at', 'is', null)
    .forUpdate()
    .executeTakeFirst()
  return row && toReview(row)
}

export async function insertReview(
  trx: Trx,
  review: {
    id: ReviewId
    organizationId: OrganizationId
    workspaceId: WorkspaceId
    reason: ReviewReason
    openedBy: string
    dueInDays: number
  },
): Promise<Review> {
  const row = await trx
    .insertInto('access_reviews')
    .values({
      id: review.id,
      organization_id: review.organizationId,
      workspace_id: review.workspaceId,
      reasons: [review.reason],
      opened_by: review.openedBy,
      due_at: inDays(review.dueInDays),
    })
    .returningAll()
    .returning(IS_DUE)
    .executeTakeFirstOrThrow()
  return toReview(row)
}

export interface NewItem {
  id: ReviewItemId
  kind: ReviewItemKind
  subjectId: string
  snapshot: Record<string, unknown>
}

const MOST_AT_ONCE = 500

export async function insertItems(trx: Trx, reviewId: ReviewId, items: readonly NewItem[]): Promise<void> {
  for (let from = 0; from < items.length; from += MOST_AT_ONCE) {
    const rows = items.slice(from, from + MOST_AT_ONCE).map((item) => ({
      id: item.id,
      review_id: reviewId,
      kind: item.kind,
      subject_id: item.subjectId,
      snapshot: JSON.stringify(item.snapshot),
    }))
    await trx.insertInto('access_review_items').values(rows).execute()
  }
}

/** Adds a reason to an open review; its date may only come nearer. */
export async function addReason(
  trx: Trx,
  id: ReviewId,
  change: { reason: ReviewReason; dueInDays: number | null },
): Promise<Review> {
  const row = await trx
    .updateTable('access_reviews')
    .set({
      reasons: sql<ReviewReason[]>`case when ${change.reason}::text = any(reasons) then reasons
        else reasons || ${change.reason}::text end`,
      ...(change.dueInDays === null ? {} : { due_at: sql<Date>`least(due_at, ${inDays(change.dueInDays)})` }),
    })
    .where('id', '=', id)
    .returningAll()
    .returning(IS_DUE)
    .executeTakeFirstOrThrow()
  return toReview(row)
}

/** Nothing is open there, and it is so many months since one was opened, or the workspace was made. */
function isToBeReviewed(months: number): RawBuilder<boolean> {
  return sql<boolean>`w.archived_at is null
    and greatest(w.created_at, (select max(r.opened_at) from access_reviews r where r.workspace_id = w.id))
      <= clock_timestamp() - make_interval(months => ${months}::int)
    and not exists (select 1 from access_reviews r where r.workspace_id = w.id and r.closed_at is null)`
}

/** Workspaces whose time has come. Reads all of them, by access_reviews_by_workspace. */
export async function listToBeReviewed(executor: Executor, months: number, limit: number): Promise<WorkspaceId[]> {
  const { rows } = await sql<{ id: WorkspaceId }>`
    select w.id from workspaces w where ${isToBeReviewed(months)} order by w.id limit ${limit}`.execute(executor)
  return rows.map(({ id }) => id)
}

/** The same of one, which is locked by now. */
export async function isStillToBeReviewed(trx: Trx, id: WorkspaceId, months: number): Promise<boolean> {
  const { rows } = await sql`select 1 from workspaces w where w.id = ${id} and ${isToBeReviewed(months)}`.execute(trx)
  return rows.length > 0
}

// --- Read ---------------------------------------------------------------------------------------------------------------

/** Newest first. By access_reviews_by_workspace. */
export async function listReviews(
  executor: Executor,
  workspaceId: WorkspaceId,
  page: { after?: string | undefined; limit?: number | undefined },
): Promise<Review[]> {
  let query = executor
    .selectFrom('access_reviews')
    .selectAll()
    .select(IS_DUE)
    .where('workspace_id', '=', workspaceId)
    .orderBy('id', 'desc')
  if (page.limit !== undefined) query = query.limit(page.limit)
  if (page.after !== undefined) query = query.where('id', '<', page.after as ReviewId) // any text sorts somewhere
  return (await query.execute()).map(toReview)
}

/** Primary key. */
export async function findReview(executor: Executor, id: string): Promise<Review | undefined> {
  const row = await executor
    .selectFrom('access_reviews')
    .selectAll()
    .select(IS_DUE)
    .where('id', '=', id as ReviewId) // an unknown text finds nothing
    .executeTakeFirst()
  return row && toReview(row)
}

/** Primary key. */
export async function findReport(executor: Executor, id: ReviewId): Promise<string | undefined> {
  const row = await executor.selectFrom('access_reviews').select('report').where('id', '=', id).executeTakeFirst()
  return row?.report ?? undefined
}

/** Locks a review: `share` while one of its items is decided, `update` to close it. Primary key. */
export async function lockReview(trx: Trx, id: string, mode: 'share' | 'update'): Promise<Review | undefined> {
  const query = trx
    .selectFrom('access_reviews')
    .selectAll()
    .select(IS_DUE)
    .where('id', '=', id as ReviewId) // an unknown text finds nothing
  const row = await (mode === 'share' ? query.forShare() : query.forUpdate()).executeTakeFirst()
  return row && toReview(row)
}

interface ItemRow {
  id: ReviewItemId
  review_id: ReviewId
  kind: ReviewItemKind
  subject_id: string
  snapshot: Record<string, unknown>
  decision: ReviewDecision | null
  note: string | null
  decided_by: string | null
  decided_at: Date | null
  outcome: ReviewOutcome | null
  is_ended: boolean
}

function toItem(row: ItemRow): ReviewItem {
  return {
    id: row.id,
    kind: row.kind,
    subjectId: row.subject_id,
    snapshot: row.snapshot,
    decision: row.decision,
    note: row.note,
    decidedBy: row.decided_by,
    decidedAt: row.decided_at,
    outcome: row.outcome,
    isEnded: row.is_ended,
  }
}

/** By primary keys. */
const ITEMS = sql`select i.*, coalesce(c.closed_at, t.closed_at) is not null as is_ended
  from access_review_items i
  left join connections c on c.id = i.subject_id
  left join token_lines t on t.id = i.subject_id`

/** In the order in which they were put in. By the unique index of an item's review. */
export async function listItems(executor: Executor, reviewId: ReviewId): Promise<ReviewItem[]> {
  const { rows } = await sql<ItemRow>`${ITEMS} where i.review_id = ${reviewId} order by i.id`.execute(executor)
  return rows.map(toItem)
}

/** What `countsOf` says of each of these reviews. By the unique index of an item's review. */
export async function listCounts(executor: Executor, reviewIds: readonly ReviewId[]): Promise<Map<string, Counts>> {
  const { rows } = await sql<{ review_id: ReviewId; items: number; undecided: number }>`
    select i.review_id, count(*)::int as items, count(*) filter (
      where i.outcome is null and i.decision is null and coalesce(c.closed_at, t.closed_at) is null)::int as undecided
    from access_review_items i
    left join connections c on c.id = i.subject_id
    left join token_lines t on t.id = i.subject_id
    where i.review_id = any(${[...reviewIds]}::text[]) group by i.review_id`.execute(executor)
  return new Map(
    rows.map(({ review_id, items, undecided }) => [review_id, { items, decided: items - undecided, undecided }]),
  )
}

/** Locks an item to decide it, or to settle it. Primary key. */
export async function lockItem(trx: Trx, reviewId: ReviewId, id: string): Promise<ReviewItem | undefined> {
  const { rows } = await sql<ItemRow>`
    ${ITEMS} where i.id = ${id} and i.review_id = ${reviewId} for update of i`.execute(trx)
  return rows[0] && toItem(rows[0])
}

/** What an item is about; it never changes. Primary key. */
export async function findSubject(executor: Executor, id: string): Promise<string | undefined> {
  const row = await executor
    .selectFrom('access_review_items')
    .select('subject_id')
    .where('id', '=', id as ReviewItemId) // an unknown text finds nothing
    .executeTakeFirst()
  return row?.subject_id
}

// --- Decide and close ---------------------------------------------------------------------------------------------------

export async function decideItem(
  trx: Trx,
  id: ReviewItemId,
  decided: { decision: ReviewDecision; note: string | null; by: string; outcome: ReviewOutcome | null },
): Promise<void> {
  await trx
    .updateTable('access_review_items')
    .set({
      decision: decided.decision,
      note: decided.note,
      decided_by: decided.by,
      decided_at: sql<Date>`clock_timestamp()`,
      outcome: decided.outcome,
    })
    .where('id', '=', id)
    .execute()
}

export async function settleItem(trx: Trx, id: ReviewItemId, outcome: ReviewOutcome): Promise<void> {
  await trx.updateTable('access_review_items').set({ outcome }).where('id', '=', id).execute()
}

/** Open reviews whose date has come. By access_reviews_due. */
export async function listDue(executor: Executor, limit: number): Promise<ReviewId[]> {
  const rows = await executor
    .selectFrom('access_reviews')
    .select('id')
    .where('closed_at', 'is', null)
    .where('due_at', '<=', sql<Date>`clock_timestamp()`)
    .orderBy('due_at')
    .limit(limit)
    .execute()
  return rows.map(({ id }) => id)
}

/** The review is locked by now, and open. */
export async function closeReview(
  trx: Trx,
  id: ReviewId,
  closing: { at: Date; by: string; report: string },
): Promise<void> {
  await trx
    .updateTable('access_reviews')
    .set({ closed_at: closing.at, closed_by: closing.by, report: closing.report })
    .where('id', '=', id)
    .execute()
}

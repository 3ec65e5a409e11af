// SQL of access reviews and what stands in them.
import { type RawBuilder, type Selectable, sql } from 'kysely'
import type { Actor, RequestInfo } from '../audit/service.ts'
import type { ConnectionId, OrganizationId, ReviewId, ReviewItemId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type {
  AccessReviewsTable,
  ReviewDecision,
  ReviewItemKind,
  ReviewOutcome,
  ReviewReason,
} from '../store/tables.ts'
import { type Counts, noOutcomes, type Outcomes, type Review, type ReviewItem, type Snapshot } from './rules.ts'

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

// --- Changes of a team ---------------------------------------------------------------------------------------------------

/** Where something lets somebody in. By connections_by_workspace and the lines' own index. */
const HAS_CREDENTIALS = sql`(exists (select from connections c where c.workspace_id = w.id and c.closed_at is null)
  or exists (select from token_lines t where t.workspace_id = w.id and t.closed_at is null))`

/** One that waits already stays as it is. */
export async function insertTeamChanges(
  trx: Trx,
  change: { workspaceIds: readonly WorkspaceId[]; actor: Actor; request: RequestInfo },
): Promise<void> {
  await sql`insert into team_changes (workspace_id, organization_id, actor, request)
    select w.id, w.organization_id, ${JSON.stringify(change.actor)}::jsonb, ${JSON.stringify(change.request)}::jsonb
    from workspaces w where w.id = any(${[...change.workspaceIds]}::text[]) and ${HAS_CREDENTIALS}
    on conflict (workspace_id) do nothing`.execute(trx)
}

/** Primary key. */
export async function listTeamChanges(
  executor: Executor,
  page: { after: WorkspaceId | undefined; limit: number },
): Promise<WorkspaceId[]> {
  const { rows } = await sql<{ workspace_id: WorkspaceId }>`select workspace_id from team_changes
    where workspace_id > ${page.after ?? ''} order by workspace_id limit ${page.limit}`.execute(executor)
  return rows.map(({ workspace_id }) => workspace_id)
}

/** Undefined where another process has taken it. Primary key. */
export async function takeTeamChange(
  trx: Trx,
  workspaceId: WorkspaceId,
): Promise<{ actor: Actor; request: RequestInfo } | undefined> {
  const { rows } = await sql<{ actor: Actor; request: RequestInfo }>`
    delete from team_changes where workspace_id = ${workspaceId} returning actor, request`.execute(trx)
  return rows[0]
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
  subject_id: string
  snapshot: Snapshot
}

const MOST_AT_ONCE = 1_000

/** What is in it already stays as it is. By the unique index of an item's review. @returns how many are new */
export async function insertItems(trx: Trx, reviewId: ReviewId, items: readonly NewItem[]): Promise<number> {
  let inserted = 0
  for (let from = 0; from < items.length; from += MOST_AT_ONCE) {
    const { numAffectedRows } = await sql`
      insert into access_review_items (id, review_id, kind, subject_id, snapshot)
      select id, ${reviewId}, kind, subject_id, snapshot
      from jsonb_to_recordset(${JSON.stringify(items.slice(from, from + MOST_AT_ONCE))}::jsonb)
        as given (id text, kind text, subject_id text, snapshot jsonb)
      on conflict (review_id, subject_id) do nothing`.execute(trx)
    inserted += Number(numAffectedRows ?? 0)
  }
  return inserted
}

/** What was kept, or called changed, is undecided again. By the unique index. @returns how many were */
export async function takeBackDecisions(trx: Trx, reviewId: ReviewId): Promise<number> {
  const { numUpdatedRows } = await trx
    .updateTable('access_review_items')
    .set({ decision: null, note: null, decided_by: null, decided_at: null, attested: null })
    .where('review_id', '=', reviewId)
    .where('outcome', 'is', null)
    .where('decision', 'is not', null)
    .executeTakeFirst()
  return Number(numUpdatedRows)
}

/**
 * Adds a reason to an open review.
 *
 * @param change.due its date comes nearer, but not nearer than `leastDays` from now: then it is put off
 */
export async function addReason(
  trx: Trx,
  id: ReviewId,
  change: { reason: ReviewReason; due: { inDays: number; leastDays: number } | null },
): Promise<Review> {
  const row = await trx
    .updateTable('access_reviews')
    .set({
      reasons: sql<ReviewReason[]>`case when ${change.reason}::text = any(reasons) then reasons
        else reasons || ${change.reason}::text end`,
      ...(change.due === null
        ? {}
        : {
            due_at: sql<Date>`greatest(least(due_at, ${inDays(change.due.inDays)}), ${inDays(change.due.leastDays)})`,
          }),
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
export async function listToBeReviewed(
  executor: Executor,
  months: number,
  page: { after: WorkspaceId | undefined; limit: number },
): Promise<WorkspaceId[]> {
  const { rows } = await sql<{ id: WorkspaceId }>`
    select w.id from workspaces w where w.id > ${page.after ?? ''} and ${isToBeReviewed(months)}
    order by w.id limit ${page.limit}`.execute(executor)
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
  snapshot: Snapshot
  granted: Snapshot
  attested: Snapshot | null
  is_wider: boolean
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
    granted: row.granted,
    attested: row.attested,
    isWider: row.is_wider,
    decision: row.decision,
    note: row.note,
    decidedBy: row.decided_by,
    decidedAt: row.decided_at,
    outcome: row.outcome,
    isEnded: row.is_ended,
  }
}

/** Items with what they are about. By primary keys. */
const FROM_ITEMS = sql`from access_review_items i
  left join connections c on c.id = i.subject_id
  left join token_lines t on t.id = i.subject_id
  left join token_policies p on p.workspace_id = i.subject_id`

const IS_ENDED = sql<boolean>`(coalesce(c.closed_at, t.closed_at) is not null)`

/** What `endOf` says of a line; null: no end. By the primary key of its versions. */
const LIFE = sql<Date | null>`(
  select case when bool_or(v.is_good) then case when not bool_or(v.is_good and v.expires_at is null) then max(v.expires_at) filter (where v.is_good) end
    else (array_agg(v.expires_at order by v.version desc))[1] end
  from (
    select version, expires_at, dead_at is null and version <= t.version
      and version >= case when t.cutover_at <= clock_timestamp() then t.version else t.floor end
      and (expires_at is null or expires_at > clock_timestamp()) as is_good
    from token_versions where token_id = t.id) v)`

/** As a snapshot says it. */
const GRANTED = sql<Snapshot>`case i.kind
  when 'connection' then jsonb_build_object(
    'resources', coalesce(c.approved -> 'resources', '{}'), 'suspended', c.suspended_at is not null)
  when 'token' then jsonb_build_object(
    'permissions', t.permissions, 'resources', t.resources, 'ip_allow_list', t.ip_allow_list,
    'suspended', t.suspended_at is not null,
    'expires_at', to_char(${LIFE} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
  else jsonb_build_object(
    'tokens_forbidden', coalesce(p.tokens_forbidden, false), 'expiry_required', coalesce(p.expiry_required, false),
    'max_age_days', p.max_age_days, 'environments', p.environments) end`

/** Lists of scopes, by API: of those one holds the other, or does not. */
const scopesIn = (resources: RawBuilder<unknown>) => sql`(
  select coalesce(jsonb_object_agg(api.key, to_jsonb(string_to_array(api.value, ' '))), '{}') from jsonb_each_text(${resources}) api)`

/** What was attested says at least what a connection lets in. */
const covers = (connection: RawBuilder<unknown>) => sql<boolean>`(
  ${scopesIn(sql`i.attested -> 'resources'`)} @> ${scopesIn(sql`${connection}.approved -> 'resources'`)}
  and (i.attested -> 'suspended' is distinct from 'true' or ${connection}.suspended_at is not null))`

/** The same of a token. What was attested says whole seconds. */
const COVERS_TOKEN = sql<boolean>`(
  i.attested @> jsonb_build_object('permissions', t.permissions, 'resources', t.resources, 'ip_allow_list', t.ip_allow_list)
  and (i.attested -> 'suspended' is distinct from 'true' or t.suspended_at is not null)
  and (i.attested ->> 'expires_at' is null
    or date_trunc('second', coalesce(${LIFE}, 'infinity')) <= (i.attested ->> 'expires_at')::timestamptz))`

/** What is less than what was attested, in scopes, permissions, addresses or life, stays attested; a policy must be the same. */
const IS_WIDER = sql<boolean>`(i.attested is not null and i.outcome is null and not case i.kind
  when 'connection' then ${covers(sql`c`)}
  when 'token' then ${COVERS_TOKEN}
  else i.attested @> ${GRANTED} and ${GRANTED} @> i.attested end)`

/** What `outcomeOf` says nothing of. */
const IS_UNDECIDED = sql<boolean>`(i.outcome is null and not ${IS_ENDED} and (i.decision is null or ${IS_WIDER}))`

const ITEMS = sql`select i.*, ${IS_ENDED} as is_ended, ${GRANTED} as granted, ${IS_WIDER} as is_wider ${FROM_ITEMS}`

export interface ItemPage {
  after?: string | undefined
  limit?: number | undefined
}

/** In the order in which they were put in. By the unique index of an item's review. */
export async function listItems(executor: Executor, reviewId: ReviewId, page: ItemPage = {}): Promise<ReviewItem[]> {
  const { rows } = await sql<ItemRow>`${ITEMS} where i.review_id = ${reviewId} and i.id > ${page.after ?? ''}
    order by i.id limit ${page.limit ?? null}::bigint`.execute(executor)
  return rows.map(toItem)
}

/** Primary key. */
export async function findItem(executor: Executor, reviewId: ReviewId, id: string): Promise<ReviewItem | undefined> {
  const { rows } = await sql<ItemRow>`${ITEMS} where i.id = ${id} and i.review_id = ${reviewId}`.execute(executor)
  return rows[0] && toItem(rows[0])
}

/** What `countsOf` says of each of these reviews. By the unique index of an item's review. */
export async function listCounts(executor: Executor, reviewIds: readonly ReviewId[]): Promise<Map<string, Counts>> {
  const { rows } = await sql<{ review_id: ReviewId; items: number; undecided: number }>`
    select i.review_id, count(*)::int as items, (count(*) filter (where ${IS_UNDECIDED}))::int as undecided
    ${FROM_ITEMS} where i.review_id = any(${[...reviewIds]}::text[]) group by i.review_id`.execute(executor)
  return new Map(
    rows.map(({ review_id, items, undecided }) => [review_id, { items, decided: items - undecided, undecided }]),
  )
}

export interface Tally {
  kinds: Record<ReviewItemKind, number>
  /** Of what is final. */
  outcomes: Outcomes
}

/** By the unique index of an item's review. */
export async function tallyItems(executor: Executor, reviewId: ReviewId): Promise<Tally> {
  const { rows } = await sql<{ kind: ReviewItemKind; outcome: ReviewOutcome | null; count: number }>`
    select kind, outcome, count(*)::int as count from access_review_items
    where review_id = ${reviewId} group by kind, outcome`.execute(executor)
  const tally: Tally = { kinds: { connection: 0, token: 0, token_policy: 0 }, outcomes: noOutcomes() }
  for (const { kind, outcome, count } of rows) {
    tally.kinds[kind] += count
    if (outcome !== null) tally.outcomes[outcome] += count
  }
  return tally
}

/** Locks an item to decide it. Primary key. */
export async function lockItem(trx: Trx, reviewId: ReviewId, id: string): Promise<ReviewItem | undefined> {
  const { rows } = await sql<ItemRow>`
    ${ITEMS} where i.id = ${id} and i.review_id = ${reviewId} for update of i`.execute(trx)
  return rows[0] && toItem(rows[0])
}

/** Locks items to settle them, in one order. Primary key. */
export async function lockItems(trx: Trx, ids: readonly ReviewItemId[]): Promise<ReviewItem[]> {
  const { rows } = await sql<ItemRow>`
    ${ITEMS} where i.id = any(${[...ids]}::text[]) order by i.id for update of i`.execute(trx)
  return rows.map(toItem)
}

/** Locks credentials, in one order, before what is decided of them: the lock order. By primary keys. */
export async function lockSubjects(trx: Trx, ids: readonly string[]): Promise<void> {
  await sql`select 1 from connections where id = any(${[...ids]}::text[]) order by id for update`.execute(trx)
  await sql`select 1 from token_lines where id = any(${[...ids]}::text[]) order by id for update`.execute(trx)
}

/** Credentials that nobody has attested; the first ones. By the unique index of an item's review. */
export async function listUnattested(
  executor: Executor,
  reviewId: ReviewId,
  limit: number,
): Promise<Array<{ id: ReviewItemId; subjectId: string }>> {
  const { rows } = await sql<{ id: ReviewItemId; subjectId: string }>`
    select i.id, i.subject_id as "subjectId" ${FROM_ITEMS}
    where i.review_id = ${reviewId} and i.kind <> 'token_policy' and ${IS_UNDECIDED}
    order by i.id limit ${limit}`.execute(executor)
  return rows
}

/** Items of earlier connections of the client and person of `n`, as `i` and `c`. */
const FROM_EARLIER = sql`from access_review_items i join connections c on c.id = i.subject_id
  where c.client_id = n.client_id and c.user_id is not distinct from n.user_id and c.id <> n.id`

/**
 * The open review that looks at an earlier connection of the same client and person; locked, so that it is not closed
 * meanwhile. By access_reviews_one_open and the unique index of its items.
 */
export async function lockOpenReviewOfSuccessor(trx: Trx, id: ConnectionId): Promise<ReviewId | undefined> {
  const { rows } = await sql<{ id: ReviewId }>`
    select r.id from connections n join access_reviews r on r.workspace_id = n.workspace_id and r.closed_at is null
    where n.id = ${id} and exists (select 1 ${FROM_EARLIER} and i.review_id = r.id)
    for share of r`.execute(trx)
  return rows[0]?.id
}

/** What was said of the connection before it counts for one that lets in no more. By the unique index of items. */
export async function takeOverAttestation(trx: Trx, reviewId: ReviewId, id: ConnectionId): Promise<void> {
  await sql`
    update access_review_items new set decision = i.decision, note = i.note, decided_by = i.decided_by,
      decided_at = i.decided_at, attested = i.attested
    from connections n, lateral (
      select i.* ${FROM_EARLIER} and i.review_id = ${reviewId} order by c.created_at desc limit 1) i
    where new.review_id = ${reviewId} and new.subject_id = n.id and n.id = ${id}
      and i.attested is not null and ${covers(sql`n`)}`.execute(trx)
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
  decided: {
    decision: ReviewDecision
    note: string | null
    by: string
    attested: Snapshot | null
    outcome: ReviewOutcome | null
  },
): Promise<void> {
  await trx
    .updateTable('access_review_items')
    .set({
      decision: decided.decision,
      note: decided.note,
      decided_by: decided.by,
      decided_at: sql<Date>`clock_timestamp()`,
      attested: decided.attested && JSON.stringify(decided.attested),
      outcome: decided.outcome,
    })
    .where('id', '=', id)
    .execute()
}

/** Primary key. */
export async function settleItems(
  trx: Trx,
  items: ReadonlyArray<{ id: ReviewItemId; outcome: ReviewOutcome }>,
): Promise<void> {
  await sql`update access_review_items i set outcome = settled.outcome
    from unnest(${items.map(({ id }) => id)}::text[], ${items.map(({ outcome }) => outcome)}::text[]) settled (id, outcome)
    where i.id = settled.id`.execute(trx)
}

/** Open reviews whose date has come. By access_reviews_due. */
export async function listDue(
  executor: Executor,
  page: { after: ReviewId | undefined; limit: number },
): Promise<ReviewId[]> {
  const { rows } = await sql<{ id: ReviewId }>`select id from access_reviews
    where closed_at is null and due_at <= clock_timestamp() and id > ${page.after ?? ''}
    order by id limit ${page.limit}`.execute(executor)
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

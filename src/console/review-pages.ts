// Access reviews of a workspace as pages, for its admins: the list of them, one review with all that is to be kept or
// revoked, and the page that ends a way in by it. Also what the people who administer a workspace are told of.
import Router from '@koa/router'
import type { Context } from 'koa'
import { AppError } from '../errors.ts'
import { namesOfSubjects } from '../evidence/service.ts'
import { field, formBody } from '../http/forms.ts'
import { isConnectionId, isKeyId } from '../ids.ts'
import { nameText } from '../organizations/schemas.ts'
import { listNotices } from '../reminders/service.ts'
import type { Review, ReviewItem } from '../reviews/rules.ts'
import {
  closeDecided,
  decideItem,
  getItem,
  getReport,
  getReview,
  listReviews,
  openReview,
  type ReviewsDeps,
  type ReviewView,
  tallyReview,
} from '../reviews/service.ts'
import { type Db, reading, readTime } from '../store/database.ts'
import { type Caller, listConnectionCallers, listTokenCallers } from '../uses/store.ts'
import { type Frame, leadToSignIn, placeOfWorkspace, type WorkspaceVisit } from './frame.ts'
import { namesOfMakers } from './names.ts'
import { attempt, done, noticeOf, oneOf } from './people.ts'
import { itemRow, type NoticeLine, nameOf, noticeLine, reviewRow, reviewView } from './review-views.ts'
import { callerRows } from './token-evidence.ts'
import { counted } from './token-times.ts'
import type { Names } from './token-views.ts'

export interface ReviewPagesDeps extends ReviewsDeps {
  frame: Frame
}

const PAGE = 20
const ITEMS_PAGE = 100
const MOST_NOTICES = 100

export function createReviewPages(deps: ReviewPagesDeps): Router {
  const router = new Router()
  const at = '/workspaces/:workspace_id/reviews'
  router.use(leadToSignIn)
  router.get(at, (ctx) => showReviews(deps, ctx))
  router.post(at, formBody, (ctx) => postReview(deps, ctx))
  router.get(`${at}/:review_id`, async (ctx) => sendReview(deps, ctx, await seen(deps, ctx)))
  router.get(`${at}/:review_id/report`, (ctx) => sendReport(deps, ctx))
  router.post(`${at}/:review_id/close`, formBody, (ctx) => postClose(deps, ctx))
  router.post(`${at}/:review_id/items/:item_id`, formBody, (ctx) => postDecision(deps, ctx))
  router.get(`${at}/:review_id/items/:item_id/revoke`, async (ctx) => sendRevocation(deps, ctx, await seen(deps, ctx)))
  router.post(`${at}/:review_id/items/:item_id/revoke`, formBody, (ctx) => postRevocation(deps, ctx))
  router.get('/workspaces/:workspace_id/notices', (ctx) => showNotices(deps, ctx))
  return router
}

const seen = async ({ frame }: ReviewPagesDeps, ctx: Context): Promise<WorkspaceVisit> =>
  frame.workspace(ctx, await frame.session(ctx), 'admin')
const changed = async ({ frame }: ReviewPagesDeps, ctx: Context): Promise<WorkspaceVisit> =>
  frame.workspace(ctx, await frame.posted(ctx), 'admin')

const placeOf = (visit: WorkspaceVisit) => `/workspaces/${visit.workspace.id}`
const reviewsOf = (visit: WorkspaceVisit) => `${placeOf(visit)}/reviews`
const reviewOf = (ctx: Context, visit: WorkspaceVisit) => `${reviewsOf(visit)}/${idIn(ctx, 'review_id')}`

/** What ids are made of: anything else names nothing, and is asked of no store. */
function idIn(ctx: Context, name: string): string {
  const id = String(ctx.params[name])
  if (!/^[0-9a-z_]{1,64}$/.test(id)) throw new AppError('not_found')
  return id
}

// --- The list -------------------------------------------------------------------------------------------------------------

async function showReviews(deps: ReviewPagesDeps, ctx: Context): Promise<void> {
  await sendReviews(deps, ctx, await seen(deps, ctx))
}

async function sendReviews(deps: ReviewPagesDeps, ctx: Context, visit: WorkspaceVisit, error?: string): Promise<void> {
  const base = reviewsOf(visit)
  const given = ctx.URL.searchParams.get('after') ?? ''
  const after = /^rev_[0-9a-z]{1,60}$/.test(given) ? given : undefined
  const found = await listReviews(deps.db, visit.workspace.id, { after, limit: PAGE + 1 })
  const shown = found.slice(0, PAGE)
  const rows = shown.map((view) => reviewRow(view, base))
  deps.frame.send(ctx, visit.session, 'reviews', placeOfWorkspace(visit, 'access'), {
    workspace: visit.workspace.name,
    action: base,
    error,
    rows,
    open: rows.find(({ isOpen }) => isOpen),
    newest: after === undefined ? undefined : base,
    older: found.length > PAGE ? `${base}?after=${shown.at(-1)?.review.id ?? ''}` : undefined,
    back: `${placeOf(visit)}/access`,
  })
}

async function postReview(deps: ReviewPagesDeps, ctx: Context): Promise<void> {
  const visit = await changed(deps, ctx)
  let opened: ReviewView | undefined
  const refused = await attempt(ctx, async () => {
    const reason = oneOf(['asked', 'incident'] as const, field(ctx, 'reason'), 'Choose why.')
    opened = await openReview(deps.db, {
      workspaceId: visit.workspace.id,
      reason,
      ...deps.frame.by(ctx, visit.session),
    })
  })
  if (opened !== undefined) return done(ctx, `${reviewsOf(visit)}/${opened.review.id}`)
  await sendReviews(deps, ctx, visit, refused?.detail)
}

// --- One review -----------------------------------------------------------------------------------------------------------

const NOTICES = {
  keep: 'Kept. Until the date, the last decision counts.',
  changed: 'Noted. Until the date, the last decision counts.',
  revoke: 'Revoked. Nothing of it is accepted any more.',
}

async function sendReview(deps: ReviewPagesDeps, ctx: Context, visit: WorkspaceVisit, error?: string): Promise<void> {
  const { db } = deps
  const after = pageIn(ctx)
  const id = idIn(ctx, 'review_id')
  const found = await getReview(db, visit.workspace.id, id, { after, limit: ITEMS_PAGE + 1 })
  const view = { ...found, items: found.items.slice(0, ITEMS_PAGE) }
  const [names, now, tally] = await Promise.all([
    namesIn(db, visit, view.review, view.items),
    reading(readTime(db)),
    tallyReview(db, view.review),
  ])
  const href = `${reviewsOf(visit)}/${view.review.id}`
  deps.frame.send(ctx, visit.session, 'review', placeOfWorkspace(visit, 'access'), {
    ...reviewView(view, tally, names, { base: placeOf(visit), now }),
    workspace: visit.workspace.name,
    action: href,
    page: queryOf({ after }),
    first: after === undefined ? undefined : href,
    next: found.items.length > ITEMS_PAGE ? `${href}${queryOf({ after: view.items.at(-1)?.id })}` : undefined,
    policyHref: `${placeOf(visit)}/settings/policy`,
    notice: noticeOf(ctx, NOTICES),
    error,
    back: reviewsOf(visit),
  })
}

/** Of the items of a review: the one before the first that is shown. */
function pageIn(ctx: Context): string | undefined {
  const given = ctx.URL.searchParams.get('after') ?? ''
  return /^rvi_[0-9a-z]{1,60}$/.test(given) ? given : undefined
}

function queryOf(values: Record<string, string | undefined>): string {
  const given = Object.entries(values).filter((entry): entry is [string, string] => entry[1] !== undefined)
  return given.length === 0 ? '' : `?${new URLSearchParams(given).toString()}`
}

/** The page of the review that somebody came from. */
function backTo(ctx: Context, visit: WorkspaceVisit, what?: keyof typeof NOTICES): void {
  ctx.status = 303
  ctx.redirect(`${reviewOf(ctx, visit)}${queryOf({ after: pageIn(ctx), done: what })}`)
}

function namesIn(db: Db, visit: WorkspaceVisit, review: Review, items: readonly ReviewItem[]): Promise<Names> {
  const owners = items.map(({ snapshot }) => (typeof snapshot.user_id === 'string' ? snapshot.user_id : null))
  const deciders = items.map(({ decidedBy }) => decidedBy)
  return namesOfMakers(db, visit.organization.id, [review.openedBy, review.closedBy, ...owners, ...deciders])
}

async function postDecision(deps: ReviewPagesDeps, ctx: Context): Promise<void> {
  const visit = await changed(deps, ctx)
  let decision: 'keep' | 'changed' = 'keep'
  const refused = await attempt(ctx, async () => {
    decision = oneOf(['keep', 'changed'] as const, field(ctx, 'decision'), 'Choose what is to happen.')
    const seen = field(ctx, 'granted_digest')
    await decideItem(deps, { ...askedOf(deps, ctx, visit), decision, note: null, seen })
  })
  if (refused === undefined) return backTo(ctx, visit, decision)
  await sendReview(deps, ctx, visit, refused.detail)
}

const askedOf = (deps: ReviewPagesDeps, ctx: Context, visit: WorkspaceVisit) => ({
  workspaceId: visit.workspace.id,
  reviewId: idIn(ctx, 'review_id'),
  itemId: idIn(ctx, 'item_id'),
  ...deps.frame.by(ctx, visit.session),
})

async function postClose(deps: ReviewPagesDeps, ctx: Context): Promise<void> {
  const visit = await changed(deps, ctx)
  const reviewId = idIn(ctx, 'review_id')
  const asked = { workspaceId: visit.workspace.id, reviewId, ...deps.frame.by(ctx, visit.session) }
  const refused = await attempt(ctx, () => closeDecided(deps, asked))
  if (refused === undefined) return done(ctx, reviewOf(ctx, visit))
  await sendReview(deps, ctx, visit, refused.detail)
}

async function sendReport(deps: ReviewPagesDeps, ctx: Context): Promise<void> {
  const visit = await seen(deps, ctx)
  const id = idIn(ctx, 'review_id')
  const { report, jws } = await getReport(deps.db, visit.workspace.id, id)
  ctx.body = `${JSON.stringify({ report, jws }, undefined, 2)}\n`
  ctx.set({
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Disposition': `attachment; filename="access-review-${id}.json"`,
    'Cache-Control': 'no-store',
  })
}

// --- Ending a way in by a review ------------------------------------------------------------------------------------------

async function sendRevocation(
  deps: ReviewPagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  problems: { note?: string; understood?: string; error?: string } = {},
): Promise<void> {
  const { db } = deps
  const { review, item } = await itemIn(db, ctx, visit)
  const [names, now, callers] = await Promise.all([
    namesIn(db, visit, review, [item]),
    reading(readTime(db)),
    callersOf(db, item.subjectId),
  ])
  const row = itemRow(item, review, names, { base: placeOf(visit), now })
  if (!row.mayRevoke) return backTo(ctx, visit)
  deps.frame.send(ctx, visit.session, 'review-revoke', placeOfWorkspace(visit, 'access'), {
    ...row,
    isToken: item.kind === 'token',
    callers: callerRows(callers, now),
    callersText: counted(callers.length, 'caller'),
    note: field(ctx, 'note'),
    problems,
    error: problems.error,
    action: `${reviewOf(ctx, visit)}/items/${item.id}/revoke${queryOf({ after: pageIn(ctx) })}`,
    back: `${reviewOf(ctx, visit)}${queryOf({ after: pageIn(ctx) })}`,
  })
}

/** The policy is nothing to be revoked. */
async function itemIn(db: Db, ctx: Context, visit: WorkspaceVisit): Promise<{ review: Review; item: ReviewItem }> {
  const { review } = await getReview(db, visit.workspace.id, idIn(ctx, 'review_id'), { limit: 0 })
  const item = await getItem(db, review, idIn(ctx, 'item_id'))
  if (item.kind === 'token_policy') throw new AppError('not_found')
  return { review, item }
}

async function callersOf(db: Db, id: string): Promise<Caller[]> {
  if (isKeyId(id)) return reading(listTokenCallers(db, id))
  return isConnectionId(id) ? reading(listConnectionCallers(db, id)) : []
}

async function postRevocation(deps: ReviewPagesDeps, ctx: Context): Promise<void> {
  const visit = await changed(deps, ctx)
  const { item } = await itemIn(deps.db, ctx, visit)
  const given = field(ctx, 'note').trim()
  const note = given === '' ? null : nameText.safeParse(given).data
  const isUsed = (await callersOf(deps.db, item.subjectId)).length > 0
  const problems = {
    ...(note === undefined ? { note: 'One line of at most 120 characters, and no token.' } : {}),
    ...(isUsed && field(ctx, 'understood') !== 'yes' ? { understood: 'Check this first: it is in use.' } : {}),
  }
  if (note === undefined || problems.understood !== undefined) {
    ctx.status = 400
    return sendRevocation(deps, ctx, visit, problems)
  }
  const refused = await attempt(ctx, () => decideItem(deps, { ...askedOf(deps, ctx, visit), decision: 'revoke', note }))
  if (refused === undefined) return backTo(ctx, visit, 'revoke')
  await sendReview(deps, ctx, visit, `${nameOf(item)}: ${refused.detail}`)
}

// --- Notices --------------------------------------------------------------------------------------------------------------

async function showNotices(deps: ReviewPagesDeps, ctx: Context): Promise<void> {
  const visit = await seen(deps, ctx)
  const given = ctx.URL.searchParams.get('after') ?? ''
  const after = /^ntc_[0-9a-z]{1,60}$/.test(given) ? given : undefined
  const { lines, next } = await noticesOf(deps.db, visit.workspace, after)
  deps.frame.send(ctx, visit.session, 'notices', placeOfWorkspace(visit, 'access'), {
    workspace: visit.workspace.name,
    lines,
    first: after === undefined ? undefined : `${placeOf(visit)}/notices`,
    next: next === undefined ? undefined : `${placeOf(visit)}/notices?after=${next}`,
    back: `${placeOf(visit)}/access`,
  })
}

type Named = Pick<WorkspaceVisit['workspace'], 'id' | 'organization_id'>

/** What the people who administer a workspace are told of and is still so, oldest first. They have been let in by now. */
export async function noticesOf(
  db: Db,
  workspace: Named,
  after?: string,
): Promise<{ lines: NoticeLine[]; next: string | undefined }> {
  const found = await listNotices(db, workspace.id, { after, limit: MOST_NOTICES + 1 })
  const shown = found.slice(0, MOST_NOTICES)
  const subjects = shown.map(({ subjectId }) => subjectId)
  const labels = await namesOfSubjects(db, workspace.organization_id, subjects)
  return {
    lines: shown.map((notice) => noticeLine(notice, labels)),
    next: found.length > MOST_NOTICES ? shown.at(-1)?.id : undefined,
  }
}

const MOST_SHOWN = 3

/**
 * For the Access page: the review that is open, and the first notices that do not stand on that page already. The caller
 * has been let in by now.
 */
export async function attentionOf(db: Db, workspace: Named, isShown: (href: string) => boolean) {
  const base = `/workspaces/${workspace.id}`
  const [[newest], { lines, next }] = await Promise.all([
    listReviews(db, workspace.id, { limit: 1 }), // one that is open is the newest
    noticesOf(db, workspace),
  ])
  const row = newest && reviewRow(newest, `${base}/reviews`)
  const others = lines.filter(({ href }) => !isShown(href) && href !== row?.href)
  const hidden = others.length - MOST_SHOWN
  return {
    reviewsHref: `${base}/reviews`,
    review: row?.isOpen ? row : undefined,
    lines: others.slice(0, MOST_SHOWN),
    more: hidden > 0 || next !== undefined ? { href: `${base}/notices`, text: 'See all of them' } : undefined,
  }
}

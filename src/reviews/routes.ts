// Access reviews over the JSON API: opened, decided item by item, closed; and their reports.
import { z } from 'zod'
import { ANY_CREDENTIAL, type Route, type Rule, route, workspaceOf } from '../api/route.ts'
import { pageQuery, workspaceParams } from '../organizations/schemas.ts'
import * as shapes from './schemas.ts'
import {
  closeDecided,
  decideItem,
  getReport,
  getReview,
  listReviews,
  MOST_ITEMS,
  openReview,
  type ReviewsDeps,
} from './service.ts'

const TAG = 'Access reviews'
const SEE: Rule = { who: 'workspace', permission: 'read', role: 'admin', credentials: ANY_CREDENTIAL }
const CHANGE: Rule = { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL }

export function reviewRoutes(deps: ReviewsDeps): Route[] {
  return [...readingRoutes(deps), ...changingRoutes(deps)]
}

function readingRoutes({ db }: ReviewsDeps): Route[] {
  return [
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/reviews',
      operationId: 'listReviews',
      summary: 'List the access reviews of a workspace, newest first',
      tag: TAG,
      rule: SEE,
      params: workspaceParams,
      query: pageQuery,
      answers: { 200: { description: 'Access reviews', schema: z.array(shapes.reviewShape) } },
      async handle({ reach, query, pages }) {
        const page = { after: pages.after(query.cursor), limit: query.limit && query.limit + 1 }
        const found = await listReviews(db, workspaceOf(reach).id, page)
        return { status: 200, body: pages.cut(found, query.limit, ({ review }) => review.id).map(shapes.presentReview) }
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/reviews/:review_id',
      operationId: 'getReview',
      summary: 'Show an access review, and what is decided of each way in',
      description: 'A page of its items: 500 where no limit is given. The next page is in the Link header.',
      tag: TAG,
      rule: SEE,
      params: shapes.reviewParams,
      query: pageQuery,
      answers: { 200: { description: 'The review', schema: shapes.reviewDetailShape } },
      async handle({ reach, params, query, pages }) {
        const limit = query.limit ?? MOST_ITEMS
        const page = { after: pages.after(query.cursor), limit: limit + 1 }
        const view = await getReview(db, workspaceOf(reach).id, params.review_id, page)
        const items = pages.cut(view.items, limit, ({ id }) => id)
        return { status: 200, body: shapes.presentReviewDetail({ ...view, items }) }
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/reviews/:review_id/report',
      operationId: 'getReviewReport',
      summary: 'The outcome of a closed access review, signed',
      tag: TAG,
      rule: SEE,
      params: shapes.reviewParams,
      answers: { 200: { description: 'The report', schema: shapes.reportShape } },
      async handle({ reach, params }) {
        return { status: 200, body: await getReport(db, workspaceOf(reach).id, params.review_id) }
      },
    }),
  ]
}

function changingRoutes(deps: ReviewsDeps): Route[] {
  return [
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/reviews',
      operationId: 'openReview',
      summary: 'Open an access review',
      description:
        'At most one is open: asked for again, it has one more reason. After an incident its date comes nearer, what was made since is taken in, and what was kept is undecided again: a day at least is left to decide it. A credential of the workspace tells of no incident.',
      tag: TAG,
      rule: CHANGE,
      params: workspaceParams,
      body: shapes.newReview,
      answers: {
        200: { description: 'One was open already', schema: shapes.reviewDetailShape },
        201: { description: 'Opened', schema: shapes.reviewDetailShape },
      },
      async handle({ params, body, by }) {
        const opened = await openReview(deps.db, {
          workspaceId: params.workspace_id,
          reason: body.reason ?? 'asked',
          dueInDays: body.due_in_days,
          ...by,
        })
        return { status: opened.isNew ? 201 : 200, body: shapes.presentReviewDetail(opened) }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/reviews/:review_id/items/:item_id',
      operationId: 'decideReviewItem',
      summary: 'Keep or revoke what an item is about',
      description:
        'What is revoked has ended, at once and for good. Until the date the last decision counts. A credential of the workspace may revoke, and attests nothing.',
      tag: TAG,
      rule: CHANGE,
      params: shapes.reviewItemParams,
      body: shapes.newDecision,
      answers: { 200: { description: 'Decided', schema: shapes.itemShape } },
      async handle({ params, body, by }) {
        const item = await decideItem(deps, {
          workspaceId: params.workspace_id,
          reviewId: params.review_id,
          itemId: params.item_id,
          decision: body.decision,
          note: body.note ?? null,
          seen: body.granted_digest,
          ...by,
        })
        return { status: 200, body: shapes.presentItem(item) }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/reviews/:review_id/close',
      operationId: 'closeReview',
      summary: 'Close an access review whose items are all decided',
      description: 'Not with a credential of the workspace.',
      tag: TAG,
      rule: CHANGE,
      params: shapes.reviewParams,
      body: z.strictObject({}),
      answers: { 200: { description: 'Closed', schema: shapes.reviewDetailShape } },
      async handle({ params, by }) {
        const view = await closeDecided(deps, {
          workspaceId: params.workspace_id,
          reviewId: params.review_id,
          ...by,
        })
        return { status: 200, body: shapes.presentReviewDetail(view) }
      },
    }),
  ]
}

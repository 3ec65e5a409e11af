// Notices of a workspace over the JSON API.
import { z } from 'zod'
import { ANY_CREDENTIAL, type Route, route, workspaceOf } from '../api/route.ts'
import { pageQuery, workspaceParams } from '../organizations/schemas.ts'
import type { Db } from '../store/database.ts'
import { noticeShape, presentNotice } from './schemas.ts'
import { listNotices } from './service.ts'

export function noticeRoutes({ db }: { db: Db }): Route[] {
  return [
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/notices',
      operationId: 'listNotices',
      summary: 'List what the people who administer a workspace are told of, and is still so',
      tag: 'Access reviews',
      rule: { who: 'workspace', permission: 'read', role: 'admin', credentials: ANY_CREDENTIAL },
      params: workspaceParams,
      query: pageQuery,
      answers: { 200: { description: 'Notices', schema: z.array(noticeShape) } },
      async handle({ reach, query, pages }) {
        const page = { after: pages.after(query.cursor), limit: query.limit && query.limit + 1 }
        const found = await listNotices(db, workspaceOf(reach).id, page)
        return { status: 200, body: pages.cut(found, query.limit, ({ id }) => id).map(presentNotice) }
      },
    }),
  ]
}

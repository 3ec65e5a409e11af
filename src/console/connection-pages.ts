// Ending a connection, or making it sign a new token, on a page of its own that says who would notice: from the Access page
// of its workspace, or from the list of what a person approved themselves.
import Router from '@koa/router'
import type { Context } from 'koa'
import {
  type Asked,
  type AskedByOwner,
  type ConnectionView,
  disconnect,
  findOpenConnection,
  makeItSignAnew,
  suspendConnection,
} from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { field, formBody } from '../http/forms.ts'
import { namesOf } from '../members/service.ts'
import type { BrowserSession } from '../oauth/browser-sessions.ts'
import { isAtLeast } from '../organizations/rules.ts'
import type { RevocationList } from '../revocation/service.ts'
import { type Db, reading } from '../store/database.ts'
import { listConnectionCallers } from '../uses/store.ts'
import { endingOf } from './connection-views.ts'
import { type Frame, leadToSignIn, type PlacedPage, placeOfAccount, placeOfWorkspace } from './frame.ts'
import { done } from './people.ts'
import { type Maker, makerOf } from './token-views.ts'

export interface ConnectionPagesDeps {
  db: Db
  revocations: RevocationList
  frame: Frame
}

export function createConnectionPages(deps: ConnectionPagesDeps): Router {
  const router = new Router()
  router.use(leadToSignIn)
  for (const [path, open] of [
    ['/workspaces/:workspace_id/connections/:connection_id', openInWorkspace],
    ['/account/connections/:connection_id', openOwn],
  ] as const) {
    router.get(path, async (ctx) => {
      const visit = await open(deps, ctx, await deps.frame.session(ctx))
      return isOpen(visit) ? show(deps, ctx, visit) : showEnded(deps, ctx, visit)
    })
    router.post(path, formBody, async (ctx) => {
      const visit = await open(deps, ctx, await deps.frame.posted(ctx))
      return isOpen(visit) ? postChange(deps, ctx, visit) : showEnded(deps, ctx, visit)
    })
  }
  return router
}

/** The place from which somebody looks at a connection that they may end. */
interface Place {
  session: BrowserSession
  framed: PlacedPage
  back: string
  backText: string
}

interface Visit extends Place {
  connection: ConnectionView
  /** Who changes it, as what. */
  asked: Asked | AskedByOwner
  /** Only an admin ends or restores what is suspended. */
  isAdmin: boolean
  /** What is said of it there. */
  words: { verb: string; isOwn: boolean; approvedBy: Maker | undefined }
  action: string
}

const isOpen = (visit: Place | Visit): visit is Visit => 'connection' in visit

/** Whoever approved a connection may end it, and an admin any. */
async function openInWorkspace(
  deps: ConnectionPagesDeps,
  ctx: Context,
  session: BrowserSession,
): Promise<Place | Visit> {
  const visit = await deps.frame.workspace(ctx, session, 'member')
  const { workspace } = visit
  const base = `/workspaces/${workspace.id}`
  const place = {
    session,
    framed: placeOfWorkspace(visit, 'access'),
    back: `${base}/access`,
    backText: 'Back to Access',
  }
  const connection = await findOpenConnection(deps.db, { workspaceId: workspace.id }, idOf(ctx))
  if (connection === undefined) return place
  const { id, userId } = connection
  const isOwn = userId === session.userId
  if (!isOwn && !isAtLeast(visit.role, 'admin')) throw new AppError('role_too_low')
  const names = await namesOf(deps.db, workspace.organization_id, [userId])
  return {
    ...place,
    connection,
    asked: { workspaceId: workspace.id, id, ...deps.frame.by(ctx, session) },
    isAdmin: isAtLeast(visit.role, 'admin'),
    words: { verb: 'Revoke', isOwn, approvedBy: userId === null ? undefined : makerOf(userId, names) },
    action: `${base}/connections/${id}`,
  }
}

/** What somebody approved themselves they may end, whatever they are in its workspace by now. */
async function openOwn(deps: ConnectionPagesDeps, ctx: Context, session: BrowserSession): Promise<Place | Visit> {
  const place = {
    session,
    framed: placeOfAccount('connections'),
    back: '/account/connections',
    backText: 'Back to your connections',
  }
  const connection = await findOpenConnection(deps.db, { userId: session.userId }, idOf(ctx))
  if (connection === undefined) return place
  return {
    ...place,
    connection,
    asked: { id: connection.id, ...deps.frame.by(ctx, session) },
    isAdmin: false,
    words: { verb: 'Disconnect', isOwn: true, approvedBy: { text: session.account.name, isId: false } },
    action: `/account/connections/${connection.id}`,
  }
}

/** The same for one that has ended, one that is somebody else's, and one that never was. */
function showEnded({ frame }: ConnectionPagesDeps, ctx: Context, { session, framed, back, backText }: Place): void {
  frame.send(ctx, session, 'connection-ended', framed, { back, backText })
  ctx.status = 404
}

const idOf = (ctx: Context) => String(ctx.params.connection_id)

async function show(deps: ConnectionPagesDeps, ctx: Context, visit: Visit, understoodError?: string): Promise<void> {
  const { connection, words, action, back } = visit
  deps.frame.send(ctx, visit.session, 'connection', visit.framed, {
    ...endingOf(connection, await callersOf(deps, visit)),
    ...words,
    isAdmin: visit.isAdmin,
    action,
    back,
    understoodError,
  })
  if (understoodError !== undefined) ctx.status = 400
}

const callersOf = ({ db }: ConnectionPagesDeps, { connection }: Visit) =>
  reading(listConnectionCallers(db, connection.id))

async function postChange(deps: ConnectionPagesDeps, ctx: Context, visit: Visit): Promise<void> {
  const what = field(ctx, 'what')
  if (what === 'sign_anew') {
    await makeItSignAnew(deps.revocations, visit.asked)
    return done(ctx, visit.back, 'signs_anew')
  }
  if (what === 'restore' && 'workspaceId' in visit.asked) {
    await suspendConnection(deps.revocations, { ...visit.asked, suspended: false })
    return done(ctx, visit.back, 'restored')
  }
  if (what !== 'revoke') throw new AppError('invalid_request', { detail: 'Choose what is to happen.' })
  if (field(ctx, 'understood') !== 'yes' && (await callersOf(deps, visit)).length > 0)
    return show(deps, ctx, visit, 'Check this first: it is in use.')
  await disconnect(deps.revocations, visit.asked)
  done(ctx, visit.back, 'disconnected')
}

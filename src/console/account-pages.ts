// Pages about oneself: who one is here, and the apps that one connected, in every workspace and organization.
import Router from '@koa/router'
import type { Context } from 'koa'
import { listOwnConnections } from '../connections/service.ts'
import type { Db } from '../store/database.ts'
import { NOTICES, ownRowOf } from './connection-views.ts'
import { type Frame, leadToSignIn, placeOfAccount } from './frame.ts'
import { noticeOf } from './people.ts'
import { counted } from './token-times.ts'

export interface AccountPagesDeps {
  db: Db
  frame: Frame
}

export function createAccountPages(deps: AccountPagesDeps): Router {
  const router = new Router()
  router.use(leadToSignIn)
  router.get('/account', (ctx) => showAccount(deps, ctx))
  router.get('/account/connections', (ctx) => showConnections(deps, ctx))
  return router
}

async function showAccount(deps: AccountPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const connections = await listOwnConnections(deps.db, session.userId)
  deps.frame.send(ctx, session, 'account', placeOfAccount(''), {
    name: session.account.name,
    email: session.account.email,
    connections: connections.length === 0 ? undefined : counted(connections.length, 'connection'),
  })
}

async function showConnections(deps: AccountPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const connections = await listOwnConnections(deps.db, session.userId)
  deps.frame.send(ctx, session, 'account-connections', placeOfAccount('connections'), {
    notice: noticeOf(ctx, NOTICES),
    count: connections.length.toLocaleString('en'),
    rows: connections.map((view) => ownRowOf(view, `/account/connections/${view.id}`)),
  })
}

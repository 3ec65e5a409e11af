// Signing out everywhere: a page that says what ends and what stays, and the change itself.
import Router from '@koa/router'
import type { Context } from 'koa'
import { signOutEverywhere } from '../accounts/service.ts'
import { listOwnConnections } from '../connections/service.ts'
import { formBody } from '../http/forms.ts'
import { sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import { listKnowingClients } from '../logout/service.ts'
import type { BrowserSessions } from '../oauth/browser-sessions.ts'
import type { RevocationList } from '../revocation/service.ts'
import type { Db } from '../store/database.ts'
import { type Frame, leadToSignIn, placeOfAccount } from './frame.ts'
import type { Pages } from './pages.ts'
import { listed } from './people.ts'
import { atDay, counted } from './token-times.ts'

export interface AccountSignOutDeps {
  db: Db
  issuer: string
  revocations: RevocationList
  sessions: BrowserSessions
  frame: Frame
  pages: Pages
}

const AT = '/account/sign-out-everywhere'

export function createAccountSignOut(deps: AccountSignOutDeps): Router {
  const router = new Router()
  router.use(leadToSignIn)
  router.get(AT, (ctx) => show(deps, ctx))
  router.post(AT, formBody, (ctx) => post(deps, ctx))
  return router
}

async function show(deps: AccountSignOutDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const [connections, knowing] = await Promise.all([
    listOwnConnections(deps.db, session.userId),
    listKnowingClients(deps.db, session.userId),
  ])
  const count = connections.length
  deps.frame.send(ctx, session, 'account-sign-out', placeOfAccount(''), {
    connections: connections.map((connection) => ({
      app: connection.client.name,
      workspace: connection.workspace.name,
      since: atDay(connection.createdAt),
    })),
    ends: `Every browser session of yours, this one too${count === 0 ? '.' : `; and the short-lived tokens of ${count === 1 ? 'your connection' : `your ${counted(count, 'connection')}`}.`}`,
    stays:
      count === 0
        ? 'Tokens that you made: they are the workspaces’.'
        : `The ${count === 1 ? 'connection itself' : 'connections themselves'}: an app that renews its tokens goes on by itself, any other asks you again. Tokens that you made stay too: they are the workspaces’.`,
    told: listed(knowing),
    connectionsHref: '/account/connections',
    action: AT,
    back: '/account',
  })
}

/** The answer is the page itself: the session that could be led to another one has ended. */
async function post(deps: AccountSignOutDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const { connections, told } = await signOutEverywhere(deps, {
    user: session.userId,
    signedInAt: session.signedInAt,
    actor: { kind: 'user', id: session.userId },
    request: requestInfo(ctx),
  })
  await deps.sessions.end(ctx)
  const stayed = connections === 1 ? 'connection' : counted(connections, 'connection')
  const everywhere = { connections: connections > 0 ? stayed : undefined, isTold: told > 0 }
  sendPage(ctx, deps.pages.signedOut({ host: new URL(deps.issuer).host, everywhere }))
}

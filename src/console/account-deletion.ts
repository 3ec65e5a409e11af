// Deleting one's account: a page that says what ends and what is left, and the change itself, which takes the address typed
// and a sign-in from just now.
import Router from '@koa/router'
import type { Context } from 'koa'
import { emailKey } from '../accounts/rules.ts'
import { eraseAccount, previewErasure } from '../erasure/service.ts'
import { AppError } from '../errors.ts'
import { field, formBody } from '../http/forms.ts'
import { sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import type { MembersDeps } from '../members/service.ts'
import type { BrowserSession, BrowserSessions } from '../oauth/browser-sessions.ts'
import { lastOwnerDetail } from '../ownership/service.ts'
import { type Frame, leadToSignIn, placeOfAccount } from './frame.ts'
import type { Pages } from './pages.ts'
import { attempt, listed } from './people.ts'
import { atDay, counted } from './token-times.ts'

export interface AccountDeletionDeps extends MembersDeps {
  issuer: string
  sessions: BrowserSessions
  frame: Frame
  pages: Pages
}

const AT = '/account/delete'

export function createAccountDeletion(deps: AccountDeletionDeps): Router {
  const router = new Router()
  router.use(leadToSignIn)
  router.get(AT, async (ctx) => {
    const session = await deps.frame.session(ctx)
    deps.frame.requireRecentSignIn(session)
    await show(deps, ctx, session)
  })
  router.post(AT, formBody, (ctx) => post(deps, ctx))
  return router
}

async function show(
  deps: AccountDeletionDeps,
  ctx: Context,
  session: BrowserSession,
  refused: { error?: string; emailError?: string } = {},
): Promise<void> {
  const preview = await previewErasure(deps, session.userId)
  const { connections, tokens, invitations, lastOwnerOf, organizations } = preview
  deps.frame.send(ctx, session, 'account-delete', placeOfAccount(''), {
    ...refused,
    email: session.account.email,
    problem: lastOwnerOf.length > 0 ? lastOwnerDetail(lastOwnerOf, 'You are') : undefined,
    connections: connections.map(({ client_name, workspace_name, since }) => ({
      app: client_name,
      workspace: workspace_name,
      since: atDay(since),
    })),
    leaves: listed(organizations.map(({ name }) => name)),
    tokens: tokens.length === 0 ? undefined : counted(tokens.length, 'token'),
    invitations: invitations === 0 ? undefined : counted(invitations, 'invitation'),
    action: AT,
    back: '/account',
  })
}

/** The answer is the page itself: there is no session left that could be led to another one. */
async function post(deps: AccountDeletionDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  if (emailKey(field(ctx, 'email')) !== emailKey(session.account.email)) {
    await show(deps, ctx, session, { emailError: 'Type the address of this account.' })
    ctx.status = 400
    return
  }
  const refused = await attempt(ctx, () =>
    eraseAccount(deps, {
      user: session.userId,
      signedInAt: session.signedInAt,
      actor: { kind: 'user', id: session.userId },
      request: requestInfo(ctx),
    }),
  )
  if (refused instanceof AppError) {
    const { status } = ctx
    await show(deps, ctx, session, { error: refused.detail })
    ctx.status = status
    return
  }
  await deps.sessions.end(ctx)
  sendPage(ctx, deps.pages.signedOut({ host: new URL(deps.issuer).host, erased: true }))
}

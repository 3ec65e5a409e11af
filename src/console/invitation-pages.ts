// Where an invited person arrives: says what they were asked into, and lets them in, with the account that they have or
// with a new one.
import Router from '@koa/router'
import type { Context } from 'koa'
import { emailKey } from '../accounts/rules.ts'
import type { AccountsDeps } from '../accounts/service.ts'
import { findUser } from '../accounts/store.ts'
import { digestOf, Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { type FormTokens, field, formBody } from '../http/forms.ts'
import { sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import { accept, acceptAsNew, findByLink } from '../invitations/service.ts'
import type { InvitationRow } from '../invitations/store.ts'
import type { BrowserSessions } from '../oauth/browser-sessions.ts'
import { nameText } from '../organizations/schemas.ts'
import { type Db, reading } from '../store/database.ts'
import type { Frame } from './frame.ts'
import type { Pages } from './pages.ts'
import { done } from './people.ts'

export interface InvitationPagesDeps {
  db: Db
  issuer: string
  accounts: AccountsDeps
  frame: Frame
  pages: Pages
  sessions: BrowserSessions
  formTokens: FormTokens
}

export function createInvitationPages(deps: InvitationPagesDeps): Router {
  const router = new Router({ prefix: '/invitations/:secret' })
  router.get('/', (ctx) => show(deps, ctx))
  router.post('/accept', formBody, (ctx) => postAccept(deps, ctx))
  router.post('/join', formBody, (ctx) => postJoin(deps, ctx))
  router.get(['/accept', '/join'], (ctx) => done(ctx, `/invitations/${ctx.params.secret}`))
  return router
}

/** The link's secret; a text of any other form leads nowhere. */
function secretOf(ctx: Context): string {
  const secret: unknown = ctx.params.secret
  if (typeof secret !== 'string' || !/^[\w-]{43}$/.test(secret)) throw new AppError('not_found')
  return secret
}

const purposeOf = (secret: string) => `invitation ${digestOf(secret)}`

/** An account that could not be opened, beside the form that asked for it. */
interface Refused {
  status: number
  errors: { name?: string; password?: string }
  name: string
}

async function show(deps: InvitationPagesDeps, ctx: Context, refused?: Refused): Promise<void> {
  const secret = secretOf(ctx)
  const found = await findByLink(deps.db, secret)
  if (found === undefined)
    throw new AppError('not_found', { detail: 'This invitation was used, withdrawn, or is over.' })
  const session = await deps.sessions.find(ctx)
  const hasAccount = (await reading(findUser(deps.db, found.invitation.email))) !== undefined
  const base = `/invitations/${secret}`
  const state =
    session !== undefined
      ? emailKey(session.account.email) === found.invitation.email_key
        ? 'accept'
        : 'other_person'
      : hasAccount
        ? 'sign_in'
        : 'join'
  const html = deps.pages.invitation({
    host: new URL(deps.issuer).host,
    organizationName: found.organizationName,
    workspaceName: found.workspaceName,
    role: found.invitation.role,
    email: found.invitation.email,
    state,
    signedInAs: session?.account.email,
    acceptAction: `${base}/accept`,
    joinAction: `${base}/join`,
    signInHref: `/sign-in?${new URLSearchParams({ return_to: base })}`,
    sessionCsrf: session?.csrf ?? '',
    csrf: deps.formTokens.issue(purposeOf(secret)),
    errors: refused?.errors,
    name: refused?.name,
  })
  sendPage(ctx, html)
  if (refused !== undefined) ctx.status = refused.status
}

async function postAccept(deps: InvitationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const invitation = await accept(deps.db, {
    secret: secretOf(ctx),
    userId: session.userId,
    request: requestInfo(ctx),
  })
  done(ctx, placeOf(invitation))
}

async function postJoin(deps: InvitationPagesDeps, ctx: Context): Promise<void> {
  const secret = secretOf(ctx)
  deps.formTokens.check(ctx, purposeOf(secret))
  const typed = field(ctx, 'name')
  const name = nameText.safeParse(typed)
  if (!name.success) {
    const errors = { name: 'Tell us your name, in up to 120 characters.' }
    return show(deps, ctx, { status: 400, errors, name: typed })
  }
  try {
    const { invitation, userId } = await acceptAsNew(deps.accounts, {
      secret,
      name: name.data,
      password: new Secret(field(ctx, 'password')),
      request: requestInfo(ctx),
    })
    await deps.sessions.open(ctx, { userId, email: invitation.email, signedInAt: Math.floor(Date.now() / 1000) })
    done(ctx, placeOf(invitation))
  } catch (error) {
    if (!(error instanceof AppError) || !['invalid_request', 'conflict'].includes(error.code)) throw error
    await show(deps, ctx, { status: error.status, errors: { password: error.detail }, name: typed })
  }
}

function placeOf(invitation: InvitationRow): string {
  return invitation.workspace_id === null
    ? `/organizations/${invitation.organization_id}`
    : `/workspaces/${invitation.workspace_id}`
}

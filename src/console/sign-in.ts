// Signing in to the console and out of it. The session is the same one that apps' requests find.
import Router from '@koa/router'
import type { Context } from 'koa'
import { type AccountsDeps, signIn } from '../accounts/service.ts'
import { Secret } from '../crypto/secret.ts'
import { type FormTokens, field, formBody } from '../http/forms.ts'
import { sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import type { BrowserSessions } from '../oauth/browser-sessions.ts'
import type { Frame } from './frame.ts'
import type { Pages } from './pages.ts'
import { done } from './people.ts'

export interface SignInDeps {
  issuer: string
  accounts: AccountsDeps
  pages: Pages
  frame: Frame
  sessions: BrowserSessions
  formTokens: FormTokens
}

const PURPOSE = 'sign-in'

export function createSignIn(deps: SignInDeps): Router {
  const router = new Router()
  router.get('/sign-in', async (ctx) => {
    const session = await deps.sessions.find(ctx)
    const isAgain = ctx.URL.searchParams.has('again')
    if (session !== undefined && !isAgain) return done(ctx, returnTo(ctx.URL.searchParams.get('return_to')))
    show(deps, ctx, {
      returnTo: ctx.URL.searchParams.get('return_to') ?? '',
      email: session?.account.email,
      isAgain: isAgain && session !== undefined,
    })
  })
  router.post('/sign-in', formBody, (ctx) => postSignIn(deps, ctx))
  router.post('/sign-out', formBody, async (ctx) => {
    await deps.frame.posted(ctx)
    await deps.sessions.end(ctx)
    done(ctx, '/')
  })
  router.get('/sign-out', (ctx) => done(ctx, '/'))
  return router
}

interface Shown {
  returnTo: string
  email: string | undefined
  isAgain: boolean
  error?: string
  locked?: boolean
}

function show(deps: SignInDeps, ctx: Context, shown: Shown): void {
  const query = new URLSearchParams({ return_to: returnTo(shown.returnTo), ...(shown.isAgain ? { again: 'yes' } : {}) })
  const html = deps.pages.signIn({
    host: new URL(deps.issuer).host,
    action: `/sign-in?${query}`,
    csrf: deps.formTokens.issue(PURPOSE),
    isAgain: shown.isAgain,
    email: shown.email,
    error: shown.error,
    locked: shown.locked,
  })
  sendPage(ctx, html)
}

async function postSignIn(deps: SignInDeps, ctx: Context): Promise<void> {
  deps.formTokens.check(ctx, PURPOSE)
  const { searchParams } = ctx.URL
  const target = returnTo(searchParams.get('return_to'))
  const email = field(ctx, 'email')
  const shown = { returnTo: target, email, isAgain: searchParams.has('again') }
  const outcome = await signIn(deps.accounts, {
    email,
    password: new Secret(field(ctx, 'password')),
    device: deps.sessions.deviceOf(ctx),
    request: requestInfo(ctx),
  })
  if (outcome.ok) {
    await deps.sessions.open(ctx, { userId: outcome.userId, email, signedInAt: outcome.signedInAt })
    return done(ctx, target)
  }
  if (outcome.reason === 'too_many') {
    const minutes = Math.ceil(outcome.retryAfterSeconds / 60)
    const wait = minutes === 1 ? 'a minute' : `${minutes} minutes`
    show(deps, ctx, { ...shown, error: `Too many tries. Wait ${wait}, then try again.`, locked: true })
    ctx.status = 429
    ctx.set('Retry-After', String(outcome.retryAfterSeconds))
    return
  }
  show(deps, ctx, { ...shown, error: 'The email address or the password is not right. Try again.' })
}

/** A path of ours, whatever was asked for: nobody is led elsewhere by signing in. */
function returnTo(asked: string | null): string {
  return asked !== null && /^\/(?:[\w-][\w/-]*)?$/.test(asked) ? asked : '/'
}

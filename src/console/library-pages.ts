// Pages about failures and signing out, for the library's callbacks and for the error edge.
import type { Context } from 'koa'
import type { AppError } from '../errors.ts'
import type { ErrorPages } from '../http/errors.ts'
import { sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import type { LibraryPages } from '../oauth/provider.ts'
import type { Pages } from './pages.ts'

interface Said {
  title: string
  lede: string
  steps: string[]
}

const AGAIN = 'Go back to the app and choose Connect again.'
const TELL = 'If it happens again, tell whoever makes the app, with the trace id below.'

/** What to say about an OAuth error at an address that people see. */
const OAUTH_ERRORS: Record<string, Said> = {
  invalid_client: {
    title: 'This app is not known here',
    lede: 'It asked to connect under an id that nobody registered with us, or that was withdrawn. Nothing was connected.',
    steps: ['Check that the address of this server is the one you meant to use.', TELL],
  },
  invalid_redirect_uri: {
    title: 'This app asked to be answered at an address it has not registered',
    lede: 'To be safe, nothing was sent there, and nothing was connected.',
    steps: [AGAIN, TELL],
  },
  invalid_request: {
    title: 'This request cannot be read',
    lede: 'Something in it is missing or not as it should be. Nothing was connected.',
    steps: [AGAIN, TELL],
  },
  access_denied: {
    title: 'Nothing was connected',
    lede: 'The request was declined.',
    steps: ['You can close this page.'],
  },
}

const OTHERWISE: Said = {
  title: 'This did not work',
  lede: 'Nothing was connected, and nothing has changed.',
  steps: [AGAIN, TELL],
}

const FAILURES: Partial<Record<AppError['code'], Said>> = {
  expired_interaction: {
    title: 'This page is no longer open',
    lede: 'It was finished already, it waited too long, or it was opened in another browser.',
    steps: [AGAIN],
  },
  not_found: {
    title: 'There is nothing here',
    lede: 'The address may be incomplete, or it is of a place where you are not a member.',
    steps: ['Check the address.', 'If somebody sent it to you, ask them to add you, or sign in as whom they added.'],
  },
  role_too_low: {
    title: 'Your role does not allow this',
    lede: 'You are a member here, but this page is for those who manage the place. Nothing has changed.',
    steps: ['Ask an admin or owner to do it, or to change your role.'],
  },
  policy_forbids: {
    title: 'The token policy does not allow this',
    lede: 'Admins of this workspace have said which tokens it allows. Nothing has changed.',
    steps: ['Connect the tool by signing in, where it offers that.', 'Otherwise ask an admin about the token policy.'],
  },
  conflict: {
    title: 'Somebody was here first',
    lede: 'What you wanted to change is no longer as you saw it. Nothing has changed.',
    steps: ['Go back, load the page again, and look at what it says now.'],
  },
  last_owner: {
    title: 'There must be an owner left',
    lede: 'This would leave the place without one. Nothing has changed.',
    steps: ['Make somebody else an owner first, then do this again.'],
  },
  wrong_credential: {
    title: 'You cannot do this here',
    lede: 'This address is for programs, or for another kind of sign-in. Nothing has changed.',
    steps: ['Go back to the page that you came from.'],
  },
  unauthorized: {
    title: 'You are not signed in',
    lede: 'Your session has ended, or it was ended elsewhere. Nothing has changed.',
    steps: ['Sign in, then open the page again.'],
  },
  recent_sign_in_required: {
    title: 'Sign in once more',
    lede: 'This makes or ends a way in, and your last sign-in is more than ten minutes ago. Nothing has changed.',
    steps: ['Sign in again, then repeat it.'],
  },
  too_many_requests: {
    title: 'Too many tries',
    lede: 'To be safe, this address answers nothing more from you for a little while.',
    steps: ['Wait a few minutes, then try once more.'],
  },
  invalid_request: {
    title: 'This form cannot be read',
    lede: 'Something in it is missing, or not as our page made it. Nothing has changed.',
    steps: ['Go back, load the page again, and fill in the form anew.'],
  },
  payload_too_large: {
    title: 'That is too much at once',
    lede: 'What was sent is longer than anything this page asks for. Nothing has changed.',
    steps: ['Go back and send less.'],
  },
  method_not_allowed: {
    title: 'This page cannot be opened that way',
    lede: 'It takes what a form of ours sends, and nothing else. Nothing has changed.',
    steps: ['Go back to the page with the form, and send it from there.'],
  },
  unavailable: {
    title: 'Busy for a moment',
    lede: 'A part of this service is being restored. Nothing is lost.',
    steps: ['Wait a few seconds, then load the page again.'],
  },
  server_error: {
    title: 'Something failed on our side',
    lede: 'It has been noted, with the trace id below.',
    steps: ['Try again.', TELL],
  },
  forbidden_origin: {
    title: 'This came from another site',
    lede: 'To be safe, it was refused, and nothing has changed.',
    steps: ['Go back to the page of this server and send the form from there.'],
  },
}

export function createLibraryPages(pages: Pages, issuer: string): LibraryPages & ErrorPages {
  const { host } = new URL(issuer)
  const send = (ctx: Context, said: Said, code: string) => {
    const html = pages.error({
      host,
      status: ctx.status,
      title: said.title,
      lede: said.lede,
      steps: said.steps.map((text) => ({ text })),
      traceId: requestInfo(ctx).traceId,
      time: new Date().toISOString(),
      code,
    })
    sendPage(ctx, html)
  }
  return {
    async error(ctx, code, error) {
      const detail: unknown = Reflect.get(error, 'error_description')
      const said = OAUTH_ERRORS[code] ?? OTHERWISE
      send(
        ctx,
        typeof detail === 'string' && code === 'invalid_request' ? { ...said, lede: `${said.lede} (${detail})` } : said,
        code,
      )
    },
    async signOut(ctx, xsrf) {
      sendPage(
        ctx,
        pages.signOut({ host, action: '/logout/confirm', xsrf, clientName: ctx.oidc.client?.clientName }),
        logoutTargets(ctx),
      )
    },
    async signedOut(ctx) {
      // The library comes here also for a person who chose to stay.
      const { accountId } = await ctx.oidc.provider.Session.get(ctx)
      sendPage(
        ctx,
        pages.signedOut({ host, clientName: ctx.oidc.client?.clientName, stillSignedIn: accountId !== undefined }),
      )
    },
    failure(ctx, error) {
      send(ctx, FAILURES[error.code] ?? { ...OTHERWISE, lede: error.detail }, error.code)
    },
  }
}

/** Signing out ends at the client, where it asked for that: the form must be allowed to lead there. */
function logoutTargets(ctx: Context): string[] {
  const url = URL.parse(String(ctx.oidc?.params?.post_logout_redirect_uri ?? ''))
  if (url === null) return []
  return [url.origin === 'null' ? url.protocol : url.origin]
}

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
    lede: 'The address may be incomplete, or the page may have moved.',
    steps: ['Check the address.'],
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

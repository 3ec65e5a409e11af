// The browser's session, outside of an authorization request: who is signed in, since when; signing in and out on our own
// pages. The session itself is the library's, so that one sign-in serves the console and every app.
import type { Context } from 'koa'
import { type Account, deviceMark } from '../accounts/service.ts'
import type { Lifetimes } from '../config.ts'
import { AppError } from '../errors.ts'
import { type FormTokens, isForeign } from '../http/forms.ts'
import { requestInfo } from '../http/trace.ts'
import type { UserId } from '../ids.ts'
import type { Db } from '../store/database.ts'
import { accountOf } from './adapter.ts'
import type { ProviderHolder } from './endpoints.ts'
import { DEVICE_COOKIE, DEVICE_COOKIE_OPTIONS, SESSION_COOKIE_OPTIONS, sessionSeconds } from './provider.ts'
import { type SettleDeps, settle } from './settle.ts'
import { inUnitOfWork, newUnitOfWork, noteSignOut } from './unit-of-work.ts'

export interface BrowserSession {
  userId: UserId
  /** Seconds since the epoch, by the database. */
  signedInAt: number
  account: Account
  /** What forms of this session carry back. */
  csrf: string
}

export interface BrowserSessions {
  /** Undefined when nobody is signed in. */
  find(ctx: Context): Promise<BrowserSession | undefined>
  /** Opens a session, under a new id. */
  open(ctx: Context, person: { userId: UserId; email: string; signedInAt: number }): Promise<void>
  /** Ends it; clients that want to know are told. Connections stand. */
  end(ctx: Context): Promise<void>
  /** @throws {AppError} `forbidden_origin` for a change that is not from a page of this session */
  requireOwnPage(ctx: Context, session: BrowserSession, token: string): void
  /** The mark that a browser which signed in here before can show. */
  deviceOf(ctx: Context): string | undefined
}

export interface BrowserSessionsDeps extends SettleDeps {
  db: Db
  issuer: string
  provider: ProviderHolder
  formTokens: FormTokens
  secureCookies: boolean
  lifetimes: Lifetimes
}

/** A session in use is written again this often: its idle time begins anew. */
const RENEW_AFTER_SECONDS = 600

type Session = Awaited<ReturnType<ProviderHolder['current']['Session']['get']>>

export function createBrowserSessions(deps: BrowserSessionsDeps): BrowserSessions {
  const purpose = (uid: string) => `session ${uid}`

  /** A part of a request that touches the session, settled when it is done. */
  async function inUnit<T>(ctx: Context, work: () => Promise<T>): Promise<T> {
    const unit = newUnitOfWork(requestInfo(ctx))
    return inUnitOfWork(unit, async () => {
      const result = await work()
      await settle(deps, unit, false)
      return result
    })
  }

  async function keep(ctx: Context, session: Session): Promise<void> {
    const ttlSeconds = sessionSeconds(deps.lifetimes, session)
    await session.save(ttlSeconds)
    ctx.cookies.set(deps.provider.current.cookieName('session'), session.jti, {
      ...SESSION_COOKIE_OPTIONS,
      secure: deps.secureCookies,
      maxAge: ttlSeconds * 1000,
    })
  }

  return {
    find: (ctx) =>
      inUnit(ctx, async () => {
        const session = await deps.provider.current.Session.get(ctx)
        if (session.accountId === undefined) return undefined
        const account = await accountOf(deps.db, session.accountId) // the adapter has looked whether they may be signed in
        if (account === undefined) return undefined
        if ((session.exp ?? 0) - Date.now() / 1000 < sessionSeconds(deps.lifetimes, session) - RENEW_AFTER_SECONDS)
          await keep(ctx, session)
        const csrf = deps.formTokens.issue(purpose(session.uid))
        return { userId: account.id, signedInAt: session.loginTs ?? 0, account, csrf }
      }),

    open: (ctx, person) =>
      inUnit(ctx, async () => {
        const session = await deps.provider.current.Session.get(ctx)
        const isSamePerson = session.accountId === person.userId
        // Whoever planted a session id before knows none of what follows; what another person left is not theirs.
        session.resetIdentifier()
        if (!isSamePerson) {
          noteSignOut(session, 'person_changed')
          Object.assign(session, { authorizations: undefined })
        }
        Object.assign(session, { uid: isSamePerson ? session.uid : crypto.randomUUID() })
        session.loginAccount({ accountId: person.userId, loginTs: person.signedInAt, amr: ['pwd'] })
        await keep(ctx, session)
        ctx.cookies.set(DEVICE_COOKIE, deviceMark(person.email), {
          ...DEVICE_COOKIE_OPTIONS,
          secure: deps.secureCookies,
        })
      }),

    end: (ctx) =>
      inUnit(ctx, async () => {
        const session = await deps.provider.current.Session.get(ctx)
        noteSignOut(session, 'signed_out')
        await session.destroy()
        ctx.cookies.set(deps.provider.current.cookieName('session'), null, {
          ...SESSION_COOKIE_OPTIONS,
          secure: deps.secureCookies,
        })
      }),

    requireOwnPage(ctx, session, token) {
      if (isForeign(ctx, deps.issuer) || !deps.formTokens.isIssued(session.csrf, token))
        throw new AppError('forbidden_origin')
    },

    deviceOf: (ctx) => ctx.cookies.get(DEVICE_COOKIE, { signed: true }),
  }
}

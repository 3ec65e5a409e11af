/** The pages people see without the console around them, as HTML: what each one is told, and nothing about HTTP. */
import { Eta } from 'eta'
import type { Assets } from '../http/assets.ts'

/** What every page is told. */
export interface PageFrame {
  /** The issuer's host, named at the foot of the page. */
  host: string
  /** The client's id: the edge under the masthead is cut from it. Without a client it is cut from the host. */
  keylineSeed?: string | undefined
}

export interface SignInPage extends PageFrame {
  action: string
  csrf: string
  /** Where the person goes afterwards. An unverified client's host, not the name it gives itself. */
  clientName?: string | undefined
  /** Signed in already: what comes next asks for it once more. */
  isAgain?: boolean | undefined
  /** Refilled after a try that failed. */
  email?: string | undefined
  /** Why the last try failed, one sentence. Never says which of the two fields was wrong. */
  error?: string | undefined
  /** True when `error` says to wait: no field is marked as wrong then. */
  locked?: boolean | undefined
}

export interface ConsentWorkspace {
  id: string
  name: string
  organizationName: string
  role: string
  /** `disabled` is shown, and cannot be chosen. */
  state: 'open' | 'disabled'
  /** One or two sentences. Beside the role where it is open, instead of it where it is disabled. */
  note?: string | undefined
  /** Ignored for an unverified client: nothing is chosen for the person there. */
  chosen: boolean
}

export interface ConsentClient {
  name: string
  /** Shown before the name. Empty when the client has none to show. */
  host: string
  /** Somebody of this installation vouches for it. Otherwise no answer is the primary one, and refusal comes first. */
  verified: boolean
  /** The organization that vouches; the operator when left out. */
  verifiedBy?: string | undefined
  /** A host or a custom scheme, or a few words such as "a program on this computer". */
  sendsBackTo: string
  /** Nothing proves who receives the answer (loopback, custom scheme): brass edge and a word of caution. */
  unproved: boolean
}

export interface ConsentPage extends PageFrame {
  action: string
  csrf: string
  /** What was shown, for the server to compare with what was answered. Opaque here. */
  shown: string
  client: ConsentClient
  account: { email: string; name: string }
  /** Posted to by "Not you?", with `csrf`. */
  switchAction: string
  workspaces: readonly ConsentWorkspace[]
  /** In the catalogue's own words. */
  can: ReadonlyArray<{ sentence: string; detail?: string | undefined; isNew: boolean }>
  notice?: string | undefined
  error?: string | undefined
}

export interface ErrorPage extends PageFrame {
  status: number
  title: string
  lede: string
  steps: ReadonlyArray<{ text: string; detail?: string | undefined }>
  traceId: string
  /** RFC 3339. */
  time: string
  /** A stable error code; the status is shown without one. */
  code?: string | undefined
  /** A way on. Left out of the page when it is neither http(s) nor a path of ours. */
  back?: { href: string; label: string } | undefined
}

export interface SignOutPage extends PageFrame {
  action: string
  xsrf: string
  clientName?: string | undefined
}

export interface SignedOutPage extends PageFrame {
  clientName?: string | undefined
  /** The person chose to stay: nothing has ended. */
  stillSignedIn?: boolean | undefined
  /** Every session ended, not this browser's alone. */
  everywhere?: { connections: string | undefined; isTold: boolean } | undefined
  /** There is no account any more. */
  erased?: boolean | undefined
}

export interface InvitationPage extends PageFrame {
  organizationName: string
  /** Undefined for an invitation to the organization itself. */
  workspaceName: string | undefined
  role: string
  /** The invited one. */
  email: string
  /** What the visitor can do: join with the account they are signed in with, switch it, sign in, or open one. */
  state: 'accept' | 'other_person' | 'sign_in' | 'join'
  signedInAs: string | undefined
  acceptAction: string
  joinAction: string
  signInHref: string
  sessionCsrf: string
  csrf: string
  /** What is wrong with what was typed to open an account. */
  errors?: { name?: string; password?: string } | undefined
  name?: string | undefined
}

export interface HomePage extends PageFrame {
  issuer: string
  tourHref?: string | undefined
}

export interface TourClaim {
  name: string
  value: string
  meaning: string
}

export interface TourLogEntry {
  /** RFC 3339. */
  time: string
  title: string
  /** As it went over the wire, tokens and codes already shortened. */
  request: string
  answer: string
  good: boolean
  meaning: string
}

/** The walk through one connection with the demo app. */
export interface TourPage extends PageFrame {
  clientName: string
  csrf: string
  /** `ended`: the connection no longer stands. With `claims` the old token can still be tried, and is refused. */
  state: 'start' | 'connected' | 'ended'
  error?: string | undefined
  /** Something to know that is no failure. */
  notice?: string | undefined
  /** The payload of the access token. Its `jti` is what the token's key is cut from. */
  claims?: readonly TourClaim[] | undefined
  header?: readonly TourClaim[] | undefined
  /** In the order to be read. */
  log: readonly TourLogEntry[]
  lastCall?: { status: number; body: string } | undefined
  /** When the token was renewed last, and the id of the one it took the place of. */
  renewal?: { time: string; previousTokenId: string } | undefined
  connectAction: string
  callAction: string
  refreshAction: string
  disconnectAction: string
  docsHint?: string | undefined
  signInHint?: { email: string } | undefined
}

export interface Pages {
  signIn(data: SignInPage): string
  consent(data: ConsentPage): string
  error(data: ErrorPage): string
  signOut(data: SignOutPage): string
  signedOut(data: SignedOutPage): string
  invitation(data: InvitationPage): string
  home(data: HomePage): string
  tour(data: TourPage): string
}

/** Templates are compiled at their first use and kept. Each function returns a whole document. */
export function createPages(options: { viewsDir: string; assets: Pick<Assets, 'href'> }): Pages {
  const eta = new Eta({ views: options.viewsDir, cache: true })
  const shared = { styles: options.assets.href('latchkey.css'), icon: options.assets.href('favicon.svg') }
  const render = (template: string, data: PageFrame, more: object = {}) =>
    eta.render(template, { ...data, ...shared, keyline: keylinePath(data.keylineSeed ?? data.host), ...more })
  return {
    signIn: (data) => render('sign-in', data),
    consent: (data) => render('consent', data, consentView(data)),
    error: (data) => render('error', data, { when: moment(data.time), backHref: safeHref(data.back?.href) }),
    signOut: (data) => render('sign-out', data),
    signedOut: (data) =>
      render('signed-out', data, {
        title: titleOfSignedOut(data),
      }),
    invitation: (data) => render('invitation', data, { article: /^[aeiou]/.test(data.role) ? 'an' : 'a' }),
    home: (data) => render('home', data, { tour: safeHref(data.tourHref) }),
    tour: (data) => render('try', data, tourView(data)),
  }
}

function titleOfSignedOut({ erased, everywhere, stillSignedIn }: SignedOutPage): string {
  if (erased) return 'Your account is deleted'
  if (everywhere) return 'You are signed out everywhere'
  return stillSignedIn ? 'You are still signed in' : 'You are signed out'
}

function consentView({ client, workspaces, error }: ConsentPage) {
  const severalOrganizations = new Set(workspaces.map((workspace) => workspace.organizationName)).size > 1
  const firstOpen = workspaces.find((workspace) => workspace.state === 'open')
  const preselected = client.verified
    ? workspaces.find((workspace) => workspace.state === 'open' && workspace.chosen)
    : undefined
  return {
    title: client.verified ? `Connect ${isolated(client.name)}` : 'Connect an unverified app',
    trusted: client.verified,
    backIsCode: !/\s/.test(client.sendsBackTo), // words are words, a host or scheme is code
    anyOpen: firstOpen !== undefined,
    anyChosen: preselected !== undefined,
    rows: workspaces.map((workspace) => ({
      id: workspace.id,
      name: workspace.name,
      organization: severalOrganizations ? workspace.organizationName : undefined,
      open: workspace.state === 'open',
      chosen: workspace === preselected,
      // A page that opens on its own mistake puts the focus there, so that a screen reader says it
      focus: Boolean(error) && workspace === (preselected ?? firstOpen),
      line: workspaceLine(workspace),
    })),
  }
}

function workspaceLine({ state, role, note }: ConsentWorkspace): string {
  const known = `You are ${/^[aeiou]/.test(role) ? 'an' : 'a'} ${role} here.`
  if (state === 'open') return note ? `${known} ${note}` : known
  return note ?? 'Your role here does not let you connect apps. Ask an admin of this workspace.'
}

const MARKS = {
  now: { kind: 'now', badge: 'due', word: 'Your turn' },
  done: { kind: 'done', badge: 'active', word: 'Done' },
  ended: { kind: 'ended', badge: 'revoked', word: 'Ended' },
  later: { kind: 'later', badge: 'waiting', word: 'Later' },
  open: { kind: 'open', badge: '', word: '' },
} as const

function tourView(data: TourPage) {
  const { state, claims, lastCall, renewal, log } = data
  const tokenId = claims?.find((claim) => claim.name === 'jti')?.value
  const connected = state === 'connected'
  const turn = !connected ? 'connect' : lastCall === undefined ? 'call' : renewal === undefined ? 'renew' : 'none'
  return {
    primary: turn,
    marks: {
      connect: state === 'ended' ? MARKS.ended : connected ? MARKS.done : MARKS.now,
      read: connected ? MARKS.done : claims ? MARKS.open : MARKS.later,
      call: turn === 'call' ? MARKS.now : connected ? MARKS.done : claims ? MARKS.open : MARKS.later,
      renew:
        turn === 'renew'
          ? MARKS.now
          : connected && renewal
            ? MARKS.done
            : connected || !claims
              ? MARKS.later
              : MARKS.open,
      log: log.length > 0 ? MARKS.open : MARKS.later,
    },
    tokenId,
    cut: tokenId === undefined ? undefined : cutPath(tokenId),
    renewed: renewal && { previousCut: cutPath(renewal.previousTokenId), when: moment(renewal.time) },
    lastCallGood: lastCall !== undefined && lastCall.status < 400,
    entries: log.map((entry) => ({ ...entry, when: moment(entry.time) })),
  }
}

const DIGITS = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'

/** The seven depths, 0 to 4, of a key's profile: from the last letters and digits of a visible id, never of a secret. */
export function cutDepths(id: string): number[] {
  const last = id.replace(/[^0-9A-Za-z]/g, '').slice(-7)
  return Array.from(last.padStart(7, '0'), (character) => DIGITS.indexOf(character) % 5)
}

/** The edge of a masthead, hanging into the paper and cut from below; 240 × 22. */
export function keylinePath(id: string): string {
  const cuts = cutDepths(id).map((depth, place) => {
    const x = 27 + 28.6 * place
    return `L${short(x)} ${short(20.1 - 3.9 * depth)}H${short(x + 14.6)}`
  })
  return `M0 .5H20${cuts.join('')}L227.2 .5H240V-2H0Z`
}

/** A small key lying on its side, its bow at the left; 52 × 18. The outline runs from the tip back to the bow. */
export function cutPath(id: string): string {
  const cuts = cutDepths(id).map((depth, place) => {
    const x = 14.9 + 5.1 * place
    return `L${short(x + 3.3)} ${short(15.5 - 1.9 * depth)}H${short(x)}`
  })
  return `M11 4H49.5L52 7.5${cuts.reverse().join('')}L13.5 15.5H11Z`
}

function short(value: number): string {
  return String(Math.round(value * 10) / 10)
}

/** First strong isolate: what a client calls itself cannot turn the rest of a window's title around. */
function isolated(text: string): string {
  return `\u2068${text}\u2069`
}

/** Only what leads to a page: an http(s) address, or a path of ours that no browser reads as another host. */
function safeHref(href: string | undefined): string | undefined {
  return href !== undefined && /^(?:https?:\/\/|\/(?![/\\]))[^\s\\]*$/i.test(href) ? href : undefined
}

const DATE = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'long', year: 'numeric', timeZone: 'UTC' })

/** A time for people and for machines. What is no time stays the text it is. */
function moment(time: string): { exact?: string; text: string; clock: string } {
  const date = new Date(time)
  if (Number.isNaN(date.getTime())) return { text: time, clock: time }
  const exact = date.toISOString()
  const clock = exact.slice(11, 19)
  return { exact, text: `${DATE.format(date)}, ${clock} UTC`, clock }
}

// The console's frame: who is signed in, where a page stands, and the way back to it after signing in. What a page says is
// decided beside its routes; how it looks, in its template.
import { Eta } from 'eta'
import type { Context, Middleware } from 'koa'
import { AppError } from '../errors.ts'
import type { Assets } from '../http/assets.ts'
import { field } from '../http/forms.ts'
import { sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import type { OrganizationId } from '../ids.ts'
import type { BrowserSession, BrowserSessions } from '../oauth/browser-sessions.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { findOrganizationReached, findReached, type WorkspaceRow } from '../organizations/service.ts'
import * as organizations from '../organizations/store.ts'
import type { Authority } from '../principals/rules.ts'
import { RECENT_SIGN_IN_SECONDS } from '../principals/service.ts'
import { type Db, reading } from '../store/database.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'

export interface FrameDeps {
  db: Db
  issuer: string
  viewsDir: string
  assets: Pick<Assets, 'href'>
  sessions: BrowserSessions
}

export interface Crumb {
  href: string
  text: string
}

export interface Tabs {
  label: string
  items: ReadonlyArray<{ href: string; text: string; current: boolean }>
}

export interface PlacedPage {
  crumbs?: readonly Crumb[]
  tabs?: Tabs
}

/** A workspace page: who looks at it, as what. */
export interface WorkspaceVisit {
  session: BrowserSession
  workspace: WorkspaceRow
  organization: { id: OrganizationId; name: string }
  role: WorkspaceRole
  /** In the organization itself, where they have one. */
  organizationRole: OrganizationRole | undefined
}

export interface OrganizationVisit {
  session: BrowserSession
  organization: { id: OrganizationId; name: string }
  role: OrganizationRole
}

type PersonAuthority = Extract<Authority, { kind: 'person' }>

export interface Frame {
  /** Sends a template inside the console's frame. Its own data are `it.…` there. */
  send(ctx: Context, session: BrowserSession, template: string, place: PlacedPage, data: object): void
  /** @throws {AppError} `unauthorized`: `leadToSignIn` turns it into the way to the sign-in page */
  session(ctx: Context): Promise<BrowserSession>
  /** Checks that a form comes from a page of this session. */
  posted(ctx: Context): Promise<BrowserSession>
  /** The workspace of the address, as the person reaches it. @throws {AppError} `not_found`, `role_too_low` */
  workspace(ctx: Context, session: BrowserSession, least: WorkspaceRole): Promise<WorkspaceVisit>
  /** The organization of the address. @throws {AppError} `not_found`, `role_too_low` */
  organization(ctx: Context, session: BrowserSession, least: OrganizationRole): Promise<OrganizationVisit>
  /** @throws {AppError} `recent_sign_in_required`: asked before a form is filled in, not after */
  requireRecentSignIn(session: BrowserSession): void
  by(ctx: Context, session: BrowserSession): { authority: PersonAuthority; request: ReturnType<typeof requestInfo> }
}

export function createFrame(deps: FrameDeps): Frame {
  const eta = new Eta({ views: deps.viewsDir, cache: true })
  const shared = {
    styles: deps.assets.href('latchkey.css'),
    icon: deps.assets.href('favicon.svg'),
    script: deps.assets.href('copy.js'),
    host: new URL(deps.issuer).host,
  }
  const session = async (ctx: Context): Promise<BrowserSession> => {
    const found = await deps.sessions.find(ctx)
    if (found === undefined) throw new AppError('unauthorized')
    return found
  }
  return {
    send(ctx, visitor, template, place, data) {
      const me = { name: visitor.account.name, csrf: visitor.csrf }
      sendPage(
        ctx,
        eta.render(template, {
          ...shared,
          crumbs: place.crumbs ?? [],
          tabs: place.tabs,
          csrf: visitor.csrf,
          me,
          ...data,
        }),
      )
    },
    session,
    async posted(ctx) {
      const found = await session(ctx)
      deps.sessions.requireOwnPage(ctx, found, field(ctx, 'csrf'))
      return found
    },
    async workspace(ctx, visitor, least) {
      const found = await findReached(deps.db, String(ctx.params.workspace_id), visitor.userId)
      if (found?.role === undefined) throw new AppError('not_found')
      if (!isAtLeast(found.role, least)) throw new AppError('role_too_low')
      const organization = await reading(organizations.findOrganization(deps.db, found.workspace.organization_id))
      if (organization === undefined) throw new AppError('not_found')
      ctx.state.workspaceId = found.workspace.id
      const { workspace, role, organizationRole } = found
      return { session: visitor, workspace, organization, role, organizationRole }
    },
    async organization(ctx, visitor, least) {
      const found = await findOrganizationReached(deps.db, String(ctx.params.organization_id), visitor.userId)
      if (found?.role === undefined) throw new AppError('not_found')
      if (!isAtLeast(found.role, least)) throw new AppError('role_too_low')
      return { session: visitor, organization: found.organization, role: found.role }
    },
    requireRecentSignIn(visitor) {
      // A little less than what the change itself asks for, so that there is time to fill in the form.
      if (Date.now() / 1000 - visitor.signedInAt > RECENT_SIGN_IN_SECONDS / 2)
        throw new AppError('recent_sign_in_required')
    },
    by: (ctx, visitor) => ({
      authority: { kind: 'person', userId: visitor.userId, signedInAt: visitor.signedInAt },
      request: requestInfo(ctx),
    }),
  }
}

/** Leads whoever is not signed in, or not recently, to the sign-in page and back. */
export const leadToSignIn: Middleware = async (ctx, next) => {
  try {
    await next()
  } catch (error) {
    const code = error instanceof AppError ? error.code : undefined
    if (code !== 'unauthorized' && code !== 'recent_sign_in_required') throw error
    const query = new URLSearchParams({ return_to: ctx.path })
    if (code === 'recent_sign_in_required') query.set('again', 'yes')
    ctx.status = 303
    ctx.redirect(`/sign-in?${query}`)
  }
}

/** The end of its address, what it says, and who gets there. */
type Tab = readonly [path: string, text: string, least: WorkspaceRole]

const WORKSPACE_TABS = [
  ['access', 'Access', 'member'],
  ['members', 'Members', 'viewer'],
  ['providers', 'Providers', 'member'],
  ['usage', 'Usage', 'member'],
  ['audit', 'Audit', 'admin'],
  ['settings', 'Settings', 'viewer'],
] as const satisfies readonly Tab[]

const ORGANIZATION_TABS = [
  ['', 'Overview', 'member'],
  ['usage', 'Usage', 'admin'],
  ['people', 'People', 'member'],
  ['keys', 'Keys', 'admin'],
  ['audit', 'Audit', 'admin'],
] as const satisfies readonly Tab[]

/** Where somebody lands in a workspace: on the first page that they may see. */
export function frontDoorOf({ workspace, role }: WorkspaceVisit): string {
  const [first] = tabsFor(WORKSPACE_TABS, role)
  return `/workspaces/${workspace.id}/${first?.[0] ?? ''}`
}

/** Where a page of a workspace stands. */
export function placeOfWorkspace(visit: WorkspaceVisit, current: (typeof WORKSPACE_TABS)[number][0]): PlacedPage {
  const base = `/workspaces/${visit.workspace.id}`
  return {
    crumbs: [
      { href: `/organizations/${visit.organization.id}`, text: visit.organization.name },
      { href: base, text: visit.workspace.name },
    ],
    tabs: { label: 'Workspace', items: tabsOf(base, tabsFor(WORKSPACE_TABS, visit.role), current) },
  }
}

function tabsFor(tabs: readonly Tab[], role: WorkspaceRole): Tab[] {
  return tabs.filter(([, , least]) => isAtLeast(role, least))
}

const ACCOUNT_TABS = [
  ['', 'Account'],
  ['connections', 'Connections'],
] as const

/** Where a page about oneself stands. */
export function placeOfAccount(current: (typeof ACCOUNT_TABS)[number][0]): PlacedPage {
  return {
    crumbs: [{ href: '/account', text: 'Your account' }],
    tabs: { label: 'Account', items: tabsOf('/account', ACCOUNT_TABS, current) },
  }
}

function tabsOf(
  base: string,
  tabs: ReadonlyArray<readonly [path: string, text: string, ...unknown[]]>,
  current: string,
) {
  return tabs.map(([path, text]) => ({
    href: path === '' ? base : `${base}/${path}`,
    text,
    current: path === current,
  }))
}

/** Where a page of an organization stands. */
export function placeOfOrganization(
  visit: OrganizationVisit,
  current: (typeof ORGANIZATION_TABS)[number][0],
): PlacedPage {
  const base = `/organizations/${visit.organization.id}`
  return {
    crumbs: [{ href: base, text: visit.organization.name }],
    tabs: { label: 'Organization', items: tabsOf(base, tabsFor(ORGANIZATION_TABS, visit.role), current) },
  }
}

// Every way into a workspace on one page, and every key of an organization: who has it, when and from where it was used
// last, and the way to its end.
import type Router from '@koa/router'
import type { Context } from 'koa'
import { type ConnectionView, listConnections } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { namesOf } from '../members/service.ts'
import { listProviders } from '../providers/service.ts'
import type { Db } from '../store/database.ts'
import { listTokens, type TokenView } from '../workspace-tokens/service.ts'
import { type AccessFilter, isFiltering, type Kind, queryOf, readFilter, type Sought, seeker } from './access-filter.ts'
import * as connectionViews from './connection-views.ts'
import { type Frame, leadToSignIn } from './frame.ts'
import { namesOfMakers } from './names.ts'
import { noticeOf } from './people.ts'
import { providerRow } from './provider-views.ts'
import { attentionOf } from './review-pages.ts'
import { type PlaceKind, placeView, type TokenPlace, tokenAt } from './token-places.ts'
import * as tokenViews from './token-views.ts'

export interface AccessListDeps {
  db: Db
  frame: Frame
}

const PAGE = 50

export function addListRoute(router: Router, deps: AccessListDeps, kind: PlaceKind): void {
  router.get(kind.list, leadToSignIn, async (ctx) => {
    await showList(deps, ctx, await kind.open(ctx, await deps.frame.session(ctx), 'see'))
  })
}

/** Somebody looks at a place, for all there is or for some of it. */
interface Looking {
  db: Db
  ctx: Context
  place: TokenPlace
  filter: AccessFilter
}

async function showList(deps: AccessListDeps, ctx: Context, place: TokenPlace): Promise<void> {
  const filter = readFilter(place.isWorkspace ? ctx.URL.searchParams : new URLSearchParams())
  const looking = { db: deps.db, ctx, place, filter }
  const isShown = (kind: Kind) => filter.kind === undefined || filter.kind === kind
  const [connections, tokens] = await Promise.all([
    isShown('connections') ? connectionsOf(looking) : undefined,
    isShown('tokens') ? tokensOf(looking) : undefined,
  ])
  const rows = [...(connections?.rows ?? []), ...(tokens?.rows ?? [])]
  deps.frame.send(ctx, place.session, 'token-list', place.framed, {
    ...placeView(place),
    newHref: `${place.base}/new`,
    mayChange: place.mayChange,
    waiting: place.mayChange
      ? rows.flatMap(({ name, waits }) => (waits === undefined ? [] : [{ name, ...waits }]))
      : [],
    filter: place.isWorkspace ? { ...filter, isOn: isFiltering(filter), action: place.listHref } : undefined,
    connections,
    tokens,
    providers: await providersOf(looking),
    revoked: await revokedLabel(looking),
    notice: noticeOf(ctx, connectionViews.NOTICES),
    attention: await attentionFor(looking, rows),
  })
}

/** The ways out of a workspace, beside the ways in; nothing of them is looked for. */
async function providersOf({ db, place, filter }: Looking) {
  const { workspaceId } = place.place
  if (workspaceId === null || isFiltering(filter)) return undefined
  const base = `/workspaces/${workspaceId}/providers`
  return { href: base, rows: (await listProviders(db, workspaceId)).map((connection) => providerRow(connection, base)) }
}

/** What admins of a workspace are told of, and does not stand among these rows. */
async function attentionFor({ db, place }: Looking, rows: readonly tokenViews.WayIn[]) {
  const { workspaceId, organizationId } = place.place
  if (!place.mayChange || workspaceId === null) return undefined
  const shown = new Set(rows.map(({ href }) => href))
  return attentionOf(db, { id: workspaceId, organization_id: organizationId }, (href) => shown.has(href))
}

/** A part of the page: a list, or a page of it, and what leads to the others. */
interface Part {
  rows: tokenViews.WayIn[]
  /** Undefined where nobody has counted. */
  count: string | undefined
  /** What stands between the two links. */
  position: string
  before: { href: string; text: string } | undefined
  next: { href: string; text: string } | undefined
}

async function connectionsOf(looking: Looking): Promise<Part | undefined> {
  const { db, place, filter } = looking
  const { workspaceId, organizationId } = place.place
  if (workspaceId === null) return undefined
  const all = await listConnections(db, workspaceId)
  const approvers = all.map(({ userId }) => userId)
  const names = await namesOf(db, organizationId, approvers)
  const isSought = seeker(filter)
  const sought = all.filter((view) => isSought(soughtConnection(view, names)))
  return numbered(looking, 'connections', sought, (view) => {
    const mayEnd = place.mayChange || view.userId === place.session.userId
    const href = mayEnd ? `/workspaces/${workspaceId}/connections/${view.id}` : undefined
    return connectionViews.rowOf(view, names, href)
  })
}

function soughtConnection(view: ConnectionView, names: tokenViews.Names): Sought {
  const { client, environment, id } = view
  const person = view.userId === null ? '' : tokenViews.makerOf(view.userId, names).text
  return {
    texts: [client.name, client.id, person, id],
    environment,
    isUnused: () => connectionViews.isConnectionUnused(view),
  }
}

/** What is looked for is not in the rows that a page of them is read by: then all of them are read. */
function tokensOf(looking: Looking): Promise<Part> {
  return isFiltering(looking.filter) ? soughtTokens(looking) : pageOfTokens(looking)
}

async function soughtTokens(looking: Looking): Promise<Part> {
  const views = await listAll(looking)
  const names = await makersOf(looking, views)
  const isSought = seeker(looking.filter)
  const sought = views.filter((view) => isSought(soughtToken(view, names)))
  return numbered(looking, 'tokens', sought, (view) => tokenViews.rowOf(view, names, looking.place))
}

async function pageOfTokens(looking: Looking): Promise<Part> {
  const { db, ctx, place } = looking
  const after = ctx.URL.searchParams.get('after') ?? undefined
  const views = await listTokens(db, place.place, { withClosed: 'still_tried', limit: PAGE + 1, after })
  const names = await makersOf(looking, views)
  const shown = views.slice(0, PAGE)
  const isFirst = after === undefined
  const isLast = views.length <= PAGE
  return {
    rows: shown.map((view) => tokenViews.rowOf(view, names, place)),
    count: isFirst && isLast ? String(shown.length) : undefined,
    position: isFirst ? 'Oldest first' : '',
    before: isFirst ? undefined : { href: place.listHref, text: 'First page' },
    next: isLast ? undefined : { href: `${place.listHref}?after=${shown.at(-1)?.line.id ?? ''}`, text: 'Newer' },
  }
}

function makersOf({ db, place }: Looking, views: readonly TokenView[]): Promise<tokenViews.Names> {
  const makers = views.map(({ line }) => line.createdBy)
  return namesOfMakers(db, place.place.organizationId, makers)
}

const AT_ONCE = 1_000

/** In parts, so that other requests have their turn in between. */
async function listAll({ db, place }: Looking): Promise<TokenView[]> {
  const views: TokenView[] = []
  for (;;) {
    const part = await listTokens(db, place.place, {
      withClosed: 'still_tried',
      limit: AT_ONCE,
      after: views.at(-1)?.line.id,
    })
    views.push(...part)
    if (part.length < AT_ONCE) return views
  }
}

function soughtToken(view: TokenView, names: tokenViews.Names): Sought {
  const { id, label, createdBy, environment, versions } = view.line
  const prefixes = versions.map(({ keyPrefix }) => keyPrefix)
  return {
    texts: [label, tokenViews.makerOf(createdBy, names).text, id, ...prefixes],
    environment,
    isUnused: () => tokenViews.isTokenUnused(view),
  }
}

/** A numbered page of what is there already; the first one for a number that is none of them. */
function numbered<T>(
  { ctx, place, filter }: Looking,
  name: Kind,
  items: readonly T[],
  rowOf: (item: T) => tokenViews.WayIn,
): Part {
  const wanted = Number(ctx.URL.searchParams.get(name) ?? 1)
  const pages = Math.max(Math.ceil(items.length / PAGE), 1)
  const page = Number.isInteger(wanted) && wanted >= 1 && wanted <= pages ? wanted : 1
  const hrefOf = (number: number) =>
    `${place.listHref}?${new URLSearchParams({ ...queryOf(filter), [name]: String(number) })}`
  return {
    rows: items.slice((page - 1) * PAGE, page * PAGE).map(rowOf),
    count: items.length.toLocaleString('en'),
    position: `Page ${page} of ${pages}`,
    before: page > 1 ? { href: hrefOf(page - 1), text: 'Older' } : undefined,
    next: page < pages ? { href: hrefOf(page + 1), text: 'Newer' } : undefined,
  }
}

/** What the page that led here has just ended. */
async function revokedLabel({ db, ctx, place }: Looking): Promise<string | undefined> {
  const id = ctx.URL.searchParams.get('revoked')
  if (id === null) return undefined
  const view = await tokenById(db, place, id)
  return view?.line.closedAt ? view.line.label : undefined
}

async function tokenById(db: Db, place: TokenPlace, id: string): Promise<TokenView | undefined> {
  try {
    return await tokenAt(db, place, id)
  } catch (error) {
    if (error instanceof AppError && error.code === 'not_found') return undefined
    throw error
  }
}

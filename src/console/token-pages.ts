// Tokens of a workspace and keys of an organization, on pages: each one's own page, and its end.
import Router from '@koa/router'
import type { Context } from 'koa'
import { AppError } from '../errors.ts'
import { field, formBody } from '../http/forms.ts'
import { reading } from '../store/database.ts'
import { listHours, listTokenCallers } from '../uses/store.ts'
import { currentVersion, goodVersions } from '../workspace-tokens/rules.ts'
import { stateOf, versionOf } from '../workspace-tokens/schemas.ts'
import { cutOver, revokeToken, revokeVersion, suspendToken, type TokenView } from '../workspace-tokens/service.ts'
import { addListRoute } from './access-list.ts'
import { leadToSignIn } from './frame.ts'
import { namesOfMakers } from './names.ts'
import { cutPath } from './pages.ts'
import { done } from './people.ts'
import * as evidence from './token-evidence.ts'
import { addMakingRoutes, type TokenMakingDeps } from './token-making.ts'
import { type PlaceKind, placeKinds, placeView, type TokenPlace, tokenAt } from './token-places.ts'
import { atInstant, counted } from './token-times.ts'
import * as views from './token-views.ts'

export type TokenPagesDeps = TokenMakingDeps

export function createTokenPages(deps: TokenPagesDeps): Router {
  const router = new Router()
  for (const kind of placeKinds(deps.frame)) {
    addListRoute(router, deps, kind)
    addMakingRoutes(router, deps, kind) // its `new` is no id of a token
    addTokenRoutes(router, deps, kind)
    addRevocationRoutes(router, deps, kind)
  }
  return router
}

// --- One of them ------------------------------------------------------------------------------------------------------

function addTokenRoutes(router: Router, deps: TokenPagesDeps, kind: PlaceKind): void {
  const { frame } = deps
  router.get(`${kind.base}/:key_id`, leadToSignIn, async (ctx) => {
    const place = await kind.open(ctx, await frame.session(ctx), 'see')
    await showToken(deps, ctx, place, await tokenAt(deps.db, place, keyIdOf(ctx)))
  })
  // Where a person comes back to after signing in again.
  router.get([`${kind.base}/:key_id/cutover`, `${kind.base}/:key_id/restore`], leadToSignIn, async (ctx) => {
    const place = await kind.open(ctx, await frame.session(ctx), 'see')
    done(ctx, `${place.base}/${(await tokenAt(deps.db, place, keyIdOf(ctx))).line.id}`)
  })
  router.post(`${kind.base}/:key_id/cutover`, leadToSignIn, formBody, async (ctx) => {
    const place = await kind.open(ctx, await frame.posted(ctx), 'change')
    const view = await tokenAt(deps.db, place, keyIdOf(ctx))
    const newest = newestOf(view)
    // The button named a version: what was rotated meanwhile is for another look.
    if (field(ctx, 'version') !== newest) return showToken(deps, ctx, place, view, CHANGED)
    await cutOver(deps, { owner: place.owner, id: view.line.id, ...frame.by(ctx, place.session) })
    done(ctx, `${place.base}/${view.line.id}`)
  })
  router.post(`${kind.base}/:key_id/restore`, leadToSignIn, formBody, async (ctx) => {
    const place = await kind.open(ctx, await frame.posted(ctx), 'change')
    const { line } = await tokenAt(deps.db, place, keyIdOf(ctx))
    await suspendToken(deps, { owner: place.owner, id: line.id, suspended: false, ...frame.by(ctx, place.session) })
    done(ctx, `${place.base}/${line.id}`)
  })
}

const keyIdOf = (ctx: Context) => String(ctx.params.key_id)
const CHANGED = 'Something has changed since you opened the page, and nothing was cut over. Look again.'

function newestOf({ line, now }: TokenView): string {
  return `v${currentVersion(line, line.versions, now)?.version ?? line.version}`
}

async function showToken(
  deps: TokenPagesDeps,
  ctx: Context,
  place: TokenPlace,
  view: TokenView,
  error?: string,
): Promise<void> {
  const { line, now } = view
  const [hours, names] = await Promise.all([
    reading(listHours(deps.db, line.id)),
    namesOfMakers(deps.db, place.place.organizationId, [
      line.createdBy,
      ...line.versions.map(({ createdBy }) => createdBy),
    ]),
  ])
  const good = goodVersions(line, line.versions, now)
  const current = currentVersion(line, line.versions, now)
  const base = `${place.base}/${line.id}`
  const lanes = evidence.lanesOf(view, hours, place.base)
  const isOpen = line.closedAt === null
  const isSuspended = line.suspendedAt !== null
  deps.frame.send(ctx, place.session, 'token-detail', place.framed, {
    ...placeView(place),
    label: line.label,
    lede: evidence.ledeOf(view),
    standing: views.standingOf(view),
    error,
    lanes,
    older: line.versions.length - lanes.length,
    scale: evidence.scaleOf(now),
    table: evidence.usesByDay(hours),
    advice: evidence.cutoverAdvice(view),
    plan: evidence.cutoverPlan(view),
    mayChange: place.mayChange && isOpen,
    rotateHref: good.length < 2 && !isSuspended ? `${base}/rotate` : undefined,
    restore: isSuspended ? `${base}/restore` : undefined,
    duty: views.rotationDuty(view),
    revokeHref: `${base}/revoke`,
    cutover:
      good.length > 1 ? { action: `${base}/cutover`, newer: newestOf(view), older: `v${good[0]?.version}` } : undefined,
    facts: {
      id: line.id,
      keyPrefix: current?.keyPrefix ?? '',
      cut: cutPath(current?.keyPrefix ?? line.id),
      isOver: good.length === 0,
      environment: place.isWorkspace ? views.ENVIRONMENT_WORDS[line.environment] : undefined,
      permissions: line.permissions,
      resources: line.resources ?? [],
      addresses: line.ipAllowList ?? [],
      maker: views.makerOf(line.createdBy, names),
      made: atInstant(line.createdAt),
      expires: current?.expiresAt ? atInstant(current.expiresAt) : undefined,
      closed: line.closedAt === null ? undefined : atInstant(line.closedAt),
      closeReason: line.closeReason === 'revoked' ? undefined : (line.closeReason ?? undefined),
    },
  })
  if (error !== undefined) ctx.status = 409
}

// --- The end ----------------------------------------------------------------------------------------------------------

/** What is about to be revoked: a token, or one version of it. */
interface Ending {
  view: TokenView
  version: number | undefined
}

function addRevocationRoutes(router: Router, deps: TokenPagesDeps, kind: PlaceKind): void {
  for (const path of [`${kind.base}/:key_id/revoke`, `${kind.base}/:key_id/versions/:version/revoke`]) {
    router.get(path, leadToSignIn, async (ctx) => {
      const place = await kind.open(ctx, await deps.frame.session(ctx), 'change')
      const ending = await endingAt(deps, place, ctx)
      if (isOver(ending)) return done(ctx, `${place.base}/${ending.view.line.id}`)
      await showRevoke(deps, ctx, place, ending, undefined)
    })
    router.post(path, leadToSignIn, formBody, async (ctx) => {
      const place = await kind.open(ctx, await deps.frame.posted(ctx), 'change')
      await postRevoke(deps, ctx, place, await endingAt(deps, place, ctx))
    })
  }
}

async function endingAt({ db }: TokenPagesDeps, place: TokenPlace, ctx: Context): Promise<Ending> {
  const view = await tokenAt(db, place, keyIdOf(ctx))
  if (ctx.params.version === undefined) return { view, version: undefined }
  const version = versionOf(String(ctx.params.version))
  if (!view.line.versions.some((known) => known.version === version)) throw new AppError('not_found')
  return { view, version }
}

function isOver({ view, version }: Ending): boolean {
  if (view.line.closedAt !== null) return true
  const found = view.line.versions.find((known) => known.version === version)
  return found !== undefined && stateOf(view, found) === 'revoked'
}

async function callersOf({ db }: TokenPagesDeps, { view, version }: Ending) {
  const callers = await reading(listTokenCallers(db, view.line.id))
  return version === undefined ? callers : callers.filter((caller) => caller.version === version)
}

interface RevokeRefused {
  reason: string
  reasonError?: string
  understoodError?: string
}

async function showRevoke(
  deps: TokenPagesDeps,
  ctx: Context,
  place: TokenPlace,
  ending: Ending,
  refused: RevokeRefused | undefined,
): Promise<void> {
  const { view, version } = ending
  const { line, now } = view
  const callers = await callersOf(deps, ending)
  const base = `${place.base}/${line.id}`
  const target = line.versions.find((known) => known.version === version) ?? currentVersion(line, line.versions, now)
  const others = goodVersions(line, line.versions, now).filter((good) => good.version !== version)
  deps.frame.send(ctx, place.session, 'token-revoke', place.framed, {
    ...placeView(place),
    action: version === undefined ? `${base}/revoke` : `${base}/versions/v${version}/revoke`,
    backHref: base,
    rotateHref: version === undefined && others.length === 1 ? `${base}/rotate` : undefined,
    label: line.label,
    version: version === undefined ? undefined : `v${version}`,
    others: others.map((good) => `v${good.version}`),
    keyPrefix: target?.keyPrefix ?? '',
    cut: cutPath(target?.keyPrefix ?? line.id),
    callers: evidence.callerRows(callers, now),
    callersText: counted(callers.length, 'caller'),
    reason: refused?.reason ?? '',
    reasonError: refused?.reasonError,
    understoodError: refused?.understoodError,
  })
  if (refused !== undefined) ctx.status = 400
}

const MOST_REASON = 200

async function postRevoke(deps: TokenPagesDeps, ctx: Context, place: TokenPlace, ending: Ending): Promise<void> {
  const { view, version } = ending
  const reason = field(ctx, 'reason').trim()
  if (reason.length > MOST_REASON || !reason.isWellFormed() || /\p{Cc}/u.test(reason))
    return showRevoke(deps, ctx, place, ending, {
      reason,
      reasonError: `Use ${MOST_REASON} visible characters at most.`,
    })
  if (!isOver(ending) && field(ctx, 'understood') !== 'yes' && (await callersOf(deps, ending)).length > 0)
    return showRevoke(deps, ctx, place, ending, { reason, understoodError: 'Check this first: it is in use.' })
  const target = { owner: place.owner, id: view.line.id, ...deps.frame.by(ctx, place.session) }
  if (version !== undefined) {
    await revokeVersion(deps, { ...target, version })
    return done(ctx, `${place.base}/${view.line.id}`)
  }
  await revokeToken(deps, { ...target, reason: reason === '' ? undefined : reason })
  done(ctx, `${place.listHref}?revoked=${view.line.id}`)
}

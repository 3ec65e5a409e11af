// The pages that make values: a new token, and a new version of one. A value is in the one answer that made it.
import type Router from '@koa/router'
import type { Context } from 'koa'
import { AppError } from '../errors.ts'
import { formBody } from '../http/forms.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import type { Db } from '../store/database.ts'
import { endOfSameLife, goodVersions, lifeProblem, MOST_GOOD_VERSIONS } from '../workspace-tokens/rules.ts'
import {
  createToken,
  findTokenByLabel,
  type NewTokenInput,
  rotateToken,
  type TokenView,
} from '../workspace-tokens/service.ts'
import { type Frame, leadToSignIn } from './frame.ts'
import * as forms from './token-forms.ts'
import {
  ORGANIZATION_ENVIRONMENT,
  openTokenAt,
  type PlaceKind,
  placeView,
  policyOf,
  serversOf,
  type TokenPlace,
} from './token-places.ts'
import { span } from './token-times.ts'
import { showIssued } from './token-value.ts'

export interface TokenMakingDeps {
  db: Db
  issuer: string
  frame: Frame
  resourceServers: ResourceServers
  revocations: RevocationList
}

export function addMakingRoutes(router: Router, deps: TokenMakingDeps, kind: PlaceKind): void {
  const { frame } = deps
  router.get(`${kind.base}/new`, leadToSignIn, async (ctx) => {
    const place = await kind.open(ctx, await frame.session(ctx), 'change')
    frame.requireRecentSignIn(place.session)
    await showCreate(deps, ctx, place, undefined)
  })
  router.post(`${kind.base}/new`, leadToSignIn, formBody, async (ctx) => {
    await postCreate(deps, ctx, await kind.open(ctx, await frame.posted(ctx), 'change'))
  })
  router.get(`${kind.base}/:key_id/rotate`, leadToSignIn, async (ctx) => {
    const place = await kind.open(ctx, await frame.session(ctx), 'change')
    const view = await openTokenAt(deps.db, place, ctx)
    if (view === undefined) return
    frame.requireRecentSignIn(place.session)
    await showRotate(deps, ctx, place, view, undefined)
  })
  router.post(`${kind.base}/:key_id/rotate`, leadToSignIn, formBody, async (ctx) => {
    await postRotate(deps, ctx, await kind.open(ctx, await frame.posted(ctx), 'change'))
  })
}

/** What did not work, beside the form that it did not work in. */
interface Refused {
  status: number
  errors: forms.FieldErrors
  /** About the form as a whole. */
  error?: string | undefined
  /** A way on. */
  way?: { href: string; text: string } | undefined
}

// --- A new token ------------------------------------------------------------------------------------------------------

async function offersOf(deps: TokenMakingDeps, place: TokenPlace) {
  const [policy, servers] = await Promise.all([policyOf(deps.db, place), deps.resourceServers.list()])
  const environments = forms.environmentChoices(policy)
  return {
    policy,
    environments,
    permissions: forms.permissionChoices(serversOf(place, servers), {
      role: place.role,
      environments: environments.map(({ value }) => value),
      ownApi: place.isWorkspace ? 'at Latchkey itself' : 'in every workspace of the organization',
    }),
    expiries: forms.expiryChoices(policy, new Date()),
  }
}

async function showCreate(
  deps: TokenMakingDeps,
  ctx: Context,
  place: TokenPlace,
  sent: { given: forms.CreateFields; refused: Refused } | undefined,
): Promise<void> {
  const offers = await offersOf(deps, place)
  const given = sent?.given ?? {
    label: '',
    environment: offers.environments[0]?.value ?? '',
    permissions: [],
    expiry: forms.usualExpiry(offers.expiries),
    addresses: '',
    prefix: forms.DEFAULT_PREFIX,
  }
  deps.frame.send(ctx, place.session, 'token-new', place.framed, {
    ...placeView(place),
    ...offers,
    isForbidden: offers.policy.tokensForbidden || offers.environments.length === 0,
    action: `${place.base}/new`,
    form: forms.newFormId(),
    expiryHint: forms.expiryHint(offers.policy),
    given,
    ...refusedView(sent?.refused),
  })
  if (sent !== undefined) ctx.status = sent.refused.status
}

async function postCreate(deps: TokenMakingDeps, ctx: Context, place: TokenPlace): Promise<void> {
  const read = forms.readCreateFields(ctx)
  const given = place.isWorkspace ? read : { ...read, environment: ORGANIZATION_ENVIRONMENT }
  const repeatable = forms.repeatableOf(ctx, place.session.userId, forms.CREATE_FIELDS)
  const offers = await offersOf(deps, place)
  const parsed = forms.parseCreate(given, offers)
  if ('errors' in parsed)
    return showCreate(deps, ctx, place, { given, refused: { status: 400, errors: parsed.errors } })
  try {
    const issued = await createToken(deps, {
      ...parsed.input,
      owner: place.owner,
      repeatable,
      ...deps.frame.by(ctx, place.session),
    })
    showIssued(deps, ctx, place, issued, given.prefix)
  } catch (error) {
    const refused = await createRefused(deps, place, parsed.input, error)
    await showCreate(deps, ctx, place, { given, refused })
  }
}

const SENT_ALREADY =
  'This form was sent before with other words, and nothing was made this time. Look at the list first.'

async function createRefused(
  deps: TokenMakingDeps,
  place: TokenPlace,
  input: NewTokenInput,
  error: unknown,
): Promise<Refused> {
  if (!(error instanceof AppError)) throw error
  const { status } = error
  switch (error.code) {
    case 'label_in_use': {
      const errors = { label: `Another ${place.noun} has this label already. Choose another one, or rotate that one.` }
      const same = await findTokenByLabel(deps.db, place.place, input)
      const way = same && { href: `${place.base}/${same.id}`, text: `Open the ${place.noun} with this label` }
      return { status, errors, way }
    }
    case 'policy_forbids':
      return { status, errors: {}, error: error.detail }
    case 'invalid_request':
      return { status, errors: { permissions: error.detail } }
    case 'idempotency_key_reused':
      return { status, errors: {}, error: SENT_ALREADY, way: { href: place.listHref, text: 'Open the list' } }
    default:
      throw error
  }
}

// --- A new version ----------------------------------------------------------------------------------------------------

async function showRotate(
  deps: TokenMakingDeps,
  ctx: Context,
  place: TokenPlace,
  view: TokenView,
  sent: { given: forms.RotateFields; refused: Refused } | undefined,
): Promise<void> {
  const { line, now } = view
  const policy = await policyOf(deps.db, place)
  const good = goodVersions(line, line.versions, now)
  const lifetime = lifetimeOf(view)
  const newest = line.versions[0]
  const sameEnd = newest === undefined ? null : endOfSameLife(newest, now)
  // What lived longer than the workspace allows by now must not go on so.
  const allowsSame = lifeProblem(policy, sameEnd, now) === undefined
  const choices = forms.expiryChoices(policy, now)
  const same = {
    value: forms.AS_BEFORE,
    text: 'As before',
    hint: lifetime === undefined ? 'It does not expire' : `${lifetime} from now`,
  }
  const given = sent?.given ?? {
    cutover: 'manual',
    at: '',
    expiry: allowsSame ? forms.AS_BEFORE : forms.usualExpiry(choices),
    prefix: forms.DEFAULT_PREFIX,
  }
  deps.frame.send(ctx, place.session, 'token-rotate', place.framed, {
    ...placeView(place),
    action: `${place.base}/${line.id}/rotate`,
    tokenHref: `${place.base}/${line.id}`,
    form: forms.newFormId(),
    label: line.label,
    next: `v${line.version + 1}`,
    before: good.at(-1) === undefined ? undefined : `v${good.at(-1)?.version}`,
    pending: good.length >= MOST_GOOD_VERSIONS ? good.map(({ version }) => `v${version}`) : undefined,
    isForbidden: policy.tokensForbidden,
    expiries: allowsSame ? [same, ...choices] : choices,
    expiryHint: forms.expiryHint(policy),
    given: { ...given, at: given.at === '' ? forms.usualCutoverTime(now) : given.at },
    ...refusedView(sent?.refused),
  })
  if (sent !== undefined) ctx.status = sent.refused.status
}

/** How long a life the newest version was given; undefined: without end. */
function lifetimeOf({ line }: TokenView): string | undefined {
  const newest = line.versions[0]
  return newest?.expiresAt ? span(newest.expiresAt.getTime() - newest.createdAt.getTime() + 1_000) : undefined
}

async function postRotate(deps: TokenMakingDeps, ctx: Context, place: TokenPlace): Promise<void> {
  const view = await openTokenAt(deps.db, place, ctx)
  if (view === undefined) return
  const given = forms.readRotateFields(ctx)
  const repeatable = forms.repeatableOf(ctx, place.session.userId, forms.ROTATE_FIELDS)
  const policy = await policyOf(deps.db, place)
  const parsed = forms.parseRotate(given, { expiries: forms.expiryChoices(policy, view.now), now: view.now })
  if ('errors' in parsed)
    return showRotate(deps, ctx, place, view, { given, refused: { status: 400, errors: parsed.errors } })
  try {
    const issued = await rotateToken(deps, {
      owner: place.owner,
      id: view.line.id,
      cutover: parsed.cutover,
      expiry: parsed.expiry,
      repeatable,
      ...deps.frame.by(ctx, place.session),
    })
    showIssued(deps, ctx, place, issued, given.prefix)
  } catch (error) {
    const refused = rotateRefused(place, view, error)
    await showRotate(deps, ctx, place, view, { given, refused })
  }
}

function rotateRefused(place: TokenPlace, { line }: TokenView, error: unknown): Refused {
  if (!(error instanceof AppError)) throw error
  const way = { href: `${place.base}/${line.id}`, text: 'See which version is used' }
  switch (error.code) {
    case 'cutover_pending':
    case 'token_ended':
    case 'policy_forbids':
    case 'invalid_request':
      return { status: error.status, errors: {}, error: error.detail, way }
    case 'idempotency_key_reused':
      return { status: error.status, errors: {}, error: SENT_ALREADY, way }
    default:
      throw error
  }
}

function refusedView(refused: Refused | undefined) {
  return { errors: refused?.errors ?? {}, error: refused?.error, way: refused?.way, isRefused: refused !== undefined }
}

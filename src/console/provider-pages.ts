// Provider connections of a workspace, on pages: how each one stands, a new one, another key, a check, and its end. A key that
// is typed into a form goes to the service, and into no page.
import Router from '@koa/router'
import type { Context } from 'koa'
import { API_PREFIX } from '../api/router.ts'
import { AppError } from '../errors.ts'
import { field, formBody } from '../http/forms.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { actorOf } from '../principals/service.ts'
import { findProviderType, PROVIDER_TYPES } from '../provider-types/registry.ts'
import { newCredentials } from '../providers/schemas.ts'
import {
  checkInBackground,
  checkProvider,
  createProvider,
  deleteProvider,
  getProvider,
  listProviders,
  type NewCredentials,
  type ProviderConnection,
  type ProvidersDeps,
  replaceProviderCredentials,
  requireFewerChecks,
} from '../providers/service.ts'
import type { Db } from '../store/database.ts'
import { type Frame, leadToSignIn, placeOfWorkspace, type WorkspaceVisit } from './frame.ts'
import { attempt, done, noticeOf } from './people.ts'
import { nameOf, providerView } from './provider-views.ts'
import type { FieldErrors } from './token-forms.ts'

export interface ProviderPagesDeps {
  db: Db
  issuer: string
  providers: ProvidersDeps & { soon(work: Promise<void>): void }
  frame: Frame
}

export function createProviderPages(deps: ProviderPagesDeps): Router {
  const router = new Router()
  const at = '/workspaces/:workspace_id/providers'
  router.use(leadToSignIn)
  router.get(at, (ctx) => showAll(deps, ctx))
  router.get(`${at}/new`, (ctx) => showNew(deps, ctx))
  router.post(`${at}/new`, formBody, (ctx) => postNew(deps, ctx))
  router.get(`${at}/:provider_id/replace`, (ctx) => showReplacement(deps, ctx))
  router.post(`${at}/:provider_id/replace`, formBody, (ctx) => postReplacement(deps, ctx))
  // Where a person comes back to after signing in again.
  router.get(`${at}/:provider_id/check`, async (ctx) => done(ctx, baseOf(await enter(deps, ctx, 'member'))))
  router.post(`${at}/:provider_id/check`, formBody, (ctx) => postCheck(deps, ctx))
  router.get(`${at}/:provider_id/delete`, (ctx) => showDeletion(deps, ctx))
  router.post(`${at}/:provider_id/delete`, formBody, (ctx) => postDeletion(deps, ctx))
  return router
}

const baseOf = ({ workspace }: WorkspaceVisit) => `/workspaces/${workspace.id}/providers`
const placeOf = (visit: WorkspaceVisit) => placeOfWorkspace(visit, 'providers')
const connectionAt = ({ db }: ProviderPagesDeps, ctx: Context, { workspace }: WorkspaceVisit) =>
  getProvider(db, workspace.id, String(ctx.params.provider_id))

async function enter({ frame }: ProviderPagesDeps, ctx: Context, least: 'member' | 'admin'): Promise<WorkspaceVisit> {
  return frame.workspace(ctx, await frame.session(ctx), least)
}

/** Whoever sends a form, from a page of their own. */
async function posted({ frame }: ProviderPagesDeps, ctx: Context): Promise<WorkspaceVisit> {
  return frame.workspace(ctx, await frame.posted(ctx), 'admin')
}

// --- All of them ----------------------------------------------------------------------------------------------------------

const NOTICES = {
  connected: 'The key is stored, encrypted. Whether it works is being checked.',
  replaced: 'The key is replaced, and the old one is gone from here. Whether the new one works is being checked.',
  checked: 'Checked. What came of it stands below.',
  deleted: 'The connection is deleted, and its key with it. No call goes through it any more.',
}

async function showAll(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  await sendAll(deps, ctx, await enter(deps, ctx, 'member'))
}

async function sendAll(deps: ProviderPagesDeps, ctx: Context, visit: WorkspaceVisit, error?: string): Promise<void> {
  const connections = await listProviders(deps.db, visit.workspace.id)
  const isAdmin = isAtLeast(visit.role, 'admin')
  const base = baseOf(visit)
  const callsAt = `${deps.issuer}${API_PREFIX}/proxy`
  const left = typesLeft(connections)
  deps.frame.send(ctx, visit.session, 'providers', placeOf(visit), {
    notice: noticeOf(ctx, NOTICES),
    error,
    isAdmin,
    connections: connections.map((connection) => providerView(connection, { base, callsAt, isAdmin })),
    newHref: left.length > 0 ? `${base}/new` : undefined,
    known: PROVIDER_TYPES.map(({ name }) => name),
    listHref: base,
  })
}

const typesLeft = (connections: readonly ProviderConnection[]) =>
  PROVIDER_TYPES.filter(({ type }) => connections.every(({ providerType }) => providerType !== type))

// --- The forms that take a key ----------------------------------------------------------------------------------------------

/** What is shown again of a form that was refused: all but the key. */
interface KeyForm {
  type: string
  address: string
  errors: FieldErrors
}

const KEY_PROBLEM = 'Paste the key as the provider shows it: 8 to 1,024 characters, without spaces in it.'
const OWN_CREDENTIAL = 'This is a credential of this server. Paste the provider’s own key.'

/** The key, the address, and what is wrong with them. */
function readCredentials(ctx: Context): {
  credentials: NewCredentials | undefined
  address: string
  errors: FieldErrors
} {
  const address = field(ctx, 'base_url').trim()
  const read = newCredentials.safeParse({
    credentials_type: 'api_token',
    credentials: { api_token: field(ctx, 'api_token').trim() },
    base_url: address === '' ? null : address,
  })
  if (read.success) {
    const { credentials, base_url } = read.data
    return { credentials: { apiToken: credentials.api_token, baseUrl: base_url ?? undefined }, address, errors: {} }
  }
  const ofKey = read.error.issues.filter(({ path }) => path[0] === 'credentials')
  const isOurs = ofKey.length > 0 && ofKey.every(({ code }) => code === 'custom')
  const isLong = read.error.issues.some(({ path }) => path[0] === 'base_url')
  return {
    credentials: undefined,
    address,
    errors: {
      ...(ofKey.length > 0 ? { key: isOurs ? OWN_CREDENTIAL : KEY_PROBLEM } : {}),
      ...(isLong ? { address: 'Use 500 characters at most.' } : {}),
    },
  }
}

/** Where a refusal of the service belongs on the form. */
function errorsOf({ field, detail }: AppError): FieldErrors {
  if (field === 'base_url') return { address: detail }
  return field === 'provider_type' ? { type: detail } : { all: detail }
}

async function showNew(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  const visit = await enter(deps, ctx, 'admin')
  deps.frame.requireRecentSignIn(visit.session)
  const [first] = typesLeft(await listProviders(deps.db, visit.workspace.id))
  await sendNew(deps, ctx, visit, { type: first?.type ?? '', address: '', errors: {} })
}

async function sendNew(deps: ProviderPagesDeps, ctx: Context, visit: WorkspaceVisit, form: KeyForm): Promise<void> {
  const left = typesLeft(await listProviders(deps.db, visit.workspace.id))
  const base = baseOf(visit)
  deps.frame.send(ctx, visit.session, 'provider-new', placeOf(visit), {
    workspace: visit.workspace.name,
    types: PROVIDER_TYPES.map((type) => ({
      value: type.type,
      text: type.name,
      hint: left.includes(type) ? `Keys such as ${type.example}` : 'Connected already',
      disabled: !left.includes(type),
    })),
    isFull: left.length === 0,
    form,
    action: `${base}/new`,
    back: base,
  })
}

async function postNew(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  const visit = await posted(deps, ctx)
  const { credentials, address, errors } = readCredentials(ctx)
  const type = findProviderType(field(ctx, 'provider_type'))
  const form = { type: type?.type ?? '', address, errors }
  if (credentials === undefined || type === undefined) {
    ctx.status = 400
    const untyped = type === undefined ? { type: 'Choose a provider.' } : {}
    return sendNew(deps, ctx, visit, { ...form, errors: { ...errors, ...untyped } })
  }
  const by = deps.frame.by(ctx, visit.session)
  const refused = await attempt(ctx, async () => {
    const made = await createProvider(deps.providers, { workspaceId: visit.workspace.id, type, credentials, ...by })
    deps.providers.soon(checkInBackground(deps.providers, made))
  })
  if (refused !== undefined) return sendNew(deps, ctx, visit, { ...form, errors: errorsOf(refused) })
  done(ctx, baseOf(visit), 'connected')
}

async function showReplacement(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  const visit = await enter(deps, ctx, 'admin')
  deps.frame.requireRecentSignIn(visit.session)
  const connection = await connectionAt(deps, ctx, visit)
  const form = { type: connection.providerType, address: connection.baseUrl ?? '', errors: {} }
  sendReplacement(deps, ctx, visit, { connection, form })
}

function sendReplacement(
  deps: ProviderPagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  { connection, form }: { connection: ProviderConnection; form: KeyForm },
): void {
  const base = baseOf(visit)
  deps.frame.send(ctx, visit.session, 'provider-replace', placeOf(visit), {
    name: nameOf(connection),
    example: findProviderType(connection.providerType)?.example,
    form,
    action: `${base}/${connection.id}/replace`,
    back: base,
  })
}

async function postReplacement(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  const visit = await posted(deps, ctx)
  const connection = await connectionAt(deps, ctx, visit)
  const { credentials, address, errors } = readCredentials(ctx)
  const form = { type: connection.providerType, address, errors }
  if (credentials === undefined) {
    ctx.status = 400
    return sendReplacement(deps, ctx, visit, { connection, form })
  }
  const by = deps.frame.by(ctx, visit.session)
  const target = { workspaceId: visit.workspace.id, id: connection.id, credentials, ...by }
  const refused = await attempt(ctx, async () => {
    const replaced = await replaceProviderCredentials(deps.providers, target)
    deps.providers.soon(checkInBackground(deps.providers, replaced))
  })
  if (refused !== undefined)
    return sendReplacement(deps, ctx, visit, { connection, form: { ...form, errors: errorsOf(refused) } })
  done(ctx, baseOf(visit), 'replaced')
}

// --- A check ----------------------------------------------------------------------------------------------------------------

async function postCheck(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  const visit = await posted(deps, ctx)
  const connection = await connectionAt(deps, ctx, visit)
  const { authority, request } = deps.frame.by(ctx, visit.session)
  try {
    await requireFewerChecks(deps.providers, connection.workspaceId)
    await checkProvider(deps.providers, connection, {
      actor: actorOf(authority),
      request,
      userId: visit.session.userId,
    })
  } catch (error) {
    if (!(error instanceof AppError)) throw error
    // Replaced or deleted while it was checked: the page says how it stands now.
    if (error.code === 'not_found') return done(ctx, baseOf(visit))
    if (error.code !== 'too_many_requests') throw error
    ctx.status = error.status
    return sendAll(
      deps,
      ctx,
      visit,
      'The providers of this workspace were checked twenty times within a minute. Wait a little.',
    )
  }
  done(ctx, baseOf(visit), 'checked')
}

// --- The end ----------------------------------------------------------------------------------------------------------------

async function showDeletion(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  const visit = await enter(deps, ctx, 'admin')
  await sendDeletion(deps, ctx, visit)
}

async function sendDeletion(
  deps: ProviderPagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  error?: string,
): Promise<void> {
  const connection = await connectionAt(deps, ctx, visit)
  const base = baseOf(visit)
  deps.frame.send(ctx, visit.session, 'provider-delete', placeOf(visit), {
    workspace: visit.workspace.name,
    connection: providerView(connection, { base, callsAt: `${deps.issuer}${API_PREFIX}/proxy`, isAdmin: true }),
    error,
    action: `${base}/${connection.id}/delete`,
    back: base,
  })
}

async function postDeletion(deps: ProviderPagesDeps, ctx: Context): Promise<void> {
  const visit = await posted(deps, ctx)
  const { id } = await connectionAt(deps, ctx, visit)
  const refused = await attempt(ctx, () =>
    deleteProvider(deps.providers, { workspaceId: visit.workspace.id, id, ...deps.frame.by(ctx, visit.session) }),
  )
  if (refused !== undefined) return sendDeletion(deps, ctx, visit, refused.detail)
  done(ctx, baseOf(visit), 'deleted')
}

// The pages between an authorization request and its answer: signing in, and approving a connection for a workspace.
import { createHash } from 'node:crypto'
import Router from '@koa/router'
import type { Context, Middleware } from 'koa'
import { errors } from 'oidc-provider'
import { type AccountsDeps, deviceMark, signIn } from '../accounts/service.ts'
import { isLoopback, provesReceiver } from '../clients/rules.ts'
import { type ClientRow, type Clients, present } from '../clients/service.ts'
import { beyond, cutToRole, isNothing, type Requested } from '../connections/rules.ts'
import { approve } from '../connections/service.ts'
import { type ConnectionFacts, listOpenOfPerson } from '../connections/store.ts'
import type { ConsentPage, Pages } from '../console/pages.ts'
import { Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { type FormTokens, field, formBody } from '../http/forms.ts'
import { formTarget, sendPage } from '../http/security-headers.ts'
import { requestInfo } from '../http/trace.ts'
import type { UserId } from '../ids.ts'
import { mayConnect } from '../organizations/rules.ts'
import { listReachableWorkspaces, type ReachableWorkspace } from '../organizations/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { reading } from '../store/database.ts'
import { accountOf } from './adapter.ts'
import { type ProviderHolder, settled } from './endpoints.ts'
import { DEVICE_COOKIE, DEVICE_COOKIE_OPTIONS } from './provider.ts'
import { serversOf } from './requests.ts'
import type { SettleDeps } from './settle.ts'
import { noteSignOut } from './unit-of-work.ts'

export interface InteractionsDeps extends SettleDeps, AccountsDeps {
  issuer: string
  secureCookies: boolean
  provider: ProviderHolder
  clients: Clients
  resourceServers: ResourceServers
  pages: Pages
  formTokens: FormTokens
}

export function createInteractions(deps: InteractionsDeps): Router {
  const router = new Router({ prefix: '/interaction/:uid' })
  const inUnit: Middleware = (ctx, next) => settled(deps, ctx, async () => void (await next()))
  router.use(inUnit)
  router.get('/', (ctx) => show(deps, ctx))
  router.post('/sign-in', formBody, (ctx) => postSignIn(deps, ctx))
  router.post('/consent', formBody, (ctx) => postConsent(deps, ctx))
  router.post('/switch', formBody, (ctx) => postSwitch(deps, ctx))
  // Where a form that was refused leaves the browser: its address, opened again, leads to the page.
  router.get(['/sign-in', '/consent', '/switch'], (ctx) => {
    ctx.status = 303
    ctx.redirect(`/interaction/${ctx.params.uid}`)
  })
  return router
}

type Interaction = Awaited<ReturnType<ProviderHolder['current']['interactionDetails']>>

/** The interaction that this browser's cookie and the address both name. @throws {AppError} `expired_interaction` */
async function findInteraction(deps: InteractionsDeps, ctx: Context): Promise<Interaction> {
  try {
    const interaction = await deps.provider.current.interactionDetails(ctx.req, ctx.res)
    if (interaction.uid === ctx.params.uid) return interaction
  } catch (error) {
    if (!(error instanceof errors.SessionNotFound)) throw error
  }
  throw new AppError('expired_interaction')
}

async function show(deps: InteractionsDeps, ctx: Context): Promise<void> {
  const interaction = await findInteraction(deps, ctx)
  return interaction.prompt.name === 'consent'
    ? showConsent(deps, ctx, interaction)
    : showSignIn(deps, ctx, interaction)
}

/** Answers the library and goes on where the request waits. */
async function finish(
  deps: InteractionsDeps,
  ctx: Context,
  result: Parameters<ProviderHolder['current']['interactionResult']>[2],
): Promise<void> {
  const returnTo = await deps.provider.current.interactionResult(ctx.req, ctx.res, result, {
    mergeWithLastSubmission: true,
  })
  ctx.status = 303
  ctx.redirect(returnTo)
}

async function clientOf(deps: InteractionsDeps, interaction: Interaction): Promise<ClientRow> {
  const client = await deps.clients.find(String(interaction.params.client_id))
  if (client === undefined) throw new AppError('expired_interaction')
  return client
}

function redirectTargets(interaction: Interaction): string[] {
  const target = formTarget(String(interaction.params.redirect_uri))
  return target === undefined ? [] : [target]
}

const purposeOf = (interaction: Interaction): string => `interaction ${interaction.uid}`

// --- Signing in ------------------------------------------------------------------------------------------------------

async function showSignIn(
  deps: InteractionsDeps,
  ctx: Context,
  interaction: Interaction,
  problem: { email?: string; error?: string; locked?: boolean } = {},
): Promise<void> {
  const client = await clientOf(deps, interaction)
  const hint = interaction.params.login_hint
  const html = deps.pages.signIn({
    host: new URL(deps.issuer).host,
    keylineSeed: client.id,
    action: `/interaction/${interaction.uid}/sign-in`,
    csrf: deps.formTokens.issue(purposeOf(interaction)),
    clientName: client.name,
    email: typeof hint === 'string' ? hint.slice(0, 254) : undefined,
    ...problem,
  })
  sendPage(ctx, html, redirectTargets(interaction))
}

async function postSignIn(deps: InteractionsDeps, ctx: Context): Promise<void> {
  const interaction = await findInteraction(deps, ctx)
  deps.formTokens.check(ctx, purposeOf(interaction))
  const email = field(ctx, 'email')
  const outcome = await signIn(deps, {
    email,
    password: new Secret(field(ctx, 'password')),
    device: ctx.cookies.get(DEVICE_COOKIE, { signed: true }),
    request: requestInfo(ctx),
  })
  if (outcome.ok) {
    ctx.cookies.set(DEVICE_COOKIE, deviceMark(email), {
      ...DEVICE_COOKIE_OPTIONS,
      secure: deps.secureCookies,
    })
    await finish(deps, ctx, { login: { accountId: outcome.userId, amr: ['pwd'], ts: outcome.signedInAt } })
    return forgetAnother(deps, ctx, interaction, outcome.userId)
  }
  if (outcome.reason === 'too_many') {
    const minutes = Math.ceil(outcome.retryAfterSeconds / 60)
    const wait = minutes === 1 ? 'a minute' : `${minutes} minutes`
    await showSignIn(deps, ctx, interaction, {
      email,
      error: `Too many tries. Wait ${wait}, then try again.`,
      locked: true,
    })
    ctx.status = 429
    ctx.set('Retry-After', String(outcome.retryAfterSeconds))
    return
  }
  await showSignIn(deps, ctx, interaction, {
    email,
    error: 'The email address or the password is not right. Try again.',
  })
}

/** "Not you?": the browser's session forgets who it is, and the same request asks to sign in. */
async function postSwitch(deps: InteractionsDeps, ctx: Context): Promise<void> {
  const interaction = await findInteraction(deps, ctx)
  deps.formTokens.check(ctx, purposeOf(interaction))
  // What was answered so far was another person's.
  Object.assign(interaction, { result: undefined, lastSubmission: undefined })
  await interaction.persist()
  await forgetPerson(await deps.provider.current.Session.get(ctx), interaction)
  ctx.status = 303
  ctx.redirect(interaction.returnTo)
}

/**
 * Another person signed in over a session (prompt=login). The library would end that one by a form that a script sends,
 * on a page whose policy does not let the form lead to the client; here it ends before the library looks.
 */
async function forgetAnother(
  deps: InteractionsDeps,
  ctx: Context,
  interaction: Interaction,
  userId: UserId,
): Promise<void> {
  const session = await deps.provider.current.Session.get(ctx)
  if (session.accountId !== undefined && session.accountId !== userId) await forgetPerson(session, interaction)
}

type Session = Awaited<ReturnType<ProviderHolder['current']['Session']['get']>>

/** It goes on as nobody's, for as long as the request may take. */
async function forgetPerson(session: Session, interaction: Interaction): Promise<void> {
  noteSignOut(session, 'person_changed')
  Object.assign(session, { accountId: undefined, loginTs: undefined, amr: undefined, authorizations: undefined })
  await session.save(Math.max(1, Math.ceil((interaction.exp ?? 0) - Date.now() / 1000)))
}

// --- Approving ---------------------------------------------------------------------------------------------------------

/** What the page offers. Made anew for the answer, so that nothing is approved that was not shown. */
interface Offer {
  client: ClientRow
  userId: UserId
  signedInAt: number
  requested: Requested
  servers: ResourceServer[]
  workspaces: ReachableWorkspace[]
  open: ConnectionFacts[]
}

async function makeOffer(deps: InteractionsDeps, ctx: Context, interaction: Interaction): Promise<Offer> {
  const client = await clientOf(deps, interaction)
  const session = await deps.provider.current.Session.get(ctx)
  const { accountId, loginTs } = session
  if (accountId === undefined || accountId !== interaction.session?.accountId) throw new AppError('expired_interaction')
  const userId = accountId as UserId // a session holds nothing else
  // Written by our own policy's prompt, and kept where only we write.
  const requested = interaction.prompt.details.requested as Requested
  const [servers, workspaces, open] = await Promise.all([
    serversOf(deps.resourceServers, requested),
    reading(listReachableWorkspaces(deps.db, userId)),
    reading(listOpenOfPerson(deps.db, userId, client.id)),
  ])
  return { client, userId, signedInAt: loginTs ?? 0, requested, servers, workspaces, open }
}

async function showConsent(
  deps: InteractionsDeps,
  ctx: Context,
  interaction: Interaction,
  error?: string,
): Promise<void> {
  const offer = await makeOffer(deps, ctx, interaction)
  const account = await accountOf(deps.db, offer.userId)
  if (account === undefined) throw new AppError('expired_interaction')
  const base = `/interaction/${interaction.uid}`
  const html = deps.pages.consent({
    host: new URL(deps.issuer).host,
    keylineSeed: offer.client.id,
    action: `${base}/consent`,
    switchAction: `${base}/switch`,
    csrf: deps.formTokens.issue(purposeOf(interaction)),
    shown: fingerprint(offer),
    client: describeClient(offer.client, String(interaction.params.redirect_uri)),
    account: { email: account.email, name: account.name },
    workspaces: describeWorkspaces(offer, interaction.params.workspace),
    can: describeScopes(offer),
    error,
  })
  sendPage(ctx, html, redirectTargets(interaction))
}

async function postConsent(deps: InteractionsDeps, ctx: Context): Promise<void> {
  const interaction = await findInteraction(deps, ctx)
  deps.formTokens.check(ctx, purposeOf(interaction))
  if (interaction.prompt.name !== 'consent') throw new AppError('expired_interaction')
  if (field(ctx, 'answer') !== 'approve') {
    return finish(deps, ctx, { error: 'access_denied', error_description: 'the person did not approve the connection' })
  }
  const offer = await makeOffer(deps, ctx, interaction)
  if (field(ctx, 'shown') !== fingerprint(offer)) {
    return showConsent(
      deps,
      ctx,
      interaction,
      'What this app asks for has changed since the page was shown. Look again, then choose.',
    )
  }
  const workspaceId = field(ctx, 'workspace')
  if (workspaceId === '') return showConsent(deps, ctx, interaction, 'Choose a workspace, or do not connect.')
  const outcome = await approve(deps.db, {
    userId: offer.userId,
    signedInAt: offer.signedInAt,
    clientId: offer.client.id,
    workspaceId,
    requested: offer.requested,
    servers: offer.servers,
    request: requestInfo(ctx),
  })
  if (outcome.ok) return finish(deps, ctx, { consent: { grantId: outcome.connectionId } })
  if (outcome.reason === 'signed_out' || outcome.reason === 'client_gone') throw new AppError('expired_interaction')
  return showConsent(deps, ctx, interaction, WHY_NOT[outcome.reason])
}

const WHY_NOT = {
  no_role: 'You cannot connect an app to that workspace. Choose another one, or ask its admin.',
  nothing_granted:
    'Your role in that workspace allows none of what this app asks for. Choose another one, or ask its admin.',
  suspended:
    'Your connection of this app to that workspace is suspended. Choose another one, or ask its admin to restore it.',
}

/** Of all that the page says and the answer approves. */
function fingerprint(offer: Offer): string {
  const shown = [offer.client.id, offer.client.name, offer.userId, offer.requested, offer.servers]
  return createHash('sha256').update(JSON.stringify(shown)).digest('base64url')
}

function describeClient(client: ClientRow, redirectUri: string): ConsentPage['client'] {
  const url = URL.parse(redirectUri)
  const https = provesReceiver(redirectUri)
  const website = present(client).redirect_uris.find(provesReceiver)
  return {
    name: client.name,
    host: (https ? url?.hostname : URL.parse(website ?? '')?.hostname) ?? '',
    verified: true, // every client is registered by the operator so far
    sendsBackTo: https
      ? (url?.hostname ?? '')
      : isLoopback(redirectUri)
        ? 'a program on this computer'
        : (url?.protocol ?? ''),
    unproved: !https,
  }
}

function describeWorkspaces(offer: Offer, wanted: unknown): ConsentPage['workspaces'] {
  const usable = offer.workspaces.filter((workspace) => canConnect(offer, workspace))
  const chosen = usable.find((workspace) => workspace.id === wanted) ?? (usable.length === 1 ? usable[0] : undefined)
  return offer.workspaces.map((workspace) => {
    const { id, name, organizationName, role } = workspace
    const state = usable.includes(workspace) ? ('open' as const) : ('disabled' as const)
    return { id, name, organizationName, role, state, note: noteOn(offer, workspace), chosen: workspace === chosen }
  })
}

function canConnect(offer: Offer, workspace: ReachableWorkspace): boolean {
  if (isSuspended(offer, workspace)) return false
  return mayConnect(workspace.role) && !isNothing(cutToRole(offer.requested, offer.servers, workspace.role))
}

/** An approval must not walk around that. */
function isSuspended(offer: Offer, workspace: ReachableWorkspace): boolean {
  return offer.open.some((facts) => facts.workspaceId === workspace.id && facts.suspendedAt !== null)
}

function noteOn(offer: Offer, workspace: ReachableWorkspace): string | undefined {
  if (isSuspended(offer, workspace))
    return 'Your connection of this app here is suspended. Ask an admin of this workspace to restore it.'
  if (!mayConnect(workspace.role)) return 'Viewers cannot connect apps. Ask an admin of this workspace.'
  if (!canConnect(offer, workspace))
    return 'Your role here allows none of what this app asks for. Ask an admin of this workspace.'
  const granted = cutToRole(offer.requested, offer.servers, workspace.role)
  const connected = offer.open.find((facts) => facts.workspaceId === workspace.id)
  const withheld = offer.servers.flatMap((server) =>
    server.scopes.filter(({ name }) => has(offer.requested, server, name) && !has(granted, server, name)),
  )
  const notes = [
    connected === undefined
      ? ''
      : isNothing(beyond(granted, connected.approved))
        ? 'Connected already.'
        : 'Connected already, with fewer permissions.',
    ...withheld.map((scope) => `Without “${scope.sentence}”, which takes ${anyOf(scope.leastRole)} to allow.`),
  ]
  return notes.filter(Boolean).join(' ') || undefined
}

function has(requested: Requested, server: ResourceServer, scope: string): boolean {
  return requested.resources[server.identifier]?.includes(scope) ?? false
}

const OPENID_SENTENCES: Record<string, string> = {
  openid: 'Know that it is you',
  profile: 'See your name',
  email: 'See your email address',
}

const anyOf = (role: string): string => (role === 'member' ? 'a member' : `an ${role}`)

/**
 * In the catalogue's own words. New is what the one connection that stands does not have yet. What the person's role allows
 * in none of the workspaces is left out: each of those says so itself.
 */
function describeScopes(offer: Offer): ConsentPage['can'] {
  const [only, ...others] = offer.open
  const news = only !== undefined && others.length === 0 ? beyond(offer.requested, only.approved) : undefined
  const granted = offer.workspaces
    .filter((workspace) => canConnect(offer, workspace))
    .map((workspace) => cutToRole(offer.requested, offer.servers, workspace.role))
  const ofServers = offer.servers.flatMap((server) =>
    server.scopes.flatMap(({ name, sentence, leastRole }) => {
      const places = granted.filter((there) => has(there, server, name)).length
      if (places === 0) return []
      const detail = places < granted.length ? `Only where you are ${anyOf(leastRole)}.` : undefined
      return [{ sentence, detail, isNew: news !== undefined && has(news, server, name) }]
    }),
  )
  const ofPerson = offer.requested.openidScopes.flatMap((scope) => {
    const sentence = OPENID_SENTENCES[scope]
    return sentence === undefined ? [] : [{ sentence, isNew: news?.openidScopes.includes(scope) ?? false }]
  })
  const staying = present(offer.client).grant_types.includes('refresh_token')
    ? [
        {
          sentence: 'Stay connected while you are away',
          detail: 'Until the connection is ended, or has not been used for a while.',
          isNew: false,
        },
      ]
    : []
  return [...ofServers, ...ofPerson, ...staying]
}

// Composition root: opens the stores, builds every room once, mounts the routes, and closes all of it again.
import { createHash } from 'node:crypto'
import type { Server } from 'node:http'
import { join } from 'node:path'
import type { Context, Middleware } from 'koa'
import { sql } from 'kysely'
import type { AccountsDeps } from './accounts/service.ts'
import { createApiDescription } from './api/description.ts'
import { createOpenApi } from './api/openapi.ts'
import { bearerChallenge, INVALID_TOKEN } from './api/principal.ts'
import type { Route } from './api/route.ts'
import { API_PREFIX, createApiRouter } from './api/router.ts'
import { createSealer } from './audit/sealer.ts'
import { type Clients, createClients } from './clients/service.ts'
import type { Config } from './config.ts'
import { connectionRoutes } from './connections/routes.ts'
import { type ConnectionReads, createConnectionReads } from './connections/service.ts'
import { createAccountDeletion } from './console/account-deletion.ts'
import { createAccountPages } from './console/account-pages.ts'
import { createAccountSignOut } from './console/account-sign-out.ts'
import { createApiReference } from './console/api-reference.ts'
import { createAuditPages } from './console/audit-pages.ts'
import { createConnectionPages } from './console/connection-pages.ts'
import { createFrame } from './console/frame.ts'
import { createHome } from './console/home.ts'
import { createInvitationPages } from './console/invitation-pages.ts'
import { createInvitingPages } from './console/inviting-pages.ts'
import { createLibraryPages } from './console/library-pages.ts'
import { createOrganizationPages } from './console/organization-pages.ts'
import { createPages } from './console/pages.ts'
import { createProviderPages } from './console/provider-pages.ts'
import { createReviewPages } from './console/review-pages.ts'
import { createSignIn } from './console/sign-in.ts'
import { createSpendingPages } from './console/spending-pages.ts'
import { createTokenPages } from './console/token-pages.ts'
import { createUsagePages } from './console/usage-pages.ts'
import { createWorkspacePages } from './console/workspace-pages.ts'
import { createDataKeys } from './crypto/data-keys.ts'
import { createEnvelope, keyId } from './crypto/envelope.ts'
import { type Keys, loadKeys } from './crypto/keys.ts'
import { createPasswords } from './crypto/passwords.ts'
import type { Secret } from './crypto/secret.ts'
import { evidenceRoutes } from './evidence/routes.ts'
import { deleteExpired } from './families/store.ts'
import { createAssets } from './http/assets.ts'
import type { AnswerForm } from './http/errors.ts'
import { createFormTokens } from './http/forms.ts'
import { createFront, type PostedForm } from './http/front.ts'
import type { Log } from './http/log.ts'
import { createKeptMetadata, type KeptMetadata } from './http/metadata.ts'
import { createOriginPin } from './http/origin.ts'
import { createOutbound, type Outbound } from './http/outbound.ts'
import { mounted } from './http/router.ts'
import { createApplication, createHttpServer } from './http/server.ts'
import { createSoon } from './http/soon.ts'
import { deleteOldKeys } from './idempotency/service.ts'
import { invitationRoutes } from './invitations/routes.ts'
import { jobRecordRoutes } from './job-records/routes.ts'
import { defineJobs } from './jobs/schedule.ts'
import { createJobs, type Jobs } from './jobs/service.ts'
import { type MasterKeys, requireKeysInUse } from './key-rotation/service.ts'
import { createLogoutDelivery } from './logout/service.ts'
import { deleteExpiredClientSessions } from './logout/store.ts'
import { createMailer } from './mail/service.ts'
import { createAccessTokens } from './oauth/access-tokens.ts'
import { createBrowserSessions } from './oauth/browser-sessions.ts'
import { createEndpoints, endpointAt, introspect, type ProviderHolder } from './oauth/endpoints.ts'
import { createFeed } from './oauth/feed.ts'
import { createInteractions } from './oauth/interactions.ts'
import { cookieKeys, createProvider, OWN_PATHS } from './oauth/provider.ts'
import { createTokens } from './oauth/tokens.ts'
import { organizationRoutes } from './organizations/routes.ts'
import { providerRoutes } from './providers/routes.ts'
import { proxyRoutes } from './proxy/routes.ts'
import type { ProxyDeps } from './proxy/service.ts'
import { noticeRoutes } from './reminders/routes.ts'
import type { Unmailed } from './reminders/rules.ts'
import { createOwnResourceMetadata } from './resource-servers/routes.ts'
import { createResourceServers, type ResourceServers } from './resource-servers/service.ts'
import { reviewRoutes } from './reviews/routes.ts'
import { createOutside, type Outside } from './revocation/outside.ts'
import { createRevocationList, type RevocationList } from './revocation/service.ts'
import { deleteExpiredEntries } from './revocation/store.ts'
import { consequencesRoutes } from './role-previews/routes.ts'
import { createSink, type Sink } from './sink/service.ts'
import { createSinkSigner, type SinkSigner } from './sink/signing.ts'
import { spendingRoutes } from './spending/routes.ts'
import type { Db, OpenedDatabase } from './store/database.ts'
import { type EphemeralStore, sealEphemeral } from './store/ephemeral.ts'
import { createPostgresEphemeralStore } from './store/ephemeral-postgres.ts'
import { createRedisEphemeralStore } from './store/ephemeral-redis.ts'
import { monthsAhead, pendingMigrations } from './store/migrate.ts'
import { createTour } from './tour/routes.ts'
import { setUpTour } from './tour/service.ts'
import { usageRoutes } from './usage/routes.ts'
import { createUses, type Uses } from './uses/service.ts'
import { deleteOldUses } from './uses/store.ts'
import { validationRoutes } from './validation/routes.ts'
import { createValidation } from './validation/service.ts'
import { createVerification } from './verification/service.ts'
import { tokenRoutes } from './workspace-tokens/routes.ts'
import { commitDueCutovers } from './workspace-tokens/service.ts'

export const ROOT = join(import.meta.dirname, '..')
const VIEWS = join(ROOT, 'views')
export const MIGRATIONS = join(ROOT, 'migrations')

/** What commands and requests work with: the stores, opened, and the services over them. */
export interface Services {
  db: Db
  master: MasterKeys
  keys: Keys
  ephemeral: EphemeralStore
  accounts: AccountsDeps
  clients: Clients
  resourceServers: ResourceServers
  reads: ConnectionReads
  revocations: RevocationList
  outside: Outside
  sink: Sink
  signer: SinkSigner
  /** Calls to addresses that somebody else chose. */
  outbound: Outbound
  providers: ProxyDeps['providers']
  jobs: Jobs
}

export interface App extends Services {
  server: Server
  /** What the JSON API serves. */
  apiRoutes: readonly Route[]
  uses: Uses
  /** The tour, where there is one; with the password of its person when they were made just now. */
  tour: { password: Secret | undefined } | undefined
  /** Stops taking requests, finishes those that run, closes what was opened here. */
  close(): Promise<void>
}

/** @param opened stays the caller's to close; @param masterKeys newest first */
export async function createServices(
  config: Config,
  opened: OpenedDatabase,
  masterKeys: readonly Buffer[],
  log: Log,
): Promise<Services & { sweepEphemeral(): Promise<number>; close(): Promise<void> }> {
  const { db } = opened
  const master = { envelope: createEnvelope(masterKeys), ids: masterKeys.map(keyId) }
  const keys = await loadKeys(db, master.envelope)
  const plain = openEphemeral(config, db, log)
  const sealer = createEnvelope(keys.server.ephemeral.map(({ key }) => key))
  const ephemeral = sealEphemeral(plain, sealer, (kind) =>
    log.error({ kind }, 'an entry of the ephemeral store was not written by us'),
  )
  const accounts = { db, ephemeral, passwords: createPasswords() }
  const outbound = createOutbound({ reach: config.outboundReach })
  // Commands change it without following it.
  const sink = createSink(config.sink)
  const signer = createSinkSigner(masterKeys)
  const outside = createOutside({ db, sink, signer, onError: createErrorLog(log, 'sink') })
  const revocations = createRevocationList(opened, {
    onError: createErrorLog(log, 'revocation list'),
    outside,
    onBehind: (missing) => log.error(missing, 'the database is behind its sink: run latchkey restore-check'),
  })
  const soon = createSoon()
  const dataKeys = createDataKeys(master.envelope)
  const onError = createErrorLog(log, 'a provider connection')
  const providers = {
    db,
    ephemeral,
    dataKeys,
    outbound,
    onError,
    soon: soon.add,
    onUnrecorded: ({ workspaceId, traceId }: { workspaceId: string; traceId: string }, err: Error) =>
      log.error(
        { workspace_id: workspaceId, trace_id: traceId, err },
        'what a call of a provider used is not recorded',
      ),
    checking: new Set<string>(),
  }
  const background = createBackground(config, opened, { db, revocations, signer, providers }, log)
  return {
    db,
    master,
    keys,
    ephemeral,
    accounts,
    clients: createClients(db, revocations, outbound),
    reads: createConnectionReads(db),
    resourceServers: createResourceServers(db, config.issuer),
    revocations,
    outside,
    sink,
    signer,
    outbound,
    providers,
    jobs: background.jobs,
    sweepEphemeral: async () => (await plain.sweep?.(SWEEP_BATCH)) ?? 0,
    async close() {
      await soon.settled()
      background.mailer?.close()
      await revocations.close()
      await ephemeral.close()
    },
  }
}

const UNMAILED: Record<Unmailed, string> = {
  no_mail_server: 'a notice is not mailed from here: SMTP_URL is not set',
  nobody: 'a notice is not mailed: nobody who administers the workspace can sign in',
  refused: 'a mail of a notice was refused for good: nobody has that address',
}

/** Jobs, and the mail that they send; they run once they are started. */
function createBackground(
  config: Config,
  opened: OpenedDatabase,
  deps: Pick<Services, 'db' | 'revocations' | 'signer' | 'providers'>,
  log: Log,
) {
  const jobs = createJobs({
    source: opened.source,
    isHeldBack: () => deps.revocations.trouble() !== undefined,
    onError: createErrorLog(log, 'a background job'),
  })
  const mailer = config.mail && createMailer(config.mail)
  defineJobs({
    ...deps,
    jobs,
    mailer,
    issuer: config.issuer,
    reviewEvery: config.reviewEvery,
    onUnmailed: ({ workspaceId, kind, why }) => log.info({ workspace_id: workspaceId, kind }, UNMAILED[why]),
  })
  return { jobs, mailer }
}

function openEphemeral(
  config: Config,
  db: Db,
  log: Log,
): EphemeralStore & { sweep?: (limit: number) => Promise<number> } {
  if (config.redisUrl === undefined) return createPostgresEphemeralStore({ db })
  // Several installations may share a Redis: each has its own keys, and finds only those.
  const prefix = `latchkey:${createHash('sha256').update(config.issuer).digest('hex').slice(0, 12)}`
  return createRedisEphemeralStore({
    url: config.redisUrl.reveal(),
    prefix,
    onError: createErrorLog(log, 'redis'),
  })
}

/** What routes are made of: the services, and what decides and shows over them. */
async function createParts(config: Config, services: Awaited<ReturnType<typeof createServices>>, log: Log) {
  const { db, keys } = services
  const { issuer, lifetimes } = config
  const secureCookies = issuer.startsWith('https:')
  const assets = createAssets(join(VIEWS, 'assets'))
  const pages = createPages({ viewsDir: VIEWS, assets })
  const libraryPages = createLibraryPages(pages, issuer)
  const provider: ProviderHolder = {
    current: createProvider({ ...services, issuer, lifetimes, secureCookies, pages: libraryPages }),
  }
  const formKey = keys.server.forms[0]?.key ?? Buffer.alloc(0)
  const uses = createUses(db, createErrorLog(log, 'record of uses'))
  const verifying = {
    ...services,
    issuer,
    uses,
    verification: createVerification({ ...services, uses }),
    accessTokens: createAccessTokens({ ...services, issuer }),
  }
  const parts = {
    ...verifying,
    ...lifetimes,
    lifetimes,
    passwords: services.accounts.passwords,
    secureCookies,
    assets,
    pages,
    libraryPages,
    provider,
    viewsDir: VIEWS,
    cursorKey: formKey,
    formTokens: createFormTokens(formKey),
    feed: createFeed(services.revocations, formKey),
    tokens: createTokens(verifying),
    validation: createValidation(verifying),
    tour: config.tour ? await setUpTour({ ...services, issuer }, { traceId: 'tour' }) : undefined,
  }
  const sessions = createBrowserSessions(parts)
  return { ...parts, sessions, frame: createFrame({ ...parts, sessions }) }
}

type Parts = Awaited<ReturnType<typeof createParts>>

/** What answers inside the application, in order. */
function createRoutes(parts: Parts, apiRoutes: readonly Route[], metadata: KeptMetadata): Middleware[] {
  const { issuer, tour } = parts
  const document = createOpenApi(issuer, apiRoutes)
  return [
    createOwnResourceMetadata(issuer),
    metadata.middleware,
    createEndpoints(parts),
    mounted(createInteractions(parts)),
    createApiDescription(document),
    createApiReference({ ...parts, document }),
    mounted(createApiRouter(parts, apiRoutes)),
    ...(tour === undefined ? [] : [mounted(createTour({ ...parts, tour }))]),
    ...[
      createSignIn(parts),
      createAccountSignOut(parts),
      createAccountDeletion(parts),
      createTokenPages(parts),
      createConnectionPages(parts),
      createAuditPages(parts),
      createProviderPages(parts),
      createUsagePages(parts),
      createSpendingPages(parts),
      createReviewPages(parts),
      createAccountPages(parts),
      createOrganizationPages(parts),
      createWorkspacePages(parts),
      createInvitationPages(parts),
      createInvitingPages(parts),
    ].map(mounted),
    createHome({ issuer, pages: parts.pages, tourHref: tour === undefined ? undefined : '/try' }),
  ]
}

/** How each address speaks of failures. */
function formOf(ctx: Context): AnswerForm {
  const endpoint = endpointAt(ctx.path)
  if (endpoint !== undefined) return endpoint.form
  if (ctx.path.startsWith(`${API_PREFIX}/`)) return 'problem'
  return ctx.path.startsWith('/interaction/') || ctx.accepts('json', 'html') === 'html' ? 'page' : 'problem'
}

/** Builds the server; it listens when the caller says so. */
export async function createApp(
  config: Config,
  opened: OpenedDatabase,
  masterKeys: readonly Buffer[],
  log: Log,
): Promise<App> {
  await requireKeysInUse(opened.db, masterKeys)
  const services = await createServices(config, opened, masterKeys, log)
  const { db, ephemeral, keys, revocations } = services
  const { issuer } = config
  const parts = await createParts(config, services, log)
  const apiRoutes = [
    ...organizationRoutes(parts),
    ...consequencesRoutes(parts),
    ...invitationRoutes(parts),
    ...connectionRoutes(parts),
    ...tokenRoutes(parts),
    ...reviewRoutes(parts),
    ...noticeRoutes(parts),
    ...validationRoutes(parts),
    ...jobRecordRoutes(parts),
    ...evidenceRoutes(parts),
    ...usageRoutes(parts),
    ...spendingRoutes(parts),
    ...providerRoutes(parts),
    ...proxyRoutes(parts),
  ]
  const longBodies = new Set(
    apiRoutes.filter((route) => route.mostBodyBytes !== undefined).map(({ path }) => `${API_PREFIX}${path}`),
  )
  const metadata = createKeptMetadata()
  const app = createApplication({
    log,
    issuer,
    cookieKeys: cookieKeys(keys),
    assets: parts.assets,
    pages: parts.libraryPages,
    formOf,
    takesLongBodies: (path) => longBodies.has(path),
    health: { notReady: () => notReady(db, ephemeral, revocations) },
    requireSound: revocations.requireSound,
    routes: createRoutes(parts, apiRoutes, metadata),
  })
  const forms = new Map([[OWN_PATHS.introspection, (form: PostedForm) => introspect(parts, form)]])
  const server = createHttpServer(
    createOriginPin(issuer, config.trustedProxies),
    createFront(
      { log, issuer, document: metadata.find, requireSound: revocations.requireSound, forms },
      app.callback(),
    ),
    bearerChallenge(issuer, [INVALID_TOKEN]),
  )
  await revocations.start()
  parts.uses.start()
  const sealer = createSealer({
    ...services,
    isHeldBack: () => revocations.trouble() !== undefined,
    onError: createErrorLog(log, 'sealer of the audit log'),
  })
  sealer.start()
  const sweeper = startSweeping(db, services.sweepEphemeral, log)
  const cutovers = startCutovers(services, log)
  const logouts = createLogoutDelivery({
    db,
    keys,
    issuer,
    post: (url, body) => services.outbound.send({ ...LOGOUT_POST, url, body }),
    onError: createErrorLog(log, 'delivery of logouts'),
  })
  server.once('listening', () => {
    logouts.start() // by those that serve
    services.jobs.start()
  })
  return {
    ...services,
    server,
    apiRoutes,
    uses: parts.uses,
    tour: parts.tour,
    async close() {
      clearInterval(sweeper)
      clearInterval(cutovers)
      parts.feed.close()
      await Promise.all([drain(server), logouts.close(), services.jobs.stop()])
      await parts.uses.close()
      await sealer.close()
      await services.close()
    },
  }
}

/** How clients are told of logouts; of what they answer, the status counts. */
const LOGOUT_POST = {
  method: 'POST',
  headers: { 'content-type': 'application/x-www-form-urlencoded' },
  reads: 'status',
} as const

const QUIET_MS = 10_000

/** A store that is down says so at every try to reach it: one line in ten seconds is enough. */
export function createErrorLog(log: Log, store: string): (error: Error) => void {
  let quietUntil = 0
  return (error) => {
    if (performance.now() < quietUntil) return
    quietUntil = performance.now() + QUIET_MS
    log.warn({ err: error }, `${store} is unavailable`)
  }
}

async function notReady(db: Db, ephemeral: EphemeralStore, revocations: RevocationList): Promise<string[]> {
  const asked: Array<[string, Promise<unknown>]> = [
    ['database', sql`select 1`.execute(db)],
    ['ephemeral store', ephemeral.ping()],
    [
      'migrations',
      pendingMigrations(db, MIGRATIONS).then((names) =>
        names.length > 0 ? Promise.reject(new Error('pending')) : names,
      ),
    ],
  ]
  const outcomes = await Promise.allSettled(asked.map(([, promise]) => promise))
  const failed = asked.filter((_, index) => outcomes[index]?.status === 'rejected').map(([name]) => name)
  const trouble = revocations.trouble() ?? (revocations.isLive() ? undefined : 'revocation list')
  return trouble === undefined ? failed : [...failed, trouble]
}

const SWEEP_EVERY_MS = 60_000
const SWEEP_BATCH = 5_000

/** A batch at a time, so that no statement is long; as many as there are. */
async function untilEmpty(sweepBatch: () => Promise<number>): Promise<void> {
  while ((await sweepBatch()) >= SWEEP_BATCH) await new Promise((resolve) => setImmediate(resolve))
}

/** Deletes what has expired; several processes may do it at once. */
function startSweeping(db: Db, sweepEphemeral: () => Promise<number>, log: Log): NodeJS.Timeout {
  const watchMonths = createMonthsWatch(db, log)
  const sweep = async () => {
    try {
      await watchMonths()
      await untilEmpty(() => deleteExpired(db, SWEEP_BATCH))
      await untilEmpty(() => deleteExpiredEntries(db, SWEEP_BATCH))
      await untilEmpty(() => deleteOldUses(db, SWEEP_BATCH))
      await untilEmpty(() => deleteOldKeys(db, SWEEP_BATCH))
      await untilEmpty(() => deleteExpiredClientSessions(db, SWEEP_BATCH))
      await untilEmpty(sweepEphemeral)
    } catch (error) {
      log.warn({ err: error }, 'sweeping failed and is tried again')
    }
  }
  return setInterval(sweep, SWEEP_EVERY_MS).unref()
}

const DAY_MS = 86_400_000
const FEW_MONTHS = 3

/** Says once a day that the months ahead will run out: what comes after them would share one partition for good. */
function createMonthsWatch(db: Db, log: Log): () => Promise<void> {
  let lookedAt = Number.NEGATIVE_INFINITY
  return async () => {
    if (performance.now() - lookedAt < DAY_MS) return
    const months = await monthsAhead(db)
    lookedAt = performance.now()
    if (months < FEW_MONTHS)
      log.warn({ months }, 'the audit log or the log of usage has few months ahead: run latchkey migrate')
  }
}

const CUTOVERS_EVERY_MS = 500
const CUTOVERS_BATCH = 100

/** Writes down the cutovers whose time has come; one round at a time. */
function startCutovers(services: Services, log: Log): NodeJS.Timeout {
  let running = false
  const run = async () => {
    if (running || services.revocations.trouble() !== undefined) return
    running = true
    try {
      await commitDueCutovers(services, CUTOVERS_BATCH)
    } catch (error) {
      log.warn({ err: error }, 'a cutover failed and is tried again')
    } finally {
      running = false
    }
  }
  return setInterval(run, CUTOVERS_EVERY_MS).unref()
}

const DRAIN_MS = 10_000

/** Takes no more requests, lets those that run finish, and after ten seconds cuts what is left. */
async function drain(server: Server): Promise<void> {
  if (!server.listening) return
  const closed = new Promise<void>((resolve) => server.close(() => resolve()))
  server.closeIdleConnections()
  const cut = setTimeout(() => server.closeAllConnections(), DRAIN_MS)
  await closed
  clearTimeout(cut)
}

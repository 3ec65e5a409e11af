// Composition root: opens the stores, builds every room once, mounts the routes, and closes all of it again.
import { createHash } from 'node:crypto'
import type { Server } from 'node:http'
import { join } from 'node:path'
import { sql } from 'kysely'
import type { AccountsDeps } from './accounts/service.ts'
import { type Clients, createClients } from './clients/service.ts'
import type { Config } from './config.ts'
import { type ConnectionReads, createConnectionReads } from './connections/service.ts'
import { createHome } from './console/home.ts'
import { createLibraryPages } from './console/library-pages.ts'
import { createPages } from './console/pages.ts'
import { createEnvelope, type Envelope } from './crypto/envelope.ts'
import { type Keys, loadKeys } from './crypto/keys.ts'
import { createPasswords } from './crypto/passwords.ts'
import type { Secret } from './crypto/secret.ts'
import { deleteExpired } from './families/store.ts'
import { createAssets } from './http/assets.ts'
import { createFormTokens } from './http/forms.ts'
import type { Log } from './http/log.ts'
import { createKeptMetadata } from './http/metadata.ts'
import { createOriginPin } from './http/origin.ts'
import { mounted } from './http/router.ts'
import { createApplication, createHttpServer } from './http/server.ts'
import { createEndpoints, endpointAt, type ProviderHolder } from './oauth/endpoints.ts'
import { createInteractions } from './oauth/interactions.ts'
import { cookieKeys, createProvider } from './oauth/provider.ts'
import { createTokens } from './oauth/tokens.ts'
import { createOwnResourceMetadata } from './resource-servers/routes.ts'
import { createResourceServers, type ResourceServers } from './resource-servers/service.ts'
import { deleteExpiredEntries } from './revocation/store.ts'
import type { Db, OpenedDatabase } from './store/database.ts'
import { type EphemeralStore, sealEphemeral } from './store/ephemeral.ts'
import { createPostgresEphemeralStore } from './store/ephemeral-postgres.ts'
import { createRedisEphemeralStore } from './store/ephemeral-redis.ts'
import { pendingMigrations } from './store/migrate.ts'
import { createTour } from './tour/routes.ts'
import { setUpTour } from './tour/service.ts'

export const ROOT = join(import.meta.dirname, '..')
export const MIGRATIONS = join(ROOT, 'migrations')

/** What commands and requests work with: the stores, opened, and the services over them. */
export interface Services {
  db: Db
  keys: Keys
  ephemeral: EphemeralStore
  accounts: AccountsDeps
  clients: Clients
  resourceServers: ResourceServers
  reads: ConnectionReads
}

export interface App extends Services {
  server: Server
  /** The tour, where there is one; with the password of its person when they were made just now. */
  tour: { password: Secret | undefined } | undefined
  /** Stops taking requests, finishes those that run, closes what was opened here. */
  close(): Promise<void>
}

/** @param opened stays the caller's to close */
export async function createServices(config: Config, opened: OpenedDatabase, envelope: Envelope, log: Log) {
  const { db } = opened
  const keys = await loadKeys(db, envelope)
  const plain = openEphemeral(config, db, log)
  const sealer = createEnvelope(keys.server.ephemeral.map(({ key }) => key))
  const ephemeral = sealEphemeral(plain, sealer, (kind) =>
    log.error({ kind }, 'an entry of the ephemeral store was not written by us'),
  )
  const accounts = { db, ephemeral, passwords: createPasswords() }
  return {
    db,
    keys,
    ephemeral,
    accounts,
    clients: createClients(db),
    reads: createConnectionReads(db),
    resourceServers: createResourceServers(db, config.issuer),
    sweepEphemeral: async () => (await plain.sweep?.(SWEEP_BATCH)) ?? 0,
    close: () => ephemeral.close(),
  }
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

/** Builds the server; it listens when the caller says so. */
export async function createApp(config: Config, opened: OpenedDatabase, envelope: Envelope, log: Log): Promise<App> {
  const services = await createServices(config, opened, envelope, log)
  const { db, ephemeral, keys } = services
  const { issuer, lifetimes } = config
  const secureCookies = issuer.startsWith('https:')
  const assets = createAssets(join(ROOT, 'views/assets'))
  const pages = createPages({ viewsDir: join(ROOT, 'views'), assets })
  const libraryPages = createLibraryPages(pages, issuer)
  const provider: ProviderHolder = {
    current: createProvider({ ...services, issuer, lifetimes, secureCookies, pages: libraryPages }),
  }
  const formTokens = createFormTokens(keys.server.forms[0]?.key ?? Buffer.alloc(0))
  const settleDeps = { db, ephemeral, refreshGraceSeconds: lifetimes.refreshGraceSeconds }
  const shared = {
    ...services,
    ...settleDeps,
    passwords: services.accounts.passwords,
    issuer,
    provider,
    pages,
    formTokens,
    secureCookies,
  }
  const tokens = createTokens({ ...services, issuer })
  const tour = config.tour ? await setUpTour({ ...services, issuer }, { traceId: 'tour' }) : undefined
  const app = createApplication({
    log,
    issuer,
    cookieKeys: cookieKeys(keys),
    assets,
    pages: libraryPages,
    formOf: (ctx) =>
      endpointAt(ctx.path)?.form ??
      (ctx.path.startsWith('/interaction/') || ctx.accepts('json', 'html') === 'html' ? 'page' : 'problem'),
    health: { notReady: () => notReady(db, ephemeral) },
    routes: [
      createOwnResourceMetadata(issuer),
      createKeptMetadata(),
      createEndpoints({ ...shared, tokens }),
      mounted(createInteractions(shared)),
      ...(tour === undefined ? [] : [mounted(createTour({ ...shared, tour, tokens }))]),
      createHome({ issuer, pages, tourHref: tour === undefined ? undefined : '/try' }),
    ],
  })
  const server = createHttpServer(createOriginPin(issuer, config.trustedProxies), app.callback())
  const sweeper = startSweeping(db, services.sweepEphemeral, log)
  return {
    ...services,
    server,
    tour,
    async close() {
      clearInterval(sweeper)
      await drain(server)
      await services.close()
    },
  }
}

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

async function notReady(db: Db, ephemeral: EphemeralStore): Promise<string[]> {
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
  return asked.filter((_, index) => outcomes[index]?.status === 'rejected').map(([name]) => name)
}

const SWEEP_EVERY_MS = 60_000
const SWEEP_BATCH = 5_000

/** A batch at a time, so that no statement is long; as many as there are. */
async function untilEmpty(sweepBatch: () => Promise<number>): Promise<void> {
  while ((await sweepBatch()) >= SWEEP_BATCH) await new Promise((resolve) => setImmediate(resolve))
}

/** Deletes what has expired; several processes may do it at once. */
function startSweeping(db: Db, sweepEphemeral: () => Promise<number>, log: Log): NodeJS.Timeout {
  const sweep = async () => {
    try {
      await untilEmpty(() => deleteExpired(db, SWEEP_BATCH))
      await untilEmpty(() => deleteExpiredEntries(db, SWEEP_BATCH))
      await untilEmpty(sweepEphemeral)
    } catch (error) {
      log.warn({ err: error }, 'sweeping failed and is tried again')
    }
  }
  return setInterval(sweep, SWEEP_EVERY_MS).unref()
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

// A server for tests: the whole application on a port of its own, with people, workspaces, an API and clients to use.
import { randomBytes, randomInt } from 'node:crypto'
import { createServer } from 'node:http'
import { inject } from 'vitest'
import { type App, createApp } from '../../src/app.ts'
import { runCommand } from '../../src/cli/commands.ts'
import { readConfig } from '../../src/config.ts'
import { createLog } from '../../src/http/log.ts'
import { type OpenedDatabase, openPostgres } from '../../src/store/database.ts'
import { createScratchDatabase, newSink, openEmbedded } from './databases.ts'
import { watchedLog } from './log-watch.ts'
import { createUserAgent, type UserAgent } from './user-agent.ts'

export interface TestServer {
  origin: string
  app: App
  db: App['db']
  logLines: string[]
  /** An operator's command, as the command line runs it. */
  run(command: string, input: unknown): Promise<Record<string, string>>
  userAgent(): UserAgent
  close(): Promise<void>
}

export type Backend = 'embedded' | 'stores'

export interface TestServerOptions {
  backend?: Backend
  /** Connections to PostgreSQL. */
  poolSize?: number
  environment?: Record<string, string>
}

export const MASTER_KEY = randomBytes(32).toString('base64')

export async function startServer(options: TestServerOptions = {}): Promise<TestServer> {
  const port = await freePort()
  const stores = options.backend === 'stores' ? await createScratchDatabase() : undefined
  const config = readConfig({
    PORT: String(port),
    LATCHKEY_LOG_LEVEL: 'debug',
    ...(stores === undefined
      ? {}
      : { DATABASE_URL: stores.url, REDIS_URL: inject('redisUrl'), LATCHKEY_MASTER_KEY: MASTER_KEY }),
    LATCHKEY_TOUR: 'off',
    LATCHKEY_SINK: newSink(),
    ...options.environment,
  })
  const opened =
    stores === undefined ? await openEmbedded() : openPostgres(stores.url, options.poolSize ?? 10, () => {})
  const server = await startOn(config, opened)
  return {
    ...server,
    async close() {
      await server.close()
      await opened.close()
      await stores?.drop()
    },
  }
}

/** Another process's worth of server on a database that is open already. */
export async function startOn(config: ReturnType<typeof readConfig>, opened: OpenedDatabase): Promise<TestServer> {
  const { lines: logLines, ...destination } = watchedLog()
  const log = createLog(config.logLevel, destination)
  const app = await createApp(config, opened, [Buffer.from(MASTER_KEY, 'base64')], log)
  await new Promise<void>((resolve) => app.server.listen(config.port, '127.0.0.1', resolve))
  return {
    origin: config.issuer,
    app,
    db: app.db,
    logLines,
    // Commands answer with objects of strings, as far as tests read them.
    run: async (command, input) => (await runCommand(app, { command, input })) as Record<string, string>,
    userAgent: () => createUserAgent(config.issuer, (url) => url.origin !== config.issuer),
    close: () => app.close(),
  }
}

/** Below those that systems hand out by themselves: between here and its use nobody else is given it. */
const PORTS = { from: 10_240, count: 22_000 }
const WORKERS = 2
let nextPort = randomInt(PORTS.count / WORKERS)

/** A port that a server can be told to listen on, here or in another process. */
export async function freePort(): Promise<number> {
  for (;;) {
    const place = nextPort++ % (PORTS.count / WORKERS)
    const port = PORTS.from + place * WORKERS + (Number(process.env.VITEST_POOL_ID ?? 0) % WORKERS)
    if (await isFree(port)) return port
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  return new Promise((resolve) => {
    server.once('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

// Opens what a process needs for a command or for serving: master key, database, services; and closes it again.
import { randomBytes } from 'node:crypto'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import type { Server } from 'node:http'
import { join } from 'node:path'
import { sql } from 'kysely'
import { type App, createApp, createErrorLog, createServices, MIGRATIONS } from '../app.ts'
import type { Config, DatabaseConfig } from '../config.ts'
import { AppError } from '../errors.ts'
import type { Log } from '../http/log.ts'
import { type Db, type OpenedDatabase, openDatabase, openPostgres } from '../store/database.ts'
import { type MigrationOutcome, migrate, pendingMigrations } from '../store/migrate.ts'
import { runCommand } from './commands.ts'
import { callControl, holdControl } from './control.ts'

/** Runs a command: in the server that holds the embedded database, else here. */
export async function execute(
  config: Config,
  log: Log,
  call: Call,
  onProgress: (done: number) => void = () => {},
): Promise<unknown> {
  if (config.database.kind !== 'embedded') return executeHere(config, log, call, onProgress)
  const { dataDirectory } = config
  return waitingForOthers(async () => {
    const answered = await callControl(dataDirectory, call)
    if (answered !== undefined) return answered.result
    const held = await holdControl(dataDirectory, () => Promise.reject(new AppError('unavailable')))
    try {
      return await executeHere(config, log, call, onProgress)
    } finally {
      held.close()
    }
  })
}

const MOST_TRIES = 40
const BETWEEN_TRIES_MS = 500

/** Another command holds the embedded database for a moment, or a server is starting: the next one waits its turn. */
async function waitingForOthers<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work()
    } catch (error) {
      const isBusy = error instanceof AppError && error.code === 'unavailable'
      if (!isBusy || tries === MOST_TRIES) throw error
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_TRIES_MS))
    }
  }
}

interface Call {
  command: string
  input: unknown
}

/** Commands whose statements read all there is, and take as long as that takes. */
const TAKES_LONG = new Set(['restore-check', 'audit verify', 'audit export', 'audit archive'])
/** What the server's role may not do. */
const AS_OWNER = new Set(['audit archive'])

async function executeHere(config: Config, log: Log, call: Call, onProgress: (done: number) => void): Promise<unknown> {
  const { database } = config
  const asOwner = database.kind === 'postgres' && AS_OWNER.has(call.command)
  const opened = await openDatabase(
    asOwner ? { ...database, url: database.migrationUrl } : database,
    createErrorLog(log, 'database'),
    TAKES_LONG.has(call.command) ? { statementTimeoutMs: 0 } : {},
  )
  try {
    await prepareDatabase(config, opened.db)
    const services = await createServices(config, opened, openMasterKeys(config), log)
    try {
      return await runCommand(services, call, onProgress)
    } finally {
      await services.close()
    }
  } finally {
    await opened.close()
  }
}

export interface Serving {
  app: App
  /** Drains, then closes every store. */
  stop(): Promise<void>
}

/** Opens everything and listens. */
export async function serve(config: Config, log: Log): Promise<Serving> {
  let app: App | undefined
  let control: Server | undefined
  if (config.database.kind === 'embedded') {
    control = await holdControl(config.dataDirectory, (call) => {
      if (call.command === 'ping') return Promise.resolve({ ok: true })
      return app === undefined ? Promise.reject(new AppError('unavailable')) : runCommand(app, call)
    })
  }
  let opened: OpenedDatabase | undefined
  try {
    opened = await openDatabase(config.database, createErrorLog(log, 'database'))
    await prepareDatabase(config, opened.db)
    if (config.production) await requireHumbleRole(opened.db)
    const started = await createApp(config, opened, openMasterKeys(config), log)
    app = started
    await new Promise<void>((resolve, reject) =>
      started.server.once('error', reject).listen(config.port, config.host, resolve),
    )
  } catch (error) {
    await app?.close()
    await opened?.close()
    control?.close()
    throw error
  }
  const { close } = app
  const database = opened
  return {
    app,
    async stop() {
      await close()
      control?.close()
      await database.close()
    },
  }
}

/** Migrates as the role that owns the tables, and gives the server's role its rights. */
export async function migrateDatabase(config: Config, log: Log): Promise<MigrationOutcome> {
  if (config.database.kind === 'embedded') {
    const held = await holdControl(config.dataDirectory, () => Promise.reject(new AppError('unavailable')))
    const opened = await openDatabase(config.database, createErrorLog(log, 'database'))
    try {
      return await migrate(opened.db, MIGRATIONS)
    } finally {
      await opened.close()
      held.close()
    }
  }
  return migrateAsOwner(config.database, log)
}

async function migrateAsOwner(database: DatabaseConfig & { kind: 'postgres' }, log: Log): Promise<MigrationOutcome> {
  const opened = openPostgres(database.migrationUrl.reveal(), 2, createErrorLog(log, 'database'), {
    statementTimeoutMs: 0,
  })
  try {
    const owner = new URL(database.migrationUrl.reveal()).username
    const server = new URL(database.url.reveal()).username
    return await migrate(
      opened.db,
      MIGRATIONS,
      server !== '' && server !== owner ? decodeURIComponent(server) : undefined,
    )
  } finally {
    await opened.close()
  }
}

/** Outside of production the newcomer's database is brought up to date; in production that is a step of its own. */
async function prepareDatabase(config: Config, db: Db): Promise<void> {
  if ((await pendingMigrations(db, MIGRATIONS)).length === 0) return
  if (config.production) {
    throw new AppError('unavailable', {
      detail: 'The database lacks migrations of this version: run "latchkey migrate" first.',
    })
  }
  if (config.database.kind === 'embedded') await migrate(db, MIGRATIONS)
  else await migrateAsOwner(config.database, QUIET)
}

const QUIET = { warn() {} } as unknown as Log // a lost connection ends the migration, and with it says so

/** @throws {AppError} when the server's own role could change the audit log */
async function requireHumbleRole(db: Db): Promise<void> {
  const { rows } = await sql<{ humble: boolean }>`
    select not (select rolsuper from pg_roles where rolname = current_user)
       and not exists (select from pg_class where relnamespace = 'public'::regnamespace and pg_has_role(current_user, relowner, 'member'))
       and not has_table_privilege(current_user, 'audit_events', 'update, delete, truncate')
       and not has_table_privilege(current_user, 'audit_chain', 'update, delete, truncate') as humble`.execute(db)
  if (rows[0]?.humble === true) return
  throw new AppError('unavailable', {
    detail:
      'DATABASE_URL names a role that owns the tables or may change the audit log: give the server a role of its own (docs/operations.md) and run "latchkey migrate".',
  })
}

/** Newest first. */
function openMasterKeys(config: Config): Buffer[] {
  return (
    config.masterKeys?.map((key) => Buffer.from(key.reveal(), 'base64')) ?? [embeddedMasterKey(config.dataDirectory)]
  )
}

/** Made at the first start; readable by its owner only. */
function embeddedMasterKey(dataDirectory: string): Buffer {
  const path = join(dataDirectory, 'master.key')
  mkdirSync(dataDirectory, { recursive: true, mode: 0o700 })
  try {
    writeFileSync(path, randomBytes(32).toString('base64'), { flag: 'wx', mode: 0o600 })
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
  return Buffer.from(readFileSync(path, 'utf8'), 'base64')
}

// PostgreSQL, or PGlite in the embedded default: the same SQL through Kysely.
import { mkdirSync } from 'node:fs'
import { PGlite } from '@electric-sql/pglite'
import { Kysely, PGliteDialect, PostgresDialect, type RawBuilder, sql, type Transaction } from 'kysely'
import pg from 'pg'
import type { DatabaseConfig } from '../config.ts'
import { Secret } from '../crypto/secret.ts'
import { AppError } from '../errors.ts'
import { PreparedClient } from './prepared-client.ts'
import type { Database } from './tables.ts'

export type Db = Kysely<Database>
export type Trx = Transaction<Database>
/** What a query may run on: the pool, or the transaction that it belongs to. */
export type Executor = Db | Trx

const STATEMENT_TIMEOUT_MS = 5_000
const LOCK_TIMEOUT_MS = 2_000
const ACQUIRE_TIMEOUT_MS = 2_000

/** What the job library is given: it keeps connections of its own, or shares the one there is. */
export type DatabaseSource = { pglite: PGlite } | { url: Secret }

export interface OpenedDatabase {
  db: Db
  kind: DatabaseConfig['kind']
  source: DatabaseSource
  /** Opens a connection outside the pool, which also listens. Undefined where this process is the only one. */
  dedicate?: (options: DedicatedOptions) => Promise<DedicatedConnection>
  close(): Promise<void>
}

export interface DedicatedOptions {
  channel: string
  onNotification: () => void
  onLost: (error: Error) => void
}

/** One connection for one purpose: it never waits for the pool. A query that takes longer than a second rejects. */
export interface DedicatedConnection {
  run<T>(query: RawBuilder<T>): Promise<T[]>
  /** At once, whatever is under way on it. */
  close(): void
}

/** Opens the configured database as the server's role. */
export async function openDatabase(
  config: DatabaseConfig,
  onError: (error: Error) => void,
  options: { statementTimeoutMs?: number } = {},
): Promise<OpenedDatabase> {
  if (config.kind === 'embedded') {
    mkdirSync(config.directory, { recursive: true, mode: 0o700 })
    return openPGlite(await PGlite.create(config.directory))
  }
  return openPostgres(config.url.reveal(), config.poolSize, onError, options)
}

export function openPGlite(pglite: PGlite): OpenedDatabase {
  const db = new Kysely<Database>({ dialect: new PGliteDialect({ pglite }) })
  return {
    db,
    kind: 'embedded',
    source: { pglite },
    async close() {
      await db.destroy()
      if (!pglite.closed) await pglite.close()
    },
  }
}

export function openPostgres(
  url: string,
  poolSize: number,
  onError: (error: Error) => void,
  { statementTimeoutMs = STATEMENT_TIMEOUT_MS } = {},
): OpenedDatabase {
  const pool = new pg.Pool({
    Client: PreparedClient,
    connectionString: url,
    max: poolSize,
    connectionTimeoutMillis: ACQUIRE_TIMEOUT_MS,
    // A backend that hangs without closing the connection is given up a little after its own limit. Zero: no limit.
    query_timeout: statementTimeoutMs && statementTimeoutMs + 1_000,
    options: `-c statement_timeout=${statementTimeoutMs} -c lock_timeout=${LOCK_TIMEOUT_MS} -c idle_in_transaction_session_timeout=10000`,
    keepAlive: true,
    application_name: 'latchkey',
  })
  // Each connection has its own listener: while one is in use the pool does not listen, and a cut would end the process.
  pool.on('connect', (client) => client.on('error', onError))
  pool.on('error', onError) // an idle connection broke: the pool drops it and opens another when one is needed
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) })
  const source = { url: new Secret(url) }
  return { db, kind: 'postgres', source, dedicate: (options) => dedicate(url, db, options), close: () => db.destroy() }
}

const DEDICATED_TIMEOUT_MS = 1_000

async function dedicate(url: string, db: Db, options: DedicatedOptions): Promise<DedicatedConnection> {
  const client = new PreparedClient({
    connectionString: url,
    connectionTimeoutMillis: DEDICATED_TIMEOUT_MS,
    query_timeout: DEDICATED_TIMEOUT_MS,
    options: `-c statement_timeout=${DEDICATED_TIMEOUT_MS} -c lock_timeout=${DEDICATED_TIMEOUT_MS}`,
    keepAlive: true,
    application_name: 'latchkey lease',
  })
  client.on('error', options.onLost)
  client.on('notification', options.onNotification)
  const close = () => client.connection.stream.destroy()
  try {
    await client.connect()
    await client.query(`listen ${client.escapeIdentifier(options.channel)}`)
  } catch (error) {
    close()
    throw error
  }
  return {
    async run(query) {
      const compiled = query.compile(db)
      return (await client.query(compiled.sql, [...compiled.parameters])).rows
    },
    close,
  }
}

/** The database's time: what decides about access. */
export async function readTime(executor: Executor): Promise<Date> {
  const { rows } = await sql<{ now: Date }>`select clock_timestamp() as now`.execute(executor)
  if (rows[0] === undefined) throw new Error('the database told no time')
  return rows[0].now
}

/** The first day of the month in which the transaction began: UTC, by the database's clock. */
export const THIS_MONTH = sql`date_trunc('month', now() at time zone 'utc')::date`

const RETRYABLE = new Set(['40001', '40P01']) // serialization failure, deadlock
const MOST_TRIES = 3

/**
 * Runs one short transaction. A deadlock or serialization failure is tried again, at most three times in all, so the
 * function must do nothing but SQL on the transaction it is given.
 *
 * @throws {AppError} `unavailable` when the database cannot be reached or is too busy
 */
export async function transact<T>(db: Db, work: (trx: Trx) => Promise<T>): Promise<T> {
  return retried(() => db.transaction().execute(work))
}

/** Runs SQL that is one transaction by itself, with the same retries and errors as `transact`. */
export async function retried<T>(work: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await work()
    } catch (error) {
      if (!RETRYABLE.has(codeOf(error)) || tries === MOST_TRIES) throw availabilityError(error)
      await new Promise((resolve) => setTimeout(resolve, 5 + Math.random() * 20 * tries))
    }
  }
}

/** SQLSTATE classes and codes that mean "not now" and not "wrong": connection, resources, shutdown, timeouts, read-only. */
const NOT_NOW = /^(08|53|57P|40001|40P01|55P03|57014|25006|58|XX002|25P03)/
const NOT_NOW_SYSTEM = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
])
const NOT_NOW_DRIVER =
  /timeout exceeded when trying to connect|connection terminated|query read timeout|client has encountered a connection error|cannot use a pool after|not queryable/i

/** Turns a failure of the database into `unavailable`, and leaves every other error as it is. */
export function availabilityError(error: unknown): unknown {
  return isUnavailable(error) ? new AppError('unavailable', { cause: error }) : error
}

/** A read whose failure is told apart: `unavailable` when the database cannot be reached or is too busy. */
export async function reading<T>(query: Promise<T>): Promise<T> {
  try {
    return await query
  } catch (error) {
    throw availabilityError(error)
  }
}

export function isUnavailable(error: unknown): boolean {
  if (error instanceof AppError) return error.code === 'unavailable'
  if (error instanceof AggregateError) return error.errors.some(isUnavailable)
  const code = codeOf(error)
  // The driver gives its own failures no code, only words.
  return (
    NOT_NOW.test(code) ||
    NOT_NOW_SYSTEM.has(code) ||
    (error instanceof Error && code === '' && NOT_NOW_DRIVER.test(error.message))
  )
}

/** True when a text holds what PostgreSQL keeps in none: a NUL character, which a caller sent (22021, 22P05). */
export function isUnstorableText(error: unknown): boolean {
  return ['22021', '22P05'].includes(codeOf(error))
}

/** True when an insert or update broke a unique index. */
export function isUniqueViolation(error: unknown, constraint?: string): boolean {
  return codeOf(error) === '23505' && (constraint === undefined || readField(error, 'constraint') === constraint)
}

function codeOf(error: unknown): string {
  return readField(error, 'code')
}

function readField(error: unknown, field: string): string {
  const value = typeof error === 'object' && error !== null ? Reflect.get(error, field) : undefined
  return typeof value === 'string' ? value : ''
}

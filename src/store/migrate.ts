// Applies the migrations under an advisory lock, then gives the server's role what it needs and no more.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { sql } from 'kysely'
import { type Migration, Migrator } from 'kysely/migration'
import type { Db } from './database.ts'
import { grantJobSchema, installJobSchema, isJobSchemaCurrent } from './job-schema.ts'

export interface MigrationOutcome {
  applied: string[]
}

/** Kysely's Migrator holds an advisory lock on PostgreSQL, so that two migrators at once apply each file once. */
export async function migrate(db: Db, directory: string, serverRole?: string): Promise<MigrationOutcome> {
  const { error, results } = await createMigrator(db, directory).migrateToLatest()
  if (error !== undefined) throw error
  await oneAtATime(db, async (connection) => {
    await makePartitions(connection)
    await installJobSchema(connection)
    if (serverRole !== undefined) {
      await grantTo(connection, serverRole)
      await grantJobSchema(connection, serverRole)
    }
  })
  return {
    applied: (results ?? []).filter((result) => result.status === 'Success').map((result) => result.migrationName),
  }
}

/** Names of the migrations that this version brings and the database lacks. */
export async function pendingMigrations(db: Db, directory: string): Promise<string[]> {
  const migrations = await createMigrator(db, directory).getMigrations()
  const pending = migrations
    .filter((migration) => migration.executedAt === undefined)
    .map((migration) => migration.name)
  return (await isJobSchemaCurrent(db)) ? pending : [...pending, 'job library']
}

function createMigrator(db: Db, directory: string): Migrator {
  return new Migrator({ db, provider: { getMigrations: () => readMigrations(directory) } })
}

async function readMigrations(directory: string): Promise<Record<string, Migration>> {
  const files = readdirSync(directory).filter((file) => /^\d{4}-.*\.ts$/.test(file))
  const entries = files.map(async (file): Promise<[string, Migration]> => {
    return [file.replace(/\.ts$/, ''), await import(pathToFileURL(join(directory, file)).href)]
  })
  return Object.fromEntries(await Promise.all(entries))
}

/** Whoever makes partitions or gives rights waits for the one before. Any constant; ours alone. */
const MIGRATION_LOCK = 4_180_313

/** "If not exists" looks first and makes afterwards: of two at once, one would fail. */
function oneAtATime(db: Db, work: (connection: Db) => Promise<void>): Promise<void> {
  return db.connection().execute(async (connection) => {
    await sql`select set_config('lock_timeout', '0', true), pg_advisory_lock(${sql.lit(MIGRATION_LOCK)})`.execute(
      connection,
    )
    try {
      await work(connection)
    } finally {
      await sql`select pg_advisory_unlock(${sql.lit(MIGRATION_LOCK)})`.execute(connection)
    }
  })
}

const MONTHS_AHEAD = 12

const BY_MONTH = ['audit_events', 'usage_events']

/** One partition a month, for a year ahead; what falls outside goes to the default one. */
async function makePartitions(db: Db): Promise<void> {
  const now = new Date()
  for (let month = 0; month <= MONTHS_AHEAD; month++) {
    const from = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + month, 1))
    const to = new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + month + 1, 1))
    for (const table of BY_MONTH) {
      const name = `${table}_${from.toISOString().slice(0, 7).replace('-', '_')}`
      await sql`create table if not exists ${sql.table(name)} partition of ${sql.table(table)}
        for values from (${sql.lit(from.toISOString())}) to (${sql.lit(to.toISOString())})`
        .execute(db)
        .catch(unlessBegun)
    }
  }
}

/** How many months from this one on have a partition of their own in each table: the fewest of them. By the catalogue alone. */
export async function monthsAhead(db: Db): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    select count(c.oid)::int as count from unnest(${BY_MONTH}::text[]) as of (name)
    left join pg_inherits i on i.inhparent = of.name::regclass
    left join pg_class c on c.oid = i.inhrelid and c.relname ~ '_[0-9]{4}_[0-9]{2}$'
      and c.relname >= of.name || '_' || to_char(now() at time zone 'utc', 'YYYY_MM')
    group by of.name order by count limit 1`.execute(db)
  return rows[0]?.count ?? 0
}

/** A month that began before anybody made its partition is in the default one, and stays there. */
function unlessBegun(error: unknown): void {
  const CHECK_VIOLATION = '23514'
  if (Reflect.get(Object(error), 'code') !== CHECK_VIOLATION) throw error
}

/** Tables whose rows the server may add and never change: the database itself refuses. */
const APPEND_ONLY = ['audit_events', 'audit_chain', 'audit_checkpoints', 'usage_events']

async function grantTo(db: Db, role: string): Promise<void> {
  const to = sql.id(role)
  await sql`grant usage on schema public to ${to}`.execute(db)
  await sql`grant select, insert, update, delete on all tables in schema public to ${to}`.execute(db)
  await sql`grant usage, select, update on all sequences in schema public to ${to}`.execute(db)
  const { rows } = await sql<{ name: string }>`
    select c.relname as name from pg_class c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
      and (c.relname like 'audit_events%' or c.relname like 'usage_events%' and c.relname <> 'usage_event_ids' or c.relname in ('audit_chain', 'audit_checkpoints', 'audit_archives') or c.relname like 'kysely_migration%')`.execute(
    db,
  )
  for (const { name } of rows) {
    await sql`revoke all on ${sql.table(name)} from ${to}`.execute(db)
    await sql`grant select on ${sql.table(name)} to ${to}`.execute(db)
  }
  for (const table of APPEND_ONLY) await sql`grant insert on ${sql.table(table)} to ${to}`.execute(db)
}

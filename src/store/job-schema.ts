// The job library's own schema (pg-boss): installed and brought up to date by whoever owns the tables, used by the server,
// which cannot change it.
import { createRequire } from 'node:module'
import { sql } from 'kysely'
import type { Db } from './database.ts'

export const JOB_SCHEMA = 'pgboss'

/** The version that the installed library works with. It exports no such constant. */
const { pgboss } = createRequire(import.meta.url)('pg-boss/package.json') as { pgboss: { schema: number } } // its own file

const NOT_THERE = new Set(['42P01', '3F000', '42501'])

/** The version in the database; undefined where the library was never installed. */
async function installedVersion(db: Db): Promise<number | undefined> {
  try {
    const { rows } = await sql<{ version: number }>`select version from ${sql.table(`${JOB_SCHEMA}.version`)}`.execute(
      db,
    )
    return rows[0]?.version
  } catch (error) {
    if (error instanceof Error && 'code' in error && NOT_THERE.has(String(error.code))) return undefined
    throw error
  }
}

/** A newer one will do: while processes are replaced, the old ones still serve. */
export async function isJobSchemaCurrent(db: Db): Promise<boolean> {
  return ((await installedVersion(db)) ?? 0) >= pgboss.schema
}

/** Installs it, or brings it up to date. @param db one connection; nobody else does the same meanwhile */
export async function installJobSchema(db: Db): Promise<void> {
  const version = await installedVersion(db)
  if (version !== undefined && version >= pgboss.schema) return
  const { getConstructionPlans, getMigrationPlans } = await import('pg-boss') // a tenth of a second: only where it is needed
  const plan = version === undefined ? getConstructionPlans(JOB_SCHEMA) : getMigrationPlans(JOB_SCHEMA, version)
  const [, transaction, after] = /^\s*BEGIN;(.*)^\s*COMMIT;(.*)$/ms.exec(plan) ?? []
  if (transaction === undefined || after === undefined) throw new Error('the plan of the job library has another form')
  // A plan is many statements. As the body of a DO they are one, which every driver sends, and all of them or none. Built
  // beside its use an index would wait for whoever waits to migrate; these tables hold days, not years.
  const body = `${transaction}${after.replaceAll('CONCURRENTLY', '')}`
  await sql`do ${sql.lit(`begin execute $latchkey$${body}$latchkey$; end`)}`.execute(db)
}

/** Rows only: the server adds, takes and finishes jobs, and changes nothing of their schema. */
export async function grantJobSchema(db: Db, role: string): Promise<void> {
  const schema = sql.id(JOB_SCHEMA)
  const to = sql.id(role)
  await sql`grant usage on schema ${schema} to ${to}`.execute(db)
  await sql`grant select, insert, update, delete on all tables in schema ${schema} to ${to}`.execute(db)
  await sql`revoke insert, update, delete on ${sql.table(`${JOB_SCHEMA}.bam`)} from ${to}`.execute(db)
  // Beside the version stand the times of the last rounds.
  const version = sql.table(`${JOB_SCHEMA}.version`)
  const { rows } = await sql<{ name: string }>`
    select attname as name from pg_attribute
    where attrelid = ${`${JOB_SCHEMA}.version`}::regclass and attnum > 0 and not attisdropped and attname <> 'version'`.execute(
    db,
  )
  await sql`revoke insert, update, delete on ${version} from ${to}`.execute(db)
  await sql`grant update (${sql.join(rows.map(({ name }) => sql.id(name)))}) on ${version} to ${to}`.execute(db)
}

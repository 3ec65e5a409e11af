// Once for a run: one migrated embedded database, dumped for every test file to start from; one on PostgreSQL to be copied;
// and which stores are here.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import { PGlite } from '@electric-sql/pglite'
import { Redis } from 'ioredis'
import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { MIGRATIONS } from '../../src/app.ts'
import { openPGlite, openPostgres } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrate.ts'
import { onServer } from './on-server.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    /** A dump of an embedded database that is migrated and empty. */
    embeddedDump: string
    postgresUrl: string | undefined
    /** A database there that is migrated and empty: others are copies of it. */
    postgresTemplate: string | undefined
    redisUrl: string | undefined
  }
}

const POSTGRES_URL = process.env.TEST_DATABASE_URL ?? 'postgres://postgres@127.0.0.1:5432/postgres'
const REDIS_URL = process.env.TEST_REDIS_URL ?? 'redis://127.0.0.1:6379'

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  // The stores first: starting the embedded database keeps this process from hearing their answers in time.
  const [postgresUrl, redisUrl] = await Promise.all([
    found('PostgreSQL', POSTGRES_URL, postgresAnswers),
    found('Redis', REDIS_URL, redisAnswers),
  ])
  project.provide('postgresUrl', postgresUrl)
  project.provide('redisUrl', redisUrl)
  const template = postgresUrl === undefined ? undefined : await makeTemplate(postgresUrl)
  project.provide('postgresTemplate', template?.name)
  const directory = mkdtempSync(join(tmpdir(), 'latchkey-test-'))
  project.provide('embeddedDump', await dumpEmbedded(directory))
  return async () => {
    rmSync(directory, { recursive: true, force: true })
    await template?.drop()
  }
}

async function makeTemplate(base: string): Promise<{ name: string; drop(): Promise<void> }> {
  const name = `latchkey_test_template_${randomBytes(6).toString('hex')}`
  const url = new URL(base)
  url.pathname = `/${name}`
  await onServer(base, `create database ${name}`)
  const opened = openPostgres(url.href, 1, () => {}, { statementTimeoutMs: 0 })
  await migrate(opened.db, MIGRATIONS)
  await opened.close()
  return { name, drop: () => onServer(base, `drop database if exists ${name} with (force)`) }
}

/** The URL of a store that answers. A required one may take half a minute to start; without one its tests are left out. */
async function found(name: string, url: string, answers: (url: string) => Promise<void>): Promise<string | undefined> {
  const required = process.env.TEST_STORES === 'required'
  const until = performance.now() + (required ? 30_000 : 0)
  for (;;) {
    try {
      await answers(url)
      return url
    } catch (error) {
      if (performance.now() < until) {
        await setTimeout(500)
      } else if (required) {
        throw new Error(`${name} must be there for this run, and does not answer`, { cause: error })
      } else {
        process.stderr.write(
          `Left out: tests on ${name}, which is not running here (TEST_DATABASE_URL, TEST_REDIS_URL).\n`,
        )
        return undefined
      }
    }
  }
}

async function dumpEmbedded(directory: string): Promise<string> {
  const pglite = await PGlite.create()
  const opened = openPGlite(pglite)
  await migrate(opened.db, MIGRATIONS)
  const path = join(directory, 'embedded.tar')
  writeFileSync(path, Buffer.from(await (await pglite.dumpDataDir('none')).arrayBuffer()))
  await opened.close()
  return path
}

async function postgresAnswers(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5_000 })
  try {
    await client.connect()
    await client.query('select 1')
  } finally {
    await client.end().catch(() => {})
  }
}

async function redisAnswers(url: string): Promise<void> {
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: 5_000,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
  })
  redis.on('error', () => {})
  try {
    await redis.connect()
    await redis.ping()
  } finally {
    redis.disconnect()
  }
}

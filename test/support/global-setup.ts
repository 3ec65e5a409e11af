// Once for a run: one migrated embedded database, dumped for every test file to start from; and which stores are here.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import { Redis } from 'ioredis'
import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { MIGRATIONS } from '../../src/app.ts'
import { openPGlite } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrate.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    /** A dump of an embedded database that is migrated and empty. */
    embeddedDump: string
    postgresUrl: string | undefined
    redisUrl: string | undefined
  }
}

const POSTGRES_URL = process.env.TEST_DATABASE_URL ?? 'postgres://postgres@127.0.0.1:5432/postgres'
const REDIS_URL = process.env.TEST_REDIS_URL ?? 'redis://127.0.0.1:6379'

export default async function setup(project: TestProject): Promise<() => void> {
  const directory = mkdtempSync(join(tmpdir(), 'latchkey-test-'))
  const [dump, postgresUrl, redisUrl] = await Promise.all([
    dumpEmbedded(directory),
    reachablePostgres(),
    reachableRedis(),
  ])
  project.provide('embeddedDump', dump)
  project.provide('postgresUrl', postgresUrl)
  project.provide('redisUrl', redisUrl)
  const missing = [postgresUrl === undefined ? 'PostgreSQL' : '', redisUrl === undefined ? 'Redis' : ''].filter(Boolean)
  if (missing.length > 0) {
    if (process.env.TEST_STORES === 'required') throw new Error(`${missing.join(' and ')} must be there for this run`)
    process.stderr.write(
      `Left out: tests on ${missing.join(' and ')}, which are not running here (TEST_DATABASE_URL, TEST_REDIS_URL).\n`,
    )
  }
  return () => rmSync(directory, { recursive: true, force: true })
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

async function reachablePostgres(): Promise<string | undefined> {
  const client = new pg.Client({ connectionString: POSTGRES_URL, connectionTimeoutMillis: 2_000 })
  try {
    await client.connect()
    return POSTGRES_URL
  } catch {
    return undefined
  } finally {
    await client.end().catch(() => {})
  }
}

async function reachableRedis(): Promise<string | undefined> {
  const redis = new Redis(REDIS_URL, {
    lazyConnect: true,
    connectTimeout: 2_000,
    retryStrategy: () => null,
    maxRetriesPerRequest: 0,
  })
  redis.on('error', () => {})
  try {
    await redis.connect()
    return REDIS_URL
  } catch {
    return undefined
  } finally {
    redis.disconnect()
  }
}

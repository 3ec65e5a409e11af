// Databases for tests: each test file has one of its own, on every backend that is here.
import { randomBytes } from 'node:crypto'
import { openAsBlob } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PGlite } from '@electric-sql/pglite'
import { inject } from 'vitest'
import { type OpenedDatabase, openPGlite } from '../../src/store/database.ts'
import { onServer } from './on-server.ts'
import { isStrict } from './times.ts'

/** An embedded database, migrated and empty. */
export async function openEmbedded(): Promise<OpenedDatabase> {
  const loadDataDir = await openAsBlob(inject('embeddedDump'))
  return openPGlite(await PGlite.create({ loadDataDir }))
}

export interface ScratchDatabase {
  url: string
  drop(): Promise<void>
}

/** A database on the PostgreSQL that tests were given: migrated and empty, or a copy of one that nobody has open. */
export async function createScratchDatabase(template = inject('postgresTemplate')): Promise<ScratchDatabase> {
  const base = inject('postgresUrl')
  if (base === undefined) throw new Error('there is no PostgreSQL: guard the test with hasStores')
  const name = `latchkey_test_${randomBytes(6).toString('hex')}`
  await onServer(base, `create database ${name} template ${template}`)
  const url = new URL(base)
  url.pathname = `/${name}`
  // No test cuts this server's power; what is measured pays for what is safe from that, too.
  if (!isStrict()) url.search = 'options=-c%20synchronous_commit%3Doff'
  return { url: url.href, drop: () => onServer(base, `drop database if exists ${name} with (force)`) }
}

/** Where the revocations of one database are written besides; copies of a database must not share it. */
export const newSink = (): string =>
  join(tmpdir(), `latchkey-test-${process.pid}-${randomBytes(6).toString('hex')}.ndjson`)

/** Real PostgreSQL and Redis are here: always so where nothing may be left out. */
export const hasStores = (): boolean => inject('postgresUrl') !== undefined && inject('redisUrl') !== undefined

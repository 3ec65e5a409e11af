// A backup of a database, and what an operator does with it later: it comes back under the same name, with whoever is
// connected thrown out.
import { execFile } from 'node:child_process'
import { openAsBlob } from 'node:fs'
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { PGlite } from '@electric-sql/pglite'
import { inject } from 'vitest'
import { type OpenedDatabase, openPGlite, openPostgres } from '../../src/store/database.ts'
import { createScratchDatabase, hasStores, type ScratchDatabase } from './databases.ts'
import { onServer } from './on-server.ts'
import type { Backend } from './server.ts'
import { findProgram } from './throwaway-stores.ts'

const run = promisify(execFile)

export interface Backup {
  restore(): Promise<void>
  close(): Promise<void>
}

export const canBackUp = (): boolean => hasStores() && findProgram('pg_dump') !== undefined

export async function backUp(url: string): Promise<Backup> {
  const directory = await mkdtemp(join(tmpdir(), 'latchkey-backup-'))
  const file = join(directory, 'dump')
  await run(program('pg_dump'), ['--format=custom', `--file=${file}`, url])
  return {
    async restore() {
      const name = new URL(url).pathname.slice(1)
      const aside = `${name}_restored`
      const target = new URL(url)
      target.pathname = `/${aside}`
      await onServer(url, `create database ${aside}`)
      await run(program('pg_restore'), [`--dbname=${target.href}`, file])
      await onServer(url, `drop database ${name} with (force)`, `alter database ${aside} rename to ${name}`)
    },
    close: () => rm(directory, { recursive: true }),
  }
}

function program(name: string): string {
  const path = findProgram(name)
  if (path === undefined) throw new Error(`${name} is not here`)
  return path
}

/** A database that can be closed, taken back, and opened again. */
export interface Restorable {
  open(): Promise<OpenedDatabase>
  /** Of what it is now; while it is open. */
  backUp(): Promise<Backup>
  /** Another one that begins with what this one holds; while it is closed. */
  copy(): Promise<Restorable>
  drop(): Promise<void>
}

export async function createRestorable(backend: Backend): Promise<Restorable> {
  if (backend === 'stores') return restorablePostgres(await createScratchDatabase())
  const parent = await newParent()
  return restorableEmbedded(parent, await openAsBlob(inject('embeddedDump')))
}

function restorablePostgres({ url, drop }: ScratchDatabase): Restorable {
  return {
    open: async () => openPostgres(url, 5, () => {}),
    backUp: () => backUp(url),
    copy: async () => restorablePostgres(await createScratchDatabase(new URL(url).pathname.slice(1))),
    drop,
  }
}

const newParent = () => mkdtemp(join(tmpdir(), 'latchkey-embedded-'))

function restorableEmbedded(parent: string, first?: Blob): Restorable {
  let loadDataDir = first
  let directory = join(parent, 'data')
  let pglite: PGlite | undefined
  return {
    async open() {
      pglite = await PGlite.create(directory, loadDataDir === undefined ? {} : { loadDataDir })
      loadDataDir = undefined
      return openPGlite(pglite)
    },
    async backUp() {
      const dump = await pglite?.dumpDataDir('none')
      return {
        async restore() {
          loadDataDir = dump
          directory = join(parent, 'restored')
        },
        close: async () => {},
      }
    },
    async copy() {
      const another = await newParent()
      await cp(directory, join(another, 'data'), { recursive: true })
      return restorableEmbedded(another)
    },
    drop: () => rm(parent, { recursive: true }),
  }
}

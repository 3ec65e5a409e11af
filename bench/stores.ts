// A throw-away PostgreSQL and Redis for one run: own directory, own free ports, gone at the end. Nothing that listens on
// a standard port is ever touched.
import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { chmodSync, chownSync, existsSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import pg from 'pg'
import { LOAD_CORE } from './constants.ts'
import { findFreePort, readTreeCpuMicros, spawnPinned, stopProcess } from './machine.ts'

export interface Postgres {
  readonly version: string
  /** Makes a database, empty or a copy of another. */
  createDatabase(template?: string): Promise<Database>
  dropDatabase(name: string): Promise<void>
  /** Writes out what earlier scenarios left dirty, so that it is not paid inside the next window. */
  checkpoint(): Promise<void>
  cpuMicros(): number | undefined
  stop(): Promise<void>
}

export interface Database {
  readonly name: string
  /** As the role that owns it. */
  readonly ownerUrl: string
  /** As a role that owns nothing in it. */
  readonly serverUrl: string
}

export interface RedisStore {
  readonly version: string
  readonly url: string
  flush(): Promise<void>
  cpuMicros(): number | undefined
  stop(): Promise<void>
}

/** Where the server binaries are: Debian keeps initdb and postgres out of PATH. */
function findPostgresBinaries(): string {
  const versions = '/usr/lib/postgresql'
  const candidates = existsSync(versions)
    ? readdirSync(versions)
        .sort((a, b) => Number(b) - Number(a))
        .map((version) => join(versions, version, 'bin'))
    : []
  const configured = spawnSync('pg_config', ['--bindir'], { encoding: 'utf8' })
  if (configured.status === 0) candidates.push(configured.stdout.trim())
  const found = candidates.find((directory) => existsSync(join(directory, 'initdb')))
  if (!found) throw new Error('PostgreSQL is needed for these contenders, and no initdb was found')
  return found
}

/** PostgreSQL refuses to run as root: then it runs as the `postgres` account of the machine. */
function findPostgresAccount(): { uid: number; gid: number } | undefined {
  if (process.getuid?.() !== 0) return undefined
  const ask = (flag: string) => Number(execFileSync('id', [flag, 'postgres'], { encoding: 'utf8' }))
  return { uid: ask('-u'), gid: ask('-g') }
}

const OWNER = 'bench_owner'
const SERVER = 'bench_server'

export async function startPostgres(directory: string): Promise<Postgres> {
  const binaries = findPostgresBinaries()
  const account = findPostgresAccount()
  const home = join(directory, 'postgres')
  mkdirSync(home, { mode: 0o700 })
  const password = randomBytes(18).toString('base64url')
  const passwordFile = join(home, 'password')
  writeFileSync(passwordFile, password, { mode: 0o600 })
  if (account) {
    chmodSync(directory, 0o711)
    for (const path of [home, passwordFile]) chownSync(path, account.uid, account.gid)
  }
  const data = join(home, 'data')
  execFileSync(
    join(binaries, 'initdb'),
    ['-D', data, '-U', 'postgres', '-A', 'scram-sha-256', `--pwfile=${passwordFile}`, '-E', 'UTF8', '--locale=C'],
    { stdio: ['ignore', 'ignore', 'pipe'], cwd: home, ...account },
  )
  rmSync(passwordFile)

  const port = await findFreePort()
  const log = openSync(join(directory, 'postgres.log'), 'a')
  const settings = {
    listen_addresses: '127.0.0.1',
    port,
    unix_socket_directories: home,
    fsync: 'on',
    synchronous_commit: 'on',
    shared_buffers: '256MB',
    max_connections: 200,
    max_wal_size: '4GB',
  }
  const child = spawnPinned(
    LOAD_CORE,
    join(binaries, 'postgres'),
    ['-D', data, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    { stdio: ['ignore', log, log], cwd: home, ...account },
  )
  const urlOf = (role: string, database: string) => `postgresql://${role}:${password}@127.0.0.1:${port}/${database}`
  const administer = (statement: string) => query(urlOf('postgres', 'postgres'), statement)
  const version = await untilReady('PostgreSQL', child, () =>
    administer('show server_version').then((rows) => String(rows[0]?.server_version)),
  )
  for (const role of [OWNER, SERVER]) await administer(`create role ${role} login password '${password}'`)

  let databases = 0
  return {
    version,
    async createDatabase(template) {
      databases += 1
      const name = `bench_${databases}`
      await administer(`create database ${name} owner ${OWNER}${template ? ` template ${template}` : ''}`)
      return { name, ownerUrl: urlOf(OWNER, name), serverUrl: urlOf(SERVER, name) }
    },
    async dropDatabase(name) {
      await administer(`drop database if exists ${name} with (force)`)
    },
    async checkpoint() {
      await administer('checkpoint')
    },
    cpuMicros: () => readTreeCpuMicros(child.pid ?? 0),
    // SIGINT is PostgreSQL's fast shutdown: SIGTERM would wait for clients to leave.
    stop: () => stopProcess(child, 'SIGINT'),
  }
}

async function query(url: string, statement: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    const { rows } = await client.query<Record<string, unknown>>(statement)
    return rows
  } finally {
    await client.end()
  }
}

export async function startRedis(directory: string): Promise<RedisStore> {
  const home = join(directory, 'redis')
  mkdirSync(home, { mode: 0o700 })
  const port = await findFreePort()
  const log = openSync(join(directory, 'redis.log'), 'a')
  const child = spawnPinned(
    LOAD_CORE,
    'redis-server',
    ['--port', String(port), '--bind', '127.0.0.1', '--dir', home, '--save', '', '--appendonly', 'no'],
    { stdio: ['ignore', log, log] },
  )
  const client = new Redis({ port, host: '127.0.0.1', lazyConnect: true, retryStrategy: () => null })
  client.on('error', () => undefined) // each command below reports its own failure
  const version = await untilReady('Redis', child, async () => {
    if (client.status !== 'ready') await client.connect()
    return /redis_version:(\S+)/.exec(await client.info('server'))?.[1] ?? 'unknown'
  })
  return {
    version,
    url: `redis://127.0.0.1:${port}`,
    async flush() {
      await client.flushall()
    },
    cpuMicros: () => readTreeCpuMicros(child.pid ?? 0),
    async stop() {
      client.disconnect()
      await stopProcess(child)
    },
  }
}

async function untilReady<T>(name: string, child: ChildProcess, attempt: () => Promise<T>): Promise<T> {
  const failed = new Promise<never>((_, reject) => {
    child.once('error', (error) => reject(new Error(`${name} could not be started: ${error.message}`)))
    child.once('exit', (code) => reject(new Error(`${name} ended at once, with ${code}`)))
  })
  failed.catch(() => undefined) // it also ends at the end of the run, when nobody waits any more
  for (let tries = 0; ; tries += 1) {
    try {
      return await Promise.race([attempt(), failed])
    } catch (error) {
      if (tries >= 100 || child.exitCode !== null || child.pid === undefined) throw error
      await Promise.race([sleep(100), failed])
    }
  }
}

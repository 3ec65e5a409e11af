// Stores that a test may kill and flush: a PostgreSQL and a Redis of its own, on free ports, gone with the test.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { chown, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { Redis } from 'ioredis'
import pg from 'pg'
import { MIGRATIONS } from '../../src/app.ts'
import { openPostgres } from '../../src/store/database.ts'
import { migrate } from '../../src/store/migrate.ts'
import { freePort } from './server.ts'

/** Whether the programs are here. */
export const canThrowAwayRedis = (): boolean => findProgram('redis-server') !== undefined
export const canThrowAwayPostgres = (): boolean => findProgram('initdb') !== undefined && owner() !== undefined

export interface ThrowawayStore {
  url: string
  /** Without a warning (SIGKILL), every process of it. */
  kill(): Promise<void>
  /** Starts it again on what it left on disk, and waits until it answers. */
  start(): Promise<void>
  /** Stops it in its tracks (SIGSTOP): connections stay open, and nothing answers. */
  freeze(): void
  thaw(): void
  /** Kills it for good and deletes its files. */
  close(): Promise<void>
}

export interface ThrowawayRedis extends ThrowawayStore {
  flush(): Promise<void>
}

/** A Redis that keeps nothing on disk. */
export async function startThrowawayRedis(): Promise<ThrowawayRedis> {
  const port = await freePort()
  const directory = await mkdtemp(join(tmpdir(), 'latchkey-redis-'))
  const url = `redis://127.0.0.1:${port}`
  const program = need('redis-server')
  const process = keepRunning(directory, {
    spawn: () =>
      spawn(program, ['--port', String(port), '--save', '', '--appendonly', 'no', '--dir', directory], {
        stdio: 'ignore',
      }),
    answers: () => onRedis(url, (redis) => redis.ping()),
  })
  await process.start()
  return { url, ...process, flush: () => onRedis(url, (redis) => redis.flushall()).then(() => {}) }
}

async function onRedis<T>(url: string, work: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url, { lazyConnect: true, retryStrategy: () => null, connectTimeout: 1_000 })
  redis.on('error', () => {})
  try {
    await redis.connect()
    return await work(redis)
  } finally {
    redis.disconnect()
  }
}

/** A PostgreSQL with its default promises (what it commits is on disk), migrated and empty. */
export async function startThrowawayPostgres(): Promise<ThrowawayStore> {
  const port = await freePort()
  const directory = await mkdtemp(join(tmpdir(), 'latchkey-postgres-'))
  const user = owner()
  if (user === undefined) throw new Error('PostgreSQL does not run as root, and there is no user postgres')
  if (user.uid !== undefined && user.gid !== undefined) await chown(directory, user.uid, user.gid)
  const data = join(directory, 'data')
  execFileSync(need('initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '--no-sync', '--locale=C', '-E', 'UTF8'], {
    ...user,
    cwd: directory,
    stdio: 'ignore',
  })
  const url = `postgres://postgres@127.0.0.1:${port}/postgres`
  const settings = { port, listen_addresses: '127.0.0.1', unix_socket_directories: '', max_connections: 60 }
  const options = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
  const program = need('postgres')
  const process = keepRunning(directory, {
    spawn: () => spawn(program, ['-D', data, ...options], { ...user, cwd: directory, stdio: 'ignore' }),
    answers: () => onPostgres(url),
  })
  await process.start()
  const opened = openPostgres(url, 1, () => {}, { statementTimeoutMs: 0 })
  await migrate(opened.db, MIGRATIONS)
  await opened.close()
  return { url, ...process }
}

async function onPostgres(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 1_000 })
  client.on('error', () => {})
  try {
    await client.connect()
    await client.query('select 1')
  } finally {
    await client.end().catch(() => {})
  }
}

const START_MS = 20_000

function keepRunning(
  directory: string,
  program: { spawn(): ChildProcess; answers(): Promise<unknown> },
): Omit<ThrowawayStore, 'url'> {
  let running: ChildProcess | undefined
  const kill = async () => {
    const child = running
    running = undefined
    if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exited = new Promise((resolve) => child.once('exit', resolve))
    signal(child.pid, 'SIGSTOP') // so that it makes no more of them
    const workers = childrenOf(child.pid)
    for (const pid of [child.pid, ...workers]) signal(pid, 'SIGKILL')
    await exited
    await until(() => workers.every((pid) => !isRunning(pid)))
  }
  const signalAll = (name: NodeJS.Signals) => {
    if (running?.pid !== undefined) for (const pid of [running.pid, ...childrenOf(running.pid)]) signal(pid, name)
  }
  return {
    kill,
    async start() {
      await until(async () => {
        // It ends at once where something of the one before is still about: then another is started.
        if (running === undefined || running.exitCode !== null) running = await spawned(program.spawn())
        return program.answers().then(
          () => true,
          () => false,
        )
      })
    },
    freeze: () => signalAll('SIGSTOP'),
    thaw: () => signalAll('SIGCONT'),
    async close() {
      await kill()
      await rm(directory, { recursive: true, force: true })
    },
  }
}

/** @throws {Error} when there is no such program */
async function spawned(child: ChildProcess): Promise<ChildProcess> {
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
  return child
}

/** @throws {Error} when it does not come true in time */
async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + START_MS
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`not so within ${START_MS} ms`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number)
  } catch {
    return []
  }
}

/** A process that nobody has collected yet (a zombie) runs no more. */
function isRunning(pid: number): boolean {
  try {
    return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name)
  } catch {
    // gone already
  }
}

/** As whom PostgreSQL runs: as ourselves, or, as it refuses root, as the user postgres. */
function owner(): { uid?: number; gid?: number } | undefined {
  if (process.getuid?.() !== 0) return {}
  const line = readFileSync('/etc/passwd', 'utf8')
    .split('\n')
    .find((text) => text.startsWith('postgres:'))
  const [, , uid, gid] = line?.split(':') ?? []
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) }
}

/** A program of PostgreSQL or Redis, wherever a distribution keeps it. */
export function findProgram(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? '').split(delimiter), ...globSync('/usr/lib/postgresql/*/bin')]
  return directories.map((directory) => join(directory, name)).find((path) => existsSync(path))
}

function need(name: string): string {
  const path = findProgram(name)
  if (path === undefined) throw new Error(`there is no ${name}: guard the test`)
  return path
}

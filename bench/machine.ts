// The machine as the benchmark sees it: pinned child processes, free ports, and CPU accounting out of /proc.
import { type ChildProcess, execFileSync, type SpawnOptions, spawn, spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { availableParallelism, cpus, release, totalmem } from 'node:os'

// Asked before this process is pinned: afterwards it would count its own core only.
const CORES = availableParallelism()

/** True where processes can be pinned: Linux with `taskset` and two cores. Elsewhere the figures mean less, and say so. */
export const canPin: boolean =
  process.platform === 'linux' && CORES >= 2 && spawnSync('taskset', ['--version']).status === 0

/** Starts a process on one core. `taskset` replaces itself by the program, so pid and IPC channel are the program's. */
export function spawnPinned(
  core: number,
  command: string,
  args: readonly string[],
  options: SpawnOptions,
): ChildProcess {
  return canPin ? spawn('taskset', ['-c', String(core), command, ...args], options) : spawn(command, [...args], options)
}

/** Moves this process, all threads of it, to one core. */
export function pinSelf(core: number): void {
  if (canPin) spawnSync('taskset', ['-a', '-c', '-p', String(core), String(process.pid)])
}

/** A port that nothing listens on at the moment of asking. */
export function findFreePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      const port = typeof address === 'object' && address ? address.port : 0
      server.close(() => resolve(port))
    })
  })
}

/** Resolves when the process has ended; sends SIGTERM first, and SIGKILL to one that does not listen. */
export async function stopProcess(child: ChildProcess, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  child.kill(signal)
  const timer = setTimeout(() => child.kill('SIGKILL'), 10_000)
  await ended
  clearTimeout(timer)
}

const TICKS_PER_SECOND = readTicks()

function readTicks(): number {
  try {
    return Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' })) || 100
  } catch {
    return 100
  }
}

interface ProcessTimes {
  readonly parent: number
  readonly ownTicks: number
  readonly reapedTicks: number
}

// proc(5): the second field is the name in parentheses and may hold blanks, so fields are counted from the last ")".
function readTimes(pid: number): ProcessTimes | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const field = (number: number) => Number(fields[number - 3])
    return { parent: field(4), ownTicks: field(14) + field(15), reapedTicks: field(16) + field(17) }
  } catch {
    return undefined
  }
}

/**
 * CPU used so far, in microseconds, by a process and its children, those that have ended included (PostgreSQL: the
 * postmaster and its backends). In steps of a clock tick, usually 10 ms. Undefined where there is no /proc.
 */
export function readTreeCpuMicros(root: number): number | undefined {
  const own = readTimes(root)
  if (!own) return undefined
  let ticks = own.ownTicks + own.reapedTicks
  for (const entry of readdirSync('/proc')) {
    const pid = Number(entry)
    if (!Number.isInteger(pid) || pid === root) continue
    const times = readTimes(pid)
    if (times?.parent === root) ticks += times.ownTicks
  }
  return Math.round((ticks * 1_000_000) / TICKS_PER_SECOND)
}

export interface MachineDescription {
  readonly node: string
  readonly cpu: string
  readonly cores: number
  readonly memoryGiB: number
  readonly kernel: string
  readonly pinned: boolean
}

export function describeMachine(): MachineDescription {
  return {
    node: process.version,
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: CORES,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    pinned: canPin,
  }
}

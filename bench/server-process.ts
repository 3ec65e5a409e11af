// A server under test: a fresh process on its own core, asked over IPC what it has used.
import type { ChildProcess } from 'node:child_process'
import { openSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { SERVER_CORE } from './constants.ts'
import { spawnPinned, stopProcess } from './machine.ts'

export interface Usage {
  readonly userMicros: number
  readonly systemMicros: number
  readonly rssBytes: number
  readonly peakRssBytes: number
}

export interface ServerProcess {
  /** The next message of this kind; rejects when the process ends before it, with the end of its log. */
  message(kind: string): Promise<Record<string, unknown>>
  usage(): Promise<Usage>
  /** Rejects when the process ends. */
  readonly ended: Promise<never>
  stop(): Promise<void>
}

export interface ServerStart {
  /** Path of the script and its arguments. */
  readonly script: readonly string[]
  readonly environment: Readonly<Record<string, string>>
  readonly logFile: string
  readonly directory?: string
}

const PROBE = fileURLToPath(new URL('cpu-probe.ts', import.meta.url))

export function startServer({ script, environment, logFile, directory }: ServerStart): ServerProcess {
  const log = openSync(logFile, 'a')
  const child = spawnPinned(SERVER_CORE, process.execPath, ['--import', PROBE, ...script], {
    stdio: ['ignore', log, log, 'ipc'],
    env: { ...inheritedEnvironment(), NODE_ENV: 'production', ...environment },
    ...(directory === undefined ? {} : { cwd: directory }),
  })
  const ended = new Promise<never>((_, reject) => {
    child.once('error', (error) => reject(new Error(`the server could not be started: ${error.message}`)))
    child.once('exit', (code, signal) => {
      reject(new Error(`the server ended (${signal ?? code}); the end of its log:\n${readEnd(logFile)}`))
    })
  })
  ended.catch(() => undefined) // it also ends when it is told to

  const message = (kind: string) => Promise.race([nextMessage(child, kind), ended])
  return {
    message,
    ended,
    async usage() {
      const answer = message('usage')
      child.send('usage')
      return readUsage(await answer)
    },
    stop: () => stopProcess(child),
  }
}

/** Nothing of the caller's environment that could change what a server does. */
function inheritedEnvironment(): Record<string, string> {
  const kept = ['PATH', 'HOME', 'TMPDIR', 'TZ', 'LANG']
  return Object.fromEntries(kept.flatMap((name) => (process.env[name] ? [[name, process.env[name]]] : [])))
}

function nextMessage(child: ChildProcess, kind: string): Promise<Record<string, unknown>> {
  return new Promise((resolve) => {
    const listen = (message: unknown) => {
      if (typeof message !== 'object' || message === null || !('kind' in message) || message.kind !== kind) return
      child.off('message', listen)
      resolve({ ...message })
    }
    child.on('message', listen)
  })
}

function readUsage(message: Record<string, unknown>): Usage {
  const number = (name: keyof Usage): number => {
    const value = message[name]
    if (typeof value !== 'number') throw new Error(`the probe's answer lacks ${name}`)
    return value
  }
  return {
    userMicros: number('userMicros'),
    systemMicros: number('systemMicros'),
    rssBytes: number('rssBytes'),
    peakRssBytes: number('peakRssBytes'),
  }
}

function readEnd(file: string): string {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-20).join('\n')
}

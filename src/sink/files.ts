// A sink of files: one that the processes of a host append to, or a directory in which each process has a file a day.
import { randomUUID } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Sink } from './service.ts'

const SUFFIX = '.ndjson'

export function createFileSink(path: string, { isDirectory }: { isDirectory: boolean }): Sink {
  const own = randomUUID().slice(0, 8)
  const writeTo = () => (isDirectory ? join(path, `${new Date().toISOString().slice(0, 10)}-${own}${SUFFIX}`) : path)
  let next: { lines: string[]; written: Promise<void> } | undefined
  let last = Promise.resolve()

  async function write(lines: readonly string[]): Promise<void> {
    const file = writeTo()
    await mkdir(dirname(file), { recursive: true, mode: 0o700 })
    const handle = await open(file, 'a', 0o600)
    try {
      // A process that was killed may have left half a line: this one begins on its own.
      await handle.appendFile(`\n${lines.join('\n')}\n`) // all of it, or it throws
      await handle.datasync()
    } finally {
      await handle.close()
    }
  }

  return {
    isLocal: true,
    place: path,
    /** Lines that come while others are being written go together, with one sync. */
    append(lines) {
      if (next === undefined) {
        const batch: string[] = []
        const written = last.then(() => {
          next = undefined
          return write(batch)
        })
        next = { lines: batch, written }
        last = written.catch(() => undefined)
      }
      next.lines.push(...lines)
      return next.written
    },
    async *read() {
      for (const file of isDirectory ? await filesIn(path) : [path]) yield* linesOf(file)
    },
  }
}

async function filesIn(directory: string): Promise<string[]> {
  try {
    const names = await readdir(directory)
    return names
      .filter((name) => name.endsWith(SUFFIX))
      .sort()
      .map((name) => join(directory, name))
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}

async function* linesOf(file: string): AsyncIterable<string> {
  const input = createReadStream(file, 'utf8')
  try {
    for await (const line of createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY }))
      if (line !== '') yield line
  } catch (error) {
    if (!isMissing(error)) throw error // nothing was written yet
  } finally {
    input.destroy()
  }
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

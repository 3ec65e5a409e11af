// The sink: where what must survive the database is written, outside of it. A file, a directory that several hosts share, or
// a webhook that can be read back.
import { statSync } from 'node:fs'
import type { SinkConfig } from '../config.ts'
import { createFileSink } from './files.ts'
import { createWebhookSink } from './webhook.ts'

export interface Sink {
  /** Whether what is written is kept within milliseconds: a revocation waits for it before it is answered. */
  isLocal: boolean
  /** For messages: where it is, without what gives access to it. */
  place: string
  /**
   * Resolves when the lines are kept. A line may be written twice, and lines of several processes come in any order.
   *
   * @throws {Error} when they may not be kept: write them again
   */
  append(lines: readonly string[]): Promise<void>
  /**
   * All lines, or those with a `seq` above `after` where the sink can tell: look at each one.
   *
   * @throws {Error} when it cannot be read
   */
  read(after: number): AsyncIterable<string>
}

export function createSink(config: SinkConfig): Sink {
  if (config.kind === 'webhook') return createWebhookSink(config)
  return createFileSink(config.path, { isDirectory: config.path.endsWith('/') || isDirectory(config.path) })
}

function isDirectory(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
}

// An answer on its way through: each part is passed on at once, its usage is read, and the key is taken out should anybody
// send it back. Nothing is kept but a line of a stream of events, or one whole body that is not too long.
import { Transform } from 'node:stream'
import type { UsageReader } from '../provider-types/rules.ts'

export interface Metering {
  isEventStream: boolean
  reader: UsageReader | undefined
  secret: string
  /** Once, when it is over: `isWhole` where it ended by itself. What it waits for is waited for by the caller. */
  onEnd(end: { isWhole: boolean; bytes: number }): Promise<void>
}

const MOST_LINE_BYTES = 256 * 1024
const MOST_BODY_BYTES = 2 * 1024 * 1024

export function createMeter({ isEventStream, reader, secret, onEnd }: Metering): Transform {
  const guard = createGuard(secret)
  const listen = reader === undefined ? undefined : isEventStream ? eventListener(reader) : bodyListener(reader)
  let bytes = 0
  let ended: Promise<void> | undefined
  const end = (isWhole: boolean) => {
    if (isWhole) listen?.end()
    ended ??= onEnd({ isWhole, bytes })
    return ended
  }
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.byteLength
      listen?.hear(chunk)
      const passed = guard.pass(chunk)
      done(null, passed.byteLength === 0 ? undefined : passed)
    },
    flush(done) {
      const rest = guard.end()
      // Who has seen the end of an answer finds it recorded.
      void end(true).finally(() => done(null, rest.byteLength === 0 ? undefined : rest))
    },
    destroy(error, done) {
      void end(false)
      done(error)
    },
  })
}

interface Listener {
  hear(chunk: Buffer): void
  end(): void
}

/** Server-sent events: lines of data with JSON in them. Only those are parsed that may tell of usage. */
function eventListener(reader: UsageReader): Listener {
  let line: Buffer[] = []
  let size = 0
  const take = () => {
    const text = size > MOST_LINE_BYTES ? '' : Buffer.concat(line).toString('utf8')
    line = []
    size = 0
    if (text.startsWith('data:') && text.includes('"usage"')) read(reader, text.slice('data:'.length))
  }
  const add = (part: Buffer) => {
    size += part.byteLength
    if (size <= MOST_LINE_BYTES)
      line.push(Buffer.from(part)) // a copy: the chunk is somebody else's once it is passed on
    else line = []
  }
  return {
    hear(chunk) {
      let from = 0
      for (let at = chunk.indexOf(0x0a); at !== -1; at = chunk.indexOf(0x0a, from)) {
        add(chunk.subarray(from, at))
        take()
        from = at + 1
      }
      add(chunk.subarray(from))
    },
    end: take,
  }
}

function bodyListener(reader: UsageReader): Listener {
  let parts: Buffer[] = []
  let size = 0
  return {
    hear(chunk) {
      size += chunk.byteLength
      if (size <= MOST_BODY_BYTES) parts.push(Buffer.from(chunk))
      else parts = []
    },
    end() {
      if (size <= MOST_BODY_BYTES) read(reader, Buffer.concat(parts).toString('utf8'))
      parts = []
    },
  }
}

function read(reader: UsageReader, text: string): void {
  try {
    reader.read(JSON.parse(text))
  } catch {
    // not JSON: nothing is told
  }
}

const HIDDEN = Buffer.from('[secret]')

/** Takes a value out of what passes. It holds back no more than what may be the beginning of it. */
export function createGuard(secret: string): { pass(chunk: Buffer): Buffer; end(): Buffer } {
  const value = Buffer.from(secret)
  let held = Buffer.alloc(0)
  return {
    pass(chunk) {
      let rest = held.byteLength === 0 ? chunk : Buffer.concat([held, chunk])
      const parts: Buffer[] = []
      for (let at = rest.indexOf(value); at !== -1; at = rest.indexOf(value)) {
        parts.push(rest.subarray(0, at), HIDDEN)
        rest = rest.subarray(at + value.byteLength)
      }
      const open = beginningAtEnd(rest, value)
      held = Buffer.from(rest.subarray(rest.byteLength - open))
      parts.push(rest.subarray(0, rest.byteLength - open))
      return parts.length === 1 ? (parts[0] ?? held) : Buffer.concat(parts)
    },
    end() {
      const rest = held
      held = Buffer.alloc(0)
      return rest
    },
  }
}

/** How many of the last bytes may be the first ones of the value. */
function beginningAtEnd(text: Buffer, value: Buffer): number {
  for (let size = Math.min(value.byteLength - 1, text.byteLength); size > 0; size--) {
    if (text.subarray(text.byteLength - size).equals(value.subarray(0, size))) return size
  }
  return 0
}

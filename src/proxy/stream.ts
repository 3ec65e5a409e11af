// An answer on its way through: each part is passed on at once, its usage is read, and the key is taken out should anybody
// send it back. Nothing is kept but a line of a stream of events, or one body, and of a long one what may tell of usage.
import { type Readable, Transform } from 'node:stream'
import type { Secret } from '../crypto/secret.ts'
import type { UsageReader } from '../provider-types/rules.ts'

export interface Metering {
  body: Readable
  isEventStream: boolean
  /** Undefined: what the answer tells is nobody's. */
  reader: UsageReader | undefined
  secret: Secret
  /** Once, when all was read, or no more is to come. What it waits for is waited for by whoever reads the answer. */
  onEnd(): Promise<void>
}

/** What is passed on. Where nobody takes it any more, the provider is not read any more. */
export function createMeter({ body, isEventStream, reader, secret, onEnd }: Metering): Readable {
  const guard = createGuard(secret)
  const listen = reader === undefined ? undefined : isEventStream ? eventListener(reader) : bodyListener(reader)
  let ended: Promise<void> | undefined
  const end = () => {
    if (ended === undefined) {
      listen?.end()
      ended = onEnd()
    }
    return ended
  }
  const passing = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const passed = guard.pass(chunk)
      done(null, passed.byteLength === 0 ? undefined : passed)
    },
    flush(done) {
      const rest = guard.end()
      // Who has seen the end of an answer finds it recorded.
      void end().finally(() => done(null, rest.byteLength === 0 ? undefined : rest))
    },
  })
  passing.on('error', () => {}) // whoever takes it is told
  passing.on('close', () => {
    body.destroy()
  })
  if (listen !== undefined) body.on('data', listen.hear) // not what is passed: of that a part may wait when everybody leaves
  body.on('end', () => void end())
  body.on('error', (error) => {
    void end()
    passing.destroy(error)
  })
  body.on('close', () => {
    void end()
    if (!body.readableEnded) passing.destroy(new Error('the answer was cut'))
  })
  return body.pipe(passing)
}

interface Listener {
  hear(chunk: Buffer): void
  end(): void
}

const [LINE_FEED, CARRIAGE_RETURN] = [0x0a, 0x0d]

/** Server-sent events: lines of data with JSON in them. */
function eventListener(reader: UsageReader): Listener {
  const line = createText()
  const take = () => {
    const { text, size, isLong } = line.take()
    if (!isLong && !text.startsWith('data:')) return
    const isRead = read(reader, isLong ? text : text.slice('data:'.length))
    if ((isLong || !isRead) && !reader.seen().isLast) reader.skip(size)
  }
  return {
    hear(chunk) {
      let from = 0
      for (let at = 0; at < chunk.byteLength; at++) {
        if (chunk[at] !== LINE_FEED && chunk[at] !== CARRIAGE_RETURN) continue // a line ends with one of them, or both
        line.add(chunk.subarray(from, at))
        take()
        from = at + 1
      }
      line.add(chunk.subarray(from))
    },
    end: take,
  }
}

function bodyListener(reader: UsageReader): Listener {
  const body = createText()
  return {
    hear: body.add,
    end() {
      const { text, size } = body.take()
      read(reader, text)
      if (!reader.seen().isLast) reader.skip(size)
    },
  }
}

/** @returns whether it was JSON */
function read(reader: UsageReader, text: string): boolean {
  try {
    reader.read(JSON.parse(text))
    return true
  } catch {
    return false
  }
}

const MOST_TEXT_BYTES = 256 * 1024

/** A text that is put together from its parts; one that is long, without what cannot tell of usage. */
function createText() {
  let parts: Buffer[] = []
  let size = 0
  let summary: ReturnType<typeof createSummary> | undefined
  return {
    add(part: Buffer): void {
      size += part.byteLength
      if (summary === undefined)
        parts.push(Buffer.from(part)) // a copy: the chunk is somebody else's once it is passed on
      else summary.add(part)
      if (summary !== undefined || size <= MOST_TEXT_BYTES) return
      summary = createSummary()
      for (const kept of parts) summary.add(kept)
      parts = []
    },
    take(): { text: string; size: number; isLong: boolean } {
      const taken = {
        text: summary === undefined ? Buffer.concat(parts).toString('utf8') : summary.text(),
        size,
        isLong: summary !== undefined,
      }
      parts = []
      size = 0
      summary = undefined
      return taken
    },
  }
}

const MOST_SUMMARY_BYTES = 64 * 1024
const MOST_STRING_BYTES = 256
const [QUOTE, BACKSLASH, OPENING, CLOSING, BRACE] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b]

/** A JSON object as it comes by, with its lists and its long strings empty: counts stand in neither. */
export function createSummary(): { add(part: Buffer): void; text(): string } {
  const kept = Buffer.alloc(MOST_SUMMARY_BYTES)
  let size = 0
  let lists = 0
  let stringAt = 0
  let [hasBegun, isInString, isEscaped] = [false, false, false]
  const keep = (byte: number) => {
    if (lists > 0) return
    kept[size] = byte // beyond its end it is dropped, and what is left is no JSON
    size += 1
  }
  const addInString = (byte: number) => {
    if (lists === 0 && size - stringAt <= MOST_STRING_BYTES) keep(byte)
    const isEnd = byte === QUOTE && !isEscaped
    isEscaped = byte === BACKSLASH && !isEscaped
    if (!isEnd) return
    isInString = false
    if (lists > 0 || size - stringAt <= MOST_STRING_BYTES) return
    size = stringAt + 1
    keep(byte)
  }
  const addOutside = (byte: number) => {
    if (byte === CLOSING && lists > 0) lists -= 1
    keep(byte)
    if (byte === OPENING) lists += 1
    if (byte !== QUOTE) return
    isInString = true
    stringAt = size - 1
  }
  return {
    add(part) {
      for (const byte of part) {
        hasBegun ||= byte === BRACE
        if (!hasBegun) continue
        if (isInString) addInString(byte)
        else addOutside(byte)
      }
    },
    text: () => (size > MOST_SUMMARY_BYTES ? '' : kept.toString('utf8', 0, size)),
  }
}

const HIDDEN = Buffer.from('[secret]')

/** Takes a value out of what passes. It holds back no more than what may be the beginning of it. */
export function createGuard(secret: Secret): { pass(chunk: Buffer): Buffer; end(): Buffer } {
  const value = Buffer.from(secret.reveal())
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

// The revocation feed for resource servers: what has ended, whole up to when, in one stream of server-sent events or by
// long polls. Subjects are keyed hashes, so that an API learns nothing about credentials that were never shown to it.
import { createHash } from 'node:crypto'
import { PassThrough } from 'node:stream'
import type { Context } from 'koa'
import { hmac } from '../crypto/keys.ts'
import { AppError } from '../errors.ts'
import type { ListEntry, RevocationList } from '../revocation/service.ts'
import { type FeedEntry, type FeedMessage, hashSubject } from '../verifier/wire.ts'

const ENTRIES_A_MESSAGE = 2_000
const LONGEST_POLL_SECONDS = 25
/** What a reader may leave unread before it is left alone: it reconnects, and goes on from its cursor. */
const MOST_UNREAD_BYTES = 4 * 1024 * 1024
/** Streams and polls that wait. One API must not take the places of all. */
const MOST_READERS = 2_000
const MOST_READERS_OF_AN_API = 200

export interface Feed {
  /** Answers an authenticated API: a stream where it accepts one, else one message. */
  answer(ctx: Context, clientId: string): Promise<void>
  /** Ends the streams: their readers go to another process. */
  close(): void
}

/** @param key of the server: each API's own is derived from it */
export function createFeed(revocations: RevocationList, key: Buffer): Feed {
  const streams = new Set<PassThrough>()
  const readers = new Map<string, number>()
  let all = 0
  let isClosing = false

  /** @returns how to leave again */
  function enter(clientId: string): () => void {
    const own = readers.get(clientId) ?? 0
    if (own >= MOST_READERS_OF_AN_API || all >= MOST_READERS)
      throw new AppError('unavailable', { detail: 'Too many readers of the feed.', retryAfterSeconds: 5 })
    readers.set(clientId, own + 1)
    all++
    return () => {
      all--
      const left = (readers.get(clientId) ?? 1) - 1
      if (left === 0) readers.delete(clientId)
      else readers.set(clientId, left)
    }
  }

  return {
    async answer(ctx, clientId) {
      const reader = readerOf(revocations, hmac(key, 'revocation feed', clientId), ctx.URL.searchParams.get('cursor'))
      ctx.set('Cache-Control', 'no-store')
      if (ctx.accepts('application/json', 'text/event-stream') !== 'text/event-stream') {
        const leave = enter(clientId)
        ctx.body = await poll(revocations, reader, ctx, () => isClosing).finally(leave)
        return
      }
      const leave = enter(clientId)
      const stream = new PassThrough()
      streams.add(stream)
      ctx.type = 'text/event-stream'
      ctx.set('X-Accel-Buffering', 'no') // a proxy in between must not hold messages back
      ctx.set('Connection', 'close') // at a drain the reader goes to another process, and not back on this connection
      ctx.body = stream
      ctx.req.socket.setNoDelay(true)
      const stop = revocations.subscribe(() => write(stream, reader))
      const end = () => {
        if (!streams.has(stream)) return
        leave()
        stop()
        streams.delete(stream)
        stream.destroy()
      }
      stream.once('close', end)
      ctx.res.once('close', end)
      write(stream, reader)
      if (isClosing) stream.end()
    },
    close() {
      isClosing = true
      for (const stream of streams) stream.end()
    },
  }
}

/** Everything that is new to it, and how whole that is. */
function write(stream: PassThrough, reader: Reader): void {
  if (stream.destroyed || stream.writableEnded) return
  if (stream.writableLength > MOST_UNREAD_BYTES) return void stream.destroy()
  for (const message of reader.next()) stream.write(`data: ${JSON.stringify(message)}\n\n`)
}

/** Waits for news, for as long as the caller asks and no longer than is sensible. */
async function poll(
  revocations: RevocationList,
  reader: Reader,
  ctx: Context,
  isClosing: () => boolean,
): Promise<FeedMessage> {
  const asked = ctx.URL.searchParams.get('wait') ?? '0'
  const seconds = /^\d{1,3}$/.test(asked) ? Math.min(Number(asked), LONGEST_POLL_SECONDS) : 0
  const until = performance.now() + seconds * 1_000
  for (;;) {
    const [message] = reader.next()
    if (message === undefined) throw new AppError('unavailable')
    if (message.snapshot === true || message.entries.length > 0 || performance.now() >= until) return message
    if (ctx.req.socket.destroyed || isClosing()) return message
    await heard(revocations, until - performance.now())
  }
}

function heard(revocations: RevocationList, mostMs: number): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      stop()
      resolve()
    }
    const timer = setTimeout(done, Math.max(0, mostMs))
    const stop = revocations.subscribe(done)
  })
}

interface Reader {
  /** Messages for what is new since the last time, each made when it is taken; one without entries when nothing is new. */
  next(): Iterable<FeedMessage>
}

/** @param key of this API; @param cursor where an earlier connection ended: a wrong one begins anew */
function readerOf(revocations: RevocationList, key: string, cursor: string | null): Reader {
  let epoch = revocations.epoch()
  let seq = positionOf(cursor, epoch, revocations.seq())
  let snapshot = seq === undefined

  return {
    *next() {
      if (epoch !== revocations.epoch() || (seq ?? 0) > revocations.seq()) {
        epoch = revocations.epoch()
        seq = undefined
        snapshot = true
      }
      const completeAsOf = revocations.completeAsOf() // before the entries are taken
      const news = revocations.since(seq ?? 0)
      const pages = Math.max(1, Math.ceil(news.length / ENTRIES_A_MESSAGE))
      for (let place = 0; place < pages; place++) {
        const page = news.slice(place * ENTRIES_A_MESSAGE, (place + 1) * ENTRIES_A_MESSAGE)
        const isLast = place === pages - 1
        seq = isLast ? revocations.seq() : (page.at(-1)?.seq ?? 0)
        const message: FeedMessage = {
          epoch: epoch ?? '',
          cursor: `${digestOf(epoch)}.${seq}`,
          seq,
          now: Math.floor(revocations.now()),
          entries: page.map((entry) => toWire(entry, key)),
          ...(snapshot ? { snapshot: true as const, key } : {}),
          ...(isLast ? {} : { more: true as const }),
          ...(isLast && completeAsOf !== undefined ? { complete_as_of: Math.floor(completeAsOf) } : {}),
        }
        snapshot = false
        yield message
      }
    },
  }
}

const digestOf = (epoch: string | undefined) =>
  createHash('sha256')
    .update(epoch ?? '')
    .digest('base64url')
    .slice(0, 10)

/** The seq that a cursor names, of this very list; undefined for any other text. */
function positionOf(cursor: string | null, epoch: string | undefined, highest: number): number | undefined {
  const [, list, seq] = /^([\w-]{10})\.(\d{1,15})$/.exec(cursor ?? '') ?? []
  return list === digestOf(epoch) && Number(seq) <= highest ? Number(seq) : undefined
}

function toWire(entry: ListEntry, key: string): FeedEntry {
  return {
    subject: hashSubject(key, entry.subject),
    seq: entry.seq,
    ...(entry.floor === null ? {} : { floor: entry.floor }),
    ...(entry.dead.length === 0 ? {} : { dead: entry.dead }),
    ...(entry.closed ? { closed: true as const } : {}),
    ...(entry.denied ? { denied: true as const } : {}),
    ...(entry.suspended ? { suspended: true as const } : {}),
    ...(entry.notBefore === null ? {} : { not_before: Math.floor(entry.notBefore) }),
    ...(entry.nextFloor === null || entry.nextFloorAt === null
      ? {}
      : { next_floor: entry.nextFloor, next_floor_at: entry.nextFloorAt }),
    expires_at: Math.ceil(entry.expiresAt / 1000),
  }
}

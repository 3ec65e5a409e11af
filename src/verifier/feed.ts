// Follows the revocation feed: a stream, or polls where no stream comes through. It reconnects by itself; while it cannot,
// the list grows old, and whoever asks must ask somewhere else.
import { createIssuerClock, readClocks } from './clock.ts'
import { type About, type Bearer, createList, type Ending } from './list.ts'
import { type FeedMessage, parseMessage } from './wire.ts'

export interface FeedOptions {
  issuer: string
  /** The Authorization header of this API. */
  authorization: string
  fetch: typeof globalThis.fetch
  /** Hears of each lost connection. */
  onError: (error: unknown) => void
}

export interface Feed {
  /** The issuer's time, milliseconds, up to which the list is known to be whole; -Infinity before the first time. */
  completeAsOf(): number
  /** What has ended of a subject. */
  find(subject: string): Ending | undefined
  /** What has ended of a credential, and of where, by whom and through which client it is used. */
  about(bearer: Bearer): About
  /** Whether this one JWT was denied. */
  isDenied(jti: string): boolean
  /** The issuer's time, milliseconds; never behind it. */
  now(): number
  /** The same, never ahead of `now`. */
  earliest(): number
  /** What was learned from the issuer by now knows the list at least up to here. */
  settledSeq(): number
  /** Another one: what was learned before may be old, whatever its seq. */
  generation(): number
  /** Resolves when the list has become whole for the first time; rejects when the feed is closed before. */
  ready(): Promise<void>
  close(): void
}

const SHORTEST_PAUSE_MS = 100
const LONGEST_PAUSE_MS = 5_000
/** A connection that says nothing for this long is dead, whatever TCP believes. */
const SILENCE_MS = 2_000
const MOST_LINE_CHARACTERS = 4_000_000
const POLL_EVERY_MS = 250
/** A stream that did not come through is tried again after this long, then after twice that, and so on. */
const SHORTEST_POLLING_MS = 60_000
const LONGEST_POLLING_MS = 3_600_000
/** A message that seems to be older than this when it arrives: rather, the issuer's time is not known well. */
const MOST_LAG_MS = 250
const SHORTEST_FIXING_MS = 1_000
const LONGEST_FIXING_MS = 60_000

export function openFeed(options: FeedOptions): Feed {
  const clock = createIssuerClock()
  const list = createList(clock)
  const requests = new Set<AbortController>()
  const closing = new AbortController()
  const firstTime = createGate()
  let fixAgainAt = Number.NEGATIVE_INFINITY
  let fixPause = SHORTEST_FIXING_MS

  const isClosed = () => closing.signal.aborted

  async function follow(): Promise<void> {
    let pause = SHORTEST_PAUSE_MS
    let pollingMs = SHORTEST_POLLING_MS
    let isPolling = false
    while (!isClosed()) {
      const before = list.completeAsOf()
      const wasPolling = isPolling
      isPolling = false
      try {
        if (wasPolling) await poll(pollingMs)
        else await stream()
      } catch (error) {
        if (!isClosed()) options.onError(error)
        isPolling = error instanceof NoStream
      }
      const didWork = list.completeAsOf() > before
      if (wasPolling) pollingMs = Math.min(pollingMs * 2, LONGEST_POLLING_MS)
      else if (didWork) pollingMs = SHORTEST_POLLING_MS
      pause = didWork ? SHORTEST_PAUSE_MS : Math.min(pause * 2, LONGEST_PAUSE_MS)
      if (!isPolling) await sleep(pause * (0.5 + Math.random() / 2), closing.signal)
    }
  }

  /** Until it ends. @throws {NoStream} when nothing came through it */
  async function stream(): Promise<void> {
    let heard = 0
    await request('text/event-stream', async (response, { asked, stillThere }) => {
      const type = response.headers.get('content-type') ?? ''
      if (!type.startsWith('text/event-stream') || response.body === null) throw new NoStream(`it is ${type}`)
      for await (const message of readEvents(response.body, stillThere)) {
        if (heard++ === 0) clock.fix(message.now, asked)
        take(message)
        if (isClosed()) return
      }
    }).catch((error: unknown) => {
      throw heard === 0 && error instanceof Silence ? new NoStream('nothing came through it') : error
    })
  }

  /** Asks again and again, as often as the stream would tell. */
  async function poll(forMs: number): Promise<void> {
    const until = performance.now() + forMs
    while (!isClosed() && performance.now() < until) {
      const hasMore = await ask((message, asked) => {
        clock.fix(message.now, asked)
        take(message)
        return message.more === true
      })
      if (!hasMore) await sleep(POLL_EVERY_MS, closing.signal)
    }
  }

  function take(message: FeedMessage): void {
    const lag = clock.hear(message.now)
    list.apply(message)
    if (list.completeAsOf() > Number.NEGATIVE_INFINITY) firstTime.open()
    if (lag > MOST_LAG_MS) void fixClock()
    else fixPause = SHORTEST_FIXING_MS
  }

  /** The first connection took long, or a clock was set: an answer that comes quickly says better what time it is there. */
  async function fixClock(): Promise<void> {
    if (performance.now() < fixAgainAt) return
    fixAgainAt = performance.now() + fixPause
    fixPause = Math.min(fixPause * 2, LONGEST_FIXING_MS)
    try {
      await ask((message, asked) => clock.fix(message.now, asked))
    } catch (error) {
      if (!isClosed()) options.onError(error)
    }
  }

  /** One message at once. */
  function ask<T>(use: (message: FeedMessage, asked: ReturnType<typeof readClocks>) => T): Promise<T> {
    return request('application/json', async (response, { asked }) => use(parseMessage(await response.text()), asked))
  }

  interface Request {
    /** Our clocks before it was sent. */
    asked: ReturnType<typeof readClocks>
    /** Something came: the silence begins anew. */
    stillThere: () => void
  }

  async function request<T>(accept: string, use: (response: Response, about: Request) => Promise<T>): Promise<T> {
    const abort = new AbortController()
    requests.add(abort)
    const silence = setTimeout(() => abort.abort(new Silence()), SILENCE_MS)
    const cursor = list.cursor()
    const query = cursor === undefined ? '' : `?${new URLSearchParams({ cursor })}`
    try {
      const asked = readClocks()
      const response = await options.fetch(`${options.issuer}/revocations${query}`, {
        headers: { authorization: options.authorization, accept },
        signal: abort.signal,
        redirect: 'error',
      })
      if (!response.ok) throw new Error(`the revocation feed answered ${response.status}`)
      return await use(response, { asked, stillThere: () => void silence.refresh() })
    } catch (error) {
      throw abort.signal.aborted ? abort.signal.reason : error
    } finally {
      clearTimeout(silence)
      requests.delete(abort)
      abort.abort() // whatever was not read
    }
  }

  void follow()
  return {
    completeAsOf: list.completeAsOf,
    find: list.find,
    about: list.about,
    isDenied: list.isDenied,
    now: clock.now,
    earliest: clock.earliest,
    settledSeq: list.settledSeq,
    generation: list.generation,
    ready: () => firstTime.opened,
    close() {
      closing.abort()
      for (const abort of requests) abort.abort(new Error('the feed was closed'))
      firstTime.closeForGood(new Error('the verifier was closed before it was ready'))
    },
  }
}

/** The server is there, and its stream is not: something in between holds it back. */
class NoStream extends Error {
  constructor(what: string) {
    super(`the revocation feed does not come as a stream: ${what}`)
  }
}

class Silence extends Error {
  constructor() {
    super('the revocation feed fell silent')
  }
}

function createGate() {
  let open = () => {}
  let closeForGood: (error: Error) => void = () => {}
  const opened = new Promise<void>((resolve, reject) => {
    open = resolve
    closeForGood = reject
  })
  opened.catch(() => {}) // nobody has to wait for it
  return { opened, open, closeForGood }
}

/** Ends at once when it is not needed any more. A process that waits for the first connection must stay alive. */
function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', done)
      resolve()
    }
    const timer = setTimeout(done, ms)
    signal.addEventListener('abort', done)
    if (signal.aborted) done()
  })
}

/** Server-sent events: of each, the JSON in its data. */
async function* readEvents(body: ReadableStream<Uint8Array>, stillThere: () => void): AsyncGenerator<FeedMessage> {
  const decoder = new TextDecoder()
  let rest = ''
  for await (const chunk of body) {
    stillThere()
    rest += decoder.decode(chunk, { stream: true })
    if (rest.length > MOST_LINE_CHARACTERS) throw new Error('the revocation feed sent a line without an end')
    const lines = rest.split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) if (line.startsWith('data:')) yield parseMessage(line.slice('data:'.length))
  }
}

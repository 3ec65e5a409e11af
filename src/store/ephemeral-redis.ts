// The ephemeral store on Redis. An entry is one string, its first character '0', or '1' once consumed, and then the value;
// a key is never written without its time to live, and loses value and mark together when Redis evicts it.
import { Redis } from 'ioredis'
import {
  assertChanges,
  assertCounter,
  type EphemeralChange,
  type EphemeralStore,
  EphemeralUnavailable,
  isEntryName,
  withoutArguments,
} from './ephemeral.ts'

export interface RedisEphemeralOptions {
  /** `redis://` or `rediss://`, with credentials and database number. */
  url: string
  /** Begins every key. */
  prefix: string
  /** What a call waits for an answer, once the first connection has been made. */
  commandTimeoutMs?: number
  /** What calls wait for the first connection, counted from the creation of the store. */
  startTimeoutMs?: number
  /** Hears of connection failures, also those of each attempt to reconnect. */
  onError?: (error: Error) => void
}

const FRESH = '0'

const CONSUME = `
if redis.call('GETRANGE', KEYS[1], 0, 0) ~= '0' then return 0 end
redis.call('SETRANGE', KEYS[1], 0, '1')
return 1`

// A counter without expiry can only come from outside; it gets one here, or it would count for ever.
const INCREMENT = `
local count = redis.call('INCR', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return {count, left}`

/**
 * Connects in the background and reconnects by itself within about a second. Calls made before the first connection wait
 * for it; later on, a call without a connection fails at once.
 */
export function createRedisEphemeralStore(options: RedisEphemeralOptions): EphemeralStore {
  const { prefix, commandTimeoutMs = 250, startTimeoutMs = 2_000, onError } = options
  const redis = connect(options.url, commandTimeoutMs)
  redis.on('error', (error: Error) => onError?.(withoutArguments(error)))
  const started = waitForFirstConnection(redis, startTimeoutMs)

  async function call<T>(command: () => Promise<T>): Promise<T> {
    try {
      await started
      return await within(commandTimeoutMs, command())
    } catch (error) {
      throw new EphemeralUnavailable(firstCause(error))
    }
  }

  // A kind holds no ':', so these are one-to-one.
  const entryKey = (kind: string, id: string): string => `${prefix}entry:${kind}:${id}`
  const counterKey = (kind: string, id: string): string => `${prefix}count:${kind}:${id}`

  return {
    async find(kind, id) {
      if (!isEntryName(kind, id)) return undefined
      const stored = await call(() => redis.get(entryKey(kind, id)))
      if (stored === null) return undefined
      return { value: stored.slice(1), consumed: !stored.startsWith(FRESH) }
    },

    async write(changes) {
      assertChanges(changes)
      if (changes.length === 0) return
      const commands = changes.map((change) => toCommand(entryKey(change.kind, change.id), change))
      await call(() => inTransaction(redis, commands))
    },

    async consume(kind, id) {
      if (!isEntryName(kind, id)) return false
      return (await call(() => redis.eval(CONSUME, 1, entryKey(kind, id)))) === 1
    },

    async increment(kind, id, windowSeconds) {
      assertCounter(kind, id, windowSeconds)
      const reply = await call(() => redis.eval(INCREMENT, 1, counterKey(kind, id), milliseconds(windowSeconds)))
      const [count, leftMs] = reply as [number, number] // what INCREMENT returns
      return { count, resetsInSeconds: Math.max(1, Math.ceil(leftMs / 1_000)) }
    },

    // A write, because a read-only replica or a full server answers PING as if nothing were wrong.
    async ping() {
      await call(() => redis.set(`${prefix}ping`, '', 'PX', 1_000))
    },

    async close() {
      if (redis.status === 'ready') await within(commandTimeoutMs, redis.quit()).catch(() => undefined)
      redis.disconnect()
    },
  }
}

function connect(url: string, commandTimeoutMs: number): Redis {
  return new Redis(url, {
    enableOfflineQueue: false,
    // What was under way when the connection broke fails then. Sent again, a consume could lose against itself.
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    // A peer that is silent while commands are under way (stopped, or gone without a trace) is left, so that later calls
    // fail at once; twice the command timeout, so that one late answer does not cost the connection.
    socketTimeout: 2 * commandTimeoutMs,
    disconnectTimeout: commandTimeoutMs,
    connectTimeout: 2_000,
    maxLoadingRetryTime: 500,
    retryStrategy: (attempt) => Math.min(attempt * 50, 1_000),
    // After a failover the same address may lead to the new primary.
    reconnectOnError: (error) => error.message.includes('READONLY'),
  })
}

function waitForFirstConnection(redis: Redis, timeoutMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, timeoutMs)
    for (const event of ['ready', 'end']) {
      redis.once(event, () => {
        clearTimeout(timer)
        resolve()
      })
    }
  })
}

/** ioredis has a timeout of its own, which takes an answer for late that arrived while the event loop was busy. */
async function within<T>(timeoutMs: number, answer: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    // Timers run before what the sockets brought: one turn of the loop, and an answer that is here wins.
    setImmediate(() => reject(new Error(`No answer within ${timeoutMs} ms`)))
  }, timeoutMs)
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}

type Command = [name: string, ...args: (string | number)[]]

function toCommand(key: string, change: EphemeralChange): Command {
  // Redis refuses to set what has expired.
  if (change.op === 'delete' || change.ttlSeconds <= 0) return ['del', key]
  return ['set', key, FRESH + change.value, 'PX', milliseconds(change.ttlSeconds)]
}

/** MULTI to EXEC in one packet; a command that Redis refuses (OOM, READONLY) makes EXEC refuse all. */
async function inTransaction(redis: Redis, commands: Command[]): Promise<void> {
  const results = await redis.multi(commands).exec()
  if (results === null) throw new Error('EXEC answered nothing')
  for (const [error] of results) {
    if (error !== null) throw error
  }
}

function milliseconds(seconds: number): number {
  return Math.max(1, Math.round(seconds * 1_000))
}

/** EXEC only says that it refused; why is in what the commands before it were answered. */
function firstCause(error: unknown): unknown {
  const previous = error instanceof Error && 'previousErrors' in error ? error.previousErrors : undefined
  return Array.isArray(previous) && previous.length > 0 ? previous[0] : error
}

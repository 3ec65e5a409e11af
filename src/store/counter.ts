// Counts in the ephemeral store, and while that is away in the memory of this process: a limit of each process for itself, so
// that nobody waits for Redis to be told what the audit log says.
import { assertCounter, type EphemeralCount, type EphemeralStore, EphemeralUnavailable } from './ephemeral.ts'

/** As `EphemeralStore.increment`, but never unavailable. */
export type Counter = Pick<EphemeralStore, 'increment'>

interface Window {
  count: number
  endsAtMs: number
}

/** Beyond it the window that began first is forgotten. */
const MOST_WINDOWS = 20_000

export function createCounter(store: Counter): Counter {
  const windows = new Map<string, Window>()

  function countHere(kind: string, id: string, windowSeconds: number): EphemeralCount {
    const now = performance.now()
    const key = `${kind} ${id}` // a kind holds no space
    const known = windows.get(key)
    const isOpen = known !== undefined && known.endsAtMs > now
    const window = isOpen ? known : { count: 0, endsAtMs: now + windowSeconds * 1_000 }
    window.count++
    if (!isOpen) {
      windows.delete(key) // or it would keep the place of the one before
      windows.set(key, window)
    }
    const oldest = windows.size > MOST_WINDOWS ? windows.keys().next().value : undefined
    if (oldest !== undefined) windows.delete(oldest)
    return { count: window.count, resetsInSeconds: Math.max(1, Math.ceil((window.endsAtMs - now) / 1_000)) }
  }

  return {
    async increment(kind, id, windowSeconds) {
      assertCounter(kind, id, windowSeconds)
      try {
        return await store.increment(kind, id, windowSeconds)
      } catch (error) {
        if (!(error instanceof EphemeralUnavailable)) throw error
        return countHere(kind, id, windowSeconds)
      }
    },
  }
}

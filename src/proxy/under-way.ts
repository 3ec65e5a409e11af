// Calls that are under way in this process: how many of one credential, and for how long each.
export interface UnderWay {
  /** @param caller aborted when the caller is gone. Undefined where the credential has as many under way as it may. */
  begin(credentialId: string, caller: AbortSignal): OneCall | undefined
}

export interface OneCall {
  /** Aborted when the provider is not to be waited for any more: the caller is gone, or it takes too long. */
  signal: AbortSignal
  /** When it is over. */
  ended: Promise<void>
  /** It is over, however it ended. Called again it is the same. */
  end(): void
}

/** Of one credential. */
export const MOST_AT_ONCE = 64
/** An answer takes no longer. Below the time of a hold, which must not end first. */
export const MOST_CALL_MS = 25 * 60_000

export function createUnderWay({ mostAtOnce = MOST_AT_ONCE, mostMs = MOST_CALL_MS } = {}): UnderWay {
  const counts = new Map<string, number>()
  return {
    begin(credentialId, caller) {
      const count = counts.get(credentialId) ?? 0
      if (count >= mostAtOnce) return undefined
      counts.set(credentialId, count + 1)
      const controller = new AbortController()
      const over = new AbortController() // takes the listener away
      const abort = () => controller.abort()
      const timer = setTimeout(abort, mostMs)
      if (caller.aborted) abort()
      else caller.addEventListener('abort', abort, { once: true, signal: over.signal })
      const { promise: ended, resolve } = Promise.withResolvers<void>()
      return {
        signal: controller.signal,
        ended,
        end() {
          if (over.signal.aborted) return
          resolve()
          over.abort()
          clearTimeout(timer)
          const left = (counts.get(credentialId) ?? 1) - 1
          if (left === 0) counts.delete(credentialId)
          else counts.set(credentialId, left)
        },
      }
    },
  }
}

// A small memory of rows that change seldom: bounded in number and in age. Never a reason to say yes where a row decides.

export interface RowCache<T> {
  get(key: string, load: () => Promise<T>): Promise<T>
  forget(key: string): void
}

const MOST_ENTRIES = 1_000

/** Keeps what was loaded, also "there is none", for `ttlMs`; parallel readers of one key share one load. */
export function createRowCache<T>(ttlMs: number): RowCache<T> {
  const entries = new Map<string, { value: Promise<T>; until: number }>()
  return {
    get(key, load) {
      const found = entries.get(key)
      if (found !== undefined && found.until > performance.now()) return found.value
      const value = load()
      entries.delete(key) // so that it goes to the end: the first one is the oldest
      entries.set(key, { value, until: performance.now() + ttlMs })
      value.catch(() => entries.delete(key)) // a failure is not remembered
      const oldest = entries.size > MOST_ENTRIES ? entries.keys().next().value : undefined
      if (oldest !== undefined) entries.delete(oldest)
      return value
    },
    forget(key) {
      entries.delete(key)
    },
  }
}

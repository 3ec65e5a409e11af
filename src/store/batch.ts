// Reads of one kind that are asked for at the same time go to the database together: one round trip for all of them.

/** Two batches on their way keep the database busy; more would only make the batches smaller. */
const MOST_IN_FLIGHT = 2
const MOST_KEYS = 100

interface Waiting<V> {
  promise: Promise<V | undefined>
  resolve: (value: V | undefined) => void
  reject: (error: unknown) => void
}

/**
 * Turns a read of many keys into a read of one. A key that is asked for twice before its batch leaves is read once; a
 * batch that has left is never joined, so every answer was read after it was asked for.
 */
export function batched<K, V>(load: (keys: K[]) => Promise<Map<K, V>>): (key: K) => Promise<V | undefined> {
  const waiting = new Map<K, Waiting<V>>()
  let inFlight = 0

  function depart(): void {
    if (waiting.size === 0 || inFlight >= MOST_IN_FLIGHT) return
    const batch = [...waiting].slice(0, MOST_KEYS)
    for (const [key] of batch) waiting.delete(key)
    inFlight++
    load(batch.map(([key]) => key))
      .then(
        (found) => {
          for (const [key, { resolve }] of batch) resolve(found.get(key))
        },
        (error: unknown) => {
          for (const [, { reject }] of batch) reject(error)
        },
      )
      .finally(() => {
        inFlight--
        depart()
      })
  }

  return (key) => {
    const known = waiting.get(key)
    if (known !== undefined) return known.promise
    const asked = Promise.withResolvers<V | undefined>()
    waiting.set(key, asked)
    if (waiting.size === 1) setImmediate(depart) // whatever else arrived in this turn of the event loop comes along
    return asked.promise
  }
}

// Counts go on without the ephemeral store: in the memory of the process, in the same windows.
import { describe, expect, it } from 'vitest'
import { type Counter, createCounter } from '../../src/store/counter.ts'
import { createRedisEphemeralStore } from '../../src/store/ephemeral-redis.ts'
import { freePort } from '../support/server.ts'

async function withoutStore(work: (counter: Counter) => Promise<void>): Promise<void> {
  const url = `redis://127.0.0.1:${await freePort()}` // nobody listens there
  const store = createRedisEphemeralStore({ url, prefix: 'x:', startTimeoutMs: 1, onError: () => {} })
  try {
    await work(createCounter(store))
  } finally {
    await store.close()
  }
}

describe('without its store', () => {
  it('each kind and id has a count of its own, and says when its window is over', async () => {
    await withoutStore(async (counter) => {
      const counts: number[] = []
      for (const [kind, id] of [
        ['a', 'x'],
        ['a', 'x'],
        ['b', 'x'],
        ['a', 'y'],
        ['a', 'x'],
      ] as const)
        counts.push((await counter.increment(kind, id, 60)).count)
      expect(counts).toEqual([1, 2, 1, 1, 3])
      const { resetsInSeconds } = await counter.increment('a', 'x', 60)
      expect(resetsInSeconds).toBeGreaterThan(0)
      expect(resetsInSeconds).toBeLessThanOrEqual(60)
    })
  })

  it('a window that is over begins anew', async () => {
    await withoutStore(async (counter) => {
      for (let count = 0; count < 3; count++) await counter.increment('a', 'x', 0.001)
      await new Promise((resolve) => setTimeout(resolve, 5))
      expect(await counter.increment('a', 'x', 0.001)).toEqual({ count: 1, resetsInSeconds: 1 })
    })
  })

  it('what can never be counted is refused as with its store', async () => {
    await withoutStore(async (counter) => {
      await expect(counter.increment('a', '', 60)).rejects.toThrow(TypeError)
      await expect(counter.increment('a', 'x', 0)).rejects.toThrow(TypeError)
    })
  })
})

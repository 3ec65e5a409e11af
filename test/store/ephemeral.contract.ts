// What every ephemeral store promises, whatever it stands on.
import { randomUUID } from 'node:crypto'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { EphemeralChange, EphemeralEntry, EphemeralStore } from '../../src/store/ephemeral.ts'

/** Runs the suite on stores that `open` returns; it is called twice, for two clients of one backend. */
export function ephemeralContract(name: string, open: () => Promise<EphemeralStore>): void {
  describe(name, () => {
    let store: EphemeralStore
    let other: EphemeralStore

    beforeAll(async () => {
      store = await open()
      other = await open()
    })

    afterAll(async () => {
      await store.close()
      await other.close()
    })

    it('answers a ping', async () => {
      await expect(store.ping()).resolves.toBeUndefined()
    })

    it('finds on every client what one has put, exactly as it was', async () => {
      const id = randomUUID()
      const value = JSON.stringify({ text: 'Zoë \u{1F511} \u0001 "quoted" 0 1', filler: 'x'.repeat(200_000) })
      await store.write([put('session', id, value)])
      expect(await other.find('session', id)).toEqual({ value, consumed: false })
    })

    it('keeps an empty value apart from no entry', async () => {
      const id = randomUUID()
      await store.write([put('session', id, '')])
      expect(await store.find('session', id)).toEqual({ value: '', consumed: false })
      expect(await store.find('session', randomUUID())).toBeUndefined()
    })

    it('never finds one kind as another, nor a counter as an entry', async () => {
      const id = randomUUID()
      await store.write([put('session', id, 'a session')])
      expect(await store.find('code', id)).toBeUndefined()
      expect(await store.consume('code', id)).toBe(false)
      expect((await store.increment('session', id, 60)).count).toBe(1)
      expect((await store.increment('code', id, 60)).count).toBe(1)
      expect(await store.find('code', id)).toBeUndefined()
      await store.write([{ op: 'delete', kind: 'code', id }])
      expect(await store.find('session', id)).toEqual({ value: 'a session', consumed: false })
    })

    it('keeps kind and id apart where their joined text is the same', async () => {
      const id = randomUUID()
      await store.write([put('a', `b:${id}`, 'one'), put('a-b', id, 'two'), put('a', `b-${id}`, 'three')])
      expect((await store.find('a', `b:${id}`))?.value).toBe('one')
      expect((await store.find('a-b', id))?.value).toBe('two')
      expect((await store.find('a', `b-${id}`))?.value).toBe('three')
    })

    it('still finds a consumed entry, says that it is consumed, and does not let it be consumed again', async () => {
      const id = randomUUID()
      await store.write([put('code', id, 'payload')])
      expect(await store.consume('code', id)).toBe(true)
      expect(await other.find('code', id)).toEqual({ value: 'payload', consumed: true })
      expect(await other.consume('code', id)).toBe(false)
    })

    it('lets exactly one of 100 parallel callers consume an entry', async () => {
      const id = randomUUID()
      await store.write([put('code', id, 'payload')])
      const wins = await Promise.all(times(100, (turn) => (turn % 2 === 0 ? store : other).consume('code', id)))
      expect(wins.filter((won) => won)).toHaveLength(1)
    })

    it('makes a fresh entry, not consumed, of one that is put again', async () => {
      const id = randomUUID()
      await store.write([put('code', id, 'first')])
      await store.consume('code', id)
      await store.write([put('code', id, 'second')])
      expect(await store.find('code', id)).toEqual({ value: 'second', consumed: false })
      expect(await store.consume('code', id)).toBe(true)
    })

    it('neither finds nor consumes what was deleted', async () => {
      const id = randomUUID()
      await store.write([put('session', id, 'value')])
      await other.write([{ op: 'delete', kind: 'session', id }])
      expect(await store.find('session', id)).toBeUndefined()
      expect(await store.consume('session', id)).toBe(false)
    })

    it('makes the changes of one write in their order', async () => {
      const [kept, gone] = [randomUUID(), randomUUID()]
      await store.write([
        { op: 'delete', kind: 'session', id: kept },
        put('session', kept, 'first'),
        put('session', gone, 'short'),
        put('session', kept, 'last'),
        { op: 'delete', kind: 'session', id: gone },
      ])
      expect((await store.find('session', kept))?.value).toBe('last')
      expect(await store.find('session', gone)).toBeUndefined()
    })

    it('takes an empty write', async () => {
      await expect(store.write([])).resolves.toBeUndefined()
    })

    it('makes no change of a write that holds a wrong one', async () => {
      const id = randomUUID()
      const wrong: EphemeralChange[] = [
        put('session', '', 'no id'),
        put('session', 'n\0l', 'malformed id'),
        put('session', 'x'.repeat(513), 'id too long'),
        put('two words', id, 'malformed kind'),
        put('session', id, 'n\0l'),
        put('session', id, '\ud800'),
        put('session', id, 'no end', Number.NaN),
        { op: 'delete', kind: 'a:b', id },
      ]
      for (const change of wrong) {
        await expect(store.write([put('session', id, 'right'), change])).rejects.toThrow(TypeError)
      }
      expect(await store.find('session', id)).toBeUndefined()
    })

    it('leaves two entries of one write alike, when many writers race for both in any order', async () => {
      const [one, two] = [randomUUID(), randomUUID()]
      await Promise.all(
        times(60, (turn) => {
          const changes = [put('session', one, `v${turn}`), put('session', two, `v${turn}`)]
          return (turn % 2 === 0 ? store : other).write(turn % 3 === 0 ? changes.reverse() : changes)
        }),
      )
      const [first, second] = await Promise.all([store.find('session', one), store.find('session', two)])
      expect(first?.value).toMatch(/^v\d+$/)
      expect(second).toEqual(first)
    })

    it('has nothing under an id that cannot exist, and does not fail on it', async () => {
      for (const id of ['', '\0', 'n\0l', '\ud800', 'x'.repeat(513), 'x'.repeat(100_000)]) {
        expect(await store.find('session', id)).toBeUndefined()
        expect(await store.consume('session', id)).toBe(false)
      }
    })

    it('counts each of 1000 parallel events of two clients once, so that a limit of 100 lets exactly 100 pass', async () => {
      const id = randomUUID()
      const counts = await Promise.all(
        times(1_000, (turn) => (turn % 2 === 0 ? store : other).increment('sign-in', id, 60)),
      )
      expect(counts.filter(({ count }) => count <= 100)).toHaveLength(100)
      expect(new Set(counts.map(({ count }) => count)).size).toBe(1_000)
      for (const { resetsInSeconds } of counts) {
        expect(Number.isInteger(resetsInSeconds)).toBe(true)
        expect(resetsInSeconds).toBeGreaterThanOrEqual(1)
        expect(resetsInSeconds).toBeLessThanOrEqual(60)
      }
    })

    it('refuses a window that is no positive number', async () => {
      for (const window of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
        await expect(store.increment('sign-in', randomUUID(), window)).rejects.toThrow(TypeError)
      }
    })

    it('behaves as a map with marks, in any order of calls', async () => {
      await fc.assert(
        fc.asyncProperty(fc.array(call(), { maxLength: 25 }), async (calls) => {
          const run = randomUUID() // names of its own, so that runs do not meet
          const model = new Map<string, EphemeralEntry>()
          for (const { client, step } of calls) await play(client === 0 ? store : other, model, named(step, run))
        }),
        { numRuns: 60 },
      )
    })

    describe.concurrent('as time passes', () => {
      it('finds an entry until its time to live ends, and not after', async () => {
        const id = randomUUID()
        const begin = performance.now()
        await store.write([put('session', id, 'value', 1)])
        expect(await store.find('session', id)).toBeDefined()
        await untilAbsent(store, 'session', id)
        expect(performance.now() - begin).toBeGreaterThan(900)
        expect(await store.consume('session', id)).toBe(false)
      })

      it('does not lengthen the life of an entry by consuming it', async () => {
        const id = randomUUID()
        await store.write([put('code', id, 'payload', 1)])
        expect(await store.consume('code', id)).toBe(true)
        await untilAbsent(store, 'code', id)
        expect(await store.consume('code', id)).toBe(false)
      })

      it('gives an entry that is put again the new time to live, longer or shorter', async () => {
        const [longer, shorter] = [randomUUID(), randomUUID()]
        await store.write([put('session', longer, 'old', 1), put('session', shorter, 'old', 600)])
        await store.write([put('session', longer, 'new', 600), put('session', shorter, 'new', 1)])
        await untilAbsent(store, 'session', shorter)
        expect((await store.find('session', longer))?.value).toBe('new')
      })

      it('has no entry whose time to live is zero or less, and none that it replaced', async () => {
        const id = randomUUID()
        for (const ttlSeconds of [0, -5]) {
          await store.write([put('session', id, 'old', 600)])
          await store.write([put('session', id, 'new', ttlSeconds)])
          expect(await store.find('session', id)).toBeUndefined()
          expect(await store.consume('session', id)).toBe(false)
        }
      })

      it('keeps a window at its first end, then counts from one again', async () => {
        const id = randomUUID()
        const begin = performance.now()
        await store.increment('sign-in', id, 1)
        expect((await store.increment('sign-in', id, 1)).count).toBe(2)
        // If an event moved the end, these would never let it come.
        await vi.waitFor(async () => expect((await store.increment('sign-in', id, 1)).count).toBe(1), PATIENCE)
        expect(performance.now() - begin).toBeGreaterThan(900)
      })
    })
  })
}

const PATIENCE = { timeout: 5_000, interval: 100 }

async function untilAbsent(store: EphemeralStore, kind: string, id: string): Promise<void> {
  await vi.waitFor(async () => expect(await store.find(kind, id)).toBeUndefined(), PATIENCE)
}

export function put(kind: string, id: string, value: string, ttlSeconds = 600): EphemeralChange {
  return { op: 'put', kind, id, value, ttlSeconds }
}

export function times<T>(count: number, make: (turn: number) => T): T[] {
  return Array.from({ length: count }, (_, turn) => make(turn))
}

type Step = { op: 'find' | 'consume'; kind: string; id: string } | { op: 'write'; changes: EphemeralChange[] }

function call() {
  const name = { kind: fc.constantFrom('session', 'code'), id: fc.constantFrom('a', 'b', 'a:b') }
  const value = fc.string({ unit: 'grapheme', maxLength: 20 })
  const change: fc.Arbitrary<EphemeralChange> = fc.oneof(
    fc.record({ op: fc.constant('put' as const), ...name, value, ttlSeconds: fc.constantFrom(600, 600, 600, 0) }),
    fc.record({ op: fc.constant('delete' as const), ...name }),
  )
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ op: fc.constantFrom('find' as const, 'consume' as const), ...name }),
    fc.record({ op: fc.constant('write' as const), changes: fc.array(change, { maxLength: 5 }) }),
  )
  return fc.record({ client: fc.nat({ max: 1 }), step })
}

function named(step: Step, run: string): Step {
  if (step.op !== 'write') return { ...step, id: `${run}${step.id}` }
  return { op: 'write', changes: step.changes.map((change) => ({ ...change, id: `${run}${change.id}` })) }
}

/** Does one step on the store and on the model, and compares the answers. */
async function play(store: EphemeralStore, model: Map<string, EphemeralEntry>, step: Step): Promise<void> {
  const key = (kind: string, id: string): string => JSON.stringify([kind, id])
  if (step.op === 'write') {
    await store.write(step.changes)
    for (const change of step.changes) {
      if (change.op === 'put' && change.ttlSeconds > 0) {
        model.set(key(change.kind, change.id), { value: change.value, consumed: false })
      } else {
        model.delete(key(change.kind, change.id))
      }
    }
    return
  }
  const entry = model.get(key(step.kind, step.id))
  if (step.op === 'find') {
    expect(await store.find(step.kind, step.id)).toEqual(entry)
  } else {
    expect(await store.consume(step.kind, step.id)).toBe(entry !== undefined && !entry.consumed)
    if (entry !== undefined) entry.consumed = true
  }
}

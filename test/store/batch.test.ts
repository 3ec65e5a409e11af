import { describe, expect, it } from 'vitest'
import { batched } from '../../src/store/batch.ts'

/** A load whose answers come when the test says so. */
function createLoad() {
  const calls: Array<{ keys: string[]; answer: (found: Map<string, string>) => void; fail: (error: Error) => void }> =
    []
  const load = (keys: string[]) =>
    new Promise<Map<string, string>>((answer, fail) => calls.push({ keys, answer, fail }))
  return { calls, load }
}

const turn = () => new Promise((resolve) => setImmediate(resolve))

describe('batched reads', () => {
  it('go together when they are asked for together, each key once', async () => {
    const { calls, load } = createLoad()
    const read = batched(load)
    const answers = Promise.all([read('a'), read('b'), read('a'), read('none')])
    await turn()
    expect(calls.map((call) => call.keys)).toEqual([['a', 'b', 'none']])
    calls[0]?.answer(
      new Map([
        ['a', '1'],
        ['b', '2'],
      ]),
    )
    expect(await answers).toEqual(['1', '2', '1', undefined])
  })

  it('never join a batch that has left: an answer is read after it was asked for', async () => {
    const { calls, load } = createLoad()
    const read = batched(load)
    const early = read('a')
    await turn()
    const late = read('a')
    await turn()
    expect(calls).toHaveLength(2)
    calls[1]?.answer(new Map([['a', 'new']]))
    calls[0]?.answer(new Map([['a', 'old']]))
    expect([await early, await late]).toEqual(['old', 'new'])
  })

  it('fail together, and the next ones are read again', async () => {
    const { calls, load } = createLoad()
    const read = batched(load)
    const failed = Promise.allSettled([read('a'), read('b')])
    await turn()
    calls[0]?.fail(new Error('down'))
    expect((await failed).map((outcome) => outcome.status)).toEqual(['rejected', 'rejected'])
    const again = read('a')
    await turn()
    calls[1]?.answer(new Map([['a', '1']]))
    expect(await again).toBe('1')
  })

  it('wait while two batches are on their way, then leave in one', async () => {
    const { calls, load } = createLoad()
    const read = batched(load)
    const answers = []
    for (const key of ['a', 'b', 'c', 'd']) {
      answers.push(read(key))
      await turn()
    }
    expect(calls.map((call) => call.keys)).toEqual([['a'], ['b']])
    calls[0]?.answer(new Map([['a', 'a']]))
    await turn()
    expect(calls.map((call) => call.keys)).toEqual([['a'], ['b'], ['c', 'd']])
    for (const call of calls) call.answer(new Map(call.keys.map((key) => [key, key])))
    expect(await Promise.all(answers)).toEqual(['a', 'b', 'c', 'd'])
  })
})

// Calls under way: as many at once as may be, and each for as long as it may take.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { HOLD_SECONDS } from '../../src/proxy/service.ts'
import { createUnderWay, MOST_CALL_MS } from '../../src/proxy/under-way.ts'

const never = new AbortController().signal
const gone = AbortSignal.abort()

beforeEach(() => {
  vi.useFakeTimers()
})
afterEach(() => {
  vi.useRealTimers()
})

function begin(underWay: ReturnType<typeof createUnderWay>, credentialId: string, caller = never) {
  const begun = underWay.begin(credentialId, caller)
  if (begun === undefined) throw new Error('there are too many')
  return begun
}

describe('calls under way', () => {
  it('are so many of each credential; one that has ended makes room, once', () => {
    const underWay = createUnderWay({ mostAtOnce: 2 })
    const first = begin(underWay, 'a')
    begin(underWay, 'a')
    expect(underWay.begin('a', never)).toBeUndefined()
    begin(underWay, 'b')
    first.end()
    first.end()
    begin(underWay, 'a')
    expect(underWay.begin('a', never)).toBeUndefined()
  })

  it('end with their time, which is below that of a hold', () => {
    expect(MOST_CALL_MS).toBeLessThan(HOLD_SECONDS * 1_000)
    const { signal } = begin(createUnderWay(), 'a')
    vi.advanceTimersByTime(MOST_CALL_MS - 1)
    expect(signal.aborted).toBe(false)
    vi.advanceTimersByTime(1)
    expect(signal.aborted).toBe(true)
  })

  it('end with their caller', () => {
    const caller = new AbortController()
    const { signal } = begin(createUnderWay(), 'a', caller.signal)
    expect(signal.aborted).toBe(false)
    caller.abort()
    expect(signal.aborted).toBe(true)
    expect(begin(createUnderWay(), 'a', gone).signal.aborted).toBe(true)
  })

  it('that have ended leave no timer behind', async () => {
    const caller = new AbortController()
    const underWay = createUnderWay()
    const calls = [begin(underWay, 'a', caller.signal), begin(underWay, 'a', gone)]
    for (const call of calls) call.end()
    caller.abort() // as every connection is, in the end
    expect(vi.getTimerCount()).toBe(0)
    await Promise.all(calls.map(({ ended }) => ended))
  })
})

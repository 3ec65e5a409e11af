import { describe, expect, it } from 'vitest'
import { delaySeconds, isTaken, MOST_TRIES } from '../../src/logout/rules.ts'

const delays = (chance: number) => Array.from({ length: MOST_TRIES - 1 }, (_, index) => delaySeconds(index + 1, chance))

describe('telling a client again', () => {
  it('begins within half a minute, waits longer each time up to two hours and a bit, and ends the same day', () => {
    for (const chance of [0, 0.5, 0.999]) {
      const waits = delays(chance)
      expect(waits[0]).toBeLessThanOrEqual(25)
      expect([...waits].sort((a, b) => a - b)).toEqual(waits)
      expect(Math.max(...waits)).toBeLessThanOrEqual(9_000)
      const hours = waits.reduce((sum, wait) => sum + wait, 0) / 3_600
      expect(hours).toBeGreaterThan(4)
      expect(hours).toBeLessThan(8)
    }
  })

  it('spreads what failed together over half of the wait', () => {
    expect([delaySeconds(3, 0), delaySeconds(3, 1)]).toEqual([240, 400])
  })

  it('is over with 200 and 204, and with nothing else', () => {
    const statuses = [100, 200, 201, 202, 204, 205, 301, 400, 404, 410, 500]
    expect(statuses.filter(isTaken)).toEqual([200, 204])
  })
})

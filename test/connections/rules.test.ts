// What a presented refresh token means, by table, and by property: no state gives two answers that contradict.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  isVersionGood,
  judgeRefresh,
  type PresentedRefreshToken,
  type RefreshJudgement,
} from '../../src/connections/rules.ts'

const NOW = new Date('2026-03-01T12:00:00.000Z')
const GRACE = 60
const ago = (seconds: number) => new Date(NOW.getTime() - seconds * 1000)
const ahead = (seconds: number) => ago(-seconds)

const UNUSED = { consumed: false }
const USED = { consumed: true }

interface Case extends Partial<PresentedRefreshToken> {
  is: RefreshJudgement
}

describe('a presented refresh token', () => {
  it.each<[string, Case]>([
    ['never used', { is: 'fresh' }],
    ['never used, in its last second', { expiresAt: ahead(1), is: 'fresh' }],
    ['never used, at the moment it expires', { expiresAt: NOW, is: 'dead' }],
    ['never used, long expired', { expiresAt: ago(86_400), is: 'dead' }],
    ['never used, its family ended', { familyEnded: true, is: 'dead' }],
    ['used just now, the successor not', { consumedAt: NOW, successor: UNUSED, is: 'retry' }],
    ['used 59.999 s ago, the successor not', { consumedAt: ago(59.999), successor: UNUSED, is: 'retry' }],
    ['used 60 s ago, the successor not', { consumedAt: ago(60), successor: UNUSED, is: 'reused' }],
    ['used just now, and so is the successor', { consumedAt: NOW, successor: USED, is: 'superseded' }],
    ['used 60 s ago, and so is the successor', { consumedAt: ago(60), successor: USED, is: 'reused' }],
    ['used just now, the successor gone', { consumedAt: NOW, successor: undefined, is: 'superseded' }],
    [
      'used a year ago, and expired since',
      { consumedAt: ago(3e7), expiresAt: ago(2e7), successor: USED, is: 'reused' },
    ],
    ['used just now, and expired since', { consumedAt: ago(1), expiresAt: NOW, successor: UNUSED, is: 'retry' }],
    ['used just now, its family ended', { consumedAt: NOW, successor: UNUSED, familyEnded: true, is: 'dead' }],
    ['used long ago, its family ended', { consumedAt: ago(999), successor: USED, familyEnded: true, is: 'dead' }],
    // Of two processes, one may have read its clock a moment before the other committed.
    ['used a moment from now', { consumedAt: ahead(0.5), successor: UNUSED, is: 'retry' }],
  ])('%s', (_, { is, ...token }) => {
    const presented = { consumedAt: null, expiresAt: ahead(3600), familyEnded: false, successor: undefined, ...token }
    expect(judgeRefresh(presented, NOW, GRACE)).toBe(is)
  })

  const instant = fc.integer({ min: -200_000, max: 200_000 }).map((ms) => new Date(NOW.getTime() + ms))
  const anyToken = fc.record({
    consumedAt: fc.option(instant),
    expiresAt: instant,
    familyEnded: fc.boolean(),
    successor: fc.option(fc.record({ consumed: fc.boolean() }), { nil: undefined }),
  })

  it('is answered with tokens only while it is unused, or its one successor is', () => {
    fc.assert(
      fc.property(anyToken, (token) => {
        const judgement = judgeRefresh(token, NOW, GRACE)
        if (judgement !== 'fresh' && judgement !== 'retry') return
        expect(token.familyEnded).toBe(false)
        expect(token.consumedAt === null || token.successor?.consumed === false).toBe(true)
      }),
    )
  })

  it('ends its family only when it was used before, and the window is over', () => {
    fc.assert(
      fc.property(anyToken, (token) => {
        const usedLongAgo = token.consumedAt !== null && NOW.getTime() - token.consumedAt.getTime() >= GRACE * 1000
        expect(judgeRefresh(token, NOW, GRACE) === 'reused').toBe(!token.familyEnded && usedLongAgo)
      }),
    )
  })

  it('never comes back to life as time goes by', () => {
    const order: Record<RefreshJudgement, number> = { fresh: 0, retry: 0, superseded: 1, reused: 2, dead: 2 }
    fc.assert(
      fc.property(anyToken, fc.nat({ max: 400_000 }), (token, laterMs) => {
        const now = judgeRefresh(token, NOW, GRACE)
        const later = judgeRefresh(token, new Date(NOW.getTime() + laterMs), GRACE)
        expect(order[later]).toBeGreaterThanOrEqual(order[now])
      }),
    )
  })
})

describe('a version', () => {
  it.each([
    [{ floor: 1, version: 1, closedAt: null, suspendedAt: null }, 1, true],
    [{ floor: 2, version: 3, closedAt: null, suspendedAt: null }, 1, false],
    [{ floor: 2, version: 3, closedAt: null, suspendedAt: null }, 2, true],
    [{ floor: 2, version: 3, closedAt: null, suspendedAt: null }, 3, true],
    [{ floor: 2, version: 3, closedAt: null, suspendedAt: null }, 4, false],
    [{ floor: 1, version: 3, closedAt: NOW, suspendedAt: null }, 3, false],
    [{ floor: 1, version: 3, closedAt: null, suspendedAt: NOW }, 3, false],
  ])('of %o: v%i is good: %s', (facts, version, good) => {
    expect(isVersionGood(facts, version)).toBe(good)
  })
})

// Money and months, by table.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  alertsAt,
  formatMoney,
  isAdmitted,
  type Month,
  monthBefore,
  monthsBetween,
  parseMoney,
  parseMonth,
} from '../../src/usage/rules.ts'
import { digestOfEvent } from '../../src/usage/service.ts'

describe('money', () => {
  it.each([
    ['0', 0n, '0.00'],
    ['1', 1_000_000n, '1.00'],
    ['12.5', 12_500_000n, '12.50'],
    ['0.000001', 1n, '0.000001'],
    ['0.0123', 12_300n, '0.0123'],
    ['999999999.999999', 999_999_999_999_999n, '999999999.999999'],
    ['007.10', 7_100_000n, '7.10'],
  ])('%s', (text, micros, shown) => {
    expect(parseMoney(text)).toBe(micros)
    expect(formatMoney(micros)).toBe(shown)
  })

  it.each([
    '',
    '.5',
    '5.',
    '-1',
    '+1',
    '1e3',
    '1,5',
    ' 1',
    '1 ',
    '0.0000001',
    '1000000000',
    '０',
    '1\n',
    'NaN',
    '0x10',
  ])('is not %j', (text) => expect(parseMoney(text)).toBeUndefined())

  it('what is shown is read as the same amount', () => {
    fc.assert(
      fc.property(fc.bigInt({ min: 0n, max: 999_999_999_999_999n }), (micros) => {
        expect(parseMoney(formatMoney(micros))).toBe(micros)
        expect(formatMoney(-micros)).toBe(`${micros === 0n ? '' : '-'}${formatMoney(micros)}`)
      }),
    )
  })
})

describe('months', () => {
  const month = (text: string) => parseMonth(text) as Month
  it('go over the end of a year', () => {
    expect(monthBefore(month('2026-01'), 1)).toBe('2025-12-01')
    expect(monthBefore(month('2026-12'), -1)).toBe('2027-01-01')
    expect(monthsBetween(month('2025-11'), month('2026-02'))).toEqual([
      '2025-11-01',
      '2025-12-01',
      '2026-01-01',
      '2026-02-01',
    ])
  })
  it.each(['2026', '2026-13', '2026-00', '26-01', '2026-1', '2026-01-01', '1999-01', ''])('%j is none', (text) =>
    expect(parseMonth(text)).toBeUndefined(),
  )
})

describe('caps', () => {
  const balance = { settledMicros: 60n, heldMicros: 30n }
  it('admit up to the cap itself, where it is hard', () => {
    expect(isAdmitted({ capMicros: 100n, mode: 'hard' }, balance, 10n)).toBe(true)
    expect(isAdmitted({ capMicros: 100n, mode: 'hard' }, balance, 11n)).toBe(false)
    expect(isAdmitted({ capMicros: 100n, mode: 'soft' }, balance, 11n)).toBe(true)
    expect(isAdmitted(undefined, balance, 11n)).toBe(true)
    expect(isAdmitted({ capMicros: 50n, mode: 'hard' }, balance, 0n)).toBe(false)
  })
  it('alert at four fifths, and at all of it', () => {
    const budget = { capMicros: 100n, mode: 'soft' } as const
    expect(alertsAt(budget, 79n)).toEqual([])
    expect(alertsAt(budget, 80n)).toEqual([80])
    expect(alertsAt(budget, 100n)).toEqual([80, 100])
    expect(alertsAt({ ...budget, capMicros: 0n }, 0n)).toEqual([])
    expect(alertsAt({ ...budget, capMicros: 0n }, 1n)).toEqual([100])
  })
})

it('an event is another one when anything of it is', () => {
  const event = {
    provider: 'anthropic',
    model: 'm',
    inputTokens: 1,
    outputTokens: 2,
    costMicros: 3n,
    occurredAt: null,
    profileId: null,
  }
  const others = [
    { provider: null },
    { model: 'n' },
    { inputTokens: 2 },
    { outputTokens: null },
    { costMicros: null },
    { costMicros: 4n },
    { occurredAt: '2026-01-01T00:00:00Z' },
    { profileId: 'p' },
  ]
  const digests = [event, ...others.map((other) => ({ ...event, ...other }))].map(digestOfEvent)
  expect(new Set(digests).size).toBe(digests.length)
})

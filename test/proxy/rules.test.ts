// What passes and what is counted of it, by table.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isReadable, usageOf } from '../../src/proxy/rules.ts'
import { createSummary } from '../../src/proxy/stream.ts'

const usage = (input: number, output: number, long = 0) => ({
  inputTokens: input,
  outputTokens: output,
  cacheReadTokens: 0,
  cacheWriteTokens: 0,
  longCacheWriteTokens: long,
})

describe('what a call used', () => {
  const told = usage(10, 5)
  const most = usage(0, 64_000, 400)
  it.each([
    ['what was told last', { told, isLast: true, textBytes: 4_000 }, undefined, usage(10, 5)],
    ['what was told last, whatever is held', { told, isLast: true, textBytes: 0 }, most, usage(10, 5)],
    ['no less than was seen', { told, isLast: false, textBytes: 4_001 }, undefined, usage(10, 1_001)],
    ['no less than was told', { told, isLast: false, textBytes: 4 }, undefined, usage(10, 5)],
    ['as much as was held of the output', { told, isLast: false, textBytes: 4 }, most, usage(10, 64_000)],
    [
      'no more than was held, however long its text',
      { told, isLast: false, textBytes: 400_000 },
      most,
      usage(10, most.outputTokens),
    ],
    ['a guess of both', { told: undefined, isLast: false, textBytes: 8 }, undefined, usage(100, 2)],
    ['all that was held', { told: undefined, isLast: false, textBytes: 8 }, most, most],
  ])('is %s', (_name, seen, held, expected) => {
    expect(usageOf(seen, { requestBytes: 400, most: held })).toEqual(expected)
  })
})

describe('an answer', () => {
  it.each([
    [200, undefined, true],
    [599, 'Identity', true],
    [200, 'gzip', false],
    [200, 'identity, br', false],
    [0, undefined, false],
    [600, undefined, false],
    [999, undefined, false],
  ])('of %i in the encoding %s can be read: %s', (status, encoding, expected) => {
    expect(isReadable({ status, headers: encoding === undefined ? {} : { 'content-encoding': encoding } })).toBe(
      expected,
    )
  })
})

/** Lists and long strings empty. */
function summarized(value: unknown): unknown {
  if (Array.isArray(value)) return []
  if (typeof value === 'string') return Buffer.byteLength(JSON.stringify(value)) > 256 ? '' : value
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, summarized(member)]))
}

describe('the summary of a long answer', () => {
  it('is the answer without its lists and its long strings, however it is cut', () => {
    const text = fc.oneof(fc.string(), fc.string({ minLength: 200, maxLength: 400, unit: 'binary' }))
    const { answer } = fc.letrec((tie) => ({
      answer: fc.dictionary(fc.string({ maxLength: 5 }), tie('value'), { maxKeys: 5, noNullPrototype: true }),
      value: fc.oneof({ maxDepth: 4 }, text, fc.double(), fc.constant(null), fc.array(tie('value')), tie('answer')),
    }))
    fc.assert(
      fc.property(answer, fc.integer({ min: 1, max: 50 }), (value, size) => {
        const sent = Buffer.from(`data: ${JSON.stringify(value)}`)
        const summary = createSummary()
        for (let at = 0; at < sent.byteLength; at += size) summary.add(sent.subarray(at, at + size))
        expect(JSON.parse(summary.text())).toEqual(summarized(JSON.parse(JSON.stringify(value))))
      }),
    )
  })

  it('of what is too long without them says nothing', () => {
    const summary = createSummary()
    for (let at = 0; at < 20_000; at++) summary.add(Buffer.from(`${at === 0 ? '{' : ','}"${at}":1`))
    summary.add(Buffer.from('}'))
    expect(summary.text()).toBe('')
  })
})

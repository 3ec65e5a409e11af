// What a JSON text holds, by table.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { excessOf, namesTwice } from '../../src/json/rules.ts'

describe('a text', () => {
  it.each([
    ['of 200 levels', '['.repeat(200) + ']'.repeat(200), undefined],
    ['of 201 levels', '['.repeat(201) + ']'.repeat(201), 'deep'],
    ['of levels without end', '{"a":['.repeat(2_000_000), 'deep'],
    ['of levels in a string', JSON.stringify({ a: '[{:'.repeat(200_000), b: '\\"['.repeat(200_000) }), undefined],
    ['of 99,998 members', `{"a":{${'"a":1,'.repeat(99_996)}"b":1}}`, undefined],
    ['of many members', `{${'"a":1,'.repeat(100_000)}"b":1}`, 'many'],
    ['of many objects', `[${'{},'.repeat(100_000)}1]`, 'many'],
    ['of a million numbers', `[${'1,'.repeat(1_000_000)}1]`, undefined],
    ['that is none', '}]"\\"', undefined],
  ])('%s is too much: %#', (_name, json, expected) => {
    expect(excessOf(Buffer.from(json))).toBe(expected)
  })

  it('of sixteen million bytes is looked at in no time', () => {
    for (const json of ['{"a":"x",'.repeat(1_800_000), '['.repeat(16_000_000), '1,'.repeat(8_000_000)]) {
      const text = Buffer.from(json)
      const startedAt = performance.now()
      excessOf(text)
      expect(performance.now() - startedAt).toBeLessThan(500)
    }
  })
})

describe('names', () => {
  it.each([
    ['{}', false],
    ['[]', false],
    ['{"a":1,"b":{"a":[{"a":1},{"a":"a"}]},"c":"a","d":["a","a",{"a":1}]}', false],
    ['{"a":"\\"a\\":1,","b":"\\\\","c":"\\\\\\""}', false],
    ['{"a":1,"a":1}', true],
    ['{"a":1,"\\u0061":1}', true],
    ['{"a":"\\\\","a":1}', true],
    ['[[{"b":[{"a":[1,"x"] , "a" : 1}]}]]', true],
  ])('of %s stand twice: %s', (json, expected) => {
    JSON.parse(json)
    expect(namesTwice(Buffer.from(json))).toBe(expected)
  })

  it('of what was made from an object stand once', () => {
    fc.assert(fc.property(fc.jsonValue(), (value) => !namesTwice(Buffer.from(JSON.stringify(value)))))
  })
})

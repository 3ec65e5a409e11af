import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createEnvelope } from '../../src/crypto/envelope.ts'

const [oldKey, newKey, otherKey] = [randomBytes(32), randomBytes(32), randomBytes(32)]

describe('the envelope', () => {
  it('opens what it sealed, for the place it was sealed for', () => {
    const envelope = createEnvelope([newKey])
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), fc.string(), (text, place) => {
        expect(envelope.open(envelope.seal(text, place), place)).toBe(text)
      }),
    )
  })

  it('opens nothing that was changed in any bit, or moved to another place', () => {
    const envelope = createEnvelope([newKey])
    const sealed = envelope.seal('the key to a company', 'keys:1')
    const [version, id, body = ''] = sealed.split('.')
    const bytes = Buffer.from(body, 'base64url')
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes)
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(envelope.open(`${version}.${id}.${flipped.toString('base64url')}`, 'keys:1')).toBeUndefined()
    }
    expect(envelope.open(sealed, 'keys:2')).toBeUndefined()
    for (const text of ['', '1', '1.x.y', `${sealed}.z`, `2${sealed.slice(1)}`, sealed.slice(0, -30)]) {
      expect(envelope.open(text, 'keys:1')).toBeUndefined()
    }
  })

  it('during a rotation opens both, and seals under the newest', () => {
    const before = createEnvelope([oldKey]).seal('text', 'place')
    const rotating = createEnvelope([newKey, oldKey])
    expect(rotating.open(before, 'place')).toBe('text')
    expect(createEnvelope([newKey]).open(rotating.seal('text', 'place'), 'place')).toBe('text')
    expect(createEnvelope([otherKey]).open(before, 'place')).toBeUndefined()
  })
})

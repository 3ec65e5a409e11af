import { describe, expect, it } from 'vitest'
import { createPasswords } from '../../src/crypto/passwords.ts'
import { Secret } from '../../src/crypto/secret.ts'
import { AppError } from '../../src/errors.ts'

describe('passwords', () => {
  it('are kept as argon2id with a salt of their own', async () => {
    const passwords = createPasswords()
    const [one, two] = await Promise.all([passwords.digest(new Secret('same')), passwords.digest(new Secret('same'))])
    expect(one).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$/)
    expect(one).not.toBe(two)
    expect(await passwords.matches(one, new Secret('same'))).toBe(true)
    expect(await passwords.matches(one, new Secret('Same'))).toBe(false)
  })

  it('never match for a person without one, whatever is tried', async () => {
    const passwords = createPasswords()
    expect(await passwords.matches(null, new Secret('no one has this password'))).toBe(false)
    expect(await passwords.matches(undefined, new Secret(''))).toBe(false)
  })

  it('a flood is turned away beyond fifty waiting, and the rest is served', async () => {
    const passwords = createPasswords()
    const tries = await Promise.allSettled(Array.from({ length: 80 }, () => passwords.matches(null, new Secret('x'))))
    const refused = tries.filter((outcome) => outcome.status === 'rejected')
    expect(refused.length).toBeGreaterThanOrEqual(20)
    expect(
      refused.every((outcome) => outcome.reason instanceof AppError && outcome.reason.code === 'unavailable'),
    ).toBe(true)
    expect(tries.length - refused.length).toBeGreaterThanOrEqual(50)
  })
})

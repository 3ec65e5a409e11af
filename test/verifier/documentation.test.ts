// What docs/verifier.md tells whoever writes a verifier in another language is true: its examples are computed here.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { expect, it } from 'vitest'
import { ROOT } from '../../src/app.ts'
import { isTokenValue } from '../../src/crypto/token-value.ts'
import { createIssuerClock } from '../../src/verifier/clock.ts'
import { createList, endsIssuedAt, endsVersion } from '../../src/verifier/list.ts'
import { isTokenForm } from '../../src/verifier/token-form.ts'
import { hashSubject, parseMessage } from '../../src/verifier/wire.ts'

const text = readFileSync(join(ROOT, 'docs/verifier.md'), 'utf8')
const find = (pattern: RegExp): string => {
  const found = pattern.exec(text)?.[1]
  if (found === undefined) throw new Error(`docs/verifier.md has nothing like ${pattern}`)
  return found
}
const rows = (pattern: RegExp): string[][] =>
  [...text.matchAll(pattern)].map(([row]) =>
    row
      .split('|')
      .map((cell) => cell.trim().replaceAll('`', ''))
      .slice(1, -1),
  )

it('hashes a subject as it says', () => {
  const [key, subject] = [find(/^key {6}(\S+)$/m), find(/^subject {2}(\S+)$/m)]
  const digest = createHash('sha256').update(key).update(subject).digest()
  expect(digest.toString('hex')).toBe(find(/^SHA-256 {2}(\S+)$/m))
  expect(digest.toString('base64url').slice(0, 22)).toBe(find(/^entry {4}(\S+)$/m))
  const others = rows(/^\| `(?:ws_|jti:|everything)[^|]*\| `[\w-]{22}` \|$/gm)
  expect(others).toHaveLength(3)
  for (const [name = '', hashed] of [[subject, find(/^entry {4}(\S+)$/m)], ...others])
    expect([name, hashSubject(key, name)]).toEqual([name, hashed])
})

it('adds up the checksum of a workspace token as it says', () => {
  const [body, checksum] = [find(/^(tid_ws_\S+) {3}CRC-32/m), find(/CRC-32 = (\d+) =/)]
  expect(crc32(body)).toBe(Number(checksum))
  const value = find(/^(tid_ws_\w{46})$/m)
  expect(value.startsWith(body)).toBe(true)
  expect([isTokenForm(value), isTokenValue(value)]).toEqual([true, true])
  const terms = find(/CRC-32 = \d+ = (.*)$/m).split(' + ')
  const powers: Record<string, number> = { '': 0, '⁵': 5, '⁴': 4, '³': 3, '²': 2 }
  const sum = terms.map((term) => {
    const [, digit, hasBase, power = ''] = /^(\d+)(·62)?(.?)$/.exec(term) ?? []
    return Number(digit) * 62 ** (hasBase === undefined ? 0 : (powers[power] ?? 0) || 1)
  })
  expect(sum.reduce((a, b) => a + b)).toBe(Number(checksum))
})

it('decides about the JWTs of its example as it says', () => {
  const messages = find(/```json\n([\s\S]*?)```/)
    .trim()
    .split('\n')
    .map(parseMessage)
  expect(messages).toHaveLength(3)
  const list = createList(createIssuerClock())
  for (const message of messages) list.apply(message)
  const examples = rows(/^\| `con_.*$/gm)
  expect(examples.length).toBeGreaterThan(5)
  for (const [credentialId = '', version = '', workspaceId = '', jti = '', iat, ...verdicts] of examples) {
    const { own, all } = list.about({ credentialId, workspaceId, subject: 'usr_1', clientId: undefined })
    const found = [1_795_000_000, 1_795_000_061].map(
      (now) =>
        endsVersion(own, Number(version.slice(1)), now * 1000) ||
        all.some((ending) => endsIssuedAt(ending, Number(iat))) ||
        list.isDenied(jti),
    )
    const said = verdicts.map((verdict) => /^(yes|no)/.exec(verdict)?.[0] === 'yes')
    expect([credentialId, version, iat, ...found]).toEqual([credentialId, version, iat, ...said])
  }
})

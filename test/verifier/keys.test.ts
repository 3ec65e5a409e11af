// The issuer's keys in the verifier: rotated, removed, out of reach, and asked for by names that somebody made up.
import { randomBytes } from 'node:crypto'
import { expect, it } from 'vitest'
import type { Verifier } from '../../src/verifier/index.ts'
import { decision, json, useIssuer } from './issuer.ts'

const MINUTE_MS = 60_000
const scene = useIssuer()
const { open, waitLong } = scene

/** From memory alone: whether it is known to introspection says nothing about its key. */
const decided = (verify: Verifier, value: string) => decision(scene.issuer, verify, value)

it('a new key is fetched when the first JWT comes that it signed, once for all that come with it', async () => {
  const verify = await open()
  expect(await decided(verify, await scene.issuer.jwt())).toBe('200')
  const old = await scene.issuer.jwt()
  await scene.issuer.rotate()
  const fresh = await Promise.all(Array.from({ length: 50 }, () => scene.issuer.jwt()))
  expect(new Set(await Promise.all(fresh.map((jwt) => decided(verify, jwt))))).toEqual(new Set(['200']))
  expect(await decided(verify, old)).toBe('200')
  expect(scene.issuer.count('/jwks')).toBe(2)
})

it('rotation after rotation, one right after the other, refuses nobody', async () => {
  const verify = await open()
  for (let round = 0; round < 4; round++) {
    expect(await decided(verify, await scene.issuer.jwt())).toBe('200')
    await scene.issuer.rotate()
  }
  expect(await decided(verify, await scene.issuer.jwt())).toBe('200')
})

it('keys that nobody has are looked for once a second at most, however many are named', async () => {
  const verify = await open()
  const good = await scene.issuer.jwt()
  await decided(verify, good)
  const startedAt = performance.now()
  const made = await Promise.all(
    Array.from({ length: 2_000 }, () => scene.issuer.jwt({}, { kid: randomBytes(8).toString('hex') })),
  )
  for (let from = 0; from < made.length; from += 500) {
    const answers = await Promise.all(made.slice(from, from + 500).map((jwt) => decided(verify, jwt)))
    expect(answers.every((answer) => answer.startsWith('401 '))).toBe(true)
    expect(await decided(verify, good)).toBe('200')
  }
  expect(scene.issuer.count('/jwks')).toBeLessThanOrEqual(2 + Math.ceil((performance.now() - startedAt) / 1_000))
})

it.each([
  ['none', undefined],
  ['of another type', null],
  ['a number', 7],
  ['a list', ['a']],
  ['a name of every object', '__proto__'],
  ['a path', '../../etc/passwd'],
  ['a sentence', `' OR 1=1 --`],
  ['a very long one', 'k'.repeat(4_000)],
])('a key id that is %s is refused', async (_name, kid) => {
  const verify = await open()
  expect(await decided(verify, await scene.issuer.jwt({}, { kid }))).toMatch(/^401/)
})

it('keys that cannot be fetched are no reason to call a JWT bad', async () => {
  for (const status of [404, 500, 503]) {
    scene.issuer.onKeys = (response) => void response.writeHead(status).end('no')
    const verify = await open()
    expect(await decided(verify, await scene.issuer.jwt())).toBe('503 the keys could not be fetched')
  }
  scene.issuer.onKeys = (response) => json(response, { keys: 'none' })
  const verify = await open()
  expect(await decided(verify, await scene.issuer.jwt())).toBe('503 the keys could not be fetched')
  scene.issuer.onKeys = undefined
  await expect.poll(async () => decided(verify, await scene.issuer.jwt()), { timeout: 10_000 }).toBe('200')
})

it('what is no key of ours in the set is passed over', async () => {
  const keys = await (await fetch(`${scene.issuer.origin}/jwks`)).json()
  scene.issuer.onKeys = (response) =>
    json(response, { keys: [null, 'x', {}, { kty: 'RSA', kid: 'r' }, { ...keys.keys[0], kid: 5 }, ...keys.keys] })
  expect(await decided(await open(), await scene.issuer.jwt())).toBe('200')
})

it('a key that was removed is refused after five minutes, without anything else having happened', async () => {
  const verify = await open()
  const stolen = await scene.issuer.jwt({ exp: Math.floor(scene.issuer.now() / 1000) + 3_600 })
  expect(await decided(verify, stolen)).toBe('200')
  await scene.issuer.rotate({ alone: true })
  await waitLong(verify, 5 * MINUTE_MS + 1_000)
  expect(await decided(verify, stolen)).toMatch(/^401/)
  expect(await decided(verify, await scene.issuer.jwt())).toBe('200')
})

it('keys that are known go on while they cannot be fetched anew, and are asked for now and then', async () => {
  const verify = await open()
  const jwt = await scene.issuer.jwt({ exp: Math.floor(scene.issuer.now() / 1000) + 7_200 })
  expect(await decided(verify, jwt)).toBe('200')
  scene.issuer.onKeys = (response) => void response.writeHead(503).end()
  await waitLong(verify, 20 * MINUTE_MS)
  for (let use = 0; use < 20; use++) expect(await decided(verify, jwt)).toBe('200')
  expect(scene.issuer.count('/jwks')).toBe(2)
  await waitLong(verify, 90 * MINUTE_MS) // longer than any JWT lives that they signed
  expect(await decided(verify, await scene.issuer.jwt())).toMatch(/^503/)
})

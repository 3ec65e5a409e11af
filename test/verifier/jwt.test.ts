// JWTs that a careless verifier takes (threats D): each one differs from a good one in one thing, and most are well signed.
import { createHmac } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Verifier } from '../../src/verifier/index.ts'
import { AUDIENCE, decision, openVerifier, type ScriptedIssuer, startIssuer } from './issuer.ts'

let issuer: ScriptedIssuer
let verify: Verifier
beforeAll(async () => {
  issuer = await startIssuer()
  verify = openVerifier(issuer)
  await verify.ready()
})
afterAll(async () => {
  await verify?.close()
  await issuer?.close()
})

const decided = (value: string) => decision(issuer, verify, value)
const claimsOf = (jwt: string) => JSON.parse(Buffer.from(jwt.split('.')[1] ?? '', 'base64url').toString())
const seconds = () => Math.floor(issuer.now() / 1000)

it('a good one is let in, so that the others are refused for what they are', async () => {
  expect(await decided(await issuer.jwt())).toBe('200')
  expect(await decided(await issuer.jwt({}, { typ: 'application/at+jwt' }))).toBe('200')
  expect(await decided(await issuer.jwt({}, { typ: 'AT+JWT' }))).toBe('200')
  expect(await decided(await issuer.jwt({ exp: seconds() - 5 }))).toBe('200') // clocks differ
  const claims = claimsOf(await issuer.jwt())
  const header = JSON.stringify({ alg: 'ES256', typ: 'at+jwt', kid: issuer.kid })
  expect(await decided(await issuer.signed(header, JSON.stringify(claims)))).toBe('200')
})

describe('claims', () => {
  it.each<[string, () => Record<string, unknown>]>([
    ['another issuer', () => ({ iss: 'https://id.example.com' })],
    ['the issuer with a slash', () => ({ iss: `${issuer.origin}/` })],
    ['the issuer in capitals', () => ({ iss: issuer.origin.toUpperCase() })],
    ['no issuer', () => ({ iss: undefined })],
    ['a list of issuers', () => ({ iss: [issuer.origin] })],
    ['another API', () => ({ aud: 'https://other.example.com' })],
    ['an API whose name begins alike', () => ({ aud: `${AUDIENCE}.evil.example` })],
    ['two APIs', () => ({ aud: [AUDIENCE, 'https://other.example.com'] })],
    ['a list of this API alone', () => ({ aud: [AUDIENCE] })],
    ['no API', () => ({ aud: undefined })],
    ['an object for an API', () => ({ aud: { [AUDIENCE]: true } })],
    ['an expiry that is past', () => ({ exp: seconds() - 60 })],
    ['no expiry', () => ({ exp: undefined })],
    ['an expiry as text', () => ({ exp: String(seconds() + 60) })],
    ['an expiry that is no number', () => ({ exp: null })],
    ['a beginning in the future', () => ({ nbf: seconds() + 600 })],
    ['a beginning that is no number', () => ({ nbf: 'now' })],
    ['no time of issue', () => ({ iat: undefined })],
    ['a time of issue as text', () => ({ iat: '1' })],
    ['no id', () => ({ jti: undefined })],
    ['an empty id', () => ({ jti: '' })],
    ['an id that is a number', () => ({ jti: 7 })],
    ['no subject', () => ({ sub: undefined })],
    ['no workspace', () => ({ workspace_id: undefined })],
    ['an empty workspace', () => ({ workspace_id: '' })],
    ['no organization', () => ({ organization_id: undefined })],
    ['no credential', () => ({ credential_id: undefined })],
    ['no environment', () => ({ environment: undefined })],
    ['another environment', () => ({ environment: 'staging' })],
    ['an environment that there is not', () => ({ environment: 'Production' })],
    ['no version', () => ({ token_version: undefined })],
    ['a version that is a number', () => ({ token_version: 3 })],
    ['a version with a fraction', () => ({ token_version: 'v3.5' })],
    ['version nought', () => ({ token_version: 'v0' })],
    ['a version that is no number', () => ({ token_version: 'vNaN' })],
    ['a key that it is bound to', () => ({ cnf: { jkt: 'x' } })],
  ])('%s', async (_name, claims) => {
    expect(await decided(await issuer.jwt(claims()))).toMatch(/^401/)
  })

  it.each([
    ['a list', '[]'],
    ['null', 'null'],
    ['a text', '"x"'],
    ['no JSON', '{'],
  ])('that are %s', async (_name, payload) => {
    const header = JSON.stringify({ alg: 'ES256', typ: 'at+jwt', kid: issuer.kid })
    expect(await decided(await issuer.signed(header, payload))).toMatch(/^401/)
  })

  it('in another encoding, or with something behind', async () => {
    const text = JSON.stringify(claimsOf(await issuer.jwt()))
    const header = JSON.stringify({ alg: 'ES256', typ: 'at+jwt', kid: issuer.kid })
    const bytes = Buffer.from(text)
    for (const payload of [
      Buffer.from(text, 'utf16le'),
      Buffer.concat([bytes, Buffer.from('x')]),
      Buffer.concat([bytes, Buffer.from([0])]),
    ])
      expect(await decided(await issuer.signed(header, payload))).toMatch(/^401/)
  })
})

describe('headers', () => {
  it.each([
    ['of an id_token', { typ: 'JWT' }],
    ['without a type', { typ: undefined }],
    ['with a list of types', { typ: ['at+jwt'] }],
    ['of a logout token', { typ: 'logout+jwt' }],
    ['that brings its own key', { kid: undefined, jwk: { kty: 'EC' } }],
    ['that names where its key is', { kid: 'x', jku: 'https://evil.example/jwks' }],
  ])('%s', async (_name, header) => {
    const claims = JSON.stringify(claimsOf(await issuer.jwt()))
    const all = { alg: 'ES256', typ: 'at+jwt', kid: issuer.kid, ...header }
    expect(await decided(await issuer.signed(JSON.stringify(all), claims))).toMatch(/^401/)
  })

  it.each([
    ['an extension that nobody knows', { crit: ['x'], x: 1 }],
    ['a payload that is not encoded', { crit: ['b64'], b64: false }],
    ['extensions that are none', { crit: [] }],
  ])('with %s', async (_name, header) => {
    const claims = JSON.stringify(claimsOf(await issuer.jwt()))
    const all = { alg: 'ES256', typ: 'at+jwt', kid: issuer.kid, ...header }
    expect(await decided(await issuer.signed(JSON.stringify(all), claims))).toMatch(/^401/)
  })
})

describe('signatures', () => {
  const parts = async () => {
    const [header = '', payload = '', signature = ''] = (await issuer.jwt()).split('.')
    return { header, payload, signature, bytes: Buffer.from(signature, 'base64url') }
  }
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')

  it('none, in every spelling', async () => {
    const { payload } = await parts()
    for (const alg of ['none', 'None', 'nOnE', 'NONE', '', undefined])
      for (const signature of ['', '.', 'x', 'A'.repeat(86)])
        expect(await decided(`${encode({ alg, typ: 'at+jwt', kid: issuer.kid })}.${payload}.${signature}`)).toMatch(
          /^401/,
        )
  })

  it('by the public key as a secret', async () => {
    const { payload } = await parts()
    const { keys } = await (await fetch(`${issuer.origin}/jwks`)).json()
    const header = encode({ alg: 'HS256', typ: 'at+jwt', kid: issuer.kid })
    for (const secret of [JSON.stringify(keys[0]), keys[0].x, Buffer.from(keys[0].x, 'base64url')]) {
      const signature = createHmac('sha256', secret).update(`${header}.${payload}`).digest('base64url')
      expect(await decided(`${header}.${payload}.${signature}`)).toMatch(/^401/)
    }
  })

  it('of nought, in another form, or written otherwise', async () => {
    const { header, payload, signature, bytes } = await parts()
    const der = Buffer.concat([
      Buffer.from([0x30, 68, 2, 32]),
      bytes.subarray(0, 32),
      Buffer.from([2, 32]),
      bytes.subarray(32),
    ])
    for (const other of [
      Buffer.alloc(64).toString('base64url'),
      der.toString('base64url'),
      `${signature}=`,
      `${signature}==`,
      ` ${signature.slice(1)}`,
      `${signature.slice(0, 40)}\t${signature.slice(41)}`,
      `${signature}.`,
      signature.slice(0, -1),
      `${signature}A`,
      bytes.toString('base64').replace(/=+$/, '').replace('-', '+'),
    ].filter((text) => text !== signature))
      expect([other, await decided(`${header}.${payload}.${other}`)]).toEqual([other, expect.stringMatching(/^401/)])
    for (const value of [
      `${header}=.${payload}.${signature}`,
      `${header}.${payload}=.${signature}`,
      `${header}. ${payload}.${signature}`,
    ])
      expect(await decided(value)).toMatch(/^401/)
  })

  it('of another one: two that begin alike are two', async () => {
    const [one, other] = [await parts(), await parts()]
    expect(await decided(`${one.header}.${one.payload}.${other.signature}`)).toMatch(/^401/)
    const changed = encode({ ...JSON.parse(Buffer.from(one.payload, 'base64url').toString()), scope: 'admin' })
    expect(await decided(`${one.header}.${changed}.${one.signature}`)).toMatch(/^401/)
    expect(await decided(`${one.header}.${one.payload}.${one.signature}`)).toBe('200')
  })
})

// Credentials that are suspended, as the verifier hears of it: refused at once, and what was issued before stays refused.
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Verifier } from '../../src/verifier/index.ts'
import { decision, openVerifier, type ScriptedIssuer, startIssuer } from './issuer.ts'

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

const seconds = () => Math.floor(issuer.now() / 1000)
const decided = (value: string) => decision(issuer, verify, value)
const decidesSoon = (value: string, what: RegExp) => expect.poll(() => decided(value), { timeout: 5_000 }).toMatch(what)

it('a JWT of a credential that is suspended is refused; one from before also after it is restored', async () => {
  const of = (iat: number) => issuer.jwt({ credential_id: 'key_9', iat })
  const [before, other] = [await of(seconds() - 20), await issuer.jwt()]
  expect([await decided(before), await decided(other)]).toEqual(['200', '200'])
  issuer.end('key_9', { suspended: true, not_before: seconds() - 10 })
  await decidesSoon(before, /^401/)
  const meanwhile = await of(seconds())
  expect(await decided(meanwhile)).toMatch(/^401/)
  expect(await decided(other)).toBe('200')
  issuer.end('key_9', { not_before: seconds() - 10 })
  await decidesSoon(meanwhile, /^200/)
  expect(await decided(before)).toMatch(/^401/)
})

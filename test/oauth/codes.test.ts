// Authorization codes and PKCE: threats B (RFC 6749 §4.1, 7636, 9449 §10).
import { randomUUID } from 'node:crypto'
import { calculateJwkThumbprint, exportJWK, type GenerateKeyPairResult, generateKeyPair, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newOpaqueAccessToken, newRefreshToken } from '../../src/oauth/token-values.ts'
import { startServer, type TestServer } from '../support/server.ts'
import type { UserAgent } from '../support/user-agent.ts'
import {
  approve,
  connect,
  makeClient,
  makePkce,
  makeWorld,
  obtainCode,
  PASSWORD,
  post,
  redeem,
  refresh,
  signIn,
  type TestClient,
  type World,
} from '../support/world.ts'
import { answerOf, ask, PKCE } from './asking.ts'

let server: TestServer
let world: World
let browser: UserAgent
let other: TestClient

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
  other = await makeClient(server)
  await connect(server, world, { agent: browser })
})
afterAll(() => server?.close())

const REFUSED = { status: 400, body: { error: 'invalid_grant' } }
const newCode = (more: Record<string, string> = {}) => obtainCode(server, world, { agent: browser, more })

describe('a wrong verifier', () => {
  it.each([
    ['another', makePkce().verifier],
    ['42 characters', 'a'.repeat(42)],
    ['129 characters', 'a'.repeat(129)],
    ['outside of the alphabet', `${'a'.repeat(42)}é`],
    ['with a NUL', `${'a'.repeat(42)}\u0000`],
    ['empty', ''],
    ['the challenge itself', PKCE.challenge],
  ])('(%s) gets nothing', async (_name, code_verifier) => {
    const { code, pkce } = await newCode()
    const answer = await redeem(server.origin, world.client, code, pkce, { code_verifier })
    expect(answer.status).toBe(400)
    expect(answer.body.error).toMatch(/^invalid_(grant|request)$/)
    expect(answer.body).not.toHaveProperty('access_token')
  })

  it('none gets nothing', async () => {
    const { code } = await newCode()
    const parameters = { grant_type: 'authorization_code', code, redirect_uri: world.client.redirectUri }
    expect(await post(server.origin, '/token', world.client, parameters)).toMatchObject(REFUSED)
  })

  it('given twice is refused', async () => {
    const { code, pkce } = await newCode()
    const body = `grant_type=authorization_code&code=${code}&code_verifier=${pkce.verifier}&code_verifier=${pkce.verifier}`
    const headers = { 'content-type': 'application/x-www-form-urlencoded', authorization: basic(world.client) }
    const response = await fetch(`${server.origin}/token`, { method: 'POST', headers, body })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: 'invalid_request' })
  })
})

const basic = (client: TestClient) => `Basic ${Buffer.from(`${client.id}:${client.secret}`).toString('base64')}`

describe('a client excused from PKCE', () => {
  it('gets nothing for a verifier without a challenge, nor for a challenge without its verifier', async () => {
    const excused = await makeClient(server, { pkce: false })
    const start = async (changes: Record<string, undefined>) => {
      const page = await ask(browser, excused, { ...changes, prompt: 'consent' })
      return String(answerOf(await approve(browser, page, world.workspaceId)).code)
    }
    const none = { code_challenge: undefined, code_challenge_method: undefined }
    const withVerifier = await redeem(server.origin, excused, await start(none), PKCE)
    expect(withVerifier).toMatchObject(REFUSED)
    const parameters = { grant_type: 'authorization_code', redirect_uri: excused.redirectUri }
    const downgraded = await post(server.origin, '/token', excused, { ...parameters, code: await start({}) })
    expect(downgraded).toMatchObject(REFUSED)
    const honest = await post(server.origin, '/token', excused, { ...parameters, code: await start(none) })
    expect(honest.status).toBe(200)
  })
})

describe('a code', () => {
  it('of one client gives another nothing, and still serves its own', async () => {
    const { code, pkce } = await newCode()
    expect(await redeem(server.origin, other, code, pkce)).toMatchObject(REFUSED)
    expect((await redeem(server.origin, world.client, code, pkce)).status).toBe(200)
  })

  it.each([
    ['another', 'https://app.example.com/other'],
    ['a longer', 'https://app.example.com/callback?x=1'],
    ['an empty', ''],
  ])('is refused with %s redirect_uri than it was asked with', async (_name, redirect_uri) => {
    const { code, pkce } = await newCode()
    const answer = await redeem(server.origin, world.client, code, pkce, { redirect_uri })
    expect(answer.status).toBe(400)
    expect(answer.body.error).toMatch(/^invalid_(grant|request)$/)
  })

  it('is refused without the redirect_uri', async () => {
    const { code, pkce } = await newCode()
    const parameters = { grant_type: 'authorization_code', code, code_verifier: pkce.verifier }
    const answer = await post(server.origin, '/token', world.client, parameters)
    expect(answer.status).toBe(400)
    expect(answer.body.error).toMatch(/^invalid_(grant|request)$/)
  })

  it('is redeemed once, however many try at the same time; what was given is dead after', async () => {
    const { code, pkce } = await newCode()
    const tries = Array.from({ length: 12 }, () => redeem(server.origin, world.client, code, pkce))
    const answers = await Promise.all(tries)
    expect(answers.filter(({ status }) => status === 200).length).toBeLessThanOrEqual(1)
    for (const answer of answers.filter(({ status }) => status !== 200)) expect(answer).toMatchObject(REFUSED)
    const winner = answers.find(({ status }) => status === 200)
    expect(winner?.body.refresh_token).toMatch(/^lk_rt_/)
    expect(await refresh(server.origin, world.client, winner?.body.refresh_token)).toMatchObject(REFUSED)
    const token = String(winner?.body.access_token)
    expect((await post(server.origin, '/introspect', world.client, { token })).body).toEqual({ active: false })
  })

  it('that has expired is refused', async () => {
    const { code, pkce } = await newCode()
    const codes = server.db.updateTable('ephemeral_entries').where('kind', '=', 'AuthorizationCode')
    await codes.set({ expires_at: new Date(0) }).execute()
    expect(await redeem(server.origin, world.client, code, pkce)).toMatchObject(REFUSED)
  })

  it.each(['', 'x', '\u0000', '__proto__', "' or 1=1--", 'A'.repeat(43), 'A'.repeat(4_000), '😀'])(
    'that nobody issued is refused: %j',
    async (code) => {
      const answer = await redeem(server.origin, world.client, code, PKCE)
      expect(answer.status).toBe(400)
      expect(answer.body.error).toMatch(/^invalid_(grant|request)$/)
    },
  )

  it('cut, lengthened or in other letters is not the code', async () => {
    const { code, pkce } = await newCode()
    const swapped = code.replace(/[a-zA-Z]/g, (letter) =>
      letter === letter.toLowerCase() ? letter.toUpperCase() : letter.toLowerCase(),
    )
    for (const near of [code.slice(0, -1), `${code}A`, `${code}\n`, `${code}\u0000`, ` ${code}`, swapped]) {
      const answer = await redeem(server.origin, world.client, near, pkce)
      expect([near, answer.status]).toEqual([near, 400])
    }
    expect((await redeem(server.origin, world.client, code, pkce)).status).toBe(200)
  })

  it.each(['removed from the workspace', 'suspended', 'made a viewer'])(
    'of a person who was then %s is refused',
    async (change) => {
      const email = `bob-${randomUUID()}@example.com`
      const user = await server.run('user create', { email, name: 'Bob', password: PASSWORD })
      await server.run('member add', { user: email, workspace: world.workspaceId, role: 'member' })
      const agent = server.userAgent()
      const page = await signIn(agent, await ask(agent, world.client), email)
      const { code } = answerOf(await approve(agent, page, world.workspaceId))
      const row = server.db.updateTable('workspace_members').where('user_id', '=', user.id as never)
      if (change === 'made a viewer') await row.set({ role: 'viewer' }).execute()
      else if (change === 'suspended') {
        const person = server.db.updateTable('users').where('id', '=', user.id as never)
        await person.set({ suspended_at: new Date() }).execute()
      } else
        await server.db
          .deleteFrom('workspace_members')
          .where('user_id', '=', user.id as never)
          .execute()
      expect(await redeem(server.origin, world.client, String(code), PKCE)).toMatchObject(REFUSED)
    },
  )

  it('has at least 128 bits, as have the tokens; none comes twice', async () => {
    const codes = [await newCode(), await newCode()].map(({ code }) => code)
    const values = Array.from({ length: 5_000 }, () => [newRefreshToken(), newOpaqueAccessToken()]).flat()
    expect(new Set([...codes, ...values]).size).toBe(10_002)
    for (const value of [...codes, ...values]) expect(value).toMatch(/^(lk_[ar]t_)?[\w-]{43}$/)
    const counts = new Map<string, number>()
    // The last of 43 characters carries four bits only.
    for (const value of values)
      for (const letter of value.slice(6, -1)) counts.set(letter, (counts.get(letter) ?? 0) + 1)
    const expected = (values.length * 42) / 64
    const chiSquare = [...counts.values()].reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0)
    expect(counts.size).toBe(64)
    expect(chiSquare).toBeLessThan(130) // 63 degrees of freedom: one in a million
  })
})

describe('a code bound to a key (DPoP)', () => {
  let keys: GenerateKeyPairResult
  let bound: Record<string, string>
  beforeAll(async () => {
    keys = await generateKeyPair('ES256', { extractable: true })
    bound = { dpop_jkt: await calculateJwkThumbprint(await exportJWK(keys.publicKey)) }
  })

  async function proof(of: GenerateKeyPairResult, claims: Record<string, unknown> = {}, header: object = {}) {
    const jwk = await exportJWK(of.publicKey)
    return new SignJWT({ htm: 'POST', htu: `${server.origin}/token`, jti: randomUUID(), ...claims })
      .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk, ...header })
      .setIssuedAt(typeof claims.iat === 'number' ? claims.iat : undefined)
      .sign(of.privateKey)
  }

  async function redeemWith(dpop: string | undefined) {
    const { code, pkce } = await newCode(bound)
    const response = await fetch(`${server.origin}/token`, {
      method: 'POST',
      headers: { authorization: basic(world.client), ...(dpop === undefined ? {} : { dpop }) },
      body: new URLSearchParams({
        grant_type: 'authorization_code',
        code,
        redirect_uri: world.client.redirectUri,
        code_verifier: pkce.verifier,
      }),
    })
    const body: unknown = await response.json()
    return { status: response.status, body }
  }

  it('is redeemed with a proof of that key', async () => {
    expect(await redeemWith(await proof(keys))).toMatchObject({ status: 200, body: { token_type: 'DPoP' } })
  })

  it('is refused without a proof, and with one of another key', async () => {
    expect(await redeemWith(undefined)).toMatchObject({ status: 400 })
    expect(await redeemWith(await proof(await generateKeyPair('ES256')))).toMatchObject({ status: 400 })
  })

  it('is refused with a proof used before', async () => {
    const once = await proof(keys)
    expect((await redeemWith(once)).status).toBe(200)
    expect(await redeemWith(once)).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
  })

  it.each<[string, Record<string, unknown>, object]>([
    ['for another address', { htu: 'https://evil.example/token' }, {}],
    ['for another method', { htm: 'GET' }, {}],
    ['from yesterday', { iat: Math.floor(Date.now() / 1000) - 86_400 }, {}],
    ['from tomorrow', { iat: Math.floor(Date.now() / 1000) + 86_400 }, {}],
    ['of another type', {}, { typ: 'jwt' }],
    ['without an id', { jti: undefined }, {}],
  ])('is refused with a proof %s', async (_name, claims, header) => {
    const answer = await redeemWith(await proof(keys, claims, header))
    expect(answer).toMatchObject({ status: 400, body: { error: 'invalid_dpop_proof' } })
  })

  it('is refused with a proof that shows its private key, and with one that is none', async () => {
    const jwk = await exportJWK(keys.privateKey)
    const shown = await redeemWith(await proof(keys, {}, { jwk }))
    expect(shown).toMatchObject({ status: 400, body: { error: 'invalid_dpop_proof' } })
    for (const garbage of ['x', 'a.b.c', 'eyJhbGciOiJub25lIn0.e30.']) {
      expect(await redeemWith(garbage)).toMatchObject({ status: 400, body: { error: 'invalid_dpop_proof' } })
    }
  })
})

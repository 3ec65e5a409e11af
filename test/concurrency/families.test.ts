// Families of refresh tokens: a repeat within the window, reuse after it, and what ends with whom (RFC 9700 §4.14).
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import { hasStores } from '../support/databases.ts'
import { introspectAt, patiently, postTo, redeemAt, refreshAt, type Target } from '../support/processes.ts'
import { endGrace, familyOf } from '../support/races.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { takeTime } from '../support/times.ts'
import type { UserAgent } from '../support/user-agent.ts'
import { connect, makeClient, makeWorld, obtainCode, type TestClient, type World } from '../support/world.ts'

takeTime()

const REFUSED = { status: 400, body: { error: 'invalid_grant' } }

describe.each<Backend>(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('a family of refresh tokens', () => {
    let server: TestServer
    let world: World
    let here: Target
    let agent: UserAgent // one browser: signing in is limited
    beforeAll(async () => {
      server = await startServer({ backend })
      world = await makeWorld(server)
      agent = server.userAgent()
      here = { port: Number(new URL(server.origin).port), issuer: server.origin }
    })
    afterAll(() => server?.close())

    const refresh = (token: string | undefined) => patiently(() => refreshAt(here, world.client, token))
    const stateOf = (family: Awaited<ReturnType<typeof familyOf>>) =>
      server.db
        .selectFrom('families')
        .select(['ended_at', 'end_reason'])
        .where('id', '=', family)
        .executeTakeFirstOrThrow()

    /** Refreshes so often, one after the other. All values, the first one's first. */
    async function rotate(first: string | undefined, times: number): Promise<string[]> {
      const values = [first ?? '']
      for (let count = 0; count < times; count++) {
        const answer = await refresh(values.at(-1))
        expect(answer.status).toBe(200)
        values.push(answer.body.refresh_token ?? '')
      }
      expect(new Set(values).size).toBe(times + 1)
      return values
    }

    it('a repeat within the window is answered with the same successor, and nothing ends', async () => {
      const { refresh_token: first } = await connect(server, world, { agent })
      const answers = [await refresh(first), await refresh(first), await refresh(first)]
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200])
      expect(new Set(answers.map(({ body }) => body.refresh_token)).size).toBe(1)
      expect(await refresh(answers[0]?.body.refresh_token)).toMatchObject({ status: 200 })
    })

    it('reuse after the window ends the family and its JWTs; another family of the connection refreshes on', async () => {
      const tokens = await connect(server, world, { agent })
      const other = await connect(server, world, { agent })
      const family = await familyOf(server, tokens.refresh_token)
      expect(await familyOf(server, other.refresh_token)).not.toBe(family)
      const [first, second] = await rotate(tokens.refresh_token, 1)
      expect(await introspectAt(here, world.client, tokens.access_token)).toMatchObject({ active: true })
      await endGrace(server, first)

      expect(await refresh(first)).toMatchObject(REFUSED)
      expect(await introspectAt(here, world.client, tokens.access_token)).toEqual({ active: false })
      expect(await introspectAt(here, world.client, second)).toEqual({ active: false })
      expect(await refresh(second)).toMatchObject(REFUSED)
      expect(await stateOf(family)).toMatchObject({
        ended_at: expect.any(Date),
        end_reason: 'refresh_token_reused',
      })

      const refreshed = await refresh(other.refresh_token)
      expect(refreshed.status).toBe(200)
      expect(await introspectAt(here, world.client, refreshed.body.access_token)).toMatchObject({ active: true })
      const recorded = await server.db
        .selectFrom('audit_events')
        .select(['event', 'status', 'client_id'])
        .where(sql<string>`detail ->> 'family'`, '=', family)
        .execute()
      expect(recorded).toEqual([{ event: 'refresh_token.reuse_detected', status: 'fail', client_id: world.client.id }])
    })

    it('reuse of the first one after five rotations ends the newest too', async () => {
      const values = await rotate((await connect(server, world, { agent })).refresh_token, 5)
      await endGrace(server, values[0])
      expect(await refresh(values[0])).toMatchObject(REFUSED)
      for (const value of values) expect(await refresh(value)).toMatchObject(REFUSED)
    })

    it('each of ten used within one second is detected when it comes back', async () => {
      for (let place = 0; place < 10; place++) {
        const values = await rotate((await connect(server, world, { agent })).refresh_token, 10)
        const family = await familyOf(server, values[0])
        // All within one second, whatever the machine made of it.
        await sql`update refresh_tokens set consumed_at = date_trunc('second', now()) - interval '2 minutes'
          where family_id = ${family} and consumed_at is not null`.execute(server.db)
        expect(await refresh(values[place])).toMatchObject(REFUSED)
        expect(await stateOf(family)).toMatchObject({ end_reason: 'refresh_token_reused' })
        expect(await refresh(values[10])).toMatchObject(REFUSED)
      }
    })

    describe('abuse of the window', () => {
      it('another client gets nothing and ends nothing; after the window its try ends the family', async () => {
        const thief = await makeClient(server)
        const [first, second] = await rotate((await connect(server, world, { agent })).refresh_token, 1)
        expect(await patiently(() => refreshAt(here, thief, first))).toMatchObject(REFUSED)
        expect(await patiently(() => refreshAt(here, thief, second))).toMatchObject(REFUSED)
        expect(await refresh(first)).toMatchObject({ status: 200, body: { refresh_token: second } })
        const [, third] = await rotate(second, 1)
        await endGrace(server, first)
        expect(await patiently(() => refreshAt(here, thief, first))).toMatchObject(REFUSED)
        expect(await refresh(third)).toMatchObject(REFUSED)
      })

      it('once the successor was used, a repeat is refused and nothing ends; after the window the family ends', async () => {
        const [first, , third] = await rotate((await connect(server, world, { agent })).refresh_token, 2)
        expect(await refresh(first)).toMatchObject(REFUSED)
        const [, fourth] = await rotate(third, 1)
        await endGrace(server, first)
        expect(await refresh(first)).toMatchObject(REFUSED)
        expect(await refresh(fourth)).toMatchObject(REFUSED)
      })

      it('another DPoP key gets nothing and ends nothing; after the window its try ends the family', async () => {
        const client = await makeClient(server, { auth: 'none' })
        const [own, other] = [await makeDpopKey(), await makeDpopKey()]
        const code = await obtainCode(server, world, { agent, client })
        const headers = async (key: DpopKey) => ({ dpop: await key.prove(`${server.origin}/token`) })
        const parameters = {
          grant_type: 'authorization_code',
          code: code.code,
          redirect_uri: client.redirectUri,
          code_verifier: code.pkce.verifier,
        }
        const first = await patiently(async () => postTo(here, '/token', client, parameters, await headers(own)))
        expect(first).toMatchObject({ status: 200, body: { token_type: 'DPoP' } })
        const presented = first.body.refresh_token
        const tried = async (key: DpopKey, token = presented) =>
          patiently(async () => refreshAt(here, client, token, await headers(key)))
        expect(await patiently(() => refreshAt(here, client, presented))).toMatchObject(REFUSED) // no proof at all
        expect(await tried(other)).toMatchObject(REFUSED)
        const second = await tried(own)
        expect(second.status).toBe(200)
        expect(await tried(other)).toMatchObject(REFUSED)
        expect(await tried(own)).toMatchObject({ status: 200, body: { refresh_token: second.body.refresh_token } })
        await endGrace(server, presented)
        expect(await tried(other)).toMatchObject(REFUSED)
        expect(await tried(own, second.body.refresh_token)).toMatchObject(REFUSED)
      })
    })

    it('no other client can use a fresh one, and its owner still can', async () => {
      const confidential = await connect(server, world, { agent })
      const publicClient = await makeClient(server, { auth: 'none' })
      const impostor: TestClient = { ...world.client, secret: undefined }
      expect(await patiently(() => refreshAt(here, publicClient, confidential.refresh_token))).toMatchObject(REFUSED)
      expect(await patiently(() => refreshAt(here, impostor, confidential.refresh_token))).toMatchObject({
        status: 401,
        body: { error: 'invalid_client' },
      })
      expect(await refresh(confidential.refresh_token)).toMatchObject({ status: 200 })
    })

    it('each use extends it, and none past its cap', async () => {
      const { refresh_token: first } = await connect(server, world, { agent })
      const family = await familyOf(server, first)
      const age = (days: number) =>
        sql`update refresh_tokens set payload = jsonb_set(payload, '{iiat}',
          to_jsonb((payload ->> 'iiat')::int - ${days}::int * 86400)) where family_id = ${family}`.execute(server.db)
      const left = async (token: string | undefined) => {
        const { rows } = await sql<{ seconds: number; digest: string }>`
          select extract(epoch from expires_at - now())::int as seconds from refresh_tokens
          where family_id = ${family} and consumed_at is null`.execute(server.db)
        expect(token).toMatch(/^lk_rt_/)
        return rows[0]?.seconds ?? Number.NaN
      }
      const day = 86_400
      expect(await left(first)).toBeGreaterThan(29.9 * day)
      await age(350) // 15 days are left of the year
      const second = await refresh(first)
      expect(await left(second.body.refresh_token)).toBeLessThanOrEqual(15 * day)
      expect(await left(second.body.refresh_token)).toBeGreaterThan(14.9 * day)
      await age(15)
      expect(await refresh(second.body.refresh_token)).toMatchObject(REFUSED)
    })

    it('the cap holds for a repeat within the window, too', async () => {
      const { refresh_token: first } = await connect(server, world, { agent })
      const family = await familyOf(server, first)
      expect((await refresh(first)).status).toBe(200)
      await sql`update refresh_tokens set payload = jsonb_set(payload, '{iiat}',
        to_jsonb((payload ->> 'iiat')::int - 366 * 86400)) where family_id = ${family}`.execute(server.db)
      expect(await refresh(first)).toMatchObject(REFUSED)
    })

    it('a code replayed after its payload is gone still ends what came of it', async () => {
      const code = await obtainCode(server, world, { agent })
      const won = await patiently(() => redeemAt(here, world.client, code))
      expect(won.status).toBe(200)
      const stranger = await makeClient(server)
      await server.app.ephemeral.write([{ op: 'delete', kind: 'AuthorizationCode', id: digestOf(code.code) }])
      expect(await patiently(() => redeemAt(here, stranger, code))).toMatchObject(REFUSED)
      const refreshed = await refresh(won.body.refresh_token) // the stranger's try ended nothing
      expect(refreshed.status).toBe(200)
      expect(await patiently(() => redeemAt(here, world.client, code))).toMatchObject(REFUSED)
      expect(await refresh(refreshed.body.refresh_token)).toMatchObject(REFUSED)
      expect(await introspectAt(here, world.client, refreshed.body.access_token)).toEqual({ active: false })
    })
  })
})

interface DpopKey {
  prove(uri: string): Promise<string>
}

async function makeDpopKey(): Promise<DpopKey> {
  const { privateKey, publicKey } = await generateKeyPair('ES256')
  const jwk = await exportJWK(publicKey)
  return {
    prove: (uri) =>
      new SignJWT({ htm: 'POST', htu: uri, jti: crypto.randomUUID() })
        .setProtectedHeader({ alg: 'ES256', typ: 'dpop+jwt', jwk })
        .setIssuedAt()
        .sign(privateKey),
  }
}

// The main job, end to end: a person connects a client for a workspace, and an API accepts the token.
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { API, connect, makeWorld, obtainCode, redeem, refresh, type World } from '../support/world.ts'

describe.each<Backend>(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('the code flow', () => {
    let server: TestServer
    let world: World
    beforeAll(async () => {
      server = await startServer({ backend })
      world = await makeWorld(server)
    })
    afterAll(() => server?.close())

    it('gives a JWT that an API verifies with jose from the published keys', async () => {
      const tokens = await connect(server, world)
      const keys = createRemoteJWKSet(new URL(`${server.origin}/jwks`))
      const { payload, protectedHeader } = await jwtVerify(tokens.access_token ?? '', keys, {
        issuer: server.origin,
        audience: API,
      })
      expect(protectedHeader).toMatchObject({ typ: 'at+jwt', alg: 'ES256' })
      expect(payload).toMatchObject({
        sub: world.userId,
        client_id: world.client.id,
        scope: 'traces:read',
        workspace_id: world.workspaceId,
        organization_id: world.organizationId,
        environment: 'production',
        token_version: 'v1',
      })
      expect(payload.credential_id).toMatch(/^con_[0-9a-z]{26}$/)
      expect(Number(payload.exp) - Number(payload.iat)).toBe(600)
    })

    it('refreshes: a new JWT of the same connection, and a new refresh token', async () => {
      const tokens = await connect(server, world)
      const refreshed = await refresh(server.origin, world.client, tokens.refresh_token)
      expect(refreshed.status).toBe(200)
      expect(refreshed.body.refresh_token).toMatch(/^lk_rt_/)
      expect(refreshed.body.refresh_token).not.toBe(tokens.refresh_token)
    })

    it('names its issuer in the answer, and gives the state back (RFC 9207)', async () => {
      const { callback } = await obtainCode(server, world)
      expect(callback.searchParams.get('iss')).toBe(server.origin)
      expect(callback.searchParams.get('state')).toBe('st4te')
    })

    it('a code redeemed a second time is refused, and what the first got is dead', async () => {
      const { code, pkce } = await obtainCode(server, world)
      const first = await redeem(server.origin, world.client, code, pkce)
      expect(first.status).toBe(200)
      const second = await redeem(server.origin, world.client, code, pkce)
      expect(second).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
      const refreshed = await refresh(server.origin, world.client, first.body.refresh_token)
      expect(refreshed).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    })
  })
})

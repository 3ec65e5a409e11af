// A server, an API that is registered there, and the verifier that the API has in its own process.
import { createVerifier } from '../../src/verifier/index.ts'
import { type ApiWorld, makeApiWorld, makeResourceServer } from './api.ts'
import { type Backend, startServer, type TestServer } from './server.ts'
import type { TestClient } from './world.ts'

export interface Verifying {
  server: TestServer
  world: ApiWorld
  api: TestClient
  isVerified(value: string | undefined): Promise<boolean>
  close(): Promise<void>
}

export async function startVerifying(backend: Backend, audience: string, scope: string): Promise<Verifying> {
  const server = await startServer({ backend })
  const world = await makeApiWorld(server)
  const api = await makeResourceServer(server, audience, { scopes: [{ name: scope, least_role: 'member' }] })
  const verify = createVerifier({
    issuer: server.origin,
    audience,
    environment: 'production',
    clientId: api.id,
    clientSecret: api.secret ?? '',
  })
  await verify.ready()
  return {
    server,
    world,
    api,
    isVerified: (value) =>
      verify(`Bearer ${value}`).then(
        () => true,
        () => false,
      ),
    async close() {
      await verify.close()
      await server.close()
    },
  }
}

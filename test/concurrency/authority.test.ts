// What authorised a connection may be gone by the time a code or refresh token comes: then nothing is given, or no more
// than what now holds.
import { decodeJwt } from 'jose'
import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import {
  type Cluster,
  introspectAt,
  patiently,
  postTo,
  redeemAt,
  refreshAt,
  startCluster,
} from '../support/processes.ts'
import { at, connectAt } from '../support/races.ts'
import { takeTime } from '../support/times.ts'
import { makeClient, makeWorld, obtainCode, PASSWORD, type TestClient, type World } from '../support/world.ts'

takeTime()

/** A person of a workspace, and a client of theirs that nobody else uses. */
interface Scene {
  world: World
  client: TestClient
}

const LOST: Array<[string, (cluster: Cluster, scene: Scene) => Promise<unknown>]> = [
  [
    'the person is suspended',
    ({ server }, { world }) => sql`update users set suspended_at = now() where id = ${world.userId}`.execute(server.db),
  ],
  [
    'the person is removed from the workspace',
    ({ server }, { world }) => sql`delete from workspace_members where user_id = ${world.userId}`.execute(server.db),
  ],
  [
    'the role is lowered to viewer',
    ({ server }, { world }) =>
      sql`update workspace_members set role = 'viewer' where user_id = ${world.userId}`.execute(server.db),
  ],
  [
    'the workspace is archived',
    ({ server }, { world }) =>
      sql`update workspaces set archived_at = now() where id = ${world.workspaceId}`.execute(server.db),
  ],
  [
    'the connection is closed',
    ({ server }, { client }) =>
      sql`update connections set closed_at = now(), close_reason = 'test' where client_id = ${client.id}`.execute(
        server.db,
      ),
  ],
  ['the client is deleted', ({ server }, { client }) => server.run('client delete', { client: client.id })],
]

describe.skipIf(!hasStores())('between approval and use', () => {
  let cluster: Cluster
  beforeAll(async () => {
    cluster = await startCluster()
  })
  afterAll(() => cluster?.close())

  async function makeScene(role = 'member'): Promise<Scene> {
    const { server } = cluster
    const owned = await makeWorld(server)
    const email = `bob-${crypto.randomUUID().slice(0, 8)}@example.com`
    const user = await server.run('user create', { email, name: 'Bob', password: PASSWORD })
    await server.run('member add', { workspace: owned.workspaceId, user: email, role })
    return { world: { ...owned, email, userId: String(user.id) }, client: await makeClient(server) }
  }

  it.each(LOST)(
    'when %s, its refresh token gives nothing on any process, and its JWT is not active',
    async (_, lose) => {
      const { world, client } = await makeScene()
      const tokens = await connectAt(cluster, world, { client })
      let current = tokens.refresh_token
      for (const process of cluster.processes) {
        const answer = await patiently(() => refreshAt(process, client, current)) // both have seen the client, and may remember it
        expect(answer.status).toBe(200)
        current = answer.body.refresh_token
      }
      await lose(cluster, { world, client })
      for (const process of cluster.processes) {
        const answer = await patiently(() => refreshAt(process, client, current))
        expect(['invalid_grant', 'invalid_client']).toContain(answer.body.error)
        expect(answer.body).not.toHaveProperty('access_token')
        const asked = await patiently(() =>
          postTo(process, '/introspect', client, { token: tokens.access_token ?? '' }),
        )
        expect(asked.body).toEqual(
          asked.status === 200 ? { active: false } : expect.objectContaining({ error: 'invalid_client' }),
        )
      }
    },
  )

  it.each(LOST)('when %s, a code issued before gives nothing', async (_, lose) => {
    const { world, client } = await makeScene()
    const codes: Array<Awaited<ReturnType<typeof obtainCode>>> = []
    const agent = cluster.server.userAgent()
    for (const _process of cluster.processes) codes.push(await obtainCode(cluster.server, world, { agent, client }))
    await lose(cluster, { world, client })
    for (const [index, process] of cluster.processes.entries()) {
      const answer = await patiently(() => redeemAt(process, client, at(codes, index)))
      expect(['invalid_grant', 'invalid_client']).toContain(answer.body.error)
      expect(answer.body).not.toHaveProperty('refresh_token')
    }
  })

  it('an admin made member keeps what members may, and loses the scope of admins', async () => {
    const { world, client } = await makeScene('admin')
    const more = { scope: 'openid traces:read traces:admin' }
    const tokens = await connectAt(cluster, world, { client, more })
    expect(decodeJwt(tokens.access_token ?? '').scope).toBe('traces:read traces:admin')
    await sql`update workspace_members set role = 'member' where user_id = ${world.userId}`.execute(cluster.server.db)
    const refreshed = await patiently(() => refreshAt(at(cluster.processes, 1), client, tokens.refresh_token))
    expect(refreshed.status).toBe(200)
    expect(decodeJwt(refreshed.body.access_token ?? '').scope).toBe('traces:read')
  })

  it('a new password ends sessions in browsers, and no connection', async () => {
    const { world, client } = await makeScene()
    const tokens = await connectAt(cluster, world, { client })
    await cluster.server.run('user set-password', { user: world.email, password: `${PASSWORD} and more` })
    const page = await tokens.agent.open(
      `/authorize?${new URLSearchParams({ client_id: client.id, response_type: 'code', scope: 'openid', redirect_uri: client.redirectUri, code_challenge: tokens.pkce.challenge, code_challenge_method: 'S256' })}`,
    )
    expect(page.html).toContain('/sign-in"')
    expect(await patiently(() => refreshAt(at(cluster.processes, 1), client, tokens.refresh_token))).toMatchObject({
      status: 200,
    })
  })

  it('a code is bound to its redirect_uri: another or none is refused, and the right one still works', async () => {
    const { world } = await makeScene()
    const redirects = ['https://app.example.com/callback', 'https://app.example.com/other']
    const client = await makeClient(cluster.server, { redirect_uris: redirects })
    const code = await obtainCode(cluster.server, world, { client })
    const process = at(cluster.processes, 1)
    const parameters = { grant_type: 'authorization_code', code: code.code, code_verifier: code.pkce.verifier }
    for (const redirect_uri of [redirects[1], 'https://app.example.com/callback/', 'https://evil.example/']) {
      const answer = await patiently(() =>
        postTo(process, '/token', client, { ...parameters, redirect_uri: redirect_uri ?? '' }),
      )
      expect(answer).toMatchObject({ status: 400, body: { error: 'invalid_grant' } })
    }
    const without = await patiently(() => postTo(process, '/token', client, parameters))
    expect(without.status).toBe(400)
    expect(['invalid_grant', 'invalid_request']).toContain(without.body.error)
    const redeemed = await patiently(() => redeemAt(process, client, code))
    expect(redeemed.status).toBe(200)
    expect(await introspectAt(process, client, redeemed.body.access_token)).toMatchObject({ active: true })
  })
})

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { connect, makeClient, makeWorld, post, refresh, type World } from '../support/world.ts'

describe('closing a connection', () => {
  let server: TestServer
  let world: World
  beforeAll(async () => {
    server = await startServer()
    world = await makeWorld(server)
  })
  afterAll(() => server?.close())

  const list = async () =>
    (await server.run('connection list', { workspace: world.workspaceId })) as unknown as Array<Record<string, unknown>>
  const introspect = (token: string | undefined) =>
    post(server.origin, '/introspect', world.client, { token: token ?? '' })

  it('ends its refresh tokens and its JWTs, on every device, and no other connection', async () => {
    const other = await makeClient(server, { name: 'Other' })
    const [one, two, elsewhere] = [
      await connect(server, world),
      await connect(server, world),
      await connect(server, world, { client: other }),
    ]
    const [first] = await list()
    expect(first).toMatchObject({ client_id: world.client.id, user_id: world.userId, token_version: 'v1' })
    expect((await introspect(one.access_token)).body).toMatchObject({ active: true })

    await server.run('connection close', { connection: first?.id })
    for (const tokens of [one, two]) {
      expect((await introspect(tokens.access_token)).body).toEqual({ active: false })
      expect(await refresh(server.origin, world.client, tokens.refresh_token)).toMatchObject({
        status: 400,
        body: { error: 'invalid_grant' },
      })
    }
    expect((await refresh(server.origin, other, elsewhere.refresh_token)).status).toBe(200)
    expect((await list()).map((connection) => connection.client_id)).toEqual([other.id])
    await expect(server.run('connection close', { connection: first?.id })).rejects.toMatchObject({ code: 'not_found' })
  })

  it('and approving again opens a new one, with a new id and version v1', async () => {
    const before = (await list()).map((connection) => connection.id)
    await connect(server, world)
    const opened = (await list()).filter((connection) => !before.includes(connection.id))
    expect(opened).toMatchObject([{ client_id: world.client.id, token_version: 'v1' }])
  })
})

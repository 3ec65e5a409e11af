import { sql } from 'kysely'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { API, connect, makeClient, makeWorld, refresh, type World } from '../support/world.ts'

describe.each<Backend>(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('the audit log', () => {
    let server: TestServer
    let world: World
    beforeAll(async () => {
      server = await startServer({ backend })
      world = await makeWorld(server)
    })
    afterAll(() => server?.close())

    const events = () => server.db.selectFrom('audit_events').selectAll().orderBy('recorded_at').execute()

    it('has exactly one record for each operator command, with actor and trace', async () => {
      const commands: Array<[string, string, () => Promise<unknown>]> = [
        [
          'user create',
          'user.created',
          () => server.run('user create', { email: 'eve@example.com', name: 'Eve', password: 'a long password' }),
        ],
        [
          'organization create',
          'organization.created',
          () => server.run('organization create', { name: 'Other', owner: world.email }),
        ],
        [
          'workspace create',
          'workspace.created',
          () => server.run('workspace create', { organization: world.organizationId, name: 'x', owner: world.email }),
        ],
        [
          'member add',
          'member.added',
          () => server.run('member add', { workspace: world.workspaceId, user: 'eve@example.com', role: 'viewer' }),
        ],
        ['client create', 'client.created', () => makeClient(server)],
        [
          'user set-password',
          'user.password_set',
          () => server.run('user set-password', { user: 'eve@example.com', password: 'another long one' }),
        ],
      ]
      for (const [command, event, run] of commands) {
        const before = (await events()).length
        await run()
        const added = (await events()).slice(before)
        expect(
          added.map((row) => row.event),
          command,
        ).toEqual([event])
        expect(added[0]).toMatchObject({
          status: 'pass',
          actor_kind: 'operator',
          trace_id: expect.stringMatching(/^cli-/),
        })
      }
    })

    it('tells a connection from approval to refresh, with its workspace, version and trace', async () => {
      const tokens = await connect(server, world)
      await refresh(server.origin, world.client, tokens.refresh_token)
      const rows = (await events()).filter((row) => row.client_id === world.client.id && row.credential_id !== null)
      expect(rows.map((row) => row.event)).toEqual(['connection.approved', 'token.issued', 'token.refreshed'])
      for (const row of rows) {
        expect(row).toMatchObject({
          workspace_id: world.workspaceId,
          organization_id: world.organizationId,
          user_id: world.userId,
          token_version: 'v1',
        })
        expect(row.trace_id).toMatch(/^[0-9a-f]{32}$/)
      }
    })

    it('is sealed: each record once, and a change that fails leaves none', async () => {
      const verified = async () => (await server.run('audit verify', {})) as unknown as { ok: boolean; records: number }
      await expect.poll(async () => (await events()).length - (await verified()).records).toBe(0)
      const byOperators = async () => (await events()).filter((row) => row.actor_kind === 'operator').length
      const before = await byOperators()
      await expect(
        server.run('client grant', { client: 'cl_none', workspace: world.workspaceId, resource: API, scopes: [] }),
      ).rejects.toMatchObject({ code: 'not_found' })
      expect(await byOperators()).toBe(before)
      expect((await verified()).ok).toBe(true)
    })

    it.each(["update audit_events set event = 'x'", 'delete from audit_events', 'truncate audit_events'])(
      'refuses: %s',
      async (statement) => {
        await expect(sql.raw(statement).execute(server.db)).rejects.toThrow('append-only')
      },
    )
  })
})

// Who reads a dump of the database, of Redis or of the log can use nothing of it: no bearer value stands there in clear.
import { Redis } from 'ioredis'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { hasStores } from '../support/databases.ts'
import {
  type Cluster,
  patiently,
  postTo,
  redeemAt,
  refreshAt,
  startCluster,
  userinfoStatus,
} from '../support/processes.ts'
import { at, connectAt, endGrace, OPAQUE } from '../support/races.ts'
import { takeTime } from '../support/times.ts'
import { authorizationUrl, makePkce, makeWorld, obtainCode, PASSWORD, type World } from '../support/world.ts'

takeTime()

describe.skipIf(!hasStores())('what is stored', () => {
  let cluster: Cluster
  let world: World
  beforeAll(async () => {
    cluster = await startCluster({ environment: { LATCHKEY_LOG_LEVEL: 'trace' } })
    world = await makeWorld(cluster.server)
  })
  afterAll(() => cluster?.close())

  /** Every row of every table, every key and value of Redis, and all that was printed. */
  async function dump(): Promise<{ tables: string; redis: string; printed: string }> {
    await new Promise((resolve) => setTimeout(resolve, 700)) // the last lines are on their way through the pipe
    const client = new pg.Client({ connectionString: cluster.databaseUrl })
    await client.connect()
    const { rows } = await client.query(`select c.relname as name from pg_class c
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') order by 1`)
    const tables: string[] = []
    for (const { name } of rows) {
      const content = await client.query(`select to_jsonb(t)::text as row from ${client.escapeIdentifier(name)} t`)
      tables.push(...content.rows.map(({ row }) => `${name} ${row}`))
    }
    await client.end()
    const redis = new Redis(cluster.redisUrl)
    const entries: string[] = []
    for await (const keys of redis.scanStream({ match: 'latchkey:*', count: 1_000 }))
      for (const key of keys)
        entries.push(`${key} ${(await redis.getBuffer(key).catch(() => null))?.toString('latin1')}`)
    redis.disconnect()
    return {
      tables: tables.join('\n'),
      redis: entries.join('\n'),
      printed: cluster.processes.map((process) => process.output()).join(''),
    }
  }

  function expectAbsent(secrets: Record<string, string | undefined>, stored: Awaited<ReturnType<typeof dump>>): void {
    for (const [place, content] of Object.entries(stored)) {
      for (const [what, value] of Object.entries(secrets)) {
        expect(String(value).length, what).toBeGreaterThan(15)
        for (const form of [String(value), Buffer.from(String(value)).toString('base64url').slice(0, -2)])
          expect(content.includes(form), `${what} in ${place}`).toBe(false)
      }
    }
  }

  it('holds no code, token, session id, client secret or password, also not half-way', async () => {
    const agent = cluster.server.userAgent()
    const other = cluster.server.userAgent()
    const unfinished = await other.open(authorizationUrl(world.client, makePkce(), { state: 'half-way-half-way' }))
    expect(unfinished.html).toContain('/sign-in"')
    const pushed = await patiently(() =>
      postTo(at(cluster.processes, 0), '/par', world.client, {
        client_id: world.client.id,
        response_type: 'code',
        redirect_uri: world.client.redirectUri,
        scope: 'openid',
        code_challenge: makePkce().challenge,
        code_challenge_method: 'S256',
      }),
    )
    expect(pushed.status).toBe(201)
    const first = await connectAt(cluster, world, { agent })
    const opaque = await connectAt(cluster, world, { agent, more: OPAQUE })
    const code = await obtainCode(cluster.server, world, { agent })
    const second = await patiently(() => refreshAt(at(cluster.processes, 1), world.client, first.refresh_token))
    expect(await userinfoStatus(at(cluster.processes, 1), opaque.access_token)).toBe(200)
    const cookies = [...agent.cookies(), ...other.cookies()].filter(({ name }) =>
      /session|interaction|resume/.test(name),
    )
    expect(cookies.map(({ name }) => name)).toContain('latchkey_session')
    const secrets = {
      password: PASSWORD,
      clientSecret: world.client.secret,
      requestUri: String(Reflect.get(pushed.body, 'request_uri')).split(':').at(-1),
      usedCode: first.code,
      unusedCode: code.code,
      firstRefreshToken: first.refresh_token,
      secondRefreshToken: second.body.refresh_token,
      opaqueAccessToken: opaque.access_token,
      jwtSignature: second.body.access_token?.split('.')[2],
      jwt: second.body.access_token,
      ...Object.fromEntries(
        cookies.filter(({ name }) => name === 'latchkey_session').map(({ value }, index) => [`session${index}`, value]),
      ),
    }
    const half = await dump()
    expect(half.tables).toContain(world.email) // or the dump would be of nothing
    expect(half.redis).toContain('entry:')
    expect(half.printed).toContain('/token')
    expectAbsent(secrets, half)

    expect((await patiently(() => redeemAt(at(cluster.processes, 0), world.client, code))).status).toBe(200)
    expect((await patiently(() => redeemAt(at(cluster.processes, 1), world.client, code))).status).toBe(400)
    await endGrace(cluster.server, first.refresh_token)
    expect((await patiently(() => refreshAt(at(cluster.processes, 0), world.client, first.refresh_token))).status).toBe(
      400,
    )
    await patiently(() =>
      postTo(at(cluster.processes, 0), '/revoke', world.client, { token: opaque.refresh_token ?? '' }),
    )
    expectAbsent(secrets, await dump())
  })
})

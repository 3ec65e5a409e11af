// Who used a token or a connection, kept in memory and written in batches: nothing is lost up to the bound, and nothing
// stops it.
import { sql } from 'kysely'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type ConnectionId, type KeyId, newId, newUserId } from '../../src/ids.ts'
import { openPostgres } from '../../src/store/database.ts'
import { createUses, type Refusal, type Uses } from '../../src/uses/service.ts'
import { deleteOldUses } from '../../src/uses/store.ts'
import { hasStores } from '../support/databases.ts'
import { inSession, waitUntilBlocked } from '../support/locks.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { makeTokenWorld, type TokenWorld } from '../support/token-races.ts'

let server: TestServer
let world: TokenWorld
let id: KeyId
let uses: Uses
let errors: Error[]
beforeAll(async () => {
  server = await startServer({ backend: hasStores() ? 'stores' : 'embedded' })
  world = await makeTokenWorld(server)
})
afterAll(() => server?.close())
beforeEach(async () => {
  id = (await world.create()).id
  errors = []
  uses = createUses(server.db, (error) => void errors.push(error))
})

const use = (
  address: string | undefined = '192.0.2.1',
  agent = 'curl',
  credentialId: KeyId | ConnectionId = id,
  version = 1,
) => ({ credentialId, version, address, agent })
const refusal = (tokenId = id): Refusal => ({
  ...use('192.0.2.9', 'curl'),
  credentialId: tokenId,
  organizationId: world.world.organizationId as Refusal['organizationId'],
  workspaceId: world.world.workspaceId as Refusal['workspaceId'],
  event: 'token.reuse_detected',
  reason: 'revoked',
  request: { traceId: 'test' },
})
const rows = (tokenId = id) => server.db.selectFrom('token_uses').selectAll().where('token_id', '=', tokenId).execute()
const version = (tokenId = id) =>
  server.db.selectFrom('token_versions').selectAll().where('token_id', '=', tokenId).executeTakeFirstOrThrow()
const recordsOf = (event: string, credentialId: KeyId | ConnectionId = id) =>
  server.db
    .selectFrom('audit_events')
    .selectAll()
    .where('event', '=', event)
    .where('credential_id', '=', credentialId)
    .execute()
const countOf = async (tokenId = id) => (await rows(tokenId)).reduce((sum, row) => sum + row.uses, 0)

/** The database does not take uses; what it is asked otherwise goes on. */
async function withoutTable(work: () => Promise<void>, name = 'token_uses'): Promise<void> {
  const [table, away] = [sql.table(name), sql.id(`${name}_away`)]
  await sql`alter table ${table} rename to ${away}`.execute(server.db)
  try {
    await work()
  } finally {
    await sql`alter table ${away} rename to ${sql.id(name)}`.execute(server.db)
  }
}

/** Of somebody who is there: whoever writes a use asks nothing else of it. */
async function makeConnection(): Promise<ConnectionId> {
  const made = newId('con')
  const { workspaceId, organizationId, client } = world.world
  const userId = newUserId()
  await sql`insert into users (id, email, email_key, name) values (${userId}, ${userId}, ${userId}, 'Somebody')`.execute(
    server.db,
  )
  await sql`insert into connections (id, user_id, client_id, workspace_id, organization_id, environment, approved, created_by)
    values (${made}, ${userId}, ${client.id}, ${workspaceId}, ${organizationId}, 'production', '{}'::jsonb, 'test')`.execute(
    server.db,
  )
  return made
}
const connectionRows = (connectionId: ConnectionId) =>
  server.db.selectFrom('connection_uses').selectAll().where('connection_id', '=', connectionId).execute()
const connectionVersions = (connectionId: ConnectionId) =>
  server.db
    .selectFrom('connection_versions')
    .selectAll()
    .where('connection_id', '=', connectionId)
    .orderBy('version')
    .execute()

describe('uses', () => {
  it('a flood of one caller is one row, one touch of the version and one record of its first use', async () => {
    for (let count = 0; count < 50_000; count++) uses.seen(use())
    await uses.flush()
    expect(await rows()).toMatchObject([{ uses: 50_000, address: '192.0.2.1', agent: 'curl' }])
    uses.seen(use())
    await uses.flush()
    expect(await rows()).toMatchObject([{ uses: 50_001 }])
    expect(await recordsOf('token.first_used')).toHaveLength(1)
    expect(await version()).toMatchObject({ last_used_address: '192.0.2.1', last_used_agent: 'curl' })
  })

  it('more uses than a number holds are counted no further, and everybody else is written', async () => {
    const connection = await makeConnection()
    const another = (await world.create()).id
    for (let report = 0; report < 3; report++) {
      for (const credential of [id, connection])
        uses.seen(use('192.0.2.1', 'api', credential), { count: 1_900_000_000, ageMs: 0 })
      uses.seen(use('192.0.2.2', 'curl', another))
      await uses.flush()
    }
    expect(errors).toEqual([])
    expect((await rows())[0]?.uses).toBe(2_000_000_000)
    expect((await connectionRows(connection))[0]?.uses).toBe(2_000_000_000)
    expect(await countOf(another)).toBe(3)
  })

  it('a flood of many callers is a hundred of them and the others', async () => {
    for (let count = 0; count < 5_000; count++) uses.seen(use(`198.51.${count >> 8}.${count & 255}`))
    await uses.flush()
    expect(await rows()).toHaveLength(101)
    expect(await countOf()).toBe(5_000)
  })

  it('a flood of refusals is one record with their number', async () => {
    for (let count = 0; count < 1_000; count++) uses.refused(refusal())
    await uses.flush()
    expect(await recordsOf('token.reuse_detected')).toMatchObject([{ detail: { count: 1_000, reason: 'revoked' } }])
    expect(await version()).toMatchObject({ refused_count: 1_000, refused_address: '192.0.2.9' })
    // Whoever calls itself something else each time fills no log either.
    for (let count = 0; count < 1_000; count++) uses.refused({ ...refusal(), agent: `agent ${count}` })
    await uses.flush()
    expect(await recordsOf('token.reuse_detected')).toMatchObject([{}, { detail: { count: 1_000 } }])
    expect((await version()).last_used_at).toBeNull()
  })

  it('the last use is the latest, whoever writes first', async () => {
    const other = createUses(server.db, (error) => void errors.push(error))
    uses.seen(use('192.0.2.1', 'early'))
    await new Promise((resolve) => setTimeout(resolve, 30))
    other.seen(use('192.0.2.2', 'late'))
    await other.flush()
    const { last_used_at: last } = await version()
    await uses.flush()
    expect(await version()).toMatchObject({ last_used_agent: 'late', last_used_address: '192.0.2.2' })
    const drift = Math.abs(((await version()).last_used_at?.getTime() ?? 0) - (last?.getTime() ?? 0))
    expect(drift).toBeLessThan(5)
  })

  it('nothing is lost while the database is away, and it is written once it is back', async () => {
    await withoutTable(async () => {
      for (let round = 0; round < 3; round++) {
        for (let count = 0; count < 100; count++) uses.seen(use(`192.0.2.${count % 10}`))
        await uses.flush()
      }
    })
    expect(errors).toHaveLength(3)
    await uses.flush()
    expect(await countOf()).toBe(300)
  })

  it('memory is bounded: of 60,000 tokens that were used meanwhile the first 20,000 are kept', async () => {
    await withoutTable(async () => {
      for (let count = 0; count < 60_000; count++)
        uses.seen(use('192.0.2.1', 'curl', `key_${String(count).padStart(26, '0')}` as KeyId))
      await uses.flush()
    })
    await uses.flush()
    const { rows: counted } = await sql<{ count: number }>`
      select count(*)::int as count from token_uses where token_id like 'key_000000%'`.execute(server.db)
    expect(counted[0]?.count).toBeLessThanOrEqual(20_000)
    expect(counted[0]?.count).toBeGreaterThan(15_000)
  })

  it.each([
    ['an address with a NUL', { address: '1.2.3.4\0' }],
    ['an address as long as a form', { address: Array.from({ length: 4_000 }, (_, n) => n.toString(36)).join('') }],
    ['an address with half a character', { address: '\ud83d' }],
    ['a name cut within a character', { agent: `${'a'.repeat(119)}😀` }],
  ])('%s does not keep the others from being written', async (_name, odd) => {
    uses.seen({ ...use(), ...odd })
    uses.seen(use('192.0.2.77'))
    await uses.flush()
    expect(errors).toEqual([])
    expect(await countOf()).toBe(2)
  })

  it('the end waits for what is being written, also when others wait for it', async () => {
    uses.seen(use('192.0.2.1'))
    const first = uses.flush()
    uses.seen(use('192.0.2.2'))
    const second = uses.flush()
    const closing = uses.close()
    await closing
    expect(await countOf()).toBe(2)
    await Promise.all([first, second])
  })
})

describe('uses of a connection', () => {
  let connection: ConnectionId
  beforeEach(async () => {
    connection = await makeConnection()
  })
  const of = (version: number, address = '192.0.2.1', agent = 'curl') => use(address, agent, connection, version)

  it('are kept by version and caller; its first use is recorded once, whatever the version', async () => {
    for (let count = 0; count < 1_000; count++) uses.seen(of(1))
    uses.seen(of(1, '192.0.2.2', 'nightly/1.0'))
    await uses.flush()
    expect(await connectionRows(connection)).toHaveLength(2)
    uses.seen(of(2, '192.0.2.3'))
    uses.seen(of(1))
    await uses.flush()
    expect(errors).toEqual([])
    expect((await connectionRows(connection)).map((row) => row.uses).toSorted((a, b) => a - b)).toEqual([1, 1, 1_001])
    expect(await connectionVersions(connection)).toMatchObject([
      { version: 1, last_used_address: '192.0.2.1', last_used_agent: 'curl' },
      { version: 2, last_used_address: '192.0.2.3' },
    ])
    expect(await recordsOf('connection.first_used', connection)).toMatchObject([
      { status: 'pass', actor_kind: 'connection', actor_id: connection, token_version: 'v1' },
    ])
  })

  it('the last one is the latest, whoever writes first', async () => {
    const other = createUses(server.db, (error) => void errors.push(error))
    uses.seen(of(1, '192.0.2.1', 'early'))
    await new Promise((resolve) => setTimeout(resolve, 30))
    other.seen(of(1, '192.0.2.2', 'late'))
    await other.flush()
    await uses.flush()
    expect(await connectionVersions(connection)).toMatchObject([
      { last_used_agent: 'late', last_used_address: '192.0.2.2' },
    ])
  })

  it('wait while the database is away, with those of tokens, and all are written once', async () => {
    await withoutTable(async () => {
      uses.seen(of(1))
      uses.seen(use())
      await uses.flush()
    }, 'connection_uses')
    expect(errors).toHaveLength(1)
    expect(await countOf()).toBe(0)
    await uses.flush()
    expect(await countOf()).toBe(1)
    expect(await connectionRows(connection)).toMatchObject([{ uses: 1 }])
    expect(await recordsOf('connection.first_used', connection)).toHaveLength(1)
  })

  it('many callers are a hundred of them and the others', async () => {
    for (let count = 0; count < 5_000; count++) uses.seen(of(1, `198.51.${count >> 8}.${count & 255}`))
    await uses.flush()
    const found = await connectionRows(connection)
    expect(found).toHaveLength(101)
    expect(found.reduce((sum, row) => sum + row.uses, 0)).toBe(5_000)
  })

  it('go after fifteen days; when it was used last stays', async () => {
    uses.seen(of(1))
    await uses.flush()
    await sql`update connection_uses set hour = now() - interval '16 days' where connection_id = ${connection}`.execute(
      server.db,
    )
    expect(await deleteOldUses(server.db, 100)).toBe(1)
    expect(await connectionRows(connection)).toEqual([])
    expect(await connectionVersions(connection)).toHaveLength(1)
  })
})

describe.skipIf(!hasStores())('two processes that write uses', () => {
  it('of one connection at once, in two versions, record its first use once', async () => {
    for (let round = 0; round < 20; round++) {
      const connection = await makeConnection()
      const writers = [1, 2].map((version) => {
        const writer = createUses(server.db, (error) => void errors.push(error))
        writer.seen(use('192.0.2.1', 'curl', connection, version))
        return writer
      })
      await Promise.all(writers.map((writer) => writer.flush()))
      expect(await recordsOf('connection.first_used', connection)).toHaveLength(1)
      expect(await connectionVersions(connection)).toHaveLength(2)
    }
    expect(errors).toEqual([])
  })

  it('of the same tokens and connections, in any order, never wait for each other in a circle', async () => {
    const credentials: Array<KeyId | ConnectionId> = []
    const connections: ConnectionId[] = []
    for (let count = 0; count < 6; count++) {
      connections.push(await makeConnection())
      credentials.push((await world.create()).id, ...connections.slice(-1))
    }
    const writers = [0, 1].map(() => createUses(server.db, (error) => void errors.push(error)))
    const deadlocksBefore = await deadlocks()
    for (let round = 0; round < 40; round++) {
      for (const [place, writer] of writers.entries()) {
        const order = (round + place) % 2 === 0 ? credentials : credentials.toReversed()
        for (const credential of order) writer.seen(use('192.0.2.1', 'curl', credential, 1 + (round % 3)))
      }
      await Promise.all(writers.map((writer) => writer.flush()))
    }
    expect(errors).toEqual([])
    for (const connection of connections)
      expect((await connectionRows(connection)).reduce((sum, row) => sum + row.uses, 0)).toBe(80)
    expect(await deadlocks()).toBe(deadlocksBefore)
  })

  it('do not wait for whoever changes the connection', async () => {
    const connection = await makeConnection()
    const { url } = await databaseUrl()
    await inSession(url, async (session) => {
      await session.query('begin')
      await session.query('select from connections where id = $1 for update', [connection])
      uses.seen(use('192.0.2.1', 'curl', connection))
      await uses.flush()
      expect(errors).toEqual([])
      await session.query('rollback')
    })
    expect(await connectionRows(connection)).toHaveLength(1)
  })

  it('of the same tokens, in any order, never wait for each other in a circle', async () => {
    const ids: KeyId[] = []
    for (let count = 0; count < 8; count++) ids.push((await world.create()).id)
    const writers = [0, 1].map(() => createUses(server.db, (error) => void errors.push(error)))
    const deadlocksBefore = await deadlocks()
    for (let round = 0; round < 40; round++) {
      for (const [place, writer] of writers.entries()) {
        // One takes from an address what the other refuses.
        const order = (round + place) % 2 === 0 ? ids : ids.toReversed()
        for (const [index, tokenId] of order.entries()) {
          if (index < 4 === (place === 0)) writer.seen(use('192.0.2.1', 'curl', tokenId))
          else writer.refused(refusal(tokenId))
        }
      }
      await Promise.all(writers.map((writer) => writer.flush()))
    }
    expect(errors).toEqual([])
    for (const tokenId of ids) expect(await countOf(tokenId)).toBe(80)
    expect(await deadlocks()).toBe(deadlocksBefore)
  })

  it('lock what was refused with what was used, in one order', async () => {
    const [low, high] = [(await world.create()).id, (await world.create()).id].toSorted()
    if (low === undefined || high === undefined) throw new Error('there are two')
    const { url } = await databaseUrl()
    const own = openPostgres(url, 2, () => {})
    try {
      await inSession(url, async (session) => {
        await session.query('begin')
        await session.query('select from token_versions where token_id = $1 for update', [low])
        const writer = createUses(own.db, (error) => void errors.push(error))
        writer.seen(use('192.0.2.1', 'curl', high))
        writer.refused(refusal(low))
        const flushing = writer.flush()
        await waitUntilBlocked(url, 1)
        // It waits for the lower one, so it does not hold the higher one yet.
        await session.query('select from token_versions where token_id = $1 for update nowait', [high])
        await session.query('rollback')
        await flushing
      })
    } finally {
      await own.close()
    }
    expect(errors).toEqual([])
  })
})

async function databaseUrl(): Promise<{ url: string }> {
  const { rows: found } = await sql<{ name: string }>`select current_database() as name`.execute(server.db)
  const { inject } = await import('vitest')
  const url = new URL(inject('postgresUrl') ?? '')
  url.pathname = `/${found[0]?.name}`
  return { url: url.href }
}

async function deadlocks(): Promise<number> {
  await sql`select pg_stat_clear_snapshot()`.execute(server.db)
  await new Promise((resolve) => setTimeout(resolve, 50))
  const { rows: found } = await sql<{ deadlocks: number }>`
    select deadlocks::int as deadlocks from pg_stat_database where datname = current_database()`.execute(server.db)
  return found[0]?.deadlocks ?? 0
}

// What a decision costs, counted: a warm token asks no store at all, a cold one one row, a mistyped one nobody.
import { Redis } from 'ioredis'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { newToken } from '../../src/crypto/token-value.ts'
import { hasStores } from '../support/databases.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { call, exchangeAt, exchangeBoth, makeTokenWorld, type TokenWorld, waysOf } from '../support/token-races.ts'

/** What the process does by itself meanwhile. */
const OWN = /with lease as|into leases|cutover_at" <=|from "leases"|audit_pending|audit_chain/

interface Asked {
  statements: string[]
  rows: number
  commands: number
}

describe.skipIf(!hasStores())('round trips', () => {
  let server: TestServer
  let world: TokenWorld
  beforeAll(async () => {
    server = await startServer({ backend: 'stores' })
    world = await makeTokenWorld(server)
  })
  afterAll(() => server?.close())
  afterEach(() => {
    vi.restoreAllMocks()
  })

  async function countOnce(work: () => Promise<unknown>): Promise<Asked> {
    const asked: Asked = { statements: [], rows: 0, commands: 0 }
    const query = pg.Client.prototype.query as (...given: unknown[]) => Promise<{ rowCount: number | null }>
    const toPostgres = vi.spyOn(pg.Client.prototype, 'query').mockImplementation(function (
      this: pg.Client,
      ...given: unknown[]
    ) {
      const [first] = given
      const text = typeof first === 'string' ? first : String(Reflect.get(Object(first), 'text'))
      const answered = Reflect.apply(query, this, given) as Promise<{ rowCount: number | null }>
      if (OWN.test(text)) return answered as never
      asked.statements.push(text)
      return answered.then((result) => {
        asked.rows += result.rowCount ?? 0
        return result
      }) as never
    })
    const send = Redis.prototype.sendCommand
    const toRedis = vi.spyOn(Redis.prototype, 'sendCommand').mockImplementation(function (this: Redis, ...given) {
      asked.commands++
      return Reflect.apply(send, this, given)
    })
    try {
      await work()
    } finally {
      toPostgres.mockRestore()
      toRedis.mockRestore()
    }
    return asked
  }

  /** The least of five: what is written in the background every two seconds does not meet all of them. */
  async function count(work: (turn: number) => Promise<unknown>): Promise<Asked> {
    const all: Asked[] = []
    for (let turn = 0; turn < 5; turn++) all.push(await countOnce(() => work(turn)))
    return (
      all.toSorted((a, b) => a.statements.length - b.statements.length)[0] ?? { statements: [], rows: 0, commands: 0 }
    )
  }

  const NOTHING = { statements: [], rows: 0, commands: 0 }
  /** Says who is calling, and refuses for the kind of credential: nothing but the check of the principal is asked for. */
  const identify = async (value: string) => (await call(world.target, 'GET', '/api/v1/organizations', value)).status

  it('a warm token at our own API: none', async () => {
    const { value } = await world.create()
    expect(await identify(value)).toBe(403)
    expect(await count(() => identify(value))).toEqual(NOTHING)
  })

  it('a warm JWT at our own API: none', async () => {
    const { own } = await exchangeBoth(world.target, world, (await world.create()).value)
    expect(await identify(own)).toBe(403)
    expect(await count(() => identify(own))).toEqual(NOTHING)
  })

  it('introspection of a warm token and of a warm JWT: none', async () => {
    const token = await world.create()
    const ways = waysOf(world, { value: token.value, ...(await exchangeBoth(world.target, world, token.value)) })
    for (const name of ['token, introspection', 'JWT, introspection']) {
      expect(await ways[name]?.(world.target)).toBe('accepted')
      expect(await count(async () => ways[name]?.(world.target))).toEqual(NOTHING)
    }
  })

  it('the exchange of a warm token: none', async () => {
    const { value } = await world.create()
    expect((await exchangeAt(world.target, value)).status).toBe(200)
    expect(await count(() => exchangeAt(world.target, value))).toEqual(NOTHING)
  })

  it('a cold token: one statement, one row', async () => {
    const tokens = await Promise.all(Array.from({ length: 5 }, () => world.create()))
    const asked = await count((turn) => identify(tokens[turn]?.value ?? ''))
    expect(asked).toMatchObject({ rows: 1, commands: 0 })
    expect(asked.statements).toHaveLength(1)
  })

  it('an unknown token: one statement; a malformed or mistyped one: none', async () => {
    const unknown = await count(() => identify(newToken('workspace').value.reveal()))
    expect(unknown).toMatchObject({ rows: 0, commands: 0 })
    expect(unknown.statements).toHaveLength(1)
    const { value } = await world.create()
    for (const wrong of [
      'tid_ws_',
      value.slice(0, -1),
      `${value.slice(0, -1)}${value.endsWith('a') ? 'b' : 'a'}`,
      'a.b.c',
    ]) {
      expect(await identify(wrong)).toBe(401)
      expect(await count(() => identify(wrong))).toEqual(NOTHING)
    }
  })
})

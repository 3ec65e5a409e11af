// What is decided from memory, and when memory does not count: tokens, and JWTs that came from them (consistency §4, §5).
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { newToken } from '../../src/crypto/token-value.ts'
import { type AccessTokenClaims, type AccessTokens, createAccessTokens } from '../../src/oauth/access-tokens.ts'
import type { Entry } from '../../src/revocation/rules.ts'
import type { RevocationList } from '../../src/revocation/service.ts'
import { createVerification, type Verification } from '../../src/verification/service.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { makeTokenWorld, type TokenWorld } from '../support/token-races.ts'

let server: TestServer
let world: TokenWorld
beforeAll(async () => {
  server = await startServer()
  world = await makeTokenWorld(server)
})
afterAll(() => server?.close())

/** A list whose state the test sets. */
function createFakeList() {
  const entries = new Map<string, Entry>()
  const state = { live: true, seq: 100, generation: 0, nowMs: Date.now(), entries }
  const list: RevocationList = {
    change: () => Promise.reject(new Error('not in this test')),
    everyoneKnows: async () => {},
    requireSound: () => undefined,
    trouble: () => undefined,
    isLive: () => state.live,
    seq: () => state.seq,
    generation: () => state.generation,
    entry: (subject) => entries.get(subject),
    now: () => state.nowMs,
    since: () => [],
    epoch: () => undefined,
    completeAsOf: () => undefined,
    subscribe: () => () => {},
    start: async () => {},
    close: async () => {},
  }
  return {
    list,
    state,
    put: (entry: Partial<Entry> & { subject: string; seq: number }) =>
      entries.set(entry.subject, { ...EMPTY, ...entry }),
  }
}

const EMPTY = {
  floor: null,
  dead: [],
  closed: false,
  denied: false,
  suspended: false,
  notBefore: null,
  nextFloor: null,
  nextFloorAt: null,
}
const FROM = { address: '192.0.2.1', agent: 'curl', request: { traceId: 'test' } }

describe('a remembered token', () => {
  let fake: ReturnType<typeof createFakeList>
  let verification: Verification
  let loads = 0
  let token: Awaited<ReturnType<TokenWorld['create']>>
  beforeEach(async () => {
    fake = createFakeList()
    loads = 0
    const { db } = server
    const counted = new Proxy(db, {
      get(target, name) {
        if (name === 'getExecutor') loads++
        const value = Reflect.get(target, name)
        return typeof value === 'function' ? value.bind(target) : value
      },
    })
    verification = createVerification({
      db: counted,
      revocations: fake.list,
      uses: { seen() {}, refused() {}, flush: async () => {}, start() {}, close: async () => {} },
    })
    token = await world.create()
    expect(await verification.use(token.value, FROM)).toMatchObject({ ok: true })
    expect(loads).toBe(1)
  })

  const isGood = async () => (await verification.use(token.value, FROM)).ok
  const isReadAnew = async () => {
    const before = loads
    await isGood()
    return loads > before
  }
  /** Ended, and nobody told this process: whatever comes from memory says that it is good. */
  const endSilently = () =>
    server.db.updateTable('token_lines').set({ closed_at: new Date() }).where('id', '=', token.id).execute()

  it('is good without asking, while the list is live and says nothing', async () => {
    expect(await isReadAnew()).toBe(false)
    await endSilently()
    expect(await isGood()).toBe(true) // so what follows shows who asked
  })

  it.each([
    ['its line', () => token.id],
    ['its workspace', () => world.world.workspaceId],
    ['everything', () => 'everything'],
  ])('is asked about again when something was said about %s', async (_name, subject) => {
    await endSilently()
    fake.put({ subject: subject(), seq: 101 })
    expect(await isGood()).toBe(false)
  })

  it('is not asked about again for what was said before it was read', async () => {
    fake.put({ subject: token.id, seq: 100 })
    expect(await isReadAnew()).toBe(false)
  })

  it('is asked about at every use while the process is blind, and not remembered then', async () => {
    fake.state.live = false
    expect(await isReadAnew()).toBe(true)
    expect(await isReadAnew()).toBe(true)
    await endSilently()
    expect(await isGood()).toBe(false)
  })

  it('is not remembered when it was read before an entry that came meanwhile', async () => {
    const other = await world.create()
    const loading = verification.use(other.value, FROM)
    fake.put({ subject: other.id, seq: 101 })
    expect(await loading).toMatchObject({ ok: true })
    await server.db.updateTable('token_lines').set({ closed_at: new Date() }).where('id', '=', other.id).execute()
    expect(await verification.use(other.value, FROM)).toMatchObject({ ok: false })
  })

  it('is forgotten when another list took the place of the one that it was read under', async () => {
    await endSilently()
    fake.state.generation++
    fake.state.seq = 3 // the new list counts anew: its entries have lower numbers
    fake.put({ subject: token.id, seq: 2, closed: true })
    expect(await isGood()).toBe(false)
  })

  it('is read anew after five minutes', async () => {
    await endSilently()
    const now = performance.now()
    const clock = vi.spyOn(performance, 'now')
    try {
      clock.mockReturnValue(now + 299_000)
      expect(await isGood()).toBe(true)
      clock.mockReturnValue(now + 301_000)
      expect(await isGood()).toBe(false)
    } finally {
      clock.mockRestore()
    }
  })

  it('is read anew after five minutes by the wall clock, too: what was said while the machine was paused may be gone', async () => {
    await endSilently()
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 301_000 })
    try {
      expect(await isGood()).toBe(false)
    } finally {
      vi.useRealTimers()
    }
  })

  it('expires by the time of the database, not by the clock of the process', async () => {
    const short = await world.create({ expires_in: 60 })
    expect(await verification.use(short.value, FROM)).toMatchObject({ ok: true })
    fake.state.nowMs = Date.now() + 61_000
    expect(await verification.use(short.value, FROM)).toEqual({ ok: false, fault: 'expired' })
  })

  it('a malformed or mistyped value asks nobody', async () => {
    const before = loads
    for (const value of [
      '',
      'tid_ws_',
      `${token.value.slice(0, -1)}!`,
      `${token.value.slice(0, -1)}${token.value.endsWith('a') ? 'b' : 'a'}`,
    ])
      expect(await verification.use(value, FROM)).toEqual({ ok: false, fault: 'unknown' })
    expect(loads).toBe(before)
    expect(await verification.use(newToken('workspace').value.reveal(), FROM)).toEqual({ ok: false, fault: 'unknown' })
    expect(loads).toBe(before + 1)
  })
})

describe('a JWT that came from a token', () => {
  let fake: ReturnType<typeof createFakeList>
  let accessTokens: AccessTokens
  let claims: AccessTokenClaims
  beforeEach(async () => {
    fake = createFakeList()
    accessTokens = createAccessTokens({
      db: server.db,
      keys: server.app.keys,
      issuer: server.origin,
      reads: server.app.reads,
      revocations: fake.list,
    })
    const token = await world.create()
    const iat = Math.floor(Date.now() / 1000)
    const jwt = await accessTokens.sign({
      sub: token.id,
      aud: `${server.origin}/api`,
      client_id: 'cl_a',
      jti: randomBytes(8).toString('hex'),
      iat,
      exp: iat + 600,
      workspace_id: world.world.workspaceId,
      organization_id: world.world.organizationId,
      environment: 'production',
      token_version: 'v1',
      credential_id: token.id,
    })
    const checked = await accessTokens.check(jwt)
    if (checked === undefined) throw new Error('it was refused')
    claims = checked
  })

  it.each<[string, () => Partial<Entry> & { subject: string }]>([
    ['its line is closed', () => ({ subject: claims.credential_id, closed: true })],
    ['its version is dead', () => ({ subject: claims.credential_id, dead: [1] })],
    ['the floor is above its version', () => ({ subject: claims.credential_id, floor: 2 })],
    ['it is denied itself', () => ({ subject: `jti:${claims.jti}`, denied: true })],
    ['its workspace is closed', () => ({ subject: claims.workspace_id, closed: true })],
    ['its workspace is suspended', () => ({ subject: claims.workspace_id, suspended: true })],
    [
      'its workspace was suspended after it was issued',
      () => ({ subject: claims.workspace_id, notBefore: claims.iat }),
    ],
    ['its client is suspended', () => ({ subject: claims.client_id, suspended: true })],
    ['its subject is suspended', () => ({ subject: claims.sub, suspended: true })],
    ['everything before now is refused', () => ({ subject: 'everything', notBefore: claims.iat })],
  ])('does not stand when %s', async (_name, entry) => {
    expect(await accessTokens.stands(claims)).toBe(true)
    fake.put({ seq: 101, ...entry() })
    expect(await accessTokens.stands(claims)).toBe(false)
  })

  it('stands when something else is said', async () => {
    fake.put({ subject: claims.credential_id, seq: 101, floor: 1, dead: [2] })
    fake.put({ subject: claims.workspace_id, seq: 102, notBefore: claims.iat - 1 })
    fake.put({ subject: 'everything', seq: 103, notBefore: claims.iat - 1 })
    expect(await accessTokens.stands(claims)).toBe(true)
  })

  it('ends by the time of the database, however late the clock of the process is', async () => {
    fake.state.nowMs = (claims.exp + 1) * 1000
    expect(await accessTokens.stands(claims)).toBe(false)
  })

  it('a blind process asks the database', async () => {
    fake.state.live = false
    expect(await accessTokens.stands(claims)).toBe(true)
    await server.db
      .updateTable('token_lines')
      .set({ closed_at: new Date() })
      .where('id', '=', claims.credential_id as never)
      .execute()
    expect(await accessTokens.stands(claims)).toBe(false)
  })
})

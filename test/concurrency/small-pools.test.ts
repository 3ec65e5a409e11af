// No connection is held while tokens are signed: a pool of two, and the embedded database's one, serve two hundred at once.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { digestOf } from '../../src/crypto/secret.ts'
import { hasStores } from '../support/databases.ts'
import { patiently, refreshAt, type Target } from '../support/processes.ts'
import { at } from '../support/races.ts'
import { type Backend, startServer, type TestServer } from '../support/server.ts'
import { takeTime } from '../support/times.ts'
import { connect, makeWorld, type World } from '../support/world.ts'

takeTime()

const FAMILIES = 20
const EACH = 10

describe.each<Backend>(['embedded', 'stores'])('on %s', (backend) => {
  describe.skipIf(backend === 'stores' && !hasStores())('two hundred refreshes at once', () => {
    let server: TestServer
    let world: World
    beforeAll(async () => {
      server = await startServer({ backend, poolSize: 2 })
      world = await makeWorld(server)
    })
    afterAll(() => server?.close())

    it('all complete: those of one token with the same successor, those of another with another', async () => {
      const here: Target = { port: Number(new URL(server.origin).port), issuer: server.origin }
      const agent = server.userAgent()
      const tokens: string[] = []
      for (let count = 0; count < FAMILIES; count++)
        tokens.push((await connect(server, world, { agent })).refresh_token ?? '')
      const asked = Array.from({ length: FAMILIES * EACH }, (_, index) => at(tokens, index % FAMILIES))
      const answers = await Promise.all(asked.map((token) => patiently(() => refreshAt(here, world.client, token))))
      expect(answers.map(({ status }) => status)).toEqual(asked.map(() => 200))
      const successors = new Map<string, Set<string | undefined>>()
      for (const [index, token] of asked.entries())
        successors.set(token, (successors.get(token) ?? new Set()).add(answers[index]?.body.refresh_token))
      expect([...successors.values()].map((values) => values.size)).toEqual(tokens.map(() => 1))
      const unused = await server.db
        .selectFrom('refresh_tokens')
        .select('digest')
        .where('consumed_at', 'is', null)
        .execute()
      const answered = new Set(answers.map(({ body }) => digestOf(body.refresh_token ?? '')))
      expect(answered.size).toBe(FAMILIES)
      expect(new Set(unused.map(({ digest }) => digest))).toEqual(answered)
    })
  })
})

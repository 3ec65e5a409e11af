// Ten processes started at once on an empty database: the tables are made once, and so are the keys.
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { describe, expect, inject, it } from 'vitest'
import { hasStores, newSink } from '../support/databases.ts'
import { type ServerProcess, send, startProcess } from '../support/processes.ts'
import { takeTime } from '../support/times.ts'

takeTime()

describe.skipIf(!hasStores())('ten processes started at once on an empty database', () => {
  it('all become ready, with one active key for each algorithm, the same on all', async () => {
    const base = inject('postgresUrl') ?? ''
    const name = `latchkey_test_${randomBytes(6).toString('hex')}`
    const administrator = new pg.Client({ connectionString: base })
    await administrator.connect()
    await administrator.query(`create database ${name}`)
    const databaseUrl = Object.assign(new URL(base), { pathname: `/${name}` }).href
    const masterKey = randomBytes(32).toString('base64')
    const issuer = 'http://localhost:3999'
    let started: PromiseSettledResult<ServerProcess>[] = []
    try {
      const options = { databaseUrl, masterKey, issuer, redisUrl: inject('redisUrl'), sink: newSink() }
      started = await Promise.allSettled(Array.from({ length: 10 }, () => startProcess(options)))
      const failures = started.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => String(reason))
      expect(failures).toEqual([])
      const processes = started.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []))
      const published = await Promise.all(processes.map((process) => send(process, { path: '/jwks' })))
      expect(new Set(published.map(({ text }) => text)).size).toBe(1)
      const { keys }: { keys: Array<{ alg: string }> } = JSON.parse(published[0]?.text ?? '{}')
      expect(keys.map(({ alg }) => alg).sort()).toEqual(['ES256', 'RS256'])
      const database = new pg.Client({ connectionString: databaseUrl })
      await database.connect()
      const signing = await database.query('select alg, count(*)::int from signing_keys group by alg order by alg')
      expect(signing.rows).toEqual([
        { alg: 'ES256', count: 1 },
        { alg: 'RS256', count: 1 },
      ])
      const server = await database.query('select purpose from server_keys order by purpose')
      expect(new Set(server.rows.map(({ purpose }) => purpose)).size).toBe(server.rows.length)
      expect(server.rows.length).toBeGreaterThanOrEqual(4)
      await database.end()
    } finally {
      for (const outcome of started) if (outcome.status === 'fulfilled') await outcome.value.kill()
      await administrator.query(`drop database if exists ${name} with (force)`)
      await administrator.end()
    }
  })
})

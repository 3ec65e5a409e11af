import { describe, expect, it } from 'vitest'
import { ConfigError, readConfig } from '../src/config.ts'

const problemsOf = (environment: Record<string, string>): readonly string[] => {
  try {
    readConfig(environment)
  } catch (error) {
    if (error instanceof ConfigError) return error.problems
    throw error
  }
  return []
}

const KEY = Buffer.from(Uint8Array.from({ length: 32 }, (_, index) => index * 7)).toString('base64')
const PRODUCTION = {
  NODE_ENV: 'production',
  LATCHKEY_ISSUER: 'https://id.example.com',
  DATABASE_URL: 'postgres://server:pw@db/latchkey',
  DATABASE_MIGRATION_URL: 'postgres://owner:pw@db/latchkey',
  LATCHKEY_MASTER_KEY: KEY,
  LATCHKEY_SINK: '/mnt/shared/latchkey/',
}

describe('configuration', () => {
  it('needs none: the embedded default with the tour on', () => {
    expect(readConfig({})).toMatchObject({
      issuer: 'http://localhost:3000',
      host: '127.0.0.1',
      database: { kind: 'embedded' },
      tour: true,
      production: false,
    })
  })

  it('names every bad variable at once, and repeats no value of a secret', () => {
    const problems = problemsOf({
      PORT: '70000',
      LATCHKEY_ISSUER: 'https://id.example.com/path',
      REDIS_URL: 'http://x',
      LATCHKEY_MASTER_KEY: 'hunter2',
    })
    expect(problems.map((problem) => problem.split(' ')[0])).toEqual([
      'PORT',
      'LATCHKEY_ISSUER',
      'REDIS_URL',
      'LATCHKEY_MASTER_KEY',
    ])
    expect(problems.join()).not.toContain('hunter2')
  })

  it('refuses a misspelt variable of its own instead of passing it over', () => {
    expect(problemsOf({ LATCHKEY_MASTERKEY: KEY })[0]).toContain('LATCHKEY_MASTERKEY is not a variable')
  })

  it.each([
    ['an http issuer', { LATCHKEY_ISSUER: 'http://id.example.com' }, 'LATCHKEY_ISSUER'],
    ['no issuer', { LATCHKEY_ISSUER: '' }, 'LATCHKEY_ISSUER'],
    ['no database', { DATABASE_URL: '' }, 'DATABASE_URL'],
    ['one role for everything', { DATABASE_MIGRATION_URL: '' }, 'DATABASE_MIGRATION_URL'],
    ['no master key', { LATCHKEY_MASTER_KEY: '' }, 'LATCHKEY_MASTER_KEY'],
    ['no sink', { LATCHKEY_SINK: '' }, 'LATCHKEY_SINK'],
    [
      'a master key that is not random',
      { LATCHKEY_MASTER_KEY: Buffer.alloc(32).toString('base64') },
      'LATCHKEY_MASTER_KEY',
    ],
    ['the tour', { LATCHKEY_TOUR: 'on' }, 'LATCHKEY_TOUR'],
  ])('production refuses %s', (_what, change, variable) => {
    const problems = problemsOf({ ...PRODUCTION, ...change })
    expect(problems.length).toBeGreaterThan(0)
    expect(problems.every((problem) => problem.startsWith(variable))).toBe(true)
  })

  it('production takes a complete configuration, and has no tour', () => {
    expect(readConfig(PRODUCTION)).toMatchObject({ production: true, tour: false, issuer: 'https://id.example.com' })
  })

  it('calls lead to public addresses only, but for this machine in the embedded default, unless it says otherwise', () => {
    const stores = { DATABASE_URL: 'postgres://server:pw@db/latchkey', LATCHKEY_MASTER_KEY: KEY }
    expect(readConfig({}).outboundReach).toBe('loopback')
    expect(readConfig(stores).outboundReach).toBe('public')
    expect(readConfig(PRODUCTION).outboundReach).toBe('public')
    expect(readConfig({ LATCHKEY_OUTBOUND_PRIVATE: 'refuse' }).outboundReach).toBe('public')
    expect(readConfig({ ...PRODUCTION, LATCHKEY_OUTBOUND_PRIVATE: 'allow' }).outboundReach).toBe('private')
  })

  it('shows no secret when it is printed or logged', () => {
    const config = readConfig({ ...PRODUCTION, REDIS_URL: 'redis://:r3dis@cache:6379' })
    const printed = `${JSON.stringify(config)} ${String(config.redisUrl)} ${config.masterKeys}`
    for (const secret of ['r3dis', KEY, ':pw@']) expect(printed).not.toContain(secret)
  })
})

// Environment -> one frozen Config. Reports every bad variable at once, each with what to do.
import { join, resolve } from 'node:path'
import ipaddr from 'ipaddr.js'
import { z } from 'zod'
import { Secret } from './crypto/secret.ts'

export interface Lifetimes {
  accessTokenSeconds: number
  authorizationCodeSeconds: number
  idTokenSeconds: number
  interactionSeconds: number
  refreshGraceSeconds: number
  refreshTokenIdleSeconds: number
  refreshTokenMaxSeconds: number
  sessionIdleSeconds: number
  sessionMaxSeconds: number
}

export type DatabaseConfig =
  | { kind: 'embedded'; directory: string }
  | { kind: 'postgres'; url: Secret; migrationUrl: Secret; poolSize: number; hasOwnerRole: boolean }

/** Where what must survive the database is written. */
export type SinkConfig = { kind: 'files'; path: string } | { kind: 'webhook'; url: string; token: Secret | undefined }

/** Where calls to addresses of others may lead: public ones only, this machine besides, or private networks as well. */
export type OutboundReach = 'public' | 'loopback' | 'private'

/** How often the credentials of a workspace are to be attested. */
export type ReviewEvery = 'monthly' | 'quarterly' | 'yearly' | 'off'

export interface Config {
  production: boolean
  host: string
  port: number
  /** The one public origin, without a slash at the end. */
  issuer: string
  dataDirectory: string
  database: DatabaseConfig
  redisUrl: Secret | undefined
  sink: SinkConfig
  /** Newest first. Undefined in the embedded default: made and kept in the data directory. */
  masterKeys: readonly Secret[] | undefined
  trustedProxies: readonly string[]
  outboundReach: OutboundReach
  /** Undefined: nothing is mailed. */
  mail: { url: Secret; from: string } | undefined
  reviewEvery: ReviewEvery
  logLevel: string
  tour: boolean
  lifetimes: Lifetimes
}

const DAY = 86_400
const HOUR = 3_600

const wholeNumber = (least: number, most: number) =>
  z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .refine((value) => value >= least && value <= most, `must be between ${least} and ${most}`)

const origin = z.string().refine((text) => {
  const url = URL.parse(text)
  return url !== null && ['http:', 'https:'].includes(url.protocol) && url.origin === text.replace(/\/$/, '')
}, 'must be an origin such as https://id.example.com, without path, query or user')

const url = (...schemes: string[]) =>
  z
    .string()
    .refine(
      (text) => schemes.includes(URL.parse(text)?.protocol.slice(0, -1) ?? ''),
      `must be a ${schemes[0]}:// address`,
    )

const ranges = z
  .string()
  .transform((text) =>
    text
      .split(',')
      .map((part) => part.trim())
      .filter(Boolean),
  )
  .refine((parts) => parts.every(isAddressRange), 'must be addresses or CIDR ranges, separated by commas')

const masterKeys = z
  .string()
  .transform((text) => text.split(',').map((part) => part.trim()))
  .refine(
    (keys) => keys.every((key) => /^[A-Za-z0-9+/_=-]+$/.test(key) && Buffer.from(key, 'base64').length === 32),
    'must be 32 random bytes in base64 (make one with: openssl rand -base64 32); several, newest first, separated by commas',
  )

/** Every variable: its form, and what `latchkey serve --help` says about it. */
export const VARIABLES = {
  PORT: { form: wholeNumber(0, 65_535), says: 'Port to listen on. Default 3000.' },
  HOST: { form: z.string().min(1), says: 'Address to listen on. Default 127.0.0.1.' },
  LATCHKEY_ISSUER: {
    form: origin,
    says: 'The one public origin, as people and clients see it. Default http://localhost:<port>; https is required in production.',
  },
  DATABASE_URL: {
    form: url('postgres', 'postgresql'),
    says: 'PostgreSQL. Default: none, an embedded database in LATCHKEY_DATA_DIR (one process).',
  },
  DATABASE_MIGRATION_URL: {
    form: url('postgres', 'postgresql'),
    says: 'PostgreSQL as the role that owns the tables and migrates them. Default: DATABASE_URL; required in production.',
  },
  LATCHKEY_DATABASE_POOL: { form: wholeNumber(1, 200), says: 'Connections to PostgreSQL a process keeps. Default 10.' },
  REDIS_URL: {
    form: url('redis', 'rediss'),
    says: 'Redis, for sessions and other short-lived state. Default: none, kept in the database.',
  },
  LATCHKEY_DATA_DIR: {
    form: z.string().min(1),
    says: 'Where the embedded default keeps its files. Default .latchkey.',
  },
  LATCHKEY_MASTER_KEY: {
    form: masterKeys,
    says: '32 random bytes in base64; several, newest first, separated by commas. Made for you in the embedded default.',
  },
  LATCHKEY_SINK: {
    form: z.string().refine(isSink, 'must be a file, a directory (with / at its end), or an https:// address'),
    says: 'Where revocations are kept outside the database, so that a restored backup is noticed: a file, a directory that all hosts share (ending in /), or an https webhook. Default: sink.ndjson in LATCHKEY_DATA_DIR; required in production.',
  },
  LATCHKEY_SINK_TOKEN: {
    form: z.string().min(16, 'must be at least 16 characters'),
    says: 'What a webhook sink is shown as a bearer token. Default: none.',
  },
  LATCHKEY_TRUSTED_PROXIES: {
    form: ranges,
    says: 'Addresses or CIDR ranges of reverse proxies whose X-Forwarded-For is believed. Default: none.',
  },
  LATCHKEY_OUTBOUND_PRIVATE: {
    form: z.enum(['refuse', 'loopback', 'allow']),
    says: 'Whether addresses that others give, logout URIs of clients and base URLs of providers, may lead to this machine (loopback, also over http) or into private networks too (allow: every admin of a workspace then reads https services there). Default refuse; loopback in the embedded default outside of production.',
  },
  SMTP_URL: {
    form: url('smtp', 'smtps'),
    says: 'The mail server: smtps:// for TLS from the start, smtp:// for STARTTLS where it is offered (?requireTLS=true insists). Default: none, nothing is mailed.',
  },
  LATCHKEY_MAIL_FROM: {
    form: z.email('must be an e-mail address'),
    says: 'Whom mails are from. Required with SMTP_URL.',
  },
  LATCHKEY_REVIEW_EVERY: {
    form: z.enum(['monthly', 'quarterly', 'yearly', 'off']),
    says: 'How often an access review of each workspace is opened: monthly, quarterly, yearly or off. Default quarterly.',
  },
  LATCHKEY_LOG_LEVEL: {
    form: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']),
    says: 'trace, debug, info, warn, error or silent. Default info.',
  },
  LATCHKEY_TOUR: {
    form: z.enum(['on', 'off']),
    says: 'The tour at /try. Default on in the embedded default; refused in production.',
  },
  LATCHKEY_ACCESS_TOKEN_SECONDS: {
    form: wholeNumber(60, HOUR),
    says: 'Life of a JWT access token. Default 600, at most 3600.',
  },
  LATCHKEY_REFRESH_TOKEN_IDLE_DAYS: {
    form: wholeNumber(1, 365),
    says: 'A refresh token unused for this long ends. Default 30.',
  },
  LATCHKEY_REFRESH_TOKEN_MAX_DAYS: {
    form: wholeNumber(1, 3650),
    says: 'A device has to be connected anew after this long, however often it refreshes. Default 365.',
  },
  LATCHKEY_SESSION_IDLE_HOURS: {
    form: wholeNumber(1, 720),
    says: 'A browser session unused for this long ends. Default 72.',
  },
  LATCHKEY_SESSION_MAX_HOURS: {
    form: wholeNumber(1, 2160),
    says: 'A browser session ends after this long. Default 336.',
  },
} as const satisfies Record<string, { form: z.ZodType; says: string }>

type VariableName = keyof typeof VARIABLES
type Values = { [N in VariableName]?: z.output<(typeof VARIABLES)[N]['form']> }

/** All that is wrong with the environment, one line a variable. */
export class ConfigError extends Error {
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(
      `The configuration has ${problems.length === 1 ? 'a problem' : `${problems.length} problems`}:\n- ${problems.join('\n- ')}`,
    )
    this.name = 'ConfigError'
    this.problems = problems
  }
}

/** @throws {ConfigError} naming every bad, missing or weak variable. Values of secrets are never repeated. */
export function readConfig(environment: Record<string, string | undefined>): Readonly<Config> {
  const problems: string[] = []
  const values = readVariables(environment, problems)
  const production = environment.NODE_ENV === 'production'
  if (production) problems.push(...weakForProduction(values, environment))
  if (values.DATABASE_URL !== undefined && values.LATCHKEY_MASTER_KEY === undefined && !production) {
    problems.push(
      'LATCHKEY_MASTER_KEY is required with DATABASE_URL: set it to the output of "openssl rand -base64 32"',
    )
  }
  const embedded = values.DATABASE_URL === undefined
  if (values.LATCHKEY_TOUR === 'on' && !embedded) {
    problems.push('LATCHKEY_TOUR=on works in the embedded default only: remove it, or remove DATABASE_URL')
  }
  if (values.SMTP_URL !== undefined && !environment.LATCHKEY_MAIL_FROM?.trim()) {
    problems.push('LATCHKEY_MAIL_FROM is required with SMTP_URL: the address that mails are from')
  }
  if (problems.length > 0) throw new ConfigError(problems)

  const port = values.PORT ?? 3000
  const dataDirectory = resolve(values.LATCHKEY_DATA_DIR ?? '.latchkey')
  return Object.freeze({
    production,
    host: values.HOST ?? '127.0.0.1',
    port,
    issuer: (values.LATCHKEY_ISSUER ?? `http://localhost:${port}`).replace(/\/$/, ''),
    dataDirectory,
    database: databaseConfig(values, dataDirectory),
    redisUrl: values.REDIS_URL === undefined ? undefined : new Secret(values.REDIS_URL),
    sink: sinkConfig(values, dataDirectory),
    masterKeys: values.LATCHKEY_MASTER_KEY?.map((key) => new Secret(key)),
    trustedProxies: values.LATCHKEY_TRUSTED_PROXIES ?? [],
    outboundReach: REACH[values.LATCHKEY_OUTBOUND_PRIVATE ?? (embedded && !production ? 'loopback' : 'refuse')],
    mail:
      values.SMTP_URL === undefined
        ? undefined
        : { url: new Secret(values.SMTP_URL), from: values.LATCHKEY_MAIL_FROM ?? '' },
    reviewEvery: values.LATCHKEY_REVIEW_EVERY ?? 'quarterly',
    logLevel: values.LATCHKEY_LOG_LEVEL ?? 'info',
    tour: embedded && !production && values.LATCHKEY_TOUR !== 'off',
    lifetimes: {
      accessTokenSeconds: values.LATCHKEY_ACCESS_TOKEN_SECONDS ?? 600,
      authorizationCodeSeconds: 60,
      idTokenSeconds: HOUR,
      interactionSeconds: HOUR,
      refreshGraceSeconds: 60,
      refreshTokenIdleSeconds: (values.LATCHKEY_REFRESH_TOKEN_IDLE_DAYS ?? 30) * DAY,
      refreshTokenMaxSeconds: (values.LATCHKEY_REFRESH_TOKEN_MAX_DAYS ?? 365) * DAY,
      sessionIdleSeconds: (values.LATCHKEY_SESSION_IDLE_HOURS ?? 72) * HOUR,
      sessionMaxSeconds: (values.LATCHKEY_SESSION_MAX_HOURS ?? 336) * HOUR,
    },
  })
}

function readVariables(environment: Record<string, string | undefined>, problems: string[]): Values {
  const values: Record<string, unknown> = {}
  for (const [name, { form }] of Object.entries(VARIABLES)) {
    const text = environment[name]?.trim()
    if (text === undefined || text === '') continue
    const read = form.safeParse(text)
    if (read.success) values[name] = read.data
    else problems.push(`${name} ${read.error.issues[0]?.message ?? 'is not valid'}`)
  }
  for (const name of Object.keys(environment)) {
    if (name.startsWith('LATCHKEY_') && !(name in VARIABLES)) {
      problems.push(`${name} is not a variable of Latchkey: see "latchkey serve --help" for those it knows`)
    }
  }
  return values // each was read by its own form above
}

/** A variable that is there and wrong was reported already; it is not missing besides. */
function weakForProduction(values: Values, environment: Record<string, string | undefined>): string[] {
  const problems: string[] = []
  const isMissing = (name: VariableName) => !environment[name]?.trim()
  if (isMissing('LATCHKEY_ISSUER') || values.LATCHKEY_ISSUER?.startsWith('http:')) {
    problems.push('LATCHKEY_ISSUER must be set and begin with https:// in production')
  }
  if (isMissing('DATABASE_URL'))
    problems.push('DATABASE_URL is required in production: the embedded database is for trying out')
  if (isMissing('DATABASE_MIGRATION_URL')) {
    problems.push('DATABASE_MIGRATION_URL is required in production: the server must run as a role that owns nothing')
  }
  if (isMissing('LATCHKEY_MASTER_KEY')) {
    problems.push('LATCHKEY_MASTER_KEY is required in production: set it to the output of "openssl rand -base64 32"')
  }
  if (values.LATCHKEY_MASTER_KEY?.some(isWeakKey)) {
    problems.push('LATCHKEY_MASTER_KEY is not random: set it to the output of "openssl rand -base64 32"')
  }
  if (isMissing('LATCHKEY_SINK')) {
    problems.push(
      'LATCHKEY_SINK is required in production: a directory that all hosts share (ending in /), or an https webhook; see docs/operations.md',
    )
  }
  if (values.LATCHKEY_TOUR === 'on') problems.push('LATCHKEY_TOUR must not be on in production')
  return problems
}

/** Thirty-two random bytes hold thirty different ones on average; fewer than twenty-two come once in ten million times. */
function isWeakKey(key: string): boolean {
  return new Set(Buffer.from(key, 'base64')).size < 22
}

const REACH = { refuse: 'public', loopback: 'loopback', allow: 'private' } as const

function databaseConfig(values: Values, dataDirectory: string): DatabaseConfig {
  if (values.DATABASE_URL === undefined) return { kind: 'embedded', directory: join(dataDirectory, 'database') }
  return {
    kind: 'postgres',
    url: new Secret(values.DATABASE_URL),
    migrationUrl: new Secret(values.DATABASE_MIGRATION_URL ?? values.DATABASE_URL),
    poolSize: values.LATCHKEY_DATABASE_POOL ?? 10,
    hasOwnerRole: values.DATABASE_MIGRATION_URL !== undefined,
  }
}

function sinkConfig(values: Values, dataDirectory: string): SinkConfig {
  const { LATCHKEY_SINK: place, LATCHKEY_SINK_TOKEN: token } = values
  if (place === undefined) return { kind: 'files', path: join(dataDirectory, 'sink.ndjson') }
  if (isPath(place)) return { kind: 'files', path: place.endsWith('/') ? `${resolve(place)}/` : resolve(place) }
  return { kind: 'webhook', url: place, token: token === undefined ? undefined : new Secret(token) }
}

const isPath = (text: string) => !/^[a-z][a-z0-9+.-]*:\/\//i.test(text)

/** A path, or a webhook: over http only on this machine. */
function isSink(text: string): boolean {
  if (isPath(text)) return text.length > 0 && !text.includes('\0')
  const url = URL.parse(text)
  if (url === null || url.username !== '' || url.password !== '') return false
  return (
    url.protocol === 'https:' ||
    (url.protocol === 'http:' && ['127.0.0.1', '[::1]', 'localhost'].includes(url.hostname))
  )
}

function isAddressRange(text: string): boolean {
  if (!text.includes('/')) return ipaddr.isValid(text)
  return ipaddr.isValidCIDR(text) && ipaddr.parseCIDR(text)[1] > 0 // everyone is nobody to trust
}

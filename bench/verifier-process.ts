// The process that is measured (bench/verifier.ts): signs JWTs first, then verifies them, by jose alone and by our
// verifier, in short rounds that take turns.
import { randomBytes } from 'node:crypto'
import { importJWK, type JWK, jwtVerify, SignJWT } from 'jose'
import { createVerifier } from '../src/verifier/index.ts'

export interface Way {
  readonly name: string
  /** Where our verifier's feed is; jose alone without it. */
  readonly issuer?: string
}

export interface Settings {
  readonly jwk: JWK
  readonly ways: readonly Way[]
  readonly rounds: number
  readonly verifications: number
  readonly warmUp: number
}

export interface Taken {
  readonly way: string
  readonly round: number
  /** CPU of the process, all threads, a verification. */
  readonly micros: number
}

const AUDIENCE = 'https://api.example.com'
/** As the server's door has it: requests are under way side by side. */
const SIDE_BY_SIDE = 32
const CONNECTIONS = 1_000
const WORKSPACES = 100
const PEOPLE = 500
const CLIENTS = 20

type Verify = (token: string) => Promise<unknown>

const settings = JSON.parse(process.env.BENCH_VERIFIER ?? '') as Settings // bench/verifier.ts wrote it
const privateKey = await importJWK(settings.jwk, 'ES256')
const { d: _private, ...publicJwk } = settings.jwk
const publicKey = await importJWK(publicJwk, 'ES256')

/** As the server makes them: 1,000 connections, and no two JWTs alike. */
function sign(issuer: string, index: number): Promise<string> {
  const id = (prefix: string, number: number) => `${prefix}_01${String(number).padStart(24, '0')}`
  return new SignJWT({
    client_id: id('cl', index % CLIENTS),
    scope: 'read write',
    workspace_id: id('ws', index % WORKSPACES),
    organization_id: id('org', 1),
    environment: 'production',
    token_version: 'v3',
    credential_id: id('con', index % CONNECTIONS),
  })
    .setProtectedHeader({ alg: 'ES256', typ: 'at+jwt', kid: settings.jwk.kid ?? '' })
    .setIssuer(issuer)
    .setSubject(id('usr', index % PEOPLE))
    .setAudience(AUDIENCE)
    .setJti(randomBytes(16).toString('base64url'))
    .setIssuedAt()
    .setExpirationTime('50m')
    .sign(privateKey)
}

async function measureRound({ name, issuer }: Way, round: number): Promise<Taken> {
  const { warmUp, verifications } = settings
  const { verify, close, ahead } = await open(issuer)
  const tokens: string[] = []
  for (let index = 0; index < warmUp + verifications; index++)
    tokens.push(flat(ahead + (await sign(issuer ?? AUDIENCE, index))))
  await verifyAll(verify, tokens.slice(0, warmUp))
  globalThis.gc?.()
  const before = process.cpuUsage()
  await verifyAll(verify, tokens.slice(warmUp))
  const { user, system } = process.cpuUsage(before)
  await close()
  return { way: name, round, micros: (user + system) / verifications }
}

/** As it comes out of a request: not put together of parts that whoever reads it first has to join. */
const flat = (text: string) => Buffer.from(text, 'latin1').toString('latin1')

interface Opened {
  verify: Verify
  /** What stands before the token. */
  ahead: string
  close(): Promise<void>
}

async function open(issuer: string | undefined): Promise<Opened> {
  if (issuer === undefined) {
    const checks = { issuer: AUDIENCE, audience: AUDIENCE, typ: 'at+jwt' }
    return { verify: (token) => jwtVerify(token, publicKey, checks), ahead: '', close: async () => {} }
  }
  const credentials = { clientId: 'bench', clientSecret: 'bench' }
  const verifier = createVerifier({ issuer, audience: AUDIENCE, environment: 'production', ...credentials })
  await verifier.ready()
  return { verify: (header) => verifier(header), ahead: 'Bearer ', close: () => verifier.close() }
}

async function verifyAll(verify: Verify, tokens: readonly string[]): Promise<void> {
  let next = 0
  const lane = async () => {
    for (let token = tokens[next++]; token !== undefined; token = tokens[next++]) await verify(token)
  }
  await Promise.all(Array.from({ length: SIDE_BY_SIDE }, lane))
}

const taken: Taken[] = []
for (let round = 0; round < settings.rounds; round++) {
  const from = round % settings.ways.length
  const order = [...settings.ways.slice(from), ...settings.ways.slice(0, from)]
  for (const way of order) taken.push(await measureRound(way, round))
}
process.send?.({ kind: 'rounds', taken })

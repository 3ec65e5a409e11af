// Thousands of credentials of every kind, all of them ended by the services, and some beside them that were not: whatever
// becomes of Redis or of the processes, the first are accepted nowhere, and the second are.
import { randomBytes } from 'node:crypto'
import { expect } from 'vitest'
import { createUserIn, setSuspended } from '../../src/accounts/service.ts'
import { approve, disconnect } from '../../src/connections/service.ts'
import type { UserId } from '../../src/ids.ts'
import { type AccessTokens, createAccessTokens } from '../../src/oauth/access-tokens.ts'
import { addMember, archiveWorkspace, createWorkspace } from '../../src/organizations/service.ts'
import type { ResourceServer } from '../../src/resource-servers/rules.ts'
import { transact } from '../../src/store/database.ts'
import { createToken, revokeToken, revokeVersion, rotateToken } from '../../src/workspace-tokens/service.ts'
import { type Cluster, postTo, type Target } from './processes.ts'
import { at } from './races.ts'
import type { Verifiers } from './sample-apis.ts'
import {
  insistently,
  type Outcome,
  outcomeAtApi,
  outcomeAtIntrospection,
  PERMISSIONS,
  type TokenWorld,
  type Way,
} from './token-races.ts'
import { makeClient, type TestClient } from './world.ts'

export const KINDS = ['line', 'version', 'connection', 'person', 'workspace', 'client', 'jti'] as const
export type Kind = (typeof KINDS)[number]

/** What somebody may still present. */
export interface Credential {
  kind: Kind
  workspaceId: string
  /** A workspace token, good at both APIs; or JWTs, one for each. */
  presented: { value: string } | { own: string; api: string }
}

export interface Population {
  revoked: Credential[]
  /** Made in the same ways, and not ended. */
  control: Credential[]
}

interface Maker {
  cluster: Pick<Cluster, 'server' | 'processes'>
  world: TokenWorld
  accessTokens: AccessTokens
  servers: readonly ResourceServer[]
  client: TestClient
  /** Of the person who stands behind connections. */
  userId: UserId
}

/** Ready to be ended. */
interface Made {
  credential: Omit<Credential, 'kind'>
  end(): Promise<unknown>
}

const AT_ONCE = 12
const REQUEST = { traceId: 'test' }
const OPERATOR = { kind: 'operator' } as const
const BY = { actor: OPERATOR, request: REQUEST }
const ASKED = { authority: OPERATOR, request: REQUEST }
const LIFE_SECONDS = 3_600

export async function createMaker(cluster: Pick<Cluster, 'server' | 'processes'>, world: TokenWorld): Promise<Maker> {
  const { app, origin } = cluster.server
  return {
    cluster,
    world,
    accessTokens: createAccessTokens({ ...app, issuer: origin }),
    servers: await app.resourceServers.list(),
    client: world.world.client,
    userId: world.world.userId as UserId, // as the command told it
  }
}

/** @param ended how many of each kind, and `standing` how many that are not ended */
export async function makePopulation(
  maker: Maker,
  ended: Readonly<Record<Kind, number>>,
  standing: number,
): Promise<Population> {
  const population: Population = { revoked: [], control: [] }
  const wanted = KINDS.flatMap((kind) =>
    Array.from({ length: standing + ended[kind] }, (_, index) => ({ kind, index })),
  )
  await inTurn(wanted, async ({ kind, index }) => {
    const { credential, end } = await MAKE[kind](maker)
    if (index < standing) return void population.control.push({ kind, ...credential })
    await end()
    population.revoked.push({ kind, ...credential })
  })
  return population
}

/** All of them, some at a time. */
export async function inTurn<T>(
  items: readonly T[],
  work: (item: T, index: number) => Promise<unknown>,
): Promise<void> {
  const queue = items.entries()
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (const [index, item] of queue) await work(item, index)
    }),
  )
}

const MAKE: Record<Kind, (maker: Maker) => Promise<Made>> = {
  async line(maker) {
    const { id, value } = await newToken(maker)
    const { app } = maker.cluster.server
    const owner = { workspaceId: maker.world.world.workspaceId }
    return {
      credential: { workspaceId: owner.workspaceId, presented: { value } },
      end: () => revokeToken(app, { owner, id, ...ASKED }),
    }
  },

  /** The first version of a line that goes on; and a JWT of it. */
  async version(maker) {
    const { id, value } = await newToken(maker)
    const { app } = maker.cluster.server
    const owner = { workspaceId: maker.world.world.workspaceId }
    await rotateToken(app, { owner, id, cutover: { mode: 'manual' }, expiry: undefined, ...ASKED })
    const isJwt = id.charCodeAt(id.length - 1) % 2 === 0
    const presented = isJwt ? await jwtsOf(maker, { sub: id, client_id: id, credential_id: id }) : { value }
    return {
      credential: { workspaceId: owner.workspaceId, presented },
      end: () => revokeVersion(app, { owner, id, version: 1, ...ASKED }),
    }
  },

  async connection(maker) {
    const { app } = maker.cluster.server
    const { workspaceId } = await newWorkspace(maker)
    const connected = await newConnection(maker, { workspaceId })
    return {
      credential: { workspaceId, presented: connected.presented },
      end: () => disconnect(app.revocations, { workspaceId, id: connected.id, ...ASKED }),
    }
  },

  async person(maker) {
    const { app } = maker.cluster.server
    const { workspaceId } = maker.world.world
    const userId = await newPerson(maker)
    await addMember(app.db, { workspace: workspaceId, user: userId, role: 'member', ...BY })
    const { presented } = await newConnection(maker, { userId, workspaceId })
    return {
      credential: { workspaceId, presented },
      end: () => setSuspended(app, { user: userId, suspended: true, ...BY }),
    }
  },

  async workspace(maker) {
    const { app } = maker.cluster.server
    const { workspaceId, isEven } = await newWorkspace(maker)
    const presented = isEven
      ? { value: (await newToken(maker, workspaceId)).value }
      : (await newConnection(maker, { workspaceId })).presented
    return {
      credential: { workspaceId, presented },
      end: () => archiveWorkspace(app.revocations, { workspaceId, ...ASKED }),
    }
  },

  async client(maker) {
    const { server } = maker.cluster
    const { workspaceId } = maker.world.world
    const client = await makeClient(server)
    const { presented } = await newConnection(maker, { workspaceId, client })
    return {
      credential: { workspaceId, presented },
      end: () => server.run('client delete', { client: client.id }),
    }
  },

  /** Two JWTs, each revoked by itself; the connection behind them goes on. */
  async jti(maker) {
    const { processes, server } = maker.cluster
    const { client, userId, world } = maker
    const { workspaceId } = world.world
    const standing = await standingConnection(maker)
    const presented = await jwtsOf(maker, { sub: userId, client_id: client.id, credential_id: standing })
    return {
      credential: { workspaceId, presented },
      async end() {
        for (const token of Object.values(presented)) {
          const target = at(processes, token.charCodeAt(token.length - 1) % processes.length)
          expect((await postTo({ ...target, issuer: server.origin }, '/revoke', client, { token })).status).toBe(200)
        }
      },
    }
  },
}

let made = 0

async function newToken({ cluster, world }: Maker, workspaceId = world.world.workspaceId) {
  const { line, value } = await createToken(cluster.server.app, {
    owner: { workspaceId },
    label: `made ${++made}`,
    environment: 'production',
    permissions: PERMISSIONS,
    resources: null,
    ipAllowList: null,
    expiry: null,
    ...ASKED,
  })
  if (value === undefined) throw new Error('a token without a value')
  return { id: line.id, value: value.reveal() }
}

async function newWorkspace({ cluster, world }: Maker) {
  const isEven = ++made % 2 === 0
  const { id } = await createWorkspace(cluster.server.app.db, {
    organization: world.world.organizationId,
    name: `place ${made}`,
    owner: world.world.email,
    ...BY,
  })
  return { workspaceId: id, isEven }
}

/** Nobody signs in as them. */
async function newPerson({ cluster }: Maker): Promise<UserId> {
  const email = `somebody-${randomBytes(8).toString('hex')}@example.com`
  const user = { email, name: 'Somebody', passwordDigest: 'none', ...BY }
  return (await transact(cluster.server.app.db, (trx) => createUserIn(trx, user))).id
}

async function newConnection(
  maker: Maker,
  {
    userId = maker.userId,
    workspaceId,
    client = maker.client,
  }: { userId?: UserId; workspaceId: string; client?: TestClient },
) {
  const { cluster, servers, world } = maker
  const outcome = await approve(cluster.server.app.db, {
    userId,
    signedInAt: Math.floor(Date.now() / 1000) + LIFE_SECONDS, // a session that nothing has ended
    clientId: client.id,
    workspaceId,
    requested: {
      openidScopes: ['openid'],
      claims: [],
      resources: { [`${cluster.server.origin}/api`]: ['read'], [world.apiIdentifier]: ['traces:write'] },
    },
    servers,
    request: REQUEST,
  })
  if (!outcome.ok) throw new Error(`not connected: ${outcome.reason}`)
  const about = { sub: userId, client_id: client.id, credential_id: outcome.connectionId }
  return { id: outcome.connectionId, presented: await jwtsOf(maker, about, workspaceId) }
}

const standing = new WeakMap<Maker, Promise<string>>()

function standingConnection(maker: Maker): Promise<string> {
  const { workspaceId } = maker.world.world
  const known = standing.get(maker) ?? newConnection(maker, { workspaceId }).then(({ id }) => id)
  standing.set(maker, known)
  return known
}

/** As the token endpoint signs them. */
async function jwtsOf(
  { accessTokens, cluster, world }: Maker,
  about: { sub: string; client_id: string; credential_id: string },
  workspaceId = world.world.workspaceId,
): Promise<{ own: string; api: string }> {
  const iat = Math.floor(Date.now() / 1000)
  const claims = {
    ...about,
    iat,
    exp: iat + LIFE_SECONDS,
    workspace_id: workspaceId,
    organization_id: world.world.organizationId,
    environment: 'production',
    token_version: 'v1',
  }
  const sign = (aud: string, scope: string) =>
    accessTokens.sign({ ...claims, aud, scope, jti: randomBytes(12).toString('base64url') })
  const [own, api] = await Promise.all([
    sign(`${cluster.server.origin}/api`, 'read'),
    sign(world.apiIdentifier, 'traces:write'),
  ])
  return { own, api }
}

// --- Presenting them ------------------------------------------------------------------------------------------------------

export interface Judges {
  world: TokenWorld
  processes: readonly Target[]
  verifiers: Verifiers
}

/** What each of these is told, by kind of credential and by who decides; each at one of the processes, another the next time. */
export async function judge(judges: Judges, credentials: readonly Credential[]): Promise<Record<Outcome, string[]>> {
  const told: Record<Outcome, string[]> = { accepted: [], refused: [], unavailable: [] }
  const turn = ++made
  await inTurn(credentials, async (credential, index) => {
    for (const [place, [who, way]] of Object.entries(waysOfCredential(judges, credential)).entries()) {
      const outcome = await insistently(way)(at(judges.processes, (turn + index + place) % judges.processes.length))
      told[outcome].push(`${credential.kind}, ${who}`)
    }
  })
  return told
}

function waysOfCredential({ world, verifiers }: Judges, { presented, workspaceId }: Credential): Record<string, Way> {
  const [own, api] = 'value' in presented ? [presented.value, presented.value] : [presented.own, presented.api]
  return {
    API: (target) => outcomeAtApi(target, workspaceId, own),
    introspection: (target) => outcomeAtIntrospection(target, world.api, api),
    verifier: verifiers.way(api),
  }
}

/** None of the revoked is accepted, each of the others is; nothing is left open. */
export async function expectJudged(judges: Judges, { revoked, control }: Population): Promise<void> {
  const ways = 3
  const ended = await judge(judges, revoked)
  expect([...new Set(ended.accepted)]).toEqual([])
  expect([...new Set(ended.unavailable)]).toEqual([])
  expect(ended.refused).toHaveLength(ways * revoked.length)
  const others = await judge(judges, control)
  expect([...new Set([...others.refused, ...others.unavailable])]).toEqual([])
  expect(others.accepted).toHaveLength(ways * control.length)
}

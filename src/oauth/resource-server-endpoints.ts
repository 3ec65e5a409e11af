// What only registered APIs may call: the revocation feed, and the report of uses that a verifier decided by itself.
import type { Context } from 'koa'
import { z } from 'zod'
import type { ClientRow } from '../clients/service.ts'
import { countsAt } from '../connections/rules.ts'
import type { ConnectionReads } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { readBody } from '../http/body.ts'
import { type ConnectionId, isConnectionId, isKeyId, type KeyId } from '../ids.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { type Db, reading } from '../store/database.ts'
import type { Uses } from '../uses/service.ts'
import { scopesAt } from '../workspace-tokens/rules.ts'
import { listLinesById } from '../workspace-tokens/store.ts'
import { parseVersion } from './access-tokens.ts'
import { type AuthenticationDeps, authenticateClient } from './client-authentication.ts'
import type { Feed } from './feed.ts'
import { OWN_PATHS } from './provider.ts'

export interface ResourceServerEndpointsDeps extends AuthenticationDeps {
  db: Db
  reads: ConnectionReads
  feed: Feed
  uses: Uses
  resourceServers: ResourceServers
}

const MOST_USES = 100
const MOST_BODY_BYTES = 56 * 1024

const reportShape = z.object({
  uses: z
    .array(
      z.object({
        credential_id: z.string().max(64),
        token_version: z.string().max(16),
        uses: z.int().min(1).max(1_000_000),
        address: z.string().max(64).optional(),
        agent: z.string().max(400).optional(),
        age_ms: z.number().min(0).max(60_000).default(0),
      }),
    )
    .max(MOST_USES),
})

export function createResourceServerEndpoints(deps: ResourceServerEndpointsDeps): (ctx: Context) => Promise<void> {
  return async (ctx) => {
    const caller = await authenticateApi(deps, ctx)
    if (caller === undefined) return refuse(ctx, deps.issuer)
    if (ctx.path === OWN_PATHS.feed) return deps.feed.answer(ctx, caller.client.id)
    await takeReport(deps, ctx, caller)
    ctx.status = 204
  }
}

/** An API by its own id and secret (RFC 6749 §2.3.1); undefined for anyone else. */
async function authenticateApi(
  deps: ResourceServerEndpointsDeps,
  ctx: Context,
): Promise<{ client: ClientRow; server: ResourceServer } | undefined> {
  const authorization = ctx.get('authorization')
  if (authorization === '') return undefined
  const endpoint = `${deps.issuer}${ctx.path}`
  const authentication = await authenticateClient(deps, { authorization, form: new Map(), endpoint })
  if (!authentication.ok) return undefined
  const server = await deps.resourceServers.findByClient(authentication.client.id)
  return server && { client: authentication.client, server }
}

function refuse(ctx: Context, issuer: string): void {
  ctx.status = 401
  ctx.set({ 'WWW-Authenticate': `Basic realm="${issuer}"`, 'Cache-Control': 'no-store' })
  ctx.body = { error: 'invalid_client', error_description: 'this takes the id and secret of a registered API' }
}

/** Only of tokens and connections that count at this API: it says nothing about others. */
async function takeReport(
  deps: ResourceServerEndpointsDeps,
  ctx: Context,
  { client, server }: { client: ClientRow; server: ResourceServer },
): Promise<void> {
  const report = reportShape.safeParse(parseJson((await readBody(ctx, MOST_BODY_BYTES)).toString('utf8')))
  if (!report.success) throw new AppError('invalid_request', { detail: 'The report is malformed.' })
  const ids = [...new Set(report.data.uses.map((use) => use.credential_id))]
  const counting = new Map((await listCounting(deps, server, ids)).map((one) => [one.id as string, one]))
  for (const use of report.data.uses) {
    const credential = counting.get(use.credential_id)
    const version = parseVersion(use.token_version)
    if (credential === undefined || version === undefined || version > credential.version) continue
    const seen = { credentialId: credential.id, version, address: use.address, agent: use.agent ?? client.name }
    deps.uses.seen(seen, { count: use.uses, ageMs: use.age_ms })
  }
}

interface Counting {
  id: KeyId | ConnectionId
  /** The newest. */
  version: number
}

/** Tokens and connections that are good at this API, or were: what was used before its end may be told after it. */
async function listCounting(
  { db, reads }: ResourceServerEndpointsDeps,
  server: ResourceServer,
  ids: readonly string[],
): Promise<Counting[]> {
  const [lines, connections] = await Promise.all([
    reading(listLinesById(db, ids.filter(isKeyId))),
    Promise.all(ids.filter(isConnectionId).map((id) => reads.connection(id))),
  ])
  return [
    ...lines.filter((line) => scopesAt(server, line).length > 0),
    ...connections.filter((connection) => connection !== undefined).filter((one) => countsAt(server, one)),
  ]
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

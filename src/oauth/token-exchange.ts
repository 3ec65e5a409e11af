// Token exchange (RFC 8693): a pasted token becomes a short-lived JWT that says no more and lives no longer than it, and
// dies with it. The token itself proves who asks; a client may authenticate besides.
import { randomBytes } from 'node:crypto'
import type { ClientRow } from '../clients/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { UsedFrom, Verification } from '../verification/service.ts'
import type { TokenRecord } from '../verification/store.ts'
import { scopesAt } from '../workspace-tokens/rules.ts'
import type { AccessTokens } from './access-tokens.ts'
import type { Form } from './client-authentication.ts'

export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange'
const ACCESS_TOKEN_TYPE = 'urn:ietf:params:oauth:token-type:access_token'
const JWT_TYPE = 'urn:ietf:params:oauth:token-type:jwt'

export interface ExchangeDeps {
  issuer: string
  resourceServers: ResourceServers
  verification: Verification
  accessTokens: AccessTokens
  accessTokenSeconds: number
}

export type Exchanged =
  | { ok: true; body: Record<string, unknown>; workspaceId: string }
  | { ok: false; error: 'invalid_request' | 'invalid_scope' | 'invalid_target'; description: string }

const refused = (error: 'invalid_request' | 'invalid_scope' | 'invalid_target', description: string): Exchanged => ({
  ok: false,
  error,
  description,
})

/** @param client who authenticated, if anyone did */
export async function exchangeToken(
  deps: ExchangeDeps,
  form: Form,
  client: ClientRow | undefined,
  from: UsedFrom,
): Promise<Exchanged> {
  const problem = formProblem(form)
  if (problem !== undefined) return refused('invalid_request', problem)
  const server = await deps.resourceServers.find(form.get('resource') ?? form.get('audience') ?? `${deps.issuer}/api`)
  let why: Exchanged | undefined
  const decision = await deps.verification.use(form.get('subject_token') ?? '', from, (token) => {
    why = targetProblem(token, server, client) ?? scopeProblem(form, server && scopesAt(server, token))
    return why === undefined
  })
  if (why !== undefined) return why
  // One answer for all of them: which it was is for the token's owners (RFC 8693 §2.2.2 names the error).
  if (!decision.ok || server === undefined) return refused('invalid_request', 'the subject token is not valid')
  return issue(deps, decision, { server, client, scopes: asked(form) ?? scopesAt(server, decision.token) })
}

function formProblem(form: Form): string | undefined {
  if (form.get('subject_token') === undefined) return "missing required parameter 'subject_token'"
  if (form.get('subject_token_type') !== ACCESS_TOKEN_TYPE) return `subject_token_type must be ${ACCESS_TOKEN_TYPE}`
  if (form.has('actor_token') || form.has('actor_token_type')) return 'actor tokens are not supported'
  const wanted = form.get('requested_token_type') ?? ACCESS_TOKEN_TYPE
  if (![ACCESS_TOKEN_TYPE, JWT_TYPE].includes(wanted)) return `requested_token_type must be ${ACCESS_TOKEN_TYPE}`
  const named = [form.get('resource'), form.get('audience')].filter((text) => text !== undefined)
  return new Set(named).size > 1 ? 'name one API, as resource or as audience' : undefined
}

function targetProblem(
  token: TokenRecord,
  server: ResourceServer | undefined,
  client: ClientRow | undefined,
): Exchanged | undefined {
  if (token.workspaceId === null) return refused('invalid_request', 'the subject token is not valid')
  if (token.ipAllowList !== null) {
    // A JWT would be good from anywhere: that is more than the token says.
    return refused('invalid_request', 'this token is limited to addresses and cannot be exchanged: present it itself')
  }
  if (server === undefined || scopesAt(server, token).length === 0)
    return refused('invalid_target', 'the token is not good for this API')
  if (client !== undefined && client.environment !== token.environment)
    return refused('invalid_target', `this client works in ${client.environment}, the token in another environment`)
  return undefined
}

function scopeProblem(form: Form, available: readonly string[] | undefined): Exchanged | undefined {
  const isBeyond = asked(form)?.some((scope) => available?.includes(scope) !== true)
  return isBeyond === true ? refused('invalid_scope', 'the token does not have all of these scopes') : undefined
}

function asked(form: Form): string[] | undefined {
  const scopes = form.get('scope')?.split(' ').filter(Boolean)
  return scopes === undefined || scopes.length === 0 ? undefined : [...new Set(scopes)]
}

async function issue(
  deps: ExchangeDeps,
  decision: { token: TokenRecord; now: Date },
  granted: { server: ResourceServer; client: ClientRow | undefined; scopes: readonly string[] },
): Promise<Exchanged> {
  const { token, now } = decision
  const iat = Math.floor(now.getTime() / 1000)
  const exp = Math.min(iat + deps.accessTokenSeconds, endOf(token))
  if (exp <= iat) return refused('invalid_request', 'the subject token is not valid')
  const scope = granted.scopes.join(' ')
  const accessToken = await deps.accessTokens.sign({
    sub: token.id,
    aud: granted.server.identifier,
    client_id: granted.client?.id ?? token.id,
    jti: randomBytes(16).toString('base64url'),
    iat,
    exp,
    scope,
    workspace_id: token.workspaceId ?? '',
    organization_id: token.organizationId,
    environment: token.environment,
    token_version: `v${token.version}`,
    credential_id: token.id,
  })
  return {
    ok: true,
    workspaceId: token.workspaceId ?? '',
    body: {
      access_token: accessToken,
      issued_token_type: ACCESS_TOKEN_TYPE,
      token_type: 'Bearer',
      expires_in: exp - iat,
      scope,
    },
  }
}

/** Seconds since the epoch: its expiry, or the cutover that is to retire its version. */
function endOf(token: TokenRecord): number {
  const cutover = token.version < token.newest ? token.cutoverAt : null
  const ends = [token.expiresAt, cutover].flatMap((end) => (end === null ? [] : [Math.floor(end.getTime() / 1000)]))
  return Math.min(Number.POSITIVE_INFINITY, ...ends)
}

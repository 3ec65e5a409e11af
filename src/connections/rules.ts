// When a connection may still be used, what a presented refresh token means, and what an approval adds. Pure.
import { mayConnect } from '../organizations/rules.ts'
import { grantableScopes, type ResourceServer } from '../resource-servers/rules.ts'
import type { Approved, Environment, WorkspaceRole } from '../store/tables.ts'
import type { ConnectionFacts } from './store.ts'

export type Unusable =
  | 'closed'
  | 'suspended'
  | 'workspace_archived'
  | 'client_deleted'
  | 'user_gone'
  | 'user_suspended'
  | 'role_too_low'

/** Why nothing may be issued for a connection; undefined when something may. */
export function whyUnusable(facts: ConnectionFacts): Unusable | undefined {
  if (facts.closedAt !== null) return 'closed'
  if (facts.suspendedAt !== null) return 'suspended'
  if (facts.workspaceArchived) return 'workspace_archived'
  if (facts.clientDeleted) return 'client_deleted'
  if (facts.userId === null) return undefined // granted by an admin to the client itself
  if (facts.user === undefined) return 'user_gone'
  if (facts.user.suspendedAt !== null) return 'user_suspended'
  return mayConnect(facts.role) ? undefined : 'role_too_low'
}

/** Good means: not closed, not suspended, and the version at or above the floor and not above the newest (consistency §4). */
export function isVersionGood(
  facts: { closedAt: Date | null; suspendedAt: Date | null; floor: number; version: number },
  version: number,
): boolean {
  return facts.closedAt === null && facts.suspendedAt === null && version >= facts.floor && version <= facts.version
}

/** Whether tokens of a connection are good at an API: its environment is served, and a scope of it was approved. */
export function countsAt(
  server: Pick<ResourceServer, 'identifier' | 'environments'>,
  connection: { environment: Environment; approved: Approved },
): boolean {
  return (
    server.environments.includes(connection.environment) &&
    words(connection.approved.resources?.[server.identifier]).size > 0
  )
}

export interface PresentedRefreshToken {
  consumedAt: Date | null
  expiresAt: Date
  familyEnded: boolean
  /** Undefined when it was never used. */
  successor: { consumed: boolean } | undefined
}

/**
 * - `fresh`: not used yet.
 * - `retry`: used within the grace window, its successor not: the same successor is answered again.
 * - `superseded`: used within the window, and so is its successor: refused, and nothing ends.
 * - `reused`: used, and presented after the window: its family ends.
 * - `dead`: expired before it was used, or its family has ended.
 */
export type RefreshJudgement = 'fresh' | 'retry' | 'superseded' | 'reused' | 'dead'

/** @param now the database's time */
export function judgeRefresh(token: PresentedRefreshToken, now: Date, graceSeconds: number): RefreshJudgement {
  if (token.familyEnded) return 'dead'
  if (token.consumedAt === null) return token.expiresAt <= now ? 'dead' : 'fresh'
  if (now.getTime() - token.consumedAt.getTime() >= graceSeconds * 1000) return 'reused'
  return token.successor !== undefined && !token.successor.consumed ? 'retry' : 'superseded'
}

/** What a client asks for: OpenID scopes and claims, and for each resource server its scopes. */
export interface Requested {
  openidScopes: readonly string[]
  claims: readonly string[]
  resources: Readonly<Record<string, readonly string[]>>
}

/** The request cut to what a person with this role may grant. */
export function cutToRole(requested: Requested, servers: readonly ResourceServer[], role: WorkspaceRole): Requested {
  const resources = servers.map((server): [string, string[]] => {
    const grantable = new Set(grantableScopes(server, role))
    return [server.identifier, (requested.resources[server.identifier] ?? []).filter((scope) => grantable.has(scope))]
  })
  return { ...requested, resources: Object.fromEntries(resources.filter(([, scopes]) => scopes.length > 0)) }
}

/** What was approved before, without what a person with this role may not grant. What no API knows any more stays as it is. */
export function narrowToRole(approved: Approved, servers: readonly ResourceServer[], role: WorkspaceRole): Approved {
  const refused = new Map(
    servers.map((server) => {
      const grantable = new Set(grantableScopes(server, role))
      return [server.identifier, new Set(server.scopes.map(({ name }) => name).filter((name) => !grantable.has(name)))]
    }),
  )
  const resources = Object.entries(approved.resources ?? {}).map(([identifier, scopes]): [string, string] => {
    const kept = [...words(scopes)].filter((scope) => refused.get(identifier)?.has(scope) !== true)
    return [identifier, kept.join(' ')]
  })
  return { ...approved, resources: Object.fromEntries(resources.filter(([, scopes]) => scopes !== '')) }
}

/**
 * What becomes of a connection when its person's role changes: it ends where the new role holds none of it, else it signs
 * new tokens from now on, with what the new role allows.
 */
export type WithRole = { kind: 'ends' } | { kind: 'narrows'; approved: Approved } | { kind: 'renews' }

export function withRole(
  approved: Approved,
  servers: readonly ResourceServer[],
  role: WorkspaceRole | undefined,
): WithRole {
  if (!mayConnect(role)) return { kind: 'ends' }
  const narrowed = narrowToRole(approved, servers, role)
  const before = countScopes(approved)
  const after = countScopes(narrowed)
  if (before === after) return { kind: 'renews' }
  const isNothingLeft = after === 0 && words(narrowed.openid?.scope).size === 0
  return isNothingLeft ? { kind: 'ends' } : { kind: 'narrows', approved: narrowed }
}

const countScopes = ({ resources = {} }: Approved): number =>
  Object.values(resources).reduce((count, scopes) => count + words(scopes).size, 0)

/** True when nothing that was asked for remains: there is no sense in connecting. */
export function isNothing(requested: Requested): boolean {
  return requested.openidScopes.length === 0 && Object.keys(requested.resources).length === 0
}

/** What is asked for and not approved yet. */
export function beyond(requested: Requested, approved: Approved): Requested {
  const openid = words(approved.openid?.scope)
  const claims = new Set(approved.openid?.claims)
  const resources = Object.entries(requested.resources).map(([identifier, scopes]): [string, string[]] => {
    const granted = words(approved.resources?.[identifier])
    return [identifier, scopes.filter((scope) => !granted.has(scope))]
  })
  return {
    openidScopes: requested.openidScopes.filter((scope) => !openid.has(scope)),
    claims: requested.claims.filter((claim) => !claims.has(claim)),
    resources: Object.fromEntries(resources.filter(([, scopes]) => scopes.length > 0)),
  }
}

/** The union of what was approved before and what is approved now. */
export function widen(approved: Approved, granted: Requested): Approved {
  const openidScopes = new Set([...words(approved.openid?.scope), ...granted.openidScopes])
  const claims = new Set([...(approved.openid?.claims ?? []), ...granted.claims])
  const resources = { ...approved.resources }
  for (const [identifier, scopes] of Object.entries(granted.resources)) {
    resources[identifier] = [...new Set([...words(resources[identifier]), ...scopes])].join(' ')
  }
  return {
    ...(openidScopes.size > 0 || claims.size > 0
      ? { openid: { scope: [...openidScopes].join(' '), ...(claims.size > 0 ? { claims: [...claims] } : {}) } }
      : {}),
    resources,
  }
}

function words(text: string | undefined): Set<string> {
  return new Set(text?.split(' ').filter(Boolean))
}

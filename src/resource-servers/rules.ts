// What a resource server grants to whom: the environments it serves and the least role for each scope. Pure.
import { isAtLeast } from '../organizations/rules.ts'
import type { Environment, OrganizationRole, WorkspaceRole } from '../store/tables.ts'

export interface Scope {
  name: string
  /** What it lets a client do, in words for people. */
  sentence: string
  leastRole: OrganizationRole
}

export interface ResourceServer {
  /** Its URI: the audience of its tokens (RFC 8707). */
  identifier: string
  /** The client as which it introspects. Undefined for Latchkey's own API. */
  clientId: string | undefined
  environments: readonly Environment[]
  scopes: readonly Scope[]
}

/** The scopes that a person with this role may grant; without a role (a client's own connection) all of them. */
export function grantableScopes(server: ResourceServer, role: WorkspaceRole | undefined): string[] {
  return server.scopes
    .filter((scope) => role === undefined || isAtLeast(role, scope.leastRole))
    .map((scope) => scope.name)
}

/** Latchkey's own API, an API like any other to its clients. */
export function ownResourceServer(issuer: string): ResourceServer {
  return {
    identifier: `${issuer}/api`,
    clientId: undefined,
    environments: ['production', 'staging', 'development'],
    scopes: [
      { name: 'read', sentence: 'See the workspace, its members and who has access', leastRole: 'member' },
      { name: 'ingest', sentence: 'Send usage events and job records', leastRole: 'member' },
      { name: 'manage', sentence: 'Manage the workspace, its tokens and its members', leastRole: 'admin' },
    ],
  }
}

/** RFC 6749 §3.3: printable, no space, quote or backslash. */
export function isScopeName(name: string): boolean {
  return /^[\x21\x23-\x5b\x5d-\x7e]{1,64}$/.test(name) && !RESERVED.has(name)
}

/** Scopes with a meaning of their own in OpenID Connect. */
const RESERVED = new Set(['openid', 'profile', 'email', 'address', 'phone', 'offline_access'])

/** An absolute URI without fragment (RFC 8707 §2), as a scheme and host that no other spelling shares. */
export function isResourceIdentifier(text: string): boolean {
  const url = URL.parse(text)
  return (
    url !== null &&
    ['https:', 'http:', 'urn:'].includes(url.protocol) &&
    !text.includes('#') &&
    !/[\s\p{C}]/u.test(text) &&
    text.length <= 500
  )
}

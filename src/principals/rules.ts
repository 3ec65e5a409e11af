// Who is calling, whatever they came with: one shape for keys, tokens, JWTs and browser sessions. Pure.
import type { ClientId, ConnectionId, KeyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Environment, WorkspaceRole } from '../store/tables.ts'

export type CredentialKind = 'organization_key' | 'workspace_token' | 'access_token' | 'session'

/** What a transaction locks and looks at again before it makes something on a caller's word. */
export type Authority =
  | { kind: 'operator' }
  /** `signedInAt`: seconds since the epoch. */
  | { kind: 'person'; userId: UserId; signedInAt: number }
  | { kind: 'key'; id: KeyId; version: number }
  | { kind: 'connection'; id: ConnectionId; version: number; userId: UserId | null }

export interface Principal {
  kind: CredentialKind
  authority: Authority
  /** Undefined for a session: a person may belong to several. */
  organizationId: OrganizationId | undefined
  /** The one workspace of a token or a connection. */
  workspaceId: WorkspaceId | undefined
  /** Undefined for a session: what a person may do is their role's. */
  permissions: readonly string[] | undefined
  /** Undefined for a session. */
  environment: Environment | undefined
  /** The person behind it: for a token or key, who made it. */
  userId: UserId | null
  /** Of a JWT: which client it was issued to. */
  clientId: ClientId | null
  credentialId: KeyId | ConnectionId | undefined
  tokenVersion: number | undefined
}

/** Everything in our own API asks for one of these. */
export type Permission = 'read' | 'ingest' | 'manage'

export function hasPermission(principal: Pick<Principal, 'permissions'>, permission: Permission): boolean {
  return principal.permissions === undefined || principal.permissions.includes(permission)
}

/** A key or token acts for an admin of the place where it was made. */
export const KEY_ROLE: WorkspaceRole = 'admin'

// What a route of the JSON API is: its address, who may call it, the shapes of what goes in and comes out, and what it
// does. The router, the authorization and the OpenAPI document are all made from these.
import type { z } from 'zod'
import type { RequestInfo } from '../audit/service.ts'
import { AppError } from '../errors.ts'
import type { Repeatable } from '../idempotency/service.ts'
import type { OrganizationId } from '../ids.ts'
import type { WorkspaceRow } from '../organizations/service.ts'
import type { Authority, CredentialKind, Permission, Principal } from '../principals/rules.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import type { Standing } from '../validation/service.ts'

/**
 * Who may call a route. Whoever is let in by a rule has the permission (a key, token or JWT) and the role (a person);
 * changes look at both again under a lock.
 *
 * - `anyone`: no credential at all.
 * - `caller`: the route names no object; it answers with what the caller reaches.
 * - `workspace`, `organization`: the object of the path, which the caller reaches with that role.
 * - `itself`: the workspace token that is presented.
 * - `presented`: any credential but a session; it is judged, and not used.
 */
export type Rule =
  | { who: 'anyone' }
  | { who: 'caller'; permission: Permission; credentials: readonly CredentialKind[] }
  | { who: 'workspace'; permission: Permission; role: WorkspaceRole; credentials: readonly CredentialKind[] }
  | { who: 'organization'; permission: Permission; role: OrganizationRole; credentials: readonly CredentialKind[] }
  | { who: 'itself' }
  | { who: 'presented' }

export const ANY_CREDENTIAL: readonly CredentialKind[] = [
  'organization_key',
  'workspace_token',
  'access_token',
  'session',
]
/** What is above a single workspace: a credential of one workspace has no say. */
export const ABOVE_WORKSPACES: readonly CredentialKind[] = ['organization_key', 'session']

/** What a tool tells of its work, or has done for it. */
export const INGEST: Rule = { who: 'caller', permission: 'ingest', credentials: ['workspace_token', 'access_token'] }

/** The object of the path, as the caller reaches it. */
export interface Reach {
  organizationId: OrganizationId
  /** Of a workspace route. */
  workspace: WorkspaceRow | undefined
  role: WorkspaceRole | OrganizationRole
}

/** A rule for a workspace has let the caller into one. */
export function workspaceOf({ workspace }: { workspace: WorkspaceRow | undefined }): WorkspaceRow {
  if (workspace === undefined) throw new AppError('not_found')
  return workspace
}

export interface Call<P, Q, B> {
  params: P
  query: Q
  body: B
  /** @throws {AppError} `unauthorized` where the rule lets anyone in */
  principal: Principal
  reach: Reach
  by: { authority: Authority; request: RequestInfo }
  /** The credential that stands, where the rule is `presented`. @throws {AppError} `unauthorized` elsewhere */
  standing: Standing
  request: RequestInfo
  /** Set when the caller sent an Idempotency-Key. */
  repeatable: Repeatable | undefined
  /** The body as it came, where the route keeps it. */
  raw: Buffer | undefined
  /** A header of the request; '' where there is none. */
  header(name: string): string
  /** Aborted when the caller hangs up before the answer has ended. */
  signal: AbortSignal
  /** For lists: where the next page begins, and what to send for it. */
  pages: Pages
}

/** A list in pages. What a cursor says cannot be forged, and is good for the same list and caller only. */
export interface Pages {
  /** The position that the caller's cursor names. @throws {AppError} `invalid_request` */
  after(cursor: string | undefined): string | undefined
  /** Cuts a list that was read with one item more than asked for, and announces the next page (RFC 8288). */
  cut<T>(items: readonly T[], limit: number | undefined, positionOf: (item: T) => string): T[]
}

export interface Answer {
  status: number
  /** What becomes JSON; or a stream, a file's. */
  body?: unknown
  /** Of a file: its type and name. */
  headers?: Readonly<Record<string, string>>
}

type Shape = z.ZodType

export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Below /api/v1, with `:names` for what `params` describes. */
  path: string
  operationId: string
  summary: string
  description?: string | undefined
  tag: string
  rule: Rule
  params?: z.ZodObject | undefined
  query?: z.ZodObject | undefined
  body?: Shape | undefined
  /** Of the body; 56 KiB unless it is said. */
  mostBodyBytes?: number | undefined
  /** The call works with the very bytes of its body. */
  keepsRaw?: boolean | undefined
  /** A header in which a token may stand where there is no Authorization: client libraries of others put theirs there. */
  keyHeader?: string | undefined
  /** The call makes something: an Idempotency-Key is honoured. */
  repeatable?: boolean | undefined
  /** What it records is found by the caller's trace id: one must have been sent. */
  traced?: boolean | undefined
  /** By status: what it means, and the shape of the body; of a file, its types. */
  answers: Record<number, { description: string; schema?: Shape; types?: readonly string[] }>
  handle(call: Call<never, never, never>): Promise<Answer>
}

type Output<S> = S extends z.ZodType ? z.output<S> : Record<string, never>

/** Ties the handler's types to the shapes beside it. */
export function route<
  P extends z.ZodObject | undefined = undefined,
  Q extends z.ZodObject | undefined = undefined,
  B extends Shape | undefined = undefined,
>(
  definition: Omit<Route, 'params' | 'query' | 'body' | 'handle'> & {
    params?: P
    query?: Q
    body?: B
    handle(call: Call<Output<P>, Output<Q>, Output<B>>): Promise<Answer>
  },
): Route {
  return definition as Route // the router parses by these very shapes before it calls
}

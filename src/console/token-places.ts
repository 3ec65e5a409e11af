// Where tokens live, for their pages: a workspace, or an organization with keys of its own. The pages are the same.
import type { Context } from 'koa'
import type { BrowserSession } from '../oauth/browser-sessions.ts'
import { isAtLeast } from '../organizations/rules.ts'
import type { Owner } from '../principals/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { Db } from '../store/database.ts'
import type { Environment, WorkspaceRole } from '../store/tables.ts'
import { NO_POLICY, type TokenPolicy } from '../workspace-tokens/rules.ts'
import { getPolicy, getToken, type TokenView } from '../workspace-tokens/service.ts'
import type { Place } from '../workspace-tokens/store.ts'
import { type Frame, type PlacedPage, placeOfOrganization, placeOfWorkspace } from './frame.ts'
import { done } from './people.ts'

/** A workspace or an organization, as a signed-in person looks at its tokens. */
export interface TokenPlace {
  session: BrowserSession
  owner: Owner
  place: Place
  framed: PlacedPage
  role: WorkspaceRole
  /** Whether they may make and end tokens here. */
  mayChange: boolean
  isWorkspace: boolean
  /** `token`, `key`: what one is called on buttons. */
  noun: string
  /** `a workspace token`. */
  article: string
  listHref: string
  /** The address below which each token has its pages. */
  base: string
  /** Names the place in `.env` lines. */
  environmentLine: { name: string; value: string }
}

/** What pages of a kind of place have in common. */
export interface PlaceKind {
  /** Routes. */
  list: string
  base: string
  /** @throws {AppError} `not_found`, `role_too_low` */
  open(ctx: Context, session: BrowserSession, purpose: 'see' | 'change'): Promise<TokenPlace>
}

export function placeKinds(frame: Frame): readonly PlaceKind[] {
  return [workspaceKind(frame), organizationKind(frame)]
}

function workspaceKind(frame: Frame): PlaceKind {
  return {
    list: '/workspaces/:workspace_id/access',
    base: '/workspaces/:workspace_id/tokens',
    async open(ctx, session, purpose) {
      const visit = await frame.workspace(ctx, session, purpose === 'see' ? 'member' : 'admin')
      const { workspace } = visit
      return {
        session,
        owner: { workspaceId: workspace.id },
        place: { organizationId: workspace.organization_id, workspaceId: workspace.id },
        framed: placeOfWorkspace(visit, 'access'),
        role: visit.role,
        mayChange: isAtLeast(visit.role, 'admin'),
        isWorkspace: true,
        noun: 'token',
        article: 'a workspace token',
        listHref: `/workspaces/${workspace.id}/access`,
        base: `/workspaces/${workspace.id}/tokens`,
        environmentLine: { name: 'WORKSPACE_ID', value: workspace.id },
      }
    },
  }
}

function organizationKind(frame: Frame): PlaceKind {
  return {
    list: '/organizations/:organization_id/keys',
    base: '/organizations/:organization_id/keys',
    async open(ctx, session) {
      const visit = await frame.organization(ctx, session, 'admin')
      const { organization } = visit
      const owner = { organizationId: organization.id }
      const base = `/organizations/${organization.id}/keys`
      return {
        session,
        owner,
        place: { organizationId: organization.id, workspaceId: null },
        framed: placeOfOrganization(visit, 'keys'),
        role: visit.role,
        mayChange: true,
        isWorkspace: false,
        noun: 'key',
        article: 'an organization key',
        listHref: base,
        base,
        environmentLine: { name: 'ORGANIZATION_ID', value: organization.id },
      }
    },
  }
}

/** A token of this place. @throws {AppError} `not_found` */
export function tokenAt(db: Db, { place }: TokenPlace, id: string): Promise<TokenView> {
  return getToken(db, place, id)
}

/** The token of the address, where it still stands. An ended one leads to its own page, which says so. */
export async function openTokenAt(db: Db, place: TokenPlace, ctx: Context): Promise<TokenView | undefined> {
  const view = await tokenAt(db, place, String(ctx.params.key_id))
  if (view.line.closedAt === null) return view
  done(ctx, `${place.base}/${view.line.id}`)
  return undefined
}

export async function policyOf(db: Db, { place }: TokenPlace): Promise<TokenPolicy> {
  return place.workspaceId === null ? NO_POLICY : getPolicy(db, place.workspaceId)
}

const OF_ORGANIZATION = ['read', 'manage']

/** The APIs whose scopes a token of this place can hold. */
export function serversOf(
  { isWorkspace }: Pick<TokenPlace, 'isWorkspace'>,
  servers: readonly ResourceServer[],
): ResourceServer[] {
  if (isWorkspace) return [...servers]
  return servers
    .filter(({ clientId }) => clientId === undefined)
    .map((own) => ({ ...own, scopes: own.scopes.filter(({ name }) => OF_ORGANIZATION.includes(name)) }))
}

/** An organization key is for provisioning: it has no other environment. */
export const ORGANIZATION_ENVIRONMENT: Environment = 'production'

/** What every page of a place is told. */
export function placeView({ isWorkspace, noun, article, listHref }: TokenPlace) {
  return { isWorkspace, noun, article, listHref, whole: isWorkspace ? 'Access' : 'Keys' }
}

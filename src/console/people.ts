// What pages about people say: roles in words, what a change of one ends, and the forms that change them.
import type { Context } from 'koa'
import { AppError, type ErrorCode } from '../errors.ts'
import type { WorkspaceId } from '../ids.ts'
import type { Member } from '../members/service.ts'
import { effectiveRole } from '../organizations/rules.ts'
import { endingWith, type Standing } from '../overview/service.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { atDay, counted } from './token-times.ts'

/** A sentence with names in it, which the templates set apart from the words around them. */
export type Words = ReadonlyArray<string | { name: string }>

/** Words around names: words`Remove ${name} from Acme`. */
export function words(strings: TemplateStringsArray, ...names: readonly string[]): Words {
  return strings
    .flatMap((text, index) => [text, ...(index < names.length ? [{ name: names[index] ?? '' }] : [])])
    .filter((part) => part !== '')
}

export const ORGANIZATION_ROLES = ['owner', 'admin', 'member'] as const
export const WORKSPACE_ROLES = ['owner', 'admin', 'member', 'viewer'] as const

export const ROLE_NAMES: Record<WorkspaceRole, string> = {
  owner: 'Owner',
  admin: 'Admin',
  member: 'Member',
  viewer: 'Viewer',
}

export const IN_ORGANIZATION: Record<OrganizationRole, string> = {
  owner: 'What an admin may, and makes and unmakes owners.',
  admin: 'Acts as an admin in every workspace, makes workspaces and organization keys, changes who is here.',
  member: 'Reaches only the workspaces where somebody added them.',
}

export const IN_WORKSPACE: Record<WorkspaceRole, string> = {
  owner: 'What an admin may, makes and unmakes owners, and hands the workspace over.',
  admin: 'Changes members, tokens and settings, and ends any way in.',
  member: 'Sees what is here, and connects apps.',
  viewer: 'Sees what is here. Cannot connect apps.',
}

/** One row of a list of people. */
export function rowOf(
  member: Member<WorkspaceRole | OrganizationRole>,
  options: { base: string; me: string; mayChange: boolean; mayHandOver?: boolean },
) {
  const base = `${options.base}/${member.user_id}`
  return {
    name: member.name,
    email: member.email,
    isMe: member.user_id === options.me,
    role: ROLE_NAMES[member.role],
    since: atDay(member.created_at),
    actions: [
      ...(options.mayHandOver === true ? [{ href: `${base}/transfer`, text: 'Hand over to', ends: false }] : []),
      ...(options.mayChange
        ? [
            { href: `${base}/role`, text: 'Change role', ends: false },
            { href: `${base}/remove`, text: 'Remove', ends: true },
          ]
        : []),
    ],
  }
}

export interface RoleChoice {
  value: string
  text: string
  meaning: string
  /** What becomes of their connections. */
  effect: string | undefined
  ends: boolean
  isNow: boolean
  disabled: boolean
}

/** The roles of an organization, each with what it would do to somebody. */
export function organizationChoices(standing: Standing, mayMakeOwners: boolean): RoleChoice[] {
  return ORGANIZATION_ROLES.map((role) => ({
    value: role,
    text: ROLE_NAMES[role],
    meaning: IN_ORGANIZATION[role],
    ...effectOf(standing.connections.length, endingWith(standing, { organizationRole: role }).length),
    isNow: role === standing.organizationRole,
    disabled: role === 'owner' && !mayMakeOwners,
  }))
}

/** The roles of a workspace, each with what it would do to a member. */
export function workspaceChoices(
  standing: Standing,
  workspace: { id: WorkspaceId; role: WorkspaceRole },
  mayMakeOwners: boolean,
): RoleChoice[] {
  const here = inWorkspace(standing, workspace.id).connections.length
  return WORKSPACE_ROLES.map((role) => {
    const ending = endingWith(standing, { workspace: { id: workspace.id, role } })
    return {
      value: role,
      text: ROLE_NAMES[role],
      meaning: IN_WORKSPACE[role],
      ...effectOf(here, ending.filter(({ workspace_id }) => workspace_id === workspace.id).length),
      isNow: role === workspace.role,
      disabled: role === 'owner' && !mayMakeOwners,
    }
  })
}

function effectOf(all: number, ending: number): Pick<RoleChoice, 'effect' | 'ends'> {
  if (all === 0) return { effect: undefined, ends: false }
  if (ending === 0) return { effect: `Keeps ${connections(all)}, with tokens that say the new role.`, ends: false }
  return {
    effect: `Ends ${ending === all ? connections(all) : `${ending} of ${connections(all)}`} at once.`,
    ends: true,
  }
}

const connections = (count: number) => (count === 1 ? 'their connection' : `their ${count} connections`)

/** What of somebody is in one workspace. */
export function inWorkspace(standing: Standing, id: WorkspaceId) {
  return {
    connections: standing.connections.filter(({ workspace_id }) => workspace_id === id),
    tokens: standing.tokens.filter(({ workspace_id }) => workspace_id === id),
  }
}

/** True where an organization's role makes somebody an admin of a workspace, whatever their role in it. */
export function staysAdmin(organizationRole: OrganizationRole | undefined): boolean {
  return effectiveRole(null, organizationRole ?? null) === 'admin'
}

/** What ends and what stays when somebody goes. */
export function removalFacts(parts: Pick<Standing, 'connections' | 'tokens'>) {
  return {
    connections: parts.connections.map((connection) => ({
      app: connection.client_name,
      workspace: connection.workspace_name,
      since: atDay(connection.created_at),
    })),
    endsText:
      parts.connections.length === 0
        ? 'They have connected no app.'
        : `${counted(parts.connections.length, 'connection')}, with every token that came from ${parts.connections.length === 1 ? 'it' : 'them'}.`,
    staysText:
      parts.tokens.length === 0
        ? 'They have made no tokens.'
        : `${counted(parts.tokens.length, 'token')} that they made, which ${parts.tokens.length === 1 ? 'is' : 'are'} the workspace’s. Rotate what they may have seen.`,
  }
}

/** `platform-ai, research and tools`, as words. */
export function listed(names: readonly string[]): Words {
  return names.flatMap((name, index) => [
    ...(index === 0 ? [] : [index === names.length - 1 ? ' and ' : ', ']),
    { name },
  ])
}

// --- Forms ---------------------------------------------------------------------------------------------------------------

/** What somebody can mend by filling in a form differently, or by asking somebody else. */
const ON_THE_FORM: readonly ErrorCode[] = [
  'invalid_request',
  'role_too_low',
  'policy_forbids',
  'conflict',
  'last_owner',
  'idempotency_key_reused',
]

/** Does what a form asks for. What can be said on the form is given back; anything else stays a failure. */
export async function attempt(ctx: Context, work: () => Promise<unknown>): Promise<AppError | undefined> {
  try {
    await work()
    return undefined
  } catch (error) {
    if (!(error instanceof AppError) || !ON_THE_FORM.includes(error.code)) throw error
    ctx.status = error.status
    return error
  }
}

/** One of these words, or what came is no form of ours. */
export function oneOf<T extends string>(known: readonly T[], given: string, problem: string): T {
  const found = known.find((candidate) => candidate === given)
  if (found === undefined) throw new AppError('invalid_request', { detail: problem })
  return found
}

/** Leads on to another page, which says what was done where that is told. */
export function done(ctx: Context, path: string, what?: string): void {
  ctx.status = 303
  ctx.redirect(what === undefined ? path : `${path}?done=${what}`)
}

/** The sentence for what was done just before: one of ours, whatever the address says. */
export function noticeOf(ctx: Context, sentences: Record<string, string>): string | undefined {
  const what = ctx.URL.searchParams.get('done') ?? ''
  return Object.hasOwn(sentences, what) ? sentences[what] : undefined
}

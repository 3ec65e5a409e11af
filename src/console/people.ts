// What pages about people say: roles in words, what a change of one ends, and the forms that change them.
import type { Context } from 'koa'
import { AppError, type ErrorCode } from '../errors.ts'
import type { Member } from '../members/service.ts'
import { effectiveRole } from '../organizations/rules.ts'
import { lastOwnerDetail } from '../ownership/service.ts'
import type { Preview } from '../role-previews/service.ts'
import type { OrganizationRole, WorkspaceRole } from '../store/tables.ts'
import { ago, atDay, counted, dayOf } from './token-times.ts'

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

interface Choosing<R> {
  roles: readonly R[]
  meanings: Record<R & string, string>
  now: R
  mayMakeOwners: boolean
}

/** Roles, each with what it would come to for somebody: `previews` in the order of `roles`. */
export function roleChoices<R extends WorkspaceRole>(
  { roles, meanings, now, mayMakeOwners }: Choosing<R>,
  previews: readonly Preview[],
): RoleChoice[] {
  return roles.map((role, index) => ({
    value: role,
    text: ROLE_NAMES[role],
    meaning: meanings[role],
    ...effectOf(previews[index]),
    isNow: role === now,
    disabled: role === 'owner' && !mayMakeOwners,
  }))
}

function effectOf(preview: Preview | undefined): Pick<RoleChoice, 'effect' | 'ends'> {
  if (preview === undefined) return { effect: undefined, ends: false }
  if (preview.lastOwnerOf.length > 0) return { effect: 'Not now: they are the only owner.', ends: true }
  const all = preview.connections.length
  const [ending, narrowing] = (['ends', 'narrows'] as const).map((kind) => countOf(preview, kind))
  const rotating = preview.rotates.length
  const cancelled = preview.cancels.length
  const sentences = [
    ending ? `Ends ${ending === all ? connections(all) : `${ending} of ${connections(all)}`} at once.` : '',
    narrowing
      ? `Takes scopes from ${narrowing === all ? connections(all) : `${narrowing} of ${connections(all)}`}.`
      : '',
    all > 0 && !ending && !narrowing ? `Keeps ${connections(all)}, with tokens that say the new role.` : '',
    rotating > 0 ? `${counted(rotating, 'token')} that they made must be rotated.` : '',
    cancelled > 0 ? `Ends ${counted(cancelled, 'invitation')} that they sent.` : '',
    reviewText(preview) ?? '',
  ]
  const ends = Boolean(ending || narrowing || rotating || cancelled)
  return { effect: sentences.filter(Boolean).join(' ') || undefined, ends }
}

const reviewText = ({ reviewedIn }: Preview): string | undefined =>
  reviewedIn.length > 0 ? 'Where apps or tokens are left, an access review opens.' : undefined

const countOf = ({ connections: all }: Preview, kind: Preview['connections'][number]['outcome']['kind']): number =>
  all.filter(({ outcome }) => outcome.kind === kind).length

const connections = (count: number) => (count === 1 ? 'their connection' : `their ${count} connections`)

/** True where an organization's role makes somebody an admin of a workspace, whatever their role in it. */
export function staysAdmin(organizationRole: OrganizationRole | undefined): boolean {
  return effectiveRole(null, organizationRole ?? null) === 'admin'
}

/** What ends, what narrows and what is left to do, by name. */
export function consequencesView(preview: Preview) {
  const row = (view: Preview['connections'][number]['connection']) => ({
    app: view.client.name,
    workspace: view.workspace.name,
    since: atDay(view.createdAt),
    lastUse: view.lastUse === undefined ? undefined : ago(view.lastUse.at, view.now),
  })
  return {
    connections: preview.connections
      .filter(({ outcome }) => outcome.kind === 'ends')
      .map(({ connection }) => row(connection)),
    narrows: preview.connections.flatMap(({ connection, outcome }) =>
      outcome.kind === 'narrows'
        ? [{ ...row(connection), loses: lost(connection.resources, outcome.approved.resources ?? {}) }]
        : [],
    ),
    rotates: preview.rotates.map((token) => ({ label: token.label, by: dayOf(preview.rotateBy(token)) })),
    invitations: preview.cancels.length,
  }
}

/** For each role that takes something away: what, by name. */
export function detailsOf(roles: readonly WorkspaceRole[], previews: readonly Preview[]) {
  return roles.flatMap((role, index) => {
    const preview = previews[index]
    if (preview === undefined || !effectOf(preview).ends || preview.lastOwnerOf.length > 0) return []
    return [{ role: ROLE_NAMES[role], ...consequencesView(preview) }]
  })
}

/** Scopes that are gone, of all APIs together. */
function lost(before: Record<string, string>, after: Record<string, string>): string[] {
  const left = (identifier: string) => new Set(after[identifier]?.split(' '))
  return [
    ...new Set(
      Object.entries(before).flatMap(([identifier, scopes]) =>
        scopes.split(' ').filter((scope) => scope !== '' && !left(identifier).has(scope)),
      ),
    ),
  ]
}

/** What ends and what stays when somebody goes. */
export function removalFacts(preview: Preview) {
  const ending = countOf(preview, 'ends')
  const rotating = preview.rotates.length
  const until = preview.rotates.map(preview.rotateBy).toSorted((a, b) => a.getTime() - b.getTime())[0]
  return {
    ...consequencesView(preview),
    endsText:
      ending === 0
        ? 'They have connected no app.'
        : `${counted(ending, 'connection')}, with every token that came from ${ending === 1 ? 'it' : 'them'}.`,
    staysText:
      rotating === 0 || until === undefined
        ? 'They have made no tokens that work.'
        : `${counted(rotating, 'token')} that they made, which must be rotated by ${dayOf(until)}: they may know the value.`,
    reviewText: reviewText(preview),
    problem: preview.lastOwnerOf.length > 0 ? lastOwnerDetail(preview.lastOwnerOf) : undefined,
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

// Pages of a workspace: its members and their roles, its name and bills, its token policy, and its end.
import Router from '@koa/router'
import type { Context } from 'koa'
import { AppError } from '../errors.ts'
import { field, formBody } from '../http/forms.ts'
import { isUserId } from '../ids.ts'
import {
  addToWorkspace,
  changeRole,
  findWorkspaceMember,
  listOrganizationMembers,
  listWorkspaceMembers,
  type Member,
  removeFromWorkspace,
  transferOwnership,
} from '../members/service.ts'
import { isAtLeast, mayChangeOwners } from '../organizations/rules.ts'
import { archiveWorkspace, changeWorkspace } from '../organizations/service.ts'
import { countIn, standingOf } from '../overview/service.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import { previewInWorkspace } from '../role-previews/service.ts'
import type { Db } from '../store/database.ts'
import type { Environment, WorkspaceRole } from '../store/tables.ts'
import type { TokenPolicy } from '../workspace-tokens/rules.ts'
import { policyShape } from '../workspace-tokens/schemas.ts'
import { getPolicy, setPolicy } from '../workspace-tokens/service.ts'
import { type Frame, frontDoorOf, leadToSignIn, placeOfWorkspace, type WorkspaceVisit } from './frame.ts'
import { fieldProblems, type WorkspaceForm, workspaceFields } from './organization-pages.ts'
import {
  attempt,
  detailsOf,
  done,
  IN_WORKSPACE,
  noticeOf,
  oneOf,
  ROLE_NAMES,
  removalFacts,
  roleChoices,
  rowOf,
  staysAdmin,
  WORKSPACE_ROLES,
  words,
} from './people.ts'
import { counted } from './token-times.ts'

export interface WorkspacePagesDeps {
  db: Db
  revocations: RevocationList
  resourceServers: ResourceServers
  frame: Frame
}

export function createWorkspacePages(deps: WorkspacePagesDeps): Router {
  const router = new Router()
  const at = '/workspaces/:workspace_id'
  router.use(leadToSignIn)
  router.get(at, async (ctx) => {
    const visit = await deps.frame.workspace(ctx, await deps.frame.session(ctx), 'viewer')
    done(ctx, frontDoorOf(visit))
  })
  router.get(`${at}/members`, (ctx) => showMembers(deps, ctx))
  router.get(`${at}/members/new`, (ctx) => showAddition(deps, ctx))
  router.post(`${at}/members/new`, formBody, (ctx) => postAddition(deps, ctx))
  router.get(`${at}/members/:user_id/role`, (ctx) => showMember(deps, ctx, sendRole))
  router.post(`${at}/members/:user_id/role`, formBody, (ctx) => postRole(deps, ctx))
  router.get(`${at}/members/:user_id/remove`, (ctx) => showMember(deps, ctx, sendRemoval))
  router.post(`${at}/members/:user_id/remove`, formBody, (ctx) => postRemoval(deps, ctx))
  router.get(`${at}/members/:user_id/transfer`, (ctx) => showMember(deps, ctx, sendTransfer))
  router.post(`${at}/members/:user_id/transfer`, formBody, (ctx) => postTransfer(deps, ctx))
  router.get(`${at}/settings`, (ctx) => showSettings(deps, ctx))
  router.post(`${at}/settings`, formBody, (ctx) => postSettings(deps, ctx))
  router.get(`${at}/settings/policy`, (ctx) => showPolicy(deps, ctx))
  router.post(`${at}/settings/policy`, formBody, (ctx) => postPolicy(deps, ctx))
  router.get(`${at}/settings/archive`, (ctx) => showArchive(deps, ctx))
  router.post(`${at}/settings/archive`, formBody, (ctx) => postArchive(deps, ctx))
  return router
}

const baseOf = (visit: WorkspaceVisit) => `/workspaces/${visit.workspace.id}`

// --- Members -------------------------------------------------------------------------------------------------------------

const MEMBER_NOTICES = {
  added: 'They are a member now, and can connect apps as far as their role goes.',
  role: 'The role is changed. What it no longer holds has ended.',
  removed: 'They are no longer a member. Their connections to the workspace have ended.',
  transferred: 'The workspace has a new owner.',
}

/** Whether the visitor makes and unmakes owners here. */
const isOwner = (visit: WorkspaceVisit) => mayChangeOwners(visit.role, visit.organizationRole)

async function showMembers(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'viewer')
  const members = await listWorkspaceMembers(deps.db, visit.workspace.id)
  const owns = isOwner(visit)
  const isAdmin = isAtLeast(visit.role, 'admin')
  const base = `${baseOf(visit)}/members`
  deps.frame.send(ctx, session, 'workspace-members', placeOfWorkspace(visit, 'members'), {
    workspace: visit.workspace.name,
    organization: visit.organization.name,
    notice: noticeOf(ctx, MEMBER_NOTICES),
    isAdmin,
    addHref: `${base}/new`,
    inviteHref: `${base}/invite`,
    invitationsHref: `${base}/invitations`,
    people: members.map((member) =>
      rowOf(member, {
        base,
        me: session.userId,
        mayChange: isAdmin && (owns || member.role !== 'owner'),
        mayHandOver: owns && (member.user_id !== visit.workspace.owner_id || member.role !== 'owner'),
      }),
    ),
  })
}

async function showAddition(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  deps.frame.requireRecentSignIn(session)
  await sendAddition(deps, ctx, visit, { userId: '', role: 'member' })
}

async function sendAddition(
  deps: WorkspacePagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  form: { userId: string; role: string; error?: string },
): Promise<void> {
  const [people, members] = await Promise.all([
    listOrganizationMembers(deps.db, visit.organization.id),
    listWorkspaceMembers(deps.db, visit.workspace.id),
  ])
  const owns = isOwner(visit)
  const present = new Set<string>(members.map(({ user_id }) => user_id))
  const byName = new Intl.Collator('en')
  deps.frame.send(ctx, visit.session, 'workspace-member-new', placeOfWorkspace(visit, 'members'), {
    workspace: visit.workspace.name,
    organization: visit.organization.name,
    error: form.error,
    userId: form.userId,
    people: people
      .filter(({ user_id }) => !present.has(user_id))
      .toSorted((a, b) => byName.compare(a.name, b.name))
      .map(({ user_id, name, email }) => ({ id: user_id, name, email })),
    choices: WORKSPACE_ROLES.map((role) => ({
      value: role,
      text: ROLE_NAMES[role],
      meaning: role === 'owner' && !owns ? 'Only an owner makes an owner.' : IN_WORKSPACE[role],
      chosen: role === form.role,
      disabled: role === 'owner' && !owns,
    })),
    action: `${baseOf(visit)}/members/new`,
    back: `${baseOf(visit)}/members`,
  })
}

async function postAddition(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  const given = { userId: field(ctx, 'user_id'), role: field(ctx, 'role') }
  const refused = await attempt(ctx, async () => {
    if (!isUserId(given.userId)) throw new AppError('invalid_request', { detail: 'Choose somebody.' })
    await addToWorkspace(deps.db, {
      workspaceId: visit.workspace.id,
      userId: given.userId,
      role: oneOf(WORKSPACE_ROLES, given.role, 'Choose a role.'),
      ...deps.frame.by(ctx, session),
    })
  })
  if (refused !== undefined) return sendAddition(deps, ctx, visit, { ...given, error: refused.detail })
  done(ctx, `${baseOf(visit)}/members`, 'added')
}

type SendMember = (
  deps: WorkspacePagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  person: Member<WorkspaceRole>,
  error?: string,
) => Promise<void>

async function showMember(deps: WorkspacePagesDeps, ctx: Context, send: SendMember): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  if (send !== sendRemoval) deps.frame.requireRecentSignIn(session)
  await send(deps, ctx, visit, await memberAt(deps, ctx, visit))
}

/** What a form about a member asks for: done, or said on the form again. */
async function postMember(
  deps: WorkspacePagesDeps,
  ctx: Context,
  send: SendMember,
  work: (visit: WorkspaceVisit, person: Member<WorkspaceRole>) => Promise<unknown>,
): Promise<{ visit: WorkspaceVisit; person: Member<WorkspaceRole> } | undefined> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  const person = await memberAt(deps, ctx, visit)
  const refused = await attempt(ctx, () => work(visit, person))
  if (refused === undefined) return { visit, person }
  await send(deps, ctx, visit, person, refused.detail)
  return undefined
}

async function memberAt(deps: WorkspacePagesDeps, ctx: Context, visit: WorkspaceVisit): Promise<Member<WorkspaceRole>> {
  const person = await findWorkspaceMember(deps.db, visit.workspace.id, String(ctx.params.user_id))
  if (person === undefined) throw new AppError('not_found')
  return person
}

const sendRole: SendMember = async (deps, ctx, visit, person, error) => {
  const [standing, previews] = await Promise.all([
    standingOf(deps.db, visit.organization.id, person.user_id),
    previewInWorkspace(deps, { workspace: visit.workspace, userId: person.user_id, roles: WORKSPACE_ROLES }),
  ])
  deps.frame.send(ctx, visit.session, 'person-role', placeOfWorkspace(visit, 'members'), {
    title: 'Change a role',
    heading: words`Change the role of ${person.name}`,
    lede: words`${person.email}, ${ROLE_NAMES[person.role].toLowerCase()} of ${visit.workspace.name}. The new role counts from their next request on.`,
    note: staysAdmin(standing.organizationRole)
      ? `They are an ${standing.organizationRole} of the organization, and so act as an admin here, whatever their role in the workspace.`
      : undefined,
    error,
    choices: roleChoices(
      { roles: WORKSPACE_ROLES, meanings: IN_WORKSPACE, now: person.role, mayMakeOwners: isOwner(visit) },
      previews,
    ),
    details: detailsOf(WORKSPACE_ROLES, previews),
    action: `${baseOf(visit)}/members/${person.user_id}/role`,
    back: `${baseOf(visit)}/members`,
  })
}

async function postRole(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const changed = await postMember(deps, ctx, sendRole, (visit, person) =>
    changeRole(deps, {
      workspaceId: visit.workspace.id,
      userId: person.user_id,
      role: oneOf(WORKSPACE_ROLES, field(ctx, 'role'), 'Choose a role.'),
      ...deps.frame.by(ctx, visit.session),
    }),
  )
  if (changed !== undefined) done(ctx, `${baseOf(changed.visit)}/members`, 'role')
}

const sendRemoval: SendMember = async (deps, ctx, visit, person, error) => {
  const [standing, [preview]] = await Promise.all([
    standingOf(deps.db, visit.organization.id, person.user_id),
    previewInWorkspace(deps, { workspace: visit.workspace, userId: person.user_id, roles: [null] }),
  ])
  if (preview === undefined) throw new AppError('not_found')
  const stays = staysAdmin(standing.organizationRole)
  deps.frame.send(ctx, visit.session, 'person-remove', placeOfWorkspace(visit, 'members'), {
    title: 'Remove somebody',
    heading: words`Remove ${person.name} from ${visit.workspace.name}?`,
    lede: [
      'Their connections to this workspace end at once. Tokens they made are the workspace’s and stay, to be rotated. They stay in the organization, and in its other workspaces.',
    ],
    error,
    ...removalFacts(preview),
    alsoText: stays
      ? `They are an ${standing.organizationRole} of the organization, and so still reach this workspace as an admin.`
      : undefined,
    person,
    button: words`Remove ${person.name}`,
    action: `${baseOf(visit)}/members/${person.user_id}/remove`,
    back: `${baseOf(visit)}/members`,
  })
}

async function postRemoval(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const changed = await postMember(deps, ctx, sendRemoval, (visit, person) =>
    removeFromWorkspace(deps, {
      workspaceId: visit.workspace.id,
      userId: person.user_id,
      ...deps.frame.by(ctx, visit.session),
    }),
  )
  if (changed === undefined) return
  const { visit, person } = changed
  if (person.user_id === visit.session.userId) return done(ctx, `/organizations/${visit.organization.id}`)
  done(ctx, `${baseOf(visit)}/members`, 'removed')
}

const sendTransfer: SendMember = async (deps, ctx, visit, person, error) => {
  if (!isOwner(visit)) throw new AppError('role_too_low', { detail: 'Only an owner hands a workspace over.' })
  const named = await findWorkspaceMember(deps.db, visit.workspace.id, visit.workspace.owner_id)
  // Whoever was given another role since, or has left, is raised or lowered by nothing here.
  const old = named?.role === 'owner' && named.user_id !== person.user_id ? named : undefined
  const isMe = old?.user_id === visit.session.userId
  deps.frame.send(ctx, visit.session, 'workspace-transfer', placeOfWorkspace(visit, 'members'), {
    heading: words`Hand ${visit.workspace.name} over to ${person.name}?`,
    lede: words`${person.name} becomes its owner, and can give it to somebody else.`,
    becomes: words`${person.name}, ${person.email}, ${ROLE_NAMES[person.role].toLowerCase()} until now`,
    stepsDown:
      old === undefined
        ? ['Nobody']
        : isMe
          ? ['You: you stay as an admin. It takes an owner to make you one again.']
          : words`${old.name}, who stays as an admin`,
    error,
    action: `${baseOf(visit)}/members/${person.user_id}/transfer`,
    back: `${baseOf(visit)}/members`,
  })
}

async function postTransfer(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const changed = await postMember(deps, ctx, sendTransfer, (visit, person) =>
    transferOwnership(deps, {
      workspaceId: visit.workspace.id,
      userId: person.user_id,
      ...deps.frame.by(ctx, visit.session),
    }),
  )
  if (changed !== undefined) done(ctx, `${baseOf(changed.visit)}/members`, 'transferred')
}

// --- Settings ------------------------------------------------------------------------------------------------------------

const SETTINGS_NOTICES = {
  saved: 'Saved.',
  policy: 'The token policy is changed. It holds for every token and version made from now on.',
}

async function showSettings(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'viewer')
  await sendSettings(deps, ctx, visit)
}

async function sendSettings(
  deps: WorkspacePagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  form: { given?: WorkspaceForm; problems?: Partial<Record<string, string>>; error?: string } = {},
): Promise<void> {
  const { workspace } = visit
  deps.frame.send(ctx, visit.session, 'workspace-settings', placeOfWorkspace(visit, 'settings'), {
    workspace,
    notice: noticeOf(ctx, SETTINGS_NOTICES),
    isAdmin: isAtLeast(visit.role, 'admin'),
    given: form.given ?? {
      name: workspace.name,
      billing_email: workspace.billing_email ?? '',
      cost_centre: workspace.cost_centre ?? '',
    },
    problems: form.problems ?? {},
    error: form.error,
    policy: policyFacts(await getPolicy(deps.db, workspace.id)),
    base: `${baseOf(visit)}/settings`,
  })
}

async function postSettings(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  const { given, read } = workspaceFields(ctx)
  if (!read.success) {
    ctx.status = 400
    return sendSettings(deps, ctx, visit, { given, problems: fieldProblems(read.error) })
  }
  const { name, billing_email, cost_centre } = read.data
  const { workspace } = visit
  const change = {
    ...(name === workspace.name ? {} : { name }),
    ...(billing_email === workspace.billing_email ? {} : { billing_email: billing_email ?? null }),
    ...(cost_centre === workspace.cost_centre ? {} : { cost_centre: cost_centre ?? null }),
  }
  const refused = await attempt(ctx, () =>
    changeWorkspace(deps.db, { workspaceId: workspace.id, change, ...deps.frame.by(ctx, session) }),
  )
  if (refused !== undefined) return sendSettings(deps, ctx, visit, { given, error: refused.detail })
  done(ctx, `${baseOf(visit)}/settings`, 'saved')
}

const ENVIRONMENTS: ReadonlyArray<{ name: Environment; text: string }> = [
  { name: 'production', text: 'Production' },
  { name: 'staging', text: 'Staging' },
  { name: 'development', text: 'Development' },
]

function policyFacts(policy: TokenPolicy) {
  const { maxAgeDays, environments } = policy
  const all = environments === null || ENVIRONMENTS.every(({ name }) => environments.includes(name))
  return [
    { term: 'Tokens', text: policy.tokensForbidden ? 'Forbidden: tools connect by signing in' : 'Allowed' },
    { term: 'Expiry', text: policy.expiryRequired || maxAgeDays !== null ? 'Required' : 'Not required' },
    { term: 'Longest life', text: maxAgeDays === null ? 'No limit' : counted(maxAgeDays, 'day') },
    {
      term: 'Environments',
      text: all
        ? 'All'
        : ENVIRONMENTS.filter(({ name }) => environments.includes(name))
            .map(({ text }) => text)
            .join(', ') || 'None',
    },
  ]
}

interface PolicyForm {
  tokensForbidden: boolean
  expiryRequired: boolean
  maxAgeDays: string
  environments: readonly Environment[]
}

async function showPolicy(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  deps.frame.requireRecentSignIn(session)
  const policy = await getPolicy(deps.db, visit.workspace.id)
  await sendPolicy(deps, ctx, visit, {
    ...policy,
    maxAgeDays: policy.maxAgeDays === null ? '' : String(policy.maxAgeDays),
    environments: policy.environments ?? ENVIRONMENTS.map(({ name }) => name),
  })
}

async function sendPolicy(
  deps: WorkspacePagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  form: PolicyForm,
  problems: { maxAgeDays?: string; environments?: string; error?: string } = {},
): Promise<void> {
  const { tokens } = await countIn(deps.db, visit.workspace.id)
  deps.frame.send(ctx, visit.session, 'workspace-policy', placeOfWorkspace(visit, 'settings'), {
    workspace: visit.workspace.name,
    existing: tokens === 0 ? undefined : counted(tokens, 'token'),
    form,
    environments: ENVIRONMENTS.map((environment) => ({
      ...environment,
      checked: form.environments.includes(environment.name),
    })),
    problems,
    error: problems.error,
    action: `${baseOf(visit)}/settings/policy`,
    back: `${baseOf(visit)}/settings`,
  })
}

async function postPolicy(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  const form: PolicyForm = {
    tokensForbidden: field(ctx, 'tokens_forbidden') === 'yes',
    expiryRequired: field(ctx, 'expiry_required') === 'yes',
    maxAgeDays: field(ctx, 'max_age_days').trim(),
    environments: ENVIRONMENTS.map(({ name }) => name).filter((name) => field(ctx, `environment_${name}`) === 'yes'),
  }
  const maxAge = maxAgeOf(form.maxAgeDays)
  const noEnvironment = form.environments.length === 0 && !form.tokensForbidden
  if (maxAge === undefined || noEnvironment) {
    ctx.status = 400
    return sendPolicy(deps, ctx, visit, form, {
      ...(maxAge === undefined ? { maxAgeDays: 'Give whole days, from 1 to 3,650, or leave it empty.' } : {}),
      ...(noEnvironment ? { environments: 'Choose at least one, or forbid tokens altogether.' } : {}),
    })
  }
  const policy: TokenPolicy = {
    tokensForbidden: form.tokensForbidden,
    expiryRequired: form.expiryRequired,
    maxAgeDays: maxAge,
    environments: form.environments.length === ENVIRONMENTS.length ? null : form.environments,
  }
  const refused = await attempt(ctx, () =>
    setPolicy(deps, { workspaceId: visit.workspace.id, policy, ...deps.frame.by(ctx, session) }),
  )
  if (refused !== undefined) return sendPolicy(deps, ctx, visit, form, { error: refused.detail })
  done(ctx, `${baseOf(visit)}/settings`, 'policy')
}

/** Null: no limit. Undefined: no number of days. */
function maxAgeOf(given: string): number | null | undefined {
  if (given === '') return null
  return /^\d{1,5}$/.test(given) ? policyShape.shape.max_age_days.safeParse(Number(given)).data : undefined
}

// --- The end -------------------------------------------------------------------------------------------------------------

async function showArchive(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  deps.frame.requireRecentSignIn(session)
  await sendArchive(deps, ctx, visit)
}

async function sendArchive(
  deps: WorkspacePagesDeps,
  ctx: Context,
  visit: WorkspaceVisit,
  problems: { typed?: string; error?: string } = {},
): Promise<void> {
  const counts = await countIn(deps.db, visit.workspace.id)
  const credentials = counts.connections + counts.tokens
  deps.frame.send(ctx, visit.session, 'workspace-archive', placeOfWorkspace(visit, 'settings'), {
    workspace: visit.workspace.name,
    connections: counted(counts.connections, 'connection'),
    tokens: counted(counts.tokens, 'token'),
    members: counted(counts.members, 'member'),
    credentials,
    waysIn: credentials === 1 ? 'One way in' : `${credentials.toLocaleString('en')} ways in`,
    problem: problems.typed,
    error: problems.error,
    action: `${baseOf(visit)}/settings/archive`,
    back: `${baseOf(visit)}/settings`,
  })
}

async function postArchive(deps: WorkspacePagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  if (field(ctx, 'name').trim().normalize('NFC') !== visit.workspace.name.trim().normalize('NFC')) {
    ctx.status = 400
    return sendArchive(deps, ctx, visit, { typed: 'This is not the workspace’s name. Nothing has ended.' })
  }
  const refused = await attempt(ctx, () =>
    archiveWorkspace(deps.revocations, { workspaceId: visit.workspace.id, ...deps.frame.by(ctx, session) }),
  )
  if (refused !== undefined) return sendArchive(deps, ctx, visit, { error: refused.detail })
  done(ctx, `/organizations/${visit.organization.id}`, 'archived')
}

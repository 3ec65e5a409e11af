// Pages of an organization: its workspaces, making one, its people and their roles; and where somebody lands who signs in.
import Router from '@koa/router'
import type { Context } from 'koa'
import type { z } from 'zod'
import { AppError } from '../errors.ts'
import { field, formBody } from '../http/forms.ts'
import {
  changeOrganizationRole,
  findOrganizationMember,
  listOrganizationMembers,
  type Member,
  removeFromOrganization,
} from '../members/service.ts'
import type { BrowserSessions } from '../oauth/browser-sessions.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { newWorkspace } from '../organizations/schemas.ts'
import { listOrganizationsOf, listReachableWorkspaces, openWorkspace } from '../organizations/service.ts'
import { standingOf, summarize } from '../overview/service.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { RevocationList } from '../revocation/service.ts'
import { previewInOrganization } from '../role-previews/service.ts'
import { getThisMonth, type MonthSpending } from '../spending/service.ts'
import type { Db } from '../store/database.ts'
import type { OrganizationRole } from '../store/tables.ts'
import { type Frame, leadToSignIn, type OrganizationVisit, placeOfOrganization } from './frame.ts'
import { monthWord, roundedText, usedOf } from './money.ts'
import {
  attempt,
  detailsOf,
  done,
  IN_ORGANIZATION,
  listed,
  noticeOf,
  ORGANIZATION_ROLES,
  oneOf,
  ROLE_NAMES,
  removalFacts,
  roleChoices,
  rowOf,
  type Words,
  words,
} from './people.ts'
import { newFormId, repeatableOf } from './token-forms.ts'
import { counted } from './token-times.ts'

export interface OrganizationPagesDeps {
  db: Db
  revocations: RevocationList
  resourceServers: ResourceServers
  frame: Frame
  sessions: BrowserSessions
}

export function createOrganizationPages(deps: OrganizationPagesDeps): Router {
  const router = new Router()
  const at = '/organizations/:organization_id'
  router.use(leadToSignIn)
  router.get('/', (ctx, next) => showHome(deps, ctx, next))
  router.get(at, (ctx) => showOverview(deps, ctx))
  router.get(`${at}/workspaces/new`, (ctx) => showNewWorkspace(deps, ctx))
  router.post(`${at}/workspaces/new`, formBody, (ctx) => postNewWorkspace(deps, ctx))
  router.get(`${at}/people`, (ctx) => showPeople(deps, ctx))
  router.get(`${at}/people/:user_id/role`, (ctx) => showRole(deps, ctx))
  router.post(`${at}/people/:user_id/role`, formBody, (ctx) => postRole(deps, ctx))
  router.get(`${at}/people/:user_id/remove`, (ctx) => showRemoval(deps, ctx))
  router.post(`${at}/people/:user_id/remove`, formBody, (ctx) => postRemoval(deps, ctx))
  return router
}

const baseOf = (visit: OrganizationVisit) => `/organizations/${visit.organization.id}`

// --- Where somebody lands ------------------------------------------------------------------------------------------------

async function showHome(deps: OrganizationPagesDeps, ctx: Context, next: () => Promise<unknown>): Promise<unknown> {
  const session = await deps.sessions.find(ctx)
  if (session === undefined) return next()
  const organizations = await listOrganizationsOf(deps.db, session.userId)
  const [only, ...others] = organizations
  if (only !== undefined && others.length === 0) return done(ctx, `/organizations/${only.id}`)
  return deps.frame.send(
    ctx,
    session,
    'organizations',
    {},
    {
      email: session.account.email,
      organizations: organizations.map(({ id, name, role }) => ({
        href: `/organizations/${id}`,
        name,
        role: ROLE_NAMES[role],
      })),
    },
  )
}

// --- The organization's workspaces ---------------------------------------------------------------------------------------

const OVERVIEW_NOTICES = {
  archived: 'The workspace is archived. Every credential in it has ended.',
}

async function showOverview(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.organization(ctx, session, 'member')
  const reached = await listReachableWorkspaces(deps.db, session.userId)
  const workspaces = await summarize(
    deps.db,
    reached.filter(({ organizationId }) => organizationId === visit.organization.id),
  )
  // What is spent is for members: of the other workspaces nothing is read.
  const told = workspaces.filter(({ role }) => isAtLeast(role, 'member')).map(({ id }) => id)
  const spending = await getThisMonth(deps.db, visit.organization.id, told)
  const isAdmin = isAtLeast(visit.role, 'admin')
  deps.frame.send(ctx, session, 'organization', placeOfOrganization(visit, ''), {
    name: visit.organization.name,
    notice: noticeOf(ctx, OVERVIEW_NOTICES),
    isAdmin,
    newHref: `${baseOf(visit)}/workspaces/new`,
    peopleHref: `${baseOf(visit)}/people`,
    month: monthWord(spending.month),
    lede: ledeOf(workspaces, isAdmin),
    workspaces: workspaces.map((workspace) => ({
      ...workspace,
      href: `/workspaces/${workspace.id}`,
      owners: listed(workspace.owners),
      ownersLabel: workspace.owners.length === 1 ? 'Owner' : 'Owners',
      role: ROLE_NAMES[workspace.role],
      spent: spentView(spending.of.get(workspace.id), spending.currency),
    })),
  })
}

/** Undefined for who is not told. */
function spentView(spending: MonthSpending | undefined, currency: string) {
  if (spending === undefined) return undefined
  const { settledMicros, budget } = spending
  return {
    amount: roundedText(settledMicros),
    of: budget === undefined ? `${currency}, no cap` : `of ${roundedText(budget.capMicros)} ${currency}`,
    used: budget && usedOf(budget, settledMicros),
  }
}

function ledeOf(workspaces: ReadonlyArray<{ tokens: number; connections: number }>, isAdmin: boolean): string {
  if (workspaces.length === 0) return isAdmin ? 'No workspaces yet.' : 'You are in none of its workspaces yet.'
  const ways = workspaces.reduce((sum, { tokens, connections }) => sum + tokens + connections, 0)
  const whose = isAdmin ? '' : ' that you reach'
  return `${counted(workspaces.length, 'workspace')}${whose}, ${ways === 1 ? 'one way in' : `${ways.toLocaleString('en')} ways in`}.`
}

export interface WorkspaceForm {
  name: string
  billing_email: string
  cost_centre: string
}

const WORKSPACE_FIELDS: ReadonlyArray<keyof WorkspaceForm> = ['name', 'billing_email', 'cost_centre']

const PROBLEMS: Record<keyof WorkspaceForm, string> = {
  name: 'Give it a name of 1 to 120 characters, on one line.',
  billing_email: 'This is not an email address.',
  cost_centre: 'At most 120 characters, on one line.',
}

/** What is wrong with which field. */
export function fieldProblems(error: z.ZodError): Partial<Record<string, string>> {
  const named = error.issues.map(({ path }) => String(path[0]))
  return Object.fromEntries(Object.entries(PROBLEMS).filter(([name]) => named.includes(name)))
}

/** The fields that say what a workspace is called and who pays. */
export function workspaceFields(ctx: Context) {
  const given: WorkspaceForm = {
    name: field(ctx, 'name'),
    billing_email: field(ctx, 'billing_email').trim(),
    cost_centre: field(ctx, 'cost_centre').trim(),
  }
  const read = newWorkspace.pick({ name: true, billing_email: true, cost_centre: true }).safeParse({
    name: given.name,
    billing_email: given.billing_email === '' ? null : given.billing_email,
    cost_centre: given.cost_centre === '' ? null : given.cost_centre,
  })
  return { given, read }
}

async function showNewWorkspace(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.organization(ctx, session, 'admin')
  sendNewWorkspace(deps, ctx, visit, { given: { name: '', billing_email: '', cost_centre: '' } })
}

function sendNewWorkspace(
  deps: OrganizationPagesDeps,
  ctx: Context,
  visit: OrganizationVisit,
  form: { given: WorkspaceForm; problems?: Partial<Record<string, string>>; error?: string },
): void {
  deps.frame.send(ctx, visit.session, 'organization-new-workspace', placeOfOrganization(visit, ''), {
    organization: visit.organization.name,
    action: `${baseOf(visit)}/workspaces/new`,
    back: baseOf(visit),
    form: newFormId(),
    given: form.given,
    problems: form.problems ?? {},
    error: form.error,
  })
}

async function postNewWorkspace(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.organization(ctx, session, 'admin')
  const { given, read } = workspaceFields(ctx)
  const repeatable = repeatableOf(ctx, session.userId, WORKSPACE_FIELDS) // a form that is sent twice makes one workspace
  if (!read.success) {
    ctx.status = 400
    return sendNewWorkspace(deps, ctx, visit, { given, problems: fieldProblems(read.error) })
  }
  const { name, billing_email, cost_centre } = read.data
  let href = baseOf(visit)
  const refused = await attempt(ctx, async () => {
    const { workspace } = await openWorkspace(deps.db, {
      organizationId: visit.organization.id,
      name,
      billingEmail: billing_email ?? null,
      costCentre: cost_centre ?? null,
      repeatable,
      ...deps.frame.by(ctx, session),
    })
    href = `/workspaces/${workspace.id}/access`
  })
  if (refused === undefined) return done(ctx, href)
  if (refused.code !== 'idempotency_key_reused')
    return sendNewWorkspace(deps, ctx, visit, { given, error: refused.detail })
  sendNewWorkspace(deps, ctx, visit, {
    given,
    error: 'This form has made a workspace already. To make this one too, create it once more.',
  })
}

// --- People --------------------------------------------------------------------------------------------------------------

const PEOPLE_NOTICES = {
  role: 'The role is changed. What it no longer holds has ended.',
  removed: 'They are no longer in the organization. Their connections to its workspaces have ended.',
}

async function showPeople(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.organization(ctx, session, 'member')
  const members = await listOrganizationMembers(deps.db, visit.organization.id)
  const base = `${baseOf(visit)}/people`
  deps.frame.send(ctx, session, 'organization-people', placeOfOrganization(visit, 'people'), {
    organization: visit.organization.name,
    notice: noticeOf(ctx, PEOPLE_NOTICES),
    isAdmin: isAtLeast(visit.role, 'admin'),
    inviteHref: `${base}/invite`,
    invitationsHref: `${base}/invitations`,
    people: members.map((member) =>
      rowOf(member, { base, me: session.userId, mayChange: mayChange(visit, member.role) }),
    ),
  })
}

/** Owners are made and unmade by owners. */
function mayChange(visit: OrganizationVisit, role: OrganizationRole): boolean {
  return visit.role === 'owner' || (visit.role === 'admin' && role !== 'owner')
}

/** Who is named in the address, if they are in the organization. */
async function visitPerson(deps: OrganizationPagesDeps, ctx: Context, visit: OrganizationVisit) {
  const person = await findOrganizationMember(deps.db, visit.organization.id, String(ctx.params.user_id))
  if (person === undefined) throw new AppError('not_found')
  return person
}

async function showRole(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.organization(ctx, session, 'admin')
  deps.frame.requireRecentSignIn(session)
  await sendRole(deps, ctx, visit, await visitPerson(deps, ctx, visit))
}

async function sendRole(
  deps: OrganizationPagesDeps,
  ctx: Context,
  visit: OrganizationVisit,
  person: Member<OrganizationRole>,
  error?: string,
): Promise<void> {
  const asked = { organizationId: visit.organization.id, userId: person.user_id, roles: ORGANIZATION_ROLES }
  const previews = await previewInOrganization(deps, asked)
  deps.frame.send(ctx, visit.session, 'person-role', placeOfOrganization(visit, 'people'), {
    title: 'Change a role',
    heading: words`Change the role of ${person.name}`,
    lede: words`${person.email}, ${ROLE_NAMES[person.role].toLowerCase()} of ${visit.organization.name}. The new role counts from their next request on.`,
    error,
    choices: roleChoices(
      {
        roles: ORGANIZATION_ROLES,
        meanings: IN_ORGANIZATION,
        now: person.role,
        mayMakeOwners: visit.role === 'owner',
      },
      previews,
    ),
    details: detailsOf(ORGANIZATION_ROLES, previews),
    action: `${baseOf(visit)}/people/${person.user_id}/role`,
    back: `${baseOf(visit)}/people`,
  })
}

async function postRole(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.organization(ctx, session, 'admin')
  const person = await visitPerson(deps, ctx, visit)
  const refused = await attempt(ctx, () =>
    changeOrganizationRole(deps, {
      organizationId: visit.organization.id,
      userId: person.user_id,
      role: oneOf(ORGANIZATION_ROLES, field(ctx, 'role'), 'Choose a role.'),
      ...deps.frame.by(ctx, session),
    }),
  )
  if (refused !== undefined) return sendRole(deps, ctx, visit, person, refused.detail)
  done(ctx, `${baseOf(visit)}/people`, 'role')
}

async function showRemoval(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.session(ctx)
  const visit = await deps.frame.organization(ctx, session, 'admin')
  await sendRemoval(deps, ctx, visit, await visitPerson(deps, ctx, visit))
}

async function sendRemoval(
  deps: OrganizationPagesDeps,
  ctx: Context,
  visit: OrganizationVisit,
  person: Member<OrganizationRole>,
  error?: string,
): Promise<void> {
  const [standing, [preview]] = await Promise.all([
    standingOf(deps.db, visit.organization.id, person.user_id),
    previewInOrganization(deps, { organizationId: visit.organization.id, userId: person.user_id, roles: [null] }),
  ])
  if (preview === undefined) throw new AppError('not_found')
  deps.frame.send(ctx, visit.session, 'person-remove', placeOfOrganization(visit, 'people'), {
    title: 'Remove somebody',
    heading: words`Remove ${person.name} from ${visit.organization.name}?`,
    lede: organizationEffect(standing.workspaces.map(({ name }) => name)),
    error,
    ...removalFacts(preview),
    person,
    where: visit.organization.name,
    button: words`Remove ${person.name}`,
    action: `${baseOf(visit)}/people/${person.user_id}/remove`,
    back: `${baseOf(visit)}/people`,
  })
}

function organizationEffect(names: readonly string[]): Words {
  const stay = 'Tokens they made are the workspaces’ and stay, to be rotated.'
  if (names.length === 0) return [`They leave the organization. They are in none of its workspaces. ${stay}`]
  const which = names.length === 1 ? 'the workspace ' : `these ${names.length} workspaces: `
  return [
    `They leave the organization and ${which}`,
    ...listed(names),
    `. Their connections there end at once. ${stay}`,
  ]
}

async function postRemoval(deps: OrganizationPagesDeps, ctx: Context): Promise<void> {
  const session = await deps.frame.posted(ctx)
  const visit = await deps.frame.organization(ctx, session, 'admin')
  const person = await visitPerson(deps, ctx, visit)
  const refused = await attempt(ctx, () =>
    removeFromOrganization(deps, {
      organizationId: visit.organization.id,
      userId: person.user_id,
      ...deps.frame.by(ctx, session),
    }),
  )
  if (refused !== undefined) return sendRemoval(deps, ctx, visit, person, refused.detail)
  const isMyself = person.user_id === session.userId
  done(ctx, isMyself ? '/' : `${baseOf(visit)}/people`, isMyself ? undefined : 'removed')
}

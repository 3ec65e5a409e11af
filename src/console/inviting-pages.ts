// Asking somebody in, from the pages of people and members: the form, the link shown once, and what is still open.
import Router from '@koa/router'
import type { Context } from 'koa'
import { field, formBody } from '../http/forms.ts'
import { invitationLink, newInvitation } from '../invitations/schemas.ts'
import { cancel, type InvitationTarget, invite, listOpen } from '../invitations/service.ts'
import type { InvitationPlace } from '../invitations/store.ts'
import type { BrowserSession } from '../oauth/browser-sessions.ts'
import type { Db } from '../store/database.ts'
import type { WorkspaceRole } from '../store/tables.ts'
import { type Frame, leadToSignIn, type PlacedPage, placeOfOrganization, placeOfWorkspace } from './frame.ts'
import {
  attempt,
  done,
  IN_ORGANIZATION,
  IN_WORKSPACE,
  ORGANIZATION_ROLES,
  oneOf,
  ROLE_NAMES,
  WORKSPACE_ROLES,
} from './people.ts'
import { atDay } from './token-times.ts'

export interface InvitingDeps {
  db: Db
  issuer: string
  frame: Frame
}

/** Where somebody is asked into: one implementation for both. */
interface Door {
  session: BrowserSession
  name: string
  framed: PlacedPage
  /** The page of those who are in. */
  people: string
  place: InvitationPlace
  roles: readonly WorkspaceRole[]
  meanings: Record<string, string>
  target(role: string): InvitationTarget
}

export function createInvitingPages(deps: InvitingDeps): Router {
  const router = new Router()
  router.use(leadToSignIn)
  for (const { at, people, open } of [
    { at: '/workspaces/:workspace_id', people: 'members', open: workspaceDoor },
    { at: '/organizations/:organization_id', people: 'people', open: organizationDoor },
  ]) {
    const enter = (ctx: Context, session: BrowserSession) => open(deps, ctx, session)
    router.get(`${at}/${people}/invite`, async (ctx) => {
      const session = await deps.frame.session(ctx)
      const door = await enter(ctx, session)
      deps.frame.requireRecentSignIn(session)
      sendForm(deps, ctx, door, { email: '', role: 'member' })
    })
    router.post(`${at}/${people}/invite`, formBody, async (ctx) => {
      await postInvitation(deps, ctx, await enter(ctx, await deps.frame.posted(ctx)))
    })
    router.get(`${at}/${people}/invitations`, async (ctx) => {
      await showOpen(deps, ctx, await enter(ctx, await deps.frame.session(ctx)))
    })
    router.post(`${at}/${people}/invitations/:invitation_id/cancel`, formBody, async (ctx) => {
      const door = await enter(ctx, await deps.frame.posted(ctx))
      const by = deps.frame.by(ctx, door.session)
      await cancel(deps.db, { owner: door.target('member'), id: String(ctx.params.invitation_id), ...by })
      done(ctx, `${door.people}/invitations`)
    })
    router.get(`${at}/${people}/invitations/:invitation_id/cancel`, (ctx) => {
      done(ctx, ctx.path.replace(/\/[^/]+\/cancel$/, ''))
    })
  }
  return router
}

const NO_ROLE = 'Choose a role.'

async function workspaceDoor(deps: InvitingDeps, ctx: Context, session: BrowserSession): Promise<Door> {
  const visit = await deps.frame.workspace(ctx, session, 'admin')
  const { id, name } = visit.workspace
  return {
    session,
    name,
    framed: placeOfWorkspace(visit, 'members'),
    people: `/workspaces/${id}/members`,
    place: { organizationId: visit.workspace.organization_id, workspaceId: id },
    roles: WORKSPACE_ROLES,
    meanings: IN_WORKSPACE,
    target: (role) => ({ workspaceId: id, role: oneOf(WORKSPACE_ROLES, role, NO_ROLE) }),
  }
}

async function organizationDoor(deps: InvitingDeps, ctx: Context, session: BrowserSession): Promise<Door> {
  const visit = await deps.frame.organization(ctx, session, 'admin')
  const { id, name } = visit.organization
  return {
    session,
    name,
    framed: placeOfOrganization(visit, 'people'),
    people: `/organizations/${id}/people`,
    place: { organizationId: id, workspaceId: null },
    roles: ORGANIZATION_ROLES,
    meanings: IN_ORGANIZATION,
    target: (role) => ({ organizationId: id, role: oneOf(ORGANIZATION_ROLES, role, NO_ROLE) }),
  }
}

function sendForm(
  deps: InvitingDeps,
  ctx: Context,
  door: Door,
  form: { email: string; role: string; error?: string },
): void {
  deps.frame.send(ctx, door.session, 'invite', door.framed, {
    ...form,
    name: door.name,
    action: `${door.people}/invite`,
    back: door.people,
    choices: door.roles.map((role) => ({
      value: role,
      text: ROLE_NAMES[role],
      meaning: door.meanings[role],
      chosen: role === form.role,
    })),
  })
}

async function postInvitation(deps: InvitingDeps, ctx: Context, door: Door): Promise<void> {
  const form = { email: field(ctx, 'email').trim(), role: field(ctx, 'role') }
  const email = newInvitation.shape.email.safeParse(form.email)
  if (!email.success) {
    ctx.status = 400
    return sendForm(deps, ctx, door, { ...form, error: 'That is not an e-mail address.' })
  }
  const problem = await attempt(ctx, async () => {
    const by = deps.frame.by(ctx, door.session)
    const { invitation, secret } = await invite(deps.db, { target: door.target(form.role), email: email.data, ...by })
    deps.frame.send(ctx, door.session, 'invited', door.framed, {
      name: door.name,
      email: invitation.email,
      role: `${/^[aeiou]/.test(invitation.role) ? 'an' : 'a'} ${invitation.role}`,
      expires: atDay(invitation.expires_at),
      link: invitationLink(deps.issuer, secret.reveal()),
      back: door.people,
    })
  })
  if (problem !== undefined) sendForm(deps, ctx, door, { ...form, error: problem.detail })
}

async function showOpen(deps: InvitingDeps, ctx: Context, door: Door): Promise<void> {
  const now = new Date()
  const open = await listOpen(deps.db, door.place)
  deps.frame.send(ctx, door.session, 'invitations', door.framed, {
    name: door.name,
    inviteHref: `${door.people}/invite`,
    back: door.people,
    invitations: open.map((invitation) => ({
      email: invitation.email,
      role: ROLE_NAMES[invitation.role],
      expires: atDay(invitation.expires_at),
      isOver: invitation.expires_at <= now,
      cancelAction: `${door.people}/invitations/${invitation.id}/cancel`,
    })),
  })
}

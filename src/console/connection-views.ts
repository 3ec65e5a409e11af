// What pages say of a connection: in a line of a list, and above the buttons that end it.
import type { ConnectionView } from '../connections/service.ts'
import type { Caller } from '../uses/store.ts'
import { isUnused } from '../workspace-tokens/rules.ts'
import { cutPath } from './pages.ts'
import { callerRows } from './token-evidence.ts'
import { ageOf, ago, atDay, counted } from './token-times.ts'
import { ENVIRONMENT_WORDS, makerOf, type Names, NOT_USED, UNUSED_STANDING, type WayIn } from './token-views.ts'

/** On the list that a change leads back to. */
export const NOTICES = {
  disconnected: 'The connection has ended, with everything that came of it.',
  restored: 'The connection is restored. It goes on by itself at its next refresh.',
  signs_anew: 'What it held has ended. It signs a new token at its next refresh.',
}

/** Nobody used it lately. */
export function isConnectionUnused({ createdAt, lastUse, now }: ConnectionView): boolean {
  return isUnused({ createdAt, lastUsedAt: lastUse?.at ?? null }, now)
}

/** What every page says of it. */
function factsOf(view: ConnectionView) {
  const { now, lastUse } = view
  return {
    name: view.client.name,
    code: view.id,
    cut: cutPath(view.id),
    scopes: scopesOf(view),
    environment: ENVIRONMENT_WORDS[view.environment],
    version: `v${view.version}`,
    lastUse:
      lastUse === undefined
        ? undefined
        : { when: ago(lastUse.at, now), address: lastUse.address || null, agent: lastUse.agent || null },
  }
}

function scopesOf({ resources }: ConnectionView): string[] {
  const scopes = Object.values(resources).flatMap((granted) => granted.split(' '))
  return [...new Set(scopes)].filter((scope) => scope !== '')
}

function standingOf(view: ConnectionView): Pick<WayIn, 'badge' | 'notes'> {
  const { suspendedAt, now } = view
  if (suspendedAt !== null)
    return { badge: { kind: 'due', word: 'Suspended' }, notes: [{ text: '', when: ago(suspendedAt, now) }] }
  return isConnectionUnused(view) ? UNUSED_STANDING : { badge: { kind: 'active', word: 'Active' }, notes: [] }
}

function decisionOf(view: ConnectionView, href: string | undefined): WayIn['waits'] {
  if (href === undefined) return undefined
  if (view.suspendedAt !== null) return { text: 'is suspended: restore it, or revoke it.', href }
  return isConnectionUnused(view) ? { text: NOT_USED, href } : undefined
}

/** @param href where it is ended; undefined for somebody who may not */
export function rowOf(view: ConnectionView, names: Names, href: string | undefined): WayIn {
  return {
    ...factsOf(view),
    href: undefined,
    isOver: view.suspendedAt !== null,
    owner: view.userId === null ? undefined : makerOf(view.userId, names),
    age: ageOf(view.createdAt, view.now),
    ...standingOf(view),
    actions: href === undefined ? [] : [{ href, text: 'Revoke', ends: true }],
    waits: decisionOf(view, href),
  }
}

/** In the list of what a person approved themselves. */
export function ownRowOf(view: ConnectionView, href: string) {
  return {
    ...factsOf(view),
    href,
    workspace: view.workspace.name,
    organization: view.organization.name,
    approved: atDay(view.createdAt),
  }
}

/** On the page that ends it: what it is, and who would be cut off. */
export function endingOf(view: ConnectionView, callers: readonly Caller[]) {
  return {
    ...factsOf(view),
    workspace: view.workspace.name,
    organization: view.organization.name,
    approved: atDay(view.createdAt),
    suspended: view.suspendedAt === null ? undefined : ago(view.suspendedAt, view.now),
    callers: callerRows(callers, view.now),
    callersText: counted(callers.length, 'caller'),
  }
}

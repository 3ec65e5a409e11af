// What pages say of a way in, in a line of a list: its state, whose it is, when and from where it was used last. Here for
// tokens; the shape is the same for all of them.
import type { Environment } from '../store/tables.ts'
import {
  currentVersion,
  goodVersions,
  isExpiring,
  isLineUnused,
  rotationRequired,
  UNUSED_DAYS,
} from '../workspace-tokens/rules.ts'
import { stateOf } from '../workspace-tokens/schemas.ts'
import type { TokenView } from '../workspace-tokens/service.ts'
import type { TokenVersion } from '../workspace-tokens/store.ts'
import { cutPath } from './pages.ts'
import { ageOf, ago, ahead, DAY_MS, dayOf, type Moment } from './token-times.ts'

export type Names = ReadonlyMap<string, string>

export const ENVIRONMENT_WORDS: Record<Environment, string> = {
  production: 'Production',
  staging: 'Staging',
  development: 'Development',
}

export interface Badge {
  kind: 'active' | 'overlap' | 'retired' | 'revoked' | 'due' | 'fail' | 'waiting'
  word: string
}

/** Text with a time in it. */
interface Note {
  text: string
  when?: Moment | undefined
}

/** Evidence is kept for this long. */
export const EVIDENCE_DAYS = 14

export interface Maker {
  /** A name where the person is still there; what is known otherwise is an id. */
  text: string
  isId: boolean
}

export function makerOf(createdBy: string, names: Names): Maker {
  const name = names.get(createdBy)
  if (name !== undefined) return { text: name, isId: false }
  return createdBy === 'operator' ? { text: 'the operator', isId: false } : { text: createdBy, isId: true }
}

/** A way in: a token, a connection. One line of a list. */
export interface WayIn {
  name: string
  /** Its own page, where it has one. */
  href: string | undefined
  /** What tells it apart from others of the same name. */
  code: string
  cut: string
  isOver: boolean
  /** Undefined: it is nobody's but its own. */
  owner: Maker | undefined
  scopes: readonly string[]
  environment: string
  version: string
  lastUse: { when: Moment; address: string | null } | undefined
  age: string
  badge: Badge
  notes: readonly Note[]
  /** Empty for somebody who may not change it. */
  actions: ReadonlyArray<{ href: string; text: string; of?: string; ends: boolean }>
  /** What a person should decide about it, as the rest of a sentence that begins with its name; and where. */
  waits: { text: string; href: string } | undefined
}

export function rowOf(view: TokenView, names: Names, place: { base: string; mayChange: boolean }): WayIn {
  const { line, now } = view
  const current = currentVersion(line, line.versions, now)
  const used = latest(line.versions, ({ lastUsedAt }) => lastUsedAt)
  const href = `${place.base}/${line.id}`
  const decision = place.mayChange ? decisionOf(view) : undefined
  return {
    name: line.label,
    href,
    code: current?.keyPrefix ?? '',
    cut: cutPath(current?.keyPrefix ?? line.id),
    isOver: goodVersions(line, line.versions, now).length === 0,
    owner: makerOf(line.createdBy, names),
    scopes: line.permissions,
    environment: ENVIRONMENT_WORDS[line.environment],
    version: `v${current?.version ?? line.version}`,
    lastUse: used?.lastUsedAt ? { when: ago(used.lastUsedAt, now), address: used.lastUsedAddress } : undefined,
    age: ageOf(current?.createdAt ?? line.createdAt, now),
    ...standingOf(view),
    actions: place.mayChange ? actionsOf(view, href) : [],
    waits: decision === undefined ? undefined : { text: decision, href },
  }
}

function actionsOf({ line, now }: TokenView, href: string): WayIn['actions'] {
  if (line.closedAt !== null) return [{ href, text: 'See tries', of: 'of', ends: false }]
  if (line.suspendedAt !== null)
    return [
      { href, text: 'Restore', ends: false },
      { href: `${href}/revoke`, text: 'Revoke', ends: true },
    ]
  const mayRotate = goodVersions(line, line.versions, now).length < 2
  return [
    mayRotate ? { href: `${href}/rotate`, text: 'Rotate', ends: false } : { href, text: 'Cut over', ends: false },
    { href: `${href}/revoke`, text: 'Revoke', ends: true },
  ]
}

/** Of a way in that nobody used lately. */
export const NOT_USED = `was not used for ${UNUSED_DAYS} days.`
export const UNUSED_STANDING = {
  badge: { kind: 'due', word: 'Unused' },
  notes: [{ text: `for ${UNUSED_DAYS} days` }],
} as const satisfies { badge: Badge; notes: Note[] }

/** It works, and nobody used it lately. */
export const isTokenUnused = ({ line, now }: TokenView): boolean => isLineUnused(line, line.versions, now)

function decisionOf(view: TokenView): string | undefined {
  const { line, now } = view
  const good = goodVersions(line, line.versions, now)
  const tried = triedLately(view)
  if (tried !== undefined && hadEnded(view, tried))
    return `is ${line.closedAt === null ? `still used with v${tried.version}` : 'revoked, and somebody still uses it'}: see from where.`
  if (line.closedAt === null && line.suspendedAt !== null) return 'is suspended: restore it, or revoke it.'
  const duty = rotationDuty(view)
  if (duty !== undefined) return `must be rotated${duty.isOverdue ? '' : ` by ${duty.day}`}: ${duty.why}`
  const soon = good.find((version) => isExpiring(version, now))
  if (soon?.expiresAt != null) return `expires ${ahead(soon.expiresAt, now).text}.`
  if (good.length > 1) return 'has two working versions.'
  return isTokenUnused(view) ? NOT_USED : undefined
}

const WHY_ROTATE: Record<string, string> = {
  member_removed: 'the person who made it left.',
  account_erased: 'the person who made it left.',
  role_changed: 'the person who made it is no longer an admin.',
}

/** Until when it must be rotated, and why; undefined where it need not. */
export function rotationDuty({ line, now }: TokenView): { day: string; isOverdue: boolean; why: string } | undefined {
  const required = rotationRequired(line, line.versions, now)
  if (required === undefined) return undefined
  const why = WHY_ROTATE[required.reason] ?? 'the person who made it left.'
  return { day: dayOf(required.by), isOverdue: required.by <= now, why }
}

function dutyNote(view: TokenView): Note[] {
  const duty = rotationDuty(view)
  if (duty === undefined) return []
  return [{ text: `${duty.isOverdue ? `Overdue since ${duty.day}` : `Rotate by ${duty.day}`}: ${duty.why}` }]
}

/** A line's state in a word, and what else a person should know of it. */
export function standingOf(view: TokenView): { badge: Badge; notes: Note[] } {
  const { line, now } = view
  const good = goodVersions(line, line.versions, now)
  const notes: Note[] = [...triedNotes(view)]
  const current = currentVersion(line, line.versions, now)
  if (line.closedAt !== null)
    return {
      badge: { kind: 'revoked', word: 'Revoked' },
      notes: [{ text: '', when: ago(line.closedAt, now) }, ...notes],
    }
  if (line.suspendedAt !== null)
    return {
      badge: { kind: 'due', word: 'Suspended' },
      notes: [{ text: '', when: ago(line.suspendedAt, now) }, ...dutyNote(view), ...notes],
    }
  if (good.length === 0) {
    const end = current?.expiresAt ?? null
    if (current !== undefined && stateOf(view, current) === 'expired' && end !== null)
      return { badge: { kind: 'retired', word: 'Expired' }, notes: [{ text: '', when: ago(end, now) }, ...notes] }
    return { badge: { kind: 'revoked', word: 'Ended' }, notes: [{ text: 'no version works' }, ...notes] }
  }
  const soon = good.filter((version) => isExpiring(version, now))
  for (const { version, expiresAt } of soon) {
    if (expiresAt !== null)
      notes.unshift({ text: `${good.length > 1 ? `v${version} ` : ''}expires`, when: ahead(expiresAt, now) })
  }
  notes.unshift(...dutyNote(view))
  const older = good.slice(0, -1).map(({ version }) => `v${version}`)
  if (older.length > 0)
    return {
      badge: { kind: 'overlap', word: 'Overlap' },
      notes: [{ text: `${older.join(', ')} still works` }, ...notes],
    }
  if (rotationDuty(view) !== undefined) return { badge: { kind: 'due', word: 'Rotate' }, notes }
  if (isTokenUnused(view)) return { badge: UNUSED_STANDING.badge, notes: [...UNUSED_STANDING.notes, ...notes] }
  if (soon.length > 0) return { badge: { kind: 'due', word: 'Expiring' }, notes }
  return { badge: { kind: 'active', word: 'Active' }, notes }
}

/** The version that somebody presented last in vain, if that was lately. Of an ended line: after its end. */
function triedLately({ line, now }: TokenView): TokenVersion | undefined {
  const tried = latest(line.versions, ({ refusedAt }) => refusedAt)
  if (tried?.refusedAt == null || !isLately(tried.refusedAt, now)) return undefined
  return line.closedAt !== null && tried.refusedAt < line.closedAt ? undefined : tried
}

/** It had ended by then. What works can be refused too: from an address that is not on its list. */
function hadEnded({ line }: TokenView, { refusedAt, retiredAt, deadAt, expiresAt }: TokenVersion): boolean {
  const ends = [retiredAt, deadAt, expiresAt, line.closedAt].filter((end) => end !== null)
  return refusedAt !== null && ends.some((end) => end <= refusedAt)
}

function triedNotes(view: TokenView): Note[] {
  const tried = triedLately(view)
  if (tried?.refusedAt == null) return []
  const from = tried.refusedAddress ? ` by ${tried.refusedAddress}` : ''
  const how = hadEnded(view, tried) ? 'still used' : 'tried'
  return [{ text: `v${tried.version} ${how}${from}, refused`, when: ago(tried.refusedAt, view.now) }]
}

/** Within the days of which there is evidence. */
export const isLately = (time: Date, now: Date) => now.getTime() - time.getTime() < EVIDENCE_DAYS * DAY_MS

function latest(
  versions: readonly TokenVersion[],
  timeOf: (version: TokenVersion) => Date | null,
): TokenVersion | undefined {
  return versions
    .filter((version) => timeOf(version) !== null)
    .toSorted((a, b) => (timeOf(b)?.getTime() ?? 0) - (timeOf(a)?.getTime() ?? 0))[0]
}

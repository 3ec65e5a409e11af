// The evidence on a token's own page: which version was used in which hour and from where, and what that says about ending
// one of them.
import { OTHERS } from '../uses/service.ts'
import type { Caller, UsedHour } from '../uses/store.ts'
import { goodVersions } from '../workspace-tokens/rules.ts'
import { stateOf, type VersionStateName } from '../workspace-tokens/schemas.ts'
import type { TokenView } from '../workspace-tokens/service.ts'
import type { TokenVersion } from '../workspace-tokens/store.ts'
import { cutPath } from './pages.ts'
import {
  ago,
  atInstant,
  counted,
  DAY_MS,
  dayOf,
  exactSpan,
  instantOf,
  type Moment,
  shortDayOf,
  span,
} from './token-times.ts'
import { type Badge, EVIDENCE_DAYS, isLately } from './token-views.ts'

const STATE_BADGES: Record<VersionStateName, Badge> = {
  active: { kind: 'active', word: 'Active' },
  overlap: { kind: 'overlap', word: 'Overlap' },
  retired: { kind: 'retired', word: 'Retired' },
  revoked: { kind: 'revoked', word: 'Revoked' },
  expired: { kind: 'retired', word: 'Expired' },
  suspended: { kind: 'due', word: 'Suspended' },
}

export interface Lane {
  version: string
  cut: string
  isOver: boolean
  badge: Badge
  /** What the drawing says, in words. */
  summary: string
  bar: { x: number; width: number }
  uses: string
  refused: string
  connected: Moment | undefined
  lastUse: { when: Moment; from: string } | undefined
  tried: { when: Moment; from: string } | undefined
  revokeHref: string | undefined
}

/** Width of a lane's drawing, in its own units. */
const LANE = 1000
const SPAN_MS = EVIDENCE_DAYS * DAY_MS

/** The newest five versions, and whatever else works or was tried lately. */
export function lanesOf(view: TokenView, hours: readonly UsedHour[], base: string): Lane[] {
  const { line } = view
  return line.versions
    .filter(
      (version, index) =>
        index < 5 || isWorking(stateOf(view, version)) || hours.some((hour) => hour.version === version.version),
    )
    .map((version) =>
      laneOf(view, version, { hours, revokeHref: `${base}/${line.id}/versions/v${version.version}/revoke` }),
    )
}

const isWorking = (state: VersionStateName) => state === 'active' || state === 'overlap'

function laneOf(
  view: TokenView,
  version: TokenVersion,
  more: { hours: readonly UsedHour[]; revokeHref: string },
): Lane {
  const { now } = view
  const state = view.line.closedAt === null ? stateOf(view, version) : endedState(version)
  const own = more.hours.filter((hour) => hour.version === version.version)
  const used = own.filter(({ refused }) => !refused)
  const refused = own.filter((hour) => hour.refused)
  const end = endOf(view, version, state)
  const from = placeOn(version.createdAt, now)
  return {
    version: `v${version.version}`,
    cut: cutPath(version.keyPrefix),
    isOver: !isWorking(state),
    badge: STATE_BADGES[state],
    summary: `v${version.version}: ${used.length === 0 ? 'not used' : `used in ${counted(used.length, 'hour')}`} of the last ${EVIDENCE_DAYS} days${refused.length === 0 ? '' : `, refused in ${counted(refused.length, 'hour')}`}`,
    bar: { x: from, width: Math.max(placeOn(end, now) - from, 0) },
    uses: strokes(used, now, '5V19'),
    refused: strokes(refused, now, '2V22'),
    connected: version.firstUsedAt === null ? undefined : atInstant(version.firstUsedAt),
    lastUse:
      version.lastUsedAt === null
        ? undefined
        : {
            when: ago(version.lastUsedAt, now),
            from: fromWhere(version.lastUsedAddress, version.lastUsedAgent),
          },
    tried:
      version.refusedAt === null || !isLately(version.refusedAt, now)
        ? undefined
        : { when: ago(version.refusedAt, now), from: fromWhere(version.refusedAddress, version.refusedAgent) },
    revokeHref: isWorking(state) ? more.revokeHref : undefined,
  }
}

/** Of a line that is revoked as a whole, a version may have been retired long before. */
function endedState(version: TokenVersion): VersionStateName {
  return version.retiredAt === null ? 'revoked' : 'retired'
}

function endOf({ line, now }: TokenView, version: TokenVersion, state: VersionStateName): Date {
  if (isWorking(state)) return now
  if (state === 'expired') return version.expiresAt ?? now
  if (state === 'suspended') return line.suspendedAt ?? now
  return version.retiredAt ?? version.deadAt ?? line.closedAt ?? now
}

/** Where a time stands on a lane. */
function placeOn(time: Date, now: Date): number {
  const share = 1 - (now.getTime() - time.getTime()) / SPAN_MS
  return Math.round(Math.min(Math.max(share, 0), 1) * LANE)
}

/** An upright stroke in the middle of each hour. */
function strokes(hours: readonly UsedHour[], now: Date, from: string): string {
  return hours
    .map(
      ({ hour }) => `M${Math.min(Math.max(placeOn(new Date(hour.getTime() + DAY_MS / 48), now), 1), LANE - 1)} ${from}`,
    )
    .join('')
}

export function scaleOf(now: Date): string[] {
  return [EVIDENCE_DAYS, EVIDENCE_DAYS / 2, 0].map((days) => shortDayOf(new Date(now.getTime() - days * DAY_MS)))
}

function fromWhere(address: string | null, agent: string | null): string {
  return [address, agent].filter((part) => part !== null && part !== '').join(', ')
}

/** The same as the lanes, as numbers: uses by day and version, the latest day first. */
export function usesByDay(hours: readonly UsedHour[]) {
  const days = Map.groupBy(hours.toReversed(), ({ hour, version }) => `${dayOf(hour)} v${version}`)
  const sum = (some: readonly UsedHour[]) => some.reduce((total, { uses }) => total + uses, 0).toLocaleString('en')
  return [...days.values()].map((used) => ({
    day: used[0] === undefined ? '' : dayOf(used[0].hour),
    version: `v${used[0]?.version}`,
    uses: sum(used.filter(({ refused }) => !refused)),
    refused: sum(used.filter(({ refused }) => refused)),
  }))
}

export interface CutoverAdvice {
  isSafe: boolean
  title: string
  text: string
}

const QUIET_MS = DAY_MS

/** What the evidence says about ending the older version now. */
export function cutoverAdvice({ line, now }: TokenView): CutoverAdvice | undefined {
  const [older, newer] = goodVersions(line, line.versions, now)
  if (older === undefined || newer === undefined) return undefined
  const [old, next] = [`v${older.version}`, `v${newer.version}`]
  const quiet = older.lastUsedAt === null ? undefined : now.getTime() - older.lastUsedAt.getTime()
  if (quiet !== undefined && quiet < QUIET_MS) {
    const from = fromWhere(older.lastUsedAddress, older.lastUsedAgent)
    return {
      isSafe: false,
      title: `${old} is still in use.`,
      text: `It was used ${ago(older.lastUsedAt ?? now, now).text}${from === '' ? '' : `, from ${from}`}. Give that place ${next} first: it is refused from the moment you cut over.`,
    }
  }
  if (newer.firstUsedAt === null)
    return {
      isSafe: false,
      title: `${next} has not been used yet.`,
      text: `Put it in place and see it used here before you end ${old}.`,
    }
  return {
    isSafe: true,
    title: 'It looks safe to cut over.',
    text: `${next} has been in use since ${instantOf(newer.firstUsedAt)}. ${quiet === undefined ? `Nothing has ever used ${old}.` : `Nothing has used ${old} for ${span(quiet)}.`}`,
  }
}

/** How a rotation that is under way ends by itself; undefined where it waits for a person. */
export function cutoverPlan({ line, now }: TokenView): string | undefined {
  const [older, newer] = goodVersions(line, line.versions, now)
  if (older === undefined || newer === undefined) return undefined
  if (line.cutover === 'at' && line.cutoverAt !== null)
    return `v${older.version} stops by itself on ${instantOf(line.cutoverAt)}.`
  if (line.cutover !== 'on_first_use') return undefined
  const when = line.cutoverAfterSeconds ? `${exactSpan(line.cutoverAfterSeconds)} after` : 'when'
  return `v${older.version} stops by itself ${when} v${newer.version} is first used.`
}

/** Where a token stands, for the sentence under its name. */
export function ledeOf(view: TokenView): string {
  const { line, now } = view
  const [first, second] = goodVersions(line, line.versions, now)
  if (line.closedAt !== null) return `Revoked on ${instantOf(line.closedAt)}. Nothing accepts it any more.`
  if (line.suspendedAt !== null)
    return `Suspended on ${instantOf(line.suspendedAt)}. Nothing accepts it until an admin restores it.`
  if (first === undefined) return 'No version of it works any more. Rotate it for a new value, or revoke it.'
  if (second !== undefined)
    return `v${second.version} was made ${ago(second.createdAt, now).text}. Until you cut over, v${first.version} and v${second.version} both work.`
  return first.firstUsedAt === null
    ? `v${first.version} was made ${ago(first.createdAt, now).text}, and has not been used yet.`
    : `v${first.version} works, connected since ${instantOf(first.firstUsedAt)}.`
}

export function callerRows(callers: readonly Caller[], now: Date) {
  return callers.map((caller) => ({
    agent: caller.agent === '' ? 'A program that gives no name' : caller.agent,
    address: caller.address === '' ? undefined : caller.address,
    noAddress: caller.agent === OTHERS ? 'Many addresses' : 'Not told',
    version: `v${caller.version}`,
    lastUse: ago(caller.lastAt, now),
    uses: caller.uses.toLocaleString('en'),
  }))
}

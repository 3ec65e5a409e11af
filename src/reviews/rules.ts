// When an access review is due, what becomes of what nobody attested, and what its report says. Pure.
import type { OrganizationId, ReviewId, ReviewItemId, WorkspaceId } from '../ids.ts'
import type { ReviewDecision, ReviewItemKind, ReviewOutcome, ReviewReason } from '../store/tables.ts'
import { currentVersion, goodVersions, type LineState, type VersionState } from '../workspace-tokens/rules.ts'

export const DUE_IN_DAYS = 14
export const INCIDENT_DUE_IN_DAYS = 3
export const LONGEST_DUE_IN_DAYS = 90

/** Whoever is to decide anew has so long at least. */
export const LEAST_DAYS_TO_DECIDE = 1

/** Whether what comes in now can be decided before the date. */
export function leavesTimeToDecide({ dueAt }: Pick<Review, 'dueAt'>, now: Date): boolean {
  return dueAt.getTime() - now.getTime() >= LEAST_DAYS_TO_DECIDE * DAY_MS
}

const DAY_MS = 86_400_000

/** After an incident nobody waits for two weeks. */
export function dueInDays(reason: ReviewReason, asked: number | undefined): number {
  return asked ?? (reason === 'incident' ? INCIDENT_DUE_IN_DAYS : DUE_IN_DAYS)
}

/** All of it is looked at again: what was made since is taken in. After an incident also what somebody has attested. */
export const takesInAll = (reason: ReviewReason): boolean => reason === 'incident' || reason === 'team_change'
export const asksAgain = (reason: ReviewReason): boolean => reason === 'incident'

/** Months between two reviews of a workspace. */
export const MONTHS_BETWEEN = { monthly: 1, quarterly: 3, yearly: 12 } as const

export interface Review {
  id: ReviewId
  organizationId: OrganizationId
  workspaceId: WorkspaceId
  reasons: ReviewReason[]
  openedBy: string
  openedAt: Date
  dueAt: Date
  /** By the database's time of this reading. */
  isDue: boolean
  closedAt: Date | null
  closedBy: string | null
}

/**
 * Until when a line lets anybody in: the end of the version that lives longest, or lived last; null: no end. As though it were
 * not suspended. `LIFE` says the same of a row.
 */
export function endOf<V extends VersionState>(line: LineState, versions: readonly V[], now: Date): Date | null {
  const good = goodVersions({ ...line, suspendedAt: null }, versions, now)
  const ends = good.map(({ expiresAt }) => expiresAt?.getTime() ?? Number.POSITIVE_INFINITY)
  if (ends.length === 0) return currentVersion(line, versions, now)?.expiresAt ?? null
  const last = Math.max(...ends)
  return Number.isFinite(last) ? new Date(last) : null
}

export type Snapshot = Record<string, unknown>

export interface ReviewItem {
  id: ReviewItemId
  kind: ReviewItemKind
  subjectId: string
  /** What it was when it came into the review. */
  snapshot: Snapshot
  /** Of that, what decides about access: as it is now. */
  granted: Snapshot
  /** What it was when somebody kept it, or called it changed. */
  attested: Snapshot | null
  /** It lets in more than what was attested. */
  isWider: boolean
  decision: ReviewDecision | null
  note: string | null
  decidedBy: string | null
  decidedAt: Date | null
  /** Set once it is final. */
  outcome: ReviewOutcome | null
  /** Revoked meanwhile, by this review or otherwise. */
  isEnded: boolean
}

type Standing = Pick<ReviewItem, 'decision' | 'outcome' | 'isEnded' | 'isWider'>

/** What has become of an item; undefined while somebody must still decide. Nobody attested what came after their word. */
export function outcomeOf(item: Standing): ReviewOutcome | undefined {
  if (item.outcome !== null) return item.outcome
  if (item.isEnded) return 'ended'
  if (item.isWider) return undefined
  if (item.decision === 'keep') return 'kept'
  return item.decision === 'changed' ? 'changed' : undefined
}

/** The same at the review's end: a policy cannot be suspended, it only stays unattested. */
export function finalOutcomeOf(item: ReviewItem): ReviewOutcome | undefined {
  return outcomeOf(item) ?? (item.kind === 'token_policy' ? 'not_attested' : undefined)
}

/** What decides about access and is not what it was, as it is now; undefined where all of it still is. */
export function changesOf(
  item: Pick<ReviewItem, 'snapshot' | 'granted' | 'outcome' | 'isEnded'>,
): Snapshot | undefined {
  if (item.outcome !== null || item.isEnded) return undefined
  const { snapshot, granted } = item
  const changed = Object.entries(granted).filter(([name, value]) => !isSame(value, snapshot[name] ?? null))
  return changed.length === 0 ? undefined : Object.fromEntries(changed)
}

/** Both were read from the database, which keeps members of an object in one order. */
const isSame = (one: unknown, other: unknown): boolean => JSON.stringify(one) === JSON.stringify(other)

export interface Counts {
  items: number
  decided: number
  undecided: number
}

export const NO_ITEMS: Counts = { items: 0, decided: 0, undecided: 0 }

/** - `twice`: it was decided so before. `unchanged`: nobody changed that policy. */
export type Verdict = 'new' | 'twice' | 'closed' | 'late' | 'over' | 'not_for_this' | 'unchanged'

/** Whether a decision may be made. Until the review's date the last word counts; what is revoked stays so. */
export function verdictOn(
  review: Pick<Review, 'closedAt' | 'isDue'>,
  item: Standing & Pick<ReviewItem, 'kind' | 'snapshot' | 'granted'>,
  decision: ReviewDecision,
): Verdict {
  if (!mayBe(item.kind, decision)) return 'not_for_this'
  if (item.decision === decision && !item.isWider) return 'twice'
  if (review.closedAt !== null) return 'closed'
  if (item.outcome !== null || (item.isEnded && decision !== 'revoke')) return 'over'
  if (review.isDue) return 'late'
  return decision === 'changed' && changesOf(item) === undefined ? 'unchanged' : 'new'
}

const mayBe = (kind: ReviewItemKind, decision: ReviewDecision) =>
  decision === 'keep' || (kind === 'token_policy') === (decision === 'changed')

export type Outcomes = Record<ReviewOutcome, number>

export const noOutcomes = (): Outcomes => ({ kept: 0, revoked: 0, changed: 0, suspended: 0, ended: 0, not_attested: 0 })

export function countOutcomes(outcomes: readonly ReviewOutcome[]): Outcomes {
  const counts = noOutcomes()
  for (const outcome of outcomes) counts[outcome]++
  return counts
}

export interface Report {
  report_version: 1
  review_id: string
  organization_id: string
  workspace_id: string
  reasons: string[]
  opened_at: string
  opened_by: string
  due_at: string
  closed_at: string
  closed_by: string
  counts: Outcomes
  items: Array<{
    id: string
    kind: ReviewItemKind
    subject_id: string
    /** At the opening. */
    snapshot: Snapshot
    decision: ReviewDecision | null
    note: string | null
    decided_by: string | null
    decided_at: string | null
    /** When it was kept, or called changed. */
    attested: Snapshot | null
    outcome: ReviewOutcome
  }>
}

/** Ids of people, never their names. @param items each with its final outcome, in one order */
export function reportOf(
  review: Review,
  items: ReadonlyArray<ReviewItem & { outcome: ReviewOutcome }>,
  closing: { at: Date; by: string },
): Report {
  return {
    report_version: 1,
    review_id: review.id,
    organization_id: review.organizationId,
    workspace_id: review.workspaceId,
    reasons: review.reasons,
    opened_at: review.openedAt.toISOString(),
    opened_by: review.openedBy,
    due_at: review.dueAt.toISOString(),
    closed_at: closing.at.toISOString(),
    closed_by: closing.by,
    counts: countOutcomes(items.map(({ outcome }) => outcome)),
    items: items.map((item) => ({
      id: item.id,
      kind: item.kind,
      subject_id: item.subjectId,
      snapshot: item.snapshot,
      decision: item.decision,
      note: item.note,
      decided_by: item.decidedBy,
      decided_at: item.decidedAt?.toISOString() ?? null,
      attested: item.attested,
      outcome: item.outcome,
    })),
  }
}

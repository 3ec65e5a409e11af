// What pages say of access reviews: how far one has come, each way in as it stood when it was opened, and what became of it.
import { isConnectionId, isKeyId } from '../ids.ts'
import { isOverdue, type Notice } from '../reminders/rules.ts'
import { changesOf, type Outcomes, outcomeOf, type Review, type ReviewItem, type Snapshot } from '../reviews/rules.ts'
import { digestOfGranted, type ListedReview, type ReviewView } from '../reviews/service.ts'
import type { Tally } from '../reviews/store.ts'
import type { ReviewOutcome, ReviewReason } from '../store/tables.ts'
import { isUnused } from '../workspace-tokens/rules.ts'
import { cutPath } from './pages.ts'
import { ageOf, ago, ahead, atDay, atInstant, counted, dayOf, type Moment } from './token-times.ts'
import { type Badge, ENVIRONMENT_WORDS, type Maker, makerOf, type Names } from './token-views.ts'

const REASONS: Record<ReviewReason, string> = {
  quarterly: 'on schedule',
  incident: 'after an incident',
  team_change: 'after a change of the team',
  asked: 'asked for',
}

const reasonsText = (reasons: readonly ReviewReason[]) => {
  const [first = '', ...rest] = reasons.map((reason) => REASONS[reason])
  return [first.charAt(0).toUpperCase() + first.slice(1), ...rest].join(', ')
}

/** In a line of a list. */
export function reviewRow({ review, counts }: ListedReview, base: string) {
  return {
    href: `${base}/${review.id}`,
    opened: atDay(review.openedAt),
    reasons: reasonsText(review.reasons),
    due: atDay(review.dueAt),
    decided: `${counts.decided.toLocaleString('en')} of ${counts.items.toLocaleString('en')}`,
    badge: standingOf(review, counts.undecided),
    isOpen: review.closedAt === null,
  }
}

function standingOf(review: Review, undecided: number): Badge {
  if (review.closedAt !== null) return { kind: 'retired', word: 'Closed' }
  return undecided > 0 ? { kind: 'due', word: 'Open' } : { kind: 'active', word: 'Decided' }
}

export interface ItemRow {
  id: string
  /** Of what is shown: what is kept must be that. */
  digest: string
  name: string
  /** Of what is known of it beside the name. */
  code: string
  cut: string
  href: string | undefined
  owner: Maker | undefined
  scopes: readonly string[]
  /** Where they are not what they were. */
  scopesNow: readonly string[] | undefined
  environment: string
  version: string
  lastUse: Moment | undefined
  age: string
  notes: readonly string[]
  outcome: { badge: Badge; by: Maker | undefined; note: string | null } | undefined
  /** What may still be decided of it. */
  mayKeep: boolean
  mayRevoke: boolean
  /** Of a policy. */
  mayChange: boolean
}

/** One review, with a page of what is to be decided. @param place.now the database's time */
export function reviewView(
  { review, counts, items }: ReviewView,
  tally: Tally,
  names: Names,
  place: { base: string; now: Date },
) {
  const rows = (kind: ReviewItem['kind']) =>
    items.filter((item) => item.kind === kind).map((item) => itemRow(item, review, names, place))
  const policy = items.find(({ kind }) => kind === 'token_policy')
  const isOpen = review.closedAt === null
  return {
    isOpen,
    reasons: reasonsText(review.reasons),
    opened: atInstant(review.openedAt),
    openedBy: openerOf(review.openedBy, names),
    due: atInstant(review.dueAt),
    dueIn: review.isDue ? undefined : ahead(review.dueAt, place.now),
    isDue: review.isDue,
    decided: counts.decided.toLocaleString('en'),
    undecided: counts.undecided,
    undecidedText:
      counts.undecided === 1
        ? 'One thing is undecided'
        : `${counts.undecided.toLocaleString('en')} things are undecided`,
    all: counts.items.toLocaleString('en'),
    closed: review.closedAt === null ? undefined : atInstant(review.closedAt),
    closedBy: review.closedBy === null ? undefined : openerOf(review.closedBy, names),
    outcomes: isOpen ? [] : outcomesOf(tally.outcomes),
    connections: { rows: rows('connection'), count: tally.kinds.connection.toLocaleString('en') },
    tokens: { rows: rows('token'), count: tally.kinds.token.toLocaleString('en') },
    policy: policy && { ...itemRow(policy, review, names, place), facts: policyFactsOf(policy) },
  }
}

function openerOf(by: string, names: Names): Maker {
  return by === 'schedule' ? { text: 'the schedule', isId: false } : makerOf(by, names)
}

export function itemRow(
  item: ReviewItem,
  review: Review,
  names: Names,
  { base, now }: { base: string; now: Date },
): ItemRow {
  const { snapshot } = item
  const changes = changesOf(item)
  const [createdAt, lastUsedAt] = [timeIn(snapshot, 'created_at'), timeIn(snapshot, 'last_used_at')]
  const owner = textIn(snapshot, 'user_id')
  const outcome = outcomeOf(item)
  const mayDecide = review.closedAt === null && !review.isDue && !item.isEnded && item.outcome === null
  return {
    id: item.id,
    digest: digestOfGranted(item),
    name: nameOf(item),
    code: textIn(snapshot, 'key_prefix') || item.subjectId,
    cut: cutPath(textIn(snapshot, 'key_prefix') || item.subjectId),
    href: item.isEnded ? undefined : pageOf(item, base),
    owner: owner === '' ? undefined : makerOf(owner, names),
    scopes: scopesIn(snapshot),
    scopesNow: hasOther(changes, ['permissions', 'resources']) ? scopesIn({ ...snapshot, ...changes }) : undefined,
    environment: environmentIn(snapshot),
    version: textIn(snapshot, 'token_version'),
    lastUse: lastUsedAt === undefined ? undefined : ago(lastUsedAt, now),
    age: createdAt === undefined ? '' : ageOf(createdAt, now),
    notes: [
      ...(item.isWider ? ['Lets in more than what was kept'] : []),
      ...notesOn(snapshot, { createdAt, lastUsedAt, openedAt: review.openedAt }),
      ...changesNoted(changes),
    ],
    outcome:
      outcome === undefined ? undefined : { badge: OUTCOMES[outcome], by: deciderOf(item, names), note: item.note },
    mayKeep: mayDecide && (item.decision !== 'keep' || item.isWider),
    mayRevoke: mayDecide,
    mayChange: mayDecide && changes !== undefined && (item.decision !== 'changed' || item.isWider),
  }
}

export function nameOf({ kind, snapshot, subjectId }: ReviewItem): string {
  if (kind === 'token_policy') return 'Token policy'
  return textIn(snapshot, kind === 'connection' ? 'client_name' : 'label') || subjectId
}

/** Where it is looked at, and ended outside of a review. */
function pageOf({ subjectId }: ReviewItem, base: string): string | undefined {
  if (isKeyId(subjectId)) return `${base}/tokens/${subjectId}`
  return isConnectionId(subjectId) ? `${base}/connections/${subjectId}` : undefined
}

const deciderOf = ({ decidedBy }: ReviewItem, names: Names) =>
  decidedBy === null ? undefined : makerOf(decidedBy, names)

const OUTCOMES: Record<ReviewOutcome, Badge> = {
  kept: { kind: 'active', word: 'Kept' },
  changed: { kind: 'active', word: 'Changed' },
  revoked: { kind: 'revoked', word: 'Revoked' },
  ended: { kind: 'retired', word: 'Ended meanwhile' },
  suspended: { kind: 'due', word: 'Suspended' },
  not_attested: { kind: 'due', word: 'Not attested' },
}

function outcomesOf(counts: Outcomes) {
  const kinds = Object.keys(OUTCOMES) as ReviewOutcome[] // its own keys
  return kinds.filter((kind) => counts[kind] > 0).map((kind) => ({ term: OUTCOMES[kind].word, count: counts[kind] }))
}

// --- What was kept of it when the review was opened --------------------------------------------------------------------------

const textIn = (snapshot: Snapshot, name: string): string => (typeof snapshot[name] === 'string' ? snapshot[name] : '')

function timeIn(snapshot: Snapshot, name: string): Date | undefined {
  const time = new Date(textIn(snapshot, name))
  return Number.isNaN(time.getTime()) ? undefined : time
}

const listIn = (snapshot: Snapshot, name: string): string[] =>
  Array.isArray(snapshot[name]) ? snapshot[name].filter((one) => typeof one === 'string') : []

function scopesIn(snapshot: Snapshot): string[] {
  const { resources } = snapshot
  if (Array.isArray(snapshot.permissions)) return listIn(snapshot, 'permissions')
  if (typeof resources !== 'object' || resources === null) return []
  const scopes = Object.values(resources).flatMap((granted) => (typeof granted === 'string' ? granted.split(' ') : []))
  return [...new Set(scopes)].filter((scope) => scope !== '')
}

function environmentIn(snapshot: Snapshot): string {
  const said = textIn(snapshot, 'environment')
  return said === 'production' || said === 'staging' || said === 'development' ? ENVIRONMENT_WORDS[said] : said
}

function notesOn(
  snapshot: Snapshot,
  times: { createdAt: Date | undefined; lastUsedAt: Date | undefined; openedAt: Date },
): string[] {
  const { createdAt, lastUsedAt, openedAt } = times
  const expiresAt = timeIn(snapshot, 'expires_at')
  const wasUnused = createdAt !== undefined && isUnused({ createdAt, lastUsedAt: lastUsedAt ?? null }, openedAt)
  return [
    ...(snapshot.suspended === true ? ['Suspended'] : []),
    ...(wasUnused ? ['Unused for 90 days'] : []),
    ...(expiresAt === undefined ? [] : [`Expires ${dayOf(expiresAt)}`]),
  ]
}

const hasOther = (changes: Snapshot | undefined, names: readonly string[]): boolean =>
  names.some((name) => changes?.[name] !== undefined)

function changesNoted(changes: Snapshot = {}): string[] {
  const expiresAt = timeIn(changes, 'expires_at')
  return [
    ...(changes.suspended === true ? ['Suspended meanwhile'] : []),
    ...(changes.suspended === false ? ['Restored meanwhile'] : []),
    ...(expiresAt === undefined ? [] : [`Now expires ${dayOf(expiresAt)}`]),
    ...(changes.expires_at === null ? ['Now without an end'] : []),
    ...(hasOther(changes, ['ip_allow_list']) ? ['Now for other addresses'] : []),
  ]
}

/** Each as it was, and as it is now where that is something else. */
function policyFactsOf(policy: ReviewItem) {
  const now = policyFacts({ ...policy.snapshot, ...changesOf(policy) })
  return policyFacts(policy.snapshot).map((fact, index) => {
    const text = now[index]?.text
    return { ...fact, now: text === fact.text ? undefined : text }
  })
}

function policyFacts(snapshot: Snapshot) {
  const days = snapshot.max_age_days
  const environments = listIn(snapshot, 'environments')
  return [
    { term: 'Tokens', text: snapshot.tokens_forbidden === true ? 'Forbidden: tools connect by signing in' : 'Allowed' },
    {
      term: 'Expiry',
      text: snapshot.expiry_required === true || typeof days === 'number' ? 'Required' : 'Not required',
    },
    { term: 'Longest life', text: typeof days === 'number' ? counted(days, 'day') : 'No limit' },
    { term: 'Environments', text: environments.length === 0 ? 'All' : environments.join(', ') },
  ]
}

// --- Notices --------------------------------------------------------------------------------------------------------------

export interface NoticeLine {
  href: string
  subjectId: string
  name: string
  /** The rest of a sentence that begins with the name. */
  text: string
  when: Moment
}

/** What somebody who administers a workspace is told of, and where they do something about it. */
export function noticeLine(notice: Notice, labels: Names): NoticeLine {
  const { kind, subjectId, workspaceId, dueAt, createdAt } = notice
  const base = `/workspaces/${workspaceId}`
  const isReview = kind === 'review_due'
  return {
    href: isReview ? `${base}/reviews/${subjectId}` : `${base}/tokens/${subjectId}`,
    subjectId,
    name: isReview ? 'The access review' : (labels.get(subjectId) ?? subjectId),
    text: NOTICE_TEXTS[kind](dueAt === null ? 'soon' : dayOf(dueAt), isOverdue(notice)),
    when: atDay(createdAt),
  }
}

const NOTICE_TEXTS: Record<Notice['kind'], (day: string, isOverdue: boolean) => string> = {
  token_expiring: (day) => `expires on ${day}: rotate it before.`,
  rotation_required: (day, isOverdue) =>
    `${isOverdue ? 'was to be' : 'must be'} rotated by ${day}${isOverdue ? ' and is overdue' : ''}: its maker has left, or is no longer an admin.`,
  token_unused: () => 'was not used for 90 days: revoke it, unless you know what it is for.',
  review_due: (day) => `ends on ${day}: what nobody attests by then is suspended.`,
}

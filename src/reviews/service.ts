// Access reviews: opened on a schedule, by somebody or by what happened; each way into a workspace is kept or revoked by an
// admin; what nobody attested by the date is suspended; the outcome is one signed report (docs/decisions/0013).
import canonicalize from 'canonicalize'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import type { ReviewEvery } from '../config.ts'
import { type ConnectionView, endConnection, listConnections, setConnectionSuspended } from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { isConnectionId, isKeyId, newId, type OrganizationId, type ReviewId, type WorkspaceId } from '../ids.ts'
import { lockWorkspace, lockWorkspaceForUpdate } from '../organizations/store.ts'
import type { Authority } from '../principals/rules.ts'
import { actorOf, lockAuthority } from '../principals/service.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import type { SinkSigner } from '../sink/signing.ts'
import { type Db, reading, readTime, type Trx, transact } from '../store/database.ts'
import type { ReviewDecision, ReviewReason } from '../store/tables.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import { currentVersion, type TokenPolicy } from '../workspace-tokens/rules.ts'
import { endToken, setTokenSuspended } from '../workspace-tokens/service.ts'
import * as tokens from '../workspace-tokens/store.ts'
import {
  type Counts,
  countsOf,
  dueInDays,
  finalOutcomeOf,
  MONTHS_BETWEEN,
  outcomeOf,
  type Report,
  type Review,
  type ReviewItem,
  reportOf,
  verdictOn,
} from './rules.ts'
import * as store from './store.ts'

export interface ReviewsDeps {
  db: Db
  revocations: RevocationList
  signer: Pick<SinkSigner, 'signDocument'>
}

interface By {
  actor: Actor
  request: RequestInfo
}

/** What somebody asks for over the API or a page. */
interface Asked {
  workspaceId: string
  authority: Authority
  request: RequestInfo
}

export interface ReviewView {
  review: Review
  items: ReviewItem[]
}

// --- Open ---------------------------------------------------------------------------------------------------------------

export interface Opened extends ReviewView {
  /** False: one was open already, and has one more reason now. */
  isNew: boolean
}

/**
 * Opens a review, or adds a reason to the one that is open.
 *
 * @throws {AppError} what `lockAuthority` throws
 */
export function openReview(
  db: Db,
  input: Asked & { reason: ReviewReason; dueInDays?: number | undefined },
): Promise<Opened> {
  return transact(db, async (trx) => {
    await lockWorkspaceForUpdate(trx, input.workspaceId) // first, or who makes a token now would be waited for in a circle
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin' })
    return openIn(trx, place, { ...input, actor: actorOf(input.authority) })
  })
}

/**
 * Somebody was removed from workspaces, or may do less there: what stands in them is looked at again. Part of the
 * transaction of that change, which has locked the workspaces to change them. Where nothing stands, there is nothing to
 * look at.
 */
export async function openReviewAfterTeamChange(
  trx: Trx,
  input: { organizationId: OrganizationId; workspaceIds: readonly WorkspaceId[] } & By,
): Promise<void> {
  for (const workspaceId of input.workspaceIds) {
    const place = { organizationId: input.organizationId, workspaceId }
    if (await store.hasCredentials(trx, workspaceId)) await openIn(trx, place, { ...input, reason: 'team_change' })
  }
}

/** @param months of an installation's schedule @returns how many there were, at most a batch */
export async function openScheduled(db: Db, every: ReviewEvery, batch: number): Promise<number> {
  if (every === 'off') return 0
  const months = MONTHS_BETWEEN[every]
  const due = await reading(store.listToBeReviewed(db, months, batch))
  for (const id of due) await openOneScheduled(db, id, months)
  return due.length
}

/** Another process may have opened it since: whoever has the workspace looks again. */
function openOneScheduled(db: Db, id: WorkspaceId, months: number): Promise<void> {
  return transact(db, async (trx) => {
    const workspace = await lockWorkspaceForUpdate(trx, id)
    if (workspace === undefined || !(await store.isStillToBeReviewed(trx, id, months))) return
    const place = { organizationId: workspace.organization_id, workspaceId: workspace.id }
    await openIn(trx, place, { reason: 'quarterly', ...scheduled(`review-${id}`) })
  })
}

const scheduled = (traceId: string): By => ({ actor: { kind: 'schedule' }, request: { traceId } })

interface Place {
  organizationId: OrganizationId
  workspaceId: WorkspaceId
}

/** The workspace is locked: nobody makes a credential in it, or another review, meanwhile. */
async function openIn(
  trx: Trx,
  place: Place,
  input: { reason: ReviewReason; dueInDays?: number | undefined } & By,
): Promise<Opened> {
  const open = await store.lockOpenReview(trx, place.workspaceId)
  const days = dueInDays(input.reason, input.dueInDays)
  const review =
    open === undefined ? await insertReview(trx, place, input, days) : await addReason(trx, open, input, days)
  return { ...(await viewOf(trx, review)), isNew: open === undefined }
}

async function insertReview(trx: Trx, place: Place, input: { reason: ReviewReason } & By, days: number) {
  const review = await store.insertReview(trx, {
    ...place,
    id: newId('rev'),
    reason: input.reason,
    openedBy: nameOf(input.actor),
    dueInDays: days,
  })
  const items = await itemsOf(trx, place)
  await store.insertItems(trx, review.id, items)
  await recordReview(trx, review, input, {
    event: 'review.opened',
    detail: { reason: input.reason, due_at: rfc3339(review.dueAt), items: items.length },
  })
  return review
}

/** An incident brings the date nearer; other reasons leave it. */
async function addReason(trx: Trx, open: Review, input: { reason: ReviewReason } & By, days: number): Promise<Review> {
  const isUrgent = input.reason === 'incident'
  const review = await store.addReason(trx, open.id, { reason: input.reason, dueInDays: isUrgent ? days : null })
  const isSame = open.reasons.includes(input.reason) && review.dueAt.getTime() === open.dueAt.getTime()
  if (!isSame)
    await recordReview(trx, review, input, {
      event: 'review.reason_added',
      detail: { reason: input.reason, due_at: rfc3339(review.dueAt) },
    })
  return review
}

const nameOf = (actor: Actor): string => actor.id ?? actor.kind

function recordReview(
  trx: Trx,
  review: Review,
  by: By,
  what: { event: string; detail: Record<string, unknown>; credentialId?: string | null },
): Promise<void> {
  return record(trx, {
    event: what.event,
    status: 'pass',
    actor: by.actor,
    request: by.request,
    organizationId: review.organizationId,
    workspaceId: review.workspaceId,
    credentialId: what.credentialId ?? null,
    detail: { review: review.id, ...what.detail },
  })
}

// --- What is looked at --------------------------------------------------------------------------------------------------

/** Every way into a workspace as it stands now, and its policy on tokens. */
async function itemsOf(trx: Trx, place: Place): Promise<store.NewItem[]> {
  const connections = await listConnections(trx, place.workspaceId)
  const lines = await tokens.listLines(trx, place)
  const now = await readTime(trx)
  const policy = await tokens.findPolicy(trx, place.workspaceId)
  return [
    ...connections.map((view) => item('connection', view.id, ofConnection(view))),
    ...lines.map((line) => item('token', line.id, ofToken(line, now))),
    item('token_policy', place.workspaceId, ofPolicy(policy)),
  ]
}

const item = (kind: store.NewItem['kind'], subjectId: string, snapshot: Record<string, unknown>): store.NewItem => ({
  id: newId('rvi'),
  kind,
  subjectId,
  snapshot,
})

function ofConnection(view: ConnectionView) {
  return {
    client_id: view.client.id,
    client_name: view.client.name,
    user_id: view.userId,
    resources: view.resources,
    environment: view.environment,
    token_version: `v${view.version}`,
    suspended: view.suspendedAt !== null,
    created_at: rfc3339(view.createdAt),
    last_used_at: rfc3339OrNull(view.lastUse?.at ?? null),
  }
}

function ofToken(line: tokens.TokenLine, now: Date) {
  const current = currentVersion(line, line.versions, now)
  const uses = line.versions.map(({ lastUsedAt }) => lastUsedAt?.getTime() ?? 0)
  const lastUse = Math.max(0, ...uses)
  return {
    label: line.label,
    user_id: line.userId,
    permissions: line.permissions,
    resources: line.resources,
    environment: line.environment,
    token_version: `v${line.version}`,
    key_prefix: current?.keyPrefix ?? null,
    ip_allow_list: line.ipAllowList,
    suspended: line.suspendedAt !== null,
    created_at: rfc3339(line.createdAt),
    expires_at: rfc3339OrNull(current?.expiresAt ?? null),
    last_used_at: lastUse === 0 ? null : rfc3339(new Date(lastUse)),
  }
}

const ofPolicy = (policy: TokenPolicy) => ({
  tokens_forbidden: policy.tokensForbidden,
  expiry_required: policy.expiryRequired,
  max_age_days: policy.maxAgeDays,
  environments: policy.environments,
})

// --- Read ---------------------------------------------------------------------------------------------------------------

async function viewOf(executor: Db | Trx, review: Review): Promise<ReviewView> {
  return { review, items: await store.listItems(executor, review.id) }
}

export interface ListedReview {
  review: Review
  counts: Counts
}

/** Newest first. The caller has been let in by now. */
export async function listReviews(
  db: Db,
  workspaceId: WorkspaceId,
  page: { after?: string | undefined; limit?: number | undefined } = {},
): Promise<ListedReview[]> {
  const reviews = await reading(store.listReviews(db, workspaceId, page))
  const ids = reviews.map(({ id }) => id)
  const counts = await reading(store.listCounts(db, ids))
  return reviews.map((review) => ({ review, counts: counts.get(review.id) ?? countsOf([]) }))
}

/** @throws {AppError} `not_found` also for one of another workspace */
export async function getReview(db: Db, workspaceId: WorkspaceId, id: string): Promise<ReviewView> {
  const review = await reading(store.findReview(db, id))
  if (review?.workspaceId !== workspaceId) throw new AppError('not_found')
  return reading(viewOf(db, review))
}

/** @throws {AppError} `not_found` while the review is open, too */
export async function getReport(
  db: Db,
  workspaceId: WorkspaceId,
  id: string,
): Promise<{ report: Report; jws: string }> {
  const review = await reading(store.findReview(db, id))
  if (review?.workspaceId !== workspaceId) throw new AppError('not_found')
  const jws = await reading(store.findReport(db, review.id))
  if (jws === undefined)
    throw new AppError('not_found', { detail: 'This review is open: there is a report once it is closed.' })
  // Whoever needs to trust it verifies the JWS; this is what it says, also where its key is no longer here.
  return { report: JSON.parse(Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString('utf8')), jws }
}

// --- Decide -------------------------------------------------------------------------------------------------------------

/**
 * An admin keeps or revokes one item. What is revoked has ended everywhere once this resolves. The same decision twice
 * changes nothing.
 *
 * @throws {AppError} `not_found`, `invalid_request` for a decision that is not for this kind, `wrong_credential` for a
 * credential that attests itself, `conflict` where it is too late, and what `lockAuthority` throws
 */
export async function decideItem(
  deps: Pick<ReviewsDeps, 'db' | 'revocations'>,
  input: Asked & { reviewId: string; itemId: string; decision: ReviewDecision; note: string | null },
): Promise<ReviewItem> {
  const { authority, decision, note } = input
  const subject = await reading(store.findSubject(deps.db, input.itemId))
  return deps.revocations.change(async (trx, revoke) => {
    const changes = subject !== undefined && isKeyId(subject) ? subject : undefined
    const place = await lockAuthority(trx, authority, input.workspaceId, { role: 'admin', changes })
    const review = await store.lockReview(trx, input.reviewId, 'share')
    if (review?.workspaceId !== place.workspaceId) throw new AppError('not_found')
    const found = await store.lockItem(trx, review.id, input.itemId)
    if (found === undefined) throw new AppError('not_found')
    const verdict = verdictOn(review, found, decision)
    if (verdict === 'twice') return found
    if (verdict === 'not_for_this')
      throw new AppError('invalid_request', { detail: `decision: a ${found.kind} cannot be ${WORDS[decision]}.` })
    if (verdict !== 'new') throw new AppError('conflict', { detail: REFUSALS[verdict] })
    const by: By = { actor: actorOf(authority), request: input.request }
    if (decision === 'keep' && by.actor.id === found.subjectId)
      throw new AppError('wrong_credential', { detail: 'A credential does not attest itself.' })
    if (decision === 'revoke') await end(trx, revoke, found, by)
    const outcome = decision === 'revoke' ? 'revoked' : null
    await store.decideItem(trx, found.id, { decision, note, by: nameOf(by.actor), outcome })
    await recordReview(trx, review, by, {
      event: decision === 'revoke' ? 'review.revoked' : 'review.attested',
      credentialId: found.kind === 'token_policy' ? null : found.subjectId,
      detail: { item: found.id, decision },
    })
    return (await store.lockItem(trx, review.id, found.id)) ?? found
  })
}

const WORDS: Record<ReviewDecision, string> = { keep: 'kept', revoke: 'revoked', changed: 'called changed' }
const REFUSALS = {
  closed: 'This review is closed.',
  late: 'The date of this review has passed: what nobody attested is suspended.',
  over: 'This has ended, or is suspended: there is nothing left to decide.',
}

function end(trx: Trx, revoke: Revoke, { subjectId: id }: ReviewItem, by: By): Promise<void> {
  if (isConnectionId(id)) return endConnection(trx, revoke, { id, reason: 'review', ...by })
  if (isKeyId(id)) return endToken(trx, revoke, { id, reason: 'review', ...by })
  throw new TypeError('only a credential can be revoked')
}

// --- Close --------------------------------------------------------------------------------------------------------------

/**
 * Closes a review whose items are all decided, before its date. Doing it twice changes nothing.
 *
 * @throws {AppError} `conflict` while items are undecided, `not_found`, and what `lockAuthority` throws
 */
export async function closeDecided(deps: ReviewsDeps, input: Asked & { reviewId: string }): Promise<ReviewView> {
  const workspaceId = await transact(deps.db, async (trx) => {
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin' })
    return place.workspaceId
  })
  const { review } = await getReview(deps.db, workspaceId, input.reviewId)
  const by = { actor: actorOf(input.authority), request: input.request }
  const undecided = await finish(deps, review.id, outcomeOf, by)
  if (undecided > 0)
    throw new AppError('conflict', { detail: `${undecided} of its items must be decided before a review is closed.` })
  return getReview(deps.db, workspaceId, input.reviewId)
}

/**
 * Closes a review at once: what nobody attested is suspended. Each item is a transaction by itself: whoever comes after a
 * process that was killed goes on where it stopped.
 *
 * @throws {AppError} `not_found`
 */
export async function closeNow(deps: ReviewsDeps, input: { reviewId: string } & By): Promise<ReviewView> {
  const review = await reading(store.findReview(deps.db, input.reviewId))
  if (review === undefined) throw new AppError('not_found', { detail: `There is no review ${input.reviewId}.` })
  do for (const left of await listUnattested(deps.db, review.id)) await suspend(deps, review, left, input)
  while ((await finish(deps, review.id, finalOutcomeOf, input)) > 0)
  return getReview(deps.db, review.workspaceId, review.id)
}

/** @returns how many there were, at most a batch */
export async function closeDue(deps: ReviewsDeps, batch: number): Promise<number> {
  const due = await reading(store.listDue(deps.db, batch))
  for (const id of due) await closeNow(deps, { reviewId: id, ...scheduled(`review-${id}`) })
  return due.length
}

async function listUnattested(db: Db, id: ReviewId): Promise<ReviewItem[]> {
  const items = await reading(store.listItems(db, id))
  return items.filter((candidate) => finalOutcomeOf(candidate) === undefined)
}

function suspend(deps: ReviewsDeps, { id, workspaceId }: Review, left: ReviewItem, by: By): Promise<void> {
  return deps.revocations.change(async (trx, revoke) => {
    await lockWorkspace(trx, workspaceId) // the lock order
    const review = await store.lockReview(trx, id, 'share')
    if (review === undefined || review.closedAt !== null) return
    const found = await store.lockItem(trx, id, left.id)
    if (found === undefined || finalOutcomeOf(found) !== undefined) return // decided since, or by another process
    const { actor, request } = by
    const change = { suspended: true, reason: 'not_attested', actor, request }
    if (isConnectionId(found.subjectId)) await setConnectionSuspended(trx, revoke, { id: found.subjectId, ...change })
    else if (isKeyId(found.subjectId)) await setTokenSuspended(trx, revoke, { id: found.subjectId, ...change })
    await store.settleItem(trx, found.id, 'suspended')
  })
}

type Settle = (item: ReviewItem) => ReviewItem['outcome'] | undefined

/**
 * Signs the report, and closes the review if what it says still holds. One process does; for others it is closed already.
 *
 * @returns how many items are undecided: then nothing was done
 */
async function finish(deps: ReviewsDeps, id: ReviewId, settle: Settle, by: By): Promise<number> {
  for (;;) {
    const draft = await reading(draftOf(deps.db, id, settle, { at: await readTime(deps.db), by: nameOf(by.actor) }))
    if (draft === undefined) return 0
    if (draft.report === undefined) return draft.undecided
    // Before anything is locked: nobody waits for a signature.
    const jws = await deps.signer.signDocument('latchkey-access-review', JSON.parse(canonical(draft.report)))
    if (await commitClosing(deps.db, { id, settle, by, report: draft.report, jws })) return 0
  }
}

interface Draft {
  review: Review
  undecided: number
  /** Undefined while items are undecided. */
  report: Report | undefined
  settled: Array<ReviewItem & { outcome: NonNullable<ReviewItem['outcome']> }>
}

/** Undefined for a review that is closed. */
async function draftOf(
  executor: Db | Trx,
  id: ReviewId,
  settle: Settle,
  closing: { at: Date; by: string },
): Promise<Draft | undefined> {
  const review = await store.findReview(executor, id)
  if (review === undefined || review.closedAt !== null) return undefined
  const items = await store.listItems(executor, id)
  const settled = items.flatMap((candidate) => {
    const outcome = settle(candidate)
    return outcome == null ? [] : [{ ...candidate, outcome }]
  })
  const undecided = items.length - settled.length
  return { review, undecided, settled, report: undecided > 0 ? undefined : reportOf(review, settled, closing) }
}

/** @returns false where somebody has decided otherwise since the report was made */
function commitClosing(
  db: Db,
  input: { id: ReviewId; settle: Settle; by: By; report: Report; jws: string },
): Promise<boolean> {
  const { id, report } = input
  return transact(db, async (trx) => {
    const review = await store.lockReview(trx, id, 'update')
    if (review === undefined || review.closedAt !== null) return true
    const closing = { at: new Date(report.closed_at), by: report.closed_by }
    const now = await draftOf(trx, id, input.settle, closing)
    if (now?.report === undefined || canonical(now.report) !== canonical(report)) return false
    for (const item of now.settled) await store.settleItem(trx, item.id, item.outcome)
    await store.closeReview(trx, id, { ...closing, report: input.jws })
    await recordReview(trx, review, input.by, { event: 'review.closed', detail: { ...report.counts } })
    return true
  })
}

/** RFC 8785. */
function canonical(value: unknown): string {
  return canonicalize(value) ?? ''
}

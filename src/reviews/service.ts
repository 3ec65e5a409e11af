// Access reviews: opened on a schedule, by somebody or by what happened; each way into a workspace is kept or revoked by an
// admin; what nobody attested by the date is suspended; the outcome is one signed report (docs/decisions/0013).
import { createHash } from 'node:crypto'
import canonicalize from 'canonicalize'
import type { JWK } from 'jose'
import { z } from 'zod'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import type { ReviewEvery } from '../config.ts'
import {
  endConnection,
  findOpenConnection,
  listConnections,
  setConnectionSuspended,
  snapshotOf,
} from '../connections/service.ts'
import { AppError } from '../errors.ts'
import { isConnectionId, isKeyId, newId, type OrganizationId, type ReviewId, type WorkspaceId } from '../ids.ts'
import { lockWorkspace, lockWorkspaceForUpdate } from '../organizations/store.ts'
import type { Authority } from '../principals/rules.ts'
import { actorOf, lockAuthority, lockPeople, requireAttester } from '../principals/service.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import { openSigned, type SinkSigner } from '../sink/signing.ts'
import { type Db, reading, readTime, type Trx, transact } from '../store/database.ts'
import type { ReviewDecision, ReviewReason } from '../store/tables.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import { currentVersion, type TokenPolicy } from '../workspace-tokens/rules.ts'
import { endToken, setTokenSuspended } from '../workspace-tokens/service.ts'
import * as tokens from '../workspace-tokens/store.ts'
import {
  asksAgain,
  type Counts,
  dueInDays,
  endOf,
  finalOutcomeOf,
  LEAST_DAYS_TO_DECIDE,
  leavesTimeToDecide,
  MONTHS_BETWEEN,
  NO_ITEMS,
  outcomeOf,
  type Report,
  type Review,
  type ReviewItem,
  reportOf,
  type Snapshot,
  takesInAll,
  verdictOn,
} from './rules.ts'
import * as store from './store.ts'

const REPORT_TYPE = 'latchkey-access-review'

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
  counts: Counts
  /** A page of them. */
  items: ReviewItem[]
}

/** Items that an answer holds at most: the rest are on the next pages. */
export const MOST_ITEMS = 500

// --- Open ---------------------------------------------------------------------------------------------------------------

export interface Opened {
  review: Review
  /** False: one was open already, and has one more reason now. */
  isNew: boolean
}

/**
 * Opens a review, or adds a reason to the one that is open.
 *
 * @throws {AppError} `conflict` where one is open whose date has passed, `wrong_credential` for an incident that a credential
 * of the workspace tells of, and what `lockAuthority` throws
 */
export async function openReview(
  db: Db,
  input: Asked & { reason: ReviewReason; dueInDays?: number | undefined },
): Promise<Opened & ReviewView> {
  const { review, isNew } = await transact(db, async (trx) => {
    await lockPeople(trx, input.authority)
    await lockWorkspaceForUpdate(trx, input.workspaceId) // first, or who makes a token now would be waited for in a circle
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin' })
    if (asksAgain(input.reason)) await requireAttester(trx, input.authority) // it takes back what people attested
    const opened = await openIn(trx, place, { ...input, actor: actorOf(input.authority) })
    if (opened === undefined)
      throw new AppError('conflict', {
        detail: 'The date of the open review has passed: it is being closed. Ask again in a minute.',
      })
    return opened
  })
  return { ...(await reading(viewOf(db, review))), isNew }
}

/**
 * Somebody was removed from workspaces, or may do less there: what stands in them is to be looked at again. Part of the
 * transaction of that change, which waits for no review: `openAfterTeamChanges` opens them. Where nothing stands, there is
 * nothing to look at.
 */
export function askForReviews(trx: Trx, input: { workspaceIds: readonly WorkspaceId[] } & By): Promise<void> {
  return store.insertTeamChanges(trx, input)
}

/** @param batch how many are read at once @returns how many there were @throws {AggregateError} as `eachOf` */
export function openAfterTeamChanges(db: Db, batch: number): Promise<number> {
  return eachOf<WorkspaceId>(
    (page) => store.listTeamChanges(db, page),
    batch,
    (id) => openAfterTeamChange(db, id),
  )
}

/** One whose open review leaves no time to decide more waits until that is closed. */
function openAfterTeamChange(db: Db, id: WorkspaceId): Promise<void> {
  return transact(db, async (trx) => {
    const workspace = await lockWorkspaceForUpdate(trx, id)
    const open = workspace && (await store.lockOpenReview(trx, id))
    if (open !== undefined && !leavesTimeToDecide(open, await readTime(trx))) return
    const by = await store.takeTeamChange(trx, id)
    if (workspace === undefined || by === undefined) return // archived: nothing of it lets anybody in
    await openIn(trx, placeOf(workspace), { ...by, reason: 'team_change' })
  })
}

/** @param every an installation's schedule @param batch how many are read at once @returns how many there were @throws {AggregateError} as `eachOf` */
export async function openScheduled(db: Db, every: ReviewEvery, batch: number): Promise<number> {
  if (every === 'off') return 0
  const months = MONTHS_BETWEEN[every]
  return eachOf<WorkspaceId>(
    (page) => store.listToBeReviewed(db, months, page),
    batch,
    (id) => openOneScheduled(db, id, months),
  )
}

/** Another process may have opened it since: whoever has the workspace looks again. */
function openOneScheduled(db: Db, id: WorkspaceId, months: number): Promise<void> {
  return transact(db, async (trx) => {
    const workspace = await lockWorkspaceForUpdate(trx, id)
    if (workspace === undefined || !(await store.isStillToBeReviewed(trx, id, months))) return
    await openIn(trx, placeOf(workspace), { reason: 'quarterly', ...scheduled(`review-${id}`) })
  })
}

const scheduled = (traceId: string): By => ({ actor: { kind: 'schedule' }, request: { traceId } })

interface Place {
  organizationId: OrganizationId
  workspaceId: WorkspaceId
}

const placeOf = (workspace: { id: WorkspaceId; organization_id: OrganizationId }): Place => ({
  organizationId: workspace.organization_id,
  workspaceId: workspace.id,
})

/**
 * The workspace is locked: nobody makes a credential in it, or another review, meanwhile. Undefined where the date of the
 * open one has passed: what came into it now would be suspended before anybody could look at it.
 */
async function openIn(
  trx: Trx,
  place: Place,
  input: { reason: ReviewReason; dueInDays?: number | undefined } & By,
): Promise<Opened | undefined> {
  const open = await store.lockOpenReview(trx, place.workspaceId)
  const days = dueInDays(input.reason, input.dueInDays)
  if (open === undefined) return { review: await insertReview(trx, place, input, days), isNew: true }
  if (open.isDue) return undefined
  return { review: await addReason(trx, open, input, days), isNew: false }
}

async function insertReview(trx: Trx, place: Place, input: { reason: ReviewReason } & By, days: number) {
  const review = await store.insertReview(trx, {
    ...place,
    id: newId('rev'),
    reason: input.reason,
    openedBy: nameOf(input.actor),
    dueInDays: days,
  })
  const items = await store.insertItems(trx, review.id, await itemsOf(trx, place))
  await recordReview(trx, review, input, {
    event: 'review.opened',
    detail: { reason: input.reason, due_at: rfc3339(review.dueAt), items },
  })
  return review
}

/**
 * After an incident and after a change of the team all is looked at. An incident brings the date nearer besides, and leaves
 * time for what is to be decided because of it.
 */
async function addReason(trx: Trx, open: Review, input: { reason: ReviewReason } & By, days: number): Promise<Review> {
  const { reason } = input
  const added = takesInAll(reason) ? await store.insertItems(trx, open.id, await itemsOf(trx, open)) : 0
  const undecided = asksAgain(reason) ? await store.takeBackDecisions(trx, open.id) : 0
  const due = { inDays: days, leastDays: added + undecided > 0 ? LEAST_DAYS_TO_DECIDE : 0 }
  const review = await store.addReason(trx, open.id, { reason, due: reason === 'incident' ? due : null })
  const isSame = open.reasons.includes(reason) && review.dueAt.getTime() === open.dueAt.getTime()
  if (!isSame || added > 0 || undecided > 0)
    await recordReview(trx, review, input, {
      event: 'review.reason_added',
      detail: { reason, due_at: rfc3339(review.dueAt), items_added: added, decisions_taken_back: undecided },
    })
  return review
}

/**
 * Does something with each, whatever happens to the others, and those that are not done once more: none of them takes the
 * time of all.
 *
 * @param work resolves to false where there is more to do
 * @returns how many there were
 * @throws {AggregateError} at the end, where something went wrong
 */
async function eachOf<I extends string>(
  list: (page: { after: I | undefined; limit: number }) => Promise<I[]>,
  batch: number,
  work: (id: I) => Promise<unknown>,
): Promise<number> {
  const seen = new Set<I>()
  const failed = new Map<I, unknown>()
  const isDone = async (id: I): Promise<boolean> => {
    seen.add(id)
    try {
      return failed.has(id) || (await work(id)) !== false
    } catch (error) {
      failed.set(id, error)
      return true
    }
  }
  let isLeft: boolean
  do {
    isLeft = false
    for await (const id of listed(list, batch)) if (!(await isDone(id))) isLeft = true
  } while (isLeft)
  if (failed.size === 0) return seen.size
  const [cause] = failed.values()
  throw new AggregateError(failed.values(), `${[...failed.keys()].join(', ')} failed`, { cause })
}

async function* listed<I extends string>(
  list: (page: { after: I | undefined; limit: number }) => Promise<I[]>,
  batch: number,
): AsyncGenerator<I> {
  let page: I[]
  let after: I | undefined
  do {
    page = await reading(list({ after, limit: batch }))
    yield* page
    after = page.at(-1)
  } while (page.length === batch)
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

/** A workspace's policy on tokens, and every way into it as it stands now. */
async function itemsOf(trx: Trx, place: Place): Promise<store.NewItem[]> {
  const connections = await listConnections(trx, place.workspaceId)
  const lines = await tokens.listLines(trx, { organizationId: place.organizationId, workspaceId: place.workspaceId })
  const now = await readTime(trx)
  const policy = await tokens.findPolicy(trx, place.workspaceId)
  return [
    item('token_policy', place.workspaceId, ofPolicy(policy)),
    ...connections.map((view) => item('connection', view.id, snapshotOf(view))),
    ...lines.map((line) => item('token', line.id, ofToken(line, now))),
  ]
}

const item = (kind: store.NewItem['kind'], subjectId: string, snapshot: Snapshot): store.NewItem => ({
  id: newId('rvi'),
  kind,
  subject_id: subjectId,
  snapshot,
})

/** What an item is about, as it stands now: what somebody attests. */
async function attestedOf(trx: Trx, { workspaceId, organizationId }: Place, found: ReviewItem): Promise<Snapshot> {
  const { subjectId: id, snapshot, granted } = found
  if (isConnectionId(id)) {
    const view = await findOpenConnection(trx, { workspaceId }, id)
    return { ...(view === undefined ? snapshot : snapshotOf(view)), ...granted }
  }
  const line = isKeyId(id) ? await tokens.findLine(trx, { organizationId, workspaceId }, id) : undefined
  return { ...(line === undefined ? snapshot : ofToken(line, await readTime(trx))), ...granted }
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
    expires_at: rfc3339OrNull(endOf(line, line.versions, now)),
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

async function viewOf(executor: Db, review: Review, page: store.ItemPage = { limit: MOST_ITEMS }): Promise<ReviewView> {
  const counts = await store.listCounts(executor, [review.id])
  const items = await store.listItems(executor, review.id, page)
  return { review, counts: counts.get(review.id) ?? NO_ITEMS, items }
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
  return reviews.map((review) => ({ review, counts: counts.get(review.id) ?? NO_ITEMS }))
}

/** @param page of its items @throws {AppError} `not_found` also for one of another workspace */
export async function getReview(
  db: Db,
  workspaceId: WorkspaceId,
  id: string,
  page?: store.ItemPage,
): Promise<ReviewView> {
  const review = await reading(store.findReview(db, id))
  if (review?.workspaceId !== workspaceId) throw new AppError('not_found')
  return reading(viewOf(db, review, page))
}

/** One item of a review, which has been found by now. @throws {AppError} `not_found` */
export async function getItem(db: Db, review: Review, id: string): Promise<ReviewItem> {
  const found = await reading(store.findItem(db, review.id, id))
  if (found === undefined) throw new AppError('not_found')
  return found
}

/** How many of each kind there are in a review, and what became of them. */
export function tallyReview(db: Db, review: Review): Promise<store.Tally> {
  return reading(store.tallyItems(db, review.id))
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
  return { report: JSON.parse(contentOf(jws)), jws }
}

// --- Decide -------------------------------------------------------------------------------------------------------------

/**
 * An admin keeps or revokes one item. What is revoked has ended everywhere once this resolves. The same decision twice
 * changes nothing.
 *
 * @param input.seen the `digestOfGranted` of what was shown to whoever attests it; undefined where they tell none
 * @throws {AppError} `not_found`, `invalid_request` for a decision that is not for this kind, `wrong_credential` for a
 * credential that attests, `conflict` where it is too late or not what was seen, and what `lockAuthority` throws
 */
export async function decideItem(
  deps: Pick<ReviewsDeps, 'db' | 'revocations'>,
  input: Asked & {
    reviewId: string
    itemId: string
    decision: ReviewDecision
    note: string | null
    seen?: string | undefined
  },
): Promise<ReviewItem> {
  const { authority, decision, note } = input
  const subject = await reading(store.findSubject(deps.db, input.itemId))
  return deps.revocations.change(async (trx, revoke) => {
    const changes = subject !== undefined && isKeyId(subject) ? subject : undefined
    const place = await lockAuthority(trx, authority, input.workspaceId, { role: 'admin', changes })
    if (decision !== 'revoke') await requireAttester(trx, authority)
    else if (subject !== undefined) await store.lockSubjects(trx, [subject])
    const review = await store.lockReview(trx, input.reviewId, 'share')
    if (review?.workspaceId !== place.workspaceId) throw new AppError('not_found')
    const found = await store.lockItem(trx, review.id, input.itemId)
    if (found === undefined) throw new AppError('not_found')
    if (isToChange(review, found, decision)) {
      const isSeen = input.seen === undefined || input.seen === digestOfGranted(found)
      if (decision !== 'revoke' && !isSeen) throw new AppError('conflict', { detail: NOT_SEEN })
      await change(trx, revoke, { review, found, decision, note, actor: actorOf(authority), request: input.request })
    }
    return (await store.lockItem(trx, review.id, found.id)) ?? found
  })
}

const NOT_SEEN = 'This is not what was shown any more. It is shown as it is now: look at it again, and decide.'

/** Of what decides about access: the same as long as nothing of that changes. */
export function digestOfGranted({ granted }: Pick<ReviewItem, 'granted'>): string {
  return createHash('sha256').update(JSON.stringify(granted)).digest('base64url') // its members come in one order
}

/** @returns false for what was decided so before @throws {AppError} `invalid_request`, `conflict` */
function isToChange(review: Review, found: ReviewItem, decision: ReviewDecision): boolean {
  const verdict = verdictOn(review, found, decision)
  if (verdict === 'twice') return false
  if (verdict === 'new') return true
  if (verdict === 'not_for_this')
    throw new AppError('invalid_request', { detail: `decision: a ${found.kind} cannot be ${WORDS[decision]}.` })
  throw new AppError('conflict', { detail: REFUSALS[verdict] })
}

async function change(
  trx: Trx,
  revoke: Revoke,
  input: { review: Review; found: ReviewItem; decision: ReviewDecision; note: string | null } & By,
): Promise<void> {
  const { review, found, decision, note } = input
  const revokes = decision === 'revoke'
  if (revokes) await end(trx, revoke, found, input)
  await store.decideItem(trx, found.id, {
    decision,
    note,
    by: nameOf(input.actor),
    attested: revokes ? null : await attestedOf(trx, review, found),
    outcome: revokes ? 'revoked' : null,
  })
  await recordReview(trx, review, input, {
    event: revokes ? 'review.revoked' : 'review.attested',
    credentialId: found.kind === 'token_policy' ? null : found.subjectId,
    detail: { item: found.id, decision },
  })
}

const WORDS: Record<ReviewDecision, string> = { keep: 'kept', revoke: 'revoked', changed: 'called changed' }
const REFUSALS = {
  closed: 'This review is closed.',
  late: 'The date of this review has passed: what nobody attested is suspended.',
  over: 'This has ended, or is suspended: there is nothing left to decide.',
  unchanged: 'The token policy is what it was when the review was opened: keep it, or change it first.',
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
 * @throws {AppError} `conflict` while items are undecided, `wrong_credential` as `decideItem`, `not_found`, and what
 * `lockAuthority` throws
 */
export async function closeDecided(deps: ReviewsDeps, input: Asked & { reviewId: string }): Promise<ReviewView> {
  const workspaceId = await transact(deps.db, async (trx) => {
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin' })
    await requireAttester(trx, input.authority)
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
 * Closes a review at once: what nobody attested is suspended, some items a transaction. Whoever comes after a process that
 * was killed goes on where it stopped.
 *
 * @throws {AppError} `not_found`
 */
export async function closeNow(deps: ReviewsDeps, input: { reviewId: string } & By): Promise<ReviewView> {
  const review = await reading(store.findReview(deps.db, input.reviewId))
  if (review === undefined) throw new AppError('not_found', { detail: `There is no review ${input.reviewId}.` })
  while (!(await closeSome(deps, review, input)));
  return getReview(deps.db, review.workspaceId, review.id)
}

/** @param batch how many are read at once @returns how many there were @throws {AggregateError} as `eachOf` */
export function closeDue(deps: ReviewsDeps, batch: number): Promise<number> {
  return eachOf<ReviewId>(
    (page) => store.listDue(deps.db, page),
    batch,
    async (id) => {
      const review = await reading(store.findReview(deps.db, id))
      return review === undefined || closeSome(deps, review, scheduled(`review-${id}`))
    },
  )
}

/** Each of them is waited for everywhere: together they wait once. */
const SUSPENDED_AT_ONCE = 50
/** Of one review, before others have their turn. */
const SUSPENDED_IN_TURN = 500

/** @returns whether the review is closed now */
async function closeSome(deps: ReviewsDeps, review: Review, by: By): Promise<boolean> {
  for (let done = 0; done < SUSPENDED_IN_TURN; done += SUSPENDED_AT_ONCE) {
    const left = await reading(store.listUnattested(deps.db, review.id, SUSPENDED_AT_ONCE))
    if (left.length === 0) return (await finish(deps, review.id, finalOutcomeOf, by)) === 0
    await suspend(deps, review, left, by)
  }
  return false
}

function suspend(
  deps: ReviewsDeps,
  { id, workspaceId }: Review,
  left: ReadonlyArray<Pick<ReviewItem, 'id' | 'subjectId'>>,
  by: By,
): Promise<void> {
  return deps.revocations.change(async (trx, revoke) => {
    await lockWorkspace(trx, workspaceId) // the lock order
    await store.lockSubjects(
      trx,
      left.map(({ subjectId }) => subjectId),
    )
    const review = await store.lockReview(trx, id, 'share')
    if (review === undefined || review.closedAt !== null) return
    const locked = await store.lockItems(
      trx,
      left.map((each) => each.id),
    )
    const unattested = locked.filter((found) => finalOutcomeOf(found) === undefined) // others were decided since, or by another process
    for (const { subjectId } of unattested) await suspendOne(trx, revoke, subjectId, by)
    await store.settleItems(
      trx,
      unattested.map((each) => ({ id: each.id, outcome: 'suspended' })),
    )
  })
}

async function suspendOne(trx: Trx, revoke: Revoke, id: string, { actor, request }: By): Promise<void> {
  const change = { suspended: true, reason: 'not_attested', actor, request }
  if (isConnectionId(id)) await setConnectionSuspended(trx, revoke, { id, ...change })
  else if (isKeyId(id)) await setTokenSuspended(trx, revoke, { id, ...change })
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
    const jws = await deps.signer.signDocument(REPORT_TYPE, JSON.parse(canonical(draft.report)))
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
    await store.settleItems(trx, now.settled)
    await store.closeReview(trx, id, { ...closing, report: input.jws })
    await recordReview(trx, review, input.by, { event: 'review.closed', detail: { ...report.counts } })
    return true
  })
}

// --- Verify -------------------------------------------------------------------------------------------------------------

export interface ReportVerification {
  ok: boolean
  /** What is signed; null where nothing is. */
  review: string | null
  closed_at: string | null
  /** `unchecked`: no key was given. */
  signature: 'good' | 'unchecked' | 'wrong'
  /** - `report_changed`: what is read beside the signature is not what was signed. */
  fault: 'not_readable' | 'signature_wrong' | 'report_changed' | null
}

/**
 * Whether a report, as the API and the page give it out, is what was signed: with nothing but its text and public keys.
 *
 * @param keys of the server that closed the review (RFC 7517); none: the signature is left unchecked, and said so
 */
export async function verifyReport(text: string, keys: readonly JWK[]): Promise<ReportVerification> {
  const file = readReport(text)
  const found = { ok: false, review: null, closed_at: null, signature: 'unchecked' } as const
  if (file === undefined) return { ...found, fault: 'not_readable' }
  const signed =
    keys.length === 0 ? undefined : signedReport.safeParse(await openSigned(keys, REPORT_TYPE, file.jws)).data
  if (keys.length > 0 && signed === undefined) return { ...found, signature: 'wrong', fault: 'signature_wrong' }
  const told = signed ?? signedReport.safeParse(parseJson(contentOf(file.jws))).data
  if (told === undefined) return { ...found, fault: 'not_readable' }
  const isSame = file.said === tryTo(() => canonical(told))
  return {
    ok: isSame,
    review: told.review_id,
    closed_at: told.closed_at,
    signature: signed === undefined ? 'unchecked' : 'good',
    fault: isSame ? null : 'report_changed',
  }
}

/**
 * What a file says, the report in its RFC 8785 form. Undefined for one that is not written as ours are: with members twice, or
 * numbers in another way, another reader might find something else in it than what is verified here.
 */
function readReport(text: string): { said: string; jws: string } | undefined {
  return tryTo(() => {
    const value: unknown = JSON.parse(text)
    const { report, jws } = reportFile.parse(value)
    const isOurs = [undefined, 2].some((indent) => JSON.stringify(value, undefined, indent) === text.replace(/\n$/, ''))
    return isOurs ? { said: canonical(report), jws } : undefined
  })
}

/** Its members as they were parsed: a copy would lack a `__proto__`. */
const reportFile = z.custom<{ report: object; jws: string }>(
  (value) =>
    z.looseObject({ report: z.looseObject({}), jws: z.string() }).safeParse(value).success &&
    Object.keys(value as object).length === 2, // an object: it was parsed as one
)
const signedReport = z.looseObject({ report_version: z.literal(1), review_id: z.string(), closed_at: z.string() })

const contentOf = (jws: string): string => Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString('utf8')

const parseJson = (text: string): unknown => tryTo(() => JSON.parse(text))

/** Undefined for what cannot be read, or is too deep. */
function tryTo<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch {
    return undefined
  }
}

/** RFC 8785. */
function canonical(value: unknown): string {
  return canonicalize(value) ?? ''
}

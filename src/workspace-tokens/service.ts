// The life of tokens: created, rotated, cut over, revoked. Organization keys are the same thing one level up. A value is
// in the one answer that made it; what is kept of it is a digest.
import { type Actor, type RequestInfo, record, recordAll } from '../audit/service.ts'
import { digestOf, type Secret } from '../crypto/secret.ts'
import { newToken } from '../crypto/token-value.ts'
import { AppError } from '../errors.ts'
import { once, type Repeatable } from '../idempotency/service.ts'
import { isKeyId, type KeyId, newId, type WorkspaceId } from '../ids.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { lockWorkspaceForUpdate } from '../organizations/store.ts'
import type { Authority } from '../principals/rules.ts'
import {
  type Authorised,
  actorOf,
  lockAdmin,
  lockAuthority,
  lockPeople,
  type Owner,
  requireAttester,
} from '../principals/service.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import type { RevocationChange } from '../revocation/store.ts'
import { type Db, type Executor, reading, readTime, type Trx, transact } from '../store/database.ts'
import { setSuspended } from '../store/suspension.ts'
import type { Environment } from '../store/tables.ts'
import {
  currentVersion,
  endOfSameLife,
  floorAt,
  goodVersions,
  MOST_GOOD_VERSIONS,
  NO_POLICY,
  policyProblem,
  ROTATE_WITHIN_DAYS,
  type RotationReason,
  rotationRequired,
  scopesAt,
  type TokenPolicy,
} from './rules.ts'
import * as store from './store.ts'

export interface TokensDeps {
  db: Db
  revocations: RevocationList
}

export interface By {
  authority: Authority
  request: RequestInfo
}

/** Without an end, at a time, or so many seconds from now. */
export type Expiry = { at: Date } | { inSeconds: number } | null

export interface NewTokenInput {
  label: string
  environment: Environment
  permissions: readonly string[]
  resources: readonly string[] | null
  ipAllowList: readonly string[] | null
  expiry: Expiry
}

/** A line as it stood at `now`, the database's time. */
export interface TokenView {
  line: store.TokenLine
  now: Date
}

export interface IssuedToken extends TokenView {
  /** Undefined when a call is repeated: it was shown before. */
  value: Secret | undefined
}

// --- Create ------------------------------------------------------------------------------------------------------------

/**
 * Makes a token.
 *
 * @throws {AppError} `invalid_request` for permissions that nobody knows or an end that is past, `policy_forbids`,
 * `label_in_use`, and what `lockAuthority` throws
 */
export async function createToken(
  deps: TokensDeps & { resourceServers: ResourceServers },
  input: NewTokenInput & { owner: Owner; repeatable?: Repeatable | undefined } & By,
): Promise<IssuedToken> {
  const servers = await deps.resourceServers.list()
  const issued = newToken('workspaceId' in input.owner ? 'workspace' : 'organization')
  return transact(deps.db, async (trx) => {
    const { result, isRepeat } = await once(trx, input.repeatable, async () => {
      const place = await authorise(trx, input, input.owner, { makes: true })
      const grantedRole = isAtLeast(place.role, 'owner') ? 'owner' : 'admin'
      const unknown = input.permissions.find(
        (permission) =>
          !servers.some((server) => scopesAt(server, { ...input, permissions: [permission], grantedRole }).length > 0),
      )
      if (unknown !== undefined) throw new AppError('invalid_request', { detail: unknownPermission(unknown, input) })
      const expiresAt = await endOf(trx, input.expiry)
      await obeyPolicy(trx, place, { environment: input.environment, expiresAt })
      const id = newId('key')
      const createdBy = actorOf(input.authority)
      const inserted = await store.insertLine(trx, {
        ...input,
        id,
        place,
        grantedRole,
        createdBy: createdBy.id ?? createdBy.kind,
        userId: place.userId,
      })
      if (!inserted) throw await labelInUse(trx, place, input)
      await insertIssued(trx, { id, version: 1, issued, createdBy, expiresAt })
      await record(trx, {
        ...eventOf(place, input),
        event: place.workspaceId === null ? 'organization_key.created' : 'token.created',
        userId: place.userId,
        credentialId: id,
        tokenVersion: 1,
        detail: {
          label: input.label,
          environment: input.environment,
          permissions: input.permissions,
          expires_at: expiresAt?.toISOString() ?? null,
          ...(input.ipAllowList === null ? {} : { ip_allow_list: input.ipAllowList }),
          ...(input.resources === null ? {} : { resources: input.resources }),
        },
      })
      return { id }
    })
    return { ...(await viewOf(trx, result.id)), value: isRepeat ? undefined : issued.value }
  })
}

function unknownPermission(permission: string, input: NewTokenInput): string {
  const where = input.resources === null ? 'No API' : 'None of these APIs'
  return `${where} of the environment ${input.environment} has a permission ${JSON.stringify(permission)} that you may give.`
}

async function labelInUse(trx: Trx, place: Placed, input: NewTokenInput): Promise<AppError> {
  const other = await store.findByLabel(trx, place, input.environment, input.label)
  return new AppError('label_in_use', {
    detail: `${other?.id ?? 'Another token'} has this label${place.workspaceId === null ? '' : ` in ${input.environment}`}: rotate it with POST …/api-keys/${other?.id ?? '{id}'}/rotate, or choose another label.`,
  })
}

// --- Rotate and cut over -----------------------------------------------------------------------------------------------

export type Cutover = { mode: 'manual' } | { mode: 'on_first_use'; afterSeconds: number } | { mode: 'at'; at: Date }

/**
 * Makes the next version of a line: same id, label and permissions, a new value. Both work until the cutover.
 *
 * @param input.expiry of the new version; undefined: it lives as long as the one before was meant to
 * @throws {AppError} `not_found`, `token_ended`, `suspended`, `cutover_pending` where two work already, `policy_forbids`
 */
export async function rotateToken(
  deps: TokensDeps,
  input: {
    owner: Owner
    id: string
    cutover: Cutover
    expiry: Expiry | undefined
    repeatable?: Repeatable | undefined
  } & By,
): Promise<IssuedToken> {
  const issued = newToken('workspaceId' in input.owner ? 'workspace' : 'organization')
  return deps.revocations.change(async (trx, revoke) => {
    const { result, isRepeat } = await once(trx, input.repeatable, async () => {
      const place = await authorise(trx, input, input.owner, { changes: input.id, makes: true })
      const { line: locked, now } = await lockOpenLine(trx, place, input.id)
      if (locked.suspendedAt !== null) throw new AppError('suspended')
      const line = await settleCutover(trx, revoke, locked, now)
      const good = goodVersions(line, line.versions, now)
      if (good.length >= MOST_GOOD_VERSIONS) throw new AppError('cutover_pending')
      const asked = input.expiry === undefined ? sameLife(line, now) : await endOf(trx, input.expiry)
      const expiresAt = notBeyondItself(line, input, asked)
      await obeyPolicy(trx, place, { environment: line.environment, expiresAt })
      if (input.cutover.mode === 'at' && input.cutover.at <= now)
        throw new AppError('invalid_request', { detail: 'The time of the cutover is past.' })
      const version = line.version + 1
      const createdBy = actorOf(input.authority)
      await insertIssued(trx, { id: line.id, version, issued, createdBy, expiresAt })
      await store.updateForRotation(trx, line.id, {
        version,
        cutover: input.cutover.mode,
        afterSeconds: input.cutover.mode === 'on_first_use' ? input.cutover.afterSeconds : null,
        at: input.cutover.mode === 'at' ? input.cutover.at : null,
      })
      await record(trx, {
        ...eventOf(place, input),
        event: 'token.rotated',
        userId: line.userId,
        credentialId: line.id,
        tokenVersion: version,
        detail: { cutover: input.cutover.mode, expires_at: expiresAt?.toISOString() ?? null },
      })
      // What processes remember of the older version says nothing of this cutover.
      const nextFloor = input.cutover.mode === 'at' ? { floor: version, at: input.cutover.at } : null
      revoke({ subject: line.id, nextFloor })
      return { id: line.id }
    })
    return { ...(await viewOf(trx, result.id)), value: isRepeat ? undefined : issued.value }
  })
}

/**
 * A token that rotates itself does not outlive itself: a temporary copy stays one.
 *
 * @throws {AppError} `policy_forbids` where it asks for a longer life
 */
function notBeyondItself(
  line: store.TokenLine,
  { authority, expiry }: { authority: Authority; expiry: Expiry | undefined },
  asked: Date | null,
): Date | null {
  const isItself = authority.kind === 'key' && authority.id === line.id
  const own = line.versions.find((version) => isItself && version.version === authority.version)?.expiresAt ?? null
  if (own === null || (asked !== null && asked <= own)) return asked
  if (expiry === undefined) return own
  throw new AppError('policy_forbids', {
    detail: 'A token cannot give itself a longer life than it has: that takes an admin.',
  })
}

/** As long a life as the newest version was given. */
function sameLife(line: store.TokenLine, now: Date): Date | null {
  const newest = line.versions.find(({ version }) => version === line.version)
  return newest === undefined ? null : endOfSameLife(newest, now)
}

/**
 * Retires all versions older than the newest that works. Doing it twice changes nothing.
 *
 * @throws {AppError} `not_found`, `token_ended`
 */
export function cutOver(deps: TokensDeps, input: { owner: Owner; id: string } & By): Promise<TokenView> {
  return deps.revocations.change(async (trx, revoke) => {
    const place = await authorise(trx, input, input.owner, { changes: input.id })
    const { line, now } = await lockOpenLine(trx, place, input.id)
    const newest = currentVersion(line, line.versions, now)?.version ?? line.version
    if (line.floor < newest) await retireBelow(trx, revoke, line, newest, eventOf(place, input))
    return { line: (await store.findAnyLine(trx, line.id)) ?? line, now }
  })
}

async function retireBelow(
  trx: Trx,
  revoke: Revoke,
  line: store.TokenLine,
  floor: number,
  by: ReturnType<typeof eventOf>,
): Promise<void> {
  await store.raiseFloor(trx, line.id, floor)
  await record(trx, {
    ...by,
    event: 'token.cut_over',
    userId: line.userId,
    credentialId: line.id,
    tokenVersion: floor,
    detail: { retired_below: `v${floor}` },
  })
  revoke({ subject: line.id, floor, nextFloor: null })
}

/**
 * The newest value of a line is used for the first time, and its rotation was to end with that. Resolves when no process
 * takes the older value any more, also for whoever comes second; or, where the rotation gave it some seconds more, when
 * every process knows until when.
 */
export async function cutOverOnFirstUse(
  deps: TokensDeps,
  token: { id: KeyId; version: number; organizationId: Placed['organizationId']; workspaceId: WorkspaceId | null },
  request: RequestInfo,
): Promise<void> {
  const isFirst = await deps.revocations.change(async (trx, revoke) => {
    const line = await store.lockLine(trx, token.id, 'update')
    const isDue = line?.cutover === 'on_first_use' && line.version === token.version && line.floor < line.version
    if (line === undefined || !isDue || line.closedAt !== null || line.suspendedAt !== null) return false
    const by = eventOf(token, { authority: { kind: 'key', id: token.id, version: token.version }, request })
    if (!line.cutoverAfterSeconds) {
      await retireBelow(trx, revoke, line, line.version, by)
      return true
    }
    const at = await store.scheduleCutover(trx, line.id, line.cutoverAfterSeconds)
    await record(trx, {
      ...by,
      event: 'token.cutover_scheduled',
      userId: line.userId,
      credentialId: line.id,
      tokenVersion: line.version,
      detail: { after_seconds: line.cutoverAfterSeconds },
    })
    revoke({ subject: line.id, nextFloor: { floor: line.version, at } })
    return true
  })
  if (!isFirst) await deps.revocations.everyoneKnows(token.id)
}

/** Cutovers whose time has come are written down: until then every process has judged by the time itself. */
export async function commitDueCutovers(deps: TokensDeps, batch: number): Promise<number> {
  const due = await reading(store.listDueCutovers(deps.db, batch))
  for (const id of due) {
    await deps.revocations.change(async (trx, revoke) => {
      const line = await store.lockLine(trx, id, 'update')
      if (line !== undefined) await settleCutover(trx, revoke, line, await readTime(trx))
    })
  }
  return due.length
}

/**
 * Writes down a cutover whose time has come. Whatever changes a line does this first: a change of its versions puts the
 * time aside, and what the time has retired would work again.
 */
async function settleCutover(trx: Trx, revoke: Revoke, line: store.TokenLine, now: Date): Promise<store.TokenLine> {
  const floor = floorAt(line, now)
  if (line.closedAt !== null || floor === line.floor) return line
  await retireBelow(trx, revoke, line, floor, {
    status: 'pass',
    actor: { kind: 'schedule' },
    request: { traceId: `cutover-${line.id}` },
    organizationId: line.organizationId,
    workspaceId: line.workspaceId,
  })
  return (await store.findAnyLine(trx, line.id)) ?? line
}

// --- Revoke --------------------------------------------------------------------------------------------------------------

/**
 * Ends a line: no version of it is accepted anywhere once this resolves. Doing it twice changes nothing.
 *
 * @throws {AppError} `not_found`
 */
export function revokeToken(
  deps: TokensDeps,
  input: { owner: Owner; id: string; reason?: string | undefined } & By,
): Promise<void> {
  return deps.revocations.change(async (trx, revoke) => {
    const place = await authorise(trx, input, input.owner, { changes: input.id })
    const line = await lockLineOf(trx, place, input.id)
    await endLine(trx, revoke, line, { ...input, actor: actorOf(input.authority) })
  })
}

async function endLine(
  trx: Trx,
  revoke: Revoke,
  line: store.TokenLine,
  by: { reason?: string | undefined; actor: Actor; request: RequestInfo },
): Promise<void> {
  revoke({ subject: line.id, closed: true })
  if (line.closedAt !== null) return
  await store.closeLine(trx, line.id, by.reason ?? 'revoked')
  await record(trx, {
    event: line.workspaceId === null ? 'organization_key.revoked' : 'token.revoked',
    status: 'pass',
    actor: by.actor,
    request: by.request,
    organizationId: line.organizationId,
    workspaceId: line.workspaceId,
    userId: line.userId,
    credentialId: line.id,
    tokenVersion: line.version,
    detail: by.reason === undefined ? {} : { reason: by.reason },
  })
}

/**
 * The same as a part of the caller's transaction, who has been let in by now.
 *
 * @throws {AppError} `not_found` for one that never was
 */
export async function endToken(
  trx: Trx,
  revoke: Revoke,
  input: { id: KeyId; reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  const line = await store.lockLine(trx, input.id, 'update')
  if (line === undefined) throw new AppError('not_found')
  await endLine(trx, revoke, line, input)
}

/**
 * Ends one version, whichever; the others go on.
 *
 * @throws {AppError} `not_found` also for a version that never was
 */
export function revokeVersion(
  deps: TokensDeps,
  input: { owner: Owner; id: string; version: number } & By,
): Promise<void> {
  return deps.revocations.change(async (trx, revoke) => {
    const place = await authorise(trx, input, input.owner, { changes: input.id })
    const line = await settleCutover(trx, revoke, await lockLineOf(trx, place, input.id), await readTime(trx))
    const version = line.versions.find((candidate) => candidate.version === input.version)
    if (version === undefined) throw new AppError('not_found')
    if (version.deadAt === null)
      await endVersion(trx, line, version.version, eventOf(place, input), 'token.version_revoked')
    revoke(deadVersion(line, version.version))
  })
}

/** A cutover to the version is off with it. */
function deadVersion(line: store.TokenLine, version: number): RevocationChange {
  return { subject: line.id, dead: [version], ...(version === line.version ? { nextFloor: null } : {}) }
}

async function endVersion(
  trx: Trx,
  line: store.TokenLine,
  version: number,
  by: ReturnType<typeof eventOf>,
  event: string,
): Promise<void> {
  await store.killVersion(trx, line, version)
  const after = await store.findAnyLine(trx, line.id)
  const isMet = after !== undefined && rotationRequired(after, after.versions, await readTime(trx)) === undefined
  if (isMet && line.rotationRequiredBy !== null) await store.clearRotation(trx, line.id)
  await record(trx, { ...by, event, userId: line.userId, credentialId: line.id, tokenVersion: version })
}

/** Somebody found a value where it should not be. Whoever holds it may end that version. */
export async function revokeLeaked(deps: TokensDeps, value: string, request: RequestInfo): Promise<void> {
  const found = await reading(store.findByDigest(deps.db, digestOf(value)))
  if (found === undefined) return
  await deps.revocations.change(async (trx, revoke) => {
    const locked = await store.lockLine(trx, found.token_id, 'update')
    const line = locked && (await settleCutover(trx, revoke, locked, await readTime(trx)))
    const version = line?.versions.find((candidate) => candidate.version === found.version)
    if (line === undefined || version === undefined) return
    const by = { status: 'pass', actor: { kind: 'nobody' }, request } as const
    const place = { organizationId: line.organizationId, workspaceId: line.workspaceId }
    if (version.deadAt === null)
      await endVersion(trx, line, version.version, { ...by, ...place }, 'token.leak_reported')
    revoke(deadVersion(line, version.version))
  })
}

// --- Suspend -------------------------------------------------------------------------------------------------------------

/**
 * Suspends a line, or lifts it: while it is suspended no version of it is accepted anywhere, nor a JWT that came from it, and
 * a JWT from before stays refused. Part of the caller's transaction; doing it twice changes nothing, and one that has ended
 * stays ended.
 *
 * @param input.reason a fixed word such as `not_attested`, never a person's text
 * @throws {AppError} `not_found` for one that never was
 */
export async function setTokenSuspended(
  trx: Trx,
  revoke: Revoke,
  input: { id: KeyId; suspended: boolean; reason: string; actor: Actor; request: RequestInfo },
): Promise<void> {
  const { suspended, reason, actor, request } = input
  const line = await store.lockLine(trx, input.id, 'update')
  if (line === undefined) throw new AppError('not_found')
  if (line.closedAt !== null) return revoke({ subject: line.id, closed: true })
  const isNew = await setSuspended(trx, 'token_lines', line.id, suspended ? { reason } : null)
  revoke({ subject: line.id, suspended, ...(isNew && suspended ? { notBeforeNow: true } : {}) })
  if (!isNew) return
  await record(trx, {
    event: suspended ? 'token.suspended' : 'token.restored',
    status: 'pass',
    actor,
    request,
    organizationId: line.organizationId,
    workspaceId: line.workspaceId,
    userId: line.userId,
    credentialId: line.id,
    tokenVersion: line.version,
    detail: { reason },
  })
}

/**
 * The same, for an admin who asks for it. Giving back what was taken takes a recent sign-in, and whoever could attest it.
 *
 * @throws {AppError} `not_found`, `token_ended`, `wrong_credential`, and what `lockAuthority` throws
 */
export function suspendToken(
  deps: TokensDeps,
  input: { owner: Owner; id: string; suspended: boolean } & By,
): Promise<TokenView> {
  const { suspended, request } = input
  return deps.revocations.change(async (trx, revoke) => {
    const place = await authorise(trx, input, input.owner, { changes: input.id, makes: !suspended })
    if (!suspended) await requireAttester(trx, input.authority)
    const { line } = await lockOpenLine(trx, place, input.id)
    const actor = actorOf(input.authority)
    await setTokenSuspended(trx, revoke, { id: line.id, suspended, reason: 'asked_for', actor, request })
    return viewOf(trx, line.id)
  })
}

// --- Duties --------------------------------------------------------------------------------------------------------------

/** Open tokens that a person stands behind. The caller has been let in by now. */
export const listTokensOfPerson = store.listOfPerson
/** The same, locked to change them. */
export const lockTokensOfPerson = store.lockOfPerson

/**
 * Whoever made tokens has left, or is no admin any more, and may still know their values: they must be rotated. Part of the
 * transaction of what happened to the person, which may have made thousands. They are locked by now.
 */
export async function requireRotations(
  trx: Trx,
  lines: readonly store.TokenLine[],
  by: { reason: RotationReason; actor: Actor; request: RequestInfo },
): Promise<void> {
  if (lines.length === 0) return
  const { reason, actor, request } = by
  const now = await readTime(trx)
  const due = lines
    .map((line) => ({ line, unmet: rotationRequired(line, line.versions, now) }))
    .filter(({ line, unmet }) => unmet?.reason !== reason || line.rotationRequiredBelow !== line.version + 1)
    .map(({ line, unmet }) => ({ line, keeps: unmet?.by }))
  const until = await store.requireRotations(trx, due, { days: ROTATE_WITHIN_DAYS, reason })
  await recordAll(
    trx,
    due.map(({ line }) => ({
      event: 'token.rotation_required',
      status: 'pass',
      actor,
      request,
      organizationId: line.organizationId,
      workspaceId: line.workspaceId,
      userId: line.userId,
      credentialId: line.id,
      tokenVersion: line.version,
      detail: { by: until.get(line.id)?.toISOString() ?? null, reason },
    })),
  )
}

// --- Read ---------------------------------------------------------------------------------------------------------------

/** In the order in which they were made. The caller has been let in by now. */
export async function listTokens(db: Db, place: store.Place, options: store.ListOptions = {}): Promise<TokenView[]> {
  const [lines, now] = await Promise.all([reading(store.listLines(db, place, options)), reading(readTime(db))])
  return lines.map((line) => ({ line, now }))
}

/** The open token of a place that has this label; an organization's labels are one set for all environments. */
export function findTokenByLabel(
  db: Db,
  place: store.Place,
  { environment, label }: { environment: Environment; label: string },
): Promise<{ id: KeyId } | undefined> {
  return reading(store.findByLabel(db, place, environment, label))
}

/** @throws {AppError} `not_found` */
export async function getToken(db: Db, place: store.Place, id: string): Promise<TokenView> {
  const line = isKeyId(id) ? await reading(store.findLine(db, place, id)) : undefined
  if (line === undefined) throw new AppError('not_found')
  return { line, now: await reading(readTime(db)) }
}

/** In the transaction that made it: once that is committed, nothing more can keep the value from its one answer. */
async function viewOf(executor: Executor, id: KeyId): Promise<TokenView> {
  const line = await store.findAnyLine(executor, id)
  if (line === undefined) throw new AppError('not_found')
  return { line, now: await readTime(executor) }
}

// --- Policy --------------------------------------------------------------------------------------------------------------

export function getPolicy(db: Db, workspaceId: WorkspaceId): Promise<TokenPolicy> {
  return reading(store.findPolicy(db, workspaceId))
}

/** It holds for what is made from now on; what is there and breaks it is listed, not ended. */
export function setPolicy(
  deps: TokensDeps,
  input: { workspaceId: string; policy: TokenPolicy } & By,
): Promise<TokenPolicy> {
  return transact(deps.db, async (trx) => {
    await lockPeople(trx, input.authority)
    await lockWorkspaceForUpdate(trx, input.workspaceId) // first, or who makes a token now would be waited for in a circle
    const place = await lockAuthority(trx, input.authority, input.workspaceId, { role: 'admin', recentSignIn: true })
    await store.putPolicy(trx, place.workspaceId, input.policy)
    await record(trx, {
      ...eventOf(place, input),
      event: 'token_policy.changed',
      detail: {
        tokens_forbidden: input.policy.tokensForbidden,
        expiry_required: input.policy.expiryRequired,
        max_age_days: input.policy.maxAgeDays,
        environments: input.policy.environments,
      },
    })
    return input.policy
  })
}

// --- What they share -----------------------------------------------------------------------------------------------------

type Placed = store.Place & Pick<Authorised, 'role' | 'userId'>

/**
 * Who may make and end tokens: an admin, or a credential that stands for one. Whoever makes one has signed in just now;
 * ending one is never held up.
 */
async function authorise(
  trx: Trx,
  by: By,
  owner: Owner,
  options: { changes?: string; makes?: boolean },
): Promise<Placed> {
  const { authority } = by
  const changes = options.changes !== undefined && isKeyId(options.changes) ? options.changes : undefined
  return lockAdmin(trx, authority, owner, { recentSignIn: options.makes === true, changes })
}

async function lockLineOf(trx: Trx, place: store.Place, id: string): Promise<store.TokenLine> {
  const line = isKeyId(id) ? await store.lockLine(trx, id, 'update') : undefined
  const isThere = line?.organizationId === place.organizationId && line.workspaceId === place.workspaceId
  if (line === undefined || !isThere) throw new AppError('not_found')
  return line
}

async function lockOpenLine(trx: Trx, place: store.Place, id: string): Promise<TokenView> {
  const line = await lockLineOf(trx, place, id)
  if (line.closedAt !== null) throw new AppError('token_ended')
  return { line, now: await readTime(trx) }
}

async function endOf(trx: Trx, expiry: Expiry): Promise<Date | null> {
  if (expiry === null) return null
  const now = await readTime(trx)
  const end = 'at' in expiry ? expiry.at : new Date(now.getTime() + expiry.inSeconds * 1000)
  if (end <= now) throw new AppError('invalid_request', { detail: 'The expiry is past.' })
  return end
}

async function obeyPolicy(
  trx: Trx,
  place: store.Place,
  wanted: { environment: Environment; expiresAt: Date | null },
): Promise<void> {
  const policy = place.workspaceId === null ? NO_POLICY : await store.findPolicy(trx, place.workspaceId)
  const problem = policyProblem(policy, wanted, await readTime(trx))
  if (problem !== undefined) throw new AppError('policy_forbids', { detail: `${problem}.` })
}

function insertIssued(
  trx: Trx,
  version: {
    id: KeyId
    version: number
    issued: ReturnType<typeof newToken>
    createdBy: Actor
    expiresAt: Date | null
  },
): Promise<void> {
  return store.insertVersion(trx, {
    token_id: version.id,
    version: version.version,
    digest: digestOf(version.issued.value.reveal()),
    key_prefix: version.issued.keyPrefix,
    created_by: version.createdBy.id ?? version.createdBy.kind,
    expires_at: version.expiresAt,
  })
}

function eventOf(place: store.Place, by: By) {
  return {
    status: 'pass' as const,
    actor: actorOf(by.authority) as Actor,
    request: by.request,
    organizationId: place.organizationId,
    workspaceId: place.workspaceId,
  }
}

// SQL of token lines, their versions, and a workspace's policy on them.
import { type Selectable, sql } from 'kysely'
import type { SecretDigest } from '../crypto/secret.ts'
import type { KeyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { CutoverMode, Environment, TokenLinesTable, TokenVersionsTable } from '../store/tables.ts'
import { NO_POLICY, type TokenPolicy } from './rules.ts'

/** Where a line belongs: a workspace, or the organization itself. */
export type Place =
  | { organizationId: OrganizationId; workspaceId: WorkspaceId }
  | { organizationId: OrganizationId; workspaceId: null }

export interface TokenVersion {
  version: number
  keyPrefix: string
  createdBy: string
  createdAt: Date
  expiresAt: Date | null
  retiredAt: Date | null
  deadAt: Date | null
  firstUsedAt: Date | null
  lastUsedAt: Date | null
  lastUsedAddress: string | null
  lastUsedAgent: string | null
  refusedAt: Date | null
  refusedAddress: string | null
  refusedAgent: string | null
  refusedCount: number
}

export interface TokenLine {
  id: KeyId
  organizationId: OrganizationId
  workspaceId: WorkspaceId | null
  label: string
  environment: Environment
  permissions: string[]
  resources: string[] | null
  ipAllowList: string[] | null
  grantedRole: 'owner' | 'admin'
  version: number
  floor: number
  cutover: CutoverMode
  cutoverAfterSeconds: number | null
  cutoverAt: Date | null
  createdBy: string
  userId: UserId | null
  createdAt: Date
  closedAt: Date | null
  closeReason: string | null
  /** Until an admin restores it. */
  suspendedAt: Date | null
  suspendReason: string | null
  /** The person behind it left: met once the floor is at or above `rotationRequiredBelow`. */
  rotationRequiredBy: Date | null
  rotationRequiredBelow: number | null
  rotationRequiredReason: string | null
  /** Newest first. */
  versions: TokenVersion[]
}

function toVersion(row: Selectable<TokenVersionsTable>): TokenVersion {
  return {
    version: row.version,
    keyPrefix: row.key_prefix,
    createdBy: row.created_by,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    retiredAt: row.retired_at,
    deadAt: row.dead_at,
    firstUsedAt: row.first_used_at,
    lastUsedAt: row.last_used_at,
    lastUsedAddress: row.last_used_address,
    lastUsedAgent: row.last_used_agent,
    refusedAt: row.refused_at,
    refusedAddress: row.refused_address,
    refusedAgent: row.refused_agent,
    refusedCount: row.refused_count,
  }
}

function toLine(row: Selectable<TokenLinesTable>, versions: TokenVersion[]): TokenLine {
  return {
    id: row.id,
    organizationId: row.organization_id,
    workspaceId: row.workspace_id,
    label: row.label,
    environment: row.environment,
    permissions: row.permissions,
    resources: row.resources,
    ipAllowList: row.ip_allow_list,
    grantedRole: row.granted_role,
    version: row.version,
    floor: row.floor,
    cutover: row.cutover,
    cutoverAfterSeconds: row.cutover_after_seconds,
    cutoverAt: row.cutover_at,
    createdBy: row.created_by,
    userId: row.user_id,
    createdAt: row.created_at,
    closedAt: row.closed_at,
    closeReason: row.close_reason,
    suspendedAt: row.suspended_at,
    suspendReason: row.suspend_reason,
    rotationRequiredBy: row.rotation_required_by,
    rotationRequiredBelow: row.rotation_required_below,
    rotationRequiredReason: row.rotation_required_reason,
    versions,
  }
}

async function withVersions(
  executor: Executor,
  rows: ReadonlyArray<Selectable<TokenLinesTable>>,
): Promise<TokenLine[]> {
  if (rows.length === 0) return []
  const versions = await executor
    .selectFrom('token_versions')
    .selectAll()
    .where('token_id', '=', sql<KeyId>`any(${rows.map(({ id }) => id)}::text[])`) // primary key; as many as there are
    .orderBy('version', 'desc')
    .execute()
  const byLine = Map.groupBy(versions, (version) => version.token_id)
  return rows.map((row) => toLine(row, (byLine.get(row.id) ?? []).map(toVersion)))
}

function atPlace(executor: Executor, place: Place) {
  const lines = executor.selectFrom('token_lines').selectAll()
  return place.workspaceId === null
    ? lines.where('organization_id', '=', place.organizationId).where('workspace_id', 'is', null)
    : lines.where('workspace_id', '=', place.workspaceId)
}

export interface ListOptions {
  /** Ids after this one. */
  after?: string | undefined
  limit?: number | undefined
  /** `still_tried`: those of the ended ones that somebody presented since, in the last fourteen days. */
  withClosed?: boolean | 'still_tried' | undefined
}

/** By the primary key of versions. */
const STILL_TRIED = sql<boolean>`exists (select 1 from token_versions v
  where v.token_id = token_lines.id and v.refused_at > greatest(token_lines.closed_at, now() - interval '14 days'))`

/** By token_lines_by_workspace or token_lines_by_organization; an id sorts by the time it was made. */
export async function listLines(executor: Executor, place: Place, options: ListOptions = {}): Promise<TokenLine[]> {
  let query = atPlace(executor, place).orderBy('id')
  if (options.withClosed === 'still_tried') query = query.where(sql<boolean>`(closed_at is null or ${STILL_TRIED})`)
  else if (options.withClosed !== true) query = query.where('closed_at', 'is', null)
  if (options.after !== undefined) query = query.where('id', '>', options.after as KeyId) // any text sorts somewhere
  if (options.limit !== undefined) query = query.limit(options.limit)
  return withVersions(executor, await query.execute())
}

/** A line of this place, open or closed; one of another place is not found. Primary key. */
export async function findLine(executor: Executor, place: Place, id: string): Promise<TokenLine | undefined> {
  const rows = await atPlace(executor, place)
    .where('id', '=', id as KeyId) // an unknown text finds nothing
    .execute()
  return (await withVersions(executor, rows))[0]
}

/** What lines are, without their versions, wherever they stand. Primary key. */
export async function listLinesById(
  executor: Executor,
  ids: readonly KeyId[],
): Promise<Array<Omit<TokenLine, 'versions'>>> {
  if (ids.length === 0) return []
  const rows = await executor.selectFrom('token_lines').selectAll().where('id', 'in', ids).execute()
  return rows.map((row) => toLine(row, []))
}

/** Wherever it belongs. Primary key. */
export async function findAnyLine(executor: Executor, id: string): Promise<TokenLine | undefined> {
  const rows = await executor
    .selectFrom('token_lines')
    .selectAll()
    .where('id', '=', id as KeyId) // an unknown text finds nothing
    .execute()
  return (await withVersions(executor, rows))[0]
}

/** Locks a line: `share` against change, `update` to change it. Primary key. */
export async function lockLine(trx: Trx, id: KeyId, mode: 'share' | 'update'): Promise<TokenLine | undefined> {
  const query = trx.selectFrom('token_lines').selectAll().where('id', '=', id)
  const rows = await (mode === 'share' ? query.forShare() : query.forUpdate()).execute()
  return (await withVersions(trx, rows))[0]
}

/** The open line with this label. By the two unique indexes. */
export async function findByLabel(
  executor: Executor,
  place: Place,
  environment: Environment,
  label: string,
): Promise<{ id: KeyId } | undefined> {
  let query = atPlace(executor, place).where('label', '=', label).where('closed_at', 'is', null)
  if (place.workspaceId !== null) query = query.where('environment', '=', environment)
  return query.executeTakeFirst()
}

export interface NewLine {
  id: KeyId
  place: Place
  label: string
  environment: Environment
  permissions: readonly string[]
  resources: readonly string[] | null
  ipAllowList: readonly string[] | null
  grantedRole: 'owner' | 'admin'
  createdBy: string
  userId: UserId | null
}

/** False when an open line there has the label already. */
export async function insertLine(trx: Trx, line: NewLine): Promise<boolean> {
  const result = await trx
    .insertInto('token_lines')
    .values({
      id: line.id,
      organization_id: line.place.organizationId,
      workspace_id: line.place.workspaceId,
      label: line.label,
      environment: line.environment,
      permissions: [...line.permissions],
      resources: line.resources && [...line.resources],
      ip_allow_list: line.ipAllowList && [...line.ipAllowList],
      granted_role: line.grantedRole,
      created_by: line.createdBy,
      user_id: line.userId,
    })
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirst()
  return result.numInsertedOrUpdatedRows === 1n
}

export async function insertVersion(
  trx: Trx,
  row: {
    token_id: KeyId
    version: number
    digest: SecretDigest
    key_prefix: string
    created_by: string
    expires_at: Date | null
  },
): Promise<void> {
  await trx.insertInto('token_versions').values(row).execute()
}

/** The newest version, and how the rotation that made it will end. */
export async function updateForRotation(
  trx: Trx,
  id: KeyId,
  change: { version: number; cutover: CutoverMode; afterSeconds: number | null; at: Date | null },
): Promise<void> {
  await trx
    .updateTable('token_lines')
    .set({
      version: change.version,
      cutover: change.cutover,
      cutover_after_seconds: change.afterSeconds,
      cutover_at: change.at,
    })
    .where('id', '=', id)
    .execute()
}

/** Raises the floor: older versions are retired. */
export async function raiseFloor(trx: Trx, id: KeyId, floor: number): Promise<void> {
  await trx
    .updateTable('token_lines')
    .set({ floor, cutover: 'manual', cutover_after_seconds: null, cutover_at: null })
    .where('id', '=', id)
    .execute()
  await trx
    .updateTable('token_versions')
    .set({ retired_at: sql<Date>`clock_timestamp()` })
    .where('token_id', '=', id)
    .where('version', '<', floor)
    .where('retired_at', 'is', null)
    .execute()
}

/** The first use was made: the cutover follows after the seconds that the rotation asked for. @returns when */
export async function scheduleCutover(trx: Trx, id: KeyId, afterSeconds: number): Promise<Date> {
  const { cutover_at } = await trx
    .updateTable('token_lines')
    .set({ cutover: 'at', cutover_at: sql<Date>`clock_timestamp() + make_interval(secs => ${afterSeconds}::int)` })
    .where('id', '=', id)
    .returning('cutover_at')
    .executeTakeFirstOrThrow()
  if (cutover_at === null) throw new Error('the cutover has no time')
  return cutover_at
}

export async function closeLine(trx: Trx, id: KeyId, reason: string): Promise<void> {
  await trx
    .updateTable('token_lines')
    .set({ closed_at: sql<Date>`clock_timestamp()`, close_reason: reason, cutover: 'manual', cutover_at: null })
    .where('id', '=', id)
    .execute()
}

/** Open lines that a person stands behind, in these workspaces and of this organization itself. By token_lines_by_user. */
function ofPerson(executor: Executor, userId: UserId, within: Within) {
  return executor
    .selectFrom('token_lines')
    .selectAll()
    .where('user_id', '=', userId)
    .where('closed_at', 'is', null)
    .where((either) =>
      either.or([
        either('workspace_id', '=', sql<WorkspaceId>`any(${[...within.workspaceIds]}::text[])`),
        either.and([either('workspace_id', 'is', null), either('organization_id', '=', within.organizationId)]),
      ]),
    )
    .orderBy('id')
}

/** Of an organization: some of its workspaces, or itself as well. */
export interface Within {
  workspaceIds: readonly WorkspaceId[]
  /** Null: its own keys are not meant. */
  organizationId: OrganizationId | null
}

export async function listOfPerson(executor: Executor, userId: UserId, within: Within): Promise<TokenLine[]> {
  return withVersions(executor, await ofPerson(executor, userId, within).execute())
}

/** The same, locked to change them; in one order, so that nobody waits in a circle. */
export async function lockOfPerson(trx: Trx, userId: UserId, within: Within): Promise<TokenLine[]> {
  return withVersions(trx, await ofPerson(trx, userId, within).forUpdate().execute())
}

/** A duty that was not met yet keeps its date. Primary key. @returns by when, of each */
export async function requireRotations(
  trx: Trx,
  lines: ReadonlyArray<{ line: Pick<TokenLine, 'id'>; keeps: Date | undefined }>,
  duty: { days: number; reason: string },
): Promise<Map<KeyId, Date>> {
  const ids = lines.map(({ line }) => line.id)
  const keeps = lines.map((each) => each.keeps?.toISOString() ?? null)
  const { rows } = await sql<{ id: KeyId; until: Date }>`
    update token_lines t set rotation_required_by = coalesce(due.keeps,
        date_trunc('second', clock_timestamp()) + make_interval(days => ${duty.days}::int)),
      rotation_required_below = t.version + 1, rotation_required_reason = ${duty.reason}
    from unnest(${ids}::text[], ${keeps}::timestamptz[]) due (id, keeps)
    where t.id = due.id returning t.id, t.rotation_required_by as until`.execute(trx)
  return new Map(rows.map(({ id, until }) => [id, until]))
}

/** No value from before works any more: the duty is met. Primary key. */
export async function clearRotation(trx: Trx, id: KeyId): Promise<void> {
  await trx
    .updateTable('token_lines')
    .set({ rotation_required_by: null, rotation_required_below: null, rotation_required_reason: null })
    .where('id', '=', id)
    .execute()
}

/** One version is revoked. A cutover to it is off: what still works goes on working. */
export async function killVersion(trx: Trx, line: TokenLine, version: number): Promise<void> {
  await trx
    .updateTable('token_versions')
    .set({ dead_at: sql<Date>`clock_timestamp()` })
    .where('token_id', '=', line.id)
    .where('version', '=', version)
    .where('dead_at', 'is', null)
    .execute()
  if (version !== line.version) return
  await trx
    .updateTable('token_lines')
    .set({ cutover: 'manual', cutover_after_seconds: null, cutover_at: null })
    .where('id', '=', line.id)
    .execute()
}

/** Lines whose cutover is due. By token_lines_by_cutover. */
export async function listDueCutovers(executor: Executor, limit: number): Promise<KeyId[]> {
  const rows = await executor
    .selectFrom('token_lines')
    .select('id')
    .where('cutover_at', '<=', sql<Date>`clock_timestamp()`)
    .where('closed_at', 'is', null)
    .limit(limit)
    .execute()
  return rows.map(({ id }) => id)
}

/** The line and version that a value's digest names. By token_versions_digest_key. */
export function findByDigest(executor: Executor, digest: SecretDigest) {
  return executor
    .selectFrom('token_versions')
    .select(['token_id', 'version'])
    .where('digest', '=', digest)
    .executeTakeFirst()
}

// --- Policy ------------------------------------------------------------------------------------------------------------

/** Who changes it locks the workspace, so that nobody makes a token meanwhile. Primary key. */
export async function findPolicy(executor: Executor, workspaceId: WorkspaceId): Promise<TokenPolicy> {
  const row = await executor
    .selectFrom('token_policies')
    .selectAll()
    .where('workspace_id', '=', workspaceId)
    .executeTakeFirst()
  if (row === undefined) return NO_POLICY
  return {
    tokensForbidden: row.tokens_forbidden,
    expiryRequired: row.expiry_required,
    maxAgeDays: row.max_age_days,
    environments: row.environments,
  }
}

export async function putPolicy(trx: Trx, workspaceId: WorkspaceId, policy: TokenPolicy): Promise<void> {
  const values = {
    tokens_forbidden: policy.tokensForbidden,
    expiry_required: policy.expiryRequired,
    max_age_days: policy.maxAgeDays,
    environments: policy.environments && [...policy.environments],
  }
  await trx
    .insertInto('token_policies')
    .values({ workspace_id: workspaceId, ...values })
    .onConflict((conflict) => conflict.column('workspace_id').doUpdateSet(values))
    .execute()
}

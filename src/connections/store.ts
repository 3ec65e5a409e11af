// SQL of connections. What decides whether one may be used is read in one statement.
import { sql } from 'kysely'
import type { ConnectionId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import { effectiveRole } from '../organizations/rules.ts'
import type { Executor, Trx } from '../store/database.ts'
import type { Approved, Environment, OrganizationRole, WorkspaceRole } from '../store/tables.ts'

/** A connection with all that decides whether it may be used, read in one statement. */
export interface ConnectionFacts {
  id: ConnectionId
  userId: UserId | null
  clientId: string
  workspaceId: WorkspaceId
  organizationId: OrganizationId
  environment: Environment
  version: number
  floor: number
  approved: Approved
  closedAt: Date | null
  suspendedAt: Date | null
  workspaceArchived: boolean
  clientDeleted: boolean
  user: { email: string; name: string; suspendedAt: Date | null; sessionsNotBefore: Date | null } | undefined
  /** The role that counts in the workspace. */
  role: WorkspaceRole | undefined
  /** Both roles as they stand in their rows: what the issuing transaction locks and compares. */
  workspaceRole: WorkspaceRole | null
  organizationRole: OrganizationRole | null
  /** The database's time of this reading. */
  readAt: Date
}

export interface FactsRow {
  id: ConnectionId
  user_id: UserId | null
  client_id: string
  workspace_id: WorkspaceId
  organization_id: OrganizationId
  environment: Environment
  version: number
  floor: number
  approved: Approved
  closed_at: Date | null
  connection_suspended_at: Date | null
  archived_at: Date | null
  client_deleted_at: Date | null
  email: string | null
  name: string | null
  suspended_at: Date | null
  sessions_not_before: Date | null
  workspace_role: WorkspaceRole | null
  organization_role: OrganizationRole | null
  read_at: Date
}

/** What `toFacts` reads, of connections as c with their joins. */
export const FACTS = sql`c.id, c.user_id, c.client_id, c.workspace_id, c.organization_id, c.environment, c.version, c.floor,
  c.approved, c.closed_at, c.suspended_at as connection_suspended_at, w.archived_at, cl.deleted_at as client_deleted_at, u.email, u.name, u.suspended_at,
  u.sessions_not_before, m.role as workspace_role, om.role as organization_role, clock_timestamp() as read_at`

/** Each by its primary key, from one connection. */
export const FACTS_JOINS = sql`
  join workspaces w on w.id = c.workspace_id
  join clients cl on cl.id = c.client_id
  left join users u on u.id = c.user_id
  left join workspace_members m on m.workspace_id = c.workspace_id and m.user_id = c.user_id
  left join organization_members om on om.organization_id = c.organization_id and om.user_id = c.user_id`

export function toFacts(row: FactsRow): ConnectionFacts {
  return {
    id: row.id,
    userId: row.user_id,
    clientId: row.client_id,
    workspaceId: row.workspace_id,
    organizationId: row.organization_id,
    environment: row.environment,
    version: row.version,
    floor: row.floor,
    approved: row.approved,
    closedAt: row.closed_at,
    suspendedAt: row.connection_suspended_at,
    workspaceArchived: row.archived_at !== null,
    clientDeleted: row.client_deleted_at !== null,
    user:
      row.email === null || row.name === null
        ? undefined
        : {
            email: row.email,
            name: row.name,
            suspendedAt: row.suspended_at,
            sessionsNotBefore: row.sessions_not_before,
          },
    role: effectiveRole(row.workspace_role, row.organization_role),
    workspaceRole: row.workspace_role,
    organizationRole: row.organization_role,
    readAt: row.read_at,
  }
}

/** By id. Primary key. */
export async function findConnections(
  executor: Executor,
  ids: readonly string[],
): Promise<Map<string, ConnectionFacts>> {
  const { rows } = await sql<FactsRow>`
    select ${FACTS} from connections c ${FACTS_JOINS} where c.id = any(${ids}::text[])`.execute(executor)
  return new Map(rows.map((row) => [row.id, toFacts(row)]))
}

export async function findConnection(executor: Executor, id: string): Promise<ConnectionFacts | undefined> {
  return (await findConnections(executor, [id])).get(id)
}

/** A person's open connections with a client. By connections_one_open_a_person. */
export async function listOpenOfPerson(
  executor: Executor,
  userId: UserId,
  clientId: string,
): Promise<ConnectionFacts[]> {
  const { rows } = await sql<FactsRow>`
    select ${FACTS} from connections c ${FACTS_JOINS}
    where c.user_id = ${userId} and c.client_id = ${clientId} and c.closed_at is null
    order by c.created_at`.execute(executor)
  return rows.map(toFacts)
}

/** Where an admin granted clients themselves, for client credentials; by client. By connections_one_open_a_client. */
export async function listOpenOfClients(
  executor: Executor,
  clientIds: readonly string[],
): Promise<Map<string, ConnectionFacts[]>> {
  const { rows } = await sql<FactsRow>`
    select ${FACTS} from connections c ${FACTS_JOINS}
    where c.client_id = any(${clientIds}::text[]) and c.user_id is null and c.closed_at is null
    order by c.created_at`.execute(executor)
  return Map.groupBy(rows.map(toFacts), (facts) => facts.clientId)
}

/** Inserts a connection; undefined when an open one of the same person (or client) and workspace is there already. */
export async function insertConnection(
  trx: Trx,
  row: {
    id: ConnectionId
    user_id: UserId | null
    client_id: string
    workspace_id: WorkspaceId
    organization_id: OrganizationId
    environment: Environment
    approved: Approved
    created_by: string
  },
): Promise<{ version: number } | undefined> {
  return trx
    .insertInto('connections')
    .values({ ...row, approved: JSON.stringify(row.approved) })
    .onConflict((conflict) => conflict.doNothing())
    .returning('version')
    .executeTakeFirst()
}

/** Locks the open connection of a person (or, without one, of a client) in a workspace, to change it. */
export function lockOpen(trx: Trx, userId: UserId | null, clientId: string, workspaceId: WorkspaceId) {
  return trx
    .selectFrom('connections')
    .select(['id', 'version', 'approved', 'suspended_at'])
    .where('user_id', userId === null ? 'is' : '=', userId)
    .where('client_id', '=', clientId)
    .where('workspace_id', '=', workspaceId)
    .where('closed_at', 'is', null)
    .forUpdate()
    .executeTakeFirst()
}

export async function updateApproved(trx: Trx, id: ConnectionId, approved: Approved): Promise<void> {
  await trx
    .updateTable('connections')
    .set({ approved: JSON.stringify(approved) })
    .where('id', '=', id)
    .execute()
}

/** Locks a connection to change it. Primary key. */
export function lockConnection(trx: Trx, id: string) {
  return trx
    .selectFrom('connections')
    .selectAll()
    .where('id', '=', id as ConnectionId) // an unknown text finds nothing
    .forUpdate()
    .executeTakeFirst()
}

/** Locks a person's open connections in these workspaces, to change them. In one order, so that nobody waits in a circle. */
export function lockOpenOfPersonIn(trx: Trx, userId: UserId, workspaceIds: readonly WorkspaceId[]) {
  return trx
    .selectFrom('connections')
    .selectAll()
    .where('user_id', '=', userId) // connections_one_open_a_person
    .where('workspace_id', '=', sql<WorkspaceId>`any(${[...workspaceIds]}::text[])`)
    .where('closed_at', 'is', null)
    .orderBy('id')
    .forUpdate()
    .execute()
}

/** The same, wherever they are. */
export function lockOpenOfPersonAnywhere(trx: Trx, userId: UserId) {
  return trx
    .selectFrom('connections')
    .selectAll()
    .where('user_id', '=', userId) // connections_one_open_a_person
    .where('closed_at', 'is', null)
    .orderBy('id')
    .forUpdate()
    .execute()
}

/** What lists show of connections that are open, oldest first, each with the latest use of any of its versions. */
function open(executor: Executor) {
  return executor
    .selectFrom('connections as c')
    .innerJoin('clients as cl', 'cl.id', 'c.client_id')
    .innerJoin('workspaces as w', 'w.id', 'c.workspace_id')
    .innerJoin('organizations as o', 'o.id', 'c.organization_id')
    .leftJoinLateral(
      (from) =>
        from
          .selectFrom('connection_versions as v')
          .select(['v.last_used_at', 'v.last_used_address', 'v.last_used_agent'])
          .whereRef('v.connection_id', '=', 'c.id') // primary key
          .orderBy('v.last_used_at', 'desc')
          .limit(1)
          .as('last'),
      (join) => join.onTrue(),
    )
    .select([
      'c.id',
      'c.user_id',
      'c.client_id',
      'cl.name as client_name',
      'c.workspace_id',
      'w.name as workspace_name',
      'c.organization_id',
      'o.name as organization_name',
      'c.environment',
      'c.version',
      'c.approved',
      'c.created_at',
      'c.suspended_at',
      'last.last_used_at',
      'last.last_used_address',
      'last.last_used_agent',
      sql<Date>`clock_timestamp()`.as('now'),
    ])
    .where('c.closed_at', 'is', null)
    .where('cl.deleted_at', 'is', null)
    .where('w.archived_at', 'is', null)
    .orderBy('c.created_at')
    .orderBy('c.id')
}

/** By connections_by_workspace. */
export function listOpenInWorkspace(executor: Executor, workspaceId: WorkspaceId) {
  return open(executor).where('c.workspace_id', '=', workspaceId).execute()
}

/** What a person approved themselves, wherever. By connections_one_open_a_person. */
export function listOpenOfPersonAnywhere(executor: Executor, userId: UserId) {
  return open(executor).where('c.user_id', '=', userId).execute()
}

/** Primary key. */
export function findOpen(executor: Executor, id: ConnectionId) {
  return open(executor).where('c.id', '=', id).executeTakeFirst()
}

/** The versions that were used, newest first. By primary key. */
export function listUsedVersions(executor: Executor, id: ConnectionId) {
  return executor
    .selectFrom('connection_versions')
    .selectAll()
    .where('connection_id', '=', id)
    .orderBy('version', 'desc')
    .execute()
}

/** Closes a connection for good, with its families and refresh tokens. */
export async function closeConnection(trx: Trx, id: ConnectionId, reason: string): Promise<void> {
  await trx
    .updateTable('connections')
    .set((value) => ({ closed_at: value.fn<Date>('now'), close_reason: reason }))
    .where('id', '=', id) // primary key
    .execute()
  await trx
    .updateTable('families')
    .set((value) => ({ ended_at: value.fn<Date>('now'), end_reason: reason }))
    .where('connection_id', '=', id) // families_by_connection
    .where('ended_at', 'is', null)
    .execute()
  await trx
    .deleteFrom('refresh_tokens')
    .where('family_id', 'in', trx.selectFrom('families').select('id').where('connection_id', '=', id)) // refresh_tokens_by_family
    .execute()
}

/** Raises version and floor together: everything issued so far is below the floor. */
export async function raiseFloor(trx: Trx, id: ConnectionId): Promise<number> {
  const { version } = await trx
    .updateTable('connections')
    .set((value) => ({ version: value('version', '+', 1), floor: value('version', '+', 1) }))
    .where('id', '=', id)
    .returning('version')
    .executeTakeFirstOrThrow()
  return version
}

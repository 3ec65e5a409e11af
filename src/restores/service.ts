// After a database came back from a backup: what the sink knows to have ended since then ends again, before anybody is
// answered (consistency §6).
import { acceptSetBack, type CheckpointDeps } from '../audit/checkpoints.ts'
import { type Actor, type RequestInfo, record } from '../audit/service.ts'
import { eraseAgain } from '../erasure/service.ts'
import { AppError } from '../errors.ts'
import type { UserId } from '../ids.ts'
import { deleteProvidersIn } from '../providers/service.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import { type Outside, SinkProblem } from '../revocation/outside.ts'
import type { WrittenEntry } from '../revocation/rules.ts'
import type { RevocationList, Revoke } from '../revocation/service.ts'
import { beginNewLineage, lockList, type RevocationChange, readStanding } from '../revocation/store.ts'
import type { Trx } from '../store/database.ts'
import { sortOut } from './rules.ts'
import * as store from './store.ts'

export interface RestoreReport {
  /** `behind`: it was only looked. `restored`: all below has been done. */
  status: 'in_step' | 'behind' | 'restored' | 'sink_accepted'
  /** How far the list had come in the database, and in the sink. */
  database_seq: number
  sink_seq: number
  /** Subjects that the sink knows more of. */
  revocations: number
  /** Lines about this list that no key of ours has signed. */
  unsigned_lines: number
  ended?: { connections: number; tokens: number; workspaces: number; clients: number; memberships: number }
  /** People whose account had changed since the backup: each stays suspended until `latchkey user restore`. */
  suspended?: UserId[]
  /** People whose account had been erased, and is again. */
  erased?: UserId[]
  /** The same, where they are the last owner again: their row names nobody, and goes with `latchkey user erase` once there is another. */
  still_owners?: UserId[]
}

export interface RestoreDeps extends CheckpointDeps {
  revocations: RevocationList
  outside: Outside
  resourceServers: Pick<ResourceServers, 'list'>
}

interface By {
  actor: Actor
  request: RequestInfo
}

/**
 * Compares the database with its sink, and ends again what was undone. Every JWT issued so far is refused, and everybody
 * signs in again. A database that is in step is left alone.
 *
 * @param input.acceptSink whatever the sink lacks, or holds of other databases: from now on it is this one's
 * @throws {AppError} `conflict` when another one was faster
 */
export async function restoreCheck(
  deps: RestoreDeps,
  input: { dryRun: boolean; acceptSink: boolean } & By,
): Promise<RestoreReport> {
  const { outside, revocations } = deps
  const head = await outside.head()
  const { entries, known, unsigned } = await outside.read(head)
  const found = {
    database_seq: head,
    sink_seq: known,
    revocations: entries.length,
    unsigned_lines: unsigned,
  }
  if (known <= head) {
    if (!input.acceptSink) await requireOwnSink(outside)
    else if (!input.dryRun) await acceptSink(deps, input)
    return { status: input.acceptSink && !input.dryRun ? 'sink_accepted' : 'in_step', ...found }
  }
  if (input.dryRun) return { status: 'behind', ...found }
  const servers = await deps.resourceServers.list()
  const restore = async (trx: Trx, revoke: Revoke) => {
    await store.lockRestores(trx)
    const outcome = await endAgain(trx, revoke, { ...input, entries, servers })
    for (const entry of entries) revoke(changeOf(entry))
    revoke({ subject: 'everything', notBeforeNow: true })
    await record(trx, {
      event: 'chain.restored',
      status: 'pass',
      actor: input.actor,
      request: input.request,
      detail: {
        ...found,
        ...outcome.ended,
        suspended: outcome.suspended.length,
        erased: outcome.erased.length + outcome.still_owners.length,
      },
    })
    await lockList(trx) // of all locks the last one
    if ((await readStanding(trx, false))?.head !== head)
      throw new AppError('conflict', { detail: 'The list has gone on meanwhile: another restore-check was faster.' })
    await store.beginNewEpoch(trx, known)
    return outcome
  }
  await acceptSetBack(deps) // the audit log is as old as the list
  const done = await revocations.change(restore, { despiteTrouble: true })
  return { status: 'restored', ...found, ...done }
}

async function requireOwnSink(outside: Outside): Promise<void> {
  try {
    await outside.missing()
  } catch (error) {
    if (error instanceof SinkProblem) throw new AppError('conflict', { detail: error.message })
    throw error
  }
}

/** The lists that it holds now are left out from then on; one that comes back later is not among them. */
async function acceptSink(deps: RestoreDeps, by: By): Promise<void> {
  const { revocations, outside } = deps
  const lists = await outside.lists()
  await acceptSetBack(deps)
  const accepting = async (trx: Trx, revoke: Revoke) => {
    await store.lockRestores(trx)
    revoke({ subject: 'everything', notBeforeNow: true })
    const { actor, request } = by
    await record(trx, { event: 'sink.accepted', status: 'pass', actor, request, detail: { lists: lists.length } })
    await beginNewLineage(trx, lists)
  }
  await revocations.change(accepting, { despiteTrouble: true })
}

/** In the order in which every transaction takes its locks: people, workspaces, memberships, connections, tokens. */
async function endAgain(
  trx: Trx,
  revoke: Revoke,
  { entries, servers, actor, request }: { entries: readonly WrittenEntry[]; servers: readonly ResourceServer[] } & By,
) {
  const by = { actor, request }
  const lost = sortOut(entries)
  await store.endAllSessions(trx)
  const erasures = { erased: [] as UserId[], last_owner: [] as UserId[] }
  for (const userId of lost.erased) {
    const outcome = await eraseAgain(trx, revoke, { ...by, userId, servers })
    if (outcome !== undefined) erasures[outcome].push(userId)
  }
  const suspended = await store.suspend(trx, lost.people)
  for (const userId of suspended) await tell(trx, by, { event: 'user.suspended', userId })
  const workspaces = await store.archive(trx, lost.workspaces)
  for (const { id, organization_id } of workspaces) {
    await tell(trx, by, { event: 'workspace.archived', organizationId: organization_id, workspaceId: id })
    await deleteProvidersIn(trx, id, { ...by, userId: null })
  }
  const owners = erasures.last_owner.splice(0) // of what was archived just now, perhaps
  for (const userId of owners) {
    const outcome = await eraseAgain(trx, revoke, { ...by, userId, servers })
    if (outcome !== undefined) erasures[outcome].push(userId)
  }
  const memberships = await store.lowerMemberships(trx, lost.memberships)
  for (const { organization_id, workspace_id, user_id } of memberships) {
    const place = { organizationId: organization_id, workspaceId: workspace_id }
    await tell(trx, by, { event: 'member.restored_role_ended', ...place, userId: user_id })
  }
  const clients = await store.deleteClients(trx, lost.clients)
  for (const clientId of clients) await tell(trx, by, { event: 'client.deleted', clientId })
  const connections = await store.endConnections(trx, lost.connections)
  for (const ended of connections)
    await tellOfCredential(trx, by, ended.closed ? 'connection.closed' : 'connection.version_raised', ended)
  const tokens = await store.endTokens(trx, lost.tokens)
  for (const ended of tokens) await tellOfCredential(trx, by, ended.closed ? 'token.revoked' : 'token.cut_over', ended)
  return {
    ended: {
      connections: connections.length,
      tokens: tokens.length,
      workspaces: workspaces.length,
      clients: clients.length,
      memberships: memberships.length,
    },
    suspended,
    erased: erasures.erased,
    still_owners: erasures.last_owner,
  }
}

type Told = Pick<
  Parameters<typeof record>[1],
  'event' | 'organizationId' | 'workspaceId' | 'userId' | 'clientId' | 'credentialId' | 'tokenVersion'
>

function tell(trx: Trx, { actor, request }: By, what: Told): Promise<void> {
  return record(trx, { ...what, status: 'pass', actor, request, detail: { reason: 'restored' } })
}

function tellOfCredential(trx: Trx, by: By, event: string, ended: store.EndedCredential): Promise<void> {
  return tell(trx, by, {
    event,
    organizationId: ended.organization_id,
    workspaceId: ended.workspace_id,
    userId: ended.user_id,
    credentialId: ended.id,
    tokenVersion: ended.version,
  })
}

/** The state of a subject, once more; what was issued to it up to now is refused with everything else. */
function changeOf(entry: WrittenEntry): RevocationChange {
  const { subject, floor, dead, closed, denied, role, suspended } = entry
  const isPerson = subject.startsWith('usr_')
  return {
    subject,
    dead,
    closed,
    denied,
    ...(floor === null ? {} : { floor }),
    ...(role === null ? {} : { role }),
    ...(isPerson ? { suspended: true, notBeforeNow: true } : suspended ? { suspended } : {}),
  }
}

// What a revocation that a restore has undone comes to: which rows of which rooms it ends again. Pure.
import type { ConnectionId, KeyId, OrganizationId, UserId, WorkspaceId } from '../ids.ts'
import { isConnectionId, isKeyId, isOrganizationId, isUserId, isWorkspaceId } from '../ids.ts'
import type { WrittenEntry } from '../revocation/rules.ts'

/** Revocations that a database lacks, by what they are about. */
export interface Lost {
  /** Whose account was erased. */
  erased: UserId[]
  people: UserId[]
  workspaces: WorkspaceId[]
  clients: string[]
  memberships: LostMembership[]
  connections: LostConnection[]
  tokens: LostToken[]
}

export interface LostMembership {
  place_id: WorkspaceId | OrganizationId
  user_id: UserId
  /** What is left of it, or `none`. */
  role: string
}

export interface LostConnection {
  id: ConnectionId
  closed: boolean
  suspended: boolean
  floor: number
}

export interface LostToken {
  id: KeyId
  closed: boolean
  suspended: boolean
  floor: number
  dead: readonly number[]
  /** A floor that was set to rise at a time: it rises now. */
  next_floor: number
}

export function sortOut(entries: readonly WrittenEntry[]): Lost {
  const lost: Lost = {
    erased: [],
    people: [],
    workspaces: [],
    clients: [],
    memberships: [],
    connections: [],
    tokens: [],
  }
  for (const { subject, closed, suspended, floor, dead, nextFloor, role } of entries) {
    const [kind, placeId = '', userId = ''] = subject.split(':')
    const isPlace = isWorkspaceId(placeId) || isOrganizationId(placeId)
    if (isUserId(subject)) (closed ? lost.erased : lost.people).push(subject)
    else if (isWorkspaceId(subject) && closed) lost.workspaces.push(subject)
    else if (subject.startsWith('cl_') && closed) lost.clients.push(subject)
    else if (kind === 'membership' && isPlace && isUserId(userId) && role !== null)
      lost.memberships.push({ place_id: placeId, user_id: userId, role })
    else if (isConnectionId(subject)) lost.connections.push({ id: subject, closed, suspended, floor: floor ?? 1 })
    else if (isKeyId(subject))
      lost.tokens.push({ id: subject, closed, suspended, floor: floor ?? 1, dead, next_floor: nextFloor ?? 1 })
  }
  return lost
}

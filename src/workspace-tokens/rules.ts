// What a line of tokens is at a moment: which versions are good, which one is current, and what a policy forbids. Pure.
import { isAtLeast } from '../organizations/rules.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { CutoverMode, Environment } from '../store/tables.ts'

export interface LineState {
  version: number
  floor: number
  cutover: CutoverMode
  cutoverAt: Date | null
  closedAt: Date | null
  suspendedAt: Date | null
}

export interface VersionState {
  version: number
  expiresAt: Date | null
  deadAt: Date | null
}

/** Once a cutover's time has come the newest version is the floor, whether or not the row says so yet. */
export function floorAt(line: Pick<LineState, 'version' | 'floor' | 'cutoverAt'>, now: Date): number {
  return line.cutoverAt !== null && line.cutoverAt <= now ? line.version : line.floor
}

/** - `ahead`: newer than the newest there is, which only an older database can explain. */
export type VersionFault = 'revoked' | 'retired' | 'expired' | 'suspended' | 'ahead'

/** Why a version is not good; undefined when it is (consistency §4). */
export function versionFault(line: LineState, version: VersionState, now: Date): VersionFault | undefined {
  if (line.closedAt !== null || version.deadAt !== null) return 'revoked'
  if (version.version < floorAt(line, now)) return 'retired'
  if (version.version > line.version) return 'ahead'
  if (version.expiresAt !== null && version.expiresAt <= now) return 'expired'
  return line.suspendedAt === null ? undefined : 'suspended'
}

/** The versions that work, oldest first. */
export function goodVersions<V extends VersionState>(line: LineState, versions: readonly V[], now: Date): V[] {
  return versions
    .filter((version) => versionFault(line, version, now) === undefined)
    .sort((a, b) => a.version - b.version)
}

/** The version that a person means by "the token": the newest that works, or would if it were not suspended, else the newest. */
export function currentVersion<V extends VersionState>(
  line: LineState,
  versions: readonly V[],
  now: Date,
): V | undefined {
  const restored = { ...line, suspendedAt: null }
  return goodVersions(restored, versions, now).at(-1) ?? versions.toSorted((a, b) => a.version - b.version).at(-1)
}

/** So long the workspace has to rotate a token whose person has left. */
export const ROTATE_WITHIN_DAYS = 7

/** - `member_removed`, `role_changed`: in the workspace or its organization. - `account_erased` */
export type RotationReason = 'member_removed' | 'role_changed' | 'account_erased'

export interface RotationState {
  rotationRequiredBy: Date | null
  rotationRequiredBelow: number | null
  rotationRequiredReason: string | null
}

/** Until when a line must be rotated and cut over; undefined where it need not, and once no value from before works. */
export function rotationRequired(
  line: LineState & RotationState,
  versions: readonly VersionState[],
  now: Date,
): { by: Date; reason: string } | undefined {
  const { rotationRequiredBy: by, rotationRequiredBelow: below, rotationRequiredReason: reason } = line
  if (by === null || below === null || reason === null) return undefined
  const restored = { ...line, suspendedAt: null }
  return goodVersions(restored, versions, now).some(({ version }) => version < below) ? { by, reason } : undefined
}

/**
 * Whether a line must be rotated because the person behind it has left, or is no admin any more: they may know a value that
 * works. Where it was asked for before and done, only what they could make as an admin since is asked for again.
 */
export function needsRotation(
  line: LineState & RotationState,
  versions: readonly VersionState[],
  { now, wasAdmin }: { now: Date; wasAdmin: boolean },
): boolean {
  if (goodVersions({ ...line, suspendedAt: null }, versions, now).length === 0) return false
  return wasAdmin || line.rotationRequiredBelow === null || rotationRequired(line, versions, now) !== undefined
}

/** At most two versions work side by side. */
export const MOST_GOOD_VERSIONS = 2

export interface TokenPolicy {
  tokensForbidden: boolean
  expiryRequired: boolean
  maxAgeDays: number | null
  /** Null: all. */
  environments: readonly Environment[] | null
}

export const NO_POLICY: TokenPolicy = {
  tokensForbidden: false,
  expiryRequired: false,
  maxAgeDays: null,
  environments: null,
}

const DAY_MS = 86_400_000

/** One sentence on what a workspace's policy has against a new version; undefined when nothing. */
export function policyProblem(
  policy: TokenPolicy,
  wanted: { environment: Environment; expiresAt: Date | null },
  now: Date,
): string | undefined {
  if (policy.tokensForbidden) return 'This workspace allows no tokens: connect the tool by signing in'
  if (policy.environments !== null && !policy.environments.includes(wanted.environment)) {
    return `This workspace allows no tokens for ${wanted.environment}: it allows ${policy.environments.join(', ') || 'none'}`
  }
  return lifeProblem(policy, wanted.expiresAt, now)
}

/** The same, of its end alone. */
export function lifeProblem(
  policy: Pick<TokenPolicy, 'expiryRequired' | 'maxAgeDays'>,
  expiresAt: Date | null,
  now: Date,
): string | undefined {
  if (policy.maxAgeDays !== null) {
    const most = now.getTime() + policy.maxAgeDays * DAY_MS
    if (expiresAt === null || expiresAt.getTime() > most)
      return `A token of this workspace must expire within ${policy.maxAgeDays} days`
  }
  return policy.expiryRequired && expiresAt === null ? 'A token of this workspace must have an expiry' : undefined
}

/**
 * An end that gives as long a life as a version was given; null: none. In whole seconds: a version's row is begun a moment
 * before its end is reckoned, and the longest life that a policy allows must not grow by that.
 */
export function endOfSameLife(version: { createdAt: Date; expiresAt: Date | null }, now: Date): Date | null {
  if (version.expiresAt === null) return null
  const seconds = Math.floor((version.expiresAt.getTime() - version.createdAt.getTime()) / 1_000)
  return new Date(now.getTime() + seconds * 1_000)
}

/**
 * The token's permissions that count at an API: those it knows and a person of the granting role may grant, where it
 * serves the token's environment and the token is not limited to others.
 */
export function scopesAt(
  server: ResourceServer,
  token: {
    environment: Environment
    permissions: readonly string[]
    resources: readonly string[] | null
    grantedRole: 'owner' | 'admin'
  },
): string[] {
  if (!server.environments.includes(token.environment)) return []
  if (token.resources !== null && !token.resources.includes(server.identifier)) return []
  return server.scopes
    .filter((scope) => token.permissions.includes(scope.name) && isAtLeast(token.grantedRole, scope.leastRole))
    .map((scope) => scope.name)
}

/** Unused for this long is listed as such. */
export const UNUSED_DAYS = 90
/** Expiring within this is listed as such. */
export const EXPIRING_DAYS = 7

export function isUnused(version: { createdAt: Date; lastUsedAt: Date | null }, now: Date): boolean {
  return now.getTime() - (version.lastUsedAt ?? version.createdAt).getTime() >= UNUSED_DAYS * DAY_MS
}

/** It works, and no version that works was used for long. */
export function isLineUnused<V extends VersionState & { createdAt: Date; lastUsedAt: Date | null }>(
  line: LineState,
  versions: readonly V[],
  now: Date,
): boolean {
  const good = goodVersions(line, versions, now)
  return good.length > 0 && good.every((version) => isUnused(version, now))
}

export function isExpiring(version: { expiresAt: Date | null }, now: Date): boolean {
  return version.expiresAt !== null && version.expiresAt.getTime() - now.getTime() <= EXPIRING_DAYS * DAY_MS
}

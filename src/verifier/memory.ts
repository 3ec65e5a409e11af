// Workspace tokens that were asked about, for as long as the revocation feed would tell of their end: no longer than some
// minutes, and only while it is fresh.
import { hash } from 'node:crypto'
import type { Access } from './access.ts'
import type { Feed } from './feed.ts'
import { endsVersion } from './list.ts'

/** What was known of the list before something was asked. */
export interface Mark {
  seq: number
  generation: number
  at: { monotonicMs: number; wallMs: number }
  isLive: boolean
}

export interface TokenMemory {
  /** Undefined where it must be asked about, again or for the first time. */
  find(key: string): Access | undefined
  /** To be taken before asking. */
  mark(): Mark
  remember(key: string, access: Access, mark: Mark): void
}

/** An entry of the list lives for an hour at least: what it ended must be forgotten long before. */
const MOST_AGE_MS = 5 * 60_000
const MOST_REMEMBERED = 10_000

/** By the whole value, and where it came from: a token may be limited to addresses. */
export function memoryKey(token: string, clientIp: string | undefined): string {
  return hash('sha256', `${token} ${clientIp ?? ''}`, 'base64url')
}

/** By the clock that says more: a machine that sleeps stops one of them, and the list goes on without it. */
const ageOf = ({ at }: Mark) => Math.max(performance.now() - at.monotonicMs, Date.now() - at.wallMs)

/** What a caller is given is theirs to change. */
const copyOf = (access: Access): Access => ({ ...access, scopes: new Set(access.scopes) })

export function createTokenMemory(feed: Feed, isLive: () => boolean): TokenMemory {
  const remembered = new Map<string, { access: Access; mark: Mark }>()

  /** Nothing was said since about the token, where it belongs, or everything. */
  function isUsable(access: Access, mark: Mark): boolean {
    if (mark.generation !== feed.generation() || ageOf(mark) > MOST_AGE_MS) return false
    if (access.expiresAt !== undefined && access.expiresAt.getTime() <= feed.now()) return false
    const own = feed.find(access.credentialId)
    if (endsVersion(own, Number(access.tokenVersion.slice(1)), feed.now())) return false
    const newest = Math.max(own?.seq ?? 0, feed.find(access.workspaceId)?.seq ?? 0, feed.find('everything')?.seq ?? 0)
    return newest <= mark.seq
  }

  return {
    find(key) {
      const known = remembered.get(key)
      if (known === undefined || !isLive()) return undefined
      if (isUsable(known.access, known.mark)) return copyOf(known.access)
      remembered.delete(key)
      return undefined
    },
    mark: () => ({
      seq: feed.settledSeq(),
      generation: feed.generation(),
      at: { monotonicMs: performance.now(), wallMs: Date.now() },
      isLive: isLive(),
    }),
    remember(key, access, mark) {
      if (!mark.isLive) return
      remembered.delete(key) // to stand last
      remembered.set(key, { access: copyOf(access), mark })
      const oldest = remembered.size > MOST_REMEMBERED ? remembered.keys().next().value : undefined
      if (oldest !== undefined) remembered.delete(oldest)
    },
  }
}

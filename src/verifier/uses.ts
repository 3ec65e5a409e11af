// Uses that were decided here, told to the issuer afterwards, so that people see when and from where a credential was last
// used.
import type { Access } from './access.ts'

export interface UsedBy {
  clientIp?: string | undefined
  userAgent?: string | undefined
}

export interface Uses {
  count(access: Access, by: UsedBy): void
  /** Tells what was counted, and counts no more by itself. */
  close(): Promise<void>
}

export interface UsesOptions {
  issuer: string
  /** The Authorization header of this API. */
  authorization: string
  fetch: typeof globalThis.fetch
  onError: (error: unknown) => void
}

interface CountedUse {
  credential_id: string
  token_version: string
  uses: number
  address: string | undefined
  agent: string | undefined
  lastAt: number
}

export const MOST_AGENT_CHARACTERS = 200
const MOST_ADDRESS_CHARACTERS = 64
const REPORT_EVERY_MS = 2_000
const MOST_COUNTED = 10_000
/** A report costs more than what it tells about: the rest of a busy moment waits for a quieter one. */
const MOST_AT_ONCE = 1_000
const USES_A_REPORT = 100
const MOST_AGE_MS = 60_000
const TIMEOUT_MS = 2_000

export function createUses({ issuer, authorization, fetch, onError }: UsesOptions): Uses {
  /** By credential: what is looked for at each request must not have to be put together first. */
  const uses = new Map<string, CountedUse[]>()
  let counted = 0

  let reporting: Promise<void> | undefined

  function report(most: number): Promise<void> {
    reporting ??= send(take(most)).finally(() => {
      reporting = undefined
    })
    return reporting
  }

  /** Those that were counted first. */
  function take(most: number): CountedUse[] {
    const taken: CountedUse[] = []
    for (const [credentialId, ofCredential] of uses) {
      if (taken.length >= most) break
      taken.push(...ofCredential)
      uses.delete(credentialId)
    }
    counted -= taken.length
    return taken
  }

  async function send(taken: readonly CountedUse[]): Promise<void> {
    for (let from = 0; from < taken.length; from += USES_A_REPORT)
      if (!(await sendOne(taken.slice(from, from + USES_A_REPORT)))) return
  }

  /** False when it did not arrive: a use that is not told is only not seen. */
  async function sendOne(taken: readonly CountedUse[]): Promise<boolean> {
    const batch = taken.map(({ lastAt, ...use }) => {
      const age = Math.round(performance.now() - lastAt)
      return { ...use, age_ms: Math.min(age, MOST_AGE_MS) }
    })
    try {
      const response = await fetch(`${issuer}/introspect/uses`, {
        method: 'POST',
        body: JSON.stringify({ uses: batch }),
        headers: { authorization, 'content-type': 'application/json' },
        signal: AbortSignal.timeout(TIMEOUT_MS),
        redirect: 'error',
      })
      await response.body?.cancel()
      if (!response.ok) throw new Error(`the report of uses was answered ${response.status}`)
      return true
    } catch (error) {
      onError(error)
      return false
    }
  }

  const timer = setInterval(() => void report(MOST_AT_ONCE), REPORT_EVERY_MS)
  timer.unref()

  return {
    count({ credentialId, tokenVersion }, { clientIp, userAgent }) {
      const address = clientIp?.slice(0, MOST_ADDRESS_CHARACTERS)
      const agent = userAgent?.slice(0, MOST_AGENT_CHARACTERS)
      const ofCredential = uses.get(credentialId) ?? []
      const known = ofCredential.find(
        (use) => use.address === address && use.agent === agent && use.token_version === tokenVersion,
      )
      const lastAt = performance.now()
      if (known !== undefined) {
        known.uses++
        known.lastAt = lastAt
      } else if (counted < MOST_COUNTED) {
        counted++
        const use = { credential_id: credentialId, token_version: tokenVersion, uses: 1, address, agent, lastAt }
        uses.set(credentialId, [...ofCredential, use])
      }
    },
    async close() {
      clearInterval(timer)
      await reporting
      await report(MOST_COUNTED)
    },
  }
}

// argon2id beside the event loop, few at a time: a flood of sign-ins must not starve the tokens.
import { hash, verify } from '@node-rs/argon2'
import { AppError } from '../errors.ts'
import type { Secret } from './secret.ts'

/** OWASP's first choice for argon2id: 19 MiB, two passes, one lane. */
const COST = { memoryCost: 19_456, timeCost: 2, parallelism: 1 }
const MOST_AT_ONCE = 2
const MOST_WAITING = 50

export interface Passwords {
  /** A PHC string. */
  digest(password: Secret): Promise<string>
  /** Takes as long for a person who has no password, or does not exist, as for one who has. */
  matches(digest: string | null | undefined, password: Secret): Promise<boolean>
}

/** @returns functions that throw `unavailable` when too many are waiting already */
export function createPasswords(): Passwords {
  const limit = createLimit(MOST_AT_ONCE, MOST_WAITING)
  const nobody = limit(() => hash('no one has this password', COST))
  nobody.catch(() => {}) // awaited where it is needed

  return {
    digest: (password) => limit(() => hash(password.reveal(), COST)),
    async matches(digest, password) {
      const known = digest ?? (await nobody)
      const matches = await limit(() => verify(known, password.reveal()))
      return matches && digest != null
    },
  }
}

function createLimit(mostAtOnce: number, mostWaiting: number) {
  const waiting: Array<() => void> = []
  let running = 0
  return async function limited<T>(work: () => Promise<T>): Promise<T> {
    if (running >= mostAtOnce) {
      if (waiting.length >= mostWaiting) throw new AppError('unavailable', { retryAfterSeconds: 2 })
      await new Promise<void>((resolve) => waiting.push(resolve)) // its place is handed over by the one that ends
    } else {
      running++
    }
    try {
      return await work()
    } finally {
      const next = waiting.shift()
      if (next === undefined) running--
      else next()
    }
  }
}

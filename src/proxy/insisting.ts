// What was spent is recorded also when the database is away for a moment.
import { setTimeout as pause } from 'node:timers/promises'

const PAUSES_MS = [250, 1_000, 4_000, 15_000]

export interface Insisting {
  /** What goes on behind the first try. */
  soon(work: Promise<void>): void
  /** No try is left. */
  onGivenUp(error: Error): void
  pausesMs?: readonly number[]
}

/** The caller waits for the first try; the others go on behind it. */
export async function insist(how: Insisting, work: () => Promise<void>): Promise<void> {
  try {
    await work()
  } catch {
    how.soon(again(how, work))
  }
}

async function again({ onGivenUp, pausesMs = PAUSES_MS }: Insisting, work: () => Promise<void>): Promise<void> {
  let failure: unknown
  for (const ms of pausesMs) {
    await pause(ms)
    try {
      return await work()
    } catch (error) {
      failure = error
    }
  }
  onGivenUp(failure instanceof Error ? failure : new Error(String(failure)))
}

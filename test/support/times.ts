// How long something may take. The gate shares its machine, and judges by what happens: there a promise has several times
// its length. Where each file has the machine for itself (`npm run soak`) it is held to the letter.

import { vi } from 'vitest'

const LENIENCE = 6
const LONGEST_TEST_MS = 180_000

/** Where each file has the machine for itself. */
export const isStrict = () => process.env.TEST_TIMES === 'strict'

/** @param ms what is promised */
export function most(ms: number): number {
  return isStrict() ? ms : LENIENCE * ms
}

/** A server may be too busy to answer in time, and say so (503). */
export function mayBeBusy(): boolean {
  return !isStrict()
}

/** For files that start processes and let them race: on a busy machine they are long, and none hangs. */
export function takeTime(): void {
  vi.setConfig({ testTimeout: LONGEST_TEST_MS, hookTimeout: LONGEST_TEST_MS })
}

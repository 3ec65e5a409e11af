// How often a job is tried again, and when it counts as lost. Pure.

/** - `short`: the next occurrence comes soon anyway. - `long`: somebody else's server may be down for a day. */
export type Patience = 'short' | 'long'

const TRIES = {
  short: { retryLimit: 3, retryDelay: 15, retryDelayMax: 120 },
  long: { retryLimit: 40, retryDelay: 30, retryDelayMax: 3_600 },
} as const

const LONGEST_RUN_SECONDS = 600
const DAY_SECONDS = 86_400

/** What a queue is made with: doubling pauses between tries, a bound on a run, and days until what is over is deleted. */
export function queueOptions(patience: Patience, pace: { heartbeat: number; retry?: number }) {
  return {
    ...TRIES[patience],
    ...(pace.retry === undefined ? {} : { retryDelay: pace.retry, retryDelayMax: pace.retry }),
    retryBackoff: true,
    heartbeatSeconds: pace.heartbeat,
    expireInSeconds: LONGEST_RUN_SECONDS,
    retentionSeconds: 14 * DAY_SECONDS,
    deleteAfterSeconds: 2 * DAY_SECONDS,
  }
}

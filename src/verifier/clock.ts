// The issuer's time, as well as it can be known from here. It decides how old the list is, and what has expired: neither
// may come from a clock that somebody can set.

/** Milliseconds, each by its own: one never runs backwards, the other goes on while the machine sleeps. */
export interface Clocks {
  monotonic: number
  wall: number
}

export function readClocks(): Clocks {
  return { monotonic: performance.now(), wall: Date.now() }
}

export interface IssuerClock {
  /** The issuer's time, milliseconds; never behind it. Before anything was heard, the wall clock. */
  now(): number
  /** The same, never ahead of `now`: for what must not be forgotten too early. */
  earliest(): number
  /** An answer said this time; its request left at `asked`, so that it cannot be later by now than what has passed since. */
  fix(issuerMs: number, asked: Clocks): void
  /** A message said this time, so that it is at least that. @returns by how much `now` is ahead of it */
  hear(issuerMs: number): number
}

export function createIssuerClock(): IssuerClock {
  /** The issuer's time minus our clocks. */
  let offset: Clocks | undefined

  function now(): number {
    if (offset === undefined) return Date.now()
    return Math.max(performance.now() + offset.monotonic, Date.now() + offset.wall)
  }

  return {
    now,
    earliest() {
      if (offset === undefined) return Date.now()
      return Math.min(performance.now() + offset.monotonic, Date.now() + offset.wall)
    },
    fix(issuerMs, asked) {
      const most = { monotonic: issuerMs - asked.monotonic, wall: issuerMs - asked.wall }
      offset = {
        monotonic: Math.min(offset?.monotonic ?? most.monotonic, most.monotonic),
        wall: Math.min(offset?.wall ?? most.wall, most.wall),
      }
    },
    hear(issuerMs) {
      if (offset !== undefined) {
        const { monotonic, wall } = readClocks()
        offset.monotonic = Math.max(offset.monotonic, issuerMs - monotonic)
        offset.wall = Math.max(offset.wall, issuerMs - wall)
      }
      return now() - issuerMs
    },
  }
}

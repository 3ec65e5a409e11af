// Work that an answer does not wait for, and the end of the process does.

export interface Soon {
  /** @param work must not reject */
  add(work: Promise<void>): void
  /** When all of it has ended. */
  settled(): Promise<void>
}

export function createSoon(): Soon {
  const underWay = new Set<Promise<void>>()
  return {
    add(work) {
      underWay.add(work)
      void work.finally(() => underWay.delete(work))
    },
    async settled() {
      while (underWay.size > 0) await Promise.all(underWay)
    },
  }
}

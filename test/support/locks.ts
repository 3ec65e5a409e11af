// Sessions of the database that hold what servers want, and what waits for them.
import pg from 'pg'

/** A session of its own, as a person with psql has one. */
export async function inSession(url: string, work: (session: pg.Client) => Promise<void>): Promise<void> {
  const session = new pg.Client({ connectionString: url })
  await session.connect()
  try {
    await work(session)
  } finally {
    await session.end()
  }
}

/** Until so many backends of this database wait for a lock. */
export function waitUntilBlocked(url: string, count: number): Promise<void> {
  return waitUntil(
    url,
    `select count(*) >= ${count} as so from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`,
  )
}

const LONG_MS = 20_000

/** Until the query answers `so`. */
export async function waitUntil(url: string, query: string): Promise<void> {
  await inSession(url, async (session) => {
    const deadline = performance.now() + LONG_MS
    while (!(await session.query(query)).rows[0]?.so) {
      if (performance.now() > deadline) throw new Error(`not so within ${LONG_MS} ms: ${query}`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  })
}

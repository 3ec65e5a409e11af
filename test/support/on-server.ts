// Statements on a PostgreSQL server beside its databases, as whoever may make them there.
import pg from 'pg'

/** @param url of any database on it */
export async function onServer(url: string, ...statements: string[]): Promise<void> {
  const server = new URL(url)
  server.pathname = '/postgres'
  const client = new pg.Client({ connectionString: server.href })
  await client.connect()
  try {
    for (const statement of statements) await client.query(statement)
  } finally {
    await client.end()
  }
}

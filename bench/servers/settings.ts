// What the runner and the peers' servers agree on: where to listen, which stores to use, and who is known.
import type { Credentials } from '../site.ts'

export interface ServerSettings {
  readonly port: number
  readonly databaseUrl?: string
  readonly redisUrl?: string
}

const VARIABLE = 'BENCH_SERVER_SETTINGS'

export function settingsEnvironment(settings: ServerSettings): Record<string, string> {
  return { [VARIABLE]: JSON.stringify(settings) }
}

/** Read by a peer's server at its start. The runner wrote it, in this same shape. */
export function readSettings(): ServerSettings {
  const text = process.env[VARIABLE]
  if (!text) throw new Error(`${VARIABLE} is not set: this server is started by bench/run.ts`)
  return JSON.parse(text) as ServerSettings // written by settingsEnvironment
}

/** Told to the runner once the server listens. */
export interface ReadyMessage {
  readonly kind: 'ready'
  readonly client: Credentials
  readonly machine: Credentials
}

export function announce(clients: Omit<ReadyMessage, 'kind'>): void {
  process.send?.({ kind: 'ready', ...clients } satisfies ReadyMessage)
}

export const REDIRECT_URI = 'https://app.example/callback'
export const RESOURCE = 'https://api.example/'
export const SCOPE = 'read'
export const ACCESS_TOKEN_SECONDS = 600
/** Long enough that no run outlives them, so that expiry is never what a scenario meets. */
export const REFRESH_TOKEN_SECONDS = 14 * 24 * 3600

export const CLIENT: Credentials = {
  clientId: 'bench-integration',
  clientSecret: 'wsKkL8o1CqzH0o0T3bV0k6x1V4mJ2dS9nR5yQ7uE',
}
export const MACHINE: Credentials = {
  clientId: 'bench-machine',
  clientSecret: 'hN4tYp2Gf7cXa9ZsDq1LwMe6RkVb3UjT8oIx0Py5',
}

/** Where the test rigs make a pasted token: an API key, whoever asks. */
export const MAKE_KEY_PATH = '/make-key'
/** Where better-auth's rig verifies one: the library leaves that address to its user. */
export const VERIFY_KEY_PATH = '/verify-key'

/** How the test rigs' own sign-in pages are told who signs in. */
export const ACCOUNT_HEADER = 'x-bench-account'

/** The people of the servers that ask for a password. */
export const emailOf = (account: number): string => `person-${account}@bench.example`
export const ACCOUNT_PASSWORD = 'correct horse battery staple 7'

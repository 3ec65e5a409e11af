// better-auth with its OAuth provider plugin on PostgreSQL, set up as its documentation shows: the jwt and oauthProvider
// plugins, a pg pool, its own migrations, toNodeHandler; and the API key plugin, whose verification is called from a
// handler of our own, as its documentation says. Departures: ES256 as the others have it, and rate limits off.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { text } from 'node:stream/consumers'
import { apiKey } from '@better-auth/api-key'
import { oauthProvider } from '@better-auth/oauth-provider'
import { type BetterAuthOptions, betterAuth } from 'better-auth'
import { getMigrations } from 'better-auth/db/migration'
import { toNodeHandler } from 'better-auth/node'
import { jwt } from 'better-auth/plugins'
import pg from 'pg'
import { ACCOUNTS } from '../constants.ts'
import type { Credentials } from '../site.ts'
import {
  ACCESS_TOKEN_SECONDS,
  ACCOUNT_PASSWORD,
  announce,
  emailOf,
  MAKE_KEY_PATH,
  REDIRECT_URI,
  REFRESH_TOKEN_SECONDS,
  RESOURCE,
  readSettings,
  SCOPE,
  VERIFY_KEY_PATH,
} from './settings.ts'

const { port, databaseUrl } = readSettings()
if (!databaseUrl) throw new Error('better-auth needs a database')

const options = {
  baseURL: `http://127.0.0.1:${port}`,
  secret: 'a secret for a server that lives for a minute',
  database: new pg.Pool({ connectionString: databaseUrl }),
  emailAndPassword: { enabled: true },
  rateLimit: { enabled: false },
  telemetry: { enabled: false },
  disabledPaths: ['/token'],
  plugins: [
    jwt({ jwks: { keyPairConfig: { alg: 'ES256' } } }),
    oauthProvider({
      loginPage: '/sign-in',
      consentPage: '/consent',
      scopes: ['openid', 'offline_access', SCOPE],
      resources: [RESOURCE],
      enforcePerClientResources: false,
      accessTokenExpiresIn: ACCESS_TOKEN_SECONDS,
      m2mAccessTokenExpiresIn: ACCESS_TOKEN_SECONDS,
      refreshTokenExpiresIn: REFRESH_TOKEN_SECONDS,
      // Who may make clients: the rig's first account, below.
      clientPrivileges: () => true,
    }),
    apiKey({ rateLimit: { enabled: false } }),
  ],
} satisfies BetterAuthOptions

// As `auth migrate` does, before the server starts.
const { runMigrations } = await getMigrations(options)
await runMigrations()
const auth = betterAuth(options)

const password = ACCOUNT_PASSWORD
for (let account = 0; account < ACCOUNTS; account += 1) {
  await auth.api.signUpEmail({ body: { name: `Person ${account}`, email: emailOf(account), password } })
}

const signedIn = await auth.api.signInEmail({ body: { email: emailOf(0), password }, returnHeaders: true })
const cookie = signedIn.headers
  .getSetCookie()
  .map((line) => line.split(';', 1)[0])
  .join('; ')

function credentials(created: { client_id: string; client_secret?: string }): Credentials {
  if (!created.client_secret) throw new Error('better-auth made a client without a secret')
  return { clientId: created.client_id, clientSecret: created.client_secret }
}

const asFirstAccount = new Headers({ cookie })
const client = await auth.api.adminCreateOAuthClient({
  headers: asFirstAccount,
  body: {
    client_name: 'integration',
    token_endpoint_auth_method: 'client_secret_basic',
    redirect_uris: [REDIRECT_URI],
    grant_types: ['authorization_code', 'refresh_token'],
    scope: `openid offline_access ${SCOPE}`,
  },
})
const machine = await auth.api.adminCreateOAuthClient({
  headers: asFirstAccount,
  body: {
    client_name: 'machine',
    token_endpoint_auth_method: 'client_secret_basic',
    redirect_uris: [REDIRECT_URI],
    grant_types: ['client_credentials'],
    scope: SCOPE,
    client_credentials_scopes: [SCOPE],
  },
})

/** The rig's own: a key of the first account. */
async function makeKey(): Promise<object> {
  const { key } = await auth.api.createApiKey({ body: { userId: signedIn.response.user.id } })
  return { key }
}

async function verifyKey(request: IncomingMessage): Promise<object> {
  const key = new URLSearchParams(await text(request)).get('token') ?? ''
  const { valid } = await auth.api.verifyApiKey({ body: { key } })
  return { active: valid }
}

function answer(response: ServerResponse, work: Promise<object>): void {
  const send = (status: number, value: object) =>
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value))
  work.then(
    (value) => send(200, value),
    (error: unknown) => send(500, { error: String(error) }),
  )
}

const library = toNodeHandler(auth)

createServer((request, response) => {
  if (request.url === VERIFY_KEY_PATH) return answer(response, verifyKey(request))
  if (request.url === MAKE_KEY_PATH) return answer(response, makeKey())
  void library(request, response)
}).listen(port, '127.0.0.1', () => announce({ client: credentials(client), machine: credentials(machine) }))

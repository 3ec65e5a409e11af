// Plain oidc-provider: the library's own memory adapter, or one on Redis that does what its example adapter does.
// Configured for the same work as the others: ES256, PKCE, rotation at every refresh, JWTs for the API.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { exportJWK, generateKeyPair } from 'jose'
import Provider, { type AdapterFactory, type ClientMetadata, type Configuration, errors } from 'oidc-provider'
import { redisAdapter } from './oidc-provider-redis.ts'
import {
  ACCESS_TOKEN_SECONDS,
  ACCOUNT_HEADER,
  announce,
  CLIENT,
  MACHINE,
  REDIRECT_URI,
  REFRESH_TOKEN_SECONDS,
  RESOURCE,
  readSettings,
  SCOPE,
} from './settings.ts'

const { port, redisUrl } = readSettings()
const { privateKey } = await generateKeyPair('ES256', { extractable: true })

const clients: ClientMetadata[] = [
  {
    client_id: CLIENT.clientId,
    client_secret: CLIENT.clientSecret,
    redirect_uris: [REDIRECT_URI],
    grant_types: ['authorization_code', 'refresh_token'],
    id_token_signed_response_alg: 'ES256',
    scope: `openid offline_access ${SCOPE}`,
  },
  {
    client_id: MACHINE.clientId,
    client_secret: MACHINE.clientSecret,
    redirect_uris: [],
    response_types: [],
    grant_types: ['client_credentials'],
    id_token_signed_response_alg: 'ES256',
    scope: SCOPE,
  },
]

/** On Redis, clients are stored too: as with the others, a change to one is seen by the next request. */
async function storeClients(adapterFor: AdapterFactory): Promise<void> {
  const adapter = adapterFor('Client')
  for (const client of clients) await adapter.upsert(client.client_id, client, 0)
}

const adapter = redisUrl === undefined ? undefined : redisAdapter(redisUrl)
if (adapter) await storeClients(adapter)

const configuration: Configuration = {
  ...(adapter ? { adapter } : { clients }),
  clientAuthMethods: ['client_secret_basic'],
  cookies: { keys: ['a key for a server that lives for a minute'] },
  enabledJWA: { idTokenSigningAlgValues: ['ES256'] },
  // The private key: the library signs with it and publishes its public half.
  jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: 'bench' }] },
  scopes: ['openid', 'offline_access', SCOPE],
  pkce: { required: () => true },
  rotateRefreshToken: () => true,
  // Without a prompt the library drops offline_access; these two give the client its refresh token all the same,
  // and spare each refresh the look at the browser's session, which an offline token does not need.
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
  expiresWithSession: async () => false,
  ttl: {
    AccessToken: ACCESS_TOKEN_SECONDS,
    AuthorizationCode: 60,
    ClientCredentials: ACCESS_TOKEN_SECONDS,
    Grant: REFRESH_TOKEN_SECONDS,
    IdToken: ACCESS_TOKEN_SECONDS,
    Interaction: 600,
    RefreshToken: REFRESH_TOKEN_SECONDS,
    Session: REFRESH_TOKEN_SECONDS,
  },
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_ctx, sub) => ({ accountId: sub, claims: () => ({ sub }) }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo(_ctx, resource) {
        if (resource !== RESOURCE) throw new errors.InvalidTarget()
        return {
          scope: SCOPE,
          audience: RESOURCE,
          accessTokenFormat: 'jwt',
          accessTokenTTL: ACCESS_TOKEN_SECONDS,
          jwt: { sign: { alg: 'ES256' } },
        }
      },
    },
  },
}

const provider = new Provider(`http://127.0.0.1:${port}`, configuration)
const callback = provider.callback()

/** The sign-in and consent pages, without the pages: whoever the header names signs in, and approves. */
async function interact(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { prompt, session, params } = await provider.interactionDetails(request, response)
  if (prompt.name === 'login') {
    const login = { accountId: String(request.headers[ACCOUNT_HEADER]) }
    return provider.interactionFinished(request, response, { login }, { mergeWithLastSubmission: false })
  }
  const accountId = session?.accountId
  if (accountId === undefined) throw new Error('consent without a session')
  const grant = new provider.Grant({ accountId, clientId: String(params.client_id) })
  grant.addOIDCScope(`openid offline_access ${SCOPE}`)
  grant.addResourceScope(RESOURCE, SCOPE)
  const consent = { grantId: await grant.save() }
  return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true })
}

createServer((request, response) => {
  if (!request.url?.startsWith('/interaction/')) return void callback(request, response)
  interact(request, response).catch((error: unknown) => {
    response.writeHead(500, { 'content-type': 'text/plain' }).end(String(error))
  })
}).listen(port, '127.0.0.1', () => announce({ client: CLIENT, machine: MACHINE }))

// What the tour walks through: a first organization with two workspaces, a person, a demo API and a demo plugin. Made once,
// in the embedded default, by the same services that operators use.

import type { AccountsDeps } from '../accounts/service.ts'
import { createUser } from '../accounts/service.ts'
import type { RequestInfo } from '../audit/service.ts'
import type { Clients } from '../clients/service.ts'
import { randomSecret, Secret } from '../crypto/secret.ts'
import { createOrganization, createWorkspace } from '../organizations/service.ts'
import type { ResourceServers } from '../resource-servers/service.ts'
import type { Db } from '../store/database.ts'

export const TOUR_EMAIL = 'ada@example.com'
export const TOUR_CLIENT_NAME = 'Tracepad'

export interface Tour {
  clientId: string
  /** Of the demo API. */
  resource: string
}

/** The tour's client and API, by the name and address that its set-up gave them. */
async function findTour(db: Db, issuer: string): Promise<Tour | undefined> {
  const resource = tourResource(issuer)
  const client = await db
    .selectFrom('clients')
    .select('id')
    .where('name', '=', TOUR_CLIENT_NAME)
    .where('default_resource', '=', resource)
    .where('deleted_at', 'is', null)
    .executeTakeFirst()
  return client && { clientId: client.id, resource }
}

function tourResource(issuer: string): string {
  return `${issuer}/try/api`
}

export interface TourDeps {
  db: Db
  issuer: string
  accounts: AccountsDeps
  clients: Clients
  resourceServers: ResourceServers
}

/** Makes what is missing. @returns the person's password when the person was made just now: it is shown this once */
export async function setUpTour(
  deps: TourDeps,
  request: RequestInfo,
): Promise<Tour & { password: Secret | undefined }> {
  const present = await findTour(deps.db, deps.issuer)
  if (present !== undefined) return { ...present, password: undefined }
  const by = { actor: { kind: 'operator' } as const, request }
  const isEmpty = (await deps.db.selectFrom('organizations').select('id').limit(1).executeTakeFirst()) === undefined
  const password = isEmpty ? new Secret(readable(randomSecret().reveal())) : undefined
  if (password !== undefined) await setUpPeople(deps, password, by)
  const resource = tourResource(deps.issuer)
  if ((await deps.resourceServers.find(resource)) === undefined) {
    await deps.resourceServers.create({
      identifier: resource,
      name: 'Tracepad API',
      environments: ['production', 'development'],
      scopes: [
        { name: 'traces:read', sentence: 'See traces, datasets and their results', leastRole: 'member' },
        { name: 'traces:write', sentence: 'Send new traces', leastRole: 'member' },
      ],
      ...by,
    })
  }
  const { client_id: clientId } = await deps.clients.create({
    name: TOUR_CLIENT_NAME,
    redirectUris: [`${deps.issuer}/try/callback`],
    grantTypes: ['authorization_code', 'refresh_token'],
    authMethod: 'none',
    environment: 'development',
    pkceRequired: true,
    defaultResource: resource,
    ...by,
  })
  return { clientId, resource, password }
}

async function setUpPeople(
  deps: TourDeps,
  password: Secret,
  by: { actor: { kind: 'operator' }; request: RequestInfo },
): Promise<void> {
  const user = await createUser(deps.accounts, { email: TOUR_EMAIL, name: 'Ada Example', password, ...by })
  const organization = await createOrganization(deps.db, { name: 'Acme Example', owner: user.id, ...by })
  for (const name of ['platform-ai', 'research-notebooks']) {
    await createWorkspace(deps.db, { organization: organization.id, name, owner: user.id, ...by })
  }
}

/** Four groups of five: easy to read off a terminal; about a hundred bits. */
function readable(random: string): string {
  const letters = random.replace(/[^a-zA-Z0-9]|[0O1lI]/g, '').toLowerCase()
  return (letters.slice(0, 20).match(/.{5}/g) ?? []).join('-')
}

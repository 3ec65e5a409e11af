// Provider connections over the JSON API.
import { z } from 'zod'
import { ANY_CREDENTIAL, type Route, type Rule, route, workspaceOf } from '../api/route.ts'
import { AppError } from '../errors.ts'
import { workspaceParams } from '../organizations/schemas.ts'
import { actorOf } from '../principals/service.ts'
import { findProviderType } from '../provider-types/registry.ts'
import * as shapes from './schemas.ts'
import * as service from './service.ts'

export interface ProviderRoutesDeps {
  providers: service.ProvidersDeps & { soon(work: Promise<void>): void }
}

const TAG = 'Providers'
const SEE: Rule = { who: 'workspace', permission: 'read', role: 'member', credentials: ANY_CREDENTIAL }
const CHANGE: Rule = { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL }
const PATH = '/workspaces/:workspace_id/providers'
const ONE = `${PATH}/:provider_id`

export function providerRoutes(deps: ProviderRoutesDeps): Route[] {
  return [...reads(deps), ...changes(deps)]
}

function reads({ providers: { db } }: ProviderRoutesDeps): Route[] {
  return [
    route({
      method: 'GET',
      path: PATH,
      operationId: 'listProviders',
      summary: 'List the provider connections of a workspace',
      tag: TAG,
      rule: SEE,
      params: workspaceParams,
      answers: { 200: { description: 'At most one a provider', schema: z.array(shapes.providerShape) } },
      async handle({ reach }) {
        return {
          status: 200,
          body: (await service.listProviders(db, workspaceOf(reach).id)).map(shapes.presentProvider),
        }
      },
    }),
    route({
      method: 'GET',
      path: ONE,
      operationId: 'getProvider',
      summary: 'Show a provider connection',
      tag: TAG,
      rule: SEE,
      params: shapes.providerParams,
      answers: { 200: { description: 'The connection', schema: shapes.providerShape } },
      async handle({ reach, params }) {
        const found = await service.getProvider(db, workspaceOf(reach).id, params.provider_id)
        return { status: 200, body: shapes.presentProvider(found) }
      },
    }),
  ]
}

function changes({ providers }: ProviderRoutesDeps): Route[] {
  const changed = { 200: { description: 'The connection', schema: shapes.providerShape } }
  return [
    route({
      method: 'POST',
      path: PATH,
      operationId: 'createProvider',
      summary: 'Connect a workspace to a provider',
      description:
        'One a provider. Its key is encrypted and never shown; whether it works is looked at in the background. A signed-in person needs a sign-in from the last ten minutes.',
      tag: TAG,
      rule: CHANGE,
      params: workspaceParams,
      body: shapes.newProvider,
      answers: { 201: { description: 'Waiting to be verified', schema: shapes.providerShape } },
      async handle({ reach, body, by }) {
        const type = findProviderType(body.provider_type)
        if (type === undefined) throw new AppError('invalid_request')
        const credentials = credentialsOf(body)
        const made = await service.createProvider(providers, {
          workspaceId: workspaceOf(reach).id,
          type,
          credentials,
          ...by,
        })
        providers.soon(service.checkInBackground(providers, made))
        return { status: 201, body: shapes.presentProvider(made) }
      },
    }),
    route({
      method: 'PUT',
      path: ONE,
      operationId: 'replaceProviderCredentials',
      summary: 'Replace the key of a provider connection, and its address',
      description:
        'Both together: a key is never sent to an address that it was not given for. A signed-in person needs a sign-in from the last ten minutes.',
      tag: TAG,
      rule: CHANGE,
      params: shapes.providerParams,
      body: shapes.newCredentials,
      answers: changed,
      async handle({ reach, params: { provider_id: id }, body, by }) {
        const credentials = credentialsOf(body)
        const workspaceId = workspaceOf(reach).id
        const replaced = await service.replaceProviderCredentials(providers, { workspaceId, id, credentials, ...by })
        providers.soon(service.checkInBackground(providers, replaced))
        return { status: 200, body: shapes.presentProvider(replaced) }
      },
    }),
    route({
      method: 'POST',
      path: `${ONE}/verify`,
      operationId: 'verifyProvider',
      summary: 'Ask the provider whether it takes the key',
      description: 'At most six seconds. Twenty a minute and workspace, new keys among them.',
      tag: TAG,
      rule: CHANGE,
      params: shapes.providerParams,
      answers: changed,
      async handle({ reach, params, by, principal }) {
        const found = await service.getProvider(providers.db, workspaceOf(reach).id, params.provider_id)
        await service.requireFewerChecks(providers, found.workspaceId)
        const asked = { actor: actorOf(by.authority), request: by.request, userId: principal.userId }
        return { status: 200, body: shapes.presentProvider(await service.checkProvider(providers, found, asked)) }
      },
    }),
    route({
      method: 'DELETE',
      path: ONE,
      operationId: 'deleteProvider',
      summary: 'Delete a provider connection, and its key',
      tag: TAG,
      rule: CHANGE,
      params: shapes.providerParams,
      answers: { 204: { description: 'Deleted: no call goes through it any more' } },
      async handle({ reach, params: { provider_id: id }, by }) {
        await service.deleteProvider(providers, { workspaceId: workspaceOf(reach).id, id, ...by })
        return { status: 204 }
      },
    }),
  ]
}

function credentialsOf(body: z.output<typeof shapes.newCredentials>): service.NewCredentials {
  return { apiToken: body.credentials.api_token, baseUrl: body.base_url ?? undefined }
}

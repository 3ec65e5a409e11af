// Providers behind this server: one route an endpoint, under the provider's own path.
import { z } from 'zod'
import { INGEST, type Route, route } from '../api/route.ts'
import { PROVIDER_TYPES } from '../provider-types/registry.ts'
import { type Endpoint, isJson, type Json, type ProviderType } from '../provider-types/rules.ts'
import { createCounter } from '../store/counter.ts'
import type { EphemeralStore } from '../store/ephemeral.ts'
import { callProvider, MOST_CALLS, type ProxyDeps } from './service.ts'
import { createUnderWay, MOST_AT_ONCE } from './under-way.ts'

const TYPES = ['application/json', 'text/event-stream', 'application/octet-stream']
/** Images and documents stand in requests. */
const MOST_BODY_BYTES = 16 * 1024 * 1024

export function proxyRoutes({
  providers,
  ephemeral,
}: Pick<ProxyDeps, 'providers'> & { ephemeral: EphemeralStore }): Route[] {
  const underWay = createUnderWay()
  const deps = { providers, counter: createCounter(ephemeral), underWay }
  return PROVIDER_TYPES.flatMap((type) => type.endpoints.map((endpoint) => proxied(deps, type, endpoint)))
}

/** Not copied: it may have as many members as there are. */
const BODY = z.custom<Json>(isJson, 'must be a JSON object')
const PARAMETER = z.string().max(200).optional()

const METERED =
  'What it uses is recorded; under a hard cap the most that it can cost is held first. Answers of the provider come through as they are, but for those about the key.'

function proxied(deps: ProxyDeps, type: ProviderType, endpoint: Endpoint): Route {
  const word = endpoint.path.replaceAll(/[^a-z0-9]+(\w)/gi, (_, letter: string) => letter.toUpperCase())
  return route({
    method: endpoint.method,
    path: `/proxy/${type.type}${endpoint.path}`,
    operationId: `${type.type}${word}${endpoint.method === 'GET' ? 'List' : ''}`,
    summary: `${type.name}: ${endpoint.summary}`,
    description: `With the stored key of the credential’s workspace.${type.keyHeader === undefined ? '' : ` The token may stand in ${type.keyHeader} instead of Authorization.`} ${endpoint.metered === undefined ? 'It costs nothing.' : METERED} ${MOST_CALLS.toLocaleString('en')} calls a minute and credential, and ${MOST_AT_ONCE} at once.`,
    tag: 'Proxy',
    rule: INGEST,
    ...(endpoint.method === 'POST'
      ? {
          body: BODY.meta({ description: `As ${type.name} takes it`, override: { type: 'object' } }),
          mostBodyBytes: MOST_BODY_BYTES,
          keepsRaw: true,
        }
      : {}),
    keyHeader: type.keyHeader,
    query: z.strictObject(Object.fromEntries(endpoint.query.map((name) => [name, PARAMETER]))),
    answers: { 200: { description: `As ${type.name} answers`, types: TYPES } },
    async handle({ body, raw, query, principal, request, header, signal }) {
      const names = type.passedHeaders.filter((name) => header(name) !== '')
      return callProvider(deps, {
        type,
        endpoint,
        principal,
        request,
        headers: Object.fromEntries(names.map((name) => [name, header(name)])),
        query,
        body: raw && { raw, json: body as Json }, // by its shape
        signal,
      })
    },
  })
}

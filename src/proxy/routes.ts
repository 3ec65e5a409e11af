// Providers behind this server: one route an endpoint, under the provider's own path.
import { z } from 'zod'
import { type Route, type Rule, route } from '../api/route.ts'
import { PROVIDER_TYPES } from '../provider-types/registry.ts'
import type { Endpoint, ProviderType } from '../provider-types/rules.ts'
import { callProvider, type ProxyDeps } from './service.ts'

const USE: Rule = { who: 'caller', permission: 'ingest', credentials: ['workspace_token', 'access_token'] }
const TYPES = ['application/json', 'text/event-stream', 'application/octet-stream']
/** Images and documents stand in requests. */
const MOST_BODY_BYTES = 16 * 1024 * 1024

export function proxyRoutes(deps: ProxyDeps): Route[] {
  return PROVIDER_TYPES.flatMap((type) => type.endpoints.map((endpoint) => proxied(deps, type, endpoint)))
}

function proxied(deps: ProxyDeps, type: ProviderType, endpoint: Endpoint): Route {
  const word = endpoint.path.replaceAll(/[^a-z0-9]+(\w)/gi, (_, letter: string) => letter.toUpperCase())
  return route({
    method: endpoint.method,
    path: `/proxy/${type.type}${endpoint.path}`,
    operationId: `${type.type}${word}${endpoint.method === 'GET' ? 'List' : ''}`,
    summary: `${type.name}: ${endpoint.summary}`,
    description:
      endpoint.metered === undefined
        ? 'With the stored key of the credential’s workspace. It costs nothing.'
        : 'With the stored key of the credential’s workspace. What it uses is recorded; under a hard cap the most that it can cost is held first. Answers of the provider come through as they are, but for those about the key.',
    tag: 'Proxy',
    rule: USE,
    ...(endpoint.method === 'POST'
      ? {
          body: z.record(z.string(), z.unknown()).meta({ description: `As ${type.name} takes it` }),
          mostBodyBytes: MOST_BODY_BYTES,
        }
      : {}),
    answers: { 200: { description: `As ${type.name} answers`, types: TYPES } },
    async handle({ body, raw, principal, request, header, signal }) {
      const names = ['content-type', ...type.passedHeaders].filter((name) => header(name) !== '')
      return callProvider(deps, {
        type,
        endpoint,
        principal,
        request,
        headers: Object.fromEntries(names.map((name) => [name, header(name)])),
        body: endpoint.method === 'POST' ? { raw, json: body as Readonly<Record<string, unknown>> } : undefined, // by its shape
        signal,
      })
    },
  })
}

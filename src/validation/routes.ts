// Access validation over the JSON API.
import { type Route, route } from '../api/route.ts'
import { expectations, presentValidation, validationShape } from './schemas.ts'
import type { Validation } from './service.ts'

export function validationRoutes({ validation }: { validation: Validation }): Route[] {
  return [
    route({
      method: 'GET',
      path: '/access/validate',
      operationId: 'validateAccess',
      summary: 'Whether the credential that is presented stands, and is the one that a job expects',
      description:
        'With any credential but a session, whatever its permissions; also a JWT for another API. It is no use of the credential: nothing changes but the audit log, where each validation is on record before it is answered. What was expected and is not so is 403 (workspace_mismatch, environment_mismatch, stale_version); 600 a minute and credential.',
      tag: 'Access',
      rule: { who: 'presented' },
      query: expectations,
      answers: { 200: { description: 'As it is recorded', schema: validationShape } },
      async handle({ standing, query, request }) {
        const { workspace_id: workspaceId, environment, token_version: tokenVersion } = query
        const record = await validation.validate(standing, { workspaceId, environment, tokenVersion }, request)
        return { status: 200, body: presentValidation(record) }
      },
    }),
  ]
}

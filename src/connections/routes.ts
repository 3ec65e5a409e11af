// Connections of a workspace over the JSON API: seen, and ended.
import { z } from 'zod'
import { ANY_CREDENTIAL, type Route, type Rule, route, workspaceOf } from '../api/route.ts'
import { AppError } from '../errors.ts'
import { workspaceParams } from '../organizations/schemas.ts'
import type { RevocationList } from '../revocation/service.ts'
import type { Db } from '../store/database.ts'
import {
  connectionDetailShape,
  connectionParams,
  connectionShape,
  newVersionShape,
  presentConnection,
  presentConnectionDetail,
} from './schemas.ts'
import {
  disconnect,
  findOpenConnection,
  listConnections,
  listUsedVersions,
  makeItSignAnew,
  suspendConnection,
} from './service.ts'

export interface ConnectionRoutesDeps {
  db: Db
  revocations: RevocationList
}

const TAG = 'Connections'
const SEE: Rule = { who: 'workspace', permission: 'read', role: 'member', credentials: ANY_CREDENTIAL }
/** A member ends what they approved themselves; the service asks for more where it is somebody else's. */
const END: Rule = { who: 'workspace', permission: 'manage', role: 'member', credentials: ANY_CREDENTIAL }
const SUSPEND: Rule = { who: 'workspace', permission: 'manage', role: 'admin', credentials: ANY_CREDENTIAL }

export function connectionRoutes({ db, revocations }: ConnectionRoutesDeps): Route[] {
  return [
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/connections',
      operationId: 'listConnections',
      summary: 'List the open connections of a workspace',
      tag: TAG,
      rule: SEE,
      params: workspaceParams,
      answers: { 200: { description: 'Connections', schema: z.array(connectionShape) } },
      async handle({ reach }) {
        return { status: 200, body: (await listConnections(db, workspaceOf(reach).id)).map(presentConnection) }
      },
    }),
    route({
      method: 'GET',
      path: '/workspaces/:workspace_id/connections/:connection_id',
      operationId: 'getConnection',
      summary: 'Show an open connection, and when and from where each of its versions was used',
      tag: TAG,
      rule: SEE,
      params: connectionParams,
      answers: { 200: { description: 'The connection', schema: connectionDetailShape } },
      async handle({ reach, params }) {
        const view = await findOpenConnection(db, { workspaceId: workspaceOf(reach).id }, params.connection_id)
        if (view === undefined) throw new AppError('not_found')
        return { status: 200, body: presentConnectionDetail(view, await listUsedVersions(db, view.id)) }
      },
    }),
    route({
      method: 'DELETE',
      path: '/workspaces/:workspace_id/connections/:connection_id',
      operationId: 'revokeConnection',
      summary: 'End a connection, and everything that came of it, at once',
      description: 'Its person approves anew to connect again: that is a new connection.',
      tag: TAG,
      rule: END,
      params: connectionParams,
      answers: { 204: { description: 'From now on no node accepts anything of it' } },
      async handle({ params, by }) {
        await disconnect(revocations, { workspaceId: params.workspace_id, id: params.connection_id, ...by })
        return { status: 204 }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/connections/:connection_id/new-version',
      operationId: 'renewConnection',
      summary: 'Make it sign a new token: what was issued is dead, the next refresh goes on',
      tag: TAG,
      rule: END,
      params: connectionParams,
      body: z.strictObject({}),
      answers: { 200: { description: 'The version that its tokens have from now on', schema: newVersionShape } },
      async handle({ params, by }) {
        const changed = await makeItSignAnew(revocations, {
          workspaceId: params.workspace_id,
          id: params.connection_id,
          ...by,
        })
        return { status: 200, body: changed }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/connections/:connection_id/suspend',
      operationId: 'suspendConnection',
      summary: 'Suspend a connection: nothing of it is accepted until it is restored',
      description: 'Its refresh tokens are kept: the integration goes on by itself once it is restored.',
      tag: TAG,
      rule: SUSPEND,
      params: connectionParams,
      body: z.strictObject({}),
      answers: { 200: { description: 'The connection', schema: connectionShape } },
      async handle({ params, by }) {
        const asked = { workspaceId: params.workspace_id, id: params.connection_id, suspended: true, ...by }
        return { status: 200, body: presentConnection(await suspendConnection(revocations, asked)) }
      },
    }),
    route({
      method: 'POST',
      path: '/workspaces/:workspace_id/connections/:connection_id/restore',
      operationId: 'restoreConnection',
      summary: 'Restore a suspended connection; what was issued before stays refused',
      description:
        'A signed-in person needs a sign-in from the last ten minutes. Not with a credential of the workspace.',
      tag: TAG,
      rule: SUSPEND,
      params: connectionParams,
      body: z.strictObject({}),
      answers: { 200: { description: 'The connection', schema: connectionShape } },
      async handle({ params, by }) {
        const asked = { workspaceId: params.workspace_id, id: params.connection_id, suspended: false, ...by }
        return { status: 200, body: presentConnection(await suspendConnection(revocations, asked)) }
      },
    }),
  ]
}

// The audit log over the JSON API: pages, one record, the state of the chain, and signed files to take away.
import { z } from 'zod'
import { ANY_CREDENTIAL, type Route, type Rule, route } from '../api/route.ts'
import { AppError } from '../errors.ts'
import { fileOf } from './download.ts'
import { type Filter, readPosition, writePosition } from './rules.ts'
import * as shapes from './schemas.ts'
import { scopeOf } from './scope.ts'
import { type EvidenceDeps, getChainState, getRecord, listRecords } from './service.ts'

const TAG = 'Audit'
const SEE: Rule = { who: 'caller', permission: 'read', credentials: ANY_CREDENTIAL }
const FILE = { 200: { description: 'The file', types: ['application/x-ndjson', 'text/csv'] } }

type Query = z.output<typeof shapes.recordsQuery> | z.output<typeof shapes.exportQuery>

export function evidenceRoutes(deps: EvidenceDeps): Route[] {
  return [...listRoutes(deps), ...fileRoutes(deps)]
}

function listRoutes(deps: EvidenceDeps): Route[] {
  const { db, signer } = deps
  return [
    route({
      method: 'GET',
      path: '/audit',
      operationId: 'listAuditRecords',
      summary: 'Read the audit log, newest first',
      description:
        'Whoever administers the organization sees all of it, whoever administers a workspace the records of that workspace; a credential of a workspace likewise. All filters that are given must fit.',
      tag: TAG,
      rule: SEE,
      query: shapes.recordsQuery,
      answers: { 200: { description: 'Records', schema: z.array(shapes.recordShape) } },
      async handle({ principal, query, pages }) {
        const scope = await scopeOf(db, principal, query)
        const position = pages.after(query.cursor)
        const before = position === undefined ? undefined : readPosition(position)
        const found = await listRecords(db, scope, { filter: filterOf(query), before, most: query.limit + 1 })
        return { status: 200, body: pages.cut(found, query.limit, writePosition) }
      },
    }),
    route({
      method: 'GET',
      path: '/audit/chain',
      operationId: 'getAuditChain',
      summary: 'How far the chain of the organization goes, is signed, and is archived',
      tag: TAG,
      rule: SEE,
      query: shapes.placeQuery,
      answers: { 200: { description: 'The state of the chain', schema: shapes.chainStateShape } },
      async handle({ principal, query }) {
        const { chain } = await scopeOf(db, principal, query)
        const { checkpoint_seq: seq, checkpoint_at: made_at, ...state } = await getChainState(deps, chain)
        const checkpoint = seq === null || made_at === null ? null : { seq, made_at }
        return { status: 200, body: { chain, ...state, checkpoint } }
      },
    }),
    route({
      method: 'GET',
      path: '/audit/keys',
      operationId: 'getAuditKeys',
      summary: 'The public keys that signed files are verified with',
      description: 'A JWK Set (RFC 7517): keep it with the files, for `latchkey audit verify --file … --keys …`.',
      tag: TAG,
      rule: { who: 'anyone' },
      answers: { 200: { description: 'Public keys, newest first', schema: shapes.keysShape } },
      handle: async () => ({ status: 200, body: { keys: signer.publicKeys() } }),
    }),
  ]
}

function fileRoutes(deps: EvidenceDeps): Route[] {
  const { db } = deps
  return [
    route({
      method: 'GET',
      path: '/audit/export',
      operationId: 'exportAuditRecords',
      summary: 'Take the records that fit away as a file, oldest first',
      description:
        'The whole log of an organization where no filter is given. A file that does not end with its signature is not whole.',
      tag: TAG,
      rule: SEE,
      query: shapes.exportQuery,
      answers: FILE,
      async handle({ principal, query }) {
        const scope = await scopeOf(db, principal, query)
        return fileOf(deps, scope, filterOf(query), { format: query.format, name: 'audit' })
      },
    }),
    route({
      method: 'GET',
      path: '/audit/evidence/:trace_id',
      operationId: 'getEvidence',
      summary: 'Everything that is recorded of one trace, as one signed file',
      description: '`latchkey audit verify --file … --keys …` verifies it offline.',
      tag: TAG,
      rule: SEE,
      params: shapes.traceParams,
      query: shapes.placeQuery,
      answers: FILE,
      async handle({ principal, params, query }) {
        const scope = await scopeOf(db, principal, query)
        const filter = { trace_id: params.trace_id, workspace_id: query.workspace_id }
        const [any] = await listRecords(db, scope, { filter, before: undefined, most: 1 })
        if (any === undefined) throw new AppError('not_found', { detail: 'Nothing is recorded of this trace.' })
        return fileOf(deps, scope, filter, { format: 'ndjson', name: 'evidence' })
      },
    }),
    route({
      method: 'GET',
      path: '/audit/:record_id',
      operationId: 'getAuditRecord',
      summary: 'Show a record in full, with its place in the chain',
      tag: TAG,
      rule: SEE,
      params: shapes.recordParams,
      query: shapes.placeQuery,
      answers: { 200: { description: 'The record', schema: shapes.foundRecordShape } },
      async handle({ principal, params, query }) {
        const scope = await scopeOf(db, principal, query)
        const { seq, previous, hash, record } = await getRecord(db, scope, params.record_id)
        return { status: 200, body: { chain: scope.chain, seq, previous, hash, record } }
      },
    }),
  ]
}

function filterOf(query: Query): Filter {
  const { workspace_id, trace_id, user_id, profile_id, credential_id, client_id, token_version } = query
  const { event, status, since, until, stale } = query
  const named = { workspace_id, trace_id, user_id, profile_id, credential_id, client_id, token_version }
  return { ...named, event, status, since, until, stale: stale === undefined ? undefined : true }
}

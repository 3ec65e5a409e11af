// What operators can do: each command with its input's form, run over the services by whichever process holds them.
import { randomUUID } from 'node:crypto'
import { z } from 'zod'
import { createUser, setPassword, setSuspended, signOutEverywhere } from '../accounts/service.ts'
import type { Services } from '../app.ts'
import { archiveBefore } from '../archives/service.ts'
import { SYSTEM_CHAIN } from '../audit/rules.ts'
import { verifyDatabase } from '../audit/verification.ts'
import { GRANT_TYPES, present } from '../clients/service.ts'
import { presentConnection } from '../connections/schemas.ts'
import { closeConnection, grantToClient, listConnections } from '../connections/service.ts'
import { Secret } from '../crypto/secret.ts'
import { presentErasure } from '../erasure/schemas.ts'
import { eraseAccount, previewErasure } from '../erasure/service.ts'
import { AppError } from '../errors.ts'
import { recordedTime } from '../evidence/schemas.ts'
import { exportTo } from '../evidence/service.ts'
import { readKeysStatus, rewrapAll, rotateData } from '../key-rotation/service.ts'
import { nameText } from '../organizations/schemas.ts'
import {
  addMember,
  createOrganization,
  createWorkspace,
  findOrganizationReached,
  findReached,
  listOrganizations,
  listWorkspaces,
  listWorkspacesIn,
} from '../organizations/service.ts'
import { restoreCheck } from '../restores/service.ts'
import { LONGEST_DUE_IN_DAYS } from '../reviews/rules.ts'
import { presentReview, presentReviewDetail } from '../reviews/schemas.ts'
import { closeNow, listReviews, openReview } from '../reviews/service.ts'
import { refuseEverythingSoFar } from '../revocation/service.ts'
import { expiryOf, presentIssued, presentToken } from '../workspace-tokens/schemas.ts'
import { createToken, listTokens, revokeToken } from '../workspace-tokens/service.ts'

const environment = z.enum(['production', 'staging', 'development'])
const name = z
  .string()
  .trim()
  .min(1)
  .max(120)
  .regex(/^\P{C}*$/u, 'must not hold control characters')
const secret = z.string().transform((text) => new Secret(text))

const exportFilter = {
  trace_id: z.string().optional(),
  workspace_id: z.string().optional(),
  since: recordedTime.optional(),
  until: recordedTime.optional(),
}

interface By {
  actor: { kind: 'operator' }
  request: { traceId: string }
  /** Hears how far long work has come. */
  onProgress: (done: number) => void
}

interface Command<I extends z.ZodType> {
  input: I
  run(services: Services, input: z.output<I>, by: By): Promise<unknown>
}

const command = <I extends z.ZodType>(definition: Command<I>) => definition

export const COMMANDS = {
  ping: command({ input: z.object({}), run: async () => ({ ok: true }) }),
  'user create': command({
    input: z.strictObject({ email: z.string(), name, password: secret }),
    run: ({ accounts }, input, by) => createUser(accounts, { ...input, ...by }),
  }),
  'user set-password': command({
    input: z.strictObject({ user: z.string(), password: secret }),
    run: ({ accounts, revocations }, input, by) => setPassword({ ...accounts, revocations }, { ...input, ...by }),
  }),
  'user sign-out': command({
    input: z.strictObject({ user: z.string() }),
    run: (services, input, by) => signOutEverywhere(services, { ...input, ...by }),
  }),
  'user suspend': command({
    input: z.strictObject({ user: z.string() }),
    run: (services, input, by) => setSuspended(services, { ...input, suspended: true, ...by }),
  }),
  'user restore': command({
    input: z.strictObject({ user: z.string() }),
    run: (services, input, by) => setSuspended(services, { ...input, suspended: false, ...by }),
  }),
  'user erase': command({
    input: z.strictObject({ user: z.string(), dry_run: z.boolean(), yes: z.boolean() }),
    async run(services, { user, dry_run, yes }, { actor, request }) {
      if (dry_run) return presentErasure(await previewErasure(services, user))
      if (yes) return { ...(await eraseAccount(services, { user, actor, request })), erased: true }
      throw new AppError('invalid_request', {
        detail: 'This cannot be undone. See what it comes to with --dry-run, then do it with --yes.',
      })
    },
  }),
  'audit verify': command({
    input: z.strictObject({}),
    run: (services, _input, { onProgress }) => verifyDatabase(services, onProgress),
  }),
  'audit export': command({
    input: z.strictObject({ chain: z.string(), to: z.string(), ...exportFilter }),
    async run(services, { chain, to, ...filter }) {
      const isThere = chain === SYSTEM_CHAIN || (await findOrganizationReached(services.db, chain, null)) !== undefined
      if (!isThere) throw new AppError('not_found', { detail: `There is no organization ${chain}.` })
      return exportTo(services, { chain, workspaceId: undefined }, filter, to)
    },
  }),
  'audit archive': command({
    input: z.strictObject({ before: z.iso.date(), to: z.string() }),
    run: (services, input, by) =>
      archiveBefore(services, { before: monthOf(input.before), directory: input.to, ...by }),
  }),
  'audit keys': command({
    input: z.strictObject({}),
    run: async ({ signer }) => ({ keys: signer.publicKeys() }),
  }),
  'keys status': command({ input: z.strictObject({}), run: (services) => readKeysStatus(services) }),
  'keys rewrap': command({
    input: z.strictObject({}),
    run: (services, _input, { request, onProgress }) => rewrapAll(services, { request, onProgress }),
  }),
  'keys rotate-data': command({
    input: z.strictObject({ organization: z.string().optional(), unfinished_only: z.boolean() }),
    run: (services, { organization, unfinished_only: unfinishedOnly }, { request, onProgress }) =>
      rotateData(services, { organization, unfinishedOnly, request, onProgress }),
  }),
  'restore-check': command({
    input: z.strictObject({ dry_run: z.boolean(), accept_sink: z.boolean() }),
    run: (services, input, by) =>
      restoreCheck(services, { dryRun: input.dry_run, acceptSink: input.accept_sink, ...by }),
  }),
  'revocation everything': command({
    input: z.strictObject({}),
    run: ({ revocations }, _input, by) => refuseEverythingSoFar(revocations, by),
  }),
  'jobs run': command({
    input: z.strictObject({ job: z.string() }),
    async run({ jobs }, input) {
      await jobs.runNow(input.job)
      return { job: input.job, done: true }
    },
  }),
  'review open': command({
    input: z.strictObject({
      workspace: z.string().optional(),
      organization: z.string().optional(),
      reason: z.enum(['asked', 'incident']),
      due_in_days: z.int().min(1).max(LONGEST_DUE_IN_DAYS).optional(),
    }),
    async run({ db }, input, { request }) {
      const opened = []
      const refused: string[] = []
      for (const workspaceId of await workspacesOf(db, input)) {
        const { reason, due_in_days: dueInDays } = input
        const asked = { workspaceId, reason, dueInDays, authority: { kind: 'operator' } as const, request }
        try {
          opened.push(presentReview(await openReview(db, asked)))
        } catch (error) {
          if (!(error instanceof AppError) || input.organization === undefined) throw error
          refused.push(`${workspaceId}: ${error.detail}`) // the others are opened
        }
      }
      if (refused.length === 0) return opened
      throw new AppError('conflict', { detail: `Open in ${opened.length}, and not in ${refused.join(' ')}` })
    },
  }),
  'review list': command({
    input: z.strictObject({ workspace: z.string() }),
    async run({ db }, input) {
      const found = await findReached(db, input.workspace, null)
      if (found === undefined) throw new AppError('not_found', { detail: `There is no workspace ${input.workspace}.` })
      return (await listReviews(db, found.workspace.id)).map(presentReview)
    },
  }),
  'review close': command({
    input: z.strictObject({ review: z.string() }),
    run: async (services, input, by) =>
      presentReviewDetail(await closeNow(services, { reviewId: input.review, ...by })),
  }),
  'organization create': command({
    input: z.strictObject({ name, owner: z.string() }),
    run: ({ db }, input, by) => createOrganization(db, { ...input, ...by }),
  }),
  'organization list': command({ input: z.strictObject({}), run: ({ db }) => listOrganizations(db) }),
  'workspace list': command({ input: z.strictObject({}), run: ({ db }) => listWorkspaces(db) }),
  'workspace create': command({
    input: z.strictObject({ organization: z.string(), name, owner: z.string(), billing_email: z.string().optional() }),
    run: ({ db }, { billing_email, ...input }, by) =>
      createWorkspace(db, { ...input, billingEmail: billing_email, ...by }),
  }),
  'member add': command({
    input: z.union([
      z.strictObject({ user: z.string(), workspace: z.string(), role: z.enum(['owner', 'admin', 'member', 'viewer']) }),
      z.strictObject({ user: z.string(), organization: z.string(), role: z.enum(['owner', 'admin', 'member']) }),
    ]),
    run: ({ db }, input, by) => addMember(db, { ...input, ...by }),
  }),
  'client create': command({
    input: z.strictObject({
      name,
      redirect_uris: z.array(z.string()),
      post_logout_redirect_uris: z.array(z.string()).optional(),
      backchannel_logout_uri: z.string().optional(),
      backchannel_logout_session_required: z.boolean().optional(),
      grant_types: z.array(z.enum(GRANT_TYPES)),
      auth: z.enum(['none', 'client_secret_basic', 'client_secret_post', 'private_key_jwt']),
      environment,
      pkce: z.boolean(),
      resource: z.string().optional(),
      jwks: z.object({ keys: z.array(z.looseObject({ kty: z.string() })).min(1) }).optional(),
    }),
    async run({ clients, resourceServers }, input, by) {
      if (input.resource !== undefined) await requireResource(resourceServers, input.resource)
      const { client_secret, ...client } = await clients.create({
        name: input.name,
        redirectUris: input.redirect_uris,
        ...(input.post_logout_redirect_uris === undefined
          ? {}
          : { postLogoutRedirectUris: input.post_logout_redirect_uris }),
        backchannelLogoutUri: input.backchannel_logout_uri,
        backchannelLogoutSessionRequired: input.backchannel_logout_session_required ?? false,
        grantTypes: input.grant_types,
        authMethod: input.auth,
        environment: input.environment,
        pkceRequired: input.pkce,
        defaultResource: input.resource,
        jwks: input.jwks,
        ...by,
      })
      return client_secret === null ? client : { ...client, client_secret: client_secret.reveal() }
    },
  }),
  'client list': command({ input: z.strictObject({}), run: ({ clients }) => clients.list() }),
  'client show': command({
    input: z.strictObject({ client: z.string() }),
    async run({ clients }, input) {
      const client = await clients.find(input.client)
      if (client === undefined) throw new AppError('not_found', { detail: `There is no client ${input.client}.` })
      return present(client)
    },
  }),
  'client delete': command({
    input: z.strictObject({ client: z.string() }),
    async run({ clients }, input, by) {
      await clients.delete(input.client, by)
      return { client_id: input.client, deleted: true }
    },
  }),
  'client grant': command({
    input: z.strictObject({
      client: z.string(),
      workspace: z.string(),
      resource: z.string(),
      scopes: z.array(z.string()),
    }),
    async run({ db, clients, resourceServers }, input, by) {
      const client = await clients.find(input.client)
      if (client !== undefined && !present(client).grant_types.includes('client_credentials')) {
        throw new AppError('invalid_request', {
          detail: 'This client has no grant client_credentials: a person connects it instead.',
        })
      }
      const known = (await requireResource(resourceServers, input.resource)).scopes.map((scope) => scope.name)
      const unknown = input.scopes.find((scope) => !known.includes(scope))
      if (unknown !== undefined)
        throw new AppError('invalid_request', {
          detail: `${input.resource} has no scope ${unknown}: it has ${known.join(', ')}.`,
        })
      const scopes = input.scopes.length > 0 ? input.scopes : known
      return grantToClient(db, {
        clientId: input.client,
        workspaceId: input.workspace,
        resources: { [input.resource]: scopes },
        ...by,
      })
    },
  }),
  'connection list': command({
    input: z.strictObject({ workspace: z.string() }),
    async run({ db }, input) {
      const found = await findReached(db, input.workspace, null)
      if (found === undefined) throw new AppError('not_found', { detail: `There is no workspace ${input.workspace}.` })
      return (await listConnections(db, found.workspace.id)).map(presentConnection)
    },
  }),
  'connection close': command({
    input: z.strictObject({ connection: z.string() }),
    async run({ revocations }, input, by) {
      await closeConnection(revocations, { id: input.connection, reason: 'closed_by_operator', ...by })
      return { id: input.connection, closed: true }
    },
  }),
  'organization-key create': command({
    input: z.strictObject({
      organization: z.string(),
      label: nameText,
      permissions: z.array(z.enum(['read', 'manage'])).min(1),
      expires_in: z.int().min(60).optional(),
    }),
    async run(services, input, { request }) {
      const issued = await createToken(services, {
        owner: { organizationId: input.organization },
        label: input.label,
        environment: 'production',
        permissions: input.permissions,
        resources: null,
        ipAllowList: null,
        expiry: expiryOf(input),
        authority: { kind: 'operator' },
        request,
      })
      return presentIssued(issued)
    },
  }),
  'organization-key list': command({
    input: z.strictObject({ organization: z.string() }),
    async run({ db }, input) {
      const found = await findOrganizationReached(db, input.organization, null)
      if (found === undefined)
        throw new AppError('not_found', { detail: `There is no organization ${input.organization}.` })
      return (await listTokens(db, { organizationId: found.organization.id, workspaceId: null })).map(presentToken)
    },
  }),
  'organization-key revoke': command({
    input: z.strictObject({ organization: z.string(), key: z.string() }),
    async run(services, input, { request }) {
      const by = { authority: { kind: 'operator' } as const, request }
      await revokeToken(services, { owner: { organizationId: input.organization }, id: input.key, ...by })
      return { id: input.key, revoked: true }
    },
  }),
  'resource create': command({
    input: z.strictObject({
      identifier: z.string(),
      name: name.optional(),
      environments: z.array(environment),
      scopes: z.array(
        z.strictObject({ name: z.string(), sentence: z.string(), least_role: z.enum(['owner', 'admin', 'member']) }),
      ),
    }),
    async run({ resourceServers }, input, by) {
      const scopes = input.scopes.map(({ least_role, ...scope }) => ({ ...scope, leastRole: least_role }))
      const created = await resourceServers.create({ ...input, scopes, ...by })
      return { ...created, client_secret: created.client_secret.reveal() }
    },
  }),
}

/** @throws {AppError} `invalid_request` for a day that is not the first of its month */
function monthOf(day: string): Date {
  if (day.endsWith('-01')) return new Date(`${day}T00:00:00Z`)
  throw new AppError('invalid_request', { detail: 'Give the first day of a month that has begun, such as 2026-05-01.' })
}

/** What is done while a database is behind its sink; nothing else is. */
const BEFORE_ALL = new Set(['ping', 'restore-check'])

export type CommandName = keyof typeof COMMANDS

/** @throws {AppError} `invalid_request` naming what is wrong with the input */
export async function runCommand(
  services: Services,
  call: { command: string; input: unknown },
  onProgress: (done: number) => void = () => {},
): Promise<unknown> {
  if (!Object.hasOwn(COMMANDS, call.command))
    throw new AppError('not_found', { detail: `There is no command ${call.command}.` })
  // Each command takes what its own form gives.
  const found = COMMANDS[call.command as CommandName] as Command<z.ZodType>
  const input = found.input.safeParse(call.input)
  if (!input.success) throw new AppError('invalid_request', { detail: z.prettifyError(input.error) })
  if (!BEFORE_ALL.has(call.command)) await services.revocations.requireSound()
  const by = { actor: { kind: 'operator' }, request: { traceId: `cli-${randomUUID()}` }, onProgress } as const
  return found.run(services, input.data, by)
}

/** One workspace, or all of an organization that are not archived. */
async function workspacesOf(
  db: Services['db'],
  input: { workspace?: string | undefined; organization?: string | undefined },
): Promise<string[]> {
  if (input.workspace !== undefined) {
    if ((await findReached(db, input.workspace, null)) !== undefined) return [input.workspace]
    throw new AppError('not_found', { detail: `There is no workspace ${input.workspace}.` })
  }
  const found = await findOrganizationReached(db, input.organization ?? '', null)
  if (found === undefined)
    throw new AppError('not_found', { detail: `There is no organization ${input.organization ?? ''}.` })
  return (await listWorkspacesIn(db, found.organization.id, {})).map(({ id }) => id)
}

async function requireResource(resourceServers: Services['resourceServers'], identifier: string) {
  const server = await resourceServers.find(identifier)
  if (server === undefined) throw new AppError('not_found', { detail: `There is no resource server ${identifier}.` })
  return server
}

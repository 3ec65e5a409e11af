// Shapes of tokens, in and out.
import { isIP } from 'node:net'
import ipaddr from 'ipaddr.js'
import { z } from 'zod'
import { isTokenValue } from '../crypto/token-value.ts'
import { nameText, organizationParams, pageQuery, workspaceParams } from '../organizations/schemas.ts'
import { isResourceIdentifier, isScopeName } from '../resource-servers/rules.ts'
import { rfc3339, rfc3339OrNull } from '../times.ts'
import {
  currentVersion,
  goodVersions,
  isExpiring,
  isLineUnused,
  rotationRequired,
  type TokenPolicy,
  versionFault,
} from './rules.ts'
import type { Cutover, Expiry, IssuedToken, TokenView } from './service.ts'
import type { TokenVersion } from './store.ts'

export const environmentName = z.enum(['production', 'staging', 'development'])

export const cidr = z
  .string()
  .max(60)
  .refine((text) => networkOf(text) !== undefined, 'must be an address or a network such as 192.0.2.0/24')
  .transform((text) => networkOf(text) ?? text)

/** One spelling of a network. An IPv4 one in IPv6 form is that IPv4 one: addresses are compared so. */
function networkOf(text: string): string | undefined {
  const [, address = '', bits] = /^([\da-f:.]+)(?:\/(0|[1-9]\d{0,2}))?$/i.exec(text) ?? []
  const family = isIP(address)
  const most = family === 4 ? 32 : 128
  const length = bits === undefined ? most : Number(bits)
  if (family === 0 || length > most) return undefined
  const parsed = ipaddr.parse(address)
  if (!('isIPv4MappedAddress' in parsed) || !parsed.isIPv4MappedAddress()) return `${address}/${length}`
  return length < 96 ? undefined : `${parsed.toIPv4Address()}/${length - 96}`
}

const permissions = z
  .array(z.string().refine((name) => isScopeName(name) && !isTokenValue(name), 'is not a permission'))
  .min(1)
  .max(50)
  .transform((names) => [...new Set(names)])

const MOST_SECONDS = 10 * 365 * 86_400

const expiryFields = {
  expires_at: z.iso
    .datetime({ offset: true })
    .nullable()
    .optional()
    .meta({ description: 'RFC 3339; null: it does not expire' }),
  expires_in: z
    .int()
    .min(60)
    .max(MOST_SECONDS)
    .optional()
    .meta({ description: 'Seconds from now, instead of expires_at' }),
}

const oneExpiry = (input: { expires_at?: string | null | undefined; expires_in?: number | undefined }) =>
  input.expires_at === undefined || input.expires_in === undefined
const ONE_EXPIRY = { message: 'give expires_at or expires_in, not both' }

export const newToken = z
  .strictObject({
    label: nameText.meta({ description: 'Where it will be used', example: 'platform-ai prod' }),
    permissions: permissions.meta({ description: 'Scope names', example: ['ingest', 'read'] }),
    environment: environmentName.default('production'),
    resources: z
      .array(z.string().refine(isResourceIdentifier, 'is not the identifier of an API'))
      .min(1)
      .max(20)
      .optional()
      .meta({ description: 'The APIs where it counts; all that know its permissions without it' }),
    ip_allow_list: z.array(cidr).min(1).max(50).optional().meta({ description: 'Addresses and networks in CIDR form' }),
    ...expiryFields,
  })
  .refine(oneExpiry, ONE_EXPIRY)
  .meta({ id: 'NewApiKey' })

export const newOrganizationKey = z
  .strictObject({
    label: nameText.meta({ example: 'provisioning' }),
    permissions: z
      .array(z.enum(['read', 'manage']))
      .min(1)
      .transform((names) => [...new Set(names)])
      .default(['read', 'manage']),
    ip_allow_list: z.array(cidr).min(1).max(50).optional(),
    ...expiryFields,
  })
  .refine(oneExpiry, ONE_EXPIRY)
  .meta({ id: 'NewOrganizationKey' })

export const rotation = z
  .strictObject({
    cutover: z.enum(['manual', 'on_first_use', 'at']).default('manual').meta({
      description: 'When the older version stops: by a call, with the first use of the new value, or at a time',
    }),
    after_seconds: z.int().min(0).max(86_400).optional().meta({ description: 'With on_first_use: how long after it' }),
    at: z.iso.datetime({ offset: true }).optional().meta({ description: 'With at' }),
    ...expiryFields,
  })
  .refine(oneExpiry, ONE_EXPIRY)
  .refine(
    (input) => (input.cutover === 'at') === (input.at !== undefined),
    'at goes with cutover "at", and with no other',
  )
  .refine((input) => input.after_seconds === undefined || input.cutover === 'on_first_use', {
    message: 'after_seconds goes with cutover "on_first_use"',
  })
  .meta({ id: 'Rotation' })

export const tokenParams = workspaceParams.extend({ key_id: z.string().meta({ description: 'The token' }) })
export const tokenVersionParams = tokenParams.extend({ version: z.string().meta({ description: 'As v2' }) })
export const organizationKeyParams = organizationParams.extend({ key_id: z.string() })
export const organizationKeyVersionParams = organizationKeyParams.extend({ version: z.string() })

export const tokenListQuery = pageQuery.extend({
  filter: z
    .enum(['active', 'unused', 'expiring', 'all'])
    .default('active')
    .meta({ description: 'unused: for 90 days; expiring: within 7 days; all: the revoked ones too' }),
  environment: environmentName.optional(),
})

export const leakReceived = z
  .object({ received: z.int().meta({ description: 'How many values came, whatever they are' }) })
  .meta({ id: 'LeakReceived' })

export const leaked = z
  .strictObject({
    credentials: z
      .array(z.string().min(1).max(8_192))
      .min(1)
      .max(100)
      .meta({ description: 'The values that were found' }),
  })
  .meta({ id: 'LeakedCredentials' })

const tokenMembers = {
  label: z.string(),
  key_prefix: z.string().meta({ description: 'All of the value that is ever shown again' }),
  permissions: z.array(z.string()),
  environment: environmentName,
  token_version: z.string().meta({ example: 'v1' }),
  is_active: z.boolean(),
  created_at: z.iso.datetime(),
  expires_at: z.iso.datetime().nullable(),
  last_used_at: z.iso.datetime().nullable(),
  resources: z.array(z.string()).optional(),
  ip_allow_list: z.array(z.string()).optional(),
}

const ofWorkspace = { id: z.string(), workspace_id: z.string(), ...tokenMembers }
const ofOrganization = { id: z.string(), organization_id: z.string(), ...tokenMembers }

const key = z.string().nullable().meta({ description: 'The value: in this one answer, and never again' })
const shownBefore = z.literal(true).optional().meta({ description: 'The value was shown by the first of these calls' })

/** What has become of it since it was made. */
const governed = {
  suspended_at: z.iso.datetime().nullable().meta({ description: 'While it is, nothing of it is accepted' }),
  rotation_required: z
    .object({ by: z.iso.datetime(), reason: z.string() })
    .nullable()
    .meta({ description: 'The person who made it may still know the value: rotate and cut over by then' }),
}

export const tokenShape = z.object({ ...ofWorkspace, ...governed }).meta({ id: 'ApiKey' })
export const issuedTokenShape = z
  .object({ ...ofWorkspace, key, key_already_shown: shownBefore })
  .meta({ id: 'IssuedApiKey' })
export const organizationKeyShape = z.object({ ...ofOrganization, ...governed }).meta({ id: 'OrganizationKey' })
export const issuedOrganizationKeyShape = z
  .object({ ...ofOrganization, key, key_already_shown: shownBefore })
  .meta({ id: 'IssuedOrganizationKey' })

const versionShape = z
  .object({
    token_version: z.string(),
    key_prefix: z.string(),
    state: z.enum(['active', 'overlap', 'retired', 'revoked', 'expired', 'suspended']),
    created_at: z.iso.datetime(),
    expires_at: z.iso.datetime().nullable(),
    last_used_at: z.iso.datetime().nullable(),
    last_used_address: z.string().nullable(),
    last_used_agent: z.string().nullable(),
    refused_at: z.iso.datetime().nullable().meta({ description: 'When the value was last presented after its end' }),
    refused_count: z.int(),
  })
  .meta({ id: 'ApiKeyVersion' })

const details = {
  ...governed,
  created_by: z.string(),
  revoked_at: z.iso.datetime().nullable(),
  cutover: z
    .object({
      mode: z.enum(['manual', 'on_first_use', 'at']),
      at: z.iso.datetime().nullable(),
      after_seconds: z.int().nullable(),
    })
    .nullable()
    .meta({ description: 'How the rotation that is under way will end' }),
  versions: z.array(versionShape),
}

export const tokenDetailShape = z.object({ ...ofWorkspace, ...details }).meta({ id: 'ApiKeyDetail' })
export const organizationKeyDetailShape = z
  .object({ ...ofOrganization, ...details })
  .meta({ id: 'OrganizationKeyDetail' })

export const policyShape = z
  .strictObject({
    tokens_forbidden: z.boolean().meta({ description: 'No new tokens, and no new versions' }),
    expiry_required: z.boolean(),
    max_age_days: z.int().min(1).max(3_650).nullable(),
    environments: z.array(environmentName).nullable().meta({ description: 'null: all' }),
  })
  .meta({ id: 'TokenPolicy' })

// --- In -------------------------------------------------------------------------------------------------------------------

export function expiryOf(input: { expires_at?: string | null | undefined; expires_in?: number | undefined }): Expiry {
  if (input.expires_in !== undefined) return { inSeconds: input.expires_in }
  return typeof input.expires_at === 'string' ? { at: new Date(input.expires_at) } : null
}

/** Undefined where the caller said nothing: the new version lives as long as the one before. */
export function expiryOfRotation(input: z.output<typeof rotation>): Expiry | undefined {
  return input.expires_at === undefined && input.expires_in === undefined ? undefined : expiryOf(input)
}

export function cutoverOf(input: z.output<typeof rotation>): Cutover {
  if (input.cutover === 'at') return { mode: 'at', at: new Date(input.at ?? '') }
  if (input.cutover === 'on_first_use') return { mode: 'on_first_use', afterSeconds: input.after_seconds ?? 0 }
  return { mode: 'manual' }
}

/** `v2` → 2. Undefined for any other form. */
export function versionOf(text: string): number | undefined {
  return /^v[1-9]\d{0,8}$/.test(text) ? Number(text.slice(1)) : undefined
}

export function policyOf(input: z.output<typeof policyShape>): TokenPolicy {
  return {
    tokensForbidden: input.tokens_forbidden,
    expiryRequired: input.expiry_required,
    maxAgeDays: input.max_age_days,
    environments: input.environments,
  }
}

// --- Out ------------------------------------------------------------------------------------------------------------------

export type VersionStateName = 'active' | 'overlap' | 'retired' | 'revoked' | 'expired' | 'suspended'

/** `overlap`: works, and a newer one works too. */
export function stateOf({ line, now }: TokenView, version: TokenVersion): VersionStateName {
  const fault = versionFault(line, version, now)
  if (fault !== undefined && fault !== 'ahead') return fault
  const newest = goodVersions(line, line.versions, now).at(-1)
  return newest !== undefined && newest.version > version.version ? 'overlap' : 'active'
}

function latestUse(versions: readonly TokenVersion[]): Date | null {
  const times = versions.flatMap(({ lastUsedAt }) => (lastUsedAt === null ? [] : [lastUsedAt.getTime()]))
  return times.length === 0 ? null : new Date(Math.max(...times))
}

function presentMembers({ line, now }: TokenView) {
  const current = currentVersion(line, line.versions, now)
  return {
    label: line.label,
    key_prefix: current?.keyPrefix ?? '',
    permissions: line.permissions,
    environment: line.environment,
    token_version: `v${current?.version ?? line.version}`,
    is_active: goodVersions(line, line.versions, now).length > 0,
    created_at: rfc3339(line.createdAt),
    expires_at: rfc3339OrNull(current?.expiresAt ?? null),
    last_used_at: rfc3339OrNull(latestUse(line.versions)),
    ...(line.resources === null ? {} : { resources: line.resources }),
    ...(line.ipAllowList === null ? {} : { ip_allow_list: line.ipAllowList }),
  }
}

/** The members that the specification gives, and limits where there are any. */
export function presentToken(view: TokenView) {
  const { line } = view
  const owner =
    line.workspaceId === null ? { organization_id: line.organizationId } : { workspace_id: line.workspaceId }
  return { id: line.id, ...owner, ...presentMembers(view) }
}

/** As lists show it. */
export function presentListed(view: TokenView) {
  return { ...presentToken(view), ...presentGoverned(view) }
}

function presentGoverned({ line, now }: TokenView): z.input<z.ZodObject<typeof governed>> {
  const required = rotationRequired(line, line.versions, now)
  return {
    suspended_at: rfc3339OrNull(line.suspendedAt),
    rotation_required: required === undefined ? null : { by: rfc3339(required.by), reason: required.reason },
  }
}

export function presentIssued(issued: IssuedToken) {
  const { value } = issued
  if (value === undefined) return { ...presentToken(issued), key: null, key_already_shown: true as const }
  return { ...presentToken(issued), key: value.reveal() } // the one place where a value leaves
}

export function presentTokenDetail(view: TokenView) {
  const { line, now } = view
  const isPending = goodVersions(line, line.versions, now).length > 1
  return {
    ...presentListed(view),
    created_by: line.createdBy,
    revoked_at: rfc3339OrNull(line.closedAt),
    cutover: isPending
      ? { mode: line.cutover, at: rfc3339OrNull(line.cutoverAt), after_seconds: line.cutoverAfterSeconds }
      : null,
    versions: line.versions.map((version) => ({
      token_version: `v${version.version}`,
      key_prefix: version.keyPrefix,
      state: stateOf(view, version),
      created_at: rfc3339(version.createdAt),
      expires_at: rfc3339OrNull(version.expiresAt),
      last_used_at: rfc3339OrNull(version.lastUsedAt),
      last_used_address: version.lastUsedAddress || null, // an API need not say where a value was used
      last_used_agent: version.lastUsedAgent || null,
      refused_at: rfc3339OrNull(version.refusedAt),
      refused_count: version.refusedCount,
    })),
  }
}

export function presentPolicy(policy: TokenPolicy): z.input<typeof policyShape> {
  return {
    tokens_forbidden: policy.tokensForbidden,
    expiry_required: policy.expiryRequired,
    max_age_days: policy.maxAgeDays,
    environments: policy.environments === null ? null : [...policy.environments],
  }
}

/** Whether a list shows a token under this filter. */
export function isListed(view: TokenView, filter: z.output<typeof tokenListQuery>['filter']): boolean {
  const { line, now } = view
  if (filter === 'all') return true
  if (line.closedAt !== null) return false
  if (filter === 'active') return true
  if (filter === 'unused') return isLineUnused(line, line.versions, now)
  return goodVersions(line, line.versions, now).some((version) => isExpiring(version, now))
}

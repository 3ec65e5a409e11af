// The forms that make tokens: what they offer, under a workspace's policy, and what came back in them.
import { randomBytes } from 'node:crypto'
import type { Context } from 'koa'
import { AppError } from '../errors.ts'
import { field, fields } from '../http/forms.ts'
import type { Repeatable } from '../idempotency/service.ts'
import { isAtLeast } from '../organizations/rules.ts'
import { nameText } from '../organizations/schemas.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { Environment, WorkspaceRole } from '../store/tables.ts'
import type { TokenPolicy } from '../workspace-tokens/rules.ts'
import { cidr, environmentName } from '../workspace-tokens/schemas.ts'
import type { Cutover, Expiry, NewTokenInput } from '../workspace-tokens/service.ts'
import { DAY_MS, dayOf, instantOf } from './token-times.ts'

/** What each field has against what was given, by the field's name. */
export type FieldErrors = Partial<Record<string, string>>

export interface Choice {
  value: string
  text: string
  hint: string
}

// --- Once per form ----------------------------------------------------------------------------------------------------

/** A form says which one it is, so that one that is sent twice makes one thing. */
export const newFormId = (): string => randomBytes(18).toString('base64url')

/** @param fieldNames what makes two sendings the same */
export function repeatableOf(ctx: Context, userId: string, fieldNames: readonly string[]): Repeatable {
  const id = field(ctx, 'form')
  if (!/^[\w-]{24}$/.test(id))
    throw new AppError('invalid_request', { detail: 'The form is not whole. Open it again.' })
  const given = fieldNames.map((name) => [name, fields(ctx, name)])
  return { scope: userId, key: `form ${id}`, request: `${ctx.path}\n${JSON.stringify(given)}` }
}

// --- Choices ----------------------------------------------------------------------------------------------------------

const ENVIRONMENTS: ReadonlyArray<Choice & { value: Environment }> = [
  { value: 'production', text: 'Production', hint: 'Real data, real money' },
  { value: 'staging', text: 'Staging', hint: 'Tests before release' },
  { value: 'development', text: 'Development', hint: 'A person’s own machine' },
]

export function environmentChoices(policy: TokenPolicy) {
  return ENVIRONMENTS.filter(({ value }) => policy.environments === null || policy.environments.includes(value))
}

export interface PermissionChoice {
  name: string
  /** What it lets the holder do, at each API that knows it. */
  at: Array<{ sentence: string; where: string }>
}

/** Every scope that a person with this role may give, in the catalogue's words. */
export function permissionChoices(
  servers: readonly ResourceServer[],
  wanted: { role: WorkspaceRole; environments: readonly Environment[]; ownApi: string },
): PermissionChoice[] {
  const byName = new Map<string, PermissionChoice>()
  for (const server of servers.filter((one) => one.environments.some((name) => wanted.environments.includes(name)))) {
    for (const scope of server.scopes.filter(({ leastRole }) => isAtLeast(wanted.role, leastRole))) {
      const choice = byName.get(scope.name) ?? { name: scope.name, at: [] }
      byName.set(scope.name, choice)
      choice.at.push({
        sentence: scope.sentence,
        where: server.clientId === undefined ? wanted.ownApi : whereOf(server),
      })
    }
  }
  return [...byName.values()]
}

function whereOf({ identifier, environments }: ResourceServer): string {
  const only = new Intl.ListFormat('en').format(environments)
  return `at ${identifier}${environments.length === ENVIRONMENTS.length ? '' : `, ${only} only`}`
}

const DAY_SECONDS = 86_400
const PRESETS: ReadonlyArray<{ value: string; seconds: number; text: string; hint: string }> = [
  { value: '1h', seconds: 3_600, text: 'One hour', hint: 'For a copy that you need once' },
  { value: '1d', seconds: DAY_SECONDS, text: 'One day', hint: '' },
  { value: '7d', seconds: 7 * DAY_SECONDS, text: '7 days', hint: '' },
  { value: '90d', seconds: 90 * DAY_SECONDS, text: '90 days', hint: '' },
  { value: '365d', seconds: 365 * DAY_SECONDS, text: 'One year', hint: '' },
]
const USUAL = '90d'
export const AS_BEFORE = 'same'

interface ExpiryChoice extends Choice {
  expiry: Expiry
}

/** Presets that the policy allows, the longest one it allows, and none at all where that is allowed. */
export function expiryChoices(policy: TokenPolicy, now: Date): ExpiryChoice[] {
  const most = policy.maxAgeDays === null ? undefined : policy.maxAgeDays * DAY_SECONDS
  const offered = PRESETS.filter(({ seconds }) => most === undefined || seconds <= most)
  if (most !== undefined && policy.maxAgeDays !== null && !offered.some(({ seconds }) => seconds === most))
    offered.push({ value: `${policy.maxAgeDays}d`, seconds: most, text: `${policy.maxAgeDays} days`, hint: '' })
  const choices = offered.map(({ value, seconds, text, hint }): ExpiryChoice => {
    const end = new Date(now.getTime() + seconds * 1000)
    const said = seconds < DAY_SECONDS ? hint : `Ends ${seconds < 2 * DAY_SECONDS ? instantOf(end) : dayOf(end)}`
    return { value, text, hint: said, expiry: { inSeconds: seconds } }
  })
  if (most === undefined && !policy.expiryRequired)
    choices.push({ value: 'none', text: 'No expiry', hint: 'Listed once unused for 90 days', expiry: null })
  return choices
}

/** One line on what the policy wants of an expiry. */
export function expiryHint(policy: TokenPolicy): string {
  if (policy.maxAgeDays !== null) return `This workspace allows ${policy.maxAgeDays} days at most.`
  return policy.expiryRequired ? 'This workspace requires one.' : 'The shorter, the less a lost copy can do.'
}

/** What is chosen at first: 90 days, or the longest that is allowed. */
export function usualExpiry(choices: readonly Choice[]): string {
  return (choices.find(({ value }) => value === USUAL) ?? choices.at(-1))?.value ?? ''
}

// --- Create -----------------------------------------------------------------------------------------------------------

/** What the form for a new token holds, as it was typed. */
export interface CreateFields {
  label: string
  environment: string
  permissions: readonly string[]
  expiry: string
  addresses: string
  prefix: string
}

export const DEFAULT_PREFIX = 'LATCHKEY'

export function readCreateFields(ctx: Context): CreateFields {
  return {
    label: field(ctx, 'label'),
    environment: field(ctx, 'environment'),
    permissions: fields(ctx, 'permissions'),
    expiry: field(ctx, 'expiry'),
    addresses: field(ctx, 'addresses'),
    prefix: field(ctx, 'prefix').trim(),
  }
}

export const CREATE_FIELDS = ['label', 'environment', 'permissions', 'expiry', 'addresses', 'prefix']

export interface Offered {
  permissions: readonly PermissionChoice[]
  expiries: readonly ExpiryChoice[]
}

/** @returns what a new token is to be, or what is wrong with the fields */
export function parseCreate(given: CreateFields, offered: Offered): { input: NewTokenInput } | { errors: FieldErrors } {
  const label = nameText.safeParse(given.label)
  const environment = environmentName.safeParse(given.environment)
  const permissions = given.permissions.filter((name) => offered.permissions.some((choice) => choice.name === name))
  const expiry = offered.expiries.find(({ value }) => value === given.expiry)
  const addresses = parseAddresses(given.addresses)
  const errors: FieldErrors = {
    ...(label.success ? {} : { label: labelProblem(given.label, label.error.issues[0]?.message) }),
    ...(environment.success ? {} : { environment: 'Choose where it will be used.' }),
    ...(permissions.length > 0 ? {} : { permissions: 'Choose at least one permission.' }),
    ...(permissions.length <= 50 ? {} : { permissions: 'Choose 50 permissions at most.' }),
    ...(expiry !== undefined ? {} : { expiry: 'Choose one of these.' }),
    ...('problem' in addresses ? { addresses: addresses.problem } : {}),
    ...prefixErrors(given.prefix),
  }
  const isGood = label.success && environment.success && expiry !== undefined && 'networks' in addresses
  if (!isGood || Object.keys(errors).length > 0) return { errors }
  return {
    input: {
      label: label.data,
      environment: environment.data,
      permissions: [...new Set(permissions)],
      resources: null,
      ipAllowList: addresses.networks.length === 0 ? null : addresses.networks,
      expiry: expiry.expiry,
    },
  }
}

function labelProblem(label: string, found: string | undefined): string {
  const { length } = label.trim()
  if (length === 0) return 'Give it a label.'
  return length > MOST_LABEL ? `Use ${MOST_LABEL} characters at most: these are ${length}.` : `It ${found ?? ''}.`
}

const MOST_LABEL = 120
const MOST_NETWORKS = 50

function parseAddresses(text: string): { networks: string[] } | { problem: string } {
  const networks: string[] = []
  for (const word of text.split(/[\s,;]+/).filter((part) => part !== '')) {
    const parsed = cidr.safeParse(word)
    if (!parsed.success)
      return { problem: `“${word.slice(0, 60)}” is not an address or a network. Write it like 192.0.2.0/24.` }
    networks.push(parsed.data)
  }
  return networks.length > MOST_NETWORKS ? { problem: `Give ${MOST_NETWORKS} networks at most.` } : { networks }
}

function prefixErrors(prefix: string): FieldErrors {
  return /^[A-Z][A-Z0-9_]{0,39}$/.test(prefix)
    ? {}
    : { prefix: 'Use capital letters, digits and _, starting with a letter; 40 characters at most.' }
}

// --- Rotate -----------------------------------------------------------------------------------------------------------

export interface RotateFields {
  cutover: string
  /** As a `datetime-local` field gives it: a time in UTC without saying so. */
  at: string
  expiry: string
  prefix: string
}

export const ROTATE_FIELDS = ['cutover', 'at', 'expiry', 'prefix']

export function readRotateFields(ctx: Context): RotateFields {
  return {
    cutover: field(ctx, 'cutover'),
    at: field(ctx, 'at'),
    expiry: field(ctx, 'expiry'),
    prefix: field(ctx, 'prefix').trim(),
  }
}

/** A week from now, at six in the morning. */
export function usualCutoverTime(now: Date): string {
  return `${new Date(now.getTime() + 7 * DAY_MS).toISOString().slice(0, 10)}T06:00`
}

export function parseRotate(
  given: RotateFields,
  offered: { expiries: readonly ExpiryChoice[]; now: Date },
): { cutover: Cutover; expiry: Expiry | undefined } | { errors: FieldErrors } {
  const cutover = parseCutover(given, offered.now)
  const expiry = offered.expiries.find(({ value }) => value === given.expiry)
  const errors: FieldErrors = {
    ...('problem' in cutover ? { cutover: cutover.problem } : {}),
    ...(expiry !== undefined || given.expiry === AS_BEFORE ? {} : { expiry: 'Choose one of these.' }),
    ...prefixErrors(given.prefix),
  }
  if ('problem' in cutover || Object.keys(errors).length > 0) return { errors }
  return { cutover, expiry: expiry?.expiry }
}

function parseCutover({ cutover, at }: RotateFields, now: Date): Cutover | { problem: string } {
  if (cutover === 'manual') return { mode: 'manual' }
  if (cutover === 'on_first_use') return { mode: 'on_first_use', afterSeconds: 0 }
  if (cutover !== 'at') return { problem: 'Choose when the version before stops.' }
  const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?$/.test(at) ? new Date(`${at}Z`) : new Date(Number.NaN)
  if (Number.isNaN(time.getTime())) return { problem: 'Give the day and the time, in UTC.' }
  return time <= now ? { problem: 'That time is past. Give a later one, in UTC.' } : { mode: 'at', at: time }
}

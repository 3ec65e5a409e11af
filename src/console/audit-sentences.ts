// What each event of the audit log comes to, as a sentence with names in it, and whether it opens or ends something. An
// event that is not known here is named by its own word.
import type { AuditRecord } from '../audit/rules.ts'
import type { Words } from './people.ts'
import { counted, dayOf, exactSpan } from './token-times.ts'

/** Text; who did it; what people know a thing by; or a word of ours. Templates set all but text apart. */
export type Part = Words[number] | { who: string; isId: boolean } | { code: string }
export type Sentence = readonly Part[]

/** `good` opens, `bad` ends or refuses; the rest is neither. */
export type Tone = 'good' | 'bad' | ''

export interface Known {
  /** Of people who are still there, by id. */
  people: ReadonlyMap<string, string>
  /** Of tokens, connections, clients and workspaces, by id. */
  subjects: ReadonlyMap<string, string>
}

type Said = Part | Sentence
type Tell = (of: Told) => Sentence

/** What a sentence is made of. */
interface Told {
  record: AuditRecord
  actor: Part
  person: Part
  /** The token, or the app of the connection. */
  credential: Part
  app: Part
  workspace: Part
  version: string
  /** A member of the detail that is text; '' for any other. */
  text(name: string): string
  number(name: string): number
  list(name: string): string[]
}

export function sentenceOf(record: AuditRecord, known: Known): { tone: Tone; sentence: Sentence } {
  const found = Object.hasOwn(EVENTS, record.event) ? EVENTS[record.event] : undefined
  const [tone, tell] = found ?? ['', record.event.startsWith('job.') ? tellOfJob : tellOfUnknown]
  return { tone: record.status === 'fail' ? 'bad' : tone, sentence: merged(tell(toldOf(record, known))) }
}

/** say`${actor} made ${token}.` */
function say(strings: TemplateStringsArray, ...parts: readonly Said[]): Sentence {
  return strings.flatMap((text, index) => {
    const part = parts[index]
    return [text, ...(part === undefined ? [] : isPart(part) ? [part] : part)]
  })
}

const isPart = (said: Said): said is Part => !Array.isArray(said)

/** Texts side by side are one text; of nothing there is none. */
function merged(sentence: Sentence): Sentence {
  const parts: Part[] = []
  for (const part of sentence) {
    const last = parts.at(-1)
    if (typeof part === 'string' && typeof last === 'string') parts[parts.length - 1] = last + part
    else if (part !== '') parts.push(part)
  }
  return parts
}

function toldOf(given: AuditRecord, known: Known): Told {
  const detail = given.detail ?? {} // JSON's null, in a row that we did not write
  const record = { ...given, detail }
  const named = (id: string | null, otherwise: string): Part => {
    if (id === null) return otherwise
    const name = known.subjects.get(id)
    return name === undefined ? { code: id } : { name }
  }
  return {
    record,
    actor: actorOf(record, known),
    person: record.user_id === null ? 'somebody' : whoOf(record.user_id, known),
    credential: named(record.credential_id, 'a credential'),
    app: record.client_id === null ? named(record.credential_id, 'an app') : named(record.client_id, 'an app'),
    workspace: named(record.workspace_id, 'a workspace'),
    version: record.token_version ?? 'a version',
    text: (name) => (typeof detail[name] === 'string' ? detail[name] : ''),
    number: (name) => (typeof detail[name] === 'number' ? detail[name] : 0),
    list: (name) => (Array.isArray(detail[name]) ? detail[name].filter((one) => typeof one === 'string') : []),
  }
}

function whoOf(id: string, { people }: Known): Part {
  const name = people.get(id)
  return { who: name ?? id, isId: name === undefined }
}

function actorOf({ actor_kind: kind, actor_id: id }: AuditRecord, known: Known): Part {
  if (kind === 'operator') return { who: 'The operator', isId: false }
  if (kind === 'schedule') return { who: 'Latchkey', isId: false }
  if (id === null) return { who: 'Somebody', isId: false }
  if (kind === 'user') return whoOf(id, known)
  const name = known.subjects.get(id)
  return { who: name ?? id, isId: name === undefined }
}

/** A job names its own events: they are quoted, not told. */
const tellOfJob: Tell = ({ credential, record }) =>
  say`A job with ${credential} recorded ${{ code: record.event.slice('job.'.length) }}.`
const tellOfUnknown: Tell = ({ actor, record }) => say`${actor}: ${{ code: record.event }}.`

/** Never what every object has. */
const wordOf = (words: Record<string, string>, name: string): string | undefined =>
  Object.hasOwn(words, name) ? words[name] : undefined

// --- Why ----------------------------------------------------------------------------------------------------------------

/** Of an end: the rest of the sentence. Empty where somebody just asked for it. */
const BECAUSE: Record<string, string> = {
  member_removed: ', because its person was removed',
  role_changed: ', because the role of its person changed',
  suspended: ', because its person was suspended',
  account_erased: ', because the account of its person was erased',
  password_set: ', because its person has a new password',
  signed_out_everywhere: ', because its person signed out everywhere',
  restored: ' again, after the database was restored from a backup',
  review: ' in an access review',
  not_attested: ', because nobody attested it by the date of the review',
}
const because = ({ text }: Told) => wordOf(BECAUSE, text('reason')) ?? ''

/** Where people give reasons of their own, only what nobody but the server does is told: theirs stand among the facts. */
function becauseOfUs(of: Told): string {
  const isOurs = of.text('reason') === 'review' || of.record.actor_kind === 'operator'
  return isOurs ? because(of) : ''
}

/** Of a refusal: a sentence's second half. */
const REFUSED: Record<string, string> = {
  retired: 'its version was retired',
  revoked: 'it was revoked',
  ended: 'it had ended',
  archived: 'its workspace is archived',
  expired: 'it had expired',
  suspended: 'it is suspended',
  address: 'the address is not on its list',
  ahead: 'it names a version that was never issued',
  bound: 'it is bound to a key of its client',
  workspace_mismatch: 'the job expected another workspace',
  environment_mismatch: 'the job expected another environment',
  stale_version: 'the job expected another version',
}
const refusedFor = ({ text }: Told) => {
  const why = wordOf(REFUSED, text('reason'))
  return why === undefined ? '' : `: ${why}`
}

function times({ number }: Told): string {
  return number('count') > 1 ? ` ${counted(number('count'), 'time')}` : ''
}

function from({ record: { address } }: Told): Sentence {
  return address === null ? [] : [' from ', { code: address }]
}

const ENDED_VALUES: Record<string, string> = {
  retired: 'A retired value',
  revoked: 'A revoked value',
  archived: 'A value of an archived workspace',
}

function codes(names: readonly string[]): Sentence {
  return names.flatMap((name, index) => [
    ...(index === 0 ? [] : [index === names.length - 1 ? ' and ' : ', ']),
    { code: name },
  ])
}

function withScopes({ record: { detail } }: Told): Sentence {
  const resources = detail.resources
  if (typeof resources !== 'object' || resources === null) return []
  const scopes = Object.values(resources)
    .flat() // a list, or one text
    .flatMap((granted) => (typeof granted === 'string' ? granted.split(' ') : []))
  const names = [...new Set(scopes)].filter((scope) => scope !== '')
  return names.length === 0 ? [] : [', with ', ...codes(names)]
}

function onDay(text: string): string {
  const time = new Date(text)
  return Number.isNaN(time.getTime()) ? 'a day' : dayOf(time)
}

const place = ({ record, workspace }: Told): Said => (record.workspace_id === null ? 'the organization' : workspace)
function asRole({ text }: Told): string {
  const role = text('role')
  return role === '' ? '' : `, as ${/^[aeiou]/.test(role) ? 'an' : 'a'} ${role}`
}

function policyOf({ record: { detail }, list, number }: Told): string {
  if (detail.tokens_forbidden === true) return 'tokens are forbidden'
  const rules = [
    detail.expiry_required === true ? 'an expiry is required' : '',
    number('max_age_days') > 0 ? `they live ${counted(number('max_age_days'), 'day')} at most` : '',
    list('environments').length > 0 ? `for ${list('environments').join(' and ')} only` : '',
  ].filter(Boolean)
  return rules.length === 0 ? 'tokens are allowed' : `tokens are allowed, ${rules.join(', ')}`
}

const CUTOVERS: Record<string, string> = {
  manual: ' The older version works until somebody cuts over.',
  on_first_use: ' The older version retires once the new one is used.',
  at: ' The older version retires at a set time.',
}

const cutoverOf = ({ text }: Told) => wordOf(CUTOVERS, text('cutover')) ?? ''

const REVIEW_OPENED: Record<string, string> = {
  quarterly: ', as the schedule asks',
  incident: ', after an incident',
  team_change: ', after the team changed',
}
const REVIEW_REASONS: Record<string, string> = {
  quarterly: 'the schedule',
  incident: 'an incident',
  team_change: 'the team changed',
  asked: 'somebody asked for it',
}
const endOfReview = ({ text }: Told) => `It ends on ${onDay(text('due_at'))}.`

const KINDS_CHANGED: Record<string, string> = {
  name: 'name',
  billing_email: 'billing email',
  cost_centre: 'cost centre',
}

// --- Events ---------------------------------------------------------------------------------------------------------------

const OF_TOKENS: Record<string, [Tone, Tell]> = {
  'token.created': ['good', (of) => say`${of.actor} made the token ${of.credential}${withPermissions(of)}.`],
  'organization_key.created': [
    'good',
    (of) => say`${of.actor} made the organization key ${of.credential}${withPermissions(of)}.`,
  ],
  'token.first_used': ['good', (of) => say`${of.credential} ${of.version} was used for the first time.`],
  'token.rotated': ['good', (of) => say`${of.actor} rotated ${of.credential} to ${of.version}.${cutoverOf(of)}`],
  'token.cut_over': [
    'bad',
    (of) => say`${of.actor} cut ${of.credential} over to ${of.version}${because(of)}. Older versions have ended.`,
  ],
  'token.cutover_scheduled': [
    '',
    (of) =>
      say`${of.credential} ${of.version} was used for the first time. Older versions retire ${exactSpan(of.number('after_seconds'))} later.`,
  ],
  'token.revoked': ['bad', (of) => say`${of.actor} revoked ${of.credential}${becauseOfUs(of)}.`],
  'organization_key.revoked': ['bad', (of) => say`${of.actor} revoked the key ${of.credential}${becauseOfUs(of)}.`],
  'token.version_revoked': ['bad', (of) => say`${of.actor} revoked ${of.version} of ${of.credential}.`],
  'token.leak_reported': [
    'bad',
    (of) => say`${of.actor} reported a leaked value of ${of.credential}. ${of.version} has ended.`,
  ],
  'token.suspended': ['bad', (of) => say`${of.actor} suspended ${of.credential}${because(of)}.`],
  'token.restored': ['good', (of) => say`${of.actor} restored ${of.credential}.`],
  'token.rotation_required': [
    '',
    (of) =>
      say`${of.credential} must be rotated by ${onDay(of.text('by'))}: ${of.text('reason') === 'role_changed' ? 'its maker is no longer an admin' : 'its maker has left'}.`,
  ],
  'token.reuse_detected': [
    'bad',
    (of) =>
      say`${{ who: wordOf(ENDED_VALUES, of.text('reason')) ?? 'An ended value', isId: false }} of ${of.credential} was tried${times(of)}${from(of)} and refused.`,
  ],
  'token.refused': ['bad', (of) => say`${of.credential} was refused${times(of)}${from(of)}${refusedFor(of)}.`],
  'token_policy.changed': ['', (of) => say`${of.actor} changed the token policy: ${policyOf(of)}.`],
}

function withPermissions({ list }: Told): Sentence {
  const permissions = list('permissions')
  return permissions.length === 0 ? [] : [', with ', ...codes(permissions)]
}

const PROVIDERS: Record<string, string> = { anthropic: 'Anthropic', openai: 'OpenAI' }
const providerOf = ({ text }: Told) => wordOf(PROVIDERS, text('provider_type')) ?? 'a provider'

const CHECKS: Record<string, string> = {
  refused: 'it does not take the key',
  redirected: 'its address leads elsewhere',
  unexpected_answer: 'what answers there is something else',
  no_list: 'it has no list of models to ask for',
  address_refused: 'its address is one that is not called',
  unreadable: 'the stored key cannot be read any more',
  forbidden: 'it does not let the key make that call',
  too_large: 'it answered at too great a length',
  timeout: 'it did not answer in time',
  unreachable: 'it could not be reached',
  busy: 'it was busy',
}
const checkOf = ({ text }: Told) => wordOf(CHECKS, text('reason')) ?? 'the check said no'

const OF_PROVIDERS: Record<string, [Tone, Tell]> = {
  'provider.created': ['good', (of) => say`${of.actor} connected ${of.workspace} to ${providerOf(of)}.`],
  'provider.credentials_replaced': ['', (of) => say`${of.actor} replaced the key for ${providerOf(of)}.`],
  'provider.verified': ['good', (of) => say`${providerOf(of)} takes the key of ${of.workspace}.`],
  'provider.verification_failed': ['bad', (of) => say`The connection to ${providerOf(of)} failed: ${checkOf(of)}.`],
  'provider.verification_inconclusive': [
    '',
    (of) => say`A check of the connection to ${providerOf(of)} told nothing: ${checkOf(of)}.`,
  ],
  'provider.deleted': ['bad', (of) => say`${of.actor} deleted the connection to ${providerOf(of)}.`],
  'data_key.rotated': ['', (of) => say`${of.actor} replaced the key that provider keys are encrypted with.`],
}

const OF_BUDGETS: Record<string, [Tone, Tell]> = {
  'budget.changed': ['', (of) => say`${of.actor} set the monthly cap of ${of.workspace}${capOf(of)}.`],
  'budget.removed': ['', (of) => say`${of.actor} removed the monthly cap of ${of.workspace}.`],
  'budget.admission_refused': [
    'bad',
    (of) =>
      say`${of.credential} asked for ${askedIn(of)} with ${amountIn(of, 'left')} left of the hard cap, and was refused.`,
  ],
  'budget.overrun': [
    'bad',
    (of) =>
      say`${of.credential} spent ${amountIn(of, 'asked')}, more than was held for it or than the hard cap leaves.`,
  ],
  'budget.soft_cap_passed': ['bad', (of) => say`${of.workspace} passed its soft cap of ${amountIn(of, 'cap')}.`],
  'organization.currency_changed': [
    '',
    (of) => say`${of.actor} set the currency to ${of.text('currency') || 'another one'}.`,
  ],
}

const askedIn = (of: Told) =>
  of.record.detail.asked === null ? 'a call whose cost is not known beforehand' : amountIn(of, 'asked')
const amountIn = ({ text }: Told, name: string) => text(name) || 'an amount'

function capOf({ record: { detail } }: Told): string {
  const { after } = detail
  const of = (name: string): string => {
    const value: unknown = typeof after === 'object' && after !== null ? Reflect.get(after, name) : undefined
    return typeof value === 'string' ? value : ''
  }
  return of('cap') === '' ? '' : `: ${of('cap')}, ${of('mode')}`
}

const OF_CONNECTIONS: Record<string, [Tone, Tell]> = {
  'connection.approved': ['good', (of) => say`${of.actor} connected ${of.app}${withScopes(of)}.`],
  'connection.approved_again': ['good', (of) => say`${of.actor} approved ${of.app} again${withScopes(of)}.`],
  'connection.first_used': ['good', (of) => say`${of.app} used its connection for the first time.`],
  'connection.closed': ['bad', (of) => say`${of.actor} ended ${ofPerson(of)} of ${of.app}${because(of)}.`],
  'connection.version_raised': [
    'bad',
    (of) => say`${of.actor} made ${of.app} sign new tokens${because(of)}. What it held has ended.`,
  ],
  'connection.suspended': ['bad', (of) => say`${of.actor} suspended ${ofPerson(of)} of ${of.app}${because(of)}.`],
  'connection.restored': ['good', (of) => say`${of.actor} restored ${ofPerson(of)} of ${of.app}.`],
  'code.reuse_detected': [
    'bad',
    (of) => say`A code of ${of.app} was presented a second time. What came of it has ended.`,
  ],
  'refresh_token.reuse_detected': [
    'bad',
    (of) => say`A used refresh token of ${of.app} was presented again. What came of it has ended.`,
  ],
  'family.ended': ['bad', (of) => say`${of.app} gave its refresh token back. What came of it has ended.`],
  'token.issued': ['', (of) => say`${of.app} got its first tokens${forPerson(of)}.`],
  'token.refreshed': ['', (of) => say`${of.app} got new tokens${forPerson(of)}.`],
  'access_token.revoked': ['bad', (of) => say`${of.actor} revoked one short-lived token of ${of.app}.`],
  'access.refused': [
    'bad',
    (of) => say`A short-lived token of ${of.credential} was refused${times(of)}${from(of)}${refusedFor(of)}.`,
  ],
  'access_tokens.all_refused': ['bad', (of) => say`${of.actor} ended every short-lived token issued so far.`],
  access_validation: [
    '',
    (of) =>
      of.record.status === 'fail'
        ? say`${of.credential} was checked${times(of)} and refused${refusedFor(of)}.`
        : say`${of.credential} was checked: it works.`,
  ],
}

const ofPerson = ({ record, person }: Told): Said =>
  record.user_id === null || record.user_id === record.actor_id
    ? 'the connection'
    : ['the connection that ', person, ' approved']
const forPerson = ({ record, person }: Told): Said => (record.user_id === null ? '' : [', for ', person])

const OF_PEOPLE: Record<string, [Tone, Tell]> = {
  'member.added': [
    'good',
    (of) =>
      of.record.actor_id !== null && of.record.actor_id === of.record.user_id
        ? say`${of.person} accepted an invitation to ${place(of)}${asRole(of)}.`
        : say`${of.actor} added ${of.person} to ${place(of)}${asRole(of)}.`,
  ],
  'member.role_changed': [
    '',
    (of) =>
      say`${of.actor} changed the role of ${of.person} in ${place(of)} from ${of.text('from') || 'one'} to ${of.text('to') || 'another'}.`,
  ],
  'member.removed': ['bad', (of) => say`${of.actor} removed ${of.person} from ${place(of)}.`],
  'member.restored_role_ended': [
    'bad',
    (of) => say`${of.actor} ended the role of ${of.person} in ${place(of)}${because(of)}.`,
  ],
  'invitation.created': ['good', (of) => say`${of.actor} invited somebody to ${place(of)}${asRole(of)}.`],
  'invitation.cancelled': ['bad', (of) => say`${of.actor} cancelled an invitation to ${place(of)}.`],
  'invitation.accepted': [
    '',
    (of) => say`${of.person} accepted an invitation to ${place(of)}, and keeps the role they had.`,
  ],
  'user.created': ['good', (of) => say`The account of ${of.person} was opened.`],
  'user.password_set': ['bad', (of) => say`${of.person} has a new password. Their sessions have ended.`],
  'user.signed_out_everywhere': ['bad', (of) => say`${of.person} was signed out everywhere.`],
  'user.suspended': ['bad', (of) => say`${of.actor} suspended ${of.person}${because(of)}.`],
  'user.restored': ['good', (of) => say`${of.actor} restored ${of.person}.`],
  'user.erased': ['bad', (of) => say`The account of ${of.person} was erased. Its records stay.`],
  'logout_notice.delivered': ['', (of) => say`${of.app} was told that ${of.person} is signed out.`],
  'logout_notice.given_up': ['bad', (of) => say`${of.app} could not be told that ${of.person} is signed out.`],
  'session.sign_in': [
    'good',
    (of) => (of.record.status === 'fail' ? say`A sign-in${from(of)} was refused.` : say`${of.person} signed in.`),
  ],
  'session.sign_out': ['', (of) => say`${of.person} signed out.`],
}

const OF_PLACES: Record<string, [Tone, Tell]> = {
  'organization.created': ['good', (of) => say`${of.actor} opened the organization for ${of.person}.`],
  'workspace.created': ['good', (of) => say`${of.actor} opened the workspace ${of.workspace}.`],
  'workspace.changed': [
    '',
    (of) => {
      const changed = of.list('changed').map((name) => wordOf(KINDS_CHANGED, name) ?? name)
      return say`${of.actor} changed the ${changed.join(' and ') || 'settings'} of ${of.workspace}.`
    },
  ],
  'workspace.transferred': ['', (of) => say`${of.actor} handed ${of.workspace} over to ${of.person}.`],
  'workspace.archived': [
    'bad',
    (of) => say`${of.actor} archived ${of.workspace}${because(of)}. Every way in has ended.`,
  ],
  'client.created': ['good', (of) => say`${of.actor} registered the app ${of.app}.`],
  'client.deleted': ['bad', (of) => say`${of.actor} deleted the app ${of.app}.`],
  'review.opened': [
    '',
    (of) =>
      say`${of.actor} opened an access review${wordOf(REVIEW_OPENED, of.text('reason')) ?? ''}. ${endOfReview(of)}`,
  ],
  'review.reason_added': [
    '',
    (of) =>
      say`The access review has one more reason: ${wordOf(REVIEW_REASONS, of.text('reason')) ?? 'another one'}. ${endOfReview(of)}`,
  ],
  'review.attested': [
    '',
    (of) =>
      of.record.credential_id === null
        ? say`${of.actor} decided on the token policy in an access review.`
        : say`${of.actor} kept ${of.credential} in an access review.`,
  ],
  'review.revoked': ['bad', (of) => say`${of.actor} decided in an access review that ${of.credential} ends.`],
  'review.closed': ['', (of) => say`${of.actor} closed the access review: ${outcomesOf(of)}.`],
  'audit.archived': [
    '',
    (of) =>
      say`${of.actor} archived records ${of.number('from').toLocaleString('en')} to ${of.number('to').toLocaleString('en')}.`,
  ],
  'audit.month_dropped': [
    '',
    (of) => say`${of.actor} took ${of.text('month') || 'a month'} out of the database: its records are in archives.`,
  ],
  'chain.restored': [
    'bad',
    (of) => say`${of.actor} brought a restored database up to date. What had ended has ended again.`,
  ],
  'master_key.rewrapped': ['', (of) => say`${of.actor} had everything sealed again under the newest master key.`],
  'sink.accepted': ['', (of) => say`${of.actor} accepted a database with another history than its sink.`],
}

const OUTCOMES: ReadonlyArray<[name: string, text: string]> = [
  ['kept', 'kept'],
  ['revoked', 'revoked'],
  ['changed', 'changed'],
  ['suspended', 'suspended'],
  ['ended', 'ended meanwhile'],
  ['not_attested', 'attested by nobody'],
]

function outcomesOf({ number }: Told): string {
  const said = OUTCOMES.flatMap(([name, text]) => (number(name) > 0 ? [`${number(name)} ${text}`] : []))
  return said.join(', ') || 'there was nothing to decide'
}

const EVENTS: Record<string, [Tone, Tell]> = {
  ...OF_TOKENS,
  ...OF_BUDGETS,
  ...OF_PROVIDERS,
  ...OF_CONNECTIONS,
  ...OF_PEOPLE,
  ...OF_PLACES,
}

/** Every event that has a sentence of its own. */
export const KNOWN_EVENTS: readonly string[] = Object.keys(EVENTS)

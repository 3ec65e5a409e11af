// What pages say of a provider connection: how it stands in plain words, and what to do where it does not work. Never its key.
import { findProviderType } from '../provider-types/registry.ts'
import type { ProviderConnection } from '../providers/service.ts'
import { atInstant, type Moment } from './token-times.ts'
import type { Badge } from './token-views.ts'

interface Trouble {
  what: string
  /** For an admin. */
  todo: string
}

const AGAIN = 'Check it again in a few minutes.'
const NOT_BY_ITSELF = 'It is not checked again by itself: check it in a few minutes, or call through it.'

/** By the reason of a check. `who`: whoever answers at its address. */
const TROUBLES: Record<string, (who: string, hasOwnAddress: boolean) => Trouble> = {
  refused: (who) => ({
    what: `${who} does not take this key.`,
    todo: 'Replace it with a key that works, or check it again if that was put right over there.',
  }),
  redirected: (who) => ({
    what: `${who} sent us to another address, and a key is not sent after a redirect.`,
    todo: 'Replace the key, and give the address where calls are really answered.',
  }),
  unexpected_answer: (who, hasOwnAddress) => ({
    what: `${who} answered, but not as this provider does.`,
    todo: hasOwnAddress ? 'Replace the key together with the right address.' : AGAIN,
  }),
  address_refused: () => ({
    what: 'Its address leads where this server makes no calls, such as into a private network.',
    todo: 'Replace the key together with a public address, or ask whoever runs this server.',
  }),
  unreadable: () => ({
    what: 'What is stored of it cannot be decrypted.',
    todo: 'Ask whoever runs this server; or replace the key.',
  }),
  forbidden: (who) => ({
    what: `${who} does not let this key make the call that tells whether it works.`,
    todo: 'The first call that works verifies it.',
  }),
  no_list: (who) => ({
    what: `${who} has no list of models, and so nothing to ask it for.`,
    todo: 'The first call that works verifies it.',
  }),
  too_large: (who) => ({
    what: `${who} sent a longer answer than a check reads.`,
    todo: 'The first call that works verifies it.',
  }),
  timeout: (who) => ({ what: `${who} did not answer in time.`, todo: NOT_BY_ITSELF }),
  unreachable: (who) => ({ what: `${who} could not be reached.`, todo: NOT_BY_ITSELF }),
  busy: (who) => ({ what: `${who} was busy.`, todo: NOT_BY_ITSELF }),
}

/** Of checks that told nothing: a connection that had failed before one goes on as it was. */
const TELLS_NOTHING = new Set(['forbidden', 'no_list', 'too_large', 'timeout', 'unreachable', 'busy'])

const UNKNOWN: Trouble = { what: 'The check did not come to an end.', todo: AGAIN }
const ASK_ADMIN = 'An admin of the workspace can put it right.'

export interface Standing {
  badge: Badge
  /** What leads up to the time of the check. */
  text: string
  when: Moment | undefined
  detail: string
  tone: 'good' | 'warn' | 'bad' | ''
}

export const nameOf = ({ providerType }: Pick<ProviderConnection, 'providerType'>): string =>
  findProviderType(providerType)?.name ?? providerType

export function standingOf(connection: ProviderConnection, isAdmin: boolean): Standing {
  const { status, statusReason, baseUrl } = connection
  const name = nameOf(connection)
  const who = baseUrl === undefined ? name : `The gateway in front of ${name}`
  const trouble = statusReason === null ? undefined : (TROUBLES[statusReason]?.(who, baseUrl !== undefined) ?? UNKNOWN)
  const when = connection.checkedAt === null ? undefined : atInstant(connection.checkedAt)
  const todo = isAdmin ? trouble?.todo : ASK_ADMIN
  if (status === 'verified') {
    const badge: Badge = { kind: 'active', word: 'Verified' }
    if (trouble === undefined)
      return {
        badge,
        text: 'Verified',
        when,
        detail: `${who} took the key, and tools can call through it.`,
        tone: 'good',
      }
    const detail = `${trouble.what} The key was good before, and calls go on. ${todo}`
    return { badge, text: 'Verified before. The last check told nothing,', when, detail, tone: 'warn' }
  }
  const badge: Badge = status === 'failed' ? { kind: 'fail', word: 'Failed' } : { kind: 'waiting', word: 'Waiting' }
  if (status === 'failed' && trouble !== undefined && TELLS_NOTHING.has(statusReason ?? '')) {
    const next = isAdmin ? 'Replace its key, or check it again.' : ASK_ADMIN
    const detail = `${trouble.what} A check before it failed, and calls through it are refused. ${next}`
    return { badge, text: 'Failed before. The last check told nothing,', when, detail, tone: 'bad' }
  }
  if (status === 'failed') {
    const detail = `${trouble?.what ?? `${who} does not take this key.`} Calls through it are refused. ${todo ?? AGAIN}`
    return { badge, text: 'Failed', when, detail, tone: 'bad' }
  }
  if (trouble === undefined)
    return {
      badge,
      text: 'Waiting to be verified.',
      when,
      detail: `${name} is asked in a moment. Look again then.`,
      tone: '',
    }
  return {
    badge,
    text: 'Waiting to be verified. The last check told nothing,',
    when,
    detail: `${trouble.what} ${todo}`,
    tone: 'warn',
  }
}

/** A connection on the page of all of them. */
export function providerView(
  connection: ProviderConnection,
  place: { base: string; callsAt: string; isAdmin: boolean },
) {
  return {
    name: nameOf(connection),
    anchor: connection.providerType,
    standing: standingOf(connection, place.isAdmin),
    checked: connection.checkedAt === null ? undefined : atInstant(connection.checkedAt),
    address: connection.baseUrl,
    keySince: atInstant(connection.changedAt),
    made: atInstant(connection.createdAt),
    callsAt: `${place.callsAt}/${connection.providerType}`,
    base: `${place.base}/${connection.id}`,
  }
}

/** One line, among other ways of a workspace. */
export function providerRow(connection: ProviderConnection, base: string) {
  const { badge } = standingOf(connection, false)
  return {
    name: nameOf(connection),
    href: `${base}#${connection.providerType}`,
    badge,
    checked: connection.checkedAt === null ? undefined : atInstant(connection.checkedAt),
    address: connection.baseUrl,
    since: atInstant(connection.changedAt),
  }
}

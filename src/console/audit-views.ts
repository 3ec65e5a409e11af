// What the audit pages say: a timeline by days, a record with all its members, how far the chain is sealed and signed, and
// what a check of it found.
import type { AuditRecord } from '../audit/rules.ts'
import type { ChainReport } from '../audit/verification.ts'
import type { PlacedRecord } from '../evidence/rules.ts'
import type { getChainState, getRecord } from '../evidence/service.ts'
import { hrefOf } from './audit-filter.ts'
import { type Known, type Sentence, sentenceOf, type Tone } from './audit-sentences.ts'
import { atInstant, counted, type Moment } from './token-times.ts'

/** A member that says something. */
export interface Fact {
  term: string
  value: string
  /** What people know it by, where that is something else. */
  name?: string | undefined
  href?: string | undefined
}

export interface EventRow {
  href: string
  tone: Tone
  sentence: Sentence
  event: string
  exact: string
  clock: string
  passed: boolean
  facts: Fact[]
}

export interface Day {
  title: string
  rows: EventRow[]
}

const DAY = new Intl.DateTimeFormat('en-GB', {
  weekday: 'long',
  day: 'numeric',
  month: 'long',
  year: 'numeric',
  timeZone: 'UTC',
})

/** Of what the names are asked. */
export function idsIn(records: readonly AuditRecord[]): {
  people: Array<string | null>
  subjects: Array<string | null>
} {
  return {
    people: records.flatMap((record) => [record.user_id, record.actor_id]),
    subjects: records.flatMap((record) => [
      record.actor_id,
      record.credential_id,
      record.client_id,
      record.workspace_id,
    ]),
  }
}

/** @param records newest first */
export function daysOf(records: readonly PlacedRecord[], known: Known, base: string): Day[] {
  const days: Day[] = []
  for (const record of records) {
    const title = DAY.format(new Date(record.timestamp)).replace(',', '')
    if (days.at(-1)?.title !== title) days.push({ title, rows: [] })
    days.at(-1)?.rows.push(rowOf(record, known, base))
  }
  return days
}

function rowOf(record: PlacedRecord, known: Known, base: string): EventRow {
  return {
    href: `${base}/${record.id}`,
    ...sentenceOf(record, known),
    event: record.event,
    exact: record.timestamp,
    clock: record.timestamp.slice(11, 19),
    passed: record.status === 'pass',
    facts: [...factsOf(record, known, base), { term: 'record', value: placeText(record.seq) }],
  }
}

const placeText = (seq: number | null) => (seq === null ? 'not sealed yet' : seq.toLocaleString('en'))

/** In the order in which people ask. What a filter can be set to leads there. */
const MEMBERS = [
  'trace_id',
  'credential_id',
  'token_version',
  'user_id',
  'client_id',
  'profile_id',
  'workspace_id',
  'address',
] as const satisfies ReadonlyArray<keyof AuditRecord>
const FILTERED: ReadonlyArray<(typeof MEMBERS)[number]> = ['trace_id', 'credential_id', 'profile_id', 'user_id']

function factsOf(record: AuditRecord, known: Known, base: string): Fact[] {
  const members = MEMBERS.flatMap((term): Fact[] => {
    const value = record[term]
    if (value === null) return []
    const name = known.people.get(value) ?? known.subjects.get(value)
    return [{ term, value, name, href: FILTERED.includes(term) ? hrefOf(base, { [term]: value }) : undefined }]
  })
  return [...members, ...actorFacts(record, known), ...detailFacts(record.detail, 'detail')]
}

function actorFacts({ actor_kind: kind, actor_id: id }: AuditRecord, known: Known): Fact[] {
  if (id === null) return [{ term: 'actor', value: kind }]
  return [{ term: 'actor', value: `${kind} ${id}`, name: known.people.get(id) ?? known.subjects.get(id) }]
}

/** Each text and number by the way to it: `detail.resources.https://api.example.com`. */
function detailFacts(value: unknown, term: string): Fact[] {
  if (value === null || value === undefined) return []
  if (Array.isArray(value)) return value.length === 0 ? [] : [{ term, value: value.map(textOf).join(', ') }]
  if (typeof value !== 'object') return [{ term, value: textOf(value) }]
  return Object.entries(value).flatMap(([name, member]) => detailFacts(member, `${term}.${name}`))
}

const textOf = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value))

// --- One record -----------------------------------------------------------------------------------------------------------

export function recordView(
  { record, seq, previous, hash }: Awaited<ReturnType<typeof getRecord>>,
  known: Known,
  base: string,
) {
  return {
    ...rowOf({ ...record, seq }, known, base),
    facts: [{ term: 'event', value: record.event }, ...factsOf(record, known, base), { term: 'id', value: record.id }],
    title: seq === null ? 'A record, not sealed yet' : `Record ${seq.toLocaleString('en')}`,
    when: atInstant(new Date(record.timestamp)),
    trace: record.trace_id,
    traceHref: hrefOf(base, { trace_id: record.trace_id }),
    evidenceHref: `${base}/evidence/${encodeURIComponent(record.trace_id)}`,
    sealed: seq === null ? undefined : { seq: seq.toLocaleString('en'), hash, previous },
  }
}

// --- The chain --------------------------------------------------------------------------------------------------------------

export interface ChainView {
  count: number
  sealed: string
  waiting: string | undefined
  signed: { when: Moment; reach: string } | undefined
  archived: string | undefined
}

/** What stands there, and no more: whether it is whole is for a check to say. */
export function chainView(state: Awaited<ReturnType<typeof getChainState>>): ChainView {
  const { seq, waiting, checkpoint_seq: signed, checkpoint_at: at, archived_to: archived } = state
  const since = signed === null ? 0 : seq - signed
  return {
    count: seq,
    sealed: counted(seq, 'record'),
    waiting:
      waiting === 0 ? undefined : `${counted(waiting, 'record')} ${waiting === 1 ? 'waits' : 'wait'} to be sealed.`,
    signed:
      signed === null || at === null
        ? undefined
        : {
            when: atInstant(new Date(at)),
            reach:
              since <= 0
                ? 'covers all of them'
                : `covers the first ${signed.toLocaleString('en')}; the newest ${since.toLocaleString('en')} will be in the next one`,
          },
    archived: archived === null ? undefined : archived.toLocaleString('en'),
  }
}

export type CheckView = { isGood: true; text: string; more: string } | { isGood: false; text: string }

export function checkView(report: ChainReport & { from: number }): CheckView {
  const { fault, records, checkpoints } = report
  if (fault !== null) return { isGood: false, text: fault.says }
  if (records === 0) return { isGood: true, text: 'Nothing is sealed yet: there is nothing to check.', more: '' }
  return {
    isGood: true,
    text:
      records === 1
        ? 'The only record is as it was sealed.'
        : `The last ${records.toLocaleString('en')} records follow one another without a gap or an edit.`,
    more:
      checkpoints === 0
        ? 'None of them was signed yet.'
        : `${counted(checkpoints, 'signed checkpoint')} among them ${checkpoints === 1 ? 'agrees' : 'agree'}.`,
  }
}

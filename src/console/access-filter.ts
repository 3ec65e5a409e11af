// What a person looks for among the ways into a workspace: read from the address, so that it works without a script and
// can be kept as a link. Pure.
import type { Environment } from '../store/tables.ts'

export const KINDS = ['connections', 'tokens'] as const
export type Kind = (typeof KINDS)[number]

const ENVIRONMENTS: readonly Environment[] = ['production', 'staging', 'development']
const MOST_CHARACTERS = 120

/** Undefined: whatever it is. */
export interface AccessFilter {
  text: string
  kind: Kind | undefined
  environment: Environment | undefined
  isUnused: boolean
}

/** What makes no sense is not looked for. */
export function readFilter(query: URLSearchParams): AccessFilter {
  return {
    text: (query.get('text') ?? '').slice(0, MOST_CHARACTERS).toWellFormed().trim(),
    kind: KINDS.find((kind) => kind === query.get('kind')),
    environment: ENVIRONMENTS.find((environment) => environment === query.get('environment')),
    isUnused: query.get('unused') === 'yes',
  }
}

export function isFiltering({ text, kind, environment, isUnused }: AccessFilter): boolean {
  return text !== '' || kind !== undefined || environment !== undefined || isUnused
}

/** As it stands in an address. */
export function queryOf({ text, kind, environment, isUnused }: AccessFilter): Record<string, string> {
  return {
    ...(text === '' ? {} : { text }),
    ...(kind === undefined ? {} : { kind }),
    ...(environment === undefined ? {} : { environment }),
    ...(isUnused ? { unused: 'yes' } : {}),
  }
}

/** What is known of one way in. */
export interface Sought {
  /** Its label, client, person and ids: each word that is looked for stands in one of them. */
  texts: readonly string[]
  environment: Environment
  isUnused(): boolean
}

/** Whether a way in is looked for. */
export function seeker(filter: AccessFilter): (way: Sought) => boolean {
  const words = folded(filter.text).split(/\s+/).filter(Boolean)
  return (way) => {
    if (filter.environment !== undefined && filter.environment !== way.environment) return false
    if (filter.isUnused && !way.isUnused()) return false
    if (words.length === 0) return true
    const known = folded(way.texts.join('\n')) // no word reaches over the end of a line
    return words.every((word) => known.includes(word))
  }
}

const folded = (text: string) => text.normalize('NFKC').toLowerCase()

// What somebody may look at in the audit log, and what they look for. Pure.
import type { FileFilter } from '../audit/file.ts'
import type { AuditRecord, ChainEntry } from '../audit/rules.ts'

/** A part of one chain: whoever reads sees nothing beyond it. */
export interface Scope {
  /** The organization, or `system`. */
  chain: string
  /** Records of this workspace alone. */
  workspaceId: string | undefined
}

/** All of what is given must fit. */
export interface Filter {
  workspace_id?: string | undefined
  trace_id?: string | undefined
  user_id?: string | undefined
  profile_id?: string | undefined
  credential_id?: string | undefined
  client_id?: string | undefined
  token_version?: string | undefined
  /** One event, or all of a kind: `token.*` */
  event?: string | undefined
  status?: 'pass' | 'fail' | undefined
  /** RFC 3339; the first is included, the second is not. */
  since?: string | undefined
  until?: string | undefined
  /** Only what was refused because its version had ended. */
  stale?: true | undefined
}

/** A record with its place in the chain; null for a moment, until it is sealed. */
export type PlacedRecord = AuditRecord & { seq: number | null }

/** Where a reading in the order of time goes on. */
export interface Position {
  timestamp: string
  id: string
}

export const writePosition = ({ timestamp, id }: Position): string => `${timestamp} ${id}`

/** @param position as `writePosition` made it: signed by us on its way */
export function readPosition(position: string): Position {
  const [timestamp = '', id = ''] = position.split(' ')
  return { timestamp, id }
}

/** What is asked for beyond the scope: the filter that an exported file names. */
export function describeFilter(scope: Scope, filter: Filter): FileFilter | null {
  const given = Object.entries({ ...filter, workspace_id: scope.workspaceId ?? filter.workspace_id })
  const said = given.filter((entry): entry is [string, string | true] => entry[1] !== undefined)
  return said.length === 0 ? null : Object.fromEntries(said)
}

const COLUMNS = [
  'timestamp',
  'seq',
  'event',
  'status',
  'workspace_id',
  'user_id',
  'profile_id',
  'trace_id',
  'token_version',
  'credential_id',
  'client_id',
  'actor_kind',
  'actor_id',
  'address',
  'id',
  'detail',
  'hash',
] as const

export const CSV_HEADER = `${COLUMNS.join(',')}\r\n`

/** RFC 4180. */
export function csvLine({ record, seq, hash }: Pick<ChainEntry, 'seq' | 'hash'> & { record: AuditRecord }): string {
  const cells = { ...record, seq, hash, detail: withoutSeparator(JSON.stringify(record.detail)) }
  return `${COLUMNS.map((column) => csvCell(String(cells[column] ?? ''))).join(',')}\r\n`
}

/** JSON can say it in another way, and so stays what it is; see `csvCell`. */
const withoutSeparator = (json: string): string => json.replaceAll(';', '\\u003b')

/**
 * A cell of a file for spreadsheets (RFC 4180). What one would take for a formula gets an apostrophe before it, also where
 * it separates by semicolons or tabs: what follows one would be a cell of its own there, whatever quotes stand around it.
 */
export function csvCell(text: string): string {
  const harmless = text
    .replaceAll(/(?<=^|[;\t\r\n])(?=(?:(?![;\t\r\n])[\s"'])*[=+\-@])/g, "'")
    .replace(/^[\t\r\n]/, "'$&")
  return /[",\r\n]/.test(harmless) ? `"${harmless.replaceAll('"', '""')}"` : harmless
}

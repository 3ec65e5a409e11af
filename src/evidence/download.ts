// A file of the audit log as an answer: for the JSON API and for the pages.
import { Readable } from 'node:stream'
import type { Filter, Scope } from './rules.ts'
import { type EvidenceDeps, exportCsv, exportFile } from './service.ts'

export interface Download {
  status: 200
  body: Readable
  headers: Readonly<Record<string, string>>
}

/** @param as.name what the file is called, before whose it is and the day */
export async function fileOf(
  deps: EvidenceDeps,
  scope: Scope,
  filter: Filter,
  as: { format: 'ndjson' | 'csv'; name: 'audit' | 'evidence' },
): Promise<Download> {
  const text = as.format === 'csv' ? exportCsv(deps.db, scope, filter) : await exportFile(deps, scope, filter)
  const body = await begun(text)
  const type = as.format === 'csv' ? 'text/csv; charset=utf-8; header=present' : 'application/x-ndjson; charset=utf-8'
  const file = `${as.name}-${scope.workspaceId ?? scope.chain}-${new Date().toISOString().slice(0, 10)}.${as.format}`
  return {
    status: 200,
    body,
    headers: { 'Content-Type': type, 'Content-Disposition': `attachment; filename="${file}"` },
  }
}

/** The head, and the first page that is read. */
const FIRST_PARTS = 2

/** Once this resolves it can be read: what fails before is answered as any failure is, and not by a file that breaks off. */
async function begun(text: AsyncGenerator<string>): Promise<Readable> {
  const parts: string[] = []
  for (let count = 0; count < FIRST_PARTS; count++) {
    const next = await text.next()
    if (next.done === true) break
    parts.push(next.value)
  }
  return Readable.from(continued(parts, text))
}

async function* continued(parts: readonly string[], rest: AsyncGenerator<string>): AsyncGenerator<string> {
  yield* parts
  yield* rest
}

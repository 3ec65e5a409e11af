// The hash chain of an organization's records: what is hashed, and in which form (docs/audit.md). Pure.
import { createHash } from 'node:crypto'
import canonicalize from 'canonicalize'
import type { AuditRecord, ChainEntry } from './rules.ts'

/** SHA-256, in hexadecimal, over the RFC 8785 form of place and record. */
export function hashOf(place: Omit<ChainEntry, 'hash'>, record: AuditRecord): string {
  const { chain, seq, previous } = place
  return createHash('sha256')
    .update(canonicalForm({ v: 1, chain, seq, previous, record }))
    .digest('hex')
}

/** RFC 8785. @throws {TypeError} for what JSON cannot say */
function canonicalForm(value: unknown): string {
  const text = canonicalize(value)
  if (text === undefined) throw new TypeError('JSON cannot say this')
  return text
}

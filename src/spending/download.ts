// What was spent, as a file: for the JSON API and for the pages.
import { Readable } from 'node:stream'
import type { OrganizationId } from '../ids.ts'
import type { Db } from '../store/database.ts'
import { exportSpending, type MonthsAsked } from './service.ts'

export function spendFile(db: Db, organizationId: OrganizationId, asked: MonthsAsked) {
  const name = `spend-${organizationId}-${new Date().toISOString().slice(0, 10)}.csv`
  return {
    status: 200,
    body: Readable.from(exportSpending(db, organizationId, asked)),
    headers: {
      'Content-Type': 'text/csv; charset=utf-8; header=present',
      'Content-Disposition': `attachment; filename="${name}"`,
    },
  }
}

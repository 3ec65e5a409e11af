// What was spent, as a file: for the JSON API and for the pages.
import { Readable } from 'node:stream'
import type { OrganizationId } from '../ids.ts'
import type { Db } from '../store/database.ts'
import { exportSpending, type MonthsAsked, resolveMonths } from './service.ts'

/** @throws {AppError} as `resolveMonths` */
export async function spendFile(db: Db, organizationId: OrganizationId, asked: MonthsAsked) {
  const months = await resolveMonths(db, asked)
  const name = `spend-${organizationId}-${new Date().toISOString().slice(0, 10)}.csv`
  return {
    status: 200,
    body: Readable.from(exportSpending(db, organizationId, months)),
    headers: {
      'Content-Type': 'text/csv; charset=utf-8; header=present',
      'Content-Disposition': `attachment; filename="${name}"`,
    },
  }
}

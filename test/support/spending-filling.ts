// Months of spending for tests of what is shown: rows as the rooms write them, without going through events one by one.
import { sql } from 'kysely'
import { newId } from '../../src/ids.ts'
import type { Db } from '../../src/store/database.ts'

export interface Place {
  organizationId: string
  workspaceId: string
}

/** The months before the current one by the database's clock, as YYYY-MM: `monthsBack(db, 2)` is two ago, one ago, now. */
export async function monthsBack(db: Db, count: number): Promise<string[]> {
  const { rows } = await sql<{ month: string }>`
    select to_char(date_trunc('month', now() at time zone 'utc') - make_interval(months => n), 'YYYY-MM') as month
    from generate_series(${count}::int, 0, -1) as n`.execute(db)
  return rows.map(({ month }) => month)
}

/** Millionths from the number of whole units. */
export const units = (amount: number | string): string => String(BigInt(Math.round(Number(amount) * 100)) * 10_000n)

/** @param amounts in whole units, the last one in the current month */
export async function spendBy(db: Db, place: Place, amounts: readonly (number | string)[], held: number | string = 0) {
  const months = await monthsBack(db, amounts.length - 1)
  for (const [index, amount] of amounts.entries()) {
    if (Number(amount) === 0) continue
    const heldNow = index === amounts.length - 1 ? units(held) : '0'
    await sql`insert into spend (organization_id, workspace_id, month, settled_micros, held_micros, event_count,
        input_tokens, output_tokens)
      values (${place.organizationId}, ${place.workspaceId}, (${months[index]} || '-01')::date, ${units(amount)}::bigint,
        ${heldNow}::bigint, 12, 48000, 9000)`.execute(db)
  }
}

export async function capAt(db: Db, place: Place, cap: number | string, mode: 'soft' | 'hard'): Promise<void> {
  await sql`insert into budgets (workspace_id, organization_id, cap_micros, mode)
    values (${place.workspaceId}, ${place.organizationId}, ${units(cap)}::bigint, ${mode})`.execute(db)
}

export async function useModel(
  db: Db,
  place: Place,
  model: { provider: string; model: string; cost: number | string; tokens?: number | string },
): Promise<void> {
  const [month] = await monthsBack(db, 0)
  await sql`insert into spend_by_model (workspace_id, month, provider, model, cost_micros, event_count, input_tokens,
      output_tokens)
    values (${place.workspaceId}, (${month} || '-01')::date, ${model.provider}, ${model.model},
      ${units(model.cost)}::bigint, 7, ${model.tokens ?? 1200}::bigint, 300)`.execute(db)
}

export async function recordEvent(
  db: Db,
  place: Place,
  event: { model?: string | null; cost?: string | null; trace?: string; credential?: string; estimated?: boolean } = {},
): Promise<string> {
  const id = newId('use')
  const [month] = await monthsBack(db, 0)
  await sql`insert into usage_events (id, organization_id, workspace_id, month, event_id, provider, model, input_tokens,
      output_tokens, cost_micros, is_estimated, trace_id, credential_id, token_version)
    values (${id}, ${place.organizationId}, ${place.workspaceId}, (${month} || '-01')::date, ${id}, 'anthropic',
      ${event.model === undefined ? 'claude-sonnet-4-5' : event.model}, 1200, 340,
      ${event.cost === undefined ? '8700' : event.cost}::bigint, ${event.estimated ?? false},
      ${event.trace ?? 'run-2026-0441'}, ${event.credential ?? 'key_01kw8m5hj0k1m2n3p4q5r6s7t8'}, 3)`.execute(db)
  return id
}

export async function violate(
  db: Db,
  place: Place,
  violation: {
    kind: 'refused' | 'overrun' | 'soft_cap'
    cap: number | string
    /** Null: not known beforehand. */
    asked: number | string | null
    left: number | string
    count?: number
    trace?: string
    credential?: string
  },
): Promise<void> {
  const [month] = await monthsBack(db, 0)
  await sql`insert into violations (id, organization_id, workspace_id, month, kind, credential_id, hour, cap_micros,
      asked_micros, left_micros, count, trace_id, first_at, last_at)
    values (${newId('vio')}, ${place.organizationId}, ${place.workspaceId}, (${month} || '-01')::date, ${violation.kind},
      ${violation.credential ?? (violation.kind === 'soft_cap' ? '' : newId('key'))}, date_trunc('hour', now()),
      ${units(violation.cap)}::bigint, ${violation.asked === null ? null : units(violation.asked)}::bigint, ${units(violation.left)}::bigint,
      ${violation.count ?? 1}, ${violation.trace ?? 'batch-0518-eval'}, now() - interval '20 minutes',
      now())`.execute(db)
}

/** Without a person, a job or a notice: a workspace that is only there to be listed. */
export async function addWorkspace(db: Db, place: Place, name: string): Promise<string> {
  const id = newId('ws')
  await sql`insert into workspaces (id, organization_id, name, owner_id)
    select ${id}, organization_id, ${name}, owner_id from workspaces where id = ${place.workspaceId}`.execute(db)
  return id
}

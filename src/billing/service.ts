// Budget alerts and monthly statements, mailed to a workspace's billing address. A mail is sent at least once: a process that
// is killed between the mail server's answer and its note of it makes the next one send it again, with the same Message-ID.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import type { Jobs } from '../jobs/service.ts'
import type { Mailer } from '../mail/service.ts'
import { getUsage } from '../spending/service.ts'
import { type Db, reading, transact } from '../store/database.ts'
import type { Month } from '../usage/rules.ts'
import {
  type BillingMail,
  type BillingMailKind,
  MAILED_WITHIN_DAYS,
  type MonthAccount,
  mailOf,
  STATEMENT_MONTHS,
} from './rules.ts'
import * as store from './store.ts'

/** The queue of mails: one job an alert, or a workspace and month. */
export const BILLING_MAIL = 'billing-mail'

export interface BillingDeps {
  db: Db
  issuer: string
  /** Undefined: mails wait until there is one. */
  mailer: Mailer | undefined
  jobs: Pick<Jobs, 'enqueue'>
}

const BATCH = 500

/** Makes the statements of finished months that are not there yet, and sees to it that they are sent. */
export async function makeStatements(deps: BillingDeps): Promise<void> {
  while ((await reading(store.insertStatements(deps.db, { months: STATEMENT_MONTHS, limit: BATCH }))) === BATCH);
  await enqueueUnsettled(deps, 'statement')
}

/** Sees to it that alerts are sent. */
export function enqueueAlerts(deps: BillingDeps): Promise<void> {
  return enqueueUnsettled(deps, 'alert')
}

/** Also those whose job was lost, or has given up. */
async function enqueueUnsettled({ db, jobs, mailer }: BillingDeps, kind: BillingMailKind): Promise<void> {
  if (mailer === undefined) return
  let after: store.BillingMailKey | undefined
  do {
    const page = { withinDays: MAILED_WITHIN_DAYS, after, limit: BATCH }
    const found = await reading(store.listUnsettled(db, kind, page))
    await jobs.enqueue(
      BILLING_MAIL,
      found.map((key) => ({ key: textOf(key), data: key })),
    )
    after = found.length < BATCH ? undefined : found.at(-1)
  } while (after !== undefined)
}

const mailKey = z.object({
  kind: z.enum(['alert', 'statement']),
  subject_id: z.string(),
  month: z.string().transform((month) => month as Month), // queued by us
})

/** Sends one mail, unless that was done. Rejects where another try may help. */
export async function sendBillingMail({ db, issuer, mailer }: BillingDeps, data: unknown): Promise<void> {
  if (mailer === undefined) return // it waits for a process that has one
  const key = mailKey.parse(data)
  const mail = await reading(store.findUnsettled(db, key))
  if (mail === undefined) return
  const { address } = mail.workspace
  const outcome =
    address === null
      ? 'no_address'
      : await mailer.send({ to: address, id: messageId(key), ...mailOf(mail, await accountOf(db, mail), issuer) })
  await transact(db, (trx) => store.settleMail(trx, key, outcome))
}

async function accountOf(db: Db, { workspace, month }: BillingMail): Promise<MonthAccount> {
  const place = { organizationId: workspace.organizationId, workspaceId: workspace.id }
  const { currency, budget, balance, sums, models } = await getUsage(db, place, month)
  const { settledMicros: spentMicros, heldMicros } = balance
  return { currency, budget, spentMicros, heldMicros, unpriced: sums.unpriced, models }
}

const textOf = ({ kind, subject_id, month }: store.BillingMailKey) => `${kind} ${subject_id} ${month}`

function messageId(key: store.BillingMailKey): string {
  return createHash('sha256').update(textOf(key)).digest('hex').slice(0, 40)
}

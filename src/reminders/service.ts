// Notices for the people who administer a workspace: each is made once, stays in the list while it holds, and is mailed to
// each of them. A mail is sent at least once: a process that is killed between the mail server's answer and its note of it
// makes the next one send it again, with the same Message-ID.
import { createHash } from 'node:crypto'
import { z } from 'zod'
import { type NoticeId, newId, type UserId, type WorkspaceId } from '../ids.ts'
import type { Jobs } from '../jobs/service.ts'
import type { Mailer } from '../mail/service.ts'
import { type Db, reading, transact } from '../store/database.ts'
import { MAILED_WITHIN_DAYS, mailOf, type Notice, type Unmailed } from './rules.ts'
import * as store from './store.ts'

/** The queue of mails: one job a notice and person. */
export const MAIL = 'mail'

export interface RemindersDeps {
  db: Db
  issuer: string
  /** Undefined: notices are listed, and their mails left to a process that has one. */
  mailer: Mailer | undefined
  jobs: Pick<Jobs, 'enqueue'>
  /** Hears of each notice that nobody is mailed from here, and of each mail that is refused for good. */
  onUnmailed: (notice: { workspaceId: WorkspaceId; kind: string; why: Unmailed }) => void
}

const BATCH = 500

/**
 * Makes what is to be told now and was not told before, resolves what is over, and sees to it that mails are sent.
 *
 * @throws {AggregateError} where a notice could not be made, once all the others are
 */
export async function makeNotices(deps: RemindersDeps): Promise<void> {
  await reading(store.settleResolved(deps.db))
  const failures = await makeAll(deps)
  if (deps.mailer !== undefined) await enqueueUnsettled(deps)
  if (failures.length > 0)
    throw new AggregateError(failures, `${failures.length} notices could not be made`, { cause: failures[0] })
}

async function makeAll(deps: RemindersDeps): Promise<unknown[]> {
  const failures: unknown[] = []
  let after: store.ToTell | undefined
  do {
    const found = await reading(store.listToTell(deps.db, { after, limit: BATCH }))
    for (const notice of found) await makeNotice(deps, notice).catch((error: unknown) => failures.push(error))
    after = found.length < BATCH ? undefined : found.at(-1)
  } while (after !== undefined)
  return failures
}

/** Also those of an earlier round whose job was lost, or has given up. */
async function enqueueUnsettled({ db, jobs }: RemindersDeps): Promise<void> {
  let after: store.MailKey | undefined
  do {
    const found = await reading(store.listUnsettled(db, MAILED_WITHIN_DAYS, { after, limit: BATCH }))
    await jobs.enqueue(
      MAIL,
      found.map((key) => ({ key: `${key.notice_id} ${key.user_id}`, data: key })),
    )
    after = found.length < BATCH ? undefined : found.at(-1)
  } while (after !== undefined)
}

async function makeNotice({ db, mailer, onUnmailed }: RemindersDeps, notice: store.ToTell): Promise<void> {
  const id = newId('ntc')
  const mails = await transact(db, async (trx) =>
    (await store.insertNotice(trx, id, notice)) ? store.insertMails(trx, id, notice.workspace_id) : undefined,
  )
  if (mails === undefined || (mails > 0 && mailer !== undefined)) return
  onUnmailed({
    workspaceId: notice.workspace_id,
    kind: notice.kind,
    why: mails === 0 ? 'nobody' : 'no_mail_server',
  })
}

const mailKey = z.object({
  notice_id: z.string().transform((id) => id as NoticeId), // queued by us
  user_id: z.string().transform((id) => id as UserId),
})

/** Sends one mail, unless that was done. Rejects where another try may help. */
export async function sendMail({ db, issuer, mailer, onUnmailed }: RemindersDeps, data: unknown): Promise<void> {
  if (mailer === undefined) return
  const key = mailKey.parse(data)
  const mail = await reading(store.findUnsettled(db, key))
  if (mail === undefined) return // of what is over: it is queued anew where that is so again
  const outcome = mail.isConcerned
    ? await mailer.send({ to: mail.email, id: messageId(key), ...mailOf(mail, issuer) })
    : 'not_concerned'
  await transact(db, (trx) => store.settleMail(trx, key, outcome))
  const { workspaceId, kind } = mail.notice
  if (outcome === 'refused') onUnmailed({ workspaceId, kind, why: outcome })
}

function messageId({ notice_id, user_id }: store.MailKey): string {
  return createHash('sha256').update(`${notice_id} ${user_id}`).digest('hex').slice(0, 40)
}

/** Open ones, oldest first. The caller has been let in by now. */
export function listNotices(
  db: Db,
  workspaceId: WorkspaceId,
  page: { after?: string | undefined; limit?: number | undefined },
): Promise<Notice[]> {
  return reading(store.listOpen(db, workspaceId, page))
}

// Which jobs there are, and when each is run.
import type { ReviewEvery } from '../config.ts'
import { MAIL, makeNotices, type RemindersDeps, sendMail } from '../reminders/service.ts'
import { closeDue, openScheduled, type ReviewsDeps } from '../reviews/service.ts'
import type { Jobs } from './service.ts'

export interface ScheduleDeps extends Omit<RemindersDeps, 'jobs'>, ReviewsDeps {
  jobs: Jobs
  reviewEvery: ReviewEvery
}

const BATCH = 50

export function defineJobs(deps: ScheduleDeps): void {
  const { jobs, db, reviewEvery } = deps
  // A process without a mail server leaves mails to those that have one.
  if (deps.mailer !== undefined) jobs.define(MAIL, { patience: 'long', run: (data) => sendMail(deps, data) })
  jobs.define('notices', { everyCron: '7 * * * *', patience: 'short', run: () => makeNotices(deps) })
  jobs.define('reviews-open', {
    everyCron: '22 * * * *',
    patience: 'short',
    run: () => untilNone(() => openScheduled(db, reviewEvery, BATCH)),
  })
  // Every minute: what is due then is suspended then.
  jobs.define('reviews-close', {
    everyCron: '* * * * *',
    patience: 'short',
    run: () => untilNone(() => closeDue(deps, BATCH)),
  })
}

async function untilNone(batch: () => Promise<number>): Promise<void> {
  while ((await batch()) === BATCH);
}

// Which jobs there are, and when each is run.
import { BILLING_MAIL, enqueueAlerts, makeStatements, sendBillingMail } from '../billing/service.ts'
import type { ReviewEvery } from '../config.ts'
import { checkUnchecked, type ProvidersDeps } from '../providers/service.ts'
import { MAIL, makeNotices, type RemindersDeps, sendMail } from '../reminders/service.ts'
import { closeDue, openAfterTeamChanges, openScheduled, type ReviewsDeps } from '../reviews/service.ts'
import { expireDueHolds } from '../usage/service.ts'
import type { Jobs } from './service.ts'

export interface ScheduleDeps extends Omit<RemindersDeps, 'jobs'>, ReviewsDeps {
  jobs: Jobs
  reviewEvery: ReviewEvery
  providers: ProvidersDeps
}

const BATCH = 50

export function defineJobs(deps: ScheduleDeps): void {
  const { jobs, db, reviewEvery } = deps
  // A process without a mail server leaves mails to those that have one.
  if (deps.mailer !== undefined) {
    jobs.define(MAIL, { patience: 'long', run: (data) => sendMail(deps, data) })
    jobs.define(BILLING_MAIL, { patience: 'long', run: (data) => sendBillingMail(deps, data) })
  }
  jobs.define('budget-alerts', { everyCron: '* * * * *', patience: 'short', run: () => enqueueAlerts(deps) })
  jobs.define('statements', { everyCron: '37 * * * *', patience: 'short', run: () => makeStatements(deps) })
  jobs.define('notices', { everyCron: '7 * * * *', patience: 'short', run: () => makeNotices(deps) })
  jobs.define('reviews-open', {
    everyCron: '22 * * * *',
    patience: 'short',
    run: () => done(openScheduled(db, reviewEvery, BATCH)),
  })
  jobs.define('reviews-team', {
    everyCron: '* * * * *',
    patience: 'short',
    run: () => done(openAfterTeamChanges(db, BATCH)),
  })
  jobs.define('holds-expire', { everyCron: '* * * * *', patience: 'short', run: () => expireDueHolds(db) })
  // Each is checked when it is made; these are those whose process ended first.
  jobs.define('providers-check', {
    everyCron: '* * * * *',
    patience: 'short',
    run: () => checkUnchecked(deps.providers),
  })
  // Every minute: what is due then is suspended then.
  jobs.define('reviews-close', {
    everyCron: '* * * * *',
    patience: 'short',
    run: () => done(closeDue(deps, BATCH)),
  })
}

async function done(work: Promise<number>): Promise<void> {
  await work
}

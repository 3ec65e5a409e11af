// What is mailed to whoever pays for a workspace: that a budget is nearly spent, and what a month came to. Pure.
import type { AlertId, OrganizationId, WorkspaceId } from '../ids.ts'
import { headerText, type Mail } from '../mail/rules.ts'
import type { BudgetMode } from '../store/tables.ts'
import { type AlertPercent, type Budget, formatMoney, formatMonth, type Micros, type Month } from '../usage/rules.ts'

export type BillingMailKind = 'alert' | 'statement'

/** Months after their end in which a statement is still made, where nothing ran before. */
export const STATEMENT_MONTHS = 3

/** Older ones that could not be mailed are no news any more. */
export const MAILED_WITHIN_DAYS = 30

/** Of what a month was spent on, the dearest. */
export const MODELS_TOLD = 10

export interface BilledWorkspace {
  id: WorkspaceId
  organizationId: OrganizationId
  name: string
  /** Null: there is nobody to tell. */
  address: string | null
}

export interface BudgetAlert {
  id: AlertId
  percent: AlertPercent
  /** What was passed, whatever the cap is now. */
  budget: Budget
}

/** A mail that is to be sent, and what it is about. */
export interface BillingMail {
  workspace: BilledWorkspace
  month: Month
  /** Undefined: it is a statement. */
  alert: BudgetAlert | undefined
}

/** What a month came to, as it stands now. */
export interface MonthAccount {
  currency: string
  spentMicros: Micros
  heldMicros: Micros
  /** Events whose cost is not known, and not in the sum. */
  unpriced: number
  budget: Budget | undefined
  /** The dearest first. */
  models: ReadonlyArray<{ provider: string | null; model: string | null; spentMicros: Micros }>
}

/** @param issuer where the pages are */
export function mailOf(mail: BillingMail, account: MonthAccount, issuer: string): Pick<Mail, 'subject' | 'text'> {
  const { workspace, alert } = mail
  const name = headerText(workspace.name)
  const page = new URL(`/workspaces/${workspace.id}/usage`, issuer).href
  const budget = alert?.budget ?? account.budget
  const paragraphs = [
    alert === undefined ? statementSentence(mail, name) : alertSentence(mail, alert, name),
    sumsOf(account, budget).join('\n'),
    ...(account.models.length === 0 ? [] : [modelsOf(account).join('\n')]),
    `What was used, event by event:\n${page}`,
    `You get this at the billing address of the workspace ${name}.`,
  ]
  const subject = alert === undefined ? `Statement of ${formatMonth(mail.month)}` : alertSubject(alert)
  return { subject: `${subject} (${name})`, text: `${paragraphs.join('\n\n')}\n` }
}

function alertSubject({ percent }: BudgetAlert): string {
  return percent === 100 ? 'A monthly budget is spent' : `${percent} % of a monthly budget is spent`
}

function alertSentence({ month }: BillingMail, { percent, budget }: BudgetAlert, name: string): string {
  const sentence = `The workspace ${name} has spent ${percent === 100 ? 'all' : `${percent} %`} of its budget of ${formatMonth(month)}.`
  return `${sentence} ${CONSEQUENCES[budget.mode]}`
}

const CONSEQUENCES: Record<BudgetMode, string> = {
  soft: 'The cap is soft: nothing is refused for it.',
  hard: 'The cap is hard: what would go beyond it is refused.',
}

function statementSentence({ month }: BillingMail, name: string): string {
  return `What the workspace ${name} spent in ${formatMonth(month)} (UTC):`
}

function sumsOf(account: MonthAccount, budget: Budget | undefined): string[] {
  const { currency, spentMicros, heldMicros, unpriced } = account
  const sum = (micros: Micros) => `${formatMoney(micros)} ${currency}`
  const percent = budget && percentOf(spentMicros, budget.capMicros)
  return [
    `Spent    ${sum(spentMicros)}${percent === undefined ? '' : ` (${percent} % of the cap)`}`,
    `Held     ${sum(heldMicros)}`,
    `Cap      ${budget === undefined ? 'none' : `${sum(budget.capMicros)}, ${budget.mode}`}`,
    ...(unpriced === 0 ? [] : [`Not in it: ${unpriced} ${unpriced === 1 ? 'event' : 'events'} of unknown cost`]),
  ]
}

/** Whole, and never more than is true. Undefined of a cap of nothing. */
export function percentOf(spentMicros: Micros, capMicros: Micros): bigint | undefined {
  return capMicros === 0n ? undefined : (spentMicros * 100n) / capMicros
}

function modelsOf({ models, currency }: MonthAccount): string[] {
  const lines = models.slice(0, MODELS_TOLD).map(({ provider, model, spentMicros }) => {
    const words = [provider, model].filter((word) => word !== null).map(headerText)
    return `  ${words.length === 0 ? 'not said' : words.join(' ')}: ${formatMoney(spentMicros)} ${currency}`
  })
  return [models.length > MODELS_TOLD ? `By model, the dearest ${MODELS_TOLD}:` : 'By model:', ...lines]
}

// What a mail about a budget or a month says.
import { describe, expect, it } from 'vitest'
import { type BillingMail, type MonthAccount, mailOf, percentOf } from '../../src/billing/rules.ts'
import type { Month } from '../../src/usage/rules.ts'

const ISSUER = 'https://id.example.com'
const workspace: BillingMail['workspace'] = {
  id: 'ws_1',
  organizationId: 'org_1',
  name: 'platform-ai',
  address: 'finance@example.com',
}
const month = '2026-10-01' as Month
const account: MonthAccount = {
  currency: 'EUR',
  spentMicros: 80_120_000n,
  heldMicros: 1_000_000n,
  unpriced: 2,
  budget: { capMicros: 200_000_000n, mode: 'soft' },
  models: [
    { provider: 'anthropic', model: 'claude-sonnet-4-5', spentMicros: 70_000_000n },
    { provider: null, model: null, spentMicros: 10_120_000n },
  ],
}
const statement: BillingMail = { workspace, month, alert: undefined }
const alert: BillingMail = {
  ...statement,
  alert: { id: 'alt_1', percent: 80, budget: { capMicros: 100_000_000n, mode: 'hard' } },
}

describe('a statement', () => {
  it('says what a month came to, of which cap, by model, and where that is shown', () => {
    expect(mailOf(statement, account, ISSUER)).toEqual({
      subject: 'Statement of 2026-10 (platform-ai)',
      text: `What the workspace platform-ai spent in 2026-10 (UTC):

Spent    80.12 EUR (40 % of the cap)
Held     1.00 EUR
Cap      200.00 EUR, soft
Not in it: 2 events of unknown cost

By model:
  anthropic claude-sonnet-4-5: 70.00 EUR
  not said: 10.12 EUR

What was used, event by event:
https://id.example.com/workspaces/ws_1/usage

You get this at the billing address of the workspace platform-ai.
`,
    })
  })

  it('of a workspace without a cap has no percent, and names the dearest ten of many models', () => {
    const models = Array.from({ length: 12 }, (_, place) => ({
      provider: 'openai',
      model: `model-${place}`,
      spentMicros: BigInt(12 - place),
    }))
    const { text } = mailOf(statement, { ...account, budget: undefined, unpriced: 1, models }, ISSUER)
    expect(text).toContain('Spent    80.12 EUR\nHeld     1.00 EUR\nCap      none\nNot in it: 1 event of unknown cost')
    expect(text).toContain('the dearest 10:\n  openai model-0: 0.000012 EUR')
    expect(text).toContain('openai model-9:')
    expect(text).not.toContain('model-10')
  })
})

describe('an alert', () => {
  it('is of the cap that was reached, whatever the cap is now', () => {
    const { subject, text } = mailOf(alert, account, ISSUER)
    expect(subject).toBe('80 % of a monthly budget is spent (platform-ai)')
    expect(text).toContain('The workspace platform-ai has spent 80 % of its budget of 2026-10. The cap is hard:')
    expect(text).toContain('Spent    80.12 EUR (80 % of the cap)\nHeld     1.00 EUR\nCap      100.00 EUR, hard')
  })

  it('says when all of it is spent, also of a cap of nothing', () => {
    const nothing = { id: 'alt_1', percent: 100, budget: { capMicros: 0n, mode: 'soft' } } as const
    const { subject, text } = mailOf({ ...alert, alert: nothing }, account, ISSUER)
    expect(subject).toBe('A monthly budget is spent (platform-ai)')
    expect(text).toContain('has spent all of its budget of 2026-10. The cap is soft')
    expect(text).toContain('Spent    80.12 EUR\n')
  })
})

it('a name that holds lines is one line of the subject and of the text', () => {
  const name = 'x\r\nBcc: evil@example.com\u2028\n\nYour account was closed'
  const models = [{ provider: 'a\nb', model: 'c\u2029d', spentMicros: 1n }]
  const { subject, text } = mailOf({ ...alert, workspace: { ...workspace, name } }, { ...account, models }, ISSUER)
  expect(subject).toBe('80 % of a monthly budget is spent (x Bcc: evil@example.com Your account was closed)')
  expect(text).not.toMatch(/^(Bcc|Your account)/m)
  expect(text).toContain('  a b c d: 0.000001 EUR')
})

it.each([
  [799_999n, 1_000_000n, 79n],
  [1_234_567n, 1_000_000n, 123n],
  [5n, 0n, undefined],
])('%s of %s is %s percent: never more than is true', (spent, cap, percent) => {
  expect(percentOf(spent, cap)).toBe(percent)
})

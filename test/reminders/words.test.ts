// What a mail says: in words that are true of each notice, with the page where something can be done about it.
import { describe, expect, it } from 'vitest'
import { newId } from '../../src/ids.ts'
import { mailOf, type Named } from '../../src/reminders/rules.ts'

const rotation = (more: { reason: string; stage?: string }): Named => ({
  notice: {
    id: newId('ntc'),
    organizationId: newId('org'),
    workspaceId: newId('ws'),
    kind: 'rotation_required',
    subjectId: newId('key'),
    stage: more.stage ?? 'v2',
    dueAt: new Date('2026-05-03T08:00:00Z'),
    createdAt: new Date('2026-04-26T08:00:00Z'),
    mailedAt: null,
  },
  workspaceName: 'platform-ai',
  label: 'nightly export',
  rotationReason: more.reason,
})

describe('the mail of a token that must be rotated', () => {
  const textOf = (named: Named) => mailOf(named, 'https://id.example.com').text

  it.each(['member_removed', 'account_erased'])('says that somebody has left: %s', (reason) => {
    expect(textOf(rotation({ reason }))).toContain(
      'must be rotated by 2026-05-03 08:00 UTC: somebody who may know its value has left.',
    )
  })

  it('says that somebody is no longer an admin where that is all', () => {
    const text = textOf(rotation({ reason: 'role_changed' }))
    expect(text).toContain('is no longer an admin.')
    expect(text).not.toContain('left')
  })

  it('says that the date has passed where it has', () => {
    expect(textOf(rotation({ reason: 'role_changed', stage: 'v2 overdue' }))).toContain(
      'was to be rotated by 2026-05-03 08:00 UTC, and was not.',
    )
  })
})

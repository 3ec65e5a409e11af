// What a notice tells the people who administer a workspace. Pure.
import type { NoticeId, OrganizationId, WorkspaceId } from '../ids.ts'
import type { Mail } from '../mail/rules.ts'
import type { NoticeKind } from '../store/tables.ts'

export interface Notice {
  id: NoticeId
  organizationId: OrganizationId
  workspaceId: WorkspaceId
  kind: NoticeKind
  /** A token, or a review. */
  subjectId: string
  /** Of one subject each is told once: a version; the first or the last reminder of a day. */
  stage: string
  dueAt: Date | null
  createdAt: Date
  mailedAt: Date | null
}

/** Days before its date at which a review is told of. */
export const REVIEW_STAGES = { first: 7, last: 1 } as const

/** Older ones that could not be mailed are no news any more: they stay in the list. */
export const MAILED_WITHIN_DAYS = 7

/** Why a notice, or one of its mails, reaches nobody by mail: of `no_mail_server` another process may have one. */
export type Unmailed = 'no_mail_server' | 'nobody' | 'refused'

/** A notice with the words that people know its subject by. */
export interface Named {
  notice: Notice
  workspaceName: string
  /** Of a token. */
  label: string | null
  /** Of a token that must be rotated. */
  rotationReason: string | null
}

/** What is mailed of a notice. @param issuer where the pages are */
export function mailOf(named: Named, issuer: string): Pick<Mail, 'subject' | 'text'> {
  const { subject, sentence, advice } = WORDS[named.notice.kind](named)
  const { workspaceId, kind, subjectId } = named.notice
  const path = kind === 'review_due' ? `reviews/${subjectId}` : 'access'
  const page = new URL(`/workspaces/${workspaceId}/${path}`, issuer).href
  return {
    subject: `${subject} (${named.workspaceName})`,
    text: `${[sentence, `${advice}\n${page}`, `You get this because you administer the workspace ${named.workspaceName}.`].join('\n\n')}\n`,
  }
}

interface Words {
  subject: string
  sentence: string
  advice: string
}

const day = (time: Date | null) =>
  time === null ? 'a day' : `${time.toISOString().slice(0, 16).replace('T', ' ')} UTC`
const token = ({ label, workspaceName }: Named) => `The token "${label ?? ''}" of the workspace ${workspaceName}`

const whoKnows = ({ rotationReason }: Named) =>
  rotationReason === 'role_changed'
    ? 'the person who made it, and may know its value, is no longer an admin'
    : 'somebody who may know its value has left'

const WORDS: Record<NoticeKind, (named: Named) => Words> = {
  token_expiring: (named) => ({
    subject: 'A token expires soon',
    sentence: `${token(named)} expires on ${day(named.notice.dueAt)}. What uses it stops working then.`,
    advice: 'Rotate it before, or let it expire where nothing needs it any more:',
  }),
  rotation_required: (named) => ({
    subject: isOverdue(named.notice) ? 'A token should have been rotated' : 'A token must be rotated',
    sentence: isOverdue(named.notice)
      ? `${token(named)} was to be rotated by ${day(named.notice.dueAt)}, and was not.`
      : `${token(named)} must be rotated by ${day(named.notice.dueAt)}: ${whoKnows(named)}.`,
    advice: 'Rotate it and cut over, or revoke it:',
  }),
  token_unused: (named) => ({
    subject: 'A token is not used',
    sentence: `${token(named)} was not used for ninety days.`,
    advice: 'Revoke it, unless you know what it is for:',
  }),
  review_due: (named) => ({
    subject: 'An access review is due',
    sentence: `The access review of the workspace ${named.workspaceName} ends on ${day(named.notice.dueAt)}. What nobody has attested by then is suspended.`,
    advice: 'Keep or revoke each connection and token:',
  }),
}

/** As the stage is written by the statement that finds it. */
export const OVERDUE = 'overdue'

export const isOverdue = (notice: Pick<Notice, 'stage'>) => notice.stage.endsWith(OVERDUE)

// The audit log as pages: of a workspace and of an organization, for those who administer them. What happened as sentences
// by days, one record in full, the state of the chain and a check of its newest part, and files to take away.
import Router from '@koa/router'
import type { Context } from 'koa'
import { verifyRecent } from '../audit/verification.ts'
import { AppError } from '../errors.ts'
import { fileOf } from '../evidence/download.ts'
import { type PlacedRecord, type Scope, writePosition } from '../evidence/rules.ts'
import { getChainState, getRecord, listEvents, listRecords, namesOfSubjects } from '../evidence/service.ts'
import { formBody } from '../http/forms.ts'
import type { OrganizationId } from '../ids.ts'
import { listOrganizationMembers, listWorkspaceMembers, namesOf } from '../members/service.ts'
import type { BrowserSession } from '../oauth/browser-sessions.ts'
import { listWorkspacesIn } from '../organizations/service.ts'
import type { SinkSigner } from '../sink/signing.ts'
import type { Db } from '../store/database.ts'
import { type AuditQuery, type Given, hrefOf, isFiltering, queryOf, readAuditQuery } from './audit-filter.ts'
import type { Known } from './audit-sentences.ts'
import { type CheckView, chainView, checkView, daysOf, idsIn, recordView } from './audit-views.ts'
import { type Frame, leadToSignIn, type PlacedPage, placeOfOrganization, placeOfWorkspace } from './frame.ts'
import { done } from './people.ts'
import { DAY_MS } from './token-times.ts'

export interface AuditPagesDeps {
  db: Db
  signer: SinkSigner
  frame: Frame
}

const PAGE = 50
/** Entries: what can be looked at while somebody waits. */
const MOST_CHECKED = 20_000

/** A log that somebody may read: of an organization, or the part of it that is a workspace's. */
interface Place {
  session: BrowserSession
  framed: PlacedPage
  scope: Scope
  organization: { id: OrganizationId; name: string }
  /** `this workspace` */
  what: string
  base: string
  people(): Promise<ReadonlyArray<{ user_id: string; name: string }>>
  /** To choose from. */
  workspaces(): Promise<ReadonlyArray<{ id: string; name: string }>>
}

type Open = (ctx: Context, session: BrowserSession) => Promise<Place>

export function createAuditPages(deps: AuditPagesDeps): Router {
  const router = new Router()
  router.use(leadToSignIn)
  const checking = createChecking(deps)
  for (const [at, open] of [
    ['/workspaces/:workspace_id/audit', (ctx, session) => ofWorkspace(deps, ctx, session)],
    ['/organizations/:organization_id/audit', (ctx, session) => ofOrganization(deps, ctx, session)],
  ] as const satisfies ReadonlyArray<readonly [string, Open]>) {
    const entered = async (ctx: Context): Promise<Place> => open(ctx, await deps.frame.session(ctx))
    router.get(at, async (ctx) => showLog(deps, ctx, await entered(ctx)))
    router.get(`${at}/check`, async (ctx) => done(ctx, (await entered(ctx)).base))
    router.post(`${at}/check`, formBody, async (ctx) => {
      const place = await open(ctx, await deps.frame.posted(ctx))
      await showLog(deps, ctx, place, await checking(place.scope.chain))
    })
    router.get(`${at}/export`, async (ctx) => sendExport(deps, ctx, await entered(ctx)))
    router.get(`${at}/evidence/:trace_id`, async (ctx) => sendEvidence(deps, ctx, await entered(ctx)))
    router.get(`${at}/:record_id`, async (ctx) => showRecord(deps, ctx, await entered(ctx)))
  }
  return router
}

async function ofWorkspace({ db, frame }: AuditPagesDeps, ctx: Context, session: BrowserSession): Promise<Place> {
  const visit = await frame.workspace(ctx, session, 'admin')
  const { workspace, organization } = visit
  return {
    session,
    framed: placeOfWorkspace(visit, 'audit'),
    scope: { chain: organization.id, workspaceId: workspace.id },
    organization,
    what: 'this workspace',
    base: `/workspaces/${workspace.id}/audit`,
    people: () => listWorkspaceMembers(db, workspace.id),
    workspaces: async () => [],
  }
}

async function ofOrganization({ db, frame }: AuditPagesDeps, ctx: Context, session: BrowserSession): Promise<Place> {
  const visit = await frame.organization(ctx, session, 'admin')
  const { organization } = visit
  return {
    session,
    framed: placeOfOrganization(visit, 'audit'),
    scope: { chain: organization.id, workspaceId: undefined },
    organization,
    what: 'this organization and its workspaces',
    base: `/organizations/${organization.id}/audit`,
    people: () => listOrganizationMembers(db, organization.id),
    workspaces: () => listWorkspacesIn(db, organization.id),
  }
}

// --- The log ----------------------------------------------------------------------------------------------------------------

async function showLog(deps: AuditPagesDeps, ctx: Context, place: Place, checked?: CheckView): Promise<void> {
  const { db } = deps
  const query = readAuditQuery(checked === undefined ? ctx.URL.searchParams : new URLSearchParams())
  const [found, state, choices] = await Promise.all([
    recordsOf(db, place, query),
    getChainState(deps, place.scope.chain),
    choicesOf(db, place, query.given),
  ])
  const shown = found.slice(0, PAGE)
  const last = found.length > PAGE ? shown.at(-1) : undefined
  const asked = queryOf(query.given)
  deps.frame.send(ctx, place.session, 'audit', place.framed, {
    what: place.what,
    organization: place.organization.name,
    isWorkspace: place.scope.workspaceId !== undefined,
    action: place.base,
    given: query.given,
    problems: query.problems,
    isWrong: query.filter === undefined,
    isOn: isFiltering(query.given),
    ...choices,
    days: daysOf(shown, await knownFrom(db, place.organization.id, shown), place.base),
    count: shown.length,
    newest: query.before === undefined ? undefined : hrefOf(place.base, asked),
    older: last === undefined ? undefined : hrefOf(place.base, { ...asked, before: writePosition(last) }),
    files: query.filter === undefined ? [] : fileLinks(place, query.given),
    often: oftenAsked(place),
    chain: chainView(state),
    checked,
    mostChecked: MOST_CHECKED.toLocaleString('en'),
  })
  if (query.filter === undefined) ctx.status = 400
}

async function recordsOf(db: Db, place: Place, { filter, before }: AuditQuery): Promise<PlacedRecord[]> {
  return filter === undefined ? [] : listRecords(db, place.scope, { filter, before, most: PAGE + 1 })
}

/** Two statements, however many records. */
async function knownFrom(db: Db, organizationId: OrganizationId, records: readonly PlacedRecord[]): Promise<Known> {
  const ids = idsIn(records)
  const [people, subjects] = await Promise.all([
    namesOf(db, organizationId, ids.people),
    namesOfSubjects(db, organizationId, ids.subjects),
  ])
  return { people, subjects }
}

async function choicesOf(db: Db, place: Place, given: Given) {
  const [people, workspaces, events] = await Promise.all([
    place.people(),
    place.workspaces(),
    listEvents(db, place.scope.chain),
  ])
  const isThere = people.some(({ user_id }) => user_id === given.user_id)
  return {
    people: people.map(({ user_id, name }) => ({ id: user_id, name })),
    workspaces: workspaces.map(({ id, name }) => ({ id, name })),
    // A link may name somebody who has left: then the id stands in the field for that.
    personId: isThere ? given.user_id : '',
    otherId: given.other_id || (isThere ? '' : given.user_id),
    events: eventChoices(events, place, given.event),
  }
}

/** What jobs of other workspaces call their events is not for an admin of one workspace: there they are one choice. */
function eventChoices(events: readonly string[], { scope }: Place, given: string): string[] {
  const isOurs = (event: string) => scope.workspaceId === undefined || !event.startsWith('job.')
  const kinds = Map.groupBy(
    events.filter((event) => event.includes('.')),
    (event) => `${event.split('.')[0]}.*`,
  )
  const several = [...kinds].flatMap(([kind, those]) => (those.length > 1 || kind === 'job.*' ? [kind] : []))
  const all = new Set([...events.filter(isOurs), ...several, ...(given === '' ? [] : [given])])
  return [...all].sort()
}

function fileLinks({ base }: Place, given: Given) {
  const href = (format: string) => hrefOf(`${base}/export`, { ...queryOf(given), format })
  return [
    { text: 'Export CSV', href: href('csv') },
    { text: 'Export NDJSON', href: href('ndjson') },
  ]
}

function oftenAsked({ base }: Place) {
  const weekAgo = new Date(Date.now() - 6 * DAY_MS).toISOString().slice(0, 10)
  return [
    { text: 'Which jobs used stale credentials?', href: hrefOf(base, queryOf({ stale: true })) },
    { text: 'What was refused this week?', href: hrefOf(base, queryOf({ status: 'fail', from: weekAgo })) },
    {
      text: 'Which tokens do people who left still know?',
      href: hrefOf(base, queryOf({ event: 'token.rotation_required' })),
    },
  ]
}

// --- One record -----------------------------------------------------------------------------------------------------------

async function showRecord(deps: AuditPagesDeps, ctx: Context, place: Place): Promise<void> {
  const { db } = deps
  const found = await getRecord(db, place.scope, idIn(ctx, 'record_id'))
  const known = await knownFrom(db, place.organization.id, [{ ...found.record, seq: found.seq }])
  deps.frame.send(ctx, place.session, 'audit-record', place.framed, {
    ...recordView(found, known, place.base),
    organization: place.organization.name,
    back: place.base,
  })
}

/** What ids and traces are made of: anything else names nothing, and is asked of no store. */
function idIn(ctx: Context, name: string): string {
  const id = String(ctx.params[name])
  if (!/^[\x21-\x7e]{1,128}$/.test(id)) throw new AppError('not_found')
  return id
}

// --- The check --------------------------------------------------------------------------------------------------------------

/** One at a time of each chain: whoever asks while one runs hears of that one. */
function createChecking({ db, signer }: AuditPagesDeps): (chain: string) => Promise<CheckView> {
  const running = new Map<string, Promise<CheckView>>()
  return (chain) => {
    const known = running.get(chain)
    if (known !== undefined) return known
    const check = verifyRecent({ db, signer }, chain, MOST_CHECKED)
      .then(checkView)
      .finally(() => running.delete(chain))
    running.set(chain, check)
    return check
  }
}

// --- Files ------------------------------------------------------------------------------------------------------------------

async function sendExport(deps: AuditPagesDeps, ctx: Context, place: Place): Promise<void> {
  const { filter, problems } = readAuditQuery(ctx.URL.searchParams)
  const format = ctx.URL.searchParams.get('format') ?? 'ndjson'
  const [problem] = Object.values(problems)
  if (filter === undefined) throw new AppError('invalid_request', problem === undefined ? {} : { detail: problem })
  if (format !== 'csv' && format !== 'ndjson')
    throw new AppError('invalid_request', { detail: 'A file is csv or ndjson.' })
  sendFile(ctx, await fileOf(deps, place.scope, filter, { format, name: 'audit' }))
}

async function sendEvidence(deps: AuditPagesDeps, ctx: Context, place: Place): Promise<void> {
  const filter = { trace_id: idIn(ctx, 'trace_id') }
  const [any] = await listRecords(deps.db, place.scope, { filter, before: undefined, most: 1 })
  if (any === undefined) throw new AppError('not_found', { detail: 'Nothing is recorded of this trace.' })
  sendFile(ctx, await fileOf(deps, place.scope, filter, { format: 'ndjson', name: 'evidence' }))
}

function sendFile(ctx: Context, { body, headers }: Awaited<ReturnType<typeof fileOf>>): void {
  ctx.body = body
  ctx.set({ ...headers, 'Cache-Control': 'no-store' }) // after the body, which would set a type of its own
}

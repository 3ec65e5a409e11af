// The answer that holds a new value: once, in a page that leads on by links alone.
import type { Context } from 'koa'
import type { Secret } from '../crypto/secret.ts'
import { goodVersions, MOST_GOOD_VERSIONS } from '../workspace-tokens/rules.ts'
import type { IssuedToken } from '../workspace-tokens/service.ts'
import type { Frame } from './frame.ts'
import { cutPath } from './pages.ts'
import { placeView, type TokenPlace } from './token-places.ts'
import { atInstant } from './token-times.ts'
import { ENVIRONMENT_WORDS } from './token-views.ts'

interface ValueDeps {
  issuer: string
  frame: Frame
}

/** The answer to the form itself: no later one holds the value. */
export function showIssued(
  deps: ValueDeps,
  ctx: Context,
  place: TokenPlace,
  issued: IssuedToken,
  prefix: string,
): void {
  const { line, now, value } = issued
  const newest = line.versions[0]
  const about = {
    ...placeView(place),
    label: line.label,
    version: `v${line.version}`,
    tokenHref: `${place.base}/${line.id}`,
  }
  const good = goodVersions(line, line.versions, now)
  if (value === undefined) {
    showShownAlready(deps, ctx, place, about, good.length >= MOST_GOOD_VERSIONS)
    return
  }
  const older = good.at(-2)
  deps.frame.send(ctx, place.session, 'token-value', place.framed, {
    ...about,
    revokeHref: `${about.tokenHref}/revoke`,
    cut: cutPath(newest?.keyPrefix ?? ''),
    environment: place.isWorkspace ? ENVIRONMENT_WORDS[line.environment] : undefined,
    visible: newest?.keyPrefix ?? '',
    hiddenPart: value.reveal().slice(newest?.keyPrefix.length ?? 0),
    expires: newest?.expiresAt ? atInstant(newest.expiresAt) : undefined,
    older: older === undefined ? undefined : `v${older.version}`,
    cutover: line.cutover,
    environmentLines: environmentLines(deps.issuer, place, { prefix, value, version: line.version }),
  })
}

/** The form came a second time. A lost value is replaced by rotating; where two work, the lost one goes first. */
function showShownAlready(
  deps: ValueDeps,
  ctx: Context,
  place: TokenPlace,
  about: { version: string; tokenHref: string },
  isPending: boolean,
): void {
  const wayHref = isPending ? `${about.tokenHref}/versions/${about.version}/revoke` : `${about.tokenHref}/rotate`
  deps.frame.send(ctx, place.session, 'token-shown', place.framed, { ...about, isPending, wayHref })
}

function environmentLines(
  issuer: string,
  { environmentLine }: TokenPlace,
  made: { prefix: string; value: Secret; version: number },
): string {
  return [
    ['BASE_URL', `${issuer}/api/v1`],
    [environmentLine.name, environmentLine.value],
    ['TOKEN', made.value.reveal()],
    ['TOKEN_VERSION', `v${made.version}`],
    ['REQUEST_TIMEOUT_SEC', '45'],
  ]
    .map(([name, text]) => `${made.prefix}_${name}=${text}`)
    .join('\n')
}

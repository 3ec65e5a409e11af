// What an authorization request asks for, and whether the person has to be asked.
import { errors, interactionPolicy, type KoaContextWithOIDC } from 'oidc-provider'
import { provesReceiver } from '../clients/rules.ts'
import { beyond, cutToRole, isNothing, type Requested } from '../connections/rules.ts'
import type { ConnectionFacts } from '../connections/store.ts'
import type { ResourceServer } from '../resource-servers/rules.ts'
import type { ResourceServers } from '../resource-servers/service.ts'

/** The OpenID scopes, the claims and the API scopes of a request. */
export function requestedOf(ctx: KoaContextWithOIDC): Requested {
  const { oidc } = ctx
  const asked = oidc.requestParamScopes
  const resources = Object.entries(oidc.resourceServers ?? {}).map(([identifier, server]): [string, string[]] => {
    return [identifier, server.scope.split(' ').filter((scope) => asked.has(scope))]
  })
  return {
    openidScopes: [...oidc.requestParamOIDCScopes],
    claims: [...oidc.requestParamClaims],
    resources: Object.fromEntries(resources.filter(([, scopes]) => scopes.length > 0)),
  }
}

/** The resource servers that a request names, from our catalogue. */
export async function serversOf(resourceServers: ResourceServers, requested: Requested): Promise<ResourceServer[]> {
  const found = await Promise.all(
    Object.keys(requested.resources).map((identifier) => resourceServers.find(identifier)),
  )
  return found.filter((server) => server !== undefined)
}

/** Refuses a request that asks for nothing, and a preselected workspace that cannot be one. */
export function checkRequest(ctx: KoaContextWithOIDC, workspace: string | undefined): void {
  if (workspace !== undefined && !/^ws_[0-9a-z]{26}$/.test(workspace))
    throw new errors.InvalidRequest('workspace is not a workspace id')
  if (isNothing(requestedOf(ctx))) {
    throw new errors.InvalidScope(
      'nothing is asked for: name the API with the resource parameter and its scopes, or ask for openid',
      '',
    )
  }
}

/**
 * Sign-in as the library has it; then one question of our own, on one page: for which workspace, and with what. It is
 * asked always unless an exact https redirect proves who receives the answer and what is asked for was approved before.
 */
export function createInteractionPolicy(deps: {
  resourceServers: ResourceServers
  standing: (ctx: KoaContextWithOIDC) => ConnectionFacts | undefined
}) {
  const { Check, Prompt, base } = interactionPolicy
  const policy = base()
  policy.remove('consent')
  policy
    .get('login')
    ?.checks.add(
      new Check('sign_in_is_over', 'the sign-in no longer counts', 'login_required', (ctx) =>
        ctx.oidc.session?.accountId !== undefined && ctx.oidc.account === undefined
          ? Check.REQUEST_PROMPT
          : Check.NO_NEED_TO_PROMPT,
      ),
    )
  policy.add(
    new Prompt(
      { name: 'consent', requestable: true },
      async (ctx) => ({ requested: requestedOf(ctx) }),
      new Check('approval_missing', 'a person has to approve this for a workspace', 'consent_required', async (ctx) => {
        if (ctx.oidc.result?.consent !== undefined) return Check.NO_NEED_TO_PROMPT
        const standing = deps.standing(ctx)
        const { redirect_uri: redirectUri } = ctx.oidc.params ?? {}
        if (standing?.role === undefined || typeof redirectUri !== 'string' || !provesReceiver(redirectUri))
          return Check.REQUEST_PROMPT
        const requested = requestedOf(ctx)
        const allowed = cutToRole(requested, await serversOf(deps.resourceServers, requested), standing.role)
        return isNothing(beyond(allowed, standing.approved)) ? Check.NO_NEED_TO_PROMPT : Check.REQUEST_PROMPT
      }),
    ),
  )
  return policy
}

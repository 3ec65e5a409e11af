// Who is calling, and with what: read from a JWT's claims or from an introspection response, which say the same.

export type Environment = 'production' | 'staging' | 'development'

/** Who is calling, and with what. */
export interface Access {
  /** The person of a connection, the client for client credentials, the `key_…` of a token. */
  subject: string
  clientId: string | undefined
  workspaceId: string
  organizationId: string
  environment: Environment
  scopes: ReadonlySet<string>
  /** `v3` */
  tokenVersion: string
  /** `con_…` or `key_…` */
  credentialId: string
  /** Undefined for a token without an expiry. */
  expiresAt: Date | undefined
  kind: 'jwt' | 'workspace_token'
}

/** Undefined when a member is missing or malformed. */
export function readAccess(claims: Record<string, unknown>, kind: Access['kind']): Access | undefined {
  const subject = textOf(claims.sub)
  const workspaceId = textOf(claims.workspace_id)
  const organizationId = textOf(claims.organization_id)
  const credentialId = textOf(claims.credential_id)
  const tokenVersion = textOf(claims.token_version)
  const { environment, exp } = claims
  const isWhole =
    subject !== undefined &&
    workspaceId !== undefined &&
    organizationId !== undefined &&
    credentialId !== undefined &&
    tokenVersion !== undefined &&
    /^v[1-9]\d{0,8}$/.test(tokenVersion) &&
    (environment === 'production' || environment === 'staging' || environment === 'development')
  if (!isWhole) return undefined
  return {
    subject,
    clientId: textOf(claims.client_id),
    workspaceId,
    organizationId,
    environment,
    scopes: new Set(textOf(claims.scope)?.split(' ') ?? []),
    tokenVersion,
    credentialId,
    expiresAt: typeof exp === 'number' ? new Date(exp * 1000) : undefined,
    kind,
  }
}

function textOf(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined
}

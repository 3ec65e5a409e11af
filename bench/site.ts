// What a scenario needs to know of a running server, whoever made it: where its endpoints are and whom it knows.
import type { HttpConnection } from './http-client.ts'

export interface Credentials {
  readonly clientId: string
  readonly clientSecret: string
}

/** Paths with their leading slash: the generator connects to a loopback port, whatever origin the server calls itself. */
export interface Paths {
  readonly authorize: string
  readonly token: string
  readonly introspect: string
  readonly revoke: string
  readonly discovery: string
  readonly jwks: string
}

/** A browser's side of a signed-in session. */
export interface Session {
  /** The value of its Cookie header. */
  readonly cookie: string
  /** Sent to the authorization endpoint besides the standard's own: what this person's requests ask for. */
  readonly parameters: Readonly<Record<string, string>>
}

/** Tokens that people paste into tools, as far as a server has them. */
export interface Pasted {
  /** Where, and by whom, a server is asked whether one is good; by nobody where it does not ask who asks. */
  readonly verify: { readonly path: string; readonly asker: Credentials | undefined }
  /** Makes one, under a label that is not in use. Not measured. */
  make(http: HttpConnection, label: string): Promise<string>
}

export interface Site {
  readonly port: number
  /** Sent with every request: a server behind a proxy is told of its origin by these. */
  readonly headers: Readonly<Record<string, string>>
  readonly paths: Paths
  /** Confidential, client_secret_basic: authorization_code and refresh_token. */
  readonly client: Credentials
  /** Confidential, client_secret_basic: client_credentials. */
  readonly machine: Credentials
  /** Who may introspect what: people's opaque tokens, JWTs for the API, and what issue + revoke issues. */
  readonly introspectors: { readonly opaque: Credentials; readonly jwt: Credentials; readonly issued: Credentials }
  /** Undefined for a server that refuses the scenarios with them. */
  readonly pasted: Pasted | undefined
  readonly redirectUri: string
  /** The API that access tokens are for, and its one scope. */
  readonly resource: string
  readonly scope: string
  /** The client_credentials request of issue + revoke, where it asks for a token that this server can revoke. */
  readonly issueParameters: Readonly<Record<string, string>>
  /** Signs one of the accounts in, and approves the client for all that scenarios ask for. Not measured. */
  signIn(http: HttpConnection, account: number): Promise<Session>
}

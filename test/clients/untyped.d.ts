// The client libraries that come without types: as far as the tests use them.
declare module 'simple-oauth2' {
  interface Config {
    client: { id: string; secret: string }
    auth: { tokenHost: string; tokenPath: string; revokePath: string; authorizePath?: string }
    options?: { authorizationMethod?: 'header' | 'body' }
  }
  interface Token {
    access_token: string
    refresh_token?: string
    id_token?: string
    scope?: string
    expires_in: number
  }
  interface AccessToken {
    readonly token: Token
    expired(windowSeconds?: number): boolean
    refresh(parameters?: Record<string, string>): Promise<AccessToken>
    revoke(type: 'access_token' | 'refresh_token'): Promise<unknown>
    revokeAll(): Promise<void>
  }
  export class AuthorizationCode {
    constructor(config: Config)
    authorizeURL(parameters: Record<string, string>): string
    getToken(parameters: Record<string, string>): Promise<AccessToken>
  }
  export class ClientCredentials {
    constructor(config: Config)
    getToken(parameters: Record<string, string>): Promise<AccessToken>
  }
}

declare module 'passport' {
  import type { RequestHandler } from 'express'
  export class Passport {
    use(strategy: object): this
    authenticate(name: string, options: { session: false }): RequestHandler
  }
}

declare module 'passport-oauth2' {
  type Verified = (error: unknown, user?: object) => void
  interface Options {
    authorizationURL: string
    tokenURL: string
    clientID: string
    clientSecret: string
    callbackURL: string
    scope: string[]
    state: boolean
    pkce?: boolean
  }
  export class Strategy {
    constructor(
      options: Options,
      verify: (accessToken: string, refreshToken: string, parameters: object, profile: object, done: Verified) => void,
    )
  }
}

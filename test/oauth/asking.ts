// Authorization requests that differ from a good one in what a test names, and what became of them.
import type { Page, UserAgent } from '../support/user-agent.ts'
import { API, type Pkce, type TestClient } from '../support/world.ts'

/** Undefined leaves a parameter out, a list gives it more than once. */
export type Changes = Record<string, string | string[] | undefined>

export const PKCE: Pkce = {
  verifier: 'dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk',
  challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM', // RFC 7636, appendix B
}

export function parametersOf(client: TestClient, changes: Changes = {}): URLSearchParams {
  const good = {
    client_id: client.id,
    response_type: 'code',
    redirect_uri: client.redirectUri,
    scope: 'openid traces:read',
    resource: API,
    state: 'st4te',
    code_challenge: PKCE.challenge,
    code_challenge_method: 'S256',
  }
  const all = Object.entries({ ...good, ...changes })
  return new URLSearchParams(
    all.flatMap(([name, value]) =>
      value === undefined ? [] : [value].flat().map((text): [string, string] => [name, text]),
    ),
  )
}

export function ask(agent: UserAgent, client: TestClient, changes: Changes = {}): Promise<Page> {
  return agent.open(`/authorize?${parametersOf(client, changes)}`)
}

/** What an answer at the redirect URI says. */
export function answerOf(page: Page): Record<string, string> {
  return Object.fromEntries(page.url.searchParams)
}

/** The heading of a page. */
export function headingOf(page: Page): string {
  return (/<h1>(.*?)<\/h1>/s.exec(page.html)?.[1] ?? '').replace(/<[^>]+>/g, '')
}

// Which redirect URIs a client may register, and what each kind proves about it (RFC 8252 §7, RFC 9700 §2.1). Pure.

/** Schemes that a browser runs or reads instead of handing them to an app. */
const NEVER = new Set([
  'javascript:',
  'data:',
  'vbscript:',
  'blob:',
  'file:',
  'about:',
  'view-source:',
  'ws:',
  'wss:',
  'ftp:',
])
const LOOPBACK_HOSTS = new Set(['127.0.0.1', '[::1]', 'localhost'])
const MOST_CHARACTERS = 2_000

/** What is wrong with a redirect URI, in a sentence; undefined when it may be registered. */
export function redirectUriProblem(uri: string): string | undefined {
  const url = URL.parse(uri)
  if (url === null || /[\s\p{C}\\]/u.test(uri) || uri.length > MOST_CHARACTERS)
    return `${quote(uri)} is not an absolute URI`
  if (uri.includes('#')) return `${quote(uri)} has a fragment, which a redirect URI must not have`
  if (uri.includes('*')) return `${quote(uri)} has a wildcard: register each address in full`
  if (url.username !== '' || url.password !== '') return `${quote(uri)} holds a user name or password`
  if (NEVER.has(url.protocol)) return `${quote(uri)} has a scheme that no app owns`
  if (url.protocol === 'https:') return undefined
  if (url.protocol === 'http:') {
    return isLoopback(uri) ? undefined : `${quote(uri)} must be https, or http on 127.0.0.1, [::1] or localhost`
  }
  return url.protocol.includes('.')
    ? undefined
    : `${quote(uri)} needs a scheme in reverse domain form, such as com.example.app:/callback`
}

/** What is wrong with the form of a back-channel logout URI (§2.2); where it may lead is looked at besides. */
export function logoutUriProblem(uri: string): string | undefined {
  if (URL.parse(uri) === null || /[\s\p{C}\\]/u.test(uri) || uri.length > MOST_CHARACTERS)
    return `${quote(uri)} is not an absolute URI`
  return uri.includes('#') ? `${quote(uri)} has a fragment, which a logout URI must not have` : undefined
}

export function isLoopback(uri: string): boolean {
  const url = URL.parse(uri)
  return url?.protocol === 'http:' && LOOPBACK_HOSTS.has(url.hostname)
}

/** Only an exact https redirect proves who gets the answer: anyone may listen on a loopback port or claim a scheme. */
export function provesReceiver(redirectUri: string): boolean {
  return redirectUri.startsWith('https://')
}

/** The library's word: `native` clients may use loopback addresses with any port, and schemes of their own. */
export function applicationType(redirectUris: readonly string[]): 'native' | 'web' {
  return redirectUris.some((uri) => !uri.startsWith('https:')) ? 'native' : 'web'
}

export function quote(uri: string): string {
  return JSON.stringify(uri.slice(0, 200))
}

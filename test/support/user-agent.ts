// A browser without scripts: keeps cookies, follows redirects within the server, reads and sends forms.

interface Cookie {
  name: string
  value: string
  path: string
}

export interface Page {
  status: number
  url: URL
  html: string
  headers: Headers
}

export interface UserAgent {
  /** One request, redirects not followed. */
  request(target: string | URL, init?: RequestInit): Promise<Response>
  /** Follows redirects until a page of this server, or until they lead elsewhere: then that address is the page's. */
  open(target: string | URL, init?: RequestInit): Promise<Page>
  /** Sends the form of a page whose action ends so, with its hidden fields and these. */
  submit(page: Page, action: string, fields: Record<string, string>): Promise<Page>
  cookies(): readonly Cookie[]
  clearCookies(): void
}

const MOST_REDIRECTS = 15

/** @param isLeaving tells addresses that belong to a client; they are not requested */
export function createUserAgent(
  origin: string,
  isLeaving: (url: URL) => boolean = (url) => url.origin !== origin,
): UserAgent {
  let jar: Cookie[] = []

  async function request(target: string | URL, init: RequestInit = {}): Promise<Response> {
    const url = new URL(target, origin)
    const headers = new Headers(init.headers)
    const cookie = jar.filter(({ path }) => url.pathname === path || url.pathname.startsWith(path.replace(/\/?$/, '/')))
    if (cookie.length > 0) headers.set('cookie', cookie.map(({ name, value }) => `${name}=${value}`).join('; '))
    const response = await fetch(url, { ...init, headers, redirect: 'manual' })
    for (const line of response.headers.getSetCookie()) keep(line)
    return response
  }

  function keep(line: string): void {
    const [pair = '', ...attributes] = line.split(';').map((part) => part.trim())
    const [name = '', ...rest] = pair.split('=')
    const value = rest.join('=')
    const path = attributes.find((attribute) => /^path=/i.test(attribute))?.slice(5) ?? '/'
    jar = jar.filter((cookie) => cookie.name !== name || cookie.path !== path)
    if (value !== '') jar.push({ name, value, path })
  }

  async function open(target: string | URL, init?: RequestInit): Promise<Page> {
    let url = new URL(target, origin)
    let response = await request(url, init)
    for (let count = 0; count < MOST_REDIRECTS; count++) {
      const location = response.headers.get('location')
      if (location === null)
        return { status: response.status, url, html: await response.text(), headers: response.headers }
      await response.arrayBuffer()
      url = new URL(location, url)
      if (isLeaving(url)) return { status: response.status, url, html: '', headers: response.headers }
      response = await request(url)
    }
    throw new Error(`too many redirects, the last to ${url.pathname}`)
  }

  return {
    request,
    open,
    submit(page, action, fields) {
      const form = formOf(page, action)
      const body = new URLSearchParams({ ...form.hidden, ...fields })
      return open(new URL(form.action, page.url), {
        method: 'POST',
        body,
        headers: { origin, 'sec-fetch-site': 'same-origin' },
      })
    },
    cookies: () => jar,
    clearCookies() {
      jar = []
    },
  }
}

/** The form whose action ends so. @throws {Error} with the page's title when there is none */
export function formOf(page: Page, action: string): { action: string; hidden: Record<string, string> } {
  const forms = page.html.match(/<form[^>]*>[\s\S]*?<\/form>/g) ?? []
  for (const form of forms) {
    const target = attribute(form, 'action')
    if (target === undefined || !target.endsWith(action)) continue
    const hidden = (form.match(/<input[^>]*type="hidden"[^>]*>/g) ?? []).map((input): [string, string] => [
      attribute(input, 'name') ?? '',
      attribute(input, 'value') ?? '',
    ])
    return { action: target, hidden: Object.fromEntries(hidden) }
  }
  throw new Error(
    `no form "${action}" on ${page.url.pathname} (${page.status} ${/<title>(.*?)<\/title>/.exec(page.html)?.[1]})`,
  )
}

function attribute(tag: string, name: string): string | undefined {
  const value = new RegExp(`\\b${name}="([^"]*)"`).exec(tag)?.[1]
  return value
    ?.replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&')
}

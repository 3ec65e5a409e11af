// What people's pages must withstand: threats H (OWASP ASVS 3 and 7, RFC 9700 §4.7 and §4.16).
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { answerOf, ask, headingOf, parametersOf } from '../oauth/asking.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { formOf, type Page, type UserAgent } from '../support/user-agent.ts'
import { approve, makeClient, makeWorld, PASSWORD, refresh, signIn, type World, walk } from '../support/world.ts'
import { requestHead, sendRaw } from './raw.ts'

let server: TestServer
let world: World

beforeAll(async () => {
  server = await startServer({ environment: { LATCHKEY_TOUR: 'on' } })
  world = await makeWorld(server)
})
afterAll(() => server?.close())

/** A person nobody has tried to sign in as yet: tries are counted. */
async function newPerson(): Promise<string> {
  const email = `p-${randomBytes(6).toString('hex')}@example.com`
  await server.run('user create', { email, name: 'Person', password: PASSWORD })
  await server.run('member add', { user: email, workspace: world.workspaceId, role: 'member' })
  return email
}

interface Post {
  path: string
  fields: Record<string, string>
}

/** Sends a form as a page of this or another site would. */
function send(agent: UserAgent, { path, fields }: Post, headers: Record<string, string> = {}, type?: string) {
  const body = type === undefined ? new URLSearchParams(fields) : JSON.stringify(fields)
  return agent.request(path, {
    method: 'POST',
    body,
    headers: type === undefined ? headers : { ...headers, 'content-type': type },
  })
}

const csrfOf = (page: Page, action: string) => formOf(page, action).hidden.csrf ?? ''

/** Each form of ours, on a page that waits for it, with everything right. */
const FORMS: Record<string, (agent: UserAgent) => Promise<Post>> = {
  'sign-in': async (agent) => {
    const page = await ask(agent, world.client)
    const fields = { email: await newPerson(), password: PASSWORD, csrf: csrfOf(page, '/sign-in') }
    return { path: `${page.url.pathname}/sign-in`, fields }
  },
  consent: async (agent) => {
    const page = await signIn(agent, await ask(agent, world.client), await newPerson())
    const fields = { ...formOf(page, '/consent').hidden, workspace: world.workspaceId, answer: 'approve' }
    return { path: `${page.url.pathname}/consent`, fields }
  },
  switch: async (agent) => {
    const page = await signIn(agent, await ask(agent, world.client), await newPerson())
    return { path: `${page.url.pathname}/switch`, fields: { csrf: csrfOf(page, '/switch') } }
  },
  'the tour’s first step': async (agent) => {
    const page = await agent.open('/try')
    return { path: '/try/connect', fields: { csrf: csrfOf(page, '/connect') } }
  },
}

describe.each(Object.keys(FORMS))('the form %s', (name) => {
  const prepare = async () => {
    const agent = server.userAgent()
    const form = await FORMS[name]?.(agent)
    if (form === undefined) throw new Error('no such form')
    return { agent, form }
  }

  it('is taken from our own page, and from nowhere else', async () => {
    const { agent, form } = await prepare()
    const own = { origin: server.origin }
    const foreign: Array<[string, Promise<Response>]> = [
      ['cross-site', send(agent, form, { ...own, 'sec-fetch-site': 'cross-site' })],
      ['same-site', send(agent, form, { ...own, 'sec-fetch-site': 'same-site' })],
      ['no site', send(agent, form, { 'sec-fetch-site': 'none' })],
      ['another origin', send(agent, form, { origin: 'https://evil.example' })],
      ['no origin that can be named', send(agent, form, { origin: 'null' })],
      ['our host over another scheme', send(agent, form, { origin: server.origin.replace('http:', 'https:') })],
      ['our host with more behind it', send(agent, form, { origin: `${server.origin}.evil.example` })],
      ['without its token', send(agent, { ...form, fields: { ...form.fields, csrf: '' } }, own)],
      ['with a token of no form', send(agent, { ...form, fields: { ...form.fields, csrf: 'x'.repeat(43) } }, own)],
      ['as text', send(agent, form, own, 'text/plain')],
      ['as JSON', send(agent, form, own, 'application/json')],
    ]
    for (const [what, sent] of foreign) {
      const response = await sent
      expect([what, response.status]).toEqual([what, expect.toSatisfy((status) => status === 403 || status === 415)])
      expect([what, response.headers.get('location')]).toEqual([what, null])
      expect(response.headers.getSetCookie().filter((line) => /session|device/.test(line))).toEqual([])
    }
    expect((await send(agent, form, { ...own, 'sec-fetch-site': 'same-origin' })).status).toBe(303)
  })

  it('does nothing for a GET, a HEAD or another method', async () => {
    const { agent, form } = await prepare()
    const before = agent.cookies().map(({ value }) => value)
    for (const method of ['GET', 'HEAD', 'PUT', 'DELETE', 'PATCH']) {
      const response = await agent.request(`${form.path}?${new URLSearchParams(form.fields)}`, { method })
      const isReload = form.path.startsWith('/interaction/') && /GET|HEAD/.test(method)
      expect([method, response.status]).toEqual([method, isReload ? 303 : 405])
      if (isReload)
        expect(response.headers.get('location')).toBe(form.path.replace(/\/[\w-]+$/, '')) // the page again
      else expect(response.headers.get('allow')).toContain('POST')
    }
    expect(agent.cookies().map(({ value }) => value)).toEqual(before)
    const disguised = { ...form, fields: { ...form.fields, _method: 'DELETE' } }
    expect((await send(agent, disguised)).status).toBe(303)
  })

  it('is not taken with the token of another page, nor with a field given twice', async () => {
    const { agent, form } = await prepare()
    const other = await prepare()
    const swapped = { ...form, fields: { ...form.fields, csrf: other.form.fields.csrf ?? '' } }
    expect((await send(agent, swapped)).status).toBe(403)
    const body = `${new URLSearchParams(form.fields)}&csrf=${form.fields.csrf}`
    const type = { 'content-type': 'application/x-www-form-urlencoded' }
    expect((await agent.request(form.path, { method: 'POST', body, headers: type })).status).toBe(400)
  })
})

describe('a page belongs to the browser that it was opened in', () => {
  it('another browser finds it expired, also with a page of its own and with the other’s token', async () => {
    const victim = server.userAgent()
    const page = await ask(victim, world.client)
    const attacker = server.userAgent()
    expect((await attacker.open(page.url.pathname)).status).toBe(400)
    const own = await ask(attacker, world.client)
    const opened = await attacker.open(page.url.pathname)
    expect([opened.status, headingOf(opened)]).toEqual([400, 'This page is no longer open'])
    for (const csrf of [csrfOf(page, '/sign-in'), csrfOf(own, '/sign-in')]) {
      const fields = { email: world.email, password: PASSWORD, csrf }
      const sent = await send(attacker, { path: `${page.url.pathname}/sign-in`, fields }, { origin: server.origin })
      expect(sent.status).toBe(400)
    }
    expect(headingOf(await victim.open(page.url.pathname))).toBe('Sign in')
  })

  it('a request that an attacker began is not approved in the browser of another', async () => {
    const attacker = server.userAgent()
    const begun = await ask(attacker, world.client)
    const victim = server.userAgent()
    const theirs = await signIn(victim, await ask(victim, world.client), await newPerson())
    const fields = { ...formOf(theirs, '/consent').hidden, workspace: world.workspaceId, answer: 'approve' }
    const sent = await send(victim, { path: `${begun.url.pathname}/consent`, fields }, { origin: server.origin })
    expect(sent.status).toBe(400)
    const resumed = await attacker.open(`/authorize/${begun.url.pathname.split('/').at(-1)}`)
    expect(answerOf(resumed)).not.toHaveProperty('code')
  })

  it('two tabs go their own ways', async () => {
    const agent = server.userAgent()
    const first = await ask(agent, world.client, { state: 'first' })
    const second = await ask(agent, world.client, { state: 'second' })
    expect(first.url.pathname).not.toBe(second.url.pathname)
    const email = await newPerson()
    const ended = await approve(agent, await signIn(agent, second, email), world.workspaceId)
    expect(answerOf(ended)).toMatchObject({ state: 'second', code: expect.any(String) })
    const after = await signIn(agent, first, email)
    expect(answerOf(after)).toMatchObject({ state: 'first', code: expect.any(String) })
  })

  it('is closed once it has been finished', async () => {
    const agent = server.userAgent()
    const page = await signIn(agent, await ask(agent, world.client), await newPerson())
    await approve(agent, page, world.workspaceId)
    const again = await agent.open(page.url.pathname)
    expect([again.status, headingOf(again)]).toEqual([400, 'This page is no longer open'])
    const fields = { ...formOf(page, '/consent').hidden, workspace: world.workspaceId, answer: 'approve' }
    const replayed = await send(agent, { path: `${page.url.pathname}/consent`, fields }, { origin: server.origin })
    expect(replayed.status).toBe(400)
    const resumed = await agent.open(`/authorize/${page.url.pathname.split('/').at(-1)}`)
    expect(answerOf(resumed)).not.toHaveProperty('code')
  })

  it.each(['abc', 'A'.repeat(43), '__proto__', '%00', '..%2f..', 'x'.repeat(2_000)])(
    'none is found by guessing: %s',
    async (uid) => {
      for (const end of ['', '/', '/sign-in', '/consent', '/switch']) {
        const isForm = end.length > 1
        const init = isForm ? { method: 'POST', body: new URLSearchParams({ csrf: 'x' }) } : {}
        const response = await fetch(`${server.origin}/interaction/${uid}${end}`, { ...init, redirect: 'manual' })
        expect([400, 404]).toContain(response.status)
        expect(response.headers.get('content-security-policy')).toContain("frame-ancestors 'none'")
      }
    },
  )

  it('consent is not given on the page for signing in', async () => {
    const agent = server.userAgent()
    const page = await ask(agent, world.client)
    const fields = { csrf: csrfOf(page, '/sign-in'), workspace: world.workspaceId, answer: 'approve', shown: '' }
    const sent = await send(agent, { path: `${page.url.pathname}/consent`, fields }, { origin: server.origin })
    expect(sent.status).toBe(400)
  })

  it('what was not shown is not approved', async () => {
    const agent = server.userAgent()
    const page = await signIn(agent, await ask(agent, world.client), await newPerson())
    const changed = await agent.submit(page, '/consent', {
      shown: 'x',
      workspace: world.workspaceId,
      answer: 'approve',
    })
    expect(changed.html).toContain('What this app asks for has changed')
    expect(answerOf(changed)).not.toHaveProperty('code')
  })
})

describe('the session', () => {
  const sessionOf = (agent: UserAgent, name = 'latchkey_session') =>
    agent.cookies().find((cookie) => cookie.name === name)?.value

  it('has a new id after signing in, and after signing in again; the old ones are nobody’s', async () => {
    const agent = server.userAgent()
    const email = await newPerson()
    const page = await ask(agent, world.client)
    const before = [...agent.cookies()]
    await approve(agent, await signIn(agent, page, email), world.workspaceId)
    const first = [...agent.cookies()]
    const signedIn = sessionOf(agent)
    expect(signedIn).toMatch(/^[\w-]{40,}$/)
    expect(before.map(({ value }) => value)).not.toContain(signedIn)
    await signIn(agent, await ask(agent, world.client, { prompt: 'login' }), email)
    expect(sessionOf(agent)).not.toBe(signedIn)
    for (const old of [before, first]) {
      const query = parametersOf(world.client, { prompt: 'none' })
      const cookie = old.map(({ name, value }) => `${name}=${value}`).join('; ')
      const response = await fetch(`${server.origin}/authorize?${query}`, { headers: { cookie }, redirect: 'manual' })
      expect(new URL(response.headers.get('location') ?? '').searchParams.get('error')).toBe('login_required')
    }
  })

  it('that an attacker set is not the one that a person signs in to', async () => {
    const attacker = server.userAgent()
    const page = await ask(attacker, world.client)
    const planted = attacker
      .cookies()
      .map(({ name, value }) => `${name}=${value}`)
      .join('; ')
    const csrf = csrfOf(page, '/sign-in')
    const email = await newPerson()
    const signedIn = await fetch(`${server.origin}${page.url.pathname}/sign-in`, {
      method: 'POST',
      headers: { cookie: planted, origin: server.origin },
      body: new URLSearchParams({ email, password: PASSWORD, csrf }),
      redirect: 'manual',
    })
    const resumed = await fetch(new URL(signedIn.headers.get('location') ?? '', server.origin), {
      headers: { cookie: planted },
      redirect: 'manual',
    })
    expect(resumed.headers.getSetCookie().join('\n')).toMatch(/latchkey_session=[\w-]+/)
    expect(answerOf(await ask(attacker, world.client, { prompt: 'none' }))).toMatchObject({ error: 'login_required' })
  })

  it.each(['latchkey_session', 'latchkey_interaction', 'latchkey_resume', 'latchkey_device', 'latchkey_try'])(
    'a forged cookie %s counts for nothing',
    async (name) => {
      const real = server.userAgent()
      await walk(real, { ...world, email: await newPerson() }, `/authorize?${parametersOf(world.client)}`)
      for (const value of [sessionOf(real) ?? '', 'x', '', '__proto__', '%00']) {
        const cookie = `${name}=${value}; ${name}.sig=${'A'.repeat(27)}`
        const query = parametersOf(world.client, { prompt: 'none' })
        const response = await fetch(`${server.origin}/authorize?${query}`, { headers: { cookie }, redirect: 'manual' })
        expect(new URL(response.headers.get('location') ?? '').searchParams.get('error')).toBe('login_required')
      }
    },
  )

  it('ends when the person gets a new password, and when they are suspended', async () => {
    for (const change of ['password', 'suspension']) {
      const agent = server.userAgent()
      const email = await newPerson()
      await approve(agent, await signIn(agent, await ask(agent, world.client), email), world.workspaceId)
      expect(answerOf(await ask(agent, world.client, { prompt: 'none' }))).toHaveProperty('code')
      if (change === 'password') {
        await new Promise((resolve) => setTimeout(resolve, 1_000)) // sessions begin at whole seconds
        await server.run('user set-password', { user: email, password: 'another long enough password' })
      } else {
        const row = server.db.updateTable('users').set({ suspended_at: new Date() })
        await row.where('email_key', '=', email).execute()
      }
      const answer = answerOf(await ask(agent, world.client, { prompt: 'none' }))
      expect([change, answer.error]).toEqual([change, 'login_required'])
    }
  })
})

describe('cookies', () => {
  /** Set-Cookie lines of the whole way, by name. */
  async function cookiesOf(of: TestServer, local: string, host: string): Promise<Map<string, string>> {
    const person = await makeWorld(of)
    const jar = new Map<string, string>()
    const lines = new Map<string, string>()
    const call = async (method: string, path: string, form = '') => {
      const headers: Record<string, string> = {
        Host: host,
        Cookie: [...jar].map(([name, value]) => `${name}=${value}`).join('; '),
      }
      if (form !== '') {
        headers['Content-Type'] = 'application/x-www-form-urlencoded'
        headers['Content-Length'] = String(form.length)
      }
      const answer = await sendRaw(local, requestHead(method, path, headers) + form)
      for (const line of answer.head.filter((text) => /^set-cookie: /i.test(text)).map((text) => text.slice(12))) {
        const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(line) ?? []
        lines.set(name, line)
        if (value !== '') jar.set(name, value)
      }
      const location = answer.head.find((text) => /^location: /i.test(text))?.slice(10) ?? ''
      return { body: answer.body, path: location.replace(/^https?:\/\/[^/]+/, '') }
    }
    const start = await call('GET', `/authorize?${parametersOf(person.client, { prompt: 'consent' })}`)
    const page = await call('GET', start.path)
    const csrf = /name="csrf" value="([^"]+)"/.exec(page.body)?.[1] ?? ''
    const form = String(new URLSearchParams({ csrf, email: person.email, password: PASSWORD }))
    const signedIn = await call('POST', `${start.path}/sign-in`, form)
    await call('GET', signedIn.path)
    return lines
  }
  const described = (lines: Map<string, string>) =>
    Object.fromEntries(
      [...lines].map(([name, line]) => [
        name,
        line
          .split('; ')
          .slice(1)
          .filter((part) => !/^(expires|max-age)=/i.test(part)),
      ]),
    )

  it('of an https issuer are Secure, HttpOnly, SameSite, without a Domain, and the session’s name begins with __Host-', async () => {
    const secure = await startServer({ environment: { LATCHKEY_ISSUER: 'https://id.example.com' } })
    try {
      const address = secure.app.server.address()
      if (address === null || typeof address === 'string') throw new Error('not listening')
      const lines = await cookiesOf(secure, `http://127.0.0.1:${address.port}`, 'id.example.com')
      const attributes = described(lines)
      expect(
        Object.keys(attributes)
          .filter((name) => !name.endsWith('.sig'))
          .sort(),
      ).toEqual(['__Host-latchkey', 'latchkey_device', 'latchkey_interaction', 'latchkey_resume'])
      for (const [name, found] of Object.entries(attributes)) {
        const lower = found.map((attribute) => attribute.toLowerCase())
        expect([name, lower]).toEqual([name, expect.arrayContaining(['secure', 'httponly', 'samesite=lax'])])
        expect([name, lower.some((attribute) => attribute.startsWith('domain'))]).toEqual([name, false])
      }
      expect(attributes['__Host-latchkey']).toContain('path=/')
      expect(attributes.latchkey_interaction?.join()).toMatch(/path=\/interaction\/[\w-]+/)
      expect(attributes.latchkey_resume?.join()).toMatch(/path=\/authorize\/[\w-]+/)
    } finally {
      await secure.close()
    }
  })

  it('of an http issuer are HttpOnly and SameSite; every one is signed', async () => {
    const attributes = described(await cookiesOf(server, server.origin, new URL(server.origin).host))
    const names = Object.keys(attributes)
    expect(names).toContain('latchkey_session')
    for (const name of names.filter((text) => !text.endsWith('.sig'))) expect(names).toContain(`${name}.sig`)
    for (const found of Object.values(attributes)) {
      expect(found.map((attribute) => attribute.toLowerCase())).toEqual(
        expect.arrayContaining(['httponly', 'samesite=lax']),
      )
    }
  })
})

describe('html', () => {
  it('is framed by nobody, kept by no cache, and runs no script that is not ours, on every page', async () => {
    const agent = server.userAgent()
    const html = { accept: 'text/html' }
    const pages: Record<string, Promise<Page>> = {
      home: agent.open('/'),
      'sign-in': ask(agent, world.client),
      'an unknown client': agent.open('/authorize?client_id=nobody'),
      'an expired page': agent.open('/interaction/abc'),
      'nothing here': agent.open('/nothing', { headers: html }),
      logout: agent.open('/logout?client_id=nobody'),
      'a wrong method': agent.open('/authorize', { method: 'PUT' }),
      tour: agent.open('/try'),
    }
    for (const [name, opening] of Object.entries(pages)) {
      const { headers } = await opening
      expect([name, headers.get('content-type')]).toEqual([name, 'text/html; charset=utf-8'])
      const policy = headers.get('content-security-policy') ?? ''
      for (const directive of ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "script-src 'self'"])
        expect([name, policy]).toEqual([name, expect.stringContaining(directive)])
      expect([name, policy]).toEqual([name, expect.not.stringMatching(/unsafe|\*|data:|https?:(?!\/\/)/)])
      expect([name, headers.get('x-frame-options')]).toEqual([name, 'DENY'])
      expect([name, headers.get('x-content-type-options')]).toEqual([name, 'nosniff'])
      expect([name, headers.get('cache-control')]).toEqual([name, 'no-store'])
      expect([name, headers.get('referrer-policy')]).toEqual([name, 'same-origin'])
    }
  })

  const EVIL = [
    '<img src=x onerror=alert(1)>',
    '"><script>alert(1)</script>',
    "'onmouseover='alert(1)",
    '{{617283*4}}<%= 617283*4 %>',
  ]

  it.each(EVIL)('shows %s as text where it is a client’s name', async (name) => {
    const client = await makeClient(server, { name })
    const agent = server.userAgent()
    const signInPage = await ask(agent, client)
    const consentPage = await signIn(agent, signInPage, await newPerson())
    const logoutPage = await agent.open(`/logout?client_id=${client.id}`)
    const escaped = name.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
    const shown = escaped.replaceAll('"', '&quot;').replaceAll("'", '&#39;')
    for (const { html } of [signInPage, consentPage, logoutPage]) {
      expect(html).not.toContain(name)
      expect(html).toContain(shown)
      expect(html).not.toContain('2469132')
    }
  })

  it.each(EVIL)('shows %s as text, or not at all, where it came with a request', async (text) => {
    const agent = server.userAgent()
    const encoded = encodeURIComponent(text)
    const targets = [
      `/authorize?client_id=${encoded}`,
      `/authorize?${parametersOf(world.client, { redirect_uri: `https://evil.example/${text}` })}`,
      `/authorize?${parametersOf(world.client, { redirect_uri: undefined, scope: text, response_type: text })}`,
      `/authorize?${parametersOf(world.client, { login_hint: text, state: text, ui_locales: text })}`,
      `/authorize?error=${encoded}&error_description=${encoded}&error_hint=${encoded}`,
      `/logout?id_token_hint=${encoded}&state=${encoded}&post_logout_redirect_uri=${encoded}`,
      `/logout/success?client_id=${encoded}`,
      `/${encoded}`,
      `/try/callback?error=${encoded}&state=${encoded}`,
    ]
    for (const target of targets) {
      const page = await agent.open(target, { headers: { accept: 'text/html' } })
      expect([target, page.html.includes(text)]).toEqual([target, false])
      expect(page.status).toBeLessThan(500)
    }
  })

  it('shows an address that a person typed as text', async () => {
    const agent = server.userAgent()
    const page = await signIn(agent, await ask(agent, world.client), '"><script>alert(1)</script>@x', 'wrong')
    expect(page.html).toContain('value="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;@x"')
    expect(page.html).not.toContain('<script>alert')
  })

  it('is given to no other origin', async () => {
    const agent = server.userAgent()
    for (const origin of ['https://evil.example', 'null', 'https://app.example.com']) {
      for (const path of ['/', '/try', `/authorize?${parametersOf(world.client)}`, '/logout']) {
        const { headers } = await agent.request(path, { headers: { origin } })
        expect([path, headers.get('access-control-allow-origin')]).toEqual([path, null])
        expect(headers.get('access-control-allow-credentials')).toBeNull()
      }
    }
  })
})

describe('other origins at the token endpoint', () => {
  const allowedFor = async (clientId: string, origin: string) => {
    const body = new URLSearchParams({ client_id: clientId, grant_type: 'refresh_token', refresh_token: 'lk_rt_x' })
    const response = await fetch(`${server.origin}/token`, { method: 'POST', headers: { origin }, body })
    expect(response.headers.get('access-control-allow-credentials')).toBeNull()
    return response.headers.get('access-control-allow-origin')
  }

  it('may read the answer when a public client redirects to them, and else not', async () => {
    const page = await makeClient(server, { auth: 'none', redirect_uris: ['https://spa.example.com/callback'] })
    expect(await allowedFor(page.id, 'https://spa.example.com')).toBe('https://spa.example.com')
    for (const origin of ['https://evil.example', 'https://sub.spa.example.com', 'http://spa.example.com', 'null'])
      expect([origin, await allowedFor(page.id, origin)]).toEqual([origin, null])
    expect(await allowedFor(world.client.id, 'https://app.example.com')).toBeNull() // it has a secret: no page holds it
  })
})

describe('signing in', () => {
  const WRONG = 'The email address or the password is not right'
  async function fresh() {
    const agent = server.userAgent()
    return { agent, page: await ask(agent, world.client) }
  }

  it('says the same for an unknown address, a wrong password and a suspended person', async () => {
    const [known, suspended] = [await newPerson(), await newPerson()]
    const row = server.db.updateTable('users').set({ suspended_at: new Date() })
    await row.where('email_key', '=', suspended).execute()
    const unknown = `q-${randomBytes(6).toString('hex')}@example.com`
    const tries: Array<[string, string]> = [
      [known, 'wrong password here'],
      [unknown, 'wrong password here'],
      [suspended, 'wrong password here'],
      [suspended, PASSWORD],
      [known, 'x'.repeat(300)],
      [unknown, 'x'.repeat(300)],
      [unknown, ''],
    ]
    const seen = []
    for (const [email, password] of tries) {
      const { agent, page } = await fresh()
      const answer = await signIn(agent, page, email, password)
      const headers = [...answer.headers].filter(
        ([name]) => !['date', 'x-trace-id', 'set-cookie', 'content-length'].includes(name),
      )
      const html = answer.html
        .replaceAll(email, 'EMAIL')
        .replaceAll(page.url.pathname, 'PATH')
        .replace(/name="csrf" value="[^"]+"/, 'CSRF')
      seen.push(JSON.stringify([answer.status, headers, html]))
      expect(answer.html).toContain(WRONG)
    }
    expect(new Set(seen).size).toBe(1)
  })

  it('takes as long for an unknown address as for a known one', async () => {
    const known = await newPerson()
    const timed = async (email: string) => {
      const { agent, page } = await fresh()
      const startedAt = performance.now()
      await signIn(agent, page, email, 'wrong password here')
      return performance.now() - startedAt
    }
    const pairs: Array<[number, number]> = []
    for (let round = 0; round < 7; round++)
      pairs.push([await timed(known), await timed(`r-${randomBytes(6).toString('hex')}@example.com`)])
    const fastest = (index: 0 | 1) => Math.min(...pairs.map((pair) => pair[index]))
    expect(fastest(1)).toBeGreaterThan(fastest(0) * 0.4) // without the hash it would be a tenth
  })

  it('takes the address in capitals and with spaces around it', async () => {
    const email = await newPerson()
    const { agent, page } = await fresh()
    expect(headingOf(await signIn(agent, page, `  ${email.toUpperCase()} `))).toBe('Connect Tracepad?')
  })

  it.each(['\u0000', `a@b\u0000`, "' or 1=1--", '%', '😀@😀', 'x'.repeat(40_000), `${'x'.repeat(5_000)}@example.com`])(
    'with nonsense for an address (%#) is refused, and nothing breaks',
    async (email) => {
      const { agent, page } = await fresh()
      const answer = await signIn(agent, page, email, 'wrong password here')
      expect(answer.status).toBeLessThan(500)
      expect(answer.url.searchParams.get('code')).toBeNull()
    },
  )

  it('a password of a megabyte is refused before anything is computed', async () => {
    const { agent, page } = await fresh()
    const startedAt = performance.now()
    const answer = await signIn(agent, page, await newPerson(), 'x'.repeat(1_000_000)).catch(() => undefined)
    expect(answer?.status ?? 413).toBe(413) // the connection may be cut before it has read all
    expect(performance.now() - startedAt).toBeLessThan(1_500)
  })

  it('too often wrong is 429 for that person from there, with Retry-After, and says nothing else', async () => {
    for (const email of [await newPerson(), `s-${randomBytes(6).toString('hex')}@example.com`]) {
      for (let count = 0; count < 10; count++) {
        const { agent, page } = await fresh()
        expect((await signIn(agent, page, email, 'x'.repeat(300))).status).toBe(200)
      }
      const { agent, page } = await fresh()
      const refused = await signIn(agent, page, email)
      expect(refused.status).toBe(429)
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
      expect(Number(refused.headers.get('retry-after'))).toBeLessThanOrEqual(900)
      expect(refused.html).toContain('Too many tries')
    }
    const { agent, page } = await fresh()
    expect(headingOf(await signIn(agent, page, await newPerson()))).toBe('Connect Tracepad?') // others are not locked out
  })

  it('tries from everywhere lock nobody out of a browser that they signed in with before', async () => {
    const proxied = await startServer({ environment: { LATCHKEY_TRUSTED_PROXIES: '127.0.0.1' } })
    try {
      const own = await makeWorld(proxied)
      const from = (agent: UserAgent, address: string): UserAgent => ({
        ...agent,
        submit(page, action, fields) {
          const form = formOf(page, action)
          const headers = { origin: proxied.origin, 'x-forwarded-for': address }
          const body = new URLSearchParams({ ...form.hidden, ...fields })
          return agent.open(new URL(form.action, page.url), { method: 'POST', body, headers })
        },
      })
      const device = from(proxied.userAgent(), '198.51.100.1')
      await approve(device, await signIn(device, await ask(device, own.client), own.email), own.workspaceId)
      const attacker = proxied.userAgent()
      const page = await ask(attacker, own.client)
      for (let count = 0; count < 101; count++)
        await signIn(from(attacker, `203.0.113.${count}`), page, own.email, 'x'.repeat(300))
      const stranger = from(proxied.userAgent(), '192.0.2.1')
      expect((await signIn(stranger, await ask(stranger, own.client), own.email)).status).toBe(429)
      const again = await signIn(device, await ask(device, own.client, { prompt: 'login' }), own.email)
      expect(answerOf(again)).toHaveProperty('code')
    } finally {
      await proxied.close()
    }
  })

  it('writes no password into the log or the database', async () => {
    const { agent, page } = await fresh()
    const answer = await signIn(agent, page, await newPerson(), 'a-password-nobody-should-see')
    expect(answer.html).toContain(WRONG)
    expect(answer.html).not.toContain('a-password-nobody-should-see')
    expect(server.logLines.join('')).not.toContain('a-password-nobody-should-see')
    expect(server.logLines.join('')).not.toContain(PASSWORD)
    const rows = await server.db.selectFrom('audit_events').selectAll().execute()
    expect(JSON.stringify(rows)).not.toContain('a-password-nobody-should-see')
  })
})

describe('"Not you?"', () => {
  it('forgets the person, asks for another, and connects as that one', async () => {
    const agent = server.userAgent()
    const [first, second] = [await newPerson(), await newPerson()]
    const client = await makeClient(server)
    const consent = await signIn(agent, await ask(agent, client), first)
    expect(consent.html).toContain(first)
    const again = await agent.submit(consent, '/switch', {})
    expect(headingOf(again)).toBe('Sign in')
    const theirs = await signIn(agent, again, second)
    expect(theirs.html).toContain(second)
    expect(theirs.html).not.toContain(first)
    expect(answerOf(await approve(agent, theirs, world.workspaceId))).toHaveProperty('code')
    expect((await refresh(server.origin, client, 'lk_rt_none')).status).toBe(400)
  })
})

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { type ConsentPage, createPages, cutPath, keylinePath, type TourPage } from '../../src/console/pages.ts'
import { createAssets } from '../../src/http/assets.ts'

const viewsDir = join(import.meta.dirname, '../../views')
const assets = createAssets(join(viewsDir, 'assets'))
const pages = createPages({ viewsDir, assets })

const consent: ConsentPage = {
  host: 'id.acme.example',
  keylineSeed: 'tracepad-desktop',
  action: '/interaction/i1/consent',
  csrf: 'csrf-value',
  shown: 'shown-value',
  client: {
    name: 'Tracepad Desktop',
    host: 'tracepad.example',
    verified: true,
    verifiedBy: 'Acme Example',
    sendsBackTo: 'app.tracepad.example',
    unproved: false,
  },
  account: { email: 'ada@acme.example', name: 'Ada Example' },
  switchAction: '/interaction/i1/switch',
  workspaces: [
    { id: 'ws_1', name: 'platform-ai', organizationName: 'Acme Example', role: 'admin', state: 'open', chosen: true },
    {
      id: 'ws_2',
      name: 'support-bots',
      organizationName: 'Acme Example',
      role: 'viewer',
      state: 'disabled',
      note: 'Viewers cannot connect apps.',
      chosen: false,
    },
  ],
  can: [{ sentence: 'See traces and their results', detail: 'Read only.', isNew: true }],
}

const unverified: ConsentPage = {
  ...consent,
  client: {
    name: 'Notebook Bridge',
    host: 'mcp.notebook.example',
    verified: false,
    sendsBackTo: 'a program on this computer',
    unproved: true,
  },
}

const tour: TourPage = {
  host: 'id.acme.example',
  clientName: 'Tracepad',
  csrf: 'csrf-value',
  state: 'connected',
  error: 'The token was refused.',
  claims: [{ name: 'jti', value: 'tok_01J9F4Q7TD', meaning: 'The number of this token.' }],
  header: [{ name: 'typ', value: 'at+jwt', meaning: 'An access token.' }],
  log: [
    {
      time: '2026-05-21T08:04:17Z',
      title: 'Traded the code',
      request: 'POST /token',
      answer: '200 OK',
      good: true,
      meaning: 'The code works once.',
    },
  ],
  lastCall: { status: 200, body: '{"status":"pass"}' },
  connectAction: '/try/connect',
  callAction: '/try/call',
  refreshAction: '/try/refresh',
  disconnectAction: '/try/forget',
  docsHint: 'Read on in the guide.',
  signInHint: { email: 'ada@acme.example' },
}

const frame = { host: 'id.acme.example', keylineSeed: 'tracepad-desktop' }
const signIn = {
  ...frame,
  action: '/interaction/i1/sign-in',
  csrf: 'csrf-value',
  clientName: 'Tracepad Desktop',
  email: 'ada@acme.example',
  error: 'This email and password do not belong together.',
}
const problem = {
  ...frame,
  status: 400,
  title: 'This link was already used',
  lede: 'Each link works once.',
  steps: [{ text: 'Go back to Tracepad Desktop.', detail: 'It gets a new link.' }],
  traceId: 'access-2026-05-21-0f3a91',
  time: '2026-05-21T08:04:17Z',
  code: 'invalid_grant',
  back: { href: 'https://tracepad.example/', label: 'Back to tracepad.example' },
}

/** Every page with every part of it shown; `change` is applied to each text the page is given. */
function renderAll(change: (text: string) => string): Record<string, string> {
  return {
    signIn: pages.signIn(deep(signIn, change)),
    locked: pages.signIn({ ...deep(signIn, change), locked: true }),
    consent: pages.consent(deep({ ...consent, notice: 'A notice.', error: 'Choose one.' }, change)),
    unverified: pages.consent(deep(unverified, change)),
    unproved: pages.consent(deep({ ...consent, client: { ...consent.client, unproved: true } }, change)),
    noWorkspace: pages.consent(deep({ ...consent, workspaces: [], error: 'Not possible.' }, change)),
    error: pages.error(deep(problem, change)),
    signOut: pages.signOut(deep({ ...frame, action: '/logout', xsrf: 'xsrf-value', clientName: 'Tracepad' }, change)),
    signedOut: pages.signedOut(deep({ ...frame, clientName: 'Tracepad' }, change)),
    home: pages.home(deep({ ...frame, issuer: 'https://id.acme.example', tourHref: '/try' }, change)),
    start: pages.tour(deep({ ...tour, state: 'start', claims: undefined, log: [] }, change)),
    tour: pages.tour(deep(tour, change)),
    ended: pages.tour(deep({ ...tour, state: 'ended' }, change)),
  }
}

/** A copy with each string changed, but for those that choose between fixed cases. */
function deep<T>(value: T, change: (text: string) => string, key = ''): T {
  if (typeof value === 'string') return (key === 'state' ? value : change(value)) as T // same shape, other text
  if (Array.isArray(value)) return value.map((item) => deep(item, change)) as T
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, deep(item, change, name)])) as T
}

/** The tags of a document, values of attributes left out: what a text must not be able to change. */
function skeleton(html: string): string[] {
  return (html.match(/<[^>]*>/g) ?? []).map((tag) => tag.replace(/="[^"]*"/g, ''))
}

function texts(page: unknown): string[] {
  const found: string[] = []
  deep(page, (text) => {
    found.push(text)
    return text
  })
  return found
}

describe('every page', () => {
  const rendered = renderAll((text) => text)

  it.each(Object.entries(rendered))('%s is a whole document with one h1 and our two assets', (_, html) => {
    expect(html).toMatch(/^<!doctype html>\n<html lang="en">/)
    expect(html.trimEnd()).toMatch(/<\/html>$/)
    expect(html.match(/<h1>/g)).toHaveLength(1)
    expect(html).toContain(`<link rel="stylesheet" href="${assets.href('latchkey.css')}">`)
    expect(html).toContain('id.acme.example</bdi></span></footer>')
    expect(html).not.toMatch(/undefined|\[object Object\]|NaN/)
  })

  it.each(Object.entries(rendered))('%s works under a policy without scripts and inline styles', (_, html) => {
    expect(html).not.toMatch(/<script|<style|<iframe|\sstyle=|\son[a-z]+=|javascript:/i)
    expect(html.match(/(?:src|href)="(?!\/|#|https:\/\/tracepad\.example\/")[^"]*"/g)).toBeNull()
  })

  it.each(Object.entries(rendered))('%s has a name for each control, and no id twice', (_, html) => {
    const ids = Array.from(html.matchAll(/\sid="([^"]*)"/g), (match) => match[1])
    expect(new Set(ids).size).toBe(ids.length)
    for (const reference of html.matchAll(/\s(?:aria-describedby|aria-labelledby|for|form)="([^"]*)"/g)) {
      expect(ids).toContain(reference[1])
    }
  })

  it.each([
    '<img src=x onerror=alert(1)>',
    '</script><script>alert(1)</script>',
    '"><b onfocus=alert(1) autofocus x="',
    "' onmouseover='alert(1)",
    '{{7*7}} #{7*7}',
    '<%= 1 %><%~ it.csrf %>',
    '\u202Egnp.exe\u2066',
    'W'.repeat(500),
    "\\'`</textarea></title>]]>",
  ])('takes %j as text, in whatever field it comes', (hostile) => {
    // Compared with a text that is as long and harmless: same tags, same attributes, whatever the values are
    const harmless = renderAll((text) => text + hostile.replace(/[^.\s\\]/gu, 'x'))
    for (const [name, html] of Object.entries(renderAll((text) => text + hostile))) {
      expect(skeleton(html), name).toEqual(skeleton(harmless[name] ?? ''))
      expect(html, name).toContain(escaped(hostile))
      if (/[<>]/.test(hostile)) expect(html, name).not.toContain(hostile)
    }
  })

  it('keeps what a person or an app wrote from turning the text around it', () => {
    for (const [name, html] of Object.entries(renderAll((text) => `${text}\u202E`))) {
      const visible = html.replace(/<head>[\s\S]*<\/head>/, '').replace(/<bdi[^>]*>[^<]*(?:<wbr>[^<]*)*<\/bdi>/g, '')
      expect(visible.match(/>[^<]*\u202E[^<]*</g), name).toBeNull()
    }
  })
})

function escaped(text: string): string {
  return text
    .replace(/&/g, '&amp;')
    .replace(/</g, '&lt;')
    .replace(/>/g, '&gt;')
    .replace(/"/g, '&quot;')
    .replace(/'/g, '&#39;')
}

describe('the templates', () => {
  const files = readdirSync(viewsDir, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.eta'))

  it.each(files)('%s writes unescaped only a partial or the body of the layout', (name) => {
    const source = readFileSync(join(viewsDir, name), 'utf8')
    for (const raw of source.match(/<%[-_]?\s*~[\s\S]*?%>/g) ?? []) {
      // A partial's neighbours are partials.
      const partial = name.startsWith('partials/') ? '[a-z-]+' : 'partials/[a-z-]+'
      expect(raw).toMatch(new RegExp(String.raw`^<%~ (?:include\('\./${partial}'(?:, .*)?\)|it\.body) %>$`))
    }
  })

  it('has some', () => expect(files.length).toBeGreaterThan(8))
})

describe('the cut of a key', () => {
  it('is the place of each of the last seven letters and digits in 0-9A-Za-z, modulo 5', () => {
    // 3 E 1 G 0 H K are 3 14 1 16 0 17 20, so 3 4 1 1 0 2 0: a blade of 15.5 loses 1.9 for each step
    expect(cutPath('con_01J9F4Q7TDX8Y2W6A5C3E1G0HK')).toBe(
      'M11 4H49.5L52 7.5L48.8 15.5H45.5L43.7 11.7H40.4L38.6 15.5H35.3L33.5 13.6H30.2L28.4 13.6H25.1L23.3 7.9H20L18.2 9.8H14.9L13.5 15.5H11Z',
    )
  })

  it('makes the edge of the masthead from the id of the client', () => {
    const edge =
      'M0 .5H20L27 8.4H41.6L55.6 4.5H70.2L84.2 16.2H98.8L112.8 16.2H127.4L141.4 20.1H156L170 12.3H184.6L198.6 20.1H213.2L227.2 .5H240V-2H0Z'
    expect(keylinePath('con_01J9F4Q7TDX8Y2W6A5C3E1G0HK')).toBe(edge)
    expect(pages.consent({ ...consent, keylineSeed: 'x-3E1_G0/HK!' })).toContain(`<path d="${edge}"/>`)
  })

  it('counts letters and digits only, and takes a short id as it is', () => {
    expect(keylinePath('a-b.c')).toBe(keylinePath('0000abc'))
    expect(keylinePath('')).toBe(keylinePath('0000000'))
    expect(keylinePath('\u202Eключ')).toBe(keylinePath('0000000'))
  })

  it('is made from the host where there is no client', () => {
    expect(pages.signedOut({ host: 'id.acme.example' })).toContain(keylinePath('id.acme.example'))
  })

  it('changes with the token that the tour holds', () => {
    const renewed = {
      ...tour,
      claims: [{ name: 'jti', value: 'tok_01J9F4Q7TE', meaning: 'The number of this token.' }],
    }
    expect(pages.tour(tour)).toContain(cutPath('tok_01J9F4Q7TD'))
    expect(pages.tour(renewed)).toContain(cutPath('tok_01J9F4Q7TE'))
    expect(cutPath('tok_01J9F4Q7TE')).not.toBe(cutPath('tok_01J9F4Q7TD'))
  })
})

describe('sign-in', () => {
  it('posts a csrf value, an email and a password that a password manager recognises', () => {
    const html = pages.signIn({ ...frame, action: '/interaction/i1/sign-in', csrf: 'csrf-value' })
    expect(html).toContain('<form class="stack" method="post" action="/interaction/i1/sign-in">')
    expect(html).toContain('<input type="hidden" name="csrf" value="csrf-value">')
    expect(html).toMatch(/name="email" type="email" value="" autocomplete="username"/)
    expect(html).toMatch(/name="password" type="password" autocomplete="current-password"/)
    expect(html).not.toMatch(/aria-invalid|role="alert"|autofocus/)
  })

  it('after a failed try keeps the email, says why where the focus is, and never repeats a password', () => {
    const html = pages.signIn(signIn)
    expect(html).toContain('<title>Not signed in yet · Latchkey</title>')
    expect(html).toContain('value="ada@acme.example"')
    expect(html).toMatch(/name="password"[^>]* aria-describedby="sign-in-error" aria-invalid="true" autofocus>/)
    expect(html).toContain('role="alert" id="sign-in-error"><bdi>This email and password do not belong together.')
    expect(html).not.toMatch(/name="password"[^>]*value=/)
  })

  it('marks no field as wrong when the person only has to wait', () => {
    const html = pages.signIn({ ...signIn, error: 'Wait 15 minutes.', locked: true })
    expect(html).toContain('Wait 15 minutes.')
    expect(html).toContain('role="alert"')
    expect(html).not.toContain('aria-invalid')
  })
})

describe('consent', () => {
  const answers = (html: string) =>
    Array.from(html.matchAll(/<button class="([^"]*)" name="answer" value="([^"]*)"/g), ([, style, value]) => [
      style,
      value,
    ])

  it('offers a verified client as the next step, with what was shown and the workspace that was asked for', () => {
    const html = pages.consent(consent)
    expect(answers(html)).toEqual([
      ['button primary', 'approve'],
      ['button', 'deny'],
    ])
    expect(html).toContain('Registered by <bdi>Acme Example</bdi>')
    expect(html).toContain('<input type="hidden" name="shown" value="shown-value">')
    expect(html).toMatch(/value="ws_1" checked required>/)
    expect(html).toMatch(/value="ws_2" disabled>/)
    expect(html).toContain('<span class="tag new">New</span>')
    expect(html.indexOf('tracepad<wbr>.example')).toBeLessThan(html.indexOf('<strong><bdi>Tracepad Desktop'))
  })

  it('gives an unverified client no primary button, refusal first, and no workspace chosen', () => {
    const html = pages.consent(unverified)
    expect(answers(html)).toEqual([
      ['button', 'deny'],
      ['button', 'approve'],
    ])
    expect(html).not.toContain('primary')
    expect(html).not.toMatch(/<input[^>]* checked/)
    expect(html).toContain('Nothing is chosen for you.')
    expect(html).toContain('Not verified')
    expect(html).toContain('who unproved')
    expect(html).toMatch(/<h1>Connect <bdi>mcp<wbr>\.notebook<wbr>\.example<\/bdi>\?<\/h1>/)
    expect(html.match(/<title>.*<\/title>/)?.[0]).not.toContain('Notebook Bridge')
  })

  it('warns when nothing proves who gets the answer, also for a verified client', () => {
    const html = pages.consent({ ...consent, client: { ...consent.client, unproved: true } })
    expect(html).toContain('who unproved')
    expect(html).toContain('Go on only if you started this yourself')
  })

  it('names the operator where no organization vouches', () => {
    const html = pages.consent({ ...consent, client: { ...consent.client, verifiedBy: undefined } })
    expect(html).toContain('Registered by <bdi>the operator</bdi>')
  })

  it.each([
    ['no workspace at all', []],
    ['only workspaces where the role is too low', consent.workspaces.slice(1)],
  ])('with %s says so and offers only to refuse', (_, workspaces) => {
    const html = pages.consent({ ...consent, workspaces })
    expect(answers(html)).toEqual([['button', 'deny']])
    expect(html).toContain('You have no workspace to connect it to')
    expect(html).toContain('Ask an admin')
  })

  it('never preselects a workspace that cannot be chosen', () => {
    const workspaces = consent.workspaces.map((workspace) => ({ ...workspace, chosen: workspace.state === 'disabled' }))
    expect(pages.consent({ ...consent, workspaces })).not.toMatch(/<input[^>]* checked/)
  })

  it('names the organization of each workspace as soon as there are two', () => {
    const two = consent.workspaces.map((workspace, place) => ({ ...workspace, organizationName: `Org ${place}` }))
    expect(pages.consent(consent)).not.toContain('<span class="count">')
    const html = pages.consent({ ...consent, workspaces: two })
    expect(html).toContain('<bdi>Org 0</bdi>')
    expect(html).toContain('<bdi>Org 1</bdi>')
  })

  it('says what went wrong beside the choice, with the focus on it', () => {
    const workspaces = consent.workspaces.map((workspace) => ({ ...workspace, chosen: false }))
    const html = pages.consent({ ...consent, workspaces, error: 'Choose a workspace first.' })
    expect(html).toContain('aria-describedby="consent-error"')
    expect(html).toMatch(/value="ws_1" required autofocus>/)
  })

  it('lets a person who is not that person leave by a form of its own', () => {
    const html = pages.consent(consent)
    expect(html).toContain('<button class="link" form="switch">Not you?</button>')
    expect(html).toContain('<form id="switch" method="post" action="/interaction/i1/switch">')
  })
})

describe('error', () => {
  it('says what happened, what to do, and the trace id', () => {
    const html = pages.error(problem)
    for (const text of texts([
      problem.title,
      problem.lede,
      problem.steps,
      problem.back,
      problem.code,
      problem.traceId,
    ])) {
      expect(html).toContain(text)
    }
    expect(html).toContain('<time datetime="2026-05-21T08:04:17.000Z">21 May 2026, 08:04:17 UTC</time>')
  })

  it.each([
    'javascript:alert(1)',
    'JaVaScRiPt:alert(1)',
    'data:text/html,x',
    '//evil.example',
    '/\\evil.example',
    '/\t/evil.example',
    '',
  ])('leaves out a way back to %j', (href) => {
    const html = pages.error({ ...problem, back: { href, label: 'Back' } })
    expect(html).not.toContain('>Back<')
    expect(html).not.toMatch(/javascript|data:|evil/i)
  })

  it('shows the status where there is no code', () => {
    expect(pages.error({ ...problem, code: undefined })).toContain('HTTP 400')
  })
})

describe('signing out', () => {
  it('posts the xsrf value, and `logout` only with the button that signs out', () => {
    const html = pages.signOut({ ...frame, action: '/logout/confirm', xsrf: 'xsrf-value' })
    expect(html).toContain('action="/logout/confirm"')
    expect(html).toContain('<input type="hidden" name="xsrf" value="xsrf-value">')
    expect(html).toContain('<button class="button primary" name="logout" value="yes">Sign out</button>')
    expect(html).toContain('<button class="button">Stay signed in</button>')
  })
})

describe('home', () => {
  it('links to the tour when there is one', () => {
    expect(pages.home({ ...frame, issuer: 'https://id.acme.example', tourHref: '/try' })).toContain('href="/try"')
    expect(pages.home({ ...frame, issuer: 'https://id.acme.example' })).not.toContain('Take the tour')
  })
})

describe('the tour', () => {
  const primaries = (page: TourPage) =>
    Array.from(
      pages.tour(page).matchAll(/action="([^"]*)"><input[^>]*><button class="button primary"/g),
      (match) => match[1],
    )

  it('has one next step at a time', () => {
    expect(primaries({ ...tour, state: 'start', claims: undefined, lastCall: undefined })).toEqual(['/try/connect'])
    expect(primaries({ ...tour, lastCall: undefined })).toEqual(['/try/call'])
    expect(primaries(tour)).toEqual(['/try/refresh'])
    expect(primaries({ ...tour, state: 'ended' })).toEqual(['/try/connect'])
  })

  it('shows each claim, and each call as it went over the wire', () => {
    const html = pages.tour(tour)
    for (const text of texts([tour.claims, tour.header, tour.log.map(({ time: _, ...entry }) => entry)])) {
      expect(html).toContain(`<bdi>${text}</bdi>`)
    }
  })

  it('sends a csrf value with every form', () => {
    for (const state of ['start', 'connected', 'ended'] as const) {
      const html = pages.tour({ ...tour, state })
      expect(html.match(/<form /g)?.length).toBe(
        html.match(/<input type="hidden" name="csrf" value="csrf-value">/g)?.length,
      )
    }
  })
})

describe('assets', () => {
  it('are found under the address that names their content, and under no other', () => {
    const href = assets.href('latchkey.css')
    expect(href).toMatch(/^\/assets\/latchkey\.[0-9a-f]{10}\.css$/)
    expect(assets.find(href)?.type).toBe('text/css; charset=utf-8')
    expect(assets.find(href)?.body.toString()).toBe(readFileSync(join(viewsDir, 'assets/latchkey.css'), 'utf8'))
    expect(assets.find(assets.href('favicon.svg'))?.type).toBe('image/svg+xml')
    for (const path of ['/assets/latchkey.css', '/assets/../consent.eta', '/assets/', '', 'constructor', `${href}/`]) {
      expect(assets.find(path)).toBeUndefined()
    }
    expect(() => assets.href('missing.css')).toThrow('missing.css')
  })
})

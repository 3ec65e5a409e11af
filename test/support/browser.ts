// A real browser for tests: each visitor has cookies of their own, and everything that a page must not do is written down.
import { existsSync, mkdirSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import axe from 'axe-core'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import { afterEach, expect } from 'vitest'
import { PASSWORD } from './world.ts'

const USUAL_PATHS = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/usr/bin/google-chrome-stable',
  '/snap/bin/chromium',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
]
const ARGUMENTS = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
/** A directory: every page that `inspect` looks at is also kept there as a picture. */
const PICTURES = process.env.TEST_PICTURES

const named = process.env.TEST_CHROMIUM
const executablePath = (named === undefined ? USUAL_PATHS : [named]).find((path) => existsSync(path))

/** Says once for a file that its tests are left out; where nothing may be left out, a missing browser is an error. */
export function hasBrowser(): boolean {
  if (executablePath !== undefined) return true
  if (process.env.TEST_STORES === 'required') throw new Error('Chromium must be there for this run')
  process.stderr.write('Left out: tests in a browser, because Chromium is not here (TEST_CHROMIUM).\n')
  return false
}

export interface TestBrowser {
  /** Somebody else's browser, with cookies of its own. */
  visit(options?: VisitOptions): Promise<Visitor>
  close(): Promise<void>
}

export interface VisitOptions {
  scripts?: boolean
  /** Origins (https) that are answered here instead of by the network: a client that is far away. */
  elsewhere?: readonly string[]
}

export interface Visitor {
  page: Page
  context: BrowserContext
  /** Refused by a content policy, written to the console, thrown by a script, or asked in a dialog. */
  problems: string[]
  /** What reached the origins `elsewhere`, oldest first. */
  arrivals: Arrival[]
  /** Another tab. */
  tab(): Promise<Page>
}

export interface Arrival {
  method: string
  url: URL
  form: URLSearchParams
}

export async function launchBrowser(): Promise<TestBrowser> {
  if (executablePath === undefined) throw new Error('there is no browser: guard the test with hasBrowser')
  const browser = await chromium.launch({ executablePath, args: ARGUMENTS, headless: true })
  return { visit: (options) => startVisit(browser, options), close: () => browser.close() }
}

/**
 * Visitors of a file's tests: each is closed after the test that it was for, and that test fails where one met a problem.
 *
 * @param browser asked at each visit: it is not there yet when this is called
 * @returns what begins a visit
 */
export function keepVisitors(browser: () => TestBrowser): TestBrowser['visit'] {
  const visitors: Visitor[] = []
  afterEach(async () => {
    const gone = visitors.splice(0)
    const problems = gone.flatMap((visitor) => visitor.problems)
    await Promise.all(gone.map((visitor) => visitor.context.close()))
    expect(problems).toEqual([])
  })
  return async (options) => {
    const visitor = await browser().visit(options)
    visitors.push(visitor)
    return visitor
  }
}

/** Fills in the sign-in page that is open, and sends it. */
export async function signInOn(page: Page, email: string, password = PASSWORD): Promise<void> {
  await page.getByLabel('Work email').fill(email)
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button', { name: 'Sign in', exact: true }).click()
  await page.waitForLoadState()
}

async function startVisit(browser: Browser, options: VisitOptions = {}): Promise<Visitor> {
  const context = await browser.newContext({ javaScriptEnabled: options.scripts ?? true })
  context.setDefaultTimeout(10_000)
  const problems: string[] = []
  const arrivals: Arrival[] = []
  await context.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      // biome-ignore lint/suspicious/noConsole: this runs in the page, and the console is how the test hears of it
      console.error(`policy: ${event.effectiveDirective} ${event.blockedURI}`)
    })
  })
  const tab = async () => {
    const page = await context.newPage()
    watch(page, problems)
    await answerElsewhere(page, options.elsewhere ?? [], arrivals)
    return page
  }
  return { page: await tab(), context, problems, arrivals, tab }
}

/** What Chromium writes for every page that is an error by its status: the status is the test's to check. */
const STATUS_NOTE = /^Failed to load resource: the server responded with a status of 4\d\d/
/** The library's own page for `form_post`, there for a moment, names no icon. */
const isNoted = (address: string, page: Page) => address === page.url() || new URL(address).pathname === '/favicon.ico'

function watch(page: Page, problems: string[]): void {
  const add = (what: string) => void problems.push(`${new URL(page.url()).pathname}: ${what}`)
  page.on('console', (message) => {
    const isStatus = STATUS_NOTE.test(message.text()) && isNoted(message.location().url, page)
    if (['error', 'warning'].includes(message.type()) && !isStatus) add(message.text())
  })
  page.on('pageerror', (error) => add(`thrown: ${error.message}`))
  page.on('dialog', async (dialog) => {
    add(`dialog: ${dialog.message()}`)
    await dialog.dismiss()
  })
}

const ARRIVED =
  '<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>The app</title><h1>Back at the app</h1>'

/** Playwright's own routes do not see where a redirect leads; the browser's Fetch domain does. */
async function answerElsewhere(page: Page, origins: readonly string[], arrivals: Arrival[]): Promise<void> {
  if (origins.length === 0) return
  const session = await page.context().newCDPSession(page)
  session.on('Fetch.requestPaused', async ({ requestId, request }) => {
    arrivals.push({
      method: request.method,
      url: new URL(request.url),
      form: new URLSearchParams(request.postData ?? ''),
    })
    await session.send('Fetch.fulfillRequest', {
      requestId,
      responseCode: 200,
      responseHeaders: [{ name: 'Content-Type', value: 'text/html; charset=utf-8' }],
      body: Buffer.from(ARRIVED).toString('base64'),
    })
  })
  await session.send('Fetch.enable', { patterns: origins.map((origin) => ({ urlPattern: `${origin}/*` })) })
}

export interface LocalApp {
  origin: string
  arrivals: Arrival[]
  close(): Promise<void>
}

/** A client of the person's own computer: it listens on a loopback port. */
export async function startLocalApp(): Promise<LocalApp> {
  const arrivals: Arrival[] = []
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    const url = new URL(request.url ?? '/', 'http://127.0.0.1')
    arrivals.push({
      method: request.method ?? '',
      url,
      form: new URLSearchParams(Buffer.concat(chunks).toString('utf8')),
    })
    response.setHeader('Content-Type', 'text/html; charset=utf-8').end(ARRIVED)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return {
    origin: `http://127.0.0.1:${address.port}`,
    arrivals,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

// --- How a page looks ------------------------------------------------------------------------------------------------

const ALL_RULES = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']
/** What can differ in the dark. */
const COLOUR_RULES = ['color-contrast', 'link-in-text-block']
/** What can differ where there is little room. */
const ROOM_RULES = ['target-size', 'scrollable-region-focusable']

const LOOKS = [
  { width: 1280, colorScheme: 'light', rules: ALL_RULES },
  { width: 1280, colorScheme: 'dark', rules: COLOUR_RULES },
  { width: 390, colorScheme: 'light', rules: ROOM_RULES },
  { width: 390, colorScheme: 'dark', rules: [] },
] as const

/**
 * Looks at a page in light and dark, wide and narrow.
 *
 * @returns what axe finds wrong, and where something is wider than the window; empty when all is well
 */
export async function inspect(page: Page, name: string): Promise<string[]> {
  const found = new Set<string>()
  await page.evaluate(axe.source)
  for (const { width, colorScheme, rules } of LOOKS) {
    await page.setViewportSize({ width, height: 900 })
    await page.emulateMedia({ colorScheme })
    for (const problem of await page.evaluate(findProblems, [...rules]))
      found.add(`${name} ${width} ${colorScheme}: ${problem}`)
    await keepPicture(page, `${name}-${width}-${colorScheme}`)
  }
  await page.emulateMedia({ colorScheme: null })
  await page.setViewportSize({ width: 1280, height: 900 })
  return [...found]
}

/** Runs in the page. */
async function findProblems(rules: string[]): Promise<string[]> {
  const checker: typeof axe = Reflect.get(window, 'axe')
  const { violations } =
    rules.length === 0
      ? { violations: [] }
      : await checker.run(document, { resultTypes: ['violations'], runOnly: rules })
  const { scrollWidth, clientWidth } = document.documentElement
  return [
    ...violations.flatMap(({ id, nodes }) => nodes.map(({ target }) => `${id} at ${target.join(' ')}`)),
    ...(scrollWidth > clientWidth ? [`${scrollWidth} wide`] : []),
  ]
}

async function keepPicture(page: Page, name: string): Promise<void> {
  if (PICTURES === undefined) return
  mkdirSync(PICTURES, { recursive: true })
  await page.screenshot({ path: join(PICTURES, `${name}.png`), fullPage: true })
}

/** What has the focus: its tag, its words or name, and whether a ring is drawn around it. */
export async function focused(page: Page): Promise<{ tag: string; name: string; visible: boolean }> {
  return page.evaluate(() => {
    const element = document.activeElement
    if (element === null) return { tag: '', name: '', visible: false }
    const ringed = element.closest('label.choice') ?? element
    const { outlineStyle, outlineWidth } = getComputedStyle(ringed)
    return {
      tag: element.tagName.toLowerCase(),
      name: element.getAttribute('name') ?? element.textContent?.trim() ?? '',
      visible: outlineStyle === 'solid' && Number.parseFloat(outlineWidth) >= 2,
    }
  })
}

/** Goes on by the Tab key alone until this has the focus; each stop on the way must be visible. */
export async function tabTo(page: Page, wanted: { tag: string; name: string }): Promise<void> {
  const stops: string[] = []
  for (let count = 0; count < 20; count++) {
    await page.keyboard.press('Tab')
    const stop = await focused(page)
    if (!stop.visible && stop.tag !== 'body') throw new Error(`no ring is drawn around ${stop.tag} “${stop.name}”`)
    if (stop.tag === wanted.tag && stop.name === wanted.name) return
    stops.push(`${stop.tag} ${stop.name}`)
  }
  throw new Error(`Tab never came to ${wanted.tag} “${wanted.name}”, only to ${stops.join(', ')}`)
}

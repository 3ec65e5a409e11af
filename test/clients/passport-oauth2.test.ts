// passport-oauth2 1.8 in express 5, unmodified: a web app that signs people in, with and without PKCE.
import { randomBytes } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import express from 'express'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { Passport } from 'passport'
import { Strategy } from 'passport-oauth2'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startServer, type TestServer } from '../support/server.ts'
import { createUserAgent, type UserAgent } from '../support/user-agent.ts'
import { API, makeClient, makeWorld, type TestClient, type World, walk } from '../support/world.ts'

let server: TestServer
let world: World
let browser: UserAgent
const apps: Server[] = []

beforeAll(async () => {
  server = await startServer()
  world = await makeWorld(server)
  browser = server.userAgent()
})
afterAll(async () => {
  for (const app of apps) app.close()
  await server?.close()
})

/** Sessions as express-session keeps them: an object behind a cookie. */
const sessions = new Map<string, object>()
const withSession: express.RequestHandler = (request, response, next) => {
  const known = /sid=(\w+)/.exec(request.headers.cookie ?? '')?.[1]
  const id = known ?? randomBytes(8).toString('hex')
  if (known === undefined) response.setHeader('set-cookie', `sid=${id}; Path=/`)
  const session = sessions.get(id) ?? {}
  sessions.set(id, session)
  Object.assign(request, { session })
  next()
}

async function listen(): Promise<{ app: express.Express; origin: string }> {
  const app = express()
  const listening = createServer(app)
  await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve))
  apps.push(listening)
  return { app, origin: `http://127.0.0.1:${(listening.address() as AddressInfo).port}` } // it listens on a port
}

/** The web app's two routes, as passport's documentation has them. */
function mountSignIn(app: express.Express, client: TestClient, options: { pkce: boolean }): void {
  const passport = new Passport()
  const strategy = new Strategy(
    {
      authorizationURL: `${server.origin}/authorize`,
      tokenURL: `${server.origin}/token`,
      clientID: client.id,
      clientSecret: String(client.secret),
      callbackURL: client.redirectUri,
      scope: ['openid', 'traces:read'],
      state: true,
      pkce: options.pkce,
    },
    (accessToken, refreshToken, parameters, _profile, done) => done(null, { accessToken, refreshToken, parameters }),
  )
  passport.use(strategy)
  app.use(withSession)
  app.get('/login', passport.authenticate('oauth2', { session: false }))
  app.get('/callback', passport.authenticate('oauth2', { session: false }), (request, response) => {
    response.json(Reflect.get(request, 'user'))
  })
}

describe('passport-oauth2', () => {
  it.each([
    { name: 'with PKCE, on a loopback redirect', pkce: true, https: false },
    { name: 'with PKCE, on an https redirect', pkce: true, https: true },
    { name: 'without PKCE, as a client excused from it', pkce: false, https: true },
  ])('signs a person in $name, and has a refresh token without asking for prompt=consent', async (kind) => {
    const { app, origin } = await listen()
    const client = await makeClient(server, {
      redirect_uris: [kind.https ? 'https://app.example.com/callback' : `${origin}/callback`],
      auth: 'client_secret_post', // all that this library knows
      resource: API,
      pkce: kind.pkce,
    })
    mountSignIn(app, client, kind)
    const atApp = createUserAgent(origin)

    const login = await atApp.request('/login')
    const { url } = await walk(browser, world, String(login.headers.get('location')))
    expect(url.href.startsWith(client.redirectUri)).toBe(true)
    const answer = await atApp.request(`/callback${url.search}`) // the TLS in front of an https app is not ours
    expect(answer.status).toBe(200)
    const user: unknown = await answer.json()
    expect(user).toMatchObject({
      refreshToken: expect.stringMatching(/^lk_rt_/),
      parameters: { token_type: 'Bearer', expires_in: 600, scope: 'traces:read' },
    })
    const keys = createRemoteJWKSet(new URL(`${server.origin}/jwks`))
    const { accessToken } = user as { accessToken: string } // matched above
    const { payload } = await jwtVerify(accessToken, keys, { issuer: server.origin, audience: API })
    expect(payload).toMatchObject({ sub: world.userId, client_id: client.id, workspace_id: world.workspaceId })
  })

  it('tells the app that a person said no', async () => {
    const { app, origin } = await listen()
    const client = await makeClient(server, {
      redirect_uris: [`${origin}/callback`],
      auth: 'client_secret_post',
      resource: API,
    })
    mountSignIn(app, client, { pkce: true })
    const atApp = createUserAgent(origin)
    const login = await atApp.request('/login')
    const consent = await browser.open(String(login.headers.get('location')))
    const { url } = await browser.submit(consent, '/consent', { answer: 'deny' })
    expect(url.searchParams.get('error')).toBe('access_denied')
    expect((await atApp.request(`/callback${url.search}`)).status).toBe(401)
  })
})

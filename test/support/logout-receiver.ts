// A client's back-channel logout address, as a relying party serves it: it checks what comes with jose alone, as the
// standard asks (OpenID Connect Back-Channel Logout 1.0 §2.6), and can be down, slow, or elsewhere.
import { createServer, type Server, type ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { createRemoteJWKSet, type JWTPayload, jwtVerify } from 'jose'
import { sql } from 'kysely'
import { expect } from 'vitest'
import type { Db } from '../../src/store/database.ts'

export interface Arrived {
  token: string
  contentType: string | undefined
}

export interface Receiver {
  url: string
  port: number
  arrived: Arrived[]
  /** How the next ones are answered; by default 200. */
  answer: (response: ServerResponse) => void
  /** Nobody listens any more. */
  stop(): Promise<void>
  /** Listens again, at the same address. */
  resume(): Promise<void>
}

export async function startReceiver(): Promise<Receiver> {
  let server: Server | undefined
  const sockets = new Set<Socket>()
  const receiver: Receiver = {
    url: '',
    port: 0,
    arrived: [],
    answer: (response) => void response.end(),
    async stop() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server?.close(resolve) ?? resolve(undefined))
      server = undefined
    },
    async resume() {
      server = createServer(async (request, response) => {
        const chunks: Buffer[] = []
        for await (const chunk of request) chunks.push(chunk)
        const form = new URLSearchParams(Buffer.concat(chunks).toString('utf8'))
        receiver.arrived.push({
          token: form.get('logout_token') ?? '',
          contentType: request.headers['content-type'],
        })
        receiver.answer(response)
      })
      server.on('connection', (socket) => {
        sockets.add(socket)
        socket.on('close', () => sockets.delete(socket))
      })
      await new Promise<void>((resolve) => server?.listen(receiver.port, '127.0.0.1', resolve))
      const address = server.address()
      if (address === null || typeof address === 'string') throw new Error('no port')
      receiver.port = address.port
      receiver.url = `http://127.0.0.1:${address.port}/logged-out`
    },
  }
  await receiver.resume()
  return receiver
}

/** As a relying party checks a logout token. @throws {Error} when one thing about it is wrong */
export async function checkLogoutToken(
  origin: string,
  clientId: string,
  token: string,
  alg = 'RS256',
): Promise<JWTPayload & { sid?: string }> {
  const keys = createRemoteJWKSet(new URL(`${origin}/jwks`))
  const { payload } = await jwtVerify(token, keys, {
    issuer: origin,
    audience: clientId,
    typ: 'logout+jwt',
    algorithms: [alg],
    maxTokenAge: 60,
    clockTolerance: 5,
    requiredClaims: ['iat', 'exp', 'jti', 'events', 'sub'],
  })
  expect(payload.events).toEqual({ 'http://schemas.openid.net/event/backchannel-logout': {} })
  expect(payload).not.toHaveProperty('nonce')
  expect((payload.exp ?? 0) - (payload.iat ?? 0)).toBeLessThanOrEqual(120)
  return payload
}

/** What waits is due now: time passes for all of it, or for one client's. */
export async function bringForward(db: Db, clientId?: string): Promise<void> {
  await db
    .updateTable('logout_notices')
    .set({ next_try_at: sql<Date>`clock_timestamp() - interval '1 second'` })
    .where((value) => (clientId === undefined ? value.val(true) : value('client_id', '=', clientId)))
    .execute()
}

/** Records of notices to a client, oldest first. */
export function outcomesFor(db: Db, clientId: string) {
  return db
    .selectFrom('audit_events')
    .selectAll()
    .where('event', 'like', 'logout_notice.%')
    .where('client_id', '=', clientId)
    .orderBy('recorded_at')
    .execute()
}

export function waitingFor(db: Db, clientId: string) {
  return db.selectFrom('logout_notices').selectAll().where('client_id', '=', clientId).orderBy('id').execute()
}

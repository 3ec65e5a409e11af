// An issuer for the verifier's measurement, in the runner's process: its keys, and a feed that begins with as many entries
// as asked for and says every 300 ms that nothing is missing. It counts what it is asked.
import { randomBytes } from 'node:crypto'
import { createServer, type ServerResponse } from 'node:http'
import { exportJWK, generateKeyPair, type JWK } from 'jose'
import { type FeedEntry, type FeedMessage, hashSubject } from '../src/verifier/wire.ts'

/** How many entries the list may hold: one address each. */
export const LIST_SIZES = [0, 100_000] as const
export type ListSize = (typeof LIST_SIZES)[number]

const KID = 'bench'
const FEED_KEY = 'a key of this API'
const EVERY_MS = 300
const ENTRIES_A_MESSAGE = 2_000

export interface Issuer {
  readonly jwk: JWK
  /** The origin of an issuer whose list has this many entries. */
  of(size: ListSize): string
  /** What was asked since the last time, by path. */
  takeRequests(): Record<string, number>
  close(): Promise<void>
}

export async function startIssuer(): Promise<Issuer> {
  const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true })
  const keys = [{ ...(await exportJWK(publicKey)), kid: KID, alg: 'ES256', use: 'sig' }]
  let requests: Record<string, number> = {}
  const parts = await Promise.all(
    LIST_SIZES.map((size) => listen({ size, keys, onRequest: (path) => (requests[path] = (requests[path] ?? 0) + 1) })),
  )
  return {
    jwk: { ...(await exportJWK(privateKey)), kid: KID },
    of: (size) => parts.find((part) => part.size === size)?.origin ?? '',
    takeRequests() {
      const taken = requests
      requests = {}
      return taken
    },
    async close() {
      await Promise.all(parts.map((part) => part.close()))
    },
  }
}

interface Part {
  readonly size: ListSize
  readonly keys: readonly JWK[]
  readonly onRequest: (path: string) => void
}

async function listen({ size, keys, onRequest }: Part) {
  const snapshot = makeSnapshot(size)
  const server = createServer((request, response) => {
    const path = (request.url ?? '').split('?')[0] ?? ''
    onRequest(path)
    if (path === '/jwks') return void response.end(JSON.stringify({ keys }))
    if (path !== '/revocations') return void response.writeHead(404).end()
    if (!request.headers.accept?.includes('text/event-stream')) {
      return void response.end(JSON.stringify(messageOf(size, { entries: [] })))
    }
    response.writeHead(200, { 'Content-Type': 'text/event-stream' })
    if (!request.url?.includes('cursor=')) for (const message of snapshot) send(response, message)
    const beat = () => send(response, messageOf(size, { entries: [] }))
    const timer = setInterval(beat, EVERY_MS)
    response.on('close', () => clearInterval(timer))
    beat()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return {
    size,
    origin: `http://127.0.0.1:${address.port}`,
    close() {
      server.closeAllConnections()
      return new Promise<void>((resolve) => server.close(() => resolve()))
    },
  }
}

const send = (response: ServerResponse, message: FeedMessage) =>
  response.write(`data: ${JSON.stringify({ ...message, now: Date.now() })}\n\n`)

function messageOf(seq: number, more: Partial<FeedMessage> & Pick<FeedMessage, 'entries'>): FeedMessage {
  return { epoch: 'bench', cursor: `bench.${seq}`, seq, now: Date.now(), complete_as_of: Date.now(), ...more }
}

/** Connections that were closed, and every tenth a single JWT that was denied: none of them is asked about. */
function makeSnapshot(size: ListSize): FeedMessage[] {
  const entries = Array.from({ length: size }, (_, index): FeedEntry => {
    const isDenial = index % 10 === 0
    const subject = hashSubject(FEED_KEY, `${isDenial ? 'jti:' : 'con_'}${randomBytes(13).toString('hex')}`)
    const expires_at = Math.floor(Date.now() / 1000) + 86_400
    return { subject, seq: index + 1, ...(isDenial ? { denied: true } : { closed: true }), expires_at }
  })
  const pages: FeedMessage[] = []
  for (let from = 0; from === 0 || from < size; from += ENTRIES_A_MESSAGE) {
    const page = entries.slice(from, from + ENTRIES_A_MESSAGE)
    const first = from === 0 ? { snapshot: true as const, key: FEED_KEY } : {}
    pages.push({ ...messageOf(from + page.length, { entries: page, ...first }), more: true })
  }
  return pages
}

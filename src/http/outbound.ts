// Calls to an address that somebody else chose, such as a client's logout URI. None of them leads into our own network
// (CWE-918): the address is checked that the connection is made to, no redirect is followed, and time and size are limited.
import { lookup as systemLookup } from 'node:dns'
import { type ClientRequest, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import type { Readable } from 'node:stream'
import ipaddr from 'ipaddr.js'
import type { OutboundReach } from '../config.ts'

export interface OutboundRequest {
  url: string
  method: 'GET' | 'POST'
  headers?: Readonly<Record<string, string>>
  body?: string
  /** With `status` the answer's body is never read, however long it is. */
  reads: 'status' | 'body'
}

/**
 * - `refused`: no address that may be called; nothing was connected to.
 * - `timeout`: no whole answer within five seconds, whatever took the time.
 * - `too_large`: an answer of more than 64 KiB.
 * - `unreachable`: no connection, no trust in its certificate, or no HTTP over it; or nothing that can be sent.
 */
export type OutboundFailure = 'refused' | 'timeout' | 'too_large' | 'unreachable'

/** A body is for the code that asked. It is neither logged nor shown to anybody. */
export type OutboundAnswer = { ok: true; status: number; body: Buffer } | { ok: false; failure: OutboundFailure }

/** A call whose answer is read as it comes. */
export interface OpenRequest {
  url: string
  method: 'GET' | 'POST'
  headers: Readonly<Record<string, string>>
  body?: Buffer | undefined
  /** Ends the call, wherever it is. */
  signal: AbortSignal
}

/** The body is the caller's to read to its end, or to destroy. */
export type OpenedAnswer =
  | { ok: true; status: number; headers: IncomingHttpHeaders; body: Readable }
  | { ok: false; failure: OpenFailure }

/**
 * `timeout`: no connection within five seconds; `unanswered`: it was sent to its end, and nothing came until the connection
 * ended, or for ten minutes. Every other one was not sent, or not whole.
 */
export type OpenFailure = Exclude<OutboundFailure, 'too_large'> | 'unanswered'

export interface Outbound {
  /** Never rejects. A redirect is an answer like any other. */
  send(request: OutboundRequest): Promise<OutboundAnswer>
  /** The same without limits of size, and with times in which a long answer can be thought of. Never rejects. */
  open(request: OpenRequest): Promise<OpenedAnswer>
  /** What is wrong with an address before anything is resolved, in words that follow it; undefined when nothing is. */
  problem(url: string): string | undefined
}

export interface OutboundOptions {
  /** Where calls may lead: to public addresses, to this machine besides, or into private networks as well. */
  reach: OutboundReach
  /** How names are resolved: all addresses of a name at once. */
  lookup?: (hostname: string, done: (error: Error | null, addresses: readonly string[]) => void) => void
  /** The longest that a call takes, with everything in it. */
  mostMs?: number
}

const MOST_MS = 5_000
export const MOST_BYTES = 64 * 1024
const MOST_HEADER_BYTES = 16 * 1024

export function createOutbound(options: OutboundOptions): Outbound {
  const { reach, lookup = lookupAll, mostMs = MOST_MS } = options
  const allows = (address: string, isPlain: boolean) => {
    const place = placeOf(address)
    if (isPlain) return place === 'loopback' && reach !== 'public' // what is not encrypted stays on this machine
    return (
      place === 'public' || (place === 'loopback' && reach !== 'public') || (place === 'private' && reach === 'private')
    )
  }
  const problem = (text: string) => {
    const url = URL.parse(text)
    if (url === null || !['https:', 'http:'].includes(url.protocol)) return 'must be an https address'
    if (url.username !== '' || url.password !== '') return 'must hold no user name and no password'
    const isPlain = url.protocol === 'http:'
    if (isPlain && reach === 'public') return 'must begin with https://'
    const host = bareHost(url)
    if (isIP(host) !== 0) {
      if (allows(host, isPlain)) return undefined
      return isPlain ? ONLY_HERE : 'names an address that this server does not call (LATCHKEY_OUTBOUND_PRIVATE)'
    }
    return isPlain && host !== 'localhost' ? ONLY_HERE : undefined
  }
  return {
    problem,
    async send(request) {
      if (problem(request.url) !== undefined) return { ok: false, failure: 'refused' }
      const url = new URL(request.url)
      const isPlain = url.protocol === 'http:'
      const checked = checkedLookup(lookup, (address) => allows(address, isPlain))
      return call(request, url, { mostMs, lookup: checked })
    },
    async open(request) {
      if (problem(request.url) !== undefined) return { ok: false, failure: 'refused' }
      const url = new URL(request.url)
      const isPlain = url.protocol === 'http:'
      return openCall(request, url, { mostMs, lookup: checkedLookup(lookup, (address) => allows(address, isPlain)) })
    },
  }
}

const ONLY_HERE = 'must begin with https://, or be http on 127.0.0.1, [::1] or localhost'

/** One exchange on a connection of its own, which is gone when this resolves. */
function call(
  request: OutboundRequest,
  url: URL,
  { lookup, mostMs }: { lookup: LookupFunction; mostMs: number },
): Promise<OutboundAnswer> {
  const body = request.body === undefined ? undefined : Buffer.from(request.body)
  const outgoing = begin(request, url, { lookup, body })
  if (outgoing === undefined) return Promise.resolve({ ok: false, failure: 'unreachable' })
  const { promise, resolve } = Promise.withResolvers<OutboundAnswer>()
  const end = (answer: OutboundAnswer) => {
    clearTimeout(deadline)
    resolve(answer)
    outgoing.destroy()
  }
  const fail = (failure: OutboundFailure) => end({ ok: false, failure })
  const deadline = setTimeout(fail, mostMs, 'timeout')
  outgoing.on('error', (error) => fail(error instanceof RefusedAddress ? 'refused' : 'unreachable'))
  outgoing.on('close', () => fail('unreachable')) // also where nothing was answered and nothing failed
  outgoing.on('response', (response) => {
    const status = response.statusCode ?? 0
    if (request.reads === 'status') return end({ ok: true, status, body: Buffer.alloc(0) })
    readBody(response, (bytes) => (bytes === undefined ? fail('too_large') : end({ ok: true, status, body: bytes })))
  })
  outgoing.end(body)
  return promise
}

/** A request on a connection of its own; undefined where no HTTP says what it holds. */
function begin(
  { method, headers }: Pick<OutboundRequest, 'method' | 'headers'>,
  url: URL,
  { lookup, body }: { lookup: LookupFunction; body: Buffer | undefined },
): ClientRequest | undefined {
  try {
    return (url.protocol === 'http:' ? httpRequest : httpsRequest)(url, {
      method,
      headers: {
        'user-agent': 'latchkey',
        'accept-encoding': 'identity', // what is counted is what came
        ...headers,
        ...(body === undefined ? {} : { 'content-length': body.byteLength }),
      },
      agent: false,
      lookup,
      maxHeaderSize: MOST_HEADER_BYTES,
    })
  } catch {
    return undefined // a header with a character that none may have
  }
}

/** Some answers are thought about for minutes before they begin. */
const SILENT_MS = 600_000

/** @param limits.mostMs until there is a connection */
function openCall(
  { method, headers, body, signal }: OpenRequest, // the body is not kept for as long as the answer takes
  url: URL,
  { mostMs, lookup }: { mostMs: number; lookup: LookupFunction },
): Promise<OpenedAnswer> {
  const outgoing = begin({ method, headers }, url, { lookup, body })
  if (outgoing === undefined) return Promise.resolve({ ok: false, failure: 'unreachable' })
  const { promise, resolve } = Promise.withResolvers<OpenedAnswer>()
  let [isConnected, isWritten] = [false, false]
  const fail = (failure: OpenFailure) => {
    clearTimeout(connecting)
    resolve({ ok: false, failure: isConnected && isWritten ? 'unanswered' : failure })
    outgoing.destroy()
  }
  const connecting = setTimeout(fail, mostMs, 'timeout')
  const abort = () => outgoing.destroy(new Error('nobody waits for it any more'))
  if (signal.aborted) abort()
  signal.addEventListener('abort', abort)
  outgoing.on('socket', (socket) => {
    socket.once(url.protocol === 'http:' ? 'connect' : 'secureConnect', () => {
      isConnected = true
      clearTimeout(connecting)
    })
  })
  outgoing.on('finish', () => {
    isWritten = true
  })
  outgoing.setTimeout(SILENT_MS, () => fail('unreachable'))
  outgoing.on('error', (error) => fail(error instanceof RefusedAddress ? 'refused' : 'unreachable'))
  outgoing.on('close', () => {
    signal.removeEventListener('abort', abort)
    fail('unreachable') // where nothing was answered
  })
  outgoing.on('response', (response) => {
    const { statusCode: status = 0, headers: answered } = response
    resolve({ ok: true, status, headers: answered, body: response })
  })
  outgoing.end(body)
  return promise
}

/** Hands over the whole body, or nothing once it is longer than it may be. A cut one closes the request. */
function readBody(response: IncomingMessage, done: (body: Buffer | undefined) => void): void {
  const chunks: Buffer[] = []
  let size = 0
  response.on('error', () => {})
  response.on('data', (chunk: Buffer) => {
    size += chunk.byteLength
    if (size > MOST_BYTES) return done(undefined)
    chunks.push(chunk)
  })
  response.on('end', () => response.complete && done(Buffer.concat(chunks)))
}

// --- Which addresses -------------------------------------------------------------------------------------------------

type Place = 'public' | 'loopback' | 'private' | 'never'

const PLACES: Readonly<Record<string, Place>> = {
  unicast: 'public',
  loopback: 'loopback',
  private: 'private',
  carrierGradeNat: 'private',
  uniqueLocal: 'private',
}

const GLOBAL_UNICAST = ipaddr.IPv6.parseCIDR('2000::/3')
/** Where a network that has no IPv4 reaches it (RFC 6052 §2.1). */
const TRANSLATED = ipaddr.IPv6.parseCIDR('64:ff9b::/96')

/** Where an address leads. What is neither public, private nor ours (link-local, multicast, 6to4, reserved…) is never called. */
function placeOf(address: string): Place {
  if (!ipaddr.isValid(address)) return 'never'
  const parsed = ipaddr.parse(address)
  if (parsed instanceof ipaddr.IPv4) return PLACES[parsed.range()] ?? 'never'
  if (parsed.isIPv4MappedAddress()) return placeOf(parsed.toIPv4Address().toString())
  if (parsed.match(TRANSLATED)) {
    const embedded = new ipaddr.IPv4(parsed.toByteArray().slice(12))
    return embedded.range() === 'unicast' ? 'public' : 'never'
  }
  const place = PLACES[parsed.range()] ?? 'never'
  return place === 'public' && !parsed.match(GLOBAL_UNICAST) ? 'never' : place
}

/** An IPv6 address without its brackets. A URL has made one form of every way to write an address by then. */
function bareHost(url: URL): string {
  return url.hostname.startsWith('[') ? url.hostname.slice(1, -1) : url.hostname
}

class RefusedAddress extends Error {}

/**
 * Resolves a name for the connection itself, so that what is checked is what is connected to. A name with one address
 * that may not be called is refused whole: which of several is tried is not ours to say.
 */
function checkedLookup(
  lookup: NonNullable<OutboundOptions['lookup']>,
  allows: (address: string) => boolean,
): LookupFunction {
  return (hostname, options, done) => {
    lookup(hostname, (error, addresses) => {
      const [first] = addresses
      if (error !== null) return done(error, '')
      if (first === undefined || !addresses.every(allows)) return done(new RefusedAddress('refused'), '')
      if (options.all !== true) return done(null, first, isIP(first))
      done(
        null,
        addresses.map((address) => ({ address, family: isIP(address) })),
      )
    })
  }
}

const lookupAll: NonNullable<OutboundOptions['lookup']> = (hostname, done) =>
  systemLookup(hostname, { all: true }, (error, found) =>
    done(error, error === null ? found.map(({ address }) => address) : []),
  )

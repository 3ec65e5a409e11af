// The door: pins the origin before anything else reads the request. oidc-provider builds addresses, accepts audiences
// and checks DPoP proofs by the Host header, so no other host may get past here.
import type { IncomingMessage } from 'node:http'
import ipaddr from 'ipaddr.js'
import { AppError } from '../errors.ts'

/** Rewrites the request's origin headers to the one public origin. @throws {AppError} `wrong_host`, `invalid_request` */
export type OriginPin = (request: IncomingMessage) => void

/** Answer nothing that names a host, so that a load balancer may ask them by address. */
const HOSTLESS = new Set(['/healthz', '/readyz'])

export function createOriginPin(issuer: string, trustedProxies: readonly string[]): OriginPin {
  const { host, protocol, port } = new URL(issuer)
  const accepted = new Set([host, port === '' ? `${host}:${protocol === 'https:' ? 443 : 80}` : host])
  const sideOf = createRangeCheck(trustedProxies)

  return (request) => {
    const { headers } = request
    if (request.url === undefined || !request.url.startsWith('/')) {
      throw new AppError('invalid_request', { detail: 'The request line must hold a path.' })
    }
    if (countHosts(request.rawHeaders) !== 1) {
      throw new AppError('invalid_request', { detail: 'The request must have one Host header.' })
    }
    const peer = request.socket.remoteAddress ?? ''
    const fromProxy = sideOf(peer) === 'proxy'
    const named = (fromProxy ? headers['x-forwarded-host'] : undefined) ?? headers.host
    if (!accepted.has(String(named).toLowerCase()) && !HOSTLESS.has(request.url)) {
      throw new AppError('wrong_host', { detail: `This server answers for ${host} only: open ${issuer}` })
    }
    const client = fromProxy ? lastUntrusted(headers['x-forwarded-for'], peer, sideOf) : peer
    for (const name of ['forwarded', 'x-forwarded-host', 'x-forwarded-port', 'x-forwarded-prefix', 'x-real-ip'])
      delete headers[name]
    headers.host = host
    headers['x-forwarded-proto'] = protocol.slice(0, -1)
    headers['x-forwarded-for'] = client
  }
}

/** Names and values in turn, as they came. */
function countHosts(rawHeaders: readonly string[]): number {
  let count = 0
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index]
    if (name?.length === 4 && name.toLowerCase() === 'host') count++
  }
  return count
}

/** What stands for an address that nobody can tell (RFC 7239 §6.2): it is in no network, and never anybody's own. */
const UNKNOWN = 'unknown'

/**
 * The right-most hop that is not one of our proxies: what stands left of it the client may have made up. So one that cannot
 * be read ends the search, too.
 */
function lastUntrusted(
  forwardedFor: string | string[] | undefined,
  peer: string,
  sideOf: (address: string) => Side,
): string {
  if (forwardedFor === undefined) return peer
  const hops = String(forwardedFor).split(',').map(addressIn).reverse()
  const client = hops.find((hop) => sideOf(hop) !== 'proxy') ?? hops.at(-1) ?? peer
  return sideOf(client) === 'nowhere' ? UNKNOWN : client
}

/** Some proxies write a port behind an address, and brackets around one of IPv6. */
function addressIn(hop: string): string {
  const text = hop.trim()
  return /^\[([^\]]*)\](?::\d+)?$/.exec(text)?.[1] ?? /^(\d+(?:\.\d+){3}):\d+$/.exec(text)?.[1] ?? text
}

/** Where an address stands: one of our proxies, somebody else, or no address at all. */
type Side = 'proxy' | 'outside' | 'nowhere'

const MOST_KNOWN = 1_000

function createRangeCheck(ranges: readonly string[]): (address: string) => Side {
  const parsed = ranges.map((range) => {
    if (range.includes('/')) return ipaddr.parseCIDR(range)
    const address = ipaddr.process(range)
    return [address, address.kind() === 'ipv4' ? 32 : 128] as const
  })
  const judge = (text: string): Side => {
    if (!ipaddr.isValid(text)) return 'nowhere'
    const address = ipaddr.process(text)
    const isOurs = parsed.some(([network, bits]) => address.kind() === network.kind() && address.match([network, bits]))
    return isOurs ? 'proxy' : 'outside'
  }
  // The same addresses ask again and again, and parsing one costs more than all else here.
  const known = new Map<string, Side>()
  return (text) => {
    const found = known.get(text)
    if (found !== undefined) return found
    const side = judge(text)
    if (known.size >= MOST_KNOWN) known.clear()
    known.set(text, side)
    return side
  }
}

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
  const isTrusted = createRangeCheck(trustedProxies)

  return (request) => {
    const { headers } = request
    if (request.url === undefined || !request.url.startsWith('/')) {
      throw new AppError('invalid_request', { detail: 'The request line must hold a path.' })
    }
    if (request.rawHeaders.filter((text, index) => index % 2 === 0 && text.toLowerCase() === 'host').length !== 1) {
      throw new AppError('invalid_request', { detail: 'The request must have one Host header.' })
    }
    const peer = request.socket.remoteAddress ?? ''
    const fromProxy = isTrusted(peer)
    const named = (fromProxy ? headers['x-forwarded-host'] : undefined) ?? headers.host
    if (!accepted.has(String(named).toLowerCase()) && !HOSTLESS.has(request.url)) {
      throw new AppError('wrong_host', { detail: `This server answers for ${host} only: open ${issuer}` })
    }
    const client = fromProxy ? lastUntrusted(headers['x-forwarded-for'], peer, isTrusted) : peer
    for (const name of ['forwarded', 'x-forwarded-host', 'x-forwarded-port', 'x-forwarded-prefix', 'x-real-ip'])
      delete headers[name]
    headers.host = host
    headers['x-forwarded-proto'] = protocol.slice(0, -1)
    headers['x-forwarded-for'] = client
  }
}

/** The right-most address that is not one of our proxies: what stands left of it the client may have made up. */
function lastUntrusted(
  forwardedFor: string | string[] | undefined,
  peer: string,
  isTrusted: (address: string) => boolean,
): string {
  const chain = String(forwardedFor ?? '')
    .split(',')
    .map((part) => part.trim())
    .filter((part) => ipaddr.isValid(part))
  return chain.reverse().find((address) => !isTrusted(address)) ?? chain.at(-1) ?? peer
}

function createRangeCheck(ranges: readonly string[]): (address: string) => boolean {
  const parsed = ranges.map((range) => {
    if (range.includes('/')) return ipaddr.parseCIDR(range)
    const address = ipaddr.process(range)
    return [address, address.kind() === 'ipv4' ? 32 : 128] as const
  })
  return (text) => {
    if (!ipaddr.isValid(text)) return false
    const address = ipaddr.process(text)
    return parsed.some(([network, bits]) => address.kind() === network.kind() && address.match([network, bits]))
  }
}

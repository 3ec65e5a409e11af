// A sink behind a webhook: lines are posted as application/x-ndjson, and read back with GET ?after=<seq>.

import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import type { ReadableStream } from 'node:stream/web'
import type { Secret } from '../crypto/secret.ts'
import type { Sink } from './service.ts'

const WRITE_MS = 5_000
const READ_MS = 60_000
const NDJSON = 'application/x-ndjson'

export interface WebhookSinkConfig {
  url: string
  /** Presented as a bearer token. */
  token: Secret | undefined
}

export function createWebhookSink({ url, token }: WebhookSinkConfig): Sink {
  const place = new URL(url).origin
  async function ask(address: string, mostMs: number, init: RequestInit): Promise<Response> {
    const headers = new Headers(init.headers)
    if (token !== undefined) headers.set('authorization', `Bearer ${token.reveal()}`)
    const response = await fetch(address, {
      ...init,
      headers,
      redirect: 'error', // the token is for this address
      signal: AbortSignal.timeout(mostMs),
    })
    if (response.ok) return response
    await response.body?.cancel()
    throw new Error(`the sink at ${place} answered ${response.status}`)
  }

  return {
    isLocal: false,
    place,
    async append(lines) {
      const response = await ask(url, WRITE_MS, {
        method: 'POST',
        headers: { 'content-type': NDJSON },
        body: `${lines.join('\n')}\n`,
      })
      await response.body?.cancel()
    },
    async *read(after) {
      const address = new URL(url)
      address.searchParams.set('after', String(after))
      const { body, headers } = await ask(address.href, READ_MS, { headers: { accept: NDJSON } })
      if (body === null || !headers.get('content-type')?.startsWith(NDJSON))
        throw new Error(`the sink at ${place} did not answer with ${NDJSON}`)
      const input = Readable.fromWeb(body as ReadableStream<Uint8Array<ArrayBuffer>>) // as every body is
      try {
        for await (const line of createInterface({ input })) if (line !== '') yield line
      } finally {
        input.destroy() // whoever has seen enough leaves the rest
      }
    },
  }
}

// A provider to call: it answers as it is told to, and remembers what it was asked.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Asked {
  method: string
  path: string
  headers: IncomingMessage['headers']
  body: string
}

export type Answering = (asked: Asked, response: ServerResponse) => void | Promise<void>

export interface Upstream {
  url: string
  asked: Asked[]
  /** From now on. */
  answer(answering: Answering): void
  /** How many callers are connected now. */
  connections(): number
  close(): Promise<void>
}

export const MODELS = { data: [{ id: 'a-model' }] }

export function json(status: number, body: unknown, headers: Record<string, string> = {}): Answering {
  return (_asked, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...headers })
    response.end(JSON.stringify(body))
  }
}

export async function startUpstream(): Promise<Upstream> {
  const asked: Asked[] = []
  let answering = json(200, MODELS)
  let connected = 0
  const server = createServer((request, response) => {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      const { method = '', url: path = '', headers } = request
      const one = { method, path, headers, body: Buffer.concat(parts).toString('utf8') }
      asked.push(one)
      void answering(one, response)
    })
  })
  server.on('connection', (socket) => {
    connected += 1
    socket.on('close', () => {
      connected -= 1
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo // it listens on a port
  return {
    url: `http://127.0.0.1:${port}`,
    asked,
    answer(next) {
      answering = next
    },
    connections: () => connected,
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

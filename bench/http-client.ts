// The generator's HTTP/1.1 client: one keep-alive connection, one request at a time. Written for this: fetch and
// node:http cost the generator more than the fastest contender costs its server, and a starved server is measured wrong.
import { connect, type Socket } from 'node:net'

export interface HttpResponse {
  readonly status: number
  /** Names in lower case. Of several lines with one name the last, except `set-cookie`, which is kept apart. */
  readonly headers: ReadonlyMap<string, string>
  readonly setCookies: readonly string[]
  readonly body: string
}

export interface HttpRequest {
  readonly method: 'GET' | 'POST' | 'PUT'
  readonly path: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

const TIMEOUT_MILLISECONDS = 20_000
const HEAD_END = Buffer.from('\r\n\r\n')

interface Pending {
  readonly resolve: (response: HttpResponse) => void
  readonly reject: (error: Error) => void
}

export class HttpConnection {
  readonly #port: number
  readonly #fixedHeaders: string
  #socket: Socket | undefined
  #received: Buffer = Buffer.alloc(0)
  #pending: Pending | undefined

  /** `headers` go with every request; `host` among them replaces the address connected to. */
  constructor(port: number, headers: Readonly<Record<string, string>> = {}) {
    this.#port = port
    this.#fixedHeaders = renderHeaders({ host: `127.0.0.1:${port}`, ...headers })
  }

  /** Sends one request and resolves with its whole answer; whatever the status. Rejects when there is no answer. */
  send(request: HttpRequest): Promise<HttpResponse> {
    if (this.#pending) return Promise.reject(new Error('a connection carries one request at a time'))
    const body = request.body ?? ''
    const length = request.method !== 'GET' ? `content-length: ${Buffer.byteLength(body)}\r\n` : ''
    const head = `${request.method} ${request.path} HTTP/1.1\r\n${this.#fixedHeaders}${renderHeaders(request.headers ?? {})}`
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject }
      this.#open().write(`${head}${length}\r\n${body}`)
    })
  }

  close(): void {
    this.#socket?.destroy()
    this.#socket = undefined
  }

  #open(): Socket {
    if (this.#socket && !this.#socket.destroyed) return this.#socket
    const socket = connect({ port: this.#port, host: '127.0.0.1', noDelay: true })
    socket.setTimeout(TIMEOUT_MILLISECONDS)
    socket.on('data', (chunk) => this.#take(chunk))
    socket.on('timeout', () => this.#fail(new Error(`no answer within ${TIMEOUT_MILLISECONDS} ms`)))
    socket.on('error', (error) => this.#fail(error))
    socket.on('close', () => {
      if (this.#socket === socket) this.#fail(new Error('the server closed the connection before its answer'))
    })
    this.#received = Buffer.alloc(0)
    this.#socket = socket
    return socket
  }

  #take(chunk: Buffer): void {
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk])
    if (!this.#pending) return
    try {
      const response = parseResponse(this.#received)
      if (!response) return
      const { resolve } = this.#pending
      this.#pending = undefined
      this.#received = Buffer.alloc(0)
      if (response.headers.get('connection') === 'close') this.close()
      resolve(response)
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)))
    }
  }

  #fail(error: Error): void {
    const pending = this.#pending
    this.#pending = undefined
    this.close()
    pending?.reject(error)
  }
}

function renderHeaders(headers: Readonly<Record<string, string>>): string {
  let text = ''
  for (const [name, value] of Object.entries(headers)) text += `${name}: ${value}\r\n`
  return text
}

/** The answer, or undefined while some of it is still to come. */
function parseResponse(received: Buffer): HttpResponse | undefined {
  const headEnd = received.indexOf(HEAD_END)
  if (headEnd < 0) return undefined
  const lines = received.toString('latin1', 0, headEnd).split('\r\n')
  const status = Number(lines[0]?.split(' ', 2)[1])
  if (!Number.isInteger(status)) throw new Error(`not an HTTP answer: ${lines[0]}`)
  const headers = new Map<string, string>()
  const setCookies: string[] = []
  for (const line of lines.slice(1)) {
    const colon = line.indexOf(':')
    const name = line.slice(0, colon).toLowerCase()
    const value = line.slice(colon + 1).trim()
    if (name === 'set-cookie') setCookies.push(value)
    else headers.set(name, value)
  }
  const body = readBody(received.subarray(headEnd + HEAD_END.length), status, headers)
  return body === undefined ? undefined : { status, headers, setCookies, body }
}

// RFC 9112 §6.3. A body that ends with the connection is not read: none of the contenders sends one.
function readBody(rest: Buffer, status: number, headers: ReadonlyMap<string, string>): string | undefined {
  if (status === 204 || status === 304) return ''
  if (headers.get('transfer-encoding')?.toLowerCase() === 'chunked') return readChunks(rest)
  const length = Number(headers.get('content-length') ?? Number.NaN)
  if (!Number.isInteger(length)) throw new Error(`an answer of status ${status} without a length`)
  return rest.length < length ? undefined : rest.toString('utf8', 0, length)
}

function readChunks(rest: Buffer): string | undefined {
  const chunks: Buffer[] = []
  let offset = 0
  for (;;) {
    const lineEnd = rest.indexOf('\r\n', offset)
    if (lineEnd < 0) return undefined
    const size = Number.parseInt(rest.toString('latin1', offset, lineEnd), 16)
    if (Number.isNaN(size)) throw new Error('a chunk without a size')
    const start = lineEnd + 2
    if (rest.length < start + size + 2) return undefined
    if (size === 0) return Buffer.concat(chunks).toString('utf8')
    chunks.push(rest.subarray(start, start + size))
    offset = start + size + 2
  }
}

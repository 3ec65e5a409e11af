// HTTP as bytes: what a client that keeps to no rules may send, and exactly what comes back.
import { connect } from 'node:net'

export interface RawAnswer {
  text: string
  status: number
  /** Lines of the first answer's head. */
  head: string[]
  body: string
  /** How many answers came. */
  answers: number
}

/** Sends bytes to a server on this machine, and reads until it closes the connection or is silent for a while. */
export function sendRaw(origin: string, bytes: string | Buffer, silentMs = 1_500): Promise<RawAnswer> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = []
    const socket = connect(Number(new URL(origin).port), '127.0.0.1', () => socket.write(bytes))
    const finish = () => {
      socket.destroy()
      resolve(parse(Buffer.concat(chunks).toString('latin1')))
    }
    socket.setTimeout(silentMs, finish)
    socket.on('data', (chunk: Buffer) => chunks.push(chunk))
    socket.on('close', finish)
    socket.on('error', () => {}) // a reset: what came before it counts
  })
}

function parse(text: string): RawAnswer {
  const [head = '', ...rest] = text.split('\r\n\r\n')
  const lines = head.split('\r\n')
  return {
    text,
    status: Number(/^HTTP\/1\.1 (\d{3})/.exec(text)?.[1] ?? 0),
    head: lines,
    body: rest.join('\r\n\r\n'),
    answers: text.match(/^HTTP\/1\.1 \d{3}/gm)?.length ?? 0,
  }
}

/** The head of a request; the connection ends with its answer. */
export function requestHead(method: string, path: string, headers: Record<string, string | string[]>): string {
  const lines = Object.entries({ Connection: 'close', ...headers }).flatMap(([name, value]) =>
    [value].flat().map((text) => `${name}: ${text}`),
  )
  return [`${method} ${path} HTTP/1.1`, ...lines, '', ''].join('\r\n')
}

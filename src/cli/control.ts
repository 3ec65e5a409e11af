// The local socket through which commands reach the server that holds the embedded database: one process at a time may.
import { createHash } from 'node:crypto'
import { existsSync, lstatSync, mkdirSync, unlinkSync } from 'node:fs'
import { createServer, request, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AppError, describeError, type ErrorCode } from '../errors.ts'

const MOST_PATH_BYTES = 100 // a socket's address has room for 104 or 108
const MOST_BODY_BYTES = 1_000_000

/** Where the socket of a data directory is: inside it, or, where that path is too long, beside the temporary files. */
export function controlPath(dataDirectory: string): string {
  const name = createHash('sha256').update(dataDirectory).digest('hex').slice(0, 16)
  if (process.platform === 'win32') return `\\\\.\\pipe\\latchkey-${name}`
  const inside = join(dataDirectory, 'control.sock')
  return Buffer.byteLength(inside) <= MOST_PATH_BYTES ? inside : join(ownTemporaryDirectory(), `${name}.sock`)
}

/** A directory beside the temporary files that nobody else can write to, or put there in our name. */
function ownTemporaryDirectory(): string {
  const user = process.getuid?.() ?? 0
  const directory = join(tmpdir(), `latchkey-${user}`)
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  const found = lstatSync(directory)
  if (found.isDirectory() && found.uid === user && (found.mode & 0o077) === 0) return directory
  throw new AppError('conflict', {
    detail: `${directory} belongs to somebody else, or others may write to it: set LATCHKEY_DATA_DIR to a shorter path.`,
  })
}

export interface CommandCall {
  command: string
  input: unknown
}

/**
 * Takes the socket, which is also the lock on the data directory, and answers calls until it is closed. Only the same
 * user of the machine can open it.
 *
 * @throws {AppError} `conflict` when another process holds the directory
 */
export async function holdControl(
  dataDirectory: string,
  run: (call: CommandCall) => Promise<unknown>,
): Promise<Server> {
  mkdirSync(dataDirectory, { recursive: true, mode: 0o700 })
  const path = controlPath(dataDirectory)
  if (await isAnswering(path)) {
    throw new AppError('conflict', {
      detail: `Another process is using ${dataDirectory}: stop it, or set LATCHKEY_DATA_DIR to another directory.`,
    })
  }
  if (process.platform !== 'win32' && existsSync(path)) unlinkSync(path) // left behind by a process that was killed
  const server = createServer((incoming, response) => {
    const answer = (status: number, body: unknown) =>
      response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(body))
    readBody(incoming)
      .then((text) => run(JSON.parse(text)))
      .then(
        (result) => answer(200, { result }),
        (error: unknown) => answer(400, { error: describe(error) }),
      )
  })
  const mask = process.umask(0o177) // the socket file is made with the mask of this moment
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve))
  } finally {
    process.umask(mask)
  }
  return server
}

/** Runs a command in the process that holds the directory; undefined when none does. @throws {AppError} as the command */
export async function callControl(dataDirectory: string, call: CommandCall): Promise<{ result: unknown } | undefined> {
  const path = controlPath(dataDirectory)
  if (process.platform !== 'win32' && !existsSync(path)) return undefined
  const text = await send(path, JSON.stringify(call))
  if (text === undefined) return undefined
  const answer: { result?: unknown; error?: { code: ErrorCode; detail: string } } = JSON.parse(text)
  if (answer.error !== undefined) throw new AppError(answer.error.code, { detail: answer.error.detail })
  return { result: answer.result }
}

async function isAnswering(path: string): Promise<boolean> {
  return (await send(path, JSON.stringify({ command: 'ping', input: {} }))) !== undefined
}

/** The answer's text; undefined when nobody listens. */
function send(socketPath: string, body: string): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method: 'POST', path: '/' }, (response) =>
      readBody(response).then(resolve, reject),
    )
    outgoing.on('error', (error) => (isNobody(error) ? resolve(undefined) : reject(error)))
    outgoing.end(body)
  })
}

function isNobody(error: Error): boolean {
  return 'code' in error && (error.code === 'ECONNREFUSED' || error.code === 'ENOENT')
}

async function readBody(stream: AsyncIterable<Buffer>): Promise<string> {
  const chunks: Buffer[] = []
  let sizeBytes = 0
  for await (const chunk of stream) {
    sizeBytes += chunk.length
    if (sizeBytes > MOST_BODY_BYTES) throw new AppError('payload_too_large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function describe(error: unknown): { code: ErrorCode; detail: string } {
  const known = error instanceof AppError ? error : new AppError('server_error', { cause: error })
  return {
    code: known.code,
    detail: known.code === 'server_error' ? describeError('server_error').sentence : known.detail,
  }
}

// What machines ask for all the time, answered in front of koa, whose layers cost several times the work itself. Only the
// plain form of such a request is taken here; every other form of it, and every other address, is the application's. The
// door stands before both; headers, log line and errors are the same.
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http'
import type { RequestInfo } from '../audit/service.ts'
import { failureHeaders, logFailure, oauthError, toAppError } from './errors.ts'
import { type Log, logRequest } from './log.ts'
import { jsonReply, type Reply } from './reply.ts'
import { fixedSecurityHeaders } from './security-headers.ts'
import { describeRequest } from './trace.ts'

/** A form that was posted: nothing of it has been looked at but its type and its length. */
export interface PostedForm {
  headers: IncomingHttpHeaders
  body: string
  about: RequestInfo
}

export interface FrontDeps {
  log: Log
  issuer: string
  /** Public documents, once they are there. */
  document: (path: string) => Reply | undefined
  /** Addresses that take a form from machines, and speak of failures as OAuth does. */
  forms: ReadonlyMap<string, (form: PostedForm) => Promise<Reply>>
  /** Rejects while nothing that the database says can be trusted; undefined when it can, without waiting. */
  requireSound: () => Promise<void> | undefined
}

type Handler = (request: IncomingMessage, response: ServerResponse) => void

/** Answers what is plain, and hands on what is not. */
export function createFront(deps: FrontDeps, application: Handler): Handler {
  const fixed = Object.entries(fixedSecurityHeaders(deps.issuer.startsWith('https:'))).flat()

  function send(response: ServerResponse, about: RequestInfo, { status, headers, body }: Reply): void {
    // A flat list of names and values is written as it is; setHeader would sort and look up each one.
    const list = [...fixed, 'X-Trace-Id', about.traceId]
    for (const name in headers) list.push(name, headers[name] ?? '')
    list.push('Content-Length', String(Buffer.byteLength(body)))
    response.writeHead(status, list)
    response.end(response.req.method === 'HEAD' ? undefined : body)
  }

  async function answerForm(
    request: IncomingMessage,
    response: ServerResponse,
    handle: (form: PostedForm) => Promise<Reply>,
  ): Promise<void> {
    const startedAt = performance.now()
    const about = describe(request)
    let reply: Reply
    try {
      await deps.requireSound()
      reply = await handle({ headers: request.headers, body: await readText(request), about })
    } catch (caught) {
      const error = toAppError(caught)
      logFailure(deps.log, about, error)
      reply = jsonReply(error.status, failureHeaders(error), oauthError(error))
    }
    logRequest(deps.log, about, { method: 'POST', route: request.url ?? '', status: reply.status, startedAt })
    send(response, about, reply)
  }

  return (request, response) => {
    const { method, url = '' } = request
    const handle = method === 'POST' && isPlainForm(request.headers) ? deps.forms.get(url) : undefined
    if (handle !== undefined) {
      answerForm(request, response, handle).catch((error: Error) => response.destroy(error))
      return
    }
    const document = (method === 'GET' || method === 'HEAD') && !hasBody(request.headers) && deps.document(url)
    if (!document) return application(request, response)
    const startedAt = performance.now()
    const about = describe(request)
    logRequest(deps.log, about, { method, route: url, status: document.status, startedAt })
    send(response, about, document)
  }
}

function describe({ headers }: IncomingMessage): RequestInfo {
  // The door wrote the one address that counts.
  return describeRequest((name) => String(headers[name] ?? ''), String(headers['x-forwarded-for']))
}

const MOST_FORM_BYTES = 56 * 1024

/** As nearly every client sends it. What is longer, compressed or of a type with parameters the application judges. */
function isPlainForm(headers: IncomingHttpHeaders): boolean {
  return (
    headers['content-type'] === 'application/x-www-form-urlencoded' &&
    headers['content-encoding'] === undefined &&
    headers['transfer-encoding'] === undefined &&
    Number(headers['content-length']) <= MOST_FORM_BYTES
  )
}

function hasBody(headers: IncomingHttpHeaders): boolean {
  return ['content-length', 'transfer-encoding', 'content-encoding'].some((name) => headers[name] !== undefined)
}

/** A body whose length has been looked at: the parser reads no more than that. */
function readText(request: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')))
    request.on('error', reject)
  })
}

// An API of somebody else, with the traces of each workspace: it takes Latchkey's JWTs and workspace tokens alike.
// Reading needs the scope traces:read, writing traces:write.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type Access, createVerifier, VerifierError } from 'latchkey/verifier'

const { ISSUER, AUDIENCE, CLIENT_ID, CLIENT_SECRET, PORT = '4000' } = process.env

const verify = createVerifier({
  issuer: ISSUER ?? 'http://localhost:3000',
  audience: AUDIENCE ?? 'https://traces.example.com',
  environment: 'production',
  clientId: CLIENT_ID ?? '',
  clientSecret: CLIENT_SECRET ?? '',
  onError: (error) => console.error(String(error)),
})

/** By workspace: whoever is let in sees those of one. */
const traces = new Map<string, string[]>()

async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const isReading = request.method === 'GET'
  const access: Access = await verify(request.headers.authorization, {
    scopes: [isReading ? 'traces:read' : 'traces:write'],
    clientIp: request.socket.remoteAddress,
    userAgent: request.headers['user-agent'],
  })
  const own = traces.get(access.workspaceId) ?? []
  if (!isReading) traces.set(access.workspaceId, [...own, `a trace by ${access.credentialId}`])
  answer(response, 200, { workspace: access.workspaceId, caller: access.subject, kind: access.kind, traces: own.length })
}

function answer(response: ServerResponse, status: number, body: object, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
}

const server = createServer((request, response) => {
  handle(request, response).catch((error: unknown) => {
    if (error instanceof VerifierError) answer(response, error.status, error.toJSON(), error.headers)
    else answer(response, 500, { error: 'server_error' })
  })
})

server.listen(Number(PORT), '127.0.0.1', () => console.log(`http://127.0.0.1:${PORT}`))

process.once('SIGTERM', () => {
  server.close()
  void verify.close() // tells the last uses
})

// Somebody else's API, as a program of its own: it lets in whom the verifier lets in, and says nothing else. Told by its
// environment what an operator is told when the API is registered.
import { createServer } from 'node:http'
import { createVerifier, VerifierError } from '../../src/verifier/index.ts'

const { ISSUER = '', AUDIENCE = '', CLIENT_ID = '', CLIENT_SECRET = '' } = process.env

const verify = createVerifier({
  issuer: ISSUER,
  audience: AUDIENCE,
  environment: 'production',
  clientId: CLIENT_ID,
  clientSecret: CLIENT_SECRET,
})

const server = createServer(async (request, response) => {
  if (request.url === '/state') {
    global.gc?.()
    response.end(JSON.stringify({ isLive: verify.isLive(), heapBytes: process.memoryUsage().heapUsed }))
    return
  }
  try {
    const { credentialId } = await verify(request.headers.authorization)
    response.end(credentialId)
  } catch (error) {
    const refusal = error instanceof VerifierError ? error : undefined
    response.writeHead(refusal?.status ?? 500, { ...refusal?.headers })
    response.end(refusal?.reason ?? String(error))
  }
})
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  process.stdout.write(`listening on ${typeof address === 'object' ? address?.port : address}\n`)
})

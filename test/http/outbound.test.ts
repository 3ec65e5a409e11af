// Calls to addresses that somebody else chose: where they may lead, how long they take, and what is read of the answer.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createHttpServer, type RequestListener } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterEach, describe, expect, it } from 'vitest'
import { createOutbound, MOST_BYTES, type OutboundAnswer, type OutboundOptions } from '../../src/http/outbound.ts'

const REFUSED: OutboundAnswer = { ok: false, failure: 'refused' }
const closing: Array<() => Promise<void>> = []

afterEach(async () => {
  for (const close of closing.splice(0)) await close()
})

/** A listener that must see nobody. */
async function startCanary(host = '127.0.0.1') {
  let connections = 0
  const sockets = new Set<Socket>()
  const server = createTcpServer((socket) => {
    connections++
    sockets.add(socket)
    socket.on('error', () => {})
  })
  await new Promise<void>((resolve) => server.listen(0, host, resolve))
  closing.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return { port: portOf(server.address()), connections: () => connections }
}

async function startReceiver(listener: RequestListener) {
  const requests: Array<{
    method: string | undefined
    url: string | undefined
    body: string
    type: string | undefined
  }> = []
  const server = createHttpServer(async (request, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk)
    requests.push({
      method: request.method,
      url: request.url,
      body: Buffer.concat(chunks).toString(),
      type: request.headers['content-type'],
    })
    listener(request, response)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  })
  return { url: `http://127.0.0.1:${portOf(server.address())}`, requests }
}

/** What a server writes by hand, to whoever connects. */
async function startRaw(answer: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createTcpServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('data', () => answer(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closing.push(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return `http://127.0.0.1:${portOf(server.address())}/`
}

function portOf(address: AddressInfo | string | null): number {
  if (address === null || typeof address === 'string') throw new Error('no port')
  return address.port
}

const open = (options: Partial<OutboundOptions> = {}) => createOutbound({ reach: 'loopback', ...options })
const post = (url: string, options: Partial<OutboundOptions> = {}, reads: 'status' | 'body' = 'body') =>
  open(options).send({
    url,
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: 'logout_token=x',
    reads,
  })
const resolvingTo =
  (...addresses: string[]): NonNullable<OutboundOptions['lookup']> =>
  (_name, done) =>
    done(null, addresses)

describe('where a call may lead', () => {
  it.each([
    '127.0.0.1',
    '127.1.2.3',
    '127.1',
    '0177.0.0.1',
    '0x7f.1',
    '2130706433',
    '0.0.0.0',
    '0',
    '[::1]',
    '[::]',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[::127.0.0.1]',
    '[64:ff9b::7f00:1]',
    '[64:ff9b:1::7f00:1]',
    '[2002:7f00:1::]',
    '[2001:0:7f00:1::1]',
    'localhost',
    'localhost.',
    '127.0.0.1.',
  ])('%s is this machine: nothing connects to it', async (host) => {
    const four = await startCanary()
    const six = await startCanary('::1')
    for (const port of [four.port, six.port]) {
      for (const scheme of ['http', 'https'])
        expect(await post(`${scheme}://${host}:${port}/`, { reach: 'public' })).toMatchObject({ ok: false })
    }
    expect([four.connections(), six.connections()]).toEqual([0, 0])
  })

  it.each([
    ['private', '10.0.0.1', '172.16.0.1', '172.31.255.255', '192.168.1.1', 'fd00::1', '100.64.0.1', 'fd00:ec2::254'],
    ['link-local, where clouds keep their metadata', '169.254.169.254', 'fe80::1', '::ffff:169.254.169.254'],
    ['of no host', '0.1.2.3', '255.255.255.255', '224.0.0.1', 'ff02::1', '240.0.0.1', '192.0.2.1', '2001:db8::1'],
    ['of a test network', '198.18.0.1', '192.0.0.8', '3fff::1', '100::1'],
    ['another form of a private one', '2002:a00:1::', '64:ff9b::a00:1', '::10.0.0.1', '2001:0:a00:1::', 'fec0::1'],
  ])('an address that is %s is refused, literal or resolved', async (_what, ...addresses) => {
    const outbound = open({ reach: 'public' })
    for (const address of addresses) {
      const literal = address.includes(':') ? `[${address}]` : address
      expect([address, outbound.problem(`https://${literal}/`)]).toEqual([
        address,
        expect.stringContaining('names an address'),
      ])
      const named = await post('https://rp.example.com/', { reach: 'public', lookup: resolvingTo(address) })
      expect([address, named]).toEqual([address, REFUSED])
    }
  })

  it('a public address is called, also where a network translates it', () => {
    const outbound = open({ reach: 'public' })
    for (const host of [
      '8.8.8.8',
      '[2606:4700:4700::1111]',
      '[64:ff9b::808:808]',
      '[::ffff:8.8.8.8]',
      'rp.example.com',
    ])
      expect([host, outbound.problem(`https://${host}/`)]).toEqual([host, undefined])
  })

  it('a name with one inner address among public ones is refused whole', async () => {
    const canary = await startCanary()
    const lookup = resolvingTo('93.184.215.14', '127.0.0.1')
    expect(await post(`https://rp.example.com:${canary.port}/`, { reach: 'public', lookup })).toEqual(REFUSED)
    expect(canary.connections()).toBe(0)
  })

  it('a name that changes between one call and the next is looked at each time, and connected to as it was looked at', async () => {
    const canary = await startCanary()
    const answers = ['127.0.0.1', '10.0.0.1', '127.0.0.1']
    let asked = 0
    const outbound = open({ mostMs: 2_000, lookup: (_name, done) => done(null, [answers[asked++] ?? '']) })
    const url = `https://rebinding.example.com:${canary.port}/`
    expect(outbound.problem(url)).toBeUndefined()
    expect(asked).toBe(0) // nothing is resolved for that
    const first = outbound.send({ url, method: 'POST', reads: 'status' })
    await expect.poll(canary.connections).toBe(1)
    expect(asked).toBe(1) // and not once more for the connection
    expect(await outbound.send({ url, method: 'POST', reads: 'status' })).toEqual(REFUSED)
    expect(asked).toBe(2)
    expect(await first).toEqual({ ok: false, failure: 'timeout' }) // a canary says nothing
    expect(canary.connections()).toBe(1)
  })

  it('loopback is this machine alone, and plain http nothing else', async () => {
    const receiver = await startReceiver((_request, response) => response.end())
    expect(await post(receiver.url)).toMatchObject({ ok: true, status: 200 })
    expect(await post(receiver.url.replace('127.0.0.1', 'localhost'))).toMatchObject({ ok: true, status: 200 })
    for (const reach of ['loopback', 'private'] as const) {
      const outbound = open({ reach })
      for (const host of ['10.0.0.1', 'rp.example.com', '8.8.8.8', '127.0.0.1.example.com', 'localhost.example.com'])
        expect(outbound.problem(`http://${host}/`)).toContain('must begin with https://')
    }
    expect(open().problem('https://10.0.0.1/')).toContain('names an address')
    expect(open({ reach: 'private' }).problem('https://10.0.0.1/')).toBeUndefined()
    expect(open({ reach: 'private' }).problem('https://169.254.169.254/')).toContain('names an address')
    // Whatever localhost is in somebody's name service, plain http stays here.
    expect(await post(`http://localhost:1/`, { lookup: resolvingTo('93.184.215.14') })).toEqual(REFUSED)
  })

  it.each([
    ['another scheme', 'ftp://rp.example.com/'],
    ['a file', 'file:///etc/passwd'],
    ['user and password', 'https://user:secret@rp.example.com/'],
    ['no address', 'rp.example.com'],
    ['nothing', ''],
  ])('%s is refused', async (_what, url) => {
    expect(open({ reach: 'private' }).problem(url)).toBeDefined()
    expect(await post(url, { reach: 'private' })).toEqual(REFUSED)
  })
})

describe('what a call does', () => {
  it('sends the body and its type, and hands over status and answer', async () => {
    const receiver = await startReceiver((_request, response) => response.writeHead(400).end('no'))
    const answer = await post(`${receiver.url}/out?x=1`)
    expect(answer).toEqual({ ok: true, status: 400, body: Buffer.from('no') })
    expect(receiver.requests).toEqual([
      { method: 'POST', url: '/out?x=1', body: 'logout_token=x', type: 'application/x-www-form-urlencoded' },
    ])
  })

  it('follows no redirect', async () => {
    const canary = await startCanary()
    const receiver = await startReceiver((_request, response) =>
      response.writeHead(307, { location: `http://127.0.0.1:${canary.port}/` }).end(),
    )
    expect(await post(receiver.url)).toMatchObject({ ok: true, status: 307 })
    expect(canary.connections()).toBe(0)
    expect(receiver.requests.length).toBe(1)
  })

  it.each([
    ['declared', { 'content-length': String(MOST_BYTES * 200) }],
    ['not declared', {}],
  ])('reads no more than 64 KiB of an answer whose length is %s', async (_what, headers) => {
    let written = 0
    const receiver = await startReceiver((_request, response) => {
      response.writeHead(200, headers)
      const write = () => {
        while (!response.destroyed && written < MOST_BYTES * 200) {
          written += MOST_BYTES
          if (!response.write(Buffer.alloc(MOST_BYTES))) return void response.once('drain', write)
        }
        response.end()
      }
      write()
    })
    expect(await post(receiver.url)).toEqual({ ok: false, failure: 'too_large' })
    expect(written).toBeLessThan(MOST_BYTES * 200)
  })

  it('reads an answer of exactly as much, and nothing of one that only its status is asked of', async () => {
    const whole = await startReceiver((_request, response) => response.end(Buffer.alloc(MOST_BYTES)))
    expect(await post(whole.url)).toMatchObject({ ok: true, status: 200 })
    const endless = await startReceiver((_request, response) => void response.writeHead(200).write('x'))
    expect(await post(endless.url, {}, 'status')).toEqual({ ok: true, status: 200, body: Buffer.alloc(0) })
  })

  it('unpacks nothing', async () => {
    const packed = gzipSync(Buffer.alloc(10_000_000))
    const receiver = await startReceiver((_request, response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end(packed),
    )
    expect(await post(receiver.url)).toEqual({ ok: true, status: 200, body: packed })
  })

  it.each([
    ['never answers', () => {}],
    ['sends its headers a byte at a time', (socket: Socket) => drip(socket, 'HTTP/1.1 200 OK\r\nX-Long: ')],
    ['goes on with informational answers', (socket: Socket) => drip(socket, '', 'HTTP/1.1 103 Early Hints\r\n\r\n')],
    [
      'sends its body a byte at a time',
      (socket: Socket) => drip(socket, 'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n'),
    ],
  ])('is over in time where the other side %s', async (_what, answer) => {
    expect(await post(await startRaw(answer), { mostMs: 500 })).toEqual({ ok: false, failure: 'timeout' })
  })

  it('has five seconds in all, also where a name is never resolved', async () => {
    const startedAt = performance.now()
    expect(await post('https://rp.example.com/', { lookup: () => {} })).toEqual({ ok: false, failure: 'timeout' })
    expect(performance.now() - startedAt).toBeGreaterThan(4_900)
  })

  it.each([
    ['is cut before it is whole', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour')],
    ['is no HTTP', (socket: Socket) => socket.end('220 smtp.example.com\r\n')],
    ['is nothing', (socket: Socket) => socket.end()],
    [
      'switches to another protocol',
      (socket: Socket) => socket.end('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'),
    ],
    ['has headers without end', (socket: Socket) => socket.write(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}`)],
  ])('an answer that %s is none', async (_what, answer) => {
    expect(await post(await startRaw((socket) => void answer(socket)))).toEqual({ ok: false, failure: 'unreachable' })
  })

  it('nobody there, and a name that is none, are told apart from a refusal', async () => {
    const canary = await startCanary()
    const url = `http://127.0.0.1:${canary.port}/`
    await closing.pop()?.()
    expect(await post(url)).toEqual({ ok: false, failure: 'unreachable' })
    const lookup: OutboundOptions['lookup'] = (_name, done) => done(new Error('ENOTFOUND'), [])
    expect(await post('https://rp.example.com/', { lookup })).toEqual({ ok: false, failure: 'unreachable' })
  })

  it('sends nothing to whoever shows a certificate that nobody vouches for', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'latchkey-outbound-'))
    const [key, cert] = ['key.pem', 'cert.pem'].map((file) => join(directory, file))
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1']
    const files = ['-keyout', key ?? '', '-out', cert ?? '']
    execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '1', ...subject, ...files], {
      stdio: 'ignore',
    })
    let requests = 0
    const server = createHttpsServer(
      { key: readFileSync(key ?? ''), cert: readFileSync(cert ?? '') },
      (_request, response) => {
        requests++
        response.end()
      },
    )
    server.on('tlsClientError', () => {})
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    closing.push(async () => {
      rmSync(directory, { recursive: true })
      await new Promise((resolve) => server.close(resolve))
    })
    expect(await post(`https://127.0.0.1:${portOf(server.address())}/`)).toEqual({ ok: false, failure: 'unreachable' })
    expect(requests).toBe(0)
  })

  it('leaves nothing open behind it', async () => {
    const receiver = await startReceiver((request, response) => {
      if (request.url === '/cut') return void request.socket.destroy()
      response.writeHead(200).write('x'.repeat(1_000)) // and never ends
    })
    const before = process.getActiveResourcesInfo().length
    for (let round = 0; round < 20; round++)
      await Promise.all(
        Array.from({ length: 10 }, (_, index) => post(`${receiver.url}/${index % 2 === 0 ? 'cut' : ''}`, {}, 'status')),
      )
    await expect.poll(() => process.getActiveResourcesInfo().length, { timeout: 10_000 }).toBeLessThan(before + 10)
  })
})

describe('a call whose answer is read as it comes', () => {
  const call = { method: 'GET', headers: {}, signal: new AbortController().signal } as const

  it('passes on what came, also of an answer that is cut', async () => {
    const url = await startRaw((socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf')
      setTimeout(() => socket.destroy(), 50)
    })
    const answer = await open().open({ ...call, url })
    if (!answer.ok) throw new Error(answer.failure)
    let text = ''
    const reading = (async () => {
      for await (const part of answer.body) text += String(part)
    })()
    await expect(reading).rejects.toThrow()
    expect(text).toBe('half')
  })

  it('ends where its signal says so: before the answer, and in it', async () => {
    const url = await startRaw(() => {})
    const before = new AbortController()
    const asking = open().open({ ...call, url, signal: before.signal })
    setTimeout(() => before.abort(), 50)
    expect(await asking).toEqual({ ok: false, failure: 'unanswered' })
    expect(await open().open({ ...call, url, signal: AbortSignal.abort() })).toEqual({
      ok: false,
      failure: 'unreachable',
    })

    const begun = await startRaw((socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf'))
    const during = new AbortController()
    const answer = await open().open({ ...call, url: begun, signal: during.signal })
    if (!answer.ok) throw new Error(answer.failure)
    const closed = new Promise((resolve) => answer.body.once('error', resolve))
    during.abort()
    expect(await closed).toBeInstanceOf(Error)
  })

  it('tells what was sent and not answered from what was not sent', async () => {
    const post = { ...call, method: 'POST' } as const
    const taking = await startRaw((socket) => void socket.destroy())
    expect(await open().open({ ...post, url: taking, body: Buffer.from('{}') })).toEqual({
      ok: false,
      failure: 'unanswered',
    })
    const half = await startRaw((socket) => void socket.destroy()) // which has read no more than the beginning
    expect(await open().open({ ...post, url: half, body: Buffer.alloc(50_000_000) })).toEqual({
      ok: false,
      failure: 'unreachable',
    })
    const { port } = await startCanary()
    await closing.pop()?.()
    expect(await open().open({ ...post, url: `http://127.0.0.1:${port}/`, body: Buffer.from('{}') })).toEqual({
      ok: false,
      failure: 'unreachable',
    })
  })

  it.each(['a\nb', 'ключ'])('never rejects: not for a header that nobody can send either (%j)', async (value) => {
    const { url, requests } = await startReceiver((_request, response) => response.end())
    const headers = { 'x-api-key': value }
    expect(await open().open({ ...call, url, headers })).toEqual({ ok: false, failure: 'unreachable' })
    expect(await open().send({ url, method: 'GET', headers, reads: 'body' })).toEqual({
      ok: false,
      failure: 'unreachable',
    })
    expect(requests).toEqual([])
  })
})

function drip(socket: Socket, first: string, piece = 'x'): void {
  socket.write(first)
  const timer = setInterval(() => (socket.destroyed ? clearInterval(timer) : socket.write(piece)), 50)
  socket.on('close', () => clearInterval(timer))
}

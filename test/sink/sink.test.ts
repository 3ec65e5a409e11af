// The sink: files, a directory of them, and a webhook that can be read back; and what is signed in it.
import { randomBytes } from 'node:crypto'
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { Secret } from '../../src/crypto/secret.ts'
import { createSink, type Sink } from '../../src/sink/service.ts'
import { createSinkSigner } from '../../src/sink/signing.ts'
import { freePort } from '../support/server.ts'

async function all(sink: Sink, after = 0): Promise<string[]> {
  const lines: string[] = []
  for await (const line of sink.read(after)) lines.push(line)
  return lines
}

describe('a sink of files', () => {
  let directory: string
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'latchkey-sink-'))
  })
  afterEach(() => rmSync(directory, { recursive: true }))

  const file = () => createSink({ kind: 'files', path: join(directory, 'made', 'sink.ndjson') })
  const shared = () => createSink({ kind: 'files', path: `${directory}/` })

  it('is empty before anything was written, and makes its directory when something is', async () => {
    expect(await all(file())).toEqual([])
    await file().append(['{"seq":1}', '{"seq":2}'])
    expect(await all(file())).toEqual(['{"seq":1}', '{"seq":2}'])
  })

  it('keeps what was written at once by many, each line whole', async () => {
    const [one, other] = [file(), file()]
    const lines = Array.from({ length: 200 }, (_, place) => JSON.stringify({ seq: place, text: 'x'.repeat(place) }))
    await Promise.all(lines.map((line, place) => (place % 2 === 0 ? one : other).append([line])))
    expect((await all(one)).sort()).toEqual([...lines].sort())
  })

  it('goes on behind half a line of a process that was killed', async () => {
    const sink = file()
    await sink.append(['{"seq":1}'])
    appendFileSync(join(directory, 'made', 'sink.ndjson'), '{"seq":2,"jw')
    await sink.append(['{"seq":3}'])
    expect(await all(sink)).toEqual(['{"seq":1}', '{"seq":2,"jw', '{"seq":3}'])
  })

  it('that cannot be written says so to everybody who waits, and to none that comes later', async () => {
    const path = join(directory, 'sink.ndjson')
    const sink = createSink({ kind: 'files', path: join(path, 'below') })
    appendFileSync(path, '') // a file where a directory has to be
    const outcomes = await Promise.allSettled([sink.append(['1']), sink.append(['2'])])
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    rmSync(path)
    await sink.append(['3'])
    expect(await all(sink)).toEqual(['3'])
  })

  it('in a directory is a file for each process, which only its owner reads, and all are read', async () => {
    await shared().append(['{"seq":1}'])
    await shared().append(['{"seq":2}'])
    expect(readdirSync(directory)).toHaveLength(2)
    expect((await all(shared())).sort()).toEqual(['{"seq":1}', '{"seq":2}'])
  })
})

describe('a webhook', () => {
  let server: Server
  let url: string
  let kept: string[]
  let asked: IncomingMessage[]
  let status: number
  let type: string
  let endless: boolean
  beforeAll(async () => {
    const port = await freePort()
    url = `http://127.0.0.1:${port}/sink`
    server = createServer(async (request, response) => {
      asked.push(request)
      if (status !== 200) return void response.writeHead(status, { location: '/elsewhere' }).end('secret words')
      if (request.method === 'POST') {
        kept.push(...(await text(request)).split('\n').filter(Boolean))
        return void response.writeHead(204).end()
      }
      response.writeHead(200, { 'content-type': type })
      if (endless) response.write('{"seq":1}\n'.repeat(10_000))
      else response.end(`${kept.join('\n')}\n`)
    }).listen(port, '127.0.0.1')
  })
  afterAll(() => new Promise((resolve) => server.close(resolve)))
  beforeEach(() => {
    kept = []
    asked = []
    status = 200
    endless = false
    type = 'application/x-ndjson'
  })

  const webhook = () => createSink({ kind: 'webhook', url, token: new Secret('a-token-of-its-own') })

  it('is posted to and read back, with its token', async () => {
    await webhook().append(['{"seq":1}', '{"seq":2}'])
    expect(await all(webhook(), 1)).toEqual(['{"seq":1}', '{"seq":2}'])
    expect(asked.map(({ method, url, headers }) => [method, url, headers.authorization])).toEqual([
      ['POST', '/sink', 'Bearer a-token-of-its-own'],
      ['GET', '/sink?after=1', 'Bearer a-token-of-its-own'],
    ])
  })

  it('is left when enough was read, also in the middle of an endless answer', async () => {
    endless = true
    const closed = new Promise((resolve) => server.once('request', (_, response) => response.once('close', resolve)))
    for await (const line of webhook().read(1)) {
      expect(line).toBe('{"seq":1}')
      break
    }
    await closed
  })

  it('that answers with something else than lines cannot be read', async () => {
    kept = ['<html>']
    type = 'text/html'
    await expect(all(webhook())).rejects.toThrow('did not answer with')
  })

  it.each([500, 302, 401])('that answers %i has kept nothing, and cannot be read', async (answer) => {
    status = answer
    await expect(webhook().append(['1'])).rejects.toThrow(/sink|fetch failed/)
    await expect(all(webhook())).rejects.toThrow(/sink|fetch failed/)
    expect(asked.every((request) => request.url?.startsWith('/sink'))).toBe(true) // not followed
    await expect(webhook().append(['1'])).rejects.not.toThrow(/secret words|a-token/)
  })
})

describe('what is signed', () => {
  const [newer, older, foreign] = [randomBytes(32), randomBytes(32), randomBytes(32)]

  it('opens with the same master key, also one that is being retired, and with no other', async () => {
    const before = await createSinkSigner([older]).sign({ seq: 1 })
    expect(await createSinkSigner([older]).open(before)).toEqual({ seq: 1 })
    expect(await createSinkSigner([newer, older]).open(before)).toEqual({ seq: 1 })
    expect(await createSinkSigner([foreign]).open(before)).toBeUndefined()
  })

  it('does not open when a character was changed', async () => {
    const signer = createSinkSigner([newer])
    const [header, payload, signature] = (await signer.sign({ seq: 1 })).split('.')
    const forged = Buffer.from(JSON.stringify({ seq: 2 })).toString('base64url')
    expect(await signer.open([header, forged, signature].join('.'))).toBeUndefined()
    expect(await signer.open([header, payload, ''].join('.'))).toBeUndefined()
    expect(await signer.open('')).toBeUndefined()
  })

  it('holds nothing of the master key', async () => {
    const path = join(tmpdir(), `latchkey-sink-${randomBytes(6).toString('hex')}`)
    const sink = createSink({ kind: 'files', path })
    await sink.append([await createSinkSigner([newer]).sign({ seq: 1 })])
    const written = readFileSync(path)
    for (const form of ['hex', 'base64', 'base64url'] as const)
      expect(written.includes(newer.toString(form))).toBe(false)
    rmSync(path)
  })
})

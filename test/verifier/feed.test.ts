// What the verifier believes of the feed, and when: silence, clocks that are set, lists that are older, proxies in between.
import { describe, expect, it, vi } from 'vitest'
import type { Verifier } from '../../src/verifier/index.ts'
import { becomesLive, decision, json, openVerifier, outcome, send, useIssuer } from './issuer.ts'

const HOUR_MS = 3_600_000
const scene = useIssuer()
const { open } = scene

/** Without anybody to ask: what is let in was decided from memory. */
const decided = (verify: Verifier, value: string) => decision(scene.issuer, verify, value)
const undecided = (verify: Verifier, value: string) => {
  scene.issuer.onIntrospect = (_form, response) => void response.writeHead(503).end()
  return outcome(verify, value)
}

/** Sets the wall clock of the verifier, or both on. The issuer has its own. */
function shiftClocks(by: { wall?: number; monotonic?: number }): void {
  vi.useRealTimers()
  vi.restoreAllMocks()
  const monotonic = performance.now.bind(performance)
  vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + (by.wall ?? 0), shouldAdvanceTime: true })
  vi.spyOn(performance, 'now').mockImplementation(() => monotonic() + (by.monotonic ?? 0))
}

describe('silence', () => {
  it('a feed that is open and says nothing counts for a second; then others are asked, and the feed is opened anew', async () => {
    const verify = await open()
    const jwt = await scene.issuer.jwt()
    expect(await decided(verify, jwt)).toBe('200')
    scene.issuer.isSilent = true
    await becomesLive(verify, false)
    expect(await undecided(verify, jwt)).toMatch(/^503/)
    scene.issuer.onIntrospect = (_form, response) => json(response, { active: true })
    expect(await outcome(verify, jwt)).toBe('200')
    scene.issuer.onIntrospect = (_form, response) => json(response, { active: false })
    expect(await outcome(verify, jwt)).toMatch(/^401/)
    scene.issuer.isSilent = false
    scene.issuer.cutStreams()
    await becomesLive(verify)
    expect(await decided(verify, jwt)).toBe('200')
  })

  it('an issuer that cannot say that its list is whole is not believed, however often it speaks', async () => {
    const verify = await open()
    scene.issuer.isBlind = true
    await becomesLive(verify, false)
    expect(await undecided(verify, await scene.issuer.jwt())).toMatch(/^503/)
    scene.issuer.isBlind = false
    await becomesLive(verify)
  })

  it('what ended while the connection was lost is known with the first word of the next one', async () => {
    const verify = await open()
    const jwt = await scene.issuer.jwt()
    await outcome(verify, jwt)
    scene.issuer.onFeed = (_request, response) => void response.destroy()
    scene.issuer.cutStreams()
    await becomesLive(verify, false)
    scene.issuer.end('con_1', { closed: true })
    scene.issuer.onFeed = undefined
    await becomesLive(verify)
    expect(await decided(verify, jwt)).toBe('401 ended')
    expect(
      scene.issuer.asked.at(-1)?.cursor ?? scene.issuer.asked.findLast(({ path }) => path === '/revocations')?.cursor,
    ).toBe('first.0')
  })

  it('it is not asked ever faster, nor all at once: pauses grow, and are not the same', async () => {
    scene.issuer.onFeed = (_request, response) => void response.writeHead(500).end()
    scene.begin()
    await expect.poll(() => scene.issuer.count('/revocations'), { timeout: 20_000 }).toBeGreaterThanOrEqual(6)
    const times = scene.issuer.asked.filter(({ path }) => path === '/revocations').map(({ atMs }) => atMs)
    const pauses = times.slice(1).map((time, index) => time - (times[index] ?? 0))
    expect(pauses.at(4)).toBeGreaterThan(2 * (pauses.at(0) ?? 0))
    expect(pauses.at(4)).toBeGreaterThan(700)
  })

  it('a listener to errors that fails itself ends nothing', async () => {
    const verify = await open({
      onError() {
        throw new Error('the log is full')
      },
    })
    scene.issuer.onFeed = (_request, response) => void response.destroy()
    scene.issuer.cutStreams()
    await becomesLive(verify, false)
    scene.issuer.onFeed = undefined
    await becomesLive(verify)
  })

  it('gibberish is no message: the connection is given up, and what was known before stays', async () => {
    const verify = await open()
    scene.issuer.end('con_1', { closed: true })
    const jwt = await scene.issuer.jwt()
    await expect.poll(() => decided(verify, jwt)).toBe('401 ended')
    const nonsense = [{}, null, { ...scene.issuer.message(), entries: [{ subject: 5 }] }, { entries: 'none' }]
    let opened = 0
    scene.issuer.onFeed = (_request, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      send(response, nonsense[opened++ % nonsense.length])
    }
    scene.issuer.cutStreams()
    await expect.poll(() => opened, { timeout: 10_000 }).toBeGreaterThan(nonsense.length)
    expect(await undecided(verify, jwt)).toMatch(/^503/)
    scene.issuer.onFeed = undefined
    scene.issuer.cutStreams()
    await becomesLive(verify)
    expect(await decided(verify, jwt)).toBe('401 ended')
  })
})

describe('a list in pages', () => {
  it('counts with its last page, not before', async () => {
    for (let index = 0; index < 5; index++) scene.issuer.end(`con_other_${index}`, { closed: true })
    scene.issuer.end('con_1', { closed: true })
    scene.issuer.entriesAPage = 2
    const held: Array<() => void> = []
    scene.issuer.onFeed = async (request, response) => {
      const url = new URL(request.url ?? '', 'http://issuer')
      // Page after page, as this issuer answers polls; the last one is held back.
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      let cursor = url.searchParams.get('cursor')
      for (;;) {
        const query = cursor === null ? '' : `?cursor=${cursor}`
        const answer = await new Promise<Record<string, unknown>>((resolve) => {
          scene.issuer.onFeed = undefined
          fetch(`${scene.issuer.origin}/revocations${query}`).then(async (got) => resolve(await got.json()))
        })
        cursor = String(answer.cursor)
        if (answer.more === true) send(response, answer)
        else {
          held.push(() => send(response, answer))
          return
        }
      }
    }
    const verify = scene.begin()
    await expect.poll(() => held.length, { timeout: 10_000 }).toBe(1)
    const jwt = await scene.issuer.jwt()
    expect(verify.isLive()).toBe(false)
    expect(await undecided(verify, jwt)).toMatch(/^503/)
    held[0]?.()
    await becomesLive(verify)
    expect(await decided(verify, jwt)).toBe('401 ended')
  })

  it('that breaks off goes on where it was, and counts when it is whole', async () => {
    for (let index = 0; index < 5; index++) scene.issuer.end(`con_other_${index}`, { closed: true })
    scene.issuer.end('con_1', { closed: true })
    scene.issuer.entriesAPage = 2
    scene.issuer.onFeed = (_request, response) => {
      scene.issuer.onFeed = undefined
      void fetch(`${scene.issuer.origin}/revocations`).then(async (got) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        send(response, await got.json())
        setTimeout(() => response.destroy(), 50)
      })
    }
    const verify = await open()
    await becomesLive(verify)
    expect(await decided(verify, await scene.issuer.jwt())).toBe('401 ended')
    const cursors = scene.issuer.asked
      .filter(({ accept }) => accept === 'text/event-stream')
      .map(({ cursor }) => cursor)
    expect(cursors).toEqual([null, 'first.2'])
  })
})

describe('clocks', () => {
  it('a wall clock that is set back brings nothing back: neither what is over nor what has ended', async () => {
    const verify = await open()
    const iat = Math.floor(scene.issuer.now() / 1000) - 700
    const over = await scene.issuer.jwt({ iat, exp: iat + 600 })
    const ended = await scene.issuer.jwt({ credential_id: 'con_ended' })
    scene.issuer.end('con_ended', { closed: true })
    await expect.poll(() => decided(verify, ended)).toBe('401 ended')
    shiftClocks({ wall: -HOUR_MS })
    await becomesLive(verify)
    expect(await decided(verify, over)).toBe('401 ERR_JWT_EXPIRED')
    expect(await decided(verify, ended)).toBe('401 ended')
    expect(await decided(verify, await scene.issuer.jwt())).toBe('200')
  })

  it('a wall clock that is set forward is doubted, and put right by asking what time it is', async () => {
    const verify = await open()
    scene.issuer.end('con_ended', { closed: true })
    const [good, ended] = [await scene.issuer.jwt(), await scene.issuer.jwt({ credential_id: 'con_ended' })]
    await expect.poll(() => decided(verify, ended)).toBe('401 ended')
    shiftClocks({ wall: 2 * HOUR_MS })
    expect(verify.isLive()).toBe(false)
    await becomesLive(verify)
    expect(await decided(verify, good)).toBe('200')
    // The entry would be over by the clock that was wrong.
    shiftClocks({ wall: 2 * HOUR_MS, monotonic: 61_000 })
    await becomesLive(verify)
    expect(await decided(verify, ended)).toBe('401 ended')
  })

  it('a machine that slept knows nothing until it has heard from the issuer again', async () => {
    const verify = await open()
    scene.issuer.isSilent = true
    shiftClocks({ wall: 10_000 }) // the monotonic clock stood still
    expect(verify.isLive()).toBe(false)
    scene.issuer.isSilent = false
    scene.issuer.shiftMs += 10_000
    await becomesLive(verify)
  })

  it('an issuer whose clock is hours away, or is set while it speaks, decides what time it is', async () => {
    scene.issuer.shiftMs = 5 * HOUR_MS
    const verify = await open()
    expect(await decided(verify, await scene.issuer.jwt())).toBe('200')
    for (const shift of [-3 * HOUR_MS, 2 * HOUR_MS, -4_000]) {
      scene.issuer.shiftMs += shift
      await becomesLive(verify)
      await expect.poll(async () => decided(verify, await scene.issuer.jwt()), { timeout: 10_000 }).toBe('200')
      const iat = Math.floor(scene.issuer.now() / 1000) - 700
      const over = await scene.issuer.jwt({ iat, exp: iat + 600 })
      await expect.poll(() => decided(verify, over), { timeout: 10_000 }).toBe('401 ERR_JWT_EXPIRED')
    }
  })

  it('a first connection that takes long does not make all later words look old', async () => {
    scene.issuer.onFeed = (request, response) => {
      const accept = request.headers.accept
      if (accept !== 'text/event-stream') return json(response, scene.issuer.message())
      setTimeout(() => {
        response.writeHead(200, { 'content-type': 'text/event-stream' })
        send(response, scene.issuer.message({ snapshot: true, key: 'k' }))
        const beat = setInterval(() => send(response, scene.issuer.message()), 100)
        response.once('close', () => clearInterval(beat))
      }, 1_500)
    }
    const verify = scene.begin()
    await becomesLive(verify)
    expect(await decided(verify, await scene.issuer.jwt())).toBe('200')
  })

  it('tolerates no more than an entry of the list outlives a JWT by', () => {
    for (const clockToleranceSeconds of [61, -1, Number.NaN])
      expect(() => openVerifier(scene.issuer, { clockToleranceSeconds })).toThrow(TypeError)
  })
})

describe('another list', () => {
  it('takes the place of the one before as soon as it is whole', async () => {
    const verify = await open()
    const jwt = await scene.issuer.jwt()
    scene.issuer.end('ws_1', { suspended: true })
    await expect.poll(() => decided(verify, jwt)).toBe('401 ended')
    scene.issuer.replaceList('second')
    scene.issuer.cutStreams()
    await expect.poll(() => decided(verify, jwt), { timeout: 10_000 }).toBe('200')
    scene.issuer.end('con_1', { closed: true })
    await expect.poll(() => decided(verify, jwt), { timeout: 10_000 }).toBe('401 ended')
  })

  it('that goes on without beginning is not believed: it is read from its start', async () => {
    const verify = await open()
    const jwt = await scene.issuer.jwt()
    scene.issuer.end('con_1', { closed: true })
    const list = scene.issuer.entries()
    await expect.poll(() => decided(verify, jwt)).toBe('401 ended')
    scene.issuer.replaceList('second', list) // and the stream goes on with it
    const cursors = () => scene.issuer.asked.filter(({ path }) => path === '/revocations').map(({ cursor }) => cursor)
    await expect.poll(cursors, { timeout: 10_000 }).toEqual([null, null])
    await becomesLive(verify)
    expect(await decided(verify, jwt)).toBe('401 ended')
  })

  it('that was replaced before is not believed again, nor is one that ends before what is known', async () => {
    const verify = await open()
    scene.issuer.end('con_1', { closed: true })
    const jwt = await scene.issuer.jwt()
    await expect.poll(() => decided(verify, jwt)).toBe('401 ended')

    scene.issuer.replaceList('first') // a process that is behind: it has not read the end yet
    scene.issuer.cutStreams()
    await becomesLive(verify, false)
    expect(await undecided(verify, jwt)).toMatch(/^503/)
    scene.issuer.replaceList('second')
    scene.issuer.end('con_1', { closed: true })
    scene.issuer.cutStreams()
    await becomesLive(verify)
    expect(await decided(verify, jwt)).toBe('401 ended')

    scene.issuer.replaceList('first') // a process that is left at the database before
    scene.issuer.cutStreams()
    await becomesLive(verify, false)
    expect(await undecided(verify, jwt)).toMatch(/^503/)
  })

  it('is not waited for by the one that is known: a process that is still loading changes nothing', async () => {
    const verify = await open()
    scene.issuer.end('con_1', { closed: true })
    const jwt = await scene.issuer.jwt()
    await expect.poll(() => decided(verify, jwt)).toBe('401 ended')
    scene.issuer.onFeed = (_request, response) => {
      const { complete_as_of: _whole, ...rest } = scene.issuer.message()
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      send(response, { ...rest, epoch: '', snapshot: true, key: '' })
    }
    scene.issuer.cutStreams()
    await expect.poll(() => verify.isLive(), { timeout: 10_000 }).toBe(false)
    expect(await undecided(verify, jwt)).toMatch(/^503/)
    scene.issuer.onFeed = undefined
    scene.issuer.cutStreams()
    await becomesLive(verify)
    expect(await decided(verify, jwt)).toBe('401 ended')
  })
})

describe('where no stream comes through', () => {
  const throughPolls = (request: { headers: { accept?: string | undefined } }) =>
    request.headers.accept !== 'text/event-stream'

  it.each([
    ['a proxy that holds it back', (response: import('node:http').ServerResponse) => void response.writeHead(200)],
    [
      'a gateway that answers something else',
      (response: import('node:http').ServerResponse) => json(response, { hello: 'world' }),
    ],
  ])('polls instead: %s', async (_name, answer) => {
    scene.issuer.onFeed = (request, response) => {
      if (!throughPolls(request)) return answer(response)
      const cursor = new URL(request.url ?? '', 'http://issuer').searchParams.get('cursor')
      const entries = scene.issuer.entries().filter(({ seq }) => seq > Number(cursor?.split('.')[1] ?? 0))
      json(
        response,
        scene.issuer.message({
          entries,
          ...(cursor === null ? { snapshot: true, key: 'told to this API alone' } : {}),
        }),
      )
    }
    const verify = await open()
    await becomesLive(verify)
    const jwt = await scene.issuer.jwt()
    expect(await decided(verify, jwt)).toBe('200')
    scene.issuer.end('con_1', { closed: true })
    await expect.poll(() => decided(verify, jwt), { timeout: 10_000 }).toBe('401 ended')
    const streams = scene.issuer.asked.filter(({ accept }) => accept === 'text/event-stream')
    expect(streams).toHaveLength(1)
  })
})

describe('blind', () => {
  const cutOff = async (verify: Verifier) => {
    scene.issuer.onFeed = (_request, response) => void response.destroy()
    scene.issuer.onIntrospect = (_form, response) => void response.destroy()
    scene.issuer.cutStreams()
    await becomesLive(verify, false)
  }

  it('until-expiry: what was known to have ended stays ended, and what is over is over', async () => {
    const verify = await open({ whenBlind: 'until-expiry' })
    scene.issuer.end('con_ended', { closed: true })
    const iat = Math.floor(scene.issuer.now() / 1000)
    const [good, ended, short] = [
      await scene.issuer.jwt(),
      await scene.issuer.jwt({ credential_id: 'con_ended' }),
      await scene.issuer.jwt({ exp: iat + 30 }),
    ]
    await expect.poll(() => outcome(verify, ended)).toBe('401 ended')
    await cutOff(verify)
    expect(await outcome(verify, good)).toBe('200')
    expect(await outcome(verify, short)).toBe('200')
    expect(await outcome(verify, ended)).toBe('401 ended')
    shiftClocks({ monotonic: 60_000, wall: -HOUR_MS })
    expect(await outcome(verify, good)).toBe('200')
    expect(await outcome(verify, short)).toMatch(/^401/)
  })

  it('until-expiry is for an issuer that is away, not for one that refuses to answer this API', async () => {
    const verify = await open({ whenBlind: 'until-expiry' })
    const jwt = await scene.issuer.jwt()
    await cutOff(verify)
    for (const [status, expected] of [
      [401, /^503/],
      [403, /^503/],
      [500, /^200/],
      [429, /^200/],
    ] as const) {
      scene.issuer.onIntrospect = (_form, response) => void response.writeHead(status).end()
      expect(await outcome(verify, jwt)).toMatch(expected)
    }
  })
})

// Workspace tokens in the verifier: what may be remembered, for how long, and what a flood of them may cost.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, it, vi } from 'vitest'
import { newToken } from '../../src/crypto/token-value.ts'
import { becomesLive, json, outcome, useIssuer } from './issuer.ts'

const MINUTE_MS = 60_000
const scene = useIssuer()
const { open, waitLong } = scene

const introspections = () => scene.issuer.count('/introspect')

it('is asked about again when five minutes are over, though nothing was said about it', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  for (let use = 0; use < 3; use++) expect(await outcome(verify, token)).toBe('200')
  expect(introspections()).toBe(1)
  await waitLong(verify, 5 * MINUTE_MS + 1_000)
  expect(await outcome(verify, token)).toBe('200')
  expect(introspections()).toBe(2)
})

it('is asked about again after a long sleep of the machine, in which one of its clocks stood still', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  expect(await outcome(verify, token)).toBe('200')
  const wall = Date.now
  vi.spyOn(Date, 'now').mockImplementation(() => wall.call(Date) + 70 * MINUTE_MS)
  scene.issuer.shiftMs += 70 * MINUTE_MS
  await becomesLive(verify)
  expect(await outcome(verify, token)).toBe('200')
  expect(introspections()).toBe(2)
})

it('what one caller does to its answer is not what the next one gets', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  const first = await verify(`Bearer ${token}`)
  ;(first.scopes as Set<string>).add('manage')
  expect((await verify(`Bearer ${token}`)).scopes.has('manage')).toBe(false)
})

it('an end that is so long ago that its entry was forgotten still is one', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  expect(await outcome(verify, token)).toBe('200')
  scene.issuer.end('key_1', { closed: true })
  scene.issuer.onIntrospect = (_form, response) => json(response, { active: false })
  await waitLong(verify, 70 * MINUTE_MS)
  scene.issuer.replaceList(scene.issuer.epoch, []) // the issuer has forgotten it, too
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(await outcome(verify, token)).toMatch(/^401/)
})

it('is asked about again whenever anything is said about it, its workspace or everything', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  expect(await outcome(verify, token)).toBe('200')
  for (const subject of ['key_1', 'ws_1', 'everything']) {
    const before = introspections()
    scene.issuer.end(subject, {})
    await expect
      .poll(async () => (await outcome(verify, token)) === '200' && introspections(), { timeout: 5_000 })
      .toBeGreaterThan(before)
  }
})

it('an answer that may come from a process that has not heard yet is used once, and not kept', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  scene.issuer.end('ws_1', {}) // the feed's process knows, another one may need a second
  await new Promise((resolve) => setTimeout(resolve, 300))
  for (let use = 0; use < 3; use++) expect(await outcome(verify, token)).toBe('200')
  expect(introspections()).toBe(3)
  await expect
    .poll(
      async () => {
        const before = introspections()
        for (let use = 0; use < 2; use++) await outcome(verify, token)
        return introspections() - before
      },
      { timeout: 10_000, interval: 100 },
    )
    .toBe(0)
})

it('what was learned from another list is forgotten with it', async () => {
  const verify = await open()
  for (let index = 0; index < 20; index++) scene.issuer.end(`con_${index}`, { closed: true })
  const token = scene.issuer.token()
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  expect(await outcome(verify, token)).toBe('200')
  scene.issuer.onIntrospect = (_form, response) => json(response, { active: false })
  scene.issuer.replaceList('second') // its seq begin anew, and its fourth is about this workspace
  for (let index = 0; index < 3; index++) scene.issuer.end(`con_${index}`, { closed: true })
  scene.issuer.end('ws_1', {})
  scene.issuer.cutStreams()
  await expect.poll(() => outcome(verify, token), { timeout: 5_000 }).toMatch(/^401/)
})

it('each address that it comes from is asked about once, and remembered beside the others', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  for (let round = 0; round < 3; round++)
    for (const clientIp of ['192.0.2.1', '192.0.2.2', undefined])
      expect(await outcome(verify, token, { clientIp })).toBe('200')
  expect(introspections()).toBe(3)
})

it('a mistyped value is refused without asking', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  const last = token.endsWith('a') ? 'b' : 'a'
  for (const value of [token.slice(0, -1), `${token}x`, token.slice(0, -1) + last, token.toLowerCase(), 'tid_ws_'])
    expect(await outcome(verify, value)).toMatch(/^401/)
  expect(introspections()).toBe(0)
  for (let made = 0; made < 50; made++) expect(await outcome(verify, scene.issuer.token())).toBe('200')
})

it('many requests at once with a value that is not known yet ask once', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  const answers = await Promise.all(Array.from({ length: 100 }, () => outcome(verify, token)))
  expect(new Set(answers)).toEqual(new Set(['200']))
  expect(introspections()).toBe(1)
})

it('what one request does to what it was told does not reach another', async () => {
  const verify = await open()
  const token = scene.issuer.token()
  await verify(`Bearer ${token}`)
  const first = await verify(`Bearer ${token}`)
  ;(first.scopes as Set<string>).add('admin') // read-only by its type alone
  first.workspaceId = 'ws_2'
  const second = await verify(`Bearer ${token}`)
  expect([...second.scopes]).toEqual(['read'])
  expect(second.workspaceId).toBe('ws_1')
})

it('a token that is good at another API is not at this one', async () => {
  const verify = await open()
  const token = scene.issuer.token({ aud: 'https://other.example.com' })
  expect(await outcome(verify, token)).toBe('401 for another API')
  expect(await outcome(verify, scene.issuer.token({ environment: 'staging' }))).toBe('401 for another environment')
})

it('expires by the issuer’s time, also from memory', async () => {
  const verify = await open()
  const token = scene.issuer.token({ exp: Math.floor(scene.issuer.now() / 1000) + 60 })
  expect(await outcome(verify, token)).toBe('200')
  expect(await outcome(verify, token)).toBe('200')
  scene.issuer.onIntrospect = (_form, response) => json(response, { active: false })
  await waitLong(verify, 61_000)
  expect(await outcome(verify, token)).toMatch(/^401/)
})

it('a flood of values that nobody knows is bounded in memory, and in what is asked at once', async () => {
  setFlagsFromString('--expose-gc')
  const collect: () => void = runInNewContext('gc')
  const verify = await open()
  const good = scene.issuer.token()
  const goodJwt = await scene.issuer.jwt()
  await verify(`Bearer ${good}`)
  await verify(`Bearer ${goodJwt}`)
  scene.issuer.onIntrospect = (_form, response) => void setTimeout(() => json(response, { active: false }), 50)
  const flood = async () => {
    const values = Array.from({ length: 1_500 }, () => newToken('workspace').value.reveal())
    const [head, payload] = goodJwt.split('.')
    const jwts = Array.from({ length: 1_500 }, (_, index) => `${head}.${payload}.${index}`)
    return Promise.all([...values, ...jwts].map((value) => outcome(verify, value)))
  }
  await flood()
  collect()
  const before = process.memoryUsage().heapUsed
  for (let round = 0; round < 4; round++) {
    const answers = await flood()
    expect(answers.every((answer) => /^(401|503)/.test(answer))).toBe(true)
    expect(await outcome(verify, good)).toBe('200')
    expect(await outcome(verify, goodJwt)).toBe('200')
  }
  collect()
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(20 * 1024 * 1024)
  expect(scene.issuer.mostAtOnce).toBeLessThanOrEqual(200)
  expect(scene.issuer.mostAtOnce).toBeGreaterThan(1)
})

it('every use is told, also of more credentials than are counted at once', async () => {
  const verify = await open()
  const jwts = await Promise.all(
    Array.from({ length: 1_500 }, (_, index) => scene.issuer.jwt({ credential_id: `con_${index}` })),
  )
  await becomesLive(verify)
  for (const jwt of jwts) await verify(`Bearer ${jwt}`)
  await verify.close()
  expect(new Set(scene.issuer.reports.map((report) => report.credential_id)).size).toBe(1_500)
  expect(scene.issuer.reports.reduce((sum, report) => sum + report.uses, 0)).toBe(1_500)
})
